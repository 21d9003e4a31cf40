//! A socket as hyper sees it: with the bytes that were read before hyper got it, and with a body for
//! the answers that hyper makes by itself for what is no HTTP, which would have none.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use springhead_proto::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the module's text.
pub struct Unread {
    stream: TcpStream,
    /// Read already, and not handed on.
    read: Bytes,
    /// To be written before anything else.
    unwritten: Bytes,
}

impl Unread {
    pub fn new(stream: TcpStream, read: Vec<u8>) -> Unread {
        Unread {
            stream,
            read: read.into(),
            unwritten: Bytes::new(),
        }
    }

    fn poll_unwritten(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.unwritten.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unwritten))? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                count => self.unwritten.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// hyper's own refusal with the body that ours have; `None` for anything else.
fn with_body(answer: &[u8]) -> Option<String> {
    let head = answer.strip_prefix(b"HTTP/1.1 ")?;
    let (status, code, message) = match head.first_chunk::<3>()? {
        b"400" => (
            "400 Bad Request",
            ErrorCode::ProtocolViolation,
            "this is no HTTP request",
        ),
        b"414" => (
            "414 URI Too Long",
            ErrorCode::UriTooLong,
            "path and query are too long",
        ),
        b"431" => (
            "431 Request Header Fields Too Large",
            ErrorCode::StatementTooLarge,
            "the request's headers are too long or too many",
        ),
        _ => return None,
    };
    // Every answer of ours has a body, so one without is not ours.
    if memchr::memmem::find(answer, b"content-length: 0\r\n").is_none()
        || !answer.ends_with(b"\r\n\r\n")
    {
        return None;
    }
    let error = serde_json::json!({ "error": { "code": code.word(), "sqlstate": code.sqlstate().0, "message": message } });
    let body = error.to_string();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

impl AsyncRead for Unread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let count = self.read.len().min(out.remaining());
        out.put_slice(&self.read.split_to(count));
        if self.read.is_empty() {
            // Lets go of the memory.
            self.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unread {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_unwritten(cx))?;
        if let Some(answer) = with_body(bytes) {
            self.unwritten = answer.into();
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        ready!(self.poll_unwritten(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_unwritten(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_unwritten(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
