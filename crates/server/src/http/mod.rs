//! HTTP: the change feed as Server-Sent Events and as pages, SQL and documents as JSON, consumer
//! groups, and what operators look at. `node` calls [`serve`].
//!
//! ```text
//! listen -> (an event stream over HTTP/1.1) lean -.
//!        -> (everything else) hyper --------------+-> guard -> routes -> one handler per path
//! ```
//!
//! Handlers answer with a [`body::Body`] that is produced only as fast as the socket takes it. They
//! hold no SQLite snapshot, and a writer never waits for them.

mod backup;
pub(crate) mod body;
mod collections;
mod config;
mod consumers;
mod dead_letters;
mod error;
mod events;
mod exposition;
mod guard;
mod json;
mod lean;
mod listen;
mod live;
mod metrics;
mod openapi;
mod params;
mod poll;
mod request;
mod routes;
mod session;
mod sql;
mod standby;
mod status;
mod sync;
mod unread;
mod ws;
mod ws_channels;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use springhead_engine::cdc::Cdc;
use springhead_engine::live::Live;
use springhead_engine::sync::Sync;
use tokio::net::TcpListener;

use crate::node::{NodeState, Shutdown};

pub use config::HttpConfig;

use metrics::Metrics;

/// What all HTTP connections share.
pub struct App {
    node: Arc<NodeState>,
    cdc: Arc<Cdc>,
    live: Arc<Live>,
    sync: Arc<Sync>,
    config: HttpConfig,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Serves HTTP on `listener` until `shutdown`; returns when the last connection has ended.
pub async fn serve(listener: TcpListener, node: Arc<NodeState>, shutdown: Shutdown) {
    let config = HttpConfig::from(&node.config);
    let cdc = Cdc::new(node.engine.clone(), config.cdc);
    let live = Arc::clone(&node.live);
    let sync = Sync::new(node.engine.clone(), &live, config.sync.clone());
    let app = Arc::new(App {
        node,
        cdc,
        live,
        sync,
        config,
        metrics: Metrics::default(),
        shutdown,
    });
    let keeper = tokio::spawn(keep_consumers(Arc::clone(&app)));
    listen::run(listener, app).await;
    keeper.abort();
}

/// Sets the holds of all consumers again after the start, then marks those expired that have held
/// back more log than they may.
async fn keep_consumers(app: Arc<App>) {
    let engine = &app.node.engine;
    for tenant in engine.tenants() {
        // A tenant that does not open says so to whoever asks for it.
        if let Ok(tenant) = engine.tenant(tenant.id).await
            && let Err(error) = app.cdc.restore_pins(&tenant).await
        {
            tracing::warn!(tenant = tenant.id().0, %error, "could not restore the holds of consumers");
        }
    }
    let mut ticks = tokio::time::interval(app.node.config.maintenance_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let expired = engine.log().take_expired_pins();
        if let Some(replication) = &app.node.replication {
            replication.slots.expire(expired.iter().map(String::as_str));
        }
        if *engine.role() != springhead_engine::role::NodeRole::Primary {
            // Its primary marks them, and the log tells; their holds move here as they do there.
            for tenant in engine.tenants().iter().filter(|tenant| tenant.open) {
                if let Ok(tenant) = engine.tenant(tenant.id).await
                    && let Err(error) = app.cdc.restore_pins(&tenant).await
                {
                    tracing::debug!(tenant = tenant.id().0, %error, "holds of consumers");
                }
            }
            continue;
        }
        if let Err(error) = app.cdc.expire_consumers(expired).await {
            // Those that are not marked find out when they next read.
            tracing::warn!(%error, "could not mark consumers as expired");
        }
    }
}
