//! Text functions, in characters as PostgreSQL counts them, and LIKE.

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::Scalar;
use super::support::{
    Args, Outcome, blob, bool_value, bounded, count, int, invalid_parameter, lenient, pg_type,
    strict, text,
};
use super::values::printed;

pub(super) const SCALARS: &[Scalar] = &[
    strict!("sh_lower", 1, |args| Ok(Value::Text(
        text(args, 0)?.chars().map(lower).collect()
    ))),
    strict!("sh_upper", 1, |args| Ok(Value::Text(
        text(args, 0)?.chars().map(upper).collect()
    ))),
    strict!("sh_initcap", 1, |args| Ok(Value::Text(initcap(text(
        args, 0
    )?)))),
    // text, from (1 is the first)[, length]
    strict!("sh_substr", -1, |args| {
        let length = if args.len() > 2 {
            Some(int(args, 2)?)
        } else {
            None
        };
        let (start, end) = window(int(args, 1)?, length)?;
        let taken: String = slice(text(args, 0)?, start, end).to_owned();
        Ok(Value::Text(taken))
    }),
    strict!("sh_substr_bytes", -1, |args| {
        let length = if args.len() > 2 {
            Some(int(args, 2)?)
        } else {
            None
        };
        let (start, end) = window(int(args, 1)?, length)?;
        let bytes = blob(args, 0)?;
        let (start, end) = (start.min(bytes.len()), end.min(bytes.len()));
        Ok(Value::Blob(
            bytes.get(start..end).unwrap_or_default().to_vec(),
        ))
    }),
    strict!("sh_strpos", 2, |args| {
        let (text, part) = (text(args, 0)?, text(args, 1)?);
        count(
            text.find(part)
                .map_or(0, |at| text[..at].chars().count() + 1),
        )
    }),
    strict!("sh_left", 2, |args| Ok(Value::Text(
        left(text(args, 0)?, int(args, 1)?).to_owned()
    ))),
    strict!("sh_right", 2, |args| Ok(Value::Text(
        right(text(args, 0)?, int(args, 1)?).to_owned()
    ))),
    strict!("sh_lpad", 3, |args| pad(
        text(args, 0)?,
        int(args, 1)?,
        text(args, 2)?,
        true
    )),
    strict!("sh_rpad", 3, |args| pad(
        text(args, 0)?,
        int(args, 1)?,
        text(args, 2)?,
        false
    )),
    strict!("sh_repeat", 2, |args| {
        let text = text(args, 0)?;
        let times = usize::try_from(int(args, 1)?.max(0)).unwrap_or(usize::MAX);
        bounded(text.len().saturating_mul(times))?;
        Ok(Value::Text(text.repeat(times)))
    }),
    strict!("sh_replace", 3, |args| {
        let (text, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
        if from.is_empty() {
            return Ok(Value::Text(text.to_owned()));
        }
        let times = text.matches(from).count();
        bounded(text.len().saturating_add(times.saturating_mul(to.len())))?;
        Ok(Value::Text(text.replace(from, to)))
    }),
    strict!("sh_reverse", 1, |args| Ok(Value::Text(
        text(args, 0)?.chars().rev().collect()
    ))),
    strict!("sh_split_part", 3, |args| split_part(
        text(args, 0)?,
        text(args, 1)?,
        int(args, 2)?
    )),
    strict!("sh_translate", 3, |args| {
        let (from, to): (Vec<char>, Vec<char>) = (
            text(args, 1)?.chars().collect(),
            text(args, 2)?.chars().collect(),
        );
        let translated =
            text(args, 0)?
                .chars()
                .filter_map(|c| match from.iter().position(|&f| f == c) {
                    Some(at) => to.get(at).copied(),
                    None => Some(c),
                });
        Ok(Value::Text(translated.collect()))
    }),
    strict!("sh_btrim", 2, |args| trimmed(args, true, true)),
    strict!("sh_ltrim", 2, |args| trimmed(args, true, false)),
    strict!("sh_rtrim", 2, |args| trimmed(args, false, true)),
    // text, new, from[, length]
    strict!("sh_overlay", -1, |args| {
        let (text, new, from) = (text(args, 0)?, text(args, 1)?, int(args, 2)?);
        let length = if args.len() > 3 {
            int(args, 3)?
        } else {
            i64::try_from(new.chars().count()).unwrap_or(i64::MAX)
        };
        if from < 1 {
            return Err(negative_length());
        }
        let (_, before) = window(1, Some(from - 1))?;
        let (after, _) = window(from.saturating_add(length), None)?;
        Ok(Value::Text(
            [slice(text, 0, before), new, slice(text, after, usize::MAX)].concat(),
        ))
    }),
    strict!("sh_ascii", 1, |args| Ok(Value::Integer(
        text(args, 0)?
            .chars()
            .next()
            .map_or(0, |c| u32::from(c).into())
    ))),
    strict!("sh_chr", 1, |args| {
        let code = int(args, 0)?;
        if code == 0 {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                "null character not permitted",
            ));
        }
        u32::try_from(code)
            .ok()
            .and_then(char::from_u32)
            .map(|c| Value::Text(c.into()))
            .ok_or_else(|| {
                SqlError::new(
                    ErrorCode::StatementTooLarge,
                    format!("requested character not valid for encoding: {code}"),
                )
            })
    }),
    strict!("sh_starts_with", 2, |args| bool_value(
        text(args, 0)?.starts_with(text(args, 1)?)
    )),
    strict!("sh_octet_length", 1, |args| match args[0] {
        ValueRef::Blob(bytes) => count(bytes.len()),
        _ => count(text(args, 0)?.len()),
    }),
    strict!("sh_char_length", 1, |args| count(
        text(args, 0)?.chars().count()
    )),
    // Each value, oid, typmod; NULLs count as nothing.
    lenient!("sh_concat", -1, |args| {
        let mut out = String::new();
        for value in args.chunks(3).filter(|value| !value[0].is_null()) {
            out.push_str(&printed(&pg_type(value, 1)?, value[0]));
        }
        Ok(Value::Text(out))
    }),
    // separator, then each value, oid, typmod
    lenient!("sh_concat_ws", -1, |args| {
        if args.first().is_none_or(|separator| separator.is_null()) {
            return Ok(Value::Null);
        }
        let mut parts = Vec::new();
        for value in args[1..].chunks(3).filter(|value| !value[0].is_null()) {
            parts.push(printed(&pg_type(value, 1)?, value[0]));
        }
        Ok(Value::Text(parts.join(text(args, 0)?)))
    }),
    // pattern, then each value, oid, typmod
    lenient!("sh_format", -1, |args| {
        if args.first().is_none_or(|pattern| pattern.is_null()) {
            return Ok(Value::Null);
        }
        let mut values = Vec::new();
        for value in args[1..].chunks(3) {
            values.push(if value[0].is_null() {
                None
            } else {
                Some(printed(&pg_type(value, 1)?, value[0]))
            });
        }
        format_text(text(args, 0)?, &values).map(Value::Text)
    }),
    strict!("sh_quote_ident", 1, |args| Ok(Value::Text(quote_ident(
        text(args, 0)?
    )))),
    strict!("sh_quote_literal", 1, |args| Ok(Value::Text(
        quote_literal(text(args, 0)?)
    ))),
    lenient!("sh_quote_nullable", 1, |args| Ok(Value::Text(
        match args[0] {
            ValueRef::Null => "NULL".to_owned(),
            _ => quote_literal(text(args, 0)?),
        }
    ))),
    // text, pattern, escape character (or the empty text for none)
    strict!("sh_like", 3, |args| like(
        text(args, 0)?,
        text(args, 1)?,
        text(args, 2)?
    )
    .and_then(bool_value)),
    strict!("sh_ilike", 3, |args| {
        like(
            &lowered(text(args, 0)?),
            &lowered(text(args, 1)?),
            text(args, 2)?,
        )
        .and_then(bool_value)
    }),
    // text, delimiter (or NULL), text that stands for NULL (or NULL): an array
    lenient!("sh_string_to_array", 3, string_to_array),
];

