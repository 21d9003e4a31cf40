//! Bodies become programs: each expression and statement is planned over the slots of the variables
//! that it sees.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use super::variables::{Kind, Variable};
use super::{Program, Run, Step, TriggerRow, TriggerSlots, parse};
use crate::catalog::{Catalog, Language, Returns, Routine, Trigger, Volatility};
use crate::functions::CastContext;
use crate::plan::{OutputColumn, PlanKind};
use crate::planner::{self, PlanContext};
use crate::query::Analyzer;
use crate::query::names::quote_text;
use crate::query::scope::Scope;
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
        compiler.around.parameters.push(slot);
        if let Some(name) = &argument.name {
            compiler.declare(name, Kind::Scalar(slot));
            compiler.around.argument_names.push((name.clone(), slot));
        } else {
            compiler
                .around
                .argument_names
                .push((format!("${}", index + 1), slot));
        }
    }
    compiler.around.own_name = Some(routine.name.name.clone());
    compiler.around.returns = match &routine.returns {
        Returns::Void | Returns::Trigger => Vec::new(),
        Returns::Scalar(ty) | Returns::Set(ty) => vec![ty.clone()],
        Returns::Table(columns) => columns.iter().map(|(_, ty)| ty.clone()).collect(),
    };
    compiler.around.is_set = matches!(routine.returns, Returns::Set(_) | Returns::Table(_));
    compiler.around.is_procedure = routine.procedure;
    let steps = match routine.language {
        Language::Sql => compiler.sql_body(&routine.body, &routine.signature())?,
        Language::Plpgsql => {
            compiler.around.strict_names = true;
            if let Returns::Table(columns) = &routine.returns {
                for (name, ty) in columns {
                    let slot = compiler.slot(ty);
                    compiler.declare(name, Kind::Scalar(slot));
                    compiler.around.table.push(slot);
                }
            }
            let found = compiler.slot(&PgType::Bool);
            compiler.declare("found", Kind::Scalar(found));
            compiler.around.found = found;
            let block = parse::plpgsql(&routine.body)?;
            compiler.block(&block)?
        }
    };
    Ok(Program {
        name: routine.signature(),
        volatile: routine.volatility == Volatility::Volatile,
        arguments: routine.arguments.len(),
        columns: compiler.around.returns.clone(),
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
    for (name, ty, sql) in constants(trigger, &relation_name) {
        let slot = compiler.slot(&ty);
        compiler.declare(name, Kind::Scalar(slot));
        compiler.around.found = slot;
        steps.push(Step::Assign {
            slot,
            sql: format!("SELECT {sql}"),
            not_null: None,
        });
    }
    compiler.around.strict_names = routine.language == Language::Plpgsql;
    compiler.around.is_trigger = true;
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
        volatile: true,
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

/// The variables that tell a trigger what it is, FOUND last: names, types and what computes them.
fn constants(trigger: &Trigger, relation_name: &str) -> [(&'static str, PgType, String); 10] {
    let level = if trigger.each_row { "ROW" } else { "STATEMENT" };
    let arguments: Vec<String> = trigger
        .arguments
        .iter()
        .map(|text| quote_text(text))
        .collect();
    [
        ("tg_name", PgType::Name, quote_text(&trigger.name.name)),
        ("tg_when", PgType::Text, quote_text(trigger.timing.word())),
        ("tg_level", PgType::Text, quote_text(level)),
        ("tg_table_name", PgType::Name, quote_text(relation_name)),
        ("tg_relname", PgType::Name, quote_text(relation_name)),
        ("tg_table_schema", PgType::Name, quote_text("public")),
        ("tg_relid", PgType::Oid, trigger.relation.to_string()),
        ("tg_nargs", PgType::Int4, arguments.len().to_string()),
        (
            "tg_argv",
            PgType::Text.array(),
            format!("json_array({})", arguments.join(",")),
        ),
        ("found", PgType::Bool, "0".to_owned()),
    ]
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

pub(super) struct Compiler<'a> {
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) context: &'a PlanContext,
    pub(super) slots: Vec<PgType>,
    pub(super) variables: Vec<Variable>,
    pub(super) around: Around,
}

/// What a body's statements are compiled with beside the variables.
#[derive(Debug, Clone)]
pub(super) struct Around {
    /// Slots of `$1`, …
    pub parameters: Vec<usize>,
    pub argument_names: Vec<(String, usize)>,
    /// The routine's name, by which its arguments can be qualified.
    pub own_name: Option<String>,
    pub returns: Vec<PgType>,
    /// Slots of the variables that RETURNS TABLE declares.
    pub table: Vec<usize>,
    pub is_set: bool,
    pub is_procedure: bool,
    pub is_trigger: bool,
    /// A name that is a variable's and a column's is an error, as in PL/pgSQL.
    pub strict_names: bool,
    pub found: usize,
    /// In a handler: the first of its slots, which are [`Item::ALL`].
    pub handler: Option<usize>,
}

impl Default for Around {
    fn default() -> Around {
        Around {
            parameters: Vec::new(),
            argument_names: Vec::new(),
            own_name: None,
            returns: Vec::new(),
            table: Vec::new(),
            is_set: false,
            is_procedure: false,
            is_trigger: false,
            strict_names: false,
            found: usize::MAX,
            handler: None,
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
            around: Around::default(),
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

    /// Plans one statement.
    pub(super) fn plan(&self, text: &str) -> Result<Run, SqlError> {
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
        if !self.around.is_trigger {
            return text;
        }
        let mut from = 0;
        while let Some(at) = text[from..].to_ascii_lowercase().find("tg_argv[") {
            from += at + "tg_argv[".len();
            text.insert_str(from, "1+");
        }
        text
    }

    pub(super) fn condition(&self, text: &str) -> Result<String, SqlError> {
        self.expression(text, &PgType::Bool)
    }

    /// A body in SQL: its statements one after the other; the last one's rows are the result.
    fn sql_body(&mut self, body: &str, signature: &str) -> Result<Vec<Step>, SqlError> {
        let mut steps = Vec::new();
        let texts: Vec<&str> = crate::split::statements(body).collect::<Result<_, _>>()?;
        let last = texts.len().checked_sub(1);
        for (index, text) in texts.iter().enumerate() {
            let run = self.plan(text)?;
            if Some(index) == last && !self.around.returns.is_empty() {
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
        if texts.is_empty() && !self.around.returns.is_empty() {
            return Err(mismatch(signature, &self.around.returns));
        }
        Ok(steps)
    }

    /// A statement whose rows are returned, in the types that are promised.
    pub(super) fn returned(&self, run: Run, signature: &str) -> Result<Run, SqlError> {
        let columns = match &run {
            Run::Query(query) => &query.columns,
            Run::Write(write) => &write.returning,
        };
        if columns.len() != self.around.returns.len() {
            return Err(mismatch(signature, &self.around.returns));
        }
        let same = columns
            .iter()
            .zip(&self.around.returns)
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
        let mut texts = Vec::with_capacity(self.around.returns.len());
        for (index, (column, ty)) in query.columns.iter().zip(&self.around.returns).enumerate() {
            let value = Typed::new(format!("r.x{index}"), column.pg_type.clone());
            texts.push(
                analyzer
                    .coerce(&value, ty, CastContext::Assignment)
                    .map_err(|_| mismatch(signature, &self.around.returns))?,
            );
        }
        let names: Vec<String> = (0..self.around.returns.len())
            .map(|n| format!("x{n}"))
            .collect();
        query.sql = format!(
            "WITH r({}) AS ({}) SELECT {} FROM r",
            names.join(","),
            query.sql,
            texts.join(",")
        );
        query.columns = query
            .columns
            .iter()
            .zip(&self.around.returns)
            .map(|(column, ty)| OutputColumn {
                pg_type: ty.clone(),
                ..column.clone()
            })
            .collect();
        Ok(Run::Query(query))
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
