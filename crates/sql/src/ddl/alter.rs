//! ALTER TABLE: each action changes a [`Draft`] of the table; the draft finds the statements.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnDef, DataType, DropBehavior, Expr,
    GeneratedAs, Ident, Owner, RenameTableNameKind, SqlOption, TableConstraint, Value,
};

use super::change::Change;
use super::constraint::{self, Guard, unique_over};
use super::depend::{Dependent, Dependents};
use super::draft::{Draft, widens};
use super::drop::{add_users, owned_sequences, view_names};
use super::expression::{self, Purpose};
use super::names::{fold, qualified};
use super::{permit, rename, sequence, storage, table as tables, types};
use crate::catalog::{Conflict, QualifiedName, Table};
use crate::functions;
use crate::plan::PlanKind;
use crate::planner::PlanContext;

/// Plans ALTER TABLE.
pub(super) fn plan(
    mut change: Change<'_>,
    statement: &AlterTable,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    use AlterTableOperation as Op;
    let name = qualified(&statement.name)?;
    if statement.operations.iter().all(has_no_effect) {
        return Ok(PlanKind::NoEffect("ALTER TABLE"));
    }
    if change.catalog.relation(&name).is_none() && statement.if_exists {
        change.notices.push(format!(
            "relation \"{}\" does not exist, skipping",
            name.name
        ));
        return Ok(change.finish());
    }
    match statement.operations.as_slice() {
        [
            Op::RenameTable {
                table_name: RenameTableNameKind::To(to) | RenameTableNameKind::As(to),
            },
        ] => {
            let to = qualified(to)?.name;
            rename::relation(&mut change, &name, &to)?;
            return Ok(change.finish());
        }
        [
            Op::RenameColumn {
                old_column_name,
                new_column_name,
            },
        ] => {
            let table = own(&change, &name)?;
            rename::column(
                &mut change,
                &table,
                &fold(old_column_name),
                fold(new_column_name),
            )?;
            return Ok(change.finish());
        }
        [Op::RenameConstraint { old_name, new_name }] => {
            let table = own(&change, &name)?;
            rename::constraint(&mut change, &table, &fold(old_name), &fold(new_name))?;
            return Ok(change.finish());
        }
        _ => {}
    }
    let table = if statement.operations.iter().all(is_about_rows) {
        super::names::grantable_table(&change.catalog, &name).cloned()?
    } else {
        own(&change, &name)?
    };
    let mut draft = Draft::new(&table);
    let mut operations: Vec<&Op> = statement.operations.iter().collect();
    operations.sort_by_key(|operation| pass(operation));
    for operation in operations {
        if !access(&mut draft.table, operation, context)? {
            apply(&mut change, &mut draft, operation)?;
        }
    }
    draft.write(&mut change)?;
    Ok(change.finish())
}

pub(super) fn own(change: &Change<'_>, name: &QualifiedName) -> Result<Arc<Table>, SqlError> {
    super::names::own_table(&change.catalog, name).cloned()
}

fn is_about_rows(operation: &AlterTableOperation) -> bool {
    use AlterTableOperation as Op;
    matches!(
        operation,
        Op::EnableRowLevelSecurity
            | Op::DisableRowLevelSecurity
            | Op::ForceRowLevelSecurity
            | Op::NoForceRowLevelSecurity
    )
}

fn has_no_effect(operation: &AlterTableOperation) -> bool {
    use AlterTableOperation as Op;
    match operation {
        // Storage parameters are PostgreSQL's business but for one.
        Op::SetOptionsParens { options } => conflict_option(options).is_none(),
        Op::ReplicaIdentity { .. } | Op::SetLogged | Op::SetUnlogged => true,
        _ => false,
    }
}

/// What `SET (conflict = …)` says.
fn conflict_option(options: &[SqlOption]) -> Option<&Expr> {
    options.iter().find_map(|option| match option {
        SqlOption::KeyValue { key, value } if fold(key) == "conflict" => Some(value),
        _ => None,
    })
}

fn conflict(value: &Expr) -> Result<Conflict, SqlError> {
    let text = match value {
        Expr::Identifier(name) => fold(name),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.to_lowercase(),
            other => other.to_string(),
        },
        other => other.to_string(),
    };
    match text.as_str() {
        "log" => Ok(Conflict::Log),
        "hlc" => Ok(Conflict::Hlc),
        other => Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("invalid value for option \"conflict\": {other}"),
        )
        .with_hint("Valid values are \"log\" and \"hlc\".")),
    }
}

