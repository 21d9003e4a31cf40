//! pg_sleep(), pg_cancel_backend(), pg_terminate_backend() and NOWAIT between real sessions.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

const SOON: Duration = Duration::from_secs(10);

fn node() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.start();
    fixture
}

/// The one value of a query, `""` for NULL.
fn one(client: &mut PgClient, sql: &str) -> String {
    let found = client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    found.rows[0][0].clone().unwrap_or_default()
}

fn code(client: &mut PgClient, sql: &str) -> Option<String> {
    let refused = client.query(sql).err()?;
    refused.code().map(str::to_owned)
}

/// Runs a statement that takes its time; the client and the code that it failed with, once it ends.
fn running(mut client: PgClient, sql: &'static str) -> mpsc::Receiver<(PgClient, Option<String>)> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let code = code(&mut client, sql);
        // The test has failed if it is no longer there.
        let _ = done.send((client, code));
    });
    ended
}

#[test]
fn pg_sleep_takes_its_time_and_ends_by_timeouts_and_cancel_requests() {
    let fixture = node();
    let (mut first, mut second) = (fixture.pg(), fixture.pg());
    let began = Instant::now();
    for sql in [
        "SELECT pg_sleep(0.1)",
        "SELECT pg_catalog.pg_sleep(0.05 + 0.05) AS slept",
        "SELECT pg_sleep_for('100 milliseconds')",
        "SELECT pg_sleep_until(clock_timestamp() + interval '100 milliseconds')",
        "SELECT pg_sleep(-1)",
        "SELECT pg_sleep(NULL)",
    ] {
        first.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    assert!(began.elapsed() >= Duration::from_millis(400));
    first.query("SET statement_timeout = '50ms'").unwrap();
    let sleep = "SELECT pg_sleep(3600)";
    assert_eq!(code(&mut first, sleep).as_deref(), Some("57014"));
    first.query("SET statement_timeout = 0").unwrap();
    let process_id = one(&mut first, "SELECT pg_backend_pid()");
    let ended = running(first, sleep);
    let cancel = format!("SELECT pg_cancel_backend({process_id})");
    // It may not have begun yet.
    let (first, found) = loop {
        assert_eq!(one(&mut second, &cancel), "t");
        if let Ok(ended) = ended.recv_timeout(Duration::from_millis(20)) {
            break ended;
        }
    };
    assert_eq!(found.as_deref(), Some("57014"));
    drop(first);
    // Others would wait to write as long as somebody sleeps who has written.
    second.query("CREATE TABLE slept (id int)").unwrap();
    second
        .query("SET idle_in_transaction_session_timeout = '50ms'")
        .unwrap();
    second.query("BEGIN").unwrap();
    second.query("INSERT INTO slept VALUES (1)").unwrap();
    assert_eq!(code(&mut second, sleep).as_deref(), Some("57014"));
    second.query("ROLLBACK").unwrap();
    // Within a larger query a thread would have to wait.
    assert_eq!(
        code(&mut second, "SELECT pg_sleep(1), 2").as_deref(),
        Some("0A000")
    );
}

#[test]
fn pg_terminate_backend_ends_a_session_idle_or_not_and_what_it_had_open() {
    let fixture = node();
    let (mut first, mut second, mut third) = (fixture.pg(), fixture.pg(), fixture.pg());
    first.query("CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    let busy = one(&mut second, "SELECT pg_backend_pid()");
    let ended = running(second, "SELECT pg_sleep(3600)");
    let end = |process_id: &str| format!("SELECT pg_terminate_backend({process_id})");
    assert_eq!(one(&mut first, &end(&busy)), "t");
    let (mut second, found) = ended.recv_timeout(SOON).unwrap();
    assert_eq!(found.as_deref(), Some("57P01"));
    assert!(second.query("SELECT 1").is_err());

    let idle = one(&mut third, "SELECT pg_backend_pid()");
    third.query("BEGIN").unwrap();
    third.query("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(one(&mut first, &end(&idle)), "t");
    // Waits for the writer, which is free once the session is gone.
    first.query("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(code(&mut third, "SELECT 1").as_deref(), Some("57P01"));
    assert_eq!(one(&mut first, "SELECT count(*) FROM t"), "1");

    assert_eq!(one(&mut first, "SELECT pg_cancel_backend(NULL)"), "");
    assert_eq!(one(&mut first, "SELECT pg_cancel_backend(2000000000)"), "f");
    let others =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    assert!(first.query(others).unwrap().rows.is_empty());
}

#[test]
fn who_is_no_superuser_ends_sessions_of_their_own_alone() {
    let fixture = node();
    let (mut root, mut first, mut second) = (fixture.pg(), fixture.pg(), fixture.pg());
    root.query("CREATE ROLE ann").unwrap();
    let process_id = one(&mut root, "SELECT pg_backend_pid()");
    first.query("SET ROLE ann").unwrap();
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        let sql = format!("SELECT {function}({process_id})");
        assert_eq!(code(&mut first, &sql).as_deref(), Some("42501"));
    }
    assert_eq!(one(&mut root, "SELECT 1"), "1");
    // Of another database's sessions nobody knows.
    second.query("CREATE DATABASE shop").unwrap();
    let mut other = fixture.pg_to("shop");
    let sql = format!("SELECT pg_terminate_backend({process_id})");
    assert_eq!(one(&mut other, &sql), "f");
}

#[test]
fn nowait_fails_at_once_where_a_transaction_has_the_writer() {
    let fixture = node();
    let (mut first, mut second) = (fixture.pg(), fixture.pg());
    first.query("CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    first.query("INSERT INTO t VALUES (1)").unwrap();
    let nowait = "SELECT id FROM t FOR UPDATE NOWAIT";
    assert_eq!(one(&mut second, nowait), "1");
    first.query("BEGIN").unwrap();
    assert_eq!(one(&mut first, nowait), "1");
    assert_eq!(code(&mut second, nowait).as_deref(), Some("55P03"));
    second.query("BEGIN").unwrap();
    assert_eq!(code(&mut second, nowait).as_deref(), Some("55P03"));
    second.query("ROLLBACK").unwrap();
    // Its own transaction does not stand in its way.
    assert_eq!(one(&mut first, nowait), "1");
    first.query("COMMIT").unwrap();
    assert_eq!(one(&mut second, nowait), "1");
}
