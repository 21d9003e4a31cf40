//! A standby beside its primary, on real processes: it has the same, shows the same, and takes no
//! writes.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use nodes::{
    caught_up, durable, eventually, is_primary, node, one, promote, rows_of, standby_of, status,
    streams, try_sql, url,
};
use serde_json::json;

#[test]
fn g11_a_standby_has_shows_and_refuses() {
    let mut primary = node("a", &[]);
    primary.start();
    primary.sql("CREATE TABLE orders (id integer PRIMARY KEY, status text)");
    primary.sql("INSERT INTO orders SELECT n, 'before' FROM generate_series(1, 500) AS n");
    let standby = standby_of(&primary, "b", &["--min-lsn-wait", "300ms"]);
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&standby, "orders"), rows_of(&primary, "orders"));

    // What comes later comes too: rows, definitions, tenants, messages, sequences.
    let mut listener = standby.pg();
    listener.query("LISTEN news").unwrap();
    let mut feed = standby.stream("/cdc/orders", None);
    let sql = "SELECT%20id%20FROM%20orders%20WHERE%20status%20%3D%20'after'";
    let mut live = standby.stream(&format!("/live?sql={sql}"), None);
    primary.sql("INSERT INTO orders VALUES (1000, 'after')");
    primary.sql("ALTER TABLE orders ADD COLUMN note text DEFAULT 'none'");
    primary.sql("CREATE TABLE numbered (id serial PRIMARY KEY, v text)");
    primary.sql("INSERT INTO numbered (v) VALUES ('x'), ('y')");
    primary.sql("CREATE DATABASE shop");
    let mut shop = primary.pg_to("shop");
    shop.query("CREATE TABLE t (id integer PRIMARY KEY)")
        .unwrap();
    shop.query("INSERT INTO t VALUES (7)").unwrap();
    primary.sql("NOTIFY news, 'hello'");
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&standby, "orders"), rows_of(&primary, "orders"));
    assert_eq!(rows_of(&standby, "numbered"), rows_of(&primary, "numbered"));
    let there = standby.pg_to("shop").query("SELECT id FROM t").unwrap();
    assert_eq!(there.rows, [[Some("7".to_owned())]]);
    let notified = listener.await_notification().unwrap();
    assert_eq!(notified.payload, "hello");
    let event = feed.next_event().unwrap().unwrap();
    assert_eq!(event.json()["document_id"], "1000");
    let added = loop {
        let event = live.next_event().unwrap().unwrap();
        let added = event.json()["added"].clone();
        if added.as_array().is_some_and(|added| !added.is_empty()) {
            break added;
        }
    };
    assert_eq!(added[0]["row"][0], 1000, "{added}");
    drop(shop);
    eventually("nobody is connected to it", || {
        try_sql(&primary, "DROP DATABASE shop").ok().map(drop)
    });
    caught_up(&primary, &standby);
    assert_eq!(try_sql(&standby, "SELECT 1").unwrap().len(), 1);
    eventually("the dropped tenant goes", || {
        let names = standby.sql("SHOW tenants");
        (!names
            .iter()
            .any(|row| row.iter().flatten().any(|cell| cell == "shop")))
        .then_some(())
    });

    // Writes are refused, with the primary's address; what only reads is as it should be.
    for write in [
        "INSERT INTO orders VALUES (1, 'x')",
        "CREATE TABLE other (id integer)",
        "CREATE DATABASE other",
        "NOTIFY news, 'x'",
    ] {
        let (code, message) = try_sql(&standby, write).unwrap_err();
        assert_eq!(code, "25006", "{write}: {message}");
        assert!(message.contains(&url(&primary)), "{write}: {message}");
    }
    assert_eq!(one(&standby, "SHOW transaction_read_only"), "on");
    assert_eq!(one(&standby, "SHOW in_hot_standby"), "on");
    assert_eq!(one(&standby, "SELECT pg_is_in_recovery()"), "t");
    assert_eq!(one(&primary, "SELECT pg_is_in_recovery()"), "f");
    assert_eq!(one(&primary, "SHOW transaction_read_only"), "off");
    let answer = standby.http_sql("INSERT INTO orders VALUES (1, 'x')");
    assert_eq!(answer.error_code(), "read_only");

    // What it does not have yet it waits for, and then says so.
    let ahead = standby.get(&format!(
        "/cdc/orders/poll?since_lsn={}",
        durable(&primary) + 1000
    ));
    assert_eq!(ahead.status, 503, "{}", ahead.text());
    let answer = standby.post(
        "/v1/sql",
        &json!({"sql": "SELECT 1", "min_lsn": durable(&primary) + 1000}),
    );
    assert_eq!(answer.status, 503, "{}", answer.text());

    // Clients that know both find the one that takes writes, wherever it stands in their list.
    let (p, s) = (primary.setup.pg.port(), standby.setup.pg.port());
    for ports in [format!("{s},{p}"), format!("{p},{s}")] {
        let target = format!(
            "host=127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres \
             target_session_attrs=read-write"
        );
        let output = std::process::Command::new("psql")
            .args(["-XAtc", "SHOW in_hot_standby", &target])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            said.trim(),
            "off",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let (first, second) = ports.split_once(',').unwrap();
        let ours = format!("springhead://127.0.0.1:{first},127.0.0.1:{second}");
        let output = primary.command(&["sql", "--url", &ours, "--json", "SHOW in_hot_standby"]);
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("off"),
            "{output:?}"
        );
    }

    // The primary says how far the standby is.
    streams(&primary, "b");
    let shown = status(&primary);
    let row = &shown["replication"]["standbys"][0];
    assert_eq!(row["flushed_lsn"].as_u64().unwrap(), durable(&primary));
    assert_eq!(row["mode"], "async");
    let rows = primary.sql("SELECT name, state, flushed_lsn, priority FROM springhead.standbys");
    let cells: Vec<String> = rows[0].iter().flatten().cloned().collect();
    assert_eq!(
        cells,
        ["b", "streaming", &durable(&primary).to_string(), "0"]
    );
}

