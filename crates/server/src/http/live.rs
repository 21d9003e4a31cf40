//! `GET /live`: a SELECT's result as Server-Sent Events, then what each commit changes in it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use springhead_engine::ParamValue;
use springhead_engine::access::Principal;
use springhead_engine::cdc::parse_cursor;
use springhead_engine::live::{
    Delta, LiveEnd, LiveError, LiveEvent, LiveOptions, LiveRequest, Opened, Subscriber, write_key,
    write_row,
};
use springhead_proto::{Epoch, ErrorCode, Lsn, SqlError};
use springhead_sql::live::LivePlan;
use tokio::time::{Instant, sleep_until};

use super::App;
use super::body::{Body, CutShort, Output, Response, response};
use super::error::HttpError;
use super::metrics::Counted;
use super::request::Request;
use super::sql::param;

/// What the stream takes.
pub const LIVE_PARAMETERS: [&str; 14] = [
    "sql",
    "params",
    "last_event_id",
    "cursor",
    "snapshot",
    "before",
    "envelope",
    "squash_ms",
    "refetch",
    "recompute",
    "ticket",
    "tenant_id",
    "min_lsn",
    "Last-Event-ID (header)",
];

/// Those that every exit has (`WITH (…)`).
pub const OPTIONS: [&str; 6] = [
    "snapshot",
    "before",
    "envelope",
    "squash_ms",
    "refetch",
    "recompute",
];

/// The id of the frame that ends a stream for good; whoever comes back with it is told to stop.
const FINAL_ID: &str = "must-refetch";

impl From<LiveError> for HttpError {
    fn from(error: LiveError) -> HttpError {
        match error {
            LiveError::Refused(refused) => HttpError::Refused {
                code: ErrorCode::CursorExpired,
                refused,
            },
            LiveError::Refetch(message) => refetch(&message).into(),
            LiveError::Sql(error) => error.into(),
        }
    }
}

fn refetch(message: &str) -> SqlError {
    SqlError::new(ErrorCode::CursorExpired, message)
        .with_hint("open the live query again, without a cursor")
}

/// Serves a live query.
///
/// # Errors
/// What is wrong with what is asked for, except for a position that cannot be gone on from, which
/// is told in the stream.
pub async fn stream(mut request: Request) -> Result<Response, HttpError> {
    let last_event_id = request
        .header("last-event-id")
        .filter(|id| !id.is_empty())
        .map(str::to_owned);
    let last_event_id = last_event_id
        .or(request.params.take("last_event_id"))
        .or(request.params.take("cursor"));
    if last_event_id.as_deref() == Some(FINAL_ID) {
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = StatusCode::NO_CONTENT;
        return Ok(answer);
    }
    let cursor = last_event_id.as_deref().map(parse_cursor).transpose()?;
    let sql = request
        .params
        .take("sql")
        .ok_or_else(|| HttpError::parameter("sql is missing"))?;
    let params = match request.params.take("params") {
        None => Vec::new(),
        Some(text) => match super::json::read(&text) {
            Ok(Value::Array(params)) => params,
            Ok(_) => return Err(HttpError::parameter("params is a JSON array")),
            Err(error) => {
                return Err(HttpError::parameter(format!(
                    "params is a JSON array; it {error}"
                )));
            }
        },
    };
    let mut options = LiveOptions::default();
    for name in OPTIONS {
        if let Some(value) = request.params.take(name) {
            options.set(name, Some(&value))?;
        }
    }
    let min_lsn = request.params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&LIVE_PARAMETERS)?;
    let app = Arc::clone(&request.app);
    let tenant = app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }
    let mut subscriber = Subscriber::new(&app.live, tenant);
    let values: Vec<ParamValue<'_>> = params.iter().map(param).collect();
    let asked = LiveRequest {
        sql: &sql,
        params: &values,
        cursor,
        options,
    };
    let opened = subscriber.open(&request.principal, &asked).await;
    let body = match opened.map_err(HttpError::from) {
        Ok(opened) => {
            app.metrics.event_streams_opened.fetch_add(1, Relaxed);
            let counted = Counted::new(&app, |metrics| &metrics.live_streams);
            let principal = Arc::clone(&request.principal);
            Body::produced(move |output| run(app, principal, subscriber, opened, output, counted))
        }
        Err(refused) if refused.code() == ErrorCode::CursorExpired => {
            let frame = refused_frame(&refused);
            Body::produced(move |output| async move {
                output.send(frame).await;
                Ok(())
            })
        }
        Err(error) => return Err(error),
    };
    let mut answer = response(StatusCode::OK, "text/event-stream", "");
    *answer.body_mut() = body;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(answer)
}

