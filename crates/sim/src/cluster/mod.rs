//! Two data nodes and a witness over a simulated network, clock and disk: the real protocol of votes,
//! real segment logs that follow each other byte for byte, real cuts back to a fork. One seed is one
//! run; the same seed is the same run.
//!
//! ```text
//! events by time ─► node (voter + log on its SimDisk) ─► messages with delay, loss, doubles, partitions
//!                     clients append at whoever is primary ─► acknowledged?  ─► checked
//! ```
//!
//! What can happen: power cuts of any node at any call of its disk, restarts, links cut one way or both
//! and healed, messages lost, doubled and out of order, campaigns at bad moments. What must hold (G11):
//! a primary's log has everything that any earlier one acknowledged, no ballot has two primaries, and
//! once all is well again both logs are the same and have every acknowledged commit once.

mod copying;

use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;
use std::sync::Arc;

use springhead_log::conformance::commit_of;
use springhead_log::disk::Disk as _;
use springhead_log::segment::{Identity, SegmentConfig, SegmentLog, load_vote, store_vote};
use springhead_log::vote::{Ballot, Durable, Message, NodeId, Output, Position, Role, Voter};
use springhead_log::{EpochRecord, Log, ManualClock, NoProgress, RawItem, RawLog, RawPosition};
use springhead_proto::{Epoch, Lsn};

use self::copying::{commits_of, open_follower, position_of};
use crate::disk::{Faults, SimDisk};
use crate::rng::Rng;

const DIR: &str = "/log";
const SEGMENT_BYTES: u64 = 64 << 10;
/// A follower asks for more this often.
const POLL_MS: u64 = 20;
/// A client writes this often.
const WRITE_MS: u64 = 15;
/// A follower that has not heard of a primary for that long, and as much again by chance, campaigns.
const ELECTION_MS: u64 = 300;
/// A primary that has not heard of its follower for that long wants to go on alone.
const ALONE_MS: u64 = 400;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    pub acknowledged: usize,
    pub primaries: usize,
    pub power_cuts: u64,
    pub truncations: u64,
    /// Logs made anew from the primary's.
    pub copies: u64,
    pub alone: u64,
    /// Of everything that happened, so that two runs can be compared.
    pub trace: u64,
}

/// What goes over the network.
#[derive(Debug, Clone)]
enum Wire {
    Vote(Message),
    /// A follower's place, and what it has flushed there; `ends`, now and then, where its log might be
    /// cut.
    Fetch {
        ballot: Ballot,
        at: RawPosition,
        ends: Option<Vec<RawPosition>>,
    },
    Frames {
        ballot: Ballot,
        at: RawPosition,
        items: Vec<RawItem>,
        durable: Lsn,
    },
    /// The follower's log is no beginning of this one's: cut it here, or begin anew.
    Cut {
        ballot: Ballot,
        /// Where the follower stood when it asked: it may have gone on since.
        at: RawPosition,
        after: Lsn,
    },
    Copy {
        ballot: Ballot,
        at: RawPosition,
        epochs: Vec<EpochRecord>,
        header: Vec<u8>,
    },
}

