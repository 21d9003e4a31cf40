//! kill -9 of the real server at every failpoint, under writers and readers: nothing acknowledged is
//! lost, nothing is there twice, nothing was shown and then lost, state == replay, exits gap-free.
//!
//! Each test is one row of the matrix; `cargo xtask soak` runs more passes and seeds. A failure
//! prints the seed and the plan.

#![cfg(feature = "failpoints")]

use springhead_sim::process::default_binary;
use springhead_sim::scenario::Report;
use springhead_sim::{failpoints, matrix, scenario};

/// One row of the matrix: the failpoint at its first passes and at later ones.
fn killed_at(failpoint: &str) {
    let mut total = Report::default();
    for (hit, seed) in [(1, 11), (3, 12)] {
        let plan = matrix::at_failpoint(failpoint, hit, seed);
        match scenario::run(&default_binary(), &plan) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failpoint} at pass {hit}: {failure}"),
        }
    }
    println!("{failpoint}: {total}");
    assert!(
        !total.reached.is_empty(),
        "{failpoint} was never passed: {total}"
    );
    assert!(
        total.acknowledged > 100,
        "{failpoint}: too few commits to mean anything: {total}"
    );
}

/// Beginnings of points that a primary under this load does not pass. The tests of what does pass
/// them kill there.
const ELSEWHERE: [&str; 11] = [
    // Backups, their restores, and the archive.
    "backup.",
    "restore.",
    "archive.",
    // New histories, followers and forks.
    "log.epoch_",
    "log.follow_",
    "log.truncate_",
    // Devices, their dead letters, standbys, and their elections.
    "dead_letters.",
    "device.",
    "sync.",
    "standby.",
    "vote.",
];

macro_rules! matrix {
    ($($test:ident: $failpoint:literal,)*) => {
        $(#[test] fn $test() { killed_at($failpoint); })*

        #[test]
        fn the_matrix_has_every_failpoint() {
            let mut rows = vec![$($failpoint),*];
            let mut points = failpoints();
            points.retain(|point| !ELSEWHERE.iter().any(|elsewhere| point.starts_with(elsewhere)));
            rows.sort_unstable();
            points.sort_unstable();
            assert_eq!(rows, points);
        }
    };
}

matrix! {
    g1_killed_before_the_write: "log.before_write",
    g1_killed_in_the_write: "log.mid_write",
    g1_killed_after_the_write: "log.after_write",
    g1_killed_before_the_flush: "log.before_flush",
    g1_killed_after_the_flush: "log.after_flush",
    g3_killed_between_the_frames_of_a_large_commit: "log.large_part_written",
    g1_killed_before_a_new_segment: "log.before_rotate",
    g1_killed_before_a_segment_is_named: "log.before_rename",
    g1_killed_after_a_segment_is_named: "log.after_rename",
    g1_killed_after_a_new_segment: "log.after_rotate",
    g1_killed_before_the_log: "writer.before_append",
    g1_killed_right_after_the_log: "writer.after_append",
    g1_killed_before_sqlites_commit: "writer.before_commit",
    g1_killed_after_sqlites_commit: "writer.after_commit",
    g1_killed_before_the_reply: "writer.before_reply",
    g1_killed_before_the_state_is_checked_for_a_trim: "engine.before_trim",
    g1_killed_before_a_trim: "log.before_trim",
    g1_killed_in_a_trim: "log.mid_trim",
    g1_killed_after_a_trim: "log.after_trim",
    g1_killed_before_a_compressed_segment_takes_its_place: "log.before_compress_rename",
    g1_killed_after_a_compressed_segment_took_its_place: "log.after_compress_rename",
}
