//! Scalar expressions.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, BinaryOperator, Expr, UnaryOperator, Value};
use sqlparser::tokenizer::Location;

use crate::catalog::{Catalog, Table};
use crate::functions::CastContext;
use crate::planner::PlanContext;
use crate::types::PgType;

use super::data_type::pg_type;
use super::scope::{Relation, Scope, ScopeColumn};
use super::typed::{Node, Typed};
use super::{Analyzer, Rules};

/// What an expression over one table's columns is for; it decides what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A column's DEFAULT: no columns.
    Default,
    Check,
    Generated,
    IndexKey,
    IndexPredicate,
    /// ALTER COLUMN … TYPE … USING: any function but volatile ones.
    Using,
}

/// The SQLite text of an expression over a table's columns (as `"c1"`, without a table), and its
/// type; [`PgType::Unknown`] for a bare string constant or NULL, whose text is then an SQLite
/// string to be read as whatever type it is assigned to.
///
/// # Errors
/// What is wrong with the expression; 42P17 or 0A000 for what its purpose does not allow.
pub fn table_expression(
    catalog: &Catalog,
    table: &Table,
    expr: &Expr,
    purpose: Purpose,
) -> Result<(String, PgType), SqlError> {
    let context = PlanContext::default();
    let mut analyzer = Analyzer::new(catalog, "", &context, &[], usize::MAX);
    let place = match purpose {
        Purpose::Default => "DEFAULT expressions",
        Purpose::Check => "check constraints",
        Purpose::Generated => "column generation expressions",
        Purpose::IndexKey => "index expressions",
        Purpose::IndexPredicate => "index predicates",
        Purpose::Using => "transform expressions",
    };
    analyzer.rules = Rules {
        place: Some(place),
        no_subqueries: true,
        no_parameters: true,
        immutable_only: matches!(
            purpose,
            Purpose::Generated | Purpose::IndexKey | Purpose::IndexPredicate
        ),
        no_volatile: !matches!(purpose, Purpose::Default | Purpose::Using),
    };
    let scope = if purpose == Purpose::Default {
        Scope::default()
    } else {
        table_scope(table, None)
    };
    let value = analyzer.in_scope(
        Scope {
            aggregates_refused: Some(place),
            windows_refused: Some(place),
            ..scope
        },
        |analyzer| match purpose {
            Purpose::Check | Purpose::IndexPredicate => analyzer.condition_value(expr, place),
            Purpose::Default | Purpose::Generated | Purpose::IndexKey | Purpose::Using => {
                analyzer.expression(expr)
            }
        },
    )?;
    let ty = value.ty.clone();
    Ok((analyzer.text(&value)?, ty))
}

/// The scope of one table's columns; `id` is its alias in SQLite, none for bare column names.
pub(crate) fn table_scope(table: &Table, id: Option<&str>) -> Scope {
    let relation = table_relation(table, &table.name.name, id);
    Scope {
        columns: relation.columns.clone(),
        relations: vec![relation],
        ..Scope::default()
    }
}

/// A table as a FROM item.
pub(crate) fn table_relation(table: &Table, alias: &str, id: Option<&str>) -> Relation {
    let sql = |column: &crate::catalog::Column| match id {
        Some(id) => format!("{id}.\"{}\"", column.storage_name()),
        None => format!("\"{}\"", column.storage_name()),
    };
    Relation {
        alias: alias.to_owned(),
        schema: (alias == table.name.name).then(|| table.name.schema.clone()),
        id: id.unwrap_or_default().to_owned(),
        columns: table
            .visible_columns()
            .map(|(_, column)| ScopeColumn {
                name: column.name.clone(),
                sql: sql(column),
                ty: column.pg_type.of_value(),
                nullable: !column.not_null,
                origin: Some((table.collection(), column.id)),
                used: None,
            })
            .collect(),
        key: table
            .key
            .iter()
            .map(|&place| sql(&table.columns[place]))
            .collect(),
        is_scalar: false,
        table_oid: Some(crate::system::oids::table(table)),
    }
}

