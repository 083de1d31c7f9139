//! The core: all state, all deciding, no future. An event comes in ([`Core::handle`]), what follows is started
//! ([`Core::advance`]), and what is to be done comes out ([`Core::next_effect`]).
//!
//! This file only dispatches: what an event does is said by the view that borrows the parts it touches.

mod admission;
mod answers;
mod asking;
mod change;
mod course;
mod departure;
mod ends;
mod following;
mod keepers;
mod outcomes;
mod outlook;
mod parts;
mod recovery;
mod returning;
mod search;
mod settled;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::{Settled, StoreError, Tenancy};
use crate::whereabouts::Whereabouts;

use super::event::{Effect, Event, Underway};
use super::inquiry::About;
use super::options::RelayError;
use super::owning::standing::Standing;

use answers::Verdict;
use change::{Changes, HANGS_AFTER};
use course::{Course, DATABASE_RETRY, Phase};
use parts::Parts;
use search::Search;
pub(super) use setup::Setup;

/// See the module.
pub(super) struct Core {
    setup: Setup,
    course: Course,
    changes: Changes,
    parts: Parts,
    effects: VecDeque<Effect>,
}

impl Core {
    /// `transports`: their names, in configuration order, as far as they are known; there are so many (`count`).
    pub(super) fn new(setup: Setup, (transports, count): (Vec<Arc<str>>, usize), now: Instant) -> Self {
        Self {
            course: Course::new(now),
            changes: Changes::new(transports),
            parts: Parts::new(&setup, count, now),
            effects: VecDeque::new(),
            setup,
        }
    }

