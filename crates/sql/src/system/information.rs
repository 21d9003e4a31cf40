//! `information_schema`: the catalog in the SQL standard's words. Only what the identity may use is
//! in it.

use springhead_proto::{CollectionId, SqlError};

use super::cell::{NULL, row};
use super::describe::{self, ConstraintView};
use super::oids;
use super::shape::{Relation, nothing, relation};
use super::user_types::{domain_constraints, domains, type_names, underlying};
use super::{Row, View, programs, relations};
use crate::catalog::{Column, ForeignKey, Table};
use crate::types::PgType;

pub(super) const RELATIONS: &[Relation] = &[
    relation!(live "information_schema", "information_schema_catalog_name", 0, catalog_name, {
        "catalog_name": Name,
    }),
    relation!(live "information_schema", "schemata", 0, schemata, {
        "catalog_name": Name, "schema_name": Name, "schema_owner": Name,
        "default_character_set_catalog": Name, "default_character_set_schema": Name,
        "default_character_set_name": Name, "sql_path": Text,
    }),
    relation!(live "information_schema", "tables", 0, tables, {
        "table_catalog": Name, "table_schema": Name, "table_name": Name, "table_type": Text,
        "self_referencing_column_name": Name, "reference_generation": Text,
        "user_defined_type_catalog": Name, "user_defined_type_schema": Name,
        "user_defined_type_name": Name, "is_insertable_into": Text, "is_typed": Text,
        "commit_action": Text,
    }),
    relation!(live "information_schema", "columns", 0, columns, {
        "table_catalog": Name, "table_schema": Name, "table_name": Name, "column_name": Name,
        "ordinal_position": Int4, "column_default": Text, "is_nullable": Text,
        "data_type": Text, "character_maximum_length": Int4, "character_octet_length": Int4,
        "numeric_precision": Int4, "numeric_precision_radix": Int4, "numeric_scale": Int4,
        "datetime_precision": Int4, "interval_type": Text, "interval_precision": Int4,
        "character_set_catalog": Name, "character_set_schema": Name,
        "character_set_name": Name, "collation_catalog": Name, "collation_schema": Name,
        "collation_name": Name, "domain_catalog": Name, "domain_schema": Name,
        "domain_name": Name, "udt_catalog": Name, "udt_schema": Name, "udt_name": Name,
        "scope_catalog": Name, "scope_schema": Name, "scope_name": Name,
        "maximum_cardinality": Int4, "dtd_identifier": Name, "is_self_referencing": Text,
        "is_identity": Text, "identity_generation": Text, "identity_start": Text,
        "identity_increment": Text, "identity_maximum": Text, "identity_minimum": Text,
        "identity_cycle": Text, "is_generated": Text, "generation_expression": Text,
        "is_updatable": Text,
    }),
    relation!(live "information_schema", "table_constraints", 0, table_constraints, {
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
        "table_catalog": Name, "table_schema": Name, "table_name": Name,
        "constraint_type": Text, "is_deferrable": Text, "initially_deferred": Text,
        "enforced": Text, "nulls_distinct": Text,
    }),
    relation!(live "information_schema", "key_column_usage", 0, key_column_usage, {
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
        "table_catalog": Name, "table_schema": Name, "table_name": Name, "column_name": Name,
        "ordinal_position": Int4, "position_in_unique_constraint": Int4,
    }),
    relation!(live "information_schema", "constraint_column_usage", 0, constraint_column_usage, {
        "table_catalog": Name, "table_schema": Name, "table_name": Name, "column_name": Name,
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
    }),
    relation!(live "information_schema", "constraint_table_usage", 0, constraint_table_usage, {
        "table_catalog": Name, "table_schema": Name, "table_name": Name,
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
    }),
    relation!(live "information_schema", "referential_constraints", 0, referential_constraints, {
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
        "unique_constraint_catalog": Name, "unique_constraint_schema": Name,
        "unique_constraint_name": Name, "match_option": Text, "update_rule": Text,
        "delete_rule": Text,
    }),
    relation!(live "information_schema", "check_constraints", 0, check_constraints, {
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
        "check_clause": Text,
    }),
    relation!(live "information_schema", "views", 0, views, {
        "table_catalog": Name, "table_schema": Name, "table_name": Name,
        "view_definition": Text, "check_option": Text, "is_updatable": Text,
        "is_insertable_into": Text, "is_trigger_updatable": Text,
        "is_trigger_deletable": Text, "is_trigger_insertable_into": Text,
    }),
    relation!(live "information_schema", "sequences", 0, sequences, {
        "sequence_catalog": Name, "sequence_schema": Name, "sequence_name": Name,
        "data_type": Text, "numeric_precision": Int4, "numeric_precision_radix": Int4,
        "numeric_scale": Int4, "start_value": Text, "minimum_value": Text,
        "maximum_value": Text, "increment": Text, "cycle_option": Text,
    }),
    relation!(live "information_schema", "routines", 0, programs::information_routines, {
        "specific_catalog": Name, "specific_schema": Name, "specific_name": Name,
        "routine_catalog": Name, "routine_schema": Name, "routine_name": Name,
        "routine_type": Text, "data_type": Text, "type_udt_catalog": Name,
        "type_udt_schema": Name, "type_udt_name": Name, "routine_body": Text,
        "routine_definition": Text, "external_language": Text, "is_deterministic": Text,
        "sql_data_access": Text, "is_null_call": Text, "security_type": Text,
    }),
    relation!(live "information_schema", "parameters", 0, programs::information_parameters, {
        "specific_catalog": Name, "specific_schema": Name, "specific_name": Name,
        "ordinal_position": Int4, "parameter_mode": Text, "parameter_name": Name,
        "data_type": Text, "udt_catalog": Name, "udt_schema": Name, "udt_name": Name,
        "parameter_default": Text,
    }),
    relation!(live "information_schema", "triggers", 0, programs::information_triggers, {
        "trigger_catalog": Name, "trigger_schema": Name, "trigger_name": Name,
        "event_manipulation": Text, "event_object_catalog": Name,
        "event_object_schema": Name, "event_object_table": Name, "action_order": Int4,
        "action_condition": Text, "action_statement": Text, "action_orientation": Text,
        "action_timing": Text, "action_reference_old_table": Name,
        "action_reference_new_table": Name, "action_reference_old_row": Name,
        "action_reference_new_row": Name, "created": Timestamptz,
    }),
    relation!(live "information_schema", "table_privileges", 0, table_privileges, {
        "grantor": Name, "grantee": Name, "table_catalog": Name, "table_schema": Name,
        "table_name": Name, "privilege_type": Text, "is_grantable": Text,
        "with_hierarchy": Text,
    }),
    relation!(live "information_schema", "role_table_grants", 0, table_privileges, {
        "grantor": Name, "grantee": Name, "table_catalog": Name, "table_schema": Name,
        "table_name": Name, "privilege_type": Text, "is_grantable": Text,
        "with_hierarchy": Text,
    }),
    relation!(live "information_schema", "domains", 0, domains, {
        "domain_catalog": Name, "domain_schema": Name, "domain_name": Name,
        "data_type": Text, "domain_default": Text, "udt_catalog": Name, "udt_schema": Name,
        "udt_name": Name,
    }),
    relation!(live "information_schema", "domain_constraints", 0, domain_constraints, {
        "constraint_catalog": Name, "constraint_schema": Name, "constraint_name": Name,
        "domain_catalog": Name, "domain_schema": Name, "domain_name": Name,
        "is_deferrable": Text, "initially_deferred": Text,
    }),
    relation!("information_schema", "element_types", 0, nothing, {
        "object_catalog": Name, "object_schema": Name, "object_name": Name,
        "object_type": Text, "collection_type_identifier": Name, "data_type": Text,
    }),
    relation!("information_schema", "user_defined_types", 0, nothing, {
        "user_defined_type_catalog": Name, "user_defined_type_schema": Name,
        "user_defined_type_name": Name, "user_defined_type_category": Text,
    }),
    relation!(live "information_schema", "enabled_roles", 0, enabled_roles, {
        "role_name": Name,
    }),
];

