//! Live queries: a SELECT's result, then what each commit changes in it.
//!
//! ```text
//!   tail ── one task per tenant ──> Core ── Index ──> filters of one table, from row images
//!                                    │
//!                                    └── Shadow ──> all else, over copies of the tables that are
//!                                        brought from commit to commit
//!   Core ──(Delta, made once)──> Outbox of each connection ──> Subscriber
//! ```
//!
//! A result is that of the SELECT at each commit's LSN because nothing else is ever looked at: row
//! images are of one commit, and the copies are stepped by the same log. [`Subscriber`] is what a
//! protocol holds for one connection: it opens queries, hands out events, and turns a connection
//! that has fallen behind into one that needs the net difference (docs/adr/0008-live-queries.md).

pub(crate) mod asked;
pub(crate) mod by_id;
mod commit;
mod copies;
mod core;
mod definitions;
mod delta;
mod first;
mod ids;
mod index;
mod interval;
mod opening;
mod outbox;
mod parts;
mod progress;
mod prune;
mod quick;
mod recompute;
mod resume;
mod shadow;
mod sides;
mod sorted;
mod squash;
mod subscriber;
mod truncated;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{SqlError, TenantId};
use tokio::sync::Notify;

use crate::cdc::{CdcError, RefusedCursor};
use crate::{Engine, TailReader, Tenant};

pub use delta::{Delta, Entry, key_text, write_key, write_row};
pub use outbox::{LiveEnd, LiveId};
pub use springhead_sql::live::LiveOptions;
pub use subscriber::{LiveEvent, LiveRequest, LiveWaiter, Opened, Subscriber};

use self::asked::AskedBook;
use self::core::Core;
use self::progress::Progress;
use shadow::Shadow;

/// Limits of live queries.
#[derive(Debug, Clone, Copy)]
pub struct LiveLimits {
    /// Bytes of the largest result that is kept.
    pub result_bytes: usize,
    /// Bytes of changes that wait for one connection; past it, it gets the net difference instead.
    pub outbox_bytes: usize,
    /// Rows of a net difference; and the changes of the log that are gone through for that of a query
    /// over more than one table, or of rows without keys.
    pub resume_changes: u64,
    /// Changes of the log that are gone through for the net difference of a filter of one table.
    pub resume_scan: u64,
    /// Live queries of one tenant.
    pub per_tenant: usize,
    /// Live queries of one connection.
    pub per_connection: usize,
    /// Rows of one commit that joins and groups go through one by one; past it they are evaluated
    /// as a whole.
    pub keys_by_parts: usize,
    /// Pause between two evaluations of one query that was asked for with `WITH (recompute)`.
    pub recompute_pause: Duration,
}

impl Default for LiveLimits {
    fn default() -> LiveLimits {
        LiveLimits {
            result_bytes: 64 << 20,
            outbox_bytes: 4 << 20,
            resume_changes: 100_000,
            resume_scan: 2_000_000,
            per_tenant: 1_000_000,
            per_connection: 1_000,
            keys_by_parts: 1_000,
            recompute_pause: Duration::from_millis(100),
        }
    }
}

/// Why a live query did not open, or could not go on from its cursor.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LiveError {
    #[error("{0}")]
    Refused(RefusedCursor),
    /// A new snapshot is needed.
    #[error("{0}")]
    Refetch(String),
    #[error(transparent)]
    Sql(SqlError),
}

impl LiveError {
    /// Whether a new snapshot is what helps.
    #[must_use]
    pub fn is_refetch(&self) -> bool {
        matches!(self, LiveError::Refused(_) | LiveError::Refetch(_))
    }

    /// How a query ends that met it.
    #[must_use]
    pub fn end(self) -> LiveEnd {
        match self {
            LiveError::Refused(refused) => LiveEnd::MustRefetch {
                message: refused.to_string(),
            },
            LiveError::Refetch(message) => LiveEnd::MustRefetch { message },
            LiveError::Sql(error) => LiveEnd::Failed(error),
        }
    }
}

impl From<CdcError> for LiveError {
    fn from(error: CdcError) -> LiveError {
        match error {
            CdcError::Refused { refused, .. } => LiveError::Refused(refused),
            CdcError::Sql(error) => LiveError::Sql(error),
        }
    }
}

/// The live queries of one engine.
pub struct Live {
    engine: Engine,
    limits: LiveLimits,
    tenants: Mutex<FxHashMap<TenantId, Arc<TenantLive>>>,
    next_id: AtomicU64,
}

/// Those of one tenant.
pub(crate) struct TenantLive {
    pub tenant: Arc<Tenant>,
    pub core: Mutex<Core>,
    pub progress: Arc<Progress>,
    /// What is asked, and by whom.
    pub asked: AskedBook,
    /// For what is evaluated beside the task: filters of row images alone.
    pub side: Mutex<Shadow>,
    /// Somebody waits for the task to go on to what is visible, or the last query has gone.
    kick: Notify,
}

/// How often a quiet tenant's position follows the log's end, so that cursors stay young.
const FOLLOW: Duration = Duration::from_secs(5);

/// How soon a core that is busy is asked again.
const RETRY: Duration = Duration::from_millis(50);

