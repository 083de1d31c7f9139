//! A core, its clock, and what it wants done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::delivery::{Failure, FailureClass, Order, Outcome};
use crate::message::{Headers, Message, MessageId, Seq};
use crate::relay::core::{Core, Setup};
use crate::relay::event::{Asked, Batch, Effect, Event, PageRead, Published};
use crate::relay::options::Options;
use crate::relay::owning::standing::Standing;
use crate::relay::reading::{Answer, Question};
use crate::route::{Limits, Route, RouteSpec, Routes, Unrouted};
use crate::store::{DuePage, Page, Reread, Row, Settled, Settlement, Tenancy};
use crate::telemetry::Telemetry;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const TTL: Duration = Duration::from_secs(15);
pub(super) const ACK: Outcome = Outcome::Acknowledged { duplicate: false };

pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Instant,
    pub(super) effects: Vec<Effect>,
}

/// What the route of a test asks for.
#[derive(Clone, Copy, Default)]
pub(super) struct Asks {
    pub(super) order: Order,
    pub(super) commit_order: bool,
    pub(super) limits: Limits,
}

pub(super) fn routes(asks: Asks) -> Routes {
    let spec = RouteSpec {
        topic: "t*",
        transport: 0,
        destination: "{topic}",
        order: asks.order,
        max_attempts: 3,
        backoff: Backoff {
            min: SECOND,
            max: SECOND,
            factor: 2,
        },
        commit_order: asks.commit_order,
        limits: asks.limits,
        prefix: "",
        reserved: &[],
    };
    Routes::new(vec![Route::new(&spec).unwrap()])
}

/// A row of topic `t` and key `k`.
pub(super) fn row(seq: i64) -> Row {
    let message = Message {
        seq: Seq(seq),
        id: MessageId::Number(seq),
        topic: "t".into(),
        key: Some("k".into()),
        payload: "{}".into(),
        payload_is_null: false,
        headers: Headers::Valid(Vec::new()),
        attempt: 1,
        max_attempts: None,
        priority: 0,
        replay: 0,
        origin: None,
        age: Duration::ZERO,
    };
    Row {
        lane: 0,
        message,
        unreadable: None,
    }
}

/// ... of this priority.
pub(super) fn urgent(seq: i64, priority: i16) -> Row {
    let mut row = row(seq);
    row.message.priority = priority;
    row
}

pub(super) fn refused(class: FailureClass) -> Outcome {
    Outcome::Refused(Failure::new(class, "no", "no"))
}

pub(super) fn seqs(batch: &Batch) -> Vec<i64> {
    batch.envelopes.iter().map(|envelope| envelope.message.seq.0).collect()
}

impl World {
    pub(super) fn new(asks: Asks) -> Self {
        let now = Instant::now();
        let options = Options {
            lanes: 2,
            batch_size: 50,
            max_in_flight: 200,
            max_in_flight_bytes: 1 << 20,
            poll_interval_min: Duration::from_millis(10),
            poll_interval_max: Duration::from_millis(250),
            count_outages: false,
            unrouted: Unrouted::Wait,
            shutdown_timeout: 30 * SECOND,
            lease_ttl: TTL,
            probe_interval: SECOND,
            sweep_interval: 300 * SECOND,
        };
        let setup = Setup {
            routes: routes(asks),
            options,
            telemetry: Telemetry::default(),
        };
        let core = Core::new(setup, (vec!["b".into()], 1), now);
        let effects = Vec::new();
        Self { core, now, effects }
    }

    /// Rows flow: both lanes were read from the beginning, the cursor stands at 0, and its next page is awaited.
    pub(super) fn running(asks: Asks) -> Self {
        let mut world = Self::new(asks);
        world.opens();
        let Question::Holds { lanes, .. } = world.question() else {
            panic!("who holds keys of lanes taken over comes first");
        };
        world.answers(Answer::Holds(lanes, Vec::new()));
        world.nothing_is_due();
        world.reread(Vec::new());
        world.nothing_is_due();
        world
    }

    /// The store is opened.
    pub(super) fn opens(&mut self) {
        let standing = self.standing();
        self.happens(Event::Standing(standing));
        assert!(self.take(|effect| matches!(effect, Effect::Open)).is_some());
        self.happens(Event::Opened(Ok(Seq(0))));
    }

