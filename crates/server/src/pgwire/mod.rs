//! The PostgreSQL protocol: accepts connections, speaks version 3.0 with them, and hands statements
//! to the engine's sessions.
//!
//! [`serve`] is called by `node`. Own connection loop and codec (docs/adr/0003-pgwire-codec.md):
//! each connection is one task that waits at once for its socket, its timers and the node's end.
//! Never parses SQL.

mod backend;
mod connection;
mod copying;
mod extended;
mod frontend;
mod login;
mod registry;
mod results;
mod session;
mod socket;
mod startup;
mod stream;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::node::{NodeState, Shutdown};

pub use registry::Registry;

/// Connections beyond the limit that may be told so at a time; further ones are just closed.
const REFUSALS_AT_A_TIME: usize = 64;

/// After an accept that failed (no descriptors left, say), how long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown`, and then until the last one has ended.
pub async fn serve(listener: TcpListener, state: Arc<NodeState>, mut shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    let most = state
        .config
        .pg_max_connections
        .saturating_add(REFUSALS_AT_A_TIME);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                report(ended);
                continue;
            }
            () = shutdown.requested() => break,
        };
        match accepted {
            Ok((stream, peer)) if connections.len() < most => {
                connections.spawn(connection::run(
                    stream,
                    peer,
                    Arc::clone(&state),
                    shutdown.clone(),
                ));
            }
            Ok((_, peer)) => {
                tracing::warn!(%peer, "far too many connections: closed one without a word")
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked; the others go on");
    }
}
