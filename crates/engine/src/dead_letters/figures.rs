//! What is known of every tenant's dead letters: their counts, for operators (by violation, never by
//! tenant or collection), and when the next one is due, for the sweep.
//!
//! A tenant's own counts are in its `springhead.dead_letter_totals`. Here is the last that was read of
//! each, read again when the tenant has committed something since and when it is closed: so a closed
//! tenant still counts and need not be opened before something is due in it. Of one that has not been
//! open since the node began nothing is known until the sweep has looked at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use springhead_proto::{Lsn, SqlError};

use super::policy::{ANY_VIOLATION, after};
use super::totals::{ALL_COLLECTIONS, Counts};
use crate::engine::Engine;
use crate::readers::{Failure, translate_plain};
use crate::{EngineConfig, Tenant};

/// Counts by the word of a violation.
pub type Figures = BTreeMap<String, Counts>;

/// When something is due in a tenant that has nothing.
const NEVER: i64 = i64::MAX;

/// What was last read of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The tenant's last commit then.
    as_of: Lsn,
    figures: Arc<Figures>,
    /// When there is something to do, in microseconds since 1970.
    pub(super) due_us: i64,
}

impl Engine {
    /// The counts of every tenant that has been open, as of now.
    ///
    /// # Errors
    /// What reading them says.
    pub async fn dead_letter_figures(&self) -> Result<Figures, SqlError> {
        for tenant in self.open_tenants() {
            self.know_dead_letters(&tenant).await?;
        }
        let mut all = Figures::new();
        for known in self.known_dead_letters().lock().values() {
            for (violation, counts) in &*known.figures {
                all.entry(violation.clone()).or_default().add(*counts);
            }
        }
        Ok(all)
    }

    /// What is known of an open tenant, read again if it has committed something since.
    pub(super) async fn know_dead_letters(&self, tenant: &Arc<Tenant>) -> Result<Known, SqlError> {
        let as_of = tenant.last_commit();
        let known = self.known_dead_letters().lock().get(&tenant.id()).cloned();
        if let Some(known) = known.filter(|known| known.as_of == as_of) {
            return Ok(known);
        }
        let config = Arc::clone(&tenant.shared.config);
        let known = tenant
            .on_snapshot(move |conn| look(conn, &config, as_of))
            .await?;
        let all = self.known_dead_letters();
        all.lock().insert(tenant.id(), known.clone());
        Ok(known)
    }

    /// A tenant is about to be closed: what is known of it is to be all there is. Blocks.
    pub(crate) fn remember_dead_letters(&self, tenant: &Tenant) {
        let as_of = tenant.last_commit();
        let read = || {
            let snapshot = tenant.snapshots().snapshot()?;
            look(snapshot.connection(), &tenant.shared.config, as_of).map_err(|failure| {
                match failure {
                    Failure::Sql(error) => error,
                    Failure::Sqlite(error) => translate_plain(&error),
                }
            })
        };
        let read = read();
        let mut all = self.known_dead_letters().lock();
        match read {
            Ok(known) => all.insert(tenant.id(), known),
            // It is opened by the next sweep, which says what is wrong.
            Err(_) => all.remove(&tenant.id()),
        };
    }
}

impl Tenant {
    /// This tenant's counts by violation.
    ///
    /// # Errors
    /// What reading them says.
    pub async fn dead_letter_figures(&self) -> Result<Figures, SqlError> {
        self.on_snapshot(|conn| Ok(figures(conn)?)).await
    }
}

fn look(conn: &Connection, config: &EngineConfig, as_of: Lsn) -> Result<Known, Failure> {
    let first = |sql: &str| {
        conn.prepare_cached(sql)?
            .query_row([], |row| row.get::<_, i64>(0))
            .optional()
    };
    let entry = first("SELECT c22 FROM t8 ORDER BY c22 LIMIT 1")?;
    // Numbered as they come, so that the first is the oldest.
    let escalation = first("SELECT c9 FROM t10 ORDER BY c1 LIMIT 1")?;
    let forgotten = escalation.map(|at| after(at, config.dead_letter_retention).saturating_add(1));
    // One that nobody drives goes on at once.
    let redrive = super::redrive::is_any(conn)?.then_some(0);
    let due = entry.into_iter().chain(forgotten).chain(redrive);
    Ok(Known {
        as_of,
        figures: Arc::new(figures(conn)?),
        due_us: due.min().unwrap_or(NEVER),
    })
}

fn figures(conn: &Connection) -> rusqlite::Result<Figures> {
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
    rows.collect()
}
