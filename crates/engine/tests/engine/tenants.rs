//! Tenants: made, dropped, closed when idle, opened again; and what the log keeps for them.

use std::time::Duration;

use springhead_engine::TailError;
use springhead_proto::{Lsn, TenantId};

use crate::support::{Node, dump, until};

#[tokio::test]
async fn names_are_used_again_and_ids_never() {
    let mut node = Node::start();
    let mut client = node.client().await;
    assert_eq!(
        node.engine.tenant_id("postgres").unwrap(),
        TenantId::DEFAULT
    );
    assert_eq!(
        node.engine.tenant_id("shop").unwrap_err().code.sqlstate().0,
        "3D000"
    );
    client.ok("CREATE DATABASE shop").await;
    let first = node.engine.tenant_id("shop").unwrap();
    client.fails("CREATE DATABASE shop", "42P04").await;
    node.client_of("shop")
        .await
        .ok("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    client.ok("DROP DATABASE shop").await;
    assert_eq!(
        node.engine.tenant_id("shop").unwrap_err().code.sqlstate().0,
        "3D000"
    );
    assert_eq!(
        node.engine
            .tenant(first)
            .await
            .err()
            .unwrap()
            .code
            .sqlstate()
            .0,
        "3D000"
    );
    client.ok("CREATE DATABASE shop").await;
    let second = node.engine.tenant_id("shop").unwrap();
    assert!(second > first);
    node.client_of("shop")
        .await
        .fails("SELECT * FROM t", "42P01")
        .await;
    client.ok("DROP DATABASE shop").await;
    drop(client);
    node = node.reopen();
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    assert!(
        node.engine.tenant_id("shop").unwrap() > second,
        "also across a restart"
    );
    client.fails("DROP DATABASE \"default\"", "55006").await;
    client.fails("DROP DATABASE postgres", "55006").await;
    client.fails("DROP DATABASE nothing", "3D000").await;
    assert_eq!(
        client.ok("DROP DATABASE IF EXISTS nothing").await.notices,
        ["database \"nothing\" does not exist, skipping"]
    );
    client.fails("BEGIN; CREATE DATABASE x", "25001").await;
}

#[tokio::test]
async fn a_database_in_use_is_not_dropped() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    let inside = node.client_of("shop").await;
    let error = client.fails("DROP DATABASE shop", "55006").await;
    assert_eq!(
        error.message,
        "database \"shop\" is being accessed by other users"
    );
    assert_eq!(
        error.detail.as_deref(),
        Some("There are 1 other sessions using the database.")
    );
    drop(inside);
    client.ok("DROP DATABASE shop").await;
}

#[tokio::test]
async fn g5_feeds_of_a_dropped_tenant_are_told_and_its_files_are_gone() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    let id = node.engine.tenant_id("shop").unwrap();
    node.client_of("shop")
        .await
        .ok("CREATE TABLE t (id int PRIMARY KEY)")
        .await;
    let tenant = node.engine.tenant(id).await.unwrap();
    let mut waiting = tenant.tail(tenant.visible(), Vec::new());
    let mut behind = tenant.tail(Lsn::ZERO, Vec::new());
    let waits = tokio::spawn(async move { waiting.next().await.err() });
    tokio::task::yield_now().await;
    client.ok("DROP DATABASE shop").await;
    assert!(matches!(
        waits.await.unwrap(),
        Some(TailError::TenantDropped)
    ));
    assert!(matches!(
        behind.try_next().await,
        Err(TailError::TenantDropped)
    ));
    assert!(!node.state_file(id).exists());
}

/// Whoever asked for a tenant while it was being dropped opened it again afterwards: its state came
/// back from the log, files and all.
#[tokio::test]
async fn g6_a_tenant_asked_for_while_it_is_dropped_does_not_come_back() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    let id = node.engine.tenant_id("shop").unwrap();
    node.client_of("shop")
        .await
        .ok("CREATE TABLE t (id int PRIMARY KEY)")
        .await;
    node.log.hold();
    let dropping = tokio::spawn(async move { client.ok("DROP DATABASE shop").await });
    node.log.held().await;
    let engine = node.engine.clone();
    let asking = tokio::spawn(async move { engine.tenant(id).await.err() });
    tokio::task::yield_now().await;
    node.log.release();
    dropping.await.unwrap();
    assert_eq!(
        asking.await.unwrap().expect("it is gone").code.sqlstate().0,
        "3D000"
    );
    assert!(!node.state_file(id).exists());
}

