//! Who may define what: PostgreSQL's rules of ownership, and OWNER TO. A superuser passes.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{ObjectName, ObjectType, Statement};

use super::change::Change;
use super::names::qualified;
use crate::access::{Columns, Object, Use, decide, must_own, refusal};
use crate::catalog::{BOOTSTRAP_ROLE, Catalog, Definition, Privilege, QualifiedName, Relation};
use crate::plan::{PlanKind, display_name};
use crate::planner::PlanContext;

/// Checks what a statement's form tells.
///
/// # Errors
/// 42501.
pub(super) fn statement(
    catalog: &Catalog,
    statement: &Statement,
    context: &PlanContext,
) -> Result<(), SqlError> {
    if context.identity.superuser {
        return Ok(());
    }
    let own_named = |name: &ObjectName| own(catalog, &qualified(name)?, context);
    match statement {
        Statement::CreateTable(_) => create(catalog, context),
        Statement::AlterTable(alter) => own_named(&alter.name),
        Statement::CreateIndex(index) => own_named(&index.table_name),
        Statement::AlterIndex { name, .. } => own_named(name),
        Statement::CreateView(view) => {
            create(catalog, context)?;
            own_named(&view.name)
        }
        Statement::Drop {
            object_type:
                ObjectType::Table | ObjectType::View | ObjectType::Sequence | ObjectType::Index,
            names,
            ..
        } => names.iter().try_for_each(own_named),
        Statement::CreatePolicy(policy) => own_named(&policy.table_name),
        Statement::AlterPolicy(policy) => own_named(&policy.table_name),
        Statement::DropPolicy(policy) => own_named(&policy.table_name),
        Statement::CreateSchema { .. } => Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            "permission denied for database",
        )),
        Statement::CreateExtension(_) | Statement::DropExtension(_) => Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            "permission denied to create extension",
        )
        .with_hint("Must be superuser to create this extension.")),
        _ => Ok(()),
    }
}

/// Whether something may be made in `public`.
///
/// # Errors
/// 42501.
pub(super) fn create(catalog: &Catalog, context: &PlanContext) -> Result<(), SqlError> {
    let used = Use {
        privilege: Privilege::Create,
        columns: &[],
    };
    decide(
        &context.identity,
        Object::Schema(&catalog.schema.access),
        used,
    )
    .map(drop)
}

/// Whether a relation's definition may be read to make another like it.
///
/// # Errors
/// 42501.
pub(super) fn read(
    catalog: &Catalog,
    name: &QualifiedName,
    context: &PlanContext,
) -> Result<(), SqlError> {
    let Some(table) = catalog.table_named(name) else {
        return Ok(());
    };
    let used = Use {
        privilege: Privilege::Select,
        columns: &[],
    };
    let object = Object::Table(table);
    match decide(&context.identity, object, used)?.columns {
        Columns::All => Ok(()),
        Columns::Only(_) => Err(refusal(object)),
    }
}

/// Whether a relation may be altered; one that is not there may.
///
/// # Errors
/// 42501.
pub(super) fn own(
    catalog: &Catalog,
    name: &QualifiedName,
    context: &PlanContext,
) -> Result<(), SqlError> {
    if context.identity.superuser {
        return Ok(());
    }
    let object = match catalog.relation(name) {
        None => return Ok(()),
        Some(Relation::Table(id)) => catalog.table(id).map(|table| Object::Table(table)),
        Some(Relation::View(id)) => catalog.view(id).map(|view| Object::View(view)),
        Some(Relation::Sequence(id)) => catalog.sequence(id).map(|one| Object::Sequence(one)),
        Some(Relation::Index(id)) => {
            let table = catalog.table(id).map(|table| Object::Table(table));
            return table.map_or(Ok(()), |table| {
                must_own(&context.identity, table).map_err(|error| {
                    SqlError::new(error.code, format!("must be owner of index {}", name.name))
                })
            });
        }
    };
    object.map_or(Ok(()), |object| must_own(&context.identity, object))
}

/// As [`own`], for what is a part of a relation: PostgreSQL then calls it that.
///
/// # Errors
/// 42501.
pub(super) fn own_part(
    catalog: &Catalog,
    name: &QualifiedName,
    context: &PlanContext,
) -> Result<(), SqlError> {
    own(catalog, name, context).map_err(|error| {
        SqlError::new(
            error.code,
            format!("must be owner of relation {}", name.name),
        )
    })
}

