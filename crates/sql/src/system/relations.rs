//! Relations and what belongs to them: `pg_class`, `pg_attribute`, `pg_index`, `pg_constraint`, …

use std::sync::Arc;

use springhead_proto::{SqlError, Value};

use super::cell::{NULL, row};
use super::describe::{self};
use super::oids::{self, Part};
use super::shape::{Relation, nothing, relation};
use super::{Row, View, acl, qualified, types};
use crate::catalog::{self, Privileges, QualifiedName};
use crate::types::PgType;

pub(super) const RELATIONS: &[Relation] = &[
    relation!("pg_catalog", "pg_class", 1259, pg_class, {
        "oid": Oid, "relname": Name, "relnamespace": Oid, "reltype": Oid, "reloftype": Oid,
        "relowner": Oid, "relam": Oid, "relfilenode": Oid, "reltablespace": Oid, "relpages": Int4,
        "reltuples": Float4, "relallvisible": Int4, "reltoastrelid": Oid, "relhasindex": Bool,
        "relisshared": Bool, "relpersistence": Char, "relkind": Char, "relnatts": Int2,
        "relchecks": Int2, "relhasrules": Bool, "relhastriggers": Bool, "relhassubclass": Bool,
        "relrowsecurity": Bool, "relforcerowsecurity": Bool, "relispopulated": Bool,
        "relreplident": Char, "relispartition": Bool, "relrewrite": Oid, "relfrozenxid": Oid,
        "relminmxid": Oid, "relacl": TextArray, "reloptions": TextArray, "relpartbound": Text,
    }),
    relation!("pg_catalog", "pg_attribute", 1249, pg_attribute, {
        "attrelid": Oid, "attname": Name, "atttypid": Oid, "attstattarget": Int4, "attlen": Int2,
        "attnum": Int2, "attndims": Int4, "attcacheoff": Int4, "atttypmod": Int4,
        "attbyval": Bool, "attalign": Char, "attstorage": Char, "attcompression": Char,
        "attnotnull": Bool, "atthasdef": Bool, "atthasmissing": Bool, "attidentity": Char,
        "attgenerated": Char, "attisdropped": Bool, "attislocal": Bool, "attinhcount": Int4,
        "attcollation": Oid, "attacl": TextArray, "attoptions": TextArray,
        "attfdwoptions": TextArray, "attmissingval": TextArray,
    }),
    relation!("pg_catalog", "pg_attrdef", 2604, pg_attrdef, {
        "oid": Oid, "adrelid": Oid, "adnum": Int2, "adbin": Text,
    }),
    relation!("pg_catalog", "pg_inherits", 2611, nothing, {
        "inhrelid": Oid, "inhparent": Oid, "inhseqno": Int4, "inhdetachpending": Bool,
    }),
    relation!("pg_catalog", "pg_tables", 0, pg_tables, {
        "schemaname": Name, "tablename": Name, "tableowner": Name, "tablespace": Name,
        "hasindexes": Bool, "hasrules": Bool, "hastriggers": Bool, "rowsecurity": Bool,
    }),
    relation!("pg_catalog", "pg_views", 0, pg_views, {
        "schemaname": Name, "viewname": Name, "viewowner": Name, "definition": Text,
    }),
    relation!("pg_catalog", "pg_matviews", 0, nothing, {
        "schemaname": Name, "matviewname": Name, "matviewowner": Name, "tablespace": Name,
        "hasindexes": Bool, "ispopulated": Bool, "definition": Text,
    }),
];

/// A row of `pg_class`, as far as relations differ in it.
struct Class<'a> {
    oid: u32,
    name: &'a str,
    namespace: u32,
    row_type: u32,
    access_method: u32,
    has_index: bool,
    kind: &'a str,
    columns: usize,
    checks: usize,
    has_rules: bool,
    has_triggers: bool,
    row_security: (bool, bool),
    replica_identity: &'a str,
    owner: u32,
    acl: Option<Value>,
}

impl Class<'_> {
    fn row(&self) -> Row {
        let stored = !matches!(self.kind, "v");
        let tuples = if matches!(self.kind, "r") { -1.0 } else { 0.0 };
        row![
            self.oid,
            self.name,
            self.namespace,
            self.row_type,
            0,
            self.owner,
            self.access_method,
            if stored { self.oid } else { 0 },
            0,
            0,
            tuples,
            0,
            0,
            self.has_index,
            false,
            "p",
            self.kind,
            count(self.columns),
            count(self.checks),
            self.has_rules,
            self.has_triggers,
            false,
            self.row_security.0,
            self.row_security.1,
            true,
            self.replica_identity,
            false,
            0,
            0,
            0,
            self.acl.clone(),
            NULL,
            NULL,
        ]
    }
}

