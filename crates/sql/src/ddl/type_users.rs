//! What uses a user's type: whose rows and definitions follow a renamed value, what keeps its values
//! from changing, and what goes with it.

use std::sync::Arc;

use springhead_proto::{CollectionId, SqlError};

use super::change::Change;
use super::depend::{Dependent, Dependents};
use super::{expression, storage};
use crate::catalog::{Catalog, Table, UserType};
use crate::query::names::quote_text;
use crate::types::PgType;

/// The tables with columns of the type, or of one over it.
pub(super) fn tables_of(catalog: &Catalog, id: u32) -> Vec<Arc<Table>> {
    let uses = |ty: &PgType| ty.user_types().contains(&id);
    catalog
        .tables_by_id()
        .into_iter()
        .filter(|table| table.columns.iter().any(|column| uses(&column.pg_type)))
        .cloned()
        .collect()
}

/// SQLite keeps the order of an enum's values where a CHECK, an index or a generated column compares
/// them: there it cannot change.
pub(super) fn refuse_kept_order(
    change: &Change<'_>,
    before: &Catalog,
    of: &UserType,
) -> Result<(), SqlError> {
    for old in tables_of(before, of.id) {
        let Some(new) = change.table(old.collection()) else {
            continue;
        };
        if storage::create(before, &old)? != storage::create(&change.catalog, &new)? {
            return Err(SqlError::unsupported(format_args!(
                "changing the values of the type \"{}\" while a constraint, an index or a generated column of the table \"{}\" compares them",
                of.name.name, old.name.name
            )));
        }
    }
    Ok(())
}

/// Rows that hold a value under its old label.
pub(super) fn rename_in_rows(change: &mut Change<'_>, of: &UserType, from: &str, to: &str) {
    let (from, to) = (quote_text(from), quote_text(to));
    for table in tables_of(&change.catalog, of.id) {
        for column in &table.columns {
            if !column.pg_type.user_types().contains(&of.id) || column.generated.is_some() {
                continue;
            }
            let (table, column, ty) = (
                table.storage_name(),
                column.storage_name(),
                column.pg_type.of_value(),
            );
            change.updates.push(if matches!(ty, PgType::Array(_)) {
                format!(
                    "UPDATE {table} SET {column} = (SELECT json_group_array(CASE WHEN e.value = {from} THEN {to} ELSE e.value END) FROM json_each({table}.{column}) AS e) WHERE EXISTS (SELECT 1 FROM json_each({table}.{column}) AS e WHERE e.value = {from})"
                )
            } else {
                format!("UPDATE {table} SET {column} = {to} WHERE {column} = {from}")
            });
        }
    }
}

/// Defaults get the new label; what else is written with the old one stands in the way.
pub(super) fn rename_in_definitions(
    change: &mut Change<'_>,
    of: &UserType,
    from: &str,
    to: &str,
) -> Result<(), SqlError> {
    let holds = |text: &str| expression::has_string(text, from);
    let refuse = |what: String| {
        Err(SqlError::unsupported(format_args!(
            "renaming the value \"{from}\" of the type \"{}\" while {what} names it",
            of.name.name
        )))
    };
    for table in tables_of(&change.catalog, of.id) {
        let mut new = Table::clone(&table);
        for column in &mut new.columns {
            let is_of = column.pg_type.user_types().contains(&of.id);
            if let (Some(default), true) = (&column.default, is_of)
                && holds(default)
            {
                column.default = Some(expression::replace_string(default, from, to)?);
            }
            if column.generated.as_deref().is_some_and(holds) {
                return refuse(format!("the generated column \"{}\"", column.name));
            }
        }
        if let Some(check) = new.checks.iter().find(|check| holds(&check.expression)) {
            return refuse(format!("the constraint \"{}\"", check.name));
        }
        let index = new.indexes.iter().find(|index| {
            index
                .keys
                .iter()
                .chain(&index.predicate)
                .any(|text| holds(text))
        });
        if let Some(index) = index {
            return refuse(format!("the index \"{}\"", index.name));
        }
        let policy = new.access.policies.iter().find(|policy| {
            [&policy.using, &policy.check]
                .into_iter()
                .flatten()
                .any(|text| holds(text))
        });
        if let Some(policy) = policy {
            return refuse(format!("the policy \"{}\"", policy.name));
        }
        if new != *table {
            change.put_table(new);
        }
    }
    let catalog = Arc::clone(&change.catalog);
    if let Some(view) = catalog.views.values().find(|view| holds(&view.query)) {
        return refuse(format!("the view \"{}\"", view.name.name));
    }
    if let Some(routine) = catalog
        .routines
        .values()
        .find(|routine| holds(&routine.body))
    {
        return refuse(format!("the function \"{}\"", routine.name.name));
    }
    let trigger = catalog
        .triggers
        .values()
        .find(|trigger| trigger.condition.as_deref().is_some_and(holds));
    if let Some(trigger) = trigger {
        return refuse(format!("the trigger \"{}\"", trigger.name.name));
    }
    Ok(())
}

