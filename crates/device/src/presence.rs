//! Presence: what this device shows of itself in channels, and who else is there. Never stored: a
//! channel has what the server says while there is a connection, and is empty while there is none.
//!
//! ```text
//!   set, leave, watch ─> wanted ─ link ─> server        after a new connection all of it is said again
//!   server ─ conversation ─> heard ─> members (watch)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::Value as Json;
use springhead_proto::sync::{
    DeviceId, DeviceToServer, Limits, PresenceLeave, PresenceLeft, PresenceMember,
    PresenceQuestion, PresenceRoster, PresenceSet,
};
use tokio::sync::{Notify, watch};

use crate::{Device, DeviceError};

/// The others who are in a channel, and what each shows.
pub type Members = BTreeMap<DeviceId, Member>;

/// One device in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub user: String,
    /// JSON, as that device has given it.
    pub state: String,
}

/// All channels of a device.
#[derive(Default)]
pub(crate) struct Presence {
    channels: Mutex<BTreeMap<String, Channel>>,
    /// There is a session: what changes is said in it.
    is_connected: AtomicBool,
    /// This device, once it has had a session.
    own: Mutex<Option<DeviceId>>,
    /// To be said in this session; of each channel the latest state alone.
    wanted: Mutex<VecDeque<DeviceToServer>>,
    /// Something is to be said.
    changed: Notify,
}

#[derive(Default)]
struct Channel {
    /// What this device shows; `None` if it is not there.
    own: Option<String>,
    /// There once somebody wants to know.
    members: Option<watch::Sender<Members>>,
}

fn set(channel: &str, state: &str) -> DeviceToServer {
    DeviceToServer::PresenceSet(PresenceSet {
        channel: channel.to_owned(),
        state: state.to_owned(),
    })
}

fn roster(channel: &str) -> DeviceToServer {
    DeviceToServer::PresenceRoster(PresenceQuestion {
        channel: channel.to_owned(),
    })
}

/// Bytes of a channel's name, at most.
const MAX_NAME_BYTES: usize = 200;

fn expect_name(channel: &str) -> Result<(), DeviceError> {
    if (1..=MAX_NAME_BYTES).contains(&channel.len()) {
        return Ok(());
    }
    let why = format!("a presence channel's name has 1 to {MAX_NAME_BYTES} bytes");
    Err(DeviceError::Refused(why))
}

impl Presence {
    fn say(&self, frame: DeviceToServer) {
        if !self.is_connected.load(Ordering::Acquire) {
            return;
        }
        let mut wanted = self.wanted.lock();
        if let DeviceToServer::PresenceSet(new) = &frame {
            wanted.retain(|waiting| {
                !matches!(waiting, DeviceToServer::PresenceSet(old) if old.channel == new.channel)
            });
        }
        wanted.push_back(frame);
        drop(wanted);
        self.changed.notify_one();
    }

    /// Completes once something is to be said. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is to be said now, within what the server takes.
    pub(crate) fn take_wanted(&self, limits: &Limits) -> Vec<DeviceToServer> {
        let is_taken = |frame: &DeviceToServer| match frame {
            DeviceToServer::PresenceSet(set) => {
                let fits = set.state.len() <= limits.max_presence_bytes as usize;
                if !fits {
                    tracing::warn!(
                        channel = set.channel,
                        "the server takes no state of this size"
                    );
                }
                fits
            }
            _ => true,
        };
        self.wanted.lock().drain(..).filter(is_taken).collect()
    }

    /// There is a new session, which knows nothing yet: all of it is said again.
    pub(crate) fn begin(&self, own: DeviceId) {
        *self.own.lock() = Some(own);
        let channels = self.channels.lock();
        let mut wanted = self.wanted.lock();
        self.is_connected.store(true, Ordering::Release);
        wanted.clear();
        for (name, channel) in &*channels {
            wanted.extend(channel.own.as_ref().map(|state| set(name, state)));
            wanted.extend(channel.members.as_ref().map(|_| roster(name)));
        }
    }