async fn run(
    app: Arc<App>,
    principal: Arc<Principal>,
    mut subscriber: Subscriber,
    opened: Opened,
    output: Output,
    counted: Counted,
) -> Result<(), CutShort> {
    let _counted = counted;
    let mut shutdown = app.shutdown.clone();
    let heartbeat = app.config.heartbeat;
    let retry = app.config.retry.as_millis();
    output.send(format!("retry: {retry}\n\n")).await;
    let options = opened.options.clone();
    send_start(&subscriber, opened, &options, &output).await?;
    let engine = app.node.engine.clone();
    let revoked = engine.revoked(&principal);
    let mut revoked = std::pin::pin!(revoked);
    let mut sent_at = Instant::now();
    let mut sent = Lsn::ZERO;
    loop {
        let event = tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(()),
            error = revoked.as_mut() => {
                output.send(error_frame(&error.into())).await;
                return Ok(());
            }
            event = subscriber.next() => event,
            () = sleep_until(sent_at + heartbeat) => {
                sent_at = Instant::now();
                match subscriber.progress().filter(|position| *position > sent) {
                    Some(position) => {
                        sent = position;
                        let cursor = cursor(position, subscriber.epoch());
                        output.send(format!(
                            "id: {cursor}\nevent: progress\ndata: {{\"cursor\":\"{cursor}\"}}\n\n"
                        )).await;
                    }
                    None => output.send(&b":\n\n"[..]).await,
                }
                continue;
            }
        };
        match event {
            LiveEvent::Change { delta, .. } => {
                sent = delta.lsn;
                let frame = change_frame(&delta, subscriber.epoch(), &options);
                output.send(frame).await;
            }
            LiveEvent::Tick(_) => continue,
            LiveEvent::Refetched {
                message, opened, ..
            } => {
                output.send(refetched_frame(&message)).await;
                send_start(&subscriber, *opened, &options, &output).await?;
            }
            LiveEvent::Ended { end, .. } => {
                if let Some(frame) = end_frame(&end) {
                    output.send(frame).await;
                }
                return Ok(());
            }
        }
        sent_at = Instant::now();
    }
}

/// Sends the result, or what has changed in it since the cursor, and where it goes on from.
async fn send_start(
    subscriber: &Subscriber,
    opened: Opened,
    options: &LiveOptions,
    output: &Output,
) -> Result<(), CutShort> {
    let Opened {
        plan,
        rows,
        delta,
        lsn,
        refetched,
        ..
    } = opened;
    let wants_snapshot = options.snapshot != Some(false) || refetched.is_some();
    if let Some(message) = refetched {
        output.send(refetched_frame(&message)).await;
    }
    if let Some(mut rows) = rows.filter(|_| wants_snapshot) {
        let mut is_first = true;
        loop {
            let chunk = rows.next_chunk().map_err(|error| {
                tracing::error!(%error, "the result of a live query was cut short");
                CutShort
            })?;
            if chunk.is_none() && !is_first {
                break;
            }
            is_first = false;
            let found = chunk.as_ref().map(|chunk| chunk.rows());
            let mut frame = b"event: snapshot\ndata: ".to_vec();
            write_snapshot(&plan, found.into_iter().flatten(), &mut frame);
            frame.extend_from_slice(b"\n\n");
            output.send(frame).await;
        }
    }
    let epoch = subscriber.epoch();
    if let Some(delta) = delta {
        output.send(change_frame(&delta, epoch, options)).await;
    }
    let cursor = cursor(lsn, epoch);
    output
        .send(format!(
            "id: {cursor}\nevent: ready\ndata: {{\"cursor\":\"{cursor}\",\"lsn\":{lsn}}}\n\n"
        ))
        .await;
    Ok(())
}

