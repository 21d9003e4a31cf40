//! Work of the engine's own in a tenant: several steps, one commit. It shares group and flush with
//! clients' statements, and like each of them it is undone alone if it fails.

use std::sync::Arc;

use springhead_proto::{Lsn, SqlError};
use tokio::sync::oneshot;

use super::Writer;
use super::run::NotDone;
use crate::checksum;
use crate::dead_letters::{self, Desk, Task, TaskAnswer};
use crate::device::DeviceTask;
use crate::functions::{CancelFlag, SessionContext};
use crate::readers::Failure;

/// What there is to do: a closed set.
pub enum Work {
    DeadLetters(dead_letters::Task),
    Device(DeviceTask),
}

/// What came of it, and the LSN of the commit's last change.
pub struct WorkDone {
    pub answer: WorkAnswer,
    pub lsn: Lsn,
}

/// By the kind of [`Work`].
pub enum WorkAnswer {
    DeadLetters(dead_letters::TaskAnswer),
    Device,
}

/// Work to do, and who wants to know.
pub struct WorkRequest {
    pub work: Work,
    pub reply: oneshot::Sender<Result<WorkDone, SqlError>>,
}

impl Work {
    /// Roughly what it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Work::DeadLetters(task) => task.bytes(),
            Work::Device(task) => task.bytes(),
        }
    }

    /// Whether it changes definitions, so that it runs alone.
    pub(super) fn defines(&self) -> bool {
        matches!(self, Work::Device(task) if task.defines())
    }
}

impl Writer {
    /// Does it in the open transaction: all of it, or nothing.
    pub(super) fn execute_work(&mut self, work: &Work) -> Result<WorkAnswer, NotDone> {
        let mark = self.capture.mark();
        let context = Arc::clone(&self.context);
        let restarts = context
            .sequences
            .as_ref()
            .map_or(0, |book| book.lock().mark());
        context.enter(
            &Arc::new(SessionContext::default()),
            &Arc::new(CancelFlag::default()),
        );
        let result = self.do_work(work);
        let result = result.and_then(|answer| {
            self.capture.take_messages();
            self.capture.check().map_err(NotDone::Failed)?;
            self.conn
                .prepare_cached("RELEASE work")
                .and_then(|mut release| release.execute([]))
                .map_err(|error| self.not_done(Failure::Sqlite(error)))?;
            Ok(answer)
        });
        let result = match result {
            Err(NotDone::Failed(error) | NotDone::TransactionLost(error)) => {
                let undone = !self.conn.is_autocommit()
                    && self
                        .conn
                        .execute_batch("ROLLBACK TO work; RELEASE work")
                        .is_ok();
                if undone {
                    self.capture.cut(mark);
                    self.undo_restarts(restarts);
                    Err(NotDone::Failed(error))
                } else {
                    Err(NotDone::TransactionLost(error))
                }
            }
            other => other,
        };
        context.leave();
        result
    }

    fn do_work(&mut self, work: &Work) -> Result<WorkAnswer, NotDone> {
        self.conn
            .prepare_cached("SAVEPOINT work")
            .and_then(|mut savepoint| savepoint.execute([]))
            .map_err(|error| self.not_done(Failure::Sqlite(error)))?;
        match work {
            Work::DeadLetters(task) => self.dead_letters(task).map(WorkAnswer::DeadLetters),
            Work::Device(task) => self.device(task).map(|()| WorkAnswer::Device),
        }
    }

    fn dead_letters(&mut self, task: &Task) -> Result<TaskAnswer, NotDone> {
        match task {
            Task::Retry(retry) => {
                let retried = self.retry_dead_letter(retry)?;
                Ok(TaskAnswer::Retried(Box::new(retried)))
            }
            Task::Expire(due) => self.expire_dead_letters(due).map(TaskAnswer::Swept),
            other => dead_letters::task::run(&self.desk(), other)
                .map_err(|failure| self.not_done(failure)),
        }
    }

    /// Where dead letters are worked on, in the open transaction.
    pub(crate) fn desk(&self) -> Desk<'_> {
        Desk {
            tenant: self.tenant,
            config: &self.config,
            conn: &self.conn,
            context: &self.context,
            catalog: &self.catalog,
            now_us: self.context.now_us(),
        }
    }

    /// A step's failure; the work's savepoint is still to be rolled back to.
    pub(super) fn not_done(&self, failure: Failure) -> NotDone {
        let damaged = matches!(&failure, Failure::Sqlite(error) if checksum::is_damage(error));
        let error = self.describe(failure);
        if damaged {
            NotDone::Damaged(error)
        } else {
            NotDone::Failed(error)
        }
    }
}
