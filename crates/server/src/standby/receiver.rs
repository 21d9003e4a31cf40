//! A standby's side: follows its upstream, over and over, until it is told to stop. One thread reads the
//! socket, checks, writes, flushes and answers, with a runtime of its own, since it waits for the disk most
//! of the time and hands nothing to anybody; another thread applies.
//!
//! ```text
//! socket ──► receiver: take all that is there, write, flush, say so, announce ──► applier
//!    ▲          │                                                                    │
//!    └──────────┴──────────────── progress, heartbeat ◄──────────────────────────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::{Condvar, Mutex};
use springhead_engine::follow::Follower;
use springhead_log::{EpochRecord, FollowError, LogError};
use springhead_proto::{Epoch, Lsn};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::channel::{ChannelError, Incoming, Outgoing};
use super::handshake::{Connected, HandshakeError, Own, connect};
use super::progress::Teller;
use super::wire::{MAX_ENDS, Progress, Purpose, ToPrimary, ToStandby, Verdict};
use super::{Replication, Restart};
use crate::vote::Voting;

/// Log that shares a flush, where so much has come.
const BATCH_BYTES: usize = 16 << 20;
/// Between attempts to reach the upstream.
const RETRY: Duration = Duration::from_millis(500);
/// Frame ends that are told, so that the other side finds the last one that both have.
const ENDS: usize = 64;

/// A standby at work; stopped, it has written its last byte to the log.
pub struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    applier: Applier,
}

impl Running {
    /// Ends it; when this returns nothing writes to the log or the state any more.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let stopping = move || {
            // A panic in it is an end, too.
            let _ = self.thread.join();
            self.applier.stop();
        };
        let _ = tokio::task::spawn_blocking(stopping).await;
    }
}

/// Why one connection to the upstream ended.
#[derive(Debug, thiserror::Error)]
enum FollowEnd {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{0}")]
    Refused(String),
    #[error("the node there is a standby itself, and it names no other primary")]
    NoPrimary,
    #[error("its log does not go on from this one's end: {0}")]
    Log(String),
    #[error("the node stops")]
    Stopped,
}

/// Starts to follow the node at `upstream`.
///
/// # Errors
/// What the log or the operating system says.
pub fn start(
    replication: &Arc<Replication>,
    upstream: String,
) -> Result<Running, springhead_engine::EngineError> {
    let follower = replication.engine.follower()?;
    let teller = Arc::new(Teller::new(Progress {
        written: replication.raw().identity().written.lsn,
        flushed: Lsn::ZERO,
        applied: follower.position(),
    }));
    let applier = Applier::start(replication, follower, Arc::clone(&teller))?;
    let (stop, stopped) = watch::channel(false);
    let follow = Follow {
        replication: Arc::clone(replication),
        runtime: Handle::current(),
        teller,
        news: Arc::clone(&applier.news),
    };
    let thread = std::thread::Builder::new()
        .name("receiver".to_owned())
        .spawn(move || receive(follow, upstream, stopped));
    match thread {
        Ok(thread) => Ok(Running {
            stop,
            thread,
            applier,
        }),
        Err(error) => {
            applier.stop();
            Err(no_thread("receiver", error))
        }
    }
}

fn no_thread(name: &str, error: std::io::Error) -> springhead_engine::EngineError {
    springhead_engine::EngineError::Io {
        operation: "start",
        path: format!("the {name}'s thread"),
        error,
    }
}

fn receive(follow: Follow, upstream: String, stopped: watch::Receiver<bool>) {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            runtime.block_on(follow.run(upstream, stopped));
            // A name may still be looked up.
            runtime.shutdown_background();
        }
        Err(error) => {
            let engine = &follow.replication.engine;
            engine.poison(format!("a standby cannot receive: {error}"));
        }
    }
}

struct Follow {
    replication: Arc<Replication>,
    /// The node's, for what goes on when this has ended.
    runtime: Handle,
    teller: Arc<Teller>,
    news: Arc<News>,
}

