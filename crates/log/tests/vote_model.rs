//! The protocol of votes, checked in every state that it can get into within bounds: messages are
//! lost, doubled, late and out of order, nodes crash and lose what they had not flushed, any node
//! campaigns at any time. G11: no acknowledged commit is missing in a later primary's log, no ballot
//! has two primaries, no two acknowledged logs differ. A protocol without one of its rules is found.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use springhead_log::vote::{
    Ballot, Durable, Message, NodeId, Omitted, Output, Position, Role, Voter,
};
use springhead_proto::Lsn;

/// What may happen at most.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    ballots: u32,
    writes: usize,
    crashes: u8,
    /// Times that a primary goes on alone, and that it takes the other back.
    alone: u8,
}

/// A log, as the ballot of each of its commits.
type Commits = Vec<u32>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wire {
    Vote(Message),
    /// The primary's log as it is, and where its ballot forked.
    Frames {
        ballot: Ballot,
        fork: usize,
        log: Commits,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    voter: Voter,
    log: Commits,
    flushed: usize,
    fork: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    data: [Node; 2],
    witness: Voter,
    /// Everything ever sent: each may come at any time, again and again, or never.
    network: BTreeSet<(NodeId, NodeId, Wire)>,
    crashes: u8,
    alone: u8,
    /// Who was primary of which ballot, and its log when it began.
    primaries: BTreeMap<u32, (NodeId, Commits)>,
    /// The longest log of which each ballot's primary has acknowledged all.
    acknowledged: BTreeMap<u32, Commits>,
}

impl State {
    fn new(omitted: Omitted) -> State {
        let voter = |id| Voter::new(NodeId(id), 2, Durable::new(2, Ballot(0))).without(omitted);
        let node = |id| Node {
            voter: voter(id),
            log: Vec::new(),
            flushed: 0,
            fork: 0,
        };
        State {
            data: [node(0), node(1)],
            witness: voter(2),
            network: BTreeSet::new(),
            crashes: 0,
            alone: 0,
            primaries: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        }
    }

    fn position(&self, node: usize) -> Position {
        let node = &self.data[node];
        let flushed = &node.log[..node.flushed];
        Position {
            ballot: Ballot(flushed.last().copied().unwrap_or(0)),
            lsn: Lsn(flushed.len() as u64),
        }
    }

    /// Does what a voter says; a message why G11 is broken.
    fn perform(&mut self, id: u8, outputs: Vec<Output>) -> Result<(), String> {
        let own = NodeId(id);
        for output in outputs {
            match output {
                // Steps are whole: a crash between this and what follows is a lost message.
                Output::Persist(_) | Output::StepDown { .. } => {}
                Output::Send { to, message } => {
                    self.network.insert((own, to, Wire::Vote(message)));
                }
                Output::BecomePrimary { ballot } => self.begin(id, ballot)?,
                Output::Acknowledge { lsn } => {
                    let node = &self.data[usize::from(id)];
                    let ballot = node.voter.durable().promised;
                    let length = usize::try_from(lsn.0).expect("short");
                    let log = node.log[..length].to_vec();
                    self.acknowledged.insert(ballot.0, log);
                }
            }
        }
        self.check()
    }

    fn begin(&mut self, id: u8, ballot: Ballot) -> Result<(), String> {
        let node = &mut self.data[usize::from(id)];
        node.flushed = node.log.len();
        node.fork = node.log.len();
        let begun = (NodeId(id), node.log.clone());
        let lsn = Lsn(node.flushed as u64);
        if let Some((other, _)) = self.primaries.insert(ballot.0, begun) {
            return Err(format!("{ballot:?} has two primaries, {other:?} and {id}"));
        }
        self.send_frames(id);
        let outputs = self.data[usize::from(id)].voter.flushed(lsn);
        self.perform(id, outputs)
    }

    fn send_frames(&mut self, id: u8) {
        let node = &self.data[usize::from(id)];
        let frames = Wire::Frames {
            ballot: node.voter.durable().promised,
            fork: node.fork,
            log: node.log.clone(),
        };
        self.network.insert((NodeId(id), NodeId(1 - id), frames));
    }

    fn check(&self) -> Result<(), String> {
        for (ballot, log) in &self.acknowledged {
            for (later, (_, begun)) in self.primaries.range(ballot + 1..) {
                if !begun.starts_with(log) {
                    return Err(format!(
                        "acknowledged in ballot {ballot}: {log:?}; primary of {later} began with {begun:?}"
                    ));
                }
            }
            for (later, other) in self.acknowledged.range(ballot + 1..) {
                if !other.starts_with(log) && !log.starts_with(other) {
                    return Err(format!(
                        "acknowledged in {ballot}: {log:?}, in {later}: {other:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A data node gets frames. As in the log: what differs behind the fork is cut, the rest follows.
    fn take_frames(
        &mut self,
        id: u8,
        ballot: Ballot,
        fork: usize,
        log: &Commits,
    ) -> Result<(), String> {
        let node = &mut self.data[usize::from(id)];
        let Some(outputs) = node.voter.follow(ballot) else {
            return Ok(());
        };
        let same = node.log.iter().zip(log).take_while(|(own, new)| own == new);
        let same = same.count();
        let is_beginning = same == log.len() && node.log.len() > same;
        let of_this_ballot = node.log[same..].iter().all(|own| *own == ballot.0);
        if !(is_beginning && of_this_ballot && same >= fork) {
            node.log.clone_from(log);
        }
        node.flushed = node.log.len();
        let lsn = Lsn(same.max(log.len()) as u64);
        self.perform(id, outputs)?;
        let message = Message::Acknowledged { ballot, lsn };
        self.network
            .insert((NodeId(id), NodeId(1 - id), Wire::Vote(message)));
        Ok(())
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, wire: &Wire) -> Result<(), String> {
        match wire {
            Wire::Frames { ballot, fork, log } => self.take_frames(to.0, *ballot, *fork, log),
            Wire::Vote(message) if to.0 == 2 => {
                let outputs = self.witness.receive(from, *message, Position::default());
                self.perform(2, outputs)
            }
            Wire::Vote(message) => {
                let position = self.position(usize::from(to.0));
                let voter = &mut self.data[usize::from(to.0)].voter;
                let outputs = voter.receive(from, *message, position);
                self.perform(to.0, outputs)
            }
        }
    }

    fn crash(&mut self, id: usize, omitted: Omitted) {
        let node = &mut self.data[id];
        let durable = *node.voter.durable();
        node.log.truncate(node.flushed);
        let id = u8::try_from(id).expect("small");
        node.voter = Voter::new(NodeId(id), 2, durable).without(omitted);
        node.fork = 0;
        self.crashes += 1;
    }

    /// Every state that can follow, with what led there.
    fn next(&self, bounds: Bounds, omitted: Omitted) -> Vec<(String, Result<State, String>)> {
        let mut all = Vec::new();
        let mut step = |what: String, change: &dyn Fn(&mut State) -> Result<(), String>| {
            let mut next = self.clone();
            let done = change(&mut next);
            if done.is_err() || next != *self {
                all.push((what, done.map(|()| next)));
            }
        };
        for (from, to, wire) in &self.network {
            step(format!("{from:?} to {to:?}: {wire:?}"), &|state| {
                state.deliver(*from, *to, wire)
            });
        }
        for id in 0..2u8 {
            let place = usize::from(id);
            let node = &self.data[place];
            let is_primary = matches!(node.voter.role(), Role::Primary(_));
            if !is_primary && node.voter.durable().promised.0 < bounds.ballots {
                step(format!("{id} campaigns"), &|state| {
                    let position = state.position(place);
                    let outputs = state.data[place].voter.campaign(position);
                    state.perform(id, outputs)
                });
            }
            if is_primary && node.voter.durable().promised.0 + 1 < bounds.ballots {
                step(format!("{id} renews"), &|state| {
                    let position = state.position(place);
                    let outputs = state.data[place].voter.renew(position);
                    state.perform(id, outputs)
                });
            }
            if is_primary && node.log.len() < bounds.writes {
                step(format!("{id} writes"), &|state| {
                    let ballot = state.data[place].voter.durable().promised;
                    state.data[place].log.push(ballot.0);
                    state.send_frames(id);
                    Ok(())
                });
            }
            if is_primary && node.flushed < node.log.len() {
                step(format!("{id} flushes"), &|state| {
                    let node = &mut state.data[place];
                    node.flushed = node.log.len();
                    let outputs = node.voter.flushed(Lsn(node.flushed as u64));
                    state.perform(id, outputs)
                });
            }
            if is_primary && self.alone < bounds.alone {
                step(format!("{id} goes on alone"), &|state| {
                    state.alone += 1;
                    let outputs = state.data[place].voter.go_on_alone();
                    state.perform(id, outputs)
                });
                step(format!("{id} reminds"), &|state| {
                    state.alone += 1;
                    let outputs = state.data[place].voter.remind();
                    state.perform(id, outputs)
                });
                step(format!("{id} takes the other back"), &|state| {
                    state.alone += 1;
                    let outputs = state.data[place].voter.rejoin(NodeId(1 - id));
                    state.perform(id, outputs)
                });
            }
            if self.crashes < bounds.crashes {
                step(format!("{id} crashes"), &|state| {
                    state.crash(place, omitted);
                    Ok(())
                });
            }
        }
        all
    }
}

/// What a search came to.
struct Searched {
    states: usize,
    /// A way to a state in which G11 is broken.
    broken: Option<String>,
}

/// Visits states breadth first, `max_states` at most.
fn search(bounds: Bounds, omitted: Omitted, max_states: usize) -> Searched {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    // 128 bits of each: two states are not taken for one by chance.
    let mark = |state: &State| (hasher.hash_one(state), hasher.hash_one((state, 1)));
    let first = State::new(omitted);
    let mut seen = HashSet::from([mark(&first)]);
    let mut queue = VecDeque::from([first]);
    while let Some(state) = queue.pop_front() {
        for (what, next) in state.next(bounds, omitted) {
            match next {
                Err(why) => {
                    return Searched {
                        states: seen.len(),
                        broken: Some(format!("{why}, after {what} in {state:#?}")),
                    };
                }
                Ok(next) => {
                    if seen.len() < max_states && seen.insert(mark(&next)) {
                        queue.push_back(next);
                    }
                }
            }
        }
    }
    Searched {
        states: seen.len(),
        broken: None,
    }
}

const SMALL: Bounds = Bounds {
    ballots: 2,
    writes: 1,
    crashes: 1,
    alone: 2,
};

/// As many states as a test of the suite may take; all there are with `SPRINGHEAD_MODEL_STATES`.
fn max_states() -> usize {
    std::env::var("SPRINGHEAD_MODEL_STATES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60_000)
}

#[test]
fn g11_no_acknowledged_commit_is_lost_and_no_two_primaries_acknowledge() {
    let deep = Bounds {
        ballots: 3,
        writes: 2,
        crashes: 2,
        alone: 3,
    };
    for (bounds, max_states) in [(SMALL, max_states()), (deep, max_states())] {
        let searched = search(bounds, Omitted::default(), max_states);
        println!(
            "{bounds:?}: {} states{}",
            searched.states,
            if searched.states < max_states {
                ", all there are"
            } else {
                ""
            }
        );
        assert!(
            searched.broken.is_none(),
            "{}",
            searched.broken.unwrap_or_default()
        );
    }
}

/// Random ways through much larger bounds; a failure names its seed, and the same seed goes the same
/// way.
fn walk(seed: u64, omitted: Omitted) -> Result<(State, usize), String> {
    let bounds = Bounds {
        ballots: 7,
        writes: 6,
        crashes: 6,
        alone: 8,
    };
    let mut state = State::new(omitted);
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut steps = 0;
    for _ in 0..120 {
        let mut next = state.next(bounds, omitted);
        if next.is_empty() {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let count = next.len() as u64;
        let chosen = usize::try_from((random >> 11) % count).expect("small");
        let (what, chosen) = next.swap_remove(chosen);
        state = chosen.map_err(|why| format!("seed {seed}, step {steps} ({what}): {why}"))?;
        steps += 1;
    }
    Ok((state, steps))
}

fn walks() -> u64 {
    std::env::var("SPRINGHEAD_MODEL_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(80)
}

#[test]
fn g11_random_ways_through_many_ballots_lose_nothing() {
    let (mut steps, mut ballots, mut acknowledged) = (0, 0, 0);
    for seed in 1..=walks() {
        let (state, taken) = walk(seed, Omitted::default()).expect("G11 holds");
        steps += taken;
        ballots += state.primaries.len();
        acknowledged += state.acknowledged.values().map(Vec::len).sum::<usize>();
        if seed.is_multiple_of(50) {
            let (again, _) = walk(seed, Omitted::default()).expect("G11 holds");
            assert_eq!(again, state, "one seed, one way");
        }
    }
    println!(
        "{} seeds: {steps} steps, {ballots} primaries, {acknowledged} commits acknowledged",
        walks()
    );
    assert!(ballots > 0 && acknowledged > 0, "something happened");
}

/// Each rule is needed: without it a search finds how a commit is lost, or two primaries.
#[track_caller]
fn check_broken(omitted: Omitted) {
    const TINY: Bounds = Bounds {
        ballots: 2,
        writes: 1,
        crashes: 0,
        alone: 1,
    };
    for bounds in [TINY, SMALL] {
        let searched = search(bounds, omitted, 400_000);
        println!("{omitted:?} {bounds:?}: {} states", searched.states);
        if let Some(broken) = searched.broken {
            println!("{broken:.160}");
            return;
        }
    }
    panic!("without the rule G11 does not hold, and the search must find it");
}

#[test]
fn g11_without_comparing_positions_the_check_finds_a_loss() {
    let omitted = Omitted {
        compare_positions: true,
        ..Omitted::default()
    };
    check_broken(omitted);
}

#[test]
fn g11_without_fenced_acknowledgements_the_check_finds_a_loss() {
    let omitted = Omitted {
        fence_acknowledgements: true,
        ..Omitted::default()
    };
    check_broken(omitted);
}

#[test]
fn g11_without_the_witness_knowing_who_is_in_sync_the_check_finds_a_loss() {
    let omitted = Omitted {
        check_in_sync: true,
        ..Omitted::default()
    };
    check_broken(omitted);
}
