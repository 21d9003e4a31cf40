//! Backups and restores: to any LSN and time against an oracle that replayed to it, of a server under
//! load, over kills and damage, and as the run-books say.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod books;
mod kills;
mod oracle;
mod points;
mod server;
