//! A closed log is cut back to a fork: at every commit, at every call of the disk, and nothing that
//! was cut off is lost.

// The simulated disk belongs to the crate `sim`, which depends on this one.
#[path = "../../sim/src/disk.rs"]
#[allow(dead_code)]
mod disk;

use std::path::Path;
use std::sync::Arc;

use disk::{Faults, SimDisk};
use springhead_log::conformance::{assert_whole_and_ordered, commit_of, drain};
use springhead_log::disk::{Disk, RealDisk};
use springhead_log::segment::{SegmentConfig, SegmentLog, Truncated, truncate, verify};
use springhead_log::{
    CommitSlice, Log, LogError, ManualClock, NoProgress, RawLog as _, ReadFilter,
};
use springhead_proto::Lsn;

fn config(compress_level: Option<i32>) -> SegmentConfig {
    SegmentConfig {
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        reserve_bytes: 0,
        background: false,
        compress_level,
        ..SegmentConfig::default()
    }
}

fn open(disk: Arc<dyn Disk>, dir: &Path, config: SegmentConfig) -> SegmentLog {
    let clock = Arc::new(ManualClock::at(1_000));
    SegmentLog::open_on(disk, dir, config, clock, &NoProgress).expect("opened")
}

fn on_disk(dir: &Path) -> SegmentLog {
    open(Arc::new(RealDisk), dir, config(None))
}

/// What a log holds, slice by slice.
fn read(log: &SegmentLog) -> Vec<CommitSlice> {
    let mut reader = log
        .reader(log.earliest(), ReadFilter::default())
        .expect("a reader");
    let (slices, _) = drain(reader.as_mut());
    assert_whole_and_ordered(&slices);
    slices
}

fn bytes_of(slices: &[CommitSlice]) -> Vec<(Lsn, Vec<u8>)> {
    let pieces = slices.iter();
    pieces
        .map(|slice| (slice.first_lsn(), slice.changes.to_vec()))
        .collect()
}

/// Batches of several commits, large commits over several segments, three histories.
fn fill(log: &SegmentLog) {
    for round in 0..12u64 {
        let commits = (0..3).map(|n| commit_of(n + 1, 100, 1 + u64::from(n), "small", 1_500));
        log.append(commits.collect()).expect("appended");
        if round % 5 == 2 {
            log.append(vec![commit_of(2, 100, 150, "large", 1_000)])
                .expect("appended");
        }
        if round == 4 || round == 8 {
            log.begin_epoch().expect("begun");
        }
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copied");
    }
    to
}

fn check_every_commit(compress_level: Option<i32>) {
    let whole = tempfile::tempdir().expect("a directory");
    let log = open(Arc::new(RealDisk), whole.path(), config(compress_level));
    fill(&log);
    let (slices, epochs) = (read(&log), log.epochs());
    let ends = log.frame_ends(1_000).expect("looked");
    drop(log);
    let mut last_commit = Lsn::ZERO;
    for slice in slices.iter().filter(|slice| slice.index == 0) {
        let after = slice.commit_last_lsn();
        if slice.commit_count > 1 {
            let dir = copy(whole.path());
            let refused = truncate(&RealDisk, dir.path(), slice.commit_lsn);
            let within = matches!(refused, Err(LogError::WithinCommit { first, last, .. })
                if first == slice.commit_lsn && last == after);
            assert!(within, "{refused:?}");
        }
        let dir = copy(whole.path());
        let cut = truncate(&RealDisk, dir.path(), after).expect("cut");
        check_cut(dir.path(), after, cut, &slices);
        let log = on_disk(dir.path());
        let expected = epochs
            .iter()
            .filter(|record| record.fork_lsn < after || record.number == 1);
        assert_eq!(log.epochs(), expected.copied().collect::<Vec<_>>());
        // Where a frame ended, the chain is what it was, so that a stream can go on.
        let end = log.identity().written;
        if let Some(before) = ends.iter().find(|end| end.lsn == after) {
            assert_eq!(end, *before);
        }
        let appended = log
            .append(vec![commit_of(1, 100, 2, "more", 10)])
            .expect("it goes on");
        assert_eq!(appended.first_lsn, after.next());
        last_commit = after;
    }
    let refused = truncate(&RealDisk, whole.path(), last_commit.next());
    assert!(
        matches!(refused, Err(LogError::Future { .. })),
        "{refused:?}"
    );
    assert_eq!(
        truncate(&RealDisk, whole.path(), last_commit).expect("nothing"),
        None
    );
}

