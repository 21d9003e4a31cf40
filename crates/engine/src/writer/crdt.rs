//! CRDT columns in the writer: updates of devices are merged, and what a statement has put in place of
//! a value becomes an edit like any other.
//!
//! ```text
//! crdt {body: update} ─ open, merge ─ UPDATE … SET body = merged, as its author ─┐
//! UPDATE … SET body = …, by anybody ─────────────────────────────────────────────┤
//!                                            settle: the edits, in the same change
//! ```
//!
//! Whatever writes, triggers included, a row's value and its edits leave the statement as one.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::ToSqlOutput;
use springhead_crdt::{Cell, Client, Content, CrdtError, Edit, Limits};
use springhead_proto::sync::{Operation, SyncValue, Verb, Violation};
use springhead_proto::{
    ChangeKind, ChangeRef, CollectionId, ErrorCode, Row, RowRef, SqlError, Value, ValueRef,
};
use springhead_sql::catalog::{CrdtColumn, Table};

use super::Writer;
use super::run::NotDone;
use crate::capture::Mark;
use crate::crdt::{content_of, kind_of, sql_error, state_of, to_json};
use crate::functions::to_sqlite;
use crate::readers::Failure;
use crate::sync::Author;
use crate::sync::statement::{Form, Param, Statement};

/// What an update has come to, until the row is written.
pub(super) struct Merged {
    row: RowKey,
    states: Vec<MergedState>,
}

struct MergedState {
    /// The state's place in the row.
    place: usize,
    state: Option<Vec<u8>>,
    content: Content,
}

/// A document: its collection and its id.
type RowKey = (CollectionId, String);

/// The states that a statement's changes have come to, by their places.
type States = HashMap<RowKey, Vec<(usize, Option<Vec<u8>>)>>;

impl Writer {
    /// Who edits from now on: what was edited as the last one may be taken back.
    pub(super) fn renew_crdt_client(&mut self) {
        let mut bytes = [0; 8];
        self.context.fill_random(&mut bytes);
        self.crdt_client = Client::new(u64::from_le_bytes(bytes));
    }

    fn crdt_limits(&self) -> Limits {
        Limits {
            state_bytes: self.config.crdt_state_bytes,
            merge_updates: self.config.crdt_merge_updates,
        }
    }

    /// Merges a device's updates into a document, for their author; how many rows that met.
    ///
    /// # Errors
    /// What is wrong with an update (22023, 55000, 54000), unless its author may not write there at
    /// all, which is then what is said.
    pub(super) fn merge_updates(
        &mut self,
        table: &Arc<Table>,
        operation: &Operation,
        author: &Arc<Author>,
    ) -> Result<u64, NotDone> {
        let Verb::Crdt(updates) = &operation.verb else {
            return Ok(0);
        };
        let merged = self.merged(table, operation, updates);
        // Where something is wrong, the columns stay: only whether the author may is asked.
        let contents: Vec<Content> = (merged.iter().flat_map(|merged| &merged.states))
            .map(|state| state.content.clone())
            .collect();
        let mut contents = contents.into_iter();
        let assignments = updates.iter().map(|(name, _)| {
            let content = contents.next().map(to_json);
            (
                &**name,
                content.map_or(Param::Kept, Param::Made),
                Form::Plain,
            )
        });
        let statement = Statement::update(table, operation, assignments);
        let (merged, wrong) = match merged {
            Ok(merged) => (Some(merged), None),
            Err(error) => (None, Some(error)),
        };
        self.merged = merged;
        let met = self.run_statement(&statement, author);
        self.merged = None;
        match (met?, wrong) {
            (0, _) => Ok(0),
            (_, Some(error)) => Err(error.into()),
            (met, None) => Ok(met),
        }
    }

    /// What a document's columns are with some updates.
    fn merged(
        &self,
        table: &Arc<Table>,
        operation: &Operation,
        updates: &[(String, Vec<u8>)],
    ) -> Result<Merged, SqlError> {
        let row = self
            .stored_row(table, &operation.id)?
            .ok_or_else(|| SqlError::new(ErrorCode::NotFound, Violation::NO_DOCUMENT))?;
        let values: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
        let mut states: Vec<MergedState> = Vec::with_capacity(updates.len());
        for (name, update) in updates {
            let column = crdt_column(table, name)?;
            if states.iter().any(|state| state.place == column.state_place) {
                return Err(SqlError::new(
                    ErrorCode::InvalidParameterValue,
                    format!("column \"{name}\" is there twice"),
                ));
            }
            let wrong = |error: CrdtError| sql_error(&error, name);
            let mut cell = self.open_cell(&column, &values)?;
            cell.merge(update).map_err(wrong)?;
            states.push(MergedState {
                place: column.state_place,
                content: cell.content().map_err(wrong)?,
                state: cell.save(&self.crdt_limits()).map_err(wrong)?,
            });
        }
        Ok(Merged {
            row: (table.collection(), table.document_id_of(&values)),
            states,
        })
    }