/// PostgreSQL's order of the actions of one statement: what goes makes room for what comes.
fn pass(operation: &AlterTableOperation) -> u8 {
    use AlterTableOperation as Op;
    match operation {
        Op::DropColumn { .. } | Op::DropConstraint { .. } => 0,
        Op::AlterColumn {
            op: AlterColumnOperation::SetDataType { .. },
            ..
        } => 1,
        Op::AddColumn { .. } => 2,
        Op::AlterColumn { .. } => 3,
        Op::AddConstraint {
            constraint: TableConstraint::ForeignKey(_),
            ..
        } => 5,
        Op::AddConstraint { .. } => 4,
        _ => 6,
    }
}

fn apply(
    change: &mut Change<'_>,
    draft: &mut Draft,
    operation: &AlterTableOperation,
) -> Result<(), SqlError> {
    use AlterTableOperation as Op;
    match operation {
        operation if has_no_effect(operation) => Ok(()),
        Op::AddColumn {
            if_not_exists,
            column_def,
            column_position: None,
            ..
        } => add_column(change, draft, column_def, *if_not_exists),
        Op::DropColumn {
            column_names,
            if_exists,
            drop_behavior,
            ..
        } => {
            let cascade = matches!(drop_behavior, Some(DropBehavior::Cascade));
            column_names
                .iter()
                .try_for_each(|name| drop_column(change, draft, &fold(name), *if_exists, cascade))
        }
        Op::AddConstraint { constraint, .. } => {
            constraint::add(change, &mut draft.table, constraint)
        }
        Op::DropConstraint {
            if_exists,
            name,
            drop_behavior,
        } => {
            let cascade = matches!(drop_behavior, Some(DropBehavior::Cascade));
            drop_constraint(change, draft, &fold(name), *if_exists, cascade)
        }
        Op::ValidateConstraint { name } => {
            // Constraints are validated when they are added, those marked NOT VALID too.
            let name = fold(name);
            if draft.table.constraint_names().any(|other| other == name) {
                Ok(())
            } else {
                Err(undefined_constraint(&draft.table, &name))
            }
        }
        Op::AlterColumn { column_name, op } => alter_column(change, draft, column_name, op),
        other => Err(SqlError::unsupported(format_args!("ALTER TABLE … {other}"))),
    }
}

