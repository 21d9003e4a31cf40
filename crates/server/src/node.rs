//! One running node: the engine, both listeners, housekeeping, and the way to the end of all of
//! them. `cli::serve` calls [`run`]; every connection holds an `Arc` of [`NodeState`].
//!
//! ```text
//! lock data dir -> [ bind -> what is it? -> open log -> open engine (replay) -> serve ] -> SIGTERM
//!   -> no new connections, idle ones told -> running ones finish (shutdown_grace) -> engine -> log
//! ```
//!
//! What is in brackets is done again, in the same process, when the node changes its role in a way
//! that needs the engine closed (`standby::life`).

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_engine::live::Live;
use springhead_engine::role::NodeRole;
use springhead_engine::{Engine, EngineConfig, EngineError, Entropy};
use springhead_log::{LogError, SystemClock};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::{Auth, AuthError};
use crate::cli::Progress;
use crate::config::Config;
use crate::lock::{DataDir, DataDirError};
use crate::standby::files::RoleFile;
use crate::standby::life::{self, OpenLog};
use crate::standby::sync::{Gate, Synchrony};
use crate::standby::{Options, Replication, Restart};
use crate::vote::Voting;
use crate::{http, pgwire};

/// How long the clients of a poisoned log get to be told "outcome unknown".
const POISON_GRACE: Duration = Duration::from_millis(500);

/// How long clients get when the node closes its engine to change its role.
const RESTART_GRACE: Duration = Duration::from_millis(200);

/// How long a primary that stops waits for its standbys to have the last of it.
const STANDBYS_GRACE: Duration = Duration::from_secs(3);

/// How often it is looked whether certificates have changed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// What all connections of a node share.
pub struct NodeState {
    pub engine: Engine,
    pub config: Config,
    /// When the node began to serve.
    pub started: Instant,
    /// Who is connected over the PostgreSQL protocol.
    pub pg: pgwire::Registry,
    /// Who is who.
    pub auth: Auth,
    /// How it follows others and is followed; `None` over a log that cannot be.
    pub replication: Option<Arc<Replication>>,
    /// How the log's archive goes.
    pub archive: Arc<parking_lot::Mutex<crate::backup::archive::Status>>,
    /// Live queries, of every protocol.
    pub live: Arc<Live>,
}

/// Told once, to everyone: the node is stopping.
#[derive(Clone)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
}

impl Shutdown {
    /// A signal and the switch that gives it.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Shutdown) {
        let (switch, requested) = watch::channel(false);
        (switch, Shutdown { requested })
    }

    /// Whether the node is stopping.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Returns once the node is stopping, at once if it already is. Cancel-safe.
    pub async fn requested(&mut self) {
        // A switch that is gone means that the node is gone.
        let _ = self.requested.wait_for(|requested| *requested).await;
    }
}

/// Why a node did not start, or ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("{setting} = {address}: {what}")]
    Address {
        setting: &'static str,
        address: String,
        what: String,
    },
    #[error(
        "{setting} = {address} is not a loopback address, and without users anyone could connect there; listen on 127.0.0.1 or [::1] and make a user first (springhead user create)"
    )]
    OpenToTheWorld {
        setting: &'static str,
        address: SocketAddr,
    },
    #[error(
        "{setting} = {address} is not a loopback address, and without standby_token anyone could vote there; give the witness the nodes' standby_token"
    )]
    OpenWitness {
        setting: &'static str,
        address: SocketAddr,
    },
    #[error("listen on {address}: {error}")]
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{what}: {error}")]
    System {
        what: &'static str,
        error: std::io::Error,
    },
    #[error("{0}; the outcome of the last commits is unknown until the next start")]
    Poisoned(String),
}

/// Unpredictable bytes from the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes)
            .expect("the operating system always has random bytes once it has booted");
    }
}

