//! GROUPING SETS, ROLLUP and CUBE: one grouped query for each set, together by UNION ALL.
//!
//! In each of them the keys that its set does not have are NULLs of their types, and `grouping()` is a
//! constant. What ORDER BY computes becomes a hidden column of every part.

use std::ops::ControlFlow;

use springhead_proto::SqlError;
use sqlparser::ast::{
    self, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
    OrderBy, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, SetOperator,
    SetQuantifier, TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::Analyzer;
use super::finder;
use super::names::fold;
use super::output_name::output_name;
use super::typed::{Node, Typed};

/// More sets than this are refused, as PostgreSQL does.
const MAX_SETS: usize = 4096;

/// An identifier that starts so stands for the NULL of one of [`Analyzer::typed_nulls`].
const NULL_MARK: char = '\u{1}';

type Sets = Vec<Vec<Expr>>;

impl Analyzer<'_> {
    /// The query that means the same without grouping sets; `None` if there are none.
    pub(crate) fn without_grouping_sets(
        &mut self,
        select: &Select,
        order: &[OrderByExpr],
    ) -> Result<Option<Query>, SqlError> {
        let GroupByExpr::Expressions(expressions, modifiers) = &select.group_by else {
            return Ok(None);
        };
        let has_sets = expressions.iter().any(is_sets);
        if !has_sets || !modifiers.is_empty() {
            return Ok(None);
        }
        let items = items(select)?;
        let sets = product(expressions, &items)?;
        let mut keys: Vec<Expr> = Vec::new();
        for key in sets.iter().flatten() {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        let first_null = self.typed_nulls.len();
        self.typed_nulls.extend(keys.iter().cloned());
        let names: Vec<String> = items.iter().map(|(_, name)| name.clone()).collect();
        let (order, hidden) = outer_order(order, &names);
        let mut body: Option<SetExpr> = None;
        for set in &sets {
            let part = part(select, &items, &hidden, set, &keys, first_null)?;
            let part = SetExpr::Select(Box::new(part));
            body = Some(match body {
                None => part,
                Some(left) => SetExpr::SetOperation {
                    op: SetOperator::Union,
                    set_quantifier: SetQuantifier::All,
                    left: Box::new(left),
                    right: Box::new(part),
                },
            });
        }
        let Some(body) = body else { return Ok(None) };
        Ok(Some(outer(select, body, &names, order)?))
    }

    /// What an identifier made here stands for; `None` for every other.
    pub(crate) fn typed_null(&mut self, ident: &Ident) -> Result<Option<Typed>, SqlError> {
        let Some(place) = ident.value.strip_prefix(NULL_MARK) else {
            return Ok(None);
        };
        let Some(key) = place
            .parse::<usize>()
            .ok()
            .and_then(|place| self.typed_nulls.get(place).cloned())
        else {
            return Ok(None);
        };
        // Only its type is asked for: it need not be grouped by.
        let grouping = self.scope().grouping.take();
        let value = self.expression(&key);
        self.scope().grouping = grouping;
        let value = value?;
        Ok(Some(Typed {
            node: if value.is_unknown() {
                Node::Null
            } else {
                Node::Sql("NULL".to_owned())
            },
            nullable: true,
            origin: None,
            ..value
        }))
    }
}

fn is_sets(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)
    )
}

/// The outputs and their names.
fn items(select: &Select) -> Result<Vec<(Expr, String)>, SqlError> {
    select
        .projection
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(expr) => Ok((expr.clone(), output_name(expr))),
            SelectItem::ExprWithAlias { expr, alias } => Ok((expr.clone(), fold(alias))),
            _ => Err(SqlError::unsupported("* with GROUPING SETS")),
        })
        .collect()
}

/// Every combination of the elements of GROUP BY.
fn product(expressions: &[Expr], items: &[(Expr, String)]) -> Result<Sets, SqlError> {
    let mut sets: Sets = vec![Vec::new()];
    for expression in expressions {
        let element = element(expression, items)?;
        let mut combined = Vec::new();
        for set in &sets {
            for more in &element {
                let mut both = set.clone();
                for key in more {
                    if !both.contains(key) {
                        both.push(key.clone());
                    }
                }
                combined.push(both);
            }
        }
        if combined.len() > MAX_SETS {
            return Err(SqlError::new(
                springhead_proto::ErrorCode::TooComplex,
                format!("too many grouping sets present (maximum {MAX_SETS})"),
            ));
        }
        sets = combined;
    }
    Ok(sets)
}

