//! What happened in a run, as the checker reads it: what clients tried and were told, what the log
//! holds in the end, what readers were shown on the way, and the final state.
//!
//! Written by [`crate::load`], [`crate::followers`] and [`crate::scenario`]; judged by
//! [`crate::checker`]. Plain data, no IO.

use std::collections::BTreeMap;

use serde_json::Value;

/// A whole run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Per client: what it tried, in the order it tried.
    pub clients: Vec<Vec<Attempt>>,
    /// Every change of the feed, read from its beginning when all was over.
    pub log: Vec<Change>,
    /// What each reader was shown while things happened.
    pub readings: Vec<Reading>,
    /// The rows in the end: (collection, document id) → row.
    pub state: BTreeMap<(String, String), Value>,
    /// The first and the last LSN the feed must cover without a hole; `None` where holes are
    /// allowed (other tenants, sequences, Springhead's own collections).
    pub dense: Option<(u64, u64)>,
}

/// One transaction that a client sent, or a single statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// What it does if it commits, in order. Never empty.
    pub effects: Vec<Effect>,
    pub outcome: Outcome,
    /// When it was sent and when its answer was known, on one clock of the whole run that ticks at
    /// each of these.
    pub started: u64,
    pub ended: u64,
}

/// What the client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed, and at which LSN it ends if the answer said so.
    Acknowledged { lsn: Option<u64> },
    /// Surely not committed: refused, failed or rolled back.
    Refused,
    /// The connection broke or the server said that it does not know.
    Unknown,
}

/// One row change that an attempt makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    pub collection: String,
    pub operation: Operation,
    pub document_id: String,
    pub after: After,
}

/// The row after an effect.
#[derive(Debug, Clone, PartialEq)]
pub enum After {
    /// No row: a delete.
    Nothing,
    /// Exactly this row.
    Row(Value),
    /// The row before with one added to this column.
    Incremented(&'static str),
}

/// What an event says happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
    Definition,
    Message,
}

impl Operation {
    /// From the word in an event.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Operation> {
        Some(match word {
            "INSERT" => Operation::Insert,
            "UPDATE" => Operation::Update,
            "DELETE" => Operation::Delete,
            "TRUNCATE" => Operation::Truncate,
            "DEFINITION" => Operation::Definition,
            "MESSAGE" => Operation::Message,
            _ => return None,
        })
    }
}

/// One change, as an exit delivered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub lsn: u64,
    /// The first LSN of its transaction, its place in it from 0, how many changes that has.
    pub tx_lsn: u64,
    pub index: u64,
    pub count: u64,
    pub timestamp_ms: u64,
    pub collection: Option<String>,
    pub operation: Operation,
    pub document_id: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// An event that does not have the shape it must have.
#[derive(Debug, Clone, thiserror::Error)]
#[error("event without a proper {field}: {event}")]
pub struct Misshapen {
    pub field: &'static str,
    pub event: String,
}

impl Change {
    /// Reads a change event in the plain envelope. Every field must be there.
    ///
    /// # Errors
    /// [`Misshapen`] names the field that is missing or of a wrong type.
    pub fn from_event(event: &Value) -> Result<Change, Misshapen> {
        let misshapen = |field| Misshapen {
            field,
            event: event.to_string(),
        };
        let number = |at: &Value, field, name| at[name].as_u64().ok_or_else(|| misshapen(field));
        let nullable = |name| match event.get(name) {
            None => Err(misshapen(name)),
            Some(Value::Null) => Ok(None),
            Some(value) => Ok(Some(value.clone())),
        };
        let text = |name| match nullable(name)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(misshapen(name)),
        };
        let lsn = number(event, "lsn", "lsn")?;
        let cursor = event["cursor"]
            .as_str()
            .ok_or_else(|| misshapen("cursor"))?;
        if cursor
            .split_once('@')
            .is_none_or(|(of, _)| of != lsn.to_string())
        {
            return Err(misshapen("cursor"));
        }
        let operation = event["operation"].as_str().and_then(Operation::from_word);
        Ok(Change {
            lsn,
            tx_lsn: number(&event["tx"], "tx.lsn", "lsn")?,
            index: number(&event["tx"], "tx.index", "index")?,
            count: number(&event["tx"], "tx.count", "count")?,
            timestamp_ms: number(event, "timestamp_ms", "timestamp_ms")?,
            collection: text("collection")?,
            operation: operation.ok_or_else(|| misshapen("operation"))?,
            document_id: text("document_id")?,
            before: nullable("before")?,
            after: nullable("after")?,
        })
    }
}

/// What one reader was shown, over all its reconnects, in the order it was shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// For people: which exit, which reader.
    pub name: String,
    /// It started after this LSN.
    pub after: u64,
    /// It must have been shown everything up to and including this LSN.
    pub up_to: u64,
    /// Only this collection, if it asked for one.
    pub collection: Option<String>,
    pub changes: Vec<Change>,
}
