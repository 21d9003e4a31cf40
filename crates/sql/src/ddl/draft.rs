//! A table being altered: the definition as it was, as it becomes, and where each column's values
//! come from. [`Draft::write`] compares the two and finds the SQLite statements: none, an index or a
//! column more or less, or a rebuild.
//!
//! A rebuild is, with foreign keys off and legacy_alter_table on ([`crate::plan::Ddl::rebuilds`]):
//!
//! ```text
//! CREATE TABLE r104 (…) STRICT
//! INSERT INTO r104 (c1, c2) SELECT c1, … FROM t104
//! DROP TABLE t104
//! ALTER TABLE r104 RENAME TO t104
//! CREATE INDEX …
//! ```

use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, ErrorCode, SqlError};

use super::change::Change;
use super::expression::{self, Purpose};
use super::storage::{self, StorageIndex};
use super::{constraint, table as tables};
use crate::catalog::{Check, Column, ForeignKey, Table, Unique};
use crate::plan::{Validation, display_name};
use crate::types::{PgType, StorageClass};

/// A table being altered.
pub(super) struct Draft {
    pub(super) old: Arc<Table>,
    pub(super) table: Table,
    /// Where the values of columns that are new or converted come from, by column id; the others
    /// keep theirs.
    sources: FxHashMap<u32, Source>,
}

/// Where a column's values come from.
#[derive(Debug, Clone)]
enum Source {
    /// SQLite text over the old table's columns: a pure function of the row.
    Expression(String),
    /// An UPDATE afterwards, because the values are no function of the row: SQLite text.
    Update(String),
}

impl Draft {
    pub(super) fn new(table: &Arc<Table>) -> Draft {
        Draft {
            old: Arc::clone(table),
            table: Table::clone(table),
            sources: FxHashMap::default(),
        }
    }

    /// The column gets the values of an expression over the old table's columns.
    pub(super) fn convert(&mut self, column: u32, expression: String) {
        self.sources.insert(column, Source::Expression(expression));
    }

