//! The fuzz target of the log's files, as the suite runs it. Needs the feature `failpoints`, which opens the
//! decoders to tests.
#![cfg(feature = "failpoints")]

// What the target calls libFuzzer is this crate: `fuzz_target` is the suite's.
extern crate self as libfuzzer_sys;

#[path = "../../proto/fuzz/suite.rs"]
mod suite;

#[path = "../fuzz/fuzz_targets/segment.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod segment;

use springhead_log::segment::fuzzing::seed_of;
use suite::fuzz_target;

#[test]
fn g12_the_segment_target_holds_over_the_fixtures() {
    let mut seeds = Vec::new();
    for version in ["v1", "v1-compressed"] {
        let directory = format!("{}/tests/fixtures/{version}", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(directory).expect("fixtures") {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("a fixture");
            // The target's first byte says what the others are.
            let (choice, input) = match path.extension().and_then(|extension| extension.to_str()) {
                Some("seg") => (0, seed_of(&bytes)),
                // It adds the checksum itself.
                Some("idx") => (1, bytes[..bytes.len() - 4].to_vec()),
                Some("segz") => (2, bytes),
                _ => continue,
            };
            seeds.push([&[choice], &input[..]].concat());
        }
    }
    seeds.sort();
    assert!(seeds.len() >= 5, "only {} seeds", seeds.len());
    suite::over("segment", &seeds, segment::fuzz_one);
}
