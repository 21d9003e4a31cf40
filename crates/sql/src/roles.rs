//! Statements about roles: CREATE, ALTER and DROP of ROLE, USER and GROUP, and GRANT and REVOKE of
//! roles (as opposed to privileges, which have an ON).
//!
//! Read here from their tokens and not by the parser, whose form of them lacks options that matter.
//! [`crate::planner`] asks [`plan_text`] first. Who may do what is the engine's to decide.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::Ident;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use crate::plan::{PlanKind, RoleName, RoleOptions, RoleStatement};
use crate::query::names;
use crate::types::{PgType, input};

/// The plan of a statement about roles; `None` for every other.
///
/// # Errors
/// 42601 where it is not of its form, 0A000 for what PostgreSQL has and Springhead does not.
pub(crate) fn plan_text(sql: &str) -> Result<Option<PlanKind>, SqlError> {
    let first = sql.trim_start().get(..4).map(str::to_ascii_lowercase);
    if !first.is_some_and(|first| ["crea", "alte", "drop", "gran", "revo"].contains(&&*first)) {
        return Ok(None);
    }
    // A text that does not even split into tokens gets its error from the parser.
    let Ok(parser) = Parser::new(&PostgreSqlDialect {}).try_with_sql(sql) else {
        return Ok(None);
    };
    let mut reader = Reader { parser };
    let statement = reader.statement()?;
    if statement.is_some() {
        reader.end()?;
    }
    Ok(statement.map(|statement| PlanKind::Role(Box::new(statement))))
}

struct Reader<'a> {
    parser: Parser<'a>,
}

