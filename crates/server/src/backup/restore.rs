//! Makes a data directory of a backup and the log beyond it, as it was at an LSN or a time.
//!
//! ```text
//! verify the backup ─► copy its states ─► follow its log and what goes on from it, each frame
//!   checked, up to the target ─► cut within the last batch if need be ─► begin a history of its own
//!   ─► replay every tenant, as recovery does ─► the directory can be served
//! ```
//!
//! The new history names the LSN at which it forked: a cursor of the old one past it is refused, and
//! one before it stays valid. Commits are restored whole: one that the target lies within is left out.
//! Until the last step the directory says that it is being restored, and no server takes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use springhead_engine::{Engine, EngineConfig};
use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentConfig, SegmentLog, begin_copy, truncate};
use springhead_log::{EpochRecord, Log, LogError, Progress, RawIdentity, RawLog, SystemClock};
use springhead_proto::{Lsn, TimestampMs};

use super::lineage::{Lineage, Next};
use super::manifest::{self, Manifest};
use super::{BackupError, io_error, sync_dir};
use crate::config::Config;
use crate::lock::DataDir;
use crate::node::SystemEntropy;

/// How far to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As far as there is log.
    End,
    /// Every commit that ends at or before it.
    Lsn(Lsn),
    /// Every commit of a batch at or before it.
    Time(TimestampMs),
}

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct Request {
    pub backup: PathBuf,
    /// Directories with more log: archives, logs of other nodes.
    pub more: Vec<PathBuf>,
    pub target: Target,
    /// The history to follow, where the log goes on in several.
    pub epoch: Option<String>,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The last LSN of the restored log: the fork of the new history.
    pub lsn: Lsn,
    /// The time of the last batch in it.
    pub timestamp_ms: TimestampMs,
    /// The history that it was restored from.
    pub from_epoch: EpochRecord,
    /// The history that the node goes on in.
    pub epoch: EpochRecord,
    /// Tenants, the system's own included.
    pub tenants: u64,
}

