//! Losing the primary under load: kill -9, again and again, with readers that follow across each
//! promotion. With `synchronous_commit = on` nothing acknowledged is ever lost and nothing is seen
//! twice; without, no more is lost than was reported as lag.
//!
//! `SPRINGHEAD_STANDBY_ROUNDS` sets how often the primary is lost (2 in the suite, 50 in a soak).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nodes::{
    caught_up, eventually, is_primary, node, one, promote, rows_of, standby_of, status, streams,
    url,
};
use serde_json::Value;
use springhead_sim::client::http;
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

fn rounds() -> usize {
    std::env::var("SPRINGHEAD_STANDBY_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2)
}

/// Clients that write to whichever node takes it, and a reader that follows.
struct Load {
    stop: Arc<AtomicBool>,
    /// Which of the addresses is the primary, as far as the test knows.
    primary: Arc<AtomicUsize>,
    acknowledged: Arc<Mutex<BTreeSet<i64>>>,
    /// What the reader has seen, in order.
    seen: Arc<Mutex<Vec<(u64, i64)>>>,
    /// Anything that must not be.
    fault: Arc<Mutex<Option<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(nodes: [&Fixture; 2], primary: usize, writers: i64, reads: bool) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            primary: Arc::new(AtomicUsize::new(primary)),
            acknowledged: Arc::default(),
            seen: Arc::default(),
            fault: Arc::default(),
            threads: Vec::new(),
        };
        let pg = nodes.map(|node| node.setup.pg);
        for writer in 0..writers {
            let (stop, primary) = (Arc::clone(&load.stop), Arc::clone(&load.primary));
            let acknowledged = Arc::clone(&load.acknowledged);
            load.threads.push(std::thread::spawn(move || {
                write(pg, writer * 10_000_000, &stop, &primary, &acknowledged);
            }));
        }
        if reads {
            let http = nodes.map(|node| node.setup.http);
            let (stop, primary) = (Arc::clone(&load.stop), Arc::clone(&load.primary));
            let (seen, fault) = (Arc::clone(&load.seen), Arc::clone(&load.fault));
            load.threads.push(std::thread::spawn(move || {
                if let Err(what) = read(http, &stop, &primary, &seen) {
                    *fault.lock().unwrap() = Some(what);
                }
            }));
        }
        load
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn stop(self) -> (BTreeSet<i64>, Vec<(u64, i64)>) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let fault = self.fault.lock().unwrap().take();
        assert_eq!(fault, None);
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let seen = self.seen.lock().unwrap().clone();
        (acknowledged, seen)
    }
}

/// Every number once, alone or two in a transaction; acknowledged only if the server said so.
fn write(
    nodes: [SocketAddr; 2],
    first: i64,
    stop: &AtomicBool,
    primary: &AtomicUsize,
    acknowledged: &Mutex<BTreeSet<i64>>,
) {
    let mut n = first;
    while !stop.load(Ordering::Acquire) {
        let Ok(mut client) = PgClient::connect(nodes[primary.load(Ordering::Acquire)], "postgres")
        else {
            nodes::pause(2);
            continue;
        };
        while !stop.load(Ordering::Acquire) {
            let mut numbers = vec![n];
            let sql = if n % 3 == 0 {
                numbers.push(n + 1);
                format!(
                    "BEGIN; INSERT INTO t VALUES ({n}, 'x'); INSERT INTO t VALUES ({}, 'y'); COMMIT",
                    n + 1
                )
            } else {
                format!("INSERT INTO t VALUES ({n}, 'x')")
            };
            n += 2;
            match client.query(&sql) {
                Ok(_) => acknowledged.lock().unwrap().extend(numbers),
                Err(_) => break,
            }
        }
    }
}

