//! What PostgreSQL's grammar has and the parser does not: taken out of the text before it is
//! parsed, and remembered.
//!
//! [`crate::planner`] calls [`prepare`] on each statement that it parses. What is taken out is
//! blanked, so that places in the text stay where they are.

use std::borrow::Cow;

use springhead_proto::SqlError;

use crate::scan::{self, Token};

/// A statement as the parser takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared<'s> {
    pub(crate) sql: Cow<'s, str>,
    pub(crate) marks: Marks,
}

/// What was taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Where a SYMMETRIC of BETWEEN SYMMETRIC ended, in bytes.
    pub(crate) symmetric: Vec<usize>,
    pub(crate) overriding: Option<Overriding>,
    /// The condition of `ON CONFLICT (…) WHERE condition`, of the one that there is.
    pub(crate) conflict: Option<String>,
}

/// `INSERT … OVERRIDING … VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overriding {
    System,
    User,
}

/// Takes out what the parser does not know.
///
/// # Errors
/// 42601 for a quote or comment that never ends.
pub(crate) fn prepare(sql: &str) -> Result<Prepared<'_>, SqlError> {
    let mut prepared = Prepared {
        sql: Cow::Borrowed(sql),
        marks: Marks::default(),
    };
    let mut at = 0;
    // The words before, and the last token if it was a string.
    let mut words: [&str; 2] = ["", ""];
    let mut overriding_at = 0;
    let mut string: Option<usize> = None;
    let mut gaps: Vec<(usize, usize)> = Vec::new();
    loop {
        let (token, start, end) = scan::next(sql, at)?;
        let word = if token == Token::Word {
            &sql[start..end]
        } else {
            ""
        };
        match token {
            Token::End => break,
            Token::Word if is(word, "symmetric") && is(words[1], "between") => {
                blank(&mut prepared.sql, start, end);
                prepared.marks.symmetric.push(end);
            }
            // The default, which the parser does not know either.
            Token::Word if is(word, "asymmetric") && is(words[1], "between") => {
                blank(&mut prepared.sql, start, end)
            }
            // There are no tables that inherit.
            Token::Word
                if is(word, "only")
                    && ["from", "join", "update", "table", "truncate"]
                        .iter()
                        .any(|before| is(words[1], before)) =>
            {
                blank(&mut prepared.sql, start, end);
            }
            Token::Word if is(word, "operator") => {
                if let Some((symbol, symbol_end, close)) = quantified_operator(sql, end) {
                    blank(&mut prepared.sql, start, symbol);
                    blank(&mut prepared.sql, symbol_end, close);
                }
            }
            Token::Word if is(word, "overriding") => overriding_at = start,
            Token::Word if is(word, "value") && is(words[0], "overriding") => {
                prepared.marks.overriding = match words[1] {
                    which if is(which, "system") => Some(Overriding::System),
                    which if is(which, "user") => Some(Overriding::User),
                    _ => None,
                };
                if prepared.marks.overriding.is_some() {
                    blank(&mut prepared.sql, overriding_at, end);
                }
            }
            // Strings on lines of their own are one string.
            Token::String if string.is_some_and(|close| sql[close..start].contains('\n')) => {
                let close = string.unwrap_or(start);
                gaps.push((close - 1, start + 1));
                string = Some(end);
            }
            Token::String => string = Some(end),
            _ => {}
        }
        if token != Token::String {
            string = None;
        }
        words = [words[1], word];
        at = end;
    }
    take_conflict_condition(&mut prepared)?;
    if let Some(ordered) = ordered_identities(&prepared.sql)? {
        prepared.sql = Cow::Owned(ordered);
    }
    // Errors after such a string may be placed too far to the left, which is all that is lost.
    if !gaps.is_empty() {
        close_gaps(&mut prepared, &gaps);
    }
    Ok(prepared)
}

