//! Definitions that change between rows, and what each exit makes of it. Each test opens with what
//! went wrong; all but the plainest were found by `definitions_random`.

use springhead_engine::cdc::{Cdc, CdcLimits, Feed, FeedOptions, FeedSpec, Reader};
use springhead_engine::live::{
    Live, LiveEnd, LiveError, LiveEvent, LiveLimits, LiveRequest, Opened, Subscriber,
};
use springhead_proto::Cursor;

use crate::definitions_seen::user;
use crate::feeds::frames;
use crate::live::{Mirror, asked, drain, principal, subscriber};
use crate::support::{Client, Node};
use crate::sync::device::{Device, Rig, shape};

/// A live query: its rows as it has been told them, or that it is to begin anew.
struct Watched {
    mirror: Mirror,
    refetch: Option<String>,
}

impl Watched {
    fn new(sql: &str, opened: Opened) -> Watched {
        Watched {
            mirror: Mirror::new(sql, opened),
            refetch: None,
        }
    }

    fn take(&mut self, event: LiveEvent) {
        match event {
            LiveEvent::Change { delta, .. } => self.mirror.apply(&delta.entries),
            LiveEvent::Ended {
                end: LiveEnd::MustRefetch { message },
                ..
            } => self.refetch = Some(message),
            LiveEvent::Ended {
                end: LiveEnd::Failed(error),
                ..
            } => panic!("{}: {error:?}", self.mirror.sql),
            LiveEvent::Tick(_) | LiveEvent::Refetched { .. } => {}
        }
    }
}

/// Opens queries, runs a script of whole transactions, and compares; which of them are to begin anew.
async fn told(before: &str, queries: &[&str], script: &[&str]) -> Vec<bool> {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(before).await;
    let mut refetched = Vec::new();
    let mut all = Vec::new();
    for sql in queries {
        let mut subscriber = subscriber(&node, LiveLimits::default()).await;
        let opened = subscriber.open(&principal(), &asked(sql)).await.unwrap();
        all.push((subscriber, Watched::new(sql, opened)));
    }
    for step in script {
        client.ok(step).await;
    }
    let last = node.tenant().await.last_commit();
    for (mut subscriber, mut watched) in all {
        drain(&mut subscriber, last, |event| watched.take(event)).await;
        if watched.refetch.is_none() {
            same(&mut client, &watched.mirror).await;
        }
        refetched.push(watched.refetch.is_some());
    }
    refetched
}

async fn same(client: &mut Client, mirror: &Mirror) {
    let mut rows = client.lines(&mirror.sql).await;
    if !mirror.plan.ordered {
        rows.sort();
    }
    assert_eq!(mirror.lines(), rows, "{}", mirror.sql);
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, c text, n numeric(10, 2), f double precision);
    INSERT INTO t VALUES (1, 'a', 1.55, 1.4), (2, 'b', 2.5, 2.6)";

