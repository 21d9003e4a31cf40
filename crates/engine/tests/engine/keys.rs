//! Foreign keys: immediate and deferred, in both directions, with PostgreSQL's words.

use springhead_proto::SqlError;

use crate::support::{Client, Node};

async fn tables(client: &mut Client) {
    client
        .ok("CREATE TABLE parent (id int PRIMARY KEY, name text)")
        .await;
    client
        .ok(
            "CREATE TABLE child (id int PRIMARY KEY, p int CONSTRAINT child_p REFERENCES parent,
             d int CONSTRAINT child_d REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
             i int CONSTRAINT child_i REFERENCES parent DEFERRABLE)",
        )
        .await;
    client
        .ok("INSERT INTO parent VALUES (1, 'one'), (2, 'two')")
        .await;
}

fn check(error: &SqlError, message: &str, detail: &str, constraint: &str) {
    assert_eq!(error.message, message);
    assert_eq!(error.detail.as_deref(), Some(detail));
    assert_eq!(error.constraint.as_deref(), Some(constraint));
    assert_eq!(error.table.as_deref(), Some("child"));
}

#[tokio::test]
async fn g3_violations_are_named_in_both_directions() {
    let node = Node::start();
    let mut client = node.client().await;
    tables(&mut client).await;
    let error = client
        .fails("INSERT INTO child VALUES (1, 9, NULL, NULL)", "23503")
        .await;
    check(
        &error,
        "insert or update on table \"child\" violates foreign key constraint \"child_p\"",
        "Key (p)=(9) is not present in table \"parent\".",
        "child_p",
    );
    client
        .ok("INSERT INTO child VALUES (1, 1, NULL, NULL)")
        .await;
    let still = |key: i32| format!("Key (id)=({key}) is still referenced from table \"child\".");
    let parents = "update or delete on table \"parent\" violates foreign key constraint \"child_p\" on table \"child\"";
    let error = client
        .fails("DELETE FROM parent WHERE id = 1", "23503")
        .await;
    check(&error, parents, &still(1), "child_p");
    let error = client
        .fails("UPDATE parent SET id = 5 WHERE id = 1", "23503")
        .await;
    check(&error, parents, &still(1), "child_p");
    let error = client.fails("UPDATE child SET p = 7", "23503").await;
    assert_eq!(
        error.detail.as_deref(),
        Some("Key (p)=(7) is not present in table \"parent\".")
    );
}

/// Whether the child or the parent was at fault was told by whether the transaction had touched the
/// child at all, so that a parent's deletion was blamed on children that had been inserted earlier.
#[tokio::test]
async fn g3_the_statement_at_fault_is_named_not_an_earlier_one() {
    let node = Node::start();
    let mut client = node.client().await;
    tables(&mut client).await;
    client.ok("BEGIN").await;
    client
        .ok("INSERT INTO child VALUES (1, 1, NULL, NULL)")
        .await;
    let error = client
        .fails("DELETE FROM parent WHERE id = 1", "23503")
        .await;
    assert!(
        error
            .message
            .starts_with("update or delete on table \"parent\""),
        "{error:?}"
    );
    client.ok("ROLLBACK").await;
    // A neighbour's failed statement is no reason either.
    client
        .ok("INSERT INTO child VALUES (1, 1, NULL, NULL)")
        .await;
    client
        .fails("INSERT INTO child VALUES (2, 9, NULL, NULL)", "23503")
        .await;
    let error = client
        .fails("DELETE FROM parent WHERE id = 1", "23503")
        .await;
    assert!(
        error
            .message
            .starts_with("update or delete on table \"parent\""),
        "{error:?}"
    );
}

#[tokio::test]
async fn g3_deferred_keys_are_checked_at_commit() {
    let node = Node::start();
    let mut client = node.client().await;
    tables(&mut client).await;
    client.ok("BEGIN").await;
    client
        .ok("INSERT INTO child VALUES (1, NULL, 9, NULL)")
        .await;
    client.ok("INSERT INTO parent VALUES (9, 'nine')").await;
    client.ok("COMMIT").await;
    client.ok("BEGIN").await;
    client
        .ok("INSERT INTO child VALUES (2, NULL, 10, NULL)")
        .await;
    let error = client.fails("COMMIT", "23503").await;
    check(
        &error,
        "insert or update on table \"child\" violates foreign key constraint \"child_d\"",
        "Key (d)=(10) is not present in table \"parent\".",
        "child_d",
    );
    assert_eq!(client.status(), springhead_engine::TransactionStatus::Idle);
    assert_eq!(client.lines("SELECT id FROM child").await, ["1"]);
    // Alone, a statement's commit follows at once.
    client
        .fails("INSERT INTO child VALUES (3, NULL, 10, NULL)", "23503")
        .await;
    client.ok("BEGIN; DELETE FROM parent WHERE id = 9").await;
    let error = client.fails("COMMIT", "23503").await;
    assert!(
        error
            .message
            .starts_with("update or delete on table \"parent\""),
        "{error:?}"
    );
}

