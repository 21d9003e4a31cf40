//! How far this standby is, and when its upstream is told: what is flushed at once, what is only written
//! or is applied at once where commits wait for that, all else with what is told next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use springhead_proto::Lsn;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::wire::{Progress, Wanted};

/// What nobody waits for is told after this long.
const UNHURRIED: Duration = Duration::from_millis(20);

/// See the module's text. Written by the threads that write and apply, read by the task that answers.
pub struct Teller {
    progress: watch::Sender<Progress>,
    /// Whether commits wait for what is written, and for what is applied.
    written_is_wanted: AtomicBool,
    applied_is_wanted: AtomicBool,
    /// Whatever there is to tell.
    at_once: Notify,
}

impl Teller {
    /// Until the other side has said what it waits for, that is everything.
    pub fn new(progress: Progress) -> Teller {
        Teller {
            progress: watch::Sender::new(progress),
            written_is_wanted: AtomicBool::new(true),
            applied_is_wanted: AtomicBool::new(true),
            at_once: Notify::new(),
        }
    }

    /// The log is written up to `lsn`. Whoever writes tells that itself, if [it is
    /// wanted](Teller::written_is_wanted).
    pub fn wrote(&self, lsn: Lsn) {
        self.progress.send_if_modified(|progress| {
            progress.written = lsn;
            false
        });
    }

    /// Whether commits wait for what is written.
    pub fn written_is_wanted(&self) -> bool {
        self.written_is_wanted.load(Ordering::Acquire)
    }

    /// How far it is.
    pub fn now(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The log is flushed up to `lsn`.
    pub fn flushed(&self, lsn: Lsn) {
        self.progress.send_if_modified(|progress| {
            let moves = progress.flushed != lsn;
            progress.written = progress.written.max(lsn);
            progress.flushed = lsn;
            moves
        });
    }

    /// Everything up to `lsn` is visible here.
    pub fn applied(&self, lsn: Lsn) {
        self.progress.send_if_modified(|progress| {
            let moves = progress.applied != lsn;
            progress.applied = lsn;
            moves && self.applied_is_wanted.load(Ordering::Acquire)
        });
    }

    /// The other side says what it waits for.
    pub fn is_asked(&self, wanted: Wanted) {
        let had_written = self
            .written_is_wanted
            .swap(wanted.written, Ordering::AcqRel);
        let had_applied = self
            .applied_is_wanted
            .swap(wanted.applied, Ordering::AcqRel);
        if (wanted.written && !had_written) || (wanted.applied && !had_applied) {
            // It may have been kept back until now.
            self.tell_now();
        }
    }

    /// The next acknowledgement goes out now.
    pub fn tell_now(&self) {
        self.at_once.notify_one();
    }

    /// For [`Teller::wait`].
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until there is something to tell whoever has been told `said`, or it is `beat_at`.
    pub async fn wait(
        &self,
        progress: &mut watch::Receiver<Progress>,
        said: Progress,
        beat_at: Instant,
    ) {
        loop {
            // What is flushed is going to be applied, which may wake nobody.
            let look_at = match said.applied < said.flushed {
                true => beat_at.min(Instant::now() + UNHURRIED),
                false => beat_at,
            };
            tokio::select! {
                _ = progress.changed() => return,
                () = self.at_once.notified() => return,
                () = sleep_until(look_at) => {}
            }
            if Instant::now() >= beat_at || *progress.borrow() != said {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_waited_for_is_told_at_once() {
        let teller = Teller::new(Progress::default());
        let mut progress = teller.subscribe();
        teller.is_asked(Wanted::default());
        teller.wrote(Lsn(3));
        assert!(!progress.has_changed().unwrap());
        teller.flushed(Lsn(3));
        assert!(progress.has_changed().unwrap());
        let said = *progress.borrow_and_update();
        teller.flushed(Lsn(3));
        teller.applied(Lsn(3));
        assert!(!progress.has_changed().unwrap(), "nobody waits for it");
        // It is told all the same, a little later.
        let begun = Instant::now();
        let in_a_minute = begun + Duration::from_secs(60);
        teller.wait(&mut progress, said, in_a_minute).await;
        assert!((UNHURRIED..Duration::from_secs(30)).contains(&begun.elapsed()));
        // Somebody waits now: what was kept back is told, and what comes.
        let said = *progress.borrow_and_update();
        teller.wrote(Lsn(4));
        teller.is_asked(Wanted {
            applied: true,
            ..Wanted::default()
        });
        teller.wait(&mut progress, said, in_a_minute).await;
        assert!(!progress.has_changed().unwrap());
        teller.applied(Lsn(4));
        assert!(progress.has_changed().unwrap());
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "no heartbeat was needed"
        );
    }
}
