//! G2, G4, G8 and G10 for devices: what they hold is what the server has, through every way of
//! coming and going.

use springhead_engine::sync::SyncLimits;
use springhead_proto::sync::{
    DeviceToServer, Resync, ResyncReason, ServerToDevice, SyncErrorCode, SyncValue, Verb,
};

use super::device::{Device, Rig, columns, op, shape};
use crate::support::Node;

const TODOS: &str = "CREATE TABLE todos (id integer PRIMARY KEY, list integer, title text); \
     INSERT INTO todos SELECT i, i % 3, 't' || i FROM generate_series(1, 9) AS i";

#[tokio::test(flavor = "multi_thread")]
async fn g4_a_shape_is_its_snapshot_and_then_every_commit_as_one() {
    let rig = Rig::start(TODOS).await;
    let shapes = [
        shape(1, "todos", Some("list = 1")),
        shape(2, "todos", Some("list = 2")),
    ];
    let mut device = rig.device(1, &shapes).await;
    device.settle(&rig).await;
    assert_eq!(device.lines(1), ["1|1|t1", "4|1|t4", "7|1|t7"]);
    // One commit: a row moves from one to the other, one goes, one comes.
    let mut client = rig.node.client().await;
    client
        .ok("BEGIN; UPDATE todos SET list = 2 WHERE id = 1; DELETE FROM todos WHERE id = 4; \
             INSERT INTO todos VALUES (10, 1, 'ten'); UPDATE todos SET title = 'T' WHERE id = 7; COMMIT")
        .await;
    let deltas = device.told.len();
    device.until(|device| device.image[&2].len() == 4).await;
    assert_eq!(device.lines(1), ["10|1|ten", "7|1|T"]);
    let told = device.told[deltas..]
        .iter()
        .filter(|frame| matches!(frame, ServerToDevice::Delta(delta) if !delta.changes.is_empty()));
    assert_eq!(told.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_shape_that_goes_in_the_middle_of_a_commit_holds_nothing_up() {
    let rig = Rig::start(TODOS).await;
    let shapes = [shape(1, "todos", None), shape(2, "todos", Some("list = 2"))];
    let mut device = rig.device(1, &shapes).await;
    device.settle(&rig).await;
    rig.sql("UPDATE todos SET title = 'new' WHERE id = 1").await;
    // It has the change, which only the first shape shows, and not yet that the commit is over.
    device.session().ready().await.unwrap();
    assert!(device.session().step().await.unwrap().is_none());
    device.unsubscribe(1).await;
    rig.sql("CREATE TABLE others (id integer PRIMARY KEY)")
        .await;
    let key = ("table".to_owned(), "others".to_owned());
    device
        .until(|device| device.definitions.contains_key(&key))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_own_mutations_come_back_by_their_names() {
    let rig = Rig::start(TODOS).await;
    let mut writer = rig.device(1, &[shape(1, "todos", None)]).await;
    let mut reader = rig.device(2, &[shape(1, "todos", None)]).await;
    writer.settle(&rig).await;
    reader.settle(&rig).await;
    let lsn = writer
        .applied(vec![op(
            "todos",
            1,
            Verb::Set(columns([("title", "new".into())])),
        )])
        .await;
    writer.reach(lsn).await;
    reader.reach(lsn).await;
    assert_eq!(writer.own, [writer.id_of(1)]);
    assert_eq!(reader.own, []);
    let title = |device: &Device| device.image[&1]["[1]"]["title"].clone();
    assert_eq!(title(&writer), SyncValue::from("new"));
    assert_eq!(title(&reader), SyncValue::from("new"));
    // One that no shape of it shows comes back all the same.
    rig.sql("CREATE TABLE other (id integer PRIMARY KEY)").await;
    let lsn = writer
        .applied(vec![op("other", 1, Verb::Insert(columns([])))])
        .await;
    writer.reach(lsn).await;
    assert_eq!(writer.own, [writer.id_of(1), writer.id_of(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_a_shape_with_a_subquery_follows_both_tables() {
    let rig = Rig::start(TODOS).await;
    rig.sql("CREATE TABLE mine (list integer PRIMARY KEY)")
        .await;
    let with = shape(1, "todos", Some("list IN (SELECT list FROM mine)"));
    let mut device = rig.device(1, &[with]).await;
    device.settle(&rig).await;
    assert_eq!(device.lines(1), Vec::<String>::new());
    rig.sql("INSERT INTO mine VALUES (0)").await;
    device.until(|device| device.image[&1].len() == 3).await;
    rig.sql("UPDATE mine SET list = 1").await;
    device
        .until(|device| device.image[&1].contains_key("[1]"))
        .await;
    assert_eq!(device.lines(1), ["1|1|t1", "4|1|t4", "7|1|t7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_device_that_was_away_gets_the_difference() {
    let rig = Rig::start(TODOS).await;
    let shapes = [
        shape(1, "todos", Some("list = 1")),
        shape(2, "todos", Some("list = 2")),
    ];
    let mut device = rig.device(1, &shapes).await;
    device.settle(&rig).await;
    device.session = None;
    for i in 0..50 {
        rig.sql(&format!("UPDATE todos SET title = 'v{i}' WHERE id = 1"))
            .await;
    }
    rig.sql("UPDATE todos SET list = 2 WHERE id = 4").await;
    rig.sql("DELETE FROM todos WHERE id = 7").await;
    device.told.clear();
    device.connect(&rig).await.unwrap();
    device.settle(&rig).await;
    assert_eq!(device.lines(1), ["1|1|v49"]);
    assert_eq!(device.image[&2].len(), 4);
    let snapshots = device
        .told
        .iter()
        .filter(|frame| matches!(frame, ServerToDevice::Snapshot(_)));
    assert_eq!(snapshots.count(), 0);
}

/// More changes of its table than a difference has rows, most of them others': it still gets the
/// difference, gone through piece by piece.
#[tokio::test(flavor = "multi_thread")]
async fn g2_a_device_that_was_away_for_long_gets_the_difference() {
    let rig = Rig::start(
        "CREATE TABLE docs (id integer PRIMARY KEY, owner integer, n integer DEFAULT 0); \
         INSERT INTO docs SELECT i, i % 100 FROM generate_series(1, 1000) AS i",
    )
    .await;
    let own = shape(1, "docs", Some("owner = 7"));
    let mut device = rig
        .device(1, &[own, shape(2, "docs", Some("n >= 0 AND id <= 5"))])
        .await;
    device.settle(&rig).await;
    device.session = None;
    for round in 1..=110 {
        rig.sql("UPDATE docs SET n = n + 1").await;
        match round {
            20 => rig.sql("UPDATE docs SET owner = 8 WHERE id = 107").await,
            40 => {
                rig.sql("UPDATE docs SET owner = 7 WHERE id IN (1, 2)")
                    .await
            }
            60 => rig.sql("DELETE FROM docs WHERE id = 207").await,
            70 => {
                rig.sql("INSERT INTO docs VALUES (5007, 7, 0), (6007, 7, 0)")
                    .await
            }
            80 => {
                rig.sql("UPDATE docs SET owner = 3 WHERE id IN (2, 6007)")
                    .await
            }
            90 => rig.sql("UPDATE docs SET id = 9007 WHERE id = 307").await,
            _ => Vec::new(),
        };
    }
    device.told.clear();
    device.connect(&rig).await.unwrap();
    device.settle(&rig).await;
    for (shape, condition) in [(1, "owner = 7"), (2, "n >= 0 AND id <= 5")] {
        let sql = format!("SELECT id, n, owner FROM docs WHERE {condition} ORDER BY id::text");
        let mut lines = device.lines(shape);
        lines.sort_unstable();
        let mut rows = rig.sql(&sql).await;
        rows.sort_unstable();
        assert_eq!(lines, rows);
    }
    let is_snapshot = |frame: &&ServerToDevice| matches!(frame, ServerToDevice::Snapshot(_));
    assert_eq!(device.told.iter().filter(is_snapshot).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_a_cursor_that_is_no_good_starts_over_and_ends_right() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[shape(1, "todos", None)]).await;
    device.settle(&rig).await;
    let good = device.cursor.unwrap();
    for cursor in ["9999999@00000051", "3@00000077"] {
        device.session = None;
        device.cursor = Some(springhead_engine::cdc::parse_cursor(cursor).unwrap());
        rig.sql("DELETE FROM todos WHERE id = (SELECT max(id) FROM todos)")
            .await;
        device.told.clear();
        device.connect(&rig).await.unwrap();
        // Until the snapshot has come its cursor counts for nothing.
        device
            .until(|device| matches!(device.told.last(), Some(ServerToDevice::Snapshot(_))))
            .await;
        assert!(
            device
                .told
                .iter()
                .any(|frame| matches!(frame, ServerToDevice::Resync(_)))
        );
        let left = rig.sql("SELECT count(*) FROM todos").await;
        assert_eq!(device.image[&1].len().to_string(), left[0]);
    }
    assert!(device.cursor.unwrap() != good);
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_a_snapshot_that_was_cut_off_goes_on_where_it_was() {
    let limits = SyncLimits {
        chunk_bytes: 1,
        ..SyncLimits::default()
    };
    let rig = Rig::over(
        Node::start(),
        limits,
        "CREATE TABLE big (id text PRIMARY KEY, n integer, pad text); \
         INSERT INTO big SELECT 'k' || lpad(i::text, 6, '0'), i, repeat('x', 100) \
         FROM generate_series(1, 5000) AS i",
    )
    .await;
    let mut device = rig.device(1, &[shape(1, "big", Some("n > 0"))]).await;
    let mut rows = 0;
    let mut cuts = 0;
    loop {
        device.frame().await;
        if device.shapes[0].complete {
            break;
        }
        let Some(ServerToDevice::Snapshot(chunk)) = device.told.last() else {
            continue;
        };
        rows += chunk.rows.len();
        if cuts < 4 {
            cuts += 1;
            device.session = None;
            // Rows that it has, rows that it does not have yet.
            for (id, n) in [
                (cuts, -1),
                (cuts + 100, 7),
                (4990 + cuts, -1),
                (4980 + cuts, 8),
            ] {
                rig.sql(&format!(
                    "UPDATE big SET n = {n} WHERE id = 'k' || lpad('{id}', 6, '0')"
                ))
                .await;
            }
            rig.sql(&format!(
                "INSERT INTO big VALUES ('a{cuts}', 5, 'first'), ('z{cuts}', 6, 'last')"
            ))
            .await;
            device.connect(&rig).await.unwrap();
        }
    }
    device.settle(&rig).await;
    assert!(rows < 6000, "{rows} rows were sent");
    let expected = rig
        .sql("SELECT id, n FROM big WHERE n > 0 ORDER BY id COLLATE \"C\"")
        .await;
    let held: Vec<String> = (device.image[&1].iter())
        .map(|(id, row)| format!("{}|{}", id.trim_matches(['[', ']', '"']), row["n"]))
        .collect();
    assert_eq!(held, expected);
}

/// A snapshot that is cut off twice: what the device was told of the first absence, and went in the
/// second, is no net difference since the snapshot, and stayed on the device.
#[tokio::test(flavor = "multi_thread")]
async fn g4_a_snapshot_that_was_cut_off_twice_keeps_nothing_that_has_gone() {
    let limits = SyncLimits {
        chunk_bytes: 1,
        ..SyncLimits::default()
    };
    let rig = Rig::over(
        Node::start(),
        limits,
        "CREATE TABLE big (id text PRIMARY KEY, n integer, pad text); \
         INSERT INTO big SELECT 'k' || lpad(i::text, 6, '0'), i, repeat('x', 100) \
         FROM generate_series(1, 5000) AS i",
    )
    .await;
    rig.sql("UPDATE big SET n = -1 WHERE id = 'k000003'").await;
    let mut device = rig.device(1, &[shape(1, "big", Some("n > 0"))]).await;
    let is_chunk =
        |device: &Device| matches!(device.told.last(), Some(ServerToDevice::Snapshot(_)));
    device.until(is_chunk).await;
    device.session = None;
    rig.sql("INSERT INTO big VALUES ('a', 5, 'first')").await;
    rig.sql("UPDATE big SET n = 7 WHERE id = 'k000003'").await;
    device.connect(&rig).await.unwrap();
    let told = device.frame().await;
    let ServerToDevice::Delta(delta) = &told else {
        panic!("{told:?}")
    };
    assert_eq!(delta.changes.len(), 2, "{delta:?}");
    device.session = None;
    rig.sql("DELETE FROM big WHERE id = 'a'").await;
    rig.sql("UPDATE big SET n = -1 WHERE id = 'k000003'").await;
    device.connect(&rig).await.unwrap();
    device.settle(&rig).await;
    let held: Vec<&String> = device.image[&1].keys().collect();
    assert_eq!(held.len(), 4_999, "{:?}", held.first());
    assert!(!held.iter().any(|id| id.contains("k000003")));
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_shapes_come_and_go_while_others_write() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[shape(1, "todos", Some("list = 0"))]).await;
    device.settle(&rig).await;
    for round in 2..12 {
        rig.sql(&format!(
            "UPDATE todos SET title = 'r{round}', list = (list + 1) % 3"
        ))
        .await;
        device
            .subscribe(shape(round, "todos", Some("list = 1")))
            .await;
        device.settle(&rig).await;
        rig.sql(&format!("UPDATE todos SET title = 's{round}'"))
            .await;
        device.settle(&rig).await;
        let expected = rig
            .sql("SELECT id, list, title FROM todos WHERE list = 1 ORDER BY id")
            .await;
        assert_eq!(device.lines(round), expected);
        if round % 2 == 0 {
            device.unsubscribe(round).await;
        }
    }
    device
        .say(DeviceToServer::Resync(Resync {
            reason: ResyncReason::ImageDamaged,
            shapes: Vec::new(),
            definitions: true,
        }))
        .await
        .unwrap();
    device.frame().await;
    device.settle(&rig).await;
    let expected = rig
        .sql("SELECT id, list, title FROM todos WHERE list = 0 ORDER BY id")
        .await;
    assert_eq!(device.lines(1), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_definitions_come_in_order_and_end_on_the_servers_hash() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[shape(1, "todos", None)]).await;
    device.settle(&rig).await;
    for sql in [
        "CREATE TABLE more (id integer PRIMARY KEY, todo integer REFERENCES todos)",
        "ALTER TABLE todos ADD COLUMN note text",
        "CREATE INDEX by_title ON todos (title)",
        "CREATE VIEW v AS SELECT id FROM more",
        "CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE sql AS 'SELECT n * 2'",
        "ALTER TABLE todos RENAME COLUMN title TO headline",
        "DROP VIEW v",
        "DROP TABLE more",
    ] {
        rig.sql(sql).await;
        let version = rig.node.tenant().await.catalog().version;
        device.until(|device| device.catalog.0.0 == version).await;
        assert_eq!(device.catalog_hash(), device.catalog.1, "{sql}");
    }
    rig.sql("INSERT INTO todos VALUES (20, 0, 'headline', 'note')")
        .await;
    device
        .until(|device| device.image[&1].contains_key("[20]"))
        .await;
    assert_eq!(
        device.image[&1]["[20]"]["headline"],
        SyncValue::from("headline")
    );
    // One that was away ends on the same.
    let mut other = rig.device(2, &[]).await;
    other.until(|other| other.catalog == device.catalog).await;
    assert_eq!(other.catalog_hash(), device.catalog.1);
    // One that is up to date is told nothing.
    other.told.clear();
    let ack = other.connect(&rig).await.unwrap();
    assert_eq!((ack.catalog_version, ack.catalog_hash), other.catalog);
    rig.sql("CREATE TABLE last (id integer PRIMARY KEY)").await;
    other.frame().await;
    assert_eq!(other.told.len(), 1, "{:?}", other.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_a_device_that_connects_again_ends_its_older_session() {
    let rig = Rig::start(TODOS).await;
    let mut device = rig.device(1, &[]).await;
    let older = device.session.take().unwrap();
    let mut again = rig.device(1, &[]).await;
    device.session = Some(older);
    assert_eq!(device.closing().await.code, SyncErrorCode::TakenOver);
    assert_eq!(rig.sync.sessions(), 1);
    device.session = None;
    again.applied(vec![op("todos", 1, Verb::Delete)]).await;
    again.session = None;
    assert_eq!(rig.sync.sessions(), 0);
}
