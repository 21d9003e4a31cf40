//! `pg_catalog` and `information_schema`: relations whose rows are made from a tenant's [`Catalog`]
//! when a statement reads them, and the functions that describe its objects.
//!
//! The planner finds a relation with [`resolve`] and writes the SQLite table [`Relation::storage_name`]
//! in its place; the engine registers each of [`RELATIONS`] as a virtual table of that name, which
//! asks a [`View`] for its rows. `sh_sys(name, …)` is [`calls::call`]. docs/adr/0007 says why.

mod acl;
pub mod calls;
mod cell;
mod constraints;
mod database;
mod dependencies;
mod describe;
mod extensions;
mod functions;
mod index;
mod information;
mod objects;
pub mod oids;
mod privileges;
mod programs;
mod qualified;
mod relations;
mod sequences;
mod shape;
mod types;
mod user_types;

use std::sync::{Arc, OnceLock};

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use crate::access::Identity;
use crate::catalog::Catalog;

pub use functions::SIGNATURES;
pub use shape::{Kind, Relation};

/// What the rows are made from: a catalog, who looks at it, and the session.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub catalog: &'a Catalog,
    pub identity: &'a Identity,
    pub session: &'a dyn Surroundings,
}

/// What only the engine knows.
pub trait Surroundings: Send + Sync {
    /// A setting's value.
    fn setting(&self, name: &str) -> Option<String>;
    /// Every setting's name and value.
    fn settings(&self) -> Vec<(String, String)>;
    /// The tenants that the session may know of: id and name.
    fn databases(&self) -> Vec<(u32, String)>;
    /// The roles that the session may know of.
    fn roles(&self) -> Vec<Role>;
    /// Who is a member of which: role, member, grantor, and whether it may add others.
    fn memberships(&self) -> Vec<(String, String, String, bool)>;
    /// The tenant's own id.
    fn database_id(&self) -> u32;
    /// How large its state is, if that is known.
    fn database_bytes(&self) -> Option<i64>;
    /// Where a sequence is, if a writer has it: the last number, and whether that has been handed out.
    fn sequence(&self, _id: u32) -> Option<(i64, bool)> {
        None
    }
    /// The session's prepared statements, by name.
    fn prepared(&self) -> Vec<PreparedRow> {
        Vec::new()
    }
    /// The rows of `springhead.standbys`.
    fn standbys(&self) -> Vec<Row> {
        Vec::new()
    }
}

/// A prepared statement of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedRow {
    pub name: String,
    /// Its text; of one that PREPARE has made, the whole PREPARE.
    pub statement: String,
    /// When it was made, in microseconds since 1970.
    pub prepared_us: i64,
    /// Names of the types of `$1`, ….
    pub parameter_types: Vec<String>,
    /// Made by PREPARE, not by the protocol.
    pub from_sql: bool,
}

/// A role, without anything secret.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "PostgreSQL's columns")]
pub struct Role {
    pub oid: u32,
    pub name: String,
    pub superuser: bool,
    pub inherit: bool,
    pub createrole: bool,
    pub createdb: bool,
    pub login: bool,
    pub bypass_rls: bool,
    pub connection_limit: i64,
    pub valid_until_us: Option<i64>,
}

/// A row's values, in the order of the relation's columns.
pub type Row = Box<[Value]>;

/// Every relation of both schemas.
#[must_use]
pub fn all() -> &'static [Relation] {
    static ALL: OnceLock<Vec<Relation>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        all.extend_from_slice(relations::RELATIONS);
        all.extend_from_slice(constraints::RELATIONS);
        all.extend_from_slice(sequences::RELATIONS);
        all.extend_from_slice(dependencies::RELATIONS);
        all.extend_from_slice(objects::RELATIONS);
        all.extend_from_slice(extensions::RELATIONS);
        all.extend_from_slice(types::RELATIONS);
        all.extend_from_slice(database::RELATIONS);
        all.extend_from_slice(information::RELATIONS);
        all.sort_by_key(|relation| (relation.schema, relation.name));
        all
    })
}

/// The relation that a name stands for; without a schema it is one of `pg_catalog`, which comes
/// before the search path.
#[must_use]
pub fn resolve(schema: Option<&str>, name: &str) -> Option<&'static Relation> {
    let schema = schema.unwrap_or("pg_catalog");
    all()
        .binary_search_by_key(&(schema, name), |relation| (relation.schema, relation.name))
        .ok()
        .map(|place| &all()[place])
}

/// The relation with this object id.
fn by_oid(oid: u32) -> Option<&'static Relation> {
    all().iter().find(|relation| relation.oid() == oid)
}

/// An index's object id.
#[must_use]
pub fn index_oid(table: &crate::catalog::Table, name: &str) -> Option<u32> {
    describe::indexes(table)
        .into_iter()
        .find(|index| index.name == name)
        .map(|index| index.oid)
}

/// A constraint's object id.
#[must_use]
pub fn constraint_oid(table: &crate::catalog::Table, name: &str) -> Option<u32> {
    describe::constraints(table)
        .into_iter()
        .find(|constraint| constraint.name() == name)
        .map(|constraint| constraint.oid(table))
}

pub use programs::policy_oid;

/// Rows of the relations that follow from the catalog alone, made once for all who read it.
#[derive(Default)]
pub struct Cache {
    /// One slot for each of [`all`].
    built: OnceLock<Box<[OnceLock<Arc<Table>>]>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

impl Clone for Cache {
    /// A catalog is copied in order to be changed: the copy starts with nothing.
    fn clone(&self) -> Cache {
        Cache::default()
    }
}

impl Cache {
    /// The rows of a relation, made at the first call. A cache serves one catalog (or, for
    /// relations that are [`Relation::live`], one statement).
    ///
    /// # Errors
    /// What describing an object says.
    pub fn rows(&self, relation: &Relation, view: &View<'_>) -> Result<Arc<Table>, SqlError> {
        let slots = self
            .built
            .get_or_init(|| all().iter().map(|_| OnceLock::new()).collect());
        let place = all()
            .binary_search_by_key(&(relation.schema, relation.name), |other| {
                (other.schema, other.name)
            })
            .map_err(|_| SqlError::new(ErrorCode::Internal, "a relation that is not registered"))?;
        if let Some(table) = slots[place].get() {
            return Ok(Arc::clone(table));
        }
        let table = Arc::new(Table::build(relation, view)?);
        Ok(Arc::clone(slots[place].get_or_init(|| table)))
    }
}

/// A relation's rows, with indexes for equality that are made when they are first used.
pub struct Table {
    pub rows: Vec<Row>,
    indexes: Box<[OnceLock<index::Index>]>,
}

impl Table {
    /// # Errors
    /// What describing an object says.
    pub fn build(relation: &Relation, view: &View<'_>) -> Result<Table, SqlError> {
        let mut rows = Vec::new();
        (relation.rows)(view, &mut rows)?;
        debug_assert!(
            rows.iter()
                .all(|row: &Row| row.len() == relation.columns.len()),
            "{} has rows of another width",
            relation.name
        );
        Ok(Table {
            rows,
            indexes: relation.columns.iter().map(|_| OnceLock::new()).collect(),
        })
    }

    /// The places of the rows whose column may equal the value; others do not.
    #[must_use]
    pub fn matching(&self, column: usize, value: ValueRef<'_>) -> &[u32] {
        self.indexes[column]
            .get_or_init(|| index::Index::build(&self.rows, column))
            .get(value)
    }
}
