//! One tenant's writer: the only place that changes its state. A closed set of commands goes in;
//! autocommit statements of many clients share one SQLite transaction and one flush of the log, each
//! still atomic and failing alone; an interactive transaction has the writer to itself until it ends.
//!
//! ```text
//!   BEGIN ── run ── run ── run ──┐ take commits ── log.append (one flush) ── COMMIT ── publish ── reply
//!             └ fails alone: capture cut back, its neighbours do not notice
//! ```
//!
//! Who waits for what: nobody is answered before the log is durable, and nobody but a lone client
//! before the state is committed (docs/adr/0006-reply-and-commit.md).
//! [`command`] has what can be asked, [`run`] how one statement runs, [`commit`] how a group becomes durable, [`mailbox`] how
//! commands arrive.

mod adopt;
mod command;
mod commit;
mod crdt;
mod ddl;
mod dead_letters;
pub(crate) mod device;
mod durable;
mod follow;
pub(crate) mod keys;
pub mod mailbox;
pub(crate) mod mutate;
mod restore;
pub mod run;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use springhead_log::Log;
use springhead_proto::{ErrorCode, Lsn, SqlError, TenantId};
use springhead_sql::catalog::{Catalog, Table};

use crate::EngineConfig;
use crate::apply::Paused;
use crate::capture::{Capture, Mark};
use crate::functions::Context;
use crate::plans::PlanCache;
use crate::published::Published;
use crate::readers::Snapshot;
use crate::schemas::Schemas;
use crate::sequences::Moved;
use crate::sync::MutationId;
use crate::tail::Hub;
use crate::tenant::Shared;

pub use follow::MoreSlices;

pub use command::{
    Begin, Command, Done, Reply, Request, SavepointAction, TransactionId, needs_writer, refuse,
};
use command::{answer, transaction_gone};
pub use work::{Work, WorkAnswer, WorkDone, WorkRequest};

/// A tenant's writer. Used by one worker thread at a time ([`mailbox`]).
pub struct Writer {
    tenant: TenantId,
    config: Arc<EngineConfig>,
    log: Arc<dyn Log>,
    // Before `capture`: SQLite must not call the hook of a capture that is gone.
    conn: Connection,
    capture: Box<Capture>,
    context: Arc<Context>,
    catalog: Arc<Catalog>,
    schemas: Arc<Schemas>,
    hub: Arc<Hub>,
    published: Arc<Published>,
    /// For the node's role.
    shared: Arc<Shared>,
    /// Shared with the tenant's sessions.
    plans: Arc<PlanCache>,
    owner: Option<Owner>,
    /// Commands that arrived while an interactive transaction had the writer.
    waiting: VecDeque<Command>,
    /// Whether a SQLite transaction is open.
    open: bool,
    /// How long the log took for the last group.
    last_flush: Duration,
    /// Durable, acknowledged perhaps, and not in the state file yet.
    unfinished: Option<durable::Unfinished>,
    /// On a standby, once it has applied anything: foreign keys and checks are off.
    following: Option<Paused>,
    /// Whoever runs the writer now comes back to [`Writer::finish`] soon, whatever happens.
    may_leave_unfinished: bool,
    /// The statements that run are a mutation's: what is deferred is checked at its end.
    in_mutation: bool,
    /// Who edits CRDT columns where statements do: nobody else does so under this number.
    crdt_client: springhead_crdt::Client,
    /// What updates of CRDT columns have come to, while their statement runs.
    merged: Option<crdt::Merged>,
    /// Of the commits on their way into the log, by place: those that are devices' mutations.
    made_by: Vec<(usize, MutationId)>,
    /// The state before the open transaction, once it has truncated a table that a live filter is of.
    before_truncate: Option<Snapshot>,
    /// Each version of a table that the open transaction has defined, in order: rows it has written
    /// may be of any of them, though only the last is in its catalog.
    defined: Vec<Arc<Table>>,
    /// Steps of sequences that are in commits on their way into the log.
    moved: Vec<Moved>,
    /// Set for good when the log has failed or the state cannot follow it.
    dead: Option<SqlError>,
}

/// The interactive transaction that has the writer.
struct Owner {
    id: TransactionId,
    /// The catalog before it began.
    before: Arc<Catalog>,
    savepoints: Vec<Savepoint>,
    constraints: DeferredConstraints,
    /// A foreign key has been violated for a time, or still is.
    had_violations: bool,
    /// SQLite's count of violations is not right any more: rows are looked at instead.
    recounts_keys: bool,
}

