//! DDL that sqlparser does not read as PostgreSQL does: sequences with their options in any order,
//! and what dumps hold besides tables. Tried before sqlparser, on statements that begin with one of
//! a few words; what is not recognised here is left to it.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::change::Change;
use super::names::{fold, qualified, qualified_column};
use super::sequence::{self, Options};
use super::{identity, permit, rename, table, types};
use crate::catalog::{Catalog, QualifiedName};
use crate::plan::PlanKind;
use crate::planner::PlanContext;

/// Plans one statement, or leaves it to sqlparser (`None`).
///
/// # Errors
/// What is wrong with a statement of a form that is read here.
pub(super) fn plan(
    catalog: &Arc<Catalog>,
    source: &str,
    context: &PlanContext,
) -> Result<Option<PlanKind>, SqlError> {
    let first = source.trim_start().get(..6).map(str::to_ascii_lowercase);
    if !first.is_some_and(|first| {
        first.starts_with("create")
            || first.starts_with("alter")
            || first.starts_with("commen")
            || first.starts_with("drop")
            || first.starts_with("grant")
            || first.starts_with("revoke")
    }) {
        return Ok(None);
    }
    // A text that does not even split into tokens gets its error from sqlparser too.
    let Ok(parser) = Parser::new(&PostgreSqlDialect {}).try_with_sql(source) else {
        return Ok(None);
    };
    Reader {
        parser,
        catalog,
        source,
        context,
    }
    .statement()
}

/// The tokens of one statement. [`super::routine`] reads some kinds of statement with it.
pub(super) struct Reader<'a> {
    pub(super) parser: Parser<'a>,
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) source: &'a str,
    pub(super) context: &'a PlanContext,
}

