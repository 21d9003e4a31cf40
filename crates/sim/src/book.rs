//! Run-books: commands in a document, to be run by a test as they stand there.

/// The commands under a heading of a Markdown document, one text per fenced block of `sh`.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn commands(document: &str, heading: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let (mut within, mut block) = (false, None::<String>);
    for line in document.lines() {
        if line.starts_with('#') && block.is_none() {
            within = line.trim_start_matches('#').trim() == heading;
        } else if within && line == "```sh" {
            block = Some(String::new());
        } else if line == "```" {
            blocks.extend(block.take());
        } else if let Some(block) = &mut block {
            block.push_str(line);
            block.push('\n');
        }
    }
    assert!(!blocks.is_empty(), "there are no commands under {heading}");
    blocks
}
