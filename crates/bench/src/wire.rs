//! A small PostgreSQL client: the simple query protocol without authentication, notifications, and
//! the copy-both stream of a walsender. One implementation reads PostgreSQL and Springhead, so that
//! neither gains from its client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::error::{BenchError, Doing, Result};

/// The start-up message. `options` are further parameters, e.g. `("replication", "database")`.
#[must_use]
pub fn startup(database: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    let fixed = [
        ("user", "postgres"),
        ("database", database),
        ("application_name", "bench"),
    ];
    for (key, value) in fixed.iter().chain(options) {
        body.extend_from_slice(key.as_bytes());
        body.push(0);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = length_of(body.len() + 4).to_be_bytes().to_vec();
    message.append(&mut body);
    message
}

/// Appends a simple query.
pub fn put_query(out: &mut Vec<u8>, sql: &str) {
    put_message(out, b'Q', &[sql.as_bytes(), &[0]]);
}

/// Appends a message of type `kind` whose body is `parts`, one after the other.
pub fn put_message(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&length_of(length + 4).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn length_of(length: usize) -> u32 {
    u32::try_from(length).expect("messages of this client are far below 4 GiB")
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    start: usize,
}

/// One message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub body: &'a [u8],
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if one is there.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        let rest = &self.buffer[self.start..];
        let length = u32::from_be_bytes(rest.get(1..5)?.try_into().expect("four bytes"));
        let end = 1 + usize::try_from(length).ok()?;
        if rest.len() < end {
            return None;
        }
        let from = self.start;
        self.start += end;
        Some(Frame {
            kind: self.buffer[from],
            body: &self.buffer[from + 5..from + end],
        })
    }
}

/// The text of an ErrorResponse: `SQLSTATE message`.
#[must_use]
pub fn error_text(body: &[u8]) -> String {
    let field = |wanted: u8| {
        body.split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&wanted))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
            .unwrap_or_default()
    };
    format!("{} {}", field(b'C'), field(b'M'))
}

/// A blocking connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    frames: Frames,
    scratch: Vec<u8>,
    peer: String,
}

/// The rows of the last statement that returned any, as text.
pub type Rows = Vec<Vec<Option<String>>>;

impl Client {
    /// Connects and waits until the server is ready for a query.
    ///
    /// # Errors
    /// The socket's, or the server's refusal.
    pub fn connect(address: SocketAddr, database: &str, options: &[(&str, &str)]) -> Result<Self> {
        let stream = TcpStream::connect(address).doing(format!("connecting to {address}"))?;
        stream.set_nodelay(true).doing("setting TCP_NODELAY")?;
        let mut client = Self {
            stream,
            frames: Frames::default(),
            scratch: vec![0; 64 * 1024],
            peer: format!("the server at {address}"),
        };
        client.send(&startup(database, options))?;
        client.until_ready("start-up")?;
        Ok(client)
    }

    /// Runs `sql` and waits for its end.
    ///
    /// # Errors
    /// The socket's, or the server's refusal of the statement.
    pub fn run(&mut self, sql: &str) -> Result<Rows> {
        let mut message = Vec::with_capacity(sql.len() + 6);
        put_query(&mut message, sql);
        self.send(&message)?;
        self.until_ready(sql)
    }

