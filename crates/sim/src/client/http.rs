//! HTTP/1.1 requests and a Server-Sent Events reader (the HTML standard's "event stream").

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A whole response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The word in an error's body, empty if there is none.
    #[must_use]
    pub fn error_code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A GET of `target` (path and query, already encoded).
///
/// # Errors
/// The socket's, or bytes that are no HTTP.
pub fn get(address: SocketAddr, target: &str) -> std::io::Result<Response> {
    request(address, "GET", target, &[], b"")
}

/// A POST of `body` to `target`.
///
/// # Errors
/// The socket's, or bytes that are no HTTP.
pub fn post(address: SocketAddr, target: &str, body: &Value) -> std::io::Result<Response> {
    let headers = [("content-type", "application/json")];
    request(
        address,
        "POST",
        target,
        &headers,
        body.to_string().as_bytes(),
    )
}

/// One request on a connection of its own.
///
/// # Errors
/// The socket's, or bytes that are no HTTP.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut connection = open(address, method, target, headers, body)?;
    let mut bytes = Vec::new();
    connection.body().read_to_end(&mut bytes)?;
    Ok(Response {
        status: connection.status,
        headers: connection.headers,
        body: bytes,
    })
}

/// Percent-encodes a query value.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A response whose body has not been read.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    body: BodyState,
}

#[derive(Debug, Clone, Copy)]
enum BodyState {
    /// This many bytes are left.
    Length(u64),
    /// This many bytes are left of the current chunk.
    Chunked(u64),
    UntilClose,
    Ended,
}

/// Sends a request and reads the response up to its body.
///
/// # Errors
/// The socket's, or bytes that are no HTTP.
pub fn open(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Connection> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_nodelay(true)?;
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method != "GET" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server may refuse a body before it has read it: the answer counts, if there is one.
    let sent = stream.write_all(body);
    let answer = read_head(BufReader::new(stream));
    match (sent, answer) {
        (_, Ok(answer)) => Ok(answer),
        (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
    }
}

fn read_head(mut stream: BufReader<TcpStream>) -> std::io::Result<Connection> {
    let status_line = read_line(&mut stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP: {status_line}")))?;
    let mut headers = BTreeMap::new();
    loop {
        let line = read_line(&mut stream)?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok());
    let chunked = headers
        .get("transfer-encoding")
        .is_some_and(|coding| coding.contains("chunked"));
    let body = match length {
        _ if status == 204 => BodyState::Ended,
        _ if chunked => BodyState::Chunked(0),
        Some(length) => BodyState::Length(length),
        None => BodyState::UntilClose,
    };
    Ok(Connection {
        stream,
        status,
        headers,
        body,
    })
}

fn read_line(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

impl Connection {
    /// The body, as it comes.
    pub fn body(&mut self) -> Body<'_> {
        Body(self)
    }

    /// The socket beneath.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

/// Reads a body, whatever its framing.
pub struct Body<'a>(&'a mut Connection);

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let connection = &mut *self.0;
        if let BodyState::Chunked(0) = connection.body {
            let line = read_line(&mut connection.stream)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| std::io::Error::other(format!("no chunk size: {line}")))?;
            if size == 0 {
                connection.body = BodyState::Ended;
                return Ok(0);
            }
            connection.body = BodyState::Chunked(size);
        }
        let limit = match connection.body {
            BodyState::Ended | BodyState::Length(0) => return Ok(0),
            BodyState::Length(left) | BodyState::Chunked(left) => left,
            BodyState::UntilClose => u64::MAX,
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(out.len());
        let count = connection.stream.read(&mut out[..limit])?;
        match &mut connection.body {
            BodyState::Length(_) | BodyState::Chunked(_) if count == 0 => {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            BodyState::Length(left) => *left -= count as u64,
            BodyState::Chunked(left) => {
                *left -= count as u64;
                if *left == 0 {
                    read_line(&mut connection.stream)?;
                }
            }
            BodyState::UntilClose | BodyState::Ended => {}
        }
        Ok(count)
    }
}

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The id in this event itself; the last one seen stays the client's.
    pub id: Option<String>,
    /// "message" when the stream names none.
    pub event: String,
    pub data: String,
}

