//! PREPARE, EXECUTE and DEALLOCATE as statements. What a name stands for is the session's, which has
//! one list of them for these and for the protocol's Parse; only the arguments of EXECUTE are planned
//! here. Called by the planner before it parses anything.
//! Source: PostgreSQL 15, reference pages "PREPARE", "EXECUTE", "DEALLOCATE".

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Expr, Statement};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::catalog::Catalog;
use crate::functions::CastContext;
use crate::plan::{OutputColumn, Parameter, Plan};
use crate::planner::{self, PlanContext};
use crate::program::Library;
use crate::query::scope::Scope;
use crate::query::{self, Analyzer, Rules, data_type};
use crate::types::PgType;
use crate::words::{self, Words};

/// A statement about prepared statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreparedStatement {
    Prepare(Prepare),
    /// Its arguments are planned with [`plan_arguments`], once it is known what they are for.
    Execute {
        name: String,
    },
    /// `None` for all.
    Deallocate {
        name: Option<String>,
    },
}

/// See [`PreparedStatement`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    pub name: String,
    /// The types of `$1`, …; `None` for `unknown`, which is left to the statement.
    pub types: Vec<Option<PgType>>,
    /// What is prepared.
    pub statement: String,
    /// Characters of the whole text before it, for places in errors.
    pub offset: u32,
}

/// What such a statement may begin with; another one cannot be prepared.
const PREPARABLE: [&str; 8] = [
    "select", "values", "with", "insert", "update", "delete", "merge", "table",
];

/// The plan of a statement of this kind; `None` if it is of another.
///
/// # Errors
/// 42601 where it is not of its form, 42704 for a type that is none.
pub(crate) fn plan_text(
    catalog: &Catalog,
    sql: &str,
) -> Result<Option<PreparedStatement>, SqlError> {
    if words::begins_with(sql, "prepare") {
        return prepare(catalog, sql).map(Some);
    }
    if words::begins_with(sql, "execute") {
        return execute(sql).map(Some);
    }
    if words::begins_with(sql, "deallocate") {
        return deallocate(sql).map(Some);
    }
    Ok(None)
}

/// `PREPARE name [(type, …)] AS statement`.
fn prepare(catalog: &Catalog, sql: &str) -> Result<PreparedStatement, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("prepare")?;
    if words.is_word("transaction") {
        return Err(SqlError::unsupported("PREPARE TRANSACTION"));
    }
    let name = words.name()?;
    let mut types = Vec::new();
    if words.symbol(b'(') {
        let start = words.place();
        let end = words.skip_parentheses()?;
        types = parameter_types(catalog, &sql[start..end])?;
    }
    words.expect_word("as")?;
    let is_preparable = words.is_symbol(b'(') || PREPARABLE.iter().any(|word| words.is_word(word));
    if !is_preparable {
        return Err(words.wrong());
    }
    let (before, statement) = sql.split_at(words.place());
    Ok(PreparedStatement::Prepare(Prepare {
        name,
        types,
        statement: statement.to_owned(),
        offset: u32::try_from(before.chars().count()).unwrap_or(u32::MAX),
    }))
}

fn parameter_types(catalog: &Catalog, list: &str) -> Result<Vec<Option<PgType>>, SqlError> {
    let wrong = |_| {
        SqlError::new(
            ErrorCode::SyntaxError,
            format!("invalid list of types \"{list}\""),
        )
    };
    let mut parser = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(list)
        .map_err(wrong)?;
    let types = parser
        .parse_comma_separated(Parser::parse_data_type)
        .and_then(|types| {
            parser
                .expect_token(&sqlparser::tokenizer::Token::EOF)
                .map(|_| types)
        })
        .map_err(wrong)?;
    types
        .iter()
        .map(|named| {
            if named.to_string().eq_ignore_ascii_case("unknown") {
                return Ok(None);
            }
            data_type::pg_type(catalog, named).map(Some)
        })
        .collect()
}

/// `EXECUTE name [(argument, …)]`.
fn execute(sql: &str) -> Result<PreparedStatement, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("execute")?;
    let name = words.name()?;
    if words.symbol(b'(') {
        if words.is_symbol(b')') {
            return Err(words.wrong());
        }
        words.skip_parentheses()?;
    }
    words.expect_end()?;
    Ok(PreparedStatement::Execute { name })
}

/// `DEALLOCATE [PREPARE] {name | ALL}`.
fn deallocate(sql: &str) -> Result<PreparedStatement, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("deallocate")?;
    let _ = words.word("prepare");
    let name = if words.word("all") {
        None
    } else {
        Some(words.name()?)
    };
    words.expect_end()?;
    Ok(PreparedStatement::Deallocate { name })
}

