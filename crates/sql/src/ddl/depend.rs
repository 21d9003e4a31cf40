//! What depends on what: who stands in the way of a DROP, in PostgreSQL's words, and what CASCADE
//! takes with it.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};

use super::change::Change;
use super::draft::Draft;
use crate::catalog::{Definition, Table, View};

/// Something that cannot be without what it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dependent {
    ForeignKey {
        table: CollectionId,
        name: String,
    },
    View(u32),
    /// A column's default that takes numbers from a sequence.
    Default {
        table: CollectionId,
        column: u32,
    },
    GeneratedColumn {
        table: CollectionId,
        column: u32,
    },
    Check {
        table: CollectionId,
        name: String,
    },
    Trigger(u32),
    Column {
        table: CollectionId,
        column: u32,
    },
    Routine(u32),
    Policy {
        table: CollectionId,
        name: String,
    },
    /// A domain.
    Type(u32),
}

/// Dependents, each with what it depends on.
#[derive(Debug, Default)]
pub(super) struct Dependents {
    found: Vec<(Dependent, String)>,
}

impl Dependents {
    /// Adds one that is not among them yet.
    pub(super) fn add(&mut self, dependent: Dependent, on: &str) {
        if !self.found.iter().any(|(other, _)| *other == dependent) {
            self.found.push((dependent, on.to_owned()));
        }
    }

    /// Foreign keys of other tables (of none in `besides`) to this one that `filter` picks.
    pub(super) fn add_foreign_keys(
        &mut self,
        change: &Change<'_>,
        parent: &Table,
        besides: &[CollectionId],
        on: &str,
        filter: impl Fn(&crate::catalog::ForeignKey) -> bool,
    ) {
        for &child in change.catalog.children(parent.collection()) {
            if besides.contains(&child) {
                continue;
            }
            let Some(child) = change.catalog.table(child) else {
                continue;
            };
            for key in child
                .foreign_keys
                .iter()
                .filter(|key| key.parent == parent.id && filter(key))
            {
                let dependent = Dependent::ForeignKey {
                    table: child.collection(),
                    name: key.name.clone(),
                };
                self.add(dependent, on);
            }
        }
    }

    /// Views over the relation with this id, and the views over those.
    pub(super) fn add_views(
        &mut self,
        change: &Change<'_>,
        relation: u32,
        on: &str,
        filter: &dyn Fn(&View) -> bool,
    ) {
        let mut views: Vec<&Arc<View>> = change
            .catalog
            .views
            .values()
            .filter(|view| view.depends_on.contains(&relation) && filter(view))
            .collect();
        views.sort_unstable_by_key(|view| view.id);
        for view in views {
            self.add(Dependent::View(view.id), on);
            self.add_views(
                change,
                view.id,
                &format!("view {}", view.name.name),
                &|_| true,
            );
        }
    }

    /// Leaves out those that go anyway.
    pub(super) fn without(&mut self, gone: &[Dependent]) {
        self.found
            .retain(|(dependent, _)| !gone.contains(dependent));
    }

    /// With CASCADE drops them all, else refuses if there is one. `what` is to be dropped
    /// (`table a`), or several things (`None`).
    ///
    /// # Errors
    /// 2BP01, naming each.
    pub(super) fn resolve(
        self,
        change: &mut Change<'_>,
        what: Option<&str>,
        cascade: bool,
    ) -> Result<(), SqlError> {
        if self.found.is_empty() {
            return Ok(());
        }
        let described: Vec<String> = self
            .found
            .iter()
            .map(|(dependent, _)| dependent.describe(change))
            .collect();
        if !cascade {
            let lines: Vec<String> = described
                .iter()
                .zip(&self.found)
                .map(|(dependent, (_, on))| format!("{dependent} depends on {on}"))
                .collect();
            let message = match what {
                Some(what) => format!("cannot drop {what} because other objects depend on it"),
                None => {
                    "cannot drop desired object(s) because other objects depend on them".to_owned()
                }
            };
            return Err(SqlError::new(ErrorCode::DependentObjects, message)
                .with_detail(lines.join("\n"))
                .with_hint("Use DROP ... CASCADE to drop the dependent objects too."));
        }
        match described.as_slice() {
            [one] => change.notices.push(format!("drop cascades to {one}")),
            many => change
                .notices
                .push(format!("drop cascades to {} other objects", many.len())),
        }
        for (dependent, _) in self.found {
            dependent.remove(change)?;
        }
        Ok(())
    }
}

