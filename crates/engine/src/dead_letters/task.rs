//! What the tenant's writer can be asked about dead letters: a closed set. Each is one commit.

use springhead_proto::{ErrorCode, SqlError};

use super::entry::{Attempt, Entry};
use super::policy::{self, PolicyChange};
use super::record::{DeviceFacts, Recorded, Rejected, record};
use super::redrive::{self, Redrive};
use super::retry::{Due, Retried, Retry};
use super::totals::Ended;
use super::{Author, Desk};
use crate::readers::Failure;

/// See the module.
#[derive(Clone)]
pub enum Task {
    /// A mutation that was refused before it got to the writer.
    Record(Box<Refused>),
    /// Somebody has dealt with it by hand.
    Resolve {
        id: i64,
        by: String,
        note: Option<String>,
    },
    /// What happens to a collection's entries from now on.
    PutPolicy {
        collection: String,
        violation: String,
        change: PolicyChange,
        by: String,
    },
    /// All of a collection are to be tried again from now on.
    BeginRedrive(Box<Redrive>),
    /// All of them have been, or it was given up.
    EndRedrive { collection: String },
    /// Somebody, or a redrive, wants it tried again.
    Retry(Box<Retry>),
    /// The time of these entries may be over; those whose it is not stay as they are.
    Expire(Vec<Due>),
}

/// [`Rejected`], owned.
#[derive(Debug, Clone, Default)]
pub struct Refused {
    pub session_id: Option<String>,
    pub author: Author,
    pub collection: String,
    pub document_id: Option<String>,
    pub mutation_id: u64,
    pub peer_id: String,
    pub delta: Vec<u8>,
    pub violation: String,
    pub policy_or_constraint: Option<String>,
    pub compensation: Option<String>,
    pub client_version: Option<String>,
    pub remote_addr: Option<String>,
    pub user_agent: Option<String>,
    pub base_lsn: springhead_proto::Lsn,
    pub schema_version: u64,
    pub chain: Option<i64>,
}

/// What came of a [`Task`].
#[derive(Debug, Clone)]
pub enum TaskAnswer {
    Recorded(Recorded),
    /// The entry as it is now.
    Entry(Box<Entry>),
    Done,
    Retried(Box<Retried>),
    Swept(Swept),
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub dropped: u64,
    pub escalated: u64,
    pub force_applied: u64,
    /// Resolved entries whose retention was over.
    pub forgotten: u64,
}

impl Task {
    /// Roughly what it holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Task::Record(refused) => refused.delta.len(),
            Task::Expire(due) => due.len() * size_of::<Due>(),
            Task::BeginRedrive(redrive) => redrive.collection.len(),
            Task::Retry(_)
            | Task::Resolve { .. }
            | Task::PutPolicy { .. }
            | Task::EndRedrive { .. } => 0,
        }
    }
}

impl Refused {
    fn as_rejected(&self) -> Rejected<'_> {
        Rejected {
            session_id: self.session_id.as_deref(),
            author: &self.author,
            collection: &self.collection,
            document_id: self.document_id.as_deref(),
            mutation_id: self.mutation_id,
            peer_id: &self.peer_id,
            delta: &self.delta,
            violation: &self.violation,
            policy_or_constraint: self.policy_or_constraint.as_deref(),
            compensation: self.compensation.as_deref(),
            device: DeviceFacts {
                client_version: self.client_version.as_deref(),
                remote_addr: self.remote_addr.as_deref(),
                user_agent: self.user_agent.as_deref(),
            },
            base_lsn: self.base_lsn,
            schema_version: self.schema_version,
            chain: self.chain,
        }
    }
}

/// Does what the queue's tables are enough for; [`crate::writer`] does the rest.
///
/// # Errors
/// SH006 for an entry that is not there, 55000 for one that is resolved, or what SQLite says. The
/// caller rolls back.
pub(crate) fn run(desk: &Desk<'_>, task: &Task) -> Result<TaskAnswer, Failure> {
    match task {
        Task::Record(refused) => record(desk, &refused.as_rejected()).map(TaskAnswer::Recorded),
        Task::Resolve { id, by, note } => resolve(desk, *id, by, note.clone()),
        Task::PutPolicy {
            collection,
            violation,
            change,
            by,
        } => {
            change.check(violation)?;
            policy::put(
                desk.conn,
                desk.config,
                (collection, violation),
                change,
                (by, desk.now_us),
            )?;
            Ok(TaskAnswer::Done)
        }
        Task::BeginRedrive(begun) => redrive::begin(desk, begun).map(|()| TaskAnswer::Done),
        Task::EndRedrive { collection } => {
            redrive::end(desk.conn, collection)?;
            Ok(TaskAnswer::Done)
        }
        Task::Retry(_) | Task::Expire(_) => {
            Err(SqlError::new(ErrorCode::Internal, "this takes the writer itself").into())
        }
    }
}

fn resolve(
    desk: &Desk<'_>,
    id: i64,
    by: &str,
    note: Option<String>,
) -> Result<TaskAnswer, Failure> {
    let mut entry = unresolved(desk, id)?;
    let attempt = Attempt::new(desk.now_us, "resolve", by, "resolved").with_note(note);
    desk.resolve(&mut entry, by, Ended::Resolved, attempt)?;
    Ok(TaskAnswer::Entry(Box::new(entry)))
}

/// Escalations are numbered as they come, so that the oldest are those of the lowest numbers.
pub(crate) fn forget_escalations(desk: &Desk<'_>) -> Result<(), Failure> {
    const AT_ONCE: i64 = 100;
    let before = desk
        .now_us
        .saturating_sub(policy::after(0, desk.config.dead_letter_retention));
    desk.conn
        .prepare_cached(
            "DELETE FROM t10 WHERE c1 IN (SELECT c1 FROM t10 ORDER BY c1 LIMIT ?2) AND c9 < ?1",
        )?
        .execute((before, AT_ONCE))?;
    Ok(())
}

fn unresolved(desk: &Desk<'_>, id: i64) -> Result<Entry, Failure> {
    let entry = Entry::find(desk.conn, id)?.ok_or_else(|| unknown(id))?;
    if entry.resolved {
        return Err(resolved_already(id).into());
    }
    Ok(entry)
}

pub(crate) fn resolved_already(id: i64) -> SqlError {
    SqlError::new(
        ErrorCode::ObjectNotInState,
        format!("dead letter {id} is resolved already"),
    )
}

/// What whoever names an entry that is not there, or not for them to see, is told.
#[must_use]
pub fn unknown(id: i64) -> SqlError {
    SqlError::new(
        ErrorCode::NotFound,
        format!("dead letter {id} does not exist"),
    )
}
