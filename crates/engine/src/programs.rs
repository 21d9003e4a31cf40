//! Runs compiled programs: functions, procedures and triggers (`springhead_sql::program`).
//!
//! Planned SQL calls `sh_call`, `sh_call_rows` and `sh_fire`, which come here; the writer and programs
//! themselves run every change with [`Runner::write`], so that statement triggers and AFTER ROW triggers
//! fire for it. AFTER ROW triggers fire from what was captured, at the end of the statement, whatever
//! changed the rows: the statement itself, a cascade or an upsert.

mod definer;
mod dynamic;
mod guard;
mod kept;
mod steps;
mod writes;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use springhead_proto::{ErrorCode, RowRef, SqlError, Value, ValueRef};
use springhead_sql::catalog::{Event, Timing, Trigger};
use springhead_sql::functions::rowset::{self, RowArray};
use springhead_sql::program::{Library, MAX_DEPTH, TriggerRow};

use crate::functions::{self, Context, Output};
use crate::readers::Failure;

pub use kept::{Fired, FiredRows, WatchedRows, check_rows};
use steps::{Flow, Frame};
pub use writes::Written;

/// Programs on one connection.
pub struct Runner<'c> {
    pub conn: &'c Connection,
    pub context: &'c Context,
    pub library: Arc<Library>,
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
        let mut slots: Vec<Value> = args.iter().map(|arg| (*arg).to_owned()).collect();
        slots.resize(program.slots.len(), Value::Null);
        let mut frame = Frame::new(&program, slots);
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
        let mut frame = Frame::new(&program, vec![Value::Null; program.slots.len()]);
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
