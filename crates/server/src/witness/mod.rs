//! `springhead witness`: the third voter. It has no data: it promises each epoch to one node, keeps who has
//! everything that was acknowledged, and elects nobody while a primary is heard ([`crate::vote`]).
//!
//! ```text
//! node ── upgrade, both prove the token ──► [http] ──► [desk]: voter, lease ──► data_dir/vote,
//!                                                                              data_dir/witness.json
//! ```
//!
//! [`run`] is the process, [`http`] its listener, [`desk`] what it decides and [`store`] what it keeps.

pub mod desk;
pub mod http;
pub mod store;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::auth::AuthError;
use crate::auth::tls::Tls;
use crate::config::Config;
use crate::lock::DataDir;
use crate::node::{NodeError, Signals, bind, is_loopback, resolve};

use desk::Desk;

/// What all connections of a witness share.
pub struct Witness {
    pub desk: Desk,
    pub config: Config,
    pub tls: Option<Tls>,
}

/// Serves until told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// [`NodeError`].
pub async fn run(config: Config) -> Result<(), NodeError> {
    let mut signals = Signals::listen()?;
    let address = resolve("http", &config.http)?;
    if config.standby_token.is_empty() && !is_loopback(address.ip()) {
        return Err(NodeError::OpenWitness {
            setting: "http",
            address,
        });
    }
    let data_dir = DataDir::open_or_create(&config.data_dir)?;
    data_dir.refuse_node()?;
    let desk = Desk::open(data_dir.path(), config.failover_timeout)?;
    let tls = open_tls(&config)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = bind(address).await?;
    let address = local(&listener)?;
    println!(
        "springhead {} is ready: a witness at {scheme}://{address}, its promises in {}",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display(),
    );
    let witness = Arc::new(Witness { desk, config, tls });
    tokio::select! {
        () = http::serve(listener, witness) => {}
        () = signals.next() => tracing::info!("stopping"),
    }
    // What was promised is on disk; nobody needs a last word.
    Ok(())
}

fn open_tls(config: &Config) -> Result<Option<Tls>, NodeError> {
    let (certificate, key) = (&config.tls_certificate, &config.tls_key);
    if certificate.is_empty() && key.is_empty() {
        return Ok(None);
    }
    if certificate.is_empty() || key.is_empty() {
        return Err(AuthError::from(crate::auth::tls::TlsError::Half).into());
    }
    let tls = Tls::open(certificate.as_ref(), key.as_ref()).map_err(AuthError::from)?;
    Ok(Some(tls))
}

fn local(listener: &TcpListener) -> Result<std::net::SocketAddr, NodeError> {
    listener.local_addr().map_err(|error| NodeError::System {
        what: "ask a listener for its address",
        error,
    })
}
