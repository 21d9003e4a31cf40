//! The model: some data nodes and a witness, their logs as the ballots of their commits, and a network
//! that keeps everything ever sent. Each step is one thing that can happen; a state with all that can
//! follow it is what a search needs. G11 is checked after each step.

use std::cell::RefCell;
use std::collections::HashMap;

use springhead_log::vote::{
    Ballot, Durable, Members, Message, NodeId, Omitted, Output, Position, Role, Voter,
};
use springhead_proto::Lsn;

/// What is checked in every state, for what a search prints.
pub const INVARIANTS: &[&str] = &[
    "a ballot has one primary at most",
    "a primary begins with everything that any earlier one has acknowledged",
    "of two acknowledged logs one is a beginning of the other",
    "whoever the witness calls in sync has everything acknowledged",
    "a promise never goes back, and is made to one node only",
];

/// What may happen at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// As servers of more than two data nodes do: candidates ask nobody but the witness.
    pub asks_witness_only: bool,
    /// The highest ballot; at most [`MAX_BALLOTS`].
    pub ballots: u32,
    /// Commits in a log; at most [`MAX_WRITES`].
    pub writes: usize,
    pub crashes: u8,
    /// Changes of who is in sync that one primary asks for.
    pub changes: u32,
}

pub const MAX_BALLOTS: usize = 8;
pub const MAX_WRITES: usize = 6;

/// A log, as the ballot of each of its commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Commits {
    length: u8,
    ballots: [u8; MAX_WRITES],
}

impl Commits {
    fn all(&self) -> &[u8] {
        &self.ballots[..self.len()]
    }

    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    fn push(&mut self, ballot: Ballot) {
        self.ballots[self.len()] = u8::try_from(ballot.0).expect("bounded");
        self.length += 1;
    }

    fn cut(&mut self, length: usize) {
        self.ballots[length..].fill(0);
        self.length = u8::try_from(length).expect("bounded");
    }

    fn first(mut self, length: usize) -> Commits {
        self.cut(length);
        self
    }

    fn begins_with(&self, other: &Commits) -> bool {
        self.all().starts_with(other.all())
    }

    fn lsn(&self) -> Lsn {
        Lsn(u64::from(self.length))
    }
}

/// One message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wire {
    from: NodeId,
    to: NodeId,
    what: What,
    /// Whom the witness holds to be in sync, as it says with all that it says.
    in_sync: Option<Members>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Vote(Message),
    /// The primary's log as it is, and where its ballot forked.
    Frames {
        ballot: Ballot,
        fork: u8,
        log: Commits,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    voter: Voter,
    log: Commits,
    flushed: usize,
    fork: u8,
}

/// A primary as it began: who, with which log.
type Begun = Option<(NodeId, Commits)>;

/// Everything there is at one moment. History that no check needs any more is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State<const N: usize> {
    data: [Node; N],
    witness: Voter,
    /// Everything sent that can still change anything, by its number in [`Model::messages`], in order:
    /// each may come at any time, again and again, or never.
    network: Vec<u32>,
    crashes: u8,
    /// By ballot.
    begun: [Begun; MAX_BALLOTS + 1],
    /// The longest log of which each ballot's primary has acknowledged all.
    acknowledged: [Commits; MAX_BALLOTS + 1],
}

impl<const N: usize> State<N> {
    /// Primaries there have been, and commits that were acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        let commits = self.acknowledged.iter().map(Commits::len);
        (self.begun.iter().flatten().count(), commits.sum())
    }
}

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Deliver(u32),
    Campaign(u8),
    Renew(u8),
    Write(u8),
    Flush(u8),
    GoOnAlone(u8),
    GoOnWithout(u8, Members),
    Remind(u8),
    TakeBack(u8, NodeId),
    /// And that much of its log is left: nothing that it had flushed is lost.
    Crash(u8, usize),
}

/// Numbers of messages.
#[derive(Default)]
struct Messages {
    numbers: HashMap<Wire, u32>,
    all: Vec<Wire>,
}

/// What can happen, and which rules hold.
pub struct Model<const N: usize> {
    bounds: Bounds,
    omitted: Omitted,
    messages: RefCell<Messages>,
}

/// Why G11 is broken.
pub type Broken = String;

impl<const N: usize> Model<N> {
    const COUNT: u8 = {
        assert!(N <= 5, "as many as there may be");
        #[allow(clippy::cast_possible_truncation, reason = "it is five at most")]
        let count = N as u8;
        count
    };

    pub fn new(bounds: Bounds, omitted: Omitted) -> Model<N> {
        let fits = bounds.writes <= MAX_WRITES
            && usize::try_from(bounds.ballots).is_ok_and(|ballots| ballots <= MAX_BALLOTS);
        assert!(
            fits,
            "no more than {MAX_BALLOTS} ballots and {MAX_WRITES} writes"
        );
        Model {
            bounds,
            omitted,
            messages: RefCell::default(),
        }
    }

