//! Asks the other nodes that this one knows of who they are: so that an old primary that returns, or
//! wakes up, finds the new one, and a new primary makes itself known to whoever still follows the
//! old one.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Replication;
use super::dial::Trust;
use super::handshake::{HandshakeError, Own, connect};
use super::wire::{Identity, Purpose};

/// How often a primary looks around.
const INTERVAL: Duration = Duration::from_secs(2);
/// A node that does not answer in this time is away.
const LIMIT: Duration = Duration::from_secs(2);

/// Who the node at an address is, and whether it is a primary.
///
/// # Errors
/// [`HandshakeError`].
pub async fn probe(address: &str, trust: &Trust, own: &Own) -> Result<Identity, HandshakeError> {
    let asked = connect(address, trust, own, Purpose::Probe, Vec::new());
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(connected) => connected.map(|connected| connected.identity),
        Err(_) => Err(HandshakeError::Dial(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Those among `addresses` that answer.
pub async fn probe_all(addresses: Vec<String>, trust: &Trust, own: &Arc<Own>) -> Vec<Identity> {
    let mut asking = JoinSet::new();
    for address in addresses {
        let (trust, own) = (trust.clone(), Arc::clone(own));
        asking.spawn(async move {
            let found = probe(&address, &trust, &own).await;
            if let Err(error) = &found {
                tracing::debug!(%address, %error, "a peer does not answer");
            }
            found.ok()
        });
    }
    let mut found = Vec::new();
    while let Some(answered) = asking.join_next().await {
        found.extend(answered.ok().flatten());
    }
    found
}

/// While the node is a primary: looks for one of a newer epoch, and tells the others of itself by
/// asking.
pub async fn watch(replication: Arc<Replication>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if replication.is_primary() {
            look_around(&replication).await;
        }
    }
}

/// Asks every known peer once.
pub async fn look_around(replication: &Arc<Replication>) {
    ask(replication, known(replication)).await;
}

/// A new primary asks every known peer, and the node that it followed: whoever is asked learns of it.
pub async fn make_known(replication: &Arc<Replication>, followed: String) {
    let mut addresses = known(replication);
    if !followed.is_empty() && !addresses.contains(&followed) {
        addresses.push(followed);
    }
    ask(replication, addresses).await;
}

async fn ask(replication: &Arc<Replication>, addresses: Vec<String>) {
    let own = Arc::new(Own {
        identity: replication.identity(),
        token: replication.options.token.clone(),
        timeout: LIMIT,
    });
    let trust = replication.options.trust.clone();
    for identity in probe_all(addresses, &trust, &own).await {
        replication.superseded(&identity);
    }
}

/// The address of a primary among the peers, for a standby whose upstream is away: of the highest
/// epoch, and of none below what this node has promised.
pub async fn find_primary(replication: &Replication, upstream: &str) -> Option<String> {
    let mut peers = replication.options.peers.clone();
    // It is tried anyway, and may call itself by another address than it is reached by.
    peers.retain(|peer| peer != upstream);
    if peers.is_empty() {
        return None;
    }
    let own = Arc::new(Own {
        identity: replication.identity(),
        token: replication.options.token.clone(),
        timeout: LIMIT,
    });
    let found = probe_all(peers, &replication.options.trust, &own).await;
    let cluster_id = own.identity.cluster_id;
    found
        .into_iter()
        .filter(|peer| peer.is_primary && peer.cluster_id == cluster_id)
        .filter(|peer| peer.epoch_number() >= replication.promised())
        .max_by_key(Identity::epoch_number)
        .map(|peer| peer.address)
}

/// The addresses of the nodes that may have become primary: those configured, and those of the
/// standbys, but for whom this node hears anyway.
fn known(replication: &Replication) -> Vec<String> {
    let own = &replication.options.address;
    let connected: Vec<String> = replication
        .slots
        .streaming(replication.options.timeout)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut addresses = replication.options.peers.clone();
    addresses.extend(replication.role_file.lock().primary.clone());
    for standby in replication.slots.list() {
        if connected.contains(&standby.name) {
            addresses.retain(|address| *address != standby.address);
        } else {
            addresses.push(standby.address);
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses.retain(|address| address != own && !address.is_empty());
    addresses
}
