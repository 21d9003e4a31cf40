//! The standbys of a node: who they are, how far they are, and what of the log is kept for them.
//!
//! A slot is made when a standby first streams and stays when it leaves, so that it finds its log
//! when it comes back; past its cap it is invalidated and the standby told. Slots are of one node,
//! as its log's segments are, and lie in a file beside them: were they a collection, a standby would
//! take over its primary's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use springhead_log::{Log, Pin};
use springhead_proto::Lsn;
use tokio::sync::watch;

use super::wire::Progress;

/// The slots' file in the data directory.
const FILE: &str = "standbys.json";
/// What their pins are called.
pub const PIN_PREFIX: &str = "standby ";
/// More standbys than this are refused.
pub const MAX_SLOTS: usize = 64;

/// What a standby is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes a base backup.
    Backup,
    /// It streams and is behind what was durable when it began.
    Catchup,
    /// It streams.
    Streaming,
    /// It is not connected.
    Disconnected,
    /// Its slot passed its cap: it needs a base backup.
    Invalidated,
}

impl State {
    pub const fn word(self) -> &'static str {
        match self {
            State::Backup => "backup",
            State::Catchup => "catchup",
            State::Streaming => "streaming",
            State::Disconnected => "disconnected",
            State::Invalidated => "invalidated",
        }
    }
}

/// One standby as it is shown.
#[derive(Debug, Clone)]
pub struct Standby {
    pub name: String,
    pub address: String,
    pub state: State,
    pub sent: Lsn,
    pub progress: Progress,
    /// When it last said something.
    pub heard: Option<Instant>,
    /// The first LSN that it has not flushed and when that was durable here: its lag in time.
    pub behind_since: Option<Instant>,
    /// Its log is not held any longer.
    expired: bool,
    /// Counts its connections, so that one that is over takes nothing from its successor.
    connection: u64,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    address: String,
    flushed: u64,
    invalidated: bool,
}

/// See the module's text.
pub struct Slots {
    path: PathBuf,
    log: Arc<dyn Log>,
    cap_bytes: u64,
    standbys: Mutex<BTreeMap<String, Standby>>,
    /// Counts what standbys have said, and their comings and goings.
    moved: watch::Sender<u64>,
    /// Held by whoever writes the file.
    storing: Mutex<()>,
}

/// Why a standby gets no slot.
#[derive(Debug, thiserror::Error)]
#[error("there are {MAX_SLOTS} standbys already; drop one that is gone (springhead standby drop)")]
pub struct TooMany;

impl Slots {
    /// Reads the slots of an earlier run and holds their log.
    ///
    /// # Errors
    /// What the disk says, or that the file is none.
    pub fn open(data_dir: &Path, log: Arc<dyn Log>, cap_bytes: u64) -> std::io::Result<Slots> {
        let path = data_dir.join(FILE);
        let stored: Vec<Stored> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let slots = Slots {
            path,
            log,
            cap_bytes,
            standbys: Mutex::default(),
            moved: watch::Sender::new(0),
            storing: Mutex::default(),
        };
        for stored in stored {
            let flushed = Lsn(stored.flushed);
            let standby = Standby {
                name: stored.name.clone(),
                address: stored.address,
                state: if stored.invalidated {
                    State::Invalidated
                } else {
                    State::Disconnected
                },
                sent: flushed,
                progress: Progress {
                    written: flushed,
                    flushed,
                    applied: flushed,
                },
                heard: None,
                behind_since: None,
                expired: stored.invalidated,
                connection: 0,
            };
            if !stored.invalidated {
                slots.pin(&stored.name, flushed);
            }
            slots.standbys.lock().insert(stored.name, standby);
        }
        Ok(slots)
    }

    fn pin(&self, name: &str, after: Lsn) {
        let name = format!("{PIN_PREFIX}{name}");
        let pin = Pin {
            name: name.clone(),
            after,
            cap_bytes: self.cap_bytes,
        };
        self.log.set_pin(&name, Some(pin));
    }

