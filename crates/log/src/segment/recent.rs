//! The last frames written, in memory, for raw readers close behind the writer: what a standby is sent
//! of a busy log is on its way without a look at the disk. Nothing is kept while nobody reads so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::raw::RawPosition;

/// More than this is not kept.
const KEPT_BYTES: usize = 1 << 20;

/// See the module's text.
#[derive(Default)]
pub struct Recent {
    /// Raw readers of what is written.
    readers: AtomicUsize,
    frames: Mutex<Frames>,
}

#[derive(Default)]
struct Frames {
    /// Oldest first, each beginning where the one before it ends.
    frames: VecDeque<RecentFrame>,
    bytes: usize,
}

/// One frame as it was written.
#[derive(Clone)]
pub struct RecentFrame {
    pub from: RawPosition,
    /// Behind it.
    pub next: RawPosition,
    pub bytes: Bytes,
}

impl Recent {
    /// A raw reader begins: frames written from now on are kept for it.
    pub fn begin(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// A raw reader is gone.
    pub fn end(&self) {
        if self.readers.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.frames.lock() = Frames::default();
        }
    }

    /// A frame has been written.
    pub fn push(&self, from: RawPosition, next: RawPosition, frame: &[u8]) {
        if self.readers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut kept = self.frames.lock();
        let follows = kept.frames.back().is_none_or(|last| last.next == from);
        if !follows || frame.len() > KEPT_BYTES {
            *kept = Frames::default();
        }
        if frame.len() > KEPT_BYTES {
            return;
        }
        kept.bytes += frame.len();
        kept.frames.push_back(RecentFrame {
            from,
            next,
            bytes: Bytes::copy_from_slice(frame),
        });
        while kept.bytes > KEPT_BYTES
            && let Some(oldest) = kept.frames.pop_front()
        {
            kept.bytes -= oldest.bytes.len();
        }
    }

    /// The frames from `at` on, about `budget_bytes` of them; `None` if they are not here (any more).
    pub fn from(&self, at: RawPosition, budget_bytes: u64) -> Option<Vec<RecentFrame>> {
        let kept = self.frames.lock();
        // A reader is behind by few.
        let place = kept.frames.iter().rposition(|frame| frame.from == at)?;
        let mut left = budget_bytes;
        let fitting = kept.frames.range(place..).take_while(|frame| {
            let fits = left > 0;
            left = left.saturating_sub(frame.bytes.len() as u64);
            fits
        });
        Some(fitting.cloned().collect())
    }
}
