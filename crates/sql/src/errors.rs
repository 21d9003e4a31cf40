//! From what SQLite says went wrong to what PostgreSQL would say.
//!
//! The engine calls [`translate`] with SQLite's extended code and message. SQLite names storage
//! (`t104.c1`, `k105`, `i106`), the catalog maps it back. A foreign key's violation has no name in
//! SQLite's text: the engine runs `PRAGMA foreign_key_check` and calls [`foreign_key_violation`]
//! with what it finds.

use springhead_proto::{CollectionId, ErrorCode, SqlError, Value, ValueRef};

use crate::catalog::{Catalog, ForeignKey, Table};
use crate::plan::Validation;
use crate::types::{PgType, output_text};

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>), the low byte of an
/// extended one.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const ABORT: i32 = 4;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const AUTH: i32 = 23;
    pub(super) const RANGE: i32 = 25;
    pub(super) const NOTADB: i32 = 26;

    pub(super) const CONSTRAINT_CHECK: i32 = 275;
    pub(super) const CONSTRAINT_FOREIGNKEY: i32 = 787;
    pub(super) const CONSTRAINT_NOTNULL: i32 = 1299;
    pub(super) const CONSTRAINT_PRIMARYKEY: i32 = 1555;
    pub(super) const CONSTRAINT_TRIGGER: i32 = 1811;
    pub(super) const CONSTRAINT_UNIQUE: i32 = 2067;
    pub(super) const CONSTRAINT_ROWID: i32 = 2579;
    pub(super) const CONSTRAINT_DATATYPE: i32 = 3091;
}

