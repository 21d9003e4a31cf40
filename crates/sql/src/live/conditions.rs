//! What a filter's rows have in common that an index can look for: the conjuncts of WHERE that
//! compare a column with a constant as it is stored. They only prune; the query itself decides.

use springhead_proto::Value;
use sqlparser::ast::{self, BinaryOperator, Expr, UnaryOperator};

use crate::catalog::Column;
use crate::plan::Parameter;
use crate::types::{PgType, input};

/// A condition that every row of the result meets.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The column's id.
    pub column: u32,
    pub test: Test,
}

/// What is known of the column's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is one of these.
    Equal(Vec<Operand>),
    /// It is between these, which may be it or not.
    Range {
        low: Option<Operand>,
        high: Option<Operand>,
    },
    /// It begins with what comes before the pattern's first wildcard.
    Prefix(Operand),
}

/// What a column is compared with, in storage form.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Value(Value),
    /// Parameter, from 0.
    Parameter(usize),
    /// It is NULL.
    Null,
}

impl Test {
    /// How few rows it lets through, as far as its form tells: more is better.
    #[must_use]
    pub fn rank(&self) -> u32 {
        match self {
            Test::Equal(operands) => {
                1000_u32.saturating_sub(operands.len().try_into().unwrap_or(1000))
            }
            Test::Prefix(_) => 3,
            Test::Range {
                low: Some(_),
                high: Some(_),
            } => 2,
            Test::Range { .. } => 1,
        }
    }
}

/// What a pattern of LIKE begins with, whatever follows.
#[must_use]
pub fn literal_prefix(pattern: &str) -> &str {
    let end = pattern.find(['%', '_', '\\']).unwrap_or(pattern.len());
    &pattern[..end]
}

fn begins_anyhow(pattern: &Operand) -> bool {
    matches!(pattern, Operand::Value(Value::Text(pattern)) if literal_prefix(pattern).is_empty())
}

/// How a table is told from the other FROM items.
#[derive(Clone, Copy)]
struct Among<'p> {
    known_as: &'p str,
    /// Whether no other has a column of that name.
    is_its_own: &'p dyn Fn(&str) -> bool,
}

