//! Makes the pieces of a backup from an engine, while it runs.
//!
//! ```text
//! pin the log at its end B ─► copy each state (all it has up to B, and more) ─► send it
//!   ─► the log's end E ─► send the segments from the one that holds B + 1 up to E ─► manifest
//! ```
//!
//! States are each at an LSN of their own, at most E; replay of the log brings them all to one. A copy
//! lies in the data directory's `tmp/` until it is sent, so that no snapshot is held meanwhile; at most
//! one at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use springhead_engine::Engine;
use springhead_log::segment::encode_epochs;
use springhead_log::{Log, LogError, Pin, RawItem, RawLimit, RawLog, RawSegment};
use springhead_proto::{Lsn, TenantId};

use super::manifest::{FORMAT, FileEntry, Manifest, TenantEntry};
use super::{BackupError, INCOMPLETE_NAME, MANIFEST_NAME, Piece, io_error};

const READ_BYTES: usize = 256 * 1024;

/// Takes the pieces, in order; an error ends the backup.
pub type Sink<'a> = &'a mut dyn FnMut(Piece) -> Result<(), BackupError>;

/// Makes a backup and gives its manifest, which was its last piece. `pin_cap_bytes` of log at most
/// are held back from retention meanwhile. Blocks, as long as `sink` does.
///
/// # Errors
/// Damage in what is read, what the disk says, or what `sink` says.
pub fn produce(
    engine: &Engine,
    pin_cap_bytes: u64,
    sink: Sink<'_>,
) -> Result<Manifest, BackupError> {
    let log = engine.log().as_ref();
    let Some(raw) = log.raw() else {
        return Err(BackupError::Target(
            "the log of this node is no file that could be copied".to_owned(),
        ));
    };
    let start = log.tail().durable;
    let pin = LogPin::set(log, start, pin_cap_bytes);
    let mut out = Writer {
        sink,
        files: Vec::new(),
    };
    let begun_at = now();
    out.announce(engine, raw, &begun_at)?;
    let tenants = copy_states(engine, start, &mut out)?;
    let (end, epoch) = copy_log(raw, start, &mut out)?;
    drop(pin);
    let manifest = Manifest {
        format: FORMAT,
        springhead: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: format!("{:032x}", raw.identity().cluster_id),
        epoch,
        begun_at,
        ended_at: now(),
        start_lsn: start.0,
        consistent_lsn: tenants
            .iter()
            .map(|tenant| tenant.applied_lsn)
            .fold(start.0, u64::max),
        end_lsn: end.0,
        end_time_ms: log.tail().timestamp_ms.0,
        tenants,
        files: out.files,
    };
    let bytes = manifest.encode();
    (out.sink)(Piece::File {
        path: MANIFEST_NAME.to_owned(),
        bytes: bytes.len() as u64,
    })?;
    (out.sink)(Piece::Data(bytes.into()))?;
    Ok(manifest)
}

fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%3fZ")
        .to_string()
}

/// Holds the log back from retention while it lives.
struct LogPin<'a> {
    log: &'a dyn Log,
    name: String,
}

impl LogPin<'_> {
    fn set(log: &dyn Log, after: Lsn, cap_bytes: u64) -> LogPin<'_> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("backup {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let pin = Pin {
            name: name.clone(),
            after,
            cap_bytes,
        };
        log.set_pin(&name, Some(pin));
        LogPin { log, name }
    }
}

impl Drop for LogPin<'_> {
    fn drop(&mut self) {
        self.log.set_pin(&self.name, None);
    }
}

/// Hands pieces on and keeps the list of files.
struct Writer<'a> {
    sink: Sink<'a>,
    files: Vec<FileEntry>,
}

impl Writer<'_> {
    /// The first file: it says that the backup is not whole yet, and about how long it will be.
    fn announce(
        &mut self,
        engine: &Engine,
        raw: &dyn RawLog,
        begun_at: &str,
    ) -> Result<(), BackupError> {
        let states = engine.states().into_iter().map(|(id, _)| {
            let path = springhead_engine::state::state_file(engine.config(), id);
            std::fs::metadata(path).map_or(0, |metadata| metadata.len())
        });
        let log = raw.segments().last().map_or(0, |last| last.end.offset);
        let text = serde_json::json!({
            "begun_at": begun_at,
            "about_bytes": states.sum::<u64>() + log,
        });
        let bytes = Bytes::from(format!("{text}\n"));
        (self.sink)(Piece::File {
            path: INCOMPLETE_NAME.to_owned(),
            bytes: bytes.len() as u64,
        })?;
        (self.sink)(Piece::Data(bytes))
    }

    fn begin(&mut self, path: &str, bytes: u64) -> Result<(), BackupError> {
        self.files.push(FileEntry {
            path: path.to_owned(),
            bytes,
            crc32c: String::new(),
        });
        (self.sink)(Piece::File {
            path: path.to_owned(),
            bytes,
        })
    }

    fn end(&mut self, crc: u32) {
        let file = self.files.last_mut().expect("a file was begun");
        file.crc32c = format!("{crc:08x}");
    }

    fn whole(&mut self, path: &str, bytes: Bytes) -> Result<(), BackupError> {
        self.begin(path, bytes.len() as u64)?;
        let crc = crc32c::crc32c(&bytes);
        (self.sink)(Piece::Data(bytes))?;
        self.end(crc);
        Ok(())
    }
}

