//! SELECT: outputs, WHERE, GROUP BY, HAVING, DISTINCT, and what ORDER BY can name.

use std::ops::ControlFlow;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, Distinct, Expr, GroupByExpr, OrderByExpr, SelectItem, SelectItemQualifiedWildcardKind,
};

use crate::functions::{Class, signatures};
use crate::types::PgType;

use super::Analyzer;
use super::body::{Analyzed, Body, OrderKey, OrderTerm, push_order};
use super::call::direction;
use super::names::{self, fold};
use super::reference::push_down;
use super::scope::{Grouping, ScopeColumn};
use super::typed::{Node, Typed, key_of};

/// An analyzed SELECT.
#[derive(Debug, Default)]
pub(crate) struct Select {
    pub(crate) items: Vec<Typed>,
    pub(crate) from: Option<String>,
    pub(crate) condition: Option<String>,
    pub(crate) group: Vec<String>,
    pub(crate) having: Option<String>,
    pub(crate) distinct: Option<Unique>,
    pub(crate) is_aggregate: bool,
}

/// How double rows are taken out.
#[derive(Debug)]
pub(crate) enum Unique {
    /// By all outputs.
    All,
    /// DISTINCT ON these keys; the terms say which row of each stays, and how rows are ordered.
    On(Vec<String>),
}

impl Select {
    /// Whether it always returns one row at most.
    pub(crate) fn is_single_row(&self) -> bool {
        self.from.is_none() || self.is_aggregate && self.group.is_empty()
    }

    /// Whether it can be a side of a set operation as it is.
    pub(crate) fn is_plain(&self) -> bool {
        !matches!(self.distinct, Some(Unique::On(_))) && !self.has_keyed_distinct()
    }

    fn has_keyed_distinct(&self) -> bool {
        self.distinct.is_some()
            && self
                .items
                .iter()
                .any(|item| item.ty.key_function().is_some())
    }

    /// The SQLite text; `names` are the outputs' quoted names.
    pub(crate) fn into_sql(
        self,
        analyzer: &mut Analyzer<'_>,
        names: &[String],
        order: &[String],
    ) -> Result<String, SqlError> {
        let mut outputs = Vec::with_capacity(self.items.len());
        for (item, name) in self.items.iter().zip(names) {
            outputs.push(format!("{} AS {name}", analyzer.text(item)?));
        }
        let keyed = self.has_keyed_distinct();
        let mut tail = String::new();
        if let Some(from) = &self.from {
            tail.push_str(&format!(" FROM {from}"));
        }
        if let Some(condition) = &self.condition {
            tail.push_str(&format!(" WHERE {condition}"));
        }
        if !self.group.is_empty() {
            tail.push_str(&format!(" GROUP BY {}", self.group.join(",")));
        }
        if let Some(having) = &self.having {
            tail.push_str(&format!(" HAVING {having}"));
        }
        match &self.distinct {
            Some(Unique::On(keys)) => Ok(first_of_each(&outputs, names, &tail, keys, order)),
            Some(Unique::All) if keyed => {
                let keys: Vec<String> = self
                    .items
                    .iter()
                    .zip(names)
                    .map(|(item, name)| key_of(&item.ty, name))
                    .collect();
                let mut sql = format!(
                    "SELECT {list} FROM (SELECT {list},row_number() OVER (PARTITION BY {keys}) AS n \
                     FROM (SELECT {outputs}{tail})) WHERE n=1",
                    list = names.join(","),
                    keys = keys.join(","),
                    outputs = outputs.join(",")
                );
                push_order(&mut sql, order);
                Ok(sql)
            }
            unique => {
                let distinct = if unique.is_some() { "DISTINCT " } else { "" };
                let mut sql = format!("SELECT {distinct}{}{tail}", outputs.join(","));
                push_order(&mut sql, order);
                Ok(sql)
            }
        }
    }
}

