//! Dead letters: none vanishes, each ends once, whatever comes first; and a retry has its author's
//! rights, whoever asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use springhead_engine::access::{Credential, Principal};
use springhead_engine::dead_letters::{
    Action, Author, OnFull, Outcome, PolicyChange, Recorded, Refused,
};
use springhead_engine::session::DeadLetterFilter;
use springhead_proto::sync::{
    CatalogVersion, ColumnValues, Generation, Mutation, Operation, ProducerId, Push, Seq,
    SyncValue, Verb, body,
};
use springhead_proto::{ChangeKind, Cursor, Lsn, SqlError, TenantId};

use crate::support::{Client, Node, dump, tail_from};

fn insert(collection: &str, id: i64, columns: &[(&str, SyncValue)]) -> Operation {
    Operation {
        collection: collection.to_owned(),
        id: vec![SyncValue::Integer(id)],
        verb: Verb::Insert(columns.iter().cloned().collect::<ColumnValues>()),
    }
}

fn todo(id: i64, title: &str, n: i64) -> Operation {
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
fn refused(by: &str, violation: &str, seq: u64, operation: Operation) -> Refused {
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

async fn record(node: &Node, refused: Refused) -> i64 {
    let recorded = node.tenant().await.record_dead_letter(refused).await;
    match recorded.unwrap().0 {
        Recorded::Kept { id } => id,
        full @ Recorded::Full { .. } => panic!("{full:?}"),
    }
}

/// Every row of the totals adds up, and to the rows that they count.
async fn check_totals(client: &mut Client) {
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

async fn todos(node: &Node) -> Client {
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE todos (id int PRIMARY KEY, title text UNIQUE, n int CHECK (n < 10))")
        .await;
    client
}

async fn check_replay(node: &Node) {
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
    node.engine.maintain().unwrap();
    let is_open = |node: &Node| {
        node.engine
            .tenants()
            .iter()
            .any(|info| info.id == shop && info.open)
    };
    assert!(!is_open(&node), "it is idle");
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

/// What a step does: its kind, and two small numbers that fill it in.
type Step = (u8, u8, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Unresolved,
    Resolved,
    Expired,
    Escalated,
}

/// What has become of every entry there has been.
struct Model {
    entries: BTreeMap<i64, Now>,
    expires_ms: BTreeMap<i64, u64>,
    created_ms: BTreeMap<i64, u64>,
    ttl_s: u64,
    most: usize,
    action: Action,
    on_full: OnFull,
}

impl Model {
    fn unresolved(&self) -> BTreeSet<i64> {
        let is = |(id, now): (&i64, &Now)| (*now == Now::Unresolved).then_some(*id);
        self.entries.iter().filter_map(is).collect()
    }

    fn count(&self, what: Now) -> usize {
        self.entries.values().filter(|now| **now == what).count()
    }

    fn nth(&self, x: u8) -> Option<i64> {
        let last = i64::try_from(self.entries.len()).unwrap();
        (last > 0).then(|| i64::from(x) % last + 1)
    }
}

async fn step(node: &Node, client: &mut Client, model: &mut Model, (kind, x, y): Step) {
    let now_ms = springhead_log::Clock::now_ms(&*node.clock);
    match kind % 12 {
        0..=3 => {
            let seq = model.entries.len() as u64 + 1;
            let operation = todo(i64::from(x % 6), &format!("t{}", y % 4), i64::from(y % 13));
            let violation = ["unique:title=t", "check:todos_n_check", "policy"][usize::from(x % 3)];
            let recorded = node.tenant().await;
            let recorded = recorded
                .record_dead_letter(refused("ann", violation, seq, operation))
                .await;
            let mut unresolved = model.unresolved();
            match recorded.unwrap().0 {
                Recorded::Kept { id } => {
                    while unresolved.len() >= model.most {
                        assert_eq!(model.on_full, OnFull::Escalate);
                        let oldest = unresolved.pop_first().unwrap();
                        model.entries.insert(oldest, Now::Escalated);
                    }
                    assert_eq!(
                        id,
                        i64::try_from(model.entries.len()).unwrap() + 1,
                        "numbers rise by one"
                    );
                    model.entries.insert(id, Now::Unresolved);
                    model.created_ms.insert(id, now_ms);
                    model.expires_ms.insert(id, now_ms + model.ttl_s * 1000);
                }
                Recorded::Full { .. } => {
                    assert_eq!(model.on_full, OnFull::RejectPush);
                    assert!(unresolved.len() >= model.most);
                }
            }
        }
        4 | 5 => {
            let Some(id) = model.nth(x) else { return };
            let operations = (kind % 12 == 5).then(|| vec![todo(1000 + id, &format!("e{id}"), 1)]);
            let done = client.session.retry_dead_letter(id, operations).await;
            expect_unresolved(model, id, &done);
            if let Ok((retried, _)) = done
                && matches!(retried.outcome, Outcome::Applied)
            {
                model.entries.insert(id, Now::Resolved);
            }
        }
        6 => {
            let Some(id) = model.nth(x) else { return };
            let done = client.session.resolve_dead_letter(id, None).await;
            expect_unresolved(model, id, &done);
            if done.is_ok() {
                model.entries.insert(id, Now::Resolved);
            }
        }
        7 => {
            client
                .ok(&format!(
                    "DELETE FROM todos WHERE id = {} OR title = 't{}'",
                    x % 6,
                    y % 4
                ))
                .await;
        }
        8 => {
            model.action =
                [Action::Drop, Action::Escalate, Action::ForceApplyLww][usize::from(x % 3)];
            model.on_full = [OnFull::Escalate, OnFull::RejectPush][usize::from(y % 2)];
            model.most = 2 + usize::from(y % 5);
            model.ttl_s = 20 + u64::from(x);
            let change = PolicyChange {
                ttl_s: Some(i64::try_from(model.ttl_s).unwrap()),
                action: Some(model.action),
                max_entries: Some(i64::try_from(model.most).unwrap()),
                on_full: Some(model.on_full),
            };
            client
                .session
                .put_dead_letter_policy("todos", "*", change)
                .await
                .unwrap();
            for id in model.unresolved() {
                model
                    .expires_ms
                    .insert(id, model.created_ms[&id] + model.ttl_s * 1000);
            }
        }
        _ => {
            node.clock.advance(u64::from(x) * 500);
            let now_ms = springhead_log::Clock::now_ms(&*node.clock);
            node.engine.sweep_dead_letters().await.unwrap();
            for id in model.unresolved() {
                if model.expires_ms[&id] <= now_ms {
                    let ended = ended_as(client, model.action, id).await;
                    model.entries.insert(id, ended);
                }
            }
        }
    }
}

fn expect_unresolved<T: std::fmt::Debug>(model: &Model, id: i64, done: &Result<T, SqlError>) {
    match model.entries[&id] {
        Now::Unresolved => assert!(done.is_ok(), "{id}: {done:?}"),
        Now::Resolved => {
            assert_eq!(
                done.as_ref().unwrap_err().code.sqlstate().0,
                "55000",
                "{id}"
            );
        }
        // Forgotten; or force-applied, which is resolved.
        _ => assert!(done.is_err(), "{id}: {done:?}"),
    }
}

/// What the sweep has made of an entry that was due.
async fn ended_as(client: &mut Client, action: Action, id: i64) -> Now {
    let rows = client
        .lines(&format!(
            "SELECT resolved FROM springhead.dead_letters WHERE id = {id}"
        ))
        .await;
    let escalated = client
        .lines(&format!(
            "SELECT reason FROM springhead.escalations WHERE dead_letter_id = {id}"
        ))
        .await;
    match (action, rows.as_slice(), escalated.as_slice()) {
        (Action::Drop, [], []) => Now::Expired,
        (Action::Escalate, [], [reason]) if reason == "ttl" => Now::Escalated,
        (Action::ForceApplyLww, [], [reason]) if reason == "force_apply_failed" => Now::Escalated,
        (Action::ForceApplyLww, [resolved], []) if resolved == "t" => Now::Expired,
        other => panic!("{id} was due: {other:?}"),
    }
}

async fn check_model(client: &mut Client, model: &Model) {
    check_totals(client).await;
    let totals = client
        .lines("SELECT enqueued, resolved, expired, escalated, unresolved FROM springhead.dead_letter_totals WHERE collection = ''")
        .await;
    let expected = [
        model.entries.len(),
        model.count(Now::Resolved),
        model.count(Now::Expired),
        model.count(Now::Escalated),
        model.count(Now::Unresolved),
    ];
    if model.entries.is_empty() {
        assert!(totals.is_empty());
    } else {
        assert_eq!(totals, [expected.map(|n| n.to_string()).join("|")]);
    }
    let unresolved: Vec<String> = model.unresolved().iter().map(ToString::to_string).collect();
    let there = client
        .lines("SELECT id FROM springhead.dead_letters WHERE NOT resolved ORDER BY id")
        .await;
    assert_eq!(there, unresolved);
    let violated = client.one("SELECT count(*) FROM todos WHERE n >= 10").await;
    assert_eq!(violated, "0", "no retry violates a constraint");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random rejections, expiries, retries, resolutions, policies and overflow against a model that
    /// counts: nothing vanishes, and the state is what the log adds up to.
    #[test]
    fn g9_nothing_vanishes(steps in prop::collection::vec(any::<Step>(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::with(|config| {
                config.dead_letter_ttl = Duration::from_secs(60);
                config.dead_letter_max_entries = 5;
            });
            let mut client = todos(&node).await;
            let mut model = Model {
                entries: BTreeMap::new(),
                expires_ms: BTreeMap::new(),
                created_ms: BTreeMap::new(),
                ttl_s: 60,
                most: 5,
                action: Action::Escalate,
                on_full: OnFull::Escalate,
            };
            for each in steps {
                step(&node, &mut client, &mut model, each).await;
                check_model(&mut client, &model).await;
            }
            check_replay(&node).await;
        });
    }

    /// Whatever is forced, no row violates a constraint, and none is another's than its author's.
    #[test]
    fn g9_force_apply_violates_nothing(wanted in prop::collection::vec((0..8_i64, 0..3_usize, 0..14_i64, 0..3_i64), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(forced(wanted));
    }
}

async fn forced(wanted: Vec<(i64, usize, i64, i64)>) {
    let node = Node::with(|config| {
        config.dead_letter_action = Action::ForceApplyLww;
        config.dead_letter_ttl = Duration::from_secs(1);
    });
    let mut client = node.client().await;
    for sql in [
        "CREATE TABLE kinds (id int PRIMARY KEY)",
        "INSERT INTO kinds VALUES (1), (2)",
        "CREATE TABLE notes (id int PRIMARY KEY, owner text NOT NULL, n int UNIQUE CHECK (n < 10), kind int REFERENCES kinds)",
        "CREATE ROLE ann LOGIN",
        "GRANT ALL ON notes, kinds TO ann",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON notes USING (owner = auth.uid())",
        "INSERT INTO notes VALUES (0, 'bob', 9, 1)",
    ] {
        client.ok(sql).await;
    }
    let count = wanted.len();
    for (place, (id, owner, n, kind)) in wanted.into_iter().enumerate() {
        let columns = [
            (
                "owner",
                [
                    SyncValue::from("ann"),
                    SyncValue::from("bob"),
                    SyncValue::Null,
                ][owner]
                    .clone(),
            ),
            ("n", SyncValue::Integer(n)),
            ("kind", SyncValue::Integer(kind)),
        ];
        let operation = if place % 3 == 2 {
            Operation {
                collection: "notes".to_owned(),
                id: vec![SyncValue::Integer(id)],
                verb: Verb::Set(columns.into_iter().collect()),
            }
        } else {
            insert("notes", id, &columns)
        };
        record(
            &node,
            refused("ann", "schema_stale", place as u64 + 1, operation),
        )
        .await;
    }
    node.clock.advance(2_000);
    let swept = node.engine.sweep_dead_letters().await.unwrap();
    assert_eq!(
        usize::try_from(swept.force_applied + swept.escalated).unwrap(),
        count
    );
    let bad = client
        .lines("SELECT * FROM notes WHERE n >= 10 OR owner IS NULL OR owner <> 'ann' AND id <> 0 OR kind NOT IN (1, 2)")
        .await;
    assert_eq!(bad, Vec::<String>::new());
    assert_eq!(
        client
            .one("SELECT owner, n, kind FROM notes WHERE id = 0")
            .await,
        "bob|9|1"
    );
    check_totals(&mut client).await;
    check_replay(&node).await;
}
