//! Event streams over HTTP/1.1 without hyper: a subscriber that waits costs its task and its feed,
//! not two connection buffers, and a frame goes from the shared encoding to the socket in one
//! vectored write.
//!
//! The first bytes of each connection are read here, by [`look`]. Only a complete, plain `GET /cdc…` that is no
//! poll is served here; everything else goes to hyper together with the bytes already read.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, Version, header, request::Parts};
use tokio::net::TcpStream;

use super::App;
use super::body::{Body, Response};
use super::request::RequestBody;
use super::routes;

/// How a client with prior knowledge of HTTP/2 begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a client begins that speaks TLS (RFC 8446, 5.1).
const TLS_HANDSHAKE: [u8; 1] = [22];

/// How the requests begin that may be served here.
const FEED: &[u8] = b"GET /cdc";
const LIVE: &[u8] = b"GET /live";

/// Longest head that is looked at; a longer one is hyper's to judge.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Bytes read at a time before anything is known.
const READ_BYTES: usize = 2048;

/// Headers of a request, at most.
const MAX_HEADERS: usize = 64;

/// What a connection begins with.
pub enum Look {
    /// It ended first.
    Nothing,
    /// TLS; nothing has been read of it.
    Tls,
    Http2(Vec<u8>),
    EventStream(Box<Parts>),
    /// HTTP/1, or something that is no HTTP; with the bytes read.
    Other(Vec<u8>),
}

/// Reads just enough of a connection to know what to do with it.
///
/// # Errors
/// What the socket says.
pub async fn look(stream: &TcpStream) -> std::io::Result<Look> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first == TLS_HANDSHAKE {
        return Ok(Look::Tls);
    }
    let mut read = Vec::new();
    loop {
        stream.readable().await?;
        let mut chunk = [0; READ_BYTES];
        match stream.try_read(&mut chunk) {
            Ok(0) if read.is_empty() => return Ok(Look::Nothing),
            Ok(0) => return Ok(Look::Other(read)),
            Ok(count) => read.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(look) = decide(&mut read) {
            return Ok(look);
        }
    }
}

/// `None`: more must be read first.
fn decide(read: &mut Vec<u8>) -> Option<Look> {
    if begins_as(read, HTTP2_PREFACE) {
        return (read.len() >= HTTP2_PREFACE.len()).then(|| Look::Http2(std::mem::take(read)));
    }
    escape_target(read);
    let is_ours = begins_as(read, FEED) || begins_as(read, LIVE);
    if !is_ours || read.len() > MAX_HEAD_BYTES {
        return Some(Look::Other(std::mem::take(read)));
    }
    match parse(read) {
        Ok(None) => None,
        Ok(Some(parts)) => Some(Look::EventStream(Box::new(parts))),
        Err(NotOurs) => Some(Look::Other(std::mem::take(read))),
    }
}

/// As far as both go.
fn begins_as(read: &[u8], mark: &[u8]) -> bool {
    let common = read.len().min(mark.len());
    read[..common] == mark[..common]
}

/// People write `where=price>10` into a URL as it is. What RFC 3986 wants escaped there and nothing
/// could be confused with is escaped for them.
fn escape_target(read: &mut Vec<u8>) {
    let Some(end) = read.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        return;
    };
    let is_bare = |byte: &u8| {
        matches!(
            byte,
            b'<' | b'>' | b'"' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
    };
    if !read.starts_with(b"GET /") || !read[..end].iter().any(is_bare) {
        return;
    }
    let escaped: Vec<u8> = read[..end]
        .iter()
        .flat_map(|byte| {
            if is_bare(byte) {
                format!("%{byte:02X}").into_bytes()
            } else {
                vec![*byte]
            }
        })
        .collect();
    read.splice(..end, escaped);
}

/// A request that hyper must see.
#[derive(Debug)]
struct NotOurs;

