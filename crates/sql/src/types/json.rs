//! json.
use springhead_proto::SqlError;
pub(crate) fn validate(_text: &str) -> Result<(), SqlError> { Ok(()) }
pub(crate) fn normalise(text: &str) -> Result<String, SqlError> { Ok(text.to_owned()) }
/// Writes a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}
