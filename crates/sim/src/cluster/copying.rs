//! Logs that follow one another: a follower asks from where it stands, its primary answers with frames,
//! with a place to cut back to, or with a log to begin anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use springhead_log::conformance::labels_in;
use springhead_log::disk::Disk as _;
use springhead_log::segment::{
    Identity, SegmentConfig, SegmentLog, begin_copy, load_vote, truncate,
};
use springhead_log::vote::{Ballot, Message, NodeId, Position, Role};
use springhead_log::{
    AppendError, EpochRecord, FollowError, Log, LogError, NoProgress, RawItem, RawLimit, RawLog,
    RawPosition, ReadFilter,
};
use springhead_proto::{Epoch, Lsn};

use super::events::Wire;
use super::{Cluster, DIR, Node, SEGMENT_BYTES, config};

impl Cluster {
    /// A follower asks a primary.
    pub(super) fn fetched(&mut self, from: NodeId, to: NodeId, wire: Wire) {
        let Wire::Fetch {
            asking,
            ballot,
            at,
            ends,
        } = wire
        else {
            return;
        };
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
            running.followers_ms[usize::from(from.0)] = now_ms;
            let message = Message::Acknowledged {
                ballot,
                lsn: at.lsn,
            };
            outputs = running.voter.receive(from, message, position_of(log));
            if !primary.required().contains(from) {
                outputs.extend(running.voter.rejoin(from));
            }
        }
        let asked = Asked {
            asking,
            ballot: current,
            at,
        };
        let answer = asked.answer(log, held, ends.as_deref());
        self.perform(to, outputs);
        if self.nodes[usize::from(to.0)].running.is_some() {
            self.send(to, from, answer);
        }
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
                asking,
            } => {
                let log = if log.follows() {
                    Some(log)
                } else {
                    // It was primary until now.
                    log.close();
                    drop(log);
                    open_follower(node)
                };
                let Some(log) = log else {
                    return self.end_process(to);
                };
                let log = node.running.as_mut().expect("it is up").log.insert(log);
                if written != at {
                    return;
                }
                match take(log, &items, durable) {
                    Ok(()) => {}
                    Err(FollowError::Append(AppendError::Poisoned(_))) => {
                        return self.end_process(to);
                    }
                    Err(_) => return,
                }
                let has_all = durable > Lsn::ZERO && log.identity().written.lsn >= durable;
                let fetch = Wire::Fetch {
                    asking,
                    ballot,
                    at: log.identity().written,
                    ends: None,
                };
                if has_all {
                    let running = node.running.as_mut().expect("it is up");
                    let outputs = running.voter.caught_up();
                    self.perform(to, outputs);
                }
                let node = &self.nodes[usize::from(to.0)];
                let is_up = node.running.is_some() && !node.disk.is_off();
                if !items.is_empty() && is_up {
                    self.send(to, from, fetch);
                }
            }
            Wire::Cut { at, after, .. } => {
                log.close();
                drop(log);
                if written == at {
                    self.report.truncations += 1;
                    let cut = truncate(&node.disk, Path::new(DIR), after);
                    assert!(cut.is_ok() || node.may_fail(), "{cut:?}");
                }
                self.reopen(to);
            }
            Wire::Copy {
                at, epochs, header, ..
            } => {
                log.close();
                drop(log);
                if written == at {
                    self.begin_again(to, &epochs, &header);
                }
                self.reopen(to);
            }
            Wire::Vote(_) | Wire::Fetch { .. } | Wire::Look { .. } | Wire::Promised { .. } => {
                running.log = Some(log);
            }
        }
    }
}

impl Cluster {
    /// Begins the log, which nobody has open, as a copy of the primary's.
    fn begin_again(&mut self, id: NodeId, epochs: &[EpochRecord], header: &[u8]) {
        self.report.copies += 1;
        let Some(running) = self.nodes[usize::from(id.0)].running.as_mut() else {
            return;
        };
        let outputs = running.voter.forget_log();
        self.perform(id, outputs);
        let node = &self.nodes[usize::from(id.0)];
        if node.running.is_some() && !node.disk.is_off() {
            let begun = begin_copy(&node.disk, Path::new(DIR), SEGMENT_BYTES, epochs, header);
            assert!(begun.is_ok() || node.may_fail(), "{begun:?}");
        }
    }

