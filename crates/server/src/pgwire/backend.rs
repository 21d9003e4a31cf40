//! What the server says: each function appends one whole message to the connection's output.
//!
//! ```text
//! message := type:u8 length:i32 BE (itself included) body
//! ```
//!
//! Called by the connection alone; knows no socket. Rows are printed straight into the output:
//! nothing is allocated per row or value.
//! Source: PostgreSQL 15, chapter 55.7 "Message Formats".

use springhead_proto::{CollectionId, ErrorCode, NoticeLevel, RowRef, SqlError};
use springhead_sql::plan::OutputColumn;
use springhead_sql::system::oids::{Part, of as table_part};
use springhead_sql::{PgType, types};

/// How much an error means to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
    Warning,
    Notice,
    Info,
    Log,
    Debug,
}

impl Severity {
    const fn word(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Info => "INFO",
            Severity::Log => "LOG",
            Severity::Debug => "DEBUG",
        }
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

/// The formats of a result's columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Formats {
    /// As the simple query flow has it.
    #[default]
    AllText,
    AllBinary,
    /// One for each column.
    Each(Vec<Format>),
}

impl Formats {
    /// The format of the column at `index`, from 0.
    #[must_use]
    pub fn of(&self, index: usize) -> Format {
        match self {
            Formats::AllText => Format::Text,
            Formats::AllBinary => Format::Binary,
            Formats::Each(formats) => formats.get(index).copied().unwrap_or(Format::Text),
        }
    }
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    message(out, b'R', |out| out.extend_from_slice(&0_i32.to_be_bytes()));
}

/// AuthenticationSASL: the mechanisms that a client may choose from.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&10_i32.to_be_bytes());
        for mechanism in mechanisms {
            out.extend_from_slice(mechanism.as_bytes());
            out.push(0);
        }
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&11_i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&12_i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// BackendKeyData: what a cancel request must carry.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: i32, secret: i32) {
    message(out, b'K', |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(&secret.to_be_bytes());
    });
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        c_string(out, name);
        c_string(out, value);
    });
}

/// NegotiateProtocolVersion: 3.0, and the options that are not known here.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, unknown_options: &[String]) {
    message(out, b'v', |out| {
        out.extend_from_slice(&0_i32.to_be_bytes());
        let count = i32::try_from(unknown_options.len()).unwrap_or(i32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for option in unknown_options {
            c_string(out, option);
        }
    });
}

/// ReadyForQuery, with the transaction's state: `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, status]);
}

/// CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| c_string(out, tag));
}

/// NotificationResponse.
pub fn notification_response(out: &mut Vec<u8>, process_id: i32, channel: &str, payload: &str) {
    message(out, b'A', |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        c_string(out, channel);
        c_string(out, payload);
    });
}

/// CopyInResponse (`G`) or CopyOutResponse (`H`).
pub fn copy_response(out: &mut Vec<u8>, kind: u8, is_binary: bool, columns: usize) {
    message(out, kind, |out| {
        out.push(u8::from(is_binary));
        out.extend_from_slice(&count_u16(columns).to_be_bytes());
        for _ in 0..count_u16(columns) {
            out.extend_from_slice(&u16::from(is_binary).to_be_bytes());
        }
    });
}

/// CopyData with what `body` appends; none if that is nothing.
///
/// # Errors
/// What `body` says, or 54000 if it does not fit a message; then nothing has been written.
pub fn copy_data(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    let start = out.len();
    out.extend_from_slice(&[b'd', 0, 0, 0, 0]);
    let written = body(out).and_then(|()| fill_length(out, start + 1, start + 1));
    if written.is_err() || out.len() == start + 5 {
        out.truncate(start);
    }
    written
}

/// CopyDone.
pub fn copy_done(out: &mut Vec<u8>) {
    message(out, b'c', |_| {});
}

/// EmptyQueryResponse.
pub fn empty_query_response(out: &mut Vec<u8>) {
    message(out, b'I', |_| {});
}

/// ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, b'1', |_| {});
}

/// BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(out, b'2', |_| {});
}

/// CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, b'3', |_| {});
}

/// NoData: the statement returns no rows.
pub fn no_data(out: &mut Vec<u8>) {
    message(out, b'n', |_| {});
}

