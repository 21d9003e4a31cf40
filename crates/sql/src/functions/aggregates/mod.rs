//! Aggregates, each usable over a moving window frame too.
//!
//! NULLs are skipped as PostgreSQL does, and over no rows the result is NULL (but for `count`,
//! which is SQLite's own). Sums and averages of integers and numerics are exact.

pub(super) mod rows;
pub(super) mod spread;
pub(super) mod sums;
