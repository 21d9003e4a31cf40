//! Object ids. Those of PostgreSQL's own objects are PostgreSQL's; those of a tenant's objects
//! follow from the ids in its catalog, so that they never change and are the same on every node.

use crate::catalog::{Catalog, Table};

/// PostgreSQL's first object id that is not its own.
pub const FIRST_USER: u32 = 16384;
/// Ids in the catalog are this far apart, for what belongs to an object and has no id of its own.
const STEP: u32 = 8;

pub const NAMESPACE_PG_CATALOG: u32 = 11;
pub const NAMESPACE_PUBLIC: u32 = 2200;
pub const NAMESPACE_INFORMATION_SCHEMA: u32 = 13_212;
pub const NAMESPACE_SPRINGHEAD: u32 = 16_383;
/// The role that owns what Springhead made: PostgreSQL's bootstrap superuser.
pub const ROLE_OWNER: u32 = 10;
/// PostgreSQL's `pg_database_owner`.
pub const ROLE_DATABASE_OWNER: u32 = 6171;
pub const AM_HEAP: u32 = 2;
pub const AM_BTREE: u32 = 403;
pub const COLLATION_DEFAULT: u32 = 100;
pub const COLLATION_C: u32 = 950;
pub const LANGUAGE_SQL: u32 = 14;
pub const LANGUAGE_INTERNAL: u32 = 12;
pub const LANGUAGE_PLPGSQL: u32 = 13_612;
pub const TABLESPACE_DEFAULT: u32 = 1663;

/// What an object id is for, beside the object itself.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Itself = 0,
    /// The composite type of a relation's rows, or an enum's or domain's own type.
    RowType = 1,
    /// The array type over it.
    ArrayType = 2,
    /// A table's primary key: the index, and the constraint.
    PrimaryKey = 3,
    /// A view's rule.
    Rule = 4,
}

/// The object id of a part of what has this id in the catalog.
#[must_use]
pub const fn of(id: u32, part: Part) -> u32 {
    FIRST_USER
        .saturating_add(id.saturating_mul(STEP))
        .saturating_add(part as u32)
}

/// The id and the part that an object id stands for.
#[must_use]
pub fn id_of(oid: u32) -> Option<(u32, u32)> {
    let offset = oid.checked_sub(FIRST_USER)?;
    Some((offset / STEP, offset % STEP))
}

/// Whether an object id is that of a type that somebody has defined, or of an array of it.
#[must_use]
pub fn is_user_type(catalog: &Catalog, oid: u32) -> bool {
    id_of(oid).is_some_and(|(id, part)| {
        (part == Part::RowType as u32 || part == Part::ArrayType as u32)
            && catalog.types.contains_key(&id)
    })
}

/// A table's own object id.
#[must_use]
pub fn table(table: &Table) -> u32 {
    of(table.id, Part::Itself)
}

/// An object id for what has only a name: the same name gives the same id.
#[must_use]
pub fn named(kind: &str, name: &str) -> u32 {
    // FNV-1a.
    let mut hash: u32 = 0x811c_9dc5;
    for byte in kind.bytes().chain([0]).chain(name.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    0x4000_0000 | (hash & 0x3fff_ffff)
}

/// An extension's object id: one of PostgreSQL's own, so that its tools do not ask for it to be made.
#[must_use]
pub fn extension(name: &str) -> u32 {
    match name {
        "plpgsql" => 13_611,
        "springhead" => 16_382,
        "pgcrypto" => 16_381,
        _ => 16_380,
    }
}

/// A foreign key's object id.
#[must_use]
pub fn foreign_key(table: &Table, name: &str) -> u32 {
    named("foreign key", &format!("{}.{name}", table.id))
}

/// A column default's object id.
#[must_use]
pub fn default(table: &Table, column: u32) -> u32 {
    named("default", &format!("{}.{column}", table.id))
}

/// A database's object id.
#[must_use]
pub fn database(tenant: u32) -> u32 {
    of(tenant, Part::Itself)
}

/// The object id of a role that is not in the roles: PostgreSQL's own, or a name of open mode.
#[must_use]
pub fn role(name: &str) -> u32 {
    match name {
        "postgres" => ROLE_OWNER,
        "pg_database_owner" => ROLE_DATABASE_OWNER,
        name => named("role", name),
    }
}

/// A schema's object id; 0 for an unknown one.
#[must_use]
pub fn namespace(name: &str) -> u32 {
    match name {
        "pg_catalog" => NAMESPACE_PG_CATALOG,
        "public" => NAMESPACE_PUBLIC,
        "information_schema" => NAMESPACE_INFORMATION_SCHEMA,
        "springhead" => NAMESPACE_SPRINGHEAD,
        _ => 0,
    }
}

/// The schemas there are.
pub const NAMESPACES: [&str; 4] = ["pg_catalog", "public", "information_schema", "springhead"];