/// Serves until told to stop (SIGTERM, SIGINT) and everything has ended in order. `open_log` opens
/// the log in the directory it is given, which goes at least to the LSN it is given; it may block.
///
/// # Errors
/// [`NodeError`].
pub async fn run(config: Config, open_log: Arc<OpenLog>) -> Result<(), NodeError> {
    let mut signals = Signals::listen()?;
    let pg_address = resolve("pg", &config.pg)?;
    let http_address = resolve("http", &config.http)?;
    let data_dir = DataDir::open_or_create(&config.data_dir)?;
    data_dir.refuse_witness()?;
    data_dir.clear_temporary()?;
    raise_file_limit();
    // Early, so that a port that is taken is told at once; but where anyone could come from, only
    // once it is known that there are users.
    let mut early = (
        bind_early(pg_address).await?,
        bind_early(http_address).await?,
    );
    let mut addresses = (pg_address, http_address);
    let mut asked = None;
    loop {
        // The ports of the first time are those of every time.
        if let (Some(pg), Some(http)) = (&early.0, &early.1) {
            addresses = (local(pg)?, local(http)?);
        }
        let life = Life {
            config: &config,
            addresses,
            log_dir: data_dir.log_dir(),
            open_log: &open_log,
        };
        let ended = Box::pin(life.live(&mut signals, early, asked.take())).await?;
        let Some((restart, served_at)) = ended else {
            return Ok(());
        };
        tracing::info!(?restart, "opening again");
        addresses = served_at;
        asked = Some(restart);
        early = (
            bind_early(addresses.0).await?,
            bind_early(addresses.1).await?,
        );
    }
}

/// The node from one opening of its engine to its end.
struct Life<'a> {
    config: &'a Config,
    addresses: (SocketAddr, SocketAddr),
    log_dir: PathBuf,
    open_log: &'a Arc<OpenLog>,
}

/// What the node is to do next, and where it has served.
type Again = (Restart, (SocketAddr, SocketAddr));

impl Life<'_> {
    async fn live(
        &self,
        signals: &mut Signals,
        (pg_early, http_early): (Option<TcpListener>, Option<TcpListener>),
        asked: Option<Restart>,
    ) -> Result<Option<Again>, NodeError> {
        let options =
            Options::new(self.config, self.addresses.1).map_err(|error| NodeError::System {
                what: "read standby_ca",
                error,
            })?;
        let prepared = life::prepare(self.config, &options, asked, &**self.open_log);
        let mut beginning = tokio::select! {
            beginning = Box::pin(prepared) => beginning?,
            () = signals.next() => return Ok(None),
        };
        let engine = self.open_engine(&mut beginning).await?;
        let replication = self.replicate(&engine, options, &beginning).await?;

        let is_open = engine.roles().is_open;
        let (pg, http) = self.addresses;
        let pg_listener = bind_late("pg", pg, pg_early, is_open).await?;
        let http_listener = bind_late("http", http, http_early, is_open).await?;
        let addresses = (local(&pg_listener)?, local(&http_listener)?);
        let auth = Auth::open(self.config)?;
        let live = Live::new(engine.clone(), self.config.live());
        let state = Arc::new(NodeState {
            engine,
            live,
            config: self.config.clone(),
            started: Instant::now(),
            pg: pgwire::Registry::default(),
            auth,
            replication: replication.clone(),
            archive: Arc::default(),
        });
        let (switch, shutdown) = Shutdown::new();
        let mut servers = JoinSet::new();
        servers.spawn(pgwire::serve(
            pg_listener,
            Arc::clone(&state),
            shutdown.clone(),
        ));
        servers.spawn(http::serve(http_listener, Arc::clone(&state), shutdown));
        let mut keepers = JoinSet::new();
        keepers.spawn(maintain(Arc::clone(&state)));
        keepers.spawn(sweep(Arc::clone(&state)));
        keepers.spawn(keep_auth(Arc::clone(&state)));
        keepers.spawn(crate::backup::archive::run(Arc::clone(&state)));
        if let Some(replication) = &replication {
            keepers.spawn(life::keep(Arc::clone(replication)));
        }
        announce(&state, addresses);

        let ended = wait_for_the_end(signals, &state.engine, replication.as_deref()).await;
        // Whoever still listens is told; a node without listeners has nobody to tell.
        let _ = switch.send(true);
        let grace = match &ended {
            Ok(None) => self.config.shutdown_grace,
            // Clients find the new primary the sooner.
            Ok(Some(_)) => RESTART_GRACE,
            Err(_) => POISON_GRACE,
        };
        drain(&mut servers, signals, grace).await;
        keepers.shutdown().await;
        if let Some(replication) = &replication {
            if let Ok(None) = ended {
                replication.let_standbys_finish(STANDBYS_GRACE).await;
            }
            replication.end_serving();
            replication.stop_following().await;
        }
        stop(state, ended.is_ok()).await;
        Ok(ended?.map(|restart| (restart, addresses)))
    }

    /// Opens the engine; what of the log is in doubt is in `beginning` then.
    async fn open_engine(&self, beginning: &mut life::Beginning) -> Result<Engine, NodeError> {
        let opening = (self.config.clone(), beginning.clone());
        let (log_dir, open_log) = (self.log_dir.clone(), Arc::clone(self.open_log));
        let opened =
            tokio::task::spawn_blocking(move || open(&opening.0, opening.1, &log_dir, &*open_log))
                .await;
        let engine;
        (engine, beginning.role_file) =
            opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(engine)
    }

    async fn replicate(
        &self,
        engine: &Engine,
        options: Options,
        beginning: &life::Beginning,
    ) -> Result<Option<Arc<Replication>>, NodeError> {
        if engine.log().raw().is_none() {
            return Ok(None);
        }
        let patience = Some(self.config.async_after_ms)
            .filter(|ms| *ms > 0)
            .map(Duration::from_millis);
        let epochs = engine.log().epochs();
        let current = epochs.last().map_or(0, |record| record.number);
        let voting = Voting::open(self.config, &options, current)?;
        let synchrony = Synchrony::new(
            self.config.synchronous(),
            patience,
            engine.config().synchronous_commit,
            Arc::clone(engine.horizon()),
            voting.map(Arc::new),
        );
        engine.set_gate(Box::new(Gate(Arc::clone(&synchrony))));
        let replication = Replication::new(
            engine.clone(),
            options,
            synchrony,
            beginning.role_file.clone(),
        )
        .map_err(|error| NodeError::System {
            what: "read standbys.json",
            error,
        })?;
        Box::pin(life::begin(&replication, beginning)).await?;
        Ok(Some(replication))
    }
}

