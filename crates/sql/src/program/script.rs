//! DO: a block of PL/pgSQL that a session runs statement by statement, each planned when it is its turn.
//! So what the block defines is there for the statements after it, and EXCEPTION goes back to a
//! savepoint. `engine/session/script.rs` runs it; here its statements are planned over the variables.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use super::compile::Compiler;
use super::variables::Variable;
use super::{Run, Step, parse};
use crate::catalog::Catalog;
use crate::functions::CastContext;
use crate::plan::{OutputColumn, PlanKind, Query};
use crate::planner::{self, PlanContext};
use crate::scan::{self, Token};
use crate::types::PgType;

pub use super::body::{
    Block, Declaration, Dynamic, Handler, Item, RAISE_OPTIONS, Raise, Statement, Target,
};

/// Whether a text begins with DO.
pub(crate) fn is_do(sql: &str) -> bool {
    matches!(scan::next(sql, 0), Ok((Token::Word, start, end)) if sql[start..end].eq_ignore_ascii_case("do"))
}

/// Reads DO, or leaves the text to others (`None`).
///
/// # Errors
/// What is wrong with the block; 0A000 for another language.
pub(crate) fn plan_text(sql: &str) -> Result<Option<PlanKind>, SqlError> {
    let (token, start, mut at) = scan::next(sql, 0)?;
    if token != Token::Word || !sql[start..at].eq_ignore_ascii_case("do") {
        return Ok(None);
    }
    let mut body = None;
    loop {
        let (token, start, end) = scan::next(sql, at)?;
        let text = &sql[start..end];
        at = end;
        match token {
            Token::End => break,
            Token::Symbol(b';') => {}
            Token::String => body = Some(text[1..text.len() - 1].replace("''", "'")),
            Token::DollarString => {
                let tag = text[1..].find('$').map_or(1, |end| end + 2);
                body = Some(text[tag..text.len() - tag].to_owned());
            }
            Token::Word if text.eq_ignore_ascii_case("language") => {
                let (_, start, end) = scan::next(sql, at)?;
                let language = sql[start..end]
                    .trim_matches(['"', '\''])
                    .to_ascii_lowercase();
                if language != "plpgsql" {
                    return Err(SqlError::new(
                        ErrorCode::FeatureNotSupported,
                        format!("language \"{language}\" does not support inline code execution"),
                    ));
                }
                at = end;
            }
            _ => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    format!("syntax error at or near \"{text}\""),
                ));
            }
        }
    }
    let body =
        body.ok_or_else(|| SqlError::new(ErrorCode::SyntaxError, "no inline code specified"))?;
    parse::plpgsql(&body).map(|block| Some(PlanKind::Do(Arc::new(block))))
}

/// A statement of a block, planned.
#[derive(Debug)]
pub struct Planned {
    pub kind: PlanKind,
    /// Where its first row goes.
    pub slots: Vec<usize>,
    /// What takes the row from there to the variables.
    pub convert: Vec<(usize, PlanKind)>,
}

/// The variables that are there where a block has got to.
#[derive(Debug)]
pub struct Variables {
    slots: Vec<PgType>,
    variables: Vec<Variable>,
    found: usize,
}

impl Default for Variables {
    fn default() -> Variables {
        let mut variables = Variables {
            slots: Vec::new(),
            variables: Vec::new(),
            found: 0,
        };
        variables.declare_as("found", &PgType::Bool);
        variables
    }
}

impl Variables {
    /// How many slots there are; a slot's value is the statements' parameter of that number.
    #[must_use]
    pub fn width(&self) -> usize {
        self.slots.len()
    }

    /// The slot of `FOUND`.
    #[must_use]
    pub fn found(&self) -> usize {
        self.found
    }

    /// How many variables can be seen, for [`Variables::forget`].
    #[must_use]
    pub fn seen(&self) -> usize {
        self.variables.len()
    }

    /// Variables past the first `seen` are seen no more.
    pub fn forget(&mut self, seen: usize) {
        self.variables.truncate(seen);
    }

    /// A variable of a type of ours; its slot.
    pub fn declare_as(&mut self, name: &str, ty: &PgType) -> usize {
        self.slots.push(ty.clone());
        let slot = self.slots.len() - 1;
        self.variables.push(Variable::scalar(name, slot));
        slot
    }

