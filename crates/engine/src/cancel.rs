//! How a statement is told to end.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use springhead_proto::{ErrorCode, SqlError};

/// Why a running statement is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CancelReason {
    User = 1,
    StatementTimeout = 2,
    LockTimeout = 3,
    SnapshotTooOld = 4,
    Shutdown = 5,
    /// pg_terminate_backend().
    Terminated = 6,
}

/// Set by whoever wants a statement to end; looked at before it starts and while it runs.
#[derive(Default)]
pub struct CancelFlag(AtomicU8, AtomicBool);

/// Set in [`CancelFlag`] once the statement has begun to run.
const STARTED: u8 = 0x80;

impl CancelFlag {
    /// Asks the statement to end; the first reason stays.
    pub fn cancel(&self, reason: CancelReason) {
        // A later reason is of no interest.
        let _ = self
            .0
            .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        let _ = self.0.compare_exchange(
            STARTED,
            STARTED | reason as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Ends a statement that has not begun; whether it had not. Then it never will, and whoever
    /// asked answers for it.
    pub fn cancel_waiting(&self, reason: CancelReason) -> bool {
        self.0
            .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// It is to fail where it would have to wait for a transaction (NOWAIT).
    pub fn never_wait(&self) {
        self.1.store(true, Ordering::Release);
    }

    /// Whether [`CancelFlag::never_wait`] has been called.
    #[must_use]
    pub fn never_waits(&self) -> bool {
        self.1.load(Ordering::Acquire)
    }

    /// Marks it as running; false if it has been cancelled and must not.
    pub fn start(&self) -> bool {
        self.0
            .compare_exchange(0, STARTED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether it runs, or has run.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.0.load(Ordering::Acquire) & STARTED != 0
    }

    /// Whether somebody asked it to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire) & !STARTED != 0
    }

    /// What the client is told; `None` if nobody asked.
    #[must_use]
    pub fn error(&self) -> Option<SqlError> {
        Some(match self.0.load(Ordering::Acquire) & !STARTED {
            0 => return None,
            2 => SqlError::new(
                ErrorCode::QueryCanceled,
                "canceling statement due to statement timeout",
            ),
            3 => SqlError::new(
                ErrorCode::LockNotAvailable,
                "canceling statement due to lock timeout",
            ),
            4 => SqlError::new(ErrorCode::SnapshotTooOld, "snapshot too old")
                .with_hint("read less at a time, or raise snapshot_max_age"),
            5 => SqlError::new(ErrorCode::AdminShutdown, "the server is shutting down"),
            6 => terminated(),
            _ => SqlError::new(
                ErrorCode::QueryCanceled,
                "canceling statement due to user request",
            ),
        })
    }
}

/// What a session says that pg_terminate_backend() ends.
#[must_use]
pub fn terminated() -> SqlError {
    SqlError::new(
        ErrorCode::AdminShutdown,
        "terminating connection due to administrator command",
    )
}
