//! What expressions of definitions say that a person or a program can use: the bounds that a CHECK
//! sets to one column, the value that a DEFAULT always gives.

use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};

/// The bounds of one column.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    pub column: String,
    pub min: Option<Bound>,
    pub max: Option<Bound>,
}

/// One bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The literal's text.
    pub text: String,
    /// The bound itself is outside.
    pub is_strict: bool,
}

/// Longest expression that is looked at, and its depth.
const MAX_BYTES: usize = 64 << 10;
const MAX_DEPTH: usize = 50;

/// The bounds that a condition sets, if it is nothing but comparisons of one column with literals,
/// all of which must hold.
#[must_use]
pub fn bounds(condition: &str) -> Option<Bounds> {
    let expr = crate::planner::parse_expression(condition, MAX_BYTES, MAX_DEPTH).ok()?;
    let mut bounds = Bounds::default();
    bounds.read(&expr)?;
    Some(bounds)
}

/// The text of the value that an expression always has, if it is a literal.
#[must_use]
pub fn constant(expression: &str) -> Option<String> {
    literal(&crate::planner::parse_expression(expression, MAX_BYTES, MAX_DEPTH).ok()?)
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => literal(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => literal(expr).map(|text| format!("-{text}")),
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => Some(number.clone()),
            Value::SingleQuotedString(text) => Some(text.clone()),
            Value::Boolean(value) => Some(value.to_string()),
            _ => None,
        },
        _ => None,
    }
}

impl Bounds {
    fn read(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Nested(inner) => self.read(inner),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And,
                right,
            } => {
                self.read(left)?;
                self.read(right)
            }
            Expr::Between {
                expr,
                negated: false,
                low,
                high,
            } => {
                self.note(expr)?;
                self.bound(&BinaryOperator::GtEq, low)?;
                self.bound(&BinaryOperator::LtEq, high)
            }
            Expr::BinaryOp { left, op, right } => match self.note(left) {
                Some(()) => self.bound(op, right),
                None => {
                    self.note(right)?;
                    self.bound(&flipped(op)?, left)
                }
            },
            _ => None,
        }
    }

    fn note(&mut self, expr: &Expr) -> Option<()> {
        let Expr::Identifier(name) = expr else {
            return None;
        };
        let name = match name.quote_style {
            Some(_) => name.value.clone(),
            None => name.value.to_lowercase(),
        };
        if !self.column.is_empty() && self.column != name {
            return None;
        }
        self.column = name;
        Some(())
    }

    fn bound(&mut self, op: &BinaryOperator, value: &Expr) -> Option<()> {
        let bound = |is_strict| literal(value).map(|text| Bound { text, is_strict });
        let (place, is_strict) = match op {
            BinaryOperator::Gt => (&mut self.min, true),
            BinaryOperator::GtEq => (&mut self.min, false),
            BinaryOperator::Lt => (&mut self.max, true),
            BinaryOperator::LtEq => (&mut self.max, false),
            _ => return None,
        };
        if place.is_some() {
            return None;
        }
        *place = Some(bound(is_strict)?);
        Some(())
    }
}

fn flipped(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{bounds, constant};

    fn check(condition: &str, expected: &str) {
        let shown = bounds(condition).map_or("none".to_owned(), |bounds| {
            let side = |bound: Option<super::Bound>| {
                bound.map_or("*".to_owned(), |bound| {
                    format!("{}{}", bound.text, if bound.is_strict { "!" } else { "" })
                })
            };
            format!(
                "{} {}..{}",
                bounds.column,
                side(bounds.min),
                side(bounds.max)
            )
        });
        assert_eq!(shown, expected, "{condition}");
    }

    #[test]
    fn conditions_that_bound_one_column_are_read() {
        check("votes >= 0", "votes 0..*");
        check("(votes > -5 AND votes < 10)", "votes -5!..10!");
        check("votes BETWEEN 1 AND 5", "votes 1..5");
        check("0 <= \"Votes\"", "Votes 0..*");
        check("price <= '9.50'::numeric", "price *..9.50");
        check("a > 0 AND b > 0", "none");
        check("a > 0 OR a < -5", "none");
        check("length(a) > 0", "none");
        check("a <> 3", "none");
    }

    #[test]
    fn literals_are_constant() {
        assert_eq!(constant("'new'::text").as_deref(), Some("new"));
        assert_eq!(constant("-1").as_deref(), Some("-1"));
        assert_eq!(constant("now()"), None);
    }
}
