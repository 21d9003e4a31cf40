//! One open tenant: what all its sessions and tails share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use springhead_log::{Clock, Log, Progress};
use springhead_proto::{CollectionId, ErrorCode, Lsn, SchemaVersion, SqlError, TenantId, Value};
use springhead_sql::Catalog;
use springhead_sql::catalog::Table;
use tokio::sync::watch;

use crate::access::Principal;
use crate::advisory::AdvisoryLocks;
use crate::backends::Backends;
use crate::clock::Entropy;
use crate::confirm::CommitGate;
use crate::copy::CopyProgress;
use crate::functions::{CancelFlag, Context, SessionContext};
use crate::horizon::Horizon;
use crate::notify::Channels;
use crate::plans::PlanCache;
use crate::published::Published;
use crate::readers::{Failure, Readers, Snapshot};
use crate::replay::replay;
use crate::role::RoleSwitch;
use crate::rows::Rows;
use crate::schemas::Schemas;
use crate::sequences::SequenceBook;
use crate::session::Session;
use crate::tail::{Hub, TailReader};
use crate::workers::Workers;
use crate::writer::mailbox::Mailbox;
use crate::writer::{Command, Work, WorkDone, WorkRequest, Writer, WriterParts};
use crate::{EngineConfig, EngineError, state};

/// What tenants share.
pub struct Shared {
    pub config: Arc<EngineConfig>,
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub writers: Arc<Workers>,
    pub readers: Arc<Workers>,
    /// Checkpoints: a thread of their own, since readers may wait for one.
    pub background: Arc<Workers>,
    /// Why the node must stop, once it must.
    pub poison: watch::Sender<Option<String>>,
    /// Whether the node takes writes.
    pub role: RoleSwitch,
    /// How far the log may be shown.
    pub horizon: Arc<Horizon>,
    /// What commits wait for beyond the local disk, if anything.
    pub gate: ArcSwapOption<Box<dyn CommitGate>>,
    /// Makes the rows of `springhead.standbys`.
    pub standbys: ArcSwapOption<crate::system::StandbyRows>,
    /// Moves whenever anything is published in any tenant.
    pub moved: watch::Sender<Lsn>,
    pub statements: AtomicU64,
    pub commits: AtomicU64,
    pub backends: Arc<Backends>,
    pub next_transaction: AtomicU64,
    /// Tenants whose writers have met damage, and what it is; they take no writes any more.
    pub damaged: Mutex<BTreeMap<TenantId, String>>,
}

/// An open tenant.
pub struct Tenant {
    id: TenantId,
    name: ArcSwap<String>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) plans: Arc<PlanCache>,
    published: Arc<Published>,
    schemas: Arc<Schemas>,
    hub: Arc<Hub>,
    /// LISTEN and NOTIFY.
    pub(crate) channels: Arc<Channels>,
    snapshots: Arc<Readers>,
    /// The writer's own.
    pub(crate) sequences: Arc<Mutex<SequenceBook>>,
    /// pg_advisory_lock().
    pub(crate) advisory: Arc<AdvisoryLocks>,
    /// COPYs that run (SHOW copies).
    pub(crate) copies: Mutex<Vec<Weak<CopyProgress>>>,
    /// `Clock::monotonic_ms` of the last request.
    last_used_ms: AtomicU64,
    /// Sessions that are connected.
    pub(crate) sessions: AtomicU64,
    /// Collections whose dead letters are being redriven.
    pub(crate) redrives: Mutex<rustc_hash::FxHashSet<String>>,
    /// Snapshots that transactions keep between statements.
    held: Mutex<Vec<Weak<HeldSnapshot>>>,
}

/// A snapshot that a REPEATABLE READ transaction keeps; taken away past its maximum age.
pub struct HeldSnapshot {
    pub lsn: Lsn,
    /// The tenant's own last commit in it.
    pub applied: Lsn,
    /// The definitions of its rows.
    pub catalog: Arc<Catalog>,
    since_ms: u64,
    snapshot: Mutex<Option<Snapshot>>,
}

