//! Keeps sealed segments elsewhere, as they come: in a directory, or by a command.
//!
//! ```text
//! archive/<history id, 32 hex>/epochs                          the histories up to that one
//! archive/<history id>/<first LSN>-<number>-<last crc>.seg     a segment, up to its last frame
//! data_dir/archived                                            how far the archive has come
//! ```
//!
//! Names say what is in the file, so that two nodes may archive into one place, again and again:
//! the same segment goes to the same name, a longer or a differing one beside it. Retention waits for
//! the archive up to a cap (a pin); past it the log is trimmed, and the archive has a gap, which is
//! said.
//!
//! `node` runs [`run`]; the status shows [`Status`].

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use springhead_log::segment::encode_epochs;
use springhead_log::{Log, Pin, RawLimit, RawLog, RawSegment};
use springhead_proto::Lsn;

use super::{BackupError, io_error, sync_dir};
use crate::config::Config;
use crate::node::NodeState;

/// How often it is looked for sealed segments.
const INTERVAL: Duration = Duration::from_secs(1);
const STATE_NAME: &str = "archived";
const PIN_NAME: &str = "archive";
const READ_BYTES: u64 = 1 << 20;

/// How archiving goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Every commit up to it is archived, unless there are gaps.
    pub lsn: Lsn,
    /// Segments archived since the start.
    pub segments: u64,
    /// Attempts that failed since the last success.
    pub failures: u64,
    /// Why the last one failed.
    pub error: Option<String>,
    /// Times that log was trimmed before it was archived.
    pub gaps: u64,
}

/// The last segment that was archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Archived {
    history_id: String,
    segment: u32,
    lsn: u64,
}

/// Archives until the node stops, if the configuration asks for it.
pub async fn run(node: Arc<NodeState>) {
    let Some(place) = Place::of(&node.config) else {
        return;
    };
    let archiver = Arc::new(Mutex::new(Archiver::new(place, &node)));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (archiver, log) = (Arc::clone(&archiver), Arc::clone(node.engine.log()));
        let pass = tokio::task::spawn_blocking(move || archiver.lock().pass(log.as_ref()));
        if let Err(error) = pass.await {
            tracing::error!(%error, "archiving panicked; it is tried again");
        }
    }
}

/// Where segments go.
#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Command { line: String, timeout: Duration },
}

impl Place {
    fn of(config: &Config) -> Option<Place> {
        if !config.archive_command.is_empty() {
            return Some(Place::Command {
                line: config.archive_command.clone(),
                timeout: config.archive_command_timeout,
            });
        }
        let dir = &config.archive_dir;
        (!dir.is_empty()).then(|| Place::Directory(PathBuf::from(dir)))
    }
}

/// See the module's text. One thread at a time.
pub struct Archiver {
    place: Place,
    data_dir: PathBuf,
    pin_cap_bytes: u64,
    /// An unsealed segment is sealed after this long.
    timeout: Option<Duration>,
    last: Option<Archived>,
    /// Of the node, for its status.
    status: Arc<Mutex<Status>>,
    /// When the active segment was first seen with frames in it, and which it was.
    unsealed: Option<(u32, Instant)>,
}

impl Archiver {
    fn new(place: Place, node: &NodeState) -> Archiver {
        let config = &node.config;
        let data_dir = config.data_dir.clone();
        let last = load_state(&data_dir);
        Archiver {
            place,
            data_dir,
            pin_cap_bytes: config.archive_pin_cap_bytes.0,
            timeout: config.archive_timeout,
            last,
            status: Arc::clone(&node.archive),
            unsealed: None,
        }
    }

    /// Archives what has been sealed since the last pass.
    fn pass(&mut self, log: &dyn Log) {
        let Some(raw) = log.raw() else { return };
        let after = self
            .last
            .as_ref()
            .map_or(log.earliest().previous(), |last| Lsn(last.lsn));
        self.pin(log, after);
        self.seal(raw);
        for segment in raw.segments() {
            if !segment.sealed || !self.is_new(&segment) {
                continue;
            }
            self.note_gap(&segment);
            match self.archive(raw, &segment) {
                Ok(()) => self.succeeded(log, &segment),
                Err(error) => {
                    tracing::warn!(%error, segment = %segment.file_name, "a segment could not be archived; it is tried again");
                    let mut status = self.status.lock();
                    status.failures += 1;
                    status.error = Some(error.to_string());
                    return;
                }
            }
        }
    }

