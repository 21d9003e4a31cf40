//! What is kept and for how long, across restarts and jumps of the clock.

use std::path::Path;
use std::sync::Arc;

use springhead_log::conformance::commit_of;
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Log, LogError, ManualClock, ReadFilter};
use springhead_proto::{Lsn, TimestampMs};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn config() -> SegmentConfig {
    SegmentConfig {
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        reserve_bytes: 0,
        retain_ms: 7 * DAY_MS,
        ..SegmentConfig::default()
    }
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> SegmentLog {
    SegmentLog::open(dir, config(), clock.clone()).expect("opened")
}

/// Appends until another segment has begun.
fn fill_segment(log: &SegmentLog) {
    let segments = log.stats().segments;
    while log.stats().segments == segments {
        log.append(vec![commit_of(1, 100, 1, "x", 4_000)])
            .expect("appended");
    }
}

#[test]
fn time_retention_counts_the_time_that_the_log_was_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(ManualClock::at(50 * DAY_MS));
    let log = open(dir.path(), &clock);
    fill_segment(&log);
    clock.advance(6 * DAY_MS);
    assert_eq!(log.trim_candidate(), None);
    // The machine's clock jumps years ahead, and back: nothing has grown older.
    clock.jump_to(5_000 * DAY_MS);
    assert_eq!(log.trim_candidate(), None);
    clock.jump_to(DAY_MS);
    assert_eq!(log.trim_candidate(), None);
    drop(log);
    // Nor does it while the log is closed.
    clock.jump_to(100 * DAY_MS);
    let closed = Arc::new(ManualClock::at(100 * DAY_MS));
    let log = open(dir.path(), &closed);
    assert_eq!(log.trim_candidate(), None);
    closed.advance(DAY_MS / 2);
    assert_eq!(log.trim_candidate(), None);
    closed.advance(DAY_MS);
    let up_to = log.trim_candidate().expect("over seven days of running");
    log.trim(up_to).expect("trimmed");
    assert_eq!(log.stats().segments, 1, "the active segment always stays");
    assert_eq!(log.trim_candidate(), None);
}

#[test]
fn times_never_go_back_across_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(ManualClock::at(5_000));
    let log = open(dir.path(), &clock);
    let append = |log: &SegmentLog| {
        log.append(vec![commit_of(1, 100, 1, "x", 10)])
            .expect("appended")
            .timestamp_ms
    };
    assert_eq!(append(&log), TimestampMs(5_000));
    drop(log);
    clock.jump_to(1_000);
    let log = open(dir.path(), &clock);
    assert_eq!(log.tail().timestamp_ms, TimestampMs(5_000));
    assert_eq!(append(&log), TimestampMs(5_000));
}

#[test]
fn a_trimmed_log_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(ManualClock::at(1_000));
    let log = open(dir.path(), &clock);
    for _ in 0..6 {
        fill_segment(&log);
    }
    // A large commit over the border, and the segment it begins in is trimmed.
    log.append(vec![commit_of(2, 100, 100, "large", 2_000)])
        .expect("appended");
    let large_end = log.tail().durable;
    fill_segment(&log);
    let before_large = Lsn(large_end.0 - 100);
    log.trim(before_large).expect("trimmed");
    let kept = log.earliest();
    assert!(
        kept <= before_large.next(),
        "what a large commit begins in stays with it"
    );
    log.trim(large_end).expect("trimmed");
    assert!(log.earliest() > before_large);
    let (earliest, tail, epochs) = (log.earliest(), log.tail(), log.epochs());
    drop(log);
    let log = open(dir.path(), &clock);
    assert_eq!(
        (log.earliest(), log.tail(), log.epochs()),
        (earliest, tail, epochs)
    );
    let refused = log.reader(earliest.previous(), ReadFilter::default()).err();
    assert!(
        matches!(refused, Some(LogError::Trimmed { .. })),
        "{refused:?}"
    );
    let mut reader = log
        .reader(earliest, ReadFilter::default())
        .expect("a reader");
    let mut slices = Vec::new();
    assert_eq!(
        reader.read(&mut slices, u64::MAX).expect("readable"),
        tail.durable
    );
    assert_eq!(slices[0].commit_lsn, earliest);
    let next = log
        .append(vec![commit_of(1, 100, 1, "x", 10)])
        .expect("appended");
    assert_eq!(next.first_lsn, tail.durable.next());
}

/// Readers go on while the log is trimmed under them: each gets a gap-free stretch and then either
/// the end or a clear "trimmed", never damage.
#[test]
fn g5_readers_under_trimming_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = SegmentConfig {
        retain_bytes: 128 << 10,
        compress_level: Some(1),
        ..config()
    };
    let clock = Arc::new(ManualClock::at(1_000));
    let log = SegmentLog::open(dir.path(), config, clock).expect("opened");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                use std::sync::atomic::Ordering;
                let mut restarts = 0u32;
                while !done.load(Ordering::Acquire) {
                    let Ok(mut reader) = log.reader(log.earliest(), ReadFilter::default()) else {
                        continue;
                    };
                    let mut next = None;
                    loop {
                        let mut slices = Vec::new();
                        match reader.read(&mut slices, 10_000) {
                            Ok(_) => {}
                            Err(LogError::Trimmed { .. }) => break,
                            Err(error) => panic!("{error}"),
                        }
                        for slice in &slices {
                            assert!(next.is_none_or(|next| next == slice.commit_lsn), "no gap");
                            next = Some(slice.commit_last_lsn().next());
                        }
                        if slices.is_empty() && done.load(Ordering::Acquire) {
                            break;
                        }
                    }
                    restarts += 1;
                }
                restarts
            });
        }
        for _ in 0..1_500 {
            log.append(vec![commit_of(1, 100, 1, "x", 4_000)])
                .expect("appended");
            if let Some(up_to) = log.trim_candidate() {
                log.trim(up_to).expect("trimmed");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Release);
    });
    assert!(log.stats().kept_bytes < 400 << 10, "it was trimmed");
}
