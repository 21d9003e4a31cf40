//! From outcomes to messages, with back-pressure: what a client does not take stays in the engine's
//! spool (memory, then a temporary file), never here.

use std::io;
use std::time::Duration;

use springhead_engine::copy::CopyOutcome;
use springhead_engine::{Outcome, RowChunk, Rows};
use springhead_proto::SqlError;
use springhead_sql::plan::OutputColumn;

use super::backend::{self, Formats, Severity};
use super::copying;
use super::socket;
use super::stream::Stream;

/// The sending half of a connection.
pub struct Wire {
    pub stream: Stream,
    /// Whole messages, not yet sent.
    pub out: Vec<u8>,
    /// When `out` is longer than this it is sent before more is added.
    pub buffer_bytes: usize,
    /// A client that takes nothing for this long is given up.
    pub stall: Option<Duration>,
    /// The same while the client may hold up others.
    pub stall_in_transaction: Option<Duration>,
    /// Whether the client may hold up others now.
    pub in_transaction: bool,
}

/// Why a result was not sent whole.
#[derive(Debug)]
pub enum SendError {
    /// The statement's own failure, to be told.
    Statement(SqlError),
    /// The client is gone.
    Socket(io::Error),
}

impl From<SqlError> for SendError {
    fn from(error: SqlError) -> SendError {
        SendError::Statement(error)
    }
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> SendError {
        SendError::Socket(error)
    }
}

impl Wire {
    /// Sends everything.
    ///
    /// # Errors
    /// The socket's; `TimedOut` for a client that takes nothing.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let stall = match (self.in_transaction, self.stall, self.stall_in_transaction) {
            (true, Some(stall), Some(shorter)) => Some(stall.min(shorter)),
            (true, None, shorter) => shorter,
            (_, stall, _) => stall,
        };
        socket::send(&mut self.stream, &mut self.out, stall).await
    }

    /// Sends as much of what there is as the socket takes at once.
    ///
    /// # Errors
    /// The socket's.
    pub async fn begin_flush(&mut self) -> io::Result<()> {
        socket::begin_send(&mut self.stream, &mut self.out).await
    }

    /// Sends what there is if it is enough to be worth it.
    pub(super) async fn make_room(&mut self) -> io::Result<()> {
        if self.out.len() >= self.buffer_bytes {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// ErrorResponse; the connection goes on.
    pub fn error(&mut self, error: &SqlError) {
        backend::error_response(&mut self.out, Severity::Error, error);
    }

    /// What goes before a result's rows or its tag.
    pub fn notices(&mut self, outcome: &Outcome) {
        for notice in &outcome.notices {
            backend::notice_response(&mut self.out, notice);
        }
    }

    /// The tag, or EmptyQueryResponse, and the settings that the protocol reports.
    pub fn complete(&mut self, outcome: &Outcome) {
        if outcome.tag.is_empty() {
            backend::empty_query_response(&mut self.out);
        } else {
            backend::command_complete(&mut self.out, &outcome.tag);
        }
        for (name, value) in &outcome.parameter_status {
            backend::parameter_status(&mut self.out, name, value);
        }
    }

    /// All that a simple query's statement came to.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn outcome(&mut self, mut outcome: Outcome) -> Result<(), SendError> {
        self.notices(&outcome);
        if let Some(CopyOutcome::Out(copy)) = outcome.copy.take() {
            copying::send(self, &mut outcome, copy).await?;
        } else if let Some(rows) = outcome.rows.take() {
            backend::row_description(&mut self.out, &outcome.columns, &Formats::AllText);
            let mut unsent = Unsent::new(rows);
            self.rows(&mut unsent, &outcome.columns, &Formats::AllText, u64::MAX)
                .await?;
        }
        self.complete(&outcome);
        Ok(())
    }

    /// The next rows, at most `limit`; how many they were.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn rows(
        &mut self,
        unsent: &mut Unsent,
        columns: &[OutputColumn],
        formats: &Formats,
        limit: u64,
    ) -> Result<u64, SendError> {
        let mut sent = 0;
        while sent < limit
            && let Some(chunk) = unsent.chunk()?
        {
            let mut taken = unsent.rows_taken;
            let mut ended = true;
            for row in chunk.rows().skip(unsent.rows_taken) {
                if sent == limit {
                    ended = false;
                    break;
                }
                backend::data_row(&mut self.out, columns, formats, row)?;
                sent += 1;
                taken += 1;
                self.make_room().await?;
            }
            unsent.rows_taken = if ended { 0 } else { taken };
            unsent.current = (!ended).then_some(chunk);
        }
        Ok(sent)
    }
}

