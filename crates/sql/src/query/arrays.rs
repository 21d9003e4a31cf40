//! Arrays in expressions: ARRAY[…], subscripts, `||`, and their elements as rows.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{AccessExpr, Array, Expr, Subscript};
use sqlparser::tokenizer::Location;

use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::typed::Typed;

/// What `information_schema._pg_expandarray` gives for each element: the element and its place, in
/// a composite type of no name, for which a type stands that nothing else has.
pub(crate) fn expanded() -> PgType {
    PgType::OidVector.array()
}

impl Analyzer<'_> {
    pub(crate) fn array(&mut self, array: &Array) -> Result<Typed, SqlError> {
        self.array_of(&array.elem, None)
    }

    /// `ARRAY[…]`, of a given element type or of the elements' common one.
    pub(crate) fn array_of(
        &mut self,
        elements: &[Expr],
        wanted: Option<PgType>,
    ) -> Result<Typed, SqlError> {
        let values = elements
            .iter()
            .map(|element| self.expression(element))
            .collect::<Result<Vec<_>, _>>()?;
        if values.iter().any(|value| value.ty.element().is_some()) {
            return Err(SqlError::unsupported("ARRAY of arrays"));
        }
        let (element, context) = match wanted {
            Some(element) => (element, CastContext::Explicit),
            None if values.is_empty() => {
                return Err(SqlError::new(
                    ErrorCode::IndeterminateDatatype,
                    "cannot determine type of empty array",
                )
                .with_hint(
                    "Explicitly cast to the desired type, for example ARRAY[]::integer[].",
                ));
            }
            None => {
                let all: Vec<&Typed> = values.iter().collect();
                (self.common_type_of("ARRAY", &all)?, CastContext::Implicit)
            }
        };
        let mut list = Vec::with_capacity(values.len());
        for value in &values {
            let text = self.coerce(value, &element, context)?;
            list.push(format!(
                "{text},{},{}",
                element.at_run_time().0,
                element.at_run_time().1
            ));
        }
        Ok(Typed::new(format!("sh_array({})", list.join(",")), element.array()).not_null())
    }

    /// What is subscripted: of `t.a[1]` the parser makes fields of `t`.
    fn subscripted<'e>(
        &mut self,
        root: &Expr,
        chain: &'e [AccessExpr],
    ) -> Result<(Typed, &'e [AccessExpr]), SqlError> {
        let Expr::Identifier(first) = root else {
            return Ok((self.expression(root)?, chain));
        };
        let mut name = vec![first.clone()];
        for access in chain {
            match access {
                AccessExpr::Dot(Expr::Identifier(part)) => name.push(part.clone()),
                _ => break,
            }
        }
        let value = if name.len() == 1 {
            self.expression(root)?
        } else {
            self.expression(&Expr::CompoundIdentifier(name.clone()))?
        };
        Ok((value, &chain[name.len() - 1..]))
    }

    /// `a[1]`.
    pub(crate) fn subscript(
        &mut self,
        root: &Expr,
        chain: &[AccessExpr],
    ) -> Result<Typed, SqlError> {
        let (mut value, chain) = self.subscripted(root, chain)?;
        for access in chain {
            if let AccessExpr::Dot(Expr::Identifier(field)) = access
                && value.ty == expanded()
            {
                let place = match super::names::fold(field).as_str() {
                    "x" => 0,
                    "n" => 1,
                    other => {
                        let error = SqlError::new(
                            ErrorCode::UndefinedColumn,
                            format!("column \"{other}\" not found in data type record"),
                        );
                        return Err(self.at(error, field.span.start));
                    }
                };
                let pair = self.text(&value)?;
                value = Typed::new(format!("json_extract({pair},'$[{place}]')"), PgType::Int4);
                continue;
            }
            let (index, slice) = match access {
                AccessExpr::Subscript(Subscript::Index { index }) => (Some(index), None),
                AccessExpr::Subscript(Subscript::Slice {
                    lower_bound,
                    upper_bound,
                    stride: None,
                }) => (None, Some([lower_bound, upper_bound])),
                _ => return Err(SqlError::unsupported("fields of composite values")),
            };
            if let (PgType::Name, Some(index)) = (&value.ty, index) {
                value = self.byte_of_name(&value, index)?;
                continue;
            }
            if value.ty == PgType::Jsonb {
                value = self.jsonb_subscript(value, index)?;
                continue;
            }
            let Some(element) = value.ty.element().cloned() else {
                return Err(self.at(no_subscripts(&value.ty), value.place));
            };
            if let Some(bounds) = slice {
                value = self.slice(value, bounds)?;
                continue;
            }
            let Some(index) = index else { continue };
            let index = self.expression(index)?;
            let index = self.coerce(&index, &PgType::Int4, CastContext::Assignment)?;
            // The catalogs' vectors count from 0.
            let index = match value.ty {
                PgType::Int2Vector | PgType::OidVector => format!("({index}+1)"),
                _ => index,
            };
            let array = self.text(&value)?;
            value = Typed::new(
                format!(
                    "sh_array_get({array},{index},{},{})",
                    element.at_run_time().0,
                    element.at_run_time().1
                ),
                element,
            );
        }
        Ok(value)
    }

    /// `a[1:2]`.
    fn slice(&mut self, array: Typed, bounds: [&Option<Expr>; 2]) -> Result<Typed, SqlError> {
        let mut text = format!("sh_array_slice({}", self.text(&array)?);
        for bound in bounds {
            let bound = match bound {
                Some(bound) => {
                    let bound = self.expression(bound)?;
                    self.coerce(&bound, &PgType::Int4, CastContext::Assignment)?
                }
                None => "NULL".to_owned(),
            };
            text.push(',');
            text.push_str(&bound);
        }
        text.push(')');
        Ok(Typed::new(text, array.ty))
    }

    /// A name is an array of 64 bytes, from 0, and nothing where it has ended.
    fn byte_of_name(&mut self, name: &Typed, index: &Expr) -> Result<Typed, SqlError> {
        let index = self.expression(index)?;
        let index = self.coerce(&index, &PgType::Int4, CastContext::Implicit)?;
        let name = self.text(name)?;
        let byte = format!("iif({index} BETWEEN 0 AND 63,substr({name},{index}+1,1),NULL)");
        Ok(Typed::new(byte, PgType::InternalChar))
    }

    /// `value[key]` of jsonb, which is `value -> key`.
    fn jsonb_subscript(&mut self, value: Typed, key: Option<&Expr>) -> Result<Typed, SqlError> {
        let Some(key) = key else {
            let error = SqlError::new(
                ErrorCode::DatatypeMismatch,
                "jsonb subscript does not support slices",
            );
            return Err(self.at(error, value.place));
        };
        let (key, place) = (self.expression(key)?, value.place);
        self.operator("->", &[value, key], place)
    }

    /// `||`: of texts (whatever the other side is), of arrays, of jsonb.
    pub(crate) fn concatenate(
        &mut self,
        left: &Typed,
        right: &Typed,
        place: Location,
    ) -> Result<Typed, SqlError> {
        let special = |ty: &PgType| matches!(ty, PgType::Array(_) | PgType::Jsonb | PgType::Bytea);
        if special(&left.ty) || special(&right.ty) {
            return self.operator("||", &[left.clone(), right.clone()], place);
        }
        if !left.ty.is_string()
            && !right.ty.is_string()
            && !left.is_unknown()
            && !right.is_unknown()
        {
            return Err(self.no_operator("||", &[left.ty.clone(), right.ty.clone()], place));
        }
        let nullable = left.nullable || right.nullable;
        let mut texts = Vec::with_capacity(2);
        for side in [left, right] {
            texts.push(self.coerce(side, &PgType::Text, CastContext::Assignment)?);
        }
        Ok(Typed {
            nullable,
            ..Typed::new(format!("({})", texts.join("||")), PgType::Text)
        })
    }

    /// The element of a `json_each` row, where its JSON form is its storage form or nearly so.
    pub(crate) fn element_value(&self, element: &PgType, id: &str) -> String {
        match element {
            PgType::Float4 | PgType::Float8 => format!("CAST({id}.value AS REAL)"),
            // In JSON an object id is a string.
            PgType::Oid | PgType::Reg(_) => format!("CAST({id}.value AS INTEGER)"),
            _ => format!("{id}.value"),
        }
    }

    /// As [`Analyzer::element_value`], for elements of any type of the array `array`.
    pub(crate) fn element_of(&self, element: &PgType, id: &str, array: &str) -> String {
        let as_is = element.is_integer()
            || matches!(element, PgType::Reg(_))
            || element.is_string()
            || matches!(element, PgType::Uuid | PgType::Bool);
        if as_is {
            self.element_value(element, id)
        } else {
            format!(
                "sh_array_get({array},{id}.key+1,{},{})",
                element.at_run_time().0,
                element.at_run_time().1
            )
        }
    }
}

fn no_subscripts(ty: &PgType) -> SqlError {
    SqlError::new(
        ErrorCode::DatatypeMismatch,
        format!(
            "cannot subscript type {} because it does not support subscripting",
            ty.base_name()
        ),
    )
}