    /// The only value of the only row that `sql` returns.
    ///
    /// # Errors
    /// As [`Client::run`], and when there is no such value.
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let rows = self.run(sql)?;
        rows.into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten())
            .ok_or_else(|| self.broken(&format!("no value from `{sql}`")))
    }

    /// The only value of `sql` as a number.
    ///
    /// # Errors
    /// As [`Client::value`], and when it is not a number.
    pub fn number(&mut self, sql: &str) -> Result<f64> {
        let text = self.value(sql)?;
        text.parse()
            .map_err(|_| self.broken(&format!("`{text}` from `{sql}` is not a number")))
    }

    /// Sends a query without waiting for its answer.
    ///
    /// # Errors
    /// The socket's.
    pub fn send_query(&mut self, sql: &str) -> Result<()> {
        let mut message = Vec::new();
        put_query(&mut message, sql);
        self.send(&message)
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .doing(format!("sending to {}", self.peer))
    }

    /// Hands the next message to `take`, waiting for it.
    ///
    /// # Errors
    /// The socket's, also when the server closes it.
    pub fn receive<T>(&mut self, take: impl FnOnce(Frame<'_>) -> T) -> Result<T> {
        // Two steps, since a frame that is handed out borrows the buffer that reading fills.
        while !self.has_frame() {
            let read = self
                .stream
                .read(&mut self.scratch)
                .doing(format!("reading from {}", self.peer))?;
            if read == 0 {
                return Err(self.broken("closed the connection"));
            }
            self.frames.push(&self.scratch[..read]);
        }
        Ok(take(
            self.frames.next_frame().expect("a whole frame was seen"),
        ))
    }

    /// The socket, for a loop of one's own. Must not be called while an answer is outstanding.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn has_frame(&self) -> bool {
        let rest = &self.frames.buffer[self.frames.start..];
        rest.get(1..5).is_some_and(|length| {
            let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
            usize::try_from(length).is_ok_and(|length| rest.len() > length)
        })
    }

    fn until_ready(&mut self, sql: &str) -> Result<Rows> {
        let mut rows = Rows::new();
        let mut refused = None;
        loop {
            let ready = self.receive(|frame| {
                match frame.kind {
                    b'D' => rows.push(data_row(frame.body)),
                    b'T' => rows.clear(),
                    b'E' => refused = Some(error_text(frame.body)),
                    b'R' if frame.body != [0; 4] => refused = Some("wants a password".to_owned()),
                    _ => {}
                }
                frame.kind == b'Z'
            });
            match (ready, refused.take()) {
                (Ok(false), None) => {}
                (Ok(false), kept) => refused = kept,
                (Ok(true), None) => return Ok(rows),
                // A server that refuses a connection says why and closes it.
                (_, Some(message)) => {
                    return Err(BenchError::Refused {
                        sql: shortened(sql),
                        message,
                    });
                }
                (Err(error), None) => return Err(error),
            }
        }
    }

    fn broken(&self, what: &str) -> BenchError {
        BenchError::Protocol {
            peer: self.peer.clone(),
            what: what.to_owned(),
        }
    }
}

fn shortened(sql: &str) -> String {
    match sql.char_indices().nth(120) {
        Some((cut, _)) => format!("{}…", &sql[..cut]),
        None => sql.to_owned(),
    }
}

fn data_row(body: &[u8]) -> Vec<Option<String>> {
    let mut row = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                row.push(None);
                rest = after;
            }
            Ok(length) => {
                let length = length.min(after.len());
                row.push(Some(String::from_utf8_lossy(&after[..length]).into_owned()));
                rest = &after[length..];
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_whatever_the_pieces() {
        let mut stream = Vec::new();
        put_query(&mut stream, "SELECT 1");
        put_message(&mut stream, b'Z', &[b"I"]);
        for piece in 1..=stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                frames.push(bytes);
                while let Some(frame) = frames.next_frame() {
                    seen.push((frame.kind, frame.body.to_vec()));
                }
            }
            assert_eq!(
                seen,
                [(b'Q', b"SELECT 1\0".to_vec()), (b'Z', b"I".to_vec())],
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_data_row_with_a_null() {
        let body = [&[0, 2][..], &[0, 0, 0, 2], b"42", &[255, 255, 255, 255]].concat();
        assert_eq!(data_row(&body), [Some("42".to_owned()), None]);
    }

    #[test]
    fn an_error_is_told_with_its_code() {
        assert_eq!(
            error_text(b"SERROR\0C42P01\0Mno such table\0\0"),
            "42P01 no such table"
        );
    }
}
