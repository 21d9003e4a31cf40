//! Nodes that follow one another: a primary streams its log's own frames to its standbys, they
//! write them to their own segments, apply what the primary has durable, and say how far they are.
//!
//! ```text
//!  primary                                       standby
//!  log ──► sender ──► frames, announcements ──►  receiver ──► log ──► flush ──► applier ──► state
//!  synchrony ◄── slots ◄── acknowledgements ◄─── progress ◄────┴─────────┴─────────┘
//! ```
//!
//! [`wire`] has the words, [`channel`] carries them, [`handshake`] settles who is who and
//! [`verdict`] what becomes of the standby's log. [`sender`] and [`receiver`] stream, [`progress`] says when what is told; [`base`] and
//! [`install`] copy a whole node. [`sync`] is what commits wait for, [`slots`] what is kept for whom.
//! [`promote`] changes roles while the node serves; what needs the engine closed (following another
//! node, cutting a diverged tail, a base backup) is asked for with [`Replication::restart`] and done
//! by [`life`] before the engine opens again. Who may lead is decided by people, or by votes
//! ([`crate::vote`]).
//!
//! Architecture invariant: a standby never writes to its log but what passed the log's own checks,
//! and a node that has promised a newer epoch never acknowledges an older one.

pub mod auth;
pub mod base;
pub mod channel;
pub mod copies;
pub mod dial;
pub mod fields;
pub mod files;
pub mod handshake;
pub mod install;
pub mod life;
pub mod names;
pub mod peers;
pub mod progress;
pub mod promote;
pub mod received;
pub mod receiver;
pub mod sender;
pub mod slots;
pub mod status;
pub mod sync;
pub mod verdict;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use springhead_engine::Engine;
use springhead_engine::role::NodeRole;
use springhead_log::RawLog;
use springhead_proto::Lsn;
use tokio::sync::watch;

use crate::config::Config;
use crate::vote::Voting;

use dial::Trust;
use files::{RoleFile, StoredRole};
use slots::Slots;
use sync::Synchrony;
use wire::{Identity, Progress};

/// What nodes need to know of themselves and of one another, from the configuration.
#[derive(Clone)]
pub struct Options {
    /// What synchronous_standbys calls it.
    pub name: String,
    /// Where others reach it over HTTP.
    pub address: String,
    /// The cluster's token; empty where none is set.
    pub token: String,
    pub heartbeat: Duration,
    /// Nothing heard for so long: the other is gone.
    pub timeout: Duration,
    pub slot_cap_bytes: u64,
    /// How long the copy stays that a base backup which was cut was being sent from.
    pub base_keep: Duration,
    /// Other nodes that may have become primary.
    pub peers: Vec<String>,
    pub trust: Trust,
    pub data_dir: PathBuf,
    /// Whether this node is one of those that may lead by votes.
    pub votes: bool,
}

impl Options {
    /// From the configuration, for a node that is reached at `http`.
    ///
    /// # Errors
    /// That the authorities to trust cannot be read.
    pub fn new(config: &Config, http: std::net::SocketAddr) -> std::io::Result<Options> {
        let scheme = if config.tls_certificate.is_empty() {
            "http"
        } else {
            "https"
        };
        let authorities = Some(&config.standby_ca).filter(|path| !path.is_empty());
        let address = if config.advertise.is_empty() {
            format!("{scheme}://{http}")
        } else {
            config.advertise.clone()
        };
        let mut peers = config.standby_peers.clone();
        peers.extend(Some(config.standby_of.clone()).filter(|address| !address.is_empty()));
        Ok(Options {
            votes: !config.witness.is_empty(),
            name: if config.node_name.is_empty() {
                http.to_string()
            } else {
                config.node_name.clone()
            },
            address,
            token: config.standby_token.clone(),
            heartbeat: config.standby_heartbeat,
            timeout: config.standby_timeout,
            slot_cap_bytes: config.standby_slot_bytes.0,
            base_keep: config.standby_base_keep,
            peers,
            trust: Trust::open(authorities.map(std::path::Path::new))?,
            data_dir: config.data_dir.clone(),
        })
    }
}