/// One character for one, as PostgreSQL maps case: `ß` has no upper case of one character.
fn upper(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

fn lower(c: char) -> char {
    let mut mapped = c.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

fn lowered(text: &str) -> String {
    text.chars().map(lower).collect()
}

fn initcap(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(lower(c));
        } else {
            out.push(upper(c));
        }
        inside = c.is_alphanumeric();
    }
    out
}

fn negative_length() -> SqlError {
    SqlError::new(
        ErrorCode::SubstringError,
        "negative substring length not allowed",
    )
}

/// Characters from and to (exclusive), from 0, of a substring that starts at `from` (1 is the first;
/// what lies before it counts against the length).
fn window(from: i64, length: Option<i64>) -> Result<(usize, usize), SqlError> {
    let end = match length {
        Some(length) if length < 0 => return Err(negative_length()),
        Some(length) => from.saturating_add(length).saturating_sub(1),
        None => i64::MAX,
    };
    let at = |position: i64| usize::try_from(position.max(0)).unwrap_or(usize::MAX);
    Ok((at(from.saturating_sub(1)), at(end)))
}

/// Characters `start` to `end` (exclusive).
fn slice(text: &str, start: usize, end: usize) -> &str {
    if start >= end {
        return "";
    }
    let byte = |position: usize| {
        text.char_indices()
            .nth(position)
            .map_or(text.len(), |(at, _)| at)
    };
    if text.is_ascii() {
        return &text[start.min(text.len())..end.min(text.len())];
    }
    &text[byte(start)..byte(end)]
}

