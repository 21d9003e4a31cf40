//! Looks at a log that nobody has open, changing nothing: `springhead log verify` and
//! `springhead log dump`.

use std::path::{Path, PathBuf};

use springhead_proto::{Epoch, Lsn, TimestampMs};

use super::directory::{Found, open_segment_file};
use super::files::{EPOCHS_NAME, Epochs, read_file};
use super::format::{FrameHeader, SegmentHeader, read_commit_head};
use super::frames::{Fault, Frame, FrameCursor, read_header};
use super::index::{End, Run, SegmentIndex};
use super::large::LargeCommit;
use super::recovery::CutTail;
use super::scan::{Before, scan, take_commit};
use super::shared::{corrupt, index_name};
use crate::clock::Progress;
use crate::contract::{CommitSlice, EpochRecord, LogError};
use crate::disk::Disk;

/// What [`verify`] found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    pub cluster_id: u128,
    pub epochs: Vec<EpochRecord>,
    /// Oldest first.
    pub segments: Vec<SegmentReport>,
    /// The LSN after the last one.
    pub next_lsn: Lsn,
    /// What a start would cut off the end: a torn write, or a large commit without its end.
    pub torn_tail: Option<CutTail>,
    /// Every damage, by file and offset; empty for a sound log. In a damaged segment nothing behind
    /// the damage has been looked at.
    pub problems: Vec<LogError>,
}

/// One segment in a [`VerifyReport`].
#[derive(Debug, Clone)]
pub struct SegmentReport {
    pub file: PathBuf,
    pub number: u32,
    pub epoch: Epoch,
    pub first_lsn: Lsn,
    /// The LSN after its last.
    pub next_lsn: Lsn,
    /// Bytes of log in it, header included, before compression.
    pub bytes: u64,
    pub frames: u64,
    pub commits: u64,
    pub changes: u64,
    pub compressed: bool,
    /// Whether its index file is there and agrees with its frames. A wrong one is rebuilt at the
    /// next start.
    pub indexed: bool,
}

/// Reads the whole log in `dir` and checks every checksum, link and count.
///
/// # Errors
/// Only if there is nothing to look at: no directory, no log, or one of a newer format. Damage is
/// in the report.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<VerifyReport, LogError> {
    let epochs = Epochs::load(disk, dir)?;
    let names: Vec<String> = Found::list(disk, dir)?.segments.into_values().collect();
    let mut verifier = Verifier {
        disk,
        dir,
        progress,
        done_bytes: 0,
        total_bytes: 0,
        before: None,
        report: VerifyReport {
            cluster_id: epochs.cluster_id,
            epochs: epochs.records.clone(),
            segments: Vec::new(),
            next_lsn: Lsn::FIRST,
            torn_tail: None,
            problems: Vec::new(),
        },
    };
    for name in &names {
        let bytes = open_segment_file(disk, &dir.join(name)).map_or(0, |opened| opened.length);
        verifier.total_bytes += bytes;
    }
    for (place, name) in names.iter().enumerate() {
        match verifier.segment(name, place + 1 == names.len()) {
            Ok(()) => {}
            Err(newer @ LogError::NewerFormat { .. }) => return Err(newer),
            Err(problem) => {
                verifier.report.problems.push(problem);
                verifier.before = None;
            }
        }
    }
    // With one history it may be a log whose beginning was interrupted.
    if names.is_empty() && epochs.records.len() > 1 {
        verifier
            .report
            .problems
            .push(corrupt(dir, 0, "the segments are missing"));
    }
    Ok(verifier.report)
}

struct Verifier<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    progress: &'a dyn Progress,
    done_bytes: u64,
    total_bytes: u64,
    /// The segment before, if it was sound.
    before: Option<(u32, End, Run)>,
    report: VerifyReport,
}

