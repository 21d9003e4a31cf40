//! Runs a planned statement where it belongs, and waits for it: for its turn, its end, or whoever
//! ends it first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::plan::{Isolation, WriteVerb};
use springhead_sql::{Plan, PlanKind};
use tokio::sync::oneshot;

use super::acquire::is_nowait;
use super::advisory::wait;
use super::block::Block;
use super::outcome::{outcome, verb};
use super::statement::{ParamValue, Statement, convert, plan_simple};
use super::{Outcome, Session};
use crate::functions::{CancelFlag, CancelReason};
use crate::settings;
use crate::writer::{Command, Done, Reply, Request, needs_writer};

/// A statement that meets a catalog that has just changed is planned again so often before it asks for
/// a standstill.
pub(super) const REPLANS: usize = 4;

/// A statement's answer, or that it must be planned again.
#[expect(
    clippy::large_enum_variant,
    reason = "on its way from one function to the next"
)]
pub(super) enum Answer {
    Outcome(Outcome),
    Stale,
}

/// What a read on a snapshot gave.
struct Read {
    /// `None`: the snapshot has other definitions than the plan was made against.
    rows: Option<crate::Rows>,
    /// The snapshot's, and the tenant's own last commit in it.
    lsn: springhead_proto::Lsn,
    applied: springhead_proto::Lsn,
    /// The snapshot, if the transaction keeps it.
    held: Option<Arc<crate::tenant::HeldSnapshot>>,
}

impl Session {
    /// Runs one statement of a simple query.
    pub(super) async fn run_text(&mut self, sql: &str) -> Result<Outcome, SqlError> {
        self.refresh_identity()?;
        for _ in 0..REPLANS {
            let (plan, params) = plan_simple(self, sql)?;
            if let Answer::Outcome(outcome) = self.run_plan(sql, &plan, params).await? {
                return Ok(outcome);
            }
        }
        self.run_at_standstill(sql, |session| plan_simple(session, sql))
            .await
    }

