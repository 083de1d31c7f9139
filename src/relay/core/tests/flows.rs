//! What a row goes through.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::world::{ACK, Asks, SECOND, World, refused, row, seqs};
use crate::delivery::{FailureClass, Order, Outcome};
use crate::message::Seq;
use crate::relay::event::{Effect, Event};
use crate::relay::reading::{Answer, Purpose, Question};
use crate::relay::waiting::found::Laggard;
use crate::relay::waiting::lag::BEGINNING;
use crate::route::Limits;
use crate::store::{LaneSet, OpenTransaction, Page};

#[test]
fn lanes_taken_over_bring_their_holds_and_are_read_from_the_beginning() {
    let mut world = World::new(Asks::default());
    world.opens();
    assert!(
        !world.wants(|effect| matches!(effect, Effect::Read(..))),
        "the cursor waits"
    );
    let Question::Holds { lanes, .. } = world.question() else {
        panic!("holds first");
    };
    world.answers(Answer::Holds(lanes, Vec::new()));
    world.nothing_is_due();
    let Question::Reread(purpose, scope, place) = world.question() else {
        panic!("then what is pending");
    };
    assert_eq!(purpose, Purpose::Behind(Laggard::Lanes));
    assert_eq!((scope.lanes, place), (LaneSet::of([0, 1]), (BEGINNING, Seq(0))));
}

#[test]
fn a_row_is_sent_marked_and_forgotten() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1), row(2)]);
    let batch = world.batch();
    assert_eq!(seqs(&batch), [1, 2]);
    assert!(world.sent().is_none(), "one batch in flight per queue");
    world.outcomes(batch, vec![ACK; 2]);
    assert_eq!(world.core.unmarked(), 2);
    let settlement = world.settlement();
    assert_eq!(settlement.relayed.len(), 2);
    world.written(2);
    assert_eq!((world.core.unmarked(), world.core.parts.window.len()), (0, 0));
}

#[test]
fn a_row_is_not_admitted_twice() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.page(vec![row(1), row(2)]);
    world.outcomes(batch, vec![ACK]);
    assert_eq!(seqs(&world.batch()), [2]);
}

#[test]
fn what_was_withheld_goes_again_first() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1), row(2)]);
    let batch = world.batch();
    world.page(vec![row(3)]);
    world.outcomes(batch, vec![ACK, Outcome::Withheld]);
    assert_eq!(seqs(&world.batch()), [2, 3]);
}

#[test]
fn a_message_that_fails_holds_its_key() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.page(vec![row(2)]);
    world.outcomes(batch, vec![refused(FailureClass::Failed)]);
    assert!(world.sent().is_none(), "2 parks behind 1");
    let settlement = world.settlement();
    assert!(settlement.failures[0].retry_in.is_some_and(|delay| delay <= SECOND));
}

#[test]
fn a_message_that_can_never_be_sent_fails_without_a_transport() {
    let mut world = World::running(Asks::default());
    let mut bad = row(1);
    bad.unreadable = Some("its payload is null".into());
    world.page(vec![bad, row(2)]);
    assert_eq!(seqs(&world.batch()), [2]);
    let settlement = world.settlement();
    assert_eq!(
        (settlement.failures[0].mark.seq, settlement.failures[0].retry_in),
        (Seq(1), None)
    );
}

#[test]
fn a_paused_topic_is_read_again_from_where_it_stopped() {
    let mut world = World::running(Asks::default());
    let mut standing = world.standing();
    standing.paused = Arc::new(["t".into()].into());
    world.happens(Event::Standing(standing));
    world.page(vec![row(7)]);
    world.page(vec![row(9)]);
    assert!(world.sent().is_none());
    let standing = world.standing();
    world.happens(Event::Standing(standing));
    world.nothing_is_due();
    let Question::Reread(purpose, scope, place) = world.question() else {
        panic!("it is read again");
    };
    assert_eq!(purpose, Purpose::Behind(Laggard::Topic("t".into())));
    assert_eq!((scope.topics, place), (Some(vec!["t".into()]), (Seq(6), Seq(9))));
}

#[test]
fn in_commit_order_a_row_waits_for_earlier_numbers_and_who_keeps_it_is_named() {
    let commit_order = true;
    let mut world = World::running(Asks {
        commit_order,
        ..Asks::default()
    });
    let page = |rows, decided| Page {
        rows,
        cursor: Seq(7),
        decided: Seq(decided),
        ..Page::default()
    };
    world.page_with(page(vec![row(7)], 5));
    assert!(world.sent().is_none());
    world.nothing_is_due();
    assert!(world.asked().is_none(), "nothing to read yet");
    for _ in 0..5 {
        world.passes(SECOND);
        world.nothing_is_due();
    }
    assert_eq!(world.asked(), Some(Question::Blockers));
    world.answers(Answer::Blockers(vec![OpenTransaction {
        pid: Some(1),
        who: "w".into(),
        state: "idle".into(),
        open_for: 5.0,
    }]));
    world.page_with(page(Vec::new(), 7));
    world.nothing_is_due();
    world.reread(vec![row(7)]);
    assert_eq!(seqs(&world.batch()), [7]);
}

#[test]
fn a_route_has_no_more_in_flight_than_it_may() {
    let limits = Limits {
        max_in_flight: Some(1),
        ..Limits::default()
    };
    let mut world = World::running(Asks {
        limits,
        order: Order::None,
        ..Asks::default()
    });
    world.page(vec![row(1), row(2)]);
    let batch = world.batch();
    assert_eq!(seqs(&batch), [1]);
    world.outcomes(batch, vec![ACK]);
    assert_eq!(seqs(&world.batch()), [2]);
}

#[test]
fn a_route_sends_no_faster_than_it_may() {
    let limits = Limits {
        rate: NonZeroU32::new(1),
        ..Limits::default()
    };
    let mut world = World::running(Asks {
        limits,
        ..Asks::default()
    });
    world.page(vec![row(1), row(2)]);
    let batch = world.batch();
    world.outcomes(batch, vec![ACK]);
    assert!(world.sent().is_none());
    world.passes(SECOND);
    assert_eq!(seqs(&world.batch()), [2]);
}
