//! What readers cost: a filtered one reads what it needs, one that is caught up reads nothing.

#[path = "../../sim/src/disk.rs"]
#[allow(dead_code)]
mod disk;

use std::path::Path;
use std::sync::Arc;

use disk::{Faults, SimDisk};
use springhead_log::conformance::{commit_of, drain};
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Log, ManualClock, NoProgress, ReadFilter};
use springhead_proto::{CollectionId, Lsn, TenantId};

fn log_on(disk: &SimDisk) -> SegmentLog {
    let config = SegmentConfig {
        segment_bytes: 4 << 20,
        reserve_bytes: 0,
        background: false,
        ..SegmentConfig::default()
    };
    let clock = Arc::new(ManualClock::at(1_000));
    SegmentLog::open_on(
        Arc::new(disk.clone()),
        Path::new("/log"),
        config,
        clock,
        &NoProgress,
    )
    .expect("opened")
}

#[test]
fn a_filtered_replay_steps_over_what_it_does_not_want() {
    let disk = SimDisk::new(1);
    let log = log_on(&disk);
    for number in 0..2_000u64 {
        let rare = number % 500 == 250;
        let (tenant, collection) = if rare { (2, 101) } else { (1, 100) };
        log.append(vec![commit_of(tenant, collection, 1, "x", 10_000)])
            .expect("appended");
    }
    let log_bytes = log.stats().kept_bytes;
    assert!(log_bytes > 19 << 20);
    let read_bytes = |filter: ReadFilter, commits: usize| {
        disk.set_faults(Faults::default());
        let (slices, lsn) = drain(log.reader(Lsn(1), filter).expect("a reader").as_mut());
        assert_eq!((slices.len(), lsn), (commits, Lsn(2_000)));
        disk.read_bytes()
    };
    let rare = ReadFilter {
        tenant: Some(TenantId(2)),
        ..ReadFilter::default()
    };
    let collection = ReadFilter {
        tenant: Some(TenantId(2)),
        collections: vec![CollectionId(101)],
    };
    let nobody = ReadFilter {
        tenant: Some(TenantId(3)),
        ..ReadFilter::default()
    };
    assert!(read_bytes(rare, 4) < log_bytes / 10);
    assert!(read_bytes(collection, 4) < log_bytes / 10);
    assert!(read_bytes(nobody, 0) < 64 << 10, "headers alone");
    let all = read_bytes(ReadFilter::default(), 2_000);
    assert!(
        all < log_bytes * 11 / 10,
        "nothing is read twice: {all} of {log_bytes}"
    );
}

#[test]
fn a_reader_that_is_caught_up_does_not_touch_the_disk() {
    let disk = SimDisk::new(1);
    let log = log_on(&disk);
    log.append(vec![commit_of(1, 100, 1, "x", 100)])
        .expect("appended");
    let mut reader = log.reader(Lsn(1), ReadFilter::default()).expect("a reader");
    assert_eq!(drain(reader.as_mut()).0.len(), 1);
    disk.set_faults(Faults::default());
    for _ in 0..100 {
        assert_eq!(
            reader.read(&mut Vec::new(), 1 << 20).expect("readable"),
            Lsn(1)
        );
    }
    assert_eq!(disk.calls(), 0);
    log.append(vec![commit_of(1, 100, 1, "y", 100)])
        .expect("appended");
    disk.set_faults(Faults::default());
    assert_eq!(drain(reader.as_mut()).0.len(), 1);
    assert!(disk.read_bytes() < 4096, "only what is new");
}
