//! SHOW CHANGES: what a poll of the same collection gives, as rows. Which changes there are to see,
//! and how they look, is decided where it is decided for every feed: in [`crate::cdc`].

use std::pin::Pin;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use springhead_proto::{ErrorCode, Lsn, SqlError, TimestampMs, Value};
use springhead_sql::plan::{ChangesSince, OutputColumn, ShowChanges};
use springhead_sql::{PgType, types};

use super::{Outcome, Session};
use crate::cdc::{CdcError, FeedSpec, Filled, Poll, PollOptions, Reader, Start, parse_cursor};
use crate::rows::RowsWriter;

/// One event, as a poll prints it.
#[derive(Deserialize)]
struct Event<'a> {
    lsn: u64,
    cursor: &'a str,
    timestamp_ms: i64,
    #[serde(borrow)]
    collection: Option<std::borrow::Cow<'a, str>>,
    operation: &'a str,
    #[serde(borrow)]
    document_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    before: &'a RawValue,
    #[serde(borrow)]
    after: &'a RawValue,
    tx: Transaction,
    schema_version: i64,
}

#[derive(Deserialize)]
struct Transaction {
    lsn: u64,
    index: u64,
    count: u64,
}

/// The columns of SHOW CHANGES: the fields of an event.
#[must_use]
pub fn changes_columns() -> Arc<[OutputColumn]> {
    let columns = [
        ("lsn", PgType::Int8),
        ("cursor", PgType::Text),
        ("timestamp", PgType::Timestamptz),
        ("collection", PgType::Text),
        ("operation", PgType::Text),
        ("document_id", PgType::Text),
        ("before", PgType::Jsonb),
        ("after", PgType::Jsonb),
        ("tx_lsn", PgType::Int8),
        ("tx_index", PgType::Int8),
        ("tx_count", PgType::Int8),
        ("schema_version", PgType::Int4),
    ];
    columns
        .into_iter()
        .map(|(name, pg_type)| OutputColumn::computed(name, pg_type))
        .collect()
}

impl Session {
    /// Boxed, since a consumer's feed runs statements itself.
    pub(super) fn show_changes<'s>(
        &'s mut self,
        asked: &'s ShowChanges,
    ) -> Pin<Box<dyn Future<Output = Result<Outcome, SqlError>> + Send + 's>> {
        Box::pin(self.read_changes(asked))
    }

    async fn read_changes(&mut self, asked: &ShowChanges) -> Result<Outcome, SqlError> {
        let cdc = self
            .engine
            .as_ref()
            .map(crate::Engine::cdc)
            .ok_or_else(|| SqlError::unsupported("SHOW CHANGES here"))?;
        self.tenant.wait_visible(self.required_lsn).await?;
        let until = self.tenant.visible();
        let mut start = start(&asked.since)?;
        let mut left = asked.limit.unwrap_or(u64::MAX);
        let config = &self.tenant.shared.config;
        let mut rows = RowsWriter::new(config.result_memory_bytes, config.max_result_bytes);
        loop {
            let options = PollOptions {
                reader: Reader::acting(&self.principal, &self.plan_context.identity),
                spec: FeedSpec {
                    collection: Some(asked.collection.clone()),
                    filter: asked.filter.clone(),
                    ..FeedSpec::default()
                },
                start: Some(start),
                limit: left,
                consumer: None,
            };
            let mut page = Poll::open(&cdc, Arc::clone(&self.tenant), options)
                .await
                .map_err(refused)?;
            while left > 0
                && let Filled::Chunk(events) = page.fill().await.map_err(refused)?
            {
                push(&events, &mut rows)?;
            }
            left -= page.count().min(left);
            let cursor = page.cursor();
            if left == 0 || page.is_caught_up() || cursor.lsn >= until {
                break;
            }
            // A page scans only so much.
            start = Start::After(cursor);
        }
        let rows = rows.finish()?;
        let mut outcome = Outcome::command(format!("SHOW {}", rows.count()));
        outcome.columns = changes_columns();
        outcome.rows = Some(rows);
        outcome.lsn = until;
        Ok(outcome)
    }
}

fn start(since: &ChangesSince) -> Result<Start, SqlError> {
    Ok(match since {
        ChangesSince::Earliest => Start::Earliest,
        ChangesSince::Lsn(lsn) => Start::SinceLsn(Lsn(*lsn)),
        ChangesSince::Cursor(cursor) => Start::After(parse_cursor(cursor)?),
        ChangesSince::Time(text) => match types::input(&PgType::Timestamptz, text)? {
            // That time and later: the millisecond that it lies in begins before it.
            Value::Integer(micros) => {
                let ms = micros.div_euclid(1000) + i64::from(micros.rem_euclid(1000) > 0);
                Start::SinceMs(TimestampMs(u64::try_from(ms).unwrap_or(0)))
            }
            _ => return Err(SqlError::new(ErrorCode::InvalidDatetime, "no time")),
        },
    })
}

/// Whole events with commas between them.
fn push(events: &[u8], rows: &mut RowsWriter) -> Result<(), SqlError> {
    let broken = |error: serde_json::Error| {
        SqlError::new(
            ErrorCode::Internal,
            format!("an event cannot be read: {error}"),
        )
    };
    let mut array = Vec::with_capacity(events.len() + 2);
    array.push(b'[');
    array.extend_from_slice(events.strip_prefix(b",").unwrap_or(events));
    array.push(b']');
    let events: Vec<Event<'_>> = serde_json::from_slice(&array).map_err(broken)?;
    for event in events {
        let number = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        let text = |text: Option<std::borrow::Cow<'_, str>>| {
            text.map_or(Value::Null, |text| Value::Text(text.into_owned()))
        };
        let image = |raw: &RawValue| match raw.get() {
            "null" => Ok(Value::Null),
            text => types::input(&PgType::Jsonb, text),
        };
        let values = [
            number(event.lsn),
            Value::Text(event.cursor.to_owned()),
            Value::Integer(event.timestamp_ms.saturating_mul(1000)),
            text(event.collection),
            Value::Text(event.operation.to_owned()),
            text(event.document_id),
            image(event.before)?,
            image(event.after)?,
            number(event.tx.lsn),
            number(event.tx.index),
            number(event.tx.count),
            Value::Integer(event.schema_version),
        ];
        rows.push(values.iter().map(Value::as_ref))?;
    }
    Ok(())
}

fn refused(error: CdcError) -> SqlError {
    match error {
        CdcError::Refused { code, refused } => {
            SqlError::new(code, refused.to_string()).with_hint(format!(
                "the earliest change kept has LSN {}: SHOW CHANGES … SINCE LSN {}",
                refused.earliest_lsn, refused.earliest_lsn
            ))
        }
        CdcError::Sql(error) => error,
    }
}
