//! A tenant's channels: who listens where, and the one place that follows the log for all of them.
//!
//! While anyone listens a task waits for commits and dispatches their messages. A session that is
//! about to tell its client that it is ready dispatches too, so that a client has its own messages by
//! then, as with PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{Lsn, SqlError};
use tokio::sync::Notify;

use super::listened::Listened;
use super::listener::{ChannelStart, Listener, ended};
use super::{Notification, for_each_message};
use crate::TailReader;
use crate::tail::Hub;

/// See the module's text.
pub struct Channels {
    hub: Arc<Hub>,
    /// Bytes of messages that wait for one listener, at most; the rest it reads from the log.
    queue_bytes: usize,
    members: Mutex<Members>,
    /// Follows the log while anyone listens.
    follower: tokio::sync::Mutex<Option<TailReader>>,
    /// Everything up to here has been dispatched.
    dispatched: AtomicU64,
    /// The last listener has gone.
    deserted: Notify,
}

#[derive(Default)]
struct Members {
    by_channel: FxHashMap<Arc<str>, Vec<Arc<Listener>>>,
    /// Everyone with a channel.
    listeners: Vec<Arc<Listener>>,
    /// The dispatching task is there, and began after this LSN.
    running_after: Option<Lsn>,
}

/// How long commits without a message for anyone may wait to be passed over.
const PASS_EVERY: Duration = Duration::from_millis(50);

/// One change of a session's channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelChange {
    Start(String, ChannelStart),
    Stop(String),
    StopAll,
}

impl Channels {
    /// The channels of the tenant whose commits `hub` publishes.
    pub fn new(hub: Arc<Hub>, queue_bytes: usize) -> Arc<Channels> {
        Arc::new(Channels {
            hub,
            queue_bytes,
            members: Mutex::default(),
            follower: tokio::sync::Mutex::default(),
            dispatched: AtomicU64::new(0),
            deserted: Notify::new(),
        })
    }

    /// A listener without channels.
    pub fn listener(&self) -> Arc<Listener> {
        Listener::new()
    }

    /// The last LSN of the tenant's last commit.
    pub fn published(&self) -> Lsn {
        self.hub.published()
    }

    /// The last commit that anyone was told of: whoever listens from now on hears what comes after.
    pub fn acknowledged(&self) -> Lsn {
        self.hub.acknowledged()
    }

    pub(super) fn tail(&self, position: Lsn) -> TailReader {
        self.hub.tail(position, Vec::new())
    }

    /// Changes a session's channels. Messages of commits after `start` count for a session that had
    /// none.
    pub fn change(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        changes: impl Iterator<Item = ChannelChange>,
        start: Lsn,
    ) {
        let mut members = self.members.lock();
        let mut state = listener.state.lock();
        let had_some = state.has_channels();
        if !had_some {
            state.seen = start;
        }
        for change in changes {
            match change {
                ChannelChange::Start(name, place) => {
                    let after = match place {
                        ChannelStart::After(lsn) => lsn,
                        ChannelStart::Now if state.channels.contains_key(name.as_str()) => continue,
                        ChannelStart::Now => Lsn::ZERO,
                    };
                    if after != Lsn::ZERO || place != ChannelStart::Now {
                        // The others go on from where they are.
                        let seen = state.seen;
                        for others in state.channels.values_mut() {
                            *others = seen.max(*others);
                        }
                        state.seen = seen.min(after);
                    }
                    let name: Arc<str> = name.into();
                    // Before `published` is looked at below: of each later commit it is known.
                    self.hub.listened.add(&name);
                    if state.channels.insert(Arc::clone(&name), after).is_none() {
                        members
                            .by_channel
                            .entry(Arc::clone(&name))
                            .or_default()
                            .push(Arc::clone(listener));
                        state.order.push(name);
                    }
                }
                ChannelChange::Stop(name) => {
                    if state.channels.remove(name.as_str()).is_some() {
                        state.order.retain(|known| **known != *name);
                        members.leave(&name, listener, &self.hub.listened);
                    }
                }
                ChannelChange::StopAll => {
                    state.channels.clear();
                    for name in std::mem::take(&mut state.order) {
                        members.leave(&name, listener, &self.hub.listened);
                    }
                }
            }
        }
        let has_some = state.has_channels();
        // What the session has not been told yet is looked at with the channels that it has now.
        let published = self.hub.published();
        state.read_again(published);
        drop(state);
        match (had_some, has_some) {
            (false, true) => {
                members.listeners.push(Arc::clone(listener));
                if members.running_after.is_none() {
                    members.running_after = Some(published);
                    tokio::spawn(Arc::clone(self).run());
                }
            }
            (true, false) => {
                members
                    .listeners
                    .retain(|known| !Arc::ptr_eq(known, listener));
                if members.listeners.is_empty() {
                    self.deserted.notify_one();
                }
            }
            _ => {}
        }
        drop(members);
        listener.wake();
    }