fn check_cut(dir: &Path, after: Lsn, cut: Option<Truncated>, all: &[CommitSlice]) {
    let log = on_disk(dir);
    let left = all
        .iter()
        .filter(|slice| slice.commit_lsn <= after)
        .cloned();
    assert_eq!(bytes_of(&read(&log)), bytes_of(&left.collect::<Vec<_>>()));
    assert_eq!(log.tail().durable, after);
    drop(log);
    let report = verify(&RealDisk, dir, &NoProgress).expect("looked at");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let last = all.last().expect("some").last_lsn();
    let Some(cut) = cut else {
        assert_eq!(after, last);
        return;
    };
    assert_eq!((cut.after, cut.last), (after, last));
    // What was cut off is a log that can be read.
    let kept = on_disk(&cut.kept_in);
    let later = all.iter().filter(|slice| slice.commit_lsn > after).cloned();
    let kept: Vec<_> = read(&kept)
        .into_iter()
        .filter(|slice| slice.commit_lsn > after)
        .collect();
    assert_eq!(bytes_of(&kept), bytes_of(&later.collect::<Vec<_>>()));
}

#[test]
fn g11_a_log_is_cut_at_any_commit_and_keeps_what_was_cut() {
    check_every_commit(None);
}

#[test]
fn g11_a_compressed_log_is_cut_at_any_commit() {
    check_every_commit(Some(1));
}

#[test]
fn a_log_can_be_cut_to_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = on_disk(dir.path());
    fill(&log);
    drop(log);
    truncate(&RealDisk, dir.path(), Lsn::ZERO).expect("cut");
    let log = on_disk(dir.path());
    assert_eq!(log.tail().durable, Lsn::ZERO);
    assert_eq!(log.epochs().len(), 1);
}

#[test]
fn g5_what_retention_has_trimmed_cannot_be_cut_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = SegmentConfig {
        retain_bytes: 0,
        ..config(None)
    };
    let log = open(Arc::new(RealDisk), dir.path(), config);
    fill(&log);
    log.trim(log.trim_candidate().expect("something"))
        .expect("trimmed");
    drop(log);
    let refused = truncate(&RealDisk, dir.path(), Lsn(3));
    assert!(
        matches!(refused, Err(LogError::Trimmed { .. })),
        "{refused:?}"
    );
}

/// Power fails at every call of a cut: the log is then as it was, or cut, and nothing between.
#[test]
fn g12_a_cut_that_is_interrupted_is_done_or_not_done() {
    let dir = Path::new("/log");
    let after = Lsn(100);
    for call in 1..2_000 {
        let disk = SimDisk::new(call);
        let log = open(Arc::new(disk.clone()), dir, config(Some(1)));
        fill(&log);
        let all = read(&log);
        let after = all
            .iter()
            .map(CommitSlice::commit_last_lsn)
            .find(|lsn| *lsn >= after)
            .expect("a commit");
        drop(log);
        disk.set_faults(Faults {
            power_off_at: Some(call),
            ..Faults::default()
        });
        let done = truncate(&disk, dir, after);
        if !disk.is_off() {
            done.expect("cut");
            assert!(call > 100, "the calls were counted");
            return;
        }
        disk.power_cycle();
        disk.set_faults(Faults::default());
        let log = open(Arc::new(disk.clone()), dir, config(None));
        let found = read(&log);
        let cut = log.tail().durable == after;
        let left = all
            .iter()
            .filter(|slice| !cut || slice.commit_lsn <= after)
            .cloned();
        assert_eq!(
            bytes_of(&found),
            bytes_of(&left.collect::<Vec<_>>()),
            "call {call}"
        );
        drop(log);
        truncate(&disk, dir, after).expect("cut again");
        let log = open(Arc::new(disk), dir, config(None));
        assert_eq!(log.tail().durable, after);
    }
    panic!("a cut takes fewer calls");
}
