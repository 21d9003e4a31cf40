//! Disks that are full, on either side of nodes that follow one another: what waits, what is refused, what is
//! said, and that it all goes on once there is room, with nothing lost (G11, G12). Real file systems, which
//! need root.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::io::Write as _;
use std::time::{Duration, Instant};

use nodes::voting::{
    TIMEOUT, failover, leads, new_witness, voter, votes, wait_for_leader, wait_in_sync,
};
use nodes::{
    caught_up, durable, eventually, is_primary, node, one, promote, same_rows, status, streams,
    try_sql, url,
};
use springhead_sim::fixture::Fixture;
use springhead_sim::small_disk::SmallDisk;

/// Of the file systems, so that the log, and not what a state takes of the disk, is what fills them.
const SIZE: u64 = 200;
const BALLAST: usize = 130;
const RESERVE: [&str; 2] = ["--reserve-bytes", "24MiB"];

/// Inserts big rows from `from` on, each waited for at `level`, until one is not acknowledged: how many were,
/// and the SQLSTATE and message of the one that was not.
fn insert_until_refused(node: &Fixture, from: u64, level: &str) -> (u64, (String, String)) {
    let note = "n".repeat(100_000);
    let mut client = node.pg();
    let set = format!("SET synchronous_commit = {level}; SET statement_timeout = '3s'");
    client.query(&set).unwrap();
    for id in from..from + 2_000 {
        if let Err(error) = client.query(&format!("INSERT INTO t VALUES ({id}, '{note}')")) {
            let code = error.code().unwrap_or_default().to_owned();
            return (id - from, (code, error.to_string()));
        }
    }
    panic!("2,000 big rows were acknowledged");
}

fn count(node: &Fixture) -> u64 {
    one(node, "SELECT count(*) FROM t").parse().unwrap()
}

/// A primary a and a standby b that its commits wait for, one of them on a small disk.
fn pair(small: &str) -> Option<(Fixture, Fixture, SmallDisk)> {
    let mut a = node("a", &["--synchronous-standbys", "ANY 1 (a, b)"]);
    let args = ["--synchronous-standbys", "ANY 1 (a, b)"];
    let follow = url(&a);
    let mut b = node("b", &[args[0], args[1], "--standby-of", &follow]);
    let on_it = if small == "a" { &mut a } else { &mut b };
    on_it.setup.args.extend(RESERVE.map(str::to_owned));
    let disk = SmallDisk::over(on_it.data_dir(), SIZE)?;
    a.start();
    b.start();
    streams(&a, "b");
    a.sql("CREATE TABLE t (id bigint PRIMARY KEY, note text)");
    Some((a, b, disk))
}

/// A restart gives back what a killed server's states had beside them: the node is to have more left.
fn ask_for_more(node: &mut Fixture) {
    let reserve = node.setup.args.iter_mut().find(|arg| *arg == RESERVE[1]);
    *reserve.expect("it is on a small disk") = "60MiB".to_owned();
}

/// What a standby says of why it does not follow.
fn problem(node: &Fixture) -> Option<String> {
    let problem = status(node)["replication"]["upstream"]["problem"].clone();
    problem.as_str().map(str::to_owned)
}

#[test]
fn g11_commits_wait_while_the_standbys_disk_is_full_and_go_on_with_it() {
    let Some((a, mut b, disk)) = pair("b") else {
        return;
    };
    disk.take(BALLAST);
    let (acknowledged, (code, message)) = insert_until_refused(&a, 0, "on");
    assert_eq!(code, "08007", "{message}");
    assert!(message.contains("unknown on the standby"), "{message}");
    assert!(acknowledged > 50, "full after {acknowledged}");
    eventually("it says why", || {
        problem(&b)?.contains("below the reserve").then_some(())
    });
    // It is behind, and the primary says so.
    let row = status(&a)["replication"]["standbys"][0].clone();
    assert!(row["lag_changes"].as_u64() > Some(0), "{row}");
    // Whoever asks for less does not wait; reads go on, on both; the standby has all that was acknowledged.
    a.sql("SET synchronous_commit = local; INSERT INTO t VALUES (900000, 'local')");
    assert!(count(&b) >= acknowledged);
    assert_eq!(b.get("/healthz").status, 200);
    let waiting = std::thread::spawn({
        let mut client = a.pg();
        move || {
            client
                .query("INSERT INTO t VALUES (900001, 'waits')")
                .map(drop)
        }
    });
    // Killed and started again, it is as full as before.
    b.kill();
    ask_for_more(&mut b);
    b.start();
    eventually("it says why again", || {
        problem(&b)?.contains("below the reserve").then_some(())
    });
    assert!(count(&b) >= acknowledged);
    assert!(!waiting.is_finished());
    disk.give_back();
    waiting.join().unwrap().unwrap();
    caught_up(&a, &b);
    same_rows(&a, &b, "t");
    assert_eq!(
        count(&a),
        acknowledged + 3,
        "the one that was not answered is there, too"
    );
    a.sql("INSERT INTO t VALUES (900002, 'after')");
}

