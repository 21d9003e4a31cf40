//! libFuzzer on the fuzz targets, with the compiler that builds everything else.
//!
//! The coverage that libFuzzer steers by is a pass of LLVM that stable compilers take as codegen
//! options too, so neither a nightly compiler nor `cargo fuzz` is needed: this gives the same options.
//! Each crate's targets are a workspace in its `fuzz` directory; builds and corpora lie under
//! `target/fuzz`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{checks, process, tools};

/// The targets, and the crate that each belongs to.
const TARGETS: [(&str, &str); 7] = [
    ("codec", "proto"),
    ("sync", "proto"),
    ("segment", "log"),
    ("plan", "sql"),
    ("values", "sql"),
    ("pgwire", "server"),
    ("http", "server"),
];

const FLAGS: &[&str] = &[
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What libFuzzer is told beside the corpus: an input that takes seconds or much memory is a find.
const LIMITS: &[&str] = &[
    "-timeout=5",
    "-rss_limit_mb=2048",
    "-malloc_limit_mb=700",
    "-max_len=4096",
];

/// Runs the target that is named, or each. Whether nothing was found.
pub fn run(args: &[&str]) -> bool {
    let option = |name: &str| {
        args.iter()
            .position(|arg| *arg == name)
            .and_then(|at| args.get(at + 1).copied())
    };
    let named = args.first().filter(|arg| !arg.starts_with("--"));
    let chosen: Vec<_> = TARGETS
        .iter()
        .filter(|(target, _)| named.is_none_or(|named| named == target))
        .collect();
    if chosen.is_empty() {
        let known: Vec<_> = TARGETS.iter().map(|(target, _)| *target).collect();
        println!("xtask: the fuzz targets are {}", known.join(", "));
        return false;
    }
    let seconds = option("--seconds").unwrap_or("60");
    // Every target has its turn, whatever the others find.
    chosen
        .into_iter()
        .filter(|(target, krate)| !one(target, krate, seconds, option("--input")))
        .count()
        == 0
}

fn one(target: &str, krate: &str, seconds: &str, input: Option<&str>) -> bool {
    let workspace = tools::root().join("crates").join(krate).join("fuzz");
    let home = tools::root().join("target/fuzz");
    let corpus = home.join("corpus").join(target);
    let finds = home.join("finds").join(target);
    let prepared = prepare(&workspace, &corpus, &finds);
    if let Err(error) = prepared {
        println!("xtask: cannot prepare the target {target}: {error}");
        return false;
    }
    if input.is_none() && !give_seeds(target, krate, &home.join("corpus")) {
        return false;
    }
    let Some(triple) = triple() else {
        println!("xtask: rustc does not say what it builds for");
        return false;
    };
    // With a target given, build scripts and macros are built without the coverage.
    let built = process::run(
        Command::new("cargo")
            .args(["build", "--release", "--bin", target, "--target", &triple])
            .arg("--target-dir")
            .arg(&home)
            .env("RUSTFLAGS", FLAGS.join(" "))
            .current_dir(&workspace),
    );
    if !built.success {
        return false;
    }
    let mut fuzzer = Command::new(home.join(triple).join("release").join(target));
    fuzzer.args(LIMITS);
    match input {
        Some(input) => fuzzer.arg(input),
        None => {
            let dictionary = workspace.join("seeds").join(format!("{target}.dict"));
            if dictionary.is_file() {
                fuzzer.arg(format!("-dict={}", dictionary.display()));
            }
            fuzzer
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-artifact_prefix={}/", finds.display()))
                .args(["-print_final_stats=1", "-len_control=20"])
                .arg(&corpus)
        }
    };
    process::run(&mut fuzzer).success
}

/// Makes the directories, and takes the versions of dependencies that everything else is built with.
fn prepare(workspace: &Path, corpus: &Path, finds: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(corpus)?;
    std::fs::create_dir_all(finds)?;
    let lock: PathBuf = workspace.join("Cargo.lock");
    if !lock.is_file() {
        std::fs::copy(tools::root().join("Cargo.lock"), lock)?;
    }
    Ok(())
}

/// The corpus gets the seeds that the suite runs the target over: the test writes them.
fn give_seeds(target: &str, krate: &str, corpora: &Path) -> bool {
    let features = format!("springhead-{krate}/failpoints");
    let mut test = checks::cargo();
    test.args(["test", "-q", "-p", &format!("springhead-{krate}")]);
    if matches!(krate, "log" | "server") {
        test.args(["--features", &features]);
    }
    test.args(["--test", "fuzz_targets", "--"])
        .arg(format!("the_{target}_target"))
        .env("SPRINGHEAD_FUZZ_CORPUS", corpora);
    process::run(&mut test).success
}

fn triple() -> Option<String> {
    let told = process::quiet(Command::new("rustc").arg("-vV"));
    told.lines
        .iter()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
}
