//! Housekeeping beside the append path: the next segment's file is laid out before it is needed,
//! sealed segments get their index file and, if asked for, are compressed; free space is watched.
//! Runs on a thread of its own, or within the calls themselves where the configuration says so
//! (the simulated disk wants one order of events).

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::compress;
use super::frames::SegmentFile;
use super::shared::{Segment, Shared, compressed_name, index_name};
use super::writer::WriteFailure;
use crate::contract::RefusedReason;
use crate::disk::{Disk, OpenFor, write_all_at};
use crate::failpoint;

/// How long a look at the free space is believed.
const SPACE_CHECK_MS: u64 = 250;
/// … and whenever this part of the reserve has been appended.
const RESERVE_PARTS: u64 = 8;
const LEAST_CHECK_BYTES: u64 = 1024 * 1024;
/// How often it is written down how long the log has been open.
const RUNNING_INTERVAL: Duration = Duration::from_secs(60);
const ZEROS_BYTES: usize = 1024 * 1024;
/// Zeros are flushed in steps, so that no flush of a commit waits behind all of them.
const FLUSH_ZEROS_BYTES: u64 = 8 * 1024 * 1024;

/// See the module's text.
pub struct Keeper {
    shared: Arc<Shared>,
    work: Mutex<Work>,
    wake: Condvar,
    /// When the free space was last looked at, by the monotonic clock; 0 for never.
    checked_at_ms: AtomicU64,
    /// What has been appended since.
    unchecked_bytes: AtomicU64,
    /// Whether it was below the reserve then.
    below_reserve: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Work {
    /// Sealed, but perhaps not yet shown to readers.
    sealed: VecDeque<Arc<Segment>>,
    /// Shown to readers and in need of an index file.
    ready: VecDeque<Arc<Segment>>,
    /// Files laid out for the next segments.
    spares: Vec<String>,
    /// Numbers the files, so that no two have one name.
    next_spare: u64,
    /// Whether the thread is laying out a file now.
    laying_out: bool,
    stop: bool,
}

impl Keeper {
    /// Starts with the spare files that were found.
    pub fn start(shared: Arc<Shared>, spares: Vec<String>) -> io::Result<Arc<Keeper>> {
        let next_spare = spares
            .iter()
            .filter_map(|name| spare_number(name))
            .max()
            .map_or(0, |n| n + 1);
        let work = Work {
            spares,
            next_spare,
            ..Work::default()
        };
        let background = shared.config.background;
        let keeper = Arc::new(Keeper {
            shared,
            work: Mutex::new(work),
            wake: Condvar::new(),
            checked_at_ms: AtomicU64::new(0),
            unchecked_bytes: AtomicU64::new(0),
            below_reserve: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        if background {
            let own = Arc::clone(&keeper);
            let thread = std::thread::Builder::new()
                .name("log-keeper".into())
                .spawn(move || own.run())?;
            *keeper.thread.lock() = Some(thread);
        }
        Ok(keeper)
    }

    /// Ends the thread, after the index files that are due.
    pub fn stop(&self) {
        self.work.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log's housekeeping thread panicked");
        }
    }

    /// A file of the right length, to be made a segment.
    pub fn take_spare(&self) -> Result<String, WriteFailure> {
        let name = {
            let mut work = self.work.lock();
            while work.spares.is_empty() && work.laying_out {
                self.wake.wait(&mut work);
            }
            match work.spares.pop() {
                Some(name) => return Ok(name),
                None => work.new_spare_name(),
            }
        };
        match lay_out(
            self.shared.disk.as_ref(),
            &self.shared.path(&name),
            self.shared.config.segment_bytes,
        ) {
            Ok(()) => Ok(name),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                Err(WriteFailure::Refused(self.full()))
            }
            Err(error) => Err(WriteFailure::Poisoned(format!(
                "lay out a segment: {error}"
            ))),
        }
    }

    /// Takes note of a segment that gets no more frames.
    pub fn sealed(&self, segment: Arc<Segment>) {
        self.work.lock().sealed.push_back(segment);
    }

    /// Forgets the segments from `number` on: they are cut off, or go on.
    pub fn forget_sealed_from(&self, number: u32) {
        let mut work = self.work.lock();
        work.sealed
            .retain(|segment| segment.header.segment_number < number);
    }