    /// Dispatches everything that anyone was told is committed.
    pub async fn catch_up(&self) {
        self.hub.settled().await;
        if self.hub.shown().0 <= self.dispatched.load(Ordering::Acquire) {
            return;
        }
        let mut follower = self.follower.lock().await;
        self.dispatch(&mut follower).await;
    }

    /// Notes that `listener`, which is about to begin something, has been offered everything that has
    /// been dispatched by now.
    pub fn settle(&self, listener: &Listener) {
        listener.settle(Lsn(self.dispatched.load(Ordering::Acquire)));
    }

    /// How much of the log that is kept the slowest listener has still to read, from 0 to 1.
    pub fn usage(&self) -> f64 {
        let slowest = {
            let members = self.members.lock();
            let seen = |listener: &Arc<Listener>| listener.state.lock().slowest();
            members.listeners.iter().filter_map(seen).min()
        };
        slowest.map_or(0.0, |slowest| self.hub.share_after(slowest))
    }

    async fn run(self: Arc<Self>) {
        loop {
            let position = {
                let mut follower = self.follower.lock().await;
                self.dispatch(&mut follower).await;
                let mut members = self.members.lock();
                if members.listeners.is_empty() {
                    members.running_after = None;
                    *follower = None;
                    return;
                }
                follower.as_ref().map(TailReader::position)
            };
            let Some(position) = position else {
                // The log has ended for everyone.
                self.members.lock().running_after = None;
                return;
            };
            tokio::select! {
                () = self.hub.listened.woken() => {}
                () = self.other_commits(position) => {}
                () = self.deserted.notified() => {}
            }
        }
    }

    /// Completes some time after commits that nobody listens for: they are passed over many at a time,
    /// so that the place in the log stays within the tail's memory.
    async fn other_commits(&self, position: Lsn) {
        self.hub.published_after(position).await;
        tokio::time::sleep(PASS_EVERY).await;
    }

    async fn dispatch(&self, follower: &mut Option<TailReader>) {
        if follower.is_none() {
            let Some(after) = self.members.lock().running_after else {
                return;
            };
            *follower = Some(self.tail(after));
        }
        let Some(tail) = follower.as_mut() else {
            return;
        };
        let error = loop {
            match tail.try_next().await {
                Ok(Some(step)) => {
                    let routed = self.route(&step);
                    self.dispatched.store(step.position.0, Ordering::Release);
                    if let Err(error) = routed {
                        break error;
                    }
                }
                Ok(None) => return,
                Err(error) => break ended(error),
            }
        };
        *follower = None;
        let mut members = self.members.lock();
        members.by_channel.clear();
        self.hub.listened.clear();
        for listener in members.listeners.drain(..) {
            listener.end(error.clone());
        }
    }

    fn route(&self, step: &crate::Step) -> Result<(), SqlError> {
        if step.blocks.is_empty() {
            return Ok(());
        }
        let members = self.members.lock();
        for block in &step.blocks {
            for_each_message(&block.slice, |lsn, channel, payload, process_id| {
                let Some((channel, listeners)) = members.by_channel.get_key_value(channel) else {
                    return;
                };
                let notification = Notification {
                    lsn,
                    channel: Arc::clone(channel),
                    payload: payload.into(),
                    process_id,
                };
                for listener in listeners {
                    listener.offer(&notification, self.queue_bytes);
                }
            })?;
        }
        Ok(())
    }
}

impl Members {
    fn leave(&mut self, channel: &str, listener: &Arc<Listener>, listened: &Listened) {
        if let Some(listeners) = self.by_channel.get_mut(channel) {
            listeners.retain(|known| !Arc::ptr_eq(known, listener));
            if listeners.is_empty() {
                self.by_channel.remove(channel);
                listened.remove(channel);
            }
        }
    }
}
