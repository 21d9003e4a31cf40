//! A standby's side: follows its upstream, over and over, until it is told to stop. What comes is
//! checked and written by one thread, applied by another; a task each reads and answers the socket.
//!
//! ```text
//! socket ──► read ──► [messages] ──► writer: write, say so, flush, say so, announce ──► applier
//!    ▲                                             │                                       │
//!    └───────── answer: progress, heartbeat ◄──────┴───────────────────────────────────────┘
//! ```

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use springhead_engine::follow::Follower;
use springhead_log::{EpochRecord, FollowError, LogError};
use springhead_proto::{Epoch, Lsn};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::channel::{ChannelError, Incoming, Outgoing};
use super::handshake::{Connected, HandshakeError, Own, connect};
use super::progress::Teller;
use super::wire::{MAX_ENDS, Progress, Purpose, ToPrimary, ToStandby, Verdict};
use super::{Replication, Restart};
use crate::vote::Voting;

/// Messages read ahead of the writer; each has about a megabyte at most.
const QUEUE: usize = 32;
/// Between attempts to reach the upstream.
const RETRY: Duration = Duration::from_millis(500);
/// Frame ends that are told, so that the other side finds the last one that both have.
const ENDS: usize = 64;

/// A standby at work; stopped, it has written its last byte to the log.
pub struct Running {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    /// Held by whoever writes to the log.
    writing: Arc<tokio::sync::Mutex<()>>,
    applier: Applier,
}

impl Running {
    /// Ends it; when this returns nothing writes to the log or the state any more.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        // A panic in it is an end, too.
        let _ = self.task.await;
        // Its writer ends once it has written what had come.
        drop(self.writing.lock().await);
        let applier = self.applier;
        let _ = tokio::task::spawn_blocking(move || applier.stop()).await;
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
    let writing = Arc::new(tokio::sync::Mutex::new(()));
    let follow = Follow {
        replication: Arc::clone(replication),
        writing: Arc::clone(&writing),
        teller,
        news: Arc::clone(&applier.news),
    };
    let task = tokio::spawn(follow.run(upstream, stopped));
    Ok(Running {
        stop,
        task,
        writing,
        applier,
    })
}

struct Follow {
    replication: Arc<Replication>,
    writing: Arc<tokio::sync::Mutex<()>>,
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
        let ends = tokio::task::block_in_place(|| replication.raw().frame_ends(ENDS))
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
        if let Err(error) = tokio::task::block_in_place(|| super::install::forget(data_dir)) {
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
        let (queue, messages) = mpsc::channel(QUEUE);
        let writer = Writer {
            replication: Arc::clone(&self.replication),
            teller: Arc::clone(&self.teller),
            news: Arc::clone(&self.news),
            announced: Cell::new(Lsn::ZERO),
            caught_up_at: Cell::new(identity.is_primary.then_some(identity.durable)),
            ancestors: identity.epochs.clone(),
        };
        // That of a connection before this one may still be at work.
        let turn = Arc::clone(&self.writing).lock_owned().await;
        // A thread of its own: it waits for the disk most of the time.
        let writing = tokio::task::spawn_blocking(move || {
            let ended = writer.run(messages);
            drop(turn);
            ended
        });
        let ended = tokio::select! {
            ended = self.read(incoming, queue) => ended,
            ended = self.answer(out, identity.epoch_number()) => ended,
        };
        // The queue's other end is gone: it ends after what it has.
        match writing.await {
            Ok(Ok(())) => ended,
            Ok(Err(error)) => Err(FollowEnd::Log(error)),
            Err(error) => Err(FollowEnd::Log(error.to_string())),
        }
    }

    async fn read(
        &self,
        mut incoming: Incoming<ToStandby>,
        queue: mpsc::Sender<ToStandby>,
    ) -> Result<(), FollowEnd> {
        loop {
            let message = incoming.receive().await?;
            if let ToStandby::Announce {
                durable,
                timestamp_ms,
                leads,
                sent_ms,
                wanted,
                ..
            } = &message
            {
                self.teller.is_asked(*wanted);
                self.promise(|voting| voting.heard(*leads, *sent_ms))?;
                let (durable, timestamp_ms) = (*durable, *timestamp_ms);
                self.replication.upstream.send_modify(|state| {
                    state.durable = durable;
                    state.timestamp_ms = timestamp_ms;
                });
            }
            if let ToStandby::HandOver { end } = &message {
                super::promote::take_over(&self.replication, *end);
            }
            if queue.send(message).await.is_err() {
                return Err(FollowEnd::Stopped);
            }
        }
    }

