//! The steps of a running program, one after the other.

use springhead_proto::{ErrorCode, NoticeLevel, SqlError, Value};
use springhead_sql::PgType;
use springhead_sql::program::{Program, Run, Step, TriggerRow, outside_handler, raised};

use super::{Runner, Written, collect};
use crate::capture::Capture;
use crate::readers::{self, Failure};
use crate::settings;
use crate::writer::{keys, run};

/// Where a program goes on.
pub(super) enum Flow {
    Next,
    Exit,
    Continue,
    Done,
}

/// A running program.
pub(super) struct Frame<'p> {
    pub program: &'p Program,
    pub slots: Vec<Value>,
    /// The types of slots beyond the program's own, which computed statements have.
    pub more: Vec<PgType>,
    /// The errors that handlers are handling now, innermost last.
    pub handling: Vec<SqlError>,
    /// What it has returned so far.
    pub rows: Vec<Vec<Value>>,
    pub row: Option<TriggerRow>,
    /// Rows of the last statement.
    pub affected: i64,
}

impl<'p> Frame<'p> {
    pub(super) fn new(program: &'p Program, slots: Vec<Value>) -> Frame<'p> {
        Frame {
            program,
            slots,
            more: Vec::new(),
            handling: Vec::new(),
            rows: Vec::new(),
            row: None,
            affected: 0,
        }
    }
}

impl Runner<'_> {
    pub(super) fn steps(&self, steps: &[Step], frame: &mut Frame<'_>) -> Result<Flow, SqlError> {
        for step in steps {
            match self.one(step, frame)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn one(&self, step: &Step, frame: &mut Frame<'_>) -> Result<Flow, SqlError> {
        match step {
            Step::Assign {
                slot,
                sql,
                not_null,
            } => self.assign(*slot, sql, not_null.as_deref(), frame),
            Step::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.holds(condition, frame)? {
                        return self.steps(body, frame);
                    }
                }
                self.steps(otherwise, frame)
            }
            Step::While { condition, body } => self.repeat(condition.as_deref(), body, frame),
            Step::ForRange { .. } => self.for_range(step, frame),
            Step::ForQuery {
                query,
                slots,
                convert,
                found,
                body,
            } => {
                let rows = self.run(query, frame)?.rows;
                let any = !rows.is_empty();
                let flow = self.for_rows(rows, slots, convert, body, frame);
                self.found(frame, *found, any);
                flow
            }
            Step::Exit { when } => self.leave(when.as_deref(), Flow::Exit, frame),
            Step::Continue { when } => self.leave(when.as_deref(), Flow::Continue, frame),
            Step::Run {
                run,
                into,
                strict,
                convert,
                found,
            } => {
                let written = self.run(run, frame)?;
                self.found(frame, *found, written.affected > 0);
                self.take_row(written, into, *strict, convert, frame)?;
                Ok(Flow::Next)
            }
            Step::Return(_)
            | Step::ReturnRow(_)
            | Step::ReturnNext(_)
            | Step::ReturnSlots(_)
            | Step::ReturnQuery { .. } => self.give(step, frame),
            Step::RowCount { slot } => {
                frame.slots[*slot] = Value::Integer(frame.affected);
                Ok(Flow::Next)
            }
            Step::Raise { notice, sql } => self.raise(*notice, sql, frame),
            Step::Fail(error) => Err(error.clone()),
            Step::Again => Err(match frame.handling.last() {
                Some(error) => error.clone(),
                None => outside_handler("RAISE without parameters"),
            }),
            Step::Guarded {
                body,
                handlers,
                first,
            } => self.guarded(body, handlers, *first, frame),
            Step::Execute(dynamic) => self.execute(dynamic, frame),
        }
    }

    fn assign(
        &self,
        slot: usize,
        sql: &str,
        not_null: Option<&str>,
        frame: &mut Frame<'_>,
    ) -> Result<Flow, SqlError> {
        let value = self.value(sql, frame)?;
        if let (Value::Null, Some(name)) = (&value, not_null) {
            return Err(SqlError::new(
                ErrorCode::NullNotAllowed,
                format!("null value cannot be assigned to variable \"{name}\" declared NOT NULL"),
            ));
        }
        frame.slots[slot] = value;
        Ok(Flow::Next)
    }

