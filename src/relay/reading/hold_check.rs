//! Whether what is known of holders is true still. An operator may have discarded one, or retried it elsewhere: the database is
//! asked now and then. And rows may turn up that retry and are not known to hold their key: then all holds are read again.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;

use super::due::DUE_INTERVAL;

/// How often holders are checked against the database: an operator may have discarded one.
const INTERVAL: Duration = Duration::from_secs(1);
/// Holders of one question.
const CHECKED: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct HoldCheck {
    at: Instant,
    /// Holders up to here had their turn; `None`: the first ones are next.
    checked: Option<Seq>,
    /// Somebody else has written rows that retry.
    unknown: bool,
    read_at: Instant,
}

impl HoldCheck {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: now,
            checked: None,
            unknown: false,
            read_at: now,
        }
    }

    /// When holders are checked next.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// The holders to ask about now: the next ones of all, so that each has its turn however many there are. `past` answers up to so
    /// many holders past one.
    pub(crate) fn next(&mut self, past: impl FnOnce(Option<Seq>, usize) -> Vec<Seq>, now: Instant) -> Vec<Seq> {
        if now < self.at {
            return Vec::new();
        }
        self.at = now + INTERVAL;
        let seqs = past(self.checked, CHECKED);
        self.checked = seqs.last().copied().filter(|_| seqs.len() == CHECKED);
        seqs
    }

    /// A row has turned up that retries and is not known to hold its key.
    pub(crate) fn unknown_holder(&mut self) {
        self.unknown = true;
    }

    /// When all holds are read again, if they are.
    pub(crate) fn read_at(&self) -> Option<Instant> {
        self.unknown.then_some(self.read_at)
    }

    /// Whether all holds are to be read again now; says so once.
    pub(crate) fn take_unknown(&mut self, now: Instant) -> bool {
        let due = self.unknown && now >= self.read_at;
        if due {
            self.unknown = false;
            self.read_at = now + DUE_INTERVAL;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the holders 1 to `count`, those past one.
    fn holders(count: usize) -> impl Fn(Option<Seq>, usize) -> Vec<Seq> {
        move |past, most| {
            let all = (1..=i64::try_from(count).unwrap()).map(Seq);
            all.filter(|seq| past.is_none_or(|past| *seq > past))
                .take(most)
                .collect()
        }
    }

    #[test]
    fn each_holder_has_its_turn() {
        let mut now = Instant::now();
        let mut check = HoldCheck::new(now);
        let mut asked = Vec::new();
        for _ in 0..3 {
            let seqs = check.next(holders(CHECKED + 1), now);
            asked.push((seqs.len(), seqs[0]));
            assert_eq!(check.next(holders(1), now), [], "not twice at a time");
            now += INTERVAL;
        }
        let second = Seq(i64::try_from(CHECKED).unwrap() + 1);
        assert_eq!(asked, [(CHECKED, Seq(1)), (1, second), (CHECKED, Seq(1))]);
    }

    #[test]
    fn holds_are_read_again_once_a_second_at_most() {
        let now = Instant::now();
        let mut check = HoldCheck::new(now);
        assert!(!check.take_unknown(now) && check.read_at().is_none());
        check.unknown_holder();
        assert!(check.take_unknown(now) && !check.take_unknown(now));
        check.unknown_holder();
        assert!(!check.take_unknown(now));
        assert_eq!(check.read_at(), Some(now + DUE_INTERVAL));
    }
}
