//! What a login is exchanged for, so that it need not be shown again: cookies of browsers, and
//! read-only tickets for one path. They say who it is, signed with the node's own secret; nothing is
//! kept of them.
//!
//! ```text
//! base64url(JSON) . base64url(HMAC-SHA-256)
//! ```

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use springhead_engine::Engine;
use springhead_engine::access::scram::sha256;
use springhead_engine::access::{Credential, Principal};
use springhead_proto::TenantId;

/// Longer ones are not looked at.
const MAX_BYTES: usize = 12 << 10;

/// What it is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    Cookie,
    /// Reading this path, as it is written in the request.
    Ticket(String),
}

/// How the login was made, so that it ends with what it was made by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    /// A digest of the password's verifier.
    Password(String),
    Token(String),
    Jwt,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    #[serde(rename = "for")]
    good_for: Use,
    by: Origin,
    user: String,
    expires_us: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<serde_json::Value>,
    read_only: bool,
}

/// Signs a principal; `None` for one that shows no credentials of its own (open mode). It expires at
/// `expires_us`, or earlier with the credentials.
#[must_use]
pub fn sign(
    engine: &Engine,
    secret: &[u8],
    principal: &Principal,
    good_for: Use,
    expires_us: i64,
) -> Option<(String, i64)> {
    let by = match &principal.credential {
        Credential::Open(_) => return None,
        Credential::Password => {
            let roles = engine.roles();
            let verifier = roles.get(&principal.user)?.verifier.clone()?;
            Origin::Password(digest(&verifier.text()))
        }
        Credential::Exchanged(verifier) => Origin::Password(digest(&verifier.text())),
        Credential::Token(id) => Origin::Token(id.to_string()),
        Credential::Jwt => Origin::Jwt,
    };
    let expires_us = principal
        .expires_at_us
        .map_or(expires_us, |end| end.min(expires_us));
    let content = Content {
        read_only: principal.read_only || matches!(good_for, Use::Ticket(_)),
        good_for,
        by,
        user: principal.user.to_string(),
        expires_us,
        tenant: principal.tenant.map(|tenant| tenant.0),
        uid: principal.uid.as_ref().map(ToString::to_string),
        claims: principal.claims.as_deref().cloned(),
    };
    let json = serde_json::to_vec(&content).ok()?;
    let tag = hmac::sign(&key(secret), &json);
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(&json),
        URL_SAFE_NO_PAD.encode(tag)
    );
    Some((text, expires_us))
}

/// Who signed in with `text`; `None` if it is not ours, or for something else. Whether it is still
/// good is [`Engine::identify`]'s to say.
#[must_use]
pub fn verify(engine: &Engine, secret: &[u8], text: &str, wanted: &Use) -> Option<Principal> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let (json, tag) = text.split_once('.')?;
    let json = URL_SAFE_NO_PAD.decode(json).ok()?;
    let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
    hmac::verify(&key(secret), &json, &tag).ok()?;
    let content: Content = serde_json::from_slice(&json).ok()?;
    if content.good_for != *wanted {
        return None;
    }
    let credential = match content.by {
        Origin::Password(wanted) => {
            let roles = engine.roles();
            let verifier = roles.get(&content.user)?.verifier.clone()?;
            if digest(&verifier.text()) != wanted {
                // The password has been changed since.
                return None;
            }
            Credential::Exchanged(verifier)
        }
        Origin::Token(id) => Credential::Token(id.into()),
        Origin::Jwt => Credential::Jwt,
    };
    Some(Principal {
        uid: content.uid.map(Into::into),
        claims: content.claims.map(Arc::new),
        read_only: content.read_only,
        tenant: content.tenant.map(TenantId),
        expires_at_us: Some(content.expires_us),
        ..Principal::of(&content.user, credential)
    })
}

fn digest(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()))
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}