fn element(expression: &Expr, items: &[(Expr, String)]) -> Result<Sets, SqlError> {
    let resolve = |keys: &[Expr]| -> Result<Vec<Expr>, SqlError> {
        let mut resolved = Vec::new();
        for key in keys {
            match key {
                Expr::Tuple(inner) => {
                    for key in inner {
                        resolved.push(named(key, items)?);
                    }
                }
                Expr::Nested(inner) => resolved.push(named(inner, items)?),
                key => resolved.push(named(key, items)?),
            }
        }
        Ok(resolved)
    };
    match expression {
        Expr::Rollup(groups) => {
            let groups = groups
                .iter()
                .map(|group| resolve(group))
                .collect::<Result<Vec<_>, _>>()?;
            Ok((0..=groups.len())
                .rev()
                .map(|count| groups[..count].concat())
                .collect())
        }
        Expr::Cube(groups) => {
            let groups = groups
                .iter()
                .map(|group| resolve(group))
                .collect::<Result<Vec<_>, _>>()?;
            if groups.len() > 12 {
                return Err(SqlError::new(
                    springhead_proto::ErrorCode::TooComplex,
                    "CUBE is limited to 12 elements",
                ));
            }
            Ok((0..1_usize << groups.len())
                .rev()
                .map(|chosen| {
                    groups
                        .iter()
                        .rev()
                        .enumerate()
                        .filter(|(place, _)| chosen >> place & 1 == 1)
                        .map(|(_, group)| group.clone())
                        .rev()
                        .collect::<Vec<_>>()
                        .concat()
                })
                .collect())
        }
        Expr::GroupingSets(groups) => {
            let mut sets = Vec::new();
            for group in groups {
                match group.as_slice() {
                    [inner] if is_sets(inner) => sets.extend(element(inner, items)?),
                    group => sets.push(resolve(group)?),
                }
            }
            Ok(sets)
        }
        plain => Ok(vec![resolve(std::slice::from_ref(plain))?]),
    }
}

/// The expression that a key is: an output by its place or its alias, or itself.
fn named(key: &Expr, items: &[(Expr, String)]) -> Result<Expr, SqlError> {
    match key {
        Expr::Value(value) => match &value.value {
            ast::Value::Number(place, _) => place
                .parse::<usize>()
                .ok()
                .and_then(|place| items.get(place.checked_sub(1)?))
                .map(|(expr, _)| expr.clone())
                .ok_or_else(|| {
                    SqlError::new(
                        springhead_proto::ErrorCode::InvalidColumnReference,
                        format!("GROUP BY position {place} is not in select list"),
                    )
                }),
            _ => Err(SqlError::unsupported("a constant in GROUPING SETS")),
        },
        Expr::Identifier(ident) => {
            let name = fold(ident);
            let aliased = items
                .iter()
                .find(|(expr, alias)| *alias == name && *expr != *key && output_name(expr) != name);
            Ok(aliased.map_or_else(|| key.clone(), |(expr, _)| expr.clone()))
        }
        other => Ok(other.clone()),
    }
}

/// ORDER BY over the whole, and what it orders by that is no output.
fn outer_order(order: &[OrderByExpr], names: &[String]) -> (Vec<OrderByExpr>, Vec<Expr>) {
    let mut hidden = Vec::new();
    let terms = order
        .iter()
        .map(|term| {
            let place = match &term.expr {
                Expr::Value(_) => None,
                Expr::Identifier(ident) => names.iter().position(|name| *name == fold(ident)),
                _ => None,
            };
            let expr = match (&term.expr, place) {
                (Expr::Value(_), _) => term.expr.clone(),
                (_, Some(place)) => column(place),
                (other, None) => {
                    hidden.push(other.clone());
                    column(names.len() + hidden.len() - 1)
                }
            };
            OrderByExpr {
                expr,
                ..term.clone()
            }
        })
        .collect();
    (terms, hidden)
}

fn column(place: usize) -> Expr {
    Expr::Identifier(Ident::with_quote('"', format!("\u{2}{place}")))
}

fn alias(place: usize) -> Ident {
    Ident::with_quote('"', format!("\u{2}{place}"))
}