#[tokio::test]
async fn idle_tenants_are_closed_and_open_again_as_they_were() {
    let node = Node::with(|config| config.tenant_idle = Duration::from_secs(60));
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    let id = node.engine.tenant_id("shop").unwrap();
    let is_open = |node: &Node| {
        node.engine
            .tenants()
            .iter()
            .any(|tenant| tenant.id == id && tenant.open)
    };
    let mut inside = node.client_of("shop").await;
    inside
        .ok("CREATE TABLE t (id serial PRIMARY KEY, v text)")
        .await;
    inside.ok("INSERT INTO t (v) VALUES ('a')").await;
    node.clock.advance(61_000);
    node.engine.maintain().unwrap();
    assert!(is_open(&node), "somebody is connected");
    drop(inside);
    let tenant = node.engine.tenant(id).await.unwrap();
    let tail = tenant.tail(tenant.visible(), Vec::new());
    drop(tenant);
    node.clock.advance(61_000);
    node.engine.maintain().unwrap();
    assert!(is_open(&node), "somebody follows it");
    drop(tail);
    // Its writer may still be about to notice that there is nothing more to do.
    until(|| {
        node.engine.maintain().unwrap();
        !is_open(&node)
    })
    .await;
    let before = dump(&node.state_file(id));
    let mut inside = node.client_of("shop").await;
    assert_eq!(inside.lines("SELECT v FROM t").await, ["a"]);
    assert!(is_open(&node));
    assert_eq!(dump(&node.state_file(id)), before);
    inside.ok("INSERT INTO t (v) VALUES ('b')").await;
    assert_eq!(inside.one("SELECT count(DISTINCT id) FROM t").await, "2");
}

/// The names of those that are open.
fn open(node: &Node) -> Vec<String> {
    let tenants = node.engine.tenants().into_iter();
    tenants
        .filter(|tenant| tenant.open)
        .map(|tenant| tenant.name)
        .collect()
}

#[tokio::test]
async fn no_more_tenants_stay_open_than_may() {
    let node = Node::with(|config| config.open_tenants = 3);
    let mut client = node.client().await;
    for n in 0..8 {
        client.ok(&format!("CREATE DATABASE d{n}")).await;
        node.clock.advance(10);
    }
    until(|| {
        node.engine.maintain().unwrap();
        open(&node).len() <= 3
    })
    .await;
    assert_eq!(open(&node)[0], "default", "it is in use");
    assert_eq!(node.engine.status().tenants, 9);
}

#[tokio::test]
async fn who_opens_many_tenants_closes_as_many_without_waiting_for_maintenance() {
    let node = Node::with(|config| config.open_tenants = 16);
    let mut client = node.client().await;
    let mut most = 0;
    for n in 0..60 {
        client.ok(&format!("CREATE DATABASE d{n}")).await;
        node.clock.advance(10);
        most = most.max(open(&node).len());
    }
    let in_use = node.client_of("d3").await;
    for n in 0..60 {
        let id = node.engine.tenant_id(&format!("d{n}")).unwrap();
        node.engine.tenant(id).await.unwrap();
        node.clock.advance(10);
        most = most.max(open(&node).len());
    }
    // Those that may be open, those opened until somebody looks, and the last one.
    assert!(most <= 16 + 2 + 1, "{most} were open at once");
    let open = open(&node);
    assert_eq!(open[0], "default");
    assert_eq!(open[1], "d3", "somebody is connected");
    assert_eq!(open.last().unwrap(), "d59", "the last one used");
    drop(in_use);
}