/// ALTER COLUMN … TYPE gives rows other values, of which the log has no images.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_values_that_a_change_of_type_converts_are_not_kept_as_they_were() {
    let queries = [
        "SELECT id, c FROM t",
        "SELECT id FROM t WHERE c = 'a'",
        "SELECT c, count(*) FROM t GROUP BY c",
        "SELECT a.id, b.id FROM t a JOIN t b ON b.c = a.c",
    ];
    let script = ["ALTER TABLE t ALTER COLUMN c TYPE text USING upper(c)"];
    assert_eq!(told(T, &queries, &script).await, [true, true, false, false]);
    let queries = [
        "SELECT id FROM t WHERE f > 1.5",
        "SELECT id FROM t WHERE f < 1.5 ORDER BY id",
        "SELECT sum(n) FROM t",
    ];
    let script = ["ALTER TABLE t ALTER COLUMN f TYPE int"];
    told(T, &queries, &script).await;
    let script = [
        "BEGIN; ALTER TABLE t ALTER COLUMN f TYPE int; ALTER TABLE t ALTER COLUMN n TYPE int;
         ALTER TABLE t ALTER COLUMN f TYPE double precision; ALTER TABLE t ALTER COLUMN n TYPE numeric(10, 2);
         COMMIT",
    ];
    told(T, &queries, &script).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_rows_of_a_form_that_came_and_went_in_one_transaction() {
    let queries = [
        "SELECT id, c FROM t",
        "SELECT c, count(*) FROM t GROUP BY c",
        "SELECT a.id, b.id FROM t a JOIN t b ON b.c = a.c",
    ];
    let script = [
        "BEGIN; ALTER TABLE t ADD COLUMN x int; INSERT INTO t VALUES (3, 'c', 3, 3, 3);
         UPDATE t SET c = 'z', x = 1 WHERE id = 1; ALTER TABLE t DROP COLUMN x;
         INSERT INTO t VALUES (4, 'd', 4, 4); COMMIT",
    ];
    assert_eq!(told(T, &queries, &script).await, [false; 3]);
}

