//! Counters of the HTTP side, and everything an operator watches as Prometheus text.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use springhead_engine::dead_letters::{Counts, Figures, VIOLATIONS};

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

/// Everything, in the text format of Prometheus
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>). No label holds a name that a
/// user chose.
pub fn text(app: &App, dead_letters: &Figures) -> String {
    let status = app.node.engine.status();
    let own = &app.metrics;
    let mut page = Page(String::with_capacity(8 << 10));
    let stats = status.log;
    page.counter(
        "springhead_log_flushes_total",
        "Flushes of the log to stable storage.",
        stats.flushes,
    );
    page.counter(
        "springhead_log_batches_total",
        "Batches written to the log.",
        stats.batches,
    );
    page.counter(
        "springhead_log_commits_total",
        "Commits written to the log.",
        stats.commits,
    );
    page.counter(
        "springhead_log_written_bytes_total",
        "Bytes written to the log, padding included.",
        stats.written_bytes,
    );
    page.gauge(
        "springhead_log_kept_bytes",
        "Bytes of log that retention keeps now.",
        stats.kept_bytes,
    );
    page.gauge(
        "springhead_log_segments",
        "Segments of the log on disk.",
        stats.segments,
    );
    page.gauge(
        "springhead_log_durable_lsn",
        "The last durable LSN.",
        status.tail.durable.0,
    );
    page.gauge(
        "springhead_log_earliest_lsn",
        "The first LSN that can be read.",
        status.earliest.0,
    );
    page.gauge(
        "springhead_log_timestamp_ms",
        "The time of the last durable batch.",
        status.tail.timestamp_ms.0,
    );
    page.gauge(
        "springhead_tenants",
        "Tenants there are.",
        status.tenants as u64,
    );
    page.gauge(
        "springhead_open_tenants",
        "Tenants that are open.",
        status.open_tenants as u64,
    );
    page.gauge(
        "springhead_damaged_tenants",
        "Tenants that take no writes any more, since damage was found in their state.",
        status.damaged_tenants.len() as u64,
    );
    page.counter(
        "springhead_statements_total",
        "Statements run.",
        status.statements,
    );
    page.counter(
        "springhead_commits_total",
        "Commits acknowledged.",
        status.commits,
    );
    page.gauge(
        "springhead_tails",
        "Readers of the log's end, of every exit.",
        status.subscribers as u64,
    );
    page.head("springhead_subscribers", "gauge", "Subscribers, by exit.");
    page.labelled(
        "springhead_subscribers",
        "exit",
        "sse",
        own.event_streams.value(),
    );
    page.labelled("springhead_subscribers", "exit", "poll", own.polls.value());
    page.labelled(
        "springhead_subscribers",
        "exit",
        "live",
        own.live_streams.value(),
    );
    page.labelled(
        "springhead_subscribers",
        "exit",
        "websocket",
        own.websockets.value(),
    );
    page.labelled(
        "springhead_subscribers",
        "exit",
        "sync",
        own.devices.value(),
    );
    sync(&mut page, app);
    let (open, different) = app.live.counts();
    page.gauge(
        "springhead_live_queries",
        "Live queries that are open.",
        open as u64,
    );
    page.gauge(
        "springhead_live_plans",
        "Different live queries that are open; equal ones are kept once.",
        different as u64,
    );
    page.counter(
        "springhead_event_streams_total",
        "Event streams opened.",
        own.event_streams_opened.load(Relaxed),
    );
    page.counter(
        "springhead_event_stream_bytes_total",
        "Bytes of event streams handed to sockets.",
        own.event_stream_bytes.load(Relaxed),
    );
    page.counter(
        "springhead_poll_changes_total",
        "Changes handed out by polls.",
        own.poll_changes.load(Relaxed),
    );
    page.head(
        "springhead_connections",
        "gauge",
        "Connections that are open, by protocol.",
    );
    page.labelled(
        "springhead_connections",
        "protocol",
        "http",
        own.connections.value(),
    );
    page.labelled(
        "springhead_connections",
        "protocol",
        "pg",
        app.node.pg.sessions() as u64,
    );
    page.head(
        "springhead_connections_accepted_total",
        "counter",
        "Connections accepted, by protocol.",
    );
    page.labelled(
        "springhead_connections_accepted_total",
        "protocol",
        "http",
        own.accepted.load(Relaxed),
    );
    page.labelled(
        "springhead_connections_accepted_total",
        "protocol",
        "pg",
        app.node.pg.accepted(),
    );
    page.counter(
        "springhead_http_refused_total",
        "HTTP connections refused because there were too many.",
        own.refused.load(Relaxed),
    );
    page.head(
        "springhead_http_answers_total",
        "counter",
        "HTTP answers, by class of status.",
    );
    for (class, count) in own.answers.iter().enumerate().skip(2) {
        page.labelled(
            "springhead_http_answers_total",
            "class",
            &format!("{class}xx"),
            count.load(Relaxed),
        );
    }
    page.dead_letters(dead_letters);
    page.gauge(
        "springhead_uptime_seconds",
        "Seconds since the node began to serve.",
        app.node.started.elapsed().as_secs(),
    );
    if let Some(replication) = &app.node.replication {
        crate::standby::status::metrics(replication, &mut page.0);
    }
    page.0
}

