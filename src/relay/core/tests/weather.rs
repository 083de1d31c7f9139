//! What breaks, and what others decide.

use std::sync::Arc;

use super::world::{ACK, Asks, SECOND, TTL, World, refused, routes, row, seqs};
use crate::delivery::FailureClass;
use crate::message::Seq;
use crate::relay::event::{Asked, Change, Effect, Event, PageRead, Underway};
use crate::relay::options::RelayError;
use crate::relay::reading::{Purpose, Question};
use crate::relay::waiting::found::Laggard;
use crate::route::Unrouted;
use crate::store::{Page, Room, Settled, StoreError, Tenancy};
use crate::transport::Probe;

fn away() -> StoreError {
    StoreError::Unavailable("away".into())
}

fn is_read(effect: &Effect) -> bool {
    matches!(effect, Effect::Read(..))
}

fn drops(what: Underway) -> impl Fn(&Effect) -> bool {
    move |effect| matches!(effect, Effect::Drop(dropped) if *dropped == what)
}

#[test]
fn an_outage_counts_nothing_and_its_rows_are_read_again_once_a_look_succeeds() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(3), row(4)]);
    let batch = world.batch();
    world.outcomes(batch, vec![refused(FailureClass::Unavailable); 2]);
    world.page(vec![row(5)]);
    assert!(world.sent().is_none() && world.core.parts.window.len() == 0);
    world.passes(SECOND);
    let Some(Effect::Probe(id, 0, name)) = world.take(|effect| matches!(effect, Effect::Probe(..))) else {
        panic!("it is looked at");
    };
    assert_eq!(&*name, "t");
    world.happens(Event::Probed(id, Ok(Probe::Ready)));
    world.nothing_is_due();
    let Some(Question::Reread(purpose, _, place)) = world.asked() else {
        panic!("it is read again");
    };
    assert_eq!(purpose, Purpose::Behind(Laggard::Destinations([id].into())));
    assert_eq!(place, (Seq(2), Seq(5)));
}

#[test]
fn a_database_that_does_not_answer_is_opened_anew() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.passes(SECOND);
    let (started, page) = (world.now, Err(away()));
    world.happens(Event::Page(PageRead { started, page }));
    assert!(world.wants(drops(Underway::Reads)));
    assert!(
        !world.wants(|effect| matches!(effect, Effect::Open)),
        "first what is in flight is answered"
    );
    world.outcomes(batch, vec![ACK]);
    world.settlement();
    world.written(1);
    world.passes(SECOND);
    assert!(world.wants(|effect| matches!(effect, Effect::Open)));
}

#[test]
fn a_broker_that_hangs_is_not_waited_for() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    let (started, answer) = (world.now, Err(away()));
    world.happens(Event::Answered(Asked { started, answer }));
    world.passes(SECOND);
    world.passes(SECOND);
    assert!(world.wants(|effect| matches!(effect, Effect::Open)));
    assert_eq!(world.core.parts.window.len(), 1, "its row stays in the window");
    drop(batch);
}

#[test]
fn what_a_person_must_mend_ends_the_relay() {
    let mut world = World::new(Asks::default());
    let standing = world.standing();
    world.happens(Event::Standing(standing));
    let missing = StoreError::Misconfigured("no table".into());
    let ended = world.core.handle(Event::Opened(Err(missing)), world.now);
    assert!(matches!(ended, Err(RelayError::Store(_))));
}

#[test]
fn a_settlement_without_an_answer_is_written_again() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    let first = world.settlement();
    world.happens(Event::Settled(Err(away())));
    assert!(
        !world.wants(|effect| matches!(effect, Effect::Settle(_))),
        "not at once"
    );
    world.passes(SECOND);
    assert_eq!(world.settlement(), first);
}

#[test]
fn another_table_is_read_once_all_is_answered() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.page_with(Page {
        exchanged: true,
        ..Page::default()
    });
    world.passes(SECOND);
    assert!(!world.wants(|effect| matches!(effect, Effect::Open)));
    world.outcomes(batch, vec![ACK]);
    world.settlement();
    world.written(1);
    assert!(world.wants(|effect| matches!(effect, Effect::Open)));
}

