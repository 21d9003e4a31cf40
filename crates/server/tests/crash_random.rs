//! kill -9 and SIGTERM of the real server whenever: as many lives as fit a short run.

use springhead_sim::process::default_binary;
use springhead_sim::{matrix, scenario};

#[track_caller]
fn survives(seed: u64, lives: usize) {
    match scenario::run(&default_binary(), &matrix::at_random(seed, lives)) {
        Ok(report) => {
            println!("seed {seed}: {report}");
            assert!(
                report.acknowledged > 50,
                "too few commits to mean anything: {report}"
            );
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn g1_g2_g3_hold_over_ten_kills() {
    survives(1, 10);
}

#[test]
fn g1_g2_g3_hold_over_ten_other_kills() {
    survives(2, 10);
}

#[test]
fn g1_g2_g3_hold_over_kills_right_after_the_start() {
    use springhead_sim::scenario::End;
    let mut plan = matrix::at_random(3, 0);
    plan.ends = vec![End::Kill { after: 1 }; 12];
    match scenario::run(&default_binary(), &plan) {
        Ok(report) => println!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}
