//! What a query is made of, and which class follows from it.

use springhead_proto::SqlError;
use sqlparser::ast::{self, SetExpr};

use super::anchors::{is_item, joins_fit};
use super::simple::{is_inner, queries_in};
use super::{LiveClass, Probe, refused};
use crate::query::Analyzer;

/// What a query is made of, as far as its class depends on it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a query has or not"
)]
pub(super) struct Shape {
    is_select: bool,
    /// Each row of FROM has a key.
    is_keyed: bool,
    all_plain: bool,
    tables: usize,
    /// Tables that are named anywhere, policies included.
    named: usize,
    inner_only: bool,
    /// Queries in it.
    subqueries: usize,
    /// FROM is an anchor and what is joined to it.
    joins_fit: bool,
    has_windows: bool,
    is_recursive: bool,
    is_distinct: bool,
    is_aggregate: bool,
    is_ordered: bool,
}

impl Shape {
    /// `keeps_order`: what it is ordered by is of no matter here.
    pub(super) fn of(
        query: &ast::Query,
        probe: &Probe,
        analyzer: &Analyzer<'_>,
        keeps_order: bool,
    ) -> Shape {
        let (queries, has_windows) = queries_in(query);
        let select = match &*query.body {
            SetExpr::Select(select) => Some(select),
            _ => None,
        };
        Shape {
            is_select: select.is_some() && query.with.is_none(),
            is_keyed: probe.all_plain,
            all_plain: probe.all_plain && analyzer.named_tables.len() == probe.tables.len(),
            tables: probe.tables.len(),
            named: analyzer.named_tables.len(),
            inner_only: select.is_some_and(|select| {
                (select.from.iter())
                    .flat_map(|from| &from.joins)
                    .all(|join| is_item(&join.relation) && is_inner(&join.join_operator))
            }),
            subqueries: queries - 1 - probe.seen_through,
            joins_fit: select.is_some_and(|select| joins_fit(select)),
            has_windows,
            is_recursive: query.with.as_ref().is_some_and(|with| with.recursive),
            is_distinct: select.is_some_and(|select| select.distinct.is_some()),
            is_aggregate: probe.is_aggregate,
            is_ordered: !keeps_order
                && (query.order_by.is_some()
                    || query.limit_clause.is_some()
                    || query.fetch.is_some()),
        }
    }

    pub(super) fn subqueries(&self) -> usize {
        self.subqueries
    }

    /// Tables that are named beside those that rows of FROM are made of: in subqueries and policies.
    pub(super) fn tables_beside(&self) -> usize {
        self.named.saturating_sub(self.tables)
    }

    /// Whether each row of the result belongs to one row of the first table.
    pub(super) fn may_be_anchored(&self) -> bool {
        self.is_select
            && self.is_keyed
            && self.joins_fit
            && !self.is_distinct
            && !self.is_aggregate
            && !self.is_ordered
            && !self.has_windows
    }

    /// Whether it groups left joins, so that rows of the first table find the groups.
    pub(super) fn may_group_by_anchor(&self) -> bool {
        self.is_simple()
            && self.is_aggregate
            && self.joins_fit
            && !self.inner_only
            && !self.is_ordered
            && !self.has_windows
    }

    fn is_simple(&self) -> bool {
        self.is_select && self.all_plain && self.subqueries == 0 && !self.is_distinct
    }

    /// Whether its rows have a key of their own.
    pub(super) fn has_keys(&self) -> bool {
        let keyed = if self.is_aggregate {
            self.subqueries == 0
        } else {
            self.is_keyed
        };
        self.is_select && !self.is_distinct && keyed
    }

    pub(super) fn class(&self, recompute: bool) -> Result<(LiveClass, &'static str), SqlError> {
        let hint = "add WITH (recompute) to have it evaluated again after each commit";
        if self.has_windows && !recompute {
            return Err(refused("a window function's value depends on all rows").with_hint(hint));
        }
        if self.is_recursive && !recompute {
            return Err(refused("a recursive query's rows have no key").with_hint(hint));
        }
        if self.has_windows || self.is_recursive {
            return Ok((LiveClass::Recomputed, "asked for with WITH (recompute)"));
        }
        Ok(match () {
            () if !self.is_select => (LiveClass::Evaluated, "WITH or a set operation"),
            () if self.is_distinct => (LiveClass::Evaluated, "DISTINCT"),
            () if (self.subqueries > 0) => (LiveClass::Evaluated, "a subquery"),
            () if !self.is_simple() => (LiveClass::Evaluated, "a view or a subquery in FROM"),
            () if self.is_aggregate && self.inner_only && !self.is_ordered => (
                LiveClass::Groups,
                "GROUP BY or aggregates over plain tables",
            ),
            () if self.is_aggregate => (LiveClass::Evaluated, "ordered groups, or an outer join"),
            () if self.is_ordered && self.tables == 1 => {
                (LiveClass::Window, "ORDER BY or LIMIT over one table")
            }
            () if self.is_ordered => (LiveClass::Evaluated, "ORDER BY or LIMIT over a join"),
            () if self.tables == 1 => (LiveClass::Rows, "a condition on one table"),
            () if self.inner_only => (LiveClass::Join, "inner joins of plain tables"),
            () => (LiveClass::Evaluated, "an outer join"),
        })
    }
}
