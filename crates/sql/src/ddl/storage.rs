//! The SQLite statements that make what a table's definition says: one STRICT table and its indexes.
//!
//! ```text
//! CREATE TABLE t104 (c1 INTEGER PRIMARY KEY, c2 TEXT NOT NULL, c3 INTEGER,
//!   CONSTRAINT k105 CHECK (c3 > 0),
//!   FOREIGN KEY (c3) REFERENCES t101 (c1) DEFERRABLE INITIALLY DEFERRED) STRICT
//! CREATE UNIQUE INDEX i106 ON t104 (c2)
//! ```
//!
//! Foreign keys are always deferred in SQLite: the writer checks immediate ones itself, after each
//! statement, so that it can name what was violated. DEFAULTs are the planner's business; SQLite is
//! told only those that ON DELETE SET DEFAULT needs. The texts follow from the definition alone, so
//! comparing the texts of two definitions tells whether a table must be rebuilt.

use std::fmt::Write as _;

use springhead_proto::{CollectionId, SqlError};

use super::expression::{self, Purpose};
use crate::catalog::{Catalog, Column, ForeignKey, Index, ReferentialAction, Table, Unique};

/// CREATE TABLE and CREATE INDEX for all of `table`.
///
/// # Errors
/// An expression in the definition that cannot be rewritten.
pub(crate) fn create(catalog: &Catalog, table: &Table) -> Result<Vec<String>, SqlError> {
    let mut statements = vec![create_table(catalog, table, &table.storage_name())?];
    statements.extend(
        create_indexes(catalog, table)?
            .into_iter()
            .map(|index| index.statement),
    );
    Ok(statements)
}

/// CREATE TABLE, under another name than the table's own while it is rebuilt.
pub(crate) fn create_table(
    catalog: &Catalog,
    table: &Table,
    storage_name: &str,
) -> Result<String, SqlError> {
    let mut out = format!("CREATE TABLE {storage_name} (");
    let rowid_key = table.key_is_rowid();
    for (place, column) in table.columns.iter().enumerate() {
        if place > 0 {
            out.push_str(", ");
        }
        let key = rowid_key && table.key == [place];
        write_column(&mut out, catalog, table, column, key)?;
    }
    if !rowid_key {
        let _ = write!(out, ", PRIMARY KEY ({})", columns(&table.key_ids()));
    }
    for check in &table.checks {
        let condition = expression::storage(catalog, table, &check.expression, Purpose::Check)?;
        let _ = write!(out, ", CONSTRAINT k{} CHECK ({condition})", check.id);
    }
    for column in &table.columns {
        write_domain(&mut out, catalog, table, column)?;
    }
    for key in &table.foreign_keys {
        let _ = write!(
            out,
            ", FOREIGN KEY ({}) REFERENCES t{} ({}){}{} DEFERRABLE INITIALLY DEFERRED",
            columns(&key.columns),
            key.parent,
            columns(&key.parent_columns),
            action("ON DELETE", key.on_delete),
            action("ON UPDATE", key.on_update),
        );
    }
    out.push_str(") STRICT");
    Ok(out)
}

/// The conditions of a column's domain.
fn write_domain(
    out: &mut String,
    catalog: &Catalog,
    table: &Table,
    column: &Column,
) -> Result<(), SqlError> {
    let name = column.storage_name();
    // An error names the column's own domain, so the constraint says which column it is.
    let place = format!("t{}c{}", table.id, column.id);
    // The innermost domain's come first.
    for of in catalog.domains_of(&column.pg_type).into_iter().rev() {
        let Some(domain) = of.domain() else {
            continue;
        };
        if let Some(id) = domain.not_null {
            let _ = write!(out, ", CONSTRAINT k{id}{place} CHECK ({name} IS NOT NULL)");
        }
        let value = super::domain::value_table(domain, column.id);
        for check in &domain.checks {
            let condition =
                expression::storage(catalog, &value, &check.expression, Purpose::Check)?;
            let _ = write!(out, ", CONSTRAINT k{}{place} CHECK ({condition})", check.id);
        }
    }
    Ok(())
}

fn write_column(
    out: &mut String,
    catalog: &Catalog,
    table: &Table,
    column: &Column,
    rowid_key: bool,
) -> Result<(), SqlError> {
    let _ = write!(
        out,
        "{} {}",
        column.storage_name(),
        column.pg_type.sqlite_type()
    );
    if rowid_key {
        out.push_str(" PRIMARY KEY");
        return Ok(());
    }
    if column.not_null {
        out.push_str(" NOT NULL");
    }
    if let Some(generated) = &column.generated {
        let value = expression::storage(
            catalog,
            table,
            generated,
            Purpose::Generated(&column.pg_type),
        )?;
        let _ = write!(out, " GENERATED ALWAYS AS ({value}) STORED");
    }
    if let (Some(default), true) = (
        &column.default,
        table
            .foreign_keys
            .iter()
            .any(|key| sets_default(key, column)),
    ) {
        let value =
            expression::storage(catalog, table, default, Purpose::Default(&column.pg_type))?;
        let _ = write!(out, " DEFAULT ({value})");
    }
    Ok(())
}

