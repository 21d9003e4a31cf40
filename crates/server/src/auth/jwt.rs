//! JSON Web Tokens (RFC 7519) of an issuer that the configuration names: HS256 with a shared secret,
//! RS256 and ES256 with keys from a JWKS (RFC 7517) file or URL.
//!
//! A key has one algorithm, and what a token says of itself chooses among the keys that we have and
//! nothing else: `alg` must be the key's, `none` is nobody's, `jku`, `x5u`, `jwk` and `x5c` are not
//! looked at.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde_json::{Map, Value};

/// Longer tokens are not looked at.
const MAX_BYTES: usize = 8 << 10;
/// Shorter secrets can be guessed.
const MIN_SECRET_BYTES: usize = 32;
/// Keys of a set, at most.
const MAX_KEYS: usize = 100;

/// Why a token is refused; said to nobody but the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("it is malformed")]
    Malformed,
    #[error("no key of ours fits it")]
    NoKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired, or says not when it does")]
    Expired,
    #[error("it is not valid yet")]
    NotYet,
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for another audience")]
    Audience,
    #[error("it names no role, or a tenant that is none")]
    Claims,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the secret of tokens has {0} bytes; it must have {MIN_SECRET_BYTES} at least")]
    Short(usize),
    #[error("this is no JWKS: {0}")]
    Set(String),
}

/// One key. What it is says which algorithm it is for.
pub enum Key {
    Hs256(hmac::Key),
    Rs256 {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    Es256(Vec<u8>),
}

impl Key {
    fn algorithm(&self) -> &'static str {
        match self {
            Key::Hs256(_) => "HS256",
            Key::Rs256 { .. } => "RS256",
            Key::Es256(_) => "ES256",
        }
    }

    fn verifies(&self, message: &[u8], tag: &[u8]) -> bool {
        match self {
            Key::Hs256(key) => hmac::verify(key, message, tag).is_ok(),
            Key::Rs256 { modulus, exponent } => signature::RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            }
            .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, tag)
            .is_ok(),
            Key::Es256(point) => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, tag)
                    .is_ok()
            }
        }
    }
}

/// A key and its name in its set.
pub struct NamedKey {
    pub id: Option<String>,
    pub key: Key,
}

/// What tokens must say, and which of their claims mean what.
#[derive(Debug, Clone, Default)]
pub struct JwtRules {
    /// Not asked for if empty.
    pub issuer: String,
    pub audience: String,
    /// Clocks may differ by this much.
    pub leeway_s: u64,
    pub role_claim: String,
    pub tenant_claim: String,
    pub uid_claim: String,
}

/// A token that is good.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    pub role: String,
    /// A tenant's name or number.
    pub tenant: Option<String>,
    pub uid: Option<String>,
    /// Seconds since 1970, leeway included.
    pub expires_s: u64,
    pub claims: Map<String, Value>,
}

/// The keys and rules in force.
pub struct Jwt {
    rules: JwtRules,
    secret: Option<NamedKey>,
    keys: ArcSwap<Vec<NamedKey>>,
}

impl Jwt {
    #[must_use]
    pub fn new(rules: JwtRules, secret: Option<Key>) -> Jwt {
        Jwt {
            rules,
            secret: secret.map(|key| NamedKey { id: None, key }),
            keys: ArcSwap::default(),
        }
    }

