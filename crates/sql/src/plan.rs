//! What the planner hands to the engine: for one PostgreSQL statement, the SQLite statements that
//! mean the same and everything that must be known to run them. Immutable and shared: the same plan
//! serves every execution with other parameters until the catalog changes.

use std::sync::Arc;

use springhead_proto::CollectionId;

use crate::access::Identity;
pub use crate::advisory::{AdvisoryAction, AdvisoryLock};
use crate::catalog::{Catalog, Definition, QualifiedName, Table};
use crate::cursor::CursorStatement;
use crate::explain::Explain;
use crate::live::{LiveOptions, LivePlan, LiveStatement};
pub use crate::maintenance::Maintenance;
pub use crate::pause::Pause;
use crate::prepared::PreparedStatement;
use crate::program::Library;
use crate::types::PgType;

/// A planned statement.
#[derive(Debug)]
pub struct Plan {
    /// The catalog version it was planned against; with any other it must be planned again.
    pub catalog_version: u64,
    /// The types of `$1`, `$2`, …; the engine converts each value to its storage form before it
    /// binds it to `?1`, `?2`, … ([`crate::types`]).
    pub parameters: Vec<Parameter>,
    /// Reads `pg_catalog` or `information_schema`, or asks about the catalog ([`crate::system`]).
    pub system: bool,
    pub kind: PlanKind,
    /// The programs that it may run; `None` if the catalog has none.
    pub library: Option<Arc<Library>>,
}

/// A parameter of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub pg_type: PgType,
    /// Set if the value goes straight into this column, so that NULL, range and length are checked
    /// when it is bound and SQLite needs no conversion function.
    pub assigned_to: Option<Assigned>,
}

/// The column that a parameter is stored in unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    pub table: String,
    pub column: String,
    pub not_null: bool,
}

/// What a plan does.
#[derive(Debug)]
pub enum PlanKind {
    /// Reads only; may run on a snapshot reader.
    Query(Query),
    /// INSERT, UPDATE, DELETE, or a query with side effects (`SELECT nextval(…)`).
    Write(Write),
    Truncate {
        tables: Vec<CollectionId>,
        restart_identity: Vec<u32>,
    },
    Ddl(Box<Ddl>),
    Transaction(TransactionControl),
    /// SET, RESET, SHOW, DISCARD: the session's own business.
    Setting(Setting),
    /// CREATE/DROP DATABASE.
    Database(Database),
    /// CREATE ROLE and its kin.
    Role(Box<RoleStatement>),
    /// EXPLAIN of a plan: its SQLite text and query plan.
    Explain(Explain),
    /// LIVE SELECT: its id, and what changes in its result from then on.
    Live(LiveSelect),
    /// CANCEL LIVE and FETCH LIVE: the session's own business.
    LiveControl(LiveStatement),
    /// EXPLAIN LIVE: how a live query would be kept true, line by line.
    ExplainLive(Vec<String>),
    /// Known, has no effect here (e.g. COMMENT ON EXTENSION); the tag to answer with.
    NoEffect(&'static str),
    /// VACUUM and its kin: nothing to do once checked.
    Maintenance(Maintenance),
    /// NOTIFY: a message, through the writer like every change.
    Notify(Notification),
    /// LISTEN and UNLISTEN: the session's own business.
    Listen(Listen),
    Copy(Box<Copy>),
    /// SHOW CHANGES.
    Changes(Box<ShowChanges>),
    /// DO: the session runs the block.
    Do(Arc<crate::program::script::Block>),
    /// pg_advisory_lock() and its kin.
    Advisory(AdvisoryLock),
    /// pg_sleep() and its kin.
    Pause(Pause),
    /// CALL of one of Springhead's own procedures.
    OwnCall(OwnCall),
    /// DECLARE, FETCH, MOVE and CLOSE.
    Cursor(CursorStatement),
    /// PREPARE, EXECUTE, DEALLOCATE.
    Prepared(PreparedStatement),
}

/// CALL of one of Springhead's own procedures.
#[derive(Debug, Clone)]
pub struct OwnCall {
    pub procedure: OwnProcedure,
    /// Its one row are the arguments, in the order of the parameters, NULL for one that is left out.
    pub arguments: Arc<Query>,
}

impl OwnProcedure {
    /// The columns of its one row, all text; none for one that returns nothing.
    #[must_use]
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            OwnProcedure::RetryDeadLetter => &["outcome", "lsn"],
            OwnProcedure::RedriveDeadLetters => &["found", "applied", "rejected"],
            OwnProcedure::ResolveDeadLetter | OwnProcedure::SetDeadLetterPolicy => &[],
        }
    }
}

