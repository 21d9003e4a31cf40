//! The same query in a simpler form: WITH written out where it is named, right joins turned round; and
//! which queries are no more than rows of tables.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, JoinConstraint, JoinOperator, SelectItem, SetExpr, TableAlias, TableFactor,
    VisitMut as _, VisitorMut,
};

use crate::query::names::fold;

/// The query in a simpler form that means the same; `None` if there is none.
pub(super) fn simplified(query: &ast::Query) -> Option<ast::Query> {
    let written_out = without_with(query);
    let turned = turned_round(written_out.as_ref().unwrap_or(query));
    turned.or(written_out)
}

/// Whether each row of a query is one row of each of its tables, joined; so that their keys are its key.
pub(super) fn is_rows_of_tables(query: &ast::Query) -> bool {
    let SetExpr::Select(select) = &*query.body else {
        return false;
    };
    let mut derived = 0;
    let is_plain = is_bare(query)
        && is_ungrouped(select)
        && select.distinct.is_none()
        && !select.from.is_empty()
        && factors(select).all(|factor| match factor {
            TableFactor::Table { args, .. } => args.is_none(),
            TableFactor::Derived {
                lateral: false,
                subquery,
                ..
            } => {
                derived += queries_in(subquery).0;
                is_rows_of_tables(subquery)
            }
            _ => false,
        })
        && (select.from.iter())
            .flat_map(|from| &from.joins)
            .all(|join| is_inner(&join.join_operator));
    // No other query in it, and no window function, whose value would depend on other rows.
    is_plain && queries_in(query) == (1 + derived, false)
}

/// Without anything beside its body.
pub(super) fn is_bare(query: &ast::Query) -> bool {
    query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && query.for_clause.is_none()
}

pub(super) fn is_ungrouped(select: &ast::Select) -> bool {
    let has_groups = !matches!(
        &select.group_by,
        ast::GroupByExpr::Expressions(expressions, modifiers)
            if expressions.is_empty() && modifiers.is_empty()
    );
    !has_groups && select.having.is_none()
}

pub(super) fn is_inner(operator: &JoinOperator) -> bool {
    matches!(
        operator,
        JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
    )
}

pub(super) fn factors(select: &ast::Select) -> impl Iterator<Item = &TableFactor> {
    (select.from.iter()).flat_map(|from| {
        std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
    })
}

/// How many queries there are in one, itself included, and whether there are window functions.
pub(super) fn queries_in(query: &ast::Query) -> (usize, bool) {
    let mut counter = Counter::default();
    let _ = ast::Visit::visit(query, &mut counter);
    (counter.queries, counter.windows)
}

#[derive(Default)]
struct Counter {
    queries: usize,
    windows: bool,
}

impl ast::Visitor for Counter {
    type Break = ();

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && function.over.is_some()
        {
            self.windows = true;
        }
        ControlFlow::Continue(())
    }
}

// ---- WITH ----

/// The query with each common table expression where it is named.
fn without_with(query: &ast::Query) -> Option<ast::Query> {
    let with = query.with.as_ref().filter(|with| !with.recursive)?;
    let mut known: Vec<ast::Cte> = Vec::new();
    for cte in &with.cte_tables {
        if matches!(cte.materialized, Some(ast::CteAsMaterialized::Materialized)) {
            return None;
        }
        let mut cte = cte.clone();
        write_out(&known, &mut cte.query)?;
        // The later one of two of a name would be meant; PostgreSQL refuses them.
        known.push(cte);
    }
    let mut query = query.clone();
    query.with = None;
    write_out(&known, &mut query)?;
    Some(query)
}

fn write_out(known: &[ast::Cte], query: &mut ast::Query) -> Option<()> {
    let mut writer = Writer { known };
    match query.visit(&mut writer) {
        ControlFlow::Continue(()) => Some(()),
        ControlFlow::Break(()) => None,
    }
}

/// Puts queries in the place of their names.
struct Writer<'w> {
    known: &'w [ast::Cte],
}