    /// Replaces the keys of the set.
    pub fn put_keys(&self, keys: Vec<NamedKey>) {
        self.keys.store(Arc::new(keys));
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`JwtError`].
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Verified, JwtError> {
        if token.len() > MAX_BYTES {
            return Err(JwtError::Malformed);
        }
        let (covered, tag) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, payload) = covered.split_once('.').ok_or(JwtError::Malformed)?;
        let header = object(header)?;
        // Extensions that must be understood: there is none that we do.
        if header.contains_key("crit") || header.get("b64").is_some() {
            return Err(JwtError::Malformed);
        }
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .ok_or(JwtError::Malformed)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(JwtError::Malformed),
        };
        let tag = decode(tag)?;
        let keys = self.keys.load();
        let mut candidates = self
            .secret
            .iter()
            .chain(keys.iter())
            .filter(|named| named.key.algorithm() == algorithm)
            .filter(|named| match (&named.id, key_id) {
                (Some(id), Some(wanted)) => id == wanted,
                _ => true,
            })
            .peekable();
        if candidates.peek().is_none() {
            return Err(JwtError::NoKey);
        }
        if !candidates.any(|named| named.key.verifies(covered.as_bytes(), &tag)) {
            return Err(JwtError::Signature);
        }
        self.check(object(payload)?, now_s)
    }

    fn check(&self, claims: Map<String, Value>, now_s: u64) -> Result<Verified, JwtError> {
        let rules = &self.rules;
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|seconds| (0.0..1e15).contains(seconds))
                .map(|seconds| Some(to_seconds(seconds)))
                .ok_or(JwtError::Malformed),
        };
        let expires_s = time("exp")?.ok_or(JwtError::Expired)?;
        let expires_s = expires_s.saturating_add(rules.leeway_s);
        if expires_s <= now_s {
            return Err(JwtError::Expired);
        }
        let latest_start = now_s.saturating_add(rules.leeway_s);
        if time("nbf")?.is_some_and(|start| start > latest_start)
            || time("iat")?.is_some_and(|issued| issued > latest_start)
        {
            return Err(JwtError::NotYet);
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        if !rules.issuer.is_empty() && issuer != Some(&rules.issuer) {
            return Err(JwtError::Issuer);
        }
        let for_us = match claims.get("aud") {
            Some(Value::String(audience)) => *audience == rules.audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(&rules.audience)),
            _ => false,
        };
        if !rules.audience.is_empty() && !for_us {
            return Err(JwtError::Audience);
        }
        let role = claims
            .get(&rules.role_claim)
            .and_then(Value::as_str)
            .ok_or(JwtError::Claims)?
            .to_owned();
        let tenant = match claims.get(&rules.tenant_claim) {
            None => None,
            Some(value) => Some(word(value).ok_or(JwtError::Claims)?),
        };
        let uid = claims.get(&rules.uid_claim).and_then(word);
        Ok(Verified {
            role,
            tenant,
            uid,
            expires_s,
            claims,
        })
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn to_seconds(seconds: f64) -> u64 {
    // Within range: the caller has looked.
    seconds as u64
}

/// A text or a whole number, as text.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| JwtError::Malformed)
}

fn object(part: &str) -> Result<Map<String, Value>, JwtError> {
    match serde_json::from_slice(&decode(part)?) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(JwtError::Malformed),
    }
}

/// The key of a shared secret.
///
/// # Errors
/// [`KeyError::Short`].
pub fn secret_key(secret: &[u8]) -> Result<Key, KeyError> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(KeyError::Short(secret.len()));
    }
    Ok(Key::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)))
}

/// The keys of a set that can be used here; others in it are passed over. Shared secrets have no
/// place in a set that anyone may fetch.
///
/// # Errors
/// [`KeyError::Set`].
pub fn read_set(text: &[u8]) -> Result<Vec<NamedKey>, KeyError> {
    let set: Value =
        serde_json::from_slice(text).map_err(|error| KeyError::Set(error.to_string()))?;
    let keys = set
        .get("keys")
        .and_then(Value::as_array)
        .ok_or_else(|| KeyError::Set("it has no \"keys\"".to_owned()))?;
    let found: Vec<NamedKey> = keys
        .iter()
        .take(MAX_KEYS)
        .filter_map(|key| {
            Some(NamedKey {
                id: key.get("kid").and_then(Value::as_str).map(str::to_owned),
                key: read_key(key)?,
            })
        })
        .collect();
    if found.is_empty() {
        return Err(KeyError::Set("it has no key for RS256 or ES256".to_owned()));
    }
    Ok(found)
}

fn read_key(key: &Value) -> Option<Key> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| decode(text(name)?).ok();
    if text("use").is_some_and(|what| what != "sig") {
        return None;
    }
    let is_for = |algorithm: &str| text("alg").is_none_or(|own| own == algorithm);
    match text("kty")? {
        "RSA" if is_for("RS256") => Some(Key::Rs256 {
            modulus: bytes("n")?,
            exponent: bytes("e")?,
        }),
        "EC" if is_for("ES256") && text("crv") == Some("P-256") => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != 32 || y.len() != 32 {
                return None;
            }
            Some(Key::Es256([&[4][..], &x, &y].concat()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
