//! COPY over the protocol: the client's data on its way in, a result's rows on their way out.
//!
//! While data comes in the connection waits for nothing else but its socket, a cancel request and
//! its timers. What a client goes on sending after its COPY has failed the connection throws away.
//! Source: PostgreSQL 15, chapter 55.2.6 "COPY Operations".

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use springhead_engine::copy::{CopyIn, CopyOut, LiveCopy};
use springhead_engine::live::{Delta, LiveEvent, Opened};
use springhead_engine::{Outcome, Session};
use springhead_proto::{ErrorCode, Lsn, SqlError};
use tokio::time::{Instant, sleep_until};

use super::backend;
use super::connection::{Ended, after, shutting_down};
use super::frontend::{Frame, FrontendMessage, Mistake};
use super::results::{SendError, Unsent, Wire};
use super::socket::Input;

/// Where the client's data comes from.
pub struct Source<'c> {
    pub input: &'c mut Input,
    pub shutdown: &'c mut Pin<Box<dyn Future<Output = ()> + Send>>,
    pub max_message_bytes: usize,
    /// The configuration's limit for those who hold up others.
    pub idle_limit: Option<Duration>,
    /// A live query that has sent nothing for this long says how far it has come.
    pub heartbeat: Duration,
}

impl Source<'_> {
    /// Takes all of a COPY's data; the inner error is the COPY's, to be told.
    ///
    /// # Errors
    /// Why the connection ends.
    pub async fn read(
        &mut self,
        wire: &mut Wire,
        session: &mut Session,
        mut copy: CopyIn,
    ) -> Result<Result<CopyIn, SqlError>, Ended> {
        backend::copy_response(&mut wire.out, b'G', copy.is_binary(), copy.columns());
        // Before the client knows that there is something to cancel.
        let interrupt = session.interruptible();
        wire.flush().await?;
        let timeout = after(session.statement_timeout());
        tokio::pin!(timeout);
        loop {
            match self.take_arrived(&mut copy)? {
                Taken::More => {}
                Taken::All => return Ok(Ok(copy)),
                Taken::Failed(error) => return Ok(Err(error)),
            }
            let idle_limit = self.idle_limit.filter(|_| session.holds_writer());
            tokio::select! {
                biased;
                error = interrupt.asked() => return Ok(Err(error)),
                arrived = self.input.fill(&mut wire.stream) => {
                    if !arrived? {
                        return Err(Ended::Left);
                    }
                }
                () = self.shutdown.as_mut() => return Err(Ended::Fatal(shutting_down())),
                () = timeout.as_mut() => return Ok(Err(SqlError::new(
                    ErrorCode::QueryCanceled,
                    "canceling statement due to statement timeout",
                ))),
                () = after(idle_limit) => return Err(Ended::Fatal(SqlError::new(
                    ErrorCode::IdleInTransactionTimeout,
                    "terminating connection due to idle-in-transaction timeout",
                ))),
            }
        }
    }

    fn take_arrived(&mut self, copy: &mut CopyIn) -> Result<Taken, Ended> {
        loop {
            let frame = match Frame::find(self.input.bytes(), self.max_message_bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(Taken::More),
                Err(Mistake::Fatal(error) | Mistake::Error(error)) => {
                    return Err(Ended::Fatal(error));
                }
            };
            let taken = match frame.decode(self.input.bytes()) {
                Ok(FrontendMessage::CopyData(data)) => match copy.feed(data) {
                    Ok(()) => None,
                    Err(error) => Some(Taken::Failed(error)),
                },
                Ok(FrontendMessage::CopyDone) => Some(Taken::All),
                Ok(FrontendMessage::CopyFail(why)) => Some(Taken::Failed(SqlError::new(
                    ErrorCode::QueryCanceled,
                    format!("COPY from stdin failed: {why}"),
                ))),
                // Clients that do not wait for the answer to Execute send these.
                Ok(FrontendMessage::Flush | FrontendMessage::Sync) => None,
                Ok(FrontendMessage::Terminate) => return Err(Ended::Left),
                Ok(_) => Some(Taken::Failed(SqlError::new(
                    ErrorCode::ProtocolViolation,
                    format!(
                        "unexpected message type 0x{:02X} during COPY from stdin",
                        frame.kind
                    ),
                ))),
                Err(Mistake::Fatal(error)) => return Err(Ended::Fatal(error)),
                Err(Mistake::Error(error)) => Some(Taken::Failed(error)),
            };
            self.input.consume(frame.length);
            if let Some(taken) = taken {
                return Ok(taken);
            }
        }
    }
}

