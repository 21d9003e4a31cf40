//! Statements that share a flush: each fails alone, whatever makes it fail. And a log that refuses,
//! or breaks.

use std::time::Duration;

use springhead_proto::Lsn;
use tokio::task::JoinHandle;

use crate::support::{Answer, Client, Node, rows_of, tail_from};

type Running = JoinHandle<(Client, Result<Answer, springhead_proto::SqlError>)>;

/// Starts each statement in a client of its own, so that all of them wait for the writer while an
/// append is held up: they form one group. Needs a runtime of one thread, on which a spawned task
/// runs up to its wait when it is given a turn.
async fn in_one_group(node: &Node, statements: &[&str]) -> (Running, Vec<Running>) {
    let mut clients = Vec::new();
    for _ in statements {
        clients.push(node.client().await);
    }
    let mut first = node.client().await;
    node.log.hold();
    let blocking = tokio::spawn(async move {
        let result = first.run("INSERT INTO blocker DEFAULT VALUES").await;
        (first, result)
    });
    node.log.held().await;
    let mut running = Vec::new();
    for (mut client, sql) in clients.into_iter().zip(statements) {
        let sql = (*sql).to_owned();
        running.push(tokio::spawn(async move {
            let result = client.run(&sql).await;
            (client, result)
        }));
    }
    tokio::task::yield_now().await;
    (blocking, running)
}

async fn prepared(node: &Node) -> Client {
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE blocker (id serial PRIMARY KEY)")
        .await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    client.ok("INSERT INTO blocker DEFAULT VALUES").await;
    client
}

/// Alone, a client's statement may run on the thread that asks: its time is measured all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_lone_statement_that_takes_too_long_is_ended() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    client.ok("SET statement_timeout = '50ms'").await;
    let endless = "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000000000) g(i)";
    let error = client.fails(endless, "57014").await;
    assert_eq!(
        error.message,
        "canceling statement due to statement timeout"
    );
    client.ok("SET statement_timeout = 0; BEGIN").await;
    let canceller = client.session.canceller();
    let running = tokio::spawn(async move {
        let error = client.run(endless).await.unwrap_err();
        (client, error)
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    canceller.cancel();
    let (mut client, error) = running.await.unwrap();
    assert_eq!(error.message, "canceling statement due to user request");
    client.ok("ROLLBACK").await;
    client.ok("INSERT INTO t VALUES (1, 'one')").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "1");
}

async fn codes(running: Vec<Running>) -> Vec<String> {
    let mut codes = Vec::new();
    for task in running {
        let (_, result) = task.await.unwrap();
        codes.push(match result {
            Ok(answer) => answer.tag,
            Err(error) => error.code.sqlstate().0.to_owned(),
        });
    }
    codes
}

#[tokio::test]
async fn g3_a_statement_that_fails_in_a_group_fails_alone() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    client.ok("CREATE TABLE parent (id int PRIMARY KEY)").await;
    client
        .ok("CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent, n int CHECK (n > 0))")
        .await;
    let before = node.tenant().await.visible();
    let flushes = node.engine.log().stats().batches;
    let statements = [
        "INSERT INTO t VALUES (1, 'one')",
        "INSERT INTO t VALUES (2, 'two'), (1, 'again')",
        "INSERT INTO t VALUES (3, 'three')",
        "INSERT INTO child VALUES (1, 99, 1)",
        "INSERT INTO child VALUES (1, NULL, 0)",
        "INSERT INTO child VALUES (NULL, NULL, 1)",
        "INSERT INTO t SELECT i, 'x' FROM generate_series(10, 20) g(i) WHERE 1 / (i - 15) IS NOT NULL",
        "INSERT INTO t VALUES (4, 'four')",
    ];
    let (blocking, running) = in_one_group(&node, &statements).await;
    node.log.release();
    blocking.await.unwrap().1.unwrap();
    assert_eq!(
        codes(running).await,
        [
            "INSERT 0 1",
            "23505",
            "INSERT 0 1",
            "23503",
            "23514",
            "23502",
            "22012",
            "INSERT 0 1"
        ]
    );
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "3", "4"]
    );
    assert_eq!(
        node.engine.log().stats().batches,
        flushes + 2,
        "one flush for the blocker, one for all"
    );
    let changes = tail_from(&node.tenant().await, before).await;
    assert_eq!(rows_of(&changes).len(), 4);
    let commits: std::collections::BTreeSet<Lsn> =
        changes.iter().map(|change| change.commit_lsn).collect();
    assert_eq!(commits.len(), 4, "each statement is a commit of its own");
}