fn database(view: &View<'_>) -> String {
    view.session.setting("current_database").unwrap_or_default()
}

/// Tables that the identity may do something with.
fn visible<'a>(view: &View<'a>) -> Vec<&'a Table> {
    view.catalog
        .tables_by_id()
        .into_iter()
        .map(|table| &**table)
        .filter(|table| super::privileges::may_see(view, table.id))
        .collect()
}

fn yes(value: bool) -> &'static str {
    if value { "YES" } else { "NO" }
}

fn catalog_name(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    rows.push(row![database(view)]);
    Ok(())
}

fn schemata(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for name in oids::NAMESPACES {
        rows.push(row![
            database(view),
            name,
            if name == "public" {
                "pg_database_owner"
            } else {
                "postgres"
            },
            NULL,
            NULL,
            NULL,
            NULL
        ]);
    }
    Ok(())
}

fn tables(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    let mut push = |schema: &str, name: &str, kind: &str, insertable: bool| {
        rows.push(row![
            &database,
            schema,
            name,
            kind,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            yes(insertable),
            "NO",
            NULL,
        ]);
    };
    for table in visible(view) {
        push(&table.name.schema, &table.name.name, "BASE TABLE", true);
    }
    for item in relations::views(view) {
        if super::privileges::may_see(view, item.id) {
            push(&item.name.schema, &item.name.name, "VIEW", false);
        }
    }
    for relation in super::all() {
        let kind = if relation.kind() == "v" {
            "VIEW"
        } else {
            "BASE TABLE"
        };
        push(relation.schema, relation.name, kind, false);
    }
    Ok(())
}

