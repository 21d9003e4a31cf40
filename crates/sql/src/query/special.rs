//! Calls that the grammar writes in its own way, and those that ask the engine about the session,
//! the clock or a sequence.
//!
//! What the engine must register beside [`crate::functions::scalars`]: `sh_now()` (microseconds,
//! fixed for the transaction), `sh_clock_timestamp()`, `sh_random()`, `sh_gen_random_uuid()`,
//! `sh_nextval(id)`, `sh_currval(id)`, `sh_lastval()`, `sh_setval(id, value, is_called)`,
//! `sh_setting(name)` for every setting by its lower-case name (NULL for an unknown one) and for
//! `version`, `current_database`, `current_user`, `session_user`, `current_schema` and
//! `backend_pid`; `sh_set_config(name, value, is_local)`, which returns the new value, and
//! `sh_notify(channel, payload)` and `sh_notification_queue_usage()`.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, DateTimeField, Expr, TrimWhereField};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::catalog::{Privilege, Relation};
use crate::functions::CastContext;
use crate::types::{Moment, PgType};

use super::Analyzer;
use super::call::Call;
use super::expression::place_of;
use super::typed::{Node, Typed};

impl Analyzer<'_> {
    /// A word that is a call without parentheses; `None` if it is none (a column, then).
    pub(crate) fn special_word(&mut self, ident: &ast::Ident) -> Result<Option<Typed>, SqlError> {
        if ident.quote_style.is_some() {
            return Ok(None);
        }
        let word = ident.value.to_ascii_lowercase();
        if !is_special_word(&word) {
            return Ok(None);
        }
        self.session_value(&word)
    }

    /// `enum_range(NULL::e)` and its kin: the values that an enum has.
    fn enum_values(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let args = call
            .args
            .iter()
            .map(|arg| self.expression(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let user = args.iter().find_map(|arg| match &arg.ty {
            PgType::Enum(user) => Some(user.clone()),
            _ => None,
        });
        let Some(user) = user else {
            return Err(self.no_function(&call.name, &args, call.place));
        };
        let ty = PgType::Enum(user.clone());
        let labels = &user.labels().labels;
        let one = |label: Option<&String>| match label {
            Some(label) => super::names::quote_text(label),
            None => "NULL".to_owned(),
        };
        let list = serde_json::Value::from(labels.clone()).to_string();
        let list = super::names::quote_text(&list);
        match (call.name.as_str(), args.as_slice()) {
            ("enum_first", [_]) => Ok(Typed::new(one(labels.first()), ty)),
            ("enum_last", [_]) => Ok(Typed::new(one(labels.last()), ty)),
            ("enum_range", [_]) => Ok(Typed::new(list, ty.array()).not_null()),
            ("enum_range", [low, high]) => {
                let low = self.coerce(low, &ty, CastContext::Implicit)?;
                let high = self.coerce(high, &ty, CastContext::Implicit)?;
                let place = user.labels().order("e.value");
                Ok(Typed::new(
                    format!(
                        "(SELECT json_group_array(e.value) FROM json_each({list}) AS e WHERE {place} >= coalesce({},0) AND {place} <= coalesce({},{}))",
                        user.labels().order(&low),
                        user.labels().order(&high),
                        labels.len()
                    ),
                    ty.array(),
                ))
            }
            _ => Err(self.no_function(&call.name, &args, call.place)),
        }
    }

    /// A call that is not in the signature table, or needs more than its template.
    pub(crate) fn special_call(&mut self, call: &Call<'_>) -> Result<Option<Typed>, SqlError> {
        match call.name.as_str() {
            "coalesce" | "greatest" | "least" => return self.coalesce(call).map(Some),
            "nullif" => return self.nullif(call).map(Some),
            "enum_first" | "enum_last" | "enum_range" => {
                return self.enum_values(call).map(Some);
            }
            "row" => {
                let values = call
                    .args
                    .iter()
                    .map(|arg| self.expression(arg))
                    .collect::<Result<Vec<_>, _>>()?;
                return Ok(Some(Typed::row(values)));
            }
            "pg_typeof" => {
                let [arg] = call.args.as_slice() else {
                    return Err(self.no_function(&call.name, &[], call.place));
                };
                let value = self.expression(arg)?;
                let name = super::names::quote_text(&value.ty.base_name());
                let text = match &value.node {
                    // Not evaluated, but an aggregate in it makes one row of many.
                    Node::Sql(sql) => format!("iif(1,{name},{sql})"),
                    _ => name,
                };
                return Ok(Some(Typed::new(text, PgType::Text).not_null()));
            }
            "num_nulls" | "num_nonnulls" => {
                let test = if call.name == "num_nulls" {
                    "IS NULL"
                } else {
                    "IS NOT NULL"
                };
                let mut texts = Vec::with_capacity(call.args.len());
                for arg in &call.args {
                    let value = self.expression(arg)?;
                    texts.push(format!("({} {test})", self.text(&value)?));
                }
                if texts.is_empty() {
                    return Err(self.no_function(&call.name, &[], call.place));
                }
                return Ok(Some(
                    Typed::new(format!("({})", texts.join("+")), PgType::Int4).not_null(),
                ));
            }
            "auth.uid" | "auth.role" | "auth.claim" | "auth.claims" => {
                return self.principal_call(call).map(Some);
            }
            "nextval" | "currval" | "setval" | "lastval" => {
                return self.sequence_call(call).map(Some);
            }
            "current_setting" | "set_config" | "pg_notify" => {
                return self.setting_call(call).map(Some);
            }
            "pg_cancel_backend" | "pg_terminate_backend" => {
                return self.signal_call(call).map(Some);
            }
            _ => {}
        }
        let takes_precision = matches!(
            call.name.as_str(),
            "current_timestamp" | "localtimestamp" | "localtime"
        );
        if !call.args.is_empty() && !takes_precision {
            return Ok(None);
        }
        if call.bare && !is_special_word(&call.name) {
            return Ok(None);
        }
        let value = self.session_value(&call.name)?;
        match (value, call.args.as_slice()) {
            (Some(value), [digits]) => self.rounded(&value, digits).map(Some),
            (value, _) => Ok(value),
        }
    }

    /// `current_timestamp(3)`.
    fn rounded(&mut self, value: &Typed, digits: &Expr) -> Result<Typed, SqlError> {
        let moment = match value.ty {
            PgType::Timestamptz => Moment::Timestamptz,
            PgType::Timestamp => Moment::Timestamp,
            _ => Moment::Time,
        };
        let digits = self.expression(digits)?;
        let Node::Number(text) = &digits.node else {
            return Err(self.at(
                SqlError::unsupported("a precision that is no number"),
                digits.place,
            ));
        };
        let ty = moment.with(&[text.parse().unwrap_or(-1)])?;
        Ok(self
            .converted(value, &ty, CastContext::Explicit)?
            .not_null())
    }

    fn session_value(&mut self, name: &str) -> Result<Option<Typed>, SqlError> {
        let (sql, ty) = match name {
            "now" | "current_timestamp" | "transaction_timestamp" | "statement_timestamp" => {
                ("sh_now()", PgType::Timestamptz)
            }
            "clock_timestamp" => ("sh_clock_timestamp()", PgType::Timestamptz),
            "localtimestamp" => ("sh_now()", PgType::Timestamp),
            "current_date" => ("sh_timestamp_to_date(sh_now())", PgType::Date),
            "localtime" => ("sh_timestamp_to_time(sh_now())", PgType::Time),
            "current_time" => return Err(SqlError::unsupported("type time with time zone")),
            "random" => ("sh_random()", PgType::Float8),
            "gen_random_uuid" | "uuid_generate_v4" => ("sh_gen_random_uuid()", PgType::Uuid),
            "version" => ("sh_setting('version')", PgType::Text),
            "current_database" | "current_catalog" => {
                ("sh_setting('current_database')", PgType::Name)
            }
            "current_user" | "user" | "current_role" => {
                ("sh_setting('current_user')", PgType::Name)
            }
            "session_user" => ("sh_setting('session_user')", PgType::Name),
            "current_schema" => ("sh_setting('current_schema')", PgType::Name),
            "pg_notification_queue_usage" => ("sh_notification_queue_usage()", PgType::Float8),
            "pg_backend_pid" => ("CAST(sh_setting('backend_pid') AS INTEGER)", PgType::Int4),
            _ => return Ok(None),
        };
        if self.rules.immutable_only
            || self.rules.no_volatile
                && matches!(name, "random" | "gen_random_uuid" | "clock_timestamp")
        {
            let place = self.rules.place.unwrap_or("this place");
            return Err(SqlError::new(
                ErrorCode::InvalidObjectDefinition,
                format!("functions in {place} must be marked IMMUTABLE: {name} is not"),
            ));
        }
        Ok(Some(Typed::new(sql.to_owned(), ty).not_null()))
    }

    /// Who asks, by its credentials: read when the statement runs, so that a plan serves every user
    /// of a role.
    fn principal_call(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        if self.rules.immutable_only {
            return Err(SqlError::new(
                ErrorCode::InvalidObjectDefinition,
                format!(
                    "functions in {} must be marked IMMUTABLE: {} is not",
                    self.rules.place.unwrap_or("this place"),
                    call.name
                ),
            ));
        }
        let args = call
            .args
            .iter()
            .map(|arg| self.expression(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let (sql, ty) = match (call.name.as_str(), args.as_slice()) {
            ("auth.uid", []) => ("sh_auth_uid()".to_owned(), PgType::Text),
            ("auth.role", []) => ("sh_setting('current_user')".to_owned(), PgType::Text),
            ("auth.claims", []) => ("sh_auth_claims()".to_owned(), PgType::Jsonb),
            ("auth.claim", [name]) => {
                let name = self.coerce(name, &PgType::Text, CastContext::Implicit)?;
                (format!("sh_auth_claim({name})"), PgType::Text)
            }
            _ => return Err(self.no_function(&call.name, &args, call.place)),
        };
        Ok(Typed::new(sql, ty))
    }

    fn sequence_call(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        if self.rules.no_volatile || self.rules.immutable_only {
            return Err(self.at(
                SqlError::unsupported(format_args!("{} here", call.name)),
                call.place,
            ));
        }
        let (name, args) = (call.name.as_str(), call.args.as_slice());
        let sql = match (name, args) {
            ("lastval", []) => {
                self.has_effects = true;
                "sh_lastval()".to_owned()
            }
            ("nextval" | "currval", [sequence]) => {
                let id = self.sequence_argument(sequence)?;
                let any: &[Privilege] = if name == "nextval" {
                    &[Privilege::Usage, Privilege::Update]
                } else {
                    &[Privilege::Select, Privilege::Usage]
                };
                self.use_sequence(id, any)?;
                self.has_effects = true;
                format!("sh_{name}({id})")
            }
            ("setval", [sequence, value, rest @ ..]) if rest.len() < 2 => {
                let id = self.sequence_argument(sequence)?;
                self.use_sequence(id, &[Privilege::Update])?;
                self.has_effects = true;
                let value = self.expression(value)?;
                let value = self.coerce(&value, &PgType::Int8, CastContext::Implicit)?;
                let called = match rest.first() {
                    Some(called) => {
                        let called = self.expression(called)?;
                        self.coerce(&called, &PgType::Bool, CastContext::Implicit)?
                    }
                    None => "1".to_owned(),
                };
                format!("sh_setval({id},{value},{called})")
            }
            _ => {
                let args = args
                    .iter()
                    .map(|arg| self.expression(arg))
                    .collect::<Result<Vec<_>, _>>()?;
                return Err(self.no_function(name, &args, call.place));
            }
        };
        Ok(Typed::new(sql, PgType::Int8))
    }

    /// The sequence that `'name'` or `'name'::regclass` names.
    fn sequence_argument(&mut self, expr: &Expr) -> Result<u32, SqlError> {
        let place = place_of(expr);
        let relation = self.relation_constant(expr)?;
        match relation {
            (_, Relation::Sequence(id)) => {
                self.sequences.insert(id);
                Ok(id)
            }
            (name, _) => {
                let error = SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("\"{}\" is not a sequence", name.name),
                );
                Err(self.at(error, place))
            }
        }
    }

    fn relation_constant(
        &mut self,
        expr: &Expr,
    ) -> Result<(crate::catalog::QualifiedName, Relation), SqlError> {
        let mut inner = expr;
        while let Expr::Cast { expr, .. } | Expr::Nested(expr) = inner {
            inner = expr;
        }
        let value = self.expression(inner)?;
        let Node::Literal(text) = &value.node else {
            return Err(self.at(
                SqlError::unsupported("a relation's name that is no constant"),
                value.place,
            ));
        };
        let name = object_name(text)?;
        self.relation(&name)
    }

    fn setting_call(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let values = call
            .args
            .iter()
            .map(|arg| self.expression(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let types: &[PgType] = match (call.name.as_str(), values.len()) {
            ("current_setting", 1) => &[PgType::Text],
            ("current_setting", 2) => &[PgType::Text, PgType::Bool],
            ("set_config", 3) => &[PgType::Text, PgType::Text, PgType::Bool],
            ("pg_notify", 2) => &[PgType::Text, PgType::Text],
            _ => return Err(self.no_function(&call.name, &values, call.place)),
        };
        let mut texts = Vec::with_capacity(values.len());
        for (value, ty) in values.iter().zip(types) {
            texts.push(self.coerce(value, ty, CastContext::Implicit)?);
        }
        if self.rules.immutable_only || self.rules.no_volatile {
            return Err(self.at(
                SqlError::unsupported(format_args!("{} here", call.name)),
                call.place,
            ));
        }
        let (name, ty) = match call.name.as_str() {
            "current_setting" => {
                let name = &texts[0];
                let missing_ok = texts.get(1).map_or("0", String::as_str);
                let sql = format!(
                    "coalesce(sh_setting(lower({name})),sh_no_setting({name},{missing_ok}))"
                );
                return Ok(Typed::new(sql, PgType::Text));
            }
            "set_config" => {
                self.sets = true;
                ("sh_set_config", PgType::Text)
            }
            _ => {
                self.has_effects = true;
                ("sh_notify", PgType::Void)
            }
        };
        Ok(Typed::new(format!("{name}({})", texts.join(",")), ty))
    }

    /// pg_cancel_backend() and pg_terminate_backend(); the second one's timeout is checked alone.
    fn signal_call(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let values = call
            .args
            .iter()
            .map(|arg| self.expression(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let ends = call.name == "pg_terminate_backend";
        let (process_id, timeout) = match values.as_slice() {
            [process_id] => (process_id, None),
            [process_id, timeout] if ends => (process_id, Some(timeout)),
            _ => return Err(self.no_function(&call.name, &values, call.place)),
        };
        if self.rules.immutable_only || self.rules.no_volatile {
            return Err(self.at(
                SqlError::unsupported(format_args!("{} here", call.name)),
                call.place,
            ));
        }
        let process_id = self.coerce(process_id, &PgType::Int4, CastContext::Implicit)?;
        let timeout = match timeout {
            Some(timeout) => self.coerce(timeout, &PgType::Int8, CastContext::Implicit)?,
            None => "0".to_owned(),
        };
        Ok(Typed::new(
            format!(
                "(CASE WHEN {process_id} IS NOT NULL AND {timeout} IS NOT NULL \
                 THEN sh_signal({process_id},{}) END)",
                u8::from(ends)
            ),
            PgType::Bool,
        ))
    }

    /// EXTRACT, SUBSTRING, TRIM, POSITION, OVERLAY, CEIL, FLOOR, AT TIME ZONE: functions in a
    /// grammar of their own.
    pub(crate) fn grammar_function(&mut self, expr: &Expr) -> Result<Typed, SqlError> {
        let place = place_of(expr);
        let (name, args): (&str, Vec<Typed>) = match expr {
            Expr::Extract { field, expr, .. } => {
                let field = Typed::literal(field_name(field)).placed(place);
                let value = self.expression(expr)?;
                ("extract", vec![field, value])
            }
            Expr::Ceil {
                expr,
                field: ast::CeilFloorKind::DateTimeField(DateTimeField::NoDateTime),
            } => ("ceil", vec![self.expression(expr)?]),
            Expr::Floor {
                expr,
                field: ast::CeilFloorKind::DateTimeField(DateTimeField::NoDateTime),
            } => ("floor", vec![self.expression(expr)?]),
            Expr::Position { expr, r#in } => {
                let sought = self.expression(expr)?;
                ("position", vec![sought, self.expression(r#in)?])
            }
            Expr::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => {
                let mut args = vec![self.expression(expr)?];
                match substring_from {
                    Some(from) => args.push(self.expression(from)?),
                    None => args.push(Typed::number("1".to_owned())),
                }
                if let Some(length) = substring_for {
                    args.push(self.expression(length)?);
                }
                ("substring", args)
            }
            Expr::Trim {
                trim_where,
                trim_what,
                expr,
                trim_characters,
            } => {
                let mut args = vec![self.expression(expr)?];
                if let Some(what) = trim_what {
                    args.push(self.expression(what)?);
                }
                for what in trim_characters.iter().flatten() {
                    args.push(self.expression(what)?);
                }
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "btrim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                (name, args)
            }
            Expr::Overlay {
                expr,
                overlay_what,
                overlay_from,
                overlay_for,
            } => {
                let mut args = vec![
                    self.expression(expr)?,
                    self.expression(overlay_what)?,
                    self.expression(overlay_from)?,
                ];
                if let Some(length) = overlay_for {
                    args.push(self.expression(length)?);
                }
                ("overlay", args)
            }
            Expr::AtTimeZone {
                timestamp,
                time_zone,
            } => {
                let value = self.expression(timestamp)?;
                ("timezone", vec![self.expression(time_zone)?, value])
            }
            other => {
                return Err(self.at(
                    SqlError::unsupported(format_args!("the expression {other}")),
                    place,
                ));
            }
        };
        self.call_named(name, &args, place)
    }
}

/// What the grammar takes for a value without parentheses.
fn is_special_word(word: &str) -> bool {
    matches!(
        word,
        "current_timestamp"
            | "current_date"
            | "current_time"
            | "localtimestamp"
            | "localtime"
            | "current_user"
            | "session_user"
            | "user"
            | "current_role"
            | "current_catalog"
            | "current_schema"
    )
}

fn field_name(field: &DateTimeField) -> String {
    match field {
        DateTimeField::Custom(ident) => ident.value.to_ascii_lowercase(),
        other => other.to_string().trim_matches('\'').to_ascii_lowercase(),
    }
}

/// A dotted name inside a string, as regclass reads it.
fn object_name(text: &str) -> Result<ast::ObjectName, SqlError> {
    Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_object_name(false))
        .map_err(|_| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("invalid name syntax: \"{text}\""),
            )
        })
}
