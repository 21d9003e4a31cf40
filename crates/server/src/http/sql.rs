//! `POST /v1/sql`: one statement, or several in one transaction.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};
use springhead_engine::{Outcome, ParamValue, RowChunk, Session};
use springhead_proto::{ErrorCode, Lsn, SqlError};
use springhead_sql::plan::OutputColumn;
use springhead_sql::types::output_json;

use super::body::{Body, CutShort, Output, Response, response};
use super::error::HttpError;
use super::request::{Request, finish_fields, take_field, take_number, take_text};

/// A result up to this size is made before its head is sent.
const WHOLE_BYTES: usize = 256 << 10;

/// Runs what the body says.
///
/// # Errors
/// What is wrong with the request or its statements.
pub async fn run(mut request: Request) -> Result<Response, HttpError> {
    let tenant = request.tenant_id()?;
    let asked_lsn = request.params.min_lsn()?;
    std::mem::take(&mut request.params).finish(&["tenant_id", "min_lsn"])?;
    let mut object = request.json_object().await?;
    let min_lsn = take_number(&mut object, "min_lsn")?.map(Lsn).max(asked_lsn);
    let Some(transaction) = take_field(&mut object, "transaction") else {
        let asked = Asked::read(object, &["sql", "params", "min_lsn"])?;
        let mut session = request.session(tenant, min_lsn).await?;
        let outcome = asked.run(&mut session).await?;
        let lsn = if outcome.lsn == Lsn::ZERO {
            // It neither read nor wrote (SET, SHOW).
            session.tenant().visible()
        } else {
            outcome.lsn
        };
        return answer(vec![outcome], lsn, Shape::Single).await;
    };
    finish_fields(&object, &["transaction", "min_lsn"])?;
    let Value::Array(list) = transaction else {
        return Err(HttpError::parameter(
            "\"transaction\" is a list of statements",
        ));
    };
    if list.len() > request.app.config.max_statements {
        return Err(HttpError::new(
            ErrorCode::StatementTooLarge,
            format!(
                "a transaction of {} statements is over the limit of {}",
                list.len(),
                request.app.config.max_statements
            ),
        ));
    }
    let mut statements = Vec::with_capacity(list.len());
    for statement in list {
        match statement {
            Value::Object(object) => statements.push(Asked::read(object, &["sql", "params"])?),
            _ => {
                return Err(HttpError::parameter(
                    "each statement of \"transaction\" is an object with \"sql\"",
                ));
            }
        }
    }
    let mut session = request.session(tenant, min_lsn).await?;
    let (outcomes, lsn) = run_transaction(&mut session, &statements).await?;
    answer(outcomes, lsn, Shape::Transaction).await
}

/// A statement and its parameters.
pub struct Asked {
    pub sql: String,
    pub params: Vec<Value>,
}

impl Asked {
    /// Reads `sql` and `params`. `known` are the fields that there may be, for who got one wrong.
    ///
    /// # Errors
    /// 22023 naming the field that is wrong.
    pub fn read(mut object: Map<String, Value>, known: &[&str]) -> Result<Asked, HttpError> {
        let sql = take_text(&mut object, "sql")?
            .ok_or_else(|| HttpError::parameter("\"sql\" is missing"))?;
        let params = match take_field(&mut object, "params") {
            None => Vec::new(),
            Some(Value::Array(params)) => params,
            Some(_) => return Err(HttpError::parameter("\"params\" is a list")),
        };
        finish_fields(&object, known)?;
        Ok(Asked { sql, params })
    }

    /// Runs it.
    ///
    /// # Errors
    /// What the statement says; 0A000 for one that begins or ends a transaction, since a session lasts
    /// no longer than its request, and a request with several statements is one transaction.
    pub async fn run(&self, session: &mut Session) -> Result<Outcome, SqlError> {
        let statement = session.prepare(&self.sql, &[])?;
        if statement.bounds_transaction() {
            return Err(
                SqlError::unsupported("beginning or ending a transaction here").with_hint(
                    "send its statements together to POST /v1/sql: {\"transaction\":[{\"sql\":…},…]}",
                ),
            );
        }
        let params: Vec<ParamValue<'_>> = self.params.iter().map(param).collect();
        session.execute(&statement, &params).await
    }
}

/// A JSON value as a parameter.
pub fn param(value: &Value) -> ParamValue<'_> {
    match value {
        Value::Null => ParamValue::Null,
        value => ParamValue::Json(value),
    }
}

async fn run_transaction(
    session: &mut Session,
    statements: &[Asked],
) -> Result<(Vec<Outcome>, Lsn), HttpError> {
    let mut outcomes = Vec::with_capacity(statements.len());
    session.begin_block();
    for (index, statement) in statements.iter().enumerate() {
        match statement.run(session).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                session.reset().await;
                return Err(HttpError::Statement { index, error });
            }
        }
    }
    let lsn = session.end_block().await?;
    Ok((outcomes, lsn))
}

/// A result as JSON in one piece.
///
/// # Errors
/// 54000 if it is over `max_bytes`.
pub fn whole(outcome: Outcome, max_bytes: usize) -> Result<String, SqlError> {
    let lsn = outcome.lsn;
    let mut writer = Writer::new(vec![outcome], lsn, Shape::Single);
    let mut out = Vec::new();
    while writer.write(&mut out)? {
        if out.len() > max_bytes {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                format!("the result is over {max_bytes} bytes"),
            )
            .with_hint("ask for less at a time (LIMIT)"));
        }
    }
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// How results are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Single,
    Transaction,
}

