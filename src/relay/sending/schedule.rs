//! When a transport's paused destinations are looked at. However many there are, the broker is asked a bounded number of questions
//! a second: those asked least often so far, the latest first, and those that have waited longest take turns.
//!
//! So a destination paused just now is not queued behind ten thousand that have been dead for days, and these are not
//! forgotten either. What gets through at one destination is a reason to try others of its transport (see `probing`): then
//! an outage of all ends for all within seconds.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::relay::waiting::found::DestinationId;

/// Looks a second, by each instance at each transport.
const RATE: f64 = 16.0;
/// Looks at once.
const BURST: f64 = 4.0;
/// Looks under way at once: a broker that hangs answers none.
const UNDER_WAY: usize = 8;
/// So many of those asked least often are looked through for one whose time has come.
const LOOKED_THROUGH: usize = 16;

/// A paused destination that is not being looked at: how often in vain so far, and not before when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) looks: u32,
    pub(super) at: Instant,
    pub(super) id: DestinationId,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    by_time: BTreeSet<(Instant, DestinationId, u32)>,
    by_looks: BTreeSet<(u32, Reverse<Instant>, DestinationId)>,
    tokens: f64,
    counted_at: Instant,
    under_way: usize,
    longest_next: bool,
}

impl Schedule {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_looks: BTreeSet::new(),
            tokens: BURST,
            counted_at: now,
            under_way: 0,
            longest_next: false,
        }
    }

    pub(super) fn insert(&mut self, waiting: Waiting) {
        let Waiting { looks, at, id } = waiting;
        self.by_time.insert((at, id, looks));
        self.by_looks.insert((looks, Reverse(at), id));
    }

    fn remove(&mut self, waiting: Waiting) {
        let Waiting { looks, at, id } = waiting;
        self.by_time.remove(&(at, id, looks));
        self.by_looks.remove(&(looks, Reverse(at), id));
    }

    /// Takes one that may be looked at now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<DestinationId> {
        let (longest, id, looks) = *self.by_time.first()?;
        if longest > now || !self.spend(now) {
            return None;
        }
        self.longest_next = !self.longest_next;
        let least = || {
            let mut first = self.by_looks.iter().take(LOOKED_THROUGH);
            first.find(|(_, Reverse(at), _)| *at <= now).copied()
        };
        let chosen = match least() {
            Some((looks, Reverse(at), id)) if self.longest_next => Waiting { looks, at, id },
            Some(_) | None => Waiting { looks, at: longest, id },
        };
        self.remove(chosen);
        Some(chosen.id)
    }

    /// Whether one more question may be asked now; counts it then, until [`Self::answered`].
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.counted_at = now;
        let may = self.tokens >= 1.0 && self.under_way < UNDER_WAY;
        if may {
            self.tokens -= 1.0;
            self.under_way += 1;
        }
        may
    }

    /// A question was answered, or timed out.
    pub(super) fn answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Takes the one that has waited longest, whether or not its time has come.
    pub(super) fn take_longest(&mut self) -> Option<DestinationId> {
        let (at, id, looks) = *self.by_time.first()?;
        self.remove(Waiting { looks, at, id });
        Some(id)
    }

    /// When the next look is due; `None`: nobody waits for one, or the next answer comes first.
    pub(super) fn next(&self) -> Option<Instant> {
        let (at, ..) = self.by_time.first().filter(|_| self.under_way < UNDER_WAY)?;
        let missing = (1.0 - self.tokens).max(0.0);
        let allowed = self.counted_at + std::time::Duration::from_secs_f64(missing / RATE);
        Some(allowed.max(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    /// Looks at `count` dead destinations for `seconds`; from the middle on at one more. Answers how often each was looked at, and
    /// when the late one first was.
    fn play(count: usize, seconds: u64) -> (BTreeMap<usize, usize>, Duration) {
        let start = Instant::now();
        let (end, half) = (
            start + Duration::from_secs(seconds),
            start + Duration::from_secs(seconds) / 2,
        );
        let mut schedule = Schedule::new(start);
        let mut looks = BTreeMap::<usize, usize>::new();
        for id in 0..count {
            let (id, at) = (DestinationId(id), start + 175 * MS);
            schedule.insert(Waiting { looks: 0, at, id });
        }
        let (mut now, mut late, mut seen) = (start, DestinationId(count), Duration::MAX);
        while now < end {
            if now >= half && late.0 == count {
                schedule.insert(Waiting {
                    looks: 0,
                    at: now,
                    id: late,
                });
                late = DestinationId(count + 1);
            }
            while let Some(id) = schedule.take_due(now) {
                if id.0 == count {
                    seen = seen.min(now - half);
                }
                let seen = looks.entry(id.0).or_default();
                *seen += 1;
                let looks = u32::try_from(*seen).unwrap();
                schedule.answered();
                let at = now + 700 * MS;
                schedule.insert(Waiting { looks, at, id });
            }
            now = schedule.next().map_or(end, |next| next.max(now + MS));
        }
        (looks, seen)
    }

    #[test]
    fn few_are_looked_at_as_often_as_may_be() {
        let (looks, late) = play(3, 10);
        assert!(looks[&0] >= 13, "{looks:?}");
        assert!(late < 100 * MS, "{late:?}");
    }

    #[test]
    fn many_share_a_budget_and_a_late_one_is_not_queued_behind_them() {
        let (looks, late) = play(20_000, 100);
        let all: usize = looks.values().sum();
        assert!((1_500..=1_604).contains(&all), "{all}");
        assert!(late < 500 * MS, "{late:?}");
        let (looks, _) = play(100, 100);
        assert!(
            looks[&0] >= 10 && looks.len() == 101,
            "everybody's turn comes: {looks:?}"
        );
    }

    #[test]
    fn a_broker_that_hangs_is_asked_a_few_times_at_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        for id in 0..100 {
            let id = DestinationId(id);
            schedule.insert(Waiting { looks: 0, at: now, id });
        }
        let asked = (0..1_000)
            .filter(|n| schedule.take_due(now + *n * 100 * MS).is_some())
            .count();
        assert_eq!(asked, UNDER_WAY);
        assert_eq!(schedule.next(), None, "an answer comes first");
        schedule.answered();
        assert!(schedule.take_due(now + Duration::from_secs(200)).is_some());
    }
}
