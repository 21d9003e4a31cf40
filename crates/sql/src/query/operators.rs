//! Which overload of an operator or function a call means: PostgreSQL's rules of "Type Conversion"
//! (chapter 10 of its manual) over the signature table.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::BinaryOperator;
use sqlparser::tokenizer::Location;

use crate::functions::{self, ArgType, CastContext, Signature, Volatility};
use crate::types::{Category, PgType};

use super::Analyzer;
use super::typed::Typed;

/// A call whose overload is chosen: the signature and the type that each argument is brought to.
pub(crate) struct Choice {
    pub(crate) signature: &'static Signature,
    pub(crate) args: Vec<PgType>,
}

/// How one candidate takes the arguments.
struct Candidate {
    signature: &'static Signature,
    /// The type each argument is brought to; `None` for one that is still open.
    args: Vec<PgType>,
    exact: usize,
    preferred: usize,
}

/// The overload that a call means; `None` if there is none, or no single best one.
pub(crate) fn choose(overloads: &'static [Signature], types: &[PgType]) -> Option<Choice> {
    // A binary operator with one open operand is first tried as if both had the same type.
    let takes_array = overloads.iter().any(|signature| {
        matches!(signature.args, [ArgType::AnyArray, ArgType::Any])
            && signature.name.starts_with("array_")
    });
    if let [left, right] = types
        && !takes_array
        && (*left == PgType::Unknown) != (*right == PgType::Unknown)
    {
        let known = if *left == PgType::Unknown {
            right
        } else {
            left
        };
        let same = [known.clone(), known.clone()];
        // That is a rule of operators: a function that takes anything takes both as they are.
        let found =
            exact(overloads, &same).filter(|choice| !choice.signature.args.contains(&ArgType::Any));
        if found.is_some() {
            return found;
        }
    }
    if let Some(found) = exact(overloads, types) {
        return Some(found);
    }
    let mut candidates: Vec<Candidate> = overloads
        .iter()
        .filter_map(|signature| candidate(signature, types))
        .collect();
    keep_best(&mut candidates, |candidate| candidate.exact);
    keep_best(&mut candidates, |candidate| candidate.preferred);
    if candidates.len() > 1 {
        decide_unknown(&mut candidates, types);
    }
    if candidates.len() > 1 {
        // Take the open arguments for the type of the known ones, if these agree.
        let mut known = types.iter().filter(|ty| **ty != PgType::Unknown);
        if let Some(first) = known.next()
            && known.all(|ty| ty.same_base(first))
        {
            candidates.retain(|candidate| candidate.args.iter().all(|ty| ty.same_base(first)));
        }
    }
    // Of overloads that take the same, that is meant which names its types.
    let named = |candidate: &Candidate| !candidate.signature.args.contains(&ArgType::Any);
    if let [first, rest @ ..] = candidates.as_slice()
        && rest.iter().all(|other| other.args == first.args)
        && candidates.iter().any(named)
    {
        candidates.retain(named);
    }
    match candidates.len() {
        1 => candidates.pop().map(|c| Choice {
            signature: c.signature,
            args: c.args,
        }),
        _ => None,
    }
}

fn exact(overloads: &'static [Signature], types: &[PgType]) -> Option<Choice> {
    overloads.iter().find_map(|signature| {
        let candidate = candidate(signature, types)?;
        (candidate.exact == types.len()).then_some(Choice {
            signature,
            args: candidate.args,
        })
    })
}

fn keep_best(candidates: &mut Vec<Candidate>, score: impl Fn(&Candidate) -> usize) {
    if let Some(best) = candidates.iter().map(&score).max() {
        candidates.retain(|candidate| score(candidate) == best);
    }
}

