//! The MessagePack in a frame: maps with field names. Unknown fields are stepped over, so that a
//! newer peer may say more; only an operation refuses what it does not know, since a verb that is not
//! understood must not be left out.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep values may nest in a body.
pub const MAX_DEPTH: usize = 16;

/// A body that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed body: {0}")]
pub struct BadBody(pub String);

/// The body of `value`.
#[must_use]
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("every body can be written, and memory does not fail")
}

/// The body's value.
///
/// # Errors
/// [`BadBody`] for anything but exactly one value of this form.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadBody> {
    // Over a slice as a reader, whose rest can be asked for; never takes more memory than there are bytes.
    let mut deserializer = rmp_serde::Deserializer::new(bytes);
    deserializer.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut deserializer).map_err(|error| BadBody(error.to_string()))?;
    let rest = deserializer.get_ref();
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(BadBody(format!("{} bytes are left over", rest.len())))
    }
}
