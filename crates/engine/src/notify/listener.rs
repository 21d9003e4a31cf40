//! One session's channels, and the messages that wait for it.
//!
//! A listener follows ([`State::behind`] is `None`): the tenant's [`Channels`] puts each message of
//! its channels into its queue. Or it is behind: the queue was full, or its channels have changed;
//! then it is passed by, empties its queue, reads the log itself from [`State::seen`], and follows
//! again once it has read past everything that it was passed by with. Either way each message comes
//! once, in the order of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, Lsn, SqlError};
use tokio::sync::Notify;

use super::{Channels, Notification, for_each_message};
use crate::{TailError, TailReader};

/// Bytes of messages that are handed out at a time, about.
const BATCH_BYTES: usize = 64 << 10;

/// A session's end of its channels.
pub struct Listener {
    pub(super) state: Mutex<State>,
    /// Told when there is something for the session.
    ready: Notify,
    /// While it is behind: its own place in the log.
    tail: tokio::sync::Mutex<Option<TailReader>>,
}

#[derive(Default)]
pub(super) struct State {
    /// Channels, each with the place after which its messages count.
    pub channels: FxHashMap<Arc<str>, Lsn>,
    /// The same channels in the order of their LISTENs.
    pub order: Vec<Arc<str>>,
    queue: VecDeque<Notification>,
    queued_bytes: usize,
    /// Every message of its channels up to here has been handed out.
    pub seen: Lsn,
    /// Messages up to here are not put into the queue: it has read past them itself.
    from: Lsn,
    /// Set while it must read the log itself: at least up to here.
    behind: Option<Lsn>,
    ended: Option<SqlError>,
}

/// Where the messages of a channel begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelStart {
    /// With the transaction that listens.
    Now,
    /// After this place.
    After(Lsn),
}

impl State {
    /// Starts over from `seen`, by itself, with the channels as they are now.
    pub fn read_again(&mut self, published: Lsn) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.behind = Some(self.behind.unwrap_or(Lsn::ZERO).max(published));
    }

    /// Its place in the log if anything waits for it.
    pub fn slowest(&self) -> Option<Lsn> {
        (self.behind.is_some() || !self.queue.is_empty()).then_some(self.seen)
    }

    pub fn has_channels(&self) -> bool {
        !self.order.is_empty()
    }
}

impl Listener {
    pub(super) fn new() -> Arc<Listener> {
        Arc::new(Listener {
            state: Mutex::default(),
            ready: Notify::new(),
            tail: tokio::sync::Mutex::default(),
        })
    }

    /// The channels, in the order of their LISTENs.
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.state.lock().order.clone()
    }

    /// Every message of its channels up to here has been handed out.
    pub fn seen(&self) -> Lsn {
        self.state.lock().seen
    }

    /// Completes when there is something to take. Cancel-safe.
    pub async fn ready(&self) {
        loop {
            let told = self.ready.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            {
                let state = self.state.lock();
                if !state.queue.is_empty() || state.behind.is_some() || state.ended.is_some() {
                    return;
                }
            }
            told.await;
        }
    }

    /// Puts a message into the queue, or notes that it was passed by.
    pub(super) fn offer(&self, notification: &Notification, max_bytes: usize) {
        let mut state = self.state.lock();
        let lsn = notification.lsn;
        let counts_after = state.channels.get(&notification.channel).copied();
        if lsn <= state.from || counts_after.is_none_or(|after| lsn <= after) {
            return;
        }
        if let Some(passed) = &mut state.behind {
            *passed = lsn.max(*passed);
            return;
        }
        let bytes = notification.len_bytes();
        if state.queued_bytes + bytes > max_bytes && !state.queue.is_empty() {
            state.behind = Some(lsn);
            return;
        }
        state.queued_bytes += bytes;
        state.queue.push_back(notification.clone());
        let was_empty = state.queue.len() == 1;
        drop(state);
        if was_empty {
            self.ready.notify_one();
        }
    }

    /// No more will come.
    pub(super) fn end(&self, error: SqlError) {
        self.state.lock().ended.get_or_insert(error);
        self.ready.notify_one();
    }

    /// Tells the session to look.
    pub(super) fn wake(&self) {
        self.ready.notify_one();
    }

    /// Notes that everything up to `dispatched` has been put before it, so that a later change of its
    /// channels need not look at it again.
    pub(super) fn settle(&self, dispatched: Lsn) {
        let mut state = self.state.lock();
        if state.queue.is_empty() && state.behind.is_none() {
            state.seen = state.seen.max(dispatched);
        }
    }

    /// Some of the messages that wait, in order; none if there is none now.
    ///
    /// # Errors
    /// Why no more will come: the tenant is gone, or what it has not read is no longer kept.
    pub async fn take(&self, channels: &Channels) -> Result<Vec<Notification>, SqlError> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.queue.is_empty() {
                    return Ok(pop(&mut state));
                }
                if state.behind.is_none() {
                    return state.ended.clone().map_or(Ok(Vec::new()), Err);
                }
                if !state.has_channels() {
                    state.behind = None;
                    continue;
                }
            }
            if let Some(batch) = self.catch_up(channels).await? {
                return Ok(batch);
            }
        }
    }

    /// One step through the log; `None` if it gave nothing.
    async fn catch_up(&self, channels: &Channels) -> Result<Option<Vec<Notification>>, SqlError> {
        let mut place = self.tail.lock().await;
        let seen = self.state.lock().seen;
        let mut tail = match place.take() {
            Some(tail) if tail.position() == seen => tail,
            _ => channels.tail(seen),
        };
        let step = tail.try_next().await.map_err(ended)?;
        let Some(step) = step else {
            let mut state = self.state.lock();
            let position = tail.position();
            if state.behind.is_some_and(|passed| passed <= position) {
                state.behind = None;
                state.from = state.from.max(position);
            } else {
                *place = Some(tail);
            }
            return Ok(None);
        };
        let mut batch = Vec::new();
        let mut state = self.state.lock();
        for block in &step.blocks {
            for_each_message(&block.slice, |lsn, channel, payload, process_id| {
                if let Some((channel, after)) = state.channels.get_key_value(channel)
                    && lsn > *after
                    && lsn > seen
                {
                    batch.push(Notification {
                        lsn,
                        channel: Arc::clone(channel),
                        payload: payload.into(),
                        process_id,
                    });
                }
            })?;
        }
        state.seen = step.position;
        drop(state);
        *place = Some(tail);
        Ok((!batch.is_empty()).then_some(batch))
    }
}

fn pop(state: &mut State) -> Vec<Notification> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES
        && let Some(notification) = state.queue.pop_front()
    {
        bytes += notification.len_bytes();
        state.seen = state.seen.max(notification.lsn);
        batch.push(notification);
    }
    state.queued_bytes -= bytes;
    if state.queue.is_empty() && state.queue.capacity() > 64 {
        state.queue.shrink_to(64);
    }
    batch
}

pub(super) fn ended(error: TailError) -> SqlError {
    let code = match &error {
        TailError::TenantDropped => ErrorCode::TenantDropped,
        TailError::ShuttingDown => ErrorCode::AdminShutdown,
        TailError::Log(springhead_log::LogError::Trimmed { .. }) => {
            return SqlError::new(
                ErrorCode::CursorExpired,
                format!("messages have been trimmed before they were read: {error}"),
            )
            .with_hint("connect again and LISTEN; what the messages told of must be read anew");
        }
        TailError::Log(springhead_log::LogError::Corrupt { .. }) => ErrorCode::Corrupted,
        TailError::Log(_) => ErrorCode::Internal,
    };
    SqlError::new(code, error.to_string())
}
