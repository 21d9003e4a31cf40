//! Analyzed expressions, and how each becomes a value of a wanted type.

use springhead_proto::{CollectionId, ErrorCode, SqlError, ValueRef};
use sqlparser::tokenizer::Location;

use crate::functions::{self, CastContext};
use crate::lift::LiteralClass;
use crate::plan::{Assigned, OutputColumn};
use crate::types::{self, PgType};

use super::Analyzer;
use super::names::quote_text;

/// An expression whose meaning is known.
#[derive(Debug, Clone)]
pub(crate) struct Typed {
    pub(crate) node: Node,
    /// [`PgType::Unknown`] while the context decides.
    pub(crate) ty: PgType,
    /// False only if it is never NULL.
    pub(crate) nullable: bool,
    /// The table column that it is, unchanged.
    pub(crate) origin: Option<(CollectionId, u32)>,
    pub(crate) place: Location,
}

/// What an expression is made of.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// SQLite text, closed: it can be an operand anywhere.
    Sql(String),
    /// NULL without a type.
    Null,
    /// A string constant whose type the context decides.
    Literal(String),
    /// A number constant, with its sign.
    Number(String),
    /// A parameter, by index from 0.
    Param(usize),
    /// ROW(…), for comparisons.
    Row(Vec<Typed>),
}

impl Typed {
    pub(crate) fn new(sql: String, ty: PgType) -> Typed {
        Typed {
            node: Node::Sql(sql),
            ty,
            nullable: true,
            origin: None,
            place: Location::empty(),
        }
    }

    pub(crate) fn null() -> Typed {
        Typed::of(Node::Null, PgType::Unknown, true)
    }

    pub(crate) fn literal(text: String) -> Typed {
        Typed::of(Node::Literal(text), PgType::Unknown, false)
    }

    pub(crate) fn number(text: String) -> Typed {
        let ty = LiteralClass::of_number(&text).pg_type();
        Typed::of(Node::Number(text), ty, false)
    }

    pub(crate) fn bool(sql: String) -> Typed {
        Typed::new(sql, PgType::Bool)
    }

    /// `ROW(…)`.
    pub(crate) fn row(values: Vec<Typed>) -> Typed {
        let types = values.iter().map(Analyzer::settled).collect();
        Typed::of(Node::Row(values), PgType::Record(types), false)
    }

    fn of(node: Node, ty: PgType, nullable: bool) -> Typed {
        Typed {
            node,
            ty,
            nullable,
            origin: None,
            place: Location::empty(),
        }
    }

    #[must_use]
    pub(crate) fn placed(mut self, place: Location) -> Typed {
        if self.place.line == 0 {
            self.place = place;
        }
        self
    }

    #[must_use]
    pub(crate) fn not_null(mut self) -> Typed {
        self.nullable = false;
        self
    }

    /// As a column of a result.
    pub(crate) fn into_column(self, name: String) -> OutputColumn {
        OutputColumn {
            name,
            pg_type: self.ty,
            origin: self.origin,
            nullable: self.nullable,
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.ty == PgType::Unknown
    }

    /// Whether it is a constant or a parameter: the same for every row.
    pub(crate) fn is_constant(&self) -> bool {
        matches!(
            self.node,
            Node::Null | Node::Literal(_) | Node::Number(_) | Node::Param(_)
        )
    }
}

/// The SQLite text of a storage value.
pub(crate) fn value_text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        // SQLite reads the digits of the least integer as a real, then negates.
        ValueRef::Integer(i64::MIN) => "(-9223372036854775807-1)".to_owned(),
        ValueRef::Integer(value) if value < 0 => format!("({value})"),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) if value == f64::INFINITY => "9e999".to_owned(),
        ValueRef::Real(value) if value == f64::NEG_INFINITY => "(-9e999)".to_owned(),
        ValueRef::Real(value) if value < 0.0 || value.is_sign_negative() => format!("({value:e})"),
        ValueRef::Real(value) => format!("{value:e}"),
        ValueRef::Text(text) if text.contains('\0') => {
            format!(
                "CAST({} AS TEXT)",
                value_text(ValueRef::Blob(text.as_bytes()))
            )
        }
        ValueRef::Text(text) => quote_text(text),
        ValueRef::Blob(bytes) => {
            use std::fmt::Write;
            let mut out = String::with_capacity(bytes.len() * 2 + 3);
            out.push_str("x'");
            for byte in bytes {
                write!(out, "{byte:02x}").expect("writing to a String cannot fail");
            }
            out.push('\'');
            out
        }
    }
}

fn cannot_coerce(from: &PgType, to: &PgType) -> SqlError {
    SqlError::new(
        ErrorCode::CannotCoerce,
        format!(
            "cannot cast type {} to {}",
            from.base_name(),
            to.base_name()
        ),
    )
}

