//! What a node is: the primary, which takes writes, or a standby, which follows one. One value for
//! the whole engine, looked at by every writer before it runs anything and by sessions to say so
//! early; changed by the server when it promotes or hands over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use springhead_proto::{ErrorCode, SqlError};
use tokio::sync::watch;

/// What the node is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeRole {
    /// Takes writes.
    Primary,
    /// Follows a primary and refuses writes. Where that primary is, if it is known.
    Standby { primary: Option<Arc<str>> },
}

impl NodeRole {
    /// `primary` or `standby`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            NodeRole::Primary => "primary",
            NodeRole::Standby { .. } => "standby",
        }
    }
}

/// The role in force.
pub struct RoleSwitch {
    now: ArcSwap<NodeRole>,
    writable: AtomicBool,
    changed: watch::Sender<u64>,
}

impl RoleSwitch {
    #[must_use]
    pub fn new(role: NodeRole) -> RoleSwitch {
        RoleSwitch {
            writable: AtomicBool::new(role == NodeRole::Primary),
            now: ArcSwap::from_pointee(role),
            changed: watch::Sender::new(0),
        }
    }

    /// The role in force.
    #[must_use]
    pub fn now(&self) -> Arc<NodeRole> {
        self.now.load_full()
    }

    /// Whether writes are taken.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Puts another role in force.
    pub(crate) fn set(&self, role: NodeRole) {
        let writable = role == NodeRole::Primary;
        if !writable {
            // Closed before it is said why, opened after.
            self.writable.store(false, Ordering::Release);
        }
        self.now.store(Arc::new(role));
        self.writable.store(writable, Ordering::Release);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells when the role has changed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What a writer answers while the node takes no writes.
    pub(crate) fn refusal(&self) -> SqlError {
        self.expect_writable("a write").err().unwrap_or_else(|| {
            SqlError::new(
                ErrorCode::ReadOnlyTransaction,
                "this node was a standby when the write came; try again",
            )
        })
    }

    /// # Errors
    /// 25006 on a standby, with the primary's address: `what` cannot be done here.
    pub fn expect_writable(&self, what: &str) -> Result<(), SqlError> {
        if self.is_writable() {
            return Ok(());
        }
        let role = self.now();
        let at = match &*role {
            NodeRole::Standby {
                primary: Some(primary),
            } => format!("; the primary is at {primary}"),
            _ => String::new(),
        };
        Err(SqlError::new(
            ErrorCode::ReadOnlyTransaction,
            format!("cannot execute {what} on a standby, which is read-only{at}"),
        )
        .with_hint("send writes to the primary; clients find it with target_session_attrs=read-write or springhead://a,b"))
    }
}
