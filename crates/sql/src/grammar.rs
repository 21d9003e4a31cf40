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
    // Errors after such a string may be placed too far to the left, which is all that is lost.
    if !gaps.is_empty() {
        close_gaps(&mut prepared, &gaps);
    }
    Ok(prepared)
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
            prepare("select 'symmetric', a").expect("it scans").sql,
            "select 'symmetric', a"
        );
    }
}
