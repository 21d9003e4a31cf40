//! The test runners and the one line that adds them up.
//!
//! `test` runs them in turn and goes on after a failure, so that one run shows everything. Called
//! by `main`; reads the summaries of nextest, cargo test and node's test runner.

use std::collections::BTreeMap;
use std::process::Command;

use crate::{checks, process, tidy, tools};

/// The Rust tests run with the kill points built in: the crash matrix needs them.
const FEATURES: &str = "springhead-server/failpoints";

/// A real schema with data, kept beside the repository.
const CHINOOK: &str = "../shared/data/chinook_postgresql.sql";

/// What one runner found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// How many tests that passed name the guarantee, by its number.
    pub guarantees: BTreeMap<u32, u64>,
}

impl Tally {
    /// One thing that went wrong before any test could.
    pub fn one_failed() -> Tally {
        Tally {
            failed: 1,
            ..Tally::default()
        }
    }

    /// One thing that could not be tried here.
    pub fn one_skipped() -> Tally {
        Tally {
            skipped: 1,
            ..Tally::default()
        }
    }

    /// One check that is well.
    pub fn one_passed() -> Tally {
        Tally {
            passed: 1,
            ..Tally::default()
        }
    }

    /// Whether nothing failed.
    pub fn is_pass(&self) -> bool {
        self.failed == 0
    }

    /// Takes another runner's findings to its own.
    pub fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        for (guarantee, count) in &other.guarantees {
            *self.guarantees.entry(*guarantee).or_default() += count;
        }
    }

    fn count_guarantee(&mut self, test: &str) {
        let name = test.rsplit("::").next().unwrap_or(test);
        let number = name.strip_prefix('g').and_then(|rest| rest.split_once('_'));
        if let Some(number) = number.and_then(|(number, _)| number.parse().ok()) {
            *self.guarantees.entry(number).or_default() += 1;
        }
    }
}

/// All tests, or the Rust tests whose names contain `filter`. Returns whether all passed.
pub fn test(filter: Option<&str>) -> bool {
    close(&run_tests(filter))
}

/// All checks, then all tests. Returns whether all passed.
pub fn ci() -> bool {
    let mut parts = vec![("fmt", checks::fmt())];
    let tidy = if tidy::run(false) {
        Tally::one_passed()
    } else {
        Tally::one_failed()
    };
    parts.push(("tidy", tidy));
    parts.push(("clippy", checks::clippy(FEATURES)));
    parts.push(("deny", checks::deny()));
    parts.extend(run_tests(None));
    close(&parts)
}

/// The crash scenarios, long. `args` go to the `soak` program as they are.
pub fn soak(args: &[&str]) -> bool {
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "-p",
        "springhead-server",
        "-p",
        "springhead-sim",
    ]);
    build.args(["--bins", "--features", FEATURES]);
    if !process::run(&mut build).success {
        return false;
    }
    if let Err(error) = tools::need(&["strace"], "strace") {
        println!("xtask: {error}; the scenarios that need it say so");
    }
    // Without a seed also what is tried at some bytes elsewhere, at every byte.
    let mut good = true;
    if !args.contains(&"--seed") {
        let mut damage = cargo();
        damage.args([
            "test",
            "--release",
            "-p",
            "springhead-server",
            "--features",
            FEATURES,
        ]);
        damage
            .args(["--test", "damage"])
            .env("SPRINGHEAD_LONG", "1");
        good = process::run(&mut damage).success;
    }
    let release = target().join("release");
    let mut soak = Command::new(release.join("soak"));
    soak.args(args)
        .env("SPRINGHEAD_BIN", release.join("springhead"));
    process::run(&mut soak).success && good
}

fn run_tests(filter: Option<&str>) -> Vec<(&'static str, Tally)> {
    let mut parts = Vec::new();
    if filter.is_none() {
        for (program, package) in [("psql", "postgresql-client"), ("strace", "strace")] {
            if let Err(error) = tools::need(&[program], package) {
                parts.push((program, missing(&error)));
            }
        }
        if let Err(error) = tools::need_faketime() {
            parts.push(("libfaketime", missing(&error)));
        }
        if let Err(error) = tools::need_postgres() {
            parts.push(("postgresql", missing(&error)));
        }
    }
    if !tools::root().join(CHINOOK).is_file() {
        println!("xtask: {CHINOOK} is not here: the tests that load it are skipped");
    }
    parts.push(("rust", rust(filter)));
    if filter.is_none() {
        parts.push(("doc tests", doc_tests()));
        parts.push(("clients", clients()));
        parts.push(("typescript", typescript()));
        parts.push(("python", drivers()));
        parts.push(("jdbc", jdbc()));
        parts.push(("rust drivers", rust_drivers()));
    }
    parts
}

