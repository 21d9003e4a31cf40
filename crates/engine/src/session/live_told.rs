//! What a session's live queries tell its client: events as notifications that fit, and what did not
//! fit as rows.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use springhead_proto::{ErrorCode, Lsn, RowRef, SqlError, Value};
use springhead_sql::listen::PAYLOAD_BYTES;
use springhead_sql::live::{LiveOptions, LivePlan};

use super::Outcome;
use super::live::fetch_columns;
use crate::live::by_id::ById;
use crate::live::{
    Delta, Entry, LiveEnd, LiveEvent, LiveId, Opened, key_text, write_key, write_row,
};
use crate::notify::Notification;
use crate::rows::RowsWriter;

/// One of them.
pub(super) struct Told {
    /// As [`LiveOptions`] has them.
    before: bool,
    upsert: bool,
    /// Changes that were too large for a notification, until they are fetched. A session may have many
    /// queries, of which few have such.
    large: Option<Box<Large>>,
}

#[derive(Default)]
struct Large {
    changes: Vec<Arc<Delta>>,
    bytes: usize,
}

impl Told {
    /// The changes that were too large, which count as fetched then.
    pub(super) fn take_large(&mut self) -> Vec<Arc<Delta>> {
        self.large
            .take()
            .map_or_else(Vec::new, |large| large.changes)
    }

    /// Whether there are changes that were too large and have not been fetched.
    pub(super) fn has_large(&self) -> bool {
        self.large.is_some()
    }

    pub(super) fn new(options: &LiveOptions) -> Told {
        Told {
            before: options.before,
            upsert: options.upsert,
            large: None,
        }
    }
}

pub(super) fn channel_of(id: LiveId) -> String {
    format!("live_{}", id.0)
}

pub(super) fn unknown(id: LiveId) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedObject,
        format!("this session has no live query {}", id.0),
    )
}

/// Events into notifications.
pub(super) struct Teller<'s> {
    pub queries: &'s mut ById<Told>,
    pub waiting: &'s mut VecDeque<Notification>,
    pub process_id: i32,
    /// Bytes of changes that are kept for FETCH LIVE, of one query.
    pub most: usize,
    pub cursor: &'s dyn Fn(Lsn) -> String,
}

impl Teller<'_> {
    /// The query that has to be closed since its client fetches nothing, if that is so.
    pub(super) fn event(&mut self, event: LiveEvent) -> Option<LiveId> {
        match event {
            LiveEvent::Change { id, delta } => return self.change(id, &delta),
            LiveEvent::Tick(_) => {}
            LiveEvent::Refetched {
                id,
                message,
                opened,
            } => {
                let error = SqlError::new(ErrorCode::CursorExpired, message);
                self.end(id, opened.lsn, "must-refetch", &error);
                if let Err(error) = self.begin(*opened) {
                    self.end(id, Lsn::ZERO, "error", &error);
                    return Some(id);
                }
            }
            LiveEvent::Ended { id, end } => {
                let (event, error) = match end {
                    LiveEnd::MustRefetch { message } => (
                        "must-refetch",
                        SqlError::new(ErrorCode::CursorExpired, message)
                            .with_hint("open the live query again"),
                    ),
                    LiveEnd::Failed(error) => ("error", error),
                };
                self.end(id, Lsn::ZERO, event, &error);
                self.queries.remove(id);
            }
        }
        None
    }

    fn change(&mut self, id: LiveId, delta: &Arc<Delta>) -> Option<LiveId> {
        let told = self.queries.get_mut(id)?;
        let head = format!(
            "{{\"event\":\"change\",\"live_id\":{},\"cursor\":\"{}\",\"lsn\":{}",
            id.0,
            (self.cursor)(delta.lsn),
            delta.lsn
        );
        let members = delta.members(told.before, told.upsert);
        if head.len() + members.len() + 2 < PAYLOAD_BYTES {
            let members = String::from_utf8_lossy(members);
            self.tell(id, delta.lsn, format!("{head},{members}}}"));
            return None;
        }
        let large = told.large.get_or_insert_default();
        large.bytes += delta.size_bytes();
        if large.bytes > self.most {
            let error = SqlError::new(
                ErrorCode::CursorExpired,
                "changes were too large for notifications, and have not been fetched",
            );
            let error = error.with_hint("run FETCH LIVE when a change is too large");
            self.end(id, delta.lsn, "must-refetch", &error);
            self.queries.remove(id);
            return Some(id);
        }
        large.changes.push(Arc::clone(delta));
        let (mut added, mut changed, mut removed) = (0, 0, 0);
        for entry in &delta.entries {
            match entry {
                Entry::Added { .. } => added += 1,
                Entry::Changed { .. } => changed += 1,
                Entry::Removed { .. } => removed += 1,
            }
        }
        self.tell(
            id,
            delta.lsn,
            format!(
                "{head},\"too_large\":true,\"bytes\":{},\"counts\":{{\"added\":{added},\
                 \"changed\":{changed},\"removed\":{removed}}},\"fetch\":\"FETCH LIVE {}\"}}",
                members.len(),
                id.0
            ),
        );
        None
    }

    /// What a query that goes on from a cursor has missed.
    pub(super) fn opened_delta(&mut self, opened: &Opened) {
        if let Some(delta) = &opened.delta {
            self.change(opened.id, delta);
        }
    }

    /// The result, in pieces that fit, and where it goes on from.
    pub(super) fn begin(&mut self, opened: Opened) -> Result<(), SqlError> {
        let (id, lsn, plan) = (opened.id, opened.lsn, Arc::clone(&opened.plan));
        self.opened_delta(&opened);
        if let Some(mut rows) = opened.rows {
            let mut piece = Piece::default();
            while let Some(chunk) = rows.next_chunk()? {
                for row in chunk.rows() {
                    piece.push(&plan, row);
                    if piece.bytes() > PAYLOAD_BYTES - 200 {
                        let last = piece.pop();
                        let full = std::mem::take(&mut piece);
                        self.piece(id, lsn, full, &last)?;
                        piece.put(last);
                    }
                }
            }
            self.piece(id, lsn, piece, &(String::new(), String::new()))?;
        }
        let cursor = (self.cursor)(lsn);
        self.tell(
            id,
            lsn,
            format!(
                "{{\"event\":\"ready\",\"live_id\":{},\"cursor\":\"{cursor}\",\"lsn\":{lsn}}}",
                id.0
            ),
        );
        Ok(())
    }

    fn piece(
        &mut self,
        id: LiveId,
        lsn: Lsn,
        piece: Piece,
        left: &(String, String),
    ) -> Result<(), SqlError> {
        if left.0.len() + left.1.len() > PAYLOAD_BYTES - 200 {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                "a row of the result does not fit into a notification",
            )
            .with_hint("take the result by COPY (LIVE SELECT …) TO STDOUT"));
        }
        if piece.keys.is_empty() {
            return Ok(());
        }
        let payload = format!(
            "{{\"event\":\"snapshot\",\"live_id\":{},\"keys\":[{}],\"rows\":[{}]}}",
            id.0,
            piece.keys.join(","),
            piece.rows.join(",")
        );
        self.tell(id, lsn, payload);
        Ok(())
    }

    fn end(&mut self, id: LiveId, lsn: Lsn, event: &str, error: &SqlError) {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let mut payload = format!(
            "{{\"event\":\"{event}\",\"live_id\":{},\"code\":{},\"message\":{}",
            id.0,
            text(error.code.word()),
            text(&cut(&error.message))
        );
        if let Some(hint) = &error.hint {
            let _ = write!(payload, ",\"hint\":{}", text(&cut(hint)));
        }
        payload.push('}');
        self.tell(id, lsn, payload);
    }

    fn tell(&mut self, id: LiveId, lsn: Lsn, payload: String) {
        self.waiting.push_back(Notification {
            lsn,
            channel: channel_of(id).into(),
            payload: payload.into(),
            process_id: self.process_id,
        });
    }
}

