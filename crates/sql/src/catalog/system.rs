//! Springhead's own collections: there from the first start, never altered by a user.

use springhead_proto::CollectionId;

use super::{Access, Catalog, Column, Conflict, Definition, Index, QualifiedName, Table, Unique};
use crate::types::PgType;

mod device;

/// The index of `springhead.tenants (name)`.
const TENANT_NAME_INDEX: u32 = 50;
/// The indexes of `springhead.dead_letters`: by collection, and by when something is due.
const DEAD_LETTER_INDEXES: [u32; 2] = [51, 52];

impl Catalog {
    /// Version 1: Springhead's own collections and nothing else.
    #[must_use]
    pub fn bootstrap() -> Catalog {
        let mut catalog = Catalog::empty(1, CollectionId::FIRST_USER.0);
        for table in [
            definitions(),
            consumers(),
            tenants(),
            roles(),
            role_members(),
            tokens(),
            audit(),
            dead_letters(),
            dead_letter_policies(),
            escalations(),
            dead_letter_totals(),
            dead_letter_redrives(),
            sync_producers(),
            sync_verdicts(),
            sync_clocks(),
        ]
        .into_iter()
        .chain(device::tables())
        {
            catalog.insert(Definition::Table(table));
        }
        catalog.index_children();
        catalog
    }

