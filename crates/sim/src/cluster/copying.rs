//! Logs that follow one another: a follower asks from where it stands, its primary answers with frames,
//! with a place to cut back to, or with a log to begin anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use springhead_log::conformance::labels_in;
use springhead_log::segment::{SegmentLog, begin_copy, truncate};
use springhead_log::vote::{Ballot, Message, NodeId, Position, Role};
use springhead_log::{Log, NoProgress, RawItem, RawLimit, RawLog, RawPosition, ReadFilter};
use springhead_proto::Lsn;

use super::{Cluster, DIR, Node, SEGMENT_BYTES, Wire, config};

impl Cluster {
    /// A follower asks a primary.
    pub(super) fn fetched(
        &mut self,
        from: NodeId,
        to: NodeId,
        ballot: Ballot,
        at: RawPosition,
        ends: Option<Vec<RawPosition>>,
    ) {
        let now_ms = self.now_ms;
        let running = self.nodes[usize::from(to.0)]
            .running
            .as_mut()
            .expect("it is up");
        let current = running.voter.durable().promised;
        let Role::Primary(primary) = *running.voter.role() else {
            return;
        };
        running.voter.saw(ballot);
        let log = running.log.as_ref().expect("a data node has a log");
        let held = log.holds(at).unwrap_or(false);
        let mut outputs = Vec::new();
        // Only what is a beginning of this log, and was taken for this ballot, counts.
        if held && ballot == current {
            running.heard_ms = now_ms;
            let message = Message::Acknowledged {
                ballot,
                lsn: at.lsn,
            };
            outputs = running.voter.receive(from, message, position_of(log));
            if !primary.required().contains(from) {
                outputs.extend(running.voter.rejoin(from));
            }
        }
        let answer = answer(log, current, at, held, ends.as_deref());
        self.perform(to, outputs);
        self.send(to, from, answer);
    }

    /// A follower does what its primary says.
    pub(super) fn follow(&mut self, from: NodeId, to: NodeId, wire: Wire) {
        let node = &mut self.nodes[usize::from(to.0)];
        let Some(running) = node.running.as_mut() else {
            return;
        };
        let log = running.log.take().expect("a data node has a log");
        let written = log.identity().written;
        match wire {
            Wire::Frames {
                ballot,
                at,
                items,
                durable,
            } => {
                let log = if log.follows() {
                    Some(log)
                } else {
                    // It was primary until now.
                    log.close();
                    drop(log);
                    open_follower(node)
                };
                let Some(log) = log else { return };
                let log = node.running.as_mut().expect("it is up").log.insert(log);
                if written != at || take(log, &items, durable).is_err() {
                    return;
                }
                let has_all = durable > Lsn::ZERO && log.identity().written.lsn >= durable;
                let fetch = Wire::Fetch {
                    ballot,
                    at: log.identity().written,
                    ends: None,
                };
                if has_all {
                    let running = node.running.as_mut().expect("it is up");
                    let outputs = running.voter.caught_up();
                    self.perform(to, outputs);
                }
                let is_off = self.nodes[usize::from(to.0)].disk.is_off();
                if !items.is_empty() && !is_off {
                    self.send(to, from, fetch);
                }
            }
            Wire::Cut { at, after, .. } => {
                log.close();
                drop(log);
                if written == at {
                    self.report.truncations += 1;
                    let cut = truncate(&node.disk, Path::new(DIR), after);
                    assert!(cut.is_ok() || node.disk.is_off(), "{cut:?}");
                }
                node.reopen();
            }
            Wire::Copy {
                at, epochs, header, ..
            } => {
                log.close();
                drop(log);
                if written == at {
                    self.report.copies += 1;
                    let outputs = running.voter.forget_log();
                    self.perform(to, outputs);
                    let node = &mut self.nodes[usize::from(to.0)];
                    if node.disk.is_off() {
                        return;
                    }
                    let dir = Path::new(DIR);
                    let begun = begin_copy(&node.disk, dir, SEGMENT_BYTES, &epochs, &header);
                    assert!(begun.is_ok() || node.disk.is_off(), "{begun:?}");
                }
                self.nodes[usize::from(to.0)].reopen();
            }
            Wire::Vote(_) | Wire::Fetch { .. } => running.log = Some(log),
        }
    }
}

