//! Two or three data nodes and a witness over a simulated network, clock and disk: the real protocol of votes,
//! real segment logs that follow each other byte for byte, real cuts back to a fork. One seed is one
//! run; the same seed is the same run.
//!
//! ```text
//! events by time ─► node (voter + log on its SimDisk) ─► messages with delay, loss, doubles, partitions
//!                     clients append at whoever is primary ─► acknowledged?  ─► checked
//! ```
//!
//! What can happen: power cuts of any node at any call of its disk, kills, restarts, links cut one way or
//! both, flapping and healed, messages lost, doubled and out of order, processes stopped past every
//! timeout, clocks that jump by days, full disks, campaigns at bad moments. What must hold (G11): a
//! primary's log has everything that any earlier one acknowledged, no ballot has two primaries, and once
//! all is well again the nodes become quiet, and both logs are the same and have every acknowledged
//! commit once.

mod copying;
mod events;
mod faults;

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use springhead_log::conformance::commit_of;
use springhead_log::disk::Disk as _;
use springhead_log::segment::{Identity, SegmentConfig, SegmentLog, store_vote};
use springhead_log::vote::{
    Ballot, MAX_DATA_NODES, Members, Message, NodeId, Output, Position, Role, Voter,
};
use springhead_log::{AppendError, Log, ManualClock, NoProgress, RawLog};
use springhead_proto::{Epoch, Lsn};

use self::copying::{commits_of, position_of};
use self::events::{Event, PopIfBefore as _, Scheduled, Trace, Wire};
use crate::disk::SimDisk;
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
    /// Processes killed, or ended by themselves since they could not write down what they had to.
    pub kills: u64,
    /// Processes stopped for a while.
    pub stops: u64,
    pub clock_jumps: u64,
    pub full_disks: u64,
    pub truncations: u64,
    /// Logs made anew from the primary's.
    pub copies: u64,
    pub alone: u64,
    /// Of everything that happened, so that two runs can be compared.
    pub trace: u64,
}

struct Node {
    id: NodeId,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    /// `None` while it is down.
    running: Option<Running>,
    /// Its process is stopped until then; what comes for it waits.
    stopped_until_ms: u64,
    /// Its disk has little room left, or none.
    full: bool,
}

struct Running {
    voter: Voter,
    /// The witness has none.
    log: Option<SegmentLog>,
    /// When it last heard of a primary.
    heard_ms: u64,
    /// A primary: when it last heard of each follower.
    followers_ms: [u64; MAX_DATA_NODES],
    /// Drawn anew before each campaign.
    patience_ms: u64,
    /// What it asks its primary in; see [`Wire`].
    asking: u64,
    /// Commits that a client waits for, by their last LSN.
    waiting: BTreeMap<Lsn, String>,
}

