//! Who is connected: counts against the limits, and the keys that cancel requests carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_engine::Canceller;
use springhead_proto::{ErrorCode, SqlError, TenantId};

/// All connections of the PostgreSQL protocol; clones share it.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// Connections ever accepted, for metrics.
    accepted: AtomicU64,
}

#[derive(Default)]
struct Inner {
    sessions: usize,
    by_tenant: FxHashMap<TenantId, usize>,
    /// By the backend process id that clients know.
    cancel: FxHashMap<i32, CancelEntry>,
}

struct CancelEntry {
    secret: i32,
    canceller: Canceller,
}

/// A session's place within the limits; dropped, it is free again.
#[derive(Debug)]
pub struct Place {
    registry: Registry,
    tenant: TenantId,
    process_id: Option<i32>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("sessions", &self.sessions())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Takes a place for a session of `tenant`.
    ///
    /// # Errors
    /// 53300 when there is none.
    pub fn admit(
        &self,
        tenant: TenantId,
        max: usize,
        max_of_tenant: usize,
    ) -> Result<Place, SqlError> {
        let mut inner = self.shared.inner.lock();
        if inner.sessions >= max {
            return Err(too_many("pg_max_connections", max));
        }
        let of_tenant = inner.by_tenant.entry(tenant).or_default();
        if *of_tenant >= max_of_tenant {
            return Err(too_many("pg_max_connections_per_tenant", max_of_tenant));
        }
        *of_tenant += 1;
        inner.sessions += 1;
        drop(inner);
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            registry: self.clone(),
            tenant,
            process_id: None,
        })
    }

    /// Cancels what `process_id` runs now, if `secret` is its key. A wrong key does nothing and
    /// says nothing, as in PostgreSQL.
    pub fn cancel(&self, process_id: i32, secret: i32) {
        let canceller = {
            let inner = self.shared.inner.lock();
            inner
                .cancel
                .get(&process_id)
                // Both are compared whole, so that the time taken tells nothing.
                .filter(|entry| (entry.secret ^ secret) == 0)
                .map(|entry| entry.canceller.clone())
        };
        if let Some(canceller) = canceller {
            canceller.cancel();
        }
    }

    /// Sessions connected now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.inner.lock().sessions
    }

    /// Sessions ever connected.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Place {
    /// Makes the session's statements cancellable by whoever has `secret`.
    pub fn set_key(&mut self, process_id: i32, secret: i32, canceller: Canceller) {
        self.process_id = Some(process_id);
        self.registry
            .shared
            .inner
            .lock()
            .cancel
            .insert(process_id, CancelEntry { secret, canceller });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.registry.shared.inner.lock();
        inner.sessions -= 1;
        if let Some(count) = inner.by_tenant.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                inner.by_tenant.remove(&self.tenant);
            }
        }
        if let Some(process_id) = self.process_id {
            inner.cancel.remove(&process_id);
        }
    }
}

fn too_many(setting: &'static str, max: usize) -> SqlError {
    SqlError::new(
        ErrorCode::TooManyConnections,
        "sorry, too many clients already",
    )
    .with_detail(format!("the limit {setting} is {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let registry = Registry::default();
        let first = registry.admit(TenantId(1), 2, 1).unwrap();
        let error = registry.admit(TenantId(1), 2, 1).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooManyConnections);
        let second = registry.admit(TenantId(2), 2, 1).unwrap();
        assert!(registry.admit(TenantId(3), 2, 1).is_err());
        drop(first);
        assert_eq!(registry.sessions(), 1);
        let _third = registry.admit(TenantId(1), 2, 1).unwrap();
        drop(second);
        registry.cancel(1, 1);
    }
}
