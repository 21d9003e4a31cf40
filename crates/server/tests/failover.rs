//! Nodes that vote: with a witness one of the standbys takes over by itself when the primary is gone, and
//! a primary that is cut off gives up. Real processes, each lost, stopped or cut off in turn (G11).
//!
//! `SPRINGHEAD_FAILOVER_ROUNDS` sets how often the primary is lost (2 in the suite, 50 in a soak).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nodes::load::{Load, nothing_lost};
use nodes::voting::{
    Link, Mesh, Silence, TIMEOUT, failover, is_in_sync, leader, leads, voter, votes,
    wait_for_leader, wait_in_sync, witness,
};
use nodes::{caught_up, eventually, is_primary, one, rows_of, status, streams, try_sql, url};
use rustix::process::Signal;
use serde_json::json;
use springhead_sim::fixture::Fixture;

fn rounds() -> usize {
    std::env::var("SPRINGHEAD_FAILOVER_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2)
}

/// A witness, a primary a and a standby b in sync, with an empty table.
fn cluster() -> (Fixture, Fixture, Fixture) {
    let witness = witness();
    let mut a = voter("a", &["a", "b"], &url(&witness), &[]);
    a.start();
    a.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    let mut b = voter(
        "b",
        &["a", "b"],
        &url(&witness),
        &["--standby-of", &url(&a)],
    );
    b.start();
    wait_in_sync(&a, &["a", "b"]);
    caught_up(&a, &b);
    (witness, a, b)
}

#[test]
fn g11_a_standby_takes_over_by_itself_and_nothing_acknowledged_is_lost() {
    let (_witness, a, b) = cluster();
    let mut nodes = [a, b];
    let load = Load::that_finds_the_primary(&[&nodes[0], &nodes[1]], 4);
    let mut pauses = Vec::new();
    let mut primary = 0;
    for _ in 0..rounds() {
        let before = load.count();
        eventually("some commits", || {
            (load.count() > before + 100).then_some(())
        });
        wait_in_sync(&nodes[primary], &["a", "b"]);
        let other = 1 - primary;
        nodes[primary].kill();
        let (lost, before) = (Instant::now(), load.count());
        eventually("commits go on by themselves", || {
            (load.count() > before + 10).then_some(())
        });
        pauses.push(lost.elapsed());
        assert!(is_primary(&nodes[other]));
        // The old one returns by itself as a standby, and is waited for again.
        nodes[primary].start();
        wait_in_sync(&nodes[other], &["a", "b"]);
        assert!(!is_primary(&nodes[primary]));
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
    pauses.sort();
    println!(
        "{} kills, {} commits acknowledged, 0 lost, {} changes read; without writes for {:?} (median), {:?} (longest), failover_timeout {TIMEOUT:?}",
        rounds(),
        acknowledged.len(),
        seen.len(),
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
    );
}

/// Commits on a node for as long as it lasts, and when each was acknowledged.
struct Committing {
    stop: Arc<AtomicBool>,
    last: Arc<Mutex<Option<Instant>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Committing {
    fn on(node: &Fixture, level: &'static str, first: i64) -> Committing {
        let stop = Arc::new(AtomicBool::new(false));
        let last = Arc::new(Mutex::new(None));
        let (stopped, acknowledged) = (Arc::clone(&stop), Arc::clone(&last));
        let mut client = node.pg();
        let thread = std::thread::spawn(move || {
            let set = format!("SET synchronous_commit = {level}; SET statement_timeout = '30s'");
            client.query(&set).unwrap();
            for id in first.. {
                let sql = format!("INSERT INTO t VALUES ({id}, '{level}')");
                if stopped.load(Ordering::Acquire) || client.query(&sql).is_err() {
                    return;
                }
                *acknowledged.lock().unwrap() = Some(Instant::now());
            }
        });
        Committing { stop, last, thread }
    }

    /// When it was told of a commit for the last time.
    fn end(self) -> Instant {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
        let last = *self.last.lock().unwrap();
        last.expect("it has committed")
    }
}

#[test]
fn g11_a_primary_that_is_cut_off_from_all_gives_up_and_acknowledges_nothing_late() {
    let mut cluster = Mesh::new();
    // Those that wait for standbys are fenced by acknowledgements, those that do not by the lease.
    let committing = [
        Committing::on(&cluster.a, "on", 1_000_000),
        Committing::on(&cluster.a, "local", 2_000_000),
    ];
    eventually("both commit", || {
        let has = |of: &Committing| of.last.lock().unwrap().is_some();
        committing.iter().all(has).then_some(())
    });
    for link in [Link::AToB, Link::BToA, Link::AToWitness, Link::WitnessToA] {
        cluster.silence(link, Silence::Lost);
    }
    wait_for_leader(&cluster.b);
    let elected = Instant::now();
    for committing in committing {
        assert!(committing.end() < elected, "a late acknowledgement");
    }
    eventually("it has given up", || {
        (!is_primary(&cluster.a)).then_some(())
    });
    assert_eq!(failover(&cluster.a)["state"], "waits");
    let refused = try_sql(&cluster.a, "INSERT INTO t VALUES (1, 'late')").unwrap_err();
    assert_eq!(refused.0, "25006", "{refused:?}");
    assert!(
        cluster
            .a
            .get("/metrics")
            .text()
            .contains("springhead_vote_leads 0")
    );
    cluster.b.sql("INSERT INTO t VALUES (2, 'new')");
    cluster.heal();
    caught_up(&cluster.b, &cluster.a);
    assert_eq!(rows_of(&cluster.a, "t"), rows_of(&cluster.b, "t"));
    wait_in_sync(&cluster.b, &["a", "b"]);
    // And back again, so that what has returned may lead again.
    cluster.b.kill();
    wait_for_leader(&cluster.a);
    assert_eq!(one(&cluster.a, "SELECT v FROM t WHERE id = 2"), "new");
}

#[test]
fn g11_a_primary_that_sleeps_past_its_time_acknowledges_nothing_when_it_wakes_up() {
    let (_witness, mut a, b) = cluster();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    let clients = ["on", "local"].map(|level| {
        let mut client = a.pg();
        client
            .query(&format!("SET synchronous_commit = {level}"))
            .unwrap();
        client
    });
    a.server().signal(Signal::STOP);
    wait_for_leader(&b);
    b.sql("INSERT INTO t VALUES (2, 'new')");
    let mut id = 10;
    let late = clients.map(|mut client| {
        id += 1;
        let sql = format!("INSERT INTO t VALUES ({id}, 'late')");
        std::thread::spawn(move || client.query(&sql).map(drop))
    });
    a.server().signal(Signal::CONT);
    for late in late {
        let answer = late.join().unwrap();
        assert!(answer.is_err(), "a late acknowledgement: {answer:?}");
    }
    caught_up(&b, &a);
    assert_eq!(rows_of(&a, "t"), rows_of(&b, "t"));
    assert_eq!(one(&b, "SELECT count(*) FROM t WHERE id > 2"), "0");
}

#[test]
fn g11_without_its_witness_a_primary_leads_on_and_with_it_again_a_standby_takes_over() {
    let (mut witness, mut a, b) = cluster();
    let (epoch, votes_before) = (status(&a)["epoch"].clone(), votes(&a));
    witness.kill();
    eventually("it is missed", || {
        let connected = &failover(&a)["witness"]["connected"];
        (*connected == json!(false)).then_some(())
    });
    let begun = Instant::now();
    let mut id = 0;
    while begun.elapsed() < TIMEOUT * 2 {
        id += 1;
        a.sql(&format!("INSERT INTO t VALUES ({id}, 'x')"));
    }
    assert!(leads(&a) && is_in_sync(&a, "b"));
    assert_eq!(status(&a)["epoch"], epoch);
    caught_up(&a, &b);
    witness.start();
    eventually("it takes part", || {
        (failover(&a)["witness"]["connected"] == json!(true)).then_some(())
    });
    assert_eq!(votes(&a), votes_before);
    a.kill();
    wait_for_leader(&b);
    assert_eq!(one(&b, "SELECT count(*) FROM t"), id.to_string());
}

#[test]
fn g12_votes_outlive_restarts_of_all() {
    let (mut witness, mut a, mut b) = cluster();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    let before = votes(&a);
    witness.kill();
    b.kill();
    witness.start();
    b.start();
    wait_in_sync(&a, &["a", "b"]);
    assert_eq!(votes(&a), before);
    assert_eq!(failover(&b)["promised"], before["promised"]);
    // All at once: whoever led leads again, in an epoch of its own.
    for node in [&mut a, &mut b, &mut witness] {
        node.kill();
    }
    for node in [&mut witness, &mut b, &mut a] {
        node.start();
    }
    let led = |node: &Fixture| failover(node)["elected"].as_u64() > Some(0);
    eventually("somebody leads", || (led(&a) || led(&b)).then_some(()));
    let (primary, standby) = if led(&a) { (&a, &b) } else { (&b, &a) };
    wait_in_sync(primary, &["a", "b"]);
    assert!(votes(primary)["promised"].as_u64() > before["promised"].as_u64());
    primary.sql("INSERT INTO t VALUES (2, 'y')");
    caught_up(primary, standby);
    assert_eq!(rows_of(&a, "t"), rows_of(&b, "t"));
}

#[test]
fn g11_of_two_standbys_one_takes_over_and_the_other_follows_it() {
    let witness = witness();
    let names = ["a", "b", "c"];
    let start = |name: &str, args: &[&str]| {
        let mut node = voter(name, &names, &url(&witness), args);
        node.start();
        node
    };
    let a = start("a", &[]);
    a.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    let follow = url(&a);
    let b = start("b", &["--standby-of", &follow]);
    let c = start("c", &["--standby-of", &follow]);
    wait_in_sync(&a, &names);
    let mut nodes = [a, b, c];
    let load = Load::that_finds_the_primary(&[&nodes[0], &nodes[1], &nodes[2]], 3);
    let mut primary = 0;
    for _ in 0..2 {
        let before = load.count();
        eventually("some commits", || {
            (load.count() > before + 50).then_some(())
        });
        nodes[primary].kill();
        let others = [(primary + 1) % 3, (primary + 2) % 3];
        let next = eventually("one leads", || {
            others.into_iter().find(|place| leads(&nodes[*place]))
        });
        let third = 3 - primary - next;
        streams(&nodes[next], names[third]);
        assert!(!is_primary(&nodes[third]));
        assert_eq!(leader(&nodes[third]), names[next]);
        nodes[primary].start();
        wait_in_sync(&nodes[next], &names);
        primary = next;
    }
    let before = load.count();
    eventually("some commits", || {
        (load.count() > before + 50).then_some(())
    });
    load.wait_until_read();
    let (acknowledged, seen) = load.stop();
    nothing_lost(&nodes[primary], &acknowledged, &seen);
    for node in &nodes {
        if !is_primary(node) {
            caught_up(&nodes[primary], node);
        }
        assert_eq!(rows_of(node, "t"), rows_of(&nodes[primary], "t"));
    }
}

#[test]
fn g11_a_standby_that_lacks_what_was_acknowledged_is_not_elected() {
    let (_witness, mut a, mut b) = cluster();
    b.kill();
    // It is waited for until the witness has in writing that it is not in sync any more.
    a.sql("INSERT INTO t VALUES (1, 'alone')");
    wait_in_sync(&a, &["a"]);
    a.kill();
    b.start();
    let begun = Instant::now();
    eventually("it says why it does not lead", || {
        let problem = failover(&b)["problem"].clone();
        let is_said = problem.as_str().is_some_and(|why| why.contains("in sync"));
        (is_said && begun.elapsed() > TIMEOUT * 2).then_some(())
    });
    assert!(!is_primary(&b));
    let refused = b.post("/v1/promote", &json!({}));
    assert_eq!(
        refused.json()["error"]["sqlstate"],
        "55000",
        "{}",
        refused.text()
    );
    a.start();
    wait_in_sync(&a, &["a", "b"]);
    a.kill();
    wait_for_leader(&b);
    assert_eq!(one(&b, "SELECT v FROM t WHERE id = 1"), "alone");
}

#[test]
fn g11_a_switchover_goes_by_the_witness_and_a_command_does_not_depose_who_leads() {
    let (_witness, a, b) = cluster();
    let refused = b.post("/v1/promote", &json!({}));
    let text = refused.text();
    assert_ne!(refused.status, 200, "{text}");
    assert!(text.contains("switchover"), "{text}");
    // It has not even let go of its primary for it.
    assert_eq!(
        status(&b)["replication"]["upstream"]["connected"],
        json!(true)
    );
    let begun = Instant::now();
    let handed = a.post("/v1/standbys/switchover", &json!({}));
    assert_eq!(
        handed.status,
        200,
        "{}\n{}",
        handed.text(),
        b.setup.printed()
    );
    // Nobody waits for a lease to end.
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    assert!(leads(&b));
    wait_in_sync(&b, &["a", "b"]);
    b.sql("INSERT INTO t VALUES (1, 'x')");
    caught_up(&b, &a);
    assert_eq!(leader(&a), "b");
}

#[test]
fn g11_what_votes_came_to_can_be_seen() {
    let (witness, a, b) = cluster();
    let rows = a.sql("SELECT name, in_sync FROM springhead.standbys");
    assert_eq!(rows, [[Some("b".to_owned()), Some("t".to_owned())]]);
    let told = |node: &Fixture| {
        let output = node.command(&["standby", "status", "--url", &url(node)]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (node, role) in [(&a, "primary"), (&b, "standby")] {
        let text = eventually("both know who leads, and who is in sync", || {
            let text = told(node);
            let has = |words: &[&str]| {
                let mut lines = text.lines();
                lines.any(|line| line.split_whitespace().eq(words.iter().copied()))
            };
            (has(&["leader", "a"]) && has(&["in", "sync", "a,", "b"])).then_some(text)
        });
        for line in [
            ["role", role],
            ["promotion", "by"],
            ["witness", &url(&witness)],
        ] {
            let begins = |shown: &str| shown.split_whitespace().take(2).eq(line);
            assert!(text.lines().any(begins), "{line:?} in\n{text}");
        }
        let ready = node.get("/readyz").json();
        assert_eq!(ready["leader"], "a", "{ready}");
        assert_eq!(ready["promised"], failover(node)["promised"]);
    }
    let metrics = a.get("/metrics").text();
    for line in [
        "springhead_vote_leads 1",
        "springhead_vote_in_sync_nodes 2",
        "springhead_witness_connected 1",
        "springhead_vote_elected_total 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let known = status(&witness);
    assert_eq!(known["leader"]["name"], "a", "{known}");
    assert_eq!(known["in_sync"], json!(["a", "b"]));
    assert!(
        witness
            .get("/metrics")
            .text()
            .contains("springhead_witness_is_led 1")
    );
}

#[test]
fn g6_a_witness_serves_only_its_cluster_and_keeps_to_its_directory() {
    let (witness, a, mut b) = cluster();
    b.kill();
    // Another cluster, and a node that names other nodes.
    let mut stranger = voter("a", &["a", "b"], &url(&witness), &[]);
    stranger.start();
    let mut confused = voter(
        "b",
        &["b", "a"],
        &url(&witness),
        &["--standby-of", &url(&a)],
    );
    confused.start();
    for (node, what) in [
        (&stranger, "another cluster"),
        (&confused, "the same on all"),
    ] {
        eventually(&format!("it is told: {what}"), || {
            let problem = failover(node)["witness"]["problem"].clone();
            problem.as_str()?.contains(what).then_some(())
        });
        assert!(!is_primary(node));
    }
    assert!(leads(&a));
    // Without the token nobody is answered, and nobody follows a witness.
    let mut untold = voter("a", &["a", "b"], &url(&witness), &[]);
    let token = untold.setup.args.iter().position(|arg| arg == nodes::TOKEN);
    untold.setup.args[token.unwrap()] = "another".to_owned();
    untold.start();
    eventually("it is refused", || {
        let problem = failover(&untold)["witness"]["problem"].clone();
        problem.as_str()?.contains("standby_token").then_some(())
    });
    for (directory, command) in [(&witness, "serve"), (&a, "witness")] {
        let mut misled = Fixture::new();
        let setup = &mut misled.setup;
        std::fs::create_dir(&setup.data_dir).unwrap();
        for name in ["VERSION", "witness.json", "role.json"] {
            // Each has one of the last two.
            let _ = std::fs::copy(
                directory.setup.data_dir.join(name),
                setup.data_dir.join(name),
            );
        }
        setup.command = command;
        let text = misled.try_start().unwrap_err().to_string();
        assert!(text.contains("directory"), "{text}");
    }
}

#[test]
fn g12_a_primary_killed_while_it_is_elected_leads_after_its_next_start() {
    let (_witness, mut a, mut b) = cluster();
    b.kill();
    a.sql("INSERT INTO t VALUES (1, 'x')");
    for failpoint in [
        "vote.elected",
        "standby.promote_epoch",
        "standby.promote_stored",
    ] {
        a.kill();
        let setup = a.setup.clone().with_failpoint(failpoint, 1);
        assert!(a.start_as(&setup).is_err(), "{failpoint} was not passed");
        a.start();
        wait_for_leader(&a);
    }
    b.start();
    wait_in_sync(&a, &["a", "b"]);
    a.sql("INSERT INTO t VALUES (2, 'y')");
    caught_up(&a, &b);
    assert_eq!(rows_of(&a, "t"), rows_of(&b, "t"));
}

#[test]
fn g11_a_witness_that_is_lost_is_replaced_and_never_taken_for_the_old_one() {
    let (mut witness, a, b) = cluster();
    witness.kill();
    std::fs::remove_dir_all(&witness.setup.data_dir).unwrap();
    witness.start();
    eventually("it is noticed", || {
        let problem = failover(&a)["witness"]["problem"].clone();
        problem.as_str()?.contains("forgotten").then_some(())
    });
    a.sql("INSERT INTO t VALUES (1, 'x')");
    assert!(leads(&a), "acknowledgements of b are enough");
    let enrol = |node: &Fixture| node.command(&["standby", "enrol-witness", "--url", &url(node)]);
    let refused = enrol(&b);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let done = enrol(&a);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    wait_in_sync(&a, &["a", "b"]);
    assert_eq!(enrol(&a).status.code(), Some(1), "it serves already");
    let mut a = a;
    a.kill();
    wait_for_leader(&b);
    assert_eq!(one(&b, "SELECT count(*) FROM t"), "1");
}
