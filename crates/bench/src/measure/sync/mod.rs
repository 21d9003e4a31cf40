//! Device sync: how fast one device pushes and merges, how soon another sees it, how fast a new one
//! gets its rows, what coming back costs after a long time, what an idle one costs. PostgreSQL has
//! nothing to compare it with. `BENCH_SYNC=TEXT` takes only the parts whose names have it.

mod frames;
mod native;
mod visible;

use std::time::{Duration, Instant};

use springhead_crdt::{Cell, Client as Author, Content, Edit, Kind as CellKind};
use springhead_proto::sync::{ColumnValues, Operation, Shape, ShapeId, SyncValue, Verb};

use self::frames::Frames;
use self::native::{Counter, Native};
use crate::error::{BenchError, Result};
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::pause;
use crate::stats::float;
use crate::systems::{Kind, Place, Server, Systems};

/// Mutations of one push.
const PUSH: u64 = 100;
/// Pushes of one device that wait for their verdicts.
const IN_FLIGHT: u64 = 4;
/// Documents that are written to.
const DOCUMENTS: u64 = 1_000;
/// Whose documents a device has that comes back.
const OWNER: u64 = 7;

/// One part of the measurement.
type Part = fn(&Turn<'_>, &mut Report) -> Result<()>;

/// Memory first: later on, what others have freed would be taken again.
const PARTS: [(&str, Part); 7] = [
    ("idle", idle),
    ("pushes", pushes),
    ("merges", merges),
    ("visible", visible::measure),
    ("bytes", bytes),
    ("initial", initial),
    ("resume", resume),
];

/// A server with its documents.
struct Turn<'t> {
    server: &'t Server,
    place: &'t Place,
    options: &'t Options,
    /// All documents, in the end.
    rows: u64,
}

/// # Errors
/// When the server fails, or says what no server should.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    if !systems.kinds().contains(&Kind::Springhead) {
        return Ok(());
    }
    report.note(format!("sync: one device pushes updates of one column, and of one merging text of some sixty characters, {PUSH} to a push and {IN_FLIGHT} pushes in flight; memory per session = (with all of them - before) / number, each with one shape, over sockets"));
    report.note("sync: a native device is springhead-device in the bench's process, its files on the same disk, durable as it is by default. Bytes of an update: all that it sends for 1,000 of them made offline, acknowledgements and WebSocket's heads included, the handshake not. Resume: from the connection's begin until its data has the last of the changes made meanwhile");
    let wanted = std::env::var("BENCH_SYNC").unwrap_or_default();
    for _ in 0..options.rounds {
        let place = systems.place(Kind::Springhead, "sync")?;
        let most = PUSH.to_string();
        let settings = [
            ("SPRINGHEAD_SYNC_MUTATIONS_PER_S", "100000000"),
            ("SPRINGHEAD_SYNC_MAX_PUSH_MUTATIONS", &*most),
        ];
        let server = systems.start(&place, &settings)?;
        let turn = Turn {
            server: &server,
            place: &place,
            options,
            rows: options.changes() / 2,
        };
        fill(&turn)?;
        for (name, part) in PARTS {
            if name.contains(&wanted) {
                let begun = Instant::now();
                part(&turn, report)?;
                eprintln!("  sync {name}: {:.1} s", begun.elapsed().as_secs_f64());
            }
        }
        server.stop()?;
        place.remove()?;
    }
    Ok(())
}

fn fill(turn: &Turn<'_>) -> Result<()> {
    let owners = turn.rows / DOCUMENTS;
    let mut sql = turn.server.client()?;
    sql.run(
        "CREATE TABLE docs (id integer PRIMARY KEY, owner integer, title text, votes integer)",
    )?;
    sql.run("CREATE TABLE notes (id integer PRIMARY KEY, body text CRDT)")?;
    sql.run(&format!(
        "INSERT INTO docs SELECT i, i % {owners}, 'title ' || i, 0 FROM generate_series(1, {DOCUMENTS}) AS i"
    ))?;
    sql.run(&format!(
        "INSERT INTO notes SELECT i, '{TEXT}' FROM generate_series(1, {DOCUMENTS}) AS i"
    ))?;
    Ok(())
}

const TEXT: &str = "what somebody has written before, and others write on";

fn shape(condition: Option<&str>) -> Shape {
    Shape {
        id: ShapeId(1),
        collection: "docs".to_owned(),
        condition: condition.map(str::to_owned),
        params: Vec::new(),
        columns: Vec::new(),
    }
}

/// An update of one column of one document.
fn update(number: u64) -> Operation {
    let value = i64::try_from(number).expect("a bench's count");
    let columns: ColumnValues = [("votes", SyncValue::Integer(value))].into_iter().collect();
    Operation {
        collection: "docs".to_owned(),
        id: vec![SyncValue::Integer(value % 1_000 + 1)],
        verb: Verb::Set(columns),
    }
}

