//! A disk that can be cut off from power, and that breaks when told to.
//!
//! It keeps for each file what is durable and what is only written, and for the names of files the
//! same. [`SimDisk::power_cycle`] decides by its seed what of the unsynced survives: each write not
//! at all, whole, up to some byte, or in some of its sectors; of the changes of names since the
//! last sync of the directory a first part. Faults are set before they happen and counted in calls,
//! so a seed and a count replay a failure.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use springhead_log::disk::{Disk, DiskFile, OpenFor};

const SECTOR_BYTES: usize = 512;
const NO_SPACE: i32 = 28;
const IO_ERROR: i32 = 5;

/// A disk of one's own; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What breaks, and when; counts are of calls from now on, from 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// From that call on, of any kind, nothing reaches the disk any more.
    pub power_off_at: Option<u64>,
    /// That write fails with EIO, half of it done.
    pub write_error_at: Option<u64>,
    /// That sync of a file fails with EIO; what it should have made durable never will be.
    pub sync_error_at: Option<u64>,
    /// Writes do less than they are asked to.
    pub short_writes: bool,
}

#[derive(Clone)]
struct State {
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync of their directory, oldest first.
    name_changes: Vec<NameChange>,
    /// Counts power cycles: a file opened before the last one is gone for its holder.
    generation: u64,
    faults: Faults,
    calls: u64,
    writes: u64,
    syncs: u64,
    read_bytes: u64,
    powered: bool,
    capacity_bytes: u64,
    random: Random,
}

#[derive(Default, Clone)]
struct FileState {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Written since the last sync, oldest first.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// One change of a directory; a power cut leaves all of it or nothing.
#[derive(Clone)]
struct NameChange {
    path: PathBuf,
    /// What the name stands for from then on.
    file: Option<u64>,
    /// The name that the file had before, if it was renamed.
    from: Option<PathBuf>,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }
}

impl SimDisk {
    /// An empty disk, as good as endless, without faults.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State {
                files: BTreeMap::new(),
                next_file: 1,
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                name_changes: Vec::new(),
                generation: 0,
                faults: Faults::default(),
                calls: 0,
                writes: 0,
                syncs: 0,
                read_bytes: 0,
                powered: true,
                capacity_bytes: u64::MAX,
                random: Random::new(seed),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere does not change what is on the disk.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the faults to come; counting starts anew.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.lock();
        state.faults = faults;
        (state.calls, state.writes, state.syncs, state.read_bytes) = (0, 0, 0, 0);
    }

    /// How many calls there have been since [`SimDisk::set_faults`].
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// How many bytes have been read since [`SimDisk::set_faults`].
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.lock().read_bytes
    }

    /// Whether the power has gone off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        !self.lock().powered
    }

    /// How many bytes its files have, whether their names are durable or not.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// How many bytes the disk holds.
    pub fn set_capacity_bytes(&self, bytes: u64) {
        self.lock().capacity_bytes = bytes;
    }

    /// Cuts the power and turns it on again: what was not synced survives in part, all files are
    /// closed, all faults gone.
    pub fn power_cycle(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let kept = state.random.index(state.name_changes.len() + 1);
        for change in state.name_changes.drain(..).take(kept) {
            set_name(&mut state.durable_names, &change);
        }
        state.names = state.durable_names.clone();
        let named: Vec<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| named.contains(file));
        for file in state.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                tear(&mut file.durable, offset, &bytes, &mut state.random);
            }
            file.current = file.durable.clone();
        }
        state.generation += 1;
        state.faults = Faults::default();
        state.powered = true;
    }

    /// Another disk with everything that this one holds at this moment, durable or not: what a process
    /// leaves that is killed now, while it goes on here. Has no faults.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let mut state = self.lock().clone();
        (state.faults, state.powered) = (Faults::default(), true);
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The names of the files there are, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// What is in a file now.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = state.names.get(path)?;
        Some(state.files.get(file)?.current.clone())
    }

    /// Changes a file behind everybody's back, durably.
    pub fn damage(&self, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let Some(&file) = state.names.get(path) else {
            return;
        };
        if let Some(file) = state.files.get_mut(&file) {
            damage(&mut file.current);
            file.durable = file.current.clone();
            file.unsynced.clear();
        }
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    if let Some(from) = &change.from {
        names.remove(from);
    }
    match change.file {
        Some(file) => names.insert(change.path.clone(), file),
        None => names.remove(&change.path),
    };
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// What a power cut leaves of one write.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    match random.below(4) {
        0 => {}
        1 => put(content, offset, bytes),
        2 => put(content, offset, &bytes[..random.index(bytes.len() + 1)]),
        _ => {
            for (place, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if random.below(2) == 0 {
                    put(content, offset + place * SECTOR_BYTES, sector);
                }
            }
        }
    }
}

