//! INSERT, UPDATE, DELETE, TRUNCATE, and documents by their ids.
//!
//! [`crate::planner`] calls it with parsed statements; `server`'s document endpoints through the
//! planner. What each column is given is converted and checked as PostgreSQL's assignment does:
//! in the SQLite statement, or when a parameter is bound that goes straight into a column.

pub(crate) mod conflict;
pub(crate) mod delete;
pub mod document;
pub(crate) mod insert;
pub(crate) mod lock;
pub(crate) mod merge;
pub(crate) mod returning;
pub(crate) mod triggers;
pub(crate) mod truncate;
pub(crate) mod update;
pub(crate) mod views;
pub(crate) mod with;

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{Expr, Ident, ObjectName};

use crate::catalog::{Column, Privilege, QualifiedName, Relation, Table};
use crate::query::Analyzer;
use crate::query::expression::{name_place, place_of};
use crate::query::names::{self, quote_text};
use crate::query::scope::Scope;
use crate::query::typed::{Node, Typed};

/// The table that a statement writes.
pub(crate) fn target(analyzer: &Analyzer<'_>, name: &ObjectName) -> Result<Arc<Table>, SqlError> {
    let (qualified, relation) = analyzer.relation(name)?;
    let table = match relation {
        Relation::Table(id) => analyzer.catalog.table(id),
        Relation::View(_) => {
            return Err(analyzer.at(
                SqlError::unsupported(format_args!(
                    "writing through the view \"{}\"",
                    qualified.name
                )),
                name_place(name),
            ));
        }
        Relation::Sequence(_) | Relation::Index(_) => None,
    };
    let Some(table) = table else {
        let error = SqlError::new(
            ErrorCode::WrongObjectType,
            format!("\"{}\" is not a table", qualified.name),
        );
        return Err(analyzer.at(error, name_place(name)));
    };
    if table.name.schema == QualifiedName::SPRINGHEAD && !analyzer.context.system {
        let error = SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!("permission denied for table {}", table.name.name),
        );
        return Err(analyzer.at(error, name_place(name)));
    }
    Ok(table.clone())
}

/// The place of a column that a statement writes.
pub(crate) fn target_column(
    analyzer: &Analyzer<'_>,
    table: &Table,
    ident: &Ident,
) -> Result<usize, SqlError> {
    let name = names::fold(ident);
    table
        .columns
        .iter()
        .position(|column| column.name == name && !column.hidden)
        .ok_or_else(|| {
            let error = SqlError::new(
                ErrorCode::UndefinedColumn,
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    table.name.name
                ),
            );
            analyzer.at(error, ident.span.start)
        })
}

/// The last part of a dotted name: `SET t.a = …` is a mistake that PostgreSQL reports so.
pub(crate) fn column_ident<'n>(
    analyzer: &Analyzer<'_>,
    table: &Table,
    name: &'n ObjectName,
) -> Result<&'n Ident, SqlError> {
    match name.0.as_slice() {
        [part] => part
            .as_ident()
            .ok_or_else(|| SqlError::new(ErrorCode::SyntaxError, "a column's name is expected")),
        parts => {
            let first = parts
                .first()
                .and_then(|part| part.as_ident())
                .map(names::fold)
                .unwrap_or_default();
            let error = SqlError::new(
                ErrorCode::UndefinedColumn,
                format!(
                    "column \"{first}\" of relation \"{}\" does not exist",
                    table.name.name
                ),
            );
            Err(analyzer.at(error, name_place(name)))
        }
    }
}

/// `DEFAULT` in the place of a value.
pub(crate) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// Refuses a value for a column that makes its own (428C9). `overriding` is OVERRIDING SYSTEM VALUE.
pub(crate) fn check_assignable(
    column: &Column,
    overriding: bool,
    verb: &str,
) -> Result<(), SqlError> {
    let (message, detail) = if column.generated.is_some() {
        (
            if verb == "insert" {
                format!(
                    "cannot insert a non-DEFAULT value into column \"{}\"",
                    column.name
                )
            } else {
                format!("column \"{}\" can only be updated to DEFAULT", column.name)
            },
            format!("Column \"{}\" is a generated column.", column.name),
        )
    } else if column.identity_always && !overriding {
        (
            if verb == "insert" {
                format!(
                    "cannot insert a non-DEFAULT value into column \"{}\"",
                    column.name
                )
            } else {
                format!("column \"{}\" can only be updated to DEFAULT", column.name)
            },
            format!(
                "Column \"{}\" is an identity column defined as GENERATED ALWAYS.",
                column.name
            ),
        )
    } else {
        return Ok(());
    };
    let error = SqlError::new(ErrorCode::GeneratedAlways, message).with_detail(detail);
    Err(if verb == "insert" {
        error.with_hint("Use OVERRIDING SYSTEM VALUE to override.")
    } else {
        error
    })
}

/// The SQLite text of a column's default: a sequence's next number, the DEFAULT expression, or NULL.
pub(crate) fn default_text(
    analyzer: &mut Analyzer<'_>,
    table: &Table,
    column: &Column,
) -> Result<String, SqlError> {
    if let Some(sequence) = column.sequence {
        analyzer.sequences.insert(sequence);
        if !column.identity {
            analyzer.use_sequence(sequence, &[Privilege::Usage, Privilege::Update])?;
        }
        let number = Typed::new(
            format!("sh_nextval({sequence})"),
            crate::types::PgType::Int8,
        );
        return analyzer.assign(&number, column, &table.name.name);
    }
    let Some(default) = analyzer.catalog.default_of(column) else {
        return stored(analyzer, table, column, &Typed::null());
    };
    let context = analyzer.context;
    let expr =
        crate::planner::parse_expression(default, context.max_statement_bytes, context.max_depth)?;
    // Its text is not this statement's: errors in it have no place here.
    analyzer.expanding.push(0);
    let value = analyzer.in_scope(
        Scope {
            closed: true,
            ..Scope::default()
        },
        |analyzer| {
            let value = analyzer.expression(&expr)?;
            stored(analyzer, table, column, &value)
        },
    );
    analyzer.expanding.pop();
    value
}

/// The SQLite text of a value as a column stores it.
pub(crate) fn stored(
    analyzer: &mut Analyzer<'_>,
    table: &Table,
    column: &Column,
    value: &Typed,
) -> Result<String, SqlError> {
    let text = analyzer.assign(value, column, &table.name.name)?;
    Ok(guarded(analyzer, table, column, value, text))
}

/// SQLite numbers a NULL rowid key by itself where PostgreSQL refuses it.
pub(crate) fn guarded(
    analyzer: &Analyzer<'_>,
    table: &Table,
    column: &Column,
    value: &Typed,
    text: String,
) -> String {
    let is_rowid = table.key_is_rowid()
        && table
            .key
            .first()
            .is_some_and(|&place| table.columns[place].id == column.id);
    let safe = match &value.node {
        Node::Number(_) | Node::Literal(_) => true,
        Node::Param(index) => text == format!("?{}", index + 1) && analyzer.is_checked(*index),
        Node::Null => false,
        Node::Sql(_) | Node::Row(_) => !value.nullable,
    };
    if !is_rowid || safe || analyzer.late_checks {
        return text;
    }
    format!(
        "sh_not_null({text},{},{})",
        quote_text(&table.name.name),
        quote_text(&column.name)
    )
}

/// 0A000 in PostgreSQL's own words, at an expression.
pub(crate) fn refused(analyzer: &Analyzer<'_>, expr: &Expr, message: &str) -> SqlError {
    analyzer.at(
        SqlError::new(ErrorCode::FeatureNotSupported, message),
        place_of(expr),
    )
}