    /// Takes note that readers have been shown the segment `number`: those before it are done with.
    pub fn published(&self, number: u32) {
        let mut work = self.work.lock();
        if work.sealed.is_empty() {
            return;
        }
        while let Some(segment) = work
            .sealed
            .pop_front_if(|s| s.header.segment_number < number)
        {
            work.ready.push_back(segment);
        }
        drop(work);
        if self.shared.config.background {
            self.wake.notify_all();
        } else {
            while let Some(segment) = { self.work.lock().ready.pop_front() } {
                self.finish(&segment);
            }
        }
    }

    /// Gives a trimmed segment's file a second life, if there is use for it. Its name is changed,
    /// not its bytes: those of another segment never look valid.
    pub fn recycle(&self, file_name: &str) -> io::Result<()> {
        let shared = &self.shared;
        let name = {
            let mut work = self.work.lock();
            let enough = work.spares.len() >= shared.config.spare_segments;
            (!enough && file_name.ends_with(".seg")).then(|| work.new_spare_name())
        };
        match name {
            Some(name) => {
                shared
                    .disk
                    .rename(&shared.path(file_name), &shared.path(&name))?;
                shared.disk.sync_dir(&shared.dir)?;
                self.work.lock().spares.push(name);
            }
            None => {
                shared.disk.remove(&shared.path(file_name))?;
                shared.disk.sync_dir(&shared.dir)?;
            }
        }
        Ok(())
    }

    /// Refuses while the disk has less than the reserve left. `bytes` are to be appended: between
    /// two looks at the disk there is never more than a part of the reserve, since what is written
    /// here is written again, and more than once, by the states that follow the log.
    pub fn check_reserve(&self, bytes: u64) -> Result<(), RefusedReason> {
        let now = self.shared.clock.monotonic_ms().saturating_add(1);
        let checked = self.checked_at_ms.load(Ordering::Relaxed);
        let unchecked = self.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let stale = checked == 0
            || now.saturating_sub(checked) >= SPACE_CHECK_MS
            || unchecked
                >= (self.shared.config.reserve_bytes / RESERVE_PARTS).max(LEAST_CHECK_BYTES);
        if !stale && !self.below_reserve.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.checked_at_ms.store(now, Ordering::Relaxed);
        self.unchecked_bytes.store(0, Ordering::Relaxed);
        self.make_room_for(0)
    }

    /// Refuses if writing that much would take the disk below the reserve.
    pub fn make_room_for(&self, bytes: u64) -> Result<(), RefusedReason> {
        let reserve_bytes = self.shared.config.reserve_bytes;
        // A file system that cannot say how full it is does not stop the log.
        let available_bytes = self
            .shared
            .disk
            .available_bytes(&self.shared.dir)
            .unwrap_or(u64::MAX);
        let below = available_bytes < reserve_bytes;
        if self.below_reserve.swap(below, Ordering::Relaxed) != below {
            tracing::warn!(below, available_bytes, reserve_bytes, "free disk space");
        }
        if below || available_bytes - reserve_bytes < bytes {
            return Err(RefusedReason::DiskReserve {
                available_bytes,
                reserve_bytes,
            });
        }
        Ok(())
    }

    fn full(&self) -> RefusedReason {
        let available_bytes = self
            .shared
            .disk
            .available_bytes(&self.shared.dir)
            .unwrap_or(0);
        RefusedReason::DiskReserve {
            available_bytes,
            reserve_bytes: self.shared.config.segment_bytes,
        }
    }

    fn run(&self) {
        // One attempt per need: a full disk is no reason to try without pause.
        let mut tried = false;
        loop {
            let mut work = self.work.lock();
            if let Some(segment) = work.ready.pop_front() {
                drop(work);
                self.finish(&segment);
                tried = false;
            } else if work.stop {
                return;
            } else if work.spares.is_empty() && !tried {
                tried = true;
                let name = work.new_spare_name();
                work.laying_out = true;
                drop(work);
                let laid_out = lay_out(
                    self.shared.disk.as_ref(),
                    &self.shared.path(&name),
                    self.shared.config.segment_bytes,
                );
                let mut work = self.work.lock();
                work.laying_out = false;
                match laid_out {
                    Ok(()) => work.spares.push(name),
                    Err(error) => tracing::warn!(%error, "could not lay out the next segment"),
                }
                drop(work);
                self.wake.notify_all();
            } else if self.wake.wait_for(&mut work, RUNNING_INTERVAL).timed_out() {
                drop(work);
                self.shared.store_running_ms();
            }
        }
    }

    fn finish(&self, segment: &Arc<Segment>) {
        if let Err(error) = write_index(&self.shared, segment) {
            tracing::warn!(%error, segment = %segment.file_name, "could not write the index file; it will be rebuilt");
        }
        if let Some(level) = self.shared.config.compress_level
            && let Err(error) = self.compress(segment, level)
        {
            tracing::warn!(%error, segment = %segment.file_name, "could not compress the segment");
        }
    }

