//! How commands reach a writer: a queue bounded by bytes, and a writer that is run by one worker
//! thread while there is something in it: a worker's, or, for a lone client, the thread that brought
//! the command. Idle, it costs no thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use springhead_proto::{ErrorCode, SqlError};

use super::{Command, Writer, refuse};
use crate::workers::Workers;

/// A writer with its queue.
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    /// The writer's group has grown to what it waits for.
    grown: Condvar,
    writer: Mutex<Writer>,
    workers: Arc<Workers>,
    max_bytes: usize,
    max_group: usize,
}

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Command>,
    bytes: usize,
    /// Whether a thread runs the writer, or will.
    scheduled: bool,
    /// Above zero while commands have lately come several at a time.
    crowd: u32,
    /// While the writer waits for its group to grow: to how many.
    expected: Option<usize>,
    closed: bool,
}

/// Lone commands after a crowd before the submitting thread runs the writer itself again.
const CROWD_MEMORY: u32 = 16;

/// A flush shorter than this is not worth waiting for company.
const SHORT_FLUSH: Duration = Duration::from_micros(200);
/// The part of a flush's time that a group waits to grow, at most.
const GATHER_FRACTION: u32 = 4;

/// Rounds that a writer runs before it lets other tenants' writers have the thread.
const ROUNDS: usize = 64;

impl Mailbox {
    pub fn new(
        writer: Writer,
        workers: Arc<Workers>,
        max_bytes: usize,
        max_group: usize,
    ) -> Arc<Mailbox> {
        Arc::new(Mailbox {
            inbox: Mutex::default(),
            grown: Condvar::new(),
            writer: Mutex::new(writer),
            workers,
            max_bytes,
            max_group,
        })
    }

    /// Queues `command`; it is answered through its own channel, whatever happens.
    pub fn submit(self: &Arc<Self>, command: Command) {
        self.enqueue(command, None);
    }

    /// Queues commands that are to be run together, in order; each is answered through its own
    /// channel.
    pub fn submit_all(self: &Arc<Self>, commands: Vec<Command>) {
        let mut inbox = self.inbox.lock();
        let mut refused = Vec::new();
        for command in commands {
            let bytes = command.bytes();
            if inbox.closed || inbox.bytes + bytes > self.max_bytes && inbox.bytes > 0 {
                refused.push(command);
                continue;
            }
            inbox.bytes += bytes;
            inbox.queue.push_back(command);
        }
        let error = if inbox.closed {
            SqlError::new(ErrorCode::AdminShutdown, "the tenant is closing")
        } else {
            SqlError::new(
                ErrorCode::TooManyRequests,
                "too much waits for this tenant's writer",
            )
        };
        if inbox
            .expected
            .is_some_and(|expected| inbox.queue.len() >= expected)
        {
            self.grown.notify_one();
        }
        let schedules = !inbox.queue.is_empty() && !std::mem::replace(&mut inbox.scheduled, true);
        drop(inbox);
        if schedules {
            self.schedule();
        }
        for command in refused {
            refuse(command, error.clone());
        }
    }

    /// As [`Mailbox::submit`]; may run the writer before it returns if nobody else uses it. For
    /// callers that have nothing else to do meanwhile, no timer to watch either. With `ahead`, the
    /// answer may come before its commit is in the state file: if true is returned, the caller calls
    /// [`Mailbox::finish`] soon, whatever happens.
    pub fn submit_and_run(self: &Arc<Self>, command: Command, ahead: bool) -> bool {
        self.enqueue(command, Some(ahead))
    }

    /// Takes what the writer has left unfinished into the state file.
    pub fn finish(&self) {
        let finish = || {
            // Whoever has the writer now has begun with it.
            if let Some(mut writer) = self.writer.try_lock() {
                guarded(&mut writer, |writer| writer.finish().is_ok());
            }
        };
        if may_block() {
            tokio::task::block_in_place(finish);
        } else {
            finish();
        }
    }

