//! The load: writers that commit at a fixed rate, and subscribers of either server, each on one
//! thread, so that as little as possible of the machine goes to the load itself.
//!
//! Commits are due at fixed times. A commit's latency and its delivery are both counted from when it
//! was due, so that a server that falls behind cannot hide it by slowing its writers down.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{BenchError, Doing, Result};
use crate::http::{self, Events};
use crate::measure::insert_events;
use crate::poller::Poller;
use crate::rig::Rig;
use crate::stats::{Samples, now_ns};
use crate::systems::Server;
use crate::wire::{self, Client, Frames};

/// What the writers do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub connections: usize,
    pub commits_per_second: u64,
    pub rows_per_commit: u64,
    /// How many commits in all.
    pub commits: u64,
    /// The first row's id; the others follow.
    pub first_id: u64,
}

struct Writer {
    stream: TcpStream,
    frames: Frames,
    /// When the commit that is under way was due.
    due_ns: u64,
}

/// Commits into `events` as planned and returns how long each commit took from when it was due until
/// its reply was read.
///
/// # Errors
/// What the server says; any refused commit ends it.
pub fn write_at_rate(server: &Server, plan: Plan) -> Result<Samples> {
    let mut poller = Poller::new()?;
    let mut writers = Vec::with_capacity(plan.connections);
    for token in 0..plan.connections {
        let stream = server.client()?.into_stream();
        stream
            .set_nonblocking(true)
            .doing("making a writer non-blocking")?;
        poller.add(&stream, token)?;
        writers.push(Writer {
            stream,
            frames: Frames::default(),
            due_ns: 0,
        });
    }
    let mut idle: Vec<usize> = (0..plan.connections).collect();
    let mut ready = Vec::new();
    let mut scratch = vec![0; 16 * 1024];
    let mut message = Vec::new();
    let mut latencies = Samples::default();
    let interval_ns = 1_000_000_000 / plan.commits_per_second;
    let start_ns = now_ns() + 10_000_000;
    let mut next = 0;
    while u64::try_from(latencies.len()).unwrap_or(u64::MAX) < plan.commits {
        let due_ns = start_ns + next * interval_ns;
        let now = now_ns();
        if next < plan.commits
            && now >= due_ns
            && let Some(token) = idle.pop()
        {
            message.clear();
            let first_id = plan.first_id + next * plan.rows_per_commit;
            wire::put_query(
                &mut message,
                &insert_events(first_id, plan.rows_per_commit, due_ns),
            );
            let writer = &mut writers[token];
            writer.due_ns = due_ns;
            writer
                .stream
                .write_all(&message)
                .doing("sending a commit")?;
            next += 1;
            continue;
        }
        let wait_ns = if next < plan.commits && !idle.is_empty() {
            due_ns.saturating_sub(now)
        } else {
            1_000_000_000
        };
        poller.wait(Duration::from_nanos(wait_ns), &mut ready)?;
        for &token in &ready {
            if read_replies(&mut writers[token], &mut scratch)? {
                latencies.add(now_ns() - writers[token].due_ns);
                idle.push(token);
            }
        }
    }
    Ok(latencies)
}

/// Whether the commit's answer is complete now.
fn read_replies(writer: &mut Writer, scratch: &mut [u8]) -> Result<bool> {
    let read = read_some(&mut writer.stream, scratch)?;
    writer.frames.push(&scratch[..read]);
    while let Some(frame) = writer.frames.next_frame() {
        match frame.kind {
            b'E' => {
                return Err(BenchError::Refused {
                    sql: "INSERT INTO events …".to_owned(),
                    message: wire::error_text(frame.body),
                });
            }
            b'Z' => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// How a subscriber hears of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Server-sent events of Springhead.
    Sse,
    /// LISTEN on PostgreSQL, notified by a trigger with the row as JSON.
    Listen,
    /// The walsender protocol with test_decoding, from the slot `bench`.
    Decoding,
}

impl Channel {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sse => "SSE",
            Self::Listen => "LISTEN/NOTIFY",
            Self::Decoding => "logical decoding",
        }
    }
}

/// An open subscription: everything committed from now on reaches it.
#[derive(Debug)]
pub struct Subscriber {
    stream: TcpStream,
    decoder: Decoder,
    /// Changes it has got.
    received: u64,
    last_lsn: u64,
}

#[derive(Debug)]
enum Decoder {
    Events(Events),
    Frames(Frames),
}

