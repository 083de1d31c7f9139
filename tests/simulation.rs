//! The engine in bad weather: one seed is one story of writers, operators, processes, brokers and a database in which
//! things go wrong, played on fakes under paused time, and judged by what was promised.
//!
//! ```text
//!  seed ──> scenario ──> world (relays, table, brokers, faults) ──> record ──> judge ──> which promise broke first
//! ```
//!
//! A seed replays exactly. `just simulate N` plays N seeds, `just simulate --seed S` one, telling what happened.

mod journal;
mod judge;
mod ports;
mod scenario;
mod theirs;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use judge::judge;
use outboxd::relay::sabotage::{self, Sabotage};
use scenario::Scenario;

/// Seeds of `dev/test`.
const SEEDS: u64 = 3_000;
const THREADS: u64 = 2;
/// A broken engine is noticed within so many seeds.
const CAUGHT_WITHIN: u64 = 1_000;
const REPLAYED: u64 = 100;

/// Plays one seed; answers what is wrong with it, in words.
fn play(seed: u64) -> Result<usize, String> {
    let scenario = Arc::new(Scenario::of(seed));
    let outcome = catch_unwind(AssertUnwindSafe(|| world::play(&scenario)))
        .map_err(|_| format!("seed {seed}: the simulation panicked\n  replay: just simulate --seed {seed}"))?;
    let violations = judge(&scenario, &outcome);
    match violations.first() {
        None => Ok(outcome.record.events.len()),
        Some(first) => {
            let told = outcome.record.tell(first.at, &first.rows);
            Err(format!(
                "seed {seed}: {}: {} ({} violations)\n{told}\n  replay: just simulate --seed {seed}",
                first.rule,
                first.text,
                violations.len()
            ))
        }
    }
}

/// As [`play`], with an engine broken in one way.
fn play_broken(sabotage: Sabotage, seed: u64) -> Result<usize, String> {
    sabotage::choose(Some(sabotage));
    let played = play(seed);
    sabotage::choose(None);
    played
}

/// Each known-broken variant of the engine is noticed, by a seed that the engine as it is passes.
#[test]
fn broken_engines_are_caught() {
    for sabotage in Sabotage::ALL {
        let caught = (0..CAUGHT_WITHIN).find_map(|seed| play_broken(sabotage, seed).err().map(|wrong| (seed, wrong)));
        let (seed, wrong) = caught.unwrap_or_else(|| panic!("{sabotage:?} was not caught in {CAUGHT_WITHIN} seeds"));
        let first = wrong.lines().next().unwrap();
        println!("{sabotage:?}: {first}");
        play(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// A seed replays event for event.
#[test]
fn a_seed_replays_exactly() {
    for seed in 0..REPLAYED {
        let scenario = Arc::new(Scenario::of(seed));
        let told = || world::play(&scenario).record.tell_all();
        let (once, again) = (told(), told());
        let differs = once.lines().zip(again.lines()).find(|(one, other)| one != other);
        assert!(once == again, "seed {seed} did not replay: {differs:?}");
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn seeds_keep_the_promises() {
    if let Some(seed) = setting("OUTBOXD_SEED") {
        let scenario = Arc::new(Scenario::of(seed));
        println!("{scenario:#?}");
        println!("{}", world::play(&scenario).record.tell_all());
        let events = play(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        println!("seed {seed}: {events} events, no promise broken");
        return;
    }
    let seeds = setting("OUTBOXD_SIMULATIONS").unwrap_or(SEEDS);
    let loud = setting("OUTBOXD_SIMULATIONS").is_some();
    let (next, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = std::time::Instant::now();
    let wrong = std::thread::scope(|scope| {
        let work = || {
            let mut wrong = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || wrong.len() > 20 {
                    return wrong;
                }
                match play(seed) {
                    Ok(count) => drop(events.fetch_add(count as u64, Ordering::Relaxed)),
                    Err(text) => wrong.push((seed, text)),
                }
                if loud && seed % 500 == 499 {
                    println!("{} seeds, {:.0} s", seed + 1, began.elapsed().as_secs_f64());
                }
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    println!(
        "{seeds} seeds, {} events, {} seeds broke a promise, {:.0} s",
        events.into_inner(),
        wrong.len(),
        began.elapsed().as_secs_f64()
    );
    let shortest = wrong.iter().min_by_key(|(_, text)| text.len());
    if let Some((_, text)) = shortest {
        let seeds: Vec<u64> = wrong.iter().map(|(seed, _)| *seed).collect();
        panic!("{seeds:?}\n{text}");
    }
}