/// See [`OwnCall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnProcedure {
    /// `retry_dead_letter(id bigint, operations jsonb)`.
    RetryDeadLetter,
    /// `resolve_dead_letter(id bigint, note text)`.
    ResolveDeadLetter,
    /// `redrive_dead_letters(collection text, rate_per_s bigint)`.
    RedriveDeadLetters,
    /// `set_dead_letter_policy(collection text, ttl_s bigint, action text, max_entries bigint,
    /// on_full text, violation text)`.
    SetDeadLetterPolicy,
}

/// A live query as a statement.
#[derive(Debug, Clone)]
pub struct LiveSelect {
    pub plan: Arc<LivePlan>,
    /// The query's text.
    pub sql: Arc<str>,
    pub options: LiveOptions,
}

/// A message to whoever listens. Its lengths have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub channel: String,
    pub payload: String,
}

/// LISTEN and UNLISTEN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// With `from`, messages after that cursor first.
    Start {
        channel: String,
        from: Option<String>,
    },
    Stop(String),
    StopAll,
}

/// SHOW CHANGES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowChanges {
    /// As feeds name it.
    pub collection: String,
    pub since: ChangesSince,
    /// A condition, as `where=` takes it.
    pub filter: Option<String>,
    pub limit: Option<u64>,
}

/// Where SHOW CHANGES begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangesSince {
    /// With the earliest change kept.
    Earliest,
    /// That time and later; a timestamp's text.
    Time(String),
    /// That LSN and later.
    Lsn(u64),
    /// After that cursor.
    Cursor(String),
}

/// COPY between a table or query and the client.
#[derive(Debug)]
pub struct Copy {
    /// The table's name, for messages; `query` where there is none.
    pub relation: String,
    pub direction: CopyDirection,
    pub options: CopyOptions,
}

/// Which way rows go.
#[derive(Debug)]
pub enum CopyDirection {
    /// An INSERT whose parameters are one row's values, and the names of their columns.
    In {
        insert: Arc<Plan>,
        names: Vec<String>,
    },
    /// What gives the rows.
    Out { query: Arc<Plan> },
    /// A live query, whose rows and changes are given until somebody ends it.
    Live(LiveSelect),
}

/// The form of COPY's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: String,
    pub header: CopyHeader,
    pub quote: u8,
    pub escape: u8,
    /// By column: quote every value that is not NULL (out).
    pub force_quote: Vec<bool>,
    /// By column: what stands for NULL is a value (in).
    pub force_not_null: Vec<bool>,
    /// By column: what stands for NULL is NULL even in quotes (in).
    pub force_null: Vec<bool>,
}

/// COPY's formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

/// Whether the first line has the columns' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyHeader {
    No,
    Yes,
    /// It does, and they must be the columns that are copied into.
    Match,
}

/// A statement that returns rows.
#[derive(Debug)]
pub struct Query {
    /// SQLite text with `?1`… for `$1`….
    pub sql: String,
    pub columns: Arc<[OutputColumn]>,
    /// The tables it reads, ascending.
    pub reads: Vec<CollectionId>,
    /// FOR UPDATE and its kin: must run on the writer.
    pub locks: bool,
    /// With NOWAIT: not if a transaction has the writer.
    pub nowait: bool,
}

impl Query {
    /// One that locks nothing.
    pub(crate) fn reading(
        sql: String,
        columns: Arc<[OutputColumn]>,
        reads: Vec<CollectionId>,
    ) -> Query {
        Query {
            sql,
            columns,
            reads,
            locks: false,
            nowait: false,
        }
    }
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    pub name: String,
    pub pg_type: PgType,
    /// The table column it comes from unchanged, for the protocol's row description.
    pub origin: Option<(CollectionId, u32)>,
    /// Whether it can be NULL, as far as the statement tells: a column that is `NOT NULL` can, on the
    /// far side of an outer join.
    pub nullable: bool,
}

impl OutputColumn {
    /// One that comes from no table.
    #[must_use]
    pub fn computed(name: impl Into<String>, pg_type: PgType) -> OutputColumn {
        OutputColumn {
            name: name.into(),
            pg_type,
            origin: None,
            nullable: true,
        }
    }
}