fn parse(read: &[u8]) -> Result<Option<Parts>, NotOurs> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(read).map_err(|_| NotOurs)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let target = head.path.ok_or(NotOurs)?;
    let path = target.split('?').next().unwrap_or_default();
    let is_feed = path == "/cdc"
        || path == "/live"
        || (path.starts_with("/cdc/") && !path.ends_with("/poll"));
    // What follows the head is another request, or a body that nobody asked for.
    if !is_feed || head.version != Some(1) || length != read.len() {
        return Err(NotOurs);
    }
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = Method::GET;
    parts.version = Version::HTTP_11;
    parts.uri = target.parse::<Uri>().map_err(|_| NotOurs)?;
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| NotOurs)?;
        if [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            header::EXPECT,
        ]
        .contains(&name)
        {
            return Err(NotOurs);
        }
        parts.headers.append(
            name,
            HeaderValue::from_bytes(header.value).map_err(|_| NotOurs)?,
        );
    }
    Ok(Some(parts))
}

/// Answers one request for an event stream; the connection ends with the answer.
pub async fn serve(app: &Arc<App>, stream: TcpStream, head: Parts) {
    let answer = Box::pin(routes::answer(Arc::clone(app), head, RequestBody::None)).await;
    let (head, mut body) = head_of(answer);
    if write_all(&stream, &[&head]).await.is_err() {
        return;
    }
    drop(head);
    if let Body::Whole(bytes) = &body {
        // Whoever left before the answer does not miss it.
        let _ = write_all(&stream, &[bytes]).await;
        return;
    }
    tokio::select! {
        biased;
        () = closed(&stream) => {}
        () = pass_on(app, &stream, &mut body) => {}
    }
}

/// Passes chunks on as the socket takes them.
async fn pass_on(app: &App, stream: &TcpStream, body: &mut Body) {
    loop {
        let chunk = match poll_fn(|cx| body.poll_chunk(cx)).await {
            Some(Ok(chunk)) => chunk,
            Some(Err(_)) => return,
            None => {
                // The client left before the end, which is nothing to it.
                let _ = write_all(stream, &[b"0\r\n\r\n"]).await;
                return;
            }
        };
        app.metrics
            .event_stream_bytes
            .fetch_add(chunk.len() as u64, Relaxed);
        if write_chunk(stream, chunk).await.is_err() {
            return;
        }
    }
}