    /// Runs a prepared statement.
    pub(super) async fn run(
        &mut self,
        statement: &Arc<Statement>,
        params: &[ParamValue<'_>],
    ) -> Result<Outcome, SqlError> {
        self.refresh_identity()?;
        for _ in 0..REPLANS {
            let plan = statement.current_plan(self)?;
            let values = convert(&plan, params)?;
            let sql = statement.sql();
            if let Answer::Outcome(outcome) = self.run_plan(sql, &plan, values).await? {
                return Ok(outcome);
            }
        }
        self.run_at_standstill(statement.sql(), |session| {
            let plan = statement.current_plan(session)?;
            let values = convert(&plan, params)?;
            Ok((plan, values))
        })
        .await
    }

    pub(super) async fn run_planned(
        &mut self,
        sql: &str,
        plan: &Arc<Plan>,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        self.tenant
            .shared
            .statements
            .fetch_add(1, Ordering::Relaxed);
        if let PlanKind::Transaction(control) = &plan.kind {
            self.expect_not_failed(Some(control))?;
            return self.control(control).await.map(Answer::Outcome);
        }
        self.expect_not_failed(None)?;
        if let PlanKind::Write(write) = &plan.kind
            && write.verb == WriteVerb::Lock
            && self.block.as_ref().is_none_or(Block::is_lone)
        {
            return Err(SqlError::new(
                ErrorCode::NoActiveTransaction,
                "LOCK TABLE can only be used in transaction blocks",
            ));
        }
        match &plan.kind {
            PlanKind::Setting(setting) => self.change_setting(setting).map(Answer::Outcome),
            PlanKind::NoEffect(tag) => Ok(Answer::Outcome(Outcome::command(*tag))),
            PlanKind::Maintenance(done) => self.maintain(*done).map(Answer::Outcome),
            PlanKind::Database(database) => self.run_database(database).await.map(Answer::Outcome),
            PlanKind::Role(statement) => {
                let done = Box::pin(self.run_role(statement)).await;
                done.map(Answer::Outcome)
            }
            PlanKind::OwnCall(call) => self.own_call(plan, call, params).await,
            PlanKind::ExplainLive(_) | PlanKind::Live(_) | PlanKind::LiveControl(_) => {
                let done = Box::pin(self.live_statement(&plan.kind, &params)).await;
                done.map(Answer::Outcome)
            }
            PlanKind::Explain(explain) => self.explain(sql, explain, params).await,
            PlanKind::Advisory(lock) => self.advisory(lock, params).await,
            PlanKind::Pause(pause) => self.pause(pause, params).await,
            PlanKind::Cursor(statement) => self.cursor(statement, params).await,
            PlanKind::Prepared(statement) => self.prepared_statement(sql, statement).await,
            PlanKind::Listen(listen) => self.listen(listen).await.map(Answer::Outcome),
            PlanKind::Do(block) => {
                let done = Box::pin(self.run_script(block)).await;
                done.map(Answer::Outcome)
            }
            PlanKind::Copy(copy) => self.copy(sql, plan, copy).await,
            PlanKind::Changes(changes) => {
                self.note_use();
                self.show_changes(changes).await.map(Answer::Outcome)
            }
            PlanKind::Ddl(ddl) if is_about_access(ddl.tag) => {
                if let Some(block) = &self.block {
                    block.expect_room_for_deed()?;
                }
                let answer = self.run_data(plan, params, None).await?;
                if matches!(answer, Answer::Outcome(_)) {
                    let object: String = ddl.source.chars().take(1000).collect();
                    self.audit(ddl.tag, &object).await;
                }
                Ok(answer)
            }
            _ => self.run_data(plan, params, None).await,
        }
    }

    /// The transaction has begun to do something; without one, one begins here.
    pub(super) fn note_use(&mut self) {
        match &mut self.block {
            Some(block) => block.used = true,
            None => self.note_start(),
        }
    }

    fn expect_not_failed(
        &self,
        control: Option<&springhead_sql::plan::TransactionControl>,
    ) -> Result<(), SqlError> {
        use springhead_sql::plan::TransactionControl::{Commit, Rollback, RollbackTo};
        let is_end = matches!(
            control,
            Some(Commit { .. } | Rollback { .. } | RollbackTo(_))
        );
        if !is_end && self.block.as_ref().is_some_and(|block| block.failed) {
            return Err(SqlError::new(
                ErrorCode::FailedTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    /// Runs what reads or changes data. With `rows`, once for each of them, as one statement.
    pub(super) async fn run_data(
        &mut self,
        plan: &Arc<Plan>,
        params: Vec<Value>,
        rows: Option<crate::Rows>,
    ) -> Result<Answer, SqlError> {
        self.note_use();
        if plan.system {
            self.look_at_catalog();
        }
        let writes = needs_writer(plan);
        // NOTIFY changes no data: a transaction that only reads may send.
        let may_always = match plan.kind {
            PlanKind::Query(ref query) => !query.locks,
            PlanKind::Notify(_) => !self.principal.read_only,
            _ => false,
        };
        if writes && !may_always {
            self.expect_writable(verb(plan))?;
        }
        match self.block.as_ref().map(|block| block.writer) {
            None if writes => self.run_alone(plan, params, rows).await,
            None | Some(None) if !writes => self.read(plan, params).await,
            Some(None) => {
                self.acquire(is_nowait(plan)).await?;
                self.run_owned(plan, params, rows).await
            }
            Some(Some(_)) | None => self.run_owned(plan, params, rows).await,
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        match &self.block {
            Some(block) => block.read_only,
            None => self
                .context
                .settings
                .lock()
                .get("default_transaction_read_only")
                .is_some_and(|value| value == "on"),
        }
    }

    /// An autocommit statement, together with its neighbours'.
    async fn run_alone(
        &mut self,
        plan: &Arc<Plan>,
        params: Vec<Value>,
        rows: Option<crate::Rows>,
    ) -> Result<Answer, SqlError> {
        let (session, plan_to_run) = (Arc::clone(&self.context), Arc::clone(plan));
        let reply = self
            .ask(true, |cancel, reply| {
                if is_nowait(plan) {
                    cancel.never_wait();
                }
                Command::Run(Request {
                    plan: plan_to_run,
                    params,
                    rows,
                    session,
                    cancel,
                    reply,
                })
            })
            .await?;
        let changed = match &reply {
            Reply::Done(done) => done.lsn,
            Reply::Stale(_) | Reply::Failed { .. } => springhead_proto::Lsn::ZERO,
        };
        let answer = self.answer(plan, reply)?;
        self.confirm(changed).await?;
        if changed == springhead_proto::Lsn::ZERO {
            self.confirm_rows(&answer).await?;
        }
        Ok(answer)
    }

    /// A statement of the transaction that has the writer.
    pub(super) async fn run_owned(
        &mut self,
        plan: &Arc<Plan>,
        params: Vec<Value>,
        rows: Option<crate::Rows>,
    ) -> Result<Answer, SqlError> {
        let Some(writer) = self.block.as_ref().and_then(|block| block.writer) else {
            return Err(SqlError::new(
                ErrorCode::Internal,
                "the transaction does not have the writer",
            ));
        };
        let (session, plan_to_run) = (Arc::clone(&self.context), Arc::clone(plan));
        let reply = self
            .ask(false, |cancel, reply| {
                Command::Execute(
                    writer,
                    Request {
                        plan: plan_to_run,
                        params,
                        rows,
                        session,
                        cancel,
                        reply,
                    },
                )
            })
            .await?;
        let answer = self.answer(plan, reply)?;
        self.confirm_rows(&answer).await?;
        Ok(answer)
    }

    fn answer(&mut self, plan: &Plan, reply: Reply) -> Result<Answer, SqlError> {
        match reply {
            Reply::Done(done) => {
                self.follow_catalog(&done);
                Ok(Answer::Outcome(outcome(plan, done)))
            }
            Reply::Stale(catalog) => {
                if let Some(block) = &mut self.block
                    && block.writer.is_some()
                {
                    block.catalog = Some(catalog);
                }
                Ok(Answer::Stale)
            }
            Reply::Failed {
                error,
                transaction_lost,
            } => {
                if transaction_lost && let Some(block) = &mut self.block {
                    block.writer = None;
                    block.savepoints.clear();
                }
                Err(error)
            }
        }
    }

    /// Asks the writer about the transaction that has it; nothing can end the wait.
    pub(super) async fn ask_owned(
        &mut self,
        command: impl FnOnce(oneshot::Sender<Reply>) -> Command,
    ) -> Result<Done, SqlError> {
        let (reply, answer) = oneshot::channel();
        self.tenant.mailbox.submit(command(reply));
        match answer.await {
            Ok(Reply::Done(done)) => Ok(done),
            Ok(Reply::Failed { error, .. }) => Err(error),
            Ok(Reply::Stale(_)) => Err(changing_catalog()),
            Err(_) => Err(outcome_unknown()),
        }
    }

    /// Asks the writer and waits for the answer, a cancel request, or a timeout. `queues`: it may
    /// have to wait for its turn, so that `lock_timeout` counts.
    pub(super) async fn ask(
        &mut self,
        queues: bool,
        command: impl FnOnce(Arc<CancelFlag>, oneshot::Sender<Reply>) -> Command,
    ) -> Result<Reply, SqlError> {
        let (reply, mut answer) = oneshot::channel();
        let statement_timeout = self.duration("statement_timeout");
        let lock_timeout = if queues {
            self.duration("lock_timeout")
        } else {
            None
        };
        let running = Arc::clone(&self.running);
        let asked = running.asked.notified();
        tokio::pin!(asked);
        // From here on a cancel request is not missed.
        asked.as_mut().enable();
        let flag = self.running.begin();
        let command = command(Arc::clone(&flag), reply);
        if statement_timeout.is_none() && lock_timeout.is_none() {
            self.is_ahead |= (self.tenant.mailbox).submit_and_run(command, self.may_run_ahead);
            // Run already: not by way of the runtime, which now and then makes a task that never waits yield,
            // and so would a client that has been told nothing yet.
            if let Ok(reply) = answer.try_recv() {
                self.running.end();
                return Ok(reply);
            }
        } else {
            self.tenant.mailbox.submit(command);
        }
        let (lock_timeout, statement_timeout) = (wait(lock_timeout), wait(statement_timeout));
        tokio::pin!(lock_timeout, statement_timeout);
        let (mut asked_to_end, mut lock_counts, mut out_of_time) = (false, true, false);
        let result = loop {
            let reason = tokio::select! {
                biased;
                result = &mut answer => break result.map_err(|_| never_answered(&flag)),
                () = asked.as_mut(), if !asked_to_end => {
                    asked_to_end = true;
                    CancelReason::User
                }
                () = lock_timeout.as_mut(), if lock_counts => {
                    lock_counts = false;
                    CancelReason::LockTimeout
                }
                () = statement_timeout.as_mut(), if !out_of_time => {
                    out_of_time = true;
                    CancelReason::StatementTimeout
                }
            };
            // One that still waits never runs; one that runs has its end for an answer, and no
            // lock to wait for any more.
            let never_runs = flag.cancel_waiting(reason) || !flag.has_started();
            if never_runs {
                break Err(flag.error().unwrap_or_else(changing_catalog));
            }
            if reason == CancelReason::StatementTimeout {
                flag.cancel(reason);
            }
        };
        self.running.end();
        result
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        let values = self.context.settings.lock();
        // Their defaults are none.
        settings::parse_duration(values.get(name)?).filter(|limit| !limit.is_zero())
    }

    async fn read(&mut self, plan: &Arc<Plan>, params: Vec<Value>) -> Result<Answer, SqlError> {
        if !matches!(plan.kind, PlanKind::Query(_)) {
            return Err(SqlError::new(
                ErrorCode::Internal,
                "this statement is no query",
            ));
        }
        self.tenant.wait_visible(self.required_lsn).await?;
        self.context.notices.lock().clear();
        (*self.context.library.lock()).clone_from(&plan.library);
        let keeps_snapshot = self
            .block
            .as_ref()
            .is_some_and(|block| block.isolation != Isolation::ReadCommitted);
        let flag = self.running.begin();
        let work = self.read_rows(plan, params, keeps_snapshot, Arc::clone(&flag));
        let statement_timeout = self.duration("statement_timeout");
        let result = {
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => result,
                () = wait(statement_timeout) => {
                    flag.cancel(CancelReason::StatementTimeout);
                    work.await
                }
            }
        };
        self.running.end();
        let Read {
            rows,
            lsn,
            applied,
            held,
        } = result?;
        if let (Some(block), Some(held)) = (&mut self.block, held) {
            block.catalog = Some(Arc::clone(&held.catalog));
            block.snapshot = Some(held);
        }
        let Some(rows) = rows else {
            // The definitions that the snapshot has may still be about to be published.
            self.tenant.wait_published(lsn).await?;
            return Ok(Answer::Stale);
        };
        let PlanKind::Query(query) = &plan.kind else {
            unreachable!("looked at above")
        };
        if !query.reads.is_empty() {
            self.confirm_read(applied).await?;
        }
        Ok(Answer::Outcome(Outcome {
            tag: format!("SELECT {}", rows.count()),
            columns: Arc::clone(&query.columns),
            rows: Some(rows),
            lsn,
            notices: std::mem::take(&mut *self.context.notices.lock()),
            ..Outcome::command("")
        }))
    }

    async fn read_rows(
        &self,
        plan: &Arc<Plan>,
        params: Vec<Value>,
        keeps_snapshot: bool,
        flag: Arc<CancelFlag>,
    ) -> Result<Read, SqlError> {
        let context = Arc::clone(&self.context);
        let plan = Arc::clone(plan);
        if !keeps_snapshot {
            let published = Arc::clone(self.tenant.published());
            return self
                .tenant
                .read(context, flag, move |snapshot, session, cancel| {
                    let catalog = published.catalog_at(snapshot.applied);
                    if catalog.is_none_or(|catalog| catalog.version != plan.catalog_version) {
                        return Ok(Read {
                            rows: None,
                            lsn: snapshot.applied,
                            applied: snapshot.applied,
                            held: None,
                        });
                    }
                    let PlanKind::Query(query) = &plan.kind else {
                        unreachable!("the caller has looked")
                    };
                    let rows = snapshot.query(&query.sql, &params, session, cancel)?;
                    Ok(Read {
                        rows: Some(rows),
                        lsn: snapshot.lsn,
                        applied: snapshot.applied,
                        held: None,
                    })
                })
                .await;
        }
        let held = match self.block.as_ref().and_then(|block| block.snapshot.clone()) {
            Some(held) => held,
            None => self.tenant.hold_snapshot().await?,
        };
        if held.catalog.version != plan.catalog_version {
            return Ok(Read {
                rows: None,
                lsn: held.lsn,
                applied: held.applied,
                held: Some(held),
            });
        }
        let (used, cancel) = (Arc::clone(&held), Arc::clone(&flag));
        let work = self.tenant.shared.readers.call(move || {
            let PlanKind::Query(query) = &plan.kind else {
                unreachable!("the caller has looked")
            };
            used.query(&query.sql, &params, &context, &cancel)
        });
        tokio::pin!(work);
        let rows = tokio::select! {
            rows = &mut work => rows??,
            () = tokio::time::sleep(self.tenant.left_of(&held)) => {
                flag.cancel(CancelReason::SnapshotTooOld);
                work.await??
            }
        };
        Ok(Read {
            rows: Some(rows),
            lsn: held.lsn,
            applied: held.applied,
            held: Some(held),
        })
    }
}

/// Whether a definition says who may see what, so that it belongs into the audit.
fn is_about_access(tag: &str) -> bool {
    matches!(tag, "GRANT" | "REVOKE") || tag.ends_with(" POLICY")
}

pub(super) fn changing_catalog() -> SqlError {
    SqlError::new(
        ErrorCode::SerializationFailure,
        "the definitions kept changing under the statement",
    )
    .with_hint("the statement might succeed if retried")
}

/// The writer drops what it does not run because it was cancelled first.
fn never_answered(flag: &CancelFlag) -> SqlError {
    flag.error()
        .filter(|_| !flag.has_started())
        .unwrap_or_else(outcome_unknown)
}

pub(super) fn outcome_unknown() -> SqlError {
    SqlError::new(
        ErrorCode::OutcomeUnknown,
        "the writer ended before it answered; the outcome is unknown",
    )
    .with_hint("look whether the change is there before you repeat it")
}
