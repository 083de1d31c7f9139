//! Reads a record and says which promise was broken first. Knows the scenario and what happened, nothing of the relay.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use outboxd::delivery::{FailureClass, Order};

use super::journal::{Event, LaneChange, Process, Record, Reply, Row, Sending, SeqNumber};
use super::scenario::{RouteSpec, Scenario, Temper};
use super::world::Outcome;

/// A broken promise.
#[derive(Debug)]
pub struct Violation {
    /// A few words that name the promise.
    pub rule: &'static str,
    pub text: String,
    /// Index of the event that showed it.
    pub at: usize,
    pub rows: Vec<SeqNumber>,
}

/// One time a row was sent.
#[derive(Clone, Copy)]
struct Send {
    at: usize,
    time: Duration,
    process: Process,
    attempt: i32,
    lane: u16,
    reply: Option<(usize, Reply)>,
}

/// What happened to a row.
#[derive(Default)]
struct Story {
    inserted: Option<usize>,
    committed: Option<usize>,
    sends: Vec<Send>,
    visible: Option<usize>,
    marked: Option<usize>,
    /// Failed for good, and not retried since.
    failed: Option<usize>,
    first_failed: Option<usize>,
    discarded: Option<usize>,
    /// It could not be written for a while.
    stuck: bool,
    failures: i32,
}

/// What happened to a process.
#[derive(Default)]
struct Life {
    instance: String,
    stopping: Option<(usize, Duration)>,
    ended: bool,
    /// It crashed, or its stop took too long.
    died: Option<usize>,
    renewed: Option<(usize, Duration)>,
    /// Lanes it no longer had: when, and which.
    passed: Vec<(usize, u16)>,
    /// Lanes taken from it: when, which, and its last renewal before.
    lost: Vec<(usize, u16, Option<usize>)>,
    in_flight: HashMap<usize, Vec<SeqNumber>>,
}

/// Something after which a process's messages may be sent once more.
type Incident = (Process, Option<usize>);

struct Judge<'a> {
    scenario: &'a Scenario,
    record: &'a Record,
    stories: BTreeMap<SeqNumber, Story>,
    lives: Vec<Life>,
    holders: HashMap<u16, Process>,
    /// When probes of destinations and messages to them last succeeded, by process and route.
    alive: HashMap<(Process, usize), Duration>,
    again: HashMap<Incident, usize>,
    healed: Option<usize>,
    violations: Vec<Violation>,
    at: usize,
    now: Duration,
}

/// Everything wrong with a run, in the order it showed.
pub fn judge(scenario: &Scenario, outcome: &Outcome) -> Vec<Violation> {
    let mut judge = Judge {
        scenario,
        record: &outcome.record,
        stories: BTreeMap::new(),
        lives: Vec::new(),
        holders: HashMap::new(),
        alive: HashMap::new(),
        again: HashMap::new(),
        healed: None,
        violations: Vec::new(),
        at: 0,
        now: Duration::ZERO,
    };
    for (at, (now, event)) in outcome.record.events.iter().enumerate() {
        (judge.at, judge.now) = (at, *now);
        judge.hear(event);
    }
    judge.sum_up(outcome);
    judge.order();
    judge.violations.sort_by_key(|violation| violation.at);
    judge.violations
}

impl<'a> Judge<'a> {
    fn accuse(&mut self, rule: &'static str, rows: &[SeqNumber], text: String) {
        self.violations.push(Violation {
            rule,
            text,
            at: self.at,
            rows: rows.to_vec(),
        });
    }