    /// The SQLite statements that make the tables of [`Catalog::bootstrap`] in an empty database.
    /// Written out, so that they cannot change unnoticed; a test holds them against the definitions.
    #[must_use]
    pub fn bootstrap_statements() -> Vec<String> {
        [
            "CREATE TABLE t1 (c1 INTEGER PRIMARY KEY, c2 TEXT NOT NULL, c3 TEXT NOT NULL, c4 TEXT, \
             c5 TEXT NOT NULL, c6 TEXT NOT NULL, c7 TEXT NOT NULL, c8 INTEGER NOT NULL, c9 TEXT NOT NULL) STRICT",
            "CREATE TABLE t2 (c1 TEXT NOT NULL, c2 TEXT, c3 TEXT NOT NULL, c4 INTEGER NOT NULL, \
             c5 TEXT NOT NULL, c6 INTEGER, c7 TEXT NOT NULL, c8 INTEGER NOT NULL, c9 INTEGER NOT NULL, \
             c10 TEXT, PRIMARY KEY (c1)) STRICT",
            "CREATE TABLE t3 (c1 INTEGER PRIMARY KEY, c2 TEXT NOT NULL, c3 TEXT NOT NULL, \
             c4 INTEGER NOT NULL) STRICT",
            "CREATE UNIQUE INDEX i50 ON t3 (c2)",
            "CREATE TABLE t4 (c1 TEXT NOT NULL, c2 INTEGER NOT NULL, c3 INTEGER NOT NULL, \
             c4 INTEGER NOT NULL, c5 INTEGER NOT NULL, c6 INTEGER NOT NULL, c7 INTEGER NOT NULL, \
             c8 INTEGER NOT NULL, c9 INTEGER NOT NULL, c10 INTEGER, c11 TEXT, c12 INTEGER, \
             c13 INTEGER NOT NULL, PRIMARY KEY (c1)) STRICT",
            "CREATE TABLE t5 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, c4 TEXT NOT NULL, \
             PRIMARY KEY (c1, c2)) STRICT",
            "CREATE TABLE t6 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, c3 TEXT NOT NULL, c4 TEXT NOT NULL, \
             c5 INTEGER, c6 INTEGER NOT NULL, c7 INTEGER, c8 INTEGER, c9 INTEGER NOT NULL, \
             c10 TEXT NOT NULL, PRIMARY KEY (c1)) STRICT",
            "CREATE TABLE t7 (c1 INTEGER PRIMARY KEY, c2 INTEGER NOT NULL, c3 TEXT NOT NULL, \
             c4 TEXT NOT NULL, c5 TEXT, c6 TEXT, c7 TEXT, c8 TEXT NOT NULL, c9 TEXT) STRICT",
            "CREATE TABLE t8 (c1 INTEGER PRIMARY KEY, c2 INTEGER NOT NULL, c3 TEXT, c4 TEXT NOT NULL, \
             c5 TEXT NOT NULL, c6 TEXT, c7 INTEGER NOT NULL, c8 TEXT NOT NULL, c9 BLOB NOT NULL, \
             c10 TEXT NOT NULL, c11 TEXT, c12 INTEGER NOT NULL, c13 TEXT NOT NULL, c14 INTEGER NOT NULL, \
             c15 INTEGER NOT NULL, c16 TEXT, c17 INTEGER, c18 INTEGER NOT NULL, c19 INTEGER NOT NULL, \
             c20 TEXT, c21 TEXT NOT NULL, c22 INTEGER NOT NULL) STRICT",
            "CREATE INDEX i51 ON t8 (\"c5\", \"c15\", \"c1\")",
            "CREATE INDEX i52 ON t8 (\"c22\")",
            "CREATE TABLE t9 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, c3 INTEGER, c4 TEXT, c5 INTEGER, \
             c6 TEXT, c7 INTEGER NOT NULL, c8 TEXT NOT NULL, PRIMARY KEY (c1, c2)) STRICT",
            "CREATE TABLE t10 (c1 INTEGER PRIMARY KEY, c2 INTEGER NOT NULL, c3 TEXT NOT NULL, \
             c4 TEXT NOT NULL, c5 TEXT, c6 TEXT NOT NULL, c7 TEXT NOT NULL, c8 TEXT, c9 INTEGER NOT NULL, \
             c10 TEXT NOT NULL) STRICT",
            "CREATE TABLE t11 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, c4 INTEGER NOT NULL, \
             c5 INTEGER NOT NULL, c6 INTEGER NOT NULL, c7 INTEGER NOT NULL, PRIMARY KEY (c1, c2)) STRICT",
            "CREATE TABLE t12 (c1 TEXT NOT NULL, c2 INTEGER NOT NULL, c3 INTEGER NOT NULL, c4 INTEGER NOT NULL, \
             c5 INTEGER NOT NULL, c6 INTEGER NOT NULL, c7 INTEGER NOT NULL, c8 INTEGER NOT NULL, \
             c9 TEXT NOT NULL, PRIMARY KEY (c1)) STRICT",
            "CREATE TABLE t20 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, c3 TEXT, c4 INTEGER NOT NULL, \
             c5 INTEGER NOT NULL, c6 INTEGER NOT NULL, c7 INTEGER NOT NULL, PRIMARY KEY (c1)) STRICT",
            "CREATE TABLE t21 (c1 TEXT NOT NULL, c2 INTEGER NOT NULL, c3 INTEGER NOT NULL, \
             c4 INTEGER, c5 TEXT, c6 TEXT, c7 INTEGER, PRIMARY KEY (c1, c2)) STRICT",
            "CREATE TABLE t22 (c1 INTEGER NOT NULL, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, \
             c4 INTEGER NOT NULL, c5 TEXT NOT NULL, PRIMARY KEY (c1, c2, c3)) STRICT",
        ]
        .into_iter()
        .chain(device::STATEMENTS)
        .map(str::to_owned)
        .collect()
    }
}

fn definitions() -> Table {
    system_table(
        CollectionId::DEFINITIONS,
        "definitions",
        vec![
            column(1, "id", PgType::Int8, true),
            column(2, "type", PgType::Text, true),
            column(3, "name", PgType::Text, true),
            column(4, "collection", PgType::Text, false),
            column(5, "sql", PgType::Text, true),
            column(6, "payload", PgType::Jsonb, true),
            column(7, "action", PgType::Text, true),
            column(8, "catalog_version", PgType::Int8, true),
            column(9, "hash", PgType::Text, true),
        ],
    )
}

