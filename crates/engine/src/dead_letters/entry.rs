//! One dead letter, as a row of `springhead.dead_letters` (`t8`) and as JSON.

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use springhead_proto::{ErrorCode, SqlError, ValueRef};
use springhead_sql::PgType;
use springhead_sql::types::output_text;

use super::Author;
use crate::readers::Failure;

/// The columns of `t8`, in the order of [`Entry`]'s fields.
const COLUMNS: &str = "c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, \
                       c18, c19, c20, c21, c22";

/// Attempts that are kept: the push itself and as many of the latest.
const KEPT_ATTEMPTS: usize = 50;

/// A dead letter. Times in microseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: i64,
    pub tenant_id: i64,
    pub session_id: Option<String>,
    pub username: String,
    pub collection: String,
    pub document_id: Option<String>,
    /// The mutation's seq.
    pub mutation_id: i64,
    /// Its producer.
    pub peer_id: String,
    /// The mutation, whole: a push frame's body with it alone.
    pub delta: Vec<u8>,
    /// The word before the colon of the violation's display text, which is the outcome of the first
    /// attempt.
    pub violation_type: String,
    /// The hint, as JSON.
    pub compensation: Option<String>,
    pub created_at_us: i64,
    /// JSON: `client_version`, `remote_addr`, `peer_id`, `user_agent`.
    pub device_metadata: String,
    pub retry_count: i64,
    pub resolved: bool,
    pub resolved_by: Option<String>,
    pub resolved_at_us: Option<i64>,
    pub base_lsn: i64,
    pub schema_version: i64,
    pub policy_or_constraint: Option<String>,
    /// Never empty: the first is the push.
    pub attempts: Vec<Attempt>,
    /// Unresolved: when its policy's action is due. Resolved: when it is forgotten.
    pub expires_at_us: i64,
}

/// One time that somebody tried to have the mutation applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// UTC, as PostgreSQL prints it.
    pub at: String,
    /// `push`, `retry`, `edit_and_retry`, `redrive`, `force_apply_lww`, `resolve`.
    pub action: String,
    /// Who asked for it.
    pub by: String,
    /// `applied`, `resolved`, or the violation's display text.
    pub outcome: String,
    /// The push: the author's `auth.uid()`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The push: the author's claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Value>,
    /// The push: the dead letter that this one depends on; both are retried together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<i64>,
    /// The push: dead letters that depend on this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<i64>,
    /// What whoever asked had to say; the error's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Attempt {
    /// With nothing but the four that every attempt has.
    #[must_use]
    pub fn new(at_us: i64, action: &str, by: &str, outcome: impl Into<String>) -> Attempt {
        Attempt {
            at: time(at_us),
            action: action.to_owned(),
            by: by.to_owned(),
            outcome: outcome.into(),
            uid: None,
            claims: None,
            chain: None,
            dependents: Vec::new(),
            note: None,
        }
    }

    #[must_use]
    pub fn with_note(mut self, note: Option<String>) -> Attempt {
        self.note = note;
        self
    }
}

impl Entry {
    /// The entry of this number, found by the table's key.
    pub(crate) fn find(conn: &Connection, id: i64) -> Result<Option<Entry>, Failure> {
        let sql = format!("SELECT {COLUMNS} FROM t8 WHERE c1 = ?1");
        let found = conn
            .prepare_cached(&sql)?
            .query_row([id], |row| Ok(Entry::read(row)))
            .optional()?;
        found.transpose()
    }

    /// The number of the entry that a producer's mutation of this number and content is, if it is one.
    /// Looks at all of them: for mutations of which nothing else is known.
    pub(crate) fn of_mutation(
        conn: &Connection,
        (peer_id, seq): (&str, u64),
        delta: &[u8],
    ) -> rusqlite::Result<Option<i64>> {
        conn.prepare_cached("SELECT c1 FROM t8 WHERE c7 = ?1 AND c8 = ?2 AND c9 = ?3 LIMIT 1")?
            .query_row((seq.cast_signed(), peer_id, delta), |row| row.get(0))
            .optional()
    }