    async fn answer(&self, mut out: Outgoing<ToPrimary>, number: u32) -> Result<(), FollowEnd> {
        let heartbeat = self.replication.options.heartbeat;
        let mut progress = self.teller.subscribe();
        loop {
            let now = *progress.borrow_and_update();
            let epoch: Epoch = self.replication.engine.log().tail().epoch;
            let voting = self.replication.voting.as_ref();
            let number = voting.map_or(number, |voting| voting.followed().max(number));
            // The fence: from the moment that a newer epoch was promised.
            if self.replication.has_promised_beyond(number) {
                return Err(FollowEnd::Refused(
                    "a newer epoch has been promised to another".to_owned(),
                ));
            }
            out.send(&ToPrimary::Ack {
                epoch,
                progress: now,
                echo_ms: voting.map_or(0, |voting| voting.echo_ms()),
            })
            .await?;
            self.replication.upstream.send_modify(|state| {
                state.progress = now;
                // What broke the last connection off may break this one off, too: until all is here.
                if now.flushed >= state.durable {
                    state.problem = None;
                }
            });
            let beat_at = Instant::now() + heartbeat;
            self.teller.wait(&mut progress, now, beat_at).await;
        }
    }
}

/// Writes what comes to the log.
struct Writer {
    replication: Arc<Replication>,
    teller: Arc<Teller>,
    news: Arc<News>,
    /// The last LSN that was announced on this connection.
    announced: Cell<Lsn>,
    /// What a primary had durable when this connection began, or when the other node said on it that it
    /// had been elected: with it nothing is in doubt. A standby that passes the log on may lack what this
    /// one has acknowledged itself.
    caught_up_at: Cell<Option<Lsn>>,
    /// The histories of the upstream's log when it was found to be one to follow: a standby that was away
    /// for several goes through them all.
    ancestors: Vec<EpochRecord>,
}

impl Writer {
    /// Until the queue's other end is gone. The error names what did not fit the log.
    fn run(self, mut messages: mpsc::Receiver<ToStandby>) -> Result<(), String> {
        // What was written and not flushed when the last connection ended.
        self.flush()?;
        while let Some(first) = messages.blocking_recv() {
            let mut next = Some(first);
            let mut durable = None;
            // All that is here already shares a flush.
            while let Some(message) = next {
                self.take(message, &mut durable)?;
                next = messages.try_recv().ok();
            }
            self.flush()?;
            if let Some(durable) = durable {
                self.announce(durable)?;
            }
        }
        Ok(())
    }

    fn take(&self, message: ToStandby, durable: &mut Option<Lsn>) -> Result<(), String> {
        let log = self.replication.raw();
        let written = match message {
            ToStandby::Segment { header, epoch } => {
                let promised = self.replication.promised();
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
                if leads > 0 && self.caught_up_at.get().is_none() {
                    self.caught_up_at.set(Some(lsn));
                }
                *durable = Some(lsn);
                return Ok(());
            }
            ToStandby::HandOver { .. } => return Ok(()),
            _ => return Err("a message of another conversation".to_owned()),
        };
        let position = written.map_err(|error| self.failed(error))?;
        self.teller.wrote(position.lsn);
        Ok(())
    }

    fn flush(&self) -> Result<(), String> {
        let log = self.replication.raw();
        let position = log.follow_flush().map_err(|error| self.failed(error))?;
        self.teller.flushed(position.lsn);
        if self.caught_up_at.get().is_some_and(|at| position.lsn >= at) {
            let settled = self.replication.settle_doubt();
            settled.map_err(|error| format!("role.json: {error}"))?;
            if let Some(voting) = &self.replication.voting {
                voting.caught_up().map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn announce(&self, durable: Lsn) -> Result<(), String> {
        let log = self.replication.raw();
        log.announce(durable).map_err(|error| self.failed(error))?;
        self.news.tell();
        let is_heartbeat = self.announced.replace(durable) == durable;
        if is_heartbeat && self.replication.voting.is_some() {
            // That it was heard is what a lease rests on; nothing else has to be told.
            self.teller.tell_now();
        }
        Ok(())
    }

    fn failed(&self, error: FollowError) -> String {
        if let FollowError::Append(springhead_log::AppendError::Poisoned(why)) = &error {
            self.replication.engine.poison(why.to_string());
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
            .map_err(|error| springhead_engine::EngineError::Io {
                operation: "start",
                path: "the applier's thread".to_owned(),
                error,
            })?;
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
