//! What the server says, taken in one transaction:
//!
//! ```text
//! 1  rows that pending mutations have touched go back to the image
//! 2  the news, in order: rows, verdicts, definitions, shapes
//! 3  what is still pending is applied again, each in a savepoint of its own; what rows were before
//!    is the image
//! ```
//!
//! The server's rows fire no triggers. A pending mutation that cannot be applied any more (its
//! document is gone, a value is taken) has no effect here until its verdict says what becomes of it.

use std::sync::Arc;

use springhead_log::failpoint;
use springhead_proto::sync::{
    CatalogVersion, Delta, DeltaVerb, Generation, Mutation, MutationId, Operation, ProducerId, Seq,
    Shape, ShapeId, SnapshotChunk, SyncValue, Verb, Verdict,
};
use springhead_proto::{CollectionId, Cursor, ErrorCode, Lsn, SqlError};
use springhead_sql::catalog::Table;

use rusqlite::{OptionalExtension, params};

use super::rows::{self, Fault};
use super::store::{self, State, fact};
use crate::apply::set_foreign_keys;
use crate::capture::Noting;
use crate::device::{DeviceTask, DeviceWork, News};
use crate::readers::Failure;
use crate::sync::Author;
use crate::writer::Writer;
use crate::writer::mutate::Unapplied;
use crate::writer::run::NotDone;

impl Writer {
    /// Does a device's work in the open transaction. Whatever is wrong, nothing of it is left.
    pub(in crate::writer) fn device(&mut self, request: &DeviceTask) -> Result<(), NotDone> {
        let before = Arc::clone(&self.catalog);
        let done = match &request.work {
            DeviceWork::Write {
                operations,
                after,
                instead_of,
            } => self.write_local(request, operations, after, *instead_of),
            DeviceWork::Edit {
                collection,
                id,
                column,
                edits,
            } => self.edit_local(
                request,
                (collection.as_str(), id.as_slice(), column.as_str()),
                edits,
            ),
            DeviceWork::News(news) => self.take_news(news, &request.author),
        };
        self.capture.note(Noting::Local);
        self.context.fired.truncate(0);
        match done {
            Ok(()) => Ok(()),
            Err(undone) => {
                self.forget_definitions(&before);
                Err(undone)
            }
        }
    }

    /// Operations of the application's own.
    fn write_local(
        &mut self,
        request: &DeviceTask,
        operations: &[Operation],
        after: &[MutationId],
        instead_of: Option<i64>,
    ) -> Result<(), NotDone> {
        for operation in operations {
            let table = crate::cdc::find_collection(&self.catalog, &operation.collection)?;
            if !crate::device::is_replicated(table.collection()) {
                return Err(NotDone::Failed(
                    SqlError::new(
                        ErrorCode::WrongObjectType,
                        format!("\"{}\" is this device's own", operation.collection),
                    )
                    .with_hint("write to it with SQL"),
                ));
            }
            expect_no_replacement(table, operation)?;
        }
        self.capture.note(Noting::Replay);
        self.apply_operations(operations, &request.author)
            .map_err(into_not_done)?;
        let kept = self
            .keep_images()
            .and_then(|()| self.add_pending(operations.to_vec(), after.to_vec()))
            .and_then(|()| match instead_of {
                Some(id) => self.dismiss(id),
                None => Ok(()),
            });
        kept.map_err(|fault| self.undone(fault))
    }

    /// An edit of a CRDT column of the application's own.
    fn edit_local(
        &mut self,
        request: &DeviceTask,
        (collection, id, column): (&str, &[SyncValue], &str),
        edits: &[springhead_crdt::Edit],
    ) -> Result<(), NotDone> {
        let update = self.crdt_update(collection, id, column, edits)?;
        if springhead_crdt::is_nothing(&update) {
            return Ok(());
        }
        let operation = Operation {
            collection: collection.to_owned(),
            id: id.to_vec(),
            verb: Verb::Crdt(vec![(column.to_owned(), update)]),
        };
        self.write_local(request, &[operation], &[], None)
    }

    /// Applies operations of this device, as any client's: constraints and triggers are in force.
    fn apply_operations(
        &mut self,
        operations: &[Operation],
        author: &Arc<Author>,
    ) -> Result<(), Unapplied> {
        let mutation = Mutation {
            producer: ProducerId(0),
            generation: Generation::FIRST,
            seq: Seq::FIRST,
            base: Cursor {
                lsn: Lsn::ZERO,
                epoch: None,
            },
            // By the names that count now: what the server carries forward it carries itself.
            schema_version: CatalogVersion(0),
            after: Vec::new(),
            hlc: None,
            operations: operations.to_vec(),
        };
        self.apply_mutation(&mutation, author)
    }