pub(super) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn sequences<'a>(view: &View<'a>) -> Vec<&'a Arc<catalog::Sequence>> {
    let mut all: Vec<_> = view.catalog.sequences.values().collect();
    all.sort_unstable_by_key(|sequence| sequence.id);
    all
}

pub(super) fn views<'a>(view: &View<'a>) -> Vec<&'a Arc<catalog::View>> {
    let mut all: Vec<_> = view.catalog.views.values().collect();
    all.sort_unstable_by_key(|view| view.id);
    all
}

fn pg_class(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        let namespace = oids::namespace(&table.name.schema);
        let indexes = describe::indexes(table);
        rows.push(
            Class {
                oid: oids::table(table),
                name: &table.name.name,
                namespace,
                row_type: oids::of(table.id, Part::RowType),
                access_method: oids::AM_HEAP,
                has_index: !indexes.is_empty(),
                kind: "r",
                columns: table.visible_columns().count(),
                checks: table.checks.len(),
                has_rules: false,
                // Foreign keys are triggers in PostgreSQL.
                has_triggers: view.catalog.touches_foreign_keys(table)
                    || view.catalog.triggers_of(table.id).next().is_some(),
                row_security: (table.access.row_security, table.access.force_row_security),
                replica_identity: "d",
                owner: acl::owner_oid(view, &table.access),
                acl: acl::of(&table.access, Privileges::TABLE),
            }
            .row(),
        );
        for index in &indexes {
            rows.push(
                Class {
                    oid: index.oid,
                    name: index.name,
                    namespace,
                    row_type: 0,
                    access_method: describe::method_oid(index.method),
                    has_index: false,
                    kind: "i",
                    columns: index.keys.len(),
                    checks: 0,
                    has_rules: false,
                    has_triggers: false,
                    row_security: (false, false),
                    replica_identity: "n",
                    owner: acl::owner_oid(view, &table.access),
                    acl: None,
                }
                .row(),
            );
        }
    }
    for sequence in sequences(view) {
        rows.push(plain_class(
            view,
            &sequence.access,
            sequence.id,
            &sequence.name,
            "S",
            SEQUENCE_COLUMNS.len(),
        ));
    }
    for item in views(view) {
        rows.push(plain_class(
            view,
            &item.access,
            item.id,
            &item.name,
            "v",
            item.columns.len(),
        ));
    }
    for relation in super::all() {
        rows.push(
            Class {
                oid: relation.oid(),
                name: relation.name,
                namespace: oids::namespace(relation.schema),
                row_type: 0,
                access_method: if relation.kind() == "r" {
                    oids::AM_HEAP
                } else {
                    0
                },
                has_index: false,
                kind: relation.kind(),
                columns: relation.columns.len(),
                checks: 0,
                has_rules: relation.kind() == "v",
                has_triggers: false,
                row_security: (false, false),
                replica_identity: "n",
                owner: oids::ROLE_OWNER,
                acl: None,
            }
            .row(),
        );
    }
    Ok(())
}

fn plain_class(
    view: &View<'_>,
    access: &catalog::Access,
    id: u32,
    name: &QualifiedName,
    kind: &str,
    columns: usize,
) -> Row {
    Class {
        oid: oids::of(id, Part::Itself),
        name: &name.name,
        namespace: oids::namespace(&name.schema),
        row_type: if kind == "v" {
            oids::of(id, Part::RowType)
        } else {
            0
        },
        access_method: 0,
        has_index: false,
        kind,
        columns,
        checks: 0,
        has_rules: kind == "v",
        has_triggers: kind == "v" && view.catalog.triggers_of(id).next().is_some(),
        row_security: (false, false),
        replica_identity: "n",
        owner: acl::owner_oid(view, access),
        acl: acl::of(
            access,
            if kind == "v" {
                Privileges::TABLE
            } else {
                Privileges::SEQUENCE
            },
        ),
    }
    .row()
}

const SEQUENCE_COLUMNS: &[(&str, PgType)] = &[
    ("last_value", PgType::Int8),
    ("log_cnt", PgType::Int8),
    ("is_called", PgType::Bool),
];

