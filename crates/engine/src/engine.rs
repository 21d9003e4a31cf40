//! The engine: all tenants of a node over one log.

use std::sync::Arc;

use springhead_log::{Clock, Log, LogStats, TailPosition};
use springhead_proto::{Lsn, SqlError, TenantId};

use crate::{Entropy, EngineConfig, EngineError, Session, Tenant};

/// A handle to the node's tenants; clones share them.
#[derive(Clone)]
pub struct Engine {
    _todo: (),
}

/// A tenant as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantInfo {
    pub id: TenantId,
    pub name: String,
    pub open: bool,
}

/// Figures for `/v1/status` and metrics.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    pub tail: TailPosition,
    pub earliest: Lsn,
    pub log: LogStats,
    pub tenants: usize,
    pub open_tenants: usize,
    pub subscribers: usize,
    pub statements: u64,
    pub commits: u64,
}

impl Engine {
    /// Opens the node's state over `log`, replaying what it is behind. Blocks.
    ///
    /// # Errors
    /// [`EngineError`]; nothing has been changed then that a later start could not continue from.
    pub fn open(
        config: EngineConfig,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Engine, EngineError> {
        unimplemented!()
    }

    pub fn config(&self) -> &EngineConfig { unimplemented!() }
    pub fn log(&self) -> &Arc<dyn Log> { unimplemented!() }
    pub fn clock(&self) -> &Arc<dyn Clock> { unimplemented!() }

    /// The tenant called `name`; `postgres` is `default`.
    ///
    /// # Errors
    /// 3D000 where there is none.
    pub fn tenant_id(&self, name: &str) -> Result<TenantId, SqlError> { unimplemented!() }

    /// Every tenant but the system's, by id.
    pub fn tenants(&self) -> Vec<TenantInfo> { unimplemented!() }

    /// The tenant, opened if it was closed (which may replay some log).
    ///
    /// # Errors
    /// 3D000 for an unknown id, or why it does not open.
    pub async fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, SqlError> { unimplemented!() }

    /// A new conversation with a tenant. `user` is whom it acts for.
    ///
    /// # Errors
    /// As [`Engine::tenant`].
    pub async fn session(&self, tenant: TenantId, user: &str) -> Result<Session, SqlError> { unimplemented!() }

    /// CREATE DATABASE.
    ///
    /// # Errors
    /// 42P04 if the name is taken.
    pub async fn create_tenant(&self, name: &str) -> Result<TenantId, SqlError> { unimplemented!() }

    /// DROP DATABASE: its feeds end with `tenant_dropped`, its files go at once.
    ///
    /// # Errors
    /// 3D000 if there is none; 55006 while sessions are connected to it.
    pub async fn drop_tenant(&self, name: &str) -> Result<(), SqlError> { unimplemented!() }

    pub fn status(&self) -> EngineStatus { unimplemented!() }

    /// Applies retention: checkpoints tenants and trims the log. Called about every 10 s. Blocks.
    ///
    /// # Errors
    /// What the disk says.
    pub fn maintain(&self) -> Result<(), EngineError> { unimplemented!() }

    /// Finishes what runs, takes no more, checkpoints and closes. Blocks.
    pub fn shutdown(&self) { unimplemented!() }
}
