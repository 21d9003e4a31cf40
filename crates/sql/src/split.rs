//! Splits the text of a simple query into its statements.
//!
//! The session calls it for each simple query and runs the pieces one after the other. It knows
//! quotes, escape strings, dollar quotes and nested comments, and nothing else of SQL: each piece is
//! parsed on its own by [`crate::planner`]. It copies nothing.

use springhead_proto::{ErrorCode, SqlError};

use crate::scan::{self, Token};

/// The statements of `script`, first to last, without their semicolons and surrounding blanks.
/// Statements of nothing but blanks and comments are passed over. Ends after the first error.
pub fn statements(script: &str) -> Statements<'_> {
    Statements {
        rest: script,
        offset: 0,
    }
}

/// Iterator over a script's statements.
#[derive(Debug, Clone)]
pub struct Statements<'a> {
    rest: &'a str,
    offset: usize,
}

impl Statements<'_> {
    /// Where in the script, in bytes from 0, what has not been split yet begins.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for Statements<'a> {
    type Item = Result<&'a str, SqlError>;

    fn next(&mut self) -> Option<Result<&'a str, SqlError>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let (end, next, first) = match statement_end(self.rest) {
                Ok(found) => found,
                Err(error) => {
                    self.rest = "";
                    return Some(Err(error));
                }
            };
            let statement = self.rest[..end].trim_ascii_end();
            let statement = first.map(|first| &statement[first..]);
            self.rest = &self.rest[next..];
            self.offset += next;
            if let Some(statement) = statement {
                return Some(Ok(statement));
            }
        }
    }
}

/// Where the first statement ends, where the next begins, and where the first token is, if any.
fn statement_end(text: &str) -> Result<(usize, usize, Option<usize>), SqlError> {
    let mut at = 0;
    let mut first = None;
    // BEGIN ATOMIC … END holds semicolons of its own.
    let mut depth = 0usize;
    let mut word_before = "";
    loop {
        let (token, start, end) = scan::next(text, at)?;
        match token {
            Token::End => return Ok((text.len(), text.len(), first)),
            Token::Symbol(b';') if depth == 0 => return Ok((start, end, first)),
            Token::Word => {
                let word = &text[start..end];
                let opens = word.eq_ignore_ascii_case("atomic")
                    && word_before.eq_ignore_ascii_case("begin")
                    || depth > 0 && word.eq_ignore_ascii_case("case");
                if opens {
                    depth += 1;
                } else if depth > 0 && word.eq_ignore_ascii_case("end") {
                    depth -= 1;
                }
                word_before = word;
            }
            _ => word_before = "",
        }
        first.get_or_insert(start);
        at = end;
    }
}

/// What is wrong with a text whose quote or comment never ends.
pub(crate) fn unterminated(what: &str, text: &str, at: usize) -> SqlError {
    let position = text[..at].chars().count() + 1;
    SqlError::new(ErrorCode::SyntaxError, format!("unterminated {what}"))
        .with_position(u32::try_from(position).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::statements;

    fn check(script: &str, expected: &[&str]) {
        let found: Result<Vec<&str>, _> = statements(script).collect();
        assert_eq!(found.expect("it splits"), expected);
    }

    #[test]
    fn splits_at_top_level_semicolons_only() {
        check("select 1; select 2", &["select 1", "select 2"]);
        check(";;  ; -- nothing\n /* a /* nested */ ; */ ;", &[]);
        check(
            "select ';', \";\", 'it''s;' ; x",
            &["select ';', \";\", 'it''s;'", "x"],
        );
        check(
            r"select E'\';' ; select '\';",
            &[r"select E'\';'", r"select '\'"],
        );
        check(
            "select $$;$$, $a$ $$ ; $a$; b",
            &["select $$;$$, $a$ $$ ; $a$", "b"],
        );
        check("-- c\nselect 1 -- ; d\n;", &["select 1 -- ; d"]);
        check(
            "select $1;select a$b$c;d",
            &["select $1", "select a$b$c", "d"],
        );
    }

    #[test]
    fn an_open_quote_is_a_syntax_error_with_its_place() {
        let error = statements("select 1; select 'ab")
            .nth(1)
            .expect("two")
            .expect_err("open");
        assert_eq!(error.code, springhead_proto::ErrorCode::SyntaxError);
        assert_eq!(error.position, Some(9));
    }
}
