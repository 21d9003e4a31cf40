//! Presence: who is in a channel and what they are doing there. In memory, for as long as a session
//! lasts, never in the log.
//!
//! What waits for a device is the latest state of each member that it has not heard of yet; when it
//! falls too far behind, that of a channel becomes one roster.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::TenantId;
use springhead_proto::sync::{
    DeviceId, PresenceLeft, PresenceMember, PresenceRoster, ServerToDevice, SyncErrorCode,
};
use tokio::sync::Notify;

use super::SyncLimits;
use super::session::Closing;

/// All channels of an engine.
#[derive(Default)]
pub(crate) struct Presence {
    channels: Mutex<FxHashMap<(TenantId, Arc<str>), Channel>>,
}

#[derive(Default)]
struct Channel {
    /// By device; of several sessions of one device the last that spoke.
    members: FxHashMap<DeviceId, (u64, PresenceMember)>,
    listeners: FxHashMap<u64, Weak<Inbox>>,
}

/// What waits for one session.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    pub(crate) came: Notify,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<(Arc<str>, DeviceId)>,
    latest: FxHashMap<(Arc<str>, DeviceId), ServerToDevice>,
    /// Channels whose whole roster is due.
    rosters: FxHashSet<Arc<str>>,
}

/// One session's part.
pub(crate) struct Attendance {
    tenant: TenantId,
    session: u64,
    device: DeviceId,
    presence: Arc<Presence>,
    pub(crate) inbox: Arc<Inbox>,
    channels: FxHashSet<Arc<str>>,
}

/// Members that wait for one session one by one, at most.
const MAX_WAITING: usize = 256;
/// Longest name of a channel.
const MAX_NAME_BYTES: usize = 200;

impl Attendance {
    pub(crate) fn new(
        presence: &Arc<Presence>,
        tenant: TenantId,
        session: u64,
        device: DeviceId,
    ) -> Attendance {
        Attendance {
            tenant,
            session,
            device,
            presence: Arc::clone(presence),
            inbox: Arc::default(),
            channels: FxHashSet::default(),
        }
    }

    /// The device's own state in a channel.
    ///
    /// # Errors
    /// A limit that was passed.
    pub(crate) fn set(
        &mut self,
        limits: &SyncLimits,
        channel: &str,
        user: &str,
        state: String,
    ) -> Result<(), Closing> {
        if state.len() > limits.device.max_presence_bytes as usize {
            return Err(passed(format!(
                "a presence state has at most {} bytes",
                limits.device.max_presence_bytes
            )));
        }
        let name = self.enter(limits, channel)?;
        let member = PresenceMember {
            channel: channel.to_owned(),
            device: self.device,
            user: user.to_owned(),
            state,
        };
        let mut channels = self.presence.channels.lock();
        let place = channels
            .entry((self.tenant, Arc::clone(&name)))
            .or_default();
        let is_new = !place.members.contains_key(&self.device);
        if is_new && place.members.len() >= limits.presence_members {
            return Err(passed(format!(
                "a presence channel has at most {} members",
                limits.presence_members
            )));
        }
        place
            .members
            .insert(self.device, (self.session, member.clone()));
        place.tell(
            self.session,
            &name,
            self.device,
            &ServerToDevice::PresenceSet(member),
        );
        Ok(())
    }

    /// All who are in a channel; the session hears of changes from now on.
    ///
    /// # Errors
    /// A limit that was passed.
    pub(crate) fn roster(
        &mut self,
        limits: &SyncLimits,
        channel: &str,
    ) -> Result<ServerToDevice, Closing> {
        let name = self.enter(limits, channel)?;
        let mut channels = self.presence.channels.lock();
        let place = channels.entry((self.tenant, name)).or_default();
        place
            .listeners
            .insert(self.session, Arc::downgrade(&self.inbox));
        Ok(place.roster(channel))
    }

