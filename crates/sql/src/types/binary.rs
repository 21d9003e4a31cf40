//! Binary forms.
use springhead_proto::{SqlError, Value, ValueRef};
use super::PgType;
/// Reads the binary form.
///
/// # Errors
/// 0A000 so far.
pub fn input_binary(ty: &PgType, _bytes: &[u8]) -> Result<Value, SqlError> {
    Err(SqlError::unsupported(format_args!("the binary format of {}", ty.sql_name())))
}
/// Writes the binary form.
pub fn output_binary(_ty: &PgType, _value: ValueRef<'_>, _out: &mut Vec<u8>) {}