    /// Finds out where a new column's values come from: its default, for rows that are there.
    pub(super) fn fill_new_column(
        &mut self,
        change: &Change<'_>,
        column: &Column,
    ) -> Result<(), SqlError> {
        if column.generated.is_some() {
            return Ok(());
        }
        let purpose = Purpose::Default(&column.pg_type);
        let source = if let Some(id) = column.sequence {
            let sequence = change.catalog.sequence(id).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::Internal,
                    format!("sequence {id} of a new column is not there"),
                )
            })?;
            let next = format!(
                "nextval('{}')",
                display_name(&sequence.name).replace('\'', "''")
            );
            // A sequence's name may need quotes to be read back as it is.
            let quoted = format!(
                "nextval('\"{}\".\"{}\"')",
                sequence
                    .name
                    .schema
                    .replace('"', "\"\"")
                    .replace('\'', "''"),
                sequence.name.name.replace('"', "\"\"").replace('\'', "''")
            );
            let plain = sequence
                .name
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let text = if plain { next } else { quoted };
            Source::Update(expression::storage(
                &change.catalog,
                &self.table,
                &text,
                purpose,
            )?)
        } else if let Some(default) = change.catalog.default_of(column) {
            let text = expression::storage(&change.catalog, &self.table, default, purpose)?;
            if expression::is_immutable(&expression::parse(default)?) {
                Source::Expression(text)
            } else {
                Source::Update(text)
            }
        } else {
            Source::Expression("NULL".to_owned())
        };
        self.sources.insert(column.id, source);
        Ok(())
    }

    /// Records the new definition and the statements that bring the table to it.
    pub(super) fn write(mut self, change: &mut Change<'_>) -> Result<(), SqlError> {
        if self.table.key.is_empty() {
            tables::add_hidden_key(&mut self.table);
        }
        if self.table == *self.old && self.sources.is_empty() {
            return Ok(());
        }
        super::crdt::check_constraints(&self.table)?;
        if self.table.columns != self.old.columns
            || self.table.key_ids() != self.old.key_ids()
            || self.table.name != self.old.name
        {
            self.table.schema_version = self.old.schema_version + 1;
            self.table.since_catalog = change.next_version();
        }
        let before = Arc::clone(&change.catalog);
        change.put_table(self.table.clone());
        tables::check_expressions(change, &self.table)?;
        constraint::check_foreign_key_types(change, &self.table)?;

        let name = self.table.storage_name();
        let old_table = storage::create_table(&before, &self.old, &name)?;
        let new_table = storage::create_table(&change.catalog, &self.table, &name)?;
        let old_indexes = storage::create_indexes(&before, &self.old)?;
        let new_indexes = storage::create_indexes(&change.catalog, &self.table)?;
        self.require(change, &before)?;
        if old_table == new_table && !self.converts_kept_columns() {
            write_indexes(change, &old_indexes, &new_indexes);
        } else if let Some(added) = self.columns_added_in_place(change)? {
            change.statements.extend(added);
            write_indexes(change, &old_indexes, &new_indexes);
        } else {
            self.rebuild(change, new_indexes)?;
        }
        self.write_updates(change)
    }

    /// Rebuilds a table whose own definition stays, because what its columns' domains demand has
    /// changed.
    pub(super) fn rebuild_as_it_is(self, change: &mut Change<'_>) -> Result<(), SqlError> {
        let indexes = storage::create_indexes(&change.catalog, &self.table)?;
        change.put_table(self.table.clone());
        self.rebuild(change, indexes)
    }

    /// Whether a column that was there gets other values.
    fn converts_kept_columns(&self) -> bool {
        self.sources
            .keys()
            .any(|&id| self.old.column_by_id(id).is_some())
    }

    /// ALTER TABLE … ADD COLUMN, if all that is new are columns at the end that may be NULL and are
    /// so in every row (or until the UPDATE afterwards).
    fn columns_added_in_place(&self, change: &Change<'_>) -> Result<Option<Vec<String>>, SqlError> {
        let count = self.old.columns.len();
        if self.table.columns.len() <= count || self.converts_kept_columns() {
            return Ok(None);
        }
        let (kept, added) = self.table.columns.split_at(count);
        let mut without = self.table.clone();
        without.columns.truncate(count);
        let same_ids = kept
            .iter()
            .zip(&self.old.columns)
            .all(|(a, b)| a.id == b.id);
        let nullable = added.iter().all(|column| {
            // A domain's conditions come with the table.
            if matches!(column.pg_type, PgType::Domain(_)) {
                return false;
            }
            let null = match self.sources.get(&column.id) {
                Some(Source::Expression(text)) => text == "NULL",
                Some(Source::Update(_)) => true,
                None => false,
            };
            null && !column.not_null && column.generated.is_none()
        });
        let named_elsewhere = self.table.key.iter().any(|&place| place >= count)
            || (self.table.foreign_keys.len(), self.table.checks.len())
                != (self.old.foreign_keys.len(), self.old.checks.len());
        if !same_ids || !nullable || named_elsewhere {
            return Ok(None);
        }
        let name = self.table.storage_name();
        let same = storage::create_table(&change.catalog, &without, &name)?
            == storage::create_table(&change.catalog, &self.old, &name)?;
        Ok(same.then(|| {
            added
                .iter()
                .map(|column| {
                    format!(
                        "ALTER TABLE {name} ADD COLUMN {} {}",
                        column.storage_name(),
                        column.pg_type.sqlite_type()
                    )
                })
                .collect()
        }))
    }

    fn rebuild(&self, change: &mut Change<'_>, indexes: Vec<StorageIndex>) -> Result<(), SqlError> {
        let collection = self.table.collection();
        let name = self.table.storage_name();
        let temporary = storage::rebuild_name(collection);
        change.rebuilds = true;
        change.statements.push(storage::create_table(
            &change.catalog,
            &self.table,
            &temporary,
        )?);
        let stored: Vec<&Column> = self
            .table
            .columns
            .iter()
            .filter(|column| column.generated.is_none())
            .collect();
        let into: Vec<String> = stored.iter().map(|column| column.storage_name()).collect();
        let from = stored
            .iter()
            .map(|column| self.value(column))
            .collect::<Result<Vec<_>, _>>()?;
        change.statements.push(format!(
            "INSERT INTO {temporary} ({}) SELECT {} FROM {name}",
            into.join(", "),
            from.join(", ")
        ));
        change.statements.push(format!("DROP TABLE {name}"));
        change
            .statements
            .push(format!("ALTER TABLE {temporary} RENAME TO {name}"));
        change
            .statements
            .extend(indexes.into_iter().map(|index| index.statement));
        if !self.table.foreign_keys.is_empty() {
            push_once(&mut change.check_foreign_keys, collection);
        }
        if self.converts_kept_columns() {
            push_once(&mut change.converts, collection);
            for &child in change.catalog.children(collection) {
                push_once(&mut change.check_foreign_keys, child);
            }
        }
        Ok(())
    }

    /// What the rebuild selects for a column.
    fn value(&self, column: &Column) -> Result<String, SqlError> {
        match self.sources.get(&column.id) {
            Some(Source::Expression(text)) => Ok(text.clone()),
            Some(Source::Update(_)) => self.placeholder(column),
            None if self.old.column_by_id(column.id).is_some() => Ok(column.storage_name()),
            // The hidden key of a table that has lost its own.
            None => {
                let order = storage::columns(&self.old.key_ids());
                Ok(format!("row_number() OVER (ORDER BY {order})"))
            }
        }
    }

    /// A value that stands in until the UPDATE: not NULL, and in no two rows the same. Where the
    /// column counts up, it is the number that the UPDATE will give, so that no key changes twice.
    fn placeholder(&self, column: &Column) -> Result<String, SqlError> {
        for check in &self.table.checks {
            if expression::columns_in(&self.table, &check.expression)?.contains(&column.id) {
                return Err(SqlError::unsupported(format_args!(
                    "adding the column \"{}\" with a DEFAULT that is not immutable and the check \"{}\" in one statement",
                    column.name, check.name
                ))
                .with_hint("Add the column first and the check afterwards."));
            }
        }
        let number = "row_number() OVER ()";
        Ok(match column.pg_type.storage_class() {
            StorageClass::Integer => number.to_owned(),
            StorageClass::Real => format!("CAST({number} AS REAL)"),
            StorageClass::Text => format!("CAST({number} AS TEXT)"),
            StorageClass::Blob => format!("CAST(CAST({number} AS TEXT) AS BLOB)"),
        })
    }

    fn write_updates(&self, change: &mut Change<'_>) -> Result<(), SqlError> {
        let assignments: Vec<String> = self
            .table
            .columns
            .iter()
            .filter_map(|column| match self.sources.get(&column.id) {
                Some(Source::Update(text)) => Some(format!("{} = {text}", column.storage_name())),
                _ => None,
            })
            .collect();
        if !assignments.is_empty() {
            change.updates.push(format!(
                "UPDATE {} SET {}",
                self.table.storage_name(),
                assignments.join(", ")
            ));
        }
        Ok(())
    }

    /// What existing rows must be like, said in PostgreSQL's words before a statement fails with
    /// SQLite's.
    fn require(
        &self,
        change: &mut Change<'_>,
        before: &crate::catalog::Catalog,
    ) -> Result<(), SqlError> {
        for column in &self.table.columns {
            let newly = match self.old.column_by_id(column.id) {
                Some((_, old)) => column.not_null && !old.not_null,
                None => column.not_null && self.is_null_everywhere(column),
            };
            if newly {
                change.preconditions.push(self.require_not_null(column));
            }
        }
        let new_key = self.table.has_declared_key() && self.table.key_ids() != self.old.key_ids();
        if new_key && let Some(name) = &self.table.key_name {
            let key = Unique {
                name: name.clone(),
                columns: self.table.key_ids(),
                nulls_not_distinct: false,
                index_id: 0,
            };
            self.require_unique(change, &key);
        }
        for unique in &self.table.uniques {
            if !self
                .old
                .uniques
                .iter()
                .any(|old| old.index_id == unique.index_id)
            {
                self.require_unique(change, unique);
            }
        }
        for check in &self.table.checks {
            if !self.old.checks.iter().any(|old| old.id == check.id) {
                self.require_check(change, before, check)?;
            }
        }
        for key in &self.table.foreign_keys {
            if self.old.foreign_key_named(&key.name) != Some(key) {
                self.require_foreign_key(change, key);
            }
        }
        Ok(())
    }

    /// A new column whose rows would all be NULL.
    fn is_null_everywhere(&self, column: &Column) -> bool {
        column.generated.is_none()
            && !column.hidden
            && matches!(self.sources.get(&column.id), Some(Source::Expression(text)) if text == "NULL")
    }

    fn require_not_null(&self, column: &Column) -> Validation {
        let condition = if self.old.column_by_id(column.id).is_some() {
            format!(" WHERE {} IS NULL", column.storage_name())
        } else {
            String::new()
        };
        let error = SqlError::new(
            ErrorCode::NotNullViolation,
            format!(
                "column \"{}\" of relation \"{}\" contains null values",
                column.name, self.table.name.name
            ),
        )
        .with_table(&self.table.name.name)
        .with_column(&column.name);
        Validation::new(
            format!(
                "SELECT 1 FROM {}{condition} LIMIT 1",
                self.table.storage_name()
            ),
            error,
        )
    }

    /// Only what is kept can be looked at before the statements run; what is converted fails in
    /// them, with less detail.
    fn all_kept(&self, ids: &[u32]) -> bool {
        ids.iter()
            .all(|id| self.old.column_by_id(*id).is_some() && !self.sources.contains_key(id))
    }

    fn require_unique(&self, change: &mut Change<'_>, unique: &Unique) {
        if self.all_kept(&unique.columns) {
            change.preconditions.push(duplicates(&self.table, unique));
        }
    }

    fn require_check(
        &self,
        change: &mut Change<'_>,
        before: &crate::catalog::Catalog,
        check: &Check,
    ) -> Result<(), SqlError> {
        let columns = expression::columns_in(&self.table, &check.expression)?;
        let generated = columns.iter().any(|id| {
            self.old
                .column_by_id(*id)
                .is_none_or(|(_, column)| column.generated.is_some())
        });
        if !self.all_kept(&columns) || generated {
            return Ok(());
        }
        let condition =
            expression::storage(before, &self.table, &check.expression, Purpose::Check)?;
        let error = SqlError::new(
            ErrorCode::CheckViolation,
            format!(
                "check constraint \"{}\" of relation \"{}\" is violated by some row",
                check.name, self.table.name.name
            ),
        )
        .with_table(&self.table.name.name)
        .with_constraint(&check.name);
        change.preconditions.push(Validation::new(
            format!(
                "SELECT 1 FROM {} WHERE NOT ({condition}) LIMIT 1",
                self.table.storage_name()
            ),
            error,
        ));
        Ok(())
    }

    fn require_foreign_key(&self, change: &mut Change<'_>, key: &ForeignKey) {
        let Some(parent) = tables::parent_of(change, &self.table, CollectionId(key.parent)) else {
            return;
        };
        let child = self.table.storage_name();
        let columns: Vec<String> = key
            .columns
            .iter()
            .map(|id| format!("{child}.c{id}"))
            .collect();
        let present: Vec<String> = columns
            .iter()
            .map(|column| format!("{column} IS NOT NULL"))
            .collect();
        let same: Vec<String> = columns
            .iter()
            .zip(&key.parent_columns)
            .map(|(column, id)| format!("p.c{id} = {column}"))
            .collect();
        let sql = format!(
            "SELECT {} FROM {child} WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {}) LIMIT 1",
            columns.join(", "),
            present.join(" AND "),
            parent.storage_name(),
            same.join(" AND ")
        );
        let error = SqlError::new(
            ErrorCode::ForeignKeyViolation,
            format!(
                "insert or update on table \"{}\" violates foreign key constraint \"{}\"",
                self.table.name.name, key.name
            ),
        )
        .with_table(&self.table.name.name)
        .with_constraint(&key.name);
        let key_is = format!("is not present in table \"{}\".", parent.name.name);
        change
            .validations
            .push(Validation::new(sql, error).with_key(&self.table, &key.columns, key_is));
    }
}

