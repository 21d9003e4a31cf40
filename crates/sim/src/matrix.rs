//! Plans made from a seed: the crash matrix and the random kills.
//!
//! The server's crash tests take one plan per failpoint and a few seeds; `soak` takes them all, for
//! as long as it is told to.

use std::time::Duration;

use crate::followers::Exit;
use crate::load::Style;
use crate::rng::Rng;
use crate::scenario::{End, Plan};

/// Small segments, so that a short run fills and seals many.
pub const SMALL_SEGMENTS: &[(&str, &str)] = &[("SPRINGHEAD_SEGMENT_BYTES", "1048576")];

/// The same, and sealed ones are compressed.
pub const COMPRESSED_SEGMENTS: &[(&str, &str)] = &[
    ("SPRINGHEAD_SEGMENT_BYTES", "1048576"),
    ("SPRINGHEAD_COMPRESS_LEVEL", "3"),
];

/// Small segments of which retention keeps few, looked after often.
pub const SHORT_RETENTION: &[(&str, &str)] = &[
    ("SPRINGHEAD_SEGMENT_BYTES", "1048576"),
    ("SPRINGHEAD_RETAIN_BYTES", "16777216"),
    ("SPRINGHEAD_MAINTENANCE_INTERVAL", "50ms"),
];

/// Two lives that end at `failpoint`, at its `hit`-th pass and at a later one, with a kill from
/// outside between them and an orderly stop after.
#[must_use]
pub fn at_failpoint(failpoint: &str, hit: u64, seed: u64) -> Plan {
    let mut rng = Rng::new(seed ^ hash(failpoint));
    // What makes it pass there: large commits, or so many bytes that segments fill.
    let (large_percent, medium_percent) = match failpoint {
        "log.large_part_written" => (10, 0),
        name if is_rare(name) => (0, 60),
        _ => (0, 2),
    };
    let give_up_after = if is_rare(failpoint) { 1500 } else { 400 };
    let trims = failpoint.contains("trim");
    let at = |hit| End::Failpoint {
        name: failpoint.to_owned(),
        hit,
        give_up_after,
    };
    let later = hit + 1 + rng.below(if is_rare(failpoint) { 2 } else { 40 });
    Plan {
        seed: rng.next(),
        writers: 3,
        style: Style {
            large_percent,
            medium_percent,
            attempts: 0,
        },
        readers: vec![Exit::Sse, Exit::Alternating],
        ends: vec![
            at(hit),
            End::Kill {
                after: 10 + rng.below(40),
            },
            at(later),
            End::Stop { after: 10 },
        ],
        trims,
        env: environment(match failpoint {
            _ if trims => SHORT_RETENTION,
            name if name.contains("compress") => COMPRESSED_SEGMENTS,
            _ => SMALL_SEGMENTS,
        }),
    }
}

/// Lives that end when they end.
#[must_use]
pub fn at_random(seed: u64, lives: usize) -> Plan {
    let mut rng = Rng::new(seed);
    let ends = (0..lives).map(|_| match rng.below(10) {
        0..7 => End::Kill {
            after: rng.below(120),
        },
        7 => End::Pause {
            after: 1 + rng.below(60),
            time: Duration::from_millis(100 + rng.below(2000)),
        },
        _ => End::Stop {
            after: rng.below(80),
        },
    });
    let ends = ends.collect();
    Plan {
        seed,
        writers: 2 + usize::try_from(rng.below(7)).unwrap_or(0),
        style: Style {
            large_percent: if rng.chance(20) { 2 } else { 0 },
            medium_percent: rng.below(8),
            attempts: 0,
        },
        readers: vec![Exit::Sse, Exit::Poll, Exit::Alternating],
        ends,
        trims: false,
        env: if rng.chance(50) {
            environment(COMPRESSED_SEGMENTS)
        } else {
            Vec::new()
        },
    }
}

/// Whether a failpoint lies on a path that only full segments take.
#[must_use]
pub fn is_rare(failpoint: &str) -> bool {
    ["rotate", "rename", "trim", "compress", "checkpoint"]
        .iter()
        .any(|part| failpoint.contains(part))
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// FNV-1a: the same for the same name everywhere.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
