//! A rejection comes in.

use springhead_proto::{Lsn, SqlError};

use super::entry::{Attempt, Entry};
use super::policy::{OnFull, Policy, VIOLATIONS};
use super::totals::{self, Counts};
use super::{Author, Desk};
use crate::readers::Failure;

/// A mutation that has been rejected, and why.
#[derive(Debug, Clone, Copy)]
pub struct Rejected<'a> {
    pub session_id: Option<&'a str>,
    pub author: &'a Author,
    /// Of its first operation, as the mutation names it.
    pub collection: &'a str,
    pub document_id: Option<&'a str>,
    /// The mutation's seq.
    pub mutation_id: u64,
    /// Its producer.
    pub peer_id: &'a str,
    /// The mutation, whole: a push frame's body with it alone.
    pub delta: &'a [u8],
    /// The violation's display text.
    pub violation: &'a str,
    pub policy_or_constraint: Option<&'a str>,
    /// The hint, as JSON.
    pub compensation: Option<&'a str>,
    pub device: DeviceFacts<'a>,
    pub base_lsn: Lsn,
    pub schema_version: u64,
    /// The dead letter at the head of the chain, for a dependent of another.
    pub chain: Option<i64>,
}

/// What is known of the device.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceFacts<'a> {
    pub client_version: Option<&'a str>,
    /// As the server has seen it.
    pub remote_addr: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is a dead letter.
    Kept { id: i64 },
    /// The collection's dead letters are full and its policy is `reject_push`: nothing has been
    /// changed, and the device is told to come back.
    Full { after_ms: u64 },
}

/// After how long a device comes back when there was no room.
const FULL_RETRY_MS: u64 = 30_000;
/// How many entries make room for one at most, when a queue has become smaller.
const MAX_ROOM: usize = 16;
/// Longer texts of a device are cut.
const MAX_TEXT_BYTES: usize = 1024;

/// Keeps a rejected mutation, in the open transaction of the tenant's writer. If that is rolled back,
/// so is this; the entry, whom it displaced and the counts are part of the same commit.
///
/// # Errors
/// What SQLite says; the transaction is then to be rolled back to before the call.
pub fn record(desk: &Desk<'_>, rejected: &Rejected<'_>) -> Result<Recorded, Failure> {
    let queue = desk.queue(rejected.collection);
    let word = word(rejected.violation)?;
    let policy = Policy::of(desk.conn, desk.config, queue, word)?;
    let most = i64::try_from(policy.max_entries).unwrap_or(i64::MAX);
    let mut unresolved = Counts::of_collection(desk.conn, queue)?.unresolved;
    if unresolved >= most && policy.on_full == OnFull::RejectPush {
        return Ok(Recorded::Full {
            after_ms: FULL_RETRY_MS,
        });
    }
    for _ in 0..MAX_ROOM {
        if unresolved < most {
            break;
        }
        // There is one: the count is of what is there.
        let Some(oldest) = desk.oldest(queue)? else {
            break;
        };
        springhead_log::failpoint::hit("dead_letters.overflow");
        desk.escalate(&oldest, "capacity", None)?;
        unresolved -= 1;
    }
    let id = desk.next_id()?;
    let entry = entry(desk, rejected, id, queue, word, &policy);
    entry.insert(desk.conn)?;
    totals::came(desk.conn, queue, word)?;
    if let Some(head) = rejected.chain
        && let Some(mut head) = Entry::find(desk.conn, head)?
        && let Some(push) = head.attempts.first_mut()
    {
        push.dependents.push(id);
        head.update(desk.conn)?;
    }
    springhead_log::failpoint::hit("dead_letters.record");
    Ok(Recorded::Kept { id })
}

fn entry(
    desk: &Desk<'_>,
    rejected: &Rejected<'_>,
    id: i64,
    queue: &str,
    word: &str,
    policy: &Policy,
) -> Entry {
    let author = rejected.author;
    let mut push = Attempt::new(desk.now_us, "push", &author.username, rejected.violation);
    push.uid = Some(author.uid.clone());
    push.claims.clone_from(&author.claims);
    push.chain = rejected.chain;
    let device = rejected.device;
    let device_metadata = serde_json::json!({
        "client_version": device.client_version.map(cut),
        "remote_addr": device.remote_addr,
        "peer_id": rejected.peer_id,
        "user_agent": device.user_agent.map(cut),
    });
    Entry {
        id,
        tenant_id: i64::from(desk.tenant.0),
        session_id: rejected.session_id.map(str::to_owned),
        username: author.username.clone(),
        collection: queue.to_owned(),
        document_id: rejected.document_id.map(|id| cut(id).to_owned()),
        mutation_id: number(rejected.mutation_id),
        peer_id: rejected.peer_id.to_owned(),
        delta: rejected.delta.to_vec(),
        violation_type: word.to_owned(),
        compensation: rejected.compensation.map(str::to_owned),
        created_at_us: desk.now_us,
        device_metadata: device_metadata.to_string(),
        retry_count: 0,
        resolved: false,
        resolved_by: None,
        resolved_at_us: None,
        base_lsn: number(rejected.base_lsn.0),
        schema_version: number(rejected.schema_version),
        policy_or_constraint: rejected.policy_or_constraint.map(str::to_owned),
        attempts: vec![push],
        expires_at_us: policy.expires_us(desk.now_us),
    }
}

/// The word before the colon of a violation's display text.
fn word(violation: &str) -> Result<&'static str, SqlError> {
    let word = violation.split(':').next().unwrap_or(violation);
    let known = VIOLATIONS.into_iter().find(|known| *known == word);
    known.ok_or_else(|| {
        SqlError::new(
            springhead_proto::ErrorCode::Internal,
            format!("\"{word}\" is no violation"),
        )
    })
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// At most so much of a text, at a character's end.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
