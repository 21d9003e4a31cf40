//! Everything that an operator watches, in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), one function a subject. No label
//! holds a name that a user chose.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use springhead_engine::EngineStatus;
use springhead_engine::dead_letters::{Counts, Figures, VIOLATIONS};

use super::App;

/// The whole page.
pub fn text(app: &App, dead_letters: &Figures) -> String {
    let status = app.node.engine.status();
    let mut page = Page(String::with_capacity(8 << 10));
    log(&mut page, &status);
    tenants(&mut page, &status);
    subscribers(&mut page, app, &status);
    sync(&mut page, app);
    live(&mut page, app);
    feeds(&mut page, app);
    connections(&mut page, app);
    answers(&mut page, app);
    self::dead_letters(&mut page, dead_letters);
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

fn log(page: &mut Page, status: &EngineStatus) {
    let stats = &status.log;
    for (name, help, count) in [
        (
            "springhead_log_flushes_total",
            "Flushes of the log to stable storage.",
            stats.flushes,
        ),
        (
            "springhead_log_batches_total",
            "Batches written to the log.",
            stats.batches,
        ),
        (
            "springhead_log_commits_total",
            "Commits written to the log.",
            stats.commits,
        ),
        (
            "springhead_log_written_bytes_total",
            "Bytes written to the log, padding included.",
            stats.written_bytes,
        ),
    ] {
        page.counter(name, help, count);
    }
    for (name, help, value) in [
        (
            "springhead_log_kept_bytes",
            "Bytes of log that retention keeps now.",
            stats.kept_bytes,
        ),
        (
            "springhead_log_segments",
            "Segments of the log on disk.",
            stats.segments,
        ),
        (
            "springhead_log_durable_lsn",
            "The last durable LSN.",
            status.tail.durable.0,
        ),
        (
            "springhead_log_earliest_lsn",
            "The first LSN that can be read.",
            status.earliest.0,
        ),
        (
            "springhead_log_timestamp_ms",
            "The time of the last durable batch.",
            status.tail.timestamp_ms.0,
        ),
    ] {
        page.gauge(name, help, value);
    }
}

fn tenants(page: &mut Page, status: &EngineStatus) {
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
}

/// Who follows the log, by exit.
fn subscribers(page: &mut Page, app: &App, status: &EngineStatus) {
    let own = &app.metrics;
    page.gauge(
        "springhead_tails",
        "Readers of the log's end, of every exit.",
        status.subscribers as u64,
    );
    let exits = [
        ("sse", own.event_streams.value()),
        ("poll", own.polls.value()),
        ("live", own.live_streams.value()),
        ("websocket", own.websockets.value()),
        ("sync", own.devices.value()),
    ];
    let family = Family {
        name: "springhead_subscribers",
        kind: "gauge",
        help: "Subscribers, by exit.",
        label: "exit",
    };
    page.family(&family, exits);
}

/// What became of devices' mutations, and what devices were sent.
fn sync(page: &mut Page, app: &App) {
    let counts = app.sync.counts();
    let verdicts = [
        ("applied", &counts.applied),
        ("duplicate", &counts.duplicates),
        ("rejected", &counts.rejected),
        ("deferred", &counts.deferred),
    ];
    let family = Family {
        name: "springhead_sync_mutations_total",
        kind: "counter",
        help: "Mutations of devices, by their verdicts.",
        label: "verdict",
    };
    page.family(
        &family,
        verdicts.map(|(verdict, count)| (verdict, count.load(Relaxed))),
    );
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

fn live(page: &mut Page, app: &App) {
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
}

/// What event streams and polls have handed out.
fn feeds(page: &mut Page, app: &App) {
    let own = &app.metrics;
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
}

fn connections(page: &mut Page, app: &App) {
    let (http, pg) = (&app.metrics, &app.node.pg);
    let open = Family {
        name: "springhead_connections",
        kind: "gauge",
        help: "Connections that are open, by protocol.",
        label: "protocol",
    };
    let sessions = pg.sessions() as u64;
    page.family(
        &open,
        [("http", http.connections.value()), ("pg", sessions)],
    );
    let accepted = Family {
        name: "springhead_connections_accepted_total",
        kind: "counter",
        help: "Connections accepted, by protocol.",
        label: "protocol",
    };
    let counts = [("http", http.accepted.load(Relaxed)), ("pg", pg.accepted())];
    page.family(&accepted, counts);
    page.counter(
        "springhead_http_refused_total",
        "HTTP connections refused because there were too many.",
        http.refused.load(Relaxed),
    );
}

fn answers(page: &mut Page, app: &App) {
    const CLASSES: [&str; 6] = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];
    let family = Family {
        name: "springhead_http_answers_total",
        kind: "counter",
        help: "HTTP answers, by class of status.",
        label: "class",
    };
    let counts = app.metrics.answers.iter().map(|count| count.load(Relaxed));
    // No answer is of the first two.
    page.family(&family, CLASSES.into_iter().zip(counts).skip(2));
}

/// By violation: a closed list of words.
fn dead_letters(page: &mut Page, figures: &Figures) {
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
        let family = Family {
            name,
            kind,
            help,
            label: "violation",
        };
        let counts = VIOLATIONS.into_iter().map(|violation| {
            let counts = figures.get(violation).copied().unwrap_or_default();
            (violation, u64::try_from(count(&counts)).unwrap_or(0))
        });
        page.family(&family, counts);
    }
}

/// Figures of one name that a label tells apart.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    label: &'static str,
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

    fn family<'a>(&mut self, family: &Family, values: impl IntoIterator<Item = (&'a str, u64)>) {
        let Family { name, label, .. } = family;
        self.head(name, family.kind, family.help);
        for (value, count) in values {
            self.line(format_args!("{name}{{{label}=\"{value}\"}} {count}"));
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").expect("writing to a string does not fail");
    }
}
