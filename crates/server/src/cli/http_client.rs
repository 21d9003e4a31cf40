//! A small HTTP/1.1 client: one GET per connection, the body read as it comes. For `tail` and
//! `status`.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::tls::{Mode, Stream, Tls, TlsArgs};
use super::{CliError, local_config};

/// A line or a whole answer longer than this is not believed.
const MAX_BYTES: usize = 256 << 20;

/// Where to connect, from `http://host:port` or `https://host:port`.
#[derive(Debug, Clone)]
pub struct Target {
    pub host_port: String,
    /// For https: the server is always verified, to its name.
    tls: Option<Tls>,
}

impl Target {
    /// What is given, or the local server.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(url: Option<&str>, tls: &TlsArgs) -> Result<Target, CliError> {
        let Some(url) = url else {
            return Ok(Target {
                host_port: local_config(None)?.http,
                tls: None,
            });
        };
        let (mode, rest) = match url.strip_prefix("https://") {
            Some(rest) => (Mode::VerifyFull, Some(rest)),
            None => (Mode::Disable, url.strip_prefix("http://")),
        };
        let host_port = rest
            .map(|rest| rest.trim_end_matches('/'))
            .filter(|rest| !rest.is_empty() && !rest.contains('/'))
            .ok_or_else(|| CliError::Usage(format!("--url {url}: expected http[s]://host:port")))?;
        let has_port = host_port
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host_port = if has_port {
            host_port.to_owned()
        } else {
            format!("{host_port}:6480")
        };
        let tls = Tls::of(&host_port, mode, tls, b"http/1.1")?;
        Ok(Target { host_port, tls })
    }
}

/// An answer whose body is still to come.
pub struct Response {
    pub status: u16,
    stream: BufReader<Stream>,
    framing: Framing,
    /// Bytes of the body that have been read and not yet given out.
    buffer: Vec<u8>,
}

enum Framing {
    Chunked,
    Length(usize),
    UntilClose,
    Ended,
}

/// How long a server may take for the head of its answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends a GET and reads the answer's head. `path` is already encoded.
///
/// # Errors
/// The socket's, `TimedOut`, or an answer that is no HTTP.
pub async fn get(target: &Target, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
    request(target, "GET", path, headers, None).await
}

/// Sends a request, with a body of JSON if there is one, and reads the answer's head. `path` is
/// already encoded.
///
/// # Errors
/// As [`get`].
pub async fn request(
    target: &Target,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> io::Result<Response> {
    let begun = begin(target, method, path, headers, body);
    let answered = tokio::time::timeout(HEAD_TIMEOUT, begun).await;
    answered.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer within 30 s",
        ))
    })
}

async fn begin(
    target: &Target,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> io::Result<Response> {
    let stream = TcpStream::connect(&target.host_port).await?;
    let stream = match &target.tls {
        Some(tls) => tls.connect(stream).await?,
        None => Box::new(stream),
    };
    let mut stream = BufReader::new(stream);
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: springhead\r\n",
        target.host_port
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    // Whose token it is, where there are users.
    if let Ok(token) = std::env::var("SPRINGHEAD_TOKEN") {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(nonsense("SPRINGHEAD_TOKEN is no token".to_owned()));
        }
        request.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    if let Some(body) = body {
        let length = body.len();
        request.push_str(&format!(
            "content-type: application/json\r\ncontent-length: {length}\r\n"
        ));
    }
    request.push_str("connection: close\r\n\r\n");
    request.push_str(body.unwrap_or_default());
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let status_line = line(&mut stream).await?;
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| nonsense(format!("no HTTP: {status_line}")))?;
    let mut framing = Framing::UntilClose;
    loop {
        let header = line(&mut stream).await?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| nonsense(format!("no header: {header}")))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("content-length")
            && !matches!(framing, Framing::Chunked)
        {
            framing = Framing::Length(
                value
                    .parse()
                    .map_err(|_| nonsense(format!("no length: {value}")))?,
            );
        }
    }
    Ok(Response {
        status,
        stream,
        framing,
        buffer: Vec::new(),
    })
}

impl Response {
    /// The next line of the body, without its end; `None` when there is no more. Cancel-safe.
    ///
    /// # Errors
    /// The socket's, or a broken body.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return text(line).map(Some);
            }
            if self.buffer.len() > MAX_BYTES {
                return Err(nonsense(format!("a line of over {MAX_BYTES} bytes")));
            }
            if !self.more().await? {
                let last = std::mem::take(&mut self.buffer);
                return if last.is_empty() {
                    Ok(None)
                } else {
                    text(last).map(Some)
                };
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// The socket's, or a broken body.
    pub async fn body(mut self) -> io::Result<String> {
        while self.more().await? {
            if self.buffer.len() > MAX_BYTES {
                return Err(nonsense(format!("an answer of over {MAX_BYTES} bytes")));
            }
        }
        text(self.buffer)
    }

    /// Some of the body, at least one byte and at most `most`.
    ///
    /// # Errors
    /// The socket's, a broken body, or its end.
    pub async fn some_of(&mut self, most: usize) -> io::Result<Vec<u8>> {
        while self.buffer.is_empty() {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(self.buffer.len().min(most));
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Fills `out` from the body.
    ///
    /// # Errors
    /// As [`Response::some_of`].
    pub async fn exactly(&mut self, out: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < out.len() {
            let some = self.some_of(out.len() - filled).await?;
            out[filled..filled + some.len()].copy_from_slice(&some);
            filled += some.len();
        }
        Ok(())
    }

    /// Reads some more of the body into the buffer; false at its end.
    async fn more(&mut self) -> io::Result<bool> {
        match self.framing {
            Framing::Ended => Ok(false),
            Framing::UntilClose => Ok(self.stream.read_buf(&mut self.buffer).await? > 0),
            Framing::Length(0) => {
                self.framing = Framing::Ended;
                Ok(false)
            }
            Framing::Length(left) => {
                let read = self.some(left).await?;
                self.framing = Framing::Length(left - read);
                Ok(true)
            }
            Framing::Chunked => self.chunk().await,
        }
    }

    async fn chunk(&mut self) -> io::Result<bool> {
        let head = line(&mut self.stream).await?;
        let size = head.split(';').next().unwrap_or_default().trim();
        let mut left = usize::from_str_radix(size, 16)
            .map_err(|_| nonsense(format!("no chunk size: {head}")))?;
        if left == 0 {
            self.framing = Framing::Ended;
            return Ok(false);
        }
        while left > 0 {
            left -= self.some(left).await?;
        }
        line(&mut self.stream).await?;
        Ok(true)
    }

    async fn some(&mut self, most: usize) -> io::Result<usize> {
        let available = self.stream.fill_buf().await?;
        let taken = available.len().min(most);
        if taken == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&available[..taken]);
        self.stream.consume(taken);
        Ok(taken)
    }
}

async fn line(stream: &mut BufReader<Stream>) -> io::Result<String> {
    let mut line = Vec::new();
    // A head's line is short; a server that sends more is none of ours.
    let mut limited = stream.take(64 << 10);
    if limited.read_until(b'\n', &mut line).await? == 0 || line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    text(line)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| nonsense("the answer is no UTF-8".to_owned()))
}

fn nonsense(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A text as a part of a URL.
#[must_use]
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    out
}
