//! Sequences: numbers are handed out from memory, in blocks that the log reserves ahead, and never
//! rolled back. After a crash at most a block of numbers is skipped; none is given twice.
//!
//! What becomes of a sequence in the transaction that makes or restarts it is part of that transaction,
//! in the log too; all else is logged before the commits that use it, in a commit of its own.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_proto::{
    ChangeKind, CollectionId, ErrorCode, Row, SchemaVersion, SqlError, ValueRef, encode_change,
};
use springhead_sql::catalog::{Catalog, Sequence};

/// How many numbers one log entry reserves.
const BLOCK: i64 = 32;

/// A sequence's state.
#[derive(Debug, Clone)]
struct Counter {
    definition: Arc<Sequence>,
    /// The last number handed out, or the first to hand out while `called` is false.
    last: i64,
    called: bool,
    /// Numbers up to and including this one are reserved in the log.
    reserved: Option<i64>,
    /// What the state file says of it once all that waits to be logged is in it.
    noted: Option<Advance>,
    /// The open transaction has made or restarted it: what becomes of it is part of that transaction.
    is_transactions: bool,
}

/// What the log and the state file keep of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    pub id: u32,
    pub last: i64,
    pub called: bool,
}

impl Advance {
    /// As the `after` image of a SEQUENCE change.
    #[must_use]
    pub fn to_row(self) -> Row {
        let values = [
            ValueRef::Integer(i64::from(self.id)),
            ValueRef::Integer(self.last),
            ValueRef::Integer(i64::from(self.called)),
        ];
        Row::from_values(values.into_iter())
    }

    /// The inverse of [`Advance::to_row`]; `None` if the row is none of those.
    #[must_use]
    pub fn from_row(row: springhead_proto::RowRef<'_>) -> Option<Advance> {
        let mut values = row.values();
        match (values.next()?, values.next()?, values.next()?) {
            (ValueRef::Integer(id), ValueRef::Integer(last), ValueRef::Integer(called)) => {
                Some(Advance {
                    id: u32::try_from(id).ok()?,
                    last,
                    called: called != 0,
                })
            }
            _ => None,
        }
    }
}

/// One step of a sequence, as a SEQUENCE change says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// What the state file said of it before; `None` if it said nothing.
    pub before: Option<Advance>,
    pub after: Advance,
}

impl Moved {
    /// Appends it as a SEQUENCE change.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_change(
            out,
            ChangeKind::Sequence,
            CollectionId::NONE,
            SchemaVersion(1),
            Some(self.before_row().bytes()),
            Some(self.after.to_row().bytes()),
        );
    }

    /// As the `before` image of a SEQUENCE change: the id alone says that there was nothing.
    fn before_row(&self) -> Row {
        match self.before {
            Some(before) => before.to_row(),
            None => Row::from_values([ValueRef::Integer(i64::from(self.after.id))].into_iter()),
        }
    }
}

/// All sequences of a tenant, owned by its writer.
#[derive(Debug, Default)]
pub struct SequenceBook {
    counters: FxHashMap<u32, Counter>,
    /// Reserved since they were last taken; to be logged before anything that used them, whatever
    /// becomes of the transaction that did.
    advances: Vec<Moved>,
    /// Steps of sequences that are the open transaction's; logged with it, or not at all.
    of_transaction: Vec<Moved>,
    /// What RESTART has changed since the last commit, oldest first.
    restarted: Vec<Restarted>,
    /// Some counter may be [`Counter::is_transactions`].
    has_transactions: bool,
}

/// A sequence as it was before a RESTART.
#[derive(Debug)]
struct Restarted {
    id: u32,
    counter: Counter,
    /// How many steps there were of the transaction's sequences.
    steps: usize,
}