/// A result that has been sent up to some row.
#[derive(Debug)]
pub struct Unsent {
    rows: Rows,
    /// The chunk that the next row is in, if some of its rows have been sent.
    current: Option<RowChunk>,
    /// How many rows of that chunk have been sent.
    rows_taken: usize,
    left: u64,
}

impl Unsent {
    /// All of `rows`.
    #[must_use]
    pub fn new(rows: Rows) -> Unsent {
        let left = rows.count();
        Unsent {
            rows,
            current: None,
            rows_taken: 0,
            left,
        }
    }

    /// Takes note that `count` rows have been sent, and says whether any are left.
    pub fn sent(&mut self, count: u64) -> bool {
        self.left = self.left.saturating_sub(count);
        self.left > 0
    }

    pub(super) fn chunk(&mut self) -> Result<Option<RowChunk>, SqlError> {
        match self.current.take() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.rows.next_chunk(),
        }
    }
}

#[cfg(test)]
mod tests {
    use springhead_engine::rows::RowsWriter;
    use springhead_proto::ValueRef;
    use springhead_sql::PgType;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn wire(stall: Duration) -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let wire = Wire {
            stream: Stream::Plain(stream),
            out: Vec::new(),
            buffer_bytes: 64,
            stall: Some(stall),
            stall_in_transaction: None,
            in_transaction: false,
        };
        (wire, client)
    }

    fn numbers(count: i64) -> Rows {
        let mut rows = RowsWriter::new(1 << 20, 1 << 20);
        for number in 0..count {
            rows.push([ValueRef::Integer(number)].into_iter()).unwrap();
        }
        rows.finish().unwrap()
    }

    fn columns() -> [OutputColumn; 1] {
        [OutputColumn::computed("n", PgType::Int8)]
    }

    /// The numbers in the DataRows that the client has received.
    async fn received(mut wire: Wire, mut client: TcpStream) -> Vec<i64> {
        wire.flush().await.unwrap();
        drop(wire);
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while let Some(kind) = rest.first() {
            assert_eq!(*kind, b'D');
            let length =
                usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
            found.push(
                std::str::from_utf8(&rest[11..=length])
                    .unwrap()
                    .parse()
                    .unwrap(),
            );
            rest = &rest[length + 1..];
        }
        found
    }

    #[tokio::test]
    async fn a_result_taken_in_parts_is_the_whole_result_once() {
        for limit in [1, 2, 3, 7, 100] {
            let (mut wire, client) = wire(Duration::from_secs(10)).await;
            let mut unsent = Unsent::new(numbers(7));
            let mut rounds = 0;
            loop {
                let sent = wire
                    .rows(&mut unsent, &columns(), &Formats::AllText, limit)
                    .await
                    .unwrap();
                assert!(sent <= limit);
                rounds += 1;
                if !unsent.sent(sent) {
                    break;
                }
            }
            assert_eq!(rounds, 7_u64.div_ceil(limit), "limit {limit}");
            assert_eq!(
                received(wire, client).await,
                (0..7).collect::<Vec<_>>(),
                "limit {limit}"
            );
        }
    }

    #[tokio::test]
    async fn g7_a_client_that_takes_nothing_is_given_up_and_costs_its_buffer_alone() {
        let (mut wire, _client) = wire(Duration::from_millis(50)).await;
        let mut sent = 0;
        let error = loop {
            // Far more than the kernel's buffers take.
            let mut unsent = Unsent::new(numbers(10_000));
            match wire
                .rows(&mut unsent, &columns(), &Formats::AllText, u64::MAX)
                .await
            {
                Ok(count) => sent += count,
                Err(SendError::Socket(error)) => break error,
                Err(SendError::Statement(error)) => panic!("{error}"),
            }
            assert!(sent < 10_000_000, "the client took everything");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(wire.out.capacity() < 1024, "{}", wire.out.capacity());
    }
}
