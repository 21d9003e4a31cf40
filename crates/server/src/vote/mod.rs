//! Automatic promotion: this node's voter ([`springhead_log::vote`]) with its promises on disk, what it
//! knows of the others, and who may be told that a commit is safe.
//!
//! ```text
//!  primary ── Lead (lease), SetInSync ──► witness ◄── Look, RequestVote ── standby
//!     │                                                                       │
//!     └──── frames, announcements that say "I lead" ──── acknowledgements ────┘
//! ```
//!
//! [`messages`] has what is said to the witness and [`link`] carries it; [`elect`] changes roles and
//! [`keep`] decides when; [`status`] tells. What follows from an election is
//! [`promote`](crate::standby::promote)'s. The witness itself is [`crate::witness`].
//!
//! Architecture invariant: two things keep an old primary from telling anyone that a commit is safe.
//! The fence: a commit waits for every node that the witness holds to be in sync, and whoever is elected
//! is one of them and has promised to acknowledge no lower ballot. The lease: nobody is elected for so
//! long after the witness, or every node in sync, has last heard the primary; it is what commits at
//! `local` rest on, and what makes a cut-off primary give up.
//!
//! Nothing here does IO but the voter's file, written under the lock before anything follows from it.

pub mod elect;
pub mod keep;
pub mod link;
pub mod messages;
pub mod status;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use springhead_log::LogError;
use springhead_log::disk::RealDisk;
use springhead_log::segment::{load_vote, store_vote};
use springhead_log::vote::{
    Ballot, Durable, MAX_DATA_NODES, Members, Message, NodeId, Output, Position, Role, Voter,
};
use springhead_proto::Lsn;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Config;
use crate::standby::Options;
use link::{Answer, Link};
use messages::Known;

/// A lease counts for so many tenths of what was asked for, since no two clocks run alike.
const LEASE_TENTHS: u32 = 9;

/// See the module's text.
pub struct Voting {
    own: NodeId,
    /// The nodes that may lead, by name; their places are their ids.
    nodes: Vec<String>,
    /// How long a primary may be unheard.
    timeout: Duration,
    data_dir: PathBuf,
    pub(crate) witness: Link,
    began: Instant,
    state: Mutex<State>,
    /// Until when this node may act as the primary, in milliseconds after `began`.
    lease_until_ms: AtomicU64,
    /// Up to where every node in sync has the log, as far as it has said so to this primary.
    in_sync_lsn: AtomicU64,
    /// Where the log ended when the node began to lead: the past, which feeds show.
    begun_lsn: AtomicU64,
    /// There is something to do before the next beat.
    wake: Notify,
}

struct State {
    voter: Voter,
    /// Whether the voter has ever had a file: one that has not knows of no witness.
    is_stored: bool,
    /// The highest ballot that somebody who wants to follow has promised.
    seen: Ballot,
    followers: [Follower; MAX_DATA_NODES],
    witness: Witness,
    /// When the node last heard a primary that it may follow, and the stamp of what it heard.
    heard_primary: Instant,
    echo_ms: u64,
    /// The ballot that is followed.
    followed: Ballot,
    /// Where the node was last sent to follow, and when.
    redirected: Option<(String, Instant)>,
    campaigns: u64,
    elected: u64,
    /// Why the node does not lead though it would, for people.
    problem: Option<String>,
}

/// Another data node, as a primary sees it.
#[derive(Debug, Clone, Copy)]
struct Follower {
    heard: Instant,
    /// When it last had more than before, or everything: one that is heard and stands still, since its disk
    /// is full or does not answer, is as lost as one that is not heard.
    advanced: Instant,
    /// Until when it does not campaign, in milliseconds after the node began.
    lease_until_ms: u64,
}

/// What the witness said last.
#[derive(Debug, Clone, Default)]
struct Witness {
    known: Known,
    heard: Option<Instant>,
    problem: Option<String>,
    /// Its lease for this node, in milliseconds after the node began.
    lease_until_ms: u64,
}

