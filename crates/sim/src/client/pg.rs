//! The PostgreSQL protocol's simple query flow.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection.
#[derive(Debug)]
pub struct PgClient {
    stream: BufReader<TcpStream>,
    /// Backend process id and secret, for a cancel request.
    pub key: Option<(i32, i32)>,
    /// Notifications that came with answers, and have not been taken.
    pub notified: Vec<Notified>,
    /// Where the last error happened, as the server says it.
    pub context: Option<String>,
}

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notified {
    pub process_id: i32,
    pub channel: String,
    pub payload: String,
}

/// What one query gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PgResult {
    /// The command tags, one per statement.
    pub tags: Vec<String>,
    /// Names of the last result's columns.
    pub columns: Vec<String>,
    /// Type OIDs of the last result's columns.
    pub types: Vec<u32>,
    /// All rows of all results, in text form.
    pub rows: Vec<Vec<Option<String>>>,
}

/// Why a query gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// The server refused it; the connection goes on.
    #[error("{code}: {message}")]
    Sql { code: String, message: String },
    /// The connection is broken: what became of the query is unknown.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
}

impl PgError {
    /// The SQLSTATE, if the server sent one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            PgError::Sql { code, .. } => Some(code),
            PgError::Io(_) => None,
        }
    }
}

/// One message of the server: its type byte and its body.
pub type Message = (u8, Vec<u8>);

impl PgClient {
    /// Connects to `database` and waits until the server is ready for a query.
    ///
    /// # Errors
    /// The server's refusal, or the socket's.
    pub fn connect(address: SocketAddr, database: &str) -> Result<PgClient, PgError> {
        PgClient::connect_as(address, "sim", database)
    }

    /// As [`PgClient::connect`], under another name.
    ///
    /// # Errors
    /// As [`PgClient::connect`].
    pub fn connect_as(
        address: SocketAddr,
        user: &str,
        database: &str,
    ) -> Result<PgClient, PgError> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        let mut client = PgClient {
            stream: BufReader::new(stream),
            key: None,
            notified: Vec::new(),
            context: None,
        };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for text in ["user", user, "database", database] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        client.send_raw(&with_length(&body))?;
        loop {
            let (kind, body) = client.receive()?;
            match kind {
                b'Z' => return Ok(client),
                b'E' => return Err(error_of(&body)),
                b'K' => {
                    let number = |at: usize| {
                        body.get(at..at + 4)
                            .map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
                    };
                    client.key = number(0).zip(number(4));
                }
                _ => {}
            }
        }
    }

    /// Runs `sql`, which may be several statements, and waits for the end of it.
    ///
    /// # Errors
    /// The first error of the server, or the socket's.
    pub fn query(&mut self, sql: &str) -> Result<PgResult, PgError> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(b'Q', &body)?;
        self.answer()
    }

    /// Runs a COPY FROM STDIN with `data`, cut into pieces of `piece_bytes`.
    ///
    /// # Errors
    /// As [`PgClient::query`].
    pub fn copy_in(
        &mut self,
        sql: &str,
        data: &[u8],
        piece_bytes: usize,
    ) -> Result<PgResult, PgError> {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat())?;
        match self.receive_next()? {
            (b'G', _) => {}
            (b'E', body) => {
                let error = error_of(&body);
                self.answer()?;
                return Err(error);
            }
            (kind, _) => return Err(std::io::Error::other(format!("no COPY: {kind}")).into()),
        }
        for piece in data.chunks(piece_bytes.max(1)) {
            self.send(b'd', piece)?;
        }
        self.send(b'c', b"")?;
        self.answer()
    }

    /// Runs a COPY TO STDOUT; its data.
    ///
    /// # Errors
    /// As [`PgClient::query`].
    pub fn copy_out(&mut self, sql: &str) -> Result<Vec<u8>, PgError> {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat())?;
        let mut data = Vec::new();
        let mut failed = None;
        loop {
            match self.receive_next()? {
                (b'd', body) => data.extend(body),
                (b'E', body) => failed = Some(error_of(&body)),
                (b'Z', _) => return failed.map_or(Ok(data), Err),
                _ => {}
            }
        }
    }

    /// Waits for a notification, unless one has come already.
    ///
    /// # Errors
    /// The socket's.
    pub fn await_notification(&mut self) -> std::io::Result<Notified> {
        while self.notified.is_empty() {
            let (kind, body) = self.receive()?;
            if kind == b'A' {
                self.notified.push(notified_of(&body));
            }
        }
        Ok(self.notified.remove(0))
    }

    /// The next message that is no notification.
    fn receive_next(&mut self) -> std::io::Result<Message> {
        loop {
            let (kind, body) = self.receive()?;
            if kind != b'A' {
                return Ok((kind, body));
            }
            self.notified.push(notified_of(&body));
        }
    }

    /// Everything up to ReadyForQuery.
    ///
    /// # Errors
    /// As [`PgClient::query`].
    pub fn answer(&mut self) -> Result<PgResult, PgError> {
        let mut result = PgResult::default();
        let mut failed = None;
        loop {
            let (kind, body) = self.receive_next()?;
            match kind {
                b'Z' => return failed.map_or(Ok(result), Err),
                b'E' => {
                    let error = error_of(&body);
                    self.context = field_of(&body, b'W');
                    // After a fatal error there is no ReadyForQuery, only the end.
                    if is_fatal(&body) {
                        return Err(error);
                    }
                    failed.get_or_insert(error);
                }
                b'C' => result.tags.push(text_until_nul(&body).0),
                b'T' => (result.columns, result.types) = described(&body),
                b'D' => result.rows.push(fields(&body)?),
                _ => {}
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, kind: u8, body: &[u8]) -> std::io::Result<()> {
        let mut message = vec![kind];
        message.extend_from_slice(&with_length(body));
        self.send_raw(&message)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The socket's.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// The socket's, its end included.
    pub fn receive(&mut self) -> std::io::Result<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(4));
        let length =
            length.ok_or_else(|| std::io::Error::other("a message shorter than itself"))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// The socket beneath.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

/// Asks the server to cancel what the connection with this key runs.
///
/// # Errors
/// The socket's.
pub fn cancel(address: SocketAddr, key: (i32, i32)) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    let mut body = 80_877_102_i32.to_be_bytes().to_vec();
    body.extend_from_slice(&key.0.to_be_bytes());
    body.extend_from_slice(&key.1.to_be_bytes());
    stream.write_all(&with_length(&body))
}

/// `body` behind its length, which counts itself.
fn with_length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("tests send messages below 4 GiB");
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(body);
    message
}

