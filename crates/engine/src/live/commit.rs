//! One commit as live queries see it: for each table the rows that it changed, each once, as they
//! were before and are after.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_log::CommitSlice;
use springhead_proto::{
    ChangeKind, ChangeRef, Changes, CollectionId, ErrorCode, Row, RowRef, SchemaVersion, SqlError,
    Value,
};
use springhead_sql::catalog::{Definition, DefinitionRecord, Table};
use springhead_sql::live::LivePlan;

/// The columns that tables have had.
pub(crate) type SchemaOf<'s> = &'s mut dyn FnMut(CollectionId, SchemaVersion) -> Option<Arc<Table>>;

/// Whether a row may matter to whoever looks.
pub(crate) type Matters<'s> = &'s mut dyn FnMut(&Table, RowRef<'_>) -> bool;

/// A row, and the table as it was when the row was written.
#[derive(Clone)]
pub(crate) struct Image<'a> {
    pub row: RowRef<'a>,
    pub table: Arc<Table>,
}

/// What happened to one row.
#[derive(Default)]
pub(crate) struct RowChange<'a> {
    /// The values of its key.
    pub key: Vec<Value>,
    pub before: Option<Image<'a>>,
    pub after: Option<Image<'a>>,
}

/// What happened to one table.
#[derive(Default)]
pub(crate) struct TableChange<'a> {
    pub rows: Vec<RowChange<'a>>,
    places: FxHashMap<Box<[u8]>, usize>,
    /// All rows that were there before went, images of them there are none. `rows` are those of after.
    pub truncated: bool,
    /// The table as it was then, if that is known.
    pub truncated_as: Option<Arc<Table>>,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct CommitChange<'a> {
    pub tables: FxHashMap<CollectionId, TableChange<'a>>,
    pub definitions: Vec<Defined>,
}

/// A definition that a commit has put or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Defined {
    /// Its table; [`CollectionId::NONE`] for what is none.
    pub collection: CollectionId,
    /// That of the table from there on.
    pub version: SchemaVersion,
    /// Rows have other values from there on, and there are no images of that.
    pub converts: bool,
    /// It is a view, function or type: what a query is made of beside its tables.
    pub is_named: bool,
}

impl Defined {
    /// Whether a query may mean something else by it.
    pub(crate) fn concerns(&self, plan: &LivePlan) -> bool {
        plan.reads.contains(&self.collection) || self.is_named && plan.names_others
    }

    /// # Errors
    /// XX001 for damage.
    pub(crate) fn of(change: &ChangeRef<'_>) -> Result<Defined, SqlError> {
        let row = change
            .after
            .ok_or_else(|| damaged("a definition is missing"))?;
        let record = DefinitionRecord::from_row(row)?;
        Ok(Defined {
            collection: change.collection,
            version: change.schema_version,
            converts: record.payload.converts,
            is_named: matches!(
                record.payload.definition,
                Definition::View(_) | Definition::Routine(_) | Definition::Type(_)
            ),
        })
    }
}

impl<'a> CommitChange<'a> {
    /// Collects what `wanted` tables went through in some slices, in LSN order.
    ///
    /// # Errors
    /// XX001 for damage, or for a schema version that nobody knows.
    pub(crate) fn add(
        &mut self,
        slice: &'a CommitSlice,
        wanted: &dyn Fn(CollectionId) -> bool,
        schema: SchemaOf<'_>,
    ) -> Result<(), SqlError> {
        self.add_those(slice, wanted, schema, &mut |_, _| true)
    }

    /// As [`CommitChange::add`], but for changes of rows that do not matter, neither as they were nor
    /// as they are.
    ///
    /// # Errors
    /// As [`CommitChange::add`].
    pub(crate) fn add_those(
        &mut self,
        slice: &'a CommitSlice,
        wanted: &dyn Fn(CollectionId) -> bool,
        schema: SchemaOf<'_>,
        matters: Matters<'_>,
    ) -> Result<(), SqlError> {
        for change in Changes::new(&slice.changes) {
            let change = change.map_err(|error| damaged(&error.to_string()))?;
            match change.kind {
                ChangeKind::Definition => self.definitions.push(Defined::of(&change)?),
                ChangeKind::Message | ChangeKind::Sequence => {}
                _ if wanted(change.collection) => self.add_change(&change, schema, matters)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn add_change(
        &mut self,
        change: &ChangeRef<'a>,
        schema: SchemaOf<'_>,
        matters: Matters<'_>,
    ) -> Result<(), SqlError> {
        if change.kind == ChangeKind::Truncate {
            let touched = self.tables.entry(change.collection).or_default();
            touched.truncated = true;
            touched.truncated_as = schema(change.collection, change.schema_version);
            touched.rows.iter_mut().for_each(|row| row.after = None);
            return Ok(());
        }
        let table = schema(change.collection, change.schema_version)
            .ok_or_else(|| damaged("a change follows an unknown schema version"))?;
        let mut rows = [change.before, change.after].into_iter().flatten();
        if !rows.any(|row| matters(&table, row)) {
            return Ok(());
        }
        let image = |row: Option<RowRef<'a>>| {
            row.map(|row| Image {
                row,
                table: Arc::clone(&table),
            })
        };
        let (before, after) = (image(change.before), image(change.after));
        let touched = self.tables.entry(change.collection).or_default();
        match (&before, &after) {
            (Some(old), Some(new)) if old.key() != new.key() => {
                touched.note(before, None);
                touched.note(None, after);
            }
            _ => touched.note(before, after),
        }
        Ok(())
    }

    /// Forgets rows that are after all as they were.
    pub(crate) fn settle(&mut self) {
        for table in self.tables.values_mut() {
            table.places.clear();
            if table.truncated {
                table.rows.retain(|row| row.after.is_some());
                continue;
            }
            table.rows.retain(|row| match (&row.before, &row.after) {
                (None, None) => false,
                (Some(before), Some(after)) => before.row != after.row,
                _ => true,
            });
        }
        self.tables
            .retain(|_, table| table.truncated || !table.rows.is_empty());
    }
}

impl<'a> TableChange<'a> {
    fn note(&mut self, before: Option<Image<'a>>, after: Option<Image<'a>>) {
        let Some(some) = before.as_ref().or(after.as_ref()) else {
            return;
        };
        let key = some.key();
        let bytes: Box<[u8]> = Row::from_values(key.iter().map(Value::as_ref)).bytes()[..].into();
        match self.places.get(&bytes) {
            Some(&place) => self.rows[place].after = after,
            None => {
                self.places.insert(bytes, self.rows.len());
                self.rows.push(RowChange { key, before, after });
            }
        }
    }
}

impl Image<'_> {
    /// The values of its key.
    pub(crate) fn key(&self) -> Vec<Value> {
        (self.table.key.iter())
            .map(|&place| {
                self.row
                    .get(place)
                    .map_or(Value::Null, |value| value.to_owned())
            })
            .collect()
    }
}

impl RowChange<'_> {
    /// Whether a column of `ids` is not what it was; a row that came or went always counts.
    pub(crate) fn touches(&self, ids: &[u32]) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return true;
        };
        ids.iter().any(|&id| {
            let value = |image: &Image<'_>| {
                let (place, _) = image.table.column_by_id(id)?;
                image.row.get(place).map(|value| value.to_owned())
            };
            value(before) != value(after)
        })
    }
}

fn damaged(what: &str) -> SqlError {
    SqlError::new(ErrorCode::Corrupted, what)
}