/// The grouped query of one set.
fn part(
    select: &Select,
    items: &[(Expr, String)],
    hidden: &[Expr],
    set: &[Expr],
    keys: &[Expr],
    first_null: usize,
) -> Result<Select, SqlError> {
    let mut nulls = Nulls {
        set,
        keys,
        first_null,
        inside: 0,
        error: None,
    };
    let mut part = select.clone();
    part.distinct = None;
    // Counted, so that the empty set has its row even where nothing else is an aggregate.
    let count = counted()?;
    part.projection = items
        .iter()
        .map(|(expr, _)| expr.clone())
        .chain(hidden.iter().cloned())
        .chain([count])
        .enumerate()
        .map(|(place, expr)| SelectItem::ExprWithAlias {
            expr,
            alias: alias(place),
        })
        .collect();
    let _ = part.projection.visit(&mut nulls);
    if let Some(having) = &mut part.having {
        let _ = having.visit(&mut nulls);
    }
    if let Some(error) = nulls.error {
        return Err(error);
    }
    part.group_by = GroupByExpr::Expressions(set.to_vec(), Vec::new());
    Ok(part)
}

/// Puts NULLs in the place of the keys that the set does not have.
struct Nulls<'s> {
    set: &'s [Expr],
    keys: &'s [Expr],
    first_null: usize,
    /// Inside how many aggregates or subqueries: these see the rows, not the groups.
    inside: usize,
    error: Option<SqlError>,
}

impl VisitorMut for Nulls<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.inside == 0 {
            if let Some(mask) = self.grouping(expr) {
                *expr = Expr::Value(ast::Value::Number(mask.to_string(), false).into());
                return ControlFlow::Continue(());
            }
            let key = self.keys.iter().position(|key| key == expr);
            if let Some(place) = key
                && !self.set.contains(expr)
            {
                let name = format!("{NULL_MARK}{}", self.first_null + place);
                *expr = Expr::Identifier(Ident::new(name));
                return ControlFlow::Continue(());
            }
        }
        if let Expr::Function(function) = expr {
            if function.over.is_some() {
                self.error = Some(SqlError::unsupported(
                    "a window function together with GROUPING SETS",
                ));
            }
            if finder::is_aggregate(function) {
                self.inside += 1;
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && finder::is_aggregate(function)
        {
            self.inside -= 1;
        }
        ControlFlow::Continue(())
    }
}

impl Nulls<'_> {
    /// `grouping(a, b)`: a bit for each argument that the set does not have.
    fn grouping(&self, expr: &Expr) -> Option<u64> {
        let Expr::Function(Function {
            name,
            args: FunctionArguments::List(list),
            ..
        }) = expr
        else {
            return None;
        };
        if !name.to_string().eq_ignore_ascii_case("grouping") {
            return None;
        }
        list.args.iter().try_fold(0, |mask, arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) if self.keys.contains(arg) => {
                Some(mask << 1 | u64::from(!self.set.contains(arg)))
            }
            _ => None,
        })
    }
}

/// `SELECT the outputs FROM (the parts) ORDER BY …`.
fn outer(
    select: &Select,
    body: SetExpr,
    names: &[String],
    order: Vec<OrderByExpr>,
) -> Result<Query, SqlError> {
    let mut query = parsed("SELECT 1 FROM t")?;
    let union = Query {
        body: Box::new(body),
        ..query.clone()
    };
    let SetExpr::Select(outer) = &mut *query.body else {
        return Err(SqlError::unsupported("GROUPING SETS here"));
    };
    outer.distinct.clone_from(&select.distinct);
    outer.projection = names
        .iter()
        .enumerate()
        .map(|(place, name)| SelectItem::ExprWithAlias {
            expr: column(place),
            alias: Ident::with_quote('"', name.clone()),
        })
        .collect();
    outer.from = vec![TableWithJoins {
        relation: TableFactor::Derived {
            lateral: false,
            subquery: Box::new(union),
            alias: Some(TableAlias {
                explicit: true,
                name: Ident::with_quote('"', "\u{2}"),
                columns: Vec::new(),
                at: None,
            }),
            sample: None,
        },
        joins: Vec::new(),
    }];
    if !order.is_empty() {
        query.order_by = Some(OrderBy {
            kind: OrderByKind::Expressions(order),
            interpolate: None,
        });
    }
    Ok(query)
}

fn counted() -> Result<Expr, SqlError> {
    let query = parsed("SELECT count(*)")?;
    match *query.body {
        SetExpr::Select(select) => match select.projection.into_iter().next() {
            Some(SelectItem::UnnamedExpr(expr)) => Ok(expr),
            _ => Err(SqlError::unsupported("GROUPING SETS here")),
        },
        _ => Err(SqlError::unsupported("GROUPING SETS here")),
    }
}

/// One query out of a text of our own.
fn parsed(sql: &str) -> Result<Query, SqlError> {
    Parser::new(&PostgreSqlDialect {})
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_query())
        .map(|query| *query)
        .map_err(|error| {
            SqlError::new(
                springhead_proto::ErrorCode::Internal,
                format!("\"{sql}\": {error}"),
            )
        })
}
