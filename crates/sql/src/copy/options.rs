//! COPY's options: both of PostgreSQL's grammars for them, and its checks in its words.

use springhead_proto::{ErrorCode, SqlError};

use super::undefined_column;
use crate::catalog::Table;
use crate::plan::{CopyFormat, CopyHeader, CopyOptions};
use crate::words::Words;

/// Options as they were given.
#[derive(Default)]
pub(super) struct Given {
    pub(super) format: Option<CopyFormat>,
    delimiter: Option<String>,
    null: Option<String>,
    header: Option<CopyHeader>,
    quote: Option<String>,
    escape: Option<String>,
    force_quote: Option<Columns>,
    force_not_null: Option<Columns>,
    force_null: Option<Columns>,
    /// Given or not: rows are stored as they ever are, so it changes nothing.
    freeze: Option<CopyHeader>,
}

/// Columns of a FORCE option.
enum Columns {
    All,
    Named(Vec<String>),
}

impl Given {
    pub(super) fn read(words: &mut Words<'_>, mut given: Given) -> Result<Given, SqlError> {
        let _ = words.word("with");
        if words.symbol(b'(') {
            loop {
                given.option(words)?;
                if !words.symbol(b',') {
                    break;
                }
            }
            words.expect_symbol(b')')?;
        } else {
            while !words.is_end() && !words.is_word("where") {
                given.old_option(words)?;
            }
        }
        if words.is_word("where") {
            return Err(SqlError::unsupported("WHERE in COPY")
                .with_hint("copy into a table beside it, and INSERT … SELECT from there"));
        }
        words.expect_end()?;
        Ok(given)
    }

