//! The engine: all tenants of a node over one log. Which there are is a collection of the system
//! tenant; they are opened on demand ([`opening`]).

mod opening;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_log::{Clock, Log, LogStats, NoProgress, Progress, TailPosition};
use springhead_proto::{ErrorCode, Lsn, SYSTEM_TENANT, SqlError, TenantId};
use tokio::sync::watch;

use crate::access::audit::AuditBook;
use crate::access::{Principal, RoleChanges, Roles};
use crate::cdc::{Cdc, CdcLimits};
use crate::dead_letters::figures::Known;
use crate::horizon::Horizon;
use crate::role::{NodeRole, RoleSwitch};
use crate::session::ParamValue;
use crate::tenant::Shared;
use crate::tenants::{execute, insert_tenant, list_tenants, read_access, remove_tenant};
use crate::workers::Workers;
use crate::{EngineConfig, EngineError, Entropy, Session, Tenant, state};

/// A handle to the node's tenants; clones share them.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// An engine that may be gone.
#[derive(Clone)]
pub(crate) struct WeakEngine(std::sync::Weak<Inner>);

impl WeakEngine {
    pub(crate) fn upgrade(&self) -> Option<Engine> {
        self.0.upgrade().map(|inner| Engine { inner })
    }
}

struct Inner {
    shared: Arc<Shared>,
    system: Arc<Tenant>,
    registry: Mutex<Registry>,
    /// Creating and dropping tenants, one at a time.
    changing: tokio::sync::Mutex<()>,
    roles: ArcSwap<Roles>,
    /// The version of `roles`, for those who wait for another.
    roles_changed: watch::Sender<u64>,
    /// Changes of roles, one at a time.
    changing_roles: tokio::sync::Mutex<()>,
    audit: AuditBook,
    /// What was last read of tenants' dead letters.
    dead_letters: Mutex<FxHashMap<TenantId, Known>>,
    /// The change feeds that statements read too.
    cdc: Mutex<Weak<Cdc>>,
    /// Tenants that have been opened since there was last looked for too many.
    opened: AtomicUsize,
}

#[derive(Default)]
struct Registry {
    slots: FxHashMap<TenantId, Arc<Slot>>,
    names: FxHashMap<String, TenantId>,
    /// Ids are never used again.
    last_id: u32,
    closed: bool,
}

/// A tenant that exists, open or not.
pub(crate) struct Slot {
    pub(crate) id: TenantId,
    name: String,
    pub(crate) tenant: tokio::sync::Mutex<Option<Arc<Tenant>>>,
}

/// A tenant as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantInfo {
    pub id: TenantId,
    pub name: String,
    pub open: bool,
}

/// Figures for `/v1/status` and metrics.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    pub tail: TailPosition,
    pub earliest: Lsn,
    pub log: LogStats,
    pub tenants: usize,
    pub open_tenants: usize,
    /// Tenants that take no writes any more, and the damage that was found.
    pub damaged_tenants: Vec<(TenantId, String)>,
    pub subscribers: usize,
    pub statements: u64,
    pub commits: u64,
}

/// The name of the first tenant, and what PostgreSQL's clients call their default database.
const DEFAULT_NAME: &str = "default";
const POSTGRES_NAME: &str = "postgres";
const MAX_NAME_BYTES: usize = 63;

impl Engine {
    /// For what must not keep it open.
    pub(crate) fn downgrade(&self) -> WeakEngine {
        WeakEngine(Arc::downgrade(&self.inner))
    }

