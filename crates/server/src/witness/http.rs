//! A witness's listener: the upgrade over which nodes ask, and what operators look at (`/healthz`,
//! `/readyz`, `/v1/status`, `/metrics`). HTTP/1.1, over TLS where there is a certificate.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Witness;
use super::desk::Visitor;
use crate::http::body::Body;
use crate::standby::channel::{ChannelError, Incoming, Outgoing};
use crate::standby::dial::{PATH, PROTOCOL};
use crate::standby::handshake::{HandshakeError, Own, accept};
use crate::standby::wire::{Identity, Purpose, ToPrimary, ToStandby, Verdict};
use crate::vote::messages::Ask;

/// How long a peer may take for TLS, and for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// Serves for ever.
pub async fn serve(listener: TcpListener, witness: Arc<Witness>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let witness = Arc::clone(&witness);
                tokio::spawn(async move {
                    connection(witness, stream, peer).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(witness: Arc<Witness>, stream: TcpStream, peer: SocketAddr) {
    // Answers are small, and waited for.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &witness.tls else {
        requests(&witness, stream, peer).await;
        return;
    };
    match tokio::time::timeout(HEAD_TIMEOUT, tls.http().accept(stream)).await {
        Ok(Ok(stream)) => requests(&witness, stream, peer).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS came about"),
        Err(_) => {}
    }
}

async fn requests<S>(witness: &Arc<Witness>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let witness = Arc::clone(witness);
        async move { Ok::<_, Infallible>(answer(&witness, request, peer)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

fn answer(
    witness: &Arc<Witness>,
    request: Request<hyper::body::Incoming>,
    peer: SocketAddr,
) -> Response<Body> {
    if request.method() != http::Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "a witness is only asked\n");
    }
    match request.uri().path() {
        PATH => upgrade(witness, request),
        "/healthz" | "/readyz" => json(&serde_json::json!({
            "status": "ready",
            "role": "witness",
            "serves": witness.desk.known().is_enrolled,
        })),
        "/v1/status" if may_look(witness, &request, peer) => json(&witness.desk.status()),
        "/metrics" if may_look(witness, &request, peer) => plain(StatusCode::OK, &metrics(witness)),
        "/v1/status" | "/metrics" => plain(
            StatusCode::UNAUTHORIZED,
            "ask from the same machine, or send the cluster's standby_token as a bearer token\n",
        ),
        _ => plain(
            StatusCode::NOT_FOUND,
            "this is a witness: it has no data. It has /healthz, /readyz, /v1/status and /metrics\n",
        ),
    }
}

/// Whether the peer is of this machine, or knows the token.
fn may_look<B>(witness: &Witness, request: &Request<B>, peer: SocketAddr) -> bool {
    if peer.ip().to_canonical().is_loopback() {
        return true;
    }
    let token = witness.config.standby_token.as_bytes();
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    !token.is_empty() && given.is_some_and(|given| given.ct_eq(token).into())
}

fn json(value: &serde_json::Value) -> Response<Body> {
    respond(StatusCode::OK, "application/json", value.to_string())
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", text.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn metrics(witness: &Witness) -> String {
    use std::fmt::Write as _;
    let known = witness.desk.known();
    let mut out = String::new();
    for (name, help, value) in [
        (
            "springhead_witness_serves",
            "1 once a cluster is served.",
            u32::from(known.is_enrolled),
        ),
        (
            "springhead_witness_promised",
            "The highest epoch number that is promised.",
            known.promised.0,
        ),
        (
            "springhead_witness_in_sync_nodes",
            "Nodes that have everything that was acknowledged.",
            crate::vote::messages::bits(known.in_sync).count_ones(),
        ),
        (
            "springhead_witness_is_led",
            "1 while a primary is heard.",
            u32::from(known.leader.is_some()),
        ),
    ] {
        let _ = writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"
        );
    }
    out
}

fn upgrade(witness: &Arc<Witness>, mut request: Request<hyper::body::Incoming>) -> Response<Body> {
    let asks = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|word| word.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    if !asks {
        let what = format!("this path is for nodes: it upgrades to {PROTOCOL}\n");
        return plain(StatusCode::UPGRADE_REQUIRED, &what);
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let witness = Arc::clone(witness);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else {
            return;
        };
        if let Err(error) = converse(&witness, TokioIo::new(upgraded)).await {
            tracing::debug!(%error, "a node's connection is over");
        }
    });
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// One node's questions, to the end of its connection.
async fn converse(
    witness: &Witness,
    socket: impl AsyncRead + AsyncWrite + Send + 'static,
) -> Result<(), HandshakeError> {
    let own = Own {
        identity: identity(witness),
        token: witness.config.standby_token.clone(),
        timeout: witness.config.standby_timeout,
    };
    let mut accepted = accept(socket, &own).await?;
    if accepted.purpose != Purpose::Vote {
        let why = "this is a witness: it has no data, and nobody follows it".to_owned();
        let refused = ToStandby::Verdict(Verdict::Refused { why });
        accepted.out.send(&refused).await?;
        return Ok(());
    }
    let stream = ToStandby::Verdict(Verdict::Stream);
    accepted.out.send(&stream).await?;
    let mut node = Node {
        witness,
        identity: accepted.identity,
        visitor: None,
        out: accepted.out,
        incoming: accepted.incoming,
    };
    while node.answer_one().await? {}
    Ok(())
}

fn identity(witness: &Witness) -> Identity {
    Identity {
        cluster_id: witness.desk.cluster_id(),
        promised: witness.desk.known().promised.0,
        ..Identity::without_log("witness", "")
    }
}

/// A node that has proven itself.
struct Node<'a> {
    witness: &'a Witness,
    identity: Identity,
    /// Who it is among the voters, once it has named them.
    visitor: Option<Visitor>,
    out: Outgoing<ToStandby>,
    incoming: Incoming<ToPrimary>,
}

impl Node<'_> {
    /// False if the node was refused.
    async fn answer_one(&mut self) -> Result<bool, ChannelError> {
        let ToPrimary::Ask(ask) = self.incoming.receive().await? else {
            return Err(ChannelError::Unexpected("no question"));
        };
        // The disk is written before it is answered.
        let answered = tokio::task::block_in_place(|| {
            if let Ask::Join { nodes } = &ask {
                let admitted = self.witness.desk.admit(&self.identity, nodes.clone())?;
                self.visitor = Some(admitted);
            }
            let Some(visitor) = &self.visitor else {
                return Ok(None);
            };
            self.witness.desk.answer(visitor, ask).map(Some)
        });
        let refused: Result<_, super::desk::Refused> = answered;
        match refused {
            Ok(Some(said)) => {
                self.out.send(&ToStandby::Said(said)).await?;
                Ok(true)
            }
            Ok(None) => Err(ChannelError::Unexpected(
                "a question before its list of nodes",
            )),
            Err(refused) => {
                let why = refused.to_string();
                tracing::warn!(node = %self.identity.name, %why, "a node is refused");
                let refused = ToStandby::Verdict(Verdict::Refused { why });
                self.out.send(&refused).await?;
                Ok(false)
            }
        }
    }
}
