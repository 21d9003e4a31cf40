//! Sequences give no number twice, whatever happens to those who asked, and count as told.

use std::collections::BTreeSet;

use springhead_log::Log;
use springhead_proto::Lsn;

use crate::support::Node;

#[tokio::test]
async fn g1_no_number_is_given_twice_after_a_crash() {
    let mut node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE SEQUENCE s; CREATE TABLE t (id serial PRIMARY KEY, n bigint)")
        .await;
    drop(client);
    let mut given = BTreeSet::new();
    for round in 0..4 {
        let mut client = node.client().await;
        for _ in 0..(7 + round * 13) {
            let number: i64 = client.one("SELECT nextval('s')").await.parse().unwrap();
            assert!(given.insert(number), "{number} was given twice");
        }
        client
            .ok("INSERT INTO t (n) VALUES (nextval('s')), (1)")
            .await;
        given.extend(
            client
                .lines("SELECT n FROM t WHERE n <> 1")
                .await
                .iter()
                .map(|n| n.parse::<i64>().unwrap()),
        );
        drop(client);
        node = node.reopen();
    }
    let mut client = node.client().await;
    assert_eq!(client.one("SELECT count(DISTINCT id) FROM t").await, "8");
}

#[tokio::test]
async fn numbers_are_not_rolled_back() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE SEQUENCE s").await;
    client.ok("BEGIN").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "1");
    client.ok("SAVEPOINT a").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "2");
    client.ok("ROLLBACK TO a").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "3");
    client.ok("ROLLBACK").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "4");
    assert_eq!(client.one("SELECT currval('s')").await, "4");
    assert_eq!(client.one("SELECT lastval()").await, "4");
}

/// Numbers drawn in a transaction that also dropped the sequence and was rolled back were drawn
/// again: the sequence was read back from the state, which had not heard of them yet.
#[tokio::test]
async fn numbers_are_not_given_again_after_a_rolled_back_drop() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE SEQUENCE s").await;
    client.ok("BEGIN").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "1");
    client.ok("DROP SEQUENCE s").await;
    client.ok("ROLLBACK").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "2");
    // A sequence that was never committed leaves nothing to one that takes its place.
    client.ok("BEGIN; CREATE SEQUENCE u START 100").await;
    assert_eq!(client.one("SELECT nextval('u')").await, "100");
    client.ok("ROLLBACK; CREATE SEQUENCE v START 7").await;
    assert_eq!(client.one("SELECT nextval('v')").await, "7");
}

#[tokio::test]
async fn setval_bounds_cycles_and_directions() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE SEQUENCE s MINVALUE 1 MAXVALUE 3").await;
    assert_eq!(
        client
            .lines("SELECT nextval('s') FROM generate_series(1, 3)")
            .await,
        ["1", "2", "3"]
    );
    let error = client.fails("SELECT nextval('s')", "2200H").await;
    assert_eq!(
        error.message,
        "nextval: reached maximum value of sequence \"s\" (3)"
    );
    assert_eq!(client.one("SELECT setval('s', 2)").await, "2");
    assert_eq!(client.one("SELECT nextval('s')").await, "3");
    client.ok("SELECT setval('s', 2, false)").await;
    assert_eq!(client.one("SELECT nextval('s')").await, "2");
    client.fails("SELECT setval('s', 4)", "22003").await;
    client.ok("ALTER SEQUENCE s CYCLE").await;
    assert_eq!(
        client
            .lines("SELECT nextval('s') FROM generate_series(1, 3)")
            .await,
        ["3", "1", "2"]
    );
    client
        .ok("CREATE SEQUENCE down INCREMENT -5 MINVALUE -20 MAXVALUE -1 START -2 CYCLE")
        .await;
    assert_eq!(
        client
            .lines("SELECT nextval('down') FROM generate_series(1, 6)")
            .await,
        ["-2", "-7", "-12", "-17", "-1", "-6"]
    );
}

#[tokio::test]
async fn g1_cycles_and_setval_survive_a_crash() {
    let mut node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE SEQUENCE s MAXVALUE 40 CYCLE; CREATE SEQUENCE t")
        .await;
    client.ok("SELECT setval('t', 1000)").await;
    for _ in 0..45 {
        client.ok("SELECT nextval('s')").await;
    }
    assert_eq!(client.one("SELECT currval('s')").await, "5");
    drop(client);
    node = node.reopen();
    let mut client = node.client().await;
    assert_eq!(client.one("SELECT nextval('t')").await, "1001");
    let next: i64 = client.one("SELECT nextval('s')").await.parse().unwrap();
    assert!((6..=38).contains(&next), "{next}");
}

