//! What can happen in a simulated cluster, and when; what its nodes say to one another.

use std::collections::BinaryHeap;
use std::fmt;

use springhead_log::vote::{Ballot, Message, NodeId};
use springhead_log::{EpochRecord, RawItem, RawPosition};
use springhead_proto::Lsn;

/// What goes over the network. `asking` is the follower's connection, as it were: an answer to what it
/// asked before it was started, or its log was changed, is not heard.
#[derive(Debug, Clone)]
pub enum Wire {
    Vote(Message),
    /// A primary that should have itself elected anew asks the witness whether somebody else was elected.
    Look {
        ballot: Ballot,
    },
    /// The witness has promised that.
    Promised {
        ballot: Ballot,
        promised: Ballot,
    },
    /// A follower's place, and what it has flushed there; `ends`, now and then, where its log might be
    /// cut.
    Fetch {
        asking: u64,
        ballot: Ballot,
        at: RawPosition,
        ends: Option<Vec<RawPosition>>,
    },
    Frames {
        asking: u64,
        ballot: Ballot,
        at: RawPosition,
        items: Vec<RawItem>,
        durable: Lsn,
    },
    /// The follower's log is no beginning of this one's: cut it here, or begin anew.
    Cut {
        asking: u64,
        ballot: Ballot,
        /// Where the follower stood when it asked: it may have gone on since.
        at: RawPosition,
        after: Lsn,
    },
    Copy {
        asking: u64,
        ballot: Ballot,
        at: RawPosition,
        epochs: Vec<EpochRecord>,
        header: Vec<u8>,
    },
}

/// In short: without the bytes of frames.
impl fmt::Display for Wire {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wire::Vote(message) => write!(out, "{message:?}"),
            Wire::Look { ballot } => write!(out, "look {ballot:?}"),
            Wire::Promised { ballot, promised } => write!(out, "promised {ballot:?} {promised:?}"),
            Wire::Fetch { ballot, at, .. } => write!(out, "fetch {ballot:?} {at:?}"),
            Wire::Frames {
                ballot,
                at,
                items,
                durable,
                ..
            } => write!(out, "frames {ballot:?} {at:?} {} {durable}", items.len()),
            Wire::Cut {
                ballot, at, after, ..
            } => write!(out, "cut {ballot:?} {at:?} {after}"),
            Wire::Copy { ballot, at, .. } => write!(out, "copy {ballot:?} {at:?}"),
        }
    }
}

/// FNV-1a of all that happened.
pub struct Trace(pub u64);

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub enum Event {
    Deliver(NodeId, NodeId, Wire),
    Poll(NodeId),
    Write,
    Fault,
    Restart(NodeId),
    /// A link changes between carrying all and nothing, and does so that many times more.
    Flap(NodeId, NodeId, u64),
    /// A disk has room again.
    Room(NodeId),
}

impl Event {
    /// The node whose process has to do something for it.
    pub fn for_process(&self) -> Option<NodeId> {
        match self {
            Event::Deliver(_, id, _) | Event::Poll(id) => Some(*id),
            _ => None,
        }
    }
}

pub struct Scheduled {
    pub at_ms: u64,
    /// In the order in which they were scheduled.
    pub number: u64,
    pub event: Event,
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

pub trait PopIfBefore {
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
