//! Indexes and constraints: `pg_index`, `pg_constraint`, `pg_indexes`.

use springhead_proto::{CollectionId, SqlError};

use super::cell::{NULL, numbers, row};
use super::describe::{self, ConstraintView, IndexView};
use super::oids::{self, Part};
use super::relations::count;
use super::shape::{Relation, relation};
use super::{Row, View, types};
use crate::catalog::{self, ReferentialAction, Table};
use crate::types::PgType;

pub(super) const RELATIONS: &[Relation] = &[
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
    relation!("pg_catalog", "pg_indexes", 0, pg_indexes, {
        "schemaname": Name, "tablename": Name, "indexname": Name, "tablespace": Name,
        "indexdef": Text,
    }),
];

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
pub(super) fn parent_index(parent: &Table, key: &catalog::ForeignKey) -> u32 {
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
