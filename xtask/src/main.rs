//! Springhead's own commands: `cargo xtask test|ci|tidy|deny|soak`.
//!
//! Owns how the project is checked: which runners there are, what they need on the machine, and the
//! one closing line that adds them up. The README and `.ci/run` call it. It never holds a test
//! itself and depends on no crate, so that it builds in seconds.

mod checks;
mod drivers;
mod fuzz;
mod process;
mod suites;
mod tidy;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  test [FILTER]     all tests: Rust, psql, PostgreSQL as the oracle, browser and npm clients.
                    Installs what is missing from Debian, PyPI or npm, and says what.
                    With FILTER only the Rust tests whose name contains it.
  ci                fmt, clippy, deny, tidy, then test
  tidy [--update]   file and function lengths, headers, marks, words, dependency direction;
                    --update lowers the ratchet to what is there now
  deny              licences, sources, duplicates and, where reachable, advisories
  soak [--seed N] [--minutes N] [--scenario NAME]
                    the crash scenarios, long; with --seed one run, as it was
  fuzz [TARGET] [--seconds N] [--input FILE]
                    libFuzzer on TARGET (or on each in turn); with --input one input, as it was
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    if let Err(error) = std::env::set_current_dir(tools::root()) {
        eprintln!("xtask: cannot enter the repository's root: {error}");
        return ExitCode::FAILURE;
    }
    let good = match args.first().map(String::as_str) {
        Some("test") => suites::test(rest.first().copied()),
        Some("ci") => suites::ci(),
        Some("tidy") => tidy::run(rest.contains(&"--update")),
        Some("deny") => checks::deny().is_pass(),
        Some("fuzz") => fuzz::run(&rest),
        Some("soak") => suites::soak(&rest),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            true
        }
        _ => {
            eprint!("{USAGE}");
            false
        }
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