/// Pushes what `next` gives for the timed turn; mutations per second.
fn push_all(
    turn: &Turn<'_>,
    device: &mut Frames,
    mut next: impl FnMut(u64) -> Result<Operation>,
) -> Result<f64> {
    let begun = Instant::now();
    let (mut pushed, mut decided) = (0, 0);
    while begun.elapsed() < Duration::from_secs(turn.options.seconds) {
        while pushed - decided < IN_FLIGHT * PUSH {
            let operations = (pushed..pushed + PUSH).map(&mut next);
            device.push(operations.collect::<Result<Vec<_>>>()?)?;
            pushed += PUSH;
        }
        decided += device.verdicts(PUSH)?;
        device.settle(device.next - 1 - (pushed - decided))?;
    }
    while decided < pushed {
        decided += device.verdicts(pushed - decided)?;
    }
    Ok(float(pushed) / begun.elapsed().as_secs_f64())
}

fn pushes(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    let mut device = Frames::connect(turn.server, 1, &[])?;
    let rate = push_all(turn, &mut device, |number| Ok(update(number)))?;
    let point = Point::new("sync", "pushed updates, one device", "1/s", Better::Higher);
    report.record(
        point,
        Kind::Springhead,
        &format!(
            "{PUSH} per push, {} bytes each",
            device.sent_bytes / (device.next - 1)
        ),
        rate,
    );
    Ok(())
}

