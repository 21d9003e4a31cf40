//! What a commit waits for beyond this machine's disk: PostgreSQL's `synchronous_commit`. The engine
//! knows the levels and where the wait belongs (between the writer's answer and the client's); who
//! has which part of the log only the server knows ([`CommitGate`]).

use std::future::Future;
use std::pin::Pin;

use springhead_proto::{Lsn, SqlError};

/// How safe a commit is when its client is told of it, from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncLevel {
    /// As `Local`: a flush is shared by all who commit, so that there is little to gain.
    Off,
    /// Flushed here.
    Local,
    /// Flushed here, and written by enough standbys.
    RemoteWrite,
    /// Flushed here and by enough standbys.
    On,
    /// Flushed here, and visible on enough standbys.
    RemoteApply,
}

impl SyncLevel {
    /// Every level, by its name.
    pub const NAMES: [(&'static str, SyncLevel); 5] = [
        ("off", SyncLevel::Off),
        ("local", SyncLevel::Local),
        ("remote_write", SyncLevel::RemoteWrite),
        ("on", SyncLevel::On),
        ("remote_apply", SyncLevel::RemoteApply),
    ];

    /// The level that a setting's value names, with PostgreSQL's other words for on and off.
    #[must_use]
    pub fn parse(text: &str) -> Option<SyncLevel> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "true" | "yes" | "1" => return Some(SyncLevel::On),
            "false" | "no" | "0" => return Some(SyncLevel::Off),
            _ => {}
        }
        SyncLevel::NAMES
            .iter()
            .find(|(name, _)| *name == lower)
            .map(|(_, level)| *level)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        SyncLevel::NAMES
            .iter()
            .find(|(_, level)| *level == self)
            .map_or("on", |(name, _)| name)
    }

    /// Whether standbys have a say.
    #[must_use]
    pub fn is_remote(self) -> bool {
        self >= SyncLevel::RemoteWrite
    }
}

/// A wait for standbys.
pub type Confirmation = Pin<Box<dyn Future<Output = Result<(), SqlError>> + Send>>;

/// Knows how far standbys have come.
pub trait CommitGate: Send + Sync {
    /// `None` if everything up to `lsn` is as safe as `level` asks, or nothing is to be waited for.
    /// Otherwise what completes once it is. Dropped, nobody waits any more, and nobody knows.
    ///
    /// # Errors
    /// The wait fails with 08007 where this node is no longer the primary: the commit is here, and
    /// whether it survives is unknown.
    fn confirm(&self, lsn: Lsn, level: SyncLevel) -> Option<Confirmation>;
}
