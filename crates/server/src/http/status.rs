//! What operators look at: `/healthz`, `/readyz`, `/metrics`, `/v1/status`.

use http::StatusCode;
use serde_json::{Value, json};
use springhead_engine::dead_letters::{Counts, Figures};
use springhead_proto::ErrorCode;

use super::App;
use super::body::{Response, json_response, response};
use super::error::HttpError;
use super::exposition;
use super::request::Request;

/// The process answers.
///
/// # Errors
/// 22023 for an unknown parameter.
pub fn health(request: Request) -> Result<Response, HttpError> {
    request.params.finish(&[])?;
    Ok(json_response(StatusCode::OK, &json!({ "status": "ok" })))
}

/// The node takes requests.
///
/// # Errors
/// 57P01 while it stops.
pub fn ready(request: Request) -> Result<Response, HttpError> {
    request.params.finish(&[])?;
    if request.app.shutdown.is_requested() {
        return Err(HttpError::new(
            ErrorCode::AdminShutdown,
            "the server is shutting down",
        ));
    }
    let engine = &request.app.node.engine;
    let tail = engine.status().tail;
    let replication = request.app.node.replication.as_ref();
    let voting = replication.and_then(|replication| replication.voting.as_ref());
    let mut body = json!({
        "status": "ready",
        "lsn": tail.durable.0,
        "role": engine.role().word(),
        "epoch": tail.epoch.to_string(),
    });
    if let Some(voting) = voting {
        // Whether it serves writes is its role; why not, who does, and what was promised, is here.
        let votes = voting.status();
        for name in ["state", "leader", "promised", "voted_for"] {
            body[name] = votes[name].clone();
        }
    }
    Ok(json_response(StatusCode::OK, &body))
}

/// Figures for Prometheus.
///
/// # Errors
/// 22023 for an unknown parameter.
pub async fn metrics(request: Request) -> Result<Response, HttpError> {
    request.params.finish(&[])?;
    let dead_letters = request.app.node.engine.dead_letter_figures().await?;
    let text = exposition::text(&request.app, &dead_letters);
    Ok(response(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        text,
    ))
}

/// Positions, role, readers and their holds.
///
/// # Errors
/// What the tenant named by `tenant_id`, if any, says.
pub async fn status(mut request: Request) -> Result<Response, HttpError> {
    let min_lsn = request.params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&["tenant_id", "min_lsn"])?;
    let app = &request.app;
    let tenant = app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }
    let status = app.node.engine.status();
    // Others' tenants are nothing that a tenant's user learns of.
    let is_superuser = app.node.engine.identify(&request.principal)?.superuser;
    let damaged: Vec<Value> = status
        .damaged_tenants
        .iter()
        .filter(|(id, _)| is_superuser || *id == tenant_id)
        .map(|(id, damage)| json!({ "id": id.0, "damage": damage }))
        .collect();
    let log = app.node.engine.log();
    let visible = tenant.visible();
    let (mut consumers, _) = app.cdc.consumers(&tenant).await?;
    let reader = springhead_engine::cdc::Reader::new(&request.principal);
    let identity = reader.identify(&app.node.engine)?;
    if !identity.superuser {
        consumers.retain(|consumer| app.cdc.may_use(consumer, &reader).unwrap_or(false));
    }
    let dead_letters = dead_letters(&tenant.dead_letter_figures().await?);
    let consumers: Vec<Value> = consumers
        .iter()
        .map(|consumer| {
            let at = consumer.cursor.lsn;
            json!({
                "name": consumer.name,
                "cursor": consumer.cursor.to_string(),
                "state": if consumer.expired { "expired" } else { "active" },
                "lag_changes": visible.0.saturating_sub(at.0),
                "lag_bytes": if at < visible { log.bytes_between(at, visible) } else { 0 },
            })
        })
        .collect();
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "role": app.node.engine.role().word(),
            "replication": is_superuser.then(|| replication(app)),
            "epoch": status.tail.epoch.to_string(),
            "lsn": visible.0,
            "durable_lsn": status.tail.durable.0,
            "visible_lsn": visible.0,
            "earliest_lsn": status.earliest.0,
            "timestamp_ms": status.tail.timestamp_ms.0,
            "uptime_ms": u64::try_from(app.node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "archive": archive(&app.node),
            "tenant": { "id": tenant.id().0, "name": tenant.name() },
            "tenants": status.tenants,
            "open_tenants": status.open_tenants,
            "damaged_tenants": damaged,
            "statements": status.statements,
            "commits": status.commits,
            "connections": { "http": app.metrics.connections.value(), "pg": app.node.pg.sessions() },
            "subscribers": {
                "sse": app.metrics.event_streams.value(),
                "poll": app.metrics.polls.value(),
                "tails": status.subscribers,
            },
            "log": {
                "flushes": status.log.flushes,
                "batches": status.log.batches,
                "commits": status.log.commits,
                "written_bytes": status.log.written_bytes,
                "kept_bytes": status.log.kept_bytes,
                "segments": status.log.segments,
            },
            "consumers": consumers,
            "dead_letters": dead_letters,
        }),
    ))
}

/// A tenant's counts, all together and by violation.
fn dead_letters(figures: &Figures) -> Value {
    let object = |counts: Counts| {
        json!({
            "enqueued": counts.enqueued,
            "resolved": counts.resolved,
            "expired": counts.expired,
            "escalated": counts.escalated,
            "unresolved": counts.unresolved,
        })
    };
    let mut all = Counts::default();
    let mut by_violation = serde_json::Map::new();
    for (violation, counts) in figures {
        all.add(*counts);
        by_violation.insert(violation.clone(), object(*counts));
    }
    let mut value = object(all);
    value["by_violation"] = by_violation.into();
    value
}

/// How the log's archive goes; null without one.
fn archive(node: &crate::NodeState) -> Value {
    let config = &node.config;
    if config.archive_dir.is_empty() && config.archive_command.is_empty() {
        return Value::Null;
    }
    let status = node.archive.lock().clone();
    json!({
        "lsn": status.lsn.0,
        "segments": status.segments,
        "failures": status.failures,
        "gaps": status.gaps,
        "error": status.error,
    })
}

/// What there is to know of other nodes.
fn replication(app: &App) -> Value {
    let replication = app.node.replication.as_ref();
    replication.map_or(Value::Null, |known| crate::standby::status::status(known))
}
