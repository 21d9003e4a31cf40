//! The little HTTP that the measurements need: a GET with a whole answer, and the pieces of an
//! endless one (chunked or not) cut into server-sent events.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use memchr::memmem;

use crate::error::{BenchError, Doing, Result};

/// The body of a GET's 200 answer.
///
/// # Errors
/// The socket's, or any other status.
pub fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut connection = Connection::open(address)?;
    connection.get(path)
}

/// Sends JSON and waits for a 200 answer.
///
/// # Errors
/// The socket's, or any other status.
pub fn post(address: SocketAddr, path: &str, json: &str) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let mut stream =
        std::net::TcpStream::connect(address).doing(format!("connecting to {address}"))?;
    let length = json.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{json}"
    )
    .doing(format!("sending to {address}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .doing(format!("reading from {address}"))?;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    Err(BenchError::Protocol {
        peer: format!("http://{address}{path}"),
        what: answer.lines().next().unwrap_or_default().to_owned(),
    })
}

/// The sum of the samples of one metric in the server's exposition.
///
/// # Errors
/// As [`get`], and when there is no such metric.
pub fn metric(address: SocketAddr, name: &str) -> Result<f64> {
    let body = get(address, "/metrics")?;
    let text = String::from_utf8_lossy(&body);
    let samples: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    if samples.is_empty() {
        return Err(BenchError::Protocol {
            peer: format!("http://{address}/metrics"),
            what: format!("no {name}"),
        });
    }
    Ok(samples.into_iter().sum())
}

/// The bytes of a GET for a stream of events.
#[must_use]
pub fn stream_request(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")
        .into_bytes()
}

/// A kept-alive connection for one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Connection {
    /// # Errors
    /// The socket's.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).doing(format!("connecting to http://{address}"))?;
        stream.set_nodelay(true).doing("setting TCP_NODELAY")?;
        Ok(Self {
            stream,
            address,
            buffer: Vec::new(),
        })
    }

    /// One GET and its whole body.
    ///
    /// # Errors
    /// The socket's, or any status but 200.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.stream
            .write_all(request.as_bytes())
            .doing(format!("asking for {path}"))?;
        self.buffer.clear();
        let mut body = Body::default();
        let mut out = Vec::new();
        let mut scratch = vec![0; 256 * 1024];
        while !body.finished() {
            let read = self
                .stream
                .read(&mut scratch)
                .doing(format!("reading {path}"))?;
            if read == 0 {
                if body.until_close() {
                    break;
                }
                return Err(self.broken(path, "the answer broke off"));
            }
            body.feed(&scratch[..read], &mut out)
                .map_err(|what| self.broken(path, &what))?;
        }
        match body.status() {
            Some(200) => Ok(out),
            status => {
                let text = String::from_utf8_lossy(&out[..out.len().min(400)]).into_owned();
                Err(self.broken(path, &format!("status {status:?}: {text}")))
            }
        }
    }

    fn broken(&self, path: &str, what: &str) -> BenchError {
        BenchError::Protocol {
            peer: format!("http://{}{path}", self.address),
            what: what.to_owned(),
        }
    }
}

/// Takes an answer's bytes as they come and gives back those of its body.
#[derive(Debug, Default)]
pub struct Body {
    /// Bytes of the head, or of a chunk's size line, that are not complete yet.
    partial: Vec<u8>,
    state: State,
    status: Option<u16>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body of known length are left.
    Sized(usize),
    /// The body ends with the connection.
    UntilClose,
    /// The line with a chunk's size comes next.
    ChunkSize,
    /// So many bytes of the chunk are left, its line end included.
    Chunk(usize),
    /// Lines after the last chunk, up to an empty one.
    Trailer,
    Done,
}

impl Body {
    /// The status, once the head has been read.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    #[must_use]
    pub fn finished(&self) -> bool {
        self.state == State::Done
    }

    fn until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Appends the body's part of `bytes` to `out`.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), String> {
        while !bytes.is_empty() {
            match self.state {
                State::Head => bytes = self.head(bytes)?,
                State::Sized(left) => {
                    let take = left.min(bytes.len());
                    out.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    self.state = if take == left {
                        State::Done
                    } else {
                        State::Sized(left - take)
                    };
                }
                State::UntilClose => {
                    out.extend_from_slice(bytes);
                    bytes = &[];
                }
                State::ChunkSize | State::Trailer => bytes = self.line(bytes)?,
                State::Chunk(left) => {
                    let take = left.min(bytes.len());
                    // The last two bytes are the chunk's line end.
                    let data = take.min(left.saturating_sub(2));
                    out.extend_from_slice(&bytes[..data]);
                    bytes = &bytes[take..];
                    self.state = if take == left {
                        State::ChunkSize
                    } else {
                        State::Chunk(left - take)
                    };
                }
                State::Done => return Err("bytes after the end of the answer".to_owned()),
            }
        }
        Ok(())
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> std::result::Result<&'a [u8], String> {
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.partial, b"\r\n\r\n") else {
            return if self.partial.len() > 64 * 1024 {
                Err("a head of over 64 KiB".to_owned())
            } else {
                Ok(&[])
            };
        };
        let head = String::from_utf8_lossy(&self.partial[..end]).to_ascii_lowercase();
        self.partial.clear();
        self.status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        if self.status.is_none() {
            return Err("no status line".to_owned());
        }
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        self.state = match (header("transfer-encoding"), header("content-length")) {
            (Some("chunked"), _) => State::ChunkSize,
            (Some(other), _) => return Err(format!("transfer-encoding {other}")),
            (None, Some(length)) => match length.parse() {
                Ok(0) => State::Done,
                Ok(length) => State::Sized(length),
                Err(_) => return Err(format!("content-length {length}")),
            },
            (None, None) => State::UntilClose,
        };
        Ok(&bytes[end + 4 - before..])
    }

    /// The line with a chunk's size, or one of those after the last chunk.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> std::result::Result<&'a [u8], String> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.partial.extend_from_slice(bytes);
            return if self.partial.len() > 1024 {
                Err("a chunk's line without an end".to_owned())
            } else {
                Ok(&[])
            };
        };
        self.partial.extend_from_slice(&bytes[..end]);
        let line = String::from_utf8_lossy(&self.partial).trim().to_owned();
        self.partial.clear();
        let rest = &bytes[end + 1..];
        if self.state == State::Trailer {
            if line.is_empty() {
                self.state = State::Done;
            }
            return Ok(rest);
        }
        let digits = line.split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(digits, 16).map_err(|_| format!("a chunk of `{line}` bytes"))?;
        self.state = if size == 0 {
            State::Trailer
        } else {
            State::Chunk(size + 2)
        };
        Ok(rest)
    }
}

