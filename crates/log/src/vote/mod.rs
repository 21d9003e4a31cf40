//! Who may write: the protocol of epochs and votes between data nodes (two, mostly) and a witness, as a
//! state machine without IO, clock or randomness. `server` feeds it messages and does what it says; the model
//! check (`tests/vote_model`) and the simulation feed it everything that can happen.
//!
//! It lives beside the log because what it decides is the log's: a ballot is an epoch's number, a
//! promotion is [`Log::begin_epoch`](crate::Log::begin_epoch), and what a voter promises must be as
//! durable as the file `epochs`. It knows nothing of bytes: how frames get to a follower, and that a
//! follower's log is a beginning of its primary's, is [`RawLog`](crate::RawLog)'s part.
//!
//! ```text
//!  candidate ── RequestVote(ballot, position) ──► the others     promises are durable before they
//!            ◄── Vote(ballot, granted, promised) ──               are told
//!  two of three, its own included ─► primary of that ballot, forks the log at its end
//!  (of more data nodes: the witness's and its own, or all but the witness's)
//!
//!  primary   ── frames of its ballot ──► follower: takes and acknowledges them only while it has
//!            ◄── acknowledged(ballot, LSN) ──       promised no higher ballot
//!  a commit is acknowledged when it is flushed here and by every member that is required
//! ```
//!
//! Four rules carry it:
//! 1. A voter promises each ballot to one node at most, durably, and never goes back.
//! 2. A data node refuses a candidate whose log ends before its own, by (ballot of its last frame,
//!    LSN). It thereby promises nothing, so that a stale node cannot disturb anyone.
//! 3. Whoever has promised a ballot never acknowledges a frame of a lower one. Acknowledgements, not
//!    clocks, are the fence: an old primary that cannot know it is one waits for acknowledgements
//!    that never come.
//! 4. The witness has no log. It keeps durably who is *in sync*: who has everything that was
//!    acknowledged. A primary that wants to go on without the other data node first has the witness
//!    write that down, and the witness refuses candidates that are not in sync. A node is added only
//!    when it has everything, what the primary's log had at its election included, and is waited for
//!    before it is added.
//!
//! A node that campaigned in vain has promised a ballot above its primary's, and can follow it no more.
//! The primary, once that node asks for frames, has itself elected anew with a higher one
//! ([`Voter::saw`], [`Voter::renew`]). A primary that was deposed by the witness's vote alone hears it
//! from the witness, when it misses its follower and asks to go on alone: it steps down and follows.
//!
//! For elections to end, the caller draws how long it waits for a primary anew before each campaign, by
//! chance from between one and two times its patience, and begins to wait anew with each frame and with
//! each vote that it grants ([`Output::grants`]).
//!
//! With rule 4 a commit acknowledged in synchronous mode survives any one loss: either both data nodes
//! have it, or the only one that has it is the only one that can be promoted. Source of the idea:
//! Raft's elections (Ongaro, Ousterhout 2014), Kafka's in-sync replicas kept by a third party.

mod voter;

use springhead_proto::Lsn;

pub use voter::{Omitted, Voter};

/// Number of an epoch that is voted for; each is a primary's for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot(pub u32);

impl Ballot {
    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Ballot {
        Ballot(self.0 + 1)
    }
}

/// A voter's place in the list of all, which all share: data nodes first, the witness last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// A set of data nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Members(u8);

impl Members {
    /// These.
    #[must_use]
    pub fn of(nodes: impl IntoIterator<Item = NodeId>) -> Members {
        let mut members = Members::default();
        for node in nodes {
            members = members.with(node);
        }
        members
    }

    /// These and that one.
    #[must_use]
    pub const fn with(self, node: NodeId) -> Members {
        Members(self.0 | 1 << node.0)
    }

    /// Whether the node is among them.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & 1 << node.0 != 0
    }

    /// Whether all of `others` are among them.
    #[must_use]
    pub const fn includes(self, others: Members) -> bool {
        self.0 & others.0 == others.0
    }
}

