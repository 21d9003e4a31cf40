//! `GET /sync`: a device's session over a WebSocket (docs/sync-protocol.md). The session itself is
//! the engine's ([`springhead_engine::sync`]); here are its frames on the socket, its times, and how
//! a token becomes somebody.
//!
//! One task per connection takes a frame and hands one out in turn, so that a device that does not
//! read is not read from either. Most of its time it waits: what it does besides is on the heap
//! while it lasts.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use springhead_engine::access::Principal;
use springhead_engine::sync::{Closing, Door, Peer, SyncSession};
use springhead_proto::sync::{
    DeviceToServer, HandshakeAnswer, Ping, Refused, ServerToDevice, SyncErrorCode,
};
use springhead_proto::{SqlError, TenantId};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::App;
use super::body::Response;
use super::error::HttpError;
use super::metrics::Counted;
use super::request::Request;
use super::ws::{Socket, accept};
use crate::auth::web::Shown;

/// What the path takes.
pub const SYNC_PARAMETERS: [&str; 2] = ["ticket", "tenant_id"];

/// How long a device may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A device that takes nothing for this long is gone.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// Answers an upgrade, and serves the device from then on.
///
/// # Errors
/// SH-protocol errors for what is no upgrade to a WebSocket of version 13.
pub async fn upgrade(mut request: Request) -> Result<Response, HttpError> {
    // Whoever has shown nothing yet does so in the handshake.
    let principal = (!request.principal.user.is_empty()).then(|| Arc::clone(&request.principal));
    let tenant_id = match principal.is_some() || request.params.has("tenant_id") {
        true => Some(request.tenant_id()?),
        false => None,
    };
    std::mem::take(&mut request.params).finish(&SYNC_PARAMETERS)?;
    let (answer, on_upgrade) = accept(&mut request)?;
    let user_agent = request.header("user-agent").map(str::to_owned);
    let connection = Connection {
        counted: Counted::new(&request.app, |metrics| &metrics.devices),
        app: Arc::clone(&request.app),
        principal,
        tenant_id,
        peer: Peer {
            address: Some(request.peer.ip().to_string()),
            user_agent,
        },
        address: request.peer.ip(),
    };
    tokio::spawn(connection.run(on_upgrade));
    Ok(answer)
}

/// One device on its socket.
struct Connection {
    app: Arc<App>,
    principal: Option<Arc<Principal>>,
    tenant_id: Option<TenantId>,
    peer: Peer,
    address: std::net::IpAddr,
    counted: Counted,
}

/// Tokens, as any other exit takes them.
struct Tokens {
    app: Arc<App>,
    address: std::net::IpAddr,
}

impl Door for Tokens {
    fn principal(&self, token: &str) -> Result<Arc<Principal>, SqlError> {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            SqlError::new(
                springhead_proto::ErrorCode::InvalidAuthorization,
                "the token has characters that no token has",
            )
        })?;
        headers.insert(header::AUTHORIZATION, value);
        let shown = Shown {
            headers: &headers,
            ticket: None,
            path: "/sync",
            is_get: true,
            address: self.address,
        };
        let node = &self.app.node;
        let principal = node.auth.principal(&node.engine, &shown)?;
        node.auth.limits.user(&principal.user)?;
        Ok(principal)
    }
}

/// Why a connection ends.
enum End {
    /// The other side has gone.
    Gone,
    Closing(Closing),
}

impl From<Closing> for End {
    fn from(closing: Closing) -> End {
        End::Closing(closing)
    }
}

impl End {
    fn with(code: SyncErrorCode, message: impl Into<String>) -> End {
        End::Closing(Closing {
            code,
            message: message.into(),
        })
    }
}