impl Voting {
    /// The node's voter, if it votes. A voter without a file does not lead before it is known to have
    /// everything.
    ///
    /// # Errors
    /// That the file is damaged, or what the disk says.
    pub fn open(
        config: &Config,
        options: &Options,
        current: u32,
    ) -> Result<Option<Voting>, LogError> {
        let place = config
            .failover_nodes
            .iter()
            .position(|node| *node == options.name);
        let Some(own) = place.and_then(|place| u8::try_from(place).ok()) else {
            return Ok(None);
        };
        if config.witness.is_empty() {
            return Ok(None);
        }
        let nodes = config.failover_nodes.clone();
        let stored = load_vote(&RealDisk, &options.data_dir)?;
        let count = u8::try_from(nodes.len()).expect("the configuration is checked");
        let mut durable = stored.unwrap_or_else(|| Durable {
            may_lead: false,
            ..Durable::new(count, Ballot(current))
        });
        if durable.promised < Ballot(current) {
            // Its log has gone on without votes.
            durable.promised = Ballot(current);
            durable.voted_for = None;
        }
        let now = Instant::now();
        let follower = Follower {
            heard: now,
            advanced: now,
            lease_until_ms: 0,
        };
        Ok(Some(Voting {
            own: NodeId(own),
            timeout: config.failover_timeout,
            data_dir: options.data_dir.clone(),
            witness: Link::new(
                config.witness.clone(),
                options.trust.clone(),
                options.token.clone(),
                nodes.clone(),
            ),
            began: now,
            state: Mutex::new(State {
                voter: Voter::new(NodeId(own), count, durable),
                is_stored: stored.is_some(),
                seen: Ballot(0),
                followers: [follower; MAX_DATA_NODES],
                witness: Witness::default(),
                heard_primary: now,
                echo_ms: 0,
                followed: Ballot(0),
                redirected: None,
                campaigns: 0,
                elected: 0,
                problem: None,
            }),
            nodes,
            lease_until_ms: AtomicU64::new(0),
            in_sync_lsn: AtomicU64::new(0),
            begun_lsn: AtomicU64::new(0),
            wake: Notify::new(),
        }))
    }

    /// How long a primary may be unheard.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The highest epoch number that it has promised.
    #[must_use]
    pub fn promised(&self) -> u32 {
        self.state.lock().voter.durable().promised.0
    }

    /// The ballot that it leads with; 0 if it does not.
    #[must_use]
    pub fn leads(&self) -> u32 {
        let state = self.state.lock();
        match state.voter.role() {
            Role::Primary(_) => state.voter.durable().promised.0,
            _ => 0,
        }
    }