/// Of `OPERATOR(pg_catalog.=) ANY`, read from behind its first word: where the symbol begins and ends,
/// and where the parenthesis has ended. The parser has such operators between two values only.
fn quantified_operator(sql: &str, at: usize) -> Option<(usize, usize, usize)> {
    let open = sql[at..].trim_start().strip_prefix('(')?;
    let (inside, behind) = open.split_once(')')?;
    let close = sql.len() - behind.len();
    let symbol = inside
        .trim()
        .rsplit_once('.')
        .map_or(inside.trim(), |(schema, symbol)| {
            if is(schema.trim(), "pg_catalog") {
                symbol.trim()
            } else {
                ""
            }
        });
    let is_symbol = !symbol.is_empty() && symbol.chars().all(|c| "+-*/<>=~!@#%^&|`?".contains(c));
    let quantifier = behind
        .trim_start()
        .split(|c: char| !c.is_ascii_alphabetic())
        .next()?;
    if !is_symbol
        || !["any", "all", "some"]
            .iter()
            .any(|word| is(quantifier, word))
    {
        return None;
    }
    let start = close - 1 - inside.len() + inside.rfind(symbol)?;
    Some((start, start + symbol.len(), close))
}

/// Cuts ranges out, which are in order, and moves the marks behind them.
fn close_gaps(prepared: &mut Prepared<'_>, gaps: &[(usize, usize)]) {
    let mut closed = String::with_capacity(prepared.sql.len());
    let mut at = 0;
    let mut marks = prepared.marks.symmetric.iter_mut().peekable();
    let mut cut = 0;
    for &(start, end) in gaps {
        while let Some(mark) = marks.next_if(|mark| **mark < end) {
            *mark -= cut;
        }
        closed.push_str(&prepared.sql[at..start]);
        cut += end - start;
        at = end;
    }
    for mark in marks {
        *mark -= cut;
    }
    closed.push_str(&prepared.sql[at..]);
    prepared.sql = Cow::Owned(closed);
}

/// Takes out the condition that picks a partial index for ON CONFLICT.
fn take_conflict_condition(prepared: &mut Prepared<'_>) -> Result<(), SqlError> {
    let sql = prepared.sql.clone();
    let (mut at, mut words) = (0, ["", ""]);
    loop {
        let (token, start, end) = scan::next(&sql, at)?;
        if token == Token::End {
            return Ok(());
        }
        at = end;
        let opens = token == Token::Symbol(b'(') && is(words[0], "on") && is(words[1], "conflict");
        if opens {
            at = closing(&sql, end)?;
            let (token, start, end) = scan::next(&sql, at)?;
            if token == Token::Word && is(&sql[start..end], "where") {
                let stop = word_at(&sql, end, "do")?;
                prepared.marks.conflict = Some(sql[end..stop].trim().to_owned());
                blank(&mut prepared.sql, start, stop);
                return Ok(());
            }
        }
        let word = if token == Token::Word {
            &sql[start..end]
        } else {
            ""
        };
        words = [words[1], word];
    }
}

/// Where the parenthesis that is open at `at` has been closed.
fn closing(sql: &str, mut at: usize) -> Result<usize, SqlError> {
    let mut depth = 1_usize;
    loop {
        let (token, _, end) = scan::next(sql, at)?;
        match token {
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth -= 1,
            _ => {}
        }
        at = end;
        if depth == 0 || token == Token::End {
            return Ok(at);
        }
    }
}

/// Where a word stands next outside parentheses, or the end.
fn word_at(sql: &str, mut at: usize, wanted: &str) -> Result<usize, SqlError> {
    loop {
        let (token, start, end) = scan::next(sql, at)?;
        match token {
            Token::End => return Ok(start),
            Token::Word if is(&sql[start..end], wanted) => return Ok(start),
            Token::Symbol(b'(') => at = closing(sql, end)?,
            _ => at = end,
        }
    }
}