impl Subscriber {
    /// Subscribes to `events` and returns once the server has confirmed it.
    ///
    /// # Errors
    /// What the server says.
    pub fn open(server: &Server, channel: Channel) -> Result<Self> {
        let (stream, decoder) = match channel {
            Channel::Sse => return Self::of_events(server.http()?),
            Channel::Listen => {
                let mut client = server.client()?;
                client.run("LISTEN events")?;
                (client.into_stream(), Decoder::Frames(Frames::default()))
            }
            Channel::Decoding => {
                let mut client =
                    Client::connect(server.sql(), "postgres", &[("replication", "database")])?;
                client.send_query(
                    "START_REPLICATION SLOT bench LOGICAL 0/0 (\"include-xids\" 'off')",
                )?;
                match client.receive(|frame| {
                    (frame.kind == b'W')
                        .then_some(())
                        .ok_or_else(|| wire::error_text(frame.body))
                })? {
                    Ok(()) => {}
                    Err(message) => {
                        return Err(BenchError::Refused {
                            sql: "START_REPLICATION".to_owned(),
                            message,
                        });
                    }
                }
                (client.into_stream(), Decoder::Frames(Frames::default()))
            }
        };
        Self::of(stream, decoder)
    }

    /// Subscribes to the server-sent events of whoever answers at `address`.
    ///
    /// # Errors
    /// The socket's, or any status but 200.
    pub fn of_events(address: SocketAddr) -> Result<Self> {
        let (stream, events) = open_events(address, "/cdc/events")?;
        Self::of(stream, Decoder::Events(events))
    }

    fn of(stream: TcpStream, decoder: Decoder) -> Result<Self> {
        stream
            .set_nonblocking(true)
            .doing("making a subscriber non-blocking")?;
        Ok(Self {
            stream,
            decoder,
            received: 0,
            last_lsn: 0,
        })
    }

    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads once and reports when each change that came was due.
    fn read(&mut self, scratch: &mut [u8], latencies: &mut Samples) -> Result<u64> {
        let read = read_some(&mut self.stream, scratch)?;
        let now = now_ns();
        let before = self.received;
        match &mut self.decoder {
            Decoder::Events(events) => {
                let (received, last_lsn) = (&mut self.received, &mut self.last_lsn);
                let mut disorder = None;
                let outcome = events.feed(&scratch[..read], |event| {
                    let Some(due_ns) = http::json_number(event.data, b"\"sent_ns\"") else {
                        return;
                    };
                    let lsn = http::json_number(event.data, b"\"lsn\"").unwrap_or(0);
                    if lsn <= *last_lsn {
                        disorder = Some(format!("LSN {lsn} after {last_lsn}"));
                    }
                    *last_lsn = lsn;
                    *received += 1;
                    latencies.add(now.saturating_sub(due_ns));
                });
                if let Some(what) = outcome.err().or(disorder) {
                    return Err(BenchError::Protocol {
                        peer: "an event stream".to_owned(),
                        what,
                    });
                }
            }
            Decoder::Frames(frames) => {
                frames.push(&scratch[..read]);
                while let Some(frame) = frames.next_frame() {
                    if frame.kind == b'E' {
                        return Err(BenchError::Protocol {
                            peer: "a subscription".to_owned(),
                            what: wire::error_text(frame.body),
                        });
                    }
                    let mark: &[u8] = if frame.kind == b'A' {
                        b"\"sent_ns\""
                    } else {
                        b"sent_ns[bigint]"
                    };
                    if let Some(due_ns) = http::json_number(frame.body, mark) {
                        self.received += 1;
                        latencies.add(now.saturating_sub(due_ns));
                    }
                }
            }
        }
        Ok(self.received - before)
    }
}

/// Opens a stream of events and waits for its head.
///
/// # Errors
/// The socket's, or any status but 200.
pub fn open_events(address: SocketAddr, path: &str) -> Result<(TcpStream, Events)> {
    let broken = |what: String| BenchError::Protocol {
        peer: format!("http://{address}{path}"),
        what,
    };
    let mut stream =
        TcpStream::connect(address).doing(format!("connecting to http://{address}"))?;
    stream
        .write_all(&http::stream_request(address, path))
        .doing("asking for events")?;
    let mut events = Events::default();
    let mut scratch = [0; 4096];
    while !events.opened().map_err(broken)? {
        let read = read_some(&mut stream, &mut scratch)?;
        events.hold(&scratch[..read]).map_err(broken)?;
    }
    Ok((stream, events))
}

/// What the subscribers got.
#[derive(Debug)]
pub struct Delivered {
    pub latencies: Samples,
    /// Changes that had not come to some subscriber when the wait was given up.
    pub missing: u64,
}

