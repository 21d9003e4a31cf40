//! Bodies become programs: each expression and statement is planned over the slots of the variables
//! that it sees.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::conditions::condition_code;
use super::parse::{self, Block, Raise, Statement, Target};
use super::{Program, Run, Step, TriggerRow, TriggerSlots};
use crate::catalog::{Catalog, Language, Returns, Routine, Trigger};
use crate::functions::CastContext;
use crate::plan::{OutputColumn, PlanKind};
use crate::planner::{self, PlanContext};
use crate::query::Analyzer;
use crate::query::names::quote_text;
use crate::query::scope::{Frame, Relation, Scope, ScopeColumn};
use crate::query::typed::Typed;
use crate::types::PgType;

/// The program of a routine.
pub(super) fn routine(
    catalog: &Arc<Catalog>,
    context: &PlanContext,
    routine: &Routine,
) -> Result<Program, SqlError> {
    if routine.returns == Returns::Trigger {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            "trigger functions can only be called as triggers",
        ));
    }
    let mut compiler = Compiler::new(catalog, context);
    for (index, argument) in routine.arguments.iter().enumerate() {
        let slot = compiler.slot(&argument.pg_type);
        compiler.parameters.push(slot);
        if let Some(name) = &argument.name {
            compiler.declare(name, Kind::Scalar(slot));
            compiler.argument_names.push((name.clone(), slot));
        } else {
            compiler
                .argument_names
                .push((format!("${}", index + 1), slot));
        }
    }
    compiler.own_name = Some(routine.name.name.clone());
    compiler.returns = match &routine.returns {
        Returns::Void | Returns::Trigger => Vec::new(),
        Returns::Scalar(ty) | Returns::Set(ty) => vec![ty.clone()],
        Returns::Table(columns) => columns.iter().map(|(_, ty)| ty.clone()).collect(),
    };
    compiler.is_set = matches!(routine.returns, Returns::Set(_) | Returns::Table(_));
    compiler.is_procedure = routine.procedure;
    let steps = match routine.language {
        Language::Sql => compiler.sql_body(&routine.body, &routine.signature())?,
        Language::Plpgsql => {
            compiler.strict_names = true;
            if let Returns::Table(columns) = &routine.returns {
                for (name, ty) in columns {
                    let slot = compiler.slot(ty);
                    compiler.declare(name, Kind::Scalar(slot));
                }
            }
            let found = compiler.slot(&PgType::Bool);
            compiler.declare("found", Kind::Scalar(found));
            compiler.found = found;
            let block = parse::plpgsql(&routine.body)?;
            compiler.block(&block)?
        }
    };
    Ok(Program {
        name: routine.signature(),
        arguments: routine.arguments.len(),
        columns: compiler.returns.clone(),
        strict: routine.strict,
        must_return: routine.language == Language::Plpgsql
            && matches!(routine.returns, Returns::Scalar(_)),
        trigger: None,
        slots: compiler.slots,
        steps,
    })
}

