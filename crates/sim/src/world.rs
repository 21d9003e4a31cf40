//! What the threads of one run share: where the server is, whether it is up, the run's clock, and
//! when to stop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Shared by the threads of one run.
#[derive(Debug)]
pub struct World {
    pub pg: SocketAddr,
    pub http: SocketAddr,
    /// Ticks whenever an attempt starts or ends.
    clock: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
    abandoned: AtomicBool,
    server: Mutex<ServerState>,
    changed: Condvar,
    /// What happened that never should, beside what the checker finds.
    surprises: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct ServerState {
    up: bool,
    /// Counts starts.
    generation: u64,
}

impl World {
    /// A world whose server is down.
    #[must_use]
    pub fn new(pg: SocketAddr, http: SocketAddr) -> World {
        World {
            pg,
            http,
            clock: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            server: Mutex::default(),
            changed: Condvar::new(),
            surprises: Mutex::default(),
        }
    }

    /// The next tick.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Counts one acknowledged attempt.
    pub fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    /// Acknowledged attempts so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Says that the server has been started.
    pub fn server_is_up(&self) {
        let mut state = self.state();
        state.up = true;
        state.generation += 1;
        self.changed.notify_all();
    }

    /// Says that the server is gone.
    pub fn server_is_down(&self) {
        self.state().up = false;
    }

    /// Tells writers to end, and wakes everybody who waits.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _state = self.state();
        self.changed.notify_all();
    }

    /// Whether writers are to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Tells everybody to end: the run has failed.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.stop();
    }

    /// Whether the run has failed.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Waits until a server is up that was started after `seen`; tries the same one again after a
    /// second, since a connection may end for other reasons. Returns its generation; 0 when the run
    /// has failed, or writers are to end while the server is down.
    pub fn wait_up(&self, seen: u64) -> u64 {
        let mut state = self.state();
        loop {
            if state.up && state.generation > seen {
                return state.generation;
            }
            if self.is_abandoned() || (self.is_stopped() && !state.up) {
                return 0;
            }
            let second = Duration::from_secs(1);
            let (now, waited) = self
                .changed
                .wait_timeout(state, second)
                .expect("no thread panics with this lock");
            state = now;
            if waited.timed_out() && state.up {
                return state.generation;
            }
        }
    }

    /// Notes what never should happen.
    pub fn surprise(&self, what: String) {
        let mut surprises = self
            .surprises
            .lock()
            .expect("no thread panics with this lock");
        // A broken server would fill memory with them.
        if surprises.len() < 50 {
            surprises.push(what);
        }
    }

    /// What never should have happened.
    pub fn take_surprises(&self) -> Vec<String> {
        std::mem::take(
            &mut self
                .surprises
                .lock()
                .expect("no thread panics with this lock"),
        )
    }

    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.server.lock().expect("no thread panics with this lock")
    }
}