/// Open arguments: the category that the candidates want, strings first, then the preferred type in
/// it.
fn decide_unknown(candidates: &mut Vec<Candidate>, types: &[PgType]) {
    let open: Vec<usize> = (0..types.len())
        .filter(|&place| types[place] == PgType::Unknown)
        .collect();
    for place in open {
        let categories: Vec<Category> = candidates
            .iter()
            .map(|candidate| candidate.args[place].category())
            .collect();
        let wanted = if categories.contains(&Category::String) {
            Category::String
        } else if categories.iter().all(|category| *category == categories[0]) {
            categories[0]
        } else {
            continue;
        };
        candidates.retain(|candidate| candidate.args[place].category() == wanted);
        if candidates
            .iter()
            .any(|candidate| candidate.args[place].is_preferred())
        {
            candidates.retain(|candidate| candidate.args[place].is_preferred());
        }
    }
}

/// How a signature would take arguments of these types; `None` if it cannot.
fn candidate(signature: &'static Signature, types: &[PgType]) -> Option<Candidate> {
    let expected = expected_args(signature, types.len())?;
    let element = common_element(&expected, types)?;
    let array = any_array(&expected, types)?;
    let mut found = Candidate {
        signature,
        args: Vec::with_capacity(types.len()),
        exact: 0,
        preferred: 0,
    };
    for (wanted, ty) in expected.iter().zip(types) {
        let target = match wanted {
            ArgType::Any => {
                if *ty == PgType::Unknown {
                    PgType::Text
                } else {
                    ty.clone()
                }
            }
            ArgType::AnyElement => element.clone()?,
            ArgType::AnyArray => array.clone()?,
            ArgType::AnyNumeric => match ty {
                PgType::Numeric(_) => ty.clone(),
                _ => PgType::Numeric(None),
            },
            fixed => fixed.pg_type()?,
        };
        if *ty == PgType::Unknown {
            // It may become anything.
        } else if ty.same_base(&target) {
            found.exact += 1;
            found.preferred += 1;
        } else {
            let cast = functions::cast(&ty.without_modifier(), &target)?;
            if cast.context != CastContext::Implicit {
                return None;
            }
            found.preferred += usize::from(target.is_preferred());
        }
        // A scaled numeric is lifted to the general form where that is what is asked for.
        found.args.push(
            if ty.same_base(&target) && !matches!(wanted, ArgType::Numeric) && !is_char(ty) {
                ty.clone()
            } else {
                target
            },
        );
    }
    Some(found)
}

/// char(n) reaches functions of text without its padding.
fn is_char(ty: &PgType) -> bool {
    matches!(ty, PgType::Char(_))
}

fn expected_args(signature: &'static Signature, count: usize) -> Option<Vec<ArgType>> {
    let args = signature.args;
    if !signature.variadic {
        return (args.len() == count).then(|| args.to_vec());
    }
    let (last, first) = args.split_last()?;
    let least = if first.is_empty() && *last == ArgType::Any {
        0
    } else {
        args.len()
    };
    if count < least {
        return None;
    }
    let mut expected = first.to_vec();
    expected.resize(count.max(first.len()), *last);
    (expected.len() == count).then_some(expected)
}

/// The type that all `AnyElement` arguments become; `Some(None)` if there are none.
#[allow(clippy::option_option)]
fn common_element(expected: &[ArgType], types: &[PgType]) -> Option<Option<PgType>> {
    let involved: Vec<&PgType> = expected
        .iter()
        .zip(types)
        .filter(|(wanted, _)| **wanted == ArgType::AnyElement)
        .map(|(_, ty)| ty)
        .collect();
    if involved.is_empty() {
        return Some(None);
    }
    // An array argument beside it says what the element is.
    if let Some((_, PgType::Array(element))) = expected
        .iter()
        .zip(types)
        .find(|(wanted, ty)| **wanted == ArgType::AnyArray && ty.element().is_some())
    {
        return Some(Some((**element).clone()));
    }
    common_type(&involved).map(Some)
}

