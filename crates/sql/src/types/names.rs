//! Types by name: how SQL spells them, and what their modifiers mean.

use std::borrow::Cow;

use springhead_proto::{ErrorCode, SqlError};

use super::{Moment, PgType, Reg};

impl PgType {
    /// Its name as `format_type` prints it, modifier included.
    #[must_use]
    pub fn sql_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            PgType::Bool => "boolean",
            PgType::Int2 => "smallint",
            PgType::Int4 => "integer",
            PgType::Int8 => "bigint",
            PgType::Oid => "oid",
            PgType::Float4 => "real",
            PgType::Float8 => "double precision",
            PgType::Numeric(None) => "numeric",
            PgType::Numeric(Some((precision, scale))) => {
                return Cow::Owned(format!("numeric({precision},{scale})"));
            }
            PgType::Text => "text",
            PgType::Varchar(None) => "character varying",
            PgType::Varchar(Some(length)) => {
                return Cow::Owned(format!("character varying({length})"));
            }
            PgType::Char(length) => return Cow::Owned(format!("character({length})")),
            PgType::Name => "name",
            PgType::Bytea => "bytea",
            PgType::Date => "date",
            PgType::Time => "time without time zone",
            PgType::Timestamp => "timestamp without time zone",
            PgType::Timestamptz => "timestamp with time zone",
            PgType::Interval => "interval",
            PgType::Uuid => "uuid",
            PgType::Json => "json",
            PgType::Jsonb => "jsonb",
            PgType::InternalChar => "\"char\"",
            PgType::Int2Vector => "int2vector",
            PgType::OidVector => "oidvector",
            PgType::Reg(reg) => reg.name(),
            PgType::Unknown => "unknown",
            PgType::Void => "void",
            PgType::Record(_) => "record",
            PgType::Precise(moment, digits) => return Cow::Owned(moment.name(*digits)),
            PgType::Enum(user) => return Cow::Owned(crate::functions::quote_ident(user.name())),
            PgType::Domain(user) => return Cow::Owned(crate::functions::quote_ident(user.name())),
            PgType::Array(element) => return Cow::Owned(format!("{}[]", element.sql_name())),
        })
    }

    /// Its name without a modifier, for messages (`character varying`, `numeric`).
    #[must_use]
    pub fn base_name(&self) -> Cow<'static, str> {
        match self {
            PgType::Numeric(_) => Cow::Borrowed("numeric"),
            PgType::Varchar(_) => Cow::Borrowed("character varying"),
            PgType::Char(_) => Cow::Borrowed("character"),
            PgType::Array(element) => Cow::Owned(format!("{}[]", element.base_name())),
            PgType::Precise(moment, _) => moment.plain().sql_name(),
            other => other.sql_name(),
        }
    }

    /// The type of that name (lower case; `pg_catalog.` may lead) with those modifiers, e.g.
    /// `("numeric", &[10, 2])`. Serial types are their integers.
    ///
    /// # Errors
    /// 42704 for an unknown name, 22023 for a modifier out of range, 0A000 for a modifier that
    /// cannot be given its meaning.
    pub fn from_name(name: &str, modifiers: &[i64]) -> Result<PgType, SqlError> {
        let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
        if let Some(element) = name.strip_suffix("[]") {
            return PgType::from_name(element, modifiers).map(|element| match element {
                PgType::Array(_) => element,
                element => element.array(),
            });
        }
        let base = match name {
            "bool" | "boolean" => PgType::Bool,
            "int2" | "smallint" | "smallserial" | "serial2" => PgType::Int2,
            "int" | "int4" | "integer" | "serial" | "serial4" => PgType::Int4,
            "int8" | "bigint" | "bigserial" | "serial8" => PgType::Int8,
            "oid" => PgType::Oid,
            "float4" | "real" => PgType::Float4,
            "float8" | "double precision" | "double" => PgType::Float8,
            "float" => {
                return match modifiers {
                    [] | [25..=53] => Ok(PgType::Float8),
                    [1..=24] => Ok(PgType::Float4),
                    _ => Err(bad_modifier(
                        "precision for type float must be between 1 and 53 bits",
                    )),
                };
            }
            "numeric" | "decimal" | "dec" => return numeric_type(modifiers),
            "text" => PgType::Text,
            "varchar" | "character varying" => {
                return match modifiers {
                    [] => Ok(PgType::Varchar(None)),
                    &[length] => {
                        character_length("varchar", length).map(|n| PgType::Varchar(Some(n)))
                    }
                    _ => Err(bad_modifier("invalid type modifier")),
                };
            }
            "char" | "character" | "bpchar" | "nchar" => {
                return match modifiers {
                    [] => Ok(PgType::Char(1)),
                    &[length] => character_length("char", length).map(PgType::Char),
                    _ => Err(bad_modifier("invalid type modifier")),
                };
            }
            "name" => PgType::Name,
            "bytea" => PgType::Bytea,
            "date" => PgType::Date,
            "time" | "time without time zone" => return Moment::Time.with(modifiers),
            "timestamp" | "timestamp without time zone" => {
                return Moment::Timestamp.with(modifiers);
            }
            "timestamptz" | "timestamp with time zone" => {
                return Moment::Timestamptz.with(modifiers);
            }
            "interval" => return Moment::Interval.with(modifiers),
            "uuid" => PgType::Uuid,
            "json" => PgType::Json,
            "jsonb" => PgType::Jsonb,
            "\"char\"" => PgType::InternalChar,
            "int2vector" => PgType::Int2Vector,
            "oidvector" => PgType::OidVector,
            "unknown" => PgType::Unknown,
            "void" => PgType::Void,
            other if Reg::from_name(other).is_some() => {
                PgType::Reg(Reg::from_name(other).expect("just looked"))
            }
            _ => {
                return Err(SqlError::new(
                    ErrorCode::UndefinedObject,
                    format!("type \"{name}\" does not exist"),
                ));
            }
        };
        if modifiers.is_empty() {
            Ok(base)
        } else {
            Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("type modifier is not allowed for type \"{name}\""),
            ))
        }
    }
}

