//! The name of an output column, as PostgreSQL derives it.

use sqlparser::ast::{self, Expr, SelectItem};

use crate::types::PgType;

use super::names::{self, fold};

/// The name that PostgreSQL gives an output without an alias.
pub(crate) fn output_name(expr: &Expr) -> String {
    derived_name(expr).unwrap_or_else(|| "?column?".to_owned())
}

fn derived_name(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Identifier(ident) => fold(ident),
        Expr::CompoundIdentifier(idents) => fold(idents.last()?),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => return derived_name(inner),
        Expr::CompoundFieldAccess { root, .. } => return derived_name(root),
        Expr::Function(function) => names::parts(&function.name).ok()?.pop()?,
        Expr::Cast {
            expr, data_type, ..
        } => {
            // A name passes through; what a cast within it would be called does not.
            return named_by_itself(expr).or_else(|| type_name(data_type));
        }
        Expr::TypedString(typed) => type_name(&typed.data_type)?,
        Expr::Interval(_) => "interval".to_owned(),
        Expr::Value(value) if matches!(value.value, ast::Value::Boolean(_)) => "bool".to_owned(),
        // A name of ELSE passes through, a function's too.
        Expr::Case { .. } => named_by_itself(expr).unwrap_or_else(|| "case".to_owned()),
        Expr::Exists { negated: false, .. } => "exists".to_owned(),
        Expr::Array(_) => "array".to_owned(),
        Expr::Tuple(_) => "row".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Substring { shorthand, .. } => {
            if *shorthand { "substr" } else { "substring" }.to_owned()
        }
        Expr::Position { .. } => "position".to_owned(),
        Expr::Overlay { .. } => "overlay".to_owned(),
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(ast::TrimWhereField::Leading) => "ltrim",
            Some(ast::TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }
        .to_owned(),
        Expr::Ceil { .. } => "ceil".to_owned(),
        Expr::Floor { .. } => "floor".to_owned(),
        Expr::AtTimeZone { .. } => "timezone".to_owned(),
        Expr::BinaryOp {
            op: ast::BinaryOperator::Overlaps,
            ..
        } => "overlaps".to_owned(),
        Expr::Subquery(query) => match &*query.body {
            ast::SetExpr::Select(select) => match select.projection.as_slice() {
                [SelectItem::UnnamedExpr(expr)] => return derived_name(expr),
                [SelectItem::ExprWithAlias { alias, .. }] => fold(alias),
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    })
}

/// As [`derived_name`], but for names that a type gives.
fn named_by_itself(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => named_by_itself(expr),
        Expr::TypedString(_) | Expr::Interval(_) => None,
        Expr::Case { else_result, .. } => named_by_itself(else_result.as_deref()?),
        Expr::Value(value) if matches!(value.value, ast::Value::Boolean(_)) => None,
        _ => derived_name(expr),
    }
}

/// The internal name of a type, as a cast of something nameless shows it.
fn type_name(data_type: &ast::DataType) -> Option<String> {
    // A user's type is called by what the statement calls it.
    if let ast::DataType::Custom(name, _) = data_type
        && let Some(name) = name.0.last().and_then(|part| part.as_ident())
        && crate::types::PgType::from_name(&fold(name), &[]).is_err()
    {
        return Some(fold(name));
    }
    static OWN: std::sync::LazyLock<crate::catalog::Catalog> =
        std::sync::LazyLock::new(crate::catalog::Catalog::bootstrap);
    let ty = super::data_type::pg_type(&OWN, data_type).ok()?;
    Some(internal_name(&ty).to_owned())
}

/// `pg_type.typname`.
pub(crate) fn internal_name(ty: &PgType) -> &'static str {
    match ty {
        PgType::InternalChar => "char",
        PgType::Int2Vector => "int2vector",
        PgType::OidVector => "oidvector",
        PgType::Reg(reg) => reg.name(),
        PgType::Bool => "bool",
        PgType::Int2 => "int2",
        PgType::Int4 => "int4",
        PgType::Int8 => "int8",
        PgType::Oid => "oid",
        PgType::Float4 => "float4",
        PgType::Float8 => "float8",
        PgType::Numeric(_) => "numeric",
        PgType::Text => "text",
        PgType::Varchar(_) => "varchar",
        PgType::Char(_) => "bpchar",
        PgType::Name => "name",
        PgType::Bytea => "bytea",
        PgType::Date => "date",
        PgType::Time => "time",
        PgType::Timestamp => "timestamp",
        PgType::Timestamptz => "timestamptz",
        PgType::Interval => "interval",
        PgType::Uuid => "uuid",
        PgType::Json => "json",
        PgType::Jsonb => "jsonb",
        PgType::Array(element) => internal_name(element),
        PgType::Precise(moment, _) => internal_name(&moment.plain()),
        PgType::Enum(_) | PgType::Domain(_) => "user-defined",
        PgType::Unknown => "unknown",
        PgType::Void => "void",
        PgType::Record(_) => "record",
    }
}