/// Polls from a cursor, on whichever node is the primary; never starts over.
fn read(
    nodes: [SocketAddr; 2],
    stop: &AtomicBool,
    primary: &AtomicUsize,
    seen: &Mutex<Vec<(u64, i64)>>,
) -> Result<(), String> {
    let mut from = "since_lsn=1".to_owned();
    while !stop.load(Ordering::Acquire) {
        let target = format!("/cdc/t/poll?{from}&limit=1000&wait_ms=50");
        let Ok(answer) = http::get(nodes[primary.load(Ordering::Acquire)], &target) else {
            nodes::pause(2);
            continue;
        };
        match answer.status {
            200 => {}
            410 => return Err(format!("{target}: {}", answer.text())),
            _ => continue,
        }
        let page: Value = answer.json();
        for change in page["changes"].as_array().unwrap() {
            // The table's own definition has none.
            if let Some(id) = change["document_id"].as_str() {
                let lsn = change["lsn"].as_u64().unwrap();
                seen.lock().unwrap().push((lsn, id.parse().unwrap()));
            }
        }
        let cursor = page["next_cursor"]["cursor"].as_str().unwrap();
        from = format!("cursor={cursor}");
    }
    Ok(())
}

fn ids(node: &Fixture) -> BTreeSet<i64> {
    node.sql("SELECT id FROM t")
        .into_iter()
        .map(|row| row[0].clone().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn g11_no_acknowledged_commit_is_lost_with_the_primary() {
    let a = node("a", &["--synchronous-standbys", "ANY 1 (a, b)"]);
    let mut first = a;
    first.start();
    let second = standby_of(&first, "b", &["--synchronous-standbys", "ANY 1 (a, b)"]);
    streams(&first, "b");
    first.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    let mut nodes = [first, second];
    let load = Load::start([&nodes[0], &nodes[1]], 0, 4, true);
    let mut primary = 0;
    for round in 0..rounds() {
        let before = load.count();
        eventually("some commits", || {
            (load.count() > before + 100).then_some(())
        });
        let other = 1 - primary;
        nodes[primary].kill();
        let promoted = promote(&nodes[other]);
        assert_eq!(promoted["epoch_number"].as_u64().unwrap(), round as u64 + 2);
        load.primary.store(other, Ordering::Release);
        // The old one returns by itself as a standby, and commits go on.
        nodes[primary].start();
        eventually("the old primary is a standby", || {
            (status(&nodes[primary])["role"] == "standby").then_some(())
        });
        streams(&nodes[other], ["a", "b"][primary]);
        primary = other;
    }
    let before = load.count();
    eventually("some commits", || {
        (load.count() > before + 100).then_some(())
    });
    // Let the reader see the end.
    let last = load
        .acknowledged
        .lock()
        .unwrap()
        .iter()
        .max()
        .copied()
        .unwrap();
    let seen_last = Arc::clone(&load.seen);
    eventually("the reader has seen it", || {
        seen_last
            .lock()
            .unwrap()
            .iter()
            .any(|(_, id)| *id == last)
            .then_some(())
    });
    let (acknowledged, seen) = load.stop();
    let there = ids(&nodes[primary]);
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert_eq!(lost, Vec::<&i64>::new(), "acknowledged and lost");
    assert!(
        seen.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "a reader saw something twice"
    );
    let seen_ids: BTreeSet<i64> = seen.iter().map(|(_, id)| *id).collect();
    assert_eq!(seen_ids.len(), seen.len());
    let gone: Vec<_> = seen_ids.difference(&there).collect();
    assert_eq!(gone, Vec::<&i64>::new(), "shown and lost");
    caught_up(&nodes[primary], &nodes[1 - primary]);
    assert_eq!(rows_of(&nodes[0], "t"), rows_of(&nodes[1], "t"));
    println!(
        "{} rounds, {} commits acknowledged, 0 lost, {} changes read",
        rounds(),
        acknowledged.len(),
        seen.len()
    );
}

#[test]
fn g11_without_waiting_no_more_is_lost_than_was_reported() {
    let mut primary = node("a", &[]);
    primary.start();
    let standby = standby_of(&primary, "b", &[]);
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    let load = Load::start([&primary, &standby], 0, 4, false);
    eventually("some commits", || (load.count() > 500).then_some(()));
    // Stopped, it can be asked how far behind the standby is, and nothing moves any more.
    load.stop.store(true, Ordering::Release);
    let (acknowledged, _) = load.stop();
    let row = status(&primary)["replication"]["standbys"][0].clone();
    let end = nodes::durable(&primary);
    primary.kill();
    let promoted = promote(&standby);
    let fork = promoted["fork_lsn"].as_u64().unwrap();
    let lag = row["lag_changes"].as_u64().unwrap();
    assert!(
        end.saturating_sub(fork) <= lag,
        "lost {} of LSN {end}, lag was {lag}",
        end - fork
    );
    let lost = acknowledged.difference(&ids(&standby)).count() as u64;
    assert!(lost <= lag, "{lost} lost, lag was {lag}");
    println!(
        "{} acknowledged, {lost} lost, lag {lag} changes",
        acknowledged.len()
    );
}

#[test]
fn g11_a_primary_that_wakes_up_late_acknowledges_nothing() {
    use rustix::process::Signal;
    let mut primary = node("a", &["--synchronous-standbys", "b"]);
    primary.start();
    let standby = standby_of(&primary, "b", &[]);
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    primary.sql("INSERT INTO t VALUES (1, 'x')");
    // A client of the old primary, whose statement arrives while it sleeps.
    let mut client = primary.pg();
    primary.server().signal(Signal::STOP);
    promote(&standby);
    standby.sql("INSERT INTO t VALUES (2, 'new')");
    let late = std::thread::spawn(move || client.query("INSERT INTO t VALUES (3, 'late')"));
    primary.server().signal(Signal::CONT);
    let late = late.join().unwrap();
    assert!(late.is_err(), "a late acknowledgement: {late:?}");
    eventually("it follows the new primary", || {
        (!is_primary(&primary) && status(&primary)["replication"]["upstream"]["connected"] == true)
            .then_some(())
    });
    caught_up(&standby, &primary);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    assert_eq!(one(&standby, "SELECT count(*) FROM t WHERE id = 3"), "0");
}

#[test]
fn g11_a_primary_that_lives_hears_of_its_successor() {
    let mut primary = node("a", &[]);
    primary.start();
    let standby = standby_of(&primary, "b", &[]);
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    let load = Load::start([&primary, &standby], 0, 2, false);
    eventually("some commits", || (load.count() > 50).then_some(()));
    promote(&standby);
    load.primary.store(1, Ordering::Release);
    eventually("the old primary follows", || {
        let status = status(&primary);
        (status["role"] == "standby" && status["replication"]["upstream"]["connected"] == true)
            .then_some(())
    });
    let before = load.count();
    eventually("commits go on", || {
        (load.count() > before + 50).then_some(())
    });
    load.stop();
    caught_up(&standby, &primary);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
}

#[test]
fn g5_a_primary_made_anew_at_the_same_address_is_not_followed() {
    let mut primary = node("a", &[]);
    primary.start();
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY)");
    let standby = standby_of(&primary, "b", &[]);
    caught_up(&primary, &standby);
    primary.kill();
    std::fs::remove_dir_all(primary.data_dir()).unwrap();
    primary.start();
    primary.sql("CREATE TABLE other (id bigint PRIMARY KEY)");
    eventually("it is refused", || {
        let problem = status(&standby)["replication"]["upstream"]["problem"].clone();
        problem.as_str()?.contains("another cluster").then_some(())
    });
    // What it has is served still.
    assert_eq!(one(&standby, "SELECT count(*) FROM t"), "0");
    assert!(url(&primary).starts_with("http://"));
}

#[test]
fn g12_a_base_backup_or_promotion_that_is_killed_is_done_again() {
    let mut primary = node("a", &[]);
    primary.start();
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    primary.sql("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 1000) AS n");
    let mut standby = node("b", &["--standby-of", &url(&primary)]);
    for failpoint in [
        "standby.base_file",
        "standby.base_received",
        "standby.base_complete",
        "standby.base_moved",
    ] {
        let setup = standby.setup.clone().with_failpoint(failpoint, 1);
        assert!(
            standby.start_as(&setup).is_err(),
            "{failpoint} was not passed"
        );
        if failpoint == "standby.base_complete" || failpoint == "standby.base_moved" {
            // Finished by the next start; again from nothing for the next one.
            standby.start();
            caught_up(&primary, &standby);
            standby.kill();
            std::fs::remove_dir_all(standby.data_dir()).unwrap();
        }
    }
    standby.start();
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&standby, "t"), rows_of(&primary, "t"));
    standby.kill();
    primary.kill();
    for failpoint in [
        "standby.promote_stopped",
        "standby.promote_epoch",
        "standby.promote_stored",
    ] {
        let setup = standby.setup.clone().with_failpoint(failpoint, 1);
        standby.start_as(&setup).unwrap();
        // Unless it is one already, after the last of them.
        let _ = http::post(standby.setup.http, "/v1/promote", &serde_json::json!({}));
        eventually("it is killed", || {
            standby
                .server()
                .wait_end(std::time::Duration::from_millis(10))
                .map(drop)
        });
    }
    standby.start();
    if !is_primary(&standby) {
        promote(&standby);
    }
    standby.sql("INSERT INTO t VALUES (2000, 'y')");
    assert_eq!(one(&standby, "SELECT count(*) FROM t"), "1001");
}