/// The copies that joins and groups are evaluated on refused what the table took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_copies_refuse_no_row_that_constraints_allow_by_now() {
    const U: &str = "CREATE TABLE u (id int PRIMARY KEY, c text NOT NULL, d int, e int);
        ALTER TABLE u ADD CONSTRAINT once UNIQUE (d); CREATE UNIQUE INDEX one_e ON u (e);
        INSERT INTO u VALUES (1, 'a', 1, 1)";
    let queries = [
        "SELECT c, count(*) FROM u GROUP BY c",
        "SELECT a.id, b.id FROM u a JOIN u b ON b.d = a.d",
    ];
    for script in [
        "ALTER TABLE u ALTER COLUMN c DROP NOT NULL; INSERT INTO u VALUES (2, NULL, 2, 2)",
        "ALTER TABLE u DROP CONSTRAINT once; INSERT INTO u VALUES (2, 'b', 1, 2)",
        "DROP INDEX one_e; INSERT INTO u VALUES (2, 'b', 2, 1)",
    ] {
        // Rows in the commit of the definition, and in one after it. A group by a column that can be NULL
        // now is another query.
        let together = format!("BEGIN; {script}; COMMIT");
        let apart: Vec<&str> = script.split("; ").collect();
        for script in [&[together.as_str()][..], &apart] {
            assert!(!told(U, &queries, script).await[1], "{script:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_live_queries_of_a_standby_follow_definitions_that_came_in_one_piece() {
    let primary = Node::start();
    let mut client = primary.client().await;
    client.ok(T).await;
    let standby = primary.standby();
    let mut follower = standby.engine.follower().unwrap();
    follower.step().unwrap();
    let queries = [
        "SELECT id, c FROM t",
        "SELECT c, count(*) FROM t GROUP BY c",
        "SELECT a.id, b.id FROM t a JOIN t b ON b.c = a.c",
    ];
    let mut all = Vec::new();
    for sql in queries {
        let mut subscriber = subscriber(&standby, LiveLimits::default()).await;
        let opened = subscriber.open(&principal(), &asked(sql)).await.unwrap();
        all.push((subscriber, Watched::new(sql, opened)));
    }
    for sql in [
        "ALTER TABLE t ADD COLUMN x int",
        "INSERT INTO t VALUES (3, 'c', 3, 3, 3)",
        "ALTER TABLE t DROP COLUMN x",
        "INSERT INTO t VALUES (4, 'd', 4, 4)",
    ] {
        client.ok(sql).await;
    }
    let last = follower.step().unwrap();
    let mut reader = standby.client().await;
    for (mut subscriber, mut watched) in all {
        drain(&mut subscriber, last, |event| watched.take(event)).await;
        assert_eq!(watched.refetch, None);
        same(&mut reader, &watched.mirror).await;
    }
}

/// Resumes from a cursor across a script.
async fn resumed(before: &str, sql: &str, script: &[&str]) {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(before).await;
    let live = Live::new(node.engine.clone(), LiveLimits::default());
    let mut first = Subscriber::new(&live, node.tenant().await);
    let opened = first.open(&principal(), &asked(sql)).await.unwrap();
    let lsn = opened.lsn;
    let mut mirror = Mirror::new(sql, opened);
    drop(first);
    for step in script {
        client.ok(step).await;
    }
    let mut second = Subscriber::new(&live, node.tenant().await);
    let request = LiveRequest {
        cursor: Some(Cursor { lsn, epoch: None }),
        ..asked(sql)
    };
    match second.open(&principal(), &request).await {
        Ok(opened) => {
            if let Some(delta) = opened.delta {
                mirror.apply(&delta.entries);
            }
            same(&mut client, &mirror).await;
        }
        Err(LiveError::Refetch(_)) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_a_live_query_does_not_go_on_from_before_a_view_of_it_was_replaced() {
    let before = "CREATE TABLE t (id int PRIMARY KEY, c int);
        INSERT INTO t VALUES (1, 1), (2, 2);
        CREATE VIEW v AS SELECT id, c FROM t WHERE c > 1;
        CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x + 1'";
    let view = ["CREATE OR REPLACE VIEW v AS SELECT id, c + 0 AS c FROM t WHERE c > 0"];
    resumed(before, "SELECT id FROM v", &view).await;
    resumed(before, "SELECT c, count(*) FROM v GROUP BY c", &view).await;
    let function = [
        "CREATE OR REPLACE FUNCTION f(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x + 2'",
    ];
    resumed(before, "SELECT id, f(c) FROM t", &function).await;
    resumed(before, "SELECT count(*) FROM t WHERE f(c) = 3", &function).await;
}

/// A device's shape of some columns, whose values a change of type converts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_a_shape_whose_values_were_converted_begins_anew() {
    let rig = Rig::start(
        "CREATE TABLE t (id int PRIMARY KEY, c text); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    .await;
    let shapes = [shape(1, "t", None), shape(2, "t", Some("c = 'a'"))];
    let mut device = rig.device(1, &shapes).await;
    device.settle(&rig).await;
    let mut away = Device::new(2, "tester", &shapes);
    away.connect(&rig).await.unwrap();
    away.settle(&rig).await;
    away.session = None;
    rig.sql("ALTER TABLE t ALTER COLUMN c TYPE text USING upper(c); INSERT INTO t VALUES (3, 'c')")
        .await;
    away.connect(&rig).await.unwrap();
    device.rest().await;
    away.rest().await;
    for device in [&device, &away] {
        assert_eq!(device.lines(1), ["1|A", "2|B", "3|c"]);
        assert!(device.lines(2).is_empty());
    }
}

/// A shape that was asked for while definitions changed, twice in a row, ended: as if it were wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_a_shape_that_is_asked_for_while_definitions_change_comes_all_the_same() {
    let rig = Rig::start(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text); INSERT INTO t VALUES (1, 'a', 'b', 'c')",
    )
    .await;
    let mut client = rig.node.client().await;
    let defining = async {
        for round in 0..60 {
            client
                .ok(&format!(
                    "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a text DEFAULT '{round}'"
                ))
                .await;
        }
    };
    let asking = async {
        let mut devices = Vec::new();
        for number in 1..=40 {
            let mut device = Device::new(number, "tester", &[shape(1, "t", None)]);
            device.connect(&rig).await.unwrap();
            device.rest().await;
            devices.push(device);
        }
        devices
    };
    let ((), mut devices) = tokio::join!(defining, asking);
    for device in &mut devices {
        device.rest().await;
        assert_eq!(device.ended.get(&1), None, "{:?}", device.told);
        let row = &device.image[&1]["[1]"];
        let row: Vec<String> = row
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(row, ["a=59", "b=b", "c=c"]);
    }
}

/// The feed of the definitions themselves found none of them on disk: they are changes of the tables that
/// they are about, and its commits were looked for under its own number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_the_feed_of_definitions_has_those_that_are_read_from_disk() {
    let node = Node::on_disk(|_| {});
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t; ALTER TABLE t ADD COLUMN x int").await;
    let shown = |rows: Vec<String>| rows.len();
    let sql = "SHOW CHANGES FOR springhead.definitions";
    let before = shown(client.lines(sql).await);
    assert_eq!(before, 3);
    drop(client);
    let node = node.reopen();
    let mut client = node.client().await;
    assert_eq!(shown(client.lines(sql).await), before);
}

/// A feed of a reader with rights of its own looked its table up by name again whenever definitions had
/// changed, and went over to another that had come to the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_feed_stays_with_its_table_when_names_are_swapped() {
    let node = Node::start();
    let mut client = node.client().await;
    for sql in [
        "CREATE ROLE boss LOGIN SUPERUSER",
        "CREATE ROLE ann LOGIN",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE u (id int PRIMARY KEY)",
        "GRANT SELECT ON t, u TO ann",
    ] {
        client.ok(sql).await;
    }
    let cdc = Cdc::new(node.engine.clone(), CdcLimits::default());
    let mut feeds = Vec::new();
    for who in ["boss", "ann"] {
        let options = FeedOptions {
            reader: Reader::new(&user(who)),
            spec: FeedSpec {
                collection: Some("t".to_owned()),
                ..FeedSpec::default()
            },
            start: None,
            snapshot: false,
            consumer: None,
        };
        let feed = Feed::open(&cdc, node.tenant().await, options).await;
        feeds.push(feed.unwrap());
    }
    client.ok("INSERT INTO t VALUES (1)").await;
    client
        .ok("BEGIN; ALTER TABLE t RENAME TO v; ALTER TABLE u RENAME TO t; COMMIT")
        .await;
    client.ok("INSERT INTO t VALUES (20)").await;
    client.ok("INSERT INTO v VALUES (2)").await;
    for feed in &mut feeds {
        let inserted = |all: &[(String, serde_json::Value)]| -> Vec<String> {
            (all.iter().filter(|(event, _)| event == "insert"))
                .map(|(_, event)| format!("{} {}", event["collection"], event["document_id"]))
                .collect()
        };
        let found = frames(feed, |all| inserted(all).len() == 2).await;
        assert_eq!(inserted(&found), ["\"t\" \"1\"", "\"v\" \"2\""]);
    }
}

