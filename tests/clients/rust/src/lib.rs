//! What the tests of PostgreSQL's Rust drivers share: the real server with users and TLS, and the TLS
//! that `tokio-postgres` leaves to its users. Called by `tests/drivers`; knows no driver's tests.

pub mod server;
pub mod tls;

/// Runs until it is cancelled.
pub const ENDLESS: &str = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) \
    SELECT count(*) FROM r WHERE n < 0";