/// DISTINCT ON: the first row of each set of equal keys, in the query's order.
fn first_of_each(
    outputs: &[String],
    names: &[String],
    tail: &str,
    keys: &[String],
    order: &[String],
) -> String {
    // Orders are computed inside, where their columns are; outside they have names of their own.
    let mut inner_order = Vec::with_capacity(order.len());
    let mut computed = Vec::with_capacity(order.len());
    let mut outer_order = Vec::with_capacity(order.len());
    for (index, term) in order.iter().enumerate() {
        let (expression, direction) = split_direction(term);
        // An output's name is unknown within the window: what it stands for is written there.
        let expression = names
            .iter()
            .zip(outputs)
            .find(|(name, _)| expression.contains(name.as_str()))
            .map_or_else(
                || expression.to_owned(),
                |(name, output)| {
                    let text = output
                        .strip_suffix(&format!(" AS {name}"))
                        .unwrap_or(output);
                    expression.replace(name.as_str(), text)
                },
            );
        inner_order.push(format!("{expression}{direction}"));
        computed.push(format!("{expression} AS s{index}"));
        outer_order.push(format!("s{index}{direction}"));
    }
    let over = if inner_order.is_empty() {
        format!("PARTITION BY {}", keys.join(","))
    } else {
        format!(
            "PARTITION BY {} ORDER BY {}",
            keys.join(","),
            inner_order.join(",")
        )
    };
    let mut all = outputs.to_vec();
    all.extend(computed);
    all.push(format!("row_number() OVER ({over}) AS n"));
    let mut sql = format!(
        "SELECT {} FROM (SELECT {}{tail}) WHERE n=1",
        names.join(","),
        all.join(",")
    );
    push_order(&mut sql, &outer_order);
    sql
}

fn split_direction(term: &str) -> (&str, &str) {
    for direction in [" DESC NULLS FIRST", " NULLS LAST", " DESC"] {
        if let Some(expression) = term.strip_suffix(direction) {
            return (expression, direction);
        }
    }
    (term, "")
}

