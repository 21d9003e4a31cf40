//! OVERLAPS: whether two spans of time have a moment in common. The planner writes the operator as the
//! function `overlaps`, which PostgreSQL has too.

use springhead_proto::{SqlError, Value, ValueRef};

use super::Scalar;
use super::signature::{ArgType, Class, Emit, ResultType, Signature, Volatility};
use super::support::{Args, Outcome, int, lenient};

pub(super) const SCALARS: &[Scalar] = &[
    // start, end, start, end
    lenient!("sh_overlaps", 4, overlaps),
];

/// Ends may be lengths.
const ENDS: &str = "sh_overlaps($1,$2,$3,$4)";
const SECOND: &str = "sh_overlaps($1,$2,$3,sh_timestamp_add($3,$4))";
const FIRST: &str = "sh_overlaps($1,sh_timestamp_add($1,$2),$3,$4)";
const BOTH: &str = "sh_overlaps($1,sh_timestamp_add($1,$2),$3,sh_timestamp_add($3,$4))";
const SECOND_TIME: &str = "sh_overlaps($1,$2,$3,sh_time_add($3,$4))";
const FIRST_TIME: &str = "sh_overlaps($1,sh_time_add($1,$2),$3,$4)";
const BOTH_TIME: &str = "sh_overlaps($1,sh_time_add($1,$2),$3,sh_time_add($3,$4))";

pub(super) const SIGNATURES: &[Signature] = {
    use ArgType::{Interval as I, Time as T, Timestamp as S, Timestamptz as Z};
    &[
        signature(&[S, S, S, S], ENDS),
        signature(&[S, S, S, I], SECOND),
        signature(&[S, I, S, S], FIRST),
        signature(&[S, I, S, I], BOTH),
        signature(&[Z, Z, Z, Z], ENDS),
        signature(&[Z, Z, Z, I], SECOND),
        signature(&[Z, I, Z, Z], FIRST),
        signature(&[Z, I, Z, I], BOTH),
        signature(&[T, T, T, T], ENDS),
        signature(&[T, T, T, I], SECOND_TIME),
        signature(&[T, I, T, T], FIRST_TIME),
        signature(&[T, I, T, I], BOTH_TIME),
    ]
};

const fn signature(args: &'static [ArgType], template: &'static str) -> Signature {
    Signature {
        name: "overlaps",
        args,
        variadic: false,
        result: ResultType::Of(ArgType::Bool),
        emit: Emit::Template(template),
        strict: false,
        volatility: Volatility::Immutable,
        class: Class::Scalar,
    }
}

/// OVERLAPS of two spans, each open at its end; a NULL end may be any, so that some answers are sure
/// without it.
fn overlaps(args: Args<'_, '_>) -> Outcome {
    let end = |at: usize| -> Result<Option<i64>, SqlError> {
        match args.get(at) {
            Some(ValueRef::Null) => Ok(None),
            _ => int(args, at).map(Some),
        }
    };
    // Starts and ends in order; what is NULL comes last.
    let ordered = |at: usize| -> Result<Option<(i64, Option<i64>)>, SqlError> {
        Ok(match (end(at)?, end(at + 1)?) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some((one, None)),
            (Some(one), Some(other)) => Some((one.min(other), Some(one.max(other)))),
        })
    };
    let (Some(first), Some(second)) = (ordered(0)?, ordered(2)?) else {
        return Ok(Value::Null);
    };
    let (earlier, later) = if first.0 <= second.0 {
        (first, second)
    } else {
        (second, first)
    };
    let begins_with_it = earlier.0 == later.0;
    Ok(match (earlier.1, later.1) {
        (Some(_), Some(_)) if begins_with_it => Value::Integer(1),
        (None, _) => Value::Null,
        (_, None) if begins_with_it => Value::Null,
        (Some(end), _) if later.0 < end => Value::Integer(1),
        (Some(_), None) => Value::Null,
        (Some(_), Some(_)) => Value::Integer(0),
    })
}
