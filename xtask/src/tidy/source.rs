//! As much of Rust's syntax as measuring needs: strings and comments blanked, braces matched.

/// What is measured of one file.
pub struct Source {
    /// Lines up to `#[cfg(test)] mod …`, or all.
    pub lines_before_tests: usize,
    pub functions: Vec<Function>,
    /// Line numbers, from 1, of bare `unwrap()` outside the inline tests.
    pub unwraps: Vec<usize>,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub lines: usize,
    pub in_tests: bool,
}

impl Source {
    /// Measures `text`.
    pub fn parse(text: &str) -> Source {
        let code = blank(text);
        let lines: Vec<&str> = code.lines().collect();
        let tests_from = lines
            .iter()
            .enumerate()
            .position(|(index, line)| {
                line.trim() == "#[cfg(test)]"
                    && lines
                        .get(index + 1)
                        .is_some_and(|next| next.trim_start().starts_with("mod "))
            })
            .unwrap_or(lines.len());
        let unwraps = lines[..tests_from]
            .iter()
            .enumerate()
            .filter(|(_, line)| line.contains(".unwrap()"))
            .map(|(index, _)| index + 1)
            .collect();
        Source {
            lines_before_tests: tests_from,
            functions: functions(&code, tests_from),
            unwraps,
        }
    }
}

/// Names of the modules that `text` declares for tests alone and keeps in files of their own.
pub fn test_modules(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| {
            pair[1]
                .trim_start_matches("pub ")
                .strip_prefix("mod ")?
                .strip_suffix(';')
        })
        .map(str::to_owned)
        .collect()
}

/// `text` with every comment, string and character literal replaced by spaces, newlines kept.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let starts_word = at == 0 || !(chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |i| chars[i] == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => string_end(chars, at),
        'r' if starts_word && matches!(next, Some('"' | '#')) => raw_string_end(chars, at),
        '\'' => char_end(chars, at),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, is: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|&i| is(i)).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0usize;
    let mut i = at;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let closes = |i: usize| {
        chars[i] == '"'
            && chars.len() > i + hashes
            && chars[i + 1..=i + hashes].iter().all(|&c| c == '#')
    };
    let quote = find(chars, at + 2 + hashes, closes);
    (quote + 1 + hashes).min(chars.len())
}

/// A character literal, or `at` for a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, |i| chars[i] == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// Every `fn name … { … }` of blanked code.
fn functions(code: &str, tests_from: usize) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word =
            at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let name: String = code[at + 3..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        let Some(end) = body_end(&bytes[at..]) else {
            continue;
        };
        let first = code[..at].matches('\n').count();
        let lines = code[at..at + end].matches('\n').count() + 1;
        found.push(Function {
            name,
            lines,
            in_tests: first >= tests_from,
        });
    }
    found
}

/// Where the body that follows a signature ends; `None` for a declaration.
fn body_end(bytes: &[u8]) -> Option<usize> {
    let mut nesting = 0usize;
    let mut depth = 0usize;
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting = nesting.checked_sub(1)?,
            b';' if depth == 0 && nesting == 0 => return None,
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && nesting == 0 {
                    return Some(i + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_in_literals_and_comments_do_not_count() {
        let text = "fn a<'x>(s: &'x str) {\n    let _ = ('{', \"}{\\\"\", r#\"{\"#); // }\n    /* { /* } */ */\n}\n\nfn b();\n";
        let source = Source::parse(text);
        let lengths: Vec<_> = source
            .functions
            .iter()
            .map(|f| (&*f.name, f.lines))
            .collect();
        assert_eq!(lengths, [("a", 4)]);
    }

    #[test]
    fn inline_tests_are_not_measured() {
        let text = "fn a() { b().unwrap() }\n// .unwrap()\n#[cfg(test)]\nmod tests {\n    fn c() { d().unwrap() }\n}\n";
        let source = Source::parse(text);
        assert_eq!(source.lines_before_tests, 2);
        assert_eq!(source.unwraps, [1]);
        assert_eq!(
            source
                .functions
                .iter()
                .map(|f| f.in_tests)
                .collect::<Vec<_>>(),
            [false, true]
        );
    }
}
