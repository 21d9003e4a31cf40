//! GRANT and REVOKE on tables, columns, views, sequences and the schema.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    Action, CascadeOption, Grant as GrantStatement, GrantObjects, Grantee, GranteeName,
    GranteesType, Ident, ObjectName, Privileges as PrivilegeList, Revoke,
};

use super::change::Change;
use super::names::{fold, qualified};
use super::permit;
use crate::access::{Object, may_grant, refusal};
use crate::catalog::{
    Access, Definition, Grant, Privilege, Privileges, QualifiedName, Relation, Schema,
};
use crate::plan::{PlanKind, display_name};
use crate::planner::PlanContext;

/// What is granted or revoked on each object.
struct Wanted {
    /// Privileges on whole objects.
    whole: Privileges,
    /// Privileges on columns, by name.
    columns: Vec<(String, Privileges)>,
    /// ALL: whatever the kind of object has.
    all: bool,
}

/// Plans GRANT.
pub(super) fn grant(
    mut change: Change<'_>,
    statement: &GrantStatement,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    if statement.as_grantor.is_some() || statement.current_grants.is_some() {
        return Err(SqlError::unsupported("this form of GRANT"));
    }
    check_grantor(statement.granted_by.as_ref(), context)?;
    let wanted = Wanted::of(&statement.privileges)?;
    let grantees = grantees(&statement.grantees, context)?;
    if statement.with_grant_option && grantees.contains(&None) {
        return Err(SqlError::new(
            ErrorCode::InvalidGrantOperation,
            "grant options can only be granted to roles",
        ));
    }
    for mut definition in objects(&change, statement.objects.as_ref(), "GRANT")? {
        let parts = wanted.on(&definition)?;
        for (column, privileges) in parts {
            let Some((grantor, granted)) = grantor(&definition, context, column, privileges)?
            else {
                change.notices.push(format!(
                    "no privileges were granted for \"{}\"",
                    definition.name().name
                ));
                continue;
            };
            if granted != privileges {
                change.notices.push(format!(
                    "not all privileges were granted for \"{}\"",
                    definition.name().name
                ));
            }
            let Some(access) = definition.access_mut() else {
                continue;
            };
            for grantee in &grantees {
                add(
                    access,
                    grantee.clone(),
                    &grantor,
                    column,
                    granted,
                    statement.with_grant_option,
                );
            }
        }
        put_if_changed(&mut change, definition);
    }
    Ok(change.finish())
}

/// Plans REVOKE.
pub(super) fn revoke(
    mut change: Change<'_>,
    statement: &Revoke,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    check_grantor(statement.granted_by.as_ref(), context)?;
    let wanted = Wanted::of(&statement.privileges)?;
    let grantees = grantees(&statement.grantees, context)?;
    let cascade = matches!(statement.cascade, Some(CascadeOption::Cascade));
    for mut definition in objects(&change, statement.objects.as_ref(), "REVOKE")? {
        let mut parts = wanted.on(&definition)?;
        if let (Definition::Table(_) | Definition::View(_), [(None, privileges)]) =
            (&definition, parts.as_slice())
        {
            // Revoked on a table, it goes from its columns too.
            let privileges = privileges.both(Privileges::COLUMN);
            let mut columns: Vec<u32> = (definition.access_mut())
                .map(|access| {
                    access
                        .grants
                        .iter()
                        .filter_map(|grant| grant.column)
                        .collect()
                })
                .unwrap_or_default();
            columns.sort_unstable();
            columns.dedup();
            parts.extend(columns.into_iter().map(|column| (Some(column), privileges)));
        }
        for (index, (column, privileges)) in parts.into_iter().enumerate() {
            let Some((grantor, revoked)) = grantor(&definition, context, column, privileges)?
            else {
                if index == 0 {
                    change.notices.push(format!(
                        "no privileges could be revoked for \"{}\"",
                        definition.name().name
                    ));
                }
                continue;
            };
            let Some(access) = definition.access_mut() else {
                continue;
            };
            for grantee in &grantees {
                take(
                    access,
                    grantee.as_deref(),
                    &grantor,
                    column,
                    revoked,
                    statement.grant_option_for,
                    cascade,
                )?;
            }
        }
        put_if_changed(&mut change, definition);
    }
    Ok(change.finish())
}

