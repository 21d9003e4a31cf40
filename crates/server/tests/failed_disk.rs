//! Disks that fail: a flush that returns EIO, a file system that is full. What was acknowledged is
//! there afterwards, and nobody is told anything that is not so.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use springhead_sim::client::pg::PgError;
use springhead_sim::fixture::Fixture;

/// Inserts rows from `from` on until one is not acknowledged: the ids that were, and the error.
fn insert_until_refused(fixture: &Fixture, from: u64, note: &str) -> (Vec<u64>, PgError) {
    let mut acknowledged = Vec::new();
    let mut client = fixture.pg();
    for id in from..from + 100_000 {
        match client.query(&format!("INSERT INTO t VALUES ({id}, '{note}')")) {
            Ok(_) => acknowledged.push(id),
            Err(error) => return (acknowledged, error),
        }
    }
    panic!("nothing went wrong in 100,000 inserts");
}

fn ids(fixture: &Fixture) -> Vec<u64> {
    let rows = fixture.sql("SELECT id FROM t ORDER BY id");
    rows.iter()
        .map(|row| {
            row[0]
                .as_deref()
                .unwrap_or_default()
                .parse()
                .expect("an id")
        })
        .collect()
}

/// The log's ids, by the feed: inserts only, each once, rising.
fn fed_ids(fixture: &Fixture) -> Vec<u64> {
    let log = springhead_sim::scenario::read_log(fixture.setup.http, 1).expect("the feed");
    log.iter()
        .filter(|change| change.collection.as_deref() == Some("t"))
        .filter_map(|change| change.document_id.as_deref()?.parse().ok())
        .collect()
}

#[test]
fn g12_a_failed_flush_ends_the_process_and_loses_nothing() {
    if !Command::new("strace")
        .args(["-qq", "true"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        println!("skipped: strace is not here or not allowed; cargo xtask test installs it");
        return;
    }
    for when in [3, 20] {
        let mut fixture = Fixture::started();
        fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
        fixture.stop();
        // Counted per thread; the log's own thread flushes most.
        let inject = format!("inject=fdatasync:error=EIO:when={when}+");
        let mut setup = fixture.setup.clone();
        let strace = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
        ];
        setup.wrapper = strace.iter().map(|word| (*word).to_owned()).collect();
        setup.wrapper.extend([inject, "--".to_owned()]);
        if fixture.start_as(&setup).is_err() {
            // It flushed so often on its start that it could not even start: that is an honest stop.
            assert!(
                when < 10,
                "EIO at flush {when} of a thread, while it starts"
            );
        } else {
            let (acknowledged, error) = insert_until_refused(&fixture, 0, "x");
            assert!(
                matches!(&error, PgError::Io(_)) || matches!(error.code(), Some("08007" | "57P01")),
                "the outcome is unknown, and the answer was {error}"
            );
            let status = fixture.server().wait_end(Duration::from_secs(20));
            let status = status.expect("a poisoned log ends the process");
            assert!(!status.success(), "a failed flush, and it exited 0");
            fixture.start();
            let there = ids(&fixture);
            let last = acknowledged.len() as u64;
            let wanted: Vec<u64> = (0..last).collect();
            // At most the one that was not answered may be there too.
            assert!(
                there == wanted || there == (0..=last).collect::<Vec<_>>(),
                "{there:?} of {last}"
            );
            assert_eq!(fed_ids(&fixture), there);
        }
        fixture.kill();
        fixture.start();
        fixture.sql("INSERT INTO t VALUES (1000000, 'after')");
        fixture.stop();
    }
}

/// A file system of so many megabytes over the fixture's data directory. Gone when dropped.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn over(directory: &Path, megabytes: u64) -> Option<SmallDisk<'_>> {
        std::fs::create_dir_all(directory).expect("our directory");
        let size = format!("size={megabytes}m");
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &size, "springhead-test"])
            .arg(directory);
        if command.output().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(directory));
        }
        println!("skipped: a file system can only be mounted as root");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[test]
fn g12_a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let mut fixture = Fixture::new();
    let directory = fixture.data_dir().to_path_buf();
    let Some(_disk) = SmallDisk::over(&directory, 200) else {
        return;
    };
    // So that the log, and not SQLite's part of the disk, is what fills it.
    fixture.setup = fixture
        .setup
        .clone()
        .with_env("SPRINGHEAD_SEGMENT_BYTES", "4MiB")
        .with_env("SPRINGHEAD_RESERVE_BYTES", "24MiB");
    let ballast = directory.join("ballast");
    fixture.start();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    std::fs::write(&ballast, vec![7; 60 << 20]).expect("the ballast fits");
    let (acknowledged, error) = insert_until_refused(&fixture, 0, &"n".repeat(100_000));
    assert_eq!(error.code(), Some("53100"), "{error}");
    assert!(
        acknowledged.len() > 50,
        "it was full after {} inserts",
        acknowledged.len()
    );
    // Reads, feeds and health go on; another write is refused in the same way.
    assert_eq!(ids(&fixture), acknowledged);
    assert_eq!(fed_ids(&fixture), acknowledged);
    assert_eq!(fixture.get("/healthz").status, 200);
    let refused = fixture.http_sql("INSERT INTO t VALUES (900000, 'x')");
    assert_eq!(
        (refused.status, refused.error_code().as_str()),
        (507, "disk_full")
    );
    // Space comes back, and writing with it, without a restart.
    std::fs::remove_file(&ballast).expect("the ballast");
    let next = acknowledged.len() as u64;
    let answered = (0..200).any(|_| {
        let answer = fixture.http_sql(&format!("INSERT INTO t VALUES ({next}, 'again')"));
        let refused = answer.status == 507;
        if refused {
            // It looks at the disk now and then, not at every statement.
            fixture.server().wait_end(Duration::from_millis(100));
        } else {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        !refused
    });
    assert!(answered, "20 s after the space came back it still refuses");
    let mut wanted = acknowledged;
    wanted.push(next);
    assert_eq!(ids(&fixture), wanted);
    fixture.kill();
    fixture.start();
    assert_eq!(ids(&fixture), wanted);
    assert_eq!(fed_ids(&fixture), wanted);
    assert_eq!(fixture.http_sql("SELECT 1").json()["rows"], json!([[1]]));
    fixture.stop();
}