    fn take_news(&mut self, news: &[News], author: &Arc<Author>) -> Result<(), NotDone> {
        let moves_rows = news.iter().any(News::moves_rows);
        failpoint::hit("device.before_news");
        self.capture.note(Noting::Nothing);
        let taken = set_foreign_keys(&self.conn, false)
            .map_err(Fault::from)
            .and_then(|()| self.take_rows(news, moves_rows));
        let restored = set_foreign_keys(&self.conn, true).map_err(Fault::from);
        taken.and(restored).map_err(|fault| self.undone(fault))?;
        self.context.fired.truncate(0);
        failpoint::hit("device.before_replay");
        if moves_rows {
            self.replay_pending(author)?;
        }
        failpoint::hit("device.after_news");
        Ok(())
    }

    fn take_rows(&mut self, news: &[News], moves_rows: bool) -> Result<(), Fault> {
        if moves_rows {
            self.back_to_image()?;
        }
        news.iter().try_for_each(|news| self.take(news))
    }

    /// Why the transaction is to be given up.
    pub(in crate::writer) fn undone(&self, fault: Fault) -> NotDone {
        match fault {
            Fault::Sqlite(error) => {
                let damaged = crate::checksum::is_damage(&error);
                let error = self.describe(Failure::Sqlite(error));
                if damaged {
                    NotDone::Damaged(error)
                } else {
                    NotDone::TransactionLost(error)
                }
            }
            Fault::Sql(error) => NotDone::TransactionLost(error),
        }
    }

    /// Every row is the server's again.
    fn back_to_image(&mut self) -> Result<(), Fault> {
        for (collection, key, image) in store::images(&self.conn)? {
            if let Some(table) = self.catalog.table(collection) {
                rows::put_image(&self.conn, table, &key, image.as_deref())?;
            }
        }
        store::forget_images(&self.conn)?;
        Ok(())
    }

    fn take(&mut self, news: &News) -> Result<(), Fault> {
        match news {
            News::Snapshot(chunk) => self.take_chunk(chunk),
            News::Delta(delta) => self.take_delta(delta),
            News::ShapeEnded(ended) => {
                let why = format!("{}: {}", ended.code, ended.message);
                self.empty_shape(ended.shape)?;
                self.conn
                    .prepare_cached("UPDATE t45 SET c3 = 0, c4 = NULL, c6 = ?2 WHERE c1 = ?1")?
                    .execute(params![ended.shape.0, why])?;
                Ok(())
            }
            News::Verdict(id, verdict) => self.take_verdict(id, verdict),
            News::Definitions(definitions) => {
                failpoint::hit("device.before_definitions");
                self.take_definitions(definitions)?;
                failpoint::hit("device.after_definitions");
                Ok(())
            }
            News::Subscribe(shape) => self.subscribe(shape),
            News::Unsubscribe(shape) => {
                self.empty_shape(*shape)?;
                self.conn
                    .prepare_cached("DELETE FROM t45 WHERE c1 = ?1")?
                    .execute([shape.0])?;
                Ok(())
            }
            News::Resync(shapes) => self.mark_incomplete(shapes),
            News::Rekey { from, to } => self.rekey(from, *to),
            News::Producer(producer) => self.new_producer(*producer),
            News::Dismiss(id) => self.dismiss(*id),
            News::Keep(name, value) => {
                store::put_fact(&self.conn, name, value.as_deref())?;
                Ok(())
            }
        }
    }

    fn dismiss(&mut self, id: i64) -> Result<(), Fault> {
        match store::remove_rejection(&self.conn, id)? {
            0 => Err(
                SqlError::new(ErrorCode::NotFound, format!("there is no rejection {id}")).into(),
            ),
            _ => Ok(()),
        }
    }

    fn subscribe(&mut self, shape: &Shape) -> Result<(), Fault> {
        let text = serde_json::to_string(shape).expect("a shape has a JSON form");
        let known: Option<String> = self
            .conn
            .prepare_cached("SELECT c2 FROM t45 WHERE c1 = ?1 AND c6 IS NULL")?
            .query_row([shape.id.0], |row| row.get(0))
            .optional()?;
        if known.as_ref() != Some(&text) {
            self.conn
                .prepare_cached(
                    "INSERT INTO t45 VALUES (?1, ?2, 0, NULL, 0, NULL) ON CONFLICT (c1) DO UPDATE \
                     SET c2 = excluded.c2, c3 = 0, c4 = NULL, c6 = NULL",
                )?
                .execute(params![shape.id.0, text])?;
        }
        Ok(())
    }

