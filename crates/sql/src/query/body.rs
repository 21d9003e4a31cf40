//! Whole queries: WITH, set operations, VALUES, ORDER BY, LIMIT, and queries inside others.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, Expr, LimitClause, OrderByExpr, OrderByKind, Query, SetExpr, SetOperator, SetQuantifier,
};
use sqlparser::tokenizer::Location;

use crate::functions::CastContext;
use crate::plan::OutputColumn;
use crate::types::PgType;

use super::Analyzer;
use super::call::direction;
use super::names::fold;
use super::operators::common_type;
use super::scope::{Cte, Scope, ScopeColumn};
use super::select::Select;
use super::typed::{Node, Typed, key_of};

/// An analyzed query. Its outputs can still be given types; then it is written out.
pub(crate) struct Analyzed {
    /// `WITH …`, or nothing.
    with: String,
    body: Body,
    /// Output names, as PostgreSQL derives them.
    pub(crate) names: Vec<String>,
    /// Outputs are `<prefix>_1`, `<prefix>_2`, … in the SQLite text.
    prefix: String,
    order: Vec<OrderTerm>,
    limit: Option<String>,
    offset: Option<String>,
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
    fn outputs(&self) -> Vec<Typed> {
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
            .map(|(output, name)| OutputColumn {
                name: name.clone(),
                pg_type: output.ty,
                origin: output.origin,
            })
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
                        key_of(ty, &self.column_name(*index)),
                        term.direction
                    )
                }
            })
            .collect()
    }

    fn is_plain(&self) -> bool {
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

/// A side of a set operation: SQLite has no parentheses around them.
fn side(analyzer: &mut Analyzer<'_>, side: Analyzed, is_left: bool) -> Result<String, SqlError> {
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

fn set_operation(
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
        if !query.locks.is_empty() {
            self.locks = true;
        }
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

    fn limits(&mut self, query: &Query, analyzed: &mut Analyzed) -> Result<(), SqlError> {
        let (mut limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(LimitClause::LimitOffset {
                limit,
                offset,
                limit_by,
            }) if limit_by.is_empty() => {
                (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
            }
            Some(_) => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "LIMIT #,# syntax is not supported",
                )
                .with_hint("Use separate LIMIT and OFFSET clauses."));
            }
        };
        let one = Expr::Value(ast::Value::Number("1".to_owned(), false).into());
        if let Some(fetch) = &query.fetch {
            if fetch.with_ties || fetch.percent {
                return Err(SqlError::unsupported("FETCH … WITH TIES or PERCENT"));
            }
            limit = Some(fetch.quantity.as_ref().unwrap_or(&one));
        }
        // LIMIT ALL is LIMIT NULL.
        if let Some(limit) = limit.filter(|limit| !is_word(limit, "all")) {
            analyzed.limit = Some(self.limit_text(limit, "LIMIT")?);
        }
        if let Some(offset) = offset {
            analyzed.offset = Some(self.limit_text(offset, "OFFSET")?);
        }
        Ok(())
    }

    fn limit_text(&mut self, expr: &Expr, construct: &str) -> Result<String, SqlError> {
        // Of what is around it, it sees a program's variables alone.
        let visible = self
            .scopes
            .iter()
            .rposition(|scope| scope.is_frame)
            .map_or(0, |frame| frame + 1);
        let hidden = self.scopes.split_off(visible);
        let value = self.in_scope(
            Scope {
                closed: visible == 0,
                aggregates_refused: Some("LIMIT"),
                windows_refused: Some("LIMIT"),
                ..Scope::default()
            },
            |analyzer| analyzer.expression(expr),
        );
        self.scopes.extend(hidden);
        let value = value?;
        let text = self.coerce(&value, &PgType::Int8, CastContext::Assignment)?;
        Ok(match text.parse::<i64>() {
            Ok(count) if count >= 0 => text,
            _ if construct == "LIMIT" => format!("sh_limit({text})"),
            _ => format!("sh_offset({text})"),
        })
    }

    fn set_expression(
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

    fn set_operation_of(
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

    pub(crate) fn value_rows(&mut self, values: &ast::Values) -> Result<Vec<Vec<Typed>>, SqlError> {
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

    pub(crate) fn exists(&mut self, query: &Query, negated: bool) -> Result<Typed, SqlError> {
        let analyzed = self.subquery(query)?;
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

/// Column names from an alias's list, as far as it goes.
pub(crate) fn renamed_columns(
    mut columns: Vec<ScopeColumn>,
    alias: &ast::TableAlias,
    table: &str,
) -> Result<Vec<ScopeColumn>, SqlError> {
    if alias.columns.len() > columns.len() {
        return Err(SqlError::new(
            ErrorCode::InvalidColumnReference,
            format!(
                "table \"{table}\" has {} columns available but {} columns specified",
                columns.len(),
                alias.columns.len()
            ),
        ));
    }
    for (column, name) in columns.iter_mut().zip(&alias.columns) {
        column.name = fold(&name.name);
    }
    Ok(columns)
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

fn is_word(expr: &Expr, word: &str) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case(word))
}
