//! A subscriber that opens a stream of events and does not read: what it costs the server in memory
//! and the writers in latency, and whether it gets everything once it reads.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::error::{BenchError, Doing, Result};
use crate::http::{self, Events};
use crate::load::{Plan, open_events, write_at_rate};
use crate::measure::EVENTS_TABLE;
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::stats::{float, median, quantile};
use crate::systems::{Kind, Server, Systems};

/// Rows of one commit.
const ROWS: u64 = 20;

/// # Errors
/// When the server fails, or the subscriber does not get everything once, in order.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    if !systems.kinds().contains(&Kind::Springhead) {
        return Ok(());
    }
    let changes = options.changes();
    report.note(format!("stalled: {changes} changes in commits of {ROWS} rows at 1,000 commits/s over 16 connections, in turns without and with one SSE subscriber that does not read; growth of anonymous memory is that of the turn with it less that of the turn without; afterwards it reads everything, and order and completeness are checked"));
    let (mut alone, mut beside) = (Side::default(), Side::default());
    for round in 0..options.rounds.max(2) {
        // Whoever goes first changes with the round, so that neither has the warmer server.
        let first = round % 2 == 1;
        for stalled in [first, !first] {
            let turn = turn(systems, changes, stalled, report)?;
            let side = if stalled { &mut beside } else { &mut alone };
            side.growth.push(turn.growth);
            side.p99.push(turn.p99);
        }
    }
    let growth = (median(&beside.growth) - median(&alone.growth)) / 1_048_576.0;
    let record = |report: &mut Report, what: &str, unit, aim, value| {
        let mut point = Point::new("stalled", what, unit, Better::Lower);
        point.aim = aim;
        report.record(point, Kind::Springhead, "", value);
    };
    record(
        report,
        "growth of anonymous memory by it",
        "MiB",
        Some(Aim::AtMost(2.0)),
        growth,
    );
    record(
        report,
        "growth of anonymous memory in that turn",
        "MiB",
        None,
        median(&beside.growth) / 1_048_576.0,
    );
    record(
        report,
        "writers' p99 without it",
        "ms",
        None,
        median(&alone.p99),
    );
    record(
        report,
        "writers' p99 with it",
        "ms",
        None,
        median(&beside.p99),
    );
    record(
        report,
        "writers' p99 moved by",
        "%",
        Some(Aim::AtMost(5.0)),
        100.0 * (median(&beside.p99) / median(&alone.p99) - 1.0),
    );
    // What the move has to be seen beside: the same quotient of each round's two turns.
    let moves: Vec<f64> = beside
        .p99
        .iter()
        .zip(&alone.p99)
        .map(|(with, without)| 100.0 * (with / without - 1.0))
        .collect();
    for (what, share) in [
        ("… in the middle half of the rounds, from", 0.25),
        ("… to", 0.75),
    ] {
        record(report, what, "%", None, quantile(&moves, share));
    }
    Ok(())
}

#[derive(Default)]
struct Side {
    growth: Vec<f64>,
    p99: Vec<f64>,
}

struct Turn {
    /// Bytes of anonymous memory.
    growth: f64,
    p99: f64,
}

fn turn(systems: &Systems, changes: u64, stalled: bool, report: &mut Report) -> Result<Turn> {
    let place = systems.place(Kind::Springhead, "stalled")?;
    let server = systems.start(&place, &[])?;
    server.client()?.run(EVENTS_TABLE)?;
    let warm_up = Plan {
        connections: 16,
        commits_per_second: 1000,
        rows_per_commit: ROWS,
        commits: 2000,
        first_id: 0,
    };
    write_at_rate(&server, warm_up)?;
    let subscriber = if stalled {
        Some(open_events(server.http()?, "/cdc/events")?)
    } else {
        None
    };
    let before = server.anonymous_bytes();
    let mut latencies = write_at_rate(
        &server,
        Plan {
            commits: changes / ROWS,
            first_id: 2000 * ROWS,
            ..warm_up
        },
    )?;
    let growth = server.anonymous_bytes() - before;
    if let Some((stream, events)) = subscriber {
        let seconds = read_everything(&server, stream, events, changes)?;
        let point = Point::new(
            "stalled",
            "changes/s when it reads again",
            "changes/s",
            Better::Higher,
        );
        report.record(point, Kind::Springhead, "", float(changes) / seconds);
    }
    server.stop()?;
    place.remove()?;
    Ok(Turn {
        growth,
        p99: latencies.per_mille_ms(990),
    })
}

/// Reads `changes` events from the stream, going on from the last id if the server has ended it, and
/// returns the seconds it took.
fn read_everything(
    server: &Server,
    stream: TcpStream,
    events: Events,
    changes: u64,
) -> Result<f64> {
    let started = std::time::Instant::now();
    let mut reader = Reader {
        stream,
        events,
        received: 0,
        last_lsn: 0,
        last_id: Vec::new(),
    };
    let mut scratch = vec![0; 256 * 1024];
    let mut reopened = 0;
    while reader.received < changes {
        if !reader.read(&mut scratch)? {
            reopened += 1;
            if reopened > 10 {
                return Err(BenchError::Invalid(format!(
                    "the stream ended {reopened} times; {} of {changes} changes came",
                    reader.received
                )));
            }
            let id = String::from_utf8_lossy(&reader.last_id).into_owned();
            (reader.stream, reader.events) =
                open_events(server.http()?, &format!("/cdc/events?last_event_id={id}"))?;
        }
    }
    if reader.received != changes {
        return Err(BenchError::Invalid(format!(
            "{} changes came, {changes} were made",
            reader.received
        )));
    }
    Ok(started.elapsed().as_secs_f64())
}

struct Reader {
    stream: TcpStream,
    events: Events,
    received: u64,
    last_lsn: u64,
    last_id: Vec<u8>,
}

impl Reader {
    /// Whether the stream goes on.
    fn read(&mut self, scratch: &mut [u8]) -> Result<bool> {
        self.stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .doing("setting a timeout")?;
        let read = match self.stream.read(scratch) {
            Ok(0) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(false),
            other => other.doing("reading events that waited")?,
        };
        let mut disorder = None;
        let (received, last_lsn, last_id) =
            (&mut self.received, &mut self.last_lsn, &mut self.last_id);
        let outcome = self.events.feed(&scratch[..read], |event| {
            if !event.id.is_empty() {
                event.id.clone_into(last_id);
            }
            if event.name != b"insert" {
                return;
            }
            let lsn = http::json_number(event.data, b"\"lsn\"").unwrap_or(0);
            if lsn <= *last_lsn {
                disorder = Some(format!("LSN {lsn} after {last_lsn}"));
            }
            *last_lsn = lsn;
            *received += 1;
        });
        match outcome.err().or(disorder) {
            Some(what) => Err(BenchError::Protocol {
                peer: "an event stream".to_owned(),
                what,
            }),
            None => Ok(!self.events.ended()),
        }
    }
}
