//! COPY: which rows go where, and in which form. The rows themselves are an INSERT's or a query's
//! business, planned like any other, so that everything that holds for those holds here.
//!
//! Source: PostgreSQL 15, "COPY"; the option's checks and their words are PostgreSQL's.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use crate::catalog::{Catalog, Relation, Table};
use crate::plan::{Copy, CopyDirection, CopyFormat, CopyHeader, CopyOptions, PlanKind};
use crate::planner::{self, PlanContext};
use crate::words::{self, Words};

/// The plan of a COPY; `None` if the statement is another.
///
/// # Errors
/// 42601 where it is not of its form, 42501 for files and programs, what PostgreSQL says of the
/// options, and what planning its INSERT or query says.
pub(crate) fn plan_text(
    catalog: &Arc<Catalog>,
    sql: &str,
    context: &PlanContext,
) -> Result<Option<PlanKind>, SqlError> {
    if !words::begins_with(sql, "copy") {
        return Ok(None);
    }
    let mut words = Words::new(sql)?;
    words.expect_word("copy")?;
    if words.symbol(b'(') {
        let start = words.place();
        let end = words.skip_parentheses()?;
        let query = sql[start..end].trim();
        words.expect_word("to")?;
        destination(&mut words, false)?;
        let given = Given::read(&mut words, Given::default())?;
        return copy_query(catalog, query, given, context).map(Some);
    }
    let mut given = Given::default();
    if words.word("binary") {
        given.format = Some(CopyFormat::Binary);
    }
    let (schema, name) = words.qualified_name()?;
    let mut columns = None;
    if words.symbol(b'(') {
        let mut names = vec![words.name()?];
        while words.symbol(b',') {
            names.push(words.name()?);
        }
        words.expect_symbol(b')')?;
        columns = Some(names);
    }
    let is_from = words.word("from");
    if !is_from {
        words.expect_word("to")?;
    }
    destination(&mut words, is_from)?;
    let given = Given::read(&mut words, given)?;
    let target = Target::find(catalog, schema.as_deref(), &name, is_from, context)?;
    let columns = target.columns(columns.as_deref())?;
    target
        .copy(catalog, &columns, is_from, given, context)
        .map(Some)
}

/// STDIN or STDOUT: the client. A file or a program of the server's machine is nobody's.
fn destination(words: &mut Words<'_>, is_from: bool) -> Result<(), SqlError> {
    if words.word("stdin") || words.word("stdout") {
        return Ok(());
    }
    let refused = |message: &str| {
        Err(SqlError::new(ErrorCode::InsufficientPrivilege, message).with_hint(
            "Anyone can COPY to stdout or from stdin. psql's \\copy command also works for anyone.",
        ))
    };
    if words.word("program") {
        words.string()?;
        return refused(
            "must be superuser or have privileges of the pg_execute_server_program role to COPY to or from an external program",
        );
    }
    words.string()?;
    refused(if is_from {
        "must be superuser or have privileges of the pg_read_server_files role to COPY from a file"
    } else {
        "must be superuser or have privileges of the pg_write_server_files role to COPY to a file"
    })
}

fn copy_query(
    catalog: &Arc<Catalog>,
    query: &str,
    given: Given,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    let plan = planner::plan(catalog, query, &[], context)?;
    let names: Vec<String> = match &plan.kind {
        PlanKind::Query(query) => query.columns.iter().map(|c| c.name.clone()).collect(),
        PlanKind::Write(write) if write.returning.is_empty() => {
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "COPY query must have a RETURNING clause",
            ));
        }
        PlanKind::Write(write) => write.returning.iter().map(|c| c.name.clone()).collect(),
        _ => return Err(SqlError::unsupported("this statement inside COPY")),
    };
    if !plan.parameters.is_empty() {
        return Err(SqlError::new(
            ErrorCode::UndefinedParameter,
            "there is no parameter $1",
        ));
    }
    Ok(PlanKind::Copy(Box::new(Copy {
        relation: "query".to_owned(),
        direction: CopyDirection::Out {
            query: Arc::new(plan),
        },
        options: given.check(false, &names, None)?,
    })))
}

/// The table that is copied.
struct Target<'c> {
    table: &'c Arc<Table>,
}

