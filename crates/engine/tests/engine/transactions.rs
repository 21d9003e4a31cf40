//! Transaction blocks mean what PostgreSQL's mean: what is read, what a failure leaves, savepoints,
//! definitions that come and go with their transaction, scripts as one transaction.

use springhead_engine::TransactionStatus::{Failed, Idle, InTransaction};
use springhead_proto::Lsn;

use crate::support::{Node, rows_of, tail_from};

#[tokio::test]
async fn g3_a_failed_block_answers_25p02_until_it_ends_and_commit_rolls_it_back() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("BEGIN").await;
    assert_eq!(client.status(), InTransaction);
    client.ok("INSERT INTO t VALUES (1)").await;
    client.fails("INSERT INTO t VALUES (1)", "23505").await;
    assert_eq!(client.status(), Failed);
    client.fails("SELECT 1", "25P02").await;
    client.fails("INSERT INTO t VALUES (2)", "25P02").await;
    client.fails("SAVEPOINT s", "25P02").await;
    assert_eq!(client.ok("COMMIT").await.tag, "ROLLBACK");
    assert_eq!(client.status(), Idle);
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn g3_a_syntax_error_fails_the_block_too() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("BEGIN").await;
    client.fails("SELEC 1", "42601").await;
    assert_eq!(client.status(), Failed);
    client.ok("ROLLBACK").await;
    client.ok("BEGIN").await;
    client.fails("SELECT * FROM nowhere", "42P01").await;
    assert_eq!(client.status(), Failed);
    assert_eq!(client.ok("END").await.tag, "ROLLBACK");
}

#[tokio::test]
async fn g3_nested_savepoints_release_and_roll_back_as_postgresql_does() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    let before = node.tenant().await.visible();
    for sql in [
        "BEGIN",
        "SAVEPOINT before_any_write",
        "INSERT INTO t VALUES (1)",
        "SAVEPOINT a",
        "INSERT INTO t VALUES (2)",
        "SAVEPOINT b",
        "INSERT INTO t VALUES (3)",
        "ROLLBACK TO b",
        "INSERT INTO t VALUES (4)",
        "SAVEPOINT c",
        "INSERT INTO t VALUES (5)",
        "RELEASE c",
        "ROLLBACK TO SAVEPOINT a",
        "INSERT INTO t VALUES (6)",
        "RELEASE SAVEPOINT a",
    ] {
        client.ok(sql).await;
    }
    client.fails("ROLLBACK TO b", "3B001").await;
    assert_eq!(client.status(), Failed);
    client.ok("ROLLBACK TO before_any_write").await;
    assert_eq!(client.status(), InTransaction);
    assert_eq!(client.lines("SELECT id FROM t").await, Vec::<String>::new());
    client.ok("INSERT INTO t VALUES (7)").await;
    client.ok("COMMIT").await;
    assert_eq!(client.lines("SELECT id FROM t ORDER BY id").await, ["7"]);
    let changes = tail_from(&node.tenant().await, before).await;
    assert_eq!(
        rows_of(&changes).len(),
        1,
        "what was rolled back is not in the log"
    );
}

/// SQLite compares the names of savepoints without regard to case; PostgreSQL's quoted names differ
/// by it. A rollback to "A" went back only to a.
#[tokio::test]
async fn g3_savepoint_names_that_differ_by_case_are_two() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("BEGIN").await;
    client.ok("SAVEPOINT \"A\"").await;
    client.ok("INSERT INTO t VALUES (1)").await;
    client.ok("SAVEPOINT a").await;
    client.ok("INSERT INTO t VALUES (2)").await;
    client.ok("ROLLBACK TO \"A\"").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    client.ok("COMMIT").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn g3_a_savepoint_of_the_same_name_hides_the_older_one() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    for sql in [
        "BEGIN",
        "INSERT INTO t VALUES (1)",
        "SAVEPOINT s",
        "INSERT INTO t VALUES (2)",
        "SAVEPOINT s",
        "INSERT INTO t VALUES (3)",
        "ROLLBACK TO s",
        "RELEASE s",
        "ROLLBACK TO s",
        "COMMIT",
    ] {
        client.ok(sql).await;
    }
    assert_eq!(client.lines("SELECT id FROM t").await, ["1"]);
}

