//! G9: updates of CRDT columns are merged exactly once, and what is wrong with one is told.

use springhead_crdt::{Cell, Client, Content, Edit, Kind, Limits};
use springhead_proto::sync::{Operation, SyncValue, Verb, Verdict};

use super::device::{Rig, columns, op, shape};

const NOTES: &str = "CREATE TABLE notes (id integer PRIMARY KEY, body text CRDT, items list CRDT, \
     plain text); INSERT INTO notes (id, body) VALUES (1, 'hello')";
const BODY: &str = "SELECT id, body FROM notes ORDER BY id";

fn crdt(column: &str, update: Vec<u8>) -> Operation {
    op(
        "notes",
        1_i64,
        Verb::Crdt(vec![(column.to_owned(), update)]),
    )
}

/// A text of its own, and what has been said of it.
struct Writer {
    cell: Cell,
}

impl Writer {
    fn of(number: u64, seed: &str) -> Writer {
        let seed = Content::Text(seed.to_owned());
        let cell = Cell::open(Kind::Text, None, Some(&seed), Client::new(number)).unwrap();
        Writer { cell }
    }

    fn insert(&mut self, at: usize, text: &str) -> Vec<u8> {
        let text = text.to_owned();
        self.cell.edit(&[Edit::Insert { at, text }]).unwrap()
    }
}

