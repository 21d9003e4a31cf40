//! A statement's result in memory.

use serde_json::Value;
use springhead_engine::Outcome;
use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::types::output_json;

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// PostgreSQL's command tag, e.g. `INSERT 0 1`.
    pub command: String,
    /// The columns' names; empty for a statement that returns none.
    pub columns: Vec<String>,
    /// Values as `row_to_json` prints them.
    pub rows: Vec<Vec<Value>>,
}

/// Bytes of a result, at most.
const MAX_BYTES: usize = 64 << 20;

impl Answer {
    pub(crate) fn of(mut outcome: Outcome) -> Result<Answer, SqlError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        if let Some(spooled) = &mut outcome.rows {
            while let Some(chunk) = spooled.next_chunk()? {
                bytes += chunk.len_bytes();
                if bytes > MAX_BYTES {
                    return Err(SqlError::new(
                        ErrorCode::StatementTooLarge,
                        format!("the result is over {MAX_BYTES} bytes"),
                    )
                    .with_hint("ask for less at a time (LIMIT), or use a session"));
                }
                for row in chunk.rows() {
                    let values = row.values().zip(outcome.columns.iter());
                    rows.push(
                        values
                            .map(|(value, column)| {
                                let mut out = Vec::new();
                                output_json(&column.pg_type, value, &mut out);
                                serde_json::from_slice(&out).unwrap_or(Value::Null)
                            })
                            .collect(),
                    );
                }
            }
        }
        Ok(Answer {
            command: outcome.tag,
            columns: outcome
                .columns
                .iter()
                .map(|column| column.name.clone())
                .collect(),
            rows,
        })
    }
}
