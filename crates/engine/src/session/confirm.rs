//! The wait between the writer's answer and the client's: a commit is here, and its client asked for
//! standbys to have it too; or a read has seen commits of others that wait so.

use std::sync::Arc;

use springhead_proto::{ErrorCode, Lsn, SqlError, Value};
use springhead_sql::Plan;

use super::Session;
use super::advisory::wait;
use super::execute::Answer;
use crate::confirm::SyncLevel;
use crate::functions::CancelReason;

impl Session {
    /// Runs a planned statement; its client hears if the node has changed its role.
    pub(super) async fn run_plan(
        &mut self,
        sql: &str,
        plan: &Arc<Plan>,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        self.catch_up();
        if self.follow_role() {
            let answer = Box::pin(self.run_planned(sql, plan, params)).await;
            self.note_configured(answer.is_ok());
            return Ok(match answer? {
                Answer::Outcome(mut outcome) => {
                    let standby = self.setting("in_hot_standby").unwrap_or_default();
                    let status = ("in_hot_standby".to_owned(), standby);
                    outcome.parameter_status.push(status);
                    Answer::Outcome(outcome)
                }
                Answer::Stale => Answer::Stale,
            });
        }
        let answer = self.run_planned(sql, plan, params).await;
        self.note_configured(answer.is_ok());
        answer
    }

    /// Makes the settings that tell of the node's role say what it is now. Whether they did not.
    pub(super) fn follow_role(&mut self) -> bool {
        let is_on_standby = !self.tenant.shared.role.is_writable();
        if is_on_standby == self.is_on_standby {
            return false;
        }
        self.is_on_standby = is_on_standby;
        let word = if is_on_standby { "on" } else { "off" };
        let mut values = self.context.settings.lock();
        for name in ["in_hot_standby", "transaction_read_only"] {
            values.insert(name.to_owned(), word.to_owned());
        }
        true
    }

    /// What `synchronous_commit` says now.
    pub(super) fn sync_level(&self) -> SyncLevel {
        let configured = self.tenant.shared.config.synchronous_commit;
        let values = self.context.settings.lock();
        values
            .get("synchronous_commit")
            .and_then(|value| SyncLevel::parse(value))
            .unwrap_or(configured)
    }

    /// Waits until the commit that ends at `lsn` is as safe as the session asks.
    ///
    /// # Errors
    /// As [`Session::confirm_at`].
    pub(super) async fn confirm(&mut self, lsn: Lsn) -> Result<(), SqlError> {
        let level = self.sync_level();
        self.confirm_at(level, lsn).await
    }

    /// Waits until the commit that ends at `lsn` is as safe as `level` asks.
    ///
    /// # Errors
    /// 08007 if the wait ends first: cancelled, out of time, or because this node is no longer the
    /// primary. Never success, and never a failure either: the commit is here.
    pub(super) async fn confirm_at(&mut self, level: SyncLevel, lsn: Lsn) -> Result<(), SqlError> {
        if lsn == Lsn::ZERO {
            return Ok(());
        }
        let Some(gate) = self.tenant.shared.gate.load_full() else {
            return Ok(());
        };
        let Some(wait) = gate.confirm(lsn, level) else {
            return Ok(());
        };
        // Others may need the state file meanwhile.
        self.catch_up();
        let statement_timeout = self.duration("statement_timeout");
        let running = Arc::clone(&self.running);
        let asked = running.asked.notified();
        tokio::pin!(asked);
        asked.as_mut().enable();
        let flag = self.running.begin();
        let timeout = async {
            match statement_timeout {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            confirmed = wait => confirmed,
            () = asked => Err(unknown("the wait was cancelled", lsn)),
            () = timeout => Err(unknown("statement_timeout ended the wait", lsn)),
        };
        drop(flag);
        self.running.end();
        result
    }

    /// Rows that the writer has read wait as those of a snapshot do.
    ///
    /// # Errors
    /// As [`Session::confirm_read`].
    pub(super) async fn confirm_rows(&mut self, answer: &Answer) -> Result<(), SqlError> {
        match answer {
            Answer::Outcome(outcome) if outcome.rows.is_some() => {
                self.confirm_read(self.tenant.last_commit()).await
            }
            _ => Ok(()),
        }
    }

    /// Waits until what was read, which ends with the commit at `seen`, is confirmed as feeds wait for it:
    /// nobody acts on what the loss of this node could take back. Sessions that do not ask for standbys
    /// themselves (`synchronous_commit = local`) do not wait. Costs one look where nobody waits for standbys.
    ///
    /// # Errors
    /// 57014 if the wait is cancelled or out of time, 57P03 if this node is no longer the primary: nothing
    /// has been changed, and it may be tried again.
    pub(super) async fn confirm_read(&mut self, seen: Lsn) -> Result<(), SqlError> {
        let shared = Arc::clone(&self.tenant.shared);
        let is_safe = || shared.horizon.confirmed() >= seen;
        // The node's own reads lead to what is confirmed by itself, or tell of the node.
        let is_own = self.plan_context.system;
        if is_safe() || is_own || !shared.role.is_writable() || !self.sync_level().is_remote() {
            return Ok(());
        }
        self.catch_up();
        let statement_timeout = self.duration("statement_timeout");
        let (mut moved, mut role) = (shared.horizon.watch(), shared.role.watch());
        let waiting = async {
            while !is_safe() {
                if !shared.role.is_writable() {
                    return Err(deposed());
                }
                tokio::select! {
                    // Neither ends before the node does.
                    _ = moved.changed() => {}
                    _ = role.changed() => {}
                }
            }
            Ok(())
        };
        let running = Arc::clone(&self.running);
        let asked = running.asked.notified();
        tokio::pin!(asked);
        asked.as_mut().enable();
        let flag = self.running.begin();
        let result = tokio::select! {
            biased;
            confirmed = waiting => confirmed,
            () = asked => {
                flag.cancel(CancelReason::User);
                flag.error().map_or(Ok(()), Err)
            }
            () = wait(statement_timeout) => {
                flag.cancel(CancelReason::StatementTimeout);
                flag.error().map_or(Ok(()), Err)
            }
        };
        self.running.end();
        result
    }
}

/// What was read may not be so on the node that is the primary now.
fn deposed() -> SqlError {
    SqlError::new(
        ErrorCode::CannotConnectNow,
        "this node is no longer the primary, and what was read may not have outlived that",
    )
    .with_hint("ask again, on the new primary")
}

fn unknown(why: &str, lsn: Lsn) -> SqlError {
    SqlError::new(
        ErrorCode::OutcomeUnknown,
        format!("{why}: the commit is durable here at LSN {lsn}, and unknown on the standby"),
    )
    .with_hint(
        "it is not lost unless this node is; look whether the change is there before you repeat it",
    )
}
