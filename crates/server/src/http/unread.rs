//! A socket as hyper sees it: with the bytes that were read before hyper got it, and with a body for
//! the answers that hyper makes by itself for what is no HTTP, which would have none. After such an
//! answer it still takes what the client sends, for a while, so that the client gets to read it.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use springhead_proto::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::request::LINGER;

/// See the module's text.
pub struct Unread<S> {
    stream: S,
    /// Read already, and not handed on.
    read: Bytes,
    /// To be written before anything else.
    unwritten: Bytes,
    /// The first line of the first request has ended.
    has_line: bool,
    /// hyper has refused what came.
    refused: bool,
    /// Our side is closed; until when the client's is still read.
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Unread<S> {
    pub fn new(stream: S, read: Vec<u8>) -> Unread<S> {
        Unread {
            stream,
            has_line: read.contains(&b'\n'),
            read: read.into(),
            unwritten: Bytes::new(),
            refused: false,
            lingers: None,
        }
    }

    /// Takes what the client still sends, and throws it away, until it has had enough or time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut junk = [0; 8 << 10];
        loop {
            let mut out = ReadBuf::new(&mut junk);
            match Pin::new(&mut self.stream).poll_read(cx, &mut out) {
                Poll::Ready(Ok(())) if !out.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        match &mut self.lingers {
            Some(until) => until.as_mut().poll(cx),
            None => Poll::Ready(()),
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
fn with_body(answer: &[u8], has_line: bool) -> Option<String> {
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
        b"431" if !has_line => (
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Unread<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.read.is_empty() {
            let before = out.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, out);
            self.has_line = self.has_line || out.filled()[before..].contains(&b'\n');
            return read;
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_unwritten(cx))?;
        if let Some(answer) = with_body(bytes, self.has_line) {
            self.refused = true;
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
        if self.lingers.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.refused {
                return Poll::Ready(Ok(()));
            }
            self.lingers = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        ready!(self.poll_linger(cx));
        Poll::Ready(Ok(()))
    }
}