/// SQLite gives up the whole transaction when a writing statement is interrupted, with everything
/// that neighbours have done in it.
#[tokio::test]
async fn g3_an_interrupted_statement_does_not_harm_its_neighbours() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    let endless = "INSERT INTO t SELECT i, 'x' FROM generate_series(1000, 1000000000) g(i)";
    let statements = [
        "INSERT INTO t VALUES (1, 'one')",
        "INSERT INTO t VALUES (1, 'no')",
        "INSERT INTO blocker VALUES (DEFAULT)",
    ];
    let mut all: Vec<&str> = statements.to_vec();
    all.push(endless);
    all.push("INSERT INTO t VALUES (2, 'two')");
    let before = node.tenant().await.visible();
    for by_timeout in [true, false] {
        let mut clients = Vec::new();
        for _ in &all {
            clients.push(node.client().await);
        }
        let mut first = node.client().await;
        node.log.hold();
        let blocking = tokio::spawn(async move {
            first
                .run("INSERT INTO blocker DEFAULT VALUES")
                .await
                .map(|_| ())
        });
        node.log.held().await;
        let mut running = Vec::new();
        let mut canceller = None;
        for (mut client, sql) in clients.into_iter().zip(&all) {
            if *sql == endless {
                if by_timeout {
                    client.ok("SET statement_timeout = '300ms'").await;
                }
                canceller = Some(client.session.canceller());
            }
            let sql = (*sql).to_owned();
            running.push(tokio::spawn(async move {
                let result = client.run(&sql).await;
                (client, result)
            }));
        }
        tokio::task::yield_now().await;
        node.log.release();
        blocking.await.unwrap().unwrap();
        if !by_timeout {
            // It may still wait for the writer or run already: either way it ends.
            tokio::time::sleep(Duration::from_millis(100)).await;
            canceller.unwrap().cancel();
        }
        assert_eq!(
            codes(running).await,
            ["INSERT 0 1", "23505", "INSERT 0 1", "57014", "INSERT 0 1"]
        );
        assert_eq!(
            client.lines("SELECT id FROM t ORDER BY id").await,
            ["1", "2"]
        );
        client.ok("DELETE FROM t").await;
    }
    let changes = tail_from(&node.tenant().await, before).await;
    let inserted = rows_of(&changes)
        .iter()
        .filter(|(_, before, _)| before.is_none())
        .count();
    assert_eq!(inserted, 2 * 4, "each once, though some ran twice");
}

#[tokio::test]
async fn g3_what_is_too_large_fails_alone() {
    let node = Node::with(|config| {
        config.max_transaction_bytes = 64 << 10;
        config.max_row_bytes = 16 << 10;
        config.capture_memory_bytes = 8 << 10;
    });
    let mut client = prepared(&node).await;
    let statements = [
        "INSERT INTO t VALUES (1, 'one')",
        "INSERT INTO t VALUES (2, repeat('x', 20000))",
        "INSERT INTO t VALUES (3, 'three')",
        "INSERT INTO t SELECT i, repeat('y', 1000) FROM generate_series(100, 200) g(i)",
        "INSERT INTO t SELECT i, repeat('z', 1000) FROM generate_series(300, 320) g(i)",
    ];
    let (blocking, running) = in_one_group(&node, &statements).await;
    node.log.release();
    blocking.await.unwrap().1.unwrap();
    assert_eq!(
        codes(running).await,
        ["INSERT 0 1", "54000", "INSERT 0 1", "54000", "INSERT 0 21"]
    );
    assert_eq!(client.one("SELECT count(*) FROM t").await, "23");
    // In a transaction of one's own it takes the transaction with it, and the writer is free.
    client.ok("BEGIN; INSERT INTO t VALUES (4, 'four')").await;
    client
        .fails("INSERT INTO t VALUES (5, repeat('x', 20000))", "54000")
        .await;
    client.ok("ROLLBACK").await;
    client.ok("BEGIN").await;
    for n in 4..7 {
        client.ok(&format!("INSERT INTO t SELECT i, repeat('w', 1000) FROM generate_series({n}000, {n}019) g(i)")).await;
    }
    client
        .fails(
            "INSERT INTO t SELECT i, repeat('w', 1000) FROM generate_series(9000, 9019) g(i)",
            "54000",
        )
        .await;
    assert_eq!(client.ok("COMMIT").await.tag, "ROLLBACK");
    assert_eq!(client.one("SELECT count(*) FROM t").await, "23");
    client.ok("INSERT INTO t VALUES (6, 'six')").await;
    let node_two = node.replayed_elsewhere();
    assert_eq!(
        node_two.client().await.one("SELECT count(*) FROM t").await,
        "24"
    );
}