/// The program of a trigger.
pub(super) fn trigger(
    catalog: &Arc<Catalog>,
    context: &PlanContext,
    trigger: &Trigger,
) -> Result<Program, SqlError> {
    let routine = catalog
        .routines
        .get(&trigger.function)
        .ok_or_else(|| SqlError::new(ErrorCode::Internal, "a trigger without its function"))?;
    let mut compiler = Compiler::new(catalog, context);
    let (width, relation_name) = compiler.rows_of(trigger)?;
    let operation = compiler.slot(&PgType::Text);
    compiler.declare("tg_op", Kind::Scalar(operation));
    let mut steps = Vec::new();
    let level = if trigger.each_row { "ROW" } else { "STATEMENT" };
    let arguments: Vec<String> = trigger
        .arguments
        .iter()
        .map(|text| quote_text(text))
        .collect();
    let constants = [
        ("tg_name", PgType::Name, quote_text(&trigger.name.name)),
        ("tg_when", PgType::Text, quote_text(trigger.timing.word())),
        ("tg_level", PgType::Text, quote_text(level)),
        ("tg_table_name", PgType::Name, quote_text(&relation_name)),
        ("tg_relname", PgType::Name, quote_text(&relation_name)),
        ("tg_table_schema", PgType::Name, quote_text("public")),
        ("tg_relid", PgType::Oid, trigger.relation.to_string()),
        ("tg_nargs", PgType::Int4, arguments.len().to_string()),
        (
            "tg_argv",
            PgType::Text.array(),
            format!("json_array({})", arguments.join(",")),
        ),
        ("found", PgType::Bool, "0".to_owned()),
    ];
    for (name, ty, sql) in constants {
        let slot = compiler.slot(&ty);
        compiler.declare(name, Kind::Scalar(slot));
        compiler.found = slot;
        steps.push(Step::Assign {
            slot,
            sql: format!("SELECT {sql}"),
            not_null: None,
        });
    }
    compiler.strict_names = routine.language == Language::Plpgsql;
    compiler.is_trigger = true;
    if let Some(condition) = &trigger.condition {
        let condition = compiler.condition(condition)?;
        steps.push(Step::If {
            arms: vec![(condition, Vec::new())],
            otherwise: vec![Step::ReturnRow(TriggerRow::Either)],
        });
    }
    let block = match routine.language {
        Language::Plpgsql => parse::plpgsql(&routine.body)?,
        Language::Sql => parse::statements(&routine.body)?,
    };
    steps.extend(compiler.block(&block)?);
    if routine.language == Language::Sql {
        // A body in SQL says what it changes, and goes on.
        steps.push(Step::ReturnRow(TriggerRow::Either));
    }
    Ok(Program {
        name: routine.signature(),
        arguments: 2 * width,
        columns: Vec::new(),
        strict: false,
        must_return: routine.language == Language::Plpgsql,
        trigger: Some(TriggerSlots {
            old: 0,
            new: width,
            width,
            operation,
        }),
        slots: compiler.slots,
        steps,
    })
}

/// What is wrong with a trigger's WHEN.
pub(super) fn condition(
    catalog: &Arc<Catalog>,
    context: &PlanContext,
    trigger: &Trigger,
) -> Result<(), SqlError> {
    let mut compiler = Compiler::new(catalog, context);
    if trigger.each_row {
        compiler.rows_of(trigger)?;
    }
    compiler
        .condition(trigger.condition.as_deref().unwrap_or("true"))
        .map(drop)
}

/// The columns of a table (in storage order, hidden ones without a name) or a view; its name.
fn relation_columns(
    catalog: &Catalog,
    relation: u32,
) -> Result<(Vec<(String, PgType)>, String), SqlError> {
    if let Some(table) = catalog.table(springhead_proto::CollectionId(relation)) {
        let columns = table
            .columns
            .iter()
            .map(|column| {
                let name = if column.hidden {
                    String::new()
                } else {
                    column.name.clone()
                };
                (name, column.pg_type.clone())
            })
            .collect();
        return Ok((columns, table.name.name.clone()));
    }
    let view = catalog
        .view(relation)
        .ok_or_else(|| SqlError::new(ErrorCode::Internal, "a trigger without its relation"))?;
    Ok((view.columns.clone(), view.name.name.clone()))
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar(usize),
    /// Fields and their slots.
    Record(Vec<(String, usize)>),
    /// RECORD that has not been given a row yet.
    Open,
}

#[derive(Debug, Clone)]
pub(super) struct Variable {
    name: String,
    kind: Kind,
    not_null: bool,
}

pub(super) struct Compiler<'a> {
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) context: &'a PlanContext,
    pub(super) slots: Vec<PgType>,
    pub(super) variables: Vec<Variable>,
    /// Slots of `$1`, …
    parameters: Vec<usize>,
    argument_names: Vec<(String, usize)>,
    /// The routine's name, by which its arguments can be qualified.
    own_name: Option<String>,
    returns: Vec<PgType>,
    is_set: bool,
    is_procedure: bool,
    is_trigger: bool,
    /// A name that is a variable's and a column's is an error, as in PL/pgSQL.
    pub(super) strict_names: bool,
    pub(super) found: usize,
}

