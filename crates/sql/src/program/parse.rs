//! The text of a routine's body as statements: PL/pgSQL's, of which plain SQL statements are a part.
//!
//! Expressions and SQL statements stay text here; [`super::compile`] plans them. What is not supported
//! is refused by name.

use springhead_proto::{ErrorCode, SqlError};

use super::body::{
    Block, Code, Declaration, Dynamic, Handler, Item, RAISE_OPTIONS, Raise, Statement,
};
use super::conditions::condition_state;
use super::reader::Reader;
use crate::scan::Token;

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

impl Reader<'_> {
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
            self.expect("when")?;
            block.handlers.push(self.handler()?);
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
            let is_state = self.word("sqlstate")?;
            let condition = if is_state {
                self.string()?
            } else {
                self.name()?
            };
            if condition_state(&condition).is_none() && condition != "others" {
                let message = if is_state {
                    "invalid SQLSTATE code".to_owned()
                } else {
                    format!("unrecognized exception condition \"{condition}\"")
                };
                let code = if is_state {
                    ErrorCode::SyntaxError
                } else {
                    ErrorCode::UndefinedObject
                };
                return Err(SqlError::new(code, message));
            }
            conditions.push(condition);
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
            if self.text[self.at..].trim_start().starts_with("<<") {
                return Err(SqlError::unsupported("a label"));
            }
            statements.push(self.statement()?);
        }
    }

    /// The end of EXIT and CONTINUE, which may name a loop by its label.
    fn end_of_leave(&mut self) -> Result<(), SqlError> {
        match self.peek()?.0 {
            Token::Word => Err(SqlError::unsupported("a label")),
            _ => self.semicolon(),
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
                self.end_of_leave()?;
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

    /// `EXECUTE text [INTO [STRICT] targets] [USING values]`, in either order.
    fn execute(&mut self) -> Result<Statement, SqlError> {
        let text = self.text_until(&["into", "using"])?;
        let (mut into, mut strict, mut using) = (Vec::new(), false, Vec::new());
        loop {
            if self.word("into")? {
                strict = self.word("strict")?;
                into = self.targets()?;
            } else if self.word("using")? {
                using = self.using()?;
            } else {
                break;
            }
        }
        self.semicolon()?;
        Ok(Statement::Execute {
            dynamic: Dynamic { text, using },
            into,
            strict,
        })
    }

    fn using(&mut self) -> Result<Vec<String>, SqlError> {
        let mut using = vec![self.item_until(&["into", "loop"])?];
        while self.symbol(b',')? {
            using.push(self.item_until(&["into", "loop"])?);
        }
        Ok(using)
    }

    /// What follows EXECUTE in a loop and in RETURN QUERY.
    fn dynamic(&mut self) -> Result<Dynamic, SqlError> {
        let text = self.text_until(&["using", "loop"])?;
        let using = if self.word("using")? {
            self.using()?
        } else {
            Vec::new()
        };
        Ok(Dynamic { text, using })
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
                format: vec!["case not found".to_owned()],
                options: option("hint", "'CASE statement is missing ELSE part.'"),
                code: Some(Code::Named("20000".to_owned())),
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
            options: option(
                "message",
                message.as_deref().unwrap_or("'assertion failed'"),
            ),
            code: Some(Code::Named("P0004".to_owned())),
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
        let is_stacked = !self.word("current")? && self.word("stacked")?;
        self.expect("diagnostics")?;
        let mut items = Vec::new();
        loop {
            let target = self.target()?;
            self.symbol(b':')?;
            if !self.symbol(b'=')? {
                return Err(self.unexpected());
            }
            items.push((target, self.name()?));
            if !self.symbol(b',')? {
                break;
            }
        }
        self.semicolon()?;
        if !is_stacked {
            return match items.as_slice() {
                [(target, item)] if item == "row_count" => Ok(Statement::RowCount(target.clone())),
                _ => Err(SqlError::unsupported(
                    "GET DIAGNOSTICS of anything but ROW_COUNT",
                )),
            };
        }
        let known = |name: &str| Item::ALL.into_iter().find(|item| item.name() == name);
        let items = items.into_iter().map(|(target, name)| match known(&name) {
            Some(item) => Ok((target, item)),
            None => Err(SqlError::unsupported(format_args!(
                "GET STACKED DIAGNOSTICS of {}",
                name.to_uppercase()
            ))),
        });
        items.collect::<Result<_, _>>().map(Statement::Stacked)
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
    pub(super) fn end_of_statement(&mut self) -> Result<(), SqlError> {
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
        if self.word("execute")? {
            let dynamic = self.dynamic()?;
            return Ok(Statement::ForExecute {
                targets,
                dynamic,
                body: self.loop_body()?,
            });
        }
        let reverse = self.word("reverse")?;
        let start = self.at;
        let from = self.text_until(&["loop", ".."])?;
        if matches!(self.peek()?.0, Token::Symbol(b'.')) {
            // Byte by byte: in `1..2` the second dot begins no number.
            self.at = self.peek()?.1 + "..".len();
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
            if self.word("execute")? {
                let dynamic = self.dynamic()?;
                self.semicolon()?;
                return Ok(Statement::ReturnExecute(dynamic));
            }
            let query = self.text_until(&[])?;
            self.semicolon()?;
            return Ok(Statement::ReturnQuery(query));
        }
        if self.word("next")? {
            if self.symbol(b';')? {
                return Ok(Statement::ReturnNext(None));
            }
            let value = self.text_until(&[])?;
            self.semicolon()?;
            return Ok(Statement::ReturnNext(Some(value)));
        }
        if self.symbol(b';')? || self.peek()?.0 == Token::End {
            return Ok(Statement::Return(None));
        }
        let value = self.text_until(&[])?;
        self.end_of_statement()?;
        Ok(Statement::Return(Some(value)))
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

fn option(name: &str, value: &str) -> [Option<String>; RAISE_OPTIONS.len()] {
    RAISE_OPTIONS.map(|option| (option == name).then(|| value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{plpgsql, statements};
    use crate::program::body::Statement;

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
