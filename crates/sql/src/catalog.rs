//! What a tenant's database contains: an immutable value, replaced as a whole by each DDL commit.
//!
//! Storage names are made of ids (`t104`, columns `c1`, `c2`), never of users' names: a rename
//! touches no SQLite table, PostgreSQL's case rules cannot collide with SQLite's, and what the
//! preupdate hook and SQLite's error texts say maps back without guessing.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use springhead_proto::{CollectionId, SchemaVersion};

use crate::types::PgType;

mod access;
mod comment;
mod document_id;
mod lookup;
mod record;
mod routine;
mod system;
mod user_type;

pub use access::{Access, BOOTSTRAP_ROLE, Grant, Policy, PolicyCommand, Privilege, Privileges};
pub use comment::Comment;
pub use record::{DefinitionPayload, DefinitionRecord};
pub use routine::{Argument, Event, Language, Returns, Routine, Timing, Trigger, Volatility};
pub use user_type::{Domain, UserType, UserTypeKind};

/// All definitions of one tenant at one catalog version. Made by [`Catalog::bootstrap`],
/// [`Catalog::from_definitions`] and [`Catalog::with_changes`] alone, which keep `relations` and
/// `children` in step with the definitions.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Counts DDL statements; from 1 (the bootstrap).
    pub version: u64,
    /// The next id that a new object gets: collections, sequences, indexes, checks and views share
    /// it. Never goes down, so that no id is used twice.
    pub next_id: u32,
    pub tables: FxHashMap<CollectionId, Arc<Table>>,
    pub sequences: FxHashMap<u32, Arc<Sequence>>,
    pub views: FxHashMap<u32, Arc<View>>,
    pub routines: FxHashMap<u32, Arc<Routine>>,
    pub triggers: FxHashMap<u32, Arc<Trigger>>,
    /// Enums and domains.
    pub types: FxHashMap<u32, Arc<UserType>>,
    pub comments: FxHashMap<u32, Arc<Comment>>,
    pub schema: Arc<Schema>,
    /// `schema.name` of every relation (tables, indexes, sequences, views) → what it is.
    pub relations: FxHashMap<QualifiedName, Relation>,
    /// Table → the tables whose foreign keys refer to it, itself included; ascending, each once.
    children: FxHashMap<CollectionId, Vec<CollectionId>>,
    /// What `pg_catalog` shows of it, once somebody has looked.
    pub system: crate::system::Cache,
}

/// A schema and a name within it, as PostgreSQL folds them (unquoted to lower case).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QualifiedName {
    /// `public`, or `springhead` for Springhead's own.
    pub schema: String,
    pub name: String,
}

/// What a relation's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Table(CollectionId),
    /// An index, by the table it is on.
    Index(CollectionId),
    Sequence(u32),
    View(u32),
}

/// A table: a collection. Serialized as the payload of its row in `springhead.definitions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub id: CollectionIdRepr,
    pub name: QualifiedName,
    /// Goes up whenever the name, `columns` or the key change; changes in the log say which they
    /// follow.
    pub schema_version: u32,
    /// The catalog version that made this schema version; 0 for one of an older server.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_catalog: u64,
    /// In storage order: the order of a row image's values. A table without a primary key has the
    /// hidden `c0 INTEGER PRIMARY KEY` as its first.
    pub columns: Vec<Column>,
    /// The next column id; ids of dropped columns are not used again.
    pub next_column_id: u32,
    /// Indexes into `columns`; the hidden column alone if there is no declared key. Never empty.
    pub key: Vec<usize>,
    /// The declared primary key's constraint name; `None` when the key is the hidden column.
    pub key_name: Option<String>,
    pub uniques: Vec<Unique>,
    pub checks: Vec<Check>,
    pub foreign_keys: Vec<ForeignKey>,
    pub indexes: Vec<Index>,
    /// How concurrent writes of devices to one column are decided.
    #[serde(default, skip_serializing_if = "Conflict::is_by_log")]
    pub conflict: Conflict,
    /// Who may do what with it.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(version: &u64) -> bool {
    *version == 0
}

/// Which of two writes to one column stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The one that is later in the log.
    #[default]
    Log,
    /// The one that was made later, by hybrid logical clocks.
    Hlc,
}

impl Conflict {
    #[must_use]
    pub fn is_by_log(&self) -> bool {
        *self == Conflict::Log
    }
}

/// [`CollectionId`] as it is serialized.
pub type CollectionIdRepr = u32;

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its storage name is `c<id>`; 0 is the hidden key.
    pub id: u32,
    pub name: String,
    pub pg_type: PgType,
    pub not_null: bool,
    /// PostgreSQL text of the DEFAULT expression, as written.
    pub default: Option<String>,
    /// The sequence whose next number is the default: of an identity, a SERIAL, or a DEFAULT
    /// `nextval('…')`. `default` is then `None`.
    pub sequence: Option<u32>,
    /// GENERATED … AS IDENTITY, in place of SERIAL.
    pub identity: bool,
    /// GENERATED ALWAYS AS IDENTITY: explicit values are refused (428C9).
    pub identity_always: bool,
    /// PostgreSQL text of GENERATED ALWAYS AS (…) STORED.
    pub generated: Option<String>,
    /// Not shown: the hidden key, and the states of CRDT columns.
    pub hidden: bool,
    /// Declared `TEXT CRDT` or `LIST CRDT`: concurrent edits merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crdt: Option<Crdt>,
}

