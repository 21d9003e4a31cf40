//! WITH: common table expressions, plain and recursive.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};

use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::names::fold;
use super::operators::common_type;
use super::scope::renamed_columns;
use super::scope::{Cte, Scope, ScopeColumn};
use super::set_operation::side;

impl Analyzer<'_> {
    pub(crate) fn with(&mut self, with: &ast::With) -> Result<String, SqlError> {
        let mut texts = Vec::with_capacity(with.cte_tables.len());
        for cte in &with.cte_tables {
            let name = fold(&cte.alias.name);
            if self.scope().ctes.iter().any(|other| other.name == name) {
                let error = SqlError::new(
                    ErrorCode::DuplicateAlias,
                    format!("WITH query name \"{name}\" specified more than once"),
                );
                return Err(self.at(error, cte.alias.name.span.start));
            }
            let id = self.fresh('w');
            let text = match &*cte.query.body {
                SetExpr::SetOperation {
                    left,
                    op: SetOperator::Union,
                    set_quantifier,
                    right,
                } if with.recursive && mentions(right, &name) => {
                    self.recursive_cte(cte, &name, &id, left, *set_quantifier, right)?
                }
                _ => self.plain_cte(cte, &name, &id)?,
            };
            texts.push(text);
        }
        let recursive = if with.recursive { "RECURSIVE " } else { "" };
        Ok(format!("WITH {recursive}{} ", texts.join(",")))
    }

    fn plain_cte(&mut self, cte: &ast::Cte, name: &str, id: &str) -> Result<String, SqlError> {
        let mut analyzed = self.query(&cte.query)?;
        analyzed.settle(self)?;
        let columns = renamed_columns(analyzed.columns("\u{1}"), &cte.alias, name)?;
        let (columns, list) = cte_columns(columns, id);
        let sql = analyzed.into_sql(self)?;
        self.scope().ctes.push(Cte {
            name: name.to_owned(),
            id: id.to_owned(),
            columns,
        });
        Ok(format!("{id}({list}) AS ({sql})"))
    }

    fn recursive_cte(
        &mut self,
        cte: &ast::Cte,
        name: &str,
        id: &str,
        start: &SetExpr,
        quantifier: SetQuantifier,
        step: &SetExpr,
    ) -> Result<String, SqlError> {
        let query = &cte.query;
        if query.order_by.is_some()
            || query.limit_clause.is_some()
            || query.fetch.is_some()
            || query.with.is_some()
        {
            return Err(SqlError::unsupported(
                "ORDER BY, LIMIT or WITH in a recursive query",
            ));
        }
        let mut first = self.in_scope(Scope::default(), |analyzer| {
            analyzer.set_expression(start, &[])
        })?;
        first.settle(self)?;
        let types = first.types();
        let mut columns = renamed_columns(first.columns("\u{1}"), &cte.alias, name)?;
        for column in &mut columns {
            column.nullable = true;
            column.origin = None;
        }
        let (columns, list) = cte_columns(columns, id);
        self.scope().ctes.push(Cte {
            name: name.to_owned(),
            id: id.to_owned(),
            columns,
        });
        let mut second = self.in_scope(Scope::default(), |analyzer| {
            analyzer.set_expression(step, &[])
        })?;
        let step_types = second.types();
        if step_types.len() != types.len() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "each UNION query must have the same number of columns",
            ));
        }
        for (index, (ty, step)) in types.iter().zip(&step_types).enumerate() {
            // PostgreSQL takes the types from the first part and does not widen them.
            if *step != PgType::Unknown
                && common_type(&[ty, step]).is_none_or(|common| !common.same_base(ty))
            {
                return Err(SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    format!(
                        "recursive query \"{name}\" column {} has type {} in non-recursive term but type {} overall",
                        index + 1,
                        ty.base_name(),
                        step.base_name()
                    ),
                )
                .with_hint("Cast the output of the non-recursive term to the correct type."));
            }
        }
        second.convert(self, &types, CastContext::Implicit)?;
        let all = if quantifier == SetQuantifier::All {
            " ALL"
        } else {
            ""
        };
        let first = side(self, first, true)?;
        let second = side(self, second, false)?;
        Ok(format!("{id}({list}) AS ({first} UNION{all} {second})"))
    }
}

/// A common table expression's columns, named `o1`, `o2`, … in SQLite.
fn cte_columns(mut columns: Vec<ScopeColumn>, _id: &str) -> (Vec<ScopeColumn>, String) {
    let mut list = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter_mut().enumerate() {
        column.sql = format!("\"o{}\"", index + 1);
        list.push(column.sql.clone());
    }
    (columns, list.join(","))
}

/// Whether a query names a table (or a common table expression) so.
fn mentions(body: &SetExpr, name: &str) -> bool {
    use std::ops::ControlFlow;
    let found = ast::visit_relations(body, |relation| {
        let is_it = matches!(relation.0.as_slice(), [part] if part.as_ident().is_some_and(|ident| fold(ident) == name));
        if is_it {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    found.is_break()
}