impl SequenceBook {
    fn define(&mut self, definition: &Arc<Sequence>, stored: Option<Advance>, is_new: bool) {
        let (last, called) = stored.map_or((definition.start, false), |stored| {
            (stored.last, stored.called)
        });
        let counter = Counter {
            definition: Arc::clone(definition),
            last,
            called,
            reserved: None,
            noted: stored,
            is_transactions: is_new,
        };
        self.has_transactions |= is_new;
        self.counters.insert(definition.id, counter);
    }

    /// To be logged: what the sequence `id` has come to.
    fn note(&mut self, id: u32, last: i64, called: bool) {
        let Some(counter) = self.counters.get_mut(&id) else {
            return;
        };
        let after = Advance { id, last, called };
        let before = counter.noted.replace(after);
        let steps = match counter.is_transactions {
            true => &mut self.of_transaction,
            false => &mut self.advances,
        };
        steps.push(Moved { before, after });
    }

    /// nextval.
    ///
    /// # Errors
    /// 2200H at its end, 42P01 if there is none.
    pub fn next(&mut self, id: u32) -> Result<i64, SqlError> {
        let counter = self.counters.get_mut(&id).ok_or_else(|| unknown(id))?;
        let next = counter.following()?;
        let increment = counter.definition.increment;
        let ahead = |from: i64, to: i64| {
            if increment > 0 {
                from <= to
            } else {
                from >= to
            }
        };
        if counter.called && !ahead(counter.last, next) {
            // A cycle began again: what was reserved is behind.
            counter.reserved = None;
        }
        let is_reserved = counter
            .reserved
            .is_some_and(|reserved| ahead(next, reserved));
        (counter.last, counter.called) = (next, true);
        if !is_reserved {
            let reach = next.saturating_add(increment.saturating_mul(BLOCK - 1));
            let reserved = reach.clamp(counter.definition.min, counter.definition.max);
            // Only whole steps, so that the numbers after a restart keep their rhythm.
            let reserved = next + (reserved - next) / increment * increment;
            counter.reserved = Some(reserved);
            self.note(id, reserved, true);
        }
        Ok(next)
    }

    /// The last number handed out, or, not called yet, the first that will be; whether it is called.
    pub fn at(&self, id: u32) -> Option<(i64, bool)> {
        let counter = self.counters.get(&id)?;
        Some((counter.last, counter.called))
    }

    /// setval.
    ///
    /// # Errors
    /// 22003 outside the sequence's bounds, 42P01 if there is none.
    pub fn set(&mut self, id: u32, value: i64, called: bool) -> Result<(), SqlError> {
        let counter = self.counters.get_mut(&id).ok_or_else(|| unknown(id))?;
        let definition = &counter.definition;
        if value < definition.min || value > definition.max {
            return Err(SqlError::new(
                ErrorCode::NumericOutOfRange,
                format!(
                    "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                    definition.name.name, definition.min, definition.max
                ),
            ));
        }
        counter.last = value;
        counter.called = called;
        counter.reserved = None;
        self.note(id, value, called);
        Ok(())
    }

    /// The first number again, as TRUNCATE … RESTART IDENTITY has it. Unlike all else that happens to
    /// a sequence it is undone with its transaction.
    pub fn restart(&mut self, id: u32) {
        if let Some(start) = self
            .counters
            .get(&id)
            .map(|counter| counter.definition.start)
        {
            self.restart_at(id, start);
        }
    }

    /// `next` is the next number, as ALTER SEQUENCE … RESTART has it; undone with its transaction.
    pub fn restart_at(&mut self, id: u32, next: i64) {
        if let Some(counter) = self.counters.get_mut(&id) {
            self.restarted.push(Restarted {
                id,
                counter: counter.clone(),
                steps: self.of_transaction.len(),
            });
            counter.last = next;
            counter.called = false;
            counter.reserved = None;
            counter.is_transactions = true;
            self.has_transactions = true;
            self.note(id, next, false);
        }
    }

    /// A place to undo restarts back to.
    pub fn mark(&self) -> usize {
        self.restarted.len()
    }

