//! PostgreSQL's casts: which there are, where each may be used, and what it becomes.

use crate::types::PgType;

use super::signature::push_type;

/// Where a cast may happen (`pg_cast.castcontext`); each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CastContext {
    /// In any expression.
    Implicit,
    /// When a value is stored in a column.
    Assignment,
    /// Only where it is written: `CAST(x AS t)`, `x::t`.
    Explicit,
}

/// How one type becomes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    /// The least demanding place where it may happen.
    pub context: CastContext,
    emit: CastEmit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CastEmit {
    /// The storage form is the same.
    AsIs,
    /// What comes before the operand, and after.
    Around(String, String),
}

impl Cast {
    /// The SQLite text of the cast of `operand`.
    #[must_use]
    pub fn render(&self, operand: &str) -> String {
        match &self.emit {
            CastEmit::AsIs => operand.to_owned(),
            CastEmit::Around(before, after) => format!("{before}{operand}{after}"),
        }
    }

    /// Whether it looks up names in the catalog.
    #[must_use]
    pub fn asks_catalog(&self) -> bool {
        matches!(&self.emit, CastEmit::Around(before, _) if before.contains("sh_sys("))
    }

    /// Whether the storage form stays the same, so that a column keeps its indexes' use.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.emit == CastEmit::AsIs
    }
}

/// The cast from one type to another as `CAST` does it (varchar(n) and char(n) cut what is too
/// long); `None` if PostgreSQL has none. [`PgType::Unknown`] literals are converted by the planner
/// with [`crate::types::input_explicit`] instead; an unknown expression counts as text.
#[must_use]
pub fn cast(from: &PgType, to: &PgType) -> Option<Cast> {
    conversion(from, to, true)
}

/// The cast from one type to another as an INSERT or UPDATE does it: varchar(n) and char(n) refuse
/// what is too long (22001). `None` if there is none or it is explicit only.
#[must_use]
pub fn assign(from: &PgType, to: &PgType) -> Option<Cast> {
    conversion(from, to, false).filter(|cast| cast.context <= CastContext::Assignment)
}

fn as_is(context: CastContext) -> Option<Cast> {
    Some(Cast {
        context,
        emit: CastEmit::AsIs,
    })
}

fn around(
    context: CastContext,
    before: impl Into<String>,
    after: impl Into<String>,
) -> Option<Cast> {
    Some(Cast {
        context,
        emit: CastEmit::Around(before.into(), after.into()),
    })
}

/// `name(operand)`.
fn call(context: CastContext, name: &str) -> Option<Cast> {
    around(context, format!("{name}("), ")")
}

/// `name(operand,oid,typmod)`.
fn typed(context: CastContext, name: &str, ty: &PgType) -> Option<Cast> {
    let mut after = String::from(",");
    push_type(&mut after, ty);
    after.push(')');
    around(context, format!("{name}("), after)
}