#[tokio::test]
async fn g3_a_savepoint_saves_a_failed_block_and_keeps_what_came_before() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("BEGIN").await;
    client.ok("INSERT INTO t VALUES (1)").await;
    client.ok("SAVEPOINT s").await;
    client.fails("INSERT INTO t VALUES (2), (1)", "23505").await;
    client.ok("ROLLBACK TO s").await;
    client.ok("INSERT INTO t VALUES (3)").await;
    client.ok("COMMIT").await;
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "3"]
    );
}

#[tokio::test]
async fn savepoints_outside_a_block_are_refused() {
    let node = Node::start();
    let mut client = node.client().await;
    client.fails("SAVEPOINT s", "25P01").await;
    client.fails("ROLLBACK TO s", "25P01").await;
    client.fails("RELEASE s", "25P01").await;
    assert_eq!(
        client.ok("COMMIT").await.notices,
        ["there is no transaction in progress"]
    );
    assert_eq!(
        client.ok("ROLLBACK").await.notices,
        ["there is no transaction in progress"]
    );
    client.ok("BEGIN").await;
    assert_eq!(
        client.ok("BEGIN").await.notices,
        ["there is already a transaction in progress"]
    );
    assert_eq!(client.status(), InTransaction);
}

#[tokio::test]
async fn g3_a_script_is_one_transaction() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    let before = node.tenant().await.visible();
    client
        .fails(
            "INSERT INTO t VALUES (1); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)",
            "23505",
        )
        .await;
    assert_eq!(client.status(), Idle);
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    client
        .ok("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
        .await;
    let changes = tail_from(&node.tenant().await, before).await;
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0].commit_lsn, changes[1].commit_lsn, "one commit");
}

#[tokio::test]
async fn g3_begin_in_the_middle_of_a_script_takes_over_what_ran_before() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client
        .ok("INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2)")
        .await;
    assert_eq!(client.status(), InTransaction);
    client.ok("ROLLBACK").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "0");
    // A COMMIT in a script ends what came before it, and a failure after it takes only the rest.
    client
        .fails(
            "INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); SELECT 1/0",
            "22012",
        )
        .await;
    assert_eq!(client.lines("SELECT id FROM t").await, ["1"]);
    client
        .fails("BEGIN; INSERT INTO t VALUES (3); SELECT 1/0", "22012")
        .await;
    assert_eq!(client.status(), Failed);
    client.ok("ROLLBACK").await;
}

#[tokio::test]
async fn g3_definitions_and_rows_come_and_go_with_their_transaction() {
    let node = Node::start();
    let mut client = node.client().await;
    let mut other = node.client().await;
    client
        .ok("CREATE TABLE kept (id int PRIMARY KEY, a text)")
        .await;
    client.ok("INSERT INTO kept VALUES (1, 'x')").await;
    let before = node.tenant().await.visible();
    client.ok("BEGIN").await;
    client
        .ok("CREATE TABLE gone (id serial PRIMARY KEY, b text)")
        .await;
    client.ok("INSERT INTO gone (b) VALUES ('y')").await;
    client
        .ok("ALTER TABLE kept ADD COLUMN extra int DEFAULT 7")
        .await;
    assert_eq!(client.lines("SELECT * FROM kept").await, ["1|x|7"]);
    assert_eq!(
        other.lines("SELECT * FROM kept").await,
        ["1|x"],
        "nobody else sees it"
    );
    other.fails("SELECT * FROM gone", "42P01").await;
    client.ok("ROLLBACK").await;
    client.fails("SELECT * FROM gone", "42P01").await;
    assert_eq!(client.lines("SELECT * FROM kept").await, ["1|x"]);
    client.ok("INSERT INTO kept VALUES (2, 'z')").await;
    let changes = tail_from(&node.tenant().await, before).await;
    assert_eq!(rows_of(&changes).len(), 1);
    assert_eq!(
        rows_of(&changes)[0].2.as_ref().unwrap().len(),
        2,
        "captured with the old columns"
    );
    client.ok("BEGIN").await;
    client.ok("DROP TABLE kept").await;
    client.ok("ROLLBACK").await;
    assert_eq!(client.ok("UPDATE kept SET a = 'w'").await.tag, "UPDATE 2");
}