impl Variable {
    pub(super) fn scalar(name: &str, slot: usize) -> Variable {
        Variable {
            name: name.to_owned(),
            kind: Kind::Scalar(slot),
            not_null: false,
        }
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn new(catalog: &'a Arc<Catalog>, context: &'a PlanContext) -> Compiler<'a> {
        Compiler {
            catalog,
            context,
            slots: Vec::new(),
            variables: Vec::new(),
            parameters: Vec::new(),
            argument_names: Vec::new(),
            own_name: None,
            returns: Vec::new(),
            is_set: false,
            is_procedure: false,
            is_trigger: false,
            strict_names: false,
            found: usize::MAX,
        }
    }

    /// OLD and NEW of a trigger: how many columns each has, and the relation's name.
    fn rows_of(&mut self, trigger: &Trigger) -> Result<(usize, String), SqlError> {
        let (columns, relation_name) = relation_columns(self.catalog, trigger.relation)?;
        for record in ["old", "new"] {
            let mut fields = Vec::with_capacity(columns.len());
            for (name, ty) in &columns {
                let slot = self.slot(ty);
                // Hidden columns have places, and no names.
                if !name.is_empty() {
                    fields.push((name.clone(), slot));
                }
            }
            self.declare(record, Kind::Record(fields));
        }
        Ok((columns.len(), relation_name))
    }

    fn slot(&mut self, ty: &PgType) -> usize {
        self.slots.push(ty.clone());
        self.slots.len() - 1
    }

    fn declare(&mut self, name: &str, kind: Kind) {
        self.variables.push(Variable {
            name: name.to_owned(),
            kind,
            not_null: false,
        });
    }

    /// What statements see of the variables.
    pub(super) fn frame(&self) -> Frame {
        let column = |name: &str, slot: usize| ScopeColumn {
            name: name.to_owned(),
            sql: format!("?{}", slot + 1),
            ty: self.slots[slot].of_value(),
            nullable: true,
            origin: None,
            used: None,
        };
        let mut scope = Scope::default();
        for variable in self.variables.iter().rev() {
            match &variable.kind {
                Kind::Scalar(slot) => {
                    if !scope.columns.iter().any(|c| c.name == variable.name) {
                        scope.columns.push(column(&variable.name, *slot));
                    }
                }
                Kind::Record(fields) => {
                    if !scope.relations.iter().any(|r| r.alias == variable.name) {
                        scope.relations.push(relation(
                            &variable.name,
                            fields
                                .iter()
                                .map(|(name, slot)| column(name, *slot))
                                .collect(),
                        ));
                    }
                }
                Kind::Open => {}
            }
        }
        if let Some(name) = &self.own_name {
            let arguments = self
                .argument_names
                .iter()
                .map(|(name, slot)| column(name, *slot))
                .collect();
            scope.relations.push(relation(name, arguments));
        }
        Frame {
            scope,
            parameters: self
                .parameters
                .iter()
                .map(|&slot| column("", slot))
                .collect(),
            strict_names: self.strict_names,
        }
    }

    /// Plans one statement.
    fn plan(&self, text: &str) -> Result<Run, SqlError> {
        let text = &self.arguments_from_one(text);
        match planner::plan_in_frame(self.catalog, text, self.context, self.frame())? {
            PlanKind::Query(query) => Ok(Run::Query(query)),
            PlanKind::Write(write) => Ok(Run::Write(write)),
            PlanKind::Ddl(ddl) => Err(SqlError::unsupported(format_args!(
                "{} in a function's body",
                ddl.tag
            ))),
            _ => Err(SqlError::unsupported(format_args!(
                "\"{}\" in a function's body",
                text.trim()
            ))),
        }
    }

