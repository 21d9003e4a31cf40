//! A lone client may be answered once its commit is durable, before it is in the state file. Nobody
//! may notice but by the clock: docs/adr/0006-reply-and-commit.md.

use springhead_engine::cdc::{Cdc, CdcLimits, FeedSpec, PollOptions, Start};
use springhead_proto::ErrorCode;

use crate::support::{Node, rows_of, tail_from};

/// A node with a table, and two clients of which the first is answered ahead.
async fn clients() -> (Node, crate::support::Client, crate::support::Client) {
    let node = Node::start();
    let (mut first, second) = (node.client().await, node.client().await);
    first.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    first.session.run_ahead();
    (node, first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_whoever_reads_after_an_answer_sees_what_was_answered() {
    let (node, mut writer, mut reader) = clients().await;
    let tenant = node.tenant().await;
    let mut ahead = 0;
    for id in 1..=200 {
        let lsn = writer.ok(&format!("INSERT INTO t VALUES ({id})")).await.lsn;
        ahead += u64::from(tenant.visible() < lsn);
        let counted = tokio::spawn(async move {
            let count = reader.one("SELECT count(*) FROM t").await;
            (reader, count)
        });
        // The reader may already wait for this.
        writer.session.catch_up();
        let count;
        (reader, count) = counted.await.unwrap();
        assert_eq!(count, id.to_string());
        assert!(tenant.visible() >= lsn);
    }
    assert!(ahead > 150, "only {ahead} of 200 were answered ahead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_whoever_comes_next_finishes_what_was_left() {
    let (node, mut writer, mut other) = clients().await;
    let tenant = node.tenant().await;
    // The same session's next statement, another's write, a transaction, the session's end.
    writer.ok("INSERT INTO t VALUES (1)").await;
    assert_eq!(writer.one("SELECT count(*) FROM t").await, "1");
    writer.ok("INSERT INTO t VALUES (2)").await;
    assert_eq!(
        other.fails("INSERT INTO t VALUES (2)", "23505").await.code,
        ErrorCode::UniqueViolation
    );
    assert_eq!(other.one("SELECT count(*) FROM t").await, "2");
    writer.ok("INSERT INTO t VALUES (3)").await;
    other
        .ok("BEGIN; UPDATE t SET id = 30 WHERE id = 3; COMMIT")
        .await;
    let lsn = writer.ok("INSERT INTO t VALUES (4)").await.lsn;
    drop(writer);
    assert!(tenant.visible() >= lsn);
    assert_eq!(
        other.lines("SELECT id FROM t ORDER BY id").await,
        ["1", "2", "4", "30"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_what_is_left_unfinished_reaches_tails_once_and_in_order() {
    let (node, mut writer, _) = clients().await;
    let tenant = node.tenant().await;
    let from = tenant.visible();
    for id in 1..=20 {
        writer.ok(&format!("INSERT INTO t VALUES ({id})")).await;
    }
    writer.session.catch_up();
    let seen = tail_from(&tenant, from).await;
    assert_eq!(rows_of(&seen).len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_an_answer_given_ahead_survives_the_end_of_the_process() {
    let (node, mut writer, _) = clients().await;
    writer.ok("INSERT INTO t VALUES (1)").await;
    assert!(node.tenant().await.visible() < node.tenant().await.acknowledged());
    // Nothing of the writer gets to run any more: another node on the same log is what a restart sees.
    let replayed = node.replayed_elsewhere();
    assert_eq!(
        replayed.client().await.one("SELECT count(*) FROM t").await,
        "1"
    );
    writer.session.catch_up();
}

/// "From now" is after whatever anyone has been told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_feed_from_now_begins_after_what_was_answered() {
    let (node, mut writer, _) = clients().await;
    let cdc = Cdc::new(node.engine.clone(), CdcLimits::default());
    writer.ok("INSERT INTO t VALUES (1)").await;
    let tenant = node.tenant().await;
    let opening = tokio::spawn(async move {
        let options = PollOptions {
            reader: springhead_engine::cdc::Reader::new(
                &springhead_engine::access::Principal::unrestricted("tester"),
            ),
            spec: FeedSpec::default(),
            start: Some(Start::Now),
            limit: 10,
            consumer: None,
        };
        springhead_engine::cdc::Poll::open(&cdc, tenant, options)
            .await
            .unwrap()
            .cursor()
    });
    writer.session.catch_up();
    assert!(opening.await.unwrap().lsn >= node.tenant().await.last_commit());
}
