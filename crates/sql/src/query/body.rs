//! Whole queries: WITH, set operations, VALUES, ORDER BY, LIMIT, and queries inside others.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Expr, OrderByExpr, OrderByKind, Query, SetExpr, SetOperator};
use sqlparser::tokenizer::Location;

use crate::functions::CastContext;
use crate::plan::OutputColumn;
use crate::types::PgType;

use super::Analyzer;
use super::call::direction;
use super::names::fold;
use super::scope::{Scope, ScopeColumn};
use super::select::Select;
use super::set_operation::set_operation;
use super::typed::{Node, Typed, key_of, order_of};

/// An analyzed query. Its outputs can still be given types; then it is written out.
pub(crate) struct Analyzed {
    /// `WITH …`, or nothing.
    with: String,
    pub(super) body: Body,
    /// Output names, as PostgreSQL derives them.
    pub(crate) names: Vec<String>,
    /// Outputs are `<prefix>_1`, `<prefix>_2`, … in the SQLite text.
    prefix: String,
    order: Vec<OrderTerm>,
    pub(super) limit: Option<String>,
    pub(super) offset: Option<String>,
}

/// What a query computes before ORDER BY and LIMIT.
pub(crate) enum Body {
    Select(Box<Select>),
    Values(Vec<Vec<Typed>>),
    Set {
        operator: SetOperator,
        all: bool,
        left: Box<Analyzed>,
        right: Box<Analyzed>,
    },
}

/// One term of ORDER BY.
pub(crate) struct OrderTerm {
    pub(crate) key: OrderKey,
    pub(crate) direction: &'static str,
}

/// What a term of ORDER BY orders by.
pub(crate) enum OrderKey {
    /// An output, from 0.
    Output(usize),
    /// Anything else a plain SELECT can compute.
    Expression(String),
}

impl Analyzed {
    pub(crate) fn new(body: Body, names: Vec<String>, prefix: String) -> Analyzed {
        Analyzed {
            with: String::new(),
            body,
            names,
            prefix,
            order: Vec::new(),
            limit: None,
            offset: None,
        }
    }

    /// The outputs' types; [`PgType::Unknown`] where still open.
    pub(crate) fn types(&self) -> Vec<PgType> {
        self.outputs()
            .iter()
            .map(|output| output.ty.clone())
            .collect()
    }

    /// The outputs, of a set operation or VALUES the first part's.
    pub(super) fn outputs(&self) -> Vec<Typed> {
        match &self.body {
            Body::Select(select) => select.items.clone(),
            Body::Values(rows) => {
                let mut first = rows[0].clone();
                for (index, value) in first.iter_mut().enumerate() {
                    value.nullable = rows.iter().any(|row| row[index].nullable);
                    value.origin = None;
                }
                first
            }
            Body::Set { left, right, .. } => {
                let mut outputs = left.outputs();
                for (output, other) in outputs.iter_mut().zip(right.outputs()) {
                    output.nullable |= other.nullable;
                    output.origin = None;
                    // Constants of one side are columns of the whole.
                    if output.is_constant() && !output.is_unknown() {
                        output.node = Node::Sql(String::new());
                    }
                }
                outputs
            }
        }
    }

    /// The SQLite name of an output.
    pub(crate) fn column_name(&self, index: usize) -> String {
        format!("\"{}_{}\"", self.prefix, index + 1)
    }

    /// Converts outputs to these types.
    pub(crate) fn convert(
        &mut self,
        analyzer: &mut Analyzer<'_>,
        targets: &[PgType],
        context: CastContext,
    ) -> Result<(), SqlError> {
        match &mut self.body {
            Body::Select(select) => {
                for (item, target) in select.items.iter_mut().zip(targets) {
                    *item = analyzer.converted(item, target, context)?;
                }
            }
            Body::Values(rows) => {
                for row in rows {
                    for (value, target) in row.iter_mut().zip(targets) {
                        *value = analyzer.converted(value, target, context)?;
                    }
                }
            }
            Body::Set { left, right, .. } => {
                left.convert(analyzer, targets, context)?;
                right.convert(analyzer, targets, context)?;
            }
        }
        Ok(())
    }

    /// Gives outputs that are still open the type text.
    pub(crate) fn settle(&mut self, analyzer: &mut Analyzer<'_>) -> Result<(), SqlError> {
        let types = self.types();
        if types.contains(&PgType::Unknown) {
            let targets: Vec<PgType> = types
                .into_iter()
                .map(|ty| {
                    if ty == PgType::Unknown {
                        PgType::Text
                    } else {
                        ty
                    }
                })
                .collect();
            self.convert(analyzer, &targets, CastContext::Implicit)?;
        }
        Ok(())
    }