    fn pin(&self, log: &dyn Log, after: Lsn) {
        let pin = Pin {
            name: PIN_NAME.to_owned(),
            after,
            cap_bytes: self.pin_cap_bytes,
        };
        log.set_pin(PIN_NAME, Some(pin));
    }

    /// Seals the active segment once it has held frames for long enough.
    fn seal(&mut self, raw: &dyn RawLog) {
        let Some(timeout) = self.timeout else { return };
        let segments = raw.segments();
        let Some(active) = segments.last() else {
            return;
        };
        let is_empty = active.end.lsn == active.start.lsn;
        match self.unsealed {
            _ if is_empty => self.unsealed = None,
            Some((number, since)) if number == active.start.segment => {
                if since.elapsed() >= timeout {
                    if let Err(error) = raw.seal() {
                        tracing::warn!(%error, "the segment could not be sealed for the archive");
                    }
                    self.unsealed = None;
                }
            }
            _ => self.unsealed = Some((active.start.segment, Instant::now())),
        }
    }

    fn is_new(&self, segment: &RawSegment) -> bool {
        self.last
            .as_ref()
            .is_none_or(|last| segment.start.segment > last.segment)
    }

    fn note_gap(&self, segment: &RawSegment) {
        let expected = self.last.as_ref().map(|last| last.segment + 1);
        if expected.is_some_and(|expected| segment.start.segment > expected) {
            tracing::error!(
                missing = expected,
                found = segment.start.segment,
                "log was trimmed before it was archived: the archive has a gap; make a new backup"
            );
            self.status.lock().gaps += 1;
        }
    }

    fn succeeded(&mut self, log: &dyn Log, segment: &RawSegment) {
        let archived = Archived {
            history_id: format!("{:032x}", segment.epoch.history_id),
            segment: segment.start.segment,
            lsn: segment.end.lsn.0,
        };
        if let Err(error) = store_state(&self.data_dir, &archived) {
            // It is archived again after a start, to the same name.
            tracing::warn!(%error, "could not write down how far the archive has come");
        }
        self.last = Some(archived);
        self.pin(log, segment.end.lsn);
        let mut status = self.status.lock();
        status.lsn = segment.end.lsn;
        status.segments += 1;
        status.failures = 0;
        status.error = None;
    }

    fn archive(&self, raw: &dyn RawLog, segment: &RawSegment) -> Result<(), BackupError> {
        let history = format!("{:032x}", segment.epoch.history_id);
        let stem = segment.file_name.strip_suffix(".seg");
        let stem = stem.unwrap_or(&segment.file_name);
        let name = format!("{stem}-{:08x}.seg", segment.end.crc);
        let identity = raw.identity();
        let known: Vec<_> = identity
            .epochs
            .iter()
            .take_while(|record| record.number <= segment.epoch.number)
            .copied()
            .collect();
        let epochs = encode_epochs(identity.cluster_id, &known);
        match &self.place {
            Place::Directory(dir) => {
                let dir = dir.join(history);
                std::fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
                if let Some(parent) = dir.parent() {
                    sync_dir(parent)?;
                }
                keep(&dir, "epochs", |file| file.write_all(&epochs))?;
                if dir.join(&name).exists() {
                    return Ok(());
                }
                keep(&dir, &name, |file| copy_segment(raw, segment, file))
            }
            Place::Command { line, timeout } => {
                let send = |name: &str, write: &mut Filler<'_>| {
                    let dir = self.data_dir.join("tmp");
                    std::fs::create_dir_all(&dir)
                        .map_err(|error| io_error("create", &dir, error))?;
                    let file_name = format!("archive-{}", name.rsplit('/').next().unwrap_or(name));
                    keep(&dir, &file_name, write)?;
                    let path = dir.join(file_name);
                    let ran = run_command(line, &path, name, *timeout);
                    // What stays is removed at the next start.
                    let _ = std::fs::remove_file(&path);
                    ran
                };
                send(&format!("{history}/epochs"), &mut |file| {
                    file.write_all(&epochs)
                })?;
                send(&format!("{history}/{name}"), &mut |file| {
                    copy_segment(raw, segment, file)
                })
            }
        }
    }
}

