//! API tokens: `sh_<id>_<secret>`. The id is public, of the secret only a digest is kept.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use springhead_proto::{ErrorCode, SqlError};

use super::change::{Op, Planned, Planner, denied};
use super::roles::{Role, Roles, Token};
use super::scram::{Key, sha256};
use super::store::timestamp;
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

/// What a new token is to be.
pub(super) struct NewToken<'a> {
    pub name: &'a str,
    pub role: &'a Role,
    pub tenant: Option<&'a str>,
    pub read_only: bool,
    pub valid_until: Option<i64>,
}

impl Planner<'_> {
    pub(super) fn create_token(
        &self,
        token: &NewToken<'_>,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        let role = token.role;
        let is_own = *role.name == *self.actor.identity.role;
        if !is_own && !self.may_change(role) {
            return Err(denied(format!(
                "permission denied to make tokens of role \"{}\"",
                role.name
            )));
        }
        let tenant = match token.tenant {
            Some(name) => Some((self.tenant_id)(name)?),
            None => role.tenant,
        };
        if role.tenant.is_some() && tenant != role.tenant {
            return Err(denied(format!(
                "role \"{}\" is bound to another tenant",
                role.name
            )));
        }
        let secret = Secret::new(self.entropy);
        planned.object = format!("{} ({})", planned.object, secret.id);
        planned.ops.push(Op::new(
            "INSERT INTO springhead.tokens (id, name, hash, role, tenant, read_only, expires_at, created_at, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, now(), $8)",
            vec![
                Some(secret.id.clone()),
                Some(token.name.to_owned()),
                Some(hex(&secret.hash)),
                Some(role.name.to_string()),
                tenant.map(|tenant| tenant.to_string()),
                Some(token.read_only.to_string()),
                token.valid_until.map(timestamp),
                Some(self.actor.session_user.to_string()),
            ],
        ));
        planned.token = Some((secret.id, secret.text));
        Ok(())
    }

    pub(super) fn drop_token(&self, id: &str, planned: &mut Planned) -> Result<(), SqlError> {
        let token = self.roles.token(id);
        let role = token.and_then(|token| self.roles.get(&token.role));
        let is_own = token.is_some_and(|token| *token.role == *self.actor.identity.role);
        // Of tokens of others one does not even learn that they are there.
        if !is_own && !role.is_some_and(|role| self.may_change(role)) {
            return Err(SqlError::new(
                ErrorCode::UndefinedObject,
                format!("token \"{id}\" does not exist"),
            ));
        }
        planned.ops.push(Op::new(
            "UPDATE springhead.tokens SET revoked_at = now() WHERE id = $1",
            vec![Some(id.to_owned())],
        ));
        Ok(())
    }
}
