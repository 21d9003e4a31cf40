//! Bounds how deep the tree is that the parser makes of a statement, before it makes it.
//!
//! The parser counts what it calls itself for: parentheses, subqueries, prefix operators. What it
//! reads in a loop it does not count, and yet each turn puts one more level on top of the tree:
//! `1::int::int…`, `a + b + c…`, `SELECT … UNION SELECT …`. A tree of a hundred thousand levels cannot
//! even be let go of without overflowing the stack, and with it ends the process. So the tokens are
//! looked at first: [`check`] gives an upper bound of the depth, in one pass.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

/// SQLite's own bound on the depth of an expression: what is deeper would not run.
const MAX_LEVELS: usize = 1000;

/// Refuses statements whose tree may be deeper than [`MAX_LEVELS`] by chains of operators.
///
/// # Errors
/// 54001.
pub(crate) fn check(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut open: Vec<(Bracket, Group)> = Vec::new();
    let mut group = Group::default();
    for token in tokens {
        match Part::of(&token.token) {
            Part::Operand => {}
            Part::Operator => group.operators += 1,
            Part::Link => group.link(),
            Part::Separator => group.separate(),
            Part::CaseSeparator if matches!(open.last(), Some((Bracket::Case, _))) => {
                group.separate();
            }
            Part::CaseSeparator => {}
            Part::Open(bracket) => {
                // A subscript, or a dimension of a type.
                group.operators += usize::from(bracket == Bracket::Square);
                open.push((bracket, std::mem::take(&mut group)));
            }
            // An END that closes no CASE is a statement or a part of one.
            Part::Close(Bracket::Case) if !matches!(open.last(), Some((Bracket::Case, _))) => {}
            Part::Close(bracket) => {
                while let Some((opened, around)) = open.pop() {
                    let inner = std::mem::replace(&mut group, around);
                    group.inner = group.inner.max(inner.levels());
                    if opened == bracket {
                        break;
                    }
                }
            }
        }
        if group.levels() > MAX_LEVELS {
            return Err(SqlError::new(
                ErrorCode::TooComplex,
                "the statement is nested too deeply",
            )
            .with_hint(format!(
                "more than {MAX_LEVELS} operators follow each other; use a list, or split the statement"
            )));
        }
    }
    Ok(())
}

/// What stands between two brackets, as far as it has been read.
#[derive(Default)]
struct Group {
    /// Operators since the last link or separator.
    operators: usize,
    /// The deepest group since then.
    inner: usize,
    /// The deepest stretch between two links since the last separator.
    stretch: usize,
    /// Links since the last separator.
    links: usize,
    /// The deepest of what lies between separators.
    deepest: usize,
}

impl Group {
    fn link(&mut self) {
        self.stretch = self.stretch.max(self.operators + self.inner);
        (self.operators, self.inner) = (0, 0);
        self.links += 1;
    }

    fn separate(&mut self) {
        let deepest = self.levels();
        *self = Group {
            deepest,
            ..Group::default()
        };
    }

    fn levels(&self) -> usize {
        let stretch = self.stretch.max(self.operators + self.inner);
        self.deepest.max(self.links + stretch)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Parenthesis,
    Square,
    Case,
}

/// What a token does to the depth.
enum Part {
    Operand,
    Operator,
    /// Binds less tightly than every operator.
    Link,
    Separator,
    /// A separator within CASE, and elsewhere nothing.
    CaseSeparator,
    Open(Bracket),
    Close(Bracket),
}

impl Part {
    fn of(token: &Token) -> Part {
        match token {
            Token::Word(word) => Part::of_word(word.keyword),
            Token::LParen => Part::Open(Bracket::Parenthesis),
            Token::RParen => Part::Close(Bracket::Parenthesis),
            Token::LBracket => Part::Open(Bracket::Square),
            Token::RBracket => Part::Close(Bracket::Square),
            Token::Comma | Token::SemiColon => Part::Separator,
            Token::EOF
            | Token::Whitespace(_)
            | Token::Period
            | Token::Number(..)
            | Token::Char(_)
            | Token::Placeholder(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_) => Part::Operand,
            _ => Part::Operator,
        }
    }

    fn of_word(keyword: Keyword) -> Part {
        match keyword {
            Keyword::AND
            | Keyword::OR
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT
            | Keyword::MINUS => Part::Link,
            Keyword::AT
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::DIV
            | Keyword::GLOB
            | Keyword::ILIKE
            | Keyword::IN
            | Keyword::IS
            | Keyword::LIKE
            | Keyword::MATCH
            | Keyword::MEMBER
            | Keyword::NOT
            | Keyword::NOTNULL
            | Keyword::OPERATOR
            | Keyword::OVERLAPS
            | Keyword::REGEXP
            | Keyword::RLIKE
            | Keyword::SIMILAR
            | Keyword::XOR => Part::Operator,
            Keyword::CASE => Part::Open(Bracket::Case),
            Keyword::END => Part::Close(Bracket::Case),
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE => Part::CaseSeparator,
            _ => Part::Operand,
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlparser::dialect::PostgreSqlDialect;
    use sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn passes(sql: &str) -> bool {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
            .tokenize_with_location()
            .expect("it has tokens");
        match check(&tokens) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.code, ErrorCode::TooComplex);
                false
            }
        }
    }

    #[test]
    fn chains_are_bounded_whatever_they_are_made_of() {
        for (head, link) in [
            ("select 1", "::int"),
            ("select 1", "+1"),
            ("select 1", " not null"),
            ("select a", "[1]"),
            ("select a", " like b"),
            ("select a", " at time zone b"),
            ("select a", " between 1 and 2"),
            ("select a", " collate \"C\""),
            ("select a", " operator(pg_catalog.+) 1"),
            ("select a", "->'b'"),
            ("select a", " and b"),
            ("select a", " union select b"),
            ("create table t (a int", "[]"),
        ] {
            assert!(passes(&format!("{head}{}", link.repeat(300))), "{link}");
            assert!(!passes(&format!("{head}{}", link.repeat(1001))), "{link}");
        }
        // Chains within each other add up, however they are wrapped.
        let mut expression = "1".to_owned();
        for wrap in [
            ("(", ")"),
            ("case when ", " then 1 end"),
            ("a[", "]"),
            ("f(2, ", ")"),
        ] {
            for _ in 0..5 {
                expression = format!("{}{expression}{}{}", wrap.0, wrap.1, "::int".repeat(60));
            }
        }
        assert!(!passes(&format!("select {expression}")));
    }

    #[test]
    fn what_is_long_and_flat_passes() {
        let long = |part: &str, by: &str| vec![part; 5000].join(by);
        for sql in [
            format!("insert into t values {}", long("(1+1, 'x'::text)", ",")),
            format!("select {}", long("a+1", ", ")),
            format!("select case {} end", long("when a = 1 then b::int", " ")),
            format!("select a in ({})", long("-1", ",")),
            format!("select {}", vec!["a = 1 and b < 2::int"; 400].join(" or ")),
            format!(
                "select {}",
                vec!["(a = 1 or (b = 2 and c = 3))"; 900].join(" and ")
            ),
        ] {
            assert!(passes(&sql), "{sql:.60}");
        }
    }
}
