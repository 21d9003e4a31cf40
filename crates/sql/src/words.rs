//! A cursor over the words of a statement that the parser does not know: LISTEN, COPY, SHOW CHANGES.
//!
//! Each of them has a module of its own that reads its statement with [`Words`] and says 42601, as
//! PostgreSQL words it, where it is not of its form.

use springhead_proto::{ErrorCode, SqlError};

use crate::lift;
use crate::scan::{self, Token};

/// PostgreSQL cuts identifiers to this many bytes.
const IDENTIFIER_BYTES: usize = 63;

/// The tokens of one statement, read from the front.
#[derive(Debug, Clone)]
pub(crate) struct Words<'s> {
    pub(crate) sql: &'s str,
    tokens: Vec<(Token, usize, usize)>,
    at: usize,
}

/// Whether the statement begins with `word`.
pub(crate) fn begins_with(sql: &str, word: &str) -> bool {
    matches!(scan::next(sql, 0), Ok((Token::Word, start, end)) if sql[start..end].eq_ignore_ascii_case(word))
}

impl<'s> Words<'s> {
    /// All tokens of `sql` but semicolons at its end.
    ///
    /// # Errors
    /// 42601 for a quote or comment that never ends.
    pub(crate) fn new(sql: &'s str) -> Result<Words<'s>, SqlError> {
        let mut tokens = Vec::new();
        let mut at = 0;
        loop {
            let (token, start, end) = scan::next(sql, at)?;
            if token == Token::End {
                break;
            }
            tokens.push((token, start, end));
            at = end;
        }
        while matches!(tokens.last(), Some((Token::Symbol(b';'), ..))) {
            tokens.pop();
        }
        Ok(Words { sql, tokens, at: 0 })
    }

    /// Whether all has been read.
    pub(crate) fn is_end(&self) -> bool {
        self.at == self.tokens.len()
    }

    /// Where the next token begins.
    pub(crate) fn place(&self) -> usize {
        self.tokens
            .get(self.at)
            .map_or(self.sql.len(), |&(_, start, _)| start)
    }

    fn peek(&self) -> Option<(Token, &'s str)> {
        self.tokens
            .get(self.at)
            .map(|&(token, start, end)| (token, &self.sql[start..end]))
    }

    /// Whether the next token is this key word; it is not read.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some((Token::Word, text)) if text.eq_ignore_ascii_case(word))
    }

    /// Reads the key word if it is next.
    pub(crate) fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    /// Reads the key word.
    pub(crate) fn expect_word(&mut self, word: &str) -> Result<(), SqlError> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    /// Reads the symbol if it is next.
    pub(crate) fn symbol(&mut self, symbol: u8) -> bool {
        let found = matches!(self.peek(), Some((Token::Symbol(found), _)) if found == symbol);
        self.at += usize::from(found);
        found
    }

