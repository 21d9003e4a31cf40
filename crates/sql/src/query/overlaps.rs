//! `(start, end) OVERLAPS (start, end)`.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::Expr;

use super::Analyzer;
use super::expression::place_of;
use super::typed::Typed;

impl Analyzer<'_> {
    /// `(start, end) OVERLAPS (start, end)`, where an end may be a length.
    pub(super) fn overlaps(&mut self, left: &Expr, right: &Expr) -> Result<Typed, SqlError> {
        let mut ends = Vec::with_capacity(4);
        for (side, value) in [("left", left), ("right", right)] {
            let (Expr::Tuple(values), place) = (value, place_of(value)) else {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "OVERLAPS takes two pairs of times",
                ));
            };
            if values.len() != 2 {
                let wrong = SqlError::new(
                    ErrorCode::SyntaxError,
                    format!("wrong number of parameters on {side} side of OVERLAPS expression"),
                );
                return Err(self.at(wrong, place));
            }
            for value in values {
                ends.push(self.expression(value)?);
            }
        }
        let place = ends[0].place;
        self.call_named("overlaps", &ends, place)
    }
}