#[test]
fn g11_a_promoted_standby_goes_on_where_the_primary_ended() {
    let mut primary = node("a", &["--synchronous-standbys", "b"]);
    primary.start();
    let mut standby = standby_of(&primary, "b", &["--synchronous-standbys", "a"]);
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (id serial PRIMARY KEY, v text)");
    for n in 0..50 {
        primary.sql(&format!("INSERT INTO t (v) VALUES ('{n}')"));
    }
    let rows = rows_of(&primary, "t");
    let cursor = primary.get("/cdc/t/poll?since_lsn=1&limit=1000").json();
    let cursor = cursor["next_cursor"]["cursor"].as_str().unwrap().to_owned();
    primary.kill();
    let promoted = promote(&standby);
    assert_eq!(promoted["epoch_number"], 2);
    assert!(is_primary(&standby));
    assert_eq!(rows_of(&standby, "t"), rows);
    // A cursor from before the fork is good on the new primary.
    let page = standby.get(&format!("/cdc/t/poll?cursor={cursor}")).json();
    assert_eq!(page["count"], 0, "{page}");
    // Nobody is there to wait for; the level says how a single commit does without.
    standby.sql("SET synchronous_commit = local; INSERT INTO t (v) VALUES ('new')");
    let ids =
        standby.sql("SET synchronous_commit = local; SELECT id FROM t ORDER BY id DESC LIMIT 1");
    let id: i64 = ids[0][0].clone().unwrap().parse().unwrap();
    assert!(id > 50, "a number is given twice: {id}");

    // The old primary returns: it finds the new one and follows it.
    primary.start();
    eventually("the old primary follows", || {
        (status(&primary)["role"] == "standby").then_some(())
    });
    streams(&standby, "a");
    caught_up(&standby, &primary);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    let (code, message) = try_sql(&primary, "INSERT INTO t (v) VALUES ('x')").unwrap_err();
    assert_eq!(code, "25006");
    assert!(message.contains(&url(&standby)), "{message}");
    // And the commit waits again, now for the other.
    standby.sql("INSERT INTO t (v) VALUES ('both')");
    // A promoted node stays the primary over a restart, whatever it was started as.
    standby.stop();
    standby.start();
    assert!(is_primary(&standby));
    standby.sql("SET synchronous_commit = local; INSERT INTO t (v) VALUES ('again')");
}