/// A RETURNING result over its limit failed its statement after SQLite had changed the rows. The
/// rows stayed in the shared transaction and were committed with the neighbours', and the log never
/// heard of them.
#[tokio::test]
async fn g12_a_statement_whose_result_is_too_large_leaves_nothing_behind() {
    let node = Node::with(|config| {
        config.result_memory_bytes = 4 << 10;
        config.max_result_bytes = 32 << 10;
    });
    let mut client = prepared(&node).await;
    let statements = [
        "INSERT INTO t VALUES (1, 'one')",
        "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(100, 200) g(i) RETURNING v",
        "INSERT INTO t VALUES (2, 'two')",
    ];
    let (blocking, running) = in_one_group(&node, &statements).await;
    node.log.release();
    blocking.await.unwrap().1.unwrap();
    assert_eq!(codes(running).await, ["INSERT 0 1", "54000", "INSERT 0 1"]);
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "2"]
    );
    client.ok("BEGIN; SAVEPOINT s").await;
    client.fails(statements[1], "54000").await;
    client.ok("ROLLBACK").await;
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "2"]
    );
}

#[tokio::test]
async fn g12_a_log_that_refuses_fails_the_statement_and_goes_on_later() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    let tenant = node.tenant().await;
    let visible = tenant.visible();
    let mut tail = tenant.tail(visible, Vec::new());
    node.log.refuse(true);
    client
        .fails("INSERT INTO t VALUES (1, 'one')", "53100")
        .await;
    client
        .fails("CREATE TABLE refused (id int PRIMARY KEY)", "53100")
        .await;
    client
        .fails("ALTER TABLE t ADD COLUMN refused int", "53100")
        .await;
    client
        .fails("TRUNCATE blocker RESTART IDENTITY", "53100")
        .await;
    client
        .ok("BEGIN; INSERT INTO t VALUES (2, 'two'); CREATE TABLE refused (id serial PRIMARY KEY)")
        .await;
    client.fails("COMMIT", "53100").await;
    assert_eq!(client.status(), springhead_engine::TransactionStatus::Idle);
    assert_eq!(
        client.one("SELECT count(*) FROM t").await,
        "0",
        "reads go on"
    );
    client.fails("SELECT * FROM refused", "42P01").await;
    assert!(tail.try_next().await.unwrap().is_none(), "nothing is shown");
    assert_eq!(tenant.visible(), visible);
    node.log.refuse(false);
    client.ok("INSERT INTO t VALUES (3, 'three')").await;
    client
        .ok("CREATE TABLE accepted (id serial PRIMARY KEY)")
        .await;
    client.ok("INSERT INTO accepted DEFAULT VALUES").await;
    assert_eq!(client.lines("SELECT * FROM t").await, ["3|three"]);
    client.ok("INSERT INTO blocker DEFAULT VALUES").await;
    assert_eq!(
        client.lines("SELECT id FROM blocker ORDER BY id").await,
        ["1", "2"],
        "it was not restarted"
    );
    let replayed = node.replayed_elsewhere();
    assert_eq!(
        replayed.client().await.lines("SELECT * FROM t").await,
        ["3|three"]
    );
}

#[tokio::test]
async fn g12_a_group_that_the_log_refuses_is_refused_whole() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    let statements = [
        "INSERT INTO t VALUES (1, 'a')",
        "INSERT INTO t VALUES (1, 'b')",
        "INSERT INTO t VALUES (2, 'c')",
    ];
    let (blocking, running) = in_one_group(&node, &statements).await;
    node.log.refuse(true);
    node.log.release();
    assert_eq!(
        blocking.await.unwrap().1.unwrap_err().code.sqlstate().0,
        "53100"
    );
    assert_eq!(codes(running).await, ["53100", "23505", "53100"]);
    node.log.refuse(false);
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    client.ok("INSERT INTO t VALUES (1, 'd')").await;
}

