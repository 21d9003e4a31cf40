//! EXCEPTION in programs: what a block has changed before its error is nowhere, neither in the state nor in
//! the log, and what a statement in the middle of its changes cannot undo it refuses.

use springhead_proto::{ChangeKind, CollectionId};

use crate::support::{Node, dump, tail_from};

const SCHEMA: [&str; 8] = [
    "CREATE TABLE t (id integer PRIMARY KEY, v text)",
    "CREATE TABLE log (k serial PRIMARY KEY, what text)",
    "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log (what) VALUES ('after ' || NEW.id); RETURN NULL; END $$",
    "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted()",
    "CREATE FUNCTION put(i integer, x text) RETURNS text LANGUAGE plpgsql AS $$
     BEGIN
       PERFORM pg_notify('c', 'kept ' || i);
       BEGIN
         INSERT INTO t VALUES (i, x);
         PERFORM pg_notify('c', 'lost ' || i);
         INSERT INTO t VALUES (i * 100, x), (i * 100 + 1, x);
         PERFORM 1 / (i - 2);
       EXCEPTION WHEN division_by_zero THEN
         INSERT INTO t SELECT max(id) + 1000, 'handled' FROM t;
         RETURN 'handled';
       END;
       RETURN 'put';
     END $$",
    "CREATE FUNCTION keep(x text) RETURNS text LANGUAGE plpgsql AS $$
     BEGIN
       INSERT INTO log (what) VALUES (x);
       RETURN (x::integer)::text;
     EXCEPTION WHEN invalid_text_representation THEN RETURN 'no number';
     END $$",
    "CREATE FUNCTION careful() RETURNS trigger LANGUAGE plpgsql AS $$
     BEGIN
       BEGIN INSERT INTO log (what) VALUES (NEW.v); PERFORM NEW.v::integer;
       EXCEPTION WHEN invalid_text_representation THEN NEW.v := 'none'; END;
       RETURN NEW;
     END $$",
    "CREATE TABLE u (id integer PRIMARY KEY, v text)",
];

#[tokio::test]
async fn g3_what_a_handler_undoes_leaves_no_trace() {
    let node = Node::start();
    let mut client = node.client().await;
    for sql in SCHEMA {
        client.ok(sql).await;
    }
    let before = node.engine.log().tail().durable;
    assert_eq!(client.one("SELECT put(1, 'a')").await, "put");
    assert_eq!(client.one("SELECT put(2, 'b')").await, "handled");
    client.ok("BEGIN").await;
    assert_eq!(client.one("SELECT put(3, 'c')").await, "put");
    client.ok("SAVEPOINT s").await;
    assert_eq!(
        client.one("SELECT put(2, 'd') || put(5, 'd')").await,
        "handledput"
    );
    client.ok("ROLLBACK TO s").await;
    client.ok("COMMIT").await;
    assert_eq!(
        client.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "3", "100", "101", "300", "301", "1101"]
    );
    // AFTER triggers have seen the rows that stayed, and no others.
    assert_eq!(
        client.lines("SELECT what FROM log ORDER BY what").await,
        [
            "after 1",
            "after 100",
            "after 101",
            "after 1101",
            "after 3",
            "after 300",
            "after 301"
        ]
    );
    let changes = tail_from(&node.tenant().await, before).await;
    let messages: Vec<String> = changes
        .iter()
        .filter(|change| change.kind == ChangeKind::Message)
        .map(|change| format!("{:?}", change.after.as_ref().unwrap()[1]))
        .collect();
    let said: Vec<&str> = messages
        .iter()
        .map(|text| text.trim_start_matches("Text(\"").trim_end_matches("\")"))
        .collect();
    assert_eq!(said, ["kept 1", "lost 1", "kept 2", "kept 3", "lost 3"]);
    let rows = changes
        .iter()
        .filter(|change| change.collection != CollectionId::NONE);
    assert_eq!(rows.count(), 14);
    let replayed = node.replayed_elsewhere();
    let tenant = node.tenant().await.id();
    drop(replayed.client().await);
    assert_eq!(
        dump(&node.state_file(tenant)),
        dump(&replayed.state_file(tenant))
    );
}

#[tokio::test]
async fn what_a_changing_statement_cannot_undo_is_refused() {
    let node = Node::start();
    let mut client = node.client().await;
    for sql in SCHEMA {
        client.ok(sql).await;
    }
    // By itself the function may undo.
    assert_eq!(client.one("SELECT keep('x')").await, "no number");
    assert_eq!(client.one("SELECT keep('7')").await, "7");
    assert_eq!(client.lines("SELECT what FROM log").await, ["7"]);
    // An INSERT is changing rows meanwhile.
    let error = client
        .fails("INSERT INTO u VALUES (1, keep('x'))", "0A000")
        .await;
    let detail = error.detail.as_deref().unwrap_or_default();
    assert!(detail.contains("invalid input syntax"), "{error:?}");
    client.ok("INSERT INTO u VALUES (1, keep('8'))").await;
    client
        .ok("CREATE TRIGGER b BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION careful()")
        .await;
    client.ok("INSERT INTO u VALUES (2, '9')").await;
    let error = client.fails("INSERT INTO u VALUES (3, 'y')", "0A000").await;
    assert!(error.hint.is_some(), "{error:?}");
    assert_eq!(
        client.lines("SELECT id, v FROM u ORDER BY id").await,
        ["1|8", "2|9"]
    );
    assert_eq!(
        client.lines("SELECT what FROM log ORDER BY k").await,
        ["7", "8", "9"]
    );
}

#[tokio::test]
async fn g7_no_handler_keeps_a_statement_that_is_to_end() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok(
            "CREATE FUNCTION stubborn() RETURNS integer LANGUAGE plpgsql AS $$
             DECLARE n integer := 0;
             BEGIN
               LOOP
                 BEGIN
                   LOOP n := n + 1; END LOOP;
                 EXCEPTION WHEN query_canceled OR OTHERS THEN n := 0;
                 END;
               END LOOP;
             END $$",
        )
        .await;
    client.ok("SET statement_timeout = '50ms'").await;
    client.fails("SELECT stubborn()", "57014").await;
    client.fails("DO $$ BEGIN LOOP BEGIN PERFORM stubborn(); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$", "57014").await;
}
