//! Where a tenant's dead letters are worked on: the writer's connection, inside its open transaction.

use rusqlite::{Connection, params};
use springhead_proto::TenantId;
use springhead_sql::catalog::Catalog;

use super::entry::{Attempt, Entry};
use super::policy::after;
use super::totals::{self, Counts, Ended};
use super::{ESCALATIONS_CHANNEL, UNKNOWN_COLLECTION};
use crate::EngineConfig;
use crate::cdc::find_collection;
use crate::functions::Context;
use crate::notify::Message;
use crate::readers::Failure;

/// What working on dead letters needs. Whoever makes one has the transaction open and takes the
/// outbox's messages into the commit afterwards.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    pub tenant: TenantId,
    pub config: &'a EngineConfig,
    pub conn: &'a Connection,
    pub context: &'a Context,
    pub catalog: &'a Catalog,
    /// Microseconds since 1970.
    pub now_us: i64,
}

impl Desk<'_> {
    /// The queue that a mutation of the collection called so belongs to.
    pub(crate) fn queue<'n>(&self, collection: &'n str) -> &'n str {
        match find_collection(self.catalog, collection) {
            Ok(_) => collection,
            Err(_) => UNKNOWN_COLLECTION,
        }
    }

    /// The number of the next entry.
    pub(crate) fn next_id(&self) -> rusqlite::Result<i64> {
        Ok(Counts::of_tenant(self.conn)?.enqueued + 1)
    }

    /// The oldest unresolved entry of a queue.
    pub(crate) fn oldest(&self, queue: &str) -> Result<Option<Entry>, Failure> {
        let id = self
            .conn
            .prepare_cached("SELECT c1 FROM t8 WHERE c5 = ?1 AND c15 = 0 ORDER BY c1 LIMIT 1")?
            .query_row([queue], |row| row.get::<_, i64>(0));
        match id {
            Ok(id) => Entry::find(self.conn, id),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an unresolved entry out of its queue: it becomes an event of `springhead.escalations`,
    /// whole, and whoever listens is told.
    pub(crate) fn escalate(
        &self,
        entry: &Entry,
        reason: &str,
        detail: Option<&str>,
    ) -> Result<(), Failure> {
        debug_assert!(!entry.resolved, "a resolved entry has nowhere to go");
        let id = Counts::of_tenant(self.conn)?.escalated + 1;
        self.conn
            .prepare_cached("INSERT INTO t10 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
            .execute(params![
                id,
                entry.id,
                reason,
                entry.collection,
                entry.document_id,
                entry.username,
                entry.violation_type,
                detail,
                self.now_us,
                entry.to_json().to_string(),
            ])?;
        entry.delete(self.conn)?;
        totals::ended(
            self.conn,
            &entry.collection,
            &entry.violation_type,
            Ended::Escalated,
        )?;
        let payload = serde_json::json!({
            "id": id,
            "dead_letter_id": entry.id,
            "reason": reason,
            "collection": entry.collection,
            "violation_type": entry.violation_type,
        });
        self.context.outbox.put(Message {
            channel: ESCALATIONS_CHANNEL.to_owned(),
            payload: payload.to_string(),
            process_id: 0,
        });
        Ok(())
    }

    /// Its time is over and nothing of it is kept.
    pub(crate) fn drop_expired(&self, entry: &Entry) -> Result<(), Failure> {
        entry.delete(self.conn)?;
        totals::ended(
            self.conn,
            &entry.collection,
            &entry.violation_type,
            Ended::Expired,
        )?;
        Ok(())
    }

    /// Marks an unresolved entry as done with; it is kept until its retention ends.
    pub(crate) fn resolve(
        &self,
        entry: &mut Entry,
        by: &str,
        how: Ended,
        attempt: Attempt,
    ) -> Result<(), Failure> {
        debug_assert!(!entry.resolved, "an entry is resolved once");
        entry.resolved = true;
        entry.resolved_by = Some(by.to_owned());
        entry.resolved_at_us = Some(self.now_us);
        entry.expires_at_us = after(self.now_us, self.config.dead_letter_retention);
        entry.note(attempt);
        entry.update(self.conn)?;
        totals::ended(self.conn, &entry.collection, &entry.violation_type, how)?;
        Ok(())
    }
}
