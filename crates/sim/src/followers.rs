//! Readers that follow the change feed while the server comes and goes: over SSE as a browser does
//! (`Last-Event-ID`), over poll by its cursor, or switching between the two.
//!
//! Each writes down every change it is shown, over all its connections, until it sees the row that
//! ends the run ([`crate::load::END`]).

use std::time::{Duration, Instant};

use crate::client::http::{self, SseOpened, SseStream};
use crate::history::{Change, Reading};
use crate::load::END;
use crate::rng::Rng;
use crate::world::World;

/// How a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Sse,
    Poll,
    /// Now one, now the other, from the same cursor, leaving streams in the middle.
    Alternating,
}

/// A reader gives up when it has been shown nothing for this long: a lost event must fail a test,
/// not hang it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Follows a collection, or all, from after the LSN `after` until the end row. Returns what it was
/// shown.
pub fn follow(
    world: &World,
    exit: Exit,
    collection: Option<&str>,
    after: u64,
    rng: Rng,
) -> Reading {
    let mut follower = Follower {
        world,
        path: collection.map_or("/cdc".to_owned(), |collection| format!("/cdc/{collection}")),
        rng,
        // The bare LSN is a cursor too: it has been seen.
        cursor: after.to_string(),
        changes: Vec::new(),
        ended: false,
    };
    let mut broken_generation = 0;
    let mut last_progress = (Instant::now(), 0);
    while !follower.ended && !world.is_abandoned() {
        let generation = world.wait_up(broken_generation);
        let over_sse = match exit {
            Exit::Sse => true,
            Exit::Poll => false,
            Exit::Alternating => follower.rng.chance(50),
        };
        let lives = if over_sse {
            follower.read_stream(exit == Exit::Alternating)
        } else {
            follower.read_pages(exit == Exit::Alternating)
        };
        if lives.is_err() {
            broken_generation = generation;
        }
        if follower.changes.len() != last_progress.1 {
            last_progress = (Instant::now(), follower.changes.len());
        } else if last_progress.0.elapsed() > PATIENCE {
            let (shown, cursor) = (follower.changes.len(), &follower.cursor);
            world.surprise(format!(
                "{exit:?} is stuck at {cursor} after {shown} changes"
            ));
            break;
        }
    }
    Reading {
        name: format!("{exit:?} reader"),
        after,
        up_to: follower.changes.last().map_or(after, |change| change.lsn),
        collection: collection.map(str::to_owned),
        changes: follower.changes,
    }
}

struct Follower<'a> {
    world: &'a World,
    /// Of its feed, without `/poll`.
    path: String,
    rng: Rng,
    cursor: String,
    changes: Vec<Change>,
    ended: bool,
}

impl Follower<'_> {
    /// Reads one stream until it breaks or, if `leaves`, for a while.
    fn read_stream(&mut self, leaves: bool) -> std::io::Result<()> {
        let mut left = if leaves {
            1 + self.rng.below(60)
        } else {
            u64::MAX
        };
        let opened = SseStream::open(self.world.http, &self.path, Some(&self.cursor))?;
        let mut stream = match opened {
            SseOpened::Stream(stream) => stream,
            SseOpened::Other(answer) => {
                self.refused(answer.status, &answer.text());
                return Err(std::io::Error::other("refused"));
            }
        };
        // Long enough for a progress event, which comes at least every 15 s.
        stream
            .socket()
            .set_read_timeout(Some(Duration::from_secs(30)))?;
        while left > 0 && !self.ended {
            let Some(event) = stream.next_event()? else {
                break;
            };
            match event.event.as_str() {
                "progress" => {}
                "must-refetch" => {
                    self.world
                        .surprise(format!("told to refetch: {}", event.data));
                    self.ended = true;
                }
                operation => {
                    let json = event.json();
                    if json["operation"].as_str().map(str::to_lowercase).as_deref()
                        != Some(operation)
                        || event.id.as_deref() != json["cursor"].as_str()
                    {
                        self.world
                            .surprise(format!("event and data differ: {event:?}"));
                    }
                    self.take(&json);
                    left -= 1;
                }
            }
            if let Some(id) = &stream.last_event_id {
                self.cursor.clone_from(id);
            }
        }
        Ok(())
    }

    /// Reads pages until the server is gone or, if `leaves`, a few.
    fn read_pages(&mut self, leaves: bool) -> std::io::Result<()> {
        let mut left = if leaves {
            1 + self.rng.below(4)
        } else {
            u64::MAX
        };
        while left > 0 && !self.ended {
            let limit = 1 + self.rng.below(200);
            let cursor = http::encode(&self.cursor);
            let path = &self.path;
            let target = format!("{path}/poll?cursor={cursor}&limit={limit}&wait_ms=1000");
            let answer = http::get(self.world.http, &target)?;
            if answer.status != 200 {
                self.refused(answer.status, &answer.text());
                return Err(std::io::Error::other("refused"));
            }
            let page = answer.json();
            let changes = page["changes"].as_array().cloned().unwrap_or_default();
            let next = page["next_cursor"]["cursor"].as_str();
            if page["count"].as_u64() != Some(changes.len() as u64) || next.is_none() {
                self.world.surprise(format!(
                    "a page that does not add up: {:.300}",
                    answer.text()
                ));
                return Err(std::io::Error::other("bad page"));
            }
            changes.iter().for_each(|change| self.take(change));
            self.cursor = next.unwrap_or_default().to_owned();
            left -= 1;
        }
        Ok(())
    }

    fn take(&mut self, event: &serde_json::Value) {
        match Change::from_event(event) {
            Ok(change) => {
                self.ended |= change.document_id.as_deref() == Some(END);
                self.changes.push(change);
            }
            Err(misshapen) => self.world.surprise(misshapen.to_string()),
        }
    }

    /// 503 while it starts or stops is fine; anything else never should be.
    fn refused(&self, status: u16, body: &str) {
        if status != 503 {
            self.world
                .surprise(format!("{} was refused with {status}: {body}", self.cursor));
        }
    }
}
