//! What a statement may see of the catalog, its tenant and its node.

use std::sync::Arc;

use super::Session;
use crate::Engine;
use crate::engine::WeakEngine;
use crate::state;
use crate::system::System;

impl Session {
    /// Shows the catalog to the statement that is about to run: the one that it was planned against.
    pub(super) fn look_at_catalog(&self) {
        let tenant = &self.tenant;
        let own = (tenant.id().0, tenant.name());
        let engine = self.engine.as_ref().map(Engine::downgrade);
        let unrestricted = self.plan_context.identity.superuser;
        // Who belongs to one tenant is told of no other.
        let databases = move || match engine.as_ref().and_then(WeakEngine::upgrade) {
            Some(engine) if unrestricted => engine
                .tenants()
                .into_iter()
                .map(|tenant| (tenant.id.0, tenant.name))
                .collect(),
            _ => vec![own.clone()],
        };
        *self.context.system.lock() = Some(Arc::new(System {
            catalog: self.catalog(),
            identity: Arc::clone(&self.plan_context.identity),
            databases: Arc::new(databases),
            roles: self.roles(),
            database_id: tenant.id().0,
            state_path: state::state_file(&tenant.shared.config, tenant.id()),
            sequences: (tenant.shared.role.is_writable()).then(|| Arc::clone(&tenant.sequences)),
            standbys: tenant.shared.standbys.load_full(),
            prepared: Arc::clone(&self.prepared),
            live: springhead_sql::system::Cache::default(),
        }));
    }
}