    /// What this device shows is said again, before the server forgets it.
    pub(crate) fn renew(&self) {
        let channels = self.channels.lock();
        let owns = channels.iter().filter_map(|(name, channel)| {
            let state = channel.own.as_ref()?;
            Some(set(name, state))
        });
        self.wanted.lock().extend(owns);
    }

    /// There is no connection: nobody is known to be anywhere.
    pub(crate) fn end(&self) {
        self.is_connected.store(false, Ordering::Release);
        for channel in self.channels.lock().values() {
            if let Some(members) = &channel.members {
                members.send_if_modified(|members| !std::mem::take(members).is_empty());
            }
        }
    }

    pub(crate) fn heard(&self, member: PresenceMember) {
        self.change(&member.channel, |members| {
            let is = Member {
                user: member.user,
                state: member.state,
            };
            members.insert(member.device, is);
        });
    }

    pub(crate) fn left(&self, left: &PresenceLeft) {
        self.change(&left.channel, |members| {
            members.remove(&left.device);
        });
    }

    pub(crate) fn roster(&self, roster: PresenceRoster) {
        let own = *self.own.lock();
        self.change(&roster.channel, |members| {
            let is = |member: PresenceMember| {
                let (user, state) = (member.user, member.state);
                (member.device, Member { user, state })
            };
            let others = (roster.members.into_iter()).filter(|member| Some(member.device) != own);
            *members = others.map(is).collect();
        });
    }

    fn change(&self, channel: &str, change: impl FnOnce(&mut Members)) {
        let channels = self.channels.lock();
        if let Some(members) = channels
            .get(channel)
            .and_then(|channel| channel.members.as_ref())
        {
            members.send_modify(change);
        }
    }
}

impl Device {
    /// Shows `state` to whoever is in a channel, from now on and after each loss of the connection,
    /// until [`Device::leave_presence`] or the device closes. Nothing of it is stored anywhere.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] for a state over 4 KiB of JSON, or a name that is none.
    pub fn set_presence(&self, channel: &str, state: &Json) -> Result<(), DeviceError> {
        let presence = &self.inner.presence;
        let state = state.to_string();
        let most = Limits::default().max_presence_bytes as usize;
        if state.len() > most {
            let why = format!("a presence state has at most {most} bytes of JSON");
            return Err(DeviceError::Refused(why));
        }
        expect_name(channel)?;
        let mut channels = presence.channels.lock();
        channels.entry(channel.to_owned()).or_default().own = Some(state.clone());
        drop(channels);
        presence.say(set(channel, &state));
        Ok(())
    }

    /// Is seen in a channel no more.
    pub fn leave_presence(&self, channel: &str) {
        let presence = &self.inner.presence;
        let mut channels = presence.channels.lock();
        let Some(of) = channels.get_mut(channel) else {
            return;
        };
        let (was_there, listens) = (of.own.take().is_some(), of.members.is_some());
        drop(channels);
        if was_there {
            presence.say(DeviceToServer::PresenceLeave(PresenceLeave {
                channel: channel.to_owned(),
            }));
            if listens {
                // Leaving ends both.
                presence.say(roster(channel));
            }
        }
    }

    /// Who else is in a channel, now and whenever that changes; nobody while there is no connection.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] for a name that is none.
    pub fn presence(&self, channel: &str) -> Result<watch::Receiver<Members>, DeviceError> {
        expect_name(channel)?;
        let presence = &self.inner.presence;
        let mut channels = presence.channels.lock();
        let of = channels.entry(channel.to_owned()).or_default();
        if let Some(members) = &of.members {
            return Ok(members.subscribe());
        }
        let (members, receiver) = watch::channel(Members::new());
        of.members = Some(members);
        drop(channels);
        presence.say(roster(channel));
        Ok(receiver)
    }

    /// This device, as others see it in channels.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn id(&self) -> Result<DeviceId, DeviceError> {
        Ok(self.introduction().await?.device)
    }
}
