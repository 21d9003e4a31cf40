//! Expressions inside definitions: kept as PostgreSQL text without the table's name in it, so that
//! a renamed table needs no rewriting, and turned into SQLite text over storage names whenever a
//! statement needs one.

use std::ops::ControlFlow;

use springhead_proto::{ErrorCode, SqlError, Value};
use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, OrderByExpr, visit_expressions,
    visit_expressions_mut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::names::fold;
use crate::catalog::{Catalog, QualifiedName, Table};
use crate::functions;
use crate::query::expression::{Purpose as Place, table_expression};
use crate::types::{PgType, input};

/// What an expression is for: where it may stand, and what its value becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// The condition of a CHECK.
    Check,
    /// The condition of a partial index.
    Predicate,
    /// A DEFAULT, assigned to a column of this type.
    Default(&'a PgType),
    /// GENERATED ALWAYS AS, assigned to a column of this type.
    Generated(&'a PgType),
    /// ALTER COLUMN … TYPE … USING, assigned to a column of this type.
    Using(&'a PgType),
}

/// Reads an expression's text back.
///
/// # Errors
/// XX000 if it does not parse: it came from a parsed statement.
pub(crate) fn parse(text: &str) -> Result<Expr, SqlError> {
    Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_expr())
        .map_err(|error| unreadable(text, &error))
}

fn parse_key(text: &str) -> Result<OrderByExpr, SqlError> {
    Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_order_by_expr())
        .map_err(|error| unreadable(text, &error))
}

fn unreadable(text: &str, error: &sqlparser::parser::ParserError) -> SqlError {
    SqlError::new(
        ErrorCode::Internal,
        format!("a definition's expression cannot be read back: {text}: {error}"),
    )
}

/// The SQLite text of a definition's expression.
pub(crate) fn storage(
    catalog: &Catalog,
    table: &Table,
    text: &str,
    purpose: Purpose<'_>,
) -> Result<String, SqlError> {
    storage_of(catalog, table, &parse(text)?, purpose)
}

/// The SQLite text of an expression over `table`'s columns.
///
/// # Errors
/// What the expression's own rewriting gives; 42804 if its type does not fit, 42P17 if it is not
/// immutable where it must be.
pub(crate) fn storage_of(
    catalog: &Catalog,
    table: &Table,
    expr: &Expr,
    purpose: Purpose<'_>,
) -> Result<String, SqlError> {
    let place = match purpose {
        Purpose::Check => Place::Check,
        Purpose::Predicate => Place::IndexPredicate,
        Purpose::Default(_) => Place::Default,
        Purpose::Generated(_) => Place::Generated,
        Purpose::Using(_) => Place::Using,
    };
    match purpose {
        Purpose::Generated(_) if !is_immutable(expr) => {
            return Err(SqlError::new(
                ErrorCode::InvalidObjectDefinition,
                "generation expression is not immutable",
            ));
        }
        Purpose::Predicate if !is_immutable(expr) => return Err(not_immutable("predicate")),
        _ => {}
    }
    // A bare literal has no type of its own: it is read as a value of the column.
    if let (Purpose::Default(to) | Purpose::Generated(to) | Purpose::Using(to), Some(text)) =
        (purpose, string_literal(expr))
    {
        return Ok(sqlite_literal(&input(to, text)?));
    }
    let (text, from) =
        table_expression(catalog, table, expr, place).map_err(|error| in_clause(error, purpose))?;
    match purpose {
        Purpose::Check | Purpose::Predicate => {
            if !matches!(from, PgType::Bool | PgType::Unknown) {
                let error = SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    format!(
                        "argument must be type boolean, not type {}",
                        from.base_name()
                    ),
                );
                return Err(in_clause(error, purpose));
            }
            Ok(text)
        }
        Purpose::Default(to) | Purpose::Generated(to) | Purpose::Using(to) => {
            assign(&text, &from, to).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    format!(
                        "expression is of type {}, which cannot become {}",
                        from.base_name(),
                        to.base_name()
                    ),
                )
            })
        }
    }
}

/// PostgreSQL calls the place of a condition by its word.
fn in_clause(error: SqlError, purpose: Purpose<'_>) -> SqlError {
    let word = match purpose {
        Purpose::Check => "CHECK",
        Purpose::Predicate => "WHERE",
        _ => return error,
    };
    match error.message.split_once(" must be type boolean") {
        Some((_, rest)) if error.code == ErrorCode::DatatypeMismatch => SqlError::new(
            error.code,
            format!("argument of {word} must be type boolean{rest}"),
        ),
        _ => error,
    }
}

/// `text` of type `from` as an INSERT would store it in a column of type `to`.
pub(crate) fn assign(text: &str, from: &PgType, to: &PgType) -> Option<String> {
    if *from == PgType::Unknown && text.eq_ignore_ascii_case("null") {
        return Some(text.to_owned());
    }
    functions::assign(from, to).map(|cast| cast.render(text))
}