    fn read(row: &Row<'_>) -> Result<Entry, Failure> {
        let attempts: String = row.get(20)?;
        let attempts: Vec<Attempt> = serde_json::from_str(&attempts).map_err(|error| {
            SqlError::new(
                ErrorCode::Corrupted,
                format!("the attempts of a dead letter cannot be read: {error}"),
            )
        })?;
        Ok(Entry {
            id: row.get(0)?,
            tenant_id: row.get(1)?,
            session_id: row.get(2)?,
            username: row.get(3)?,
            collection: row.get(4)?,
            document_id: row.get(5)?,
            mutation_id: row.get(6)?,
            peer_id: row.get(7)?,
            delta: row.get(8)?,
            violation_type: row.get(9)?,
            compensation: row.get(10)?,
            created_at_us: row.get(11)?,
            device_metadata: row.get(12)?,
            retry_count: row.get(13)?,
            resolved: row.get(14)?,
            resolved_by: row.get(15)?,
            resolved_at_us: row.get(16)?,
            base_lsn: row.get(17)?,
            schema_version: row.get(18)?,
            policy_or_constraint: row.get(19)?,
            attempts,
            expires_at_us: row.get(21)?,
        })
    }

    pub(crate) fn insert(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "INSERT INTO t8 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
             ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
        )?
        .execute(rusqlite::params![
            self.id,
            self.tenant_id,
            self.session_id,
            self.username,
            self.collection,
            self.document_id,
            self.mutation_id,
            self.peer_id,
            self.delta,
            self.violation_type,
            self.compensation,
            self.created_at_us,
            self.device_metadata,
            self.retry_count,
            self.resolved,
            self.resolved_by,
            self.resolved_at_us,
            self.base_lsn,
            self.schema_version,
            self.policy_or_constraint,
            self.attempts_text(),
            self.expires_at_us,
        ])?;
        Ok(())
    }

    /// Writes back what may change of an entry that is there.
    pub(crate) fn update(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "UPDATE t8 SET c14 = ?2, c15 = ?3, c16 = ?4, c17 = ?5, c21 = ?6, c22 = ?7 WHERE c1 = ?1",
        )?
        .execute(rusqlite::params![
            self.id,
            self.retry_count,
            self.resolved,
            self.resolved_by,
            self.resolved_at_us,
            self.attempts_text(),
            self.expires_at_us,
        ])?;
        Ok(())
    }

    pub(crate) fn delete(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached("DELETE FROM t8 WHERE c1 = ?1")?
            .execute([self.id])?;
        Ok(())
    }

    /// Adds to the history; the oldest but the push give way.
    pub(crate) fn note(&mut self, attempt: Attempt) {
        if self.attempts.len() > KEPT_ATTEMPTS {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
    }

    /// Whom it acts for.
    #[must_use]
    pub fn author(&self) -> Author {
        let push = self.attempts.first();
        Author {
            username: self.username.clone(),
            uid: push
                .and_then(|push| push.uid.clone())
                .unwrap_or_else(|| self.username.clone()),
            claims: push.and_then(|push| push.claims.clone()),
        }
    }

    /// The display text of what it violated when it was pushed.
    #[must_use]
    pub fn violation(&self) -> &str {
        self.attempts
            .first()
            .map_or(&self.violation_type, |push| &push.outcome)
    }

    /// As the exits show it: the columns, and the violation's display text.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let json = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
        serde_json::json!({
            "id": self.id,
            "tenant_id": self.tenant_id,
            "session_id": self.session_id,
            "username": self.username,
            "collection": self.collection,
            "document_id": self.document_id,
            "mutation_id": self.mutation_id,
            "peer_id": self.peer_id,
            "delta": hex(&self.delta),
            "violation_type": self.violation_type,
            "violation": self.violation(),
            "compensation": self.compensation.as_deref().map(json),
            "created_at": time(self.created_at_us),
            "device_metadata": json(&self.device_metadata),
            "retry_count": self.retry_count,
            "resolved": self.resolved,
            "resolved_by": self.resolved_by,
            "resolved_at": self.resolved_at_us.map(time),
            "base_lsn": self.base_lsn,
            "schema_version": self.schema_version,
            "policy_or_constraint": self.policy_or_constraint,
            "attempts": self.attempts,
            "expires_at": time(self.expires_at_us),
        })
    }

    fn attempts_text(&self) -> String {
        serde_json::to_string(&self.attempts).expect("attempts are texts and numbers")
    }
}

/// A time as PostgreSQL's JSON has it.
pub(crate) fn time(us: i64) -> String {
    let mut text = Vec::new();
    output_text(&PgType::Timestamptz, ValueRef::Integer(us), &mut text);
    String::from_utf8(text)
        .expect("timestamps are digits and signs")
        .replacen(' ', "T", 1)
}

/// Bytes as PostgreSQL prints bytea.
fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    output_text(&PgType::Bytea, ValueRef::Blob(bytes), &mut text);
    String::from_utf8(text).expect("hexadecimal digits")
}
