//! Statements as a session knows them: their plan, and how a client's parameters become values.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::access::Identity;
use springhead_sql::plan::{Parameter, TransactionControl};
use springhead_sql::{PgType, Plan, PlanKind, lift, types};

use super::Session;
use crate::plans::Template;

/// A statement that has been parsed and planned.
pub struct Statement {
    /// The plan as of when it was prepared; for describing it.
    pub plan: Arc<Plan>,
    /// As its author wrote it.
    sql: String,
    types: Vec<Option<PgType>>,
    /// For whom it was planned.
    identity: Arc<Identity>,
    roles_version: u64,
}

/// A parameter's value as a client sends it.
#[derive(Debug, Clone, Copy)]
pub enum ParamValue<'a> {
    Null,
    Text(&'a str),
    Binary(&'a [u8]),
    Json(&'a serde_json::Value),
}

impl Statement {
    /// The statement as it was written.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// Whether it begins or ends a transaction (BEGIN, COMMIT, ROLLBACK).
    #[must_use]
    pub fn bounds_transaction(&self) -> bool {
        matches!(
            self.plan.kind,
            PlanKind::Transaction(
                TransactionControl::Begin { .. }
                    | TransactionControl::Commit { .. }
                    | TransactionControl::Rollback { .. }
            )
        )
    }

    pub(super) fn prepare(
        session: &Session,
        sql: &str,
        types: &[Option<PgType>],
    ) -> Result<Statement, SqlError> {
        let plan = plan_text(session, sql, types)?;
        Ok(Statement {
            plan,
            sql: sql.to_owned(),
            types: types.to_vec(),
            identity: Arc::clone(&session.plan_context.identity),
            roles_version: session.plan_context.roles.version(),
        })
    }

    /// The plan for the catalog that the session sees now.
    pub(super) fn current_plan(&self, session: &Session) -> Result<Arc<Plan>, SqlError> {
        let context = &session.plan_context;
        let same_rights =
            Arc::ptr_eq(&self.identity, &context.identity) || self.identity == context.identity;
        if self.plan.catalog_version == session.catalog().version
            && same_rights
            && self.roles_version == context.roles.version()
        {
            return Ok(Arc::clone(&self.plan));
        }
        let plan = plan_text(session, &self.sql, &self.types)?;
        let same = |a: &[Parameter], b: &[Parameter]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.pg_type == b.pg_type)
        };
        if !same(&plan.parameters, &self.plan.parameters) || columns(&plan) != columns(&self.plan) {
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "cached plan must not change result type",
            )
            .with_hint("prepare the statement again"));
        }
        Ok(plan)
    }
}

fn columns(plan: &Plan) -> Option<&[springhead_sql::plan::OutputColumn]> {
    match &plan.kind {
        PlanKind::Query(query) => Some(&query.columns),
        PlanKind::Write(write) => Some(&write.returning),
        _ => None,
    }
}

/// Plans `sql` as it is written.
pub(super) fn plan_text(
    session: &Session,
    sql: &str,
    types: &[Option<PgType>],
) -> Result<Arc<Plan>, SqlError> {
    if sql.is_empty() {
        return Ok(Arc::new(Plan {
            catalog_version: session.catalog().version,
            parameters: Vec::new(),
            system: false,
            kind: PlanKind::NoEffect(""),
            library: None,
        }));
    }
    session
        .tenant
        .plans
        .text(&session.catalog(), sql, types, &session.plan_context)
}

/// Plans a statement of a simple query, with its literals as parameters where that is sound.
pub(super) fn plan_simple(
    session: &mut Session,
    sql: &str,
) -> Result<(Arc<Plan>, Vec<Value>), SqlError> {
    let mut lifted = std::mem::take(&mut session.lifted);
    let planned = if sql.len() <= session.plan_context.max_statement_bytes
        && lift::lift(sql, &mut lifted)
        && lifted.parameters == 0
    {
        match session
            .tenant
            .plans
            .template(&session.catalog(), &lifted, &session.plan_context)
        {
            Template::Plan(plan) => {
                convert_literals(&plan, &lifted).map(|params| Some((plan, params)))
            }
            Template::Unliftable => Ok(None),
        }
    } else {
        Ok(None)
    };
    session.lifted = lifted;
    match planned? {
        Some(planned) => Ok(planned),
        None => {
            let plan = plan_text(session, sql, &[])?;
            if !plan.parameters.is_empty() {
                return Err(SqlError::new(
                    ErrorCode::UndefinedParameter,
                    "there is no parameter $1",
                )
                .with_hint("a simple query has no parameters; prepare the statement"));
            }
            Ok((plan, Vec::new()))
        }
    }
}

fn convert_literals(plan: &Plan, lifted: &lift::Lifted) -> Result<Vec<Value>, SqlError> {
    plan.parameters
        .iter()
        .zip(lifted.texts())
        .map(|(parameter, text)| types::input(&parameter.pg_type, text))
        .collect()
}

/// A client's parameters as values to bind.
pub(super) fn convert(plan: &Plan, params: &[ParamValue<'_>]) -> Result<Vec<Value>, SqlError> {
    if params.len() != plan.parameters.len() {
        return Err(SqlError::new(
            ErrorCode::ProtocolViolation,
            format!(
                "the statement takes {} parameters, and {} were given",
                plan.parameters.len(),
                params.len()
            ),
        ));
    }
    plan.parameters
        .iter()
        .zip(params)
        .enumerate()
        .map(|(index, (parameter, value))| {
            convert_one(parameter, *value).map_err(|error| match error.code {
                ErrorCode::InvalidTextRepresentation if error.detail.is_none() => {
                    error.with_detail(format!("parameter ${}", index + 1))
                }
                _ => error,
            })
        })
        .collect()
}

/// One of a client's values as a value to bind, where its parameter goes.
pub(crate) fn convert_one(parameter: &Parameter, value: ParamValue<'_>) -> Result<Value, SqlError> {
    let converted = match value {
        ParamValue::Null => Value::Null,
        ParamValue::Text(text) => types::input(&parameter.pg_type, text)?,
        ParamValue::Binary(bytes) => types::input_binary(&parameter.pg_type, bytes)?,
        ParamValue::Json(json) => types::input_json(&parameter.pg_type, json)?,
    };
    expect_not_null(parameter, &converted)?;
    Ok(converted)
}

/// What a value that goes straight into a column must be, which nobody asks once it is bound.
///
/// # Errors
/// 23502 for NULL where the column takes none.
pub(super) fn expect_not_null(parameter: &Parameter, value: &Value) -> Result<(), SqlError> {
    let Some(column) = parameter.assigned_to.as_ref() else {
        return Ok(());
    };
    if *value != Value::Null || !column.not_null {
        return Ok(());
    }
    Err(SqlError::new(
        ErrorCode::NotNullViolation,
        format!(
            "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
            column.column, column.table
        ),
    )
    .with_table(column.table.clone())
    .with_column(column.column.clone()))
}
