//! Named places where a crash test ends the process.
//!
//! With the feature `failpoints`, `SPRINGHEAD_FAILPOINT="name:n"` makes the n-th (from 1) pass of
//! the place called `name` end the process with SIGKILL, as a power cut would: no destructor, no
//! flush. A simulation that has several nodes in one process is told of each pass instead
//! ([`watch`]). Without the feature [`hit`] is nothing at all.
//!
//! With it, `SPRINGHEAD_CLOCK_SHIFT` names a file with a number of milliseconds that the wall clock is
//! ahead (or behind, below zero). It is read each time: whoever replaces it sets the clock of a process
//! that runs, as an administrator or a time server does. Clocks that count from a start do not move.

/// Passes the place called `name`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// Passes the place called `name`; ends the process if this is the pass that was asked for.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    if let Some(watcher) = WATCHER.get() {
        watcher(name);
    }
    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var("SPRINGHEAD_FAILPOINT").ok()?;
        let (name, count) = value.rsplit_once(':')?;
        let count = count.parse().ok().filter(|&count| count > 0)?;
        Some((name.to_owned(), AtomicU64::new(count)))
    });
    let Some((armed_name, left)) = armed else {
        return;
    };
    if armed_name == name && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        kill_self();
    }
}

#[cfg(feature = "failpoints")]
type Watcher = Box<dyn Fn(&str) + Send + Sync>;

#[cfg(feature = "failpoints")]
static WATCHER: std::sync::OnceLock<Watcher> = std::sync::OnceLock::new();

/// Calls `watcher` at each pass of a place from now on, with its name, on the thread that passes it
/// and before it goes on. A process has at most one: false if there is one already.
#[cfg(feature = "failpoints")]
pub fn watch(watcher: impl Fn(&str) + Send + Sync + 'static) -> bool {
    WATCHER.set(Box::new(watcher)).is_ok()
}

#[cfg(feature = "failpoints")]
fn kill_self() -> ! {
    let own = rustix::process::getpid();
    // If the signal cannot be sent, an abort is the nearest thing.
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    std::process::abort()
}

/// The wall clock's time as it is to be seen.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub fn shift_clock(now_ms: u64) -> u64 {
    now_ms
}

/// The wall clock's time as it is to be seen, by the file that `SPRINGHEAD_CLOCK_SHIFT` names.
///
/// # Panics
/// If the file is there and has no number.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn shift_clock(now_ms: u64) -> u64 {
    static FILE: std::sync::OnceLock<Option<std::path::PathBuf>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("SPRINGHEAD_CLOCK_SHIFT").map(Into::into));
    let Some(Ok(text)) = file.as_ref().map(std::fs::read_to_string) else {
        return now_ms;
    };
    let shift_ms: i64 = text.trim().parse().expect("a number of milliseconds");
    now_ms.saturating_add_signed(shift_ms)
}

/// Every place there is, for the crash matrix.
pub const LOG_FAILPOINTS: &[&str] = &[
    "log.before_write",
    "log.mid_write",
    "log.after_write",
    "log.before_flush",
    "log.after_flush",
    "log.large_part_written",
    "log.before_rotate",
    "log.before_rename",
    "log.after_rename",
    "log.after_rotate",
    "log.before_trim",
    "log.mid_trim",
    "log.after_trim",
    "log.before_compress_rename",
    "log.after_compress_rename",
];

/// The places of changes of history and of following, which a plain run does not pass.
pub const EPOCH_FAILPOINTS: &[&str] = &[
    "log.epoch_before_store",
    "log.epoch_stored",
    "log.epoch_begun",
    "log.follow_before_write",
    "log.follow_after_write",
    "log.truncate_kept",
    "log.truncate_decided",
    "log.truncate_dropped",
];
