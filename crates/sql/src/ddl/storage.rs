//! The SQLite statements that make what a table's definition says: one STRICT table and its indexes.
//!
//! Foreign keys are always DEFERRABLE INITIALLY DEFERRED in SQLite: the writer checks immediate ones
//! itself, after each statement, so that it can name what was violated. Checks are named `k<id>`,
//! indexes `i<id>`, so that SQLite's error texts map back ([`crate::errors`]).

use springhead_proto::SqlError;

use crate::catalog::{Catalog, Table};

/// CREATE TABLE and CREATE INDEX for all of `table`.
///
/// # Errors
/// An expression in the definition that cannot be rewritten.
pub(crate) fn create(_catalog: &Catalog, _table: &Table) -> Result<Vec<String>, SqlError> {
    Ok(Vec::new())
}
