//! The checks that are no tests: formatting, lints, dependencies.
//!
//! Called by `ci`. Each prints what it ran and returns one passed or one failed.

use std::path::PathBuf;
use std::process::Command;

use crate::suites::Tally;
use crate::{process, tools};

/// The version of cargo-deny that deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

/// `cargo`, the one that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether everything is formatted.
pub fn fmt() -> Tally {
    verdict(process::run(cargo().args(["fmt", "--all", "--check"])).success)
}

/// Whether clippy has nothing to say.
pub fn clippy(features: &str) -> Tally {
    let mut command = cargo();
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        features,
    ]);
    verdict(process::run(command.args(["--", "-D", "warnings"])).success)
}

/// Whether the dependencies keep deny.toml. Advisories only where their database can be fetched.
pub fn deny() -> Tally {
    let deny = match need_cargo_deny() {
        Ok(deny) => deny,
        Err(error) => {
            println!("xtask: {error}");
            return if tools::unattended() {
                Tally::one_failed()
            } else {
                Tally::one_skipped()
            };
        }
    };
    let run = |what: &[&str]| {
        let mut command = Command::new(&deny);
        command
            .args(["--all-features", "check", "--hide-inclusion-graph"])
            .args(what);
        command
    };
    let mut tally = verdict(process::run(&mut run(&["bans", "licenses", "sources"])).success);
    // Quiet at first: without a network the attempt fails, and that is no finding.
    let advisories = process::quiet(&mut run(&["advisories"]));
    if advisories
        .lines
        .iter()
        .any(|line| line.contains("failed to fetch advisory database"))
    {
        println!("xtask: advisories were not checked: their database cannot be fetched from here");
    } else {
        advisories.lines.iter().for_each(|line| println!("{line}"));
        if !advisories.success {
            tally = Tally::one_failed();
        }
    }
    tally
}

/// cargo-deny from PATH, or built once into the target directory. Unoptimised: it runs for a second
/// and builds in one minute so.
fn need_cargo_deny() -> Result<PathBuf, String> {
    if let Some(found) = tools::find(&["cargo-deny"]) {
        return Ok(found);
    }
    let directory = tools::root().join("target/tools");
    let built = directory.join("bin/cargo-deny");
    if built.is_file() {
        return Ok(built);
    }
    println!("xtask: building cargo-deny {CARGO_DENY}, which is not here");
    let mut command = cargo();
    command.args([
        "install",
        "--locked",
        "--debug",
        "--config",
        "profile.dev.debug=0",
        "--root",
    ]);
    command
        .arg(&directory)
        .args(["--version", CARGO_DENY, "cargo-deny"]);
    // The repository's own flags (SQLite's, for one) are not for it.
    command.current_dir("/");
    if process::run(&mut command).success && built.is_file() {
        Ok(built)
    } else {
        Err(format!("cargo-deny {CARGO_DENY} could not be built"))
    }
}

fn verdict(success: bool) -> Tally {
    if success {
        Tally::one_passed()
    } else {
        Tally::one_failed()
    }
}
