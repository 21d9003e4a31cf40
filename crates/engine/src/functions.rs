//! The functions that planned SQL calls: the dialect's own (`springhead_sql::functions`) and those
//! that need the engine: time, randomness, settings, sequences.
//!
//! Each connection has a [`Context`]: whoever runs a statement puts the session in it first, and
//! finds in it, after an error, what a function said was wrong.

mod configured;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::functions::{Aggregate, FunctionFlags, WindowAggregate};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef as SqliteRef};
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError, TenantId, Value, ValueRef};
use springhead_sql::functions::{self, AggregateState};
use springhead_sql::listen::check_notification;
use springhead_sql::program::Library;
use springhead_sql::{PgType, types};

pub use configured::Configured;

use crate::Entropy;
use crate::access::Principal;
pub use crate::cancel::{CancelFlag, CancelReason};
use crate::capture::Capture;
use crate::clock::Clock;
use crate::notify::{Message, Outbox};
use crate::programs::{self, FiredRows, Runner, WatchedRows};
use crate::sequences::SequenceBook;
use crate::settings;
use crate::system::{self, System};
use crate::writer::DeferredConstraints;

/// What functions see of the session whose statement runs.
#[derive(Default)]
pub struct SessionContext {
    /// `current_setting`, `current_user`, … by lower-case name; those that are not at their default.
    pub settings: Mutex<FxHashMap<String, String>>,
    /// What set_config() has set in the running statement, oldest first.
    pub configured: Mutex<Vec<Configured>>,
    /// currval: the last number each sequence gave this session.
    pub sequence_values: Mutex<FxHashMap<u32, i64>>,
    /// lastval: the sequence that gave a number last.
    pub last_sequence: Mutex<Option<u32>>,
    /// What the statement that runs sees of the catalog, if it asks.
    pub system: Mutex<Option<Arc<System>>>,
    /// The programs that the running statement may call.
    pub library: Mutex<Option<Arc<Library>>>,
    /// What the running statement's programs have to say to the client.
    pub notices: Mutex<Vec<SqlError>>,
    /// By what credentials it asks: `auth.uid()`, `auth.claim()`.
    pub principal: Mutex<Option<Arc<Principal>>>,
    /// now(): the transaction's start, in microseconds since 1970.
    pub now_us: AtomicI64,
    /// The backend process id, which messages carry.
    pub process_id: i32,
    /// The sessions that it may end, and its tenant.
    pub backends: Option<(Arc<crate::backends::Backends>, TenantId)>,
    /// pg_notification_queue_usage().
    pub queue_usage: Option<Box<dyn Fn() -> f64 + Send + Sync>>,
}

impl SessionContext {
    /// A setting's value; `None` if there is no such setting.
    pub fn setting(&self, name: &str) -> Option<String> {
        let own = self.settings.lock().get(name).cloned();
        own.or_else(|| settings::default_of(name).map(str::to_owned))
    }
}

