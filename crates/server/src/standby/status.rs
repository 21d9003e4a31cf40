//! What people and programs are told of replication: rows of `springhead.standbys`, `/v1/status`,
//! `/metrics`.

use std::fmt::Write;

use serde_json::{Value, json};
use springhead_proto::Lsn;

use super::Replication;
use super::names::Method;
use super::slots::{Standby, State};

/// A standby as it is shown.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub address: String,
    pub state: &'static str,
    pub sent: Lsn,
    pub written: Lsn,
    pub flushed: Lsn,
    pub applied: Lsn,
    pub lag_changes: u64,
    pub lag_bytes: u64,
    pub lag_ms: u64,
    /// PostgreSQL's words: `async`, `sync`, `potential`, `quorum`.
    pub mode: &'static str,
    pub priority: usize,
    /// Whether it has everything that was acknowledged, and every commit waits for it; where nodes vote.
    pub in_sync: Option<bool>,
    /// Since it last said something; `None` if it has not in this run.
    pub heard_ms: Option<u64>,
}

/// All standbys, by name.
pub fn rows(replication: &Replication) -> Vec<Row> {
    let end = replication.engine.log().tail().durable;
    let standbys = replication.slots.list();
    let names = replication.synchrony.names();
    // With FIRST, those beyond the first so many that are there only might be asked one day.
    let mut by_priority: Vec<usize> = standbys
        .iter()
        .filter(|standby| is_connected(standby))
        .map(|standby| names.priority(&standby.name))
        .filter(|priority| *priority > 0)
        .collect();
    by_priority.sort_unstable();
    let last_asked = by_priority.get(names.count.wrapping_sub(1)).copied();
    standbys
        .into_iter()
        .map(|standby| {
            let priority = names.priority(&standby.name);
            let mode = match (priority, names.method) {
                (0, _) => "async",
                (_, Method::Any) => "quorum",
                (priority, Method::First) if last_asked.is_none_or(|last| priority <= last) => {
                    "sync"
                }
                (_, Method::First) => "potential",
            };
            row(replication, standby, end, mode, priority)
        })
        .collect()
}

fn is_connected(standby: &Standby) -> bool {
    matches!(standby.state, State::Streaming | State::Catchup)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn row(
    replication: &Replication,
    standby: Standby,
    end: Lsn,
    mode: &'static str,
    priority: usize,
) -> Row {
    let flushed = standby.progress.flushed.min(end);
    let is_behind = flushed < end;
    let log = replication.engine.log();
    Row {
        state: standby.state.word(),
        sent: standby.sent,
        written: standby.progress.written,
        flushed: standby.progress.flushed,
        applied: standby.progress.applied,
        lag_changes: end.0.saturating_sub(flushed.0),
        lag_bytes: if is_behind {
            log.bytes_between(flushed.next(), end)
        } else {
            0
        },
        lag_ms: standby
            .behind_since
            .filter(|_| is_behind)
            .map_or(0, |since| millis(since.elapsed())),
        mode,
        priority,
        in_sync: replication
            .voting
            .as_ref()
            .map(|voting| voting.is_in_sync(&standby.name)),
        heard_ms: standby.heard.map(|heard| millis(heard.elapsed())),
        name: standby.name,
        address: standby.address,
    }
}

fn row_json(row: &Row) -> Value {
    json!({
        "name": row.name,
        "address": row.address,
        "state": row.state,
        "sent_lsn": row.sent.0,
        "written_lsn": row.written.0,
        "flushed_lsn": row.flushed.0,
        "applied_lsn": row.applied.0,
        "lag_changes": row.lag_changes,
        "lag_bytes": row.lag_bytes,
        "lag_ms": row.lag_ms,
        "mode": row.mode,
        "priority": row.priority,
        "in_sync": row.in_sync,
        "heard_ms": row.heard_ms,
    })
}

/// The rows of `springhead.standbys`.
pub fn sql_rows(replication: &Replication) -> Vec<springhead_sql::system::Row> {
    use springhead_proto::Value as Cell;
    let number = |number: u64| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    rows(replication)
        .into_iter()
        .map(|row| {
            let priority = u64::try_from(row.priority).unwrap_or(u64::MAX);
            Box::from([
                Cell::Text(row.name),
                Cell::Text(row.address),
                Cell::Text(row.state.to_owned()),
                number(row.sent.0),
                number(row.written.0),
                number(row.flushed.0),
                number(row.applied.0),
                number(row.lag_changes),
                number(row.lag_bytes),
                number(row.lag_ms),
                Cell::Text(row.mode.to_owned()),
                number(priority),
                row.in_sync
                    .map_or(Cell::Null, |in_sync| Cell::Integer(in_sync.into())),
            ])
        })
        .collect()
}

/// The list for `GET /v1/standbys`.
pub fn list(replication: &Replication) -> Value {
    Value::Array(rows(replication).iter().map(row_json).collect())
}

/// The part of `/v1/status`.
pub fn status(replication: &Replication) -> Value {
    let names = replication.synchrony.names();
    let confirmed = replication.synchrony.confirmed();
    let mut status = json!({
        "name": replication.options.name,
        "address": replication.options.address,
        "epoch_number": replication.promised(),
        "synchronous_commit": replication.engine.config().synchronous_commit.name(),
        "synchronous_standbys": names.to_string(),
        "asynchronous": confirmed.alone,
        "standbys": list(replication),
        "diverged": diverged(replication),
    });
    if let Some(voting) = &replication.voting {
        status["failover"] = voting.status();
    }
    if !names.is_empty() {
        status["confirmed_lsn"] = json!({
            "written": confirmed.written.0,
            "flushed": confirmed.flushed.0,
            "applied": confirmed.applied.0,
        });
    }
    if !replication.is_primary() {
        status["doubt"] = json!(replication.doubt());
        let upstream = replication.upstream.borrow().clone();
        let lag = upstream
            .durable
            .0
            .saturating_sub(upstream.progress.applied.0);
        status["upstream"] = json!({
            "primary": upstream.primary,
            "name": upstream.name,
            "connected": upstream.connected,
            "problem": upstream.problem,
            "durable_lsn": upstream.durable.0,
            "written_lsn": upstream.progress.written.0,
            "flushed_lsn": upstream.progress.flushed.0,
            "applied_lsn": upstream.progress.applied.0,
            "lag_changes": lag,
        });
    }
    status
}

/// Directories with what was cut off this node's log at a fork.
fn diverged(replication: &Replication) -> Vec<String> {
    let dir = replication.options.data_dir.join("log");
    let mut found: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("diverged-"))
        .collect();
    found.sort();
    found
}

