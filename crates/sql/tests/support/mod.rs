//! An SQLite database in memory that runs planned statements: the engine's part, as small as it can
//! be.

#![allow(dead_code)]

pub mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags, WindowAggregate};
use rusqlite::types::{Value as SqliteValue, ValueRef as SqliteRef};
use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::catalog::Catalog;
use springhead_sql::functions::{self, AggregateState};
use springhead_sql::lift::{self, Lifted};
use springhead_sql::plan::{OutputColumn, Parameter, Plan, PlanKind};
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::types::{self, PgType};
use springhead_sql::{errors, split};

/// A database without rows.
pub struct Db {
    pub catalog: Arc<Catalog>,
    pub conn: Connection,
    pub context: PlanContext,
    shared: Arc<Shared>,
    lifted: Lifted,
    /// Whether literals are lifted out before planning, as the server does.
    pub lift: bool,
}

#[derive(Default)]
struct Shared {
    error: Mutex<Option<SqlError>>,
    sequences: Mutex<HashMap<u32, i64>>,
    catalog: Mutex<Option<Arc<Catalog>>>,
    /// Rows written since it was emptied: whether inserted, the table, the rowid.
    written: Mutex<Vec<(bool, String, i64)>>,
    /// `current_user`, where a test has set one.
    user: Mutex<Option<String>>,
}

/// What a statement came to: a tag and rows of texts.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub tag: String,
    pub columns: Vec<(String, PgType)>,
    pub rows: Vec<Vec<Option<String>>>,
}

/// 2024-02-29 12:34:56.789 UTC.
pub const NOW_US: i64 = 1_709_210_096_789_000;

impl Db {
    pub fn new() -> Db {
        let mut conn = Connection::open_in_memory().expect("memory");
        let shared = Arc::new(Shared::default());
        register(&conn, &shared);
        conn.execute_batch("PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=OFF")
            .expect("pragmas");
        let written = shared.clone();
        conn.update_hook(Some(
            move |action: rusqlite::hooks::Action, _: &str, table: &str, rowid: i64| {
                if action != rusqlite::hooks::Action::SQLITE_DELETE {
                    let inserted = action == rusqlite::hooks::Action::SQLITE_INSERT;
                    let row = (inserted, table.to_owned(), rowid);
                    written.written.lock().expect("lock").push(row);
                }
            },
        ))
        .expect("a hook");
        let catalog = Arc::new(Catalog::bootstrap());
        *shared.catalog.lock().expect("lock") = Some(catalog.clone());
        Db {
            catalog,
            conn,
            context: PlanContext::default(),
            shared,
            lifted: Lifted::default(),
            lift: false,
        }
    }

    /// Runs every statement of a script; the first error ends it.
    pub fn script(&mut self, sql: &str) {
        for statement in split::statements(sql) {
            let statement = statement.expect("it splits");
            if let Err(error) = self.run(statement) {
                panic!(
                    "{statement}\n{} {} {:?} {:?}",
                    error.code.sqlstate(),
                    error,
                    error.detail,
                    error.hint
                );
            }
        }
    }

    /// Runs one statement.
    pub fn run(&mut self, sql: &str) -> Result<Answer, SqlError> {
        if self.lift && lift::lift(sql, &mut self.lifted) && self.lifted.parameters == 0 {
            let plan = planner::plan_template(&self.catalog, &self.lifted, &[], &self.context);
            if let Some(plan) = plan {
                let texts: Vec<String> = self.lifted.texts().map(str::to_owned).collect();
                let texts: Vec<Option<&str>> =
                    texts.iter().map(|text| Some(text.as_str())).collect();
                let values = bind(&plan.parameters, &texts)?;
                return self.execute(&plan, &values);
            }
        }
        let plan = planner::plan(&self.catalog, sql, &[], &self.context)?;
        self.execute(&plan, &[])
    }

    /// Runs one statement with parameters given as texts.
    pub fn run_with(&mut self, sql: &str, params: &[Option<&str>]) -> Result<Answer, SqlError> {
        let plan = planner::plan(&self.catalog, sql, &[], &self.context)?;
        let values = bind(&plan.parameters, params)?;
        self.execute(&plan, &values)
    }