/// Whether the tables that new foreign keys refer to may be referred to.
///
/// # Errors
/// 42501.
pub(super) fn foreign_keys(
    before: &Catalog,
    kind: &PlanKind,
    context: &PlanContext,
) -> Result<(), SqlError> {
    let PlanKind::Ddl(ddl) = kind else {
        return Ok(());
    };
    if context.identity.superuser {
        return Ok(());
    }
    for change in &ddl.changes {
        let Definition::Table(table) = &change.definition else {
            continue;
        };
        let old = before.table(table.collection());
        for key in &table.foreign_keys {
            if old.is_some_and(|old| old.foreign_keys.contains(key)) {
                continue;
            }
            if let Some(parent) = ddl.catalog.table(CollectionId(key.parent)) {
                let used = Use {
                    privilege: Privilege::References,
                    columns: &key.parent_columns,
                };
                decide(&context.identity, Object::Table(parent), used)?;
            }
        }
    }
    Ok(())
}

/// The role that a name in a statement stands for.
///
/// # Errors
/// 42704 if there is none.
pub(super) fn role(name: &str, context: &PlanContext) -> Result<String, SqlError> {
    match name {
        "current_user" | "current_role" | "session_user" => Ok(context.identity.role.to_string()),
        BOOTSTRAP_ROLE => Ok(name.to_owned()),
        _ if context.roles.identity(name).is_some() => Ok(name.to_owned()),
        _ => Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("role \"{name}\" does not exist"),
        )),
    }
}

/// OWNER TO, of a table, view or sequence; an index follows its table.
pub(super) fn set_owner(
    mut change: Change<'_>,
    name: &QualifiedName,
    owner: &str,
    if_exists: bool,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    let mut definition = match change.catalog.relation(name) {
        Some(Relation::Table(id)) => change
            .catalog
            .table(id)
            .map(|table| Definition::Table((**table).clone())),
        Some(Relation::View(id)) => change
            .catalog
            .view(id)
            .map(|view| Definition::View((**view).clone())),
        Some(Relation::Sequence(id)) => change
            .catalog
            .sequence(id)
            .map(|sequence| Definition::Sequence((**sequence).clone())),
        Some(Relation::Index(_)) => return Ok(PlanKind::NoEffect("ALTER INDEX")),
        None => None,
    };
    let Some(definition) = &mut definition else {
        let message = format!("relation \"{}\" does not exist", display_name(name));
        if if_exists {
            change.notices.push(format!("{message}, skipping"));
            return Ok(change.finish());
        }
        return Err(SqlError::new(ErrorCode::UndefinedTable, message));
    };
    let owner = new_owner(owner, context)?;
    let sequences: Vec<_> = match definition {
        Definition::Table(table) => super::drop::owned_sequences(&change, table.id, None)
            .into_iter()
            .filter_map(|id| change.catalog.sequence(id).cloned())
            .collect(),
        _ => Vec::new(),
    };
    if let Some(access) = definition.access_mut() {
        change_owner(access, owner.clone());
    }
    change.put(definition.clone());
    for sequence in sequences {
        let mut sequence = (*sequence).clone();
        change_owner(&mut sequence.access, owner.clone());
        change.put_sequence(sequence);
    }
    Ok(change.finish())
}

/// The owner as it is kept.
///
/// # Errors
/// 42704 for an unknown role, 42501 for one that the identity is no member of.
pub(super) fn new_owner(name: &str, context: &PlanContext) -> Result<Option<String>, SqlError> {
    let owner = role(name, context)?;
    if !context.identity.is_member_of(&owner) {
        return Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!("must be member of role \"{owner}\""),
        ));
    }
    Ok((owner != BOOTSTRAP_ROLE).then_some(owner))
}

/// What the old owner granted, the new one has granted.
pub(super) fn change_owner(access: &mut crate::catalog::Access, owner: Option<String>) {
    let before = access.owner().to_owned();
    access.owner = owner;
    let now = access.owner().to_owned();
    for grant in &mut access.grants {
        if grant.grantor == before {
            grant.grantor.clone_from(&now);
        }
        if grant.grantee.as_deref() == Some(&*before) {
            grant.grantee = Some(now.clone());
        }
    }
    access
        .grants
        .retain(|grant| grant.grantee.as_deref() != Some(&*now) || grant.column.is_some());
    access.owner_lacks = crate::catalog::Privileges::NONE;
}
