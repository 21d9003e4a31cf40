//! A standby's engine: it ends up with exactly what its primary has, whatever was run there; it takes
//! no write until it leads; and what a node applied of a history that is none any more can be undone.

use std::sync::Arc;

use proptest::prelude::*;
use springhead_engine::cdc::{Cdc, CdcLimits, FeedSpec, Poll, PollOptions, Reader, Start};
use springhead_engine::undo::{Undone, undo_past};
use springhead_log::Log;
use springhead_log::disk::RealDisk;
use springhead_log::memory::MemoryLog;
use springhead_log::segment::truncate;
use springhead_proto::{Cursor, ErrorCode, Lsn, TenantId};

use crate::live::principal;
use crate::replay::{FORMS, Step, TABLES, cases, statement, try_run};
use crate::support::{Counting, Node, drain, dump};

/// Forms of statements that change rows and numbers alone: what can be undone.
const ROW_FORMS: [u8; 23] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 22, 23, 40,
];

/// A state file without what a fork does not take back: how far it is.
fn rows(node: &Node) -> Vec<String> {
    dump(&node.state_file(TenantId::DEFAULT))
        .into_iter()
        .filter(|line| !line.starts_with("s_meta:"))
        .collect()
}

async fn followed(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let primary = Node::with(|config| config.capture_memory_bytes = 2000);
    let mut client = primary.client().await;
    let standby = primary.standby();
    let mut follower = standby.engine.follower().unwrap();
    let mut tail = standby.tenant().await.tail(Lsn::ZERO, Vec::new());
    client.ok(TABLES).await;
    for (n, step) in steps.into_iter().enumerate() {
        try_run(&mut client, &statement(step)).await?;
        if n % 7 == 0 {
            follower.step().unwrap();
        }
    }
    client.session.reset().await;
    let applied = follower.step().unwrap();
    prop_assert_eq!(applied, primary.log.tail().durable);
    prop_assert_eq!(standby.tenant().await.visible(), applied);
    prop_assert_eq!(
        dump(&standby.state_file(TenantId::DEFAULT)),
        dump(&primary.state_file(TenantId::DEFAULT))
    );
    // Its tails have shown all of it, in order.
    let seen = drain(&mut tail).await.unwrap();
    prop_assert!(seen.windows(2).all(|pair| pair[0].lsn < pair[1].lsn));
    // And it goes on from there once it leads.
    let mut client = standby.client().await;
    let refused = client
        .run("INSERT INTO child (n) VALUES (1)")
        .await
        .unwrap_err();
    prop_assert_eq!(refused.code, ErrorCode::ReadOnlyTransaction);
    let leading = standby.engine.clone();
    std::thread::spawn(move || leading.lead().unwrap())
        .join()
        .unwrap();
    try_run(&mut client, "INSERT INTO child (n) VALUES (1)").await?;
    try_run(&mut client, "CREATE TABLE fresh (id serial PRIMARY KEY)").await?;
    client.ok("INSERT INTO fresh DEFAULT VALUES").await;
    prop_assert_eq!(client.one("SELECT count(*) FROM fresh").await, "1");
    Ok(())
}

async fn undone(before: Vec<Step>, after: Vec<Step>) -> Result<(), TestCaseError> {
    let node = Node::with(|config| config.capture_memory_bytes = 2000);
    let mut client = node.client().await;
    client.ok(TABLES).await;
    for step in before {
        try_run(&mut client, &statement(step)).await?;
        client.session.reset().await;
    }
    // What failed in a block of its own is over.
    client.session.reset().await;
    let fork = node.log.tail().durable;
    let expected = rows(&node);
    for (form, x, y) in after {
        let form = ROW_FORMS[usize::from(form) % ROW_FORMS.len()];
        try_run(&mut client, &statement((form, x, y))).await?;
        client.session.reset().await;
    }
    drop(client);
    let full = rows(&node);
    let (log, clock) = (Arc::clone(&node.log), Arc::clone(&node.clock));
    let mut found = None;
    let node = node
        .try_reopen(|config| {
            let done = undo_past(config, &*log, clock, Arc::new(Counting::default()), fork);
            let state = springhead_engine::state::state_file(config, TenantId::DEFAULT);
            found = Some((done.unwrap(), dump(&state)));
        })
        .unwrap();
    let (done, lines) = found.expect("it was looked at");
    prop_assert!(matches!(done, Undone::Done { .. }), "{:?}", done);
    let lines: Vec<String> = lines
        .into_iter()
        .filter(|line| !line.starts_with("s_meta:"))
        .collect();
    prop_assert_eq!(lines, expected, "taken back to LSN {}", fork);
    // Forth again, by the same log.
    prop_assert_eq!(rows(&node), full);
    Ok(())
}