/// The row that a statement failed on, in storage order of its table, if the engine knows it.
pub type FailedRow<'a> = Option<&'a [ValueRef<'a>]>;

/// What PostgreSQL would say to an error of SQLite's.
///
/// `extended_code` is from `sqlite3_extended_errcode`, `message` from `sqlite3_errmsg`.
#[must_use]
pub fn translate(catalog: &Catalog, extended_code: i32, message: &str) -> SqlError {
    translate_with_row(catalog, extended_code, message, None)
}

/// As [`translate`]; `row` lets the detail name the values.
#[must_use]
pub fn translate_with_row(
    catalog: &Catalog,
    extended_code: i32,
    message: &str,
    row: FailedRow<'_>,
) -> SqlError {
    if extended_code & 0xff == code::CONSTRAINT
        && let Some(error) = constraint(catalog, extended_code, message, row)
    {
        return error;
    }
    let error = |code, text: &str| SqlError::new(code, text);
    match extended_code & 0xff {
        code::FULL => error(
            ErrorCode::DiskFull,
            "could not write: no space left on device",
        )
        .with_hint("Free some space and try again."),
        code::NOMEM => error(ErrorCode::OutOfMemory, "out of memory"),
        code::INTERRUPT | code::ABORT => error(
            ErrorCode::QueryCanceled,
            "canceling statement due to user request",
        ),
        code::TOOBIG => error(
            ErrorCode::StatementTooLarge,
            "a value or statement is too large",
        ),
        code::RANGE => error(
            ErrorCode::ProtocolViolation,
            "bind message supplies another number of parameters than required",
        ),
        code::BUSY | code::LOCKED => error(
            ErrorCode::LockNotAvailable,
            "canceling statement due to lock timeout",
        ),
        code::READONLY => error(
            ErrorCode::ReadOnlyTransaction,
            "cannot execute a write in a read-only transaction",
        ),
        code::AUTH | code::PERM => error(ErrorCode::InsufficientPrivilege, "permission denied"),
        code::CORRUPT | code::NOTADB => SqlError::new(
            ErrorCode::Corrupted,
            format!("the state is damaged: {message}"),
        ),
        code::IOERR => SqlError::new(
            ErrorCode::Internal,
            format!("could not read or write the state: {message}"),
        ),
        code::MISMATCH => SqlError::new(
            ErrorCode::DatatypeMismatch,
            format!("a value has another type than its column: {message}"),
        ),
        code::CONSTRAINT => {
            SqlError::new(ErrorCode::IntegrityViolation, readable(catalog, message))
        }
        _ => generic(catalog, message),
    }
}

/// As [`translate`], for a failure while the statements of a DDL statement run: then it is existing
/// rows that violate a new constraint. `catalog` is the one after the statement.
#[must_use]
pub fn translate_ddl(catalog: &Catalog, extended_code: i32, message: &str) -> SqlError {
    // A table that is being rebuilt is `r104` for the time.
    let message = message
        .replace("constraint failed: r", "constraint failed: t")
        .replace(", r", ", t");
    let error = translate(catalog, extended_code, &message);
    // Of a domain's conditions no table is told.
    let Some(table) = error.table.clone() else {
        return error;
    };
    let rephrased = match (error.code, &error.constraint, &error.column) {
        (ErrorCode::UniqueViolation, Some(name), _) => {
            format!("could not create unique index \"{name}\"")
        }
        (ErrorCode::NotNullViolation, _, Some(column)) => {
            format!("column \"{column}\" of relation \"{table}\" contains null values")
        }
        (ErrorCode::CheckViolation, Some(name), _) => {
            format!("check constraint \"{name}\" of relation \"{table}\" is violated by some row")
        }
        _ => return error,
    };
    let mut again = SqlError::new(error.code, rephrased).with_table(table);
    if let Some(name) = &error.constraint {
        again = again.with_constraint(name);
    }
    if let Some(column) = &error.column {
        again = again.with_column(column);
    }
    again
}

/// A foreign key of `child` that finds no parent. `values` are those of the child's key columns, in
/// the key's order; `child_changed` says whether it was the child's row that came or changed, and
/// not the parent's that went.
///
/// `PRAGMA foreign_key_check` names a key by its fourth column, counting a table's keys from the last
/// to the first: `table.foreign_keys.iter().rev().nth(ordinal)`.
#[must_use]
pub fn foreign_key_violation(
    catalog: &Catalog,
    child: &Table,
    key: &ForeignKey,
    values: Option<&[Value]>,
    child_changed: bool,
) -> SqlError {
    let parent = catalog.table(CollectionId(key.parent)).map(AsRef::as_ref);
    let parent_name = parent.map_or("?", |parent| parent.name.name.as_str());
    let child_name = &child.name.name;
    let (message, named, columns) = if child_changed {
        let message = format!(
            "insert or update on table \"{child_name}\" violates foreign key constraint \"{}\"",
            key.name
        );
        (message, Some(child), &key.columns)
    } else {
        let message = format!(
            "update or delete on table \"{parent_name}\" violates foreign key constraint \"{}\" on table \"{child_name}\"",
            key.name
        );
        (message, parent, &key.parent_columns)
    };
    let error = SqlError::new(ErrorCode::ForeignKeyViolation, message)
        .with_table(child_name)
        .with_constraint(&key.name);
    let (Some(named), Some(values)) = (named, values) else {
        return error;
    };
    let columns: Vec<_> = columns
        .iter()
        .filter_map(|&id| named.column_by_id(id))
        .map(|(_, column)| column)
        .collect();
    if columns.len() != values.len() {
        return error;
    }
    let text = values_text(
        columns
            .iter()
            .map(|column| (column.name.as_str(), &column.pg_type))
            .zip(values.iter().map(Value::as_ref)),
    );
    error.with_detail(if child_changed {
        format!("Key {text} is not present in table \"{parent_name}\".")
    } else {
        format!("Key {text} is still referenced from table \"{child_name}\".")
    })
}

/// A definition's NOTICE, with the code that PostgreSQL gives it: that of the error which it stands for
/// if something is there already, none if something is not.
#[must_use]
pub fn definition_notice(text: &str) -> SqlError {
    let code = match (text.contains("already exists"), text.split(' ').next()) {
        (false, _) => ErrorCode::Success,
        (true, Some("relation")) => ErrorCode::DuplicateTable,
        (true, Some("column")) => ErrorCode::DuplicateColumn,
        (true, Some("schema")) => ErrorCode::DuplicateSchema,
        (true, _) => ErrorCode::DuplicateObject,
    };
    SqlError::new(code, text)
}

/// A NULL for a column that takes none.
#[must_use]
pub fn not_null_violation(table: &Table, column: &str, row: FailedRow<'_>) -> SqlError {
    let error = SqlError::new(
        ErrorCode::NotNullViolation,
        format!(
            "null value in column \"{column}\" of relation \"{}\" violates not-null constraint",
            table.name.name
        ),
    )
    .with_table(&table.name.name)
    .with_column(column);
    with_failing_row(error, table, row)
}

/// `k105t104c3`: a condition of the domain that a column is of.
fn domain_check(catalog: &Catalog, named: &str) -> Option<SqlError> {
    let (check, place) = named.strip_prefix('k')?.split_once('t')?;
    let (table, column) = place.split_once('c')?;
    let (_, check) = catalog.domain_check(check.parse().ok()?)?;
    let table = catalog.table(CollectionId(table.parse().ok()?))?;
    let (_, column) = table.column_by_id(column.parse().ok()?)?;
    let crate::types::PgType::Domain(domain) = &column.pg_type else {
        return None;
    };
    Some(domain_violation(domain.name(), check))
}

/// A value that a domain does not take; it takes no NULL if no constraint is named.
#[must_use]
pub fn domain_violation(domain: &str, constraint: Option<&str>) -> SqlError {
    match constraint {
        Some(constraint) => SqlError::new(
            ErrorCode::CheckViolation,
            format!("value for domain {domain} violates check constraint \"{constraint}\""),
        )
        .with_constraint(constraint),
        None => SqlError::new(
            ErrorCode::NotNullViolation,
            format!("domain {domain} does not allow null values"),
        ),
    }
}

/// A second row with the key `name`, which is over these columns (by id).
#[must_use]
pub fn unique_violation(
    table: &Table,
    name: &str,
    columns: &[u32],
    row: FailedRow<'_>,
) -> SqlError {
    let error = SqlError::new(
        ErrorCode::UniqueViolation,
        format!("duplicate key value violates unique constraint \"{name}\""),
    )
    .with_table(&table.name.name)
    .with_constraint(name);
    match row
        .filter(|_| !columns.is_empty())
        .and_then(|row| key_text(table, columns, row))
    {
        Some(text) => error.with_detail(format!("Key {text} already exists.")),
        None => error,
    }
}

impl Validation {
    pub(crate) fn new(sql: String, error: SqlError) -> Validation {
        Validation {
            sql,
            error,
            key: Vec::new(),
            key_is: String::new(),
        }
    }

    /// With a detail that names the values of these columns (by id), which the query returns.
    pub(crate) fn with_key(mut self, table: &Table, columns: &[u32], key_is: String) -> Validation {
        self.key = columns
            .iter()
            .filter_map(|&id| table.column_by_id(id))
            .map(|(_, column)| (column.name.clone(), column.pg_type.clone()))
            .collect();
        self.key_is = key_is;
        self
    }

    /// The answer, given the row that the query returned.
    #[must_use]
    pub fn error(&self, row: &[ValueRef<'_>]) -> SqlError {
        if self.key.is_empty() || row.len() < self.key.len() {
            return self.error.clone();
        }
        let columns = self
            .key
            .iter()
            .map(|(name, pg_type)| (name.as_str(), pg_type));
        let text = values_text(columns.zip(row.iter().copied()));
        self.error
            .clone()
            .with_detail(format!("Key {text} {}", self.key_is))
    }
}

fn constraint(
    catalog: &Catalog,
    extended_code: i32,
    message: &str,
    row: FailedRow<'_>,
) -> Option<SqlError> {
    let named = message
        .split_once("constraint failed: ")
        .map(|(_, named)| named.trim());
    match extended_code {
        code::CONSTRAINT_NOTNULL => {
            let (table, column) = storage_column(catalog, named?)?;
            let (_, column) = table.column_by_storage_name(column)?;
            Some(not_null_violation(table, &column.name, row))
        }
        code::CONSTRAINT_CHECK => {
            if let Some(error) = named.and_then(|named| domain_check(catalog, named)) {
                return Some(error);
            }
            let (table, check) = catalog.check_by_storage_name(named?)?;
            let error = SqlError::new(
                ErrorCode::CheckViolation,
                format!(
                    "new row for relation \"{}\" violates check constraint \"{}\"",
                    table.name.name, check.name
                ),
            )
            .with_table(&table.name.name)
            .with_constraint(&check.name);
            Some(with_failing_row(error, table, row))
        }
        code::CONSTRAINT_UNIQUE | code::CONSTRAINT_PRIMARYKEY | code::CONSTRAINT_ROWID => {
            unique(catalog, named?, row)
        }
        // What RESTRICT says: SQLite has a trigger for it.
        code::CONSTRAINT_FOREIGNKEY | code::CONSTRAINT_TRIGGER => Some(SqlError::new(
            ErrorCode::ForeignKeyViolation,
            "a foreign key constraint is violated",
        )),
        code::CONSTRAINT_DATATYPE => Some(SqlError::new(
            ErrorCode::DatatypeMismatch,
            readable(catalog, message),
        )),
        _ => None,
    }
}

/// `UNIQUE constraint failed: t104.c1, t104.c2` or `…: index 'i106'`.
fn unique(catalog: &Catalog, named: &str, row: FailedRow<'_>) -> Option<SqlError> {
    if let Some(index) = named
        .strip_prefix("index '")
        .and_then(|rest| rest.strip_suffix('\''))
    {
        if let Some(id) = index.strip_prefix('p').and_then(|id| id.parse().ok()) {
            let table = catalog.table(CollectionId(id))?;
            return Some(unique_violation(
                table,
                table.key_name.as_deref()?,
                &table.key_ids(),
                row,
            ));
        }
        let (table, name) = catalog.unique_by_storage_name(index)?;
        let columns = table
            .unique_named(name)
            .map_or(&[][..], |unique| unique.columns.as_slice());
        return Some(unique_violation(table, name, columns, row));
    }
    let mut table = None;
    let mut columns = Vec::new();
    for part in named.split(", ") {
        let (of, column) = storage_column(catalog, part)?;
        columns.push(of.column_by_storage_name(column)?.1.id);
        table = Some(of);
    }
    let table = table?;
    let name = index_over(table, &columns)?;
    Some(unique_violation(table, name, &columns, row))
}

/// The key, unique constraint or unique index over exactly these columns.
fn index_over<'a>(table: &'a Table, columns: &[u32]) -> Option<&'a str> {
    if table.key_ids() == columns {
        // The hidden key is never given by a user, so it is never given twice.
        return table.key_name.as_deref();
    }
    let unique = table
        .uniques
        .iter()
        .find(|unique| unique.columns == columns)
        .map(|unique| unique.name.as_str());
    unique.or_else(|| {
        table
            .indexes
            .iter()
            .filter(|index| index.unique)
            .find(|index| index.column_ids(table).as_deref() == Some(columns))
            .map(|index| index.name.as_str())
    })
}

