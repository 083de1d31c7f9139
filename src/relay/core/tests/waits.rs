//! Why a row waits: each reason that the core knows, planted.

use std::sync::Arc;

use super::world::{ACK, Asks, SECOND, World, refused, row, seqs};
use crate::delivery::FailureClass;
use crate::message::Seq;
use crate::relay::event::{Effect, Event};
use crate::relay::inquiry::About;
use crate::relay::waiting::wait::Wait;
use crate::route::Limits;
use crate::store::{Page, Row, Settled, Stuck, Tenancy};
use crate::stuck::StuckReason;
use crate::transport::Probe;
use crate::whereabouts::Whereabouts;

fn ask(world: &World, row: &Row) -> Whereabouts {
    let waited = row.message.attempt > 1 || row.message.replay > 0;
    let row = row.clone();
    world.core.find(&About { row, waited }, world.now)
}

/// The reason, where it is one to wait in the database.
fn why(world: &World, row: &Row) -> Option<Wait> {
    let found = ask(world, row);
    let wait = Wait::ALL.into_iter().find(|wait| wait.as_str() == found.reason);
    let is_told = |wait: &Wait| found.sentence.starts_with(wait.sentence());
    assert!(wait.as_ref().is_none_or(is_told), "{found:?}");
    wait
}

#[test]
fn nothing_keeps_a_row_that_may_go() {
    assert_eq!(why(&World::running(Asks::default()), &row(1)), None);
}

#[test]
fn lanes_that_are_elsewhere_or_behind() {
    let mut world = World::new(Asks::default());
    world.opens();
    assert_eq!(why(&world, &row(1)), Some(Wait::Elsewhere), "its holds are not known");
    let mut world = World::running(Asks::default());
    let mut standing = world.standing();
    standing.lanes = Arc::new(Tenancy::from([(1, 1)]));
    standing.leaving = Arc::new(Tenancy::from([(0, 1)]));
    world.happens(Event::Standing(standing));
    assert_eq!(why(&world, &row(1)), Some(Wait::Elsewhere));
    let mut world = World::running(Asks::default());
    world.page_with(Page {
        sweep: true,
        ..Page::default()
    });
    assert_eq!(why(&world, &row(1)), Some(Wait::LaneBehind));
}

#[test]
fn routes_that_are_missing_or_paused() {
    let mut world = World::running(Asks::default());
    let mut lost = row(1);
    lost.message.topic = "other".into();
    world.page(vec![lost.clone()]);
    assert_eq!(why(&world, &lost), Some(Wait::NoRoute));
    let limits = Limits {
        paused: true,
        ..Limits::default()
    };
    let asks = Asks {
        limits,
        ..Asks::default()
    };
    assert_eq!(why(&World::running(asks), &row(1)), Some(Wait::RoutePaused));
}

#[test]
fn topics_that_are_paused_or_behind() {
    let mut world = World::running(Asks::default());
    let mut standing = world.standing();
    standing.paused = Arc::new(["t".into()].into());
    world.happens(Event::Standing(standing));
    world.page(vec![row(1)]);
    assert_eq!(why(&world, &row(1)), Some(Wait::TopicPaused));
    let standing = world.standing();
    world.happens(Event::Standing(standing));
    assert_eq!(why(&world, &row(1)), Some(Wait::TopicBehind));
}

#[test]
fn destinations_that_are_paused_tried_or_behind() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![refused(FailureClass::Unavailable)]);
    assert_eq!(why(&world, &row(1)), Some(Wait::DestinationPaused));
    world.passes(SECOND);
    let Some(Effect::Probe(id, ..)) = world.take(|effect| matches!(effect, Effect::Probe(..))) else {
        panic!("it is looked at");
    };
    world.happens(Event::Probed(id, Ok(Probe::Ready)));
    assert_eq!(why(&world, &row(1)), Some(Wait::DestinationBehind));
}

#[test]
fn numbers_that_may_still_commit() {
    let mut world = World::running(Asks {
        commit_order: true,
        ..Asks::default()
    });
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    assert_eq!(why(&world, &row(2)), Some(Wait::EarlierCommit));
}

