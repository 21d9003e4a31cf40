//! CREATE, ALTER and DROP POLICY.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    AlterPolicy, AlterPolicyOperation, CreatePolicy, CreatePolicyCommand, CreatePolicyType,
    DropPolicy, Expr, Ident, ObjectName, Owner,
};

use super::change::Change;
use super::names::{fold, grantable_table, qualified};
use super::permit;
use crate::catalog::{Catalog, Policy, PolicyCommand, Table};
use crate::plan::PlanKind;
use crate::planner::PlanContext;
use crate::query::expression::table_relation;
use crate::query::scope::Scope;
use crate::query::{Analyzer, Rules};

/// Plans CREATE POLICY.
pub(super) fn create(
    mut change: Change<'_>,
    statement: &CreatePolicy,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    let table = target(&change, &statement.table_name)?;
    let name = fold(&statement.name);
    if table.access.policy(&name).is_some() {
        return Err(taken(&name, &table));
    }
    let policy = Policy {
        name,
        permissive: !matches!(statement.policy_type, Some(CreatePolicyType::Restrictive)),
        command: match &statement.command {
            None | Some(CreatePolicyCommand::All) => PolicyCommand::All,
            Some(CreatePolicyCommand::Select) => PolicyCommand::Select,
            Some(CreatePolicyCommand::Insert) => PolicyCommand::Insert,
            Some(CreatePolicyCommand::Update) => PolicyCommand::Update,
            Some(CreatePolicyCommand::Delete) => PolicyCommand::Delete,
        },
        roles: roles(statement.to.as_deref(), context)?,
        known_as: table.name.name.clone(),
        using: text(&change, &table, statement.using.as_ref(), context)?,
        check: text(&change, &table, statement.with_check.as_ref(), context)?,
    };
    check_clauses(&policy)?;
    let mut table = Table::clone(&table);
    table.access.policies.push(policy);
    change.put_table(table);
    Ok(change.finish())
}

/// Plans ALTER POLICY.
pub(super) fn alter(
    mut change: Change<'_>,
    statement: &AlterPolicy,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    let table = target(&change, &statement.table_name)?;
    let name = fold(&statement.name);
    let mut altered = Table::clone(&table);
    let Some(policy) = (altered.access.policies.iter_mut()).find(|policy| policy.name == name)
    else {
        return Err(unknown(&name, &table));
    };
    match &statement.operation {
        AlterPolicyOperation::Rename { new_name } => {
            let new_name = fold(new_name);
            if table.access.policy(&new_name).is_some() {
                return Err(taken(&new_name, &table));
            }
            policy.name = new_name;
        }
        AlterPolicyOperation::Apply {
            to,
            using,
            with_check,
        } => {
            if to.is_some() {
                policy.roles = roles(to.as_deref(), context)?;
            }
            if using.is_some() || with_check.is_some() {
                if policy.known_as != table.name.name {
                    return Err(SqlError::unsupported(
                        "new conditions for a policy whose table has been renamed since",
                    ));
                }
                if using.is_some() {
                    policy.using = text(&change, &table, using.as_ref(), context)?;
                }
                if with_check.is_some() {
                    policy.check = text(&change, &table, with_check.as_ref(), context)?;
                }
            }
            check_clauses(policy)?;
        }
    }
    change.put_table(altered);
    Ok(change.finish())
}

/// Plans DROP POLICY.
pub(super) fn drop(mut change: Change<'_>, statement: &DropPolicy) -> Result<PlanKind, SqlError> {
    let name = fold(&statement.name);
    let table_name = qualified(&statement.table_name)?;
    if statement.if_exists && change.catalog.relation(&table_name).is_none() {
        change.notices.push(format!(
            "relation \"{}\" does not exist, skipping",
            table_name.name
        ));
        return Ok(change.finish());
    }
    let table = target(&change, &statement.table_name)?;
    if table.access.policy(&name).is_none() {
        let error = unknown(&name, &table);
        if !statement.if_exists {
            return Err(error);
        }
        change.notices.push(format!("{}, skipping", error.message));
        return Ok(change.finish());
    }
    let mut table = Table::clone(&table);
    table.access.policies.retain(|policy| policy.name != name);
    change.put_table(table);
    Ok(change.finish())
}

fn target(change: &Change<'_>, name: &ObjectName) -> Result<Arc<Table>, SqlError> {
    grantable_table(&change.catalog, &qualified(name)?).cloned()
}

fn taken(name: &str, table: &Table) -> SqlError {
    SqlError::new(
        ErrorCode::DuplicateObject,
        format!(
            "policy \"{name}\" for table \"{}\" already exists",
            table.name.name
        ),
    )
}

fn unknown(name: &str, table: &Table) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedObject,
        format!(
            "policy \"{name}\" for table \"{}\" does not exist",
            table.name.name
        ),
    )
}

