//! Regular expressions, by an engine whose time is linear in the text: PostgreSQL's syntax is
//! translated; what that engine cannot do (back references, look-around) is refused (0A000).
//!
//! One known difference: of several alternatives that match at the same place PostgreSQL takes the
//! longest, this engine the first.

use std::cell::RefCell;

use regex::{Captures, Regex, RegexBuilder};
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::Scalar;
use super::support::{Args, bool_value, bounded, count, int, invalid_parameter, strict, text};
use crate::types::{PgType, array};

/// Compiled expressions that each thread keeps.
const CACHE_ENTRIES: usize = 256;
/// The most memory that one compiled expression may take.
const SIZE_LIMIT_BYTES: usize = 2 << 20;

pub(super) const SCALARS: &[Scalar] = &[
    // text, pattern, flags
    strict!("sh_regexp", 3, |args| bool_value(
        compiled(args, 1, text(args, 2)?)?.is_match(text(args, 0)?)
    )),
    strict!("sh_regexp_like", -1, |args| {
        bool_value(compiled(args, 1, optional(args, 2)?)?.is_match(text(args, 0)?))
    }),
    strict!("sh_similar", 3, |args| {
        let pattern = similar(text(args, 1)?, text(args, 2)?)?;
        bool_value(with_flags(&pattern, "")?.is_match(text(args, 0)?))
    }),
    // text, pattern, replacement[, flags]
    strict!("sh_regexp_replace", -1, |args| {
        let flags = optional(args, 3)?;
        let regex = compiled(args, 1, flags)?;
        let (source, replacement) = (text(args, 0)?, text(args, 2)?);
        let limit = if flags.contains('g') { 0 } else { 1 };
        let mut size = source.len();
        let mut failed = None;
        let replaced = regex.replacen(source, limit, |captures: &Captures<'_>| {
            let new = expand(replacement, captures);
            size = size.saturating_add(new.len());
            match bounded(size) {
                Ok(_) => new,
                Err(error) => {
                    failed = Some(error);
                    String::new()
                }
            }
        });
        failed.map_or_else(|| Ok(Value::Text(replaced.into_owned())), Err)
    }),
    // text, pattern[, flags]: the first match's groups as a text[]
    strict!("sh_regexp_match", -1, |args| {
        let regex = compiled(args, 1, optional(args, 2)?)?;
        Ok(regex
            .captures(text(args, 0)?)
            .map_or(Value::Null, |captures| groups(&captures)))
    }),
    // text, pattern[, flags]: all matches, as a JSON array of text[] (the planner unnests it)
    strict!("sh_regexp_matches", -1, |args| {
        let flags = optional(args, 2)?;
        let regex = compiled(args, 1, flags)?;
        let limit = if flags.contains('g') { usize::MAX } else { 1 };
        let mut out = String::from("[");
        for (index, captures) in regex.captures_iter(text(args, 0)?).take(limit).enumerate() {
            if index > 0 {
                out.push(',');
            }
            if let Value::Text(groups) = groups(&captures) {
                out.push_str(&groups);
            }
            bounded(out.len())?;
        }
        out.push(']');
        Ok(Value::Text(out))
    }),
    // text, pattern: the first group if there is one, else the whole match
    strict!("sh_regexp_substring", 2, |args| {
        let regex = compiled(args, 1, "")?;
        let matched = regex
            .captures(text(args, 0)?)
            .and_then(|captures| captures.get(usize::from(captures.len() > 1)));
        Ok(matched.map_or(Value::Null, |found| Value::Text(found.as_str().to_owned())))
    }),
    // text, pattern[, flags]: a text[]
    strict!("sh_regexp_split", -1, |args| {
        let regex = compiled(args, 1, optional(args, 2)?)?;
        let parts: Vec<&str> = regex.split(text(args, 0)?).collect();
        Ok(Value::Text(array::store(
            &PgType::Text,
            parts.into_iter().map(ValueRef::Text),
        )))
    }),
    // text, pattern[, start[, flags]]
    strict!("sh_regexp_count", -1, |args| {
        let start = if args.len() > 2 { int(args, 2)? } else { 1 };
        let skipped = usize::try_from(start - 1).map_err(|_| {
            invalid_parameter(format!("invalid value for parameter \"start\": {start}"))
        })?;
        let source = text(args, 0)?;
        let from = source
            .char_indices()
            .nth(skipped)
            .map_or(source.len(), |(at, _)| at);
        count(
            compiled(args, 1, optional(args, 3)?)?
                .find_iter(&source[from..])
                .count(),
        )
    }),
];

fn optional<'v>(args: Args<'_, 'v>, at: usize) -> Result<&'v str, SqlError> {
    if at < args.len() {
        text(args, at)
    } else {
        Ok("")
    }
}

fn compiled(args: Args<'_, '_>, at: usize, flags: &str) -> Result<Regex, SqlError> {
    with_flags(text(args, at)?, flags)
}

/// Compiles, or takes from this thread's cache.
fn with_flags(pattern: &str, flags: &str) -> Result<Regex, SqlError> {
    thread_local! {
        static CACHE: RefCell<FxHashMap<(String, String), Regex>> = RefCell::default();
    }
    let key = (pattern.to_owned(), flags.to_owned());
    CACHE.with_borrow_mut(|cache| {
        if let Some(regex) = cache.get(&key) {
            return Ok(regex.clone());
        }
        let regex = compile(pattern, flags)?;
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(key, regex.clone());
        Ok(regex)
    })
}

