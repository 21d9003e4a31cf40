//! A file system of a test's own that is soon full.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of so many megabytes over a directory. Gone, with what is in it, when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Over `directory`, which is made if it is not there; `None`, said on stdout, where file systems
    /// cannot be mounted.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    pub fn over(directory: &Path, megabytes: u64) -> Option<SmallDisk> {
        std::fs::create_dir_all(directory).expect("our directory");
        let size = format!("size={megabytes}m");
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &size, "springhead-test"])
            .arg(directory);
        if command.output().is_ok_and(|output| output.status.success()) {
            let directory = directory.to_path_buf();
            return Some(SmallDisk { directory });
        }
        println!("skipped: a file system can only be mounted as root");
        None
    }

    /// Takes so many megabytes of it away.
    ///
    /// # Panics
    /// If they are not there.
    pub fn take(&self, megabytes: usize) {
        std::fs::write(self.ballast(), vec![7; megabytes << 20]).expect("the ballast fits");
    }

    /// Gives back what was taken.
    ///
    /// # Panics
    /// If nothing was.
    pub fn give_back(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        let _ = command.arg("-l").arg(&self.directory).output();
    }
}