    /// One of `(FORMAT csv, HEADER, …)`.
    fn option(&mut self, words: &mut Words<'_>) -> Result<(), SqlError> {
        let name = words.any_word()?;
        match name.as_str() {
            "format" => {
                let format = word_or_string(words)?;
                put(
                    &mut self.format,
                    match format.as_str() {
                        "text" => CopyFormat::Text,
                        "csv" => CopyFormat::Csv,
                        "binary" => CopyFormat::Binary,
                        _ => {
                            return Err(invalid(format!(
                                "COPY format \"{format}\" not recognized"
                            )));
                        }
                    },
                )
            }
            "delimiter" => put(&mut self.delimiter, words.string()?),
            "null" => put(&mut self.null, words.string()?),
            "quote" => put(&mut self.quote, words.string()?),
            "escape" => put(&mut self.escape, words.string()?),
            "header" => put(&mut self.header, header(words)?),
            "force_quote" => put(&mut self.force_quote, force_columns(words, true)?),
            "force_not_null" => put(&mut self.force_not_null, force_columns(words, false)?),
            "force_null" => put(&mut self.force_null, force_columns(words, false)?),
            "encoding" => encoding(&words.string()?),
            "freeze" => match header(words)? {
                CopyHeader::Match => Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "freeze requires a Boolean value",
                )),
                given => put(&mut self.freeze, given),
            },
            _ => Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("option \"{name}\" not recognized"),
            )),
        }
    }

    /// The grammar before PostgreSQL 9.0, which psql's \copy and old dumps still use.
    fn old_option(&mut self, words: &mut Words<'_>) -> Result<(), SqlError> {
        if words.word("binary") {
            put(&mut self.format, CopyFormat::Binary)
        } else if words.word("csv") {
            put(&mut self.format, CopyFormat::Csv)
        } else if words.word("header") {
            put(&mut self.header, CopyHeader::Yes)
        } else if words.word("freeze") {
            put(&mut self.freeze, CopyHeader::Yes)
        } else if words.word("using") || words.is_word("delimiters") {
            words.expect_word("delimiters")?;
            put(&mut self.delimiter, words.string()?)
        } else if words.word("delimiter") {
            put(&mut self.delimiter, old_value(words)?)
        } else if words.word("null") {
            put(&mut self.null, old_value(words)?)
        } else if words.word("quote") {
            put(&mut self.quote, old_value(words)?)
        } else if words.word("escape") {
            put(&mut self.escape, old_value(words)?)
        } else if words.word("encoding") {
            encoding(&words.string()?)
        } else if words.word("force") {
            if words.word("quote") {
                put(&mut self.force_quote, old_columns(words, true)?)
            } else if words.word("not") {
                words.expect_word("null")?;
                put(&mut self.force_not_null, old_columns(words, false)?)
            } else {
                words.expect_word("null")?;
                put(&mut self.force_null, old_columns(words, false)?)
            }
        } else {
            Err(words.wrong())
        }
    }

    /// The options in force, in PostgreSQL's order of checks.
    pub(super) fn check(
        self,
        is_from: bool,
        names: &[String],
        table: Option<&Table>,
    ) -> Result<CopyOptions, SqlError> {
        let format = self.format.unwrap_or(CopyFormat::Text);
        let (is_csv, is_binary) = (format == CopyFormat::Csv, format == CopyFormat::Binary);
        let syntax = |what: &str| Err(SqlError::new(ErrorCode::SyntaxError, what));
        let refused = |what: &str| Err(SqlError::new(ErrorCode::FeatureNotSupported, what));
        if is_binary && self.delimiter.is_some() {
            return syntax("cannot specify DELIMITER in BINARY mode");
        }
        if is_binary && self.null.is_some() {
            return syntax("cannot specify NULL in BINARY mode");
        }
        let delimiter = self
            .delimiter
            .unwrap_or_else(|| if is_csv { "," } else { "\t" }.to_owned());
        let null = self
            .null
            .unwrap_or_else(|| if is_csv { "" } else { "\\N" }.to_owned());
        let [delimiter] = *delimiter.as_bytes() else {
            return refused("COPY delimiter must be a single one-byte character");
        };
        if matches!(delimiter, b'\n' | b'\r') {
            return Err(invalid(
                "COPY delimiter cannot be newline or carriage return",
            ));
        }
        if null.contains(['\n', '\r']) {
            return Err(invalid(
                "COPY null representation cannot use newline or carriage return",
            ));
        }
        if !is_csv
            && (matches!(delimiter, b'\\' | b'.')
                || delimiter.is_ascii_lowercase()
                || delimiter.is_ascii_digit())
        {
            return Err(invalid(format!(
                "COPY delimiter cannot be \"{}\"",
                char::from(delimiter)
            )));
        }
        let header = self.header.unwrap_or(CopyHeader::No);
        if is_binary && header != CopyHeader::No {
            return refused("cannot specify HEADER in BINARY mode");
        }
        if !is_csv && self.quote.is_some() {
            return refused("COPY quote available only in CSV mode");
        }
        let quote = self.quote.unwrap_or_else(|| "\"".to_owned());
        let [quote] = *quote.as_bytes() else {
            return refused("COPY quote must be a single one-byte character");
        };
        if is_csv && delimiter == quote {
            return Err(invalid("COPY delimiter and quote must be different"));
        }
        if !is_csv && self.escape.is_some() {
            return refused("COPY escape available only in CSV mode");
        }
        let escape = match self.escape.as_deref().map(str::as_bytes) {
            None => quote,
            Some(&[escape]) => escape,
            Some(_) => return refused("COPY escape must be a single one-byte character"),
        };
        let forces = [
            ("force quote", "TO", self.force_quote.is_some(), !is_from),
            (
                "force not null",
                "FROM",
                self.force_not_null.is_some(),
                is_from,
            ),
            ("force null", "FROM", self.force_null.is_some(), is_from),
        ];
        for (option, way, is_given, fits) in forces {
            if is_given && !is_csv {
                return refused(&format!("COPY {option} available only in CSV mode"));
            }
            if is_given && !fits {
                return refused(&format!("COPY {option} only available using COPY {way}"));
            }
        }
        if !is_binary && null.as_bytes().contains(&delimiter) {
            return refused("COPY delimiter must not appear in the NULL specification");
        }
        if is_csv && null.as_bytes().contains(&quote) {
            return refused("CSV quote character must not appear in the NULL specification");
        }
        if header == CopyHeader::Match && !is_from {
            return refused("cannot use \"match\" with HEADER in COPY TO");
        }
        let by_column = |columns: Option<Columns>, option: &str| {
            columns.map_or_else(
                || Ok(vec![false; names.len()]),
                |columns| columns.of(names, option, table),
            )
        };
        Ok(CopyOptions {
            format,
            delimiter,
            null,
            header,
            quote,
            escape,
            force_quote: by_column(self.force_quote, "FORCE_QUOTE")?,
            force_not_null: by_column(self.force_not_null, "FORCE_NOT_NULL")?,
            force_null: by_column(self.force_null, "FORCE_NULL")?,
        })
    }
}

