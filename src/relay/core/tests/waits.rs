//! Why a row waits: each reason that the core knows, planted.

use std::sync::Arc;

use super::world::{ACK, Asks, SECOND, World, refused, row};
use crate::delivery::FailureClass;
use crate::relay::event::{Effect, Event};
use crate::relay::waiting::wait::Wait;
use crate::route::Limits;
use crate::store::{Page, Row, Tenancy};
use crate::transport::Probe;

fn why(world: &World, row: &Row) -> Option<Wait> {
    world.core.why(row.lane, &row.message)
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