/// Told how far each step has come.
pub trait Steps {
    /// A step begins.
    fn begin(&self, what: &'static str) -> Box<dyn Progress>;
}

/// Restores into `config.data_dir`, which is made, is empty, or holds a restore that was interrupted.
/// Blocks.
///
/// # Errors
/// [`BackupError`]; the directory then says that it is being restored, and can be restored into again.
pub fn restore(
    config: &Config,
    request: &Request,
    steps: &dyn Steps,
) -> Result<Restored, BackupError> {
    let progress = steps.begin("verifying the backup");
    let (manifest, mut problems) = manifest::verify(&request.backup, progress.as_ref())?;
    drop(progress);
    if !problems.is_empty() {
        return Err(problems.remove(0));
    }
    check_target(&manifest, request.target)?;
    let (data_dir, finish) = DataDir::open_to_restore(&config.data_dir)?;
    let progress = steps.begin("copying states");
    copy_states(
        &request.backup,
        &config.data_dir,
        &manifest,
        progress.as_ref(),
    )?;
    springhead_log::failpoint::hit("restore.states_copied");
    let progress = steps.begin("restoring the log");
    let log_dir = data_dir.log_dir();
    let end = follow(config, request, &manifest, &log_dir, progress.as_ref())?;
    springhead_log::failpoint::hit("restore.log_restored");
    let progress = steps.begin("replaying");
    let restored = replay(config, &log_dir, end, progress.as_ref())?;
    springhead_log::failpoint::hit("restore.replayed");
    finish.whole()?;
    drop(data_dir);
    Ok(restored)
}

fn check_target(manifest: &Manifest, target: Target) -> Result<(), BackupError> {
    match target {
        Target::Lsn(lsn) if lsn.0 < manifest.consistent_lsn => Err(too_early(manifest)),
        _ => Ok(()),
    }
}

fn too_early(manifest: &Manifest) -> BackupError {
    BackupError::Target(format!(
        "this backup can be restored to LSN {} and later ones (it was made from {} to {}); for an earlier one take an older backup",
        manifest.consistent_lsn, manifest.begun_at, manifest.ended_at
    ))
}

fn copy_states(
    backup: &Path,
    data_dir: &Path,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Result<(), BackupError> {
    let states = || {
        let files = manifest.files.iter();
        files.filter(|file| file.path.starts_with("tenants/"))
    };
    let total = states().map(|file| file.bytes).sum();
    let mut done = 0;
    for file in states() {
        let (from, to) = (backup.join(&file.path), data_dir.join(&file.path));
        let dir = to.parent().expect("it lies in the directory");
        std::fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        std::fs::copy(&from, &to)
            .and_then(|_| std::fs::File::open(&to)?.sync_all())
            .map_err(|error| io_error("copy to", &to, error))?;
        sync_dir(dir)?;
        done += file.bytes;
        progress.report(done, total);
    }
    sync_dir(&data_dir.join("tenants"))
}

/// Where the log was restored to.
struct End {
    lsn: Lsn,
    from_epoch: EpochRecord,
}

fn follow(
    config: &Config,
    request: &Request,
    manifest: &Manifest,
    log_dir: &Path,
    progress: &dyn Progress,
) -> Result<End, BackupError> {
    let source = request.backup.join("log");
    let (cluster_id, mut lineage) =
        Lineage::find(&source, &request.more, request.epoch.as_deref())?;
    let settings = SegmentConfig {
        follows: true,
        // A restore goes on as far as the disk does.
        reserve_bytes: 0,
        ..config.segment_log()
    };
    let first = lineage.first(&source)?;
    begin_copy(
        &RealDisk,
        log_dir,
        settings.segment_bytes,
        lineage.records(),
        &first,
    )?;
    let log = SegmentLog::open(log_dir, settings, Arc::new(SystemClock))?;
    debug_assert_eq!(log.identity().cluster_id, cluster_id, "of the header");
    let cut = follow_to(&log, &mut lineage, request.target, |lsn| {
        progress.report(lsn.0, manifest.end_lsn.max(lsn.0));
    })?;
    log.follow_flush()?;
    let RawIdentity {
        written, epochs, ..
    } = log.identity();
    let from_epoch = *epochs.last().expect("a log has a history");
    log.close();
    drop(log);
    let mut lsn = written.lsn;
    if let Some(after) = cut {
        lsn = cut_at(log_dir, after)?;
    }
    if let Target::Lsn(wanted) = request.target
        && written.lsn < wanted
        && cut.is_none()
    {
        return Err(BackupError::Target(format!(
            "there is log up to LSN {} only, of backup and archives together; LSN {wanted} is past it",
            written.lsn
        )));
    }
    if lsn.0 < manifest.consistent_lsn {
        return Err(too_early(manifest));
    }
    Ok(End { lsn, from_epoch })
}

/// Gives the log frames up to the target. Returns where it must be cut if the last frame goes beyond.
fn follow_to(
    log: &SegmentLog,
    lineage: &mut Lineage,
    target: Target,
    mut progress: impl FnMut(Lsn),
) -> Result<Option<Lsn>, BackupError> {
    let mut at = log.identity().written;
    let mut history_id = log.epochs().last().expect("a log has a history").history_id;
    loop {
        // At the target nothing more is wanted, not even a later history that begins there.
        if target == Target::Lsn(at.lsn) {
            return Ok(None);
        }
        match lineage.next(at, history_id)? {
            Next::End => return Ok(None),
            Next::Segment { header, record } => {
                at = log.follow_segment(&header, &record)?;
                history_id = record.history_id;
            }
            Next::Frame(frame) => {
                match target {
                    Target::Time(time) if frame.timestamp_ms > time => return Ok(None),
                    Target::Lsn(lsn) if frame.next.lsn > lsn => {
                        // Some of its commits may stay.
                        log.follow_frames(frame.from, &frame.bytes)?;
                        return Ok(Some(lsn));
                    }
                    _ => {}
                }
                at = log.follow_frames(frame.from, &frame.bytes)?;
                springhead_log::failpoint::hit("restore.frame_followed");
                progress(at.lsn);
            }
        }
    }
}

/// Cuts the log at the last commit that ends at or before `after`.
fn cut_at(log_dir: &Path, after: Lsn) -> Result<Lsn, BackupError> {
    let (after, cut) = match truncate(&RealDisk, log_dir, after) {
        Err(LogError::WithinCommit { first, .. }) => {
            let after = first.previous();
            (after, truncate(&RealDisk, log_dir, after)?)
        }
        cut => (after, cut?),
    };
    // What was cut off is in the backup or the archive that it came from.
    if let Some(cut) = cut {
        std::fs::remove_dir_all(&cut.kept_in)
            .map_err(|error| io_error("remove", &cut.kept_in, error))?;
    }
    Ok(after)
}

fn replay(
    config: &Config,
    log_dir: &Path,
    end: End,
    progress: &dyn Progress,
) -> Result<Restored, BackupError> {
    let known_durable = springhead_engine::state::highest_applied(&config.data_dir)?;
    let settings = SegmentConfig {
        known_durable,
        reserve_bytes: 0,
        ..config.segment_log()
    };
    let log = Arc::new(SegmentLog::open(log_dir, settings, Arc::new(SystemClock))?);
    let tail = log.tail();
    if tail.durable != end.lsn {
        return Err(BackupError::Damaged {
            path: log_dir.to_owned(),
            what: format!("it ends at LSN {}, not {}", tail.durable, end.lsn),
        });
    }
    // Before anything is appended: whatever this node adds is of its own history.
    let epoch = log.begin_epoch()?;
    let engine_config = EngineConfig {
        states_may_be_missing: true,
        ..config.engine()
    };
    let engine = Engine::open_with_progress(
        engine_config,
        Arc::clone(&log) as Arc<dyn Log>,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
        progress,
    )?;
    let tenants = engine.replay_all(progress)?;
    engine.shutdown();
    Ok(Restored {
        lsn: end.lsn,
        timestamp_ms: tail.timestamp_ms,
        from_epoch: end.from_epoch,
        epoch,
        tenants,
    })
}