/// Which word the command tag starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteVerb {
    Insert,
    Update,
    Delete,
    /// A SELECT that writes through a function.
    Select,
    /// CALL of a procedure.
    Call,
    /// Its parts alone are the statement.
    Merge,
    /// LOCK TABLE: to have the writer is all that it is for.
    Lock,
}

/// A statement that changes rows.
#[derive(Debug)]
pub struct Write {
    pub verb: WriteVerb,
    /// SQLite text with `?1`… for `$1`….
    pub sql: String,
    /// RETURNING's (or SELECT's) columns; empty without.
    pub returning: Arc<[OutputColumn]>,
    /// The table it names; [`CollectionId::NONE`] for [`WriteVerb::Select`].
    pub table: CollectionId,
    /// Whether foreign keys may be violated by it (the table has, or is the target of, one), so
    /// that it needs a savepoint of its own.
    pub touches_foreign_keys: bool,
    /// Sequences it may take numbers from.
    pub sequences: Vec<u32>,
    /// The columns (ids) that an UPDATE names.
    pub updated: Vec<u32>,
    /// INSERT … ON CONFLICT DO UPDATE.
    pub upserts: bool,
    /// It may meet a row that it has written itself, which is 21000.
    pub once: bool,
    /// It runs INSTEAD OF triggers: a row for each, NULL for one that was left out.
    pub instead: bool,
    /// What new rows of the table must be like for row policies.
    pub checks: Vec<RowCheck>,
    /// Who must not learn of hidden rows from an error's detail ([`crate::access::conceal`]).
    pub viewer: Option<Arc<Identity>>,
    /// What runs before it, in order.
    pub before: Vec<Before>,
}

/// A part of a statement that runs before the last, and whose rows others read (`sh_step(number)`).
#[derive(Debug)]
pub struct Before {
    pub number: usize,
    pub run: crate::program::Run,
}

/// Row policies as a condition on each row that a statement has written into its table.
#[derive(Debug)]
pub struct RowCheck {
    /// The rows it is for: inserted ones, else updated ones.
    pub inserted: bool,
    /// SQLite text, the row's rowid as its one parameter: the number of the violated policy in
    /// `violations`, from 0, or NULL.
    pub sql: String,
    /// PostgreSQL's words for each.
    pub violations: Vec<String>,
}

/// A change of definitions, all of one statement.
#[derive(Debug)]
pub struct Ddl {
    /// The command tag, e.g. `CREATE TABLE`.
    pub tag: &'static str,
    /// The statement as its author wrote it.
    pub source: String,
    /// In order; each becomes one DEFINITION change.
    pub changes: Vec<DefinitionChange>,
    /// The exact SQLite statements, in order; replay runs the same.
    pub statements: Vec<String>,
    /// Whether they rebuild a table: foreign keys off, legacy_alter_table on, capture off, under a
    /// guard; then the checks below.
    pub rebuilds: bool,
    /// The tables whose rows get other values in columns that they had, without an image of any.
    pub converts: Vec<CollectionId>,
    /// After the statements: tables to `foreign_key_check`.
    pub check_foreign_keys: Vec<CollectionId>,
    /// Before the statements: each query must return no row, or its error is the answer. What is
    /// found here would fail in the statements too, with less to say.
    pub preconditions: Vec<Validation>,
    /// After the statements: each query must return no row, or its error is the answer.
    pub validations: Vec<Validation>,
    /// After the statements, captured: SQLite UPDATEs for values that are no pure function of the
    /// row (volatile defaults of a new column, ALTER TYPE … USING).
    pub updates: Vec<String>,
    /// Sequences whose next number is this one from now on (ALTER SEQUENCE … RESTART).
    pub sequence_restarts: Vec<(u32, i64)>,
    /// The catalog once it has committed.
    pub catalog: Arc<Catalog>,
    /// NOTICEs for the client (`relation "x" already exists, skipping`).
    pub notices: Vec<String>,
}

/// One definition put or dropped.
#[derive(Debug, Clone)]
pub struct DefinitionChange {
    pub action: DefinitionAction,
    /// After a put: the new form. For a drop: the last form.
    pub definition: Definition,
    /// The table it concerns, or [`CollectionId::NONE`].
    pub collection: CollectionId,
}

