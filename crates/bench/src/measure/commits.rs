//! Durable single-row inserts per second: pgbench is the client of both servers, each statement is
//! a transaction of its own, and the reply comes after the flush.

use std::path::Path;
use std::process::Command;

use crate::error::{BenchError, Doing, Result};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::Rig;
use crate::stats::{Samples, float};
use crate::systems::{Kind, Server, Systems};

/// # Errors
/// When a server or pgbench fails.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.note("commits: pgbench -n -M simple over TCP loopback, one INSERT (bigserial key, two bigints, 40 bytes of text) per transaction with random literals; the table is new in every turn; a second of warm-up is not counted; pgbench shares the cores with the server");
    let places = systems
        .kinds()
        .iter()
        .map(|kind| systems.place(*kind, "commits"))
        .collect::<Result<Vec<_>>>()?;
    for round in 0..options.rounds {
        for &clients in &options.clients {
            for place in &places {
                let server = systems.start(place, &[])?;
                let table = format!("payments_{round}_{clients}");
                let turn = turn(systems.rig(), &server, &table, clients, options.seconds)?;
                record(report, place.kind(), clients, turn);
                server.stop()?;
            }
        }
    }
    places
        .into_iter()
        .try_for_each(crate::systems::Place::remove)
}

struct Turn {
    commits: f64,
    per_second: f64,
    latency: Samples,
    flushes: f64,
    cpu_seconds: f64,
}

fn turn(rig: &Rig, server: &Server, table: &str, clients: usize, seconds: u64) -> Result<Turn> {
    let mut client = server.client()?;
    let script = prepare(rig, &mut client, table)?;
    drop(client);
    pgbench(rig, server, &script, clients, Amount::Seconds(1))?;
    let (flushes, cpu_seconds) = (server.flushes()?, server.cpu_seconds());
    let run = pgbench(rig, server, &script, clients, Amount::Seconds(seconds))?;
    let (flushes, cpu_seconds) = (
        server.flushes()? - flushes,
        server.cpu_seconds() - cpu_seconds,
    );
    let rows = server
        .client()?
        .number(&format!("SELECT count(*) FROM {table}"))?;
    if rows < run.commits {
        return Err(BenchError::Invalid(format!(
            "{}: {} commits were answered but {rows} rows are there",
            server.kind(),
            run.commits
        )));
    }
    Ok(Turn {
        commits: run.commits,
        per_second: run.per_second,
        latency: run.latency,
        flushes,
        cpu_seconds,
    })
}

fn record(report: &mut Report, kind: Kind, clients: usize, mut turn: Turn) {
    let name = if clients == 1 {
        "1 client".to_owned()
    } else {
        format!("{clients} clients")
    };
    let mut rate = Point::new("commits", name.clone(), "commits/s", Better::Higher);
    if clients == 1 {
        rate = rate.aim(Aim::Ratio(0.8));
    } else if clients >= 32 {
        rate = rate.aim(Aim::Ratio(2.0));
    }
    report.record(rate, kind, "", turn.per_second);
    for (per_mille, label) in [(500, "p50"), (990, "p99")] {
        let point = Point::new(
            "commits",
            format!("{name}, latency {label}"),
            "ms",
            Better::Lower,
        );
        report.record(point, kind, "", turn.latency.per_mille_ms(per_mille));
    }
    let mut flushes = Point::new(
        "commits",
        format!("{name}, flushes per commit"),
        "",
        Better::Lower,
    );
    if clients == 32 {
        flushes = flushes.aim(Aim::AtMost(0.25));
    }
    report.record(flushes, kind, "", turn.flushes / turn.commits);
    let cpu = Point::new(
        "commits",
        format!("{name}, server CPU per commit"),
        "µs",
        Better::Lower,
    );
    report.record(cpu, kind, "", 1e6 * turn.cpu_seconds / turn.commits);
}

/// Makes the table and the script that fills it.
///
/// # Errors
/// What the server or the disk says.
pub fn prepare(
    rig: &Rig,
    client: &mut crate::wire::Client,
    table: &str,
) -> Result<std::path::PathBuf> {
    client.run(&format!("CREATE TABLE {table} (id bigserial PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL, note text NOT NULL)"))?;
    let script = rig.root().join("insert.sql");
    let text = format!(
        "\\set account random(1, 1000000)\n\\set amount random(1, 100000)\nINSERT INTO {table} (account, amount, note) VALUES (:account, :amount, '{}');\n",
        PAYMENT_NOTE
    );
    std::fs::write(&script, text).doing("writing pgbench's script")?;
    Ok(script)
}

/// Forty bytes.
pub const PAYMENT_NOTE: &str = "forty bytes of text, as in a usual row..";

/// When pgbench stops.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    Seconds(u64),
    /// Transactions of each client.
    Transactions(u64),
}

/// What pgbench found.
#[derive(Debug)]
pub struct Run {
    pub commits: f64,
    pub per_second: f64,
    pub latency: Samples,
}

/// # Errors
/// When pgbench fails, or any of its transactions did.
pub fn pgbench(
    rig: &Rig,
    server: &Server,
    script: &Path,
    clients: usize,
    amount: Amount,
) -> Result<Run> {
    pgbench_with(rig, server, script, clients, amount, "")
}

/// As [`pgbench`], with settings for its connections (`-c name=value`).
///
/// # Errors
/// As [`pgbench`].
pub fn pgbench_with(
    rig: &Rig,
    server: &Server,
    script: &Path,
    clients: usize,
    amount: Amount,
    settings: &str,
) -> Result<Run> {
    let logs = tempfile::tempdir_in(rig.root()).doing("making a directory for pgbench's log")?;
    let mut command = Command::new("pgbench");
    command
        .env("PGOPTIONS", settings)
        .current_dir(logs.path())
        .args([
            "-n",
            "-M",
            "simple",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-l",
            "-f",
        ])
        .arg(script);
    command.args([
        "-p",
        &server.sql().port().to_string(),
        "-c",
        &clients.to_string(),
        "-j",
        &clients.min(2).to_string(),
    ]);
    match amount {
        Amount::Seconds(seconds) => command.args(["-T", &seconds.to_string()]),
        Amount::Transactions(count) => command.args(["-t", &count.to_string()]),
    };
    let output = rig.output(command.arg("postgres"))?;
    let invalid = || BenchError::Invalid(format!("pgbench said: {output}"));
    let per_second = after(&output, "tps = ").ok_or_else(invalid)?;
    let commits =
        after(&output, "number of transactions actually processed: ").ok_or_else(invalid)?;
    if after(&output, "number of failed transactions: ") != Some(0.0) || commits == 0.0 {
        return Err(invalid());
    }
    let latency = read_log(logs.path())?;
    if latency.len() != 0 && float(latency.len() as u64) < commits {
        return Err(BenchError::Invalid(format!(
            "pgbench logged {} of {commits} transactions",
            latency.len()
        )));
    }
    Ok(Run {
        commits,
        per_second,
        latency,
    })
}

fn after(text: &str, mark: &str) -> Option<f64> {
    let rest = &text[text.find(mark)? + mark.len()..];
    rest.split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?
        .parse()
        .ok()
}

/// pgbench's log: `client transaction time_us …`, a file per thread.
fn read_log(directory: &Path) -> Result<Samples> {
    let mut samples = Samples::default();
    for entry in std::fs::read_dir(directory).doing("reading pgbench's log")? {
        let text = std::fs::read_to_string(entry.doing("reading pgbench's log")?.path())
            .doing("reading pgbench's log")?;
        for micros in text
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        {
            samples.add(micros * 1000);
        }
    }
    Ok(samples)
}
