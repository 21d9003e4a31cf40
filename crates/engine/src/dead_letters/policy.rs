//! What happens to the dead letters of a collection: rows of `springhead.dead_letter_policies`, over
//! the configuration's defaults.
//!
//! How long an entry is kept and what happens then may differ by violation; how many there may be
//! and what happens to the next is the collection's.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use springhead_proto::{ErrorCode, SqlError};

use crate::EngineConfig;
use crate::readers::Failure;

/// Stands for every violation that has no row of its own.
pub const ANY_VIOLATION: &str = "*";

/// The words before the colon of a violation's display text.
pub const VIOLATIONS: [&str; 11] = [
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

/// What happens to an unresolved entry whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is deleted.
    Drop,
    /// It goes to `springhead.escalations`.
    Escalate,
    /// It is applied as if it were not stale; if it still violates something, it is escalated.
    ForceApplyLww,
}

/// What happens to the next rejection of a collection that has as many as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// The oldest entry is escalated and makes room.
    Escalate,
    /// The device keeps the mutation and is told to come back.
    RejectPush,
}

/// What is in force for one violation of one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub ttl: Duration,
    pub action: Action,
    pub max_entries: u64,
    pub on_full: OnFull,
}

/// What is to be in force; `None` for the configuration's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyChange {
    pub ttl_s: Option<i64>,
    pub action: Option<Action>,
    pub max_entries: Option<i64>,
    pub on_full: Option<OnFull>,
}

/// The longest time to live: ten years.
const MAX_TTL_S: i64 = 10 * 366 * 86_400;
/// The most unresolved entries of one collection that can be asked for.
const MAX_ENTRIES: i64 = 10_000_000;

macro_rules! words {
    ($name:ident, $what:literal, $($variant:ident = $word:literal),+) => {
        impl $name {
            /// Its word in policies.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = SqlError;

            fn from_str(text: &str) -> Result<$name, SqlError> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(invalid(format!("{} \"{}\" is not one of: {}", $what, shown(text), [$($word),+].join(", ")))),
                }
            }
        }
    };
}

words!(
    Action,
    "action",
    Drop = "drop",
    Escalate = "escalate",
    ForceApplyLww = "force_apply_lww"
);
words!(
    OnFull,
    "on_full",
    Escalate = "escalate",
    RejectPush = "reject_push"
);

impl PolicyChange {
    /// # Errors
    /// 22023 for a number out of range, or a capacity for one violation alone.
    pub fn check(&self, violation: &str) -> Result<(), SqlError> {
        if violation != ANY_VIOLATION && !VIOLATIONS.contains(&violation) {
            return Err(
                invalid(format!("violation \"{}\" is none", shown(violation)))
                    .with_hint(format!("one of *, {}", VIOLATIONS.join(", "))),
            );
        }
        let in_range = |name: &str, value: Option<i64>, most: i64| match value {
            Some(value) if !(1..=most).contains(&value) => Err(invalid(format!(
                "{name} is {value}, and must be from 1 to {most}"
            ))),
            _ => Ok(()),
        };
        in_range("ttl_s", self.ttl_s, MAX_TTL_S)?;
        in_range("max_entries", self.max_entries, MAX_ENTRIES)?;
        if violation != ANY_VIOLATION && (self.max_entries.is_some() || self.on_full.is_some()) {
            return Err(invalid(
                "max_entries and on_full are a collection's, not one violation's",
            ));
        }
        Ok(())
    }
}

impl Policy {
    /// What the configuration says.
    #[must_use]
    pub fn configured(config: &EngineConfig) -> Policy {
        Policy {
            ttl: config.dead_letter_ttl,
            action: config.dead_letter_action,
            max_entries: config.dead_letter_max_entries,
            on_full: config.dead_letter_on_full,
        }
    }

    /// What is in force for `violation` (its word) of `collection`.
    pub(crate) fn of(
        conn: &Connection,
        config: &EngineConfig,
        collection: &str,
        violation: &str,
    ) -> Result<Policy, Failure> {
        let own = stored(conn, collection, violation)?;
        let general = stored(conn, collection, ANY_VIOLATION)?;
        let mut policy = Policy::configured(config);
        for change in [general, own].into_iter().flatten() {
            policy.ttl = change.ttl_s.map_or(policy.ttl, seconds);
            policy.action = change.action.unwrap_or(policy.action);
            policy.max_entries = change
                .max_entries
                .map_or(policy.max_entries, |most| most.unsigned_abs());
            policy.on_full = change.on_full.unwrap_or(policy.on_full);
        }
        Ok(policy)
    }

    /// When something that was first rejected at `created_us` is over.
    #[must_use]
    pub fn expires_us(&self, created_us: i64) -> i64 {
        after(created_us, self.ttl)
    }
}

/// `us` and `later`, without going past the end of time.
pub(crate) fn after(us: i64, later: Duration) -> i64 {
    us.saturating_add(i64::try_from(later.as_micros()).unwrap_or(i64::MAX))
}

fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(ttl_s.unsigned_abs())
}

fn stored(
    conn: &Connection,
    collection: &str,
    violation: &str,
) -> Result<Option<PolicyChange>, Failure> {
    let row = conn
        .prepare_cached("SELECT c3, c4, c5, c6 FROM t9 WHERE c1 = ?1 AND c2 = ?2")?
        .query_row(params![collection, violation], |row| {
            Ok((
                row.get::<_, Option<i64>>(0)?,
                row.get::<_, Option<String>>(1)?,
                row.get::<_, Option<i64>>(2)?,
                row.get::<_, Option<String>>(3)?,
            ))
        })
        .optional()?;
    let Some((ttl_s, action, max_entries, on_full)) = row else {
        return Ok(None);
    };
    Ok(Some(PolicyChange {
        ttl_s,
        action: action.map(|word| word.parse()).transpose()?,
        max_entries,
        on_full: on_full.map(|word| word.parse()).transpose()?,
    }))
}

/// Puts the policy of a collection in force; entries that are there get the time to live that it
/// gives them, counted from their first rejection.
pub(crate) fn put(
    conn: &Connection,
    config: &EngineConfig,
    (collection, violation): (&str, &str),
    change: &PolicyChange,
    (by, now_us): (&str, i64),
) -> Result<(), Failure> {
    conn.prepare_cached(
        "INSERT INTO t9 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (c1, c2) DO UPDATE SET \
         c3 = excluded.c3, c4 = excluded.c4, c5 = excluded.c5, c6 = excluded.c6, c7 = excluded.c7, \
         c8 = excluded.c8",
    )?
    .execute(params![
        collection,
        violation,
        change.ttl_s,
        change.action.map(Action::word),
        change.max_entries,
        change.on_full.map(OnFull::word),
        now_us,
        by,
    ])?;
    let concerned: Vec<&str> = VIOLATIONS
        .into_iter()
        .filter(|word| violation == ANY_VIOLATION || *word == violation)
        .collect();
    for word in concerned {
        let policy = Policy::of(conn, config, collection, word)?;
        let ttl_us = after(0, policy.ttl);
        conn.prepare_cached(
            "UPDATE t8 SET c22 = c12 + ?3 WHERE c5 = ?1 AND c15 = 0 AND c10 = ?2 AND c22 <> c12 + ?3",
        )?
        .execute(params![collection, word, ttl_us])?;
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, message)
}

/// Some of what a user sent, for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
