//! `GET /ws`: JSON-RPC 2.0 over a WebSocket (RFC 6455): statements, and any number of live queries
//! that move from commit to commit together.
//!
//! One task per connection reads requests and writes events in turn, so that a client that does not
//! read is not read from either. What waits for it is bounded by the subscriber.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use springhead_engine::access::Principal;
use springhead_engine::cdc::parse_cursor;
use springhead_engine::live::{
    LiveEnd, LiveEvent, LiveId, LiveOptions, LiveRequest, Opened, Subscriber,
};
use springhead_engine::{ParamValue, Session};
use springhead_proto::{ErrorCode, Lsn, TenantId};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Bytes as FrameBytes, Message, Utf8Bytes};

use super::App;
use super::body::{Body, Response};
use super::error::HttpError;
use super::live::{error_of, write_change, write_snapshot};
use super::metrics::Counted;
use super::request::{Request, finish_fields, take_text};
use super::sql::{Asked, param, whole};
use super::ws_channels::ready;
use crate::auth::web::Shown;

/// What the path takes.
pub const WS_PARAMETERS: [&str; 2] = ["ticket", "tenant_id"];

/// A client that takes nothing for this long is gone.
const WRITE_STALL: Duration = Duration::from_secs(300);

/// Codes of JSON-RPC (<https://www.jsonrpc.org/specification#error_object>).
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
/// Everything that has a code of its own, under `data`.
const SERVER_ERROR: i32 = -32000;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers an upgrade, and serves the connection from then on.
///
/// # Errors
/// SH-protocol errors for what is no upgrade to a WebSocket of version 13.
pub async fn upgrade(mut request: Request) -> Result<Response, HttpError> {
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&WS_PARAMETERS)?;
    let (answer, on_upgrade) = accept(&mut request)?;
    let app = Arc::clone(&request.app);
    let tenant = app.node.engine.tenant(tenant_id).await?;
    let connection = Connection {
        subscriber: Subscriber::new(&app.live, tenant),
        tenant_id,
        principal: Arc::clone(&request.principal),
        address: request.peer.ip(),
        counted: Counted::new(&app, |metrics| &metrics.websockets),
        options: FxHashMap::default(),
        listening: None,
        app,
    };
    tokio::spawn(connection.run(on_upgrade));
    Ok(answer)
}

/// The answer to an upgrade to a WebSocket, and what becomes one once it is sent.
///
/// # Errors
/// 08P01 for what is no upgrade of version 13.
pub(super) fn accept(request: &mut Request) -> Result<(Response, OnUpgrade), HttpError> {
    let has = |name: &str, word: &str| {
        let list = request.header(name).unwrap_or_default();
        list.split(',')
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let key = request.header("sec-websocket-key").map(str::to_owned);
    let is_upgrade = has("upgrade", "websocket") && has("sec-websocket-version", "13");
    let (Some(key), true, Some(on_upgrade)) = (key, is_upgrade, request.upgrade.take()) else {
        return Err(HttpError::new(
            ErrorCode::ProtocolViolation,
            "this path is a WebSocket: ask for an upgrade (RFC 6455, version 13, over HTTP/1.1)",
        ));
    };
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).expect("it is base64"),
    );
    Ok((answer, on_upgrade))
}

pub(super) struct Connection {
    pub(super) app: Arc<App>,
    pub(super) subscriber: Subscriber,
    pub(super) tenant_id: TenantId,
    pub(super) principal: Arc<Principal>,
    address: std::net::IpAddr,
    counted: Counted,
    /// What was asked for with each live query.
    options: FxHashMap<LiveId, LiveOptions>,
    /// The session that listens to channels, since the first `listen`.
    pub(super) listening: Option<Box<Session>>,
}

/// Why a connection ends.
pub(super) struct Gone;

/// What a request comes to: the answer, and what follows it.
struct Answer {
    result: String,
    then: Option<Opened>,
}

/// Why a request fails.
pub(super) enum Refusal {
    Code(i32, String),
    Error(HttpError),
}

