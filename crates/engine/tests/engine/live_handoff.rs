//! The handoff from a live query's snapshot to its changes, under writers at full speed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use springhead_engine::live::{Live, LiveEvent, LiveId, LiveLimits, Subscriber};
use springhead_proto::{ErrorCode, Lsn};

use crate::live::{Mirror, Random, TABLES, asked, drain, principal, queries, transaction};
use crate::support::Node;

/// Live queries that begin together.
const TOGETHER: usize = 3;

/// A live query that has begun under writers.
struct Begun {
    mirror: Mirror,
    at: Lsn,
    /// What comes after it is not looked at.
    until: Lsn,
}

fn follow(begun: &mut HashMap<LiveId, Begun>, event: LiveEvent) {
    match event {
        LiveEvent::Change { id, delta } => {
            let one = begun.get_mut(&id).unwrap();
            let sql = &one.mirror.sql;
            assert!(
                delta.lsn > one.at,
                "{sql}: once, in order, after the snapshot"
            );
            one.at = delta.lsn;
            if delta.lsn > one.until {
                return;
            }
            // A row that was there already, or is not there, fails.
            one.mirror.apply(&delta.entries);
            if one.mirror.plan.is_keyed {
                let mut keys: Vec<_> = one.mirror.rows.iter().map(|(key, _)| key).collect();
                keys.sort();
                keys.dedup();
                assert_eq!(keys.len(), one.mirror.rows.len(), "{}", one.mirror.sql);
            }
        }
        LiveEvent::Tick(_) => {}
        LiveEvent::Ended { end, .. } => panic!("{end:?}"),
        LiveEvent::Refetched { message, .. } => panic!("{message}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_between_snapshot_and_changes_nothing_is_lost_and_nothing_comes_twice() {
    // Each query once; live_race.rs has the long run.
    let rounds = queries(&mut Random(99)).len();
    let node = Node::start();
    node.client().await.ok(TABLES).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3u64 {
        let mut client = node.client().await;
        let stop = Arc::clone(&stop);
        writers.push(tokio::spawn(async move {
            let mut r = Random(writer);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let text = transaction(&mut r);
                if let Err(error) = client.run(&text).await {
                    // Writers may be in one another's way.
                    assert_eq!(error.code, ErrorCode::UniqueViolation, "{text}: {error}");
                    client.run("ROLLBACK").await.ok();
                }
            }
        }));
    }
    // The node's clock stands still: a pause would never be over.
    let limits = LiveLimits {
        recompute_pause: Duration::ZERO,
        ..LiveLimits::default()
    };
    let live = Live::new(node.engine.clone(), limits);
    let tenant = node.tenant().await;
    let mut r = Random(99);
    let mut round = 0;
    while round < rounds {
        // Nobody has a query before, and everything is made anew for the first. With many at once the
        // writers, which wait for nobody, would leave them behind for good.
        let all = queries(&mut r);
        let first = round % all.len();
        let some = &all[first..all.len().min(first + TOGETHER.min(rounds - round))];
        let mut subscriber = Subscriber::new(&live, Arc::clone(&tenant));
        let mut begun: HashMap<LiveId, Begun> = HashMap::new();
        let mut start = Lsn::ZERO;
        for (_, sql) in some {
            let opened = subscriber.open(&principal(), &asked(sql)).await.unwrap();
            start = opened.lsn;
            let at = opened.lsn;
            begun.insert(
                opened.id,
                Begun {
                    mirror: Mirror::new(sql, opened),
                    at,
                    until: Lsn(u64::MAX),
                },
            );
        }
        drain(&mut subscriber, Lsn(start.0 + 20), |event| {
            follow(&mut begun, event);
        })
        .await;
        // And each comes to what another sees that starts later.
        let mut other = Subscriber::new(&live, Arc::clone(&tenant));
        let mut wholes = Vec::new();
        let mut last = start;
        for (id, one) in &mut begun {
            let sql = one.mirror.sql.clone();
            let whole = other.open(&principal(), &asked(&sql)).await.unwrap();
            one.until = whole.lsn;
            last = last.max(whole.lsn);
            wholes.push((*id, Mirror::new(&sql, whole)));
        }
        drain(&mut subscriber, last, |event| follow(&mut begun, event)).await;
        for (id, whole) in wholes {
            let mirror = &begun[&id].mirror;
            assert_eq!(
                mirror.lines(),
                whole.lines(),
                "{} in round {round}",
                whole.sql
            );
        }
        round += some.len();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}
