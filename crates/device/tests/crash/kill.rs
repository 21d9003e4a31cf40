//! How a node dies without its process. When the armed place is passed, what a process killed at that
//! moment would leave is put aside: its files, and of the server's log (which is on a simulated disk) a
//! fork. From then on nothing of the victim counts: whoever drives it looks at [`has_fallen`] before
//! anything that it says goes further, drops it, and begins again with what was put aside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use springhead_sim::disk::SimDisk;

/// Files that live on from one life to the next: a device knows itself by the first, and holds the second.
const OF_THE_DIRECTORY: [&str; 2] = ["IDENTITY", "LOCK"];

/// What a directory holds; of memory that is shared while it is open, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files(BTreeMap<PathBuf, Vec<u8>>);

impl Files {
    /// What is there at one moment: what two passes over it have found alike was so in between.
    pub fn of(dir: &Path) -> Files {
        let mut before = Files::read(dir);
        for _ in 0..1000 {
            let now = Files::read(dir);
            if now.is_some() && now == before {
                return now.unwrap_or_default();
            }
            before = now;
        }
        panic!("{} does not come to rest", dir.display());
    }

    /// `None` if a file went away meanwhile.
    fn read(dir: &Path) -> Option<Files> {
        let mut files = Files::default();
        let mut directories = vec![dir.to_path_buf()];
        while let Some(at) = directories.pop() {
            for entry in std::fs::read_dir(&at).ok()? {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?.to_owned();
                if path.is_dir() {
                    directories.push(path);
                } else if !name.ends_with("-shm") && !OF_THE_DIRECTORY.contains(&name.as_str()) {
                    let relative = path.strip_prefix(dir).ok()?.to_path_buf();
                    files.0.insert(relative, std::fs::read(&path).ok()?);
                }
            }
        }
        Some(files)
    }

    /// Makes `dir` hold this and nothing else.
    pub fn put(&self, dir: &Path) {
        empty(dir);
        for (path, bytes) in &self.0 {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else if !OF_THE_DIRECTORY.contains(&name) {
            std::fs::remove_file(&path).unwrap();
        }
    }
}

/// What a victim leaves.
pub struct Remains {
    pub files: Files,
    /// The server's log.
    pub disk: Option<SimDisk>,
}

struct Armed {
    point: &'static str,
    /// Passes that are still to come, that of the kill included.
    passes: u64,
    dir: PathBuf,
    disk: Option<SimDisk>,
}

static ARMED: Mutex<Option<Armed>> = Mutex::new(None);
static FALLEN: AtomicBool = AtomicBool::new(false);
static REMAINS: Mutex<Option<Remains>> = Mutex::new(None);

/// To be called once in the process.
pub fn install() {
    assert!(springhead_log::failpoint::watch(passed), "one watcher");
}

fn passed(name: &str) {
    let mut slot = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_this = slot.as_mut().is_some_and(|armed| {
        let is_here = armed.point == name;
        armed.passes -= u64::from(is_here);
        is_here && armed.passes == 0
    });
    if !is_this {
        return;
    }
    let armed = slot.take().unwrap();
    // First: what is said from now on is said by nobody.
    FALLEN.store(true, Ordering::SeqCst);
    // The state before the log, which is never behind it.
    let files = Files::of(&armed.dir);
    let remains = Remains {
        files,
        disk: armed.disk.as_ref().map(SimDisk::fork),
    };
    *REMAINS.lock().unwrap_or_else(PoisonError::into_inner) = Some(remains);
}

/// Whoever lives in `dir` dies at that pass of `point`, counted from 1.
pub fn arm(point: &'static str, passes: u64, dir: &Path, disk: Option<&SimDisk>) {
    *ARMED.lock().unwrap() = Some(Armed {
        point,
        passes,
        dir: dir.to_path_buf(),
        disk: disk.cloned(),
    });
}

/// Whether the victim is dead.
pub fn has_fallen() -> bool {
    FALLEN.load(Ordering::SeqCst)
}

/// Nobody dies any more. What is left of the victim, if it has died.
pub fn disarm() -> Option<Remains> {
    // Whoever is dying holds it until all is put aside.
    *ARMED.lock().unwrap() = None;
    FALLEN.store(false, Ordering::SeqCst);
    REMAINS.lock().unwrap().take()
}