    fn with<T>(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        work: impl FnOnce(&mut Compiler<'_>) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let mut compiler = Compiler::new(catalog, context);
        compiler.around.strict_names = true;
        compiler.around.found = self.found;
        compiler.slots = std::mem::take(&mut self.slots);
        compiler.variables = std::mem::take(&mut self.variables);
        let result = work(&mut compiler);
        self.slots = compiler.slots;
        self.variables = compiler.variables;
        result
    }

    /// Declares a variable: its slot and the query of its first value, unless it is a record.
    ///
    /// # Errors
    /// What is wrong with its type or its default.
    pub fn declare(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        declaration: &Declaration,
    ) -> Result<Option<(usize, PlanKind)>, SqlError> {
        self.with(catalog, context, |compiler| {
            let slot = compiler.declaration(declaration)?;
            slot.map(|slot| {
                let text = declaration.default.as_deref().unwrap_or("NULL");
                let ty = compiler.slots[slot].clone();
                compiler.value(text, &ty).map(|kind| (slot, kind))
            })
            .transpose()
        })
    }

    /// An assignment: the slot, the query of its value, and the variable's name if it takes no NULL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn assignment(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        target: &Target,
        value: &str,
    ) -> Result<(usize, PlanKind, Option<String>), SqlError> {
        self.with(catalog, context, |compiler| {
            let slot = compiler.target_slot(target)?;
            let ty = compiler.slots[slot].clone();
            let kind = compiler.value(value, &ty)?;
            Ok((slot, kind, compiler.not_null(slot)))
        })
    }

    /// The query of an expression's value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn value(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        text: &str,
        ty: &PgType,
    ) -> Result<PlanKind, SqlError> {
        self.with(catalog, context, |compiler| compiler.value(text, ty))
    }

    /// A statement, and where its row goes.
    ///
    /// # Errors
    /// What is wrong with it; 0A000 for what a block cannot do.
    pub fn statement(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        text: &str,
        into: &[Target],
    ) -> Result<Planned, SqlError> {
        if defines(text) {
            return defined(catalog, context, text);
        }
        self.planned(catalog, context, into, |compiler| {
            planner::plan_in_frame(catalog, text, context, compiler.frame())
        })
    }

    /// A statement whose text has been computed: it sees these parameters and no variables.
    ///
    /// # Errors
    /// As [`Variables::statement`].
    pub fn computed(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        text: &str,
        parameters: &[usize],
        into: &[Target],
    ) -> Result<Planned, SqlError> {
        if defines(text) {
            return defined(catalog, context, text);
        }
        self.planned(catalog, context, into, |compiler| {
            compiler.computed(text, parameters)
        })
    }

    /// The query of USING's values, and the slots that they go into.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn using(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        values: &[String],
    ) -> Result<Option<Planned>, SqlError> {
        if values.is_empty() {
            return Ok(None);
        }
        let text = format!("SELECT {}", values.join(", "));
        let mut planned = self.statement(catalog, context, &text, &[])?;
        let columns = match &planned.kind {
            PlanKind::Query(query) => Arc::clone(&query.columns),
            PlanKind::Write(write) => Arc::clone(&write.returning),
            _ => return Err(SqlError::new(ErrorCode::Internal, "values are no query")),
        };
        for column in columns.iter() {
            self.slots.push(column.pg_type.clone());
            planned.slots.push(self.slots.len() - 1);
        }
        Ok(Some(planned))
    }

    fn planned(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        into: &[Target],
        plan: impl FnOnce(&Compiler<'_>) -> Result<PlanKind, SqlError>,
    ) -> Result<Planned, SqlError> {
        self.with(catalog, context, |compiler| {
            let kind = plan(compiler)?;
            if into.is_empty() {
                return Ok(Planned {
                    kind,
                    slots: Vec::new(),
                    convert: Vec::new(),
                });
            }
            let run = match kind {
                PlanKind::Query(query) => Run::Query(query),
                PlanKind::Write(write) => Run::Write(write),
                _ => {
                    return Err(SqlError::new(
                        ErrorCode::SyntaxError,
                        "INTO used with a command that cannot return data",
                    ));
                }
            };
            let (slots, convert) = compiler.row_into(&run, into)?;
            let convert = convert
                .into_iter()
                .filter_map(|step| match step {
                    Step::Assign { slot, sql, .. } => {
                        let ty = compiler.slots[slot].clone();
                        Some((slot, query(sql, &ty)))
                    }
                    _ => None,
                })
                .collect();
            let kind = match run {
                Run::Query(query) => PlanKind::Query(query),
                Run::Write(write) => PlanKind::Write(write),
            };
            Ok(Planned {
                kind,
                slots,
                convert,
            })
        })
    }

    /// What takes a row from its slots to the targets of FOR.
    ///
    /// # Errors
    /// What is wrong with the targets.
    pub fn spread(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        slots: &[usize],
        targets: &[Target],
    ) -> Result<Vec<(usize, PlanKind)>, SqlError> {
        self.with(catalog, context, |compiler| {
            let mut places = Vec::with_capacity(slots.len());
            if let [target] = targets
                && let [name] = target.as_slice()
                && let Some(fields) = compiler.fields_of(name)
            {
                places.extend(fields);
            } else {
                for target in targets {
                    places.push(compiler.target_slot(target)?);
                }
            }
            let mut convert = Vec::new();
            for (&from, &to) in slots.iter().zip(&places) {
                if from != to
                    && let Some(Step::Assign { slot, sql, .. }) = compiler.convert(from, to)?
                {
                    let ty = compiler.slots[slot].clone();
                    convert.push((slot, query(sql, &ty)));
                }
            }
            Ok(convert)
        })
    }

    /// RAISE: the query of what [`super::raised`] reads.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn raise(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        raise: &Raise,
    ) -> Result<PlanKind, SqlError> {
        self.with(catalog, context, |compiler| {
            let Step::Raise { sql, .. } = compiler.raise(raise)? else {
                return Err(SqlError::new(ErrorCode::Internal, "RAISE is another step"));
            };
            let mut kind = query(sql, &PgType::Text);
            if let PlanKind::Query(query) = &mut kind {
                let column = query.columns[0].clone();
                query.columns = vec![column; RAISE_OPTIONS.len() + 1].into();
            }
            Ok(kind)
        })
    }

    /// What a handler sees of the error that it handles: the first of the slots of [`Item::ALL`].
    pub fn handler(&mut self) -> usize {
        let first = self.declare_as("sqlstate", &PgType::Text);
        self.declare_as("sqlerrm", &PgType::Text);
        let others = Item::ALL.iter().skip(2).map(|_| PgType::Text);
        self.slots.extend(others);
        first
    }

    /// GET STACKED DIAGNOSTICS of one item: the slot it goes into, and the query of it. `first` is what
    /// [`Variables::handler`] gave.
    ///
    /// # Errors
    /// What is wrong with the target.
    pub fn stacked(
        &mut self,
        catalog: &Arc<Catalog>,
        context: &PlanContext,
        first: usize,
        target: &Target,
        item: Item,
    ) -> Result<Option<(usize, PlanKind)>, SqlError> {
        let place = Item::ALL.iter().position(|known| *known == item);
        let from = first + place.unwrap_or_default();
        self.with(catalog, context, |compiler| {
            let to = compiler.target_slot(target)?;
            let step = compiler.convert(from, to)?;
            Ok(step.and_then(|step| match step {
                Step::Assign { slot, sql, .. } => {
                    let ty = compiler.slots[slot].clone();
                    Some((slot, query(sql, &ty)))
                }
                _ => None,
            }))
        })
    }
}

