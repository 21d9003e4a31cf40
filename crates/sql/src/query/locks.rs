//! FOR UPDATE and its kin.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Query, SetExpr};

use super::Analyzer;

impl Analyzer<'_> {
    /// The statement locks rows if the query does.
    ///
    /// # Errors
    /// 0A000 in PostgreSQL's words if the query's rows are none of a table's.
    pub(super) fn note_locks(&mut self, query: &Query) -> Result<(), SqlError> {
        if let Some(lock) = query.locks.first() {
            self.refuse_lock(query, &lock.lock_type.to_string())?;
            self.locks = true;
            let nowait = |lock: &ast::LockClause| lock.nonblock == Some(ast::NonBlock::Nowait);
            self.nowait |= query.locks.iter().any(nowait);
        }
        Ok(())
    }

    /// Refuses to lock the rows of what has none of a table's.
    fn refuse_lock(&self, query: &Query, strength: &str) -> Result<(), SqlError> {
        let what = match &*query.body {
            SetExpr::SetOperation { .. } => "UNION/INTERSECT/EXCEPT",
            SetExpr::Select(select) if select.distinct.is_some() => "DISTINCT clause",
            SetExpr::Select(select) if is_grouped(select) => "GROUP BY clause",
            SetExpr::Select(select) if select.having.is_some() => "HAVING clause",
            SetExpr::Select(select) if self.mentions_aggregate(select, &[]) => {
                "aggregate functions"
            }
            _ => return Ok(()),
        };
        Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("FOR {strength} is not allowed with {what}"),
        ))
    }
}

fn is_grouped(select: &ast::Select) -> bool {
    !matches!(&select.group_by, ast::GroupByExpr::Expressions(list, _) if list.is_empty())
}
