//! EXPLAIN shows and runs nothing; EXPLAIN ANALYZE runs its statement, once, as if it stood alone.

use std::sync::Arc;

use springhead_engine::TransactionStatus;
use springhead_engine::access::{Credential, Principal};
use springhead_proto::{ChangeKind, TenantId};

use crate::support::{Client, Node, tail_from};

/// The line that tells what the statement came to.
async fn result_of(client: &mut Client, sql: &str) -> String {
    let lines = client.lines(sql).await;
    let time = lines.last().expect("lines");
    let (word, took) = time.split_once(": ").expect("the time it took");
    assert_eq!(word, "Execution Time");
    took.strip_suffix(" ms")
        .and_then(|ms| ms.parse::<u64>().ok())
        .expect("a number of ms");
    lines[lines.len() - 2].clone()
}

#[tokio::test]
async fn explain_analyze_runs_its_statement_once() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id integer PRIMARY KEY, v text)")
        .await;
    let before = node.engine.log().tail().durable;
    // Without ANALYZE nothing runs, whatever it is.
    for sql in [
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN INSERT INTO t VALUES (1, 'a')",
        "EXPLAIN (ANALYZE false) DELETE FROM t",
    ] {
        let lines = client.lines(sql).await;
        assert!(
            lines.iter().all(|line| !line.starts_with("Execution Time")),
            "{lines:?}"
        );
    }
    assert_eq!(node.engine.log().tail().durable, before);
    for (sql, result) in [
        (
            "EXPLAIN ANALYZE INSERT INTO t VALUES (1, 'a'), (2, 'b')",
            "Result: INSERT 0 2",
        ),
        (
            "EXPLAIN (ANALYZE) UPDATE t SET v = v || 'x' WHERE id = 1",
            "Result: UPDATE 1",
        ),
        ("EXPLAIN ANALYZE SELECT * FROM t", "Result: SELECT 2"),
        (
            "EXPLAIN ANALYZE DELETE FROM t WHERE id = 2 RETURNING v",
            "Result: DELETE 1",
        ),
        ("EXPLAIN ANALYZE SELECT 1 WHERE false", "Result: SELECT 0"),
    ] {
        assert_eq!(result_of(&mut client, sql).await, result, "{sql}");
    }
    assert_eq!(client.lines("SELECT * FROM t").await, ["1|ax"]);
    // On the feed it is what a statement of its own is: two rows, one update, one deletion.
    let kinds: Vec<ChangeKind> = tail_from(&node.tenant().await, before)
        .await
        .into_iter()
        .map(|change| change.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            ChangeKind::Insert,
            ChangeKind::Insert,
            ChangeKind::Update,
            ChangeKind::Delete
        ]
    );
}

#[tokio::test]
async fn explain_analyze_in_a_block_is_a_part_of_it() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id integer PRIMARY KEY)").await;
    client.ok("BEGIN").await;
    assert_eq!(
        result_of(&mut client, "EXPLAIN ANALYZE INSERT INTO t VALUES (1)").await,
        "Result: INSERT 0 1"
    );
    assert_eq!(client.one("SELECT count(*) FROM t").await, "1");
    client.ok("ROLLBACK").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    // What the block has defined is there for it.
    client.ok("BEGIN; CREATE TABLE own (id integer)").await;
    assert_eq!(
        result_of(
            &mut client,
            "EXPLAIN ANALYZE INSERT INTO own VALUES (1), (2)"
        )
        .await,
        "Result: INSERT 0 2"
    );
    client.ok("COMMIT").await;
    assert_eq!(client.one("SELECT count(*) FROM own").await, "2");
    // A failure is the statement's.
    client.ok("BEGIN; INSERT INTO t VALUES (1)").await;
    client
        .fails("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "23505")
        .await;
    assert_eq!(client.status(), TransactionStatus::Failed);
    client.ok("ROLLBACK").await;
}

