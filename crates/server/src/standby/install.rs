//! A base backup, on the side that takes it: everything goes into a directory beside the data, and
//! takes its place at once when it is complete. Interrupted before that, it starts over; after that,
//! the next start finishes it.
//!
//! ```text
//! data/incoming/tenants, log, secret.key     being received
//! data/incoming/COMPLETE                     from here on it is in force
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_log::disk::RealDisk;
use springhead_log::{EpochRecord, Log, LogError};
use springhead_proto::Lsn;

use super::Options;
use super::channel::ChannelError;
use super::files::{sync_dir, write_durably};
use super::handshake::{HandshakeError, Own, connect};
use super::life::OpenLog;
use super::wire::{Identity, Purpose, ToStandby, Verdict};
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

/// Takes a base backup from the node at `primary`, into the place of whatever is there.
///
/// # Errors
/// [`InstallError`]; what was there is still there.
pub async fn take(
    config: &Config,
    options: &Options,
    primary: &str,
    open_log: &OpenLog,
) -> Result<(), InstallError> {
    let incoming = options.data_dir.join(INCOMING);
    remove_dir(&incoming)?;
    std::fs::create_dir_all(&incoming)?;
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
    let mut receiving = Receiving {
        config,
        open_log,
        incoming: incoming.clone(),
        epochs: Vec::new(),
        file: None,
        log: None,
        end: None,
        received: 0,
        expected: 0,
        told: Instant::now(),
    };
    let mut incoming_messages = connected.incoming;
    loop {
        let message = incoming_messages.receive().await?;
        let is_complete = tokio::task::block_in_place(|| receiving.take(message))?;
        if is_complete {
            break;
        }
    }
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
    tracing::info!(
        bytes = receiving.received,
        end = receiving.end.unwrap_or(Lsn::ZERO).0,
        "the base backup is in place"
    );
    Ok(())
}

struct Receiving<'a> {
    config: &'a Config,
    open_log: &'a OpenLog,
    incoming: PathBuf,
    epochs: Vec<EpochRecord>,
    file: Option<(String, File, u64)>,
    log: Option<Arc<dyn Log>>,
    end: Option<Lsn>,
    received: u64,
    expected: u64,
    told: Instant,
}

impl Receiving<'_> {
    /// Whether it is complete.
    fn take(&mut self, message: ToStandby) -> Result<bool, InstallError> {
        match message {
            ToStandby::BaseBegin { epochs, bytes, .. } => {
                self.epochs = epochs;
                self.expected = bytes;
            }
            ToStandby::BaseFile {
                path,
                offset,
                bytes,
                is_last,
            } => {
                self.received += bytes.len() as u64;
                self.take_file(&path, offset, &bytes, is_last)?;
            }
            ToStandby::BaseEnd { end } => self.end = Some(end),
            ToStandby::Segment { header, epoch } => {
                self.received += header.len() as u64;
                self.take_segment(&header, &epoch)?;
            }
            ToStandby::Frames { from, bytes, .. } => {
                self.received += bytes.len() as u64;
                let log = self.log.as_ref().and_then(|log| log.raw());
                let log = log.ok_or_else(|| malformed("frames before their segment"))?;
                log.follow_frames(from, &bytes)
                    .map_err(|error| malformed(&error.to_string()))?;
            }
            ToStandby::Announce { .. } if self.end.is_some() => return self.complete(),
            _ => return Err(malformed("a message of another conversation")),
        }
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            tracing::info!(
                received_bytes = self.received,
                expected_bytes = self.expected,
                "base backup"
            );
        }
        Ok(false)
    }

    fn take_file(
        &mut self,
        path: &str,
        offset: u64,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), InstallError> {
        if !is_allowed(path) {
            return Err(malformed(&format!("a file called {path}")));
        }
        if offset == 0 {
            let to = self.incoming.join(path);
            std::fs::create_dir_all(to.parent().unwrap_or(&self.incoming))?;
            self.file = Some((path.to_owned(), create_private(&to)?, 0));
        }
        match &mut self.file {
            Some((open, file, length)) if open == path && *length == offset => {
                file.write_all(bytes)?;
                *length += bytes.len() as u64;
            }
            _ => return Err(malformed("a file's bytes out of order")),
        }
        if is_last && let Some((_, file, _)) = self.file.take() {
            file.sync_all()?;
            springhead_log::failpoint::hit("standby.base_file");
        }
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
                raw.follow_segment(header, epoch)
                    .map_err(|error| malformed(&error.to_string()))?;
            }
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<bool, InstallError> {
        let end = self.end.unwrap_or(Lsn::ZERO);
        let log = self.log.take().ok_or_else(|| malformed("it has no log"))?;
        let flushed = log
            .raw()
            .ok_or_else(|| malformed("no log of segments"))?
            .follow_flush()
            .map_err(|error| malformed(&error.to_string()))?;
        log.close();
        if flushed.lsn < end {
            return Err(malformed(&format!(
                "its log ends at LSN {}, before {end}",
                flushed.lsn
            )));
        }
        Ok(true)
    }
}

/// Completes a base backup that was received in full, or forgets one that was not.
///
/// # Errors
/// What the disk says; a repetition goes on.
pub fn finish(data_dir: &Path) -> io::Result<()> {
    let incoming = data_dir.join(INCOMING);
    if !incoming.join(COMPLETE).exists() {
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

fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
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
        // Not complete: as if it had never begun.
        finish(dir.path()).unwrap();
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
