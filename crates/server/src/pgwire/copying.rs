//! COPY over the protocol: the client's data on its way in, a result's rows on their way out.
//!
//! While data comes in the connection waits for nothing else but its socket, a cancel request and
//! its timers. What a client goes on sending after its COPY has failed the connection throws away.
//! Source: PostgreSQL 15, chapter 55.2.6 "COPY Operations".

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use springhead_engine::copy::{CopyIn, CopyOut};
use springhead_engine::{Outcome, Session};
use springhead_proto::{ErrorCode, SqlError};

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