/// Where a log ends: the later of two is the one with the higher ballot, then with the higher LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The ballot of its last frame.
    pub ballot: Ballot,
    /// Its last flushed LSN.
    pub lsn: Lsn,
}

/// What a voter must have durable before it tells anyone of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Durable {
    /// The highest ballot promised.
    pub promised: Ballot,
    /// To whom; `None` where it learned of the ballot from its primary.
    pub voted_for: Option<NodeId>,
    /// The witness: who has everything that was acknowledged, and which primary said so last.
    pub in_sync: Members,
    pub in_sync_ballot: Ballot,
    /// The number of the change that made it so: of one primary's wishes a late one is not heard.
    pub in_sync_change: u32,
    /// A data node: whether its log has everything that was acknowledged when it last knew. Not while it
    /// is made anew from another's; until then it does not campaign.
    pub may_lead: bool,
}

impl Durable {
    /// Of a new cluster in which both data nodes have the same log. `current` is the number of its last
    /// history: what is voted for comes after it.
    #[must_use]
    pub fn new(data_nodes: u8, current: Ballot) -> Durable {
        Durable {
            promised: current,
            voted_for: None,
            in_sync: Members::of((0..data_nodes).map(NodeId)),
            in_sync_ballot: Ballot(0),
            in_sync_change: 0,
            may_lead: true,
        }
    }
}

const VOTE_MAGIC: &[u8; 8] = b"SHVOTING";
const VOTE_FORMAT: u32 = 1;
/// Length of a promise as it is written down.
pub const VOTE_BYTES: usize = 36;

impl Durable {
    /// As it is written down.
    ///
    /// ```text
    /// vote := magic "SHVOTING" format_version:u32 promised:u32 in_sync_ballot:u32 in_sync_change:u32
    ///         voted_for:u8 (255: nobody) in_sync:u8 (bit n: data node n)
    ///         may_lead:u8 zero:u8 zero:u32
    ///         crc:u32 of all before
    /// ```
    #[must_use]
    pub fn encode(&self) -> [u8; VOTE_BYTES] {
        let mut out = [0; VOTE_BYTES];
        out[..8].copy_from_slice(VOTE_MAGIC);
        for (place, value) in [
            VOTE_FORMAT,
            self.promised.0,
            self.in_sync_ballot.0,
            self.in_sync_change,
        ]
        .into_iter()
        .enumerate()
        {
            out[8 + place * 4..12 + place * 4].copy_from_slice(&value.to_le_bytes());
        }
        out[24] = self.voted_for.map_or(u8::MAX, |node| node.0);
        out[25] = self.in_sync.0;
        out[26] = u8::from(self.may_lead);
        let crc = crc32c::crc32c(&out[..32]);
        out[32..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`Durable::encode`] has made.
    ///
    /// # Errors
    /// A word on what is wrong. Such a voter must not vote: it does not know what it has promised.
    pub fn decode(bytes: &[u8]) -> Result<Durable, &'static str> {
        let bytes: &[u8; VOTE_BYTES] = bytes.try_into().map_err(|_| "it has another length")?;
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if &bytes[..8] != VOTE_MAGIC {
            return Err("it does not start with its magic");
        }
        if crc32c::crc32c(&bytes[..32]) != number(32) {
            return Err("its checksum does not match");
        }
        if number(8) != VOTE_FORMAT {
            return Err("it is of a newer version: upgrade springhead");
        }
        Ok(Durable {
            promised: Ballot(number(12)),
            voted_for: (bytes[24] != u8::MAX).then_some(NodeId(bytes[24])),
            in_sync: Members(bytes[25]),
            in_sync_ballot: Ballot(number(16)),
            in_sync_change: number(20),
            may_lead: bytes[26] != 0,
        })
    }
}

