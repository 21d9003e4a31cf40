//! What concurrent transactions see of one another, and who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Node, until};

#[tokio::test]
async fn read_committed_sees_the_newest_before_each_statement_and_never_40001() {
    let node = Node::start();
    let (mut one, mut two) = (node.client().await, node.client().await);
    one.ok("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    one.ok("INSERT INTO t VALUES (1, 0)").await;
    one.ok("BEGIN").await;
    assert_eq!(one.one("SELECT n FROM t").await, "0");
    two.ok("UPDATE t SET n = 1").await;
    assert_eq!(one.one("SELECT n FROM t").await, "1");
    two.ok("UPDATE t SET n = 2").await;
    one.ok("UPDATE t SET n = n + 10").await;
    assert_eq!(
        one.one("SELECT n FROM t").await,
        "12",
        "it goes on from the newest, and reads what it wrote"
    );
    assert_eq!(two.one("SELECT n FROM t").await, "2");
    one.ok("COMMIT").await;
    assert_eq!(two.one("SELECT n FROM t").await, "12");
}

#[tokio::test]
async fn repeatable_read_keeps_its_snapshot_and_writing_after_others_is_40001() {
    let node = Node::start();
    let (mut one, mut two) = (node.client().await, node.client().await);
    one.ok("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    one.ok("INSERT INTO t VALUES (1, 0)").await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        two.ok("UPDATE t SET n = 0").await;
        one.ok(&format!("BEGIN ISOLATION LEVEL {level}")).await;
        assert_eq!(one.one("SELECT n FROM t").await, "0");
        two.ok("UPDATE t SET n = 1").await;
        assert_eq!(one.one("SELECT n FROM t").await, "0", "{level}");
        one.fails("UPDATE t SET n = n + 1", "40001").await;
        one.fails("SELECT 1", "25P02").await;
        one.ok("ROLLBACK").await;
        // Undisturbed, it writes, and reads what it wrote.
        one.ok(&format!("BEGIN ISOLATION LEVEL {level}")).await;
        assert_eq!(one.one("SELECT n FROM t").await, "1");
        one.ok("UPDATE t SET n = n + 1").await;
        assert_eq!(one.one("SELECT n FROM t").await, "2");
        one.ok("COMMIT").await;
    }
}

#[tokio::test]
async fn repeatable_read_that_writes_first_is_not_disturbed_by_what_came_before() {
    let node = Node::start();
    let (mut one, mut two) = (node.client().await, node.client().await);
    one.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    one.ok("BEGIN ISOLATION LEVEL SERIALIZABLE").await;
    two.ok("INSERT INTO t VALUES (1)").await;
    one.ok("INSERT INTO t VALUES (2)").await;
    assert_eq!(one.lines("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
    one.ok("COMMIT").await;
}

#[tokio::test]
async fn the_isolation_level_cannot_change_after_the_first_query() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("BEGIN").await;
    client
        .ok("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        .await;
    assert_eq!(
        client.one("SHOW transaction_isolation").await,
        "serializable"
    );
    client.ok("SELECT 1").await;
    client
        .fails("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "25001")
        .await;
    client.ok("ROLLBACK").await;
    client
        .ok("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await;
    client.ok("BEGIN").await;
    assert_eq!(
        client.one("SHOW transaction_isolation").await,
        "repeatable read"
    );
    client.ok("COMMIT").await;
}

#[tokio::test]
async fn lock_timeout_is_55p03_while_another_transaction_holds_the_writer() {
    let node = Node::start();
    let (mut holder, mut waiter) = (node.client().await, node.client().await);
    holder.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    holder.ok("BEGIN; INSERT INTO t VALUES (1)").await;
    waiter.ok("SET lock_timeout = '20ms'").await;
    let error = waiter.fails("INSERT INTO t VALUES (2)", "55P03").await;
    assert_eq!(error.message, "canceling statement due to lock timeout");
    waiter.ok("BEGIN").await;
    waiter.fails("SELECT * FROM t FOR UPDATE", "55P03").await;
    waiter.ok("ROLLBACK").await;
    assert_eq!(
        waiter.lines("SELECT id FROM t").await,
        Vec::<String>::new(),
        "reads do not wait"
    );
    holder.ok("COMMIT").await;
    waiter.ok("INSERT INTO t VALUES (3)").await;
    assert_eq!(
        waiter.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "3"],
        "what was given up never ran"
    );
}

#[tokio::test]
async fn statement_timeout_is_57014_while_waiting_and_what_waited_never_runs() {
    let node = Node::start();
    let (mut holder, mut waiter) = (node.client().await, node.client().await);
    holder.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    holder.ok("BEGIN; INSERT INTO t VALUES (1)").await;
    waiter.ok("SET statement_timeout = '20ms'").await;
    let error = waiter.fails("INSERT INTO t VALUES (2)", "57014").await;
    assert_eq!(
        error.message,
        "canceling statement due to statement timeout"
    );
    holder.ok("ROLLBACK").await;
    waiter.ok("INSERT INTO t VALUES (3)").await;
    assert_eq!(waiter.lines("SELECT id FROM t").await, ["3"]);
}

#[tokio::test]
async fn a_cancelled_statement_that_waits_ends_at_once_and_never_runs() {
    let node = Node::start();
    let (mut holder, mut waiter) = (node.client().await, node.client().await);
    holder.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    holder.ok("BEGIN; INSERT INTO t VALUES (1)").await;
    let canceller = waiter.session.canceller();
    let waiting = tokio::spawn(async move {
        let error = waiter.run("INSERT INTO t VALUES (2)").await.unwrap_err();
        (waiter, error)
    });
    // On this runtime the task has run up to its wait once it has been given a turn.
    tokio::task::yield_now().await;
    canceller.cancel();
    let (mut waiter, error) = waiting.await.unwrap();
    assert_eq!(error.code.sqlstate().0, "57014");
    assert_eq!(error.message, "canceling statement due to user request");
    holder.ok("COMMIT").await;
    assert_eq!(waiter.lines("SELECT id FROM t").await, ["1"]);
}

#[tokio::test]
async fn a_holder_that_is_rolled_back_or_leaves_frees_those_who_wait() {
    let node = Node::start();
    let mut waiter = node.client().await;
    waiter.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    for leaves in [false, true] {
        let mut holder = node.client().await;
        holder.ok("BEGIN; INSERT INTO t VALUES (1)").await;
        assert!(holder.session.holds_writer());
        let waiting = tokio::spawn(async move {
            waiter.ok("INSERT INTO t VALUES (1)").await;
            waiter
        });
        tokio::task::yield_now().await;
        if leaves {
            drop(holder);
        } else {
            holder.session.reset().await;
            assert!(!holder.session.holds_writer());
        }
        waiter = waiting.await.unwrap();
        assert_eq!(waiter.lines("SELECT id FROM t").await, ["1"]);
        waiter.ok("DELETE FROM t").await;
    }
}

/// A client that went away while its transaction waited for the writer (an HTTP request whose
/// connection closed) was given the writer all the same, and nobody could ever take it back.
#[tokio::test]
async fn g7_a_client_that_leaves_while_it_waits_for_the_writer_never_holds_it() {
    let node = Node::start();
    let (mut holder, mut next) = (node.client().await, node.client().await);
    holder.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    holder.ok("BEGIN; INSERT INTO t VALUES (1)").await;
    let mut leaving = node.client().await;
    leaving.ok("BEGIN").await;
    let task = tokio::spawn(async move { leaving.run("INSERT INTO t VALUES (2)").await });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    holder.ok("COMMIT").await;
    next.ok("SET lock_timeout = '5s'").await;
    next.ok("INSERT INTO t VALUES (3)").await;
    assert_eq!(next.lines("SELECT id FROM t ORDER BY id").await, ["1", "3"]);
}

/// The same when the writer had been given, and the client left before it learned of it.
#[tokio::test]
async fn g7_a_client_that_leaves_as_it_is_given_the_writer_does_not_keep_it() {
    let node = Node::start();
    let mut next = node.client().await;
    next.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    for _ in 0..50 {
        let mut leaving = node.client().await;
        leaving.ok("BEGIN").await;
        let task = tokio::spawn(async move { leaving.run("INSERT INTO t VALUES (2)").await });
        tokio::task::yield_now().await;
        // The writer answers on a thread of its own, at about this moment.
        std::thread::yield_now();
        task.abort();
        let _ = task.await;
    }
    next.ok("SET lock_timeout = '5s'").await;
    next.ok("INSERT INTO t VALUES (3)").await;
    assert_eq!(next.lines("SELECT id FROM t").await, ["3"]);
}

#[tokio::test]
async fn for_update_takes_the_writer_until_the_transaction_ends() {
    let node = Node::start();
    let (mut one, mut two) = (node.client().await, node.client().await);
    one.ok("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    one.ok("INSERT INTO t VALUES (1, 1)").await;
    one.ok("BEGIN").await;
    assert_eq!(
        one.lines("SELECT n FROM t WHERE id = 1 FOR UPDATE").await,
        ["1"]
    );
    let other = tokio::spawn(async move {
        two.ok("UPDATE t SET n = n * 10").await;
        two
    });
    tokio::task::yield_now().await;
    one.ok("UPDATE t SET n = n + 1").await;
    one.ok("COMMIT").await;
    let mut two = other.await.unwrap();
    assert_eq!(two.lines("SELECT n FROM t").await, ["20"]);
}

#[tokio::test]
async fn g1_reads_wait_for_the_lsn_they_were_told_and_say_so_when_it_does_not_come() {
    let node = Node::with(|config| config.min_lsn_wait = Duration::from_millis(50));
    let (mut writer, mut reader) = (node.client().await, node.client().await);
    let lsn = writer.ok("CREATE TABLE t (id int PRIMARY KEY)").await.lsn;
    reader.session.require_lsn(lsn);
    reader.ok("SELECT * FROM t").await;
    // One that is on its way is waited for.
    node.log.hold();
    reader.session.require_lsn(lsn.next());
    let writing = tokio::spawn(async move {
        writer.ok("INSERT INTO t VALUES (1)").await;
        writer
    });
    node.log.held().await;
    let reading = tokio::spawn(async move {
        let rows = reader.lines("SELECT id FROM t").await;
        (reader, rows)
    });
    tokio::task::yield_now().await;
    node.log.release();
    let (mut reader, rows) = reading.await.unwrap();
    assert_eq!(rows, ["1"]);
    writing.await.unwrap();
    reader.session.require_lsn(lsn.plus(100));
    reader.fails("SELECT * FROM t", "57P03").await;
}

#[tokio::test]
async fn g1_nothing_is_shown_before_it_is_durable() {
    let node = Node::start();
    let (mut writer, mut reader) = (node.client().await, node.client().await);
    let lsn = writer.ok("CREATE TABLE t (id int PRIMARY KEY)").await.lsn;
    let tenant = node.tenant().await;
    let mut tail = tenant.tail(lsn, Vec::new());
    node.log.hold();
    let writing = tokio::spawn(async move { writer.ok("INSERT INTO t VALUES (1)").await });
    node.log.held().await;
    assert_eq!(reader.lines("SELECT id FROM t").await, Vec::<String>::new());
    assert_eq!(tenant.visible(), lsn);
    assert!(tail.try_next().await.unwrap().is_none());
    assert!(!writing.is_finished());
    node.log.release();
    let answered = writing.await.unwrap().lsn;
    assert_eq!(answered, lsn.next());
    assert!(tenant.visible() >= answered, "whoever was answered sees it");
    assert_eq!(reader.lines("SELECT id FROM t").await, ["1"]);
    until(|| tenant.visible() >= answered).await;
    assert_eq!(tail.next().await.unwrap().position, answered);
}

/// A read was planned against one catalog and run on a snapshot that had the next: a column that had
/// gone was an internal error, and one whose type had changed came out as nonsense.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g8_reads_while_definitions_change_see_one_or_the_other_whole() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, v int)")
        .await;
    client.ok("INSERT INTO t VALUES (1, 7), (2, 7)").await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for number in 0..3 {
        let (mut reader, done) = (node.client().await, Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) {
                if number == 0 {
                    reader.ok("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
                    let first = reader.lines("SELECT * FROM t ORDER BY id").await;
                    let second = reader.lines("SELECT * FROM t ORDER BY id").await;
                    assert_eq!(
                        first, second,
                        "the definitions of a snapshot are those of its rows"
                    );
                    reader.ok("COMMIT").await;
                }
                let rows = reader.lines("SELECT * FROM t ORDER BY id").await;
                let shapes = [["1|7", "2|7"], ["1|7|x", "2|7|x"]];
                assert!(shapes.iter().any(|shape| rows == shape), "{rows:?}");
                reads += 1;
            }
            reads
        }));
    }
    for _ in 0..25 {
        client
            .ok("ALTER TABLE t ALTER COLUMN v TYPE text USING v::text")
            .await;
        client
            .ok("ALTER TABLE t ADD COLUMN w text DEFAULT 'x'")
            .await;
        client
            .ok("ALTER TABLE t ALTER COLUMN v TYPE numeric(10, 0) USING v::numeric")
            .await;
        client.ok("ALTER TABLE t DROP COLUMN w").await;
        client
            .ok("ALTER TABLE t ALTER COLUMN v TYPE int USING v::int")
            .await;
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}
