//! What a network does to nodes that follow one another: silence in one direction or both, damage,
//! repetition, and what a commit that waits is told meanwhile.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nodes::proxy::Proxy;
use nodes::{caught_up, durable, eventually, node, one, rows_of, status, streams, try_sql, url};
use serde_json::json;
use springhead_sim::fixture::Fixture;

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
    // It is here, and whoever asks for less does not wait; a feed does not show it yet.
    assert_eq!(one(&primary, "SELECT count(*) FROM t WHERE id = 2"), "1");
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
