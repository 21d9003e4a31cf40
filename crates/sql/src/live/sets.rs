//! Set operations, and full joins: their sides are kept each by itself, and what is remembered beside
//! them is how often each row is in each side.

use std::fmt;

use sqlparser::ast::{
    self, Expr, JoinConstraint, JoinOperator, SelectItem, SetExpr, SetOperator, SetQuantifier,
    TableFactor,
};

use super::conditions::is_compared_as_stored;
use super::planning::{Planning, declared};
use super::probe::Want;
use super::simple::is_bare;
use super::{LiveClass, LivePlan, Occurrence};
use crate::types::PgType;

/// The queries that a result is made of, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Sides {
    /// Each of a class that is kept by parts. Their visible columns are stored as the whole's are.
    pub plans: Vec<LivePlan>,
    pub from: FromSides,
}

/// How rows of sides make a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromSides {
    /// A row is in it as often as its counts say.
    Counted(SetTree),
    /// Each row of a side is one of the result, under a key that no other side has. For each side: where in
    /// its key the values of the result's key are.
    Keyed(Vec<Vec<usize>>),
}

/// A set operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetTree {
    /// The rows of the side of this number.
    Side(usize),
    Operation {
        operator: SetOperation,
        /// Copies count, each by itself.
        all: bool,
        left: Box<SetTree>,
        right: Box<SetTree>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOperation {
    Union,
    Intersect,
    Except,
}

impl Sides {
    /// How it is kept, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let from = match &self.from {
            FromSides::Counted(tree) => format!("  Rows: {tree}, by counts"),
            FromSides::Keyed(_) => "  Rows: those of all sides, by key".to_owned(),
        };
        let sides = self.plans.iter().enumerate().map(|(number, plan)| {
            let (class, because) = (plan.class.name(), plan.because);
            format!("  Side {}: {class} ({because})", number + 1)
        });
        std::iter::once(from).chain(sides).collect()
    }
}

impl SetTree {
    /// How often a row is in the result that is `counts[n]` times in side `n`.
    #[must_use]
    pub fn count(&self, counts: &[u64]) -> u64 {
        match self {
            SetTree::Side(number) => counts.get(*number).copied().unwrap_or(0),
            SetTree::Operation {
                operator,
                all,
                left,
                right,
            } => {
                let (left, right) = (left.count(counts), right.count(counts));
                match (operator, all) {
                    (SetOperation::Union, true) => left.saturating_add(right),
                    (SetOperation::Union, false) => u64::from(left > 0 || right > 0),
                    (SetOperation::Intersect, true) => left.min(right),
                    (SetOperation::Intersect, false) => u64::from(left > 0 && right > 0),
                    (SetOperation::Except, true) => left.saturating_sub(right),
                    (SetOperation::Except, false) => u64::from(left > 0 && right == 0),
                }
            }
        }
    }

    /// Whether no row is ever compared with another.
    fn only_adds(&self) -> bool {
        match self {
            SetTree::Side(_) => true,
            SetTree::Operation {
                operator,
                all,
                left,
                right,
            } => *operator == SetOperation::Union && *all && left.only_adds() && right.only_adds(),
        }
    }
}

impl fmt::Display for SetTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetTree::Side(number) => write!(f, "side {}", number + 1),
            SetTree::Operation {
                operator,
                all,
                left,
                right,
            } => {
                let word = match operator {
                    SetOperation::Union => "UNION",
                    SetOperation::Intersect => "INTERSECT",
                    SetOperation::Except => "EXCEPT",
                };
                let all = if *all { " ALL" } else { "" };
                write!(f, "({left} {word}{all} {right})")
            }
        }
    }
}

/// The tree of a set operation, its sides collected in `found`; `None` if there is more to it.
fn tree_of(body: &SetExpr, query: &ast::Query, found: &mut Vec<ast::Query>) -> Option<SetTree> {
    match body {
        SetExpr::Select(_) => {
            found.push(ast::Query {
                body: Box::new(body.clone()),
                ..query.clone()
            });
            Some(SetTree::Side(found.len() - 1))
        }
        SetExpr::Query(inner) if is_bare(inner) => tree_of(&inner.body, query, found),
        SetExpr::SetOperation {
            left,
            op,
            set_quantifier,
            right,
        } => {
            let all = match set_quantifier {
                SetQuantifier::All => true,
                SetQuantifier::Distinct | SetQuantifier::None => false,
                _ => return None,
            };
            let operator = match op {
                SetOperator::Union => SetOperation::Union,
                SetOperator::Intersect => SetOperation::Intersect,
                SetOperator::Except | SetOperator::Minus => SetOperation::Except,
            };
            Some(SetTree::Operation {
                operator,
                all,
                left: Box::new(tree_of(left, query, found)?),
                right: Box::new(tree_of(right, query, found)?),
            })
        }
        _ => None,
    }
}

