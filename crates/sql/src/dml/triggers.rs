//! Statements whose rows pass BEFORE ROW triggers, and statements on views with INSTEAD OF triggers.
//!
//! `sh_fire(relation, timing, event, updated, old, new)` is run for each row by the engine: it runs the
//! triggers one after the other and returns the row to go on with, or NULL to leave it out. Rows are
//! those of [`crate::functions::rowset`], with the relation's columns in storage order.

use std::sync::Arc;

use springhead_proto::SqlError;

use crate::catalog::{Event, Table, Timing};
use crate::query::Analyzer;

/// Whether a statement's rows pass BEFORE ROW triggers of this event.
pub(crate) fn has_before(
    analyzer: &Analyzer<'_>,
    table: &Table,
    event: Event,
    updated: &[u32],
) -> bool {
    analyzer
        .catalog
        .has_trigger(table.id, Timing::Before, true, event, updated)
}

/// `sh_fire(…)`.
pub(crate) fn fire(
    relation: u32,
    timing: Timing,
    event: Event,
    updated: &[u32],
    old: Option<&[String]>,
    new: Option<&[String]>,
) -> String {
    let row = |values: Option<&[String]>| match values {
        Some(values) => format!("sh_row({})", values.join(",")),
        None => "NULL".to_owned(),
    };
    let updated: Vec<String> = updated.iter().map(u32::to_string).collect();
    format!(
        "sh_fire({relation},{},{},'{}',{},{})",
        u8::from(timing == Timing::InsteadOf),
        event.number(),
        updated.join(","),
        row(old),
        row(new)
    )
}

/// The columns that a written row gives, with their places: all but those that make their own values.
pub(crate) fn written(table: &Table) -> impl Iterator<Item = (usize, &crate::catalog::Column)> {
    table
        .visible_columns()
        .filter(|(_, column)| column.generated.is_none())
}

/// An INSERT's source, its rows passed through the triggers: the columns and the new source.
/// `columns` are the quoted storage names that `source` gives values for.
pub(crate) fn insert_source(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    columns: &[String],
    source: &str,
) -> (Vec<String>, String) {
    let (given, fired) = (analyzer.fresh('w'), analyzer.fresh('r'));
    let new: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let name = format!("\"{}\"", column.storage_name());
            match columns.iter().position(|given| *given == name) {
                Some(place) => format!("{given}.k{place}"),
                None => "NULL".to_owned(),
            }
        })
        .collect();
    let names: Vec<String> = (0..columns.len())
        .map(|place| format!("k{place}"))
        .collect();
    let fire = fire(
        table.id,
        Timing::Before,
        Event::Insert,
        &[],
        None,
        Some(&new),
    );
    let (list, values) = fields_of(table, &fired);
    // The LIMIT keeps SQLite from merging the two, which would fire for each column.
    let sql = format!(
        "WITH {given}({}) AS ({source}) SELECT {} FROM (SELECT {fire} AS b FROM {given} LIMIT -1 OFFSET 0) AS {fired} WHERE {fired}.b IS NOT NULL",
        names.join(","),
        values.join(","),
    );
    (list, sql)
}

/// The written columns' quoted names, and their values out of the row `<id>.b`.
pub(crate) fn fields_of(table: &Table, id: &str) -> (Vec<String>, Vec<String>) {
    written(table)
        .map(|(place, column)| {
            let value = format!("sh_field({id}.b,{place})");
            let is_rowid = table.key_is_rowid() && table.key.first() == Some(&place);
            let value = if is_rowid {
                format!(
                    "sh_not_null({value},{},{})",
                    crate::query::names::quote_text(&table.name.name),
                    crate::query::names::quote_text(&column.name)
                )
            } else {
                value
            };
            (format!("\"{}\"", column.storage_name()), value)
        })
        .unzip()
}

/// The values of a row as it is: every column under the alias `id`.
pub(crate) fn whole(table: &Table, id: &str) -> Vec<String> {
    table
        .columns
        .iter()
        .map(|column| format!("{id}.\"{}\"", column.storage_name()))
        .collect()
}

