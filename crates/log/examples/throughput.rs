//! Measures the log alone: durable appends per second with 1, 8, 32 and 64 threads, flushes per
//! append, how fast one reader replays, how fast a log opens.
//!
//! `cargo run --release -p springhead-log --example throughput [DIR]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use springhead_log::conformance::commit_of;
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{CommitSource, Log, PendingCommit, ReadFilter, SystemClock};
use springhead_proto::{Changes, Lsn};

const RUN: Duration = Duration::from_secs(3);
const REPLAYED_CHANGES: u64 = 5_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args().nth(1);
    let temporary = tempfile::tempdir()?;
    let dir = given.map_or_else(|| temporary.path().to_owned(), Into::into);
    for threads in [1, 8, 32, 64] {
        let log = SegmentLog::open(
            &dir.join(format!("append-{threads}")),
            SegmentConfig::default(),
            Arc::new(SystemClock),
        )?;
        appends(&log, threads);
    }
    let log = SegmentLog::open(
        &dir.join("replay"),
        SegmentConfig::default(),
        Arc::new(SystemClock),
    )?;
    replay(&log)?;
    drop(log);
    recover(&dir.join("replay"))
}

/// Opening with index files reads the last segment only; without them, all.
fn recover(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    for indexed in [true, false] {
        if !indexed {
            for entry in std::fs::read_dir(dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "idx") {
                    std::fs::remove_file(path)?;
                }
            }
        }
        let start = Instant::now();
        let log = SegmentLog::open(dir, SegmentConfig::default(), Arc::new(SystemClock))?;
        let seconds = start.elapsed().as_secs_f64();
        let gib = log.stats().kept_bytes as f64 / f64::from(1 << 30);
        let files = if indexed { "with" } else { "without" };
        println!(
            "opening {gib:.2} GiB {files} index files: {seconds:.3} s, {:.2} s per GiB",
            seconds / gib
        );
    }
    Ok(())
}

fn one_row() -> PendingCommit {
    commit_of(1, 100, 1, "a row as a small application has it", 64)
}

fn copy(commit: &PendingCommit) -> PendingCommit {
    let CommitSource::Memory(changes) = &commit.changes else {
        unreachable!("made in memory");
    };
    PendingCommit {
        tenant: commit.tenant,
        count: commit.count,
        collections: commit.collections.clone(),
        changes: CommitSource::Memory(changes.clone()),
    }
}

fn appends(log: &SegmentLog, threads: usize) {
    let before = log.stats();
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let commit = one_row();
                    let mut latencies = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        log.append(vec![copy(&commit)]).expect("appended");
                        latencies.push(begun.elapsed());
                        done.fetch_add(1, Ordering::Relaxed);
                        if start.elapsed() > RUN {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    latencies
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"))
            .collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let done = done.load(Ordering::Relaxed);
    let after = log.stats();
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 1000];
    println!(
        "{threads:>3} threads: {:>8.0} appends/s, {:.3} flushes per append, p50 {:?} p99 {:?} p99.9 {:?}",
        done as f64 / seconds,
        (after.flushes - before.flushes) as f64 / done as f64,
        at(500),
        at(990),
        at(999),
    );
}

fn replay(log: &SegmentLog) -> Result<(), Box<dyn std::error::Error>> {
    let commit = one_row();
    while log.tail().durable.0 < REPLAYED_CHANGES {
        log.append((0..10_000).map(|_| copy(&commit)).collect())?;
    }
    let bytes = log.stats().kept_bytes;
    for (what, decode) in [("slices", false), ("decoded changes", true)] {
        let start = Instant::now();
        let mut reader = log.reader(Lsn::FIRST, ReadFilter::default())?;
        let (mut out, mut count) = (Vec::new(), 0u64);
        let end = log.tail().durable;
        let mut scanned = Lsn::ZERO;
        while scanned < end {
            scanned = reader.read(&mut out, 1 << 20)?;
            for slice in out.drain(..) {
                count += if decode {
                    Changes::new(&slice.changes).count() as u64
                } else {
                    slice.count
                };
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "replay as {what}: {:.2} million changes/s, {:.0} MiB/s ({count} seen)",
            REPLAYED_CHANGES as f64 / seconds / 1e6,
            bytes as f64 / seconds / f64::from(1 << 20),
        );
    }
    Ok(())
}