/// What became of devices' mutations, and what devices were sent.
fn sync(page: &mut Page, app: &App) {
    let counts = app.sync.counts();
    let name = "springhead_sync_mutations_total";
    page.head(name, "counter", "Mutations of devices, by their verdicts.");
    for (verdict, count) in [
        ("applied", &counts.applied),
        ("duplicate", &counts.duplicates),
        ("rejected", &counts.rejected),
        ("deferred", &counts.deferred),
    ] {
        page.labelled(name, "verdict", verdict, count.load(Relaxed));
    }
    page.counter(
        "springhead_sync_snapshot_rows_total",
        "Rows of snapshots sent to devices.",
        counts.snapshot_rows.load(Relaxed),
    );
    page.counter(
        "springhead_sync_deltas_total",
        "Commits sent to devices.",
        counts.deltas.load(Relaxed),
    );
}

struct Page(String);

impl Page {
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(format_args!("{name} {value}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    /// By violation: a closed list of words.
    fn dead_letters(&mut self, figures: &Figures) {
        type Row = (&'static str, &'static str, &'static str, fn(&Counts) -> i64);
        const ROWS: [Row; 5] = [
            (
                "springhead_dead_letters_enqueued_total",
                "counter",
                "Mutations rejected and kept, by violation.",
                |counts| counts.enqueued,
            ),
            (
                "springhead_dead_letters_resolved_total",
                "counter",
                "Dead letters retried with success or resolved, by violation.",
                |counts| counts.resolved,
            ),
            (
                "springhead_dead_letters_expired_total",
                "counter",
                "Dead letters dropped or force-applied when their time was over, by violation.",
                |counts| counts.expired,
            ),
            (
                "springhead_dead_letters_escalated_total",
                "counter",
                "Dead letters that went to springhead.escalations, by violation.",
                |counts| counts.escalated,
            ),
            (
                "springhead_dead_letters_unresolved",
                "gauge",
                "Dead letters that wait for somebody, by violation.",
                |counts| counts.unresolved,
            ),
        ];
        for (name, kind, help, count) in ROWS {
            self.head(name, kind, help);
            for violation in VIOLATIONS {
                let counts = figures.get(violation).copied().unwrap_or_default();
                let count = u64::try_from(count(&counts)).unwrap_or(0);
                self.labelled(name, "violation", violation, count);
            }
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn labelled(&mut self, name: &str, label: &str, value: &str, count: u64) {
        self.line(format_args!("{name}{{{label}=\"{value}\"}} {count}"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").expect("writing to a string does not fail");
    }
}