fn consumers() -> Table {
    system_table(
        CollectionId::CONSUMERS,
        "consumers",
        vec![
            column(1, "name", PgType::Text, true),
            column(2, "collection", PgType::Text, false),
            column(3, "cursor", PgType::Text, true),
            column(4, "committed_lsn", PgType::Int8, true),
            column(5, "epoch", PgType::Text, true),
            column(6, "pin_bytes", PgType::Int8, false),
            column(7, "state", PgType::Text, true),
            column(8, "created_at", PgType::Timestamptz, true),
            column(9, "updated_at", PgType::Timestamptz, true),
            column(10, "options", PgType::Jsonb, false),
        ],
    )
}

fn tenants() -> Table {
    let mut table = system_table(
        CollectionId::TENANTS,
        "tenants",
        vec![
            column(1, "id", PgType::Int8, true),
            column(2, "name", PgType::Text, true),
            column(3, "state", PgType::Text, true),
            column(4, "created_at", PgType::Timestamptz, true),
        ],
    );
    table.uniques.push(Unique {
        name: "tenants_name_key".to_owned(),
        columns: vec![2],
        nulls_not_distinct: false,
        index_id: TENANT_NAME_INDEX,
    });
    table
}

/// Filled in the default tenant: roles belong to all tenants.
fn roles() -> Table {
    system_table(
        CollectionId::ROLES,
        "roles",
        vec![
            column(1, "name", PgType::Text, true),
            column(2, "id", PgType::Int8, true),
            column(3, "login", PgType::Bool, true),
            column(4, "superuser", PgType::Bool, true),
            column(5, "createdb", PgType::Bool, true),
            column(6, "createrole", PgType::Bool, true),
            column(7, "inherit", PgType::Bool, true),
            column(8, "bypassrls", PgType::Bool, true),
            column(9, "connection_limit", PgType::Int8, true),
            column(10, "valid_until", PgType::Timestamptz, false),
            column(11, "verifier", PgType::Text, false),
            column(12, "tenant", PgType::Int8, false),
            column(13, "created_at", PgType::Timestamptz, true),
        ],
    )
}

/// Filled in the default tenant.
fn role_members() -> Table {
    let mut table = system_table(
        CollectionId::ROLE_MEMBERS,
        "role_members",
        vec![
            column(1, "role", PgType::Text, true),
            column(2, "member", PgType::Text, true),
            column(3, "admin_option", PgType::Bool, true),
            column(4, "grantor", PgType::Text, true),
        ],
    );
    table.key = vec![0, 1];
    table
}

/// Filled in the default tenant.
fn tokens() -> Table {
    system_table(
        CollectionId::TOKENS,
        "tokens",
        vec![
            column(1, "id", PgType::Text, true),
            column(2, "name", PgType::Text, true),
            column(3, "hash", PgType::Text, true),
            column(4, "role", PgType::Text, true),
            column(5, "tenant", PgType::Int8, false),
            column(6, "read_only", PgType::Bool, true),
            column(7, "expires_at", PgType::Timestamptz, false),
            column(8, "revoked_at", PgType::Timestamptz, false),
            column(9, "created_at", PgType::Timestamptz, true),
            column(10, "created_by", PgType::Text, true),
        ],
    )
}

/// Filled in the default tenant.
fn audit() -> Table {
    system_table(
        CollectionId::AUDIT,
        "audit",
        vec![
            column(1, "id", PgType::Int8, true),
            column(2, "at", PgType::Timestamptz, true),
            column(3, "actor", PgType::Text, true),
            column(4, "action", PgType::Text, true),
            column(5, "object", PgType::Text, false),
            column(6, "tenant", PgType::Text, false),
            column(7, "address", PgType::Text, false),
            column(8, "outcome", PgType::Text, true),
            column(9, "detail", PgType::Text, false),
        ],
    )
}