#[test]
fn g11_a_primary_with_a_full_disk_refuses_writes_and_its_standby_can_take_over() {
    let Some((mut a, b, disk)) = pair("a") else {
        return;
    };
    disk.take(BALLAST);
    let (acknowledged, (code, message)) = insert_until_refused(&a, 0, "on");
    assert_eq!(code, "53100", "{message}");
    assert!(acknowledged > 50, "full after {acknowledged}");
    assert_eq!(count(&a), acknowledged);
    caught_up(&a, &b);
    // Room, and it goes on by itself.
    disk.give_back();
    eventually("it takes writes again", || {
        try_sql(&a, "INSERT INTO t VALUES (900000, 'again')").ok()
    });
    a.sql("DELETE FROM t WHERE id = 900000");
    // Full again, and lost.
    disk.take(BALLAST - 10);
    let (more, (code, message)) = insert_until_refused(&a, acknowledged, "on");
    assert_eq!(code, "53100", "{message}");
    a.kill();
    promote(&b);
    assert_eq!(count(&b), acknowledged + more);
    b.sql("SET synchronous_commit = local; INSERT INTO t VALUES (900001, 'new')");
    // The old primary returns as a standby that has no room, says so, and serves what it has.
    ask_for_more(&mut a);
    a.start();
    eventually(
        &format!("it says why it does not follow, {}", a.setup.printed()),
        || problem(&a)?.contains("reserve").then_some(()),
    );
    assert!(!is_primary(&a));
    assert_eq!(count(&a), acknowledged + more);
    let waiting = std::thread::spawn({
        let mut client = b.pg();
        move || {
            client
                .query("INSERT INTO t VALUES (900002, 'waits')")
                .map(drop)
        }
    });
    disk.give_back();
    waiting.join().unwrap().unwrap();
    caught_up(&b, &a);
    same_rows(&a, &b, "t");
}

#[test]
fn g11_a_standby_in_sync_whose_disk_is_full_is_given_up_and_taken_back() {
    let mut witness = new_witness();
    witness.start();
    let names = ["a", "b"];
    let mut a = voter("a", &names, &url(&witness), &[]);
    let mut b = voter("b", &names, &url(&witness), &["--standby-of", &url(&a)]);
    b.setup.args.extend(RESERVE.map(str::to_owned));
    let Some(disk) = SmallDisk::over(b.data_dir(), SIZE) else {
        return;
    };
    a.start();
    a.sql("CREATE TABLE t (id bigint PRIMARY KEY, note text)");
    b.start();
    wait_in_sync(&a, &names);
    disk.take(BALLAST);
    let note = "n".repeat(100_000);
    let mut client = a.pg();
    // Enough to fill it: commits wait for b until the witness has it in writing that b is not in sync.
    let mut longest = Duration::ZERO;
    for id in 0..400 {
        let begun = Instant::now();
        let inserted = client.query(&format!("INSERT INTO t VALUES ({id}, '{note}')"));
        inserted.unwrap_or_else(|error| panic!("{id}: {error}"));
        longest = longest.max(begun.elapsed());
    }
    wait_in_sync(&a, &["a"]);
    eventually("it says why", || {
        problem(&b)?.contains("below the reserve").then_some(())
    });
    assert!(longest < TIMEOUT * 6, "a commit waited {longest:?}");
    // It may lack what was acknowledged: it is not elected.
    a.kill();
    eventually("it says why it does not lead", || {
        let problem = failover(&b)["problem"].clone();
        problem.as_str()?.contains("in sync").then_some(())
    });
    assert!(!is_primary(&b));
    a.start();
    wait_for_leader(&a);
    disk.give_back();
    wait_in_sync(&a, &names);
    caught_up(&a, &b);
    same_rows(&a, &b, "t");
    a.kill();
    wait_for_leader(&b);
    assert_eq!(count(&b), 400);
    println!("a commit waited {longest:?} at most for a standby without room");
}

#[test]
fn g11_a_witness_with_a_full_disk_elects_nobody_and_then_whoever_may_be() {
    let mut witness = new_witness();
    let Some(_disk) = SmallDisk::over(witness.data_dir(), 1) else {
        return;
    };
    witness.start();
    let names = ["a", "b"];
    let mut a = voter("a", &names, &url(&witness), &[]);
    a.start();
    a.sql("CREATE TABLE t (id bigint PRIMARY KEY, note text)");
    let mut b = voter("b", &names, &url(&witness), &["--standby-of", &url(&a)]);
    b.start();
    wait_in_sync(&a, &names);
    let ballast = witness.data_dir().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write(&[7; 4096]).is_ok_and(|length| length > 0) {}
    drop(file);
    let before = votes(&a);
    let end = durable(&a);
    // The primary leads on; what the witness cannot write down does not happen.
    for id in 0..20 {
        a.sql(&format!("INSERT INTO t VALUES ({id}, 'x')"));
    }
    assert!(durable(&a) >= end + 20);
    a.kill();
    let lost = Instant::now();
    eventually("b has asked for its vote for long", || {
        (lost.elapsed() > TIMEOUT * 3).then_some(())
    });
    assert!(!leads(&b), "elected by a promise that is not written down");
    assert_eq!(votes(&b)["promised"], before["promised"]);
    assert!(failover(&b)["problem"].is_string(), "{}", failover(&b));
    std::fs::remove_file(&ballast).unwrap();
    wait_for_leader(&b);
    assert_eq!(count(&b), 20);
    a.start();
    // The witness may still have it in sync from before it was lost.
    caught_up(&b, &a);
    wait_in_sync(&b, &names);
    same_rows(&a, &b, "t");
}
