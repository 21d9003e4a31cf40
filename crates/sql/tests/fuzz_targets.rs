//! The fuzz targets of the dialect, as the suite runs them.

// What the targets call libFuzzer is this crate: `fuzz_target` is the suite's.
extern crate self as libfuzzer_sys;

#[path = "../../proto/fuzz/suite.rs"]
mod suite;

#[path = "../fuzz/fuzz_targets/plan.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod plan;
#[path = "../fuzz/fuzz_targets/values.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod values;

use suite::fuzz_target;

#[test]
fn the_plan_target_holds_over_its_seeds() {
    suite::over("plan", &suite::lines("fuzz/seeds/plan.txt"), plan::fuzz_one);
}

#[test]
fn the_values_target_holds_over_its_seeds() {
    // Each line for each type, and for its array: the first byte says which.
    let lines = suite::lines("fuzz/seeds/values.txt");
    let mut seeds = lines.clone();
    for choice in (0..22).chain(128..150) {
        seeds.extend(lines.iter().map(|line| [&[choice], &line[..]].concat()));
    }
    suite::over("values", &seeds, values::fuzz_one);
}
