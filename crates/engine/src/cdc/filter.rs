//! Evaluates `where=` conditions on row images: planned by the SQL planner, so they mean what they
//! mean in a SELECT, and run by SQLite on a connection that holds no data.
//!
//! A few connections serve all feeds; each keeps the statements of the filters used last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef as SqliteRef};
use springhead_log::Clock;
use springhead_proto::{CollectionId, ErrorCode, RowRef, SchemaVersion, SqlError};
use springhead_sql::plan::Filter;

use super::judged::Judged;
use crate::Entropy;
use crate::functions::{self, Context, SessionContext, to_sqlite};

/// Limits on filters.
#[derive(Debug, Clone, Copy)]
pub struct FilterLimits {
    /// Longest condition.
    pub max_bytes: usize,
    /// SQLite instructions that one evaluation may take.
    pub max_instructions: u32,
    /// Milliseconds that one evaluation may take, functions included.
    pub max_ms: u64,
    /// Longest value that a condition may make.
    pub max_value_bytes: usize,
    /// Prepared conditions kept per connection.
    pub statements: usize,
}

impl Default for FilterLimits {
    fn default() -> FilterLimits {
        FilterLimits {
            max_bytes: 8 << 10,
            max_instructions: 1_000_000,
            max_ms: 500,
            max_value_bytes: 64 << 20,
            statements: 256,
        }
    }
}

/// A condition, and where in the images of one schema version the values are that it looks at.
#[derive(Debug)]
pub(crate) struct BoundFilter {
    pub filter: Arc<Filter>,
    /// Parameter number, and the place in an image; `None` for a column that this version lacks.
    pub places: Box<[(usize, Option<usize>)]>,
}

/// The connections that evaluate filters.
pub(crate) struct Filters {
    clock: Arc<dyn Clock>,
    pub limits: FilterLimits,
    idle: Mutex<Vec<Evaluator>>,
}

/// Connections kept when idle; more are made and dropped while many threads evaluate at once.
const IDLE_CONNECTIONS: usize = 8;

/// SQLite's instructions between two looks at the budget.
const CHECK_INSTRUCTIONS: i32 = 1000;

struct Evaluator {
    conn: Connection,
    context: Arc<Context>,
    /// Looks at the budget that are left to the evaluation that runs.
    checks_left: Arc<AtomicU32>,
}

/// An evaluator on loan.
pub(crate) struct Lease<'a> {
    filters: &'a Filters,
    evaluator: Option<Evaluator>,
    /// What has been judged for a plan whose policies look at other tables.
    judged: Option<(u64, &'a Judged)>,
}

/// Filters get no randomness: the planner admits no function that would ask for it.
struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

impl Filters {
    pub(crate) fn new(clock: Arc<dyn Clock>, limits: FilterLimits) -> Filters {
        Filters {
            clock,
            limits,
            idle: Mutex::default(),
        }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// An evaluator, for one stretch of rows.
    pub(crate) fn lease<'a>(
        &'a self,
        session: Option<&Arc<SessionContext>>,
        judged: Option<(u64, &'a Judged)>,
    ) -> Result<Lease<'a>, SqlError> {
        let idle = self.idle.lock().pop();
        let evaluator = match idle {
            Some(evaluator) => evaluator,
            None => self.open().map_err(|error| {
                SqlError::new(
                    ErrorCode::Internal,
                    format!("no connection for filters: {error}"),
                )
            })?,
        };
        if let Some(session) = session {
            // Conditions see the time at which they are evaluated.
            session
                .now_us
                .store(functions::now_us(&*self.clock), Ordering::Relaxed);
            evaluator.context.enter(session, &Arc::default());
        }
        Ok(Lease {
            filters: self,
            evaluator: Some(evaluator),
            judged,
        })
    }

    fn open(&self) -> rusqlite::Result<Evaluator> {
        let mut conn = Connection::open_in_memory()?;
        let context = Context::new(Arc::clone(&self.clock), Arc::new(NoEntropy), None);
        functions::register(&mut conn, &context)?;
        conn.set_prepared_statement_cache_capacity(self.limits.statements);
        let longest = i32::try_from(self.limits.max_value_bytes).unwrap_or(i32::MAX);
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest)?;
        let checks_left = Arc::new(AtomicU32::new(0));
        let left = Arc::clone(&checks_left);
        conn.progress_handler(
            CHECK_INSTRUCTIONS,
            Some(move || {
                let before = left.load(Ordering::Relaxed);
                left.store(before.saturating_sub(1), Ordering::Relaxed);
                before == 0
            }),
        )?;
        Ok(Evaluator {
            conn,
            context,
            checks_left,
        })
    }
}

