//! The checked-in list of what is longer than its limit, and by how much it may be.
//!
//! ```text
//! 640 file crates/log/src/segment/recovery.rs
//! 95 function crates/sql/src/plan.rs plan_select
//! ```

use std::collections::BTreeMap;

/// What is too long → how many lines it has.
pub type Lengths = BTreeMap<String, usize>;

const FILE: &str = "xtask/tidy.ratchet";

/// What grew past what the list allows, and entries that the list no longer needs.
pub fn compare(now: &Lengths) -> Vec<String> {
    compare_with(
        &parse(&std::fs::read_to_string(FILE).unwrap_or_default()),
        now,
    )
}

/// Writes the list as things are now.
pub fn write(now: &Lengths) {
    let mut text = String::new();
    for (what, lines) in now {
        text.push_str(&format!("{lines} {what}\n"));
    }
    if let Err(error) = std::fs::write(FILE, text) {
        println!("tidy: cannot write {FILE}: {error}");
    }
}

fn parse(text: &str) -> Lengths {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(lines, what)| Some((what.to_owned(), lines.parse().ok()?)))
        .collect()
}

fn compare_with(allowed: &Lengths, now: &Lengths) -> Vec<String> {
    let mut findings = Vec::new();
    for (what, &lines) in now {
        match allowed.get(what) {
            None => findings.push(format!("{what} has {lines} lines; split it")),
            Some(&limit) if lines > limit => {
                findings.push(format!(
                    "{what} grew from {limit} to {lines} lines; split it"
                ));
            }
            Some(_) => {}
        }
    }
    for what in allowed.keys().filter(|what| !now.contains_key(*what)) {
        findings.push(format!(
            "{what} is short now; run `cargo xtask tidy --update`"
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(entries: &[(&str, usize)]) -> Lengths {
        entries
            .iter()
            .map(|&(what, lines)| (what.to_owned(), lines))
            .collect()
    }

    #[test]
    fn the_list_allows_what_it_holds_and_no_more() {
        let allowed = parse("640 file a.rs\n90 function b.rs f\n");
        assert_eq!(
            compare_with(
                &allowed,
                &lengths(&[("file a.rs", 630), ("function b.rs f", 90)])
            ),
            [""; 0]
        );
        assert_eq!(
            compare_with(
                &allowed,
                &lengths(&[("file a.rs", 641), ("function b.rs f", 90)])
            )
            .len(),
            1
        );
        assert_eq!(
            compare_with(&allowed, &lengths(&[("file a.rs", 640)])).len(),
            1
        );
        assert_eq!(
            compare_with(&lengths(&[]), &lengths(&[("file c.rs", 700)])).len(),
            1
        );
    }
}
