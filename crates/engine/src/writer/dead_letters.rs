//! Retries and expiries of dead letters: what needs the writer itself, because mutations are applied.

use springhead_proto::sync::{CatalogVersion, Mutation, Operation, Push, Violation, body};
use springhead_proto::{ErrorCode, SqlError};

use super::Writer;
use super::mutate::Unapplied;
use super::run::NotDone;
use crate::dead_letters::retry::{Due, How, Member, Outcome, Retried, Retry};
use crate::dead_letters::{Action, Attempt, Ended, Entry, Policy, Swept, redrive, task};
use crate::readers::Failure;
use crate::sync::violation::Objection;

impl Writer {
    /// Tries a dead letter again, with those that depend on it: all of them, or none. Either way the
    /// attempt is part of the commit.
    pub(super) fn retry_dead_letter(&mut self, retry: &Retry) -> Result<Retried, NotDone> {
        let mut entries = Vec::with_capacity(retry.members.len());
        for (place, member) in retry.members.iter().enumerate() {
            let entry = self.found(Entry::find(&self.conn, member.id))?;
            match entry {
                Some(entry) if !entry.resolved => entries.push((member, entry)),
                // A dependent may have gone its own way; the one that is asked for may not.
                _ if place > 0 => {}
                Some(_) => return Err(task::resolved_already(member.id).into()),
                None => return Err(task::unknown(member.id).into()),
            }
        }
        let objection = self.reapply_all(&entries, retry)?;
        springhead_log::failpoint::hit("dead_letters.retry");
        let outcome = match objection {
            None => Outcome::Applied,
            Some((violation, error)) => Outcome::Rejected { violation, error },
        };
        let edited = retry.operations.is_some();
        for (member, mut entry) in entries {
            let text = match &outcome {
                Outcome::Applied => "applied".to_owned(),
                Outcome::Rejected { violation, .. } => violation.to_string(),
            };
            let note = match &outcome {
                Outcome::Applied => edited.then(|| retry.operations_text()).flatten(),
                Outcome::Rejected { error, .. } => Some(error.message.clone()),
            };
            let note = note.filter(|_| member.id == retry.members[0].id);
            let desk = self.desk();
            let attempt = Attempt::new(desk.now_us, retry.word(), &retry.by, text);
            let attempt = attempt.with_note(note);
            entry.retry_count += 1;
            let written = match &outcome {
                Outcome::Applied => desk.resolve(&mut entry, &retry.by, retry.how.ends(), attempt),
                Outcome::Rejected { .. } => {
                    entry.note(attempt);
                    entry.update(desk.conn).map_err(Failure::from)
                }
            };
            self.found(written)?;
        }
        if let Some(turn) = &retry.turn {
            let is_applied = matches!(outcome, Outcome::Applied);
            let advanced = redrive::advance(&self.conn, turn, is_applied);
            self.found(advanced.map_err(Failure::from))?;
        }
        let id = retry.members[0].id;
        let entry = self.found(Entry::find(&self.conn, id))?;
        let entry = entry.ok_or_else(|| task::unknown(id))?;
        Ok(Retried {
            outcome,
            entry: Box::new(entry),
        })
    }

    /// Applies the mutations of `entries` in their order; nothing of them is left if one is objected
    /// to.
    fn reapply_all(
        &mut self,
        entries: &[(&Member, Entry)],
        retry: &Retry,
    ) -> Result<Option<(Violation, SqlError)>, NotDone> {
        let mark = self.capture.mark();
        let restarts = (self.context.sequences.as_ref()).map_or(0, |book| book.lock().mark());
        self.step("SAVEPOINT chain")?;
        let mut objection = None;
        for (place, (member, entry)) in entries.iter().enumerate() {
            let edited = retry.operations.as_deref().filter(|_| place == 0);
            let applied = match (&member.author, self.mutation(entry, edited, retry.how)) {
                (Err(error), _) => Err(objection_to(Violation::PermissionDenied, error.clone())),
                (_, Err(error)) => Err(objection_to(Violation::Malformed, error)),
                (Ok(author), Ok(mutation)) => self.apply_mutation(&mutation, author),
            };
            match applied {
                Ok(()) => {}
                Err(Unapplied::Objected(found)) => {
                    objection = Some((found.violation, found.error));
                    break;
                }
                Err(Unapplied::NotDone(not_done)) => return Err(not_done),
            }
        }
        if objection.is_some() {
            self.step("ROLLBACK TO chain")?;
            self.capture.cut(mark);
            self.undo_restarts(restarts);
        }
        self.step("RELEASE chain")?;
        Ok(objection)
    }

