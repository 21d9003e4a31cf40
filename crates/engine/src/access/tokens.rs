//! API tokens: `sh_<id>_<secret>`. The id is public, of the secret only a digest is kept.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use super::roles::{Roles, Token};
use super::scram::{Key, sha256};
use crate::Entropy;

/// What every token begins with, so that it is known for one wherever it turns up.
pub const PREFIX: &str = "sh_";

/// A token as its holder has it; shown once.
pub(super) struct Secret {
    pub id: String,
    pub text: String,
    pub hash: Key,
}

impl Secret {
    pub(super) fn new(entropy: &dyn Entropy) -> Secret {
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        entropy.fill(&mut id);
        entropy.fill(&mut secret);
        let (id, secret) = (hex(&id), URL_SAFE_NO_PAD.encode(secret));
        Secret {
            text: format!("{PREFIX}{id}_{secret}"),
            hash: sha256(secret.as_bytes()),
            id,
        }
    }
}

/// The token that `text` is; `None` for one that is unknown, wrong or revoked.
pub(super) fn find(roles: &Roles, text: &str) -> Option<Arc<Token>> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let hash = sha256(secret.as_bytes());
    let token = roles.token(id)?;
    let is_it: bool = token.hash.ct_eq(&hash).into();
    is_it.then(|| Arc::clone(token))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a string does not fail");
    }
    out
}

pub(super) fn read_hash(text: &str) -> Option<Key> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