/// The SQLite text of an index's key, in the form that comparisons look for, and whether it is
/// descending. NULLS FIRST and LAST only say how an index may be read, which SQLite does not need.
pub(crate) fn index_key(
    catalog: &Catalog,
    table: &Table,
    key: &str,
) -> Result<(String, bool), SqlError> {
    let key = parse_key(key)?;
    if !is_immutable(&key.expr) {
        return Err(not_immutable("expression"));
    }
    let (text, pg_type) = table_expression(catalog, table, &key.expr, Place::IndexKey)?;
    let text = match pg_type.key_function() {
        Some(function) => format!("{function}({text})"),
        None => text,
    };
    Ok((
        text,
        key.options.sort == Some(sqlparser::ast::OrderBySort::Desc),
    ))
}

fn not_immutable(what: &str) -> SqlError {
    SqlError::new(
        ErrorCode::InvalidObjectDefinition,
        format!("functions in index {what} must be marked IMMUTABLE"),
    )
}

/// The id of the column that an index's key is, if it is one alone.
pub(crate) fn index_key_column(table: &Table, key: &str) -> Option<u32> {
    column_of(table, &parse_key(key).ok()?.expr)
}

/// The ids of the columns that an index's key looks at.
pub(crate) fn index_key_columns(table: &Table, key: &str) -> Result<Vec<u32>, SqlError> {
    Ok(columns_of(table, &parse_key(key)?.expr))
}

/// The column that an expression is, if it is one alone.
pub(crate) fn column_of(table: &Table, expr: &Expr) -> Option<u32> {
    match expr {
        Expr::Identifier(ident) => table
            .column_named(&fold(ident))
            .map(|(_, column)| column.id),
        Expr::Nested(inner) => column_of(table, inner),
        _ => None,
    }
}

/// The ids of the columns that an expression looks at, in order, each once.
pub(crate) fn columns_of(table: &Table, expr: &Expr) -> Vec<u32> {
    let mut ids = Vec::new();
    let _: ControlFlow<()> = visit_expressions(expr, |expr| {
        if let Expr::Identifier(ident) = expr
            && let Some((_, column)) = table.column_named(&fold(ident))
            && !ids.contains(&column.id)
        {
            ids.push(column.id);
        }
        ControlFlow::Continue(())
    });
    ids
}

/// Whether an expression names any column, there or not.
pub(crate) fn has_column(expr: &Expr) -> bool {
    visit_expressions(expr, |expr| match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// The ids of the columns that a definition's expression looks at.
pub(crate) fn columns_in(table: &Table, text: &str) -> Result<Vec<u32>, SqlError> {
    Ok(columns_of(table, &parse(text)?))
}

/// The text to keep of an expression over `table`: its columns without the table's name.
///
/// # Errors
/// 0A000 for a subquery.
pub(crate) fn text_of(table: &Table, expr: &Expr, what: &str) -> Result<String, SqlError> {
    let mut expr = expr.clone();
    let mut subquery = false;
    let _: ControlFlow<()> = visit_expressions_mut(&mut expr, |expr| {
        match expr {
            Expr::CompoundIdentifier(parts) => {
                let qualifies = |part: &Ident| fold(part) == table.name.name;
                if let [.., owner, column] = parts.as_slice()
                    && qualifies(owner)
                {
                    *expr = Expr::Identifier(column.clone());
                }
            }
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => subquery = true,
            _ => {}
        }
        ControlFlow::Continue(())
    });
    if subquery {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("cannot use subquery in {what}"),
        ));
    }
    Ok(expr.to_string())
}

/// The text of an index's key to keep.
pub(crate) fn key_text(table: &Table, key: &OrderByExpr) -> Result<String, SqlError> {
    let expr = text_of(table, &key.expr, "index expression")?;
    Ok(format!("{expr}{}", key.options))
}

/// A definition's expression with a column's new name.
pub(crate) fn rename_in(text: &str, from: &str, to: &str) -> Result<String, SqlError> {
    let mut expr = parse(text)?;
    rename(&mut expr, from, to);
    Ok(expr.to_string())
}

/// An index's key with a column's new name.
pub(crate) fn rename_in_key(text: &str, from: &str, to: &str) -> Result<String, SqlError> {
    let mut key = parse_key(text)?;
    rename(&mut key.expr, from, to);
    Ok(key.to_string())
}

/// A condition over rows that go by one of these names (a policy's table, OLD and NEW), with a
/// column's new name.
pub(crate) fn rename_in_rows(
    text: &str,
    rows: &[&str],
    from: &str,
    to: &str,
) -> Result<String, SqlError> {
    let mut expr = parse(text)?;
    let _: ControlFlow<()> = visit_expressions_mut(&mut expr, |expr| {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [.., row, column] = parts.as_mut_slice()
            && rows.contains(&fold(row).as_str())
            && fold(column) == from
        {
            *column = Ident::with_quote('"', to);
        }
        ControlFlow::Continue(())
    });
    Ok(expr.to_string())
}

