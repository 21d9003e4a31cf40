//! Reading a million changes back from disk, all from the start: inside a process straight from the
//! log, over HTTP by poll and as server-sent events, against pg_recvlogical.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Log, ReadFilter, SystemClock};
use springhead_proto::{ChangeKind, Changes, CollectionId, ValueRef};

use crate::error::{BenchError, Doing, Result};
use crate::http::{self, Connection};
use crate::load::open_events;
use crate::measure::{LOGICAL, NOTE, load_events};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::stats::float;
use crate::systems::{Kind, Place, Server, Systems};

/// # Errors
/// When a server fails or changes are missing.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    let changes = options.changes();
    report.note(format!("replay: {changes} rows of about 120 bytes inserted in commits of 1,000; page cache warm for both; PostgreSQL with wal_level=logical, pg_recvlogical writing to /dev/null from a fresh copy of one slot in every round; in-process: the log's reader with every change decoded, without a server"));
    let places = systems
        .kinds()
        .iter()
        .map(|kind| systems.place(*kind, "replay"))
        .collect::<Result<Vec<_>>>()?;
    for place in &places {
        let settings: &[(&str, &str)] = if place.kind() == Kind::Postgres {
            &LOGICAL
        } else {
            &[]
        };
        let server = systems.start(place, settings)?;
        if place.kind() == Kind::Postgres {
            let mut client = server.client()?;
            client.run("CREATE PUBLICATION bench FOR ALL TABLES")?;
            for plugin in ["test_decoding", "pgoutput"] {
                client.run(&format!(
                    "SELECT pg_create_logical_replication_slot('{plugin}', '{plugin}')"
                ))?;
            }
        }
        load_events(&server, changes)?;
        server.stop()?;
    }
    for round in 0..options.rounds {
        for place in &places {
            match place.kind() {
                Kind::Postgres => postgres_turn(systems, place, changes, round == 0, report)?,
                Kind::Springhead => springhead_turn(systems, place, changes, report)?,
            }
        }
    }
    places.into_iter().try_for_each(Place::remove)
}

/// The figures that a rate of Springhead's is compared in; PostgreSQL's go into all of them.
fn point(ours: &str, plugin: &str) -> Point {
    let point = Point::new(
        "replay",
        format!("{ours} / {plugin}"),
        "changes/s",
        Better::Higher,
    );
    match ours {
        "in-process" => point.aim(Aim::AtLeast(1_000_000.0)),
        _ if plugin == "test_decoding" => point.aim(Aim::Ratio(5.0)),
        _ => point,
    }
}

const PLUGINS: [&str; 2] = ["test_decoding", "pgoutput"];
const OURS: [&str; 3] = ["in-process", "SSE", "poll"];

fn record_ours(report: &mut Report, ours: &str, changes: u64, took: Duration) {
    for plugin in PLUGINS {
        report.record(
            point(ours, plugin),
            Kind::Springhead,
            ours,
            float(changes) / took.as_secs_f64(),
        );
    }
}

fn springhead_turn(
    systems: &Systems,
    place: &Place,
    changes: u64,
    report: &mut Report,
) -> Result<()> {
    let server = systems.start(place, &[])?;
    record_ours(report, "SSE", changes, by_events(&server, changes)?);
    record_ours(report, "poll", changes, by_poll(&server, changes)?);
    server.stop()?;
    record_ours(report, "in-process", changes, in_process(place, changes)?);
    Ok(())
}

fn by_events(server: &Server, changes: u64) -> Result<Duration> {
    let started = Instant::now();
    let (mut stream, mut events) = open_events(server.http()?, "/cdc/events?since_lsn=1")?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .doing("setting a timeout")?;
    let mut scratch = vec![0; 256 * 1024];
    let (mut received, mut last_lsn, mut disorder) = (0, 0, false);
    let mut count = |event: http::Event<'_>| {
        if event.name == b"insert" {
            let lsn = http::json_number(event.data, b"\"lsn\"").unwrap_or(0);
            disorder |= lsn <= last_lsn;
            last_lsn = lsn;
            received += 1;
        }
        received
    };
    let broken = |what: String| BenchError::Protocol {
        peer: "an event stream".to_owned(),
        what,
    };
    let mut so_far = 0;
    events
        .feed(b"", |event| so_far = count(event))
        .map_err(broken)?;
    while so_far < changes {
        let read = stream.read(&mut scratch).doing("reading events")?;
        if read == 0 {
            return Err(broken(format!("it ended after {so_far} changes")));
        }
        events
            .feed(&scratch[..read], |event| so_far = count(event))
            .map_err(broken)?;
    }
    if disorder || so_far != changes {
        return Err(broken(format!(
            "{so_far} changes of {changes} came, in order: {}",
            !disorder
        )));
    }
    Ok(started.elapsed())
}

fn by_poll(server: &Server, changes: u64) -> Result<Duration> {
    let started = Instant::now();
    let mut connection = Connection::open(server.http()?)?;
    let mut path = "/cdc/events/poll?limit=10000&since_lsn=1".to_owned();
    let mut received = 0;
    while received < changes {
        let page = connection.get(&path)?;
        let (inserts, cursor) = read_page(&page)?;
        received += inserts;
        path = format!("/cdc/events/poll?limit=10000&cursor={cursor}");
    }
    if received != changes {
        return Err(BenchError::Invalid(format!(
            "poll gave {received} changes, {changes} were made"
        )));
    }
    Ok(started.elapsed())
}