#[tokio::test]
async fn g12_a_broken_log_answers_outcome_unknown_and_acknowledges_nothing_more() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    let mut other = node.client().await;
    let tenant = node.tenant().await;
    let visible = tenant.visible();
    let mut tail = tenant.tail(visible, Vec::new());
    other.ok("BEGIN").await;
    let statements = [
        "INSERT INTO t VALUES (1, 'a')",
        "INSERT INTO t VALUES (2, 'b')",
    ];
    let (blocking, running) = in_one_group(&node, &statements).await;
    node.log.poison();
    node.log.release();
    assert_eq!(
        blocking.await.unwrap().1.unwrap_err().code.sqlstate().0,
        "08007"
    );
    assert_eq!(codes(running).await, ["08007", "08007"]);
    let why = node.engine.poisoned().await;
    assert!(why.contains("input/output error"), "{why}");
    client.fails("INSERT INTO t VALUES (3, 'c')", "08007").await;
    other.fails("INSERT INTO t VALUES (4, 'd')", "08007").await;
    assert_eq!(
        client.one("SELECT count(*) FROM t").await,
        "0",
        "nothing of it is shown"
    );
    assert_eq!(tenant.visible(), visible);
    assert!(tail.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn g12_a_broken_log_at_commit_is_outcome_unknown() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    client.ok("BEGIN; INSERT INTO t VALUES (1, 'a')").await;
    node.log.poison();
    client.fails("COMMIT", "08007").await;
    node.engine.poisoned().await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn g12_a_state_file_that_is_ahead_of_its_log_is_refused() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    client.ok("INSERT INTO t VALUES (1, 'a')").await;
    drop(client);
    let shorter = Node::start();
    let failed = node.on_log_of(&shorter);
    let error = failed
        .err()
        .expect("a state that is ahead of its log has lost a log")
        .to_string();
    assert!(error.contains("and the log ends at"), "{error}");
}

/// A panic on the writer's thread left its queue marked as being worked on: every later statement of
/// the tenant waited for ever.
#[tokio::test]
async fn g12_a_panic_of_the_writer_stops_the_node_and_leaves_nobody_waiting() {
    let node = Node::start();
    let mut client = prepared(&node).await;
    let statements = [
        "INSERT INTO t VALUES (1, 'a')",
        "INSERT INTO t VALUES (2, 'b')",
    ];
    let (blocking, running) = in_one_group(&node, &statements).await;
    node.log.panic();
    node.log.release();
    assert_eq!(
        blocking.await.unwrap().1.unwrap_err().code.sqlstate().0,
        "08007"
    );
    assert_eq!(codes(running).await, ["08007", "08007"]);
    node.engine.poisoned().await;
    client.fails("INSERT INTO t VALUES (3, 'c')", "08007").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
}

/// The engine ends while many write, and its state is gone: what was acknowledged is in the log, and
/// of what was not, each transaction is there whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g1_what_was_acknowledged_is_there_after_the_engine_ends_in_the_middle() {
    let mut node = Node::on_disk(|config| config.capture_memory_bytes = 400);
    node.client()
        .await
        .ok("CREATE TABLE pairs (id bigserial PRIMARY KEY, a int, half int)")
        .await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let acks = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for writer in 0..6 {
            let (mut client, acks) = (node.client().await, std::sync::Arc::clone(&acks));
            tasks.push(tokio::spawn(async move {
                for n in 0.. {
                    let a = round * 1_000_000 + writer * 10_000 + n;
                    let sql = if n % 2 == 0 {
                        format!("INSERT INTO pairs (a, half) VALUES ({a}, 0), ({a}, 1)")
                    } else {
                        format!("INSERT INTO pairs (a, half) VALUES ({a}, 0); INSERT INTO pairs (a, half) VALUES ({a}, 1)")
                    };
                    client.ok(&sql).await;
                    acks.lock().push(a);
                }
            }));
        }
        crate::support::until(|| acks.lock().len() > 60).await;
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            let _ = task.await;
        }
        acknowledged.extend(acks.lock().iter().copied());
        node = node
            .try_reopen(|config| {
                if round % 2 == 0 {
                    std::fs::remove_dir_all(config.data_dir.join("tenants")).unwrap();
                }
            })
            .unwrap();
        let mut client = node.client().await;
        assert_eq!(
            client
                .one("SELECT count(*) FROM (SELECT a FROM pairs GROUP BY a HAVING count(*) <> 2) x")
                .await,
            "0"
        );
        let there: std::collections::BTreeSet<i32> = client
            .lines("SELECT DISTINCT a FROM pairs")
            .await
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        assert!(acknowledged.iter().all(|a| there.contains(a)));
    }
}

#[tokio::test]
async fn g7_statements_that_wait_for_the_writer_are_bounded_in_bytes() {
    let node = Node::with(|config| config.writer_queue_bytes = 20_000);
    let mut client = prepared(&node).await;
    let wide = format!("INSERT INTO t VALUES (1, '{}')", "x".repeat(9000));
    let (blocking, running) = in_one_group(
        &node,
        &[&wide, &wide, &wide, "INSERT INTO t VALUES (2, 'small')"],
    )
    .await;
    node.log.release();
    blocking.await.unwrap().1.unwrap();
    assert_eq!(
        codes(running).await,
        ["INSERT 0 1", "23505", "53400", "INSERT 0 1"]
    );
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "2"]
    );
}