impl VisitorMut for Writer<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        // Another WITH may have the same names, and mean others.
        match query.with {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    // Afterwards: what is put in is not looked at again.
    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table {
            name, alias, args, ..
        } = &*factor
        else {
            return ControlFlow::Continue(());
        };
        let [ast::ObjectNamePart::Identifier(ident)] = &name.0[..] else {
            return ControlFlow::Continue(());
        };
        let named = |cte: &&ast::Cte| fold(&cte.alias.name) == fold(ident);
        let Some(cte) = self.known.iter().find(named) else {
            return ControlFlow::Continue(());
        };
        let renames = !cte.alias.columns.is_empty();
        if args.is_some() || renames && (alias.iter()).any(|alias| !alias.columns.is_empty()) {
            return ControlFlow::Break(());
        }
        let mut known_as: TableAlias = match alias {
            Some(alias) => alias.clone(),
            None => TableAlias {
                name: ident.clone(),
                columns: Vec::new(),
                ..cte.alias.clone()
            },
        };
        if renames {
            known_as.columns.clone_from(&cte.alias.columns);
        }
        *factor = TableFactor::Derived {
            lateral: false,
            subquery: cte.query.clone(),
            alias: Some(known_as),
            sample: None,
        };
        ControlFlow::Continue(())
    }
}

// ---- right joins ----

/// `a RIGHT JOIN b` as `b LEFT JOIN a`, where no `*` shows in which order they stand.
fn turned_round(query: &ast::Query) -> Option<ast::Query> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let shows_order =
        (select.projection.iter()).any(|item| matches!(item, SelectItem::Wildcard(_)));
    let [from] = &select.from[..] else {
        return None;
    };
    let constraint = match &from.joins.first()?.join_operator {
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => constraint,
        _ => return None,
    };
    if shows_order || !matches!(constraint, JoinConstraint::On(_) | JoinConstraint::Using(_)) {
        return None;
    }
    let operator = JoinOperator::LeftOuter(constraint.clone());
    let mut select = (**select).clone();
    let from = &mut select.from[0];
    std::mem::swap(&mut from.relation, &mut from.joins[0].relation);
    from.joins[0].join_operator = operator;
    let mut query = query.clone();
    query.body = Box::new(SetExpr::Select(Box::new(select)));
    Some(query)
}

#[cfg(test)]
mod tests {
    use sqlparser::dialect::PostgreSqlDialect;
    use sqlparser::parser::Parser;

    use super::*;

    fn query(sql: &str) -> ast::Query {
        let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)
            .unwrap()
            .remove(0);
        match statement {
            ast::Statement::Query(query) => *query,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_simpler_form_is_written_where_there_is_one() {
        for (sql, simpler) in [
            (
                "WITH s AS (SELECT a FROM t) SELECT a FROM s WHERE a > 1",
                Some("SELECT a FROM (SELECT a FROM t) s WHERE a > 1"),
            ),
            (
                "WITH s (x) AS (SELECT a FROM t), u AS (SELECT x FROM s) SELECT * FROM u AS v",
                Some("SELECT * FROM (SELECT x FROM (SELECT a FROM t) s (x)) AS v"),
            ),
            (
                "SELECT b.x FROM a RIGHT JOIN b ON a.x = b.x",
                Some("SELECT b.x FROM b LEFT OUTER JOIN a ON a.x = b.x"),
            ),
            ("WITH RECURSIVE s AS (SELECT 1) SELECT * FROM s", None),
            (
                "WITH s AS MATERIALIZED (SELECT a FROM t) SELECT * FROM s",
                None,
            ),
            (
                "WITH s AS (SELECT 1) SELECT (WITH s AS (SELECT 2) SELECT * FROM s)",
                None,
            ),
            ("SELECT * FROM a RIGHT JOIN b ON a.x = b.x", None),
            ("SELECT a.x FROM a FULL JOIN b ON a.x = b.x", None),
        ] {
            let found = simplified(&query(sql)).map(|query| query.to_string());
            let same = |text: &str| query(text).to_string();
            assert_eq!(found, simpler.map(same), "{sql}");
        }
    }

    #[test]
    fn rows_of_tables_are_told_from_all_else() {
        for (sql, expected) in [
            ("SELECT a, b + 1 AS c FROM t WHERE a > 1", true),
            (
                "SELECT t.a FROM t JOIN (SELECT * FROM u) v ON v.a = t.a",
                true,
            ),
            ("SELECT DISTINCT a FROM t", false),
            ("SELECT a FROM t LIMIT 1", false),
            ("SELECT a FROM t GROUP BY a", false),
            ("SELECT a FROM t LEFT JOIN u ON true", false),
            ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u)", false),
            ("SELECT a, rank() OVER (ORDER BY a) FROM t", false),
            ("SELECT a FROM t UNION ALL SELECT a FROM u", false),
            ("SELECT 1", false),
        ] {
            assert_eq!(is_rows_of_tables(&query(sql)), expected, "{sql}");
        }
    }
}
