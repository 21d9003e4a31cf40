//! Several servers that follow one another, for the tests of standbys.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod load;
pub mod proxy;
pub mod voting;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use springhead_sim::client::http;
use springhead_sim::client::pg::{PgClient, PgError};
use springhead_sim::fixture::Fixture;

/// How long anything may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A token that all nodes of a test share.
pub const TOKEN: &str = "correct horse battery staple";

/// Lets other processes run, for what cannot announce itself.
pub fn pause(ms: u64) {
    std::thread::park_timeout(Duration::from_millis(ms));
}

/// Looks until it holds.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        pause(5);
    }
}

/// A node of that name that has not been started, with quick heartbeats.
pub fn node(name: &str, args: &[&str]) -> Fixture {
    let mut node = Fixture::new();
    for arg in [
        "--node-name",
        name,
        "--standby-token",
        TOKEN,
        "--standby-heartbeat",
        "200ms",
        "--standby-timeout",
        "2s",
        "--segment-bytes",
        "1MiB",
    ] {
        node.setup.args.push(arg.to_owned());
    }
    node.setup
        .args
        .extend(args.iter().map(|arg| (*arg).to_owned()));
    node
}

/// Where a node is reached over HTTP.
pub fn url(node: &Fixture) -> String {
    format!("http://{}", node.setup.http)
}

/// A started standby of `primary`.
pub fn standby_of(primary: &Fixture, name: &str, args: &[&str]) -> Fixture {
    let mut node = node(name, args);
    node.setup.args.push("--standby-of".to_owned());
    node.setup.args.push(url(primary));
    node.start();
    node
}

pub fn status(node: &Fixture) -> Value {
    http::get(node.setup.http, "/v1/status")
        .map(|answer| answer.json())
        .unwrap_or(Value::Null)
}

pub fn is_primary(node: &Fixture) -> bool {
    status(node)["role"] == "primary"
}

pub fn durable(node: &Fixture) -> u64 {
    status(node)["durable_lsn"].as_u64().unwrap_or(0)
}

/// Waits until `standby` has applied everything that `primary` has durable now.
#[track_caller]
pub fn caught_up(primary: &Fixture, standby: &Fixture) {
    let lsn = durable(primary);
    eventually(
        &format!("LSN {lsn} applied, {}", standby.setup.printed()),
        || {
            let status = status(standby);
            let visible = status["visible_lsn"].as_u64()?;
            let connected = status["replication"]["upstream"]["connected"] == json!(true);
            (visible >= lsn && connected).then_some(())
        },
    );
}

/// Waits until the primary calls the standby streaming.
#[track_caller]
pub fn streams(primary: &Fixture, name: &str) {
    eventually(
        &format!("{name} streams, {}", primary.setup.printed()),
        || {
            let status = status(primary);
            let standbys = status["replication"]["standbys"].as_array()?.clone();
            standbys
                .iter()
                .any(|standby| standby["name"] == name && standby["state"] == "streaming")
                .then_some(())
        },
    );
}

pub fn promote(node: &Fixture) -> Value {
    let answer = node.post("/v1/promote", &json!({}));
    assert_eq!(
        answer.status,
        200,
        "{}\n{}",
        answer.text(),
        node.setup.printed()
    );
    answer.json()
}

/// The one value that a query gives.
#[track_caller]
pub fn one(node: &Fixture, sql: &str) -> String {
    let rows = node.sql(sql);
    rows[0][0].clone().unwrap_or_default()
}

/// What a query says, or the SQLSTATE and message of its refusal.
pub fn try_sql(node: &Fixture, sql: &str) -> Result<Vec<Vec<Option<String>>>, (String, String)> {
    let refused = |error| match error {
        PgError::Sql { code, message } => (code, message),
        PgError::Io(error) => ("".to_owned(), error.to_string()),
    };
    let mut client = PgClient::connect(node.setup.pg, "postgres").map_err(refused)?;
    client.query(sql).map(|result| result.rows).map_err(refused)
}

/// A digest of a table's rows, the same on every node that has the same.
pub fn rows_of(node: &Fixture, table: &str) -> Vec<Vec<Option<String>>> {
    node.sql(&format!("SELECT * FROM {table} ORDER BY 1"))
}

/// Two nodes have the same rows in a table; says the first that only one of them has.
#[track_caller]
pub fn same_rows(one: &Fixture, other: &Fixture, table: &str) {
    let (ours, theirs) = (rows_of(one, table), rows_of(other, table));
    let differs = ours
        .iter()
        .zip(&theirs)
        .find(|(ours, theirs)| ours != theirs);
    let shown = format!("{differs:?}");
    assert!(
        ours == theirs,
        "{table}: {} rows and {}, first {shown:.200}",
        ours.len(),
        theirs.len()
    );
}
