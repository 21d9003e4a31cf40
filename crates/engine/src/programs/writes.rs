//! A write with everything that it fires: parts of a WITH, triggers of the statement and of its rows, row
//! policies.

use std::sync::Arc;

use springhead_proto::{CollectionId, SqlError, Value, ValueRef};
use springhead_sql::catalog::{Event, Timing};
use springhead_sql::functions::rowset::RowArray;
use springhead_sql::plan::{Write, WriteVerb};
use springhead_sql::program::Run;

use super::{Fired, Runner, check_rows, collect, values_of};
use crate::readers::{self, Failure};

/// What a write gave.
pub struct Written {
    pub rows: Vec<Vec<Value>>,
    pub affected: u64,
}

impl Runner<'_> {
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
