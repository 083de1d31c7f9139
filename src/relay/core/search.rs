//! Where one row stands, for whoever asks: in memory, or in the database and what it waits for there. It only looks.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Message, Seq, shortened};
use crate::relay::inquiry::About;
use crate::relay::sending::lanes::{Entry, QueueId};
use crate::relay::waiting::found::DestinationId;
use crate::relay::waiting::wait::Wait;
use crate::store::Lane;
use crate::whereabouts::Whereabouts;

use super::course::Course;
use super::parts::Parts;
use super::setup::Setup;

/// Characters of a topic or a name that are shown: whoever inserts rows chooses them.
const SHOWN: usize = 200;

/// See the module.
pub(super) struct Search<'a> {
    pub(super) setup: &'a Setup,
    pub(super) parts: &'a Parts,
    pub(super) course: &'a Course,
}

impl Search<'_> {
    pub(super) fn find(&self, about: &About, now: Instant) -> Whereabouts {
        let message = &about.row.message;
        if let Some(lane) = self.parts.window.lane_of(message.seq) {
            return self.in_memory(lane, message, now);
        }
        if self.course.is_running() {
            return self.in_database(about, now);
        }
        if self.course.stopping {
            return Whereabouts::new(
                "stopping",
                "the instance that has its lane is stopping: another goes on, or its next start",
            );
        }
        let sentence = "the instance that has its lane is starting over, and reads everything that is pending then";
        Whereabouts::new("starting", sentence)
    }

    fn in_memory(&self, lane: Lane, message: &Message, now: Instant) -> Whereabouts {
        let (lanes, settler) = (&self.parts.sending.lanes, &self.parts.settler);
        if let Some((reason, detail)) = settler.stuck.trouble_of(message.seq) {
            let sentence = format!("what became of it cannot be written: {detail}");
            return Whereabouts::new("stuck", sentence).with_next(Some(reason.todo()));
        }
        if settler.is_writing(message.seq) {
            let sentence = "the broker has answered for it, and what became of it is being written";
            return Whereabouts::new("being_written", sentence);
        }
        if let Some((queue, entry)) = lanes.find(lane, message.seq) {
            return self.queued(queue, entry, now);
        }
        let queue = self.address(message).map(|(transport, _)| lanes.queue(lane, transport));
        let since = queue.and_then(|queue| lanes.in_flight_of(queue));
        let sentence = format!(
            "it was handed to {} {}, and the answer is awaited",
            self.place(message),
            ago(since, now)
        );
        Whereabouts::new("in_flight", sentence)
    }

    fn queued(&self, queue: QueueId, entry: &Entry, now: Instant) -> Whereabouts {
        let message = &entry.envelope.message;
        if self.parts.sending.destinations.get(entry.destination).is_open() {
            return self.waits(Wait::DestinationPaused, message, now);
        }
        if self.parts.sending.limits.keeps(entry.route, now) {
            return self.waits(Wait::RouteLimit, message, now);
        }
        let lanes = &self.parts.sending.lanes;
        let before = lanes.in_flight_of(queue).map_or_else(String::new, |since| {
            let since = ago(Some(since), now);
            format!(" behind others of its lane that were handed to the broker {since}")
        });
        Whereabouts::new("queued", format!("it is in memory, about to be sent{before}"))
    }

    fn in_database(&self, about: &About, now: Instant) -> Whereabouts {
        let About { row, waited } = about;
        let message = &row.message;
        let resolved = self.setup.routes.resolve(&message.topic, message.key.as_deref());
        let unroutable = resolved.as_ref().err().filter(|error| !error.is_missing);
        let unroutable = unroutable.map(|error| &*error.reason);
        if let Some(reason) = row.unreadable.as_deref().or(unroutable) {
            let reason = shortened(reason, SHOWN);
            let sentence = format!("it cannot be sent, and fails as soon as it is read: {reason}");
            return Whereabouts::new("rejected", sentence);
        }
        let keepers = self.parts.keepers();
        match keepers.why(row.lane, message, *waited, self.setup) {
            Some(Wait::DestinationBehind) => {
                let route = resolved.ok().map(|resolved| resolved.route);
                self.waits(self.why_behind(message, route, now), message, now)
            }
            Some(wait) => self.waits(wait, message, now),
            None => self.unread(message),
        }
    }

    /// Why rows of its destination were left behind, where that lasts.
    fn why_behind(&self, message: &Message, route: Option<usize>, now: Instant) -> Wait {
        let sending = &self.parts.sending;
        let is_slow = |(_, id)| sending.destinations.is_crowding(id);
        if route.is_some_and(|route| sending.limits.keeps(route, now)) {
            Wait::RouteLimit
        } else if self.address(message).is_some_and(is_slow) {
            Wait::DestinationSlow
        } else {
            Wait::DestinationBehind
        }
    }

    /// Nothing keeps it: whoever reads has not come to it.
    fn unread(&self, message: &Message) -> Whereabouts {
        let cursor = self.parts.reading.cursor();
        let mut sentence = if message.seq > cursor {
            format!("earlier messages come first: reading stands at message {cursor}")
        } else {
            "it is about to be read".to_owned()
        };
        let free = self.parts.window.free();
        if free.rows == 0 || free.bytes == 0 {
            sentence.push_str(", and waits for room in memory (relay.max_in_flight, relay.max_in_flight_bytes)");
        }
        Whereabouts::new("unread", sentence)
    }

    fn waits(&self, wait: Wait, message: &Message, now: Instant) -> Whereabouts {
        let topic = shortened(&message.topic, SHOWN);
        let (detail, next) = match wait {
            Wait::Elsewhere | Wait::LaneBehind | Wait::UnknownHolder | Wait::RouteLimit => (None, None),
            Wait::NoRoute => (
                Some(format!("topic {topic:?}")),
                Some("add [[routes]] for it, then: systemctl reload outboxd".to_owned()),
            ),
            Wait::RoutePaused => {
                let next = "routes[].paused = false, then: systemctl reload outboxd";
                (Some(format!("topic {topic:?}")), Some(next.to_owned()))
            }
            Wait::TopicPaused => (
                Some(format!("topic {topic:?}")),
                Some(format!("outboxd resume {}", quoted(&topic))),
            ),
            Wait::TopicBehind => (Some(format!("topic {topic:?}")), None),
            Wait::DestinationPaused => (
                Some(self.why_paused(message, now)),
                Some("outboxd check --connect".to_owned()),
            ),
            Wait::DestinationTried | Wait::DestinationBehind | Wait::DestinationSlow => {
                (Some(self.place(message)), None)
            }
            Wait::EarlierCommit => {
                let next = "outboxd status, which lists open transactions";
                (self.open_transaction(now), Some(next.to_owned()))
            }
            Wait::EarlierRetry | Wait::KeyHeld => match self.holder(message) {
                Some(holder) => (
                    Some(format!("message {holder}")),
                    Some(format!("outboxd status --row {holder}")),
                ),
                None => {
                    let sentence = "what held its key has let it go, and earlier rows of the key come first";
                    return Whereabouts::new("key_released", sentence);
                }
            },
        };
        let sentence = match detail {
            Some(detail) => format!("{}: {detail}", wait.sentence()),
            None => wait.sentence().to_owned(),
        };
        Whereabouts::new(wait.as_str(), sentence).with_next(next)
    }

    /// The transport and the destination of a message.
    fn address(&self, message: &Message) -> Option<(usize, DestinationId)> {
        let routes = &self.setup.routes;
        let resolved = routes.resolve(&message.topic, message.key.as_deref()).ok()?;
        let transport = routes.get(resolved.route).transport;
        let known = self
            .parts
            .sending
            .destinations
            .known(transport, &resolved.destination)?;
        Some((transport, known))
    }

    /// Where it goes, for people.
    fn place(&self, message: &Message) -> String {
        match self.address(message) {
            Some((transport, id)) => {
                let name = shortened(&self.parts.sending.destinations.get(id).name, SHOWN);
                format!("{name} (transport {})", self.setup.telemetry.transport(transport))
            }
            None => "its destination".to_owned(),
        }
    }

    fn why_paused(&self, message: &Message, now: Instant) -> String {
        let place = self.place(message);
        let Some((transport, id)) = self.address(message) else {
            return place;
        };
        let transport = self.setup.telemetry.transport(transport).to_string();
        let name = self.parts.sending.destinations.get(id).name.to_string();
        match self.setup.telemetry.health.facts().paused.get(&(transport, name)) {
            Some(paused) => {
                let error = shortened(&paused.error, 2 * SHOWN);
                format!("{place}, since {}: {error}", span(paused.since, now))
            }
            None => place,
        }
    }

    fn open_transaction(&self, now: Instant) -> Option<String> {
        let commits = self.setup.telemetry.health.facts().commits;
        commits.map(|(since, who)| format!("{who}, waited for since {}", span(since, now)))
    }

    fn holder(&self, message: &Message) -> Option<Seq> {
        let key = message.key.as_deref()?;
        self.parts.waiting.holds.first_holder(&message.topic, key)
    }
}

/// As a word of the command line, where it is a plain one.
fn quoted(topic: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if topic.bytes().all(is_plain) && !topic.starts_with('-') {
        topic.to_owned()
    } else {
        "TOPIC".to_owned()
    }
}

/// How long that is, in whole seconds.
fn span(since: Instant, now: Instant) -> humantime::FormattedDuration {
    let seconds = now.saturating_duration_since(since).as_secs();
    humantime::format_duration(Duration::from_secs(seconds))
}

fn ago(since: Option<Instant>, now: Instant) -> String {
    since.map_or_else(|| "just now".to_owned(), |since| format!("{} ago", span(since, now)))
}