#[test]
fn keys_that_are_held() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![refused(FailureClass::Failed)]);
    world.settlement();
    world.written(1);
    assert_eq!(why(&world, &row(2)), Some(Wait::KeyHeld));
    let mut retried = row(2);
    retried.message.attempt = 2;
    assert_eq!(why(&world, &retried), Some(Wait::UnknownHolder));
    let mut replayed = row(2);
    replayed.message.replay = 1;
    assert_eq!(why(&world, &replayed), Some(Wait::EarlierRetry));
}

/// Rows in memory are asked about too.
#[test]
fn rows_in_memory_are_queued_in_flight_and_written() {
    let mut world = World::running(Asks::default());
    let reason = |world: &World, seq: i64| ask(world, &row(seq)).reason;
    assert_eq!(reason(&world, 1), "unread");
    world.page(vec![row(1)]);
    assert_eq!(reason(&world, 1), "in_flight");
    world.page(vec![row(2)]);
    assert_eq!(reason(&world, 2), "queued", "behind the batch before it");
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    assert_eq!(reason(&world, 1), "being_written");
    assert_eq!(reason(&world, 2), "in_flight");
    let mut wrong = row(9);
    wrong.unreadable = Some("its topic is null".into());
    assert_eq!(reason(&world, 9), "unread");
    assert_eq!(ask(&world, &wrong).reason, "rejected");
}

#[test]
fn a_row_whose_end_cannot_be_written_says_so() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    world.settlement();
    world.happens(Event::Settled(Ok(Settled {
        stuck: vec![Stuck {
            seq: Seq(1),
            reason: StuckReason::Refused,
            detail: "not today".to_owned(),
        }],
        ..Settled::default()
    })));
    let found = ask(&world, &row(1));
    assert_eq!(
        (&*found.reason, found.next.as_deref()),
        ("stuck", Some(StuckReason::Refused.todo()))
    );
    assert!(found.sentence.ends_with(": not today"), "{found:?}");
}

#[test]
fn a_route_that_has_sent_enough_says_so() {
    let limits = Limits {
        max_in_flight: Some(1),
        ..Limits::default()
    };
    let mut world = World::running(Asks {
        limits,
        ..Asks::default()
    });
    let other = || {
        let mut other = row(2);
        other.lane = 1;
        other.message.key = Some("other".into());
        other
    };
    world.page(vec![row(1), other()]);
    let mut batches = vec![world.batch()];
    let waiting = if seqs(&batches[0]) == [1] { other() } else { row(1) };
    assert_eq!(why(&world, &waiting), Some(Wait::RouteLimit));
    world.outcomes(batches.remove(0), vec![ACK]);
    assert_ne!(why(&world, &waiting), Some(Wait::RouteLimit));
}

#[test]
fn a_core_that_does_not_run_says_that_it_starts() {
    let world = World::new(Asks::default());
    assert_eq!(ask(&world, &row(1)).reason, "starting");
}

#[test]
fn destinations_that_are_tried_with_a_few() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.outcomes(batch, vec![refused(FailureClass::Unavailable)]);
    world.passes(SECOND);
    let Some(Effect::Probe(id, ..)) = world.take(|effect| matches!(effect, Effect::Probe(..))) else {
        panic!("it is looked at");
    };
    world.happens(Event::Probed(id, Ok(Probe::Ready)));
    world.nothing_is_due();
    world.reread(vec![row(1)]);
    assert_eq!(why(&world, &row(2)), Some(Wait::DestinationTried));
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    assert_eq!(why(&world, &row(2)), None);
}

#[test]
fn destinations_that_fill_the_window_and_do_not_keep_up() {
    let mut world = World::running(Asks::default());
    let mut other = row(1);
    other.message.topic = "tt".into();
    world.page([other].into_iter().chain((2..=170).map(row)).collect());
    world.passes(SECOND);
    world.passes(SECOND);
    assert_eq!(why(&world, &row(200)), Some(Wait::DestinationSlow));
    let mut other = row(201);
    other.message.topic = "tt".into();
    assert_eq!(why(&world, &other), None);
}
