//! LISTEN and NOTIFY: commits per second of 64 clients that notify, with nobody, one, a hundred and a
//! thousand who listen, and with a thousand who listen elsewhere. pgbench sends on both servers; one
//! thread reads what comes to the listeners, and all of it must come.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{BenchError, Doing, Result};
use crate::measure::commits::{Amount, pgbench};
use crate::options::Options;
use crate::poller::Poller;
use crate::report::{Aim, Better, Point, Report};
use crate::stats::float;
use crate::systems::{Kind, Server, Systems};
use crate::wire::Frames;

const WRITERS: usize = 64;
/// Listeners on another channel than the one that is written to.
const ELSEWHERE: usize = 1000;
/// How long the last messages may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);

/// # Errors
/// When a server, pgbench or a listener fails, or a message does not come.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.note(format!("notify: pgbench -n -M simple, {WRITERS} clients over TCP loopback, one NOTIFY with a payload that is new each time per transaction; every listener must get every message; `elsewhere` are {ELSEWHERE} listeners on another channel; limits on connections raised on both; pgbench and the listeners share the cores with the servers"));
    let script = systems.rig().root().join("notify.sql");
    std::fs::write(
        &script,
        "\\set n random(1, 1000000000)\nSELECT pg_notify('busy', '{\"client\": :client_id, \"n\": :n}');\n",
    )
    .doing("writing pgbench's script")?;
    for _ in 0..options.rounds {
        for &kind in systems.kinds() {
            let place = systems.place(kind, "notify")?;
            let settings: &[(&str, &str)] = match kind {
                Kind::Postgres => &[("max_connections", "1200")],
                Kind::Springhead => &[("SPRINGHEAD_PG_MAX_CONNECTIONS_PER_TENANT", "1200")],
            };
            let mut alone = None;
            let turns = [("busy", 0), ("elsewhere", ELSEWHERE)]
                .into_iter()
                .chain(options.subscribers.iter().map(|&count| ("busy", count)));
            for (channel, count) in turns {
                let server = systems.start(&place, settings)?;
                let listeners = Listeners::open(&server, channel, count)?;
                let turn = |seconds| {
                    let amount = Amount::Seconds(seconds);
                    pgbench(systems.rig(), &server, &script, WRITERS, amount)
                };
                let warm = turn(1)?;
                let run = turn(options.seconds)?;
                if channel == "busy" {
                    listeners.finish(warm.commits + run.commits)?;
                } else {
                    listeners.finish(0.0)?;
                }
                record(report, kind, channel, count, run.per_second, &mut alone);
                server.stop()?;
            }
            place.remove()?;
        }
    }
    Ok(())
}

fn record(
    report: &mut Report,
    kind: Kind,
    channel: &str,
    count: usize,
    per_second: f64,
    alone: &mut Option<f64>,
) {
    let name = match (channel, count) {
        (_, 0) => "nobody listens".to_owned(),
        ("busy", count) => format!("{count} listen"),
        (_, count) => format!("{count} listen elsewhere"),
    };
    let mut point = Point::new("notify", name.clone(), "commits/s", Better::Higher);
    if channel == "busy" && count > 0 {
        point = point.aim(Aim::Ratio(5.0));
    }
    report.record(point, kind, "64 clients", per_second);
    if count == 0 {
        *alone = Some(per_second);
    } else if let (Some(alone), "elsewhere") = (*alone, channel) {
        let share = Point::new(
            "notify",
            format!("{name}, share of the commits/s with nobody"),
            "",
            Better::Higher,
        )
        .aim(Aim::AtLeast(0.95));
        report.record(share, kind, "64 clients", per_second / alone);
    }
}

/// Connections that listen, read by one thread.
struct Listeners {
    count: usize,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: std::thread::JoinHandle<Result<()>>,
}

impl Listeners {
    fn open(server: &Server, channel: &str, count: usize) -> Result<Listeners> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = server.client()?;
            client.run(&format!("LISTEN {channel}"))?;
            let stream = client.into_stream();
            stream
                .set_nonblocking(true)
                .doing("making a listener non-blocking")?;
            streams.push((stream, Frames::default()));
        }
        let (received, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stopped) = (Arc::clone(&received), Arc::clone(&stop));
        let reader = std::thread::Builder::new()
            .name("listeners".to_owned())
            .spawn(move || read_all(streams, &counted, &stopped))
            .doing("starting a thread")?;
        Ok(Listeners {
            count,
            received,
            stop,
            reader,
        })
    }

    /// Waits until every listener has got `messages`, and no more came.
    fn finish(self, messages: f64) -> Result<()> {
        let wanted = messages * float(self.count as u64);
        let deadline = Instant::now() + ARRIVAL;
        let received = || float(self.received.load(Ordering::Acquire));
        while received() < wanted && Instant::now() < deadline && !self.reader.is_finished() {
            crate::rig::pause(Duration::from_millis(5));
        }
        let received = received();
        self.stop.store(true, Ordering::Release);
        self.reader
            .join()
            .map_err(|_| BenchError::Invalid("the listeners' thread panicked".to_owned()))??;
        if (received - wanted).abs() > f64::EPSILON {
            return Err(BenchError::Invalid(format!(
                "{} listeners got {received} messages of {wanted}",
                self.count
            )));
        }
        Ok(())
    }
}

fn read_all(
    mut streams: Vec<(TcpStream, Frames)>,
    received: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut poller = Poller::new()?;
    for (token, (stream, _)) in streams.iter().enumerate() {
        poller.add(stream, token)?;
    }
    let mut scratch = vec![0; 256 << 10];
    let mut ready = Vec::new();
    while !stop.load(Ordering::Acquire) {
        poller.wait(Duration::from_millis(20), &mut ready)?;
        for &token in &ready {
            let (stream, frames) = &mut streams[token];
            let read = match stream.read(&mut scratch) {
                Ok(0) => return Err(BenchError::Invalid("a listener was closed".to_owned())),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).doing("reading a listener"),
            };
            frames.push(&scratch[..read]);
            let mut count = 0;
            while let Some(frame) = frames.next_frame() {
                count += u64::from(frame.kind == b'A');
            }
            received.fetch_add(count, Ordering::Release);
        }
    }
    Ok(())
}
