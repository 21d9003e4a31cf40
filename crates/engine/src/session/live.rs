//! LIVE SELECT, CANCEL LIVE and FETCH LIVE as a session runs them, and what its client is told.
//!
//! Changes come as notifications on the channel `live_<id>`, each a JSON object with the members that
//! other exits send and `"event"`. A notification's payload has under 8000 bytes: a change that does
//! not fit is announced with `"too_large": true`, and kept until FETCH LIVE takes it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use springhead_proto::{ErrorCode, Lsn, SqlError, Value};
use springhead_sql::live::LiveStatement;
use springhead_sql::plan::{Copy, LiveSelect, OutputColumn};
use springhead_sql::{PgType, PlanKind};

use super::live_told::{Teller, Told, channel_of, fetched, unknown};
use super::outcome::text_rows;
use super::{Outcome, Session};
use crate::cdc::parse_cursor;
use crate::copy::{CopyOut, CopyOutcome, LiveCopy};
use crate::functions::SessionContext;
use crate::live::asked::{Asker, Params, Who};
use crate::live::by_id::ById;
use crate::live::{Live, LiveError, LiveId, LiveWaiter, Opened, Subscriber};
use crate::notify::Notification;
use crate::rows::RowsWriter;

/// A session's live queries.
pub(super) struct LiveSide {
    live: Arc<Live>,
    /// Since the first LIVE SELECT.
    subscriber: Option<Subscriber>,
    queries: ById<Told>,
    /// What is to be told.
    waiting: VecDeque<Notification>,
    /// Everything of all its queries up to here has been told for certain; `None` before the first.
    told: Option<Lsn>,
}

/// The columns of LIVE SELECT's answer.
#[must_use]
pub fn live_columns() -> Arc<[OutputColumn]> {
    columns(&[
        ("live_id", PgType::Int8),
        ("cursor", PgType::Text),
        ("lsn", PgType::Int8),
    ])
}

/// The columns of FETCH LIVE's answer.
#[must_use]
pub fn fetch_columns() -> Arc<[OutputColumn]> {
    columns(&[
        ("lsn", PgType::Int8),
        ("cursor", PgType::Text),
        ("operation", PgType::Text),
        ("key", PgType::Text),
        ("row", PgType::Jsonb),
        ("before", PgType::Jsonb),
        ("position", PgType::Int8),
    ])
}

fn columns(of: &[(&str, PgType)]) -> Arc<[OutputColumn]> {
    (of.iter())
        .map(|(name, pg_type)| OutputColumn::computed(*name, pg_type.clone()))
        .collect()
}

/// What a live query's failure is told as.
fn sql_error(error: LiveError) -> SqlError {
    match error {
        LiveError::Sql(error) => error,
        other => SqlError::new(ErrorCode::CursorExpired, other.to_string())
            .with_hint("open the live query again without a cursor, or WITH (refetch)"),
    }
}

impl Session {
    /// Its client takes live queries' changes. Without it LIVE SELECT is refused.
    pub fn enable_live(&mut self, live: &Arc<Live>) {
        self.live = Some(Box::new(LiveSide {
            live: Arc::clone(live),
            subscriber: None,
            queries: ById::default(),
            waiting: VecDeque::new(),
            told: None,
        }));
    }

    /// Waits for changes of its live queries, once it has any.
    #[must_use]
    pub fn live_waiter(&self) -> Option<LiveWaiter> {
        let side = self.live.as_deref()?;
        let subscriber = side.subscriber.as_ref()?;
        Some(subscriber.waiter())
    }

    /// When a change that is held back may go out (`squash_ms`).
    #[must_use]
    pub fn live_due(&self) -> Option<tokio::time::Instant> {
        (self.live.as_deref()?.subscriber.as_ref()?).due()
    }

    /// All that its live queries have to tell now.
    pub async fn take_live(&mut self) -> Vec<Notification> {
        let process_id = self.process_id;
        let Some(side) = self.live.as_deref_mut() else {
            return Vec::new();
        };
        if let Some(subscriber) = &mut side.subscriber {
            while side.waiting.len() < BATCH
                && let Some(event) = subscriber.try_next().await
            {
                let epoch = subscriber.epoch();
                let cursor = move |lsn: Lsn| format!("{lsn}@{epoch}");
                let mut teller = Teller {
                    queries: &mut side.queries,
                    waiting: &mut side.waiting,
                    process_id,
                    most: side.live.limits().outbox_bytes,
                    cursor: &cursor,
                };
                if let Some(too_much) = teller.event(event) {
                    subscriber.close(too_much);
                }
            }
        }
        let batch = side.waiting.drain(..).collect();
        // The protocol sends them before it answers anything else.
        side.note_told();
        batch
    }