/// What a node asks for that needs its engine closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restart {
    /// To follow the node there.
    Follow { primary: String },
    /// To cut its log after this LSN and undo what its state has past it, and follow on.
    Truncate {
        primary: String,
        after: Lsn,
        why: String,
    },
    /// To be made anew from a base backup.
    BaseBackup { primary: String, why: String },
}

/// A standby's view of the node that it follows.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    /// Where it is.
    pub primary: String,
    /// Its name, once it said it.
    pub name: String,
    pub connected: bool,
    /// Why it is not connected, or is refused.
    pub problem: Option<String>,
    /// What the upstream has durable, and its clock then.
    pub durable: Lsn,
    pub timestamp_ms: u64,
    pub progress: Progress,
}

/// One node's replication, whatever its role. Connections hold an `Arc` of it.
pub struct Replication {
    pub engine: Engine,
    pub options: Options,
    pub synchrony: Arc<Synchrony>,
    /// Where nodes vote, this node's voter.
    pub voting: Option<Arc<Voting>>,
    pub slots: Slots,
    /// The base backups that it gives.
    pub giving: copies::Giving,
    pub upstream: watch::Sender<Upstream>,
    /// Counts writes and flushes of the log, for whoever sends it.
    log_moved: Arc<watch::Sender<u64>>,
    pub(crate) restart: watch::Sender<Option<Restart>>,
    /// Where a standby is to follow instead of where it follows.
    pub(crate) redirect: watch::Sender<String>,
    /// Nobody is served any more.
    ended: watch::Sender<bool>,
    role_file: Mutex<RoleFile>,
    /// Role changes, one at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// What follows the upstream, while the node is a standby.
    following: Mutex<Option<receiver::Running>>,
    /// A switchover to the standby of that name is to be sent to it: the log's last LSN.
    hand_over: watch::Sender<Option<(String, Lsn)>>,
    /// Another node that has shown to be the primary of a newer epoch, for who waits for that: a switchover,
    /// which does what follows from it.
    pub(crate) successor: watch::Sender<Option<Identity>>,
    /// When the node was last promoted, for people.
    pub promoted: Mutex<Option<String>>,
}