pub(super) fn put_if_changed(change: &mut Change<'_>, definition: Definition) {
    let same = (change.catalog.definitions()).any(|before| before == definition);
    if !same {
        change.put(definition);
    }
}

impl Wanted {
    fn of(privileges: &PrivilegeList) -> Result<Wanted, SqlError> {
        let mut wanted = Wanted {
            whole: Privileges::NONE,
            columns: Vec::new(),
            all: false,
        };
        let actions = match privileges {
            PrivilegeList::All { .. } => {
                wanted.all = true;
                return Ok(wanted);
            }
            PrivilegeList::Actions(actions) => actions,
        };
        for action in actions {
            let (privilege, columns) = match action {
                Action::Select { columns } => (Privilege::Select, columns.as_deref()),
                Action::Insert { columns } => (Privilege::Insert, columns.as_deref()),
                Action::Update { columns } => (Privilege::Update, columns.as_deref()),
                Action::References { columns } => (Privilege::References, columns.as_deref()),
                Action::Delete => (Privilege::Delete, None),
                Action::Truncate => (Privilege::Truncate, None),
                Action::Trigger => (Privilege::Trigger, None),
                Action::Usage => (Privilege::Usage, None),
                Action::Execute { obj_type: None } => (Privilege::Execute, None),
                Action::Create { obj_type: None } => (Privilege::Create, None),
                other => {
                    return Err(SqlError::new(
                        ErrorCode::SyntaxError,
                        format!("unrecognized privilege type \"{other}\""),
                    ));
                }
            };
            match columns {
                None => wanted.whole = wanted.whole.with(privilege),
                Some(columns) => {
                    for column in columns {
                        wanted.add_column(fold(column), privilege);
                    }
                }
            }
        }
        Ok(wanted)
    }

    fn add_column(&mut self, name: String, privilege: Privilege) {
        match self.columns.iter_mut().find(|(other, _)| *other == name) {
            Some((_, privileges)) => *privileges = privileges.with(privilege),
            None => self.columns.push((name, Privileges::NONE.with(privilege))),
        }
    }

    /// The same for one object: columns by their ids.
    fn on(&self, definition: &Definition) -> Result<Vec<(Option<u32>, Privileges)>, SqlError> {
        let (possible, kind) = match definition {
            Definition::Table(_) | Definition::View(_) => (Privileges::TABLE, "table"),
            Definition::Sequence(_) => (Privileges::SEQUENCE, "sequence"),
            Definition::Schema(_) => (Privileges::SCHEMA, "schema"),
            #[allow(unreachable_patterns)]
            _ => (Privileges::FUNCTION, "function"),
        };
        if self.all {
            return Ok(vec![(None, possible)]);
        }
        if let Some(wrong) = self.whole.without(possible).iter().next() {
            return Err(SqlError::new(
                ErrorCode::InvalidGrantOperation,
                format!("invalid privilege type {} for {kind}", wrong.word()),
            ));
        }
        let mut parts = Vec::new();
        if !self.whole.is_empty() {
            parts.push((None, self.whole));
        }
        for (name, privileges) in &self.columns {
            let id = match definition {
                Definition::Table(table) => table.column_named(name).map(|(_, column)| column.id),
                Definition::View(view) => (1..)
                    .zip(&view.columns)
                    .find(|(_, (column, _))| column == name)
                    .map(|(number, _)| number),
                _ => {
                    return Err(SqlError::new(
                        ErrorCode::InvalidGrantOperation,
                        "column privileges are only valid for relations",
                    ));
                }
            };
            let Some(id) = id else {
                return Err(SqlError::new(
                    ErrorCode::UndefinedColumn,
                    format!(
                        "column \"{name}\" of relation \"{}\" does not exist",
                        definition.name().name
                    ),
                ));
            };
            parts.push((Some(id), *privileges));
        }
        Ok(parts)
    }
}

/// GRANTED BY can only name the role that asks, as in PostgreSQL.
fn check_grantor(named: Option<&Ident>, context: &PlanContext) -> Result<(), SqlError> {
    match named {
        Some(name) if permit::role(&fold(name), context)? != *context.identity.role => {
            Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "grantor must be current user",
            ))
        }
        _ => Ok(()),
    }
}

