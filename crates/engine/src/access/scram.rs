//! Passwords at rest: SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677) in PostgreSQL's text form, from
//! which the password cannot be had back.
//!
//! ```text
//! SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>      (base64)
//! ```

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;

/// What PostgreSQL uses.
pub const ITERATIONS: u32 = 4096;
pub const SALT_BYTES: usize = 16;

const PREFIX: &str = "SCRAM-SHA-256$";
/// A verifier that is given as text may cost this much at each login, at most.
const MAX_ITERATIONS: u32 = 1_000_000;
const MAX_SALT_BYTES: usize = 1024;

pub type Key = [u8; 32];

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

impl Verifier {
    /// Takes a few milliseconds, by intent.
    #[must_use]
    pub fn of_password(password: &str, salt: &[u8], iterations: u32) -> Verifier {
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            prepared(password).as_bytes(),
            &mut salted,
        );
        Verifier {
            iterations: iterations.get(),
            salt: salt.to_vec(),
            stored_key: sha256(&mac(&salted, b"Client Key")),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// One that no password fits, for users that do not exist: whoever tries to log in as one is
    /// told the same, after the same work, with the same salt each time.
    #[must_use]
    pub fn of_nobody(secret: &[u8], user: &str) -> Verifier {
        let salt = mac(secret, &[b"salt ", user.as_bytes()].concat());
        Verifier {
            iterations: ITERATIONS,
            salt: salt[..SALT_BYTES].to_vec(),
            stored_key: mac(secret, &[b"stored key ", user.as_bytes()].concat()),
            server_key: mac(secret, &[b"server key ", user.as_bytes()].concat()),
        }
    }

    /// Reads the text form; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Verifier> {
        let (first, keys) = text.strip_prefix(PREFIX)?.split_once('$')?;
        let (iterations, salt) = first.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok()?;
        let salt = STANDARD.decode(salt).ok()?;
        if !(1..=MAX_ITERATIONS).contains(&iterations)
            || !(1..=MAX_SALT_BYTES).contains(&salt.len())
        {
            return None;
        }
        Some(Verifier {
            iterations,
            salt,
            stored_key: STANDARD.decode(stored_key).ok()?.try_into().ok()?,
            server_key: STANDARD.decode(server_key).ok()?.try_into().ok()?,
        })
    }

    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{PREFIX}{}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }

    /// Whether it was made of `password`; takes as long either way.
    #[must_use]
    pub fn fits(&self, password: &str) -> bool {
        let given = Verifier::of_password(password, &self.salt, self.iterations);
        given.stored_key.ct_eq(&self.stored_key).into()
    }

    /// Checks a client's proof over `auth_message`; the server's signature in return, `None` if the
    /// proof is wrong.
    #[must_use]
    pub fn check_proof(&self, auth_message: &[u8], proof: &[u8]) -> Option<Key> {
        let proof: &Key = proof.try_into().ok()?;
        let signature = mac(&self.stored_key, auth_message);
        let mut client_key = [0; 32];
        for (place, byte) in client_key.iter_mut().enumerate() {
            *byte = proof[place] ^ signature[place];
        }
        let is_right: bool = sha256(&client_key).ct_eq(&self.stored_key).into();
        let answer = mac(&self.server_key, auth_message);
        is_right.then_some(answer)
    }
}

/// What the client computes: its proof and the signature that it expects. For Springhead's own
/// command line.
#[must_use]
pub fn client_proof(
    password: &str,
    salt: &[u8],
    iterations: u32,
    auth_message: &[u8],
) -> (Key, Key) {
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        prepared(password).as_bytes(),
        &mut salted,
    );
    let client_key = mac(&salted, b"Client Key");
    let signature = mac(&sha256(&client_key), auth_message);
    let mut proof = [0; 32];
    for (place, byte) in proof.iter_mut().enumerate() {
        *byte = client_key[place] ^ signature[place];
    }
    (proof, mac(&mac(&salted, b"Server Key"), auth_message))
}

/// SASLprep (RFC 4013); a password that it does not take is used as it is, as in PostgreSQL.
fn prepared(password: &str) -> std::borrow::Cow<'_, str> {
    stringprep::saslprep(password).unwrap_or(std::borrow::Cow::Borrowed(password))
}

/// HMAC-SHA-256.
#[must_use]
pub fn mac(key: &[u8], data: &[u8]) -> Key {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// SHA-256.
#[must_use]
pub fn sha256(data: &[u8]) -> Key {
    digest::digest(&digest::SHA256, data)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::of_password("pencil", &salt, 4096);
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = STANDARD
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .unwrap();
        let signature = verifier.check_proof(message, &proof).expect("it is right");
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        assert_eq!(
            client_proof("pencil", &salt, 4096, message),
            (proof.clone().try_into().unwrap(), signature)
        );
        for place in 0..32 {
            let mut wrong = proof.clone();
            wrong[place] ^= 1;
            assert!(verifier.check_proof(message, &wrong).is_none());
        }
        assert!(verifier.check_proof(message, &proof[..31]).is_none());
        assert!(verifier.fits("pencil") && !verifier.fits("Pencil") && !verifier.fits(""));
    }

    #[test]
    fn the_text_form_is_postgresql_s() {
        let verifier = Verifier::of_password("secret", b"0123456789abcdef", 4096);
        assert_eq!(Verifier::parse(&verifier.text()), Some(verifier.clone()));
        assert!(!verifier.text().contains("secret"));
        for bad in [
            "",
            "secret",
            "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$0:AAAA$AAAA",
            "SCRAM-SHA-256$99999999:MDEyMzQ1Njc4OWFiY2RlZg==$x:y",
            "md5d41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert_eq!(Verifier::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn users_that_do_not_exist_have_a_salt_of_their_own() {
        let one = Verifier::of_nobody(b"secret", "ann");
        assert_eq!(one, Verifier::of_nobody(b"secret", "ann"));
        assert_ne!(one.salt, Verifier::of_nobody(b"secret", "bob").salt);
        assert_ne!(one.salt, Verifier::of_nobody(b"other", "ann").salt);
    }
}
