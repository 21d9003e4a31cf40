//! numeric.
use springhead_proto::{SqlError, Value, ValueRef};
use super::PgType;
pub(crate) fn read(text: &str, _modifier: Option<(u16, u16)>) -> Result<Value, SqlError> {
    Err(SqlError::unsupported(format_args!("numeric {text} (coming)")))
}
pub(crate) fn write(_ty: &PgType, _value: ValueRef<'_>, _out: &mut Vec<u8>) {}
