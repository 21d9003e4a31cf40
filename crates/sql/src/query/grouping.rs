//! GROUP BY and DISTINCT: which values make groups, and what may be named beside them.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Distinct, Expr, GroupByExpr, OrderByExpr, SelectItem};

use crate::types::PgType;

use super::Analyzer;
use super::body::{OrderKey, OrderTerm, push_order};
use super::finder::has_aggregate;
use super::names::fold;
use super::scope::Grouping;
use super::select::{Select, Unique};
use super::typed::{Node, Typed, key_of};

impl Analyzer<'_> {
    /// The expressions grouped by, in storage texts; `None` without GROUP BY.
    pub(super) fn group_by(
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

    /// 42883 for a type whose values are not compared.
    fn expect_equality(
        &self,
        ty: &PgType,
        place: sqlparser::tokenizer::Location,
    ) -> Result<(), SqlError> {
        if *ty != PgType::Json {
            return Ok(());
        }
        let error = SqlError::new(
            ErrorCode::UndefinedFunction,
            format!(
                "could not identify an equality operator for type {}",
                ty.base_name()
            ),
        );
        Err(self.at(error, place))
    }

    pub(super) fn enter_grouping(
        &mut self,
        keys: Vec<Typed>,
        result: &mut Select,
    ) -> Result<(), SqlError> {
        let mut grouping = Grouping::default();
        for key in &keys {
            let ty = Self::settled(key);
            self.expect_equality(&ty, key.place)?;
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
    pub(super) fn mentions_aggregate(&self, select: &ast::Select, order: &[OrderByExpr]) -> bool {
        let items = select.projection.iter().filter_map(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
            _ => None,
        });
        items
            .chain(order.iter().map(|term| &term.expr))
            .any(has_aggregate)
    }

    pub(super) fn distinct(
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
                for item in &result.items {
                    self.expect_equality(&item.ty, item.place)?;
                }
                result.distinct = Some(Unique::All);
                Ok(())
            }
            Some(Distinct::On(expressions)) if expressions.is_empty() => Err(SqlError::new(
                ErrorCode::SyntaxError,
                "syntax error at or near \")\"",
            )),
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

/// DISTINCT ON: the first row of each set of equal keys, in the query's order.
pub(super) fn first_of_each(
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