    /// The SQLite text of an expression, assigned to a type.
    pub(super) fn expression(&self, text: &str, ty: &PgType) -> Result<String, SqlError> {
        let mut analyzer = Analyzer::new(self.catalog, text, self.context, &[], usize::MAX);
        analyzer.enter_frame(self.frame());
        let text = self.arguments_from_one(&self.rows_by_name(text));
        let expr = planner::parse_expression(
            &text,
            self.context.max_statement_bytes,
            self.context.max_depth,
        )?;
        let value = analyzer.in_scope(Scope::default(), |analyzer| {
            let value = analyzer.expression(&expr)?;
            analyzer.coerce(&value, ty, CastContext::Assignment)
        })?;
        Ok(format!("SELECT {value}"))
    }

    /// `OLD.*` in a comparison of rows is `OLD`.
    fn rows_by_name(&self, text: &str) -> String {
        if !text.contains(".*") {
            return text.to_owned();
        }
        let mut text = text.to_owned();
        for name in ["old.*", "new.*"] {
            while let Some(at) = text.to_ascii_lowercase().find(name) {
                text.replace_range(at + 3..at + 5, "");
            }
        }
        text
    }

    /// `TG_ARGV` counts from 0, other arrays from 1.
    fn arguments_from_one(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if !self.is_trigger {
            return text;
        }
        let mut from = 0;
        while let Some(at) = text[from..].to_ascii_lowercase().find("tg_argv[") {
            from += at + "tg_argv[".len();
            text.insert_str(from, "1+");
        }
        text
    }

    fn condition(&self, text: &str) -> Result<String, SqlError> {
        self.expression(text, &PgType::Bool)
    }

    pub(super) fn convert(&self, from: usize, to: usize) -> Result<Option<Step>, SqlError> {
        if self.slots[from] == self.slots[to] && from == to {
            return Ok(None);
        }
        let mut analyzer = Analyzer::new(self.catalog, "", self.context, &[], usize::MAX);
        let value = Typed::new(format!("?{}", from + 1), self.slots[from].clone());
        let sql = analyzer.coerce(&value, &self.slots[to], CastContext::Assignment)?;
        Ok(Some(Step::Assign {
            slot: to,
            sql: format!("SELECT {sql}"),
            not_null: self.not_null(to),
        }))
    }

    pub(super) fn not_null(&self, slot: usize) -> Option<String> {
        self.variables
            .iter()
            .find_map(|variable| match variable.kind {
                Kind::Scalar(other) if other == slot && variable.not_null => {
                    Some(variable.name.clone())
                }
                _ => None,
            })
    }

    /// A body in SQL: its statements one after the other; the last one's rows are the result.
    fn sql_body(&mut self, body: &str, signature: &str) -> Result<Vec<Step>, SqlError> {
        let mut steps = Vec::new();
        let texts: Vec<&str> = crate::split::statements(body).collect::<Result<_, _>>()?;
        let last = texts.len().checked_sub(1);
        for (index, text) in texts.iter().enumerate() {
            let run = self.plan(text)?;
            if Some(index) == last && !self.returns.is_empty() {
                let run = self.returned(run, signature)?;
                steps.push(Step::ReturnQuery { run, last: true });
            } else {
                steps.push(Step::Run {
                    run,
                    into: Vec::new(),
                    strict: false,
                    convert: Vec::new(),
                    found: usize::MAX,
                });
            }
        }
        if texts.is_empty() && !self.returns.is_empty() {
            return Err(mismatch(signature, &self.returns));
        }
        Ok(steps)
    }