impl Source<'_> {
    /// Sends a live query's rows and changes until somebody ends it: with what the client is told.
    ///
    /// # Errors
    /// Why the connection ends.
    pub async fn stream(
        &mut self,
        wire: &mut Wire,
        session: &mut Session,
        mut live: LiveCopy,
    ) -> Result<SqlError, Ended> {
        let (is_binary, columns) = (live.form().is_binary(), live.form().columns());
        backend::copy_response(&mut wire.out, b'H', is_binary, columns);
        // Before the client knows that there is something to cancel.
        let interrupt = session.interruptible();
        let timeout = after(session.statement_timeout());
        tokio::pin!(timeout);
        if !is_binary {
            put(wire, |out| live.form().head(out));
        }
        if let Some(opened) = live.take_opened()
            && let Err(error) = begin_live(wire, &mut live, opened).await
        {
            return told(error);
        }
        let mut sent = Lsn::ZERO;
        let mut beat_at = Instant::now() + self.heartbeat;
        loop {
            let event = tokio::select! {
                biased;
                error = interrupt.asked() => return Ok(error),
                arrived = self.input.fill(&mut wire.stream) => {
                    if !arrived? {
                        return Err(Ended::Left);
                    }
                    self.look_for_the_end()?;
                    continue;
                }
                () = self.shutdown.as_mut() => return Err(Ended::Fatal(shutting_down())),
                () = timeout.as_mut() => return Ok(SqlError::new(
                    ErrorCode::QueryCanceled,
                    "canceling statement due to statement timeout",
                )),
                event = live.next() => event,
                () = sleep_until(beat_at) => {
                    beat_at = Instant::now() + self.heartbeat;
                    if let Some(position) = live.progress().filter(|position| *position > sent) {
                        sent = position;
                        mark(wire, &mut live, "progress", position)?;
                        wire.flush().await?;
                    }
                    continue;
                }
            };
            beat_at = Instant::now() + self.heartbeat;
            let done = match event {
                LiveEvent::Change { delta, .. } => {
                    sent = delta.lsn;
                    send_change(wire, &mut live, &delta).await
                }
                LiveEvent::Tick(_) => Ok(wire.flush().await?),
                LiveEvent::Refetched { opened, .. } => {
                    mark(wire, &mut live, "must-refetch", opened.lsn)?;
                    begin_live(wire, &mut live, *opened).await
                }
                LiveEvent::Ended { end, .. } => return Ok(LiveCopy::end(end)),
            };
            if let Err(error) = done {
                return told(error);
            }
        }
    }

    /// A client that is sent a live query says goodbye, or what it will want once that has ended.
    fn look_for_the_end(&mut self) -> Result<(), Ended> {
        let mut rest = self.input.bytes();
        loop {
            match Frame::find(rest, self.max_message_bytes) {
                Ok(Some(frame)) if frame.kind == b'X' => return Err(Ended::Left),
                Ok(Some(frame)) => rest = &rest[frame.length..],
                Ok(None) => break,
                Err(Mistake::Fatal(error) | Mistake::Error(error)) => {
                    return Err(Ended::Fatal(error));
                }
            }
        }
        if self.input.bytes().len() > self.max_message_bytes {
            return Err(Ended::Fatal(SqlError::new(
                ErrorCode::ProtocolViolation,
                "too much was sent while a live query is copied out",
            )));
        }
        Ok(())
    }
}

/// The statement's own failure is told, the socket's ends the connection.
fn told(error: SendError) -> Result<SqlError, Ended> {
    match error {
        SendError::Statement(error) => Ok(error),
        SendError::Socket(error) => Err(error.into()),
    }
}

fn put(wire: &mut Wire, write: impl FnOnce(&mut Vec<u8>)) {
    let written = backend::copy_data(&mut wire.out, |out| {
        write(out);
        Ok(())
    });
    debug_assert!(written.is_ok(), "nothing fails in between");
}

fn mark(wire: &mut Wire, live: &mut LiveCopy, event: &str, lsn: Lsn) -> Result<(), SqlError> {
    backend::copy_data(&mut wire.out, |out| live.mark(event, lsn, out))
}

async fn begin_live(wire: &mut Wire, live: &mut LiveCopy, opened: Opened) -> Result<(), SendError> {
    let wants_snapshot = opened.options.snapshot != Some(false) || opened.refetched.is_some();
    if opened.refetched.is_some() {
        mark(wire, live, "must-refetch", opened.lsn)?;
    }
    if let Some(mut rows) = opened.rows.filter(|_| wants_snapshot) {
        while let Some(chunk) = rows.next_chunk()? {
            for row in chunk.rows() {
                backend::copy_data(&mut wire.out, |out| {
                    live.snapshot_row(&opened.plan, row, out)
                })?;
                wire.make_room().await?;
            }
        }
    }
    if let Some(delta) = opened.delta {
        send_change(wire, live, &delta).await?;
    }
    mark(wire, live, "ready", opened.lsn)?;
    wire.flush().await?;
    Ok(())
}

async fn send_change(wire: &mut Wire, live: &mut LiveCopy, delta: &Delta) -> Result<(), SendError> {
    let mut rows = Vec::new();
    live.change(delta, |row| rows.push(row.to_vec()))?;
    for row in rows {
        put(wire, |out| out.extend_from_slice(&row));
        wire.make_room().await?;
    }
    Ok(())
}

enum Taken {
    /// All that has arrived.
    More,
    All,
    Failed(SqlError),
}

/// Sends a result's rows in COPY's form; the tag is to follow.
///
/// # Errors
/// [`SendError`].
pub async fn send(
    wire: &mut Wire,
    outcome: &mut Outcome,
    mut copy: CopyOut,
) -> Result<(), SendError> {
    backend::copy_response(&mut wire.out, b'H', copy.is_binary(), copy.columns());
    // In binary the head shares its message with what follows it: there are clients that look for the
    // first row there.
    let mut is_head_due = copy.is_binary();
    if !is_head_due {
        backend::copy_data(&mut wire.out, |out| {
            copy.head(out);
            Ok(())
        })?;
    }
    if let Some(rows) = outcome.rows.take() {
        let mut unsent = Unsent::new(rows);
        while let Some(chunk) = unsent.chunk()? {
            for row in chunk.rows() {
                backend::copy_data(&mut wire.out, |out| {
                    if std::mem::take(&mut is_head_due) {
                        copy.head(out);
                    }
                    copy.row(out, row)
                })?;
                wire.make_room().await?;
            }
        }
    }
    backend::copy_data(&mut wire.out, |out| {
        if is_head_due {
            copy.head(out);
        }
        copy.end(out);
        Ok(())
    })?;
    backend::copy_done(&mut wire.out);
    Ok(())
}