/// Finds one value that a new unique constraint would find twice.
pub(super) fn duplicates(table: &Table, unique: &Unique) -> Validation {
    let name = table.storage_name();
    let columns = storage::columns(&unique.columns);
    let present = if unique.nulls_not_distinct {
        String::new()
    } else {
        let present: Vec<String> = unique
            .columns
            .iter()
            .map(|id| format!("c{id} IS NOT NULL"))
            .collect();
        format!(" WHERE {}", present.join(" AND "))
    };
    let keys = unique.storage_keys(table).join(", ");
    let sql = format!(
        "SELECT {columns} FROM {name}{present} GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"
    );
    Validation::new(sql, cannot_create(table, &unique.name)).with_key(
        table,
        &unique.columns,
        "is duplicated.".to_owned(),
    )
}

pub(super) fn cannot_create(table: &Table, index: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UniqueViolation,
        format!("could not create unique index \"{index}\""),
    )
    .with_table(&table.name.name)
    .with_constraint(index)
}

/// Drops the SQLite indexes that are no longer, or otherwise, wanted, and makes the new ones.
fn write_indexes(change: &mut Change<'_>, old: &[StorageIndex], new: &[StorageIndex]) {
    for index in old.iter().filter(|index| !new.contains(index)) {
        change.statements.push(format!("DROP INDEX {}", index.name));
    }
    for index in new.iter().filter(|index| !old.contains(index)) {
        change.statements.push(index.statement.clone());
    }
}

fn push_once(list: &mut Vec<CollectionId>, id: CollectionId) {
    if !list.contains(&id) {
        list.push(id);
    }
}

/// Whether a column may become the other type without a look at any value.
pub(super) fn widens(from: &PgType, to: &PgType) -> bool {
    use PgType as T;
    match (from, to) {
        (T::Int2, T::Int4 | T::Int8) | (T::Int4, T::Int8) => true,
        (T::Varchar(_), T::Text | T::Varchar(None)) | (T::Text, T::Varchar(None)) => true,
        (T::Varchar(Some(a)), T::Varchar(Some(b))) => a <= b,
        _ => from == to,
    }
}
