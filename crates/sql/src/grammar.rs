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
    /// What `ON CONFLICT (…)` names, if it is more than columns: expressions, as of an index.
    pub(crate) conflict_keys: Option<Vec<String>>,
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
            Token::Word if means_nothing(words, word) => blank(&mut prepared.sql, start, end),
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
    if let Some(written) = written_out(&prepared.sql)? {
        prepared.sql = Cow::Owned(written);
    }
    take_conflict(&mut prepared)?;
    take_deferrable(&mut prepared)?;
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

/// Words that the parser does not take, and that are not needed: FROM of `TRIM(LEADING FROM …)`; CONCURRENTLY
/// of DROP INDEX, since nobody is kept waiting by an index that goes; ONLY, since no tables inherit.
fn means_nothing(before: [&str; 2], word: &str) -> bool {
    let sides = ["leading", "trailing", "both"];
    let whole = ["from", "join", "update", "table", "truncate"];
    is(word, "from") && sides.iter().any(|side| is(before[1], side))
        || is(word, "only") && whole.iter().any(|clause| is(before[1], clause))
        || is(word, "concurrently") && is(before[0], "drop") && is(before[1], "index")
}

/// Whether a statement ends in `WITH NO DATA`, which the parser reads over.
pub(crate) fn ends_without_data(sql: &str) -> bool {
    let (mut at, mut words) = (0, [""; 3]);
    while let Ok((token, start, end)) = scan::next(sql, at) {
        match token {
            Token::End => break,
            Token::Word => words = [words[1], words[2], &sql[start..end]],
            Token::Symbol(b';') => {}
            _ => words = [""; 3],
        }
        at = end;
    }
    is(words[0], "with") && is(words[1], "no") && is(words[2], "data")
}

/// `TABLE t` and `CREATE TABLE t (a, b) AS query` as the queries that they stand for; `None` for every other
/// statement.
fn written_out(sql: &str) -> Result<Option<String>, SqlError> {
    let (token, first, at) = scan::next(sql, 0)?;
    if token != Token::Word {
        return Ok(None);
    }
    if is(&sql[first..at], "table") {
        return Ok(Some(format!("SELECT * FROM {}", sql[at..].trim_start())));
    }
    if !is(&sql[first..at], "create") {
        return Ok(None);
    }
    let (mut at, mut words, mut open) = (at, 0, None);
    // CREATE [UNLOGGED] TABLE [IF NOT EXISTS] [schema.]name (
    while words < 9 {
        let (token, start, end) = scan::next(sql, at)?;
        at = end;
        match token {
            Token::Word
                if words == 0
                    && !["table", "unlogged"]
                        .iter()
                        .any(|w| is(&sql[start..end], w)) =>
            {
                return Ok(None);
            }
            Token::Word | Token::QuotedIdentifier | Token::Symbol(b'.') => words += 1,
            Token::Symbol(b'(') => {
                open = Some(start);
                break;
            }
            _ => return Ok(None),
        }
    }
    let Some(open) = open else {
        return Ok(None);
    };
    let close = closing(sql, open + 1)?;
    let (token, start, end) = scan::next(sql, close)?;
    if token != Token::Word
        || !is(&sql[start..end], "as")
        || keys_beyond_names(&sql[open + 1..close - 1])?.is_some()
    {
        return Ok(None);
    }
    // WITH [NO] DATA is the statement's and not the query's.
    let query = sql[end..].trim_end().trim_end_matches(';').trim_end();
    let mut data = query.len();
    let mut tail = query
        .rsplit_terminator(char::is_whitespace)
        .filter(|word| !word.is_empty());
    if tail.next().is_some_and(|word| is(word, "data")) {
        let before = tail.next().unwrap_or_default();
        let with = if is(before, "no") {
            tail.next().unwrap_or_default()
        } else {
            before
        };
        if is(with, "with") {
            data = query.to_ascii_lowercase().rfind("with").unwrap_or(data);
        }
    }
    Ok(Some(format!(
        "{} AS SELECT * FROM ({}) AS \"?query\"{} {}",
        &sql[..open],
        &query[..data],
        &sql[open..close],
        &query[data..]
    )))
}

/// Takes `[NOT] DEFERRABLE` out of a transaction's modes: a transaction that only reads never waits here.
fn take_deferrable(prepared: &mut Prepared<'_>) -> Result<(), SqlError> {
    let sql = prepared.sql.clone();
    let (_, start, end) = scan::next(&sql, 0)?;
    if !["begin", "start", "set"]
        .iter()
        .any(|word| is(&sql[start..end], word))
    {
        return Ok(());
    }
    let (mut at, mut before) = (end, [(Token::End, 0, end); 2]);
    loop {
        let token = scan::next(&sql, at)?;
        let (kind, start, end) = token;
        if kind == Token::End {
            return Ok(());
        }
        if kind == Token::Word && is(&sql[start..end], "deferrable") {
            let [comma, not] = before;
            let (comma, from) = if is(&sql[not.1..not.2], "not") {
                (comma, not.1)
            } else {
                (not, start)
            };
            let from = if comma.0 == Token::Symbol(b',') {
                comma.1
            } else {
                from
            };
            blank(&mut prepared.sql, from, end);
        }
        before = [before[1], token];
        at = end;
    }
}

/// The parts of `a, lower(b)` if one of them is more than a name; `None` if they are names.
fn keys_beyond_names(list: &str) -> Result<Option<Vec<String>>, SqlError> {
    let (mut at, mut from, mut words) = (0, 0, 0);
    let (mut keys, mut is_names) = (Vec::new(), true);
    loop {
        let (token, start, end) = scan::next(list, at)?;
        at = end;
        match token {
            Token::End | Token::Symbol(b',') => {
                keys.push(list[from..start].trim().to_owned());
                is_names &= words == 1;
                (from, words) = (end, 0);
                if token == Token::End {
                    return Ok((!is_names).then_some(keys));
                }
            }
            Token::Word | Token::QuotedIdentifier => words += 1,
            Token::Symbol(b'(') => {
                is_names = false;
                at = closing(list, end)?;
            }
            _ => is_names = false,
        }
    }
}

/// Takes out what the parser does not know of ON CONFLICT: expressions, and the condition that picks a
/// partial index.
fn take_conflict(prepared: &mut Prepared<'_>) -> Result<(), SqlError> {
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
            if sql[..at].ends_with(')')
                && let Some(keys) = keys_beyond_names(&sql[end..at - 1])?
            {
                prepared.marks.conflict_keys = Some(keys);
                blank(&mut prepared.sql, start, at);
            }
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
        .flat_map(|c| {
            let blank = if c == '\n' { '\n' } else { ' ' };
            std::iter::repeat_n(blank, c.len_utf8())
        })
        .collect();
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
        let prepared = prepare("insert into t values ('é') on conflict (a, lower(b) ) do nothing")
            .expect("it scans");
        assert_eq!(
            prepared.sql,
            "insert into t values ('é') on conflict                do nothing"
        );
        let keys = prepared.marks.conflict_keys.expect("they are taken out");
        assert_eq!(keys, ["a", "lower(b)"]);
        assert_eq!(
            prepare("start transaction read write, not deferrable")
                .expect("it scans")
                .sql,
            "start transaction read write                "
        );
    }
}