/// Whether a value of one type is the same bytes where the other is wanted.
fn is_stored_alike(one: &PgType, other: &PgType) -> bool {
    let is_integer = |ty: &PgType| matches!(ty, PgType::Int2 | PgType::Int4 | PgType::Int8);
    let is_text = |ty: &PgType| matches!(ty, PgType::Text | PgType::Varchar(_));
    one == other || is_integer(one) && is_integer(other) || is_text(one) && is_text(other)
}

impl Planning<'_> {
    /// A set operation whose sides are kept by parts.
    pub(super) fn set_operation(&self, query: &ast::Query) -> Option<LivePlan> {
        let mut found = Vec::new();
        let tree = is_bare(query).then(|| tree_of(&query.body, query, &mut found))??;
        if found.len() < 2 {
            return None;
        }
        let whole = self.plan(query, false).ok()?;
        // Of equal values with several forms it is SQLite's choice which is shown.
        let mut types = whole.columns.iter().map(|column| &column.pg_type);
        if !tree.only_adds() && !types.all(is_compared_as_stored) {
            return None;
        }
        let plans = (found.iter())
            .map(|side| self.side(side, &whole))
            .collect::<Option<_>>()?;
        let from = FromSides::Counted(tree);
        Some(LivePlan {
            class: LiveClass::Sides,
            because: "set operations of queries that are kept by parts",
            sides: Some(Sides { plans, from }),
            ..whole
        })
    }

    /// A full join of two tables: the left join, and the second table's rows that are joined to nothing.
    pub(super) fn full_join(&self, query: &ast::Query) -> Option<LivePlan> {
        let [left, rest] = halves(query)?;
        let whole = self.plan(query, false).ok()?;
        let (left, rest) = (self.side(&left, &whole)?, self.side(&rest, &whole)?);
        let keys = whole.key.len();
        if !whole.is_keyed || left.key != whole.key || rest.key.len() != keys {
            return None;
        }
        // The second table stands first in the second side.
        let of_second = rest.group_keys;
        let places = vec![
            (0..keys).collect(),
            (of_second..keys).chain(0..of_second).collect(),
        ];
        Some(LivePlan {
            class: LiveClass::Sides,
            because: "a full join: a left join, and what is joined to nothing",
            sides: Some(Sides {
                plans: vec![left, rest],
                from: FromSides::Keyed(places),
            }),
            ..whole
        })
    }

    /// One side, if it is kept by parts and its columns are stored as those of the whole.
    fn side(&self, query: &ast::Query, whole: &LivePlan) -> Option<LivePlan> {
        let types = declared(&whole.parameters);
        let planning = Planning {
            types: &types,
            marks: self.marks.clone(),
            ..*self
        };
        let mut side = planning.plan(query, false).ok()?;
        if side.class == LiveClass::Evaluated {
            side = planning.otherwise(query, &side)?;
        }
        let columns = side.columns.iter().zip(whole.columns.iter());
        let is_alike = side.columns.len() == whole.columns.len()
            && side.parameters == whole.parameters
            && { columns }.all(|(one, other)| is_stored_alike(&one.pg_type, &other.pg_type));
        if !is_alike || side.order.is_some() {
            return None;
        }
        match (side.class, &side.reads[..]) {
            (LiveClass::Rows, [collection]) => {
                let first = side.parameters.len() + 1;
                let of_key = planning.run(query, &types, Want::OfKey { index: 0, first });
                side.occurrences = vec![Occurrence {
                    collection: *collection,
                    part: 0,
                    conditions: std::mem::take(&mut side.conditions),
                    of_key: of_key.ok()?.1,
                }];
                Some(side)
            }
            (LiveClass::Join | LiveClass::Groups | LiveClass::Anchored, _) => Some(side),
            _ => None,
        }
    }
}