impl Reader<'_> {
    fn statement(&mut self) -> Result<Option<RoleStatement>, SqlError> {
        if self.words(&["CREATE", "TOKEN"]) {
            return self.create_token().map(Some);
        }
        if self.words(&["DROP", "TOKEN"]) {
            let id = self.string_or_name()?;
            return Ok(Some(RoleStatement::DropToken { id }));
        }
        if self.word("CREATE") {
            let can_log_in = match self.kind() {
                Some(kind) => kind == "USER",
                None => return Ok(None),
            };
            if can_log_in && self.word("MAPPING") {
                return Err(SqlError::unsupported("CREATE USER MAPPING"));
            }
            let name = self.plain_name()?;
            self.word("WITH");
            let mut options = self.options()?;
            options.login = options.login.or(Some(can_log_in));
            return Ok(Some(RoleStatement::Create { name, options }));
        }
        if self.word("ALTER") {
            if self.kind().is_none() {
                return Ok(None);
            }
            return self.alter().map(Some);
        }
        if self.word("DROP") {
            if self.kind().is_none() {
                return Ok(None);
            }
            let if_exists = self.words(&["IF", "EXISTS"]);
            let names = self.names()?;
            return Ok(Some(RoleStatement::Drop { names, if_exists }));
        }
        if self.word("GRANT") {
            return self.grant();
        }
        if self.word("REVOKE") {
            return self.revoke();
        }
        Ok(None)
    }

    /// ROLE, USER or GROUP.
    fn kind(&mut self) -> Option<&'static str> {
        ["ROLE", "USER", "GROUP"]
            .into_iter()
            .find(|kind| self.word(kind))
    }

    fn alter(&mut self) -> Result<RoleStatement, SqlError> {
        let name = self.name()?;
        if self.word("RENAME") {
            return Err(SqlError::unsupported("ALTER ROLE … RENAME")
                .with_hint("create a role of the new name and drop the old one"));
        }
        if self.word("SET") || self.word("RESET") || self.word("IN") {
            return Err(SqlError::unsupported("ALTER ROLE … SET"));
        }
        // ALTER GROUP a ADD USER b is GRANT a TO b.
        for (word, adds) in [("ADD", true), ("DROP", false)] {
            if self.words(&[word, "USER"]) {
                let (roles, members) = (vec![name], self.names()?);
                return Ok(if adds {
                    RoleStatement::Grant {
                        roles,
                        members,
                        admin_option: false,
                    }
                } else {
                    RoleStatement::Revoke {
                        roles,
                        members,
                        admin_option_only: false,
                    }
                });
            }
        }
        self.word("WITH");
        let options = self.options()?;
        if !(options.in_roles.is_empty() && options.members.is_empty() && options.admins.is_empty())
        {
            return Err(self.unexpected());
        }
        Ok(RoleStatement::Alter { name, options })
    }

    /// `CREATE TOKEN name FOR role [TENANT name] [READ ONLY] [VALID UNTIL '…']`.
    fn create_token(&mut self) -> Result<RoleStatement, SqlError> {
        let name = self.string_or_name()?;
        self.expect("FOR")?;
        let role = self.name()?;
        let (mut tenant, mut read_only, mut valid_until) = (None, None, None);
        loop {
            if self.word("TENANT") {
                once(&mut tenant, self.plain_name()?)?;
            } else if self.words(&["READ", "ONLY"]) {
                once(&mut read_only, true)?;
            } else if self.words(&["VALID", "UNTIL"]) {
                let until = self.timestamp()?;
                once(&mut valid_until, until)?;
            } else {
                return Ok(RoleStatement::CreateToken {
                    name,
                    role,
                    tenant,
                    read_only: read_only.unwrap_or(false),
                    valid_until: valid_until.flatten(),
                });
            }
        }
    }

    fn string_or_name(&mut self) -> Result<String, SqlError> {
        match self.parser.peek_token().token {
            Token::Word(_) => self.plain_name(),
            _ => self.string(),
        }
    }

    /// `None` for infinity.
    fn timestamp(&mut self) -> Result<Option<i64>, SqlError> {
        let text = self.string()?;
        Ok(match input(&PgType::Timestamptz, &text)? {
            springhead_proto::Value::Integer(us) if us < i64::MAX => Some(us),
            _ => None,
        })
    }

    /// `None` if it grants privileges.
    fn grant(&mut self) -> Result<Option<RoleStatement>, SqlError> {
        if !self.is_about_roles("TO") {
            return Ok(None);
        }
        let roles = self.names()?;
        self.expect("TO")?;
        let members = self.names()?;
        let admin_option = self.words(&["WITH", "ADMIN", "OPTION"]);
        self.granted_by()?;
        Ok(Some(RoleStatement::Grant {
            roles,
            members,
            admin_option,
        }))
    }

    fn revoke(&mut self) -> Result<Option<RoleStatement>, SqlError> {
        let admin_option_only = self.words(&["ADMIN", "OPTION", "FOR"]);
        if !self.is_about_roles("FROM") {
            return Ok(None);
        }
        let roles = self.names()?;
        self.expect("FROM")?;
        let members = self.names()?;
        self.granted_by()?;
        // What depends on an admin option is not kept apart, so that both mean the same.
        let _ = self.word("CASCADE") || self.word("RESTRICT");
        Ok(Some(RoleStatement::Revoke {
            roles,
            members,
            admin_option_only,
        }))
    }

    fn granted_by(&mut self) -> Result<(), SqlError> {
        if self.words(&["GRANTED", "BY"]) {
            self.name()?;
        }
        Ok(())
    }

    /// Whether nothing but names stands before `until`: privileges have an ON there.
    fn is_about_roles(&self, until: &str) -> bool {
        for place in 0.. {
            match &self.parser.peek_nth_token(place).token {
                Token::Word(word) if word.quote_style.is_none() => {
                    if word.value.eq_ignore_ascii_case(until) {
                        return true;
                    }
                    if word.value.eq_ignore_ascii_case("on") {
                        return false;
                    }
                }
                Token::Word(_) | Token::Comma => {}
                _ => return false,
            }
        }
        false
    }

    fn options(&mut self) -> Result<RoleOptions, SqlError> {
        let mut options = RoleOptions::default();
        loop {
            let before = self.parser.get_current_index();
            if self.attribute(&mut options)? || self.valued(&mut options)? {
                continue;
            }
            debug_assert_eq!(before, self.parser.get_current_index());
            return Ok(options);
        }
    }

    fn attribute(&mut self, options: &mut RoleOptions) -> Result<bool, SqlError> {
        if self.word("REPLICATION") {
            return Err(SqlError::unsupported("REPLICATION"));
        }
        if self.word("NOREPLICATION") {
            return Ok(true);
        }
        let slots: [(&str, &str, &mut Option<bool>); 6] = [
            ("LOGIN", "NOLOGIN", &mut options.login),
            ("SUPERUSER", "NOSUPERUSER", &mut options.superuser),
            ("CREATEDB", "NOCREATEDB", &mut options.createdb),
            ("CREATEROLE", "NOCREATEROLE", &mut options.createrole),
            ("INHERIT", "NOINHERIT", &mut options.inherit),
            ("BYPASSRLS", "NOBYPASSRLS", &mut options.bypass_rls),
        ];
        for (on, off, slot) in slots {
            let value = if self.word(on) {
                true
            } else if self.word(off) {
                false
            } else {
                continue;
            };
            once(slot, value)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn valued(&mut self, options: &mut RoleOptions) -> Result<bool, SqlError> {
        if self.words(&["CONNECTION", "LIMIT"]) {
            let limit = self.integer()?;
            if limit < -1 {
                return Err(SqlError::new(
                    ErrorCode::InvalidParameterValue,
                    format!("invalid connection limit: {limit}"),
                ));
            }
            once(&mut options.connection_limit, limit)?;
        } else if self.words(&["VALID", "UNTIL"]) {
            let until = self.timestamp()?;
            once(&mut options.valid_until, until)?;
        } else if self.words(&["ENCRYPTED", "PASSWORD"]) || self.word("PASSWORD") {
            let password = if self.word("NULL") {
                None
            } else {
                Some(self.string()?)
            };
            once(&mut options.password, password)?;
        } else if self.words(&["UNENCRYPTED", "PASSWORD"]) {
            return Err(SqlError::unsupported("UNENCRYPTED PASSWORD"));
        } else if self.words(&["IN", "ROLE"]) || self.words(&["IN", "GROUP"]) {
            options.in_roles.extend(self.names()?);
        } else if self.word("ROLE") || self.word("USER") {
            options.members.extend(self.names()?);
        } else if self.word("ADMIN") {
            options.admins.extend(self.names()?);
        } else if self.word("SYSID") {
            self.integer()?;
        } else if self.word("TENANT") {
            let tenant = if self.word("ALL") {
                None
            } else {
                Some(self.plain_name()?)
            };
            once(&mut options.tenant, tenant)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn names(&mut self) -> Result<Vec<RoleName>, SqlError> {
        let mut names = vec![self.name()?];
        while self.parser.consume_token(&Token::Comma) {
            names.push(self.name()?);
        }
        Ok(names)
    }

    fn name(&mut self) -> Result<RoleName, SqlError> {
        if self.word("CURRENT_USER") || self.word("CURRENT_ROLE") {
            return Ok(RoleName::Current);
        }
        if self.word("SESSION_USER") {
            return Ok(RoleName::Session);
        }
        self.plain_name().map(RoleName::Named)
    }

    fn plain_name(&mut self) -> Result<String, SqlError> {
        match &self.parser.peek_token().token {
            Token::Word(word) => {
                let ident = Ident {
                    value: word.value.clone(),
                    quote_style: word.quote_style,
                    span: sqlparser::tokenizer::Span::empty(),
                };
                if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("all") {
                    return Err(self.unexpected());
                }
                self.parser.next_token();
                Ok(names::fold(&ident))
            }
            _ => Err(self.unexpected()),
        }
    }

    fn string(&mut self) -> Result<String, SqlError> {
        let text = match &self.parser.peek_token().token {
            Token::SingleQuotedString(text)
            | Token::EscapedStringLiteral(text)
            | Token::NationalStringLiteral(text) => text.clone(),
            Token::DollarQuotedString(text) => text.value.clone(),
            _ => return Err(self.unexpected()),
        };
        self.parser.next_token();
        Ok(text)
    }

    fn integer(&mut self) -> Result<i64, SqlError> {
        let is_negative = self.parser.consume_token(&Token::Minus);
        let number = match &self.parser.peek_token().token {
            Token::Number(digits, _) => digits.parse::<i32>().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.unexpected())?;
        self.parser.next_token();
        Ok(i64::from(if is_negative { -number } else { number }))
    }

    fn expect(&mut self, word: &str) -> Result<(), SqlError> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn end(&mut self) -> Result<(), SqlError> {
        while self.parser.consume_token(&Token::SemiColon) {}
        if self.parser.peek_token().token == Token::EOF {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    /// The error at the next token, whose text is not repeated if it may be a password.
    fn unexpected(&self) -> SqlError {
        let message = match &self.parser.peek_token().token {
            Token::EOF => "syntax error at end of input".to_owned(),
            Token::Word(word) => format!("syntax error at or near \"{}\"", word.value),
            Token::Comma | Token::SemiColon | Token::LParen | Token::RParen | Token::Eq => format!(
                "syntax error at or near \"{}\"",
                self.parser.peek_token().token
            ),
            _ => "syntax error at or near a literal".to_owned(),
        };
        SqlError::new(ErrorCode::SyntaxError, message)
    }

    fn word(&mut self, word: &str) -> bool {
        self.words(&[word])
    }

    /// Takes these unquoted words if they come next, all or none.
    fn words(&mut self, words: &[&str]) -> bool {
        let are_there = words.iter().enumerate().all(|(place, word)| {
            matches!(&self.parser.peek_nth_token(place).token, Token::Word(next)
                if next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word))
        });
        if are_there {
            for _ in words {
                self.parser.next_token();
            }
        }
        are_there
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), SqlError> {
    if slot.replace(value).is_some() {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "conflicting or redundant options",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> RoleStatement {
        match plan_text(sql) {
            Ok(Some(PlanKind::Role(statement))) => *statement,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn named(name: &str) -> RoleName {
        RoleName::Named(name.to_owned())
    }

    #[test]
    fn options_of_roles_are_read() {
        let RoleStatement::Create { name, options } = read(
            "CREATE ROLE Ann WITH LOGIN NOINHERIT ENCRYPTED PASSWORD 'it''s' CONNECTION LIMIT 3 \
             VALID UNTIL '2030-01-01 00:00Z' IN ROLE a, \"B\" TENANT shop;",
        ) else {
            panic!("another statement")
        };
        assert_eq!(name, "ann");
        assert_eq!((options.login, options.inherit), (Some(true), Some(false)));
        assert_eq!(options.password, Some(Some("it's".to_owned())));
        assert_eq!(options.connection_limit, Some(3));
        assert_eq!(options.valid_until, Some(Some(1_893_456_000_000_000)));
        assert_eq!(options.in_roles, [named("a"), named("B")]);
        assert_eq!(options.tenant, Some(Some("shop".to_owned())));
        let RoleStatement::Create { options, .. } = read("create user bob") else {
            panic!("another statement")
        };
        assert_eq!(options.login, Some(true));
        let RoleStatement::Alter { name, options } =
            read("ALTER USER CURRENT_USER PASSWORD NULL VALID UNTIL 'infinity'")
        else {
            panic!("another statement")
        };
        assert_eq!(name, RoleName::Current);
        assert_eq!(
            (options.password, options.valid_until),
            (Some(None), Some(None))
        );
    }

    #[test]
    fn roles_are_told_from_privileges() {
        assert_eq!(
            read("GRANT a, \"on\" TO b, c WITH ADMIN OPTION"),
            RoleStatement::Grant {
                roles: vec![named("a"), named("on")],
                members: vec![named("b"), named("c")],
                admin_option: true,
            }
        );
        assert_eq!(
            read("revoke admin option for a from b cascade"),
            RoleStatement::Revoke {
                roles: vec![named("a")],
                members: vec![named("b")],
                admin_option_only: true,
            }
        );
        for other in [
            "GRANT SELECT ON t TO a",
            "REVOKE ALL ON t FROM a",
            "GRANT SELECT (a, b) ON t TO c",
            "CREATE TABLE role (a int)",
            "DROP TABLE users",
            "ALTER TABLE t ADD a int",
            "SELECT 1",
        ] {
            assert!(matches!(plan_text(other), Ok(None)), "{other}");
        }
    }

    #[test]
    fn what_is_no_statement_about_roles_is_refused_without_repeating_a_password() {
        for (sql, code) in [
            ("CREATE ROLE", ErrorCode::SyntaxError),
            ("CREATE ROLE a LOGIN NOLOGIN", ErrorCode::SyntaxError),
            ("CREATE ROLE a PASSWORD", ErrorCode::SyntaxError),
            ("CREATE ROLE a 'hunter2'", ErrorCode::SyntaxError),
            (
                "CREATE ROLE a PASSWORD 'x' 'hunter2'",
                ErrorCode::SyntaxError,
            ),
            ("CREATE ROLE a REPLICATION", ErrorCode::FeatureNotSupported),
            ("ALTER ROLE a RENAME TO b", ErrorCode::FeatureNotSupported),
            ("DROP ROLE a CASCADE", ErrorCode::SyntaxError),
            ("ALTER ROLE a IN ROLE b", ErrorCode::FeatureNotSupported),
            ("GRANT a TO", ErrorCode::SyntaxError),
        ] {
            let error = plan_text(sql).expect_err(sql);
            assert_eq!(error.code, code, "{sql}");
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }
}
