//! Cursors by name: DECLARE, FETCH, MOVE, CLOSE. A cursor's rows are spooled when it is declared, so
//! that no snapshot is held while its client takes its time; it shows what there was then, as
//! PostgreSQL's do. Used by one session; each statement knows its transaction's block.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::cursor::{CursorStatement, DeclareCursor, FetchDirection};
use springhead_sql::plan::OutputColumn;

use super::execute::Answer;
use super::{Outcome, Session};
use crate::rows::{RowChunk, Rows, RowsWriter};

/// A session has at most so many: each may have a temporary file.
const MAX_CURSORS: usize = 1000;

/// Rows that are read at a time where they are wanted from the last to the first.
const BACKWARD_ROWS: u64 = 1000;

/// The cursors of one session.
#[derive(Default)]
pub(super) struct Cursors {
    open: Vec<Cursor>,
}

struct Cursor {
    name: String,
    columns: Arc<[OutputColumn]>,
    /// The result from its first row.
    rows: Rows,
    ahead: Ahead,
    /// The row it is on, from 1; 0 is before the first, one past the count after the last.
    position: u64,
    /// May go backward, if it says either.
    scroll: Option<bool>,
    hold: bool,
    /// How many savepoints there were when it was declared; `None` once that transaction is over.
    depth: Option<usize>,
}

/// Reading on from where one has come to.
#[derive(Default)]
struct Ahead {
    rows: Rows,
    chunk: Option<RowChunk>,
    /// How many rows of the chunk have been read.
    read: usize,
    /// The row that comes next, from 1.
    next: u64,
}

/// Rows to give, first to last; the other way round if `backward`. And where that leads.
struct Move {
    first: u64,
    last: u64,
    backward: bool,
    position: u64,
}

impl Cursors {
    pub fn close_all(&mut self) {
        self.open.clear();
    }

    /// What was made in a transaction goes with it, unless it holds and the transaction has committed.
    pub fn transaction_ended(&mut self, committed: bool) {
        self.open
            .retain(|cursor| cursor.depth.is_none() || (cursor.hold && committed));
        for cursor in &mut self.open {
            cursor.depth = None;
        }
    }

    /// Back to a savepoint with `savepoints` left, itself included: what was made after it goes.
    pub fn rolled_back_to(&mut self, savepoints: usize) {
        self.open
            .retain(|cursor| cursor.depth.is_none_or(|depth| depth < savepoints));
    }

    /// Of the savepoints `savepoints` are left: what was made after them is the outer's now.
    pub fn released_to(&mut self, savepoints: usize) {
        for depth in self
            .open
            .iter_mut()
            .filter_map(|cursor| cursor.depth.as_mut())
        {
            *depth = savepoints.min(*depth);
        }
    }

    fn get(&mut self, name: &str) -> Result<&mut Cursor, SqlError> {
        self.open
            .iter_mut()
            .find(|cursor| cursor.name == name)
            .ok_or_else(|| unknown(name))
    }
}

impl Session {
    /// The columns of the cursor called `name`, if there is one.
    #[must_use]
    pub fn cursor_columns(&self, name: &str) -> Option<Arc<[OutputColumn]>> {
        let mut open = self.cursors.open.iter();
        open.find(|cursor| cursor.name == name)
            .map(|cursor| Arc::clone(&cursor.columns))
    }

    pub(super) async fn cursor(
        &mut self,
        statement: &CursorStatement,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        match statement {
            CursorStatement::Declare(declare) => self.declare(declare, params).await,
            CursorStatement::Fetch {
                name,
                direction,
                moves,
            } => {
                self.note_use();
                self.fetch(name, *direction, *moves).map(Answer::Outcome)
            }
            CursorStatement::Close { name: None } => {
                self.cursors.close_all();
                Ok(Answer::Outcome(Outcome::command("CLOSE CURSOR ALL")))
            }
            CursorStatement::Close { name: Some(name) } => {
                let before = self.cursors.open.len();
                self.cursors.open.retain(|cursor| cursor.name != *name);
                if self.cursors.open.len() == before {
                    return Err(unknown(name));
                }
                Ok(Answer::Outcome(Outcome::command("CLOSE CURSOR")))
            }
        }
    }