    /// `may_run`: on the caller's thread if nobody else uses the writer, ahead or not. Whether
    /// something is left unfinished.
    fn enqueue(self: &Arc<Self>, command: Command, may_run: Option<bool>) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            drop(inbox);
            refuse(
                command,
                SqlError::new(ErrorCode::AdminShutdown, "the tenant is closing"),
            );
            return false;
        }
        // What ends a transaction always fits: refusing it would hold up everyone.
        let ends = matches!(command, Command::Rollback(..) | Command::Commit(..));
        let bytes = command.bytes();
        if inbox.bytes + bytes > self.max_bytes && inbox.bytes > 0 && !ends {
            drop(inbox);
            let error = SqlError::new(
                ErrorCode::TooManyRequests,
                "too many statements wait for this tenant's writer",
            )
            .with_hint("try again shortly, or raise writer_queue_bytes");
            refuse(command, error);
            return false;
        }
        inbox.bytes += bytes;
        inbox.queue.push_back(command);
        if inbox
            .expected
            .is_some_and(|expected| inbox.queue.len() >= expected)
        {
            self.grown.notify_one();
        }
        if !std::mem::replace(&mut inbox.scheduled, true) {
            let is_alone = inbox.crowd == 0 && inbox.queue.len() == 1;
            drop(inbox);
            match may_run {
                Some(ahead) if is_alone && may_block() => {
                    return tokio::task::block_in_place(|| self.run(1, ahead));
                }
                _ => self.schedule(),
            }
        }
        false
    }

    fn schedule(self: &Arc<Self>) {
        let mailbox = Arc::clone(self);
        self.workers.run(move || {
            mailbox.run(ROUNDS, false);
        });
    }

    /// Runs the writer until nothing is queued, or for so many rounds; then a worker goes on.
    /// Whether something is left unfinished, which is so only if `ahead`.
    fn run(self: &Arc<Self>, rounds: usize, ahead: bool) -> bool {
        let mut writer = self.writer.lock();
        // First of all: who left it so counts on whoever has the writer.
        guarded(&mut writer, |writer| writer.finish().is_ok());
        let mut left_unfinished = false;
        let mut commands = VecDeque::new();
        let mut answered = 0;
        for _ in 0..rounds {
            {
                let mut inbox = self.inbox.lock();
                self.gather(&mut inbox, answered, writer.last_flush());
                while commands.len() < self.max_group
                    && let Some(command) = inbox.queue.pop_front()
                {
                    inbox.bytes -= command.bytes();
                    commands.push_back(command);
                }
                if commands.is_empty() {
                    inbox.scheduled = false;
                    return false;
                }
                inbox.crowd = if commands.len() > 1 {
                    CROWD_MEMORY
                } else {
                    inbox.crowd.saturating_sub(1)
                };
            }
            answered = commands.len();
            left_unfinished = guarded(&mut writer, |writer| {
                if ahead {
                    writer.process_ahead(&mut commands)
                } else {
                    writer.process(&mut commands);
                    false
                }
            });
        }
        drop(writer);
        let mut inbox = self.inbox.lock();
        if inbox.queue.is_empty() {
            inbox.scheduled = false;
        } else {
            drop(inbox);
            self.schedule();
        }
        left_unfinished
    }

    /// Where flushes are slow, waits a moment for those who have just been answered: clients that
    /// commit one after the other would otherwise form two groups that take turns.
    fn gather(&self, inbox: &mut MutexGuard<'_, Inbox>, answered: usize, flush: Duration) {
        if answered < 2 || flush < SHORT_FLUSH || inbox.queue.is_empty() || inbox.closed {
            return;
        }
        let expected = (inbox.queue.len() + answered).min(self.max_group);
        let deadline = Instant::now() + flush / GATHER_FRACTION;
        inbox.expected = Some(expected);
        while inbox.queue.len() < expected && !self.grown.wait_until(inbox, deadline).timed_out() {}
        inbox.expected = None;
    }

    /// Runs `act` with the writer, between commands.
    pub fn with_writer<T>(&self, act: impl FnOnce(&mut Writer) -> T) -> T {
        let mut writer = self.writer.lock();
        guarded(&mut writer, |writer| writer.finish().is_ok());
        act(&mut writer)
    }

    /// Takes no more commands, answers those that wait, and rolls back what is open. Blocks until
    /// what runs has ended.
    pub fn close(&self, error: &SqlError) {
        let waiting: Vec<Command> = {
            let mut inbox = self.inbox.lock();
            inbox.closed = true;
            inbox.bytes = 0;
            inbox.queue.drain(..).collect()
        };
        for command in waiting {
            refuse(command, error.clone());
        }
        self.writer.lock().stop(error);
    }

    /// Whether nothing is queued or under way.
    pub fn is_idle(&self) -> bool {
        let inbox = self.inbox.lock();
        let quiet = inbox.queue.is_empty() && !inbox.scheduled;
        drop(inbox);
        quiet
            && self
                .writer
                .try_lock()
                .is_some_and(|writer| writer.is_idle())
    }
}

/// Whatever happens, nobody may wait for an answer for ever: a panic ends the writer. Its errors have
/// made it dead, which the next one is told. False after a panic.
fn guarded(writer: &mut Writer, act: impl FnOnce(&mut Writer) -> bool) -> bool {
    let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(writer)));
    acted.unwrap_or_else(|_| {
        writer.stop_panicked();
        false
    })
}

/// Whether the calling thread may wait for the disk: a thread of the runtime that lets others take
/// over its tasks. A lone client is then answered without a hand-over to a worker and back.
fn may_block() -> bool {
    use tokio::runtime::{Handle, RuntimeFlavor};
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}
