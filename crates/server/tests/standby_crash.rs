//! Losing the primary under load: kill -9, again and again, with readers that follow across each
//! promotion. With `synchronous_commit = on` nothing acknowledged is ever lost and nothing is seen
//! twice; without, no more is lost than was reported as lag.
//!
//! `SPRINGHEAD_STANDBY_ROUNDS` sets how often the primary is lost (2 in the suite, 50 in a soak).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::sync::atomic::Ordering;

use nodes::load::{Load, ids, nothing_lost};
use nodes::{
    caught_up, eventually, is_primary, node, one, promote, rows_of, standby_of, status, streams,
    url,
};
use springhead_sim::client::http;
use springhead_sim::fixture::Fixture;

fn rounds() -> usize {
    std::env::var("SPRINGHEAD_STANDBY_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2)
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
    load.wait_until_read();
    let (acknowledged, seen) = load.stop();
    nothing_lost(&nodes[primary], &acknowledged, &seen);
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
