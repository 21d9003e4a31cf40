//! All device sessions of one engine: who is connected, and what they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::sync::{CatalogHash, ProducerId, SyncErrorCode};
use springhead_proto::{SqlError, TenantId};
use tokio::sync::watch;

use super::SyncLimits;
use super::definitions::DefinitionSets;
use super::presence::Presence;
use crate::access::{Credential, Principal};
use crate::live::Live;
use crate::{Engine, Tenant};

/// See the module's text.
pub struct Sync {
    pub(super) engine: Engine,
    pub(super) live: Arc<Live>,
    pub(super) limits: SyncLimits,
    pub(super) definitions: DefinitionSets,
    pub(super) presence: Arc<Presence>,
    sessions: Mutex<Sessions>,
    next: AtomicU64,
    counts: SyncCounts,
}

#[derive(Default)]
struct Sessions {
    by_producer: FxHashMap<(TenantId, ProducerId), Taken>,
    per_tenant: FxHashMap<TenantId, usize>,
}

/// A seat that is taken: the session's number, and how it is told to leave.
type Taken = (u64, watch::Sender<Option<SyncErrorCode>>);

/// Totals since the start, for metrics.
#[derive(Debug, Default)]
pub struct SyncCounts {
    pub applied: AtomicU64,
    pub duplicates: AtomicU64,
    pub rejected: AtomicU64,
    pub deferred: AtomicU64,
    pub snapshot_rows: AtomicU64,
    pub deltas: AtomicU64,
}

/// A session's place among the others; given back when dropped.
pub(super) struct Seat {
    sync: Arc<Sync>,
    key: (TenantId, ProducerId),
    pub number: u64,
    /// Set when the session is to end.
    pub end: watch::Receiver<Option<SyncErrorCode>>,
}

impl Sync {
    /// For one engine; shapes are kept by `live`.
    #[must_use]
    pub fn new(engine: Engine, live: &Arc<Live>, limits: SyncLimits) -> Arc<Sync> {
        Arc::new(Sync {
            engine,
            live: Arc::clone(live),
            limits,
            definitions: DefinitionSets::default(),
            presence: Arc::default(),
            sessions: Mutex::default(),
            next: AtomicU64::new(1),
            counts: SyncCounts::default(),
        })
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    #[must_use]
    pub fn limits(&self) -> &SyncLimits {
        &self.limits
    }

    /// Totals since the start.
    #[must_use]
    pub fn counts(&self) -> &SyncCounts {
        &self.counts
    }

    /// Sessions that are connected.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.lock().by_producer.len()
    }

    /// The hash of the definitions that a user is shown now.
    ///
    /// # Errors
    /// 28000 for a user that there is none of, or what reading them says.
    pub async fn definitions_hash(
        &self,
        tenant: &Tenant,
        user: &str,
    ) -> Result<CatalogHash, SqlError> {
        let principal = if self.engine.roles().is_open {
            Principal::unrestricted(user)
        } else {
            Arc::new(Principal::of(user, Credential::Password))
        };
        let identity = self.engine.identify(&principal)?;
        Ok(self.definitions.of(tenant, &identity).await?.hash)
    }

    /// A seat for a producer; whoever had it is told to leave. `None` if the tenant has none left.
    pub(super) fn sit(self: &Arc<Self>, tenant: TenantId, producer: ProducerId) -> Option<Seat> {
        let key = (tenant, producer);
        let mut sessions = self.sessions.lock();
        let taken = sessions.per_tenant.get(&tenant).copied().unwrap_or(0);
        let replaces = sessions.by_producer.contains_key(&key);
        if taken >= self.limits.sessions && !replaces {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, end) = watch::channel(None);
        if let Some((_, older)) = sessions.by_producer.insert(key, (number, sender)) {
            older.send_replace(Some(SyncErrorCode::TakenOver));
        } else {
            *sessions.per_tenant.entry(tenant).or_insert(0) += 1;
        }
        Some(Seat {
            sync: Arc::clone(self),
            key,
            number,
            end,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut sessions = self.sync.sessions.lock();
        let is_own =
            (sessions.by_producer.get(&self.key)).is_some_and(|(number, _)| *number == self.number);
        if !is_own {
            return;
        }
        sessions.by_producer.remove(&self.key);
        if let Some(count) = sessions.per_tenant.get_mut(&self.key.0) {
            *count -= 1;
            if *count == 0 {
                sessions.per_tenant.remove(&self.key.0);
            }
        }
    }
}
