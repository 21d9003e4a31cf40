//! From an accepted write on one device to where another shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use springhead_proto::sync::{DeltaVerb, ServerToDevice, SyncValue};

use super::frames::{Frames, broken};
use super::native::Native;
use super::{DOCUMENTS, Turn, shape, update};
use crate::error::Result;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::pause;
use crate::stats::{Samples, now_ns};
use crate::systems::Kind;

/// Writes in a second.
const WRITES_PER_S: u64 = 100;

/// When each write was begun, by its number from 0.
type Begun = Arc<Vec<AtomicU64>>;

/// # Errors
/// When the server fails, or says what no server should.
pub fn measure(turn: &Turn<'_>, report: &mut Report) -> Result<()> {
    let samples = between_frames(turn)?;
    record(report, "write on A to visible on B", samples);
    let samples = between_natives(turn)?;
    record(
        report,
        "… from one native device's data to another's",
        samples,
    );
    Ok(())
}

fn record(report: &mut Report, what: &str, mut samples: Samples) {
    for (name, per_mille, aim) in [("p50", 500, None), ("p99", 990, Some(10.0))] {
        let mut point = Point::new("sync", format!("{what}, {name}"), "ms", Better::Lower);
        point.aim = aim.map(Aim::AtMost);
        let how = format!("{WRITES_PER_S} writes/s");
        report.record(
            point,
            Kind::Springhead,
            &how,
            samples.per_mille_ms(per_mille),
        );
    }
}

/// Does something at a fixed rate, and notes when each time was due.
fn paced(count: u64, begun: &Begun, mut act: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let start_ns = now_ns();
    for number in 0..count {
        let due = Duration::from_micros(number * 1_000_000 / WRITES_PER_S);
        pause(due.saturating_sub(start.elapsed()));
        let due_ns = start_ns + u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        let place = usize::try_from(number).expect("a bench's count");
        begun[place].store(due_ns, Ordering::Release);
        act(number)?;
    }
    Ok(())
}

fn begun(count: u64) -> Begun {
    Arc::new((0..=count).map(|_| AtomicU64::new(0)).collect())
}

/// Notes that the write of a number, counted from `first`, is seen; whether it was the last.
fn seen(samples: &mut Samples, begun: &Begun, value: i64, (first, count): (u64, u64)) -> bool {
    let number = u64::try_from(value).unwrap_or(0).checked_sub(first);
    let Some(number) = number.filter(|number| *number < count) else {
        return false;
    };
    let at = begun[usize::try_from(number).expect("a bench's count")].load(Ordering::Acquire);
    samples.add(now_ns().saturating_sub(at));
    number + 1 == count
}

fn between_frames(turn: &Turn<'_>) -> Result<Samples> {
    let mut writer = Frames::connect(turn.server, 2_001, &[])?;
    let mut reader = Frames::connect(turn.server, 3, &[shape(Some("id <= 1000"))])?;
    reader.snapshot()?;
    let count = WRITES_PER_S * turn.options.seconds;
    let begun = begun(count);
    let shared = Arc::clone(&begun);
    let reading = std::thread::spawn(move || -> Result<Samples> {
        let mut samples = Samples::default();
        loop {
            let ServerToDevice::Delta(delta) = reader.next_frame()? else {
                continue;
            };
            for change in &delta.changes {
                let (DeltaVerb::Set(columns) | DeltaVerb::Put(columns)) = &change.verb else {
                    continue;
                };
                if let Some(SyncValue::Integer(value)) = columns.get("votes")
                    && seen(&mut samples, &shared, *value, (FIRST, count))
                {
                    return Ok(samples);
                }
            }
        }
    });
    paced(count, &begun, |number| {
        writer.push([update(FIRST + number)])?;
        writer.verdicts(1)?;
        writer.settle(writer.next - 1)
    })?;
    reading.join().map_err(|_| broken("the reader failed"))?
}

/// The first number that is written: none that was there before.
const FIRST: u64 = 50_000_000;

fn between_natives(turn: &Turn<'_>) -> Result<Samples> {
    let device = |name: &str| -> Result<Native> {
        let device = Native::open(&turn.place.data().with_file_name(name))?;
        device.subscribe("docs", Some("id <= 1000"))?;
        device.connect(turn.server.http()?)?;
        device.until("a first sync", |status| {
            status.complete && status.cursor.is_some()
        })?;
        Ok(device)
    };
    let (writer, reader) = (device("device-a")?, device("device-b")?);
    let first = 2 * FIRST;
    let count = WRITES_PER_S * turn.options.seconds;
    let begun = begun(count);
    let shared = Arc::clone(&begun);
    let reading = std::thread::spawn(move || -> Result<Samples> {
        let mut samples = Samples::default();
        reader.follow_numbers("SELECT id, votes FROM docs", |value| {
            seen(&mut samples, &shared, value, (first, count))
        })?;
        reader.close();
        Ok(samples)
    });
    paced(count, &begun, |number| {
        let id = number % DOCUMENTS + 1;
        writer.sql(&format!(
            "UPDATE docs SET votes = {} WHERE id = {id}",
            first + number
        ))
    })?;
    let samples = reading.join().map_err(|_| broken("the reader failed"))?;
    writer.close();
    samples
}
