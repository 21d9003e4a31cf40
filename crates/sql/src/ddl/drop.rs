//! DROP TABLE, VIEW, SEQUENCE and INDEX.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{ObjectName, ObjectType};

use super::change::Change;
use super::constraint::{Guard, unique_over};
use super::depend::{Dependent, Dependents};
use super::draft::Draft;
use super::expression;
use super::names::{check_owner, qualified};
use super::sequence;
use crate::catalog::{Definition, QualifiedName, Relation, Table, View};
use crate::plan::{PlanKind, display_name};

/// Plans DROP of relations.
pub(super) fn relations(
    mut change: Change<'_>,
    kind: &ObjectType,
    names: &[ObjectName],
    if_exists: bool,
    cascade: bool,
) -> Result<PlanKind, SqlError> {
    let mut found = Vec::new();
    for name in names {
        let name = qualified(name)?;
        match change.catalog.relation(&name) {
            Some(relation) => {
                expect_kind(kind, &name, relation)?;
                if !found.contains(&(name.clone(), relation)) {
                    found.push((name, relation));
                }
            }
            None if if_exists => {
                change.notices.push(format!(
                    "{} \"{}\" does not exist, skipping",
                    word(kind),
                    name.name
                ));
            }
            None => {
                let code = match kind {
                    ObjectType::Index => ErrorCode::UndefinedObject,
                    _ => ErrorCode::UndefinedTable,
                };
                return Err(SqlError::new(
                    code,
                    format!("{} \"{}\" does not exist", word(kind), display_name(&name)),
                ));
            }
        }
    }
    match kind {
        ObjectType::Table => tables(&mut change, &found, cascade)?,
        ObjectType::View => views(&mut change, &found, cascade)?,
        ObjectType::Sequence => sequences(&mut change, &found, cascade)?,
        ObjectType::Index => {
            for (name, relation) in &found {
                index(&mut change, name, *relation, cascade)?;
            }
        }
        other => return Err(SqlError::unsupported(format_args!("DROP {other}"))),
    }
    Ok(change.finish())
}

fn word(kind: &ObjectType) -> &'static str {
    match kind {
        ObjectType::View => "view",
        ObjectType::Sequence => "sequence",
        ObjectType::Index => "index",
        _ => "table",
    }
}

fn expect_kind(
    kind: &ObjectType,
    name: &QualifiedName,
    relation: Relation,
) -> Result<(), SqlError> {
    let (is, hint) = match relation {
        Relation::Table(_) => (ObjectType::Table, "Use DROP TABLE to remove a table."),
        Relation::View(_) => (ObjectType::View, "Use DROP VIEW to remove a view."),
        Relation::Sequence(_) => (
            ObjectType::Sequence,
            "Use DROP SEQUENCE to remove a sequence.",
        ),
        Relation::Index(_) => (ObjectType::Index, "Use DROP INDEX to remove an index."),
    };
    if is == *kind {
        return Ok(());
    }
    let article = if matches!(kind, ObjectType::Index) {
        "an"
    } else {
        "a"
    };
    Err(SqlError::new(
        ErrorCode::WrongObjectType,
        format!("\"{}\" is not {article} {}", name.name, word(kind)),
    )
    .with_hint(hint))
}

/// What a statement of one or several names is about, for its error.
fn subject(found: &[(QualifiedName, Relation)], kind: &str) -> Option<String> {
    match found {
        [(name, _)] => Some(format!("{kind} {}", name.name)),
        _ => None,
    }
}

fn tables(
    change: &mut Change<'_>,
    found: &[(QualifiedName, Relation)],
    cascade: bool,
) -> Result<(), SqlError> {
    let going: Vec<Arc<Table>> = found
        .iter()
        .filter_map(|(_, relation)| match relation {
            Relation::Table(id) => change.table(*id),
            _ => None,
        })
        .collect();
    let ids: Vec<CollectionId> = going.iter().map(|table| table.collection()).collect();
    let mut dependents = Dependents::default();
    for table in &going {
        check_owner(table)?;
        let on = format!("table {}", table.name.name);
        dependents.add_foreign_keys(change, table, &ids, &on, |_| true);
        dependents.add_views(change, table.id, &on, &|_| true);
        let elsewhere = super::policy::elsewhere(&change.catalog, table.id, &table.name.name, None);
        for (other, name) in elsewhere {
            if !ids.contains(&other.collection()) {
                let table = other.collection();
                dependents.add(Dependent::Policy { table, name }, &on);
            }
        }
        for sequence in owned_sequences(change, table.id, None) {
            add_users(change, &mut dependents, sequence, |table, _| {
                ids.contains(&table)
            });
        }
    }
    dependents.resolve(change, subject(found, "table").as_deref(), cascade)?;
    for table in &going {
        for sequence in owned_sequences(change, table.id, None) {
            sequence::remove(change, sequence);
        }
        super::trigger::drop_triggers_of(change, table.id);
        // As it is now: a cascade may have changed it.
        if let Some(table) = change.table(table.collection()) {
            change
                .statements
                .push(format!("DROP TABLE {}", table.storage_name()));
            change.drop(Definition::Table(Table::clone(&table)));
            // SQLite would delete the rows one by one to see to foreign keys.
            change.rebuilds = true;
        }
    }
    Ok(())
}

