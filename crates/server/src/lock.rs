//! The data directory: one process at a time, of a version that this one reads.
//!
//! ```text
//! data_dir/LOCK      locked (flock) by the process that serves; its process id, for people
//! data_dir/RESTORING there while it is made of a backup; nobody serves it then
//! data_dir/VERSION   "springhead <format version>\n", written at the first start
//! data_dir/log/      the log
//! data_dir/tenants/  the state, one SQLite file per tenant
//! data_dir/vote      what the node, or the witness, has promised, where nodes vote
//! data_dir/tmp/      copies on their way into a backup or an archive; emptied at start
//! ```
//!
//! Called before anything else touches the directory. The lock lasts as long as [`DataDir`] lives;
//! the kernel releases it however the process ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The format of the data directory that this version writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

const LOCK_FILE: &str = "LOCK";
const VERSION_FILE: &str = "VERSION";
const VERSION_TEMPORARY: &str = "VERSION.tmp";
const RESTORING_FILE: &str = "RESTORING";
/// What a witness keeps of its cluster; no node has it.
pub const WITNESS_FILE: &str = "witness.json";

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used. Nothing in it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{} is in use by another springhead{}; stop it first, or give this one another --data-dir", path.display(), holder(pid))]
    InUse { path: PathBuf, pid: String },
    #[error("{} has format version {found}, newer than {FORMAT_VERSION} which this version reads; upgrade springhead", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("{} is not empty and no data directory of springhead; give an empty or a new one", path.display())]
    Foreign { path: PathBuf },
    #[error("{} does not say which format version it has: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} is being restored, or its restore was interrupted; run `springhead restore` again, or remove it", path.display())]
    Restoring { path: PathBuf },
    #[error("{} is a data directory already; restore into an empty or a new one", path.display())]
    Exists { path: PathBuf },
    #[error("{} is no data directory of springhead; `springhead serve` makes one", path.display())]
    Missing { path: PathBuf },
    #[error("{} is the directory of a witness, which has no data; give `springhead serve` another --data-dir", path.display())]
    Witness { path: PathBuf },
    #[error("{} has the data of a node; give `springhead witness` a directory of its own (--data-dir)", path.display())]
    Node { path: PathBuf },
    #[error("{operation} {}: {error}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

fn holder(pid: &str) -> String {
    if pid.is_empty() {
        String::new()
    } else {
        format!(" (process {pid})")
    }
}

