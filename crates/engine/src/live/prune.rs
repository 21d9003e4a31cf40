//! Whether a row can meet conditions that every row of a result meets: those that it cannot are not looked
//! for. As the index, it only prunes.

use std::cmp::Ordering;

use springhead_proto::{Value, ValueRef};
use springhead_sql::live::{Condition, Operand, Test, literal_prefix};

use super::asked::Params;
use super::commit::Image;
use super::interval::compare;

/// True if in doubt.
pub(super) fn may_meet(conditions: &[Condition], params: &Params, image: &Image<'_>) -> bool {
    conditions.iter().all(|condition| {
        let place = image.table.column_by_id(condition.column);
        let value = place.and_then(|(place, _)| image.row.get(place));
        value.is_none_or(|value| passes(&condition.test, params, value))
    })
}

fn passes(test: &Test, params: &Params, value: ValueRef<'_>) -> bool {
    let given = |operand: &Operand| match operand {
        Operand::Value(value) => value.clone(),
        Operand::Parameter(index) => params.get(*index).to_owned(),
        Operand::Null => Value::Null,
    };
    let compared = |operand: &Operand| match given(operand) {
        Value::Null => None,
        bound => Some(compare(value, bound.as_ref())),
    };
    match test {
        Test::Equal(operands) => operands.iter().any(|operand| match operand {
            Operand::Null => value.is_null(),
            other => !value.is_null() && compared(other) == Some(Ordering::Equal),
        }),
        Test::Range { low, high } => {
            let reaches = |bound: &Option<Operand>, beyond: Ordering| {
                (bound.as_ref()).is_none_or(|bound| compared(bound).is_some_and(|at| at != beyond))
            };
            !value.is_null() && reaches(low, Ordering::Less) && reaches(high, Ordering::Greater)
        }
        Test::Prefix(pattern) => match (given(pattern), value) {
            (Value::Text(pattern), ValueRef::Text(text)) => {
                text.starts_with(literal_prefix(&pattern))
            }
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_from_those_that_cannot_meet_a_condition() {
        let params = Params::new(&[
            Value::Integer(5),
            Value::Null,
            Value::Text("ab%".to_owned()),
        ]);
        let integer = |number| Operand::Value(Value::Integer(number));
        let range = |low, high| Test::Range { low, high };
        for (test, value, expected) in [
            (
                Test::Equal(vec![integer(1), Operand::Parameter(0)]),
                ValueRef::Integer(5),
                true,
            ),
            (Test::Equal(vec![integer(1)]), ValueRef::Integer(5), false),
            (Test::Equal(vec![Operand::Null]), ValueRef::Null, true),
            (
                Test::Equal(vec![Operand::Parameter(1)]),
                ValueRef::Null,
                false,
            ),
            (
                range(Some(integer(3)), Some(Operand::Parameter(0))),
                ValueRef::Integer(5),
                true,
            ),
            (range(None, Some(integer(4))), ValueRef::Integer(5), false),
            (range(Some(integer(6)), None), ValueRef::Integer(5), false),
            (
                range(Some(Operand::Parameter(1)), None),
                ValueRef::Integer(5),
                false,
            ),
            (range(None, Some(integer(4))), ValueRef::Null, false),
            (
                Test::Prefix(Operand::Parameter(2)),
                ValueRef::Text("abc"),
                true,
            ),
            (
                Test::Prefix(Operand::Parameter(2)),
                ValueRef::Text("ba"),
                false,
            ),
        ] {
            assert_eq!(
                passes(&test, &params, value),
                expected,
                "{test:?} {value:?}"
            );
        }
    }
}
