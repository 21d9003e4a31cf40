//! A statement that is interrupted fails alone, as in PostgreSQL, though SQLite gives up the whole
//! transaction with it. Until 2026-11-27 an interactive transaction was lost then, savepoints and all.

use springhead_engine::TransactionStatus::Failed;

use crate::support::{Client, Node, rows_of, tail_from};

const ENDLESS: &str = "INSERT INTO t SELECT i, 'x' FROM generate_series(1000, 1000000000) g(i)";

/// Interrupts a statement of the open transaction by its timeout.
async fn interrupt(client: &mut Client, sql: &str) {
    client.ok("SET LOCAL statement_timeout = '150ms'").await;
    client.fails(sql, "57014").await;
    assert_eq!(client.status(), Failed);
    client.fails("SELECT 1", "25P02").await;
}

async fn start(node: &Node) -> Client {
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    client
        .ok("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
        .await;
    client
}

#[tokio::test]
async fn g3_an_interrupted_statement_leaves_its_transaction_and_savepoints() {
    let node = Node::start();
    let mut client = start(&node).await;
    let before = node.tenant().await.visible();
    client.ok("BEGIN").await;
    client.ok("INSERT INTO t VALUES (3, 'three')").await;
    client.ok("SAVEPOINT a").await;
    client.ok("UPDATE t SET v = 'changed' WHERE id = 1").await;
    client.ok("NOTIFY kept").await;
    client.ok("SAVEPOINT b").await;
    client.ok("DELETE FROM t WHERE id = 2").await;
    interrupt(&mut client, ENDLESS).await;
    client.ok("ROLLBACK TO b").await;
    assert_eq!(
        client.lines("SELECT id, v FROM t ORDER BY id").await,
        ["1|changed", "2|two", "3|three"]
    );
    // Once more, with what is left: savepoints are where they were.
    client.ok("INSERT INTO t VALUES (4, 'four')").await;
    interrupt(
        &mut client,
        "UPDATE t SET v = (SELECT max(i) FROM generate_series(1, 1000000000) g(i))",
    )
    .await;
    client.fails("RELEASE b", "25P02").await;
    client.ok("ROLLBACK TO b").await;
    client.ok("RELEASE b").await;
    client.ok("INSERT INTO t VALUES (5, 'five')").await;
    client.ok("COMMIT").await;
    let rows = ["1|changed", "2|two", "3|three", "5|five"];
    assert_eq!(client.lines("SELECT id, v FROM t ORDER BY id").await, rows);
    let changes = tail_from(&node.tenant().await, before).await;
    assert_eq!(rows_of(&changes).len(), 3, "what stayed, each once");
    let elsewhere = node.replayed_elsewhere();
    let mut client = elsewhere.client().await;
    assert_eq!(client.lines("SELECT id, v FROM t ORDER BY id").await, rows);
}

/// Without a savepoint to go back to nothing is saved, and the writer is free at once.
#[tokio::test]
async fn g3_an_interrupted_statement_without_savepoints_frees_the_writer() {
    let node = Node::start();
    let mut client = start(&node).await;
    client.ok("BEGIN; INSERT INTO t VALUES (3, 'three')").await;
    interrupt(&mut client, ENDLESS).await;
    let mut other = node.client().await;
    other.ok("INSERT INTO t VALUES (4, 'four')").await;
    assert_eq!(client.ok("COMMIT").await.tag, "ROLLBACK");
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "2", "4"]
    );
}

#[tokio::test]
async fn g3_definitions_truncates_and_large_transactions_outlive_an_interrupted_statement() {
    // A transaction of more than 4 kB is in a file.
    let node = Node::with(|config| config.capture_memory_bytes = 4 << 10);
    let mut client = start(&node).await;
    client.ok("CREATE SEQUENCE s").await;
    client.ok("BEGIN").await;
    client.ok("TRUNCATE t").await;
    client.ok("ALTER TABLE t ADD COLUMN n int DEFAULT 7").await;
    client
        .ok("CREATE TABLE u (id int PRIMARY KEY, t int CHECK (t > 0))")
        .await;
    client
        .ok("INSERT INTO t SELECT i, repeat('y', 100) FROM generate_series(1, 500) g(i)")
        .await;
    client.ok("SAVEPOINT a").await;
    client.ok("INSERT INTO u VALUES (nextval('s'), 1)").await;
    client.ok("DROP TABLE u").await;
    client.ok("SAVEPOINT b").await;
    client.ok("DELETE FROM t WHERE id > 400").await;
    interrupt(
        &mut client,
        "INSERT INTO t SELECT i, repeat('z', 100) FROM generate_series(1000, 1000000000) g(i)",
    )
    .await;
    client.ok("ROLLBACK TO b").await;
    assert_eq!(
        client.one("SELECT count(*) || ' ' || sum(n) FROM t").await,
        "500 3500"
    );
    client.fails("SELECT * FROM u", "42P01").await;
    client.ok("ROLLBACK TO a").await;
    client.ok("INSERT INTO u VALUES (nextval('s'), 1)").await;
    client.fails("INSERT INTO u VALUES (9, 0)", "23514").await;
    client.ok("ROLLBACK TO a").await;
    client.ok("INSERT INTO u VALUES (10, 1)").await;
    client.ok("COMMIT").await;
    assert_eq!(client.lines("SELECT id FROM u").await, ["10"]);
    let elsewhere = node.replayed_elsewhere();
    let mut there = elsewhere.client().await;
    for sql in [
        "SELECT count(*) || ' ' || sum(n) FROM t",
        "SELECT count(*) FROM u",
    ] {
        assert_eq!(client.one(sql).await, there.one(sql).await);
    }
}

/// SQLite's count of violated foreign keys does not come back with the rows.
#[tokio::test]
async fn g3_deferred_keys_are_still_checked_after_an_interrupted_statement() {
    let node = Node::start();
    for is_mended in [true, false] {
        let mut client = start(&node).await;
        client
            .ok("CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
            .await;
        client.ok("BEGIN").await;
        client.ok("INSERT INTO child VALUES (1, 77)").await;
        client.ok("SAVEPOINT a").await;
        interrupt(&mut client, ENDLESS).await;
        client.ok("ROLLBACK TO a").await;
        if is_mended {
            client.ok("INSERT INTO t VALUES (77, 'parent')").await;
            client.ok("COMMIT").await;
            assert_eq!(client.lines("SELECT t FROM child").await, ["77"]);
        } else {
            client.ok("INSERT INTO child VALUES (2, 1)").await;
            client.fails("COMMIT", "23503").await;
            assert_eq!(client.one("SELECT count(*) FROM child").await, "0");
        }
        client.ok("DROP TABLE child; DROP TABLE t").await;
    }
}