#[tokio::test]
async fn g1_log_is_trimmed_only_when_every_state_has_it() {
    let node = Node::retaining(100_000, |config| {
        config.tenant_idle = Duration::from_secs(1);
        config.tail_memory_bytes = 1000;
    });
    let mut client = node.client().await;
    client.ok("CREATE DATABASE shop").await;
    let mut inside = node.client_of("shop").await;
    inside.ok("CREATE TABLE kept (id int PRIMARY KEY)").await;
    inside.ok("INSERT INTO kept VALUES (1)").await;
    drop(inside);
    client
        .ok("CREATE TABLE t (id serial PRIMARY KEY, v text)")
        .await;
    for _ in 0..100 {
        client
            .ok("INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 10)")
            .await;
    }
    // A reader in the way of the checkpoint holds the trim up, and only it.
    client.ok("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    client.ok("SELECT count(*) FROM t").await;
    let mut other = node.client().await;
    other.ok("INSERT INTO t (v) VALUES ('y')").await;
    node.engine.maintain().unwrap();
    let held_at = node.engine.log().earliest();
    client.ok("COMMIT").await;
    node.engine.maintain().unwrap();
    let earliest = node.engine.log().earliest();
    assert!(earliest > held_at, "{earliest} after {held_at}");
    let position = earliest.previous().previous();
    let mut tail = node.tenant().await.tail(position, Vec::new());
    let refused = tail
        .next()
        .await
        .err()
        .expect("what was trimmed is refused, not skipped");
    assert!(
        matches!(
            refused,
            TailError::Log(springhead_log::LogError::Trimmed { .. })
        ),
        "{refused}"
    );
    let rows = client.one("SELECT count(*) FROM t").await;
    drop((tail, client, other));
    // A crash now: the states have what the log has no more.
    let node = node.reopen();
    assert_eq!(
        node.client().await.one("SELECT count(*) FROM t").await,
        rows
    );
    assert_eq!(
        node.client_of("shop")
            .await
            .lines("SELECT * FROM kept")
            .await,
        ["1"]
    );
    let failed = node.try_reopen(|config| {
        let id = TenantId::DEFAULT;
        std::fs::remove_dir_all(springhead_engine::state::tenant_dir(config, id)).unwrap();
    });
    let error = failed
        .err()
        .expect("it cannot be made from the log any more")
        .to_string();
    assert!(error.contains("its state file is gone"), "{error}");
}

#[tokio::test]
async fn trimming_leaves_no_tenant_open_that_was_closed() {
    let node = Node::retaining(100_000, |config| {
        config.tenant_idle = Duration::from_secs(1);
        config.tail_memory_bytes = 1000;
    });
    let mut client = node.client().await;
    for n in 0..12 {
        client.ok(&format!("CREATE DATABASE d{n}")).await;
        let mut inside = node.client_of(&format!("d{n}")).await;
        inside.ok("CREATE TABLE t (v text)").await;
        inside
            .ok("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 100)")
            .await;
    }
    let earliest = node.engine.log().earliest();
    node.clock.advance(2000);
    until(|| {
        node.engine.maintain().unwrap();
        open(&node) == ["default"]
    })
    .await;
    assert!(
        node.engine.log().earliest() > earliest,
        "nothing was trimmed"
    );
}

#[tokio::test]
async fn g5_shutdown_ends_tails_and_refuses_what_comes() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    let tenant = node.tenant().await;
    let mut tail = tenant.tail(tenant.visible(), Vec::new());
    client.ok("BEGIN; INSERT INTO t VALUES (1)").await;
    let mut waiter = node.client().await;
    let waiting = tokio::spawn(async move { waiter.run("INSERT INTO t VALUES (2)").await });
    tokio::task::yield_now().await;
    let engine = node.engine.clone();
    tokio::task::spawn_blocking(move || engine.shutdown())
        .await
        .unwrap();
    assert_eq!(
        waiting.await.unwrap().unwrap_err().code.sqlstate().0,
        "57P01"
    );
    assert!(client.run("COMMIT").await.is_err());
    assert!(matches!(tail.next().await, Err(TailError::ShuttingDown)));
    assert_eq!(
        node.engine
            .tenant(TenantId::DEFAULT)
            .await
            .err()
            .unwrap()
            .code
            .sqlstate()
            .0,
        "57P01"
    );
    drop((client, tail));
    let changes = tail_from_reopened(tenant.id(), &node);
    assert_eq!(changes, 0, "what had not been committed is not there");
}

/// The rows of `t` in the state file of a node that has been shut down.
fn tail_from_reopened(tenant: TenantId, node: &Node) -> usize {
    dump(&node.state_file(tenant))
        .iter()
        .filter(|line| line.starts_with("t") && line.contains(": 1 "))
        .count()
}

/// A client that left in the middle of CREATE or DROP DATABASE left the node's memory and its log of
/// two minds: a name that could not be made again, a database that was dropped and still there.
#[tokio::test]
async fn g12_databases_are_made_and_dropped_whole_though_the_client_leaves() {
    let node = Node::start();
    for sql in ["CREATE DATABASE shop", "DROP DATABASE shop"] {
        let mut leaving = node.client().await;
        node.log.hold();
        let task = tokio::spawn(async move { leaving.run(sql).await });
        node.log.held().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        node.log.release();
        let exists = sql.starts_with("CREATE");
        until_async(async || node.engine.tenant_id("shop").is_ok() == exists).await;
        node.client()
            .await
            .ok(if exists {
                "CREATE DATABASE next"
            } else {
                "CREATE DATABASE shop"
            })
            .await;
    }
    let ids = |node: &Node| {
        node.engine
            .tenants()
            .into_iter()
            .map(|tenant| (tenant.id, tenant.name))
            .collect::<Vec<_>>()
    };
    let before = ids(&node);
    assert_eq!(ids(&node.reopen()), before);
}

async fn until_async(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn g12_a_database_has_its_file_before_it_is_known_and_leaves_none_if_it_is_refused() {
    let node = Node::start();
    let mut client = node.client().await;
    let id = TenantId(TenantId::DEFAULT.0 + 1);
    node.log.hold();
    let making = tokio::spawn(async move {
        let result = client.run("CREATE DATABASE shop").await;
        (client, result)
    });
    node.log.held().await;
    assert!(
        node.state_file(id).exists(),
        "a crash now leaves no tenant without its file"
    );
    node.log.refuse(true);
    node.log.release();
    let (mut client, refused) = making.await.unwrap();
    assert_eq!(refused.unwrap_err().code.sqlstate().0, "53100");
    assert!(!node.state_file(id).exists());
    node.log.refuse(false);
    client.ok("CREATE DATABASE shop").await;
    assert_eq!(node.engine.tenant_id("shop").unwrap(), id);
}