    /// The rows of a statement, each `a|b`, NULL as `~`.
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        match self.run(sql) {
            Ok(answer) => answer
                .rows
                .iter()
                .map(|row| {
                    row.iter()
                        .map(|v| v.as_deref().unwrap_or("~"))
                        .collect::<Vec<_>>()
                        .join("|")
                })
                .collect(),
            Err(error) => panic!(
                "{sql}\n{} {} {:?}",
                error.code.sqlstate(),
                error,
                error.detail
            ),
        }
    }

    pub fn error(&mut self, sql: &str) -> SqlError {
        match self.run(sql) {
            Ok(answer) => panic!("{sql} should fail, and gave {answer:?}"),
            Err(error) => error,
        }
    }

    pub fn execute(&mut self, plan: &Plan, params: &[Value]) -> Result<Answer, SqlError> {
        match &plan.kind {
            PlanKind::Query(query) => {
                let rows = self.select(&query.sql, &query.columns, params)?;
                Ok(Answer {
                    tag: format!("SELECT {}", rows.len()),
                    columns: names(&query.columns),
                    rows,
                })
            }
            PlanKind::Write(write) => {
                self.batch("SAVEPOINT s")?;
                self.shared.written.lock().expect("lock").clear();
                let result = self
                    .select(&write.sql, &write.returning, params)
                    .and_then(|rows| self.check_rows(write).map(|()| rows));
                match &result {
                    Ok(_) => self.batch("RELEASE s")?,
                    // A write that is interrupted takes the whole transaction with it.
                    Err(_) if self.conn.is_autocommit() => {}
                    Err(_) => self.batch("ROLLBACK TO s; RELEASE s")?,
                }
                let rows = result?;
                Ok(Answer {
                    tag: format!("{:?}", write.verb),
                    columns: names(&write.returning),
                    rows,
                })
            }
            PlanKind::Ddl(ddl) => {
                self.batch("SAVEPOINT s; PRAGMA defer_foreign_keys=ON")?;
                for statement in ddl.statements.iter().chain(&ddl.updates) {
                    if let Err(error) = self.batch(statement) {
                        self.batch("ROLLBACK TO s; RELEASE s")?;
                        return Err(error);
                    }
                }
                self.batch("RELEASE s")?;
                self.catalog = ddl.catalog.clone();
                *self.shared.catalog.lock().expect("lock") = Some(self.catalog.clone());
                Ok(Answer {
                    tag: ddl.tag.to_owned(),
                    columns: Vec::new(),
                    rows: Vec::new(),
                })
            }
            PlanKind::Truncate {
                tables,
                restart_identity,
            } => {
                for table in tables {
                    self.batch(&format!("DELETE FROM t{}", table.0))?;
                }
                for sequence in restart_identity {
                    self.shared.sequences.lock().expect("lock").remove(sequence);
                }
                Ok(Answer {
                    tag: "TRUNCATE TABLE".to_owned(),
                    columns: Vec::new(),
                    rows: Vec::new(),
                })
            }
            PlanKind::Explain(explain) => {
                let springhead_sql::explain::Explained::Plan(plan) = &explain.of else {
                    panic!("EXPLAIN EXECUTE")
                };
                let (PlanKind::Query(springhead_sql::plan::Query { sql, .. })
                | PlanKind::Write(springhead_sql::plan::Write { sql, .. })) = &plan.kind
                else {
                    panic!("EXPLAIN of something else")
                };
                let mut statement = self
                    .conn
                    .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                    .expect("it compiles");
                let mut rows = statement.query([]).expect("it runs");
                let mut out = Vec::new();
                while let Some(row) = rows.next().expect("it runs") {
                    out.push(vec![Some(row.get::<_, String>(3).expect("detail"))]);
                }
                Ok(Answer {
                    tag: "EXPLAIN".to_owned(),
                    columns: Vec::new(),
                    rows: out,
                })
            }
            other => Ok(Answer {
                tag: format!("{other:?}"),
                columns: Vec::new(),
                rows: Vec::new(),
            }),
        }
    }

    /// Acts for another from now on.
    pub fn act_as(&mut self, identity: Arc<springhead_sql::access::Identity>) {
        *self.shared.user.lock().expect("lock") = Some(identity.role.to_string());
        self.context.identity = identity;
    }

    fn check_rows(&self, write: &springhead_sql::plan::Write) -> Result<(), SqlError> {
        let written = std::mem::take(&mut *self.shared.written.lock().expect("lock"));
        for check in &write.checks {
            for (inserted, table, rowid) in &written {
                if *inserted != check.inserted || *table != format!("t{}", write.table.0) {
                    continue;
                }
                let violated = self
                    .conn
                    .query_row(&check.sql, [rowid], |row| row.get::<_, Option<i64>>(0))
                    .map_err(|error| self.translate(&error, &check.sql))?;
                if let Some(violated) = violated {
                    let violation = usize::try_from(violated).expect("small");
                    return Err(SqlError::new(
                        ErrorCode::InsufficientPrivilege,
                        check.violations[violation].clone(),
                    ));
                }
            }
        }
        Ok(())
    }

    fn batch(&self, sql: &str) -> Result<(), SqlError> {
        self.conn
            .execute_batch(sql)
            .map_err(|error| self.translate(&error, sql))
    }

    fn select(
        &self,
        sql: &str,
        columns: &[OutputColumn],
        params: &[Value],
    ) -> Result<Vec<Vec<Option<String>>>, SqlError> {
        let mut statement = self
            .conn
            .prepare(sql)
            .map_err(|error| self.translate(&error, sql))?;
        for (index, value) in params.iter().enumerate() {
            // A literal that the statement does not need any more has no place in it.
            if index < statement.parameter_count() {
                statement
                    .raw_bind_parameter(index + 1, sqlite(value))
                    .map_err(|e| self.translate(&e, sql))?;
            }
        }
        let mut rows = statement.raw_query();
        let mut out = Vec::new();
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let mut values = Vec::with_capacity(columns.len());
                    for (index, column) in columns.iter().enumerate() {
                        let value = from_sqlite(row.get_ref(index).expect("a column"));
                        check_storage(&column.pg_type, value, sql);
                        values.push(print(&column.pg_type, value));
                    }
                    out.push(values);
                }
                Ok(None) => return Ok(out),
                Err(error) => return Err(self.translate(&error, sql)),
            }
        }
    }

    fn translate(&self, error: &rusqlite::Error, sql: &str) -> SqlError {
        if let Some(error) = self.shared.error.lock().expect("lock").take() {
            return error;
        }
        match error {
            rusqlite::Error::SqliteFailure(code, _)
                if code.code == rusqlite::ErrorCode::OperationInterrupted =>
            {
                SqlError::new(ErrorCode::QueryCanceled, "interrupted")
            }
            rusqlite::Error::SqliteFailure(code, message) => {
                let message = message.clone().unwrap_or_default();
                let error = errors::translate(&self.catalog, code.extended_code, &message);
                if error.code == ErrorCode::Internal {
                    panic!("SQLite refuses what was planned: {message}\n{sql}");
                }
                error
            }
            other => panic!("{other}\n{sql}"),
        }
    }
}

