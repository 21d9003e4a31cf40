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
    by_role: FxHashMap<Arc<str>, usize>,
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
    role: Arc<str>,
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
    /// Takes a place for a session of `role`, which may have `max_of_role`, with `tenant`.
    ///
    /// # Errors
    /// 53300 when there is none.
    pub fn admit(
        &self,
        tenant: TenantId,
        max: usize,
        max_of_tenant: usize,
        role: &Arc<str>,
        max_of_role: Option<usize>,
    ) -> Result<Place, SqlError> {
        let mut inner = self.shared.inner.lock();
        if inner.sessions >= max {
            return Err(too_many("pg_max_connections", max));
        }
        let of_tenant = inner.by_tenant.get(&tenant).copied().unwrap_or(0);
        if of_tenant >= max_of_tenant {
            return Err(too_many("pg_max_connections_per_tenant", max_of_tenant));
        }
        let of_role = inner.by_role.get(role).copied().unwrap_or(0);
        if max_of_role.is_some_and(|max| of_role >= max) {
            return Err(SqlError::new(
                ErrorCode::TooManyConnections,
                format!("too many connections for role \"{role}\""),
            ));
        }
        *inner.by_tenant.entry(tenant).or_default() += 1;
        *inner.by_role.entry(Arc::clone(role)).or_default() += 1;
        inner.sessions += 1;
        drop(inner);
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            registry: self.clone(),
            tenant,
            role: Arc::clone(role),
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
        if let Some(count) = inner.by_role.get_mut(&self.role) {
            *count -= 1;
            if *count == 0 {
                inner.by_role.remove(&self.role);
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
        let role: Arc<str> = "ann".into();
        let admit = |tenant| registry.admit(TenantId(tenant), 2, 1, &role, None);
        let first = admit(1).unwrap();
        let error = admit(1).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooManyConnections);
        let second = admit(2).unwrap();
        assert!(admit(3).is_err());
        drop(first);
        assert_eq!(registry.sessions(), 1);
        let _third = admit(1).unwrap();
        drop(second);
        let full = registry.admit(TenantId(2), 9, 9, &role, Some(1));
        assert_eq!(full.unwrap_err().code, ErrorCode::TooManyConnections);
        let other: Arc<str> = "bob".into();
        assert!(registry.admit(TenantId(2), 9, 9, &other, Some(1)).is_ok());
        registry.cancel(1, 1);
    }
}
