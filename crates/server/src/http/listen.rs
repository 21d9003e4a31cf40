//! The accept loop and its connections: limits, keep-alive, which protocol a client speaks, and an
//! orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::request::{Came, RequestBody};
use super::unread::Unread;
use super::{App, lean, routes};

/// What a client gets when there are too many.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 84\r\n\r\n\
    {\"error\":{\"code\":\"too_many_connections\",\"message\":\"there are too many connections\"}}";

/// Accepts until shutdown; returns when the last connection has ended.
pub async fn run(listener: TcpListener, app: Arc<App>) {
    let mut connections = JoinSet::new();
    let mut shutdown = app.shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => admit(&app, stream, peer, &mut connections),
                Err(error) => {
                    // Out of descriptors or memory: what is open goes on, and ends some time.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn admit(app: &Arc<App>, stream: TcpStream, peer: SocketAddr, connections: &mut JoinSet<()>) {
    if !app.metrics.connections.enter(app.config.max_connections) {
        app.metrics.refused.fetch_add(1, Relaxed);
        // Said without waiting: whoever does not take it is closed all the same.
        let _ = stream.try_write(TOO_MANY);
        return;
    }
    app.metrics.accepted.fetch_add(1, Relaxed);
    let app = Arc::clone(app);
    connections.spawn(async move {
        let entered = Entered(app);
        if let Err(error) = prepare(&stream, entered.0.config.peer_timeout) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        Box::pin(serve(&entered.0, stream, peer)).await;
    });
}

/// Leaves the gauge when the connection ends, however it ends.
struct Entered(Arc<App>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.metrics.connections.leave();
    }
}

/// A peer that vanished without a word is noticed: by keep-alive probes while nothing is sent, else by
/// what it does not take (RFC 5482), be it that it is gone or that it does not read.
fn prepare(stream: &TcpStream, timeout: Duration) -> std::io::Result<()> {
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, timeout_ms)?;
    Ok(())
}

async fn serve(app: &Arc<App>, stream: TcpStream, peer: SocketAddr) {
    let came = Came {
        peer,
        is_secure: false,
    };
    let mut shutdown = app.shutdown.clone();
    let first = tokio::select! {
        first = tokio::time::timeout(app.config.head_timeout, lean::look(&stream)) => first,
        () = shutdown.requested() => return,
    };
    match first {
        Ok(Ok(lean::Look::Http2(read))) => {
            Box::pin(serve_http2(app, Unread::new(stream, read), came)).await
        }
        Ok(Ok(lean::Look::Tls)) => Box::pin(serve_tls(app, stream, peer)).await,
        Ok(Ok(lean::Look::EventStream(mut head))) => {
            head.extensions.insert(came);
            lean::serve(app, stream, *head).await;
        }
        Ok(Ok(lean::Look::Other(read))) => {
            Box::pin(serve_http1(app, Unread::new(stream, read), came)).await
        }
        // Nothing came, or something that is no HTTP.
        Ok(Ok(lean::Look::Nothing) | Err(_)) => {}
        Err(_) => answer_timeout(stream).await,
    }
}

/// What hyper speaks over.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {}

/// A client that begins with TLS.
async fn serve_tls(app: &Arc<App>, stream: TcpStream, peer: SocketAddr) {
    let Some(tls) = &app.node.auth.tls else {
        // No HTTP, and nobody who would understand an answer.
        return;
    };
    let accepted = tokio::time::timeout(app.config.head_timeout, tls.http().accept(stream)).await;
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no TLS came about");
            return;
        }
        Err(_) => return,
    };
    let came = Came {
        peer,
        is_secure: true,
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = Unread::new(stream, Vec::new());
    if is_http2 {
        Box::pin(serve_http2(app, stream, came)).await;
    } else {
        Box::pin(serve_http1(app, stream, came)).await;
    }
}

async fn answer_timeout(mut stream: TcpStream) {
    // Whoever sends nothing may not read either.
    let _ = stream
        .write_all(
            b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
}

async fn serve_http1(app: &Arc<App>, stream: impl Socket, came: Came) {
    let service = service(app, came);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.head_timeout)
        .max_headers(app.config.max_headers)
        .max_buf_size(app.config.max_head_bytes.max(8 << 10))
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service_fn(service))
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut shutdown = app.shutdown.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    note(ended);
}

async fn serve_http2(app: &Arc<App>, stream: impl Socket, came: Came) {
    let service = service(app, came);
    let headers_bytes = u32::try_from(app.config.max_head_bytes).unwrap_or(u32::MAX);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(app.config.max_streams)
        .max_header_list_size(headers_bytes)
        .max_send_buf_size(app.config.write_buffer_bytes)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), service_fn(service));
    let mut connection = pin!(connection);
    let mut shutdown = app.shutdown.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    note(ended);
}

type Answer =
    std::pin::Pin<Box<dyn Future<Output = Result<super::body::Response, Infallible>> + Send>>;

fn service(
    app: &Arc<App>,
    came: Came,
) -> impl Fn(http::Request<hyper::body::Incoming>) -> Answer + use<> {
    let app = Arc::clone(app);
    move |request| {
        let app = Arc::clone(&app);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(came);
            let body = RequestBody::of(&app, &parts.headers, body);
            Ok(routes::answer(app, parts, body).await)
        })
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        // A client that left, or sent what is no HTTP and has been told so.
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::TOO_MANY;

    #[test]
    fn the_refusal_of_a_connection_says_how_long_it_is() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len()))
                || head.ends_with(&format!("content-length: {}", body.len()))
        );
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
