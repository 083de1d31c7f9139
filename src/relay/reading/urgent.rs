//! The look for rows with a priority, while there is something for them to overtake.
//!
//! Each look begins with the highest priority and sees everything in one snapshot: what it brings is in order by itself, whatever
//! earlier ones found. So there is no place to go on from; topics of which nothing can be sent now are left out for a while
//! instead, where they would fill it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// A look brings so many rows at most.
pub(crate) const URGENT_ROWS: usize = 1_000;
/// While looks find nothing, the pause between them grows up to this.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// They rest so many times as long as the last one took.
const REST: u32 = 10;
/// ... and so long at most; while rows are expected, one look that the machine made slow must not keep the next.
const REST_MAX: Duration = Duration::from_secs(5);
const REST_MAX_EXPECTED: Duration = Duration::from_millis(500);
/// Rows are expected for so long after the last ones.
const EXPECTED_FOR: Duration = Duration::from_secs(60);
/// Topics are left out for so long.
const LEFT_OUT_FOR: Duration = Duration::from_secs(1);
/// ... so many at most.
const LEFT_OUT_MAX: usize = 1_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct UrgentLook {
    at: Instant,
    pause_min: Duration,
    pause: Duration,
    left_out: BTreeSet<Arc<str>>,
    left_out_until: Instant,
    /// When there were some last.
    seen: Option<Instant>,
}

/// What a look has brought.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// There were rows.
    pub(crate) any: bool,
    /// Some of them found the window full.
    pub(crate) no_room: bool,
    /// Rows that were let in.
    pub(crate) queued: usize,
    /// There may be more of them.
    pub(crate) full: bool,
    /// Topics of rows whose topic or destination takes nothing now.
    pub(crate) shut: Vec<Arc<str>>,
}

impl UrgentLook {
    pub(crate) fn new(pause_min: Duration, now: Instant) -> Self {
        Self {
            at: now,
            pause_min,
            pause: pause_min,
            left_out: BTreeSet::new(),
            left_out_until: now,
            seen: None,
        }
    }

    /// When the next look is due.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// It is asked for: the topics it leaves out.
    pub(crate) fn begin(&mut self, now: Instant) -> Vec<Arc<str>> {
        if now >= self.left_out_until {
            self.left_out.clear();
            self.left_out_until = now + LEFT_OUT_FOR;
        }
        self.left_out.iter().cloned().collect()
    }

    /// Whether others are to be expected, since there were some lately.
    pub(crate) fn are_expected(&self, now: Instant) -> bool {
        self.seen.is_some_and(|seen| now < seen + EXPECTED_FOR)
    }

    /// It was answered, after so long.
    pub(crate) fn read(&mut self, found: Found, took: Duration, now: Instant) {
        if found.any {
            self.seen = Some(now);
        }
        let left_out = self.left_out.len();
        if found.full {
            self.left_out.extend(found.shut);
            while self.left_out.len() > LEFT_OUT_MAX {
                self.left_out.pop_last();
            }
        }
        self.pause = if found.queued > 0 || found.no_room || self.left_out.len() > left_out {
            self.pause_min
        } else {
            (self.pause * 3 / 2).min(PAUSE_MAX.max(self.pause_min))
        };
        let most = if self.are_expected(now) {
            REST_MAX_EXPECTED
        } else {
            REST_MAX
        };
        self.at = now + self.pause.max((took * REST).min(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_slows_down_while_there_are_none_and_rests() {
        let now = Instant::now();
        let mut look = UrgentLook::new(10 * MS, now);
        look.read(Found::default(), MS, now);
        assert_eq!(look.at(), now + 15 * MS);
        for _ in 0..9 {
            look.read(Found::default(), MS, now);
        }
        assert_eq!(look.at(), now + PAUSE_MAX);
        let found = Found {
            queued: 1,
            ..Found::default()
        };
        look.read(found, MS, now);
        assert_eq!(look.at(), now + 10 * MS);
        look.read(Found::default(), 40 * MS, now);
        assert_eq!(look.at(), now + 400 * MS, "a look that takes long is no burden");
        look.read(Found::default(), SECOND, now);
        assert_eq!(look.at(), now + REST_MAX);
        let seen = Found {
            any: true,
            ..Found::default()
        };
        look.read(seen, SECOND, now);
        assert_eq!(look.at(), now + REST_MAX_EXPECTED, "others may follow it");
    }

    #[test]
    fn topics_that_fill_it_are_left_out_for_a_while() {
        let now = Instant::now();
        let mut look = UrgentLook::new(10 * MS, now);
        assert!(look.begin(now).is_empty());
        let shut = || Found {
            any: true,
            no_room: false,
            queued: 0,
            full: true,
            shut: vec!["t".into()],
        };
        look.read(Found { full: false, ..shut() }, MS, now);
        assert!(look.begin(now).is_empty(), "there is room for others beside them");
        look.read(shut(), MS, now);
        assert_eq!(look.at(), now + 10 * MS, "others may follow them");
        assert_eq!(look.begin(now + MS), [Arc::from("t")]);
        assert!(look.begin(now + LEFT_OUT_FOR).is_empty());
        assert!(look.are_expected(now) && !look.are_expected(now + EXPECTED_FOR));
    }
}