    /// Reads the symbol.
    pub(crate) fn expect_symbol(&mut self, symbol: u8) -> Result<(), SqlError> {
        if self.symbol(symbol) {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    /// A name, folded and cut as PostgreSQL does it; key words that PostgreSQL reserves are none.
    pub(crate) fn name(&mut self) -> Result<String, SqlError> {
        let mut name = match self.peek() {
            Some((Token::Word, text)) if !is_reserved(&text.to_ascii_lowercase()) => {
                text.to_ascii_lowercase()
            }
            Some((Token::QuotedIdentifier, text)) if text.len() > 2 => {
                text[1..text.len() - 1].replace("\"\"", "\"")
            }
            Some((Token::QuotedIdentifier, _)) => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "zero-length delimited identifier at or near \"\"\"\"",
                )
                .with_position(self.position()));
            }
            _ => return Err(self.wrong()),
        };
        if name.len() > IDENTIFIER_BYTES {
            let end = (0..=IDENTIFIER_BYTES)
                .rev()
                .find(|&end| name.is_char_boundary(end))
                .unwrap_or(0);
            name.truncate(end);
        }
        self.at += 1;
        Ok(name)
    }

    /// `name` or `schema.name`.
    pub(crate) fn qualified_name(&mut self) -> Result<(Option<String>, String), SqlError> {
        let first = self.name()?;
        if !self.symbol(b'.') {
            return Ok((None, first));
        }
        let second = self.name()?;
        if !self.symbol(b'.') {
            return Ok((Some(first), second));
        }
        // A database's name may lead; only the current one could be meant.
        Ok((Some(second), self.name()?))
    }

    /// A key word or name, whatever it is, in lower case.
    pub(crate) fn any_word(&mut self) -> Result<String, SqlError> {
        match self.peek() {
            Some((Token::Word, text)) => {
                self.at += 1;
                Ok(text.to_ascii_lowercase())
            }
            Some((Token::QuotedIdentifier, _)) => self.name(),
            _ => Err(self.wrong()),
        }
    }

    /// Whether the next token is a string.
    pub(crate) fn is_string(&self) -> bool {
        matches!(
            self.peek(),
            Some((Token::String | Token::EscapeString | Token::DollarString, _))
        )
    }

    /// Whether a number without sign or point comes.
    pub(crate) fn is_number(&self) -> bool {
        matches!(self.peek(), Some((Token::Integer, _)))
    }

    /// A string's value.
    pub(crate) fn string(&mut self) -> Result<String, SqlError> {
        let value = match self.peek() {
            Some((Token::String, text)) => text[1..text.len() - 1].replace("''", "'"),
            Some((Token::EscapeString, text)) => lift::decode_escapes(&text[2..text.len() - 1])
                .ok_or_else(|| {
                    SqlError::new(ErrorCode::InvalidEscapeSequence, "invalid escape string")
                        .with_position(self.position())
                })?,
            Some((Token::DollarString, text)) => {
                let tag = text[1..].find('$').map_or(0, |end| end + 2);
                text[tag..text.len() - tag].to_owned()
            }
            _ => return Err(self.wrong()),
        };
        self.at += 1;
        Ok(value)
    }

    /// Whether the next token is this symbol; it is not read.
    pub(crate) fn is_symbol(&self, symbol: u8) -> bool {
        matches!(self.peek(), Some((Token::Symbol(found), _)) if found == symbol)
    }

    /// An option's value: a word, a number or a string.
    pub(crate) fn value(&mut self) -> Result<String, SqlError> {
        match self.peek() {
            Some((Token::Integer, text)) => {
                self.at += 1;
                Ok(text.to_owned())
            }
            Some((Token::Word, _)) => self.any_word(),
            _ => self.string(),
        }
    }

    /// A number without sign or point.
    pub(crate) fn integer(&mut self) -> Result<u64, SqlError> {
        match self.peek() {
            Some((Token::Integer, text)) => {
                let number = text.parse().map_err(|_| self.wrong())?;
                self.at += 1;
                Ok(number)
            }
            _ => Err(self.wrong()),
        }
    }

    /// Skips to behind the parenthesis that closes the one just read; where that one is.
    pub(crate) fn skip_parentheses(&mut self) -> Result<usize, SqlError> {
        let mut depth = 1_usize;
        loop {
            match self.peek() {
                Some((Token::Symbol(b'('), _)) => depth += 1,
                Some((Token::Symbol(b')'), _)) => depth -= 1,
                Some(_) => {}
                None => return Err(self.wrong()),
            }
            let place = self.place();
            self.at += 1;
            if depth == 0 {
                return Ok(place);
            }
        }
    }

    /// Skips to the next of this key word that is in no parentheses, or to the end; where that is.
    pub(crate) fn skip_to_word(&mut self, word: &str) -> usize {
        let mut depth = 0_usize;
        while let Some((token, _)) = self.peek() {
            match token {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') => depth = depth.saturating_sub(1),
                _ if depth == 0 && self.is_word(word) => break,
                _ => {}
            }
            self.at += 1;
        }
        self.place()
    }

    /// Makes sure that all has been read.
    pub(crate) fn expect_end(&self) -> Result<(), SqlError> {
        if self.is_end() {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    fn position(&self) -> u32 {
        let characters = self.sql[..self.place()].chars().count() + 1;
        u32::try_from(characters).unwrap_or(u32::MAX)
    }

    /// The next token does not belong here.
    pub(crate) fn wrong(&self) -> SqlError {
        let message = match self.peek() {
            Some((_, text)) => format!("syntax error at or near \"{text}\""),
            None => "syntax error at end of input".to_owned(),
        };
        SqlError::new(ErrorCode::SyntaxError, message).with_position(self.position())
    }
}

/// Words that PostgreSQL takes for no table, column or channel unless they are quoted.
fn is_reserved(word: &str) -> bool {
    const WORDS: &str = " all analyse analyze and any array as asc asymmetric authorization binary both case cast \
        check collate collation column concurrently constraint create cross current_catalog current_date current_role \
        current_schema current_time current_timestamp current_user default deferrable desc distinct do else end except \
        false fetch for foreign freeze from full grant group having ilike in initially inner intersect into is isnull \
        join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or order \
        outer overlaps placing primary references returning right select session_user similar some symmetric table \
        tablesample then to trailing true union unique user using variadic verbose when where window with ";
    WORDS
        .split_ascii_whitespace()
        .any(|reserved| reserved == word)
}