    pub fn first(&self) -> State<N> {
        let count = Model::<N>::COUNT;
        let voter = |id| {
            let durable = Durable::new(count, Ballot(0));
            Voter::new(NodeId(id), count, durable).without(self.omitted)
        };
        let mut ids = 0..count;
        let node = |()| Node {
            voter: voter(ids.next().expect("there are as many")),
            log: Commits::default(),
            flushed: 0,
            fork: 0,
        };
        State {
            data: [(); N].map(node),
            witness: voter(count),
            network: Vec::new(),
            crashes: 0,
            begun: [None; MAX_BALLOTS + 1],
            acknowledged: [Commits::default(); MAX_BALLOTS + 1],
        }
    }

    fn message(&self, number: u32) -> Wire {
        self.messages.borrow().all[usize::try_from(number).expect("small")]
    }

    fn send(&self, state: &mut State<N>, from: NodeId, to: NodeId, what: What) {
        if self.bounds.asks_witness_only
            && matches!(what, What::Vote(Message::RequestVote { .. }))
            && usize::from(to.0) < N
        {
            return;
        }
        let is_of_witness = usize::from(from.0) == N;
        let wire = Wire {
            from,
            to,
            what,
            in_sync: is_of_witness.then(|| state.witness.durable().in_sync),
        };
        let mut messages = self.messages.borrow_mut();
        let next = u32::try_from(messages.all.len()).expect("there are not that many");
        let number = *messages.numbers.entry(wire).or_insert(next);
        if number == next {
            messages.all.push(wire);
        }
        if let Err(place) = state.network.binary_search(&number) {
            state.network.insert(place, number);
        }
    }

    /// What can happen in `state`.
    pub fn steps(&self, state: &State<N>) -> Vec<Step> {
        let mut steps: Vec<Step> = state.network.iter().copied().map(Step::Deliver).collect();
        // The data nodes are alike: whoever is first to do anything is called 0.
        let is_first = *state == self.first();
        let nodes = 0..if is_first { 1 } else { Model::<N>::COUNT };
        for id in nodes {
            let node = &state.data[usize::from(id)];
            if matches!(node.voter.role(), Role::Primary(_)) {
                steps.extend([Step::Renew(id), Step::Remind(id)]);
                if N == 2 {
                    steps.push(Step::GoOnAlone(id));
                }
                let lost = others::<N>(id).fold(vec![Members::default()], |all, other| {
                    let with = all.iter().map(|lost| lost.with(other)).collect::<Vec<_>>();
                    [all, with].concat()
                });
                let lost = lost.into_iter().skip(1);
                steps.extend(lost.map(|lost| Step::GoOnWithout(id, lost)));
                steps.extend(others::<N>(id).map(|other| Step::TakeBack(id, other)));
                if node.log.len() < self.bounds.writes {
                    steps.push(Step::Write(id));
                }
                if node.flushed < node.log.len() {
                    steps.push(Step::Flush(id));
                }
            } else {
                steps.push(Step::Campaign(id));
            }
            if state.crashes < self.bounds.crashes {
                steps.extend((node.flushed..=node.log.len()).map(|kept| Step::Crash(id, kept)));
            }
        }
        steps
    }

    /// The state after `step`; `None` if it is beyond the bounds, or nothing has changed.
    pub fn after(&self, state: &State<N>, step: Step) -> Option<Result<State<N>, Broken>> {
        let mut next = state.clone();
        if let Err(broken) = self.take(&mut next, step) {
            return Some(Err(broken));
        }
        self.forget_dead(&mut next);
        if !self.is_within(&next) || next == *state {
            return None;
        }
        Some(check_promises(state, &next).map(|()| next))
    }

    fn is_within(&self, state: &State<N>) -> bool {
        state.data.iter().all(|node| {
            let changes = match node.voter.role() {
                Role::Primary(primary) => primary.changes(),
                _ => 0,
            };
            node.voter.durable().promised.0 <= self.bounds.ballots && changes <= self.bounds.changes
        })
    }