/// A state was taken back while somebody still read it, a session of the node that was about to be opened
/// again. What was undone stayed in the WAL, the file was at a later LSN, and the next opening called that
/// damage.
#[tokio::test]
async fn g5_a_state_that_is_still_read_is_taken_back_and_is_no_damage() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("INSERT INTO t VALUES (1)").await;
    let fork = node.log.tail().durable;
    client.ok("INSERT INTO t VALUES (2)").await;
    drop(client);
    let (log, clock) = (Arc::clone(&node.log), Arc::clone(&node.clock));
    let mut reading = None;
    let node = node
        .try_reopen(|config| {
            let state = springhead_engine::state::state_file(config, TenantId::DEFAULT);
            let reader = rusqlite::Connection::open(&state).unwrap();
            reader.execute_batch("BEGIN; SELECT * FROM s_meta").unwrap();
            let done = undo_past(config, &*log, clock, Arc::new(Counting::default()), fork);
            assert!(matches!(done.unwrap(), Undone::Done { changes: 1, .. }));
            assert!(state.with_extension("undone").exists());
            reading = Some(reader);
        })
        .unwrap();
    // Forth again, by the same log.
    let mut client = node.client().await;
    assert_eq!(client.one("SELECT count(*) FROM t").await, "2");
    drop((client, reading));
    let node = node.try_reopen(|_| ()).unwrap();
    let state = node.state_file(TenantId::DEFAULT);
    assert!(!state.with_extension("undone").exists());
}

#[tokio::test]
async fn g5_a_definition_past_the_fork_takes_a_base_backup() {
    for sql in ["ALTER TABLE comp ADD COLUMN more int", "TRUNCATE comp"] {
        let node = Node::start();
        let mut client = node.client().await;
        client.ok(TABLES).await;
        let fork = node.log.tail().durable;
        client.ok(sql).await;
        drop(client);
        let (log, clock) = (Arc::clone(&node.log), Arc::clone(&node.clock));
        let mut done = None;
        node.try_reopen(|config| {
            let entropy = Arc::new(Counting::default());
            done = Some(undo_past(config, &*log, clock, entropy, fork).unwrap());
        })
        .unwrap();
        assert!(
            matches!(done, Some(Undone::NeedsBaseBackup(_))),
            "{sql}: {done:?}"
        );
    }
}

/// What a node that came back said of its sequences was what it had lost: numbers that it had set itself,
/// lower than what the new primary had given out. Once it led again, it gave those a second time.
#[tokio::test]
async fn g5_what_was_drawn_and_set_past_the_fork_is_taken_back() {
    let node = Node::on_disk(|_| {});
    let mut client = node.client().await;
    client
        .ok("CREATE SEQUENCE s; CREATE SEQUENCE fresh; CREATE TABLE t (id serial PRIMARY KEY, n int)")
        .await;
    client
        .ok("INSERT INTO t (n) VALUES (1), (2), (3); SELECT setval('s', 50)")
        .await;
    let (fork, expected) = (node.log.tail().durable, rows(&node));
    client
        .ok("SELECT setval('s', 1); SELECT setval('t_id_seq', 1, false); SELECT nextval('fresh')")
        .await;
    drop(client);
    let stopped = node.stop();
    let log = stopped.open_log(false);
    let (clock, entropy) = (stopped.clock(), Arc::new(Counting::default()));
    let done = undo_past(stopped.config(), &*log, clock, entropy, fork).unwrap();
    assert!(
        matches!(
            done,
            Undone::Done {
                tenants: 1,
                changes: 3
            }
        ),
        "{done:?}"
    );
    log.close();
    drop(log);
    truncate(&RealDisk, &stopped.log_dir(), fork).unwrap();
    let node = stopped.start(false).unwrap();
    assert_eq!(rows(&node), expected);
    let mut client = node.client().await;
    assert_eq!(client.one("SELECT nextval('s')").await, "51");
    assert_eq!(client.one("SELECT nextval('fresh')").await, "1");
    client.ok("INSERT INTO t (n) VALUES (4)").await;
}