impl Analyzer<'_> {
    /// Analyzes a SELECT into the innermost scope, which is its own.
    pub(crate) fn select(
        &mut self,
        select: &ast::Select,
        order: &[OrderByExpr],
    ) -> Result<Analyzed, SqlError> {
        refuse_foreign_clauses(select)?;
        let mut result = Select {
            from: self.add_from(&select.from)?,
            ..Select::default()
        };
        self.scope().windows.clone_from(&select.named_window);
        if let Some(condition) = &select.selection {
            result.condition =
                Some(self.without_aggregates("WHERE", |a| a.condition(condition, "WHERE"))?);
        }
        if let (Some(from), Some(condition)) = (&mut result.from, &result.condition) {
            push_down(from, condition);
        }
        self.sets_of_outputs(select, &mut result)?;
        let output_names = self.preliminary_names(&select.projection);
        let group = self.group_by(select, &output_names)?;
        let is_grouped = group.is_some() || select.having.is_some();
        if let Some(grouping) = group {
            self.enter_grouping(grouping, &mut result)?;
        } else if is_grouped || self.mentions_aggregate(select, order) {
            self.scope().grouping = Some(Grouping::default());
        }
        let mut names = self.select_items(&select.projection, &mut result)?;
        if let Some(having) = &select.having {
            let text = self.condition(having, "HAVING")?;
            result.having = Some(text);
        }
        let terms = self.select_order(order, &names, &mut result, select.distinct.is_some())?;
        self.distinct(select.distinct.as_ref(), &names, &terms, &mut result)?;
        self.check_grouping()?;
        result.is_aggregate = self.scope().has_aggregates || is_grouped;
        if result.having.is_some() && result.group.is_empty() {
            // SQLite wants a GROUP BY or an aggregate beside HAVING.
            result.group.push("iif(1,0,0)".to_owned());
        }
        self.probe_live(select, &mut result, &mut names)?;
        let prefix = self.fresh('q');
        let mut analyzed = Analyzed::new(Body::Select(Box::new(result)), names, prefix);
        for term in terms {
            Self::push_order_term(&mut analyzed, term);
        }
        Ok(analyzed)
    }

    /// A set-returning function among the outputs multiplies the rows, as one in FROM does.
    fn sets_of_outputs(
        &mut self,
        select: &ast::Select,
        result: &mut Select,
    ) -> Result<(), SqlError> {
        let mut found: Vec<ast::Function> = Vec::new();
        for item in &select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                let mut finder = FunctionFinder {
                    wanted: &is_set_returning,
                    found: &mut found,
                    inside: 0,
                };
                let _ = ast::Visit::visit(expr, &mut finder);
            }
        }
        found.dedup();
        if found.len() > 1 {
            return self.sets_together(found, result);
        }
        for function in found {
            let (sql, column) = self.set_in_outputs(&function)?;
            add_from(result, sql);
            self.scope().sets.push((function, column));
        }
        Ok(())
    }

    /// Several go on side by side, row by row; those that end first are NULL from there on.
    fn sets_together(
        &mut self,
        found: Vec<ast::Function>,
        result: &mut Select,
    ) -> Result<(), SqlError> {
        let id = self.fresh('r');
        let mut lengths = Vec::with_capacity(found.len());
        let mut columns = Vec::with_capacity(found.len());
        for function in &found {
            let (length, column) = self.walked(function, &id)?;
            lengths.push(length);
            columns.push(column);
        }
        // Of one alone SQLite's max() would be the aggregate.
        add_from(
            result,
            format!(
                "json_each(sh_series(1,max({},0),1)) AS {id}",
                lengths.join(",")
            ),
        );
        self.scope().sets.extend(found.into_iter().zip(columns));
        Ok(())
    }

    /// How many rows a function over an array gives, and its value in the row `id.value`.
    fn walked(
        &mut self,
        function: &ast::Function,
        id: &str,
    ) -> Result<(String, ScopeColumn), SqlError> {
        let refused =
            || SqlError::unsupported("several set-returning functions in one select list");
        let (_, name) = super::names::schema_and_name(&function.name)?;
        let ast::FunctionArguments::List(list) = &function.args else {
            return Err(refused());
        };
        let mut args = Vec::with_capacity(2);
        for arg in &list.args {
            let ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) = arg else {
                return Err(refused());
            };
            args.push(self.expression(expr)?);
        }
        let element = args.first().and_then(|array| array.ty.element().cloned());
        let (Some(array), Some(element)) = (args.first(), element) else {
            return Err(refused());
        };
        let text = self.text(array)?;
        let length = format!("coalesce(json_array_length({text}),0)");
        let is_vector = matches!(array.ty, PgType::Int2Vector | PgType::OidVector);
        let (sql, ty) = match (name.as_str(), args.get(1)) {
            ("unnest", None) => (
                format!(
                    "sh_array_get({text},{id}.value,{},{})",
                    element.at_run_time().0,
                    element.at_run_time().1
                ),
                element,
            ),
            ("generate_subscripts", Some(dimension)) => {
                let dimension = self.text(dimension)?;
                let first = i32::from(is_vector);
                (
                    format!("iif({dimension}=1 AND {id}.value<={length},{id}.value-{first},NULL)"),
                    PgType::Int4,
                )
            }
            _ => return Err(refused()),
        };
        let column = ScopeColumn {
            name,
            sql,
            ty,
            nullable: true,
            origin: None,
            used: None,
        };
        Ok((length, column))
    }

    fn without_aggregates<T>(
        &mut self,
        place: &'static str,
        analyze: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.scope().aggregates_refused = Some(place);
        self.scope().windows_refused = Some(place);
        let result = analyze(self);
        self.scope().aggregates_refused = None;
        self.scope().windows_refused = None;
        result
    }

    /// The names that GROUP BY can use for outputs: aliases and plain columns.
    fn preliminary_names(&self, projection: &[SelectItem]) -> Vec<String> {
        projection
            .iter()
            .map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => fold(alias),
                SelectItem::UnnamedExpr(expr) => output_name(expr),
                _ => String::new(),
            })
            .collect()
    }

    /// The expressions grouped by, in storage texts; `None` without GROUP BY.
    fn group_by(
        &mut self,
        select: &ast::Select,
        names: &[String],
    ) -> Result<Option<Vec<Typed>>, SqlError> {
        let expressions = match &select.group_by {
            GroupByExpr::Expressions(expressions, modifiers) if modifiers.is_empty() => expressions,
            GroupByExpr::Expressions(..) => return Err(SqlError::unsupported("GROUP BY … WITH")),
            GroupByExpr::All(_) => return Err(SqlError::unsupported("GROUP BY ALL")),
        };
        if expressions.is_empty() {
            return Ok(None);
        }
        let mut keys = Vec::with_capacity(expressions.len());
        for expression in expressions {
            let output = match expression {
                // A column of FROM comes before an output of that name.
                Expr::Identifier(ident)
                    if self.scope().columns.iter().any(|c| c.name == fold(ident)) =>
                {
                    None
                }
                other => self.output_named(other, names, "GROUP BY")?,
            };
            let expression = match output.map(|index| &select.projection[index]) {
                Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => {
                    expr
                }
                Some(_) => return Err(SqlError::unsupported("GROUP BY a place within *")),
                None => expression,
            };
            if let Expr::Tuple(values) = expression
                && values.is_empty()
            {
                continue;
            }
            let key = self.without_aggregates("GROUP BY", |a| a.expression(expression))?;
            match key.node {
                Node::Row(values) => keys.extend(values),
                _ => keys.push(key),
            }
        }
        Ok(Some(keys))
    }

    fn enter_grouping(&mut self, keys: Vec<Typed>, result: &mut Select) -> Result<(), SqlError> {
        let mut grouping = Grouping::default();
        for key in &keys {
            let ty = Self::settled(key);
            let text = self.text(key)?;
            // SQLite would take a bare number for the place of an output.
            let by = match key.node {
                Node::Sql(_) if text.trim_matches(['(', ')', '-']).parse::<f64>().is_err() => {
                    key_of(&ty, &text)
                }
                _ => format!("iif(1,{text},0)"),
            };
            if let Some(probe) = &mut self.live {
                probe.note_group(&ty, &by);
            }
            result.group.push(by);
            grouping.keys.push(text);
        }
        if result.group.is_empty() {
            result.group.push("iif(1,0,0)".to_owned());
        }
        for relation in &self.scope().relations {
            let determined = !relation.key.is_empty()
                && relation
                    .key
                    .iter()
                    .all(|column| grouping.keys.contains(column));
            if determined {
                grouping.determined.push(relation.id.clone());
            }
        }
        self.scope().grouping = Some(grouping);
        Ok(())
    }

    /// Whether an aggregate is called by this query itself.
    fn mentions_aggregate(&self, select: &ast::Select, order: &[OrderByExpr]) -> bool {
        let items = select.projection.iter().filter_map(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
            _ => None,
        });
        items
            .chain(order.iter().map(|term| &term.expr))
            .any(has_aggregate)
    }

    /// Analyzes the outputs; their names.
    pub(crate) fn select_items(
        &mut self,
        projection: &[SelectItem],
        result: &mut Select,
    ) -> Result<Vec<String>, SqlError> {
        let mut out = Vec::with_capacity(projection.len());
        for item in projection {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    result.items.push(self.output(expr)?);
                    out.push(output_name(expr));
                }
                SelectItem::ExprWithAlias { alias, .. } if alias.quote_style == Some('\'') => {
                    let error = SqlError::new(
                        ErrorCode::SyntaxError,
                        format!("syntax error at or near \"'{}'\"", alias.value),
                    );
                    return Err(self.at(error, alias.span.start));
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    result.items.push(self.output(expr)?);
                    out.push(fold(alias));
                }
                SelectItem::Wildcard(options) => {
                    refuse_wildcard_options(options)?;
                    let columns = self.scope().columns.clone();
                    if columns.is_empty() && self.scope().relations.is_empty() {
                        return Err(SqlError::new(
                            ErrorCode::SyntaxError,
                            "SELECT * with no tables specified is not valid",
                        ));
                    }
                    for column in columns {
                        self.note_star(&column);
                        result.items.push(column.typed());
                        out.push(column.name);
                    }
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    refuse_wildcard_options(options)?;
                    let alias = names::parts(name)?.pop().unwrap_or_default();
                    let found = self
                        .scopes
                        .iter()
                        .rev()
                        .find_map(|scope| {
                            scope
                                .relations
                                .iter()
                                .find(|relation| relation.alias == alias)
                        })
                        .cloned();
                    let Some(relation) = found else {
                        let error = SqlError::new(
                            ErrorCode::UndefinedTable,
                            format!("missing FROM-clause entry for table \"{alias}\""),
                        );
                        return Err(self.at(error, super::expression::name_place(name)));
                    };
                    for column in relation.columns {
                        self.note_star(&column);
                        result.items.push(column.typed());
                        out.push(column.name);
                    }
                }
                SelectItem::QualifiedWildcard(..) | SelectItem::ExprWithAliases { .. } => {
                    return Err(SqlError::unsupported(format_args!("the output {item}")));
                }
            }
        }
        if out.is_empty() {
            return Err(SqlError::unsupported("SELECT without outputs"));
        }
        Ok(out)
    }

    fn output(&mut self, expr: &Expr) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        if matches!(value.node, Node::Row(_)) {
            return Err(self.at(SqlError::unsupported("a row as an output"), value.place));
        }
        Ok(value)
    }

    /// A column of `*` counts as used.
    fn note_star(&mut self, column: &ScopeColumn) {
        let scope = self.scope();
        let owner = scope
            .relations
            .iter()
            .find(|relation| relation.columns.iter().any(|c| c.sql == column.sql))
            .map(|relation| (relation.alias.clone(), relation.id.clone()));
        if let Some(grouping) = &mut scope.grouping
            && !grouping.keys.contains(&column.sql)
            && !owner
                .as_ref()
                .is_some_and(|(_, id)| grouping.determined.contains(id))
        {
            let name = match owner {
                Some((alias, _)) => format!("{alias}.{}", column.name),
                None => column.name.clone(),
            };
            grouping
                .ungrouped
                .push((name, sqlparser::tokenizer::Location::empty()));
        }
    }

    fn select_order(
        &mut self,
        order: &[OrderByExpr],
        names: &[String],
        result: &mut Select,
        is_distinct: bool,
    ) -> Result<Vec<OrderTerm>, SqlError> {
        let mut terms = Vec::with_capacity(order.len());
        for term in order {
            if let Some(index) = self.output_named(&term.expr, names, "ORDER BY")? {
                let item = &result.items[index];
                // A constant orders nothing, and SQLite might take it for a place.
                if !item.is_constant() {
                    let direction = direction(&term.options, item.nullable)?;
                    terms.push(OrderTerm {
                        key: OrderKey::Output(index),
                        direction,
                    });
                }
                continue;
            }
            let value = self.expression(&term.expr)?;
            if value.is_constant() {
                continue;
            }
            let direction = direction(&term.options, value.nullable)?;
            let ty = Self::settled(&value);
            let text = self.text(&value)?;
            let same = result.items.iter().position(|item| {
                item.ty == ty && matches!(&item.node, Node::Sql(sql) if *sql == text)
            });
            if let Some(index) = same {
                terms.push(OrderTerm {
                    key: OrderKey::Output(index),
                    direction,
                });
                continue;
            }
            if is_distinct {
                // DISTINCT ON may still order by its own keys: decided where these are known.
                terms.push(OrderTerm {
                    key: OrderKey::Expression(key_of(&ty, &text)),
                    direction,
                });
                continue;
            }
            if text.trim_matches(['(', ')', '-']).parse::<f64>().is_err() {
                terms.push(OrderTerm {
                    key: OrderKey::Expression(key_of(&ty, &text)),
                    direction,
                });
            }
        }
        Ok(terms)
    }

    fn distinct(
        &mut self,
        distinct: Option<&Distinct>,
        names: &[String],
        terms: &[OrderTerm],
        result: &mut Select,
    ) -> Result<(), SqlError> {
        match distinct {
            None | Some(Distinct::All) => Ok(()),
            Some(Distinct::Distinct) => {
                if terms
                    .iter()
                    .any(|term| matches!(term.key, OrderKey::Expression(_)))
                {
                    return Err(SqlError::new(
                        ErrorCode::InvalidColumnReference,
                        "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                    ));
                }
                result.distinct = Some(Unique::All);
                Ok(())
            }
            Some(Distinct::On(expressions)) => {
                let mut keys = Vec::with_capacity(expressions.len());
                for expression in expressions {
                    let value = match self.output_named(expression, names, "DISTINCT ON")? {
                        Some(index) => result.items[index].clone(),
                        None => self.expression(expression)?,
                    };
                    keys.push(self.key_text(&value)?);
                }
                // The leading terms of ORDER BY must be the keys, in any order.
                for term in terms.iter().take(keys.len()) {
                    let text = match &term.key {
                        OrderKey::Expression(text) => text.clone(),
                        OrderKey::Output(index) => {
                            let item = result.items[*index].clone();
                            self.key_text(&item)?
                        }
                    };
                    if !keys.contains(&text) {
                        return Err(SqlError::new(
                            ErrorCode::InvalidColumnReference,
                            "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                        ));
                    }
                }
                result.distinct = Some(Unique::On(keys));
                Ok(())
            }
        }
    }
}

/// Whether an aggregate is called, not counting subqueries.
pub(super) fn has_aggregate(expr: &Expr) -> bool {
    let mut found = Vec::new();
    let mut finder = FunctionFinder {
        wanted: &is_aggregate,
        found: &mut found,
        inside: 0,
    };
    let _ = ast::Visit::visit(expr, &mut finder);
    !found.is_empty()
}

/// Whether a set-returning function is called, not counting subqueries.
pub(super) fn has_set(expr: &Expr) -> bool {
    let mut found = Vec::new();
    let mut finder = FunctionFinder {
        wanted: &is_set_returning,
        found: &mut found,
        inside: 0,
    };
    let _ = ast::Visit::visit(expr, &mut finder);
    !found.is_empty()
}

pub(super) fn is_aggregate(function: &ast::Function) -> bool {
    function.over.is_none() && class_of(function) == Some(Class::Aggregate)
}

fn is_set_returning(function: &ast::Function) -> bool {
    class_of(function) == Some(Class::SetReturning)
}

fn class_of(function: &ast::Function) -> Option<Class> {
    let name = names::parts(&function.name).ok()?.pop()?;
    signatures(&name).first().map(|signature| signature.class)
}

/// Finds calls in an expression, not counting subqueries.
struct FunctionFinder<'f> {
    wanted: &'f dyn Fn(&ast::Function) -> bool,
    found: &'f mut Vec<ast::Function>,
    /// How many subqueries deep the walk is.
    inside: usize,
}

impl ast::Visitor for FunctionFinder<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && self.inside == 0
            && (self.wanted)(function)
        {
            self.found.push(function.clone());
        }
        ControlFlow::Continue(())
    }
}

