//! What a witness decides: the protocol's voter, with one rule before it. While a primary is heard, nobody
//! else is elected; who has heard nothing of it may just be cut off. That rule is no part of what is safe,
//! but for commits that wait for nobody (`synchronous_commit = local`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use springhead_log::LogError;
use springhead_log::vote::{
    Ballot, Durable, MAX_DATA_NODES, Members, Message, NodeId, Output, Position, Voter,
};

use super::store::{Served, Store};
use crate::node::NodeError;
use crate::standby::wire::Identity;
use crate::vote::messages::{Ask, Known, Leader, Said};

/// The longest that a primary may ask to be left alone.
const MAX_LEASE: Duration = Duration::from_secs(3600);

/// Why a node gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("this witness serves another cluster; each needs one of its own")]
    Cluster,
    #[error(
        "failover_nodes is {theirs:?} there, and {ours:?} for this witness; it must be the same on all nodes"
    )]
    Nodes {
        theirs: Vec<String>,
        ours: Vec<String>,
    },
    #[error("\"{0}\" is not among failover_nodes")]
    Stranger(String),
    #[error("this witness could not write down what it would promise: {0}")]
    Disk(#[from] LogError),
    #[error("this witness could not write down whom it serves: {0}")]
    File(#[from] std::io::Error),
}

/// A node that has said who it is and which nodes may lead.
#[derive(Debug, Clone)]
pub struct Visitor {
    node: NodeId,
    nodes: Vec<String>,
    cluster_id: u128,
    address: String,
}

/// See the module's text.
pub struct Desk {
    store: Store,
    /// For how long nobody is elected after a start: somebody may have been promised it.
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    served: Served,
    /// `None` while nobody is served.
    voter: Option<Voter>,
    lease: Option<Lease>,
    /// When each node was last heard, and where it is.
    heard: BTreeMap<String, (Instant, String)>,
}

struct Lease {
    node: NodeId,
    address: String,
    until: Instant,
}

impl Desk {
    /// Opens the directory of a witness.
    ///
    /// # Errors
    /// [`Store::open`]'s.
    pub fn open(dir: &Path, timeout: Duration) -> Result<Desk, NodeError> {
        let (store, served, durable) = Store::open(dir)?;
        // Whoever was elected last may rely on being left alone.
        let lease = durable
            .and_then(|durable| durable.voted_for)
            .map(|node| Lease {
                node,
                address: String::new(),
                until: Instant::now() + timeout,
            });
        Ok(Desk {
            store,
            timeout,
            state: Mutex::new(State {
                voter: durable.map(|durable| voter(&served, durable)),
                served,
                lease,
                heard: BTreeMap::new(),
            }),
        })
    }

    /// The cluster's id; 0 while nobody is served.
    #[must_use]
    pub fn cluster_id(&self) -> u128 {
        self.state.lock().served.cluster_id
    }

    /// A node comes, and names the nodes that may lead.
    ///
    /// # Errors
    /// [`Refused`], for what does not belong to the cluster that is served.
    pub fn admit(&self, identity: &Identity, nodes: Vec<String>) -> Result<Visitor, Refused> {
        let state = self.state.lock();
        let served = &state.served;
        let is_served = served.cluster_id != 0;
        if is_served && served.cluster_id != identity.cluster_id {
            return Err(Refused::Cluster);
        }
        if is_served && served.nodes != nodes {
            return Err(Refused::Nodes {
                theirs: nodes,
                ours: served.nodes.clone(),
            });
        }
        let place = nodes.iter().position(|node| *node == identity.name);
        let node = place
            .filter(|_| nodes.len() <= MAX_DATA_NODES)
            .and_then(|place| u8::try_from(place).ok());
        let Some(node) = node else {
            return Err(Refused::Stranger(identity.name.clone()));
        };
        Ok(Visitor {
            node: NodeId(node),
            nodes,
            cluster_id: identity.cluster_id,
            address: identity.address.clone(),
        })
    }

    /// Answers one question. May write to the disk.
    ///
    /// # Errors
    /// [`Refused`]: nothing has been promised.
    pub fn answer(&self, visitor: &Visitor, ask: Ask) -> Result<Said, Refused> {
        let mut state = self.state.lock();
        let name = visitor.nodes[usize::from(visitor.node.0)].clone();
        let heard = (Instant::now(), visitor.address.clone());
        state.heard.insert(name, heard);
        let message = match ask {
            Ask::Join { .. } | Ask::Look => None,
            Ask::Enrol { ballot, in_sync } => {
                self.enrol(&mut state, visitor, ballot, in_sync)?;
                None
            }
            Ask::Lead { ballot, lease_ms } => {
                let lease = Duration::from_millis(lease_ms.into()).min(MAX_LEASE);
                state.hold(visitor, ballot, lease);
                None
            }
            Ask::Release { ballot } => {
                state.release(visitor, ballot);
                None
            }
            Ask::Vote(message) => self.vote(&mut state, visitor, message)?,
        };
        Ok(Said {
            message,
            known: state.known(),
        })
    }

    fn enrol(
        &self,
        state: &mut State,
        visitor: &Visitor,
        ballot: Ballot,
        in_sync: Members,
    ) -> Result<(), Refused> {
        if state.voter.is_some() || visitor.cluster_id == 0 {
            return Ok(());
        }
        let count = count_of(&visitor.nodes);
        let durable = Durable {
            voted_for: Some(visitor.node),
            in_sync,
            in_sync_ballot: ballot,
            may_lead: false,
            ..Durable::new(count, ballot)
        };
        let served = Served {
            cluster_id: visitor.cluster_id,
            nodes: visitor.nodes.clone(),
            ..state.served
        };
        // The promises first: whoever is served has them.
        self.store.store_vote(&durable)?;
        self.store.store_served(&served)?;
        tracing::info!(nodes = served.nodes.join(", "), "serving a cluster");
        state.voter = Some(voter(&served, durable));
        state.served = served;
        Ok(())
    }

    fn vote(
        &self,
        state: &mut State,
        visitor: &Visitor,
        message: Message,
    ) -> Result<Option<Message>, Refused> {
        let is_led = state
            .leader()
            .is_some_and(|lease| lease.node != visitor.node);
        let Some(voter) = &mut state.voter else {
            return Ok(None);
        };
        if let Message::RequestVote { ballot, .. } = message
            && is_led
        {
            // Nothing is promised: a node that is cut off from its primary disturbs nobody.
            return Ok(Some(Message::Vote {
                ballot,
                granted: false,
                promised: voter.durable().promised,
            }));
        }
        let before = voter.clone();
        let mut answer = None;
        for output in voter.receive(visitor.node, message, Position::default()) {
            match output {
                Output::Persist(durable) => {
                    if let Err(error) = self.store.store_vote(&durable) {
                        *voter = before;
                        return Err(error.into());
                    }
                }
                Output::Send { message, .. } => answer = Some(message),
                _ => {}
            }
        }
        let name = &visitor.nodes[usize::from(visitor.node.0)];
        match answer {
            Some(Message::Vote {
                ballot,
                granted: true,
                ..
            }) => {
                tracing::info!(node = name, epoch = ballot.0, "elected");
                state.lease = Some(Lease {
                    node: visitor.node,
                    address: visitor.address.clone(),
                    until: Instant::now() + self.timeout,
                });
            }
            Some(Message::InSyncSet { .. }) => {
                let names = state.names_of(state.known().in_sync);
                tracing::info!(node = name, in_sync = names.join(", "), "in sync");
            }
            _ => {}
        }
        Ok(answer)
    }

    /// What `/v1/status` says.
    #[must_use]
    pub fn status(&self) -> Value {
        let state = self.state.lock();
        let known = state.known();
        let name = |node: NodeId| state.served.nodes.get(usize::from(node.0)).cloned();
        let nodes: Vec<Value> = state
            .served
            .nodes
            .iter()
            .map(|node| {
                let heard = state.heard.get(node);
                json!({
                    "name": node,
                    "address": heard.map(|(_, address)| address),
                    "heard_ms": heard.map(|(at, _)| {
                        u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
                    }),
                })
            })
            .collect();
        json!({
            "role": "witness",
            "witness_id": format!("{:032x}", known.witness_id),
            "serves": known.is_enrolled,
            "cluster_id": format!("{:032x}", state.served.cluster_id),
            "promised": known.promised.0,
            "voted_for": known.voted_for.and_then(name),
            "in_sync": state.names_of(known.in_sync),
            "leader": known.leader.as_ref().map(|leader| json!({
                "name": name(leader.node),
                "address": leader.address,
                "lease_ms": leader.lease_ms,
            })),
            "nodes": nodes,
        })
    }

    /// What it knows.
    #[must_use]
    pub fn known(&self) -> Known {
        self.state.lock().known()
    }
}

fn voter(served: &Served, durable: Durable) -> Voter {
    let count = count_of(&served.nodes);
    Voter::new(NodeId(count), count, durable)
}

fn count_of(nodes: &[String]) -> u8 {
    u8::try_from(nodes.len()).expect("lists of nodes are bounded")
}

impl State {
    /// Who is left alone.
    fn leader(&self) -> Option<&Lease> {
        self.lease
            .as_ref()
            .filter(|lease| lease.until > Instant::now())
    }

    /// A node says that it leads; so it does if it was elected last.
    fn hold(&mut self, visitor: &Visitor, ballot: Ballot, lease: Duration) {
        let elected = self.voter.as_ref().is_some_and(|voter| {
            let durable = voter.durable();
            durable.promised == ballot && durable.voted_for == Some(visitor.node)
        });
        if elected {
            self.lease = Some(Lease {
                node: visitor.node,
                address: visitor.address.clone(),
                until: Instant::now() + lease,
            });
        }
    }

    fn release(&mut self, visitor: &Visitor, ballot: Ballot) {
        let promised = self.known().promised;
        if ballot == promised {
            self.lease.take_if(|lease| lease.node == visitor.node);
        }
    }

    fn known(&self) -> Known {
        let Some(voter) = &self.voter else {
            return Known {
                witness_id: self.served.witness_id,
                ..Known::default()
            };
        };
        let durable = voter.durable();
        let leader = self.leader().map(|lease| {
            let left = lease.until.saturating_duration_since(Instant::now());
            Leader {
                node: lease.node,
                address: lease.address.clone(),
                lease_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            }
        });
        Known {
            witness_id: self.served.witness_id,
            is_enrolled: true,
            promised: durable.promised,
            voted_for: durable.voted_for,
            in_sync: durable.in_sync,
            leader,
        }
    }

    fn names_of(&self, members: Members) -> Vec<String> {
        let names = self.served.nodes.iter().zip(0_u8..);
        names
            .filter(|(_, place)| members.contains(NodeId(*place)))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, cluster_id: u128) -> Identity {
        Identity {
            cluster_id,
            ..Identity::without_log(name, &format!("http://{name}:6480"))
        }
    }

    fn nodes() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    fn request(ballot: u32) -> Ask {
        Ask::Vote(Message::RequestVote {
            ballot: Ballot(ballot),
            position: Position::default(),
        })
    }

    fn is_granted(said: &Said) -> bool {
        matches!(said.message, Some(Message::Vote { granted: true, .. }))
    }

    /// A witness that serves a and b, both in sync, in epoch 3; nobody leads.
    fn serving(dir: &Path, timeout: Duration) -> (Desk, Visitor, Visitor) {
        let desk = Desk::open(dir, timeout).unwrap();
        let a = desk.admit(&identity("a", 7), nodes()).unwrap();
        let in_sync = Members::of([NodeId(0), NodeId(1)]);
        let ballot = Ballot(3);
        let said = desk.answer(&a, Ask::Enrol { ballot, in_sync }).unwrap();
        assert!(said.known.is_enrolled);
        let b = desk.admit(&identity("b", 7), nodes()).unwrap();
        (desk, a, b)
    }

    #[test]
    fn g11_nobody_is_elected_while_a_primary_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let (desk, a, b) = serving(dir.path(), Duration::ZERO);
        assert!(is_granted(&desk.answer(&a, request(4)).unwrap()));
        let lead = |ms| Ask::Lead {
            ballot: Ballot(4),
            lease_ms: ms,
        };
        let said = desk.answer(&a, lead(60_000)).unwrap();
        assert_eq!(said.known.leader.unwrap().node, NodeId(0));
        let refused = desk.answer(&b, request(5)).unwrap();
        assert!(!is_granted(&refused));
        assert_eq!(refused.known.promised, Ballot(4), "nothing is promised");
        // It may be elected anew itself, and lets go when it says so.
        assert!(is_granted(&desk.answer(&a, request(6)).unwrap()));
        let release = Ask::Release { ballot: Ballot(6) };
        assert_eq!(desk.answer(&a, release).unwrap().known.leader, None);
        assert!(is_granted(&desk.answer(&b, request(7)).unwrap()));
        // An old primary is not left alone.
        let late = desk.answer(&a, lead(60_000)).unwrap();
        assert!(
            late.known
                .leader
                .is_none_or(|leader| leader.node == NodeId(1))
        );
    }

    #[test]
    fn g12_a_witness_that_starts_again_has_its_promises_and_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (desk, a, _) = serving(dir.path(), Duration::ZERO);
        assert!(is_granted(&desk.answer(&a, request(9)).unwrap()));
        drop(desk);
        let desk = Desk::open(dir.path(), Duration::from_secs(60)).unwrap();
        let b = desk.admit(&identity("b", 7), nodes()).unwrap();
        assert_eq!(desk.known().promised, Ballot(9));
        // Its primary may count on being left alone still.
        assert!(!is_granted(&desk.answer(&b, request(10)).unwrap()));
        let desk = Desk::open(dir.path(), Duration::ZERO).unwrap();
        assert!(
            !is_granted(&desk.answer(&b, request(9)).unwrap()),
            "promised"
        );
        assert!(is_granted(&desk.answer(&b, request(10)).unwrap()));
    }

    #[test]
    fn g11_who_is_not_in_sync_is_not_elected() {
        let dir = tempfile::tempdir().unwrap();
        let (desk, a, b) = serving(dir.path(), Duration::ZERO);
        assert!(is_granted(&desk.answer(&a, request(4)).unwrap()));
        let alone = Ask::Vote(Message::SetInSync {
            ballot: Ballot(4),
            change: 1,
            members: Members::of([NodeId(0)]),
        });
        let said = desk.answer(&a, alone).unwrap();
        assert!(matches!(said.message, Some(Message::InSyncSet { .. })));
        assert!(!is_granted(&desk.answer(&b, request(5)).unwrap()));
        assert!(is_granted(&desk.answer(&a, request(5)).unwrap()));
    }

    #[test]
    fn g6_a_witness_serves_one_cluster_and_one_list_of_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let (desk, ..) = serving(dir.path(), Duration::ZERO);
        let admit = |name: &str, cluster_id, nodes: &[&str]| {
            let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            desk.admit(&identity(name, cluster_id), nodes).map(drop)
        };
        assert!(admit("b", 7, &["a", "b"]).is_ok());
        assert!(matches!(admit("b", 8, &["a", "b"]), Err(Refused::Cluster)));
        assert!(matches!(
            admit("b", 7, &["b", "a"]),
            Err(Refused::Nodes { .. })
        ));
        assert!(matches!(
            admit("c", 7, &["a", "b"]),
            Err(Refused::Stranger(_))
        ));
    }
}
