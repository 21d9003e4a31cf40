//! Comparisons: = and its kin, rows, BETWEEN, IN, ANY, ALL, IS DISTINCT FROM, LIKE.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, BinaryOperator, Expr, Spanned};

use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::typed::{Node, Typed, key_of, order_of};

impl Analyzer<'_> {
    /// `left op right`, both analyzed.
    ///
    /// # Errors
    /// 42883 if the types cannot be compared.
    pub(crate) fn compare(
        &mut self,
        op: &BinaryOperator,
        left: &Typed,
        right: &Typed,
    ) -> Result<Typed, SqlError> {
        if let (Node::Row(left), Node::Row(right)) = (&left.node, &right.node) {
            return self.compare_rows(op, left, right);
        }
        let symbol = sqlite_operator(op)?;
        let nullable = left.nullable || right.nullable;
        let (left, right) = self.comparable(op, left, right)?;
        Ok(Typed {
            nullable,
            ..Typed::bool(format!("({left} {symbol} {right})"))
        })
    }

    /// Both operands in one type and so that SQLite's comparison of the texts is PostgreSQL's.
    fn comparable(
        &mut self,
        op: &BinaryOperator,
        left: &Typed,
        right: &Typed,
    ) -> Result<(String, String), SqlError> {
        if let Some(texts) = self.scaled_comparison(left, right)? {
            return Ok(texts);
        }
        if let Some(texts) = self.padded_comparison(op, left, right)? {
            return Ok(texts);
        }
        let ty = self.comparison_type(op, left, right)?;
        let left = self.comparison_text(left, &ty)?;
        let right = self.comparison_text(right, &ty)?;
        let is_order = !matches!(op, BinaryOperator::Eq | BinaryOperator::NotEq);
        if is_order && matches!(ty, PgType::Enum(_) | PgType::Array(_)) {
            return Ok((order_of(&ty, &left), order_of(&ty, &right)));
        }
        Ok((left, right))
    }

    fn comparison_text(&mut self, value: &Typed, ty: &PgType) -> Result<String, SqlError> {
        // Dates and timestamps, and integers of any width, compare as they are stored.
        let text = if compares_as_stored(&value.ty, ty) && matches!(value.node, Node::Sql(_)) {
            self.text(value)?
        } else if matches!(ty, PgType::Char(_)) {
            self.coerce(value, &PgType::Text, CastContext::Implicit)?
        } else {
            self.coerce(value, ty, CastContext::Implicit)?
        };
        // Enums are equal as they are stored.
        Ok(match ty.key_function() {
            Some(_) => key_of(ty, &text),
            None => text,
        })
    }

    /// The type that two operands are compared in.
    pub(crate) fn comparison_type(
        &mut self,
        op: &BinaryOperator,
        left: &Typed,
        right: &Typed,
    ) -> Result<PgType, SqlError> {
        let fail = |analyzer: &Self| {
            analyzer.no_operator(
                &op.to_string(),
                &[left.ty.clone(), right.ty.clone()],
                left.place,
            )
        };
        let ty = match (&left.ty, &right.ty) {
            (PgType::Unknown, PgType::Unknown) => PgType::Text,
            // A string literal beside char(n) is padded no further: the key drops the blanks.
            (PgType::Unknown, known) | (known, PgType::Unknown) => match known {
                PgType::Varchar(_) | PgType::Name => PgType::Text,
                PgType::Char(_) => PgType::Char(1),
                other => other.clone(),
            },
            (left, right) => match comparison_type(left, right) {
                Some(ty) => ty,
                None => return Err(fail(self)),
            },
        };
        let has_operator = match &ty {
            PgType::Json | PgType::Void => false,
            PgType::Array(element) => !matches!(**element, PgType::Json),
            _ => true,
        };
        if !has_operator {
            return Err(fail(self));
        }
        Ok(ty)
    }

    /// Scaled numerics compare as integers once they have one scale: no function call, and an index
    /// can serve.
    fn scaled_comparison(
        &mut self,
        left: &Typed,
        right: &Typed,
    ) -> Result<Option<(String, String)>, SqlError> {
        if let (Some(a), Some(b)) = (left.ty.scaled(), right.ty.scaled())
            && a == b
        {
            return Ok(Some((self.text(left)?, self.text(right)?)));
        }
        let swap = left.ty.scaled().is_none();
        let (column, other) = if swap { (right, left) } else { (left, right) };
        let Some(scale) = column.ty.scaled() else {
            return Ok(None);
        };
        let Node::Number(text) = &other.node else {
            return Ok(None);
        };
        // A constant with no more digits than the column's type can be that type itself.
        let fraction = text
            .split_once('.')
            .map_or(0, |(_, fraction)| fraction.len());
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        let fits = fraction <= usize::from(scale)
            && digits - fraction.min(digits) + usize::from(scale)
                <= usize::from(crate::types::SCALED_PRECISION)
            && !text.contains(['e', 'E']);
        if !fits {
            return Ok(None);
        }
        let widest = PgType::Numeric(Some((crate::types::SCALED_PRECISION, scale)));
        let constant = self.coerce(other, &widest, CastContext::Implicit)?;
        let column = self.text(column)?;
        Ok(Some(if swap {
            (constant, column)
        } else {
            (column, constant)
        }))
    }

    /// char(n) is stored padded, so for equality the other side is padded too, and an index over the
    /// column can serve.
    fn padded_comparison(
        &mut self,
        op: &BinaryOperator,
        left: &Typed,
        right: &Typed,
    ) -> Result<Option<(String, String)>, SqlError> {
        if !matches!(op, BinaryOperator::Eq | BinaryOperator::NotEq) {
            return Ok(None);
        }
        if matches!(left.ty, PgType::Char(_)) && left.ty == right.ty {
            return Ok(Some((self.text(left)?, self.text(right)?)));
        }
        let swap = !matches!(left.ty, PgType::Char(_));
        let (column, other) = if swap { (right, left) } else { (left, right) };
        let PgType::Char(length) = column.ty else {
            return Ok(None);
        };
        if !other.is_unknown() {
            return Ok(None);
        }
        let padded = self.coerce(other, &PgType::Text, CastContext::Implicit)?;
        let padded = format!("sh_pad_char({padded},{length})");
        let column = self.text(column)?;
        Ok(Some(if swap {
            (padded, column)
        } else {
            (column, padded)
        }))
    }

    fn compare_rows(
        &mut self,
        op: &BinaryOperator,
        left: &[Typed],
        right: &[Typed],
    ) -> Result<Typed, SqlError> {
        if left.len() != right.len() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "unequal number of entries in row expressions",
            ));
        }
        let symbol = sqlite_operator(op)?;
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        for (left, right) in left.iter().zip(right) {
            let (left, right) = self.comparable(op, left, right)?;
            lefts.push(left);
            rights.push(right);
        }
        Ok(Typed::bool(format!(
            "(({}) {symbol} ({}))",
            lefts.join(","),
            rights.join(",")
        )))
    }

    pub(crate) fn is_distinct(
        &mut self,
        left: &Expr,
        right: &Expr,
        distinct: bool,
    ) -> Result<Typed, SqlError> {
        let (left, right) = match (self.record_of(left), self.record_of(right)) {
            (Some(left), Some(right)) => (left, right),
            _ => (self.expression(left)?, self.expression(right)?),
        };
        let symbol = if distinct { "IS NOT" } else { "IS" };
        let pairs: Vec<(&Typed, &Typed)> = match (&left.node, &right.node) {
            (Node::Row(left), Node::Row(right)) if left.len() == right.len() => {
                left.iter().zip(right).collect()
            }
            _ => vec![(&left, &right)],
        };
        let mut texts = Vec::with_capacity(pairs.len());
        for (left, right) in pairs {
            let (left, right) = self.comparable(&BinaryOperator::Eq, left, right)?;
            texts.push(format!("{left} {symbol} {right}"));
        }
        let word = if distinct { " OR " } else { " AND " };
        Ok(Typed::bool(format!("({})", texts.join(word))).not_null())
    }

    /// OLD or NEW of a trigger, as the row of its columns; `None` for every other expression.
    fn record_of(&self, expr: &Expr) -> Option<Typed> {
        let Expr::Identifier(ident) = expr else {
            return None;
        };
        let name = super::names::fold(ident);
        let scopes = self
            .scopes
            .iter()
            .rev()
            .take_while(|scope| !scope.columns.iter().any(|column| column.name == name));
        let mut records = scopes
            .filter(|scope| scope.is_frame)
            .flat_map(|scope| &scope.relations);
        let record = records.find(|record| record.alias == name && !record.is_scalar)?;
        let fields = record.columns.iter().map(|column| column.typed()).collect();
        Some(Typed::row(fields).placed(ident.span.start))
    }

    pub(crate) fn between(
        &mut self,
        expr: &Expr,
        negated: bool,
        low: &Expr,
        high: &Expr,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        let symmetric = self.is_symmetric(low);
        let low = self.expression(low)?;
        let high = self.expression(high)?;
        let (above, below, word) = if negated {
            (BinaryOperator::Lt, BinaryOperator::Gt, "OR")
        } else {
            (BinaryOperator::GtEq, BinaryOperator::LtEq, "AND")
        };
        let mut test = |low: &Typed, high: &Typed| -> Result<String, SqlError> {
            let above = self.compare(&above, &value, low)?;
            let below = self.compare(&below, &value, high)?;
            Ok(format!(
                "({} {word} {})",
                self.text(&above)?,
                self.text(&below)?
            ))
        };
        let mut sql = test(&low, &high)?;
        if symmetric {
            let swapped = test(&high, &low)?;
            sql = format!("({sql} {} {swapped})", if negated { "AND" } else { "OR" });
        }
        let nullable = value.nullable || low.nullable || high.nullable;
        Ok(Typed {
            nullable,
            ..Typed::bool(sql)
        })
    }

    /// Whether the lower bound follows a SYMMETRIC that the grammar took out.
    fn is_symmetric(&self, low: &Expr) -> bool {
        if self.marks.symmetric.is_empty() || !self.expanding.is_empty() {
            return false;
        }
        let start = super::offset(self.sql, low.span().start);
        self.marks.symmetric.iter().any(|&end| {
            self.sql
                .get(end..start)
                .is_some_and(|between| between.chars().all(|c| c.is_whitespace() || c == '('))
        })
    }

    pub(crate) fn in_list(
        &mut self,
        expr: &Expr,
        list: &[Expr],
        negated: bool,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        let items = list
            .iter()
            .map(|item| self.expression(item))
            .collect::<Result<Vec<_>, _>>()?;
        let word = if negated { "NOT IN" } else { "IN" };
        if matches!(value.node, Node::Row(_)) {
            return self.row_in_list(&value, &items, negated);
        }
        // One type for all, as PostgreSQL has it when one can be found.
        let mut all = vec![&value];
        all.extend(&items);
        let types: Vec<&PgType> = all.iter().map(|value| &value.ty).collect();
        let common = super::operators::common_type(&types);
        if let Some(common) = common
            && (!matches!(common, PgType::Numeric(_)) || types.iter().all(|ty| **ty == common))
        {
            let probe = Typed::new(String::new(), common);
            let ty = self.comparison_type(&BinaryOperator::Eq, &probe, &probe)?;
            let value_text = self.comparison_text(&value, &ty)?;
            let mut texts = Vec::with_capacity(items.len());
            for item in &items {
                texts.push(self.comparison_text(item, &ty)?);
            }
            let nullable = value.nullable || items.iter().any(|item| item.nullable);
            return Ok(Typed {
                nullable,
                ..Typed::bool(format!("({value_text} {word} ({}))", texts.join(",")))
            });
        }
        let mut texts = Vec::with_capacity(items.len());
        let (op, word) = if negated {
            (BinaryOperator::NotEq, " AND ")
        } else {
            (BinaryOperator::Eq, " OR ")
        };
        for item in &items {
            let test = self.compare(&op, &value, item)?;
            texts.push(self.text(&test)?);
        }
        Ok(Typed::bool(format!("({})", texts.join(word))))
    }

    fn row_in_list(
        &mut self,
        value: &Typed,
        items: &[Typed],
        negated: bool,
    ) -> Result<Typed, SqlError> {
        let mut texts = Vec::with_capacity(items.len());
        let (op, word) = if negated {
            (BinaryOperator::NotEq, " AND ")
        } else {
            (BinaryOperator::Eq, " OR ")
        };
        for item in items {
            let test = self.compare(&op, value, item)?;
            texts.push(self.text(&test)?);
        }
        Ok(Typed::bool(format!("({})", texts.join(word))))
    }

    pub(crate) fn in_subquery(
        &mut self,
        expr: &Expr,
        subquery: &ast::Query,
        negated: bool,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(expr)?;
        let values = match &value.node {
            Node::Row(values) => values.clone(),
            _ => vec![value.clone()],
        };
        let mut query = self.subquery(subquery)?;
        let types = query.types();
        if types.len() != values.len() {
            let few = if types.len() > values.len() {
                "many"
            } else {
                "few"
            };
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("subquery has too {few} columns"),
            ));
        }
        let mut texts = Vec::with_capacity(values.len());
        for (index, (value, ty)) in values.iter().zip(types).enumerate() {
            let probe = Typed::new(String::new(), ty);
            let ty = self.comparison_type(&BinaryOperator::Eq, value, &probe)?;
            texts.push(self.comparison_text(value, &ty)?);
            query.compare_column_as(self, index, &ty)?;
        }
        let left = if texts.len() == 1 {
            texts.remove(0)
        } else {
            format!("({})", texts.join(","))
        };
        let word = if negated { "NOT IN" } else { "IN" };
        let sql = query.into_sql(self)?;
        Ok(Typed::bool(format!("({left} {word} ({sql}))")))
    }

    /// `x op ANY (…)` and `x op ALL (…)`, over an array or a subquery.
    pub(crate) fn any_or_all(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        all: bool,
    ) -> Result<Typed, SqlError> {
        if let Expr::Subquery(query) = right {
            return match (op, all) {
                (BinaryOperator::Eq, false) => self.in_subquery(left, query, false),
                (BinaryOperator::NotEq, true) => self.in_subquery(left, query, true),
                _ => self.quantified_subquery(left, op, query, all),
            };
        }
        let value = self.expression(left)?;
        let array = match right {
            Expr::Nested(inner) => self.expression(inner)?,
            other => self.expression(other)?,
        };
        let element = match array.ty.element() {
            Some(element) => element.clone(),
            // '{…}' or a parameter: an array of what it is compared with.
            None if array.is_unknown() => Self::settled(&value).without_modifier(),
            None => {
                return Err(SqlError::new(
                    ErrorCode::WrongObjectType,
                    "op ANY/ALL (array) requires array on right side",
                ));
            }
        };
        let array_text = self.coerce(&array, &element.clone().array(), CastContext::Implicit)?;
        let id = self.fresh('e');
        let probe = Typed::new(self.element_value(&element, &id), element);
        if *op == BinaryOperator::Eq && !all {
            let ty = self.comparison_type(op, &value, &probe)?;
            let value_text = self.comparison_text(&value, &ty)?;
            let element_text = self.comparison_text(&probe, &ty)?;
            return Ok(Typed::bool(format!(
                "({value_text} IN (SELECT {element_text} FROM json_each({array_text}) AS {id}) AND {array_text} IS NOT NULL OR {array_text} IS NULL AND NULL)"
            )));
        }
        let test = match op {
            BinaryOperator::PGLikeMatch
            | BinaryOperator::PGILikeMatch
            | BinaryOperator::PGNotLikeMatch
            | BinaryOperator::PGNotILikeMatch => {
                return Err(SqlError::unsupported("LIKE ANY or LIKE ALL of an array"));
            }
            op => self.compare(op, &value, &probe)?,
        };
        let test = self.text(&test)?;
        Ok(quantified(
            &test,
            &format!("json_each({array_text}) AS {id}"),
            all,
            &format!("{array_text} IS NULL"),
        ))
    }

    fn quantified_subquery(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        query: &ast::Query,
        all: bool,
    ) -> Result<Typed, SqlError> {
        let value = self.expression(left)?;
        let mut query = self.subquery(query)?;
        let types = query.types();
        let [ty] = types.as_slice() else {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "subquery must return only one column",
            ));
        };
        query.settle(self)?;
        let ty = if *ty == PgType::Unknown {
            PgType::Text
        } else {
            ty.clone()
        };
        let id = self.fresh('e');
        let name = query.column_name(0);
        let probe = Typed::new(format!("{id}.{name}"), ty);
        let test = self.compare(op, &value, &probe)?;
        let test = self.text(&test)?;
        let sql = query.into_sql(self)?;
        Ok(quantified(&test, &format!("({sql}) AS {id}"), all, "0"))
    }
}

