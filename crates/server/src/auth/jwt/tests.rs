//! Tokens that are good, and the table of those that are not.

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
