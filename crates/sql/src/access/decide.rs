//! The one decision: may this identity use this object so, which of its columns, and which rows.
//!
//! The planner asks it for every table, view and sequence that a statement names; feeds ask it for
//! every collection that they deliver. PostgreSQL's rules (`aclchk.c`, `execMain.c`,
//! `rowsecurity.c`): superusers and owners pass, a member of a role has what the role has, a grant
//! on the whole object covers its columns, row security is for those who neither own the table
//! (unless forced) nor bypass it, and shows nothing without a policy.

use std::collections::BTreeSet;

use springhead_proto::{ErrorCode, SqlError};

use super::{Identity, author};
use crate::catalog::{
    Access, Catalog, Policy, PolicyCommand, Privilege, Privileges, QualifiedName, Routine,
    Sequence, Table, View,
};

/// What is used.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    Table(&'a Table),
    View(&'a View),
    Sequence(&'a Sequence),
    Routine(&'a Routine),
    /// The schema `public`.
    Schema(&'a Access),
}

/// How a statement uses an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use<'a> {
    pub privilege: Privilege,
    /// The columns that are used so, by id; empty where the use is of no column in particular.
    pub columns: &'a [u32],
}

/// What of an object may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight<'a> {
    /// Columns that the privilege is there for.
    pub columns: Columns,
    pub rows: Rows<'a>,
}

/// Columns by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    All,
    Only(BTreeSet<u32>),
}

/// Rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows<'a> {
    All,
    /// Those that one of `permissive` and every one of `restrictive` is true of; none without a
    /// permissive one.
    By(RowRule<'a>),
}

/// The policies that decide.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowRule<'a> {
    pub permissive: Vec<&'a Policy>,
    /// In the order of their names.
    pub restrictive: Vec<&'a Policy>,
}

/// Decides.
///
/// # Errors
/// 42501 if the use is not allowed.
pub fn decide<'a>(
    identity: &Identity,
    object: Object<'a>,
    used: Use<'_>,
) -> Result<Sight<'a>, SqlError> {
    let columns = columns(identity, object, used.privilege);
    let allowed = match &columns {
        Columns::All => true,
        Columns::Only(some) => {
            !some.is_empty()
                && used.columns.iter().all(|column| some.contains(column))
                // What concerns whole rows is granted on whole tables.
                && matches!(
                    used.privilege,
                    Privilege::Select | Privilege::Insert | Privilege::Update | Privilege::References
                )
        }
    };
    if !allowed {
        return Err(refusal(object));
    }
    let rows = match object {
        Object::Table(table) => rows(table, identity, used.privilege),
        _ => Rows::All,
    };
    Ok(Sight { columns, rows })
}

/// PostgreSQL's words for an object that may not be used.
#[must_use]
pub fn refusal(object: Object<'_>) -> SqlError {
    SqlError::new(
        ErrorCode::InsufficientPrivilege,
        format!("permission denied for {} {}", object.word(), object.name()),
    )
}

/// The columns of an object that the identity has a privilege on; [`Columns::All`] too where there
/// are none.
fn columns(identity: &Identity, object: Object<'_>, privilege: Privilege) -> Columns {
    if identity.superuser {
        return Columns::All;
    }
    if object.is_system() && !object.is_grantable() {
        // What Springhead keeps of a tenant tells about everybody's data.
        return Columns::Only(BTreeSet::new());
    }
    if let Object::Table(table) = object
        && author::sees_own(table, identity, privilege)
    {
        return Columns::All;
    }
    let access = object.access();
    if held(access, identity, None).contains(privilege) {
        return Columns::All;
    }
    let mut some = BTreeSet::new();
    for grant in &access.grants {
        if let Some(column) = grant.column
            && grant.privileges.contains(privilege)
            && is_for(grant.grantee.as_deref(), identity)
            && object.has_column(column)
        {
            some.insert(column);
        }
    }
    Columns::Only(some)
}

/// The privileges that an identity has on a whole object, or on one column alone.
fn held(access: &Access, identity: &Identity, column: Option<u32>) -> Privileges {
    let mut privileges = Privileges::NONE;
    if column.is_none() && identity.is_member_of(access.owner()) {
        privileges = Privileges::ALL.without(access.owner_lacks);
    }
    for grant in &access.grants {
        if grant.column == column && is_for(grant.grantee.as_deref(), identity) {
            privileges = privileges.union(grant.privileges);
        }
    }
    privileges
}

pub(super) fn is_for(grantee: Option<&str>, identity: &Identity) -> bool {
    grantee.is_none_or(|role| identity.is_member_of(role))
}

/// Those of `privileges` that the identity may grant: with the grant option, or as owner. The role
/// in whose name it would (the owner if it can), or `None` if it may grant none.
#[must_use]
pub fn may_grant(
    access: &Access,
    identity: &Identity,
    column: Option<u32>,
    privileges: Privileges,
) -> Option<(String, Privileges)> {
    if identity.is_member_of(access.owner()) {
        return Some((access.owner().to_owned(), privileges));
    }
    let mut best: Option<(String, Privileges)> = None;
    for grant in &access.grants {
        let Some(grantee) = &grant.grantee else {
            continue;
        };
        if !identity.is_member_of(grantee) || !(grant.column.is_none() || grant.column == column) {
            continue;
        }
        let mut grantable = grant.grantable.both(privileges);
        if let Some((role, before)) = &best
            && role == grantee
        {
            grantable = grantable.union(*before);
        }
        let more = |other: &Privileges| other.iter().count() < grantable.iter().count();
        if !grantable.is_empty() && best.as_ref().is_none_or(|(_, other)| more(other)) {
            best = Some((grantee.clone(), grantable));
        }
    }
    best
}

