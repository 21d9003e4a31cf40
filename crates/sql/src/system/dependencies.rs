//! What depends on what: `pg_depend`, and the rules behind views, `pg_rewrite`.

use springhead_proto::{CollectionId, SqlError};

use super::cell::row;
use super::constraints::parent_index;
use super::describe::{self, ConstraintView};
use super::oids::{self, Part};
use super::relations::{has_default, sequences, views};
use super::shape::{Relation, relation};
use super::{Row, View};

pub(super) const RELATIONS: &[Relation] = &[
    relation!("pg_catalog", "pg_depend", 2608, pg_depend, {
        "classid": Oid, "objid": Oid, "objsubid": Int4, "refclassid": Oid, "refobjid": Oid,
        "refobjsubid": Int4, "deptype": Char,
    }),
    relation!("pg_catalog", "pg_rewrite", 2618, pg_rewrite, {
        "oid": Oid, "rulename": Name, "ev_class": Oid, "ev_type": Char, "ev_enabled": Char,
        "is_instead": Bool, "ev_qual": Text, "ev_action": Text,
    }),
];

const PG_CLASS: u32 = 1259;
const PG_CONSTRAINT: u32 = 2606;
const PG_ATTRDEF: u32 = 2604;
const PG_REWRITE: u32 = 2618;
const PG_NAMESPACE: u32 = 2615;
const PG_EXTENSION: u32 = 3079;

/// What Springhead keeps of its own belongs to the extension of its name.
fn own_relations(view: &View<'_>, rows: &mut Vec<Row>) {
    let extension = oids::extension("springhead");
    let mut member = |class: u32, oid: u32| {
        rows.push(row![class, oid, 0, PG_EXTENSION, extension, 0, "e"]);
    };
    member(PG_NAMESPACE, oids::NAMESPACE_SPRINGHEAD);
    for relation in super::all() {
        if relation.schema == "springhead" {
            member(PG_CLASS, relation.oid());
        }
    }
    for table in view.catalog.tables_by_id() {
        if table.name.schema == "springhead" {
            member(PG_CLASS, oids::table(table));
        }
    }
}

/// Sequences belong to columns.
fn owned_sequences(view: &View<'_>, rows: &mut Vec<Row>) {
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
}

fn pg_depend(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    own_relations(view, rows);
    owned_sequences(view, rows);
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