    fn take(&self, state: &mut State<N>, step: Step) -> Result<(), Broken> {
        let (id, outputs) = match step {
            Step::Deliver(number) => return self.deliver(state, self.message(number)),
            Step::Crash(id, kept) => {
                self.crash(state, id, kept);
                return Ok(());
            }
            Step::Write(id) => {
                let node = &mut state.data[usize::from(id)];
                node.log.push(node.voter.durable().promised);
                self.send_frames(state, id);
                return Ok(());
            }
            Step::Flush(id) => {
                let node = &mut state.data[usize::from(id)];
                node.flushed = node.log.len();
                (id, node.voter.flushed(node.log.lsn()))
            }
            Step::Campaign(id) | Step::Renew(id) => {
                let node = &mut state.data[usize::from(id)];
                let position = position(node);
                match step {
                    Step::Renew(_) => (id, node.voter.renew(position)),
                    _ => (id, node.voter.campaign(position)),
                }
            }
            Step::GoOnAlone(id) => (id, state.data[usize::from(id)].voter.go_on_alone()),
            Step::GoOnWithout(id, lost) => {
                let voter = &mut state.data[usize::from(id)].voter;
                (id, voter.go_on_without(lost))
            }
            Step::Remind(id) => (id, state.data[usize::from(id)].voter.remind()),
            Step::TakeBack(id, other) => {
                let voter = &mut state.data[usize::from(id)].voter;
                (id, voter.rejoin(other))
            }
        };
        self.perform(state, id, outputs)
    }

    /// Does what a voter says. A step is whole: a crash between what is made durable and what follows
    /// is the same as a lost message.
    fn perform(&self, state: &mut State<N>, id: u8, outputs: Vec<Output>) -> Result<(), Broken> {
        for output in outputs {
            match output {
                Output::Persist(_) | Output::StepDown { .. } => {}
                Output::Send { to, message } => {
                    self.send(state, NodeId(id), to, What::Vote(message));
                }
                Output::BecomePrimary { ballot } => self.begin(state, id, ballot)?,
                Output::Acknowledge { lsn } => {
                    let node = &state.data[usize::from(id)];
                    let length = usize::try_from(lsn.0).expect("short");
                    let ballot = index(node.voter.durable().promised);
                    state.acknowledged[ballot] = node.log.first(length);
                }
            }
        }
        check_logs(state)
    }

    fn begin(&self, state: &mut State<N>, id: u8, ballot: Ballot) -> Result<(), Broken> {
        let node = &mut state.data[usize::from(id)];
        node.flushed = node.log.len();
        node.fork = node.log.length;
        let begun = (NodeId(id), node.log);
        if let Some((other, _)) = state.begun[index(ballot)].replace(begun) {
            return Err(format!("{ballot:?} has two primaries, {other:?} and {id}"));
        }
        self.send_frames(state, id);
        let node = &mut state.data[usize::from(id)];
        let outputs = node.voter.flushed(node.log.lsn());
        self.perform(state, id, outputs)
    }

    fn send_frames(&self, state: &mut State<N>, id: u8) {
        let node = &state.data[usize::from(id)];
        let frames = What::Frames {
            ballot: node.voter.durable().promised,
            fork: node.fork,
            log: node.log,
        };
        for other in others::<N>(id) {
            self.send(state, NodeId(id), other, frames);
        }
    }

    fn deliver(&self, state: &mut State<N>, wire: Wire) -> Result<(), Broken> {
        let Wire { from, to, what, .. } = wire;
        match what {
            What::Frames { ballot, fork, log } => self.take_frames(state, wire, ballot, fork, &log),
            What::Vote(message) if to.0 == Model::<N>::COUNT => {
                let outputs = state.witness.receive(from, message, Position::default());
                self.perform(state, to.0, outputs)
            }
            What::Vote(message) => {
                let node = &mut state.data[usize::from(to.0)];
                let outputs = node.voter.receive(from, message, position(node));
                let is_elected = |output: &Output| matches!(output, Output::BecomePrimary { .. });
                if let Some(in_sync) = wire.in_sync
                    && outputs.iter().any(is_elected)
                {
                    node.voter.elected_with(in_sync);
                }
                self.perform(state, to.0, outputs)
            }
        }
    }

    /// A data node gets frames. As in the log: what differs behind the fork is cut, the rest follows.
    fn take_frames(
        &self,
        state: &mut State<N>,
        wire: Wire,
        ballot: Ballot,
        fork: u8,
        log: &Commits,
    ) -> Result<(), Broken> {
        let (from, id) = (wire.from, wire.to.0);
        let node = &mut state.data[usize::from(id)];
        let Some(outputs) = node.voter.follow(ballot) else {
            return Ok(());
        };
        let own_ballot = u8::try_from(ballot.0).expect("bounded");
        let of_this_ballot = |rest: &[u8]| rest.iter().all(|own| *own == own_ballot);
        let is_beginning = node.log.begins_with(log) && log.length >= fork;
        if !(is_beginning && of_this_ballot(&node.log.all()[log.len()..])) {
            node.log = *log;
        }
        node.flushed = node.log.len();
        self.perform(state, id, outputs)?;
        let lsn = log.lsn();
        let message = What::Vote(Message::Acknowledged { ballot, lsn });
        self.send(state, NodeId(id), from, message);
        check_logs(state)
    }

