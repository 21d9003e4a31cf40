//! What has come of a base backup, so that one that was cut goes on where it was cut, also after its node
//! was killed: a list beside the files, one line for each thing that is whole and durable.
//!
//! ```text
//! data/incoming/tenants/…/state.db     whole if the list has it, a part otherwise
//! data/incoming/log                    frames check themselves, one by one
//! data/incoming/RECEIVED               {"begun":{…}} {"through":…} {"file":{…}} … {"files_end":{}}
//! ```
//!
//! What the list names is read and compared with its checksum when it is opened; what does not fit, or was
//! not made durable in time, comes again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use springhead_log::RawPosition;
use springhead_proto::Lsn;

use super::files::sync_dir;
use super::wire::{BaseHave, BasePart};

/// The list's name. A directory without one has nothing to go on from.
pub const RECEIVED: &str = "RECEIVED";

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begun(Begun),
    /// A file comes that has nothing behind this LSN.
    Through(u64),
    File {
        path: String,
        bytes: u64,
        crc: u32,
    },
    /// The last of the files has come; log follows.
    FilesEnd {},
}

/// What the files are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The history that its primary's log was in.
    #[serde(with = "super::files::hex")]
    pub history_id: u128,
    /// With the log from behind this LSN on the files are whole.
    pub start: u64,
    /// The copies that the files are taken of: a part is a part of no other.
    pub copies: u64,
}

/// A file's next bytes.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    pub path: &'a str,
    pub offset: u64,
    pub bytes: &'a [u8],
    pub is_last: bool,
    /// What the file has is at or before this LSN.
    pub through: Lsn,
}

/// See the module's text.
#[derive(Debug)]
pub struct Received {
    dir: PathBuf,
    list: Option<File>,
    begun: Option<Begun>,
    /// No file has anything behind it.
    through: Lsn,
    /// Length and checksum of each file that is whole, by path.
    files: BTreeMap<String, (u64, u32)>,
    files_end: bool,
    /// What is being received.
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    path: String,
    bytes: u64,
    crc: u32,
    /// `None` between two connections.
    file: Option<File>,
}