/// The name that PostgreSQL gives an output without an alias.
pub(crate) fn output_name(expr: &Expr) -> String {
    derived_name(expr).unwrap_or_else(|| "?column?".to_owned())
}

fn derived_name(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Identifier(ident) => fold(ident),
        Expr::CompoundIdentifier(idents) => fold(idents.last()?),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => return derived_name(inner),
        Expr::CompoundFieldAccess { root, .. } => return derived_name(root),
        Expr::Function(function) => names::parts(&function.name).ok()?.pop()?,
        Expr::Cast {
            expr, data_type, ..
        } => {
            return derived_name(expr).or_else(|| type_name(data_type));
        }
        Expr::TypedString(typed) => type_name(&typed.data_type)?,
        Expr::Interval(_) => "interval".to_owned(),
        Expr::Value(value) if matches!(value.value, ast::Value::Boolean(_)) => "bool".to_owned(),
        Expr::Case { else_result, .. } => {
            let from_else = else_result.as_deref().and_then(|result| match result {
                // Only a name passes through; a function's or a type's does too.
                Expr::Value(_) => None,
                other => derived_name(other),
            });
            from_else.unwrap_or_else(|| "case".to_owned())
        }
        Expr::Exists { negated: false, .. } => "exists".to_owned(),
        Expr::Array(_) => "array".to_owned(),
        Expr::Tuple(_) => "row".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Substring { .. } => "substring".to_owned(),
        Expr::Position { .. } => "position".to_owned(),
        Expr::Overlay { .. } => "overlay".to_owned(),
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(ast::TrimWhereField::Leading) => "ltrim",
            Some(ast::TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }
        .to_owned(),
        Expr::Ceil { .. } => "ceil".to_owned(),
        Expr::Floor { .. } => "floor".to_owned(),
        Expr::AtTimeZone { .. } => "timezone".to_owned(),
        Expr::Subquery(query) => match &*query.body {
            ast::SetExpr::Select(select) => match select.projection.as_slice() {
                [SelectItem::UnnamedExpr(expr)] => return derived_name(expr),
                [SelectItem::ExprWithAlias { alias, .. }] => fold(alias),
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    })
}

