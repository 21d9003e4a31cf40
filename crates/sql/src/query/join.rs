//! Joins: their kinds, ON, USING and NATURAL, and what each side sees of the other.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, JoinConstraint, JoinOperator, TableFactor, TableWithJoins};

use crate::functions::CastContext;

use super::Analyzer;
use super::from::FromItem;
use super::names;
use super::scope::{Scope, ScopeColumn};

impl Analyzer<'_> {
    /// A table and what is joined to it.
    pub(crate) fn joined(&mut self, from: &TableWithJoins) -> Result<FromItem, SqlError> {
        let mut left = self.nested(|analyzer| analyzer.factor(&from.relation))?;
        for join in &from.joins {
            let right = self.right_side(&left, join)?;
            left = self.join(left, right, &join.join_operator)?;
        }
        Ok(left)
    }

    /// What is joined: a LATERAL subquery or a function sees what it is joined to.
    fn right_side(&mut self, left: &FromItem, join: &ast::Join) -> Result<FromItem, SqlError> {
        let sees_left = matches!(
            &join.relation,
            TableFactor::Derived { lateral: true, .. }
                | TableFactor::Function { .. }
                | TableFactor::UNNEST { .. }
                | TableFactor::Table { args: Some(_), .. }
        );
        if !sees_left {
            return self.nested(|analyzer| analyzer.factor(&join.relation));
        }
        let scope = self.scope();
        let (relations, columns) = (scope.relations.len(), scope.columns.len());
        scope.relations.extend(left.relations.iter().cloned());
        scope.columns.extend(left.columns.iter().cloned());
        let right = self.nested(|analyzer| analyzer.factor(&join.relation));
        let scope = self.scope();
        scope.relations.truncate(relations);
        scope.columns.truncate(columns);
        let right = right?;
        let is_outer = !matches!(
            join.join_operator,
            JoinOperator::Join(_)
                | JoinOperator::Inner(_)
                | JoinOperator::CrossJoin(_)
                | JoinOperator::Left(_)
                | JoinOperator::LeftOuter(_)
        );
        let refers = left
            .relations
            .iter()
            .any(|relation| right.sql.contains(&format!("{}.", relation.id)));
        if is_outer && refers {
            return Err(SqlError::new(
                ErrorCode::InvalidColumnReference,
                "invalid reference to FROM-clause entry: the combining JOIN type must be INNER or LEFT for a LATERAL reference",
            ));
        }
        Ok(right)
    }

    fn join(
        &mut self,
        mut left: FromItem,
        mut right: FromItem,
        operator: &JoinOperator,
    ) -> Result<FromItem, SqlError> {
        let (word, constraint) = match operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::CrossJoin(constraint) => ("JOIN", constraint),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                ("LEFT JOIN", constraint)
            }
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
                ("RIGHT JOIN", constraint)
            }
            JoinOperator::FullOuter(constraint) => ("FULL JOIN", constraint),
            _ => return Err(SqlError::unsupported("this kind of join")),
        };
        for relation in &right.relations {
            if left
                .relations
                .iter()
                .any(|other| other.alias == relation.alias && other.schema == relation.schema)
            {
                return Err(SqlError::new(
                    ErrorCode::DuplicateAlias,
                    format!("table name \"{}\" specified more than once", relation.alias),
                ));
            }
        }
        let using = match constraint {
            JoinConstraint::Using(names) => names
                .iter()
                .map(|name| Ok(names::parts(name)?.pop().unwrap_or_default()))
                .collect::<Result<Vec<_>, SqlError>>()?,
            JoinConstraint::Natural => {
                let shared =
                    |name: &String| right.columns.iter().any(|column| column.name == *name);
                left.columns
                    .iter()
                    .map(|column| column.name.clone())
                    .filter(shared)
                    .collect()
            }
            JoinConstraint::On(_) | JoinConstraint::None => Vec::new(),
        };
        if matches!(word, "RIGHT JOIN" | "FULL JOIN") {
            left.make_nullable();
        }
        if matches!(word, "LEFT JOIN" | "FULL JOIN") {
            right.make_nullable();
        }
        let (merged, mut conditions) = self.merge_using(&mut left, &mut right, &using, word)?;
        let mut columns = merged;
        columns.append(&mut left.columns);
        columns.append(&mut right.columns);
        let mut relations = left.relations;
        relations.append(&mut right.relations);
        let right_sql = if right.is_join {
            format!("({})", right.sql)
        } else {
            right.sql
        };
        let mut item = FromItem {
            sql: String::new(),
            relations,
            columns,
            outer: left.outer || right.outer || matches!(word, "RIGHT JOIN" | "FULL JOIN"),
            is_join: true,
        };
        if let JoinConstraint::On(condition) = constraint {
            let scope = Scope {
                aggregates_refused: Some("JOIN conditions"),
                windows_refused: Some("JOIN conditions"),
                ..item.scope()
            };
            conditions
                .push(self.in_scope(scope, |analyzer| analyzer.condition(condition, "JOIN/ON"))?);
        }
        item.sql = format!("{} {word} {right_sql}", left.sql);
        if !conditions.is_empty() {
            item.sql
                .push_str(&format!(" ON {}", conditions.join(" AND ")));
        } else if word != "JOIN" {
            item.sql.push_str(" ON 1");
        }
        Ok(item)
    }

    /// Takes the columns of USING out of both sides: what they become, and the conditions.
    fn merge_using(
        &mut self,
        left: &mut FromItem,
        right: &mut FromItem,
        using: &[String],
        word: &str,
    ) -> Result<(Vec<ScopeColumn>, Vec<String>), SqlError> {
        let mut merged = Vec::with_capacity(using.len());
        let mut conditions = Vec::with_capacity(using.len());
        for name in using {
            let a = take_column(&mut left.columns, name, "left")?;
            let b = take_column(&mut right.columns, name, "right")?;
            let (a_value, b_value) = (a.typed(), b.typed());
            let test = self.compare(&ast::BinaryOperator::Eq, &a_value, &b_value)?;
            conditions.push(self.text(&test)?);
            let ty = self.common_type_of("JOIN/USING", &[&a_value, &b_value])?;
            let a_text = self.coerce(&a_value, &ty, CastContext::Implicit)?;
            let b_text = self.coerce(&b_value, &ty, CastContext::Implicit)?;
            let (sql, origin) = match word {
                "FULL JOIN" => (format!("coalesce({a_text},{b_text})"), None),
                "RIGHT JOIN" => (b_text, b.origin),
                _ => (a_text, a.origin),
            };
            let nullable = match word {
                "FULL JOIN" => true,
                "RIGHT JOIN" => b.nullable,
                _ => a.nullable,
            };
            merged.push(ScopeColumn {
                name: name.clone(),
                sql,
                ty,
                nullable,
                origin,
                used: None,
            });
        }
        Ok((merged, conditions))
    }
}

fn take_column(
    columns: &mut Vec<ScopeColumn>,
    name: &str,
    side: &str,
) -> Result<ScopeColumn, SqlError> {
    let places: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.name == name)
        .map(|(place, _)| place)
        .collect();
    match places.as_slice() {
        [place] => Ok(columns.remove(*place)),
        [] => Err(SqlError::new(
            ErrorCode::UndefinedColumn,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
        _ => Err(SqlError::new(
            ErrorCode::AmbiguousColumn,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
    }
}
