//! DO: runs a block of PL/pgSQL in the session's transaction, statement by statement
//! (`springhead_sql::program::script`). A block with EXCEPTION runs behind a savepoint.

mod loops;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::plan::TransactionControl;
use springhead_sql::program::script::{
    Block, Declaration, Dynamic, Item, Raise, Statement, Target, Variables,
};
use springhead_sql::program::{Library, catches, outside_handler, raised};
use springhead_sql::{PgType, Plan, PlanKind};

use super::execute::{Answer, REPLANS};
use super::{Outcome, Session};
use crate::settings;

/// Blocks within blocks, deeper than this, are refused (54001).
const MAX_DEPTH: usize = 32;

/// Where a block goes on.
enum Flow {
    Next,
    Exit,
    Continue,
    Done,
}

/// A block that runs.
#[derive(Default)]
struct Script {
    variables: Variables,
    /// By slots.
    values: Vec<Value>,
    notices: Vec<SqlError>,
    /// Rows that the last statement changed or returned.
    affected: u64,
    depth: usize,
    /// The error that a handler is handling, and the first of the slots that tell of it.
    handling: Option<(SqlError, usize)>,
}

/// A statement's rows.
struct Ran {
    rows: Vec<Vec<Value>>,
    affected: u64,
}

type Step<'a> = Pin<Box<dyn Future<Output = Result<Flow, SqlError>> + Send + 'a>>;

impl Session {
    /// Runs DO.
    pub(super) async fn run_script(&mut self, block: &Arc<Block>) -> Result<Outcome, SqlError> {
        let own = self.block.is_none();
        self.begin_block();
        let mut script = Script::default();
        let result = self.script_block(&mut script, block).await;
        let result = match result {
            Err(error) => {
                if own {
                    self.fail();
                    // The error is the answer.
                    let _ = self.end_block().await;
                }
                return Err(error);
            }
            Ok(_) if own => self.end_block().await?,
            Ok(_) => self.tenant.visible(),
        };
        let mut outcome = Outcome::command("DO");
        outcome.lsn = result;
        outcome.notices = script.notices;
        Ok(outcome)
    }