    /// Replaces a sealed segment's file by a compressed one.
    fn compress(&self, segment: &Arc<Segment>, level: i32) -> io::Result<()> {
        let shared = &self.shared;
        let Some(sealed) = segment.sealed.get() else {
            return Ok(());
        };
        let plain = shared
            .disk
            .open(&shared.path(&segment.file_name), OpenFor::Reading)?;
        let plain = SegmentFile::new(plain, None);
        let bytes = compress::compress(sealed.end.offset, level, |offset, length| {
            plain.read(offset, length)
        })?;
        if bytes.len() as u64 >= sealed.end.offset {
            return Ok(());
        }
        let file_name = compressed_name(&segment.file_name);
        let temporary = format!("{file_name}.tmp");
        write_durably(shared.disk.as_ref(), &shared.path(&temporary), &bytes)?;
        let file = shared
            .disk
            .open(&shared.path(&temporary), OpenFor::Reading)?;
        let chunks = compress::ChunkTable::load(file.as_ref())?;
        let replacement = Arc::new(Segment {
            header: segment.header,
            seed: segment.seed,
            file_name,
            chunks: Some(Arc::new(chunks)),
            index: segment.index.read().clone().into(),
            sealed: segment.sealed.clone(),
        });
        failpoint::hit("log.before_compress_rename");
        // Under the lock, so that a trim happens before it or after: a file that comes back behind
        // a trim would be a gap at the next start.
        let mut published = shared.published.lock();
        let place = published
            .segments
            .iter()
            .position(|other| other.header.segment_number == segment.header.segment_number);
        let Some(place) = place else {
            drop(published);
            return shared.disk.remove(&shared.path(&temporary));
        };
        shared.disk.rename(
            &shared.path(&temporary),
            &shared.path(&replacement.file_name),
        )?;
        published.segments[place] = replacement;
        drop(published);
        shared.disk.sync_dir(&shared.dir)?;
        failpoint::hit("log.after_compress_rename");
        // Readers that have the plain file open go on in it: it is removed, never reused.
        remove_if_there(shared.disk.as_ref(), &shared.path(&segment.file_name))?;
        shared.disk.sync_dir(&shared.dir)
    }
}

/// Removes a file; one that is gone already is fine.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Work {
    fn new_spare_name(&mut self) -> String {
        let number = self.next_spare;
        self.next_spare += 1;
        format!("spare-{number:010}")
    }
}

/// The number in a spare file's name.
pub fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?.parse().ok()
}

/// Writes a segment file's worth of zeros, so that flushing frames later changes no metadata. The
/// file is durable, its name is not; it needs none before it becomes a segment.
pub fn lay_out(disk: &dyn Disk, path: &Path, length: u64) -> io::Result<()> {
    let laid_out = (|| {
        let file = disk.open(path, OpenFor::Creating)?;
        file.allocate(length)?;
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = 0;
        let mut flushed = 0;
        while at < length {
            let step = (length - at).min(ZEROS_BYTES as u64);
            write_all_at(
                file.as_ref(),
                &zeros[..usize::try_from(step).unwrap_or(ZEROS_BYTES)],
                at,
            )?;
            at += step;
            if at - flushed >= FLUSH_ZEROS_BYTES {
                file.sync_data()?;
                flushed = at;
            }
        }
        file.sync_all()
    })();
    if laid_out.is_err() {
        // Best effort: what stays is found as a file of the wrong length at the next start.
        let _ = disk.remove(path);
    }
    laid_out
}

/// Writes the index file of a sealed segment.
pub fn write_index(shared: &Shared, segment: &Segment) -> io::Result<()> {
    let Some(sealed) = segment.sealed.get() else {
        return Ok(());
    };
    let bytes = segment.index.read().encode(
        segment.header.segment_number,
        segment.seed,
        &sealed.end,
        &sealed.run,
    );
    let name = index_name(&segment.file_name);
    let temporary = format!("{name}.tmp");
    write_durably(shared.disk.as_ref(), &shared.path(&temporary), &bytes)?;
    shared
        .disk
        .rename(&shared.path(&temporary), &shared.path(&name))?;
    shared.disk.sync_dir(&shared.dir)
}

/// Writes a whole new file and flushes it; its name is made durable by whoever renames it.
pub fn write_durably(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(path, OpenFor::Creating)?;
    write_all_at(file.as_ref(), bytes, 0)?;
    file.sync_all()
}