/// Rejected mutations, whole. What the columns mean is in docs/dead-letters.md.
fn dead_letters() -> Table {
    let mut table = system_table(
        CollectionId::DEAD_LETTERS,
        QualifiedName::DEAD_LETTERS,
        vec![
            column(1, "id", PgType::Int8, true),
            column(2, "tenant_id", PgType::Int8, true),
            column(3, "session_id", PgType::Text, false),
            column(4, "username", PgType::Text, true),
            column(5, "collection", PgType::Text, true),
            column(6, "document_id", PgType::Text, false),
            column(7, "mutation_id", PgType::Int8, true),
            column(8, "peer_id", PgType::Text, true),
            column(9, "delta", PgType::Bytea, true),
            column(10, "violation_type", PgType::Text, true),
            column(11, "compensation", PgType::Jsonb, false),
            column(12, "created_at", PgType::Timestamptz, true),
            column(13, "device_metadata", PgType::Jsonb, true),
            column(14, "retry_count", PgType::Int8, true),
            column(15, "resolved", PgType::Bool, true),
            column(16, "resolved_by", PgType::Text, false),
            column(17, "resolved_at", PgType::Timestamptz, false),
            column(18, "base_lsn", PgType::Int8, true),
            column(19, "schema_version", PgType::Int8, true),
            column(20, "policy_or_constraint", PgType::Text, false),
            column(21, "attempts", PgType::Jsonb, true),
            column(22, "expires_at", PgType::Timestamptz, true),
        ],
    );
    let [by_collection, by_expiry] = DEAD_LETTER_INDEXES;
    table.indexes = vec![
        index(
            by_collection,
            "dead_letters_collection_idx",
            &["collection", "resolved", "id"],
        ),
        index(by_expiry, "dead_letters_expires_at_idx", &["expires_at"]),
    ];
    table
}

/// What happens to dead letters of a collection; `violation` `*` is for all that have no row of
/// their own.
fn dead_letter_policies() -> Table {
    let mut table = system_table(
        CollectionId::DEAD_LETTER_POLICIES,
        "dead_letter_policies",
        vec![
            column(1, "collection", PgType::Text, true),
            column(2, "violation", PgType::Text, true),
            column(3, "ttl_s", PgType::Int8, false),
            column(4, "action", PgType::Text, false),
            column(5, "max_entries", PgType::Int8, false),
            column(6, "on_full", PgType::Text, false),
            column(7, "updated_at", PgType::Timestamptz, true),
            column(8, "updated_by", PgType::Text, true),
        ],
    );
    table.key = vec![0, 1];
    table
}

/// Dead letters that have left without being resolved, for somebody to look at.
fn escalations() -> Table {
    system_table(
        CollectionId::ESCALATIONS,
        "escalations",
        vec![
            column(1, "id", PgType::Int8, true),
            column(2, "dead_letter_id", PgType::Int8, true),
            column(3, "reason", PgType::Text, true),
            column(4, "collection", PgType::Text, true),
            column(5, "document_id", PgType::Text, false),
            column(6, "username", PgType::Text, true),
            column(7, "violation_type", PgType::Text, true),
            column(8, "detail", PgType::Text, false),
            column(9, "created_at", PgType::Timestamptz, true),
            column(10, "entry", PgType::Jsonb, true),
        ],
    )
}

/// Counts; `*` and `*` is the whole tenant.
fn dead_letter_totals() -> Table {
    let mut table = system_table(
        CollectionId::DEAD_LETTER_TOTALS,
        "dead_letter_totals",
        vec![
            column(1, "collection", PgType::Text, true),
            column(2, "violation", PgType::Text, true),
            column(3, "enqueued", PgType::Int8, true),
            column(4, "resolved", PgType::Int8, true),
            column(5, "expired", PgType::Int8, true),
            column(6, "escalated", PgType::Int8, true),
            column(7, "unresolved", PgType::Int8, true),
        ],
    );
    table.key = vec![0, 1];
    table
}

