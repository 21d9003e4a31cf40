//! CREATE, ALTER and DROP of functions and procedures.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::DataType;
use sqlparser::tokenizer::Token;

use super::change::Change;
use super::depend::{Dependent, Dependents};
use super::names::{check_schema, fold};
use super::text::Reader;
use super::{expression, permit, types};
use crate::access::{Identity, Object, must_own};
use crate::catalog::{
    Argument, Catalog, Definition, Language, QualifiedName, Relation, Returns, Routine, Volatility,
};
use crate::plan::{PlanKind, display_name};
use crate::planner::PlanContext;
use crate::program;
use crate::types::PgType;

/// What CREATE FUNCTION has said beside what is part of the routine as it is.
#[derive(Default)]
struct Said {
    returns: Option<Returns>,
    language: Option<String>,
    body: Option<String>,
}

impl Reader<'_> {
    /// After CREATE [OR REPLACE] FUNCTION or PROCEDURE.
    pub(super) fn create_routine(
        &mut self,
        replace: bool,
        procedure: bool,
    ) -> Result<PlanKind, SqlError> {
        let name = self.name()?;
        check_schema(&name)?;
        let arguments = self.arguments()?;
        let mut routine = Routine {
            id: 0,
            name,
            procedure,
            arguments,
            returns: Returns::Void,
            language: Language::Sql,
            volatility: Volatility::Volatile,
            strict: false,
            definer: false,
            body: String::new(),
            access: Routine::default_access(),
        };
        permit::create(self.catalog, self.context)?;
        let said = self.routine_options(&mut routine)?;
        self.end()?;
        routine.language = match said.language.as_deref() {
            Some("sql") => Language::Sql,
            Some("plpgsql") => Language::Plpgsql,
            None if said.body.is_some() => Language::Sql,
            None => {
                return Err(SqlError::new(
                    ErrorCode::InvalidFunctionDefinition,
                    "no language specified",
                ));
            }
            Some(other) => {
                return Err(SqlError::unsupported(format_args!(
                    "the language \"{other}\""
                )));
            }
        };
        routine.body = said.body.ok_or_else(|| {
            SqlError::new(
                ErrorCode::InvalidFunctionDefinition,
                "no function body specified",
            )
        })?;
        match (procedure, said.returns) {
            (true, Some(_)) => return Err(self.unexpected()),
            (false, None) => {
                return Err(SqlError::new(
                    ErrorCode::InvalidFunctionDefinition,
                    "function result type must be specified",
                ));
            }
            (_, Some(returns)) => routine.returns = returns,
            (true, None) => {}
        }
        self.put_routine(routine, replace)
    }

    /// What follows the arguments, in any order. What is a field of the routine is put there.
    fn routine_options(&mut self, routine: &mut Routine) -> Result<Said, SqlError> {
        let mut said = Said::default();
        loop {
            if self.common_option(routine) {
            } else if self.word("RETURNS") {
                said.returns = Some(self.returns()?);
            } else if self.word("LANGUAGE") {
                said.language = Some(self.language()?);
            } else if self.word("WINDOW") || self.word("SUPPORT") || self.word("TRANSFORM") {
                return Err(SqlError::unsupported("this option of CREATE FUNCTION"));
            } else if self.words(&["SET", "SEARCH_PATH"]) {
                // There is one schema to search.
                self.setting()?;
            } else if self.word("SET") {
                return Err(SqlError::unsupported("CREATE FUNCTION … SET"));
            } else if self.word("AS") {
                said.body = Some(self.string()?);
            } else if self.word("RETURN") {
                let from = self.offset();
                self.parser.parse_expr().map_err(|_| self.unexpected())?;
                said.body = Some(format!("SELECT {}", self.slice(from)));
            } else if self.words(&["BEGIN", "ATOMIC"]) {
                said.body = Some(self.atomic()?);
            } else {
                return Ok(said);
            }
        }
    }

    /// One of the options that CREATE and ALTER have in common; whether there was one.
    fn common_option(&mut self, routine: &mut Routine) -> bool {
        if self.words(&["RETURNS", "NULL", "ON", "NULL", "INPUT"]) || self.word("STRICT") {
            routine.strict = true;
        } else if self.words(&["CALLED", "ON", "NULL", "INPUT"]) {
            routine.strict = false;
        } else if self.word("IMMUTABLE") {
            routine.volatility = Volatility::Immutable;
        } else if self.word("STABLE") {
            routine.volatility = Volatility::Stable;
        } else if self.word("VOLATILE") {
            routine.volatility = Volatility::Volatile;
        } else if self.words(&["SECURITY", "DEFINER"])
            || self.words(&["EXTERNAL", "SECURITY", "DEFINER"])
        {
            routine.definer = true;
        } else if self.words(&["SECURITY", "INVOKER"])
            || self.words(&["EXTERNAL", "SECURITY", "INVOKER"])
        {
            routine.definer = false;
        } else if self.word("PARALLEL") || self.word("COST") || self.word("ROWS") {
            self.parser.next_token();
        } else {
            return self.word("LEAKPROOF") || self.words(&["NOT", "LEAKPROOF"]);
        }
        true
    }

    fn put_routine(&mut self, mut routine: Routine, replace: bool) -> Result<PlanKind, SqlError> {
        let types: Vec<PgType> = routine
            .arguments
            .iter()
            .map(|argument| argument.pg_type.clone())
            .collect();
        let tag = if routine.procedure {
            "CREATE PROCEDURE"
        } else {
            "CREATE FUNCTION"
        };
        let mut change = self.change(tag);
        let old = self
            .catalog
            .routines_named(&routine.name.schema, &routine.name.name)
            .into_iter()
            .find(|old| old.takes(&types))
            .cloned();
        routine.id = match old {
            Some(_) if !replace => {
                return Err(SqlError::new(
                    ErrorCode::DuplicateFunction,
                    format!(
                        "function \"{}\" already exists with same argument types",
                        routine.name.name
                    ),
                ));
            }
            Some(old) if old.procedure != routine.procedure => {
                return Err(SqlError::new(
                    ErrorCode::WrongObjectType,
                    "cannot change routine kind",
                )
                .with_detail(format!("\"{}\" is a {}.", old.name.name, old.kind())));
            }
            Some(old) if old.returns != routine.returns => {
                return Err(SqlError::new(
                    ErrorCode::InvalidFunctionDefinition,
                    "cannot change return type of existing function",
                )
                .with_hint(format!("Use DROP FUNCTION {} first.", old.signature())));
            }
            Some(old) => {
                must_own(&self.context.identity, Object::Routine(&old))?;
                routine.access = old.access;
                old.id
            }
            None => change.next_id()?,
        };
        // Its own name is known in its body: it may call itself.
        let mut with = Catalog::clone(self.catalog);
        with.routines.insert(routine.id, Arc::new(routine.clone()));
        // Whether its author may do what the body does is asked when it is run, of whoever runs it.
        let context = PlanContext {
            identity: Arc::new(Identity::unrestricted(&self.context.identity.role)),
            ..self.context.clone()
        };
        program::check(&Arc::new(with), &context, &routine)?;
        change.put(Definition::Routine(routine));
        Ok(change.finish())
    }

    /// `([mode] [name] type [DEFAULT expression], …)`.
    fn arguments(&mut self) -> Result<Vec<Argument>, SqlError> {
        if !self.parser.consume_token(&Token::LParen) {
            return Err(self.unexpected());
        }
        let mut arguments = Vec::new();
        while !self.parser.consume_token(&Token::RParen) {
            if !arguments.is_empty() && !self.parser.consume_token(&Token::Comma) {
                return Err(self.unexpected());
            }
            let argument = self.argument()?;
            let defaults_end = argument.default.is_none()
                && arguments
                    .last()
                    .is_some_and(|last: &Argument| last.default.is_some());
            if defaults_end {
                return Err(SqlError::new(
                    ErrorCode::InvalidFunctionDefinition,
                    "input parameters after one with a default value must also have defaults",
                ));
            }
            arguments.push(argument);
        }
        Ok(arguments)
    }

    fn argument(&mut self) -> Result<Argument, SqlError> {
        for mode in ["OUT", "INOUT", "VARIADIC"] {
            if self.is_mode(mode) {
                return Err(SqlError::unsupported(format_args!("{mode} parameters")));
            }
        }
        if self.is_mode("IN") {
            self.parser.next_token();
        }
        let name = self.argument_name()?;
        let pg_type = self.pg_type()?;
        let default = if self.word("DEFAULT") || self.parser.consume_token(&Token::Eq) {
            let expr = self.parser.parse_expr().map_err(|_| self.unexpected())?;
            Some(expr.to_string())
        } else {
            None
        };
        Ok(Argument {
            name,
            pg_type,
            default,
        })
    }

    fn is_mode(&self, mode: &str) -> bool {
        let is_word = |nth: usize| matches!(self.parser.peek_nth_token(nth).token, Token::Word(_));
        matches!(&self.parser.peek_token().token, Token::Word(word)
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(mode))
            && is_word(1)
    }

    /// The name before a type, if there is one: two words, and the first does not begin a type.
    fn argument_name(&mut self) -> Result<Option<String>, SqlError> {
        let Token::Word(first) = self.parser.peek_token().token else {
            return Ok(None);
        };
        let Token::Word(second) = self.parser.peek_nth_token(1).token else {
            return Ok(None);
        };
        let goes_on = [
            ("double", "precision"),
            ("character", "varying"),
            ("char", "varying"),
            ("national", "character"),
            ("timestamp", "with"),
            ("timestamp", "without"),
            ("time", "with"),
            ("time", "without"),
            ("bit", "varying"),
        ];
        let is_type = first.quote_style.is_none()
            && goes_on.iter().any(|(a, b)| {
                first.value.eq_ignore_ascii_case(a) && second.value.eq_ignore_ascii_case(b)
            });
        let is_default =
            second.quote_style.is_none() && second.value.eq_ignore_ascii_case("default");
        if is_type || is_default {
            return Ok(None);
        }
        self.ident().map(Some)
    }

    fn pg_type(&mut self) -> Result<PgType, SqlError> {
        let data_type: DataType = self
            .parser
            .parse_data_type()
            .map_err(|_| self.unexpected())?;
        types::column_type(self.catalog, "", &data_type).map(|(ty, _)| ty)
    }

    fn returns(&mut self) -> Result<Returns, SqlError> {
        if self.word("VOID") {
            return Ok(Returns::Void);
        }
        if self.word("TRIGGER") {
            return Ok(Returns::Trigger);
        }
        if self.word("TABLE") {
            let columns = self
                .arguments()?
                .into_iter()
                .map(|column| match column.name {
                    Some(name) => Ok((name, column.pg_type)),
                    None => Err(self.unexpected()),
                })
                .collect::<Result<Vec<_>, _>>()?;
            return Ok(Returns::Table(columns));
        }
        let set = self.word("SETOF");
        if let Some(columns) = self.row_of_table() {
            if !set {
                return Err(SqlError::unsupported(
                    "a function that returns one whole row",
                ));
            }
            return Ok(Returns::Table(columns));
        }
        if self.word("RECORD") {
            return Err(SqlError::unsupported("a function that returns record"));
        }
        let ty = self.pg_type()?;
        Ok(if set {
            Returns::Set(ty)
        } else {
            Returns::Scalar(ty)
        })
    }

    /// The columns of the table or view that comes next, if it is one.
    fn row_of_table(&mut self) -> Option<Vec<(String, PgType)>> {
        let word = |nth: usize| match self.parser.peek_nth_token(nth).token {
            Token::Word(word) => Some(fold(&sqlparser::ast::Ident {
                value: word.value,
                quote_style: word.quote_style,
                span: sqlparser::tokenizer::Span::empty(),
            })),
            _ => None,
        };
        let (name, tokens) = if self.parser.peek_nth_token(1).token == Token::Period {
            (QualifiedName::new(word(0)?, word(2)?), 3)
        } else {
            (QualifiedName::public(word(0)?), 1)
        };
        let columns = match self.catalog.relation(&name)? {
            Relation::Table(id) => self
                .catalog
                .table(id)?
                .visible_columns()
                .map(|(_, column)| (column.name.clone(), column.pg_type.clone()))
                .collect(),
            Relation::View(id) => self.catalog.view(id)?.columns.clone(),
            _ => return None,
        };
        for _ in 0..tokens {
            self.parser.next_token();
        }
        Some(columns)
    }

    fn language(&mut self) -> Result<String, SqlError> {
        match self.parser.next_token().token {
            Token::Word(word) => Ok(word.value.to_ascii_lowercase()),
            Token::SingleQuotedString(text) => Ok(text.to_ascii_lowercase()),
            other => Err(self.syntax_error(&other.to_string())),
        }
    }

    fn setting(&mut self) -> Result<(), SqlError> {
        if !self.word("TO") && !self.parser.consume_token(&Token::Eq) {
            return Err(self.unexpected());
        }
        loop {
            self.parser.next_token();
            if !self.parser.consume_token(&Token::Comma) {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Result<String, SqlError> {
        match self.parser.next_token().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => Ok(text),
            Token::DollarQuotedString(text) => Ok(text.value),
            other => Err(self.syntax_error(&other.to_string())),
        }
    }

    /// Where the next token begins.
    pub(super) fn offset(&self) -> usize {
        crate::query::offset(self.source, self.parser.peek_token().span.start)
    }

    /// The source from there to the next token.
    fn slice(&self, from: usize) -> String {
        let to = match self.parser.peek_token().token {
            Token::EOF => self.source.len(),
            _ => self.offset(),
        };
        self.source[from..to]
            .trim_end()
            .trim_end_matches(';')
            .trim_end()
            .to_owned()
    }

    /// After BEGIN ATOMIC: up to its END.
    fn atomic(&mut self) -> Result<String, SqlError> {
        let from = self.offset();
        let mut depth = 0_usize;
        loop {
            let at = self.offset();
            match self.parser.next_token().token {
                Token::EOF => return Err(self.unexpected()),
                Token::Word(word) if word.quote_style.is_none() => {
                    let is = |other: &str| word.value.eq_ignore_ascii_case(other);
                    if is("case") {
                        depth += 1;
                    } else if is("end") {
                        if depth == 0 {
                            return Ok(self.source[from..at].trim().to_owned());
                        }
                        depth -= 1;
                    }
                }
                _ => {}
            }
        }
    }

    /// After DROP FUNCTION, PROCEDURE or ROUTINE; `procedure` where the word says which.
    pub(super) fn drop_routines(
        &mut self,
        tag: &'static str,
        procedure: Option<bool>,
    ) -> Result<PlanKind, SqlError> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        let mut change = self.change(tag);
        let mut going: Vec<Arc<Routine>> = Vec::new();
        loop {
            match self.routine_named(procedure)? {
                Ok(routine) => {
                    must_own(&self.context.identity, Object::Routine(&routine))?;
                    going.push(routine);
                }
                Err(error) if if_exists && error.code == ErrorCode::UndefinedFunction => {
                    change.notices.push(format!("{}, skipping", error.message));
                }
                Err(error) => return Err(error),
            }
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        let cascade = self.word("CASCADE");
        self.word("RESTRICT");
        self.end()?;
        let mut dependents = Dependents::default();
        for routine in &going {
            let on = format!("function {}", routine.signature());
            add_dependents(&change, &mut dependents, routine, &on);
        }
        let subject = match going.as_slice() {
            [one] => Some(format!("{} {}", one.kind(), one.signature())),
            _ => None,
        };
        dependents.resolve(&mut change, subject.as_deref(), cascade)?;
        for routine in going {
            change.drop(Definition::Routine(Routine::clone(&routine)));
        }
        Ok(change.finish())
    }

    /// `name` or `name(types)`; the inner error is that there is none.
    #[allow(clippy::type_complexity)]
    pub(super) fn routine_named(
        &mut self,
        procedure: Option<bool>,
    ) -> Result<Result<Arc<Routine>, SqlError>, SqlError> {
        let name = self.name()?;
        let types = if self.parser.peek_token().token == Token::LParen {
            let arguments = self.arguments()?;
            Some(
                arguments
                    .into_iter()
                    .map(|argument| argument.pg_type)
                    .collect::<Vec<_>>(),
            )
        } else {
            None
        };
        let mut found = self.catalog.routines_named(&name.schema, &name.name);
        found.retain(|routine| {
            procedure.is_none_or(|procedure| routine.procedure == procedure)
                && types.as_ref().is_none_or(|types| routine.takes(types))
        });
        let word = match procedure {
            Some(true) => "procedure",
            _ => "function",
        };
        Ok(match found.as_slice() {
            [routine] => Ok(self.catalog.routines[&routine.id].clone()),
            [] => {
                let shown = types.map(|types| {
                    let types: Vec<_> = types.iter().map(PgType::base_name).collect();
                    format!("({})", types.join(","))
                });
                let message = match shown {
                    Some(types) => format!("{word} {}{types} does not exist", display_name(&name)),
                    None => format!("could not find a {word} named \"{}\"", display_name(&name)),
                };
                Err(SqlError::new(ErrorCode::UndefinedFunction, message))
            }
            _ => Err(SqlError::new(
                ErrorCode::AmbiguousFunction,
                format!("{word} name \"{}\" is not unique", display_name(&name)),
            )
            .with_hint(format!(
                "Specify the argument list to select the {word} unambiguously."
            ))),
        })
    }

    /// After ALTER FUNCTION or PROCEDURE.
    pub(super) fn alter_routine(&mut self, tag: &'static str) -> Result<PlanKind, SqlError> {
        let procedure = tag == "ALTER PROCEDURE";
        let mut routine = Routine::clone(&*self.routine_named(Some(procedure))??);
        must_own(&self.context.identity, Object::Routine(&routine))?;
        if self.words(&["OWNER", "TO"]) {
            let owner = self.ident()?;
            self.end()?;
            let owner = permit::new_owner(&owner, self.context)?;
            permit::change_owner(&mut routine.access, owner);
            let mut change = self.change(tag);
            change.put(Definition::Routine(routine));
            return Ok(change.finish());
        }
        if self.words(&["SET", "SCHEMA"]) {
            return self.set_schema(tag);
        }
        let mut change = self.change(tag);
        if self.words(&["RENAME", "TO"]) {
            routine.name.name = self.ident()?;
            let types: Vec<PgType> = routine
                .arguments
                .iter()
                .map(|argument| argument.pg_type.clone())
                .collect();
            let taken = self
                .catalog
                .routines_named(&routine.name.schema, &routine.name.name);
            if taken.iter().any(|other| other.takes(&types)) {
                return Err(SqlError::new(
                    ErrorCode::DuplicateFunction,
                    format!(
                        "function {} already exists in schema \"public\"",
                        routine.signature()
                    ),
                ));
            }
        } else if self.common_option(&mut routine) {
            while self.common_option(&mut routine) {}
            self.word("RESTRICT");
        } else {
            return Err(SqlError::unsupported(format_args!("{tag} of this form")));
        }
        self.end()?;
        change.put(Definition::Routine(routine));
        Ok(change.finish())
    }
}

/// What would not work without a routine.
pub(super) fn add_dependents(
    change: &Change<'_>,
    dependents: &mut Dependents,
    routine: &Routine,
    on: &str,
) {
    let mut triggers: Vec<u32> = change
        .catalog
        .triggers
        .values()
        .filter(|trigger| trigger.function == routine.id)
        .map(|trigger| trigger.id)
        .collect();
    triggers.sort_unstable();
    for trigger in triggers {
        dependents.add(Dependent::Trigger(trigger), on);
    }
    let name = &routine.name.name;
    for table in change.catalog.tables_by_id() {
        let id = table.collection();
        for column in &table.columns {
            let names = |text: &Option<String>| {
                text.as_ref()
                    .is_some_and(|text| expression::mentions(text, name))
            };
            if names(&column.default) {
                let dependent = Dependent::Default {
                    table: id,
                    column: column.id,
                };
                dependents.add(dependent, on);
            }
            if names(&column.generated) {
                let dependent = Dependent::GeneratedColumn {
                    table: id,
                    column: column.id,
                };
                dependents.add(dependent, on);
            }
        }
        for check in &table.checks {
            if expression::mentions(&check.expression, name) {
                let dependent = Dependent::Check {
                    table: id,
                    name: check.name.clone(),
                };
                dependents.add(dependent, on);
            }
        }
    }
    let mut views: Vec<u32> = change
        .catalog
        .views
        .values()
        .filter(|view| expression::mentions(&view.query, name))
        .map(|view| view.id)
        .collect();
    views.sort_unstable();
    for view in views {
        dependents.add(Dependent::View(view), on);
        let on = change
            .catalog
            .view(view)
            .map_or_else(String::new, |view| format!("view {}", view.name.name));
        dependents.add_views(change, view, &on, &|_| true);
    }
}
