//! What the log says of paused destinations: each once, and then every 30 s how its transport stands, while it lasts.
//!
//! However many destinations a transport has and however often they come and go, at most [`NAMED_MAX`] are named by a line of
//! their own per 30 s; the rest is a number in the next reminder. Pure: the caller passes the time.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::health::Paused;
use crate::repeat::REPEAT_INTERVAL;

/// Destinations of a transport that get a line of their own within 30 s.
const NAMED_MAX: usize = 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    by_transport: BTreeMap<String, Said>,
}

/// What was said of a transport since `from`.
#[derive(Debug)]
struct Said {
    from: Instant,
    named: BTreeSet<String>,
    /// Whom a reader of the log believes paused.
    believed: BTreeSet<String>,
    unsaid: u64,
}

/// How a transport stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reminder {
    pub(super) transport: String,
    /// Destinations paused now.
    pub(super) paused: usize,
    /// Pauses that had no line of their own since the last reminder.
    pub(super) unsaid: u64,
    /// The one paused for longest.
    pub(super) first: Option<(String, Paused)>,
}

impl Pauses {
    /// `destination` was paused. Whether to say so now.
    pub(super) fn paused(&mut self, transport: &str, destination: &str, now: Instant) -> bool {
        let said = self.by_transport.entry(transport.to_owned()).or_insert_with(|| Said {
            from: now,
            named: BTreeSet::new(),
            believed: BTreeSet::new(),
            unsaid: 0,
        });
        if said.named.len() >= NAMED_MAX || said.named.contains(destination) {
            said.unsaid += 1;
            return false;
        }
        said.named.insert(destination.to_owned());
        said.believed.insert(destination.to_owned());
        true
    }

    /// `destination` takes messages again. Whether to say so: a reader believes it paused.
    pub(super) fn recovered(&mut self, transport: &str, destination: &str) -> bool {
        let said = self.by_transport.get_mut(transport);
        said.is_some_and(|said| said.believed.remove(destination))
    }

    /// What is to be said by now. `paused` is everything that is paused.
    pub(super) fn reminders(&mut self, now: Instant, paused: &BTreeMap<(String, String), Paused>) -> Vec<Reminder> {
        let mut reminders = Vec::new();
        self.by_transport.retain(|transport, said| {
            if now.saturating_duration_since(said.from) < REPEAT_INTERVAL {
                return true;
            }
            let of_it = paused.iter().filter(|((name, _), _)| name == transport);
            let first = of_it.clone().min_by_key(|(_, paused)| paused.since);
            let first = first.map(|((_, destination), paused)| (destination.clone(), paused.clone()));
            if first.is_some() || said.unsaid > 0 {
                reminders.push(Reminder {
                    transport: transport.clone(),
                    paused: of_it.count(),
                    unsaid: std::mem::take(&mut said.unsaid),
                    first: first.clone(),
                });
            }
            said.from = now;
            said.named.clear();
            said.believed
                .retain(|destination| paused.contains_key(&(transport.clone(), destination.clone())));
            if let Some((destination, _)) = first {
                said.named.insert(destination.clone());
                said.believed.insert(destination);
                true
            } else {
                false
            }
        });
        reminders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn state(names: &[&str], since: Instant) -> BTreeMap<(String, String), Paused> {
        let entry = |name: &&str| {
            let error = "away".to_owned();
            (("main".to_owned(), (*name).to_owned()), Paused { since, error })
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn a_lasting_pause_is_said_once_and_then_every_half_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let paused = state(&["orders"], start);
        let mut pauses = Pauses::default();
        assert!(pauses.paused("main", "orders", at(0)));
        assert_eq!(pauses.reminders(at(29), &paused), []);
        let reminders = pauses.reminders(at(30), &paused);
        assert_eq!((reminders.len(), reminders[0].paused, reminders[0].unsaid), (1, 1, 0));
        assert_eq!(pauses.reminders(at(31), &paused), []);
        assert_eq!(pauses.reminders(at(61), &paused).len(), 1);
        assert!(pauses.recovered("main", "orders"), "its end is said");
        assert_eq!(pauses.reminders(at(100), &state(&[], start)), []);
        assert!(pauses.paused("main", "orders", at(101)), "the next one is said at once");
    }

    #[test]
    fn one_that_comes_and_goes_is_counted() {
        let start = Instant::now();
        let mut pauses = Pauses::default();
        for round in 0..20 {
            let said = pauses.paused("main", "orders", start + Duration::from_secs(round));
            assert_eq!(said, round == 0, "{round}");
            assert_eq!(pauses.recovered("main", "orders"), round == 0, "{round}");
        }
        let reminders = pauses.reminders(start + Duration::from_secs(30), &state(&[], start));
        assert_eq!((reminders[0].paused, reminders[0].unsaid), (0, 19));
        assert_eq!(reminders[0].first, None);
    }

    #[test]
    fn ten_thousand_destinations_are_ten_lines_and_a_number() {
        let start = Instant::now();
        let mut pauses = Pauses::default();
        let names: Vec<String> = (0..10_000).map(|n| format!("d{n}")).collect();
        let said = names.iter().filter(|name| pauses.paused("main", name, start)).count();
        assert_eq!(said, NAMED_MAX);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let reminders = pauses.reminders(start + Duration::from_secs(30), &state(&names, start));
        assert_eq!(
            (reminders.len(), reminders[0].paused, reminders[0].unsaid),
            (1, 10_000, 9_990)
        );
        let ends = names.iter().filter(|name| pauses.recovered("main", name)).count();
        assert!(ends <= NAMED_MAX + 1, "{ends}");
    }
}
