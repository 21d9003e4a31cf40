//! Statements about the session and its transactions, and about databases: they name things and
//! compute nothing.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, ContextModifier, DiscardObject, Expr, ObjectType, Reset, Set, Statement,
    TransactionAccessMode, TransactionIsolationLevel, TransactionMode,
};

use crate::plan::{Database, Isolation, PlanKind, Setting, TransactionControl};
use crate::query::names;
use crate::scan::{self, Token};

/// The plan of a statement of this kind; `None` if it is of another.
pub(crate) fn plan(statement: &Statement) -> Result<Option<PlanKind>, SqlError> {
    Ok(Some(match statement {
        Statement::StartTransaction {
            modes,
            statements,
            modifier,
            exception,
            ..
        } => {
            if !statements.is_empty() || modifier.is_some() || exception.is_some() {
                return Err(SqlError::unsupported("a block of statements"));
            }
            let (isolation, read_only) = transaction_modes(modes)?;
            PlanKind::Transaction(TransactionControl::Begin {
                isolation,
                read_only,
            })
        }
        Statement::Commit {
            chain,
            modifier: None,
            ..
        } => PlanKind::Transaction(TransactionControl::Commit { chain: *chain }),
        Statement::Rollback {
            chain,
            savepoint: None,
        } => PlanKind::Transaction(TransactionControl::Rollback { chain: *chain }),
        Statement::Rollback {
            savepoint: Some(name),
            ..
        } => PlanKind::Transaction(TransactionControl::RollbackTo(names::fold(name))),
        Statement::Savepoint { name } => {
            PlanKind::Transaction(TransactionControl::Savepoint(names::fold(name)))
        }
        Statement::ReleaseSavepoint { name } => {
            PlanKind::Transaction(TransactionControl::Release(names::fold(name)))
        }
        Statement::Set(set) => set_statement(set)?,
        Statement::Reset(reset) => PlanKind::Setting(Setting::Reset {
            name: match &reset.reset {
                Reset::ALL => None,
                Reset::SessionAuthorization => Some("session_authorization".to_owned()),
                Reset::ConfigurationParameter(name) => Some(setting_name(name)),
            },
        }),
        Statement::ShowVariable { variable } => PlanKind::Setting(show(variable)),
        Statement::Discard { object_type } => match object_type {
            DiscardObject::ALL => PlanKind::Setting(Setting::Discard),
            DiscardObject::PLANS => PlanKind::NoEffect("DISCARD PLANS"),
            DiscardObject::SEQUENCES => PlanKind::NoEffect("DISCARD SEQUENCES"),
            DiscardObject::TEMP => PlanKind::NoEffect("DISCARD TEMP"),
        },
        Statement::Drop {
            object_type: ObjectType::Database,
            if_exists,
            names,
            ..
        } => match names.as_slice() {
            [name] => PlanKind::Database(Database::Drop {
                name: database_name(name)?,
                if_exists: *if_exists,
            }),
            _ => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "DROP DATABASE takes one name",
                ));
            }
        },
        _ => return Ok(None),
    }))
}

fn show(variable: &[ast::Ident]) -> Setting {
    let words: Vec<String> = variable
        .iter()
        .map(|word| word.value.to_ascii_lowercase())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Setting::Show {
        name: match words.as_slice() {
            ["all"] => None,
            ["time", "zone"] => Some("timezone".to_owned()),
            ["transaction", "isolation", "level"] => Some("transaction_isolation".to_owned()),
            ["session", "authorization"] => Some("session_authorization".to_owned()),
            words => Some(words.join(".").replace("..", ".")),
        },
    }
}

/// SET CONSTRAINTS, which the parser does not know; `None` for every other statement.
///
/// # Errors
/// 42601 where it is not of its form.
pub(crate) fn plan_text(sql: &str) -> Result<Option<PlanKind>, SqlError> {
    if !sql
        .trim_start()
        .get(..3)
        .is_some_and(|first| first.eq_ignore_ascii_case("set"))
    {
        return Ok(None);
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let (token, start, end) = scan::next(sql, at)?;
        if token == Token::End {
            break;
        }
        tokens.push((token, &sql[start..end]));
        at = end;
    }
    while tokens
        .last()
        .is_some_and(|(token, _)| *token == Token::Symbol(b';'))
    {
        tokens.pop();
    }
    let is = |place: usize, word: &str| {
        tokens
            .get(place)
            .is_some_and(|(token, text)| *token == Token::Word && text.eq_ignore_ascii_case(word))
    };
    if !is(0, "set") || !is(1, "constraints") {
        return Ok(None);
    }
    let wrong = || SqlError::new(ErrorCode::SyntaxError, "syntax error in SET CONSTRAINTS");
    let last = tokens.len() - 1;
    let deferred = match (is(last, "deferred"), is(last, "immediate")) {
        (true, _) => true,
        (_, true) => false,
        _ => return Err(wrong()),
    };
    let names = tokens.get(2..last).ok_or_else(wrong)?;
    let names = if names.len() == 1 && is(2, "all") {
        None
    } else {
        Some(constraint_names(names).ok_or_else(wrong)?)
    };
    Ok(Some(PlanKind::Transaction(
        TransactionControl::Constraints { names, deferred },
    )))
}

