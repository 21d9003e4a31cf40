//! Dead letters against a model that counts, and what is forced against constraints and policies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use springhead_engine::dead_letters::{Action, OnFull, Outcome, PolicyChange, Recorded};
use springhead_proto::SqlError;
use springhead_proto::sync::{Operation, SyncValue, Verb};

use crate::dead_letters::{check_replay, check_totals, insert, record, refused, todo, todos};
use crate::support::{Client, Node};

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
    match kind % 12 {
        0..=3 => record_one(node, model, (x, y)).await,
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

async fn record_one(node: &Node, model: &mut Model, (x, y): (u8, u8)) {
    let now_ms = springhead_log::Clock::now_ms(&*node.clock);
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
