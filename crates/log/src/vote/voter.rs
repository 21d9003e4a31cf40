//! One voter: what it does with what it hears. The rules are the module's above.

use springhead_proto::Lsn;

use super::{
    Ballot, Durable, MAX_DATA_NODES, Members, Message, NodeId, Output, Position, Primary, Role,
};

/// Rules that a test leaves out to see that the check finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Omitted {
    /// Rule 1: a ballot is promised to whoever asks.
    pub promise_once: bool,
    /// Rule 2.
    pub compare_positions: bool,
    /// Rule 3.
    pub fence_acknowledgements: bool,
    /// The second half of rule 4.
    pub check_in_sync: bool,
    /// Of rule 4, that whoever is kept in sync when another is lost has everything.
    pub keep_caught_up: bool,
    /// Of rule 4, that what a primary's log had when it was elected counts as acknowledged.
    pub count_begun: bool,
}

/// One voter; see the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Voter {
    id: NodeId,
    data_nodes: u8,
    durable: Durable,
    role: Role,
    omitted: Omitted,
}

impl Voter {
    /// A voter that has just been started with what it had durable. `data_nodes` there are; the voter
    /// behind them is the witness.
    ///
    /// # Panics
    /// If there are more than [`MAX_DATA_NODES`].
    #[must_use]
    pub fn new(id: NodeId, data_nodes: u8, durable: Durable) -> Voter {
        assert!(
            usize::from(data_nodes) <= MAX_DATA_NODES,
            "they have no place in a set of members"
        );
        Voter {
            id,
            data_nodes,
            durable,
            role: Role::Follower,
            omitted: Omitted::default(),
        }
    }

    /// The same, without some of the rules. For tests of the check.
    #[must_use]
    pub fn without(mut self, omitted: Omitted) -> Voter {
        self.omitted = omitted;
        self
    }

