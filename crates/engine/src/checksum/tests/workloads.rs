//! Workloads that must leave every page whole and raise no false alarm, and what checksums cost.

use proptest::prelude::*;
use rusqlite::Connection;

use super::{Fixture, READ_ONLY, READ_WRITE, Rows, rows};
use crate::checksum::{open, page, reserve};

/// Checkpoints write pages while others read; none of them ever meets a page half written.
#[test]
fn readers_writers_and_checkpoints_at_once_raise_no_false_alarm() {
    const COMMITS: usize = 400;
    let fixture = Fixture::filled(4096);
    let writer = fixture.writer();
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut conn = fixture.reader().unwrap();
                let mut reads = 0;
                while !is_done() || reads == 0 {
                    conn.execute_batch("PRAGMA cache_size=2; BEGIN").unwrap();
                    let sum: i64 = conn
                        .query_row("SELECT sum(length(body)) FROM a WHERE id < 1000", [], |row| row.get(0))
                        .unwrap();
                    let again: i64 = conn
                        .query_row("SELECT sum(length(body)) FROM a INDEXED BY ai WHERE body > '' AND id < 1000", [], |row| row.get(0))
                        .unwrap();
                    conn.execute_batch("COMMIT").unwrap();
                    assert_eq!(sum, again);
                    reads += 1;
                    if reads % 16 == 0 {
                        conn = fixture.reader().unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            while !is_done() {
                let conn = open(&fixture.path(), READ_WRITE).unwrap();
                conn.busy_timeout(std::time::Duration::ZERO).unwrap();
                conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                    row.get::<_, i64>(0)
                })
                .unwrap();
            }
        });
        writer
            .busy_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        for commit in 0..COMMITS {
            writer
                .execute("UPDATE a SET body = printf('%04d', ?1 + id) || hex(zeroblob((?1 * 7 + id * 13) % 900)) WHERE id < 1000", [i64::try_from(commit).unwrap()])
                .unwrap();
            if commit % 8 == 0 {
                writer
                    .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                        row.get::<_, i64>(0)
                    })
                    .unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(writer);
    fixture.assert_sealed();
}