/// Code and message of an ErrorResponse.
#[must_use]
pub fn error_of(body: &[u8]) -> PgError {
    let field = |wanted| field_of(body, wanted).unwrap_or_default();
    PgError::Sql {
        code: field(b'C'),
        message: field(b'M'),
    }
}

fn notified_of(body: &[u8]) -> Notified {
    let number = body
        .first_chunk::<4>()
        .map_or(0, |bytes| i32::from_be_bytes(*bytes));
    let (channel, rest) = text_until_nul(body.get(4..).unwrap_or_default());
    Notified {
        process_id: number,
        channel,
        payload: text_until_nul(rest).0,
    }
}

fn is_fatal(body: &[u8]) -> bool {
    field_of(body, b'V')
        .or_else(|| field_of(body, b'S'))
        .is_some_and(|s| s == "FATAL" || s == "PANIC")
}

fn field_of(mut body: &[u8], wanted: u8) -> Option<String> {
    while let Some((&kind, rest)) = body.split_first().filter(|(kind, _)| **kind != 0) {
        let (text, after) = text_until_nul(rest);
        if kind == wanted {
            return Some(text);
        }
        body = after;
    }
    None
}

fn text_until_nul(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), rest)
}

/// Names and type OIDs of a RowDescription.
fn described(body: &[u8]) -> (Vec<String>, Vec<u32>) {
    let (mut names, mut types) = (Vec::new(), Vec::new());
    let mut rest = body.get(2..).unwrap_or_default();
    while !rest.is_empty() {
        let (name, after) = text_until_nul(rest);
        names.push(name);
        // Table, column number, type, size, modifier, format.
        let oid = after
            .get(6..10)
            .map_or([0; 4], |b| [b[0], b[1], b[2], b[3]]);
        types.push(u32::from_be_bytes(oid));
        rest = after.get(18..).unwrap_or_default();
    }
    (names, types)
}

fn fields(body: &[u8]) -> Result<Vec<Option<String>>, PgError> {
    let short = || std::io::Error::other("a data row is cut short");
    let mut rest = body.get(2..).ok_or_else(short)?;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                fields.push(None);
                rest = after;
            }
            Ok(length) => {
                let text = after.get(..length).ok_or_else(short)?;
                fields.push(Some(String::from_utf8_lossy(text).into_owned()));
                rest = &after[length..];
            }
        }
    }
    Ok(fields)
}
