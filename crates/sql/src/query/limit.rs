//! LIMIT, OFFSET and FETCH.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Expr, LimitClause, Query};

use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::body::Analyzed;
use super::scope::Scope;

impl Analyzer<'_> {
    pub(super) fn limits(
        &mut self,
        query: &Query,
        analyzed: &mut Analyzed,
    ) -> Result<(), SqlError> {
        let (mut limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(LimitClause::LimitOffset {
                limit,
                offset,
                limit_by,
            }) if limit_by.is_empty() => {
                (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
            }
            Some(_) => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "LIMIT #,# syntax is not supported",
                )
                .with_hint("Use separate LIMIT and OFFSET clauses."));
            }
        };
        let one = Expr::Value(ast::Value::Number("1".to_owned(), false).into());
        if let Some(fetch) = &query.fetch {
            if fetch.with_ties || fetch.percent {
                return Err(SqlError::unsupported("FETCH … WITH TIES or PERCENT"));
            }
            limit = Some(fetch.quantity.as_ref().unwrap_or(&one));
        }
        // LIMIT ALL is LIMIT NULL.
        if let Some(limit) = limit.filter(|limit| !is_word(limit, "all")) {
            analyzed.limit = Some(self.limit_text(limit, "LIMIT")?);
        }
        if let Some(offset) = offset {
            analyzed.offset = Some(self.limit_text(offset, "OFFSET")?);
        }
        Ok(())
    }

    fn limit_text(&mut self, expr: &Expr, construct: &str) -> Result<String, SqlError> {
        // Of what is around it, it sees a program's variables alone.
        let visible = self
            .scopes
            .iter()
            .rposition(|scope| scope.is_frame)
            .map_or(0, |frame| frame + 1);
        let hidden = self.scopes.split_off(visible);
        let value = self.in_scope(
            Scope {
                closed: visible == 0,
                aggregates_refused: Some("LIMIT"),
                windows_refused: Some("LIMIT"),
                ..Scope::default()
            },
            |analyzer| analyzer.expression(expr),
        );
        self.scopes.extend(hidden);
        let value = value?;
        let text = self.coerce(&value, &PgType::Int8, CastContext::Assignment)?;
        Ok(match text.parse::<i64>() {
            Ok(count) if count >= 0 => text,
            _ if construct == "LIMIT" => format!("sh_limit({text})"),
            _ => format!("sh_offset({text})"),
        })
    }
}

fn is_word(expr: &Expr, word: &str) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case(word))
}
