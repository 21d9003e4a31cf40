//! One connection, from its first byte to its last: a task that owns the socket, the session and
//! both buffers.
//!
//! ```text
//! handshake -> [ wait: socket | idle timer | shutdown ] -> every whole message -> wait ...
//! ```
//!
//! Answers are collected and sent at ReadyForQuery and Flush, with one write. Nothing a client does
//! ends anything but its own connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use springhead_engine::access::Principal;
use springhead_engine::cancel::terminated;
use springhead_engine::copy::CopyOutcome;
use springhead_engine::{Engine, Session, TransactionStatus};
use springhead_proto::{ErrorCode, SqlError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::{self, Severity};
use super::copying::Source;
use super::extended::Extended;
use super::frontend::{Frame, FrontendMessage, Mistake};
use super::login;
use super::registry::Place;
use super::results::{SendError, Wire};
use super::session;
use super::socket::Input;
use super::startup::{Startup, read_packet};
use super::stream::Stream;
use super::telling::{tell, tell_live};
use crate::config::SettingValue;
use crate::node::{NodeState, Shutdown};

/// How long a client that made a mistake gets to read what it was, and how much of what it still
/// sends is thrown away meanwhile. Closing at once would reset the connection under the message.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 128 << 20;

/// How long a connection whose credentials were revoked may still take for an answer.
const REVOKED_GRACE: Duration = Duration::from_millis(200);

/// Why a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The client said goodbye, or went.
    Left,
    /// To be told to the client.
    Fatal(SqlError),
    Socket(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Socket(error)
    }
}

impl From<SqlError> for Ended {
    fn from(error: SqlError) -> Ended {
        Ended::Fatal(error)
    }
}

/// Serves one connection to its end.
pub async fn run(stream: TcpStream, peer: SocketAddr, state: Arc<NodeState>, shutdown: Shutdown) {
    let alive = match state.config.pg_keepalive {
        Some(idle) => keep_alive(&stream, idle),
        None => Ok(()),
    };
    if let Err(error) = stream.set_nodelay(true).and(alive) {
        tracing::debug!(%peer, %error, "a connection ended at once");
        return;
    }
    let config = &state.config;
    let mut wire = Wire {
        stream: Stream::Plain(stream),
        out: Vec::new(),
        buffer_bytes: config.pg_write_buffer_bytes.in_memory(),
        stall: config.pg_write_stall_timeout,
        stall_in_transaction: config.idle_in_transaction_session_timeout,
        in_transaction: false,
    };
    let ended = converse(&mut wire, peer, &state, shutdown).await;
    match ended {
        Ended::Left => tracing::debug!(%peer, "a connection ended"),
        Ended::Socket(error) => tracing::debug!(%peer, %error, "a connection broke"),
        Ended::Fatal(error) => {
            tracing::debug!(%peer, code = %error.code, %error, "a connection was ended");
            say_goodbye(&mut wire, &error).await;
        }
    }
}