/// Reads conditions from WHERE.
pub(super) struct Reader<'p> {
    /// Under the names that WHERE has for them.
    columns: &'p [Column],
    parameters: &'p [Parameter],
    /// Among other FROM items.
    among: Option<Among<'p>>,
    pub found: Vec<Condition>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(columns: &'p [Column], parameters: &'p [Parameter]) -> Reader<'p> {
        Reader {
            columns,
            parameters,
            among: None,
            found: Vec::new(),
        }
    }

    /// For a table that is called `known_as` among others. `is_its_own`: no other has a column of that
    /// name.
    pub(super) fn among(
        self,
        known_as: &'p str,
        is_its_own: &'p dyn Fn(&str) -> bool,
    ) -> Reader<'p> {
        Reader {
            among: Some(Among {
                known_as,
                is_its_own,
            }),
            ..self
        }
    }

    pub(super) fn read(&mut self, condition: &Expr) {
        match condition {
            Expr::Nested(inner) => self.read(inner),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And,
                right,
            } => {
                self.read(left);
                self.read(right);
            }
            Expr::BinaryOp { left, op, right } => {
                if !self.compare(left, op, right)
                    && let Some(mirrored) = mirrored(op)
                {
                    self.compare(right, &mirrored, left);
                }
            }
            Expr::Between {
                expr,
                negated: false,
                low,
                high,
            } => {
                self.compare(expr, &BinaryOperator::GtEq, low);
                self.compare(expr, &BinaryOperator::LtEq, high);
            }
            Expr::InList {
                expr,
                list,
                negated: false,
            } => {
                if let Some(column) = self.column(expr, is_compared_as_stored) {
                    let operands: Option<Vec<_>> = (list.iter())
                        .map(|value| self.operand(value, column))
                        .collect();
                    let column = column.id;
                    self.found.extend(operands.map(|operands| Condition {
                        column,
                        test: Test::Equal(operands),
                    }));
                }
            }
            Expr::IsNull(expr) => {
                if let Some(column) = self.column(expr, |_| true) {
                    let column = column.id;
                    self.push(column, Test::Equal(vec![Operand::Null]));
                }
            }
            Expr::Like {
                negated: false,
                any: false,
                expr,
                pattern,
                escape_char: None,
            } => {
                let is_text = |ty: &PgType| matches!(ty, PgType::Text | PgType::Varchar(_));
                if let Some(column) = self.column(expr, is_text)
                    && let Some(operand) = self.operand(pattern, column)
                    && !begins_anyhow(&operand)
                {
                    let column = column.id;
                    self.push(column, Test::Prefix(operand));
                }
            }
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => self.truth(condition, true),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => self.truth(expr, false),
            _ => {}
        }
    }

    /// A boolean column as a condition.
    fn truth(&mut self, expr: &Expr, truth: bool) {
        if let Some(column) = self.column(expr, |ty| *ty == PgType::Bool) {
            let column = column.id;
            let value = Operand::Value(Value::Integer(i64::from(truth)));
            self.push(column, Test::Equal(vec![value]));
        }
    }

    fn compare(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> bool {
        let is_equal = *op == BinaryOperator::Eq;
        let types = if is_equal {
            is_compared_as_stored
        } else {
            is_ordered_as_stored
        };
        let Some(column) = self.column(left, types) else {
            return false;
        };
        let Some(operand) = self.operand(right, column) else {
            return false;
        };
        let column = column.id;
        match op {
            BinaryOperator::Eq => self.push(column, Test::Equal(vec![operand])),
            BinaryOperator::Gt | BinaryOperator::GtEq => self.bound(column, Some(operand), None),
            BinaryOperator::Lt | BinaryOperator::LtEq => self.bound(column, None, Some(operand)),
            _ => return false,
        }
        true
    }

    /// A bound of a column; with the other one of the same column it makes one range.
    fn bound(&mut self, column: u32, new_low: Option<Operand>, new_high: Option<Operand>) {
        for condition in &mut self.found {
            if condition.column == column
                && let Test::Range { low, high } = &mut condition.test
                && (low.is_none() || new_low.is_none())
                && (high.is_none() || new_high.is_none())
            {
                *low = low.take().or(new_low);
                *high = high.take().or(new_high);
                return;
            }
        }
        let test = Test::Range {
            low: new_low,
            high: new_high,
        };
        self.push(column, test);
    }

    fn push(&mut self, column: u32, test: Test) {
        self.found.push(Condition { column, test });
    }

    fn column(&self, expr: &Expr, fits: impl Fn(&PgType) -> bool) -> Option<&Column> {
        let ident = match expr {
            Expr::Nested(inner) => return self.column(inner, fits),
            Expr::Identifier(ident) => ident,
            Expr::CompoundIdentifier(parts) => parts.last()?,
            _ => return None,
        };
        let name = crate::query::names::fold(ident);
        if let Some(Among {
            known_as,
            is_its_own,
        }) = self.among
        {
            let is_meant = match expr {
                Expr::CompoundIdentifier(parts) => {
                    parts.len() == 2 && crate::query::names::fold(&parts[0]) == known_as
                }
                _ => is_its_own(&name),
            };
            if !is_meant {
                return None;
            }
        }
        (self.columns.iter())
            .find(|column| !column.hidden && column.name == name && fits(&column.pg_type))
    }

    fn operand(&self, expr: &Expr, column: &Column) -> Option<Operand> {
        let ty = &column.pg_type;
        let value = match expr {
            Expr::Nested(inner) => return self.operand(inner, column),
            // A parameter that is of the cast's type; of any other it is found out below.
            Expr::Cast { expr, .. } if is_placeholder(expr) => return self.operand(expr, column),
            Expr::Value(value) => &value.value,
            Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr,
            } if ty.is_integer() => {
                let Expr::Value(value) = &**expr else {
                    return None;
                };
                let ast::Value::Number(digits, _) = &value.value else {
                    return None;
                };
                let number = format!("-{digits}").parse().ok()?;
                return Some(Operand::Value(Value::Integer(number)));
            }
            _ => return None,
        };
        match value {
            ast::Value::Placeholder(name) => {
                let number = name.strip_prefix('$')?.parse::<usize>().ok()?;
                let index = number.checked_sub(1)?;
                let given = &self.parameters.get(index)?.pg_type;
                let is_text = |ty: &PgType| matches!(ty, PgType::Text | PgType::Varchar(_));
                let same = given.same_base(ty)
                    || given.is_integer() && ty.is_integer()
                    || is_text(given) && is_text(ty);
                same.then_some(Operand::Parameter(index))
            }
            ast::Value::Number(digits, _) if ty.is_integer() => {
                let number = digits.parse().ok()?;
                Some(Operand::Value(Value::Integer(number)))
            }
            // `now` and its kin are other values tomorrow.
            ast::Value::SingleQuotedString(text)
                if !is_datetime(ty) || text.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                let ty = match ty {
                    PgType::Varchar(_) => &PgType::Text,
                    other => other,
                };
                input(ty, text).ok().map(Operand::Value)
            }
            ast::Value::Boolean(truth) if *ty == PgType::Bool => {
                Some(Operand::Value(Value::Integer(i64::from(*truth))))
            }
            _ => None,
        }
    }
}

fn is_placeholder(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, ast::Value::Placeholder(_)))
}

fn mirrored(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Eq => BinaryOperator::Eq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        _ => return None,
    })
}

/// Types of which equal values have one storage form.
pub(super) fn is_compared_as_stored(ty: &PgType) -> bool {
    is_ordered_as_stored(ty) || matches!(ty, PgType::Uuid | PgType::Bool)
}

fn is_datetime(ty: &PgType) -> bool {
    matches!(ty, PgType::Date | PgType::Timestamp | PgType::Timestamptz)
}

/// Types whose order is that of their storage form.
fn is_ordered_as_stored(ty: &PgType) -> bool {
    matches!(
        ty,
        PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Text
            | PgType::Varchar(_)
            | PgType::Date
            | PgType::Timestamp
            | PgType::Timestamptz
    )
}
