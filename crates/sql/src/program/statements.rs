//! A body's statements, each as the steps that it comes to.

use springhead_proto::{ErrorCode, SqlError};

use super::body::{Block, Item, RAISE_OPTIONS, Statement, Target};
use super::compile::Compiler;
use super::variables::{Kind, Variable};
use super::{Caught, Step, TriggerRow};
use crate::types::PgType;

impl Compiler<'_> {
    pub(super) fn block(&mut self, block: &Block) -> Result<Vec<Step>, SqlError> {
        let outer = self.variables.len();
        let mut steps = Vec::new();
        for declaration in &block.declarations {
            let kind = self.declared(&declaration.data_type)?;
            let slot = match &kind {
                Kind::Scalar(slot) => Some(*slot),
                _ => None,
            };
            if let Some(slot) = slot {
                // Its default does not see it.
                let sql = match &declaration.default {
                    Some(default) => self.expression(default, &self.slots[slot].clone())?,
                    None => "SELECT NULL".to_owned(),
                };
                steps.push(Step::Assign {
                    slot,
                    sql,
                    not_null: declaration.not_null.then(|| declaration.name.clone()),
                });
            } else if declaration.default.is_some() {
                return Err(SqlError::unsupported("a default of a row variable"));
            }
            self.variables.push(Variable {
                name: declaration.name.clone(),
                kind,
                not_null: declaration.not_null,
            });
        }
        let body = self.statements(&block.statements);
        if block.handlers.is_empty() {
            steps.extend(body);
        } else {
            steps.push(self.guarded(body, block));
        }
        self.variables.truncate(outer);
        Ok(steps)
    }

    /// A block with EXCEPTION.
    fn guarded(&mut self, body: Vec<Step>, block: &Block) -> Step {
        let first = self.slots.len();
        for _ in Item::ALL {
            self.slot(&PgType::Text);
        }
        let outer = self.variables.len();
        self.declare("sqlstate", Kind::Scalar(first));
        self.declare("sqlerrm", Kind::Scalar(first + 1));
        let around = self.around.handler.replace(first);
        let mut handlers = Vec::with_capacity(block.handlers.len());
        for handler in &block.handlers {
            handlers.push(Caught {
                conditions: handler.conditions.clone(),
                steps: self.statements(&handler.statements),
            });
        }
        self.around.handler = around;
        self.variables.truncate(outer);
        Step::Guarded {
            body,
            handlers,
            first,
        }
    }

    /// Statements, one after the other. What is wrong with one is found when it is its turn, as in PL/pgSQL,
    /// so that a handler is told and nobody minds what is not reached.
    pub(super) fn statements(&mut self, statements: &[Statement]) -> Vec<Step> {
        let mut steps = Vec::with_capacity(statements.len());
        for (place, statement) in statements.iter().enumerate() {
            if let Statement::Execute {
                dynamic,
                into,
                strict,
            } = statement
            {
                // What sees a record whose fields are not known yet is compiled when they are.
                let opens = self.opens_record(into);
                let rest = if opens { &statements[place + 1..] } else { &[] };
                let step = self.execute(dynamic, into, *strict, rest);
                steps.push(step.unwrap_or_else(Step::Fail));
                if opens {
                    break;
                }
                continue;
            }
            let done = steps.len();
            if let Err(error) = self.statement(statement, &mut steps) {
                steps.truncate(done);
                steps.push(Step::Fail(error));
            }
        }
        steps
    }

    fn statement(&mut self, statement: &Statement, steps: &mut Vec<Step>) -> Result<(), SqlError> {
        match statement {
            Statement::Nothing => {}
            Statement::Block(block) => steps.extend(self.block(block)?),
            Statement::Assign { target, value } => {
                let slot = self.target_slot(target)?;
                let sql = self.expression(value, &self.slots[slot].clone())?;
                steps.push(Step::Assign {
                    slot,
                    sql,
                    not_null: self.not_null(slot),
                });
            }
            Statement::If { arms, otherwise } => {
                let mut compiled = Vec::with_capacity(arms.len());
                for (condition, body) in arms {
                    compiled.push((self.condition(condition)?, self.statements(body)));
                }
                let otherwise = self.statements(otherwise);
                steps.push(Step::If {
                    arms: compiled,
                    otherwise,
                });
            }
            Statement::While { condition, body } => {
                let condition = condition.as_ref().map(|c| self.condition(c)).transpose()?;
                let body = self.statements(body);
                steps.push(Step::While { condition, body });
            }
            Statement::ForRange { .. } => self.for_range(statement, steps)?,
            Statement::ForQuery {
                targets,
                query,
                body,
            } => self.for_query(targets, query, body, steps)?,
            Statement::Leave { exit, when } => {
                let when = when.as_ref().map(|w| self.condition(w)).transpose()?;
                steps.push(if *exit {
                    Step::Exit { when }
                } else {
                    Step::Continue { when }
                });
            }
            Statement::Return(value) => steps.push(self.returns(value.as_deref())?),
            Statement::ReturnQuery(query) => {
                let run = self.plan(query)?;
                let run = self.returned(run, "this function")?;
                steps.push(Step::ReturnQuery { run, last: false });
            }
            Statement::ReturnExecute(dynamic) => steps.push(self.return_execute(dynamic)?),
            Statement::ReturnNext(value) => self.return_next(value.as_deref(), steps)?,
            Statement::Raise(raise) if raise.again => steps.push(Step::Again),
            Statement::Raise(raise) => steps.push(self.raise(raise)?),
            Statement::Execute {
                dynamic,
                into,
                strict,
            } => steps.push(self.execute(dynamic, into, *strict, &[])?),
            Statement::ForExecute {
                targets,
                dynamic,
                body,
            } => steps.push(self.for_execute(targets, dynamic, body)?),
            Statement::Stacked(items) => self.stacked(items, steps)?,
            Statement::RowCount(target) => {
                let slot = self.target_slot(target)?;
                steps.push(Step::RowCount { slot });
            }
            Statement::Sql { text, into, strict } => self.run(text, into, *strict, steps)?,
        }
        Ok(())
    }

    /// GET STACKED DIAGNOSTICS.
    fn stacked(&mut self, items: &[(Target, Item)], steps: &mut Vec<Step>) -> Result<(), SqlError> {
        let Some(first) = self.around.handler else {
            let nothing = ",NULL".repeat(RAISE_OPTIONS.len() - 1);
            steps.push(Step::Raise {
                notice: None,
                sql: format!(
                    "SELECT '0Z002','GET STACKED DIAGNOSTICS cannot be used outside an exception handler'{nothing}"
                ),
            });
            return Ok(());
        };
        for (target, item) in items {
            let to = self.target_slot(target)?;
            let place = Item::ALL.iter().position(|known| known == item);
            let from = first + place.expect("every item is among all");
            steps.extend(self.convert(from, to)?);
        }
        Ok(())
    }

    fn return_next(&mut self, value: Option<&str>, steps: &mut Vec<Step>) -> Result<(), SqlError> {
        if !self.around.is_set {
            return Err(SqlError::new(
                ErrorCode::DatatypeMismatch,
                "cannot use RETURN NEXT in a non-SETOF function",
            ));
        }
        let returns = self.around.returns.clone();
        let Some(value) = value else {
            if self.around.table.is_empty() {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "RETURN NEXT must have a parameter",
                ));
            }
            steps.push(Step::ReturnSlots(self.around.table.clone()));
            return Ok(());
        };
        let fields = self.fields_of(&value.trim().to_ascii_lowercase());
        if let Some(fields) = fields.filter(|fields| fields.len() == returns.len()) {
            let mut row = Vec::with_capacity(returns.len());
            for (from, ty) in fields.into_iter().zip(&returns) {
                let to = self.slot(ty);
                steps.extend(self.convert(from, to)?);
                row.push(to);
            }
            steps.push(Step::ReturnSlots(row));
            return Ok(());
        }
        let [ty] = returns.as_slice() else {
            return Err(SqlError::unsupported(
                "RETURN NEXT of a row that is no variable",
            ));
        };
        steps.push(Step::ReturnNext(self.expression(value, ty)?));
        Ok(())
    }

    fn for_range(&mut self, statement: &Statement, steps: &mut Vec<Step>) -> Result<(), SqlError> {
        let Statement::ForRange {
            variable,
            reverse,
            from,
            to,
            by,
            body,
        } = statement
        else {
            return Ok(());
        };
        let int = PgType::Int4;
        let (slot, last, step) = (self.slot(&int), self.slot(&int), self.slot(&int));
        let bounds = [
            (slot, from.as_str()),
            (last, to.as_str()),
            (step, by.as_deref().unwrap_or("1")),
        ];
        for (slot, text) in bounds {
            let sql = self.expression(text, &int)?;
            steps.push(Step::Assign {
                slot,
                sql,
                not_null: Some("FOR loop bound".to_owned()),
            });
        }
        let outer = self.variables.len();
        self.declare(variable, Kind::Scalar(slot));
        let body = self.statements(body);
        self.variables.truncate(outer);
        steps.push(Step::ForRange {
            slot,
            to: last,
            by: step,
            reverse: *reverse,
            found: self.around.found,
            body,
        });
        Ok(())
    }

    fn for_query(
        &mut self,
        targets: &[Target],
        query: &str,
        body: &[Statement],
        steps: &mut Vec<Step>,
    ) -> Result<(), SqlError> {
        let query = self.plan(query)?;
        let (slots, convert) = self.row_into(&query, targets)?;
        let body = self.statements(body);
        steps.push(Step::ForQuery {
            query,
            slots,
            convert,
            found: self.around.found,
            body,
        });
        Ok(())
    }

    fn run(
        &mut self,
        text: &str,
        into: &[Target],
        strict: bool,
        steps: &mut Vec<Step>,
    ) -> Result<(), SqlError> {
        let run = self.plan(text)?;
        let (slots, convert) = if into.is_empty() {
            (Vec::new(), Vec::new())
        } else {
            self.row_into(&run, into)?
        };
        steps.push(Step::Run {
            run,
            into: slots,
            strict,
            convert,
            found: self.around.found,
        });
        Ok(())
    }

    fn returns(&mut self, value: Option<&str>) -> Result<Step, SqlError> {
        let Some(value) = value else {
            if self.around.is_trigger || (!self.around.returns.is_empty() && !self.around.is_set) {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "missing expression at or near \";\"",
                ));
            }
            return Ok(Step::Return(None));
        };
        if self.around.is_trigger {
            let plain: String = value
                .to_ascii_lowercase()
                .chars()
                .filter(|c| !c.is_whitespace())
                .collect();
            return Ok(Step::ReturnRow(match plain.as_str() {
                "new" => TriggerRow::New,
                "old" => TriggerRow::Old,
                "null" => TriggerRow::Null,
                "coalesce(new,old)" => TriggerRow::Either,
                _ => {
                    return Err(SqlError::unsupported(format_args!(
                        "RETURN {value} in a trigger"
                    )));
                }
            }));
        }
        let error = |message: &str| Err(SqlError::new(ErrorCode::DatatypeMismatch, message));
        if self.around.is_procedure {
            return error("RETURN cannot have a parameter in a procedure");
        }
        if self.around.is_set {
            return error("RETURN cannot have a parameter in function returning set");
        }
        match self.around.returns.as_slice() {
            [ty] => Ok(Step::Return(Some(self.expression(value, &ty.clone())?))),
            _ => error("RETURN cannot have a parameter in function returning void"),
        }
    }
}