/// In whose name, and which of the privileges; `None` if none can be granted.
///
/// # Errors
/// 42501 for whoever has nothing to do with the object at all.
pub(super) fn grantor(
    definition: &Definition,
    context: &PlanContext,
    column: Option<u32>,
    privileges: Privileges,
) -> Result<Option<(String, Privileges)>, SqlError> {
    let object = match definition {
        Definition::Table(table) => Object::Table(table),
        Definition::View(view) => Object::View(view),
        Definition::Sequence(sequence) => Object::Sequence(sequence),
        Definition::Schema(schema) => Object::Schema(&schema.access),
        Definition::Routine(routine) => Object::Routine(routine),
        Definition::Trigger(_) | Definition::Type(_) | Definition::Comment(_) => {
            return Err(SqlError::unsupported("GRANT on this kind of object"));
        }
    };
    let access = object.access();
    let found = may_grant(access, &context.identity, column, privileges);
    let has_any = || {
        access.grants.iter().any(|grant| {
            (grant.grantee.as_deref()).is_none_or(|role| context.identity.is_member_of(role))
        })
    };
    if found.is_none() && !has_any() {
        return Err(refusal(object));
    }
    Ok(found)
}

/// Roles by name; `None` for PUBLIC.
fn grantees(list: &[Grantee], context: &PlanContext) -> Result<Vec<Option<String>>, SqlError> {
    list.iter()
        .map(|grantee| match (&grantee.grantee_type, &grantee.name) {
            (GranteesType::Public, _) => Ok(None),
            (
                GranteesType::None | GranteesType::Role | GranteesType::User | GranteesType::Group,
                Some(GranteeName::ObjectName(name)),
            ) => {
                let name = crate::query::names::parts(name)?.pop().unwrap_or_default();
                if name == "public" {
                    return Ok(None);
                }
                permit::role(&name, context).map(Some)
            }
            _ => Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("\"{grantee}\" is no role"),
            )),
        })
        .collect()
}

/// The objects that a statement names, as they are now.
fn objects(
    change: &Change<'_>,
    objects: Option<&GrantObjects>,
    verb: &str,
) -> Result<Vec<Definition>, SqlError> {
    let relations = |names: &[ObjectName], sequences: bool| {
        names
            .iter()
            .map(|name| relation(change, &qualified(name)?, sequences))
            .collect::<Result<Vec<_>, _>>()
    };
    match objects {
        None => Err(SqlError::unsupported(format_args!("{verb} of a role"))),
        Some(GrantObjects::Tables(names)) => relations(names, false),
        Some(GrantObjects::Sequences(names)) => relations(names, true),
        Some(GrantObjects::Schemas(names)) => names
            .iter()
            .map(|name| {
                check_schema(name)?;
                Ok(Definition::Schema(Schema::clone(&change.catalog.schema)))
            })
            .collect(),
        Some(GrantObjects::AllTablesInSchema { schemas }) => {
            schemas.iter().try_for_each(check_schema)?;
            Ok(change
                .catalog
                .definitions()
                .filter(|definition| {
                    matches!(definition, Definition::Table(_) | Definition::View(_))
                        && definition.name().schema == QualifiedName::PUBLIC
                })
                .collect())
        }
        Some(GrantObjects::AllSequencesInSchema { schemas }) => {
            schemas.iter().try_for_each(check_schema)?;
            Ok(change
                .catalog
                .definitions()
                .filter(|definition| matches!(definition, Definition::Sequence(_)))
                .collect())
        }
        Some(GrantObjects::AllFunctionsInSchema { schemas }) => {
            schemas.iter().try_for_each(check_schema)?;
            Ok(Vec::new())
        }
        Some(other) => Err(SqlError::unsupported(format_args!("{verb} … ON {other}"))),
    }
}

fn check_schema(name: &ObjectName) -> Result<(), SqlError> {
    let name = qualified(name)?.name;
    if name == QualifiedName::PUBLIC {
        return Ok(());
    }
    super::names::check_schema(&QualifiedName::new(name.as_str(), ""))
}