/// A type that a parameter or literal is read as before a cast to `ty` applies its modifier.
fn base_of(ty: &PgType) -> PgType {
    match ty {
        PgType::Varchar(Some(_)) => PgType::Varchar(None),
        PgType::Char(_) => PgType::Text,
        PgType::Numeric(_) => PgType::Numeric(None),
        // Its name, which is looked up when the statement runs.
        PgType::Reg(_) => PgType::Text,
        PgType::Array(element) => base_of(element).array(),
        PgType::Precise(moment, _) => moment.plain(),
        PgType::Domain(user) => base_of(user.base()),
        other => other.clone(),
    }
}

/// Whether a number written as `class` can be read as `to` at once, with the result that PostgreSQL
/// gets by casting it.
fn reads_as(class: &PgType, to: &PgType) -> bool {
    match class {
        PgType::Int4 => matches!(
            to,
            PgType::Int4 | PgType::Int8 | PgType::Float8 | PgType::Numeric(_) | PgType::Oid
        ),
        PgType::Int8 => matches!(to, PgType::Int8 | PgType::Float8 | PgType::Numeric(_)),
        PgType::Numeric(_) => matches!(to, PgType::Float8 | PgType::Numeric(_)),
        _ => false,
    }
}

impl Analyzer<'_> {
    /// The SQLite text of an expression as it is, in its own type; a type still open becomes text.
    pub(crate) fn text(&mut self, value: &Typed) -> Result<String, SqlError> {
        let ty = if value.is_unknown() {
            PgType::Text
        } else {
            value.ty.clone()
        };
        self.coerce(value, &ty, CastContext::Implicit)
    }

    /// The type that an expression has once nothing more is known.
    pub(crate) fn settled(value: &Typed) -> PgType {
        if value.is_unknown() {
            PgType::Text
        } else {
            value.ty.clone()
        }
    }

    /// The SQLite text of an expression as a value of `target`.
    ///
    /// # Errors
    /// 42846 (or 42804 on assignment) if PostgreSQL has no such cast here, and what reading a
    /// constant says.
    pub(crate) fn coerce(
        &mut self,
        value: &Typed,
        target: &PgType,
        context: CastContext,
    ) -> Result<String, SqlError> {
        if let PgType::Domain(user) = target {
            return self.coerce_to_domain(value, user, context);
        }
        match &value.node {
            Node::Null => Ok("NULL".to_owned()),
            Node::Literal(text) if matches!(target, PgType::Reg(_)) => {
                let PgType::Reg(reg) = target else {
                    unreachable!("just matched")
                };
                super::system::reg_constant(self.catalog, self.context, *reg, text)
                    .map(|oid| oid.to_string())
                    .map_err(|error| self.at(error, value.place))
            }
            Node::Literal(text) => {
                let read = if context == CastContext::Explicit {
                    types::input_explicit
                } else {
                    types::input
                };
                let constant = read(target, text).map_err(|error| self.at(error, value.place))?;
                Ok(value_text(constant.as_ref()))
            }
            Node::Number(text) if reads_as(&value.ty, target) => {
                let constant =
                    types::input(target, text).map_err(|error| self.at(error, value.place))?;
                Ok(value_text(constant.as_ref()))
            }
            Node::Number(text) => {
                let constant =
                    types::input(&value.ty, text).map_err(|error| self.at(error, value.place))?;
                self.cast_text(
                    &value_text(constant.as_ref()),
                    value,
                    &value.ty,
                    target,
                    context,
                )
            }
            Node::Param(index) => self.coerce_parameter(*index, value, target, context),
            Node::Sql(sql) => self.cast_text(sql, value, &value.ty, target, context),
            Node::Row(values) => {
                let row = self.row_text(values)?;
                self.cast_text(&row, value, &value.ty, target, context)
            }
        }
    }

    /// A row as one value.
    fn row_text(&mut self, values: &[Typed]) -> Result<String, SqlError> {
        let mut arguments = Vec::with_capacity(values.len());
        for value in values {
            let ty = Self::settled(value);
            if matches!(ty, PgType::Reg(_)) {
                let what = format!("a {} within a row as a value", ty.base_name());
                return Err(self.at(SqlError::unsupported(what), value.place));
            }
            let (oid, typmod) = ty.at_run_time();
            arguments.push(format!("{},{oid},{typmod}", self.text(value)?));
        }
        Ok(format!("sh_record({})", arguments.join(",")))
    }

    fn coerce_parameter(
        &mut self,
        index: usize,
        value: &Typed,
        target: &PgType,
        context: CastContext,
    ) -> Result<String, SqlError> {
        let text = format!("?{}", index + 1);
        let known = self.parameter_type(index);
        let bound_as = if known == PgType::Unknown {
            if context == CastContext::Explicit || matches!(target, PgType::Reg(_)) {
                base_of(target)
            } else {
                target.clone()
            }
        } else if self.is_lifted(index) && reads_as(&known, target) {
            base_of(target)
        } else {
            known
        };
        if !self.decide(index, &bound_as) {
            // Only a lifted literal that was analyzed twice gets here; its statement is planned as
            // it was written.
            return Err(SqlError::new(
                ErrorCode::DatatypeMismatch,
                format!("inconsistent types deduced for parameter ${}", index + 1),
            ));
        }
        self.cast_text(&text, value, &bound_as, target, context)
    }

    fn cast_text(
        &self,
        sql: &str,
        value: &Typed,
        from: &PgType,
        target: &PgType,
        context: CastContext,
    ) -> Result<String, SqlError> {
        if from == target {
            return Ok(sql.to_owned());
        }
        let cast = if context == CastContext::Explicit {
            functions::cast(from, target)
        } else {
            functions::assign(from, target).filter(|cast| cast.context <= context)
        };
        match cast {
            // What a table keeps cannot depend on names.
            Some(cast) if self.rules.place.is_some() && cast.asks_catalog() => Err(self.at(
                SqlError::unsupported(format_args!(
                    "a cast from {} to {} in {}",
                    from.base_name(),
                    target.base_name(),
                    self.rules.place.unwrap_or_default()
                )),
                value.place,
            )),
            Some(cast) => Ok(cast.render(sql)),
            None => Err(self.at(cannot_coerce(from, target), value.place)),
        }
    }

    /// The SQLite text of an expression that is stored in a column.
    ///
    /// # Errors
    /// 42804 if its type does not fit, and what reading a constant says.
    pub(crate) fn assign(
        &mut self,
        value: &Typed,
        column: &crate::catalog::Column,
        table: &str,
    ) -> Result<String, SqlError> {
        // What a domain demands, the table checks.
        let mut target = &column.pg_type;
        while let PgType::Domain(user) = target {
            target = user.base();
        }
        if let Node::Param(index) = value.node {
            let known = self.parameter_type(index);
            if known == PgType::Unknown
                || known == *target
                || (self.is_lifted(index) && reads_as(&known, target))
            {
                let assigned = Assigned {
                    table: table.to_owned(),
                    column: column.name.clone(),
                    not_null: column.not_null && !self.late_checks,
                };
                if self.assign_parameter(index, target, assigned) {
                    return Ok(format!("?{}", index + 1));
                }
            }
        }
        self.coerce(value, target, CastContext::Assignment)
            .map_err(|error| {
                if error.code != ErrorCode::CannotCoerce {
                    return error;
                }
                let message = format!(
                    "column \"{}\" is of type {} but expression is of type {}",
                    column.name,
                    target.base_name(),
                    value.ty.base_name()
                );
                let error = SqlError::new(ErrorCode::DatatypeMismatch, message)
                    .with_hint("You will need to rewrite or cast the expression.");
                self.at(error, value.place)
            })
    }

    /// As [`Analyzer::coerce`], still with a type.
    pub(crate) fn converted(
        &mut self,
        value: &Typed,
        target: &PgType,
        context: CastContext,
    ) -> Result<Typed, SqlError> {
        if value.ty == *target {
            return Ok(value.clone());
        }
        let sql = self.coerce(value, target, context)?;
        Ok(Typed {
            node: Node::Sql(sql),
            ty: target.of_value(),
            origin: None,
            ..value.clone()
        })
    }

    /// As [`Analyzer::converted`], and wrapped in the type's key function: equal values are the
    /// same bytes.
    pub(crate) fn key_text(&mut self, value: &Typed) -> Result<String, SqlError> {
        if let Node::Row(values) = &value.node {
            let keys = values
                .iter()
                .map(|value| self.key_text(value))
                .collect::<Result<Vec<_>, _>>()?;
            return Ok(format!("sh_row({})", keys.join(",")));
        }
        let ty = Self::settled(value);
        let sql = self.text(value)?;
        Ok(key_of(&ty, &sql))
    }
}

/// As [`key_of`], where it is the order that counts: arrays, whose stored forms are in none, are brought
/// into one.
pub(crate) fn order_of(ty: &PgType, sql: &str) -> String {
    let PgType::Array(element) = ty else {
        return key_of(ty, sql);
    };
    // The type 0 is none: that is refused if it is ever run.
    let (oid, typmod) = match **element {
        PgType::Enum(_) | PgType::Record(_) | PgType::Json | PgType::Jsonb => (0, 0),
        _ => element.at_run_time(),
    };
    format!("sh_array_order({sql},{oid},{typmod})")
}

/// `sql` wrapped in the type's key function, if it has one; of an enum, its value's place.
pub(crate) fn key_of(ty: &PgType, sql: &str) -> String {
    match (ty.key_function(), ty) {
        (Some(function), _) => format!("{function}({sql})"),
        (None, PgType::Enum(user)) => user.labels().order(sql),
        (None, _) => sql.to_owned(),
    }
}
