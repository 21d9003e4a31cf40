//! EXECUTE: a statement whose text is computed when it is its turn, and planned then, with the rights of
//! whoever runs the body. It sees its parameters and no variables. What comes after it and sees its row is
//! compiled with it, since only then the row's columns are known.

use springhead_proto::{ErrorCode, SqlError};

use super::body::{self, Statement, Target};
use super::compile::{Around, Compiler};
use super::variables::{Kind, Variable};
use super::{Library, Run, Step};
use crate::plan::{PlanKind, WriteVerb};
use crate::planner;
use crate::query::scope::{Frame, Scope, ScopeColumn};
use crate::types::PgType;

/// An EXECUTE, as far as it can be compiled before it runs.
#[derive(Debug)]
pub struct Dynamic {
    /// Computes the text.
    pub text: String,
    /// Computes the parameters.
    pub using: Option<Run>,
    /// Where the parameters go.
    pub parameters: Vec<usize>,
    pub then: Then,
    variables: Vec<Variable>,
    around: Around,
}

/// What becomes of its rows.
#[derive(Debug)]
pub enum Then {
    /// The first goes into the variables.
    Into {
        targets: Vec<Target>,
        /// Exactly one row (P0002, P0003).
        strict: bool,
        /// The statements that see it.
        rest: Vec<Statement>,
    },
    /// Each goes into the variables, and then the body runs.
    For {
        targets: Vec<Target>,
        body: Vec<Statement>,
    },
    /// All are returned.
    Return,
}

/// A text that has been planned.
#[derive(Debug)]
pub struct Planned {
    /// Its statements; the last one's rows count.
    pub runs: Vec<Run>,
    /// Where a row goes, and what takes it from there to the variables.
    pub into: Vec<usize>,
    pub convert: Vec<Step>,
    /// The rest, or the body.
    pub after: Vec<Step>,
    /// The types of all slots there are now.
    pub slots: Vec<PgType>,
}

impl Dynamic {
    /// The slot of FOUND.
    #[must_use]
    pub fn found(&self) -> usize {
        self.around.found
    }
}

impl Compiler<'_> {
    /// Whether a row into these variables is what gives a record its fields.
    pub(super) fn opens_record(&self, into: &[Target]) -> bool {
        let [target] = into else { return false };
        let [name] = target.as_slice() else {
            return false;
        };
        let known = self.variables.iter().rev().find(|v| v.name == *name);
        known.is_some_and(|variable| matches!(variable.kind, Kind::Open))
    }

    pub(super) fn execute(
        &mut self,
        dynamic: &body::Dynamic,
        into: &[Target],
        strict: bool,
        rest: &[Statement],
    ) -> Result<Step, SqlError> {
        self.dynamic(
            dynamic,
            Then::Into {
                targets: into.to_vec(),
                strict,
                rest: rest.to_vec(),
            },
        )
    }

    pub(super) fn for_execute(
        &mut self,
        targets: &[Target],
        dynamic: &body::Dynamic,
        body: &[Statement],
    ) -> Result<Step, SqlError> {
        self.dynamic(
            dynamic,
            Then::For {
                targets: targets.to_vec(),
                body: body.to_vec(),
            },
        )
    }

    pub(super) fn return_execute(&mut self, dynamic: &body::Dynamic) -> Result<Step, SqlError> {
        if !self.around.is_set {
            return Err(SqlError::new(
                ErrorCode::DatatypeMismatch,
                "cannot use RETURN QUERY in a non-SETOF function",
            ));
        }
        self.dynamic(dynamic, Then::Return)
    }

    fn dynamic(&mut self, dynamic: &body::Dynamic, then: Then) -> Result<Step, SqlError> {
        let text = self.expression(&dynamic.text, &PgType::Text)?;
        let (using, parameters) = self.using(&dynamic.using)?;
        Ok(Step::Execute(Box::new(Dynamic {
            text,
            using,
            parameters,
            then,
            variables: self.variables.clone(),
            around: self.around.clone(),
        })))
    }

    /// The query of USING's values, and the slots that they go into.
    fn using(&mut self, values: &[String]) -> Result<(Option<Run>, Vec<usize>), SqlError> {
        if values.is_empty() {
            return Ok((None, Vec::new()));
        }
        let run = self.plan(&format!("SELECT {}", values.join(", ")))?;
        let columns = match &run {
            Run::Query(query) => query.columns.clone(),
            Run::Write(write) => write.returning.clone(),
        };
        let slots = columns.iter().map(|column| self.slot(&column.pg_type));
        let slots = slots.collect();
        Ok((Some(run), slots))
    }

    /// Plans a computed statement, which sees these parameters and nothing else.
    pub(super) fn computed(&self, text: &str, parameters: &[usize]) -> Result<PlanKind, SqlError> {
        let parameters = parameters.iter().map(|&slot| ScopeColumn {
            name: String::new(),
            sql: format!("?{}", slot + 1),
            ty: self.slots[slot].of_value(),
            nullable: true,
            origin: None,
            used: None,
        });
        let frame = Frame {
            scope: Scope::default(),
            parameters: parameters.collect(),
            strict_names: false,
        };
        planner::plan_in_frame(self.catalog, text, self.context, frame)
    }
}