    /// The session has nothing to do with a channel any more.
    pub(crate) fn leave(&mut self, channel: &str) {
        if let Some(name) = self.channels.take(channel) {
            self.leave_channel(&name);
        }
    }

    /// The next thing that waits.
    pub(crate) fn take(&self) -> Option<ServerToDevice> {
        let mut waiting = self.inbox.waiting.lock();
        if let Some(name) = waiting.rosters.iter().next().cloned() {
            waiting.rosters.remove(&name);
            drop(waiting);
            let channels = self.presence.channels.lock();
            return (channels.get(&(self.tenant, Arc::clone(&name))))
                .map(|place| place.roster(&name));
        }
        let next = waiting.order.pop_front()?;
        waiting.latest.remove(&next)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.inbox.waiting.lock();
        waiting.order.is_empty() && waiting.rosters.is_empty()
    }

    fn enter(&mut self, limits: &SyncLimits, channel: &str) -> Result<Arc<str>, Closing> {
        if let Some(known) = self.channels.get(channel) {
            return Ok(Arc::clone(known));
        }
        if channel.is_empty() || channel.len() > MAX_NAME_BYTES {
            return Err(passed(format!(
                "a presence channel's name has 1 to {MAX_NAME_BYTES} bytes"
            )));
        }
        if self.channels.len() >= limits.device.max_presence_channels as usize {
            return Err(passed(format!(
                "a session is in at most {} presence channels",
                limits.device.max_presence_channels
            )));
        }
        let name: Arc<str> = channel.into();
        self.channels.insert(Arc::clone(&name));
        Ok(name)
    }

    fn leave_channel(&self, name: &Arc<str>) {
        let mut channels = self.presence.channels.lock();
        let key = (self.tenant, Arc::clone(name));
        let Some(place) = channels.get_mut(&key) else {
            return;
        };
        place.listeners.remove(&self.session);
        let is_own =
            (place.members.get(&self.device)).is_some_and(|(session, _)| *session == self.session);
        if is_own {
            place.members.remove(&self.device);
            let left = ServerToDevice::PresenceLeave(PresenceLeft {
                channel: name.to_string(),
                device: self.device,
            });
            place.tell(self.session, name, self.device, &left);
        }
        if place.members.is_empty() && place.listeners.is_empty() {
            channels.remove(&key);
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        for name in std::mem::take(&mut self.channels) {
            self.leave_channel(&name);
        }
    }
}

impl Channel {
    fn roster(&self, channel: &str) -> ServerToDevice {
        let mut members: Vec<_> = self
            .members
            .values()
            .map(|(_, member)| member.clone())
            .collect();
        members.sort_by_key(|member| member.device);
        ServerToDevice::PresenceRoster(PresenceRoster {
            channel: channel.to_owned(),
            members,
        })
    }

    /// Tells all who listen but the one that it is from.
    fn tell(&self, from: u64, name: &Arc<str>, device: DeviceId, frame: &ServerToDevice) {
        for (session, inbox) in &self.listeners {
            if *session != from
                && let Some(inbox) = inbox.upgrade()
            {
                inbox.put(name, device, frame.clone());
            }
        }
    }
}

impl Inbox {
    fn put(&self, name: &Arc<str>, device: DeviceId, frame: ServerToDevice) {
        let mut waiting = self.waiting.lock();
        if !waiting.rosters.contains(name) {
            let key = (Arc::clone(name), device);
            if waiting.latest.insert(key.clone(), frame).is_none() {
                waiting.order.push_back(key);
            }
            if waiting.order.len() > MAX_WAITING {
                waiting.order.retain(|(channel, _)| channel != name);
                waiting.latest.retain(|(channel, _), _| channel != name);
                waiting.rosters.insert(Arc::clone(name));
            }
        }
        drop(waiting);
        self.came.notify_one();
    }
}

fn passed(message: String) -> Closing {
    Closing::new(SyncErrorCode::LimitExceeded, message)
}
