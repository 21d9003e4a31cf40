//! What can be wrong with settings, and which name was meant.

use std::path::PathBuf;

use super::KEYS;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    File,
    Environment,
    Flag,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::File => "configuration file",
            Source::Environment => "environment",
            Source::Flag => "command line",
        })
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {}: {error}", path.display())]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} is no TOML: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
    #[error("{origin}: no setting is called \"{name}\"{}", suggestion(*nearest))]
    UnknownName {
        origin: Source,
        name: String,
        nearest: Option<&'static str>,
    },
    #[error("{origin}: {name}: {what}")]
    BadValue {
        origin: Source,
        name: String,
        what: String,
    },
    #[error("{name} {what}")]
    Impossible { name: &'static str, what: String },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// The setting whose name is most like `name`, if one is like it at all.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name: Vec<u8> = name.bytes().take(100).collect();
    let limit = (name.len() / 3).max(2);
    KEYS.iter()
        .map(|key| (distance(&name, key.name.as_bytes()), key.name))
        .min()
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