    /// Snapshots of these shapes (of all, if none is named) come anew.
    pub(super) fn mark_incomplete(&mut self, shapes: &[ShapeId]) -> Result<(), Fault> {
        if shapes.is_empty() {
            self.conn
                .prepare_cached("UPDATE t45 SET c3 = 0, c4 = NULL WHERE c6 IS NULL")?
                .execute([])?;
        }
        for shape in shapes {
            self.conn
                .prepare_cached("UPDATE t45 SET c3 = 0, c4 = NULL WHERE c1 = ?1")?
                .execute([shape.0])?;
        }
        Ok(())
    }

    fn table_of(&self, shape: ShapeId) -> Result<Option<Arc<Table>>, Fault> {
        let text: Option<String> = self
            .conn
            .prepare_cached("SELECT c2 FROM t45 WHERE c1 = ?1")?
            .query_row([shape.0], |row| row.get(0))
            .optional()?;
        // A frame may still be on its way when the application has unsubscribed.
        let Some(shape) = text.and_then(|text| serde_json::from_str::<Shape>(&text).ok()) else {
            return Ok(None);
        };
        Ok(
            crate::cdc::find_collection(&self.catalog, &shape.collection)
                .ok()
                .cloned(),
        )
    }

    fn take_chunk(&mut self, chunk: &SnapshotChunk) -> Result<(), Fault> {
        let Some(table) = self.table_of(chunk.shape)? else {
            return Ok(());
        };
        if chunk.first {
            self.conn
                .prepare_cached("UPDATE t45 SET c5 = c5 + 1 WHERE c1 = ?1")?
                .execute([chunk.shape.0])?;
        }
        let round: i64 = self
            .conn
            .prepare_cached("SELECT c5 FROM t45 WHERE c1 = ?1")?
            .query_row([chunk.shape.0], |row| row.get(0))?;
        let key_length = usize::try_from(chunk.key).unwrap_or(usize::MAX);
        let mut newcomers = rows::Newcomers::of(&self.conn, &table, &chunk.columns, key_length)?;
        for row in &chunk.rows {
            if row.len() != chunk.columns.len() || key_length > row.len() {
                return Err(malformed(
                    "a row of a snapshot has another number of values",
                ));
            }
            let key = rows::key_of_id(&table, &row[..key_length])?;
            if !newcomers.put(&key, row)? {
                let columns = chunk.columns.iter().cloned().zip(row.iter().cloned());
                let columns = columns.skip(key_length).collect();
                rows::put_columns(&self.conn, &table, &key, &columns, false)?;
            }
            self.hold(&table, &key, chunk.shape, round)?;
        }
        drop(newcomers);
        match &chunk.done {
            None => {
                self.conn
                    .prepare_cached("UPDATE t45 SET c4 = ?2 WHERE c1 = ?1")?
                    .execute(params![chunk.shape.0, chunk.resume])?;
            }
            Some(done) => {
                self.release_older(&table, chunk.shape, round)?;
                self.conn
                    .prepare_cached("UPDATE t45 SET c3 = 1, c4 = NULL WHERE c1 = ?1")?
                    .execute([chunk.shape.0])?;
                for id in &done.decided {
                    store::include_up_to(&self.conn, id)?;
                }
                self.move_cursor_to(done.cursor)?;
            }
        }
        Ok(())
    }

