//! Which tenants are open. One is opened when somebody asks for it, and closed when nobody has used it
//! for a while (`tenant_idle`), or when more than `open_tenants` are open and it has been idle the
//! longest: threads, files and memory follow those in use, not those there are.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_log::NoProgress;
use springhead_proto::{ErrorCode, SYSTEM_TENANT, SqlError, TenantId};

use super::{Engine, Slot, block_on};
use crate::{EngineError, Tenant};

impl Engine {
    /// The tenant, opened if it was closed (which may replay some log).
    ///
    /// # Errors
    /// 3D000 for an unknown id, or why it does not open.
    pub async fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, SqlError> {
        let slot = {
            let registry = self.inner.registry.lock();
            if registry.closed {
                return Err(SqlError::new(
                    ErrorCode::AdminShutdown,
                    "the server is shutting down",
                ));
            }
            registry.slots.get(&id).cloned()
        };
        let slot = slot.ok_or_else(|| unknown(id))?;
        let opened = {
            let mut tenant = slot.tenant.lock().await;
            if let Some(tenant) = &*tenant {
                tenant.touch();
                return Ok(Arc::clone(tenant));
            }
            if !self.inner.registry.lock().slots.contains_key(&id) {
                // Dropped while we waited; opened now, it would come back from the log.
                return Err(unknown(id));
            }
            let shared = Arc::clone(&self.inner.shared);
            let name = slot.name.clone();
            let opened = self
                .inner
                .shared
                .readers
                .call(move || Tenant::open(&shared, id, &name, false, &NoProgress))
                .await??;
            *tenant = Some(Arc::clone(&opened));
            opened
        };
        self.make_room().await?;
        Ok(opened)
    }

    /// The tenant, if it is open; not a use of it.
    pub(crate) fn tenant_if_open(&self, id: TenantId) -> Option<Arc<Tenant>> {
        let slot = self.inner.registry.lock().slots.get(&id).cloned()?;
        slot.tenant.try_lock().ok()?.clone()
    }

    pub(crate) fn open_tenants(&self) -> Vec<Arc<Tenant>> {
        self.slots()
            .iter()
            .filter_map(|slot| slot.tenant.try_lock().ok()?.clone())
            .collect()
    }

    /// A tenant to be copied, the system's own included; `None` if it has been dropped. Blocks.
    pub(crate) fn tenant_for_copy(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, EngineError> {
        if id == SYSTEM_TENANT {
            return Ok(Some(Arc::clone(&self.inner.system)));
        }
        let tenant = self.blocking_tenant(id)?.map(|(tenant, _)| tenant);
        self.make_room_blocking();
        Ok(tenant)
    }

    /// What `work` says of the tenant, which is closed again if it was closed and nobody else has come
    /// to use it; `None` if it has been dropped. Blocks.
    pub(crate) fn with_tenant<T>(
        &self,
        id: TenantId,
        work: impl FnOnce(&Arc<Tenant>) -> T,
    ) -> Result<Option<T>, EngineError> {
        let Some((tenant, was_closed)) = self.blocking_tenant(id)? else {
            return Ok(None);
        };
        let outcome = work(&tenant);
        drop(tenant);
        if was_closed {
            if let Some(slot) = self.slot(id) {
                self.close_if_idle(&slot);
            }
            self.make_room_blocking();
        }
        Ok(Some(outcome))
    }

    /// The tenant, and whether it had to be opened; `None` if it has been dropped.
    fn blocking_tenant(&self, id: TenantId) -> Result<Option<(Arc<Tenant>, bool)>, EngineError> {
        let Some(slot) = self.slot(id) else {
            return Ok(None);
        };
        let mut tenant = block_on(slot.tenant.lock());
        if let Some(open) = &*tenant {
            return Ok(Some((Arc::clone(open), false)));
        }
        if self.slot(id).is_none() {
            return Ok(None);
        }
        let opened = Tenant::open(&self.inner.shared, id, &slot.name, false, &NoProgress)?;
        *tenant = Some(Arc::clone(&opened));
        Ok(Some((opened, true)))
    }

    /// Called after each opening, by whoever asked for it: who opens many closes as many. Looks only
    /// after every so many, since looking goes through all tenants.
    pub(super) async fn make_room(&self) -> Result<(), SqlError> {
        if self.is_time_to_look() {
            let engine = self.clone();
            self.on_reader(move || engine.close_idle()).await?;
        }
        Ok(())
    }

    /// [`Engine::make_room`] where blocking is allowed.
    pub(crate) fn make_room_blocking(&self) {
        if self.is_time_to_look() {
            self.close_idle();
        }
    }

    fn is_time_to_look(&self) -> bool {
        let every = (self.config().open_tenants / 8).max(1);
        let opened = self.inner.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let is_time = opened >= every;
        if is_time {
            self.inner.opened.store(0, Ordering::Relaxed);
        }
        is_time
    }

    /// Closes who has been idle for too long, and the longest idle while too many are open. Blocks.
    pub(super) fn close_idle(&self) {
        let idle_ms = u64::try_from(self.config().tenant_idle.as_millis()).unwrap_or(u64::MAX);
        let mut open = 0;
        let mut idle: Vec<(u64, Arc<Slot>)> = Vec::new();
        for slot in self.slots() {
            let Ok(held) = slot.tenant.try_lock() else {
                continue;
            };
            let Some(tenant) = held.as_ref() else {
                continue;
            };
            open += 1;
            let since = tenant.idle_ms();
            drop(held);
            if let Some(since) = since {
                idle.push((since, slot));
            }
        }
        idle.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
        let too_many = usize::saturating_sub(open, self.config().open_tenants);
        let mut closed = 0;
        for (since, slot) in idle {
            if since < idle_ms && closed >= too_many {
                break;
            }
            closed += usize::from(self.close_if_idle(&slot));
        }
    }

    /// Whether it has been closed: nobody had hold of it, and nothing was under way.
    fn close_if_idle(&self, slot: &Slot) -> bool {
        let Ok(mut held) = slot.tenant.try_lock() else {
            return false;
        };
        // With the slot locked nobody can get hold of it; somebody may have already.
        let is_ours = held
            .as_ref()
            .is_some_and(|tenant| Arc::strong_count(tenant) == 1 && tenant.idle_ms().is_some());
        if is_ours && let Some(tenant) = held.take() {
            self.remember_dead_letters(&tenant);
            tenant.close(false);
        }
        is_ours
    }
}

fn unknown(id: TenantId) -> SqlError {
    SqlError::new(
        ErrorCode::UnknownDatabase,
        format!("tenant {id} does not exist"),
    )
}
