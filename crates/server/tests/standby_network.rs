//! What a network does to nodes that follow one another: silence in one direction or both, damage,
//! repetition, and what a commit that waits is told meanwhile.
//!
//! `SPRINGHEAD_DAMAGE_ROUNDS` sets how many random faults three standbys at once get (6 in the suite).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nodes::load::{Load, nothing_lost};
use nodes::proxy::{Direction, Proxy};
use nodes::{
    caught_up, durable, eventually, node, one, promote, rows_of, same_rows, status, streams,
    try_sql, url,
};
use serde_json::json;
use springhead_sim::client::pg::cancel;
use springhead_sim::fixture::Fixture;
use springhead_sim::rng::Rng;

/// A primary, a standby that reaches it through a network of the test's, and that network.
fn pair(args: &[&str]) -> (Fixture, Fixture, Proxy) {
    let mut primary = node("a", args);
    primary.start();
    let proxy = Proxy::to(primary.setup.http);
    let mut standby = node("b", &[]);
    standby.setup.args.push("--standby-of".to_owned());
    standby.setup.args.push(format!("http://{}", proxy.address));
    standby.start();
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    (primary, standby, proxy)
}

#[test]
fn g11_a_commit_waits_while_the_standby_is_cut_off_and_is_never_called_a_success() {
    let (primary, standby, proxy) = pair(&["--synchronous-standbys", "b"]);
    primary.sql("INSERT INTO t VALUES (1, 'x')");
    let mut feed = primary.stream("/cdc/t", None);
    proxy.partition(true);
    let begun = Instant::now();
    let refused = try_sql(
        &primary,
        "SET statement_timeout = '500ms'; INSERT INTO t VALUES (2, 'waits')",
    );
    let (code, message) = refused.unwrap_err();
    assert_eq!(code, "08007", "{message}");
    assert!(message.contains("unknown on the standby"), "{message}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    // It is here, for whoever asks for less; a feed does not show it yet.
    assert_eq!(local(&primary, "SELECT count(*) FROM t WHERE id = 2"), "1");
    primary.sql("SET synchronous_commit = local; INSERT INTO t VALUES (3, 'local')");
    let waiting = std::thread::spawn({
        let mut client = primary.pg();
        move || client.query("INSERT INTO t VALUES (4, 'blocks')").map(drop)
    });
    eventually("the standby is gone", || {
        let standbys = status(&primary)["replication"]["standbys"].clone();
        (standbys[0]["state"] == "disconnected").then_some(())
    });
    assert!(!waiting.is_finished());
    proxy.partition(false);
    waiting.join().unwrap().unwrap();
    let mut shown = Vec::new();
    while shown.len() < 3 {
        let event = feed.next_event().unwrap().unwrap();
        shown.extend(event.json()["document_id"].as_str().map(str::to_owned));
    }
    assert_eq!(shown, ["2", "3", "4"]);
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
}

/// The one value that a query gives who does not ask for standbys.
fn local(node: &Fixture, sql: &str) -> String {
    let mut client = node.pg();
    client.query("SET synchronous_commit = local").unwrap();
    let rows = client.query(sql).unwrap().rows;
    rows[0][0].clone().unwrap()
}

#[test]
fn g11_a_read_does_not_show_what_no_standby_has_confirmed() {
    let (primary, standby, proxy) = pair(&["--synchronous-standbys", "b"]);
    primary.sql("CREATE DATABASE other");
    primary.sql("INSERT INTO t VALUES (1, 'x')");
    let mut open = primary.pg();
    open.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t")
        .unwrap();
    proxy.partition(true);
    let writing = std::thread::spawn({
        let mut client = primary.pg();
        move || client.query("UPDATE t SET v = 'y'").map(drop)
    });
    eventually("it is in the state", || {
        (local(&primary, "SELECT v FROM t") == "y").then_some(())
    });
    // Whatever asks for the rows: out of time, or cancelled, and nothing shown.
    for sql in [
        "SELECT v FROM t",
        "BEGIN; DECLARE c CURSOR FOR SELECT v FROM t",
        "COPY t TO STDOUT",
        "BEGIN; SELECT v FROM t FOR UPDATE",
    ] {
        let mut client = primary.pg();
        let refused = client.query(&format!("SET statement_timeout = '300ms'; {sql}"));
        assert_eq!(refused.unwrap_err().code(), Some("57014"), "{sql}");
    }
    let mut client = primary.pg();
    let key = client.key.unwrap();
    let reading =
        std::thread::spawn(move || client.query("SELECT v FROM t").map(|found| found.rows));
    eventually("a cancel request ends it", || {
        cancel(primary.setup.pg, key).unwrap();
        nodes::pause(20);
        reading.is_finished().then_some(())
    });
    assert_eq!(reading.join().unwrap().unwrap_err().code(), Some("57014"));
    // What has nothing of it does not wait: a snapshot from before, another database, the catalogs.
    let before = open.query("SELECT v FROM t").unwrap();
    assert_eq!(before.rows[0][0].as_deref(), Some("x"));
    open.query("COMMIT").unwrap();
    primary.pg_to("other").query("SELECT 1").unwrap();
    let standbys = primary.sql("SELECT flushed_lsn, name FROM springhead.standbys");
    assert_eq!(standbys[0][1].as_deref(), Some("b"));
    // Both are answered once the standby has it.
    let reading = std::thread::spawn({
        let mut client = primary.pg();
        move || client.query("SELECT v FROM t").map(|found| found.rows)
    });
    nodes::pause(100);
    assert!(!reading.is_finished() && !writing.is_finished());
    proxy.partition(false);
    writing.join().unwrap().unwrap();
    let rows = reading.join().unwrap().unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("y"));
    caught_up(&primary, &standby);
}