    /// The mutation that a dead letter is, as it is to be applied now.
    fn mutation(
        &self,
        entry: &Entry,
        edited: Option<&[Operation]>,
        how: How,
    ) -> Result<Mutation, SqlError> {
        let malformed = |what: &str| {
            SqlError::new(ErrorCode::InvalidParameterValue, what)
                .with_hint("retry it with operations of your own, or resolve it with a note")
        };
        let push: Push = match body::from_bytes(&entry.delta) {
            Ok(push) => push,
            Err(error) => return Err(malformed(&format!("its delta cannot be read: {error}"))),
        };
        let mut mutations = push.mutations.into_iter();
        let Some(mut mutation) = mutations.next() else {
            return Err(malformed("its delta holds no mutation"));
        };
        if let Some(operations) = edited {
            mutation.operations = operations.to_vec();
        }
        if edited.is_some() || how == How::ForceApply {
            // Written, or taken, as of now: nothing about it is stale.
            mutation.hlc = None;
            mutation.schema_version = CatalogVersion(self.catalog.version);
        }
        Ok(mutation)
    }

    /// Does what is due, exactly once: an entry that is gone, resolved, or given more time meanwhile
    /// is left alone, and what is done to it is in the same commit as its leaving.
    pub(super) fn expire_dead_letters(&mut self, due: &[Due]) -> Result<Swept, NotDone> {
        let mut swept = Swept::default();
        for due in due {
            self.expire_one(due, &mut swept)?;
        }
        self.found(task::forget_escalations(&self.desk()))?;
        Ok(swept)
    }

    fn expire_one(&mut self, due: &Due, swept: &mut Swept) -> Result<(), NotDone> {
        let Some(entry) = self.found(Entry::find(&self.conn, due.member.id))? else {
            return Ok(());
        };
        let desk = self.desk();
        if entry.expires_at_us > desk.now_us {
            return Ok(());
        }
        if entry.resolved {
            self.found(entry.delete(desk.conn).map_err(Failure::from))?;
            swept.forgotten += 1;
            return Ok(());
        }
        let policy = Policy::of(
            desk.conn,
            desk.config,
            &entry.collection,
            &entry.violation_type,
        );
        let action = self.found(policy)?.action;
        match (action, due.failed.as_deref()) {
            (Action::Drop, _) => {
                self.found(desk.drop_expired(&entry))?;
                swept.dropped += 1;
            }
            (Action::Escalate, _) => {
                self.found(desk.escalate(&entry, "ttl", None))?;
                swept.escalated += 1;
            }
            (Action::ForceApplyLww, Some(why)) => {
                self.found(desk.escalate(&entry, "force_apply_failed", Some(why)))?;
                swept.escalated += 1;
            }
            (Action::ForceApplyLww, None) => {
                let retry = Retry::forced(due.member.clone());
                match self.retry_dead_letter(&retry)?.outcome {
                    Outcome::Applied => swept.force_applied += 1,
                    Outcome::Rejected { violation, .. } => {
                        // As it is now: with the attempt.
                        let entry = self.found(Entry::find(&self.conn, due.member.id))?;
                        let entry = entry.ok_or_else(|| task::unknown(due.member.id))?;
                        let why = violation.to_string();
                        let left = self
                            .desk()
                            .escalate(&entry, "force_apply_failed", Some(&why));
                        self.found(left)?;
                        swept.escalated += 1;
                    }
                }
            }
        }
        springhead_log::failpoint::hit("dead_letters.expire");
        Ok(())
    }

    fn found<T>(&self, result: Result<T, Failure>) -> Result<T, NotDone> {
        result.map_err(|failure| self.not_done(failure))
    }

    fn step(&self, sql: &str) -> Result<(), NotDone> {
        let done = self
            .conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]));
        self.found(done.map(drop).map_err(Failure::from))
    }
}

/// To the mutation as a whole.
fn objection_to(violation: Violation, error: SqlError) -> Unapplied {
    Unapplied::Objected(Objection {
        violation,
        operation: 0,
        by: None,
        error,
    })
}

impl How {
    /// Where an entry that it has applied is counted.
    const fn ends(self) -> Ended {
        match self {
            How::ForceApply => Ended::Expired,
            How::Retry | How::Redrive => Ended::Resolved,
        }
    }
}
