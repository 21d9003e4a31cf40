//! RENAME of relations, columns and constraints: the catalog alone changes, since storage names are
//! ids. What was written about a renamed thing follows it.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use super::change::Change;
use super::constraint::{duplicate_constraint, relation_is_taken};
use super::draft::Draft;
use super::drop::view_names;
use super::expression;
use super::names::{check_owner, duplicate_relation};
use super::view;
use crate::catalog::{Definition, QualifiedName, Relation, Sequence, Table, View};
use crate::plan::display_name;

/// RENAME TO, of a table, view, sequence or index.
pub(super) fn relation(
    change: &mut Change<'_>,
    name: &QualifiedName,
    to: &str,
) -> Result<(), SqlError> {
    let to = QualifiedName::new(name.schema.clone(), to);
    let Some(relation) = change.catalog.relation(name) else {
        return Err(SqlError::new(
            ErrorCode::UndefinedTable,
            format!("relation \"{}\" does not exist", display_name(name)),
        ));
    };
    if change.catalog.relation(&to).is_some() {
        return Err(duplicate_relation(&to));
    }
    match relation {
        Relation::Table(id) => {
            let Some(table) = change.table(id) else {
                return Ok(());
            };
            check_owner(&table)?;
            refuse_in_policies(change, table.id, name)?;
            view::rename_relation(change, table.id, name, &to)?;
            let mut draft = Draft::new(&table);
            draft.table.name = to;
            draft.write(change)
        }
        Relation::View(id) => {
            let Some(renamed) = change.catalog.view(id) else {
                return Ok(());
            };
            let mut renamed = View::clone(renamed);
            refuse_in_policies(change, renamed.id, name)?;
            view::rename_relation(change, renamed.id, name, &to)?;
            renamed.name = to;
            change.put_view(renamed);
            Ok(())
        }
        Relation::Sequence(id) => {
            let Some(sequence) = change.catalog.sequence(id) else {
                return Ok(());
            };
            let mut sequence = Sequence::clone(sequence);
            sequence.name = to;
            change.put_sequence(sequence);
            Ok(())
        }
        Relation::Index(id) => {
            let Some(table) = change.table(id) else {
                return Ok(());
            };
            check_owner(&table)?;
            let mut draft = Draft::new(&table);
            rename_index(&mut draft.table, &name.name, &to.name);
            draft.write(change)
        }
    }
}

/// Queries of policies keep their text.
fn refuse_in_policies(
    change: &Change<'_>,
    relation: u32,
    name: &QualifiedName,
) -> Result<(), SqlError> {
    match super::policy::elsewhere(&change.catalog, relation, &name.name, None).first() {
        None => Ok(()),
        Some((table, policy)) => Err(SqlError::unsupported(format_args!(
            "renaming \"{}\", which the policy \"{policy}\" on \"{}\" names,",
            name.name, table.name.name
        ))),
    }
}

fn rename_index(table: &mut Table, from: &str, to: &str) {
    if table.key_name.as_deref() == Some(from) {
        table.key_name = Some(to.to_owned());
    }
    for name in table
        .uniques
        .iter_mut()
        .map(|unique| &mut unique.name)
        .chain(table.indexes.iter_mut().map(|index| &mut index.name))
    {
        if name == from {
            to.clone_into(name);
        }
    }
}

pub(super) fn column(
    change: &mut Change<'_>,
    table: &Arc<Table>,
    from: &str,
    to: String,
) -> Result<(), SqlError> {
    let (place, _) = table.column_named(from).ok_or_else(|| {
        SqlError::new(
            ErrorCode::UndefinedColumn,
            format!("column \"{from}\" does not exist"),
        )
    })?;
    if table.columns.iter().any(|column| column.name == to) {
        return Err(SqlError::new(
            ErrorCode::DuplicateColumn,
            format!(
                "column \"{to}\" of relation \"{}\" already exists",
                table.name.name
            ),
        ));
    }
    if let Some(view) = change
        .catalog
        .views
        .values()
        .find(|view| view.depends_on.contains(&table.id) && view_names(view, from))
    {
        return Err(SqlError::unsupported(format_args!(
            "renaming the column \"{from}\", which the view \"{}\" names,",
            view.name.name
        )));
    }
    let mut draft = Draft::new(table);
    for column in &mut draft.table.columns {
        if let Some(text) = &mut column.generated {
            *text = expression::rename_in(text, from, &to)?;
        }
    }
    for check in &mut draft.table.checks {
        check.expression = expression::rename_in(&check.expression, from, &to)?;
    }
    for index in &mut draft.table.indexes {
        for key in &mut index.keys {
            *key = expression::rename_in_key(key, from, &to)?;
        }
        if let Some(predicate) = &mut index.predicate {
            *predicate = expression::rename_in(predicate, from, &to)?;
        }
    }
    super::policy::rename_column(&change.catalog, &mut draft.table, from, &to)?;
    let triggers: Vec<_> = change.catalog.triggers_of(table.id).cloned().collect();
    for mut trigger in triggers {
        if let Some(condition) = &trigger.condition
            && expression::mentions(condition, from)
        {
            let renamed = expression::rename_in_rows(condition, &["old", "new"], from, &to)?;
            trigger.condition = Some(renamed);
            change.put(Definition::Trigger(trigger));
        }
    }
    if let Some(crdt) = draft.table.columns[place].crdt
        && let Some((state, _)) = draft.table.column_by_id(crdt.state)
    {
        draft.table.columns[state].name = super::crdt::state_name(&to);
    }
    draft.table.columns[place].name = to;
    draft.write(change)
}

pub(super) fn constraint(
    change: &mut Change<'_>,
    table: &Arc<Table>,
    from: &str,
    to: &str,
) -> Result<(), SqlError> {
    if !table.constraint_names().any(|name| name == from) {
        return Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!(
                "constraint \"{from}\" for table \"{}\" does not exist",
                table.name.name
            ),
        ));
    }
    if table.constraint_names().any(|name| name == to) {
        return Err(duplicate_constraint(table, to));
    }
    let is_index = table.key_name.as_deref() == Some(from) || table.unique_named(from).is_some();
    if is_index && relation_is_taken(change, table, to) {
        return Err(duplicate_relation(&QualifiedName::new(
            table.name.schema.clone(),
            to,
        )));
    }
    let mut draft = Draft::new(table);
    rename_index(&mut draft.table, from, to);
    for name in draft
        .table
        .checks
        .iter_mut()
        .map(|check| &mut check.name)
        .chain(draft.table.foreign_keys.iter_mut().map(|key| &mut key.name))
    {
        if name == from {
            to.clone_into(name);
        }
    }
    draft.write(change)
}