impl Verifier<'_> {
    fn segment(&mut self, name: &str, is_last: bool) -> Result<(), LogError> {
        let path = self.dir.join(name);
        let opened = open_segment_file(self.disk, &path)?;
        let (header, seed) = read_header(&opened.file, &path)?;
        self.check_header(&path, &header)?;
        let compressed = opened.chunks.is_some();
        let mut cursor = FrameCursor::new(opened.file, &header, seed);
        let before = Before {
            in_run: self.before.map(|(_, _, run)| run != Run::None),
            timestamp_ms: self
                .before
                .map_or(TimestampMs(0), |(_, end, _)| end.timestamp_ms),
        };
        let (done, total) = (self.done_bytes, self.total_bytes);
        let progress = self.progress;
        let scanned = scan(&mut cursor, opened.length, before, |at| {
            progress.report(done + at, total)
        });
        self.done_bytes += opened.length;
        self.progress.report(self.done_bytes, total);
        let indexed = self.index_agrees(name, &header, seed, &scanned.end, &scanned.index);
        self.report.segments.push(SegmentReport {
            file: path.clone(),
            number: header.segment_number,
            epoch: header.epoch,
            first_lsn: header.first_lsn,
            next_lsn: scanned.end.next_lsn,
            bytes: scanned.end.offset,
            frames: scanned.frames,
            commits: scanned.commits,
            changes: scanned.changes,
            compressed,
            indexed,
        });
        self.report.next_lsn = scanned.end.next_lsn;
        self.before = Some((header.segment_number, scanned.end, scanned.run));
        let offset = scanned.end.offset;
        match scanned.fault {
            Some(fault @ Fault::Io(_)) => return Err(fault.at(&path, offset)),
            // Whether a segment ended too early is for the next one's header to say.
            Some(Fault::Invalid(what)) if is_last => {
                self.tail(&path, &mut cursor, opened.length, what)?;
            }
            _ => {}
        }
        if is_last && scanned.run != Run::None {
            let (offset, what) = match scanned.run {
                Run::Begun(before) => (before.offset, "a large commit was not finished"),
                _ => (
                    offset,
                    "a large commit that began in an earlier segment was not finished",
                ),
            };
            self.report.torn_tail = Some(CutTail {
                file: path,
                offset,
                what: what.to_owned(),
                doubtful: false,
            });
        }
        Ok(())
    }

    fn check_header(&self, path: &Path, header: &SegmentHeader) -> Result<(), LogError> {
        let known =
            self.report.epochs.iter().any(|record| {
                record.epoch == header.epoch && record.history_id == header.history_id
            });
        if header.cluster_id != self.report.cluster_id || !known {
            return Err(corrupt(path, 0, "the segment is of another log"));
        }
        if let Some((number, end, _)) = self.before {
            if number + 1 != header.segment_number {
                let what = format!("segment {} before it is missing", header.segment_number - 1);
                return Err(corrupt(path, 0, what));
            }
            if end.crc != header.previous_crc || end.next_lsn != header.first_lsn {
                let before = self
                    .report
                    .segments
                    .last()
                    .map_or(path, |segment| &segment.file);
                let what = "its frames do not reach to where the next segment begins";
                return Err(corrupt(before, end.offset, what));
            }
        }
        Ok(())
    }

    /// Whether what is behind the last frame may be cut off at a start.
    fn tail(
        &mut self,
        path: &Path,
        cursor: &mut FrameCursor,
        length: u64,
        what: &str,
    ) -> Result<(), LogError> {
        let offset = cursor.offset();
        let later = cursor
            .valid_frame_after(length)
            .map_err(|fault| fault.at(path, offset))?;
        if let Some(later) = later {
            let what = format!("{what}, and a whole frame follows at byte {later}");
            return Err(corrupt(path, offset, what));
        }
        if cursor
            .begins_like_a_frame(length)
            .map_err(|fault| fault.at(path, offset))?
        {
            self.report.torn_tail = Some(CutTail {
                file: path.to_owned(),
                offset,
                what: what.to_owned(),
                doubtful: false,
            });
        }
        Ok(())
    }

    fn index_agrees(
        &self,
        name: &str,
        header: &SegmentHeader,
        seed: u32,
        end: &End,
        index: &SegmentIndex,
    ) -> bool {
        let bytes = read_file(self.disk, &self.dir.join(index_name(name)));
        bytes
            .ok()
            .and_then(|bytes| SegmentIndex::decode(&bytes, header.segment_number, seed))
            .is_some_and(|(stored, stored_end, _)| stored_end == *end && stored == *index)
    }
}

/// One thing in a log, in the order of the bytes.
#[derive(Debug, Clone)]
pub enum DumpItem {
    /// A segment begins.
    Segment {
        file: PathBuf,
        number: u32,
        epoch: Epoch,
        first_lsn: Lsn,
        created_ms: u64,
    },
    /// A frame begins.
    Frame {
        /// Where in its segment.
        offset: u64,
        /// On disk.
        bytes: u64,
        first_lsn: Lsn,
        /// 0 for a part of a large commit that is not its last.
        count: u64,
        commits: u32,
        timestamp_ms: TimestampMs,
        durable_lsn: Lsn,
        /// Of a large commit.
        part: bool,
        /// With this frame a large commit is whole.
        end: bool,
        crc: u32,
    },
    /// A commit of that frame, or a piece of a large one.
    Commit(CommitSlice),
    /// There is nothing readable from here on.
    End {
        file: PathBuf,
        offset: u64,
        what: String,
    },
}

