//! Queries: from PostgreSQL's meaning of names, types and operators to SQLite text over storage
//! names.
//!
//! [`Analyzer`] holds what one statement's analysis shares; its methods are spread over this
//! module's files by what they analyze. [`crate::planner`], [`crate::dml`], [`crate::ddl`] and
//! [`crate::filter`] call it. It never looks at data.
//!
//! Every expression becomes a [`typed::Typed`]: SQLite text that computes the storage form of a
//! PostgreSQL type, or a constant whose type its context still has to decide. Nothing is left to
//! SQLite's own conversions.

mod aggregate;
pub(crate) mod arrays;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod compare;
pub(crate) mod data_type;
mod domain;
pub(crate) mod expression;
mod finder;
pub(crate) mod from;
mod grouping;
pub(crate) mod grouping_sets;
mod join;
mod limit;
mod locks;
pub(crate) mod names;
pub(crate) mod operators;
pub(crate) mod output_name;
mod overlaps;
mod own_procedure;
pub(crate) mod params;
mod patterns;
pub(crate) mod policy;
pub(crate) mod reference;
pub(crate) mod routine;
pub mod runtime;
pub(crate) mod scope;
pub(crate) mod select;
mod set_operation;
pub(crate) mod snapshot;
pub(crate) mod special;
pub(crate) mod system;
mod table_function;
pub(crate) mod typed;
pub(crate) mod window;
mod with;

use std::collections::BTreeSet;
use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast;
use sqlparser::tokenizer::Location;

use crate::access::Identity;
use crate::catalog::Catalog;
use crate::grammar::Marks;
use crate::plan::{OutputColumn, PlanKind, Query, Write, WriteVerb};
use crate::planner::PlanContext;
use crate::types::PgType;

/// With less stack than this left, analysis goes on with [`STACK_MORE`] of it. In bytes.
const STACK_LEFT: usize = 256 << 10;
const STACK_MORE: usize = 2 << 20;

use params::ParamState;
use scope::Scope;

pub use expression::{Purpose, table_expression};

/// The analysis of one statement.
pub(crate) struct Analyzer<'a> {
    pub(crate) catalog: &'a Catalog,
    /// The statement's text, for positions in errors.
    pub(crate) sql: &'a str,
    pub(crate) context: &'a PlanContext,
    params: Vec<ParamState>,
    /// Parameters from this index on are literals that were lifted out.
    lifted_from: usize,
    /// What names can refer to; the innermost query's last.
    pub(crate) scopes: Vec<Scope>,
    /// The tables that are read.
    pub(crate) reads: BTreeSet<CollectionId>,
    /// Whether it names a view or a function, whose definitions are no table's.
    pub(crate) names_others: bool,
    /// The sequences that numbers may be taken from.
    pub(crate) sequences: BTreeSet<u32>,
    /// Whether a function was called for its effect.
    pub(crate) has_effects: bool,
    /// set_config() is called: an effect on the session alone.
    pub(crate) sets: bool,
    /// Whether rows are locked (FOR UPDATE).
    pub(crate) locks: bool,
    /// Whether it is an error to wait for that.
    pub(crate) nowait: bool,
    /// What may not be used here.
    pub(crate) rules: Rules,
    /// What the grammar took out of the text.
    pub(crate) marks: Marks,
    /// What a live query wants to know of its outermost SELECT.
    pub(crate) live: Option<Box<crate::live::Probe>>,
    /// The tables that FROM clauses name, by their aliases in the SQLite text.
    pub(crate) named_tables: Vec<(String, CollectionId)>,
    /// The variables of the program that the statement is part of, or the arguments of a function
    /// that is being written out.
    pub(crate) frame: Option<scope::Frame>,
    /// How many scopes are the frame's.
    pub(crate) frame_scopes: usize,
    /// Functions being written out.
    pub(crate) inlining: Vec<u32>,
    /// Whether the engine has programs to run for it.
    pub(crate) runs_programs: bool,
    /// Whether NOT NULL is checked when the row is written, not when a parameter is bound.
    pub(crate) late_checks: bool,
    /// Keys of grouping sets, for the types of their NULLs.
    pub(crate) typed_nulls: Vec<ast::Expr>,
    next_alias: u32,
    depth: usize,
    /// Views being expanded, so that one that names itself is refused.
    pub(crate) expanding: Vec<u32>,
    /// With whose rights relations are read here: of whoever asks, or of a view's owner.
    pub(crate) acting: Arc<Identity>,
    /// What is used of which object, to be decided at the end.
    references: Vec<reference::Reference>,
    /// Tables whose policies are being expanded, so that one that needs itself is refused.
    policing: Vec<CollectionId>,
}

/// What an expression may not hold, by where it stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// PostgreSQL's name of the place, for errors; `None` where everything may be used.
    pub(crate) place: Option<&'static str>,
    pub(crate) no_subqueries: bool,
    pub(crate) no_parameters: bool,
    /// Only functions that depend on nothing but their arguments.
    pub(crate) immutable_only: bool,
    pub(crate) no_volatile: bool,
}