fn rust(filter: Option<&str>) -> Tally {
    let nextest = process::quiet(cargo().args(["nextest", "--version"])).success;
    let mut command = cargo();
    if nextest {
        command.args(["nextest", "run", "--no-fail-fast", "--status-level", "pass"]);
    } else {
        println!("xtask: cargo-nextest is not here, so cargo test runs the tests");
        command.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    command
        .args(["--workspace", "--features", FEATURES])
        .args(filter);
    let done = process::run(&mut command);
    let mut tally = if nextest {
        parse_nextest(&done.lines)
    } else {
        parse_cargo_test(&done.lines)
    };
    if !done.success && tally.failed == 0 {
        // It did not build, or died before its summary.
        tally.failed = 1;
    }
    tally
}

fn doc_tests() -> Tally {
    let mut command = cargo();
    command.args([
        "test",
        "--workspace",
        "--doc",
        "--no-fail-fast",
        "--features",
        FEATURES,
    ]);
    let done = process::run(&mut command);
    let mut tally = parse_cargo_test(&done.lines);
    if !done.success && tally.failed == 0 {
        tally.failed = 1;
    }
    tally
}

/// Real clients that are no Rust: browser, npm packages. They start the server that was built for
/// the Rust tests.
fn clients() -> Tally {
    let directory = tools::root().join("tests/clients");
    if let Err(error) = tools::need_npm(&directory) {
        return missing(&error);
    }
    if let Err(error) = tools::need(&["openssl"], "openssl") {
        return missing(&error);
    }
    if let Err(error) = tools::need(&["chromium", "chromium-browser"], "chromium") {
        return missing(&error);
    }
    // Built already with the Rust tests, whose features of dependencies count: a no-op then.
    let mut build = cargo();
    build.args(["test", "--workspace", "--no-run", "--features", FEATURES]);
    if !process::run(&mut build).success {
        return Tally::one_failed();
    }
    let mut tests: Vec<_> = std::fs::read_dir(&directory)
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .collect()
        })
        .unwrap_or_default();
    tests.retain(|path| path.to_string_lossy().ends_with(".test.mjs"));
    tests.sort();
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-reporter=tap", "--test-concurrency=1"])
        .args(&tests);
    command.env("SPRINGHEAD_BIN", target().join("debug/springhead"));
    let done = process::run(&mut command);
    let mut tally = parse_tap(&done.lines);
    if (!done.success || tally.passed + tally.skipped == 0) && tally.failed == 0 {
        tally.failed = 1;
    }
    tally
}

/// The TypeScript client: its types, then its own tests against the server that [`clients`] has built.
fn typescript() -> Tally {
    let directory = tools::root().join("clients/js");
    if let Err(error) = tools::need_npm(&directory) {
        return missing(&error);
    }
    let bin = |name: &str| Command::new(directory.join("node_modules/.bin").join(name));
    let mut check = bin("tsc");
    check
        .args(["-p", "tsconfig.test.json"])
        .current_dir(&directory);
    if !process::run(&mut check).success {
        return Tally::one_failed();
    }
    let mut vitest = bin("vitest");
    vitest
        .args(["run", "--reporter=tap-flat"])
        .current_dir(&directory)
        .env("SPRINGHEAD_BIN", target().join("debug/springhead"));
    let done = process::run(&mut vitest);
    let mut tally = parse_tap_lines(&done.lines);
    if (!done.success || tally.passed + tally.skipped == 0) && tally.failed == 0 {
        tally.failed = 1;
    }
    tally
}

/// Python's drivers and ORMs, against the server that [`clients`] has built.
fn drivers() -> Tally {
    let server = target().join("debug/springhead");
    crate::drivers::python(&target(), &server).unwrap_or_else(|error| missing(&error))
}

/// Rust's drivers, which are built for it.
fn rust_drivers() -> Tally {
    let server = target().join("debug/springhead");
    crate::drivers::rust(&target(), &server).unwrap_or_else(|error| missing(&error))
}

fn jdbc() -> Tally {
    let server = target().join("debug/springhead");
    crate::drivers::jdbc(&server).unwrap_or_else(|error| missing(&error))
}

/// A runner whose tools are missing: a failure where nobody watches, else a skip that is said.
fn missing(error: &str) -> Tally {
    println!("xtask: {error}");
    if tools::unattended() {
        Tally::one_failed()
    } else {
        Tally::one_skipped()
    }
}

/// Prints what each part found and, last, the line that adds them up.
fn close(parts: &[(&str, Tally)]) -> bool {
    let mut total = Tally::default();
    println!();
    for (name, tally) in parts {
        let Tally {
            passed,
            failed,
            skipped,
            ..
        } = tally;
        println!("{name:>12}: {passed} passed, {failed} failed, {skipped} skipped");
        total.add(tally);
    }
    let guarantees: Vec<String> = total
        .guarantees
        .iter()
        .map(|(number, count)| format!("G{number} {count}"))
        .collect();
    if !guarantees.is_empty() {
        println!("tests per guarantee: {}", guarantees.join(", "));
    }
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    total.is_pass()
}

