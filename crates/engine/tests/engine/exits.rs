//! Tails: each change once, in order, transactions whole, from wherever one begins and however slow
//! one is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use springhead_engine::Tenant;
use springhead_proto::{ChangeKind, CollectionId, Lsn, TenantId, Value};

use crate::support::{Node, Seen, assert_whole_and_ordered, drain, rows_of, seen, tail_from};

/// Runs `writers` clients that each commit `each` transactions of changing size to `t`.
async fn write_all(node: &Node, writers: i64, each: i64) {
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let mut client = node.client().await;
        tasks.push(tokio::spawn(async move {
            for n in 0..each {
                let id = writer * 1_000_000 + n * 100;
                match n % 5 {
                    0 => client.ok(&format!("BEGIN; INSERT INTO t VALUES ({id}, {writer}); INSERT INTO t VALUES ({id} + 1, {n}); COMMIT")).await,
                    1 => client.ok(&format!("INSERT INTO t SELECT {id} + i, i FROM generate_series(1, 30) g(i)")).await,
                    2 => client.ok(&format!("UPDATE t SET n = n + 1 WHERE id = {id} - 100 + 1")).await,
                    3 => client.ok(&format!("DELETE FROM t WHERE id = {id} - 200 + 2")).await,
                    _ => client.ok(&format!("INSERT INTO t VALUES ({id}, 0)")).await,
                };
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Follows a tail until `end` has been delivered; between steps it is slow if `yields` says so.
async fn follow(tenant: Arc<Tenant>, from: Lsn, done: Arc<AtomicBool>, yields: usize) -> Vec<Seen> {
    let mut tail = tenant.tail(from, Vec::new());
    let mut all = Vec::new();
    loop {
        let before = tail.position();
        let finished = done.load(Ordering::SeqCst);
        match tail.try_next().await.unwrap() {
            Some(step) => all.extend(seen(&step, before)),
            None if finished => return all,
            None => tokio::task::yield_now().await,
        }
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
    }
}

async fn many_writers_many_tails(node: Node) {
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)")
        .await;
    client.ok("CREATE DATABASE noise").await;
    let mut noise = node.client_of("noise").await;
    noise.ok("CREATE TABLE x (id serial PRIMARY KEY)").await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    let done = Arc::new(AtomicBool::new(false));
    let mut tails = Vec::new();
    for yields in [0, 0, 3, 40] {
        tails.push(tokio::spawn(follow(
            Arc::clone(&tenant),
            start,
            Arc::clone(&done),
            yields,
        )));
    }
    let early = tokio::spawn(follow(Arc::clone(&tenant), Lsn::ZERO, Arc::clone(&done), 1));
    let others = tokio::spawn(async move {
        for _ in 0..50 {
            noise.ok("INSERT INTO x DEFAULT VALUES").await;
        }
    });
    write_all(&node, 6, 25).await;
    others.await.unwrap();
    done.store(true, Ordering::SeqCst);

    let expected = tail_from(&tenant, start).await;
    assert_whole_and_ordered(&expected, start);
    assert!(expected.len() > 6 * 25 * 6);
    for tail in tails {
        let got = tail.await.unwrap();
        assert_eq!(got.len(), expected.len());
        assert!(got == expected, "every tail delivers the same");
    }
    let from_the_beginning = early.await.unwrap();
    assert!(from_the_beginning.ends_with(&expected));

    // From anywhere, also from the middle of a commit, what follows is the same.
    for after in (start.0..tenant.visible().0).step_by(37).map(Lsn) {
        let got = tail_from(&tenant, after).await;
        let wanted: Vec<Seen> = expected
            .iter()
            .filter(|change| change.lsn > after)
            .cloned()
            .collect();
        assert!(got == wanted, "after {after}");
    }

    // What the tail delivered adds up to what the table holds.
    let mut rows: BTreeMap<i64, i64> = BTreeMap::new();
    for (kind, before, after) in rows_of(&expected) {
        let pair = |row: &Option<Vec<Value>>| match row.as_deref() {
            Some([Value::Integer(id), Value::Integer(n)]) => (*id, *n),
            other => panic!("{other:?}"),
        };
        match kind {
            ChangeKind::Insert => assert!(rows.insert(pair(&after).0, pair(&after).1).is_none()),
            ChangeKind::Update => assert_eq!(
                rows.insert(pair(&after).0, pair(&after).1),
                Some(pair(&before).1)
            ),
            ChangeKind::Delete => assert_eq!(rows.remove(&pair(&before).0), Some(pair(&before).1)),
            other => panic!("{other:?}"),
        }
    }
    let table = client.lines("SELECT id, n FROM t ORDER BY id").await;
    let summed: Vec<String> = rows.iter().map(|(id, n)| format!("{id}|{n}")).collect();
    assert_eq!(table, summed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g2_every_tail_delivers_each_change_once_and_whole_from_memory() {
    many_writers_many_tails(Node::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g2_every_tail_delivers_each_change_once_and_whole_from_disk() {
    let node = Node::on_disk(|config| {
        // Nearly everything is read back from segments, a little at a time.
        config.tail_memory_bytes = 300;
        config.tail_read_bytes = 2000;
        config.capture_memory_bytes = 500;
    });
    many_writers_many_tails(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g4_a_snapshot_and_the_tail_after_it_leave_no_gap_and_repeat_nothing() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)")
        .await;
    let tenant = node.tenant().await;
    let table = tenant
        .catalog()
        .tables
        .values()
        .find(|table| table.name.name == "t")
        .unwrap()
        .clone();
    let sql = format!("SELECT c1, c2 FROM {} ORDER BY c1", table.storage_name());
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (tenant, sql, done) = (Arc::clone(&tenant), sql.clone(), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let mut taken = 0;
            while !done.load(Ordering::SeqCst) {
                let (rows, lsn) = tenant.read_snapshot(&sql, Vec::new()).await.unwrap();
                let mut state = state_of(rows);
                let mut tail = tenant.tail(lsn, Vec::new());
                // Some way on, then compared with another snapshot at exactly that point.
                loop {
                    let (rows, at) = tenant.read_snapshot(&sql, Vec::new()).await.unwrap();
                    let fresh = state_of(rows);
                    let changes = read_up_to(&mut tail, at).await;
                    for change in &changes {
                        apply(&mut state, change);
                    }
                    if tail.position() <= at || changes.iter().all(|change| change.lsn <= at) {
                        assert_eq!(state, fresh, "from {lsn} to {at}");
                        break;
                    }
                    // The tail has gone past the snapshot; try again from there.
                }
                taken += 1;
            }
            taken
        }));
    }
    write_all(&node, 4, 40).await;
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

type State = BTreeMap<i64, i64>;

fn state_of(mut rows: springhead_engine::Rows) -> State {
    let mut state = State::new();
    while let Some(chunk) = rows.next_chunk().unwrap() {
        for row in chunk.rows() {
            let values: Vec<Value> = row
                .values()
                .map(springhead_proto::ValueRef::to_owned)
                .collect();
            let [Value::Integer(id), Value::Integer(n)] = values[..] else {
                panic!("{values:?}")
            };
            state.insert(id, n);
        }
    }
    state
}

/// Reads until everything up to `lsn` has been delivered; may deliver more.
async fn read_up_to(tail: &mut springhead_engine::TailReader, lsn: Lsn) -> Vec<Seen> {
    let mut all = Vec::new();
    while tail.position() < lsn {
        let before = tail.position();
        let step = tail.next().await.unwrap();
        all.extend(seen(&step, before));
    }
    all
}

fn apply(state: &mut State, change: &Seen) {
    let pair = |row: &Option<Vec<Value>>| match row.as_deref() {
        Some([Value::Integer(id), Value::Integer(n)]) => (*id, *n),
        other => panic!("{other:?}"),
    };
    match change.kind {
        ChangeKind::Insert => assert!(
            state
                .insert(pair(&change.after).0, pair(&change.after).1)
                .is_none()
        ),
        ChangeKind::Update => assert!(
            state
                .insert(pair(&change.after).0, pair(&change.after).1)
                .is_some()
        ),
        ChangeKind::Delete => assert!(state.remove(&pair(&change.before).0).is_some()),
        _ => {}
    }
}

#[tokio::test]
async fn g3_a_commit_too_large_for_memory_reaches_tails_whole() {
    let node = Node::on_disk(|config| {
        config.capture_memory_bytes = 4 << 10;
        config.tail_read_bytes = 3 << 10;
    });
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    let mut follower = tenant.tail(start, Vec::new());
    client.ok("INSERT INTO t VALUES (0, 'before')").await;
    assert_eq!(drain(&mut follower).await.unwrap().len(), 1);
    client.ok("BEGIN").await;
    client
        .ok("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 400) g(i)")
        .await;
    client.ok("SAVEPOINT s").await;
    client
        .ok("INSERT INTO t SELECT i, repeat('y', 500) FROM generate_series(1001, 1400) g(i)")
        .await;
    client.ok("ROLLBACK TO s").await;
    client.fails("INSERT INTO t SELECT i, repeat('z', 500) FROM generate_series(2001, 2400) g(i) UNION ALL SELECT 1, ''", "23505").await;
    client.ok("ROLLBACK TO s").await;
    client
        .ok("UPDATE t SET v = v || '!' WHERE id <= 100 AND id > 0")
        .await;
    let lsn = client.ok("COMMIT").await.lsn;
    client.ok("INSERT INTO t VALUES (9999, 'after')").await;
    let got = drain(&mut follower).await.unwrap();
    assert_eq!(got.len(), 501);
    assert_whole_and_ordered(&got, start.next());
    assert_eq!(
        (got[0].commit_lsn, got[0].commit_count, got[499].lsn),
        (start.plus(2), 500, lsn)
    );
    assert_eq!(tail_from(&tenant, start.next()).await, got);
    // Begun in its middle, on disk.
    let middle = start.plus(251);
    assert_eq!(tail_from(&tenant, middle).await, got[250..]);
    drop(client);
    drop((follower, tenant));
    let node = node
        .try_reopen(|config| std::fs::remove_dir_all(config.data_dir.join("tenants")).unwrap())
        .unwrap();
    assert_eq!(
        node.client()
            .await
            .one("SELECT count(*), max(length(v)) FROM t")
            .await,
        "402|501"
    );
}

#[tokio::test]
async fn g2_a_tail_of_one_collection_misses_none_of_its_changes() {
    let node = Node::on_disk(|config| {
        config.tail_memory_bytes = 200;
        config.tail_read_bytes = 1000;
    });
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    for n in 0..60 {
        client
            .ok(&format!(
                "INSERT INTO {} VALUES ({n})",
                if n % 10 == 0 { "a" } else { "b" }
            ))
            .await;
        if n % 15 == 0 {
            client
                .ok(&format!(
                    "BEGIN; INSERT INTO b VALUES (1{n:03}); INSERT INTO a VALUES (1{n:03}); COMMIT"
                ))
                .await;
        }
    }
    let a = tenant
        .catalog()
        .tables
        .values()
        .find(|table| table.name.name == "a")
        .unwrap()
        .collection();
    let mut tail = tenant.tail(start, vec![a]);
    let got = drain(&mut tail).await.unwrap();
    let all = tail_from(&tenant, start).await;
    let of = |changes: &[Seen], id: CollectionId| {
        changes
            .iter()
            .filter(|change| change.collection == id)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&got, a), of(&all, a));
    assert_eq!(of(&got, a).len(), 10);
    assert_eq!(tail.position(), tenant.visible());
    assert_whole_and_ordered(&got, start);
}

#[tokio::test]
async fn g6_a_tail_moves_over_other_tenants_and_shows_nothing_of_them() {
    let node = Node::on_disk(|config| config.tail_memory_bytes = 0);
    let mut client = node.client().await;
    client.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    client.ok("CREATE DATABASE other").await;
    let mut other = node.client_of("other").await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    let mut tail = tenant.tail(start, Vec::new());
    other.ok("CREATE TABLE secret (id int PRIMARY KEY)").await;
    other
        .ok("INSERT INTO secret SELECT i FROM generate_series(1, 50) g(i)")
        .await;
    assert_eq!(drain(&mut tail).await.unwrap(), []);
    assert_eq!(tail.position(), node.engine.log().tail().durable);
    assert_eq!(tenant.visible(), tail.position());
    client.ok("INSERT INTO t VALUES (1)").await;
    assert_eq!(rows_of(&drain(&mut tail).await.unwrap()).len(), 1);
    let there = node
        .engine
        .tenant(node.engine.tenant_id("other").unwrap())
        .await
        .unwrap();
    let theirs = tail_from(&there, Lsn::ZERO).await;
    assert_eq!(rows_of(&theirs).len(), 50);
    assert_ne!(there.id(), TenantId::DEFAULT);
}

#[tokio::test]
async fn g2_a_changed_key_is_a_delete_and_an_insert() {
    use ChangeKind::{Delete, Insert, Update};
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (a int, b text, c int, PRIMARY KEY (a, b))")
        .await;
    client
        .ok("INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2)")
        .await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    client.ok("UPDATE t SET c = c + 1").await;
    client.ok("UPDATE t SET b = 'z', c = 0 WHERE a = 1").await;
    client
        .ok("INSERT INTO t VALUES (2, 'y', 9) ON CONFLICT (a, b) DO UPDATE SET c = excluded.c")
        .await;
    client
        .ok("INSERT INTO t VALUES (2, 'y', 9) ON CONFLICT DO NOTHING")
        .await;
    client.ok("TRUNCATE t").await;
    let kinds: Vec<ChangeKind> = tail_from(&tenant, start)
        .await
        .iter()
        .map(|change| change.kind)
        .collect();
    assert_eq!(
        kinds,
        [Update, Update, Delete, Insert, Update, ChangeKind::Truncate]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g2_rows_carry_the_schema_they_were_written_with_while_definitions_change() {
    let node = Node::on_disk(|config| {
        config.tail_memory_bytes = 2000;
        config.tail_read_bytes = 4000;
    });
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id bigserial PRIMARY KEY, v int)")
        .await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (mut client, done) = (node.client().await, Arc::clone(&done));
        writers.push(tokio::spawn(async move {
            let mut written = 0;
            while !done.load(Ordering::SeqCst) {
                client.ok(&format!("INSERT INTO t (v) VALUES ({writer})")).await;
                client.ok(&format!("BEGIN; UPDATE t SET v = v + 1 WHERE id % 7 = {writer}; SAVEPOINT s; DELETE FROM t WHERE id % 11 = {writer}; COMMIT")).await;
                written += 1;
            }
            written
        }));
    }
    let tail = tokio::spawn(follow(Arc::clone(&tenant), start, Arc::clone(&done), 2));
    for n in 0..30 {
        client
            .ok(&format!(
                "ALTER TABLE t ADD COLUMN w{n} text DEFAULT 'd{n}'"
            ))
            .await;
        client.ok("BEGIN; ALTER TABLE t ADD COLUMN gone int DEFAULT 1; UPDATE t SET gone = 2 WHERE id < 5; ROLLBACK").await;
        client.ok("ALTER TABLE t ALTER COLUMN v TYPE bigint").await;
        client.ok(&format!("ALTER TABLE t DROP COLUMN w{n}")).await;
        client.ok("ALTER TABLE t ALTER COLUMN v TYPE int").await;
    }
    done.store(true, Ordering::SeqCst);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    let followed = tail.await.unwrap();
    let all = tail_from(&tenant, start).await;
    assert_whole_and_ordered(&all, start);
    assert!(
        all.starts_with(&followed),
        "the follower may have ended a little before the writers"
    );
    for change in all.iter().filter(|change| {
        matches!(
            change.kind,
            ChangeKind::Insert | ChangeKind::Update | ChangeKind::Delete
        )
    }) {
        let schema = tenant
            .schema(change.collection, change.schema_version)
            .expect("it is kept for ever");
        for row in [&change.before, &change.after].into_iter().flatten() {
            assert_eq!(row.len(), schema.columns.len());
        }
    }
    let rows = client.lines("SELECT * FROM t ORDER BY id").await;
    let state = crate::support::dump(&node.state_file(TenantId::DEFAULT));
    drop((client, tenant));
    let node = node
        .try_reopen(|config| std::fs::remove_dir_all(config.data_dir.join("tenants")).unwrap())
        .unwrap();
    assert_eq!(
        node.client()
            .await
            .lines("SELECT * FROM t ORDER BY id")
            .await,
        rows
    );
    assert_eq!(
        crate::support::dump(&node.state_file(TenantId::DEFAULT)),
        state
    );
}

#[tokio::test]
async fn g2_a_transaction_that_defines_a_table_twice_leaves_rows_of_each_version_readable() {
    let node = Node::start();
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE gone (id int PRIMARY KEY)")
        .await;
    let tenant = node.tenant().await;
    let start = tenant.last_commit();
    // What is taken back and defined again has the number of what was taken back.
    client
        .ok("BEGIN;
             ALTER TABLE gone ADD COLUMN a int; INSERT INTO gone VALUES (1, 2); DROP TABLE gone;
             SAVEPOINT s; ALTER TABLE t ADD COLUMN wrong int, ADD COLUMN other int; ROLLBACK TO s;
             ALTER TABLE t ADD COLUMN a int; INSERT INTO t VALUES (1, 2);
             ALTER TABLE t ADD COLUMN b int; INSERT INTO t VALUES (3, 4, 5);
             ALTER TABLE t DROP COLUMN a; INSERT INTO t VALUES (6, 7);
             COMMIT")
        .await;
    let names = |tenant: &Tenant, changes: &[Seen]| -> Vec<Vec<String>> {
        let images = changes
            .iter()
            .filter(|change| change.kind == ChangeKind::Insert);
        images
            .map(|change| {
                let schema = tenant
                    .schema(change.collection, change.schema_version)
                    .expect("the version that the row was written with");
                schema
                    .columns
                    .iter()
                    .map(|column| column.name.to_string())
                    .collect()
            })
            .collect()
    };
    let changes = tail_from(&tenant, start).await;
    let expected = names(&tenant, &changes);
    let of_t = [vec!["id", "a"], vec!["id", "a", "b"], vec!["id", "b"]];
    assert_eq!(expected[expected.len() - 3..], of_t, "{expected:?}");

    drop((client, tenant));
    let node = node.reopen();
    let tenant = node.tenant().await;
    assert_eq!(names(&tenant, &changes), expected, "after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_tail_whose_reads_are_cancelled_loses_and_repeats_nothing() {
    let node = Node::on_disk(|config| {
        config.capture_memory_bytes = 3000;
        config.tail_memory_bytes = 1000;
        config.tail_read_bytes = 5000;
    });
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let tenant = node.tenant().await;
    let start = tenant.visible();
    for n in 0..20 {
        client.ok(&format!("INSERT INTO t SELECT {n} * 1000 + i, repeat('x', 300) FROM generate_series(1, {}) g(i)", 1 + n * 3)).await;
    }
    let end = tenant.visible();
    let whole = tail_from(&tenant, start).await;
    assert_eq!(whole.len(), (0..20).map(|n| 1 + n * 3).sum::<usize>());
    // Whether a read has to wait is the machine's choice, so tails are read until some had to.
    let mut given_up = 0;
    while given_up < 5 {
        let mut tail = tenant.tail(start, Vec::new());
        let (mut got, mut gives_up) = (Vec::new(), true);
        while tail.position() < end {
            let before = tail.position();
            // Every other read is given up as soon as it has to wait.
            let step = if gives_up {
                tokio::select! {
                    biased;
                    step = tail.next() => Some(step),
                    () = std::future::ready(()) => None,
                }
            } else {
                Some(tail.next().await)
            };
            gives_up = step.is_some();
            match step {
                Some(step) => got.extend(seen(&step.unwrap(), before)),
                None => given_up += 1,
            }
        }
        assert_whole_and_ordered(&got, start);
        assert!(got == whole);
    }
}