/// `t104.c1`.
fn storage_column<'a, 'n>(catalog: &'a Catalog, named: &'n str) -> Option<(&'a Table, &'n str)> {
    let (table, column) = named.split_once('.')?;
    Some((catalog.table_by_storage_name(table)?, column))
}

/// `(a, b)=(1, x)`.
fn key_text(table: &Table, columns: &[u32], row: &[ValueRef<'_>]) -> Option<String> {
    let mut values = Vec::with_capacity(columns.len());
    for &id in columns {
        let (place, column) = table.column_by_id(id)?;
        values.push(((column.name.as_str(), &column.pg_type), *row.get(place)?));
    }
    Some(values_text(values.into_iter()))
}

fn values_text<'v>(values: impl Iterator<Item = ((&'v str, &'v PgType), ValueRef<'v>)>) -> String {
    let (mut names, mut texts) = (Vec::new(), Vec::new());
    for ((name, pg_type), value) in values {
        names.push(name);
        texts.push(value_text(pg_type, value));
    }
    format!("({})=({})", names.join(", "), texts.join(", "))
}

fn value_text(pg_type: &PgType, value: ValueRef<'_>) -> String {
    if value.is_null() {
        return "null".to_owned();
    }
    let mut out = Vec::new();
    output_text(pg_type, value, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The most characters of a value in a "Failing row contains", as in PostgreSQL.
const FAILING_VALUE_CHARS: usize = 64;

fn with_failing_row(error: SqlError, table: &Table, row: FailedRow<'_>) -> SqlError {
    let Some(row) = row.filter(|row| row.len() == table.columns.len()) else {
        return error;
    };
    let values: Vec<String> = table
        .visible_columns()
        .map(|(place, column)| {
            let text = value_text(&column.pg_type, row[place]);
            match text.char_indices().nth(FAILING_VALUE_CHARS) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        })
        .collect();
    error.with_detail(format!("Failing row contains ({}).", values.join(", ")))
}

/// What SQLite says when a statement is past one of its limits, in words of ours.
#[must_use]
pub fn limit(message: &str) -> Option<SqlError> {
    let known = [
        (
            "integer overflow",
            ErrorCode::NumericOutOfRange,
            "bigint out of range",
        ),
        (
            "string or blob too big",
            ErrorCode::StatementTooLarge,
            "a value is too large",
        ),
        (
            "too many terms in compound SELECT",
            ErrorCode::TooComplex,
            "the statement is too complex",
        ),
        (
            "Expression tree is too large",
            ErrorCode::TooComplex,
            "the statement is too complex",
        ),
        (
            "parser stack overflow",
            ErrorCode::TooComplex,
            "the statement is too complex",
        ),
        (
            "too many columns",
            ErrorCode::StatementTooLarge,
            "too many columns",
        ),
        (
            "at most 64 tables in a join",
            ErrorCode::TooComplex,
            "at most 64 tables can be joined",
        ),
    ];
    let (_, code, text) = known
        .into_iter()
        .find(|(text, ..)| message.contains(text))?;
    Some(SqlError::new(code, text))
}

/// What SQLite says without a code of its own: mostly errors of functions.
fn generic(catalog: &Catalog, message: &str) -> SqlError {
    limit(message).unwrap_or_else(|| SqlError::new(ErrorCode::Internal, readable(catalog, message)))
}

/// SQLite's text with the users' names in place of storage names.
fn readable(catalog: &Catalog, message: &str) -> String {
    message
        .split(' ')
        .map(|word| {
            let bare = word.trim_end_matches([',', ':', ';']);
            match storage_column(catalog, bare) {
                Some((table, column)) => {
                    let column = table
                        .column_by_storage_name(column)
                        .map_or(column, |(_, column)| &column.name);
                    format!("{}.{column}{}", table.name.name, &word[bare.len()..])
                }
                None => word.to_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