/// Reads all subscribers on the calling thread until each has got `expected` changes beyond the
/// `already` that it had. `expected` is `u64::MAX` while the writers still run; `grace` is how long
/// it then waits for the rest.
///
/// # Errors
/// The first that any subscriber meets.
pub fn read_subscribers(
    subscribers: &mut [Subscriber],
    already: u64,
    expected: &AtomicU64,
    grace: Duration,
) -> Result<Delivered> {
    let mut poller = Poller::new()?;
    for (token, subscriber) in subscribers.iter().enumerate() {
        poller.add(&subscriber.stream, token)?;
    }
    let mut latencies = Samples::default();
    let mut scratch = vec![0; 256 * 1024];
    let mut ready = Vec::new();
    let mut total: u64 = 0;
    let mut deadline = None;
    // What came together with an answer's head is waiting in its decoder, not in its socket.
    for subscriber in subscribers.iter_mut() {
        total += subscriber.read(&mut scratch, &mut latencies)?;
    }
    loop {
        let each = expected.load(Ordering::Acquire);
        let wanted = each.saturating_mul(subscribers.len() as u64);
        if each != u64::MAX {
            let until = *deadline.get_or_insert_with(|| Instant::now() + grace);
            if total >= wanted || Instant::now() > until {
                let missing = wanted.saturating_sub(total);
                if let Some(excess) = subscribers
                    .iter()
                    .find(|subscriber| subscriber.received > already + each)
                {
                    return Err(BenchError::Invalid(format!(
                        "a subscriber got {} changes of {each}",
                        excess.received - already
                    )));
                }
                return Ok(Delivered { latencies, missing });
            }
        }
        poller.wait(Duration::from_millis(20), &mut ready)?;
        for &token in &ready {
            total += subscribers[token].read(&mut scratch, &mut latencies)?;
        }
    }
}

/// Reads what is there: nothing if it would have to wait.
fn read_some(stream: &mut TcpStream, scratch: &mut [u8]) -> Result<usize> {
    match stream.read(scratch) {
        Ok(0) => Err(BenchError::Protocol {
            peer: "the server".to_owned(),
            what: "closed the connection".to_owned(),
        }),
        Ok(read) => Ok(read),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        Err(error) => Err(error).doing("reading from the server"),
    }
}

/// The median time of a write of 8 kB and its flush, where the servers' data lies.
///
/// # Errors
/// What the disk says.
pub fn flush_ms(rig: &Rig) -> Result<f64> {
    let mut file = tempfile::tempfile_in(rig.root()).doing("making a file to flush")?;
    let mut samples = Samples::default();
    for _ in 0..300 {
        let start = now_ns();
        file.write_all(&[7; 8192]).doing("writing")?;
        rustix::fs::fdatasync(&file).doing("flushing")?;
        samples.add(now_ns() - start);
    }
    Ok(samples.per_mille_ms(500))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers every connection with the same stream of events, in small pieces.
    fn serve(connections: usize, lsns: &'static [u64]) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for _ in 0..connections {
                let mut stream = listener.accept().unwrap().0;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\nretry: 100\n\n")
                    .unwrap();
                for lsn in lsns {
                    let due = now_ns();
                    let event = format!(
                        "id: {lsn}@0\nevent: insert\ndata: {{\"lsn\":{lsn},\"after\":{{\"sent_ns\":{due}}}}}\n\n"
                    );
                    for piece in event.as_bytes().chunks(7) {
                        stream.write_all(piece).unwrap();
                    }
                }
                stream.write_all(b": still here\n\n").unwrap();
                open.push(stream);
            }
            // Kept open until the reader goes.
            for mut stream in open {
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        address
    }

    fn subscribe(address: SocketAddr, count: usize) -> Vec<Subscriber> {
        (0..count)
            .map(|_| Subscriber::of_events(address).unwrap())
            .collect()
    }

    #[test]
    fn every_delivery_to_every_subscriber_is_counted_once() {
        let mut subscribers = subscribe(serve(3, &[1, 2, 5]), 3);
        let delivered = read_subscribers(
            &mut subscribers,
            0,
            &AtomicU64::new(3),
            Duration::from_secs(30),
        )
        .unwrap();
        assert_eq!((delivered.latencies.len(), delivered.missing), (9, 0));
    }

    #[test]
    fn what_does_not_come_is_reported_as_missing() {
        let mut subscribers = subscribe(serve(2, &[1, 2]), 2);
        let delivered = read_subscribers(
            &mut subscribers,
            0,
            &AtomicU64::new(3),
            Duration::from_millis(300),
        )
        .unwrap();
        assert_eq!((delivered.latencies.len(), delivered.missing), (4, 2));
    }

    #[test]
    fn g2_a_change_out_of_order_or_twice_spoils_the_measurement() {
        for lsns in [&[1, 3, 2][..], &[1, 2, 2]] {
            let lsns: &'static [u64] = Box::leak(lsns.to_vec().into_boxed_slice());
            let mut subscribers = subscribe(serve(1, lsns), 1);
            let outcome = read_subscribers(
                &mut subscribers,
                0,
                &AtomicU64::new(3),
                Duration::from_secs(30),
            );
            assert!(matches!(outcome, Err(BenchError::Protocol { .. })));
        }
    }
}
