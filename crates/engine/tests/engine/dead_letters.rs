//! Dead letters: none vanishes, each ends once, whatever comes first; and a retry has its author's
//! rights, whoever asks for it.

use std::sync::Arc;
use std::time::Duration;

use springhead_engine::access::{Credential, Principal};
use springhead_engine::dead_letters::{Action, Author, OnFull, Recorded, Refused};
use springhead_engine::session::DeadLetterFilter;
use springhead_proto::sync::{
    CatalogVersion, ColumnValues, Generation, Mutation, Operation, ProducerId, Push, Seq,
    SyncValue, Verb, body,
};
use springhead_proto::{ChangeKind, Cursor, Lsn, TenantId};

use crate::support::{Client, Node, dump, tail_from, until};

pub fn insert(collection: &str, id: i64, columns: &[(&str, SyncValue)]) -> Operation {
    Operation {
        collection: collection.to_owned(),
        id: vec![SyncValue::Integer(id)],
        verb: Verb::Insert(columns.iter().cloned().collect::<ColumnValues>()),
    }
}

pub fn todo(id: i64, title: &str, n: i64) -> Operation {
    let columns = [
        ("title", SyncValue::from(title)),
        ("n", SyncValue::Integer(n)),
    ];
    insert("todos", id, &columns)
}

fn delta(seq: u64, operations: Vec<Operation>) -> Vec<u8> {
    let producer = ProducerId(1);
    let mutation = Mutation {
        producer,
        generation: Generation(1),
        seq: Seq(seq),
        base: Cursor {
            lsn: Lsn::ZERO,
            epoch: None,
        },
        schema_version: CatalogVersion(0),
        after: Vec::new(),
        hlc: None,
        operations,
    };
    body::to_bytes(&Push {
        producer,
        generation: Generation(1),
        mutations: vec![mutation],
    })
}

fn author(name: &str) -> Author {
    Author {
        username: name.to_owned(),
        uid: name.to_owned(),
        claims: None,
    }
}

