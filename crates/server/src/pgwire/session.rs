//! From a startup packet to a session: which tenant, which settings, what the client is told of
//! them.

use std::sync::Arc;

use springhead_engine::Session;
use springhead_engine::access::Principal;
use springhead_proto::{ErrorCode, SqlError, TenantId};

use super::backend;
use super::registry::Place;
use super::startup::StartupParameters;
use crate::node::NodeState;

/// Settings that are reported to every client, in PostgreSQL's order, with what is said where the
/// session has no such setting.
const REPORTED: [(&str, &str); 13] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("session_authorization", ""),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

/// The tenant that a client wants: the one it names; if it names none, the one that its role is bound
/// to, or the one called as its user; if there is none, `default`.
///
/// # Errors
/// 3D000 for a name that no tenant has.
fn tenant_of(
    state: &NodeState,
    parameters: &StartupParameters,
    principal: &Principal,
) -> Result<TenantId, SqlError> {
    match (&parameters.database, state.engine.tenant_of(principal)) {
        (Some(name), _) => state.engine.tenant_id(name),
        (None, Some(bound)) => Ok(bound),
        (None, None) => Ok(state
            .engine
            .tenant_id(&parameters.user)
            .unwrap_or(TenantId::DEFAULT)),
    }
}

/// Opens the session and answers the startup packet up to, but without, ReadyForQuery.
///
/// # Errors
/// Why the connection cannot be made.
pub async fn open(
    state: &NodeState,
    parameters: &StartupParameters,
    principal: &Arc<Principal>,
    out: &mut Vec<u8>,
) -> Result<(Session, Place), SqlError> {
    let tenant = tenant_of(state, parameters, principal)?;
    let config = &state.config;
    state.engine.check_tenant(principal, tenant).map_err(|_| {
        let name = parameters.database.as_deref().unwrap_or(&parameters.user);
        SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!("permission denied for database \"{name}\""),
        )
        .with_detail("User does not have CONNECT privilege.")
    })?;
    let roles = state.engine.roles();
    let role = roles
        .get(&parameters.user)
        .filter(|role| !principal.unrestricted && !role.superuser);
    let mut place = state.pg.admit(
        tenant,
        config.pg_max_connections,
        config.pg_max_connections_per_tenant,
        &principal.user,
        role.and_then(|role| usize::try_from(role.connection_limit).ok()),
    )?;
    let mut session = state.engine.session(tenant, principal).await?;
    for (name, value) in &parameters.settings {
        if name.eq_ignore_ascii_case("client_encoding") {
            check_encoding(value)?;
        } else {
            session.set(&name.to_ascii_lowercase(), value)?;
        }
    }
    let secret = random_key()?;
    place.set_key(session.process_id(), secret, session.canceller());
    session.be_known();

    if parameters.minor_version > 0 || !parameters.protocol_options.is_empty() {
        backend::negotiate_protocol_version(out, &parameters.protocol_options);
    }
    backend::authentication_ok(out);
    for (name, fallback) in REPORTED {
        let value = match name {
            "session_authorization" => Some(parameters.user.clone()),
            _ => session.setting(&name.to_ascii_lowercase()),
        };
        backend::parameter_status(out, name, value.as_deref().unwrap_or(fallback));
    }
    backend::backend_key_data(out, session.process_id(), secret);
    Ok((session, place))
}

/// Texts are UTF-8. `SQL_ASCII`, which psql asks for in the C locale, promises nothing that UTF-8
/// does not keep.
fn check_encoding(value: &str) -> Result<(), SqlError> {
    let plain: String = value
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    match plain.as_str() {
        "utf8" | "unicode" | "sqlascii" => Ok(()),
        _ => Err(
            SqlError::unsupported(format_args!("client_encoding \"{value}\""))
                .with_hint("use UTF8"),
        ),
    }
}

fn random_key() -> Result<i32, SqlError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)
        .map_err(|error| SqlError::new(ErrorCode::Internal, format!("no random bytes: {error}")))?;
    Ok(i32::from_be_bytes(bytes))
}