impl State {
    /// Every call passes here first.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.faults.power_off_at.is_some_and(|at| self.calls >= at) {
            self.powered = false;
        }
        if self.powered {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(IO_ERROR))
        }
    }

    fn change_name(&mut self, path: &Path, file: Option<u64>, from: Option<&Path>) {
        let from = from.map(Path::to_owned);
        let change = NameChange {
            path: path.to_owned(),
            file,
            from,
        };
        set_name(&mut self.names, &change);
        self.name_changes.push(change);
    }

    fn used_bytes(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.current.len() as u64)
            .sum()
    }

    fn make_room(&self, file: u64, length: usize) -> io::Result<()> {
        let had = self.files.get(&file).map_or(0, |file| file.current.len());
        let more = length.saturating_sub(had) as u64;
        let is_endless = self.capacity_bytes == u64::MAX;
        if more > 0 && !is_endless && self.used_bytes() + more > self.capacity_bytes {
            return Err(io::Error::from_raw_os_error(NO_SPACE));
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.lock().call()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.call()?;
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn open(&self, path: &Path, purpose: OpenFor) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.call()?;
        let known = state.names.get(path).copied();
        let file = match (purpose, known) {
            (OpenFor::Creating, None) => {
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, FileState::default());
                state.change_name(path, Some(file), None);
                file
            }
            (OpenFor::Creating, Some(file)) => {
                // Emptying a file is taken to be durable at once: the worse case for its reader.
                state.files.insert(file, FileState::default());
                file
            }
            (_, Some(file)) => file,
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let generation = state.generation;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            generation,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.call()?;
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change_name(to, Some(file), Some(from));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.call()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(path, None, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.call()?;
        let (synced, rest): (Vec<_>, Vec<_>) = state
            .name_changes
            .drain(..)
            .partition(|change| change.path.parent() == Some(dir));
        state.name_changes = rest;
        for change in &synced {
            set_name(&mut state.durable_names, change);
        }
        Ok(())
    }

    fn available_bytes(&self, _: &Path) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.capacity_bytes.saturating_sub(state.used_bytes()))
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
    /// The disk's when it was opened.
    generation: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.lock();
        if state.generation != self.generation {
            return Err(io::Error::from_raw_os_error(IO_ERROR));
        }
        state.call()?;
        Ok(state)
    }

    fn at(offset: u64) -> io::Result<usize> {
        usize::try_from(offset).map_err(io::Error::other)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state()?;
        let Some(file) = state.files.get(&self.file) else {
            return Ok(0);
        };
        let bytes = file.current.get(Self::at(offset)?..).unwrap_or_default();
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        state.read_bytes += length as u64;
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state()?;
        state.writes += 1;
        let failing = state.faults.write_error_at == Some(state.writes);
        let mut length = bytes.len();
        if failing {
            length /= 2;
        } else if state.faults.short_writes && length > 1 {
            length = 1 + state.random.index(length);
            length = length.min(bytes.len());
        }
        let offset = Self::at(offset)?;
        state.make_room(self.file, offset + length)?;
        if let Some(file) = state.files.get_mut(&self.file) {
            put(&mut file.current, offset, &bytes[..length]);
            file.unsynced.push((offset, bytes[..length].to_vec()));
        }
        if failing {
            Err(io::Error::from_raw_os_error(IO_ERROR))
        } else {
            Ok(length)
        }
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let length = Self::at(length)?;
        state.make_room(self.file, length)?;
        if let Some(file) = state.files.get_mut(&self.file)
            && file.current.len() < length
        {
            file.current.resize(length, 0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.syncs += 1;
        let failing = state.faults.sync_error_at == Some(state.syncs);
        if let Some(file) = state.files.get_mut(&self.file) {
            let unsynced = std::mem::take(&mut file.unsynced);
            if failing {
                // As Linux does: the pages are marked clean and their bytes are never written,
                // while reads still see them.
                return Err(io::Error::from_raw_os_error(IO_ERROR));
            }
            for (offset, bytes) in unsynced {
                put(&mut file.durable, offset, &bytes);
            }
            let length = file.current.len();
            file.durable.resize(length, 0);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.state()?;
        Ok(state
            .files
            .get(&self.file)
            .map_or(0, |file| file.current.len() as u64))
    }
}