    /// SHOW live_cursor: everything of the session's live queries up to here has been told, so that who
    /// goes on from it loses nothing. With changes that wait, are held back or have not been fetched it
    /// is the last such position; without live queries so far there is nothing to lose.
    pub(super) fn live_cursor(&mut self) -> String {
        let visible = self.tenant.visible();
        let told = self.live.as_deref_mut().and_then(|side| {
            side.note_told();
            side.told
        });
        let lsn = told.unwrap_or(visible);
        format!("{lsn}@{}", self.tenant.shared.log.tail().epoch)
    }

    /// EXPLAIN LIVE, LIVE SELECT, CANCEL LIVE or FETCH LIVE.
    pub(super) async fn live_statement(
        &mut self,
        kind: &PlanKind,
        params: &[Value],
    ) -> Result<Outcome, SqlError> {
        match kind {
            PlanKind::Live(select) => self.live_select(select, params).await,
            PlanKind::LiveControl(statement) => self.live_control(statement),
            PlanKind::ExplainLive(lines) => {
                let lines = lines.iter().map(|line| vec![line.clone()]);
                text_rows("EXPLAIN", &["QUERY PLAN"], lines)
            }
            _ => Err(SqlError::unsupported("this statement about live queries")),
        }
    }

    async fn live_select(
        &mut self,
        select: &LiveSelect,
        params: &[Value],
    ) -> Result<Outcome, SqlError> {
        self.note_use();
        let asker = self.asker();
        let process_id = self.process_id;
        let tenant = Arc::clone(&self.tenant);
        let side = self.live_side()?;
        let live = Arc::clone(&side.live);
        let told_so_far = side.told.filter(|_| !side.queries.is_empty());
        let subscriber = side
            .subscriber
            .get_or_insert_with(|| Subscriber::new(&live, tenant));
        let opened = subscriber
            .open_select(
                asker,
                select,
                Params::new(params),
                None,
                select.options.snapshot == Some(true),
            )
            .await
            .map_err(sql_error)?;
        let epoch = subscriber.epoch();
        let (id, lsn) = (opened.id, opened.lsn);
        side.told = Some(told_by_opening(told_so_far, &opened));
        side.queries.insert(id, Told::new(&opened.options));
        let cursor = move |lsn: Lsn| format!("{lsn}@{epoch}");
        let mut teller = Teller {
            queries: &mut side.queries,
            waiting: &mut side.waiting,
            process_id,
            most: live.limits().outbox_bytes,
            cursor: &cursor,
        };
        let begun = match opened.options.snapshot {
            Some(true) => teller.begin(opened),
            _ => {
                teller.opened_delta(&opened);
                Ok(())
            }
        };
        if let Err(error) = begun {
            subscriber.close(id);
            side.queries.remove(id);
            return Err(error);
        }
        let mut rows = RowsWriter::new(1 << 16, 1 << 16);
        let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let row = [number(id.0), Value::Text(cursor(lsn)), number(lsn.0)];
        rows.push(row.iter().map(Value::as_ref))?;
        let mut outcome = Outcome::command("LIVE SELECT");
        outcome.columns = live_columns();
        outcome.rows = Some(rows.finish()?);
        outcome.lsn = lsn;
        Ok(outcome)
    }

    fn live_control(&mut self, statement: &LiveStatement) -> Result<Outcome, SqlError> {
        self.note_use();
        let tenant_lsn = self.tenant.visible();
        let epoch = self.tenant.shared.log.tail().epoch;
        let side = self.live_side()?;
        let mut outcome = match statement {
            LiveStatement::Cancel(None) => {
                // What is not told by now never is.
                side.note_told();
                side.end_all();
                Outcome::command("CANCEL LIVE")
            }
            LiveStatement::Cancel(Some(id)) => {
                let id = LiveId(*id);
                let is_known = side.subscriber.as_mut().is_some_and(|s| s.close(id));
                let had_more = side.queries.remove(id).is_some();
                if !is_known && !had_more {
                    return Err(unknown(id));
                }
                let channel = channel_of(id);
                side.waiting.retain(|told| *told.channel != *channel);
                Outcome::command("CANCEL LIVE")
            }
            LiveStatement::Fetch(id) => {
                let told = side.queries.get_mut(LiveId(*id));
                let told = told.ok_or_else(|| unknown(LiveId(*id)))?;
                let large = told.take_large();
                let cursor = move |lsn: Lsn| format!("{lsn}@{epoch}");
                fetched(&large, &cursor)?
            }
        };
        outcome.lsn = tenant_lsn;
        Ok(outcome)
    }