    async fn declare(
        &mut self,
        declare: &DeclareCursor,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        let name = &declare.name;
        if self.block.is_none() && !declare.hold {
            return Err(SqlError::new(
                ErrorCode::NoActiveTransaction,
                "DECLARE CURSOR can only be used in transaction blocks",
            )
            .with_hint("begin a transaction, or declare it WITH HOLD"));
        }
        if self.cursor_columns(name).is_some() {
            return Err(SqlError::new(
                ErrorCode::DuplicateCursor,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        if self.cursors.open.len() >= MAX_CURSORS {
            return Err(SqlError::new(
                ErrorCode::TooManyRequests,
                format!("this session has {MAX_CURSORS} cursors open, which is the limit"),
            )
            .with_hint("close those that are no longer needed"));
        }
        let found = Box::pin(self.run_data(&declare.query, params, None)).await?;
        let Answer::Outcome(mut outcome) = found else {
            return Ok(Answer::Stale);
        };
        let rows = outcome.rows.take().unwrap_or_default();
        self.cursors.open.push(Cursor {
            name: name.clone(),
            columns: Arc::clone(&outcome.columns),
            ahead: Ahead::new(&rows),
            rows,
            position: 0,
            scroll: declare.scroll,
            hold: declare.hold,
            depth: self.block.as_ref().map(|block| block.savepoints.len()),
        });
        Ok(Answer::Outcome(Outcome {
            notices: outcome.notices,
            lsn: outcome.lsn,
            ..Outcome::command("DECLARE CURSOR")
        }))
    }

    fn fetch(
        &mut self,
        name: &str,
        direction: FetchDirection,
        moves: bool,
    ) -> Result<Outcome, SqlError> {
        let config = &self.tenant.shared.config;
        let mut out = RowsWriter::new(config.result_memory_bytes, config.max_result_bytes);
        let lsn = self.tenant.visible();
        let cursor = self.cursors.get(name)?;
        let way = cursor.way(direction)?;
        let count = (way.last + 1).saturating_sub(way.first);
        if !moves && count > 0 {
            cursor.read(&way, &mut out)?;
        }
        cursor.position = way.position;
        if moves {
            return Ok(Outcome::command(format!("MOVE {count}")));
        }
        Ok(Outcome {
            columns: Arc::clone(&cursor.columns),
            rows: Some(out.finish()?),
            lsn,
            ..Outcome::command(format!("FETCH {count}"))
        })
    }
}

impl Cursor {
    /// What a direction comes to from where it is.
    fn way(&self, direction: FetchDirection) -> Result<Move, SqlError> {
        let (at, count) = (self.position, self.rows.count());
        let single = |place: Option<u64>| match place {
            Some(0) => Move::nowhere(0),
            Some(row) if row <= count => Move {
                first: row,
                last: row,
                backward: false,
                position: row,
            },
            Some(_) => Move::nowhere(count + 1),
            None => Move::nowhere(0),
        };
        let way = match direction {
            FetchDirection::Forward(Some(0)) => Move {
                position: at,
                ..single(Some(at))
            },
            FetchDirection::Forward(rows) => {
                let end = rows
                    .and_then(|rows| at.checked_add(rows))
                    .unwrap_or(u64::MAX);
                Move {
                    first: at + 1,
                    last: end.min(count),
                    backward: false,
                    position: end.min(count + 1),
                }
            }
            FetchDirection::Backward(rows) => {
                let end = rows.map_or(0, |rows| at.saturating_sub(rows));
                Move {
                    first: end.max(1),
                    last: at.saturating_sub(1),
                    backward: true,
                    position: end,
                }
            }
            FetchDirection::Absolute(place) if place < 0 => {
                single((count + 1).checked_sub(place.unsigned_abs()))
            }
            FetchDirection::Absolute(place) => single(Some(place.unsigned_abs())),
            FetchDirection::Relative(by) => single(at.checked_add_signed(by)),
        };
        let goes_back = way.position < at || way.backward;
        if goes_back && self.scroll == Some(false) {
            return Err(
                SqlError::new(ErrorCode::ObjectNotInState, "cursor can only scan forward")
                    .with_hint("Declare it with SCROLL option to enable backward scan."),
            );
        }
        Ok(way)
    }

    fn read(&mut self, way: &Move, out: &mut RowsWriter) -> Result<(), SqlError> {
        if !way.backward {
            if self.ahead.next > way.first {
                self.ahead = Ahead::new(&self.rows);
            }
            return self.ahead.copy(way.first, way.last, out);
        }
        // From the end, some at a time, each time from the beginning: seldom, and in bounded memory.
        let mut last = way.last;
        while last >= way.first {
            let first = way.first.max((last + 1).saturating_sub(BACKWARD_ROWS));
            let mut some = RowsWriter::new(usize::MAX, u64::MAX);
            Ahead::new(&self.rows).copy(first, last, &mut some)?;
            let mut some = some.finish()?;
            let mut chunks = Vec::new();
            while let Some(chunk) = some.next_chunk()? {
                chunks.push(chunk);
            }
            let rows: Vec<_> = chunks.iter().flat_map(RowChunk::rows).collect();
            for row in rows.into_iter().rev() {
                out.push(row.values())?;
            }
            last = first - 1;
        }
        Ok(())
    }
}

impl Move {
    /// No rows, and then there.
    fn nowhere(position: u64) -> Move {
        Move {
            first: 1,
            last: 0,
            backward: false,
            position,
        }
    }
}

impl Ahead {
    fn new(rows: &Rows) -> Ahead {
        Ahead {
            rows: rows.clone(),
            chunk: None,
            read: 0,
            next: 1,
        }
    }

    /// Gives the rows from `first` to `last`; those before are stepped over.
    fn copy(&mut self, first: u64, last: u64, out: &mut RowsWriter) -> Result<(), SqlError> {
        while self.next <= last {
            let chunk = match self.chunk.take() {
                Some(chunk) => chunk,
                None => {
                    self.read = 0;
                    match self.rows.next_chunk()? {
                        Some(chunk) => chunk,
                        None => return Ok(()),
                    }
                }
            };
            let mut is_read = true;
            for row in chunk.rows().skip(self.read) {
                if self.next > last {
                    is_read = false;
                    break;
                }
                if self.next >= first {
                    out.push(row.values())?;
                }
                self.next += 1;
                self.read += 1;
            }
            if !is_read {
                self.chunk = Some(chunk);
            }
        }
        Ok(())
    }
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedCursor,
        format!("cursor \"{name}\" does not exist"),
    )
}