impl Lease<'_> {
    /// What policies that look at other tables say of a row.
    ///
    /// # Errors
    /// XX000 if it has not been judged; [`super::render::Renderer::slice`] stops before it gets there.
    pub(crate) fn judged(
        &self,
        collection: CollectionId,
        version: SchemaVersion,
        row: RowRef<'_>,
    ) -> Result<bool, SqlError> {
        self.verdict(collection, version, row).ok_or_else(|| {
            SqlError::new(
                ErrorCode::ObjectNotInState,
                "rights have changed while rows were being sent",
            )
            .with_hint("ask again")
        })
    }

    /// As [`Lease::judged`]; `None` if it has not been judged.
    pub(crate) fn verdict(
        &self,
        collection: CollectionId,
        version: SchemaVersion,
        row: RowRef<'_>,
    ) -> Option<bool> {
        let (plan_id, judged) = self.judged?;
        judged.verdict(plan_id, collection, version, row)
    }

    /// Whether the condition is true of the row: not false and not NULL.
    ///
    /// # Errors
    /// What SELECT would answer for that row (22012, 22P02, …); 54001 past the budget.
    pub(crate) fn matches(&self, bound: &BoundFilter, row: RowRef<'_>) -> Result<bool, SqlError> {
        let evaluator = self
            .evaluator
            .as_ref()
            .expect("taken back only when dropped");
        let limits = &self.filters.limits;
        let checks = limits.max_instructions / CHECK_INSTRUCTIONS.unsigned_abs();
        evaluator
            .checks_left
            .store(checks.max(1), Ordering::Relaxed);
        let started_ms = self.filters.clock.monotonic_ms();
        let result = evaluate(evaluator, bound, row);
        if self.filters.clock.monotonic_ms().saturating_sub(started_ms) > limits.max_ms {
            return Err(over_budget());
        }
        result.map_err(|error| {
            evaluator
                .context
                .take_error()
                .unwrap_or_else(|| explain(&error))
        })
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(evaluator) = &self.evaluator {
            evaluator.context.leave();
        }
        let mut idle = self.filters.idle.lock();
        if idle.len() < IDLE_CONNECTIONS {
            idle.extend(self.evaluator.take());
        }
    }
}

fn evaluate(evaluator: &Evaluator, bound: &BoundFilter, row: RowRef<'_>) -> rusqlite::Result<bool> {
    let mut statement = evaluator.conn.prepare_cached(&bound.filter.sql)?;
    let known = statement.parameter_count();
    // Values in the order of the image, so that the row is walked once at most per column.
    for &(number, place) in &bound.places {
        if number > known {
            continue;
        }
        let value = place
            .and_then(|place| row.get(place))
            .map_or(SqliteRef::Null, to_sqlite);
        statement.raw_bind_parameter(number, ToSqlOutput::Borrowed(value))?;
    }
    let mut rows = statement.raw_query();
    let verdict = match rows.next()? {
        Some(row) => row.get_ref(0)?,
        None => return Ok(false),
    };
    Ok(match verdict {
        SqliteRef::Integer(value) => value != 0,
        SqliteRef::Real(value) => value != 0.0,
        SqliteRef::Null | SqliteRef::Text(_) | SqliteRef::Blob(_) => false,
    })
}

fn over_budget() -> SqlError {
    SqlError::new(
        ErrorCode::TooComplex,
        "the condition in where takes too long on one row",
    )
    .with_hint("simplify it, or filter at the reader")
}

fn explain(error: &rusqlite::Error) -> SqlError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::OperationInterrupted) => over_budget(),
        Some(rusqlite::ErrorCode::TooBig) => SqlError::new(
            ErrorCode::StatementTooLarge,
            "the condition in where makes a value that is too large",
        ),
        _ => SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("the condition in where failed: {error}"),
        ),
    }
}