fn conversion(from: &PgType, to: &PgType, explicit: bool) -> Option<Cast> {
    use CastContext::{Assignment, Explicit, Implicit};
    use PgType as T;
    if from == to {
        return as_is(Implicit);
    }
    if from.is_refined() {
        return conversion(&from.of_value(), to, explicit);
    }
    match (from, to) {
        // What a domain demands is seen to by those who know the catalog.
        (_, T::Domain(user)) => conversion(from, user.base(), explicit),
        (_, T::Precise(moment, digits)) => {
            let cast = conversion(from, &moment.plain(), explicit)?;
            if *digits == 6 {
                return Some(cast);
            }
            let (before, after) = match cast.emit {
                CastEmit::AsIs => Default::default(),
                CastEmit::Around(before, after) => (before, after),
            };
            around(
                cast.context,
                format!("{}({before}", moment.function()),
                format!("{after},{digits})"),
            )
        }
        // An enum's value is its label.
        (T::Enum(_), T::Text | T::Varchar(_) | T::Char(_) | T::Name) => {
            let cast = string_to_string(&T::Text, to, explicit)?;
            Some(Cast {
                context: Assignment,
                ..cast
            })
        }
        (_, T::Enum(user)) if from.is_string() || *from == T::Unknown => {
            let labels = serde_json::Value::from(user.labels().labels.clone()).to_string();
            around(
                Explicit,
                "sh_enum(",
                format!(
                    ",{},{})",
                    crate::query::names::quote_text(user.name()),
                    crate::query::names::quote_text(&labels)
                ),
            )
        }
        (_, T::Enum(_)) | (T::Enum(_), T::InternalChar) => None,
        // From an array's text the labels would not be looked at.
        (_, T::Array(element)) if matches!(**element, T::Enum(_)) => None,
        // Integers.
        (T::Int2, T::Int4 | T::Int8 | T::Oid) | (T::Int4, T::Int8) => as_is(Implicit),
        (T::Oid, T::Int8) => as_is(Assignment),
        (T::Int4 | T::Int8, T::Int2) | (T::Oid, T::Int2) => call(Assignment, "sh_to_int2"),
        (T::Int8 | T::Oid, T::Int4) => call(Assignment, "sh_to_int4"),
        (T::Int4 | T::Int8, T::Oid) => call(Implicit, "sh_to_oid"),
        (T::Bool, T::Int4) => as_is(Explicit),
        (T::Int4, T::Bool) => around(Explicit, "(", "<>0)"),
        // Object ids that are shown by name.
        (T::Oid, T::Reg(_)) | (T::Reg(_), T::Oid) => as_is(Implicit),
        (T::Reg(a), T::Reg(b)) => {
            use crate::types::Reg;
            let same_catalog = matches!(
                (a, b),
                (Reg::Proc | Reg::Procedure, Reg::Proc | Reg::Procedure)
                    | (Reg::Oper | Reg::Operator, Reg::Oper | Reg::Operator)
            );
            same_catalog.then(|| as_is(Implicit)).flatten()
        }
        (T::Int2 | T::Int4 | T::Int8, T::Reg(_)) => call(Implicit, "sh_to_oid"),
        (T::Reg(_), T::Int8) => as_is(Assignment),
        (T::Reg(_), T::Int4) => call(Assignment, "sh_to_int4"),
        (_, T::Reg(reg)) if from.is_string() => around(
            // From text alone PostgreSQL casts without being asked, and only to regclass.
            if *reg == crate::types::Reg::Class && *from == T::Text {
                Implicit
            } else {
                Explicit
            },
            format!("sh_sys('reg_in','{}',", reg.name()),
            ")",
        ),
        (T::Int2Vector, T::Array(element)) if **element == T::Int2 => as_is(Implicit),
        (T::OidVector, T::Array(element)) if **element == T::Oid => as_is(Implicit),
        // Floats.
        (T::Int2 | T::Int4 | T::Int8, T::Float8) => around(Implicit, "CAST(", " AS REAL)"),
        (T::Int2 | T::Int4 | T::Int8, T::Float4) => call(Implicit, "sh_to_float4"),
        (T::Float4, T::Float8) => as_is(Implicit),
        (T::Float8, T::Float4) => call(Assignment, "sh_to_float4"),
        (T::Float4 | T::Float8, T::Int2) => call(Assignment, "sh_float_to_int2"),
        (T::Float4 | T::Float8, T::Int4) => call(Assignment, "sh_float_to_int4"),
        (T::Float4 | T::Float8, T::Int8) => call(Assignment, "sh_float_to_int8"),
        // Numerics: through the BLOB form where they are scaled.
        (T::Numeric(_), T::Numeric(_)) => numeric_to_numeric(from, to),
        (T::Int2 | T::Int4 | T::Int8, T::Numeric(None)) => call(Implicit, "sh_num_from_int"),
        (T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8, T::Numeric(_)) => {
            let name = if from.is_integer() {
                "sh_num_from_int"
            } else if *from == T::Float4 {
                "sh_num_from_float4"
            } else {
                "sh_num_from_float8"
            };
            let context = if from.is_integer() {
                Implicit
            } else {
                Assignment
            };
            match numeric_to_numeric(&T::Numeric(None), to)?.emit {
                CastEmit::AsIs => call(context, name),
                CastEmit::Around(before, after) => {
                    around(context, format!("{before}{name}("), format!("){after}"))
                }
            }
        }
        (T::Numeric(_), T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8) => {
            let (context, name) = match to {
                T::Int2 => (Assignment, "sh_num_to_int2"),
                T::Int4 => (Assignment, "sh_num_to_int4"),
                T::Int8 => (Assignment, "sh_num_to_int8"),
                T::Float4 => (Implicit, "sh_num_to_float4"),
                _ => (Implicit, "sh_num_to_float8"),
            };
            match from.scaled() {
                Some(scale) => around(context, format!("{name}(sh_num("), format!(",{scale}))")),
                None => call(context, name),
            }
        }
        // Dates and times.
        (T::Date, T::Timestamp | T::Timestamptz) | (T::Timestamp, T::Timestamptz) => {
            as_is(Implicit)
        }
        (T::Timestamptz, T::Timestamp) => as_is(Assignment),
        (T::Timestamp | T::Timestamptz, T::Date) => call(Assignment, "sh_timestamp_to_date"),
        (T::Timestamp | T::Timestamptz, T::Time) => call(Assignment, "sh_timestamp_to_time"),
        (T::Time, T::Interval) => call(Implicit, "sh_time_to_interval"),
        (T::Interval, T::Time) => call(Assignment, "sh_interval_to_time"),
        // JSON.
        (T::Json, T::Jsonb) => call(Assignment, "sh_jsonb"),
        (T::Jsonb, T::Json) => as_is(Assignment),
        (
            T::Jsonb,
            T::Bool | T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8 | T::Numeric(_),
        ) => typed(Explicit, "sh_jsonb_to", to),
        // Arrays, element by element.
        (T::Array(a), T::Array(b)) => {
            let element = conversion(a, b, explicit)?;
            if element.is_free() && a.is_string() == b.is_string() {
                return as_is(element.context);
            }
            let mut after = String::from(",");
            push_type(&mut after, from);
            after.push(',');
            push_type(&mut after, to);
            after.push(')');
            around(element.context, "sh_array_cast(", after)
        }
        // To and from strings.
        (_, T::InternalChar) if from.is_string() => around(Assignment, "substr(", ",1,1)"),
        (_, T::Text | T::Varchar(_) | T::Char(_) | T::Name)
            if from.is_string() || *from == T::Unknown =>
        {
            string_to_string(from, to, explicit)
        }
        (_, T::Text | T::Varchar(_) | T::Char(_) | T::Name) if *from != T::Void => {
            let text = to_text(from);
            match string_to_string(&T::Text, to, explicit)?.emit {
                CastEmit::AsIs => Some(Cast {
                    context: Assignment,
                    emit: text,
                }),
                CastEmit::Around(before, after) => {
                    let CastEmit::Around(inner, inner_after) = text else {
                        return around(Assignment, before, after);
                    };
                    around(
                        Assignment,
                        format!("{before}{inner}"),
                        format!("{inner_after}{after}"),
                    )
                }
            }
        }
        (_, T::Void | T::Unknown) => None,
        (T::Unknown, _) => typed(Implicit, "sh_input", to),
        _ if from.is_string() => typed(Explicit, "sh_input", to),
        _ => None,
    }
}