/// A row of `pg_attribute`, as far as columns differ in it.
struct Attribute<'a> {
    relation: u32,
    name: &'a str,
    number: i64,
    ty: PgType,
    not_null: bool,
    has_default: bool,
    identity: &'a str,
    generated: &'a str,
    acl: Option<Value>,
}

impl Attribute<'_> {
    fn row(self) -> Row {
        let (align, storage) = types::layout(&self.ty);
        let dimensions = i64::from(matches!(self.ty, PgType::Array(_)));
        row![
            self.relation,
            self.name,
            self.ty.oid(),
            -1,
            self.ty.size(),
            self.number,
            dimensions,
            -1,
            self.ty.typmod(),
            matches!(self.ty.size(), 1 | 2 | 4 | 8),
            align,
            storage,
            "",
            self.not_null,
            self.has_default,
            false,
            self.identity,
            self.generated,
            false,
            true,
            0,
            types::collation(&self.ty),
            self.acl,
            NULL,
            NULL,
            NULL,
        ]
    }
}

fn attribute(relation: u32, name: &str, number: i64, ty: PgType, not_null: bool) -> Row {
    Attribute {
        relation,
        name,
        number,
        ty,
        not_null,
        has_default: false,
        identity: "",
        generated: "",
        acl: None,
    }
    .row()
}

fn pg_attribute(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for (_, column) in table.visible_columns() {
            rows.push(
                Attribute {
                    relation: oids::table(table),
                    name: &column.name,
                    number: i64::from(column.id),
                    ty: column.pg_type.clone(),
                    not_null: column.not_null,
                    has_default: has_default(column),
                    identity: match (column.identity, column.identity_always) {
                        (false, _) => "",
                        (true, true) => "a",
                        (true, false) => "d",
                    },
                    generated: if column.generated.is_some() { "s" } else { "" },
                    acl: acl::of_column(&table.access, column.id),
                }
                .row(),
            );
        }
        for index in describe::indexes(table) {
            for (number, key) in (1..).zip(&index.keys) {
                let (name, ty) = match key.column {
                    Some(column) => (column.name.as_str(), column.pg_type.clone()),
                    None => ("expr", PgType::Text),
                };
                rows.push(attribute(index.oid, name, number, ty, false));
            }
        }
    }
    for sequence in sequences(view) {
        for (number, (name, ty)) in (1..).zip(SEQUENCE_COLUMNS) {
            let relation = oids::of(sequence.id, Part::Itself);
            rows.push(attribute(relation, name, number, ty.clone(), true));
        }
    }
    for view in views(view) {
        for (number, (name, ty)) in (1..).zip(&view.columns) {
            let relation = oids::of(view.id, Part::Itself);
            rows.push(attribute(relation, name, number, ty.clone(), false));
        }
    }
    for relation in super::all() {
        for (number, (name, kind)) in (1..).zip(relation.columns) {
            rows.push(attribute(
                relation.oid(),
                name,
                number,
                kind.pg_type(),
                false,
            ));
        }
    }
    Ok(())
}

pub(super) fn has_default(column: &catalog::Column) -> bool {
    column.default.is_some()
        || column.generated.is_some()
        || column.sequence.is_some() && !column.identity
}

fn pg_attrdef(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for (_, column) in table.visible_columns() {
            if let Some(text) = describe::default_text(view, column) {
                rows.push(row![
                    oids::default(table, column.id),
                    oids::table(table),
                    column.id,
                    text,
                ]);
            }
        }
    }
    Ok(())
}

fn pg_tables(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        rows.push(row![
            &table.name.schema,
            &table.name.name,
            "postgres",
            NULL,
            table.index_names().next().is_some(),
            false,
            view.catalog.touches_foreign_keys(table),
            false,
        ]);
    }
    for relation in super::all() {
        if relation.kind() == "r" {
            rows.push(row![
                relation.schema,
                relation.name,
                "postgres",
                NULL,
                false,
                false,
                false,
                false,
            ]);
        }
    }
    Ok(())
}

/// `pg_get_viewdef(view)`.
pub(super) fn view_definition(view: &View<'_>, of: &catalog::View) -> String {
    let query = of.query.trim().trim_end_matches(';');
    format!(" {};", qualified::query(view, query))
}

fn pg_views(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for of in views(view) {
        rows.push(row![
            &of.name.schema,
            &of.name.name,
            "postgres",
            view_definition(view, of),
        ]);
    }
    for relation in super::all() {
        if relation.kind() == "v" {
            rows.push(row![relation.schema, relation.name, "postgres", NULL]);
        }
    }
    Ok(())
}
