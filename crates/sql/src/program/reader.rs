//! The tokens of a body, as [`super::parse`] asks for them: words, names, and pieces of text up to
//! where something else begins.

use springhead_proto::{ErrorCode, SqlError};

use super::body::Target;
use crate::scan::{self, Token};

/// Reads on in a body.
pub(super) struct Reader<'t> {
    pub text: &'t str,
    /// Where it has got to, in bytes.
    pub at: usize,
}

impl<'t> Reader<'t> {
    pub fn peek(&self) -> Result<(Token, usize, usize), SqlError> {
        scan::next(self.text, self.at)
    }

    pub fn next(&mut self) -> Result<(Token, &'t str), SqlError> {
        let (token, start, end) = self.peek()?;
        self.at = end;
        Ok((token, &self.text[start..end]))
    }

    pub fn is_word(&self, word: &str) -> Result<bool, SqlError> {
        let (token, start, end) = self.peek()?;
        Ok(token == Token::Word && self.text[start..end].eq_ignore_ascii_case(word))
    }

    pub fn word(&mut self, word: &str) -> Result<bool, SqlError> {
        let found = self.is_word(word)?;
        if found {
            self.next()?;
        }
        Ok(found)
    }

    pub fn expect(&mut self, word: &str) -> Result<(), SqlError> {
        if self.word(word)? {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub fn symbol(&mut self, symbol: u8) -> Result<bool, SqlError> {
        let (token, _, end) = self.peek()?;
        let found = token == Token::Symbol(symbol);
        if found {
            self.at = end;
        }
        Ok(found)
    }

    pub fn semicolon(&mut self) -> Result<(), SqlError> {
        if self.symbol(b';')? {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub fn unexpected(&self) -> SqlError {
        let message = match self.peek() {
            Ok((Token::End, ..)) => "syntax error at end of input".to_owned(),
            Ok((_, start, end)) => {
                format!("syntax error at or near \"{}\"", &self.text[start..end])
            }
            Err(error) => return error,
        };
        SqlError::new(ErrorCode::SyntaxError, message)
    }

    pub fn name(&mut self) -> Result<String, SqlError> {
        let (token, text) = self.next()?;
        match token {
            Token::Word => Ok(text.to_ascii_lowercase()),
            Token::QuotedIdentifier => Ok(text[1..text.len() - 1].replace("\"\"", "\"")),
            _ => Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("syntax error at or near \"{text}\""),
            )),
        }
    }

    pub fn target(&mut self) -> Result<Target, SqlError> {
        let mut target = vec![self.name()?];
        while self.symbol(b'.')? {
            target.push(self.name()?);
        }
        Ok(target)
    }

    pub fn targets(&mut self) -> Result<Vec<Target>, SqlError> {
        let mut targets = vec![self.target()?];
        while self.symbol(b',')? {
            targets.push(self.target()?);
        }
        Ok(targets)
    }

    /// The text up to one of these words, or a semicolon, outside parentheses and CASE; it is not
    /// taken itself.
    pub fn text_until(&mut self, ends: &[&str]) -> Result<String, SqlError> {
        let (_, start, _) = self.peek()?;
        let (mut depth, mut cases, mut end) = (0_usize, 0_usize, start);
        loop {
            let (token, from, to) = self.peek()?;
            let word = &self.text[from..to];
            let is = |other: &str| token == Token::Word && word.eq_ignore_ascii_case(other);
            let outside = depth == 0 && cases == 0;
            let range = token == Token::Symbol(b'.')
                && ends.contains(&"..")
                && self.text[to..].starts_with('.');
            if token == Token::End
                || outside && token == Token::Symbol(b';')
                || outside && (range || ends.iter().any(|end| is(end)))
            {
                let text = self.text[start..end].trim();
                if text.is_empty() {
                    return Err(self.unexpected());
                }
                return Ok(text.to_owned());
            }
            match token {
                Token::Symbol(b'(' | b'[') => depth += 1,
                Token::Symbol(b')' | b']') => depth = depth.saturating_sub(1),
                Token::Word if is("case") => cases += 1,
                Token::Word if is("end") && cases > 0 => cases -= 1,
                _ => {}
            }
            self.at = to;
            end = to;
        }
    }

    pub fn string(&mut self) -> Result<String, SqlError> {
        let (token, text) = self.next()?;
        match token {
            Token::String => Ok(text[1..text.len() - 1].replace("''", "'")),
            Token::DollarString => {
                let tag = text[1..].find('$').map_or(1, |end| end + 2);
                Ok(text[tag..text.len() - tag].to_owned())
            }
            _ => Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("syntax error at or near \"{text}\""),
            )),
        }
    }

    /// An expression up to a comma, USING or the end.
    pub fn list_item(&mut self) -> Result<String, SqlError> {
        self.item_until(&["using"])
    }

    /// An expression up to a comma, one of these words or the end.
    pub fn item_until(&mut self, ends: &[&str]) -> Result<String, SqlError> {
        let (_, start, _) = self.peek()?;
        let (mut depth, mut end) = (0_usize, start);
        loop {
            let (token, from, to) = self.peek()?;
            let word = &self.text[from..to];
            let is_end = matches!(token, Token::Symbol(b',' | b';') | Token::End)
                || token == Token::Word && ends.iter().any(|end| word.eq_ignore_ascii_case(end));
            if token == Token::End || depth == 0 && is_end {
                return Ok(self.text[start..end].trim().to_owned());
            }
            match token {
                Token::Symbol(b'(' | b'[') => depth += 1,
                Token::Symbol(b')' | b']') => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at = to;
            end = to;
        }
    }
}
