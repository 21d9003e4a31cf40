//! Outer joins and subqueries, kept by the rows of one table: the anchor, the first in FROM. Each row
//! of the result belongs to one anchor row; for a changed row of any table a query finds the anchors
//! that it may matter to, and these alone are evaluated again.

use std::ops::ControlFlow;
use std::sync::Arc;

use springhead_proto::CollectionId;
use sqlparser::ast::{
    self, BinaryOperator, Expr, Ident, JoinOperator, SetExpr, TableFactor, visit_expressions,
};

use super::simple::{factors, is_inner, is_ungrouped};
use crate::catalog::{Catalog, Relation, Table};
use crate::planner::PlanContext;
use crate::types::PgType;

/// Finds the anchors that a row of a subquery's table may matter to.
pub(super) struct SubqueryFinder {
    pub collection: CollectionId,
    /// The query with no other condition than that the row is looked at.
    pub query: ast::Query,
    /// Of the parameters that follow those of the query: the row's key.
    pub key: Vec<PgType>,
    /// It is to be planned without policies.
    pub unrestricted: bool,
}

/// Whether FROM is an anchor, inner joins, then left joins, of plain items alone.
pub(super) fn joins_fit(select: &ast::Select) -> bool {
    let joins: Vec<&ast::Join> = select.from.iter().flat_map(|from| &from.joins).collect();
    let is_left = |join: &ast::Join| {
        matches!(
            join.join_operator,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_)
        )
    };
    let inner = (joins.iter())
        .take_while(|join| is_inner(&join.join_operator))
        .count();
    let has_left = inner < joins.len();
    joins.iter().all(|join| is_item(&join.relation))
        && joins[inner..].iter().all(|join| is_left(join))
        && (select.from.len() == 1 || !has_left)
}

/// A table, a view or a derived table: what may be seen through.
pub(super) fn is_item(factor: &TableFactor) -> bool {
    matches!(
        factor,
        TableFactor::Table { .. } | TableFactor::Derived { lateral: false, .. }
    )
}

/// How often the condition is met depends on the rows that it looks at, each by itself.
pub(super) enum Subquery<'q> {
    /// A conjunct of WHERE: NULL is as good as false there.
    In(&'q Expr, &'q ast::Query),
    /// IN or NOT IN anywhere: a NULL on either side counts for itself.
    InAnywhere(&'q Expr, &'q ast::Query),
    /// EXISTS, and a subquery as a value: whatever meets its WHERE counts.
    Rows(&'q ast::Query),
}

/// A finder for each table of each subquery of `query`, which has `count` of them, of any kind.
/// `None` if there is one that cannot be kept so.
pub(super) fn subquery_finders(
    query: &ast::Query,
    count: usize,
    parameters: usize,
    catalog: &Catalog,
    context: &PlanContext,
) -> Option<Vec<SubqueryFinder>> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let found = subqueries(select)?;
    if found.len() != count {
        return None;
    }
    finders_of(&found, parameters, catalog, context, &|matters| {
        Some(with_condition(query, select, matters))
    })
}

/// A finder for each table of each of these subqueries. `finding` makes the query of the condition that a
/// row of the table matters.
pub(super) fn finders_of(
    found: &[Subquery<'_>],
    parameters: usize,
    catalog: &Catalog,
    context: &PlanContext,
    finding: &dyn Fn(Expr) -> Option<ast::Query>,
) -> Option<Vec<SubqueryFinder>> {
    let mut finders = Vec::new();
    for subquery in found {
        let inner = subquery.query();
        let inner_select = plain_select(inner)?;
        if !matches!(subquery, Subquery::Rows(_)) {
            is_column_alone(inner, inner_select).then_some(())?;
        }
        for factor in factors(inner_select) {
            let named = NamedTable::of(factor, catalog, context)?;
            let (key, condition) = named.key(parameters)?;
            let mut looked_at = inner_select.clone();
            looked_at.selection = Some(both(looked_at.selection.take(), condition));
            looked_at.distinct = None;
            finders.push(SubqueryFinder {
                collection: named.table.collection(),
                query: finding(subquery.matters(&looked_at)?)?,
                key,
                unrestricted: false,
            });
        }
    }
    Some(finders)
}

/// The query with another condition in the place of its own.
pub(super) fn with_condition(
    query: &ast::Query,
    select: &ast::Select,
    condition: Expr,
) -> ast::Query {
    let mut select = select.clone();
    select.selection = Some(condition);
    let mut query = query.clone();
    query.body = Box::new(SetExpr::Select(Box::new(select)));
    query
}

/// The subqueries of a condition, none of which is a conjunct of WHERE.
pub(super) fn subqueries_of(condition: &Expr) -> Option<Vec<Subquery<'_>>> {
    let mut found = Vec::new();
    collect(condition, &mut found)?;
    Some(found)
}