/// PortalSuspended: the row limit was reached, there may be more.
pub fn portal_suspended(out: &mut Vec<u8>) {
    message(out, b's', |_| {});
}

/// ParameterDescription.
pub fn parameter_description<'a>(
    out: &mut Vec<u8>,
    types: impl ExactSizeIterator<Item = &'a PgType>,
) {
    message(out, b't', |out| {
        out.extend_from_slice(&count_u16(types.len()).to_be_bytes());
        for pg_type in types {
            out.extend_from_slice(&parameter_oid(pg_type).to_be_bytes());
        }
    });
}

/// Drivers cannot write `unknown`; PostgreSQL decides for text as well.
fn parameter_oid(pg_type: &PgType) -> u32 {
    match pg_type {
        PgType::Unknown => PgType::Text.oid(),
        known => known.oid(),
    }
}

/// RowDescription.
pub fn row_description(out: &mut Vec<u8>, columns: &[OutputColumn], formats: &Formats) {
    message(out, b'T', |out| {
        out.extend_from_slice(&count_u16(columns.len()).to_be_bytes());
        for (index, column) in columns.iter().enumerate() {
            c_string(out, &column.name);
            let (table, place) = column
                .origin
                .map_or((0, 0), |(collection, place)| (table_oid(collection), place));
            out.extend_from_slice(&table.to_be_bytes());
            out.extend_from_slice(&u16::try_from(place).unwrap_or(0).to_be_bytes());
            // A column whose type nothing decided is text, as in PostgreSQL.
            let pg_type = if column.pg_type == PgType::Unknown {
                &PgType::Text
            } else {
                &column.pg_type
            };
            out.extend_from_slice(&pg_type.oid().to_be_bytes());
            out.extend_from_slice(&pg_type.size().to_be_bytes());
            out.extend_from_slice(&pg_type.typmod().to_be_bytes());
            let format = i16::from(formats.of(index) == Format::Binary);
            out.extend_from_slice(&format.to_be_bytes());
        }
    });
}

/// The object id that `pg_class` has for a table.
const fn table_oid(collection: CollectionId) -> u32 {
    table_part(collection.0, Part::Itself)
}

