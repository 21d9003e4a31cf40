//! arrays.
use springhead_proto::SqlError;
use super::PgType;
pub(crate) fn read(_element: &PgType, text: &str) -> Result<String, SqlError> {
    Err(SqlError::unsupported(format_args!("array {text} (coming)")))
}
pub(crate) fn write(_element: &PgType, _value: &str, _out: &mut Vec<u8>) {}
