//! The outboxes of one process, as metrics, probes and systemd see them: together.
//!
//! Each outbox has a [`Telemetry`] of its own. With one that has no name, everything reads as if there were no outboxes at all;
//! else its name is the label `outbox` of every metric that is its own, and stands before what is said of it.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::Telemetry;
use super::health::Reason;

/// What ends an OpenMetrics text.
const END: &str = "# EOF\n";
/// Metrics that begin so are the process's, and the same in every text.
const OF_PROCESS: &str = "process_";

/// One outbox.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// What its relay reports.
    pub telemetry: Telemetry,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<[Seen]>);

impl Fleet {
    /// All outboxes of the process, at least one.
    #[must_use]
    pub fn new(outboxes: Vec<Seen>) -> Self {
        Self(outboxes.into())
    }

    /// In configuration order.
    pub fn iter(&self) -> impl Iterator<Item = &Seen> {
        self.0.iter()
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn encode_metrics(&self) -> String {
        let texts = self
            .0
            .iter()
            .map(|seen| (seen.name.as_deref(), seen.telemetry.encode_metrics()));
        let texts: Vec<_> = texts.collect();
        match texts.as_slice() {
            [(None, text)] => text.clone(),
            _ => merged(&texts),
        }
    }

    /// Ready when all are. See [`super::health::Health::readiness`].
    ///
    /// # Errors
    /// Every reason, with the outbox it is about.
    pub fn readiness(&self, max_age: Duration) -> Result<(), Vec<Reason>> {
        let mut reasons = Vec::new();
        for Seen { name, telemetry } in self.0.iter() {
            for reason in telemetry.health.readiness(max_age).err().unwrap_or_default() {
                let message = about(name.as_deref(), &reason.message);
                reasons.push(Reason { message, ..reason });
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Whether start-up is over: each outbox holds its lanes or stands by, or is one that cannot be relayed while others are.
    #[must_use]
    pub fn has_started(&self) -> bool {
        let standing: Vec<(bool, bool)> = self
            .0
            .iter()
            .map(|seen| seen.telemetry.health.facts())
            .map(|facts| (facts.lanes.is_some(), facts.database_error.is_some()))
            .collect();
        standing.iter().any(|(leased, _)| *leased) && standing.iter().all(|(leased, away)| *leased || *away)
    }

    /// Whether systemd may be told that all is well.
    #[must_use]
    pub fn watchdog_ok(&self) -> bool {
        self.0.iter().all(|seen| seen.telemetry.watchdog_ok())
    }

    /// One line for `systemctl status`: those that do not relay come first.
    #[must_use]
    pub fn status_line(&self) -> String {
        let of = |seen: &Seen| about(seen.name.as_deref(), &seen.telemetry.status_line());
        let (fine, others): (Vec<&Seen>, Vec<&Seen>) = self.0.iter().partition(|seen| {
            let facts = seen.telemetry.health.facts();
            facts.database_error.is_none() && facts.lanes.is_some()
        });
        others.into_iter().chain(fine).map(of).collect::<Vec<_>>().join(" | ")
    }
}

fn about(name: Option<&str>, text: &str) -> String {
    match name {
        Some(name) => format!("{name}: {text}"),
        None => text.to_owned(),
    }
}

/// A family of metrics: what announces it, and its samples.
#[derive(Default)]
struct Family {
    /// The text that announced it.
    first_in: usize,
    announced: String,
    samples: String,
}

/// One text of several, each family announced once, each sample with its outbox.
fn merged(texts: &[(Option<&str>, String)]) -> String {
    let mut families: Vec<Family> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, (name, text)) in texts.iter().enumerate() {
        let mut place = None;
        for line in text.lines().filter(|line| *line != END.trim_end()) {
            if let Some(rest) = line.strip_prefix("# ") {
                // "# TYPE name counter", "# HELP name text", "# UNIT name seconds": each begins or goes on with a family.
                let family = rest.split(' ').nth(1).unwrap_or_default();
                let at = *places.entry(family).or_insert_with(|| {
                    families.push(Family {
                        first_in: index,
                        ..Family::default()
                    });
                    families.len() - 1
                });
                if families[at].first_in == index {
                    families[at].announced.push_str(line);
                    families[at].announced.push('\n');
                }
                place = Some(at);
            } else if let Some(at) = place {
                sample(&mut families[at].samples, line, *name, index == 0);
            }
        }
    }
    let mut all = String::new();
    for family in &families {
        all.push_str(&family.announced);
        all.push_str(&family.samples);
    }
    all.push_str(END);
    all
}

/// A sample with the label of its outbox; the process's once, as it is.
fn sample(all: &mut String, line: &str, name: Option<&str>, is_first: bool) {
    if line.starts_with(OF_PROCESS) {
        if is_first {
            all.push_str(line);
            all.push('\n');
        }
        return;
    }
    let Some(name) = name else {
        all.push_str(line);
        all.push('\n');
        return;
    };
    // A name of a metric holds neither brace nor space; that of an outbox nothing that has to be escaped.
    let written = match line.find(['{', ' ']) {
        Some(at) if line[at..].starts_with('{') => {
            writeln!(all, "{}{{outbox=\"{name}\",{}", &line[..at], &line[at + 1..])
        }
        Some(at) => writeln!(all, "{}{{outbox=\"{name}\"}}{}", &line[..at], &line[at..]),
        None => Ok(()),
    };
    debug_assert!(written.is_ok(), "writing into a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Routes;
    use tokio::time::Instant;

    fn seen(name: &str) -> Seen {
        Seen {
            name: Some(name.into()),
            telemetry: Telemetry::new(&["main".into()], &Routes::default()),
        }
    }

    #[tokio::test]
    async fn each_family_is_announced_once_and_each_sample_says_whose_it_is() {
        let fleet = Fleet::new(vec![seen("orders"), seen("billing")]);
        fleet.0[1].telemetry.metrics.duplicate_acknowledged();
        let text = fleet.encode_metrics();
        for line in [
            "outboxd_duplicates_acknowledged_total{outbox=\"orders\"} 0",
            "outboxd_duplicates_acknowledged_total{outbox=\"billing\"} 1",
            "outboxd_messages_pending{outbox=\"billing\",state=\"held\"} 0",
            "outboxd_publish_latency_seconds_count{outbox=\"orders\",transport=\"main\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for announced in text.lines().filter(|line| line.starts_with("# TYPE")) {
            assert_eq!(text.lines().filter(|line| *line == announced).count(), 1, "{announced}");
        }
        assert_eq!(
            text.lines().filter(|line| line.starts_with("process_threads ")).count(),
            1
        );
        assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
        // A family's samples stand together.
        let mut closed: Vec<&str> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(!closed.contains(&name), "{name} comes again");
            closed.push(name);
        }
    }

    #[tokio::test]
    async fn without_names_nothing_is_added() {
        let telemetry = Telemetry::default();
        let fleet = Fleet::new(vec![Seen {
            name: None,
            telemetry: telemetry.clone(),
        }]);
        assert!(!fleet.encode_metrics().contains("outbox="));
        assert_eq!(fleet.status_line(), "starting");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_relayed_is_named_first_and_keeps_no_start_up() {
        let fleet = Fleet::new(vec![seen("orders"), seen("billing")]);
        let [orders, billing] = &*fleet.0 else { panic!() };
        orders.telemetry.health.database_up();
        orders.telemetry.health.lanes(64, 64);
        assert!(!fleet.has_started(), "nothing is known of billing");
        let gone = std::io::Error::other("schema billing does not exist");
        billing.telemetry.health.database_down(&gone, Instant::now());
        assert!(fleet.has_started());
        assert!(fleet.status_line().starts_with("billing: "), "{}", fleet.status_line());
        let reasons = fleet.readiness(Duration::from_secs(60)).unwrap_err();
        assert!(
            reasons.iter().all(|reason| reason.message.starts_with("billing: ")),
            "{reasons:?}"
        );
        assert!(fleet.watchdog_ok());
    }
}