/// `{"columns":[…],"keys":[…],"rows":[…]}`.
pub fn write_snapshot<'r>(
    plan: &LivePlan,
    rows: impl Iterator<Item = springhead_proto::RowRef<'r>>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"columns\":");
    let columns: Vec<Value> = (plan.columns.iter())
        .map(|column| serde_json::json!({ "name": column.name, "type": column.pg_type.sql_name() }))
        .collect();
    out.extend_from_slice(Value::from(columns).to_string().as_bytes());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for row in rows {
        if !values.is_empty() {
            keys.push(b',');
            values.push(b',');
        }
        write_key(plan, row, &mut keys);
        write_row(plan, row, &mut values);
    }
    out.extend_from_slice(b",\"keys\":[");
    out.extend_from_slice(&keys);
    out.extend_from_slice(b"],\"rows\":[");
    out.extend_from_slice(&values);
    out.extend_from_slice(b"]}");
}

fn cursor(lsn: Lsn, epoch: Epoch) -> String {
    format!("{lsn}@{epoch}")
}

/// The members of a change: `"cursor":…,"lsn":…,"added":…,"changed":…,"removed":…`.
pub fn write_change(delta: &Delta, epoch: Epoch, options: &LiveOptions, out: &mut Vec<u8>) {
    let head = format!(
        "\"cursor\":\"{}@{epoch}\",\"lsn\":{},",
        delta.lsn, delta.lsn
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(delta.members(options.before, options.upsert));
}

fn change_frame(delta: &Delta, epoch: Epoch, options: &LiveOptions) -> Vec<u8> {
    let id = cursor(delta.lsn, epoch);
    let mut frame = format!("id: {id}\nevent: change\ndata: {{").into_bytes();
    write_change(delta, epoch, options, &mut frame);
    frame.extend_from_slice(b"}\n\n");
    frame
}

/// The error that an end comes to.
pub fn error_of(end: &LiveEnd) -> HttpError {
    match end {
        LiveEnd::MustRefetch { message } => refetch(message).into(),
        LiveEnd::Failed(error) => error.clone().into(),
    }
}

/// How a stream ends that will not go on; `None` for a node that stops, where coming back is right.
fn end_frame(end: &LiveEnd) -> Option<String> {
    let error = error_of(end);
    match (end, error.code()) {
        (_, ErrorCode::AdminShutdown) => None,
        (LiveEnd::MustRefetch { .. }, _) => Some(refused_frame(&error)),
        (LiveEnd::Failed(_), code) => {
            if matches!(code, ErrorCode::Corrupted | ErrorCode::Internal) {
                tracing::error!("a live query ends: {error}");
            }
            Some(error_frame(&error))
        }
    }
}

fn error_frame(error: &HttpError) -> String {
    let data = Value::Object(error.object());
    format!("event: error\ndata: {data}\n\n")
}

/// Why a snapshot follows in the same stream. Without an id: a reconnect in its middle starts over.
fn refetched_frame(message: &str) -> String {
    let mut object = HttpError::from(refetch(message)).object();
    object.insert("refetch".to_owned(), true.into());
    let data = Value::Object(object);
    format!("event: {FINAL_ID}\ndata: {data}\n\n")
}

fn refused_frame(error: &HttpError) -> String {
    let data = Value::Object(error.object());
    format!("id: {FINAL_ID}\nevent: {FINAL_ID}\ndata: {data}\n\n")
}