/// A value must have its type's storage form, whatever computed it.
fn check_storage(ty: &PgType, value: ValueRef<'_>, sql: &str) {
    let fits = match (ty.storage_class(), value) {
        (_, ValueRef::Null)
        | (types::StorageClass::Integer, ValueRef::Integer(_))
        | (types::StorageClass::Real, ValueRef::Real(_))
        | (types::StorageClass::Text, ValueRef::Text(_))
        | (types::StorageClass::Blob, ValueRef::Blob(_)) => true,
        _ => *ty == PgType::Void,
    };
    assert!(fits, "{value:?} is no {ty:?}\n{sql}");
}

fn names(columns: &[OutputColumn]) -> Vec<(String, PgType)> {
    columns
        .iter()
        .map(|column| (column.name.clone(), column.pg_type.clone()))
        .collect()
}

pub fn bind(parameters: &[Parameter], texts: &[Option<&str>]) -> Result<Vec<Value>, SqlError> {
    parameters
        .iter()
        .zip(texts)
        .map(|(parameter, text)| match (text, &parameter.assigned_to) {
            (Some(text), _) => types::input(&parameter.pg_type, text),
            (None, Some(assigned)) if assigned.not_null => Err(SqlError::new(
                ErrorCode::NotNullViolation,
                format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    assigned.column, assigned.table
                ),
            )),
            (None, _) => Ok(Value::Null),
        })
        .collect()
}

fn print(ty: &PgType, value: ValueRef<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let mut out = Vec::new();
    types::output_text(ty, value, &mut out);
    Some(String::from_utf8(out).expect("UTF-8"))
}

fn sqlite(value: &Value) -> SqliteValue {
    match value {
        Value::Null => SqliteValue::Null,
        Value::Integer(value) => SqliteValue::Integer(*value),
        Value::Real(value) => SqliteValue::Real(*value),
        Value::Text(value) => SqliteValue::Text(value.clone()),
        Value::Blob(value) => SqliteValue::Blob(value.clone()),
    }
}

