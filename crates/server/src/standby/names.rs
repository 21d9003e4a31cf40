//! `synchronous_standbys`: which standbys a commit waits for, in PostgreSQL's words
//! (<https://www.postgresql.org/docs/15/runtime-config-replication.html>).

use std::fmt;
use std::str::FromStr;

/// The setting, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SynchronousStandbys {
    pub method: Method,
    /// How many must have it; 0 where nothing is waited for.
    pub count: usize,
    /// In order of priority; `*` is any.
    pub names: Vec<String>,
}

/// Whose word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// That of the first so many that are there, by priority.
    #[default]
    First,
    /// That of so many, whichever.
    Any,
}

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected names as in \"a, b\", \"FIRST 1 (a, b)\" or \"ANY 2 (a, b, c)\", and not {0}; \"\" waits for nobody"
)]
pub struct BadNames(String);

impl SynchronousStandbys {
    /// Whether any commit waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The priority of a standby, from 1; 0 if nobody waits for it.
    #[must_use]
    pub fn priority(&self, name: &str) -> usize {
        self.names
            .iter()
            .position(|known| known == "*" || known.eq_ignore_ascii_case(name))
            .map_or(0, |place| place + 1)
    }

    /// The last position that enough of the standbys given (priority and position) have, or `None`
    /// if there are not enough of them.
    #[must_use]
    pub fn quorum<T: Copy + Ord>(&self, standbys: &[(usize, T)]) -> Option<T> {
        let mut counted: Vec<(usize, T)> = standbys
            .iter()
            .copied()
            .filter(|(priority, _)| *priority > 0)
            .collect();
        if self.count == 0 || counted.len() < self.count {
            return None;
        }
        match self.method {
            Method::First => {
                counted.sort_by_key(|(priority, _)| *priority);
                counted[..self.count]
                    .iter()
                    .map(|(_, position)| *position)
                    .min()
            }
            Method::Any => {
                counted.sort_by_key(|(_, position)| std::cmp::Reverse(*position));
                counted.get(self.count - 1).map(|(_, position)| *position)
            }
        }
    }
}

impl FromStr for SynchronousStandbys {
    type Err = BadNames;

    fn from_str(text: &str) -> Result<SynchronousStandbys, BadNames> {
        let bad = || {
            BadNames(format!(
                "\"{}\"",
                text.chars().take(100).collect::<String>()
            ))
        };
        let tokens = tokens(text).ok_or_else(bad)?;
        let mut rest = &tokens[..];
        if rest.is_empty() {
            return Ok(SynchronousStandbys::default());
        }
        let mut method = Method::First;
        let mut explicit = false;
        if let [Token::Word(word), Token::Word(_), ..] = rest {
            method = match word.to_ascii_lowercase().as_str() {
                "first" => Method::First,
                "any" => Method::Any,
                _ => return Err(bad()),
            };
            explicit = true;
            rest = &rest[1..];
        }
        let (count, list) = match rest {
            [Token::Word(count), Token::Open, list @ .., Token::Close] => {
                (count.parse().map_err(|_| bad())?, list)
            }
            list if !explicit => (1, list),
            _ => return Err(bad()),
        };
        let names = names(list).ok_or_else(bad)?;
        if count == 0 || (count > names.len() && !names.iter().any(|name| name == "*")) {
            return Err(bad());
        }
        Ok(SynchronousStandbys {
            method,
            count,
            names,
        })
    }
}

impl fmt::Display for SynchronousStandbys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        let word = match self.method {
            Method::First => "FIRST",
            Method::Any => "ANY",
        };
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| {
                let plain =
                    name == "*" || name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if plain {
                    name.clone()
                } else {
                    format!("\"{}\"", name.replace('"', "\"\""))
                }
            })
            .collect();
        write!(f, "{word} {} ({})", self.count, names.join(", "))
    }
}

enum Token {
    Word(String),
    Comma,
    Open,
    Close,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            c if c.is_whitespace() => _ = chars.next(),
            ',' | '(' | ')' => {
                out.push(match c {
                    ',' => Token::Comma,
                    '(' => Token::Open,
                    _ => Token::Close,
                });
                chars.next();
            }
            '"' => {
                chars.next();
                let mut word = String::new();
                loop {
                    match chars.next()? {
                        '"' if chars.peek() == Some(&'"') => {
                            chars.next();
                            word.push('"');
                        }
                        '"' => break,
                        c => word.push(c),
                    }
                }
                out.push(Token::Word(word));
            }
            _ => {
                let mut word = String::new();
                while let Some(&c) = chars.peek()
                    && !c.is_whitespace()
                    && !",()\"".contains(c)
                {
                    word.push(c);
                    chars.next();
                }
                out.push(Token::Word(word));
            }
        }
    }
    Some(out)
}

fn names(tokens: &[Token]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        match token {
            Token::Word(name) if place % 2 == 0 && !name.is_empty() => names.push(name.clone()),
            Token::Comma if place % 2 == 1 => {}
            _ => return None,
        }
    }
    (tokens.len() % 2 == 1).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let found: Result<SynchronousStandbys, _> = text.parse();
        assert_eq!(
            found.as_ref().ok().map(ToString::to_string).as_deref(),
            expected,
            "{text}"
        );
        if let Ok(found) = found {
            assert_eq!(found.to_string().parse(), Ok(found));
        }
    }

    #[test]
    fn names_are_read_as_postgresql_reads_them() {
        check("", Some(""));
        check("  ", Some(""));
        check("a", Some("FIRST 1 (a)"));
        check("a, b", Some("FIRST 1 (a, b)"));
        check("*", Some("FIRST 1 (*)"));
        check("ANY 1 (a, b)", Some("ANY 1 (a, b)"));
        check("any 2(a,b,c)", Some("ANY 2 (a, b, c)"));
        check("first 2 (a, b)", Some("FIRST 2 (a, b)"));
        check("2 (a, b)", Some("FIRST 2 (a, b)"));
        check("ANY 2 (*)", Some("ANY 2 (*)"));
        check("\"Node A\", b", Some("FIRST 1 (\"Node A\", b)"));
        check("127.0.0.1:6481", Some("FIRST 1 (\"127.0.0.1:6481\")"));
        for bad in [
            "a b",
            "ANY (a)",
            "ANY 0 (a)",
            "ANY 3 (a, b)",
            "ANY 1 (a,)",
            "ANY 1 a",
            "(a)",
            ",",
            "\"a",
            "SOME 1 (a)",
            "ANY x (a)",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn g11_a_quorum_is_what_enough_standbys_have() {
        let any: SynchronousStandbys = "ANY 2 (a, b, c)".parse().unwrap();
        assert_eq!(any.quorum(&[(1, 5), (2, 9), (3, 7)]), Some(7));
        assert_eq!(any.quorum(&[(1, 5), (0, 9)]), None);
        assert_eq!(any.quorum(&[(1, 5), (0, 9), (3, 1)]), Some(1));
        let first: SynchronousStandbys = "FIRST 1 (a, b)".parse().unwrap();
        // The first that is there counts, however far the second is.
        assert_eq!(first.quorum(&[(2, 9), (1, 5)]), Some(5));
        assert_eq!(first.quorum(&[(2, 9)]), Some(9));
        assert_eq!(first.quorum::<u32>(&[]), None);
    }
}