/// A transaction that was rolled back had counted the catalog up, and the next definition took the
/// same number: plans that had been made inside the first were run against the second.
#[tokio::test]
async fn g8_plans_made_in_a_rolled_back_definition_are_not_used_afterwards() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("INSERT INTO t VALUES (1)").await;
    client.ok("BEGIN").await;
    client
        .ok("ALTER TABLE t ADD COLUMN wrong text DEFAULT 'wrong'")
        .await;
    assert_eq!(client.lines("SELECT * FROM t").await, ["1|wrong"]);
    let prepared = client
        .session
        .prepare("SELECT * FROM t WHERE id = $1", &[])
        .unwrap();
    client.ok("ROLLBACK").await;
    client
        .ok("ALTER TABLE t ADD COLUMN small int DEFAULT 5, ADD COLUMN wide int DEFAULT 6")
        .await;
    assert_eq!(client.lines("SELECT * FROM t").await, ["1|5|6"]);
    let refused = client
        .session
        .execute(&prepared, &[springhead_engine::ParamValue::Text("1")])
        .await;
    assert_eq!(
        refused.unwrap_err().message,
        "cached plan must not change result type"
    );
    // The same within one transaction, after going back to a savepoint.
    client.ok("BEGIN").await;
    client.ok("SAVEPOINT s").await;
    client
        .ok("ALTER TABLE t ADD COLUMN more int DEFAULT 1")
        .await;
    assert_eq!(client.lines("SELECT * FROM t").await, ["1|5|6|1"]);
    client.ok("ROLLBACK TO s").await;
    client
        .ok("ALTER TABLE t ADD COLUMN other text DEFAULT 'o'")
        .await;
    assert_eq!(client.lines("SELECT * FROM t").await, ["1|5|6|o"]);
    client.ok("COMMIT").await;
    assert_eq!(client.lines("SELECT * FROM t").await, ["1|5|6|o"]);
}

#[tokio::test]
async fn g3_definitions_go_back_to_a_savepoint() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("BEGIN").await;
    client.ok("CREATE TABLE a (id int PRIMARY KEY)").await;
    client.ok("SAVEPOINT s").await;
    client.ok("CREATE TABLE b (id serial PRIMARY KEY)").await;
    client.ok("INSERT INTO b DEFAULT VALUES").await;
    client.ok("DROP TABLE a").await;
    client.ok("ROLLBACK TO s").await;
    client.ok("INSERT INTO a VALUES (1)").await;
    // The id that b had is given again, to something else.
    client
        .ok("CREATE TABLE c (id bigserial PRIMARY KEY, t text)")
        .await;
    client.ok("INSERT INTO c (t) VALUES ('x'), ('y')").await;
    client.ok("COMMIT").await;
    assert_eq!(client.lines("SELECT * FROM a").await, ["1"]);
    assert_eq!(
        client.lines("SELECT * FROM c ORDER BY id").await,
        ["1|x", "2|y"]
    );
    client.fails("SELECT * FROM b", "42P01").await;
}

#[tokio::test]
async fn set_local_ends_with_its_transaction_and_set_only_with_a_rollback() {
    let node = Node::start();
    let mut client = node.client().await;
    let show = "SHOW application_name";
    client.ok("BEGIN").await;
    client.ok("SET LOCAL application_name = 'local'").await;
    assert_eq!(client.one(show).await, "local");
    client.ok("COMMIT").await;
    assert_eq!(client.one(show).await, "");
    client
        .ok("BEGIN; SET application_name = 'kept'; COMMIT")
        .await;
    assert_eq!(client.one(show).await, "kept");
    client
        .ok("BEGIN; SET application_name = 'gone'; ROLLBACK")
        .await;
    assert_eq!(client.one(show).await, "kept");
    client
        .ok("BEGIN; SET application_name = 'set'; SET LOCAL application_name = 'both'; COMMIT")
        .await;
    assert_eq!(client.one(show).await, "set");
    let outside = client.ok("SET LOCAL application_name = 'x'").await;
    assert_eq!(
        outside.notices,
        ["SET LOCAL can only be used in transaction blocks"]
    );
    assert_eq!(client.one(show).await, "set");
}