/// What makes a column a CRDT column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crdt {
    pub kind: CrdtKind,
    /// The id of the hidden column that has the edits that the value comes of.
    pub state: u32,
}

/// What merges: see [`Crdt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrdtKind {
    /// Characters of a `text`.
    Text,
    /// Elements of a `jsonb` array.
    List,
}

impl CrdtKind {
    /// The type that the column has for everyone else.
    #[must_use]
    pub const fn pg_type(self) -> PgType {
        match self {
            CrdtKind::Text => PgType::Text,
            CrdtKind::List => PgType::Jsonb,
        }
    }
}

/// A UNIQUE constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    pub name: String,
    /// Column ids.
    pub columns: Vec<u32>,
    pub nulls_not_distinct: bool,
    /// The id in its SQLite index's name `i<id>`.
    pub index_id: u32,
}

/// A CHECK constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The id in its SQLite constraint's name `k<id>`.
    pub id: u32,
    pub name: String,
    /// PostgreSQL text of the condition.
    pub expression: String,
}

/// A FOREIGN KEY. In SQLite always deferred; the writer checks immediate ones after each statement,
/// so that the violated constraint can be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    pub name: String,
    /// Column ids of this table.
    pub columns: Vec<u32>,
    pub parent: CollectionIdRepr,
    /// Column ids of the parent.
    pub parent_columns: Vec<u32>,
    pub on_delete: ReferentialAction,
    pub on_update: ReferentialAction,
    pub deferrable: bool,
    pub initially_deferred: bool,
}

/// What happens to rows that refer to a deleted or changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReferentialAction {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

/// An index that is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The id in its SQLite name `i<id>`.
    pub id: u32,
    pub name: String,
    pub unique: bool,
    /// The access method, as in `USING btree`. Others than btree and hash are kept here alone: they
    /// have no SQLite index.
    pub method: String,
    /// PostgreSQL text of each key, with DESC / NULLS FIRST as written.
    pub keys: Vec<String>,
    /// PostgreSQL text of the WHERE of a partial index.
    pub predicate: Option<String>,
}

/// A sequence. Its current value is state of the writer, not of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub id: u32,
    pub name: QualifiedName,
    pub pg_type: PgType,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
    /// The table and column id that own it, and take it with them when dropped.
    pub owned_by: Option<(CollectionIdRepr, u32)>,
    /// Who may do what with it.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

/// A view: expanded by the planner wherever it is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub id: u32,
    pub name: QualifiedName,
    pub columns: Vec<(String, PgType)>,
    /// PostgreSQL text of its query, with `*` already expanded.
    pub query: String,
    /// Relations it depends on (ids).
    pub depends_on: Vec<u32>,
    /// Its relations are read with the rights of whoever asks, not of its owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub security_invoker: bool,
    /// No condition from outside is tried on rows that it leaves out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub security_barrier: bool,
    /// Who may do what with it.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

/// The schema `public`, the one that there is: who may look into it and who may make things in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub id: u32,
    pub name: QualifiedName,
    pub access: Access,
}

/// One definition put or dropped: the payload of a DEFINITION change and of the row in
/// `springhead.definitions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Definition {
    Table(Table),
    Sequence(Sequence),
    View(View),
    Routine(Routine),
    Trigger(Trigger),
    Schema(Schema),
    Type(UserType),
    Comment(Comment),
}

impl Table {
    #[must_use]
    pub fn collection(&self) -> CollectionId {
        CollectionId(self.id)
    }

    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        SchemaVersion(self.schema_version)
    }

    /// Its name in SQLite.
    #[must_use]
    pub fn storage_name(&self) -> String {
        format!("t{}", self.id)
    }

    /// The columns users see, with their place in a row image.
    pub fn visible_columns(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .filter(|(_, column)| !column.hidden)
    }

    /// The CRDT columns with their places in a row image, and the places of their states.
    pub fn crdt_columns(&self) -> impl Iterator<Item = CrdtColumn<'_>> {
        self.columns
            .iter()
            .enumerate()
            .filter_map(|(place, column)| {
                let crdt = column.crdt?;
                let (state_place, state) = self.column_by_id(crdt.state)?;
                Some(CrdtColumn {
                    kind: crdt.kind,
                    place,
                    column,
                    state_place,
                    state,
                })
            })
    }

    /// Whether any of its columns merges.
    #[must_use]
    pub fn has_crdt(&self) -> bool {
        self.columns.iter().any(|column| column.crdt.is_some())
    }
}

/// A CRDT column of a table.
#[derive(Debug, Clone, Copy)]
pub struct CrdtColumn<'t> {
    pub kind: CrdtKind,
    /// The column's place in a row image, and the column.
    pub place: usize,
    pub column: &'t Column,
    /// The same of the hidden column with its edits.
    pub state_place: usize,
    pub state: &'t Column,
}

impl Column {
    /// What comes after a CRDT column's name in that of its state.
    pub const CRDT_STATE: &'static str = "$crdt";

    /// Its name in SQLite.
    #[must_use]
    pub fn storage_name(&self) -> String {
        format!("c{}", self.id)
    }
}
