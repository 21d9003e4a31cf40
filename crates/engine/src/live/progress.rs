//! How far a tenant's live queries have come, told by a signal: nobody has to look again and again.
//!
//! The core says so after each step ([`Progress::tell`]); a connection asks where it is
//! ([`Subscriber::progress`]) or waits to be somewhere ([`Subscriber::reached`]).

use std::future::Future;
use std::sync::Arc;

use springhead_proto::Lsn;
use springhead_sql::live::LiveClass;
use tokio::sync::watch;

use super::TenantLive;
use super::outbox::Taken;
use super::squash::Squashed;
use super::subscriber::Subscriber;
use crate::Tenant;

/// A place that the core has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    /// All of the commits up to it has been put before whom it concerns.
    pub position: Lsn,
    /// Up to where the results of queries that wait for their pause are exact; `None` if none waits.
    pub exact_at: Option<Lsn>,
}

impl Reached {
    /// Up to where everything is told to a connection that has queries with a pause, or none.
    fn of(self, has_recomputed: bool) -> Lsn {
        match self.exact_at {
            Some(exact_at) if has_recomputed => self.position.min(exact_at),
            _ => self.position,
        }
    }
}

/// See the module's text.
pub(crate) struct Progress(watch::Sender<Reached>);

impl Progress {
    pub(crate) fn at(position: Lsn) -> Progress {
        Progress(watch::Sender::new(Reached {
            position,
            exact_at: None,
        }))
    }

    pub(crate) fn reached(&self) -> Reached {
        *self.0.borrow()
    }

    /// The core has come this far; to be called once all has been put before whom it concerns.
    pub(crate) fn tell(&self, now: Reached) {
        self.0.send_if_modified(|known| {
            let moves = *known != now;
            *known = now;
            moves
        });
    }
}

impl TenantLive {
    /// Completes once the core has come to `lsn`. Cancel-safe.
    async fn reach(&self, lsn: Lsn, has_recomputed: bool) {
        let mut moved = self.progress.0.subscribe();
        // Over what concerns nobody here it goes when it is asked to.
        self.kick();
        let there = moved.wait_for(|reached| reached.of(has_recomputed) >= lsn);
        // The sender is a part of `self`.
        let _ = there.await;
    }
}

impl Subscriber {
    /// Everything that has come up to this LSN has been handed out, if that is so now.
    #[must_use]
    pub fn progress(&mut self) -> Option<Lsn> {
        let of = self.of.as_ref()?;
        // Before anything is looked at: what comes later is of later commits.
        let reached = of.progress.reached().of(self.has_recomputed());
        let holds = self.squashed.values().any(Squashed::holds);
        if self.is_behind
            || holds
            || self.begins_anew()
            || !self.ready.is_empty()
            || !matches!(self.outbox.peek(), Taken::Empty)
        {
            return None;
        }
        Some(reached.max(self.oldest()?))
    }

    /// Completes once everything up to `lsn` is visible and has been put before this connection:
    /// [`Subscriber::progress`] is there once what has come by then is taken. The future holds nothing
    /// of the subscriber. Cancel-safe.
    pub fn reached(&self, lsn: Lsn) -> impl Future<Output = ()> + Send + use<> {
        let is_there = self.oldest().is_none_or(|oldest| oldest >= lsn);
        let (tenant, of): (Arc<Tenant>, _) = (Arc::clone(&self.tenant), self.of.clone());
        let has_recomputed = self.has_recomputed();
        async move {
            if is_there {
                return;
            }
            tenant.when_visible(lsn).await;
            if let Some(of) = of {
                of.reach(lsn, has_recomputed).await;
            }
        }
    }

    fn has_recomputed(&self) -> bool {
        (self.queries.values()).any(|query| query.prepared.plan().class == LiveClass::Recomputed)
    }

    /// Where the query is that was told of the least.
    fn oldest(&self) -> Option<Lsn> {
        self.queries.values().map(|query| query.at).min()
    }
}