/// A definition's text that says a type's name.
pub(super) fn mentioned_by(catalog: &Catalog, name: &str) -> Option<String> {
    let says = |text: &str| expression::mentions(text, name);
    for table in catalog.tables_by_id() {
        let in_column = table.columns.iter().any(|column| {
            [&column.default, &column.generated]
                .into_iter()
                .flatten()
                .any(|text| says(text))
        });
        let in_rest = table.checks.iter().any(|check| says(&check.expression))
            || table.indexes.iter().any(|index| {
                index
                    .keys
                    .iter()
                    .chain(&index.predicate)
                    .any(|text| says(text))
            });
        if in_column || in_rest {
            return Some(format!("the table \"{}\"", table.name.name));
        }
    }
    if let Some(view) = catalog.views.values().find(|view| says(&view.query)) {
        return Some(format!("the view \"{}\"", view.name.name));
    }
    catalog
        .routines
        .values()
        .find(|routine| says(&routine.body))
        .map(|routine| format!("the function \"{}\"", routine.name.name))
}

/// What goes with a type.
pub(super) fn add_dependents(
    change: &Change<'_>,
    dependents: &mut Dependents,
    of: &UserType,
    on: &str,
) {
    let uses = |ty: &PgType| ty.user_types().contains(&of.id);
    let name = &of.name.name;
    let says = |text: &str| expression::mentions(text, name);
    let catalog = Arc::clone(&change.catalog);
    for table in catalog.tables_by_id() {
        let id: CollectionId = table.collection();
        for column in &table.columns {
            if uses(&column.pg_type) {
                let column_name = column.name.clone();
                dependents.add(
                    Dependent::Column {
                        table: id,
                        column: column.id,
                    },
                    on,
                );
                let on = format!("column {column_name} of table {}", table.name.name);
                dependents.add_views(change, table.id, &on, &|view| {
                    expression::mentions(&view.query, &column_name)
                });
            } else if column.default.as_deref().is_some_and(says) {
                dependents.add(
                    Dependent::Default {
                        table: id,
                        column: column.id,
                    },
                    on,
                );
            }
        }
        for check in table.checks.iter().filter(|check| says(&check.expression)) {
            dependents.add(
                Dependent::Check {
                    table: id,
                    name: check.name.clone(),
                },
                on,
            );
        }
    }
    let mut views: Vec<_> = catalog.views.values().collect();
    views.sort_unstable_by_key(|view| view.id);
    for view in views {
        if says(&view.query) || view.columns.iter().any(|(_, ty)| uses(ty)) {
            dependents.add(Dependent::View(view.id), on);
            dependents.add_views(
                change,
                view.id,
                &format!("view {}", view.name.name),
                &|_| true,
            );
        }
    }
    let mut routines: Vec<_> = catalog.routines.values().collect();
    routines.sort_unstable_by_key(|routine| routine.id);
    for routine in routines {
        if routine.types().any(uses) {
            dependents.add(Dependent::Routine(routine.id), on);
            super::routine::add_dependents(
                change,
                dependents,
                routine,
                &format!("function {}", routine.signature()),
            );
        }
    }
    let mut types: Vec<_> = catalog.types.values().collect();
    types.sort_unstable_by_key(|of| of.id);
    for over in types {
        if over.domain().is_some_and(|domain| uses(&domain.base)) {
            dependents.add(Dependent::Type(over.id), on);
            let on = format!("type {}", over.name.name);
            add_dependents(change, dependents, over, &on);
        }
    }
}
