//! What is verified when a state's files are read, and written with them: pages of the database and
//! frames of its WAL. Called by SQLite, by way of [`methods`](super::methods).

use std::ffi::c_int;
use std::fs::File;

use libsqlite3_sys as ffi;

use super::below::Below;
use super::damage::{self, Damage};
use super::wal::{self, Frame};
use super::{RESERVED, page};

/// An open file of a state, over the system's.
pub struct State {
    path: String,
    kind: Kind,
    /// A page to be written with its checksum, or a frame that is verified as a whole.
    scratch: Vec<u8>,
}

/// Which of a state's files it is.
pub enum Kind {
    /// With the damage that a checkpoint would come upon, while one runs.
    Database { in_wal: Option<Damage> },
    /// With a sum of each frame's content that this connection wrote since the WAL last began, so
    /// that it can verify what it has not committed: those frames' own checksums are not final. 8
    /// bytes for each frame; 0 where nothing is known.
    Wal { written: Vec<u64> },
}

impl Kind {
    pub fn database() -> Kind {
        Kind::Database { in_wal: None }
    }

    pub fn wal() -> Kind {
        Kind::Wal {
            written: Vec::new(),
        }
    }
}

impl State {
    pub fn new(path: String, kind: Kind) -> State {
        State {
            path,
            kind,
            scratch: Vec::new(),
        }
    }

    /// Reads what then is verified. What is damaged is not handed out.
    pub fn read(&mut self, below: &Below, buffer: &mut [u8], offset: u64) -> c_int {
        match &self.kind {
            Kind::Database { .. } => self.read_database(below, buffer, offset),
            Kind::Wal { .. } => self.read_wal(below, buffer, offset),
        }
    }

    /// Writes pages of a database with their checksums, and a WAL as it is.
    pub fn write(&mut self, below: &Below, content: &[u8], offset: u64) -> c_int {
        match self.kind {
            Kind::Database { .. } => self.write_database(below, content, offset),
            Kind::Wal { .. } => self.write_wal(below, content, offset),
        }
    }

    /// Makes the file `size` bytes long.
    pub fn truncate(&mut self, below: &Below, size: u64) -> c_int {
        match &mut self.kind {
            Kind::Database { .. } => {
                // Longer than it is: see `fill`.
                if let Some(page_bytes) = below.page_bytes() {
                    let code = self.fill(below, page_bytes, size);
                    if code != ffi::SQLITE_OK {
                        return code;
                    }
                }
            }
            Kind::Wal { written } => *written = Vec::new(),
        }
        below.truncate(size)
    }

    /// Before a checkpoint moves anything: looks whether it could move everything. One that stopped
    /// half-way at a damaged frame would leave a file that is newer than what recovery then leaves of
    /// the WAL. SQLite does not ask for an opinion here, so it is told at the first write.
    pub fn begin_checkpoint(&mut self, below: &Below) {
        let Kind::Database { in_wal } = &mut self.kind else {
            return;
        };
        let path = format!("{}-wal", self.path);
        let Some((moved, committed)) = below.wal_frames() else {
            return;
        };
        // Closing it drops no lock: SQLite takes none on this file. What cannot be read here cannot
        // be read by SQLite, which then says so.
        let damaged =
            File::open(&path).and_then(|file| wal::first_damaged(&file, moved, committed));
        *in_wal = damaged.unwrap_or(None).map(|frame| Damage::Frame {
            file: damage::shown(&path),
            frame: frame + 1,
        });
    }

    /// After a checkpoint.
    pub fn end_checkpoint(&mut self) {
        if let Kind::Database { in_wal } = &mut self.kind {
            *in_wal = None;
        }
    }

    fn read_database(&self, below: &Below, buffer: &mut [u8], offset: u64) -> c_int {
        /// SQLite peeks at parts of the header without a lock; it uses none of it before it has read
        /// the first page as a whole.
        const HEADER: u64 = 100;
        let code = below.read(buffer, offset);
        let number = page::number_at(buffer.len(), offset);
        match (code, number) {
            (ffi::SQLITE_OK, Some(number)) if page::is_intact(buffer, number) => code,
            (ffi::SQLITE_OK, Some(page)) => {
                buffer.fill(0);
                self.damaged(Damage::Page {
                    file: damage::shown(&self.path),
                    page,
                })
            }
            // SQLite takes it for a page of zeros, which is right only past the end of the database.
            (ffi::SQLITE_IOERR_SHORT_READ, Some(page)) if below.should_have(page) => {
                self.damaged(Damage::Missing {
                    file: damage::shown(&self.path),
                    page,
                })
            }
            (ffi::SQLITE_OK, None) if offset + buffer.len() as u64 > HEADER => {
                // Never asked for: `device_characteristics` says that parts of pages cannot be read.
                buffer.fill(0);
                ffi::SQLITE_IOERR_READ
            }
            _ => code,
        }
    }