    /// Opens the node's state over `log`, replaying what it is behind. Blocks.
    ///
    /// # Errors
    /// [`EngineError`]; nothing has been changed then that a later start could not continue from.
    pub fn open(
        config: EngineConfig,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Engine, EngineError> {
        Engine::open_with_progress(config, log, clock, entropy, &NoProgress)
    }

    /// As [`Engine::open`]; tells how far the replay of the system's and the default tenant has come.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_with_progress(
        config: EngineConfig,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        progress: &dyn Progress,
    ) -> Result<Engine, EngineError> {
        let workers = |name: &str, count| {
            Workers::start(name, count)
                .map(Arc::new)
                .map_err(|error| EngineError::Io {
                    operation: "start",
                    path: format!("threads of {name}"),
                    error,
                })
        };
        let threads = config.worker_threads;
        let role = config.role.clone();
        let is_standby = role != NodeRole::Primary;
        let horizon = Horizon::open();
        if is_standby {
            // Before any tenant is opened: each then goes at least as far.
            horizon.set_applied(log.tail().durable);
        }
        let shared = Arc::new(Shared {
            writers: workers("writer", threads)?,
            readers: workers("reader", threads)?,
            background: workers("checkpoint", 1)?,
            config: Arc::new(config),
            log,
            clock,
            entropy,
            role: RoleSwitch::new(role),
            horizon,
            gate: ArcSwapOption::empty(),
            standbys: ArcSwapOption::empty(),
            poison: watch::Sender::new(None),
            moved: watch::Sender::new(Lsn::ZERO),
            statements: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            backends: Arc::default(),
            next_transaction: AtomicU64::new(1),
            damaged: Mutex::default(),
        });
        let system = Tenant::open(&shared, SYSTEM_TENANT, "system", false, progress)?;
        let registry = Engine::load_registry(&system, is_standby)?;
        let slot = registry.slots.get(&TenantId::DEFAULT).cloned();
        let slot = slot.ok_or_else(|| EngineError::Corrupt {
            tenant: SYSTEM_TENANT.0,
            what: "springhead.tenants has no default tenant".to_owned(),
        })?;
        let fresh = shared.log.earliest() <= Lsn::FIRST;
        let default = Tenant::open(&shared, slot.id, &slot.name, fresh, progress)?;
        let (roles, audit) = read_access(&default).map_err(|error| EngineError::Corrupt {
            tenant: TenantId::DEFAULT.0,
            what: error.to_string(),
        })?;
        *slot
            .tenant
            .try_lock()
            .expect("nobody else has the engine yet") = Some(default);
        Ok(Engine {
            inner: Arc::new(Inner {
                shared,
                system,
                registry: Mutex::new(registry),
                changing: tokio::sync::Mutex::default(),
                roles_changed: watch::Sender::new(roles.version),
                roles: ArcSwap::from_pointee(roles),
                changing_roles: tokio::sync::Mutex::default(),
                audit,
                dead_letters: Mutex::default(),
                cdc: Mutex::default(),
                opened: AtomicUsize::new(0),
            }),
        })
    }

    fn load_registry(system: &Arc<Tenant>, is_standby: bool) -> Result<Registry, EngineError> {
        let named = |error: SqlError| EngineError::Corrupt {
            tenant: 0,
            what: error.to_string(),
        };
        let mut found = list_tenants(system).map_err(named)?;
        if found.is_empty() && !is_standby {
            let mut session = system.system_session();
            block_on(insert_tenant(&mut session, TenantId::DEFAULT, DEFAULT_NAME))
                .map_err(named)?;
            found = list_tenants(system).map_err(named)?;
        }
        let mut registry = Registry::default();
        for (id, name, is_active) in found {
            registry.last_id = registry.last_id.max(id.0);
            if is_active {
                registry.add(id, &name, None);
            }
        }
        Ok(registry)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn system_tenant(&self) -> &Arc<Tenant> {
        &self.inner.system
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.inner.registry.lock().slots.values().cloned().collect()
    }

    pub(crate) fn slot(&self, id: TenantId) -> Option<Arc<Slot>> {
        self.inner.registry.lock().slots.get(&id).cloned()
    }

    pub(crate) fn add_slot(&self, id: TenantId, name: &str, open: Option<Arc<Tenant>>) {
        let mut registry = self.inner.registry.lock();
        registry.last_id = registry.last_id.max(id.0);
        registry.add(id, name, open);
    }

    pub(crate) fn remove_slot(&self, slot: &Slot) {
        let mut registry = self.inner.registry.lock();
        registry.slots.remove(&slot.id);
        if registry.names.get(&slot.name) == Some(&slot.id) {
            registry.names.remove(&slot.name);
        }
    }

    /// The roles in force.
    #[must_use]
    pub fn roles(&self) -> Arc<Roles> {
        self.inner.roles.load_full()
    }

    /// Tells when the roles have changed.
    #[must_use]
    pub fn watch_roles(&self) -> RoleChanges {
        self.inner.roles_changed.subscribe()
    }

    pub(crate) fn put_roles(&self, roles: Arc<Roles>) {
        let version = roles.version;
        self.inner.roles.store(roles);
        self.inner.roles_changed.send_replace(version);
    }

    pub(crate) fn role_changes(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.changing_roles
    }

    pub(crate) fn known_dead_letters(&self) -> &Mutex<FxHashMap<TenantId, Known>> {
        &self.inner.dead_letters
    }

    pub(crate) fn audit_book(&self) -> &AuditBook {
        &self.inner.audit
    }

    pub(crate) fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.inner.shared.entropy
    }

