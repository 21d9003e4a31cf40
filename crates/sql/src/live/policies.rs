//! Policies that look at other tables: which rows of a table in FROM a changed row of another may show or
//! hide. What is found is found without any policy: more than what matters does no harm.

use sqlparser::ast::{self, Expr, Ident, SetExpr, TableFactor};

use super::anchors::{NamedTable, SubqueryFinder, finders_of, subqueries_of, with_condition};
use super::simple::factors;
use crate::access::{Identity, RowRule, Rows};
use crate::catalog::{Catalog, Policy, Privilege};
use crate::planner::{PlanContext, parse_expression};

/// A finder for each table of each subquery in a policy that `identity` reads a table of FROM by. Views
/// are left out. `None` if there is a policy that cannot be kept so.
pub(super) fn policy_finders(
    query: &ast::Query,
    identity: &Identity,
    parameters: usize,
    catalog: &Catalog,
    context: &PlanContext,
) -> Option<Vec<SubqueryFinder>> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let mut finders = Vec::new();
    for factor in factors(select) {
        let Some(named) = NamedTable::of(factor, catalog, context) else {
            continue;
        };
        let Rows::By(rule) = crate::access::rows(named.table, identity, Privilege::Select) else {
            continue;
        };
        for policy in that_count(&rule) {
            let Some(text) = &policy.using else { continue };
            let (bytes, depth) = (context.max_statement_bytes, context.max_depth);
            let condition = parse_expression(text, bytes, depth).ok()?;
            let subqueries = subqueries_of(&condition)?;
            let found = finders_of(&subqueries, parameters, catalog, context, &|matters| {
                let shown = key_in(&named, factor, select, policy, matters)?;
                Some(with_condition(query, select, shown))
            })?;
            finders.extend(found.into_iter().map(|finder| SubqueryFinder {
                unrestricted: true,
                ..finder
            }));
        }
    }
    Some(finders)
}

/// Those that are looked at: beside one that is always true the others are not.
fn that_count<'r>(rule: &'r RowRule<'r>) -> impl Iterator<Item = &'r Policy> {
    let is_true = |policy: &&Policy| {
        let text = policy.using.as_deref();
        text.is_some_and(|text| text.eq_ignore_ascii_case("true"))
    };
    let permissive = match rule.permissive.iter().any(is_true) {
        true => &[][..],
        false => &rule.permissive[..],
    };
    permissive.iter().chain(&rule.restrictive).copied()
}

/// That a row's key is one of those of the table's rows for which the policy's `matters` holds.
fn key_in(
    named: &NamedTable<'_>,
    factor: &TableFactor,
    select: &ast::Select,
    policy: &Policy,
    matters: Expr,
) -> Option<Expr> {
    let known_as = Ident::with_quote('"', &policy.known_as);
    let key_of = |table: &Ident| -> Option<Vec<Expr>> {
        let columns = named.table.key_columns().map(|column| {
            let name = Ident::with_quote('"', &column.name);
            let column = Expr::CompoundIdentifier(vec![table.clone(), name]);
            (!named.hides_key).then_some(column)
        });
        columns.collect()
    };
    let mut outside = key_of(&named.known_as)?;
    let inside = key_of(&known_as)?;
    let mut inner = select.clone();
    let mut relation = factor.clone();
    let TableFactor::Table { alias, .. } = &mut relation else {
        return None;
    };
    *alias = Some(ast::TableAlias {
        explicit: true,
        name: known_as,
        columns: Vec::new(),
        at: None,
    });
    inner.from = vec![ast::TableWithJoins {
        relation,
        joins: Vec::new(),
    }];
    inner.projection = (inside.into_iter())
        .map(ast::SelectItem::UnnamedExpr)
        .collect();
    inner.selection = Some(matters);
    let value = match outside.len() {
        1 => outside.remove(0),
        _ => Expr::Tuple(outside),
    };
    Some(Expr::InSubquery {
        expr: Box::new(value),
        subquery: Box::new(ast::Query {
            with: None,
            body: Box::new(SetExpr::Select(Box::new(inner))),
            order_by: None,
            limit_clause: None,
            fetch: None,
            locks: Vec::new(),
            for_clause: None,
            settings: None,
            format_clause: None,
            pipe_operators: Vec::new(),
        }),
        negated: false,
    })
}
