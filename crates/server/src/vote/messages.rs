//! What a node asks a witness, and what that answers: the protocol's own messages
//! ([`springhead_log::vote`]) and what nodes need to know to leave each other alone. Fields only; frames
//! and checksums are [`wire`](crate::standby::wire)'s.

use springhead_log::vote::{Ballot, Members, Message, NodeId, Position};

use crate::standby::fields::{Fields, put_bytes, put_u32};

/// More nodes than any list has.
const MAX_NODES: usize = 8;
const NOBODY: u8 = u8::MAX;

/// What a node wants of the witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The first thing that is asked: these are the nodes that may lead, in this order.
    Join { nodes: Vec<String> },
    /// Nothing but what the witness knows.
    Look,
    /// The node leads with this ballot: nobody else is to be elected for so long.
    Lead { ballot: Ballot, lease_ms: u32 },
    /// The node leads no more: somebody else may be elected at once.
    Release { ballot: Ballot },
    /// The protocol's.
    Vote(Message),
    /// A witness that serves nobody yet is to serve this cluster. So much is promised, and those have
    /// everything that was acknowledged.
    Enrol { ballot: Ballot, in_sync: Members },
}

/// What the witness says, to anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The protocol's answer, if there is one.
    pub message: Option<Message>,
    pub known: Known,
}

/// What the witness knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Drawn when its directory was made.
    pub witness_id: u128,
    /// Whether it serves a cluster.
    pub is_enrolled: bool,
    /// The highest ballot that it has promised, and to whom.
    pub promised: Ballot,
    pub voted_for: Option<NodeId>,
    /// Who has everything that was acknowledged.
    pub in_sync: Members,
    /// Who said last that it leads, if its time is not over.
    pub leader: Option<Leader>,
}

/// A primary that the witness has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub node: NodeId,
    /// Where it is reached over HTTP.
    pub address: String,
    /// For how long nobody else is elected.
    pub lease_ms: u32,
}

/// The bits of a set.
#[must_use]
pub fn bits(members: Members) -> u8 {
    (0..8)
        .filter(|node| members.contains(NodeId(*node)))
        .fold(0, |bits, node| bits | 1 << node)
}

/// The set of these bits.
#[must_use]
pub fn members(bits: u8) -> Members {
    Members::of((0..8).filter(|node| bits & 1 << node != 0).map(NodeId))
}

/// Appends a question's fields.
pub fn put_ask(out: &mut Vec<u8>, ask: &Ask) {
    match ask {
        Ask::Join { nodes } => {
            out.push(0);
            put_u32(out, nodes.len());
            for node in nodes {
                put_bytes(out, node.as_bytes());
            }
        }
        Ask::Look => out.push(1),
        Ask::Lead { ballot, lease_ms } => {
            out.push(2);
            put_ballot(out, *ballot);
            out.extend_from_slice(&lease_ms.to_le_bytes());
        }
        Ask::Release { ballot } => {
            out.push(3);
            put_ballot(out, *ballot);
        }
        Ask::Vote(message) => {
            out.push(4);
            put_message(out, message);
        }
        Ask::Enrol { ballot, in_sync } => {
            out.push(5);
            put_ballot(out, *ballot);
            out.push(bits(*in_sync));
        }
    }
}

/// Reads a question's fields; `None` if they are none.
pub fn ask(input: &mut Fields<'_>) -> Option<Ask> {
    Some(match input.u8()? {
        0 => {
            let count = input.count(4)?;
            if count > MAX_NODES {
                return None;
            }
            Ask::Join {
                nodes: (0..count).map(|_| input.text()).collect::<Option<_>>()?,
            }
        }
        1 => Ask::Look,
        2 => Ask::Lead {
            ballot: ballot(input)?,
            lease_ms: input.u32()?,
        },
        3 => Ask::Release {
            ballot: ballot(input)?,
        },
        4 => Ask::Vote(message(input)?),
        5 => Ask::Enrol {
            ballot: ballot(input)?,
            in_sync: members(input.u8()?),
        },
        _ => return None,
    })
}

/// Appends an answer's fields.
pub fn put_said(out: &mut Vec<u8>, said: &Said) {
    out.push(u8::from(said.message.is_some()));
    if let Some(message) = &said.message {
        put_message(out, message);
    }
    let known = &said.known;
    out.extend_from_slice(&known.witness_id.to_le_bytes());
    out.push(u8::from(known.is_enrolled));
    put_ballot(out, known.promised);
    out.push(known.voted_for.map_or(NOBODY, |node| node.0));
    out.push(bits(known.in_sync));
    out.push(known.leader.as_ref().map_or(NOBODY, |leader| leader.node.0));
    if let Some(leader) = &known.leader {
        put_bytes(out, leader.address.as_bytes());
        out.extend_from_slice(&leader.lease_ms.to_le_bytes());
    }
}

/// Reads an answer's fields; `None` if they are none.
pub fn said(input: &mut Fields<'_>) -> Option<Said> {
    let message = if input.flag()? {
        Some(message(input)?)
    } else {
        None
    };
    Some(Said {
        message,
        known: Known {
            witness_id: input.array().map(u128::from_le_bytes)?,
            is_enrolled: input.flag()?,
            promised: ballot(input)?,
            voted_for: node(input)?,
            in_sync: members(input.u8()?),
            leader: match node(input)? {
                None => None,
                Some(node) => Some(Leader {
                    node,
                    address: input.text()?,
                    lease_ms: input.u32()?,
                }),
            },
        },
    })
}

fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.extend_from_slice(&ballot.0.to_le_bytes());
}

fn ballot(input: &mut Fields<'_>) -> Option<Ballot> {
    input.u32().map(Ballot)
}

fn node(input: &mut Fields<'_>) -> Option<Option<NodeId>> {
    Some(match input.u8()? {
        NOBODY => None,
        node if usize::from(node) < MAX_NODES => Some(NodeId(node)),
        _ => return None,
    })
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    match message {
        Message::RequestVote { ballot, position } => {
            out.push(0);
            put_ballot(out, *ballot);
            put_ballot(out, position.ballot);
            out.extend_from_slice(&position.lsn.0.to_le_bytes());
        }
        Message::Vote {
            ballot,
            granted,
            promised,
        } => {
            out.push(1);
            put_ballot(out, *ballot);
            out.push(u8::from(*granted));
            put_ballot(out, *promised);
        }
        Message::Acknowledged { ballot, lsn } => {
            out.push(2);
            put_ballot(out, *ballot);
            out.extend_from_slice(&lsn.0.to_le_bytes());
        }
        Message::SetInSync {
            ballot,
            change,
            members,
        } => {
            out.push(3);
            put_ballot(out, *ballot);
            out.extend_from_slice(&change.to_le_bytes());
            out.push(bits(*members));
        }
        Message::InSyncSet { ballot, change } => {
            out.push(4);
            put_ballot(out, *ballot);
            out.extend_from_slice(&change.to_le_bytes());
        }
    }
}

fn message(input: &mut Fields<'_>) -> Option<Message> {
    Some(match input.u8()? {
        0 => Message::RequestVote {
            ballot: ballot(input)?,
            position: Position {
                ballot: ballot(input)?,
                lsn: input.lsn()?,
            },
        },
        1 => Message::Vote {
            ballot: ballot(input)?,
            granted: input.flag()?,
            promised: ballot(input)?,
        },
        2 => Message::Acknowledged {
            ballot: ballot(input)?,
            lsn: input.lsn()?,
        },
        3 => Message::SetInSync {
            ballot: ballot(input)?,
            change: input.u32()?,
            members: members(input.u8()?),
        },
        4 => Message::InSyncSet {
            ballot: ballot(input)?,
            change: input.u32()?,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use springhead_proto::Lsn;

    use super::*;

    #[track_caller]
    fn comes_back<T: PartialEq + std::fmt::Debug>(
        value: &T,
        put: fn(&mut Vec<u8>, &T),
        read: fn(&mut Fields<'_>) -> Option<T>,
    ) {
        let mut bytes = Vec::new();
        put(&mut bytes, value);
        let whole = Bytes::from(bytes);
        let mut fields = Fields {
            body: &whole,
            at: 0,
        };
        assert_eq!(read(&mut fields).as_ref(), Some(value));
        assert_eq!(fields.at, whole.len());
        // Nothing that is cut short is read as something.
        for length in 0..whole.len() {
            let short = whole.slice(..length);
            let mut fields = Fields {
                body: &short,
                at: 0,
            };
            assert_eq!(read(&mut fields), None, "{value:?} cut to {length}");
        }
    }

    fn messages() -> [Message; 5] {
        let (ballot, lsn) = (Ballot(7), Lsn(1 << 40));
        [
            Message::RequestVote {
                ballot,
                position: Position {
                    ballot: Ballot(6),
                    lsn,
                },
            },
            Message::Vote {
                ballot,
                granted: true,
                promised: Ballot(8),
            },
            Message::Acknowledged { ballot, lsn },
            Message::SetInSync {
                ballot,
                change: 3,
                members: members(0b101),
            },
            Message::InSyncSet { ballot, change: 3 },
        ]
    }

    #[test]
    fn questions_come_back_as_they_were() {
        let ballot = Ballot(7);
        let mut asks = vec![
            Ask::Join {
                nodes: vec!["a".to_owned(), "ü".to_owned()],
            },
            Ask::Look,
            Ask::Lead {
                ballot,
                lease_ms: 10_000,
            },
            Ask::Release { ballot },
            Ask::Enrol {
                ballot,
                in_sync: members(0b10),
            },
        ];
        asks.extend(messages().map(Ask::Vote));
        for value in asks {
            comes_back(&value, put_ask, ask);
        }
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let leader = Leader {
            node: NodeId(1),
            address: "http://b:6480".to_owned(),
            lease_ms: 900,
        };
        for leader in [None, Some(leader)] {
            for message in messages().map(Some).into_iter().chain([None]) {
                let value = Said {
                    message,
                    known: Known {
                        witness_id: 1 << 100,
                        is_enrolled: true,
                        promised: Ballot(9),
                        voted_for: Some(NodeId(0)),
                        in_sync: members(0b11),
                        leader: leader.clone(),
                    },
                };
                comes_back(&value, put_said, said);
            }
        }
    }

    #[test]
    fn a_set_is_its_bits() {
        for set in 0..=u8::MAX {
            assert_eq!(bits(members(set)), set);
        }
    }
}
