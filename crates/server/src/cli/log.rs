//! `springhead log`: looks at the log of a server that is not running, with the checks that a start
//! makes and those that it has no time for. Changes nothing.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Value, json};
use springhead_log::CommitSlice;
use springhead_log::disk::RealDisk;
use springhead_log::segment::{self, DumpItem, VerifyReport};
use springhead_proto::{Changes, Lsn, RowRef, ValueRef};

use super::{CliError, EXIT_CODES, Progress, local_config};
use crate::lock::DataDir;

#[derive(Debug, clap::Subcommand)]
pub enum LogCommand {
    /// Reads the whole log and checks every checksum, link and count
    #[command(after_help = EXIT_CODES)]
    Verify {
        #[command(flatten)]
        place: Place,
        /// The report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Prints segments, frames, commits and changes
    Dump {
        #[command(flatten)]
        place: Place,
        /// The first LSN of interest
        #[arg(long, value_name = "LSN", default_value_t = 1)]
        from: u64,
        /// The last LSN of interest
        #[arg(long, value_name = "LSN", default_value_t = u64::MAX)]
        to: u64,
        /// One JSON object per change, and nothing else
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// The data directory [default: as `serve` would choose it]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
}

/// Runs one of them.
///
/// # Errors
/// [`CliError`].
pub fn run(command: &LogCommand) -> Result<(), CliError> {
    match command {
        LogCommand::Verify { place, json } => verify(&place.lock()?, *json),
        LogCommand::Dump {
            place,
            from,
            to,
            json,
        } => dump(&place.lock()?, Lsn(*from), Lsn(*to), *json),
    }
}

impl Place {
    /// Kept locked while it is read, so that nothing is trimmed under the reader.
    fn lock(&self) -> Result<DataDir, CliError> {
        let config = local_config(self.data_dir.as_ref())?;
        Ok(DataDir::open(&config.data_dir)?)
    }
}

fn verify(data_dir: &DataDir, json: bool) -> Result<(), CliError> {
    let progress = Progress::new("verifying the log");
    let report = segment::verify(&RealDisk, &data_dir.log_dir(), &progress)?;
    drop(progress);
    if json {
        println!("{}", report_json(&report));
    } else {
        print_report(&report);
    }
    match report.problems.len() {
        0 => Ok(()),
        count => Err(CliError::Damaged(format!(
            "the log is damaged in {count} place{}",
            if count == 1 { "" } else { "s" }
        ))),
    }
}

fn print_report(report: &VerifyReport) {
    println!("cluster {:032x}", report.cluster_id);
    for epoch in &report.epochs {
        println!(
            "epoch {} number {} forked at LSN {}",
            epoch.epoch, epoch.number, epoch.fork_lsn
        );
    }
    for segment in &report.segments {
        println!(
            "{} epoch {} LSN {}..{} bytes {} frames {} commits {} changes {}{}{}",
            segment.file.file_name().unwrap_or_default().display(),
            segment.epoch,
            segment.first_lsn,
            segment.next_lsn,
            segment.bytes,
            segment.frames,
            segment.commits,
            segment.changes,
            if segment.compressed {
                " compressed"
            } else {
                ""
            },
            if segment.indexed { " indexed" } else { "" },
        );
    }
    if let Some(cut) = &report.torn_tail {
        println!(
            "torn write at the end: {} at byte {}: {}; the next start cuts it off",
            cut.file.display(),
            cut.offset,
            cut.what
        );
    }
    for problem in &report.problems {
        println!("damage: {problem}");
    }
    if report.problems.is_empty() {
        println!(
            "sound: {} changes in {} segments",
            changes(report),
            report.segments.len()
        );
    }
}

fn changes(report: &VerifyReport) -> u64 {
    report.segments.iter().map(|segment| segment.changes).sum()
}

fn report_json(report: &VerifyReport) -> Value {
    let epochs: Vec<_> = report
        .epochs
        .iter()
        .map(|epoch| json!({"epoch": epoch.epoch.to_string(), "number": epoch.number, "fork_lsn": epoch.fork_lsn.0}))
        .collect();
    let segments: Vec<_> = report
        .segments
        .iter()
        .map(|segment| {
            json!({
                "file": segment.file.display().to_string(),
                "number": segment.number,
                "epoch": segment.epoch.to_string(),
                "first_lsn": segment.first_lsn.0,
                "next_lsn": segment.next_lsn.0,
                "bytes": segment.bytes,
                "frames": segment.frames,
                "commits": segment.commits,
                "changes": segment.changes,
                "compressed": segment.compressed,
                "indexed": segment.indexed,
            })
        })
        .collect();
    let torn_tail = report
        .torn_tail
        .as_ref()
        .map(|cut| json!({"file": cut.file.display().to_string(), "offset": cut.offset, "what": cut.what}));
    let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    json!({
        "cluster_id": format!("{:032x}", report.cluster_id),
        "epochs": epochs,
        "segments": segments,
        "next_lsn": report.next_lsn.0,
        "changes": changes(report),
        "torn_tail": torn_tail,
        "problems": problems,
    })
}

fn dump(data_dir: &DataDir, from: Lsn, to: Lsn, json: bool) -> Result<(), CliError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    segment::dump(&RealDisk, &data_dir.log_dir(), from, to, &mut |item| {
        let shown = show(&mut out, &item, (from, to), json);
        if let Err(error) = shown {
            failed = Some(error);
        }
        failed.is_none()
    })?;
    match failed {
        Some(error) => Err(error),
        None => out.flush().map_err(CliError::Output),
    }
}

fn show(
    out: &mut impl Write,
    item: &DumpItem,
    range: (Lsn, Lsn),
    json: bool,
) -> Result<(), CliError> {
    if let DumpItem::Commit(slice) = item {
        return show_commit(out, slice, range, json);
    }
    if json {
        return Ok(());
    }
    let written = match item {
        DumpItem::Segment {
            file,
            number,
            epoch,
            first_lsn,
            created_ms,
        } => {
            writeln!(
                out,
                "segment {} number {number} epoch {epoch} first LSN {first_lsn} created {created_ms} ms",
                file.display()
            )
        }
        DumpItem::Frame {
            offset,
            bytes,
            first_lsn,
            count,
            commits,
            timestamp_ms,
            durable_lsn,
            part,
            end,
            crc,
        } => writeln!(
            out,
            "  frame at {offset} bytes {bytes} LSN {first_lsn} count {count} commits {commits} time {} ms durable {durable_lsn} crc {crc:08x}{}{}",
            timestamp_ms.0,
            if *part { " part" } else { "" },
            if *part && *end { " end" } else { "" },
        ),
        DumpItem::End { file, offset, what } => {
            writeln!(out, "end of {} at {offset}: {what}", file.display())
        }
        DumpItem::Commit(_) => Ok(()),
    };
    written.map_err(CliError::Output)
}

fn show_commit(
    out: &mut impl Write,
    slice: &CommitSlice,
    (from, to): (Lsn, Lsn),
    json: bool,
) -> Result<(), CliError> {
    if !json {
        writeln!(
            out,
            "    commit LSN {} count {} tenant {} changes {}..{}",
            slice.commit_lsn,
            slice.commit_count,
            slice.tenant,
            slice.first_lsn(),
            slice.last_lsn(),
        )
        .map_err(CliError::Output)?;
    }
    let mut lsn = slice.first_lsn();
    for change in Changes::new(&slice.changes) {
        let change = change.map_err(|error| CliError::Damaged(format!("LSN {lsn}: {error}")))?;
        if (from..=to).contains(&lsn) {
            let kind = change.kind.operation().unwrap_or("SEQUENCE");
            let (before, after) = (change.before.map(row_json), change.after.map(row_json));
            let written = if json {
                let change = json!({
                    "lsn": lsn.0,
                    "cursor": format!("{lsn}@{}", slice.epoch),
                    "timestamp_ms": slice.timestamp_ms.0,
                    "tenant_id": slice.tenant.0,
                    "collection_id": change.collection.0,
                    "schema_version": change.schema_version.0,
                    "operation": kind,
                    "before": before,
                    "after": after,
                });
                writeln!(out, "{change}")
            } else {
                let row = |row: Option<Value>| row.unwrap_or_default();
                writeln!(
                    out,
                    "      {lsn} {kind} collection {} version {} {} -> {}",
                    change.collection,
                    change.schema_version.0,
                    row(before),
                    row(after)
                )
            };
            written.map_err(CliError::Output)?;
        }
        lsn = lsn.next();
    }
    Ok(())
}

/// Values as they are stored: without the catalog nobody knows their types. Blobs in hexadecimal.
fn row_json(row: RowRef<'_>) -> Value {
    row.values()
        .map(|value| match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(value) => value.into(),
            ValueRef::Real(value) => serde_json::Number::from_f64(value)
                .map_or_else(|| value.to_string().into(), Value::Number),
            ValueRef::Text(value) => value.into(),
            ValueRef::Blob(bytes) => {
                use std::fmt::Write;
                let mut text = "\\x".to_owned();
                for byte in bytes {
                    write!(text, "{byte:02x}").expect("writing to a string does not fail");
                }
                text.into()
            }
        })
        .collect()
}