type Filler<'a> = dyn FnMut(&mut File) -> std::io::Result<()> + 'a;

/// Writes a file under a temporary name, and gives it its own once it is durable.
fn keep(
    dir: &Path,
    name: &str,
    mut write: impl FnMut(&mut File) -> std::io::Result<()>,
) -> Result<(), BackupError> {
    let temporary = dir.join(format!("{name}.tmp"));
    let path = dir.join(name);
    let written = File::create(&temporary).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()?;
        springhead_log::failpoint::hit("archive.before_rename");
        std::fs::rename(&temporary, &path)
    });
    written.map_err(|error| io_error("write", &path, error))?;
    sync_dir(dir)
}

/// Writes a segment's header and frames.
fn copy_segment(raw: &dyn RawLog, segment: &RawSegment, file: &mut File) -> std::io::Result<()> {
    let mut reader = raw
        .raw_reader(segment.start, RawLimit::Durable)
        .map_err(std::io::Error::other)?;
    let mut written = 0;
    while written < segment.end.offset {
        let mut items = Vec::new();
        let budget = READ_BYTES.min(segment.end.offset - written);
        reader
            .read(&mut items, budget)
            .map_err(std::io::Error::other)?;
        for item in &items {
            if item.next().segment != segment.start.segment {
                break;
            }
            file.write_all(item.bytes())?;
            written += item.bytes().len() as u64;
        }
        if items.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Runs the command for one file and waits for it.
fn run_command(line: &str, path: &Path, name: &str, timeout: Duration) -> Result<(), BackupError> {
    let failed = |what: String| BackupError::Target(format!("archive_command for {name}: {what}"));
    let path = path
        .to_str()
        .ok_or_else(|| failed("the path is no UTF-8".to_owned()))?;
    // A group of its own, so that what it starts can be ended with it.
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(expand(line, path, name))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(format!("could not be started: {error}")))?;
    let pid = Pid::from_child(&child);
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Whoever waited may have given up.
        let _ = ended.send(child.wait());
    });
    match end.recv_timeout(timeout) {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("ended with {status}"))),
        Ok(Err(error)) => Err(failed(format!("could not be waited for: {error}"))),
        Err(_) => {
            // It may just have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = end.recv();
            Err(failed(format!("took more than {} s", timeout.as_secs())))
        }
    }
}

/// The command with `%p`, `%f` and `%%` filled in.
fn expand(line: &str, path: &str, name: &str) -> String {
    let mut out = String::new();
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match rest.next() {
            Some('p') => out.push_str(path),
            Some('f') => out.push_str(name),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

fn load_state(data_dir: &Path) -> Option<Archived> {
    let bytes = std::fs::read(data_dir.join(STATE_NAME)).ok()?;
    // Unreadable, everything is archived again, to the same names.
    serde_json::from_slice(&bytes).ok()
}

fn store_state(data_dir: &Path, archived: &Archived) -> Result<(), BackupError> {
    let bytes = serde_json::to_vec(archived).expect("it has only strings as keys");
    keep(data_dir, STATE_NAME, |file| file.write_all(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_placeholders_are_filled_in() {
        for (line, expected) in [
            ("cp %p /a/%f", "cp /x/y /a/h/n.seg"),
            ("echo 100%%", "echo 100%"),
            ("%q %", "%q %"),
        ] {
            assert_eq!(expand(line, "/x/y", "h/n.seg"), expected);
        }
    }

    #[test]
    fn a_command_that_fails_or_hangs_is_told() {
        let (path, wait) = (Path::new("/x"), Duration::from_secs(10));
        run_command("true", path, "n", wait).expect("succeeds");
        let failed = run_command("exit 3", path, "n", wait).expect_err("fails");
        assert!(failed.to_string().contains("exit status: 3"), "{failed}");
        let hung = run_command("sleep 100", path, "n", Duration::from_millis(50));
        assert!(
            hung.expect_err("hangs")
                .to_string()
                .contains("took more than")
        );
    }
}
