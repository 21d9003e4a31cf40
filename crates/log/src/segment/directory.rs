//! The files in a log's directory: which there are, of which kind, and how to open a segment's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::compress::ChunkTable;
use super::files::EPOCHS_NAME;
use super::frames::{Fault, SegmentFile};
use super::keeper::spare_number;
use super::shared::{corrupt, index_name, io_error, parse_segment_name};
use crate::contract::LogError;
use crate::disk::{Disk, OpenFor};

/// The files in a log's directory, by kind.
#[derive(Default)]
pub struct Found {
    pub epochs: bool,
    /// Name of each segment's file, by number.
    pub segments: BTreeMap<u32, String>,
    pub spares: Vec<String>,
    leftovers: Vec<String>,
}

impl Found {
    /// Looks, changes nothing.
    pub fn list(disk: &dyn Disk, dir: &Path) -> Result<Found, LogError> {
        let mut found = Found::default();
        let mut indexes = Vec::new();
        let mut names = disk
            .list(dir)
            .map_err(|error| io_error("list", dir, error))?;
        names.sort_unstable();
        for name in names {
            if name == EPOCHS_NAME {
                found.epochs = true;
            } else if name.ends_with(".idx") {
                indexes.push(name);
            } else if name.ends_with(".tmp") {
                found.leftovers.push(name);
            } else if spare_number(&name).is_some() {
                found.spares.push(name);
            } else if let Some((_, number)) = parse_segment_name(&name) {
                // Compressing ended between putting the new file in place and removing the old.
                // "….seg" sorts before "….segz": the old one, which is complete, is kept.
                match found.segments.get(&number) {
                    Some(first) if name.strip_suffix('z') == Some(first.as_str()) => {
                        found.leftovers.push(name);
                    }
                    Some(_) => {
                        return Err(corrupt(&dir.join(&name), 0, "two segments have one number"));
                    }
                    None => _ = found.segments.insert(number, name),
                }
            }
        }
        let used: BTreeSet<String> = found
            .segments
            .values()
            .map(|segment| index_name(segment))
            .collect();
        found
            .leftovers
            .extend(indexes.into_iter().filter(|index| !used.contains(index)));
        Ok(found)
    }

    /// Removes what an interrupted run left, and spare files that are not as long as they should be.
    pub fn sort_spares(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        length: u64,
    ) -> Result<(), LogError> {
        let mut removed = Vec::new();
        removed.append(&mut self.leftovers);
        let mut spares = Vec::new();
        for name in self.spares.drain(..) {
            let path = dir.join(&name);
            let usable = disk
                .open(&path, OpenFor::Reading)
                .and_then(|file| file.length())
                .is_ok_and(|found| found == length);
            if usable {
                spares.push(name)
            } else {
                removed.push(name)
            }
        }
        self.spares = spares;
        for name in removed {
            // Some may have been renamed into place since the look.
            remove_if_there(disk, &dir.join(name))?;
        }
        Ok(())
    }
}

/// A segment's file, plain or compressed.
pub struct OpenedSegment {
    pub file: SegmentFile,
    pub chunks: Option<Arc<ChunkTable>>,
    /// Bytes before compression.
    pub length: u64,
}

/// Opens a segment's file by its name's ending.
pub fn open_segment_file(disk: &dyn Disk, path: &Path) -> Result<OpenedSegment, LogError> {
    let file = disk
        .open(path, OpenFor::Reading)
        .map_err(|error| io_error("open", path, error))?;
    let (chunks, length) = if path
        .extension()
        .is_some_and(|extension| extension == "segz")
    {
        let table =
            ChunkTable::load(file.as_ref()).map_err(|error| Fault::Io(error).at(path, 0))?;
        let length = table.raw_bytes();
        (Some(Arc::new(table)), length)
    } else {
        let length = file
            .length()
            .map_err(|error| io_error("measure", path, error))?;
        (None, length)
    };
    Ok(OpenedSegment {
        file: SegmentFile::new(file, chunks.clone()),
        chunks,
        length,
    })
}

/// Removes a file; one that is gone already is fine.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    super::keeper::remove_if_there(disk, path).map_err(|error| io_error("remove", path, error))
}
