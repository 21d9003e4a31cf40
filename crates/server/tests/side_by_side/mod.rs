//! What the tests share that run Springhead and PostgreSQL 15 side by side.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use springhead_sim::client::pg::PgClient;
use springhead_sim::postgres::Postgres;

/// The script (`CHINOOK_SQL`, or beside the repository), or why the test is skipped.
pub fn script() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the root");
    let script = std::env::var_os("CHINOOK_SQL").map_or_else(
        || root.join("../shared/data/chinook_postgresql.sql"),
        PathBuf::from,
    );
    if !script.is_file() {
        println!("skipped: {} is not here", script.display());
        return None;
    }
    script.canonicalize().ok()
}

pub fn psql(port: u16, database: &str, args: &[&str]) -> Output {
    let mut command = Command::new("psql");
    command.args(["-X", "-h", "127.0.0.1", "-U", "postgres", "-d", database]);
    command
        .args(["-p", &port.to_string(), "-v", "ON_ERROR_STOP=1"])
        .args(args);
    command
        .stdin(Stdio::null())
        .output()
        .expect("psql is installed: cargo xtask test does it")
}

pub fn load(port: u16, script: &Path) {
    let done = psql(
        port,
        "postgres",
        &["-q", "-f", &script.display().to_string()],
    );
    let said = String::from_utf8_lossy(&done.stderr);
    // PostgreSQL says a NOTICE where there is no database to drop.
    let complains = said.lines().any(|line| !line.contains("NOTICE"));
    assert!(
        done.status.success() && !complains,
        "psql -f: {}: {said:.2000}",
        done.status
    );
}

/// A connection of PostgreSQL's superuser to one of its databases, at UTC.
pub fn connect(postgres: &Postgres, database: &str) -> PgClient {
    let mut client =
        PgClient::connect_as(postgres.ports.pg, "postgres", database).expect("PostgreSQL answers");
    client.query("SET timezone = 'UTC'").expect("a setting");
    client
}