/// `a, "B", public.c`: the last part of each. `None` if they are no such list.
fn constraint_names(tokens: &[(Token, &str)]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for name in tokens.split(|(token, _)| *token == Token::Symbol(b',')) {
        let (name, schema) = match name {
            [name] => (name, None),
            [schema, (Token::Symbol(b'.'), _), name] => (name, Some(schema)),
            _ => return None,
        };
        if schema.is_some_and(|schema| !matches!(schema.0, Token::Word | Token::QuotedIdentifier)) {
            return None;
        }
        names.push(match name {
            (Token::Word, text) => text.to_lowercase(),
            (Token::QuotedIdentifier, text) => text[1..text.len() - 1].replace("\"\"", "\""),
            _ => return None,
        });
    }
    Some(names)
}

fn set_statement(set: &Set) -> Result<PlanKind, SqlError> {
    Ok(match set {
        Set::SingleAssignment {
            scope,
            variable,
            values,
            hivevar: false,
        } => {
            let name = setting_name(variable);
            let local = matches!(scope, Some(ContextModifier::Local));
            if name == "session characteristics" {
                return Err(SqlError::unsupported(
                    "SET SESSION CHARACTERISTICS in this form",
                ));
            }
            PlanKind::Setting(Setting::Set {
                name,
                value: setting_value(values)?,
                local,
            })
        }
        Set::SetTimeZone { local, value } => PlanKind::Setting(Setting::Set {
            name: "timezone".to_owned(),
            value: setting_value(std::slice::from_ref(value))?
                .filter(|value| !value.eq_ignore_ascii_case("local")),
            local: *local,
        }),
        Set::SetNames { charset_name, .. } => PlanKind::Setting(Setting::Set {
            name: "client_encoding".to_owned(),
            value: Some(charset_name.value.clone()),
            local: false,
        }),
        Set::SetNamesDefault {} => PlanKind::Setting(Setting::Reset {
            name: Some("client_encoding".to_owned()),
        }),
        Set::SetTransaction {
            modes,
            snapshot,
            session,
        } => {
            if snapshot.is_some() {
                return Err(SqlError::unsupported("SET TRANSACTION SNAPSHOT"));
            }
            let (isolation, read_only) = transaction_modes(modes)?;
            PlanKind::Transaction(TransactionControl::Set {
                isolation,
                read_only,
                session: *session,
            })
        }
        Set::SetRole {
            context_modifier,
            role_name,
        } => PlanKind::Setting(Setting::Set {
            name: "role".to_owned(),
            value: role_name.as_ref().map(names::fold),
            local: matches!(context_modifier, Some(ContextModifier::Local)),
        }),
        Set::SetSessionAuthorization(set) => PlanKind::Setting(Setting::Set {
            name: "session_authorization".to_owned(),
            value: match &set.kind {
                ast::SetSessionAuthorizationParamKind::Default => None,
                ast::SetSessionAuthorizationParamKind::User(user) => Some(names::fold(user)),
            },
            local: matches!(set.scope, ContextModifier::Local),
        }),
        Set::SetSessionParam(_)
        | Set::SingleAssignment { .. }
        | Set::ParenthesizedAssignments { .. }
        | Set::MultipleAssignments { .. } => {
            return Err(SqlError::unsupported(format_args!("\"{set}\"")));
        }
    })
}

fn transaction_modes(
    modes: &[TransactionMode],
) -> Result<(Option<Isolation>, Option<bool>), SqlError> {
    let (mut isolation, mut read_only) = (None, None);
    for mode in modes {
        match mode {
            TransactionMode::AccessMode(mode) => {
                read_only = Some(*mode == TransactionAccessMode::ReadOnly);
            }
            TransactionMode::IsolationLevel(level) => {
                isolation = Some(match level {
                    TransactionIsolationLevel::ReadUncommitted
                    | TransactionIsolationLevel::ReadCommitted => Isolation::ReadCommitted,
                    TransactionIsolationLevel::RepeatableRead => Isolation::RepeatableRead,
                    TransactionIsolationLevel::Serializable => Isolation::Serializable,
                    TransactionIsolationLevel::Snapshot => {
                        return Err(SqlError::unsupported("isolation level SNAPSHOT"));
                    }
                });
            }
        }
    }
    Ok((isolation, read_only))
}

fn setting_name(name: &ast::ObjectName) -> String {
    name.0
        .iter()
        .map(|part| {
            part.as_ident()
                .map_or_else(|| part.to_string(), |ident| ident.value.clone())
        })
        .collect::<Vec<_>>()
        .join(".")
        .to_ascii_lowercase()
}

/// The value's text; `None` for DEFAULT.
fn setting_value(values: &[Expr]) -> Result<Option<String>, SqlError> {
    let mut texts = Vec::with_capacity(values.len());
    for value in values {
        texts.push(match value {
            Expr::Identifier(ident)
                if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default") =>
            {
                return Ok(None);
            }
            Expr::Identifier(ident) => names::fold(ident),
            Expr::Value(value) => match &value.value {
                ast::Value::Boolean(on) => if *on { "on" } else { "off" }.to_owned(),
                other => other
                    .clone()
                    .into_string()
                    .unwrap_or_else(|| other.to_string()),
            },
            Expr::UnaryOp {
                op: ast::UnaryOperator::Minus,
                expr,
            } => format!("-{expr}"),
            // Key words that the parser takes for something else: ON, SESSION_USER, NONE.
            other => other.to_string().to_ascii_lowercase(),
        });
    }
    Ok(Some(texts.join(", ")))
}

fn database_name(name: &ast::ObjectName) -> Result<String, SqlError> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(names::fold),
        _ => None,
    }
    .ok_or_else(|| {
        SqlError::new(
            ErrorCode::SyntaxError,
            format!("\"{name}\" is no database name"),
        )
    })
}
