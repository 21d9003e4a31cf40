//! Access as PostgreSQL's `aclitem`s show it: `grantee=privileges/grantor`.

use springhead_proto::Value;

use super::cell::texts;
use super::{View, database, oids};
use crate::catalog::{Access, Privilege, Privileges, Routine, Schema};
use crate::functions::quote_ident;

/// PostgreSQL's order of the letters.
const ORDER: [Privilege; 10] = [
    Privilege::Insert,
    Privilege::Select,
    Privilege::Update,
    Privilege::Delete,
    Privilege::Truncate,
    Privilege::References,
    Privilege::Trigger,
    Privilege::Execute,
    Privilege::Usage,
    Privilege::Create,
];

/// The object id of whoever owns something.
pub(super) fn owner_oid(view: &View<'_>, access: &Access) -> u32 {
    match access.owner.as_deref() {
        None => oids::ROLE_OWNER,
        Some(owner) => match database::role_oid(view, owner) {
            0 => oids::role(owner),
            oid => oid,
        },
    }
}

/// What is shown of a whole object; NULL while nothing but the default is said.
pub(super) fn of(access: &Access, all: Privileges) -> Option<Value> {
    let is_default =
        access.grants.iter().all(|grant| grant.column.is_some()) && access.owner_lacks.is_empty();
    (!is_default).then(|| items(access, all, None))
}

/// `attacl`: what is granted on one column alone.
pub(super) fn of_column(access: &Access, column: u32) -> Option<Value> {
    let any = access
        .grants
        .iter()
        .any(|grant| grant.column == Some(column));
    any.then(|| items(access, Privileges::NONE, Some(column)))
}

/// A routine's: until something is said, PUBLIC may execute it.
pub(super) fn of_routine(routine: &Routine) -> Option<Value> {
    (routine.access.grants != Routine::initial_access(routine.access.owner()).grants
        || !routine.access.owner_lacks.is_empty())
    .then(|| items(&routine.access, Privileges::FUNCTION, None))
}

/// The schema's, whose owner is [`database::OWNER_OF_PUBLIC`] until it is said otherwise.
pub(super) fn of_schema(schema: &Schema) -> Value {
    let mut access = schema.access.clone();
    if access.owner.is_none() {
        for grant in &mut access.grants {
            if grant.grantor == schema.access.owner() {
                database::OWNER_OF_PUBLIC.clone_into(&mut grant.grantor);
            }
        }
        access.owner = Some(database::OWNER_OF_PUBLIC.to_owned());
    }
    items(&access, Privileges::SCHEMA, None)
}

fn items(access: &Access, all: Privileges, column: Option<u32>) -> Value {
    let mut items = Vec::with_capacity(access.grants.len() + 1);
    let owner = access.owner();
    let owners = all.without(access.owner_lacks);
    if !owners.is_empty() {
        items.push(item(Some(owner), owners, Privileges::NONE, owner));
    }
    for grant in access.grants.iter().filter(|grant| grant.column == column) {
        items.push(item(
            grant.grantee.as_deref(),
            grant.privileges,
            grant.grantable,
            &grant.grantor,
        ));
    }
    texts(items)
}

fn item(
    grantee: Option<&str>,
    privileges: Privileges,
    grantable: Privileges,
    grantor: &str,
) -> String {
    let mut out = grantee.map_or_else(String::new, quote_ident);
    out.push('=');
    for privilege in ORDER {
        if privileges.contains(privilege) {
            out.push(privilege.letter());
            if grantable.contains(privilege) {
                out.push('*');
            }
        }
    }
    out.push('/');
    out.push_str(&quote_ident(grantor));
    out
}

/// What an object of this kind allows while nothing is said, as PostgreSQL's `acldefault` has it. The
/// kind is told by its letter.
pub(super) fn default_of(kind: &str, owner: &str) -> Value {
    let (everyone, owners) = match kind {
        "r" => ("", "arwdDxt"),
        "s" => ("", "rwU"),
        "d" => ("Tc", "CTc"),
        "f" => ("X", "X"),
        "l" | "T" => ("U", "U"),
        "L" => ("", "rw"),
        "n" => ("", "UC"),
        "p" => ("", "sA"),
        "t" => ("", "C"),
        "F" | "S" => ("", "U"),
        _ => ("", ""),
    };
    let owner = quote_ident(owner);
    let of_everyone = (!everyone.is_empty()).then(|| format!("={everyone}/{owner}"));
    let of_owner = (!owners.is_empty()).then(|| format!("{owner}={owners}/{owner}"));
    texts(of_everyone.into_iter().chain(of_owner))
}
