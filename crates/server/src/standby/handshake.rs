//! The first words between two nodes: who is who, and that both know the token. What comes out on
//! either side may be believed.

use std::time::Duration;

use springhead_log::RawPosition;

use super::auth;
use super::channel::{ChannelError, Incoming, Outgoing, split};
use super::dial::{Address, Trust, dial};
use super::wire::{Identity, Purpose, ToPrimary, ToStandby, VERSION, Verdict};

/// Why two nodes did not come together.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{0}")]
    Dial(std::io::Error),
    #[error("\"{0}\" is no address: expected http://host:port")]
    Address(String),
    #[error("the other node speaks version {found} of the protocol, and this one {VERSION}")]
    Version { found: u32 },
    #[error(
        "the other node does not know this cluster's standby_token, or has none; both need the same"
    )]
    WrongToken,
    #[error("random bytes: {0}")]
    Random(std::io::Error),
    #[error("standby_token is not set, and this node has users: set the same token on all nodes")]
    NoToken,
}

/// What the node that was connected to has learned.
pub struct Accepted {
    pub purpose: Purpose,
    pub identity: Identity,
    pub ends: Vec<RawPosition>,
    pub out: Outgoing<ToStandby>,
    pub incoming: Incoming<ToPrimary>,
}

/// What a node brings to a handshake.
pub struct Own {
    pub identity: Identity,
    pub token: String,
    pub timeout: Duration,
}

/// The side that was connected to. After this its verdict is due.
///
/// # Errors
/// [`HandshakeError`].
pub async fn accept(
    socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    own: &Own,
) -> Result<Accepted, HandshakeError> {
    let (mut out, mut incoming) = split::<ToStandby, ToPrimary>(socket, &[], own.timeout);
    let hello = incoming.receive().await?;
    let ToPrimary::Hello {
        version,
        purpose,
        identity,
        ends,
        ..
    } = hello.clone()
    else {
        return Err(ChannelError::Unexpected("no hello").into());
    };
    let mut welcome = ToStandby::Welcome {
        version: VERSION,
        nonce: auth::nonce().map_err(HandshakeError::Random)?,
        mac: [0; 32],
        identity: own.identity.clone(),
    };
    let proof = auth::of_primary(&own.token, &hello, &welcome);
    if let ToStandby::Welcome { mac, .. } = &mut welcome {
        *mac = proof;
    }
    out.send(&welcome).await?;
    if version != VERSION {
        return Err(HandshakeError::Version { found: version });
    }
    match incoming.receive().await? {
        ToPrimary::Proof { mac } => {
            let expected = auth::of_standby(&own.token, &hello, &welcome);
            if !auth::is_same(&mac, &expected) {
                let why = "the token that it knows (standby_token) is another".to_owned();
                // A courtesy: it may be gone.
                let _ = out
                    .send(&ToStandby::Verdict(Verdict::Refused { why }))
                    .await;
                return Err(HandshakeError::WrongToken);
            }
        }
        _ => return Err(ChannelError::Unexpected("no proof").into()),
    }
    Ok(Accepted {
        purpose,
        identity,
        ends,
        out,
        incoming,
    })
}

/// What the node that connected has learned.
pub struct Connected {
    pub identity: Identity,
    pub verdict: Verdict,
    pub out: Outgoing<ToPrimary>,
    pub incoming: Incoming<ToStandby>,
}

/// The side that connects.
///
/// # Errors
/// [`HandshakeError`].
pub async fn connect(
    address: &str,
    trust: &Trust,
    own: &Own,
    purpose: Purpose,
    ends: Vec<RawPosition>,
) -> Result<Connected, HandshakeError> {
    let address: Address = address
        .parse()
        .map_err(|_| HandshakeError::Address(address.to_owned()))?;
    let dialled = dial(&address, trust, own.timeout)
        .await
        .map_err(HandshakeError::Dial)?;
    let (mut out, mut incoming) =
        split::<ToPrimary, ToStandby>(dialled.socket, &dialled.unread, own.timeout);
    let hello = ToPrimary::Hello {
        version: VERSION,
        purpose,
        nonce: auth::nonce().map_err(HandshakeError::Random)?,
        identity: own.identity.clone(),
        ends,
    };
    out.send(&hello).await?;
    let welcome = incoming.receive().await?;
    let ToStandby::Welcome {
        version,
        mac,
        identity,
        ..
    } = welcome.clone()
    else {
        return Err(ChannelError::Unexpected("no welcome").into());
    };
    if version != VERSION {
        return Err(HandshakeError::Version { found: version });
    }
    if !auth::is_same(&mac, &auth::of_primary(&own.token, &hello, &welcome)) {
        return Err(HandshakeError::WrongToken);
    }
    let mac = auth::of_standby(&own.token, &hello, &welcome);
    out.send(&ToPrimary::Proof { mac }).await?;
    let ToStandby::Verdict(verdict) = incoming.receive().await? else {
        return Err(ChannelError::Unexpected("no verdict").into());
    };
    Ok(Connected {
        identity,
        verdict,
        out,
        incoming,
    })
}

#[cfg(test)]
mod tests {

    use super::*;

    fn own(token: &str) -> Own {
        Own {
            identity: Identity {
                cluster_id: 1,
                is_primary: true,
                ..Identity::without_log("a", "")
            },
            token: token.to_owned(),
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn g6_a_node_without_the_token_is_not_let_in_and_learns_no_proof() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let accepting = own("right");
        let accepting = accept(a, &accepting);
        let connecting = async {
            let (mut out, mut incoming) =
                split::<ToPrimary, ToStandby>(b, &[], Duration::from_secs(5));
            let hello = ToPrimary::Hello {
                version: VERSION,
                purpose: Purpose::Stream,
                nonce: [1; 32],
                identity: own("").identity,
                ends: Vec::new(),
            };
            out.send(&hello).await.unwrap();
            let welcome = incoming.receive().await.unwrap();
            // Its own proof, thrown back, is good for the other direction only.
            let ToStandby::Welcome { mac, .. } = welcome else {
                panic!("{welcome:?}")
            };
            out.send(&ToPrimary::Proof { mac }).await.unwrap();
            incoming.receive().await.unwrap()
        };
        let (accepted, told) = tokio::join!(accepting, connecting);
        assert!(matches!(accepted, Err(HandshakeError::WrongToken)));
        assert!(matches!(told, ToStandby::Verdict(Verdict::Refused { .. })));
    }
}
