//! interval.
use springhead_proto::SqlError;
pub struct Interval;
impl Interval { pub fn encode(&self) -> Vec<u8> { Vec::new() } }
pub(crate) fn read(text: &str) -> Result<Interval, SqlError> {
    Err(SqlError::unsupported(format_args!("interval {text} (coming)")))
}
pub(crate) fn write(_bytes: &[u8], _out: &mut Vec<u8>) {}
