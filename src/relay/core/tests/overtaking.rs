//! Rows with a priority.

use std::sync::Arc;

use super::world::{ACK, Asks, World, refused, row, seqs, urgent};
use crate::delivery::FailureClass;
use crate::message::Seq;
use crate::relay::event::{Batch, Event};
use crate::relay::owning::standing::Standing;
use crate::store::Page;

/// Rows 1 to 3 were read, a batch with the first of them is out, and there is more.
fn with_a_backlog(asks: Asks) -> (World, Batch) {
    let mut world = World::running(asks);
    world.page(vec![row(1)]);
    let batch = world.batch();
    world.page_with(Page {
        rows: vec![row(2), row(3)],
        cursor: Seq(3),
        decided: Seq(3),
        more: true,
        ..Page::default()
    });
    (world, batch)
}

#[test]
fn they_go_before_what_is_in_no_batch_yet_and_in_order_among_themselves() {
    let (mut world, batch) = with_a_backlog(Asks::default());
    world.overtaken_by(vec![urgent(70, 2), urgent(71, 2), urgent(60, 1)]);
    world.overtaken_by(vec![
        urgent(80, 3),
        urgent(70, 2),
        urgent(71, 2),
        urgent(72, 2),
        urgent(60, 1),
    ]);
    world.outcomes(batch, vec![ACK]);
    assert_eq!(seqs(&world.batch()), [80, 70, 71, 72, 60, 2, 3]);
}

#[test]
fn the_cursor_comes_to_them_and_knows_them() {
    let (mut world, batch) = with_a_backlog(Asks::default());
    world.overtaken_by(vec![urgent(5, 1)]);
    world.page(vec![row(4), urgent(5, 1), urgent(6, 1)]);
    world.outcomes(batch, vec![ACK]);
    assert_eq!(seqs(&world.batch()), [5, 6, 2, 3, 4]);
}

#[test]
fn one_whose_key_is_held_waits_behind_the_holder() {
    let (mut world, batch) = with_a_backlog(Asks::default());
    world.outcomes(batch, vec![refused(FailureClass::Failed)]);
    world.overtaken_by(vec![urgent(70, 2)]);
    assert!(world.sent().is_none());
    assert!(!world.core.parts.window.holds(Seq(70)), "it is found again");
}

#[test]
fn a_paused_topic_keeps_them_too() {
    let (mut world, _) = with_a_backlog(Asks::default());
    let paused = Standing {
        paused: Arc::new([Arc::from("t")].into()),
        ..world.standing()
    };
    world.happens(Event::Standing(paused));
    world.overtaken_by(vec![urgent(70, 2)]);
    assert!(!world.core.parts.window.holds(Seq(70)));
}

#[test]
fn in_commit_order_nothing_overtakes() {
    let asks = Asks {
        commit_order: true,
        ..Asks::default()
    };
    let (mut world, batch) = with_a_backlog(asks);
    world.overtaken_by(vec![urgent(70, 2)]);
    world.page(vec![row(4), urgent(5, 1)]);
    world.outcomes(batch, vec![ACK]);
    assert_eq!(seqs(&world.batch()), [2, 3, 4, 5]);
}

#[test]
fn where_the_window_ends_nothing_goes_past_the_first_that_finds_no_room() {
    let (mut world, batch) = with_a_backlog(Asks::default());
    let rows = (0..500).map(|seq| urgent(100 + seq, 1)).collect();
    world.overtaken_by(rows);
    assert_eq!(world.core.parts.window.free_for_urgent().rows, 0);
    world.outcomes(batch, vec![ACK]);
    let sent = seqs(&world.batch());
    assert_eq!(sent, (100..150).collect::<Vec<_>>());
    let holds = |seq: &i64| world.core.parts.window.holds(Seq(*seq));
    let held: Vec<i64> = (100..600).filter(holds).collect();
    let count = i64::try_from(held.len()).unwrap();
    assert!((50..500).contains(&count), "{count}");
    assert_eq!(held, (100..100 + count).collect::<Vec<_>>(), "none goes past another");
}

#[test]
fn while_there_is_nothing_to_overtake_nobody_looks() {
    let mut world = World::running(Asks::default());
    world.page(vec![row(1)]);
    world.nothing_is_due();
    for _ in 0..100 {
        world.passes(super::world::SECOND / 100);
        assert!(!world.looks_for_urgent());
    }
}