    /// A shape holds a document.
    fn hold(&self, table: &Table, key: &[u8], shape: ShapeId, round: i64) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO t44 VALUES (?1, ?2, ?3, ?4) ON CONFLICT (c1, c2, c3) DO UPDATE \
                 SET c4 = excluded.c4 WHERE c4 <> excluded.c4",
            )?
            .execute(params![table.id, key, shape.0, round])?;
        Ok(())
    }

    fn holds(&self, table: &Table, key: &[u8], shape: ShapeId) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached("SELECT 1 FROM t44 WHERE c1 = ?1 AND c2 = ?2 AND c3 = ?3")?
            .exists(params![table.id, key, shape.0])
    }

    /// A shape lets go of a document; without any it leaves the device.
    fn release(&self, table: &Table, key: &[u8], shape: ShapeId) -> Result<(), Fault> {
        self.conn
            .prepare_cached("DELETE FROM t44 WHERE c1 = ?1 AND c2 = ?2 AND c3 = ?3")?
            .execute(params![table.id, key, shape.0])?;
        let is_held = self
            .conn
            .prepare_cached("SELECT 1 FROM t44 WHERE c1 = ?1 AND c2 = ?2")?
            .exists(params![table.id, key])?;
        if !is_held {
            rows::put_image(&self.conn, table, key, None)?;
        }
        Ok(())
    }

    /// What a shape held before its present snapshot and the snapshot did not have.
    fn release_older(&self, table: &Table, shape: ShapeId, round: i64) -> Result<(), Fault> {
        let gone: Vec<Vec<u8>> = {
            let mut statement = self
                .conn
                .prepare_cached("SELECT c2 FROM t44 WHERE c1 = ?1 AND c3 = ?2 AND c4 < ?3")?;
            let rows = statement.query_map(params![table.id, shape.0, round], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        gone.iter()
            .try_for_each(|key| self.release(table, key, shape))
    }

    fn empty_shape(&mut self, shape: ShapeId) -> Result<(), Fault> {
        match self.table_of(shape)? {
            Some(table) => self.release_older(&table, shape, i64::MAX),
            None => Ok(()),
        }
    }

    fn take_delta(&mut self, delta: &Delta) -> Result<(), Fault> {
        for change in &delta.changes {
            for &shape in &change.shapes {
                let Some(table) = self.table_of(shape)? else {
                    continue;
                };
                if change.verb == DeltaVerb::Clear {
                    self.empty_shape(shape)?;
                    continue;
                }
                let key = rows::key_of_id(&table, &change.id)?;
                match &change.verb {
                    DeltaVerb::Put(columns) => {
                        rows::put_columns(&self.conn, &table, &key, columns, false)?;
                        let round = self.round(shape)?;
                        self.hold(&table, &key, shape, round)?;
                    }
                    DeltaVerb::Set(columns) => {
                        if self.holds(&table, &key, shape)?
                            && !rows::put_columns(&self.conn, &table, &key, columns, true)?
                        {
                            // It is held and not there: only a snapshot can say what it is.
                            self.mark_incomplete(&[shape])?;
                        }
                    }
                    DeltaVerb::Delete | DeltaVerb::Leave => self.release(&table, &key, shape)?,
                    DeltaVerb::Clear => {}
                }
            }
        }
        if let Some(own) = &delta.own {
            store::include(&self.conn, own)?;
        }
        self.move_cursor_to(delta.cursor)
    }

    fn round(&self, shape: ShapeId) -> rusqlite::Result<i64> {
        self.conn
            .prepare_cached("SELECT c5 FROM t45 WHERE c1 = ?1")?
            .query_row([shape.0], |row| row.get(0))
    }

    /// The image has everything up to `cursor`. It never goes back within one history.
    fn move_cursor_to(&mut self, cursor: Cursor) -> Result<(), Fault> {
        let now = store::cursor(&self.conn)?;
        if now.is_none_or(|now| now.epoch != cursor.epoch || now.lsn < cursor.lsn) {
            store::put_fact(&self.conn, fact::CURSOR, Some(&cursor.to_string()))?;
        }
        store::remove_applied(&self.conn, cursor.lsn)?;
        Ok(())
    }

    fn take_verdict(&mut self, id: &MutationId, verdict: &Verdict) -> Result<(), Fault> {
        // Of one that has come to its end nothing is left to be said.
        let Some((row, state)) = store::find_pending(&self.conn, id)? else {
            return Ok(());
        };
        match verdict {
            Verdict::Applied { lsn } | Verdict::Duplicate { lsn } => {
                let image = store::cursor(&self.conn)?.map_or(Lsn::ZERO, |cursor| cursor.lsn);
                if state == "included" || *lsn <= image {
                    store::remove_pending(&self.conn, row)?;
                } else {
                    store::set_state(&self.conn, row, State::Applied(*lsn))?;
                }
            }
            Verdict::Rejected(rejection) => {
                let body = store::body_of(&self.conn, row)?;
                let now_us = self.device_now_us();
                store::add_rejection(&self.conn, id, &body, rejection, now_us)?;
                store::remove_pending(&self.conn, row)?;
                // Its edits are taken back, and their numbers are not used again.
                self.renew_crdt_client();
            }
            Verdict::Retry { .. } | Verdict::Gap { .. } | Verdict::Fenced => {}
        }
        Ok(())
    }

    /// Gives a mutation and all later ones of its producer the names of another.
    fn rekey(&mut self, from: &MutationId, to: ProducerId) -> Result<(), Fault> {
        let mut renamed = std::collections::HashMap::new();
        let mut seq = Seq::ZERO;
        for pending in store::pending(&self.conn)? {
            let mut mutation = pending.mutation;
            let old = mutation.id();
            let is_later = (old.producer, old.generation) == (from.producer, from.generation)
                && old.seq >= from.seq;
            // What depends on one that has another name now, depends on it under that.
            let mut changed = false;
            for after in &mut mutation.after {
                if let Some(new) = renamed.get(after) {
                    *after = *new;
                    changed = true;
                }
            }
            if is_later {
                seq = seq.next();
                mutation.producer = to;
                mutation.seq = seq;
                mutation.generation = Generation::FIRST;
                renamed.insert(old, mutation.id());
            }
            if is_later || changed {
                store::rename_pending(&self.conn, pending.id, &mutation)?;
            }
        }
        store::put_fact(&self.conn, fact::PRODUCER, Some(&to.to_string()))?;
        store::put_fact(&self.conn, fact::GENERATION, Some("1"))?;
        let next = seq.next().to_string();
        store::put_fact(&self.conn, fact::NEXT_SEQ, Some(&next))?;
        Ok(())
    }

    fn new_producer(&mut self, producer: ProducerId) -> Result<(), Fault> {
        store::put_fact(&self.conn, fact::PRODUCER, Some(&producer.to_string()))?;
        store::put_fact(&self.conn, fact::GENERATION, Some("1"))?;
        store::put_fact(&self.conn, fact::NEXT_SEQ, Some("1"))?;
        Ok(())
    }

    /// Applies what is pending on top of the image.
    fn replay_pending(&mut self, author: &Arc<Author>) -> Result<(), NotDone> {
        let pending = store::pending(&self.conn).map_err(|error| self.undone(error.into()))?;
        for pending in pending {
            if pending.state == State::Included {
                continue;
            }
            self.capture.note(Noting::Replay);
            let applied = self.apply_operations(&pending.mutation.operations, author);
            let note = match applied {
                Ok(()) => None,
                Err(Unapplied::Objected(objection)) => Some(objection.violation.to_string()),
                Err(Unapplied::NotDone(NotDone::Failed(error))) => Some(error.message.clone()),
                Err(Unapplied::NotDone(worse)) => return Err(worse),
            };
            if note.is_some() {
                // Its edits may yet come to be, under numbers that are free here now.
                self.renew_crdt_client();
            }
            let kept = self.keep_images();
            self.capture.note(Noting::Nothing);
            kept.and_then(|()| Ok(store::set_note(&self.conn, pending.id, note.as_deref())?))
                .map_err(|fault| self.undone(fault))?;
        }
        Ok(())
    }
}

/// A replacement of a CRDT column is an edit, which later edits rest on: it is made by UPDATE.
///
/// # Errors
/// 0A000 for an operation that sets one.
fn expect_no_replacement(table: &Table, operation: &Operation) -> Result<(), SqlError> {
    let Verb::Set(columns) = &operation.verb else {
        return Ok(());
    };
    match table
        .crdt_columns()
        .find(|merging| columns.get(&merging.column.name).is_some())
    {
        None => Ok(()),
        Some(merging) => Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!(
                "\"{}\" merges, and is not set by an operation",
                merging.column.name
            ),
        )
        .with_hint("edit it, or UPDATE it with SQL")),
    }
}

fn malformed(what: &str) -> Fault {
    Fault::Sql(SqlError::new(ErrorCode::InvalidParameterValue, what))
}

fn into_not_done(unapplied: Unapplied) -> NotDone {
    match unapplied {
        Unapplied::NotDone(not_done) => not_done,
        Unapplied::Objected(objection) => NotDone::Failed(objection.error),
    }
}

/// For [`super::define`].
pub(super) fn shapes_of(
    conn: &rusqlite::Connection,
    collections: &[CollectionId],
    catalog: &springhead_sql::catalog::Catalog,
) -> rusqlite::Result<Vec<ShapeId>> {
    let mut statement = conn.prepare_cached("SELECT c2 FROM t45")?;
    let texts = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut shapes = Vec::new();
    for text in texts {
        let Ok(shape) = serde_json::from_str::<Shape>(&text?) else {
            continue;
        };
        let table = crate::cdc::find_collection(catalog, &shape.collection).ok();
        if table.is_some_and(|table| collections.contains(&table.collection())) {
            shapes.push(shape.id);
        }
    }
    Ok(shapes)
}