fn relation(
    change: &Change<'_>,
    name: &QualifiedName,
    sequences: bool,
) -> Result<Definition, SqlError> {
    let catalog = &change.catalog;
    let found = match catalog.relation(name) {
        Some(Relation::Table(id)) if !sequences => {
            let table = catalog.table(id);
            if table.is_some_and(|table| !table.collection().is_grantable()) {
                return Err(SqlError::new(
                    ErrorCode::InsufficientPrivilege,
                    format!("permission denied for table {}", name.name),
                ));
            }
            table.map(|table| Definition::Table((**table).clone()))
        }
        Some(Relation::View(id)) if !sequences => {
            let view = catalog.view(id);
            view.map(|view| Definition::View((**view).clone()))
        }
        // PostgreSQL takes a sequence for a table here too.
        Some(Relation::Sequence(id)) => {
            let sequence = catalog.sequence(id);
            sequence.map(|sequence| Definition::Sequence((**sequence).clone()))
        }
        Some(Relation::Index(_)) => {
            return Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!("\"{}\" is an index", name.name),
            ));
        }
        Some(_) => {
            return Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!("\"{}\" is not a sequence", name.name),
            ));
        }
        None => None,
    };
    found.ok_or_else(|| {
        SqlError::new(
            ErrorCode::UndefinedTable,
            format!("relation \"{}\" does not exist", display_name(name)),
        )
    })
}

pub(super) fn add(
    access: &mut Access,
    grantee: Option<String>,
    grantor: &str,
    column: Option<u32>,
    privileges: Privileges,
    with_option: bool,
) {
    if grantee.as_deref() == Some(access.owner()) && column.is_none() {
        access.owner_lacks = access.owner_lacks.without(privileges);
        return;
    }
    let option = if with_option {
        privileges
    } else {
        Privileges::NONE
    };
    let known = access.grants.iter_mut().find(|grant| {
        grant.grantee == grantee && grant.grantor == grantor && grant.column == column
    });
    match known {
        Some(grant) => {
            grant.privileges = grant.privileges.union(privileges);
            grant.grantable = grant.grantable.union(option);
        }
        None => access.grants.push(Grant {
            grantee,
            grantor: grantor.to_owned(),
            column,
            privileges,
            grantable: option,
        }),
    }
}

/// Takes privileges away, or only the option to grant them, with what depends on the option.
pub(super) fn take(
    access: &mut Access,
    grantee: Option<&str>,
    grantor: &str,
    column: Option<u32>,
    privileges: Privileges,
    option_only: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    if grantee == Some(access.owner()) && column.is_none() {
        if !option_only {
            access.owner_lacks = access.owner_lacks.union(privileges);
        }
        return Ok(());
    }
    let mut lost_option = Privileges::NONE;
    for grant in &mut access.grants {
        if grant.grantee.as_deref() == grantee && grant.grantor == grantor && grant.column == column
        {
            lost_option = lost_option.union(grant.grantable.both(privileges));
            grant.grantable = grant.grantable.without(privileges);
            if !option_only {
                grant.privileges = grant.privileges.without(privileges);
            }
        }
    }
    access.grants.retain(|grant| !grant.privileges.is_empty());
    let Some(grantee) = grantee else {
        return Ok(());
    };
    // Another may have given the same option.
    let still = access
        .grants
        .iter()
        .filter(|grant| grant.grantee.as_deref() == Some(grantee) && grant.column == column)
        .fold(Privileges::NONE, |all, grant| all.union(grant.grantable));
    let lost = lost_option.without(still);
    if lost.is_empty() {
        return Ok(());
    }
    let dependent: Vec<(Option<String>, Option<u32>, Privileges)> = access
        .grants
        .iter()
        .filter(|grant| {
            grant.grantor == grantee
                && (column.is_none() || grant.column == column)
                && !grant.privileges.both(lost).is_empty()
        })
        .map(|grant| {
            (
                grant.grantee.clone(),
                grant.column,
                grant.privileges.both(lost),
            )
        })
        .collect();
    if !dependent.is_empty() && !cascade {
        return Err(
            SqlError::new(ErrorCode::DependentObjects, "dependent privileges exist")
                .with_hint("Use CASCADE to revoke them too."),
        );
    }
    for (to, column, privileges) in dependent {
        take(
            access,
            to.as_deref(),
            grantee,
            column,
            privileges,
            false,
            true,
        )?;
    }
    Ok(())
}
