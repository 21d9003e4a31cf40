//! `GET /cdc/poll` and `GET /cdc/{collection}/poll`: the change feed in pages.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use springhead_engine::cdc::{CdcError, Filled, Poll, PollOptions, Reader, parse_cursor};
use tokio::time::Instant;

use super::App;
use super::body::{Body, CutShort, Output, Response, response};
use super::error::HttpError;
use super::metrics::Counted;
use super::request::Request;
use super::{events, routes};

/// A page up to this size is made before its head is sent, so that whatever fails has its status.
const WHOLE_PAGE_BYTES: usize = 1 << 20;

/// Pages shorter than this are not worth compressing.
const GZIP_BYTES: usize = 1024;

/// Serves one page.
///
/// # Errors
/// What is wrong with what is asked for, a position that cannot be resumed from included.
pub async fn page(mut request: Request) -> Result<Response, HttpError> {
    let collection = request.segments.pop();
    let app = Arc::clone(&request.app);
    let params = &mut request.params;
    let cursor = params
        .take("cursor")
        .map(|text| parse_cursor(&text))
        .transpose()?;
    let start = events::start(params, cursor)?;
    let limit = params.number("limit")?.unwrap_or(app.config.page_changes);
    if limit == 0 {
        return Err(HttpError::parameter("limit is at least 1"));
    }
    let limit = limit.min(app.config.max_page_changes);
    let wait =
        Duration::from_millis(params.number("wait_ms")?.unwrap_or(0)).min(app.config.max_wait);
    let consumer = params.take("consumer");
    let spec = events::spec(params, collection)?;
    let min_lsn = params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&routes::POLL_PARAMETERS)?;
    let tenant = app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }

    let counted = Counted::new(&app, |metrics| &metrics.polls);
    let options = PollOptions {
        reader: Reader::new(&request.principal),
        spec,
        start,
        limit,
        consumer,
    };
    let mut poll = Poll::open(&app.cdc, tenant, options).await?;
    let mut page: Vec<u8> = if poll.is_grouped() {
        b"{\"transactions\":[".to_vec()
    } else {
        b"{\"changes\":[".to_vec()
    };
    let gzip = accepts_gzip(&request);
    let deadline = Instant::now() + wait;
    let done = loop {
        match fill(&mut poll).await? {
            Filled::Chunk(chunk) => {
                page.extend_from_slice(&chunk);
                if page.len() >= WHOLE_PAGE_BYTES {
                    break false;
                }
            }
            Filled::Done if poll.count() > 0 || !poll.is_caught_up() => break true,
            Filled::Done => {
                if !wait_for_more(&app, &mut poll, deadline).await? {
                    break true;
                }
            }
        }
    };
    if done {
        end(&app, &poll, &mut page)?;
        let gzip = gzip && page.len() >= GZIP_BYTES;
        let page = if gzip { Gzip::new().whole(&page) } else { page };
        return Ok(answer(Body::Whole(page.into()), gzip));
    }
    let body = Body::produced(move |output| async move {
        let _counted = counted;
        let mut output = Chunks {
            output,
            gzip: gzip.then(Gzip::new),
        };
        output.send(page.into()).await;
        match rest(&app, poll, &mut output).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "a page was cut short");
                Err(CutShort)
            }
        }
    });
    Ok(answer(body, gzip))
}

/// Waits until there is more to scan; false when the time is over or the node stops.
async fn wait_for_more(app: &App, poll: &mut Poll, deadline: Instant) -> Result<bool, CdcError> {
    let mut shutdown = app.shutdown.clone();
    tokio::select! {
        biased;
        () = shutdown.requested() => Ok(false),
        more = poll.wait() => more.map(|()| true),
        () = tokio::time::sleep_until(deadline) => Ok(false),
    }
}

/// Some more of the page. One that retention overtakes ends with what it has.
async fn fill(poll: &mut Poll) -> Result<Filled, CdcError> {
    match poll.fill().await {
        Err(CdcError::Refused { .. }) if poll.may_end() => Ok(Filled::Done),
        filled => filled,
    }
}

async fn rest(app: &App, mut poll: Poll, output: &mut Chunks) -> Result<(), CdcError> {
    while let Filled::Chunk(chunk) = fill(&mut poll).await? {
        output.send(chunk).await;
    }
    let mut last = Vec::new();
    end(app, &poll, &mut last)?;
    output.send(last.into()).await;
    output.finish().await;
    Ok(())
}

fn end(app: &App, poll: &Poll, page: &mut Vec<u8>) -> Result<(), CdcError> {
    page.push(b']');
    page.extend_from_slice(&poll.trailer()?);
    page.push(b'}');
    app.metrics.poll_changes.fetch_add(poll.count(), Relaxed);
    Ok(())
}

fn answer(body: Body, gzip: bool) -> Response {
    let mut answer = response(StatusCode::OK, "application/json", "");
    *answer.body_mut() = body;
    if gzip {
        answer
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

fn accepts_gzip(request: &Request) -> bool {
    let Some(accepted) = request.header(header::ACCEPT_ENCODING.as_str()) else {
        return false;
    };
    accepted.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight
            .trim()
            .strip_prefix("q=")
            .is_some_and(|q| q.trim().parse().is_ok_and(|q: f32| q == 0.0));
        matches!(name.trim(), "gzip" | "*") && !refused
    })
}

/// Where chunks go, compressed or not.
struct Chunks {
    output: Output,
    gzip: Option<Gzip>,
}

impl Chunks {
    async fn send(&mut self, chunk: Bytes) {
        let chunk = match &mut self.gzip {
            Some(gzip) => gzip.push(&chunk).into(),
            None => chunk,
        };
        self.output.send(chunk).await;
    }

    async fn finish(&mut self) {
        if let Some(gzip) = self.gzip.take() {
            self.output.send(gzip.finish()).await;
        }
    }
}

struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    fn new() -> Gzip {
        Gzip(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// What of the compressed bytes is ready after `bytes`.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0
            .write_all(bytes)
            .expect("writing to memory does not fail");
        std::mem::take(self.0.get_mut())
    }

    fn finish(self) -> Vec<u8> {
        self.0.finish().expect("writing to memory does not fail")
    }

    fn whole(mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = self.push(bytes);
        out.extend_from_slice(&self.finish());
        out
    }
}
