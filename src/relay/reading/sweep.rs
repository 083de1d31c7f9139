//! The sweep: what is pending at or below the cursor is looked for now and then, and at once when something calls for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;

/// Walks that are only a net take at most this part of the time.
const NET_SHARE: u32 = 100;
/// ... and pause for so long at most, however long the last one took.
const NET_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Sweeps that something calls for come this far apart.
const CALM: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Sweep {
    at: Instant,
    /// Where the sweep under way stands; `None`: the next one begins.
    after: Option<Seq>,
    interval: Duration,
    /// The sweep under way began before something called for one: another follows.
    again: bool,
    /// None is called for before: a strange trigger must not make a loop.
    calm_until: Instant,
    /// Settlements were refused for want of a lane: one is called for when the lease is renewed.
    when_renewed: bool,
}

impl Sweep {
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            at: now + interval,
            after: None,
            interval,
            again: false,
            calm_until: now,
            when_renewed: false,
        }
    }

    /// The store was opened anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.after = None;
        self.at = now + self.interval;
        self.again = false;
    }

    /// When its next page is due.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// The next page is asked for: what it begins after; `None`: at the beginning.
    pub(crate) fn begin(&mut self) -> Option<Seq> {
        if self.after.is_none() {
            self.again = false;
        }
        self.after
    }

    /// What was sent is no longer what stands under its number: the table may have been emptied, or exchanged. Looks again from the
    /// beginning, at once, but not more often than every second.
    pub(crate) fn soon(&mut self, now: Instant) {
        self.again = true;
        self.at = self.at.min(now.max(self.calm_until));
        self.calm_until = self.at + CALM;
    }

    /// As [`Self::soon`], once the lease is renewed.
    pub(crate) fn soon_when_renewed(&mut self) {
        self.when_renewed = true;
    }

    /// The lease is renewed: whether that calls for a sweep.
    pub(crate) fn renewed(&mut self, now: Instant) -> bool {
        let calls = std::mem::take(&mut self.when_renewed);
        if calls {
            self.soon(now);
        }
        calls
    }

    /// A page was read, which took so long. `upto`: how far; `None`: to the end.
    pub(crate) fn read(&mut self, upto: Option<Seq>, took: Duration, now: Instant) {
        let pause = if upto.is_some() { Duration::ZERO } else { self.interval };
        self.after = upto;
        self.at = now + pause.max((took * NET_SHARE).min(NET_PAUSE_MAX));
        if upto.is_none() && self.again {
            self.at = self.at.min(now.max(self.calm_until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_goes_through_all_and_then_rests() {
        let now = Instant::now();
        let mut sweep = Sweep::new(30 * SECOND, now);
        assert_eq!((sweep.at(), sweep.begin()), (now + 30 * SECOND, None));
        sweep.read(Some(Seq(7)), Duration::ZERO, now);
        assert_eq!((sweep.at(), sweep.begin()), (now, Some(Seq(7))));
        sweep.read(None, Duration::ZERO, now);
        assert_eq!((sweep.at(), sweep.begin()), (now + 30 * SECOND, None));
    }

    #[test]
    fn a_slow_one_rests_longer_but_the_net_is_not_taken_away() {
        let now = Instant::now();
        let mut sweep = Sweep::new(30 * SECOND, now);
        sweep.read(Some(Seq(7)), SECOND, now);
        assert_eq!(sweep.at(), now + 100 * SECOND);
        sweep.read(Some(Seq(8)), 3_600 * SECOND, now);
        assert_eq!(sweep.at(), now + NET_PAUSE_MAX);
    }

    #[test]
    fn what_calls_for_one_gets_it_at_once_but_not_in_a_loop() {
        let now = Instant::now();
        let mut sweep = Sweep::new(30 * SECOND, now);
        sweep.soon(now);
        assert_eq!(sweep.at(), now);
        sweep.begin();
        sweep.soon(now);
        sweep.read(None, Duration::ZERO, now);
        assert_eq!(sweep.at(), now + CALM, "one that began before follows");
    }

    #[test]
    fn a_lost_lane_calls_for_one_when_the_lease_is_renewed() {
        let now = Instant::now();
        let mut sweep = Sweep::new(30 * SECOND, now);
        assert!(!sweep.renewed(now));
        sweep.soon_when_renewed();
        assert!(sweep.renewed(now) && !sweep.renewed(now));
        assert_eq!(sweep.at(), now);
    }
}
