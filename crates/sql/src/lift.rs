//! Lifts the literals out of a statement, so that statements that differ in nothing else share a
//! plan and need no parse.
//!
//! The session calls [`lift`] for each statement of a simple query, looks the template up in its
//! plan cache, and on a miss plans it with [`crate::planner::plan_template`], which says if the
//! template cannot stand for the statement (a literal is needed where a constant is required). It
//! allocates nothing once its buffers have grown.

use std::borrow::Cow;

use crate::query::params::MAX_PARAMETERS;
use crate::scan::{self, Token};
use crate::types::PgType;

/// Statements with more literals than this are planned as they are written: they are bulk loads, of
/// which no two are alike.
pub const MAX_LITERALS: usize = 256;

/// A statement taken apart. Reused from one statement to the next.
#[derive(Debug, Default, Clone)]
pub struct Lifted {
    /// The statement with `$n` for each lifted literal, and a comment that tells their classes: the
    /// key of the plan cache, and SQL that the parser takes.
    pub template: String,
    /// How many parameters the statement had of its own; the first literal is the next.
    pub parameters: usize,
    pub literals: Vec<Literal>,
    /// The values of strings, one after the other.
    texts: String,
}

/// A literal that was lifted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    pub class: LiteralClass,
    start: usize,
    end: usize,
}

/// What PostgreSQL takes a literal for before it knows the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralClass {
    Int4,
    Int8,
    Numeric,
    /// Its type follows from its context.
    String,
}

impl LiteralClass {
    /// The type that the planner starts from.
    #[must_use]
    pub const fn pg_type(self) -> PgType {
        match self {
            LiteralClass::Int4 => PgType::Int4,
            LiteralClass::Int8 => PgType::Int8,
            LiteralClass::Numeric => PgType::Numeric(None),
            LiteralClass::String => PgType::Unknown,
        }
    }

    const fn mark(self) -> char {
        match self {
            LiteralClass::Int4 => 'i',
            LiteralClass::Int8 => 'l',
            LiteralClass::Numeric => 'n',
            LiteralClass::String => 's',
        }
    }

    /// The class of a number written without quotes, with its sign.
    #[must_use]
    pub fn of_number(text: &str) -> LiteralClass {
        if text.parse::<i32>().is_ok() {
            LiteralClass::Int4
        } else if text.parse::<i64>().is_ok() {
            LiteralClass::Int8
        } else {
            LiteralClass::Numeric
        }
    }
}

impl Lifted {
    /// The text of a literal, as [`crate::types::input`] takes it.
    #[must_use]
    pub fn text(&self, literal: Literal) -> &str {
        &self.texts[literal.start..literal.end]
    }

    /// The texts of all literals, in order: the values of `$parameters+1` and on.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.literals.iter().map(|&literal| self.text(literal))
    }

    fn clear(&mut self) {
        self.template.clear();
        self.parameters = 0;
        self.literals.clear();
        self.texts.clear();
    }

    fn push(&mut self, class: LiteralClass, text: &str) {
        use std::fmt::Write;
        let start = self.texts.len();
        self.texts.push_str(text);
        self.literals.push(Literal {
            class,
            start,
            end: self.texts.len(),
        });
        let number = self.parameters + self.literals.len();
        write!(self.template, "${number}").expect("writing to a String cannot fail");
    }
}

/// Takes `statement` apart into `out`. False if it is no statement whose literals can be lifted
/// (then `out` holds nothing of use): it must be planned as it is written.
pub fn lift(statement: &str, out: &mut Lifted) -> bool {
    out.clear();
    let Some(parameters) = liftable(statement) else {
        return false;
    };
    out.parameters = parameters;
    lift_literals(statement, out).is_some()
}

/// How many parameters the statement has, if its first word says that it may be lifted.
fn liftable(statement: &str) -> Option<usize> {
    let (_, start, end) = scan::next(statement, 0).ok()?;
    let verb = &statement[start..end];
    if !["select", "insert", "update", "delete", "with", "values"]
        .iter()
        .any(|v| v.eq_ignore_ascii_case(verb))
    {
        return None;
    }
    if !statement.contains('$') {
        return Some(0);
    }
    let mut most = 0;
    let mut at = end;
    loop {
        let (token, start, end) = scan::next(statement, at).ok()?;
        match token {
            Token::End => return Some(most),
            Token::Parameter => {
                let number = statement[start + 1..end].parse().ok()?;
                // Planned as it is written, it gets the error that it deserves.
                if number > MAX_PARAMETERS {
                    return None;
                }
                most = most.max(number);
            }
            _ => {}
        }
        at = end;
    }
}

