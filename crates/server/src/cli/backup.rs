//! `springhead backup` and `springhead restore`: from a running server over HTTP, or of a data
//! directory that nobody serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use springhead_engine::Engine;
use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Log, NoProgress, Progress as _, SystemClock};
use springhead_proto::{Lsn, TimestampMs};

use super::http_client::{Response, Target, get};
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES, Progress, client, local_config};
use crate::backup::manifest::{self, Manifest};
use crate::backup::restore::{self, Request, Restored, Steps};
use crate::backup::store::Store;
use crate::backup::{BackupError, Piece, source, tar};
use crate::lock::DataDir;
use crate::node::SystemEntropy;

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// Where to put it: a new or an empty directory
    #[arg(value_name = "DIR", required = true)]
    dir: Option<PathBuf>,
    /// The server to back up [default: the local one]
    #[arg(long, value_name = "http[s]://HOST:PORT", conflicts_with = "data_dir")]
    url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Back up this data directory, which no server has open, in place of a running server
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Restore it into a temporary directory beside it to see that it can be
    #[arg(long)]
    verify: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum BackupCommand {
    /// Reads a backup and compares every byte with what was written
    #[command(after_help = EXIT_CODES)]
    Verify {
        /// The backup
        dir: PathBuf,
        /// Restore it into a temporary directory beside it, too
        #[arg(long)]
        restore: bool,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// The data directory to make: a new or an empty one [default: as `serve` would choose it]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Restore every commit that ends at or before this LSN
    #[arg(long, value_name = "LSN", conflicts_with = "to_time")]
    to_lsn: Option<u64>,
    /// Restore every commit made at or before this time, as in 2026-11-27T03:00:00Z
    #[arg(long, value_name = "TIME")]
    to_time: Option<String>,
    /// A directory with more log than the backup's: an archive, or the log of another node; may be
    /// repeated [default: archive_dir, if it is set]
    #[arg(long, value_name = "DIR")]
    archive: Vec<PathBuf>,
    /// The history to follow, where the log goes on in several
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<String>,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> CliError {
        match error {
            BackupError::DataDir(error) => error.into(),
            BackupError::Target(what) => CliError::Failed(what),
            error if error.is_damage() => CliError::Damaged(error.to_string()),
            error => CliError::Failed(error.to_string()),
        }
    }
}

/// Makes a backup, or verifies one.
///
/// # Errors
/// [`CliError`].
pub fn run(args: BackupArgs) -> Result<(), CliError> {
    if let Some(BackupCommand::Verify { dir, restore, json }) = args.command {
        return verify(&dir, restore, json);
    }
    let dir = args.dir.expect("required without a subcommand");
    let manifest = match &args.data_dir {
        Some(data_dir) => of_data_dir(data_dir, &dir)?,
        None => client(download(args.url.as_deref(), &args.tls, &dir))?,
    };
    if args.verify {
        check_by_restoring(&dir)?;
    }
    report(&dir, &manifest, args.json);
    Ok(())
}

fn report(dir: &Path, manifest: &Manifest, json: bool) {
    if json {
        let mut value = serde_json::to_value(manifest).expect("it has only strings as keys");
        if let Some(object) = value.as_object_mut() {
            object.remove("files");
            object.insert("dir".to_owned(), dir.display().to_string().into());
            object.insert("bytes".to_owned(), manifest.total_bytes().into());
        }
        println!("{value}");
        return;
    }
    println!(
        "backup in {}: {} MiB, {} tenants, cluster {}, epoch {}\nmade from {} to {}; can be restored to LSN {} ({}) and, with an archive, later ones",
        dir.display(),
        manifest.total_bytes().div_ceil(1 << 20),
        manifest.tenants.len(),
        manifest.cluster_id,
        manifest.epoch,
        manifest.begun_at,
        manifest.ended_at,
        range(manifest),
        time_text(TimestampMs(manifest.end_time_ms)),
    );
}

fn range(manifest: &Manifest) -> String {
    if manifest.consistent_lsn == manifest.end_lsn {
        manifest.end_lsn.to_string()
    } else {
        format!("{} to {}", manifest.consistent_lsn, manifest.end_lsn)
    }
}

fn time_text(time: TimestampMs) -> String {
    i64::try_from(time.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{} ms", time.0), |time| time.to_string())
}

/// Opens a stopped node's engine, which recovers it, and backs it up.
fn of_data_dir(data_dir: &Path, dir: &Path) -> Result<Manifest, CliError> {
    let config = local_config(Some(&data_dir.to_owned()))?;
    let locked = DataDir::open(&config.data_dir)?;
    let known_durable =
        springhead_engine::state::highest_applied(&config.data_dir).map_err(engine_error)?;
    let progress = Progress::new("recovering the log");
    let settings = SegmentConfig {
        known_durable,
        ..config.segment_log()
    };
    let clock = Arc::new(SystemClock);
    let disk = Arc::new(RealDisk);
    let log = SegmentLog::open_on(disk, &locked.log_dir(), settings, clock.clone(), &progress)?;
    drop(progress);
    let log: Arc<dyn Log> = Arc::new(log);
    let engine =
        Engine::open(config.engine(), log, clock, Arc::new(SystemEntropy)).map_err(engine_error)?;
    let mut store = Store::begin(dir)?;
    let progress = Progress::new("backing up");
    let mut about = 0;
    let made = source::produce(&engine, u64::MAX, &mut |piece| {
        learn_total(&piece, &mut about);
        store.take(piece)?;
        progress.report(store.written_bytes(), about.max(store.written_bytes()));
        Ok(())
    });
    engine.shutdown();
    made?;
    Ok(store.finish()?)
}

fn engine_error(error: springhead_engine::EngineError) -> CliError {
    CliError::Node(error.into())
}

/// The first file says about how much there is.
fn learn_total(piece: &Piece, about: &mut u64) {
    if let Piece::Data(bytes) = piece
        && *about == 0
    {
        let said = serde_json::from_slice::<serde_json::Value>(bytes).ok();
        *about = said
            .and_then(|said| said["about_bytes"].as_u64())
            .unwrap_or(1);
    }
}

/// Takes a backup from a running server.
async fn download(url: Option<&str>, tls: &TlsArgs, dir: &Path) -> Result<Manifest, CliError> {
    let target = Target::read(url, tls)?;
    let unreachable = |error| CliError::Unreachable(format!("{}: {error}", target.host_port));
    let answer = get(&target, "/v1/backup", &[]).await.map_err(unreachable)?;
    if answer.status != 200 {
        let status = answer.status;
        let body = answer.body().await.map_err(unreachable)?;
        return Err(CliError::Failed(format!(
            "the server answered {status}: {body}"
        )));
    }
    let mut store = Store::begin(dir)?;
    let progress = Progress::new("backing up");
    unpack(answer, &mut store, &progress)
        .await
        .map_err(|error| match error {
            Unpack::Io(error) => CliError::Unreachable(format!(
                "{}: {error}; the backup is not whole, make it again",
                target.host_port
            )),
            Unpack::Backup(error) => error.into(),
        })?;
    Ok(store.finish()?)
}

enum Unpack {
    Io(std::io::Error),
    Backup(BackupError),
}

impl From<std::io::Error> for Unpack {
    fn from(error: std::io::Error) -> Unpack {
        Unpack::Io(error)
    }
}

impl From<BackupError> for Unpack {
    fn from(error: BackupError) -> Unpack {
        Unpack::Backup(error)
    }
}

async fn unpack(
    mut answer: Response,
    store: &mut Store,
    progress: &Progress,
) -> Result<(), Unpack> {
    let broken = |what| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut about = 0;
    loop {
        let mut block = [0; tar::BLOCK];
        answer.exactly(&mut block).await?;
        let Some((path, bytes)) = tar::read_header(&block).map_err(broken)? else {
            return Ok(());
        };
        store.take(Piece::File { path, bytes })?;
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(256 << 10);
            let piece = Piece::Data(answer.some_of(most).await?.into());
            learn_total(&piece, &mut about);
            if let Piece::Data(bytes) = &piece {
                left -= bytes.len() as u64;
            }
            store.take(piece)?;
            progress.report(store.written_bytes(), about.max(store.written_bytes()));
        }
        let mut padding = vec![0; tar::padding(bytes)];
        answer.exactly(&mut padding).await?;
    }
}

fn verify(dir: &Path, restoring: bool, json: bool) -> Result<(), CliError> {
    let progress = Progress::new("verifying the backup");
    let (manifest, problems) = manifest::verify(dir, &progress)?;
    drop(progress);
    if problems.is_empty() && restoring {
        check_by_restoring(dir)?;
    }
    if json {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        println!(
            "{}",
            json!({
                "dir": dir.display().to_string(),
                "files": manifest.files.len(),
                "bytes": manifest.total_bytes(),
                "consistent_lsn": manifest.consistent_lsn,
                "end_lsn": manifest.end_lsn,
                "problems": problems,
            })
        );
    } else {
        for problem in &problems {
            println!("damage: {problem}");
        }
        if problems.is_empty() {
            report(dir, &manifest, false);
            println!(
                "sound: {} files are as they were written",
                manifest.files.len()
            );
        }
    }
    match problems.len() {
        0 => Ok(()),
        count => Err(CliError::Damaged(format!(
            "the backup is damaged in {count} file{}",
            if count == 1 { "" } else { "s" }
        ))),
    }
}

/// Restores a backup into a directory beside it, which is removed again.
fn check_by_restoring(dir: &Path) -> Result<(), CliError> {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".verify-{}", std::process::id()));
    let place = PathBuf::from(name);
    let config = local_config(Some(&place))?;
    let request = Request {
        backup: dir.to_owned(),
        more: Vec::new(),
        target: restore::Target::End,
        epoch: None,
    };
    let restored = restore::restore(&config, &request, &Quietly);
    let removed = std::fs::remove_dir_all(&place);
    restored?;
    removed.map_err(|error| CliError::Failed(format!("remove {}: {error}", place.display())))
}