#[test]
fn g5_a_returning_primary_keeps_what_only_it_had_and_undoes_it() {
    let mut primary = node("a", &[]);
    primary.start();
    primary.sql("CREATE TABLE t (id integer PRIMARY KEY, v text)");
    primary.sql("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 100) AS n");
    let mut standby = standby_of(&primary, "b", &[]);
    caught_up(&primary, &standby);
    // The standby is away, and misses this.
    standby.kill();
    primary.sql("INSERT INTO t VALUES (101, 'lost')");
    primary.sql("UPDATE t SET v = 'lost' WHERE id <= 10");
    primary.sql("DELETE FROM t WHERE id > 90 AND id <= 100");
    let lost_cursor = status(&primary);
    let lost_cursor = format!(
        "{}@{}",
        lost_cursor["lsn"],
        lost_cursor["epoch"].as_str().unwrap()
    );
    primary.kill();
    standby.start();
    promote(&standby);
    standby.sql("INSERT INTO t VALUES (200, 'kept')");
    primary.start();
    streams(&standby, "a");
    caught_up(&standby, &primary);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    assert_eq!(one(&primary, "SELECT count(*) FROM t"), "101");
    let diverged = status(&primary)["replication"]["diverged"].clone();
    assert_eq!(diverged.as_array().unwrap().len(), 1, "{diverged}");
    // A cursor of what was lost is refused on both, and told where the histories part.
    for node in [&primary, &standby] {
        let refused = node.get(&format!("/cdc/t/poll?cursor={lost_cursor}"));
        assert_eq!(refused.status, 410, "{}", refused.text());
        assert!(
            refused.json()["error"]["fork_lsn"].is_u64(),
            "{}",
            refused.text()
        );
    }

    // With a definition among what only it had, it takes a base backup instead.
    primary.kill();
    standby.sql("CREATE TABLE only_there (id integer)");
    standby.sql("INSERT INTO t VALUES (300, 'lost')");
    standby.kill();
    // Promoted without having been connected, from where it was.
    primary.start();
    promote(&primary);
    primary.sql("INSERT INTO t VALUES (201, 'kept')");
    standby.start();
    streams(&primary, "b");
    caught_up(&primary, &standby);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    assert_eq!(
        try_sql(&standby, "SELECT * FROM only_there").unwrap_err().0,
        "42P01"
    );
    let diverged = status(&standby)["replication"]["diverged"].clone();
    assert_eq!(diverged.as_array().unwrap().len(), 1, "{diverged}");
}

/// What it had applied of its own history was in its state file; what took it back was in the WAL when it was
/// killed.
#[test]
fn g12_a_returning_primary_that_is_killed_while_it_takes_its_state_back_goes_on() {
    let mut primary = node("a", &[]);
    primary.start();
    primary.sql("CREATE TABLE t (id integer PRIMARY KEY, v text)");
    primary.sql("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 100) AS n");
    let mut standby = standby_of(&primary, "b", &[]);
    caught_up(&primary, &standby);
    standby.kill();
    primary.sql("UPDATE t SET v = 'lost'");
    primary.stop();
    standby.start();
    promote(&standby);
    standby.sql("INSERT INTO t VALUES (200, 'kept')");
    let setup = primary.setup.clone();
    let setup = setup.with_failpoint("standby.undo_committed", 1);
    if primary.start_as(&setup).is_ok() {
        eventually("it is killed", || {
            let moment = std::time::Duration::from_millis(10);
            primary.server().wait_end(moment).map(drop)
        });
    }
    primary.start();
    streams(&standby, "a");
    caught_up(&standby, &primary);
    assert_eq!(rows_of(&primary, "t"), rows_of(&standby, "t"));
    assert_eq!(one(&primary, "SELECT count(*) FROM t WHERE v = 'x'"), "100");
}