#[test]
fn g11_a_primary_that_is_stopped_leaves_nothing_behind() {
    let (mut primary, standby, _proxy) = pair(&[]);
    for n in 0..200 {
        primary.sql(&format!("INSERT INTO t VALUES ({n}, 'x')"));
    }
    primary.stop();
    nodes::promote(&standby);
    assert_eq!(one(&standby, "SELECT count(*) FROM t"), "200");
}

#[test]
fn g11_each_level_waits_for_what_it_says() {
    let (primary, standby, _proxy) = pair(&["--synchronous-standbys", "ANY 1 (b)"]);
    let mut client = primary.pg();
    for (n, level) in ["off", "local", "remote_write", "on", "remote_apply"]
        .iter()
        .enumerate()
    {
        client
            .query(&format!("SET synchronous_commit = {level}"))
            .unwrap();
        client
            .query(&format!("INSERT INTO t VALUES ({n}, '{level}')"))
            .unwrap();
        if *level == "remote_apply" {
            // Visible there when it was answered here.
            assert_eq!(
                one(&standby, &format!("SELECT v FROM t WHERE id = {n}")),
                *level
            );
        }
    }
    assert_eq!(
        client
            .query("SET synchronous_commit = sometimes")
            .unwrap_err()
            .code(),
        Some("22023")
    );
    let rows = primary.sql("SELECT mode, priority FROM springhead.standbys");
    assert_eq!(rows, [[Some("quorum".to_owned()), Some("1".to_owned())]]);
}

