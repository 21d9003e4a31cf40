//! `GET /cdc` and `GET /cdc/{collection}`: the change feed as Server-Sent Events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use springhead_engine::cdc::{
    Envelope, Feed, FeedOptions, FeedSpec, Grouping, Operations, Reader, Start, parse_cursor,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, TimestampMs};
use tokio::time::{Instant, sleep_until};

use super::App;
use super::body::{Body, CutShort, Output, Response, response};
use super::error::HttpError;
use super::metrics::Counted;
use super::params::Params;
use super::request::Request;

/// Ids of frames that end a stream for good; whoever comes back with one is told to stop.
const FINAL_IDS: [&str; 2] = ["must-refetch", "taken-over"];

/// A feed that starts now or at a time tells its position this soon, for clients that learn it from
/// events only.
const FIRST_PROGRESS: Duration = Duration::from_secs(1);

/// Serves an event stream.
///
/// # Errors
/// What is wrong with what is asked for, except for a position that cannot be resumed from, which
/// is told in the stream.
pub async fn stream(mut request: Request) -> Result<Response, HttpError> {
    let collection = request.segments.pop();
    let last_event_id = request
        .header("last-event-id")
        .filter(|id| !id.is_empty())
        .map(str::to_owned);
    let query_id = request.params.take("last_event_id");
    if [&last_event_id, &query_id]
        .into_iter()
        .flatten()
        .any(|id| FINAL_IDS.contains(&id.as_str()))
    {
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = StatusCode::NO_CONTENT;
        return Ok(answer);
    }
    let resumes = last_event_id.is_some() || query_id.is_some();
    let cursor = last_event_id
        .or(query_id)
        .map(|text| parse_cursor(&text))
        .transpose()?;
    let start = start(&mut request.params, cursor)?;
    let snapshot = request.params.flag("snapshot")? && !resumes;
    let consumer = request.params.take("consumer");
    let spec = spec(&mut request.params, collection)?;
    let min_lsn = request.params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&super::routes::EVENT_PARAMETERS)?;
    let tenant = request.app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }

    let app = Arc::clone(&request.app);
    // Asked for again, it would be another position.
    let by_time = matches!(start, None | Some(Start::SinceMs(_))) && !snapshot;
    let options = FeedOptions {
        reader: Reader::new(&request.principal),
        spec,
        start,
        snapshot,
        consumer,
    };
    let body = match Feed::open(&app.cdc, tenant, options)
        .await
        .map_err(HttpError::from)
    {
        Ok(feed) => {
            app.metrics.event_streams_opened.fetch_add(1, Relaxed);
            let counted = Counted::new(&app, |metrics| &metrics.event_streams);
            Body::produced(move |output| run(app, feed, by_time, output, counted))
        }
        Err(refused @ HttpError::Refused { .. }) => Body::produced(move |output| async move {
            output.send(final_frame(&refused).unwrap_or_default()).await;
            Ok(())
        }),
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

/// What is asked for, besides where to start.
///
/// # Errors
/// 22023 naming what is wrong.
pub fn spec(params: &mut Params, collection: Option<String>) -> Result<FeedSpec, HttpError> {
    let columns = match params.take("columns") {
        None => Vec::new(),
        Some(text) if text.trim().is_empty() => {
            return Err(HttpError::parameter("columns names no column"));
        }
        Some(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    Ok(FeedSpec {
        collection,
        filter: params.take("where"),
        columns,
        operations: params
            .take("operations")
            .map(|text| Operations::parse(&text))
            .transpose()?
            .unwrap_or_default(),
        envelope: params
            .take("envelope")
            .map(|text| Envelope::parse(&text))
            .transpose()?
            .unwrap_or_default(),
        grouping: params
            .take("tx")
            .map(|text| Grouping::parse(&text))
            .transpose()?
            .unwrap_or_default(),
    })
}

/// Where to start: the first that is given.
///
/// # Errors
/// 22023 for a number that is none, whether or not it is used.
pub fn start(params: &mut Params, cursor: Option<Cursor>) -> Result<Option<Start>, HttpError> {
    let since_lsn = params
        .number("since_lsn")?
        .map(|lsn| Start::SinceLsn(Lsn(lsn)));
    let since_ms = params
        .number("since_ms")?
        .map(|time| Start::SinceMs(TimestampMs(time)));
    Ok(cursor.map(Start::After).or(since_lsn).or(since_ms))
}

async fn run(
    app: Arc<App>,
    mut feed: Feed,
    by_time: bool,
    output: Output,
    counted: Counted,
) -> Result<(), CutShort> {
    let _counted = counted;
    let mut shutdown = app.shutdown.clone();
    let heartbeat = app.config.heartbeat;
    output.send(hello(&app, &mut feed, by_time)).await;
    let mut last_sent = Instant::now();
    let first_beat = if by_time { FIRST_PROGRESS } else { heartbeat };
    let mut beat = Box::pin(sleep_until(last_sent + first_beat));
    let mut first = by_time;
    loop {
        let frames = tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(()),
            frames = feed.next() => frames.map(Some),
            () = &mut beat => {
                let due = last_sent + heartbeat;
                if !first && Instant::now() < due {
                    beat.as_mut().reset(due);
                    continue;
                }
                first = false;
                beat.as_mut().reset(Instant::now() + heartbeat);
                feed.progress().await
            }
        };
        match frames {
            Ok(Some(frames)) => output.send(frames).await,
            // Anything keeps the connection known to be alive, but not inside another frame.
            Ok(None) if feed.is_between_frames() => output.send(&b":\n\n"[..]).await,
            Ok(None) => {}
            Err(error) => {
                if let Some(frame) = final_frame(&error.into()) {
                    output.send(frame).await;
                }
                return Ok(());
            }
        }
        last_sent = Instant::now();
    }
}

/// The first bytes: how soon to come back, and for a feed that starts now or at a time the position that
/// it starts at, so that a browser that loses its connection before the first event misses nothing.
fn hello(app: &App, feed: &mut Feed, by_time: bool) -> String {
    let retry = app.config.retry.as_millis();
    if by_time {
        let hello = format!(
            "retry: {retry}\nid: {}@{}\n\n",
            feed.position(),
            feed.epoch()
        );
        feed.forget_sent();
        hello
    } else {
        format!("retry: {retry}\n\n")
    }
}

/// How a stream ends that will not go on; `None` for a node that stops, where coming back is right.
fn final_frame(error: &HttpError) -> Option<String> {
    let (id, event) = match (error, error.code()) {
        (_, ErrorCode::AdminShutdown) => return None,
        (HttpError::Refused { .. }, _) => (Some(FINAL_IDS[0]), "must-refetch"),
        (_, ErrorCode::TakenOver) => (Some(FINAL_IDS[1]), "taken-over"),
        (_, code) => {
            if matches!(code, ErrorCode::Corrupted | ErrorCode::Internal) {
                let why = Value::Object(error.object()).to_string();
                tracing::error!("a feed ends: {why}");
            }
            (None, "error")
        }
    };
    let data = Value::Object(error.object());
    Some(match id {
        Some(id) => format!("id: {id}\nevent: {event}\ndata: {data}\n\n"),
        None => format!("event: {event}\ndata: {data}\n\n"),
    })
}