fn open(
    config: &Config,
    mut beginning: life::Beginning,
    log_dir: &Path,
    open_log: &OpenLog,
) -> Result<(Engine, RoleFile), NodeError> {
    let begun = Instant::now();
    // What a state file holds was durable: a log that ends before it is damaged, not torn.
    let known_durable = springhead_engine::state::highest_applied(&config.data_dir)?;
    let log = life::open_log(config, &mut beginning, log_dir, known_durable, open_log)?;
    let progress = Progress::new("replaying the log");
    let engine = Engine::open_with_progress(
        EngineConfig {
            role: beginning.role.clone(),
            ..config.engine()
        },
        Arc::clone(&log),
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        &progress,
    )?;
    drop(progress);
    let tail = log.tail();
    tracing::info!(
        durable_lsn = tail.durable.0,
        epoch = %tail.epoch,
        role = beginning.role.word(),
        recovery_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "recovered"
    );
    Ok((engine, beginning.role_file))
}

/// Programs read this line to learn the ports when they asked for port 0.
fn announce(state: &NodeState, (pg, http): (SocketAddr, SocketAddr)) {
    println!(
        "springhead {} is ready: postgres://{pg}/default and http://{http}, data in {} ({}{})",
        env!("CARGO_PKG_VERSION"),
        state.config.data_dir.display(),
        if state.engine.roles().is_open {
            "open mode: no users, loopback only"
        } else {
            "users log in"
        },
        match &*state.engine.role() {
            NodeRole::Primary => "",
            NodeRole::Standby { .. } => "; standby",
        },
    );
}

/// Until a signal, or until the node cannot go on.
async fn wait_for_the_end(
    signals: &mut Signals,
    engine: &Engine,
    replication: Option<&Replication>,
) -> Result<Option<Restart>, NodeError> {
    let restart = async {
        match replication {
            Some(replication) => replication.restart_asked().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.next() => {
            tracing::info!("stopping: no new connections, running statements finish");
            Ok(None)
        }
        restart = restart => Ok(Some(restart)),
        reason = engine.poisoned() => {
            tracing::error!(%reason, "the process ends, recovery decides what was written");
            Err(NodeError::Poisoned(reason))
        }
    }
}

/// Waits for the servers to end; a second signal or the end of the grace ends them.
async fn drain(servers: &mut JoinSet<()>, signals: &mut Signals, grace: Duration) {
    let all_ended = async { while servers.join_next().await.is_some() {} };
    tokio::select! {
        () = all_ended => return,
        () = tokio::time::sleep(grace) => tracing::warn!("the grace is over: what still runs is ended"),
        () = signals.next() => tracing::warn!("told to stop again: what still runs is ended"),
    }
    servers.shutdown().await;
}

async fn stop(state: Arc<NodeState>, in_order: bool) {
    if !in_order {
        // Recovery decides; nothing more is to be written.
        return;
    }
    let engine = state.engine.clone();
    match tokio::task::spawn_blocking(move || engine.shutdown()).await {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => {
            tracing::error!(%error, "the engine did not stop in order; the next start recovers")
        }
    }
}

/// Writes the audit, and reads certificates and keys again when their files change or on SIGHUP.
async fn keep_auth(state: Arc<NodeState>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::error!(%error, "SIGHUP is not listened to");
            return;
        }
    };
    let watch_files = async {
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        loop {
            tokio::select! {
                _ = hangup.recv() => state.auth.reload(false),
                _ = ticks.tick() => state.auth.reload(true),
            }
        }
    };
    tokio::join!(
        watch_files,
        state.auth.write_audit(&state.engine),
        state.auth.fetch_keys(state.config.jwt_jwks_refresh)
    );
}

