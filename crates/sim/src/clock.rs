//! The wall clock of a server, set by a test while it runs. Its timers keep counting as they do.

use std::path::{Path, PathBuf};

use crate::process::Setup;

/// A clock that is apart from this machine's.
#[derive(Debug)]
pub struct ShiftedClock {
    library: String,
    file: PathBuf,
}

impl ShiftedClock {
    /// A clock that is right still; its file is made in `directory`. `None`, said on stdout, where the
    /// library that shifts the clock of a process is not installed.
    #[must_use]
    pub fn new(directory: &Path) -> Option<ShiftedClock> {
        let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1"))
            .into_iter()
            .find(|path| Path::new(path).is_file());
        let Some(library) = found else {
            println!("skipped: libfaketime is not here; cargo xtask test installs it");
            return None;
        };
        let file = directory.join("clock");
        let clock = ShiftedClock { library, file };
        clock.set("+0d");
        Some(clock)
    }

    /// From the next look on it is apart by so much: `+3d`, `-3d`.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn set(&self, apart: &str) {
        // Never read half.
        let next = self.file.with_extension("next");
        std::fs::write(&next, apart).expect("the clock's file");
        std::fs::rename(&next, &self.file).expect("the clock's file");
    }

    /// A server with this clock.
    #[must_use]
    pub fn on(&self, setup: &Setup) -> Setup {
        let file = self.file.to_str().expect("a temporary directory's name");
        setup
            .clone()
            .with_env("LD_PRELOAD", &self.library)
            .with_env("FAKETIME_TIMESTAMP_FILE", file)
            .with_env("FAKETIME_NO_CACHE", "1")
            .with_env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}
