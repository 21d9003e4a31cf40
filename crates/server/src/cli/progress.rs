//! How far long work has come, on standard error: a line that rewrites itself on a terminal, a line
//! every ten seconds elsewhere, and nothing for work that is over in a moment.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Work that takes less is not worth a word.
const QUIET: Duration = Duration::from_secs(1);
const EVERY_ON_TERMINAL: Duration = Duration::from_millis(200);
const EVERY_ELSEWHERE: Duration = Duration::from_secs(10);

/// Reports one piece of work; dropped, it ends the line.
pub struct Progress {
    what: &'static str,
    begun: Instant,
    terminal: bool,
    last: Mutex<Option<Instant>>,
}

impl Progress {
    /// For work called `what`.
    #[must_use]
    pub fn new(what: &'static str) -> Progress {
        Progress {
            what,
            begun: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
            last: Mutex::new(None),
        }
    }
}

impl springhead_log::Progress for Progress {
    fn report(&self, done_bytes: u64, total_bytes: u64) {
        let now = Instant::now();
        let every = if self.terminal {
            EVERY_ON_TERMINAL
        } else {
            EVERY_ELSEWHERE
        };
        let mut last = self.last.lock();
        let due = last.map_or(self.begun + QUIET, |last| last + every);
        if now < due {
            return;
        }
        *last = Some(now);
        drop(last);
        let percent = done_bytes
            .saturating_mul(100)
            .checked_div(total_bytes)
            .unwrap_or(100);
        let line = format!("{}: {percent} % of {} MiB", self.what, total_bytes >> 20);
        if self.terminal {
            // Progress is a courtesy: nobody is told if it cannot be shown.
            let _ = write!(std::io::stderr(), "\r{line}");
        } else {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.last.lock().is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
