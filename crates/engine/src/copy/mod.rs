//! COPY: the client's data into rows, and rows into the client's data.
//!
//! [`CopyIn`] takes data as it arrives, converts it row by row and spools it, so that a slow client
//! holds up nobody: the writer gets the rows when all are there, as one statement. [`CopyOut`] writes
//! rows of a spooled result as they are sent. Neither knows a socket; `server::pgwire` calls them.
//!
//! The forms are PostgreSQL 15's ("COPY", File Formats), errors and their contexts too.

mod binary;
mod fields;
mod lines;
mod live;
mod output;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::plan::{Copy, CopyDirection, CopyFormat, CopyHeader, Parameter, PlanKind};
use springhead_sql::{PgType, Plan};

use crate::rows::{Rows, RowsWriter};
use crate::session::{ParamValue, convert_one};

use binary::{BinaryRows, Tuple};
use fields::Fields;
use lines::Lines;
pub use live::LiveCopy;
pub use output::CopyOut;

/// How far a COPY has come (SHOW copies).
#[derive(Debug)]
pub struct CopyProgress {
    pub process_id: i32,
    pub relation: String,
    /// `COPY FROM` or `COPY TO`.
    pub command: &'static str,
    /// Bytes of data taken or given.
    pub bytes: AtomicU64,
    /// Rows taken or given.
    pub rows: AtomicU64,
}

impl CopyProgress {
    pub(crate) fn new(process_id: i32, copy: &Copy) -> Arc<CopyProgress> {
        Arc::new(CopyProgress {
            process_id,
            relation: copy.relation.clone(),
            command: match copy.direction {
                CopyDirection::In { .. } => "COPY FROM",
                CopyDirection::Out { .. } | CopyDirection::Live(_) => "COPY TO",
            },
            bytes: AtomicU64::new(0),
            rows: AtomicU64::new(0),
        })
    }
}

/// Which way a statement copies.
#[derive(Debug)]
pub enum CopyOutcome {
    /// The client's data is awaited; [`crate::Session::finish_copy`] ends it.
    In(Box<CopyIn>),
    /// The outcome's rows are to be sent in this form.
    Out(CopyOut),
    /// A live query's rows and changes are to be sent until somebody ends it.
    Live(Box<LiveCopy>),
}

/// Limits of COPY's data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyLimits {
    /// The longest row.
    pub row_bytes: usize,
    /// Rows beyond this go to a temporary file.
    pub memory_bytes: usize,
    /// All rows, as they are spooled.
    pub max_bytes: u64,
}

/// Data on its way in.
pub struct CopyIn {
    /// The COPY's plan.
    plan: Arc<Plan>,
    /// The COPY as it was written, to plan it again.
    pub(crate) sql: String,
    reader: Reader,
    header: CopyHeader,
    rows: RowsWriter,
    values: Vec<Value>,
    progress: Arc<CopyProgress>,
}

enum Reader {
    Lines(Lines, Fields),
    Binary(BinaryRows),
}