    /// The time as this node stamps it.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.stamp(Instant::now())
    }

    fn stamp(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// How much of a promise to elect nobody is counted on.
    fn lease_ms(&self) -> u64 {
        let lease = self.timeout * LEASE_TENTHS / 10;
        u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs `act`; what it makes durable is durable before anyone learns of anything. What else there
    /// is to do.
    ///
    /// # Errors
    /// What the disk says. The voter is then as it was: as if it had heard nothing.
    fn perform(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut Voter) -> Vec<Output>,
    ) -> Result<Vec<Output>, LogError> {
        let before = state.voter.clone();
        let mut outputs = act(&mut state.voter);
        for output in &outputs {
            let Output::Persist(durable) = output else {
                continue;
            };
            if let Err(error) = store_vote(&RealDisk, &self.data_dir, durable) {
                state.voter = before;
                return Err(error);
            }
            state.is_stored = true;
        }
        outputs.retain(|output| !matches!(output, Output::Persist(_)));
        self.settle(state);
        Ok(outputs)
    }

    /// Makes what commits wait for true of the state.
    fn settle(&self, state: &State) {
        let Role::Primary(primary) = state.voter.role() else {
            self.lease_until_ms.store(0, Ordering::Release);
            return;
        };
        let (mut alone, mut of_followers) = (true, u64::MAX);
        for node in self.others_in(primary.required()) {
            alone = false;
            let lease = state.followers[usize::from(node.0)].lease_until_ms;
            of_followers = of_followers.min(lease);
        }
        let (in_sync, lease) = if alone {
            // Nobody else is elected, whoever hears what.
            (Lsn::MAX, u64::MAX)
        } else {
            let lease = of_followers.max(state.witness.lease_until_ms);
            (primary.acknowledged(), lease)
        };
        self.in_sync_lsn.store(in_sync.0, Ordering::Release);
        self.lease_until_ms.store(lease, Ordering::Release);
    }

    fn others_in(&self, members: Members) -> impl Iterator<Item = NodeId> + use<> {
        let own = self.own;
        let all = (0..self.count()).map(NodeId);
        all.filter(move |node| *node != own && members.contains(*node))
    }

    fn node_called(&self, name: &str) -> Option<NodeId> {
        let place = self.nodes.iter().position(|node| node == name)?;
        u8::try_from(place).ok().map(NodeId)
    }

    fn name_of(&self, node: NodeId) -> &str {
        self.nodes
            .get(usize::from(node.0))
            .map_or("?", String::as_str)
    }

    /// Whether a commit that is durable here up to `lsn` is safe: no one was elected meanwhile, and, if
    /// it is to survive this node, every node in sync has it.
    #[must_use]
    pub fn is_safe(&self, lsn: Lsn, survives: bool) -> bool {
        self.has_lease() && (!survives || self.in_sync_lsn() >= lsn)
    }

    /// Whether nobody else can have been elected.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.now_ms() < self.lease_until_ms.load(Ordering::Acquire)
    }

    /// Up to where every node in sync has the log.
    #[must_use]
    pub fn in_sync_lsn(&self) -> Lsn {
        Lsn(self.in_sync_lsn.load(Ordering::Acquire))
    }

    /// Up to where feeds may show the log: what was there when the node began to lead counts.
    #[must_use]
    pub fn shown_lsn(&self) -> Lsn {
        self.in_sync_lsn()
            .max(Lsn(self.begun_lsn.load(Ordering::Acquire)))
    }

    /// The node begins to lead; its log ends at `end`.
    pub fn begin(&self, end: Lsn) {
        self.begun_lsn.store(end.0, Ordering::Release);
        self.flushed(end);
    }

    /// The own log is flushed up to `lsn`.
    pub fn flushed(&self, lsn: Lsn) {
        let mut state = self.state.lock();
        // It writes nothing down.
        let _ = state.voter.flushed(lsn);
        self.settle(&state);
    }

    /// A standby that follows this node says how far it is, and what it has heard.
    pub fn acknowledged(&self, name: &str, flushed: Lsn, echo_ms: u64) {
        let Some(node) = self.node_called(name).filter(|node| *node != self.own) else {
            return;
        };
        let mut state = self.state.lock();
        let ballot = state.voter.durable().promised;
        let advances = match state.voter.role() {
            Role::Primary(primary) => {
                flushed > primary.flushed(node) || flushed >= primary.flushed(self.own)
            }
            _ => true,
        };
        let message = Message::Acknowledged {
            ballot,
            lsn: flushed,
        };
        let _ = state.voter.receive(node, message, Position::default());
        let lease = echo_ms.saturating_add(self.lease_ms());
        let follower = &mut state.followers[usize::from(node.0)];
        follower.heard = Instant::now();
        if advances {
            follower.advanced = follower.heard;
        }
        if echo_ms > 0 {
            follower.lease_until_ms = follower.lease_until_ms.max(lease);
        }
        self.settle(&state);
    }

    /// Somebody who would follow this node has promised `promised`: past what it leads with, it needs a
    /// higher ballot.
    pub fn saw(&self, name: &str, promised: u32) {
        if self.node_called(name).is_none() {
            return;
        }
        let mut state = self.state.lock();
        let is_news = Ballot(promised) > state.seen.max(state.voter.durable().promised);
        state.seen = state.seen.max(Ballot(promised));
        drop(state);
        if is_news {
            self.wake.notify_one();
        }
    }

    /// Whether the node may follow a primary of `ballot`; if so it follows no lower one from now on.
    ///
    /// # Errors
    /// What the disk says.
    pub fn follow(&self, ballot: u32) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        let mut may_follow = false;
        self.perform(&mut state, |voter| {
            let outputs = voter.follow(Ballot(ballot));
            may_follow = outputs.is_some();
            outputs.unwrap_or_default()
        })?;
        if may_follow {
            state.followed = state.followed.max(Ballot(ballot));
        }
        Ok(may_follow)
    }

    /// A primary has said that it leads with `ballot`, at `sent_ms` of its clock. Whether it may be
    /// followed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn heard(&self, ballot: u32, sent_ms: u64) -> Result<bool, LogError> {
        if ballot == 0 {
            return Ok(true);
        }
        if !self.follow(ballot)? {
            return Ok(false);
        }
        let mut state = self.state.lock();
        state.heard_primary = Instant::now();
        state.echo_ms = sent_ms;
        Ok(true)
    }

    /// What goes back to the primary with an acknowledgement.
    #[must_use]
    pub fn echo_ms(&self) -> u64 {
        self.state.lock().echo_ms
    }

    /// The highest ballot that was followed.
    #[must_use]
    pub fn followed(&self) -> u32 {
        self.state.lock().followed.0
    }

    /// A connection to another primary begins: what was heard before is of another clock.
    pub fn forget_echo(&self) {
        self.state.lock().echo_ms = 0;
    }

    /// The log has everything that its primary had durable when they connected.
    ///
    /// # Errors
    /// What the disk says.
    pub fn caught_up(&self) -> Result<(), LogError> {
        let mut state = self.state.lock();
        self.perform(&mut state, Voter::caught_up).map(drop)
    }

    /// The node leads no more, and is as one that has just been started.
    pub fn resign(&self) {
        let mut state = self.state.lock();
        let durable = *state.voter.durable();
        state.voter = Voter::new(self.own, self.count(), durable);
        state.followed = Ballot(0);
        state.echo_ms = 0;
        self.settle(&state);
    }

    fn count(&self) -> u8 {
        u8::try_from(self.nodes.len()).expect("the configuration is checked")
    }

    fn witness_id(&self) -> NodeId {
        NodeId(self.count())
    }

    /// Keeps what the witness has said, or that it did not answer.
    fn note(&self, answer: &Result<Answer, link::LinkError>) {
        let mut state = self.state.lock();
        match answer {
            Ok(answer) => {
                state.witness.known = answer.known().clone();
                state.witness.heard = Some(Instant::now());
                let problem = (!answer.known().is_enrolled && state.is_stored).then(|| {
                    "it has forgotten everything: it is another one, or its directory is new"
                        .to_owned()
                });
                say_once(&mut state.witness.problem, problem, &self.witness);
            }
            Err(error) => {
                say_once(
                    &mut state.witness.problem,
                    Some(error.to_string()),
                    &self.witness,
                );
            }
        }
    }

    /// The witness holds the place of this node until some time after `sent`.
    fn extend_lease(&self, sent: Instant) {
        let mut state = self.state.lock();
        let until = self.stamp(sent).saturating_add(self.lease_ms());
        state.witness.lease_until_ms = state.witness.lease_until_ms.max(until);
        self.settle(&state);
    }
}

/// Changes a problem and says so, but not the same twice.
fn say_once(place: &mut Option<String>, problem: Option<String>, witness: &Link) {
    if *place == problem {
        return;
    }
    match &problem {
        Some(problem) => {
            tracing::warn!(witness = witness.address(), %problem, "the witness does not take part");
        }
        None => tracing::info!(witness = witness.address(), "the witness takes part"),
    }
    *place = problem;
}

/// The log in `data_dir` is about to be made anew: until it has caught up with a primary its node does
/// not campaign. To be called before anything of the log is removed.
///
/// # Errors
/// What the disk says.
pub fn forget_log(data_dir: &Path) -> Result<(), LogError> {
    match load_vote(&RealDisk, data_dir)? {
        Some(durable) if durable.may_lead => store_vote(
            &RealDisk,
            data_dir,
            &Durable {
                may_lead: false,
                ..durable
            },
        ),
        _ => Ok(()),
    }
}