#[tokio::test]
async fn g6_explain_analyze_may_do_what_its_statement_may() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin
        .ok("CREATE TABLE t (id integer); INSERT INTO t VALUES (1); CREATE ROLE ann LOGIN; GRANT SELECT, UPDATE ON t TO ann; CREATE TABLE calls (n integer)")
        .await;
    let principal = Arc::new(Principal::of("ann", Credential::Password));
    let session = node.engine.session(TenantId::DEFAULT, &principal).await;
    let mut ann = Client {
        session: session.unwrap(),
    };
    assert_eq!(
        result_of(&mut ann, "EXPLAIN ANALYZE SELECT * FROM t").await,
        "Result: SELECT 1"
    );
    for sql in ["EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN DELETE FROM t"] {
        ann.fails(sql, "42501").await;
    }
    ann.ok("BEGIN READ ONLY").await;
    ann.fails("EXPLAIN ANALYZE UPDATE t SET id = id", "25006")
        .await;
    ann.ok("ROLLBACK").await;
    // A function is called once.
    admin
        .ok("CREATE FUNCTION called() RETURNS integer LANGUAGE sql AS 'INSERT INTO calls VALUES (1) RETURNING n'")
        .await;
    assert_eq!(
        result_of(&mut admin, "EXPLAIN ANALYZE SELECT called()").await,
        "Result: SELECT 1"
    );
    assert_eq!(admin.one("SELECT count(*) FROM calls").await, "1");
    assert_eq!(admin.one("SELECT count(*) FROM t").await, "1");
}

/// Row by row, what EXPLAIN says of a statement in JSON.
async fn report(client: &mut Client, sql: &str) -> serde_json::Value {
    let lines = client.lines(sql).await;
    let [line] = lines.as_slice() else {
        panic!("{sql}: {lines:?}")
    };
    let json: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    json[0].clone()
}

#[tokio::test]
async fn explain_in_json_names_columns_and_tells_which_an_outer_join_makes_null() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok(
            "CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
             CREATE TABLE posts (id int PRIMARY KEY, author int NOT NULL, title text);
             PREPARE q AS SELECT users.id, posts.id, title, name || '!' AS n
                 FROM users LEFT JOIN posts ON author = users.id WHERE users.id = $1;
             PREPARE add AS INSERT INTO users VALUES ($1, $2) RETURNING id",
        )
        .await;
    // Nothing runs, so a NULL may stand where none could be stored.
    let found = report(
        &mut client,
        "EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE q(NULL)",
    )
    .await;
    let plan = &found["Plan"];
    assert_eq!(
        plan["Output"],
        serde_json::json!(["users.id", "posts.id", "posts.title", "n"])
    );
    assert_eq!(plan["Join Type"], "Left");
    let nullable = &plan["Plans"][0];
    assert_eq!(nullable["Parent Relationship"], "Inner");
    assert_eq!(nullable["Output"], serde_json::json!(["posts.id"]));
    let found = report(&mut client, "EXPLAIN (FORMAT JSON) EXECUTE add(1, NULL)").await;
    assert_eq!(found["Plan"]["Node Type"], "ModifyTable");
    assert_eq!(found["Plan"]["Output"], serde_json::Value::Null);
    // And with ANALYZE it runs, and is refused as it would be.
    let found = report(
        &mut client,
        "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE add(1, 'a')",
    )
    .await;
    assert_eq!(found["Result"], "INSERT 0 1");
    let refused = client.run("EXPLAIN ANALYZE EXECUTE add(2, NULL)").await;
    assert_eq!(refused.unwrap_err().code.sqlstate().0, "23502");
    for (sql, code) in [
        ("EXPLAIN EXECUTE nobody", "26000"),
        ("EXPLAIN EXECUTE q", "42601"),
        ("EXPLAIN (nonsense) SELECT 1", "42601"),
        ("EXPLAIN (FORMAT csv) SELECT 1", "22023"),
        ("EXPLAIN (FORMAT XML) SELECT 1", "0A000"),
        ("EXPLAIN (ANALYZE maybe) SELECT 1", "42601"),
    ] {
        let refused = client.run(sql).await.expect_err(sql);
        assert_eq!(refused.code.sqlstate().0, code, "{sql}");
    }
    assert_eq!(client.lines("SELECT id FROM users").await, ["1"]);
}
