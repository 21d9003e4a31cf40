//! A connection between two nodes as two halves that send and receive whole messages, numbered and
//! checked. Knows no meaning of any.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::wire::{Message, WireError, body_length, decode, encode};

/// Bytes to write before more is encoded.
const WRITE_BYTES: usize = 1 << 20;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the connection: {0}")]
    Io(#[from] io::Error),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("nothing was taken for {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the other node has closed the connection")]
    Closed,
    #[error("the other node said what was not due: {0}")]
    Unexpected(&'static str),
}

type Reading = Pin<Box<dyn AsyncRead + Send>>;
type Writing = Pin<Box<dyn AsyncWrite + Send>>;

/// Splits a connection. `unread` has been read from it already.
pub fn split<Out: Message, In: Message>(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    unread: &[u8],
    limit: Duration,
) -> (Outgoing<Out>, Incoming<In>) {
    let (reading, writing) = tokio::io::split(io);
    (
        Outgoing {
            writing: Box::pin(writing),
            buffer: Vec::new(),
            sequence: 0,
            limit,
            message: PhantomData,
        },
        Incoming {
            reading: Box::pin(reading),
            buffer: BytesMut::from(unread),
            sequence: 0,
            limit,
            message: PhantomData,
        },
    )
}

/// The half that sends.
pub struct Outgoing<M> {
    writing: Writing,
    buffer: Vec<u8>,
    sequence: u64,
    /// How long the other side may take nothing.
    limit: Duration,
    message: PhantomData<fn(M)>,
}

impl<M: Message> Outgoing<M> {
    /// Queues a message; goes to the socket when there is enough, or with [`Outgoing::flush`].
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn feed(&mut self, message: &M) -> Result<(), ChannelError> {
        encode(message, self.sequence, &mut self.buffer);
        self.sequence += 1;
        if self.buffer.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// [`ChannelError::Stalled`] if the other side does not take it in time.
    pub async fn flush(&mut self) -> Result<(), ChannelError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let write = async {
            self.writing.write_all(&self.buffer).await?;
            self.writing.flush().await
        };
        timeout(self.limit, write)
            .await
            .map_err(|_| ChannelError::Stalled(self.limit))??;
        self.buffer.clear();
        self.buffer.shrink_to(WRITE_BYTES * 2);
        Ok(())
    }

    /// Sends one message now.
    ///
    /// # Errors
    /// As [`Outgoing::flush`].
    pub async fn send(&mut self, message: &M) -> Result<(), ChannelError> {
        self.feed(message).await?;
        self.flush().await
    }
}

/// The half that receives.
pub struct Incoming<M> {
    reading: Reading,
    buffer: BytesMut,
    sequence: u64,
    /// How long the other side may say nothing.
    limit: Duration,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> Incoming<M> {
    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Silent`] if there is none in time, and what makes the connection useless.
    pub async fn receive(&mut self) -> Result<M, ChannelError> {
        let body = timeout(self.limit, self.body())
            .await
            .map_err(|_| ChannelError::Silent(self.limit))??;
        let message = decode(&body, self.sequence)?;
        self.sequence += 1;
        Ok(message)
    }

    async fn body(&mut self) -> Result<Bytes, ChannelError> {
        self.fill(4).await?;
        let head = self.buffer[..4].try_into().expect("four bytes");
        let length = body_length(head)?;
        self.fill(4 + length).await?;
        let mut message = self.buffer.split_to(4 + length);
        Ok(message.split_off(4).freeze())
    }

    /// Reads until so many bytes are there.
    async fn fill(&mut self, length: usize) -> Result<(), ChannelError> {
        while self.buffer.len() < length {
            self.buffer.reserve(length - self.buffer.len());
            if self.reading.read_buf(&mut self.buffer).await? == 0 {
                return Err(ChannelError::Closed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use springhead_proto::{Epoch, Lsn};

    use super::super::wire::{Progress, ToPrimary};
    use super::*;

    #[tokio::test]
    async fn what_is_sent_in_pieces_is_received_whole() {
        let (a, b) = tokio::io::duplex(7);
        let limit = Duration::from_secs(5);
        let (mut out, _in) = split::<ToPrimary, ToPrimary>(a, &[], limit);
        let (_out, mut incoming) = split::<ToPrimary, ToPrimary>(b, &[], limit);
        let ack = |lsn| ToPrimary::Ack {
            epoch: Epoch(1),
            progress: Progress {
                written: Lsn(lsn),
                ..Progress::default()
            },
            echo_ms: 0,
        };
        let sending = async {
            for lsn in 0..50 {
                out.send(&ack(lsn)).await.unwrap();
            }
        };
        let receiving = async {
            for lsn in 0..50 {
                assert_eq!(incoming.receive().await.unwrap(), ack(lsn));
            }
        };
        tokio::join!(sending, receiving);
    }
}
