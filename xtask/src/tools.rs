//! What the runners need on the machine, and how it is had when it is missing: programs from Debian,
//! packages from PyPI and npm, always by name.
//!
//! Called before a runner starts. Says what it installs; never installs what is there already.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process;

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("xtask lies in the repository's root")
        .to_path_buf()
}

/// Whether this runs unattended, where a missing tool is a failure and not a reason to skip.
pub fn unattended() -> bool {
    std::env::var_os("CI").is_some()
}

/// The first of `names` that is a program on PATH.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names.iter().find_map(|name| {
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|candidate| candidate.is_file())
    })
}

/// Makes sure that one of `programs` is there, from the Debian package if need be.
///
/// # Errors
/// What is missing and what was tried.
pub fn need(programs: &[&str], package: &str) -> Result<PathBuf, String> {
    if let Some(found) = find(programs) {
        return Ok(found);
    }
    install_debian(package)?;
    find(programs).ok_or_else(|| {
        format!(
            "{} is still missing after installing {package}",
            programs[0]
        )
    })
}

/// Makes sure that PostgreSQL's server programs are there; the directory they are in.
///
/// # Errors
/// What is missing and what was tried.
pub fn need_postgres() -> Result<PathBuf, String> {
    let bin = Path::new("/usr/lib/postgresql/15/bin");
    if !bin.join("initdb").is_file() {
        install_debian("postgresql-15")?;
    }
    if bin.join("initdb").is_file() {
        Ok(bin.to_path_buf())
    } else {
        Err("PostgreSQL 15 is not under /usr/lib/postgresql/15".to_owned())
    }
}

/// Makes sure that the library that shifts a process's clock is there.
///
/// # Errors
/// What is missing and what was tried.
pub fn need_faketime() -> Result<(), String> {
    let is_there = || {
        ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .iter()
            .any(|machine| {
                Path::new("/usr/lib")
                    .join(machine)
                    .join("faketime/libfaketimeMT.so.1")
                    .is_file()
            })
    };
    if !is_there() {
        install_debian("libfaketime")?;
    }
    is_there()
        .then_some(())
        .ok_or_else(|| "libfaketime is not under /usr/lib".to_owned())
}

/// Makes sure that a Debian package that has no program of its own is installed.
///
/// # Errors
/// What is missing and what was tried.
pub fn need_debian(package: &str) -> Result<(), String> {
    install_debian(package)
}

fn install_debian(package: &str) -> Result<(), String> {
    static UPDATED: OnceLock<bool> = OnceLock::new();
    if find(&["apt-get"]).is_none() {
        return Err(format!(
            "needs the Debian package {package}, and there is no apt-get here"
        ));
    }
    println!("xtask: installing {package} from Debian");
    let updated = UPDATED.get_or_init(|| process::quiet(&mut apt(&["-q", "update"])).success);
    if !updated {
        println!("xtask: apt-get update failed; trying with the lists that are here");
    }
    let done = process::quiet(&mut apt(&[
        "-q",
        "install",
        "-y",
        "--no-install-recommends",
        package,
    ]));
    if done.success {
        return Ok(());
    }
    let last = done.lines.last().cloned().unwrap_or_default();
    Err(format!("apt-get install {package} failed: {last}"))
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // Recommended packages and questions only cost time; a held lock is waited for.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(args);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Installs the npm packages that `directory`'s lock file names, unless it has been done already.
///
/// # Errors
/// What is missing and what was tried.
pub fn need_npm(directory: &Path) -> Result<(), String> {
    need(&["node"], "nodejs")?;
    let npm = need(&["npm"], "npm")?;
    let lock = directory.join("package-lock.json");
    let mark = directory.join("node_modules/.package-lock.json");
    if is_newer(&mark, &lock) {
        return Ok(());
    }
    println!(
        "xtask: installing the npm packages of {}",
        directory.display()
    );
    let mut command = Command::new(npm);
    command
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(directory);
    if process::run(&mut command).success {
        Ok(())
    } else {
        Err(format!("npm ci failed in {}", directory.display()))
    }
}

fn is_newer(mark: &Path, than: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    matches!((modified(mark), modified(than)), (Some(mark), Some(than)) if mark >= than)
}