/// A file that is removed when it is done with.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Copies and sends the states of all tenants, those made meanwhile included.
fn copy_states(
    engine: &Engine,
    start: Lsn,
    out: &mut Writer<'_>,
) -> Result<Vec<TenantEntry>, BackupError> {
    let mut copied = Vec::new();
    let mut seen = BTreeSet::new();
    loop {
        let mut states = engine.states();
        states.retain(|(id, _)| !seen.contains(id));
        if states.is_empty() {
            return Ok(copied);
        }
        for (id, name) in states {
            seen.insert(id);
            if let Some(applied) = copy_state(engine, id, start, out)? {
                copied.push(TenantEntry {
                    id: id.0,
                    name,
                    applied_lsn: applied.0,
                });
            }
        }
    }
}

fn copy_state(
    engine: &Engine,
    id: TenantId,
    start: Lsn,
    out: &mut Writer<'_>,
) -> Result<Option<Lsn>, BackupError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let dir = engine.config().data_dir.join("tmp");
    std::fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
    let place = NEXT.fetch_add(1, Ordering::Relaxed);
    let copy = Temporary(dir.join(format!("backup-{place}.db")));
    let Some(state) = engine.copy_state_past(id, start, &copy.0)? else {
        return Ok(None);
    };
    springhead_log::failpoint::hit("backup.state_copied");
    out.begin(&format!("tenants/{:010}/state.db", id.0), state.bytes)?;
    let mut file = File::open(&copy.0).map_err(|error| io_error("open", &copy.0, error))?;
    let (mut crc, mut left) = (0, state.bytes);
    while left > 0 {
        let mut buffer = vec![0; READ_BYTES.min(usize::try_from(left).unwrap_or(READ_BYTES))];
        file.read_exact(&mut buffer)
            .map_err(|error| io_error("read", &copy.0, error))?;
        crc = crc32c::crc32c_append(crc, &buffer);
        left -= buffer.len() as u64;
        (out.sink)(Piece::Data(buffer.into()))?;
    }
    out.end(crc);
    Ok(Some(state.applied))
}

/// Sends the log from before `start` to its end; gives that, and the history it is in.
fn copy_log(
    raw: &dyn RawLog,
    start: Lsn,
    out: &mut Writer<'_>,
) -> Result<(Lsn, String), BackupError> {
    let first = raw.segment_start(start.next())?.segment;
    let mut segments = raw.segments();
    segments.retain(|segment| segment.start.segment >= first);
    let last = segments.last().expect("there is always an active segment");
    let (end, history) = (last.end.lsn, last.epoch);
    let identity = raw.identity();
    let known = identity
        .epochs
        .iter()
        .take_while(|record| record.number <= history.number);
    let epochs = encode_epochs(identity.cluster_id, &known.copied().collect::<Vec<_>>());
    out.whole("log/epochs", epochs.into())?;
    for segment in &segments {
        send_segment(raw, segment, out)?;
        springhead_log::failpoint::hit("backup.segment_sent");
    }
    Ok((end, history.epoch.to_string()))
}

/// Sends one segment up to its end as it was when it was listed.
fn send_segment(
    raw: &dyn RawLog,
    segment: &RawSegment,
    out: &mut Writer<'_>,
) -> Result<(), BackupError> {
    out.begin(&format!("log/{}", segment.file_name), segment.end.offset)?;
    let mut reader = raw.raw_reader(segment.start, RawLimit::Durable)?;
    let (mut crc, mut sent) = (0, 0);
    while sent < segment.end.offset {
        let mut items = Vec::new();
        reader.read(&mut items, READ_BYTES as u64)?;
        if items.is_empty() {
            return Err(BackupError::Log(LogError::Trimmed {
                asked: segment.start.lsn.next(),
                earliest: segment.end.lsn,
            }));
        }
        for item in items.iter().map(RawItem::bytes) {
            // What has been appended since is not part of it; frames end where it ends.
            let left = usize::try_from(segment.end.offset - sent).unwrap_or(usize::MAX);
            let bytes = item.slice(..item.len().min(left));
            crc = crc32c::crc32c_append(crc, &bytes);
            sent += bytes.len() as u64;
            if !bytes.is_empty() {
                (out.sink)(Piece::Data(bytes))?;
            }
        }
    }
    out.end(crc);
    Ok(())
}
