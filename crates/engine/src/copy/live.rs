//! COPY (LIVE SELECT …): a live query's rows and changes in COPY's form.
//!
//! Each row says what it is (`snapshot`, `ready`, `added`, `changed`, `removed`, `progress`), from
//! which position on the next connection goes on, its key and its place; then come the query's own
//! columns. A row that was removed comes with what it was.

use springhead_proto::{ErrorCode, Lsn, RowBuilder, RowRef, SqlError, ValueRef};
use springhead_sql::live::LivePlan;

use super::CopyOut;
use crate::live::{Delta, Entry, LiveEnd, LiveEvent, Opened, Subscriber, key_text};

/// See the module's text.
pub struct LiveCopy {
    subscriber: Subscriber,
    /// Until it has been sent.
    opened: Option<Opened>,
    form: CopyOut,
    columns: usize,
    /// In binary the head shares its message with the first row: there are clients that look for it
    /// there.
    is_head_due: bool,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for LiveCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveCopy").finish_non_exhaustive()
    }
}

impl LiveCopy {
    pub(crate) fn new(subscriber: Subscriber, opened: Opened, form: CopyOut) -> LiveCopy {
        LiveCopy {
            columns: opened.plan.columns.len(),
            is_head_due: form.is_binary(),
            subscriber,
            opened: Some(opened),
            form,
            scratch: Vec::new(),
        }
    }

    #[must_use]
    pub fn form(&mut self) -> &mut CopyOut {
        &mut self.form
    }

    /// What it begins with: the result, or what has changed since the cursor.
    pub fn take_opened(&mut self) -> Option<Opened> {
        self.opened.take()
    }

    /// The next event, as soon as there is one. Cancel-safe.
    pub async fn next(&mut self) -> LiveEvent {
        self.subscriber.next().await
    }

    /// Everything up to this LSN has been handed out, if that is so now.
    pub fn progress(&mut self) -> Option<Lsn> {
        self.subscriber.progress()
    }

    /// One row of the result.
    ///
    /// # Errors
    /// None now.
    pub fn snapshot_row(
        &mut self,
        plan: &LivePlan,
        row: RowRef<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), SqlError> {
        self.row("snapshot", None, Some((plan, row)), None, out)
    }

    /// A row that only says how far it has come.
    ///
    /// # Errors
    /// None now.
    pub fn mark(&mut self, event: &str, lsn: Lsn, out: &mut Vec<u8>) -> Result<(), SqlError> {
        self.row(event, Some(lsn), None, None, out)
    }

    /// A change's rows, one `put` for each.
    ///
    /// # Errors
    /// None now.
    pub fn change(&mut self, delta: &Delta, mut put: impl FnMut(&[u8])) -> Result<(), SqlError> {
        let plan = std::sync::Arc::clone(delta.plan());
        let mut bytes = Vec::new();
        for entry in &delta.entries {
            let (event, row, position) = match entry {
                Entry::Removed { row } => ("removed", row, None),
                Entry::Added { row, position } => ("added", row, *position),
                Entry::Changed { row, position, .. } => ("changed", row, *position),
            };
            bytes.clear();
            let of = Some((&*plan, row.as_ref()));
            self.row(event, Some(delta.lsn), of, position, &mut bytes)?;
            put(&bytes);
        }
        Ok(())
    }

    /// The error that an end comes to.
    #[must_use]
    pub fn end(end: LiveEnd) -> SqlError {
        match end {
            LiveEnd::Failed(error) => error,
            LiveEnd::MustRefetch { message } => SqlError::new(ErrorCode::CursorExpired, message)
                .with_hint("open the live query again, without a cursor"),
        }
    }

    fn row(
        &mut self,
        event: &str,
        lsn: Option<Lsn>,
        of: Option<(&LivePlan, RowRef<'_>)>,
        position: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), SqlError> {
        let cursor = lsn.map(|lsn| format!("{lsn}@{}", self.subscriber.epoch()));
        let key = of.map(|(plan, row)| key_text(plan, row));
        self.scratch.clear();
        let mut row = RowBuilder::new(&mut self.scratch, self.columns + 4);
        row.push(ValueRef::Text(event));
        for value in [&cursor, &key] {
            row.push(value.as_deref().map_or(ValueRef::Null, ValueRef::Text));
        }
        row.push(match position.map(i64::try_from) {
            Some(Ok(position)) => ValueRef::Integer(position),
            _ => ValueRef::Null,
        });
        match of {
            Some((_, values)) => {
                values
                    .values()
                    .take(self.columns)
                    .for_each(|value| row.push(value));
            }
            None => (0..self.columns).for_each(|_| row.push(ValueRef::Null)),
        }
        let parsed = RowRef::parse(&self.scratch).expect("it was just built");
        if std::mem::take(&mut self.is_head_due) {
            self.form.head(out);
        }
        self.form.row(out, parsed)
    }
}
