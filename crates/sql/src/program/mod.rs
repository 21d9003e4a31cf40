//! Programs: the bodies of routines and triggers, compiled to planned SQLite statements over slots.
//!
//! A body is read by `parse` and planned by `compile` when it is first called at a catalog version; the
//! engine runs the [`Program`] (`engine/programs.rs`). A slot holds the storage value of a variable;
//! every statement of a program sees slot `n` as its parameter `?n+1`. What a program changes is changed
//! by ordinary statements, so it is captured as any other change, and replay knows nothing of programs.

pub mod body;
mod compile;
mod conditions;
mod dynamic;
mod parse;
mod raise;
mod reader;
pub mod script;
mod statements;
mod variables;

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, NoticeLevel, SqlError};

use crate::catalog::{Catalog, Language, Returns, Routine};
use crate::plan::{Query, Write};
use crate::planner::PlanContext;
use crate::types::PgType;

pub use conditions::{catches, outside_handler};
pub use dynamic::{Dynamic, Planned, Then};
pub use raise::raised;

/// Calls inside calls, and triggers that fire triggers, deeper than this are refused (54001).
pub const MAX_DEPTH: usize = 32;

/// A compiled body.
#[derive(Debug)]
pub struct Program {
    /// For messages: `name(integer)`.
    pub name: String,
    /// Whether it may change something.
    pub volatile: bool,
    /// The types of its slots; arguments come first.
    pub slots: Vec<PgType>,
    pub arguments: usize,
    pub steps: Vec<Step>,
    /// The columns of what it returns; one for a scalar.
    pub columns: Vec<PgType>,
    pub strict: bool,
    /// Whether running off the end is an error (2F005): a function in PL/pgSQL that has a value to
    /// return.
    pub must_return: bool,
    /// For a trigger's program.
    pub trigger: Option<TriggerSlots>,
}

/// Where a trigger's program has what.
#[derive(Debug, Clone, Copy)]
pub struct TriggerSlots {
    /// The first of OLD's columns, in the relation's storage order.
    pub old: usize,
    pub new: usize,
    pub width: usize,
    /// `TG_OP`.
    pub operation: usize,
}

/// One step.
#[derive(Debug)]
pub enum Step {
    /// One row of one column goes into the slot.
    Assign {
        slot: usize,
        sql: String,
        /// The variable's name, if it must not be NULL (22004).
        not_null: Option<String>,
    },
    If {
        arms: Vec<(String, Vec<Step>)>,
        otherwise: Vec<Step>,
    },
    While {
        condition: Option<String>,
        body: Vec<Step>,
    },
    /// From, to and step are in slots of their own.
    ForRange {
        slot: usize,
        to: usize,
        by: usize,
        reverse: bool,
        found: usize,
        body: Vec<Step>,
    },
    ForQuery {
        query: Run,
        slots: Vec<usize>,
        /// Conversions of the row to the variables.
        convert: Vec<Step>,
        found: usize,
        body: Vec<Step>,
    },
    Exit {
        when: Option<String>,
    },
    Continue {
        when: Option<String>,
    },
    /// A statement; its first row goes into these slots.
    Run {
        run: Run,
        into: Vec<usize>,
        /// Exactly one row (P0002, P0003).
        strict: bool,
        convert: Vec<Step>,
        found: usize,
    },
    /// The end: with one row, if there is a text that computes it.
    Return(Option<String>),
    /// The end, of a trigger's program.
    ReturnRow(TriggerRow),
    /// One more row of the result.
    ReturnNext(String),
    /// One more row of the result, of these slots.
    ReturnSlots(Vec<usize>),
    /// More rows of the result; `last`: then the end, with the first row alone if it is a scalar's.
    ReturnQuery {
        run: Run,
        last: bool,
    },
    /// How many rows the last statement changed or returned goes into the slot.
    RowCount {
        slot: usize,
    },
    Raise {
        /// `None`: an error.
        notice: Option<NoticeLevel>,
        /// Computes what [`raised`] reads.
        sql: String,
    },
    /// A statement that could not be planned: what is wrong with it.
    Fail(SqlError),
    /// RAISE alone: the error that is being handled, again.
    Again,
    /// A block with EXCEPTION: what its body has done is undone before a handler runs.
    Guarded {
        body: Vec<Step>,
        handlers: Vec<Caught>,
        /// The first of the slots that tell a handler of the error: [`body::Item::ALL`].
        first: usize,
    },
    /// A statement whose text is computed.
    Execute(Box<Dynamic>),
}

/// `WHEN … THEN …`.
#[derive(Debug)]
pub struct Caught {
    /// Names, or SQLSTATEs.
    pub conditions: Vec<String>,
    pub steps: Vec<Step>,
}

/// What a trigger's program returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerRow {
    Null,
    Old,
    New,
    /// `coalesce(NEW, OLD)`.
    Either,
}

/// A planned statement of a program.
#[derive(Debug)]
pub enum Run {
    Query(Query),
    Write(Write),
}