/// What `columns` says of a column.
struct Described<'a> {
    schema: &'a str,
    table: &'a str,
    name: &'a str,
    position: i64,
    ty: PgType,
    not_null: bool,
    default: Option<String>,
    column: Option<&'a Column>,
    updatable: bool,
}

fn columns(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        for (_, column) in table.visible_columns() {
            let default = column
                .generated
                .is_none()
                .then(|| describe::default_text(view, column))
                .flatten();
            rows.push(column_row(
                view,
                &database,
                &Described {
                    schema: &table.name.schema,
                    table: &table.name.name,
                    name: &column.name,
                    position: i64::from(column.id),
                    ty: column.pg_type.clone(),
                    not_null: column.not_null,
                    default,
                    column: Some(column),
                    updatable: true,
                },
            ));
        }
    }
    for item in relations::views(view) {
        if !super::privileges::may_see(view, item.id) {
            continue;
        }
        for (position, (name, ty)) in (1..).zip(&item.columns) {
            let described = system_column(
                &item.name.schema,
                &item.name.name,
                name,
                position,
                ty.clone(),
            );
            rows.push(column_row(view, &database, &described));
        }
    }
    for relation in super::all() {
        for (position, (name, kind)) in (1..).zip(relation.columns) {
            let described = system_column(
                relation.schema,
                relation.name,
                name,
                position,
                kind.pg_type(),
            );
            rows.push(column_row(view, &database, &described));
        }
    }
    Ok(())
}

fn system_column<'a>(
    schema: &'a str,
    table: &'a str,
    name: &'a str,
    position: i64,
    ty: PgType,
) -> Described<'a> {
    Described {
        schema,
        table,
        name,
        position,
        ty,
        not_null: false,
        default: None,
        column: None,
        updatable: false,
    }
}

/// Precision, its radix, and scale of a number's type.
fn numeric_traits(ty: &PgType) -> (Option<i64>, Option<i64>, Option<i64>) {
    match ty {
        PgType::Int2 => (Some(16), Some(2), Some(0)),
        PgType::Int4 => (Some(32), Some(2), Some(0)),
        PgType::Int8 => (Some(64), Some(2), Some(0)),
        PgType::Float4 => (Some(24), Some(2), None),
        PgType::Float8 => (Some(53), Some(2), None),
        PgType::Numeric(Some((precision, scale))) => (
            Some(i64::from(*precision)),
            Some(10),
            Some(i64::from(*scale)),
        ),
        PgType::Numeric(None) => (None, Some(10), None),
        _ => (None, None, None),
    }
}

