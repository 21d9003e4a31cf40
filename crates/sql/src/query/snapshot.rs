//! All rows of a table in the order of its key, for snapshots of a feed and for dumps.

use crate::catalog::Table;

/// SQLite text that returns every row's values in storage order (hidden key included, as in a row
/// image), ordered by the primary key. `filter` is a condition over `"c1"`, … as
/// [`crate::filter::plan_filter_on_table`] gives it.
#[must_use]
pub fn snapshot_query(table: &Table, filter: Option<&str>) -> String {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| format!("\"{}\"", column.storage_name()))
        .collect();
    let key: Vec<String> = table
        .key
        .iter()
        .map(|&place| format!("\"{}\"", table.columns[place].storage_name()))
        .collect();
    let condition = filter.map_or_else(String::new, |filter| format!(" WHERE {filter}"));
    format!(
        "SELECT {} FROM {}{condition} ORDER BY {}",
        columns.join(","),
        table.storage_name(),
        key.join(",")
    )
}