#[tokio::test]
async fn truncate_restart_identity_and_alter_sequence_restart() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id serial PRIMARY KEY, n int)")
        .await;
    client.ok("INSERT INTO t (n) VALUES (1), (2), (3)").await;
    client.ok("TRUNCATE t").await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "4"
    );
    client.ok("TRUNCATE t RESTART IDENTITY").await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "1"
    );
    client.ok("ALTER SEQUENCE t_id_seq RESTART WITH 50").await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "50"
    );
    client.ok("ALTER SEQUENCE t_id_seq RESTART").await;
    client.ok("TRUNCATE t").await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "1"
    );
    drop(client);
    let node = node.reopen();
    let mut client = node.client().await;
    let id: i64 = client
        .one("INSERT INTO t (n) VALUES (1) RETURNING id")
        .await
        .parse()
        .unwrap();
    assert!((2..=33).contains(&id), "{id}");
}

/// A rolled-back TRUNCATE … RESTART IDENTITY left the sequence at its start while the rows were
/// there, so that the next insert met its own past.
#[tokio::test]
async fn g3_a_rolled_back_restart_leaves_the_sequence_where_it_was() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id serial PRIMARY KEY, n int)")
        .await;
    client.ok("INSERT INTO t (n) VALUES (1), (2), (3)").await;
    client.ok("BEGIN; TRUNCATE t RESTART IDENTITY").await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "1"
    );
    client.ok("ROLLBACK").await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "4"
    );
    client
        .ok("BEGIN; SAVEPOINT s; ALTER SEQUENCE t_id_seq RESTART; ROLLBACK TO s; COMMIT")
        .await;
    assert_eq!(
        client
            .one("INSERT INTO t (n) VALUES (1) RETURNING id")
            .await,
        "5"
    );
    drop(client);
    let node = node.reopen();
    let mut client = node.client().await;
    let id: i64 = client
        .one("INSERT INTO t (n) VALUES (1) RETURNING id")
        .await
        .parse()
        .unwrap();
    assert!(id > 5, "{id}");
}

/// A restart was logged in a commit of its own before the transaction's: a log that was restored to in
/// between, or that a power cut ended there, had the rows that the transaction removes and a sequence that
/// gave their numbers again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_restart_is_part_of_its_transaction_in_the_log_too() {
    let node = Node::on_disk(|_| {});
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id serial PRIMARY KEY, n int)")
        .await;
    client.ok("INSERT INTO t (n) VALUES (1), (2), (3)").await;
    let before = node.log.tail().durable;
    client.ok("TRUNCATE t RESTART IDENTITY").await;
    client.ok("INSERT INTO t (n) VALUES (4), (5)").await;
    client
        .ok("BEGIN; ALTER SEQUENCE t_id_seq RESTART WITH 2; DELETE FROM t WHERE id > 1; INSERT INTO t (n) VALUES (6); COMMIT")
        .await;
    let end = node.log.tail().durable;
    drop(client);
    let stopped = node.stop();
    for lsn in before.0..=end.0 {
        let node = stopped.log_up_to(Lsn(lsn)).start(false).unwrap();
        let mut client = node.client().await;
        client.ok("INSERT INTO t (n) VALUES (7), (8)").await;
    }
}

/// As above: a sequence that a transaction made left its numbers behind where the transaction was cut off,
/// and the next one made, which got its id, went on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_sequence_that_was_never_made_leaves_no_numbers() {
    let node = Node::on_disk(|_| {});
    let before = node.log.tail().durable;
    let mut client = node.client().await;
    client
        .ok("BEGIN; CREATE SEQUENCE s; SELECT nextval('s'); COMMIT")
        .await;
    let end = node.log.tail().durable;
    drop(client);
    let stopped = node.stop();
    for lsn in before.0..end.0 {
        let node = stopped.log_up_to(Lsn(lsn)).start(false).unwrap();
        let mut client = node.client().await;
        client.ok("CREATE SEQUENCE q").await;
        assert_eq!(
            client.one("SELECT nextval('q')").await,
            "1",
            "after LSN {lsn}"
        );
    }
    // And nothing is forgotten of one that was made.
    let node = stopped.start(false).unwrap();
    let mut client = node.client().await;
    assert_eq!(client.one("SELECT nextval('s')").await, "33");
}

/// What a transaction had drawn from a sequence that it had made itself was forgotten when it dropped it
/// and thought better of it.
#[tokio::test]
async fn g1_no_number_is_given_twice_after_a_drop_that_is_rolled_back() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("BEGIN; CREATE TABLE t (id serial PRIMARY KEY, n int); INSERT INTO t (n) VALUES (1), (2)")
        .await;
    client
        .ok("SAVEPOINT a; DROP TABLE t; ROLLBACK TO a; INSERT INTO t (n) VALUES (3)")
        .await;
    client.ok("COMMIT").await;
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "2", "3"]
    );
}
