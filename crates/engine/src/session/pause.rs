//! pg_sleep() and its kin.

use std::sync::Arc;
use std::time::Duration;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::plan::Pause;

use super::advisory::wait;
use super::execute::Answer;
use super::{Outcome, Session};
use crate::rows::RowsWriter;

impl Session {
    /// Waits, until somebody or a timeout ends the wait. NULL is answered at once.
    pub(super) async fn pause(
        &mut self,
        pause: &Pause,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        let computed = Box::pin(self.run_data(&pause.seconds, params, None)).await?;
        let Answer::Outcome(mut found) = computed else {
            return Ok(Answer::Stale);
        };
        let answer = match seconds(&mut found)? {
            None => ValueRef::Null,
            Some(seconds) => {
                self.sleep(seconds).await?;
                ValueRef::Text("")
            }
        };
        let mut rows = RowsWriter::new(usize::MAX, u64::MAX);
        rows.push([answer].into_iter())?;
        Ok(Answer::Outcome(Outcome {
            columns: Arc::clone(&pause.columns),
            rows: Some(rows.finish()?),
            lsn: found.lsn,
            ..Outcome::command("SELECT 1")
        }))
    }

    /// Who has the writer sleeps no longer than an idle transaction may: nobody else writes meanwhile.
    async fn sleep(&self, seconds: f64) -> Result<(), SqlError> {
        // Longer than the clock reaches is for ever; nothing and less is no time.
        let time = if seconds > 0.0 {
            Duration::try_from_secs_f64(seconds).ok()
        } else {
            Some(Duration::ZERO)
        };
        let interrupt = self.interruptible();
        let while_owner = self
            .duration("idle_in_transaction_session_timeout")
            .filter(|_| self.holds_writer());
        tokio::select! {
            error = interrupt.asked() => Err(error),
            () = wait(self.statement_timeout()) => Err(SqlError::new(
                ErrorCode::QueryCanceled,
                "canceling statement due to statement timeout",
            )),
            () = wait(while_owner) => Err(SqlError::new(
                ErrorCode::QueryCanceled,
                "canceling pg_sleep(): its transaction has written, and others wait for it",
            )
            .with_hint("sleep before the transaction's first write, or raise idle_in_transaction_session_timeout")),
            () = wait(time) => Ok(()),
        }
    }
}

/// What the query has computed; `None` for NULL.
fn seconds(found: &mut Outcome) -> Result<Option<f64>, SqlError> {
    let Some(rows) = &mut found.rows else {
        return Ok(None);
    };
    let Some(chunk) = rows.next_chunk()? else {
        return Ok(None);
    };
    let value = chunk.rows().next().and_then(|row| row.get(0));
    Ok(match value {
        Some(ValueRef::Real(seconds)) => Some(seconds),
        #[expect(clippy::cast_precision_loss, reason = "a time of more than 2^53 s")]
        Some(ValueRef::Integer(seconds)) => Some(seconds as f64),
        _ => None,
    })
}
