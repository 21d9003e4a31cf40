//! Time zones by name: the offsets of the IANA database, compiled in, so that every node and every
//! replay has the same.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use springhead_proto::{ErrorCode, SqlError};

/// The offset east of UTC in a zone at a moment (microseconds since 1970), in microseconds.
///
/// # Errors
/// 22023 for a zone that there is not, 22008 for a moment outside the years that zones are known for.
pub(super) fn offset_at(name: &str, moment: i64) -> Result<i64, SqlError> {
    let zone = zone(name)?;
    let moment = Timestamp::from_microsecond(moment).map_err(|_| out_of_range())?;
    Ok(i64::from(zone.to_offset(moment).seconds()) * 1_000_000)
}

/// The offset east of UTC that a local time (as microseconds since 1970) has in a zone. As PostgreSQL
/// has it: a time that a change of clocks leaves out is read by the offset before the change, and one
/// that comes twice by the offset after it.
///
/// # Errors
/// As [`offset_at`].
pub(super) fn offset_at_local(name: &str, local: i64) -> Result<i64, SqlError> {
    let zone = zone(name)?;
    let local: DateTime =
        TimeZone::UTC.to_datetime(Timestamp::from_microsecond(local).map_err(|_| out_of_range())?);
    let offset = match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Gap { before, .. } => before,
        AmbiguousOffset::Fold { after, .. } => after,
    };
    Ok(i64::from(offset.seconds()) * 1_000_000)
}

fn zone(name: &str) -> Result<TimeZone, SqlError> {
    jiff::tz::db().get(name.trim()).map_err(|_| {
        SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("time zone \"{name}\" not recognized"),
        )
    })
}

fn out_of_range() -> SqlError {
    SqlError::new(ErrorCode::DatetimeOverflow, "timestamp out of range")
}
