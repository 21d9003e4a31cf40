//! RAISE: how it is written, and what computes the error or the notice.

use springhead_proto::{ErrorCode, NoticeLevel, SqlError, Value};

use super::Step;
use super::body::{Code, RAISE_OPTIONS, Raise};
use super::compile::Compiler;
use super::conditions::{condition_state, error_of_state};
use super::reader::Reader;
use crate::query::names::quote_text;
use crate::scan::Token;
use crate::types::PgType;

/// How loud each level is.
const LEVELS: [(&str, NoticeLevel); 5] = [
    ("debug", NoticeLevel::Debug),
    ("log", NoticeLevel::Log),
    ("info", NoticeLevel::Info),
    ("notice", NoticeLevel::Notice),
    ("warning", NoticeLevel::Warning),
];

impl Reader<'_> {
    /// What follows the word RAISE.
    pub(super) fn raise(&mut self) -> Result<Raise, SqlError> {
        let mut raise = Raise::default();
        for (word, level) in LEVELS {
            if self.word(word)? {
                raise.notice = Some(level);
            }
        }
        if raise.notice.is_none() {
            self.word("exception")?;
        }
        if self.symbol(b';')? {
            raise.again = true;
            return Ok(raise);
        }
        if self.word("sqlstate")? {
            raise.code = Some(Code::Named(self.string()?));
        } else if matches!(self.peek()?.0, Token::String | Token::DollarString) {
            self.format(&mut raise)?;
        } else if !self.is_word("using")? {
            raise.code = Some(Code::Named(self.name()?));
        }
        if self.word("using")? {
            self.raise_options(&mut raise)?;
        }
        self.end_of_statement()?;
        if let Some(Code::Named(name)) = &raise.code
            && condition_state(name).is_none()
        {
            return Err(SqlError::new(
                ErrorCode::UndefinedObject,
                format!("unrecognized exception condition \"{name}\""),
            ));
        }
        Ok(raise)
    }

    fn format(&mut self, raise: &mut Raise) -> Result<(), SqlError> {
        let format = self.string()?;
        raise.format = split_format(&format);
        while self.symbol(b',')? {
            raise.values.push(self.list_item()?);
        }
        if raise.values.len() + 1 == raise.format.len() {
            return Ok(());
        }
        let which = if raise.values.len() + 1 < raise.format.len() {
            "few"
        } else {
            "many"
        };
        Err(SqlError::new(
            ErrorCode::SyntaxError,
            format!("too {which} parameters specified for RAISE"),
        ))
    }

    fn raise_options(&mut self, raise: &mut Raise) -> Result<(), SqlError> {
        loop {
            let name = self.name()?;
            self.symbol(b':')?;
            if !self.symbol(b'=')? {
                return Err(self.unexpected());
            }
            let value = self.list_item()?;
            if name == "errcode" {
                raise.code = Some(Code::Computed(value));
            } else if let Some(place) = RAISE_OPTIONS.iter().position(|option| *option == name) {
                raise.options[place] = Some(value);
            } else if name != "datatype" {
                return Err(self.unexpected());
            }
            if !self.symbol(b',')? {
                return Ok(());
            }
        }
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

impl Compiler<'_> {
    /// The step that raises: its columns are the SQLSTATE and then [`RAISE_OPTIONS`].
    pub(super) fn raise(&self, raise: &Raise) -> Result<Step, SqlError> {
        let text = |value: &str| {
            self.expression(value, &PgType::Text)
                .map(|sql| format!("({sql})"))
        };
        let mut parts = Vec::new();
        for (index, part) in raise.format.iter().enumerate() {
            if index > 0 {
                parts.push(format!(
                    "coalesce({},'<NULL>')",
                    text(&format!("({})::text", raise.values[index - 1]))?
                ));
            }
            parts.push(quote_text(part));
        }
        let code = match &raise.code {
            None => "NULL".to_owned(),
            Some(Code::Named(name)) => quote_text(name),
            Some(Code::Computed(value)) => text(value)?,
        };
        let mut columns = vec![code];
        for (name, value) in RAISE_OPTIONS.iter().zip(&raise.options) {
            columns.push(match value {
                Some(_) if *name == "message" && !parts.is_empty() => {
                    return Err(SqlError::new(
                        ErrorCode::SyntaxError,
                        "RAISE option already specified: MESSAGE",
                    ));
                }
                Some(value) => text(value)?,
                None if *name == "message" && !parts.is_empty() => {
                    format!("({})", parts.join("||"))
                }
                None => "NULL".to_owned(),
            });
        }
        Ok(Step::Raise {
            notice: raise.notice,
            sql: format!("SELECT {}", columns.join(",")),
        })
    }
}

/// What a RAISE says, of the row that its query gave.
///
/// # Errors
/// 42704 for an ERRCODE that is none.
pub fn raised(notice: Option<NoticeLevel>, row: &[Value]) -> Result<SqlError, SqlError> {
    let text = |place: usize| match row.get(place) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let option = |name: &str| {
        let place = RAISE_OPTIONS.iter().position(|option| *option == name);
        place.and_then(|place| text(place + 1))
    };
    let code = text(0);
    let state = match (&code, notice) {
        (Some(code), _) => condition_state(code).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedObject,
                format!("unrecognized exception condition \"{code}\""),
            )
        })?,
        (None, None) => "P0001".to_owned(),
        (None, Some(NoticeLevel::Warning)) => "01000".to_owned(),
        (None, Some(_)) => "00000".to_owned(),
    };
    let message = option("message").or(code);
    let message = message.unwrap_or_else(|| "unnamed error".to_owned());
    let mut error = error_of_state(&state, message);
    error.detail = option("detail");
    error.hint = option("hint");
    error.column = option("column");
    error.constraint = option("constraint");
    error.table = match (option("schema"), option("table")) {
        (Some(schema), Some(table)) => Some(format!("{schema}.{table}")),
        (_, table) => table,
    };
    error.level = notice;
    Ok(error)
}
