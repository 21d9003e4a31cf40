//! Bytes that reach the disk for each byte of user data, over a server's whole life: log, state and
//! the checkpoint at the end, less what an empty server writes. Counted by the disk, since the
//! kernel's account of a process (`write_bytes`) counts whole folios of the page cache, which are far
//! larger than what is then written.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{BenchError, Doing, Result};
use crate::measure::commits::{Amount, PAYMENT_NOTE, pgbench, prepare};
use crate::options::Options;
use crate::report::{Better, Point, Report};
use crate::stats::float;
use crate::systems::{Kind, Systems};

/// # Errors
/// When a server fails.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    let commits = options.changes() / 5;
    let user_bytes = 3 * 8 + PAYMENT_NOTE.len();
    report.note(format!("amplification: bytes that the disk was given (its own counter, after a sync) from a server's start to the end of an orderly stop, less those of a turn without commits; whatever else writes to that disk meanwhile is counted too, over {commits} single-row commits of {user_bytes} bytes of values"));
    for _ in 0..options.rounds {
        for clients in [1, 32] {
            for &kind in systems.kinds() {
                let nothing = written(systems, kind, clients, 0)?;
                let all = written(systems, kind, clients, commits / clients as u64)?;
                let rows = commits / clients as u64 * clients as u64;
                let point = Point::new(
                    "amplification",
                    format!(
                        "bytes written per byte of data, {clients} client{}",
                        if clients == 1 { "" } else { "s" }
                    ),
                    "",
                    Better::Lower,
                );
                report.record(
                    point,
                    kind,
                    "",
                    (all - nothing) / (float(rows) * float(user_bytes as u64)),
                );
            }
        }
    }
    Ok(())
}

fn written(systems: &Systems, kind: Kind, clients: usize, commits_each: u64) -> Result<f64> {
    let place = systems.place(kind, "amplification")?;
    let before = disk_bytes(systems.rig().root())?;
    let server = systems.start(&place, &[])?;
    let script = prepare(systems.rig(), &mut server.client()?, "payments")?;
    if commits_each > 0 {
        pgbench(
            systems.rig(),
            &server,
            &script,
            clients,
            Amount::Transactions(commits_each),
        )?;
    }
    server.stop()?;
    let written = disk_bytes(systems.rig().root())? - before;
    place.remove()?;
    Ok(written)
}

/// Bytes written so far to the disk that `directory` is on, everything dirty first written out.
fn disk_bytes(directory: &Path) -> Result<f64> {
    let device = std::fs::metadata(directory)
        .doing("looking for the disk")?
        .dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    rustix::fs::sync();
    let file = format!("/sys/dev/block/{major}:{minor}/stat");
    let text = std::fs::read_to_string(&file).doing(format!("reading {file}"))?;
    // Sectors of 512 bytes, whatever the disk's own are.
    let sectors: Option<u64> = text
        .split_ascii_whitespace()
        .nth(6)
        .and_then(|field| field.parse().ok());
    sectors
        .map(|sectors| 512.0 * float(sectors))
        .ok_or_else(|| BenchError::Invalid(format!("{file} has no count of sectors written")))
}
