//! A statement that waits for its client and not for the engine: it can be cancelled all the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::SqlError;

use super::{Canceller, Running, Session};
use crate::functions::{CancelFlag, CancelReason};

impl Canceller {
    /// The running statement, if any, ends with 57P01, and then the session: [`Session::ending`].
    pub fn terminate(&self) {
        self.running.is_terminated.store(true, Ordering::Release);
        self.cancel_because(CancelReason::Terminated);
        self.running.asked.notify_waiters();
    }
}

impl Session {
    /// Other sessions may end it or its statements by its process id from now on.
    pub fn be_known(&self) {
        let (backends, user) = (&self.tenant.shared.backends, &self.principal.user);
        backends.enter(self.process_id, self.tenant.id(), user, self.canceller());
    }

    /// Tells when the session is to end.
    pub fn ending(&self) -> Ending {
        Ending::of(&self.running)
    }

    /// A statement waits for its client (COPY FROM): it can be cancelled meanwhile.
    pub fn interruptible(&self) -> Interrupt {
        Interrupt {
            flag: self.running.begin(),
            running: Arc::clone(&self.running),
        }
    }
}

/// While it lives, a cancel request is heard though no statement runs: see [`Session::interruptible`].
pub struct Interrupt {
    running: Arc<Running>,
    flag: Arc<CancelFlag>,
}

impl Interrupt {
    /// Completes with what the client is told once somebody asks. Cancel-safe.
    pub async fn asked(&self) -> SqlError {
        loop {
            let asked = self.running.asked.notified();
            tokio::pin!(asked);
            asked.as_mut().enable();
            if let Some(error) = self.flag.error() {
                return error;
            }
            asked.await;
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.running.end();
    }
}

/// See [`Session::ending`].
pub struct Ending {
    running: Arc<Running>,
}

impl Ending {
    pub(super) fn of(running: &Arc<Running>) -> Ending {
        Ending {
            running: Arc::clone(running),
        }
    }

    /// Completes once somebody has asked the session to end. Cancel-safe.
    pub async fn asked(&self) {
        loop {
            let asked = self.running.asked.notified();
            tokio::pin!(asked);
            asked.as_mut().enable();
            if self.running.is_terminated.load(Ordering::Acquire) {
                return;
            }
            asked.await;
        }
    }
}

impl Running {
    pub(super) fn begin(&self) -> Arc<CancelFlag> {
        let flag = Arc::new(CancelFlag::default());
        *self.flag.lock() = Some(Arc::clone(&flag));
        // Asked before there was a statement to end.
        if self.is_terminated.load(Ordering::Acquire) {
            flag.cancel(CancelReason::Terminated);
        }
        flag
    }

    pub(super) fn end(&self) {
        *self.flag.lock() = None;
    }
}