/// Sequences owned by a table, or by one of its columns.
pub(super) fn owned_sequences(change: &Change<'_>, table: u32, column: Option<u32>) -> Vec<u32> {
    let mut owned: Vec<u32> = change
        .catalog
        .sequences
        .values()
        .filter(|sequence| {
            sequence.owned_by.is_some_and(|(owner, of)| {
                owner == table && column.is_none_or(|column| column == of)
            })
        })
        .map(|sequence| sequence.id)
        .collect();
    owned.sort_unstable();
    owned
}

/// Defaults that take numbers from a sequence, but those that go with it.
pub(super) fn add_users(
    change: &Change<'_>,
    dependents: &mut Dependents,
    sequence: u32,
    goes: impl Fn(CollectionId, u32) -> bool,
) {
    let on = change
        .catalog
        .sequence(sequence)
        .map_or_else(String::new, |sequence| {
            format!("sequence {}", sequence.name.name)
        });
    for (table, column) in sequence::users(change, sequence) {
        if !goes(table, column) {
            dependents.add(Dependent::Default { table, column }, &on);
        }
    }
}

fn views(
    change: &mut Change<'_>,
    found: &[(QualifiedName, Relation)],
    cascade: bool,
) -> Result<(), SqlError> {
    let going: Vec<Arc<View>> = found
        .iter()
        .filter_map(|(_, relation)| match relation {
            Relation::View(id) => change.catalog.view(*id).cloned(),
            _ => None,
        })
        .collect();
    let mut dependents = Dependents::default();
    for view in &going {
        dependents.add_views(
            change,
            view.id,
            &format!("view {}", view.name.name),
            &|_| true,
        );
    }
    let themselves: Vec<Dependent> = going.iter().map(|view| Dependent::View(view.id)).collect();
    dependents.without(&themselves);
    dependents.resolve(change, subject(found, "view").as_deref(), cascade)?;
    for view in going {
        super::trigger::drop_triggers_of(change, view.id);
        change.drop(Definition::View(View::clone(&view)));
    }
    Ok(())
}

fn sequences(
    change: &mut Change<'_>,
    found: &[(QualifiedName, Relation)],
    cascade: bool,
) -> Result<(), SqlError> {
    let mut dependents = Dependents::default();
    let mut going = Vec::new();
    for (name, relation) in found {
        let Relation::Sequence(id) = relation else {
            continue;
        };
        going.push(*id);
        for (table, column) in sequence::users(change, *id) {
            let Some(table) = change.catalog.table(table) else {
                continue;
            };
            let Some((_, column)) = table
                .column_by_id(column)
                .filter(|(_, column)| column.identity)
            else {
                continue;
            };
            return Err(SqlError::new(
                ErrorCode::DependentObjects,
                format!(
                    "cannot drop sequence {} because column {} of table {} requires it",
                    name.name, column.name, table.name.name
                ),
            )
            .with_hint(format!(
                "You can drop column {} of table {} instead.",
                column.name, table.name.name
            )));
        }
        add_users(change, &mut dependents, *id, |_, _| false);
    }
    dependents.resolve(change, subject(found, "sequence").as_deref(), cascade)?;
    for id in going {
        sequence::remove(change, id);
    }
    Ok(())
}

fn index(
    change: &mut Change<'_>,
    name: &QualifiedName,
    relation: Relation,
    cascade: bool,
) -> Result<(), SqlError> {
    let Relation::Index(table) = relation else {
        return Ok(());
    };
    let Some(table) = change.table(table) else {
        return Ok(());
    };
    check_owner(&table)?;
    let Some(index) = table.index_named(&name.name) else {
        return Err(SqlError::new(
            ErrorCode::DependentObjects,
            format!(
                "cannot drop index {0} because constraint {0} on table {1} requires it",
                name.name, table.name.name
            ),
        )
        .with_hint(format!(
            "You can drop constraint {} on table {} instead.",
            name.name, table.name.name
        )));
    };
    let mut dependents = Dependents::default();
    if index.unique {
        let on = format!("index {}", name.name);
        let guard = Guard::Index(name.name.clone());
        dependents.add_foreign_keys(change, &table, &[], &on, |key| {
            unique_over(&table, &key.parent_columns).as_ref() == Some(&guard)
        });
    }
    dependents.resolve(change, Some(&format!("index {}", name.name)), cascade)?;
    if let Some(table) = change.table(table.collection()) {
        let mut draft = Draft::new(&table);
        draft.table.indexes.retain(|index| index.name != name.name);
        draft.write(change)?;
    }
    Ok(())
}

/// Whether a view's text names a column: then it counts as depending on it. Its columns are not
/// followed further, so a column of the same name of another table counts too.
pub(super) fn view_names(view: &View, column: &str) -> bool {
    expression::mentions(&view.query, column)
}