impl<'q> Subquery<'q> {
    fn query(&self) -> &'q ast::Query {
        match self {
            Subquery::In(_, inner) | Subquery::InAnywhere(_, inner) | Subquery::Rows(inner) => {
                inner
            }
        }
    }

    /// The condition on the rows around it that what `looked_at` leaves of it may matter to.
    fn matters(&self, looked_at: &ast::Select) -> Option<Expr> {
        Some(match self {
            Subquery::Rows(inner) => exists(inner, looked_at.clone()),
            Subquery::In(value, inner) => is_in(value, inner, looked_at.clone()),
            Subquery::InAnywhere(value, inner) => {
                let [ast::SelectItem::UnnamedExpr(column)] = &looked_at.projection[..] else {
                    return None;
                };
                let mut nulls = looked_at.clone();
                let is_null = Expr::IsNull(Box::new(column.clone()));
                nulls.selection = Some(both(nulls.selection.take(), is_null));
                let no_value = Expr::IsNull(Box::new((*value).clone()));
                let any = exists(inner, looked_at.clone());
                [exists(inner, nulls), both(Some(no_value), any)]
                    .into_iter()
                    .fold(is_in(value, inner, looked_at.clone()), either)
            }
        })
    }
}

fn is_in(value: &Expr, of: &ast::Query, select: ast::Select) -> Expr {
    Expr::InSubquery {
        expr: Box::new(value.clone()),
        subquery: Box::new(with_body(of, select)),
        negated: false,
    }
}

fn exists(of: &ast::Query, mut select: ast::Select) -> Expr {
    let one = ast::Value::Number("1".into(), false).with_empty_span();
    select.projection = vec![ast::SelectItem::UnnamedExpr(Expr::Value(one))];
    Expr::Exists {
        subquery: Box::new(with_body(of, select)),
        negated: false,
    }
}

fn with_body(query: &ast::Query, select: ast::Select) -> ast::Query {
    ast::Query {
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        ..query.clone()
    }
}

fn subqueries(select: &ast::Select) -> Option<Vec<Subquery<'_>>> {
    let mut found = Vec::new();
    let mut rest = Vec::new();
    if let Some(condition) = &select.selection {
        conjuncts(condition, &mut found, &mut rest);
    }
    for item in &select.projection {
        match item {
            ast::SelectItem::UnnamedExpr(expr) | ast::SelectItem::ExprWithAlias { expr, .. } => {
                rest.push(expr);
            }
            _ => {}
        }
    }
    for expr in rest {
        collect(expr, &mut found)?;
    }
    Some(found)
}

fn conjuncts<'q>(expr: &'q Expr, found: &mut Vec<Subquery<'q>>, rest: &mut Vec<&'q Expr>) {
    match expr {
        Expr::Nested(inner) => conjuncts(inner, found, rest),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => {
            conjuncts(left, found, rest);
            conjuncts(right, found, rest);
        }
        Expr::InSubquery {
            expr,
            subquery,
            negated: false,
        } => {
            rest.push(expr);
            found.push(Subquery::In(expr, subquery));
        }
        other => rest.push(other),
    }
}