fn numeric_type(modifiers: &[i64]) -> Result<PgType, SqlError> {
    let (precision, scale) = match *modifiers {
        [] => return Ok(PgType::Numeric(None)),
        [precision] => (precision, 0),
        [precision, scale] => (precision, scale),
        _ => return Err(bad_modifier("invalid NUMERIC type modifier")),
    };
    if !(1..=1000).contains(&precision) {
        return Err(bad_modifier(&format!(
            "NUMERIC precision {precision} must be between 1 and 1000"
        )));
    }
    if !(-1000..=1000).contains(&scale) {
        return Err(bad_modifier(&format!(
            "NUMERIC scale {scale} must be between -1000 and 1000"
        )));
    }
    if scale < 0 || scale > precision {
        return Err(SqlError::unsupported(format_args!(
            "numeric({precision},{scale}), whose scale is not between 0 and its precision,"
        )));
    }
    match (u16::try_from(precision), u16::try_from(scale)) {
        (Ok(precision), Ok(scale)) => Ok(PgType::Numeric(Some((precision, scale)))),
        _ => Err(bad_modifier("invalid NUMERIC type modifier")),
    }
}

fn character_length(name: &str, length: i64) -> Result<u32, SqlError> {
    match u32::try_from(length) {
        Ok(1..=10_485_760) => Ok(u32::try_from(length).unwrap_or(1)),
        Ok(0) | Err(_) => Err(bad_modifier(&format!(
            "length for type {name} must be at least 1"
        ))),
        Ok(_) => Err(bad_modifier(&format!(
            "length for type {name} cannot exceed 10485760"
        ))),
    }
}

pub(crate) fn bad_modifier(message: &str) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, message)
}