fn cut(text: &str) -> String {
    text.chars().take(500).collect()
}

/// Rows of a snapshot that go into one notification.
#[derive(Default)]
struct Piece {
    keys: Vec<String>,
    rows: Vec<String>,
    length: usize,
}

impl Piece {
    fn push(&mut self, plan: &LivePlan, row: RowRef<'_>) {
        let (mut key, mut values) = (Vec::new(), Vec::new());
        write_key(plan, row, &mut key);
        write_row(plan, row, &mut values);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        self.put((text(key), text(values)));
    }

    fn put(&mut self, (key, row): (String, String)) {
        self.length += key.len() + row.len() + 2;
        self.keys.push(key);
        self.rows.push(row);
    }

    fn pop(&mut self) -> (String, String) {
        let last = (
            self.keys.pop().unwrap_or_default(),
            self.rows.pop().unwrap_or_default(),
        );
        self.length -= last.0.len() + last.1.len() + 2;
        last
    }

    fn bytes(&self) -> usize {
        self.length
    }
}

/// Changes as the rows of FETCH LIVE.
pub(super) fn fetched(
    large: &[Arc<Delta>],
    cursor: &dyn Fn(Lsn) -> String,
) -> Result<Outcome, SqlError> {
    let mut rows = RowsWriter::new(1 << 20, u64::MAX);
    let mut count = 0_u64;
    for delta in large {
        let plan = delta.plan();
        let json = |row: RowRef<'_>| {
            let mut text = Vec::new();
            write_row(plan, row, &mut text);
            Value::Text(String::from_utf8_lossy(&text).into_owned())
        };
        for entry in &delta.entries {
            let (operation, row, before, position) = match entry {
                Entry::Added { row, position } => ("added", Some(row), None, *position),
                Entry::Changed {
                    before,
                    row,
                    position,
                } => ("changed", Some(row), Some(before), *position),
                Entry::Removed { row } => ("removed", None, Some(row), None),
            };
            let Some(any) = row.or(before) else { continue };
            let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
            let values = [
                number(delta.lsn.0),
                Value::Text(cursor(delta.lsn)),
                Value::Text(operation.to_owned()),
                Value::Text(key_text(plan, any.as_ref())),
                row.map_or(Value::Null, |row| json(row.as_ref())),
                before.map_or(Value::Null, |row| json(row.as_ref())),
                position.map_or(Value::Null, |position| number(position as u64)),
            ];
            rows.push(values.iter().map(Value::as_ref))?;
            count += 1;
        }
    }
    let mut outcome = Outcome::command(format!("FETCH {count}"));
    outcome.columns = fetch_columns();
    outcome.rows = Some(rows.finish()?);
    Ok(outcome)
}