    /// A statement whose rows are returned, in the types that are promised.
    fn returned(&self, run: Run, signature: &str) -> Result<Run, SqlError> {
        let columns = match &run {
            Run::Query(query) => &query.columns,
            Run::Write(write) => &write.returning,
        };
        if columns.len() != self.returns.len() {
            return Err(mismatch(signature, &self.returns));
        }
        let same = columns
            .iter()
            .zip(&self.returns)
            .all(|(column, ty)| column.pg_type == *ty);
        if same {
            return Ok(run);
        }
        let Run::Query(mut query) = run else {
            return Err(SqlError::unsupported(
                "RETURNING of other types than the function returns",
            ));
        };
        let mut analyzer = Analyzer::new(self.catalog, "", self.context, &[], usize::MAX);
        let mut texts = Vec::with_capacity(self.returns.len());
        for (index, (column, ty)) in query.columns.iter().zip(&self.returns).enumerate() {
            let value = Typed::new(format!("r.x{index}"), column.pg_type.clone());
            texts.push(
                analyzer
                    .coerce(&value, ty, CastContext::Assignment)
                    .map_err(|_| mismatch(signature, &self.returns))?,
            );
        }
        let names: Vec<String> = (0..self.returns.len()).map(|n| format!("x{n}")).collect();
        query.sql = format!(
            "WITH r({}) AS ({}) SELECT {} FROM r",
            names.join(","),
            query.sql,
            texts.join(",")
        );
        query.columns = query
            .columns
            .iter()
            .zip(&self.returns)
            .map(|(column, ty)| OutputColumn {
                pg_type: ty.clone(),
                ..column.clone()
            })
            .collect();
        Ok(Run::Query(query))
    }

    /// A declared variable that statements see from now on; its slot, unless it is a record.
    pub(super) fn declaration(
        &mut self,
        declaration: &parse::Declaration,
    ) -> Result<Option<usize>, SqlError> {
        let kind = self.declared(&declaration.data_type)?;
        let slot = match &kind {
            Kind::Scalar(slot) => Some(*slot),
            _ => None,
        };
        self.variables.push(Variable {
            name: declaration.name.clone(),
            kind,
            not_null: declaration.not_null,
        });
        Ok(slot)
    }

    fn block(&mut self, block: &Block) -> Result<Vec<Step>, SqlError> {
        if !block.handlers.is_empty() {
            return Err(SqlError::unsupported("EXCEPTION in a function's body"));
        }
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
        steps.extend(self.statements(&block.statements)?);
        self.variables.truncate(outer);
        Ok(steps)
    }

    fn declared(&mut self, text: &str) -> Result<Kind, SqlError> {
        let lower = text.trim().to_ascii_lowercase();
        if lower == "record" {
            return Ok(Kind::Open);
        }
        if let Some(of) = lower.strip_suffix("%rowtype") {
            let name = crate::catalog::QualifiedName::public(of.trim());
            let table = self.catalog.expect_table(&name)?.clone();
            let fields = table
                .visible_columns()
                .map(|(_, column)| (column.name.clone(), self.slot(&column.pg_type)))
                .collect();
            return Ok(Kind::Record(fields));
        }
        if let Some(of) = lower.strip_suffix("%type") {
            let of = of.trim();
            if let Some((table, column)) = of.rsplit_once('.') {
                let table = table.strip_prefix("public.").unwrap_or(table);
                let name = crate::catalog::QualifiedName::public(table);
                let table = self.catalog.expect_table(&name)?.clone();
                let ty = table.expect_column(column)?.1.pg_type.clone();
                return Ok(Kind::Scalar(self.slot(&ty)));
            }
            let known = self.variables.iter().rev().find(|v| v.name == of);
            if let Some(Kind::Scalar(slot)) = known.map(|v| v.kind.clone()) {
                let ty = self.slots[slot].clone();
                return Ok(Kind::Scalar(self.slot(&ty)));
            }
        }
        let ty = parse_type(self.catalog, text)?;
        Ok(Kind::Scalar(self.slot(&ty)))
    }