    /// What it has durable.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// What it is.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    fn is_witness(&self) -> bool {
        self.id.0 >= self.data_nodes
    }

    fn witness(&self) -> NodeId {
        NodeId(self.data_nodes)
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let own = self.id;
        (0..=self.data_nodes)
            .map(NodeId)
            .filter(move |id| *id != own)
    }

    /// A data node has not heard of a primary for too long, or is told to take over. `position` is its
    /// log's flushed end.
    pub fn campaign(&mut self, position: Position) -> Vec<Output> {
        let may_lead = self.durable.may_lead && !self.is_witness();
        if !may_lead || matches!(self.role, Role::Primary(_)) {
            return Vec::new();
        }
        let ballot = self.durable.promised.next();
        self.durable.promised = ballot;
        self.durable.voted_for = Some(self.id);
        self.role = Role::Candidate {
            votes: Members::of([self.id]),
        };
        let request = Message::RequestVote { ballot, position };
        let mut outputs = vec![Output::Persist(self.durable)];
        outputs.extend(self.others().map(|to| Output::Send {
            to,
            message: request,
        }));
        outputs
    }

    /// A message has come. `position` is the own log's flushed end; the witness has none.
    pub fn receive(&mut self, from: NodeId, message: Message, position: Position) -> Vec<Output> {
        match message {
            Message::RequestVote {
                ballot,
                position: theirs,
            } => self.vote(from, ballot, theirs, position),
            Message::Vote {
                ballot,
                granted,
                promised,
            } => self.count_vote(from, ballot, granted, promised, position),
            Message::Acknowledged { ballot, lsn } => self.note_acknowledged(from, ballot, lsn),
            Message::SetInSync {
                ballot,
                change,
                members,
            } => self.set_in_sync(from, ballot, change, members),
            Message::InSyncSet { ballot, change } => self.in_sync_set(ballot, change),
        }
    }

    fn vote(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        theirs: Position,
        own: Position,
    ) -> Vec<Output> {
        let again = ballot == self.durable.promised && self.durable.voted_for == Some(from);
        let newer = ballot > self.durable.promised
            || self.omitted.promise_once && ballot == self.durable.promised;
        let may_lead = if self.is_witness() {
            self.omitted.check_in_sync || self.durable.in_sync.contains(from)
        } else {
            self.omitted.compare_positions || theirs >= own
        };
        let granted = again || (newer && may_lead);
        let mut outputs = Vec::new();
        if granted && newer {
            outputs = self.promise(ballot, Some(from));
        }
        // A primary that refuses does not campaign against the candidate: that one may have won by the
        // witness's vote, and two primaries that answer each other's campaigns with their own never end.
        outputs.push(Output::Send {
            to: from,
            message: Message::Vote {
                ballot,
                granted,
                promised: self.durable.promised,
            },
        });
        outputs
    }

    /// A follower has asked this primary for frames, having promised `ballot`.
    pub fn saw(&mut self, ballot: Ballot) {
        if let Role::Primary(primary) = &mut self.role {
            primary.seen = primary.seen.max(ballot);
        }
    }

    /// Whether somebody cannot follow this primary ([`Voter::renew`]). Of more than two data nodes that one
    /// may follow another primary: then the witness is to be asked first whether this one was deposed.
    #[must_use]
    pub fn must_renew(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.seen > self.durable.promised,
            _ => false,
        }
    }

    /// To be called now and then: a primary that somebody cannot follow, having promised a higher
    /// ballot, campaigns for one higher still. Nothing if there is no need. `position` is its log's
    /// flushed end.
    pub fn renew(&mut self, position: Position) -> Vec<Output> {
        let Role::Primary(Primary { seen, .. }) = self.role else {
            return Vec::new();
        };
        if !self.must_renew() {
            return Vec::new();
        }
        let mut outputs = self.promise(seen, None);
        outputs.extend(self.campaign(position));
        outputs
    }

    /// Promises a ballot higher than any before; whoever was something for a lower one is it no more.
    fn promise(&mut self, ballot: Ballot, voted_for: Option<NodeId>) -> Vec<Output> {
        let was = std::mem::replace(&mut self.role, Role::Follower);
        self.durable.promised = ballot;
        self.durable.voted_for = voted_for;
        let mut outputs = vec![Output::Persist(self.durable)];
        if matches!(was, Role::Primary(_)) {
            outputs.push(Output::StepDown { promised: ballot });
        }
        outputs
    }

    fn count_vote(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
        position: Position,
    ) -> Vec<Output> {
        if promised > self.durable.promised {
            let is_primary = matches!(self.role, Role::Primary(_));
            if is_primary && from != self.witness() {
                // It cannot follow before this primary has a higher ballot.
                self.saw(promised);
                return Vec::new();
            }
            // Somebody is ahead, and may lead by the witness's vote: the next campaign must be, too.
            return self.promise(promised, None);
        }
        let Role::Candidate { votes } = self.role else {
            return Vec::new();
        };
        if !granted || ballot != self.durable.promised {
            return Vec::new();
        }
        let votes = votes.with(from);
        self.role = Role::Candidate { votes };
        if !self.elects(votes) {
            return Vec::new();
        }
        let mut flushed = [Lsn::ZERO; MAX_DATA_NODES];
        flushed[usize::from(self.id.0)] = position.lsn;
        self.role = Role::Primary(Primary {
            // Whoever may be in sync by any record is waited for.
            required: Members::of((0..self.data_nodes).map(NodeId)),
            pending: None,
            confirmed: None,
            seen: ballot,
            changes: 0,
            flushed,
            begun: position.lsn,
            acknowledged: Lsn::ZERO,
        });
        vec![Output::BecomePrimary { ballot }]
    }

    /// The witness has said with its vote who is in sync: nobody else is waited for. To be called before
    /// anything is acknowledged; the record is right, since whoever else could change it had a lower ballot.
    pub fn elected_with(&mut self, in_sync: Members) {
        let own = self.id;
        if let Role::Primary(primary) = &mut self.role
            && primary.changes == 0
            && in_sync.contains(own)
        {
            primary.required = in_sync;
            primary.confirmed = Some(in_sync);
        }
    }

    /// Whether these votes make a primary: the witness's and a data node's, or those of all data nodes. Any
    /// two such sets share a voter, and of two data nodes they are the majorities of the three.
    fn elects(&self, votes: Members) -> bool {
        let data = Members::of((0..self.data_nodes).map(NodeId));
        let with_witness = votes.contains(self.witness()) && votes.0.count_ones() > 1;
        with_witness || (self.data_nodes > 1 && votes.includes(data))
    }

    /// Whether a follower may take frames of `ballot` and acknowledge them. What it says must be
    /// performed first; `None`: it may not.
    pub fn follow(&mut self, ballot: Ballot) -> Option<Vec<Output>> {
        if ballot == self.durable.promised {
            if matches!(self.role, Role::Primary(_)) {
                return None;
            }
            // Of two candidates for one ballot the other has won it.
            self.role = Role::Follower;
            return Some(Vec::new());
        }
        if ballot > self.durable.promised {
            return Some(self.promise(ballot, None));
        }
        (self.omitted.fence_acknowledgements && matches!(self.role, Role::Follower)).then(Vec::new)
    }

    /// A follower's log is about to be made anew from its primary's: it may have less than what it once
    /// acknowledged, and must not lead. To be performed before anything of the log is removed.
    pub fn forget_log(&mut self) -> Vec<Output> {
        self.durable.may_lead = false;
        vec![Output::Persist(self.durable)]
    }

    /// A follower has flushed everything that its primary has announced to be durable, in answer to a
    /// question that was asked after [`Voter::forget_log`]: an older announcement may be of less than
    /// what this node has acknowledged since.
    pub fn caught_up(&mut self) -> Vec<Output> {
        if self.durable.may_lead {
            return Vec::new();
        }
        self.durable.may_lead = true;
        vec![Output::Persist(self.durable)]
    }

    /// The primary's own log is flushed up to `lsn`.
    pub fn flushed(&mut self, lsn: Lsn) -> Vec<Output> {
        let own = usize::from(self.id.0);
        let Role::Primary(primary) = &mut self.role else {
            return Vec::new();
        };
        primary.flushed[own] = primary.flushed[own].max(lsn);
        self.acknowledge()
    }

    fn note_acknowledged(&mut self, from: NodeId, ballot: Ballot, lsn: Lsn) -> Vec<Output> {
        let current = self.durable.promised;
        let Role::Primary(primary) = &mut self.role else {
            return Vec::new();
        };
        if ballot != current {
            return Vec::new();
        }
        let Some(flushed) = primary.flushed.get_mut(usize::from(from.0)) else {
            return Vec::new();
        };
        *flushed = (*flushed).max(lsn);
        self.acknowledge()
    }

    /// Tells what has become acknowledged.
    fn acknowledge(&mut self) -> Vec<Output> {
        let Role::Primary(primary) = &mut self.role else {
            return Vec::new();
        };
        let everywhere = (0..self.data_nodes)
            .filter(|node| primary.required.contains(NodeId(*node)))
            .map(|node| primary.flushed[usize::from(node)])
            .min()
            .unwrap_or(Lsn::ZERO);
        if everywhere <= primary.acknowledged {
            return Vec::new();
        }
        primary.acknowledged = everywhere;
        vec![Output::Acknowledge { lsn: everywhere }]
    }

    /// The primary wants to go on without the other data node, which is lost. Nothing is acknowledged
    /// without it before the witness has it in writing.
    pub fn go_on_alone(&mut self) -> Vec<Output> {
        let own = Members::of([self.id]);
        if let Role::Primary(primary) = &self.role
            && primary.pending.is_some_and(|(_, members)| members == own)
        {
            // The same wish under a new number would not hear that the last one is granted.
            return self.remind();
        }
        self.change_in_sync(own)
    }

    /// The primary wants to go on without those data nodes, as with [`Voter::go_on_alone`]: for clusters
    /// of more than two. Whoever else is waited for and is not known to have everything that was acknowledged
    /// is no more in sync then than they are, and is taken back like them. Nothing if it waits for none of
    /// those.
    pub fn go_on_without(&mut self, lost: Members) -> Vec<Output> {
        let Role::Primary(primary) = &self.role else {
            return Vec::new();
        };
        let required = primary.required;
        let waits_for_lost = (0..self.data_nodes)
            .map(NodeId)
            .any(|node| node != self.id && required.contains(node) && lost.contains(node));
        if !waits_for_lost {
            return Vec::new();
        }
        let needed = self.needed(primary);
        let is_kept = |node: &NodeId| {
            let has_all =
                self.omitted.keep_caught_up || primary.flushed[usize::from(node.0)] >= needed;
            required.contains(*node) && !lost.contains(*node) && has_all
        };
        let kept = (0..self.data_nodes)
            .map(NodeId)
            .filter(|node| *node == self.id || is_kept(node));
        let kept = Members::of(kept);
        if primary.pending.is_some_and(|(_, members)| members == kept) {
            return Vec::new();
        }
        self.change_in_sync(kept)
    }

    /// What a node must have to be in sync: what this primary has acknowledged, and what its log had when it
    /// was elected, any of which may have been acknowledged before.
    fn needed(&self, primary: &Primary) -> Lsn {
        if self.omitted.count_begun {
            primary.acknowledged
        } else {
            primary.acknowledged.max(primary.begun)
        }
    }

    /// The other data node follows again: it is waited for from now on, and once it has everything
    /// that was acknowledged the witness is told that it is in sync ([`Voter::remind`]).
    pub fn rejoin(&mut self, node: NodeId) -> Vec<Output> {
        let Role::Primary(primary) = &mut self.role else {
            return Vec::new();
        };
        // A wish to go on without it must not be confirmed any more; the witness may have written it down.
        if primary.pending.take().is_some() {
            primary.confirmed = None;
        }
        primary.required = primary.required.with(node);
        self.remind()
    }

    /// To be called now and then: a primary says again what the witness has not confirmed, and that
    /// those who are waited for are in sync, once they have everything.
    pub fn remind(&mut self) -> Vec<Output> {
        let (ballot, to) = (self.durable.promised, self.witness());
        let Role::Primary(primary) = &self.role else {
            return Vec::new();
        };
        if let Some((change, members)) = primary.pending {
            let message = Message::SetInSync {
                ballot,
                change,
                members,
            };
            return vec![Output::Send { to, message }];
        }
        let required = primary.required;
        let needed = self.needed(primary);
        let have_all = (0..self.data_nodes)
            .filter(|node| required.contains(NodeId(*node)))
            .all(|node| primary.flushed[usize::from(node)] >= needed);
        if primary.confirmed == Some(required) || !have_all {
            return Vec::new();
        }
        self.change_in_sync(required)
    }

    fn change_in_sync(&mut self, members: Members) -> Vec<Output> {
        let (ballot, to) = (self.durable.promised, self.witness());
        let Role::Primary(primary) = &mut self.role else {
            return Vec::new();
        };
        primary.changes += 1;
        primary.pending = Some((primary.changes, members));
        vec![Output::Send {
            to,
            message: Message::SetInSync {
                ballot,
                change: primary.changes,
                members,
            },
        }]
    }

    fn set_in_sync(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        change: u32,
        members: Members,
    ) -> Vec<Output> {
        let late = (ballot, change) < (self.durable.in_sync_ballot, self.durable.in_sync_change);
        if !self.is_witness() || late && ballot >= self.durable.promised {
            return Vec::new();
        }
        if ballot < self.durable.promised {
            // A primary that does not know that its time is over hears it here.
            return vec![Output::Send {
                to: from,
                message: Message::Vote {
                    ballot,
                    granted: false,
                    promised: self.durable.promised,
                },
            }];
        }
        if ballot > self.durable.promised {
            self.durable.promised = ballot;
            self.durable.voted_for = Some(from);
        }
        self.durable.in_sync = members;
        (self.durable.in_sync_ballot, self.durable.in_sync_change) = (ballot, change);
        vec![
            Output::Persist(self.durable),
            Output::Send {
                to: from,
                message: Message::InSyncSet { ballot, change },
            },
        ]
    }

    fn in_sync_set(&mut self, ballot: Ballot, change: u32) -> Vec<Output> {
        let current = self.durable.promised;
        let Role::Primary(primary) = &mut self.role else {
            return Vec::new();
        };
        let Some((pending, members)) = primary.pending else {
            return Vec::new();
        };
        if ballot != current || change != pending {
            return Vec::new();
        }
        primary.pending = None;
        primary.confirmed = Some(members);
        primary.required = members;
        self.acknowledge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: NodeId = NodeId(1);
    const WITNESS: NodeId = NodeId(2);

    /// A primary of two data nodes, whose log ended at LSN 10 when the witness elected it.
    fn elected() -> Voter {
        let mut voter = Voter::new(NodeId(0), 2, Durable::new(2, Ballot(4)));
        let position = Position {
            ballot: Ballot(4),
            lsn: Lsn(10),
        };
        voter.campaign(position);
        let vote = Message::Vote {
            ballot: Ballot(5),
            granted: true,
            promised: Ballot(5),
        };
        let outputs = voter.receive(WITNESS, vote, position);
        assert_eq!(outputs, [Output::BecomePrimary { ballot: Ballot(5) }]);
        voter.flushed(Lsn(10));
        voter
    }

    fn acknowledges(voter: &mut Voter, lsn: u64) {
        let message = Message::Acknowledged {
            ballot: Ballot(5),
            lsn: Lsn(lsn),
        };
        voter.receive(OTHER, message, Position::default());
    }

    /// A primary that had gone on alone was started again: it had acknowledged nothing in its new ballot,
    /// so the other node, which lacked what was acknowledged in the old one, was said to have everything.
    #[test]
    fn g11_who_lacks_what_an_earlier_primary_may_have_acknowledged_is_not_in_sync() {
        let mut voter = elected();
        assert!(voter.remind().is_empty());
        acknowledges(&mut voter, 9);
        assert!(voter.remind().is_empty());
        acknowledges(&mut voter, 10);
        let both = Members::of([NodeId(0), OTHER]);
        let told = voter.remind();
        assert!(
            matches!(
                told[..],
                [Output::Send {
                    to: WITNESS,
                    message: Message::SetInSync { members, .. }
                }] if members == both
            ),
            "{told:?}"
        );
    }

    #[test]
    fn g11_a_primary_waits_for_whom_the_witness_elected_it_with() {
        let mut voter = elected();
        voter.elected_with(Members::of([NodeId(0)]));
        let acknowledged = voter.flushed(Lsn(11));
        assert_eq!(acknowledged, [Output::Acknowledge { lsn: Lsn(11) }]);
        // The other comes back: it is waited for, and in sync once it has everything.
        assert!(voter.rejoin(OTHER).is_empty());
        assert!(voter.flushed(Lsn(12)).is_empty());
        acknowledges(&mut voter, 12);
        assert_eq!(voter.remind().len(), 1);
    }
}
