//! The dialect's front door: one statement's text in, one [`Plan`] out.
//!
//! Sessions call it on a miss of their plan cache. It parses, bounds what it parses, and hands each
//! kind of statement to those who know it: [`crate::ddl`], [`crate::dml`], [`crate::query`] and
//! the session's own commands. It touches no database.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{Query, SetExpr, Statement};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Tokenizer;

use crate::access::{Identity, Roles};
use crate::catalog::Catalog;
use crate::grammar::{Marks, prepare};
use crate::lift::Lifted;
use crate::plan::{LiveSelect, Parameter, Plan, PlanKind, Write, WriteVerb};
use crate::program::Library;
use crate::query::Analyzer;
use crate::query::scope::{Frame, Scope};
use crate::types::PgType;
use crate::{control, copy, ddl, dml, explain, listen, nesting, query, roles};

pub use crate::dml::document::{delete_document, get_document, patch_document, put_document};
pub use crate::query::snapshot::snapshot_query;

/// Stack that parsing needs at its limit of nesting, with room to spare. In bytes.
const PARSER_STACK: usize = 3 << 19;

/// What planning depends on beside the catalog. Plans may be shared between sessions whose contexts
/// are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlanContext {
    /// Schemas in which unqualified names are looked for, first to last.
    pub search_path: Vec<String>,
    /// Longer statements are refused (54000).
    pub max_statement_bytes: usize,
    /// Deeper nesting of expressions and queries is refused (54001).
    pub max_depth: usize,
    /// Whether `springhead.*` may be written (Springhead's own sessions only).
    pub system: bool,
    /// Who asks.
    pub identity: Arc<Identity>,
    /// The rights of others: of views' owners, of grantees.
    pub roles: Roles,
}

impl Default for PlanContext {
    fn default() -> PlanContext {
        PlanContext {
            search_path: vec!["public".to_owned()],
            max_statement_bytes: 16 << 20,
            max_depth: 100,
            system: false,
            identity: Arc::new(Identity::unrestricted("postgres")),
            roles: Roles::open(),
        }
    }
}