/// The results as JSON: made whole if they are small, else streamed from where they are spooled.
async fn answer(outcomes: Vec<Outcome>, lsn: Lsn, shape: Shape) -> Result<Response, HttpError> {
    let mut writer = Writer::new(outcomes, lsn, shape);
    let mut out = Vec::new();
    while out.len() < WHOLE_BYTES {
        if !writer.write(&mut out)? {
            return Ok(response(StatusCode::OK, "application/json", out));
        }
    }
    let body = Body::produced(move |output| stream(writer, out, output));
    let mut answer = response(StatusCode::OK, "application/json", "");
    *answer.body_mut() = body;
    Ok(answer)
}

async fn stream(mut writer: Writer, begun: Vec<u8>, output: Output) -> Result<(), CutShort> {
    output.send(begun).await;
    loop {
        let mut out = Vec::new();
        let more = writer.write(&mut out).map_err(|error| {
            tracing::error!(%error, "a result was cut short");
            CutShort
        })?;
        output.send(out).await;
        if !more {
            return Ok(());
        }
    }
}

/// Writes results piece by piece.
struct Writer {
    outcomes: std::vec::IntoIter<Outcome>,
    present: Option<Present>,
    lsn: Lsn,
    shape: Shape,
    begun: bool,
    ended: bool,
}

/// The result that is being written.
struct Present {
    outcome: Outcome,
    rows_written: u64,
}

impl Writer {
    fn new(outcomes: Vec<Outcome>, lsn: Lsn, shape: Shape) -> Writer {
        Writer {
            outcomes: outcomes.into_iter(),
            present: None,
            lsn,
            shape,
            begun: false,
            ended: false,
        }
    }

    /// Appends the next piece; false after the last.
    fn write(&mut self, out: &mut Vec<u8>) -> Result<bool, SqlError> {
        if self.ended {
            return Ok(false);
        }
        if let Some(present) = &mut self.present {
            if present.write_rows(out)? {
                return Ok(true);
            }
            present.write_end(out);
            self.present = None;
        } else if let Some(outcome) = self.outcomes.next() {
            match (self.shape, self.begun) {
                (Shape::Transaction, false) => out.extend_from_slice(b"{\"results\":["),
                (Shape::Transaction, true) => out.push(b','),
                (Shape::Single, _) => {}
            }
            self.begun = true;
            let present = Present {
                outcome,
                rows_written: 0,
            };
            present.write_begin(out);
            self.present = Some(present);
        } else {
            match (self.shape, self.begun) {
                (Shape::Transaction, false) => out.extend_from_slice(b"{\"results\":[]"),
                (Shape::Transaction, true) => out.push(b']'),
                (Shape::Single, _) => {}
            }
            out.extend_from_slice(format!(",\"lsn\":{}}}", self.lsn).as_bytes());
            self.ended = true;
            return Ok(false);
        }
        // A single result shares its braces with the answer.
        if self.present.is_none() && self.shape == Shape::Transaction {
            out.push(b'}');
        }
        Ok(true)
    }
}

impl Present {
    fn write_begin(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"columns\":[");
        for (index, column) in self.outcome.columns.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let column =
                serde_json::json!({ "name": column.name, "type": column.pg_type.sql_name() });
            out.extend_from_slice(column.to_string().as_bytes());
        }
        out.extend_from_slice(b"],\"rows\":[");
    }

    fn write_rows(&mut self, out: &mut Vec<u8>) -> Result<bool, SqlError> {
        let Some(rows) = &mut self.outcome.rows else {
            return Ok(false);
        };
        let Some(chunk) = rows.next_chunk()? else {
            return Ok(false);
        };
        write_chunk(out, &chunk, &self.outcome.columns, &mut self.rows_written);
        Ok(true)
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        let count = row_count(&self.outcome.tag).unwrap_or(self.rows_written);
        out.extend_from_slice(format!("],\"row_count\":{count},\"command\":").as_bytes());
        out.extend_from_slice(
            Value::from(self.outcome.tag.as_str())
                .to_string()
                .as_bytes(),
        );
        if !self.outcome.notices.is_empty() {
            let notices: Vec<&str> = self
                .outcome
                .notices
                .iter()
                .map(|notice| notice.message.as_str())
                .collect();
            out.extend_from_slice(b",\"notices\":");
            out.extend_from_slice(Value::from(notices).to_string().as_bytes());
        }
    }
}

fn write_chunk(
    out: &mut Vec<u8>,
    chunk: &RowChunk,
    columns: &Arc<[OutputColumn]>,
    written: &mut u64,
) {
    for row in chunk.rows() {
        out.extend_from_slice(if *written > 0 { b",[" } else { b"[" });
        for (index, (value, column)) in row.values().zip(columns.iter()).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            output_json(&column.pg_type, value, out);
        }
        out.push(b']');
        *written += 1;
    }
}

/// The number that a command tag ends with: `INSERT 0 3`, `SELECT 5`.
fn row_count(tag: &str) -> Option<u64> {
    tag.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_count_is_what_the_command_tag_says() {
        assert_eq!(row_count("INSERT 0 3"), Some(3));
        assert_eq!(row_count("SELECT 5"), Some(5));
        assert_eq!(row_count("CREATE TABLE"), None);
        assert_eq!(row_count(""), None);
    }
}
