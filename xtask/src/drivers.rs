//! The drivers and ORMs of others: Python's, from PyPI into an environment of their own under `target/`,
//! JDBC, with its driver from Debian, and Rust's, in a workspace of their own that builds under
//! `target/clients-rust`. They run against the server that was built for the Rust tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::suites::{Tally, parse_cargo_test};
use crate::tools;
use crate::{checks, process};

/// Python's drivers: one process for each file, so that one driver's failure is its own.
///
/// # Errors
/// What is missing on this machine.
pub fn python(target: &Path, server: &Path) -> Result<Tally, String> {
    tools::need(&["openssl"], "openssl")?;
    let directory = tools::root().join("tests/clients/python");
    let python = environment(target, &directory)?;
    let mut tests: Vec<PathBuf> = std::fs::read_dir(&directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("test_"))
        })
        .collect();
    tests.sort();
    let mut tally = Tally::default();
    for test in tests {
        let Some(module) = test.file_stem() else {
            continue;
        };
        let mut command = Command::new(&python);
        command
            .args(["-B", "-m", "unittest"])
            .arg(module)
            .current_dir(&directory)
            .env("SPRINGHEAD_BIN", server);
        let done = process::run(&mut command);
        tally.add(&parse_unittest(&done.lines, done.success));
    }
    Ok(tally)
}

/// JDBC: one Java file, compiled as it is run, against a server started for it.
///
/// # Errors
/// What is missing on this machine.
pub fn jdbc(server: &Path) -> Result<Tally, String> {
    let java = tools::need(&["java"], "default-jdk-headless")?;
    let driver = Path::new("/usr/share/java/postgresql.jar");
    if !driver.is_file() {
        tools::need_debian("libpostgresql-jdbc-java")?;
    }
    let python = tools::need(&["python3"], "python3")?;
    let directory = tools::root().join("tests/clients");
    let mut command = Command::new(python);
    command
        .args(["-B", "run_jdbc.py"])
        .args([&java, driver])
        .arg(directory.join("java/JdbcTest.java"))
        .current_dir(directory.join("python"))
        .env("SPRINGHEAD_BIN", server);
    let done = process::run(&mut command);
    let starting = |word: &str| {
        let count = done.lines.iter().filter(|line| line.starts_with(word));
        u64::try_from(count.count()).unwrap_or(u64::MAX)
    };
    let mut tally = Tally {
        passed: starting("ok "),
        failed: starting("FAILED "),
        ..Tally::default()
    };
    if !done.success && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Rust's drivers and an ORM: built once, since their lock file changes seldom.
///
/// # Errors
/// What is missing on this machine.
pub fn rust(target: &Path, server: &Path) -> Result<Tally, String> {
    tools::need(&["openssl"], "openssl")?;
    let directory = tools::root().join("tests/clients/rust");
    let mut command = checks::cargo();
    command
        .args(["test", "--locked", "--no-fail-fast"])
        .args(["--test", "drivers"])
        .current_dir(directory)
        .env("CARGO_TARGET_DIR", target.join("clients-rust"))
        .env("SPRINGHEAD_BIN", server);
    let done = process::run(&mut command);
    let mut tally = parse_cargo_test(&done.lines);
    if (!done.success || tally.passed == 0) && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// An environment with what `requirements.txt` names; its interpreter.
fn environment(target: &Path, directory: &Path) -> Result<PathBuf, String> {
    let system = tools::need(&["python3"], "python3-venv")?;
    let place = target.join("clients-python");
    let python = place.join("bin/python");
    let requirements = directory.join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).map_err(|error| error.to_string())?;
    let mark = place.join("installed.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    println!("xtask: installing Python's drivers from PyPI");
    let made = process::run(Command::new(system).args(["-m", "venv"]).arg(&place)).success;
    let installed = made
        && process::run(
            Command::new(&python)
                .args(["-m", "pip", "-q", "install", "-r"])
                .arg(&requirements),
        )
        .success;
    if !installed {
        return Err("Python's drivers cannot be installed".to_owned());
    }
    std::fs::write(&mark, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

/// `Ran 7 tests in 1.7s`, then `OK` or `FAILED (failures=1, errors=2, skipped=1)`.
fn parse_unittest(lines: &[String], success: bool) -> Tally {
    let ran = lines
        .iter()
        .find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok())
        .unwrap_or(0_u64);
    let end = lines
        .iter()
        .rev()
        .find(|line| line.starts_with("OK") || line.starts_with("FAILED"));
    let count = |word: &str| -> u64 {
        end.and_then(|line| {
            let rest = &line[line.find(&format!("{word}="))? + word.len() + 1..];
            rest.split([',', ')']).next()?.parse().ok()
        })
        .unwrap_or(0)
    };
    let skipped = count("skipped").min(ran);
    let mut failed = count("failures") + count("errors");
    if (!success || ran == 0) && failed == 0 {
        failed = 1;
    }
    Tally {
        // Parts of one test can fail more than once.
        passed: ran.saturating_sub(failed + skipped),
        failed,
        skipped,
        ..Tally::default()
    }
}

#[cfg(test)]
mod tests {
    use super::parse_unittest;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn unittest_s_summary_is_counted() {
        let tally = parse_unittest(&lines("Ran 7 tests in 1.7s\n\nOK (skipped=1)"), true);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (6, 0, 1));
        let text = "Ran 5 tests in 1.0s\n\nFAILED (failures=1, errors=2)";
        let tally = parse_unittest(&lines(text), false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 3, 0));
        let tally = parse_unittest(&lines("ImportError"), false);
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
