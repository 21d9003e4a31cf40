//! What became of a mutation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Hint, Seq};
use crate::Lsn;

/// The answer to one pushed mutation: exactly one.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is in the log; `lsn` is its commit's last.
    Applied { lsn: Lsn },
    /// It had been applied before; its effects are in the state at `lsn`.
    Duplicate { lsn: Lsn },
    /// It is a dead letter. Nothing of it is in the state.
    Rejected(Box<Rejection>),
    /// Not decided: push it again, unchanged, after this long.
    Retry { after_ms: u64, reason: RetryReason },
    /// Not looked at: the one that is due is another.
    Gap { expected_seq: Seq },
    /// Not looked at, and never will be under this name: its generation is over, or the seq was used
    /// for another mutation (the device is a copy). Push it under a new producer id.
    Fenced,
}

impl Verdict {
    /// Whether it is the last word on the mutation under this name.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Verdict::Applied { .. } | Verdict::Duplicate { .. } | Verdict::Rejected(_)
        )
    }
}

/// Why a mutation is a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// Its `id` in `springhead.dead_letters`.
    pub dead_letter_id: u64,
    pub violation: Violation,
    /// What could be done about it.
    #[serde(default)]
    pub hint: Hint,
    /// The dead letter at the head of the chain that it was rejected with, for a dependent of
    /// another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<u64>,
}

/// Why a mutation was not decided now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// The device, its user or its tenant pushes more than it may.
    RateLimit,
    /// The server has more to do than it can.
    Overload,
    /// The collection's dead letters are full and it is set to refuse then.
    DeadLettersFull,
    /// The server is being shut down, or is no primary at the moment.
    Unavailable,
}

impl RetryReason {
    /// Its word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            RetryReason::RateLimit => "rate_limit",
            RetryReason::Overload => "overload",
            RetryReason::DeadLettersFull => "dead_letters_full",
            RetryReason::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for RetryReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a mutation violated. The display text is stable: dead letters keep it and programs match it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Violation {
    /// A row policy.
    Policy,
    /// A grant that its author does not have.
    PermissionDenied,
    /// A UNIQUE constraint or a primary key. `column` is the constraint's columns, joined by commas,
    /// and `value` what the author sent for them.
    Unique {
        column: String,
        value: String,
    },
    ForeignKey {
        column: String,
    },
    NotNull {
        column: String,
    },
    Check {
        constraint: String,
    },
    /// A value that the column's type does not have.
    Type {
        column: String,
    },
    /// Made on definitions that it cannot be carried forward from.
    SchemaStale,
    /// Anything else that the database refused: what, in a few words.
    Constraint {
        detail: String,
    },
    /// Not what a mutation may be.
    Malformed,
    TooLarge,
}

impl Violation {
    /// The document was deleted, or the author may not see it: nobody can tell which.
    pub const NO_DOCUMENT: &'static str = "no such document";
    /// A mutation that this one was declared to depend on was rejected.
    pub const DEPENDS_ON_REJECTED: &'static str = "depends on a rejected mutation";
    /// A copy of a device pushed what has the number of a mutation that was settled so long ago that
    /// nobody knows any more whether it is the same.
    pub const SETTLED_BEFORE: &'static str = "settled before";

    /// The word before the colon: `violation_type` of a dead letter, and what policies of dead
    /// letters and metrics go by.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Violation::Policy => "policy",
            Violation::PermissionDenied => "permission_denied",
            Violation::Unique { .. } => "unique",
            Violation::ForeignKey { .. } => "foreign_key",
            Violation::NotNull { .. } => "not_null",
            Violation::Check { .. } => "check",
            Violation::Type { .. } => "type",
            Violation::SchemaStale => "schema_stale",
            Violation::Constraint { .. } => "constraint",
            Violation::Malformed => "malformed",
            Violation::TooLarge => "too_large",
        }
    }

    /// Every word there is.
    pub const WORDS: [&'static str; 11] = [
        "policy",
        "permission_denied",
        "unique",
        "foreign_key",
        "not_null",
        "check",
        "type",
        "schema_stale",
        "constraint",
        "malformed",
        "too_large",
    ];
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Violation::Unique { column, value } => write!(f, ":{column}={value}"),
            Violation::ForeignKey { column }
            | Violation::NotNull { column }
            | Violation::Type { column } => write!(f, ":{column}"),
            Violation::Check { constraint } => write!(f, ":{constraint}"),
            Violation::Constraint { detail } => write!(f, ":{detail}"),
            _ => Ok(()),
        }
    }
}

/// Text that is no violation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no violation: expected policy, permission_denied, unique:<column>=<value>, foreign_key:<column>, not_null:<column>, check:<constraint>, type:<column>, schema_stale, constraint:<detail>, malformed or too_large"
)]
pub struct BadViolation(pub String);

/// The inverse of the display text. A `unique` is cut at its first `=`.
impl FromStr for Violation {
    type Err = BadViolation;

    fn from_str(text: &str) -> Result<Violation, BadViolation> {
        let bad = || BadViolation(text.to_owned());
        let (word, detail) = match text.split_once(':') {
            Some((word, detail)) => (word, Some(detail)),
            None => (text, None),
        };
        let own = |detail: Option<&str>| detail.map(str::to_owned).ok_or_else(bad);
        Ok(match (word, detail) {
            ("policy", None) => Violation::Policy,
            ("permission_denied", None) => Violation::PermissionDenied,
            ("schema_stale", None) => Violation::SchemaStale,
            ("malformed", None) => Violation::Malformed,
            ("too_large", None) => Violation::TooLarge,
            ("unique", Some(detail)) => {
                let (column, value) = detail.split_once('=').ok_or_else(bad)?;
                Violation::Unique {
                    column: column.to_owned(),
                    value: value.to_owned(),
                }
            }
            ("foreign_key", detail) => Violation::ForeignKey {
                column: own(detail)?,
            },
            ("not_null", detail) => Violation::NotNull {
                column: own(detail)?,
            },
            ("check", detail) => Violation::Check {
                constraint: own(detail)?,
            },
            ("type", detail) => Violation::Type {
                column: own(detail)?,
            },
            ("constraint", detail) => Violation::Constraint {
                detail: own(detail)?,
            },
            _ => return Err(bad()),
        })
    }
}