impl std::fmt::Debug for CopyIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyIn")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl CopyIn {
    /// For the plan of a COPY FROM.
    pub(crate) fn new(
        plan: Arc<Plan>,
        sql: String,
        limits: CopyLimits,
        progress: Arc<CopyProgress>,
    ) -> CopyIn {
        let copy = copy_of(&plan);
        let reader = match copy.options.format {
            CopyFormat::Binary => Reader::Binary(BinaryRows::new(limits.row_bytes)),
            CopyFormat::Text | CopyFormat::Csv => Reader::Lines(
                Lines::new(&copy.options, limits.row_bytes),
                Fields::default(),
            ),
        };
        let header = copy.options.header;
        CopyIn {
            plan,
            sql,
            reader,
            header,
            rows: RowsWriter::new(limits.memory_bytes, limits.max_bytes),
            values: Vec::new(),
            progress,
        }
    }

    /// The plan that it was begun with.
    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The columns' types.
    pub(crate) fn types(&self) -> Vec<PgType> {
        let parameters = self.insert().0.iter();
        parameters
            .map(|parameter| parameter.pg_type.clone())
            .collect()
    }

    /// Whether data and columns are binary.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        matches!(self.reader, Reader::Binary(_))
    }

    /// How many columns there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.insert().0.len()
    }

    /// The rows' parameters and the columns' names.
    fn insert(&self) -> (&[Parameter], &[String]) {
        match &copy_of(&self.plan).direction {
            CopyDirection::In { insert, names } => (&insert.parameters, names),
            CopyDirection::Out { .. } | CopyDirection::Live(_) => (&[], &[]),
        }
    }

    /// Takes some data, cut anywhere.
    ///
    /// # Errors
    /// What is wrong with it, and in which line; nothing more may be given then.
    pub fn feed(&mut self, data: &[u8]) -> Result<(), SqlError> {
        self.progress
            .bytes
            .fetch_add(data.len() as u64, Ordering::Relaxed);
        match &mut self.reader {
            Reader::Lines(lines, _) => lines.feed(data),
            Reader::Binary(rows) => rows.feed(data),
        }
        self.read(false)
    }

    /// The data has ended: all of its rows, each led by its line.
    ///
    /// # Errors
    /// As [`CopyIn::feed`].
    pub(crate) fn finish(mut self) -> Result<Rows, SqlError> {
        self.read(true)?;
        self.rows.finish()
    }

    fn read(&mut self, at_end: bool) -> Result<(), SqlError> {
        let plan = Arc::clone(&self.plan);
        let copy = copy_of(&plan);
        let CopyDirection::In { insert, names } = &copy.direction else {
            return Err(SqlError::new(
                ErrorCode::Internal,
                "this COPY takes no data",
            ));
        };
        let parameters = &insert.parameters;
        loop {
            self.values.clear();
            let line = match &mut self.reader {
                Reader::Lines(lines, fields) => {
                    let found = lines
                        .next(at_end)
                        .map_err(|error| in_line(error, copy, lines.line_of_error()))?;
                    let Some((range, line)) = found else {
                        return Ok(());
                    };
                    let text = lines.text(range.clone());
                    let is_header = std::mem::replace(&mut self.header, CopyHeader::No);
                    let split = if is_header == CopyHeader::Yes {
                        continue;
                    } else {
                        fields.split(text, &copy.options)
                    };
                    split.map_err(|error| with_text(error, copy, line, text))?;
                    if is_header == CopyHeader::Match {
                        fields
                            .match_header(names)
                            .map_err(|error| with_text(error, copy, line, text))?;
                        continue;
                    }
                    self.values
                        .push(Value::Integer(i64::try_from(line).unwrap_or(i64::MAX)));
                    convert_line(
                        &mut self.values,
                        fields,
                        copy,
                        parameters,
                        names,
                        line,
                        text,
                    )?;
                    line
                }
                Reader::Binary(rows) => {
                    let row = rows.row + 1;
                    // What is wrong with the head is in no line.
                    if !rows.begin(at_end)? {
                        return Ok(());
                    }
                    let Some(tuple) = rows.next(&copy.relation, names, at_end)? else {
                        return Ok(());
                    };
                    self.values
                        .push(Value::Integer(i64::try_from(row).unwrap_or(i64::MAX)));
                    convert_tuple(&mut self.values, &tuple, copy, parameters, names, row)?;
                    let length = tuple.length;
                    rows.consume(length);
                    row
                }
            };
            self.rows
                .push(self.values.iter().map(Value::as_ref))
                .map_err(|error| in_line(error, copy, line))?;
            self.progress.rows.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn copy_of(plan: &Plan) -> &Copy {
    match &plan.kind {
        PlanKind::Copy(copy) => copy,
        _ => unreachable!("it is made for a COPY's plan"),
    }
}

fn convert_line(
    values: &mut Vec<Value>,
    fields: &Fields,
    copy: &Copy,
    parameters: &[Parameter],
    names: &[String],
    line: u64,
    text: &str,
) -> Result<(), SqlError> {
    if fields.len() > parameters.len() {
        let error = SqlError::new(
            ErrorCode::BadCopyFormat,
            "extra data after last expected column",
        );
        return Err(with_text(error, copy, line, text));
    }
    for (index, (parameter, name)) in parameters.iter().zip(names).enumerate() {
        let Some(field) = fields.get(index) else {
            let error = SqlError::new(
                ErrorCode::BadCopyFormat,
                format!("missing data for column \"{name}\""),
            );
            return Err(with_text(error, copy, line, text));
        };
        let field = forced(field, index, copy);
        let given = field.map_or(ParamValue::Null, ParamValue::Text);
        let value = convert_one(parameter, given).map_err(|error| {
            if error.code == ErrorCode::NotNullViolation {
                return with_text(error, copy, line, text);
            }
            let shown = match field {
                Some(field) => format!(": \"{}\"", shortened(field)),
                None => ": null input".to_owned(),
            };
            error.with_context(format!(
                "COPY {}, line {line}, column {name}{shown}",
                copy.relation
            ))
        })?;
        values.push(value);
    }
    Ok(())
}

/// FORCE_NOT_NULL and FORCE_NULL.
fn forced<'f>(
    (field, quoted): (Option<&'f str>, bool),
    index: usize,
    copy: &'f Copy,
) -> Option<&'f str> {
    let is = |columns: &[bool]| columns.get(index).copied().unwrap_or(false);
    match field {
        None if is(&copy.options.force_not_null) => Some(&copy.options.null),
        Some(text) if quoted && is(&copy.options.force_null) && text == copy.options.null => None,
        field => field,
    }
}

fn convert_tuple(
    values: &mut Vec<Value>,
    tuple: &Tuple<'_>,
    copy: &Copy,
    parameters: &[Parameter],
    names: &[String],
    row: u64,
) -> Result<(), SqlError> {
    for ((parameter, name), field) in parameters.iter().zip(names).zip(&tuple.fields) {
        let given = field.map_or(ParamValue::Null, ParamValue::Binary);
        let value = convert_one(parameter, given).map_err(|error| {
            error.with_context(format!("COPY {}, line {row}, column {name}", copy.relation))
        })?;
        values.push(value);
    }
    Ok(())
}

fn in_line(error: SqlError, copy: &Copy, line: u64) -> SqlError {
    error.with_context(format!("COPY {}, line {line}", copy.relation))
}

fn with_text(error: SqlError, copy: &Copy, line: u64, text: &str) -> SqlError {
    error.with_context(format!(
        "COPY {}, line {line}: \"{}\"",
        copy.relation,
        shortened(text)
    ))
}

/// PostgreSQL shows at most so much of a line or value.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 100;
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let end = (0..=SHOWN)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    format!("{}...", &text[..end])
}

/// The context of a row that the table did not take, whose line the writer has said.
pub(crate) fn complete_context(error: SqlError, plan: &Plan) -> SqlError {
    match &error.context {
        Some(line) if line.starts_with("line ") => {
            let context = format!("COPY {}, {line}", copy_of(plan).relation);
            error.with_context(context)
        }
        _ => error,
    }
}