/// The text form of a value that is no string.
fn to_text(from: &PgType) -> CastEmit {
    if from.is_integer() {
        return CastEmit::Around("CAST(".into(), " AS TEXT)".into());
    }
    if let PgType::Reg(reg) = from {
        return CastEmit::Around(format!("sh_sys('reg_out','{}',", reg.name()), ")".into());
    }
    match from {
        // Their storage form is their text.
        PgType::Uuid | PgType::Json | PgType::Jsonb => CastEmit::AsIs,
        _ => {
            let mut after = String::from(",");
            push_type(&mut after, from);
            after.push(')');
            CastEmit::Around("sh_text(".into(), after)
        }
    }
}

fn string_to_string(from: &PgType, to: &PgType, explicit: bool) -> Option<Cast> {
    use CastContext::{Assignment, Implicit};
    // PostgreSQL drops char(n)'s padding on the way to any other string.
    let stripped = matches!(from, PgType::Char(_)) && !matches!(to, PgType::Char(_));
    let (open, close) = if stripped { ("rtrim(", ")") } else { ("", "") };
    let cut = if explicit { "sh_cut" } else { "sh_fit" };
    match to {
        PgType::Varchar(Some(length)) => around(
            Implicit,
            format!("{cut}({open}"),
            format!("{close},{length})"),
        ),
        PgType::Char(length) => around(Implicit, format!("{cut}_char("), format!(",{length})")),
        PgType::Name => around(
            if matches!(from, PgType::Char(_)) {
                Assignment
            } else {
                Implicit
            },
            format!("sh_name({open}"),
            format!("{close})"),
        ),
        _ if stripped => around(Implicit, open, close),
        _ => as_is(Implicit),
    }
}

fn numeric_to_numeric(from: &PgType, to: &PgType) -> Option<Cast> {
    use CastContext::Implicit;
    let (lift, lifted) = match from.scaled() {
        Some(scale) => ("sh_num(", format!(",{scale})")),
        None => ("", String::new()),
    };
    match (to, to.scaled()) {
        (PgType::Numeric(Some((precision, scale))), Some(_)) => around(
            Implicit,
            format!("sh_num_scaled({lift}"),
            format!("{lifted},{precision},{scale})"),
        ),
        (PgType::Numeric(Some((precision, scale))), None) => around(
            Implicit,
            format!("sh_num_fit({lift}"),
            format!("{lifted},{precision},{scale})"),
        ),
        _ if lift.is_empty() => as_is(Implicit),
        _ => around(Implicit, lift, lifted),
    }
}