impl<'a> Reader<'a> {
    pub(super) fn change(&self, tag: &'static str) -> Change<'a> {
        Change::new(self.catalog, tag, self.source).by(&self.context.identity)
    }

    fn statement(&mut self) -> Result<Option<PlanKind>, SqlError> {
        if self.word("COMMENT") {
            return self.comment().map(Some);
        }
        if self.word("CREATE") {
            return self.create();
        }
        if self.word("ALTER") {
            return self.alter();
        }
        if self.word("DROP") {
            return self.drop();
        }
        if self.word("GRANT") {
            return self.grant_routines(false);
        }
        if self.word("REVOKE") {
            return self.grant_routines(true);
        }
        Ok(None)
    }

    fn drop(&mut self) -> Result<Option<PlanKind>, SqlError> {
        if self.word("FUNCTION") {
            return self.drop_routines("DROP FUNCTION", Some(false)).map(Some);
        }
        if self.word("PROCEDURE") {
            return self.drop_routines("DROP PROCEDURE", Some(true)).map(Some);
        }
        if self.word("ROUTINE") {
            return self.drop_routines("DROP ROUTINE", None).map(Some);
        }
        if self.word("TRIGGER") {
            return self.drop_trigger().map(Some);
        }
        if self.word("TYPE") {
            return self.drop_types("DROP TYPE").map(Some);
        }
        if self.word("DOMAIN") {
            return self.drop_types("DROP DOMAIN").map(Some);
        }
        Ok(None)
    }

    fn create(&mut self) -> Result<Option<PlanKind>, SqlError> {
        let replace = self.words(&["OR", "REPLACE"]);
        if self.word("FUNCTION") {
            return self.create_routine(replace, false).map(Some);
        }
        if self.word("PROCEDURE") {
            return self.create_routine(replace, true).map(Some);
        }
        if self.words(&["CONSTRAINT", "TRIGGER"]) {
            return Err(SqlError::unsupported("constraint triggers"));
        }
        if self.word("TRIGGER") {
            return self.create_trigger(replace).map(Some);
        }
        if replace {
            return Ok(None);
        }
        if self.word("TYPE") {
            return self.create_type().map(Some);
        }
        if self.word("DOMAIN") {
            return self.create_domain().map(Some);
        }
        let temporary = self.word("TEMPORARY") || self.word("TEMP");
        if self.word("SEQUENCE") {
            if temporary {
                return Err(SqlError::unsupported("CREATE TEMPORARY SEQUENCE"));
            }
            let if_not_exists = self.words(&["IF", "NOT", "EXISTS"]);
            let name = self.name()?;
            let options = self.sequence_options()?;
            self.end()?;
            permit::create(self.catalog, self.context)?;
            let change = self.change("CREATE SEQUENCE");
            return sequence::create(change, name, if_not_exists, &options).map(Some);
        }
        if !temporary && self.word("TABLE") {
            return self.create_table_like();
        }
        let refused = [
            "RULE",
            "AGGREGATE",
            "CAST",
            "CONVERSION",
            "LANGUAGE",
            "OPERATOR",
            "STATISTICS",
            "SUBSCRIPTION",
            "PUBLICATION",
            "TRANSFORM",
            "TABLESPACE",
            "EVENT",
            "ACCESS",
            "FOREIGN",
            "GROUP",
            "TEXT",
        ];
        for word in refused {
            if self.word(word) {
                return Err(SqlError::unsupported(format_args!("CREATE {word}")));
            }
        }
        Ok(None)
    }

    /// `CREATE TABLE a (LIKE b INCLUDING ALL)`.
    fn create_table_like(&mut self) -> Result<Option<PlanKind>, SqlError> {
        let if_not_exists = self.words(&["IF", "NOT", "EXISTS"]);
        let Ok(name) = self.name() else {
            return Ok(None);
        };
        if !self.parser.consume_token(&Token::LParen) || !self.word("LIKE") {
            return Ok(None);
        }
        let from = self.name()?;
        let mut including = table::Like::default();
        loop {
            let include = if self.word("INCLUDING") {
                true
            } else if self.word("EXCLUDING") {
                false
            } else {
                break;
            };
            let what = self.parser.next_token().token.to_string().to_uppercase();
            including
                .set(&what, include)
                .map_err(|()| self.syntax_error(&what))?;
        }
        if !self.parser.consume_token(&Token::RParen) {
            return Err(SqlError::unsupported("LIKE together with other columns"));
        }
        self.end()?;
        permit::create(self.catalog, self.context)?;
        permit::read(self.catalog, &from, self.context)?;
        let change = self.change("CREATE TABLE");
        table::create_like(change, name, if_not_exists, &from, including).map(Some)
    }

    fn alter(&mut self) -> Result<Option<PlanKind>, SqlError> {
        if self.word("SEQUENCE") {
            return self.alter_sequence().map(Some);
        }
        if self.word("TABLE") {
            return self.alter_table();
        }
        if self.word("INDEX") {
            return self.alter_named("ALTER INDEX", true);
        }
        if self.word("VIEW") {
            return self.alter_named("ALTER VIEW", true);
        }
        if self.words(&["DEFAULT", "PRIVILEGES"]) {
            return Err(SqlError::unsupported("ALTER DEFAULT PRIVILEGES"));
        }
        for (word, tag) in [
            ("SCHEMA", "ALTER SCHEMA"),
            ("DATABASE", "ALTER DATABASE"),
            ("EXTENSION", "ALTER EXTENSION"),
        ] {
            if self.word(word) {
                return if self.rest_is_owner() {
                    Ok(Some(PlanKind::NoEffect(tag)))
                } else {
                    Err(SqlError::unsupported(tag))
                };
            }
        }
        if self.word("TYPE") {
            return self.alter_type().map(Some);
        }
        if self.word("DOMAIN") {
            return self.alter_domain().map(Some);
        }
        if self.word("FUNCTION") {
            return self.alter_routine("ALTER FUNCTION").map(Some);
        }
        if self.word("PROCEDURE") {
            return self.alter_routine("ALTER PROCEDURE").map(Some);
        }
        if self.word("TRIGGER") {
            return self.alter_trigger().map(Some);
        }
        if self.word("AGGREGATE") {
            return Err(SqlError::unsupported("ALTER AGGREGATE"));
        }
        Ok(None)
    }

    /// How PostgreSQL keeps a column's values and looks at them.
    fn column_storage(&mut self) -> bool {
        let words = ["STATISTICS", "STORAGE", "COMPRESSION"];
        words.into_iter().any(|word| self.words(&["SET", word]))
    }

    fn alter_sequence(&mut self) -> Result<PlanKind, SqlError> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        let name = self.name()?;
        permit::own(self.catalog, &name, self.context)?;
        if self.words(&["OWNER", "TO"]) {
            return self.owner("ALTER SEQUENCE", &name, if_exists);
        }
        if self.words(&["SET", "SCHEMA"]) {
            return self.set_schema("ALTER SEQUENCE");
        }
        let change = self.change("ALTER SEQUENCE");
        if self.words(&["RENAME", "TO"]) {
            let to = self.ident()?;
            self.end()?;
            return sequence::rename(change, &name, if_exists, to);
        }
        let options = self.sequence_options()?;
        self.end()?;
        sequence::alter(change, &name, if_exists, &options)
    }