impl<'c> Target<'c> {
    fn find(
        catalog: &'c Catalog,
        schema: Option<&str>,
        name: &str,
        is_from: bool,
        context: &PlanContext,
    ) -> Result<Target<'c>, SqlError> {
        let found = match schema {
            Some(schema) => catalog.resolve(Some(schema), name),
            None => context
                .search_path
                .iter()
                .find_map(|schema| catalog.resolve(Some(schema), name)),
        };
        let shown = schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
        let wrong = |kind: &str| {
            let way = if is_from { "to" } else { "from" };
            let error = SqlError::new(
                ErrorCode::WrongObjectType,
                format!("cannot copy {way} {kind} \"{name}\""),
            );
            if is_from || kind != "view" {
                error
            } else {
                error.with_hint("Try the COPY (SELECT ...) TO variant.")
            }
        };
        match found {
            Some((_, Relation::Table(id))) => {
                let table = catalog.tables.get(&id).ok_or_else(|| wrong("table"))?;
                Ok(Target { table })
            }
            Some((_, Relation::View(_))) => Err(wrong("view")),
            Some((_, Relation::Sequence(_))) => Err(wrong("sequence")),
            Some((_, Relation::Index(_))) => Err(wrong("index")),
            None => Err(SqlError::new(
                ErrorCode::UndefinedTable,
                format!("relation \"{shown}\" does not exist"),
            )),
        }
    }

    /// The names of the columns that are copied.
    fn columns(&self, given: Option<&[String]>) -> Result<Vec<String>, SqlError> {
        let table = self.table;
        let Some(given) = given else {
            return Ok(table
                .visible_columns()
                .filter(|(_, column)| column.generated.is_none())
                .map(|(_, column)| column.name.clone())
                .collect());
        };
        let mut names: Vec<String> = Vec::with_capacity(given.len());
        for name in given {
            let Some((_, column)) = table.visible_columns().find(|(_, c)| c.name == *name) else {
                return Err(undefined_column(table, name));
            };
            if column.generated.is_some() {
                return Err(SqlError::new(
                    ErrorCode::InvalidColumnReference,
                    format!("column \"{name}\" is a generated column"),
                )
                .with_detail("Generated columns cannot be used in COPY."));
            }
            if names.contains(name) {
                return Err(SqlError::new(
                    ErrorCode::DuplicateColumn,
                    format!("column \"{name}\" specified more than once"),
                ));
            }
            names.push(name.clone());
        }
        Ok(names)
    }

    fn copy(
        &self,
        catalog: &Arc<Catalog>,
        names: &[String],
        is_from: bool,
        given: Given,
        context: &PlanContext,
    ) -> Result<PlanKind, SqlError> {
        let name = &self.table.name;
        let options = given.check(is_from, names, Some(self.table))?;
        if names.is_empty() {
            return Err(SqlError::unsupported("COPY of a table without columns"));
        }
        let columns: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        let (columns, table) = (
            columns.join(","),
            format!("{}.{}", quoted(&name.schema), quoted(&name.name)),
        );
        let plan = |sql: &str| planner::plan(catalog, sql, &[], context).map(Arc::new);
        let direction = if is_from {
            // As PostgreSQL has it: what COPY brings is stored, also in a column that makes its own.
            let values: Vec<String> = (1..=names.len()).map(|n| format!("${n}")).collect();
            CopyDirection::In {
                insert: plan(&format!(
                    "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({})",
                    values.join(",")
                ))?,
                names: names.to_vec(),
            }
        } else {
            CopyDirection::Out {
                query: plan(&format!("SELECT {columns} FROM {table}"))?,
            }
        };
        Ok(PlanKind::Copy(Box::new(Copy {
            relation: name.name.clone(),
            direction,
            options,
        })))
    }
}

fn undefined_column(table: &Table, name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedColumn,
        format!(
            "column \"{name}\" of relation \"{}\" does not exist",
            table.name.name
        ),
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Options as they were given.
#[derive(Default)]
struct Given {
    format: Option<CopyFormat>,
    delimiter: Option<String>,
    null: Option<String>,
    header: Option<CopyHeader>,
    quote: Option<String>,
    escape: Option<String>,
    force_quote: Option<Columns>,
    force_not_null: Option<Columns>,
    force_null: Option<Columns>,
}

/// Columns of a FORCE option.
enum Columns {
    All,
    Named(Vec<String>),
}

impl Given {
    fn read(words: &mut Words<'_>, mut given: Given) -> Result<Given, SqlError> {
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
                CopyHeader::No => Ok(()),
                _ => Err(SqlError::unsupported("COPY FREEZE")),
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
            Err(SqlError::unsupported("COPY FREEZE"))
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
    fn check(
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
