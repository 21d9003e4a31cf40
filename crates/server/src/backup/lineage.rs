//! Which log there is beyond a backup, and how it fits together.
//!
//! Sources are directories with segments in them: the backup's `log/`, an archive, the log of a node
//! that is no more. A segment is known by its header (history, number), not by its name; the same one
//! may be there several times, cut off earlier or later. Histories are known by the files `epochs`
//! beside them. Which of two copies goes further shows when they are read, frame by frame: each frame
//! is checked by the log that follows it.

use std::path::{Path, PathBuf};

use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentSource, SourceFrame, read_epochs};
use springhead_log::{EpochRecord, LogError, RawPosition};
use springhead_proto::Lsn;

use super::{BackupError, io_error};

/// A segment's file, found.
struct Candidate {
    history_id: u128,
    number: u32,
    previous_crc: u32,
    first_lsn: Lsn,
    path: PathBuf,
}

/// See the module's text.
pub struct Lineage {
    /// The histories to be restored, oldest first.
    records: Vec<EpochRecord>,
    candidates: Vec<Candidate>,
    open: Option<SegmentSource>,
    /// Copies of the present segment that have no more frames.
    ended: Vec<PathBuf>,
}

/// What comes next.
pub enum Next {
    Segment {
        header: Vec<u8>,
        record: EpochRecord,
    },
    Frame(SourceFrame),
    End,
}

impl Lineage {
    /// Looks at the backup's log, which comes first, and at the directories `more`. Of the histories
    /// that go on from the backup's the longest is chosen, or the one called `epoch`.
    ///
    /// # Errors
    /// [`BackupError::Target`] if there is a choice, or none; damage, or what the disk says.
    pub fn find(
        log: &Path,
        more: &[PathBuf],
        epoch: Option<&str>,
    ) -> Result<(u128, Lineage), BackupError> {
        let (cluster_id, own) = read_epochs(&RealDisk, log)?;
        let mut lists = vec![own.clone()];
        let mut candidates = Vec::new();
        let mut dirs = vec![log.to_owned()];
        for dir in more {
            dirs.push(dir.clone());
            dirs.extend(directories_in(dir)?);
        }
        for dir in &dirs {
            collect(dir, &mut candidates)?;
            if !dir.join("epochs").exists() {
                continue;
            }
            let (other, list) = read_epochs(&RealDisk, dir)?;
            if other == cluster_id {
                lists.push(list);
            }
        }
        let records = choose(&own, lists, epoch)?;
        let lineage = Lineage {
            records,
            candidates,
            open: None,
            ended: Vec::new(),
        };
        Ok((cluster_id, lineage))
    }

    /// The histories that will be restored, oldest first.
    pub fn records(&self) -> &[EpochRecord] {
        &self.records
    }

    /// The header of the first segment of the log: the backup's first.
    pub fn first(&self, log: &Path) -> Result<Vec<u8>, BackupError> {
        let first = self
            .candidates
            .iter()
            .filter(|candidate| candidate.path.starts_with(log))
            .min_by_key(|candidate| candidate.number)
            .ok_or_else(|| BackupError::Damaged {
                path: log.to_owned(),
                what: "the segments are missing".to_owned(),
            })?;
        Ok(SegmentSource::open(&RealDisk, &first.path)?.header())
    }

    /// What follows `at` in the history `history_id`.
    ///
    /// # Errors
    /// Damage: a frame begins there, and no copy has it whole. Or what the disk says.
    pub fn next(&mut self, at: RawPosition, history_id: u128) -> Result<Next, BackupError> {
        let place = self
            .records
            .iter()
            .position(|record| record.history_id == history_id);
        let place = place.expect("only known histories are followed");
        let fork = self.records.get(place + 1).map(|next| next.fork_lsn);
        if fork == Some(at.lsn) {
            // What its copies have beyond is of a history that was given up.
            if let Some(segment) = self.segment(at, self.records[place + 1])? {
                return Ok(segment);
            }
        }
        if let Some(frame) = self.frame(at, history_id, fork)? {
            return Ok(Next::Frame(frame));
        }
        match self.segment(at, self.records[place])? {
            Some(segment) => Ok(segment),
            None => Ok(Next::End),
        }
    }