    fn row(&self, seq: SeqNumber) -> &'a Row {
        &self.record.rows[&seq]
    }

    fn route(&self, seq: SeqNumber) -> &'a RouteSpec {
        &self.scenario.routes[self.row(seq).spec.route]
    }

    fn max_attempts(&self, seq: SeqNumber) -> i32 {
        self.row(seq).spec.max_attempts.unwrap_or(self.route(seq).max_attempts)
    }

    fn story(&mut self, seq: SeqNumber) -> &mut Story {
        self.stories.entry(seq).or_default()
    }

    fn hear(&mut self, event: &Event) {
        let at = self.at;
        match event {
            Event::Inserted(seq) => self.story(*seq).inserted = Some(at),
            Event::RolledBack(_) => {}
            Event::Committed(seq) => self.story(*seq).committed = Some(at),
            Event::Retried(seq) => {
                let story = self.story(*seq);
                story.failed = None;
                story.failures = 0;
            }
            Event::Discarded(seq) => self.story(*seq).discarded = Some(at),
            Event::Stuck(seq) => self.story(*seq).stuck = true,
            Event::Sent {
                process,
                batch,
                messages,
                transport: _,
            } => self.sent(*process, *batch, messages),
            Event::Visible { seq, transport: _ } => drop(self.story(*seq).visible.get_or_insert(at)),
            Event::Answered {
                process,
                batch,
                replies,
            } => self.answered(*process, *batch, replies),
            Event::Probed {
                process,
                destination,
                alive,
                transport: _,
            } => {
                if *alive {
                    let route = destination[1..].parse().unwrap();
                    self.alive.insert((*process, route), self.now);
                }
            }
            Event::Marked { process, seq, owned } => self.marked(*process, *seq, *owned),
            Event::Failed { .. } => self.failed(event),
            Event::Renewed(process) => self.lives[*process].renewed = Some((at, self.now)),
            Event::Lane { process, change } => self.lane(*process, change),
            Event::Started(_, instance) => self.lives.push(Life {
                instance: instance.clone(),
                ..Life::default()
            }),
            Event::Crashed(process) => {
                let life = &mut self.lives[*process];
                life.died = Some(at);
                life.ended = true;
                life.in_flight.clear();
            }
            Event::Stopping(process) => self.lives[*process].stopping = Some((at, self.now)),
            Event::Ended(process, trouble) => self.ended(*process, trouble.as_deref()),
            Event::Weather(what) => {
                if what == "healed" {
                    self.healed = Some(at);
                }
            }
        }
    }

    fn sent(&mut self, process: Process, batch: usize, messages: &[Sending]) {
        let seqs: Vec<SeqNumber> = messages.iter().map(|message| message.seq).collect();
        if messages.len() > self.scenario.batch_size {
            self.accuse("bounded", &[], format!("a batch of {} messages", messages.len()));
        }
        let renewed = self.lives[process].renewed;
        if renewed.is_none_or(|(_, time)| self.now >= time + self.scenario.ttl) {
            self.accuse("fenced", &seqs, format!("{seqs:?} sent by {process} after its lease"));
        }
        if let Some(message) = messages.iter().find(|message| !message.owned) {
            let text = format!("{} sent by {process}, whose lane {} is not", message.seq, message.lane);
            self.accuse("fenced", &[message.seq], text);
        }
        self.not_in_two_batches(process, &seqs);
        for message in messages {
            self.sent_again(process, message);
            let send = Send {
                at: self.at,
                time: self.now,
                process,
                attempt: message.attempt,
                lane: message.lane,
                reply: None,
            };
            self.story(message.seq).sends.push(send);
        }
        self.lives[process].in_flight.insert(batch, seqs);
        let in_flight: usize = self.lives[process].in_flight.values().map(Vec::len).sum();
        if in_flight > self.scenario.max_in_flight {
            self.accuse("bounded", &[], format!("{in_flight} messages in flight from {process}"));
        }
    }

    /// A key whose route has an order is in one batch at a time.
    fn not_in_two_batches(&mut self, process: Process, seqs: &[SeqNumber]) {
        let key = |judge: &Self, seq: SeqNumber| {
            let ordered = judge.route(seq).order != Order::None;
            let spec = &judge.row(seq).spec;
            spec.key.filter(|_| ordered).map(|key| (spec.route, key))
        };
        let new: HashSet<_> = seqs.iter().filter_map(|seq| key(self, *seq)).collect();
        let old: Vec<SeqNumber> = self.lives[process].in_flight.values().flatten().copied().collect();
        if let Some(seq) = old
            .iter()
            .find(|seq| key(self, **seq).is_some_and(|key| new.contains(&key)))
        {
            self.accuse(
                "order",
                &[*seq],
                format!("the key of {seq} is in two batches of {process}"),
            );
        }
    }

    /// Whether a row may be sent once more.
    fn sent_again(&mut self, process: Process, message: &Sending) {
        let seq = message.seq;
        let story = self.story(seq);
        let (marked, failed, last) = (story.marked, story.failed, story.sends.last().copied());
        if marked.is_some() {
            self.accuse(
                "duplicates",
                &[seq],
                format!("{seq} sent by {process} although it is marked"),
            );
        }
        if failed.is_some() {
            self.accuse(
                "failed rows rest",
                &[seq],
                format!("{seq} sent by {process} although it has failed"),
            );
        }
        let Some(last) = last else { return };
        if matches!(last.reply, Some((_, Reply::Withheld | Reply::Refused(_)))) {
            return;
        }
        let life = &self.lives[last.process];
        let passed = life.passed.iter().any(|(at, lane)| *at > last.at && *lane == last.lane);
        if self.stories[&seq].stuck && (passed || life.ended || life.stopping.is_some()) {
            return;
        }
        let lost = life
            .lost
            .iter()
            .rev()
            .find(|(at, lane, _)| *at > last.at && *lane == last.lane);
        // A stop that takes too long gives up what is in flight, then hands its lanes back.
        let gave_up = life
            .stopping
            .is_some_and(|(_, told)| self.now >= told + self.scenario.shutdown_timeout);
        let incident = match (life.died.or(gave_up.then_some(self.at)), lost) {
            (Some(_), _) => (last.process, None),
            (None, Some((_, _, renewal))) => (last.process, Some(renewal.unwrap_or(0))),
            (None, None) => {
                let text = format!(
                    "{seq} sent by {process} and before by {}, to whom nothing happened",
                    last.process
                );
                self.accuse("duplicates", &[seq], text);
                return;
            }
        };
        let count = self.again.entry(incident).or_default();
        *count += 1;
        if *count > self.scenario.max_in_flight {
            let text = format!(
                "{count} messages sent again after {} died or lost its lease",
                last.process
            );
            self.accuse("duplicates", &[seq], text);
        }
    }

    fn answered(&mut self, process: Process, batch: usize, replies: &[(SeqNumber, Reply)]) {
        self.lives[process].in_flight.remove(&batch);
        for (seq, reply) in replies {
            let at = self.at;
            let sends = &mut self.story(*seq).sends;
            if let Some(send) = sends.iter_mut().rev().find(|send| send.process == process) {
                send.reply = Some((at, *reply));
            }
            if *reply == Reply::Acknowledged {
                self.alive.insert((process, self.row(*seq).spec.route), self.now);
            }
        }
    }

    fn last_send(&mut self, process: Process, seq: SeqNumber) -> Option<Send> {
        let sends = &self.story(seq).sends;
        sends.iter().rev().find(|send| send.process == process).copied()
    }

    fn marked(&mut self, process: Process, seq: SeqNumber, owned: bool) {
        if !owned {
            self.accuse(
                "fenced",
                &[seq],
                format!("{process} marked {seq}, whose lane it does not own"),
            );
        }
        let send = self.last_send(process, seq);
        if !matches!(send.and_then(|send| send.reply), Some((_, Reply::Acknowledged))) {
            self.accuse(
                "loss",
                &[seq],
                format!("{process} marked {seq} without an acknowledgement"),
            );
        }
        if self.story(seq).visible.is_none() {
            self.accuse("loss", &[seq], format!("{seq} was marked and never seen"));
        }
        self.story(seq).marked = Some(self.at);
    }

    fn failed(&mut self, event: &Event) {
        let Event::Failed {
            process,
            seq,
            attempt,
            class,
            for_good,
            owned,
        } = event
        else {
            return;
        };
        let (process, seq, temper) = (*process, *seq, self.row(*seq).spec.temper);
        if !owned {
            self.accuse(
                "fenced",
                &[seq],
                format!("{process} failed {seq}, whose lane it does not own"),
            );
        }
        let send = self.last_send(process, seq);
        let answered = send.is_some_and(|send| {
            send.attempt == *attempt && matches!(send.reply, Some((_, Reply::Refused(refused))) if refused == *class)
        });
        if temper != Temper::Unfit && !answered {
            self.accuse(
                "attempts",
                &[seq],
                format!("{process} failed {seq} as {class:?} without such an answer"),
            );
        }
        let expected = self.counts(process, seq, *class, send);
        if !expected {
            self.accuse(
                "attempts",
                &[seq],
                format!("{class:?} was counted against {seq}, a {temper:?} row"),
            );
        }
        let last = *class == FailureClass::Rejected || *attempt >= self.max_attempts(seq);
        if last != *for_good {
            self.accuse(
                "attempts",
                &[seq],
                format!("attempt {attempt} of {seq}: failed for good is {for_good}"),
            );
        }
        let at = self.at;
        let story = self.story(seq);
        story.failures += 1;
        let failures = story.failures;
        if *for_good {
            story.failed = Some(at);
            story.first_failed.get_or_insert(at);
        }
        if failures != *attempt {
            self.accuse(
                "attempts",
                &[seq],
                format!("failure {failures} of {seq} was counted as attempt {attempt}"),
            );
        }
    }

    /// Whether such an answer is counted against this row.
    fn counts(&self, process: Process, seq: SeqNumber, class: FailureClass, send: Option<Send>) -> bool {
        let temper = self.row(seq).spec.temper;
        match class {
            FailureClass::Rejected => matches!(temper, Temper::Poison | Temper::Unfit),
            FailureClass::Failed => {
                matches!(temper, Temper::Fails(times) if send.is_some_and(|send| send.attempt <= times))
            }
            FailureClass::Unavailable => false,
            FailureClass::TimedOut => send.is_some_and(|send| {
                let alive = self.alive.get(&(process, self.row(seq).spec.route));
                let waited = send
                    .reply
                    .map_or(Duration::ZERO, |(at, _)| self.record.events[at].0 - send.time);
                alive.is_some_and(|alive| *alive >= send.time + waited / 2)
            }),
        }
    }

    fn lane(&mut self, process: Process, change: &LaneChange) {
        let LaneChange {
            lane,
            from,
            to,
            epoch: _,
        } = change;
        let before = self.holders.remove(lane);
        if to.as_deref() == Some(&*self.lives[process].instance) {
            self.holders.insert(*lane, process);
        }
        let Some(before) = before else { return };
        self.lives[before].passed.push((self.at, *lane));
        if from.is_none() || (to.is_none() && before == process) {
            return;
        }
        let life = &mut self.lives[before];
        let renewed = life.renewed;
        life.lost.push((self.at, *lane, renewed.map(|(at, _)| at)));
        // Its own lease lapsed, and it took the lane anew; or it is the same instance restarted.
        let itself = (before == process || life.ended) && Some(&*life.instance) == to.as_deref();
        let expired = renewed.is_none_or(|(_, time)| self.now > time + self.scenario.ttl);
        if !itself && !expired {
            self.accuse(
                "fenced",
                &[],
                format!("{process} took lane {lane} from {before}, whose lease had not ended"),
            );
        }
    }

    fn ended(&mut self, process: Process, trouble: Option<&str>) {
        let healed = self.healed;
        let life = &mut self.lives[process];
        life.in_flight.clear();
        life.ended = true;
        let Some(trouble) = trouble else { return };
        life.died = Some(self.at);
        let told_in_bad_weather = life
            .stopping
            .is_some_and(|(told, _)| healed.is_none_or(|healed| told < healed));
        if !(told_in_bad_weather && trouble.contains("relay.shutdown_timeout")) {
            self.accuse("stops", &[], format!("process {process}: {trouble}"));
        }
    }

    fn sum_up(&mut self, outcome: &Outcome) {
        if !outcome.drained {
            let pending = outcome.rows.values().filter(|row| row.is_pending());
            let pending: Vec<SeqNumber> = pending.map(|row| row.message.seq.0).collect();
            self.accuse("liveness", &pending, format!("{pending:?} are still pending"));
        }
        let stories = std::mem::take(&mut self.stories);
        for (seq, story) in &stories {
            if story.committed.is_none() || story.discarded.is_some() {
                continue;
            }
            let Some(row) = outcome.rows.get(seq) else {
                self.accuse("loss", &[*seq], format!("{seq} is gone"));
                continue;
            };
            if row.relayed_at.is_some() != story.marked.is_some() {
                self.accuse(
                    "loss",
                    &[*seq],
                    format!("{seq}: relayed_at does not fit what was settled"),
                );
            }
            if row.failed_at.is_some() && (story.failed.is_none() || row.last_error.is_none()) {
                self.accuse("loss", &[*seq], format!("{seq} has failed for no reason"));
            }
        }
        self.stories = stories;
        let alive: Vec<Process> = (0..self.lives.len())
            .filter(|process| !outcome.record.events.iter().any(|(_, event)| event.ends(*process)))
            .collect();
        if !alive.is_empty() {
            self.accuse("stops", &[], format!("processes {alive:?} did not stop"));
        }
    }

    /// First occurrences of a key's rows of one priority in `seq` order; in commit order nothing overtakes. Left out: rows that were delayed or got their number by hand, and
    /// two rows whose transactions overlapped; in commit order those too are in order.
    fn order(&mut self) {
        let mut keys: BTreeMap<(usize, u8, i16), Vec<SeqNumber>> = BTreeMap::new();
        for (seq, row) in &self.record.rows {
            let spec = &row.spec;
            if let Some(key) = spec.key
                && spec.delay.is_none()
                && !row.by_hand
                && self.route(*seq).order != Order::None
                && self.stories.get(seq).is_some_and(|story| story.committed.is_some())
            {
                let priority = if self.route(*seq).commit_order {
                    0
                } else {
                    spec.priority
                };
                keys.entry((spec.route, key, priority)).or_default().push(*seq);
            }
        }
        for seqs in keys.values() {
            for (index, later) in seqs.iter().enumerate() {
                let Some(seen) = self.stories[later].visible else {
                    continue;
                };
                for earlier in &seqs[..index] {
                    let concurrent = self.overlapped(*earlier, *later);
                    if (!concurrent || self.route(*later).commit_order) && !self.is_past(*earlier, seen) {
                        self.at = seen;
                        self.accuse(
                            "order",
                            &[*earlier, *later],
                            format!("{later} was seen before {earlier}"),
                        );
                    }
                }
            }
        }
    }

    /// The earlier row was committed after the later one had got its number, by another transaction.
    fn overlapped(&self, earlier: SeqNumber, later: SeqNumber) -> bool {
        let (one, other) = (self.row(earlier).transaction, self.row(later).transaction);
        (one.is_none() || one != other) && self.stories[&earlier].committed > self.stories[&later].inserted
    }

    /// Nobody of its key waits for `seq` any more.
    fn is_past(&self, seq: SeqNumber, at: usize) -> bool {
        let story = &self.stories[&seq];
        let before = |event: Option<usize>| event.is_some_and(|event| event < at);
        if before(story.visible) || before(story.discarded) {
            return true;
        }
        // Under `key` a row that failed for good holds nobody; the relay knows of it before the database does.
        let refused_for_good = story.sends.iter().any(|send| match send.reply {
            Some((answered, Reply::Refused(FailureClass::Rejected))) => answered < at,
            Some((answered, Reply::Refused(_))) => {
                answered < at && send.attempt >= self.max_attempts(seq) && story.first_failed.is_some()
            }
            Some((_, Reply::Acknowledged | Reply::Withheld)) | None => false,
        });
        let unfit = self.row(seq).spec.temper == Temper::Unfit;
        self.route(seq).order == Order::Key && (before(story.first_failed) || refused_for_good || unfit)
    }
}

impl Event {
    fn ends(&self, ended: Process) -> bool {
        matches!(self, Self::Crashed(process) | Self::Ended(process, _) if *process == ended)
    }
}
