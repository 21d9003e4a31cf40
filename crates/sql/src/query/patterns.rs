//! LIKE, ILIKE, SIMILAR TO, and what of char(n) is matched.

use springhead_proto::SqlError;
use sqlparser::ast::Expr;

use crate::functions::CastContext;
use crate::types::{Category, PgType};

use super::Analyzer;
use super::compare::prefix_range;
use super::typed::{Node, Typed};

impl Analyzer<'_> {
    /// LIKE and ILIKE.
    pub(crate) fn like(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
        negated: bool,
        fold_case: bool,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        let pattern = self.expression(pattern)?;
        let symbol = if fold_case { "~~*" } else { "~~" };
        let (value_text, pattern_text) = self.two_texts(symbol, &value, &pattern)?;
        let escape_text = match escape {
            None => "'\\'".to_owned(),
            Some(escape) => {
                let escape = self.expression(escape)?;
                self.coerce(&escape, &PgType::Text, CastContext::Implicit)?
            }
        };
        let name = if fold_case { "sh_ilike" } else { "sh_like" };
        let mut sql = format!("{name}({value_text},{pattern_text},{escape_text})");
        if negated {
            sql = format!("(NOT {sql})");
        } else if !fold_case
            && escape.is_none()
            && let Node::Literal(pattern) = &pattern.node
            && let Some((low, high)) = prefix_range(pattern)
        {
            // A pattern with a fixed beginning lets an index narrow the rows down.
            let low = super::names::quote_text(&low);
            let high = super::names::quote_text(&high);
            sql = format!("({value_text} >= {low} AND {value_text} < {high} AND {sql})");
        } else if !fold_case && escape.is_none() && matches!(pattern.node, Node::Param(_)) {
            // The same, once the pattern is bound.
            sql = format!(
                "({value_text} >= sh_like_low({pattern_text}) AND {value_text} < sh_like_high({pattern_text}) AND {sql})"
            );
        }
        Ok(Typed {
            nullable: value.nullable || pattern.nullable,
            ..Typed::bool(sql)
        })
    }

    pub(crate) fn similar_to(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
        negated: bool,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        let pattern = self.expression(pattern)?;
        let (value, pattern) = self.two_texts("similar to", &value, &pattern)?;
        let escape = match escape {
            None => "'\\'".to_owned(),
            Some(escape) => {
                let escape = self.expression(escape)?;
                self.coerce(&escape, &PgType::Text, CastContext::Implicit)?
            }
        };
        let not = if negated { "NOT " } else { "" };
        Ok(Typed::bool(format!(
            "({not}sh_similar({value},{pattern},{escape}))"
        )))
    }

    /// The left operand of an operator that is no comparison.
    pub(crate) fn left_operand(&mut self, symbol: &str, expr: &Expr) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        match symbol {
            "~" | "~*" | "!~" | "!~*" => self.padded(value),
            _ => Ok(value),
        }
    }

    /// What PostgreSQL matches of char(n) against a pattern: the value with its blanks, as a text. Every
    /// other value as it is.
    pub(crate) fn padded(&mut self, value: Typed) -> Result<Typed, SqlError> {
        if !matches!(value.ty, PgType::Char(_)) {
            return Ok(value);
        }
        let sql = self.text(&value)?;
        Ok(Typed {
            node: Node::Sql(sql),
            ty: PgType::Text,
            ..value
        })
    }

    fn two_texts(
        &mut self,
        symbol: &str,
        left: &Typed,
        right: &Typed,
    ) -> Result<(String, String), SqlError> {
        for side in [left, right] {
            if !side.is_unknown() && side.ty.category() != Category::String {
                return Err(self.no_operator(
                    symbol,
                    &[left.ty.clone(), right.ty.clone()],
                    left.place,
                ));
            }
        }
        let left = self.padded(left.clone())?;
        let left = self.coerce(&left, &PgType::Text, CastContext::Implicit)?;
        let right = self.coerce(right, &PgType::Text, CastContext::Implicit)?;
        Ok((left, right))
    }
}