    fn segment(
        &mut self,
        at: RawPosition,
        record: EpochRecord,
    ) -> Result<Option<Next>, BackupError> {
        let found = self.candidates.iter().find(|candidate| {
            candidate.history_id == record.history_id
                && candidate.number == at.segment + 1
                && candidate.previous_crc == at.crc
                && candidate.first_lsn == at.lsn.next()
        });
        let Some(found) = found else { return Ok(None) };
        let header = SegmentSource::open(&RealDisk, &found.path)?.header();
        self.open = None;
        self.ended.clear();
        Ok(Some(Next::Segment { header, record }))
    }

    /// The next frame, from whichever copy of the segment has it, but none beyond the fork.
    fn frame(
        &mut self,
        at: RawPosition,
        history_id: u128,
        fork: Option<Lsn>,
    ) -> Result<Option<SourceFrame>, BackupError> {
        let mut damage: Option<LogError> = None;
        loop {
            if self.open.is_none() {
                match self.copy(at, history_id) {
                    Some(path) => {
                        let mut source = SegmentSource::open(&RealDisk, &path)?;
                        source.seek(at);
                        self.open = Some(source);
                    }
                    None => return damage.map_or(Ok(None), |damage| Err(damage.into())),
                }
            }
            let source = self.open.as_mut().expect("opened above");
            let read = source.next_frame();
            let path = source.path().to_owned();
            match read {
                Ok(Some(frame)) if fork.is_none_or(|fork| frame.next.lsn <= fork) => {
                    return Ok(Some(frame));
                }
                Ok(_) => {}
                // Another copy may have it whole.
                Err(error @ LogError::Corrupt { .. }) => damage = Some(error),
                Err(error) => return Err(error.into()),
            }
            self.open = None;
            self.ended.push(path);
        }
    }

    /// A copy of the segment that has not ended yet.
    fn copy(&self, at: RawPosition, history_id: u128) -> Option<PathBuf> {
        let found = self.candidates.iter().find(|candidate| {
            candidate.history_id == history_id
                && candidate.number == at.segment
                && !self.ended.contains(&candidate.path)
        });
        found.map(|found| found.path.clone())
    }
}

fn directories_in(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let failed = |error| io_error("read", dir, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The segments in `dir`.
fn collect(dir: &Path, candidates: &mut Vec<Candidate>) -> Result<(), BackupError> {
    let failed = |error| io_error("read", dir, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "seg" || extension == "segz")
        {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let source = SegmentSource::open(&RealDisk, &path)?;
        candidates.push(Candidate {
            history_id: source.history_id(),
            number: source.number(),
            previous_crc: source.previous_crc(),
            first_lsn: source.first_lsn(),
            path,
        });
    }
    Ok(())
}

fn choose(
    own: &[EpochRecord],
    lists: Vec<Vec<EpochRecord>>,
    epoch: Option<&str>,
) -> Result<Vec<EpochRecord>, BackupError> {
    let named = |list: &Vec<EpochRecord>| {
        epoch.is_none_or(|epoch| {
            list.last()
                .is_some_and(|last| last.epoch.to_string() == epoch)
        })
    };
    let mut fitting: Vec<Vec<EpochRecord>> = lists
        .into_iter()
        .filter(|list| list.starts_with(own) && named(list))
        .collect();
    // The one that goes on the longest; of two that part, neither.
    fitting.sort_by_key(|list| list.last().map(|last| last.number));
    let Some(longest) = fitting.pop() else {
        return Err(BackupError::Target(format!(
            "there is no history {} that goes on from the backup's",
            epoch.unwrap_or_default()
        )));
    };
    let parted: Vec<String> = fitting
        .iter()
        .filter(|list| !longest.starts_with(list))
        .filter_map(|list| list.last())
        .map(|last| last.epoch.to_string())
        .collect();
    if epoch.is_none() && !parted.is_empty() {
        let last = longest.last().expect("a list holds at least one");
        return Err(BackupError::Target(format!(
            "the log goes on from the backup in histories that part: {} and {}; say which with --epoch",
            parted.join(", "),
            last.epoch
        )));
    }
    Ok(longest)
}