/// Redrives that have begun and not ended: those of the collection after `last_id` and up to
/// `up_to_id` are still to be tried, for whoever began it.
fn dead_letter_redrives() -> Table {
    system_table(
        CollectionId::DEAD_LETTER_REDRIVES,
        "dead_letter_redrives",
        vec![
            column(1, "collection", PgType::Text, true),
            column(2, "rate_per_s", PgType::Int8, true),
            column(3, "last_id", PgType::Int8, true),
            column(4, "up_to_id", PgType::Int8, true),
            column(5, "found", PgType::Int8, true),
            column(6, "applied", PgType::Int8, true),
            column(7, "rejected", PgType::Int8, true),
            column(8, "begun_at", PgType::Timestamptz, true),
            column(9, "begun_by", PgType::Jsonb, true),
        ],
    )
}

fn index(id: u32, name: &str, keys: &[&str]) -> Index {
    Index {
        id,
        name: name.to_owned(),
        unique: false,
        method: "btree".to_owned(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        predicate: None,
    }
}

/// One row for each producer of mutations: what it has pushed up to `seq` has its verdict.
fn sync_producers() -> Table {
    system_table(
        CollectionId::SYNC_PRODUCERS,
        "sync_producers",
        vec![
            column(1, "producer_id", PgType::Text, true),
            column(2, "username", PgType::Text, true),
            column(3, "device_id", PgType::Text, false),
            column(4, "generation", PgType::Int8, true),
            column(5, "seq", PgType::Int8, true),
            column(6, "acknowledged", PgType::Int8, true),
            column(7, "updated_at", PgType::Timestamptz, true),
        ],
    )
}

/// Verdicts that their devices have not acknowledged, and the last ones that they have: of rejected mutations whole, of applied ones
/// that they are, with what tells a repeated push from another mutation of the same number.
fn sync_verdicts() -> Table {
    let mut table = system_table(
        CollectionId::SYNC_VERDICTS,
        "sync_verdicts",
        vec![
            column(1, "producer_id", PgType::Text, true),
            column(2, "seq", PgType::Int8, true),
            column(3, "digest", PgType::Int8, true),
            column(4, "dead_letter_id", PgType::Int8, false),
            column(5, "violation", PgType::Text, false),
            column(6, "hint", PgType::Jsonb, false),
            column(7, "chain", PgType::Int8, false),
        ],
    );
    table.key = vec![0, 1];
    table
}

/// Of tables whose conflicts are decided by clocks: when each column of a row was last written.
fn sync_clocks() -> Table {
    let mut table = system_table(
        CollectionId::SYNC_CLOCKS,
        "sync_clocks",
        vec![
            column(1, "collection_id", PgType::Int8, true),
            column(2, "document_id", PgType::Text, true),
            column(3, "column_id", PgType::Int8, true),
            column(4, "hlc", PgType::Int8, true),
            column(5, "producer_id", PgType::Text, true),
        ],
    );
    table.key = vec![0, 1, 2];
    table
}

/// A table whose key is its first column.
fn system_table(id: CollectionId, name: &str, columns: Vec<Column>) -> Table {
    Table {
        id: id.0,
        name: QualifiedName::new(QualifiedName::SPRINGHEAD, name),
        schema_version: 1,
        since_catalog: 0,
        next_column_id: u32::try_from(columns.len()).expect("a handful") + 1,
        columns,
        key: vec![0],
        key_name: Some(format!("{name}_pkey")),
        uniques: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        indexes: Vec::new(),
        conflict: Conflict::default(),
        access: Access::default(),
    }
}

fn column(id: u32, name: &str, pg_type: PgType, not_null: bool) -> Column {
    Column {
        id,
        name: name.to_owned(),
        pg_type,
        not_null,
        default: None,
        sequence: None,
        identity: false,
        identity_always: false,
        generated: None,
        hidden: false,
        crdt: None,
    }
}
