//! Prepared statements by name: one list for the protocol's Parse and for PREPARE, as PostgreSQL has
//! it. They are the session's, outlive its transactions, and are planned again when definitions change.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::plan::Parameter;
use springhead_sql::prepared::{Prepare, PreparedStatement, plan_arguments};
use springhead_sql::system::PreparedRow;
use springhead_sql::{PgType, Plan, PlanKind};

use super::execute::Answer;
use super::statement::expect_not_null;
use super::{Outcome, Session, Statement};

/// The prepared statements of one session.
pub struct PreparedStatements {
    named: Mutex<FxHashMap<Box<str>, Named>>,
    /// How many there may be.
    max: AtomicUsize,
}

struct Named {
    statement: Arc<Statement>,
    /// The PREPARE that made it; `None` for one of the protocol's.
    prepare: Option<Box<str>>,
    /// When it was made, in microseconds since 1970.
    prepared_us: i64,
}

/// How many a session may have unless the protocol says otherwise.
const MAX_PREPARED: usize = 10_000;

impl Default for PreparedStatements {
    fn default() -> PreparedStatements {
        PreparedStatements {
            named: Mutex::default(),
            max: AtomicUsize::new(MAX_PREPARED),
        }
    }
}

impl PreparedStatements {
    /// For `pg_prepared_statements`, by name.
    pub fn rows(&self) -> Vec<PreparedRow> {
        let named = self.named.lock();
        let mut rows: Vec<PreparedRow> = named
            .iter()
            .map(|(name, named)| PreparedRow {
                name: name.to_string(),
                statement: match &named.prepare {
                    Some(prepare) => prepare.to_string(),
                    None => named.statement.sql().to_owned(),
                },
                prepared_us: named.prepared_us,
                parameter_types: named
                    .statement
                    .plan
                    .parameters
                    .iter()
                    .map(|parameter| parameter.pg_type.base_name().into_owned())
                    .collect(),
                from_sql: named.prepare.is_some(),
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    pub(super) fn clear(&self) {
        self.named.lock().clear();
    }

    fn get(&self, name: &str) -> Result<Arc<Statement>, SqlError> {
        let named = self.named.lock();
        let found = named.get(name).map(|named| Arc::clone(&named.statement));
        found.ok_or_else(|| unknown(name))
    }

    fn add(&self, name: &str, statement: Named) -> Result<(), SqlError> {
        let mut named = self.named.lock();
        if named.contains_key(name) {
            return Err(SqlError::new(
                ErrorCode::DuplicateStatement,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let (count, max) = (named.len(), self.max.load(Ordering::Relaxed));
        if count >= max {
            return Err(SqlError::new(
                ErrorCode::TooManyRequests,
                format!(
                    "this connection has {count} prepared statements open, the limit pg_max_prepared is {max}"
                ),
            )
            .with_hint("close those that are no longer needed"));
        }
        named.insert(name.into(), statement);
        Ok(())
    }

    /// Whether there was one of that name.
    fn remove(&self, name: &str) -> bool {
        self.named.lock().remove(name).is_some()
    }
}

impl Session {
    /// From now on it may have at most `max` prepared statements with names.
    pub fn limit_prepared(&mut self, max: usize) {
        self.prepared.max.store(max, Ordering::Relaxed);
    }

    /// Prepares a statement under a name, for the protocol.
    ///
    /// # Errors
    /// What is wrong with it; 42P05 if the name is taken, 53400 at the limit.
    pub fn prepare_named(
        &mut self,
        name: &str,
        sql: &str,
        types: &[Option<PgType>],
    ) -> Result<(), SqlError> {
        let statement = self.prepare(sql, types)?;
        self.keep_prepared(name, statement, None)
    }

    /// The statement of that name.
    ///
    /// # Errors
    /// 26000 if there is none.
    pub fn prepared(&self, name: &str) -> Result<Arc<Statement>, SqlError> {
        self.prepared.get(name)
    }

    /// Forgets the statement of that name, if there is one.
    pub fn close_prepared(&mut self, name: &str) {
        self.prepared.remove(name);
    }

    fn keep_prepared(
        &self,
        name: &str,
        statement: Arc<Statement>,
        prepare: Option<&str>,
    ) -> Result<(), SqlError> {
        let named = Named {
            statement,
            prepare: prepare.map(Box::from),
            prepared_us: crate::functions::now_us(&*self.tenant.shared.clock),
        };
        self.prepared.add(name, named)
    }

    /// PREPARE, EXECUTE and DEALLOCATE; `sql` is the whole statement.
    pub(super) fn prepared_statement<'s>(
        &'s mut self,
        sql: &'s str,
        statement: &'s PreparedStatement,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, SqlError>> + Send + 's>> {
        Box::pin(async move {
            let tag = match statement {
                PreparedStatement::Execute { name } => return self.execute_named(sql, name).await,
                PreparedStatement::Prepare(prepare) => {
                    self.prepare_as(sql, prepare)?;
                    "PREPARE"
                }
                PreparedStatement::Deallocate { name: None } => {
                    self.prepared.clear();
                    "DEALLOCATE ALL"
                }
                PreparedStatement::Deallocate { name: Some(name) } => {
                    if !self.prepared.remove(name) {
                        return Err(unknown(name));
                    }
                    "DEALLOCATE"
                }
            };
            Ok(Answer::Outcome(Outcome::command(tag)))
        })
    }

    fn prepare_as(&mut self, sql: &str, prepare: &Prepare) -> Result<(), SqlError> {
        let statement = self
            .prepare(&prepare.statement, &prepare.types)
            .map_err(|error| match error.position {
                // It counts from where the statement begins, and the client from where PREPARE does.
                Some(position) => error.with_position(position.saturating_add(prepare.offset)),
                None => error,
            })?;
        self.keep_prepared(&prepare.name, statement, Some(sql))
    }

    async fn execute_named(&mut self, sql: &str, name: &str) -> Result<Answer, SqlError> {
        let statement = self.prepared.get(name)?;
        let plan = statement.current_plan(self)?;
        if matches!(
            plan.kind,
            PlanKind::Prepared(PreparedStatement::Execute { .. })
        ) {
            return Err(SqlError::unsupported(
                "EXECUTE of a statement that is an EXECUTE",
            ));
        }
        match self.arguments(sql, &plan.parameters).await? {
            Some(values) => {
                expect_none_null(&plan.parameters, &values)?;
                self.run_plan(statement.sql(), &plan, values).await
            }
            None => Ok(Answer::Stale),
        }
    }

    /// The arguments of an EXECUTE, as values to bind; `None` if the definitions have just changed.
    pub(super) async fn arguments(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Option<Vec<Value>>, SqlError> {
        let query: Arc<Plan> = Arc::new(plan_arguments(
            &self.catalog(),
            sql,
            parameters,
            &self.plan_context,
        )?);
        if parameters.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let Answer::Outcome(mut outcome) = self.run_data(&query, Vec::new(), None).await? else {
            return Ok(None);
        };
        let mut rows = outcome.rows.take().unwrap_or_default();
        let chunk = rows.next_chunk()?;
        let row = chunk.as_ref().and_then(|chunk| chunk.rows().next());
        let values: Vec<Value> = row.map_or_else(Vec::new, |row| {
            row.values().map(|value| value.to_owned()).collect()
        });
        Ok(Some(values))
    }
}

/// # Errors
/// For a NULL that its parameter's place does not take.
pub(super) fn expect_none_null(parameters: &[Parameter], values: &[Value]) -> Result<(), SqlError> {
    let mut both = parameters.iter().zip(values);
    both.try_for_each(|(parameter, value)| expect_not_null(parameter, value))
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedStatement,
        format!("prepared statement \"{name}\" does not exist"),
    )
}