    /// What a program returns, and whether it goes on.
    fn give(&self, step: &Step, frame: &mut Frame<'_>) -> Result<Flow, SqlError> {
        match step {
            Step::Return(sql) => {
                if let Some(sql) = sql {
                    let value = self.value(sql, frame)?;
                    frame.rows.push(vec![value]);
                }
                Ok(Flow::Done)
            }
            Step::ReturnRow(row) => {
                frame.row = Some(*row);
                Ok(Flow::Done)
            }
            Step::ReturnNext(sql) => {
                let value = self.value(sql, frame)?;
                frame.rows.push(vec![value]);
                Ok(Flow::Next)
            }
            Step::ReturnSlots(slots) => {
                let row = slots.iter().map(|&slot| frame.slots[slot].clone());
                frame.rows.push(row.collect());
                Ok(Flow::Next)
            }
            Step::ReturnQuery { run, last } => {
                let rows = self.run(run, frame)?.rows;
                frame.rows.extend(rows);
                Ok(if *last { Flow::Done } else { Flow::Next })
            }
            _ => Ok(Flow::Next),
        }
    }

    fn repeat(
        &self,
        condition: Option<&str>,
        body: &[Step],
        frame: &mut Frame<'_>,
    ) -> Result<Flow, SqlError> {
        loop {
            self.context.check_cancelled()?;
            if let Some(condition) = condition
                && !self.holds(condition, frame)?
            {
                return Ok(Flow::Next);
            }
            match self.steps(body, frame)? {
                Flow::Done => return Ok(Flow::Done),
                Flow::Exit => return Ok(Flow::Next),
                Flow::Next | Flow::Continue => {}
            }
        }
    }

    /// The body of a loop, for each of these rows.
    pub(super) fn for_rows(
        &self,
        rows: Vec<Vec<Value>>,
        slots: &[usize],
        convert: &[Step],
        body: &[Step],
        frame: &mut Frame<'_>,
    ) -> Result<Flow, SqlError> {
        for row in rows {
            self.context.check_cancelled()?;
            self.spread(row, slots, convert, frame)?;
            match self.steps(body, frame)? {
                Flow::Done => return Ok(Flow::Done),
                Flow::Exit => break,
                Flow::Next | Flow::Continue => {}
            }
        }
        Ok(Flow::Next)
    }

    /// A statement's first row, into the variables.
    pub(super) fn take_row(
        &self,
        written: Written,
        into: &[usize],
        strict: bool,
        convert: &[Step],
        frame: &mut Frame<'_>,
    ) -> Result<(), SqlError> {
        frame.affected = i64::try_from(written.affected).unwrap_or(i64::MAX);
        if into.is_empty() && convert.is_empty() {
            return Ok(());
        }
        if strict && written.rows.len() != 1 {
            return Err(if written.rows.is_empty() {
                SqlError::new(ErrorCode::NoDataFound, "query returned no rows")
            } else {
                SqlError::new(ErrorCode::TooManyRows, "query returned more than one row")
            });
        }
        let row = written.rows.into_iter().next();
        let row = row.unwrap_or_else(|| vec![Value::Null; into.len()]);
        self.spread(row, into, convert, frame)
    }

