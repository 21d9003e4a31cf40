//! Outer joins and subqueries, kept by the rows of one table: the anchor, the first in FROM. Each row
//! of the result belongs to one anchor row; for a changed row of any table a query finds the anchors
//! that it may matter to, and these alone are evaluated again.

use std::ops::ControlFlow;

use springhead_proto::CollectionId;
use sqlparser::ast::{
    self, BinaryOperator, Expr, Ident, JoinOperator, SetExpr, TableFactor, visit_expressions,
};

use crate::catalog::{Catalog, Relation};
use crate::planner::PlanContext;
use crate::types::PgType;

/// Finds the anchors that a row of a subquery's table may matter to.
pub(super) struct SubqueryFinder {
    pub collection: CollectionId,
    /// The query with no other condition than that the row is looked at.
    pub query: ast::Query,
    /// Of the parameters that follow those of the query: the row's key.
    pub key: Vec<PgType>,
}

/// Whether FROM is an anchor, inner joins, then left joins, of tables alone.
pub(super) fn joins_fit(select: &ast::Select) -> bool {
    let joins: Vec<&ast::Join> = select.from.iter().flat_map(|from| &from.joins).collect();
    let is_inner = |join: &&ast::Join| {
        matches!(
            join.join_operator,
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
        )
    };
    let is_left = |join: &ast::Join| {
        matches!(
            join.join_operator,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_)
        )
    };
    let inner = joins.iter().take_while(|join| is_inner(join)).count();
    let has_left = inner < joins.len();
    joins
        .iter()
        .all(|join| matches!(join.relation, TableFactor::Table { .. }))
        && joins[inner..].iter().all(|join| is_left(join))
        && (select.from.len() == 1 || !has_left)
}

/// How often the condition is met depends on the rows that it looks at, each by itself.
enum Subquery<'q> {
    /// A conjunct of WHERE: NULL is as good as false there.
    In(&'q Expr, &'q ast::Query),
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
    let mut finders = Vec::new();
    for subquery in &found {
        let inner = match subquery {
            Subquery::In(_, inner) | Subquery::Rows(inner) => *inner,
        };
        let inner_select = plain_select(inner)?;
        if let Subquery::In(..) = subquery {
            is_column_alone(inner, inner_select).then_some(())?;
        }
        for factor in factors(inner_select) {
            let (collection, key, condition) = key_of(factor, parameters, catalog, context)?;
            let mut looked_at = inner_select.clone();
            looked_at.selection = Some(both(looked_at.selection.take(), condition));
            looked_at.distinct = None;
            let mut inner = inner.clone();
            (inner.order_by, inner.limit_clause, inner.fetch) = (None, None, None);
            let condition = match subquery {
                Subquery::In(outer, _) => {
                    inner.body = Box::new(SetExpr::Select(Box::new(looked_at)));
                    Expr::InSubquery {
                        expr: Box::new((*outer).clone()),
                        subquery: Box::new(inner),
                        negated: false,
                    }
                }
                Subquery::Rows(_) => {
                    let one = ast::Value::Number("1".into(), false).with_empty_span();
                    looked_at.projection = vec![ast::SelectItem::UnnamedExpr(Expr::Value(one))];
                    inner.body = Box::new(SetExpr::Select(Box::new(looked_at)));
                    Expr::Exists {
                        subquery: Box::new(inner),
                        negated: false,
                    }
                }
            };
            let mut modified = query.clone();
            let mut outer = (**select).clone();
            outer.selection = Some(condition);
            modified.body = Box::new(SetExpr::Select(Box::new(outer)));
            finders.push(SubqueryFinder {
                collection,
                query: modified,
                key,
            });
        }
    }
    Some(finders)
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
        Expr::InSubquery { .. } => None,
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
    let has_groups = match &select.group_by {
        ast::GroupByExpr::Expressions(expressions, modifiers) => {
            !expressions.is_empty() || !modifiers.is_empty()
        }
        ast::GroupByExpr::All(_) => true,
    };
    let joins = || select.from.iter().flat_map(|from| &from.joins);
    let is_plain = query.with.is_none()
        && !has_groups
        && select.having.is_none()
        && !select.from.is_empty()
        && factors(select).all(|factor| matches!(factor, TableFactor::Table { args: None, .. }))
        && joins().all(|join| {
            matches!(
                join.join_operator,
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
            )
        });
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

fn factors(select: &ast::Select) -> impl Iterator<Item = &TableFactor> {
    (select.from.iter()).flat_map(|from| {
        std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
    })
}

/// The table, the types of its key, and the condition that its key is what follows the parameters.
fn key_of(
    factor: &TableFactor,
    parameters: usize,
    catalog: &Catalog,
    context: &PlanContext,
) -> Option<(CollectionId, Vec<PgType>, Expr)> {
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
    if alias
        .as_ref()
        .is_some_and(|alias| !alias.columns.is_empty())
    {
        return None;
    }
    let known_as = match alias {
        Some(alias) => alias.name.clone(),
        None => Ident::with_quote('"', parts.last()?),
    };
    let mut key = Vec::new();
    let mut condition = None;
    for (place, column) in table.key_columns().enumerate() {
        if column.hidden {
            return None;
        }
        let number = format!("${}", parameters + 1 + place);
        let value = ast::Value::Placeholder(number).with_empty_span();
        let equal = Expr::BinaryOp {
            left: Box::new(Expr::CompoundIdentifier(vec![
                known_as.clone(),
                Ident::with_quote('"', &column.name),
            ])),
            op: BinaryOperator::Eq,
            right: Box::new(Expr::Value(value)),
        };
        condition = Some(both(condition, equal));
        key.push(column.pg_type.clone());
    }
    Some((id, key, condition?))
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
    let has_groups = !matches!(
        &select.group_by,
        ast::GroupByExpr::Expressions(expressions, modifiers)
            if expressions.is_empty() && modifiers.is_empty()
    );
    if !matches!(select.distinct, Some(ast::Distinct::Distinct))
        || has_groups
        || select.having.is_some()
    {
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