    fn crash(&self, state: &mut State<N>, id: u8, kept: usize) {
        let node = &mut state.data[usize::from(id)];
        let durable = *node.voter.durable();
        node.log.cut(kept);
        node.flushed = kept;
        let count = Model::<N>::COUNT;
        node.voter = Voter::new(NodeId(id), count, durable).without(self.omitted);
        node.fork = 0;
        state.crashes += 1;
    }

    /// Leaves out messages that can change nothing any more, whenever they come: states that differ in
    /// those alone are one. Only what holds for ever counts; promises and positions never go back.
    fn forget_dead(&self, state: &mut State<N>) {
        let mut network = std::mem::take(&mut state.network);
        network.retain(|number| !self.is_dead(state, self.message(*number)));
        state.network = network;
    }

    fn is_dead(&self, state: &State<N>, wire: Wire) -> bool {
        let to = usize::from(wire.to.0);
        let voter = state
            .data
            .get(to)
            .map_or(&state.witness, |node| &node.voter);
        let durable = voter.durable();
        match wire.what {
            // A protocol without the fence takes them still.
            What::Frames { ballot, .. } => {
                ballot < durable.promised && !self.omitted.fence_acknowledgements
            }
            What::Vote(message) => match message {
                // Whoever asks late is told what has been promised meanwhile.
                Message::RequestVote { .. } => false,
                Message::Vote {
                    ballot,
                    granted,
                    promised,
                } => {
                    let is_open = granted
                        && ballot == durable.promised
                        && matches!(voter.role(), Role::Candidate { votes } if !votes.contains(wire.from));
                    let can_win = granted && ballot > durable.promised;
                    promised <= durable.promised && !is_open && !can_win
                }
                Message::Acknowledged { ballot, lsn } => match voter.role() {
                    Role::Primary(primary) if ballot == durable.promised => {
                        primary.flushed(wire.from) >= lsn
                    }
                    _ => ballot <= durable.promised,
                },
                Message::SetInSync { ballot, change, .. } => {
                    // Of an older primary: it is told that it is one.
                    ballot >= durable.promised
                        && (ballot, change) < (durable.in_sync_ballot, durable.in_sync_change)
                }
                Message::InSyncSet { ballot, .. } => match voter.role() {
                    Role::Primary(_) if ballot == durable.promised => false,
                    _ => ballot <= durable.promised,
                },
            },
        }
    }
}

/// The data nodes but one.
fn others<const N: usize>(id: u8) -> impl Iterator<Item = NodeId> {
    let all = (0..Model::<N>::COUNT).map(NodeId);
    all.filter(move |other| other.0 != id)
}

fn index(ballot: Ballot) -> usize {
    usize::try_from(ballot.0).expect("bounded")
}

fn position(node: &Node) -> Position {
    let flushed = node.log.first(node.flushed);
    Position {
        ballot: Ballot(flushed.all().last().map_or(0, |ballot| u32::from(*ballot))),
        lsn: flushed.lsn(),
    }
}

/// The first four of [`INVARIANTS`]; two primaries of one ballot are seen when the second begins.
fn check_logs<const N: usize>(state: &State<N>) -> Result<(), Broken> {
    for (ballot, log) in state.acknowledged.iter().enumerate() {
        if log.len() == 0 {
            continue;
        }
        for later in ballot + 1..=MAX_BALLOTS {
            if let Some((_, begun)) = &state.begun[later]
                && !begun.begins_with(log)
            {
                return Err(format!(
                    "acknowledged in ballot {ballot}: {log:?}; primary of {later} began with {begun:?}"
                ));
            }
            let other = &state.acknowledged[later];
            if !other.begins_with(log) && !log.begins_with(other) {
                return Err(format!(
                    "acknowledged in {ballot}: {log:?}, in {later}: {other:?}"
                ));
            }
        }
        for (id, node) in (0..).zip(&state.data) {
            let has_all = node.log.first(node.flushed).begins_with(log);
            if state.witness.durable().in_sync.contains(NodeId(id)) && !has_all {
                return Err(format!(
                    "{id} is in sync by the witness, without {log:?} of ballot {ballot}"
                ));
            }
        }
    }
    Ok(())
}

/// The last of [`INVARIANTS`].
fn check_promises<const N: usize>(before: &State<N>, after: &State<N>) -> Result<(), Broken> {
    fn voters<const N: usize>(state: &State<N>) -> impl Iterator<Item = &Voter> {
        let data = state.data.iter().map(|node| &node.voter);
        data.chain([&state.witness])
    }
    for (before, after) in voters(before).zip(voters(after)) {
        let (before, after) = (before.durable(), after.durable());
        let is_same = before.promised == after.promised;
        let to_two = is_same && before.voted_for.is_some() && before.voted_for != after.voted_for;
        if after.promised < before.promised || to_two {
            return Err(format!("{before:?} became {after:?}"));
        }
    }
    Ok(())
}