    /// Something happened. What follows from it is started by [`Self::advance`].
    ///
    /// # Errors
    /// The store needs a person.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Result<(), RelayError> {
        match event {
            Event::Published(published) => {
                let is_running = self.course.is_running();
                self.parts.outcomes(&self.setup, is_running).published(published, now);
            }
            Event::Probed(id, answer) => self.parts.recovery(&self.setup).looked(id, &answer, now),
            Event::Opened(answer) => self.opened(answer, now)?,
            Event::Settled(answer) => self.settled(answer, now)?,
            Event::Page(page) => {
                let verdict = self.parts.answers(&self.setup).page(page, now);
                self.judge(verdict, now)?;
            }
            Event::Answered(asked) => {
                let verdict = self.parts.answers(&self.setup).answered(asked, now);
                self.judge(verdict, now)?;
            }
            Event::Hint => self.parts.reading.pace.hint(now),
            Event::Standing(standing) => self.hear(standing, now),
            Event::Planned(change) => self.changes.comes(change, now),
            Event::Stop => {
                self.course.stopping = true;
                self.effects.push_back(Effect::Hurry);
                self.drain("told to stop", now);
            }
            Event::Time => {}
        }
        Ok(())
    }

    /// Starts whatever may be started now.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.course.is_running() && now >= self.parts.owning.valid_until {
            self.lose_lease(now);
        }
        self.report_left();
        self.parts.books(&self.setup).report_stuck(now);
        self.follow_plans(now);
        match self.course.phase {
            Phase::Running => self.flow(now),
            Phase::Draining(until) if !self.course.stopping && self.is_settled() => {
                // A broker that hangs keeps its own rows only: they stay in the window, and in front of their queues.
                if self.parts.sending.lanes.in_flight() == 0 || now >= until {
                    self.course.drained(now);
                }
            }
            Phase::Waiting(_) | Phase::Opening | Phase::Draining(_) => {}
        }
        if self.course.may_open(now) && !self.plan_goes_first(now) && self.parts.owning.standing.is_valid(now) {
            self.course.phase = Phase::Opening;
            self.effects.push_back(Effect::Open);
        }
        let (at_once, may_try_stuck) = (self.course.is_draining(), self.course.may_try_stuck());
        let settlement = self.parts.settler.next(now, at_once, may_try_stuck);
        self.effects.extend(settlement.map(Effect::Settle));
        let metrics = &self.setup.telemetry.metrics;
        metrics.window(self.parts.window.len(), self.parts.window.bytes());
    }

    /// What is to be done next.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Everything is answered and written: nothing happens any more.
    pub(super) fn has_ended(&self) -> bool {
        self.course.stopping && self.parts.sending.lanes.in_flight() == 0 && self.is_settled()
    }

    /// Whether it was told to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.course.stopping
    }

    /// Rows whose end cannot be written.
    pub(super) fn stuck(&self) -> usize {
        self.parts.settler.stuck.len()
    }

    /// Acknowledged messages whose mark is not written.
    pub(super) fn unmarked(&self) -> usize {
        self.parts.settler.unwritten()
    }

    /// Where a pending row stands.
    pub(super) fn find(&self, about: &About, now: Instant) -> Whereabouts {
        let search = Search {
            setup: &self.setup,
            parts: &self.parts,
            course: &self.course,
        };
        search.find(about, now)
    }

    /// When something is to be started, as far as time alone decides.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        let ttl = self.setup.options.lease_ttl;
        let far = now + ttl;
        let flow = self.course.is_running().then(|| {
            let outlook = self.parts.outlook();
            let waits = (outlook.cursor_waits(), outlook.may_be_overtaken(&self.parts.window));
            let read = self.parts.reading.wake_at(&self.parts.window, waits, now);
            let limits = self.parts.sending.limits.wake_at();
            let look = self.parts.sending.destinations.next_probe();
            let others = limits.into_iter().chain(look).min();
            read.min(self.parts.owning.valid_until).min(others.unwrap_or(far))
        });
        let settler = self.parts.settler.wake_at(self.course.may_try_stuck());
        let plan = self.changes.patient_until(ttl).filter(|until| now < *until);
        let all = [flow, self.course.wake_at(now), settler, plan];
        all.into_iter().flatten().chain([far]).min().unwrap_or(far)
    }

    /// Rows go out, rows are read, destinations are looked at.
    fn flow(&mut self, now: Instant) {
        if self.parts.sending.limits.is_due(now) {
            self.parts.sending.lanes.list_all();
        }
        while let Some(batch) = self.parts.departure(&self.setup).next(now) {
            if sabotaged!(MarkedBeforeTheAnswer) {
                for (envelope, slip) in batch.envelopes.iter().zip(&batch.slips) {
                    self.parts.settler.relayed(slip.mark(&envelope.message), None, now);
                }
            }
            self.effects.push_back(Effect::Publish(batch));
        }
        let reads = self.parts.asking(&self.setup).reads(now);
        self.effects.extend(reads.into_iter().flatten());
        let looks = self.parts.recovery(&self.setup).looks(now);
        self.effects.extend(looks);
    }

    /// What brokers have answered for is written.
    fn is_settled(&self) -> bool {
        self.parts.settler.is_idle() && self.course.phase != Phase::Opening
    }

    /// Forgets what is queued and reads nothing more; what is in flight is still answered and settled.
    fn drain(&mut self, why: &str, now: Instant) {
        if self.course.is_draining() {
            return;
        }
        tracing::debug!(why, in_flight = self.parts.sending.lanes.in_flight(), "draining");
        self.course.drain(now);
        self.effects.push_back(Effect::Drop(Underway::Opening));
        if self.parts.settler.is_trying() {
            // Nobody waits for stuck rows: what was tried is tried again.
            self.effects.push_back(Effect::Drop(Underway::Settling));
            self.parts.settler.not_written(now, now);
        }
        self.effects.push_back(Effect::Drop(Underway::Reads));
        self.parts.reading.stop(&mut self.parts.window);
        self.parts.owning.territory.clear();
        self.parts.waiting.holds.clear();
        for entry in self.parts.sending.lanes.remove(|_| true) {
            self.parts.returning().let_go(&entry);
        }
    }

    fn opened(&mut self, answer: Result<Seq, StoreError>, now: Instant) -> Result<(), RelayError> {
        match answer {
            Ok(cursor) => {
                self.setup.telemetry.health.database_up();
                self.parts.sending.destinations.reset();
                self.parts.waiting.topics.reset();
                self.parts.waiting.watermark.stands_at(None, now);
                self.parts.reading.restart(cursor, now);
                self.course.phase = Phase::Running;
                self.parts.books(&self.setup).claim_again(now);
                self.follow_lanes(now);
            }
            Err(error) => {
                self.database_away(error, now)?;
                self.course.phase = Phase::Waiting(now + DATABASE_RETRY);
            }
        }
        Ok(())
    }

    fn settled(&mut self, answer: Result<Settled, StoreError>, now: Instant) -> Result<(), RelayError> {
        match answer {
            Ok(settled) => self.parts.books(&self.setup).settled(&settled, now),
            Err(error) => {
                self.database_away(error, now)?;
                if sabotaged!(LostSettlementForgotten) {
                    self.parts.books(&self.setup).settled(&Settled::default(), now);
                    return Ok(());
                }
                self.parts.settler.not_written(now, now + DATABASE_RETRY);
                self.drain("a settlement could not be written", now);
            }
        }
        Ok(())
    }

    /// What a read says of the store.
    fn judge(&mut self, verdict: Verdict, now: Instant) -> Result<(), RelayError> {
        match verdict {
            Verdict::Sound => {}
            Verdict::Exchanged => self.start_over(now),
            Verdict::Failed(error) => {
                self.database_away(error, now)?;
                self.drain("a read failed", now);
            }
        }
        Ok(())
    }

    /// Something else stands behind the name, or seems to: where it lasts, it is not looked at without a pause.
    fn start_over(&mut self, now: Instant) {
        self.course.start_over(now);
        self.drain("another table stands behind the name", now);
        // Its rows have the numbers of those on their way: all of these are answered for before it is read.
        self.course.phase = Phase::Draining(now + self.setup.options.lease_ttl);
    }

    /// The database did not answer: everything read before is doubtful. What only a person can mend ends the relay.
    fn database_away(&mut self, error: StoreError, now: Instant) -> Result<(), RelayError> {
        match error {
            StoreError::Misconfigured(_) => return Err(error.into()),
            StoreError::Unavailable(source) => {
                self.course.database_away(now);
                self.setup.telemetry.health.database_down(&*source, now);
            }
        }
        Ok(())
    }

    fn hear(&mut self, standing: Standing, now: Instant) {
        self.parts.following(&self.setup).hear(standing, now);
        let phase = self.course.phase;
        if phase == Phase::Running {
            return self.follow_lanes(now);
        }
        let leaving = Arc::clone(&self.parts.owning.standing.leaving);
        drop(self.parts.owning.territory.follow(&Tenancy::new(), &leaving));
        if let Phase::Waiting(time) = phase {
            self.course.phase = Phase::Waiting(time.min(now));
        }
    }

    fn follow_lanes(&mut self, now: Instant) {
        if !self.parts.following(&self.setup).lanes() {
            self.drain("a lane was lost", now);
        } else if self.parts.owning.territory.is_empty() {
            self.drain("no lanes left", now);
        }
    }

    /// Tells the lease task which lanes it wanted back are free of unsettled rows.
    fn report_left(&mut self) {
        let (window, stuck) = (&self.parts.window, &self.parts.settler.stuck);
        // Who waits for a stuck row may wait for ever, and the lane's other rows with it.
        let left = self
            .parts
            .owning
            .territory
            .left(|lane| window.count_of(lane) > stuck.of_lane(lane) && !sabotaged!(HandedOverTooEarly));
        if !left.is_empty() {
            self.parts.books(&self.setup).give_up_stuck(left.keys().copied());
            self.effects.push_back(Effect::HandOver(left));
        }
    }

    fn lose_lease(&mut self, now: Instant) {
        tracing::warn!("the lease could have ended: publishing stops until it is renewed");
        self.setup.telemetry.metrics.lease_lost();
        self.effects.push_back(Effect::Abandon);
        self.drain("lease lost", now);
    }

    /// Goes over to the plan that has come, if one has: drains, and puts it in force once that is done.
    fn follow_plans(&mut self, now: Instant) {
        if !self.changes.is_pending() || self.course.stopping {
            return;
        }
        if self.course.phase == Phase::Running {
            if !self.plan_goes_first(now) {
                return;
            }
            self.drain("the configuration was reloaded", now);
        }
        let is_quiet = match self.course.phase {
            Phase::Draining(_) | Phase::Waiting(_) => self.parts.sending.lanes.in_flight() == 0 && self.is_settled(),
            Phase::Opening | Phase::Running => false,
        };
        if is_quiet && let Some(change) = self.changes.take() {
            self.effects.push_back(Effect::GoOver);
            let sending = self.changes.sending(&self.parts.sending, &change, &self.setup, now);
            self.parts.go_over(&change, sending, &self.setup);
            self.changes.in_force(change, &mut self.setup);
        }
    }

    /// Whether a plan has come that nothing is to be read before. Beside a broker that hangs, the others go on for a while.
    fn plan_goes_first(&self, now: Instant) -> bool {
        let until = self.changes.patient_until(self.setup.options.lease_ttl);
        let hangs = || {
            let since = self.parts.sending.lanes.in_flight_since();
            since.is_some_and(|since| now > since + HANGS_AFTER)
        };
        self.changes.is_pending() && !(until.is_some_and(|until| now < until) && hangs())
    }
}