/// A peer that is gone without a word is noticed: probed after `idle`, given up after three more.
fn keep_alive(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    // Seconds, of which the kernel takes one at least.
    let idle = idle.max(Duration::from_secs(1));
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, (idle / 4).max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

async fn say_goodbye(wire: &mut Wire, error: &SqlError) {
    backend::error_response(&mut wire.out, Severity::Fatal, error);
    wire.stall = Some(LINGER);
    if wire.flush().await.is_err() || wire.stream.shutdown().await.is_err() {
        return;
    }
    if matches!(
        error.code,
        ErrorCode::AdminShutdown
            | ErrorCode::IdleInTransactionTimeout
            | ErrorCode::IdleSessionTimeout
    ) {
        return;
    }
    let mut rest = (&mut wire.stream).take(LINGER_BYTES as u64);
    // Whatever comes of it, the connection is over.
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

async fn converse(
    wire: &mut Wire,
    peer: SocketAddr,
    state: &Arc<NodeState>,
    mut shutdown: Shutdown,
) -> Ended {
    let mut input = Input::default();
    let opened = tokio::select! {
        opened = tokio::time::timeout(state.config.pg_startup_timeout, handshake(wire, &mut input, peer, state)) => opened,
        () = shutdown.requested() => return Ended::Fatal(shutting_down()),
    };
    let opened = opened.unwrap_or_else(|_| {
        Err(Ended::Fatal(SqlError::new(
            ErrorCode::QueryCanceled,
            "canceling authentication due to timeout",
        )))
    });
    let (mut session, place) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ended::Left,
        Err(ended) => return ended,
    };
    session.run_ahead();
    session.enable_streams();
    session.enable_live(&state.live);
    session.limit_prepared(state.config.pg_max_prepared);
    let own_idle_limit_at_start = session.setting(IDLE_SETTING);
    let mut connection = Connection {
        wire,
        node: state,
        input,
        session,
        extended: Extended::new(state.config.pg_max_prepared),
        message: Vec::new(),
        in_batch: false,
        max_message_bytes: state.config.pg_max_message_bytes.in_memory(),
        idle_limit_of_server: state.config.idle_in_transaction_session_timeout,
        own_idle_limit_at_start,
        shutdown: Box::pin(async move { shutdown.requested().await }),
        _place: place,
    };
    let (engine, principal) = (
        state.engine.clone(),
        Arc::clone(connection.session.principal()),
    );
    tokio::select! {
        biased;
        ended = connection.talk() => match ended {
            Err(ended) => ended,
            Ok(never) => match never {},
        },
        error = revoked(&engine, &principal) => Ended::Fatal(error),
    }
}

/// Completes when the connection must end because its credentials are no longer good. What it is
/// doing then, which may be what revoked them, has a moment to be answered.
async fn revoked(engine: &Engine, principal: &Principal) -> SqlError {
    let error = engine.revoked(principal).await;
    tokio::time::sleep(REVOKED_GRACE).await;
    error
}

/// Until there is a session, or there is none to be (a cancel request).
async fn handshake(
    wire: &mut Wire,
    input: &mut Input,
    peer: SocketAddr,
    state: &NodeState,
) -> Result<Option<(Session, Place)>, Ended> {
    // A client may ask for each kind of encryption once.
    let (mut asked_for_tls, mut asked_for_gss) = (false, false);
    loop {
        let Some((startup, length)) = read_packet(input.bytes())? else {
            if !input.fill(&mut wire.stream).await? {
                return Err(Ended::Left);
            }
            continue;
        };
        input.consume(length);
        match startup {
            Startup::Gss if !asked_for_gss && !wire.stream.is_encrypted() => {
                asked_for_gss = true;
                wire.out.push(b'N');
                wire.flush().await?;
            }
            Startup::Tls if !asked_for_tls && !wire.stream.is_encrypted() => {
                asked_for_tls = true;
                start_tls(wire, input, state).await?;
            }
            Startup::Tls | Startup::Gss => {
                return Err(SqlError::new(
                    ErrorCode::ProtocolViolation,
                    "encryption has been asked for already",
                )
                .into());
            }
            Startup::Cancel { process_id, secret } => {
                state.pg.cancel(process_id, secret);
                return Ok(None);
            }
            Startup::Session(parameters) => {
                let principal = login::log_in(wire, input, state, &parameters, peer).await?;
                let opened = session::open(state, &parameters, &principal, &mut wire.out).await?;
                backend::ready_for_query(&mut wire.out, b'I');
                wire.flush().await?;
                return Ok(Some(opened));
            }
        }
    }
}

/// Answers a request for TLS, and puts it on the connection if there is a certificate.
async fn start_tls(wire: &mut Wire, input: &mut Input, state: &NodeState) -> Result<(), Ended> {
    let Some(tls) = &state.auth.tls else {
        wire.out.push(b'N');
        wire.flush().await?;
        return Ok(());
    };
    // What came with the request was not encrypted, and must not be taken for what is
    // (CVE-2021-23222).
    if !input.bytes().is_empty() {
        return Err(SqlError::new(
            ErrorCode::ProtocolViolation,
            "received unencrypted data after SSL request",
        )
        .into());
    }
    wire.out.push(b'S');
    wire.flush().await?;
    let plain = wire.stream.take_plain().ok_or(Ended::Left)?;
    let stream = tls.postgres().accept(plain).await?;
    wire.stream = Stream::Tls(Box::new(stream));
    Ok(())
}

const IDLE_SETTING: &str = "idle_in_transaction_session_timeout";

enum Never {}

struct Connection<'w> {
    wire: &'w mut Wire,
    node: &'w NodeState,
    input: Input,
    session: Session,
    extended: Extended,
    /// The message that is handled now: the input goes on behind it.
    message: Vec<u8>,
    /// Messages of the extended flow have come since the last Sync.
    in_batch: bool,
    max_message_bytes: usize,
    /// The configuration's limit for those who hold up others.
    idle_limit_of_server: Option<Duration>,
    /// The session's own, before the client has set any.
    own_idle_limit_at_start: Option<String>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: Place,
}

