//! Kills of server and devices at every place of statement, push, verdict, apply, acknowledge, expiry
//! and definition, in simulation: the real engine and the real devices in one process, nothing but
//! memory between them ([`kill`] says what dies and what is left). After each kill every mutation is
//! exactly one of applied, dead-lettered and pending, and in the end counters and totals are exact and
//! every device shows what the server has.
//!
//! `CRASH_RUNS=10000 cargo nextest run -p springhead-device --features failpoints --test crash` runs more
//! of them; `CRASH_FIRST=17 CRASH_RUNS=1` begins where a failure says. A world lives for some runs and is
//! made anew; a world's runs are those of its seed.

#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod checks;
mod kill;
#[path = "../device/support.rs"]
#[allow(dead_code, reason = "the other tests of devices use what these do not")]
mod support;
mod world;

use std::collections::BTreeMap;

use world::{Moment, World};

/// Where somebody dies, and while what is done.
const POINTS: &[(&str, Moment)] = &[
    // The device's own statement.
    ("device.before_queue", Moment::Statement),
    ("log.before_write", Moment::Statement),
    ("log.mid_write", Moment::Statement),
    ("log.after_flush", Moment::Statement),
    ("writer.before_append", Moment::Statement),
    ("writer.after_append", Moment::Statement),
    ("writer.before_commit", Moment::Statement),
    ("writer.after_commit", Moment::Statement),
    // The device, talking.
    ("device.before_push", Moment::DeviceTalks),
    ("device.after_push", Moment::DeviceTalks),
    ("device.before_news", Moment::DeviceTalks),
    ("device.before_replay", Moment::DeviceTalks),
    ("device.after_news", Moment::DeviceTalks),
    ("device.before_acknowledge", Moment::DeviceTalks),
    ("writer.before_append", Moment::DeviceTalks),
    ("log.mid_write", Moment::DeviceTalks),
    ("writer.after_append", Moment::DeviceTalks),
    ("writer.before_commit", Moment::DeviceTalks),
    ("writer.after_commit", Moment::DeviceTalks),
    ("device.before_definitions", Moment::DeviceLearns),
    ("device.after_definitions", Moment::DeviceLearns),
    ("writer.before_append", Moment::DeviceLearns),
    ("writer.after_append", Moment::DeviceLearns),
    ("writer.after_commit", Moment::DeviceLearns),
    // The server, deciding.
    ("sync.before_apply", Moment::ServerDecides),
    ("sync.after_apply", Moment::ServerDecides),
    ("dead_letters.record", Moment::ServerDecides),
    ("sync.after_verdict", Moment::ServerDecides),
    ("sync.before_append", Moment::ServerDecides),
    ("log.before_write", Moment::ServerDecides),
    ("log.mid_write", Moment::ServerDecides),
    ("log.after_write", Moment::ServerDecides),
    ("log.before_flush", Moment::ServerDecides),
    ("log.after_flush", Moment::ServerDecides),
    ("sync.after_append", Moment::ServerDecides),
    ("writer.before_commit", Moment::ServerDecides),
    ("writer.after_commit", Moment::ServerDecides),
    ("sync.before_verdicts", Moment::ServerDecides),
    // What is due of dead letters.
    ("dead_letters.expire", Moment::Expiry),
    ("dead_letters.retry", Moment::Expiry),
    ("writer.before_append", Moment::Expiry),
    ("log.mid_write", Moment::Expiry),
    ("writer.after_append", Moment::Expiry),
    ("writer.after_commit", Moment::Expiry),
    // A definition.
    ("writer.before_append", Moment::Definition),
    ("log.mid_write", Moment::Definition),
    ("writer.after_append", Moment::Definition),
    ("writer.before_commit", Moment::Definition),
    ("writer.after_commit", Moment::Definition),
];

/// Runs of one world.
const RUNS_OF_A_WORLD: u64 = 30;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_killed_anywhere_each_mutation_is_applied_dead_lettered_or_pending() {
    kill::install();
    let first = number("CRASH_FIRST", 0);
    let last = first + number("CRASH_RUNS", 2 * POINTS.len() as u64);
    let mut kills: BTreeMap<(&str, Moment), u64> = BTreeMap::new();
    let mut mutations = 0;
    let mut begin = first;
    while begin < last {
        let end = (begin + RUNS_OF_A_WORLD).min(last);
        let mut world = World::start(begin).await;
        for run in begin..end {
            let at = POINTS[usize::try_from(run).unwrap() % POINTS.len()];
            // The first pass of each, then the second, the third.
            let passes = 1 + run / POINTS.len() as u64 % 3;
            let what = format!("world {begin}, run {run}: {at:?}, pass {passes}");
            if world.run(at, passes, &what).await {
                *kills.entry(at).or_default() += 1;
            }
        }
        mutations += world
            .end(&format!("world {begin}, after run {}", end - 1))
            .await;
        begin = end;
    }
    let sum: u64 = kills.values().sum();
    println!("{} runs, {sum} kills, {mutations} mutations", last - first);
    for ((point, moment), count) in &kills {
        println!("  {point} in {moment:?}: {count}");
    }
    // A range in the middle may have the later passes alone, which not every moment has.
    let has_first_passes = first.is_multiple_of(3 * POINTS.len() as u64);
    if has_first_passes && last - first >= 2 * POINTS.len() as u64 {
        let missed: Vec<_> = (POINTS.iter())
            .filter(|point| !kills.contains_key(*point))
            .collect();
        assert!(missed.is_empty(), "nobody was killed at {missed:?}");
    }
}
