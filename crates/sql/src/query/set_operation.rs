//! UNION, INTERSECT and EXCEPT, with ALL and without.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{SetExpr, SetOperator, SetQuantifier};

use crate::functions::CastContext;

use super::Analyzer;
use super::body::{Analyzed, Body};
use super::operators::common_type;
use super::scope::Scope;
use super::typed::key_of;

impl Analyzer<'_> {
    pub(super) fn set_operation_of(
        &mut self,
        left: &SetExpr,
        operator: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
    ) -> Result<Analyzed, SqlError> {
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::Distinct | SetQuantifier::None => false,
            _ => return Err(SqlError::unsupported("set operations BY NAME")),
        };
        let mut left = self.in_scope(Scope::default(), |analyzer| {
            analyzer.set_expression(left, &[])
        })?;
        let mut right = self.in_scope(Scope::default(), |analyzer| {
            analyzer.set_expression(right, &[])
        })?;
        let (left_types, right_types) = (left.types(), right.types());
        if left_types.len() != right_types.len() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("each {operator} query must have the same number of columns"),
            ));
        }
        let mut common = Vec::with_capacity(left_types.len());
        for (left, right) in left_types.iter().zip(&right_types) {
            common.push(common_type(&[left, right]).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    format!(
                        "{operator} types {} and {} cannot be matched",
                        left.base_name(),
                        right.base_name()
                    ),
                )
            })?);
        }
        left.convert(self, &common, CastContext::Implicit)?;
        right.convert(self, &common, CastContext::Implicit)?;
        let (names, prefix) = (left.names.clone(), self.fresh('q'));
        let body = Body::Set {
            operator,
            all,
            left: Box::new(left),
            right: Box::new(right),
        };
        Ok(Analyzed::new(body, names, prefix))
    }
}

/// A side of a set operation: SQLite has no parentheses around them.
pub(super) fn side(
    analyzer: &mut Analyzer<'_>,
    side: Analyzed,
    is_left: bool,
) -> Result<String, SqlError> {
    let inline = side.is_plain()
        && match &side.body {
            Body::Select(select) => select.is_plain(),
            Body::Values(_) => true,
            Body::Set { .. } => is_left,
        };
    let names: Vec<String> = (0..side.names.len())
        .map(|index| side.column_name(index))
        .collect();
    let sql = side.into_sql(analyzer)?;
    Ok(if inline {
        sql
    } else {
        format!("SELECT {} FROM ({sql})", names.join(","))
    })
}

pub(super) fn set_operation(
    analyzer: &mut Analyzer<'_>,
    operator: SetOperator,
    all: bool,
    left: Analyzed,
    right: Analyzed,
    names: &[String],
) -> Result<String, SqlError> {
    let word = match operator {
        SetOperator::Union => "UNION",
        SetOperator::Intersect => "INTERSECT",
        SetOperator::Except | SetOperator::Minus => "EXCEPT",
    };
    let types = left.types();
    let keyed = types.iter().any(|ty| ty.key_function().is_some());
    if keyed && !(operator == SetOperator::Union && all) {
        return keyed_operation(analyzer, operator, all, left, right, names);
    }
    let list = |side: &Analyzed| {
        (0..names.len())
            .map(|i| side.column_name(i))
            .collect::<Vec<_>>()
            .join(",")
    };
    if all && operator != SetOperator::Union {
        // Each copy of a row is told apart by its number, so that copies pair up one by one.
        let (left_list, right_list) = (list(&left), list(&right));
        let first = left_list.clone();
        let left = left.into_sql(analyzer)?;
        let right = right.into_sql(analyzer)?;
        let renamed: Vec<String> = first
            .split(',')
            .zip(names)
            .map(|(old, new)| format!("{old} AS {new}"))
            .collect();
        return Ok(format!(
            "SELECT {} FROM (SELECT {left_list},row_number() OVER (PARTITION BY {left_list}) AS n FROM ({left}) \
             {word} SELECT {right_list},row_number() OVER (PARTITION BY {right_list}) FROM ({right}))",
            renamed.join(",")
        ));
    }
    let left_names = list(&left);
    let left = side(analyzer, left, true)?;
    let right = side(analyzer, right, false)?;
    let compound = format!("{left} {word}{} {right}", if all { " ALL" } else { "" });
    let renamed: Vec<String> = left_names
        .split(',')
        .zip(names)
        .map(|(old, new)| format!("{old} AS {new}"))
        .collect();
    Ok(format!("SELECT {} FROM ({compound})", renamed.join(",")))
}

/// A set operation over values that can be equal without being the same bytes: by their keys.
fn keyed_operation(
    analyzer: &mut Analyzer<'_>,
    operator: SetOperator,
    all: bool,
    left: Analyzed,
    right: Analyzed,
    names: &[String],
) -> Result<String, SqlError> {
    let types = left.types();
    let columns = |side: &Analyzed| {
        (0..names.len())
            .map(|i| side.column_name(i))
            .collect::<Vec<_>>()
    };
    let keys = |columns: &[String], id: &str| {
        types
            .iter()
            .zip(columns)
            .map(|(ty, name)| key_of(ty, &format!("{id}.{name}")))
            .collect::<Vec<_>>()
    };
    let (left_names, right_names) = (columns(&left), columns(&right));
    let (left, right) = (left.into_sql(analyzer)?, right.into_sql(analyzer)?);
    let renamed: Vec<String> = left_names
        .iter()
        .zip(names)
        .map(|(old, new)| format!("l.{old} AS {new}"))
        .collect();
    let numbered = |sql: &str, columns: &[String]| {
        format!(
            "SELECT {list},row_number() OVER (PARTITION BY {keys}) AS n FROM ({sql}) AS s",
            list = columns.join(","),
            keys = keys(columns, "s").join(",")
        )
    };
    if operator == SetOperator::Union {
        let both = format!(
            "SELECT {} FROM ({left}) UNION ALL SELECT {} FROM ({right})",
            left_names.join(","),
            right_names.join(",")
        );
        return Ok(format!(
            "SELECT {} FROM ({}) AS l WHERE l.n=1",
            renamed.join(","),
            numbered(&both, &left_names)
        ));
    }
    let mut tests: Vec<String> = keys(&left_names, "l")
        .iter()
        .zip(keys(&right_names, "r"))
        .map(|(left, right)| format!("{left} IS {right}"))
        .collect();
    if all {
        // Each copy of a row is told apart by its number, so that copies pair up one by one.
        tests.push("l.n=r.n".to_owned());
    }
    let not = if operator == SetOperator::Intersect {
        ""
    } else {
        "NOT "
    };
    let first = if all { "" } else { "l.n=1 AND " };
    Ok(format!(
        "SELECT {} FROM ({}) AS l WHERE {first}{not}EXISTS (SELECT 1 FROM ({}) AS r WHERE {})",
        renamed.join(","),
        numbered(&left, &left_names),
        numbered(&right, &right_names),
        tests.join(" AND ")
    ))
}