fn compile(pattern: &str, flags: &str) -> Result<Regex, SqlError> {
    let (mut insensitive, mut dot_newline, mut lines, mut literal, mut extended) =
        (false, true, false, false, false);
    for flag in flags.chars() {
        match flag {
            'g' => {}
            'i' => insensitive = true,
            'c' => insensitive = false,
            's' => dot_newline = true,
            'n' | 'm' => (dot_newline, lines) = (false, true),
            'p' => dot_newline = false,
            'w' => lines = true,
            'q' => literal = true,
            'x' => extended = true,
            't' | 'e' => {}
            other => {
                return Err(invalid_parameter(format!(
                    "invalid regular expression option: \"{other}\""
                )));
            }
        }
    }
    let translated = if literal {
        regex::escape(pattern)
    } else {
        translate(pattern)?
    };
    RegexBuilder::new(&translated)
        .case_insensitive(insensitive)
        .dot_matches_new_line(dot_newline)
        .multi_line(lines)
        .ignore_whitespace(extended)
        .size_limit(SIZE_LIMIT_BYTES)
        .build()
        .map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => "regular expression is too complex".to_owned(),
                other => other
                    .to_string()
                    .lines()
                    .last()
                    .unwrap_or("syntax error")
                    .trim_start_matches("error: ")
                    .to_owned(),
            };
            SqlError::new(
                ErrorCode::InvalidRegularExpression,
                format!("invalid regular expression: {reason}"),
            )
        })
}

/// PostgreSQL's advanced regular expressions in this engine's syntax.
fn translate(pattern: &str) -> Result<String, SqlError> {
    let pattern = pattern.strip_prefix("***:").unwrap_or(pattern);
    if let Some(literal) = pattern.strip_prefix("***=") {
        return Ok(regex::escape(literal));
    }
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let refuse = |what: &str| {
        SqlError::unsupported(format_args!(
            "{what} in the regular expression \"{pattern}\""
        ))
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('m') => out.push_str("\\b{start}"),
                Some('M') => out.push_str("\\b{end}"),
                Some('y') => out.push_str("\\b"),
                Some('Y') => out.push_str("\\B"),
                Some('Z') => out.push_str("\\z"),
                Some('1'..='9') => return Err(refuse("a back reference")),
                Some('e') => out.push_str("\\x1B"),
                Some(
                    c @ ('A' | 'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'a' | 'f' | 'n' | 'r' | 't'
                    | 'v' | 'x' | 'u' | 'U'),
                ) => {
                    out.extend(['\\', c]);
                }
                Some('b') => out.push_str("\\x08"),
                Some('B') => out.push_str("\\\\"),
                Some(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
                None => {
                    return Err(SqlError::new(
                        ErrorCode::InvalidRegularExpression,
                        "invalid regular expression: invalid escape \\ sequence",
                    ));
                }
            },
            '[' => bracket(&mut chars, &mut out),
            '(' if chars.peek() == Some(&'?') => {
                out.push_str("(?");
                chars.next();
                match chars.peek() {
                    Some('=' | '!' | '<') => return Err(refuse("a look-ahead or look-behind")),
                    Some('P') => return Err(refuse("a named group")),
                    _ => {}
                }
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// The rest of a bracket expression: what this engine would read as set operations is escaped.
fn bracket(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            ']' if first => out.push_str("\\]"),
            ']' => return out.push(']'),
            '[' if matches!(chars.peek(), Some(':')) => {
                out.push('[');
                // To the end of the class's name.
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' => out.extend(['\\', c]),
            '\\' => {
                out.push('\\');
                out.extend(chars.next());
            }
            c => out.push(c),
        }
        first = false;
    }
}

/// A SIMILAR TO pattern as a regular expression over the whole text.
fn similar(pattern: &str, escape: &str) -> Result<String, SqlError> {
    let escape = escape.chars().next();
    let mut out = String::from("^(?:");
    let mut chars = pattern.chars();
    let mut inside = false;
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => match chars.next() {
                Some(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
                None => {
                    return Err(SqlError::new(
                        ErrorCode::InvalidEscapeSequence,
                        "invalid escape string",
                    ));
                }
            },
            '[' => {
                inside = true;
                out.push('[');
            }
            ']' => {
                inside = false;
                out.push(']');
            }
            c if inside => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '.' | '^' | '$' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push_str(")$");
    Ok(out)
}

/// `\1`…`\9` and `\&` of a replacement.
fn expand(replacement: &str, captures: &Captures<'_>) -> String {
    let mut out = String::with_capacity(replacement.len());
    let mut chars = replacement.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('&') => out.push_str(captures.get(0).map_or("", |whole| whole.as_str())),
            Some(digit @ '1'..='9') => {
                let group = digit
                    .to_digit(10)
                    .and_then(|digit| usize::try_from(digit).ok())
                    .unwrap_or(0);
                out.push_str(captures.get(group).map_or("", |group| group.as_str()));
            }
            Some('\\') => out.push('\\'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// The groups of a match as a text[]; the whole match if it has none.
fn groups(captures: &Captures<'_>) -> Value {
    let skipped = usize::from(captures.len() > 1);
    let groups = captures
        .iter()
        .skip(skipped)
        .map(|group| group.map_or(ValueRef::Null, |group| ValueRef::Text(group.as_str())));
    Value::Text(array::store(&PgType::Text, groups))
}
