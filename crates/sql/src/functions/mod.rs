//! What PostgreSQL's operators, functions, aggregates and casts become in SQLite.
//!
//! Two halves, for two callers. The planner resolves a call with [`signatures`], [`operators`] and
//! [`cast`], and writes what their [`Emit`] says. The engine registers [`scalars`] and
//! [`aggregates`], whose names start with `sh_`, into each SQLite connection; they work on storage
//! forms ([`crate::types`]) and know nothing of SQLite's API.
//!
//! A function that fails returns its [`SqlError`]; the engine keeps it beside the connection and
//! makes SQLite fail, so that the user gets this error and not SQLite's text. None panics, and each
//! bounds what it allocates by [`MAX_RESULT_BYTES`].

mod aggregates;
mod casts;
mod catalog;
mod digest;
mod json;
mod numbers;
mod overlaps;
pub(crate) mod postgresql;
mod regexes;
pub mod rowset;
mod signature;
mod strings;
mod support;
mod time_fields;
mod times;
mod to_char;
mod transcendental;
mod values;
mod zones;

use springhead_proto::{SqlError, Value, ValueRef};

pub(crate) use aggregates::rows::ROW_AS_JSON;
pub use casts::{Cast, CastContext, assign, cast};
pub use catalog::{all_operators, all_signatures, operators, signatures};
pub use signature::{ArgType, Class, Emit, ResultType, Signature, Volatility};
pub use strings::quote_ident;

/// The most bytes that one function call may produce; more is refused (54000).
pub const MAX_RESULT_BYTES: usize = 256 << 20;

/// A scalar function to register in SQLite.
#[derive(Clone, Copy)]
pub struct Scalar {
    /// Starts with `sh_`.
    pub name: &'static str,
    /// How many arguments; -1 for any number.
    pub args: i32,
    /// Same arguments, same result: may be used in indexes, checks and generated columns.
    pub deterministic: bool,
    pub call: fn(&[ValueRef<'_>]) -> Result<Value, SqlError>,
}

/// An aggregate function to register in SQLite, as a window function too.
#[derive(Clone, Copy)]
pub struct Aggregate {
    /// Starts with `sh_`.
    pub name: &'static str,
    /// How many arguments; -1 for any number.
    pub args: i32,
    /// A state that has seen no row yet.
    pub start: fn() -> Box<dyn AggregateState>,
}

/// What an aggregate has seen so far.
pub trait AggregateState: Send {
    /// Takes one more row.
    ///
    /// # Errors
    /// When the result overflows or an argument is not acceptable.
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError>;

    /// Takes back the oldest row that was given to [`AggregateState::step`] and not yet taken back
    /// (a window's frame moved on); `args` are that row's.
    ///
    /// # Errors
    /// As for [`AggregateState::step`].
    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError>;

    /// The result over the rows now held; may be called many times.
    ///
    /// # Errors
    /// When the result is not representable.
    fn finish(&self) -> Result<Value, SqlError>;
}

/// Every scalar function.
#[must_use]
pub fn scalars() -> Vec<Scalar> {
    [
        values::SCALARS,
        numbers::SCALARS,
        strings::SCALARS,
        regexes::SCALARS,
        digest::SCALARS,
        times::SCALARS,
        overlaps::SCALARS,
        json::SCALARS,
        rowset::SCALARS,
        crate::query::runtime::SCALARS,
    ]
    .concat()
}

/// Every aggregate function.
#[must_use]
pub fn aggregates() -> Vec<Aggregate> {
    [
        aggregates::sums::AGGREGATES,
        aggregates::spread::AGGREGATES,
        aggregates::rows::AGGREGATES,
        rowset::AGGREGATES,
    ]
    .concat()
}
