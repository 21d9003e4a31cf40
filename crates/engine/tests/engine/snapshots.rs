//! Snapshots end: those that are read for too long, those that are held for too long. And SQLite's
//! WAL stays bounded.

use std::time::Duration;

use springhead_proto::TenantId;

use crate::support::Node;

const ENDLESS: &str =
    "SELECT count(*) FROM generate_series(1, 1000000000) a(i), generate_series(1, 1000000000) b(j)";

#[tokio::test]
async fn g7_a_read_that_takes_too_long_is_72000() {
    let node = Node::with(|config| config.snapshot_max_age = Duration::from_millis(50));
    let mut client = node.client().await;
    let error = client.fails(ENDLESS, "72000").await;
    assert_eq!(error.message, "snapshot too old");
    client.ok("SELECT 1").await;
}

/// A long query in a snapshot that a transaction held had no limit, and maintenance (with it the
/// trimming of the log) waited for it.
#[tokio::test]
async fn g7_a_read_in_a_held_snapshot_is_ended_too_and_nobody_waits_for_it() {
    let node = Node::with(|config| config.snapshot_max_age = Duration::from_millis(300));
    let mut client = node.client().await;
    client.ok("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    client.ok("SELECT 1").await;
    let reading = tokio::spawn(async move { client.run(ENDLESS).await.unwrap_err() });
    tokio::task::yield_now().await;
    node.clock.advance(400);
    let engine = node.engine.clone();
    tokio::task::spawn_blocking(move || engine.maintain().unwrap())
        .await
        .unwrap();
    assert_eq!(reading.await.unwrap().code.sqlstate().0, "72000");
}

#[tokio::test]
async fn g7_a_snapshot_held_for_too_long_is_taken_away() {
    let node = Node::with(|config| config.snapshot_max_age = Duration::from_secs(60));
    let (mut client, mut writer) = (node.client().await, node.client().await);
    writer.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    writer.ok("INSERT INTO t VALUES (1)").await;
    node.clock.advance(59_000);
    node.engine.maintain().unwrap();
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    node.clock.advance(2_000);
    node.engine.maintain().unwrap();
    client.fails("SELECT count(*) FROM t", "72000").await;
    client.fails("SELECT 1", "25P02").await;
    client.ok("ROLLBACK").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn statement_timeout_and_cancel_end_reads() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("SET statement_timeout = '30ms'").await;
    client.fails(ENDLESS, "57014").await;
    client.ok("SET statement_timeout = 0").await;
    let canceller = client.session.canceller();
    let reading = tokio::spawn(async move { client.run(ENDLESS).await.unwrap_err() });
    tokio::task::yield_now().await;
    canceller.cancel();
    let error = reading.await.unwrap();
    assert_eq!(error.message, "canceling statement due to user request");
}

/// Overlapping readers keep SQLite's WAL from beginning anew; the gate makes them let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g7_overlapping_readers_do_not_make_the_wal_grow_without_end() {
    const LIMIT: u64 = 8 << 20;
    let node = Node::with(|config| {
        config.wal_limit_bytes = LIMIT;
        config.readers_per_tenant = 4;
    });
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    client
        .ok("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 500) g(i)")
        .await;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (mut reader, done) = (node.client().await, std::sync::Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                reader
                    .ok("SELECT count(*), max(a.v || b.v) FROM t a, t b WHERE a.id < 40")
                    .await;
                reads += 1;
            }
            reads
        }));
    }
    let wal = node
        .state_file(TenantId::DEFAULT)
        .with_file_name("state.db-wal");
    let mut largest = 0;
    let mut written = 0;
    for round in 0..1500 {
        client
            .ok(&format!(
                "UPDATE t SET v = repeat('{}', 1000) WHERE id % 50 = {}",
                round % 10,
                round % 50
            ))
            .await;
        written += 11 * 4096;
        largest = largest.max(std::fs::metadata(&wal).map_or(0, |file| file.len()));
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "readers went on");
    }
    assert!(written > 4 * LIMIT);
    assert!(largest < 3 * LIMIT, "the WAL grew to {largest} bytes");
}