/// Shows `visit` what is in the log in `dir` from the commit that holds `from` through the one that
/// holds `to`, until it returns `false`.
///
/// # Errors
/// Damage before the end of the last segment, or what the disk says.
pub fn dump(
    disk: &dyn Disk,
    dir: &Path,
    from: Lsn,
    to: Lsn,
    visit: &mut dyn FnMut(DumpItem) -> bool,
) -> Result<(), LogError> {
    let found = Found::list(disk, dir)?;
    if !found.epochs {
        return Err(corrupt(&dir.join(EPOCHS_NAME), 0, "the file is missing"));
    }
    let names: Vec<&String> = found.segments.values().collect();
    let mut dumper = Dumper {
        from,
        to,
        large: None,
        collections: Vec::new(),
    };
    let first_lsn = |place: usize| -> Option<Lsn> {
        Some(super::shared::parse_segment_name(names.get(place)?)?.0)
    };
    let mut start = (0..names.len())
        .rev()
        .find(|&place| first_lsn(place) <= Some(from))
        .unwrap_or(0);
    // The commit that holds `from` may have begun in an earlier segment.
    while start > 0 && begins_within_a_commit(disk, &dir.join(names[start]))? {
        start -= 1;
    }
    for (place, name) in names.iter().enumerate().skip(start) {
        let path = dir.join(name);
        let opened = open_segment_file(disk, &path)?;
        let (header, seed) = read_header(&opened.file, &path)?;
        let next_first = first_lsn(place + 1);
        let segment = DumpItem::Segment {
            file: path.clone(),
            number: header.segment_number,
            epoch: header.epoch,
            first_lsn: header.first_lsn,
            created_ms: header.created_ms,
        };
        if header.first_lsn > to || !visit(segment) {
            return Ok(());
        }
        let mut cursor = FrameCursor::new(opened.file, &header, seed);
        loop {
            let offset = cursor.offset();
            match cursor.next(opened.length) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let shown = dumper
                        .frame(&frame, visit)
                        .map_err(|what| corrupt(&path, offset, what))?;
                    if !shown {
                        return Ok(());
                    }
                }
                Err(fault @ Fault::Io(_)) => return Err(fault.at(&path, offset)),
                Err(_) if next_first == Some(cursor.next_lsn()) => break,
                Err(fault @ Fault::Invalid(_)) if next_first.is_some() => {
                    return Err(fault.at(&path, offset));
                }
                Err(Fault::Invalid(what)) => {
                    visit(DumpItem::End {
                        file: path,
                        offset,
                        what: what.to_owned(),
                    });
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn begins_within_a_commit(disk: &dyn Disk, path: &Path) -> Result<bool, LogError> {
    let opened = open_segment_file(disk, path)?;
    let (header, seed) = read_header(&opened.file, path)?;
    let mut cursor = FrameCursor::new(opened.file, &header, seed);
    // Damage is for the walk itself to name.
    let first = cursor.next(opened.length).ok().flatten();
    Ok(first.is_some_and(|frame| frame.header.is_part() && !frame.header.is_first()))
}

struct Dumper {
    from: Lsn,
    to: Lsn,
    large: Option<LargeCommit>,
    collections: Vec<springhead_proto::CollectionId>,
}

impl Dumper {
    /// Whether to go on.
    fn frame(
        &mut self,
        frame: &Frame,
        visit: &mut dyn FnMut(DumpItem) -> bool,
    ) -> Result<bool, &'static str> {
        let header = &frame.header;
        if header.first_lsn > self.to {
            return Ok(false);
        }
        if header.is_part() {
            return self.part(frame, visit);
        }
        if header.next_lsn() <= self.from {
            return Ok(true);
        }
        if !visit(frame_item(frame.offset, header)) {
            return Ok(false);
        }
        let mut payload = frame.payload.clone();
        let mut lsn = header.first_lsn;
        while !payload.is_empty() {
            let (head, changes) = take_commit(&mut payload, &mut self.collections)?;
            let slice = CommitSlice {
                tenant: head.tenant,
                epoch: header.epoch,
                timestamp_ms: header.timestamp_ms,
                commit_lsn: lsn,
                commit_count: head.count,
                index: 0,
                count: head.count,
                last: true,
                changes,
            };
            lsn = lsn.plus(head.count);
            let wanted = lsn > self.from && slice.commit_lsn <= self.to;
            if wanted && !visit(DumpItem::Commit(slice)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn part(
        &mut self,
        frame: &Frame,
        visit: &mut dyn FnMut(DumpItem) -> bool,
    ) -> Result<bool, &'static str> {
        let header = &frame.header;
        let mut changes = frame.payload.clone();
        if header.is_first() {
            let mut rest = &changes[..];
            let head = read_commit_head(&mut rest, &mut self.collections)
                .ok_or("a large commit's head is damaged")?;
            changes = changes.slice(changes.len() - rest.len()..);
            let wanted = header.first_lsn.plus(head.count) > self.from;
            self.large = Some(LargeCommit::new(&head, header, wanted));
        }
        // Its beginning may have been trimmed, or lie before the segments looked at.
        let Some(large) = &mut self.large else {
            return Ok(true);
        };
        if large.is_wanted() && !visit(frame_item(frame.offset, header)) {
            return Ok(false);
        }
        let slice = large.take(changes, header)?;
        if header.is_end() {
            self.large = None;
        }
        Ok(slice.is_none_or(|slice| visit(DumpItem::Commit(slice))))
    }
}

fn frame_item(offset: u64, header: &FrameHeader) -> DumpItem {
    DumpItem::Frame {
        offset,
        bytes: header.frame_bytes(),
        first_lsn: header.first_lsn,
        count: header.count,
        commits: header.commits,
        timestamp_ms: header.timestamp_ms,
        durable_lsn: header.durable_lsn,
        part: header.is_part(),
        end: header.is_end(),
        crc: header.crc,
    }
}