/// How many inserts a page has, and the cursor after it.
fn read_page(page: &[u8]) -> Result<(u64, String)> {
    let broken = |what: &str| BenchError::Protocol {
        peer: "a page of changes".to_owned(),
        what: what.to_owned(),
    };
    let inserts = memchr::memmem::find_iter(page, b"\"operation\":\"INSERT\"").count() as u64;
    let tail =
        memchr::memmem::rfind(page, b"\"next_cursor\"").ok_or_else(|| broken("no next_cursor"))?;
    let mark = b"\"cursor\":\"";
    let start = tail
        + memchr::memmem::find(&page[tail..], mark).ok_or_else(|| broken("no cursor"))?
        + mark.len();
    let end =
        start + memchr::memchr(b'"', &page[start..]).ok_or_else(|| broken("an open string"))?;
    let has_more = memchr::memmem::find(&page[tail..], b"\"has_more\":true").is_some();
    if inserts == 0 && !has_more {
        return Err(broken("the feed ended before all changes had come"));
    }
    Ok((
        inserts,
        String::from_utf8_lossy(&page[start..end]).into_owned(),
    ))
}

/// Reads the whole log with every change and every value decoded, as an exit inside the server would.
fn in_process(place: &Place, changes: u64) -> Result<Duration> {
    let broken = |what: String| BenchError::Protocol {
        peer: "the log".to_owned(),
        what,
    };
    let directory = log_directory(&place.data()).ok_or_else(|| broken("not found".to_owned()))?;
    let log = SegmentLog::open(&directory, SegmentConfig::default(), Arc::new(SystemClock))
        .map_err(|error| broken(error.to_string()))?;
    let started = Instant::now();
    let end = log.tail().durable;
    let mut reader = log
        .reader(log.earliest(), ReadFilter::default())
        .map_err(|error| broken(error.to_string()))?;
    // Definitions and sequences are in the log too; the loaded rows are of one collection.
    let mut inserts: BTreeMap<CollectionId, u64> = BTreeMap::new();
    let mut text_bytes = 0;
    let mut slices = Vec::new();
    loop {
        let scanned = reader
            .read(&mut slices, 1 << 20)
            .map_err(|error| broken(error.to_string()))?;
        for slice in slices.drain(..) {
            for change in Changes::new(&slice.changes) {
                let change = change.map_err(|error| broken(error.to_string()))?;
                if let (ChangeKind::Insert, Some(row)) = (change.kind, change.after) {
                    text_bytes += row.values().map(text_length).sum::<usize>();
                    *inserts.entry(change.collection).or_default() += 1;
                }
            }
        }
        if scanned >= end {
            break;
        }
    }
    let took = started.elapsed();
    log.close();
    let least_bytes = changes * NOTE.len() as u64;
    if inserts.values().max() != Some(&changes) || (text_bytes as u64) < least_bytes {
        return Err(broken(format!(
            "of {changes} inserts these came, by collection: {inserts:?}, {text_bytes} bytes"
        )));
    }
    Ok(took)
}

fn text_length(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(text) => text.len(),
        _ => 0,
    }
}

/// The directory inside a server's data that has a log's list of histories.
fn log_directory(data: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(data).ok()?;
    let mut candidates = entries.flatten().map(|entry| entry.path());
    candidates.find(|path| path.join("epochs").is_file())
}

fn postgres_turn(
    systems: &Systems,
    place: &Place,
    changes: u64,
    check: bool,
    report: &mut Report,
) -> Result<()> {
    let server = systems.start(place, &LOGICAL)?;
    if check {
        check_decoding(systems, &server, changes)?;
    }
    for plugin in PLUGINS {
        let took = receive(systems, &server, plugin, "/dev/null")?;
        for ours in OURS {
            report.record(
                point(ours, plugin),
                Kind::Postgres,
                "pg_recvlogical",
                float(changes) / took.as_secs_f64(),
            );
        }
    }
    server.stop()
}

/// That pg_recvlogical gets all changes: once, into a file, not timed.
fn check_decoding(systems: &Systems, server: &Server, changes: u64) -> Result<()> {
    let file = server.data().join("decoded");
    receive(systems, server, "test_decoding", &file.to_string_lossy())?;
    let text = std::fs::read(&file).doing("reading what was decoded")?;
    std::fs::remove_file(&file).doing("removing what was decoded")?;
    let found = memchr::memmem::find_iter(&text, b"table public.events: INSERT:").count() as u64;
    if found == changes {
        Ok(())
    } else {
        Err(BenchError::Invalid(format!(
            "pg_recvlogical gave {found} changes of {changes}"
        )))
    }
}

fn receive(systems: &Systems, server: &Server, plugin: &str, file: &str) -> Result<Duration> {
    let mut client = server.client()?;
    client.run(&format!(
        "SELECT pg_copy_logical_replication_slot('{plugin}', 'turn')"
    ))?;
    let end = client.value("SELECT pg_current_wal_lsn()")?;
    let mut command = systems.postgres_program("pg_recvlogical");
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &server.sql().port().to_string(),
        "-U",
        "postgres",
        "-d",
        "postgres",
    ]);
    command.args([
        "--slot=turn",
        "--start",
        "--no-loop",
        &format!("--endpos={end}"),
        "-f",
        file,
    ]);
    if plugin == "pgoutput" {
        command.args(["-o", "proto_version=1", "-o", "publication_names=bench"]);
    }
    let started = Instant::now();
    systems.rig().output(&mut command)?;
    let took = started.elapsed();
    client.run("SELECT pg_drop_replication_slot('turn')")?;
    Ok(took)
}