/// Settings changed after a savepoint stayed when the transaction went back to it.
#[tokio::test]
async fn settings_go_back_to_a_savepoint() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("BEGIN").await;
    client.ok("SET application_name = 'one'").await;
    client.ok("SAVEPOINT s").await;
    client.ok("SET application_name = 'two'").await;
    client.ok("ROLLBACK TO s").await;
    assert_eq!(client.one("SHOW application_name").await, "one");
    client.ok("COMMIT").await;
    assert_eq!(client.one("SHOW application_name").await, "one");
}

#[tokio::test]
async fn read_only_transactions_refuse_to_write() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id serial PRIMARY KEY)").await;
    client.ok("BEGIN READ ONLY").await;
    client.ok("SELECT * FROM t").await;
    let error = client.fails("INSERT INTO t DEFAULT VALUES", "25006").await;
    assert_eq!(
        error.message,
        "cannot execute INSERT in a read-only transaction"
    );
    client.ok("ROLLBACK").await;
    client.ok("SET default_transaction_read_only = on").await;
    client.fails("DELETE FROM t", "25006").await;
    client.fails("CREATE TABLE u (id int)", "25006").await;
    client.fails("SELECT nextval('t_id_seq')", "25006").await;
    client.ok("SET default_transaction_read_only = off").await;
    client.ok("DELETE FROM t").await;
}

#[tokio::test]
async fn commit_and_chain_goes_on_with_the_same_properties() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    client.ok("INSERT INTO t VALUES (1)").await;
    client.ok("COMMIT AND CHAIN").await;
    assert_eq!(client.status(), InTransaction);
    assert_eq!(
        client.one("SHOW transaction_isolation").await,
        "repeatable read"
    );
    client.ok("INSERT INTO t VALUES (2)").await;
    client.ok("ROLLBACK AND CHAIN").await;
    assert_eq!(client.status(), InTransaction);
    client.ok("COMMIT").await;
    assert_eq!(client.lines("SELECT id FROM t").await, ["1"]);
    client.fails("COMMIT AND CHAIN", "25P01").await;
}

#[tokio::test]
async fn g1_a_statement_that_changes_nothing_answers_with_what_is_visible() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    let visible = node.tenant().await.visible();
    assert_eq!(client.ok("UPDATE t SET id = 1").await.lsn, visible);
    assert_eq!(
        client.ok("BEGIN; UPDATE t SET id = 1; COMMIT").await.lsn,
        visible
    );
    assert_eq!(node.tenant().await.visible(), visible, "nothing was logged");
    let inserted = client.ok("INSERT INTO t VALUES (1)").await.lsn;
    assert_eq!(inserted, visible.next());
    assert!(client.ok("SELECT * FROM t").await.lsn >= inserted);
    assert!(inserted > Lsn::ZERO);
}

#[tokio::test]
async fn a_statement_that_takes_too_much_memory_fails_alone() {
    let node = Node::with(|config| config.statement_memory_bytes = 8 << 20);
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, note text)")
        .await;
    client.ok("BEGIN").await;
    client.ok("INSERT INTO t VALUES (0, 'kept')").await;
    client.ok("COMMIT").await;
    let sort = "SELECT md5(i::text) || md5((i + 1)::text) AS x FROM generate_series(1, 200000) i ORDER BY x";
    client.fails(sort, "53200").await;
    let write = format!("INSERT INTO t SELECT row_number() OVER (ORDER BY x), x FROM ({sort}) s");
    client.fails(&write, "53200").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "1");
    client.ok("INSERT INTO t VALUES (1, 'next')").await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "2");
}
