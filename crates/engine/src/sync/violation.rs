//! What the database says against an operation, as a violation; or that it is nobody's fault.

use springhead_proto::sync::{Operation, Verb, Violation};
use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::catalog::{Catalog, ForeignKey, Table};

use super::statement::columns;

/// Why an operation was not applied.
#[derive(Debug)]
pub(crate) struct Objection {
    pub violation: Violation,
    /// The place of the operation in its mutation.
    pub operation: usize,
    /// The policy or constraint that is violated, by name.
    pub by: Option<String>,
    /// The error that it comes from; not for the author.
    pub error: SqlError,
}

/// The violation that an error is; `None` for one that says nothing about the mutation, which may
/// be tried again.
pub(crate) fn violation_of(
    catalog: &Catalog,
    table: Option<&Table>,
    operation: &Operation,
    error: &SqlError,
) -> Option<Violation> {
    // What a trigger did elsewhere is told by that table's name.
    let named = (error.table.as_deref())
        .and_then(|name| catalog.table_named(&springhead_sql::catalog::QualifiedName::public(name)))
        .map(AsRef::as_ref);
    let own = table.filter(|table| named.is_none_or(|named| named.id == table.id));
    Some(match error.code {
        ErrorCode::InsufficientPrivilege if is_policy(error) => Violation::Policy,
        ErrorCode::InsufficientPrivilege | ErrorCode::ReadOnlyTransaction => {
            Violation::PermissionDenied
        }
        ErrorCode::UniqueViolation => match unique_columns(own, error) {
            Some(columns) => Violation::Unique {
                value: sent(operation, table, &columns),
                column: columns.join(","),
            },
            None => Violation::Unique {
                column: error.constraint.clone().unwrap_or_default(),
                value: String::new(),
            },
        },
        ErrorCode::ForeignKeyViolation => Violation::ForeignKey {
            column: match named.or(table).and_then(|table| foreign_key(table, error)) {
                Some((table, key)) => table.column_names(&key.columns).join(","),
                None => error.constraint.clone().unwrap_or_default(),
            },
        },
        ErrorCode::NotNullViolation => Violation::NotNull {
            column: error.column.clone().unwrap_or_default(),
        },
        ErrorCode::CheckViolation => Violation::Check {
            constraint: error.constraint.clone().unwrap_or_default(),
        },
        ErrorCode::InvalidTextRepresentation
        | ErrorCode::NumericOutOfRange
        | ErrorCode::StringTooLong
        | ErrorCode::InvalidDatetime
        | ErrorCode::DatetimeOverflow
        | ErrorCode::InvalidByteSequence
        | ErrorCode::InvalidBinaryRepresentation
        | ErrorCode::UntranslatableCharacter
        | ErrorCode::DatatypeMismatch
        | ErrorCode::CannotCoerce
        | ErrorCode::UndefinedFunction => Violation::Type {
            column: match &error.column {
                Some(column) => column.clone(),
                None => columns(operation)
                    .first()
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
            },
        },
        ErrorCode::UndefinedTable | ErrorCode::UndefinedColumn => Violation::SchemaStale,
        ErrorCode::StatementTooLarge => Violation::TooLarge,
        ErrorCode::InvalidParameterValue | ErrorCode::ProtocolViolation => Violation::Malformed,
        code if is_nobodys_fault(code) => return None,
        _ => Violation::Constraint {
            detail: error.message.clone(),
        },
    })
}

/// Whether the same mutation may well succeed a moment later.
fn is_nobodys_fault(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::TooManyRequests
            | ErrorCode::TooManyConnections
            | ErrorCode::AdminShutdown
            | ErrorCode::CannotConnectNow
            | ErrorCode::LockNotAvailable
            | ErrorCode::QueryCanceled
            | ErrorCode::SerializationFailure
            | ErrorCode::SnapshotTooOld
            | ErrorCode::Corrupted
            | ErrorCode::OutcomeUnknown
            | ErrorCode::TenantDropped
            | ErrorCode::Internal
    )
}

fn is_policy(error: &SqlError) -> bool {
    error.message.contains("row-level security policy")
}

/// The policy or constraint that an error is about, by name.
pub(crate) fn by(error: &SqlError) -> Option<String> {
    if error.constraint.is_some() {
        return error.constraint.clone();
    }
    // PostgreSQL's words: … row-level security policy "name" for table "t".
    let (_, rest) = error.message.split_once("row-level security policy \"")?;
    rest.split_once('"').map(|(name, _)| name.to_owned())
}

/// The columns of the constraint that an error names.
pub(crate) fn unique_columns(table: Option<&Table>, error: &SqlError) -> Option<Vec<String>> {
    let table = table?;
    let name = error.constraint.as_deref()?;
    let ids = if table.key_name.as_deref() == Some(name) {
        table.key_ids()
    } else if let Some(unique) = table.unique_named(name) {
        unique.columns.clone()
    } else {
        table.index_named(name)?.column_ids(table)?
    };
    let names = table.column_names(&ids);
    Some(names.into_iter().map(str::to_owned).collect())
}

/// What the author sent for columns, as text.
fn sent(operation: &Operation, table: Option<&Table>, columns: &[String]) -> String {
    let values: Vec<String> = (columns.iter())
        .map(|column| {
            sent_value(operation, table, column).map_or_else(String::new, ToString::to_string)
        })
        .collect();
    values.join(",")
}

/// What the author sent for a column, key included.
pub(crate) fn sent_value<'o>(
    operation: &'o Operation,
    table: Option<&Table>,
    column: &str,
) -> Option<&'o springhead_proto::sync::SyncValue> {
    let given = match &operation.verb {
        Verb::Insert(columns) | Verb::Set(columns) => columns.get(column),
        _ => None,
    };
    let place = || {
        let place = table?.key_columns().position(|key| key.name == column)?;
        operation.id.get(place)
    };
    given.or_else(place)
}

/// The foreign key that an error names, with the table that has it.
pub(crate) fn foreign_key<'t>(
    table: &'t Table,
    error: &SqlError,
) -> Option<(&'t Table, &'t ForeignKey)> {
    let key = table.foreign_key_named(error.constraint.as_deref()?)?;
    Some((table, key))
}