/// DataRow.
///
/// # Errors
/// 54000 if the row does not fit a message; then nothing has been written.
pub fn data_row(
    out: &mut Vec<u8>,
    columns: &[OutputColumn],
    formats: &Formats,
    row: RowRef<'_>,
) -> Result<(), SqlError> {
    let start = out.len();
    let written = write_row(out, columns, formats, row);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write_row(
    out: &mut Vec<u8>,
    columns: &[OutputColumn],
    formats: &Formats,
    row: RowRef<'_>,
) -> Result<(), SqlError> {
    let start = out.len();
    out.extend_from_slice(&[b'D', 0, 0, 0, 0]);
    out.extend_from_slice(&count_u16(row.len()).to_be_bytes());
    for (index, value) in row.values().enumerate() {
        if value.is_null() {
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            continue;
        }
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let pg_type = columns
            .get(index)
            .map_or(&PgType::Unknown, |column| &column.pg_type);
        match formats.of(index) {
            Format::Text => types::output_text(pg_type, value, out),
            Format::Binary => types::output_binary(pg_type, value, out),
        }
        fill_length(out, length_at, length_at + 4)?;
    }
    fill_length(out, start + 1, start + 1)
}

/// Writes at `at` how many bytes there are from `from` to the end.
fn fill_length(out: &mut [u8], at: usize, from: usize) -> Result<(), SqlError> {
    let length = i32::try_from(out.len() - from).map_err(|_| {
        SqlError::new(
            ErrorCode::StatementTooLarge,
            "a row of the result does not fit a message of the protocol",
        )
        .with_hint("select fewer or shorter columns")
    })?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// ErrorResponse or NoticeResponse, with every field that is known.
pub fn error_response(out: &mut Vec<u8>, severity: Severity, error: &SqlError) {
    let kind = match severity {
        Severity::Error | Severity::Fatal => b'E',
        Severity::Warning | Severity::Notice | Severity::Info | Severity::Log | Severity::Debug => {
            b'N'
        }
    };
    message(out, kind, |out| {
        field(out, b'S', severity.word());
        field(out, b'V', severity.word());
        field(out, b'C', error.sqlstate());
        field(out, b'M', &error.message);
        let texts = [(b'D', &error.detail), (b'H', &error.hint)];
        for (kind, text) in texts {
            if let Some(text) = text {
                field(out, kind, text);
            }
        }
        if let Some(context) = &error.context {
            field(out, b'W', context);
        }
        if let Some(position) = error.position {
            field(out, b'P', &position.to_string());
        }
        if let Some(table) = &error.table {
            let (schema, table) = table.split_once('.').unwrap_or(("public", table));
            field(out, b's', schema);
            field(out, b't', table);
        }
        let names = [(b'c', &error.column), (b'n', &error.constraint)];
        for (kind, name) in names {
            if let Some(name) = name {
                field(out, kind, name);
            }
        }
        out.push(0);
    });
}

/// NoticeResponse of what a statement had to say.
pub fn notice_response(out: &mut Vec<u8>, notice: &SqlError) {
    let severity = match (notice.level, notice.code) {
        (Some(NoticeLevel::Debug), _) => Severity::Debug,
        (Some(NoticeLevel::Log), _) => Severity::Log,
        (Some(NoticeLevel::Info), _) => Severity::Info,
        (Some(NoticeLevel::Notice), _) => Severity::Notice,
        (Some(NoticeLevel::Warning), _)
        | (
            None,
            ErrorCode::ActiveTransaction | ErrorCode::NoActiveTransaction | ErrorCode::Warning,
        ) => Severity::Warning,
        (None, _) => Severity::Notice,
    };
    error_response(out, severity, notice);
}

fn field(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    c_string(out, text);
}

/// A zero within would end the string early; no name or message of ours has one, but a client's
/// text may be in it.
fn c_string(out: &mut Vec<u8>, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn count_u16(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// One message whose body is never near 2 GiB.
fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = i32::try_from(out.len() - length_at)
        .expect("names and messages are bounded by the statement's size");
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use springhead_proto::{Row, ValueRef};

    use super::*;

    fn column(name: &str, pg_type: PgType) -> OutputColumn {
        OutputColumn::computed(name, pg_type)
    }

    #[test]
    fn golden_bytes_of_a_row_and_its_description() {
        let columns = [column("id", PgType::Int4), column("t", PgType::Text)];
        let mut out = Vec::new();
        row_description(&mut out, &columns, &Formats::AllText);
        assert_eq!(
            out,
            b"T\0\0\0\x2f\0\x02id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0t\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
        );
        let row = Row::from_values([ValueRef::Integer(-7), ValueRef::Null].into_iter());
        out.clear();
        data_row(&mut out, &columns, &Formats::AllText, row.as_ref()).unwrap();
        assert_eq!(out, b"D\0\0\0\x10\0\x02\0\0\0\x02-7\xff\xff\xff\xff");
        out.clear();
        data_row(&mut out, &columns, &Formats::AllBinary, row.as_ref()).unwrap();
        assert_eq!(
            out,
            b"D\0\0\0\x12\0\x02\0\0\0\x04\xff\xff\xff\xf9\xff\xff\xff\xff"
        );
    }

    #[test]
    fn golden_bytes_of_an_error() {
        let error = SqlError::new(ErrorCode::UniqueViolation, "duplicate")
            .with_detail("d")
            .with_hint("h")
            .with_table("t")
            .with_column("c")
            .with_constraint("t_pkey")
            .with_position(12);
        let mut out = Vec::new();
        error_response(&mut out, Severity::Error, &error);
        let body = b"SERROR\0VERROR\0C23505\0Mduplicate\0Dd\0Hh\0P12\0spublic\0tt\0cc\0nt_pkey\0\0";
        assert_eq!(&out[5..], body);
        assert_eq!(out[0], b'E');
        assert_eq!(
            out[1..5],
            u32::try_from(body.len() + 4).unwrap().to_be_bytes()
        );
    }

    #[test]
    fn small_messages() {
        let mut out = Vec::new();
        ready_for_query(&mut out, b'I');
        command_complete(&mut out, "INSERT 0 1");
        empty_query_response(&mut out);
        parameter_status(&mut out, "a", "b\0c");
        backend_key_data(&mut out, 1, -1);
        assert_eq!(
            out,
            b"Z\0\0\0\x05IC\0\0\0\x0fINSERT 0 1\0I\0\0\0\x04S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x01\xff\xff\xff\xff"
        );
    }
}
