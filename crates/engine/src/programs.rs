//! Runs compiled programs: functions, procedures and triggers (`springhead_sql::program`).
//!
//! Planned SQL calls `sh_call`, `sh_call_rows` and `sh_fire`, which come here; the writer and programs
//! themselves run every change with [`Runner::write`], so that statement triggers and AFTER ROW triggers
//! fire for it. AFTER ROW triggers fire from what was captured, at the end of the statement, whatever
//! changed the rows: the statement itself, a cascade or an upsert.

mod definer;
mod kept;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use springhead_proto::{CollectionId, ErrorCode, RowRef, SqlError, Value, ValueRef};
use springhead_sql::catalog::{Event, Timing, Trigger};
use springhead_sql::functions::rowset::{self, RowArray};
use springhead_sql::plan::{Write, WriteVerb};
use springhead_sql::program::{Library, MAX_DEPTH, Run, Step, TriggerRow};

use crate::functions::{self, Context, Output};
use crate::readers::{self, Failure};

pub use kept::{Fired, FiredRows, WatchedRows, check_rows};

/// What a write gave.
pub struct Written {
    pub rows: Vec<Vec<Value>>,
    pub affected: u64,
}

/// Programs on one connection.
pub struct Runner<'c> {
    pub conn: &'c Connection,
    pub context: &'c Context,
    pub library: Arc<Library>,
}

/// Where a program goes on.
enum Flow {
    Next,
    Exit,
    Continue,
    Done,
}

/// A running program.
struct Frame {
    slots: Vec<Value>,
    /// What it has returned so far.
    rows: Vec<Vec<Value>>,
    row: Option<TriggerRow>,
    /// Rows of the last statement.
    affected: i64,
}

