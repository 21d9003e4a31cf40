//! The types that statements name.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, TimezoneInfo};

use crate::catalog::{Catalog, QualifiedName};
use crate::types::PgType;

use super::names;

/// The type that a text names.
///
/// # Errors
/// As [`pg_type`]; 42601 for what is no type's name.
pub(crate) fn parse(catalog: &Catalog, text: &str) -> Result<PgType, SqlError> {
    let parsed = sqlparser::parser::Parser::new(&sqlparser::dialect::PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_data_type())
        .map_err(|_| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("invalid type name \"{text}\""),
            )
        })?;
    pg_type(catalog, &parsed)
}

/// The type that a statement names.
///
/// # Errors
/// As [`PgType::from_name`].
pub fn pg_type(catalog: &Catalog, data_type: &DataType) -> Result<PgType, SqlError> {
    let named = PgType::from_name;
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let optional = |n: &Option<u64>| n.iter().map(|&n| int(n)).collect::<Vec<i64>>();
    match data_type {
        DataType::Varchar(length)
        | DataType::CharacterVarying(length)
        | DataType::CharVarying(length) => named("varchar", &character_length(length.as_ref())?),
        DataType::Char(length) | DataType::Character(length) => {
            named("char", &character_length(length.as_ref())?)
        }
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => {
            named("numeric", &exact_number(info))
        }
        DataType::Float(info) => named("float", &exact_number(info)),
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => Ok(PgType::Int4),
        DataType::SmallInt(None) | DataType::Int2(None) => Ok(PgType::Int2),
        DataType::BigInt(None) | DataType::Int8(None) => Ok(PgType::Int8),
        DataType::Real | DataType::Float4 => Ok(PgType::Float4),
        DataType::DoublePrecision | DataType::Float8 | DataType::Double(ExactNumberInfo::None) => {
            Ok(PgType::Float8)
        }
        DataType::Bool | DataType::Boolean => Ok(PgType::Bool),
        DataType::Text => Ok(PgType::Text),
        DataType::Bytea => Ok(PgType::Bytea),
        DataType::Uuid => Ok(PgType::Uuid),
        DataType::JSON => Ok(PgType::Json),
        DataType::JSONB => Ok(PgType::Jsonb),
        DataType::Date => Ok(PgType::Date),
        DataType::Time(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            named("time", &optional(precision))
        }
        DataType::Timestamp(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            named("timestamp", &optional(precision))
        }
        DataType::Timestamp(precision, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            named("timestamptz", &optional(precision))
        }
        DataType::Interval {
            fields: None,
            precision,
        } => named("interval", &optional(precision)),
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(element, _)
            | ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::Qualified(element, _),
        ) => match pg_type(catalog, element)? {
            // PostgreSQL has one array type whatever the dimensions.
            element @ PgType::Array(_) => Ok(element),
            PgType::Domain(_) => Err(SqlError::unsupported("an array of a domain")),
            element => Ok(element.array()),
        },
        DataType::Custom(name, modifiers) => custom(catalog, name, modifiers),
        DataType::Regclass => Ok(PgType::Reg(crate::types::Reg::Class)),
        other => Err(SqlError::unsupported(format_args!(
            "type {}",
            other.to_string().to_ascii_lowercase()
        ))),
    }
}

