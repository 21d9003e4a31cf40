//! One overload of a PostgreSQL function or operator, and what it becomes.

use crate::types::{PgType, Reg};

/// One overload.
#[derive(Debug, Clone, Copy)]
pub struct Signature {
    /// PostgreSQL's name, lower case, or an operator's symbol.
    pub name: &'static str,
    /// The types of its arguments; with `variadic` the last may come once or more (not at all if
    /// `args` is that one alone and its type is [`ArgType::Any`]).
    pub args: &'static [ArgType],
    pub variadic: bool,
    pub result: ResultType,
    pub emit: Emit,
    /// NULL for any NULL argument. The emitted text has that behaviour already; this says it to
    /// those who reason about nullability.
    pub strict: bool,
    pub volatility: Volatility,
    pub class: Class,
}

/// The type of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgType {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// A BLOB numeric: an argument of a scaled type is lifted by its cast first.
    Numeric,
    /// A numeric of whatever storage, taken as it is.
    AnyNumeric,
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Name,
    Regclass,
    Regtype,
    Regproc,
    Regnamespace,
    Regrole,
    /// name[].
    NameArray,
    /// text[].
    TextArray,
    Int4Array,
    Int8Array,
    /// Any type, taken as it is.
    Any,
    /// Any type, and all of them the same: they are brought to their common type, as for UNION.
    AnyElement,
    /// An array of any element type.
    AnyArray,
}

/// The type of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultType {
    Of(ArgType),
    /// That of the argument, from 0, without its modifier (numeric keeps it: its storage depends
    /// on it).
    Argument(usize),
    /// An array of the type of the argument.
    ArrayOf(usize),
    /// The element type of the array argument.
    ElementOf(usize),
    Void,
}

/// What is written into the SQLite statement.
///
/// In templates `$1`, `$2`, … stand for the arguments' SQLite texts (each an operand that may be
/// put anywhere), `$*` for all of them separated by commas, `$2*` for those from the second on;
/// `%1`, `%2`, … for `oid,typmod` of the argument's type, as `sh_text`, `sh_json` and their kin
/// take it; `$~` for `value,oid,typmod` of every argument, `$2~` of those from the second on, all
/// separated by commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// `name($*)`.
    Call(&'static str),
    Template(&'static str),
    /// `sh_sys('name', $*)`: a question about the catalog ([`crate::system::calls`]).
    System(&'static str),
    /// The planner writes it itself: it depends on the session, on the clock, or on the grammar.
    Planner,
}

/// PostgreSQL's volatility.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// Where a function may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Scalar,
    /// Also usable as a window function.
    Aggregate,
    Window,
    SetReturning,
}

impl ArgType {
    /// The type it names; `None` for the polymorphic ones.
    #[must_use]
    pub fn pg_type(self) -> Option<PgType> {
        Some(match self {
            ArgType::Bool => PgType::Bool,
            ArgType::Int2 => PgType::Int2,
            ArgType::Int4 => PgType::Int4,
            ArgType::Int8 => PgType::Int8,
            ArgType::Oid => PgType::Oid,
            ArgType::Float4 => PgType::Float4,
            ArgType::Float8 => PgType::Float8,
            ArgType::Numeric => PgType::Numeric(None),
            ArgType::Text => PgType::Text,
            ArgType::Bytea => PgType::Bytea,
            ArgType::Date => PgType::Date,
            ArgType::Time => PgType::Time,
            ArgType::Timestamp => PgType::Timestamp,
            ArgType::Timestamptz => PgType::Timestamptz,
            ArgType::Interval => PgType::Interval,
            ArgType::Uuid => PgType::Uuid,
            ArgType::Json => PgType::Json,
            ArgType::Jsonb => PgType::Jsonb,
            ArgType::Name => PgType::Name,
            ArgType::Regclass => PgType::Reg(Reg::Class),
            ArgType::Regtype => PgType::Reg(Reg::Type),
            ArgType::Regproc => PgType::Reg(Reg::Proc),
            ArgType::Regnamespace => PgType::Reg(Reg::Namespace),
            ArgType::Regrole => PgType::Reg(Reg::Role),
            ArgType::NameArray => PgType::Name.array(),
            ArgType::TextArray => PgType::Text.array(),
            ArgType::Int4Array => PgType::Int4.array(),
            ArgType::Int8Array => PgType::Int8.array(),
            ArgType::AnyNumeric | ArgType::Any | ArgType::AnyElement | ArgType::AnyArray => {
                return None;
            }
        })
    }
}

impl ResultType {
    /// The result's type for arguments of these types; `None` if an argument it follows is missing
    /// or is no array.
    #[must_use]
    pub fn resolve(self, args: &[PgType]) -> Option<PgType> {
        match self {
            ResultType::Of(ty) => ty.pg_type(),
            ResultType::Argument(index) => args.get(index).map(PgType::without_modifier),
            ResultType::ArrayOf(index) => args
                .get(index)
                .map(|element| element.without_modifier().array()),
            ResultType::ElementOf(index) => args.get(index)?.element().cloned(),
            ResultType::Void => Some(PgType::Void),
        }
    }
}

impl Signature {
    /// The SQLite text of a call: `args` are the arguments' texts and types, already cast to what
    /// the signature asks for. `None` if the planner must write it itself ([`Emit::Planner`]).
    #[must_use]
    pub fn render(&self, args: &[(String, PgType)]) -> Option<String> {
        match self.emit {
            Emit::Call(name) => Some(render(&format!("{name}($*)"), args)),
            Emit::Template(template) => Some(render(template, args)),
            Emit::System(name) => {
                let template = if args.is_empty() { "" } else { ",$*" };
                Some(format!("sh_sys('{name}'{})", render(template, args)))
            }
            Emit::Planner => None,
        }
    }
}

/// Fills a template (see [`Emit`]).
fn render(template: &str, args: &[(String, PgType)]) -> String {
    let mut out = String::with_capacity(template.len() + 16 * args.len());
    let mut rest = template;
    while let Some(at) = rest.find(['$', '%']) {
        out.push_str(&rest[..at]);
        let mark = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest[..digits].parse::<usize>().unwrap_or(1);
        let after = &rest[digits..];
        let from = args.get(number - 1..).unwrap_or_default();
        if mark == b'$' && after.starts_with('*') {
            push_list(&mut out, from, |out, (text, _)| out.push_str(text));
            rest = &after[1..];
        } else if mark == b'$' && after.starts_with('~') {
            push_list(&mut out, from, |out, (text, ty)| {
                out.push_str(text);
                out.push(',');
                push_type(out, ty);
            });
            rest = &after[1..];
        } else if digits == 0 {
            // A mark of its own, e.g. SQLite's modulo.
            out.push(char::from(mark));
        } else {
            if let Some((text, ty)) = from.first() {
                if mark == b'$' {
                    out.push_str(text)
                } else {
                    push_type(&mut out, ty)
                }
            } else {
                out.push_str("NULL");
            }
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn push_list(
    out: &mut String,
    args: &[(String, PgType)],
    mut push: impl FnMut(&mut String, &(String, PgType)),
) {
    for (index, arg) in args.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push(out, arg);
    }
}

/// `oid,typmod`, as the functions that need a type at run time take it.
pub(super) fn push_type(out: &mut String, ty: &PgType) {
    use std::fmt::Write;
    let (oid, typmod) = ty.at_run_time();
    write!(out, "{oid},{typmod}").expect("writing to a String cannot fail");
}
