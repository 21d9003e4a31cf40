//! The rows that are there now, as READ events, and the LSN that they are of (G4): changes after it
//! follow without gap or repeat.

use std::collections::VecDeque;
use std::sync::Arc;

use springhead_log::Log;
use springhead_proto::{CollectionId, Epoch, ErrorCode, Lsn, SqlError, TimestampMs};
use springhead_sql::catalog::{Column, Table};

use super::event::{Image, Place, write_cursor};
use super::json;
use super::plan::{FeedPlan, Verdict};
use super::render::Renderer;
use super::spec::Operation;
use super::version::Version;
use crate::functions::SessionContext;
use crate::{Rows, Tenant};
use springhead_sql::filter::POLICY_ALIAS;

/// Rows read and not yet handed out. No SQLite snapshot is held: they are in memory or in a
/// temporary file.
pub(crate) struct Snapshot {
    tables: VecDeque<(Arc<Version>, Rows)>,
    place: Place,
    /// The plan that chose the rows.
    plan_id: u64,
}

/// The tables that a feed is about, in the order of their ids.
pub(crate) fn tables_of(tenant: &Tenant, plan: &FeedPlan) -> Vec<Arc<Table>> {
    match plan.table() {
        Some(table) => vec![Arc::clone(table)],
        None => tenant
            .catalog()
            .tables_by_id()
            .into_iter()
            .filter(|table| {
                !table.collection().is_system() && table.collection() != CollectionId::NONE
            })
            .cloned()
            .collect(),
    }
}

/// The storage query for the rows of a table that the plan shows, by key.
fn query(table: &Table, plan: &FeedPlan) -> Result<String, SqlError> {
    let columns: Vec<String> = table.columns.iter().map(Column::storage_name).collect();
    let key: Vec<String> = table.key_columns().map(Column::storage_name).collect();
    let condition = match (plan.stored_policy(table)?, plan.stored_condition()) {
        (None, None) => String::new(),
        (None, Some(condition)) => format!(" WHERE {condition}"),
        (Some(policy), None) => format!(" WHERE {policy}"),
        // The filter is not tried on rows that policies hide.
        (Some(policy), Some(condition)) => {
            format!(" WHERE CASE WHEN {policy} THEN {condition} ELSE 0 END")
        }
    };
    Ok(format!(
        "SELECT {} FROM {} AS {POLICY_ALIAS}{condition} ORDER BY {}",
        columns.join(", "),
        table.storage_name(),
        key.join(", ")
    ))
}

impl Snapshot {
    /// Reads the rows of all tables that the plan is about, at one LSN.
    ///
    /// # Errors
    /// What reading says (72000, 54000, 53100, …).
    pub(crate) async fn read(
        tenant: &Tenant,
        log: &dyn Log,
        plan: &FeedPlan,
        session: Arc<SessionContext>,
        timestamp_ms: TimestampMs,
    ) -> Result<Snapshot, SqlError> {
        let mut tables = tables_of(tenant, plan);
        let mut queries = Vec::with_capacity(tables.len());
        let mut refused = None;
        tables.retain(|table| match query(table, plan) {
            Ok(query) => {
                queries.push((query, Vec::new()));
                true
            }
            Err(error) => {
                // A feed of everything leaves out what may not be read.
                if plan.table().is_some() || error.code != ErrorCode::InsufficientPrivilege {
                    refused = Some(error);
                }
                false
            }
        });
        if let Some(error) = refused {
            return Err(error);
        }
        let (results, lsn) = tenant.read_snapshots(session, queries).await?;
        // Rows that standbys have not confirmed yet are shown by no feed.
        tenant.wait_visible(lsn).await?;
        let mut read = VecDeque::with_capacity(tables.len());
        for (table, rows) in tables.iter().zip(results) {
            read.push_back((
                plan.version(tenant, table.collection(), table.version())?,
                rows,
            ));
        }
        let tail = log.tail();
        let place = Place {
            epoch: tail.epoch,
            timestamp_ms: timestamp_ms.max(tail.timestamp_ms),
            tenant: tenant.id(),
            tx_lsn: lsn,
            tx_index: 0,
            tx_count: 0,
        };
        Ok(Snapshot {
            tables: read,
            place,
            plan_id: plan.id,
        })
    }

    /// Everything up to it is in the rows.
    pub(crate) fn lsn(&self) -> Lsn {
        self.place.tx_lsn
    }

    /// Appends frames for some more rows. Returns false after the last.
    ///
    /// # Errors
    /// What the temporary file says.
    pub(crate) fn render(
        &mut self,
        renderer: &Renderer<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, SqlError> {
        let Some((chosen, rows)) = self.tables.front_mut() else {
            return Ok(false);
        };
        // Definitions or rights have changed since the rows were read: those in force now decide.
        let again = renderer.plan.id != self.plan_id;
        let version = if again {
            let table = &chosen.form.table;
            renderer
                .plan
                .version(renderer.tables, table.collection(), table.version())?
        } else {
            Arc::clone(chosen)
        };
        let lease = if again { renderer.lease()? } else { None };
        let Some(chunk) = rows.next_chunk()? else {
            self.tables.pop_front();
            return Ok(true);
        };
        for row in chunk.rows() {
            let row_version = version.form.table.version();
            if again && (version.hidden() || !version.shows(row, row_version, lease.as_ref())?) {
                continue;
            }
            out.extend_from_slice(b"event: snapshot\ndata: ");
            let verdict = Verdict {
                version: Some(Arc::clone(&version)),
                operation: Operation::Read,
                collection: None,
                before: Image::None,
                after: Image::Row(row),
                schema_version: version.form.table.version(),
            };
            verdict
                .event()
                .write(out, renderer.plan.spec.envelope, &self.place);
            out.extend_from_slice(b"\n\n");
        }
        Ok(true)
    }
}

/// Appends a frame that carries nothing but a position: `ready` with its LSN, or `progress`.
pub(crate) fn write_position(
    out: &mut Vec<u8>,
    event: &str,
    lsn: Lsn,
    epoch: Epoch,
    with_lsn: bool,
) {
    out.extend_from_slice(b"id: ");
    write_cursor(out, lsn, epoch);
    out.extend_from_slice(b"\nevent: ");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\ndata: {\"cursor\":\"");
    write_cursor(out, lsn, epoch);
    out.push(b'"');
    if with_lsn {
        out.extend_from_slice(b",\"lsn\":");
        json::number(out, lsn.0);
    }
    out.extend_from_slice(b"}\n\n");
}