#[test]
fn rows_that_no_longer_match_call_for_a_sweep() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    world.settlement();
    world.happens(Event::Settled(Ok(Settled::of(0, 1))));
    world.nothing_is_due();
    assert!(matches!(world.question(), Question::Reread(Purpose::Sweep, _, _)));
}

#[test]
fn nothing_is_sent_once_the_lease_could_have_ended() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.page(vec![row(2)]);
    world.passes(TTL);
    assert!(world.wants(|effect| matches!(effect, Effect::Abandon)));
    world.outcomes(batch, vec![ACK]);
    assert!(world.sent().is_none());
    world.settlement();
    world.written(1);
    assert!(
        !world.wants(|effect| matches!(effect, Effect::Open)),
        "not before it is renewed"
    );
    let standing = world.standing();
    world.happens(Event::Standing(standing));
    assert!(world.wants(|effect| matches!(effect, Effect::Open)));
}

#[test]
fn a_lane_is_handed_over_when_nothing_of_it_is_unsettled() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    let mut standing = world.standing();
    standing.lanes = Arc::new(Tenancy::from([(1, 1)]));
    standing.leaving = Arc::new(Tenancy::from([(0, 1)]));
    world.happens(Event::Standing(standing));
    let hands_over = |effect: &Effect| matches!(effect, Effect::HandOver(_));
    assert!(!world.wants(hands_over));
    world.outcomes(batch, vec![ACK]);
    world.settlement();
    assert!(!world.wants(hands_over), "acknowledged is not settled");
    world.written(1);
    let Some(Effect::HandOver(left)) = world.take(hands_over) else {
        panic!("it is not handed over");
    };
    assert_eq!(left, Tenancy::from([(0, 1)]));
}

#[test]
fn a_lane_that_is_lost_ends_the_round() {
    let mut world = World::running(Asks::default());
    let mut standing = world.standing();
    standing.lanes = Arc::new(Tenancy::from([(0, 2), (1, 1)]));
    world.happens(Event::Standing(standing));
    assert!(world.wants(drops(Underway::Reads)) && world.wants(|effect| matches!(effect, Effect::Open)));
}

#[test]
fn a_stop_waits_for_what_is_in_flight_and_unwritten() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.happens(Event::Stop);
    assert!(world.wants(|effect| matches!(effect, Effect::Hurry)) && world.core.is_stopping());
    assert!(!world.core.has_ended());
    world.outcomes(batch, vec![ACK]);
    assert!(!world.core.has_ended());
    world.settlement();
    world.written(1);
    assert!(world.core.has_ended());
    world.effects.clear();
    world.passes(SECOND);
    assert!(world.effects.is_empty(), "{:?}", world.effects);
}

#[test]
fn a_plan_is_in_force_once_nothing_of_the_one_before_is_in_memory() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.effects.clear();
    world.happens(Event::Planned(Change {
        names: vec!["other".into()],
        systems: vec!["kafka"],
        routes: routes(Asks::default()),
        batch_size: 50,
        window: Room {
            rows: 200,
            bytes: 1 << 20,
        },
        unrouted: Unrouted::Wait,
    }));
    assert!(!world.wants(is_read) && !world.wants(|effect| matches!(effect, Effect::GoOver)));
    world.outcomes(batch, vec![ACK]);
    world.settlement();
    world.written(1);
    let order: Vec<&Effect> = (world.effects.iter())
        .filter(|effect| matches!(effect, Effect::GoOver | Effect::Open))
        .collect();
    assert!(matches!(order[..], [Effect::GoOver, Effect::Open]), "{order:?}");
}

#[test]
fn what_waits_at_its_end_is_woken_for() {
    let mut world = World::running(Asks::default());
    assert!(world.core.wake_at(world.now) > world.now);
    world.page(vec![row(1)]);
    let batch = world.batch();
    assert_eq!(seqs(&batch), [1]);
    world.outcomes(batch, vec![ACK]);
    let soon = world.now + SECOND / 100;
    assert!(
        world.core.wake_at(world.now) <= soon,
        "a mark waits for company no longer"
    );
}