impl DataDir {
    /// Locks `path` for this process, making it if it does not exist.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open_or_create(path: &Path) -> Result<DataDir, DataDirError> {
        if !path.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| io_error("create", path, error))?;
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            sync_dir(parent)?;
        }
        refuse_restoring(path)?;
        if !path.join(VERSION_FILE).exists() {
            refuse_foreign(path)?;
        }
        let lock = lock(path)?;
        refuse_restoring(path)?;
        // Looked at under the lock: another process may just have made it.
        if !path.join(VERSION_FILE).exists() {
            write_version(path)?;
        }
        DataDir::locked(path, lock)
    }

    /// Locks `path`, which must be a data directory.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        refuse_restoring(path)?;
        if !path.join(VERSION_FILE).exists() {
            return Err(DataDirError::Missing {
                path: path.to_owned(),
            });
        }
        DataDir::locked(path, lock(path)?)
    }

    /// Locks `path` to be made of a backup: it is made, or is empty, or an earlier restore was
    /// interrupted there, whose files are removed. Nobody else takes it until [`Restoring::whole`].
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open_to_restore(path: &Path) -> Result<(DataDir, Restoring), DataDirError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| io_error("create", path, error))?;
        let lock = lock(path)?;
        let marker = path.join(RESTORING_FILE);
        if marker.exists() {
            clear_restored(path)?;
        } else if path.join(VERSION_FILE).exists() {
            return Err(DataDirError::Exists {
                path: path.to_owned(),
            });
        } else {
            refuse_foreign(path)?;
        }
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(|error| io_error("write", &marker, error))?;
        sync_dir(path)?;
        write_version(path)?;
        let restoring = Restoring {
            path: path.to_owned(),
        };
        Ok((DataDir::locked(path, lock)?, restoring))
    }

    fn locked(path: &Path, lock: File) -> Result<DataDir, DataDirError> {
        check_version(path, &path.join(VERSION_FILE))?;
        Ok(DataDir {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what an earlier run left in `tmp/`: it means nothing to this one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn clear_temporary(&self) -> Result<(), DataDirError> {
        let dir = self.path.join("tmp");
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &dir, error))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`DataDirError::Witness`] for the directory of a witness.
    pub fn refuse_witness(&self) -> Result<(), DataDirError> {
        if self.path.join(WITNESS_FILE).exists() {
            return Err(DataDirError::Witness {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// # Errors
    /// [`DataDirError::Node`] for the directory of a node with data.
    pub fn refuse_node(&self) -> Result<(), DataDirError> {
        if self.log_dir().exists() || self.path.join("role.json").exists() {
            return Err(DataDirError::Node {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Where the log is.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }
}

/// A data directory that is being made of a backup.
#[derive(Debug)]
#[must_use = "without `whole` nobody can serve the directory"]
pub struct Restoring {
    path: PathBuf,
}

impl Restoring {
    /// Everything is there, durably: from now on the directory can be served.
    ///
    /// # Errors
    /// What the disk says.
    pub fn whole(self) -> Result<(), DataDirError> {
        sync_dir(&self.path)?;
        let marker = self.path.join(RESTORING_FILE);
        std::fs::remove_file(&marker).map_err(|error| io_error("remove", &marker, error))?;
        sync_dir(&self.path)
    }
}

fn refuse_restoring(path: &Path) -> Result<(), DataDirError> {
    if path.join(RESTORING_FILE).exists() {
        return Err(DataDirError::Restoring {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Removes what an interrupted restore has written.
fn clear_restored(path: &Path) -> Result<(), DataDirError> {
    for name in ["log", "tenants", "tmp"] {
        let dir = path.join(name);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &dir, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Files of an aborted first start may be there, nothing else.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let entries = std::fs::read_dir(path).map_err(|error| io_error("read", path, error))?;
    for entry in entries {
        let name = entry
            .map_err(|error| io_error("read", path, error))?
            .file_name();
        if name != LOCK_FILE && name != VERSION_TEMPORARY && name != "lost+found" {
            return Err(DataDirError::Foreign {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let lock_path = path.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|error| io_error("open", &lock_path, error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // Only for the message; without it the message is still true.
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
            return Err(DataDirError::InUse {
                path: path.to_owned(),
                pid: pid.trim().to_owned(),
            });
        }
        Err(error) => return Err(io_error("lock", &lock_path, error.into())),
    }
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| io_error("write", &lock_path, error))?;
    Ok(file)
}

fn check_version(path: &Path, version_path: &Path) -> Result<(), DataDirError> {
    let text = std::fs::read_to_string(version_path)
        .map_err(|error| io_error("read", version_path, error))?;
    let found: u32 = text
        .trim_end()
        .strip_prefix("springhead ")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| DataDirError::Damaged {
            path: version_path.to_owned(),
            what: text.escape_debug().take(40).collect(),
        })?;
    if found > FORMAT_VERSION {
        return Err(DataDirError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    Ok(())
}

fn write_version(path: &Path) -> Result<(), DataDirError> {
    let temporary = path.join(VERSION_TEMPORARY);
    let written = (|| {
        let mut file = File::create(&temporary)?;
        writeln!(file, "springhead {FORMAT_VERSION}")?;
        file.sync_all()?;
        std::fs::rename(&temporary, path.join(VERSION_FILE))
    })();
    written.map_err(|error| io_error("write", &temporary, error))?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> Result<(), DataDirError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| io_error("sync", path, error))
}

fn io_error(operation: &'static str, path: &Path, error: io::Error) -> DataDirError {
    DataDirError::Io {
        operation,
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g12_a_second_opener_is_refused_until_the_first_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/data");
        let first = DataDir::open_or_create(&path).unwrap();
        let error = DataDir::open_or_create(&path).unwrap_err();
        assert!(
            matches!(&error, DataDirError::InUse { pid, .. } if *pid == std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        DataDir::open_or_create(&path).unwrap();
    }

    #[test]
    fn g12_a_newer_format_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        drop(DataDir::open_or_create(temporary.path()).unwrap());
        std::fs::write(temporary.path().join(VERSION_FILE), "springhead 2\n").unwrap();
        let error = DataDir::open_or_create(temporary.path()).unwrap_err();
        assert!(
            matches!(error, DataDirError::Newer { found: 2, .. }),
            "{error}"
        );
        std::fs::write(temporary.path().join(VERSION_FILE), "what\n").unwrap();
        assert!(matches!(
            DataDir::open(temporary.path()),
            Err(DataDirError::Damaged { .. })
        ));
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join("photo.jpg"), "x").unwrap();
        assert!(matches!(
            DataDir::open_or_create(temporary.path()),
            Err(DataDirError::Foreign { .. })
        ));
        assert!(!temporary.path().join(LOCK_FILE).exists());
        assert!(matches!(
            DataDir::open(&temporary.path().join("none")),
            Err(DataDirError::Missing { .. })
        ));
    }

    #[test]
    fn an_aborted_first_start_is_taken_up() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join(LOCK_FILE), "1\n").unwrap();
        std::fs::write(temporary.path().join(VERSION_TEMPORARY), "spr").unwrap();
        drop(DataDir::open_or_create(temporary.path()).unwrap());
        DataDir::open(temporary.path()).unwrap();
    }
}
