//! A file system of a test's own that is soon full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that takes the rest.
const REST: &str = "ballast-rest";

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

    /// Takes away all but so many megabytes, beside what was taken.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn leave(&self, megabytes: u64) {
        let mut file = File::create(self.directory.join(REST)).expect("a file");
        let block = vec![7; 1 << 20];
        while file.write_all(&block).is_ok() {}
        let length = file.metadata().expect("our file").len();
        let kept = length.checked_sub(megabytes << 20);
        file.set_len(kept.expect("there is as much"))
            .expect("less of it");
    }

    /// Gives back what was taken.
    ///
    /// # Panics
    /// If nothing was.
    pub fn give_back(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
        // If any was.
        let _ = std::fs::remove_file(self.directory.join(REST));
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