/// Whether a definition came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefinitionAction {
    Put,
    Drop,
}

/// A check of existing rows for a new constraint.
#[derive(Debug)]
pub struct Validation {
    /// SQLite text; one row returned means violated.
    pub sql: String,
    /// The error to answer with, before its detail is completed: see [`Validation::error`].
    pub(crate) error: springhead_proto::SqlError,
    /// The columns of the returned row, if the detail names their values.
    pub(crate) key: Vec<(String, PgType)>,
    /// What follows `Key (a)=(1) ` in the detail.
    pub(crate) key_is: String,
}

/// BEGIN and its kin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionControl {
    Begin {
        isolation: Option<Isolation>,
        read_only: Option<bool>,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// SET TRANSACTION …, SET SESSION CHARACTERISTICS ….
    Set {
        isolation: Option<Isolation>,
        read_only: Option<bool>,
        session: bool,
    },
    /// SET CONSTRAINTS ALL|names DEFERRED|IMMEDIATE.
    Constraints {
        names: Option<Vec<String>>,
        deferred: bool,
    },
}

/// Isolation levels that differ here; READ UNCOMMITTED is READ COMMITTED, as in PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// SET and its kin. Names are lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    Set {
        name: String,
        value: Option<String>,
        local: bool,
    },
    Reset {
        name: Option<String>,
    },
    Show {
        name: Option<String>,
    },
    Discard,
}

/// CREATE and DROP DATABASE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    Create { name: String, if_not_exists: bool },
    Drop { name: String, if_exists: bool },
}

/// Statements about roles, which belong to all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleStatement {
    Create {
        name: String,
        options: RoleOptions,
    },
    Alter {
        name: RoleName,
        options: RoleOptions,
    },
    Drop {
        names: Vec<RoleName>,
        if_exists: bool,
    },
    /// GRANT roles TO members.
    Grant {
        roles: Vec<RoleName>,
        members: Vec<RoleName>,
        admin_option: bool,
    },
    Revoke {
        roles: Vec<RoleName>,
        members: Vec<RoleName>,
        /// REVOKE ADMIN OPTION FOR: the membership stays.
        admin_option_only: bool,
    },
    /// CREATE TOKEN: an API token; it is the statement's one row.
    CreateToken {
        name: String,
        role: RoleName,
        /// The one tenant that it is good for, by name.
        tenant: Option<String>,
        read_only: bool,
        /// Microseconds since 1970.
        valid_until: Option<i64>,
    },
    /// DROP TOKEN: revokes it.
    DropToken {
        id: String,
    },
}

/// A role as statements name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleName {
    Named(String),
    /// CURRENT_USER, CURRENT_ROLE.
    Current,
    /// SESSION_USER.
    Session,
}

/// What CREATE and ALTER ROLE say; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleOptions {
    pub login: Option<bool>,
    pub superuser: Option<bool>,
    pub createdb: Option<bool>,
    pub createrole: Option<bool>,
    pub inherit: Option<bool>,
    pub bypass_rls: Option<bool>,
    /// Connections at a time; -1 for any number.
    pub connection_limit: Option<i64>,
    /// As given: a password or a verifier. `Some(None)` for PASSWORD NULL.
    pub password: Option<Option<String>>,
    /// Microseconds since 1970; `Some(None)` for infinity.
    pub valid_until: Option<Option<i64>>,
    /// Roles that it becomes a member of.
    pub in_roles: Vec<RoleName>,
    /// Roles that become its members.
    pub members: Vec<RoleName>,
    /// Roles that become its members and may grant it.
    pub admins: Vec<RoleName>,
    /// The one tenant that it may connect to, by name; `Some(None)` for TENANT ALL.
    pub tenant: Option<Option<String>>,
}

/// A CDC filter: a condition on one row image.
#[derive(Debug)]
pub struct Filter {
    /// SQLite text of `SELECT condition` over the row image's values bound to `?1`, `?2`, … in
    /// storage order of the table at the schema version it was planned for.
    pub sql: String,
    pub table: Arc<Table>,
    /// Places in the row image that the condition looks at, ascending.
    pub columns: Vec<usize>,
}

/// A name for messages: `"schema.name"`, or the name alone for `public`.
#[must_use]
pub fn display_name(name: &QualifiedName) -> String {
    if name.schema == "public" {
        name.name.clone()
    } else {
        format!("{}.{}", name.schema, name.name)
    }
}
