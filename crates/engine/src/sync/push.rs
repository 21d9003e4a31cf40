//! Mutations on their way to the writer and verdicts on their way back, in the order of the pushes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use springhead_log::Clock;
use springhead_proto::sync::{
    Ack, Generation, Mutation, MutationId, ProducerId, Push, RetryReason, Seq, ServerToDevice,
    SyncErrorCode, Throttle, Verdict, Violation,
};
use springhead_proto::{ErrorCode, Lsn, SqlError};
use tokio::sync::oneshot;

use super::session::{Closing, SyncSession};
use super::value::size_of_operation;
use super::{Author, Decided, MutationRequest, Sync};
use crate::writer::Command;

/// How fast a session may push.
pub(super) struct Bucket {
    per_s: f64,
    tokens: f64,
    at_ms: u64,
}

impl Bucket {
    pub(super) fn new(per_s: u32, clock: &dyn Clock) -> Bucket {
        Bucket {
            per_s: f64::from(per_s.max(1)),
            tokens: f64::from(per_s.max(1)) * 2.0,
            at_ms: clock.monotonic_ms(),
        }
    }

    /// Takes as many of `count` as there are; with fewer, also after how many milliseconds the rest.
    fn take(&mut self, count: usize, clock: &dyn Clock) -> (usize, Option<u64>) {
        let now = clock.monotonic_ms();
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds between two pushes"
        )]
        let passed = now.saturating_sub(self.at_ms) as f64;
        self.at_ms = now;
        self.tokens = (self.tokens + passed * self.per_s / 1000.0).min(self.per_s * 2.0);
        #[expect(clippy::cast_precision_loss, reason = "mutations of one push")]
        let wanted = count as f64;
        if wanted <= self.tokens {
            self.tokens -= wanted;
            return (count, None);
        }
        let taken = self.tokens.floor();
        self.tokens -= taken;
        let wait_ms = (wanted - taken) / self.per_s * 1000.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "both are positive and small"
        )]
        (taken as usize, Some(wait_ms.ceil() as u64))
    }
}

/// One mutation that waits for its verdict.
struct Pushed {
    producer: ProducerId,
    generation: Generation,
    seq: Seq,
    verdict: Waiting,
}

enum Waiting {
    For(oneshot::Receiver<Result<(Decided, Lsn), SqlError>>),
    Known(Result<Verdict, Closing>),
}

/// Those of one session.
#[derive(Default)]
pub(super) struct Pushes {
    waiting: VecDeque<Pushed>,
}

/// What a device is to hear of once everything before it has been handed out.
#[derive(Default)]
pub(super) struct Owed {
    /// Commits that are its own mutations; those that its shapes show are told with their changes.
    commits: VecDeque<(Lsn, MutationId)>,
    /// Those that were told before their verdicts.
    early: Vec<MutationId>,
    /// That it has everything up to here.
    pub up_to: Lsn,
}

impl Owed {
    /// The first LSN after `at` that the device waits to hear of.
    pub(super) fn due(&self, at: Lsn) -> Option<Lsn> {
        let commit = self.commits.front().map(|(lsn, _)| *lsn);
        let up_to = (self.up_to > at).then_some(self.up_to);
        commit.into_iter().chain(up_to).min()
    }

    fn add(&mut self, lsn: Lsn, id: MutationId) {
        match self.early.iter().position(|early| *early == id) {
            Some(place) => {
                self.early.swap_remove(place);
            }
            None => self.commits.push_back((lsn, id)),
        }
    }

    /// A commit has been told of as this mutation.
    pub(super) fn told(&mut self, id: MutationId) {
        match self.commits.iter().position(|(_, known)| *known == id) {
            Some(place) => {
                self.commits.remove(place);
            }
            None => self.early.push(id),
        }
    }

    /// The next commit up to `position` that has not been told of.
    pub(super) fn next(&mut self, position: Lsn) -> Option<(Lsn, MutationId)> {
        self.commits.pop_front_if(|(lsn, _)| *lsn <= position)
    }
}

