//! The two small files beside the segments: which histories led here, and how long the log has
//! been open.
//!
//! ```text
//! epochs  := magic "SHEPOCHS" format_version:u32 cluster_id:u128 count:u32
//!            (number:u32 epoch:u32 history_id:u128 fork_lsn:u64)*  crc:u32 of all before
//! running := magic "SHRUNMSS" running_ms:u64  crc:u32 of all before
//! ```

use std::io;
use std::path::Path;

use springhead_proto::{Epoch, Lsn};

use super::format::FORMAT_VERSION;
use super::keeper::write_durably;
use super::shared::{corrupt, io_error};
use crate::contract::{EpochRecord, LogError};
use crate::disk::{Disk, OpenFor, read_up_to};
use crate::vote::Durable;

pub const EPOCHS_NAME: &str = "epochs";
const RUNNING_NAME: &str = "running";
const EPOCHS_MAGIC: &[u8; 8] = b"SHEPOCHS";
const RUNNING_MAGIC: &[u8; 8] = b"SHRUNMSS";
const RECORD_BYTES: usize = 32;
/// More histories than any log can have had.
const MAX_EPOCHS_BYTES: u64 = 1 << 24;

/// The content of the file `epochs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epochs {
    pub cluster_id: u128,
    /// Oldest first.
    pub records: Vec<EpochRecord>,
}

impl Epochs {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(EPOCHS_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.cluster_id.to_le_bytes());
        let count = u32::try_from(self.records.len()).expect("histories are few");
        out.extend_from_slice(&count.to_le_bytes());
        for record in &self.records {
            out.extend_from_slice(&record.number.to_le_bytes());
            out.extend_from_slice(&record.epoch.0.to_le_bytes());
            out.extend_from_slice(&record.history_id.to_le_bytes());
            out.extend_from_slice(&record.fork_lsn.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Epochs, LogError> {
        let damaged = |what| corrupt(path, 0, what);
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| damaged("the file is cut short"))?;
        if body.len() < 32 || &body[..8] != EPOCHS_MAGIC {
            return Err(damaged("the file does not start with its magic"));
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(damaged("the file's checksum does not match"));
        }
        let found = u32::from_le_bytes(chunk(body, 8));
        if found > FORMAT_VERSION {
            return Err(LogError::NewerFormat {
                file: path.display().to_string(),
                found,
                supported: FORMAT_VERSION,
            });
        }
        let records: Vec<EpochRecord> = body[32..]
            .chunks_exact(RECORD_BYTES)
            .map(|record| EpochRecord {
                number: u32::from_le_bytes(chunk(record, 0)),
                epoch: Epoch(u32::from_le_bytes(chunk(record, 4))),
                history_id: u128::from_le_bytes(chunk(record, 8)),
                fork_lsn: Lsn(u64::from_le_bytes(chunk(record, 24))),
            })
            .collect();
        let count = u32::from_le_bytes(chunk(body, 28));
        if records.is_empty() || u32::try_from(records.len()) != Ok(count) {
            return Err(damaged("the file does not hold as many epochs as it says"));
        }
        Ok(Epochs {
            cluster_id: u128::from_le_bytes(chunk(body, 12)),
            records,
        })
    }

    /// Reads the file in `dir`.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Epochs, LogError> {
        let path = dir.join(EPOCHS_NAME);
        let bytes = read_file(disk, &path).map_err(|error| io_error("read", &path, error))?;
        Epochs::decode(&bytes, &path)
    }

    /// Replaces the file in `dir`, durably.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let path = dir.join(EPOCHS_NAME);
        replace(disk, dir, EPOCHS_NAME, &self.encode())
            .map_err(|error| io_error("write", &path, error))
    }
}

/// Reads how long the log had been open when it was last written down; 0 if that cannot be read,
/// which lets time retention keep more, never less.
pub fn load_running_ms(disk: &dyn Disk, dir: &Path) -> u64 {
    let Ok(bytes) = read_file(disk, &dir.join(RUNNING_NAME)) else {
        return 0;
    };
    let Ok(bytes) = <[u8; 20]>::try_from(bytes) else {
        return 0;
    };
    let sound = bytes[..8] == *RUNNING_MAGIC
        && crc32c::crc32c(&bytes[..16]) == u32::from_le_bytes(chunk(&bytes, 16));
    if sound {
        u64::from_le_bytes(chunk(&bytes, 8))
    } else {
        0
    }
}

/// Writes down how long the log has been open.
pub fn store_running_ms(disk: &dyn Disk, dir: &Path, running_ms: u64) -> io::Result<()> {
    let mut out = Vec::from(*RUNNING_MAGIC);
    out.extend_from_slice(&running_ms.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    replace(disk, dir, RUNNING_NAME, &out)
}

/// The name of the file with a voter's promise.
pub const VOTE_NAME: &str = "vote";

/// Reads what a voter has promised; `None` if it never has.
///
/// # Errors
/// [`LogError::Corrupt`]: such a voter must not vote. Or what the disk says.
pub fn load_vote(disk: &dyn Disk, dir: &Path) -> Result<Option<Durable>, LogError> {
    let path = dir.join(VOTE_NAME);
    match read_file(disk, &path) {
        Ok(bytes) => Durable::decode(&bytes)
            .map(Some)
            .map_err(|what| corrupt(&path, 0, what)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path, error)),
    }
}

/// Writes down what a voter promises, durably.
///
/// # Errors
/// What the disk says; then the voter must stop, since nobody knows what it has promised.
pub fn store_vote(disk: &dyn Disk, dir: &Path, durable: &Durable) -> Result<(), LogError> {
    replace(disk, dir, VOTE_NAME, &durable.encode())
        .map_err(|error| io_error("write", &dir.join(VOTE_NAME), error))
}

fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    write_durably(disk, &temporary, bytes)?;
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// All of a small file.
pub fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenFor::Reading)?;
    let length = file.length()?.min(MAX_EPOCHS_BYTES);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let filled = read_up_to(file.as_ref(), &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range is N long")
}
