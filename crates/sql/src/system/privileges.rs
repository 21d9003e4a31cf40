//! `has_table_privilege` and its kin, and what the identity may see.

use springhead_proto::{CollectionId, SqlError, Value, ValueRef};

use super::calls::{Args, bool, read_reg, relation_by_oid};
use super::{View, database, oids, programs};
use crate::access::{Columns, Identity, Object, Use, decide, may_grant};
use crate::catalog::{Privilege, Privileges};
use crate::types::Reg;

/// A relation of the catalog, as what may be used.
fn object<'a>(view: &View<'a>, relation: u32) -> Option<Object<'a>> {
    let catalog = view.catalog;
    (catalog
        .table(CollectionId(relation))
        .map(|of| Object::Table(of)))
    .or_else(|| catalog.view(relation).map(|of| Object::View(of)))
    .or_else(|| catalog.sequence(relation).map(|of| Object::Sequence(of)))
}

/// Whether the identity may do something with a relation.
pub(super) fn may(view: &View<'_>, relation: u32, privilege: &str) -> bool {
    identity_may(view, view.identity, relation, &[], privilege)
}

/// Whether an identity has a privilege, `WITH GRANT OPTION` too if that is asked for.
fn identity_may(
    view: &View<'_>,
    identity: &Identity,
    relation: u32,
    columns: &[u32],
    privilege: &str,
) -> bool {
    if identity.superuser {
        return true;
    }
    let (word, grantable) = match privilege.strip_suffix(" WITH GRANT OPTION") {
        Some(word) => (word, true),
        None => (privilege, false),
    };
    let (Some(object), Some(privilege)) = (object(view, relation), named_privilege(word)) else {
        return false;
    };
    if grantable {
        let wanted = Privileges::NONE.with(privilege);
        return may_grant(object.access(), identity, None, wanted)
            .is_some_and(|(_, granted)| granted == wanted);
    }
    let used = Use { privilege, columns };
    decide(identity, object, used).is_ok_and(|sight| match columns {
        [] => sight.columns == Columns::All,
        columns => columns.iter().all(|&id| sight.columns.contains(id)),
    })
}

fn named_privilege(word: &str) -> Option<Privilege> {
    Privilege::ALL
        .into_iter()
        .find(|privilege| privilege.word() == word)
}

/// Whether the identity may do anything with a relation, or with one of its columns.
pub(super) fn may_see(view: &View<'_>, relation: u32) -> bool {
    if view.identity.superuser {
        return true;
    }
    let Some(object) = object(view, relation) else {
        return false;
    };
    Privilege::ALL.into_iter().any(|privilege| {
        let used = Use {
            privilege,
            columns: &[],
        };
        decide(view.identity, object, used).is_ok()
    })
}

/// Of whom a call of `has_…_privilege` asks: its first argument, or whoever asks.
fn asked(view: &View<'_>, args: &Args<'_, '_>, least: usize) -> Option<Identity> {
    if args.0.len() <= least {
        return Some(Identity::clone(view.identity));
    }
    let name = match args.0.first() {
        Some(ValueRef::Text(name)) => (*name).to_owned(),
        _ => database::role_name(view, args.oid(0))?,
    };
    if *view.identity.role == *name {
        return Some(Identity::clone(view.identity));
    }
    let role = database::roles(view)
        .into_iter()
        .find(|role| role.name == name)?;
    let name: std::sync::Arc<str> = name.as_str().into();
    Some(Identity {
        roles: std::sync::Arc::from([std::sync::Arc::clone(&name)]),
        role: name,
        superuser: role.superuser,
        bypass_rls: role.bypass_rls,
    })
}

fn has_function_privilege(view: &View<'_>, args: &Args<'_, '_>) -> Result<Value, SqlError> {
    let Some(identity) = asked(view, args, 2) else {
        return Ok(Value::Null);
    };
    let at = args.0.len().saturating_sub(2);
    let oid = match args.0.get(at) {
        Some(ValueRef::Text(name)) => read_reg(view, Reg::Procedure, name)?,
        _ => args.oid(at),
    };
    let Some(routine) = programs::routine_by_oid(view, oid) else {
        return Ok(bool(true));
    };
    let used = Use {
        privilege: Privilege::Execute,
        columns: &[],
    };
    Ok(bool(
        decide(&identity, Object::Routine(routine), used).is_ok(),
    ))
}

/// The columns that a call of `has_column_privilege` names, by id.
fn named_column(view: &View<'_>, relation: u32, value: Option<&ValueRef<'_>>) -> Option<u32> {
    match value? {
        ValueRef::Integer(number) => u32::try_from(*number).ok(),
        ValueRef::Text(name) => match object(view, relation)? {
            Object::Table(table) => table.column_named(name).map(|(_, column)| column.id),
            Object::View(of) => (1..)
                .zip(&of.columns)
                .find(|(_, (column, _))| column == name)
                .map(|(place, _)| place),
            _ => None,
        },
        _ => None,
    }
}

/// Who may do what.
pub(super) fn privileges(
    view: &View<'_>,
    name: &str,
    args: &Args<'_, '_>,
) -> Result<Option<Value>, SqlError> {
    Ok(Some(match name {
        "has_table_privilege"
        | "has_any_column_privilege"
        | "has_column_privilege"
        | "has_sequence_privilege" => {
            // A user may come first.
            let least = if name == "has_column_privilege" { 3 } else { 2 };
            let at = args.0.len().saturating_sub(least);
            let relation = args.oid(at);
            if relation_by_oid(view, relation).is_none() {
                return Ok(Some(Value::Null));
            }
            let id = oids::id_of(relation).map_or(0, |(id, _)| id);
            let Some(identity) = asked(view, args, least) else {
                return Ok(Some(Value::Null));
            };
            let column = (name == "has_column_privilege")
                .then(|| named_column(view, id, args.0.get(at + 1)))
                .flatten();
            let wanted = args.text(args.0.len() - 1);
            bool(wanted.split(',').any(|privilege| {
                let privilege = privilege.trim().to_ascii_uppercase();
                if name == "has_any_column_privilege" {
                    let used = named_privilege(&privilege);
                    return identity.superuser
                        || used
                            .zip(object(view, id))
                            .is_some_and(|(privilege, object)| {
                                let used = Use {
                                    privilege,
                                    columns: &[],
                                };
                                decide(&identity, object, used).is_ok()
                            });
                }
                identity_may(view, &identity, id, column.as_slice(), &privilege)
            }))
        }
        "has_function_privilege" => has_function_privilege(view, args)?,
        "has_schema_privilege"
        | "has_database_privilege"
        | "has_type_privilege"
        | "has_language_privilege"
        | "has_tablespace_privilege"
        | "has_server_privilege"
        | "has_foreign_data_wrapper_privilege" => {
            let wanted = args.text(args.0.len() - 1).to_ascii_uppercase();
            bool(view.identity.superuser || !wanted.contains("CREATE"))
        }
        "pg_has_role" => {
            let at = args.0.len().saturating_sub(2);
            let role = match args.0.get(at) {
                Some(ValueRef::Text(name)) => (*name).to_owned(),
                _ => database::role_name(view, args.oid(at)).unwrap_or_default(),
            };
            bool(view.identity.is_member_of(&role))
        }
        "row_security_active" => bool(false),
        _ => return Ok(None),
    }))
}