impl Dependent {
    fn describe(&self, change: &Change<'_>) -> String {
        let table_name = |id: CollectionId| {
            change
                .catalog
                .table(id)
                .map_or("?", |table| table.name.name.as_str())
        };
        let column_name = |table: CollectionId, column: u32| {
            change
                .catalog
                .table(table)
                .and_then(|table| table.column_by_id(column))
                .map_or("?", |(_, column)| column.name.as_str())
        };
        match self {
            Dependent::Trigger(id) => match super::trigger::relation_of(&change.catalog, *id) {
                Some((name, relation)) => format!("trigger {name} on {relation}"),
                None => "trigger ?".to_owned(),
            },
            Dependent::ForeignKey { table, name } | Dependent::Check { table, name } => {
                format!("constraint {name} on table {}", table_name(*table))
            }
            Dependent::View(id) => {
                format!(
                    "view {}",
                    change
                        .catalog
                        .view(*id)
                        .map_or("?", |view| view.name.name.as_str())
                )
            }
            Dependent::Default { table, column } => format!(
                "default value for column {} of table {}",
                column_name(*table, *column),
                table_name(*table)
            ),
            Dependent::Policy { table, name } => {
                format!("policy {name} on table {}", table_name(*table))
            }
            Dependent::Routine(id) => match change.catalog.routines.get(id) {
                Some(routine) => format!("{} {}", routine.kind(), routine.signature()),
                None => "function ?".to_owned(),
            },
            Dependent::Type(id) => match change.catalog.types.get(id) {
                Some(of) => format!("type {}", of.name.name),
                None => "type ?".to_owned(),
            },
            Dependent::GeneratedColumn { table, column } | Dependent::Column { table, column } => {
                format!(
                    "column {} of table {}",
                    column_name(*table, *column),
                    table_name(*table)
                )
            }
        }
    }

    fn remove(self, change: &mut Change<'_>) -> Result<(), SqlError> {
        match self {
            Dependent::ForeignKey { table, name } => {
                let Some(table) = change.table(table) else {
                    return Ok(());
                };
                let mut draft = Draft::new(&table);
                draft.table.foreign_keys.retain(|key| key.name != name);
                draft.write(change)
            }
            Dependent::Check { table, name } => {
                let Some(table) = change.table(table) else {
                    return Ok(());
                };
                let mut draft = Draft::new(&table);
                draft.table.checks.retain(|check| check.name != name);
                draft.write(change)
            }
            Dependent::Trigger(id) => {
                if let Some(trigger) = change.catalog.triggers.get(&id) {
                    let trigger = crate::catalog::Trigger::clone(trigger);
                    change.drop(Definition::Trigger(trigger));
                }
                Ok(())
            }
            Dependent::View(id) => {
                super::trigger::drop_triggers_of(change, id);
                if let Some(view) = change.catalog.view(id) {
                    let view = View::clone(view);
                    change.drop(Definition::View(view));
                }
                Ok(())
            }
            Dependent::Default { table, column } => {
                let Some(table) = change.table(table) else {
                    return Ok(());
                };
                let mut draft = Draft::new(&table);
                for changed in draft
                    .table
                    .columns
                    .iter_mut()
                    .filter(|changed| changed.id == column)
                {
                    changed.default = None;
                    changed.sequence = None;
                    changed.identity = false;
                    changed.identity_always = false;
                }
                draft.write(change)
            }
            Dependent::Policy { table, name } => {
                let Some(table) = change.table(table) else {
                    return Ok(());
                };
                let mut draft = Draft::new(&table);
                let policies = &mut draft.table.access.policies;
                policies.retain(|policy| policy.name != name);
                draft.write(change)
            }
            Dependent::Routine(id) => {
                if let Some(routine) = change.catalog.routines.get(&id) {
                    let routine = crate::catalog::Routine::clone(routine);
                    change.drop(Definition::Routine(routine));
                }
                Ok(())
            }
            Dependent::Type(id) => {
                if let Some(of) = change.catalog.types.get(&id) {
                    let of = crate::catalog::UserType::clone(of);
                    change.drop(Definition::Type(of));
                }
                Ok(())
            }
            Dependent::GeneratedColumn { table, column } | Dependent::Column { table, column } => {
                let Some(table) = change.table(table) else {
                    return Ok(());
                };
                let mut draft = Draft::new(&table);
                super::alter::forget_column(&mut draft.table, column)?;
                draft.write(change)
            }
        }
    }
}