/// Puts an item at the end of FROM.
fn add_from(result: &mut Select, sql: String) {
    result.from = Some(match result.from.take() {
        Some(from) => format!("{from},{sql}"),
        None => sql,
    });
}

/// The internal name of a type, as a cast of something nameless shows it.
fn type_name(data_type: &ast::DataType) -> Option<String> {
    // A user's type is called by what the statement calls it.
    if let ast::DataType::Custom(name, _) = data_type
        && let Some(name) = name.0.last().and_then(|part| part.as_ident())
        && crate::types::PgType::from_name(&fold(name), &[]).is_err()
    {
        return Some(fold(name));
    }
    static OWN: std::sync::LazyLock<crate::catalog::Catalog> =
        std::sync::LazyLock::new(crate::catalog::Catalog::bootstrap);
    let ty = super::data_type::pg_type(&OWN, data_type).ok()?;
    Some(internal_name(&ty).to_owned())
}

/// `pg_type.typname`.
pub(crate) fn internal_name(ty: &PgType) -> &'static str {
    match ty {
        PgType::InternalChar => "char",
        PgType::Int2Vector => "int2vector",
        PgType::OidVector => "oidvector",
        PgType::Reg(reg) => reg.name(),
        PgType::Bool => "bool",
        PgType::Int2 => "int2",
        PgType::Int4 => "int4",
        PgType::Int8 => "int8",
        PgType::Oid => "oid",
        PgType::Float4 => "float4",
        PgType::Float8 => "float8",
        PgType::Numeric(_) => "numeric",
        PgType::Text => "text",
        PgType::Varchar(_) => "varchar",
        PgType::Char(_) => "bpchar",
        PgType::Name => "name",
        PgType::Bytea => "bytea",
        PgType::Date => "date",
        PgType::Time => "time",
        PgType::Timestamp => "timestamp",
        PgType::Timestamptz => "timestamptz",
        PgType::Interval => "interval",
        PgType::Uuid => "uuid",
        PgType::Json => "json",
        PgType::Jsonb => "jsonb",
        PgType::Array(element) => internal_name(element),
        PgType::Precise(moment, _) => internal_name(&moment.plain()),
        PgType::Enum(_) | PgType::Domain(_) => "user-defined",
        PgType::Unknown => "unknown",
        PgType::Void => "void",
    }
}

fn refuse_wildcard_options(options: &ast::WildcardAdditionalOptions) -> Result<(), SqlError> {
    let plain = options.opt_ilike.is_none()
        && options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_alias.is_none();
    if plain {
        Ok(())
    } else {
        Err(SqlError::unsupported("* with options"))
    }
}

/// Clauses of other databases that the parser lets through.
fn refuse_foreign_clauses(select: &ast::Select) -> Result<(), SqlError> {
    let foreign = select.top.is_some()
        || select.into.is_some()
        || select.exclude.is_some()
        || select.select_modifiers.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || select.value_table_mode.is_some();
    if foreign {
        Err(SqlError::unsupported("a clause of this SELECT"))
    } else {
        Ok(())
    }
}