fn violation(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Rejected(rejection) => rejection.violation.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_an_update_is_merged_once_and_replay_has_the_same() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[shape(1, "notes", None)]).await;
    let mut writer = Writer::of(11, "hello");
    let first = device.mutation(vec![crdt("body", writer.insert(5, " there"))]);
    let pushed = vec![first.clone()];
    assert!(matches!(
        device.push(pushed).await[0],
        Verdict::Applied { .. }
    ));
    let again = device.push(vec![first]).await;
    assert!(matches!(again[0], Verdict::Duplicate { .. }), "{again:?}");
    // Somebody who has not heard of it.
    let mut other = rig.device(2, &[]).await;
    let update = Writer::of(12, "hello").insert(0, "Oh, ");
    other.applied(vec![crdt("body", update)]).await;
    assert_eq!(rig.sql(BODY).await, ["1|Oh, hello there"]);
    rig.sql("UPDATE notes SET body = body || '!' WHERE id = 1")
        .await;
    device
        .applied(vec![crdt("body", writer.insert(11, ", you"))])
        .await;
    assert_eq!(rig.sql(BODY).await, ["1|Oh, hello there, you!"]);
    let states = r#"SELECT id, body, notes."body$crdt" FROM notes"#;
    let elsewhere = rig.node.replayed_elsewhere();
    assert_eq!(
        elsewhere.client().await.lines(states).await,
        rig.sql(states).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_what_is_wrong_with_an_update_is_a_dead_letter_with_its_name() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    let mut writer = Writer::of(11, "hello");
    let unsent = writer.insert(0, "never sent");
    let later = writer.insert(3, "x");
    for (operation, expected) in [
        (crdt("body", b"junk".to_vec()), "malformed"),
        (crdt("body", Vec::new()), "malformed"),
        (crdt("plain", unsent.clone()), "type:plain"),
        (crdt("nothing", unsent.clone()), "schema_stale"),
        (
            crdt("body", later.clone()),
            "constraint:the update rests on edits that are not there",
        ),
        (
            op(
                "notes",
                9_i64,
                Verb::Crdt(vec![("body".to_owned(), unsent.clone())]),
            ),
            "constraint:no such document",
        ),
    ] {
        let verdict = device.write(vec![operation]).await;
        assert_eq!(violation(&verdict), expected);
    }
    assert_eq!(rig.sql(BODY).await, ["1|hello"]);
    let letters = "SELECT count(*) FROM springhead.dead_letters";
    assert_eq!(rig.sql(letters).await, ["6"]);
    // Nobody else is harmed, and what was missing may come.
    device.applied(vec![crdt("body", unsent)]).await;
    device.applied(vec![crdt("body", later)]).await;
    assert_eq!(rig.sql(BODY).await, ["1|nevxer senthello"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_who_may_not_write_is_told_so_and_not_what_is_there() {
    let rig = Rig::start(NOTES).await;
    rig.sql(
        "CREATE ROLE ann LOGIN; GRANT SELECT, UPDATE ON notes TO ann; \
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON notes USING (plain = 'ann')",
    )
    .await;
    let mut device = rig.device_of(1, "ann", &[]).await;
    let good = Writer::of(11, "hello").insert(0, "x");
    for update in [good.clone(), b"junk".to_vec()] {
        let verdict = device.write(vec![crdt("body", update)]).await;
        assert_eq!(violation(&verdict), "constraint:no such document");
    }
    rig.sql("UPDATE notes SET plain = 'ann'").await;
    device.applied(vec![crdt("body", good)]).await;
    let verdict = device.write(vec![crdt("body", b"junk".to_vec())]).await;
    assert_eq!(violation(&verdict), "malformed");
    rig.sql("REVOKE UPDATE ON notes FROM ann").await;
    let verdict = device.write(vec![crdt("body", b"junk".to_vec())]).await;
    assert_eq!(violation(&verdict), "permission_denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_edits_that_take_too_much_are_too_large_and_null_begins_anew() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    let mut writer = Writer::of(11, "hello");
    for _ in 0..3 {
        let update = writer.insert(0, &"x".repeat(150_000));
        device.applied(vec![crdt("body", update)]).await;
    }
    let update = writer.insert(0, &"x".repeat(150_000));
    let verdict = device.write(vec![crdt("body", update)]).await;
    assert_eq!(violation(&verdict), "too_large");
    // The same by a statement, which fails alone.
    let mut client = rig.node.client().await;
    let long = "UPDATE notes SET body = repeat('y', 600000)";
    assert_eq!(
        client.run(long).await.err().unwrap().code,
        springhead_proto::ErrorCode::StatementTooLarge
    );
    assert_eq!(rig.sql("SELECT length(body) FROM notes").await, ["450005"]);
    rig.sql("UPDATE notes SET body = NULL").await;
    device
        .applied(vec![crdt("body", Writer::of(12, "").insert(0, "new"))])
        .await;
    assert_eq!(rig.sql(BODY).await, ["1|new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_devices_are_told_the_new_edits_alone() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[shape(1, "notes", None)]).await;
    device.settle(&rig).await;
    let mut writer = Writer::of(11, "hello");
    let mut state: Option<Vec<u8>> = None;
    for round in 0..100 {
        let update = writer.insert(5 + round, "x");
        let lsn = device.applied(vec![crdt("body", update)]).await;
        device.reach(lsn).await;
        let told = &device.image[&1]["[1]"]["body$crdt"];
        let SyncValue::Blob(told) = told else {
            panic!("{told:?}");
        };
        assert!(
            round == 0 || told[0] == 0 || told.len() < 60,
            "{}",
            told.len()
        );
        state = Some(springhead_crdt::state::received(state.as_deref(), told).unwrap());
    }
    let stored = rig.sql(r#"SELECT notes."body$crdt" FROM notes"#).await;
    let state = state.unwrap();
    let hex: String = state.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(stored, [format!("\\x{hex}")]);
    assert!(springhead_crdt::state::blocks(&state).unwrap().len() <= 64);
    let limits = Limits {
        state_bytes: 1 << 20,
        merge_updates: 1,
    };
    let cell = Cell::open(Kind::Text, Some(&state), None, Client::new(1)).unwrap();
    assert!(cell.save(&limits).unwrap().unwrap().len() <= state.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn crdt_columns_are_defined_renamed_and_dropped_with_what_is_beside_them() {
    let rig = Rig::start(NOTES).await;
    let mut client = rig.node.client().await;
    assert_eq!(
        client
            .lines(
                "SELECT column_name, data_type FROM information_schema.columns \
                 WHERE table_name = 'notes' ORDER BY ordinal_position",
            )
            .await,
        ["id|integer", "body|text", "items|jsonb", "plain|text"]
    );
    let mut device = rig.device(1, &[]).await;
    device
        .applied(vec![crdt("body", Writer::of(11, "hello").insert(0, "x"))])
        .await;
    rig.sql("ALTER TABLE notes RENAME COLUMN body TO words")
        .await;
    let state = r#"SELECT notes."words$crdt" IS NOT NULL FROM notes"#;
    assert_eq!(rig.sql(state).await, ["t"]);
    assert_eq!(rig.sql("SELECT * FROM notes").await, ["1|xhello|~|~"]);
    rig.sql("ALTER TABLE notes ADD COLUMN more text CRDT DEFAULT 'm'")
        .await;
    // One that has heard of it.
    let mut device = rig.device(2, &[]).await;
    device
        .applied(vec![crdt("more", Writer::of(12, "m").insert(1, "n"))])
        .await;
    assert_eq!(
        rig.sql("SELECT words, more FROM notes").await,
        ["xhello|mn"]
    );
    rig.sql("ALTER TABLE notes DROP COLUMN words").await;
    rig.sql("ALTER TABLE notes ADD COLUMN words text").await;
    for (sql, told) in [
        ("UPDATE notes SET items = '{}'", "violates check constraint"),
        ("SELECT notes.\"words$crdt\" FROM notes", "does not exist"),
        (
            "ALTER TABLE notes ALTER COLUMN words TYPE text CRDT",
            "CRDT",
        ),
        (
            "ALTER TABLE notes ADD COLUMN \"more$crdt\" text",
            "already exists",
        ),
        ("CREATE TABLE k (id text CRDT PRIMARY KEY)", "primary key"),
    ] {
        let error = client.run(sql).await.err().unwrap();
        assert!(error.message.contains(told), "{sql}: {}", error.message);
    }
    rig.sql("INSERT INTO notes (id, items) VALUES (2, '[1]')")
        .await;
    let list = Operation {
        verb: Verb::Set(columns([("items", "[1, 2]".into())])),
        ..op("notes", 2_i64, Verb::Delete)
    };
    device.applied(vec![list]).await;
    assert_eq!(
        rig.sql("SELECT items FROM notes WHERE id = 2").await,
        ["[1, 2]"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_an_edit_is_one_change_of_the_feed() {
    let rig = Rig::start(NOTES).await;
    let before = rig.node.engine.log().tail().durable;
    rig.sql("UPDATE notes SET body = 'hello you' WHERE id = 1")
        .await;
    let after = rig.node.engine.log().tail().durable;
    assert_eq!(after.0 - before.0, 1);
}