#[test]
fn g11_a_primary_may_go_on_alone_and_says_so() {
    let (primary, standby, proxy) =
        pair(&["--synchronous-standbys", "b", "--async-after-ms", "300"]);
    proxy.partition(true);
    let begun = Instant::now();
    primary.sql("INSERT INTO t VALUES (1, 'alone')");
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(status(&primary)["replication"]["asynchronous"], json!(true));
    let metrics = primary.get("/metrics").text();
    assert!(
        metrics.contains("springhead_standby_asynchronous 1"),
        "{metrics}"
    );
    // From here on nobody waits.
    let begun = Instant::now();
    primary.sql("INSERT INTO t VALUES (2, 'alone')");
    assert!(
        begun.elapsed() < Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    proxy.partition(false);
    eventually("commits wait again", || {
        (status(&primary)["replication"]["asynchronous"] == json!(false)).then_some(())
    });
    // Written down in the log itself, a moment after.
    eventually("both are marked", || {
        let marks = primary.sql(
            "SELECT action FROM springhead.audit WHERE action LIKE '%synchronous' ORDER BY id",
        );
        let marks: Vec<_> = marks.iter().map(|row| row[0].clone().unwrap()).collect();
        (marks == ["asynchronous", "synchronous"]).then_some(())
    });
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
}

#[test]
fn g11_damage_repetition_and_one_way_silence_mix_nothing() {
    let (primary, standby, proxy) = pair(&[]);
    type Switch = fn(&Proxy, bool);
    let faults: [(&str, Switch); 4] = [
        ("damaged frames", |proxy, on| {
            proxy
                .network
                .back
                .damage_every
                .store(u64::from(on) * 7, Ordering::Release);
        }),
        ("damaged acknowledgements", |proxy, on| {
            proxy
                .network
                .there
                .damage_every
                .store(u64::from(on) * 5, Ordering::Release);
        }),
        ("repeated frames", |proxy, on| {
            proxy
                .network
                .back
                .repeat_every
                .store(u64::from(on) * 6, Ordering::Release);
        }),
        ("frames swallowed", |proxy, on| {
            proxy.network.back.swallow.store(on, Ordering::Release);
            if !on {
                proxy.cut();
            }
        }),
    ];
    let mut id = 0;
    for (what, switch) in faults {
        switch(&proxy, true);
        for _ in 0..200 {
            id += 1;
            primary.sql(&format!("INSERT INTO t VALUES ({id}, '{what}')"));
        }
        switch(&proxy, false);
        caught_up(&primary, &standby);
        assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"), "{what}");
    }
    // Flapping: cut every few commits.
    for n in 0..100 {
        id += 1;
        primary.sql(&format!("INSERT INTO t VALUES ({id}, 'flap')"));
        if n % 10 == 0 {
            proxy.cut();
        }
    }
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    assert!(url(&primary).starts_with("http://"));
}

/// A random fault of one direction: bits flipped, pieces repeated, out of order, cut off or swallowed.
fn spoil(direction: &Direction, random: &mut Rng) {
    let every = 2 + random.below(12);
    let fault = match random.below(5) {
        0 => &direction.damage_every,
        1 => &direction.repeat_every,
        2 => &direction.reorder_every,
        3 => &direction.cut_every,
        _ => return direction.swallow.store(true, Ordering::Release),
    };
    fault.store(every, Ordering::Release);
}

fn mend(direction: &Direction) {
    for fault in [
        &direction.damage_every,
        &direction.repeat_every,
        &direction.reorder_every,
        &direction.cut_every,
    ] {
        fault.store(0, Ordering::Release);
    }
    direction.swallow.store(false, Ordering::Release);
}

/// Commits wait for one of two; a third follows one of these. All three get their bytes spoilt at once.
#[test]
fn g11_damaged_and_reordered_bytes_mix_nothing_on_several_standbys() {
    let rounds = std::env::var("SPRINGHEAD_DAMAGE_ROUNDS").ok();
    let rounds: u64 = rounds.and_then(|text| text.parse().ok()).unwrap_or(6);
    let mut primary = node("a", &["--synchronous-standbys", "ANY 1 (b, c)"]);
    primary.start();
    primary.sql("SET synchronous_commit = local; CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    let behind = |name: &str, target: &Fixture| {
        let proxy = Proxy::to(target.setup.http);
        let follow = format!("http://{}", proxy.address);
        let mut standby = node(name, &["--standby-of", &follow]);
        standby.start();
        streams(target, name);
        (standby, proxy)
    };
    let (b, to_b) = behind("b", &primary);
    let (c, to_c) = behind("c", &primary);
    let (d, to_d) = behind("d", &b);
    let proxies = [&to_b, &to_c, &to_d];
    let load = Load::start([&primary, &primary], 0, 3, true);
    let mut random = Rng::new(rounds);
    for _ in 0..rounds {
        for proxy in proxies {
            for direction in [&proxy.network.there, &proxy.network.back] {
                if random.chance(60) {
                    spoil(direction, &mut random);
                }
            }
        }
        nodes::pause(200 + random.below(1_500));
        for proxy in proxies {
            mend(&proxy.network.there);
            mend(&proxy.network.back);
            proxy.cut();
        }
        let before = load.count();
        eventually("commits go on", || {
            (load.count() > before + 20).then_some(())
        });
    }
    load.wait_until_read();
    let (acknowledged, seen) = load.stop();
    nothing_lost(&primary, &acknowledged, &seen);
    for standby in [&b, &c, &d] {
        caught_up(&primary, standby);
        same_rows(&primary, standby, "t");
    }
    // Any of those that commits waited for has everything, whichever it was that acknowledged.
    primary.kill();
    promote(&c);
    nothing_lost(&c, &acknowledged, &seen);
    println!(
        "{rounds} rounds, {} commits acknowledged, 0 lost, connections ended by what came over them: {}",
        acknowledged.len(),
        proxies
            .iter()
            .map(|proxy| proxy.network.ended.load(Ordering::Acquire))
            .sum::<u64>(),
    );
}

#[test]
fn g7_a_standby_that_is_away_too_long_loses_its_slot_and_takes_a_base_backup() {
    let (primary, standby, proxy) = pair(&[
        "--standby-slot-bytes",
        "2MiB",
        "--retain-bytes",
        "1MiB",
        "--maintenance-interval",
        "200ms",
    ]);
    proxy.partition(true);
    let filler = "x".repeat(1000);
    let values: Vec<String> = (0..500).map(|n| format!("({n}, '{filler}')")).collect();
    primary.sql(&format!("INSERT INTO t VALUES {}", values.join(", ")));
    for _ in 0..20 {
        primary.sql("UPDATE t SET v = v || 'y'");
    }
    eventually("the slot is invalidated", || {
        let standbys = status(&primary)["replication"]["standbys"].clone();
        (standbys[0]["state"] == "invalidated").then_some(())
    });
    proxy.partition(false);
    eventually(
        &format!("it streams again: {}", standby.setup.printed()),
        || {
            let standbys = status(&primary)["replication"]["standbys"].clone();
            (standbys[0]["state"] == "streaming").then_some(())
        },
    );
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    assert!(standby.setup.printed().contains("base backup") || durable(&standby) > 0);
}
