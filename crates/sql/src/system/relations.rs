//! Relations and what belongs to them: `pg_class`, `pg_attribute`, `pg_index`, `pg_constraint`, …

use std::sync::Arc;

use springhead_proto::{CollectionId, SqlError, Value};

use super::cell::{NULL, numbers, row};
use super::describe::{self, ConstraintView, IndexView};
use super::oids::{self, Part};
use super::shape::{Relation, nothing, relation};
use super::{Row, View, acl, types};
use crate::catalog::{self, Privileges, QualifiedName, ReferentialAction, Table};
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
    relation!("pg_catalog", "pg_index", 2610, pg_index, {
        "indexrelid": Oid, "indrelid": Oid, "indnatts": Int2, "indnkeyatts": Int2,
        "indisunique": Bool, "indnullsnotdistinct": Bool, "indisprimary": Bool,
        "indisexclusion": Bool, "indimmediate": Bool, "indisclustered": Bool, "indisvalid": Bool,
        "indcheckxmin": Bool, "indisready": Bool, "indislive": Bool, "indisreplident": Bool,
        "indkey": Int2Vector, "indcollation": OidVector, "indclass": OidVector,
        "indoption": Int2Vector, "indexprs": Text, "indpred": Text,
    }),
    relation!("pg_catalog", "pg_constraint", 2606, pg_constraint, {
        "oid": Oid, "conname": Name, "connamespace": Oid, "contype": Char, "condeferrable": Bool,
        "condeferred": Bool, "convalidated": Bool, "conrelid": Oid, "contypid": Oid,
        "conindid": Oid, "conparentid": Oid, "confrelid": Oid, "confupdtype": Char,
        "confdeltype": Char, "confmatchtype": Char, "conislocal": Bool, "coninhcount": Int4,
        "connoinherit": Bool, "conkey": Int2Array, "confkey": Int2Array, "conpfeqop": OidArray,
        "conppeqop": OidArray, "conffeqop": OidArray, "confdelsetcols": Int2Array,
        "conexclop": OidArray, "conbin": Text,
    }),
    relation!("pg_catalog", "pg_sequence", 2224, pg_sequence, {
        "seqrelid": Oid, "seqtypid": Oid, "seqstart": Int8, "seqincrement": Int8, "seqmax": Int8,
        "seqmin": Int8, "seqcache": Int8, "seqcycle": Bool,
    }),
    relation!("pg_catalog", "pg_depend", 2608, pg_depend, {
        "classid": Oid, "objid": Oid, "objsubid": Int4, "refclassid": Oid, "refobjid": Oid,
        "refobjsubid": Int4, "deptype": Char,
    }),
    relation!("pg_catalog", "pg_rewrite", 2618, pg_rewrite, {
        "oid": Oid, "rulename": Name, "ev_class": Oid, "ev_type": Char, "ev_enabled": Char,
        "is_instead": Bool, "ev_qual": Text, "ev_action": Text,
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
    relation!("pg_catalog", "pg_indexes", 0, pg_indexes, {
        "schemaname": Name, "tablename": Name, "indexname": Name, "tablespace": Name,
        "indexdef": Text,
    }),
    relation!("pg_catalog", "pg_sequences", 0, pg_sequences, {
        "schemaname": Name, "sequencename": Name, "sequenceowner": Name, "data_type": Type,
        "start_value": Int8, "min_value": Int8, "max_value": Int8, "increment_by": Int8,
        "cycle": Bool, "cache_size": Int8, "last_value": Int8,
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

fn count(n: usize) -> i64 {
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

fn has_default(column: &catalog::Column) -> bool {
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

fn pg_index(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for index in describe::indexes(table) {
            rows.push(index_row(table, &index));
        }
    }
    Ok(())
}

fn index_row(table: &Table, index: &IndexView<'_>) -> Row {
    let of_column = |key: &describe::Key<'_>| key.column.map_or(0, |column| i64::from(column.id));
    let expressions: Vec<&str> = index
        .keys
        .iter()
        .filter(|key| key.column.is_none())
        .map(|key| key.text.as_str())
        .collect();
    let collation = |key: &describe::Key<'_>| {
        key.column
            .map_or(oids::COLLATION_DEFAULT, |column| {
                types::collation(&column.pg_type)
            })
            .into()
    };
    let class = |key: &describe::Key<'_>| {
        let ty = key.column.map_or(&PgType::Text, |column| &column.pg_type);
        super::objects::operator_class(ty).into()
    };
    row![
        index.oid,
        oids::table(table),
        count(index.keys.len()),
        count(index.keys.len()),
        index.unique,
        index.nulls_not_distinct,
        index.primary,
        false,
        true,
        false,
        true,
        false,
        true,
        true,
        false,
        numbers(index.keys.iter().map(of_column)),
        numbers(index.keys.iter().map(collation)),
        numbers(index.keys.iter().map(class)),
        numbers(index.keys.iter().map(describe::Key::options)),
        (!expressions.is_empty()).then(|| expressions.join(", ")),
        index.predicate,
    ]
}

fn pg_constraint(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for constraint in describe::constraints(table) {
            rows.push(constraint_row(view, table, &constraint));
        }
    }
    super::user_types::constraints(view, rows);
    Ok(())
}

fn constraint_row(view: &View<'_>, table: &Table, constraint: &ConstraintView<'_>) -> Row {
    let columns = |ids: &[u32]| numbers(ids.iter().map(|&id| i64::from(id)));
    let foreign = match constraint {
        ConstraintView::Foreign(key) => Some(*key),
        _ => None,
    };
    let parent = foreign.and_then(|key| view.catalog.table(CollectionId(key.parent)));
    let index = match constraint {
        ConstraintView::Primary { .. } | ConstraintView::Unique(_) => constraint.oid(table),
        ConstraintView::Check(_) => 0,
        ConstraintView::Foreign(key) => parent.map_or(0, |parent| parent_index(parent, key)),
    };
    let operators = foreign.map(|key| {
        numbers(key.columns.iter().map(|&id| {
            let ty = table.column_by_id(id).map(|(_, column)| &column.pg_type);
            i64::from(ty.map_or(0, super::objects::equality))
        }))
    });
    let check = match constraint {
        ConstraintView::Check(check) => Some(check.expression.as_str()),
        _ => None,
    };
    let action = |action: fn(&catalog::ForeignKey) -> ReferentialAction| {
        foreign.map_or(" ", |key| action_char(action(key)))
    };
    row![
        constraint.oid(table),
        constraint.name(),
        oids::namespace(&table.name.schema),
        constraint.kind(),
        foreign.is_some_and(|key| key.deferrable),
        foreign.is_some_and(|key| key.initially_deferred),
        true,
        oids::table(table),
        0,
        index,
        0,
        parent.map_or(0, |parent| oids::table(parent)),
        action(|key| key.on_update),
        action(|key| key.on_delete),
        if foreign.is_some() { "s" } else { " " },
        true,
        0,
        !matches!(constraint, ConstraintView::Check(_)),
        columns(&constraint.columns(table)),
        foreign.map(|key| columns(&key.parent_columns)),
        operators.clone(),
        operators.clone(),
        operators,
        NULL,
        NULL,
        check,
    ]
}

/// The index that a foreign key's target is unique by.
fn parent_index(parent: &Table, key: &catalog::ForeignKey) -> u32 {
    let same = |ids: &[u32]| {
        ids.len() == key.parent_columns.len()
            && ids.iter().all(|id| key.parent_columns.contains(id))
    };
    if parent.key_name.is_some() && same(&parent.key_ids()) {
        return oids::of(parent.id, Part::PrimaryKey);
    }
    parent
        .uniques
        .iter()
        .find(|unique| same(&unique.columns))
        .map_or(0, |unique| oids::of(unique.index_id, Part::Itself))
}

const fn action_char(action: ReferentialAction) -> &'static str {
    match action {
        ReferentialAction::NoAction => "a",
        ReferentialAction::Restrict => "r",
        ReferentialAction::Cascade => "c",
        ReferentialAction::SetNull => "n",
        ReferentialAction::SetDefault => "d",
    }
}

fn pg_sequence(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for sequence in sequences(view) {
        rows.push(row![
            oids::of(sequence.id, Part::Itself),
            sequence.pg_type.oid(),
            sequence.start,
            sequence.increment,
            sequence.max,
            sequence.min,
            1,
            sequence.cycle,
        ]);
    }
    Ok(())
}

fn pg_sequences(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for sequence in sequences(view) {
        rows.push(row![
            &sequence.name.schema,
            &sequence.name.name,
            "postgres",
            sequence.pg_type.oid(),
            sequence.start,
            sequence.min,
            sequence.max,
            sequence.increment,
            sequence.cycle,
            1,
            NULL,
        ]);
    }
    Ok(())
}

const PG_CLASS: u32 = 1259;
const PG_CONSTRAINT: u32 = 2606;
const PG_ATTRDEF: u32 = 2604;
const PG_REWRITE: u32 = 2618;

fn pg_depend(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for sequence in sequences(view) {
        let Some((id, column_id)) = sequence.owned_by else {
            continue;
        };
        let Some(table) = view.catalog.table(CollectionId(id)) else {
            continue;
        };
        let identity = table
            .column_by_id(column_id)
            .is_some_and(|(_, column)| column.identity);
        let oid = oids::of(sequence.id, Part::Itself);
        rows.push(row![
            PG_CLASS,
            oid,
            0,
            PG_CLASS,
            oids::table(table),
            column_id,
            if identity { "i" } else { "a" },
        ]);
    }
    for table in view.catalog.tables_by_id() {
        let oid = oids::table(table);
        for (_, column) in table.visible_columns() {
            if !has_default(column) {
                continue;
            }
            let default = oids::default(table, column.id);
            rows.push(row![PG_ATTRDEF, default, 0, PG_CLASS, oid, column.id, "a"]);
            if let Some(sequence) = column.sequence {
                let sequence = oids::of(sequence, Part::Itself);
                rows.push(row![PG_ATTRDEF, default, 0, PG_CLASS, sequence, 0, "n"]);
            }
        }
        for constraint in describe::constraints(table) {
            let constraint_oid = constraint.oid(table);
            for column in constraint.columns(table) {
                rows.push(row![
                    PG_CONSTRAINT,
                    constraint_oid,
                    0,
                    PG_CLASS,
                    oid,
                    column,
                    "a"
                ]);
            }
            match &constraint {
                ConstraintView::Primary { .. } | ConstraintView::Unique(_) => {
                    rows.push(row![
                        PG_CLASS,
                        constraint_oid,
                        0,
                        PG_CONSTRAINT,
                        constraint_oid,
                        0,
                        "i"
                    ]);
                }
                ConstraintView::Foreign(key) => {
                    let parent = oids::of(key.parent, Part::Itself);
                    if let Some(table) = view.catalog.table(CollectionId(key.parent)) {
                        let index = parent_index(table, key);
                        rows.push(row![
                            PG_CONSTRAINT,
                            constraint_oid,
                            0,
                            PG_CLASS,
                            index,
                            0,
                            "n"
                        ]);
                    }
                    for &column in &key.parent_columns {
                        rows.push(row![
                            PG_CONSTRAINT,
                            constraint_oid,
                            0,
                            PG_CLASS,
                            parent,
                            column,
                            "n"
                        ]);
                    }
                }
                ConstraintView::Check(_) => {}
            }
        }
        for index in &table.indexes {
            for (_, column) in table.visible_columns() {
                let named = index.column_ids(table).map_or_else(
                    || {
                        index
                            .keys
                            .iter()
                            .any(|key| crate::ddl::mentions(key, &column.name))
                    },
                    |ids| ids.contains(&column.id),
                );
                if named {
                    let index = oids::of(index.id, Part::Itself);
                    rows.push(row![PG_CLASS, index, 0, PG_CLASS, oid, column.id, "a"]);
                }
            }
        }
    }
    for view in views(view) {
        let rule = oids::of(view.id, Part::Rule);
        let oid = oids::of(view.id, Part::Itself);
        rows.push(row![PG_REWRITE, rule, 0, PG_CLASS, oid, 0, "i"]);
        for &used in &view.depends_on {
            let used = oids::of(used, Part::Itself);
            rows.push(row![PG_REWRITE, rule, 0, PG_CLASS, used, 0, "n"]);
        }
    }
    Ok(())
}

fn pg_rewrite(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for view in views(view) {
        rows.push(row![
            oids::of(view.id, Part::Rule),
            "_RETURN",
            oids::of(view.id, Part::Itself),
            "1",
            "O",
            true,
            "<>",
            &view.query,
        ]);
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
pub(super) fn view_definition(view: &catalog::View) -> String {
    format!(" {};", view.query.trim().trim_end_matches(';'))
}

fn pg_views(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for view in views(view) {
        rows.push(row![
            &view.name.schema,
            &view.name.name,
            "postgres",
            view_definition(view),
        ]);
    }
    for relation in super::all() {
        if relation.kind() == "v" {
            rows.push(row![relation.schema, relation.name, "postgres", NULL]);
        }
    }
    Ok(())
}

fn pg_indexes(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for index in describe::indexes(table) {
            rows.push(row![
                &table.name.schema,
                &table.name.name,
                index.name,
                NULL,
                describe::index_definition(table, &index, false),
            ]);
        }
    }
    Ok(())
}
