//! What is committed together, and who is told: a group of autocommit statements, or one interactive
//! transaction. How it becomes durable is in [`super::durable`].

use std::collections::VecDeque;
use std::sync::Arc;

use springhead_proto::{ErrorCode, Lsn, SqlError};
use tokio::sync::oneshot;

use super::run::{Executed, NotDone};
use super::{Command, Reply, Request, WorkAnswer, WorkDone, WorkRequest, Writer, answer};
use crate::capture::CapturedCommit;
use crate::sync::{Decided, MutationRequest};

/// An autocommit statement, or work of the engine's own, that has run but is not durable yet.
struct Ran {
    asked: Asked,
    outcome: Result<Ended, SqlError>,
    commit: Option<CapturedCommit>,
}

/// What is a commit of its own and may share a group with others.
enum Asked {
    Statement(Request),
    Work(WorkRequest),
    Mutation(MutationRequest),
}

/// What it came to.
enum Ended {
    Statement(Executed),
    Work(WorkAnswer),
    Mutation(Decided),
}

impl Asked {
    /// Answers whoever asked; a client that left does not want the answer.
    fn answer(self, result: Result<(Ended, Lsn), SqlError>) {
        match (self, result) {
            (Asked::Statement(request), Ok((Ended::Statement(executed), lsn))) => {
                let _ = request.reply.send(Reply::Done(super::Done {
                    rows: executed.rows,
                    affected: executed.affected,
                    lsn,
                    notices: executed.notices,
                    catalog: executed.catalog,
                }));
            }
            (Asked::Statement(request), Err(error)) => {
                let _ = request.reply.send(Reply::Failed {
                    error,
                    transaction_lost: false,
                });
            }
            (Asked::Work(request), Ok((Ended::Work(answer), lsn))) => {
                let _ = request.reply.send(Ok(WorkDone { answer, lsn }));
            }
            (Asked::Work(request), Err(error)) => {
                let _ = request.reply.send(Err(error));
            }
            (Asked::Mutation(request), Ok((Ended::Mutation(decided), lsn))) => {
                let _ = request.reply.send(Ok((decided, lsn)));
            }
            (Asked::Mutation(request), Err(error)) => {
                let _ = request.reply.send(Err(error));
            }
            (_, Ok(_)) => {
                unreachable!("each ends as what it is")
            }
        }
    }
}

impl Writer {
    /// Runs autocommit statements from the front of `commands` as one group. Stops at what needs
    /// the writer for itself, which is run after the group.
    pub(super) fn run_group(&mut self, commands: &mut VecDeque<Command>) {
        let mut group: Vec<Ran> = Vec::new();
        while self.dead.is_none()
            && let Some(command) = commands.pop_front()
        {
            match command {
                Command::Run(request) if is_alone(&request) => {
                    // Whoever follows is planned against the catalog that it makes.
                    if !group.is_empty() {
                        commands.push_front(Command::Run(request));
                        break;
                    }
                    self.run_one(Asked::Statement(request), &mut group);
                    break;
                }
                Command::Run(request) => self.run_one(Asked::Statement(request), &mut group),
                Command::Work(request) if request.work.defines() => {
                    // As a statement that defines.
                    if !group.is_empty() {
                        commands.push_front(Command::Work(request));
                        break;
                    }
                    self.run_one(Asked::Work(request), &mut group);
                    break;
                }
                Command::Work(request) => self.run_one(Asked::Work(request), &mut group),
                Command::Mutate(request) => self.run_one(Asked::Mutation(request), &mut group),
                Command::Begin(begin) => {
                    if group.is_empty() {
                        self.begin_owner(begin);
                    } else {
                        commands.push_front(Command::Begin(begin));
                    }
                    break;
                }
                other => super::refuse(other, super::transaction_gone()),
            }
        }
        if !group.is_empty() {
            self.finish_group(group);
        }
    }

    fn run_one(&mut self, asked: Asked, group: &mut Vec<Ran>) {
        if let Asked::Statement(request) = &asked
            && !request.cancel.start()
        {
            // Whoever cancelled it has answered.
            return;
        }
        // Usually one; after a transaction was lost, the neighbours that were lost with it again.
        let mut to_run = VecDeque::from([asked]);
        while let Some(asked) = to_run.pop_front() {
            match self.run_asked(&asked) {
                Err(NotDone::Damaged(error)) => {
                    self.stop_damaged(&error);
                    self.roll_back();
                    let lost = group
                        .drain(..)
                        .map(|ran| ran.asked)
                        .chain([asked])
                        .chain(to_run.drain(..));
                    for asked in lost {
                        asked.answer(Err(error.clone()));
                    }
                }
                Ok((ended, commit)) => group.push(Ran {
                    asked,
                    outcome: Ok(ended),
                    commit,
                }),
                // A failure may rest on what a neighbour has done and nobody may know yet, so it
                // waits for the flush like everyone.
                Err(NotDone::Failed(error)) => group.push(Ran {
                    asked,
                    outcome: Err(error),
                    commit: None,
                }),
                Err(NotDone::Stale) => match asked {
                    Asked::Statement(request) => {
                        let _ = request.reply.send(Reply::Stale(Arc::clone(&self.catalog)));
                    }
                    Asked::Work(_) | Asked::Mutation(_) => {
                        unreachable!("these are planned where they run")
                    }
                },
                Err(NotDone::TransactionLost(error)) => {
                    self.roll_back();
                    asked.answer(Err(error));
                    // Their clients have not been answered. One statement fewer each time, so this
                    // ends.
                    let lost: Vec<Asked> = group.drain(..).map(|ran| ran.asked).collect();
                    for asked in lost.into_iter().rev() {
                        to_run.push_front(asked);
                    }
                }
            }
        }
    }

