//! A bounded pool of threads for what blocks: SQLite and the log. Writers and readers have a pool
//! each, so that long queries never keep a commit waiting for a thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// The pool; dropped, it finishes what is queued and ends its threads.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait, the one that worked last on top: its caches are warm.
    idle: Vec<Arc<Desk>>,
    open: bool,
}

/// Where one thread waits for a job.
#[derive(Default)]
struct Desk {
    hand_over: Mutex<HandOver>,
    wake: Condvar,
}

#[derive(Default)]
struct HandOver {
    job: Option<Job>,
    ended: bool,
}

impl Desk {
    fn give(&self, job: Job) {
        self.hand_over.lock().job = Some(job);
        self.wake.notify_one();
    }

    /// The next job; `None` once the pool has stopped.
    fn wait(&self) -> Option<Job> {
        let mut hand_over = self.hand_over.lock();
        loop {
            if let Some(job) = hand_over.job.take() {
                return Some(job);
            }
            if hand_over.ended {
                return None;
            }
            self.wake.wait(&mut hand_over);
        }
    }
}

impl Workers {
    /// `count` threads called `name`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(name: &str, count: usize) -> std::io::Result<Workers> {
        let queue = Queue {
            jobs: VecDeque::new(),
            idle: Vec::new(),
            open: true,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
        });
        let mut threads = Vec::with_capacity(count);
        for index in 0..count.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&shared))?;
            threads.push(thread);
        }
        Ok(Workers {
            shared,
            threads: Mutex::new(threads),
        })
    }

    /// Runs `job` on one of the threads, in the order of calls. After [`Workers::stop`] it is
    /// dropped unrun.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        if !queue.open {
            return;
        }
        match queue.idle.pop() {
            Some(desk) => {
                drop(queue);
                desk.give(Box::new(job));
            }
            None => queue.jobs.push_back(Box::new(job)),
        }
    }

    /// Runs `job` and hands its result back; an error if the pool stopped first.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, result) = tokio::sync::oneshot::channel();
        self.run(move || {
            // A caller that went away does not want the result.
            let _ = reply.send(job());
        });
        result.await.map_err(|_| Stopped)
    }

    /// Takes no more, finishes what is queued, and waits for the threads.
    pub fn stop(&self) {
        let idle = {
            let mut queue = self.shared.queue.lock();
            queue.open = false;
            std::mem::take(&mut queue.idle)
        };
        for desk in idle {
            desk.hand_over.lock().ended = true;
            desk.wake.notify_one();
        }
        for thread in self.threads.lock().drain(..) {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The pool has stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Stopped;

impl From<Stopped> for springhead_proto::SqlError {
    fn from(stopped: Stopped) -> Self {
        springhead_proto::SqlError::new(
            springhead_proto::ErrorCode::AdminShutdown,
            stopped.to_string(),
        )
    }
}

fn work(shared: &Shared) {
    let desk = Arc::new(Desk::default());
    loop {
        let job = {
            let mut queue = shared.queue.lock();
            match queue.jobs.pop_front() {
                Some(job) => Some(job),
                None if queue.open => {
                    queue.idle.push(Arc::clone(&desk));
                    None
                }
                None => return,
            }
        };
        let Some(job) = job.or_else(|| desk.wait()) else {
            return;
        };
        // A panic in one job must not take the thread from all others; whoever waits for the job's
        // reply sees its channel closed.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job panicked; its caller is told that the outcome is unknown");
        }
    }
}