struct Savepoint {
    name: String,
    mark: Mark,
    catalog: Arc<Catalog>,
    /// [`crate::sequences::SequenceBook::mark`].
    sequences: usize,
    constraints: DeferredConstraints,
}

/// SET CONSTRAINTS of one transaction.
#[derive(Default, Clone)]
pub struct DeferredConstraints {
    all: Option<bool>,
    named: Vec<(String, bool)>,
}

/// What a writer is made of.
pub struct WriterParts {
    pub tenant: TenantId,
    pub config: Arc<EngineConfig>,
    pub log: Arc<dyn Log>,
    pub conn: Connection,
    pub context: Arc<Context>,
    pub catalog: Arc<Catalog>,
    pub schemas: Arc<Schemas>,
    pub hub: Arc<Hub>,
    pub published: Arc<Published>,
    pub shared: Arc<Shared>,
    pub plans: Arc<PlanCache>,
}

impl Writer {
    /// A writer over an open state file that the log has been replayed into.
    pub fn new(parts: WriterParts) -> Writer {
        let config = parts.config;
        let capture = Capture::install(
            &parts.conn,
            config.capture_memory_bytes,
            config.max_transaction_bytes,
            config.max_row_bytes,
            Arc::clone(&parts.context.outbox),
            config.notify_transaction_bytes,
        );
        let mut writer = Writer {
            tenant: parts.tenant,
            config,
            log: parts.log,
            conn: parts.conn,
            capture,
            context: parts.context,
            catalog: Arc::clone(&parts.catalog),
            schemas: parts.schemas,
            hub: parts.hub,
            published: parts.published,
            shared: parts.shared,
            plans: parts.plans,
            owner: None,
            waiting: VecDeque::new(),
            open: false,
            last_flush: Duration::ZERO,
            unfinished: None,
            following: None,
            may_leave_unfinished: false,
            in_mutation: false,
            crdt_client: springhead_crdt::Client::new(0),
            merged: None,
            made_by: Vec::new(),
            before_truncate: None,
            defined: Vec::new(),
            moved: Vec::new(),
            dead: None,
        };
        writer.capture.fired = Arc::clone(&writer.context.fired);
        // SAFETY: the box lives beside the connection and is dropped after it, and both are used by the
        // thread that runs the writer alone.
        unsafe { writer.context.captured_by(&raw mut *writer.capture) };
        if writer.config.device && parts.tenant == TenantId::DEFAULT {
            writer.capture.note_always();
        }
        writer.capture.watched = Arc::clone(&writer.context.watched);
        writer.adopt(&parts.catalog, None);
        writer.renew_crdt_client();
        writer.capture.enabled = true;
        writer
    }

    /// As [`Writer::process`]; a lone commit may be answered before it is in the state file. The
    /// caller calls [`Writer::finish`] soon, whatever happens; true if there is need to.
    pub fn process_ahead(&mut self, commands: &mut VecDeque<Command>) -> bool {
        self.may_leave_unfinished = true;
        self.process(commands);
        self.may_leave_unfinished = false;
        self.unfinished.is_some()
    }

    /// Runs what has arrived, in order.
    pub fn process(&mut self, commands: &mut VecDeque<Command>) {
        while !commands.is_empty() {
            // Before anything else runs: it would run in the transaction that waits for its COMMIT.
            // An error has made the writer dead, which is what everyone is told.
            let _ = self.finish();
            if let Some(error) = &self.dead {
                for command in self.waiting.drain(..).chain(commands.drain(..)) {
                    refuse(command, error.clone());
                }
                return;
            }
            if !self.shared.role.is_writable() {
                // Here, where everything that writes comes by: whatever was planned or queued before
                // the role changed does not get past it.
                while let Some(command) = self.waiting.pop_front().or_else(|| commands.pop_front())
                {
                    self.refuse_write(command);
                }
                return;
            }
            match &self.owner {
                Some(owner) => {
                    let id = owner.id;
                    let Some(command) = commands.pop_front() else {
                        break;
                    };
                    if command.transaction() == Some(id) {
                        self.run_owned(command);
                        if self.owner.is_none() {
                            // Those who waited come before those who have just arrived.
                            while let Some(waiting) = self.waiting.pop_back() {
                                commands.push_front(waiting);
                            }
                        }
                    } else if let Some(error) = command.cannot_wait() {
                        refuse(command, error);
                    } else {
                        self.waiting.push_back(command);
                    }
                }
                None => self.run_group(commands),
            }
        }
    }

    /// How long the log took for the last group.
    pub(super) fn last_flush(&self) -> Duration {
        self.last_flush
    }