/// Lines for Prometheus.
pub fn metrics(replication: &Replication, out: &mut String) {
    let confirmed = replication.synchrony.confirmed();
    let mut gauge = |name: &str, help: &str, lines: &[(String, u64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    gauge(
        "springhead_is_primary",
        "1 if this node takes writes.",
        &plain(u64::from(replication.is_primary())),
    );
    gauge(
        "springhead_epoch_number",
        "Promotions and restores so far, plus one.",
        &plain(u64::from(replication.promised())),
    );
    gauge(
        "springhead_standby_asynchronous",
        "1 while commits are answered without the standbys that they should wait for.",
        &plain(u64::from(confirmed.alone)),
    );
    let rows = rows(replication);
    let of = |value: fn(&Row) -> u64| -> Vec<(String, u64)> {
        rows.iter()
            .map(|row| {
                let name = row.name.replace('\\', "\\\\").replace('"', "\\\"");
                (format!("{{standby=\"{name}\"}}"), value(row))
            })
            .collect()
    };
    gauge(
        "springhead_standby_connected",
        "1 if the standby streams.",
        &of(|row| u64::from(matches!(row.state, "streaming" | "catchup"))),
    );
    gauge(
        "springhead_standby_flushed_lsn",
        "The last LSN that the standby has flushed.",
        &of(|row| row.flushed.0),
    );
    gauge(
        "springhead_standby_lag_changes",
        "Durable changes that the standby has not flushed.",
        &of(|row| row.lag_changes),
    );
    gauge(
        "springhead_standby_lag_bytes",
        "Bytes of log that the standby has not flushed.",
        &of(|row| row.lag_bytes),
    );
    gauge(
        "springhead_standby_lag_milliseconds",
        "For how long the standby has been behind.",
        &of(|row| row.lag_ms),
    );
    if !replication.is_primary() {
        let upstream = replication.upstream.borrow().clone();
        gauge(
            "springhead_upstream_connected",
            "1 if this standby is connected to what it follows.",
            &plain(u64::from(upstream.connected)),
        );
        gauge(
            "springhead_upstream_lag_changes",
            "Changes durable upstream and not applied here.",
            &plain(
                upstream
                    .durable
                    .0
                    .saturating_sub(upstream.progress.applied.0),
            ),
        );
    }
    if let Some(voting) = &replication.voting {
        voting.metrics(out);
    }
}