fn defined(catalog: &Arc<Catalog>, context: &PlanContext, text: &str) -> Result<Planned, SqlError> {
    let plan = planner::plan(catalog, text, &[], context)?;
    Ok(Planned {
        kind: plan.kind,
        slots: Vec::new(),
        convert: Vec::new(),
    })
}

fn query(sql: String, ty: &PgType) -> PlanKind {
    PlanKind::Query(Query {
        sql,
        columns: Arc::from([OutputColumn::computed("value", ty.clone())]),
        reads: Vec::new(),
        locks: false,
        nowait: false,
    })
}

/// Whether a statement is one of those that see no variables.
fn defines(text: &str) -> bool {
    let first = match scan::next(text, 0) {
        Ok((Token::Word, start, end)) => text[start..end].to_ascii_lowercase(),
        _ => return false,
    };
    matches!(
        first.as_str(),
        "create"
            | "alter"
            | "drop"
            | "grant"
            | "revoke"
            | "comment"
            | "truncate"
            | "set"
            | "notify"
            | "listen"
            | "unlisten"
            | "lock"
            | "reset"
            | "refresh"
            | "reindex"
            | "analyze"
            | "vacuum"
    )
}

impl Compiler<'_> {
    /// The query of an expression's value, assigned to a type.
    fn value(&self, text: &str, ty: &PgType) -> Result<PlanKind, SqlError> {
        let kind = planner::plan_in_frame(
            self.catalog,
            &format!("SELECT {text}"),
            self.context,
            self.frame(),
        )?;
        let (sql, columns) = match &kind {
            PlanKind::Query(query) => (&query.sql, &query.columns),
            PlanKind::Write(write) => (&write.sql, &write.returning),
            _ => return Err(SqlError::new(ErrorCode::Internal, "a value is no query")),
        };
        let [column] = &**columns else {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("query \"SELECT {text}\" returned {} columns", columns.len()),
            ));
        };
        // A constant has no type of its own: it is read as the variable's.
        if !matches!(kind, PlanKind::Write(_)) {
            let sql = self.expression(text, ty).or_else(|error| {
                if error.code == ErrorCode::SyntaxError {
                    self.converted(sql, &column.pg_type, ty)
                } else {
                    Err(error)
                }
            })?;
            return Ok(query(sql, ty));
        }
        let sql = self.converted(sql, &column.pg_type, ty)?;
        let PlanKind::Write(mut write) = kind else {
            return Err(SqlError::new(ErrorCode::Internal, "a value is no query"));
        };
        write.sql = sql;
        Ok(PlanKind::Write(write))
    }

    fn converted(&self, sql: &str, from: &PgType, to: &PgType) -> Result<String, SqlError> {
        let mut analyzer =
            crate::query::Analyzer::new(self.catalog, "", self.context, &[], usize::MAX);
        let value = crate::query::typed::Typed::new("v.x".to_owned(), from.clone());
        let text = analyzer.coerce(&value, to, CastContext::Assignment)?;
        Ok(format!("WITH v(x) AS ({sql}) SELECT {text} FROM v LIMIT 1"))
    }
}