    /// Undoes the restarts since `mark`, newest first, and what has been drawn since from what they
    /// restarted.
    pub fn undo_restarts(&mut self, mark: usize) {
        while self.restarted.len() > mark
            && let Some(Restarted { id, counter, steps }) = self.restarted.pop()
        {
            let mut place = 0;
            self.of_transaction.retain(|moved| {
                place += 1;
                place <= steps || moved.after.id != id
            });
            if let Some(now) = self.counters.get_mut(&id) {
                let definition = Arc::clone(&now.definition);
                *now = Counter {
                    definition,
                    ..counter
                };
            }
        }
    }

    /// The transaction has been committed.
    pub fn keep_restarts(&mut self) {
        self.restarted.clear();
        if std::mem::take(&mut self.has_transactions) {
            for counter in self.counters.values_mut() {
                counter.is_transactions = false;
            }
        }
    }

    /// What has been reserved since the last call, oldest first, of sequences that `catalog` has.
    pub fn take_advances(&mut self, catalog: &Catalog) -> Vec<Moved> {
        let mut advances = std::mem::take(&mut self.advances);
        advances.retain(|moved| catalog.sequences.contains_key(&moved.after.id));
        advances
    }

    /// What is to be logged as a part of the open transaction, which ends, oldest first.
    pub fn take_of_transaction(&mut self, catalog: &Catalog) -> Vec<Moved> {
        let mut steps = std::mem::take(&mut self.of_transaction);
        steps.retain(|moved| catalog.sequences.contains_key(&moved.after.id));
        steps
    }

    /// Puts back what could not be logged; it is logged with what comes next.
    pub fn give_back(&mut self, mut advances: Vec<Moved>) {
        advances.append(&mut self.advances);
        self.advances = advances;
    }

    /// Adds, redefines and forgets until the sequences are those of `catalog`, and those of `kept`,
    /// which may come back: numbers drawn from them in a transaction that drops them stay drawn
    /// when it is rolled back. What is in memory goes before what is `stored`. Those that are not
    /// `committed` are the open transaction's.
    pub fn follow(
        &mut self,
        catalog: &Catalog,
        committed: &Catalog,
        kept: &[&Catalog],
        stored: &FxHashMap<u32, Advance>,
    ) {
        let is_known = |id: &u32| {
            let mut all = [catalog, committed].into_iter().chain(kept.iter().copied());
            all.any(|catalog| catalog.sequences.contains_key(id))
        };
        self.counters.retain(|id, _| is_known(id));
        // The id of one that never was may be given to another.
        self.advances.retain(|moved| is_known(&moved.after.id));
        self.of_transaction
            .retain(|moved| is_known(&moved.after.id));
        for (id, definition) in &catalog.sequences {
            match self.counters.get_mut(id) {
                Some(counter) => counter.definition = Arc::clone(definition),
                None => {
                    let is_new = !committed.sequences.contains_key(id);
                    self.define(definition, stored.get(id).copied(), is_new);
                }
            }
        }
    }
}

impl Counter {
    fn following(&self) -> Result<i64, SqlError> {
        if !self.called {
            return Ok(self.last);
        }
        let definition = &self.definition;
        let next = self.last.checked_add(definition.increment);
        match next {
            Some(next) if next >= definition.min && next <= definition.max => Ok(next),
            _ if definition.cycle => Ok(if definition.increment > 0 {
                definition.min
            } else {
                definition.max
            }),
            _ => {
                let (word, bound) = if definition.increment > 0 {
                    ("maximum", definition.max)
                } else {
                    ("minimum", definition.min)
                };
                Err(SqlError::new(
                    ErrorCode::SequenceLimit,
                    format!(
                        "nextval: reached {word} value of sequence \"{}\" ({bound})",
                        definition.name.name
                    ),
                ))
            }
        }
    }
}

fn unknown(id: u32) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedTable,
        format!("sequence {id} does not exist"),
    )
}