    fn script_block<'a>(&'a mut self, script: &'a mut Script, block: &'a Block) -> Step<'a> {
        Box::pin(async move {
            if script.depth >= MAX_DEPTH {
                return Err(SqlError::new(
                    ErrorCode::TooComplex,
                    "blocks are nested too deeply",
                ));
            }
            script.depth += 1;
            let seen = script.variables.seen();
            let result = self.script_guarded(script, block).await;
            script.variables.forget(seen);
            script.depth -= 1;
            result
        })
    }

    async fn script_guarded(
        &mut self,
        script: &mut Script,
        block: &Block,
    ) -> Result<Flow, SqlError> {
        for declaration in &block.declarations {
            self.script_declare(script, declaration).await?;
        }
        if block.handlers.is_empty() {
            return self.script_statements(script, &block.statements).await;
        }
        // No statement of a client's can name it so.
        let name = format!("\u{1}exception {}", script.depth);
        self.control(&TransactionControl::Savepoint(name.clone()))
            .await?;
        let error = match self.script_statements(script, &block.statements).await {
            Ok(flow) => {
                self.control(&TransactionControl::Release(name)).await?;
                return Ok(flow);
            }
            Err(error) => error,
        };
        let handler = (block.handlers.iter()).find(|handler| catches(&handler.conditions, &error));
        let Some(handler) = handler else {
            return Err(error);
        };
        let back = self
            .control(&TransactionControl::RollbackTo(name.clone()))
            .await;
        if back.is_err() {
            // The whole transaction went with the statement.
            return Err(error);
        }
        self.control(&TransactionControl::Release(name)).await?;
        let seen = script.variables.seen();
        let first = script.variables.handler();
        for (place, item) in Item::ALL.into_iter().enumerate() {
            script.put(first + place, Value::Text(item.of(&error)));
        }
        let outer = script.handling.replace((error, first));
        let flow = self.script_statements(script, &handler.statements).await;
        script.handling = outer;
        script.variables.forget(seen);
        flow
    }

    async fn script_declare(
        &mut self,
        script: &mut Script,
        declaration: &Declaration,
    ) -> Result<(), SqlError> {
        let catalog = self.catalog();
        let declared = script
            .variables
            .declare(&catalog, &self.plan_context, declaration)?;
        if let Some((slot, kind)) = declared {
            let value = self.script_value(script, kind).await?;
            if value == Value::Null && declaration.not_null {
                return Err(null_refused(&declaration.name));
            }
            script.put(slot, value);
        }
        Ok(())
    }

    fn script_statements<'a>(
        &'a mut self,
        script: &'a mut Script,
        statements: &'a [Statement],
    ) -> Step<'a> {
        Box::pin(async move {
            for statement in statements {
                match self.script_statement(script, statement).await? {
                    Flow::Next => {}
                    flow => return Ok(flow),
                }
            }
            Ok(Flow::Next)
        })
    }

    async fn script_statement(
        &mut self,
        script: &mut Script,
        statement: &Statement,
    ) -> Result<Flow, SqlError> {
        match statement {
            Statement::Nothing => {}
            Statement::Block(block) => return self.script_block(script, block).await,
            Statement::Assign { target, value } => {
                let catalog = self.catalog();
                let (slot, kind, not_null) =
                    script
                        .variables
                        .assignment(&catalog, &self.plan_context, target, value)?;
                let value = self.script_value(script, kind).await?;
                if let (Value::Null, Some(name)) = (&value, not_null) {
                    return Err(null_refused(&name));
                }
                script.put(slot, value);
            }
            Statement::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.script_holds(script, condition).await? {
                        return self.script_statements(script, body).await;
                    }
                }
                return self.script_statements(script, otherwise).await;
            }
            Statement::While { .. }
            | Statement::ForRange { .. }
            | Statement::ForQuery { .. }
            | Statement::ForExecute { .. } => return self.script_loop(script, statement).await,
            Statement::Leave { exit, when } => {
                let leaves = match when {
                    Some(when) => self.script_holds(script, when).await?,
                    None => true,
                };
                return Ok(match (leaves, exit) {
                    (false, _) => Flow::Next,
                    (true, true) => Flow::Exit,
                    (true, false) => Flow::Continue,
                });
            }
            Statement::Return(None) => return Ok(Flow::Done),
            Statement::Return(Some(_))
            | Statement::ReturnQuery(_)
            | Statement::ReturnExecute(_)
            | Statement::ReturnNext(_) => {
                return Err(SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    "RETURN cannot have a parameter in function returning void",
                ));
            }
            Statement::Raise(raise) => self.script_raise(script, raise).await?,
            Statement::RowCount(target) => {
                let text = script.affected.to_string();
                let assign = Statement::Assign {
                    target: target.clone(),
                    value: text,
                };
                return Box::pin(self.script_statement(script, &assign)).await;
            }
            Statement::Sql { text, into, strict } => {
                self.script_sql(script, text, None, into, *strict).await?;
            }
            Statement::Execute {
                dynamic,
                into,
                strict,
            } => {
                let (text, parameters) = self.script_computed(script, dynamic).await?;
                // It says nothing of FOUND.
                let found = script.values.get(script.variables.found()).cloned();
                self.script_sql(script, &text, Some(&parameters), into, *strict)
                    .await?;
                script.put(script.variables.found(), found.unwrap_or(Value::Integer(0)));
            }
            Statement::Stacked(items) => self.script_stacked(script, items).await?,
        }
        Ok(Flow::Next)
    }

    async fn script_sql(
        &mut self,
        script: &mut Script,
        text: &str,
        using: Option<&[usize]>,
        into: &[Target],
        strict: bool,
    ) -> Result<(), SqlError> {
        let ran = self.script_run(script, text, using, into).await?;
        let (ran, slots, convert) = ran;
        script.found(ran.affected > 0);
        script.affected = ran.affected;
        if into.is_empty() {
            return Ok(());
        }
        if strict && ran.rows.len() != 1 {
            return Err(if ran.rows.is_empty() {
                SqlError::new(ErrorCode::NoDataFound, "query returned no rows")
            } else {
                SqlError::new(ErrorCode::TooManyRows, "query returned more than one row")
            });
        }
        script.found(!ran.rows.is_empty());
        let row = ran.rows.into_iter().next();
        let row = row.unwrap_or_else(|| vec![Value::Null; slots.len()]);
        self.script_spread(script, row, &slots, convert).await
    }

    /// EXECUTE: computes the text, and its parameters into slots.
    async fn script_computed(
        &mut self,
        script: &mut Script,
        dynamic: &Dynamic,
    ) -> Result<(String, Vec<usize>), SqlError> {
        let catalog = self.catalog();
        let kind =
            script
                .variables
                .value(&catalog, &self.plan_context, &dynamic.text, &PgType::Text)?;
        let Value::Text(text) = self.script_value(script, kind).await? else {
            return Err(SqlError::new(
                ErrorCode::NullNotAllowed,
                "query string argument of EXECUTE is null",
            ));
        };
        let using = script
            .variables
            .using(&catalog, &self.plan_context, &dynamic.using)?;
        let Some(using) = using else {
            return Ok((text, Vec::new()));
        };
        let ran = self.script_kind(script, "USING", using.kind).await?;
        let row = ran.rows.into_iter().next().unwrap_or_default();
        for (slot, value) in using.slots.iter().zip(row) {
            script.put(*slot, value);
        }
        Ok((text, using.slots))
    }

    /// GET STACKED DIAGNOSTICS.
    async fn script_stacked(
        &mut self,
        script: &mut Script,
        items: &[(Target, Item)],
    ) -> Result<(), SqlError> {
        let Some((_, first)) = script.handling else {
            return Err(outside_handler("GET STACKED DIAGNOSTICS"));
        };
        for (target, item) in items {
            let catalog = self.catalog();
            let found =
                script
                    .variables
                    .stacked(&catalog, &self.plan_context, first, target, *item)?;
            if let Some((slot, kind)) = found {
                let value = self.script_value(script, kind).await?;
                script.put(slot, value);
            }
        }
        Ok(())
    }

    async fn script_spread(
        &mut self,
        script: &mut Script,
        row: Vec<Value>,
        slots: &[usize],
        convert: Vec<(usize, PlanKind)>,
    ) -> Result<(), SqlError> {
        for (slot, value) in slots.iter().zip(row) {
            script.put(*slot, value);
        }
        for (slot, kind) in convert {
            let value = self.script_value(script, kind).await?;
            script.put(slot, value);
        }
        Ok(())
    }

    async fn script_raise(&mut self, script: &mut Script, raise: &Raise) -> Result<(), SqlError> {
        if raise.again {
            return Err(match &script.handling {
                Some((error, _)) => error.clone(),
                None => outside_handler("RAISE without parameters"),
            });
        }
        let catalog = self.catalog();
        let kind = script
            .variables
            .raise(&catalog, &self.plan_context, raise)?;
        let ran = self.script_kind(script, "RAISE", kind).await?;
        let row = ran.rows.into_iter().next().unwrap_or_default();
        let said = raised(raise.notice, &row)?;
        let Some(level) = raise.notice else {
            return Err(said);
        };
        if settings::tells(self.setting("client_min_messages").as_deref(), level) {
            script.notices.push(said);
        }
        Ok(())
    }

    async fn script_holds(&mut self, script: &mut Script, text: &str) -> Result<bool, SqlError> {
        let catalog = self.catalog();
        let kind = script
            .variables
            .value(&catalog, &self.plan_context, text, &PgType::Bool)?;
        Ok(self.script_value(script, kind).await? == Value::Integer(1))
    }

    async fn script_value(
        &mut self,
        script: &mut Script,
        kind: PlanKind,
    ) -> Result<Value, SqlError> {
        let ran = self.script_kind(script, "SELECT", kind).await?;
        let row = ran.rows.into_iter().next();
        Ok(row
            .and_then(|row| row.into_iter().next())
            .unwrap_or(Value::Null))
    }

    /// Plans and runs a statement; the slots of its row, and what converts it.
    async fn script_run(
        &mut self,
        script: &mut Script,
        text: &str,
        using: Option<&[usize]>,
        into: &[Target],
    ) -> Result<(Ran, Vec<usize>, Vec<(usize, PlanKind)>), SqlError> {
        for _ in 0..REPLANS {
            let catalog = self.catalog();
            let (variables, context) = (&mut script.variables, &self.plan_context);
            let planned = match using {
                None => variables.statement(&catalog, context, text, into)?,
                Some(using) => variables.computed(&catalog, context, text, using, into)?,
            };
            if let Some(ran) = self.script_try(script, text, planned.kind).await? {
                return Ok((ran, planned.slots, planned.convert));
            }
        }
        Err(super::execute::changing_catalog())
    }

    async fn script_kind(
        &mut self,
        script: &mut Script,
        text: &str,
        kind: PlanKind,
    ) -> Result<Ran, SqlError> {
        let ran = self.script_try(script, text, kind).await?;
        ran.ok_or_else(super::execute::changing_catalog)
    }

    /// Runs one planned statement; `None` if the catalog has changed meanwhile.
    async fn script_try(
        &mut self,
        script: &mut Script,
        text: &str,
        kind: PlanKind,
    ) -> Result<Option<Ran>, SqlError> {
        if matches!(
            kind,
            PlanKind::Transaction(_) | PlanKind::Copy(_) | PlanKind::Do(_) | PlanKind::Database(_)
        ) {
            return Err(SqlError::unsupported(format_args!(
                "\"{}\" in a block of DO",
                text.trim()
            )));
        }
        let catalog = self.catalog();
        let plan = Arc::new(Plan {
            catalog_version: catalog.version,
            parameters: Vec::new(),
            system: true,
            library: Some(Library::even_if_empty(&catalog, &self.plan_context)),
            kind,
        });
        script.values.resize(script.variables.width(), Value::Null);
        let params = script.values.clone();
        let run = Box::pin(self.run_plan(text, &plan, params));
        let Answer::Outcome(mut outcome) = run.await? else {
            return Ok(None);
        };
        script.notices.append(&mut outcome.notices);
        let mut ran = Ran {
            rows: Vec::new(),
            affected: outcome.affected(),
        };
        if let Some(mut rows) = outcome.rows {
            while let Some(chunk) = rows.next_chunk()? {
                for row in chunk.rows() {
                    ran.rows
                        .push(row.values().map(ValueRef::to_owned).collect());
                }
            }
        }
        Ok(Some(ran))
    }
}

impl Script {
    fn put(&mut self, slot: usize, value: Value) {
        if self.values.len() <= slot {
            self.values.resize(slot + 1, Value::Null);
        }
        self.values[slot] = value;
    }

    fn found(&mut self, found: bool) {
        self.put(self.variables.found(), Value::Integer(i64::from(found)));
    }
}

impl Outcome {
    /// How many rows the command tag tells of.
    fn affected(&self) -> u64 {
        self.tag
            .rsplit(' ')
            .next()
            .and_then(|count| count.parse().ok())
            .unwrap_or(0)
    }
}

fn null_refused(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::NullNotAllowed,
        format!("null value cannot be assigned to variable \"{name}\" declared NOT NULL"),
    )
}