impl Received {
    /// Looks at what is in `dir`, which need not be there; may read all of it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(dir: &Path) -> io::Result<Received> {
        let mut received = Received::nothing(dir);
        let text = match std::fs::read_to_string(dir.join(RECEIVED)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(received),
            Err(error) => return Err(error),
        };
        // The last line may be torn: what it was to say has not been said.
        for line in text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
        {
            match line {
                Line::Begun(begun) => received.begun = Some(begun),
                Line::File { path, bytes, crc } => {
                    received.files.insert(path, (bytes, crc));
                }
                Line::Through(through) => received.through = received.through.max(Lsn(through)),
                Line::FilesEnd {} => received.files_end = true,
            }
        }
        let mut damaged = Vec::new();
        for (path, expected) in &received.files {
            if measure(&dir.join(path))? != Some(*expected) {
                tracing::warn!(path, "a file of a base backup is not as it was received");
                damaged.push(path.clone());
            }
        }
        for path in damaged {
            received.files.remove(&path);
            received.files_end = false;
        }
        received.part = received.find_part()?;
        Ok(received)
    }

    fn nothing(dir: &Path) -> Received {
        Received {
            dir: dir.to_owned(),
            list: None,
            begun: None,
            through: Lsn::ZERO,
            files: BTreeMap::new(),
            files_end: false,
            part: None,
        }
    }

    /// The one file that is there and not whole.
    fn find_part(&self) -> io::Result<Option<Part>> {
        let mut parts = Vec::new();
        for entry in list(&self.dir.join("tenants"))? {
            let path = format!("tenants/{entry}/state.db");
            let file = self.dir.join(&path);
            if !self.files.contains_key(&path)
                && let Some((bytes, crc)) = measure(&file)?
            {
                parts.push(Part {
                    path,
                    bytes,
                    crc,
                    file: None,
                });
            }
        }
        // Of several it cannot be said which goes on.
        Ok(parts.pop().filter(|_| parts.is_empty()))
    }

    /// What the other side is told. `log` is the end of the log that came behind the files.
    pub fn have(&self, log: Option<RawPosition>) -> BaseHave {
        let Some(begun) = self.begun else {
            return BaseHave::default();
        };
        let part = self.part.as_ref().map(|part| BasePart {
            path: part.path.clone(),
            bytes: part.bytes,
            crc: part.crc,
        });
        BaseHave {
            history_id: begun.history_id,
            start: Lsn(begun.start),
            copies: begun.copies,
            through: self.through,
            files: self.files.keys().cloned().collect(),
            part,
            log: log.filter(|_| self.files_end),
        }
    }

    /// Whether the files are all there, and log may have come.
    pub fn has_all_files(&self) -> bool {
        self.files_end
    }

    /// Files that are whole, and bytes that are there.
    pub fn counts(&self) -> (usize, u64) {
        let bytes: u64 = self.files.values().map(|(bytes, _)| bytes).sum();
        let part = self.part.as_ref().map_or(0, |part| part.bytes);
        (self.files.len(), bytes + part)
    }

    /// The other side goes on with what is here.
    ///
    /// # Errors
    /// What the disk says.
    pub fn go_on(&mut self, begun: Begun) -> io::Result<()> {
        self.begun = Some(begun);
        self.note(&Line::Begun(begun))
    }

    /// The other side begins anew: so does this one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin(&mut self, begun: Begun) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&self.dir)?;
        *self = Received::nothing(&self.dir);
        self.go_on(begun)?;
        sync_dir(&self.dir)
    }

    /// A file's next bytes; true once it is whole and durable.
    ///
    /// # Errors
    /// What the disk says; `InvalidData` if they are not the next ones.
    pub fn take(&mut self, piece: Piece<'_>) -> io::Result<bool> {
        let Piece {
            path,
            offset,
            bytes,
            is_last,
            through,
        } = piece;
        if through > self.through {
            self.through = through;
            self.note(&Line::Through(through.0))?;
        }
        if offset == 0 {
            self.forget(path);
            let to = self.dir.join(path);
            std::fs::create_dir_all(to.parent().unwrap_or(&self.dir))?;
            self.part = Some(Part {
                path: path.to_owned(),
                bytes: 0,
                crc: 0,
                file: Some(create_private(&to)?),
            });
        }
        let out_of_order = || io::Error::new(io::ErrorKind::InvalidData, "bytes out of order");
        let part = self.part.as_mut().ok_or_else(out_of_order)?;
        if part.path != path || part.bytes != offset {
            return Err(out_of_order());
        }
        if part.file.is_none() {
            let mut file = File::options().write(true).open(self.dir.join(path))?;
            file.seek(SeekFrom::Start(offset))?;
            part.file = Some(file);
        }
        let file = part.file.as_mut().ok_or_else(out_of_order)?;
        file.write_all(bytes)?;
        part.bytes += bytes.len() as u64;
        part.crc = crc32c::crc32c_append(part.crc, bytes);
        if !is_last {
            return Ok(false);
        }
        file.sync_all()?;
        let (bytes, crc) = (part.bytes, part.crc);
        self.part = None;
        self.files.insert(path.to_owned(), (bytes, crc));
        self.note(&Line::File {
            path: path.to_owned(),
            bytes,
            crc,
        })?;
        Ok(true)
    }

    fn forget(&mut self, path: &str) {
        self.files.remove(path);
        self.part = None;
    }

    /// The last of the files has come.
    ///
    /// # Errors
    /// What the disk says.
    pub fn end_files(&mut self) -> io::Result<()> {
        self.files_end = true;
        self.note(&Line::FilesEnd {})
    }

    /// The connection is over: what was being received goes on with the next.
    pub fn pause(&mut self) {
        if let Some(part) = &mut self.part {
            part.file = None;
        }
    }

    /// Adds a line, durably.
    fn note(&mut self, line: &Line) -> io::Result<()> {
        if self.list.is_none() {
            std::fs::create_dir_all(&self.dir)?;
            let mut options = File::options();
            let mut list = options
                .create(true)
                .append(true)
                .open(self.dir.join(RECEIVED))?;
            // Behind a line that was torn.
            list.write_all(b"\n")?;
            self.list = Some(list);
            sync_dir(&self.dir)?;
        }
        let list = self.list.as_mut().expect("it has just been opened");
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        list.write_all(&bytes)?;
        list.sync_all()
    }
}