    /// Whether nothing is under way, so that the tenant may be closed.
    pub fn is_idle(&self) -> bool {
        self.owner.is_none() && self.waiting.is_empty() && self.unfinished.is_none()
    }

    /// Rolls back what is open and answers everyone who waits.
    pub fn stop(&mut self, error: &SqlError) {
        // What cannot be finished is replayed when the tenant opens again.
        let _ = self.finish();
        if self.owner.is_some() {
            self.end_owner_rollback();
        }
        for command in self.waiting.drain(..) {
            refuse(command, error.clone());
        }
        self.dead = Some(error.clone());
    }

    /// Whether a statement that ends is not the end of its transaction.
    fn in_transaction(&self) -> bool {
        self.owner.is_some() || self.in_mutation
    }

    fn run_owned(&mut self, command: Command) {
        match command {
            Command::Execute(_, request) => self.execute_owned(request),
            Command::Savepoint(_, action, reply) => {
                let result = self.savepoint(&action);
                answer(reply, result);
            }
            Command::Constraints(_, names, deferred, reply) => {
                let result = self.set_constraints(names, deferred);
                answer(reply, result);
            }
            Command::Commit(_, reply) => self.commit_owner(reply),
            Command::Rollback(_, reply) => {
                self.end_owner_rollback();
                if let Some(reply) = reply {
                    answer(reply, Ok(self.done(Lsn::ZERO)));
                }
            }
            Command::Run(_) | Command::Mutate(_) | Command::Begin(_) | Command::Work(_) => {
                unreachable!("these belong to no transaction")
            }
        }
    }

    fn begin_owner(&mut self, begin: Begin) {
        if !begin.cancel.start() {
            // Whoever cancelled it has answered.
            return;
        }
        if begin.reply.is_closed() {
            // A client that left would never give the writer back.
            return;
        }
        if begin
            .unchanged_since
            .is_some_and(|since| self.hub.published() > since)
        {
            let error = SqlError::new(
                ErrorCode::SerializationFailure,
                "could not serialize access due to concurrent update",
            )
            .with_hint("the transaction might succeed if retried");
            answer(begin.reply, Err(error));
            return;
        }
        let opened = self.open_transaction();
        self.owner = Some(Owner {
            id: begin.transaction,
            before: Arc::clone(&self.catalog),
            savepoints: Vec::new(),
            constraints: DeferredConstraints::default(),
            had_violations: false,
            recounts_keys: false,
        });
        let result = opened.and_then(|()| {
            for name in begin.savepoints {
                self.savepoint(&SavepointAction::Set(name))?;
            }
            Ok(self.done(Lsn::ZERO))
        });
        let begun = result.is_ok();
        if !begun {
            self.end_owner_rollback();
        }
        if !answer(begin.reply, result) && begun {
            self.end_owner_rollback();
        }
    }

    fn execute_owned(&mut self, request: Request) {
        if !request.cancel.start() {
            return;
        }
        let reply = match self.execute(&request) {
            Ok(executed) => {
                self.note_violations();
                let mut done = self.done(Lsn::ZERO);
                done.rows = executed.rows;
                done.affected = executed.affected;
                done.notices = executed.notices;
                done.catalog = executed.catalog;
                Reply::Done(done)
            }
            Err(run::NotDone::Stale) => Reply::Stale(Arc::clone(&self.catalog)),
            Err(run::NotDone::Failed(error)) => Reply::Failed {
                error,
                transaction_lost: false,
            },
            Err(run::NotDone::Damaged(error)) => {
                self.stop_damaged(&error);
                self.end_owner_rollback();
                Reply::Failed {
                    error,
                    transaction_lost: true,
                }
            }
            Err(run::NotDone::TransactionLost(error)) => {
                let transaction_lost = !self.restore_owner();
                if transaction_lost {
                    self.end_owner_rollback();
                }
                Reply::Failed {
                    error,
                    transaction_lost,
                }
            }
        };
        // A client that left does not want the answer; its rollback follows.
        let _ = request.reply.send(reply);
    }