impl Connection {
    async fn run(self, on_upgrade: OnUpgrade) {
        let Ok(upgraded) = on_upgrade.await else {
            return;
        };
        let limit = self.max_frame_bytes();
        // A little more, so that a frame that is too large is told so by its name.
        let config = WebSocketConfig::default()
            .max_message_size(Some(limit + 1024))
            .max_frame_size(Some(limit + 1024))
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0);
        let io = hyper_util::rt::TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let end = self.serve(&mut socket).await;
        Box::pin(say_goodbye(&mut socket, end)).await;
        drop(self.counted);
    }

    fn max_frame_bytes(&self) -> usize {
        self.app.sync.limits().device.max_frame_bytes as usize
    }

    async fn serve(&self, socket: &mut Socket) -> Result<(), End> {
        let tokens = Tokens {
            app: Arc::clone(&self.app),
            address: self.address,
        };
        let first = Box::pin(timeout(HANDSHAKE, self.read(socket))).await;
        let first =
            first.map_err(|_| End::with(SyncErrorCode::Timeout, "no handshake in time"))??;
        let DeviceToServer::Handshake(hello) = first else {
            return Err(End::with(
                SyncErrorCode::ProtocolViolation,
                "a session begins with a handshake",
            ));
        };
        let opened = SyncSession::open(
            &self.app.sync,
            hello,
            self.principal.clone(),
            self.tenant_id,
            self.peer.clone(),
            &tokens,
        );
        let (mut session, ack) = match Box::pin(opened).await {
            Ok(opened) => opened,
            Err(refused) => return Box::pin(self.refuse(socket, refused)).await,
        };
        let answer = ServerToDevice::HandshakeAck(HandshakeAnswer::Accepted(ack));
        Box::pin(send(socket, &answer)).await?;
        drop(answer);
        self.converse(socket, &mut session, &tokens).await
    }

    async fn refuse(&self, socket: &mut Socket, refused: Refused) -> Result<(), End> {
        let closing = Closing {
            code: refused.code,
            message: refused.message.clone(),
        };
        let answer = ServerToDevice::HandshakeAck(HandshakeAnswer::Refused(refused));
        send(socket, &answer).await?;
        let close = socket.close(Some(close_frame(&closing)));
        let _ = timeout(Duration::from_secs(5), close).await;
        Err(End::Gone)
    }

    async fn converse(
        &self,
        socket: &mut Socket,
        session: &mut SyncSession,
        tokens: &Tokens,
    ) -> Result<(), End> {
        let mut shutdown = self.app.shutdown.clone();
        let limits = self.app.sync.limits().device;
        let ping = Duration::from_millis(u64::from(limits.ping_interval_ms));
        let idle = Duration::from_millis(u64::from(limits.idle_timeout_ms));
        let (mut heard, mut beat_at) = (Instant::now(), Instant::now() + ping);
        let mut nonce = 0;
        loop {
            tokio::select! {
                () = shutdown.requested() => {
                    return Err(End::with(SyncErrorCode::GoingAway, "the server stops"));
                }
                frame = self.read(socket) => {
                    heard = Instant::now();
                    Box::pin(session.receive(frame?, tokens)).await?;
                }
                ready = session.ready() => {
                    ready?;
                    if let Some(frame) = Box::pin(session.step()).await? {
                        Box::pin(send(socket, &frame)).await?;
                        beat_at = Instant::now() + ping;
                    }
                }
                () = sleep_until(beat_at) => {
                    if heard.elapsed() > idle {
                        return Err(End::with(SyncErrorCode::Timeout, "the device is silent"));
                    }
                    session.progress();
                    beat_at = Instant::now() + ping;
                    nonce += 1;
                    let ping = ServerToDevice::Ping(Ping { nonce, reply: false });
                    Box::pin(send(socket, &ping)).await?;
                }
            }
        }
    }

    /// The device's next frame. Cancel-safe.
    async fn read(&self, socket: &mut Socket) -> Result<DeviceToServer, End> {
        loop {
            let message = match socket.next().await {
                None => return Err(End::Gone),
                Some(Err(SocketError::Capacity(error))) => {
                    return Err(End::with(SyncErrorCode::FrameTooLarge, error.to_string()));
                }
                Some(Err(_)) => return Err(End::Gone),
                Some(Ok(message)) => message,
            };
            match message {
                Message::Binary(bytes) => {
                    return DeviceToServer::from_bytes(&bytes, self.max_frame_bytes())
                        .map_err(|error| End::with(error.code(), error.to_string()));
                }
                Message::Text(_) => {
                    return Err(End::with(
                        SyncErrorCode::ProtocolViolation,
                        "frames are binary messages",
                    ));
                }
                Message::Close(_) => return Err(End::Gone),
                // Answered below us.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

/// An idle device costs little; what is larger is read into room of its own.
const READ_BUFFER_BYTES: usize = 1 << 10;

async fn say_goodbye(socket: &mut Socket, end: Result<(), End>) {
    if let Err(End::Closing(closing)) = end {
        let bytes = closing.frame().to_bytes();
        let farewell = async {
            socket.send(Message::Binary(bytes.into())).await?;
            socket.close(Some(close_frame(&closing))).await
        };
        // Whether it still hears is its own affair.
        let _ = timeout(Duration::from_secs(5), farewell).await;
        // What it is still sending is taken, so that the farewell is not lost to a reset.
        let _ = timeout(Duration::from_secs(2), discard(socket.get_mut())).await;
    } else {
        let _ = timeout(Duration::from_secs(5), socket.close(None)).await;
    }
}

/// Reads what comes until nothing more does, at most so much.
async fn discard(io: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 8 << 10];
    let mut left = DISCARD_BYTES;
    while left > 0
        && let Ok(count @ 1..) = io.read(&mut buffer).await
    {
        left = left.saturating_sub(count);
    }
}

const DISCARD_BYTES: usize = 32 << 20;

fn close_frame(closing: &Closing) -> CloseFrame {
    // A close frame's text has at most 123 bytes.
    let mut end = closing.message.len().min(120);
    while !closing.message.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame {
        code: CloseCode::from(closing.code.close_code()),
        reason: closing.message[..end].to_owned().into(),
    }
}

async fn send(socket: &mut Socket, frame: &ServerToDevice) -> Result<(), End> {
    let message = Message::Binary(frame.to_bytes().into());
    match timeout(WRITE_STALL, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::with(
            SyncErrorCode::SlowConsumer,
            "the device does not take what it is sent",
        )),
    }
}