fn custom(
    catalog: &Catalog,
    name: &sqlparser::ast::ObjectName,
    modifiers: &[String],
) -> Result<PgType, SqlError> {
    let parts = names::parts(name)?;
    // `char` is character(1) only without quotes and schema.
    let is_quoted = name
        .0
        .last()
        .and_then(|part| part.as_ident())
        .is_some_and(|ident| ident.quote_style.is_some());
    if parts.last().is_some_and(|base| base == "char") && (is_quoted || parts.len() == 2) {
        return Ok(PgType::InternalChar);
    }
    let base = match parts.as_slice() {
        [base] => base,
        [schema, base] if schema == "pg_catalog" => base,
        _ => return user_type(catalog, &parts, name, modifiers),
    };
    if parts.len() == 1
        && !modifiers.is_empty()
        && catalog.type_named(&QualifiedName::public(base)).is_some()
        && PgType::from_name(base, &[]).is_err()
    {
        return user_type(catalog, &parts, name, modifiers);
    }
    let modifiers = modifiers
        .iter()
        .map(|modifier| {
            modifier.trim().parse::<i64>().map_err(|_| {
                SqlError::new(
                    ErrorCode::InvalidParameterValue,
                    format!("invalid type modifier \"{modifier}\""),
                )
            })
        })
        .collect::<Result<Vec<i64>, SqlError>>()?;
    match PgType::from_name(base, &modifiers) {
        // What is not PostgreSQL's own may be a user's.
        Err(error) if error.code == ErrorCode::UndefinedObject && parts.len() == 1 => {
            let array = base
                .strip_prefix('_')
                .and_then(|element| catalog.type_named(&QualifiedName::public(element)));
            match (catalog.type_named(&QualifiedName::public(base)), array) {
                (Some(of), _) => Ok(of.pg_type()),
                (None, Some(element)) => Ok(element.pg_type().array()),
                (None, None) if is_postgresql(base.strip_prefix('_').unwrap_or(base)) => {
                    Err(SqlError::unsupported(format_args!("type {base}")))
                }
                (None, None) if catalog.resolve(None, base).is_some() => Err(
                    SqlError::unsupported(format_args!("the row type of \"{base}\"")),
                ),
                (None, None) => Err(error),
            }
        }
        other => other,
    }
}

/// Whether PostgreSQL has a type of that name, which Springhead has not.
fn is_postgresql(name: &str) -> bool {
    const LACKING: &[&str] = &[
        "aclitem",
        "any",
        "anyarray",
        "anycompatible",
        "anycompatiblearray",
        "anycompatiblemultirange",
        "anycompatiblenonarray",
        "anycompatiblerange",
        "anyelement",
        "anyenum",
        "anymultirange",
        "anynonarray",
        "anyrange",
        "bit",
        "box",
        "cid",
        "cidr",
        "circle",
        "cstring",
        "datemultirange",
        "daterange",
        "inet",
        "int4multirange",
        "int4range",
        "int8multirange",
        "int8range",
        "internal",
        "jsonpath",
        "line",
        "lseg",
        "macaddr",
        "macaddr8",
        "money",
        "nummultirange",
        "numrange",
        "path",
        "pg_lsn",
        "pg_snapshot",
        "point",
        "polygon",
        "record",
        "refcursor",
        "regcollation",
        "regconfig",
        "regdictionary",
        "regoper",
        "regoperator",
        "regprocedure",
        "tid",
        "timetz",
        "trigger",
        "tsmultirange",
        "tsquery",
        "tsrange",
        "tstzmultirange",
        "tstzrange",
        "tsvector",
        "txid_snapshot",
        "varbit",
        "xid",
        "xid8",
        "xml",
    ];
    LACKING.contains(&name)
}

/// A type that a user has made, by its schema and name.
fn user_type(
    catalog: &Catalog,
    parts: &[String],
    name: &sqlparser::ast::ObjectName,
    modifiers: &[String],
) -> Result<PgType, SqlError> {
    let found = match parts {
        [name] => catalog.type_named(&QualifiedName::public(name)),
        [schema, name] => catalog.type_named(&QualifiedName::new(schema, name)),
        _ => None,
    };
    match found {
        Some(_) if !modifiers.is_empty() => Err(SqlError::new(
            ErrorCode::SyntaxError,
            format!("type modifier is not allowed for type \"{name}\""),
        )),
        Some(of) => Ok(of.pg_type()),
        None => Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("type \"{name}\" does not exist"),
        )),
    }
}

fn character_length(length: Option<&CharacterLength>) -> Result<Vec<i64>, SqlError> {
    match length {
        None => Ok(Vec::new()),
        Some(CharacterLength::IntegerLength { length, unit: None }) => {
            Ok(vec![i64::try_from(*length).unwrap_or(i64::MAX)])
        }
        Some(other) => Err(SqlError::unsupported(format_args!("the length {other}"))),
    }
}

fn exact_number(info: &ExactNumberInfo) -> Vec<i64> {
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    match info {
        ExactNumberInfo::None => Vec::new(),
        ExactNumberInfo::Precision(precision) => vec![int(*precision)],
        ExactNumberInfo::PrecisionAndScale(precision, scale) => vec![int(*precision), *scale],
    }
}
