//! One client's conversation with a tenant: its settings, its transaction, its statements. Protocols
//! speak to the tenant through it and through nothing else.
//!
//! A statement is planned against the catalog that its transaction sees ([`statement`]), and run
//! where it belongs ([`execute`]): reads on a snapshot, writes on the tenant's writer. [`block`] has
//! what PostgreSQL's transaction commands mean.

mod acquire;
mod advisory;
mod block;
mod catalog_view;
mod changes;
mod confirm;
mod copying;
mod cursors;
mod databases;
mod dead_letters;
mod execute;
mod explain;
mod interrupt;
mod listen;
mod live;
mod live_told;
mod outcome;
mod pause;
pub(crate) mod prepared;
mod role_draft;
mod roles;
mod script;
mod standstill;
mod statement;
mod statements;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use springhead_proto::{ErrorCode, Lsn, SqlError};
use springhead_sql::access::Identity;
use springhead_sql::catalog::Catalog;
use springhead_sql::lift::Lifted;
use springhead_sql::plan::{OutputColumn, Setting};
use springhead_sql::planner::PlanContext;
use springhead_sql::{PgType, split};
use tokio::sync::Notify;

use self::cursors::Cursors;
use self::prepared::PreparedStatements;
use crate::access::Principal;
use crate::copy::CopyOutcome;
use crate::engine::Engine;
use crate::functions::{CancelFlag, CancelReason, SessionContext, now_us};
use crate::notify::Listener;
use crate::rows::Rows;
use crate::{Tenant, settings};

use block::Block;
pub use block::TransactionStatus;
pub use changes::changes_columns;
pub use copying::COPIES_COLUMNS;
pub use dead_letters::{
    DeadLetterFilter, DeadLetterPage, REDRIVE_RATE, read_operations, rejected_again,
};
pub use live::{fetch_columns, live_columns};
pub(crate) use statement::convert_one;
pub use statement::{ParamValue, Statement};
pub use statements::Script;

/// A conversation. Dropped, it rolls back what is open.
pub struct Session {
    tenant: Arc<Tenant>,
    /// To make and drop tenants; `None` for the engine's own sessions.
    engine: Option<Engine>,
    context: Arc<SessionContext>,
    principal: Arc<Principal>,
    plan_context: PlanContext,
    process_id: i32,
    block: Option<Block>,
    /// Whether a reply may come before the state file has the commit: [`Session::run_ahead`].
    may_run_ahead: bool,
    /// It has been, and [`Session::catch_up`] is due.
    is_ahead: bool,
    running: Arc<Running>,
    /// Reads wait until this is visible.
    required_lsn: Lsn,
    prepared: Arc<PreparedStatements>,
    /// Buffers of the literal lifter, kept from statement to statement.
    lifted: Lifted,
    /// Values before SET LOCAL, to be put back when the transaction ends.
    local: Vec<(String, Option<String>)>,
    /// Set with the first LISTEN.
    listener: Option<Arc<Listener>>,
    /// Its client takes what comes by itself: notifications, COPY's data.
    streams: bool,
    /// What its settings say the node is.
    is_on_standby: bool,
    cursors: Cursors,
    /// Its live queries, if its client takes what they tell.
    live: Option<Box<live::LiveSide>>,
}

/// The statement that runs now, as others may end it.
#[derive(Default)]
struct Running {
    flag: Mutex<Option<Arc<CancelFlag>>>,
    asked: Notify,
    /// The session itself is to end: pg_terminate_backend().
    is_terminated: AtomicBool,
}

/// What a statement came to.
#[derive(Debug)]
pub struct Outcome {
    /// PostgreSQL's command tag, e.g. `INSERT 0 1`. Empty for an empty statement.
    pub tag: String,
    /// The result's columns; empty for a statement that returns none.
    pub columns: Arc<[OutputColumn]>,
    /// `None` for a statement that returns no rows (as opposed to zero rows).
    pub rows: Option<Rows>,
    /// For NoticeResponse.
    pub notices: Vec<SqlError>,
    /// Settings that the protocol reports (ParameterStatus), name and new value.
    pub parameter_status: Vec<(String, String)>,
    /// A write: the LSN of its commit's last change. A read: the LSN of its snapshot.
    pub lsn: Lsn,
    /// COPY, which goes on with the client's data or ends with the rows.
    pub copy: Option<CopyOutcome>,
}