    /// Makes an output what a comparison in `ty` compares: for `IN (subquery)`.
    pub(crate) fn compare_column_as(
        &mut self,
        analyzer: &mut Analyzer<'_>,
        index: usize,
        ty: &PgType,
    ) -> Result<(), SqlError> {
        let mut targets = self.types();
        let integers = targets[index].is_integer() && ty.is_integer();
        let strings = targets[index].is_string() && ty.is_string();
        if !integers && !strings {
            targets[index] = ty.clone();
            self.convert(analyzer, &targets, CastContext::Implicit)?;
        }
        if ty.key_function().is_some() {
            self.settle(analyzer)?;
            let outputs = self.outputs();
            let inner = std::mem::replace(
                self,
                Analyzed::new(Body::Values(vec![Vec::new()]), Vec::new(), String::new()),
            );
            let names = inner.names.clone();
            let mut items: Vec<Typed> = outputs
                .iter()
                .enumerate()
                .map(|(place, output)| Typed::new(inner.column_name(place), output.ty.clone()))
                .collect();
            items[index] = Typed::new(key_of(ty, &inner.column_name(index)), ty.clone());
            let id = analyzer.fresh('r');
            let from = format!("({}) AS {id}", inner.into_sql(analyzer)?);
            let select = Select {
                items,
                from: Some(from),
                ..Select::default()
            };
            *self = Analyzed::new(Body::Select(Box::new(select)), names, analyzer.fresh('q'));
        }
        Ok(())
    }

    /// The outputs as columns of a derived table with that alias.
    pub(crate) fn columns(&self, id: &str) -> Vec<ScopeColumn> {
        self.outputs()
            .into_iter()
            .enumerate()
            .map(|(index, output)| ScopeColumn {
                name: self.names[index].clone(),
                sql: format!("{id}.{}", self.column_name(index)),
                ty: Analyzer::settled(&output),
                nullable: output.nullable,
                origin: output.origin,
                used: None,
            })
            .collect()
    }

    /// The SQLite text and the columns that a client is told of.
    pub(crate) fn into_top_level(
        mut self,
        analyzer: &mut Analyzer<'_>,
    ) -> Result<(String, Arc<[OutputColumn]>), SqlError> {
        self.settle(analyzer)?;
        let columns = self
            .outputs()
            .into_iter()
            .zip(&self.names)
            .map(|(output, name)| output.into_column(name.clone()))
            .collect();
        Ok((self.into_sql(analyzer)?, columns))
    }

    /// The SQLite text.
    pub(crate) fn into_sql(mut self, analyzer: &mut Analyzer<'_>) -> Result<String, SqlError> {
        self.settle(analyzer)?;
        let names: Vec<String> = (0..self.names.len())
            .map(|index| self.column_name(index))
            .collect();
        let outputs = self.outputs();
        let order = self.order_text(&outputs);
        let mut sql = self.with;
        match self.body {
            Body::Select(select) => sql.push_str(&select.into_sql(analyzer, &names, &order)?),
            Body::Values(rows) => {
                let mut texts = Vec::with_capacity(rows.len());
                for row in &rows {
                    let values = row
                        .iter()
                        .map(|value| analyzer.text(value))
                        .collect::<Result<Vec<_>, _>>()?;
                    texts.push(format!("({})", values.join(",")));
                }
                let columns: Vec<String> = names
                    .iter()
                    .enumerate()
                    .map(|(index, name)| format!("column{} AS {name}", index + 1))
                    .collect();
                sql.push_str(&format!(
                    "SELECT {} FROM (VALUES {})",
                    columns.join(","),
                    texts.join(",")
                ));
                push_order(&mut sql, &order);
            }
            Body::Set {
                operator,
                all,
                left,
                right,
            } => {
                let compound = set_operation(analyzer, operator, all, *left, *right, &names)?;
                if order.is_empty() && self.limit.is_none() && self.offset.is_none() {
                    sql.push_str(&compound);
                } else {
                    sql.push_str(&format!("SELECT {} FROM ({compound})", names.join(",")));
                    push_order(&mut sql, &order);
                }
            }
        }
        match (self.limit, self.offset) {
            (None, None) => {}
            (Some(limit), None) => sql.push_str(&format!(" LIMIT {limit}")),
            (limit, Some(offset)) => {
                sql.push_str(&format!(
                    " LIMIT {} OFFSET {offset}",
                    limit.unwrap_or_else(|| "-1".to_owned())
                ));
            }
        }
        Ok(sql)
    }

    fn order_text(&self, outputs: &[Typed]) -> Vec<String> {
        self.order
            .iter()
            .map(|term| match &term.key {
                OrderKey::Expression(sql) => format!("{sql}{}", term.direction),
                OrderKey::Output(index) => {
                    let ty = &outputs[*index].ty;
                    format!(
                        "{}{}",
                        order_of(ty, &self.column_name(*index)),
                        term.direction
                    )
                }
            })
            .collect()
    }

