//! Bodies of answers: nothing, some bytes, or a stream that is produced as fast as the socket takes
//! it and never faster.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use serde_json::Value;

/// An answer.
pub type Response = http::Response<Body>;

/// A stream broke off: the client must see that the answer is not whole.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer was cut short")]
pub struct CutShort;

/// See the module's text.
pub enum Body {
    Empty,
    Whole(Bytes),
    Stream(Producer),
}

/// An asynchronous function that produces a body, and the chunk that it has handed out last.
pub struct Producer {
    work: Pin<Box<dyn Future<Output = Result<(), CutShort>> + Send>>,
    slot: Slot,
    done: bool,
}

type Slot = Arc<Mutex<Option<Bytes>>>;

/// Where a producer puts its chunks.
pub struct Output {
    slot: Slot,
}

impl Output {
    /// Hands out a chunk and waits until it has been taken, so that nothing piles up.
    pub async fn send(&self, chunk: impl Into<Bytes>) {
        let chunk = chunk.into();
        if chunk.is_empty() {
            return;
        }
        *self.slot.lock() = Some(chunk);
        // The task that takes the chunk is the one that runs this; it polls again when it has.
        poll_fn(|_| {
            if self.slot.lock().is_some() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

impl Body {
    /// A body produced by `produce`, which is run only while someone takes from it.
    pub fn produced<F, W>(produce: F) -> Body
    where
        F: FnOnce(Output) -> W,
        W: Future<Output = Result<(), CutShort>> + Send + 'static,
    {
        let slot = Slot::default();
        let output = Output {
            slot: Arc::clone(&slot),
        };
        Body::Stream(Producer {
            work: Box::pin(produce(output)),
            slot,
            done: false,
        })
    }

    /// The same, but a stream is cut short once `end` completes.
    #[must_use]
    pub fn until(self, end: impl Future<Output = ()> + Send + 'static) -> Body {
        let Body::Stream(Producer { work, slot, done }) = self else {
            return self;
        };
        let work = async move {
            tokio::select! {
                biased;
                () = end => Err(CutShort),
                produced = work => produced,
            }
        };
        Body::Stream(Producer {
            work: Box::pin(work),
            slot,
            done,
        })
    }

    /// The next chunk; `None` at the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutShort>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Body::Stream(producer) => producer.poll(cx),
        }
    }
}

impl Producer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutShort>>> {
        if let Some(chunk) = self.slot.lock().take() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        if self.done {
            return Poll::Ready(None);
        }
        let polled = self.work.as_mut().poll(cx);
        self.done = polled.is_ready();
        if let Some(chunk) = self.slot.lock().take() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(cut)) => Poll::Ready(Some(Err(cut))),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        self.get_mut().poll_chunk(cx).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer of one piece.
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let body = body.into();
    let mut response = Response::new(if body.is_empty() {
        Body::Empty
    } else {
        Body::Whole(body)
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer that is a JSON value.
pub fn json_response(status: StatusCode, value: &Value) -> Response {
    response(status, "application/json", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(body: &mut Body) -> Poll<Option<Result<Bytes, CutShort>>> {
        body.poll_chunk(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn g7_a_producer_runs_only_as_far_as_one_chunk_ahead() {
        let made = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&made);
        let mut body = Body::produced(|output| async move {
            for chunk in ["one", "two"] {
                *seen.lock() += 1;
                output.send(chunk).await;
            }
            Err(CutShort)
        });
        assert_eq!(*made.lock(), 0);
        for (count, chunk) in [(1, "one"), (2, "two")] {
            assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(bytes))) if bytes == chunk));
            assert_eq!(*made.lock(), count);
        }
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(CutShort)))));
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
    }
}