    /// Runs one in the open transaction, and takes its changes out of the capture; they may be found
    /// lost only then.
    fn run_asked(&mut self, asked: &Asked) -> Result<(Ended, Option<CapturedCommit>), NotDone> {
        self.open_transaction().map_err(|error| match error.code {
            ErrorCode::Corrupted => NotDone::Damaged(error),
            _ => NotDone::Failed(error),
        })?;
        let ended = match asked {
            Asked::Statement(request) => {
                let executed = self.execute(request)?;
                self.note_statement_clocks()?;
                self.record_local().map_err(|fault| self.undone(fault))?;
                Ended::Statement(executed)
            }
            Asked::Work(request) => Ended::Work(self.execute_work(&request.work)?),
            Asked::Mutation(request) => Ended::Mutation(self.mutate(request)?),
        };
        let commit = self.take_commit();
        match self.capture.check() {
            Ok(()) => Ok((ended, commit)),
            Err(error) => Err(NotDone::TransactionLost(error)),
        }
    }

    /// Ends the open commit, and takes what it has done to its own sequences into it.
    fn take_commit(&mut self) -> Option<CapturedCommit> {
        if let Some(book) = &self.context.sequences {
            let moved = book.lock().take_of_transaction(&self.catalog);
            for step in &moved {
                self.capture.push_sequence(step);
            }
            self.moved.extend(moved);
        }
        self.capture.take_commit()
    }

    fn finish_group(&mut self, mut group: Vec<Ran>) {
        if group.len() > 1 {
            // It is not the state of just before, where a function truncates.
            self.before_truncate = None;
        }
        self.made_by = group
            .iter()
            .filter(|ran| ran.commit.is_some())
            .enumerate()
            .filter_map(|(place, ran)| match &ran.asked {
                Asked::Mutation(request) => Some((place, request.mutation.id())),
                _ => None,
            })
            .collect();
        let mut commits = Vec::with_capacity(group.len());
        let mut changed = Vec::with_capacity(group.len());
        for ran in &mut group {
            changed.push(ran.commit.is_some());
            commits.extend(ran.commit.take());
        }
        // Rows take their time to the client.
        let may_wait = matches!(
            &group[..],
            [Ran { outcome: Ok(Ended::Statement(executed)), .. }] if executed.rows.is_none()
        );
        match self.make_durable(commits, may_wait) {
            Ok(last_lsns) => {
                let visible = self.hub.visible();
                let mut lsns = last_lsns.into_iter();
                for (ran, changed) in group.into_iter().zip(changed) {
                    ran.asked.answer(ran.outcome.map(|ended| {
                        let lsn = if changed { lsns.next() } else { None };
                        (ended, lsn.unwrap_or(visible))
                    }));
                }
            }
            Err(error) => {
                let before = self.published.catalog();
                self.forget_definitions(&before);
                for ran in group {
                    let error = ran.outcome.err().unwrap_or_else(|| error.clone());
                    ran.asked.answer(Err(error));
                }
            }
        }
    }

    pub(super) fn commit_owner(&mut self, reply: oneshot::Sender<Reply>) {
        let ready = self
            .check_foreign_keys(true, None)
            .and_then(|()| self.capture.check())
            .and_then(|()| self.note_statement_clocks().map_err(NotDone::into_error))
            .and_then(|()| {
                self.record_local()
                    .map_err(|fault| self.undone(fault).into_error())
            });
        if let Err(error) = ready {
            self.end_owner_rollback();
            let _ = reply.send(Reply::Failed {
                error,
                transaction_lost: true,
            });
            return;
        }
        let commits: Vec<CapturedCommit> = self.take_commit().into_iter().collect();
        if let Err(error) = self.capture.check() {
            self.end_owner_rollback();
            let _ = reply.send(Reply::Failed {
                error,
                transaction_lost: true,
            });
            return;
        }
        let result = self.make_durable(commits, false);
        let owner = self.owner.take();
        match result {
            Ok(last_lsns) => {
                // Going back to a savepoint may have left nothing but another version.
                self.publish_catalog();
                let lsn = last_lsns
                    .last()
                    .copied()
                    .unwrap_or_else(|| self.hub.visible());
                answer(reply, Ok(self.done(lsn)));
            }
            Err(error) => {
                if let Some(owner) = owner
                    && self.dead.is_none()
                {
                    self.forget_definitions(&owner.before);
                }
                let _ = reply.send(Reply::Failed {
                    error,
                    transaction_lost: true,
                });
            }
        }
    }
}

/// Whether it shares its group with no other: a definition, and TRUNCATE, before which the state file has
/// all that was committed before.
fn is_alone(request: &Request) -> bool {
    use springhead_sql::PlanKind::{Ddl, Truncate};
    matches!(request.plan.kind, Ddl(_) | Truncate { .. })
}