impl Outcome {
    fn command(tag: impl Into<String>) -> Outcome {
        Outcome {
            tag: tag.into(),
            columns: Arc::from([]),
            rows: None,
            notices: Vec::new(),
            parameter_status: Vec::new(),
            lsn: Lsn::ZERO,
            copy: None,
        }
    }

    fn noticed(mut self, notice: SqlError) -> Outcome {
        self.notices.push(notice);
        self
    }
}

/// Ends the statement that runs now, from any thread.
#[derive(Clone)]
pub struct Canceller {
    running: Arc<Running>,
}

impl Canceller {
    /// The running statement, if any, ends with 57014.
    pub fn cancel(&self) {
        self.cancel_because(CancelReason::User);
    }

    /// The running statement, if any, ends for `reason`.
    pub fn cancel_because(&self, reason: CancelReason) {
        if let Some(flag) = &*self.running.flag.lock() {
            flag.cancel(reason);
            self.running.asked.notify_waiters();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tenant.shared.backends.leave(self.process_id);
        self.abandon();
        self.catch_up();
        self.let_go();
        self.tenant.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Session {
    /// A conversation with `tenant` for `principal`. With `system`, it may write `springhead.*`.
    pub(crate) fn new(tenant: Arc<Tenant>, principal: &Arc<Principal>, system: bool) -> Session {
        tenant.sessions.fetch_add(1, Ordering::AcqRel);
        tenant.touch();
        let process_id = tenant.shared.backends.next_id();
        let mut values = rustc_hash::FxHashMap::default();
        let config = &tenant.shared.config;
        for name in [
            "session_user",
            "current_user",
            "user",
            "session_authorization",
        ] {
            values.insert(name.to_owned(), principal.user.to_string());
        }
        values.insert("current_database".to_owned(), tenant.name());
        values.insert("current_schema".to_owned(), "public".to_owned());
        values.insert("backend_pid".to_owned(), process_id.to_string());
        values.insert(
            "version".to_owned(),
            format!(
                "PostgreSQL {} (Springhead {})",
                settings::SERVER_VERSION,
                env!("CARGO_PKG_VERSION")
            ),
        );
        let context = SessionContext {
            settings: Mutex::new(values),
            process_id,
            queue_usage: Some(listen::queue_usage(&tenant)),
            principal: Mutex::new(Some(Arc::clone(principal))),
            backends: Some((Arc::clone(&tenant.shared.backends), tenant.id())),
            ..SessionContext::default()
        };
        let plan_context = PlanContext {
            max_statement_bytes: config.max_statement_bytes,
            system,
            identity: Arc::new(Identity::unrestricted(&principal.user)),
            ..PlanContext::default()
        };
        let mut session = Session {
            tenant,
            engine: None,
            context: Arc::new(context),
            principal: Arc::clone(principal),
            plan_context,
            process_id,
            block: None,
            may_run_ahead: false,
            is_ahead: false,
            running: Arc::default(),
            required_lsn: Lsn::ZERO,
            prepared: Arc::default(),
            lifted: Lifted::default(),
            local: Vec::new(),
            listener: None,
            streams: false,
            is_on_standby: false,
            cursors: Cursors::default(),
            live: None,
        };
        session.put_configured();
        session.follow_role();
        session
    }

    /// The limits that the configuration sets, which a client may change for itself. The engine's
    /// own sessions have none.
    fn configured(&self, name: &str) -> Option<String> {
        let config = &self.tenant.shared.config;
        if name == "synchronous_commit" {
            return Some(config.synchronous_commit.name().to_owned());
        }
        let limit = match name {
            "statement_timeout" => config.statement_timeout,
            "lock_timeout" => config.lock_timeout,
            "idle_in_transaction_session_timeout" => config.idle_in_transaction_timeout,
            _ => return None,
        };
        let limit = limit.filter(|_| !self.plan_context.system);
        Some(limit.map_or("0".to_owned(), |limit| format!("{}ms", limit.as_millis())))
    }

    fn put_configured(&self) {
        let mut values = self.context.settings.lock();
        for name in [
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "synchronous_commit",
        ] {
            values.extend(self.configured(name).map(|value| (name.to_owned(), value)));
        }
    }

    pub(crate) fn with_engine(mut self, engine: Engine, identity: Arc<Identity>) -> Session {
        self.engine = Some(engine);
        self.put_identity(identity);
        self
    }

    /// A lone client's commit may be answered once it is durable, before it is in the state file.
    /// The caller promises to call [`Session::catch_up`] as soon as the answer is on its way, and
    /// before it waits for anything: until then every reader of the tenant waits.
    pub fn run_ahead(&mut self) {
        self.may_run_ahead = true;
    }

    /// Whether [`Session::catch_up`] has something to do.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// Does what has been left for after the answer.
    pub fn catch_up(&mut self) {
        if std::mem::take(&mut self.is_ahead) {
            self.tenant.mailbox.finish();
        }
    }

    /// What its statements are planned with and run in, for those that outlive them.
    pub(crate) fn contexts(&self) -> (PlanContext, Arc<SessionContext>) {
        (self.plan_context.clone(), Arc::clone(&self.context))
    }

    /// Whom it acts for.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    pub fn canceller(&self) -> Canceller {
        Canceller {
            running: Arc::clone(&self.running),
        }
    }

    /// Unique in the process, positive; the backend PID of the PostgreSQL protocol.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    pub fn transaction_status(&self) -> TransactionStatus {
        match &self.block {
            None => TransactionStatus::Idle,
            Some(block) if block.failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
        }
    }

    /// Whether a transaction is open and holds the tenant's writer, so that the idle timeout counts.
    pub fn holds_writer(&self) -> bool {
        self.block
            .as_ref()
            .is_some_and(|block| block.writer.is_some())
    }

    /// The value of a setting (SHOW).
    pub fn setting(&self, name: &str) -> Option<String> {
        self.context.setting(name)
    }

    /// SET name = value, as from a startup packet. `name` is lower case.
    ///
    /// # Errors
    /// 22023 for a value it does not take, 42704 for an unknown name.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let value = match self.check_role_setting(name, Some(value))? {
            Some(value) => value,
            None => settings::check(name, value)?,
        };
        self.context.settings.lock().insert(name.to_owned(), value);
        self.refresh_identity()
    }

    /// Every further read first waits until `lsn` is visible.
    pub fn require_lsn(&mut self, lsn: Lsn) {
        self.required_lsn = self.required_lsn.max(lsn);
    }

    /// The statements of a simple query, run one after the other as they are asked for. More than
    /// one form one transaction, as in PostgreSQL.
    pub fn script<'a>(&'a mut self, sql: &'a str) -> Script<'a> {
        let mut statements = split::statements(sql);
        let first = statements.next();
        let second = statements.next();
        Script {
            session: self,
            is_several: second.is_some(),
            next: [first, second],
            rest: statements,
            ended: false,
            ran: false,
        }
    }

    /// Parses and plans one statement, which may be empty.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prepare(
        &mut self,
        sql: &str,
        types: &[Option<PgType>],
    ) -> Result<Arc<Statement>, SqlError> {
        self.refresh_identity()?;
        let mut statements = split::statements(sql);
        let text = statements.next().transpose()?.unwrap_or("");
        if statements.next().is_some() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        Statement::prepare(self, text, types).map(Arc::new)
    }

    /// Runs a prepared statement.
    ///
    /// # Errors
    /// What went wrong; in a transaction block it has then failed.
    pub async fn execute(
        &mut self,
        statement: &Arc<Statement>,
        params: &[ParamValue<'_>],
    ) -> Result<Outcome, SqlError> {
        let result = self.run(statement, params).await;
        if result.is_err() {
            self.fail_block();
        }
        result
    }

    /// A message of the protocol failed before it became a statement: an open block has failed.
    pub fn fail(&mut self) {
        self.fail_block();
    }

    /// How long a statement may take, if that is limited.
    pub fn statement_timeout(&self) -> Option<std::time::Duration> {
        self.duration("statement_timeout")
    }

    /// Whether an object id is that of a type that somebody has defined, or of an array of it.
    #[must_use]
    pub fn is_user_type(&self, oid: u32) -> bool {
        springhead_sql::system::oids::is_user_type(&self.catalog(), oid)
    }

    /// The catalog that the next statement sees.
    fn catalog(&self) -> Arc<Catalog> {
        match self.block.as_ref().and_then(|block| block.catalog.as_ref()) {
            Some(own) => Arc::clone(own),
            None => self.tenant.catalog(),
        }
    }

    /// now() for the transaction that begins.
    fn note_start(&self) {
        self.context
            .now_us
            .store(now_us(&*self.tenant.shared.clock), Ordering::Relaxed);
    }

    fn change_setting(&mut self, setting: &Setting) -> Result<Outcome, SqlError> {
        match setting {
            Setting::Set { name, value, local } => {
                let value = match (self.check_role_setting(name, value.as_deref())?, value) {
                    (Some(value), _) => value,
                    (None, Some(value)) => settings::check(name, value)?,
                    (None, None) => self.default_setting(name)?,
                };
                if *local && self.block.is_none() {
                    let notice = SqlError::new(
                        ErrorCode::NoActiveTransaction,
                        "SET LOCAL can only be used in transaction blocks",
                    );
                    return Ok(Outcome::command("SET").noticed(notice));
                }
                self.put_setting(name, &value, *local);
                let mut outcome = Outcome::command("SET");
                outcome
                    .parameter_status
                    .extend(settings::reported_as(name).map(|name| (name.to_owned(), value)));
                self.after_role_setting(name, &mut outcome)?;
                Ok(outcome)
            }
            Setting::Reset { name: Some(name) } => {
                let value = match self.check_role_setting(name, None)? {
                    Some(value) => value,
                    None => self.default_setting(name)?,
                };
                self.put_setting(name, &value, false);
                let mut outcome = Outcome::command("RESET");
                outcome
                    .parameter_status
                    .extend(settings::reported_as(name).map(|name| (name.to_owned(), value)));
                self.after_role_setting(name, &mut outcome)?;
                Ok(outcome)
            }
            Setting::Reset { name: None } | Setting::Discard => {
                if *setting == Setting::Discard {
                    self.expect_no_block("DISCARD ALL")?;
                }
                // What tells who and where one is are no settings that a client made; RESET ALL
                // leaves the role alone, as in PostgreSQL.
                let discards = *setting == Setting::Discard;
                self.context
                    .settings
                    .lock()
                    .retain(|name, _| !settings::can_be_set(name) || (name == "role" && !discards));
                if discards {
                    self.forget_roles();
                }
                self.put_configured();
                if *setting == Setting::Discard {
                    self.prepared.clear();
                    self.let_go();
                    self.context.sequence_values.lock().clear();
                    *self.context.last_sequence.lock() = None;
                    return Ok(Outcome::command("DISCARD ALL"));
                }
                Ok(Outcome::command("RESET"))
            }
            Setting::Show { name } => self.show(name.as_deref()),
        }
    }

    /// A transaction that is rolled back takes its settings with it; what is `local` also ends with a
    /// commit.
    fn put_setting(&mut self, name: &str, value: &str, local: bool) {
        let mut values = self.context.settings.lock();
        let before = values.insert(name.to_owned(), value.to_owned());
        drop(values);
        if let Some(block) = &mut self.block {
            self.local.push((name.to_owned(), before));
            if !local {
                let kept = (name.to_owned(), value.to_owned());
                block.kept_settings.push(kept);
            }
        }
    }

    fn default_setting(&self, name: &str) -> Result<String, SqlError> {
        if let Some(value) = self.configured(name) {
            return Ok(value);
        }
        match settings::default_of(name) {
            Some(value) => Ok(value.to_owned()),
            None if name.contains('.') => Ok(String::new()),
            None => Err(unrecognized(name)),
        }
    }

    fn show(&mut self, name: Option<&str>) -> Result<Outcome, SqlError> {
        match name {
            // Springhead's own: which databases there are.
            Some("tenants") => {
                let tenants = self
                    .engine
                    .as_ref()
                    .map(Engine::tenants)
                    .unwrap_or_default();
                // Others' are nothing that a tenant's user learns of.
                let sees_all = self.plan_context.identity.superuser;
                let rows = tenants
                    .into_iter()
                    .filter(|tenant| sees_all || tenant.id == self.tenant.id())
                    .map(|tenant| vec![tenant.id.to_string(), tenant.name]);
                outcome::text_rows("SHOW", &["id", "name"], rows)
            }
            Some("copies") => self.show_copies(),
            Some("live_cursor") => {
                let cursor = self.live_cursor();
                outcome::text_rows("SHOW", &["live_cursor"], std::iter::once(vec![cursor]))
            }
            Some("notification_cursor") => {
                let cursor = std::iter::once(vec![self.notification_cursor()]);
                outcome::text_rows("SHOW", &["notification_cursor"], cursor)
            }
            Some(name) => {
                let value = self.setting(name).ok_or_else(|| unrecognized(name))?;
                let shown = settings::reported_as(name).unwrap_or(name);
                outcome::text_rows("SHOW", &[shown], std::iter::once(vec![value]))
            }
            None => {
                let all = settings::names()
                    .map(|name| vec![name.to_owned(), self.setting(name).unwrap_or_default()]);
                outcome::text_rows("SHOW", &["name", "setting"], all)
            }
        }
    }
}

fn unrecognized(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedObject,
        format!("unrecognized configuration parameter \"{name}\""),
    )
}
