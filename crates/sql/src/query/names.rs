//! Identifiers as PostgreSQL folds them, and the relations that they name.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{Ident, ObjectName};

use crate::catalog::{QualifiedName, Relation};

use super::Analyzer;

/// PostgreSQL cuts identifiers to this many bytes.
const IDENTIFIER_BYTES: usize = 63;

/// An identifier's name: lower case unless it is quoted, cut to 63 bytes.
#[must_use]
pub(crate) fn fold(ident: &Ident) -> String {
    let mut name = if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        lower(&ident.value)
    };
    if name.len() > IDENTIFIER_BYTES {
        let end = (0..=IDENTIFIER_BYTES)
            .rev()
            .find(|&end| name.is_char_boundary(end))
            .unwrap_or(0);
        name.truncate(end);
    }
    name
}

/// PostgreSQL folds ASCII letters only, in an UTF-8 database.
fn lower(text: &str) -> String {
    text.to_ascii_lowercase()
}

/// The parts of a dotted name, folded.
pub(crate) fn parts(name: &ObjectName) -> Result<Vec<String>, SqlError> {
    name.0
        .iter()
        .map(|part| {
            part.as_ident().map(fold).ok_or_else(|| {
                SqlError::new(ErrorCode::SyntaxError, format!("\"{name}\" is no name"))
            })
        })
        .collect()
}

/// A schema, if one was written, and a name.
pub(crate) fn schema_and_name(name: &ObjectName) -> Result<(Option<String>, String), SqlError> {
    let mut parts = parts(name)?;
    match parts.len() {
        1 => Ok((None, parts.remove(0))),
        2 => {
            let last = parts.remove(1);
            Ok((Some(parts.remove(0)), last))
        }
        // A database's name may lead; only the current one could be meant.
        3 => {
            let last = parts.remove(2);
            Ok((Some(parts.remove(1)), last))
        }
        _ => Err(SqlError::new(
            ErrorCode::SyntaxError,
            format!("improper qualified name (too many dotted names): {name}"),
        )),
    }
}

/// An SQLite string literal.
pub(crate) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Analyzer<'_> {
    /// The relation that a name stands for, by the search path.
    pub(crate) fn relation(
        &self,
        name: &ObjectName,
    ) -> Result<(QualifiedName, Relation), SqlError> {
        let (schema, relation_name) = schema_and_name(name)?;
        let found = match &schema {
            Some(schema) => self.catalog.resolve(Some(schema), &relation_name),
            // A schema that may not be used is not searched.
            None if !self.may_search() => None,
            None => self
                .context
                .search_path
                .iter()
                .find_map(|schema| self.catalog.resolve(Some(schema), &relation_name)),
        };
        found.ok_or_else(|| {
            let in_catalog = schema
                .as_deref()
                .is_none_or(|schema| matches!(schema, "pg_catalog" | "information_schema"));
            if in_catalog && is_postgresql(&relation_name, schema.is_some()) {
                let what = format!("the system relation \"{relation_name}\"");
                return self.at(
                    SqlError::unsupported(what),
                    super::expression::name_place(name),
                );
            }
            let shown = match &schema {
                Some(schema) => format!("{schema}.{relation_name}"),
                None => relation_name,
            };
            let error = SqlError::new(
                ErrorCode::UndefinedTable,
                format!("relation \"{shown}\" does not exist"),
            );
            match name.0.first().and_then(|part| part.as_ident()) {
                Some(ident) => self.at(error, ident.span.start),
                None => error,
            }
        })
    }
}

/// Whether PostgreSQL 15 has a system relation of that name; those of `information_schema` only where a
/// schema is named.
fn is_postgresql(name: &str, has_schema: bool) -> bool {
    const KNOWN: &str = include_str!("postgresql_relations.txt");
    (has_schema || name.starts_with("pg_")) && KNOWN.lines().any(|known| known == name)
}
