//! What people and programs are told of votes: a part of `/v1/status`, lines of `/metrics`, the witness's
//! row of `springhead.standbys`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use springhead_log::vote::Role;

use super::Voting;
use super::messages::Known;

/// What the node is, as votes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It leads, and nobody else can have been elected.
    Leads,
    /// It was elected and has lost its lease: it is about to give up.
    CutOff,
    /// It follows a primary that it hears.
    Follows,
    /// It hears no primary.
    Waits,
}

impl Standing {
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Leads => "leads",
            Standing::CutOff => "cut off",
            Standing::Follows => "follows",
            Standing::Waits => "waits",
        }
    }
}

impl Voting {
    /// What the node is now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let has_lease = self.has_lease();
        let state = self.state.lock();
        match state.voter.role() {
            Role::Primary(_) if has_lease => Standing::Leads,
            Role::Primary(_) => Standing::CutOff,
            _ if state.heard_primary.elapsed() < self.timeout && state.echo_ms > 0 => {
                Standing::Follows
            }
            _ => Standing::Waits,
        }
    }

    /// The part of `/v1/status`.
    #[must_use]
    pub fn status(&self) -> Value {
        let standing = self.standing();
        let state = self.state.lock();
        let durable = state.voter.durable();
        let known = &state.witness.known;
        let name = |node: springhead_log::vote::NodeId| self.name_of(node).to_owned();
        let leader = match standing {
            Standing::Leads => Some(name(self.own)),
            _ => known.leader.as_ref().map(|leader| name(leader.node)),
        };
        let in_sync = match state.voter.role() {
            Role::Primary(primary) => primary.required(),
            _ => known.in_sync,
        };
        json!({
            "state": standing.word(),
            "leader": leader,
            "nodes": self.nodes,
            "promised": durable.promised.0,
            "voted_for": durable.voted_for.map(name),
            "may_lead": durable.may_lead,
            "in_sync": self.names_of(in_sync).collect::<Vec<_>>(),
            "campaigns": state.campaigns,
            "elected": state.elected,
            "problem": state.problem,
            "witness": {
                "address": self.witness.address(),
                "connected": state.witness.problem.is_none() && state.witness.heard.is_some(),
                "problem": state.witness.problem,
                "heard_ms": state.witness.heard.map(|heard| {
                    u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX)
                }),
                "promised": known.promised.0,
                "voted_for": known.voted_for.map(name),
                "in_sync": self.names_of(known.in_sync).collect::<Vec<_>>(),
                "leader": known.leader.as_ref().map(|leader| json!({
                    "name": name(leader.node),
                    "address": leader.address,
                    "lease_ms": leader.lease_ms,
                })),
            },
        })
    }

    /// Whether that standby is waited for.
    #[must_use]
    pub fn is_in_sync(&self, standby: &str) -> bool {
        let Some(node) = self.node_called(standby) else {
            return false;
        };
        let state = self.state.lock();
        match state.voter.role() {
            Role::Primary(primary) => primary.required().contains(node),
            _ => state.witness.known.in_sync.contains(node),
        }
    }

    /// Whether the witness holds that standby to be in sync.
    #[must_use]
    pub fn is_held_in_sync(&self, standby: &str, known: &Known) -> bool {
        let node = self.node_called(standby);
        node.is_some_and(|node| known.in_sync.contains(node))
    }

    /// Whether the witness takes part.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        let state = self.state.lock();
        state.witness.problem.is_none() && state.witness.heard.is_some()
    }

    /// Lines for Prometheus.
    pub fn metrics(&self, out: &mut String) {
        let leads = u64::from(self.standing() == Standing::Leads);
        let witness = u64::from(self.has_witness());
        let (promised, campaigns, elected) = {
            let state = self.state.lock();
            let promised = state.voter.durable().promised.0;
            (promised, state.campaigns, state.elected)
        };
        let in_sync = self
            .nodes
            .iter()
            .filter(|name| **name == self.nodes[usize::from(self.own.0)] || self.is_in_sync(name))
            .count();
        for (name, kind, help, value) in [
            (
                "springhead_vote_leads",
                "gauge",
                "1 if this node was elected and nobody else can have been since.",
                leads,
            ),
            (
                "springhead_vote_promised",
                "gauge",
                "The highest epoch number that this node has promised.",
                u64::from(promised),
            ),
            (
                "springhead_vote_in_sync_nodes",
                "gauge",
                "Nodes that have everything that was acknowledged, as far as this node knows.",
                u64::try_from(in_sync).unwrap_or(u64::MAX),
            ),
            (
                "springhead_vote_campaigns_total",
                "counter",
                "Times that this node asked for votes.",
                campaigns,
            ),
            (
                "springhead_vote_elected_total",
                "counter",
                "Times that this node was elected.",
                elected,
            ),
            (
                "springhead_witness_connected",
                "gauge",
                "1 if the witness takes part.",
                witness,
            ),
        ] {
            let _ = writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            );
        }
    }
}