async fn maintain(state: Arc<NodeState>) {
    let mut ticks = tokio::time::interval(state.config.maintenance_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let engine = state.engine.clone();
        match tokio::task::spawn_blocking(move || engine.maintain()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "maintenance failed; it is tried again"),
            Err(error) => tracing::error!(%error, "maintenance panicked; it is tried again"),
        }
    }
}

/// Deals with dead letters that are due.
async fn sweep(state: Arc<NodeState>) {
    let mut ticks = tokio::time::interval(state.config.dead_letter_sweep_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The same is not said each second.
    let mut said = None;
    loop {
        ticks.tick().await;
        let failed = state.engine.sweep_dead_letters().await.err();
        if let Some(error) = failed
            .as_ref()
            .filter(|error| said.as_ref() != Some(*error))
        {
            tracing::error!(%error, "dead letters that are due wait for the next sweep");
        }
        said = failed;
    }
}

pub(crate) fn resolve(setting: &'static str, address: &str) -> Result<SocketAddr, NodeError> {
    let bad = |what: String| NodeError::Address {
        setting,
        address: address.to_owned(),
        what,
    };
    let named = if let Some(port) = address.strip_prefix("localhost:") {
        format!("127.0.0.1:{port}")
    } else {
        address.to_owned()
    };
    let resolved: SocketAddr = named.parse().map_err(|_| {
        bad("expected an address and a port, as in 127.0.0.1:6432 or [::1]:6432".to_owned())
    })?;
    Ok(resolved)
}

pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

async fn bind_early(address: SocketAddr) -> Result<Option<TcpListener>, NodeError> {
    if is_loopback(address.ip()) {
        return bind(address).await.map(Some);
    }
    Ok(None)
}

async fn bind_late(
    setting: &'static str,
    address: SocketAddr,
    early: Option<TcpListener>,
    is_open: bool,
) -> Result<TcpListener, NodeError> {
    match early {
        Some(listener) => Ok(listener),
        None if is_open => Err(NodeError::OpenToTheWorld { setting, address }),
        None => bind(address).await,
    }
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| NodeError::Listen { address, error })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, NodeError> {
    listener.local_addr().map_err(|error| NodeError::System {
        what: "ask a listener for its address",
        error,
    })
}

/// Each connection takes a descriptor; the usual soft limit of 1,024 is far below ours.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, current = limit.current, "could not raise the limit of open files");
    }
}

/// What tells the process to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Signals, NodeError> {
        let listen = |kind| {
            signal(kind).map_err(|error| NodeError::System {
                what: "listen to signals",
                error,
            })
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_open_mode_listens_on_loopback_only() {
        for (address, expected) in [
            ("127.0.0.1:6432", true),
            ("127.8.8.8:0", true),
            ("[::1]:6432", true),
            ("localhost:6432", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:6432", false),
            ("[::]:6432", false),
            ("192.168.1.1:6432", false),
            ("[::ffff:10.0.0.1]:1", false),
        ] {
            let resolved = resolve("pg", address).unwrap();
            assert_eq!(is_loopback(resolved.ip()), expected, "{address}");
        }
        for bad in ["", "6432", "127.0.0.1", "example.org:80", "127.0.0.1:99999"] {
            assert!(
                matches!(resolve("pg", bad), Err(NodeError::Address { .. })),
                "{bad}"
            );
        }
    }
}