/// Length and checksum of a file; `None` if it is not there.
///
/// # Errors
/// What the disk says.
pub fn measure(path: &Path) -> io::Result<Option<(u64, u32)>> {
    match File::open(path) {
        Ok(file) => measure_first(file, u64::MAX).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many of the first `limit` bytes a file has, and their checksum.
///
/// # Errors
/// What the disk says.
pub fn measure_first(file: File, limit: u64) -> io::Result<(u64, u32)> {
    let mut file = file.take(limit);
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok((bytes, crc));
        }
        bytes += length as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..length]);
    }
}

fn list(dir: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: Begun = Begun {
        history_id: 7 << 70,
        start: 5,
        copies: 9,
    };
    const ONE: &str = "tenants/0000000000/state.db";
    const TWO: &str = "tenants/0000000001/state.db";

    fn piece<'a>(path: &'a str, offset: u64, bytes: &'a [u8], is_last: bool) -> Piece<'a> {
        Piece {
            path,
            offset,
            bytes,
            is_last,
            through: Lsn(6),
        }
    }

    #[test]
    fn g12_what_was_received_whole_is_there_again_and_a_part_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut received = Received::open(dir.path()).unwrap();
        assert_eq!(received.have(None), BaseHave::default());
        received.begin(BEGUN).unwrap();
        assert!(!received.take(piece(ONE, 0, b"one ", false)).unwrap());
        assert!(received.take(piece(ONE, 4, b"whole", true)).unwrap());
        assert!(!received.take(piece(TWO, 0, b"a part", false)).unwrap());
        let told = received.have(None);
        assert_eq!(told.files, [ONE]);
        assert_eq!(told.through, Lsn(6));
        assert_eq!(told.part.as_ref().unwrap().bytes, 6);
        drop(received);
        // Killed; the line that it was about to write is torn.
        let mut list = File::options()
            .append(true)
            .open(dir.path().join(RECEIVED))
            .unwrap();
        list.write_all(b"{\"file\":{\"pa").unwrap();
        let mut received = Received::open(dir.path()).unwrap();
        assert_eq!(received.have(None), told);
        assert_eq!(received.counts(), (1, 15));
        received.go_on(BEGUN).unwrap();
        assert!(
            received.take(piece(TWO, 5, b"!", true)).is_err(),
            "out of order"
        );
        assert!(
            received
                .take(piece(TWO, 6, b" is whole now", true))
                .unwrap()
        );
        received.end_files().unwrap();
        let received = Received::open(dir.path()).unwrap();
        assert!(received.has_all_files());
        assert_eq!(received.have(None).files, [ONE, TWO]);
        let two = std::fs::read(dir.path().join(TWO)).unwrap();
        assert_eq!(two, b"a part is whole now");
        // What is not as it was received comes again.
        std::fs::write(dir.path().join(ONE), b"one whOle").unwrap();
        let received = Received::open(dir.path()).unwrap();
        assert!(!received.has_all_files());
        assert_eq!(received.have(None).files, [TWO]);
    }

    #[test]
    fn what_begins_anew_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut received = Received::open(dir.path()).unwrap();
        received.begin(BEGUN).unwrap();
        received.take(piece(ONE, 0, b"one", true)).unwrap();
        let other = Begun { start: 6, ..BEGUN };
        received.begin(other).unwrap();
        assert_eq!(received.counts(), (0, 0));
        drop(received);
        let received = Received::open(dir.path()).unwrap();
        assert_eq!(received.have(None).start, Lsn(6));
        assert!(!dir.path().join(ONE).exists());
    }
}