impl<E: Into<HttpError>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal::Error(error.into())
    }
}

impl Connection {
    async fn run(mut self, on_upgrade: OnUpgrade) {
        let Ok(upgraded) = on_upgrade.await else {
            return;
        };
        let limit = self.app.config.max_body_bytes;
        let config = WebSocketConfig::default()
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        // The client's going is an end like any other.
        let _ = self.serve(&mut socket).await;
        let _ = timeout(Duration::from_secs(5), socket.close(None)).await;
        drop(self.counted);
    }

    async fn serve(&mut self, socket: &mut Socket) -> Result<(), Gone> {
        let mut shutdown = self.app.shutdown.clone();
        let heartbeat = self.app.config.heartbeat;
        let mut beat_at = Instant::now() + heartbeat;
        // Behind a proxy only its answers say that a client is still there.
        let (mut heard, patience) = (Instant::now(), self.app.config.peer_timeout);
        let mut told = Lsn::ZERO;
        loop {
            let engine = self.app.node.engine.clone();
            let principal = Arc::clone(&self.principal);
            let listener = (self.listening.as_deref())
                .and_then(Session::listener)
                .cloned();
            tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(()),
                error = engine.revoked(&principal) => {
                    let frame = json!({
                        "jsonrpc": "2.0", "method": "error",
                        "params": HttpError::from(error).object(),
                    });
                    return send(socket, frame.to_string()).await;
                }
                message = socket.next() => {
                    heard = Instant::now();
                    self.take(socket, message).await?;
                }
                () = ready(listener.as_deref()) => self.tell_messages(socket).await?,
                event = self.subscriber.next() => {
                    if let LiveEvent::Tick(lsn) = &event {
                        told = *lsn;
                    }
                    self.tell(socket, event).await?;
                }
                () = sleep_until(beat_at) => {
                    if heard.elapsed() > patience.max(heartbeat * 2) {
                        return Err(Gone);
                    }
                    beat_at = Instant::now() + heartbeat;
                    if let Some(position) = self.subscriber.progress().filter(|at| *at > told) {
                        told = position;
                        self.tell_progress(socket, position).await?;
                    }
                    let ping = Message::Ping(FrameBytes::new());
                    socket.send(ping).await.map_err(|_| Gone)?;
                }
            }
        }
    }

    async fn take(
        &mut self,
        socket: &mut Socket,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<(), Gone> {
        match message {
            Some(Ok(Message::Text(text))) => self.request(socket, &text).await,
            Some(Ok(Message::Binary(_))) => {
                let why = "requests are text".to_owned();
                let refusal = Refusal::Code(INVALID_REQUEST, why);
                send(socket, failure(&Value::Null, &refusal)).await
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Gone),
            // Pings are answered below us.
            Some(Ok(_)) => Ok(()),
        }
    }

    async fn request(&mut self, socket: &mut Socket, text: &str) -> Result<(), Gone> {
        match super::json::read(text) {
            Ok(Value::Array(batch)) if !batch.is_empty() => self.batch(socket, batch).await,
            Ok(request) => {
                let (frame, opened) = self.answer(request).await;
                if let Some(frame) = frame {
                    send(socket, frame).await?;
                }
                match opened {
                    Some(opened) => self.begin(socket, opened).await,
                    None => Ok(()),
                }
            }
            Err(error) => {
                let refusal = Refusal::Code(PARSE_ERROR, format!("the request {error}"));
                send(socket, failure(&Value::Null, &refusal)).await
            }
        }
    }

    /// Several requests in one message: done one after the other, and answered in one array, which is as
    /// large as one answer may be. What their live queries tell comes after it.
    async fn batch(&mut self, socket: &mut Socket, batch: Vec<Value>) -> Result<(), Gone> {
        let limit = self.app.config.max_body_bytes;
        let (mut frames, mut all_opened) = (String::from("["), Vec::new());
        for request in batch {
            let (frame, opened) = if frames.len() > limit {
                (too_much(&request, limit), None)
            } else {
                self.answer(request).await
            };
            if let Some(frame) = frame {
                if frames.len() > 1 {
                    frames.push(',');
                }
                frames.push_str(&frame);
            }
            all_opened.extend(opened);
        }
        if frames.len() > 1 {
            frames.push(']');
            send(socket, frames).await?;
        }
        for opened in all_opened {
            // A later request of the batch may have ended it.
            if self.options.contains_key(&opened.id) {
                self.begin(socket, opened).await?;
            }
        }
        Ok(())
    }

    /// Does what a request asks for. The answer is `None` for a notification; what it opened is to be begun
    /// after it.
    async fn answer(&mut self, request: Value) -> (Option<String>, Option<Opened>) {
        let request = match well_formed(request) {
            Ok(request) => request,
            Err(refusal) => return (Some(failure(&Value::Null, &refusal)), None),
        };
        let id = request.get("id").cloned();
        let is_call = matches!(request.get("method"), Some(Value::String(_)));
        match (self.call(request).await, id) {
            (Ok(answer), Some(id)) => {
                let result = &answer.result;
                let frame = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}");
                (Some(frame), answer.then)
            }
            (Ok(answer), None) => (None, answer.then),
            // Of what becomes of a notification nothing is told.
            (Err(_), None) if is_call => (None, None),
            (Err(refusal), id) => {
                let id = id.unwrap_or(Value::Null);
                (Some(failure(&id, &refusal)), None)
            }
        }
    }

    async fn call(&mut self, mut request: Map<String, Value>) -> Result<Answer, Refusal> {
        let method = match request.remove("method") {
            Some(Value::String(method)) => method,
            _ => {
                return Err(Refusal::Code(
                    INVALID_REQUEST,
                    "\"method\" is missing".to_owned(),
                ));
            }
        };
        let mut params = match request.remove("params") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => {
                return Err(Refusal::Code(
                    INVALID_PARAMS,
                    "\"params\" is an object".to_owned(),
                ));
            }
        };
        let plain = |result: Value| Answer {
            result: result.to_string(),
            then: None,
        };
        match method.as_str() {
            "ping" => {
                finish_fields(&params, &[])?;
                Ok(plain(json!({})))
            }
            "sql" => self.sql(params).await,
            "live" => self.live(params).await,
            "cancel" => {
                let id = params.remove("live_id").and_then(|id| id.as_u64());
                finish_fields(&params, &["live_id"])?;
                match id.map(LiveId).filter(|id| self.subscriber.close(*id)) {
                    Some(id) => {
                        self.options.remove(&id);
                        Ok(plain(json!({ "cancelled": true })))
                    }
                    None => Err(HttpError::new(
                        ErrorCode::NotFound,
                        "there is no live query of that id",
                    )
                    .into()),
                }
            }
            "listen" => self.listen(params).await.map(plain),
            "unlisten" => self.unlisten(params).await.map(plain),
            "authenticate" => {
                let token = take_text(&mut params, "token")?
                    .ok_or_else(|| HttpError::parameter("\"token\" is missing"))?;
                finish_fields(&params, &["token"])?;
                self.authenticate(&token).await?;
                Ok(plain(json!({ "user": &*self.principal.user })))
            }
            other => Err(Refusal::Code(
                METHOD_NOT_FOUND,
                format!("there is no method \"{}\"", super::params::shown(other)),
            )),
        }
    }

    async fn sql(&self, mut params: Map<String, Value>) -> Result<Answer, Refusal> {
        let min_lsn = super::request::take_number(&mut params, "min_lsn")?;
        let asked = Asked::read(params, &["sql", "params", "min_lsn"])?;
        let engine = &self.app.node.engine;
        let mut session = engine.session(self.tenant_id, &self.principal).await?;
        if let Some(lsn) = min_lsn {
            session.require_lsn(Lsn(lsn));
        }
        let outcome = asked.run(&mut session).await?;
        let result = whole(outcome, self.app.config.max_body_bytes)?;
        Ok(Answer { result, then: None })
    }

    async fn live(&mut self, mut params: Map<String, Value>) -> Result<Answer, Refusal> {
        let cursor = take_text(&mut params, "cursor")?;
        let cursor = cursor.as_deref().map(parse_cursor).transpose()?;
        let mut options = LiveOptions::default();
        for name in super::live::OPTIONS {
            match params.remove(name) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) => options.set(name, Some(&text))?,
                Some(other) => options.set(name, Some(&other.to_string()))?,
            }
        }
        let asked = Asked::read(params, &["sql", "params", "cursor"])?;
        let values: Vec<ParamValue<'_>> = asked.params.iter().map(param).collect();
        let request = LiveRequest {
            sql: &asked.sql,
            params: &values,
            cursor,
            options,
        };
        let opened = self.subscriber.open(&self.principal, &request).await?;
        self.app.metrics.event_streams_opened.fetch_add(1, Relaxed);
        self.options.insert(opened.id, opened.options.clone());
        Ok(Answer {
            result: json!({ "live_id": opened.id.0 }).to_string(),
            then: Some(opened),
        })
    }

    /// The same connection goes on for whom the token stands for, and its live queries with it: those
    /// of the same user as they are, any other anew, if it still may.
    async fn authenticate(&mut self, token: &str) -> Result<(), HttpError> {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| HttpError::parameter("the token has characters that no token has"))?;
        headers.insert(header::AUTHORIZATION, value);
        let shown = Shown {
            headers: &headers,
            ticket: None,
            path: "/ws",
            is_get: true,
            address: self.address,
        };
        let engine = &self.app.node.engine;
        let principal = self.app.node.auth.principal(engine, &shown)?;
        let own = engine.tenant_of(&principal);
        if own.is_some_and(|own| own != self.tenant_id) {
            return Err(HttpError::new(
                ErrorCode::ForbiddenTenant,
                "the token is for another tenant than this connection",
            ));
        }
        self.principal = principal;
        self.subscriber.change_principal(&self.principal).await;
        Ok(())
    }

    async fn begin(&mut self, socket: &mut Socket, opened: Opened) -> Result<(), Gone> {
        let Opened {
            id,
            plan,
            rows,
            delta,
            lsn,
            refetched,
            ..
        } = opened;
        let options = self.options.get(&id);
        let wants_snapshot =
            refetched.is_some() || options.is_none_or(|options| options.snapshot != Some(false));
        if let Some(message) = refetched {
            send(socket, refetched_frame(id, &message)).await?;
        }
        let head = |event: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"live.{event}\",\"params\":{{\"live_id\":{},",
                id.0
            )
        };
        if let Some(mut rows) = rows.filter(|_| wants_snapshot) {
            let mut is_first = true;
            loop {
                let chunk = rows.next_chunk().map_err(|error| {
                    tracing::error!(%error, "the result of a live query was cut short");
                    Gone
                })?;
                if chunk.is_none() && !is_first {
                    break;
                }
                is_first = false;
                let mut object = Vec::new();
                let found = chunk.as_ref().map(|chunk| chunk.rows());
                write_snapshot(&plan, found.into_iter().flatten(), &mut object);
                let object = String::from_utf8(object).expect("JSON is UTF-8");
                // Its own braces open in the head.
                send(socket, head("snapshot") + &object[1..] + "}").await?;
            }
        }
        let epoch = self.subscriber.epoch();
        if let Some(delta) = delta {
            self.tell(socket, LiveEvent::Change { id, delta }).await?;
        }
        let ready = head("ready") + &format!("\"cursor\":\"{lsn}@{epoch}\",\"lsn\":{lsn}}}}}");
        send(socket, ready).await
    }

    async fn tell(&mut self, socket: &mut Socket, event: LiveEvent) -> Result<(), Gone> {
        let frame = match event {
            LiveEvent::Change { id, delta } => {
                let mut frame = format!(
                    "{{\"jsonrpc\":\"2.0\",\"method\":\"live.change\",\"params\":{{\"live_id\":{},",
                    id.0
                )
                .into_bytes();
                let options = self.options.get(&id).cloned().unwrap_or_default();
                write_change(&delta, self.subscriber.epoch(), &options, &mut frame);
                frame.extend_from_slice(b"}}");
                String::from_utf8(frame).expect("JSON is UTF-8")
            }
            LiveEvent::Tick(lsn) => {
                json!({ "jsonrpc": "2.0", "method": "tick", "params": { "lsn": lsn.0 } })
                    .to_string()
            }
            LiveEvent::Refetched {
                id,
                message,
                opened,
            } => {
                send(socket, refetched_frame(id, &message)).await?;
                return Box::pin(self.begin(socket, *opened)).await;
            }
            LiveEvent::Ended { id, end } => {
                self.options.remove(&id);
                let mut params = error_of(&end).object();
                params.insert("live_id".to_owned(), id.0.into());
                let event = match end {
                    LiveEnd::MustRefetch { .. } => "live.must-refetch",
                    LiveEnd::Failed(_) => "live.error",
                };
                json!({ "jsonrpc": "2.0", "method": event, "params": params }).to_string()
            }
        };
        send(socket, frame).await
    }

    async fn tell_progress(&mut self, socket: &mut Socket, position: Lsn) -> Result<(), Gone> {
        let cursor = format!("{position}@{}", self.subscriber.epoch());
        for id in self.subscriber.ids() {
            let params = json!({ "live_id": id.0, "cursor": cursor });
            let frame = json!({ "jsonrpc": "2.0", "method": "live.progress", "params": params });
            send(socket, frame.to_string()).await?;
        }
        Ok(())
    }
}

