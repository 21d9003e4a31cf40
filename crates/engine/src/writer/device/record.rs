//! What a local transaction did, as the mutation that says so.
//!
//! Only what its statements did themselves becomes operations: what triggers and cascades did, the
//! server's own do again. Everything that changed a replicated row, triggers included, is noted in
//! the image first, so that it can be taken back.

use springhead_proto::sync::{
    CatalogVersion, ColumnValues, Hlc, Mutation, MutationId, Operation, Seq, SyncValue, Verb,
};
use springhead_proto::{
    ChangeKind, ChangeRef, Cursor, ErrorCode, Lsn, RowRef, SqlError, Value, ValueRef,
};
use springhead_sql::catalog::Table;

use super::rows::{Fault, key_of_row};
use super::store::{self, fact};
use crate::sync::value::from_storage;
use crate::writer::Writer;

/// Operations of one mutation, at most; what does more has to be split.
const MAX_OPERATIONS: usize = 10_000;

impl Writer {
    /// Before a commit: what its statements did to replicated rows becomes a pending mutation. On a
    /// tenant that is no device nothing is ever noted.
    pub(in crate::writer) fn record_local(&mut self) -> Result<(), Fault> {
        let noted = self.capture.take_noted();
        if noted.is_empty() {
            return Ok(());
        }
        springhead_log::failpoint::hit("device.before_queue");
        let operations = self.take_notes(&noted)?;
        if operations.is_empty() {
            return Ok(());
        }
        self.add_pending(operations, Vec::new())
    }

    /// Puts what rows were into the image; the operations that say what the statements did.
    fn take_notes(&mut self, noted: &[u8]) -> Result<Vec<Operation>, Fault> {
        let mut operations = Vec::new();
        let mut rest = noted;
        while let Some((&direct, after)) = rest.split_first() {
            rest = after;
            let change = ChangeRef::read(&mut rest).map_err(|error| {
                SqlError::new(ErrorCode::Internal, format!("a noted change: {error}"))
            })?;
            let Some(table) = self.catalog.table(change.collection) else {
                continue;
            };
            if let Some(row) = change.before.or(change.after) {
                let key = key_of_row(table, row);
                let before = change.before.map(encode);
                store::keep_image(&self.conn, change.collection, &key, before.as_deref())?;
            }
            if direct != 0 {
                operations.extend(operations_of(table, &change)?);
            }
        }
        Ok(operations)
    }

    /// Replayed mutations have touched rows: what they were is in the image from now on.
    pub(super) fn keep_images(&mut self) -> Result<(), Fault> {
        let noted = self.capture.take_noted();
        self.take_notes(&noted).map(|_| ())
    }

    /// Queues a mutation of `operations`.
    pub(super) fn add_pending(
        &mut self,
        operations: Vec<Operation>,
        after: Vec<MutationId>,
    ) -> Result<(), Fault> {
        if operations.len() > MAX_OPERATIONS {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                format!(
                    "the transaction changes {} documents, and a mutation has at most {MAX_OPERATIONS} operations",
                    operations.len()
                ),
            )
            .with_hint("change fewer in one transaction")
            .into());
        }
        let name = store::next_name(&self.conn)?.ok_or_else(not_a_device)?;
        let clock = self.tick()?;
        let mutation = Mutation {
            producer: name.producer,
            generation: name.generation,
            seq: name.seq,
            base: store::cursor(&self.conn)?.unwrap_or(NOTHING),
            schema_version: self.catalog_version()?,
            after,
            hlc: Some(clock),
            operations,
        };
        store::add_pending(&self.conn, &mutation, self.device_now_us())?;
        let next = Seq(name.seq.0 + 1).to_string();
        store::put_fact(&self.conn, fact::NEXT_SEQ, Some(&next))?;
        Ok(())
    }

    pub(super) fn catalog_version(&self) -> rusqlite::Result<CatalogVersion> {
        let text = store::fact(&self.conn, fact::CATALOG_VERSION)?;
        Ok(CatalogVersion(
            text.and_then(|text| text.parse().ok()).unwrap_or(0),
        ))
    }

    fn tick(&self) -> rusqlite::Result<Hlc> {
        let last = store::fact(&self.conn, fact::CLOCK)?
            .and_then(|text| text.parse().ok())
            .map_or(Hlc::default(), Hlc);
        let now_ms = u64::try_from(self.device_now_us() / 1000).unwrap_or(0);
        let clock = Hlc::tick(last, now_ms);
        store::put_fact(&self.conn, fact::CLOCK, Some(&clock.0.to_string()))?;
        Ok(clock)
    }

    pub(super) fn device_now_us(&self) -> i64 {
        self.context.now_us()
    }
}

