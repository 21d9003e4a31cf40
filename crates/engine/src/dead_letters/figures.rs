//! The counts of all tenants together, for operators: by violation, never by tenant or collection.
//!
//! A tenant's own are in its `springhead.dead_letter_totals`. Here is the last that was read of each,
//! so that a tenant which has been closed since still counts, and figures only go up; of one that has
//! not been open since the node began nothing is known until the sweep has looked at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use springhead_proto::{Lsn, SqlError, TenantId};

use super::policy::ANY_VIOLATION;
use super::totals::{ALL_COLLECTIONS, Counts};
use crate::Tenant;
use crate::engine::Engine;

/// Counts by the word of a violation.
pub type Figures = BTreeMap<String, Counts>;

/// What was last read of a tenant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The tenant's last commit then.
    as_of: Lsn,
    figures: Arc<Figures>,
}

impl Engine {
    /// The counts of every tenant that has been open, as of now.
    ///
    /// # Errors
    /// What reading them says.
    pub async fn dead_letter_figures(&self) -> Result<Figures, SqlError> {
        for info in self.tenants().into_iter().filter(|tenant| tenant.open) {
            if let Ok(tenant) = self.tenant(info.id).await {
                self.note_dead_letters(&tenant).await?;
            }
        }
        let mut all = Figures::new();
        for known in self.known_dead_letters().lock().values() {
            for (violation, counts) in &*known.figures {
                all.entry(violation.clone()).or_default().add(*counts);
            }
        }
        Ok(all)
    }

    /// Reads a tenant's counts, unless nothing has been committed since the last time.
    pub(crate) async fn note_dead_letters(&self, tenant: &Arc<Tenant>) -> Result<(), SqlError> {
        let as_of = tenant.last_commit();
        let is_known = |known: &Known| known.as_of == as_of;
        if (self.known_dead_letters().lock().get(&tenant.id())).is_some_and(is_known) {
            return Ok(());
        }
        let figures = Arc::new(tenant.dead_letter_figures().await?);
        let known = Known { as_of, figures };
        self.known_dead_letters().lock().insert(tenant.id(), known);
        Ok(())
    }

    pub(crate) fn forget_dead_letters(&self, tenant: TenantId) {
        self.known_dead_letters().lock().remove(&tenant);
    }
}

impl Tenant {
    /// This tenant's counts by violation.
    ///
    /// # Errors
    /// What reading them says.
    pub async fn dead_letter_figures(&self) -> Result<Figures, SqlError> {
        self.on_snapshot(|conn| {
            let mut totals = conn.prepare_cached(
                "SELECT c2, sum(c3), sum(c4), sum(c5), sum(c6), sum(c7) FROM t11 \
                 WHERE c1 <> ?1 AND c2 <> ?2 GROUP BY c2",
            )?;
            let rows = totals.query_map([ALL_COLLECTIONS, ANY_VIOLATION], |row| {
                let counts = Counts {
                    enqueued: row.get(1)?,
                    resolved: row.get(2)?,
                    expired: row.get(3)?,
                    escalated: row.get(4)?,
                    unresolved: row.get(5)?,
                };
                Ok((row.get::<_, String>(0)?, counts))
            })?;
            Ok(rows.collect::<rusqlite::Result<Figures>>()?)
        })
        .await
    }
}