/// Whether an expression has a query in it.
pub(crate) fn has_query(text: &str) -> Result<bool, SqlError> {
    let expr = parse(text)?;
    Ok(visit_expressions(&expr, |expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break())
}

fn rename(expr: &mut Expr, from: &str, to: &str) {
    let _: ControlFlow<()> = visit_expressions_mut(expr, |expr| {
        if let Expr::Identifier(ident) = expr
            && fold(ident) == from
        {
            *ident = Ident::with_quote('"', to);
        }
        ControlFlow::Continue(())
    });
}

/// Whether a text names something so: a word of it, unquoted or quoted.
pub(crate) fn mentions(text: &str, name: &str) -> bool {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize()
        .unwrap_or_default();
    tokens.iter().any(|token| match token {
        Token::Word(word) => fold(&word.to_ident(sqlparser::tokenizer::Span::empty())) == name,
        _ => false,
    })
}

/// Whether an expression always gives the same for the same row: no function but immutable ones,
/// and no date that means the moment it is read.
pub(crate) fn is_immutable(expr: &Expr) -> bool {
    visit_expressions(expr, |expr| {
        let fine = match expr {
            Expr::Function(function) => function
                .name
                .0
                .last()
                .and_then(|part| part.as_ident())
                .is_some_and(|name| functions_are_immutable(&fold(name))),
            Expr::Value(value) => match &value.value {
                sqlparser::ast::Value::SingleQuotedString(text) => !is_moment(text),
                _ => true,
            },
            _ => true,
        };
        if fine {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .is_continue()
}

fn functions_are_immutable(name: &str) -> bool {
    // These have a syntax, not a signature.
    if matches!(name, "coalesce" | "nullif" | "greatest" | "least") {
        return true;
    }
    let mut overloads = functions::signatures(name).iter().peekable();
    overloads.peek().is_some()
        && overloads.all(|overload| overload.volatility == functions::Volatility::Immutable)
}

fn is_moment(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "now" | "today" | "tomorrow" | "yesterday"
    )
}

/// A literal's text, whether or not in parentheses.
pub(crate) fn string_literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Nested(inner) => string_literal(inner),
        Expr::Value(value) => match &value.value {
            sqlparser::ast::Value::SingleQuotedString(text)
            | sqlparser::ast::Value::EscapedStringLiteral(text) => Some(text),
            sqlparser::ast::Value::DollarQuotedString(text) => Some(&text.value),
            _ => None,
        },
        _ => None,
    }
}

/// The sequence of a `nextval('name')` or `nextval('name'::regclass)` that is a whole DEFAULT.
pub(crate) fn nextval_of(catalog: &Catalog, expr: &Expr) -> Option<u32> {
    let Expr::Function(function) = expr else {
        return None;
    };
    if function.name.0.last()?.as_ident().map(fold)? != "nextval" {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_slice() else {
        return None;
    };
    let text = match argument {
        Expr::Cast { expr, .. } => string_literal(expr)?,
        other => string_literal(other)?,
    };
    let name = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .ok()?
        .parse_object_name(false)
        .ok()?;
    let name: QualifiedName = super::names::qualified(&name).ok()?;
    catalog.sequence_named(&name).map(|sequence| sequence.id)
}

/// Whether a text has a string constant with this content.
pub(crate) fn has_string(text: &str, content: &str) -> bool {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize()
        .unwrap_or_default();
    tokens.iter().any(|token| {
        matches!(
            token,
            Token::SingleQuotedString(found) | Token::EscapedStringLiteral(found)
                if found == content
        )
    })
}

/// An expression with another content in its string constants with this one.
pub(crate) fn replace_string(text: &str, from: &str, to: &str) -> Result<String, SqlError> {
    let mut expr = parse(text)?;
    let _: ControlFlow<()> = visit_expressions_mut(&mut expr, |expr| {
        if let Expr::Value(value) = expr
            && let sqlparser::ast::Value::SingleQuotedString(found)
            | sqlparser::ast::Value::EscapedStringLiteral(found) = &mut value.value
            && found == from
        {
            to.clone_into(found);
        }
        ControlFlow::Continue(())
    });
    Ok(expr.to_string())
}

/// 0A000 for a subquery in a definition's expression.
pub(crate) fn refuse_subquery(text: &str, what: &str) -> Result<(), SqlError> {
    let nothing = super::table::empty(0, QualifiedName::public(""));
    text_of(&nothing, &parse(text)?, what).map(drop)
}

/// A value in storage form as SQLite writes it.
pub(crate) fn sqlite_literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        // The least integer cannot be written as one: its digits without the sign are out of range.
        Value::Integer(i64::MIN) => "(-9223372036854775807 - 1)".to_owned(),
        Value::Integer(value) => value.to_string(),
        Value::Real(value) if value.is_infinite() => {
            if *value > 0.0 {
                "9e999".to_owned()
            } else {
                "-9e999".to_owned()
            }
        }
        Value::Real(value) => format!("{value:e}"),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => {
            use std::fmt::Write as _;
            let mut out = String::from("x'");
            for byte in bytes {
                let _ = write!(out, "{byte:02x}");
            }
            out.push('\'');
            out
        }
    }
}
