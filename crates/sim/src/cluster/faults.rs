//! What goes wrong in a cluster, and how its nodes go down and come back.

use std::collections::BTreeMap;
use std::path::Path;

use springhead_log::Clock as _;
use springhead_log::segment::{SegmentLog, load_vote};
use springhead_log::vote::{Ballot, Durable, MAX_DATA_NODES, NodeId, Voter};

use super::copying::open_follower;
use super::events::Event;
use super::{Cluster, DIR, ELECTION_MS, Node, POLL_MS, Running};
use crate::disk::Faults;

/// As far as a clock jumps, either way.
const JUMP_MS: u64 = 3 * 24 * 3600 * 1000;
/// Room that a full disk has left, at most.
const LEFT_BYTES: u64 = 48 << 10;
/// A process is stopped for longer than every timeout, at most.
const STOP_MS: u64 = 1_500;

impl Node {
    /// Whether its disk has a reason not to take a write.
    pub(super) fn may_fail(&self) -> bool {
        self.full || self.disk.is_off()
    }
}

impl Cluster {
    fn any_node(&mut self) -> NodeId {
        let count = u64::from(self.data_nodes) + 1;
        NodeId(u8::try_from(self.random.below(count)).expect("small"))
    }

    /// Something goes wrong, or well again.
    pub(super) fn fault(&mut self) {
        let id = self.any_node();
        let data_nodes = self.data_nodes;
        let further = u8::try_from(self.random.below(data_nodes.into())).expect("small");
        let other = NodeId((id.0 + 1 + further) % (data_nodes + 1));
        match self.random.below(16) {
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
            3 => self.end_process(id),
            4 | 5 => self.cut.push((id, other)),
            6 | 7 => self.cut.extend([(id, other), (other, id)]),
            8 => {
                let times = 2 + self.random.below(12);
                self.flap(id, other, times);
            }
            9 => self.stop(id),
            10 => self.jump(id),
            11 => self.fill(id),
            _ => self.cut.clear(),
        }
    }

    /// All is well from now on.
    pub(super) fn end_faults(&mut self) {
        self.faults = false;
        self.cut.clear();
        for id in 0..self.nodes.len() {
            let node = &mut self.nodes[id];
            node.disk.set_faults(Faults::default());
            node.stopped_until_ms = 0;
            self.make_room(NodeId(u8::try_from(id).expect("small")));
        }
    }

    pub(super) fn flap(&mut self, from: NodeId, to: NodeId, left: u64) {
        let link = (from, to);
        let before = self.cut.len();
        self.cut.retain(|cut| *cut != link);
        if left == 0 || !self.faults {
            return;
        }
        if self.cut.len() == before {
            self.cut.push(link);
        }
        let after = 5 + self.random.below(80);
        self.schedule(after, Event::Flap(from, to, left - 1));
    }

    /// As SIGSTOP and, later, SIGCONT.
    fn stop(&mut self, id: NodeId) {
        self.report.stops += 1;
        let until = self.now_ms + 50 + self.random.below(STOP_MS);
        self.nodes[usize::from(id.0)].stopped_until_ms = until;
    }

    /// An administrator or a time server sets a wall clock.
    fn jump(&mut self, id: NodeId) {
        self.report.clock_jumps += 1;
        let by = self.random.below(2 * JUMP_MS);
        let clock = &self.nodes[usize::from(id.0)].clock;
        clock.jump_to(clock.now_ms() + by - JUMP_MS);
    }

    fn fill(&mut self, id: NodeId) {
        self.report.full_disks += 1;
        let left = self.random.below(LEFT_BYTES);
        let node = &mut self.nodes[usize::from(id.0)];
        node.full = true;
        node.disk.set_capacity_bytes(node.disk.used_bytes() + left);
        let after = 100 + self.random.below(1_000);
        self.schedule(after, Event::Room(id));
    }

    pub(super) fn make_room(&mut self, id: NodeId) {
        let node = &mut self.nodes[usize::from(id.0)];
        node.full = false;
        node.disk.set_capacity_bytes(u64::MAX);
    }

    pub(super) fn notice_power_cuts(&mut self) {
        for id in 0..self.nodes.len() {
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
        self.report.power_cuts += 1;
        self.restart_later(id, 800);
    }

    /// A process is killed, or ends since it cannot go on: what it has written stays, flushed or not.
    pub(super) fn end_process(&mut self, id: NodeId) {
        let node = &mut self.nodes[usize::from(id.0)];
        if node.disk.is_off() {
            return self.power_cut(id);
        }
        if node.running.take().is_none() {
            return;
        }
        self.report.kills += 1;
        self.restart_later(id, 400);
    }

    fn restart_later(&mut self, id: NodeId, within_ms: u64) {
        self.nodes[usize::from(id.0)].stopped_until_ms = 0;
        let after = 10 + self.random.below(within_ms);
        self.schedule(after, Event::Restart(id));
    }

    /// A number for what a follower asks from now on.
    pub(super) fn ask_anew(&mut self) -> u64 {
        self.last_asking += 1;
        self.last_asking
    }

    /// Starts a node with what it had durable.
    pub(super) fn start(&mut self, id: NodeId) {
        let patience_ms = ELECTION_MS + self.random.below(ELECTION_MS);
        let asking = self.ask_anew();
        let now_ms = self.now_ms;
        let node = &mut self.nodes[usize::from(id.0)];
        if node.running.is_some() {
            return;
        }
        let first_time = now_ms == 0;
        let data_nodes = self.data_nodes;
        let is_data = id.0 < data_nodes;
        let durable = load_vote(&node.disk, Path::new(DIR));
        let log = if is_data { open_follower(node) } else { None };
        if node.disk.is_off() {
            node.disk.power_cycle();
            self.schedule(50, Event::Restart(id));
            return;
        }
        if is_data && log.is_none() {
            // Its disk is too full to open the log.
            self.schedule(50, Event::Restart(id));
            return;
        }
        let durable = durable.expect("a promise is whole");
        let doubtful = log
            .as_ref()
            .and_then(SegmentLog::cut_tail)
            .is_some_and(|cut| cut.doubtful);
        node.running = Some(Running {
            voter: Voter::new(
                id,
                data_nodes,
                durable.unwrap_or_else(|| Durable::new(data_nodes, Ballot(1))),
            ),
            log,
            heard_ms: now_ms,
            followers_ms: [now_ms; MAX_DATA_NODES],
            patience_ms,
            asking,
            waiting: BTreeMap::new(),
        });
        if is_data && first_time {
            self.schedule(POLL_MS, Event::Poll(id));
        }
        if doubtful && let Some(running) = &mut self.nodes[usize::from(id.0)].running {
            let outputs = running.voter.forget_log();
            self.perform(id, outputs);
        }
    }
}