impl Connection<'_> {
    async fn talk(&mut self) -> Result<Never, Ended> {
        loop {
            self.handle_arrived().await?;
            self.session.catch_up();
            if self.is_quiet() {
                tell(self.wire, &mut self.session, None).await?;
                tell_live(self.wire, &mut self.session).await?;
            }
            self.wait().await?;
        }
    }

    /// Whether the client is in the middle of nothing, so that it may be told what it listens for.
    fn is_quiet(&self) -> bool {
        !self.in_batch && self.session.transaction_status() == TransactionStatus::Idle
    }

    /// Waits until something has arrived, or for a reason to end.
    async fn wait(&mut self) -> Result<(), Ended> {
        let idle_limit = self.idle_limit();
        let idle_code = match self.session.transaction_status() {
            TransactionStatus::Idle => ErrorCode::IdleSessionTimeout,
            _ => ErrorCode::IdleInTransactionTimeout,
        };
        let listener = self.session.listener().filter(|_| self.is_quiet()).cloned();
        let notified = async {
            match &listener {
                Some(listener) => listener.ready().await,
                None => std::future::pending().await,
            }
        };
        let live = self.session.live_waiter().filter(|_| self.is_quiet());
        let due = self.session.live_due();
        let changed = async {
            match (&live, due) {
                (None, _) => std::future::pending().await,
                (Some(live), None) => live.ready().await,
                (Some(live), Some(due)) => tokio::select! {
                    () = live.ready() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        };
        let ending = self.session.ending();
        tokio::select! {
            // What a client has said comes before what it is to be told.
            biased;
            () = ending.asked() => Err(Ended::Fatal(terminated())),
            arrived = self.input.fill(&mut self.wire.stream) => {
                if arrived? { Ok(()) } else { Err(Ended::Left) }
            }
            () = self.shutdown.as_mut() => Err(Ended::Fatal(shutting_down())),
            () = notified => Ok(()),
            () = changed => Ok(()),
            () = after(idle_limit) => Err(Ended::Fatal(SqlError::new(
                idle_code,
                if idle_code == ErrorCode::IdleSessionTimeout {
                    "terminating connection due to idle-session timeout"
                } else {
                    "terminating connection due to idle-in-transaction timeout"
                },
            ))),
        }
    }

    /// How long the client may stay silent. The server's limit is for those who hold up others, a
    /// limit that the session has set itself is for any open transaction, as in PostgreSQL.
    fn idle_limit(&self) -> Option<Duration> {
        if self.session.transaction_status() == TransactionStatus::Idle {
            let own = self.session.setting("idle_session_timeout");
            return own.as_deref().and_then(postgres_duration);
        }
        let own = self.session.setting(IDLE_SETTING);
        if own != self.own_idle_limit_at_start {
            return own.as_deref().and_then(postgres_duration);
        }
        self.idle_limit_of_server
            .filter(|_| self.session.holds_writer())
    }

    /// Does all that has arrived whole.
    async fn handle_arrived(&mut self) -> Result<(), Ended> {
        loop {
            let frame = match Frame::find(self.input.bytes(), self.max_message_bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(Mistake::Fatal(error) | Mistake::Error(error)) => {
                    return Err(Ended::Fatal(error));
                }
            };
            let mut message = std::mem::take(&mut self.message);
            message.clear();
            message.extend_from_slice(&self.input.bytes()[..frame.length]);
            self.input.consume(frame.length);
            self.handle(frame, &message).await?;
            if message.capacity() > KEEP_MESSAGE_BYTES {
                message = Vec::new();
            }
            self.message = message;
        }
    }

    /// Counts what runs statements: simple queries and executions.
    fn within_limits(&self, kind: u8) -> Result<(), SqlError> {
        if !matches!(kind, b'Q' | b'E') {
            return Ok(());
        }
        let limits = &self.node.auth.limits;
        limits.user(&self.session.principal().user)?;
        limits.tenant(self.session.tenant().id())
    }

    async fn handle(&mut self, frame: Frame, bytes: &[u8]) -> Result<(), Ended> {
        let within_limits = self.within_limits(frame.kind).map_err(Mistake::Error);
        let message = match within_limits.and_then(|()| frame.decode(bytes)) {
            Ok(message) => message,
            Err(Mistake::Fatal(error)) => return Err(Ended::Fatal(error)),
            Err(Mistake::Error(error)) => {
                if self.extended.is_skipping() {
                    return Ok(());
                }
                self.wire.error(&error);
                if frame.kind == b'Q' {
                    self.session.fail();
                    return ready(self.wire, &mut self.session).await;
                }
                self.extended.skip_until_sync(&mut self.session);
                return Ok(());
            }
        };
        if self.is_quiet() {
            self.session.settle_notifications().await;
        }
        self.in_batch = frame_is_extended(frame.kind);
        let (wire, session, extended) = (&mut *self.wire, &mut self.session, &mut self.extended);
        let mut source = Source {
            input: &mut self.input,
            shutdown: &mut self.shutdown,
            max_message_bytes: self.max_message_bytes,
            idle_limit: self.idle_limit_of_server,
            heartbeat: self.node.config.sse_heartbeat,
        };
        match message {
            FrontendMessage::Terminate => Err(Ended::Left),
            FrontendMessage::Sync => {
                extended.sync(wire, session).await?;
                ready(wire, session).await
            }
            FrontendMessage::Flush => {
                session.catch_up();
                Ok(wire.flush().await?)
            }
            _ if extended.is_skipping() => Ok(()),
            FrontendMessage::Query(sql) => {
                extended.before_query(wire, session).await?;
                simple_query(wire, session, &mut source, sql).await?;
                extended.after_query(session);
                ready(wire, session).await
            }
            FrontendMessage::FunctionCall => {
                wire.error(
                    &SqlError::unsupported("the function call message").with_hint("use SELECT"),
                );
                ready(wire, session).await
            }
            // What a client goes on sending after its COPY failed, or was never begun.
            FrontendMessage::CopyData(_)
            | FrontendMessage::CopyDone
            | FrontendMessage::CopyFail(_) => Ok(()),
            FrontendMessage::Password(_) => Err(Ended::Fatal(SqlError::new(
                ErrorCode::ProtocolViolation,
                "a password was sent, but none was asked for",
            ))),
            message => extended.handle(wire, session, &mut source, message).await,
        }
    }
}

/// How large a message's buffer is kept for the next.
const KEEP_MESSAGE_BYTES: usize = 64 << 10;

/// Whether a message belongs to a batch that a Sync ends.
fn frame_is_extended(kind: u8) -> bool {
    matches!(kind, b'P' | b'B' | b'D' | b'E' | b'C' | b'H')
}

/// Whether a Sync has arrived and nothing is before it that could join its transaction.
pub fn sync_follows(mut input: &[u8]) -> bool {
    while let Ok(Some(frame)) = Frame::find(input, usize::MAX) {
        match frame.kind {
            b'S' => return true,
            // Close and Flush.
            b'C' | b'H' => input = &input[frame.length..],
            _ => return false,
        }
    }
    false
}

/// Runs the statements of a simple query, up to the first that fails.
async fn simple_query(
    wire: &mut Wire,
    session: &mut Session,
    source: &mut Source<'_>,
    sql: &str,
) -> Result<(), Ended> {
    let in_block = session.transaction_status() != TransactionStatus::Idle;
    let mut script = session.script(sql);
    let mut statements = 0_u64;
    while let Some(mut outcome) = script.next().await {
        if let Ok(begun) = &mut outcome
            && let Some(CopyOutcome::In(copy)) = begun
                .copy
                .take_if(|copy| matches!(copy, CopyOutcome::In(_)))
        {
            let copy = source.read(wire, script.session(), *copy).await?;
            outcome = script.finish_copy(copy).await;
        }
        if let Ok(begun) = &mut outcome
            && let Some(CopyOutcome::Live(copy)) = begun
                .copy
                .take_if(|copy| matches!(copy, CopyOutcome::Live(_)))
        {
            let error = source.stream(wire, script.session(), *copy).await?;
            script.fail().await;
            outcome = Err(error);
        }
        let sent = match outcome {
            Ok(outcome) => {
                // Statements before the last hold their transaction while they are sent.
                wire.in_transaction =
                    in_block || statements > 0 || !outcome.tag.starts_with("SELECT");
                wire.outcome(outcome).await
            }
            Err(error) => Err(SendError::Statement(error)),
        };
        statements += 1;
        match sent {
            Ok(()) => {}
            Err(SendError::Socket(error)) => return Err(error.into()),
            Err(SendError::Statement(error)) => {
                wire.error(&error);
                break;
            }
        }
    }
    wire.in_transaction = false;
    if statements == 0 {
        backend::empty_query_response(&mut wire.out);
    }
    Ok(())
}

/// ReadyForQuery, sent.
async fn ready(wire: &mut Wire, session: &mut Session) -> Result<(), Ended> {
    let status = match session.transaction_status() {
        TransactionStatus::Idle => b'I',
        TransactionStatus::InTransaction => b'T',
        TransactionStatus::Failed => b'E',
    };
    if status == b'I' && session.listener().is_some() {
        let until = session.notifications_until().await;
        tell(wire, session, Some(until)).await?;
    }
    backend::ready_for_query(&mut wire.out, status);
    wire.in_transaction = status != b'I';
    let begun = if session.is_ahead() {
        // Not even for the runtime's fairness does an answer wait that all others wait behind.
        tokio::task::unconstrained(wire.begin_flush()).await
    } else {
        wire.begin_flush().await
    };
    // Before anything is waited for.
    session.catch_up();
    begun?;
    let sent = wire.flush().await;
    wire.in_transaction = false;
    Ok(sent?)
}

/// Completes after `limit`; without one, never.
pub async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// A duration as PostgreSQL's settings have it: milliseconds without a unit, 0 for none.
fn postgres_duration(text: &str) -> Option<Duration> {
    let duration = match text.trim().parse::<u64>() {
        Ok(ms) => Duration::from_millis(ms),
        Err(_) => Duration::read(text).ok()?,
    };
    Some(duration).filter(|duration| !duration.is_zero())
}

/// 57P01 for who is connected when the node stops.
pub fn shutting_down() -> SqlError {
    SqlError::new(
        ErrorCode::AdminShutdown,
        "terminating connection due to administrator command",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_seen_behind_what_cannot_matter() {
        let sync = b"S\0\0\0\x04";
        let close = b"C\0\0\0\x06S\0";
        let execute = b"E\0\0\0\x09\0\0\0\0\0";
        assert!(sync_follows(sync));
        assert!(sync_follows(&[&close[..], &sync[..]].concat()));
        assert!(!sync_follows(&[&execute[..], &sync[..]].concat()));
        assert!(!sync_follows(b""));
        assert!(!sync_follows(close));
        assert!(!sync_follows(&sync[..4]));
    }

    #[test]
    fn durations_of_settings() {
        assert_eq!(postgres_duration("0"), None);
        assert_eq!(postgres_duration("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(postgres_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(postgres_duration("1min"), Some(Duration::from_secs(60)));
        assert_eq!(postgres_duration("off"), None);
    }
}
