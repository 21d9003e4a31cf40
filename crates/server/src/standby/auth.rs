//! How two nodes prove to one another that they know the cluster's token (`standby_token`) without
//! saying it: each answers the other's random bytes with an HMAC over both sides' words. A proof is
//! good for one connection and one direction only.

use ring::hmac;

use super::wire::{Mac, Message, Nonce, ToStandby, encode};

/// Random bytes for one connection.
///
/// # Errors
/// What the operating system says.
pub fn nonce() -> std::io::Result<Nonce> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// What the node that was connected to proves: over the hello it got, and what it says of itself.
pub fn of_primary(token: &str, hello: &impl Message, welcome: &ToStandby) -> Mac {
    mac(token, b"springhead primary 1", hello, welcome)
}

/// What the node that connected proves.
pub fn of_standby(token: &str, hello: &impl Message, welcome: &ToStandby) -> Mac {
    mac(token, b"springhead standby 1", hello, welcome)
}

fn mac(token: &str, direction: &[u8], hello: &impl Message, welcome: &ToStandby) -> Mac {
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(direction);
    let mut bytes = Vec::new();
    encode(hello, 0, &mut bytes);
    encode(&without_mac(welcome), 0, &mut bytes);
    context.update(&bytes);
    context
        .sign()
        .as_ref()
        .try_into()
        .expect("HMAC-SHA256 has 32 bytes")
}

/// The proof cannot be part of what it proves.
fn without_mac(welcome: &ToStandby) -> ToStandby {
    match welcome.clone() {
        ToStandby::Welcome {
            version,
            nonce,
            identity,
            ..
        } => ToStandby::Welcome {
            version,
            nonce,
            mac: [0; 32],
            identity,
        },
        other => other,
    }
}

/// Whether two proofs are the same, in the same time whatever they are.
pub fn is_same(found: &Mac, expected: &Mac) -> bool {
    use subtle::ConstantTimeEq;
    found.ct_eq(expected).into()
}