impl Library {
    /// Plans the text that an EXECUTE has computed. `slots` are the types of the slots that its program has
    /// now; `may_write`: the function is VOLATILE.
    ///
    /// # Errors
    /// What is wrong with the text, or with what comes after it; 0A000 for what a body cannot do.
    pub fn computed(
        &self,
        dynamic: &Dynamic,
        text: &str,
        slots: Vec<PgType>,
        may_write: bool,
    ) -> Result<Planned, SqlError> {
        let mut compiler = Compiler::new(&self.catalog, &self.context);
        compiler.slots = slots;
        compiler.variables.clone_from(&dynamic.variables);
        compiler.around = dynamic.around.clone();
        let mut runs = Vec::new();
        for statement in crate::split::statements(text) {
            let statement = statement?;
            let kind = compiler.computed(statement, &dynamic.parameters)?;
            runs.push(run_of(kind, statement, may_write)?);
        }
        let mut planned = Planned {
            runs,
            into: Vec::new(),
            convert: Vec::new(),
            after: Vec::new(),
            slots: Vec::new(),
        };
        match &dynamic.then {
            Then::Into { targets, rest, .. } => {
                if let (false, Some(run)) = (targets.is_empty(), planned.runs.last()) {
                    (planned.into, planned.convert) = compiler.row_into(run, targets)?;
                }
                planned.after = compiler.statements(rest);
            }
            Then::For { targets, body } => {
                if let Some(run) = planned.runs.last() {
                    (planned.into, planned.convert) = compiler.row_into(run, targets)?;
                }
                planned.after = compiler.statements(body);
            }
            Then::Return => {
                if let Some(run) = planned.runs.pop() {
                    planned.runs.push(compiler.returned(run, "this function")?);
                }
            }
        }
        planned.slots = compiler.slots;
        Ok(planned)
    }
}

fn run_of(kind: PlanKind, text: &str, may_write: bool) -> Result<Run, SqlError> {
    match kind {
        PlanKind::Query(query) => Ok(Run::Query(query)),
        PlanKind::Write(write) if !may_write => Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!(
                "{} is not allowed in a non-volatile function",
                match write.verb {
                    WriteVerb::Insert => "INSERT",
                    WriteVerb::Update => "UPDATE",
                    WriteVerb::Delete => "DELETE",
                    WriteVerb::Merge => "MERGE",
                    WriteVerb::Call => "CALL",
                    WriteVerb::Lock => "LOCK TABLE",
                    WriteVerb::Select => "a SELECT that changes data",
                }
            ),
        )),
        PlanKind::Write(write) => Ok(Run::Write(write)),
        PlanKind::Ddl(ddl) => Err(SqlError::unsupported(format_args!(
            "{} by EXECUTE in a function",
            ddl.tag
        ))
        .with_hint("a block of DO may define things, by EXECUTE too")),
        _ => Err(SqlError::unsupported(format_args!(
            "\"{}\" by EXECUTE in a function",
            text.trim()
        ))),
    }
}
