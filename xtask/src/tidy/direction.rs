//! Which crate may depend on which. Reads `cargo tree`, so that indirect dependencies count too.

use crate::checks::cargo;
use crate::process;

/// Crate → what it never depends on, directly or through others.
const NEVER: &[(&str, &[&str])] = &[
    (
        "springhead-proto",
        &[
            "springhead-*",
            "tokio",
            "rusqlite",
            "libsqlite3-sys",
            "axum",
            "hyper",
        ],
    ),
    (
        "springhead-log",
        &[
            "springhead-sql",
            "springhead-engine",
            "springhead-server",
            "sqlparser",
            "rusqlite",
            "libsqlite3-sys",
            "tokio",
            "axum",
            "hyper",
        ],
    ),
    (
        "springhead-sql",
        &[
            "springhead-log",
            "springhead-engine",
            "springhead-server",
            "rusqlite",
            "libsqlite3-sys",
            "tokio",
            "axum",
            "hyper",
        ],
    ),
    (
        "springhead-crdt",
        &["springhead-*", "tokio", "rusqlite", "libsqlite3-sys"],
    ),
    ("springhead-device", &["springhead-server"]),
    (
        "springhead-engine",
        &[
            "springhead-server",
            "springhead-device",
            "axum",
            "hyper",
            "tower",
            "tokio-tungstenite",
            "rustls",
        ],
    ),
    ("springhead-server", &["springhead-sim", "springhead-bench"]),
    ("xtask", &["*"]),
];

/// Each dependency that points the wrong way.
pub fn findings() -> Vec<String> {
    let mut findings = Vec::new();
    for (package, never) in NEVER {
        let mut command = cargo();
        command.args([
            "tree",
            "--quiet",
            "-p",
            package,
            "-e",
            "normal,build",
            "--prefix",
            "none",
        ]);
        let tree = process::quiet(command.args(["--format", "{p}"]));
        if !tree.success {
            findings.push(format!(
                "cargo tree -p {package} failed: {}",
                tree.lines.join(" ")
            ));
            continue;
        }
        let mut wrong: Vec<&str> = tree
            .lines
            .iter()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| !name.is_empty() && name != package && matches_any(name, never))
            .collect();
        wrong.sort_unstable();
        wrong.dedup();
        findings.extend(
            wrong
                .iter()
                .map(|name| format!("{package} must never depend on {name}")),
        );
    }
    findings
}

fn matches_any(name: &str, patterns: &[&str]) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        })
}
