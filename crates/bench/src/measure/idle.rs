//! What a subscriber costs while nothing happens: memory of the server with many of them, less what
//! it had before.

use std::time::Duration;

use crate::error::Result;
use crate::load::{Channel, Subscriber};
use crate::measure::EVENTS_TABLE;
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::pause;
use crate::stats::float;
use crate::systems::{Kind, Server, Systems};

/// PostgreSQL has a process for each; ten thousand of them are more than machines like this hold.
const LISTENERS: usize = 500;

/// # Errors
/// When a server fails or refuses a subscriber.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.note(format!("idle: bytes per subscriber = (memory with all of them - before) / number; Springhead: resident and anonymous memory with 10,000 SSE streams (1,000 with --quick); PostgreSQL: proportional and anonymous memory of all its processes with {LISTENERS} listeners, max_connections raised for them; the kernel's socket buffers are in neither"));
    for _ in 0..options.rounds {
        for &kind in systems.kinds() {
            let place = systems.place(kind, "idle")?;
            let (channel, count, settings): (_, usize, &[(&str, &str)]) = match kind {
                Kind::Springhead => (Channel::Sse, if options.quick { 1000 } else { 10_000 }, &[]),
                Kind::Postgres => (Channel::Listen, LISTENERS, &[("max_connections", "600")]),
            };
            let server = systems.start(&place, settings)?;
            let (resident, anonymous) = cost(&server, channel, count)?;
            let how = format!("{count} × {}", channel.name());
            let point = Point::new("idle", "memory per subscriber", "bytes", Better::Lower)
                .aim(Aim::AtMost(16_384.0));
            report.record(point, kind, &how, resident);
            report.record(
                Point::new(
                    "idle",
                    "anonymous memory per subscriber",
                    "bytes",
                    Better::Lower,
                ),
                kind,
                &how,
                anonymous,
            );
            server.stop()?;
            place.remove()?;
        }
    }
    Ok(())
}

fn cost(server: &Server, channel: Channel, count: usize) -> Result<(f64, f64)> {
    server.client()?.run(EVENTS_TABLE)?;
    // One first: what the first subscriber makes the server set up belongs to nobody.
    let first = Subscriber::open(server, channel)?;
    pause(Duration::from_secs(1));
    let before = (server.memory_bytes(), server.anonymous_bytes());
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        open.push(Subscriber::open(server, channel)?);
    }
    pause(Duration::from_secs(2));
    let after = (server.memory_bytes(), server.anonymous_bytes());
    drop((first, open));
    let count = float(count as u64);
    Ok(((after.0 - before.0) / count, (after.1 - before.1) / count))
}
