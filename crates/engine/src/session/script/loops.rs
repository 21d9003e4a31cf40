//! The loops of a block of DO.

use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::PgType;
use springhead_sql::program::script::{Statement, Target};

use super::{Flow, Ran, Script, null_refused};
use crate::Session;

impl Session {
    /// A loop, whichever it is.
    pub(super) async fn script_loop(
        &mut self,
        script: &mut Script,
        statement: &Statement,
    ) -> Result<Flow, SqlError> {
        match statement {
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
            Statement::ForRange { .. } => self.script_range(script, statement).await,
            Statement::ForQuery {
                targets,
                query,
                body,
            } => {
                let (ran, slots, _) = self.script_run(script, query, None, targets).await?;
                self.script_rows(script, targets, ran, &slots, body).await
            }
            Statement::ForExecute {
                targets,
                dynamic,
                body,
            } => {
                let (text, parameters) = self.script_computed(script, dynamic).await?;
                let using = Some(parameters.as_slice());
                let (ran, slots, _) = self.script_run(script, &text, using, targets).await?;
                self.script_rows(script, targets, ran, &slots, body).await
            }
            _ => Ok(Flow::Next),
        }
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
        ran: Ran,
        slots: &[usize],
        body: &[Statement],
    ) -> Result<Flow, SqlError> {
        let any = !ran.rows.is_empty();
        for row in ran.rows {
            for (slot, value) in slots.iter().zip(row) {
                script.put(*slot, value);
            }
            // Planned anew for each row: the body may have defined something.
            let catalog = self.catalog();
            let convert = script
                .variables
                .spread(&catalog, &self.plan_context, slots, targets)?;
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
}