/// A table's primary key went, or came: queries that rows are looked up for by their keys went on with
/// those that had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_live_queries_notice_that_a_table_has_another_key() {
    let queries = [
        "SELECT c, count(*) FROM t GROUP BY c",
        "SELECT count(*), max(id) FROM t",
        "SELECT id FROM t EXCEPT SELECT id FROM t WHERE c = 'a'",
    ];
    let drop = [
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
        "INSERT INTO t VALUES (2, 'a', 1, 1)",
    ];
    assert_eq!(told(T, &queries, &drop).await, [true; 3]);
    let without = format!("{T}; ALTER TABLE t DROP CONSTRAINT t_pkey");
    let add = [
        "ALTER TABLE t ADD PRIMARY KEY (id)",
        "INSERT INTO t VALUES (3, 'a', 1, 1)",
    ];
    assert_eq!(told(&without, &queries, &add).await, [true; 3]);
    // For a time, in one transaction.
    let again = [
        "BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET id = 7 WHERE id = 1;
         ALTER TABLE t ADD PRIMARY KEY (id); UPDATE t SET c = 'z' WHERE id = 2; COMMIT",
    ];
    let filters = ["SELECT id, c FROM t", "SELECT c FROM t WHERE id > 1"];
    assert_eq!(told(T, &filters, &again).await, [true; 2]);
    told(T, &queries, &again).await;
}
