//! The text of a routine's body as statements: PL/pgSQL's, of which plain SQL statements are a part.
//!
//! Expressions and SQL statements stay text here; [`super::compile`] plans them. What is not supported
//! is refused by name.

use springhead_proto::{ErrorCode, SqlError};

use crate::scan::{self, Token};

/// A block: its declarations and statements.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub declarations: Vec<Declaration>,
    pub statements: Vec<Statement>,
    /// EXCEPTION.
    pub handlers: Vec<Handler>,
}

/// `WHEN condition OR condition THEN …`.
#[derive(Debug, Clone)]
pub struct Handler {
    /// Names, or SQLSTATEs.
    pub conditions: Vec<String>,
    pub statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
pub struct Declaration {
    pub name: String,
    pub data_type: String,
    pub not_null: bool,
    pub default: Option<String>,
}

/// A variable, or a field of one.
pub type Target = Vec<String>;

#[derive(Debug, Clone)]
pub enum Statement {
    Block(Block),
    Assign {
        target: Target,
        value: String,
    },
    If {
        arms: Vec<(String, Vec<Statement>)>,
        otherwise: Vec<Statement>,
    },
    /// `WHILE condition LOOP`; LOOP alone has none.
    While {
        condition: Option<String>,
        body: Vec<Statement>,
    },
    ForRange {
        variable: String,
        reverse: bool,
        from: String,
        to: String,
        by: Option<String>,
        body: Vec<Statement>,
    },
    ForQuery {
        targets: Vec<Target>,
        query: String,
        body: Vec<Statement>,
    },
    /// EXIT or CONTINUE of the innermost loop.
    Leave {
        exit: bool,
        when: Option<String>,
    },
    Return(Option<String>),
    ReturnQuery(String),
    ReturnNext(String),
    Raise(Raise),
    Sql {
        text: String,
        into: Vec<Target>,
        strict: bool,
    },
    /// EXECUTE of a text that is computed.
    Execute {
        text: String,
        into: Vec<Target>,
        strict: bool,
        using: Vec<String>,
    },
    /// GET DIAGNOSTICS … = ROW_COUNT.
    RowCount(Target),
    Nothing,
}

/// RAISE.
#[derive(Debug, Clone, Default)]
pub struct Raise {
    pub is_error: bool,
    /// RAISE alone: the error that is being handled.
    pub again: bool,
    /// The text around the `%`s.
    pub format: Vec<String>,
    pub values: Vec<String>,
    pub message: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// An SQLSTATE or a condition's name.
    pub code: Option<String>,
}

/// Reads the body of a PL/pgSQL function.
///
/// # Errors
/// 42601 where it is none, 0A000 for what is not supported.
pub(super) fn plpgsql(text: &str) -> Result<Block, SqlError> {
    let mut reader = Reader { text, at: 0 };
    let block = reader.block()?;
    reader.symbol(b';')?;
    match reader.peek()? {
        (Token::End, ..) => Ok(block),
        _ => Err(reader.unexpected()),
    }
}

/// Reads the body of a trigger function in SQL: PL/pgSQL's statements without BEGIN and END around.
///
/// # Errors
/// As [`plpgsql`].
pub(super) fn statements(text: &str) -> Result<Block, SqlError> {
    let mut reader = Reader { text, at: 0 };
    let statements = reader.until(&[])?;
    match reader.peek()? {
        (Token::End, ..) => Ok(Block {
            declarations: Vec::new(),
            statements,
            handlers: Vec::new(),
        }),
        _ => Err(reader.unexpected()),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Result<(Token, usize, usize), SqlError> {
        scan::next(self.text, self.at)
    }

    fn next(&mut self) -> Result<(Token, &'t str), SqlError> {
        let (token, start, end) = self.peek()?;
        self.at = end;
        Ok((token, &self.text[start..end]))
    }

    fn is_word(&self, word: &str) -> Result<bool, SqlError> {
        let (token, start, end) = self.peek()?;
        Ok(token == Token::Word && self.text[start..end].eq_ignore_ascii_case(word))
    }

    fn word(&mut self, word: &str) -> Result<bool, SqlError> {
        let found = self.is_word(word)?;
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn expect(&mut self, word: &str) -> Result<(), SqlError> {
        if self.word(word)? {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn symbol(&mut self, symbol: u8) -> Result<bool, SqlError> {
        let (token, _, end) = self.peek()?;
        let found = token == Token::Symbol(symbol);
        if found {
            self.at = end;
        }
        Ok(found)
    }

    fn semicolon(&mut self) -> Result<(), SqlError> {
        if self.symbol(b';')? {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> SqlError {
        let message = match self.peek() {
            Ok((Token::End, ..)) => "syntax error at end of input".to_owned(),
            Ok((_, start, end)) => {
                format!("syntax error at or near \"{}\"", &self.text[start..end])
            }
            Err(error) => return error,
        };
        SqlError::new(ErrorCode::SyntaxError, message)
    }

    fn name(&mut self) -> Result<String, SqlError> {
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

    fn target(&mut self) -> Result<Target, SqlError> {
        let mut target = vec![self.name()?];
        while self.symbol(b'.')? {
            target.push(self.name()?);
        }
        Ok(target)
    }

    fn targets(&mut self) -> Result<Vec<Target>, SqlError> {
        let mut targets = vec![self.target()?];
        while self.symbol(b',')? {
            targets.push(self.target()?);
        }
        Ok(targets)
    }

    /// The text up to one of these words, or a semicolon, outside parentheses and CASE; it is not
    /// taken itself.
    fn text_until(&mut self, ends: &[&str]) -> Result<String, SqlError> {
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

    fn block(&mut self) -> Result<Block, SqlError> {
        let mut block = Block::default();
        if self.word("declare")? {
            while !self.is_word("begin")? {
                if !self.word("declare")? {
                    block.declarations.push(self.declaration()?);
                }
            }
        }
        self.expect("begin")?;
        block.statements = self.until(&["end", "exception"])?;
        if self.word("exception")? {
            while self.word("when")? {
                block.handlers.push(self.handler()?);
            }
        }
        self.expect("end")?;
        if matches!(self.peek()?.0, Token::Word) {
            self.next()?;
        }
        Ok(block)
    }

    fn handler(&mut self) -> Result<Handler, SqlError> {
        let mut conditions = Vec::new();
        loop {
            conditions.push(if self.word("sqlstate")? {
                self.string()?
            } else {
                self.name()?
            });
            if !self.word("or")? {
                break;
            }
        }
        self.expect("then")?;
        Ok(Handler {
            conditions,
            statements: self.until(&["when", "end"])?,
        })
    }

    fn declaration(&mut self) -> Result<Declaration, SqlError> {
        let name = self.name()?;
        if self.word("alias")? {
            return Err(SqlError::unsupported("ALIAS in a declaration"));
        }
        self.word("constant")?;
        let (_, start, mut end) = self.peek()?;
        let mut not_null = false;
        loop {
            let (token, from, to) = self.peek()?;
            let assigns = matches!(token, Token::Symbol(b';' | b':' | b'='));
            if assigns || token == Token::End || self.is_word("default")? {
                break;
            }
            if self.is_word("not")? {
                self.next()?;
                self.expect("null")?;
                not_null = true;
                continue;
            }
            if self.is_word("cursor")? {
                return Err(SqlError::unsupported("a cursor as a variable"));
            }
            let _ = from;
            self.at = to;
            end = to;
        }
        let data_type = self.text[start..end].trim().to_owned();
        let default = if self.word("default")? {
            Some(self.text_until(&[])?)
        } else if self.symbol(b':')? || matches!(self.peek()?.0, Token::Symbol(b'=')) {
            self.symbol(b'=')?;
            Some(self.text_until(&[])?)
        } else {
            None
        };
        self.semicolon()?;
        Ok(Declaration {
            name,
            data_type,
            not_null,
            default,
        })
    }

    /// Statements up to one of these words, which is not taken, or the end.
    fn until(&mut self, ends: &[&str]) -> Result<Vec<Statement>, SqlError> {
        let mut statements = Vec::new();
        loop {
            for end in ends {
                if self.is_word(end)? {
                    return Ok(statements);
                }
            }
            if self.peek()?.0 == Token::End {
                return if ends.is_empty() {
                    Ok(statements)
                } else {
                    Err(self.unexpected())
                };
            }
            if self.symbol(b';')? {
                continue;
            }
            statements.push(self.statement()?);
        }
    }

    fn statement(&mut self) -> Result<Statement, SqlError> {
        if self.is_word("declare")? || self.is_word("begin")? {
            let block = self.block()?;
            self.semicolon()?;
            return Ok(Statement::Block(block));
        }
        if self.word("if")? {
            return self.if_statement();
        }
        if self.word("while")? {
            let condition = self.text_until(&["loop"])?;
            let body = self.loop_body()?;
            return Ok(Statement::While {
                condition: Some(condition),
                body,
            });
        }
        if self.is_word("loop")? {
            let body = self.loop_body()?;
            return Ok(Statement::While {
                condition: None,
                body,
            });
        }
        if self.word("for")? {
            return self.for_statement();
        }
        for (word, exit) in [("exit", true), ("continue", false)] {
            if self.word(word)? {
                let when = if self.word("when")? {
                    Some(self.text_until(&[])?)
                } else {
                    None
                };
                self.semicolon()?;
                return Ok(Statement::Leave { exit, when });
            }
        }
        if self.word("return")? {
            return self.return_statement();
        }
        if self.word("raise")? {
            return self.raise().map(Statement::Raise);
        }
        if self.word("null")? {
            self.semicolon()?;
            return Ok(Statement::Nothing);
        }
        if self.word("perform")? {
            let text = format!("SELECT {}", self.text_until(&[])?);
            self.semicolon()?;
            return Ok(Statement::Sql {
                text,
                into: Vec::new(),
                strict: false,
            });
        }
        if self.word("execute")? {
            return self.execute();
        }
        if self.word("case")? {
            return self.case();
        }
        if self.word("foreach")? {
            return self.foreach();
        }
        if self.word("assert")? {
            return self.assert();
        }
        if self.word("get")? {
            return self.diagnostics();
        }
        for word in [
            "open",
            "fetch",
            "close",
            "move",
            "commit",
            "rollback",
            "savepoint",
        ] {
            if self.is_word(word)? {
                return Err(SqlError::unsupported(format_args!(
                    "{} in a function's body",
                    word.to_uppercase()
                )));
            }
        }
        if let Some(assignment) = self.assignment()? {
            return Ok(assignment);
        }
        self.sql()
    }

    /// `EXECUTE text [INTO [STRICT] targets] [USING values]`.
    fn execute(&mut self) -> Result<Statement, SqlError> {
        let text = self.text_until(&["into", "using"])?;
        let (mut into, mut strict, mut using) = (Vec::new(), false, Vec::new());
        loop {
            if self.word("into")? {
                strict = self.word("strict")?;
                into = self.targets()?;
            } else if self.word("using")? {
                using.push(self.list_item()?);
                while self.symbol(b',')? {
                    using.push(self.list_item()?);
                }
            } else {
                break;
            }
        }
        self.semicolon()?;
        Ok(Statement::Execute {
            text,
            into,
            strict,
            using,
        })
    }

    /// CASE as a statement is IF over the same conditions.
    fn case(&mut self) -> Result<Statement, SqlError> {
        let of = if self.is_word("when")? {
            None
        } else {
            Some(self.text_until(&["when"])?)
        };
        let mut arms = Vec::new();
        while self.word("when")? {
            let condition = self.text_until(&["then"])?;
            let condition = match &of {
                Some(of) => format!("({of}) IN ({condition})"),
                None => condition,
            };
            self.expect("then")?;
            arms.push((condition, self.until(&["when", "else", "end"])?));
        }
        let otherwise = if self.word("else")? {
            self.until(&["end"])?
        } else {
            vec![Statement::Raise(Raise {
                is_error: true,
                format: vec!["case not found".to_owned()],
                hint: Some("'CASE statement is missing ELSE part.'".to_owned()),
                code: Some("20000".to_owned()),
                ..Raise::default()
            })]
        };
        self.expect("end")?;
        self.expect("case")?;
        self.semicolon()?;
        Ok(Statement::If { arms, otherwise })
    }

    /// FOREACH over an array is FOR over its elements.
    fn foreach(&mut self) -> Result<Statement, SqlError> {
        let targets = self.targets()?;
        if self.is_word("slice")? {
            return Err(SqlError::unsupported("FOREACH … SLICE"));
        }
        self.expect("in")?;
        self.expect("array")?;
        let array = self.text_until(&["loop"])?;
        Ok(Statement::ForQuery {
            targets,
            query: format!("SELECT unnest({array})"),
            body: self.loop_body()?,
        })
    }

    fn assert(&mut self) -> Result<Statement, SqlError> {
        let condition = self.list_item()?;
        let message = if self.symbol(b',')? {
            Some(self.list_item()?)
        } else {
            None
        };
        self.semicolon()?;
        let failed = Raise {
            is_error: true,
            message: Some(message.unwrap_or_else(|| "'assertion failed'".to_owned())),
            code: Some("P0004".to_owned()),
            ..Raise::default()
        };
        Ok(Statement::If {
            arms: vec![(
                format!("({condition}) IS NOT TRUE"),
                vec![Statement::Raise(failed)],
            )],
            otherwise: Vec::new(),
        })
    }

    fn diagnostics(&mut self) -> Result<Statement, SqlError> {
        self.word("current")?;
        if self.word("stacked")? {
            return Err(SqlError::unsupported("GET STACKED DIAGNOSTICS"));
        }
        self.expect("diagnostics")?;
        let target = self.target()?;
        self.symbol(b':')?;
        if !self.symbol(b'=')? || !self.word("row_count")? {
            return Err(SqlError::unsupported(
                "GET DIAGNOSTICS of anything but ROW_COUNT",
            ));
        }
        self.semicolon()?;
        Ok(Statement::RowCount(target))
    }

    fn assignment(&mut self) -> Result<Option<Statement>, SqlError> {
        let start = self.at;
        if !matches!(self.peek()?.0, Token::Word | Token::QuotedIdentifier) {
            return Ok(None);
        }
        let target = self.target()?;
        // `:=`, or `=` alone.
        self.symbol(b':')?;
        if !self.symbol(b'=')? {
            self.at = start;
            return Ok(None);
        }
        let value = self.text_until(&[])?;
        self.end_of_statement()?;
        Ok(Some(Statement::Assign { target, value }))
    }

    /// A semicolon; the last statement of an SQL body may go without.
    fn end_of_statement(&mut self) -> Result<(), SqlError> {
        if self.peek()?.0 == Token::End {
            return Ok(());
        }
        self.semicolon()
    }

    fn if_statement(&mut self) -> Result<Statement, SqlError> {
        let mut arms = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let condition = self.text_until(&["then"])?;
            self.expect("then")?;
            arms.push((condition, self.until(&["elsif", "elseif", "else", "end"])?));
            if self.word("elsif")? || self.word("elseif")? {
                continue;
            }
            if self.word("else")? {
                otherwise = self.until(&["end"])?;
            }
            self.expect("end")?;
            self.expect("if")?;
            self.semicolon()?;
            return Ok(Statement::If { arms, otherwise });
        }
    }

    fn loop_body(&mut self) -> Result<Vec<Statement>, SqlError> {
        self.expect("loop")?;
        let body = self.until(&["end"])?;
        self.expect("end")?;
        self.expect("loop")?;
        self.semicolon()?;
        Ok(body)
    }

    fn for_statement(&mut self) -> Result<Statement, SqlError> {
        let targets = self.targets()?;
        self.expect("in")?;
        if self.is_word("execute")? {
            return Err(SqlError::unsupported("EXECUTE in a function's body"));
        }
        let reverse = self.word("reverse")?;
        let start = self.at;
        let from = self.text_until(&["loop", ".."])?;
        if self.symbol(b'.')? {
            self.symbol(b'.')?;
            let to = self.text_until(&["loop", "by"])?;
            let by = if self.word("by")? {
                Some(self.text_until(&["loop"])?)
            } else {
                None
            };
            let [target] = targets.as_slice() else {
                return Err(self.unexpected());
            };
            return Ok(Statement::ForRange {
                variable: target.join("."),
                reverse,
                from,
                to,
                by,
                body: self.loop_body()?,
            });
        }
        self.at = start;
        let query = self.text_until(&["loop"])?;
        Ok(Statement::ForQuery {
            targets,
            query,
            body: self.loop_body()?,
        })
    }

    fn return_statement(&mut self) -> Result<Statement, SqlError> {
        if self.word("query")? {
            if self.is_word("execute")? {
                return Err(SqlError::unsupported("EXECUTE in a function's body"));
            }
            let query = self.text_until(&[])?;
            self.semicolon()?;
            return Ok(Statement::ReturnQuery(query));
        }
        if self.word("next")? {
            if self.symbol(b';')? {
                return Err(SqlError::unsupported("RETURN NEXT without a value"));
            }
            let value = self.text_until(&[])?;
            self.semicolon()?;
            return Ok(Statement::ReturnNext(value));
        }
        if self.symbol(b';')? || self.peek()?.0 == Token::End {
            return Ok(Statement::Return(None));
        }
        let value = self.text_until(&[])?;
        self.end_of_statement()?;
        Ok(Statement::Return(Some(value)))
    }

    fn raise(&mut self) -> Result<Raise, SqlError> {
        let mut raise = Raise {
            is_error: true,
            ..Raise::default()
        };
        for level in ["debug", "log", "info", "notice", "warning"] {
            if self.word(level)? {
                raise.is_error = false;
            }
        }
        self.word("exception")?;
        if self.symbol(b';')? {
            raise.again = true;
            return Ok(raise);
        }
        if self.word("sqlstate")? {
            raise.code = Some(self.string()?);
        } else if matches!(self.peek()?.0, Token::String | Token::DollarString) {
            let format = self.string()?;
            raise.format = split_format(&format);
            while self.symbol(b',')? {
                raise.values.push(self.list_item()?);
            }
            if raise.values.len() + 1 != raise.format.len() {
                let which = if raise.values.len() + 1 < raise.format.len() {
                    "few"
                } else {
                    "many"
                };
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    format!("too {which} parameters specified for RAISE"),
                ));
            }
        } else if !self.is_word("using")? {
            raise.code = Some(self.name()?);
        }
        if self.word("using")? {
            loop {
                let option = self.name()?;
                self.symbol(b':')?;
                if !self.symbol(b'=')? {
                    return Err(self.unexpected());
                }
                let value = self.list_item()?;
                match option.as_str() {
                    "message" => raise.message = Some(value),
                    "detail" => raise.detail = Some(value),
                    "hint" => raise.hint = Some(value),
                    "errcode" => raise.code = Some(value.trim_matches('\'').to_owned()),
                    "column" | "constraint" | "datatype" | "table" | "schema" => {}
                    _ => return Err(self.unexpected()),
                }
                if !self.symbol(b',')? {
                    break;
                }
            }
        }
        self.end_of_statement()?;
        Ok(raise)
    }

    fn string(&mut self) -> Result<String, SqlError> {
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
    fn list_item(&mut self) -> Result<String, SqlError> {
        let (_, start, _) = self.peek()?;
        let (mut depth, mut end) = (0_usize, start);
        loop {
            let (token, _, to) = self.peek()?;
            let ends = matches!(token, Token::Symbol(b',' | b';') | Token::End)
                || self.is_word("using")?;
            if token == Token::End || depth == 0 && ends {
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

    /// An SQL statement, its INTO taken out.
    fn sql(&mut self) -> Result<Statement, SqlError> {
        let (_, start, _) = self.peek()?;
        let mut text = String::new();
        let (mut depth, mut from, mut end) = (0_usize, start, start);
        let mut before = String::new();
        let (mut into, mut strict) = (Vec::new(), false);
        loop {
            let (token, at, to) = self.peek()?;
            if token == Token::End || depth == 0 && token == Token::Symbol(b';') {
                break;
            }
            match token {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            let word = &self.text[at..to];
            let takes_into = depth == 0
                && self.is_word("into")?
                && into.is_empty()
                && !matches!(before.as_str(), "insert" | "merge");
            if takes_into {
                text.push_str(&self.text[from..at]);
                self.at = to;
                strict = self.word("strict")?;
                into = self.targets()?;
                from = self.at;
                end = self.at;
                continue;
            }
            before = word.to_ascii_lowercase();
            self.at = to;
            end = to;
        }
        text.push_str(&self.text[from..end.max(from)]);
        self.end_of_statement()?;
        Ok(Statement::Sql { text, into, strict })
    }
}

/// The text around the placeholders of a RAISE; `%%` is a per cent sign.
fn split_format(format: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '%' {
            if chars.peek() == Some(&'%') {
                chars.next();
            } else {
                parts.push(String::new());
                continue;
            }
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{Statement, plpgsql, statements};

    #[test]
    fn a_body_is_read_into_its_statements() {
        let block = plpgsql(
            "DECLARE n int := 1; t text NOT NULL DEFAULT 'a;b';
             BEGIN
               IF n > 1 AND t = CASE WHEN n = 2 THEN 'x' ELSE 'y' END THEN n := n + 1;
               ELSIF n = 0 THEN NULL; ELSE RAISE EXCEPTION 'bad % of %%', n USING ERRCODE = '22023'; END IF;
               FOR i IN 1..n + 2 LOOP n := i; EXIT WHEN n > 5; END LOOP;
               SELECT a, b INTO STRICT n, t FROM x WHERE c = n;
               INSERT INTO x VALUES (1) RETURNING a INTO n;
               RETURN n;
             END;",
        )
        .expect("it is a body");
        assert_eq!(block.declarations.len(), 2);
        assert_eq!(block.declarations[1].default.as_deref(), Some("'a;b'"));
        assert_eq!(block.statements.len(), 5);
        let Statement::Sql { text, into, strict } = &block.statements[2] else {
            panic!("{:?}", block.statements[2]);
        };
        assert!(*strict && into.len() == 2, "{into:?}");
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>().join(" "),
            "SELECT a, b FROM x WHERE c = n"
        );
        let Statement::Sql { text, into, .. } = &block.statements[3] else {
            panic!("{:?}", block.statements[3]);
        };
        assert_eq!(text.trim(), "INSERT INTO x VALUES (1) RETURNING a");
        assert_eq!(into, &[vec!["n".to_owned()]]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let error = plpgsql("BEGIN OPEN c; END").expect_err("no cursors in programs");
        assert_eq!(error.code.sqlstate().0, "0A000");
        assert!(error.message.contains("OPEN"), "{}", error.message);
        assert!(statements("NEW.a := 1; INSERT INTO b VALUES (NEW.a)").is_ok());
        assert!(plpgsql("BEGIN x := 1 END").is_err());
    }
}