/// One connection's link between SQLite and whoever runs a statement on it.
pub struct Context {
    session: Mutex<Arc<SessionContext>>,
    cancel: Mutex<Arc<CancelFlag>>,
    error: Mutex<Option<SqlError>>,
    /// Sequences; only a writer hands out numbers.
    pub sequences: Option<Arc<Mutex<SequenceBook>>>,
    /// What statements send; only a writer's gets into a commit.
    pub outbox: Arc<Outbox>,
    /// Rows that AFTER ROW triggers are still to see.
    pub fired: Arc<FiredRows>,
    /// Rows that row policies are still to see.
    pub watched: Arc<WatchedRows>,
    /// The rows of a statement's parts that have run, by their numbers.
    pub steps: Mutex<Vec<Option<String>>>,
    /// How deep programs call each other now.
    depth: AtomicUsize,
    /// How many blocks with EXCEPTION are running behind a savepoint.
    pub guards: AtomicUsize,
    /// SET CONSTRAINTS of the transaction whose statement runs.
    pub constraints: Mutex<Option<DeferredConstraints>>,
    /// Where the connection's changes are captured; null where nothing is.
    capture: AtomicPtr<Capture>,
    /// Lets the authorizer pass what only the engine itself may do.
    privileged: AtomicBool,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Context {
    /// `sequences` for a writer's connection.
    pub fn new(
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        sequences: Option<Arc<Mutex<SequenceBook>>>,
    ) -> Arc<Context> {
        Arc::new(Context {
            session: Mutex::default(),
            cancel: Mutex::default(),
            error: Mutex::new(None),
            sequences,
            outbox: Arc::default(),
            fired: Arc::default(),
            watched: Arc::default(),
            steps: Mutex::default(),
            depth: AtomicUsize::new(0),
            guards: AtomicUsize::new(0),
            constraints: Mutex::default(),
            capture: AtomicPtr::default(),
            privileged: AtomicBool::new(true),
            clock,
            entropy,
        })
    }

    /// Before a statement runs: whose it is, and how it is told to end.
    pub fn enter(&self, session: &Arc<SessionContext>, cancel: &Arc<CancelFlag>) {
        *self.session.lock() = Arc::clone(session);
        *self.cancel.lock() = Arc::clone(cancel);
        *self.error.lock() = None;
        self.depth.store(0, Ordering::Relaxed);
        self.guards.store(0, Ordering::Relaxed);
        self.privileged.store(false, Ordering::Relaxed);
    }

    /// Programs on this connection find its capture here.
    ///
    /// # Safety
    /// `capture` lives as long as statements run on the connection, and is used by the thread that runs
    /// them alone.
    pub unsafe fn captured_by(&self, capture: *mut Capture) {
        self.capture.store(capture, Ordering::Relaxed);
    }

    /// Asks the connection's capture; `None` where nothing is captured. Between two statements of a program
    /// only: SQLite's hook uses it while one runs.
    pub fn with_capture<T>(&self, ask: impl FnOnce(&mut Capture) -> T) -> Option<T> {
        let capture = self.capture.load(Ordering::Relaxed);
        // SAFETY: who gave the pointer promised that it is alive and this thread's, as for the hook; no
        // statement of SQLite's is in the hook now, since programs run beside statements.
        unsafe { capture.as_mut() }.map(ask)
    }

    /// After it has run.
    pub fn leave(&self) {
        self.privileged.store(true, Ordering::Relaxed);
    }

    /// Nobody can end what runs from here to the next statement.
    pub fn forget_cancel(&self) {
        *self.cancel.lock() = Arc::default();
    }

    /// What a function said was wrong, once.
    pub fn take_error(&self) -> Option<SqlError> {
        self.cancel
            .lock()
            .error()
            .or_else(|| self.error.lock().take())
    }

    /// The wall clock, in microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        now_us(&*self.clock)
    }

    /// Fills `bytes` with random ones.
    pub fn fill_random(&self, bytes: &mut [u8]) {
        self.entropy.fill(bytes);
    }

    /// Goes one program deeper; false at the limit.
    pub fn enter_program(&self, limit: usize) -> bool {
        let deep = self.depth.load(Ordering::Relaxed) >= limit;
        if !deep {
            self.depth.fetch_add(1, Ordering::Relaxed);
        }
        !deep
    }

    pub fn leave_program(&self) {
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }

    /// Keeps a notice for the client.
    pub fn notice(&self, notice: SqlError) {
        self.session.lock().notices.lock().push(notice);
    }

    /// # Errors
    /// Why the statement is to end, if somebody asked.
    pub fn check_cancelled(&self) -> Result<(), SqlError> {
        match self.cancel.lock().error() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Runs a program's part on the connection that calls a function of it.
    pub fn with_runner(
        &self,
        arguments: &rusqlite::functions::Context<'_>,
        run: impl FnOnce(&Runner<'_>, &[ValueRef<'_>]) -> Result<Value, SqlError>,
    ) -> rusqlite::Result<Value> {
        let library = self.session.lock().library.lock().clone();
        let Some(library) = library else {
            return Err(self.fail(SqlError::new(
                ErrorCode::Internal,
                "a program is called without its library",
            )));
        };
        // SAFETY: the reference stays on this thread and within this call.
        let conn = unsafe { arguments.get_connection() }?;
        let runner = Runner {
            conn: &conn,
            context: self,
            library,
        };
        let values = (0..arguments.len())
            .map(|index| from_sqlite(arguments.get_raw(index)))
            .collect::<Result<Vec<_>, _>>();
        values
            .and_then(|values| run(&runner, &values))
            .map_err(|error| self.fail(error))
    }

    fn principal(&self) -> Option<Arc<Principal>> {
        let session = Arc::clone(&self.session.lock());
        session.principal.lock().clone()
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.lock().is_set()
    }