/// Each edit writes a word into one of the texts, resting on the ones before it there.
fn merges(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    let mut device = Frames::connect(turn.server, 2, &[])?;
    let seed = Content::Text(TEXT.to_owned());
    let failed = |error: springhead_crdt::CrdtError| BenchError::Invalid(error.to_string());
    let mut cells = (0..DOCUMENTS)
        .map(|number| {
            Cell::open(
                CellKind::Text,
                None,
                Some(&seed),
                Author::new(1_000 + number),
            )
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(failed)?;
    // Made before the time runs: an edit costs its author as much as its merge costs the server.
    let mut made = Vec::new();
    for number in 0..EDITS.min(20 * DOCUMENTS * turn.options.seconds) {
        let place = number % DOCUMENTS;
        let cell = &mut cells[usize::try_from(place).expect("it is below a thousand")];
        let edit = Edit::Insert {
            at: 5,
            text: "word ".to_owned(),
        };
        let update = cell.edit(&[edit]).map_err(failed)?;
        let id = i64::try_from(place + 1).expect("it is small");
        made.push(Operation {
            collection: "notes".to_owned(),
            id: vec![SyncValue::Integer(id)],
            verb: Verb::Crdt(vec![("body".to_owned(), update)]),
        });
    }
    let begun = Instant::now();
    let until = Duration::from_secs(turn.options.seconds);
    let (mut pushed, mut decided) = (0, 0);
    for operations in made.chunks(usize::try_from(PUSH).expect("it is small")) {
        if begun.elapsed() >= until {
            break;
        }
        device.push(operations.iter().cloned())?;
        pushed += operations.len() as u64;
        while pushed - decided >= IN_FLIGHT * PUSH {
            decided += device.verdicts(PUSH)?;
            device.settle(decided)?;
        }
    }
    decided += device.verdicts(pushed - decided)?;
    let rate = float(decided) / begun.elapsed().as_secs_f64();
    let point = Point::new(
        "sync",
        "merges of a text, one device",
        "1/s",
        Better::Higher,
    );
    report.record(point, Kind::Springhead, &format!("{PUSH} per push"), rate);
    Ok(())
}

/// Edits that are made for the measurement of merges, at most.
const EDITS: u64 = 100_000;

/// What a device sends for an update that was made offline.
fn bytes(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    let device = Native::open(&turn.place.data().with_file_name("device-bytes"))?;
    device.subscribe("docs", Some("id <= 1000"))?;
    device.connect(turn.server.http()?)?;
    device.until("the first sync of a device", |status| {
        status.complete && status.cursor.is_some()
    })?;
    device.disconnect();
    for id in 1..=DOCUMENTS {
        device.sql(&format!(
            "UPDATE docs SET votes = {id} + 20000 WHERE id = {id}"
        ))?;
    }
    // Who connects and has nothing to push says hello and what it has.
    let counter = Counter::before(turn.server.http()?)?;
    device.connect(counter.address)?;
    device.until("verdicts on all of it", |status| status.pending == 0)?;
    let all = counter.bytes();
    device.disconnect();
    let counter = Counter::before(turn.server.http()?)?;
    device.connect(counter.address)?;
    device.until("a second connection", |status| {
        status.phase == springhead_device::Phase::Live
    })?;
    let hello = counter.bytes();
    device.close();
    let point = Point::new(
        "sync",
        "bytes a native device sends per one-column update",
        "bytes",
        Better::Lower,
    )
    .aim(Aim::AtMost(48.0));
    let each = float(all.saturating_sub(hello)) / float(DOCUMENTS);
    report.record(point, Kind::Springhead, &format!("{PUSH} per push"), each);
    Ok(())
}

fn initial(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    let rows = turn.rows;
    make_rows(turn)?;
    let begun = Instant::now();
    let mut device = Frames::connect(turn.server, 4, &[shape(None)])?;
    let got = device.snapshot()?;
    if got != rows {
        return Err(BenchError::Invalid(format!("{got} rows of {rows}")));
    }
    let how = format!("{rows} rows");
    let rate = float(rows) / begun.elapsed().as_secs_f64();
    let point = Point::new("sync", "initial sync, as frames", "rows/s", Better::Higher);
    report.record(point, Kind::Springhead, &how, rate);
    let device = Native::open(&turn.place.data().with_file_name("device-initial"))?;
    device.subscribe("docs", None)?;
    let begun = Instant::now();
    device.connect(turn.server.http()?)?;
    device.until("a first sync", |status| {
        status.complete && status.cursor.is_some()
    })?;
    let rate = float(rows) / begun.elapsed().as_secs_f64();
    let held = device.number("SELECT count(*) FROM docs")?;
    if held != rows {
        return Err(BenchError::Invalid(format!("{held} rows of {rows}")));
    }
    device.close();
    let point = Point::new(
        "sync",
        "initial sync, native device",
        "rows/s",
        Better::Higher,
    )
    .aim(Aim::AtLeast(100_000.0));
    report.record(point, Kind::Springhead, &how, rate);
    Ok(())
}

/// All documents are there, if another part has not made them.
fn make_rows(turn: &Turn<'_>) -> Result<()> {
    let (rows, owners) = (turn.rows, turn.rows / DOCUMENTS);
    let mut sql = turn.server.client()?;
    let there = sql.number("SELECT count(*) FROM docs")?;
    if there >= float(rows) {
        return Ok(());
    }
    for first in (DOCUMENTS + 1..=rows).step_by(10_000) {
        let last = rows.min(first + 9_999);
        sql.run(&format!(
            "INSERT INTO docs SELECT i, i % {owners}, 'title ' || i, 0 FROM generate_series({first}, {last}) AS i"
        ))?;
    }
    Ok(())
}

/// A device with a thousand documents comes back after as many changes as there are documents, twice,
/// of which a thousand are of its own.
fn resume(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    make_rows(turn)?;
    let device = Native::open(&turn.place.data().with_file_name("device-resume"))?;
    device.subscribe("docs", Some(&format!("owner = {OWNER}")))?;
    device.connect(turn.server.http()?)?;
    device.until("a first sync", |status| {
        status.complete && status.cursor.is_some()
    })?;
    let held = device.number("SELECT count(*) FROM docs")?;
    device.disconnect();
    let mut sql = turn.server.client()?;
    for round in 1..=2 {
        let others = format!("UPDATE docs SET votes = -{round} WHERE owner <> {OWNER} AND id");
        for first in (1..=turn.rows).step_by(10_000) {
            sql.run(&format!("{others} BETWEEN {first} AND {}", first + 9_999))?;
        }
    }
    sql.run(&format!("UPDATE docs SET votes = -5 WHERE owner = {OWNER}"))?;
    device.connect(turn.server.http()?)?;
    let took = device.until_number("SELECT count(*) FROM docs WHERE votes = -5", held)?;
    device.close();
    let changes = 2 * turn.rows - held;
    let point = Point::new("sync", "resume of a native device", "s", Better::Lower);
    let how = format!("after {changes} changes, {held} its own");
    report.record(point, Kind::Springhead, &how, took.as_secs_f64());
    Ok(())
}

fn idle(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    let count: u128 = if turn.options.quick { 500 } else { 5_000 };
    let none = shape(Some("owner = -1"));
    let mut open = Vec::new();
    // What the first ones make the server set up belongs to nobody.
    for number in 0..50 {
        let mut device = Frames::connect(turn.server, 1_000 + number, std::slice::from_ref(&none))?;
        device.snapshot()?;
        open.push(device);
    }
    pause(Duration::from_secs(1));
    let before = turn.server.anonymous_bytes();
    for number in 0..count {
        let mut device = Frames::connect(turn.server, 2_000 + number, std::slice::from_ref(&none))?;
        device.snapshot()?;
        open.push(device);
    }
    pause(Duration::from_secs(2));
    let after = turn.server.anonymous_bytes();
    drop(open);
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
