//! One module per measurement. Each takes its turns through [`Systems`] and writes what it found
//! into the [`Report`]; none keeps a server running when it returns.

pub mod amplification;
pub mod bare;
pub mod commits;
pub mod idle;
pub mod latency;
pub mod live;
pub mod log;
pub mod notify;
pub mod recovery;
pub mod replay;
pub mod stalled;
pub mod standby;
pub mod sync;

use crate::error::Result;
use crate::systems::Server;

/// The settings under which PostgreSQL can be decoded logically; everything else is its default.
pub const LOGICAL: [(&str, &str); 1] = [("wal_level", "logical")];

/// The row that bulk loads write: three columns and about 120 bytes.
pub const EVENTS_TABLE: &str =
    "CREATE TABLE events (id bigint PRIMARY KEY, sent_ns bigint NOT NULL, note text NOT NULL)";

/// What fills the `note` column.
pub const NOTE: &str = "a hundred bytes of text, which is about what the rows of a busy table of an application carry around";

/// An insert of `count` rows into `events` from `first_id` on.
#[must_use]
pub fn insert_events(first_id: u64, count: u64, sent_ns: u64) -> String {
    use std::fmt::Write as _;
    let mut sql = "INSERT INTO events (id, sent_ns, note) VALUES ".to_owned();
    for id in first_id..first_id + count {
        let comma = if id == first_id { "" } else { "," };
        let _ = write!(sql, "{comma}({id},{sent_ns},'{NOTE}')");
    }
    sql
}

/// Loads `changes` rows in commits of a thousand.
///
/// # Errors
/// What the server says.
pub fn load_events(server: &Server, changes: u64) -> Result<()> {
    let mut client = server.client()?;
    client.run(EVENTS_TABLE)?;
    for first in (0..changes).step_by(1000) {
        client.run(&insert_events(first, 1000.min(changes - first), 1))?;
    }
    Ok(())
}