    /// The session whose statement runs.
    pub fn session(&self) -> Arc<SessionContext> {
        Arc::clone(&self.session.lock())
    }

    /// Keeps an error for whoever runs the statement, and makes SQLite fail.
    pub fn fail(&self, error: SqlError) -> rusqlite::Error {
        let text = error.to_string();
        *self.error.lock() = Some(error);
        rusqlite::Error::UserFunctionError(text.into())
    }
}

impl Context {
    /// SQLite asks while it prepares a statement. Planned statements read and change rows, and
    /// nothing else; what is not on this list only the engine itself may do.
    fn authorize(&self, action: &AuthAction<'_>) -> Authorization {
        let is_allowed = match action {
            AuthAction::Select
            | AuthAction::Recursive
            | AuthAction::Savepoint { .. }
            | AuthAction::Transaction { .. } => true,
            AuthAction::Read { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => {
                !table_name.starts_with("sqlite_") && !table_name.starts_with("pragma_")
            }
            AuthAction::Function { function_name } => !matches!(
                *function_name,
                "load_extension" | "readfile" | "writefile" | "fts3_tokenizer"
            ),
            _ => false,
        };
        if is_allowed || self.privileged.load(Ordering::Relaxed) {
            Authorization::Allow
        } else {
            Authorization::Deny
        }
    }

    /// Runs what only the engine may do, in the middle of a statement.
    pub fn as_engine<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = self.privileged.swap(true, Ordering::Relaxed);
        let result = act();
        self.privileged.store(before, Ordering::Relaxed);
        result
    }
}

/// How many of SQLite's instructions run between two looks at the cancel flag.
const CANCEL_CHECK_INSTRUCTIONS: i32 = 4096;

/// Gives `conn` every function that planned SQL may call, and the look at the cancel flag.
///
/// # Errors
/// What SQLite says.
pub fn register(conn: &mut Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    register_pure(conn, context)?;
    register_engine(conn, context)?;
    crate::backends::register(conn, context)?;
    system::register(conn, context)?;
    let asked = Arc::clone(context);
    conn.authorizer(Some(move |question: AuthContext<'_>| {
        asked.authorize(&question.action)
    }))?;
    let watched = Arc::clone(context);
    conn.progress_handler(
        CANCEL_CHECK_INSTRUCTIONS,
        Some(move || watched.is_cancelled()),
    )
}

fn flags(deterministic: bool) -> FunctionFlags {
    let flags = FunctionFlags::SQLITE_UTF8;
    if deterministic {
        flags | FunctionFlags::SQLITE_DETERMINISTIC
    } else {
        flags
    }
}

fn register_pure(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    for scalar in functions::scalars() {
        let context = Arc::clone(context);
        let call = scalar.call;
        // Innocuous: generated columns, checks and indexes may call them, which SQLite otherwise
        // refuses in a schema that it is told not to trust.
        let flags = flags(scalar.deterministic) | FunctionFlags::SQLITE_INNOCUOUS;
        conn.create_scalar_function(scalar.name, scalar.args, flags, move |arguments| {
            with_arguments(arguments.len(), |index| arguments.get_raw(index), call)
                .map(Output)
                .map_err(|error| context.fail(error))
        })?;
    }
    for aggregate in functions::aggregates() {
        let bridge = AggregateBridge {
            start: aggregate.start,
            context: Arc::clone(context),
        };
        conn.create_window_function(aggregate.name, aggregate.args, flags(true), bridge)?;
    }
    Ok(())
}