impl Node {
    /// Opens the log again as a follower's.
    fn reopen(&mut self) {
        let log = open_follower(self);
        if let Some(running) = &mut self.running {
            // Without one its power is off, and it is about to be noticed.
            running.log = log;
        }
    }
}

/// `None` if the power goes off meanwhile.
pub(super) fn open_follower(node: &Node) -> Option<SegmentLog> {
    let (disk, clock) = (Arc::new(node.disk.clone()), node.clock.clone());
    match SegmentLog::open_on(disk, Path::new(DIR), config(true), clock, &NoProgress) {
        Ok(log) => Some(log),
        Err(_) if node.disk.is_off() => None,
        Err(error) => panic!("a log can be opened after any power cut: {error}"),
    }
}

/// Where a log ends, for votes: the number of its last history, and its end.
pub(super) fn position_of(log: &SegmentLog) -> Position {
    let identity = log.identity();
    Position {
        ballot: Ballot(identity.epochs.last().map_or(0, |record| record.number)),
        lsn: identity.written.lsn,
    }
}

/// What a primary says to a follower that stands at `at`.
fn answer(
    log: &SegmentLog,
    ballot: Ballot,
    at: RawPosition,
    held: bool,
    ends: Option<&[RawPosition]>,
) -> Wire {
    if held {
        let mut items = Vec::new();
        let read = log
            .raw_reader(at, RawLimit::Written)
            .and_then(|mut reader| reader.read(&mut items, 16 << 10));
        if read.is_err() {
            items.clear();
        }
        return Wire::Frames {
            ballot,
            at,
            items,
            durable: log.tail().durable,
        };
    }
    let shared = ends
        .unwrap_or_default()
        .iter()
        .find(|end| log.holds(**end).unwrap_or(false));
    if let Some(shared) = shared {
        return Wire::Cut {
            ballot,
            at,
            after: shared.lsn,
        };
    }
    let nothing = Wire::Frames {
        ballot,
        at,
        items: Vec::new(),
        durable: Lsn(0),
    };
    if ends.is_none() {
        // It says where it might be cut with one of its next questions.
        return nothing;
    }
    let mut items = Vec::new();
    let start = log
        .segment_start(log.earliest())
        .expect("a log has a start");
    let read = log
        .raw_reader(start, RawLimit::Durable)
        .and_then(|mut reader| reader.read(&mut items, 1));
    match items.first() {
        Some(RawItem::Segment { header, .. }) if read.is_ok() => Wire::Copy {
            ballot,
            at,
            epochs: log.epochs(),
            header: header.to_vec(),
        },
        _ => nothing,
    }
}

/// A follower takes what came.
fn take(
    log: &SegmentLog,
    items: &[RawItem],
    durable: Lsn,
) -> Result<(), springhead_log::FollowError> {
    for item in items {
        match item {
            RawItem::Segment { header, epoch, .. } => log.follow_segment(header, epoch)?,
            RawItem::Frames { from, bytes, .. } => log.follow_frames(*from, bytes)?,
        };
    }
    if !items.is_empty() {
        log.follow_flush()?;
    }
    log.announce(durable)?;
    Ok(())
}

/// The label of each commit that readers see, with its last LSN; `None` if the disk cannot be read.
pub(super) fn commits_of(log: &SegmentLog) -> Option<BTreeMap<String, Lsn>> {
    let mut reader = log.reader(log.earliest(), ReadFilter::default()).ok()?;
    let mut slices = Vec::new();
    while reader.read(&mut slices, 1 << 20).ok()? < log.tail().durable {}
    let mut found = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.index == 0) {
        let label = labels_in(slice)[0].0.clone();
        let twice = found.insert(label, slice.commit_last_lsn());
        assert!(twice.is_none(), "a commit is there twice");
    }
    Some(found)
}