fn from_sqlite(value: SqliteRef<'_>) -> ValueRef<'_> {
    match value {
        SqliteRef::Null => ValueRef::Null,
        SqliteRef::Integer(value) => ValueRef::Integer(value),
        SqliteRef::Real(value) => ValueRef::Real(value),
        SqliteRef::Text(value) => ValueRef::Text(std::str::from_utf8(value).expect("UTF-8")),
        SqliteRef::Blob(value) => ValueRef::Blob(value),
    }
}

fn register(conn: &Connection, shared: &Arc<Shared>) {
    for scalar in functions::scalars() {
        let shared = shared.clone();
        let mut flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        if scalar.deterministic {
            flags |= FunctionFlags::SQLITE_DETERMINISTIC;
        }
        conn.create_scalar_function(scalar.name, scalar.args, flags, move |context| {
            let args = arguments(context);
            (scalar.call)(&args)
                .map(|value| sqlite(&value))
                .map_err(|error| fail(&shared, error))
        })
        .expect("it registers");
    }
    for aggregate in functions::aggregates() {
        let state = Aggregated {
            start: aggregate.start,
            shared: shared.clone(),
        };
        conn.create_window_function(
            aggregate.name,
            aggregate.args,
            FunctionFlags::SQLITE_UTF8,
            state,
        )
        .expect("it registers");
    }
    let flags = FunctionFlags::SQLITE_UTF8;
    conn.create_scalar_function("sh_now", 0, flags, |_| Ok(NOW_US))
        .expect("it registers");
    conn.create_scalar_function("sh_clock_timestamp", 0, flags, |_| Ok(NOW_US))
        .expect("it registers");
    conn.create_scalar_function("sh_random", 0, flags, |_| Ok(0.25))
        .expect("it registers");
    conn.create_scalar_function("sh_gen_random_uuid", 0, flags, |_| {
        Ok("6f1ed002-ab5f-4df9-9b3c-0c0d0e0f1011".to_owned())
    })
    .expect("it registers");
    let user = shared.clone();
    conn.create_scalar_function("sh_setting", 1, flags, move |context| {
        let name: String = context.get(0)?;
        let user = user.user.lock().expect("lock").clone();
        Ok(match name.as_str() {
            "current_user" if user.is_some() => user,
            "backend_pid" => Some("42".to_owned()),
            "nothing" => None,
            other => Some(format!("the {other}")),
        })
    })
    .expect("it registers");
    let sequences = shared.clone();
    conn.create_scalar_function("sh_nextval", 1, flags, move |context| {
        let id: u32 = context.get(0)?;
        let catalog = sequences
            .catalog
            .lock()
            .expect("lock")
            .clone()
            .expect("a catalog");
        let sequence = catalog.sequence(id).expect("the sequence").clone();
        let mut values = sequences.sequences.lock().expect("lock");
        let next = values
            .get(&id)
            .map_or(sequence.start, |last| last + sequence.increment);
        values.insert(id, next);
        Ok(next)
    })
    .expect("it registers");
    let sequences = shared.clone();
    conn.create_scalar_function("sh_currval", 1, flags, move |context| {
        let id: u32 = context.get(0)?;
        Ok(sequences.sequences.lock().expect("lock").get(&id).copied())
    })
    .expect("it registers");
    let sequences = shared.clone();
    conn.create_scalar_function("sh_setval", 3, flags, move |context| {
        let (id, value, called): (u32, i64, bool) =
            (context.get(0)?, context.get(1)?, context.get(2)?);
        sequences
            .sequences
            .lock()
            .expect("lock")
            .insert(id, if called { value } else { value - 1 });
        Ok(value)
    })
    .expect("it registers");
}

fn arguments<'c>(context: &'c Context<'_>) -> Vec<ValueRef<'c>> {
    (0..context.len())
        .map(|index| from_sqlite(context.get_raw(index)))
        .collect()
}

fn fail(shared: &Shared, error: SqlError) -> rusqlite::Error {
    let text = error.to_string();
    shared.error.lock().expect("lock").get_or_insert(error);
    rusqlite::Error::UserFunctionError(text.into())
}

struct Aggregated {
    start: fn() -> Box<dyn AggregateState>,
    shared: Arc<Shared>,
}

impl std::panic::UnwindSafe for Aggregated {}
impl std::panic::RefUnwindSafe for Aggregated {}

struct State(Box<dyn AggregateState>);
impl std::panic::UnwindSafe for State {}
impl std::panic::RefUnwindSafe for State {}

impl rusqlite::functions::Aggregate<State, SqliteValue> for Aggregated {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<State> {
        Ok(State((self.start)()))
    }

    fn step(&self, context: &mut Context<'_>, state: &mut State) -> rusqlite::Result<()> {
        state
            .0
            .step(&arguments(context))
            .map_err(|error| fail(&self.shared, error))
    }

    fn finalize(&self, _: &mut Context<'_>, state: Option<State>) -> rusqlite::Result<SqliteValue> {
        let state = state.unwrap_or_else(|| State((self.start)()));
        state
            .0
            .finish()
            .map(|value| sqlite(&value))
            .map_err(|error| fail(&self.shared, error))
    }
}

impl WindowAggregate<State, SqliteValue> for Aggregated {
    fn value(&self, state: Option<&mut State>) -> rusqlite::Result<SqliteValue> {
        match state {
            Some(state) => state.0.finish(),
            None => (self.start)().finish(),
        }
        .map(|value| sqlite(&value))
        .map_err(|error| fail(&self.shared, error))
    }

    fn inverse(&self, context: &mut Context<'_>, state: &mut State) -> rusqlite::Result<()> {
        state
            .0
            .inverse(&arguments(context))
            .map_err(|error| fail(&self.shared, error))
    }
}