    /// ALTER TABLE's actions that sqlparser does not read.
    fn alter_table(&mut self) -> Result<Option<PlanKind>, SqlError> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        self.word("ONLY");
        let Ok(name) = self.name() else {
            return Ok(None);
        };
        let _ = self.parser.consume_token(&Token::Mul);
        permit::own(self.catalog, &name, self.context)?;
        if self.words(&["OWNER", "TO"]) {
            return self.owner("ALTER TABLE", &name, if_exists).map(Some);
        }
        if self.words(&["SET", "SCHEMA"]) {
            return self.set_schema("ALTER TABLE").map(Some);
        }
        if self.words(&["SET", "TABLESPACE"])
            || self.words(&["CLUSTER", "ON"])
            || self.words(&["SET", "WITHOUT", "CLUSTER"])
        {
            return Ok(Some(PlanKind::NoEffect("ALTER TABLE")));
        }
        for (words, disabled) in [
            (&["ENABLE", "TRIGGER"][..], false),
            (&["ENABLE", "ALWAYS", "TRIGGER"], false),
            (&["DISABLE", "TRIGGER"], true),
        ] {
            if self.words(words) {
                return self.switch_trigger(&name, disabled).map(Some);
            }
        }
        if self.word("INHERIT") || self.words(&["NO", "INHERIT"]) {
            return Err(SqlError::unsupported("ALTER TABLE … INHERIT"));
        }
        if !self.word("ALTER") {
            return Ok(None);
        }
        if self.word("CONSTRAINT") {
            return self.alter_constraint(&name).map(Some);
        }
        self.word("COLUMN");
        let Ok(column) = self.ident() else {
            return Ok(None);
        };
        if self.column_storage() {
            self.parser.next_token();
            // More actions after it would be lost.
            return self.end().map(|()| Some(PlanKind::NoEffect("ALTER TABLE")));
        }
        if self.words(&["DROP", "EXPRESSION"]) {
            return Err(SqlError::unsupported("ALTER COLUMN … DROP EXPRESSION"));
        }
        if let Some(always) = self.generated_again() {
            let change = self.change("ALTER TABLE");
            self.end()?;
            return identity::set_always(change, &name, &column, always).map(Some);
        }
        if let Some(options) = self.identity_options()? {
            self.end()?;
            let sequence = identity::sequence_of(self.catalog, &name, &column)?;
            return sequence::alter(self.change("ALTER TABLE"), &sequence, false, &options)
                .map(Some);
        }
        let change = self.change("ALTER TABLE");
        if self.words(&["DROP", "IDENTITY"]) {
            let missing_is_fine = self.words(&["IF", "EXISTS"]);
            self.end()?;
            return identity::drop(change, &name, &column, missing_is_fine || if_exists).map(Some);
        }
        if self.words(&["ADD", "GENERATED"]) {
            let always = self.word("ALWAYS");
            if !always && !self.words(&["BY", "DEFAULT"]) {
                return Ok(None);
            }
            if !self.words(&["AS", "IDENTITY"]) {
                return Ok(None);
            }
            let options = if self.parser.consume_token(&Token::LParen) {
                let options = self.sequence_options()?;
                if !self.parser.consume_token(&Token::RParen) {
                    return Err(self.unexpected());
                }
                options
            } else {
                Options::default()
            };
            self.end()?;
            return identity::add(change, &name, &column, always, &options).map(Some);
        }
        Ok(None)
    }

    fn alter_named(
        &mut self,
        tag: &'static str,
        can_rename: bool,
    ) -> Result<Option<PlanKind>, SqlError> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        let Ok(name) = self.name() else {
            return Ok(None);
        };
        permit::own(self.catalog, &name, self.context)?;
        if self.words(&["OWNER", "TO"]) {
            return self.owner(tag, &name, if_exists).map(Some);
        }
        if self.words(&["SET", "SCHEMA"]) {
            return self.set_schema(tag).map(Some);
        }
        if self.words(&["SET", "TABLESPACE"]) || self.words(&["ATTACH", "PARTITION"]) {
            return Err(SqlError::unsupported(format_args!("{tag} of this form")));
        }
        if can_rename && self.words(&["RENAME", "TO"]) {
            let to = self.ident()?;
            self.end()?;
            let mut change = self.change(tag);
            if if_exists && change.catalog.relation(&name).is_none() {
                change.notices.push(format!(
                    "relation \"{}\" does not exist, skipping",
                    name.name
                ));
                return Ok(Some(change.finish()));
            }
            rename::relation(&mut change, &name, &to)?;
            return Ok(Some(change.finish()));
        }
        Ok(None)
    }

    /// After OWNER TO.
    fn owner(
        &mut self,
        tag: &'static str,
        name: &QualifiedName,
        if_exists: bool,
    ) -> Result<PlanKind, SqlError> {
        let role = self.ident()?;
        self.end()?;
        permit::set_owner(self.change(tag), name, &role, if_exists, self.context)
    }

    /// After SET SCHEMA: `public` is the one schema.
    pub(super) fn set_schema(&mut self, tag: &'static str) -> Result<PlanKind, SqlError> {
        let schema = self.ident()?;
        if schema != QualifiedName::PUBLIC {
            return Err(SqlError::unsupported(format_args!(
                "moving to the schema \"{schema}\""
            )));
        }
        self.end()?;
        Ok(PlanKind::NoEffect(tag))
    }

    fn rest_is_owner(&mut self) -> bool {
        loop {
            if self.words(&["OWNER", "TO"]) {
                return true;
            }
            if self.parser.next_token().token == Token::EOF {
                return false;
            }
        }
    }

    /// A sequence's options, in any order, up to what is none.
    pub(super) fn sequence_options(&mut self) -> Result<Options, SqlError> {
        let mut options = Options::default();
        loop {
            if self.word("AS") {
                let data_type = self
                    .parser
                    .parse_data_type()
                    .map_err(|_| self.unexpected())?;
                options.pg_type = Some(types::column_type(self.catalog, "", &data_type)?.0);
            } else if self.word("INCREMENT") {
                self.word("BY");
                options.increment = Some(self.number()?);
            } else if self.word("MINVALUE") {
                options.min = Some(Some(self.number()?));
            } else if self.word("MAXVALUE") {
                options.max = Some(Some(self.number()?));
            } else if self.words(&["NO", "MINVALUE"]) {
                options.min = Some(None);
            } else if self.words(&["NO", "MAXVALUE"]) {
                options.max = Some(None);
            } else if self.words(&["NO", "CYCLE"]) {
                options.cycle = Some(false);
            } else if self.word("CYCLE") {
                options.cycle = Some(true);
            } else if self.word("START") {
                self.word("WITH");
                options.start = Some(self.number()?);
            } else if self.word("RESTART") {
                let with = self.word("WITH");
                options.restart = Some(if with || self.at_number() {
                    Some(self.number()?)
                } else {
                    None
                });
            } else if self.word("CACHE") {
                options.cache = Some(self.number()?);
            } else if self.words(&["SEQUENCE", "NAME"]) {
                options.name = Some(self.name()?);
            } else if self.words(&["OWNED", "BY"]) {
                options.owned_by = Some(if self.word("NONE") {
                    None
                } else {
                    Some(self.column_name()?)
                });
            } else {
                return Ok(options);
            }
        }
    }

    fn at_number(&self) -> bool {
        matches!(
            self.parser.peek_token().token,
            Token::Number(..) | Token::Minus | Token::Plus
        )
    }

    fn number(&mut self) -> Result<i64, SqlError> {
        let sign = if self.parser.consume_token(&Token::Minus) {
            "-"
        } else {
            let _ = self.parser.consume_token(&Token::Plus);
            ""
        };
        match self.parser.next_token().token {
            Token::Number(digits, _) => format!("{sign}{digits}").parse().map_err(|_| {
                SqlError::new(
                    ErrorCode::NumericOutOfRange,
                    format!("value \"{sign}{digits}\" is out of range for type bigint"),
                )
            }),
            other => Err(self.syntax_error(&other.to_string())),
        }
    }

    pub(super) fn ident(&mut self) -> Result<String, SqlError> {
        self.parser
            .parse_identifier()
            .map(|ident| fold(&ident))
            .map_err(|_| self.unexpected())
    }

    pub(super) fn name(&mut self) -> Result<QualifiedName, SqlError> {
        let name = self
            .parser
            .parse_object_name(false)
            .map_err(|_| self.unexpected())?;
        qualified(&name)
    }

    pub(super) fn column_name(&mut self) -> Result<(QualifiedName, String), SqlError> {
        let name = self
            .parser
            .parse_object_name(false)
            .map_err(|_| self.unexpected())?;
        qualified_column(&name)
    }

    pub(super) fn end(&mut self) -> Result<(), SqlError> {
        while self.parser.consume_token(&Token::SemiColon) {}
        if self.parser.peek_token().token == Token::EOF {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn unexpected(&self) -> SqlError {
        self.syntax_error(&self.parser.peek_token().token.to_string())
    }

    pub(super) fn syntax_error(&self, at: &str) -> SqlError {
        let message = if at == "EOF" {
            "syntax error at end of input".to_owned()
        } else {
            format!("syntax error at or near \"{at}\"")
        };
        SqlError::new(ErrorCode::SyntaxError, message)
    }

    pub(super) fn word(&mut self, word: &str) -> bool {
        self.words(&[word])
    }

    /// Takes these unquoted words if they come next, all or none.
    pub(super) fn words(&mut self, words: &[&str]) -> bool {
        for (index, word) in words.iter().enumerate() {
            let is_there = match &self.parser.peek_nth_token(index).token {
                Token::Word(next) => {
                    next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word)
                }
                _ => false,
            };
            if !is_there {
                return false;
            }
        }
        for _ in words {
            self.parser.next_token();
        }
        true
    }
}