#[test]
fn g11_a_switchover_loses_nothing_and_is_short() {
    let mut primary = node("a", &["--synchronous-standbys", "b"]);
    primary.start();
    let standby = standby_of(&primary, "b", &["--synchronous-standbys", "a"]);
    streams(&primary, "b");
    primary.sql("CREATE TABLE t (id integer PRIMARY KEY)");
    let addresses = [primary.setup.pg, standby.setup.pg];
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    // A client that goes to whichever takes its writes.
    let client = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        let mut longest = std::time::Duration::ZERO;
        let mut last = std::time::Instant::now();
        let (mut at, mut connection) = (0, None);
        let mut n = 0;
        while stopped.try_recv().is_err() {
            let client = match &mut connection {
                Some(client) => client,
                None => {
                    let connected =
                        springhead_sim::client::pg::PgClient::connect(addresses[at], "postgres");
                    match connected {
                        Ok(client) => connection.insert(client),
                        Err(_) => {
                            at = 1 - at;
                            continue;
                        }
                    }
                }
            };
            match client.query(&format!("INSERT INTO t VALUES ({n})")) {
                Ok(_) => {
                    acknowledged.push(n);
                    longest = longest.max(last.elapsed());
                    last = std::time::Instant::now();
                    n += 1;
                }
                // Unknown or refused: with another number, so that twice is seen.
                Err(_) => {
                    connection = None;
                    at = 1 - at;
                    n += 1;
                }
            }
        }
        (acknowledged, longest)
    });
    eventually("some commits", || (durable(&primary) > 100).then_some(()));
    let answer = primary.post("/v1/standbys/switchover", &json!({}));
    assert_eq!(
        answer.status,
        200,
        "{}\n{}",
        answer.text(),
        primary.setup.printed()
    );
    let fork = durable(&standby);
    eventually("commits on the other", || {
        (durable(&standby) > fork + 100).then_some(())
    });
    stop.send(()).unwrap();
    let (acknowledged, longest) = client.join().unwrap();
    assert!(is_primary(&standby) && !is_primary(&primary));
    assert!(longest < std::time::Duration::from_secs(5), "{longest:?}");
    println!(
        "writes paused for {longest:?} at most, {} commits",
        acknowledged.len()
    );
    caught_up(&standby, &primary);
    let rows = rows_of(&standby, "t");
    let there: std::collections::BTreeSet<i64> = rows
        .iter()
        .map(|row| row[0].clone().unwrap().parse().unwrap())
        .collect();
    assert!(acknowledged.iter().all(|n| there.contains(n)));
    assert_eq!(rows_of(&primary, "t"), rows);
}

#[test]
fn g11_three_nodes_find_the_new_primary_and_feed_one_another() {
    let quorum = ["--synchronous-standbys", "ANY 1 (a, b, c)"];
    let (mut a, mut b, mut c) = (node("a", &quorum), node("b", &quorum), node("c", &quorum));
    let urls = [url(&a), url(&b), url(&c)];
    for node in [&mut a, &mut b, &mut c] {
        node.setup.args.push("--standby-peers".to_owned());
        node.setup.args.push(urls.join(","));
    }
    a.start();
    for node in [&mut b, &mut c] {
        node.setup.args.push("--standby-of".to_owned());
        node.setup.args.push(urls[0].clone());
        node.start();
    }
    streams(&a, "b");
    streams(&a, "c");
    a.sql("CREATE TABLE t (id integer PRIMARY KEY)");
    a.sql("INSERT INTO t SELECT * FROM generate_series(1, 100)");
    // One that follows a standby.
    let mut d = node("d", &[]);
    d.setup.args.push("--standby-of".to_owned());
    d.setup.args.push(urls[2].clone());
    d.start();
    eventually("it comes through two hops", || {
        (one(&d, "SELECT count(*) FROM t") == "100").then_some(())
    });
    let (code, message) = try_sql(&d, "INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!(code, "25006");
    assert!(message.contains(&urls[0]), "{message}");
    let there = durable(&a);
    a.kill();
    // The one that has the most takes over; both have everything that was acknowledged by one of
    // them, and either may have it alone.
    eventually("both have it", || {
        (durable(&b) >= there && durable(&c) >= there).then_some(())
    });
    promote(&b);
    streams(&b, "c");
    b.sql("INSERT INTO t VALUES (101)");
    eventually("it comes through two hops again", || {
        (one(&d, "SELECT count(*) FROM t") == "101").then_some(())
    });
    a.start();
    streams(&b, "a");
    caught_up(&b, &a);
    for node in [&a, &c, &d] {
        eventually("all have the same", || {
            (rows_of(node, "t") == rows_of(&b, "t")).then_some(())
        });
    }
}