    fn for_range(&self, step: &Step, frame: &mut Frame<'_>) -> Result<Flow, SqlError> {
        let Step::ForRange {
            slot,
            to,
            by,
            reverse,
            found,
            body,
        } = step
        else {
            return Ok(Flow::Next);
        };
        let (slot, to, by, reverse) = (*slot, *to, *by, *reverse);
        let (Value::Integer(first), Value::Integer(last), Value::Integer(step)) = (
            frame.slots[slot].clone(),
            frame.slots[to].clone(),
            frame.slots[by].clone(),
        ) else {
            return Err(SqlError::new(
                ErrorCode::NullNotAllowed,
                "bounds of FOR loop cannot be null",
            ));
        };
        if step <= 0 {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                "BY value of FOR loop must be greater than zero",
            ));
        }
        let mut at = first;
        let any = if reverse { at >= last } else { at <= last };
        while if reverse { at >= last } else { at <= last } {
            self.context.check_cancelled()?;
            frame.slots[slot] = Value::Integer(at);
            match self.steps(body, frame)? {
                Flow::Done => return Ok(Flow::Done),
                Flow::Exit => break,
                Flow::Next | Flow::Continue => {}
            }
            at = if reverse { at - step } else { at + step };
        }
        self.found(frame, *found, any);
        Ok(Flow::Next)
    }

    fn leave(&self, when: Option<&str>, flow: Flow, frame: &Frame<'_>) -> Result<Flow, SqlError> {
        match when {
            Some(when) if !self.holds(when, frame)? => Ok(Flow::Next),
            _ => Ok(flow),
        }
    }

    fn raise(
        &self,
        notice: Option<NoticeLevel>,
        sql: &str,
        frame: &Frame<'_>,
    ) -> Result<Flow, SqlError> {
        let said = raised(notice, &self.row(sql, frame)?)?;
        let Some(level) = notice else {
            return Err(said);
        };
        let setting = self.context.session().setting("client_min_messages");
        if settings::tells(setting.as_deref(), level) {
            self.context.notice(said);
        }
        Ok(Flow::Next)
    }

    pub(super) fn found(&self, frame: &mut Frame<'_>, slot: usize, found: bool) {
        if let Some(slot) = frame.slots.get_mut(slot) {
            *slot = Value::Integer(i64::from(found));
        }
    }

    pub(super) fn spread(
        &self,
        row: Vec<Value>,
        slots: &[usize],
        convert: &[Step],
        frame: &mut Frame<'_>,
    ) -> Result<(), SqlError> {
        for (slot, value) in slots.iter().zip(row) {
            frame.slots[*slot] = value;
        }
        self.steps(convert, frame).map(drop)
    }

    pub(super) fn run(&self, run: &Run, frame: &Frame<'_>) -> Result<Written, SqlError> {
        let result = match run {
            Run::Query(query) => self.query(&query.sql, frame).map(|rows| Written {
                affected: rows.len() as u64,
                rows,
            }),
            Run::Write(write) => self
                .write(write, &frame.slots)
                .and_then(|written| self.check_keys(write).map(|()| written)),
        };
        result.map_err(|failure| self.describe(failure))
    }

    fn query(&self, sql: &str, frame: &Frame<'_>) -> Result<Vec<Vec<Value>>, Failure> {
        let mut statement = self.conn.prepare_cached(sql)?;
        readers::bind(&mut statement, &frame.slots)?;
        collect(&mut statement)
    }

    pub(super) fn row(&self, sql: &str, frame: &Frame<'_>) -> Result<Vec<Value>, SqlError> {
        let rows = self
            .query(sql, frame)
            .map_err(|failure| self.describe(failure))?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    pub(super) fn value(&self, sql: &str, frame: &Frame<'_>) -> Result<Value, SqlError> {
        Ok(self
            .row(sql, frame)?
            .into_iter()
            .next()
            .unwrap_or(Value::Null))
    }

    pub(super) fn holds(&self, sql: &str, frame: &Frame<'_>) -> Result<bool, SqlError> {
        Ok(self.value(sql, frame)? == Value::Integer(1))
    }

    pub(super) fn describe(&self, failure: Failure) -> SqlError {
        match failure {
            Failure::Sql(error) => error,
            Failure::Sqlite(error) => self.context.take_error().unwrap_or_else(|| {
                let (conn, catalog) = (self.conn, &self.library.catalog);
                let named = self.context.as_engine(|| {
                    let name = |capture: &mut Capture| {
                        keys::named_restriction(conn, catalog, capture, &error)
                    };
                    self.context.with_capture(name).flatten()
                });
                named.unwrap_or_else(|| run::translate(catalog, &error))
            }),
        }
    }
}