impl HeldSnapshot {
    /// Runs one storage query in it, on the caller's thread.
    ///
    /// # Errors
    /// 72000 if it has been taken away, or what the query comes to.
    pub(crate) fn query(
        &self,
        sql: &str,
        params: &[Value],
        session: &Arc<SessionContext>,
        cancel: &Arc<CancelFlag>,
    ) -> Result<Rows, SqlError> {
        match &*self.snapshot.lock() {
            Some(snapshot) => snapshot.query(sql, params, session, cancel),
            None => Err(SqlError::new(ErrorCode::SnapshotTooOld, "snapshot too old")
                .with_hint("start the transaction again, or raise snapshot_max_age")),
        }
    }
}

fn unreadable(id: TenantId, error: rusqlite::Error) -> EngineError {
    let tenant = id.0;
    EngineError::Sqlite { tenant, error }
}

/// # Errors
/// That a tenant that is not new has lost what the log cannot give back.
fn expect_state(shared: &Shared, id: TenantId, fresh: bool) -> Result<(), EngineError> {
    let may_be_missing = fresh || shared.config.states_may_be_missing;
    if may_be_missing || shared.log.earliest() <= Lsn::FIRST || state::has_state(&shared.config, id)
    {
        return Ok(());
    }
    Err(EngineError::Corrupt {
        tenant: id.0,
        what: "its state file is gone, and the log no longer goes back to the beginning".to_owned(),
    })
}

impl Tenant {
    /// Opens a tenant's state and replays what it is behind. Blocks. `fresh`: it has just been made,
    /// so that no state file is expected.
    ///
    /// # Errors
    /// Damage, or what the disk says.
    pub fn open(
        shared: &Arc<Shared>,
        id: TenantId,
        name: &str,
        fresh: bool,
        progress: &dyn Progress,
    ) -> Result<Arc<Tenant>, EngineError> {
        let config = &shared.config;
        let sequences: Arc<Mutex<SequenceBook>> = Arc::default();
        let (clock, entropy) = (Arc::clone(&shared.clock), Arc::clone(&shared.entropy));
        let context = Context::new(clock, entropy, Some(Arc::clone(&sequences)));
        expect_state(shared, id, fresh)?;
        let conn = state::open_writer(config, id, shared.log.tail().epoch, &context)?;
        let schemas = Arc::new(Schemas::default());
        let catalog = Arc::new(state::load_catalog(&conn, id, &schemas)?);
        let mut catalog = replay(&conn, id, catalog, &schemas, &*shared.log, progress)?;
        let is_device = config.device && id == TenantId::DEFAULT;
        if is_device && catalog.next_id < crate::device::FIRST_LOCAL_ID {
            // Lower ids are the server's.
            Arc::make_mut(&mut catalog).next_id = crate::device::FIRST_LOCAL_ID;
        }
        let applied = state::applied(&conn).map_err(|error| unreadable(id, error))?;
        let hub = Hub::new(
            Arc::clone(&shared.log),
            Arc::clone(&shared.horizon),
            id,
            applied.lsn,
            config.tail_memory_bytes,
            config.tail_read_bytes,
            Arc::clone(&shared.readers),
        );
        let snapshots = Arc::new(Readers::new(
            Arc::clone(config),
            id,
            Arc::clone(&shared.clock),
            Arc::clone(&shared.entropy),
            Arc::clone(&hub),
        ));
        let published = Arc::new(Published::new(
            Arc::clone(shared),
            id,
            state::state_file(config, id),
            Arc::clone(&catalog),
            &snapshots,
        ));
        let plans = Arc::new(PlanCache::new(config.plan_cache));
        let writer = Writer::new(WriterParts {
            plans: Arc::clone(&plans),
            tenant: id,
            config: Arc::clone(config),
            log: Arc::clone(&shared.log),
            conn,
            context,
            catalog,
            schemas: Arc::clone(&schemas),
            hub: Arc::clone(&hub),
            published: Arc::clone(&published),
            shared: Arc::clone(shared),
        });
        Ok(Arc::new(Tenant {
            id,
            name: ArcSwap::from_pointee(name.to_owned()),
            shared: Arc::clone(shared),
            mailbox: Mailbox::new(
                writer,
                Arc::clone(&shared.writers),
                config.writer_queue_bytes,
                config.max_group,
            ),
            plans,
            published,
            schemas,
            channels: Channels::new(Arc::clone(&hub), config.notify_queue_bytes),
            hub,
            snapshots,
            sequences,
            advisory: Arc::default(),
            copies: Mutex::default(),
            last_used_ms: AtomicU64::new(shared.clock.monotonic_ms()),
            sessions: AtomicU64::new(0),
            redrives: Mutex::default(),
            held: Mutex::default(),
        }))
    }