/// Calls `use_values` with the arguments as Springhead's values, without allocating for few.
fn with_arguments<'a, T>(
    count: usize,
    get: impl Fn(usize) -> SqliteRef<'a>,
    use_values: impl FnOnce(&[ValueRef<'_>]) -> Result<T, SqlError>,
) -> Result<T, SqlError> {
    const FEW: usize = 8;
    if count <= FEW {
        let mut values = [ValueRef::Null; FEW];
        for (index, value) in values.iter_mut().enumerate().take(count) {
            *value = from_sqlite(get(index))?;
        }
        use_values(&values[..count])
    } else {
        let values = (0..count)
            .map(|index| from_sqlite(get(index)))
            .collect::<Result<Vec<_>, _>>()?;
        use_values(&values)
    }
}

/// SQLite's value as Springhead's.
///
/// # Errors
/// 22021 for a text that is no UTF-8.
pub fn from_sqlite(value: SqliteRef<'_>) -> Result<ValueRef<'_>, SqlError> {
    Ok(match value {
        SqliteRef::Null => ValueRef::Null,
        SqliteRef::Integer(value) => ValueRef::Integer(value),
        SqliteRef::Real(value) => ValueRef::Real(value),
        SqliteRef::Text(bytes) => ValueRef::Text(std::str::from_utf8(bytes).map_err(|_| {
            SqlError::new(
                ErrorCode::InvalidByteSequence,
                "invalid byte sequence for encoding \"UTF8\"",
            )
        })?),
        SqliteRef::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

/// Springhead's value on its way into SQLite.
pub struct Output(pub Value);

impl rusqlite::ToSql for Output {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(to_sqlite(self.0.as_ref())))
    }
}

/// Springhead's value as SQLite's.
#[must_use]
pub fn to_sqlite(value: ValueRef<'_>) -> SqliteRef<'_> {
    match value {
        ValueRef::Null => SqliteRef::Null,
        ValueRef::Integer(value) => SqliteRef::Integer(value),
        ValueRef::Real(value) => SqliteRef::Real(value),
        ValueRef::Text(value) => SqliteRef::Text(value.as_bytes()),
        ValueRef::Blob(value) => SqliteRef::Blob(value),
    }
}

struct AggregateBridge {
    start: fn() -> Box<dyn AggregateState>,
    context: Arc<Context>,
}

type State = Option<AssertUnwindSafe<Box<dyn AggregateState>>>;

impl AggregateBridge {
    fn begin(&self) -> AssertUnwindSafe<Box<dyn AggregateState>> {
        AssertUnwindSafe((self.start)())
    }
}

impl Aggregate<State, Output> for AggregateBridge {
    fn init(&self, _: &mut rusqlite::functions::Context<'_>) -> rusqlite::Result<State> {
        Ok(Some(self.begin()))
    }

    fn step(
        &self,
        arguments: &mut rusqlite::functions::Context<'_>,
        state: &mut State,
    ) -> rusqlite::Result<()> {
        let state = state.get_or_insert_with(|| self.begin());
        let arguments = &*arguments;
        with_arguments(
            arguments.len(),
            |index| arguments.get_raw(index),
            |values| state.step(values),
        )
        .map_err(|error| self.context.fail(error))
    }

    fn finalize(
        &self,
        _: &mut rusqlite::functions::Context<'_>,
        state: Option<State>,
    ) -> rusqlite::Result<Output> {
        let state = state.flatten().unwrap_or_else(|| self.begin());
        state
            .finish()
            .map(Output)
            .map_err(|error| self.context.fail(error))
    }
}

impl WindowAggregate<State, Output> for AggregateBridge {
    fn value(&self, state: Option<&mut State>) -> rusqlite::Result<Output> {
        let value = match state.and_then(Option::as_mut) {
            Some(state) => state.finish(),
            None => (self.start)().finish(),
        };
        value.map(Output).map_err(|error| self.context.fail(error))
    }

    fn inverse(
        &self,
        arguments: &mut rusqlite::functions::Context<'_>,
        state: &mut State,
    ) -> rusqlite::Result<()> {
        let state = state.get_or_insert_with(|| self.begin());
        let arguments = &*arguments;
        with_arguments(
            arguments.len(),
            |index| arguments.get_raw(index),
            |values| state.inverse(values),
        )
        .map_err(|error| self.context.fail(error))
    }
}

fn register_engine(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    let volatile = flags(false);
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_now", 0, volatile, move |_| {
        Ok(at.session.lock().now_us.load(Ordering::Relaxed))
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_clock_timestamp", 0, volatile, move |_| {
        Ok(now_us(&*at.clock))
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_random", 0, volatile, move |_| {
        let mut bytes = [0; 8];
        at.entropy.fill(&mut bytes);
        // 53 random bits: every value is exact, and 1 is never reached.
        #[allow(clippy::cast_precision_loss)]
        let unit = (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64;
        Ok(unit)
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_gen_random_uuid", 0, volatile, move |_| {
        let mut bytes = [0; 16];
        at.entropy.fill(&mut bytes);
        Ok(uuid_v4(bytes))
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_setting", 1, volatile, move |arguments| {
        let name: String = arguments.get(0)?;
        Ok(at.session.lock().setting(&name))
    })?;
    register_principal(conn, context)?;
    configured::register(conn, context)?;
    let at = Arc::clone(context);
    conn.create_scalar_function(
        "sh_notify",
        2,
        volatile,
        move |arguments| -> rusqlite::Result<String> {
            let text = |place| {
                let text: Option<String> = arguments.get(place)?;
                Ok::<_, rusqlite::Error>(text.unwrap_or_default())
            };
            let (channel, payload) = (text(0)?, text(1)?);
            check_notification(&channel, &payload).map_err(|error| at.fail(error))?;
            if at.sequences.is_none() {
                return Err(at.fail(SqlError::unsupported("pg_notify here")));
            }
            at.outbox.put(Message {
                channel,
                payload,
                process_id: at.session.lock().process_id,
            });
            Ok(String::new())
        },
    )?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_step", 1, volatile, move |arguments| {
        let number: i64 = arguments.get(0)?;
        let steps = at.steps.lock();
        let rows = usize::try_from(number)
            .ok()
            .and_then(|n| steps.get(n)?.clone());
        Ok(rows)
    })?;
    register_sequences(conn, context)?;
    programs::register(conn, context)
}

/// What the credentials say, for `auth.uid()` and its kin.
fn register_principal(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    let volatile = flags(false);
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_auth_uid", 0, volatile, move |_| {
        Ok(at.principal().and_then(|principal| principal.uid()))
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_auth_claims", 0, volatile, move |_| {
        let claims = at.principal().and_then(|principal| {
            let claims = principal.claims.as_deref()?;
            Some(types::input(&PgType::Jsonb, &claims.to_string()))
        });
        match claims.transpose().map_err(|error| at.fail(error))? {
            Some(Value::Text(text)) => Ok(Some(text)),
            _ => Ok(None),
        }
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_auth_claim", 1, volatile, move |arguments| {
        let name: Option<String> = arguments.get(0)?;
        let principal = at.principal();
        Ok(name.and_then(|name| principal?.claim(&name)))
    })
}

