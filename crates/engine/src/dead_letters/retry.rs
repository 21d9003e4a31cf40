//! What a retry is, and what comes of it.

use std::sync::Arc;

use springhead_proto::SqlError;
use springhead_proto::sync::{Operation, Violation};

use super::Entry;
use super::redrive::Turn;
use crate::sync::Author;

/// Dead letters to be tried again as a unit, in this order: one, then those that depend on it.
#[derive(Clone)]
pub struct Retry {
    /// Never empty; the first is the one that was asked for, or the head of its chain.
    pub members: Vec<Member>,
    /// Who asked for it.
    pub by: String,
    pub how: How,
    /// In place of the first one's own.
    pub operations: Option<Vec<Operation>>,
    /// The redrive that it is a step of.
    pub turn: Option<Turn>,
}

/// One of them.
#[derive(Clone)]
pub struct Member {
    pub id: i64,
    /// Whom it acts for, with the rights that it has now; or why it has none. Never whoever asked.
    pub author: Result<Arc<Author>, SqlError>,
}

/// Why it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Retry,
    Redrive,
    ForceApply,
}

/// An entry that may be due.
#[derive(Clone)]
pub struct Due {
    pub member: Member,
    /// Applying it has failed in a way that is no violation: it is escalated with this.
    pub failed: Option<String>,
}

/// What came of a retry.
#[derive(Debug, Clone)]
pub struct Retried {
    pub outcome: Outcome,
    /// As it is now.
    pub entry: Box<Entry>,
}

/// See [`Retried`].
#[derive(Debug, Clone)]
pub enum Outcome {
    Applied,
    Rejected {
        violation: Violation,
        /// As a client would have got it.
        error: SqlError,
    },
}

impl Retry {
    /// Its word in the history.
    pub(crate) fn word(&self) -> &'static str {
        match self.how {
            How::Retry if self.operations.is_some() => "edit_and_retry",
            How::Retry => "retry",
            How::Redrive => "redrive",
            How::ForceApply => "force_apply_lww",
        }
    }

    pub(crate) fn forced(member: Member) -> Retry {
        Retry {
            members: vec![member],
            by: "springhead".to_owned(),
            how: How::ForceApply,
            operations: None,
            turn: None,
        }
    }

    /// The operations that were given, for the history; `None` if they are too long for it.
    pub(crate) fn operations_text(&self) -> Option<String> {
        const MOST_BYTES: usize = 16 << 10;
        let text = serde_json::to_string(self.operations.as_ref()?).ok()?;
        (text.len() <= MOST_BYTES).then_some(text)
    }
}