fn column_row(view: &View<'_>, database: &str, of: &Described<'_>) -> Row {
    let ty = underlying(&of.ty);
    let length = match &ty {
        PgType::Varchar(Some(length)) | PgType::Char(length) => Some(i64::from(*length)),
        _ => None,
    };
    let octets = match (&ty, length) {
        (_, Some(length)) => Some(length * 4),
        (PgType::Text | PgType::Varchar(None), None) => Some(1_073_741_824),
        _ => None,
    };
    let (precision, radix, scale) = numeric_traits(&ty);
    let time = match ty {
        PgType::Date => Some(0),
        PgType::Precise(_, digits) => Some(i64::from(digits)),
        PgType::Time | PgType::Timestamp | PgType::Timestamptz | PgType::Interval => Some(6),
        _ => None,
    };
    let (data_type, udt_schema, udt) = type_names(&ty);
    let domain = match &of.ty {
        PgType::Domain(user) => view.catalog.types.get(&user.id()),
        _ => None,
    };
    let identity = of
        .column
        .filter(|column| column.identity)
        .and_then(|column| view.catalog.sequence(column.sequence?).map(|s| (column, s)));
    let sequence = identity.map(|(_, sequence)| sequence);
    let generation = identity.map(|(column, _)| {
        if column.identity_always {
            "ALWAYS"
        } else {
            "BY DEFAULT"
        }
    });
    let generated = of.column.and_then(|column| column.generated.as_deref());
    row![
        database,
        of.schema,
        of.table,
        of.name,
        of.position,
        of.default.as_deref(),
        yes(!of.not_null),
        data_type,
        length,
        octets,
        precision,
        radix,
        scale,
        time,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        domain.map(|_| database),
        domain.map(|of| of.name.schema.as_str()),
        domain.map(|of| of.name.name.as_str()),
        database,
        udt_schema,
        udt,
        NULL,
        NULL,
        NULL,
        NULL,
        of.position.to_string(),
        "NO",
        yes(identity.is_some()),
        generation,
        sequence.map(|sequence| sequence.start.to_string()),
        sequence.map(|sequence| sequence.increment.to_string()),
        sequence.map(|sequence| sequence.max.to_string()),
        sequence.map(|sequence| sequence.min.to_string()),
        yes(sequence.is_some_and(|sequence| sequence.cycle)),
        if generated.is_some() {
            "ALWAYS"
        } else {
            "NEVER"
        },
        generated,
        yes(of.updatable && generated.is_none()),
    ]
}

/// PostgreSQL lists NOT NULL as a check under a name of its own.
fn not_null_name(table: &Table, column: &Column) -> String {
    format!(
        "{}_{}_{}_not_null",
        oids::namespace(&table.name.schema),
        oids::table(table),
        column.id
    )
}

fn not_nulls(table: &Table) -> impl Iterator<Item = &Column> {
    table
        .visible_columns()
        .map(|(_, column)| column)
        .filter(|column| column.not_null)
}

fn table_constraints(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        let (schema, name) = (&table.name.schema, &table.name.name);
        let mut push = |constraint: &str, kind: &str, deferrable, deferred, distinct| {
            rows.push(row![
                &database,
                schema,
                constraint,
                &database,
                schema,
                name,
                kind,
                yes(deferrable),
                yes(deferred),
                "YES",
                distinct,
            ]);
        };
        for constraint in describe::constraints(table) {
            let constraint_name = constraint.name();
            match &constraint {
                ConstraintView::Primary { .. } => {
                    push(constraint_name, "PRIMARY KEY", false, false, None);
                }
                ConstraintView::Unique(unique) => push(
                    constraint_name,
                    "UNIQUE",
                    false,
                    false,
                    Some(yes(!unique.nulls_not_distinct)),
                ),
                ConstraintView::Check(_) => push(constraint_name, "CHECK", false, false, None),
                ConstraintView::Foreign(key) => push(
                    constraint_name,
                    "FOREIGN KEY",
                    key.deferrable,
                    key.initially_deferred,
                    None,
                ),
            }
        }
        for column in not_nulls(table) {
            push(&not_null_name(table, column), "CHECK", false, false, None);
        }
    }
    Ok(())
}

fn key_column_usage(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        let (schema, name) = (&table.name.schema, &table.name.name);
        for constraint in describe::constraints(table) {
            if matches!(constraint, ConstraintView::Check(_)) {
                continue;
            }
            for (position, id) in (1i64..).zip(constraint.columns(table)) {
                let Some((_, column)) = table.column_by_id(id) else {
                    continue;
                };
                let in_parent = match &constraint {
                    ConstraintView::Foreign(key) => position_in_parent(view, key, position),
                    _ => None,
                };
                rows.push(row![
                    &database,
                    schema,
                    constraint.name(),
                    &database,
                    schema,
                    name,
                    &column.name,
                    position,
                    in_parent,
                ]);
            }
        }
    }
    Ok(())
}

/// Which column of the parent's own constraint a foreign key's column refers to.
fn position_in_parent(view: &View<'_>, key: &ForeignKey, position: i64) -> Option<i64> {
    let parent = view.catalog.table(CollectionId(key.parent))?;
    let wanted = key
        .parent_columns
        .get(usize::try_from(position - 1).ok()?)?;
    let target = describe::constraints(parent)
        .into_iter()
        .find(|constraint| target_of(constraint, parent, key))?;
    let place = target.columns(parent).iter().position(|id| id == wanted)?;
    i64::try_from(place + 1).ok()
}

