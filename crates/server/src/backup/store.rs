//! A backup being written into a directory: file by file, checked against its manifest when that
//! comes, and whole only then.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::manifest::{FileEntry, Manifest};
use super::{
    BackupError, INCOMPLETE_NAME, MANIFEST_NAME, Piece, io_error, is_path_of_a_backup, sync_dir,
};

/// See the module's text.
pub struct Store {
    dir: PathBuf,
    file: Option<Open>,
    files: Vec<FileEntry>,
    /// The manifest's bytes, once it has begun.
    manifest: Option<Vec<u8>>,
    written_bytes: u64,
}

struct Open {
    path: PathBuf,
    file: File,
    left: u64,
    crc: u32,
}

impl Store {
    /// Begins a backup in `dir`, which is made, or is empty, or holds one that was interrupted: what
    /// is there of that is removed.
    ///
    /// # Errors
    /// [`BackupError::Exists`], [`BackupError::Foreign`], or what the disk says.
    pub fn begin(dir: &Path) -> Result<Store, BackupError> {
        if dir.join(MANIFEST_NAME).exists() {
            return Err(BackupError::Exists {
                path: dir.to_owned(),
            });
        }
        std::fs::create_dir_all(dir).map_err(|error| io_error("create", dir, error))?;
        let interrupted = dir.join(INCOMPLETE_NAME).exists();
        let names = std::fs::read_dir(dir).map_err(|error| io_error("read", dir, error))?;
        for entry in names {
            let entry = entry.map_err(|error| io_error("read", dir, error))?;
            let path = entry.path();
            let removed = match entry.file_name().to_str() {
                Some("tenants" | "log") if interrupted => std::fs::remove_dir_all(&path),
                Some("manifest.json.tmp") if interrupted => std::fs::remove_file(&path),
                Some(INCOMPLETE_NAME | "lost+found") => Ok(()),
                _ => {
                    return Err(BackupError::Foreign {
                        path: dir.to_owned(),
                    });
                }
            };
            removed.map_err(|error| io_error("remove", &path, error))?;
        }
        // Before anything else, so that nothing without a manifest is ever taken for a whole one.
        let marker = dir.join(INCOMPLETE_NAME);
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(|error| io_error("write", &marker, error))?;
        sync_dir(dir)?;
        Ok(Store {
            dir: dir.to_owned(),
            file: None,
            files: Vec::new(),
            manifest: None,
            written_bytes: 0,
        })
    }

    /// Bytes of files written so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// A path that no backup has, a file that is longer or shorter than it says, or what the disk
    /// says.
    pub fn take(&mut self, piece: Piece) -> Result<(), BackupError> {
        match piece {
            Piece::File { path, bytes } => self.begin_file(&path, bytes),
            Piece::Data(bytes) => self.data(&bytes),
        }
    }

    fn begin_file(&mut self, path: &str, bytes: u64) -> Result<(), BackupError> {
        self.end_file()?;
        if !is_path_of_a_backup(path) || self.manifest.is_some() {
            return Err(self.broken(format!("it has a file {path:?}")));
        }
        if path == MANIFEST_NAME {
            self.manifest = Some(Vec::new());
            return Ok(());
        }
        let full = self.dir.join(path);
        let parent = full.parent().expect("it lies in the directory");
        std::fs::create_dir_all(parent).map_err(|error| io_error("create", parent, error))?;
        let file = File::create(&full).map_err(|error| io_error("create", &full, error))?;
        self.file = Some(Open {
            path: full,
            file,
            left: bytes,
            crc: 0,
        });
        if path != INCOMPLETE_NAME {
            self.files.push(FileEntry {
                path: path.to_owned(),
                bytes,
                crc32c: String::new(),
            });
        }
        Ok(())
    }

    fn broken(&self, what: String) -> BackupError {
        BackupError::Damaged {
            path: self.dir.clone(),
            what: format!("what was received is no backup: {what}"),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        if let Some(manifest) = &mut self.manifest {
            manifest.extend_from_slice(bytes);
            return Ok(());
        }
        let length = bytes.len() as u64;
        let Some(open) = self.file.as_mut().filter(|open| open.left >= length) else {
            return Err(self.broken("a file is longer than it says".to_owned()));
        };
        open.file
            .write_all(bytes)
            .map_err(|error| io_error("write", &open.path, error))?;
        open.left -= length;
        open.crc = crc32c::crc32c_append(open.crc, bytes);
        self.written_bytes += length;
        springhead_log::failpoint::hit("backup.data_written");
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), BackupError> {
        let Some(open) = self.file.take() else {
            return Ok(());
        };
        if open.left > 0 {
            return Err(self.broken(format!("{} was cut short", open.path.display())));
        }
        open.file
            .sync_all()
            .map_err(|error| io_error("flush", &open.path, error))?;
        if !open.path.ends_with(INCOMPLETE_NAME)
            && let Some(entry) = self.files.last_mut()
        {
            entry.crc32c = format!("{:08x}", open.crc);
        }
        Ok(())
    }

    /// Makes the backup whole, if what was written is what the manifest says.
    ///
    /// # Errors
    /// [`BackupError::Incomplete`] if no manifest came, [`BackupError::Damaged`] if it differs, or
    /// what the disk says.
    pub fn finish(mut self) -> Result<Manifest, BackupError> {
        self.end_file()?;
        let Some(bytes) = self.manifest.take() else {
            return Err(BackupError::Incomplete { path: self.dir });
        };
        let path = self.dir.join(MANIFEST_NAME);
        let manifest = Manifest::decode(&bytes, &path)?;
        for (written, expected) in self.files.iter().zip(&manifest.files) {
            if written != expected {
                return Err(BackupError::Damaged {
                    path: self.dir.join(&written.path),
                    what: "it is not what was sent; make the backup again".to_owned(),
                });
            }
        }
        if self.files.len() != manifest.files.len() {
            return Err(self.broken("files are missing".to_owned()));
        }
        for dir in self.directories() {
            sync_dir(&dir)?;
        }
        springhead_log::failpoint::hit("backup.before_manifest");
        let temporary = self.dir.join("manifest.json.tmp");
        File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|error| io_error("write", &path, error))?;
        sync_dir(&self.dir)?;
        springhead_log::failpoint::hit("backup.manifest_written");
        let marker = self.dir.join(INCOMPLETE_NAME);
        std::fs::remove_file(&marker).map_err(|error| io_error("remove", &marker, error))?;
        sync_dir(&self.dir)?;
        Ok(manifest)
    }

    /// Every directory with a file in it, and those that they lie in.
    fn directories(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self
            .files
            .iter()
            .filter_map(|file| self.dir.join(&file.path).parent().map(Path::to_owned))
            .collect();
        found.push(self.dir.join("tenants"));
        found.sort();
        found.dedup();
        found
    }
}
