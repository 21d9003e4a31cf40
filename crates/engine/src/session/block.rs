//! Transaction blocks: BEGIN to COMMIT, savepoints, and the block that several statements of one
//! request form.
//!
//! Before its first write a block reads: at READ COMMITTED each statement the newest snapshot,
//! otherwise all the first one's. With its first write (or FOR UPDATE) it joins the queue for the
//! writer and has it to itself until it ends.

use std::sync::Arc;

use springhead_proto::{ErrorCode, Lsn, SqlError};
use springhead_sql::catalog::Catalog;
use springhead_sql::plan::{Isolation, TransactionControl};

use super::{Outcome, Session};
use crate::access::AuditEvent;
use crate::access::admin::Draft;
use crate::notify::ChannelChange;
use crate::settings;
use crate::tenant::HeldSnapshot;
use crate::writer::{Command, Done, SavepointAction, TransactionId};

/// For ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

/// An open transaction block.
pub(super) struct Block {
    /// Made by several statements of one request, not by BEGIN.
    implicit: bool,
    pub isolation: Isolation,
    pub read_only: bool,
    /// A statement has failed: nothing runs until it ends or goes back to a savepoint.
    pub failed: bool,
    /// Set while the writer is its own.
    pub writer: Option<TransactionId>,
    /// Savepoints that are set, first to last.
    pub savepoints: Vec<Savepoint>,
    /// REPEATABLE READ and SERIALIZABLE: what it reads until it writes.
    pub snapshot: Option<Arc<HeldSnapshot>>,
    /// Its own definitions, once it has changed any.
    pub catalog: Option<Arc<Catalog>>,
    /// Settings that stay when it commits.
    pub kept_settings: Vec<(String, String)>,
    /// Whether a statement has run in it.
    pub used: bool,
    /// LISTENs and UNLISTENs, which count once it has committed.
    pub channels: Vec<ChannelChange>,
    /// What it has made of the roles, once it has changed any.
    pub roles: Option<Draft>,
    /// What is in the audit once it has committed: the audit is written by the default tenant's writer,
    /// which may be this block's own until then.
    pub deeds: Vec<AuditEvent>,
}

/// Deeds that one transaction may leave to the audit.
const MAX_DEEDS: usize = 10_000;

impl Block {
    /// # Errors
    /// 54000 if no more of its deeds would find their way into the audit.
    pub fn expect_room_for_deed(&self) -> Result<(), SqlError> {
        if self.deeds.len() < MAX_DEEDS {
            return Ok(());
        }
        Err(SqlError::new(
            ErrorCode::TooComplex,
            format!("a transaction may grant and revoke {MAX_DEEDS} times"),
        )
        .with_hint("spread the statements over several transactions"))
    }

    /// Whether it is only what surrounds one statement, or the first of several.
    pub fn is_lone(&self) -> bool {
        self.implicit && !self.used
    }
}

/// A savepoint as the session knows it.
pub(super) struct Savepoint {
    pub name: String,
    /// How many of [`Session::local`] and of [`Block::kept_settings`] there were.
    settings: (usize, usize),
    /// How many of [`Block::channels`] there were.
    channels: usize,
    /// How many of [`Block::deeds`] there were.
    deeds: usize,
    /// [`Block::roles`] as they were.
    roles: Option<Draft>,
}

impl Session {
    /// Starts a transaction block that is not a client's BEGIN (several statements of one request),
    /// unless one is open.
    pub fn begin_block(&mut self) {
        if self.block.is_none() {
            self.open_block(true, None, None);
        }
    }

    /// Ends it: commits, or rolls back if a statement failed. The LSN of the commit. A client's own
    /// block stays open.
    ///
    /// # Errors
    /// Why it did not commit.
    pub async fn end_block(&mut self) -> Result<Lsn, SqlError> {
        match &self.block {
            Some(block) if block.implicit => {}
            _ => return Ok(self.tenant.visible()),
        }
        if self.block.as_ref().is_some_and(|block| block.failed) {
            self.roll_back().await;
            return Ok(self.tenant.visible());
        }
        self.commit().await
    }

    /// Rolls back whatever is open (a client that left, a timeout).
    pub async fn reset(&mut self) {
        self.roll_back().await;
    }

    pub(super) async fn abandon_implicit(&mut self) {
        if self.block.as_ref().is_some_and(|block| block.implicit) {
            self.roll_back().await;
        }
    }

