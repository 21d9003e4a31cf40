//! CALL of Springhead's own procedures: their arguments, and what they answer.

use std::pin::Pin;
use std::sync::Arc;

use springhead_proto::{ErrorCode, Lsn, SqlError, Value, ValueRef};
use springhead_sql::plan::{OwnCall, OwnProcedure, Query};
use springhead_sql::{Plan, PlanKind};

use super::super::execute::Answer;
use super::super::outcome::text_rows;
use super::super::{Outcome, Session};
use super::{REDRIVE_RATE, read_operations, rejected_again};
use crate::dead_letters::{self, ANY_VIOLATION, Action, OnFull, PolicyChange};

impl Session {
    /// CALL of one of Springhead's own procedures.
    pub(in crate::session) fn own_call<'s>(
        &'s mut self,
        plan: &Plan,
        call: &OwnCall,
        params: Vec<Value>,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, SqlError>> + Send + 's>> {
        let procedure = call.procedure;
        let query = &call.arguments;
        let arguments = Arc::new(Plan {
            catalog_version: plan.catalog_version,
            parameters: plan.parameters.clone(),
            system: false,
            kind: PlanKind::Query(Query {
                sql: query.sql.clone(),
                columns: Arc::clone(&query.columns),
                reads: query.reads.clone(),
                locks: false,
                nowait: false,
            }),
            library: plan.library.clone(),
        });
        Box::pin(async move {
            self.expect_writable("CALL")?;
            if self.block.is_some() {
                // It commits by itself, and what came of it stays whatever else is rolled back.
                return Err(SqlError::new(
                    ErrorCode::ActiveTransaction,
                    "this procedure cannot be called inside a transaction block",
                ));
            }
            let arguments = match self.run_data(&arguments, params, None).await? {
                Answer::Outcome(outcome) => Arguments::of(outcome)?,
                Answer::Stale => return Ok(Answer::Stale),
            };
            self.run_procedure(procedure, arguments)
                .await
                .map(Answer::Outcome)
        })
    }

    async fn run_procedure(
        &mut self,
        procedure: OwnProcedure,
        arguments: Arguments,
    ) -> Result<Outcome, SqlError> {
        match procedure {
            OwnProcedure::RetryDeadLetter => {
                let id = arguments.number(0, "id")?;
                let operations = arguments
                    .text(1)
                    .map(|text| read_operations(&text))
                    .transpose()?;
                let (retried, lsn) = self.retry_dead_letter(id, operations).await?;
                match retried.outcome {
                    dead_letters::Outcome::Applied => {
                        row(procedure, vec!["applied".to_owned(), lsn.to_string()], lsn)
                    }
                    dead_letters::Outcome::Rejected { violation, error } => {
                        Err(rejected_again(id, &violation.to_string(), error))
                    }
                }
            }
            OwnProcedure::ResolveDeadLetter => {
                let id = arguments.number(0, "id")?;
                let (_, lsn) = self.resolve_dead_letter(id, arguments.text(1)).await?;
                let mut outcome = Outcome::command("CALL");
                outcome.lsn = lsn;
                Ok(outcome)
            }
            OwnProcedure::RedriveDeadLetters => {
                let collection = arguments.required_text(0, "collection")?;
                let rate = arguments.optional_number(1).unwrap_or(REDRIVE_RATE);
                let redriven = self.redrive_dead_letters(&collection, rate).await?;
                let counts = [redriven.found, redriven.applied, redriven.rejected];
                let lsn = self.tenant.visible();
                row(procedure, counts.iter().map(u64::to_string).collect(), lsn)
            }
            OwnProcedure::SetDeadLetterPolicy => {
                let collection = arguments.required_text(0, "collection")?;
                let violation = arguments.text(5);
                let violation = violation.as_deref().unwrap_or(ANY_VIOLATION);
                let change = PolicyChange {
                    ttl_s: arguments.optional_number(1),
                    action: arguments
                        .text(2)
                        .map(|word| word.parse::<Action>())
                        .transpose()?,
                    max_entries: arguments.optional_number(3),
                    on_full: arguments
                        .text(4)
                        .map(|word| word.parse::<OnFull>())
                        .transpose()?,
                };
                let (_, lsn) = self
                    .put_dead_letter_policy(&collection, violation, change)
                    .await?;
                let mut outcome = Outcome::command("CALL");
                outcome.lsn = lsn;
                Ok(outcome)
            }
        }
    }
}

/// The arguments of a call.
struct Arguments(Vec<Value>);

impl Arguments {
    fn of(outcome: Outcome) -> Result<Arguments, SqlError> {
        let mut rows = outcome.rows.unwrap_or_default();
        let chunk = rows.next_chunk()?;
        let row = chunk.as_ref().and_then(|chunk| chunk.rows().next());
        let values = row.map(|row| row.values().map(ValueRef::to_owned).collect());
        Ok(Arguments(values.unwrap_or_default()))
    }

    fn optional_number(&self, place: usize) -> Option<i64> {
        match self.0.get(place) {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    fn number(&self, place: usize, name: &str) -> Result<i64, SqlError> {
        self.optional_number(place).ok_or_else(|| is_null(name))
    }

    fn text(&self, place: usize) -> Option<String> {
        match self.0.get(place) {
            Some(Value::Text(text)) => Some(text.to_string()),
            _ => None,
        }
    }

    fn required_text(&self, place: usize, name: &str) -> Result<String, SqlError> {
        self.text(place).ok_or_else(|| is_null(name))
    }
}

fn is_null(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::NullNotAllowed,
        format!("\"{name}\" must not be NULL"),
    )
}

fn row(procedure: OwnProcedure, values: Vec<String>, lsn: Lsn) -> Result<Outcome, SqlError> {
    let mut outcome = text_rows("CALL", procedure.columns(), std::iter::once(values))?;
    outcome.lsn = lsn;
    Ok(outcome)
}