/// The subqueries in an expression of which rows count as such.
fn collect<'q>(expr: &'q Expr, found: &mut Vec<Subquery<'q>>) -> Option<()> {
    match expr {
        Expr::Exists { subquery, .. } | Expr::Subquery(subquery) => {
            found.push(Subquery::Rows(subquery));
            Some(())
        }
        Expr::InSubquery { expr, subquery, .. } => {
            found.push(Subquery::InAnywhere(expr, subquery));
            collect(expr, found)
        }
        Expr::Nested(inner) | Expr::UnaryOp { expr: inner, .. } => collect(inner, found),
        Expr::Cast { expr: inner, .. } | Expr::IsNull(inner) | Expr::IsNotNull(inner) => {
            collect(inner, found)
        }
        Expr::BinaryOp { left, right, .. } => {
            collect(left, found)?;
            collect(right, found)
        }
        other => {
            // Elsewhere there is none, or it is not understood.
            let nested = visit_expressions(other, |inner| {
                let is_query = matches!(
                    inner,
                    Expr::Exists { .. } | Expr::Subquery(_) | Expr::InSubquery { .. }
                );
                if is_query {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            nested.is_continue().then_some(())
        }
    }
}

/// A SELECT of inner joins of tables without groups.
fn plain_select(query: &ast::Query) -> Option<&ast::Select> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let mut joins = select.from.iter().flat_map(|from| &from.joins);
    let is_plain = query.with.is_none()
        && is_ungrouped(select)
        && !select.from.is_empty()
        && factors(select).all(|factor| matches!(factor, TableFactor::Table { args: None, .. }))
        && joins.all(|join| is_inner(&join.join_operator));
    is_plain.then_some(select)
}

fn is_column_alone(query: &ast::Query, select: &ast::Select) -> bool {
    let [ast::SelectItem::UnnamedExpr(expr)] = &select.projection[..] else {
        return false;
    };
    query.limit_clause.is_none()
        && query.fetch.is_none()
        && matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

/// A table in FROM under its own name or another.
pub(super) struct NamedTable<'c> {
    pub table: &'c Arc<Table>,
    pub known_as: Ident,
    /// Its key cannot be named.
    pub hides_key: bool,
}

impl<'c> NamedTable<'c> {
    /// `None` for what is no table, and for one whose columns have other names.
    pub(super) fn of(
        factor: &TableFactor,
        catalog: &'c Catalog,
        context: &PlanContext,
    ) -> Option<NamedTable<'c>> {
        let TableFactor::Table { name, alias, .. } = factor else {
            return None;
        };
        let parts: Vec<String> = (name.0.iter())
            .map(|part| part.as_ident().map(crate::query::names::fold))
            .collect::<Option<_>>()?;
        let relation = match &parts[..] {
            [name] => {
                (context.search_path.iter()).find_map(|schema| catalog.resolve(Some(schema), name))
            }
            [schema, name] => catalog.resolve(Some(schema), name),
            _ => None,
        };
        let Some((_, Relation::Table(id))) = relation else {
            return None;
        };
        let table = catalog.table(id)?;
        if (alias.as_ref()).is_some_and(|alias| !alias.columns.is_empty()) {
            return None;
        }
        let known_as = match alias {
            Some(alias) => alias.name.clone(),
            None => Ident::with_quote('"', parts.last()?),
        };
        Some(NamedTable {
            table,
            known_as,
            hides_key: table.key_columns().any(|column| column.hidden),
        })
    }

    /// The types of its key, and the condition that its key is what follows the parameters.
    fn key(&self, parameters: usize) -> Option<(Vec<PgType>, Expr)> {
        let mut key = Vec::new();
        let mut condition = None;
        for (place, column) in self.table.key_columns().enumerate() {
            let number = format!("${}", parameters + 1 + place);
            let value = ast::Value::Placeholder(number).with_empty_span();
            let equal = Expr::BinaryOp {
                left: Box::new(Expr::CompoundIdentifier(vec![
                    self.known_as.clone(),
                    Ident::with_quote('"', &column.name),
                ])),
                op: BinaryOperator::Eq,
                right: Box::new(Expr::Value(value)),
            };
            condition = Some(both(condition, equal));
            key.push(column.pg_type.clone());
        }
        let condition = condition.filter(|_| !self.hides_key)?;
        Some((key, condition))
    }
}

fn either(one: Expr, other: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(one),
        op: BinaryOperator::Or,
        right: Box::new(Expr::Nested(Box::new(other))),
    }
}

fn both(one: Option<Expr>, other: Expr) -> Expr {
    match one {
        None => other,
        Some(one) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(one))),
            op: BinaryOperator::And,
            right: Box::new(other),
        },
    }
}

/// `SELECT DISTINCT` of plain expressions as `GROUP BY` of the same: `None` where it is more.
pub(super) fn distinct_as_groups(query: &ast::Query) -> Option<ast::Query> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    if !matches!(select.distinct, Some(ast::Distinct::Distinct)) || !is_ungrouped(select) {
        return None;
    }
    let expressions: Vec<Expr> = (select.projection.iter())
        .map(|item| match item {
            // Of a number GROUP BY would take the output of that place.
            ast::SelectItem::UnnamedExpr(expr) | ast::SelectItem::ExprWithAlias { expr, .. } => {
                matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
                    .then(|| expr.clone())
            }
            _ => None,
        })
        .collect::<Option<_>>()?;
    let mut grouped = (**select).clone();
    grouped.distinct = None;
    grouped.group_by = ast::GroupByExpr::Expressions(expressions, Vec::new());
    let mut query = query.clone();
    query.body = Box::new(SetExpr::Select(Box::new(grouped)));
    Some(query)
}