impl Follow {
    async fn run(self, mut upstream: String, mut stop: watch::Receiver<bool>) {
        let mut last_problem = String::new();
        let mut redirected = self.replication.redirect.subscribe();
        loop {
            let ended = tokio::select! {
                ended = self.follow_once(&mut upstream) => ended,
                _ = redirected.changed() => {
                    upstream.clone_from(&redirected.borrow_and_update());
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Err(end) = ended else { continue };
            let problem = end.to_string();
            if problem != last_problem {
                tracing::warn!(primary = %upstream, %problem, "not following");
                last_problem.clone_from(&problem);
            }
            self.replication.upstream.send_modify(|state| {
                state.connected = false;
                state.problem = Some(problem);
            });
            let look = async {
                tokio::time::sleep(RETRY).await;
                super::peers::find_primary(&self.replication, &upstream).await
            };
            tokio::select! {
                found = look => {
                    if let Some(primary) = found.filter(|primary| *primary != upstream) {
                        tracing::warn!(from = %upstream, to = %primary, "following another node");
                        upstream = primary;
                    }
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One connection, to its end.
    async fn follow_once(&self, upstream: &mut String) -> Result<(), FollowEnd> {
        let replication = &self.replication;
        let ends = (replication.raw().frame_ends(ENDS))
            .map_err(|error| FollowEnd::Log(error.to_string()))?;
        const { assert!(ENDS <= MAX_ENDS) };
        let own = Own {
            identity: replication.identity(),
            token: replication.options.token.clone(),
            timeout: replication.options.timeout,
        };
        let connected = connect(
            upstream,
            &replication.options.trust,
            &own,
            Purpose::Stream,
            ends,
        )
        .await?;
        if connected.identity.epoch_number() < replication.promised() {
            return Err(FollowEnd::Refused(format!(
                "it is in epoch {}, and this node has promised epoch {}",
                connected.identity.epoch_number(),
                replication.promised()
            )));
        }
        self.promise(|voting| {
            voting.forget_echo();
            voting.follow(connected.identity.epoch_number())
        })?;
        match &connected.verdict {
            Verdict::Stream => {}
            Verdict::Truncate { after, why } => {
                replication.restart(Restart::Truncate {
                    primary: upstream.clone(),
                    after: *after,
                    why: why.clone(),
                });
                return Err(FollowEnd::Stopped);
            }
            Verdict::BaseBackup { why } => {
                replication.restart(Restart::BaseBackup {
                    primary: upstream.clone(),
                    why: why.clone(),
                });
                return Err(FollowEnd::Stopped);
            }
            Verdict::Refused { why } => return Err(FollowEnd::Refused(why.clone())),
            Verdict::NotPrimary { primary } => {
                if primary.is_empty() || primary == upstream {
                    return Err(FollowEnd::NoPrimary);
                }
                upstream.clone_from(primary);
                return Ok(());
            }
        }
        self.stream(upstream, connected).await
    }

    /// Where nodes vote: whether the other node may be followed, once that is written down.
    fn promise(
        &self,
        ask: impl FnOnce(&Voting) -> Result<bool, LogError>,
    ) -> Result<(), FollowEnd> {
        match self.replication.voting.as_deref().map(ask) {
            None | Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(FollowEnd::Refused(
                "a newer epoch has been promised to another".to_owned(),
            )),
            Some(Err(error)) => Err(FollowEnd::Log(error.to_string())),
        }
    }

    async fn stream(&self, upstream: &str, connected: Connected) -> Result<(), FollowEnd> {
        let Connected {
            identity,
            out,
            incoming,
            ..
        } = connected;
        tracing::info!(primary = upstream, name = %identity.name, "following");
        let data_dir = &self.replication.options.data_dir;
        if let Err(error) = super::install::forget(data_dir) {
            // It takes room, and harms nobody.
            tracing::warn!(%error, "a base backup that was not completed stays");
        }
        self.replication.upstream.send_modify(|state| {
            state.primary = upstream.to_owned();
            state.name.clone_from(&identity.name);
            state.connected = true;
        });
        let address = if identity.is_primary {
            identity.address.clone()
        } else {
            identity.primary.clone()
        };
        self.replication
            .engine
            .set_primary_address(Some(address.into()));
        let session = Session {
            follow: self,
            out,
            number: identity.epoch_number(),
            announced: Lsn::ZERO,
            caught_up_at: identity.is_primary.then_some(identity.durable),
            ancestors: identity.epochs,
        };
        session.run(incoming).await
    }
}

/// One connection that streams.
struct Session<'f> {
    follow: &'f Follow,
    out: Outgoing<ToPrimary>,
    /// The number of the upstream's epoch when it began.
    number: u32,
    /// The last LSN that was announced on it.
    announced: Lsn,
    /// What a primary had durable when this connection began, or when the other node said on it that it
    /// had been elected: with it nothing is in doubt. A standby that passes the log on may lack what this
    /// one has acknowledged itself.
    caught_up_at: Option<Lsn>,
    /// The histories of the upstream's log when it was found to be one to follow: a standby that was away
    /// for several goes through them all.
    ancestors: Vec<EpochRecord>,
}

impl Session<'_> {
    async fn run(mut self, mut incoming: Incoming<ToStandby>) -> Result<(), FollowEnd> {
        let options = &self.follow.replication.options;
        let (heartbeat, limit) = (options.heartbeat, options.timeout);
        let teller = Arc::clone(&self.follow.teller);
        let mut progress = teller.subscribe();
        let mut heard = Instant::now();
        // What was written and not flushed when the last connection ended.
        self.flush()?;
        loop {
            let said = *progress.borrow_and_update();
            self.answer(said).await?;
            let beat_at = Instant::now() + heartbeat;
            while !progress.has_changed().unwrap_or(true) {
                tokio::select! {
                    biased;
                    message = incoming.receive() => {
                        self.take_all(message?, &mut incoming).await?;
                        // However long that took, the other side was not silent meanwhile.
                        heard = Instant::now();
                    }
                    () = teller.wait(&mut progress, said, beat_at) => break,
                }
            }
            // Each wait for a message ends with an answer: silence is longer than one of them.
            if heard.elapsed() >= limit {
                return Err(ChannelError::Silent(limit).into());
            }
        }
    }

    async fn answer(&mut self, now: Progress) -> Result<(), FollowEnd> {
        let replication = &self.follow.replication;
        let epoch: Epoch = replication.engine.log().tail().epoch;
        let voting = replication.voting.as_ref();
        let number = voting.map_or(self.number, |voting| voting.followed().max(self.number));
        // The fence: from the moment that a newer epoch was promised.
        if replication.has_promised_beyond(number) {
            return Err(FollowEnd::Refused(
                "a newer epoch has been promised to another".to_owned(),
            ));
        }
        let answer = ToPrimary::Ack {
            epoch,
            progress: now,
            echo_ms: voting.map_or(0, |voting| voting.echo_ms()),
        };
        self.out.send(&answer).await?;
        replication.upstream.send_modify(|state| {
            state.progress = now;
            // What broke the last connection off may break this one off, too: until all is here.
            if now.flushed >= state.durable {
                state.problem = None;
            }
        });
        Ok(())
    }

    /// Takes a message and all others that are here already: they share a flush.
    async fn take_all(
        &mut self,
        first: ToStandby,
        incoming: &mut Incoming<ToStandby>,
    ) -> Result<(), FollowEnd> {
        let (mut durable, mut hand_over) = (None, None);
        let (mut bytes, mut ended) = (0, Ok(()));
        let mut next = Some(first);
        while let Some(message) = next {
            match &message {
                ToStandby::Frames { bytes: frames, .. } => bytes += frames.len(),
                ToStandby::HandOver { end } => hand_over = Some(*end),
                _ => self.hear(&message)?,
            }
            self.take(message, &mut durable).map_err(FollowEnd::Log)?;
            next = match (bytes < BATCH_BYTES).then(|| incoming.receive().now_or_never()) {
                Some(Some(Ok(message))) => Some(message),
                Some(Some(Err(error))) => {
                    // What has come before counts.
                    ended = Err(error);
                    None
                }
                Some(None) | None => None,
            };
        }
        if bytes > 0 && self.follow.teller.written_is_wanted() {
            self.answer(self.follow.teller.now()).await?;
        }
        self.flush()?;
        if let Some(durable) = durable {
            self.announce(durable).map_err(FollowEnd::Log)?;
        }
        if let Some(end) = hand_over {
            // It ends this following, and goes on.
            let _runtime = self.follow.runtime.enter();
            super::promote::take_over(&self.follow.replication, end);
        }
        ended.map_err(FollowEnd::Channel)
    }

    /// What an announcement says of the other node.
    fn hear(&self, message: &ToStandby) -> Result<(), FollowEnd> {
        let ToStandby::Announce {
            durable,
            timestamp_ms,
            leads,
            sent_ms,
            wanted,
            ..
        } = message
        else {
            return Ok(());
        };
        self.follow.teller.is_asked(*wanted);
        (self.follow).promise(|voting| voting.heard(*leads, *sent_ms))?;
        self.follow.replication.upstream.send_modify(|state| {
            state.durable = *durable;
            state.timestamp_ms = *timestamp_ms;
        });
        Ok(())
    }

    fn take(&mut self, message: ToStandby, durable: &mut Option<Lsn>) -> Result<(), String> {
        let log = self.follow.replication.raw();
        let written = match message {
            ToStandby::Segment { header, epoch } => {
                let promised = self.follow.replication.promised();
                if epoch.number < promised {
                    let own = log.identity().epochs;
                    let mut known = own.iter().chain(&self.ancestors);
                    if !known.any(|known| known.history_id == epoch.history_id) {
                        return Err(format!(
                            "a segment of epoch {} came after epoch {promised} was promised",
                            epoch.number
                        ));
                    }
                }
                log.follow_segment(&header, &epoch)
            }
            ToStandby::Frames { from, bytes, .. } => log.follow_frames(from, &bytes),
            ToStandby::Announce {
                durable: lsn,
                leads,
                ..
            } => {
                if leads > 0 && self.caught_up_at.is_none() {
                    self.caught_up_at = Some(lsn);
                }
                *durable = Some(lsn);
                return Ok(());
            }
            ToStandby::HandOver { .. } => return Ok(()),
            _ => return Err("a message of another conversation".to_owned()),
        };
        let position = written.map_err(|error| self.failed(error))?;
        self.follow.teller.wrote(position.lsn);
        Ok(())
    }

    fn flush(&self) -> Result<(), FollowEnd> {
        let replication = &self.follow.replication;
        let flushed = replication.raw().follow_flush();
        let position = flushed.map_err(|error| FollowEnd::Log(self.failed(error)))?;
        self.follow.teller.flushed(position.lsn);
        if self.caught_up_at.is_some_and(|at| position.lsn >= at) {
            let settled = replication.settle_doubt();
            settled.map_err(|error| FollowEnd::Log(format!("role.json: {error}")))?;
            if let Some(voting) = &replication.voting {
                let caught_up = voting.caught_up();
                caught_up.map_err(|error| FollowEnd::Log(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn announce(&mut self, durable: Lsn) -> Result<(), String> {
        let log = self.follow.replication.raw();
        log.announce(durable).map_err(|error| self.failed(error))?;
        self.follow.news.tell();
        let is_heartbeat = std::mem::replace(&mut self.announced, durable) == durable;
        if is_heartbeat && self.follow.replication.voting.is_some() {
            // That it was heard is what a lease rests on; nothing else has to be told.
            self.follow.teller.tell_now();
        }
        Ok(())
    }

    fn failed(&self, error: FollowError) -> String {
        if let FollowError::Append(springhead_log::AppendError::Poisoned(why)) = &error {
            self.follow.replication.engine.poison(why.to_string());
        }
        error.to_string()
    }
}

/// There is more to apply, or the end has come.
#[derive(Default)]
struct News {
    told: Mutex<bool>,
    changed: Condvar,
    stop: AtomicBool,
}

impl News {
    fn tell(&self) {
        *self.told.lock() = true;
        self.changed.notify_all();
    }

    /// False once it is to stop.
    fn wait(&self) -> bool {
        let mut told = self.told.lock();
        while !*told && !self.stop.load(Ordering::Acquire) {
            self.changed.wait(&mut told);
        }
        *told = false;
        !self.stop.load(Ordering::Acquire)
    }
}

/// The thread that applies.
struct Applier {
    news: Arc<News>,
    thread: JoinHandle<()>,
}

impl Applier {
    fn start(
        replication: &Arc<Replication>,
        follower: Follower,
        teller: Arc<Teller>,
    ) -> Result<Applier, springhead_engine::EngineError> {
        let news = Arc::new(News::default());
        let (told, engine) = (Arc::clone(&news), replication.engine.clone());
        let thread = std::thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || apply(follower, &engine, &told, &teller))
            .map_err(|error| no_thread("applier", error))?;
        Ok(Applier { news, thread })
    }

    fn stop(self) {
        self.news.stop.store(true, Ordering::Release);
        self.news.tell();
        // A panic has been reported by the thread itself.
        let _ = self.thread.join();
    }
}

fn apply(mut follower: Follower, engine: &springhead_engine::Engine, news: &News, teller: &Teller) {
    loop {
        match follower.step() {
            Ok(applied) => teller.applied(applied),
            Err(error) => {
                engine.poison(format!("the state cannot follow the log: {error}"));
                return;
            }
        }
        if !news.wait() {
            return;
        }
    }
}