/// The answer's head, and its body: in chunks if it is a stream.
fn head_of(answer: Response) -> (Vec<u8>, Body) {
    let (mut parts, body) = answer.into_parts();
    match &body {
        Body::Stream(_) => {
            parts.headers.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        Body::Whole(bytes) => {
            parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        Body::Empty => {}
    }
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut head = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    (head, body)
}

/// Completes when the client has closed its side, or the connection is broken. What it sends
/// meanwhile is read and dropped.
async fn closed(stream: &TcpStream) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let mut junk = [0; 256];
        match stream.try_read(&mut junk) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// One chunk of chunked transfer coding (RFC 9112, 7.1).
async fn write_chunk(stream: &TcpStream, chunk: Bytes) -> std::io::Result<()> {
    // Who has it for itself gains nothing by a copy.
    if chunk.len() <= SHARED_BYTES && !chunk.is_unique() {
        return write_all(stream, &[&framed(&chunk)]).await;
    }
    let (size, at) = size_line(chunk.len());
    write_all(stream, &[&size[at..], &chunk, b"\r\n"]).await
}

/// Chunks that subscribers share are copied into their frame up to this size.
const SHARED_BYTES: usize = 16 << 10;

/// The chunk in its frame: made once by each thread for all subscribers in a row that are given it.
fn framed(chunk: &Bytes) -> Bytes {
    thread_local! {
        /// A chunk, which is kept so that its address stays its own, and its frame.
        static LAST: RefCell<(Bytes, Bytes)> = const { RefCell::new((Bytes::new(), Bytes::new())) };
    }
    LAST.with_borrow_mut(|last| {
        let is_last = last.0.as_ptr() == chunk.as_ptr() && last.0.len() == chunk.len();
        if !is_last {
            let (size, at) = size_line(chunk.len());
            *last = (chunk.clone(), [&size[at..], chunk, b"\r\n"].concat().into());
        }
        last.1.clone()
    })
}

/// The line before a chunk, and where it begins in what is returned.
fn size_line(mut left: usize) -> ([u8; 18], usize) {
    let mut size = [0; 18];
    let mut at = 16;
    size[16..].copy_from_slice(b"\r\n");
    while left > 0 {
        at -= 1;
        size[at] = b"0123456789abcdef"[left & 0xf];
        left >>= 4;
    }
    (size, at)
}

async fn write_all(stream: &TcpStream, parts: &[&[u8]]) -> std::io::Result<()> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let mut written = 0;
    while written < total {
        match try_write_from(stream, parts, written) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                stream.writable().await?
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn try_write_from(stream: &TcpStream, parts: &[&[u8]], mut skip: usize) -> std::io::Result<usize> {
    if let [part] = parts {
        return stream.try_write(&part[skip..]);
    }
    let mut slices = [IoSlice::new(&[]); 3];
    let mut count = 0;
    for part in parts {
        let rest = part.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        if !rest.is_empty() {
            slices[count] = IoSlice::new(rest);
            count += 1;
        }
    }
    stream.try_write_vectored(&slices[..count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bytes: &[u8]) -> &'static str {
        match decide(&mut bytes.to_vec()) {
            None => "more",
            Some(Look::Nothing) => "nothing",
            Some(Look::Tls) => "tls",
            Some(Look::Http2(_)) => "http2",
            Some(Look::EventStream(_)) => "stream",
            Some(Look::Other(_)) => "other",
        }
    }

    #[test]
    fn shared_chunks_are_framed_as_any_other() {
        let (one, other) = (Bytes::from(vec![b'x'; 26]), Bytes::from(vec![b'y'; 26]));
        for chunk in [&one, &one.clone(), &other, &one, &one.slice(..16)] {
            let expected = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
            assert_eq!(framed(chunk), expected);
        }
    }

    #[test]
    fn only_a_whole_plain_request_for_a_feed_is_served_without_hyper() {
        let feed = b"GET /cdc/orders?since_lsn=1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(verdict(feed), "stream");
        for end in 1..feed.len() {
            assert_eq!(verdict(&feed[..end]), "more", "{end}");
        }
        assert_eq!(verdict(b"GET /cdc HTTP/1.1\r\n\r\n"), "stream");
        for other in [
            &b"GET /cdc/orders/poll?x HTTP/1.1\r\n\r\n"[..],
            b"GET /cdc/poll HTTP/1.1\r\n\r\n",
            b"GET /cdcx HTTP/1.1\r\n\r\n",
            b"GET /cdc HTTP/1.0\r\n\r\n",
            b"GET /cdc HTTP/1.1\r\ncontent-length: 1\r\n\r\nx",
            b"GET /cdc HTTP/1.1\r\nupgrade: h2c\r\n\r\n",
            b"GET /cdc HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET /cdc HTTP/1.1\r\nbad header\r\n\r\n",
            b"POST /v1/sql",
            b"GET /h",
            b"\x16\x03\x01",
        ] {
            assert_eq!(
                verdict(other),
                "other",
                "{}",
                String::from_utf8_lossy(other)
            );
        }
        assert_eq!(verdict(b"GET /cdc/t?where=a>1 HTTP/1.1\r\n\r\n"), "stream");
        assert_eq!(verdict(HTTP2_PREFACE), "http2");
        assert_eq!(verdict(&HTTP2_PREFACE[..20]), "more");
        let endless = [FEED, &[b'x'; MAX_HEAD_BYTES]].concat();
        assert_eq!(verdict(&endless), "other");
    }
}
