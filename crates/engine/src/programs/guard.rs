//! EXCEPTION: a block whose changes are undone before a handler of its errors runs.
//!
//! They lie behind a savepoint of SQLite's, and what the capture and the others have noted of them since is
//! cut off. SQLite sets no savepoint while a statement is changing rows, that is where a function or a
//! BEFORE trigger is called by an INSERT, UPDATE or DELETE: there a handler runs if the block has changed
//! nothing, and otherwise the statement fails and says so. On a reader nothing is to be undone.

use std::sync::atomic::Ordering;

use rusqlite::ffi;
use springhead_proto::{SqlError, Value};
use springhead_sql::plan::Write;
use springhead_sql::program::body::Item;
use springhead_sql::program::{Caught, Step, catches};

use super::{Flow, Frame, Runner};
use crate::capture::Mark;
use crate::readers::Failure;
use crate::writer::keys;

/// How things were when a block began.
struct Guard {
    /// Whether a savepoint could be set.
    savepoint: bool,
    mark: Mark,
    /// Rows that AFTER ROW triggers were to see.
    fired: usize,
    /// Rows that policies were to see.
    watched: Vec<(usize, usize)>,
}

impl Runner<'_> {
    pub(super) fn guarded(
        &self,
        body: &[Step],
        handlers: &[Caught],
        first: usize,
        frame: &mut Frame<'_>,
    ) -> Result<Flow, SqlError> {
        let guard = self.guard()?;
        let in_transaction = !self.conn.is_autocommit();
        let depth = usize::from(guard.as_ref().is_some_and(|guard| guard.savepoint));
        self.context.guards.fetch_add(depth, Ordering::Relaxed);
        let result = self.steps(body, frame);
        self.context.guards.fetch_sub(depth, Ordering::Relaxed);
        let error = match result {
            Ok(flow) => {
                self.release(guard.as_ref())?;
                return Ok(flow);
            }
            Err(error) => error,
        };
        // SQLite may have given up everything; and who is to end ends.
        if in_transaction && self.conn.is_autocommit() || self.context.check_cancelled().is_err() {
            return Err(error);
        }
        let undone = self.undo(guard.as_ref(), &error);
        let handler = handlers
            .iter()
            .find(|handler| catches(&handler.conditions, &error));
        let Some(handler) = handler else {
            return Err(error);
        };
        undone?;
        for (place, item) in Item::ALL.into_iter().enumerate() {
            frame.slots[first + place] = Value::Text(item.of(&error));
        }
        frame.handling.push(error);
        let flow = self.steps(&handler.steps, frame);
        frame.handling.pop();
        flow
    }

    /// `None` on a reader.
    fn guard(&self) -> Result<Option<Guard>, SqlError> {
        let mark = self.context.with_capture(|capture| {
            // What has been sent before is not the block's.
            capture.take_messages();
            capture.mark()
        });
        let Some(mark) = mark else { return Ok(None) };
        let set = self
            .conn
            .prepare_cached("SAVEPOINT exception")
            .and_then(|mut set| set.execute([]));
        let savepoint = match set {
            Ok(_) => true,
            Err(rusqlite::Error::SqliteFailure(failure, _))
                if failure.extended_code & 0xff == ffi::SQLITE_BUSY =>
            {
                false
            }
            Err(error) => return Err(self.describe(error.into())),
        };
        Ok(Some(Guard {
            savepoint,
            mark,
            fired: self.context.fired.len(),
            watched: self.context.watched.lengths(),
        }))
    }

    fn release(&self, guard: Option<&Guard>) -> Result<(), SqlError> {
        if guard.is_some_and(|guard| guard.savepoint) {
            self.savepoint("RELEASE exception")?;
        }
        Ok(())
    }

    /// Undoes what the block has done.
    fn undo(&self, guard: Option<&Guard>, error: &SqlError) -> Result<(), SqlError> {
        let Some(guard) = guard else { return Ok(()) };
        if guard.savepoint {
            self.savepoint("ROLLBACK TO exception")?;
            self.savepoint("RELEASE exception")?;
        } else if self
            .context
            .with_capture(|capture| capture.has_rows_since(&guard.mark))
            == Some(true)
        {
            return Err(SqlError::unsupported(
                "undoing what a block with EXCEPTION has changed, while the statement that calls it changes rows",
            )
            .with_detail(format!("The error was: {error}"))
            .with_hint("call the function in a statement of its own, or in an AFTER trigger"));
        }
        self.context.with_capture(|capture| capture.cut(guard.mark));
        self.context.fired.truncate(guard.fired);
        self.context.watched.cut(&guard.watched);
        Ok(())
    }

    fn savepoint(&self, sql: &str) -> Result<(), SqlError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|error| self.describe(error.into()))
    }

    /// Within a block with EXCEPTION immediate foreign keys hold after each statement, so that a handler is
    /// told; elsewhere the statement that calls the program is asked at its end.
    pub(super) fn check_keys(&self, write: &Write) -> Result<(), Failure> {
        if self.context.guards.load(Ordering::Relaxed) == 0
            || keys::deferred_violations(self.conn) == 0
        {
            return Ok(());
        }
        let constraints = self.context.constraints.lock().clone();
        let check = || {
            keys::find_violation(
                self.conn,
                &self.library.catalog,
                &|key| !keys::is_deferred(key, constraints.as_ref()),
                &|table| keys::is_child_of(write, table),
            )
        };
        self.context.as_engine(check)?;
        Ok(())
    }
}