/// What came right before a token, as far as lifting cares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// An operator, an opening parenthesis, a comma, or a key word after which an operand starts.
    Operator,
    /// A minus that has no left operand.
    Sign,
    /// Anything that ends an operand, or a name.
    Operand,
}

fn lift_literals(statement: &str, out: &mut Lifted) -> Option<()> {
    let mut at = 0;
    let mut copied = 0;
    let mut before = Before::Operand;
    let mut sign_at = 0;
    loop {
        let (token, start, end) = scan::next(statement, at).ok()?;
        let mut replace_from = start;
        let lifted = match token {
            Token::End => break,
            Token::Integer | Token::Decimal
                if before == Before::Sign && !binds_tighter(statement, end) =>
            {
                replace_from = sign_at;
                true
            }
            Token::Integer | Token::Decimal => before != Before::Operand,
            Token::String | Token::NationalString | Token::EscapeString => {
                // `'a' 'b'` over two lines is one literal, and a name before makes it a typed one.
                before == Before::Operator && !followed_by_string(statement, end)
            }
            _ => false,
        };
        if lifted {
            // `'a'1` is no statement, and must not become one about the parameter `$11`.
            let runs_on = statement
                .as_bytes()
                .get(end)
                .copied()
                .is_some_and(scan::is_word_part);
            if out.literals.len() == MAX_LITERALS || runs_on {
                return None;
            }
            out.template.push_str(&statement[copied..replace_from]);
            match token {
                Token::Integer | Token::Decimal => {
                    let digits = &statement[start..end];
                    let negative = replace_from != start;
                    let mut number = Cow::Borrowed(digits);
                    if negative {
                        number = Cow::Owned(format!("-{digits}"));
                    }
                    out.push(LiteralClass::of_number(&number), &number);
                }
                // A national literal is a `character` value, whose trailing blanks mean nothing.
                Token::NationalString => out.push(
                    LiteralClass::String,
                    decode(token, &statement[start..end])?.trim_end_matches(' '),
                ),
                _ => out.push(
                    LiteralClass::String,
                    &decode(token, &statement[start..end])?,
                ),
            }
            copied = end;
        }
        before = match token {
            Token::Symbol(b')' | b']') => Before::Operand,
            Token::Symbol(b'-') if before == Before::Operator => {
                sign_at = start;
                Before::Sign
            }
            Token::Symbol(b'.' | b':') => Before::Operand,
            Token::Symbol(_) => Before::Operator,
            Token::Word if starts_operand(&statement[start..end]) => Before::Operator,
            _ => Before::Operand,
        };
        at = end;
    }
    out.template.push_str(statement[copied..].trim_end());
    out.template.push_str("\n--");
    for literal in &out.literals {
        out.template.push(literal.class.mark());
    }
    Some(())
}

/// Key words after which a literal is an operand, and not part of a type, a clause or an alias.
fn starts_operand(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "all",
        "and",
        "any",
        "between",
        "case",
        "distinct",
        "else",
        "having",
        "ilike",
        "in",
        "like",
        "limit",
        "not",
        "offset",
        "on",
        "or",
        "returning",
        "select",
        "similar",
        "then",
        "to",
        "values",
        "when",
        "where",
        "from",
    ];
    WORDS.iter().any(|w| w.eq_ignore_ascii_case(word))
}

/// Whether what follows a number binds tighter than a sign before it: a cast or a subscript.
fn binds_tighter(statement: &str, end: usize) -> bool {
    !matches!(scan::next(statement, end), Ok((token, _, _)) if !matches!(token, Token::Symbol(b':' | b'[' | b'.')))
}

fn followed_by_string(statement: &str, end: usize) -> bool {
    !matches!(
        scan::next(statement, end),
        Ok((token, _, _)) if !matches!(token, Token::String | Token::EscapeString | Token::NationalString | Token::OtherString)
    )
}

/// The value of a string literal; `None` if it needs the parser's judgement.
fn decode(token: Token, literal: &str) -> Option<Cow<'_, str>> {
    let open = literal.find('\'')?;
    let body = &literal[open + 1..literal.len() - 1];
    if token == Token::EscapeString {
        return decode_escapes(body).map(Cow::Owned);
    }
    if body.contains('\0') {
        return None;
    }
    Some(if body.contains('\'') {
        Cow::Owned(body.replace("''", "'"))
    } else {
        Cow::Borrowed(body)
    })
}

