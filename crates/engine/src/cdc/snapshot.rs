//! The rows that are there now, as READ events, and the LSN that they are of (G4): changes after it
//! follow without gap or repeat.

use std::collections::VecDeque;
use std::sync::Arc;

use springhead_log::Log;
use springhead_proto::{CollectionId, Epoch, Lsn, SqlError, TimestampMs};
use springhead_sql::catalog::{Column, Table};

use super::event::{Image, Place, write_cursor};
use super::json;
use super::plan::{FeedPlan, Verdict, Version};
use super::render::Renderer;
use super::spec::Operation;
use crate::{Rows, Tenant};

/// Rows read and not yet handed out. No SQLite snapshot is held: they are in memory or in a
/// temporary file.
pub(crate) struct Snapshot {
    tables: VecDeque<(Arc<Version>, Rows)>,
    place: Place,
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
fn query(table: &Table, plan: &FeedPlan) -> String {
    let columns: Vec<String> = table.columns.iter().map(Column::storage_name).collect();
    let key: Vec<String> = table.key_columns().map(Column::storage_name).collect();
    let condition = plan
        .stored_condition()
        .map(|condition| format!(" WHERE {condition}"))
        .unwrap_or_default();
    format!(
        "SELECT {} FROM {}{condition} ORDER BY {}",
        columns.join(", "),
        table.storage_name(),
        key.join(", ")
    )
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
        timestamp_ms: TimestampMs,
    ) -> Result<Snapshot, SqlError> {
        let tables = tables_of(tenant, plan);
        let queries = tables
            .iter()
            .map(|table| (query(table, plan), Vec::new()))
            .collect();
        let (results, lsn) = tenant.read_snapshots(queries).await?;
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
        let Some((version, rows)) = self.tables.front_mut() else {
            return Ok(false);
        };
        let Some(chunk) = rows.next_chunk()? else {
            self.tables.pop_front();
            return Ok(true);
        };
        for row in chunk.rows() {
            out.extend_from_slice(b"event: snapshot\ndata: ");
            let verdict = Verdict {
                version: Some(Arc::clone(version)),
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