/// A tenant's files go as it is dropped. Where the drop was past the fork the tenant was listed again, and
/// with a log that no longer goes back to its beginning nobody could open it any more.
#[tokio::test]
async fn g5_a_tenant_dropped_past_the_fork_takes_a_base_backup() {
    let node = Node::retaining(0, |_| {});
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    client
        .ok("CREATE TABLE t (id serial PRIMARY KEY, a text)")
        .await;
    while node.log.earliest() <= Lsn::FIRST {
        client
            .ok("INSERT INTO t (a) VALUES (repeat('x', 20000))")
            .await;
        node.engine.maintain().unwrap();
    }
    let fork = node.log.tail().durable;
    client.ok("DROP DATABASE shop").await;
    drop(client);
    let stopped = node.stop();
    let log = stopped.open_log(false);
    // A second time after a crash, too.
    for _ in 0..2 {
        let (clock, entropy) = (stopped.clock(), Arc::new(Counting::default()));
        let done = undo_past(stopped.config(), &*log, clock, entropy, fork).unwrap();
        let Undone::NeedsBaseBackup(why) = done else {
            panic!("{done:?}")
        };
        assert!(why.starts_with("tenant 2 was dropped after LSN"), "{why}");
    }
}

fn steps(forms: u8) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..forms, 0u8..12, 0u8..100), 5..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 2, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g11_a_standby_has_what_its_primary_has(steps in steps(FORMS)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        runtime.block_on(followed(steps))?;
    }

    #[test]
    fn g5_a_state_is_taken_back_to_the_fork_exactly(before in steps(FORMS), after in steps(40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(undone(before, after))?;
    }
}

/// A new primary's cursor may be of an epoch that the standby which is asked next has not heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_standby_waits_for_the_epoch_of_a_new_primarys_cursor() {
    let primary = Node::start();
    primary
        .client()
        .await
        .ok("CREATE TABLE t (id int PRIMARY KEY)")
        .await;
    let standby = primary.standby();
    let mut follower = standby.engine.follower().unwrap();
    follower.step().unwrap();
    let tail = primary.log.tail();
    // The log in memory calls its epochs the same each time.
    let next = MemoryLog::new(tail.epoch).begin_epoch().unwrap().epoch;
    let cursor = Cursor {
        epoch: Some(next),
        lsn: tail.durable,
    };
    let cdc = Cdc::new(standby.engine.clone(), CdcLimits::default());
    let options = PollOptions {
        reader: Reader::new(&principal()),
        spec: FeedSpec::default(),
        start: Some(Start::After(cursor)),
        limit: 10,
        consumer: None,
    };
    let mut opening = Box::pin(Poll::open(&cdc, standby.tenant().await, options));
    let soon = std::time::Duration::from_millis(100);
    let early = tokio::time::timeout(soon, &mut opening).await;
    assert!(
        early.is_err(),
        "{:?}",
        early.map(|opened| opened.err().map(|error| error.to_string()))
    );
    assert_eq!(primary.log.begin_epoch().unwrap().epoch, next);
    follower.step().unwrap();
    assert!(opening.await.is_ok(), "no change was needed");
}
