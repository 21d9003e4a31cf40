//! Counters of the HTTP side. The page that shows them is in [`super::exposition`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::App;

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// Counts itself in a gauge until it is dropped.
pub struct Counted {
    app: Arc<App>,
    gauge: fn(&Metrics) -> &Gauge,
}

/// The HTTP side's own figures.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub refused: AtomicU64,
    /// Answers, by the first digit of their status.
    pub answers: [AtomicU64; 6],
    /// Event streams that are open.
    pub event_streams: Gauge,
    /// Live queries that are open as event streams.
    pub live_streams: Gauge,
    /// WebSockets that are open.
    pub websockets: Gauge,
    /// Devices that are connected.
    pub devices: Gauge,
    /// Event streams opened.
    pub event_streams_opened: AtomicU64,
    /// Bytes of event streams handed to sockets.
    pub event_stream_bytes: AtomicU64,
    /// Polls that are being answered or wait.
    pub polls: Gauge,
    /// Changes handed out by polls.
    pub poll_changes: AtomicU64,
}

impl Gauge {
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts one more if there are fewer than `most`; false if not. Pairs with [`Gauge::leave`].
    pub fn enter(&self, most: usize) -> bool {
        let enter = |now: u64| (now < most as u64).then_some(now + 1);
        self.0.fetch_update(Relaxed, Relaxed, enter).is_ok()
    }

    pub fn leave(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Counted {
    /// One more, until it is dropped.
    pub fn new(app: &Arc<App>, gauge: fn(&Metrics) -> &Gauge) -> Counted {
        gauge(&app.metrics).0.fetch_add(1, Relaxed);
        Counted {
            app: Arc::clone(app),
            gauge,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.app.metrics).leave();
    }
}

impl Metrics {
    pub fn answered(&self, status: http::StatusCode) {
        self.answers[usize::from(status.as_u16() / 100).min(5)].fetch_add(1, Relaxed);
    }
}