/// Actions about who may do what with the table; false for another's.
fn access(
    table: &mut Table,
    operation: &AlterTableOperation,
    context: &PlanContext,
) -> Result<bool, SqlError> {
    use AlterTableOperation as Op;
    match operation {
        Op::EnableRowLevelSecurity => table.access.row_security = true,
        Op::DisableRowLevelSecurity => table.access.row_security = false,
        Op::SetOptionsParens { options } => {
            if let Some(value) = conflict_option(options) {
                table.conflict = conflict(value)?;
            }
        }
        Op::ForceRowLevelSecurity => table.access.force_row_security = true,
        Op::NoForceRowLevelSecurity => table.access.force_row_security = false,
        Op::OwnerTo { new_owner } => {
            let name = match new_owner {
                Owner::Ident(ident) => fold(ident),
                Owner::CurrentRole | Owner::CurrentUser | Owner::SessionUser => {
                    context.identity.role.to_string()
                }
            };
            permit::change_owner(&mut table.access, permit::new_owner(&name, context)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn add_column(
    change: &mut Change<'_>,
    draft: &mut Draft,
    definition: &ColumnDef,
    if_not_exists: bool,
) -> Result<(), SqlError> {
    let name = fold(&definition.name);
    if draft.table.columns.iter().any(|column| column.name == name) {
        let message = format!(
            "column \"{name}\" of relation \"{}\" already exists",
            draft.table.name.name
        );
        if if_not_exists {
            change.notices.push(format!("{message}, skipping"));
            return Ok(());
        }
        return Err(SqlError::new(ErrorCode::DuplicateColumn, message));
    }
    tables::add_columns(change, &mut draft.table, std::slice::from_ref(definition))?;
    constraint::add_of_column(change, &mut draft.table, definition)?;
    let (_, column) = draft.table.expect_column(&name)?;
    let column = column.clone();
    draft.fill_new_column(change, &column)?;
    let state = (column.crdt).and_then(|crdt| draft.table.column_by_id(crdt.state));
    if let Some(state) = state.map(|(_, state)| state.clone()) {
        draft.fill_new_column(change, &state)?;
    }
    Ok(())
}

fn drop_column(
    change: &mut Change<'_>,
    draft: &mut Draft,
    name: &str,
    if_exists: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    let id = match draft.table.expect_column(name) {
        Ok((_, column)) => column.id,
        Err(error) if if_exists => {
            change.notices.push(format!("{}, skipping", error.message));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let table = draft.old.collection();
    let what = format!("column {name} of table {}", draft.table.name.name);
    let mut dependents = Dependents::default();
    dependents.add_foreign_keys(change, &draft.old, &[table], &what, |key| {
        key.parent_columns.contains(&id)
    });
    dependents.add_views(change, draft.old.id, &what, &|view| view_names(view, name));
    let mut generated = Vec::new();
    for column in draft.table.columns.iter().filter(|column| column.id != id) {
        if let Some(text) = &column.generated
            && expression::columns_in(&draft.table, text)?.contains(&id)
        {
            generated.push(column.id);
            dependents.add(
                Dependent::GeneratedColumn {
                    table,
                    column: column.id,
                },
                &what,
            );
        }
    }
    let owned = owned_sequences(change, draft.old.id, Some(id));
    for &sequence in &owned {
        add_users(change, &mut dependents, sequence, |user, column| {
            user == table && column == id
        });
    }
    for trigger in change.catalog.triggers_of(table.0) {
        let names = trigger.update_of.contains(&id)
            || (trigger.condition.as_deref()).is_some_and(|text| expression::mentions(text, name));
        if names {
            dependents.add(Dependent::Trigger(trigger.id), &what);
        }
    }
    let policies: Vec<String> = super::policy::of_column(&draft.table, name)
        .map(|policy| policy.name.clone())
        .collect();
    for policy in &policies {
        let name = policy.clone();
        dependents.add(Dependent::Policy { table, name }, &what);
    }
    for (on, policy) in
        super::policy::elsewhere(&change.catalog, table.0, &draft.old.name.name, Some(name))
    {
        let dependent = Dependent::Policy {
            table: on.collection(),
            name: policy,
        };
        dependents.add(dependent, &what);
    }
    // This table's own generated columns go in the draft: CASCADE must not write it by itself.
    let mine: Vec<Dependent> = generated
        .iter()
        .map(|&column| Dependent::GeneratedColumn { table, column })
        .chain(policies.iter().map(|name| Dependent::Policy {
            table,
            name: name.clone(),
        }))
        .collect();
    if cascade {
        dependents.without(&mine);
    }
    dependents.resolve(change, Some(&what), cascade)?;
    for column in generated {
        forget_column(&mut draft.table, column)?;
    }
    let own_policies = &mut draft.table.access.policies;
    own_policies.retain(|policy| !policies.contains(&policy.name));
    forget_column(&mut draft.table, id)?;
    // References of the table to itself.
    let own = draft.table.id;
    draft
        .table
        .foreign_keys
        .retain(|key| key.parent != own || !key.parent_columns.contains(&id));
    for sequence in owned {
        sequence::remove(change, sequence);
    }
    Ok(())
}

/// Takes a column out of a definition, with the constraints and indexes that look at it.
pub(super) fn forget_column(table: &mut Table, id: u32) -> Result<(), SqlError> {
    let before = table.clone();
    let looks =
        |text: &str| Ok::<bool, SqlError>(expression::columns_in(&before, text)?.contains(&id));
    let mut checks = Vec::with_capacity(table.checks.len());
    for check in table.checks.drain(..) {
        if !looks(&check.expression)? {
            checks.push(check);
        }
    }
    table.checks = checks;
    let mut indexes = Vec::with_capacity(table.indexes.len());
    for index in table.indexes.drain(..) {
        let mut looking = match &index.predicate {
            Some(predicate) => looks(predicate)?,
            None => false,
        };
        for key in &index.keys {
            looking |= expression::index_key_columns(&before, key)?.contains(&id);
        }
        if !looking {
            indexes.push(index);
        }
    }
    table.indexes = indexes;
    table.uniques.retain(|unique| !unique.columns.contains(&id));
    table.foreign_keys.retain(|key| !key.columns.contains(&id));
    let key = table.key_ids();
    let state = (before.column_by_id(id)).and_then(|(_, column)| column.crdt);
    table
        .columns
        .retain(|column| column.id != id && state.is_none_or(|crdt| crdt.state != column.id));
    if key.contains(&id) {
        table.key.clear();
        table.key_name = None;
    } else {
        table.key = places(table, &key);
    }
    Ok(())
}

fn places(table: &Table, ids: &[u32]) -> Vec<usize> {
    ids.iter()
        .filter_map(|&id| table.column_by_id(id))
        .map(|(place, _)| place)
        .collect()
}

fn drop_constraint(
    change: &mut Change<'_>,
    draft: &mut Draft,
    name: &str,
    if_exists: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    let table = &draft.table;
    let guard = if table.key_name.as_deref() == Some(name) {
        Guard::Key
    } else if table.unique_named(name).is_some() {
        Guard::Unique(name.to_owned())
    } else if table.check_named(name).is_some() || table.foreign_key_named(name).is_some() {
        draft.table.checks.retain(|check| check.name != name);
        draft.table.foreign_keys.retain(|key| key.name != name);
        return Ok(());
    } else {
        let error = undefined_constraint(table, name);
        if if_exists {
            change.notices.push(format!("{}, skipping", error.message));
            return Ok(());
        }
        return Err(error);
    };
    let relies = |key: &crate::catalog::ForeignKey| {
        unique_over(&draft.old, &key.parent_columns).as_ref() == Some(&guard)
    };
    let own = draft.old.collection();
    let mut dependents = Dependents::default();
    dependents.add_foreign_keys(change, &draft.old, &[own], &format!("index {name}"), relies);
    let mut mine = Vec::new();
    for key in draft
        .table
        .foreign_keys
        .iter()
        .filter(|key| key.parent == draft.table.id && relies(key))
    {
        mine.push(key.name.clone());
        if !cascade {
            dependents.add(
                Dependent::ForeignKey {
                    table: own,
                    name: key.name.clone(),
                },
                &format!("index {name}"),
            );
        }
    }
    let what = format!("constraint {name} on table {}", draft.table.name.name);
    dependents.resolve(change, Some(&what), cascade)?;
    draft
        .table
        .foreign_keys
        .retain(|key| !mine.contains(&key.name));
    draft.table.uniques.retain(|unique| unique.name != name);
    if guard == Guard::Key {
        draft.table.key.clear();
        draft.table.key_name = None;
    }
    Ok(())
}

fn undefined_constraint(table: &Table, name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedObject,
        format!(
            "constraint \"{name}\" of relation \"{}\" does not exist",
            table.name.name
        ),
    )
}

pub(super) fn alter_column(
    change: &mut Change<'_>,
    draft: &mut Draft,
    name: &Ident,
    operation: &AlterColumnOperation,
) -> Result<(), SqlError> {
    let name = fold(name);
    let (place, _) = draft.table.expect_column(&name)?;
    let table = draft.table.name.name.clone();
    let is = |what: &str| {
        SqlError::new(
            ErrorCode::SyntaxError,
            format!("column \"{name}\" of relation \"{table}\" is {what}"),
        )
    };
    match operation {
        AlterColumnOperation::SetNotNull => draft.table.columns[place].not_null = true,
        AlterColumnOperation::DropNotNull => {
            if draft.table.has_declared_key() && draft.table.key.contains(&place) {
                return Err(SqlError::new(
                    ErrorCode::InvalidTableDefinition,
                    format!("column \"{name}\" is in a primary key"),
                ));
            }
            if draft.table.columns[place].identity {
                return Err(is("an identity column"));
            }
            draft.table.columns[place].not_null = false;
        }
        AlterColumnOperation::SetDefault { value } => {
            if draft.table.columns[place].identity {
                return Err(is("an identity column"));
            }
            if draft.table.columns[place].generated.is_some() {
                return Err(is("a generated column"));
            }
            tables::set_default(change, &mut draft.table, place, value)?;
        }
        AlterColumnOperation::DropDefault => {
            let column = &mut draft.table.columns[place];
            if column.identity {
                return Err(is("an identity column")
                    .with_hint("Use ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY instead."));
            }
            if column.generated.is_some() {
                return Err(is("a generated column")
                    .with_hint("Use ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION instead."));
            }
            column.default = None;
            column.sequence = None;
        }
        AlterColumnOperation::SetDataType {
            data_type, using, ..
        } => {
            set_type(change, draft, place, data_type, using.as_ref())?;
        }
        AlterColumnOperation::AddGenerated {
            generated_as,
            sequence_options,
        } => {
            let always = matches!(generated_as, Some(GeneratedAs::Always) | None);
            if !draft.table.columns[place].not_null {
                return Err(SqlError::new(
                    ErrorCode::ObjectNotInState,
                    format!(
                        "column \"{name}\" of relation \"{table}\" must be declared NOT NULL before identity can be added"
                    ),
                ));
            }
            let options = sequence_options.as_deref().unwrap_or(&[]);
            tables::make_identity(change, &mut draft.table, place, always, options)?;
        }
    }
    Ok(())
}

/// ALTER COLUMN … TYPE … [USING …].
fn set_type(
    change: &mut Change<'_>,
    draft: &mut Draft,
    place: usize,
    data_type: &DataType,
    using: Option<&Expr>,
) -> Result<(), SqlError> {
    let column = draft.table.columns[place].clone();
    let name = &column.name;
    super::crdt::refuse_other_type(&column, data_type)?;
    let (to, _) = types::column_type(&change.catalog, name, data_type)?;
    if column.generated.is_some() {
        return Err(SqlError::unsupported(format_args!(
            "changing the type of the generated column \"{name}\""
        )));
    }
    if let Some(view) = change
        .catalog
        .views
        .values()
        .find(|view| view.depends_on.contains(&draft.old.id) && view_names(view, name))
    {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            "cannot alter type of a column used by a view or rule",
        )
        .with_detail(format!(
            "rule _RETURN on view {} depends on column \"{name}\"",
            view.name.name
        )));
    }
    if let Some(policy) = super::policy::of_column(&draft.table, name).next() {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            "cannot alter type of a column used in a policy definition",
        )
        .with_detail(format!(
            "policy {} on table {} depends on column \"{name}\"",
            policy.name, draft.table.name.name
        )));
    }
    for other in &draft.table.columns {
        if let Some(text) = &other.generated
            && expression::columns_in(&draft.table, text)?.contains(&column.id)
        {
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "cannot alter type of a column used by a generated column",
            )
            .with_detail(format!(
                "Column \"{name}\" is used by generated column \"{}\".",
                other.name
            )));
        }
    }
    if column.identity
        && !matches!(
            to,
            crate::types::PgType::Int2 | crate::types::PgType::Int4 | crate::types::PgType::Int8
        )
    {
        return Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            "identity column type must be smallint, integer, or bigint",
        ));
    }
    let converted = match using {
        Some(using) => {
            if !expression::is_immutable(using) {
                return Err(SqlError::unsupported(
                    "USING with an expression that is not immutable",
                ));
            }
            Some(expression::storage_of(
                &change.catalog,
                &draft.old,
                using,
                Purpose::Using(&to),
            )?)
        }
        None if widens(&column.pg_type, &to) => None,
        None => {
            let cast = functions::assign(&column.pg_type, &to).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    format!(
                        "column \"{name}\" cannot be cast automatically to type {}",
                        to.sql_name()
                    ),
                )
                .with_hint(format!(
                    "You might need to specify \"USING {name}::{}\".",
                    to.sql_name()
                ))
            })?;
            Some(cast.render(&column.storage_name()))
        }
    };
    draft.table.columns[place].pg_type = to;
    if let Some(text) = converted {
        draft.convert(column.id, text);
    }
    Ok(())
}

/// CREATE INDEX's table gets one index more.
pub(super) fn add_index(
    change: &mut Change<'_>,
    table: &Arc<Table>,
    index: crate::catalog::Index,
) -> Result<(), SqlError> {
    let mut draft = Draft::new(table);
    // Said before the draft compares: an index that cannot be made is refused even if SQLite has
    // no part in it.
    storage::create_index(&change.catalog, table, &index)?;
    draft.table.indexes.push(index);
    draft.write(change)
}