#[tokio::test]
async fn g3_set_constraints_moves_the_check() {
    let node = Node::start();
    let mut client = node.client().await;
    tables(&mut client).await;
    client.ok("BEGIN; SET CONSTRAINTS child_i DEFERRED").await;
    client
        .ok("INSERT INTO child VALUES (1, NULL, NULL, 9)")
        .await;
    client.ok("INSERT INTO parent VALUES (9, 'nine')").await;
    client.ok("COMMIT").await;
    client.ok("BEGIN").await;
    client
        .fails("INSERT INTO child VALUES (2, NULL, NULL, 10)", "23503")
        .await;
    client.ok("ROLLBACK").await;
    client.ok("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await;
    client
        .fails("INSERT INTO child VALUES (2, NULL, 10, NULL)", "23503")
        .await;
    client.ok("ROLLBACK").await;
    // Made immediate, what is violated already fails at once.
    client
        .ok("BEGIN; INSERT INTO child VALUES (2, NULL, 10, NULL)")
        .await;
    client
        .fails("SET CONSTRAINTS child_d IMMEDIATE", "23503")
        .await;
    client.ok("ROLLBACK").await;
    // … but only that of the constraint named.
    client.ok("BEGIN; INSERT INTO child VALUES (2, NULL, 10, NULL); SET CONSTRAINTS child_i IMMEDIATE").await;
    client
        .ok("INSERT INTO parent VALUES (10, 'ten'); COMMIT")
        .await;
    client.ok("BEGIN").await;
    client
        .fails("SET CONSTRAINTS child_p DEFERRED", "42809")
        .await;
    client.ok("ROLLBACK; BEGIN").await;
    client
        .fails("SET CONSTRAINTS nothing DEFERRED", "42704")
        .await;
}

#[tokio::test]
async fn g3_a_violation_undone_by_a_savepoint_does_not_stop_the_commit() {
    let node = Node::start();
    let mut client = node.client().await;
    tables(&mut client).await;
    client.ok("BEGIN; SAVEPOINT s").await;
    client
        .ok("INSERT INTO child VALUES (1, NULL, 10, NULL)")
        .await;
    client.ok("ROLLBACK TO s").await;
    client.ok("INSERT INTO child VALUES (2, 1, 1, 1)").await;
    client.ok("COMMIT").await;
    assert_eq!(client.lines("SELECT id FROM child").await, ["2"]);
}

#[tokio::test]
async fn g2_cascades_are_captured_because_they_happened() {
    use springhead_proto::ChangeKind::{Delete, Update};
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE a (id int PRIMARY KEY)").await;
    client.ok("CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE)").await;
    client
        .ok("CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b ON DELETE SET NULL)")
        .await;
    client
        .ok("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1, 1), (2, 1), (3, 2)")
        .await;
    client
        .ok("INSERT INTO c VALUES (1, 1), (2, 2), (3, 3)")
        .await;
    let tenant = node.tenant().await;
    let before = tenant.visible();
    assert_eq!(
        client.ok("DELETE FROM a WHERE id = 1").await.tag,
        "DELETE 1"
    );
    let changes = crate::support::tail_from(&tenant, before).await;
    let count = |kind| changes.iter().filter(|change| change.kind == kind).count();
    assert_eq!((count(Delete), count(Update)), (3, 2), "{changes:#?}");
    assert!(
        changes
            .iter()
            .all(|change| change.commit_lsn == changes[0].commit_lsn)
    );
    client.ok("UPDATE a SET id = 20 WHERE id = 2").await;
    assert_eq!(client.lines("SELECT a FROM b").await, ["20"]);
    let replayed = node.replayed_elsewhere();
    let mut there = replayed.client().await;
    for sql in [
        "SELECT * FROM a",
        "SELECT * FROM b",
        "SELECT * FROM c ORDER BY id",
    ] {
        assert_eq!(there.lines(sql).await, client.lines(sql).await);
    }
}

#[tokio::test]
async fn g3_set_constraints_goes_back_to_a_savepoint_and_means_nothing_outside_a_block() {
    let node = Node::start();
    let mut client = node.client().await;
    tables(&mut client).await;
    client
        .ok("BEGIN; SAVEPOINT s; SET CONSTRAINTS child_i DEFERRED; ROLLBACK TO s")
        .await;
    client
        .fails("INSERT INTO child VALUES (1, NULL, NULL, 9)", "23503")
        .await;
    client.ok("ROLLBACK").await;
    let outside = client.ok("SET CONSTRAINTS ALL DEFERRED").await;
    assert_eq!(
        outside.notices,
        ["SET CONSTRAINTS can only be used in transaction blocks"]
    );
    client
        .fails("INSERT INTO child VALUES (1, NULL, NULL, 9)", "23503")
        .await;
}
