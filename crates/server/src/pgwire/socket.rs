//! A connection's bytes: what has arrived and is not yet decoded, what is to be sent, over a
//! [`Stream`] with or without TLS.
//!
//! Memory follows what the client has really sent and taken: an announced length reserves nothing,
//! and large buffers are given back.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is read at a time, at most.
const READ_BYTES: usize = 8 << 10;
/// Buffers beyond this are given back when they are empty.
const KEEP_BYTES: usize = 64 << 10;

/// What has arrived and is not yet decoded.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Vec<u8>,
    /// Where the undecoded bytes begin.
    start: usize,
}

impl Input {
    /// The undecoded bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Forgets the first `count` undecoded bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(
            self.start <= self.bytes.len(),
            "only what is there can be consumed"
        );
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEEP_BYTES {
                self.bytes.shrink_to(READ_BYTES);
            }
        }
    }

    /// Reads some more; false at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// The socket's.
    pub async fn fill(&mut self, stream: &mut Stream) -> io::Result<bool> {
        if self.start > 0 {
            // What is left is the beginning of one message: short, or read only once.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.reserve(READ_BYTES);
        Ok(stream.read_buf(&mut self.bytes).await? > 0)
    }
}

/// Sends `out` and empties it.
///
/// # Errors
/// The socket's; `TimedOut` if the client took nothing for `stall`.
pub async fn send(
    stream: &mut Stream,
    out: &mut Vec<u8>,
    stall: Option<Duration>,
) -> io::Result<()> {
    let mut sent = 0;
    while sent < out.len() {
        let write = stream.write(&out[sent..]);
        let written = match stall {
            None => write.await?,
            Some(stall) => tokio::time::timeout(stall, write)
                .await
                .map_err(|_| stalled(stall))??,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        sent += written;
    }
    // What TLS still keeps is on its way too.
    match stall {
        None => stream.flush().await?,
        Some(stall) => tokio::time::timeout(stall, stream.flush())
            .await
            .map_err(|_| stalled(stall))??,
    }
    out.clear();
    if out.capacity() > 4 * KEEP_BYTES {
        out.shrink_to(KEEP_BYTES);
    }
    Ok(())
}

/// Sends what of `out` the socket takes without waiting, and forgets that.
///
/// # Errors
/// The socket's.
pub async fn begin_send(stream: &mut Stream, out: &mut Vec<u8>) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let once = std::future::poll_fn(|cx| {
        let mut stream = Pin::new(&mut *stream);
        let written = match stream.as_mut().poll_write(cx, out) {
            Poll::Pending => return Poll::Ready(Ok(0)),
            Poll::Ready(written) => written,
        };
        // A stream with a buffer of its own passes it on; what it keeps is sent with the rest.
        match stream.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(written),
        }
    });
    let written = once.await?;
    out.drain(..written);
    Ok(())
}

fn stalled(stall: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!(
            "the client took nothing of its answer for {} ms",
            stall.as_millis()
        ),
    )
}
