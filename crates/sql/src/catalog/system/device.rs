//! The collections of a device ([`CollectionId::DEVICE_STATE`] and the following). They are in every
//! tenant, and filled on devices alone.

use springhead_proto::CollectionId;

use super::{column, system_table};
use crate::catalog::Table;
use crate::types::PgType;

pub(super) const STATEMENTS: [&str; 7] = [
    "CREATE TABLE t40 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, PRIMARY KEY (c1)) STRICT",
    "CREATE TABLE t41 (c1 INTEGER PRIMARY KEY, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, \
     c4 INTEGER NOT NULL, c5 TEXT NOT NULL, c6 INTEGER, c7 TEXT NOT NULL, c8 INTEGER NOT NULL, \
     c9 TEXT) STRICT",
    "CREATE TABLE t42 (c1 INTEGER PRIMARY KEY, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, \
     c4 INTEGER NOT NULL, c5 INTEGER NOT NULL, c6 TEXT NOT NULL, c7 TEXT NOT NULL, \
     c8 TEXT NOT NULL, c9 INTEGER NOT NULL, c10 INTEGER) STRICT",
    "CREATE TABLE t43 (c1 INTEGER NOT NULL, c2 BLOB NOT NULL, c3 BLOB, PRIMARY KEY (c1, c2)) STRICT",
    "CREATE TABLE t44 (c1 INTEGER NOT NULL, c2 BLOB NOT NULL, c3 INTEGER NOT NULL, \
     c4 INTEGER NOT NULL, PRIMARY KEY (c1, c2, c3)) STRICT",
    "CREATE TABLE t45 (c1 INTEGER PRIMARY KEY, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, c4 TEXT, \
     c5 INTEGER NOT NULL, c6 TEXT) STRICT",
    "CREATE TABLE t46 (c1 TEXT NOT NULL, c2 TEXT NOT NULL, c3 INTEGER NOT NULL, c4 TEXT NOT NULL, \
     c5 TEXT NOT NULL, PRIMARY KEY (c1, c2)) STRICT",
];

pub(super) fn tables() -> [Table; 7] {
    [
        state(),
        pending(),
        rejections(),
        image(),
        members(),
        shapes(),
        definitions(),
    ]
}

fn state() -> Table {
    let columns = vec![
        column(1, "name", PgType::Text, true),
        column(2, "value", PgType::Text, true),
    ];
    system_table(CollectionId::DEVICE_STATE, "device_state", columns)
}

fn pending() -> Table {
    let columns = vec![
        column(1, "id", PgType::Int8, true),
        column(2, "producer_id", PgType::Text, true),
        column(3, "generation", PgType::Int8, true),
        column(4, "seq", PgType::Int8, true),
        column(5, "state", PgType::Text, true),
        column(6, "lsn", PgType::Int8, false),
        column(7, "mutation", PgType::Json, true),
        column(8, "made_at", PgType::Timestamptz, true),
        column(9, "note", PgType::Text, false),
    ];
    system_table(CollectionId::DEVICE_PENDING, "device_pending", columns)
}

fn rejections() -> Table {
    let columns = vec![
        column(1, "id", PgType::Int8, true),
        column(2, "producer_id", PgType::Text, true),
        column(3, "generation", PgType::Int8, true),
        column(4, "seq", PgType::Int8, true),
        column(5, "dead_letter_id", PgType::Int8, true),
        column(6, "violation", PgType::Text, true),
        column(7, "hint", PgType::Json, true),
        column(8, "mutation", PgType::Json, true),
        column(9, "rejected_at", PgType::Timestamptz, true),
        column(10, "chain", PgType::Int8, false),
    ];
    system_table(
        CollectionId::DEVICE_REJECTIONS,
        "device_rejections",
        columns,
    )
}

fn image() -> Table {
    let columns = vec![
        column(1, "collection_id", PgType::Int8, true),
        column(2, "key", PgType::Bytea, true),
        column(3, "row", PgType::Bytea, false),
    ];
    let mut table = system_table(CollectionId::DEVICE_IMAGE, "device_image", columns);
    table.key = vec![0, 1];
    table
}

fn members() -> Table {
    let columns = vec![
        column(1, "collection_id", PgType::Int8, true),
        column(2, "key", PgType::Bytea, true),
        column(3, "shape", PgType::Int8, true),
        column(4, "round", PgType::Int8, true),
    ];
    let mut table = system_table(CollectionId::DEVICE_MEMBERS, "device_members", columns);
    table.key = vec![0, 1, 2];
    table
}

fn shapes() -> Table {
    let columns = vec![
        column(1, "id", PgType::Int8, true),
        column(2, "shape", PgType::Json, true),
        column(3, "complete", PgType::Bool, true),
        column(4, "resume", PgType::Text, false),
        column(5, "round", PgType::Int8, true),
        column(6, "ended", PgType::Text, false),
    ];
    system_table(CollectionId::DEVICE_SHAPES, "device_shapes", columns)
}

fn definitions() -> Table {
    let columns = vec![
        column(1, "type", PgType::Text, true),
        column(2, "name", PgType::Text, true),
        column(3, "catalog_version", PgType::Int8, true),
        column(4, "sql", PgType::Text, true),
        column(5, "payload", PgType::Text, true),
    ];
    let mut table = system_table(
        CollectionId::DEVICE_DEFINITIONS,
        "device_definitions",
        columns,
    );
    table.key = vec![0, 1];
    table
}
