//! What people do about dead letters: look at them, have them tried again, say that they are dealt
//! with, set policies. The same for SQL (`CALL springhead.…`) and HTTP.
//!
//! Who may is decided where it is for every table: what is shown is a SELECT of the session's, and
//! whoever acts must be able to lock the entry (SELECT … FOR UPDATE: both privileges, both policies).
//! What is then done to users' rows is done with the author's rights ([`crate::sync::Author`]).

mod calls;
mod redrive;
mod shown;

use std::sync::Arc;

use springhead_proto::sync::Operation;
use springhead_proto::{CollectionId, ErrorCode, Lsn, SqlError, ValueRef};
use springhead_sql::access::{Object, Use, decide};
use springhead_sql::catalog::Privilege;

use super::{Outcome, ParamValue, Session};
use crate::access::AuditEvent;
use crate::cdc::find_collection;
use crate::dead_letters::redrive::Turn;
use crate::dead_letters::retry::{How, Retry};
use crate::dead_letters::task::unknown;
use crate::dead_letters::{
    self, Entry, PolicyChange, PolicyInForce, Retried, Task, TaskAnswer, UNKNOWN_COLLECTION,
};
use crate::writer::{Work, WorkAnswer};

pub use redrive::REDRIVE_RATE;
pub use shown::{DeadLetterFilter, DeadLetterPage};

/// What somebody has to say about an entry, in bytes.
const MAX_NOTE_BYTES: usize = 4096;
/// Operations that may be given for a retry.
const MAX_OPERATIONS: usize = 10_000;

impl Session {
    /// Tries one again, together with those of its chain, with its author's rights; with
    /// `operations` in place of its own.
    ///
    /// # Errors
    /// 42501, SH006, 55000 for one that is resolved. A mutation that is rejected again is no error:
    /// see [`dead_letters::Outcome`].
    pub async fn retry_dead_letter(
        &mut self,
        id: i64,
        operations: Option<Vec<Operation>>,
    ) -> Result<(Retried, Lsn), SqlError> {
        if operations
            .as_ref()
            .is_some_and(|given| given.is_empty() || given.len() > MAX_OPERATIONS)
        {
            return Err(invalid(format!(
                "a mutation has 1 to {MAX_OPERATIONS} operations"
            )));
        }
        self.lock_dead_letter(id).await?;
        let done = self.retry_as(id, How::Retry, operations, None).await;
        let outcome = match &done {
            Ok((retried, _)) => match &retried.outcome {
                dead_letters::Outcome::Applied => "ok",
                dead_letters::Outcome::Rejected { error, .. } => error.code.sqlstate().0,
            },
            Err(error) => error.code.sqlstate().0,
        };
        self.audit_dead_letters("retry dead letter", id.to_string(), outcome, None)
            .await;
        done
    }

    /// Says that one has been dealt with.
    ///
    /// # Errors
    /// 42501, SH006, 55000 for one that is resolved.
    pub async fn resolve_dead_letter(
        &mut self,
        id: i64,
        note: Option<String>,
    ) -> Result<(Entry, Lsn), SqlError> {
        if note
            .as_ref()
            .is_some_and(|note| note.len() > MAX_NOTE_BYTES)
        {
            return Err(invalid(format!(
                "a note has at most {MAX_NOTE_BYTES} bytes"
            )));
        }
        self.lock_dead_letter(id).await?;
        let by = self.principal.user.to_string();
        let task = Task::Resolve { id, by, note };
        let (answer, lsn) = self.dead_letter_work(task).await?;
        self.audit_dead_letters("resolve dead letter", id.to_string(), "ok", None)
            .await;
        match answer {
            TaskAnswer::Entry(entry) => Ok((*entry, lsn)),
            _ => unreachable!("resolving is answered with the entry"),
        }
    }

    /// Sets what happens to dead letters of a collection (and, but for `*`, of one violation alone).
    /// What is in force from now on.
    ///
    /// # Errors
    /// 42501, 42P01, 22023.
    pub async fn put_dead_letter_policy(
        &mut self,
        collection: &str,
        violation: &str,
        change: PolicyChange,
    ) -> Result<(PolicyInForce, Lsn), SqlError> {
        self.expect_writable("CALL")?;
        self.refresh_identity()?;
        self.expect_on_policies(&[Privilege::Insert, Privilege::Update])?;
        change.check(violation)?;
        if collection != UNKNOWN_COLLECTION {
            find_collection(&self.tenant.catalog(), collection)?;
        }
        let task = Task::PutPolicy {
            collection: collection.to_owned(),
            violation: violation.to_owned(),
            change,
            by: self.principal.user.to_string(),
        };
        let (_, lsn) = self.dead_letter_work(task).await?;
        let object = format!("{collection}, {violation}");
        self.audit_dead_letters("set dead letter policy", object, "ok", None)
            .await;
        let tenant = Arc::clone(&self.tenant);
        tenant.wait_visible(lsn).await?;
        let in_force = tenant.dead_letter_policy(collection, violation).await?;
        Ok((in_force, lsn))
    }

