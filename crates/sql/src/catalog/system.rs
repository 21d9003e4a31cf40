//! Springhead's own collections: there from the first start, never altered by a user.

use springhead_proto::CollectionId;

use super::{Catalog, Column, Definition, QualifiedName, Table, Unique};
use crate::types::PgType;

/// The index of `springhead.tenants (name)`.
const TENANT_NAME_INDEX: u32 = 50;

impl Catalog {
    /// Version 1: Springhead's own collections and nothing else.
    #[must_use]
    pub fn bootstrap() -> Catalog {
        let mut catalog = Catalog::empty(1, CollectionId::FIRST_USER.0);
        for table in [definitions(), consumers(), tenants()] {
            catalog.insert(Definition::Table(table));
        }
        catalog.index_children();
        catalog
    }

    /// The SQLite statements that make the tables of [`Catalog::bootstrap`] in an empty database.
    #[must_use]
    pub fn bootstrap_statements() -> Vec<String> {
        let catalog = Catalog::bootstrap();
        catalog
            .tables_by_id()
            .into_iter()
            .flat_map(|table| {
                crate::ddl::storage::create(&catalog, table).expect("these tables hold no expressions")
            })
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

/// A table whose key is its first column.
fn system_table(id: CollectionId, name: &str, columns: Vec<Column>) -> Table {
    Table {
        id: id.0,
        name: QualifiedName::new(QualifiedName::SPRINGHEAD, name),
        schema_version: 1,
        next_column_id: u32::try_from(columns.len()).expect("a handful") + 1,
        columns,
        key: vec![0],
        key_name: Some(format!("{name}_pkey")),
        uniques: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        indexes: Vec::new(),
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
        identity_always: false,
        generated: None,
        hidden: false,
    }
}