/// See the module's text.
pub struct Cluster {
    /// The data nodes first, then the witness.
    nodes: Vec<Node>,
    data_nodes: u8,
    random: Rng,
    now_ms: u64,
    events: BinaryHeap<Scheduled>,
    scheduled: u64,
    /// Links that carry nothing: from, to.
    cut: Vec<(NodeId, NodeId)>,
    faults: bool,
    next_label: u64,
    last_asking: u64,
    /// What clients were told, with the last LSN and the ballot of the primary that told them.
    acknowledged: BTreeMap<String, (Lsn, Ballot)>,
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
    /// A cluster that has just been set up: all `data_nodes` with the same empty log.
    ///
    /// # Panics
    /// If there are more than [`MAX_DATA_NODES`].
    #[must_use]
    pub fn new(seed: u64, data_nodes: u8) -> Cluster {
        assert!(
            usize::from(data_nodes) <= MAX_DATA_NODES,
            "they cannot vote"
        );
        let mut random = Rng::new(seed);
        let identity = Identity {
            cluster_id: 1,
            history_id: u128::from(random.next()),
            epoch: Epoch(1),
        };
        let nodes = (0..=data_nodes).map(|id| {
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
                stopped_until_ms: 0,
                full: false,
            };
            if id < data_nodes {
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
            data_nodes,
            random,
            now_ms: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            cut: Vec::new(),
            faults: true,
            next_label: 0,
            last_asking: 0,
            acknowledged: BTreeMap::new(),
            primaries: BTreeMap::new(),
            report: Report::default(),
            seed,
        };
        for id in 0..=data_nodes {
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
        self.end_faults();
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

    /// A primary and followers that have all of it, durable.
    fn is_settled(&self) -> bool {
        let (data, witness) = self.nodes.split_at(usize::from(self.data_nodes));
        let ends = data.iter().map(|node| {
            let running = node.running.as_ref()?;
            let log = running.log.as_ref()?.identity();
            // A history that ended before it had a segment is known to whoever began it alone.
            Some((
                (log.written, log.durable, log.epochs.last().copied()),
                matches!(running.voter.role(), Role::Primary(_)),
            ))
        });
        let Some(ends) = ends.collect::<Option<Vec<_>>>() else {
            return false;
        };
        let primaries = ends.iter().filter(|(_, is_primary)| *is_primary);
        primaries.count() == 1
            && ends.iter().all(|(end, _)| *end == ends[0].0)
            && witness.iter().all(|node| node.running.is_some())
    }

    fn trace(&mut self, event: &Event) {
        let mut trace = Trace(self.report.trace);
        let now_ms = self.now_ms;
        match event {
            Event::Deliver(from, to, wire) => write!(trace, "{now_ms} {from:?} {to:?} {wire}"),
            other => write!(trace, "{now_ms} {other:?}"),
        }
        .expect("it takes everything");
        self.report.trace = trace.0;
    }

    fn happen(&mut self, event: Event) {
        if let Some(id) = event.for_process() {
            let until_ms = self.nodes[usize::from(id.0)].stopped_until_ms;
            if until_ms > self.now_ms {
                self.schedule(until_ms - self.now_ms, event);
                return;
            }
        }
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
            Event::Flap(from, to, left) => self.flap(from, to, left),
            Event::Room(id) => self.make_room(id),
        }
        self.notice_power_cuts();
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
        let others = (0..self.data_nodes)
            .map(NodeId)
            .filter(|other| *other != id);
        let Some(running) = self.nodes[usize::from(id.0)].running.as_mut() else {
            return;
        };
        let silent_ms = now_ms - running.heard_ms;
        let log = running.log.as_ref().expect("a data node has a log");
        if let Role::Primary(primary) = *running.voter.role() {
            let ballot = running.voter.durable().promised;
            if self.data_nodes > 2 && running.voter.must_renew() {
                // Whoever has promised more may follow another primary. As servers do.
                self.send(id, NodeId(self.data_nodes), Wire::Look { ballot });
                return;
            }
            let renewed = running.voter.renew(position_of(log));
            if !renewed.is_empty() {
                running.heard_ms = now_ms;
                running.followers_ms = [now_ms; MAX_DATA_NODES];
                self.perform(id, renewed);
                return;
            }
            let lost = others.filter(|other| {
                let heard_ms = running.followers_ms[usize::from(other.0)];
                primary.required().contains(*other) && now_ms - heard_ms > ALONE_MS
            });
            let lost = Members::of(lost);
            let outputs = if lost == Members::default() {
                running.voter.remind()
            } else {
                self.report.alone += 1;
                go_on_without(&mut running.voter, lost, self.data_nodes)
            };
            self.perform(id, outputs);
            return;
        }
        if silent_ms > running.patience_ms {
            running.heard_ms = now_ms;
            running.patience_ms = ELECTION_MS + self.random.below(ELECTION_MS);
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
            asking: running.asking,
            ballot: running.voter.durable().promised,
            at: log.identity().written,
            ends,
        };
        // Whichever of them is its primary answers.
        for other in others {
            self.send(id, other, fetch.clone());
        }
    }

    /// A client writes at a node that takes itself for the primary.
    fn write(&mut self) {
        let count = usize::from(self.data_nodes);
        let start = usize::try_from(self.random.below(count as u64)).expect("small");
        for id in (0..count).map(|place| (start + place) % count) {
            let node = &mut self.nodes[id];
            let Some(running) = node.running.as_mut() else {
                continue;
            };
            let is_stopped = node.stopped_until_ms > self.now_ms;
            if is_stopped || !matches!(running.voter.role(), Role::Primary(_)) {
                continue;
            }
            let own = node.id;
            self.next_label += 1;
            let label = self.next_label.to_string();
            let (count, padding) = match self.random.below(15) {
                0 => (60, 300),
                _ => (1 + self.random.below(3), 100),
            };
            let log = running.log.as_ref().expect("a data node has a log");
            let appended = match log.append(vec![commit_of(1, 100, count, &label, padding)]) {
                Ok(appended) => appended,
                Err(AppendError::Refused(_)) => return,
                Err(AppendError::Poisoned(_)) => return self.end_process(own),
            };
            let last = appended.first_lsn.plus(count - 1);
            running.waiting.insert(last, label);
            let outputs = running.voter.flushed(last);
            self.perform(own, outputs);
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
                if outputs.iter().any(Output::grants) {
                    running.heard_ms = self.now_ms;
                }
                self.perform(to, outputs);
            }
            Wire::Look { ballot } => {
                let promised = running.voter.durable().promised;
                self.send(to, from, Wire::Promised { ballot, promised });
            }
            Wire::Promised { ballot, promised } => self.renew(from, to, ballot, promised),
            Wire::Fetch { .. } => self.fetched(from, to, wire),
            Wire::Frames { ballot, asking, .. }
            | Wire::Cut { ballot, asking, .. }
            | Wire::Copy { ballot, asking, .. } => {
                if asking != running.asking {
                    return;
                }
                let Some(outputs) = running.voter.follow(ballot) else {
                    return;
                };
                running.heard_ms = self.now_ms;
                self.perform(to, outputs);
                let node = &self.nodes[usize::from(to.0)];
                if node.running.is_some() && !node.disk.is_off() {
                    self.follow(from, to, wire);
                }
            }
        }
    }

    /// The witness has said to a primary of `ballot` what it has promised.
    fn renew(&mut self, witness: NodeId, id: NodeId, ballot: Ballot, promised: Ballot) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[usize::from(id.0)];
        let Some(running) = node.running.as_mut() else {
            return;
        };
        if running.voter.durable().promised != ballot {
            return;
        }
        let position = running
            .log
            .as_ref()
            .map_or_else(Position::default, position_of);
        let outputs = if promised > ballot {
            let deposed = Message::Vote {
                ballot,
                granted: false,
                promised,
            };
            running.voter.receive(witness, deposed, position)
        } else {
            running.followers_ms = [now_ms; MAX_DATA_NODES];
            running.voter.renew(position)
        };
        running.heard_ms = now_ms;
        self.perform(id, outputs);
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
                        // What follows must not be done, and nobody knows what is promised.
                        assert!(node.may_fail(), "seed {}", self.seed);
                        return self.end_process(id);
                    }
                }
                Output::Send { to, message } => self.send(id, to, Wire::Vote(message)),
                Output::StepDown { .. } => running.waiting.clear(),
                Output::BecomePrimary { ballot } => self.become_primary(id, ballot),
                Output::Acknowledge { lsn } => {
                    let later = running.waiting.split_off(&lsn.next());
                    let told = std::mem::replace(&mut running.waiting, later);
                    let ballot = running.voter.durable().promised;
                    let told = told.into_iter();
                    self.acknowledged
                        .extend(told.map(|(lsn, label)| (label, (lsn, ballot))));
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
        running.followers_ms = [self.now_ms; MAX_DATA_NODES];
        let log = running.log.as_ref().expect("a data node has a log");
        if log.begin_epoch_as(identity, ballot.0).is_err() {
            // It comes back as a follower.
            assert!(node.may_fail(), "seed {seed}");
            return self.end_process(id);
        }
        let other = self.primaries.insert(ballot, id);
        assert!(other.is_none(), "seed {seed}: {ballot:?} has two primaries");
        let Some(found) = commits_of(log) else {
            assert!(node.disk.is_off(), "seed {seed}");
            return;
        };
        // One whose votes come late may begin after a later one has acknowledged something, and never
        // acknowledge anything itself.
        let earlier = self.acknowledged.iter().filter(|(_, (_, of))| *of < ballot);
        for (label, (lsn, _)) in earlier {
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
        for node in &self.nodes[..usize::from(self.data_nodes)] {
            let running = node.running.as_ref().expect("all are up");
            let log = running.log.as_ref().expect("a data node has a log");
            let found = commits_of(log).expect("all is well");
            for (label, (lsn, _)) in &self.acknowledged {
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

/// What a primary says that has lost some of those that it waits for.
fn go_on_without(voter: &mut Voter, lost: Members, data_nodes: u8) -> Vec<Output> {
    if data_nodes == 2 {
        return voter.go_on_alone();
    }
    let wished = voter.go_on_without(lost);
    if wished.is_empty() {
        // The same wish: said again.
        return voter.remind();
    }
    wished
}
