//! How long a server takes to be ready again after a crash, for each GiB of log that it has.

use crate::error::{BenchError, Result};
use crate::http;
use crate::measure::{EVENTS_TABLE, insert_events};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::stats::float;
use crate::systems::{Kind, Server, Systems};

/// So that PostgreSQL has all of its log to redo, like a server that crashed before a checkpoint.
const NO_CHECKPOINT: [(&str, &str); 2] = [("max_wal_size", "64GB"), ("checkpoint_timeout", "1d")];
const GIB: f64 = 1_073_741_824.0;

/// # Errors
/// When a server fails, or rows are missing afterwards.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    let target = if options.quick { 96.0 } else { 768.0 } * 1_048_576.0;
    report.note("recovery: commits of 1,000 rows until the log has the volume, a crash (kill -9; for PostgreSQL its immediate shutdown, since kill -9 would leave its processes running), then the time from start until a statement is answered; PostgreSQL had no checkpoint in between (max_wal_size and checkpoint_timeout raised), so it redoes all of its log; Springhead's state files survive a kill, so it checks its log and replays what they lack; page cache warm for both");
    for _ in 0..options.rounds {
        for &kind in systems.kinds() {
            let place = systems.place(kind, "recovery")?;
            let settings: &[(&str, &str)] = if kind == Kind::Postgres {
                &NO_CHECKPOINT
            } else {
                &[]
            };
            let server = systems.start(&place, settings)?;
            let (rows, bytes) = fill(&server, target)?;
            server.crash()?;
            let server = systems.start(&place, settings)?;
            let seconds = server.started_in().as_secs_f64();
            let found = server.client()?.number("SELECT count(*) FROM events")?;
            if found != float(rows) {
                return Err(BenchError::Invalid(format!(
                    "{kind}: {rows} rows were committed, {found} are there after recovery"
                )));
            }
            let point = Point::new("recovery", "time per GiB of log", "s/GiB", Better::Lower)
                .aim(Aim::Ratio(1.0));
            report.record(point, kind, "", seconds * GIB / bytes);
            report.record(
                Point::new("recovery", "log recovered", "MiB", Better::Lower),
                kind,
                "",
                bytes / 1_048_576.0,
            );
            report.record(
                Point::new("recovery", "log per row", "bytes", Better::Lower),
                kind,
                "",
                bytes / float(rows),
            );
            report.record(
                Point::new("recovery", "time per million rows", "s", Better::Lower),
                kind,
                "",
                seconds * 1e6 / float(rows),
            );
            server.stop()?;
            place.remove()?;
        }
    }
    Ok(())
}

/// Commits until the log has grown by `target` bytes; the rows and bytes it then has.
fn fill(server: &Server, target: f64) -> Result<(u64, f64)> {
    let mut client = server.client()?;
    client.run(EVENTS_TABLE)?;
    let start = match server.kind() {
        Kind::Postgres => {
            client.run("CHECKPOINT")?;
            Some(client.value("SELECT pg_current_wal_lsn()")?)
        }
        Kind::Springhead => None,
    };
    let mut rows = 0;
    loop {
        for _ in 0..50 {
            client.run(&insert_events(rows, 1000, 1))?;
            rows += 1000;
        }
        let bytes = match &start {
            Some(lsn) => client.number(&format!("SELECT pg_current_wal_lsn() - '{lsn}'"))?,
            None => http::metric(server.http()?, "springhead_log_written_bytes_total")?,
        };
        if bytes >= target {
            return Ok((rows, bytes));
        }
    }
}