fn register_sequences(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    let volatile = flags(false);
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_nextval", 1, volatile, move |arguments| {
        let id: u32 = arguments.get(0)?;
        let session = Arc::clone(&at.session.lock());
        let next = at.with_sequences(|book| book.next(id))?;
        session.sequence_values.lock().insert(id, next);
        *session.last_sequence.lock() = Some(id);
        Ok(next)
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_setval", 3, volatile, move |arguments| {
        let (id, value, called): (u32, i64, bool) =
            (arguments.get(0)?, arguments.get(1)?, arguments.get(2)?);
        at.with_sequences(|book| book.set(id, value, called))?;
        if called {
            at.session.lock().sequence_values.lock().insert(id, value);
        }
        Ok(value)
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_currval", 1, volatile, move |arguments| {
        let id: u32 = arguments.get(0)?;
        let value = at.session.lock().sequence_values.lock().get(&id).copied();
        value.ok_or_else(|| at.fail(undefined_in_session("currval of the sequence")))
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_lastval", 0, volatile, move |_| {
        let session = Arc::clone(&at.session.lock());
        let last = *session.last_sequence.lock();
        let value = last.and_then(|id| session.sequence_values.lock().get(&id).copied());
        value.ok_or_else(|| at.fail(undefined_in_session("lastval")))
    })
}

impl Context {
    fn with_sequences<T>(
        &self,
        act: impl FnOnce(&mut SequenceBook) -> Result<T, SqlError>,
    ) -> rusqlite::Result<T> {
        let Some(sequences) = &self.sequences else {
            return Err(self.fail(SqlError::new(
                ErrorCode::ReadOnlyTransaction,
                "cannot execute nextval() in a read-only transaction",
            )));
        };
        act(&mut sequences.lock()).map_err(|error| self.fail(error))
    }
}

fn undefined_in_session(what: &str) -> SqlError {
    SqlError::new(
        ErrorCode::ObjectNotInState,
        format!("{what} is not yet defined in this session"),
    )
}

/// The wall clock in microseconds since 1970.
#[must_use]
pub fn now_us(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now_ms())
        .unwrap_or(i64::MAX / 1000)
        .saturating_mul(1000)
}

fn uuid_v4(mut bytes: [u8; 16]) -> String {
    use std::fmt::Write;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