/// `ANY` and `ALL` with SQL's three values: a NULL among the comparisons leaves it open unless
/// another one decides. `empty` is the SQLite condition under which the answer is NULL at once.
fn quantified(test: &str, from: &str, all: bool, unknown: &str) -> Typed {
    let (decided, otherwise) = if all { ("0", "1") } else { ("1", "0") };
    let decisive = if all {
        format!("NOT {test}")
    } else {
        test.to_owned()
    };
    Typed::bool(format!(
        "(CASE WHEN {unknown} THEN NULL WHEN EXISTS (SELECT 1 FROM {from} WHERE {decisive}) THEN {decided} \
         WHEN EXISTS (SELECT 1 FROM {from} WHERE {test} IS NULL) THEN NULL ELSE {otherwise} END)"
    ))
}

/// Whether SQLite's comparison of the stored forms is PostgreSQL's of the values in `ty`.
fn compares_as_stored(from: &PgType, ty: &PgType) -> bool {
    let moment = |ty: &PgType| matches!(ty, PgType::Date | PgType::Timestamp | PgType::Timestamptz);
    let plain = |ty: &PgType| matches!(ty, PgType::Text | PgType::Varchar(_) | PgType::Name);
    (from.is_integer() || matches!(from, PgType::Reg(_))) && ty.is_integer()
        || moment(from) && moment(ty)
        || plain(from) && plain(ty)
        || from == ty
}

