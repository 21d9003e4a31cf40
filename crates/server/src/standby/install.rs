//! A base backup, on the side that takes it: everything goes into a directory beside the data, and
//! takes its place at once when it is complete. Interrupted before that, it goes on with what has come
//! ([`super::received`]); after that, the next start finishes it.
//!
//! ```text
//! data/incoming/tenants, log, secret.key     being received
//! data/incoming/RECEIVED                     what of it is whole
//! data/incoming/COMPLETE                     from here on it is in force
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_log::disk::RealDisk;
use springhead_log::{EpochRecord, FollowError, Log, LogError, RawPosition};
use springhead_proto::Lsn;

use super::Options;
use super::channel::ChannelError;
use super::files::{sync_dir, write_durably};
use super::handshake::{HandshakeError, Own, connect};
use super::life::OpenLog;
use super::received::{Begun, Piece, RECEIVED, Received};
use super::wire::{Identity, Purpose, ToPrimary, ToStandby, Verdict};
use crate::config::Config;

const INCOMING: &str = "incoming";
const COMPLETE: &str = "COMPLETE";
/// How often it is said how far it is.
const TELL: Duration = Duration::from_secs(2);

/// Why a base backup was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the other node gives none: {0}")]
    Refused(String),
    #[error("what came is no base backup: {0}")]
    Malformed(String),
}

/// What of a base backup has come to a data directory before, checked.
///
/// # Errors
/// What the disk says.
pub fn received(data_dir: &Path) -> io::Result<Received> {
    Received::open(&data_dir.join(INCOMING))
}

/// Takes a base backup from the node at `primary`, into the place of whatever is there; goes on with what
/// has been received.
///
/// # Errors
/// [`InstallError`]; what was there is still there.
pub async fn take(
    config: &Config,
    options: &Options,
    primary: &str,
    received: &mut Received,
    open_log: &OpenLog,
) -> Result<(), InstallError> {
    let incoming = options.data_dir.join(INCOMING);
    if incoming.join(COMPLETE).exists() {
        // The disk did not let it be finished.
        return Ok(tokio::task::block_in_place(|| finish(&options.data_dir))?);
    }
    let mut receiving = Receiving {
        config,
        open_log,
        incoming: incoming.clone(),
        received,
        epochs: Vec::new(),
        log: None,
        end: None,
        came: 0,
        expected: 0,
        told: Instant::now(),
    };
    let taken = receiving.take_all(options, primary).await;
    // Nothing holds a file of what goes on, or moves.
    receiving.received.pause();
    if let Some(log) = receiving.log.take() {
        log.close();
    }
    taken?;
    let (came, end) = (receiving.came, receiving.end.unwrap_or(Lsn::ZERO));
    springhead_log::failpoint::hit("standby.base_received");
    tokio::task::block_in_place(|| {
        // What comes may be less than what this node has acknowledged.
        crate::vote::forget_log(&options.data_dir)?;
        sync_tree(&incoming)?;
        write_durably(&incoming.join(COMPLETE), b"")?;
        springhead_log::failpoint::hit("standby.base_complete");
        finish(&options.data_dir)?;
        Ok::<_, InstallError>(())
    })?;
    tracing::info!(bytes = came, end = end.0, "the base backup is in place");
    Ok(())
}

struct Receiving<'a> {
    config: &'a Config,
    open_log: &'a OpenLog,
    incoming: PathBuf,
    received: &'a mut Received,
    epochs: Vec<EpochRecord>,
    log: Option<Arc<dyn Log>>,
    end: Option<Lsn>,
    /// Bytes that came over this connection.
    came: u64,
    /// Bytes of all files.
    expected: u64,
    told: Instant,
}

