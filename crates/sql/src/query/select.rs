//! SELECT: outputs, WHERE, GROUP BY, HAVING, DISTINCT, and what ORDER BY can name.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Expr, OrderByExpr, SelectItem, SelectItemQualifiedWildcardKind};

use crate::types::PgType;

use super::Analyzer;
use super::body::{Analyzed, Body, OrderKey, OrderTerm, push_order};
use super::call::direction;
use super::finder;
use super::grouping::first_of_each;
use super::names::{self, fold};
use super::output_name::output_name;
use super::reference::push_down;
use super::scope::{Grouping, ScopeColumn};
use super::typed::{Node, Typed, key_of, order_of};

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
        let mut terms = self.select_order(order, &names, &mut result, select.distinct.is_some())?;
        self.distinct(select.distinct.as_ref(), &names, &terms, &mut result)?;
        self.check_grouping()?;
        result.is_aggregate = self.scope().has_aggregates || is_grouped;
        if result.having.is_some() && result.group.is_empty() {
            // SQLite wants a GROUP BY or an aggregate beside HAVING.
            result.group.push("iif(1,0,0)".to_owned());
        }
        self.probe_live(select, &mut result, &mut names, &mut terms)?;
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
                found.extend(finder::set_returning(expr));
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

    pub(super) fn without_aggregates<T>(
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
            let row = self.text(&value)?;
            return Ok(Typed::new(row, value.ty).not_null().placed(value.place));
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
                    key: OrderKey::Expression(order_of(&ty, &text)),
                    direction,
                });
                continue;
            }
            if text.trim_matches(['(', ')', '-']).parse::<f64>().is_err() {
                terms.push(OrderTerm {
                    key: OrderKey::Expression(order_of(&ty, &text)),
                    direction,
                });
            }
        }
        Ok(terms)
    }
}

/// Puts an item at the end of FROM.
fn add_from(result: &mut Select, sql: String) {
    result.from = Some(match result.from.take() {
        Some(from) => format!("{from},{sql}"),
        None => sql,
    });
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
