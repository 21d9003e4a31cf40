//! What the tenant's writer can be asked about dead letters: a closed set. Each is one commit.

use springhead_proto::{ErrorCode, SqlError};

use super::entry::{Attempt, Entry};
use super::policy::{self, Action, Policy, PolicyChange};
use super::record::{DeviceFacts, Recorded, Rejected, record};
use super::totals::Ended;
use super::{Author, Desk};
use crate::readers::Failure;

/// See the module.
#[derive(Debug, Clone)]
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
    /// The time of these entries may be over; those whose it is not stay as they are.
    Expire { ids: Vec<i64> },
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
            Task::Expire { ids } => ids.len() * size_of::<i64>(),
            Task::Resolve { .. } | Task::PutPolicy { .. } => 0,
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

/// Does it.
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
        Task::Expire { ids } => {
            let mut swept = Swept::default();
            for &id in ids {
                expire(desk, id, &mut swept)?;
            }
            forget_escalations(desk)?;
            Ok(TaskAnswer::Swept(swept))
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

/// Exactly once: an entry that is gone, resolved, or given more time meanwhile is left alone, and
/// what is done to it is in the same commit as its leaving.
fn expire(desk: &Desk<'_>, id: i64, swept: &mut Swept) -> Result<(), Failure> {
    let Some(entry) = Entry::find(desk.conn, id)? else {
        return Ok(());
    };
    if entry.expires_at_us > desk.now_us {
        return Ok(());
    }
    if entry.resolved {
        entry.delete(desk.conn)?;
        swept.forgotten += 1;
        return Ok(());
    }
    let policy = Policy::of(
        desk.conn,
        desk.config,
        &entry.collection,
        &entry.violation_type,
    )?;
    match policy.action {
        Action::Drop => {
            desk.drop_expired(&entry)?;
            swept.dropped += 1;
        }
        Action::Escalate | Action::ForceApplyLww => {
            desk.escalate(&entry, "ttl", None)?;
            swept.escalated += 1;
        }
    }
    springhead_log::failpoint::hit("dead_letters.expire");
    Ok(())
}

/// Escalations are numbered as they come, so that the oldest are those of the lowest numbers.
fn forget_escalations(desk: &Desk<'_>) -> Result<(), Failure> {
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
        return Err(SqlError::new(
            ErrorCode::ObjectNotInState,
            format!("dead letter {id} is resolved already"),
        )
        .into());
    }
    Ok(entry)
}

/// What whoever names an entry that is not there, or not for them to see, is told.
#[must_use]
pub fn unknown(id: i64) -> SqlError {
    SqlError::new(
        ErrorCode::NotFound,
        format!("dead letter {id} does not exist"),
    )
}