impl<'a> Analyzer<'a> {
    pub(crate) fn new(
        catalog: &'a Catalog,
        sql: &'a str,
        context: &'a PlanContext,
        param_types: &[Option<PgType>],
        lifted_from: usize,
    ) -> Analyzer<'a> {
        Analyzer {
            catalog,
            sql,
            context,
            params: params::declared(param_types, lifted_from),
            lifted_from,
            scopes: Vec::new(),
            reads: BTreeSet::new(),
            names_others: false,
            sequences: BTreeSet::new(),
            has_effects: false,
            sets: false,
            locks: false,
            nowait: false,
            rules: Rules::default(),
            marks: Marks::default(),
            live: None,
            named_tables: Vec::new(),
            frame: None,
            frame_scopes: 0,
            inlining: Vec::new(),
            runs_programs: false,
            late_checks: false,
            typed_nulls: Vec::new(),
            next_alias: 1,
            depth: 0,
            expanding: Vec::new(),
            acting: Arc::clone(&context.identity),
            references: Vec::new(),
            policing: Vec::new(),
        }
    }

    /// From here on the statement sees these variables.
    pub(crate) fn enter_frame(&mut self, frame: scope::Frame) {
        let mut scope = frame.scope.clone();
        scope.is_frame = true;
        self.scopes.push(scope);
        self.frame_scopes = 1;
        self.frame = Some(frame);
    }

    /// A name that nothing else in the statement has.
    pub(crate) fn fresh(&mut self, prefix: char) -> String {
        let name = format!("{prefix}{}", self.next_alias);
        self.next_alias += 1;
        name
    }

    /// The error with a place in the statement, if the place is known.
    pub(crate) fn at(&self, error: SqlError, location: Location) -> SqlError {
        // What comes from a view's or a default's text has no place in this statement.
        if location.line == 0 || !self.expanding.is_empty() || error.position.is_some() {
            return error;
        }
        let offset = offset(self.sql, location);
        let position = self
            .sql
            .get(..offset)
            .map_or(1, |before| before.chars().count() + 1);
        error.with_position(u32::try_from(position).unwrap_or(u32::MAX))
    }

    /// Runs `analyze` one level deeper.
    pub(crate) fn nested<T>(
        &mut self,
        analyze: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        if self.depth >= self.context.max_depth.saturating_mul(4) {
            return Err(SqlError::new(
                ErrorCode::TooComplex,
                "the statement is nested too deeply",
            ));
        }
        self.depth += 1;
        // What is within the limit may still be more than is left of a small thread's stack.
        let result = stacker::maybe_grow(STACK_LEFT, STACK_MORE, || analyze(self));
        self.depth -= 1;
        result
    }

    /// The tables read, ascending.
    pub(crate) fn reads(&self) -> Vec<CollectionId> {
        self.reads.iter().copied().collect()
    }
}

/// Where a line and column are in a text, in bytes.
pub(crate) fn offset(sql: &str, location: Location) -> usize {
    let line = usize::try_from(location.line.max(1) - 1).unwrap_or(usize::MAX);
    let column = usize::try_from(location.column.max(1) - 1).unwrap_or(usize::MAX);
    let start = match line {
        0 => 0,
        line => match sql
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .nth(line - 1)
        {
            Some((newline, _)) => newline + 1,
            None => return sql.len(),
        },
    };
    sql[start..]
        .char_indices()
        .nth(column)
        .map_or(sql.len(), |(at, _)| start + at)
}

/// The plan of a SELECT, VALUES or WITH statement.
pub(crate) fn plan_query(
    analyzer: &mut Analyzer<'_>,
    query: &ast::Query,
) -> Result<PlanKind, SqlError> {
    let analyzed = analyzer.query(query)?;
    let (sql, columns) = analyzed.into_top_level(analyzer)?;
    let sql = system::show_names(sql, &columns);
    Ok(select_plan(analyzer, sql, columns))
}

/// A query with this text, or, if a function is called for its effect, a statement that writes.
pub(crate) fn select_plan(
    analyzer: &Analyzer<'_>,
    sql: String,
    columns: Arc<[OutputColumn]>,
) -> PlanKind {
    if analyzer.has_effects || !analyzer.sequences.is_empty() {
        return PlanKind::Write(Write {
            verb: WriteVerb::Select,
            sql,
            returning: columns,
            table: CollectionId::NONE,
            touches_foreign_keys: analyzer.runs_programs,
            checks: Vec::new(),
            viewer: None,
            sequences: analyzer.sequences.iter().copied().collect(),
            updated: Vec::new(),
            upserts: false,
            once: false,
            instead: false,
            before: Vec::new(),
        });
    }
    PlanKind::Query(Query {
        sql,
        columns,
        reads: analyzer.reads(),
        locks: analyzer.locks,
        nowait: analyzer.nowait,
    })
}