impl Receiving<'_> {
    /// One connection: until all of it is there.
    async fn take_all(&mut self, options: &Options, primary: &str) -> Result<(), InstallError> {
        let own = Own {
            identity: Identity {
                primary: primary.to_owned(),
                ..Identity::without_log(&options.name, &options.address)
            },
            token: options.token.clone(),
            timeout: options.timeout,
        };
        let connected = connect(
            primary,
            &options.trust,
            &own,
            Purpose::BaseBackup,
            Vec::new(),
        )
        .await?;
        match connected.verdict {
            Verdict::Stream => {}
            Verdict::Refused { why } => return Err(InstallError::Refused(why)),
            other => return Err(InstallError::Refused(format!("{other:?}"))),
        }
        let at = tokio::task::block_in_place(|| self.open_received_log());
        let have = self.received.have(at);
        let (mut out, mut incoming) = (connected.out, connected.incoming);
        out.send(&ToPrimary::BaseHave(have)).await?;
        loop {
            let message = incoming.receive().await?;
            if tokio::task::block_in_place(|| self.take(message))? {
                return Ok(());
            }
        }
    }

    /// The end of the log that has come behind the files, if any has, and is sound.
    fn open_received_log(&mut self) -> Option<RawPosition> {
        let dir = self.incoming.join("log");
        if !self.received.has_all_files() || !dir.exists() {
            return None;
        }
        match (self.open_log)(&dir, self.config, Lsn::ZERO, true) {
            Ok(log) => {
                let at = log.raw().map(|raw| raw.identity().written);
                self.log = Some(log);
                at
            }
            Err(error) => {
                tracing::warn!(%error, "the log of a base backup that was cut comes again");
                None
            }
        }
    }

    /// Whether it is complete.
    fn take(&mut self, message: ToStandby) -> Result<bool, InstallError> {
        match message {
            ToStandby::BaseBegin {
                epochs,
                start,
                bytes,
                copies,
                goes_on,
                ..
            } => {
                let begun = Begun {
                    history_id: epochs.last().map_or(0, |record| record.history_id),
                    start: start.0,
                    copies,
                };
                self.epochs = epochs;
                self.expected = bytes;
                self.begin(begun, goes_on)?;
            }
            ToStandby::BaseWait => {}
            ToStandby::BaseFile {
                path,
                offset,
                bytes,
                is_last,
                through,
            } => {
                self.came += bytes.len() as u64;
                self.take_file(Piece {
                    path: &path,
                    offset,
                    bytes: &bytes,
                    is_last,
                    through,
                })?;
            }
            ToStandby::BaseEnd { end, goes_on } => {
                self.end = Some(end);
                self.end_files(goes_on)?;
            }
            ToStandby::Segment { header, epoch } => {
                self.came += header.len() as u64;
                self.take_segment(&header, &epoch)?;
            }
            ToStandby::Frames { from, bytes, .. } => {
                self.came += bytes.len() as u64;
                let log = self.log.as_ref().and_then(|log| log.raw());
                let log = log.ok_or_else(|| malformed("frames before their segment"))?;
                log.follow_frames(from, &bytes).map_err(not_followed)?;
                springhead_log::failpoint::hit("standby.base_frames");
            }
            ToStandby::Announce { .. } if self.end.is_some() => return self.complete(),
            _ => return Err(malformed("a message of another conversation")),
        }
        self.tell();
        Ok(false)
    }

    /// Says now and then how far it is.
    fn tell(&mut self) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let (files, there_bytes) = self.received.counts();
        tracing::info!(
            files,
            there_bytes,
            expected_bytes = self.expected,
            received_bytes = self.came,
            "base backup"
        );
    }

    fn begin(&mut self, begun: Begun, goes_on: bool) -> Result<(), InstallError> {
        let (files, there_bytes) = self.received.counts();
        if goes_on {
            tracing::info!(
                files,
                there_bytes,
                expected_bytes = self.expected,
                "the base backup goes on where it was cut"
            );
            self.received.go_on(begun)?;
            return Ok(());
        }
        if files > 0 {
            tracing::warn!(
                files,
                there_bytes,
                "the base backup begins anew: its primary is in another history, or has trimmed the log since"
            );
        }
        self.close_log();
        self.received.begin(begun)?;
        Ok(())
    }

    fn close_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.close();
        }
    }

    fn take_file(&mut self, piece: Piece<'_>) -> Result<(), InstallError> {
        let path = piece.path;
        if !is_allowed(path) {
            return Err(malformed(&format!("a file called {path}")));
        }
        let taken = self.received.take(piece);
        let is_whole = taken.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => malformed(&format!("{path}: {error}")),
            _ => error.into(),
        })?;
        springhead_log::failpoint::hit("standby.base_chunk");
        if is_whole {
            springhead_log::failpoint::hit("standby.base_file");
        }
        Ok(())
    }

    /// The files are there; the log that there may be goes on, or comes from its beginning.
    fn end_files(&mut self, goes_on: bool) -> Result<(), InstallError> {
        if goes_on && self.log.is_none() {
            return Err(malformed("the rest of a log that is not here"));
        }
        if !goes_on {
            self.close_log();
            remove_dir(&self.incoming.join("log"))?;
        }
        self.received.end_files()?;
        Ok(())
    }

    fn take_segment(&mut self, header: &[u8], epoch: &EpochRecord) -> Result<(), InstallError> {
        let dir = self.incoming.join("log");
        match &self.log {
            None => {
                let segment_bytes = self.config.segment_log().segment_bytes;
                springhead_log::segment::begin_copy(
                    &RealDisk,
                    &dir,
                    segment_bytes,
                    &self.epochs,
                    header,
                )?;
                self.log = Some((self.open_log)(&dir, self.config, Lsn::ZERO, true)?);
            }
            Some(log) => {
                let raw = log.raw().ok_or_else(|| malformed("no log of segments"))?;
                raw.follow_segment(header, epoch).map_err(not_followed)?;
            }
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<bool, InstallError> {
        let end = self.end.unwrap_or(Lsn::ZERO);
        let log = self.log.as_ref().and_then(|log| log.raw());
        let flushed = log
            .ok_or_else(|| malformed("it has no log"))?
            .follow_flush()
            .map_err(not_followed)?;
        if flushed.lsn < end {
            return Err(malformed(&format!(
                "its log ends at LSN {}, before {end}",
                flushed.lsn
            )));
        }
        Ok(true)
    }
}

/// Forgets a base backup that was not received in full, since the node needs none any more.
///
/// # Errors
/// What the disk says.
pub fn forget(data_dir: &Path) -> io::Result<()> {
    let incoming = data_dir.join(INCOMING);
    if incoming.join(COMPLETE).exists() {
        return Ok(());
    }
    remove_dir(&incoming)
}

/// Completes a base backup that was received in full; one that was not is kept if it can go on.
///
/// # Errors
/// What the disk says; a repetition goes on.
pub fn finish(data_dir: &Path) -> io::Result<()> {
    let incoming = data_dir.join(INCOMING);
    if !incoming.join(COMPLETE).exists() {
        if incoming.join(RECEIVED).exists() {
            return Ok(());
        }
        return remove_dir(&incoming);
    }
    keep_diverged(&data_dir.join("log"), &incoming.join("log"))?;
    for name in ["tenants", "log"] {
        let (from, to) = (incoming.join(name), data_dir.join(name));
        if from.exists() {
            remove_dir(&to)?;
            std::fs::rename(&from, &to)?;
            sync_dir(data_dir)?;
            springhead_log::failpoint::hit("standby.base_moved");
        }
    }
    if incoming.join("secret.key").exists() {
        std::fs::rename(incoming.join("secret.key"), data_dir.join("secret.key"))?;
    }
    // They say how far others are in a log that is gone.
    match std::fs::remove_file(data_dir.join("standbys.json")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync_dir(data_dir)?;
    remove_dir(&incoming)
}

/// What was cut off the old log stays with the new one.
fn keep_diverged(old: &Path, new: &Path) -> io::Result<()> {
    if !old.exists() || !new.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(old)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("diverged-") {
            std::fs::rename(entry.path(), new.join(entry.file_name()))?;
        }
    }
    sync_dir(new)
}

/// Only what a base backup consists of: whatever a path says, nothing else is written to.
fn is_allowed(path: &str) -> bool {
    let tenant = path
        .strip_prefix("tenants/")
        .and_then(|rest| rest.strip_suffix("/state.db"));
    path == "secret.key"
        || tenant.is_some_and(|id| id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_digit()))
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_dir(dir)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the log said of bytes that were to follow: the sender's fault, or the disk's.
fn not_followed(error: FollowError) -> InstallError {
    match error {
        FollowError::Append(error) => io::Error::other(error).into(),
        other => malformed(&other.to_string()),
    }
}

fn malformed(what: &str) -> InstallError {
    InstallError::Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_a_base_backup_writes_nowhere_else() {
        for (path, allowed) in [
            ("tenants/0000000001/state.db", true),
            ("secret.key", true),
            ("tenants/../../x/state.db", false),
            ("tenants/000000000a/state.db", false),
            ("/etc/passwd", false),
            ("tenants/0000000001/state.db/..", false),
            ("log/x", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(path), allowed, "{path}");
        }
    }

    #[test]
    fn g12_an_interrupted_install_is_forgotten_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in [
            "log",
            "tenants/0000000001",
            "incoming/log",
            "incoming/tenants/0000000001",
        ] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("log/old"), b"").unwrap();
        std::fs::create_dir_all(at("log/diverged-1-2-x")).unwrap();
        std::fs::write(at("incoming/log/new"), b"").unwrap();
        // Not complete, with nothing to go on from: as if it had never begun.
        finish(dir.path()).unwrap();
        assert!(at("log/old").exists() && !at("incoming").exists());
        // With something, it is kept until nobody needs it.
        std::fs::create_dir_all(at("incoming/log")).unwrap();
        std::fs::write(at("incoming/RECEIVED"), b"").unwrap();
        finish(dir.path()).unwrap();
        assert!(at("log/old").exists() && at("incoming/log").exists());
        forget(dir.path()).unwrap();
        assert!(at("log/old").exists() && !at("incoming").exists());
        // Complete, and interrupted after the first of its directories was moved.
        std::fs::create_dir_all(at("incoming/log")).unwrap();
        std::fs::write(at("incoming/log/new"), b"").unwrap();
        std::fs::write(at("incoming/COMPLETE"), b"").unwrap();
        finish(dir.path()).unwrap();
        assert!(at("log/new").exists() && !at("log/old").exists());
        assert!(at("log/diverged-1-2-x").exists());
        assert!(at("tenants/0000000001").exists() && !at("incoming").exists());
    }
}