impl Wire {
    /// Without the bytes of frames.
    fn in_short(&self) -> String {
        match self {
            Wire::Vote(message) => format!("{message:?}"),
            Wire::Fetch { ballot, at, .. } => format!("fetch {ballot:?} {at:?}"),
            Wire::Frames {
                ballot,
                at,
                items,
                durable,
            } => format!("frames {ballot:?} {at:?} {} {durable}", items.len()),
            Wire::Cut { ballot, at, after } => format!("cut {ballot:?} {at:?} {after}"),
            Wire::Copy { ballot, at, .. } => format!("copy {ballot:?} {at:?}"),
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Deliver(NodeId, NodeId, Wire),
    Poll(NodeId),
    Write,
    Fault,
    Restart(NodeId),
}

struct Scheduled {
    at_ms: u64,
    /// In the order in which they were scheduled.
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at_ms, self.number) == (other.at_ms, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        // The heap gives the greatest first.
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

struct Node {
    id: NodeId,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    /// `None` while it is down.
    running: Option<Running>,
}

struct Running {
    voter: Voter,
    /// The witness has none.
    log: Option<SegmentLog>,
    /// When it last heard of a primary; a primary: of its follower.
    heard_ms: u64,
    patience_ms: u64,
    /// Commits that a client waits for, by their last LSN.
    waiting: BTreeMap<Lsn, String>,
}

/// See the module's text.
pub struct Cluster {
    nodes: Vec<Node>,
    random: Rng,
    now_ms: u64,
    events: BinaryHeap<Scheduled>,
    scheduled: u64,
    /// Links that carry nothing: from, to.
    cut: Vec<(NodeId, NodeId)>,
    faults: bool,
    next_label: u64,
    /// What clients were told, with the last LSN.
    acknowledged: BTreeMap<String, Lsn>,
    primaries: BTreeMap<Ballot, NodeId>,
    report: Report,
    seed: u64,
}

fn config(follows: bool) -> SegmentConfig {
    SegmentConfig {
        segment_bytes: SEGMENT_BYTES,
        large_commit_bytes: 8 << 10,
        reserve_bytes: 0,
        spare_segments: 0,
        background: false,
        follows,
        ..SegmentConfig::default()
    }
}

impl Cluster {
    /// A cluster that has just been set up: both data nodes with the same empty log.
    #[must_use]
    pub fn new(seed: u64) -> Cluster {
        let mut random = Rng::new(seed);
        let identity = Identity {
            cluster_id: 1,
            history_id: u128::from(random.next()),
            epoch: Epoch(1),
        };
        let nodes = (0..3).map(|id| {
            let disk = SimDisk::new(random.next());
            // Clocks are apart, by days.
            let clock = Arc::new(ManualClock::at(
                1_790_000_000_000 + random.below(600_000_000),
            ));
            let node = Node {
                id: NodeId(id),
                disk,
                clock,
                running: None,
            };
            if id < 2 {
                let config = SegmentConfig {
                    identity: Some(identity),
                    ..config(false)
                };
                let disk = Arc::new(node.disk.clone());
                // The same header on both, so that one follows the other from the start.
                let clock = Arc::new(ManualClock::at(1_790_000_000_000));
                SegmentLog::open_on(disk, Path::new(DIR), config, clock, &NoProgress)
                    .expect("a new log");
            } else {
                node.disk.create_dir(Path::new(DIR)).expect("a directory");
            }
            node
        });
        let mut cluster = Cluster {
            nodes: nodes.collect(),
            random,
            now_ms: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            cut: Vec::new(),
            faults: true,
            next_label: 0,
            acknowledged: BTreeMap::new(),
            primaries: BTreeMap::new(),
            report: Report::default(),
            seed,
        };
        for id in 0..3 {
            cluster.start(NodeId(id));
        }
        cluster.schedule(WRITE_MS, Event::Write);
        cluster.schedule(100, Event::Fault);
        cluster
    }

    fn schedule(&mut self, after_ms: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Scheduled {
            at_ms: self.now_ms + after_ms,
            number: self.scheduled,
            event,
        });
    }

    /// Runs for `ms`, with faults, then lets all be well until it is quiet, and checks.
    ///
    /// # Panics
    /// If G11 is broken; says the seed.
    pub fn run(mut self, ms: u64) -> Report {
        self.run_until(ms);
        self.faults = false;
        self.cut.clear();
        for id in 0..3 {
            self.nodes[id].disk.set_faults(Faults::default());
        }
        let end = self.now_ms + 20_000;
        while self.now_ms < end {
            let to = self.now_ms + 500;
            self.run_until(to);
            if self.is_settled() {
                break;
            }
        }
        if !self.is_settled() {
            let nodes = self.nodes.iter().map(|node| {
                let running = node.running.as_ref();
                running.map(|running| {
                    let log = running.log.as_ref().map(SegmentLog::identity);
                    format!("{:#?} {log:#?}", running.voter)
                })
            });
            let nodes: Vec<_> = nodes.flatten().collect();
            panic!(
                "seed {}: it never became quiet: {}",
                self.seed,
                nodes.join("\n")
            );
        }
        self.check_logs();
        self.report.acknowledged = self.acknowledged.len();
        self.report.primaries = self.primaries.len();
        self.report
    }

    fn run_until(&mut self, ms: u64) {
        while let Some(next) = self.events.pop_if_before(ms) {
            let passed = next.at_ms - self.now_ms;
            self.now_ms = next.at_ms;
            for node in &self.nodes {
                node.clock.advance(passed);
            }
            self.trace(&next.event);
            self.happen(next.event);
        }
        self.now_ms = ms;
    }

    /// A primary and a follower that has all of it, durable.
    fn is_settled(&self) -> bool {
        let end = |id: usize| {
            let running = self.nodes[id].running.as_ref()?;
            let log = running.log.as_ref()?;
            Some((
                log.identity(),
                matches!(running.voter.role(), Role::Primary(_)),
            ))
        };
        match (end(0), end(1)) {
            (Some((one, primary_one)), Some((two, primary_two))) => {
                primary_one != primary_two && one == two && self.nodes[2].running.is_some()
            }
            _ => false,
        }
    }

    fn trace(&mut self, event: &Event) {
        let what = match event {
            Event::Deliver(from, to, wire) => format!("{from:?} {to:?} {}", wire.in_short()),
            other => format!("{other:?}"),
        };
        for byte in format!("{} {what}", self.now_ms).bytes() {
            self.report.trace =
                (self.report.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(from, to, wire) => {
                if !self.cut.contains(&(from, to)) {
                    self.receive(from, to, wire);
                }
            }
            Event::Poll(id) => {
                self.poll(id);
                self.schedule(POLL_MS, Event::Poll(id));
            }
            Event::Write => {
                self.write();
                if self.faults || self.now_ms.is_multiple_of(2) {
                    self.schedule(WRITE_MS, Event::Write);
                }
            }
            Event::Fault if self.faults => {
                self.fault();
                let after = 20 + self.random.below(400);
                self.schedule(after, Event::Fault);
            }
            Event::Fault => {}
            Event::Restart(id) => self.start(id),
        }
        self.notice_power_cuts();
    }

    /// Something goes wrong, or well again.
    fn fault(&mut self) {
        let id = NodeId(u8::try_from(self.random.below(3)).expect("small"));
        let other = NodeId((id.0 + 1 + u8::try_from(self.random.below(2)).expect("small")) % 3);
        match self.random.below(8) {
            0 | 1 => {
                // Somewhere within what it does next, or at once.
                let call = 1 + self.random.below(40);
                let faults = Faults {
                    power_off_at: Some(call),
                    ..Faults::default()
                };
                self.nodes[usize::from(id.0)].disk.set_faults(faults);
            }
            2 => self.power_cut(id),
            3 => self.cut.push((id, other)),
            4 => self.cut.extend([(id, other), (other, id)]),
            _ => self.cut.clear(),
        }
    }

    fn notice_power_cuts(&mut self) {
        for id in 0..3 {
            if self.nodes[id].running.is_some() && self.nodes[id].disk.is_off() {
                self.power_cut(NodeId(u8::try_from(id).expect("small")));
            }
        }
    }

    fn power_cut(&mut self, id: NodeId) {
        let node = &mut self.nodes[usize::from(id.0)];
        if node.running.take().is_none() {
            return;
        }
        node.disk.power_cycle();
        node.disk.set_faults(Faults::default());
        self.report.power_cuts += 1;
        let after = 10 + self.random.below(800);
        self.schedule(after, Event::Restart(id));
    }

    /// Starts a node with what it had durable.
    fn start(&mut self, id: NodeId) {
        let patience_ms = ELECTION_MS + self.random.below(ELECTION_MS);
        let now_ms = self.now_ms;
        let node = &mut self.nodes[usize::from(id.0)];
        if node.running.is_some() {
            return;
        }
        let first_time = now_ms == 0;
        let durable = load_vote(&node.disk, Path::new(DIR));
        let log = if id.0 < 2 { open_follower(node) } else { None };
        if node.disk.is_off() {
            node.disk.power_cycle();
            node.disk.set_faults(Faults::default());
            self.schedule(50, Event::Restart(id));
            return;
        }
        let durable = durable.expect("a promise is whole");
        let doubtful = log
            .as_ref()
            .and_then(SegmentLog::cut_tail)
            .is_some_and(|cut| cut.doubtful);
        node.running = Some(Running {
            voter: Voter::new(id, 2, durable.unwrap_or_else(|| Durable::new(2, Ballot(1)))),
            log,
            heard_ms: now_ms,
            patience_ms,
            waiting: BTreeMap::new(),
        });
        if id.0 < 2 && first_time {
            self.schedule(POLL_MS, Event::Poll(id));
        }
        if doubtful && let Some(running) = &mut self.nodes[usize::from(id.0)].running {
            let outputs = running.voter.forget_log();
            self.perform(id, outputs);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, wire: Wire) {
        let copies = if self.faults {
            match self.random.below(20) {
                0 => 0,
                1 => 2,
                _ => 1,
            }
        } else {
            1
        };
        for _ in 0..copies {
            let delay = 1 + self.random.below(if self.faults { 40 } else { 3 });
            self.schedule(delay, Event::Deliver(from, to, wire.clone()));
        }
    }

    /// A data node looks at the time: a follower asks for more or campaigns, a primary sees whether it
    /// is followed.
    fn poll(&mut self, id: NodeId) {
        let now_ms = self.now_ms;
        let Some(running) = self.nodes[usize::from(id.0)].running.as_mut() else {
            return;
        };
        let silent_ms = now_ms - running.heard_ms;
        let log = running.log.as_ref().expect("a data node has a log");
        if let Role::Primary(primary) = *running.voter.role() {
            let other = NodeId(1 - id.0);
            let renewed = running.voter.renew(position_of(log));
            if !renewed.is_empty() {
                running.heard_ms = now_ms;
                self.perform(id, renewed);
                return;
            }
            let mut outputs = running.voter.remind();
            if silent_ms > ALONE_MS && primary.required().contains(other) {
                self.report.alone += 1;
                outputs = running.voter.go_on_alone();
            }
            self.perform(id, outputs);
            return;
        }
        if silent_ms > running.patience_ms {
            running.heard_ms = now_ms;
            let position = position_of(log);
            let outputs = running.voter.campaign(position);
            self.perform(id, outputs);
            return;
        }
        let ends = self
            .random
            .chance(20)
            .then(|| log.frame_ends(12).unwrap_or_default());
        let fetch = Wire::Fetch {
            ballot: running.voter.durable().promised,
            at: log.identity().written,
            ends,
        };
        self.send(id, NodeId(1 - id.0), fetch);
    }

    /// A client writes at a node that takes itself for the primary.
    fn write(&mut self) {
        let start = usize::try_from(self.random.below(2)).expect("small");
        for id in [start, 1 - start] {
            let Some(running) = self.nodes[id].running.as_mut() else {
                continue;
            };
            if !matches!(running.voter.role(), Role::Primary(_)) {
                continue;
            }
            self.next_label += 1;
            let label = self.next_label.to_string();
            let (count, padding) = match self.random.below(15) {
                0 => (60, 300),
                _ => (1 + self.random.below(3), 100),
            };
            let log = running.log.as_ref().expect("a data node has a log");
            let Ok(appended) = log.append(vec![commit_of(1, 100, count, &label, padding)]) else {
                return;
            };
            let last = appended.first_lsn.plus(count - 1);
            running.waiting.insert(last, label);
            let outputs = running.voter.flushed(last);
            self.perform(NodeId(u8::try_from(id).expect("small")), outputs);
            return;
        }
    }

    fn receive(&mut self, from: NodeId, to: NodeId, wire: Wire) {
        let Some(running) = self.nodes[usize::from(to.0)].running.as_mut() else {
            return;
        };
        match wire {
            Wire::Vote(message) => {
                let position = running
                    .log
                    .as_ref()
                    .map_or_else(Position::default, position_of);
                let outputs = running.voter.receive(from, message, position);
                self.perform(to, outputs);
            }
            Wire::Fetch { ballot, at, ends } => self.fetched(from, to, ballot, at, ends),
            Wire::Frames { ballot, .. } | Wire::Cut { ballot, .. } | Wire::Copy { ballot, .. } => {
                let Some(outputs) = running.voter.follow(ballot) else {
                    return;
                };
                running.heard_ms = self.now_ms;
                self.perform(to, outputs);
                if !self.nodes[usize::from(to.0)].disk.is_off() {
                    self.follow(from, to, wire);
                }
            }
        }
    }

    fn perform(&mut self, id: NodeId, outputs: Vec<Output>) {
        for output in outputs {
            let node = &mut self.nodes[usize::from(id.0)];
            let Some(running) = node.running.as_mut() else {
                return;
            };
            match output {
                Output::Persist(durable) => {
                    if store_vote(&node.disk, Path::new(DIR), &durable).is_err() {
                        // What follows must not be done; the power is off.
                        assert!(node.disk.is_off(), "seed {}", self.seed);
                        return;
                    }
                }
                Output::Send { to, message } => self.send(id, to, Wire::Vote(message)),
                Output::StepDown { .. } => running.waiting.clear(),
                Output::BecomePrimary { ballot } => self.become_primary(id, ballot),
                Output::Acknowledge { lsn } => {
                    let later = running.waiting.split_off(&lsn.next());
                    let told = std::mem::replace(&mut running.waiting, later);
                    self.acknowledged
                        .extend(told.into_iter().map(|(lsn, label)| (label, lsn)));
                }
            }
        }
    }

    fn become_primary(&mut self, id: NodeId, ballot: Ballot) {
        let seed = self.seed;
        let identity = Identity {
            cluster_id: 1,
            history_id: u128::from(self.random.next()),
            epoch: Epoch(u32::try_from(self.random.below(1 << 32)).expect("32 bits")),
        };
        let node = &mut self.nodes[usize::from(id.0)];
        let running = node.running.as_mut().expect("it is up");
        running.heard_ms = self.now_ms;
        let log = running.log.as_ref().expect("a data node has a log");
        if log.begin_epoch_as(identity, ballot.0).is_err() {
            // Its power is off: it comes back as a follower.
            assert!(node.disk.is_off(), "seed {seed}");
            return;
        }
        let other = self.primaries.insert(ballot, id);
        assert!(other.is_none(), "seed {seed}: {ballot:?} has two primaries");
        let Some(found) = commits_of(log) else {
            assert!(node.disk.is_off(), "seed {seed}");
            return;
        };
        for (label, lsn) in &self.acknowledged {
            assert_eq!(
                found.get(label),
                Some(lsn),
                "seed {seed}: {ballot:?} begins without the acknowledged commit {label}"
            );
        }
        let outputs = running.voter.flushed(log.tail().durable);
        self.perform(id, outputs);
    }

    fn check_logs(&self) {
        for node in &self.nodes[..2] {
            let running = node.running.as_ref().expect("all are up");
            let log = running.log.as_ref().expect("a data node has a log");
            let found = commits_of(log).expect("all is well");
            for (label, lsn) in &self.acknowledged {
                assert_eq!(
                    found.get(label),
                    Some(lsn),
                    "seed {}: node {:?} has lost {label}",
                    self.seed,
                    node.id
                );
            }
        }
    }
}

trait PopIfBefore {
    fn pop_if_before(&mut self, ms: u64) -> Option<Scheduled>;
}

impl PopIfBefore for BinaryHeap<Scheduled> {
    fn pop_if_before(&mut self, ms: u64) -> Option<Scheduled> {
        if self.peek()?.at_ms > ms {
            return None;
        }
        self.pop()
    }
}