/// Why a snapshot of the same live query follows.
fn refetched_frame(id: LiveId, message: &str) -> String {
    let end = LiveEnd::MustRefetch {
        message: message.to_owned(),
    };
    let mut params = error_of(&end).object();
    params.insert("live_id".to_owned(), id.0.into());
    params.insert("refetch".to_owned(), true.into());
    json!({ "jsonrpc": "2.0", "method": "live.must-refetch", "params": params }).to_string()
}

/// A request's members, if it is one.
fn well_formed(request: Value) -> Result<Map<String, Value>, Refusal> {
    let wrong = |why: &str| Err(Refusal::Code(INVALID_REQUEST, why.to_owned()));
    let Value::Object(request) = request else {
        return wrong("a request is one JSON object, or several in an array");
    };
    match request.get("jsonrpc") {
        None => {}
        Some(Value::String(version)) if version == "2.0" => {}
        Some(_) => return wrong("\"jsonrpc\" is \"2.0\""),
    }
    match request.get("id") {
        None | Some(Value::Null | Value::String(_) | Value::Number(_)) => Ok(request),
        Some(_) => wrong("\"id\" is a text, a number or null"),
    }
}

/// The answer to a request of a batch whose answers are too many already; it is not done.
fn too_much(request: &Value, limit: usize) -> Option<String> {
    let error = HttpError::new(
        ErrorCode::StatementTooLarge,
        format!("the batch's answers are over {limit} bytes"),
    );
    Some(failure(request.get("id")?, &Refusal::Error(error)))
}

fn failure(id: &Value, refusal: &Refusal) -> String {
    let error = match refusal {
        Refusal::Code(code, message) => json!({ "code": code, "message": message }),
        Refusal::Error(error) => json!({
            "code": if error.code() == ErrorCode::InvalidParameterValue { INVALID_PARAMS } else { SERVER_ERROR },
            "message": error.to_string(),
            "data": error.object(),
        }),
    };
    json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string()
}

pub(super) async fn send(socket: &mut Socket, text: String) -> Result<(), Gone> {
    let message = Message::Text(Utf8Bytes::from(text));
    match timeout(WRITE_STALL, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}
