//! Documents: a row by its id. The plans that `GET`, `PUT`, `PATCH` and `DELETE` of a document run.
//!
//! Each plan's parameters are the key's values first, in the key's order, then the values of the
//! columns it was asked for.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use super::triggers;
use crate::catalog::{Catalog, Column, Event, Table};
use crate::plan::{Assigned, OutputColumn, Parameter, Plan, PlanKind, Query, Write, WriteVerb};
use crate::planner::PlanContext;
use crate::program::Library;
use crate::query::Analyzer;
use crate::query::typed::key_of;

/// One document: all visible columns.
#[must_use]
pub fn get_document(catalog: &Arc<Catalog>, table: &Table) -> Plan {
    let (list, columns) = outputs(table);
    let sql = format!(
        "SELECT {list} FROM {} WHERE {}",
        table.storage_name(),
        key_condition(table)
    );
    let query = Query {
        sql,
        columns,
        reads: vec![table.collection()],
        locks: false,
        nowait: false,
    };
    Plan {
        catalog_version: catalog.version,
        parameters: key_parameters(table),
        system: false,
        kind: PlanKind::Query(query),
        library: None,
    }
}

/// Takes one document out; returns it as it was.
#[must_use]
pub fn delete_document(catalog: &Arc<Catalog>, table: &Table) -> Plan {
    let (list, returning) = outputs(table);
    let context = PlanContext::default();
    let mut analyzer = Analyzer::new(catalog, "", &context, &[], usize::MAX);
    let condition = key_condition(table);
    let mut sql = if triggers::has_before(&analyzer, table, Event::Delete, &[]) {
        let table = Arc::new(table.clone());
        triggers::delete(&mut analyzer, &table, "d", Some(&condition))
    } else {
        format!("DELETE FROM {} WHERE {condition}", table.storage_name())
    };
    sql.push_str(&format!(" RETURNING {list}"));
    write(
        catalog,
        table,
        WriteVerb::Delete,
        sql,
        returning,
        key_parameters(table),
        Vec::new(),
        Vec::new(),
    )
}

/// Changes the given columns (places in the table) of one document; returns it as it is then.
///
/// # Errors
/// 428C9 for a column that makes its own values; 22023 without columns.
pub fn patch_document(
    catalog: &Arc<Catalog>,
    table: &Table,
    places: &[usize],
) -> Result<Plan, SqlError> {
    let columns = given(table, places)?;
    if columns.is_empty() {
        return Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            "there is nothing to change",
        ));
    }
    let mut parameters = key_parameters(table);
    let mut set = Vec::with_capacity(columns.len());
    for column in columns {
        super::check_assignable(column, false, "update")?;
        parameters.push(assigned(table, column));
        set.push(format!("?{}", parameters.len()));
    }
    let (list, returning) = outputs(table);
    let context = PlanContext::default();
    let mut analyzer = Analyzer::new(catalog, "", &context, &[], usize::MAX);
    let updated: Vec<u32> = places
        .iter()
        .map(|&place| table.columns[place].id)
        .collect();
    let condition = key_condition(table);
    let mut sql = if triggers::has_before(&analyzer, table, Event::Update, &updated) {
        let given: Vec<(usize, String)> = places.iter().copied().zip(set).collect();
        let table = Arc::new(table.clone());
        triggers::update(&mut analyzer, &table, "d", &given, None, Some(&condition))
    } else {
        let set: Vec<String> = places
            .iter()
            .zip(&set)
            .map(|(&place, value)| format!("\"{}\"={value}", table.columns[place].storage_name()))
            .collect();
        format!(
            "UPDATE {} SET {} WHERE {condition}",
            table.storage_name(),
            set.join(",")
        )
    };
    sql.push_str(&format!(" RETURNING {list}"));
    Ok(write(
        catalog,
        table,
        WriteVerb::Update,
        sql,
        returning,
        parameters,
        Vec::new(),
        places
            .iter()
            .map(|&place| table.columns[place].id)
            .collect(),
    ))
}