/// The value of the inside of `E'…'`; `None` for an escape that is malformed.
pub(crate) fn decode_escapes(body: &str) -> Option<String> {
    let mut out: Vec<u8> = Vec::with_capacity(body.len());
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        match byte {
            b'\'' => {
                // Doubled.
                at += 1;
                out.push(b'\'');
            }
            b'\\' => at = escape(bytes, at, &mut out)?,
            other => out.push(other),
        }
    }
    if out.contains(&0) {
        return None;
    }
    String::from_utf8(out).ok()
}

/// One escape, whose letter is at `at`; where it ends.
fn escape(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let digits = |from: usize, most: usize, radix: u32| {
        let count = bytes[from..]
            .iter()
            .take(most)
            .take_while(|b| char::from(**b).is_digit(radix))
            .count();
        let text = std::str::from_utf8(&bytes[from..from + count]).ok()?;
        Some((u32::from_str_radix(text, radix).ok()?, count))
    };
    let letter = *bytes.get(at)?;
    match letter {
        b'b' => out.push(8),
        b'f' => out.push(12),
        b'n' => out.push(b'\n'),
        b'r' => out.push(b'\r'),
        b't' => out.push(b'\t'),
        b'0'..=b'7' => {
            let (value, count) = digits(at, 3, 8)?;
            out.push(u8::try_from(value & 0xff).ok()?);
            return Some(at + count);
        }
        b'x' => match digits(at + 1, 2, 16) {
            Some((value, count)) => {
                out.push(u8::try_from(value).ok()?);
                return Some(at + 1 + count);
            }
            None => out.push(b'x'),
        },
        b'u' | b'U' => {
            let wanted = if letter == b'u' { 4 } else { 8 };
            let (value, count) = digits(at + 1, wanted, 16)?;
            if count != wanted {
                return None;
            }
            let mut buffer = [0; 4];
            out.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut buffer).as_bytes());
            return Some(at + 1 + wanted);
        }
        // A multi-byte character's other bytes follow as they are.
        other => out.push(other),
    }
    Some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::{Lifted, lift};

    fn check(statement: &str, template: &str, literals: &[&str]) {
        let mut out = Lifted::default();
        assert!(lift(statement, &mut out), "{statement} can be lifted");
        assert_eq!(out.template, template);
        assert_eq!(out.texts().collect::<Vec<_>>(), literals);
    }

    #[test]
    fn literals_become_parameters_and_their_classes_part_of_the_key() {
        check(
            "UPDATE a SET b = b + -12 WHERE c = 3000000000 AND d='it''s'",
            "UPDATE a SET b = b + $1 WHERE c = $2 AND d=$3\n--ils",
            &["-12", "3000000000", "it's"],
        );
        check(
            "select $2, 1.5, E'a\\n'",
            "select $2, $3, $4\n--ns",
            &["1.5", "a\n"],
        );
        check(
            "select 9223372036854775808",
            "select $1\n--n",
            &["9223372036854775808"],
        );
        check(
            "select -2147483648, - 2147483649",
            "select $1, $2\n--il",
            &["-2147483648", "-2147483649"],
        );
    }

    /// `SELECT '.'25` became `SELECT $125`: the number ran on into what followed the literal.
    #[test]
    fn a_literal_that_runs_into_what_follows_is_not_lifted() {
        let mut out = Lifted::default();
        for statement in ["select '.'25", "select 'a'b", "select 'a'$1", "select 'a'ä"] {
            assert!(!lift(statement, &mut out), "{statement}: {}", out.template);
        }
    }

    /// Room was made for every parameter up to the number that was named.
    #[test]
    fn a_parameter_past_the_bound_is_not_lifted() {
        let mut out = Lifted::default();
        assert!(lift("select $32766, 1", &mut out));
        for statement in [
            "select $32767, 1",
            "select $12147483648::int",
            "select $99999999999999999999",
        ] {
            assert!(!lift(statement, &mut out), "{statement}: {}", out.template);
        }
    }

    #[test]
    fn what_needs_a_constant_stays() {
        check(
            "select date '2020-01-01', 'x' as y",
            "select date '2020-01-01', $1 as y\n--s",
            &["x"],
        );
        check(
            "select a-1, -1::text",
            "select a-$1, -$2::text\n--ii",
            &["1", "1"],
        );
        check(
            "select a from b order by 1",
            "select a from b order by 1\n--",
            &[],
        );
        check(
            "select interval '1 day', B'01'",
            "select interval '1 day', B'01'\n--",
            &[],
        );
    }
}
