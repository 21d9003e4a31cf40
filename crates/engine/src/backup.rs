//! What a backup asks of an engine beside copies of states ([`crate::copies`]): which there are, that
//! nothing is missing in them, and what makes a node of copies and a log ([`Engine::replay_all`]).

use std::path::Path;

use springhead_log::Progress;
use springhead_proto::{Lsn, SYSTEM_TENANT, TenantId};

use crate::engine::block_on;
use crate::{Engine, EngineError};

/// A tenant's state, copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateCopy {
    /// The last commit of this tenant that is in it. It can be brought to any LSN from there on, and
    /// to none before.
    pub applied: Lsn,
    /// Length of the file in bytes.
    pub bytes: u64,
}

impl Engine {
    /// Every tenant that has a state, the system's own included, by id.
    #[must_use]
    pub fn states(&self) -> Vec<(TenantId, String)> {
        let system = (SYSTEM_TENANT, "system".to_owned());
        let tenants = self.tenants().into_iter();
        std::iter::once(system)
            .chain(tenants.map(|tenant| (tenant.id, tenant.name)))
            .collect()
    }

    /// [`Engine::copy_state`] with every commit up to `at_least` in it. `None` if the tenant has been
    /// dropped. Blocks; no writer waits.
    ///
    /// # Errors
    /// Damage in the state, or what the disk says.
    pub fn copy_state_past(
        &self,
        tenant: TenantId,
        at_least: Lsn,
        to: &Path,
    ) -> Result<Option<StateCopy>, EngineError> {
        let Some(open) = self.tenant_for_copy(tenant)? else {
            return Ok(None);
        };
        block_on(open.wait_visible(at_least)).map_err(|error| EngineError::Corrupt {
            tenant: tenant.0,
            what: error.message.clone(),
        })?;
        let applied = self.copy_state(tenant, to)?;
        let measured = std::fs::metadata(to);
        let bytes = measured.map_err(|error| EngineError::Io {
            operation: "measure",
            path: to.display().to_string(),
            error,
        })?;
        Ok(Some(StateCopy {
            applied,
            bytes: bytes.len(),
        }))
    }

    /// Brings every tenant's state to the log's end and closes it again, and removes the states of
    /// tenants that there are not: for a node made of copies that are older than its log. Blocks.
    ///
    /// # Errors
    /// Damage, or what the disk says.
    pub fn replay_all(&self, progress: &dyn Progress) -> Result<u64, EngineError> {
        let tenants = self.tenants();
        let total = tenants.len() as u64;
        for (done, tenant) in (1..).zip(&tenants) {
            self.with_tenant(tenant.id, |tenant| tenant.checkpoint())?
                .transpose()?;
            progress.report(done, total);
        }
        self.remove_strangers(&tenants)?;
        Ok(total + 1)
    }

    fn remove_strangers(&self, tenants: &[crate::TenantInfo]) -> Result<(), EngineError> {
        let dir = self.config().data_dir.join("tenants");
        let io = |error| EngineError::Io {
            operation: "tidy",
            path: dir.display().to_string(),
            error,
        };
        for entry in std::fs::read_dir(&dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let known = id == SYSTEM_TENANT.0 || tenants.iter().any(|tenant| tenant.id.0 == id);
            if !known {
                std::fs::remove_dir_all(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }
}
