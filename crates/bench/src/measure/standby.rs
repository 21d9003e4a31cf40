//! A primary with one streaming standby: commits per second at each `synchronous_commit`, how soon a
//! commit is visible on the standby under load, how fast a standby catches up, how soon a promoted one
//! takes its first write, how fast a base backup is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::commits::{Amount, PAYMENT_NOTE, pgbench_with, prepare};
use super::{EVENTS_TABLE, insert_events};
use crate::error::{BenchError, Result};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::pause;
use crate::stats::{Samples, float};
use crate::systems::{Kind, Place, Server, Systems};
use crate::wire::Client;

const LEVELS: [&str; 4] = ["local", "remote_write", "on", "remote_apply"];
const CLIENTS: usize = 32;
const PATIENCE_SECONDS: u64 = 120;
/// Bytes of user data in a row of `events`.
const ROW_BYTES: f64 = 116.0;

/// # Errors
/// When a server or pgbench fails, or rows are missing.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.note("standby: both with one standby on the same machine and disk, named in synchronous_standby_names / synchronous_standbys; commits by pgbench as in `commits`, 32 clients; visible: one commit after the other on the primary at synchronous_commit = local, each waited for by a reader that asks the standby again and again, with 8 clients of pgbench beside; catch-up: from the start of a standby that was stopped until it has everything, in bytes of rows; promote: the primary is killed, then from the command to the first row inserted; base backup: bytes of the new data directory from the command (pg_basebackup, or the standby's first start) to its end");
    let rows = if options.quick { 50_000 } else { 500_000 };
    for round in 0..options.rounds {
        for &kind in systems.kinds() {
            one(systems, options, report, kind, round, rows)?;
        }
    }
    Ok(())
}

fn one(
    systems: &Systems,
    options: &Options,
    report: &mut Report,
    kind: Kind,
    round: usize,
    rows: u64,
) -> Result<()> {
    let place = systems.place(kind, &format!("primary-{round}"))?;
    let primary = systems.start(&place, waits_for(kind))?;
    // Nothing waits before there is a standby.
    let mut client = local_client(&primary)?;
    client.run(EVENTS_TABLE)?;
    fill(&mut client, 0, rows)?;
    let standby_place = systems.empty_place(kind, &format!("standby-{round}"))?;
    let begun = Instant::now();
    let standby = start_standby(systems, &primary, &standby_place, true)?;
    let took = begun.elapsed().as_secs_f64();
    let point = |what: &str, unit, better| Point::new("standby", what.to_owned(), unit, better);
    let bytes = directory_bytes(&standby_place.data());
    report.record(
        point("base backup", "MB/s", Better::Higher),
        kind,
        "",
        bytes / 1e6 / took,
    );
    wait_visible(&standby, rows)?;
    commits(systems, options, report, &primary, round)?;
    visible(systems, options, report, &primary, &standby)?;

    standby.stop()?;
    fill(&mut client, rows, rows)?;
    let begun = Instant::now();
    let standby = start_standby(systems, &primary, &standby_place, false)?;
    wait_visible(&standby, 2 * rows)?;
    let took = begun.elapsed().as_secs_f64();
    report.record(
        point("catch-up", "MB/s of rows", Better::Higher).aim(Aim::Ratio(1.0)),
        kind,
        "",
        float(rows) * ROW_BYTES / 1e6 / took,
    );
    drop(client);
    primary.crash()?;
    let took = promote(&standby, &standby_place)?;
    report.record(
        point("promote to first write", "ms", Better::Lower).aim(Aim::Ratio(1.0)),
        kind,
        "",
        took.as_secs_f64() * 1e3,
    );
    standby.stop()?;
    place.remove()?;
    standby_place.remove()
}

fn waits_for(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Postgres => &[("synchronous_standby_names", "standby")],
        Kind::Springhead => &[
            ("SPRINGHEAD_SYNCHRONOUS_STANDBYS", "standby"),
            ("SPRINGHEAD_NODE_NAME", "primary"),
        ],
    }
}

/// A client whose commits wait for nobody.
fn local_client(server: &Server) -> Result<Client> {
    let mut client = server.client()?;
    client.run("SET synchronous_commit = local")?;
    Ok(client)
}

fn fill(client: &mut Client, first: u64, rows: u64) -> Result<()> {
    for first in (first..first + rows).step_by(1000) {
        client.run(&insert_events(first, 1000, 1))?;
    }
    Ok(())
}

fn start_standby(
    systems: &Systems,
    primary: &Server,
    place: &Place,
    is_new: bool,
) -> Result<Server> {
    match place.kind() {
        Kind::Postgres => {
            let port = primary.sql().port().to_string();
            if is_new {
                let mut copy = systems.postgres_program("pg_basebackup");
                copy.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"])
                    .args(["-R", "-X", "stream", "-c", "fast", "-D"])
                    .arg(place.data());
                systems.rig().output(&mut copy)?;
            }
            let upstream =
                format!("host=127.0.0.1 port={port} user=postgres application_name=standby");
            systems.start(place, &[("primary_conninfo", &upstream)])
        }
        Kind::Springhead => {
            let upstream = format!("http://{}", primary.http()?);
            systems.start(
                place,
                &[
                    ("SPRINGHEAD_STANDBY_OF", upstream.as_str()),
                    ("SPRINGHEAD_NODE_NAME", "standby"),
                ],
            )
        }
    }
}