    /// What is in force for a collection.
    ///
    /// # Errors
    /// 42501.
    pub async fn dead_letter_policy(
        &mut self,
        collection: &str,
        violation: &str,
    ) -> Result<PolicyInForce, SqlError> {
        self.refresh_identity()?;
        self.expect_on_policies(&[Privilege::Select])?;
        PolicyChange::default().check(violation)?;
        let tenant = Arc::clone(&self.tenant);
        tenant.dead_letter_policy(collection, violation).await
    }

    async fn retry_as(
        &mut self,
        id: i64,
        how: How,
        operations: Option<Vec<Operation>>,
        turn: Option<Turn>,
    ) -> Result<(Retried, Lsn), SqlError> {
        let engine = self
            .engine
            .clone()
            .ok_or_else(|| SqlError::unsupported("a retry here"))?;
        let members = engine
            .dead_letter_chain(&self.tenant, id, operations.is_some())
            .await?;
        let retry = Retry {
            members,
            by: self.principal.user.to_string(),
            how,
            operations,
            turn,
        };
        match self.dead_letter_work(Task::Retry(Box::new(retry))).await? {
            (TaskAnswer::Retried(retried), lsn) => Ok((*retried, lsn)),
            _ => unreachable!("a retry is answered as one"),
        }
    }

    /// Makes sure that the session may change the entry.
    async fn lock_dead_letter(&mut self, id: i64) -> Result<(), SqlError> {
        self.expect_writable("CALL")?;
        let sql = "SELECT id FROM springhead.dead_letters WHERE id = $1 FOR UPDATE";
        let number = id.to_string();
        let statement = self.prepare(sql, &[])?;
        let outcome = self
            .execute(&statement, &[ParamValue::Text(&number)])
            .await?;
        if numbers(outcome)?.is_empty() {
            return Err(unknown(id));
        }
        Ok(())
    }

    async fn lock_dead_letters_of(&mut self, collection: &str) -> Result<Vec<i64>, SqlError> {
        let sql = "SELECT id FROM springhead.dead_letters \
                   WHERE collection = $1 AND NOT resolved ORDER BY id FOR UPDATE";
        let statement = self.prepare(sql, &[])?;
        let outcome = self
            .execute(&statement, &[ParamValue::Text(collection)])
            .await?;
        numbers(outcome)
    }

    fn expect_on_policies(&self, privileges: &[Privilege]) -> Result<(), SqlError> {
        let catalog = self.tenant.catalog();
        let table = catalog
            .table(CollectionId::DEAD_LETTER_POLICIES)
            .expect("Springhead's own tables are always there");
        privileges.iter().try_for_each(|&privilege| {
            let used = Use {
                privilege,
                columns: &[],
            };
            decide(&self.plan_context.identity, Object::Table(table), used).map(drop)
        })
    }

    async fn dead_letter_work(&mut self, task: Task) -> Result<(TaskAnswer, Lsn), SqlError> {
        self.catch_up();
        let done = self.tenant.work(Work::DeadLetters(task)).await?;
        let WorkAnswer::DeadLetters(answer) = done.answer else {
            unreachable!("dead letters are answered as such")
        };
        self.confirm(done.lsn).await?;
        Ok((answer, done.lsn))
    }

    async fn audit_dead_letters(
        &self,
        action: &'static str,
        object: String,
        outcome: &'static str,
        detail: Option<String>,
    ) {
        let Some(engine) = &self.engine else { return };
        let event = AuditEvent {
            actor: self.principal.user.to_string(),
            action,
            object: Some(object),
            tenant: Some(self.tenant.name()),
            address: self.principal.address.as_ref().map(ToString::to_string),
            outcome,
            detail,
        };
        // The deed is done and durable, and the entry itself says who did it.
        if let Err(error) = Box::pin(engine.audit(vec![event])).await {
            tracing::error!(%error, action, "a deed is not in the audit");
        }
    }
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, message)
}

/// Operations as the sync protocol has them, in JSON.
///
/// # Errors
/// 22023 saying what is wrong.
pub fn read_operations(json: &str) -> Result<Vec<Operation>, SqlError> {
    serde_json::from_str(json).map_err(|error| {
        invalid(format!("the operations cannot be read: {error}")).with_hint(
            "a list such as [{\"in\":\"todos\",\"id\":[7],\"set\":{\"title\":\"milk\"}}]",
        )
    })
}

/// What somebody is told whose retry was rejected: the error that the mutation came to.
#[must_use]
pub fn rejected_again(id: i64, violation: &str, error: SqlError) -> SqlError {
    let mut told = SqlError::new(
        error.code,
        format!(
            "dead letter {id} was rejected again ({violation}): {}",
            error.message
        ),
    );
    if let Some(detail) = &error.detail {
        told = told.with_detail(detail.clone());
    }
    told.with_hint("its attempts say so too; edit and retry it, or resolve it with a note")
}

fn numbers(outcome: Outcome) -> Result<Vec<i64>, SqlError> {
    let mut numbers = Vec::new();
    let mut rows = outcome.rows.unwrap_or_default();
    while let Some(chunk) = rows.next_chunk()? {
        for row in chunk.rows() {
            if let Some(ValueRef::Integer(number)) = row.get(0) {
                numbers.push(number);
            }
        }
    }
    Ok(numbers)
}