fn sets_default(key: &ForeignKey, column: &Column) -> bool {
    key.columns.contains(&column.id)
        && [key.on_delete, key.on_update].contains(&ReferentialAction::SetDefault)
}

fn action(event: &str, action: ReferentialAction) -> String {
    let words = match action {
        ReferentialAction::NoAction => return String::new(),
        ReferentialAction::Restrict => "RESTRICT",
        ReferentialAction::Cascade => "CASCADE",
        ReferentialAction::SetNull => "SET NULL",
        ReferentialAction::SetDefault => "SET DEFAULT",
    };
    format!(" {event} {words}")
}

/// One of a table's SQLite indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageIndex {
    /// `i106`, or `p104` for a key that needs an index of its own.
    pub(crate) name: String,
    pub(crate) statement: String,
}

/// The indexes that the definition says, in the order of their making.
pub(crate) fn create_indexes(
    catalog: &Catalog,
    table: &Table,
) -> Result<Vec<StorageIndex>, SqlError> {
    let mut indexes = Vec::new();
    let storage = table.storage_name();
    if table.key_columns().any(needs_key_function) {
        // Two keys can be equal without being the same bytes (1.5, 1.50): the PRIMARY KEY sees only
        // bytes, so an index over the comparable form guards it.
        let keys: Vec<String> = table.key_columns().map(comparable).collect();
        let name = format!("p{}", table.id);
        let statement = format!(
            "CREATE UNIQUE INDEX {name} ON {storage} ({})",
            keys.join(", ")
        );
        indexes.push(StorageIndex { name, statement });
    }
    for unique in &table.uniques {
        let name = format!("i{}", unique.index_id);
        let keys = unique.storage_keys(table).join(", ");
        indexes.push(StorageIndex {
            statement: format!("CREATE UNIQUE INDEX {name} ON {storage} ({keys})"),
            name,
        });
    }
    for index in &table.indexes {
        if let Some(statement) = create_index(catalog, table, index)? {
            indexes.push(StorageIndex {
                name: format!("i{}", index.id),
                statement,
            });
        }
    }
    Ok(indexes)
}

/// CREATE INDEX, or `None` for an index whose method has no counterpart in SQLite.
pub(crate) fn create_index(
    catalog: &Catalog,
    table: &Table,
    index: &Index,
) -> Result<Option<String>, SqlError> {
    if !index.is_ordered() {
        return Ok(None);
    }
    let mut keys = Vec::with_capacity(index.keys.len());
    for key in &index.keys {
        let (value, descending) = expression::index_key(catalog, table, key)?;
        keys.push(format!("{value}{}", if descending { " DESC" } else { "" }));
    }
    let mut out = format!(
        "CREATE {}INDEX i{} ON {} ({})",
        if index.unique { "UNIQUE " } else { "" },
        index.id,
        table.storage_name(),
        keys.join(", ")
    );
    if let Some(predicate) = &index.predicate {
        let condition = expression::storage(catalog, table, predicate, Purpose::Predicate)?;
        let _ = write!(out, " WHERE {condition}");
    }
    Ok(Some(out))
}

impl Unique {
    /// The expressions of its SQLite index, as ON CONFLICT must name them too: columns, or their
    /// comparable form; with NULLS NOT DISTINCT each as whether it is NULL and what it is if not.
    #[must_use]
    pub fn storage_keys(&self, table: &Table) -> Vec<String> {
        self.columns
            .iter()
            .filter_map(|&id| table.column_by_id(id))
            .flat_map(|(_, column)| {
                let key = comparable(column);
                if self.nulls_not_distinct && !column.not_null {
                    // SQLite takes every NULL of a key as different from every other.
                    vec![
                        format!("{} IS NULL", column.storage_name()),
                        format!("ifnull({key}, 0)"),
                    ]
                } else {
                    vec![key]
                }
            })
            .collect()
    }

    /// Whether it is an index over plain columns: then a foreign key can refer to it.
    #[must_use]
    pub fn is_plain(&self, table: &Table) -> bool {
        self.columns
            .iter()
            .filter_map(|&id| table.column_by_id(id))
            .all(|(_, column)| {
                !needs_key_function(column) && (!self.nulls_not_distinct || column.not_null)
            })
    }
}

impl Index {
    /// Whether it is an ordered or hash index, which SQLite's B-tree serves.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        matches!(self.method.as_str(), "btree" | "hash")
    }
}

/// Whether equal values of the column may differ in their bytes. (char(n) is padded to n, so within
/// one column it does not.)
pub(crate) fn needs_key_function(column: &Column) -> bool {
    !matches!(column.pg_type, crate::types::PgType::Char(_))
        && column.pg_type.key_function().is_some()
}

fn comparable(column: &Column) -> String {
    let name = column.storage_name();
    match column.pg_type.key_function() {
        Some(function) if needs_key_function(column) => format!("{function}({name})"),
        _ => name,
    }
}

/// `c1, c2`.
pub(crate) fn columns(ids: &[u32]) -> String {
    ids.iter()
        .map(|id| format!("c{id}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The name of a table while it is rebuilt.
pub(crate) fn rebuild_name(id: CollectionId) -> String {
    format!("r{id}")
}