fn wait_visible(standby: &Server, rows: u64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
    let mut client = standby.client()?;
    let sql = format!("SELECT count(*) FROM events WHERE id = {}", rows - 1);
    while client.number(&sql)? < 1.0 {
        if Instant::now() > until {
            return Err(BenchError::TimedOut {
                what: format!("{} rows on the standby", rows),
                seconds: PATIENCE_SECONDS,
            });
        }
        pause(Duration::from_millis(1));
    }
    Ok(())
}

fn commits(
    systems: &Systems,
    options: &Options,
    report: &mut Report,
    primary: &Server,
    round: usize,
) -> Result<()> {
    for level in LEVELS {
        let mut client = local_client(primary)?;
        let table = format!("payments_{round}_{level}");
        let script = prepare(systems.rig(), &mut client, &table)?;
        let settings = format!("-c synchronous_commit={level}");
        let run =
            |amount| pgbench_with(systems.rig(), primary, &script, CLIENTS, amount, &settings);
        run(Amount::Seconds(1))?;
        let mut run = run(Amount::Seconds(options.seconds))?;
        let rate = Point::new(
            "standby",
            format!("{level}, {CLIENTS} clients"),
            "commits/s",
            Better::Higher,
        );
        let kind = primary.kind();
        report.record(rate.aim(Aim::Ratio(1.5)), kind, "", run.per_second);
        let latency = Point::new(
            "standby",
            format!("{level}, {CLIENTS} clients, latency p99"),
            "ms",
            Better::Lower,
        );
        report.record(latency, kind, "", run.latency.per_mille_ms(990));
    }
    Ok(())
}

/// How soon a commit of the primary is visible on the standby, under load.
fn visible(
    systems: &Systems,
    options: &Options,
    report: &mut Report,
    primary: &Server,
    standby: &Server,
) -> Result<()> {
    let mut client = local_client(primary)?;
    client.run("CREATE TABLE probes (id bigint PRIMARY KEY)")?;
    let script = prepare(systems.rig(), &mut client, "beside")?;
    let stop = Arc::new(AtomicBool::new(false));
    let probing = {
        let (stop, standby) = (Arc::clone(&stop), standby.sql());
        std::thread::spawn(move || probe(client, standby, &stop))
    };
    let beside = pgbench_with(
        systems.rig(),
        primary,
        &script,
        8,
        Amount::Seconds(options.seconds),
        "-c synchronous_commit=local",
    );
    stop.store(true, Ordering::Release);
    let mut lags = probing
        .join()
        .map_err(|_| BenchError::Invalid("the probe panicked".to_owned()))??;
    beside?;
    for (per_mille, label, aim) in [(500, "p50", None), (990, "p99", Some(Aim::Ratio(1.0)))] {
        let mut point = Point::new(
            "standby",
            format!("commit to visible there, {label}"),
            "ms",
            Better::Lower,
        );
        if let Some(aim) = aim {
            point = point.aim(aim);
        }
        report.record(point, primary.kind(), "", lags.per_mille_ms(per_mille));
    }
    Ok(())
}

fn probe(mut primary: Client, standby: SocketAddr, stop: &AtomicBool) -> Result<Samples> {
    let mut standby = Client::connect(standby, "postgres", &[])?;
    // The table comes to the standby like everything else.
    let until = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
    while standby.run("SELECT count(*) FROM probes").is_err() {
        if Instant::now() > until {
            return Err(BenchError::Invalid("the table never came".to_owned()));
        }
        pause(Duration::from_millis(5));
    }
    let mut samples = Samples::default();
    let mut id = 0_u64;
    while !stop.load(Ordering::Acquire) {
        primary.run(&format!("INSERT INTO probes VALUES ({id})"))?;
        let committed = Instant::now();
        while standby.number(&format!("SELECT count(*) FROM probes WHERE id = {id}"))? < 1.0 {
            if committed.elapsed() > Duration::from_secs(PATIENCE_SECONDS) {
                return Err(BenchError::Invalid("a commit never came".to_owned()));
            }
        }
        samples.add(u64::try_from(committed.elapsed().as_nanos()).unwrap_or(u64::MAX));
        id += 1;
    }
    Ok(samples)
}

/// From the command to the first row.
fn promote(standby: &Server, place: &Place) -> Result<Duration> {
    let begun = Instant::now();
    match place.kind() {
        Kind::Postgres => {
            standby.client()?.run("SELECT pg_promote(false)")?;
        }
        Kind::Springhead => {
            crate::http::post(standby.http()?, "/v1/promote", "{}")?;
        }
    }
    let mut client = local_client(standby)?;
    let insert = format!("INSERT INTO events VALUES (-1, 0, '{PAYMENT_NOTE}')");
    while client.run(&insert).is_err() {
        if begun.elapsed() > Duration::from_secs(PATIENCE_SECONDS) {
            return Err(BenchError::Invalid("it never took a write".to_owned()));
        }
        pause(Duration::from_millis(1));
        client = local_client(standby)?;
    }
    Ok(begun.elapsed())
}

fn directory_bytes(directory: &std::path::Path) -> f64 {
    let mut bytes = 0;
    let mut to_visit = vec![directory.to_owned()];
    while let Some(directory) = to_visit.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            use std::os::unix::fs::MetadataExt as _;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => to_visit.push(entry.path()),
                // What is really there: segments are laid out ahead.
                Ok(metadata) => bytes += metadata.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    float(bytes)
}