/// What voters say to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// A candidate asks for a promise.
    RequestVote { ballot: Ballot, position: Position },
    /// `promised` is the voter's highest, so that a refused candidate can catch up with it. The witness
    /// also says so to a primary of a lower ballot that has it write something down.
    Vote {
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
    },
    /// A follower has everything of this primary's log up to `lsn` flushed.
    Acknowledged { ballot: Ballot, lsn: Lsn },
    /// A primary has the witness write down who is in sync. `change` counts its wishes.
    SetInSync {
        ballot: Ballot,
        change: u32,
        members: Members,
    },
    /// It is written down.
    InSyncSet { ballot: Ballot, change: u32 },
}

impl PartialOrd for Members {
    fn partial_cmp(&self, other: &Members) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Members {
    fn cmp(&self, other: &Members) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// What the caller must do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Make durable, before anything that follows is done.
    Persist(Durable),
    Send {
        to: NodeId,
        message: Message,
    },
    /// Begin an epoch with this number at the log's end, and take writes.
    BecomePrimary {
        ballot: Ballot,
    },
    /// Take no more writes; commits that wait have an unknown outcome.
    StepDown {
        promised: Ballot,
    },
    /// Every commit up to it may be acknowledged to clients, now that enough have it.
    Acknowledge {
        lsn: Lsn,
    },
}

impl Output {
    /// Whether it grants a vote: who does so waits for the candidate before it campaigns itself.
    #[must_use]
    pub fn grants(&self) -> bool {
        matches!(
            self,
            Output::Send {
                message: Message::Vote { granted: true, .. },
                ..
            }
        )
    }
}

/// What a voter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A data node that follows, or waits; the witness, always.
    Follower,
    Candidate {
        /// Who has promised.
        votes: Members,
    },
    Primary(Primary),
}

/// A primary's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Primary {
    /// Whose acknowledgement a commit waits for, itself included.
    required: Members,
    /// A change of who is in sync that the witness has not confirmed: its number, and who.
    pending: Option<(u32, Members)>,
    /// Who is in sync by the witness's last word to this primary.
    confirmed: Option<Members>,
    /// The highest ballot that the other data node is known to have promised: it cannot follow before
    /// this primary has a higher one.
    seen: Ballot,
    /// How many changes it has asked for.
    changes: u32,
    /// Up to where each data node has its log flushed, itself included.
    flushed: [Lsn; MAX_DATA_NODES],
    /// Where its log ended when it was elected: any of it may have been acknowledged by a primary before.
    begun: Lsn,
    /// Up to where commits have been acknowledged to clients.
    acknowledged: Lsn,
}

impl Primary {
    /// Whose acknowledgement a commit waits for.
    #[must_use]
    pub fn required(&self) -> Members {
        self.required
    }

    /// Up to where a data node is known to have its log flushed.
    #[must_use]
    pub fn flushed(&self, node: NodeId) -> Lsn {
        let flushed = self.flushed.get(usize::from(node.0));
        flushed.copied().unwrap_or(Lsn::ZERO)
    }

    /// How many changes of who is in sync it has asked for.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Up to where commits have been acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Lsn {
        self.acknowledged
    }
}

/// More data nodes than this have no place in [`Members`] beside the witness.
pub const MAX_DATA_NODES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g12_a_promise_comes_back_and_any_flipped_bit_is_found() {
        let durable = Durable {
            promised: Ballot(7),
            voted_for: Some(NodeId(1)),
            in_sync: Members::of([NodeId(1)]),
            in_sync_ballot: Ballot(6),
            in_sync_change: 3,
            may_lead: false,
        };
        for durable in [durable, Durable::new(2, Ballot(1))] {
            let bytes = durable.encode();
            assert_eq!(Durable::decode(&bytes), Ok(durable));
            for at in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[at / 8] ^= 1 << (at % 8);
                assert!(Durable::decode(&flipped).is_err(), "bit {at}");
            }
            assert!(Durable::decode(&bytes[1..]).is_err());
        }
    }
}
