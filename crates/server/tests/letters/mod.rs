//! Dead letters put into a server's directory, and what is counted of them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use springhead_engine::dead_letters::{Author, Recorded, Refused};
use springhead_engine::{Engine, EngineConfig, Entropy};
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Clock, SystemClock};
use springhead_proto::sync::{
    CatalogVersion, Generation, Mutation, Operation, ProducerId, Push, Seq, SyncValue, Verb, body,
};
use springhead_proto::{Cursor, Lsn, TenantId};
use springhead_sim::fixture::Fixture;

pub const TABLES: &str = "
    CREATE TABLE dropped (id int PRIMARY KEY, n int);
    CREATE TABLE escalated (id int PRIMARY KEY, n int);
    CREATE TABLE forced (id int PRIMARY KEY, n int);
    CREATE TABLE retried (id int PRIMARY KEY, n int);
    INSERT INTO dropped VALUES (1, 0);
    INSERT INTO escalated VALUES (1, 0);
    INSERT INTO forced VALUES (1, 0);
    INSERT INTO retried VALUES (1, 0);";

/// Nothing here needs chance.
struct Zeroes;

impl Entropy for Zeroes {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

fn delta(seq: u64, operation: &Operation) -> Vec<u8> {
    let producer = ProducerId(1);
    body::to_bytes(&Push {
        producer,
        generation: Generation(1),
        mutations: vec![Mutation {
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
            operations: vec![operation.clone()],
        }],
    })
}

pub fn refused(seq: u64, violation: &str, operation: &Operation) -> Refused {
    Refused {
        session_id: Some("s1".to_owned()),
        author: Author {
            username: "ann".to_owned(),
            uid: "ann".to_owned(),
            claims: None,
        },
        collection: operation.collection.clone(),
        document_id: Some(operation.id[0].to_string()),
        mutation_id: seq,
        peer_id: ProducerId(1).to_string(),
        delta: delta(seq, operation),
        violation: violation.to_owned(),
        remote_addr: Some("127.0.0.1".to_owned()),
        ..Refused::default()
    }
}

/// Adds one to a counter: applied twice, it shows.
pub fn count(collection: &str) -> Operation {
    Operation {
        collection: collection.to_owned(),
        id: vec![SyncValue::Integer(1)],
        verb: Verb::Inc([("n", SyncValue::Integer(1))].into_iter().collect()),
    }
}

/// Records rejections in the directory of a server that is not running.
pub fn seed(fixture: &Fixture, letters: Vec<Refused>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let directory = fixture.data_dir().join("log");
        let log = SegmentLog::open(&directory, SegmentConfig::default(), Arc::clone(&clock));
        let engine = Engine::open(
            EngineConfig::new(fixture.data_dir()),
            Arc::new(log.expect("the log opens")),
            clock,
            Arc::new(Zeroes),
        )
        .expect("the engine opens");
        let tenant = engine.tenant(TenantId::DEFAULT).await.expect("the tenant");
        let recorded = letters
            .into_iter()
            .map(|letter| tenant.record_dead_letter(letter));
        for recorded in futures_util::future::join_all(recorded).await {
            let (recorded, _) = recorded.expect("recorded");
            assert!(matches!(recorded, Recorded::Kept { .. }), "{recorded:?}");
        }
        drop(tenant);
        tokio::task::spawn_blocking(move || engine.shutdown())
            .await
            .expect("an orderly end");
    });
}

pub fn one(fixture: &Fixture, sql: &str) -> i64 {
    let rows = fixture.sql(sql);
    let text = rows[0][0].clone().expect("a number");
    text.parse().expect("a number")
}

pub fn check_totals(fixture: &Fixture) {
    let wrong = fixture.sql(
        "SELECT * FROM springhead.dead_letter_totals \
         WHERE enqueued <> resolved + expired + escalated + unresolved",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    let unresolved = "SELECT count(*) FROM springhead.dead_letters WHERE NOT resolved";
    let total = "SELECT sum(unresolved) FROM springhead.dead_letter_totals WHERE collection = ''";
    assert_eq!(one(fixture, unresolved), one(fixture, total));
    let escalated = "SELECT count(DISTINCT dead_letter_id) FROM springhead.escalations";
    let total = "SELECT sum(escalated) FROM springhead.dead_letter_totals WHERE collection = ''";
    assert_eq!(one(fixture, escalated), one(fixture, total));
}

/// Waits until a collection of Springhead's own has no row of a kind any more, by its feed.
pub fn wait_until_none(fixture: &Fixture, collection: &str, kind: &str) {
    let left = format!("SELECT count(*) FROM springhead.{collection} WHERE {kind}");
    let feed = format!("/cdc/springhead.{collection}/poll?limit=10000");
    let mut position = "since_ms=9007199254740991".to_owned();
    loop {
        let page = fixture.get(&format!("{feed}&{position}&wait_ms=0")).json();
        let cursor = page["next_cursor"]["cursor"].as_str().expect("a cursor");
        position = format!("cursor={cursor}");
        if one(fixture, &left) == 0 {
            return;
        }
        let changed = fixture.get(&format!("{feed}&{position}&wait_ms=10000"));
        assert_eq!(changed.status, 200, "{}", changed.text());
    }
}