    /// Runs what blocks on a thread for readers.
    pub(crate) async fn on_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SqlError> {
        Ok(self.inner.shared.readers.call(work).await?)
    }

    /// The name of a tenant that exists.
    #[must_use]
    pub fn tenant_name(&self, id: TenantId) -> Option<String> {
        let registry = self.inner.registry.lock();
        registry.slots.get(&id).map(|slot| slot.name.clone())
    }

    /// The change feeds of this engine, with the limits that they were made with.
    pub(crate) fn cdc(&self) -> Arc<Cdc> {
        let made = self.inner.cdc.lock().upgrade();
        made.unwrap_or_else(|| Cdc::new(self.clone(), CdcLimits::default()))
    }

    /// From now on statements read these feeds.
    pub(crate) fn set_cdc(&self, cdc: &Arc<Cdc>) {
        *self.inner.cdc.lock() = Arc::downgrade(cdc);
    }

    pub fn config(&self) -> &EngineConfig {
        &self.inner.shared.config
    }

    pub fn log(&self) -> &Arc<dyn Log> {
        &self.inner.shared.log
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.shared.clock
    }

    /// Completes with the reason once the node must stop: the log or a state cannot be relied on.
    pub async fn poisoned(&self) -> String {
        let mut poison = self.inner.shared.poison.subscribe();
        match poison.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// The tenant called `name`; `postgres` is `default`.
    ///
    /// # Errors
    /// 3D000 where there is none.
    pub fn tenant_id(&self, name: &str) -> Result<TenantId, SqlError> {
        let registry = self.inner.registry.lock();
        let known = registry.names.get(name);
        let known = known.or_else(|| {
            if name == POSTGRES_NAME {
                registry.names.get(DEFAULT_NAME)
            } else {
                None
            }
        });
        known.copied().ok_or_else(|| unknown_name(name))
    }

    /// Every tenant but the system's, by id.
    pub fn tenants(&self) -> Vec<TenantInfo> {
        let registry = self.inner.registry.lock();
        let mut all: Vec<_> = registry
            .slots
            .values()
            .map(|slot| TenantInfo {
                id: slot.id,
                name: slot.name.clone(),
                open: slot
                    .tenant
                    .try_lock()
                    .map_or(true, |tenant| tenant.is_some()),
            })
            .collect();
        all.sort_by_key(|tenant| tenant.id);
        all
    }

    /// A new conversation with a tenant for `principal`.
    ///
    /// # Errors
    /// As [`Engine::tenant`], [`Engine::identify`] and [`Engine::check_tenant`].
    pub async fn session(
        &self,
        tenant: TenantId,
        principal: &Arc<Principal>,
    ) -> Result<Session, SqlError> {
        self.check_tenant(principal, tenant)?;
        let identity = self.identify(principal)?;
        let tenant = self.tenant(tenant).await?;
        Ok(Session::new(tenant, principal, false).with_engine(self.clone(), identity))
    }

    /// CREATE DATABASE.
    ///
    /// # Errors
    /// 42P04 if the name is taken, 42602-like if it is none.
    pub fn create_tenant(&self, name: &str) -> Change<TenantId> {
        let (engine, name) = (self.clone(), name.to_owned());
        to_its_end(async move { engine.create(&name).await })
    }

    async fn create(&self, name: &str) -> Result<TenantId, SqlError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(SqlError::new(
                ErrorCode::NameTooLong,
                format!(
                    "a database's name has 1 to {MAX_NAME_BYTES} bytes and no control characters"
                ),
            ));
        }
        let _changing = self.inner.changing.lock().await;
        if self.tenant_id(name).is_ok() {
            return Err(SqlError::new(
                ErrorCode::DuplicateDatabase,
                format!("database \"{name}\" already exists"),
            ));
        }
        let id = TenantId(self.inner.registry.lock().last_id + 1);
        // Its file first: after a crash in between it is nobody's, and the next tenant's. The other
        // way round there were a tenant without a file, which is refused once log was trimmed.
        let (shared, tenant_name) = (Arc::clone(&self.inner.shared), name.to_owned());
        let open = move || Tenant::open(&shared, id, &tenant_name, true, &NoProgress);
        let tenant = self.inner.shared.readers.call(open).await??;
        let mut system = self.inner.system.system_session();
        if let Err(error) = insert_tenant(&mut system, id, name).await {
            let dir = state::tenant_dir(self.config(), id);
            self.inner
                .shared
                .readers
                .call(move || remove_tenant(Some(tenant), &dir))
                .await?;
            return Err(error);
        }
        {
            let mut registry = self.inner.registry.lock();
            registry.last_id = id.0;
            registry.add(id, name, Some(tenant));
        }
        self.make_room().await?;
        Ok(id)
    }

    /// DROP DATABASE: its feeds end with `tenant_dropped`, its files go at once.
    ///
    /// # Errors
    /// 3D000 if there is none; 55006 while sessions are connected to it, or for `default`.
    pub fn drop_tenant(&self, name: &str) -> Change<()> {
        let (engine, name) = (self.clone(), name.to_owned());
        to_its_end(async move { engine.drop_named(&name).await })
    }

    async fn drop_named(&self, name: &str) -> Result<(), SqlError> {
        let _changing = self.inner.changing.lock().await;
        let id = self.tenant_id(name)?;
        if id == TenantId::DEFAULT {
            return Err(SqlError::new(
                ErrorCode::ObjectInUse,
                "the default database cannot be dropped",
            ));
        }
        let slot = self
            .inner
            .registry
            .lock()
            .slots
            .get(&id)
            .cloned()
            .ok_or_else(|| unknown_name(name))?;
        let mut open = slot.tenant.lock().await;
        if let Some(tenant) = &*open {
            let sessions = tenant.sessions.load(Ordering::Acquire);
            if sessions > 0 {
                return Err(SqlError::new(
                    ErrorCode::ObjectInUse,
                    format!("database \"{name}\" is being accessed by other users"),
                )
                .with_detail(format!(
                    "There are {sessions} other sessions using the database."
                )));
            }
        }
        let mut system = self.inner.system.system_session();
        let sql = "UPDATE springhead.tenants SET state = 'dropped', name = $2 WHERE id = $1";
        let (id_text, past_name) = (id.to_string(), format!("{name}#{id}"));
        execute(
            &mut system,
            sql,
            &[ParamValue::Text(&id_text), ParamValue::Text(&past_name)],
        )
        .await?;
        {
            let mut registry = self.inner.registry.lock();
            registry.slots.remove(&id);
            registry.names.remove(name);
        }
        self.inner.dead_letters.lock().remove(&id);
        let tenant = open.take();
        let dir = state::tenant_dir(self.config(), id);
        self.inner
            .shared
            .readers
            .call(move || remove_tenant(tenant, &dir))
            .await?;
        Ok(())
    }

    pub fn status(&self) -> EngineStatus {
        let shared = &self.inner.shared;
        let open = self.open_tenants();
        EngineStatus {
            tail: shared.log.tail(),
            earliest: shared.log.earliest(),
            log: shared.log.stats(),
            tenants: self.inner.registry.lock().slots.len(),
            open_tenants: open.len(),
            damaged_tenants: shared.damaged.lock().clone().into_iter().collect(),
            subscribers: open.iter().map(|tenant| tenant.subscribers()).sum(),
            statements: shared.statements.load(Ordering::Relaxed),
            commits: shared.commits.load(Ordering::Relaxed),
        }
    }

    /// Applies retention and closes idle tenants. Called about every 10 s. Blocks.
    ///
    /// # Errors
    /// What the disk says.
    pub fn maintain(&self) -> Result<(), EngineError> {
        for tenant in self.open_tenants() {
            tenant.drop_old_snapshots();
        }
        self.close_idle();
        self.trim()
    }

    /// Forgets old log, once every tenant with changes in it has them in its synced state file.
    fn trim(&self) -> Result<(), EngineError> {
        let log = self.log();
        let Some(mut up_to) = log.trim_candidate() else {
            return Ok(());
        };
        for id in log.tenants_before(up_to)? {
            let checkpoint = |tenant: &Arc<Tenant>| tenant.checkpoint();
            let outcome = if id == SYSTEM_TENANT {
                Some(checkpoint(&self.inner.system))
            } else {
                self.with_tenant(id, checkpoint)?
            };
            match outcome.transpose()? {
                Some(Some(sure)) => up_to = up_to.min(sure),
                // Readers are in the way: next time.
                Some(None) => return Ok(()),
                // A tenant that was dropped needs nothing.
                None => {}
            }
        }
        springhead_log::failpoint::hit("engine.before_trim");
        log.trim(up_to)?;
        Ok(())
    }

    /// Finishes what runs, takes no more, checkpoints and closes. Blocks.
    pub fn shutdown(&self) {
        self.inner.registry.lock().closed = true;
        let mut tenants = self.open_tenants();
        tenants.push(Arc::clone(&self.inner.system));
        for tenant in tenants {
            tenant.close(false);
            if let Err(error) = tenant.checkpoint() {
                tracing::warn!(tenant = tenant.id().0, "the last checkpoint: {error}");
            }
        }
        self.inner.shared.writers.stop();
        self.inner.shared.readers.stop();
        self.inner.shared.background.stop();
        self.inner.shared.log.close();
    }
}

impl Registry {
    fn add(&mut self, id: TenantId, name: &str, open: Option<Arc<Tenant>>) {
        let slot = Slot {
            id,
            name: name.to_owned(),
            tenant: tokio::sync::Mutex::new(open),
        };
        self.slots.insert(id, Arc::new(slot));
        self.names.insert(name.to_owned(), id);
    }
}

/// A change of what tenants there are, under way.
pub type Change<T> = Pin<Box<dyn Future<Output = Result<T, SqlError>> + Send>>;

/// Runs `change` to its end also when whoever waits for it goes away: what tenants there are must be
/// the same in the log and in memory.
pub(crate) fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, SqlError>> + Send + 'static,
) -> Change<T> {
    Box::pin(async move {
        match tokio::spawn(change).await {
            Ok(result) => result,
            Err(error) => Err(SqlError::new(ErrorCode::OutcomeUnknown, error.to_string())),
        }
    })
}

fn unknown_name(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UnknownDatabase,
        format!("database \"{name}\" does not exist"),
    )
    .with_hint("a database is a tenant: CREATE DATABASE makes one, and `postgres` means `default`")
}

/// Runs a future to its end on this thread; for the few places that block by contract and may or
/// may not be inside a runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
