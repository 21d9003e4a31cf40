//! Marks that mean "not done", words that say nothing, paths of somebody's machine, links that lead
//! nowhere.

use std::path::Path;

/// Marks of unfinished work: an issue is the place for them. Written apart, so that this file does
/// not find itself.
const MARKS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("HA", "CK"),
];

/// Words that praise and do not tell. Only looked for in documents.
const EMPTY_WORDS: &[&str] = &[
    "blazing",
    "blazingly",
    "seamless",
    "seamlessly",
    "effortless",
    "effortlessly",
    "leverage",
    "leverages",
    "leveraging",
    "utilize",
    "utilizes",
    "cutting-edge",
    "world-class",
    "best-in-class",
    "game-changing",
    "revolutionary",
    "supercharge",
    "simply",
    "obviously",
];

/// Beginnings of paths that are true on one machine only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

/// Findings of one file.
pub fn marks_and_words(path: &Path, text: &str) -> Vec<String> {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().into_owned())
        .unwrap_or_default();
    let is_document = extension == "md";
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let is_code = matches!(
        &*extension,
        "rs" | "mjs" | "js" | "html" | "toml" | "sh" | "sql"
    );
    if name == "LICENSE"
        || name.ends_with("lock.json")
        || !(is_document || is_code || name == "run")
    {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = format!("{}:{}", path.display(), index + 1);
        for mark in MARKS.iter().filter(|mark| has_word(line, mark)) {
            findings.push(format!("{at}: {mark}; finish it or open an issue"));
        }
        for start in MACHINE_PATHS.iter().filter(|start| line.contains(**start)) {
            findings.push(format!("{at}: {start}… is a path of one machine"));
        }
        if is_document {
            let lower = line.to_lowercase();
            for word in EMPTY_WORDS.iter().filter(|word| has_word(&lower, word)) {
                findings.push(format!("{at}: \"{word}\" says nothing"));
            }
        }
    }
    findings
}

/// Relative links of a document that lead to no file.
pub fn dead_links(path: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let directory = path.parent().unwrap_or(Path::new(""));
    for (index, line) in text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let Some((target, _)) = rest.split_once(')') else {
                continue;
            };
            let file = target.split('#').next().unwrap_or_default();
            let is_relative = !file.is_empty() && !file.contains(':') && !file.contains(' ');
            if is_relative && !directory.join(file).exists() {
                findings.push(format!(
                    "{}:{}: link to nowhere: {file}",
                    path.display(),
                    index + 1
                ));
            }
        }
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_words_of_their_own() {
        let mark = MARKS[2];
        assert!(has_word(&format!("// {mark}: later"), mark));
        assert!(!has_word(&format!("sqlstate {mark}000"), mark));
        assert_eq!(
            marks_and_words(Path::new("a.rs"), &format!("// {mark}\n")).len(),
            1
        );
        assert_eq!(
            marks_and_words(Path::new("a.md"), "It is simply fast.\n").len(),
            1
        );
        assert_eq!(marks_and_words(Path::new("a.rs"), "// simply\n").len(), 0);
    }
}