    /// A standby begins to stream, or takes a base backup, from `after`. The number of its
    /// connection.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn connect(
        &self,
        name: &str,
        address: &str,
        state: State,
        after: Lsn,
    ) -> Result<u64, TooMany> {
        let mut standbys = self.standbys.lock();
        if standbys.len() >= MAX_SLOTS && !standbys.contains_key(name) {
            return Err(TooMany);
        }
        let connection = standbys.get(name).map_or(0, |known| known.connection) + 1;
        standbys.insert(
            name.to_owned(),
            Standby {
                name: name.to_owned(),
                address: address.to_owned(),
                state,
                sent: after,
                progress: Progress::default(),
                heard: Some(Instant::now()),
                behind_since: None,
                expired: false,
                connection,
            },
        );
        drop(standbys);
        self.moved.send_modify(|count| *count += 1);
        self.pin(name, after);
        self.store_or_warn();
        Ok(connection)
    }

    /// Whether `connection` is the standby's last one.
    pub fn is_current(&self, name: &str, connection: u64) -> bool {
        let standbys = self.standbys.lock();
        standbys
            .get(name)
            .is_some_and(|known| known.connection == connection)
    }

    /// Bytes up to `sent` are on their way.
    pub fn sent(&self, name: &str, connection: u64, sent: Lsn) {
        self.with(name, connection, |standby| standby.sent = sent);
    }

    /// A standby tells how far it is; `end` is the durable end here.
    pub fn acknowledged(&self, name: &str, connection: u64, progress: Progress, end: Lsn) {
        let mut pin = None;
        self.with(name, connection, |standby| {
            if progress.flushed > standby.progress.flushed {
                pin = Some(progress.flushed);
                standby.expired = false;
            }
            standby.progress = progress;
            standby.heard = Some(Instant::now());
            if progress.flushed >= end {
                standby.behind_since = None;
                if standby.state == State::Catchup {
                    standby.state = State::Streaming;
                }
            } else if standby.behind_since.is_none() || pin.is_some() {
                standby.behind_since = Some(Instant::now());
            }
        });
        if let Some(after) = pin {
            self.pin(name, after);
        }
    }

    /// A standby's connection is over.
    pub fn disconnect(&self, name: &str, connection: u64) {
        self.with(name, connection, |standby| {
            standby.state = if standby.expired {
                State::Invalidated
            } else {
                State::Disconnected
            };
        });
        self.store_or_warn();
    }

    fn with(&self, name: &str, connection: u64, act: impl FnOnce(&mut Standby)) {
        if let Some(standby) = self.standbys.lock().get_mut(name)
            && standby.connection == connection
        {
            act(standby);
        }
        self.moved.send_modify(|count| *count += 1);
    }

    /// Tells when a standby has said something, or has come or gone.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Retention has dropped these pins for passing their caps.
    pub fn expire<'a>(&self, pins: impl Iterator<Item = &'a str>) {
        for name in pins.filter_map(|pin| pin.strip_prefix(PIN_PREFIX)) {
            if let Some(standby) = self.standbys.lock().get_mut(name) {
                tracing::warn!(
                    standby = name,
                    cap_bytes = self.cap_bytes,
                    "a standby is so far behind that its log is not kept any longer; it will need a base backup"
                );
                standby.expired = true;
                if !matches!(
                    standby.state,
                    State::Streaming | State::Catchup | State::Backup
                ) {
                    standby.state = State::Invalidated;
                }
            }
        }
        self.store_or_warn();
    }

    /// Forgets a standby that is not connected; false if there is none.
    pub fn drop_slot(&self, name: &str) -> bool {
        let mut standbys = self.standbys.lock();
        let is_gone = standbys
            .get(name)
            .is_some_and(|s| matches!(s.state, State::Disconnected | State::Invalidated));
        if is_gone {
            standbys.remove(name);
        }
        drop(standbys);
        if is_gone {
            self.log.set_pin(&format!("{PIN_PREFIX}{name}"), None);
            self.store_or_warn();
        }
        is_gone
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Standby> {
        self.standbys.lock().values().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<Standby> {
        self.standbys.lock().get(name).cloned()
    }

    /// Those that stream and have been heard within `limit`, as far as they are.
    pub fn streaming(&self, limit: Duration) -> Vec<(String, Progress)> {
        self.standbys
            .lock()
            .values()
            .filter(|standby| {
                matches!(standby.state, State::Streaming | State::Catchup)
                    && standby.heard.is_some_and(|heard| heard.elapsed() < limit)
            })
            .map(|standby| (standby.name.clone(), standby.progress))
            .collect()
    }

    /// Writes the slots down, for the next run.
    pub fn store_or_warn(&self) {
        let _storing = self.storing.lock();
        let stored: Vec<Stored> = self
            .list()
            .into_iter()
            .map(|standby| Stored {
                name: standby.name,
                address: standby.address,
                flushed: standby.progress.flushed.0,
                invalidated: standby.state == State::Invalidated,
            })
            .collect();
        let written = serde_json::to_vec_pretty(&stored)
            .map_err(std::io::Error::from)
            .and_then(|bytes| super::files::write_durably(&self.path, &bytes));
        if let Err(error) = written {
            // They are made anew when the standbys come back; until then retention may pass them.
            tracing::warn!(%error, "could not write down the standbys");
        }
    }
}
