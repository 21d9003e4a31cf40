//! The way to the witness: one connection, kept, over which one question at a time is asked and
//! answered. Whoever gives up waiting takes the connection with it, so that no answer is ever taken for
//! another question's.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::messages::{Ask, Known, Said};
use crate::standby::channel::{ChannelError, Incoming, Outgoing};
use crate::standby::dial::Trust;
use crate::standby::handshake::{Connected, HandshakeError, Own, connect};
use crate::standby::wire::{Identity, Purpose, ToPrimary, ToStandby, Verdict};

/// Why the witness did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("it refuses this node: {0}")]
    Refused(String),
    #[error("no answer in {0:?}")]
    Late(Duration),
}

/// An answer, and when its question was sent.
#[derive(Debug, Clone)]
pub struct Answer {
    pub said: Said,
    /// Before the question was sent: what the witness did for it, it did after this.
    pub sent: Instant,
}

impl Answer {
    /// What the witness knows.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.said.known
    }
}

struct Open {
    out: Outgoing<ToPrimary>,
    incoming: Incoming<ToStandby>,
}

/// See the module's text.
pub struct Link {
    address: String,
    trust: Trust,
    token: String,
    /// The nodes that may lead, in their order.
    nodes: Vec<String>,
    open: Mutex<Option<Open>>,
}

impl Link {
    pub fn new(address: String, trust: Trust, token: String, nodes: Vec<String>) -> Link {
        Link {
            address,
            trust,
            token,
            nodes,
            open: Mutex::default(),
        }
    }

    /// Where the witness is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks; `identity` says who, where there is no connection yet. Not longer than `limit` in all.
    ///
    /// # Errors
    /// [`LinkError`]; whether the witness has done what was asked is unknown then.
    pub async fn ask(
        &self,
        identity: impl FnOnce() -> Identity,
        ask: Ask,
        limit: Duration,
    ) -> Result<Answer, LinkError> {
        let mut place = self.open.lock().await;
        let asking = async {
            // Out of its place until it is answered: cancelled, it is gone.
            let mut open = match place.take() {
                Some(open) => open,
                None => self.connect(identity(), limit).await?,
            };
            let answer = exchange(&mut open, ask).await?;
            *place = Some(open);
            Ok(answer)
        };
        timeout(limit, asking)
            .await
            .unwrap_or(Err(LinkError::Late(limit)))
    }

    async fn connect(&self, identity: Identity, limit: Duration) -> Result<Open, LinkError> {
        let own = Own {
            identity,
            token: self.token.clone(),
            timeout: limit,
        };
        let connected = connect(&self.address, &self.trust, &own, Purpose::Vote, Vec::new());
        let Connected {
            verdict,
            out,
            incoming,
            ..
        } = connected.await?;
        match verdict {
            Verdict::Stream => {}
            Verdict::Refused { why } => return Err(LinkError::Refused(why)),
            _ => return Err(LinkError::Refused("it is no witness".to_owned())),
        }
        let mut open = Open { out, incoming };
        let nodes = self.nodes.clone();
        exchange(&mut open, Ask::Join { nodes }).await?;
        Ok(open)
    }
}

async fn exchange(open: &mut Open, ask: Ask) -> Result<Answer, LinkError> {
    let sent = Instant::now();
    open.out.send(&ToPrimary::Ask(ask)).await?;
    match open.incoming.receive().await? {
        ToStandby::Said(said) => Ok(Answer { said, sent }),
        ToStandby::Verdict(Verdict::Refused { why }) => Err(LinkError::Refused(why)),
        _ => Err(ChannelError::Unexpected("no answer of a witness").into()),
    }
}
