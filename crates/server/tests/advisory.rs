//! Advisory locks between real sessions: who waits, for how long, and what ends a lock.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

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

/// Runs a statement that has to wait; the client and what came of it, once it ends.
fn waiting(
    mut client: PgClient,
    sql: &'static str,
) -> mpsc::Receiver<(PgClient, Result<(), Option<String>>)> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let result = client.query(sql).map(|_| ());
        let result = result.map_err(|error| error.code().map(str::to_owned));
        // The test has failed if it is no longer there.
        let _ = done.send((client, result));
    });
    ended
}

#[test]
fn a_lock_is_waited_for_until_it_is_given_back_or_its_session_ends() {
    let fixture = node();
    let (mut first, second) = (fixture.pg(), fixture.pg());
    assert_eq!(one(&mut first, "SELECT pg_advisory_lock(7)"), "");
    assert_eq!(
        one(&mut first, "SELECT pg_try_advisory_lock(7) AS again"),
        "t"
    );
    let ended = waiting(second, "SELECT pg_catalog.pg_advisory_lock(3 + 4)");
    assert_eq!(one(&mut first, "SELECT pg_advisory_unlock(7)"), "t");
    assert!(ended.recv_timeout(Duration::from_millis(200)).is_err());
    assert_eq!(one(&mut first, "SELECT pg_advisory_unlock(7)"), "t");
    let (mut second, result) = ended.recv_timeout(SOON).unwrap();
    assert_eq!(result, Ok(()));
    assert_eq!(one(&mut first, "SELECT pg_advisory_unlock(7)"), "f");
    assert_eq!(one(&mut first, "SELECT pg_try_advisory_lock(7)"), "f");
    assert_eq!(one(&mut first, "SELECT pg_try_advisory_lock(0, 7)"), "t");
    assert_eq!(one(&mut first, "SELECT pg_try_advisory_lock(NULL)"), "");
    let ended = waiting(first, "SELECT pg_advisory_lock_shared(7)");
    assert!(ended.recv_timeout(Duration::from_millis(200)).is_err());
    assert_eq!(one(&mut second, "SELECT 1"), "1");
    drop(second);
    let (mut first, result) = ended.recv_timeout(SOON).unwrap();
    assert_eq!(result, Ok(()));
    let mut third = fixture.pg();
    assert_eq!(
        one(&mut third, "SELECT pg_try_advisory_lock_shared(7)"),
        "t"
    );
    assert_eq!(one(&mut third, "SELECT pg_try_advisory_lock(7)"), "f");
    assert_eq!(one(&mut first, "SELECT pg_advisory_unlock_all()"), "");
    assert_eq!(one(&mut third, "SELECT pg_try_advisory_lock(7)"), "t");
    assert_eq!(one(&mut third, "SELECT pg_try_advisory_lock(0, 7)"), "t");
    third.query("DISCARD ALL").unwrap();
    assert_eq!(one(&mut first, "SELECT pg_try_advisory_lock(7)"), "t");
    assert_eq!(
        code(
            &mut first,
            "SELECT pg_try_advisory_lock(7) FROM generate_series(1, 2)"
        )
        .as_deref(),
        Some("0A000")
    );
}

#[test]
fn a_transaction_s_lock_ends_with_it_and_waits_end_by_timeouts_and_circles() {
    let fixture = node();
    let (mut first, mut second) = (fixture.pg(), fixture.pg());
    for end in ["COMMIT", "ROLLBACK"] {
        first.query("BEGIN").unwrap();
        assert_eq!(one(&mut first, "SELECT pg_advisory_xact_lock(1)"), "");
        assert_eq!(one(&mut first, "SELECT pg_advisory_unlock(1)"), "f");
        assert_eq!(one(&mut second, "SELECT pg_try_advisory_xact_lock(1)"), "f");
        first.query(end).unwrap();
        assert_eq!(one(&mut second, "SELECT pg_try_advisory_xact_lock(1)"), "t");
    }
    first.query("BEGIN").unwrap();
    assert_eq!(one(&mut first, "SELECT pg_advisory_xact_lock(1)"), "");
    assert_eq!(code(&mut first, "SELECT 1 / 0").as_deref(), Some("22012"));
    assert_eq!(one(&mut second, "SELECT pg_try_advisory_lock(1)"), "t");
    first.query("ROLLBACK").unwrap();

    assert_eq!(one(&mut first, "SELECT pg_advisory_lock(2)"), "");
    first.query("SET lock_timeout = '100ms'").unwrap();
    let lock = "SELECT pg_advisory_lock(1)";
    assert_eq!(code(&mut first, lock).as_deref(), Some("55P03"));
    first.query("SET lock_timeout = 0").unwrap();
    first.query("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(code(&mut first, lock).as_deref(), Some("57014"));
    first.query("SET statement_timeout = 0").unwrap();

    // Whoever closes the circle is told; the other gets the lock once that one is gone.
    let ended = waiting(first, "SELECT pg_advisory_lock(1)");
    assert!(ended.recv_timeout(Duration::from_millis(200)).is_err());
    assert_eq!(
        code(&mut second, "SELECT pg_advisory_lock(2)").as_deref(),
        Some("40P01")
    );
    assert_eq!(one(&mut second, "SELECT pg_advisory_unlock(1)"), "t");
    let (_first, result) = ended.recv_timeout(SOON).unwrap();
    assert_eq!(result, Ok(()));
}
