//! The audit: who did what, when, from where, and what came of it, in `springhead.audit` of the
//! default tenant. What an admin does is written in the same commit as the deed.

use std::sync::atomic::{AtomicI64, Ordering};

use springhead_proto::{SqlError, TenantId};

use super::change::Op;
use crate::engine::Engine;

/// One entry.
#[derive(Debug, Clone, Default)]
pub struct AuditEvent {
    /// The user.
    pub actor: String,
    /// Such as `login`, `create role`.
    pub action: &'static str,
    /// What it was done to.
    pub object: Option<String>,
    pub tenant: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// `ok`, or the SQLSTATE.
    pub outcome: &'static str,
    pub detail: Option<String>,
}

/// Numbers the entries.
#[derive(Debug, Default)]
pub(crate) struct AuditBook {
    last: AtomicI64,
}

impl AuditBook {
    pub(crate) fn starting_after(last: i64) -> AuditBook {
        AuditBook {
            last: AtomicI64::new(last),
        }
    }

    /// Goes on where `other` would: entries have come from another node meanwhile.
    pub(crate) fn go_on_after(&self, other: &AuditBook) {
        let last = other.last.load(Ordering::Relaxed);
        self.last.fetch_max(last, Ordering::Relaxed);
    }

    /// The statements that write an entry, and forget the one that is too old now.
    pub(super) fn ops(&self, event: AuditEvent, keep: u64) -> [Op; 2] {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let too_old = id.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX));
        [
            Op::new(
                "INSERT INTO springhead.audit (id, at, actor, action, object, tenant, address, outcome, detail) \
                 VALUES ($1, now(), $2, $3, $4, $5, $6, $7, $8)",
                vec![
                    Some(id.to_string()),
                    Some(event.actor),
                    Some(event.action.to_owned()),
                    event.object,
                    event.tenant,
                    event.address,
                    Some(event.outcome.to_owned()),
                    event.detail,
                ],
            ),
            Op::new(
                "DELETE FROM springhead.audit WHERE id <= $1",
                vec![Some(too_old.to_string())],
            ),
        ]
    }
}

impl Engine {
    /// Writes entries to the audit, in one commit.
    ///
    /// # Errors
    /// Why they could not be written.
    pub async fn audit(&self, events: Vec<AuditEvent>) -> Result<(), SqlError> {
        let keep = self.config().audit_rows;
        let ops = events
            .into_iter()
            .flat_map(|event| self.audit_book().ops(event, keep))
            .collect();
        self.run_on(TenantId::DEFAULT, ops).await
    }
}