/// A rejection as sync would record it.
pub fn refused(by: &str, violation: &str, seq: u64, operation: Operation) -> Refused {
    Refused {
        session_id: Some("s1".to_owned()),
        author: author(by),
        collection: operation.collection.clone(),
        document_id: Some(operation.id[0].to_string()),
        mutation_id: seq,
        peer_id: ProducerId(1).to_string(),
        delta: delta(seq, vec![operation]),
        violation: violation.to_owned(),
        policy_or_constraint: Some("todos_title_key".to_owned()),
        compensation: Some(r#"{"kind":"none"}"#.to_owned()),
        client_version: Some("1.0".to_owned()),
        remote_addr: Some("127.0.0.1".to_owned()),
        ..Refused::default()
    }
}

pub async fn record(node: &Node, refused: Refused) -> i64 {
    let recorded = node.tenant().await.record_dead_letter(refused).await;
    match recorded.unwrap().0 {
        Recorded::Kept { id } => id,
        full @ Recorded::Full { .. } => panic!("{full:?}"),
    }
}

/// Every row of the totals adds up, and to the rows that they count.
pub async fn check_totals(client: &mut Client) {
    let wrong = "SELECT * FROM springhead.dead_letter_totals \
         WHERE enqueued <> resolved + expired + escalated + unresolved";
    assert_eq!(client.lines(wrong).await, Vec::<String>::new());
    let sums = "SELECT sum(enqueued), sum(resolved), sum(expired), sum(escalated), sum(unresolved) \
         FROM springhead.dead_letter_totals WHERE ";
    let by_violation = format!("{sums} collection <> '' AND violation <> '*'");
    let by_collection = format!("{sums} collection <> '' AND violation = '*'");
    let all = client.one(&format!("{sums} collection = ''")).await;
    assert_eq!(client.one(&by_violation).await, all);
    assert_eq!(client.one(&by_collection).await, all);
    let counted = "SELECT (SELECT count(*) FROM springhead.dead_letters WHERE NOT resolved), \
         (SELECT count(*) FROM springhead.escalations)";
    let totals = "SELECT coalesce(sum(unresolved), 0), coalesce(sum(escalated), 0) \
         FROM springhead.dead_letter_totals WHERE collection = ''";
    assert_eq!(client.one(counted).await, client.one(totals).await);
}

pub async fn todos(node: &Node) -> Client {
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE todos (id int PRIMARY KEY, title text UNIQUE, n int CHECK (n < 10))")
        .await;
    client
}

pub async fn check_replay(node: &Node) {
    let other = node.replayed_elsewhere();
    other.tenant().await;
    let default = TenantId::DEFAULT;
    assert_eq!(
        dump(&node.state_file(default)),
        dump(&other.state_file(default))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_rejection_is_kept_whole_and_replays() {
    let node = Node::start();
    let mut client = todos(&node).await;
    let kept = record(
        &node,
        refused("ann", "unique:title=milk", 7, todo(1, "milk", 1)),
    )
    .await;
    assert_eq!(kept, 1);
    let elsewhere = insert("no_such", 1, &[]);
    let kept = record(&node, refused("ann", "malformed", 8, elsewhere)).await;
    assert_eq!(kept, 2);
    let lines = client
        .lines(
            "SELECT id, username, collection, mutation_id, violation_type, \
             attempts -> 0 ->> 'outcome', device_metadata ->> 'remote_addr', resolved \
             FROM springhead.dead_letters ORDER BY id",
        )
        .await;
    assert_eq!(
        lines,
        [
            "1|ann|todos|7|unique|unique:title=milk|127.0.0.1|f",
            "2|ann|?|8|malformed|malformed|127.0.0.1|f",
        ]
    );
    check_totals(&mut client).await;
    check_replay(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_full_queue_escalates_its_oldest_or_refuses_the_newest() {
    let node = Node::with(|config| config.dead_letter_max_entries = 3);
    let mut client = todos(&node).await;
    let before = node.tenant().await.visible();
    for seq in 1..=5 {
        record(&node, refused("ann", "check:short", seq, todo(1, "a", 1))).await;
    }
    let left = client
        .lines("SELECT dead_letter_id, reason, entry ->> 'mutation_id' FROM springhead.escalations ORDER BY id")
        .await;
    assert_eq!(left, ["1|capacity|1", "2|capacity|2"]);
    let told = tail_from(&node.tenant().await, before).await;
    let told = told
        .iter()
        .filter(|change| change.kind == ChangeKind::Message);
    assert_eq!(told.count(), 2, "whoever listens is told of each");
    check_totals(&mut client).await;

    let node = Node::with(|config| {
        config.dead_letter_max_entries = 3;
        config.dead_letter_on_full = OnFull::RejectPush;
    });
    let mut client = todos(&node).await;
    for seq in 1..=3 {
        record(&node, refused("ann", "check:short", seq, todo(1, "a", 1))).await;
    }
    let next = refused("ann", "check:short", 4, todo(1, "a", 1));
    let full = node
        .tenant()
        .await
        .record_dead_letter(next)
        .await
        .unwrap()
        .0;
    assert!(matches!(full, Recorded::Full { .. }), "{full:?}");
    let escalated = "SELECT count(*) FROM springhead.escalations";
    assert_eq!(client.one(escalated).await, "0");
    check_totals(&mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_what_is_due_is_dealt_with_once() {
    for (action, escalated) in [(Action::Drop, "0"), (Action::Escalate, "2")] {
        let node = Node::with(|config| {
            config.dead_letter_action = action;
            config.dead_letter_ttl = Duration::from_secs(60);
        });
        let mut client = todos(&node).await;
        record(&node, refused("ann", "check:short", 1, todo(1, "a", 1))).await;
        record(&node, refused("ann", "check:short", 2, todo(2, "b", 1))).await;
        node.clock.advance(59_000);
        record(&node, refused("ann", "check:short", 3, todo(3, "c", 1))).await;
        let swept = node.engine.sweep_dead_letters().await.unwrap();
        assert_eq!((swept.dropped, swept.escalated), (0, 0));
        node.clock.advance(1_000);
        let (first, second) = tokio::join!(
            node.engine.sweep_dead_letters(),
            node.engine.sweep_dead_letters()
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        let done = first.dropped + first.escalated + second.dropped + second.escalated;
        assert_eq!(done, 2, "each once, whichever sweep was first");
        let left = client.lines("SELECT id FROM springhead.dead_letters").await;
        assert_eq!(left, ["3"]);
        let count = "SELECT count(*) FROM springhead.escalations";
        assert_eq!(client.one(count).await, escalated);
        check_totals(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_calls_in_sql_retry_resolve_redrive_and_set_policies() {
    let node = Node::start();
    let mut client = todos(&node).await;
    client.ok("INSERT INTO todos VALUES (100, 'milk', 1)").await;
    for seq in 1..=3 {
        let operation = todo(i64::try_from(seq).unwrap(), "milk", 1);
        record(&node, refused("ann", "unique:title=milk", seq, operation)).await;
    }
    let error = client
        .fails("CALL springhead.retry_dead_letter(1)", "23505")
        .await;
    assert!(error.message.contains("rejected again"), "{error:?}");
    let edited = r#"CALL springhead.retry_dead_letter(1, '[{"in":"todos","id":[1],"insert":{"title":"oats","n":2}}]')"#;
    assert_eq!(
        client.ok(edited).await.rows[0][0].as_deref(),
        Some("applied")
    );
    client.fails(edited, "55000").await;
    client
        .ok("CALL springhead.resolve_dead_letter(2, note => 'by phone')")
        .await;
    client.ok("DELETE FROM todos WHERE id = 100").await;
    let redriven = client
        .ok("CALL springhead.redrive_dead_letters('todos', 1000)")
        .await;
    assert_eq!(redriven.lines(), ["1|1|0"]);
    assert_eq!(
        client
            .lines("SELECT id, title FROM todos ORDER BY id")
            .await,
        ["1|oats", "3|milk"]
    );
    let history = "SELECT id, retry_count, resolved, resolved_by, attempts -> -1 ->> 'action' \
         FROM springhead.dead_letters ORDER BY id";
    assert_eq!(
        client.lines(history).await,
        [
            "1|2|t|tester|edit_and_retry",
            "2|0|t|tester|resolve",
            "3|1|t|tester|redrive",
        ]
    );
    client
        .ok("CALL springhead.set_dead_letter_policy('todos', 60, action => 'drop', max_entries => 5)")
        .await;
    let policies = "SELECT collection, violation, ttl_s, action, max_entries, on_full FROM springhead.dead_letter_policies";
    assert_eq!(client.lines(policies).await, ["todos|*|60|drop|5|~"]);
    check_refused_calls(&mut client).await;
    let by_id = "EXPLAIN SELECT * FROM springhead.dead_letters WHERE id = 2";
    let plan = client.lines(by_id).await.join("\n");
    assert!(plan.contains("INTEGER PRIMARY KEY"), "{plan}");
    client.ok("BEGIN").await;
    client
        .fails("CALL springhead.resolve_dead_letter(3)", "25001")
        .await;
    client.ok("ROLLBACK").await;
    let audited = client
        .lines("SELECT action, object, outcome FROM springhead.audit WHERE action LIKE '%dead letter%' ORDER BY id LIMIT 3")
        .await;
    assert_eq!(
        audited,
        [
            "retry dead letter|1|23505",
            "retry dead letter|1|ok",
            "retry dead letter|1|55000",
        ]
    );
    check_totals(&mut client).await;
    check_replay(&node).await;
}

async fn check_refused_calls(client: &mut Client) {
    for (call, sqlstate) in [
        ("set_dead_letter_policy('no_such', 60)", "42P01"),
        ("set_dead_letter_policy('todos', 0)", "22023"),
        ("set_dead_letter_policy('todos', action => 'burn')", "22023"),
        (
            "set_dead_letter_policy('todos', max_entries => 5, violation => 'unique')",
            "22023",
        ),
        ("retry_dead_letter(99)", "SH006"),
        ("retry_dead_letter(NULL)", "22004"),
        ("retry_dead_letter('x')", "22P02"),
        ("resolve_dead_letter(1, 'a', 'b')", "42883"),
        ("explode()", "42883"),
        ("redrive_dead_letters('todos', 0)", "22023"),
    ] {
        client
            .fails(&format!("CALL springhead.{call}"), sqlstate)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_chain_is_retried_as_a_unit() {
    let node = Node::start();
    let mut client = todos(&node).await;
    let head = record(
        &node,
        refused("ann", "unique:title=milk", 1, todo(1, "milk", 1)),
    )
    .await;
    let depends = "constraint:depends on a rejected mutation";
    let mut second = refused("ann", depends, 2, todo(2, "oats", 99));
    second.chain = Some(head);
    let second = record(&node, second).await;
    let set = Operation {
        collection: "todos".to_owned(),
        id: vec![SyncValue::Integer(1)],
        verb: Verb::Set([("n", SyncValue::Integer(3))].into_iter().collect()),
    };
    let mut third = refused("ann", depends, 3, set);
    third.chain = Some(head);
    let third = record(&node, third).await;
    // The second's n is over the limit: nothing of the three is applied.
    client
        .fails(
            &format!("CALL springhead.retry_dead_letter({third})"),
            "23514",
        )
        .await;
    assert_eq!(client.one("SELECT count(*) FROM todos").await, "0");
    client
        .ok(&format!("CALL springhead.resolve_dead_letter({second})"))
        .await;
    client
        .ok(&format!("CALL springhead.retry_dead_letter({third})"))
        .await;
    assert_eq!(client.lines("SELECT id, n FROM todos").await, ["1|3"]);
    let unresolved = "SELECT count(*) FROM springhead.dead_letters WHERE NOT resolved";
    assert_eq!(client.one(unresolved).await, "0");
    check_totals(&mut client).await;
}

async fn user(node: &Node, name: &str) -> Client {
    let principal = Arc::new(Principal::of(name, Credential::Password));
    Client {
        session: node
            .engine
            .session(TenantId::DEFAULT, &principal)
            .await
            .unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_authors_see_their_own_and_operators_what_they_are_granted() {
    let node = Node::start();
    let mut admin = todos(&node).await;
    for name in ["ann", "bob", "support", "team"] {
        admin.ok(&format!("CREATE ROLE {name} LOGIN")).await;
    }
    admin.ok("GRANT INSERT ON todos TO ann").await;
    record(&node, refused("ann", "check:short", 1, todo(1, "a", 1))).await;
    record(&node, refused("bob", "check:short", 2, todo(2, "b", 1))).await;
    let (mut ann, mut bob) = (user(&node, "ann").await, user(&node, "bob").await);
    let mine = "SELECT id FROM springhead.dead_letters";
    assert_eq!(ann.lines(mine).await, ["1"]);
    assert_eq!(bob.lines(mine).await, ["2"]);
    let ten = DeadLetterFilter {
        limit: 10,
        ..DeadLetterFilter::default()
    };
    let page = ann.session.dead_letters(&ten).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(
        ann.session
            .dead_letter(2)
            .await
            .unwrap_err()
            .code
            .sqlstate()
            .0,
        "SH006"
    );
    check_authors_only_read(&mut ann).await;

    admin
        .ok("GRANT SELECT, UPDATE ON springhead.dead_letters TO support, team")
        .await;
    let mut support = user(&node, "support").await;
    assert_eq!(
        support
            .lines("SELECT id FROM springhead.dead_letters ORDER BY id")
            .await,
        ["1", "2"]
    );
    admin
        .ok("ALTER TABLE springhead.dead_letters ENABLE ROW LEVEL SECURITY")
        .await;
    admin
        .ok("CREATE POLICY p ON springhead.dead_letters TO support USING (username = 'ann')")
        .await;
    assert_eq!(support.lines(mine).await, ["1"]);
    support
        .fails("CALL springhead.resolve_dead_letter(2)", "SH006")
        .await;
    assert_eq!(
        user(&node, "team").await.lines(mine).await,
        Vec::<String>::new()
    );
    assert_eq!(ann.lines(mine).await, ["1"], "what is one's own stays so");
    // Support may have it retried, with what ann may do: bob's author may not insert at all.
    support.ok("CALL springhead.retry_dead_letter(1)").await;
    admin
        .ok("ALTER TABLE springhead.dead_letters DISABLE ROW LEVEL SECURITY")
        .await;
    support
        .fails("CALL springhead.retry_dead_letter(2)", "42501")
        .await;
    assert_eq!(admin.lines("SELECT id FROM todos").await, ["1"]);
    admin.ok("DROP POLICY p ON springhead.dead_letters").await;
    check_replay(&node).await;
}

async fn check_authors_only_read(ann: &mut Client) {
    for own in [
        "CALL springhead.retry_dead_letter(1)",
        "CALL springhead.resolve_dead_letter(1)",
    ] {
        ann.fails(own, "42501").await;
    }
    ann.fails("SELECT * FROM springhead.escalations", "42501")
        .await;
    ann.fails(
        "UPDATE springhead.dead_letters SET resolved = true",
        "42501",
    )
    .await;
    ann.fails(
        "CALL springhead.set_dead_letter_policy('todos', 5)",
        "42501",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_tenant_has_dead_letters_of_its_own() {
    let node = Node::start();
    let mut client = todos(&node).await;
    client.ok("CREATE DATABASE shop").await;
    record(&node, refused("ann", "check:short", 1, todo(1, "a", 1))).await;
    let mut shop = node.client_of("shop").await;
    assert_eq!(
        shop.one("SELECT count(*) FROM springhead.dead_letters")
            .await,
        "0"
    );
    shop.fails("CALL springhead.retry_dead_letter(1)", "SH006")
        .await;
    let figures = node.engine.dead_letter_figures().await.unwrap();
    assert_eq!(figures["check"].enqueued, 1);
    let shop = node.engine.tenant_id("shop").unwrap();
    let own = node.engine.tenant(shop).await.unwrap();
    assert!(own.dead_letter_figures().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_closed_tenant_is_swept_too_and_once_resolved_an_entry_never_acts() {
    let node = Node::with(|config| {
        config.open_tenants = 1;
        config.tenant_idle = Duration::from_secs(1);
        config.dead_letter_ttl = Duration::from_secs(60);
        config.dead_letter_retention = Duration::from_secs(600);
    });
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    let shop = node.engine.tenant_id("shop").unwrap();
    {
        let tenant = node.engine.tenant(shop).await.unwrap();
        for seq in 1..=2 {
            let operation = todo(1, "a", 1);
            tenant
                .record_dead_letter(refused("ann", "check:short", seq, operation))
                .await
                .unwrap();
        }
        node.client_of("shop")
            .await
            .ok("CALL springhead.resolve_dead_letter(2)")
            .await;
    }
    node.clock.advance(10_000);
    let is_open = |node: &Node| {
        node.engine
            .tenants()
            .iter()
            .any(|info| info.id == shop && info.open)
    };
    // It is idle; its writer may still be about to notice.
    until(|| {
        node.engine.maintain().unwrap();
        !is_open(&node)
    })
    .await;
    node.engine.sweep_dead_letters().await.unwrap();
    assert!(!is_open(&node), "nothing is due, and that is known");
    node.clock.advance(60_000);
    let swept = node.engine.sweep_dead_letters().await.unwrap();
    assert_eq!((swept.escalated, swept.forgotten), (1, 0));
    node.clock.advance(600_000);
    let swept = node.engine.sweep_dead_letters().await.unwrap();
    assert_eq!((swept.escalated, swept.forgotten), (0, 1));
    check_totals(&mut node.client_of("shop").await).await;
}
