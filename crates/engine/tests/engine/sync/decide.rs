//! G9: each mutation is decided exactly once.

use springhead_proto::sync::{
    Fix, Hint, HintKind, ProducerId, RetryReason, Seq, SyncValue, Verb, Verdict, Violation,
};

use springhead_engine::sync::SyncLimits;

use super::device::{Rig, columns, op};
use crate::support::Node;

const TODOS: &str = "CREATE TABLE todos (id integer PRIMARY KEY, title text NOT NULL UNIQUE, \
     votes integer NOT NULL DEFAULT 0 CHECK (votes >= 0 AND votes <= 100), tags jsonb, note text)";

fn insert(id: i64, title: &str) -> springhead_proto::sync::Operation {
    op(
        "todos",
        id,
        Verb::Insert(columns([("title", title.into())])),
    )
}

/// A rejection's violation as text, and its hint.
fn rejected(verdict: &Verdict) -> (String, Hint) {
    match verdict {
        Verdict::Rejected(rejection) => (rejection.violation.to_string(), rejection.hint.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_repeated_push_gets_its_verdict_again_and_changes_nothing() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    let first = device.mutation(vec![insert(1, "milk")]);
    let second = device.mutation(vec![op(
        "todos",
        1,
        Verb::Inc(columns([("votes", 1.into())])),
    )]);
    let taken = device.mutation(vec![insert(2, "milk")]);
    let push = vec![first, second, taken];
    let verdicts = device.push(push.clone()).await;
    assert!(
        matches!(verdicts[0], Verdict::Applied { .. }),
        "{verdicts:?}"
    );
    assert!(
        matches!(verdicts[1], Verdict::Applied { .. }),
        "{verdicts:?}"
    );
    assert_eq!(rejected(&verdicts[2]).0, "unique:title=milk");
    for _ in 0..2 {
        device.connect(&rig).await.unwrap();
        let again = device.push(push.clone()).await;
        assert!(matches!(again[0], Verdict::Duplicate { .. }), "{again:?}");
        assert!(matches!(again[1], Verdict::Duplicate { .. }), "{again:?}");
        assert_eq!(again[2], verdicts[2]);
    }
    assert_eq!(
        rig.sql("SELECT id, title, votes FROM todos").await,
        ["1|milk|1"]
    );
    // After a start too: what decides is in the log with what was decided.
    let node = rig.node.reopen();
    let rig = Rig::over(node, springhead_engine::sync::SyncLimits::default(), "").await;
    let ack = device.connect(&rig).await.unwrap();
    assert_eq!(ack.next_seq, Seq(4));
    let again = device.push(push).await;
    assert!(matches!(again[1], Verdict::Duplicate { .. }), "{again:?}");
    assert_eq!(again[2], verdicts[2]);
    assert_eq!(rig.sql("SELECT votes FROM todos").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_numbers_that_are_not_due_are_told_which_is() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    device.next = Seq(3);
    let late = device.write(vec![insert(1, "a")]).await;
    assert_eq!(
        late,
        Verdict::Gap {
            expected_seq: Seq(1)
        }
    );
    device.next = Seq(1);
    device.applied(vec![insert(1, "a")]).await;
    device.next = Seq(5);
    let late = device.write(vec![insert(2, "b")]).await;
    assert_eq!(
        late,
        Verdict::Gap {
            expected_seq: Seq(2)
        }
    );
    assert_eq!(rig.sql("SELECT count(*) FROM todos").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_copy_is_fenced_and_loses_nothing() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    let own = device.mutation(vec![insert(1, "original")]);
    device.push(vec![own.clone()]).await;
    // A copy of its file writes something else under the same number.
    device.next = Seq(1);
    let copied = device.mutation(vec![insert(2, "copy")]);
    assert_eq!(device.push(vec![copied]).await, [Verdict::Fenced]);
    // What has been acknowledged is never pushed again by whoever acknowledged it: it is a copy, and
    // hears what came of it.
    device.acknowledge().await;
    device.next = Seq(2);
    device.applied(vec![insert(3, "next")]).await;
    assert!(matches!(
        device.push(vec![own]).await[..],
        [Verdict::Duplicate { .. }]
    ));
    // Under a name of its own the copy goes on.
    device.producer = ProducerId(2);
    device.connect(&rig).await.unwrap();
    device.next = Seq(1);
    device.applied(vec![insert(2, "copy")]).await;
    assert_eq!(
        rig.sql("SELECT id FROM todos ORDER BY id").await,
        ["1", "2", "3"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_what_was_settled_long_ago_is_neither_applied_again_nor_lost() {
    let rig = Rig::over(
        Node::with(|config| config.sync_settled_verdicts = 2),
        SyncLimits::default(),
        TODOS,
    )
    .await;
    let mut device = rig.device(1, &[]).await;
    let first = device.mutation(vec![insert(1, "first")]);
    device.push(vec![first.clone()]).await;
    for id in 2..=6 {
        device
            .applied(vec![insert(id, &format!("todo {id}"))])
            .await;
        device.acknowledge().await;
    }
    rig.sql("DELETE FROM todos WHERE id = 1").await;
    // Nobody knows any more what the first was; a copy that pushes it twice makes one dead letter.
    let verdicts = [
        device.push(vec![first.clone()]).await.remove(0),
        device.push(vec![first]).await.remove(0),
    ];
    let Verdict::Rejected(rejection) = &verdicts[0] else {
        panic!("{verdicts:?}")
    };
    assert_eq!(rejection.violation.to_string(), "constraint:settled before");
    assert_eq!(verdicts[0], verdicts[1]);
    assert_eq!(rig.sql("SELECT min(id) FROM todos").await, ["2"]);
    let letters = "SELECT document_id FROM springhead.dead_letters";
    assert_eq!(rig.sql(letters).await, ["1"]);
    // The device that it is a copy of goes on.
    device.applied(vec![insert(7, "seventh")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_rejection_takes_its_dependents_with_it_and_nobody_else() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    device.applied(vec![insert(1, "milk")]).await;
    let wrong = device.mutation(vec![
        op("todos", 1, Verb::Set(columns([("note", "half".into())]))),
        insert(2, "milk"),
    ]);
    let mut child = device.mutation(vec![op(
        "todos",
        2,
        Verb::Set(columns([("note", "x".into())])),
    )]);
    child.after = vec![device.id_of(2)];
    let mut grandchild = device.mutation(vec![insert(7, "fine by itself")]);
    grandchild.after = vec![device.id_of(3)];
    let free = device.mutation(vec![insert(3, "bread")]);
    let verdicts = device.push(vec![wrong, child, grandchild, free]).await;
    assert_eq!(rejected(&verdicts[0]).0, "unique:title=milk");
    let Verdict::Rejected(head) = &verdicts[0] else {
        unreachable!()
    };
    for dependent in &verdicts[1..3] {
        let Verdict::Rejected(rejection) = dependent else {
            panic!("{dependent:?}")
        };
        assert_eq!(
            rejection.violation.to_string(),
            "constraint:depends on a rejected mutation"
        );
        assert_eq!(rejection.chain, Some(head.dead_letter_id));
    }
    assert!(
        matches!(verdicts[3], Verdict::Applied { .. }),
        "{verdicts:?}"
    );
    assert_eq!(
        rig.sql("SELECT id, note FROM todos ORDER BY id").await,
        ["1|~", "3|~"]
    );
    // What was in the way goes; the last of the chain is retried, and with it all of the chain.
    rig.sql("UPDATE todos SET title = 'oats' WHERE id = 1")
        .await;
    let last = rig.sql("SELECT max(id) FROM springhead.dead_letters").await;
    rig.sql(&format!("CALL springhead.retry_dead_letter({})", last[0]))
        .await;
    assert_eq!(
        rig.sql("SELECT id, note FROM todos ORDER BY id").await,
        ["1|half", "2|x", "3|~", "7|~"]
    );
    let mut late = device.mutation(vec![insert(8, "late")]);
    late.after = vec![device.id_of(3)];
    let verdicts = device.push(vec![late]).await;
    assert!(
        matches!(verdicts[0], Verdict::Applied { .. }),
        "what it depends on has been applied after all: {verdicts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_edits_of_different_columns_and_counters_and_sets_all_survive() {
    let rig = Rig::start(TODOS).await;
    let mut one = rig.device(1, &[]).await;
    let mut two = rig.device(2, &[]).await;
    one.applied(vec![insert(1, "milk")]).await;
    let set = |column: &'static str, value: &str| {
        op("todos", 1, Verb::Set(columns([(column, value.into())])))
    };
    one.applied(vec![set("title", "oat milk")]).await;
    two.applied(vec![set("note", "two litres")]).await;
    for device in [&mut one, &mut two] {
        let votes = columns([("votes", 2.into())]);
        device.applied(vec![op("todos", 1, Verb::Inc(votes))]).await;
    }
    one.applied(vec![op(
        "todos",
        1,
        Verb::Max(columns([("votes", 3.into())])),
    )])
    .await;
    two.applied(vec![op(
        "todos",
        1,
        Verb::Min(columns([("votes", 9.into())])),
    )])
    .await;
    let tags = |tags: &[&str]| {
        vec![(
            "tags".to_owned(),
            tags.iter().map(|tag| SyncValue::from(*tag)).collect(),
        )]
    };
    one.applied(vec![op("todos", 1, Verb::SetAdd(tags(&["shop", "food"])))])
        .await;
    two.applied(vec![op("todos", 1, Verb::SetAdd(tags(&["food", "cold"])))])
        .await;
    one.applied(vec![op("todos", 1, Verb::SetRemove(tags(&["shop"])))])
        .await;
    assert_eq!(
        rig.sql("SELECT title, votes, tags, note FROM todos").await,
        [r#"oat milk|4|["food", "cold"]|two litres"#]
    );
    // Gone twice is gone.
    one.applied(vec![op("todos", 1, Verb::Delete)]).await;
    two.applied(vec![op("todos", 1, Verb::Delete)]).await;
    let edit = two.write(vec![set("note", "too late")]).await;
    assert_eq!(rejected(&edit).0, "constraint:no such document");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_violations_say_what_and_hints_name_what_commits() {
    let rig = Rig::start(TODOS).await;
    rig.sql("CREATE TABLE items (id integer PRIMARY KEY, todo integer REFERENCES todos, word varchar(3))")
        .await;
    let mut device = rig.device(1, &[]).await;
    device
        .applied(vec![insert(1, "milk"), insert(2, "milk (2)")])
        .await;

    // A title that is taken: the hint's commits.
    let (violation, hint) = rejected(&device.write(vec![insert(3, "milk")]).await);
    assert_eq!(violation, "unique:title=milk");
    let expected = SyncValue::from("milk (3)");
    let named = HintKind::Unique {
        column: "title".to_owned(),
        value: expected.clone(),
    };
    assert_eq!(hint.kind, named);
    let [
        Fix::SetColumn {
            operation: 0,
            column,
            value,
        },
    ] = &hint.fixes[..]
    else {
        panic!("{hint:?}")
    };
    assert_eq!((column.as_str(), value), ("title", &expected));
    device
        .applied(vec![op(
            "todos",
            3,
            Verb::Insert(columns([("title", value.clone())])),
        )])
        .await;

    // A key that is taken.
    let (violation, hint) = rejected(&device.write(vec![insert(3, "new")]).await);
    assert_eq!(violation, "unique:id=3");
    assert!(
        matches!(
            &hint.fixes[..],
            [Fix::SetColumn {
                value: SyncValue::Integer(4),
                ..
            }]
        ),
        "{hint:?}"
    );

    // A parent that is not there.
    let child = columns([("todo", 9.into())]);
    let (violation, hint) = rejected(
        &device
            .write(vec![op("items", 1, Verb::Insert(child))])
            .await,
    );
    assert_eq!(violation, "foreign_key:todo");
    assert_eq!(
        hint.kind,
        HintKind::ForeignKey {
            column: "todo".to_owned(),
            collection: "todos".to_owned(),
            columns: columns([("id", 9.into())]),
        }
    );

    // NULL where a default would do.
    let null = columns([("title", "x".into()), ("votes", SyncValue::Null)]);
    let (violation, hint) = rejected(&device.write(vec![op("todos", 8, Verb::Insert(null))]).await);
    assert_eq!(violation, "not_null:votes");
    assert_eq!(
        hint.kind,
        HintKind::NotNull {
            column: "votes".to_owned(),
            default: Some(0.into()),
        }
    );
    assert_eq!(hint.fixes.len(), 2, "{hint:?}");

    // Out of bounds.
    let votes = columns([("votes", 101.into())]);
    let (violation, hint) = rejected(&device.write(vec![op("todos", 1, Verb::Set(votes))]).await);
    assert_eq!(violation, "check:todos_votes_check");
    let HintKind::Check {
        column,
        min,
        max,
        text,
        ..
    } = &hint.kind
    else {
        panic!("{hint:?}")
    };
    assert_eq!(column.as_deref(), Some("votes"));
    assert_eq!((min, max), (&Some(0.into()), &Some(100.into())));
    assert!(text.contains("votes"), "{text}");

    for (operation, expected) in [
        (
            op("todos", 1, Verb::Set(columns([("votes", "many".into())]))),
            "type:votes",
        ),
        (
            op("items", 1, Verb::Insert(columns([("word", "long".into())]))),
            "type:word",
        ),
        (
            op("todos", 1, Verb::Set(columns([("gone", 1.into())]))),
            "schema_stale",
        ),
        (op("nothing", 1, Verb::Delete), "schema_stale"),
        (
            op("todos", 1, Verb::Set(columns([("id", 2.into())]))),
            "malformed",
        ),
        (op("springhead.audit", 1, Verb::Delete), "permission_denied"),
    ] {
        let verdict = device.write(vec![operation.clone()]).await;
        assert_eq!(rejected(&verdict).0, expected, "{operation:?}");
    }
    assert_eq!(rig.sql("SELECT count(*) FROM todos").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_hundred_mutations_share_a_flush() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    device.applied(vec![insert(1, "milk")]).await;
    let before = rig.node.engine.status().log.flushes;
    let inc = || op("todos", 1, Verb::Inc(columns([("votes", 1.into())])));
    let push: Vec<_> = (0..99).map(|_| device.mutation(vec![inc()])).collect();
    let verdicts = device.push(push).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Applied { .. }))
    );
    let flushes = rig.node.engine.status().log.flushes - before;
    assert!(flushes <= 3, "{flushes}");
    assert_eq!(rig.sql("SELECT votes FROM todos").await, ["99"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_log_that_refuses_decides_nothing() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    rig.node.log.refuse(true);
    let mutation = device.mutation(vec![insert(1, "milk")]);
    let verdicts = device.push(vec![mutation.clone()]).await;
    let Verdict::Retry { reason, .. } = &verdicts[0] else {
        panic!("{verdicts:?}")
    };
    assert_eq!(*reason, RetryReason::Overload);
    rig.node.log.refuse(false);
    let verdicts = device.push(vec![mutation]).await;
    assert!(
        matches!(verdicts[0], Verdict::Applied { .. }),
        "{verdicts:?}"
    );
    assert_eq!(rig.sql("SELECT count(*) FROM todos").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_triggers_and_deferred_keys_hold_over_the_whole_mutation() {
    let rig = Rig::start(
        "CREATE TABLE p (id integer PRIMARY KEY); \
         CREATE TABLE c (id integer PRIMARY KEY, p integer REFERENCES p DEFERRABLE INITIALLY DEFERRED); \
         CREATE TABLE seen (id serial PRIMARY KEY, what integer); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO seen (what) VALUES (NEW.id); RETURN NEW; END $$; \
         CREATE TRIGGER t AFTER INSERT ON c FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    let mut device = rig.device(1, &[]).await;
    let child = op("c", 1, Verb::Insert(columns([("p", 5.into())])));
    let parent = op("p", 5, Verb::Insert(columns([])));
    device.applied(vec![child.clone(), parent]).await;
    let orphan = op("c", 2, Verb::Insert(columns([("p", 6.into())])));
    let verdict = device.write(vec![orphan]).await;
    assert_eq!(rejected(&verdict).0, "foreign_key:p");
    assert_eq!(rig.sql("SELECT what FROM seen").await, ["1"]);
    let _ = (Violation::WORDS, child);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_where_clocks_decide_the_later_write_stays_whatever_arrives_first() {
    let rig = Rig::start(TODOS).await;
    rig.sql("ALTER TABLE todos SET (conflict = 'hlc')").await;
    let mut one = rig.device(1, &[]).await;
    let mut two = rig.device(2, &[]).await;
    rig.sql("INSERT INTO todos VALUES (1, 'milk')").await;
    rig.node.clock.advance(10_000);
    let now = 1_700_000_010_000;
    let set = |device: &mut super::device::Device, ms: u64, column: &'static str, value: &str| {
        let columns = columns([(column, value.into())]);
        let mut mutation = device.mutation(vec![op("todos", 1, Verb::Set(columns))]);
        mutation.hlc = Some(springhead_proto::sync::Hlc::at_ms(ms));
        mutation
    };
    let later = set(&mut one, now - 1_000, "note", "later");
    one.push(vec![later]).await;
    let earlier = set(&mut two, now - 2_000, "note", "earlier");
    let title = set(&mut two, now - 2_000, "title", "bread");
    let verdicts = two.push(vec![earlier, title]).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Applied { .. })),
        "{verdicts:?}"
    );
    assert_eq!(
        rig.sql("SELECT title, note FROM todos").await,
        ["bread|later"]
    );
    // A statement's clock is the server's.
    rig.sql("UPDATE todos SET note = 'by hand'").await;
    let before = set(&mut one, now - 1, "note", "before");
    one.push(vec![before]).await;
    assert_eq!(rig.sql("SELECT note FROM todos").await, ["by hand"]);
    // A clock that is a year ahead wins for a minute.
    let ahead = set(&mut two, now + 31_536_000_000, "note", "from the future");
    two.push(vec![ahead]).await;
    assert_eq!(rig.sql("SELECT note FROM todos").await, ["from the future"]);
    rig.node.clock.advance(61_000);
    let present = set(&mut one, now + 61_000, "note", "present");
    one.push(vec![present]).await;
    assert_eq!(rig.sql("SELECT note FROM todos").await, ["present"]);
    // What is gone has no clocks.
    rig.sql("DELETE FROM todos").await;
    assert_eq!(
        rig.sql("SELECT count(*) FROM springhead.sync_clocks").await,
        ["0"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_mutations_made_on_older_definitions_are_carried_forward() {
    let rig = Rig::start(TODOS).await;
    rig.sql("INSERT INTO todos VALUES (1, 'milk')").await;
    let mut device = rig.device(1, &[]).await;
    let version = rig.node.tenant().await.catalog().version;
    device.catalog.0 = springhead_proto::sync::CatalogVersion(version);
    let set = |column: &'static str, value: &str| {
        op("todos", 1, Verb::Set(columns([(column, value.into())])))
    };
    let renamed = device.mutation(vec![set("title", "bread")]);
    let dropped = device.mutation(vec![set("note", "gone")]);
    let both = columns([("title", "two".into()), ("note", "gone".into())]);
    let inserted = device.mutation(vec![op("todos", 2, Verb::Insert(both))]);
    let never = device.mutation(vec![set("nothing", "x")]);
    for sql in [
        "ALTER TABLE todos RENAME COLUMN title TO headline",
        "ALTER TABLE todos DROP COLUMN note",
        "ALTER TABLE todos ADD COLUMN title text DEFAULT 'new'",
        "ALTER TABLE todos RENAME TO tasks",
    ] {
        rig.sql(sql).await;
    }
    let verdicts = device.push(vec![renamed, dropped, inserted, never]).await;
    for verdict in &verdicts[..3] {
        assert!(matches!(verdict, Verdict::Applied { .. }), "{verdict:?}");
    }
    assert_eq!(rejected(&verdicts[3]).0, "schema_stale");
    assert_eq!(
        rig.sql("SELECT id, headline, title FROM tasks ORDER BY id")
            .await,
        ["1|bread|new", "2|two|new"]
    );
    // What is new is known by its present name.
    let version = rig.node.tenant().await.catalog().version;
    device.catalog.0 = springhead_proto::sync::CatalogVersion(version);
    let title = columns([("title", "newer".into())]);
    device.applied(vec![op("tasks", 1, Verb::Set(title))]).await;
    assert_eq!(
        rig.sql("SELECT title FROM tasks WHERE id = 1").await,
        ["newer"]
    );
    let old = device.write(vec![set("title", "x")]).await;
    assert_eq!(rejected(&old).0, "schema_stale");
}