/// Not a check: what the checksums cost, printed. `cargo test -p springhead-engine --release --lib
/// cost_of -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn the_cost_of_checksums() {
    const ROWS: i64 = 300_000;
    let page = vec![0x5a; 4096];
    let start = std::time::Instant::now();
    let mut sum = 0;
    for number in 0..1_000_000 {
        sum ^= page::checksum(std::hint::black_box(&page), number);
    }
    println!(
        "one page: {:.0} ns ({sum:x})",
        start.elapsed().as_secs_f64() * 1e3
    );
    for round in 0..3 {
        for shim in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.db");
            let connect = |flags| {
                if shim {
                    open(&path, flags)
                } else {
                    Connection::open_with_flags(&path, flags)
                }
                .unwrap()
            };
            let conn = connect(READ_WRITE);
            reserve(&conn).unwrap();
            conn.execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-16384;
                 CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT) STRICT",
            )
            .unwrap();
            let body = "x".repeat(200);
            let mut timed = Vec::new();
            let mut time = |what: &'static str, act: &mut dyn FnMut()| {
                let start = std::time::Instant::now();
                act();
                timed.push((what, start.elapsed().as_secs_f64()));
            };
            time("insert", &mut || {
                let mut insert = conn.prepare("INSERT INTO a VALUES (?1, ?2)").unwrap();
                for id in 0..ROWS {
                    if id % 1000 == 0 {
                        conn.execute_batch(if id == 0 { "BEGIN" } else { "COMMIT; BEGIN" })
                            .unwrap();
                    }
                    insert.execute((id, &body)).unwrap();
                }
                conn.execute_batch("COMMIT").unwrap();
            });
            let scan = |conn: &Connection| {
                conn.execute_batch("PRAGMA cache_size=-2000").unwrap();
                let bytes: i64 = conn
                    .query_row("SELECT sum(length(body)) FROM a", [], |row| row.get(0))
                    .unwrap();
                assert_eq!(bytes, ROWS * 200);
            };
            time("scan of the WAL", &mut || scan(&connect(READ_ONLY)));
            time("checkpoint", &mut || {
                conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                    row.get::<_, i64>(0)
                })
                .unwrap();
            });
            time("scan of the file", &mut || scan(&connect(READ_ONLY)));
            time("one row at a time", &mut || {
                let mut insert = conn.prepare("INSERT INTO a VALUES (?1, ?2)").unwrap();
                for id in 0..ROWS / 10 {
                    insert.execute((ROWS + id, &body)).unwrap();
                }
            });
            let times: Vec<_> = timed
                .iter()
                .map(|(what, seconds)| format!("{what} {:.0} ms", seconds * 1e3))
                .collect();
            println!("round {round}, checksums {shim}: {}", times.join(", "));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        id: i64,
        bytes: usize,
    },
    Delete {
        from: i64,
        to: i64,
    },
    /// A savepoint with a row in it that is given up.
    Undone {
        id: i64,
        bytes: usize,
    },
    Commit,
    RollBack,
    Checkpoint {
        truncate: bool,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_i64, 0..6000_usize).prop_map(|(id, bytes)| Step::Put { id, bytes }),
        2 => (0..40_i64, 0..20_i64).prop_map(|(from, count)| Step::Delete { from, to: from + count }),
        2 => (0..40_i64, 0..20_000_usize).prop_map(|(id, bytes)| Step::Undone { id, bytes }),
        3 => Just(Step::Commit),
        1 => Just(Step::RollBack),
        2 => any::<bool>().prop_map(|truncate| Step::Checkpoint { truncate }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is written, checkpointed, spilled and undone: no false alarm, the rows are those
    /// that were committed, SQLite finds the file in order, and every page has its checksum.
    #[test]
    fn any_workload_leaves_a_whole_file(steps in prop::collection::vec(step(), 1..60)) {
        let fixture = Fixture::new(1024);
        let mut conn = fixture.writer();
        conn.execute_batch(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT) STRICT; CREATE INDEX ai ON a (body); PRAGMA cache_size=8",
        )
        .unwrap();
        let mut committed = std::collections::BTreeMap::new();
        let mut open = committed.clone();
        for step in steps {
            if conn.is_autocommit() && !matches!(step, Step::Checkpoint { .. } | Step::Reopen) {
                conn.execute_batch("BEGIN").unwrap();
            }
            match step {
                Step::Put { id, bytes } => {
                    let body = "p".repeat(bytes);
                    conn.execute("INSERT OR REPLACE INTO a VALUES (?1, ?2)", (id, &body)).unwrap();
                    open.insert(id, body);
                }
                Step::Delete { from, to } => {
                    conn.execute("DELETE FROM a WHERE id BETWEEN ?1 AND ?2", (from, to)).unwrap();
                    open.retain(|id, _| !(from..=to).contains(id));
                }
                Step::Undone { id, bytes } => {
                    conn.execute_batch("SAVEPOINT s").unwrap();
                    conn.execute("INSERT OR REPLACE INTO a VALUES (?1, ?2)", (id, "u".repeat(bytes))).unwrap();
                    conn.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
                }
                Step::Commit => {
                    conn.execute_batch("COMMIT").unwrap();
                    committed = open.clone();
                }
                Step::RollBack => {
                    conn.execute_batch("ROLLBACK").unwrap();
                    open = committed.clone();
                }
                Step::Checkpoint { truncate } => {
                    let mode = if truncate { "TRUNCATE" } else { "PASSIVE" };
                    let other = crate::checksum::open(&fixture.path(), READ_WRITE).unwrap();
                    other.busy_timeout(std::time::Duration::ZERO).unwrap();
                    let _: i64 = other.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(0)).unwrap();
                }
                Step::Reopen => {
                    drop(conn);
                    fixture.assert_sealed();
                    conn = fixture.writer();
                    conn.execute_batch("PRAGMA cache_size=8").unwrap();
                    open = committed.clone();
                }
            }
            prop_assert!(rows(&conn, "a").unwrap() == open.clone().into_iter().collect::<Rows>());
            prop_assert!(fixture.read("a").unwrap() == committed.clone().into_iter().collect::<Rows>());
        }
        drop(conn);
        fixture.assert_sealed();
        let verdict: String = fixture.reader().unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        prop_assert_eq!(verdict, "ok");
        prop_assert!(fixture.read("a").unwrap() == committed.into_iter().collect::<Rows>());
    }
}
