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
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_800_000_000;

    fn rules() -> JwtRules {
        JwtRules {
            issuer: "https://issuer.example".to_owned(),
            audience: "springhead".to_owned(),
            leeway_s: 30,
            role_claim: "role".to_owned(),
            tenant_claim: "tenant".to_owned(),
            uid_claim: "sub".to_owned(),
        }
    }

    fn claims() -> Value {
        json!({"iss": "https://issuer.example", "aud": ["other", "springhead"], "exp": NOW + 60,
            "role": "app", "tenant": "shop", "sub": "user-7"})
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let covered = format!("{}.{}", part(header), part(claims));
        let tag = sign(covered.as_bytes());
        format!("{covered}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> + use<'_> {
        move |message| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            hmac::sign(&key, message).as_ref().to_vec()
        }
    }

    fn by_secret() -> Jwt {
        Jwt::new(rules(), Some(secret_key(SECRET).unwrap()))
    }

    fn ec_pair() -> EcdsaKeyPair {
        let random = SystemRandom::new();
        let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap()
    }

    fn es256(pair: &EcdsaKeyPair) -> impl Fn(&[u8]) -> Vec<u8> + use<'_> {
        |message| {
            let signed = pair.sign(&SystemRandom::new(), message).unwrap();
            signed.as_ref().to_vec()
        }
    }

    fn set_of(pair: &EcdsaKeyPair, id: &str) -> Value {
        let point = pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id,
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])})
    }

    #[test]
    fn good_tokens_say_who_it_is() {
        let token = signed(&json!({"alg": "HS256"}), &claims(), hs256(SECRET));
        let verified = by_secret().verify(&token, NOW).unwrap();
        assert_eq!(verified.role, "app");
        assert_eq!(verified.tenant.as_deref(), Some("shop"));
        assert_eq!(verified.uid.as_deref(), Some("user-7"));
        assert_eq!(verified.expires_s, NOW + 90);

        let (one, two) = (ec_pair(), ec_pair());
        let jwt = Jwt::new(rules(), None);
        let set = json!({"keys": [set_of(&one, "one"), set_of(&two, "two")]});
        jwt.put_keys(read_set(set.to_string().as_bytes()).unwrap());
        for header in [
            json!({"alg": "ES256", "kid": "two"}),
            json!({"alg": "ES256"}),
        ] {
            let token = signed(&header, &claims(), es256(&two));
            assert!(jwt.verify(&token, NOW).is_ok(), "{header}");
        }
        let token = signed(
            &json!({"alg": "ES256", "kid": "one"}),
            &claims(),
            es256(&two),
        );
        assert_eq!(jwt.verify(&token, NOW), Err(JwtError::Signature));
    }

    /// The table of what people try, and what each gets.
    #[test]
    fn g6_hostile_tokens_are_refused() {
        let jwt = by_secret();
        let header = json!({"alg": "HS256"});
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            claims
        };
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            claims
        };
        for (what, claims, expected) in [
            ("expired", with("exp", json!(NOW - 31)), JwtError::Expired),
            ("no end", without("exp"), JwtError::Expired),
            (
                "end as text",
                with("exp", json!("9999999999")),
                JwtError::Malformed,
            ),
            (
                "end before time",
                with("exp", json!(-1)),
                JwtError::Malformed,
            ),
            ("not yet", with("nbf", json!(NOW + 31)), JwtError::NotYet),
            (
                "issued later",
                with("iat", json!(NOW + 31)),
                JwtError::NotYet,
            ),
            (
                "foreign issuer",
                with("iss", json!("https://evil.example")),
                JwtError::Issuer,
            ),
            ("no issuer", without("iss"), JwtError::Issuer),
            (
                "issuer as list",
                with("iss", json!(["https://issuer.example"])),
                JwtError::Issuer,
            ),
            (
                "foreign audience",
                with("aud", json!("elsewhere")),
                JwtError::Audience,
            ),
            ("no audience", without("aud"), JwtError::Audience),
            ("no role", without("role"), JwtError::Claims),
            (
                "role as list",
                with("role", json!(["app"])),
                JwtError::Claims,
            ),
            (
                "tenant as object",
                with("tenant", json!({})),
                JwtError::Claims,
            ),
        ] {
            let token = signed(&header, &claims, hs256(SECRET));
            assert_eq!(jwt.verify(&token, NOW), Err(expected), "{what}");
        }
        let good = signed(&header, &claims(), hs256(SECRET));
        let (covered, tag) = good.rsplit_once('.').unwrap();
        let payload = covered.split_once('.').unwrap().1;
        let admin = part(&with("role", json!("postgres")));
        let nothing = |_: &[u8]| Vec::new();
        for (what, token, expected) in [
            (
                "alg none",
                signed(&json!({"alg": "none"}), &claims(), nothing),
                JwtError::NoKey,
            ),
            (
                "alg None",
                signed(&json!({"alg": "None"}), &claims(), nothing),
                JwtError::NoKey,
            ),
            (
                "no alg",
                signed(&json!({}), &claims(), hs256(SECRET)),
                JwtError::Malformed,
            ),
            (
                "alg HS512",
                signed(&json!({"alg": "HS512"}), &claims(), hs256(SECRET)),
                JwtError::NoKey,
            ),
            ("no signature", format!("{covered}."), JwtError::Signature),
            ("two parts", covered.to_owned(), JwtError::Malformed),
            (
                "other payload",
                good.replace(payload, &admin),
                JwtError::Signature,
            ),
            (
                "other secret",
                signed(&header, &claims(), hs256(b"x")),
                JwtError::Signature,
            ),
            (
                "cut signature",
                good[..good.len() - 3].to_owned(),
                JwtError::Signature,
            ),
            ("padded", format!("{covered}.{tag}="), JwtError::Malformed),
            ("four parts", format!("{good}.x"), JwtError::Malformed),
            (
                "crit",
                signed(
                    &json!({"alg": "HS256", "crit": ["x"]}),
                    &claims(),
                    hs256(SECRET),
                ),
                JwtError::Malformed,
            ),
            (
                "kid as list",
                signed(
                    &json!({"alg": "HS256", "kid": []}),
                    &claims(),
                    hs256(SECRET),
                ),
                JwtError::Malformed,
            ),
            (
                "too long",
                format!("{}{good}", "x".repeat(MAX_BYTES)),
                JwtError::Malformed,
            ),
            ("empty", String::new(), JwtError::Malformed),
            ("dots", "..".to_owned(), JwtError::Malformed),
        ] {
            assert_eq!(jwt.verify(&token, NOW), Err(expected), "{what}");
        }
    }

    #[test]
    fn g6_a_public_key_is_no_secret_and_a_token_brings_no_keys() {
        let (ours, theirs) = (ec_pair(), ec_pair());
        let jwt = Jwt::new(rules(), None);
        let set = json!({"keys": [set_of(&ours, "../../etc/passwd")]});
        jwt.put_keys(read_set(set.to_string().as_bytes()).unwrap());
        // The classic: the public key as the secret of an HMAC.
        let public = ours.public_key().as_ref();
        let confused = signed(&json!({"alg": "HS256"}), &claims(), hs256(public));
        assert_eq!(jwt.verify(&confused, NOW), Err(JwtError::NoKey));
        for header in [
            json!({"alg": "ES256", "jku": "https://evil.example/keys"}),
            json!({"alg": "ES256", "x5u": "https://evil.example/cert"}),
            json!({"alg": "ES256", "jwk": set_of(&theirs, "x")}),
            json!({"alg": "ES256", "kid": "../../etc/passwd"}),
        ] {
            let token = signed(&header, &claims(), es256(&theirs));
            assert_eq!(
                jwt.verify(&token, NOW),
                Err(JwtError::Signature),
                "{header}"
            );
        }
        let zeros = signed(&json!({"alg": "ES256"}), &claims(), |_: &[u8]| vec![0; 64]);
        assert_eq!(jwt.verify(&zeros, NOW), Err(JwtError::Signature));
        let unknown = signed(
            &json!({"alg": "ES256", "kid": "x"}),
            &claims(),
            es256(&ours),
        );
        assert_eq!(jwt.verify(&unknown, NOW), Err(JwtError::NoKey));
        for set in [
            json!({"keys": []}),
            json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}),
            json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}),
            json!([]),
        ] {
            assert!(read_set(set.to_string().as_bytes()).is_err(), "{set}");
        }
        assert!(secret_key(b"short").is_err());
    }
}