/// Makes or replaces one document: the given columns (places in the table, none of the key's), the
/// rest their defaults; returns it as it is then.
///
/// # Errors
/// 428C9 for a column that makes its own values; what is wrong with a default.
pub fn put_document(
    catalog: &Arc<Catalog>,
    table: &Table,
    places: &[usize],
) -> Result<Plan, SqlError> {
    let context = PlanContext {
        system: true,
        ..PlanContext::default()
    };
    let mut analyzer = Analyzer::new(catalog, "", &context, &[], usize::MAX);
    let mut parameters = Vec::new();
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for &place in &table.key {
        let column = &table.columns[place];
        parameters.push(assigned(table, column));
        names.push(format!("\"{}\"", column.storage_name()));
        values.push(format!("?{}", parameters.len()));
    }
    for column in given(table, places)? {
        super::check_assignable(column, false, "insert")?;
        parameters.push(assigned(table, column));
        names.push(format!("\"{}\"", column.storage_name()));
        values.push(format!("?{}", parameters.len()));
    }
    for (place, column) in table.visible_columns() {
        let rest =
            !table.key.contains(&place) && !places.contains(&place) && column.generated.is_none();
        if rest {
            names.push(format!("\"{}\"", column.storage_name()));
            values.push(super::default_text(&mut analyzer, table, column)?);
        }
    }
    let key: Vec<String> = table
        .key
        .iter()
        .map(|&place| key_text(&table.columns[place]))
        .collect();
    let rest = &names[table.key.len()..];
    let set: Vec<(usize, String)> = table
        .columns
        .iter()
        .enumerate()
        .filter_map(|(place, column)| {
            let name = format!("\"{}\"", column.storage_name());
            rest.contains(&name)
                .then(|| (place, format!("excluded.{name}")))
        })
        .collect();
    let updated: Vec<u32> = set
        .iter()
        .map(|(place, _)| table.columns[*place].id)
        .collect();
    let shared = Arc::new(table.clone());
    let action = if triggers::has_before(&analyzer, table, Event::Update, &updated) {
        format!("UPDATE SET {}", triggers::upsert_set(&shared, "d", &set))
    } else if set.is_empty() {
        // A table of nothing but its key: the document is as it was, and is returned.
        let name = &names[0];
        format!("UPDATE SET {name}={name}")
    } else {
        let set: Vec<String> = set
            .iter()
            .map(|(place, value)| format!("\"{}\"={value}", table.columns[*place].storage_name()))
            .collect();
        format!("UPDATE SET {}", set.join(","))
    };
    let (list, returning) = outputs(table);
    let source = format!("VALUES ({})", values.join(","));
    let (names, source) = if triggers::has_before(&analyzer, table, Event::Insert, &[]) {
        triggers::insert_source(&mut analyzer, &shared, &names, &source)
    } else {
        (names, source)
    };
    let sql = format!(
        "INSERT INTO {} AS d ({}) {source} ON CONFLICT ({}) DO {action} RETURNING {list}",
        table.storage_name(),
        names.join(","),
        key.join(",")
    );
    let sequences = analyzer.sequences.iter().copied().collect();
    Ok(write(
        catalog,
        table,
        WriteVerb::Insert,
        sql,
        returning,
        parameters,
        sequences,
        table
            .visible_columns()
            .map(|(_, column)| column.id)
            .collect(),
    ))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one plan, each named where it is made"
)]
fn write(
    catalog: &Arc<Catalog>,
    table: &Table,
    verb: WriteVerb,
    sql: String,
    returning: Arc<[OutputColumn]>,
    parameters: Vec<Parameter>,
    sequences: Vec<u32>,
    updated: Vec<u32>,
) -> Plan {
    let write = Write {
        verb,
        sql,
        returning,
        table: table.collection(),
        touches_foreign_keys: catalog.needs_savepoint(table),
        sequences,
        updated,
        upserts: verb == WriteVerb::Insert,
        once: false,
        instead: false,
        before: Vec::new(),
        checks: Vec::new(),
        viewer: None,
    };
    Plan {
        catalog_version: catalog.version,
        parameters,
        system: false,
        kind: PlanKind::Write(write),
        library: Library::of(catalog, &PlanContext::default()),
    }
}

fn given<'t>(table: &'t Table, places: &[usize]) -> Result<Vec<&'t Column>, SqlError> {
    places
        .iter()
        .map(|&place| {
            table
                .columns
                .get(place)
                .filter(|column| !column.hidden)
                .ok_or_else(|| {
                    SqlError::new(
                        ErrorCode::UndefinedColumn,
                        format!(
                            "relation \"{}\" has no column at place {place}",
                            table.name.name
                        ),
                    )
                })
        })
        .collect()
}

fn outputs(table: &Table) -> (String, Arc<[OutputColumn]>) {
    let list: Vec<String> = table
        .visible_columns()
        .map(|(_, column)| format!("\"{}\"", column.storage_name()))
        .collect();
    let columns: Vec<OutputColumn> = table
        .visible_columns()
        .map(|(_, column)| OutputColumn {
            name: column.name.clone(),
            pg_type: column.pg_type.clone(),
            origin: Some((table.collection(), column.id)),
            nullable: true,
        })
        .collect();
    // A table may have no visible column at all.
    let list = if list.is_empty() {
        "NULL".to_owned()
    } else {
        list.join(",")
    };
    (list, columns.into())
}

fn key_text(column: &Column) -> String {
    let name = format!("\"{}\"", column.storage_name());
    if crate::ddl::storage::needs_key_function(column) {
        key_of(&column.pg_type, &name)
    } else {
        name
    }
}

fn key_condition(table: &Table) -> String {
    let tests: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(index, &place)| {
            let column = &table.columns[place];
            let parameter = format!("?{}", index + 1);
            if crate::ddl::storage::needs_key_function(column) {
                format!(
                    "{}={}",
                    key_text(column),
                    key_of(&column.pg_type, &parameter)
                )
            } else {
                format!("{}={parameter}", key_text(column))
            }
        })
        .collect();
    tests.join(" AND ")
}

fn key_parameters(table: &Table) -> Vec<Parameter> {
    table
        .key
        .iter()
        .map(|&place| Parameter {
            pg_type: table.columns[place].pg_type.clone(),
            assigned_to: None,
        })
        .collect()
}

fn assigned(table: &Table, column: &Column) -> Parameter {
    Parameter {
        pg_type: column.pg_type.clone(),
        assigned_to: Some(Assigned {
            table: table.name.name.clone(),
            column: column.name.clone(),
            not_null: column.not_null,
        }),
    }
}