    /// Opens the log again as a follower's, and asks anew.
    fn reopen(&mut self, id: NodeId) {
        let asking = self.ask_anew();
        let node = &mut self.nodes[usize::from(id.0)];
        if node.running.is_none() {
            return;
        }
        let log = open_follower(node);
        let Some(running) = &mut node.running else {
            return;
        };
        running.asking = asking;
        running.log = log;
        if running.log.is_none() {
            self.end_process(id);
        }
    }
}

/// `None` if the power goes off meanwhile, or there is no room.
pub(super) fn open_follower(node: &Node) -> Option<SegmentLog> {
    match open(node, config(true)) {
        Ok(log) => Some(log),
        Err(_) if node.may_fail() => None,
        Err(_) if is_forgotten(node) => begin_anew(node),
        Err(error) => panic!("a log can be opened after any power cut: {error}"),
    }
}

fn open(node: &Node, config: SegmentConfig) -> Result<SegmentLog, LogError> {
    let (disk, clock) = (Arc::new(node.disk.clone()), node.clock.clone());
    SegmentLog::open_on(disk, Path::new(DIR), config, clock, &NoProgress)
}

/// Whether a copy had begun when the node went down: there is no log then, or half of one.
fn is_forgotten(node: &Node) -> bool {
    let durable = load_vote(&node.disk, Path::new(DIR));
    matches!(durable, Ok(Some(durable)) if !durable.may_lead)
}

/// An empty log of no history that anyone else has, so that the primary has it begin a copy again.
fn begin_anew(node: &Node) -> Option<SegmentLog> {
    let dir = Path::new(DIR);
    for name in node.disk.list(dir).ok()? {
        let is_log = name.ends_with(".seg") || name == "epochs" || name == "truncated";
        if is_log || name.starts_with("spare-") {
            node.disk.remove(&dir.join(name)).ok()?;
        }
    }
    node.disk.sync_dir(dir).ok()?;
    let identity = Identity {
        cluster_id: 1,
        history_id: u128::from(node.id.0) + 1,
        epoch: Epoch(0),
    };
    let begun = SegmentConfig {
        identity: Some(identity),
        ..config(false)
    };
    drop(open(node, begun).ok()?);
    open(node, config(true)).ok()
}

/// Where a log ends, for votes: the number of its last history, and its end.
pub(super) fn position_of(log: &SegmentLog) -> Position {
    let identity = log.identity();
    Position {
        ballot: Ballot(identity.epochs.last().map_or(0, |record| record.number)),
        lsn: identity.written.lsn,
    }
}

/// What a follower that stands at `at` has asked a primary of `ballot`.
#[derive(Clone, Copy)]
struct Asked {
    asking: u64,
    ballot: Ballot,
    at: RawPosition,
}

impl Asked {
    /// What the primary says.
    fn answer(self, log: &SegmentLog, held: bool, ends: Option<&[RawPosition]>) -> Wire {
        let at = self.at;
        if held {
            let mut items = Vec::new();
            let read = log
                .raw_reader(at, RawLimit::Written)
                .and_then(|mut reader| reader.read(&mut items, 16 << 10));
            if read.is_err() {
                items.clear();
            }
            return self.frames(items, log.tail().durable);
        }
        let shared = ends
            .unwrap_or_default()
            .iter()
            .find(|end| log.holds(**end).unwrap_or(false));
        if let Some(shared) = shared {
            return Wire::Cut {
                asking: self.asking,
                ballot: self.ballot,
                at,
                after: shared.lsn,
            };
        }
        let nothing = self.frames(Vec::new(), Lsn::ZERO);
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
                asking: self.asking,
                ballot: self.ballot,
                at,
                epochs: log.epochs(),
                header: header.to_vec(),
            },
            _ => nothing,
        }
    }

    fn frames(self, items: Vec<RawItem>, durable: Lsn) -> Wire {
        Wire::Frames {
            asking: self.asking,
            ballot: self.ballot,
            at: self.at,
            items,
            durable,
        }
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