/// The first `count` characters; all but the last `-count` if negative.
fn left(text: &str, count: i64) -> &str {
    let wanted = if count >= 0 {
        usize::try_from(count).unwrap_or(usize::MAX)
    } else {
        text.chars()
            .count()
            .saturating_sub(usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX))
    };
    slice(text, 0, wanted)
}

/// The last `count` characters; all but the first `-count` if negative.
fn right(text: &str, count: i64) -> &str {
    let length = text.chars().count();
    let magnitude = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let skipped = if count >= 0 {
        length.saturating_sub(magnitude)
    } else {
        magnitude.min(length)
    };
    slice(text, skipped, usize::MAX)
}

fn pad(text: &str, length: i64, fill: &str, front: bool) -> Outcome {
    let length = usize::try_from(length.max(0)).unwrap_or(usize::MAX);
    let have = text.chars().count();
    if have >= length || fill.is_empty() {
        return Ok(Value::Text(slice(text, 0, length).to_owned()));
    }
    bounded(length.saturating_mul(4))?;
    let padding: String = fill.chars().cycle().take(length - have).collect();
    Ok(Value::Text(if front {
        padding + text
    } else {
        text.to_owned() + &padding
    }))
}

fn split_part(text: &str, delimiter: &str, field: i64) -> Outcome {
    if field == 0 {
        return Err(invalid_parameter("field position must not be zero"));
    }
    let magnitude = usize::try_from(field.unsigned_abs() - 1).unwrap_or(usize::MAX);
    let part = match (delimiter.is_empty(), field > 0) {
        (true, _) => (magnitude == 0).then_some(text),
        (false, true) => text.split(delimiter).nth(magnitude),
        (false, false) => text.rsplit(delimiter).nth(magnitude),
    };
    Ok(Value::Text(part.unwrap_or_default().to_owned()))
}

fn trimmed(args: Args<'_, '_>, front: bool, back: bool) -> Outcome {
    let (mut text, set) = (text(args, 0)?, text(args, 1)?);
    if front {
        text = text.trim_start_matches(|c| set.contains(c));
    }
    if back {
        text = text.trim_end_matches(|c| set.contains(c));
    }
    Ok(Value::Text(text.to_owned()))
}