/// Plans one statement. `param_types` are the types that the client declared for `$1`, …; those it
/// left open (or beyond the slice) are inferred from their contexts.
///
/// # Errors
/// 42601 with a position for what does not parse, 54000 and 54001 past the context's limits, 0A000
/// for what has no equal meaning here, and what PostgreSQL says for all else.
pub fn plan(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Result<Plan, SqlError> {
    check_size(sql, context.max_statement_bytes)?;
    if let Some(live) = crate::live::explained(sql) {
        let (select, options) = crate::live::read_live(live)?;
        let live =
            crate::live::plan_live(catalog, select, param_types, context, options.recompute)?;
        return Ok(Plan {
            catalog_version: catalog.version,
            kind: PlanKind::ExplainLive(live.describe(catalog)),
            system: false,
            library: None,
            parameters: live.parameters,
        });
    }
    if crate::words::begins_with(sql, "live") {
        let live = plan_live_select(catalog, sql, param_types, context)?;
        return Ok(Plan {
            catalog_version: catalog.version,
            parameters: live.plan.parameters.clone(),
            system: false,
            kind: PlanKind::Live(live),
            library: None,
        });
    }
    if let Some(kind) = plan_text(catalog, sql, context)? {
        return Ok(Plan {
            catalog_version: catalog.version,
            parameters: Vec::new(),
            system: false,
            kind,
            library: Library::of(catalog, context),
        });
    }
    if let Some(plan) = crate::advisory::plan(catalog, sql, param_types, context)? {
        return Ok(plan);
    }
    if let Some(plan) = crate::pause::plan(catalog, sql, param_types, context)? {
        return Ok(plan);
    }
    if let Some(plan) = crate::cursor::plan(catalog, sql, param_types, context)? {
        return Ok(plan);
    }
    let (statement, marks) = parse_marked(sql, context)?;
    let mut analyzer = Analyzer::new(catalog, sql, context, param_types, usize::MAX);
    analyzer.marks = marks;
    let (kind, parameters) = dispatch(catalog, analyzer, &statement)?;
    Ok(Plan {
        catalog_version: catalog.version,
        parameters,
        system: asks_system(&kind),
        library: library(catalog, context, &kind),
        kind,
    })
}

/// The plan of a statement that is read word by word; `None` if it is one for the parser.
fn plan_text(
    catalog: &Arc<Catalog>,
    sql: &str,
    context: &PlanContext,
) -> Result<Option<PlanKind>, SqlError> {
    if let Some(kind) = control::plan_text(sql)? {
        return Ok(Some(kind));
    }
    if crate::program::script::is_do(sql) {
        return crate::program::script::plan_text(sql);
    }
    if let Some(statement) = crate::prepared::plan_text(catalog, sql)? {
        return Ok(Some(PlanKind::Prepared(statement)));
    }
    if let Some(kind) = roles::plan_text(sql)? {
        return Ok(Some(kind));
    }
    if let Some(kind) = crate::database::plan_text(sql)? {
        return Ok(Some(kind));
    }
    if let Some(kind) = crate::maintenance::plan_text(catalog, sql, context)? {
        return Ok(Some(kind));
    }
    if let Some(kind) = listen::plan_text(sql)? {
        return Ok(Some(kind));
    }
    if let Some(kind) = crate::live::plan_text(sql)? {
        return Ok(Some(kind));
    }
    match copy::plan_text(catalog, sql, context)? {
        Some(kind) => Ok(Some(kind)),
        None => ddl::plan_text(catalog, sql, context),
    }
}

/// `[LIVE] SELECT … [WITH (…)]`.
///
/// # Errors
/// As [`crate::live::plan_live`]; 22023 for an option that is none.
pub fn plan_live_select(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Result<LiveSelect, SqlError> {
    let (select, options) = crate::live::read_live(sql)?;
    let plan = crate::live::plan_live(catalog, select, param_types, context, options.recompute)?;
    Ok(LiveSelect {
        plan: Arc::new(plan),
        sql: select.into(),
        options,
    })
}

/// Whether a statement reads the system's relations or asks about the catalog. A text in it that
/// looks so costs a little time.
pub(crate) fn asks_system(kind: &PlanKind) -> bool {
    match kind {
        PlanKind::Query(query) => query.sql.contains("sh_sys"),
        PlanKind::Write(write) => {
            write.sql.contains("sh_sys")
                || (write.before.iter()).any(|part| part.run.sql().contains("sh_sys"))
        }
        _ => false,
    }
}

/// The programs that a statement may call; parts of a statement are run as a program's statements are.
pub(crate) fn library(
    catalog: &Arc<Catalog>,
    context: &PlanContext,
    kind: &PlanKind,
) -> Option<Arc<Library>> {
    match kind {
        PlanKind::Write(write) if !write.before.is_empty() => {
            Some(Library::even_if_empty(catalog, context))
        }
        _ => Library::of(catalog, context),
    }
}

/// Plans a template ([`crate::lift::lift`]). `None` if it cannot stand for the statements that it
/// was lifted from: each of them must then be planned as it is written, which also gives the error
/// if there is one. A caller remembers that verdict with the template.
#[must_use]
pub fn plan_template(
    catalog: &Arc<Catalog>,
    template: &Lifted,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Option<Plan> {
    let mut types: Vec<Option<PgType>> = param_types.to_vec();
    types.resize(template.parameters, None);
    types.extend(
        template
            .literals
            .iter()
            .map(|literal| Some(literal.class.pg_type())),
    );
    let (statement, marks) = parse_marked(&template.template, context).ok()?;
    let mut analyzer = Analyzer::new(
        catalog,
        &template.template,
        context,
        &types,
        template.parameters,
    );
    analyzer.marks = marks;
    let (kind, parameters) = dispatch(catalog, analyzer, &statement).ok()?;
    matches!(kind, PlanKind::Query(_) | PlanKind::Write(_)).then(|| Plan {
        catalog_version: catalog.version,
        parameters,
        system: asks_system(&kind),
        library: library(catalog, context, &kind),
        kind,
    })
}

/// Plans one statement of a program, which sees the frame's variables.
pub(crate) fn plan_in_frame(
    catalog: &Arc<Catalog>,
    sql: &str,
    context: &PlanContext,
    frame: Frame,
) -> Result<PlanKind, SqlError> {
    let (statement, marks) = parse_marked(sql, context)?;
    let mut analyzer = Analyzer::new(catalog, sql, context, &[], usize::MAX);
    analyzer.marks = marks;
    analyzer.enter_frame(frame);
    dispatch(catalog, analyzer, &statement).map(|(kind, _)| kind)
}

/// Parses exactly one statement.
pub(crate) fn parse(sql: &str, context: &PlanContext) -> Result<Statement, SqlError> {
    parse_marked(sql, context).map(|(statement, _)| statement)
}

pub(crate) fn parse_marked(
    sql: &str,
    context: &PlanContext,
) -> Result<(Statement, Marks), SqlError> {
    check_size(sql, context.max_statement_bytes)?;
    let prepared = prepare(sql)?;
    let sql = &*prepared.sql;
    let mut parser = parser(sql, context.max_depth)?;
    // Not all of the parser's recursion looks after its stack.
    let statement =
        stacker::maybe_grow(PARSER_STACK, 2 * PARSER_STACK, || parser.parse_statement())
            .map_err(|error| parse_error(sql, &error))?;
    expect_end(&mut parser, sql)?;
    Ok((statement, prepared.marks))
}

/// Makes sure that a text is one condition, and nothing that goes on after it.
///
/// # Errors
/// 42601 if it is not; 54000 and 54001 past what a condition may be.
pub fn check_condition(text: &str) -> Result<(), SqlError> {
    parse_expression(text, MAX_CONDITION_BYTES, MAX_CONDITION_DEPTH).map(|_| ())
}

/// Limits of [`check_condition`].
const MAX_CONDITION_BYTES: usize = 8 << 10;
const MAX_CONDITION_DEPTH: usize = 50;

/// Parses exactly one expression.
pub(crate) fn parse_expression(
    sql: &str,
    max_bytes: usize,
    max_depth: usize,
) -> Result<sqlparser::ast::Expr, SqlError> {
    check_size(sql, max_bytes)?;
    let mut parser = parser(sql, max_depth)?;
    let expression = parser
        .parse_expr()
        .map_err(|error| parse_error(sql, &error))?;
    expect_end(&mut parser, sql)?;
    Ok(expression)
}

fn check_size(sql: &str, most: usize) -> Result<(), SqlError> {
    if sql.len() > most {
        return Err(SqlError::new(
            ErrorCode::StatementTooLarge,
            format!(
                "the statement has {} bytes, more than the {most} that are allowed",
                sql.len()
            ),
        ));
    }
    if sql.contains('\0') {
        return Err(SqlError::new(
            ErrorCode::InvalidByteSequence,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    Ok(())
}

fn parser(sql: &str, max_depth: usize) -> Result<Parser<'static>, SqlError> {
    static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};
    let mut tokens = Tokenizer::new(&DIALECT, sql)
        .tokenize_with_location()
        .map_err(|error| parse_error(sql, &error.into()))?;
    nesting::check(&tokens)?;
    crate::ddl::crdt::join_words(&mut tokens);
    crate::dml::conflict::end_select(&mut tokens);
    Ok(Parser::new(&DIALECT)
        .with_recursion_limit(max_depth)
        .with_tokens_with_locations(tokens))
}

fn expect_end(parser: &mut Parser<'_>, sql: &str) -> Result<(), SqlError> {
    use sqlparser::tokenizer::Token;
    while parser.consume_token(&Token::SemiColon) {}
    let token = parser.peek_token();
    if token.token == Token::EOF {
        return Ok(());
    }
    Err(near(sql, query::offset(sql, token.span.start)))
}

/// PostgreSQL's words for a text that does not parse.
fn parse_error(sql: &str, error: &ParserError) -> SqlError {
    match error {
        ParserError::RecursionLimitExceeded => {
            SqlError::new(ErrorCode::TooComplex, "the statement is nested too deeply")
                .with_hint("simplify it, or split it into several statements")
        }
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            let (what, place) = message.split_once(" at Line: ").map_or(
                (message.as_str(), None),
                |(what, place)| {
                    let (line, column) = place.split_once(", Column: ").unwrap_or((place, "1"));
                    let location = sqlparser::tokenizer::Location {
                        line: line.trim().parse().unwrap_or(1),
                        column: column.trim().parse().unwrap_or(1),
                    };
                    (what, Some(location))
                },
            );
            let error = match place {
                Some(place) => near(sql, query::offset(sql, place)),
                None => near(sql, sql.len()),
            };
            if let Some(unread) = unread_clause(sql, &error.message) {
                return SqlError::unsupported(unread);
            }
            error.with_detail(what.trim_start_matches("sql parser error: ").to_owned())
        }
    }
}

/// A clause of PostgreSQL's that the parser does not know, where it stumbled over its first word.
fn unread_clause(sql: &str, message: &str) -> Option<&'static str> {
    if !crate::words::begins_with(sql, "with") {
        return None;
    }
    let near = message.strip_prefix("syntax error at or near \"")?;
    match near.trim_end_matches('"').to_ascii_lowercase().as_str() {
        "search" => Some("SEARCH in WITH RECURSIVE"),
        "cycle" => Some("CYCLE in WITH RECURSIVE"),
        _ => None,
    }
}

/// "syntax error at or near" the token at a byte offset.
fn near(sql: &str, offset: usize) -> SqlError {
    let position = u32::try_from(sql[..offset].chars().count() + 1).unwrap_or(u32::MAX);
    let message = match crate::scan::next(sql, offset) {
        Ok((crate::scan::Token::End, _, _)) => "syntax error at end of input".to_owned(),
        Ok((_, start, end)) => format!(
            "syntax error at or near \"{}\"",
            sql.get(start..end).unwrap_or("?")
        ),
        Err(_) => format!("syntax error at or near \"{}\"", &sql[offset..]),
    };
    SqlError::new(ErrorCode::SyntaxError, message).with_position(position)
}

pub(crate) fn dispatch(
    catalog: &Arc<Catalog>,
    mut analyzer: Analyzer<'_>,
    statement: &Statement,
) -> Result<(PlanKind, Vec<Parameter>), SqlError> {
    let context = analyzer.context;
    let mut kind = match statement {
        Statement::Query(query) if dml::with::changes(query) => {
            dml::with::plan(&mut analyzer, query)?
        }
        Statement::Merge(merge) => dml::merge::plan(&mut analyzer, merge)?,
        Statement::Lock(lock) => dml::lock::plan(&analyzer, lock)?,
        Statement::Query(query) => match &*query.body {
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement) => with_write(&mut analyzer, query, statement)?,
            _ => query::plan_query(&mut analyzer, query)?,
        },
        Statement::Insert(insert) => dml::insert::plan(&mut analyzer, insert)?,
        Statement::Update(update) => dml::update::plan(&mut analyzer, update)?,
        Statement::Delete(delete) => dml::delete::plan(&mut analyzer, delete)?,
        Statement::Call(function) => {
            let own = analyzer.in_scope(Scope::default(), |analyzer| {
                analyzer.own_procedure(function)
            })?;
            if let Some(call) = own {
                let parameters = analyzer.finish_parameters()?;
                return Ok((PlanKind::OwnCall(call), parameters));
            }
            let sql = analyzer.in_scope(Scope::default(), |analyzer| {
                analyzer.procedure_call(function)
            })?;
            PlanKind::Write(Write {
                verb: WriteVerb::Call,
                sql,
                returning: Arc::from([]),
                table: CollectionId::NONE,
                touches_foreign_keys: true,
                sequences: analyzer.sequences.iter().copied().collect(),
                updated: Vec::new(),
                upserts: false,
                once: false,
                instead: false,
                before: Vec::new(),
                checks: Vec::new(),
                viewer: None,
            })
        }
        Statement::Truncate(truncate) => dml::truncate::plan(&mut analyzer, truncate)?,
        Statement::Explain {
            analyze,
            verbose,
            statement,
            options,
            ..
        } => {
            let options = explain::options(*analyze, *verbose, options.as_deref())?;
            return explain::plan(catalog, analyzer, options, statement);
        }
        other => match control::plan(other)? {
            Some(kind) => kind,
            None => ddl::plan(catalog, other, analyzer.sql, analyzer.context)?,
        },
    };
    analyzer.check_references()?;
    let parameters = analyzer.finish_parameters()?;
    if let PlanKind::Write(write) = &mut kind {
        write.viewer = context.identity.viewer();
    }
    Ok((kind, parameters))
}

/// `WITH … INSERT`, UPDATE or DELETE.
fn with_write(
    analyzer: &mut Analyzer<'_>,
    query: &Query,
    statement: &Statement,
) -> Result<PlanKind, SqlError> {
    analyzer.in_scope(Scope::default(), |analyzer| {
        let with = match &query.with {
            Some(with) => analyzer.with(with)?,
            None => String::new(),
        };
        let kind = match statement {
            Statement::Insert(insert) => dml::insert::plan(analyzer, insert)?,
            Statement::Update(update) => dml::update::plan(analyzer, update)?,
            Statement::Delete(delete) => dml::delete::plan(analyzer, delete)?,
            _ => return Err(SqlError::unsupported("this statement after WITH")),
        };
        let PlanKind::Write(mut write) = kind else {
            return Ok(kind);
        };
        write.sql.insert_str(0, &with);
        Ok(PlanKind::Write(write))
    })
}