#[allow(clippy::option_option)]
fn any_array(expected: &[ArgType], types: &[PgType]) -> Option<Option<PgType>> {
    let involved: Vec<&PgType> = expected
        .iter()
        .zip(types)
        .filter(|(wanted, _)| **wanted == ArgType::AnyArray)
        .map(|(_, ty)| ty)
        .collect();
    if involved.is_empty() {
        return Some(None);
    }
    if let Some(known) = involved.iter().find(|ty| ty.element().is_some()) {
        return involved
            .iter()
            .all(|ty| **ty == PgType::Unknown || ty.element().is_some())
            .then(|| Some((*known).clone()));
    }
    let element = expected
        .iter()
        .zip(types)
        .find(|(wanted, ty)| **wanted == ArgType::AnyElement && **ty != PgType::Unknown);
    match element {
        Some((_, ty)) if involved.iter().all(|ty| **ty == PgType::Unknown) => {
            Some(Some(ty.clone().array()))
        }
        _ => None,
    }
}

/// The type that UNION, CASE, VALUES, COALESCE and their kin give to these; `None` if they have
/// none in common.
pub(crate) fn common_type(types: &[&PgType]) -> Option<PgType> {
    let mut known = types.iter().filter(|ty| ***ty != PgType::Unknown);
    let Some(first) = known.next() else {
        return Some(PgType::Text);
    };
    if types.iter().all(|ty| *ty == *first) {
        return Some((*first).clone());
    }
    let mut common = (*first).clone();
    let mut merged = false;
    for ty in known {
        if ty.same_base(&common) {
            merged |= **ty != common;
            continue;
        }
        if ty.category() != common.category() {
            return None;
        }
        let implicit = |from: &PgType, to: &PgType| {
            functions::cast(from, to).is_some_and(|cast| cast.context == CastContext::Implicit)
        };
        if common.is_preferred() || !implicit(&common.without_modifier(), &ty.without_modifier()) {
            if !implicit(&ty.without_modifier(), &common.without_modifier()) {
                return None;
            }
            merged = true;
            continue;
        }
        common = (*ty).clone();
        merged = true;
    }
    Some(if merged {
        without_any_modifier(&common)
    } else {
        common
    })
}

/// Where two modifiers met, neither holds.
fn without_any_modifier(ty: &PgType) -> PgType {
    match ty {
        PgType::Numeric(_) => PgType::Numeric(None),
        PgType::Char(_) => PgType::Text,
        other => other.without_modifier(),
    }
}