/// # Errors
/// 42501 for whoever neither owns the object nor is a superuser.
pub fn must_own(identity: &Identity, object: Object<'_>) -> Result<(), SqlError> {
    if identity.superuser || !object.is_system() && identity.is_member_of(object.access().owner()) {
        return Ok(());
    }
    Err(SqlError::new(
        ErrorCode::InsufficientPrivilege,
        format!("must be owner of {} {}", object.word(), object.name()),
    ))
}

/// The kind of policy that a privilege's use is subject to.
const fn row_command(privilege: Privilege) -> Option<PolicyCommand> {
    Some(match privilege {
        Privilege::Select => PolicyCommand::Select,
        Privilege::Insert => PolicyCommand::Insert,
        Privilege::Update => PolicyCommand::Update,
        Privilege::Delete => PolicyCommand::Delete,
        _ => return None,
    })
}

/// The rows of a table that policies let an identity use so.
pub(crate) fn rows<'a>(table: &'a Table, identity: &Identity, privilege: Privilege) -> Rows<'a> {
    let access = &table.access;
    let Some(command) = row_command(privilege) else {
        return Rows::All;
    };
    if author::sees_own(table, identity, privilege) {
        return Rows::By(author::rule(access, identity));
    }
    let passes = !access.row_security
        || identity.superuser
        || identity.bypass_rls
        || identity.is_member_of(access.owner()) && !access.force_row_security;
    if passes {
        return Rows::All;
    }
    let mut rule = RowRule::default();
    for policy in &access.policies {
        if !concerns(policy, command, identity) {
            continue;
        }
        if policy.permissive {
            rule.permissive.push(policy);
        } else {
            rule.restrictive.push(policy);
        }
    }
    rule.restrictive.sort_by(|a, b| a.name.cmp(&b.name));
    Rows::By(rule)
}

pub(super) fn concerns(policy: &Policy, command: PolicyCommand, identity: &Identity) -> bool {
    policy.command.covers(command)
        && (policy.roles.is_empty() || policy.roles.iter().any(|role| identity.is_member_of(role)))
}

/// An error as this identity may see it: values of rows are taken out of its detail where it may
/// not read the whole table (PostgreSQL's `BuildIndexValueDescription` and its kin).
#[must_use]
pub fn conceal(catalog: &Catalog, identity: &Identity, error: SqlError) -> SqlError {
    if identity.superuser || error.detail.is_none() {
        return error;
    }
    let holds_values = matches!(
        error.code,
        ErrorCode::UniqueViolation
            | ErrorCode::ForeignKeyViolation
            | ErrorCode::NotNullViolation
            | ErrorCode::CheckViolation
    );
    if !holds_values {
        return error;
    }
    let table = error
        .table
        .as_deref()
        .and_then(|name| catalog.table_named(&QualifiedName::public(name)));
    let sees_all = table.is_some_and(|table| {
        decide(
            identity,
            Object::Table(table),
            Use {
                privilege: Privilege::Select,
                columns: &[],
            },
        )
        .is_ok_and(|sight| sight.columns == Columns::All && sight.rows == Rows::All)
    });
    if sees_all {
        error
    } else {
        error.without_detail()
    }
}

impl Columns {
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        match self {
            Columns::All => true,
            Columns::Only(some) => some.contains(&id),
        }
    }
}

impl<'a> Object<'a> {
    #[must_use]
    pub fn access(self) -> &'a Access {
        match self {
            Object::Table(table) => &table.access,
            Object::View(view) => &view.access,
            Object::Sequence(sequence) => &sequence.access,
            Object::Routine(routine) => &routine.access,
            Object::Schema(access) => access,
        }
    }

    /// PostgreSQL's word for its kind.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Object::Table(_) => "table",
            Object::View(_) => "view",
            Object::Sequence(_) => "sequence",
            Object::Routine(routine) => routine.kind(),
            Object::Schema(_) => "schema",
        }
    }

    #[must_use]
    pub fn name(self) -> &'a str {
        match self {
            Object::Table(table) => &table.name.name,
            Object::View(view) => &view.name.name,
            Object::Sequence(sequence) => &sequence.name.name,
            Object::Routine(routine) => &routine.name.name,
            Object::Schema(_) => QualifiedName::PUBLIC,
        }
    }

    /// Springhead's own.
    fn is_system(self) -> bool {
        match self {
            Object::Table(table) => table.name.schema == QualifiedName::SPRINGHEAD,
            Object::View(view) => view.name.schema == QualifiedName::SPRINGHEAD,
            Object::Sequence(_) | Object::Routine(_) | Object::Schema(_) => false,
        }
    }

    fn is_grantable(self) -> bool {
        matches!(self, Object::Table(table) if table.collection().is_grantable())
    }

    fn has_column(self, id: u32) -> bool {
        match self {
            Object::Table(table) => table.column_by_id(id).is_some(),
            Object::View(view) => usize::try_from(id).is_ok_and(|id| id <= view.columns.len()),
            Object::Sequence(_) | Object::Routine(_) | Object::Schema(_) => false,
        }
    }
}