    /// Both lanes are held, for `TTL` from now.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            lanes: Arc::new(Tenancy::from([(0, 1), (1, 1)])),
            valid_until: self.now + TTL,
            ..Standing::none(self.now)
        }
    }

    pub(super) fn happens(&mut self, event: Event) {
        self.core.handle(event, self.now).unwrap();
        self.passes(Duration::ZERO);
    }

    /// So much time passes.
    pub(super) fn passes(&mut self, time: Duration) {
        self.now += time;
        self.core.advance(self.now);
        self.effects.extend(std::iter::from_fn(|| self.core.next_effect()));
    }

    /// Takes the first effect of a kind.
    pub(super) fn take(&mut self, is: impl Fn(&Effect) -> bool) -> Option<Effect> {
        let at = self.effects.iter().position(is)?;
        Some(self.effects.remove(at))
    }

    /// Whether such a thing is to be done.
    pub(super) fn wants(&self, is: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(is)
    }

    /// What is asked, but for rows that overtake: there are none.
    pub(super) fn asked(&mut self) -> Option<Question> {
        while self.looks_for_urgent() {
            self.answers(Answer::Urgent(Vec::new()));
        }
        let Effect::Ask(question, _) = self.take(|effect| matches!(effect, Effect::Ask(..)))? else {
            unreachable!("it was chosen by its kind")
        };
        Some(question)
    }

    /// Rows that overtake are looked for; an answer is awaited.
    pub(super) fn looks_for_urgent(&mut self) -> bool {
        let looks = |effect: &Effect| matches!(effect, Effect::Ask(Question::Urgent(..), _));
        self.take(looks).is_some()
    }

    /// These overtake, once they are looked for.
    #[track_caller]
    pub(super) fn overtaken_by(&mut self, rows: Vec<Row>) {
        if !self.wants(|effect| matches!(effect, Effect::Ask(..))) {
            self.passes(SECOND / 10);
        }
        while !self.looks_for_urgent() {
            assert!(
                self.wants(|effect| matches!(effect, Effect::Ask(Question::Due(..), _))),
                "{:?}",
                self.effects
            );
            self.take(|effect| matches!(effect, Effect::Ask(..)));
            self.answers(Answer::Due(DuePage::default()));
        }
        self.answers(Answer::Urgent(rows));
    }

    #[track_caller]
    pub(super) fn question(&mut self) -> Question {
        self.asked().unwrap_or_else(|| panic!("nothing is asked"))
    }

    pub(super) fn answers(&mut self, answer: Answer) {
        let (started, answer) = (self.now, Ok(answer));
        self.happens(Event::Answered(Asked { started, answer }));
    }

    /// Answers whatever walk over due rows there is: there are none.
    pub(super) fn nothing_is_due(&mut self) {
        loop {
            if self.looks_for_urgent() {
                self.answers(Answer::Urgent(Vec::new()));
            } else if self
                .take(|effect| matches!(effect, Effect::Ask(Question::Due(..), _)))
                .is_some()
            {
                self.answers(Answer::Due(DuePage::default()));
            } else {
                return;
            }
        }
    }

    /// The read for somebody who lags is answered with these, and has come to its end.
    #[track_caller]
    pub(super) fn reread(&mut self, rows: Vec<Row>) {
        let Question::Reread(purpose, _, (_, upto)) = self.question() else {
            panic!("nothing is read again");
        };
        let reread = Reread {
            rows,
            position: upto,
            done: true,
            ..Reread::default()
        };
        self.answers(Answer::Reread(purpose, upto, reread));
    }

    /// The cursor's page is awaited, and has come: these rows, or nothing past the last of them.
    #[track_caller]
    pub(super) fn page(&mut self, rows: Vec<Row>) {
        let last = rows.last().map_or(Seq(0), |row| row.message.seq);
        self.page_with(Page {
            rows,
            cursor: last,
            decided: last,
            ..Page::default()
        });
    }

    #[track_caller]
    pub(super) fn page_with(&mut self, page: Page) {
        if !self.wants(|effect| matches!(effect, Effect::Read(..))) {
            self.passes(SECOND);
        }
        assert!(self.take(|effect| matches!(effect, Effect::Read(..))).is_some());
        let (started, page) = (self.now, Ok(page));
        self.happens(Event::Page(PageRead { started, page }));
    }

    pub(super) fn sent(&mut self) -> Option<Batch> {
        let Effect::Publish(batch) = self.take(|effect| matches!(effect, Effect::Publish(_)))? else {
            unreachable!("it was chosen by its kind")
        };
        Some(batch)
    }

    #[track_caller]
    pub(super) fn batch(&mut self) -> Batch {
        self.sent().unwrap_or_else(|| panic!("nothing is sent"))
    }

    pub(super) fn outcomes(&mut self, batch: Batch, outcomes: Vec<Outcome>) {
        let sent_at = self.now;
        self.happens(Event::Published(Published {
            batch,
            sent_at,
            outcomes,
        }));
    }

    #[track_caller]
    pub(super) fn settlement(&mut self) -> Arc<Settlement> {
        self.passes(Duration::from_millis(10));
        match self.take(|effect| matches!(effect, Effect::Settle(_))) {
            Some(Effect::Settle(settlement)) => settlement,
            other => panic!("nothing is written: {other:?}"),
        }
    }

    pub(super) fn written(&mut self, rows: usize) {
        self.happens(Event::Settled(Ok(Settled::of(rows, 0))));
    }
}
