//! Wall clocks that jump by days while nodes vote, and clocks that count from starts days apart: nobody is
//! deposed for it, nobody leads for it, times of changes never fall, and failing over goes on (G11).
//!
//! `SPRINGHEAD_CLOCK_ROUNDS` sets how often all of it happens (1 in the suite).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::process::Command;
use std::time::Instant;

use nodes::load::{Load, nothing_lost};
use nodes::voting::{
    TIMEOUT, WallClock, failover, leads, new_witness, voter, wait_for_leader, wait_in_sync,
};
use nodes::{caught_up, eventually, same_rows, status, url};
use springhead_sim::fixture::Fixture;

/// Days that a clock is ahead, or behind.
const JUMPS: [i64; 3] = [3, -3, 0];

fn rounds() -> usize {
    let text = std::env::var("SPRINGHEAD_CLOCK_ROUNDS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Has a node's monotonic clock, from its next start on, count from so many days earlier; where the machine
/// has no namespaces of time for it, it says so and changes nothing.
fn count_from_days_ago(node: &mut Fixture, days: u64) {
    let offset = (days * 86_400).to_string();
    let words = ["unshare", "--time", "--monotonic", &offset, "--"];
    let tried = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .output();
    if tried.is_ok_and(|output| output.status.success()) {
        node.setup.wrapper = words.map(str::to_owned).to_vec();
    } else {
        println!("not tried: monotonic clocks apart need namespaces of time");
    }
}

/// A witness, a primary a and a standby b, in sync, each with a wall clock to set and a monotonic one of its
/// own.
struct Clocks {
    nodes: [Fixture; 3],
    walls: [WallClock; 3],
}

impl Clocks {
    fn new() -> Clocks {
        let mut witness = new_witness();
        let names = ["a", "b"];
        let mut a = voter("a", &names, &url(&witness), &[]);
        let mut b = voter("b", &names, &url(&witness), &["--standby-of", &url(&a)]);
        count_from_days_ago(&mut a, 3);
        count_from_days_ago(&mut witness, 1);
        let walls = [&mut witness, &mut a, &mut b].map(WallClock::of);
        witness.start();
        a.start();
        a.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
        b.start();
        wait_in_sync(&a, &names);
        Clocks {
            nodes: [witness, a, b],
            walls,
        }
    }
}

/// The times of a node's changes, by its feed: from behind the first ones, which a standby has in its base
/// backup only.
fn times(node: &Fixture) -> Vec<u64> {
    let log = springhead_sim::scenario::read_log(node.setup.http, 10).expect("the feed");
    log.iter().map(|change| change.timestamp_ms).collect()
}

#[test]
fn g11_clocks_that_jump_by_days_depose_nobody_and_lose_nothing() {
    let mut clocks = Clocks::new();
    let (mut primary, mut standby) = (1, 2);
    let load = Load::that_finds_the_primary(&[&clocks.nodes[1], &clocks.nodes[2]], 3);
    let mut jumps = 0;
    for _ in 0..rounds() {
        let epoch = status(&clocks.nodes[primary])["epoch"].clone();
        let promised = status(&clocks.nodes[0])["promised"].clone();
        for wall in &clocks.walls {
            for days in JUMPS {
                wall.set_days(days);
                jumps += 1;
                let (jumped, before) = (Instant::now(), load.count());
                // Longer than any lease, and commits go on all the while.
                eventually("commits go on past every lease", || {
                    let is_long = jumped.elapsed() > TIMEOUT + TIMEOUT / 4;
                    (is_long && load.count() > before + 20).then_some(())
                });
                assert!(leads(&clocks.nodes[primary]) && !leads(&clocks.nodes[standby]));
                let failover = failover(&clocks.nodes[primary]);
                assert_eq!(failover["in_sync"], serde_json::json!(["a", "b"]));
                let row = status(&clocks.nodes[primary])["replication"]["standbys"][0].clone();
                for field in ["lag_ms", "heard_ms"] {
                    assert!(row[field].as_u64().unwrap() < 10_000, "{row}");
                }
            }
        }
        assert_eq!(status(&clocks.nodes[primary])["epoch"], epoch);
        let promised_now = status(&clocks.nodes[0])["promised"].clone();
        assert_eq!(promised_now, promised, "somebody campaigned for a clock");
        // The primary is lost with its clock behind, the other's ahead, and the witness's nowhere near.
        for (wall, days) in clocks.walls.iter().zip([3, -3, 3]) {
            wall.set_days(days);
        }
        clocks.nodes[primary].kill();
        wait_for_leader(&clocks.nodes[standby]);
        let before = load.count();
        eventually("commits go on", || {
            (load.count() > before + 20).then_some(())
        });
        clocks.nodes[primary].start();
        wait_in_sync(&clocks.nodes[standby], &["a", "b"]);
        std::mem::swap(&mut primary, &mut standby);
        for wall in &clocks.walls {
            wall.set_days(0);
        }
    }
    load.wait_until_read();
    let (acknowledged, seen) = load.stop();
    let (leader, other) = (&clocks.nodes[primary], &clocks.nodes[standby]);
    nothing_lost(leader, &acknowledged, &seen);
    caught_up(leader, other);
    same_rows(leader, other, "t");
    let of_leader = times(leader);
    assert!(of_leader.is_sorted(), "times fall");
    assert_eq!(of_leader, times(other));
    println!(
        "{jumps} jumps, {} losses of a primary, {} commits acknowledged, 0 lost",
        rounds(),
        acknowledged.len()
    );
}
