//! README's five minutes, run as they stand there: on the default ports, in a network of their own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fmt::Write;
use std::process::{Command, Stdio};

use springhead_sim::book::commands;
use springhead_sim::process::default_binary;

const DOCUMENT: &str = include_str!("../../../README.md");

/// Commands that go on until they are interrupted: a first line of each is waited for.
const ENDLESS: [&str; 4] = [
    "springhead tail",
    "springhead live",
    "springhead serve",
    "curl -N",
];

/// A network and processes of its own.
const NAMESPACE: [&str; 5] = [
    "--map-root-user",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
];

/// How the tour is run: each endless command goes on beside what follows. The shell is the first process
/// of a namespace of its own, so that all end with it.
const PRELUDE: &str = r#"
set -euo pipefail
ip link set lo up
# Runs what goes on for ever, and waits for its first line.
beside() {
    exec {out}< <(exec bash -c "$1")
    timeout 30 head -n 1 <&"$out" | grep . || { echo "nothing came of: $1"; exit 1; }
}
ready() { curl -sf --retry 60 --retry-delay 1 --retry-all-errors "http://127.0.0.1:$1/readyz" >/dev/null; }
springhead() { ./target/release/springhead "$@"; }
export -f springhead
./target/release/springhead serve >server.log 2>&1 &
server=$!
ready 6480
"#;

#[test]
fn the_five_minutes_of_the_readme_work_as_written() {
    if !can_make_networks() {
        println!("skipped: this machine lets tests make no network of their own (unshare, ip)");
        return;
    }
    let directory = tempfile::Builder::new()
        .prefix("springhead-test-")
        .tempdir()
        .unwrap();
    let release = directory.path().join("target/release");
    std::fs::create_dir_all(&release).unwrap();
    std::os::unix::fs::symlink(default_binary(), release.join("springhead")).unwrap();
    let output = Command::new("unshare")
        .args(NAMESPACE)
        .args(["bash", "-c", &script()])
        .current_dir(directory.path())
        .env_remove("PGUSER")
        .env_remove("PGPASSWORD")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let server = std::fs::read_to_string(directory.path().join("server.log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{said}\n{}\n{server}",
        String::from_utf8_lossy(&output.stderr)
    );
    for expected in [
        r#""status":"paid""#,
        "streaming",
        "promoted: epoch",
        "CREATE ROLE",
        "sound: ",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
}

fn can_make_networks() -> bool {
    Command::new("unshare")
        .args(NAMESPACE)
        .args(["ip", "link", "set", "lo", "up"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The tour's blocks in their order. What is for a stopped server comes last.
fn script() -> String {
    let mut script = PRELUDE.to_owned();
    let mut stopped = String::new();
    for block in commands(DOCUMENT, "Five minutes") {
        if !ENDLESS.iter().any(|endless| block.contains(endless)) {
            for line in block.split_inclusive('\n') {
                let to = if line.contains("while the server is stopped") {
                    &mut stopped
                } else {
                    &mut script
                };
                to.push_str(line);
            }
            continue;
        }
        let block = block.replace("\\\n", " ");
        for line in block.lines() {
            if ENDLESS.iter().any(|endless| line.starts_with(endless)) {
                writeln!(script, "beside {}", quoted(line)).unwrap();
                if line.starts_with("springhead serve") {
                    script.push_str("ready 7480\n");
                }
            } else {
                writeln!(script, "{line}").unwrap();
            }
        }
    }
    script.push_str("kill $server\nwait $server\n");
    script + &stopped
}

/// As one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
