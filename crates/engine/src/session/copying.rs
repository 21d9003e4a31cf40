//! COPY as a session runs it: in, the client's data is awaited and then written as one statement;
//! out, the query's rows are handed out in COPY's form.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::plan::{Copy, CopyDirection};
use springhead_sql::{Plan, PlanKind};

use super::execute::{Answer, REPLANS, changing_catalog};
use super::outcome::text_rows;
use super::statement::plan_text;
use super::{Outcome, Session};
use crate::copy::{CopyIn, CopyLimits, CopyOut, CopyOutcome, CopyProgress, complete_context};

impl Session {
    pub(super) async fn copy(
        &mut self,
        sql: &str,
        plan: &Arc<Plan>,
        copy: &Copy,
    ) -> Result<Answer, SqlError> {
        if !self.streams {
            return Err(SqlError::unsupported("COPY here").with_hint("use the PostgreSQL protocol"));
        }
        match &copy.direction {
            CopyDirection::In { .. } => self.copy_in(sql, plan, copy).map(Answer::Outcome),
            CopyDirection::Out { query } => self.copy_out(query, copy).await,
            CopyDirection::Live(select) => {
                self.note_use();
                self.live_copy(select, copy).await.map(Answer::Outcome)
            }
        }
    }

    fn copy_in(&mut self, sql: &str, plan: &Arc<Plan>, copy: &Copy) -> Result<Outcome, SqlError> {
        self.note_use();
        self.expect_writable("COPY FROM")?;
        let config = &self.tenant.shared.config;
        let limits = CopyLimits {
            row_bytes: config.max_row_bytes,
            memory_bytes: config.result_memory_bytes,
            max_bytes: config.max_transaction_bytes,
        };
        let progress = self.note_copy(copy);
        let copy = CopyIn::new(Arc::clone(plan), sql.to_owned(), limits, progress);
        let mut outcome = Outcome::command("");
        outcome.copy = Some(CopyOutcome::In(Box::new(copy)));
        Ok(outcome)
    }

    /// Writes what a COPY FROM has brought, as one statement.
    ///
    /// # Errors
    /// What is wrong with the last line, or why the table does not take the rows; in a transaction
    /// block it has then failed.
    pub async fn finish_copy(&mut self, copy: CopyIn) -> Result<Outcome, SqlError> {
        let result = self.write_copy(copy).await;
        if result.is_err() {
            self.fail_block();
        }
        result
    }

    async fn write_copy(&mut self, copy: CopyIn) -> Result<Outcome, SqlError> {
        let sql = copy.sql.clone();
        let types = copy.types();
        let mut plan = Arc::clone(copy.plan());
        let rows = copy.finish()?;
        for _ in 0..4 * REPLANS {
            let PlanKind::Copy(planned) = &plan.kind else {
                return Err(changing_catalog());
            };
            let CopyDirection::In { insert, .. } = &planned.direction else {
                return Err(changing_catalog());
            };
            let same = insert
                .parameters
                .iter()
                .map(|parameter| &parameter.pg_type)
                .eq(types.iter());
            if !same {
                return Err(SqlError::new(
                    ErrorCode::ObjectNotInState,
                    "the table's columns were changed while the data came",
                )
                .with_hint("copy again"));
            }
            let answer = self
                .run_data(insert, Vec::new(), Some(rows.clone()))
                .await
                .map_err(|error| complete_context(error, &plan))?;
            if let Answer::Outcome(mut outcome) = answer {
                let count = outcome.tag.rsplit(' ').next().unwrap_or("0");
                outcome.tag = format!("COPY {count}");
                return Ok(outcome);
            }
            plan = plan_text(self, &sql, &[])?;
        }
        Err(changing_catalog())
    }

    async fn copy_out(&mut self, query: &Arc<Plan>, copy: &Copy) -> Result<Answer, SqlError> {
        let progress = self.note_copy(copy);
        let answer = self.run_data(query, Vec::new(), None).await?;
        let Answer::Outcome(mut outcome) = answer else {
            return Ok(answer);
        };
        let count = outcome.rows.as_ref().map_or(0, crate::Rows::count);
        outcome.tag = format!("COPY {count}");
        outcome.copy = Some(CopyOutcome::Out(CopyOut::new(
            copy.options.clone(),
            Arc::clone(&outcome.columns),
            progress,
        )));
        Ok(Answer::Outcome(outcome))
    }

    pub(super) fn note_copy(&self, copy: &Copy) -> Arc<CopyProgress> {
        let progress = CopyProgress::new(self.process_id, copy);
        let mut copies = self.tenant.copies.lock();
        copies.retain(|copy| copy.strong_count() > 0);
        copies.push(Arc::downgrade(&progress));
        progress
    }

    /// SHOW copies: what pg_stat_progress_copy tells in PostgreSQL.
    pub(super) fn show_copies(&self) -> Result<Outcome, SqlError> {
        let copies: Vec<Arc<CopyProgress>> = {
            let copies = self.tenant.copies.lock();
            copies.iter().filter_map(std::sync::Weak::upgrade).collect()
        };
        let rows = copies.into_iter().map(|copy| {
            vec![
                copy.process_id.to_string(),
                copy.relation.clone(),
                copy.command.to_owned(),
                copy.bytes.load(Ordering::Relaxed).to_string(),
                copy.rows.load(Ordering::Relaxed).to_string(),
            ]
        });
        text_rows("SHOW", &COPIES_COLUMNS, rows)
    }
}

/// The columns of SHOW copies.
pub const COPIES_COLUMNS: [&str; 5] = [
    "pid",
    "relation",
    "command",
    "bytes_processed",
    "tuples_processed",
];
