//! `cargo xtask tidy`: what can be measured about how the code reads.
//!
//! Owns the limits and the ratchet (`xtask/tidy.ratchet`): what was longer than the limit when it
//! was measured may shrink, never grow, and nothing new may pass the limit. Reads the files that git
//! knows or would add; never changes a source.

mod direction;
mod ratchet;
mod source;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use source::Source;

/// Lines of a file up to its inline tests.
const FILE_LINES: usize = 600;
/// Lines of a function, signature and braces included: what fits a screen.
const FUNCTION_LINES: usize = 80;

/// Measures, prints each finding on a line of its own, and returns whether there was none. With
/// `update`, writes the ratchet anew first.
pub fn run(update: bool) -> bool {
    println!("xtask: tidy");
    let files = tracked_files();
    let tests = TestFiles::among(&files);
    let mut findings = Vec::new();
    let mut long = ratchet::Lengths::new();
    for path in &files {
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        findings.extend(words::marks_and_words(path, &text));
        if path.extension().is_some_and(|extension| extension == "md") {
            findings.extend(words::dead_links(path, &text));
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = Source::parse(&text);
            findings.extend(rust_findings(path, &text, &source, &tests));
            measure(path, &source, &tests, &mut long);
        }
    }
    findings.extend(direction::findings());
    if update {
        ratchet::write(&long);
    }
    findings.extend(ratchet::compare(&long));
    for finding in &findings {
        println!("tidy: {finding}");
    }
    println!("tidy: {} files, {} findings", files.len(), findings.len());
    findings.is_empty()
}

fn measure(path: &Path, source: &Source, tests: &TestFiles, long: &mut ratchet::Lengths) {
    if source.lines_before_tests > FILE_LINES {
        long.insert(
            format!("file {}", path.display()),
            source.lines_before_tests,
        );
    }
    // Tests may be tables and stories of any length.
    for function in source
        .functions
        .iter()
        .filter(|function| !function.in_tests && !tests.contains(path))
    {
        if function.lines > FUNCTION_LINES {
            let key = format!("function {} {}", path.display(), function.name);
            let longest = long.entry(key).or_default();
            *longest = function.lines.max(*longest);
        }
    }
}

fn rust_findings(path: &Path, text: &str, source: &Source, tests: &TestFiles) -> Vec<String> {
    let mut findings = Vec::new();
    let is_test = tests.contains(path);
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        findings.push(format!("{}:1: no module header (//!)", path.display()));
    }
    if !is_test {
        for line in &source.unwraps {
            let path = path.display();
            findings.push(format!(
                "{path}:{line}: bare unwrap; say with expect why it cannot be"
            ));
        }
    }
    findings
}

/// The Rust files that only tests are built from: those under `tests`, and modules that are
/// declared under `#[cfg(test)]`.
struct TestFiles(Vec<PathBuf>);

impl TestFiles {
    fn among(files: &[PathBuf]) -> TestFiles {
        let mut found = Vec::new();
        for path in files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let directory = path.parent().unwrap_or(Path::new(""));
            for module in source::test_modules(&text) {
                let file = format!("{module}.rs");
                found.push(directory.join(&file));
                found.push(path.with_extension("").join(&file));
                found.push(directory.join(&module));
            }
        }
        TestFiles(found)
    }

    fn contains(&self, path: &Path) -> bool {
        let is_part = |part: &std::ffi::OsStr| {
            matches!(
                &*part.to_string_lossy(),
                "tests" | "tests.rs" | "benches" | "fuzz"
            )
        };
        path.iter().any(is_part) || self.0.iter().any(|test| path.starts_with(test))
    }
}

/// The files that git knows or would add, sorted, relative to the root.
fn tracked_files() -> Vec<PathBuf> {
    let mut command = Command::new("git");
    command.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let mut files: Vec<PathBuf> = process::quiet(&mut command)
        .lines
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files.dedup();
    files
}