    fn savepoint(&mut self, action: &SavepointAction) -> Result<Done, SqlError> {
        let name = match action {
            SavepointAction::Set(name)
            | SavepointAction::Release(name)
            | SavepointAction::RollbackTo(name) => name,
        };
        let restarts = self
            .context
            .sequences
            .as_ref()
            .map_or(0, |book| book.lock().mark());
        let owner = self
            .owner
            .as_mut()
            .expect("only its owner's commands come here");
        let place = owner
            .savepoints
            .iter()
            .rposition(|savepoint| savepoint.name == *name);
        let missing = || {
            SqlError::new(
                ErrorCode::InvalidSavepoint,
                format!("savepoint \"{name}\" does not exist"),
            )
        };
        // SQLite's savepoints are named by their depth: it takes names that differ by case for one.
        match action {
            SavepointAction::Set(_) => {
                let depth = owner.savepoints.len();
                let savepoint = Savepoint {
                    name: name.clone(),
                    mark: self.capture.mark(),
                    catalog: Arc::clone(&self.catalog),
                    sequences: restarts,
                    constraints: owner.constraints.clone(),
                };
                owner.savepoints.push(savepoint);
                self.batch(&format!("SAVEPOINT s{depth}"))?;
            }
            SavepointAction::Release(_) => {
                let depth = place.ok_or_else(missing)?;
                owner.savepoints.truncate(depth);
                self.batch(&format!("RELEASE s{depth}"))?;
            }
            SavepointAction::RollbackTo(_) => {
                let depth = place.ok_or_else(missing)?;
                owner.savepoints.truncate(depth + 1);
                let savepoint = &owner.savepoints[depth];
                let (mark, catalog, restarts) = (
                    savepoint.mark,
                    Arc::clone(&savepoint.catalog),
                    savepoint.sequences,
                );
                owner.constraints = savepoint.constraints.clone();
                self.batch(&format!("ROLLBACK TO s{depth}"))?;
                self.capture.cut(mark);
                self.undo_restarts(restarts);
                if catalog.version != self.catalog.version {
                    let catalog = self.go_back_to(&catalog);
                    if let Some(savepoint) = self
                        .owner
                        .as_mut()
                        .and_then(|owner| owner.savepoints.last_mut())
                    {
                        savepoint.catalog = catalog;
                    }
                }
            }
        }
        let mut done = self.done(Lsn::ZERO);
        done.catalog = Some(Arc::clone(&self.catalog));
        Ok(done)
    }

    /// Gives up the interactive transaction and everything in it.
    fn end_owner_rollback(&mut self) {
        self.roll_back();
        if let Some(owner) = self.owner.take() {
            self.forget_definitions(&owner.before);
        }
    }

    fn undo_restarts(&self, mark: usize) {
        if let Some(book) = &self.context.sequences {
            book.lock().undo_restarts(mark);
        }
    }

    fn open_transaction(&mut self) -> Result<(), SqlError> {
        debug_assert!(
            self.unfinished.is_none(),
            "a statement would join what is durable already"
        );
        if !self.open {
            self.conn
                .prepare_cached("BEGIN IMMEDIATE")
                .and_then(|mut begin| begin.execute([]))
                .map_err(|error| crate::readers::translate_plain(&error))?;
            self.open = true;
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        self.capture.clear();
        self.before_truncate = None;
        self.defined.clear();
        self.moved.clear();
        self.undo_restarts(0);
        if std::mem::take(&mut self.open)
            && !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            self.die(format!("the state file cannot roll back: {error}"));
        }
    }

    fn batch(&self, sql: &str) -> Result<(), SqlError> {
        self.conn
            .execute_batch(sql)
            .map_err(|error| crate::readers::translate_plain(&error))
    }

    fn done(&self, lsn: Lsn) -> Done {
        Done {
            rows: None,
            affected: 0,
            lsn,
            notices: Vec::new(),
            catalog: None,
        }
    }

    /// The writer is done for: nothing it says could be relied on.
    fn die(&mut self, why: String) {
        tracing::error!(tenant = self.tenant.0, "{why}");
        let error = SqlError::new(
            ErrorCode::OutcomeUnknown,
            format!("the outcome is unknown: {why}"),
        )
        .with_hint("the server ends; look whether the change is there before you repeat it");
        self.dead = Some(error);
        self.published.poison(why);
        self.hub.fail();
    }

    /// A command has ended in a panic: what the writer holds is in no known state.
    pub fn stop_panicked(&mut self) {
        self.die("the writer panicked".to_owned());
        if let Some(error) = &self.dead {
            for command in self.waiting.drain(..) {
                refuse(command, error.clone());
            }
        }
    }

    /// A statement has met damage in the state: nothing more is written on top of it. Other tenants
    /// go on, and so do this one's readers: what they read is checked.
    fn stop_damaged(&mut self, error: &SqlError) {
        tracing::error!(
            tenant = self.tenant.0,
            "nothing more is written to this tenant: {}",
            error.message
        );
        self.published.note_damage(&error.message);
        self.dead = Some(error.clone());
    }
}