struct Quietly;

impl Steps for Quietly {
    fn begin(&self, _what: &'static str) -> Box<dyn springhead_log::Progress> {
        Box::new(NoProgress)
    }
}

struct Shown;

impl Steps for Shown {
    fn begin(&self, what: &'static str) -> Box<dyn springhead_log::Progress> {
        Box::new(Progress::new(what))
    }
}

/// Restores a backup into a data directory.
///
/// # Errors
/// [`CliError`].
pub fn run_restore(args: RestoreArgs) -> Result<(), CliError> {
    let config = local_config(args.data_dir.as_ref())?;
    let target = match (args.to_lsn, &args.to_time) {
        (Some(lsn), _) => restore::Target::Lsn(Lsn(lsn)),
        (None, Some(time)) => restore::Target::Time(read_time(time)?),
        (None, None) => restore::Target::End,
    };
    let mut more = args.archive;
    if more.is_empty() && !config.archive_dir.is_empty() {
        more.push(PathBuf::from(&config.archive_dir));
    }
    let request = Request {
        backup: args.backup,
        more,
        target,
        epoch: args.epoch,
    };
    let restored = restore::restore(&config, &request, &Shown)?;
    if args.json {
        println!("{}", restored_json(&restored, &config.data_dir));
    } else {
        println!(
            "restored {} tenants to LSN {} ({}) of epoch {} in {}\nit goes on as epoch {}: cursors of {} past LSN {} are refused",
            restored.tenants,
            restored.lsn,
            time_text(restored.timestamp_ms),
            restored.from_epoch.epoch,
            config.data_dir.display(),
            restored.epoch.epoch,
            restored.from_epoch.epoch,
            restored.epoch.fork_lsn,
        );
    }
    Ok(())
}

fn restored_json(restored: &Restored, data_dir: &Path) -> serde_json::Value {
    json!({
        "data_dir": data_dir.display().to_string(),
        "lsn": restored.lsn.0,
        "timestamp_ms": restored.timestamp_ms.0,
        "from_epoch": restored.from_epoch.epoch.to_string(),
        "epoch": restored.epoch.epoch.to_string(),
        "fork_lsn": restored.epoch.fork_lsn.0,
        "tenants": restored.tenants,
    })
}

fn read_time(text: &str) -> Result<TimestampMs, CliError> {
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        CliError::Usage(format!(
            "--to-time {text}: expected a time with its zone, as in 2026-11-27T03:00:00Z"
        ))
    })?;
    // The commits of a batch have its time in whole milliseconds.
    u64::try_from(time.as_millisecond())
        .map(TimestampMs)
        .map_err(|_| CliError::Usage(format!("--to-time {text}: expected a time after 1970")))
}