    /// Gives up what is open without waiting for it.
    pub(super) fn abandon(&mut self) {
        if let Some(writer) = self.block.take().and_then(|block| block.writer) {
            self.tenant.mailbox.submit(Command::Rollback(writer, None));
        }
        self.cursors.transaction_ended(false);
        self.tenant.advisory.unlock_all(self.process_id, true);
    }

    /// A statement of the block has failed. Without a savepoint to go back to nothing of it can be
    /// saved, so the writer is freed at once.
    pub(super) fn fail_block(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
            if block.savepoints.is_empty() {
                self.tenant.advisory.unlock_all(self.process_id, true);
                block.snapshot = None;
                block.catalog = None;
                if let Some(writer) = block.writer.take() {
                    self.tenant.mailbox.submit(Command::Rollback(writer, None));
                }
            }
        }
    }

    pub(super) async fn control(
        &mut self,
        control: &TransactionControl,
    ) -> Result<Outcome, SqlError> {
        match control {
            TransactionControl::Begin {
                isolation,
                read_only,
            } => self.begin(*isolation, *read_only),
            TransactionControl::Commit { chain } => self.end(true, *chain).await,
            TransactionControl::Rollback { chain } => self.end(false, *chain).await,
            TransactionControl::Savepoint(name) => {
                self.savepoint("SAVEPOINT", SavepointAction::Set(name.clone()))
                    .await
            }
            TransactionControl::Release(name) => {
                self.savepoint("RELEASE", SavepointAction::Release(name.clone()))
                    .await
            }
            TransactionControl::RollbackTo(name) => {
                self.savepoint("ROLLBACK", SavepointAction::RollbackTo(name.clone()))
                    .await
            }
            TransactionControl::Set {
                isolation,
                read_only,
                session,
            } => self.set_transaction(*isolation, *read_only, *session),
            TransactionControl::Constraints { names, deferred } => {
                let Some(block) = &self.block else {
                    let notice = SqlError::new(
                        ErrorCode::NoActiveTransaction,
                        "SET CONSTRAINTS can only be used in transaction blocks",
                    );
                    return Ok(Outcome::command("SET CONSTRAINTS").noticed(notice));
                };
                let writer = match block.writer {
                    Some(writer) => writer,
                    None => self.acquire_writer().await?,
                };
                let (names, deferred) = (names.clone(), *deferred);
                self.ask_owned(|reply| Command::Constraints(writer, names, deferred, reply))
                    .await?;
                Ok(Outcome::command("SET CONSTRAINTS"))
            }
        }
    }

    fn open_block(
        &mut self,
        implicit: bool,
        isolation: Option<Isolation>,
        read_only: Option<bool>,
    ) {
        let setting = |name: &str| self.setting(name).unwrap_or_default();
        let isolation = isolation
            .unwrap_or_else(|| settings::isolation(&setting("default_transaction_isolation")));
        let read_only =
            read_only.unwrap_or_else(|| setting("default_transaction_read_only") == "on");
        let read_only = read_only || !self.tenant.shared.role.is_writable();
        self.note_start();
        self.block = Some(Block {
            implicit,
            isolation,
            read_only,
            failed: false,
            writer: None,
            savepoints: Vec::new(),
            snapshot: None,
            catalog: None,
            kept_settings: Vec::new(),
            used: false,
            channels: Vec::new(),
            roles: None,
            deeds: Vec::new(),
        });
        self.show_transaction();
    }

    /// SHOW transaction_isolation and transaction_read_only tell of the block.
    fn show_transaction(&self) {
        let Some(block) = &self.block else { return };
        let level = match block.isolation {
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        };
        let mut values = self.context.settings.lock();
        values.insert("transaction_isolation".to_owned(), level.to_owned());
        values.insert(
            "transaction_read_only".to_owned(),
            if block.read_only { "on" } else { "off" }.to_owned(),
        );
    }

    fn begin(
        &mut self,
        isolation: Option<Isolation>,
        read_only: Option<bool>,
    ) -> Result<Outcome, SqlError> {
        match &mut self.block {
            None => self.open_block(false, isolation, read_only),
            // The statements before it become part of the client's own block, as in PostgreSQL.
            Some(block) if block.implicit => {
                if isolation.is_some() || read_only.is_some() {
                    self.set_transaction(isolation, read_only, false)?;
                }
                if let Some(block) = &mut self.block {
                    block.implicit = false;
                }
            }
            Some(_) => {
                return Ok(Outcome::command("BEGIN").noticed(SqlError::new(
                    ErrorCode::ActiveTransaction,
                    "there is already a transaction in progress",
                )));
            }
        }
        Ok(Outcome::command("BEGIN"))
    }

    async fn end(&mut self, commit: bool, chain: bool) -> Result<Outcome, SqlError> {
        let Some(block) = &self.block else {
            if chain {
                return Err(SqlError::new(
                    ErrorCode::NoActiveTransaction,
                    "AND CHAIN can only be used in transaction blocks",
                ));
            }
            let notice = SqlError::new(
                ErrorCode::NoActiveTransaction,
                "there is no transaction in progress",
            );
            return Ok(Outcome::command(if commit { "COMMIT" } else { "ROLLBACK" }).noticed(notice));
        };
        let (isolation, read_only) = (block.isolation, block.read_only);
        let commits = commit && !block.failed;
        let lsn = if commits {
            self.commit().await?
        } else {
            self.roll_back().await;
            self.tenant.visible()
        };
        if chain {
            self.open_block(false, Some(isolation), Some(read_only));
        }
        let mut outcome = Outcome::command(if commits { "COMMIT" } else { "ROLLBACK" });
        outcome.lsn = lsn;
        Ok(outcome)
    }

    async fn commit(&mut self) -> Result<Lsn, SqlError> {
        if let Err(error) = self.expect_dropped_unnamed().await {
            self.roll_back().await;
            return Err(error);
        }
        let Some(block) = self.block.take() else {
            return Ok(self.tenant.visible());
        };
        let level = self.sync_level();
        // Of what is committed from here on the channels that it listens to hear, its own too.
        let start = self.tenant.channels.acknowledged();
        let committed = match block.writer {
            None => Ok(self.tenant.visible()),
            Some(writer) if block.roles.is_some() => {
                self.commit_roles(writer).await.map(|done| done.lsn)
            }
            Some(writer) => self
                .ask_owned(|reply| Command::Commit(writer, reply))
                .await
                .map(|done| done.lsn),
        };
        self.tenant.advisory.unlock_all(self.process_id, true);
        let wrote = block.writer.is_some();
        self.cursors.transaction_ended(committed.is_ok());
        self.restore_settings(committed.is_ok().then_some(block.kept_settings));
        if committed.is_ok() {
            self.change_channels(block.channels, start);
        }
        let noted = committed.is_ok().then(|| self.note_deeds(block.deeds));
        if wrote && let Ok(lsn) = committed {
            // With the level of the block, SET LOCAL included.
            self.confirm_at(level, lsn).await?;
        }
        if let Some(noted) = noted.flatten() {
            // A panic in it has been reported by the task itself.
            let _ = noted.await;
        }
        committed
    }

    async fn roll_back(&mut self) {
        let Some(block) = self.block.take() else {
            return;
        };
        if let Some(writer) = block.writer {
            // Whatever the answer: the transaction is gone.
            let _ = self
                .ask_owned(|reply| Command::Rollback(writer, Some(reply)))
                .await;
        }
        self.tenant.advisory.unlock_all(self.process_id, true);
        self.cursors.transaction_ended(false);
        self.restore_settings(None);
    }

    /// Puts settings back to what they were before the block, but for those that it keeps.
    fn restore_settings(&mut self, kept: Option<Vec<(String, String)>>) {
        let mut values = self.context.settings.lock();
        put_back(&mut values, self.local.drain(..));
        values.extend(kept.into_iter().flatten());
    }

    /// What set_config() has set in the statement that has ended is the transaction's, as by SET.
    pub(super) fn note_configured(&mut self, has_succeeded: bool) {
        let configured = std::mem::take(&mut *self.context.configured.lock());
        if configured.is_empty() {
            return;
        }
        let kept = (configured.iter())
            .filter(|set| !set.local && (has_succeeded || self.block.is_some()))
            .map(|set| (set.name.clone(), set.value.clone()))
            .collect::<Vec<_>>();
        let before = configured.into_iter().map(|set| (set.name, set.before));
        match &mut self.block {
            Some(block) => {
                self.local.extend(before);
                block.kept_settings.extend(kept);
            }
            None => {
                let mut values = self.context.settings.lock();
                put_back(&mut values, before.collect::<Vec<_>>().into_iter());
                values.extend(kept);
            }
        }
    }

    async fn savepoint(&mut self, tag: &str, action: SavepointAction) -> Result<Outcome, SqlError> {
        let Some(block) = &mut self.block else {
            return Err(SqlError::new(
                ErrorCode::NoActiveTransaction,
                format!("{tag} can only be used in transaction blocks"),
            ));
        };
        let place = |name: &String| {
            block
                .savepoints
                .iter()
                .rposition(|savepoint| savepoint.name == *name)
                .ok_or_else(|| {
                    SqlError::new(
                        ErrorCode::InvalidSavepoint,
                        format!("savepoint \"{name}\" does not exist"),
                    )
                })
        };
        let kept = match &action {
            SavepointAction::Set(_) => block.savepoints.len(),
            SavepointAction::Release(name) => place(name)?,
            SavepointAction::RollbackTo(name) => place(name)? + 1,
        };
        if let Some(writer) = block.writer {
            let asked = action.clone();
            let done = self
                .ask_owned(|reply| Command::Savepoint(writer, asked, reply))
                .await?;
            self.follow_catalog(&done);
        }
        let block = self.block.as_mut().expect("it was there above");
        block.savepoints.truncate(kept);
        match action {
            SavepointAction::Set(name) => {
                let settings = (self.local.len(), block.kept_settings.len());
                let (channels, deeds) = (block.channels.len(), block.deeds.len());
                let roles = block.roles.clone();
                block.savepoints.push(Savepoint {
                    name,
                    settings,
                    channels,
                    deeds,
                    roles,
                });
            }
            SavepointAction::RollbackTo(_) => {
                block.failed = false;
                self.cursors.rolled_back_to(kept);
                if let Some(Savepoint {
                    settings: (local, kept),
                    channels,
                    deeds,
                    roles,
                    ..
                }) = block.savepoints.last()
                {
                    block.roles.clone_from(roles);
                    let (local, kept) = (*local, *kept);
                    block.channels.truncate(*channels);
                    block.deeds.truncate(*deeds);
                    block.kept_settings.truncate(kept);
                    put_back(&mut self.context.settings.lock(), self.local.drain(local..));
                }
            }
            SavepointAction::Release(_) => self.cursors.released_to(kept),
        }
        Ok(Outcome::command(tag))
    }

    fn set_transaction(
        &mut self,
        isolation: Option<Isolation>,
        read_only: Option<bool>,
        session: bool,
    ) -> Result<Outcome, SqlError> {
        if !session && self.block.is_none() {
            // Its transaction is this statement.
            let notice = SqlError::new(
                ErrorCode::NoActiveTransaction,
                "SET TRANSACTION can only be used in transaction blocks",
            );
            return Ok(Outcome::command("SET").noticed(notice));
        }
        let Some(block) = self.block.as_mut().filter(|_| !session) else {
            let mut values = self.context.settings.lock();
            if let Some(isolation) = isolation {
                let level = match isolation {
                    Isolation::ReadCommitted => "read committed",
                    Isolation::RepeatableRead => "repeatable read",
                    Isolation::Serializable => "serializable",
                };
                values.insert("default_transaction_isolation".to_owned(), level.to_owned());
            }
            if let Some(read_only) = read_only {
                let word = if read_only { "on" } else { "off" };
                values.insert("default_transaction_read_only".to_owned(), word.to_owned());
            }
            return Ok(Outcome::command("SET"));
        };
        if let Some(isolation) = isolation {
            if block.used && isolation != block.isolation {
                return Err(SqlError::new(
                    ErrorCode::ActiveTransaction,
                    "SET TRANSACTION ISOLATION LEVEL must be called before any query",
                ));
            }
            block.isolation = isolation;
        }
        if let Some(read_only) = read_only {
            if block.used && block.read_only && !read_only {
                return Err(SqlError::new(
                    ErrorCode::ActiveTransaction,
                    "transaction read-write mode must be set before any query",
                ));
            }
            block.read_only = read_only;
        }
        self.show_transaction();
        Ok(Outcome::command("SET"))
    }

    /// After a statement that may have changed definitions: plan against what the block sees now.
    pub(super) fn follow_catalog(&mut self, done: &Done) {
        if let (Some(block), Some(catalog)) = (&mut self.block, &done.catalog) {
            block.catalog = Some(Arc::clone(catalog));
        }
    }
}

/// Puts settings back to what they were, newest first.
fn put_back(
    values: &mut rustc_hash::FxHashMap<String, String>,
    before: impl DoubleEndedIterator<Item = (String, Option<String>)>,
) {
    for (name, value) in before.rev() {
        match value {
            Some(value) => values.insert(name, value),
            // One that an application has made stays, and is empty, as in PostgreSQL.
            None if name.contains('.') => values.insert(name, String::new()),
            None => values.remove(&name),
        };
    }
}