/// The arguments of an EXECUTE as a query of one row: each in the storage form of the parameter that it
/// is for, as an assignment converts it. `sql` is the whole statement, an EXPLAIN of the EXECUTE perhaps.
///
/// # Errors
/// 42601 for another number of them than there are parameters, 42804 for one that cannot become what
/// its parameter is, and what is wrong with an expression.
pub fn plan_arguments(
    catalog: &Arc<Catalog>,
    sql: &str,
    parameters: &[Parameter],
    context: &PlanContext,
) -> Result<Plan, SqlError> {
    let (statement, marks) = planner::parse_marked(sql, context)?;
    let statement = match statement {
        Statement::Explain { statement, .. } => *statement,
        other => other,
    };
    let Statement::Execute {
        name: Some(name),
        parameters: arguments,
        ..
    } = statement
    else {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "EXECUTE takes the name of a prepared statement",
        ));
    };
    if arguments.len() != parameters.len() {
        return Err(wrong_number(&name, parameters.len(), arguments.len()));
    }
    let mut analyzer = Analyzer::new(catalog, sql, context, &[], usize::MAX);
    analyzer.marks = marks;
    analyzer.rules = Rules {
        place: Some("EXECUTE parameter"),
        no_subqueries: true,
        no_parameters: true,
        ..Rules::default()
    };
    let scope = Scope {
        aggregates_refused: Some("EXECUTE parameters"),
        windows_refused: Some("EXECUTE parameters"),
        ..Scope::default()
    };
    let values = analyzer.in_scope(scope, |analyzer| {
        let numbered = arguments.iter().zip(parameters).enumerate();
        numbered
            .map(|(index, (argument, parameter))| value(analyzer, index, argument, parameter))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let columns = parameters
        .iter()
        .map(|parameter| OutputColumn::computed("?column?", parameter.pg_type.clone()));
    let kind = query::select_plan(
        &analyzer,
        format!("SELECT {}", values.join(", ")),
        columns.collect(),
    );
    analyzer.check_references()?;
    Ok(Plan {
        catalog_version: catalog.version,
        parameters: analyzer.finish_parameters()?,
        system: planner::asks_system(&kind),
        library: Library::of(catalog, context),
        kind,
    })
}

fn value(
    analyzer: &mut Analyzer<'_>,
    index: usize,
    argument: &Expr,
    parameter: &Parameter,
) -> Result<String, SqlError> {
    let given = analyzer.expression(argument)?;
    let target = &parameter.pg_type;
    analyzer
        .coerce(&given, target, CastContext::Assignment)
        .map_err(|error| {
            let is_other_type = matches!(
                error.code,
                ErrorCode::DatatypeMismatch | ErrorCode::CannotCoerce
            );
            if !is_other_type {
                return error;
            }
            let mismatch = SqlError::new(
                ErrorCode::DatatypeMismatch,
                format!(
                    "parameter ${} of type {} cannot be coerced to the expected type {}",
                    index + 1,
                    given.ty.base_name(),
                    target.base_name()
                ),
            )
            .with_hint("You will need to rewrite or cast the expression.");
            analyzer.at(mismatch, given.place)
        })
}

fn wrong_number(name: &ast::ObjectName, wanted: usize, given: usize) -> SqlError {
    let name = match name.0.as_slice() {
        [part] => part.as_ident().map(query::names::fold),
        _ => None,
    };
    SqlError::new(
        ErrorCode::SyntaxError,
        format!(
            "wrong number of parameters for prepared statement \"{}\"",
            name.unwrap_or_default()
        ),
    )
    .with_detail(format!("Expected {wanted} parameters but got {given}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(sql: &str) -> Result<PreparedStatement, SqlError> {
        plan_text(&Catalog::bootstrap(), sql).map(|statement| statement.expect("of this kind"))
    }

    #[test]
    fn statements_are_told_apart() {
        let Ok(PreparedStatement::Prepare(prepare)) =
            read("PREPARE \"Q\" (integer, unknown, numeric(10, 2)) AS SELECT $1")
        else {
            panic!("no PREPARE");
        };
        assert_eq!(prepare.name, "Q");
        assert_eq!(prepare.types.len(), 3);
        assert_eq!(prepare.types[1], None);
        assert_eq!(prepare.statement, "SELECT $1");
        assert_eq!(prepare.offset, 50);
        let name = || "q".to_owned();
        let execute = PreparedStatement::Execute { name: name() };
        assert_eq!(read("execute Q").unwrap(), execute);
        assert_eq!(read("EXECUTE q (1, f(2), ')');").unwrap(), execute);
        for (sql, name) in [
            ("DEALLOCATE q", Some(name())),
            ("DEALLOCATE PREPARE q", Some(name())),
            ("DEALLOCATE ALL", None),
            ("DEALLOCATE PREPARE ALL", None),
        ] {
            assert_eq!(read(sql).unwrap(), PreparedStatement::Deallocate { name });
        }
        assert!(
            plan_text(&Catalog::bootstrap(), "SELECT 1")
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_cannot_be_prepared_is_refused() {
        for sql in [
            "PREPARE q AS BEGIN",
            "PREPARE q AS CREATE TABLE t (a integer)",
            "PREPARE q SELECT 1",
            "PREPARE q () AS SELECT 1",
            "PREPARE q (integer integer) AS SELECT 1",
            "EXECUTE q ()",
            "EXECUTE q (1",
            "EXECUTE q 1",
            "DEALLOCATE",
        ] {
            assert_eq!(read(sql).unwrap_err().code, ErrorCode::SyntaxError, "{sql}");
        }
        assert_eq!(
            read("PREPARE q (nothing) AS SELECT 1").unwrap_err().code,
            ErrorCode::UndefinedObject
        );
        assert_eq!(
            read("PREPARE TRANSACTION 'x'").unwrap_err().code,
            ErrorCode::FeatureNotSupported
        );
    }
}