impl Analyzer<'_> {
    /// Analyzes an expression.
    ///
    /// # Errors
    /// What PostgreSQL says of it; 0A000 for what has no equal meaning here.
    pub(crate) fn expression(&mut self, expr: &Expr) -> Result<Typed, SqlError> {
        let marks = self.ungrouped_marks();
        let mut value = self.nested(|analyzer| analyzer.expression_inside(expr))?;
        if let Node::Sql(sql) = &value.node {
            let sql = sql.clone();
            self.settle_grouped(&sql, &marks);
        }
        if value.place.line == 0 {
            value.place = place_of(expr);
        }
        Ok(value)
    }

    /// The SQLite text of a condition: boolean, as WHERE takes it.
    ///
    /// # Errors
    /// 42804 if it is not boolean.
    pub(crate) fn condition(&mut self, expr: &Expr, construct: &str) -> Result<String, SqlError> {
        let value = self.condition_value(expr, construct)?;
        self.text(&value)
    }

    /// As [`Analyzer::condition`].
    pub(crate) fn condition_value(
        &mut self,
        expr: &Expr,
        construct: &str,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        self.boolean(value, construct)
    }

    pub(crate) fn boolean(&mut self, value: Typed, construct: &str) -> Result<Typed, SqlError> {
        if value.ty == PgType::Bool || value.is_unknown() {
            return self.converted(&value, &PgType::Bool, CastContext::Implicit);
        }
        let error = SqlError::new(
            ErrorCode::DatatypeMismatch,
            format!(
                "argument of {construct} must be type boolean, not type {}",
                value.ty.base_name()
            ),
        );
        Err(self.at(error, value.place))
    }

    fn expression_inside(&mut self, expr: &Expr) -> Result<Typed, SqlError> {
        match expr {
            Expr::Identifier(ident) => {
                if let Some(value) = self.typed_null(ident)? {
                    return Ok(value);
                }
                match self.special_word(ident)? {
                    Some(value) => Ok(value),
                    None => self.column(ident),
                }
            }
            Expr::CompoundIdentifier(idents) => self.qualified_column(idents),
            Expr::Nested(inner) => self.expression(inner),
            Expr::Value(value) => self.constant_value(&value.value, value.span.start),
            Expr::TypedString(typed) => {
                let ty = pg_type(self.catalog, &typed.data_type)
                    .map_err(|error| self.at(error, typed.value.span.start))?;
                let text = self.constant_value(&typed.value.value, typed.value.span.start)?;
                self.converted(&text, &ty, CastContext::Explicit)
            }
            Expr::Interval(interval) => self.interval(interval),
            Expr::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => self.cast(expr, data_type),
            Expr::UnaryOp { op, expr: operand } => self.unary(*op, operand, place_of(expr)),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right),
            Expr::IsTrue(inner) => self.is_truth(inner, "IS TRUE", " IS TRUE"),
            Expr::IsNotTrue(inner) => self.is_truth(inner, "IS NOT TRUE", " IS NOT TRUE"),
            Expr::IsFalse(inner) => self.is_truth(inner, "IS FALSE", " IS FALSE"),
            Expr::IsNotFalse(inner) => self.is_truth(inner, "IS NOT FALSE", " IS NOT FALSE"),
            Expr::IsUnknown(inner) => self.is_truth(inner, "IS UNKNOWN", " IS NULL"),
            Expr::IsNotUnknown(inner) => self.is_truth(inner, "IS NOT UNKNOWN", " IS NOT NULL"),
            Expr::IsNull(inner) => self.is_null(inner, false),
            Expr::IsNotNull(inner) => self.is_null(inner, true),
            Expr::IsDistinctFrom(left, right) => self.is_distinct(left, right, true),
            Expr::IsNotDistinctFrom(left, right) => self.is_distinct(left, right, false),
            Expr::Between {
                expr,
                negated,
                low,
                high,
            } => self.between(expr, *negated, low, high),
            Expr::InList {
                expr,
                list,
                negated,
            } => self.in_list(expr, list, *negated),
            Expr::InSubquery {
                expr,
                subquery,
                negated,
            } => self.in_subquery(expr, subquery, *negated),
            Expr::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => self.any_or_all(left, compare_op, right, false),
            Expr::AllOp {
                left,
                compare_op,
                right,
            } => self.any_or_all(left, compare_op, right, true),
            Expr::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self.like(expr, pattern, escape_char.as_deref(), *negated, false),
            Expr::ILike {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self.like(expr, pattern, escape_char.as_deref(), *negated, true),
            Expr::SimilarTo {
                negated,
                expr,
                pattern,
                escape_char,
            } => self.similar_to(expr, pattern, escape_char.as_deref(), *negated),
            Expr::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(operand.as_deref(), conditions, else_result.as_deref()),
            Expr::Exists { subquery, negated } => self.exists(subquery, *negated),
            Expr::Subquery(query) => self.scalar_subquery(query, place_of(expr)),
            Expr::Tuple(values) => {
                let values = values
                    .iter()
                    .map(|value| self.expression(value))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Typed::row(values))
            }
            Expr::Array(array) => self.array(array),
            Expr::CompoundFieldAccess { root, access_chain } => self.subscript(root, access_chain),
            Expr::Function(function) => self.function(function),
            Expr::Collate { expr, collation } => self.collate(expr, collation),
            Expr::AtTimeZone { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. } => self.grammar_function(expr),
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => {
                Err(SqlError::unsupported("GROUPING SETS, CUBE or ROLLUP"))
            }
            other => Err(self.at(
                SqlError::unsupported(format_args!("the expression {other}")),
                place_of(expr),
            )),
        }
    }

    fn constant_value(&mut self, value: &Value, place: Location) -> Result<Typed, SqlError> {
        let constant = match value {
            Value::Number(text, false) => self.number(text, place)?,
            // A national literal is a `character` value, whose trailing blanks mean nothing.
            Value::NationalStringLiteral(text) => {
                Typed::literal(text.trim_end_matches(' ').to_owned())
            }
            Value::SingleQuotedString(text)
            // The parser has already undone the escapes of these two.
            | Value::EscapedStringLiteral(text)
            | Value::UnicodeStringLiteral(text) => Typed::literal(text.clone()),
            Value::DollarQuotedString(quoted) => Typed::literal(quoted.value.clone()),
            Value::Boolean(value) => {
                Typed::new(if *value { "1" } else { "0" }.to_owned(), PgType::Bool).not_null()
            }
            Value::Null => Typed::null(),
            Value::Placeholder(placeholder) if self.frame.is_some() => {
                let number = placeholder.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
                let parameter = number.and_then(|number| {
                    self.frame.as_ref()?.parameters.get(number.checked_sub(1)?).cloned()
                });
                match parameter {
                    Some(parameter) => parameter.typed(),
                    None => {
                        let error = SqlError::new(
                            ErrorCode::UndefinedParameter,
                            format!("there is no parameter {placeholder}"),
                        );
                        return Err(self.at(error, place));
                    }
                }
            }
            Value::Placeholder(placeholder) => {
                let index = self.parameter(placeholder).map_err(|error| self.at(error, place))?;
                let ty = self.parameter_type(index);
                Typed { node: Node::Param(index), ty, nullable: !self.is_lifted(index), origin: None, place }
            }
            other => return Err(self.at(SqlError::unsupported(format_args!("the literal {other}")), place)),
        };
        Ok(constant.placed(place))
    }

    fn number(&self, text: &str, place: Location) -> Result<Typed, SqlError> {
        let text = text.replace('_', "");
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
        if !plain {
            return Err(self.at(
                SqlError::unsupported(format_args!("the number {text}")),
                place,
            ));
        }
        Ok(Typed::number(text))
    }

    fn cast(&mut self, expr: &Expr, data_type: &ast::DataType) -> Result<Typed, SqlError> {
        let ty = pg_type(self.catalog, data_type)?;
        if let (Expr::Array(array), PgType::Array(element)) = (expr, &ty) {
            return self.array_of(&array.elem, Some((**element).clone()));
        }
        let value = self.expression(expr)?;
        self.converted(&value, &ty, CastContext::Explicit)
    }

    /// `INTERVAL '1 day'`, `INTERVAL '1' DAY`.
    fn interval(&mut self, interval: &ast::Interval) -> Result<Typed, SqlError> {
        let value = self.expression(&interval.value)?;
        let Node::Literal(text) = &value.node else {
            return Err(self.at(
                SqlError::unsupported("INTERVAL of something other than a string"),
                value.place,
            ));
        };
        if interval.last_field.is_some()
            || interval.leading_precision.is_some()
            || interval.fractional_seconds_precision.is_some()
        {
            return Err(self.at(
                SqlError::unsupported("INTERVAL with a range of fields"),
                value.place,
            ));
        }
        let text = match &interval.leading_field {
            // A bare number counts what the field names; a text that names its units speaks for itself.
            Some(field) if text.trim().parse::<f64>().is_ok() => format!("{text} {field}"),
            _ => text.clone(),
        };
        let literal = Typed::literal(text).placed(value.place);
        self.converted(&literal, &PgType::Interval, CastContext::Explicit)
    }

    fn unary(
        &mut self,
        op: UnaryOperator,
        operand: &Expr,
        place: Location,
    ) -> Result<Typed, SqlError> {
        let symbol = match op {
            UnaryOperator::Not => {
                let value = self.condition_value(operand, "NOT")?;
                let nullable = value.nullable;
                let sql = format!("(NOT {})", self.text(&value)?);
                return Ok(Typed {
                    nullable,
                    ..Typed::bool(sql)
                });
            }
            UnaryOperator::Plus => "+",
            UnaryOperator::Minus => {
                // PostgreSQL folds the sign into a constant, which decides the constant's type.
                if let Expr::Value(value) = operand
                    && let Value::Number(text, false) = &value.value
                {
                    let digits = self.number(text, value.span.start)?;
                    if let Node::Number(text) = digits.node {
                        return Ok(Typed::number(format!("-{text}")).placed(place));
                    }
                }
                "-"
            }
            UnaryOperator::BitwiseNot => "~",
            UnaryOperator::PGAbs => "@",
            UnaryOperator::PGSquareRoot => "|/",
            UnaryOperator::PGCubeRoot => "||/",
            other => {
                return Err(self.at(
                    SqlError::unsupported(format_args!("operator {other}")),
                    place,
                ));
            }
        };
        // A sign binds tighter than a power, which the parser does not know: -3 ^ 2 is 9.
        if let Expr::BinaryOp {
            left,
            op: power @ BinaryOperator::PGExp,
            right,
        } = operand
        {
            let signed = Expr::UnaryOp {
                op,
                expr: left.clone(),
            };
            return self.binary(&signed, power, right);
        }
        let value = self.expression(operand)?;
        let place = value.place;
        self.operator(symbol, &[value], place)
    }

    fn binary(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
    ) -> Result<Typed, SqlError> {
        if let Some(plain) = super::operators::plain_operator(op) {
            return self.binary(left, &plain, right);
        }
        match op {
            BinaryOperator::And | BinaryOperator::Or => return self.logic(left, op, right),
            BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq => {
                let left = self.expression(left)?;
                let right = self.expression(right)?;
                return self.compare(op, &left, &right);
            }
            BinaryOperator::PGLikeMatch => return self.like(left, right, None, false, false),
            BinaryOperator::PGNotLikeMatch => return self.like(left, right, None, true, false),
            BinaryOperator::PGILikeMatch => return self.like(left, right, None, false, true),
            BinaryOperator::PGNotILikeMatch => return self.like(left, right, None, true, true),
            BinaryOperator::Overlaps => return self.overlaps(left, right),
            _ => {}
        }
        let symbol = super::operators::symbol_of(op)?;
        let left = self.left_operand(&symbol, left)?;
        let right = self.expression(right)?;
        let place = left.place;
        if symbol == "||" {
            return self.concatenate(&left, &right, place);
        }
        self.operator(&symbol, &[left, right], place)
    }

    /// AND and OR; a long chain is walked in a loop, so that it needs no deep stack.
    fn logic(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Typed, SqlError> {
        let mut operands = vec![right];
        let mut rest = left;
        while let Expr::BinaryOp {
            left,
            op: inner,
            right,
        } = rest
        {
            if inner != op {
                break;
            }
            operands.push(right);
            rest = left;
        }
        operands.push(rest);
        let word = if *op == BinaryOperator::And {
            "AND"
        } else {
            "OR"
        };
        let mut texts = Vec::with_capacity(operands.len());
        let mut nullable = false;
        for operand in operands.into_iter().rev() {
            let value = self.condition_value(operand, word)?;
            nullable |= value.nullable;
            texts.push(self.text(&value)?);
        }
        let sql = format!("({})", texts.join(&format!(" {word} ")));
        Ok(Typed {
            nullable,
            ..Typed::bool(sql)
        })
    }

    fn is_truth(&mut self, inner: &Expr, construct: &str, test: &str) -> Result<Typed, SqlError> {
        let value = self.condition_value(inner, construct)?;
        let text = self.text(&value)?;
        Ok(Typed::bool(format!("({text}{test})")).not_null())
    }

    fn is_null(&mut self, inner: &Expr, negated: bool) -> Result<Typed, SqlError> {
        let value = self.expression(inner)?;
        let test = if negated { "IS NOT NULL" } else { "IS NULL" };
        if let Node::Row(values) = &value.node {
            // A row is (not) null if each of its values is.
            let mut texts = Vec::with_capacity(values.len());
            for value in values {
                texts.push(format!("{} {test}", self.text(value)?));
            }
            return Ok(Typed::bool(format!("({})", texts.join(" AND "))).not_null());
        }
        if matches!(value.ty, PgType::Record(_)) {
            return Err(SqlError::unsupported(format_args!(
                "{test} of a row as a value"
            )));
        }
        let text = self.text(&value)?;
        Ok(Typed::bool(format!("({text} {test})")).not_null())
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        conditions: &[ast::CaseWhen],
        else_result: Option<&Expr>,
    ) -> Result<Typed, SqlError> {
        let operand = operand
            .map(|operand| self.expression(operand))
            .transpose()?;
        let mut tests = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for when in conditions {
            let test = match &operand {
                None => self.condition_value(&when.condition, "CASE/WHEN")?,
                Some(operand) => {
                    let value = self.expression(&when.condition)?;
                    self.compare(&BinaryOperator::Eq, operand, &value)?
                }
            };
            tests.push(self.text(&test)?);
            results.push(self.expression(&when.result)?);
        }
        let has_else = else_result.is_some();
        let nullable = !has_else;
        results.push(match else_result {
            Some(result) => self.expression(result)?,
            None => Typed::null(),
        });
        // PostgreSQL starts from ELSE when it looks for the common type.
        let mut all: Vec<&Typed> = vec![&results[results.len() - 1]];
        all.extend(&results[..results.len() - 1]);
        let ty = self.common_type_of("CASE", &all)?;
        let nullable = nullable || results.iter().any(|result| result.nullable);
        let mut sql = String::from("CASE");
        for (test, result) in tests.iter().zip(&results) {
            let result = self.coerce(result, &ty, CastContext::Implicit)?;
            sql.push_str(&format!(" WHEN {test} THEN {result}"));
        }
        if has_else {
            let result = self.coerce(&results[results.len() - 1], &ty, CastContext::Implicit)?;
            sql.push_str(&format!(" ELSE {result}"));
        }
        sql.push_str(" END");
        Ok(Typed {
            nullable,
            ..Typed::new(format!("({sql})"), ty)
        })
    }

    fn collate(&mut self, expr: &Expr, collation: &ast::ObjectName) -> Result<Typed, SqlError> {
        let name = super::names::parts(collation)?.pop().unwrap_or_default();
        // Text compares by bytes throughout, which is what these mean.
        if !matches!(name.as_str(), "C" | "POSIX" | "default" | "ucs_basic") {
            let error = SqlError::new(
                ErrorCode::UndefinedObject,
                format!("collation \"{name}\" for encoding \"UTF8\" does not exist"),
            );
            return Err(error.with_hint("text is ordered by its bytes, as with COLLATE \"C\""));
        }
        self.expression(expr)
    }
}

/// Where an expression starts, as far as the parser says.
pub(crate) fn place_of(expr: &Expr) -> Location {
    match expr {
        Expr::Identifier(ident) => ident.span.start,
        Expr::CompoundIdentifier(idents) => idents
            .first()
            .map_or(Location::empty(), |ident| ident.span.start),
        Expr::Value(value) => value.span.start,
        Expr::Function(function) => name_place(&function.name),
        Expr::BinaryOp { left, .. } => place_of(left),
        Expr::Cast { expr, .. } | Expr::Nested(expr) | Expr::UnaryOp { expr, .. } => place_of(expr),
        Expr::TypedString(typed) => typed.value.span.start,
        Expr::Case { case_token, .. } => case_token.0.span.start,
        _ => Location::empty(),
    }
}

/// Where a name starts.
pub(crate) fn name_place(name: &ast::ObjectName) -> Location {
    name.0
        .first()
        .and_then(|part| part.as_ident())
        .map_or(Location::empty(), |ident| ident.span.start)
}