/// A stream of server-sent events, cut into events as its bytes come.
#[derive(Debug, Default)]
pub struct Events {
    body: Body,
    text: Vec<u8>,
}

/// One event; comments and fields that nobody asked for are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    pub name: &'a [u8],
    pub id: &'a [u8],
    pub data: &'a [u8],
}

impl Events {
    /// Whether the answer's head has come, and with 200.
    ///
    /// # Errors
    /// Any other status.
    pub fn opened(&self) -> std::result::Result<bool, String> {
        match self.body.status() {
            None => Ok(false),
            Some(200) => Ok(true),
            Some(status) => Err(format!(
                "status {status}: {}",
                String::from_utf8_lossy(&self.text)
            )),
        }
    }

    /// Whether the server has ended the stream.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.body.finished()
    }

    /// Takes bytes from the socket; events in them are kept for the next [`Events::feed`].
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn hold(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        self.body.feed(bytes, &mut self.text)
    }

    /// Takes bytes from the socket and calls `each` for every event that is complete with them.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Event<'_>),
    ) -> std::result::Result<(), String> {
        self.hold(bytes)?;
        if !self.opened()? {
            return Ok(());
        }
        let mut start = 0;
        while let Some(length) = memmem::find(&self.text[start..], b"\n\n") {
            let event = parse_event(&self.text[start..start + length]);
            if !event.data.is_empty() {
                each(event);
            }
            start += length + 2;
        }
        self.text.drain(..start);
        Ok(())
    }
}

fn parse_event(block: &[u8]) -> Event<'_> {
    let mut event = Event {
        name: b"message",
        id: b"",
        data: b"",
    };
    let mut rest = block;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let value = &line[colon + 1..];
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => event.data = value,
            b"id" => event.id = value,
            b"event" => event.name = value,
            _ => {}
        }
    }
    event
}

/// The whole number that follows `"name":` in JSON text, at whatever depth it is first found.
#[must_use]
pub fn json_number(json: &[u8], quoted_name: &[u8]) -> Option<u64> {
    let after = &json[memmem::find(json, quoted_name)? + quoted_name.len()..];
    let after = after.strip_prefix(b":").unwrap_or(after);
    let digits = after.iter().take_while(|byte| byte.is_ascii_digit());
    let mut number: Option<u64> = None;
    for digit in digits {
        number = Some(
            number
                .unwrap_or(0)
                .checked_mul(10)?
                .checked_add(u64::from(digit - b'0'))?,
        );
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        b\r\nretry: 500\n\r\n1\r\n\n\r\n2D\r\nid: 7@ab\nevent: insert\ndata: {\"sent_ns\":42}\n\n\r\n\
        4\r\n: k\n\r\n1\r\n\n\r\n";

    #[test]
    fn events_come_out_whatever_the_pieces() {
        for piece in 1..STREAM.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for bytes in STREAM.chunks(piece) {
                events
                    .feed(bytes, |event| {
                        seen.push((event.name.to_vec(), event.id.to_vec(), event.data.to_vec()))
                    })
                    .unwrap();
            }
            assert_eq!(
                seen,
                [(
                    b"insert".to_vec(),
                    b"7@ab".to_vec(),
                    b"{\"sent_ns\":42}".to_vec()
                )],
                "pieces of {piece}"
            );
            assert!(!events.ended());
        }
    }

    #[test]
    fn a_body_of_known_length_ends_with_it() {
        let mut body = Body::default();
        let mut out = Vec::new();
        body.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", &mut out)
            .unwrap();
        assert!(!body.finished());
        body.feed(b"llo", &mut out).unwrap();
        assert!(body.finished());
        assert_eq!(out, b"hello");
        assert!(body.feed(b"x", &mut out).is_err());
    }

    #[test]
    fn a_chunked_body_ends_after_its_last_chunk_and_trailer() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n";
        for piece in 1..=answer.len() {
            let (mut body, mut out) = (Body::default(), Vec::new());
            for bytes in answer.chunks(piece) {
                assert!(!body.finished());
                body.feed(bytes, &mut out).unwrap();
            }
            assert!(body.finished() && out == b"abcde", "pieces of {piece}");
        }
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut events = Events::default();
        let refused = events.feed(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
            |_| {},
        );
        assert_eq!(refused, Err("status 404: no".to_owned()));
    }

    #[test]
    fn numbers_are_found_in_json() {
        let json = br#"{"lsn":42,"after":{"sent_ns":18446744073709551615,"note":"7"}}"#;
        assert_eq!(json_number(json, b"\"lsn\""), Some(42));
        assert_eq!(json_number(json, b"\"sent_ns\""), Some(u64::MAX));
        assert_eq!(json_number(json, b"\"note\""), None);
        assert_eq!(json_number(json, b"\"none\""), None);
    }
}