    fn open_cell(&self, column: &CrdtColumn<'_>, row: &[ValueRef<'_>]) -> Result<Cell, SqlError> {
        let value = |place: usize| row.get(place).copied().unwrap_or(ValueRef::Null);
        let shown = content_of(column, value(column.place))?;
        let state = state_of(value(column.state_place));
        Cell::open(
            kind_of(column.kind),
            state,
            shown.as_ref(),
            self.crdt_client,
        )
        .map_err(|error| sql_error(&error, &column.column.name))
    }

    /// A document's whole row as it is stored, hidden columns too.
    fn stored_row(&self, table: &Table, id: &[SyncValue]) -> Result<Option<Vec<Value>>, SqlError> {
        let names: Vec<String> =
            (table.columns.iter().map(|column| column.storage_name())).collect();
        let key: Vec<String> = (table.key_columns().zip(1..))
            .map(|(column, number)| format!("{} = ?{number}", column.storage_name()))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            names.join(", "),
            table.storage_name(),
            key.join(" AND ")
        );
        let key = (table.key_columns().zip(id))
            .map(|(column, value)| crate::sync::value::to_storage(&column.pg_type, value))
            .collect::<Result<Vec<_>, _>>()?;
        let read = || -> rusqlite::Result<Option<Vec<Value>>> {
            let mut statement = self.conn.prepare_cached(&sql)?;
            for (value, number) in key.iter().zip(1..) {
                let value = ToSqlOutput::Borrowed(to_sqlite(value.as_ref()));
                statement.raw_bind_parameter(number, value)?;
            }
            let mut rows = statement.raw_query();
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            (0..names.len())
                .map(|place| {
                    let value = row.get_ref(place)?;
                    Ok(crate::functions::from_sqlite(value)
                        .map_or(Value::Null, |value| value.to_owned()))
                })
                .collect::<rusqlite::Result<_>>()
                .map(Some)
        };
        let row = self.context.as_engine(read);
        row.map_err(|error| self.describe(Failure::Sqlite(error)))
    }

    /// After a statement: the edits that the values it has written come of, in its own changes.
    ///
    /// # Errors
    /// 54000 for edits that take too much; what SQLite says.
    pub(super) fn settle_crdt(&mut self, mark: &Mark) -> Result<(), Failure> {
        if !self.capture.take_merging() {
            return Ok(());
        }
        let mut states = States::new();
        let mut merged = self.merged.take();
        let amended = self.capture.amended(mark, |change| {
            self.with_states(change, &mut states, &mut merged)
        })?;
        if states.is_empty() {
            return Ok(());
        }
        self.capture.put_amended(mark, amended);
        self.capture.enabled = false;
        let written = self.context.as_engine(|| {
            (states.iter()).try_for_each(|(row, states)| self.write_states(row, states))
        });
        self.capture.enabled = true;
        written
    }

    /// A change's image with the states that belong to its values; `None` if it has them.
    fn with_states(
        &self,
        change: &ChangeRef<'_>,
        states: &mut States,
        merged: &mut Option<Merged>,
    ) -> Result<Option<Vec<u8>>, SqlError> {
        let is_row = matches!(change.kind, ChangeKind::Insert | ChangeKind::Update);
        let (Some(table), Some(after), true) =
            (self.catalog.table(change.collection), change.after, is_row)
        else {
            return Ok(None);
        };
        if !table.has_crdt() {
            return Ok(None);
        }
        let row = (change.collection, table.document_id(after));
        let known = states.get(&row).cloned().unwrap_or_default();
        let own = merged.take_if(|merged| merged.row == row && change.kind == ChangeKind::Update);
        let mut values: Vec<ValueRef<'_>> = after.values().collect();
        let mut changed: Vec<(usize, Option<Vec<u8>>)> = Vec::new();
        for column in table.crdt_columns() {
            let place = column.state_place;
            let known = known.iter().find(|(at, _)| *at == place);
            let before = known.map_or_else(
                || state_of(get(after, place)).map(<[u8]>::to_vec),
                |(_, state)| state.clone(),
            );
            let own = own
                .iter()
                .flat_map(|own| &own.states)
                .find(|own| own.place == place);
            let state = self.state_after(&column, change, before, own)?;
            if state.as_deref() != state_of(get(after, place)) || known.is_some() {
                changed.push((place, state));
            }
        }
        if changed.is_empty() {
            return Ok(None);
        }
        for (place, state) in &changed {
            values[*place] = state.as_deref().map_or(ValueRef::Null, ValueRef::Blob);
        }
        let image = Row::from_values(values.into_iter()).bytes().to_vec();
        states.insert(row, changed);
        Ok(Some(image))
    }

    /// The state that belongs to a column's value after a change; `before` is the one before it.
    fn state_after(
        &self,
        column: &CrdtColumn<'_>,
        change: &ChangeRef<'_>,
        before: Option<Vec<u8>>,
        merged: Option<&MergedState>,
    ) -> Result<Option<Vec<u8>>, SqlError> {
        let value = |row: Option<RowRef<'_>>| {
            row.map_or(Ok(None), |row| content_of(column, get(row, column.place)))
        };
        let after = value(change.after)?;
        // NULL begins anew.
        let Some(after) = after else {
            return Ok(None);
        };
        let (state, shown) = match merged {
            Some(merged) if merged.content == after => return Ok(merged.state.clone()),
            // A trigger has had its say.
            Some(merged) => (merged.state.clone(), Some(merged.content.clone())),
            None if change.kind == ChangeKind::Insert => match before {
                // A new key; another value may have come with it.
                Some(state) => (Some(state), None),
                None => return Ok(None),
            },
            None => {
                let shown = value(change.before)?;
                if shown.as_ref() == Some(&after) {
                    return Ok(before);
                }
                (before, shown)
            }
        };
        let wrong = |error: CrdtError| sql_error(&error, &column.column.name);
        let mut cell = Cell::open(
            kind_of(column.kind),
            state.as_deref(),
            shown.as_ref(),
            self.crdt_client,
        )
        .map_err(wrong)?;
        let said = cell.replace(&after).map_err(wrong)?;
        if springhead_crdt::is_nothing(&said) {
            return Ok(state);
        }
        cell.save(&self.crdt_limits()).map_err(wrong)
    }

    fn write_states(
        &self,
        (collection, id): &RowKey,
        states: &[(usize, Option<Vec<u8>>)],
    ) -> Result<(), Failure> {
        let Some(table) = self.catalog.table(*collection) else {
            return Ok(());
        };
        let set: Vec<String> = (states.iter().zip(1..))
            .map(|((place, _), number)| {
                format!("{} = ?{number}", table.columns[*place].storage_name())
            })
            .collect();
        let key: Vec<String> = (table.key_columns().zip(states.len() + 1..))
            .map(|(column, number)| format!("{} = ?{number}", column.storage_name()))
            .collect();
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            table.storage_name(),
            set.join(", "),
            key.join(" AND ")
        );
        let key = table.parse_document_id(id)?;
        let states = (states.iter())
            .map(|(_, state)| state.as_deref().map_or(ValueRef::Null, ValueRef::Blob));
        let mut statement = self.conn.prepare_cached(&sql)?;
        for (value, number) in states.chain(key.iter().map(Value::as_ref)).zip(1..) {
            statement.raw_bind_parameter(number, ToSqlOutput::Borrowed(to_sqlite(value)))?;
        }
        statement.raw_execute()?;
        Ok(())
    }

    /// The update that says what edits of a document's column do, as this writer's client.
    ///
    /// # Errors
    /// 42P01, 42703, 42804 for what is no CRDT column; no such document; an edit beyond the end.
    pub(super) fn crdt_update(
        &self,
        collection: &str,
        id: &[SyncValue],
        column: &str,
        edits: &[Edit],
    ) -> Result<Vec<u8>, SqlError> {
        let table = crate::cdc::find_collection(&self.catalog, collection)?;
        let found = crdt_column(table, column)?;
        if id.len() != table.key.len() {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!("the key of \"{collection}\" has {} values", table.key.len()),
            ));
        }
        let row = self
            .stored_row(table, id)?
            .ok_or_else(|| SqlError::new(ErrorCode::NotFound, Violation::NO_DOCUMENT))?;
        let values: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
        let mut cell = self.open_cell(&found, &values)?;
        cell.edit(edits).map_err(|error| sql_error(&error, column))
    }
}

fn get(row: RowRef<'_>, place: usize) -> ValueRef<'_> {
    row.get(place).unwrap_or(ValueRef::Null)
}

/// # Errors
/// 42703 if there is no such column, 42804 if it does not merge.
fn crdt_column<'t>(table: &'t Table, name: &str) -> Result<CrdtColumn<'t>, SqlError> {
    let (place, _) = table.expect_column(name)?;
    table
        .crdt_columns()
        .find(|column| column.place == place)
        .ok_or_else(|| {
            SqlError::new(
                ErrorCode::DatatypeMismatch,
                format!("column \"{name}\" is no CRDT column"),
            )
            .with_column(name)
        })
}