    /// COPY (LIVE SELECT …) TO STDOUT: the rows and changes that the protocol sends until somebody
    /// ends it.
    pub(super) async fn live_copy(
        &mut self,
        select: &LiveSelect,
        copy: &Copy,
    ) -> Result<Outcome, SqlError> {
        let asker = self.asker();
        let tenant = Arc::clone(&self.tenant);
        let progress = self.note_copy(copy);
        let live = Arc::clone(&self.live_side()?.live);
        let mut subscriber = Subscriber::new(&live, tenant);
        let opened = subscriber
            .open_select(
                asker,
                select,
                Params::new(&[]),
                None,
                select.options.snapshot != Some(false),
            )
            .await
            .map_err(sql_error)?;
        let own = springhead_sql::LIVE_COPY_COLUMNS.iter().cloned();
        let all: Arc<[OutputColumn]> = own
            .map(|(name, pg_type)| OutputColumn::computed(name, pg_type))
            .chain(opened.plan.columns.iter().cloned())
            .collect();
        let form = CopyOut::new(copy.options.clone(), all, progress);
        let mut outcome = Outcome::command("COPY");
        outcome.lsn = opened.lsn;
        outcome.copy = Some(CopyOutcome::Live(Box::new(LiveCopy::new(
            subscriber, opened, form,
        ))));
        Ok(outcome)
    }

    /// Ends all of its live queries.
    pub(super) fn end_live(&mut self) {
        if let Some(side) = self.live.as_deref_mut() {
            side.end_all();
            side.told = None;
        }
    }

    fn live_side(&mut self) -> Result<&mut LiveSide, SqlError> {
        self.live.as_deref_mut().ok_or_else(|| {
            SqlError::unsupported("LIVE SELECT here").with_hint(
                "ask over the PostgreSQL protocol, or open GET /live or the method live of /ws",
            )
        })
    }

    /// Whoever the session acts for now, with the settings that it has now.
    fn asker(&self) -> Asker {
        let settings = self.context.settings.lock().clone();
        let acts_as = {
            let role = settings.get("role").filter(|role| *role != "none").cloned();
            let user = settings.get("session_authorization").cloned();
            let user = user.unwrap_or_else(|| self.principal.user.to_string());
            (role.is_some() || *user != *self.principal.user).then_some((user, role))
        };
        // Those that every session has of its own tell it apart from others, not its rows.
        let mut shown: Vec<_> = (settings.iter())
            .filter(|(name, _)| !OWN_SETTINGS.contains(&name.as_str()))
            .collect();
        shown.sort();
        let text = format!("{shown:?}");
        let (context, _) = self.contexts();
        Asker {
            who: Who {
                principal: Arc::clone(&self.principal),
                acts_as,
            },
            context,
            session: Arc::new(SessionContext {
                settings: Mutex::new(settings),
                principal: Mutex::new(Some(Arc::clone(&self.principal))),
                ..SessionContext::default()
            }),
            settings: text,
        }
    }
}

/// Settings that differ between sessions without a difference in what they see.
const OWN_SETTINGS: [&str; 4] = [
    "backend_pid",
    "listening_channels",
    "application_name",
    "transaction_isolation",
];

/// Events that are turned into notifications at a time.
const BATCH: usize = 256;

/// Up to where a session is told with the answer of a LIVE SELECT: its position, or what it goes on
/// from while the difference is still to be sent.
fn told_by_opening(told_so_far: Option<Lsn>, opened: &Opened) -> Lsn {
    let from = (opened.delta.is_some())
        .then(|| parse_cursor(opened.options.cursor.as_deref()?).ok())
        .flatten();
    let by_opening = from.map_or(opened.lsn, |cursor| cursor.lsn);
    told_so_far.map_or(by_opening, |told| told.min(by_opening))
}

impl LiveSide {
    /// Moves `told` on, if nothing is owed to the client now.
    fn note_told(&mut self) {
        if !self.waiting.is_empty() || self.queries.values().any(Told::has_large) {
            return;
        }
        let reached = self.subscriber.as_mut().and_then(Subscriber::progress);
        self.told = self.told.max(reached);
    }

    fn end_all(&mut self) {
        self.subscriber = None;
        self.queries.clear();
        self.waiting.clear();
    }
}
