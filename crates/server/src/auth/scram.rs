//! The server's side of a SCRAM-SHA-256 exchange (RFC 5802), with or without channel binding. Pure:
//! texts in, texts out.
//!
//! ```text
//! client-first  n,,n=,r=<nonce>              or p=tls-server-end-point,,…
//! server-first  r=<nonce><ours>,s=<salt>,i=<iterations>
//! client-final  c=<binding>,r=<nonce><ours>,p=<proof>
//! server-final  v=<signature>
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use springhead_engine::access::scram::Verifier;
use springhead_proto::{ErrorCode, SqlError};
use subtle::ConstantTimeEq;

pub const MECHANISM: &str = "SCRAM-SHA-256";
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Longest message of a client.
pub const MAX_BYTES: usize = 4096;

/// An exchange that waits for the client's final message.
pub struct Exchange {
    verifier: Verifier,
    nonce: String,
    /// The client's first and the server's first message, as the proof covers them.
    messages: String,
    /// What `c=` must say, decoded.
    binding: Vec<u8>,
}

impl Exchange {
    /// Answers the client's first message. `binding` is what it can be bound to here, if anything.
    ///
    /// # Errors
    /// 08P01 for what is none, 28000 for a binding that somebody took away.
    pub fn begin(
        mechanism: &str,
        message: &[u8],
        verifier: Verifier,
        nonce: &str,
        binding: Option<&[u8]>,
    ) -> Result<(Exchange, String), SqlError> {
        let message = text(message)?;
        let malformed = || violation("malformed SCRAM message");
        let (flag, rest) = message.split_once(',').ok_or_else(malformed)?;
        let (identity, bare) = rest.split_once(',').ok_or_else(malformed)?;
        if !identity.is_empty() {
            return Err(SqlError::unsupported("a SCRAM authorization identity"));
        }
        let wants_binding = match (flag, mechanism) {
            ("n", MECHANISM) => false,
            // It could, and believes that the server cannot.
            ("y", MECHANISM) if binding.is_none() => false,
            ("y", MECHANISM) => {
                return Err(SqlError::new(
                    ErrorCode::InvalidAuthorization,
                    "SCRAM channel binding negotiation error",
                )
                .with_detail(
                    "The client supports channel binding but thinks the server does not.",
                ));
            }
            ("p=tls-server-end-point", MECHANISM_PLUS) if binding.is_some() => true,
            _ => return Err(violation("unexpected SCRAM channel-binding flag")),
        };
        let mut attributes = bare.split(',');
        // The user is the startup packet's, so that the name here is of no account.
        if !attributes.next().is_some_and(|name| name.starts_with("n=")) {
            return Err(malformed());
        }
        let client_nonce = attributes
            .next()
            .and_then(|nonce| nonce.strip_prefix("r="))
            .filter(|nonce| !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(malformed)?;
        let nonce = format!("{client_nonce}{nonce}");
        let answer = format!(
            "r={nonce},s={},i={}",
            STANDARD.encode(&verifier.salt),
            verifier.iterations
        );
        let mut bound = format!("{flag},{identity},").into_bytes();
        if wants_binding {
            bound.extend_from_slice(binding.unwrap_or_default());
        }
        let exchange = Exchange {
            verifier,
            nonce,
            messages: format!("{bare},{answer}"),
            binding: bound,
        };
        Ok((exchange, answer))
    }

    /// Checks the client's final message: what to answer, or `None` for a wrong password.
    ///
    /// # Errors
    /// 08P01 for what is none, or belongs to another exchange or another channel.
    pub fn finish(&self, message: &[u8]) -> Result<Option<String>, SqlError> {
        let message = text(message)?;
        let malformed = || violation("malformed SCRAM message");
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or_else(malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes
            .next()
            .and_then(|binding| binding.strip_prefix("c="))
            .and_then(|binding| STANDARD.decode(binding).ok())
            .ok_or_else(malformed)?;
        let nonce = attributes
            .next()
            .and_then(|nonce| nonce.strip_prefix("r="))
            .ok_or_else(malformed)?;
        let same_nonce: bool = nonce.as_bytes().ct_eq(self.nonce.as_bytes()).into();
        if !same_nonce {
            return Err(violation("invalid SCRAM response: nonce does not match"));
        }
        let same_binding: bool = binding.ct_eq(&self.binding).into();
        if !same_binding {
            return Err(violation("SCRAM channel binding check failed"));
        }
        let proof = STANDARD.decode(proof).map_err(|_| malformed())?;
        let covered = format!("{},{without_proof}", self.messages);
        let signature = self.verifier.check_proof(covered.as_bytes(), &proof);
        Ok(signature.map(|signature| format!("v={}", STANDARD.encode(signature))))
    }
}

fn text(message: &[u8]) -> Result<&str, SqlError> {
    if message.len() > MAX_BYTES {
        return Err(violation("a SCRAM message is too long"));
    }
    std::str::from_utf8(message).map_err(|_| violation("a SCRAM message is not UTF-8"))
}

fn violation(message: &str) -> SqlError {
    SqlError::new(ErrorCode::ProtocolViolation, message)
}

#[cfg(test)]
mod tests {
    use springhead_engine::access::scram::client_proof;

    use super::*;

    fn verifier() -> Verifier {
        Verifier::of_password("pencil", b"0123456789abcdef", 4096)
    }

    fn begin(
        mechanism: &str,
        first: &str,
        binding: Option<&[u8]>,
    ) -> Result<(Exchange, String), SqlError> {
        Exchange::begin(mechanism, first.as_bytes(), verifier(), "ours", binding)
    }

    fn last(password: &str, server_first: &str, binding: &[u8], nonce: &str) -> String {
        let without = format!("c={},r={nonce}", STANDARD.encode(binding));
        let covered = format!("n=,r=theirs,{server_first},{without}");
        let (proof, _) = client_proof(password, b"0123456789abcdef", 4096, covered.as_bytes());
        format!("{without},p={}", STANDARD.encode(proof))
    }

    #[test]
    fn a_right_password_is_let_in_and_a_wrong_one_is_not() {
        for (mechanism, header, binding) in [
            (MECHANISM, "n,,", None),
            (MECHANISM, "n,,", Some(&b"digest"[..])),
            (MECHANISM, "y,,", None),
            (MECHANISM_PLUS, "p=tls-server-end-point,,", Some(b"digest")),
        ] {
            let first = format!("{header}n=,r=theirs");
            let (exchange, answer) = begin(mechanism, &first, binding).unwrap();
            let mut bound = header.as_bytes().to_vec();
            if mechanism == MECHANISM_PLUS {
                bound.extend_from_slice(b"digest");
            }
            let right = last("pencil", &answer, &bound, "theirsours");
            assert!(exchange.finish(right.as_bytes()).unwrap().is_some());
            let wrong = last("Pencil", &answer, &bound, "theirsours");
            assert!(exchange.finish(wrong.as_bytes()).unwrap().is_none());
        }
    }

    #[test]
    fn what_is_no_scram_or_of_another_exchange_is_refused() {
        for (mechanism, first, binding) in [
            (MECHANISM, "", None),
            (MECHANISM, "n,,", None),
            (MECHANISM, "n,,n=", None),
            (MECHANISM, "n,,n=,r=", None),
            (MECHANISM, "n,a=ann,n=,r=x", None),
            (MECHANISM, "n,,m=x,n=,r=x", None),
            (MECHANISM, "p=tls-server-end-point,,n=,r=x", Some(&b"d"[..])),
            (MECHANISM_PLUS, "n,,n=,r=x", Some(b"d")),
            (MECHANISM_PLUS, "p=tls-unique,,n=,r=x", Some(b"d")),
            (MECHANISM_PLUS, "p=tls-server-end-point,,n=,r=x", None),
            (MECHANISM, "y,,n=,r=x", Some(b"d")),
            (MECHANISM, "n,,n=,r=\u{7f}", None),
        ] {
            assert!(begin(mechanism, first, binding).is_err(), "{first}");
        }
        let (exchange, answer) = begin(MECHANISM, "n,,n=,r=theirs", None).unwrap();
        let right = last("pencil", &answer, b"n,,", "theirsours");
        for bad in [
            String::new(),
            "c=biws".to_owned(),
            right.replace("theirsours", "theirsourx"),
            right.replace("c=biws", "c=eSws"),
            right.replace(",p=", ",x="),
            format!("{right}!"),
            "x".repeat(MAX_BYTES + 1),
        ] {
            assert!(exchange.finish(bad.as_bytes()).is_err(), "{bad}");
        }
        let short = format!("{},p=AAAA", right.rsplit_once(",p=").unwrap().0);
        assert!(exchange.finish(short.as_bytes()).unwrap().is_none());
    }
}
