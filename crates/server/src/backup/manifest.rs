//! What a whole backup consists of. A JSON document that ends in its own checksum, so that a flipped
//! bit in it is found like one anywhere else.
//!
//! ```text
//! { "format": 1, …, "files": [ {"path", "bytes", "crc32c"} … ],
//!   "manifest_crc32c": "<crc32c of all bytes before this line's comma>" }
//! ```

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use springhead_log::Progress;

use super::{BackupError, INCOMPLETE_NAME, MANIFEST_NAME, io_error, is_path_of_a_backup};

/// What this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;
const READ_BYTES: usize = 1 << 20;
/// A manifest names a few hundred bytes per tenant; more than this is none.
const MAX_BYTES: u64 = 1 << 30;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// The version of springhead that made it.
    pub springhead: String,
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    /// The history that it ends in, as in cursors.
    pub epoch: String,
    /// UTC, RFC 3339.
    pub begun_at: String,
    pub ended_at: String,
    /// Every state has at least what is up to here, and the log begins at or before the next.
    pub start_lsn: u64,
    /// The earliest LSN that the backup can be restored to: no state is past it.
    pub consistent_lsn: u64,
    /// The last LSN in its log.
    pub end_lsn: u64,
    /// The time of the last batch in its log, milliseconds since 1970 UTC.
    pub end_time_ms: u64,
    pub tenants: Vec<TenantEntry>,
    pub files: Vec<FileEntry>,
}

/// A tenant whose state is in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantEntry {
    pub id: u32,
    pub name: String,
    /// Its last commit in the copy.
    pub applied_lsn: u64,
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the backup, with `/`.
    pub path: String,
    pub bytes: u64,
    /// Eight hexadecimal digits.
    pub crc32c: String,
}

const TRAILER: &str = ",\n  \"manifest_crc32c\": \"";

impl Manifest {
    /// The file's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_string_pretty(self).expect("it has only strings as keys");
        let body = text
            .strip_suffix("\n}")
            .expect("an object over several lines");
        let crc = crc32c::crc32c(body.as_bytes());
        format!("{body}{TRAILER}{crc:08x}\"\n}}\n").into_bytes()
    }

    /// Reads the content of the file at `path`.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] or [`BackupError::Newer`].
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Manifest, BackupError> {
        let damaged = |what: &str| BackupError::Damaged {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let trailer = TRAILER.as_bytes();
        let at = bytes
            .windows(trailer.len())
            .rposition(|window| window == trailer)
            .ok_or_else(|| damaged("it does not end in its checksum"))?;
        let body = &bytes[..at];
        let expected = format!("{:08x}\"\n}}\n", crc32c::crc32c(body));
        if bytes[at + trailer.len()..] != *expected.as_bytes() {
            return Err(damaged("its checksum does not match"));
        }
        let mut whole = body.to_vec();
        whole.extend_from_slice(b"\n}");
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |error: serde_json::Error| damaged(&error.to_string());
        let Format { format } = serde_json::from_slice(&whole).map_err(unreadable)?;
        if format > FORMAT {
            return Err(BackupError::Newer {
                path: path.to_owned(),
                found: format,
                supported: FORMAT,
            });
        }
        let manifest: Manifest = serde_json::from_slice(&whole).map_err(unreadable)?;
        match manifest
            .files
            .iter()
            .find(|file| !is_path_of_a_backup(&file.path))
        {
            Some(file) => Err(damaged(&format!("it names the file {:?}", file.path))),
            None => Ok(manifest),
        }
    }

    /// Reads the manifest of the backup in `dir`.
    ///
    /// # Errors
    /// [`BackupError::Incomplete`] where a backup was interrupted; see [`Manifest::decode`].
    pub fn load(dir: &Path) -> Result<Manifest, BackupError> {
        let path = dir.join(MANIFEST_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(if dir.join(INCOMPLETE_NAME).exists() {
                    BackupError::Incomplete {
                        path: dir.to_owned(),
                    }
                } else {
                    BackupError::Target(format!(
                        "{} is no backup: it has no {MANIFEST_NAME}",
                        dir.display()
                    ))
                });
            }
            Err(error) => return Err(io_error("open", &path, error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| io_error("read", &path, error))?;
        Manifest::decode(&bytes, &path)
    }

    /// Bytes in all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Reads every file of the backup in `dir` and gives its manifest and each damage that was found.
///
/// # Errors
/// If there is no whole manifest to compare with, or what the disk says.
pub fn verify(
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(Manifest, Vec<BackupError>), BackupError> {
    let manifest = Manifest::load(dir)?;
    let total = manifest.total_bytes();
    let mut done = 0;
    let mut problems = Vec::new();
    for entry in &manifest.files {
        let path = dir.join(&entry.path);
        let checked = check_file(&path, entry, |bytes| progress.report(done + bytes, total));
        match checked {
            Ok(()) => {}
            Err(problem @ BackupError::Damaged { .. }) => problems.push(problem),
            Err(other) => return Err(other),
        }
        done += entry.bytes;
        progress.report(done, total);
    }
    Ok((manifest, problems))
}

fn check_file(
    path: &Path,
    entry: &FileEntry,
    mut progress: impl FnMut(u64),
) -> Result<(), BackupError> {
    let damaged = |what: String| BackupError::Damaged {
        path: path.to_owned(),
        what,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged("it is missing".to_owned()));
        }
        Err(error) => return Err(io_error("open", path, error)),
    };
    let mut buffer = vec![0; READ_BYTES];
    let (mut crc, mut bytes) = (0, 0);
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|error| io_error("read", path, error))?;
        if read == 0 {
            break;
        }
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
        bytes += read as u64;
        progress(bytes);
    }
    if bytes != entry.bytes {
        return Err(damaged(format!(
            "it has {bytes} bytes, and {} were written",
            entry.bytes
        )));
    }
    let crc = format!("{crc:08x}");
    if crc != entry.crc32c {
        return Err(damaged(format!(
            "its checksum is {crc}, and {} was written",
            entry.crc32c
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            springhead: "0.1.0".to_owned(),
            cluster_id: "00".repeat(16),
            epoch: "9c1e04d7".to_owned(),
            begun_at: "2026-11-27T03:00:00Z".to_owned(),
            ended_at: "2026-11-27T03:00:01Z".to_owned(),
            start_lsn: 1,
            consistent_lsn: 2,
            end_lsn: 3,
            end_time_ms: 4,
            tenants: vec![TenantEntry {
                id: 1,
                name: "a \"name\"".to_owned(),
                applied_lsn: 2,
            }],
            files: vec![FileEntry {
                path: "log/epochs".to_owned(),
                bytes: 5,
                crc32c: "01234567".to_owned(),
            }],
        }
    }

    #[test]
    fn g12_a_manifest_comes_back_and_any_flipped_bit_is_found() {
        let bytes = manifest().encode();
        let path = Path::new("manifest.json");
        assert_eq!(Manifest::decode(&bytes, path).expect("whole"), manifest());
        serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(
                    Manifest::decode(&flipped, path).is_err(),
                    "byte {at} bit {bit}"
                );
            }
            assert!(Manifest::decode(&bytes[..at], path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_manifest_is_named() {
        let newer = Manifest {
            format: FORMAT + 1,
            ..manifest()
        };
        let refused = Manifest::decode(&newer.encode(), Path::new("m"));
        assert!(matches!(refused, Err(BackupError::Newer { .. })));
    }
}