impl Columns {
    fn of(
        self,
        names: &[String],
        option: &str,
        table: Option<&Table>,
    ) -> Result<Vec<bool>, SqlError> {
        let named = match self {
            Columns::All => return Ok(vec![true; names.len()]),
            Columns::Named(named) => named,
        };
        let mut found = vec![false; names.len()];
        for name in named {
            let Some(place) = names.iter().position(|known| *known == name) else {
                let is_column =
                    |table: &&Table| table.visible_columns().any(|(_, c)| c.name == name);
                return Err(match table {
                    None => SqlError::new(
                        ErrorCode::UndefinedColumn,
                        format!("column \"{name}\" does not exist"),
                    ),
                    Some(table) if !is_column(&table) => undefined_column(table, &name),
                    Some(_) => SqlError::new(
                        ErrorCode::InvalidColumnReference,
                        format!("{option} column \"{name}\" not referenced by COPY"),
                    ),
                });
            };
            found[place] = true;
        }
        Ok(found)
    }
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), SqlError> {
    if place.replace(value).is_some() {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "conflicting or redundant options",
        ));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, message)
}

fn word_or_string(words: &mut Words<'_>) -> Result<String, SqlError> {
    if words.is_string() {
        words.string()
    } else {
        words.any_word()
    }
}

/// `[AS] 'value'`.
fn old_value(words: &mut Words<'_>) -> Result<String, SqlError> {
    let _ = words.word("as");
    words.string()
}

/// `HEADER`, `HEADER true`, `HEADER match`; the same words for other switches.
fn header(words: &mut Words<'_>) -> Result<CopyHeader, SqlError> {
    for (word, header) in [
        ("true", CopyHeader::Yes),
        ("on", CopyHeader::Yes),
        ("false", CopyHeader::No),
        ("off", CopyHeader::No),
        ("match", CopyHeader::Match),
    ] {
        if words.word(word) {
            return Ok(header);
        }
    }
    if words.is_string() {
        return match words.string()?.to_ascii_lowercase().as_str() {
            "true" | "on" => Ok(CopyHeader::Yes),
            "false" | "off" => Ok(CopyHeader::No),
            "match" => Ok(CopyHeader::Match),
            _ => Err(header_wrong()),
        };
    }
    match words.integer() {
        Ok(0) => Ok(CopyHeader::No),
        Ok(1) => Ok(CopyHeader::Yes),
        Ok(_) => Err(header_wrong()),
        Err(_) => Ok(CopyHeader::Yes),
    }
}

fn header_wrong() -> SqlError {
    SqlError::new(
        ErrorCode::SyntaxError,
        "header requires a Boolean value or \"match\"",
    )
}

fn force_columns(words: &mut Words<'_>, star: bool) -> Result<Columns, SqlError> {
    if star && words.symbol(b'*') {
        return Ok(Columns::All);
    }
    words.expect_symbol(b'(')?;
    let columns = names(words)?;
    words.expect_symbol(b')')?;
    Ok(Columns::Named(columns))
}

fn old_columns(words: &mut Words<'_>, star: bool) -> Result<Columns, SqlError> {
    if star && words.symbol(b'*') {
        return Ok(Columns::All);
    }
    names(words).map(Columns::Named)
}

fn names(words: &mut Words<'_>) -> Result<Vec<String>, SqlError> {
    let mut names = vec![words.name()?];
    while words.symbol(b',') {
        names.push(words.name()?);
    }
    Ok(names)
}

/// Texts are UTF-8; SQL_ASCII promises nothing that it does not keep.
fn encoding(name: &str) -> Result<(), SqlError> {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    if matches!(plain.as_str(), "utf8" | "unicode" | "sqlascii") {
        Ok(())
    } else {
        Err(
            SqlError::unsupported(format_args!("COPY in the encoding \"{name}\""))
                .with_hint("use UTF8"),
        )
    }
}
