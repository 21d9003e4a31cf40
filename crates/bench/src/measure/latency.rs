//! From commit to subscriber, at a fixed rate of commits: server-sent events against LISTEN/NOTIFY
//! with as many listeners, and against one reader of logical decoding.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{BenchError, Result};
use crate::load::{Channel, Delivered, Plan, Subscriber, read_subscribers, write_at_rate};
use crate::measure::{EVENTS_TABLE, LOGICAL, bare};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::stats::Samples;
use crate::systems::{Kind, Place, Server, Systems};

/// Connections that commit.
const WRITERS: usize = 32;
/// How long the last changes may take to arrive.
const GRACE: Duration = Duration::from_secs(20);
/// With so many subscribers and more, what writing to their sockets costs by itself is measured too.
const BARE_FROM: usize = 1000;

/// # Errors
/// When a server fails.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.note("latency: one-row commits of about 130 bytes on a fixed schedule over 32 connections; commit and delivery are both counted from when the commit was due, on one clock; every subscriber gets the whole row as JSON (PostgreSQL: a trigger calls pg_notify with row_to_json; logical decoding: test_decoding over the replication protocol, wal_level=logical in its turns only)");
    report.note("latency: PostgreSQL's max_connections is raised to subscribers + 50 in these turns; logical decoding has one reader at every size");
    let places = systems
        .kinds()
        .iter()
        .map(|kind| systems.place(*kind, "latency"))
        .collect::<Result<Vec<_>>>()?;
    for &subscribers in &options.subscribers {
        let rate = if subscribers >= 1000 { 100 } else { 1000 };
        for _ in 0..options.rounds {
            if subscribers >= BARE_FROM {
                let bare = bare::tell(subscribers, rate, options.seconds)?;
                record_bare(report, subscribers, rate, bare);
            }
            for place in &places {
                let channels: &[Channel] = match place.kind() {
                    Kind::Springhead => &[Channel::Sse],
                    Kind::Postgres => &[Channel::Listen, Channel::Decoding],
                };
                for &channel in channels {
                    let turn = turn(systems, place, channel, subscribers, rate, options.seconds)?;
                    record(report, channel, subscribers, rate, turn);
                }
            }
        }
    }
    places.into_iter().try_for_each(Place::remove)
}

/// A note, since it is no server's figure.
fn record_bare(report: &mut Report, subscribers: usize, rate: u64, mut bare: Delivered) {
    let [p50, p99, p999] = [500, 990, 999].map(|rank| bare.latencies.per_mille_ms(rank));
    report.note(format!("latency: {subscribers} sockets at {rate}/s without a server, an event written to each by a loop on each core: p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms until it is read; what servers need comes on top of that"));
}

struct Turn {
    commits: Samples,
    deliveries: Samples,
    missing: u64,
}

fn turn(
    systems: &Systems,
    place: &Place,
    channel: Channel,
    subscribers: usize,
    rate: u64,
    seconds: u64,
) -> Result<Turn> {
    let connections = (subscribers + 50).max(100).to_string();
    let mut settings = Vec::new();
    if place.kind() == Kind::Postgres {
        settings.push(("max_connections", connections.as_str()));
    }
    if channel == Channel::Decoding {
        settings.extend(LOGICAL);
    }
    let server = systems.start(place, &settings)?;
    prepare(&server, channel)?;
    let count = if channel == Channel::Decoding {
        1
    } else {
        subscribers
    };
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        open.push(Subscriber::open(&server, channel)?);
    }
    // A second of the same load first, so that nobody's caches are cold.
    let warm_up = Plan {
        connections: WRITERS,
        commits_per_second: rate,
        rows_per_commit: 1,
        commits: rate,
        first_id: 0,
    };
    run(&server, &mut open, warm_up)?;
    let plan = Plan {
        commits: rate * seconds,
        first_id: rate,
        ..warm_up
    };
    let turn = run(&server, &mut open, plan)?;
    drop(open);
    clear(&server, channel)?;
    server.stop()?;
    Ok(turn)
}

