//! `springhead sql`: statements over the PostgreSQL protocol, results as tables or JSON lines.

use std::io::{Read, Write};

use serde_json::{Map, Value, json};

use super::pg_client::{Answer, Column, PgClient, Target};
use super::table::Table;
use super::tls::TlsArgs;
use super::{CliError, EXIT_CODES, local_config};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct SqlArgs {
    /// The statements; from standard input if not given
    sql: Option<String>,
    /// The server and tenant [default: the local server's default tenant]
    #[arg(
        long,
        value_name = "postgres://[USER@]HOST:PORT[/TENANT][?sslmode=MODE]"
    )]
    url: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// One JSON object per row; `{"command":…}` for statements without rows
    #[arg(long)]
    json: bool,
}

/// Runs the statements; stops at the first that fails. Ctrl-C cancels what runs.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: SqlArgs) -> Result<(), CliError> {
    let target = target(args.url.as_deref(), &args.tls)?;
    let sql = match args.sql {
        Some(sql) => sql,
        None => {
            let mut sql = String::new();
            std::io::stdin()
                .read_to_string(&mut sql)
                .map_err(|error| CliError::Usage(format!("standard input: {error}")))?;
            sql
        }
    };
    execute(&target, &sql, args.json).await
}

/// Where to connect: what is given, or the local server's default tenant.
pub fn target(url: Option<&str>, tls: &TlsArgs) -> Result<Target, CliError> {
    match url {
        Some(url) => Target::read(url, tls),
        None => {
            let local = format!("postgres://{}/default", local_config(None)?.pg);
            Target::read(&local, tls)
        }
    }
}

/// Runs statements and prints what comes of them.
pub async fn execute(target: &Target, sql: &str, json: bool) -> Result<(), CliError> {
    print_answers(target, sql, Printer::new(json)).await?;
    Ok(())
}

/// Runs a query and prints its rows; without any nothing is printed. How many there were.
pub async fn execute_counted(target: &Target, sql: &str, json: bool) -> Result<u64, CliError> {
    let mut printer = Printer::new(json);
    printer.hides_empty = true;
    print_answers(target, sql, printer).await
}

async fn print_answers(target: &Target, sql: &str, mut printer: Printer) -> Result<u64, CliError> {
    let mut client = PgClient::connect(target).await?;
    client.query(sql).await?;
    let mut failed = None;
    loop {
        let answer = tokio::select! {
            answer = client.answer() => answer?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|error| CliError::Failed(format!("listen to signals: {error}")))?;
                // The connection is not usable after an answer was cut short.
                client.cancel().await?;
                return Err(CliError::Failed("canceled".to_owned()));
            }
        };
        match answer {
            Answer::Ready => break,
            Answer::Failed(error) => failed = Some(error),
            other => printer.print(other).map_err(CliError::Output)?,
        }
    }
    failed.map_or(Ok(printer.rows), |error| Err(CliError::Failed(error)))
}

struct Printer {
    json: bool,
    columns: Vec<Column>,
    table: Option<Table>,
    /// Rows so far.
    rows: u64,
    /// A table without rows is not printed.
    hides_empty: bool,
}

impl Printer {
    fn new(json: bool) -> Printer {
        Printer {
            json,
            columns: Vec::new(),
            table: None,
            rows: 0,
            hides_empty: false,
        }
    }

    fn print(&mut self, answer: Answer) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        match answer {
            Answer::Columns(columns) => {
                if !self.json {
                    let columns = columns
                        .iter()
                        .map(|column| (column.name.clone(), is_number(column.type_oid)));
                    self.table = Some(Table::new(columns));
                }
                self.columns = columns;
            }
            Answer::Row(row) => {
                self.rows += 1;
                match &mut self.table {
                    Some(table) => table.row(&mut out, row)?,
                    None => writeln!(out, "{}", json_row(&self.columns, row))?,
                }
            }
            Answer::Done(tag) => {
                let had_rows = !std::mem::take(&mut self.columns).is_empty();
                match self.table.take() {
                    Some(_) if self.hides_empty && self.rows == 0 => {}
                    Some(table) => table.end(&mut out)?,
                    None if self.json && had_rows => {}
                    None if self.json => writeln!(out, "{}", json!({ "command": tag }))?,
                    None => writeln!(out, "{tag}")?,
                }
                out.flush()?;
            }
            Answer::Notice(notice) => eprintln!("{notice}"),
            Answer::Failed(_) | Answer::Ready => {}
        }
        Ok(())
    }
}

const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const JSON: u32 = 114;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const NUMERIC: u32 = 1700;
const JSONB: u32 = 3802;

fn is_number(type_oid: u32) -> bool {
    matches!(type_oid, INT2 | INT4 | INT8 | FLOAT4 | FLOAT8 | NUMERIC)
}

fn json_row(columns: &[Column], row: Vec<Option<String>>) -> Value {
    let values = columns.iter().zip(row).map(|(column, value)| {
        let value = value.map_or(Value::Null, |text| json_value(column.type_oid, text));
        (column.name.clone(), value)
    });
    Value::Object(values.collect::<Map<_, _>>())
}

/// Numbers, booleans and JSON as themselves, everything else as its text.
fn json_value(type_oid: u32, text: String) -> Value {
    let parsed = match type_oid {
        BOOL => Some(Value::Bool(text == "t")),
        INT2 | INT4 | INT8 | FLOAT4 | FLOAT8 | JSON | JSONB => serde_json::from_str(&text).ok(),
        _ => None,
    };
    parsed.unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_as_json_keep_their_types() {
        let column = |name: &str, type_oid| Column {
            name: name.to_owned(),
            type_oid,
        };
        let columns = [
            column("a", INT8),
            column("b", BOOL),
            column("c", 25),
            column("d", JSONB),
            column("e", FLOAT8),
        ];
        let row =
            ["9007199254740993", "t", "1", "{\"x\": 1}", "NaN"].map(|text| Some(text.to_owned()));
        assert_eq!(
            json_row(&columns, row.to_vec()).to_string(),
            r#"{"a":9007199254740993,"b":true,"c":"1","d":{"x":1},"e":"NaN"}"#
        );
    }
}