    pub(super) fn is_plain(&self) -> bool {
        self.with.is_empty()
            && self.order.is_empty()
            && self.limit.is_none()
            && self.offset.is_none()
    }
}

pub(crate) fn push_order(sql: &mut String, order: &[String]) {
    if !order.is_empty() {
        sql.push_str(" ORDER BY ");
        sql.push_str(&order.join(","));
    }
}

impl Analyzer<'_> {
    /// Analyzes a query in a scope of its own.
    pub(crate) fn query(&mut self, query: &Query) -> Result<Analyzed, SqlError> {
        self.in_scope(Scope::default(), |analyzer| analyzer.query_inside(query))
    }

    /// A query inside an expression.
    pub(crate) fn subquery(&mut self, query: &Query) -> Result<Analyzed, SqlError> {
        if self.rules.no_subqueries {
            let place = self.rules.place.unwrap_or("this place");
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                format!("cannot use subquery in {place}"),
            ));
        }
        self.query(query)
    }

    fn query_inside(&mut self, query: &Query) -> Result<Analyzed, SqlError> {
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return Err(SqlError::unsupported("this clause of a query"));
        }
        self.note_locks(query)?;
        let with = match &query.with {
            Some(with) => self.with(with)?,
            None => String::new(),
        };
        let order: &[OrderByExpr] = match &query.order_by {
            None => &[],
            Some(ast::OrderBy {
                kind: OrderByKind::Expressions(terms),
                interpolate: None,
            }) => terms,
            Some(_) => return Err(SqlError::unsupported("ORDER BY ALL")),
        };
        let mut analyzed = self.set_expression(&query.body, order)?;
        analyzed.with = if analyzed.with.is_empty() {
            with
        } else {
            with + &analyzed.with
        };
        self.limits(query, &mut analyzed)?;
        Ok(analyzed)
    }

    pub(super) fn set_expression(
        &mut self,
        body: &SetExpr,
        order: &[OrderByExpr],
    ) -> Result<Analyzed, SqlError> {
        match body {
            SetExpr::Select(select) => match self.without_grouping_sets(select, order)? {
                Some(query) => self.nested(|analyzer| analyzer.query(&query)),
                None => self.select(select, order),
            },
            SetExpr::Query(query) => {
                let mut analyzed = self.nested(|analyzer| analyzer.query(query))?;
                if !order.is_empty() {
                    if !analyzed.is_plain() {
                        return Err(SqlError::unsupported(
                            "ORDER BY of a parenthesized query with one of its own",
                        ));
                    }
                    self.order_outputs(&mut analyzed, order)?;
                }
                Ok(analyzed)
            }
            SetExpr::Values(values) => {
                let mut analyzed = self.values(values)?;
                self.order_outputs(&mut analyzed, order)?;
                Ok(analyzed)
            }
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => {
                let mut analyzed =
                    self.nested(|a| a.set_operation_of(left, *op, *set_quantifier, right))?;
                self.order_outputs(&mut analyzed, order)?;
                Ok(analyzed)
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                Err(SqlError::new(
                    ErrorCode::FeatureNotSupported,
                    "WITH clause containing a data-modifying statement must be at the top level",
                ))
            }
            SetExpr::Table(_) => Err(SqlError::unsupported("TABLE as a query")),
        }
    }

    /// VALUES as a query of its own: one type for each column.
    fn values(&mut self, values: &ast::Values) -> Result<Analyzed, SqlError> {
        let rows = self.value_rows(values)?;
        let width = rows[0].len();
        let mut targets = Vec::with_capacity(width);
        for column in 0..width {
            let all: Vec<&Typed> = rows.iter().map(|row| &row[column]).collect();
            targets.push(self.common_type_of("VALUES", &all)?);
        }
        let names = (1..=width).map(|n| format!("column{n}")).collect();
        let mut analyzed = Analyzed::new(Body::Values(rows), names, self.fresh('q'));
        analyzed.convert(self, &targets, CastContext::Implicit)?;
        Ok(analyzed)
    }

    fn value_rows(&mut self, values: &ast::Values) -> Result<Vec<Vec<Typed>>, SqlError> {
        let mut rows: Vec<Vec<Typed>> = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            let row = row
                .content
                .iter()
                .map(|value| self.expression(value))
                .collect::<Result<Vec<_>, _>>()?;
            if row.len() != rows.first().map_or(row.len(), Vec::len) {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "VALUES lists must all be the same length",
                ));
            }
            rows.push(row);
        }
        if rows.is_empty() || rows[0].is_empty() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "syntax error at or near \")\"",
            ));
        }
        Ok(rows)
    }

    /// ORDER BY where only outputs can be named.
    fn order_outputs(
        &mut self,
        analyzed: &mut Analyzed,
        order: &[OrderByExpr],
    ) -> Result<(), SqlError> {
        if order.is_empty() {
            return Ok(());
        }
        analyzed.settle(self)?;
        let outputs = analyzed.outputs();
        for term in order {
            let Some(index) = self.output_named(&term.expr, &analyzed.names, "ORDER BY")? else {
                return Err(SqlError::unsupported(
                    "ORDER BY of a set operation by anything but its output columns",
                ));
            };
            let direction = direction(&term.options, outputs[index].nullable)?;
            analyzed.order.push(OrderTerm {
                key: OrderKey::Output(index),
                direction,
            });
        }
        Ok(())
    }

    /// The output that a term names by its place or its name; `None` if it names none.
    pub(crate) fn output_named(
        &mut self,
        expr: &Expr,
        names: &[String],
        construct: &str,
    ) -> Result<Option<usize>, SqlError> {
        match expr {
            Expr::Value(value) => match &value.value {
                ast::Value::Number(text, false) => {
                    let place = text
                        .parse::<usize>()
                        .ok()
                        .filter(|&n| n > 0 && n <= names.len());
                    place.map(|n| Some(n - 1)).ok_or_else(|| {
                        let error = SqlError::new(
                            ErrorCode::InvalidColumnReference,
                            format!("{construct} position {text} is not in select list"),
                        );
                        self.at(error, value.span.start)
                    })
                }
                // A lifted literal might have been a place.
                ast::Value::Placeholder(placeholder) => {
                    let index = self.parameter(placeholder)?;
                    if self.is_lifted(index) {
                        return Err(SqlError::unsupported(format_args!(
                            "a lifted literal in {construct}"
                        )));
                    }
                    Ok(None)
                }
                _ => {
                    let error = SqlError::new(
                        ErrorCode::SyntaxError,
                        format!("non-integer constant in {construct}"),
                    );
                    Err(self.at(error, value.span.start))
                }
            },
            Expr::Identifier(ident) => {
                let name = fold(ident);
                let mut found = names
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| **other == name);
                let first = found.next().map(|(index, _)| index);
                if let (Some(_), Some(_), true) = (first, found.next(), construct == "ORDER BY") {
                    let error = SqlError::new(
                        ErrorCode::AmbiguousColumn,
                        format!("{construct} \"{name}\" is ambiguous"),
                    );
                    return Err(self.at(error, ident.span.start));
                }
                Ok(first)
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn push_order_term(analyzed: &mut Analyzed, term: OrderTerm) {
        analyzed.order.push(term);
    }

    pub(crate) fn exists(&mut self, query: &Query, negated: bool) -> Result<Typed, SqlError> {
        let mut query = std::borrow::Cow::Borrowed(query);
        if let ast::SetExpr::Select(select) = &*query.body
            && select.projection.is_empty()
            && let ast::SetExpr::Select(select) = &mut *query.to_mut().body
        {
            // What it puts out is of no interest: `EXISTS (SELECT FROM …)`.
            let one = ast::Value::Number("1".to_owned(), false).into();
            (select.projection).push(ast::SelectItem::UnnamedExpr(ast::Expr::Value(one)));
        }
        let analyzed = self.subquery(&query)?;
        let sql = analyzed.into_sql(self)?;
        let not = if negated { "NOT " } else { "" };
        Ok(Typed::bool(format!("({not}EXISTS ({sql}))")).not_null())
    }

    /// `(SELECT …)` as a value: no row is NULL, two rows are an error.
    pub(crate) fn scalar_subquery(
        &mut self,
        query: &Query,
        place: Location,
    ) -> Result<Typed, SqlError> {
        let mut analyzed = self.subquery(query)?;
        if analyzed.names.len() != 1 {
            let error = SqlError::new(
                ErrorCode::SyntaxError,
                "subquery must return only one column",
            );
            return Err(self.at(error, place));
        }
        let single = match &analyzed.body {
            // A grouping-free aggregate and a bare SELECT give exactly one row.
            Body::Select(select) => {
                select.is_single_row() || analyzed.limit.as_deref() == Some("1")
            }
            Body::Values(rows) => rows.len() == 1,
            Body::Set { .. } => false,
        };
        analyzed.settle(self)?;
        let ty = analyzed.types().remove(0);
        let name = analyzed.column_name(0);
        let sql = analyzed.into_sql(self)?;
        if single {
            return Ok(Typed::new(format!("({sql})"), ty));
        }
        let id = self.fresh('r');
        Ok(Typed::new(
            format!(
                "(SELECT iif(count(*) OVER ()>1,sh_second_row(),{id}.{name}) FROM (SELECT * FROM ({sql}) LIMIT 2) AS {id} LIMIT 1)"
            ),
            ty,
        ))
    }
}