impl Runner<'_> {
    /// Calls a function or procedure for one value.
    ///
    /// # Errors
    /// What its statements say.
    pub fn call(&self, id: u32, args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
        let rows = self.call_program(id, args)?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
            .unwrap_or(Value::Null))
    }

    /// Calls a function in FROM: its rows, as `json_each` takes them apart.
    ///
    /// # Errors
    /// As [`Runner::call`].
    pub fn call_rows(&self, id: u32, args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
        let program = self.as_definer(id, |runner| runner.library.program(id))?;
        let mut rows = self.call_program(id, args)?;
        let is_set = self
            .library
            .catalog
            .routines
            .get(&id)
            .is_some_and(|routine| {
                use springhead_sql::catalog::Returns;
                matches!(routine.returns, Returns::Set(_) | Returns::Table(_))
            });
        if !is_set {
            rows.truncate(1);
            if rows.is_empty() {
                let empty = if program.columns.is_empty() {
                    Value::Text(String::new())
                } else {
                    Value::Null
                };
                rows.push(vec![empty]);
            }
        }
        let mut array = RowArray::default();
        for row in rows {
            let values: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
            array.push(&values)?;
        }
        Ok(Value::Text(array.finish()))
    }

    /// Calls a routine, with its owner's rights if it says so.
    fn call_program(&self, id: u32, args: &[ValueRef<'_>]) -> Result<Vec<Vec<Value>>, SqlError> {
        self.as_definer(id, |runner| runner.call_as_is(id, args))
    }

    fn call_as_is(&self, id: u32, args: &[ValueRef<'_>]) -> Result<Vec<Vec<Value>>, SqlError> {
        let program = self.library.program(id)?;
        if program.strict && args.iter().any(|arg| arg.is_null()) {
            return Ok(Vec::new());
        }
        let mut frame = Frame {
            slots: args.iter().map(|arg| (*arg).to_owned()).collect(),
            rows: Vec::new(),
            row: None,
            affected: 0,
        };
        frame.slots.resize(program.slots.len(), Value::Null);
        let flow = self.nested(|| self.steps(&program.steps, &mut frame))?;
        if program.must_return && !matches!(flow, Flow::Done) {
            return Err(SqlError::new(
                ErrorCode::NoReturn,
                "control reached end of function without RETURN",
            ));
        }
        Ok(frame.rows)
    }

    /// Passes one row through the triggers of a relation; `None` if one of them leaves it out.
    ///
    /// # Errors
    /// What their statements say.
    pub fn fire_row(
        &self,
        relation: u32,
        timing: Timing,
        event: Event,
        updated: &[u32],
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, SqlError> {
        let catalog = Arc::clone(&self.library.catalog);
        let old = old.map(values_of).transpose()?;
        let mut new = new.map(values_of).transpose()?;
        for trigger in catalog.triggers_of(relation) {
            if !trigger.fires(timing, true, event, updated) {
                continue;
            }
            match self.trigger(trigger, event, old.as_deref(), new.as_deref())? {
                None => return Ok(None),
                Some(row) if event != Event::Delete => new = Some(row),
                Some(_) => {}
            }
        }
        let row = if event == Event::Delete { old } else { new };
        Ok(row.map(|row| {
            let values: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
            rowset::encode(&values)
        }))
    }

    /// Runs one trigger; the row that it returns.
    fn trigger(
        &self,
        trigger: &Trigger,
        event: Event,
        old: Option<&[Value]>,
        new: Option<&[Value]>,
    ) -> Result<Option<Vec<Value>>, SqlError> {
        let program = self.as_definer(trigger.function, |runner| {
            runner.library.program(trigger.id)
        })?;
        let places = program
            .trigger
            .ok_or_else(|| SqlError::new(ErrorCode::Internal, "a trigger's program is none"))?;
        let mut frame = Frame {
            slots: vec![Value::Null; program.slots.len()],
            rows: Vec::new(),
            row: None,
            affected: 0,
        };
        for (first, row) in [(places.old, old), (places.new, new)] {
            for (slot, value) in frame.slots[first..first + places.width]
                .iter_mut()
                .zip(row.unwrap_or_default())
            {
                slot.clone_from(value);
            }
        }
        frame.slots[places.operation] = Value::Text(event.word().to_owned());
        self.context.fired.triggers.fetch_add(1, Ordering::Relaxed);
        let ran = self.as_definer(trigger.function, |runner| {
            runner.nested(|| runner.steps(&program.steps, &mut frame))
        });
        self.context.fired.triggers.fetch_sub(1, Ordering::Relaxed);
        ran?;
        let row = frame.row.ok_or_else(|| {
            SqlError::new(
                ErrorCode::NoReturn,
                "control reached end of trigger procedure without RETURN",
            )
        })?;
        let part = |first: usize| frame.slots[first..first + places.width].to_vec();
        Ok(match (row, event) {
            (TriggerRow::Null, _) => None,
            (TriggerRow::Old, _) => old.map(|_| part(places.old)),
            (TriggerRow::New, _) => new.map(|_| part(places.new)),
            (TriggerRow::Either, Event::Delete) => Some(part(places.old)),
            (TriggerRow::Either, _) => Some(part(places.new)),
        })
    }

    fn nested<T>(&self, run: impl FnOnce() -> Result<T, SqlError>) -> Result<T, SqlError> {
        if !self.context.enter_program(MAX_DEPTH) {
            return Err(
                SqlError::new(ErrorCode::TooComplex, "stack depth limit exceeded")
                    .with_hint("functions and triggers call each other too deeply"),
            );
        }
        let result = run();
        self.context.leave_program();
        result
    }

    /// Runs a write with everything that it fires, and looks whether row policies let it.
    ///
    /// # Errors
    /// What the statement, a trigger or a policy says.
    pub fn write(&self, write: &Write, params: &[Value]) -> Result<Written, Failure> {
        if write.checks.is_empty() {
            return self.write_unchecked(write, params);
        }
        self.context.watched.start(write.table);
        let result = self.write_unchecked(write, params);
        let watched = self.context.watched.end();
        let written = result?;
        check_rows(self.conn, write, watched)?;
        Ok(written)
    }

    /// As [`Runner::write`], where the caller asks the policies.
    ///
    /// # Errors
    /// What the statement or a trigger says.
    pub fn write_unchecked(&self, write: &Write, params: &[Value]) -> Result<Written, Failure> {
        if write.before.is_empty() {
            return self.write_last(write, params);
        }
        // A function that a part calls has parts of its own.
        let outer = std::mem::take(&mut *self.context.steps.lock());
        let result = self.parts_and_last(write, params);
        *self.context.steps.lock() = outer;
        result
    }

    fn parts_and_last(&self, write: &Write, params: &[Value]) -> Result<Written, Failure> {
        let mut affected = 0;
        for part in &write.before {
            let rows = match &part.run {
                Run::Query(query) => {
                    let mut statement = self.conn.prepare_cached(&query.sql)?;
                    readers::bind(&mut statement, params)?;
                    collect(&mut statement)?
                }
                Run::Write(write) => {
                    let written = self.write(write, params)?;
                    affected += written.affected;
                    written.rows
                }
            };
            let mut array = RowArray::default();
            for row in rows {
                let values: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
                array.push(&values)?;
            }
            let mut steps = self.context.steps.lock();
            if steps.len() <= part.number {
                steps.resize(part.number + 1, None);
            }
            steps[part.number] = Some(array.finish());
        }
        if write.verb == WriteVerb::Merge {
            return Ok(Written {
                rows: Vec::new(),
                affected,
            });
        }
        self.write_last(write, params)
    }

    fn write_last(&self, write: &Write, params: &[Value]) -> Result<Written, Failure> {
        let start = self.context.fired.len();
        let result = self.write_and_fire(write, params, start);
        self.context.fired.truncate(start);
        result
    }

    fn write_and_fire(
        &self,
        write: &Write,
        params: &[Value],
        start: usize,
    ) -> Result<Written, Failure> {
        self.begin(write)?;
        let written = self.step(write, params)?;
        self.finish(write, start)?;
        Ok(written)
    }

    /// Before a write: BEFORE STATEMENT triggers.
    ///
    /// # Errors
    /// What a trigger says.
    pub fn begin(&self, write: &Write) -> Result<(), SqlError> {
        self.fire_statement(write, Timing::Before)
    }

    /// After a write: AFTER triggers of the rows that changed, from `start` on, and of the statement.
    ///
    /// # Errors
    /// What a trigger says.
    pub fn finish(&self, write: &Write, start: usize) -> Result<(), SqlError> {
        let mut index = start;
        while let Some(row) = self.context.fired.take(index) {
            self.fire_after(write, &row)?;
            index += 1;
        }
        self.fire_statement(write, Timing::After)
    }

    fn step(&self, write: &Write, params: &[Value]) -> Result<Written, Failure> {
        let mut statement = self.conn.prepare_cached(&write.sql)?;
        readers::bind(&mut statement, params)?;
        let reads = !write.returning.is_empty()
            || write.instead
            || matches!(
                write.verb,
                WriteVerb::Select | WriteVerb::Call | WriteVerb::Lock
            );
        if !reads {
            let affected = statement.raw_execute()? as u64;
            return Ok(Written {
                rows: Vec::new(),
                affected,
            });
        }
        let rows = collect(&mut statement)?;
        let affected = if write.instead {
            rows.iter()
                .filter(|row| row.first() != Some(&Value::Null))
                .count() as u64
        } else if matches!(write.verb, WriteVerb::Select | WriteVerb::Call) {
            rows.len() as u64
        } else {
            self.conn.changes()
        };
        Ok(Written { rows, affected })
    }

    fn fire_statement(&self, write: &Write, timing: Timing) -> Result<(), SqlError> {
        if write.table == CollectionId::NONE {
            return Ok(());
        }
        let catalog = Arc::clone(&self.library.catalog);
        let events: &[Event] = match write.verb {
            WriteVerb::Insert if write.upserts => &[Event::Insert, Event::Update],
            WriteVerb::Insert => &[Event::Insert],
            WriteVerb::Update => &[Event::Update],
            WriteVerb::Delete => &[Event::Delete],
            WriteVerb::Select | WriteVerb::Call | WriteVerb::Merge | WriteVerb::Lock => &[],
        };
        for &event in events {
            for trigger in catalog.triggers_of(write.table.0) {
                if trigger.fires(timing, false, event, &write.updated) {
                    self.trigger(trigger, event, None, None)?;
                }
            }
        }
        Ok(())
    }

    fn fire_after(&self, write: &Write, row: &Fired) -> Result<(), SqlError> {
        let event = match (&row.before, &row.after) {
            (None, _) => Event::Insert,
            (Some(_), Some(_)) => Event::Update,
            (Some(_), None) => Event::Delete,
        };
        let catalog = Arc::clone(&self.library.catalog);
        let old = row.before.as_deref().map(values_of).transpose()?;
        let new = row.after.as_deref().map(values_of).transpose()?;
        let named = write.table.0 == row.table && !write.updated.is_empty();
        // A cascade names no columns: those that it changed count.
        let updated = if named {
            write.updated.clone()
        } else {
            changed(&catalog, row.table, old.as_deref(), new.as_deref())
        };
        for trigger in catalog.triggers_of(row.table) {
            if trigger.fires(Timing::After, true, event, &updated) {
                self.trigger(trigger, event, old.as_deref(), new.as_deref())?;
            }
        }
        Ok(())
    }

    fn steps(&self, steps: &[Step], frame: &mut Frame) -> Result<Flow, SqlError> {
        for step in steps {
            match self.one(step, frame)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn one(&self, step: &Step, frame: &mut Frame) -> Result<Flow, SqlError> {
        match step {
            Step::Assign {
                slot,
                sql,
                not_null,
            } => {
                let value = self.value(sql, frame)?;
                if let (Value::Null, Some(name)) = (&value, not_null) {
                    return Err(SqlError::new(
                        ErrorCode::NullNotAllowed,
                        format!(
                            "null value cannot be assigned to variable \"{name}\" declared NOT NULL"
                        ),
                    ));
                }
                frame.slots[*slot] = value;
                Ok(Flow::Next)
            }
            Step::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.holds(condition, frame)? {
                        return self.steps(body, frame);
                    }
                }
                self.steps(otherwise, frame)
            }
            Step::While { condition, body } => loop {
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
            },
            Step::ForRange {
                slot,
                to,
                by,
                reverse,
                body,
            } => self.for_range(*slot, *to, *by, *reverse, body, frame),
            Step::ForQuery {
                query,
                slots,
                convert,
                found,
                body,
            } => {
                let rows = self.run(query, frame)?.rows;
                self.found(frame, *found, !rows.is_empty());
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
                frame.affected = i64::try_from(written.affected).unwrap_or(i64::MAX);
                if into.is_empty() && convert.is_empty() {
                    return Ok(Flow::Next);
                }
                if *strict && written.rows.len() != 1 {
                    return Err(if written.rows.is_empty() {
                        SqlError::new(ErrorCode::NoDataFound, "query returned no rows")
                    } else {
                        SqlError::new(ErrorCode::TooManyRows, "query returned more than one row")
                    });
                }
                let row = written.rows.into_iter().next();
                let row = row.unwrap_or_else(|| vec![Value::Null; into.len()]);
                self.spread(row, into, convert, frame)?;
                Ok(Flow::Next)
            }
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
            Step::ReturnQuery { run, last } => {
                let rows = self.run(run, frame)?.rows;
                frame.rows.extend(rows);
                Ok(if *last { Flow::Done } else { Flow::Next })
            }
            Step::RowCount { slot } => {
                frame.slots[*slot] = Value::Integer(frame.affected);
                Ok(Flow::Next)
            }
            Step::Raise { code, sql } => self.raise(*code, sql, frame),
        }
    }

    fn for_range(
        &self,
        slot: usize,
        to: usize,
        by: usize,
        reverse: bool,
        body: &[Step],
        frame: &mut Frame,
    ) -> Result<Flow, SqlError> {
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
        Ok(Flow::Next)
    }

    fn leave(&self, when: Option<&str>, flow: Flow, frame: &Frame) -> Result<Flow, SqlError> {
        match when {
            Some(when) if !self.holds(when, frame)? => Ok(Flow::Next),
            _ => Ok(flow),
        }
    }

    fn raise(&self, code: Option<ErrorCode>, sql: &str, frame: &Frame) -> Result<Flow, SqlError> {
        let row = self.row(sql, frame)?;
        let text = |place: usize| match row.get(place) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let message = text(0).unwrap_or_default();
        let mut error = SqlError::new(code.unwrap_or(ErrorCode::Success), message);
        if let Some(detail) = text(1) {
            error = error.with_detail(detail);
        }
        if let Some(hint) = text(2) {
            error = error.with_hint(hint);
        }
        if code.is_some() {
            return Err(error);
        }
        self.context.notice(error);
        Ok(Flow::Next)
    }

    fn found(&self, frame: &mut Frame, slot: usize, found: bool) {
        if let Some(slot) = frame.slots.get_mut(slot) {
            *slot = Value::Integer(i64::from(found));
        }
    }

    fn spread(
        &self,
        row: Vec<Value>,
        slots: &[usize],
        convert: &[Step],
        frame: &mut Frame,
    ) -> Result<(), SqlError> {
        for (slot, value) in slots.iter().zip(row) {
            frame.slots[*slot] = value;
        }
        self.steps(convert, frame).map(drop)
    }

    fn run(&self, run: &Run, frame: &Frame) -> Result<Written, SqlError> {
        let result = match run {
            Run::Query(query) => self.query(&query.sql, frame).map(|rows| Written {
                affected: rows.len() as u64,
                rows,
            }),
            Run::Write(write) => self.write(write, &frame.slots),
        };
        result.map_err(|failure| self.describe(failure))
    }

    fn query(&self, sql: &str, frame: &Frame) -> Result<Vec<Vec<Value>>, Failure> {
        let mut statement = self.conn.prepare_cached(sql)?;
        readers::bind(&mut statement, &frame.slots)?;
        collect(&mut statement)
    }

    fn row(&self, sql: &str, frame: &Frame) -> Result<Vec<Value>, SqlError> {
        let rows = self
            .query(sql, frame)
            .map_err(|failure| self.describe(failure))?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    fn value(&self, sql: &str, frame: &Frame) -> Result<Value, SqlError> {
        Ok(self
            .row(sql, frame)?
            .into_iter()
            .next()
            .unwrap_or(Value::Null))
    }

    fn holds(&self, sql: &str, frame: &Frame) -> Result<bool, SqlError> {
        Ok(self.value(sql, frame)? == Value::Integer(1))
    }

    fn describe(&self, failure: Failure) -> SqlError {
        match failure {
            Failure::Sql(error) => error,
            Failure::Sqlite(error) => self
                .context
                .take_error()
                .unwrap_or_else(|| crate::writer::run::translate(&self.library.catalog, &error)),
        }
    }
}

fn collect(statement: &mut rusqlite::Statement<'_>) -> Result<Vec<Vec<Value>>, Failure> {
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut collected = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for index in 0..columns {
            values.push(functions::from_sqlite(row.get_ref(index)?)?.to_owned());
        }
        collected.push(values);
    }
    Ok(collected)
}

fn values_of(image: &[u8]) -> Result<Vec<Value>, SqlError> {
    let row = RowRef::parse(image)
        .map_err(|_| SqlError::new(ErrorCode::Internal, "a trigger's row is damaged"))?;
    Ok(row.values().map(ValueRef::to_owned).collect())
}

/// The ids of the columns in which two images of a row differ.
fn changed(
    catalog: &springhead_sql::Catalog,
    table: u32,
    old: Option<&[Value]>,
    new: Option<&[Value]>,
) -> Vec<u32> {
    let (Some(table), Some(old), Some(new)) = (catalog.table(CollectionId(table)), old, new) else {
        return Vec::new();
    };
    table
        .columns
        .iter()
        .zip(old.iter().zip(new))
        .filter(|(_, (old, new))| old != new)
        .map(|(column, _)| column.id)
        .collect()
}

/// Gives a connection the functions that run programs.
///
/// # Errors
/// What SQLite says.
pub fn register(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    use rusqlite::functions::FunctionFlags;
    let flags = FunctionFlags::SQLITE_UTF8;
    for (name, rows) in [("sh_call", false), ("sh_call_rows", true)] {
        let at = Arc::clone(context);
        conn.create_scalar_function(name, -1, flags, move |arguments| {
            at.with_runner(arguments, |runner, args| {
                let (id, args) = args.split_first().ok_or_else(malformed)?;
                let id = number(*id)?;
                if rows {
                    runner.call_rows(id, args)
                } else {
                    runner.call(id, args)
                }
            })
            .map(Output)
        })?;
    }
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_fire", 6, flags, move |arguments| {
        at.with_runner(arguments, |runner, args| {
            let &[relation, instead, event, updated, old, new] = args else {
                return Err(malformed());
            };
            let timing = if number(instead)? == 1 {
                Timing::InsteadOf
            } else {
                Timing::Before
            };
            let event = Event::from_number(i64::from(number(event)?)).ok_or_else(malformed)?;
            let updated: Vec<u32> = match updated {
                ValueRef::Text(list) => list.split(',').filter_map(|id| id.parse().ok()).collect(),
                _ => Vec::new(),
            };
            let row = runner.fire_row(
                number(relation)?,
                timing,
                event,
                &updated,
                bytes(old),
                bytes(new),
            )?;
            Ok(row.map_or(Value::Null, Value::Blob))
        })
        .map(Output)
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_kept", 1, flags, move |arguments| {
        let row: Option<Vec<u8>> = arguments.get(0)?;
        row.ok_or_else(|| {
            at.fail(SqlError::unsupported(
                "a BEFORE UPDATE trigger that leaves out a row of ON CONFLICT DO UPDATE",
            ))
        })
    })
}

fn number(value: ValueRef<'_>) -> Result<u32, SqlError> {
    match value {
        ValueRef::Integer(number) => u32::try_from(number).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

fn bytes(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    }
}

fn malformed() -> SqlError {
    SqlError::new(ErrorCode::Internal, "a planned call is malformed")
}