impl SseEvent {
    /// The data as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or(Value::Null)
    }
}

/// An open event stream.
#[derive(Debug)]
pub struct SseStream {
    connection: Connection,
    buffer: Vec<u8>,
    /// What a browser would send as `Last-Event-ID` now.
    pub last_event_id: Option<String>,
    /// The reconnection time that the server asked for.
    pub retry_ms: Option<u64>,
    pub comments: u64,
}

/// What opening a stream gave.
#[derive(Debug)]
pub enum SseOpened {
    Stream(Box<SseStream>),
    /// Another answer: its status and body.
    Other(Response),
}

impl SseStream {
    /// Opens `target`, with `Last-Event-ID` if there is one.
    ///
    /// # Errors
    /// The socket's, or bytes that are no HTTP.
    pub fn open(
        address: SocketAddr,
        target: &str,
        last_event_id: Option<&str>,
    ) -> std::io::Result<SseOpened> {
        let headers: Vec<_> = last_event_id
            .map(|id| ("last-event-id", id))
            .into_iter()
            .collect();
        SseStream::open_with(address, target, &headers)
    }

    /// Opens `target` with further headers.
    ///
    /// # Errors
    /// As [`SseStream::open`].
    pub fn open_with(
        address: SocketAddr,
        target: &str,
        more: &[(&str, &str)],
    ) -> std::io::Result<SseOpened> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend_from_slice(more);
        let last_event_id = more
            .iter()
            .find(|(name, _)| *name == "last-event-id")
            .map(|(_, id)| *id);
        let mut connection = open(address, "GET", target, &headers, b"")?;
        let is_stream = connection
            .headers
            .get("content-type")
            .is_some_and(|content| content.starts_with("text/event-stream"));
        if connection.status == 200 && is_stream {
            let last_event_id = last_event_id.map(str::to_owned);
            let buffer = Vec::new();
            let stream = SseStream {
                connection,
                buffer,
                last_event_id,
                retry_ms: None,
                comments: 0,
            };
            return Ok(SseOpened::Stream(Box::new(stream)));
        }
        let mut body = Vec::new();
        connection.body().read_to_end(&mut body)?;
        let Connection {
            status, headers, ..
        } = connection;
        Ok(SseOpened::Other(Response {
            status,
            headers,
            body,
        }))
    }

    /// The next event with data; `None` when the stream ended properly.
    ///
    /// # Errors
    /// The socket's; a stream that is cut, or silent for 60 s, included.
    pub fn next_event(&mut self) -> std::io::Result<Option<SseEvent>> {
        let mut event = SseEvent {
            event: "message".to_owned(),
            ..SseEvent::default()
        };
        let mut has_data = false;
        loop {
            let Some(line) = self.next_line()? else {
                return Ok(None);
            };
            if line.is_empty() {
                // Only now, as the standard says: an event that was cut has not been seen.
                if event.id.is_some() {
                    self.last_event_id.clone_from(&event.id);
                }
                if has_data {
                    return Ok(Some(event));
                }
                event = SseEvent {
                    event: "message".to_owned(),
                    ..SseEvent::default()
                };
                continue;
            }
            if line.starts_with(':') {
                self.comments += 1;
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = Some(value.to_owned()),
                "event" => event.event = value.to_owned(),
                "data" => {
                    if has_data {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                    has_data = true;
                }
                "retry" => self.retry_ms = value.parse().ok(),
                _ => {}
            }
        }
    }

    /// The socket beneath.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.connection.socket()
    }

    fn next_line(&mut self) -> std::io::Result<Option<String>> {
        let mut scanned = 0;
        loop {
            if let Some(end) = self.buffer[scanned..]
                .iter()
                .position(|&byte| byte == b'\n')
            {
                let line: Vec<u8> = self.buffer.drain(..=scanned + end).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()));
            }
            scanned = self.buffer.len();
            let mut piece = [0; 16 * 1024];
            let count = self.connection.body().read(&mut piece)?;
            if count == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&piece[..count]);
        }
    }
}