    fn write_database(&mut self, below: &Below, content: &[u8], offset: u64) -> c_int {
        if let Kind::Database {
            in_wal: Some(damage),
        } = &self.kind
        {
            return self.damaged(damage.clone());
        }
        let Some(number) = page::number_at(content.len(), offset) else {
            // Nothing but whole pages is ever written to a database.
            return ffi::SQLITE_IOERR_WRITE;
        };
        const RESERVED_AT: usize = 20;
        if number == 1 && content[RESERVED_AT] != RESERVED {
            tracing::error!(path = self.path, "no room for checksums was set aside");
            return ffi::SQLITE_IOERR_WRITE;
        }
        match self.fill(below, content.len(), offset) {
            ffi::SQLITE_OK => self.write_page(below, content, number, offset),
            code => code,
        }
    }

    fn write_page(&mut self, below: &Below, content: &[u8], number: u32, offset: u64) -> c_int {
        // SQLite's buffer is SQLite's: its cache and its WAL have the page without a checksum.
        self.scratch.clear();
        self.scratch.extend_from_slice(content);
        page::seal(&mut self.scratch, number);
        below.write(&self.scratch, offset)
    }

    /// Pages that SQLite skips, since a transaction freed again what it added, are written as zeros
    /// with their checksum: there are no holes, so that zeros without one are damage.
    fn fill(&mut self, below: &Below, page_bytes: usize, up_to: u64) -> c_int {
        let size = match below.size() {
            Ok(size) => size,
            Err(code) => return code,
        };
        if size >= up_to {
            return ffi::SQLITE_OK;
        }
        let zeros = vec![0; page_bytes];
        let mut offset = size.next_multiple_of(page_bytes as u64);
        while offset < up_to {
            let Some(number) = page::number_at(page_bytes, offset) else {
                return ffi::SQLITE_FULL;
            };
            let code = self.write_page(below, &zeros, number, offset);
            if code != ffi::SQLITE_OK {
                return code;
            }
            offset += page_bytes as u64;
        }
        ffi::SQLITE_OK
    }

    fn read_wal(&mut self, below: &Below, buffer: &mut [u8], offset: u64) -> c_int {
        let Kind::Wal { written } = &self.kind else {
            return ffi::SQLITE_MISUSE;
        };
        let sum_of = |frame: Frame| {
            let place = usize::try_from(frame.index).ok()?;
            written.get(place).copied().filter(|&sum| sum != 0)
        };
        if let Some(frame) = Frame::of_whole(buffer.len(), offset) {
            // SQLite recovering, which verifies for itself and cuts what it cannot; or finishing the
            // checksums of a transaction, which must not make damage look right.
            let code = below.read(buffer, offset);
            return match sum_of(frame) {
                Some(sum)
                    if code == ffi::SQLITE_OK
                        && sum != content_sum(&buffer[wal::FRAME_HEADER..]) =>
                {
                    self.verify_chain(below, frame, buffer)
                }
                _ => code,
            };
        }
        let Some(frame) = Frame::of_content(buffer.len(), offset) else {
            // Headers, of which nothing is believed that a checksum does not cover.
            return below.read(buffer, offset);
        };
        if let Some(sum) = sum_of(frame) {
            let code = below.read(buffer, offset);
            if code != ffi::SQLITE_OK || sum == content_sum(buffer) {
                return code;
            }
            // Another connection may have written the frame anew; then its own checksum is right.
        }
        self.read_frame(below, frame, buffer)
    }

    /// Reads a frame's content by way of the frame as a whole.
    fn read_frame(&mut self, below: &Below, frame: Frame, content: &mut [u8]) -> c_int {
        let mut whole = std::mem::take(&mut self.scratch);
        whole.resize(wal::FRAME_HEADER + content.len(), 0);
        let mut code = below.read(&mut whole, frame.offset());
        if code == ffi::SQLITE_OK {
            code = self.verify_chain(below, frame, &mut whole);
        } else if code == ffi::SQLITE_IOERR_SHORT_READ {
            // A frame is only looked for where one has been written.
            code = self.damaged(Damage::Frame {
                file: damage::shown(&self.path),
                frame: frame.index + 1,
            });
        }
        content.copy_from_slice(&whole[wal::FRAME_HEADER..]);
        self.scratch = whole;
        code
    }

    fn verify_chain(&self, below: &Below, frame: Frame, whole: &mut [u8]) -> c_int {
        let mut previous = [0; 8];
        let code = below.read(&mut previous, frame.previous_sum_offset());
        if code != ffi::SQLITE_OK || Frame::is_intact(whole, previous) {
            return code;
        }
        whole.fill(0);
        self.damaged(Damage::Frame {
            file: damage::shown(&self.path),
            frame: frame.index + 1,
        })
    }

    fn write_wal(&mut self, below: &Below, content: &[u8], offset: u64) -> c_int {
        let code = below.write(content, offset);
        let Kind::Wal { written } = &mut self.kind else {
            return code;
        };
        if offset == 0 {
            // The WAL begins anew.
            written.clear();
        } else if let Some(frame) = Frame::of_content(content.len(), offset)
            && let Ok(place) = usize::try_from(frame.index)
        {
            if written.len() <= place {
                written.resize(place + 1, 0);
            }
            written[place] = if code == ffi::SQLITE_OK {
                content_sum(content)
            } else {
                0
            };
        }
        code
    }

    fn damaged(&self, damage: Damage) -> c_int {
        damage::found(&self.path, damage)
    }
}

/// A sum of a frame's content, never 0.
fn content_sum(content: &[u8]) -> u64 {
    page::checksum(content, 0).max(1)
}