fn run(server: &Server, subscribers: &mut [Subscriber], plan: Plan) -> Result<Turn> {
    let already = subscribers.first().map_or(0, Subscriber::received);
    let expected = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_subscribers(subscribers, already, &expected, GRACE));
        let commits = write_at_rate(server, plan);
        // Also when the writers failed: the readers wait for nothing then.
        expected.store(
            if commits.is_ok() {
                plan.commits * plan.rows_per_commit
            } else {
                0
            },
            Ordering::Release,
        );
        let delivered = reader
            .join()
            .map_err(|_| BenchError::Invalid("the subscribers' thread panicked".to_owned()))?;
        let (commits, delivered) = (commits?, delivered?);
        Ok(Turn {
            commits,
            deliveries: delivered.latencies,
            missing: delivered.missing,
        })
    })
}

fn prepare(server: &Server, channel: Channel) -> Result<()> {
    let mut client = server.client()?;
    client.run(EVENTS_TABLE)?;
    match channel {
        Channel::Sse => {}
        Channel::Listen => {
            client.run("CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('events', row_to_json(NEW)::text); RETURN NULL; END $$")?;
            client.run(
                "CREATE TRIGGER tell AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION tell()",
            )?;
        }
        Channel::Decoding => {
            client.run("SELECT pg_create_logical_replication_slot('bench', 'test_decoding')")?;
        }
    }
    Ok(())
}

fn clear(server: &Server, channel: Channel) -> Result<()> {
    let mut client = server.client()?;
    if channel == Channel::Decoding {
        // The walsender notices the closed socket a moment later, and holds its slot until then.
        client.run("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active_pid IS NOT NULL")?;
        client.run("SELECT pg_drop_replication_slot('bench')")?;
    }
    client.run("DROP TABLE events")?;
    if channel == Channel::Listen {
        client.run("DROP FUNCTION tell()")?;
    }
    Ok(())
}

fn record(report: &mut Report, channel: Channel, subscribers: usize, rate: u64, mut turn: Turn) {
    let kind = if channel == Channel::Sse {
        Kind::Springhead
    } else {
        Kind::Postgres
    };
    // Each of PostgreSQL's two ways is a figure of its own, against the same rounds of ours.
    let rivals: &[Channel] = if kind == Kind::Springhead {
        &[Channel::Listen, Channel::Decoding]
    } else {
        &[channel]
    };
    let many = if subscribers == 1 {
        "1 subscriber".to_owned()
    } else {
        format!("{subscribers} subscribers")
    };
    if turn.missing > 0 {
        report.note(format!("latency: {} with {many} at {rate}/s: {} deliveries had not come {} s after the last commit; its percentiles are of those that had", channel.name(), turn.missing, GRACE.as_secs()));
    }
    for &rival in rivals {
        let against = if rival == Channel::Decoding {
            "decoding"
        } else {
            "NOTIFY"
        };
        for (per_mille, label) in [(500, "p50"), (990, "p99"), (999, "p99.9")] {
            let what = format!("{many} at {rate}/s, to subscriber {label} / {against}");
            report.record(
                Point::new("latency", what, "ms", Better::Lower),
                kind,
                channel.name(),
                turn.deliveries.per_mille_ms(per_mille),
            );
        }
        let what = format!("{many} at {rate}/s, to reply p99 / {against}");
        let commit_p99 = turn.commits.per_mille_ms(990);
        report.record(
            Point::new("latency", what, "ms", Better::Lower),
            kind,
            channel.name(),
            commit_p99,
        );
        let what = format!("{many} at {rate}/s, p99 to subscriber - p99 to reply / {against}");
        let mut point = Point::new("latency", what, "ms", Better::Lower);
        if rival == Channel::Listen {
            point = point.aim(Aim::AtMost(1.0));
        }
        report.record(
            point,
            kind,
            channel.name(),
            turn.deliveries.per_mille_ms(990) - commit_p99,
        );
    }
}
