//! Applies a mutation again for its author: each operation is a statement that is planned and run as
//! any client's, so that grants, policies, constraints and triggers hold.

use std::fmt::Write;
use std::sync::Arc;

use springhead_proto::sync::{Mutation, Operation, SyncValue, Verb, Violation};
use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::catalog::Table;
use springhead_sql::{PlanKind, planner};
use tokio::sync::oneshot;

use super::run::NotDone;
use super::{Request, Writer};
use crate::cdc::find_collection;
use crate::dead_letters::Rights;
use crate::functions::CancelFlag;
use crate::session::{ParamValue, convert_one};

/// Why a mutation was not applied. What it has done is still to be rolled back.
pub(super) enum Unapplied {
    /// The database has something against it: the violation, and the error that it came as.
    Objected(Violation, SqlError),
    NotDone(NotDone),
}

impl From<SqlError> for Unapplied {
    fn from(error: SqlError) -> Unapplied {
        Unapplied::NotDone(NotDone::Failed(error))
    }
}

impl Writer {
    /// Runs the operations in the open transaction.
    pub(super) fn reapply(
        &mut self,
        mutation: &Mutation,
        rights: &Rights,
    ) -> Result<(), Unapplied> {
        for operation in &mutation.operations {
            match self.reapply_one(operation, rights) {
                Ok(()) => {}
                Err(NotDone::Failed(error) | NotDone::TransactionLost(error))
                    if !self.conn.is_autocommit() =>
                {
                    return Err(Unapplied::Objected(violation(operation, &error), error));
                }
                Err(other) => return Err(Unapplied::NotDone(other)),
            }
        }
        Ok(())
    }

    fn reapply_one(&mut self, operation: &Operation, rights: &Rights) -> Result<(), NotDone> {
        let table = Arc::clone(find_collection(&self.catalog, &operation.collection)?);
        let (sql, values) = statement(&table, operation)?;
        let mut plan = planner::plan(&self.catalog, &sql, &[], &rights.plan_context)?;
        if let PlanKind::Write(write) = &mut plan.kind {
            // It runs in a savepoint of its own, whatever it fails of.
            write.touches_foreign_keys = true;
        }
        let mut params = Vec::with_capacity(values.len());
        for (parameter, value) in plan.parameters.iter().zip(values) {
            let text = value.to_string();
            params.push(match value {
                SyncValue::Null => convert_one(parameter, ParamValue::Null)?,
                _ => convert_one(parameter, ParamValue::Text(&text))?,
            });
        }
        // Nobody waits for it: the retry is what is answered.
        let (reply, _) = oneshot::channel();
        let request = Request {
            plan: Arc::new(plan),
            params,
            rows: None,
            session: Arc::clone(&rights.session),
            cancel: Arc::new(CancelFlag::default()),
            reply,
        };
        let executed = self.execute(&request)?;
        if executed.affected == 0 && !matches!(operation.verb, Verb::Insert(_)) {
            return Err(SqlError::new(ErrorCode::NotFound, Violation::NO_DOCUMENT).into());
        }
        Ok(())
    }
}

/// The statement that an operation is, and the values of its parameters.
fn statement<'o>(
    table: &Table,
    operation: &'o Operation,
) -> Result<(String, Vec<&'o SyncValue>), SqlError> {
    let target = format!("{}.{}", quote(&table.name.schema), quote(&table.name.name));
    let keys: Vec<&str> = table.key_columns().map(|key| key.name.as_str()).collect();
    if !table.has_declared_key() || keys.len() != operation.id.len() {
        return Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!(
                "the id has {} values, the key has {} columns",
                operation.id.len(),
                keys.len()
            ),
        ));
    }
    let mut values: Vec<&SyncValue> = operation.id.iter().collect();
    let matches: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(index, key)| format!("{} = ${}", quote(key), index + 1))
        .collect();
    let matches = matches.join(" AND ");
    let update = |values: &mut Vec<&'o SyncValue>,
                  columns: &'o [(String, SyncValue)],
                  form: fn(&str, usize) -> String| {
        let mut set = String::new();
        for (name, value) in columns {
            values.push(value);
            let name = quote(name);
            let separator = if set.is_empty() { "" } else { ", " };
            let _ = write!(set, "{separator}{name} = {}", form(&name, values.len()));
        }
        format!("UPDATE {target} SET {set} WHERE {matches}")
    };
    let sql = match &operation.verb {
        Verb::Insert(columns) => {
            let mut names: Vec<String> = keys.iter().map(|key| quote(key)).collect();
            for (name, value) in &columns.0 {
                if !keys.contains(&name.as_str()) {
                    names.push(quote(name));
                    values.push(value);
                }
            }
            let places: Vec<String> = (1..=values.len()).map(|n| format!("${n}")).collect();
            format!(
                "INSERT INTO {target} ({}) VALUES ({})",
                names.join(", "),
                places.join(", ")
            )
        }
        Verb::Delete => format!("DELETE FROM {target} WHERE {matches}"),
        Verb::Set(columns) => update(&mut values, &columns.0, |_, n| format!("${n}")),
        Verb::Inc(columns) => update(&mut values, &columns.0, |name, n| {
            format!("coalesce({name}, 0) + ${n}")
        }),
        Verb::Min(columns) => update(&mut values, &columns.0, |name, n| {
            format!("least({name}, ${n})")
        }),
        Verb::Max(columns) => update(&mut values, &columns.0, |name, n| {
            format!("greatest({name}, ${n})")
        }),
        Verb::SetAdd(_) | Verb::SetRemove(_) | Verb::Crdt(_) => {
            return Err(SqlError::unsupported(format_args!(
                "the operation \"{}\" here",
                operation.verb.word()
            )));
        }
    };
    Ok((sql, values))
}

/// What an error says about the mutation.
fn violation(operation: &Operation, error: &SqlError) -> Violation {
    let column = || error.column.clone().unwrap_or_default();
    let constraint = || error.constraint.clone().unwrap_or_default();
    match error.code {
        ErrorCode::UniqueViolation => Violation::Unique {
            column: constraint(),
            value: operation
                .id
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        },
        ErrorCode::ForeignKeyViolation => Violation::ForeignKey {
            column: constraint(),
        },
        ErrorCode::NotNullViolation => Violation::NotNull { column: column() },
        ErrorCode::CheckViolation => Violation::Check {
            constraint: constraint(),
        },
        ErrorCode::InsufficientPrivilege if error.message.contains("row-level security") => {
            Violation::Policy
        }
        ErrorCode::InsufficientPrivilege | ErrorCode::InvalidAuthorization => {
            Violation::PermissionDenied
        }
        ErrorCode::InvalidTextRepresentation
        | ErrorCode::NumericOutOfRange
        | ErrorCode::StringTooLong => Violation::Type { column: column() },
        ErrorCode::UndefinedTable | ErrorCode::UndefinedColumn => Violation::SchemaStale,
        _ => Violation::Constraint {
            detail: error.message.clone(),
        },
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