/// The type that PostgreSQL's operators compare these two in.
fn comparison_type(left: &PgType, right: &PgType) -> Option<PgType> {
    use PgType as T;
    if left == right {
        return Some(left.clone());
    }
    // An object id by name beside one without.
    match (left, right) {
        (T::Reg(_), T::Reg(_) | T::Oid) | (T::Oid, T::Reg(_)) => return Some(T::Oid),
        (T::Reg(_), other) if other.is_integer() => return Some(T::Int8),
        (other, T::Reg(_)) if other.is_integer() => return Some(T::Int8),
        _ => {}
    }
    if left.is_integer() && right.is_integer() {
        return Some(T::Int8);
    }
    if left.is_numeric() && right.is_numeric() {
        let float = |ty: &PgType| matches!(ty, T::Float4 | T::Float8);
        return Some(if float(left) || float(right) {
            T::Float8
        } else {
            T::Numeric(None)
        });
    }
    if left.is_string() && right.is_string() {
        return Some(match (left, right) {
            (T::Char(_), T::Char(_)) => T::Char(1),
            _ => T::Text,
        });
    }
    match (left, right) {
        (T::Date | T::Timestamp | T::Timestamptz, T::Date | T::Timestamp | T::Timestamptz) => {
            Some(T::Timestamptz)
        }
        (T::Time, T::Interval) | (T::Interval, T::Time) => Some(T::Interval),
        (T::Array(a), T::Array(b)) => (a.same_base(b)).then(|| left.clone()),
        _ => None,
    }
}

/// The least text with a pattern's fixed beginning, and the least text past all of them.
pub(super) fn prefix_range(pattern: &str) -> Option<(String, String)> {
    let end = pattern.find(['%', '_', '\\'])?;
    let prefix = &pattern[..end];
    if prefix.is_empty() || pattern.as_bytes()[end] == b'\\' {
        return None;
    }
    let mut high: Vec<char> = prefix.chars().collect();
    while let Some(last) = high.pop() {
        let next = match u32::from(last) + 1 {
            0xd800 => 0xe000,
            next => next,
        };
        if let Some(next) = char::from_u32(next) {
            high.push(next);
            return Some((prefix.to_owned(), high.into_iter().collect()));
        }
    }
    None
}

fn sqlite_operator(op: &BinaryOperator) -> Result<&'static str, SqlError> {
    Ok(match op {
        BinaryOperator::Eq => "=",
        BinaryOperator::NotEq => "<>",
        BinaryOperator::Lt => "<",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Gt => ">",
        BinaryOperator::GtEq => ">=",
        other => {
            return Err(SqlError::unsupported(format_args!(
                "comparing with {other}"
            )));
        }
    })
}