/// The roles of TO; none for PUBLIC.
fn roles(to: Option<&[Owner]>, context: &PlanContext) -> Result<Vec<String>, SqlError> {
    let mut roles = Vec::new();
    for owner in to.unwrap_or_default() {
        let name = match owner {
            Owner::Ident(ident) if is_public(ident) => return Ok(Vec::new()),
            Owner::Ident(ident) => fold(ident),
            Owner::CurrentRole | Owner::CurrentUser | Owner::SessionUser => {
                context.identity.role.to_string()
            }
        };
        let role = permit::role(&name, context)?;
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    Ok(roles)
}

fn is_public(ident: &Ident) -> bool {
    fold(ident) == "public"
}

/// PostgreSQL's rules of which clauses a command has.
fn check_clauses(policy: &Policy) -> Result<(), SqlError> {
    let wrong = match policy.command {
        PolicyCommand::Insert if policy.using.is_some() => {
            "only WITH CHECK expression allowed for INSERT"
        }
        PolicyCommand::Select | PolicyCommand::Delete if policy.check.is_some() => {
            "WITH CHECK cannot be applied to SELECT or DELETE"
        }
        _ => return Ok(()),
    };
    Err(SqlError::new(ErrorCode::SyntaxError, wrong))
}

/// The text to keep of a condition, once it has been analyzed.
fn text(
    change: &Change<'_>,
    table: &Table,
    expr: Option<&Expr>,
    context: &PlanContext,
) -> Result<Option<String>, SqlError> {
    let Some(expr) = expr else {
        return Ok(None);
    };
    let mut analyzer = Analyzer::new(&change.catalog, change.source(), context, &[], usize::MAX);
    analyzer.rules = Rules {
        no_parameters: true,
        ..Rules::default()
    };
    let relation = table_relation(table, &table.name.name, Some("r0"));
    let scope = Scope {
        columns: relation.columns.clone(),
        relations: vec![relation],
        aggregates_refused: Some("policy expressions"),
        windows_refused: Some("policy expressions"),
        ..Scope::default()
    };
    analyzer.in_scope(scope, |analyzer| analyzer.condition(expr, "POLICY"))?;
    if analyzer.has_effects || analyzer.sets || !analyzer.sequences.is_empty() {
        return Err(SqlError::unsupported(
            "a function called for its effect in a policy",
        ));
    }
    Ok(Some(expr.to_string()))
}

/// The texts of a policy's conditions.
fn conditions(policy: &Policy) -> impl Iterator<Item = &str> {
    [&policy.using, &policy.check]
        .into_iter()
        .flatten()
        .map(String::as_str)
}

/// Policies of a table that name one of its columns.
pub(super) fn of_column<'a>(table: &'a Table, column: &str) -> impl Iterator<Item = &'a Policy> {
    table.access.policies.iter().filter(move |policy| {
        conditions(policy).any(|text| super::expression::mentions(text, column))
    })
}

/// Policies of other tables whose queries name a relation, and (with `column`) a column of that name.
pub(super) fn elsewhere(
    catalog: &Catalog,
    relation: u32,
    name: &str,
    column: Option<&str>,
) -> Vec<(Arc<Table>, String)> {
    let says = super::expression::mentions;
    let mut found = Vec::new();
    for table in catalog.tables_by_id() {
        for policy in &table.access.policies {
            let names = conditions(policy)
                .any(|text| says(text, name) && column.is_none_or(|column| says(text, column)));
            if table.id != relation && names {
                found.push((Arc::clone(table), policy.name.clone()));
            }
        }
    }
    found
}

/// A column's new name in the policies of its table.
///
/// # Errors
/// 0A000 where a query names it: which column it means is not looked for there.
pub(super) fn rename_column(
    catalog: &Catalog,
    table: &mut Table,
    from: &str,
    to: &str,
) -> Result<(), SqlError> {
    let refuse = |policy: &str, on: &str| {
        Err(SqlError::unsupported(format_args!(
            "renaming the column \"{from}\", which a query in the policy \"{policy}\" on \"{on}\" names,"
        )))
    };
    if let Some((on, policy)) = elsewhere(catalog, table.id, &table.name.name, Some(from)).first() {
        return refuse(policy, &on.name.name);
    }
    let on = table.name.name.clone();
    for policy in &mut table.access.policies {
        let known_as = policy.known_as.clone();
        for text in [&mut policy.using, &mut policy.check].into_iter().flatten() {
            if !super::expression::mentions(text, from) {
                continue;
            }
            if super::expression::has_query(text)? {
                return refuse(&policy.name, &on);
            }
            *text = super::expression::rename_in(text, from, to)?;
            *text = super::expression::rename_in_rows(text, &[&known_as], from, to)?;
        }
    }
    Ok(())
}