impl Analyzer<'_> {
    /// The common type of these expressions.
    ///
    /// # Errors
    /// 42804 naming the construct.
    pub(crate) fn common_type_of(
        &self,
        construct: &str,
        values: &[&Typed],
    ) -> Result<PgType, SqlError> {
        let types: Vec<&PgType> = values.iter().map(|value| &value.ty).collect();
        common_type(&types).ok_or_else(|| {
            let mut known = types.iter().filter(|ty| ***ty != PgType::Unknown);
            let first = known.next().map_or("unknown".into(), |ty| ty.base_name());
            let other = known
                .find(|ty| ty.category() != types[0].category() || ty.base_name() != first)
                .map_or("unknown".into(), |ty| ty.base_name());
            let place = values.last().map_or(Location::empty(), |value| value.place);
            let error = SqlError::new(
                ErrorCode::DatatypeMismatch,
                format!("{construct} types {first} and {other} cannot be matched"),
            );
            self.at(error, place)
        })
    }

    /// Applies a prefix or infix operator of the table.
    pub(crate) fn operator(
        &mut self,
        symbol: &str,
        operands: &[Typed],
        place: Location,
    ) -> Result<Typed, SqlError> {
        let types: Vec<PgType> = operands.iter().map(|operand| operand.ty.clone()).collect();
        let Some(choice) = choose(functions::operators(symbol), &types) else {
            return Err(self.no_operator(symbol, &types, place));
        };
        self.apply(&choice, operands, place)
    }

    /// 42883 in PostgreSQL's words.
    pub(crate) fn no_operator(&self, symbol: &str, types: &[PgType], place: Location) -> SqlError {
        let shown = match types {
            [operand] => format!("{symbol} {}", operand.base_name()),
            [left, right] => format!("{} {symbol} {}", left.base_name(), right.base_name()),
            _ => symbol.to_owned(),
        };
        let error =
            SqlError::new(ErrorCode::UndefinedFunction, format!("operator does not exist: {shown}")).with_hint(
                "No operator matches the given name and argument types. You might need to add explicit type casts.",
            );
        self.at(error, place)
    }

    /// Writes a chosen call.
    pub(crate) fn apply(
        &mut self,
        choice: &Choice,
        args: &[Typed],
        place: Location,
    ) -> Result<Typed, SqlError> {
        let signature = choice.signature;
        self.check_volatility(signature, place)?;
        let args = self.chosen_args(choice, args)?;
        let sql = signature.render(&args).ok_or_else(|| {
            self.at(
                SqlError::unsupported(format_args!("function {}", signature.name)),
                place,
            )
        })?;
        let types: Vec<PgType> = args.into_iter().map(|(_, ty)| ty).collect();
        let ty = signature.result.resolve(&types).unwrap_or(PgType::Text);
        Ok(Typed::new(sql, ty).placed(place))
    }

    /// The arguments' texts, in the types that the signature asks for.
    pub(crate) fn chosen_args(
        &mut self,
        choice: &Choice,
        args: &[Typed],
    ) -> Result<Vec<(String, PgType)>, SqlError> {
        let name = choice.signature.name;
        let mut rows = args
            .iter()
            .filter(|arg| matches!(arg.ty, PgType::Record(_)));
        if let Some(row) = rows.next()
            && name != "array_agg"
        {
            let error = SqlError::unsupported(format_args!("a row as an argument of {name}"));
            return Err(self.at(error, row.place));
        }
        args.iter()
            .zip(&choice.args)
            .map(|(arg, ty)| Ok((self.coerce(arg, ty, CastContext::Implicit)?, ty.clone())))
            .collect()
    }

    pub(crate) fn check_volatility(
        &self,
        signature: &Signature,
        place: Location,
    ) -> Result<(), SqlError> {
        let refused = self.rules.immutable_only && signature.volatility != Volatility::Immutable
            || self.rules.no_volatile && signature.volatility == Volatility::Volatile;
        if !refused {
            return Ok(());
        }
        let what = self.rules.place.unwrap_or("this place");
        let error = SqlError::new(
            ErrorCode::InvalidObjectDefinition,
            format!(
                "functions in {what} must be marked IMMUTABLE: {} is not",
                signature.name
            ),
        );
        Err(self.at(error, place))
    }
}

/// An operator's symbol, however it is written.
///
/// # Errors
/// 0A000 for one of another schema than `pg_catalog`.
pub(super) fn symbol_of(op: &BinaryOperator) -> Result<String, SqlError> {
    Ok(match op {
        BinaryOperator::Custom(symbol) => symbol.clone(),
        BinaryOperator::PGCustomBinaryOperator(parts) => match parts.as_slice() {
            [symbol] => symbol.clone(),
            [schema, symbol] if schema == "pg_catalog" => symbol.clone(),
            _ => return Err(SqlError::unsupported(format_args!("operator {op}"))),
        },
        other => other.to_string(),
    })
}

/// The operator that `OPERATOR(pg_catalog.symbol)` is, where it is one that is more than a function of
/// its operands.
pub(super) fn plain_operator(op: &BinaryOperator) -> Option<BinaryOperator> {
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else {
        return None;
    };
    let [schema, symbol] = parts.as_slice() else {
        return None;
    };
    Some(match symbol.as_str() {
        _ if schema != "pg_catalog" => return None,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        _ => return None,
    })
}
