//! DO: runs a block of PL/pgSQL in the session's transaction, statement by statement
//! (`springhead_sql::program::script`). A block with EXCEPTION runs behind a savepoint.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::plan::TransactionControl;
use springhead_sql::program::Library;
use springhead_sql::program::script::{
    Block, Declaration, Raise, Statement, Target, Variables, catches,
};
use springhead_sql::{PgType, Plan, PlanKind};

use super::execute::{Answer, REPLANS};
use super::{Outcome, Session};

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
    /// The error that a handler is handling, for RAISE alone.
    handling: Option<SqlError>,
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
        let mut handler = None;
        for candidate in &block.handlers {
            for condition in &candidate.conditions {
                if handler.is_none() && catches(condition, &error)? {
                    handler = Some(candidate);
                }
            }
        }
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
        for (variable, text) in [
            ("sqlstate", error.code.sqlstate().0.to_owned()),
            ("sqlerrm", error.message.clone()),
        ] {
            let slot = script.variables.declare_as(variable, &PgType::Text);
            script.put(slot, Value::Text(text));
        }
        let outer = script.handling.replace(error);
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
            Statement::While { condition, body } => loop {
                if let Some(condition) = condition
                    && !self.script_holds(script, condition).await?
                {
                    return Ok(Flow::Next);
                }
                match self.script_statements(script, body).await? {
                    Flow::Done => return Ok(Flow::Done),
                    Flow::Exit => return Ok(Flow::Next),
                    Flow::Next | Flow::Continue => {}
                }
                // A loop that waits for nothing lets others run.
                tokio::task::yield_now().await;
            },
            Statement::ForRange { .. } => return self.script_range(script, statement).await,
            Statement::ForQuery {
                targets,
                query,
                body,
            } => return self.script_rows(script, targets, query, body).await,
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
            Statement::Return(Some(_)) | Statement::ReturnQuery(_) | Statement::ReturnNext(_) => {
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
                self.script_sql(script, text, into, *strict).await?;
            }
            Statement::Execute {
                text,
                into,
                strict,
                using,
            } => {
                self.script_execute(script, text, into, *strict, using)
                    .await?;
            }
        }
        Ok(Flow::Next)
    }

    async fn script_sql(
        &mut self,
        script: &mut Script,
        text: &str,
        into: &[Target],
        strict: bool,
    ) -> Result<(), SqlError> {
        let ran = self.script_run(script, text, into).await?;
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

    /// EXECUTE: the text is computed, its parameters become variables.
    async fn script_execute(
        &mut self,
        script: &mut Script,
        text: &str,
        into: &[Target],
        strict: bool,
        using: &[String],
    ) -> Result<(), SqlError> {
        let catalog = self.catalog();
        let kind = script
            .variables
            .value(&catalog, &self.plan_context, text, &PgType::Text)?;
        let Value::Text(sql) = self.script_value(script, kind).await? else {
            return Err(SqlError::new(
                ErrorCode::NullNotAllowed,
                "query string argument of EXECUTE is null",
            ));
        };
        if !using.is_empty() {
            return Err(SqlError::unsupported("EXECUTE … USING"));
        }
        self.script_sql(script, &sql, into, strict).await
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

    async fn script_range(
        &mut self,
        script: &mut Script,
        statement: &Statement,
    ) -> Result<Flow, SqlError> {
        let Statement::ForRange {
            variable,
            reverse,
            from,
            to,
            by,
            body,
        } = statement
        else {
            return Ok(Flow::Next);
        };
        let mut bounds = Vec::with_capacity(3);
        for text in [from, to, by.as_ref().unwrap_or(&"1".to_owned())] {
            let catalog = self.catalog();
            let kind = script
                .variables
                .value(&catalog, &self.plan_context, text, &PgType::Int4)?;
            match self.script_value(script, kind).await? {
                Value::Integer(bound) => bounds.push(bound),
                _ => return Err(null_refused("FOR loop bound")),
            }
        }
        let (mut at, last, step) = (bounds[0], bounds[1], bounds[2]);
        if step <= 0 {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                "BY value of FOR loop must be greater than zero",
            ));
        }
        let seen = script.variables.seen();
        let slot = script.variables.declare_as(variable, &PgType::Int4);
        let mut ran = false;
        while if *reverse { at >= last } else { at <= last } {
            ran = true;
            script.put(slot, Value::Integer(at));
            match self.script_statements(script, body).await? {
                Flow::Done => return Ok(Flow::Done),
                Flow::Exit => break,
                Flow::Next | Flow::Continue => {}
            }
            at = if *reverse { at - step } else { at + step };
            tokio::task::yield_now().await;
        }
        script.variables.forget(seen);
        script.found(ran);
        Ok(Flow::Next)
    }

    async fn script_rows(
        &mut self,
        script: &mut Script,
        targets: &[Target],
        query: &str,
        body: &[Statement],
    ) -> Result<Flow, SqlError> {
        let (ran, slots, _) = self.script_run(script, query, targets).await?;
        let any = !ran.rows.is_empty();
        for row in ran.rows {
            for (slot, value) in slots.iter().zip(row) {
                script.put(*slot, value);
            }
            // Planned anew for each row: the body may have defined something.
            let catalog = self.catalog();
            let convert = script
                .variables
                .spread(&catalog, &self.plan_context, &slots, targets)?;
            self.script_spread(script, Vec::new(), &[], convert).await?;
            match self.script_statements(script, body).await? {
                Flow::Done => return Ok(Flow::Done),
                Flow::Exit => break,
                Flow::Next | Flow::Continue => {}
            }
        }
        script.found(any);
        Ok(Flow::Next)
    }

    async fn script_raise(&mut self, script: &mut Script, raise: &Raise) -> Result<(), SqlError> {
        if raise.again {
            return Err(script.handling.clone().unwrap_or_else(|| {
                SqlError::new(
                    ErrorCode::SyntaxError,
                    "RAISE without parameters cannot be used outside an exception handler",
                )
            }));
        }
        let catalog = self.catalog();
        let (code, kind) = script
            .variables
            .raise(&catalog, &self.plan_context, raise)?;
        let ran = self.script_kind(script, "RAISE", kind).await?;
        let row = ran.rows.into_iter().next().unwrap_or_default();
        let text = |place: usize| match row.get(place) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let message = text(0).unwrap_or_default();
        let mut error = SqlError::new(code.unwrap_or(ErrorCode::Success), message);
        if let Some(detail) = text(1) {
            error = error.with_detail(detail);
        }
        if let Some(hint) = text(2) {
            error = error.with_hint(hint);
        }
        if code.is_some() {
            return Err(error);
        }
        script.notices.push(error);
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
        into: &[Target],
    ) -> Result<(Ran, Vec<usize>, Vec<(usize, PlanKind)>), SqlError> {
        for _ in 0..REPLANS {
            let catalog = self.catalog();
            let planned = script
                .variables
                .statement(&catalog, &self.plan_context, text, into)?;
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