/// The options of identity columns in the one order that the parser takes; `None` if there is nothing to
/// do. The text's length stays.
fn ordered_identities(sql: &str) -> Result<Option<String>, SqlError> {
    let mut ordered: Option<String> = None;
    let (mut at, mut before) = (0, "");
    loop {
        let (token, start, end) = scan::next(sql, at)?;
        if token == Token::End {
            return Ok(ordered);
        }
        let opens = token == Token::Symbol(b'(') && is(before, "identity");
        if opens && let Some(length) = sql[end..].find(')') {
            let options = &sql[end..end + length];
            if let Some(sorted) = sorted_options(options)? {
                let text = ordered.get_or_insert_with(|| sql.to_owned());
                text.replace_range(end..end + length, &sorted);
            }
        }
        before = if token == Token::Word {
            &sql[start..end]
        } else {
            ""
        };
        at = end;
    }
}

/// A sequence's options by kind, padded to their length.
fn sorted_options(options: &str) -> Result<Option<String>, SqlError> {
    const KINDS: [&str; 6] = [
        "increment",
        "minvalue",
        "maxvalue",
        "start",
        "cache",
        "cycle",
    ];
    let mut found: Vec<(usize, usize)> = Vec::new();
    let (mut at, mut no) = (0, None);
    loop {
        let (token, start, end) = scan::next(options, at)?;
        if token == Token::End {
            break;
        }
        at = end;
        let word = &options[start..end];
        if token == Token::Word && is(word, "no") {
            no = Some(start);
            continue;
        }
        let kind = KINDS.iter().position(|kind| is(word, kind));
        if token == Token::Word
            && let Some(kind) = kind
        {
            found.push((kind, no.unwrap_or(start)));
        }
        no = None;
    }
    if found.is_sorted_by_key(|(kind, _)| *kind) {
        return Ok(None);
    }
    let ends = found.iter().skip(1).map(|(_, start)| *start);
    let mut parts: Vec<(usize, &str)> = found
        .iter()
        .zip(ends.chain([options.len()]))
        .map(|(&(kind, start), end)| (kind, options[start..end].trim()))
        .collect();
    parts.sort_by_key(|(kind, _)| *kind);
    let texts: Vec<&str> = parts.into_iter().map(|(_, text)| text).collect();
    let text = texts.join(" ");
    Ok((text.len() <= options.len()).then(|| format!("{text:<width$}", width = options.len())))
}

fn is(word: &str, wanted: &str) -> bool {
    word.eq_ignore_ascii_case(wanted)
}

/// Overwrites a range with blanks; lines stay lines.
fn blank(sql: &mut Cow<'_, str>, start: usize, end: usize) {
    let blanks: String = sql[start..end]
        .chars()
        .map(|c| if c == '\n' { '\n' } else { ' ' })
        .collect();
    // What is blanked is key words alone, so that a byte is a character.
    sql.to_mut().replace_range(start..end, &blanks);
}

#[cfg(test)]
mod tests {
    use super::{Overriding, prepare};

    #[test]
    fn what_the_parser_does_not_know_is_blanked_and_remembered() {
        let prepared = prepare("select 1 between symmetric 3 and 1").expect("it scans");
        assert_eq!(prepared.sql, "select 1 between           3 and 1");
        assert_eq!(prepared.marks.symmetric, [26]);
        let prepared =
            prepare("insert into t overriding system value values (1)").expect("it scans");
        assert_eq!(
            prepared.sql,
            "insert into t                         values (1)"
        );
        assert_eq!(prepared.marks.overriding, Some(Overriding::System));
        assert_eq!(
            prepare("select 'a'\n  'b' 'c'").expect("it scans").sql,
            "select 'ab' 'c'"
        );
        let prepared = prepare("select 'a'\n'b'\n'c' between symmetric 'd'\n'e' and symmetric")
            .expect("it scans");
        assert_eq!(
            prepared.sql,
            "select 'abc' between           'de' and symmetric"
        );
        assert_eq!(prepared.marks.symmetric, [30]);
        assert_eq!(
            prepare("a int generated always as identity (start 5 no cycle increment by 2), b int")
                .expect("it scans")
                .sql,
            "a int generated always as identity (increment by 2 start 5 no cycle), b int"
        );
        assert_eq!(
            prepare("select 'symmetric', a").expect("it scans").sql,
            "select 'symmetric', a"
        );
    }
}