fn target_of(constraint: &ConstraintView<'_>, parent: &Table, key: &ForeignKey) -> bool {
    if !matches!(
        constraint,
        ConstraintView::Primary { .. } | ConstraintView::Unique(_)
    ) {
        return false;
    }
    let columns = constraint.columns(parent);
    columns.len() == key.parent_columns.len()
        && columns.iter().all(|id| key.parent_columns.contains(id))
}

fn constraint_column_usage(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        for constraint in describe::constraints(table) {
            let (of, ids) = match &constraint {
                ConstraintView::Foreign(key) => {
                    match view.catalog.table(CollectionId(key.parent)) {
                        Some(parent) => (&**parent, key.parent_columns.clone()),
                        None => continue,
                    }
                }
                _ => (table, constraint.columns(table)),
            };
            for id in ids {
                let Some((_, column)) = of.column_by_id(id) else {
                    continue;
                };
                rows.push(row![
                    &database,
                    &of.name.schema,
                    &of.name.name,
                    &column.name,
                    &database,
                    &table.name.schema,
                    constraint.name(),
                ]);
            }
        }
    }
    Ok(())
}

fn constraint_table_usage(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        for constraint in describe::constraints(table) {
            let of = match &constraint {
                ConstraintView::Foreign(key) => view
                    .catalog
                    .table(CollectionId(key.parent))
                    .map_or(table, |parent| &**parent),
                _ => table,
            };
            rows.push(row![
                &database,
                &of.name.schema,
                &of.name.name,
                &database,
                &table.name.schema,
                constraint.name(),
            ]);
        }
    }
    Ok(())
}

fn referential_constraints(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        for key in &table.foreign_keys {
            let Some(parent) = view.catalog.table(CollectionId(key.parent)) else {
                continue;
            };
            let target = describe::constraints(parent)
                .into_iter()
                .find(|constraint| target_of(constraint, parent, key))
                .map(|constraint| constraint.name().to_owned());
            rows.push(row![
                &database,
                &table.name.schema,
                &key.name,
                &database,
                &parent.name.schema,
                target,
                "NONE",
                describe::action_words(key.on_update),
                describe::action_words(key.on_delete),
            ]);
        }
    }
    Ok(())
}

fn check_constraints(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        let schema = &table.name.schema;
        for check in &table.checks {
            rows.push(row![
                &database,
                schema,
                &check.name,
                format!("({})", check.expression),
            ]);
        }
        for column in not_nulls(table) {
            rows.push(row![
                &database,
                schema,
                not_null_name(table, column),
                format!("{} IS NOT NULL", column.name),
            ]);
        }
    }
    Ok(())
}

fn views(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for item in relations::views(view) {
        if super::privileges::may_see(view, item.id) {
            rows.push(row![
                &database,
                &item.name.schema,
                &item.name.name,
                relations::view_definition(view, item),
                "NONE",
                "NO",
                "NO",
                "NO",
                "NO",
                "NO",
            ]);
        }
    }
    Ok(())
}

fn sequences(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for sequence in relations::sequences(view) {
        // Those of identity columns are not listed, as in PostgreSQL.
        let identity = sequence.owned_by.is_some_and(|(table, column)| {
            view.catalog
                .table(CollectionId(table))
                .and_then(|table| table.column_by_id(column))
                .is_some_and(|(_, column)| column.identity)
        });
        if identity {
            continue;
        }
        let (precision, radix, scale) = numeric_traits(&sequence.pg_type);
        rows.push(row![
            &database,
            &sequence.name.schema,
            &sequence.name.name,
            sequence.pg_type.base_name(),
            precision,
            radix,
            scale,
            sequence.start.to_string(),
            sequence.min.to_string(),
            sequence.max.to_string(),
            sequence.increment.to_string(),
            yes(sequence.cycle),
        ]);
    }
    Ok(())
}

const PRIVILEGES: [&str; 7] = [
    "INSERT",
    "SELECT",
    "UPDATE",
    "DELETE",
    "TRUNCATE",
    "REFERENCES",
    "TRIGGER",
];

fn table_privileges(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = database(view);
    for table in visible(view) {
        for privilege in PRIVILEGES {
            if !super::privileges::may(view, table.id, privilege) {
                continue;
            }
            rows.push(row![
                "postgres",
                &*view.identity.role,
                &database,
                &table.name.schema,
                &table.name.name,
                privilege,
                yes(view.identity.superuser),
                yes(privilege == "SELECT"),
            ]);
        }
    }
    Ok(())
}

fn enabled_roles(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for role in super::database::roles(view) {
        if view.identity.is_member_of(&role.name) {
            rows.push(row![role.name]);
        }
    }
    Ok(())
}