/// The last segment of a node's log.
fn last_segment(node: &Fixture) -> std::path::PathBuf {
    let files = std::fs::read_dir(node.data_dir().join("log")).unwrap();
    let names = files.map(|file| file.unwrap().path());
    let segments = names.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".seg") && name.starts_with(|first: char| first.is_ascii_digit())
    });
    segments.max().expect("a log has a segment")
}

/// A primary that is down, and its standby whose log has a torn frame with whole ones behind it, past
/// what its state has.
fn torn_standby() -> (Fixture, Fixture) {
    let mut primary = node("a", &[]);
    primary.start();
    let mut standby = standby_of(&primary, "b", &[]);
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (v text)");
    caught_up(&primary, &standby);
    standby.stop();
    for n in 0..9 {
        primary.sql(&format!("INSERT INTO t VALUES ('marker-{n}-marker')"));
    }
    primary.kill();
    // What the standby would have written and not applied yet.
    let mut log = std::fs::read(last_segment(&primary)).unwrap();
    let marker = b"marker-4-marker";
    let at = log.windows(marker.len()).position(|part| part == marker);
    log[at.expect("it is in the log")] ^= 1;
    let own = last_segment(&standby);
    assert_eq!(own.file_name(), last_segment(&primary).file_name());
    std::fs::write(own, log).unwrap();
    (primary, standby)
}

