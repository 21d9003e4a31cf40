//! The files of format version 1, as some earlier build wrote them, are still read, and the same
//! appends still give the same bytes. `SPRINGHEAD_WRITE_FIXTURES=1` writes them anew, which is
//! right only for a new format version.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use springhead_log::conformance::{assert_whole_and_ordered, commit_of, drain, labels_in};
use springhead_log::disk::RealDisk;
use springhead_log::segment::{Identity, SegmentConfig, SegmentLog, verify};
use springhead_log::{Log, ManualClock, NoProgress, ReadFilter};
use springhead_proto::{Epoch, Lsn, TenantId, TimestampMs};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn config(compress_level: Option<i32>) -> SegmentConfig {
    SegmentConfig {
        identity: Some(Identity {
            cluster_id: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            history_id: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
            epoch: Epoch(0x9c1e_04d7),
        }),
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        batch_bytes: 16 << 10,
        reserve_bytes: 0,
        background: false,
        compress_level,
        ..SegmentConfig::default()
    }
}

/// Writes the log that the fixtures hold: small commits, a large one over two segments, several
/// tenants.
fn write(dir: &Path, compress_level: Option<i32>) {
    let clock = Arc::new(ManualClock::at(1_718_000_000_000));
    let log = SegmentLog::open(dir, config(compress_level), clock.clone()).expect("opened");
    for number in 0..30u32 {
        clock.advance(10);
        let label = format!("commit {number}");
        let commits = vec![
            commit_of(1 + number % 3, 100 + number % 5, 2, &label, 100),
            commit_of(2, 100, 1, &label, 700),
        ];
        log.append(commits).expect("appended");
    }
    log.append(vec![commit_of(7, 200, 50, "large", 1_000)])
        .expect("appended");
    clock.advance(10);
    log.append(vec![commit_of(1, 100, 1, "end", 10)])
        .expect("appended");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for name in names(from) {
        std::fs::copy(from.join(&name), to.path().join(&name)).expect("copied");
    }
    to
}

fn check_fixture(name: &str) {
    let dir = copy(&fixture(name));
    let report = verify(&RealDisk, dir.path(), &NoProgress).expect("looked at");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let clock = Arc::new(ManualClock::at(1));
    let log = SegmentLog::open(dir.path(), config(None), clock).expect("opened");
    assert_eq!(log.tail().durable, Lsn(30 * 3 + 50 + 1));
    assert_eq!(log.tail().timestamp_ms, TimestampMs(1_718_000_000_310));
    assert_eq!(log.epochs()[0].epoch, Epoch(0x9c1e_04d7));
    let mut reader = log.reader(Lsn(1), ReadFilter::default()).expect("a reader");
    let (slices, _) = drain(reader.as_mut());
    assert_whole_and_ordered(&slices);
    let labels: Vec<String> = slices
        .iter()
        .filter(|slice| slice.index == 0)
        .map(|slice| labels_in(slice)[0].0.clone())
        .collect();
    assert_eq!(labels.len(), 62);
    assert_eq!(
        (labels[0].as_str(), labels[58].as_str()),
        ("commit 0", "commit 29")
    );
    assert_eq!((labels[60].as_str(), labels[61].as_str()), ("large", "end"));
    let filter = ReadFilter {
        tenant: Some(TenantId(7)),
        ..ReadFilter::default()
    };
    let (slices, _) = drain(log.reader(Lsn(1), filter).expect("a reader").as_mut());
    assert_eq!(slices.iter().map(|slice| slice.count).sum::<u64>(), 50);
    let more = log
        .append(vec![commit_of(1, 100, 1, "more", 10)])
        .expect("it goes on");
    assert_eq!(more.first_lsn, Lsn(142));
}

#[test]
fn version_1_is_read() {
    check_fixture("v1");
}

#[test]
fn version_1_compressed_is_read() {
    check_fixture("v1-compressed");
}

#[test]
fn the_same_appends_give_the_same_bytes() {
    let written = tempfile::tempdir().expect("a directory");
    write(written.path(), None);
    if std::env::var_os("SPRINGHEAD_WRITE_FIXTURES").is_some() {
        for (name, compress_level) in [("v1", None), ("v1-compressed", Some(3))] {
            let dir = fixture(name);
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).expect("created");
            write(&dir, compress_level);
        }
    }
    let expected = fixture("v1");
    assert_eq!(names(written.path()), names(&expected));
    for name in names(&expected) {
        let same = std::fs::read(written.path().join(&name)).expect("read")
            == std::fs::read(expected.join(&name)).expect("read");
        assert!(same, "{name} has changed");
    }
}