/// `UPDATE … SET` whose rows pass the triggers. `set` are places and texts over the alias `id`; `tail`
/// is its FROM and WHERE.
pub(crate) fn update(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    id: &str,
    set: &[(usize, String)],
    from: Option<&str>,
    condition: Option<&str>,
) -> String {
    let updated: Vec<u32> = set
        .iter()
        .map(|(place, _)| table.columns[*place].id)
        .collect();
    let old = whole(table, id);
    let mut new = old.clone();
    for (place, text) in set {
        new[*place].clone_from(text);
    }
    let fire = fire(
        table.id,
        Timing::Before,
        Event::Update,
        &updated,
        Some(&old),
        Some(&new),
    );
    let (target, fired) = (analyzer.fresh('r'), analyzer.fresh('r'));
    let (names, values) = fields_of(table, &fired);
    let assignments: Vec<String> = names
        .iter()
        .zip(&values)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let keys: Vec<String> = table
        .key_columns()
        .map(|column| format!("\"{}\"", column.storage_name()))
        .collect();
    let selected: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| format!("{id}.{key} AS k{place}"))
        .collect();
    let matches: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| format!("{target}.{key}={fired}.k{place}"))
        .collect();
    let from = from.map_or_else(String::new, |from| format!(",{from}"));
    let condition = condition.map_or_else(String::new, |text| format!(" WHERE {text}"));
    format!(
        "UPDATE {storage} AS {target} SET {} FROM (SELECT {},{fire} AS b FROM {storage} AS {id}{from}{condition} LIMIT -1 OFFSET 0) AS {fired} WHERE {} AND {fired}.b IS NOT NULL",
        assignments.join(","),
        selected.join(","),
        matches.join(" AND "),
        storage = table.storage_name(),
    )
}

/// `DELETE` whose rows pass the triggers.
pub(crate) fn delete(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    id: &str,
    condition: Option<&str>,
) -> String {
    let old = whole(table, id);
    let fire = fire(
        table.id,
        Timing::Before,
        Event::Delete,
        &[],
        Some(&old),
        None,
    );
    let (target, fired) = (analyzer.fresh('r'), analyzer.fresh('r'));
    let keys: Vec<String> = table
        .key_columns()
        .map(|column| format!("\"{}\"", column.storage_name()))
        .collect();
    let selected: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| format!("{id}.{key} AS k{place}"))
        .collect();
    let places: Vec<String> = (0..keys.len())
        .map(|place| format!("{fired}.k{place}"))
        .collect();
    let targets: Vec<String> = keys.iter().map(|key| format!("{target}.{key}")).collect();
    let condition = condition.map_or_else(String::new, |text| format!(" WHERE {text}"));
    format!(
        "DELETE FROM {storage} AS {target} WHERE ({}) IN (SELECT {} FROM (SELECT {},{fire} AS b FROM {storage} AS {id}{condition} LIMIT -1 OFFSET 0) AS {fired} WHERE {fired}.b IS NOT NULL)",
        targets.join(","),
        places.join(","),
        selected.join(","),
        storage = table.storage_name(),
    )
}

/// The SET of `ON CONFLICT DO UPDATE` whose row passes the triggers; there they cannot leave it out.
pub(crate) fn upsert_set(table: &Arc<Table>, id: &str, set: &[(usize, String)]) -> String {
    let updated: Vec<u32> = set
        .iter()
        .map(|(place, _)| table.columns[*place].id)
        .collect();
    let old = whole(table, id);
    let mut new = old.clone();
    for (place, text) in set {
        new[*place].clone_from(text);
    }
    let fire = fire(
        table.id,
        Timing::Before,
        Event::Update,
        &updated,
        Some(&old),
        Some(&new),
    );
    let (names, values) = fields_of(table, "u");
    format!(
        "({})=(SELECT {} FROM (SELECT sh_kept({fire}) AS b LIMIT 1 OFFSET 0) AS u WHERE u.b IS NOT NULL)",
        names.join(","),
        values.join(",")
    )
}

/// 0A000 where a trigger would have to see rows that it cannot.
pub(crate) fn refuse(what: &str) -> SqlError {
    SqlError::unsupported(format_args!("{what} on a table with BEFORE ROW triggers"))
}