#[test]
fn g11_a_standby_whose_log_was_torn_does_not_lead_before_it_has_caught_up() {
    let (mut primary, mut standby) = torn_standby();
    standby.start();
    for _ in 0..2 {
        let refused = standby.post("/v1/promote", &serde_json::json!({}));
        let text = refused.text();
        assert_ne!(refused.status, 200, "{text}");
        assert!(text.contains("55000") && text.contains("--force"), "{text}");
        assert!(status(&standby)["replication"]["doubt"].is_string());
        assert!(!is_primary(&standby));
        // The log is whole now; the doubt stays.
        standby.kill();
        standby.start();
    }
    primary.start();
    caught_up(&primary, &standby);
    eventually("nothing is in doubt", || {
        status(&standby)["replication"]["doubt"]
            .is_null()
            .then_some(())
    });
    primary.kill();
    standby.stop();
    standby.start();
    promote(&standby);
    assert_eq!(one(&standby, "SELECT count(*) FROM t"), "9");
}

#[test]
fn g11_a_standby_in_doubt_leads_if_it_is_forced_to() {
    let (_primary, mut standby) = torn_standby();
    standby.start();
    let url = url(&standby);
    let refused = standby.command(&["promote", "--url", &url]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let forced = standby.command(&["promote", "--force", "--url", &url]);
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
    assert!(is_primary(&standby));
    assert_eq!(one(&standby, "SELECT count(*) FROM t"), "4");
    // It leads: nothing is in doubt any more, after a restart neither.
    standby.stop();
    standby.start();
    assert!(is_primary(&standby));
}
