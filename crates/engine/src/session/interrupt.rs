//! A statement that waits for its client and not for the engine: it can be cancelled all the same.

use std::sync::Arc;

use springhead_proto::SqlError;

use super::{Running, Session};
use crate::functions::CancelFlag;

impl Session {
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

impl Running {
    pub(super) fn begin(&self) -> Arc<CancelFlag> {
        let flag = Arc::new(CancelFlag::default());
        *self.flag.lock() = Some(Arc::clone(&flag));
        flag
    }

    pub(super) fn end(&self) {
        *self.flag.lock() = None;
    }
}
