//! Device sync: how fast one device pushes, how soon another sees it, how fast a new one gets its
//! rows, what an idle one costs. PostgreSQL has nothing to compare it with.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use springhead_proto::sync::{
    CatalogHash, CatalogVersion, ColumnValues, DeviceId, DeviceToServer, Generation, Handshake,
    HandshakeAnswer, Mutation, Operation, ProducerId, Push, Seq, ServerToDevice, Shape, ShapeId,
    Subscription, SyncValue, Verb, Verdict,
};
use springhead_proto::{Cursor, Lsn};
use tungstenite::{Message, WebSocket, client};

use crate::error::{BenchError, Doing, Result};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::pause;
use crate::stats::{Samples, float, now_ns};
use crate::systems::{Kind, Server, Systems};

/// Mutations of one push, as devices send them.
const PUSH: u64 = 100;
/// Pushes of one device that wait for their verdicts.
const IN_FLIGHT: u64 = 4;
/// Documents that are written to.
const DOCUMENTS: u64 = 1_000;
/// Writes of the latency measurement in a second.
const WRITES_PER_S: u64 = 100;

/// # Errors
/// When the server fails, or says what no server should.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    if !systems.kinds().contains(&Kind::Springhead) {
        return Ok(());
    }
    report.note(format!("sync: pushes of {PUSH} single-column updates by one device, {IN_FLIGHT} in flight; from A's push to B's delta at {WRITES_PER_S} writes a second; a shape of all rows from a new device; memory per session = (with all of them - before) / number, each with one shape"));
    for _ in 0..options.rounds {
        let place = systems.place(Kind::Springhead, "sync")?;
        let settings = [("SPRINGHEAD_SYNC_MUTATIONS_PER_S", "100000000")];
        let server = systems.start(&place, &settings)?;
        let mut sql = server.client()?;
        sql.run(
            "CREATE TABLE docs (id integer PRIMARY KEY, owner integer, title text, votes integer)",
        )?;
        sql.run(&format!(
            "INSERT INTO docs SELECT i, i % 10, 'title ' || i, 0 FROM generate_series(1, {DOCUMENTS}) AS i"
        ))?;
        pushes(&server, options, report)?;
        latency(&server, options, report)?;
        initial(&server, options, report)?;
        idle(&server, options, report)?;
        server.stop()?;
        place.remove()?;
    }
    Ok(())
}

/// A device that is nothing but frames.
struct Device {
    socket: WebSocket<TcpStream>,
    producer: ProducerId,
    next: u64,
    sent_bytes: u64,
}

impl Device {
    fn connect(server: &Server, number: u128, shapes: &[Shape]) -> Result<Device> {
        let address = server.http()?;
        let stream = TcpStream::connect(address).doing("connecting a device")?;
        stream.set_nodelay(true).doing("TCP_NODELAY")?;
        let (socket, _) = client(format!("ws://{address}/sync"), stream)
            .map_err(|error| broken(&error.to_string()))?;
        let mut device = Device {
            socket,
            producer: ProducerId(number),
            next: 1,
            sent_bytes: 0,
        };
        let shapes = shapes.iter().map(|shape| Subscription {
            shape: shape.clone(),
            complete: false,
            resume: None,
        });
        device.send(&DeviceToServer::Handshake(Handshake {
            protocol: 1,
            token: None,
            tenant: None,
            device: DeviceId(number),
            producer: device.producer,
            generation: Generation::FIRST,
            cursor: None,
            catalog_version: CatalogVersion(0),
            catalog_hash: CatalogHash::default(),
            settled: Seq::ZERO,
            shapes: shapes.collect(),
            client: "bench".to_owned(),
        }))?;
        match device.next()? {
            ServerToDevice::HandshakeAck(HandshakeAnswer::Accepted(ack)) => {
                device.next = ack.next_seq.0;
                Ok(device)
            }
            other => Err(broken(&format!(
                "{other:?} in place of a handshake's answer"
            ))),
        }
    }

    fn send(&mut self, frame: &DeviceToServer) -> Result<()> {
        let bytes = frame.to_bytes();
        self.sent_bytes += bytes.len() as u64;
        let sent = self.socket.send(Message::Binary(bytes.into()));
        sent.map_err(|error| broken(&error.to_string()))
    }