const NOTHING: Cursor = Cursor {
    lsn: Lsn::ZERO,
    epoch: None,
};

fn not_a_device() -> SqlError {
    SqlError::new(
        ErrorCode::Internal,
        "a replicated table, and the tenant is no device",
    )
}

fn encode(row: RowRef<'_>) -> Vec<u8> {
    let values: Vec<ValueRef<'_>> = row.values().collect();
    springhead_proto::Row::from_values(values.into_iter())
        .bytes()
        .to_vec()
}

/// What a statement did to one row; nothing if it changed nothing that others see. Edits of CRDT
/// columns are an operation of their own.
fn operations_of(table: &Table, change: &ChangeRef<'_>) -> Result<Vec<Operation>, SqlError> {
    let mut verbs = Vec::new();
    match (change.kind, change.before, change.after) {
        (ChangeKind::Insert, _, Some(after)) => verbs.push(Verb::Insert(inserted(table, after))),
        (ChangeKind::Update, Some(before), Some(after)) => {
            let updates = edited(table, before, after)?;
            let mut set = changed(table, before, after);
            let is_edited = |name: &str| updates.iter().any(|(edited, _)| edited == name);
            set.0.retain(|(name, _)| !is_edited(name));
            if !set.0.is_empty() {
                verbs.push(Verb::Set(set));
            }
            if !updates.is_empty() {
                verbs.push(Verb::Crdt(updates));
            }
        }
        (ChangeKind::Delete, ..) => verbs.push(Verb::Delete),
        _ => {}
    }
    let Some(row) = change.before.or(change.after) else {
        return Ok(Vec::new());
    };
    let id: Vec<SyncValue> = (table.key.iter())
        .map(|&place| {
            let value = row.get(place).unwrap_or(ValueRef::Null);
            from_storage(&table.columns[place].pg_type, value)
        })
        .collect();
    let operation = |verb| Operation {
        collection: crate::cdc::collection_name(&table.name),
        id: id.clone(),
        verb,
    };
    Ok(verbs.into_iter().map(operation).collect())
}

/// The updates that say how CRDT columns have been edited. One that is NULL now has not been edited,
/// but set.
fn edited(
    table: &Table,
    before: RowRef<'_>,
    after: RowRef<'_>,
) -> Result<Vec<(String, Vec<u8>)>, SqlError> {
    let mut updates = Vec::new();
    for column in table.crdt_columns() {
        let value = |row: RowRef<'_>, place: usize| row.get(place).map(|value| value.to_owned());
        let now = value(after, column.state_place);
        let Some(Value::Blob(now)) =
            now.filter(|now| Some(now) != value(before, column.state_place).as_ref())
        else {
            continue;
        };
        let was = value(before, column.state_place);
        let shown = before.get(column.place).unwrap_or(ValueRef::Null);
        let shown = crate::crdt::content_of(&column, shown)?;
        let was = was
            .as_ref()
            .and_then(|was| crate::crdt::state_of(was.as_ref()));
        let kind = crate::crdt::kind_of(column.kind);
        let update = springhead_crdt::update_between(kind, (was, shown.as_ref()), &now)
            .map_err(|error| crate::crdt::sql_error(&error, &column.column.name))?;
        updates.push((column.column.name.clone(), update));
    }
    Ok(updates)
}

/// The columns that others see and that are not computed, but for the key's.
fn written(table: &Table) -> impl Iterator<Item = (usize, &springhead_sql::catalog::Column)> {
    table
        .visible_columns()
        .filter(|(place, column)| column.generated.is_none() && !table.key.contains(place))
}

/// NULL is said only where the server would put something else in its place.
fn inserted(table: &Table, after: RowRef<'_>) -> ColumnValues {
    let columns = written(table).filter_map(|(place, column)| {
        let value = from_storage(&column.pg_type, after.get(place)?);
        let has_default = column.default.is_some() || column.sequence.is_some();
        (value != SyncValue::Null || has_default).then(|| (column.name.clone(), value))
    });
    ColumnValues(columns.collect())
}

fn changed(table: &Table, before: RowRef<'_>, after: RowRef<'_>) -> ColumnValues {
    let columns = written(table)
        .filter(|(place, _)| before.get(*place) != after.get(*place))
        .filter_map(|(place, column)| {
            let value = from_storage(&column.pg_type, after.get(place)?);
            Some((column.name.clone(), value))
        });
    ColumnValues(columns.collect())
}