impl Live {
    /// For one engine.
    #[must_use]
    pub fn new(engine: Engine, limits: LiveLimits) -> Arc<Live> {
        Arc::new(Live {
            engine,
            limits,
            tenants: Mutex::default(),
            next_id: AtomicU64::new(1),
        })
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn limits(&self) -> LiveLimits {
        self.limits
    }

    /// Live queries that are open, and how many different ones these are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let tenants: Vec<_> = self.tenants.lock().values().cloned().collect();
        (tenants.iter()).fold((0, 0), |(open, different), tenant| {
            let core = tenant.core.lock();
            (open + core.subscribers(), different + core.instances())
        })
    }

    /// A tenant's, with a task that follows its log.
    pub(crate) fn of(self: &Arc<Self>, tenant: &Arc<Tenant>) -> Result<Arc<TenantLive>, SqlError> {
        let mut tenants = self.tenants.lock();
        if let Some(known) = tenants.get(&tenant.id())
            && Arc::ptr_eq(&known.tenant, tenant)
            && !known.core.lock().is_over
        {
            return Ok(Arc::clone(known));
        }
        let position = tenant.visible();
        let side = Shadow::open(
            Arc::clone(self.engine.clock()),
            Arc::clone(&tenant.shared.entropy),
        )?;
        let core = Core::new(
            self.engine.clone(),
            Arc::clone(tenant),
            self.limits,
            position,
        )?;
        let made = Arc::new(TenantLive {
            tenant: Arc::clone(tenant),
            progress: Arc::clone(&core.progress),
            core: Mutex::new(core),
            asked: AskedBook::default(),
            side: Mutex::new(side),
            kick: Notify::new(),
        });
        tenants.insert(tenant.id(), Arc::clone(&made));
        let tail = tenant.tail(position, Vec::new());
        tokio::spawn(follow(Arc::clone(self), Arc::clone(&made), tail));
        Ok(made)
    }

    /// Whether the task may end: nobody has a live query of the tenant.
    fn is_over(&self, tenant: &Arc<TenantLive>) -> bool {
        let mut tenants = self.tenants.lock();
        let mut core = tenant.core.lock();
        if core.subscribers() > 0 {
            return false;
        }
        core.is_over = true;
        drop(core);
        if (tenants.get(&tenant.tenant.id())).is_some_and(|known| Arc::ptr_eq(known, tenant)) {
            tenants.remove(&tenant.tenant.id());
        }
        true
    }
}

impl TenantLive {
    /// Has the task look now.
    pub(crate) fn kick(&self) {
        self.kick.notify_one();
    }

    /// How long until a query is to be evaluated again; soon, if nobody can say now.
    fn recompute_in(&self) -> Option<Duration> {
        match self.core.try_lock() {
            Some(core) => core.recompute_in(),
            None => Some(RETRY),
        }
    }

    /// Takes subscribers away. The core may be busy for long, with a table that is copied: then not
    /// on this thread, which serves others.
    pub(crate) fn leave(self: &Arc<Self>, ids: Vec<LiveId>) {
        let go = |core: &mut Core| ids.iter().for_each(|id| core.unsubscribe(*id));
        if let Some(mut core) = self.core.try_lock() {
            go(&mut core);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let this = Arc::clone(self);
            runtime.spawn(async move {
                let left = this.with_core(move |core| {
                    ids.iter().for_each(|id| core.unsubscribe(*id));
                });
                // Without readers the engine has ended, and all queries with it.
                let _ = left.await;
                this.kick();
            });
            return;
        } else {
            go(&mut self.core.lock());
        }
        self.kick();
    }

    /// Runs `act` on the core on a reader thread.
    pub(crate) async fn with_core<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, SqlError> {
        let this = Arc::clone(self);
        let work = move || act(&mut this.core.lock());
        Ok(self.tenant.shared.readers.call(work).await?)
    }
}

/// Completes after `pause`; without one, never.
async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Feeds a tenant's log to its live queries until there are none.
async fn follow(live: Arc<Live>, this: Arc<TenantLive>, mut tail: TailReader) {
    let mut roles = live.engine.watch_roles();
    let mut is_due = false;
    loop {
        let due = this.recompute_in();
        // Not by the timer alone, which does not fire while steps come one after the other.
        if std::mem::take(&mut is_due) || due.is_some_and(|due| due.is_zero()) {
            match this.with_core(Core::recompute_due).await {
                Ok(()) => continue,
                Err(error) => {
                    this.core.lock().end_all(&LiveEnd::Failed(error));
                    live.is_over(&this);
                    return;
                }
            }
        }
        let step = tokio::select! {
            biased;
            () = after(due) => {
                is_due = true;
                continue;
            }
            Ok(_) = roles.changed() => {
                match this.with_core(Core::follow_roles).await {
                    Ok(()) => continue,
                    Err(error) => {
                        this.core.lock().end_all(&LiveEnd::Failed(error));
                        live.is_over(&this);
                        return;
                    }
                }
            }
            () = this.kick.notified() => {
                if live.is_over(&this) {
                    return;
                }
                tail.try_next().await
            }
            step = tail.next() => step.map(Some),
            () = tokio::time::sleep(FOLLOW) => {
                if live.is_over(&this) {
                    return;
                }
                tail.try_next().await
            }
        };
        let end = match step {
            Ok(None) => continue,
            Ok(Some(step)) => match this.step(step).await {
                Ok(()) => continue,
                Err(error) => LiveEnd::Failed(error),
            },
            Err(error) => match CdcError::from(error) {
                CdcError::Refused { refused, .. } => LiveEnd::MustRefetch {
                    message: refused.to_string(),
                },
                CdcError::Sql(error) => LiveEnd::Failed(error),
            },
        };
        this.core.lock().end_all(&end);
        live.is_over(&this);
        return;
    }
}