    fn next(&mut self) -> Result<ServerToDevice> {
        loop {
            match self
                .socket
                .read()
                .map_err(|error| broken(&error.to_string()))?
            {
                Message::Binary(bytes) => {
                    return ServerToDevice::from_bytes(&bytes, 16 << 20)
                        .map_err(|error| broken(&error.to_string()));
                }
                Message::Close(close) => return Err(broken(&format!("closed: {close:?}"))),
                _ => {}
            }
        }
    }

    /// Pushes so many updates of one column each.
    fn push(&mut self, count: u64) -> Result<()> {
        let mutations = (self.next..self.next + count).map(|seq| {
            let value = i64::try_from(seq).expect("seqs are small");
            let columns: ColumnValues =
                [("votes", SyncValue::Integer(value))].into_iter().collect();
            Mutation {
                producer: self.producer,
                generation: Generation::FIRST,
                seq: Seq(seq),
                base: Cursor {
                    lsn: Lsn::ZERO,
                    epoch: None,
                },
                schema_version: CatalogVersion(0),
                after: Vec::new(),
                hlc: None,
                operations: vec![Operation {
                    collection: "docs".to_owned(),
                    id: vec![SyncValue::Integer(value % 1_000 + 1)],
                    verb: Verb::Set(columns),
                }],
            }
        });
        let push = Push {
            producer: self.producer,
            generation: Generation::FIRST,
            mutations: mutations.collect(),
        };
        self.next += count;
        self.send(&DeviceToServer::Push(push))
    }

    /// Acknowledges what has been decided, as devices do.
    fn settle(&mut self, seq: u64) -> Result<()> {
        let settled = springhead_proto::sync::MutationId {
            producer: self.producer,
            generation: Generation::FIRST,
            seq: Seq(seq),
        };
        self.send(&DeviceToServer::Acknowledge(
            springhead_proto::sync::Acknowledge {
                cursor: None,
                settled: vec![settled],
            },
        ))
    }

    /// Waits for at least as many verdicts, all of which are to be good; how many came.
    fn verdicts(&mut self, count: u64) -> Result<u64> {
        let mut came = 0;
        while came < count {
            if let ServerToDevice::Ack(ack) = self.next()? {
                for (seq, verdict) in &ack.verdicts {
                    if !matches!(verdict, Verdict::Applied { .. }) {
                        return Err(broken(&format!("{seq}: {verdict:?}")));
                    }
                }
                came += ack.verdicts.len() as u64;
            }
        }
        Ok(came)
    }

    /// Waits for the end of a snapshot; how many rows it had.
    fn snapshot(&mut self) -> Result<u64> {
        let mut rows = 0;
        loop {
            if let ServerToDevice::Snapshot(chunk) = self.next()? {
                rows += chunk.rows.len() as u64;
                if chunk.done.is_some() {
                    return Ok(rows);
                }
            }
        }
    }
}

fn broken(what: &str) -> BenchError {
    BenchError::Protocol {
        peer: "springhead".to_owned(),
        what: what.to_owned(),
    }
}

fn shape(condition: Option<&str>) -> Shape {
    Shape {
        id: ShapeId(1),
        collection: "docs".to_owned(),
        condition: condition.map(str::to_owned),
        params: Vec::new(),
        columns: Vec::new(),
    }
}

fn pushes(server: &Server, options: &Options, report: &mut Report) -> Result<()> {
    let mut device = Device::connect(server, 1, &[])?;
    let begun = Instant::now();
    let before = device.sent_bytes;
    let (mut pushed, mut decided) = (0, 0);
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        while pushed - decided < IN_FLIGHT * PUSH {
            device.push(PUSH)?;
            pushed += PUSH;
        }
        decided += device.verdicts(PUSH)?;
        device.settle(device.next - 1 - (pushed - decided))?;
    }
    while decided < pushed {
        decided += device.verdicts(pushed - decided)?;
    }
    let rate = float(pushed) / begun.elapsed().as_secs_f64();
    let bytes = float(device.sent_bytes - before) / float(pushed);
    let how = format!("{PUSH} per push");
    let point = Point::new(
        "sync",
        "mutations per second, one device",
        "1/s",
        Better::Higher,
    );
    report.record(point, Kind::Springhead, &how, rate);
    let point = Point::new(
        "sync",
        "bytes sent per one-column update",
        "bytes",
        Better::Lower,
    )
    .aim(Aim::AtMost(48.0));
    report.record(point, Kind::Springhead, &how, bytes);
    Ok(())
}