/// After how long a device comes back that met a full queue, a full disk, a server that stops.
const OVERLOAD_MS: u64 = 100;
const DISK_FULL_MS: u64 = 5_000;
const UNAVAILABLE_MS: u64 = 1_000;

impl Pushes {
    /// Completes once the first in the queue has its verdict. Cancel-safe.
    pub(super) async fn decided(&mut self) {
        match self.waiting.front_mut() {
            None => std::future::pending().await,
            Some(pushed) => {
                if let Waiting::For(reply) = &mut pushed.verdict {
                    let answer = reply.await;
                    pushed.verdict = Waiting::Known(verdict(answer));
                }
            }
        }
    }

    pub(super) fn has_decided(&self) -> bool {
        matches!(
            self.waiting.front(),
            Some(Pushed {
                verdict: Waiting::Known(_),
                ..
            })
        )
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The frames for all verdicts at the front of the queue. `owed` gets what the device is to hear
    /// of besides.
    pub(super) fn take_decided(
        &mut self,
        sync: &Sync,
        owed: &mut Owed,
    ) -> Result<Vec<ServerToDevice>, Closing> {
        let mut frames = Vec::new();
        let mut run: Vec<(Seq, Verdict)> = Vec::new();
        let mut of = None;
        while let Some(pushed) = self.waiting.front_mut() {
            if let Waiting::For(reply) = &mut pushed.verdict {
                pushed.verdict = match reply.try_recv() {
                    Ok(answer) => Waiting::Known(verdict(Ok(answer))),
                    Err(oneshot::error::TryRecvError::Empty) => break,
                    Err(oneshot::error::TryRecvError::Closed) => Waiting::Known(Err(unknown())),
                };
            }
            let pushed = self.waiting.pop_front().expect("looked at above");
            let Waiting::Known(known) = pushed.verdict else {
                unreachable!("made known above")
            };
            let verdict = known?;
            count(sync, &verdict);
            let from = (pushed.producer, pushed.generation);
            match &verdict {
                Verdict::Applied { lsn } => owed.add(
                    *lsn,
                    MutationId {
                        producer: pushed.producer,
                        generation: pushed.generation,
                        seq: pushed.seq,
                    },
                ),
                Verdict::Duplicate { lsn } => owed.up_to = owed.up_to.max(*lsn),
                _ => {}
            }
            if of.is_some_and(|of| of != from) {
                let (producer, generation) = of.unwrap_or(from);
                frames.extend(Ack::frames(producer, generation, std::mem::take(&mut run)));
            }
            of = Some(from);
            run.push((pushed.seq, verdict));
        }
        if let Some((producer, generation)) = of {
            springhead_log::failpoint::hit("sync.before_verdicts");
            frames.extend(Ack::frames(producer, generation, run));
        }
        Ok(frames)
    }
}

fn count(sync: &Sync, verdict: &Verdict) {
    let counts = sync.counts();
    match verdict {
        Verdict::Applied { .. } => &counts.applied,
        Verdict::Duplicate { .. } => &counts.duplicates,
        Verdict::Rejected(_) => &counts.rejected,
        _ => &counts.deferred,
    }
    .fetch_add(1, Relaxed);
}

fn verdict(
    answer: Result<Result<(Decided, Lsn), SqlError>, oneshot::error::RecvError>,
) -> Result<Verdict, Closing> {
    let retry = |after_ms, reason| Ok(Verdict::Retry { after_ms, reason });
    match answer {
        Ok(Ok((decided, lsn))) => Ok(decided.at(lsn)),
        Ok(Err(error)) => match error.code {
            ErrorCode::OutcomeUnknown => Err(unknown()),
            ErrorCode::TooManyRequests | ErrorCode::OutOfMemory | ErrorCode::LockNotAvailable => {
                retry(OVERLOAD_MS, RetryReason::Overload)
            }
            ErrorCode::DiskFull => retry(DISK_FULL_MS, RetryReason::Overload),
            _ => retry(UNAVAILABLE_MS, RetryReason::Unavailable),
        },
        Err(_) => Err(unknown()),
    }
}

/// Whether they were applied nobody can tell now: the device pushes them again, and hears.
fn unknown() -> Closing {
    Closing::new(
        SyncErrorCode::Internal,
        "the outcome of a push is not known; push it again",
    )
}

impl SyncSession {
    /// Hands a push to the writer.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) fn push(&mut self, push: Push) -> Result<(), Closing> {
        let limits = &self.sync.limits.device;
        let too_many = |what: &str, limit: u32| {
            Err(Closing::new(
                SyncErrorCode::LimitExceeded,
                format!("{what} of at most {limit} mutations"),
            ))
        };
        let count = push.mutations.len();
        if count > limits.max_push_mutations as usize {
            return too_many("a push is", limits.max_push_mutations);
        }
        if self.pushes.len() + count > limits.max_in_flight as usize {
            return too_many("a session waits for the verdicts", limits.max_in_flight);
        }
        let max_bytes = limits.max_mutation_bytes as usize;
        let author = Arc::new(self.author()?);
        let (allowed, wait_ms) = self.bucket.take(count, &**self.sync.engine.clock());
        let (producer, generation) = (push.producer, push.generation);
        let mut commands = Vec::with_capacity(allowed);
        for (place, mutation) in push.mutations.into_iter().enumerate() {
            let seq = mutation.seq;
            let verdict = if place < allowed {
                let bytes = size_of(&mutation, max_bytes);
                let (reply, answer) = oneshot::channel();
                commands.push(Command::Mutate(MutationRequest {
                    precluded: (bytes > max_bytes).then_some(Violation::TooLarge),
                    acknowledged: if producer == self.producer && generation == self.generation {
                        self.settled
                    } else {
                        Seq::ZERO
                    },
                    size_bytes: bytes,
                    mutation: Arc::new(mutation),
                    author: Arc::clone(&author),
                    reply,
                }));
                Waiting::For(answer)
            } else {
                Waiting::Known(Ok(Verdict::Retry {
                    after_ms: wait_ms.unwrap_or(UNAVAILABLE_MS),
                    reason: RetryReason::RateLimit,
                }))
            };
            self.pushes.waiting.push_back(Pushed {
                producer,
                generation,
                seq,
                verdict,
            });
        }
        if let Some(after_ms) = wait_ms {
            self.out.push_back(ServerToDevice::Throttle(Throttle {
                after_ms,
                reason: RetryReason::RateLimit,
                max_in_flight: None,
            }));
        }
        self.tenant.mailbox.submit_all(commands);
        Ok(())
    }

    fn author(&self) -> Result<Author, SqlError> {
        let mut author = Author::new(&self.sync.engine, &self.principal)?;
        author.session_id = Some(self.session_id.clone());
        author.device_id = Some(self.device.to_string());
        author.client = Some(self.client.clone());
        author.remote_address = self.peer.address.clone();
        author.user_agent = self.peer.user_agent.clone();
        Ok(author)
    }
}

/// A mutation's size: exactly where it may be over `max_bytes`, roughly where it is not.
fn size_of(mutation: &Mutation, max_bytes: usize) -> usize {
    let roughly = (mutation.operations.iter()).map(size_of_operation).sum();
    if roughly > max_bytes / 2 {
        springhead_proto::sync::body::to_bytes(&mutation.operations).len()
    } else {
        roughly
    }
}

#[cfg(test)]
mod tests {
    use springhead_log::ManualClock;

    use super::Bucket;

    #[test]
    fn a_burst_passes_and_the_rest_is_told_when() {
        let clock = ManualClock::at(1_000);
        let mut bucket = Bucket::new(100, &clock);
        assert_eq!(bucket.take(200, &clock), (200, None));
        assert_eq!(bucket.take(50, &clock), (0, Some(500)));
    }
}