impl Run {
    #[must_use]
    pub fn sql(&self) -> &str {
        match self {
            Run::Query(query) => &query.sql,
            Run::Write(write) => &write.sql,
        }
    }
}

/// The programs of one catalog version, for one plan's author: compiled as they are called.
#[derive(Debug)]
pub struct Library {
    pub catalog: Arc<Catalog>,
    context: PlanContext,
    compiled: Mutex<FxHashMap<u32, Arc<Program>>>,
    /// The same programs for owners of SECURITY DEFINER functions, by the owner.
    others: Mutex<FxHashMap<String, Arc<Library>>>,
}

impl Library {
    /// `None` if the catalog has no programs.
    #[must_use]
    pub fn of(catalog: &Arc<Catalog>, context: &PlanContext) -> Option<Arc<Library>> {
        (!catalog.routines.is_empty() || !catalog.triggers.is_empty())
            .then(|| Library::even_if_empty(catalog, context))
    }

    /// As [`Library::of`], for a catalog without programs too.
    #[must_use]
    pub fn even_if_empty(catalog: &Arc<Catalog>, context: &PlanContext) -> Arc<Library> {
        Arc::new(Library {
            catalog: Arc::clone(catalog),
            context: context.clone(),
            compiled: Mutex::default(),
            others: Mutex::default(),
        })
    }

    /// The same programs with the rights of `role`.
    ///
    /// # Errors
    /// 42704 if there is no such role any more.
    pub fn acting(&self, role: &str) -> Result<Arc<Library>, SqlError> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others.get(role) {
            return Ok(Arc::clone(known));
        }
        let identity = self.context.roles.owner(role).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedObject,
                format!("role \"{role}\", which a function belongs to, does not exist"),
            )
        })?;
        let context = PlanContext {
            identity,
            ..self.context.clone()
        };
        let library = Library::even_if_empty(&self.catalog, &context);
        others.insert(role.to_owned(), Arc::clone(&library));
        Ok(library)
    }

    /// The program of the routine or the trigger with this id.
    ///
    /// # Errors
    /// What is wrong with its body.
    pub fn program(&self, id: u32) -> Result<Arc<Program>, SqlError> {
        let known = self
            .compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned();
        if let Some(program) = known {
            return Ok(program);
        }
        let program = if let Some(routine) = self.catalog.routines.get(&id) {
            compile::routine(&self.catalog, &self.context, routine)?
        } else if let Some(trigger) = self.catalog.triggers.get(&id) {
            compile::trigger(&self.catalog, &self.context, trigger)?
        } else {
            return Err(SqlError::new(
                ErrorCode::Internal,
                format!("there is no program {id}"),
            ));
        };
        let program = Arc::new(program);
        self.compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::clone(&program));
        Ok(program)
    }
}

/// What is wrong with a routine that is being created: its syntax, and for a body in SQL its meaning.
pub(crate) fn check(
    catalog: &Arc<Catalog>,
    context: &PlanContext,
    routine: &Routine,
) -> Result<(), SqlError> {
    match (routine.language, &routine.returns) {
        (Language::Plpgsql, _) => parse::plpgsql(&routine.body).map(drop),
        (Language::Sql, Returns::Trigger) => parse::statements(&routine.body).map(drop),
        (Language::Sql, _) => compile::routine(catalog, context, routine).map(drop),
    }
}

/// What is wrong with the WHEN of a trigger that is being created.
pub(crate) fn check_condition(
    catalog: &Arc<Catalog>,
    context: &PlanContext,
    trigger: &crate::catalog::Trigger,
) -> Result<(), SqlError> {
    if trigger.condition.is_none() {
        return Ok(());
    }
    compile::condition(catalog, context, trigger)
}

/// Whether a routine may change something: it is VOLATILE, and its text has a word that changes, or
/// calls a routine that may.
#[must_use]
pub fn may_write(catalog: &Catalog, routine: &Routine) -> bool {
    writes(catalog, routine, &mut Vec::new())
}

fn writes(catalog: &Catalog, routine: &Routine, seen: &mut Vec<u32>) -> bool {
    if routine.volatility != crate::catalog::Volatility::Volatile {
        return false;
    }
    if seen.contains(&routine.id) {
        return false;
    }
    seen.push(routine.id);
    let mut at = 0;
    while let Ok((token, start, end)) = crate::scan::next(&routine.body, at) {
        if token == crate::scan::Token::End {
            break;
        }
        at = end;
        let word = routine.body[start..end]
            .trim_matches('"')
            .to_ascii_lowercase();
        let changes = matches!(
            word.as_str(),
            "insert"
                | "update"
                | "delete"
                | "merge"
                | "truncate"
                | "nextval"
                | "setval"
                | "pg_notify"
                | "notify"
                | "set_config"
        ) || word == "execute" && routine.language == Language::Plpgsql;
        if changes {
            return true;
        }
        let calls = catalog
            .routines
            .values()
            .any(|other| other.name.name == word && writes(catalog, other, seen));
        if calls {
            return true;
        }
    }
    false
}
