//! G7: what a device's session costs the server that is connected over a socket and does nothing.
//! `SYNC_IDLE` says how many there are (5,000 for the long run; the suite takes few).

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use springhead_proto::sync::{
    CatalogHash, CatalogVersion, DeviceId, DeviceToServer, Generation, Handshake, ProducerId, Seq,
    ServerToDevice, Shape, ShapeId, Subscription,
};
use springhead_sim::fixture::Fixture;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes for each session, sockets' buffers in the kernel not counted. The aim is 20,000 with a release
/// build; a debug build's futures are larger.
const MOST_BYTES: usize = 60_000;

type Socket = WebSocket<TcpStream>;

/// Bytes of a process that no file is behind.
fn anonymous_bytes(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn next(socket: &mut Socket) -> ServerToDevice {
    loop {
        match socket.read().unwrap() {
            Message::Binary(bytes) => return ServerToDevice::from_bytes(&bytes, 16 << 20).unwrap(),
            Message::Close(close) => panic!("closed: {close:?}"),
            _ => {}
        }
    }
}

/// Connects, and takes the one shape that is its own.
fn connect(http: SocketAddr, number: u64) -> Socket {
    let stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = client(format!("ws://{http}/sync"), stream).unwrap();
    let shape = Shape {
        id: ShapeId(1),
        collection: "notes".to_owned(),
        condition: Some(format!("owner = {number}")),
        params: Vec::new(),
        columns: Vec::new(),
    };
    let hello = DeviceToServer::Handshake(Handshake {
        protocol: 1,
        token: None,
        tenant: None,
        device: DeviceId(number.into()),
        producer: ProducerId(number.into()),
        generation: Generation::FIRST,
        cursor: None,
        catalog_version: CatalogVersion(0),
        catalog_hash: CatalogHash::default(),
        settled: Seq::ZERO,
        shapes: vec![Subscription {
            shape,
            complete: false,
            resume: None,
        }],
        client: "idle test".to_owned(),
    });
    socket
        .send(Message::Binary(hello.to_bytes().into()))
        .unwrap();
    loop {
        if let ServerToDevice::Snapshot(chunk) = next(&mut socket)
            && chunk.done.is_some()
        {
            return socket;
        }
    }
}

#[test]
fn g7_an_idle_session_over_a_socket_costs_little() {
    let count = std::env::var("SYNC_IDLE")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(300_u64);
    let mut fixture = Fixture::new();
    let setup = &mut fixture.setup;
    for arg in ["--sync-ping-interval", "30min", "--sync-idle-timeout", "1h"] {
        setup.args.push(arg.to_owned());
    }
    fixture.start();
    fixture.sql("CREATE TABLE notes (id integer PRIMARY KEY, owner integer, body text)");
    let http = fixture.setup.http;
    // What the first ones make the server set up belongs to nobody.
    let mut sockets: Vec<Socket> = (1..=20).map(|number| connect(http, number)).collect();
    let pid = fixture.server().pid().as_raw_nonzero().get();
    let before = anonymous_bytes(pid);
    let begun = Instant::now();
    sockets.extend((21..=20 + count).map(|number| connect(http, number)));
    let connected = begun.elapsed();
    let each = anonymous_bytes(pid).saturating_sub(before) / usize::try_from(count).unwrap();
    println!("{count} idle sessions over sockets: {each} bytes each, connected in {connected:?}");
    assert!(each < MOST_BYTES, "{each} bytes");
    // Each hears of what is its own, and soon.
    let begun = Instant::now();
    let last = 20 + count;
    fixture.sql(&format!(
        "INSERT INTO notes VALUES (1, {last}, 'for the last')"
    ));
    let socket = sockets.last_mut().unwrap();
    loop {
        if let ServerToDevice::Delta(delta) = next(socket)
            && !delta.changes.is_empty()
        {
            break;
        }
    }
    println!("told after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
}
