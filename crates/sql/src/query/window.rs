//! OVER: partitions, orders and frames.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    Expr, Ident, NamedWindowExpr, OrderByExpr, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowSpec, WindowType,
};

use crate::functions::CastContext;
use crate::types::PgType;
use crate::types::interval::Interval;

use super::Analyzer;
use super::names::fold;

impl Analyzer<'_> {
    /// ` OVER (…)`, named windows written out.
    pub(crate) fn window(&mut self, window: &WindowType) -> Result<String, SqlError> {
        let spec = match window {
            WindowType::WindowSpec(spec) => self.merged(spec)?,
            WindowType::NamedWindow(name) => self.named_window(name)?,
        };
        let mut parts = Vec::new();
        if !spec.partition_by.is_empty() {
            let mut keys = Vec::with_capacity(spec.partition_by.len());
            for expr in &spec.partition_by {
                let value = self.expression(expr)?;
                keys.push(self.key_text(&value)?);
            }
            parts.push(format!("PARTITION BY {}", keys.join(",")));
        }
        if !spec.order_by.is_empty() {
            let mut terms = Vec::with_capacity(spec.order_by.len());
            for term in &spec.order_by {
                terms.push(self.order_term(term)?);
            }
            parts.push(format!("ORDER BY {}", terms.join(",")));
        }
        if let Some(frame) = &spec.window_frame {
            parts.push(self.frame(frame, &spec.order_by)?);
        }
        Ok(format!(" OVER ({})", parts.join(" ")))
    }

    fn named_window(&mut self, name: &Ident) -> Result<WindowSpec, SqlError> {
        let wanted = fold(name);
        let found = self
            .scope()
            .windows
            .iter()
            .find(|window| fold(&window.0) == wanted)
            .cloned();
        match found.map(|window| window.1) {
            Some(NamedWindowExpr::WindowSpec(spec)) => self.merged(&spec),
            Some(NamedWindowExpr::NamedWindow(other)) if fold(&other) != wanted => {
                self.nested(|a| a.named_window(&other))
            }
            _ => {
                let error = SqlError::new(
                    ErrorCode::UndefinedObject,
                    format!("window \"{wanted}\" does not exist"),
                );
                Err(self.at(error, name.span.start))
            }
        }
    }

    /// A window that builds on another.
    fn merged(&mut self, spec: &WindowSpec) -> Result<WindowSpec, SqlError> {
        let Some(base) = &spec.window_name else {
            return Ok(spec.clone());
        };
        let base_spec = self.nested(|analyzer| analyzer.named_window(base))?;
        if !spec.partition_by.is_empty()
            || !spec.order_by.is_empty() && !base_spec.order_by.is_empty()
        {
            let error = SqlError::new(
                ErrorCode::SyntaxError,
                format!(
                    "cannot override PARTITION BY or ORDER BY clause of window \"{}\"",
                    fold(base)
                ),
            );
            return Err(self.at(error, base.span.start));
        }
        let order_by = if spec.order_by.is_empty() {
            base_spec.order_by
        } else {
            spec.order_by.clone()
        };
        Ok(WindowSpec {
            window_name: None,
            partition_by: base_spec.partition_by,
            order_by,
            window_frame: spec.window_frame.clone(),
        })
    }

    fn frame(&mut self, frame: &WindowFrame, order: &[OrderByExpr]) -> Result<String, SqlError> {
        let units = match frame.units {
            WindowFrameUnits::Rows => "ROWS",
            WindowFrameUnits::Range => "RANGE",
            WindowFrameUnits::Groups => "GROUPS",
        };
        let start = self.bound(&frame.start_bound, frame.units, order)?;
        Ok(match &frame.end_bound {
            Some(end) => format!(
                "{units} BETWEEN {start} AND {}",
                self.bound(end, frame.units, order)?
            ),
            None => format!("{units} {start}"),
        })
    }

    fn bound(
        &mut self,
        bound: &WindowFrameBound,
        units: WindowFrameUnits,
        order: &[OrderByExpr],
    ) -> Result<String, SqlError> {
        let (offset, word) = match bound {
            WindowFrameBound::CurrentRow => return Ok("CURRENT ROW".to_owned()),
            WindowFrameBound::Preceding(None) => return Ok("UNBOUNDED PRECEDING".to_owned()),
            WindowFrameBound::Following(None) => return Ok("UNBOUNDED FOLLOWING".to_owned()),
            WindowFrameBound::Preceding(Some(offset)) => (offset, "PRECEDING"),
            WindowFrameBound::Following(Some(offset)) => (offset, "FOLLOWING"),
        };
        if matches!(units, WindowFrameUnits::Range) {
            let distance = self.distance(offset, order)?;
            return Ok(format!("{distance} {word}"));
        }
        let value = self.expression(offset)?;
        let text = self.coerce(&value, &PgType::Int8, CastContext::Implicit)?;
        Ok(format!("{text} {word}"))
    }

    /// An offset of RANGE, in what the ordered values are stored as.
    fn distance(&mut self, offset: &Expr, order: &[OrderByExpr]) -> Result<String, SqlError> {
        let [term] = order else {
            return Err(SqlError::new(
                ErrorCode::WindowingError,
                "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
            ));
        };
        let ordered = self.expression(&term.expr)?.ty;
        let value = self.expression(offset)?;
        let refuse = |what: &str| {
            Err(SqlError::unsupported(format_args!(
                "RANGE with an offset over {what}"
            )))
        };
        match &ordered {
            ty if ty.is_integer() => self.coerce(&value, &PgType::Int8, CastContext::Implicit),
            PgType::Float4 | PgType::Float8 => {
                self.coerce(&value, &PgType::Float8, CastContext::Implicit)
            }
            PgType::Date | PgType::Timestamp | PgType::Timestamptz => {
                let text = self.coerce(&value, &PgType::Interval, CastContext::Implicit)?;
                // SQLite wants a number here, not what computes one.
                span(&text).unwrap_or_else(|| refuse("moments that is no constant"))
            }
            other => refuse(&other.base_name()),
        }
    }
}

/// The length of a constant interval (`X'…'`) in microseconds; `None` if it is no constant.
fn span(text: &str) -> Option<Result<String, SqlError>> {
    let digits = text.strip_prefix(['x', 'X'])?.strip_prefix('\'')?;
    let digits = digits.strip_suffix('\'')?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let interval = Interval::decode(&bytes)?;
    if interval.months != 0 {
        return Some(Err(SqlError::unsupported("RANGE with an offset of months")));
    }
    let micros = i64::from(interval.days)
        .checked_mul(86_400_000_000)?
        .checked_add(interval.micros)?;
    if micros < 0 {
        return Some(Err(SqlError::new(
            ErrorCode::InvalidFrameOffset,
            "invalid preceding or following size in window function",
        )));
    }
    Some(Ok(micros.to_string()))
}