/// PostgreSQL's `format`: %s, %I, %L, %%, positions (`%1$s`), widths and `-`.
fn format_text(pattern: &str, values: &[Option<String>]) -> Result<String, SqlError> {
    let mut out = String::with_capacity(pattern.len());
    let mut next = 0;
    let mut chars = pattern.chars().peekable();
    let unterminated = || {
        invalid_parameter("unterminated format() type specifier")
            .with_hint("For a single \"%\" use \"%%\".")
    };
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut digits = String::new();
        let (mut width, mut left_aligned) = (0, false);
        loop {
            match *chars.peek().ok_or_else(unterminated)? {
                '-' => left_aligned = true,
                '$' => {
                    next = digits
                        .parse::<usize>()
                        .ok()
                        .and_then(|position| position.checked_sub(1))
                        .ok_or_else(|| {
                            invalid_parameter(
                                "format specifies argument 0, but arguments are numbered from 1",
                            )
                        })?;
                    digits.clear();
                }
                '*' => {
                    return Err(SqlError::unsupported(
                        "a width taken from an argument of format()",
                    ));
                }
                c if c.is_ascii_digit() => digits.push(c),
                _ => break,
            }
            chars.next();
        }
        if !digits.is_empty() {
            width = bounded(digits.parse().unwrap_or(usize::MAX))?;
        }
        let kind = chars.next().ok_or_else(unterminated)?;
        let value = values
            .get(next)
            .ok_or_else(|| invalid_parameter("too few arguments for format()"))?;
        next += 1;
        let shown = match (kind, value) {
            ('s', value) => value.clone().unwrap_or_default(),
            ('I', Some(value)) => quote_ident(value),
            ('I', None) => {
                return Err(invalid_parameter(
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            ('L', Some(value)) => quote_literal(value),
            ('L', None) => "NULL".to_owned(),
            (other, _) => {
                return Err(invalid_parameter(format!(
                    "unrecognized format() type specifier \"{other}\""
                ))
                .with_hint("For a single \"%\" use \"%%\"."));
            }
        };
        let missing = width.saturating_sub(shown.chars().count());
        if !left_aligned {
            out.extend(std::iter::repeat_n(' ', missing));
        }
        out.push_str(&shown);
        if left_aligned {
            out.extend(std::iter::repeat_n(' ', missing));
        }
    }
    Ok(out)
}

/// A name as it must be written in a statement.
#[must_use]
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !is_reserved(name);
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Words that PostgreSQL always quotes as names: all but the unreserved ones.
fn is_reserved(word: &str) -> bool {
    const WORDS: &str = " all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean \
        both case cast char character check coalesce collate collation column concurrently constraint create cross \
        current_catalog current_date current_role current_schema current_time current_timestamp current_user dec decimal \
        default deferrable desc distinct do else end except exists extract false fetch float for foreign freeze from full \
        grant greatest group grouping having ilike in initially inner inout int integer intersect interval into is isnull \
        join lateral leading least left like limit localtime localtimestamp national natural nchar none normalize not \
        notnull null nullif numeric offset on only or order out outer overlaps overlay placing position precision primary \
        real references returning right row select session_user setof similar smallint some substring symmetric table \
        tablesample then time timestamp to trailing treat trim true union unique user using values varchar variadic \
        verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse \
        xmlpi xmlroot xmlserialize xmltable ";
    WORDS
        .split_ascii_whitespace()
        .any(|reserved| reserved == word)
}

fn quote_literal(text: &str) -> String {
    let prefix = if text.contains('\\') { "E" } else { "" };
    format!(
        "{prefix}'{}'",
        text.replace('\\', "\\\\").replace('\'', "''")
    )
}

/// One part of a LIKE pattern.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Literal(char),
    One,
    Any,
}

/// PostgreSQL's LIKE. Linear in text times pattern.
fn like(text: &str, pattern: &str, escape: &str) -> Result<bool, SqlError> {
    let mut escapes = escape.chars();
    let escape = escapes.next();
    if escapes.next().is_some() {
        return Err(
            SqlError::new(ErrorCode::InvalidEscapeSequence, "invalid escape string")
                .with_hint("Escape string must be empty or one character."),
        );
    }
    let mut parts = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            c if Some(c) == escape => Part::Literal(chars.next().ok_or_else(|| {
                SqlError::new(
                    ErrorCode::InvalidEscapeSequence,
                    "LIKE pattern must not end with escape character",
                )
            })?),
            '%' => Part::Any,
            '_' => Part::One,
            c => Part::Literal(c),
        });
    }
    // On a mismatch only the last `%` needs to take one character more.
    let (mut at, mut part) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        let c = text[at..].chars().next().expect("not at the end");
        match parts.get(part) {
            Some(Part::Any) => {
                part += 1;
                retry = Some((at, part));
                continue;
            }
            Some(Part::One) => {
                at += c.len_utf8();
                part += 1;
                continue;
            }
            Some(&Part::Literal(wanted)) if wanted == c => {
                at += c.len_utf8();
                part += 1;
                continue;
            }
            _ => {}
        }
        let Some((from, after)) = retry else {
            return Ok(false);
        };
        at = from + text[from..].chars().next().map_or(1, char::len_utf8);
        part = after;
        retry = Some((at, after));
    }
    Ok(parts[part..].iter().all(|part| *part == Part::Any))
}

fn string_to_array(args: Args<'_, '_>) -> Outcome {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    let source = text(args, 0)?;
    let null = if args[2].is_null() {
        None
    } else {
        Some(text(args, 2)?)
    };
    let mut letters = [0; 4];
    let parts: Vec<String> = match args[1] {
        _ if source.is_empty() => Vec::new(),
        ValueRef::Null => source
            .chars()
            .map(|c| c.encode_utf8(&mut letters).to_owned())
            .collect(),
        _ if text(args, 1)?.is_empty() => vec![source.to_owned()],
        _ => source.split(text(args, 1)?).map(str::to_owned).collect(),
    };
    let values = parts.iter().map(|part| match null {
        Some(null) if null == part => ValueRef::Null,
        _ => ValueRef::Text(part),
    });
    Ok(Value::Text(crate::types::array::store(
        &crate::types::PgType::Text,
        values,
    )))
}