    pub fn id(&self) -> TenantId {
        self.id
    }

    pub fn name(&self) -> String {
        self.name.load().as_ref().clone()
    }

    /// The catalog as of the last visible commit.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.published.catalog()
    }

    /// The columns of `collection` as they were at `version`, for reading row images. Kept for ever.
    pub fn schema(&self, collection: CollectionId, version: SchemaVersion) -> Option<Arc<Table>> {
        self.schemas.get(collection, version)
    }

    /// Every commit of this tenant up to it is in its SQLite file. Passes other tenants' changes.
    pub fn visible(&self) -> Lsn {
        self.hub.visible()
    }

    /// The last LSN of this tenant's last commit.
    pub fn last_commit(&self) -> Lsn {
        self.hub.published()
    }

    /// The last commit that anyone was told of; visible in a moment.
    pub fn acknowledged(&self) -> Lsn {
        self.hub.acknowledged().min(self.shared.horizon.limit())
    }

    /// Whether the node follows another.
    pub(crate) fn is_on_standby(&self) -> bool {
        !self.shared.role.is_writable()
    }

    /// Waits until `lsn` is visible.
    ///
    /// # Errors
    /// After `min_lsn_wait`, 57P03.
    pub async fn wait_visible(&self, lsn: Lsn) -> Result<(), SqlError> {
        if self.visible() >= lsn {
            return Ok(());
        }
        self.wait_until(|| self.visible() >= lsn)
            .await
            .map_err(|()| {
                SqlError::new(
                    ErrorCode::CannotConnectNow,
                    format!(
                        "LSN {lsn} has not become visible in time; {} is",
                        self.visible()
                    ),
                )
                .with_hint(
                    "retry shortly; an LSN that this node never gave out never becomes visible",
                )
            })
    }

    /// Waits until the tenant's own commits up to `lsn` are in its state and planned against, whether
    /// they may be shown or not.
    ///
    /// # Errors
    /// After `min_lsn_wait`, 57P03.
    pub(crate) async fn wait_published(&self, lsn: Lsn) -> Result<(), SqlError> {
        self.wait_until(|| self.hub.published() >= lsn)
            .await
            .map_err(|()| {
                SqlError::new(
                    ErrorCode::CannotConnectNow,
                    format!("LSN {lsn} has not been published in time"),
                )
            })
    }

    /// Completes once `lsn` is visible, however long that takes. Cancel-safe.
    pub(crate) async fn when_visible(&self, lsn: Lsn) {
        self.when(|| self.visible() >= lsn).await;
    }

    /// Waits until `is_there`, looking at each move of the log or of what may be shown; an error after
    /// `min_lsn_wait`.
    pub(crate) async fn wait_until(&self, is_there: impl Fn() -> bool) -> Result<(), ()> {
        tokio::time::timeout(self.shared.config.min_lsn_wait, self.when(is_there))
            .await
            .map_err(drop)
    }

    async fn when(&self, is_there: impl Fn() -> bool) {
        let mut moved = self.shared.moved.subscribe();
        let mut shown = self.shared.horizon.watch();
        while !is_there() {
            // The node's engine outlives its tenants, so the senders are there.
            tokio::select! {
                _ = moved.changed() => {}
                _ = shown.changed() => {}
            }
        }
    }

    /// A tail that delivers what comes after `position`, which must not be past [`Tenant::visible`].
    /// With `collections`, only commits that touch one of them (whole).
    pub fn tail(self: &Arc<Self>, position: Lsn, collections: Vec<CollectionId>) -> TailReader {
        self.touch();
        self.hub.tail(position, collections)
    }

    /// Tails there are.
    pub fn subscribers(&self) -> usize {
        self.hub.subscribers()
    }

    /// Runs a storage query on a fresh snapshot; its rows, spooled, and the snapshot's LSN: exactly
    /// the commits up to it are in the rows, and a tail from it continues without gap or repeat.
    /// `params` are bound to `?1`….
    ///
    /// # Errors
    /// What SQLite says; 72000 past the snapshot's maximum age.
    pub async fn read_snapshot(
        &self,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<(Rows, Lsn), SqlError> {
        let (mut rows, lsn) = self
            .read_snapshots(Arc::default(), vec![(sql.to_owned(), params)])
            .await?;
        Ok((rows.pop().unwrap_or_default(), lsn))
    }

    /// As [`Tenant::read_snapshot`], several queries on one snapshot, for a session.
    ///
    /// # Errors
    /// As [`Tenant::read_snapshot`].
    pub(crate) async fn read_snapshots(
        &self,
        session: Arc<SessionContext>,
        queries: Vec<(String, Vec<Value>)>,
    ) -> Result<(Vec<Rows>, Lsn), SqlError> {
        let cancel = Arc::new(CancelFlag::default());
        self.read(session, cancel, move |snapshot, session, cancel| {
            let rows = queries
                .iter()
                .map(|(sql, params)| snapshot.query(sql, params, session, cancel))
                .collect::<Result<Vec<_>, _>>()?;
            Ok((rows, snapshot.lsn))
        })
        .await
    }

    /// Runs `act` on a fresh snapshot, for what is no query of a user's and takes a moment. Not a use
    /// of the tenant.
    pub(crate) async fn on_snapshot<T: Send + 'static>(
        &self,
        act: impl FnOnce(&rusqlite::Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, SqlError> {
        let snapshots = Arc::clone(&self.snapshots);
        let work = move || {
            let snapshot = snapshots.snapshot()?;
            act(snapshot.connection()).map_err(|failure| match failure {
                Failure::Sql(error) => error,
                Failure::Sqlite(error) => crate::readers::translate_plain(&error),
            })
        };
        self.shared.readers.call(work).await?
    }

    /// Has the writer do work of the engine's own.
    ///
    /// # Errors
    /// Why it was not done; 08007 if nobody knows.
    pub(crate) async fn work(&self, work: Work) -> Result<WorkDone, SqlError> {
        self.touch();
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.mailbox
            .submit(Command::Work(WorkRequest { work, reply }));
        answer.await.unwrap_or_else(|_| {
            Err(SqlError::new(
                ErrorCode::OutcomeUnknown,
                "the outcome is unknown: the writer ended",
            ))
        })
    }

    /// Runs `act` on a fresh snapshot on a reader thread, cancelled past the snapshot's maximum age.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        session: Arc<SessionContext>,
        cancel: Arc<CancelFlag>,
        act: impl FnOnce(&Snapshot, &Arc<SessionContext>, &Arc<CancelFlag>) -> Result<T, SqlError>
        + Send
        + 'static,
    ) -> Result<T, SqlError> {
        self.touch();
        let snapshots = Arc::clone(&self.snapshots);
        let flag = Arc::clone(&cancel);
        let work = self.shared.readers.call(move || {
            let snapshot = snapshots.snapshot()?;
            act(&snapshot, &session, &flag)
        });
        tokio::pin!(work);
        let max_age: Duration = self.shared.config.snapshot_max_age;
        tokio::select! {
            result = &mut work => result?,
            () = tokio::time::sleep(max_age) => {
                cancel.cancel(crate::functions::CancelReason::SnapshotTooOld);
                work.await?
            }
        }
    }

    /// Opens a snapshot that a transaction keeps between its statements.
    pub(crate) async fn hold_snapshot(&self) -> Result<Arc<HeldSnapshot>, SqlError> {
        let (snapshots, published) = (Arc::clone(&self.snapshots), Arc::clone(&self.published));
        let open = move || loop {
            let snapshot = snapshots.snapshot()?;
            // Newer definitions came meanwhile: there is a newer snapshot too.
            if let Some(catalog) = published.catalog_at(snapshot.applied) {
                return Ok::<_, SqlError>((snapshot, catalog));
            }
        };
        let (snapshot, catalog) = self.shared.readers.call(open).await??;
        let held = Arc::new(HeldSnapshot {
            lsn: snapshot.lsn,
            applied: snapshot.applied,
            catalog,
            since_ms: self.shared.clock.monotonic_ms(),
            snapshot: Mutex::new(Some(snapshot)),
        });
        let mut all = self.held.lock();
        all.retain(|held| held.strong_count() > 0);
        all.push(Arc::downgrade(&held));
        Ok(held)
    }

    /// Takes snapshots past their maximum age away from their transactions, which get 72000.
    pub(crate) fn drop_old_snapshots(&self) {
        let now_ms = self.shared.clock.monotonic_ms();
        let max_ms =
            u64::try_from(self.shared.config.snapshot_max_age.as_millis()).unwrap_or(u64::MAX);
        for held in self.held.lock().iter().filter_map(Weak::upgrade) {
            if now_ms.saturating_sub(held.since_ms) > max_ms
                // A query that runs in it is cancelled by its session.
                && let Some(mut snapshot) = held.snapshot.try_lock()
            {
                snapshot.take();
            }
        }
    }

    /// How long a held snapshot may still be used.
    pub(crate) fn left_of(&self, held: &HeldSnapshot) -> Duration {
        let age = Duration::from_millis(
            self.shared
                .clock
                .monotonic_ms()
                .saturating_sub(held.since_ms),
        );
        self.shared.config.snapshot_max_age.saturating_sub(age)
    }

    pub(crate) fn published(&self) -> &Arc<Published> {
        &self.published
    }

    pub(crate) fn snapshots(&self) -> &Arc<Readers> {
        &self.snapshots
    }

    /// A session that may write `springhead.*`. Its statements have no time limits.
    pub fn system_session(self: &Arc<Self>) -> Session {
        Session::new(
            Arc::clone(self),
            &Principal::unrestricted("springhead"),
            true,
        )
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self) {
        self.last_used_ms
            .store(self.shared.clock.monotonic_ms(), Ordering::Relaxed);
    }

    /// Milliseconds since it was last used; `None` while something is under way.
    pub(crate) fn idle_ms(&self) -> Option<u64> {
        let quiet = self.sessions.load(Ordering::Acquire) == 0
            && self.hub.subscribers() == 0
            && self.mailbox.is_idle();
        quiet.then(|| {
            self.shared
                .clock
                .monotonic_ms()
                .saturating_sub(self.last_used_ms.load(Ordering::Relaxed))
        })
    }

    /// Moves everything committed so far into the synced state file; the LSN up to which that is
    /// sure, or `None` if readers are in the way. Blocks.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn checkpoint(&self) -> Result<Option<Lsn>, EngineError> {
        let sure = self.hub.stored();
        let complete = state::checkpoint(self.published.path(), false)
            .inspect_err(|error| self.published.checkpoint_failed(error))
            .map_err(|error| EngineError::Sqlite {
                tenant: self.id.0,
                error,
            })?;
        Ok(complete.then_some(sure))
    }

    /// Ends its tails and its writer. Blocks until what runs has ended.
    pub(crate) fn close(&self, dropped: bool) {
        if dropped {
            self.hub.end_dropped();
        } else {
            self.hub.end_shutdown();
        }
        let (code, why) = if dropped {
            (ErrorCode::TenantDropped, "the tenant was dropped")
        } else {
            (ErrorCode::AdminShutdown, "the server is shutting down")
        };
        self.mailbox.close(&SqlError::new(code, why));
        self.snapshots.close_idle();
    }
}
