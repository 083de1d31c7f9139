//! A set of lanes.

use super::Lane;

/// Some of the lanes of an outbox, as a bit mask: the form in which statements take it. Bit `lane % 8` of byte `lane / 8`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LaneSet {
    mask: Vec<u8>,
}

impl LaneSet {
    /// These lanes.
    #[must_use]
    pub fn of(lanes: impl IntoIterator<Item = Lane>) -> Self {
        let mut set = Self::default();
        for lane in lanes {
            set.insert(lane);
        }
        set
    }

    /// Adds a lane.
    pub fn insert(&mut self, lane: Lane) {
        let byte = usize::from(lane / 8);
        if self.mask.len() <= byte {
            self.mask.resize(byte + 1, 0);
        }
        self.mask[byte] |= 1 << (lane % 8);
    }

    /// Takes a lane out.
    pub fn remove(&mut self, lane: Lane) {
        if let Some(byte) = self.mask.get_mut(usize::from(lane / 8)) {
            *byte &= !(1 << (lane % 8));
        }
    }

    /// Whether a lane is among them.
    #[must_use]
    pub fn contains(&self, lane: Lane) -> bool {
        self.mask
            .get(usize::from(lane / 8))
            .is_some_and(|byte| byte & (1 << (lane % 8)) != 0)
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mask.iter().all(|byte| *byte == 0)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mask.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// The mask, wide enough for an outbox of `lanes` lanes.
    #[must_use]
    pub fn mask(&self, lanes: Lane) -> Vec<u8> {
        let mut mask = self.mask.clone();
        mask.resize(mask.len().max(usize::from(lanes).div_ceil(8)), 0);
        mask
    }
}

impl std::fmt::Debug for LaneSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries((0..=Lane::MAX).filter(|lane| self.contains(*lane)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_come_and_go() {
        let mut set = LaneSet::of([0, 9, 63]);
        assert_eq!((set.len(), set.contains(9), set.contains(8)), (3, true, false));
        set.remove(9);
        set.remove(1_000);
        assert_eq!(format!("{set:?}"), "{0, 63}");
        assert_eq!(set.mask(64), [1, 0, 0, 0, 0, 0, 0, 128]);
        assert_eq!(LaneSet::default().mask(9), [0, 0]);
        assert!(LaneSet::default().is_empty() && !set.is_empty());
    }
}