/// `Summary [ 1.2s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 2 skipped`.
fn parse_nextest(lines: &[String]) -> Tally {
    let mut tally = Tally::default();
    for line in lines {
        let line = line.trim();
        if let Some(test) = line
            .strip_prefix("PASS [")
            .or_else(|| line.strip_prefix("SLOW ["))
        {
            if line.starts_with("PASS") {
                tally.count_guarantee(test.rsplit(' ').next().unwrap_or_default());
            }
        } else if line.starts_with("Summary [") {
            let counts = line.rsplit_once("run:").map_or("", |(_, counts)| counts);
            tally.passed = number_before(counts, " passed");
            tally.skipped = number_before(counts, " skipped");
            tally.failed = [" failed", " timed out", " exec failed"]
                .iter()
                .map(|what| number_before(counts, what))
                .sum();
        }
    }
    tally
}

/// `test a::b ... ok` and `test result: ok. 5 passed; 0 failed; 1 ignored; ...`.
pub fn parse_cargo_test(lines: &[String]) -> Tally {
    let mut tally = Tally::default();
    for line in lines {
        if let Some(counts) = line.strip_prefix("test result: ") {
            tally.passed += number_before(counts, " passed");
            tally.failed += number_before(counts, " failed");
            tally.skipped += number_before(counts, " ignored");
        } else if let Some(test) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... ok"))
        {
            tally.count_guarantee(test);
        }
    }
    tally
}

/// `ok 1 - name`, and at the end `# pass 3`, `# fail 0`, `# skipped 1`.
fn parse_tap(lines: &[String]) -> Tally {
    let mut tally = Tally::default();
    for line in lines {
        let trimmed = line.trim();
        if let Some(count) = line.strip_prefix("# pass ") {
            tally.passed = count.trim().parse().unwrap_or(0);
        } else if let Some(count) = line.strip_prefix("# skipped ") {
            tally.skipped = count.trim().parse().unwrap_or(0);
        } else if let Some(count) = line
            .strip_prefix("# fail ")
            .or_else(|| line.strip_prefix("# cancelled "))
        {
            tally.failed += count.trim().parse::<u64>().unwrap_or(1);
        } else if let Some((_, test)) = trimmed
            .strip_prefix("ok ")
            .and_then(|rest| rest.split_once(" - "))
            && !test.contains("# SKIP")
        {
            tally.count_guarantee(test);
        }
    }
    tally
}

/// `ok 1 - file > group > name # time=1ms` and its kin, without a summary.
fn parse_tap_lines(lines: &[String]) -> Tally {
    let mut tally = Tally::default();
    for line in lines {
        let Some((outcome, test)) = line.split_once(" - ") else {
            continue;
        };
        let (name, directive) = test.split_once(" # ").unwrap_or((test, ""));
        if outcome.starts_with("not ok ") {
            tally.failed += 1;
        } else if !outcome.starts_with("ok ") {
            continue;
        } else if directive.starts_with("SKIP") {
            tally.skipped += 1;
        } else {
            tally.passed += 1;
            tally.count_guarantee(name.rsplit(" > ").next().unwrap_or(name));
        }
    }
    tally
}

/// The number right before `what`, 0 where there is none.
fn number_before(text: &str, what: &str) -> u64 {
    let Some((before, _)) = text.split_once(what) else {
        return 0;
    };
    before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn target() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tools::root().join("target"), Into::into)
}

fn cargo() -> Command {
    checks::cargo()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_nextest_summary_is_added_up() {
        let tally = parse_nextest(&lines(
            "        PASS [   0.012s] (1/5) springhead-log::recovery g1_tail_is_cut\n\
             \x20       FAIL [   0.012s] (2/5) springhead-log::recovery g2_dense\n\
             ────────\n     Summary [   9.123s] 5/6 tests run: 3 passed (1 slow), 1 failed, 1 timed out, 2 skipped\n",
        ));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (3, 2, 2));
        assert_eq!(tally.guarantees, BTreeMap::from([(1, 1)]));
    }

    #[test]
    fn cargo_test_results_are_added_up() {
        let tally = parse_cargo_test(&lines(
            "test a::g12_damage ... ok\ntest b ... FAILED\n\
             test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured\n\
             test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured\n",
        ));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (7, 1, 1));
        assert_eq!(tally.guarantees, BTreeMap::from([(12, 1)]));
    }

    #[test]
    fn a_tap_stream_is_added_up() {
        let tally = parse_tap(&lines(
            "ok 1 - g2_event_source\nok 2 - g2_skipped # SKIP no browser\n\
             # pass 1\n# fail 0\n# cancelled 1\n# skipped 1\n",
        ));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
        assert_eq!(tally.guarantees, BTreeMap::from([(2, 1)]));
    }

    #[test]
    fn tap_lines_without_a_summary_are_added_up() {
        let tally = parse_tap_lines(&lines(
            "TAP version 13\n1..3\nok 1 - test/a.test.ts > server > g8_rows # time=1.00ms\n\
             ok 2 - test/a.test.ts > server > other # SKIP\nnot ok 3 - test/b.test.ts > c # time=2.00ms\n\
             \x20   ---\n    error:\n        message: \"a - b\"\n",
        ));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
        assert_eq!(tally.guarantees, BTreeMap::from([(8, 1)]));
    }
}