impl Replication {
    /// For an engine that has just opened.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(
        engine: Engine,
        options: Options,
        synchrony: Arc<Synchrony>,
        role_file: RoleFile,
    ) -> std::io::Result<Arc<Replication>> {
        let slots = Slots::open(
            &options.data_dir,
            Arc::clone(engine.log()),
            options.slot_cap_bytes,
        )?;
        let log_moved = Arc::new(watch::Sender::new(0));
        if let Some(raw) = engine.log().raw() {
            let moved = Arc::clone(&log_moved);
            raw.watch(Some(Arc::new(move || {
                moved.send_modify(|count| *count += 1);
            })));
        }
        let replication = Arc::new(Replication {
            voting: synchrony.voting().cloned(),
            synchrony,
            slots,
            giving: copies::Giving::default(),
            upstream: watch::Sender::new(Upstream {
                primary: role_file.primary.clone().unwrap_or_default(),
                ..Upstream::default()
            }),
            log_moved,
            restart: watch::Sender::new(None),
            redirect: watch::Sender::new(String::new()),
            ended: watch::Sender::new(false),
            role_file: Mutex::new(role_file),
            changing: tokio::sync::Mutex::default(),
            following: Mutex::default(),
            hand_over: watch::Sender::new(None),
            successor: watch::Sender::new(None),
            promoted: Mutex::default(),
            engine,
            options,
        });
        let weak = Arc::downgrade(&replication);
        replication.engine.set_standby_rows(Box::new(move || {
            let replication = weak.upgrade();
            replication.map_or_else(Vec::new, |replication| status::sql_rows(&replication))
        }));
        Ok(replication)
    }

    /// The log as bytes.
    ///
    /// # Panics
    /// If the log's backend has none; [`life`] has looked.
    pub fn raw(&self) -> &dyn RawLog {
        self.engine
            .log()
            .raw()
            .expect("only a log of segments is replicated")
    }

    pub fn is_primary(&self) -> bool {
        *self.engine.role() == NodeRole::Primary
    }

    /// Who this node is now.
    pub fn identity(&self) -> Identity {
        let log = self.raw().identity();
        Identity {
            name: self.options.name.clone(),
            address: self.options.address.clone(),
            cluster_id: log.cluster_id,
            epochs: log.epochs,
            written: log.written,
            durable: log.durable,
            is_primary: self.is_primary(),
            primary: self.primary_address().unwrap_or_default(),
            promised: self.promised(),
        }
    }

    /// Whether it follows another node, or tries to.
    pub fn is_following(&self) -> bool {
        self.following.lock().is_some()
    }

    /// Where the primary is, as far as this node knows.
    pub fn primary_address(&self) -> Option<String> {
        if self.is_primary() {
            return Some(self.options.address.clone());
        }
        self.role_file.lock().primary.clone()
    }

    /// The highest epoch's number that this node has seen or promised.
    pub fn promised(&self) -> u32 {
        let of_log = self.raw().identity().epochs.last().map_or(0, |e| e.number);
        self.has_promised().max(of_log)
    }

    /// What it has promised, whatever its log has.
    fn has_promised(&self) -> u32 {
        let voted = self.voting.as_ref().map_or(0, |voting| voting.promised());
        self.role_file.lock().promised.max(voted)
    }

    /// Whether this node has promised an epoch past both `number` and what its log has: then it
    /// acknowledges nothing to whoever is in that one.
    pub fn has_promised_beyond(&self, number: u32) -> bool {
        let of_log = self.raw().identity().epochs.last().map_or(0, |e| e.number);
        self.has_promised() > number.max(of_log)
    }

    /// Writes down what the node is from now on.
    ///
    /// # Errors
    /// What the disk says; nothing has changed then.
    pub fn store_role(
        &self,
        role: StoredRole,
        primary: Option<String>,
        promised: u32,
    ) -> std::io::Result<()> {
        let mut stored = self.role_file.lock();
        let file = RoleFile {
            role,
            primary,
            promised: promised.max(stored.promised),
            // Whoever leads is what counts.
            doubt: (role == StoredRole::Standby)
                .then(|| stored.doubt.clone())
                .flatten(),
        };
        file.write(&self.options.data_dir)?;
        *stored = file;
        Ok(())
    }

    /// Why this standby may lack what it has acknowledged, until it has caught up with a primary.
    pub fn doubt(&self) -> Option<String> {
        self.role_file.lock().doubt.clone()
    }

    /// It has everything durable that its primary has.
    ///
    /// # Errors
    /// What the disk says; it is in doubt still.
    pub fn settle_doubt(&self) -> std::io::Result<()> {
        let mut stored = self.role_file.lock();
        if stored.doubt.is_none() {
            return Ok(());
        }
        let file = RoleFile {
            doubt: None,
            ..stored.clone()
        };
        file.write(&self.options.data_dir)?;
        *stored = file;
        tracing::info!("this standby has caught up with its primary, and may be promoted again");
        Ok(())
    }

    /// Asks the node to close its engine, do what is asked, and open it again.
    pub fn restart(&self, what: Restart) {
        self.restart.send_if_modified(|asked| {
            let first = asked.is_none();
            if first {
                *asked = Some(what);
            }
            first
        });
    }

    /// Completes once a restart is asked for.
    pub async fn restart_asked(&self) -> Restart {
        let mut asked = self.restart.subscribe();
        match asked.wait_for(Option::is_some).await {
            Ok(asked) => asked.clone().expect("it was waited for"),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until every standby that streams has what is durable here, at most for `limit`: a primary
    /// that is stopped in order leaves nothing behind that only it has.
    pub async fn let_standbys_finish(&self, limit: Duration) {
        let mut moved = self.slots.watch();
        let end = self.engine.log().tail().durable;
        let is_behind = || {
            let streaming = self.slots.streaming(self.options.timeout);
            streaming.iter().any(|(_, progress)| progress.flushed < end)
        };
        let finishing =
            async { while self.is_primary() && is_behind() && moved.changed().await.is_ok() {} };
        // Or the time is over: whoever is behind by then stays so.
        let _ = tokio::time::timeout(limit, finishing).await;
    }

    /// Ends every connection of a standby.
    pub fn end_serving(&self) {
        self.ended.send_replace(true);
    }

    /// Completes with [`Replication::end_serving`].
    pub async fn serving_ended(&self) {
        let mut ended = self.ended.subscribe();
        // An error is an end, too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Ends following, for good: the engine is about to close.
    pub async fn stop_following(&self) {
        let running = self.following.lock().take();
        if let Some(running) = running {
            running.stop().await;
        }
        self.raw().watch(None);
    }

    /// Tells when the log has moved.
    pub fn watch_log(&self) -> watch::Receiver<u64> {
        self.log_moved.subscribe()
    }

    /// Counts what the standbys have anew.
    pub fn count_acknowledgements(&self) {
        let names = self.synchrony.names();
        let standbys: Vec<(usize, Progress)> = self
            .slots
            .streaming(self.options.timeout)
            .into_iter()
            .map(|(name, progress)| (names.priority(&name), progress))
            .collect();
        self.synchrony.acknowledged(&standbys);
        self.synchrony.follow_votes();
    }

    /// Another node has shown that it is the primary of a newer epoch: this one takes no writes and
    /// confirms none from now on, and follows it.
    pub fn superseded(&self, by: &Identity) {
        let (ours, number) = (self.promised(), by.epoch_number());
        let of_log = self.raw().identity().epochs.last().map_or(0, |e| e.number);
        // Of two candidates for one number the other has won it: this one, which has promised it to itself,
        // neither leads nor follows, and would never.
        let has_lost = number == ours && number > of_log;
        let may_follow = has_lost && !self.is_primary() && !self.is_following();
        let is_newer = number > ours || may_follow;
        if !by.is_primary || !is_newer || by.address == self.options.address {
            return;
        }
        if by.cluster_id != self.raw().identity().cluster_id {
            return;
        }
        if self.successor.receiver_count() > 0 {
            self.successor.send_replace(Some(by.clone()));
            return;
        }
        tracing::warn!(
            primary = %by.address,
            epoch = by.epoch_number(),
            "another node is the primary of a newer epoch; following it"
        );
        let was_primary = self.is_primary();
        if let Some(voting) = self.voting.as_ref().filter(|voting| voting.leads() > 0) {
            voting.resign();
        }
        if was_primary {
            self.synchrony.retire();
            let engine = self.engine.clone();
            let primary = Some(Arc::from(by.address.as_str()));
            tokio::task::block_in_place(move || engine.retire(primary));
        }
        let stored = self.store_role(
            StoredRole::Standby,
            Some(by.address.clone()),
            by.epoch_number(),
        );
        if let Err(error) = stored {
            // It has stopped all the same; a restart learns of the other again.
            tracing::error!(%error, "could not write down that this node is a standby now");
        }
        if was_primary || self.following.lock().is_none() {
            self.restart(Restart::Follow {
                primary: by.address.clone(),
            });
        } else if self.upstream.borrow().primary != by.address {
            // What it has that the new one does not, the new one will say.
            self.redirect.send_replace(by.address.clone());
        }
    }
}
