//! The protocol of votes, checked in every state that it can get into within bounds: messages are
//! lost, doubled, late and out of order, nodes crash and lose what they had not flushed, any node
//! campaigns at any time. G11: what [`model::INVARIANTS`] says holds in each. A protocol without one of
//! its rules is found.
//!
//! `SPRINGHEAD_MODEL_BOUNDS=ballots,writes,crashes,changes` searches other bounds than the suite's, to
//! the end; an optimised build visits some hundred thousand states a second.

mod model;
mod search;

use springhead_log::vote::Omitted;

use model::{Bounds, INVARIANTS};
use search::{search, walk};

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the suite searches: it ends in seconds without optimisation.
const SUITE: &[Bounds] = &[Bounds {
    ballots: 2,
    writes: 1,
    crashes: 1,
    changes: 1,
}];

fn bounds() -> Vec<Bounds> {
    let Some(text) = setting("SPRINGHEAD_MODEL_BOUNDS") else {
        return SUITE.to_vec();
    };
    let numbers: Vec<u8> = text
        .split(',')
        .map(|number| number.trim().parse().expect("four numbers"))
        .collect();
    let [ballots, writes, crashes, changes] = numbers[..] else {
        panic!("SPRINGHEAD_MODEL_BOUNDS is ballots,writes,crashes,changes");
    };
    vec![Bounds {
        ballots: u32::from(ballots),
        writes: usize::from(writes),
        crashes,
        changes: u32::from(changes),
    }]
}

#[test]
fn g11_every_state_within_bounds_keeps_every_invariant() {
    println!("invariants: {INVARIANTS:#?}");
    for bounds in bounds() {
        let begun = std::time::Instant::now();
        let searched = search(bounds, Omitted::default(), usize::MAX);
        println!(
            "{bounds:?}: {} states, all there are, by {} steps, in {:?}",
            searched.states,
            searched.steps,
            begun.elapsed()
        );
        if let Some(broken) = searched.broken {
            panic!("{broken}");
        }
    }
}

#[test]
fn g11_random_ways_through_many_ballots_lose_nothing() {
    const BOUNDS: Bounds = Bounds {
        ballots: 7,
        writes: 6,
        crashes: 6,
        changes: 4,
    };
    let seeds = setting("SPRINGHEAD_MODEL_SEEDS").map_or(80, |text| text.parse().expect("seeds"));
    let go = |seed| walk(seed, BOUNDS, Omitted::default()).expect("G11 holds");
    let (mut steps, mut primaries, mut acknowledged) = (0, 0, 0);
    for seed in 1..=seeds {
        let (state, taken) = go(seed);
        let (begun, commits) = state.counts();
        steps += taken;
        primaries += begun;
        acknowledged += commits;
        if seed.is_multiple_of(50) {
            assert_eq!(go(seed).0, state, "one seed, one way");
        }
    }
    println!(
        "{seeds} seeds: {steps} steps, {primaries} primaries, {acknowledged} commits acknowledged"
    );
    assert!(primaries > 0 && acknowledged > 0, "something happened");
}

/// Each rule is needed: without it a search finds how a commit is lost, or two primaries.
#[track_caller]
fn check_broken(omitted: Omitted) {
    const STEPS: [Bounds; 2] = [
        Bounds {
            ballots: 2,
            writes: 1,
            crashes: 0,
            changes: 1,
        },
        Bounds {
            ballots: 2,
            writes: 1,
            crashes: 1,
            changes: 1,
        },
    ];
    for bounds in STEPS {
        let searched = search(bounds, omitted, usize::MAX);
        println!("{omitted:?} {bounds:?}: {} states", searched.states);
        if let Some(broken) = searched.broken {
            println!("{broken:.160}");
            return;
        }
    }
    panic!("without the rule G11 does not hold, and the search must find it");
}

#[test]
fn g11_without_promising_a_ballot_once_the_check_finds_two_primaries() {
    check_broken(Omitted {
        promise_once: true,
        ..Omitted::default()
    });
}

/// A primary that had the witness call the other node in sync as soon as it was elected: nothing was
/// acknowledged in its own ballot yet, and the other lacked what had been in the one before.
#[test]
fn g11_without_counting_what_an_earlier_primary_acknowledged_the_check_finds_a_loss() {
    check_broken(Omitted {
        count_begun: true,
        ..Omitted::default()
    });
}

#[test]
fn g11_without_comparing_positions_the_check_finds_a_loss() {
    check_broken(Omitted {
        compare_positions: true,
        ..Omitted::default()
    });
}

#[test]
fn g11_without_fenced_acknowledgements_the_check_finds_a_loss() {
    check_broken(Omitted {
        fence_acknowledgements: true,
        ..Omitted::default()
    });
}

#[test]
fn g11_without_the_witness_knowing_who_is_in_sync_the_check_finds_a_loss() {
    check_broken(Omitted {
        check_in_sync: true,
        ..Omitted::default()
    });
}