    fn statements(&mut self, statements: &[Statement]) -> Result<Vec<Step>, SqlError> {
        let mut steps = Vec::with_capacity(statements.len());
        for statement in statements {
            self.statement(statement, &mut steps)?;
        }
        Ok(steps)
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
                    compiled.push((self.condition(condition)?, self.statements(body)?));
                }
                let otherwise = self.statements(otherwise)?;
                steps.push(Step::If {
                    arms: compiled,
                    otherwise,
                });
            }
            Statement::While { condition, body } => {
                let condition = condition.as_ref().map(|c| self.condition(c)).transpose()?;
                let body = self.statements(body)?;
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
            Statement::ReturnNext(value) => {
                let [ty] = self.returns.as_slice() else {
                    return Err(SqlError::unsupported("RETURN NEXT of a row"));
                };
                steps.push(Step::ReturnNext(self.expression(value, &ty.clone())?));
            }
            Statement::Raise(raise) => {
                if raise.again {
                    return Err(SqlError::unsupported("RAISE without a message"));
                }
                steps.push(self.raise(raise)?);
            }
            Statement::Execute { .. } => {
                return Err(SqlError::unsupported("EXECUTE in a function's body"));
            }
            Statement::RowCount(target) => {
                let slot = self.target_slot(target)?;
                steps.push(Step::RowCount { slot });
            }
            Statement::Sql { text, into, strict } => self.run(text, into, *strict, steps)?,
        }
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
        let body = self.statements(body)?;
        self.variables.truncate(outer);
        steps.push(Step::ForRange {
            slot,
            to: last,
            by: step,
            reverse: *reverse,
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
        let body = self.statements(body)?;
        steps.push(Step::ForQuery {
            query,
            slots,
            convert,
            found: self.found,
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
            found: self.found,
        });
        Ok(())
    }

    /// Slots for a statement's row, and what takes it from there to the variables.
    pub(super) fn row_into(
        &mut self,
        run: &Run,
        targets: &[Target],
    ) -> Result<(Vec<usize>, Vec<Step>), SqlError> {
        let columns: Vec<(String, PgType)> = match run {
            Run::Query(query) => &query.columns,
            Run::Write(write) => &write.returning,
        }
        .iter()
        .map(|column| (column.name.clone(), column.pg_type.clone()))
        .collect();
        let slots: Vec<usize> = columns.iter().map(|(_, ty)| self.slot(ty)).collect();
        if let [target] = targets
            && let [name] = target.as_slice()
            && let Some(place) = self.variables.iter().rposition(|v| v.name == *name)
            && !matches!(self.variables[place].kind, Kind::Scalar(_))
        {
            if matches!(self.variables[place].kind, Kind::Open) {
                let fields = columns.into_iter().map(|(name, _)| name).zip(slots.clone());
                self.variables[place].kind = Kind::Record(fields.collect());
                return Ok((slots, Vec::new()));
            }
            let Kind::Record(fields) = self.variables[place].kind.clone() else {
                return Ok((slots, Vec::new()));
            };
            let mut convert = Vec::new();
            for (&from, (_, to)) in slots.iter().zip(&fields) {
                convert.extend(self.convert(from, *to)?);
            }
            return Ok((slots, convert));
        }
        let mut convert = Vec::new();
        for (index, target) in targets.iter().enumerate() {
            let to = self.target_slot(target)?;
            match slots.get(index) {
                Some(&from) => convert.extend(self.convert(from, to)?),
                None => convert.push(Step::Assign {
                    slot: to,
                    sql: "SELECT NULL".to_owned(),
                    not_null: None,
                }),
            }
        }
        Ok((slots, convert))
    }

    pub(super) fn target_slot(&self, target: &Target) -> Result<usize, SqlError> {
        let found = match target.as_slice() {
            [name] => self
                .variables
                .iter()
                .rev()
                .find(|variable| variable.name == *name)
                .and_then(|variable| match &variable.kind {
                    Kind::Scalar(slot) => Some(*slot),
                    _ => None,
                }),
            [record, field] => self
                .variables
                .iter()
                .rev()
                .find(|variable| variable.name == *record)
                .and_then(|variable| match &variable.kind {
                    Kind::Record(fields) => Some(fields),
                    _ => None,
                })
                .map(|fields| {
                    fields
                        .iter()
                        .find(|(name, _)| name == field)
                        .map(|(_, slot)| *slot)
                        .ok_or_else(|| {
                            SqlError::new(
                                ErrorCode::UndefinedColumn,
                                format!("record \"{record}\" has no field \"{field}\""),
                            )
                        })
                })
                .transpose()?,
            _ => None,
        };
        found.ok_or_else(|| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("\"{}\" is not a known variable", target.join(".")),
            )
        })
    }

    /// The slots of a record's fields; `None` for a scalar.
    pub(super) fn fields_of(&self, name: &str) -> Option<Vec<usize>> {
        let variable = self.variables.iter().rev().find(|v| v.name == name)?;
        match &variable.kind {
            Kind::Record(fields) => Some(fields.iter().map(|(_, slot)| *slot).collect()),
            _ => None,
        }
    }

    fn returns(&mut self, value: Option<&str>) -> Result<Step, SqlError> {
        let Some(value) = value else {
            if self.is_trigger || (!self.returns.is_empty() && !self.is_set) {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "missing expression at or near \";\"",
                ));
            }
            return Ok(Step::Return(None));
        };
        if self.is_trigger {
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
        if self.is_procedure {
            return error("RETURN cannot have a parameter in a procedure");
        }
        if self.is_set {
            return error("RETURN cannot have a parameter in function returning set");
        }
        match self.returns.as_slice() {
            [ty] => Ok(Step::Return(Some(self.expression(value, &ty.clone())?))),
            _ => error("RETURN cannot have a parameter in function returning void"),
        }
    }

    pub(super) fn raise(&self, raise: &Raise) -> Result<Step, SqlError> {
        let text = |value: &String| {
            self.expression(value, &PgType::Text)
                .map(|sql| format!("({sql})"))
        };
        let mut parts = Vec::new();
        for (index, part) in raise.format.iter().enumerate() {
            if index > 0 {
                parts.push(format!(
                    "coalesce({},'<NULL>')",
                    text(&format!("({})::text", raise.values[index - 1]))?
                ));
            }
            parts.push(quote_text(part));
        }
        let message = match &raise.message {
            Some(message) => text(message)?,
            None if parts.is_empty() => {
                quote_text(raise.code.as_deref().unwrap_or("unnamed error"))
            }
            None => format!("({})", parts.join("||")),
        };
        let optional = |value: &Option<String>| match value {
            Some(value) => text(value),
            None => Ok("NULL".to_owned()),
        };
        let code = match (&raise.code, raise.is_error) {
            (_, false) => None,
            (None, true) => Some(ErrorCode::RaiseException),
            (Some(code), true) => Some(condition_code(code)?),
        };
        Ok(Step::Raise {
            code,
            sql: format!(
                "SELECT {message},{},{}",
                optional(&raise.detail)?,
                optional(&raise.hint)?
            ),
        })
    }
}

fn relation(alias: &str, columns: Vec<ScopeColumn>) -> Relation {
    Relation {
        alias: alias.to_owned(),
        schema: None,
        id: format!("\u{1}{alias}"),
        columns,
        key: Vec::new(),
        table_oid: None,
        is_scalar: false,
    }
}

fn mismatch(signature: &str, returns: &[PgType]) -> SqlError {
    let error = SqlError::new(
        ErrorCode::InvalidFunctionDefinition,
        format!(
            "return type mismatch in function declared to return {}",
            returns.first().map_or("record".into(), PgType::base_name)
        ),
    );
    error.with_detail(format!(
        "The result of {signature} must have its columns and types."
    ))
}

fn parse_type(catalog: &Catalog, text: &str) -> Result<PgType, SqlError> {
    let data_type = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_data_type())
        .map_err(|_| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("\"{text}\" is no type of a variable"),
            )
        })?;
    crate::query::data_type::pg_type(catalog, &data_type)
}
