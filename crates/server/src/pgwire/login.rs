//! Who a client is: nobody in open mode, else SCRAM-SHA-256. Unknown users, users without a
//! password and wrong passwords go the same way to the same error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use springhead_engine::access::{Credential, Principal};
use springhead_proto::{ErrorCode, SqlError};

use super::backend;
use super::connection::Ended;
use super::frontend::{Frame, Mistake};
use super::results::Wire;
use super::socket::Input;
use super::startup::StartupParameters;
use crate::auth::scram::{Exchange, MAX_BYTES, MECHANISM, MECHANISM_PLUS};
use crate::node::NodeState;

/// Finds out on whose behalf a client speaks.
///
/// # Errors
/// 28000 or 28P01 if it may not, 53400 after too many failures, or the socket's.
pub async fn log_in(
    wire: &mut Wire,
    input: &mut Input,
    state: &NodeState,
    parameters: &StartupParameters,
    peer: SocketAddr,
) -> Result<Arc<Principal>, Ended> {
    let address: Arc<str> = peer.ip().to_string().into();
    if state.engine.roles().is_open {
        crate::auth::expect_loopback(peer.ip())?;
        let open = Principal::unrestricted(&parameters.user);
        return Ok(Arc::new(Principal {
            address: Some(address),
            ..Principal::clone(&open)
        }));
    }
    if state.auth.tls_required() && !wire.stream.is_encrypted() {
        return Err(SqlError::new(
            ErrorCode::InvalidAuthorization,
            "connections without TLS are not accepted",
        )
        .with_hint("connect with sslmode=require")
        .into());
    }
    let user = &*parameters.user;
    state.auth.throttle.check(user, peer.ip(), Instant::now())?;
    // Both are looked for, so that it takes as long for users that do not exist.
    let nobody = state.auth.verifier_of_nobody(user);
    let known = state.auth.verifier_of(&state.engine, user);
    let verifier = known.clone().unwrap_or(nobody);
    let proven = Box::pin(exchange(wire, input, state, verifier)).await;
    let answer = match proven {
        // Whoever has no verifier of his own can have proven nothing.
        Ok(answer) => answer.filter(|_| known.is_some()),
        Err(ended) => {
            state.auth.failed(user, peer.ip(), "08P01");
            return Err(ended);
        }
    };
    let Some(answer) = answer else {
        state.auth.failed(user, peer.ip(), "28P01");
        return Err(SqlError::new(
            ErrorCode::InvalidPassword,
            format!("password authentication failed for user \"{user}\""),
        )
        .into());
    };
    backend::authentication_sasl_final(&mut wire.out, answer.as_bytes());
    state.auth.succeeded(user, peer.ip(), "login");
    Ok(Arc::new(Principal {
        address: Some(address),
        ..Principal::of(user, Credential::Password)
    }))
}

/// The four messages; the last one's text, or `None` for a wrong password.
async fn exchange(
    wire: &mut Wire,
    input: &mut Input,
    state: &NodeState,
    verifier: springhead_engine::access::scram::Verifier,
) -> Result<Option<String>, Ended> {
    let binding = match wire.stream.is_encrypted() {
        true => state.auth.tls.as_ref().and_then(|tls| tls.end_point()),
        false => None,
    };
    let mechanisms: &[&str] = match binding {
        Some(_) => &[MECHANISM_PLUS, MECHANISM],
        None => &[MECHANISM],
    };
    backend::authentication_sasl(&mut wire.out, mechanisms);
    wire.flush().await?;
    let body = answer(wire, input).await?;
    let (mechanism, message) =
        initial_response(&body).ok_or_else(|| violation("malformed SASLInitialResponse"))?;
    if !mechanisms.contains(&mechanism) {
        return Err(violation("client selected an invalid SASL authentication mechanism").into());
    }
    let mut nonce = [0; 18];
    getrandom::fill(&mut nonce)
        .map_err(|error| SqlError::new(ErrorCode::Internal, format!("no random bytes: {error}")))?;
    let nonce = STANDARD.encode(nonce);
    let (exchange, first) =
        Exchange::begin(mechanism, message, verifier, &nonce, binding.as_deref())?;
    backend::authentication_sasl_continue(&mut wire.out, first.as_bytes());
    wire.flush().await?;
    let body = answer(wire, input).await?;
    Ok(exchange.finish(&body)?)
}

/// mechanism\0 length:i32 message
fn initial_response(body: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(0, body)?;
    let mechanism = std::str::from_utf8(&body[..end]).ok()?;
    let (length, message) = body[end + 1..].split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (length == message.len()).then_some((mechanism, message))
}

/// The body of the client's next message, which must be of type `p`.
async fn answer(wire: &mut Wire, input: &mut Input) -> Result<Vec<u8>, Ended> {
    loop {
        let found = match Frame::find(input.bytes(), 2 * MAX_BYTES) {
            Ok(found) => found,
            Err(Mistake::Fatal(error) | Mistake::Error(error)) => return Err(error.into()),
        };
        if let Some(frame) = found {
            if frame.kind != b'p' {
                return Err(match frame.kind {
                    b'X' => Ended::Left,
                    kind => violation(&format!(
                        "expected SASL response, got message type {}",
                        char::from(kind).escape_default()
                    ))
                    .into(),
                });
            }
            let body = input.bytes()[5..frame.length].to_vec();
            input.consume(frame.length);
            return Ok(body);
        }
        if !input.fill(&mut wire.stream).await? {
            return Err(Ended::Left);
        }
    }
}

fn violation(message: &str) -> SqlError {
    SqlError::new(ErrorCode::ProtocolViolation, message)
}
