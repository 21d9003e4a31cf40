//! The log by itself, inside this process: what a durable commit costs before any SQL, and what a
//! reader can take from it. The bound for every other figure of Springhead's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{CommitSource, Log, PendingCommit, ReadFilter, SystemClock};
use springhead_proto::{
    ChangeKind, Changes, CollectionId, Lsn, RowBuilder, SchemaVersion, TenantId, ValueRef,
    encode_change,
};

use crate::error::{BenchError, Doing, Result};
use crate::measure::NOTE;
use crate::options::Options;
use crate::report::{Better, Point, Report};
use crate::rig::pause;
use crate::stats::float;
use crate::systems::{Kind, Systems};

/// # Errors
/// When the log fails.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    if !systems.kinds().contains(&Kind::Springhead) {
        return Ok(());
    }
    report.note("log: the log's own append in this process, one commit of one change of about 120 bytes per call and thread; then all of it read back with every change decoded");
    for _ in 0..options.rounds {
        for &threads in &options.clients {
            let directory = systems.rig().root().join("log");
            std::fs::create_dir(&directory).doing("making a directory for a log")?;
            turn(&directory, threads, options.seconds, report)?;
            std::fs::remove_dir_all(&directory).doing("removing a log")?;
        }
    }
    Ok(())
}

fn turn(
    directory: &std::path::Path,
    threads: usize,
    seconds: u64,
    report: &mut Report,
) -> Result<()> {
    let broken = |what: &dyn std::fmt::Display| BenchError::Protocol {
        peer: "the log".to_owned(),
        what: what.to_string(),
    };
    let log = SegmentLog::open(directory, SegmentConfig::default(), Arc::new(SystemClock))
        .map_err(|error| broken(&error))?;
    let changes = one_change();
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| append_until(&log, &changes, &stop)))
            .collect();
        pause(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        appenders.into_iter().try_for_each(|appender| {
            let outcome = appender.join().map_err(|_| broken(&"a thread panicked"))?;
            outcome.map_err(|error| broken(&error))
        })
    })?;
    let took = started.elapsed().as_secs_f64();
    let commits = float(log.tail().durable.0);
    let name = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
    let kind = Kind::Springhead;
    let rate = Point::new(
        "log",
        format!("{name}, appends"),
        "commits/s",
        Better::Higher,
    );
    report.record(rate, kind, "", commits / took);
    let flushes = Point::new(
        "log",
        format!("{name}, flushes per append"),
        "",
        Better::Lower,
    );
    report.record(flushes, kind, "", float(log.stats().flushes) / commits);

    let started = Instant::now();
    let mut reader = log
        .reader(Lsn(1), ReadFilter::default())
        .map_err(|error| broken(&error))?;
    let (mut slices, mut seen) = (Vec::new(), 0);
    while reader
        .read(&mut slices, 1 << 20)
        .map_err(|error| broken(&error))?
        < log.tail().durable
    {
        seen += decode(&mut slices).map_err(|error| broken(&error))?;
    }
    seen += decode(&mut slices).map_err(|error| broken(&error))?;
    if float(seen) != commits {
        return Err(broken(&format!(
            "{seen} of {commits} changes were read back"
        )));
    }
    let read = Point::new(
        "log",
        format!("{name}, read back"),
        "changes/s",
        Better::Higher,
    );
    report.record(read, kind, "", commits / started.elapsed().as_secs_f64());
    log.close();
    Ok(())
}

fn append_until(
    log: &SegmentLog,
    changes: &bytes::Bytes,
    stop: &AtomicBool,
) -> std::result::Result<(), springhead_log::AppendError> {
    while !stop.load(Ordering::Relaxed) {
        log.append(vec![PendingCommit {
            tenant: TenantId(1),
            count: 1,
            collections: vec![CollectionId(1)],
            changes: CommitSource::Memory(changes.clone()),
        }])?;
    }
    Ok(())
}

fn decode(
    slices: &mut Vec<springhead_log::CommitSlice>,
) -> std::result::Result<u64, springhead_proto::DamagedChange> {
    let mut seen = 0;
    for slice in slices.drain(..) {
        for change in Changes::new(&slice.changes) {
            change?;
            seen += 1;
        }
    }
    Ok(seen)
}

fn one_change() -> bytes::Bytes {
    let mut row = Vec::new();
    let mut builder = RowBuilder::new(&mut row, 3);
    builder.push(ValueRef::Integer(1_000_000));
    builder.push(ValueRef::Integer(1_700_000_000_000));
    builder.push(ValueRef::Text(NOTE));
    let mut change = Vec::new();
    encode_change(
        &mut change,
        ChangeKind::Insert,
        CollectionId(1),
        SchemaVersion(1),
        None,
        Some(&row),
    );
    change.into()
}