fn latency(server: &Server, options: &Options, report: &mut Report) -> Result<()> {
    let mut writer = Device::connect(server, 2, &[])?;
    let mut reader = Device::connect(server, 3, &[shape(None)])?;
    reader.snapshot()?;
    let count = WRITES_PER_S * options.seconds;
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..=count).map(|_| AtomicU64::new(0)).collect());
    let shared = Arc::clone(&sent);
    let first = writer.next;
    let last = i64::try_from(first + count - 1).expect("seqs are small");
    let seen = std::thread::spawn(move || -> Result<Samples> {
        let mut samples = Samples::default();
        loop {
            let frame = reader.next()?;
            let now = now_ns();
            let ServerToDevice::Delta(delta) = frame else {
                continue;
            };
            for change in &delta.changes {
                let (springhead_proto::sync::DeltaVerb::Set(columns)
                | springhead_proto::sync::DeltaVerb::Put(columns)) = &change.verb
                else {
                    continue;
                };
                if let Some(SyncValue::Integer(value)) = columns.get("votes") {
                    let place = u64::try_from(*value).unwrap_or(0).saturating_sub(first);
                    let at = usize::try_from(place)
                        .ok()
                        .and_then(|place| shared.get(place));
                    samples
                        .add(now.saturating_sub(at.map_or(now, |at| at.load(Ordering::Acquire))));
                    if *value == last {
                        return Ok(samples);
                    }
                }
            }
        }
    });
    let begun = Instant::now();
    for number in 0..count {
        let due = Duration::from_micros(number * 1_000_000 / WRITES_PER_S);
        pause(due.saturating_sub(begun.elapsed()));
        let place = usize::try_from(number).expect("a bench's count");
        sent[place].store(now_ns(), Ordering::Release);
        writer.push(1)?;
        writer.verdicts(1)?;
        writer.settle(writer.next - 1)?;
    }
    let mut samples = seen.join().map_err(|_| broken("the reader failed"))??;
    let how = format!("{WRITES_PER_S} writes/s");
    for (what, per_mille, aim) in [
        ("write on A to visible on B, p50", 500, None),
        ("write on A to visible on B, p99", 990, Some(10.0)),
    ] {
        let mut point = Point::new("sync", what, "ms", Better::Lower);
        point.aim = aim.map(Aim::AtMost);
        report.record(
            point,
            Kind::Springhead,
            &how,
            samples.per_mille_ms(per_mille),
        );
    }
    Ok(())
}

fn initial(server: &Server, options: &Options, report: &mut Report) -> Result<()> {
    let rows = options.changes() / 2;
    let mut sql = server.client()?;
    sql.run(&format!(
        "INSERT INTO docs SELECT i, i % 10, 'title ' || i, 0 FROM generate_series({}, {rows}) AS i",
        DOCUMENTS + 1
    ))?;
    let begun = Instant::now();
    let mut device = Device::connect(server, 4, &[shape(None)])?;
    let got = device.snapshot()?;
    if got != rows {
        return Err(BenchError::Invalid(format!("{got} rows of {rows}")));
    }
    let rate = float(rows) / begun.elapsed().as_secs_f64();
    let point =
        Point::new("sync", "initial sync", "rows/s", Better::Higher).aim(Aim::AtLeast(100_000.0));
    report.record(point, Kind::Springhead, &format!("{rows} rows"), rate);
    Ok(())
}

fn idle(server: &Server, options: &Options, report: &mut Report) -> Result<()> {
    let count: u128 = if options.quick { 500 } else { 5_000 };
    let none = shape(Some("owner = 1000"));
    let first = Device::connect(server, 1_000, std::slice::from_ref(&none))?;
    pause(Duration::from_secs(1));
    let before = server.anonymous_bytes();
    let mut open = Vec::new();
    for number in 0..count {
        let mut device = Device::connect(server, 2_000 + number, std::slice::from_ref(&none))?;
        device.snapshot()?;
        open.push(device);
    }
    pause(Duration::from_secs(2));
    let after = server.anonymous_bytes();
    drop((first, open));
    let count = u64::try_from(count).expect("a bench's count");
    let point = Point::new("sync", "memory per idle session", "bytes", Better::Lower)
        .aim(Aim::AtMost(20_000.0));
    let how = format!("{count} sockets");
    report.record(
        point,
        Kind::Springhead,
        &how,
        (after - before) / float(count),
    );
    Ok(())
}
