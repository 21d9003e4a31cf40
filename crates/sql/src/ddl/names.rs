//! Names in DDL: PostgreSQL's folding and truncation, schemas, and the names it gives to
//! constraints that have none of their own.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::ObjectName;

pub(crate) use crate::query::names::fold;

use crate::catalog::{Catalog, QualifiedName, Table};
use crate::plan::display_name;

/// The most bytes of a name (`NAMEDATALEN - 1`); what is longer is cut there.
pub(crate) const MAX_NAME_BYTES: usize = 63;

/// The parts of a dotted name, folded.
///
/// # Errors
/// 42601 for more than three parts or a part that is no name.
fn parts(name: &ObjectName) -> Result<Vec<String>, SqlError> {
    let parts = crate::query::names::parts(name)?;
    if !(1..=3).contains(&parts.len()) {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            format!("improper qualified name (too many dotted names): {name}"),
        ));
    }
    Ok(parts)
}

/// An object's name; without a schema it is in `public`. A leading database name is let through:
/// it can only be the one connected to.
pub(crate) fn qualified(name: &ObjectName) -> Result<QualifiedName, SqlError> {
    let mut parts = parts(name)?;
    let object = parts.pop().expect("parts gives at least one");
    let schema = parts
        .pop()
        .unwrap_or_else(|| QualifiedName::PUBLIC.to_owned());
    Ok(QualifiedName::new(schema, object))
}

/// `table.column`, `schema.table.column`: the two apart.
pub(crate) fn qualified_column(name: &ObjectName) -> Result<(QualifiedName, String), SqlError> {
    let mut parts = parts(name)?;
    let column = parts.pop().expect("parts gives at least one");
    let table = parts.pop().ok_or_else(|| {
        SqlError::new(
            ErrorCode::SyntaxError,
            format!("\"{column}\" must be a table's column: table.column"),
        )
    })?;
    let schema = parts
        .pop()
        .unwrap_or_else(|| QualifiedName::PUBLIC.to_owned());
    Ok((QualifiedName::new(schema, table), column))
}

/// Refuses to define anything outside `public`.
///
/// # Errors
/// 42501 for Springhead's own and PostgreSQL's schemas, 3F000 for those that are not there.
pub(crate) fn check_schema(name: &QualifiedName) -> Result<(), SqlError> {
    match name.schema.as_str() {
        QualifiedName::PUBLIC => Ok(()),
        QualifiedName::SPRINGHEAD | "pg_catalog" | "information_schema" => Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!("permission denied for schema {}", name.schema),
        )),
        other => Err(unknown_schema(other)),
    }
}

pub(crate) fn unknown_schema(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UnknownSchema,
        format!("schema \"{name}\" does not exist"),
    )
}

/// Refuses to change Springhead's own tables.
pub(crate) fn check_owner(table: &Table) -> Result<(), SqlError> {
    if table.collection().is_system() {
        return Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!(
                "permission denied: \"{}\" is Springhead's own",
                display_name(&table.name)
            ),
        ));
    }
    Ok(())
}

/// The table of this name, if rights on it are a user's to give.
pub(crate) fn grantable_table<'a>(
    catalog: &'a Catalog,
    name: &QualifiedName,
) -> Result<&'a Arc<Table>, SqlError> {
    let table = catalog.expect_table(name)?;
    if !table.collection().is_grantable() {
        check_owner(table)?;
    }
    Ok(table)
}

/// The table of this name, if a user may change it.
pub(crate) fn own_table<'a>(
    catalog: &'a Catalog,
    name: &QualifiedName,
) -> Result<&'a Arc<Table>, SqlError> {
    let table = catalog.expect_table(name)?;
    check_owner(table)?;
    Ok(table)
}

pub(crate) fn duplicate_relation(name: &QualifiedName) -> SqlError {
    SqlError::new(
        ErrorCode::DuplicateTable,
        format!("relation \"{}\" already exists", name.name),
    )
}

/// PostgreSQL's `ChooseRelationName`/`ChooseConstraintName`: `first_second_label`, shortened to
/// fit, with a number after it while `taken` says so.
pub(crate) fn choose(
    first: &str,
    second: &str,
    label: &str,
    taken: impl Fn(&str) -> bool,
) -> String {
    let mut numbered = label.to_owned();
    let mut number = 0u32;
    loop {
        let name = object_name(first, second, &numbered);
        if !taken(&name) {
            return name;
        }
        number += 1;
        numbered = format!("{label}{number}");
    }
}

/// PostgreSQL's `makeObjectName`: where the three do not fit, the longer of the first two is
/// shortened, byte by byte, at a character's end.
fn object_name(first: &str, second: &str, label: &str) -> String {
    let overhead = usize::from(!second.is_empty()) + usize::from(!label.is_empty()) + label.len();
    let room = MAX_NAME_BYTES.saturating_sub(overhead);
    let (mut first_bytes, mut second_bytes) = (first.len(), second.len());
    while first_bytes + second_bytes > room {
        if first_bytes > second_bytes {
            first_bytes -= 1;
        } else {
            second_bytes -= 1;
        }
    }
    [clip(first, first_bytes), clip(second, second_bytes), label]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("_")
}

/// The longest start of `text` of at most `bytes` bytes that ends at a character's end.
fn clip(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// PostgreSQL's `ChooseIndexColumnNames` joined: the part of a name that stands for its columns.
pub(crate) fn join_columns<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for name in names {
        if out.len() >= MAX_NAME_BYTES {
            break;
        }
        if !out.is_empty() {
            out.push('_');
        }
        out.push_str(name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{choose, object_name};

    #[test]
    fn a_constraint_gets_postgresql_s_name() {
        assert_eq!(
            object_name("album", "artist_id", "fkey"),
            "album_artist_id_fkey"
        );
        assert_eq!(object_name("album", "", "pkey"), "album_pkey");
        assert_eq!(
            choose("t", "a", "key", |name| name == "t_a_key"
                || name == "t_a_key1"),
            "t_a_key2"
        );
    }

    #[test]
    fn a_long_name_is_shortened_where_it_is_longest() {
        let name = object_name(&"a".repeat(60), &"b".repeat(20), "fkey");
        assert_eq!(name.len(), 63);
        assert_eq!(name, format!("{}_{}_fkey", "a".repeat(37), "b".repeat(20)));
        // Characters of several bytes are not cut in two.
        assert_eq!(
            object_name(&"ä".repeat(40), "", "pkey"),
            format!("{}_pkey", "ä".repeat(29))
        );
    }
}