/// `a FULL JOIN b ON c` as `a LEFT JOIN b ON c` and, from `b`, what no row of `a` is joined to; there `a` is
/// joined on nothing, so that its columns are NULL. `None` where a `*` shows in which order they stand.
fn halves(query: &ast::Query) -> Option<[ast::Query; 2]> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let [from] = &select.from[..] else {
        return None;
    };
    let [join] = &from.joins[..] else {
        return None;
    };
    let JoinOperator::FullOuter(JoinConstraint::On(condition)) = &join.join_operator else {
        return None;
    };
    let shows_order =
        (select.projection.iter()).any(|item| matches!(item, SelectItem::Wildcard(_)));
    let is_table = |factor: &TableFactor| matches!(factor, TableFactor::Table { args: None, .. });
    let are_tables = is_table(&from.relation) && is_table(&join.relation);
    if shows_order || !are_tables || !is_bare(query) {
        return None;
    }
    let with = |change: &dyn Fn(&mut ast::Select)| {
        let mut select = (**select).clone();
        change(&mut select);
        ast::Query {
            body: Box::new(SetExpr::Select(Box::new(select))),
            ..query.clone()
        }
    };
    let left = with(&|select| {
        let on = JoinConstraint::On(condition.clone());
        select.from[0].joins[0].join_operator = JoinOperator::LeftOuter(on);
    });
    let rest = with(&|select| {
        let never = Expr::Value(ast::Value::Boolean(false).with_empty_span());
        let from = &mut select.from[0];
        std::mem::swap(&mut from.relation, &mut from.joins[0].relation);
        from.joins[0].join_operator = JoinOperator::LeftOuter(JoinConstraint::On(never));
        let is_alone = Expr::Exists {
            subquery: Box::new(joined_to(query, &from.joins[0].relation, condition)),
            negated: true,
        };
        select.selection = Some(match select.selection.take() {
            None => is_alone,
            Some(condition) => Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(condition))),
                op: ast::BinaryOperator::And,
                right: Box::new(is_alone),
            },
        });
    });
    Some([left, rest])
}

/// `SELECT 1 FROM table WHERE condition`.
fn joined_to(query: &ast::Query, table: &TableFactor, condition: &Expr) -> ast::Query {
    let SetExpr::Select(select) = &*query.body else {
        return query.clone();
    };
    let one = ast::Value::Number("1".into(), false).with_empty_span();
    let mut select = (**select).clone();
    select.projection = vec![SelectItem::UnnamedExpr(Expr::Value(one))];
    select.from = vec![ast::TableWithJoins {
        relation: table.clone(),
        joins: Vec::new(),
    }];
    select.selection = Some(condition.clone());
    ast::Query {
        body: Box::new(SetExpr::Select(Box::new(select))),
        ..query.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(operator: SetOperation, all: bool, left: SetTree, right: SetTree) -> SetTree {
        SetTree::Operation {
            operator,
            all,
            left: Box::new(left),
            right: Box::new(right),
        }
    }

    #[test]
    fn a_row_is_in_a_set_operation_as_often_as_postgresql_says() {
        use SetOperation::{Except, Intersect, Union};
        for (operator, all, left, right, expected) in [
            (Union, true, 2, 3, 5),
            (Union, false, 2, 3, 1),
            (Union, false, 0, 0, 0),
            (Intersect, true, 2, 3, 2),
            (Intersect, false, 2, 3, 1),
            (Intersect, false, 2, 0, 0),
            (Except, true, 3, 1, 2),
            (Except, true, 1, 3, 0),
            (Except, false, 3, 0, 1),
            (Except, false, 3, 1, 0),
        ] {
            let tree = of(operator, all, SetTree::Side(0), SetTree::Side(1));
            assert_eq!(
                tree.count(&[left, right]),
                expected,
                "{tree} {left} {right}"
            );
        }
        let union = of(Union, true, SetTree::Side(0), SetTree::Side(1));
        let tree = of(Except, true, union, SetTree::Side(2));
        assert_eq!(
            tree.to_string(),
            "((side 1 UNION ALL side 2) EXCEPT ALL side 3)"
        );
        assert_eq!(tree.count(&[1, 2, 1]), 2);
        assert!(!tree.only_adds());
    }
}
