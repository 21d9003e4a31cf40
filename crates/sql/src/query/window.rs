//! OVER: partitions, orders and frames.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    Ident, NamedWindowExpr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowSpec, WindowType,
};

use crate::functions::CastContext;
use crate::types::PgType;

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
            parts.push(self.frame(frame)?);
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

    fn frame(&mut self, frame: &WindowFrame) -> Result<String, SqlError> {
        let units = match frame.units {
            WindowFrameUnits::Rows => "ROWS",
            WindowFrameUnits::Range => "RANGE",
            WindowFrameUnits::Groups => "GROUPS",
        };
        let start = self.bound(&frame.start_bound, frame.units)?;
        Ok(match &frame.end_bound {
            Some(end) => format!(
                "{units} BETWEEN {start} AND {}",
                self.bound(end, frame.units)?
            ),
            None => format!("{units} {start}"),
        })
    }

    fn bound(
        &mut self,
        bound: &WindowFrameBound,
        units: WindowFrameUnits,
    ) -> Result<String, SqlError> {
        let (offset, word) = match bound {
            WindowFrameBound::CurrentRow => return Ok("CURRENT ROW".to_owned()),
            WindowFrameBound::Preceding(None) => return Ok("UNBOUNDED PRECEDING".to_owned()),
            WindowFrameBound::Following(None) => return Ok("UNBOUNDED FOLLOWING".to_owned()),
            WindowFrameBound::Preceding(Some(offset)) => (offset, "PRECEDING"),
            WindowFrameBound::Following(Some(offset)) => (offset, "FOLLOWING"),
        };
        if matches!(units, WindowFrameUnits::Range) {
            return Err(SqlError::unsupported("RANGE with an offset"));
        }
        let value = self.expression(offset)?;
        let text = self.coerce(&value, &PgType::Int8, CastContext::Implicit)?;
        Ok(format!("{text} {word}"))
    }
}
