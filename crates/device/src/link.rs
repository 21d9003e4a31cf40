//! The connection: a WebSocket while there is one, and the next try when there is none.
//!
//! Between tries it waits a random time of up to 1, 2, 4, … 60 s. A refusal that trying again does
//! not mend stops it, and says so in the status. So does another session of the same device, begun
//! from a copy of it, that takes the connection again and again: this one then waits to be asked for,
//! or for minutes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use springhead_log::{Clock, SystemClock};
use springhead_proto::sync::{DeviceToServer, Ping, ServerToDevice, SyncErrorCode, TokenRefresh};
use springhead_proto::{CollectionId, Lsn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::conversation::{Conversation, End};
use crate::device::Inner;
use crate::{Device, DeviceError, Phase, local};

/// Gives the token to connect with; asked anew for each connection and when the server wants another.
pub type TokenSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

const CONNECT: Duration = Duration::from_secs(20);
const LONGEST_WAIT_MS: u64 = 60_000;
/// How often the server is told again what this device shows in channels; it forgets after 60 s.
const PRESENCE: Duration = Duration::from_secs(25);
/// A connection of its own that was given up may get to the server after the one that followed it, and
/// take that one's place: so it tries again. Of two copies of a device that take it from each other one
/// steps back after so many times in a row.
const MOST_TAKEOVERS: u32 = 3;
/// A connection that has lasted as long was not taken in a row with the one before it.
const LASTING: Duration = Duration::from_secs(60);
/// Who has stepped back comes again by itself after this long, or up to twice as long: the other may
/// have gone, and if it has not, it takes the connection once and is left in peace again.
const STEPPED_BACK_MS: u64 = 300_000;
/// Frames that have come together are put into the device together.
const FRAMES_AT_ONCE: usize = 256;

/// A task that keeps a device connected. Dropped, it ends.
pub(crate) struct Link {
    /// Taken when it is waited for.
    task: Option<tokio::task::JoinHandle<()>>,
    renewed: Arc<Notify>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Where to connect to.
struct Target {
    url: String,
    host: String,
    port: u16,
    secure: bool,
}

impl Link {
    pub(crate) fn start(
        device: Weak<Inner>,
        url: &str,
        token: Option<TokenSource>,
    ) -> Result<Link, DeviceError> {
        let target = Target::parse(url)?;
        let renewed = Arc::new(Notify::new());
        let task = tokio::spawn(keep(device, target, token, Arc::clone(&renewed)));
        Ok(Link {
            task: Some(task),
            renewed,
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.task.as_ref().is_none_or(|task| task.is_finished())
    }

    /// Ends it, and waits for its end.
    pub(crate) async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // It was told to end, so that is what it ends with.
            let _ = task.await;
        }
    }

    /// What is wanted has changed: connect anew.
    pub(crate) fn renew(&self) {
        self.renewed.notify_one();
    }
}

impl Target {
    fn parse(url: &str) -> Result<Target, DeviceError> {
        let bad = |why: &str| DeviceError::BadUrl {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let uri: http::Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(bad("it begins with ws:// or wss://")),
        };
        let host = uri.host().ok_or_else(|| bad("it has no host"))?;
        Ok(Target {
            url: url.to_owned(),
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
        })
    }
}

/// Connects, again and again, until the device is closed or the server refuses for good.
async fn keep(
    device: Weak<Inner>,
    target: Target,
    token: Option<TokenSource>,
    renewed: Arc<Notify>,
) {
    let mut tries = 0;
    let mut takeovers = Takeovers::default();
    loop {
        let (end, stepped_back) = {
            let Some(inner) = device.upgrade() else {
                return;
            };
            let device = Device::of_link(inner);
            show(&device, Phase::Connecting, None);
            let mut was_live = false;
            let begun = Instant::now();
            let end = connect(&device, &target, token.as_ref(), &renewed, &mut was_live).await;
            if was_live {
                tries = 0;
            }
            let message = end
                .as_ref()
                .map(|end| format!("{}: {}", end.code, end.message));
            let is_takeover = takeovers.ended(end.as_ref(), begun.elapsed());
            let tries_again = |end: &End| is_takeover || may_reconnect(end, token.is_some());
            if !end.as_ref().is_none_or(tries_again) {
                show(&device, Phase::Stopped, message);
                return;
            }
            let stepped_back = takeovers.are_enough();
            let phase = if stepped_back {
                Phase::Elsewhere
            } else {
                Phase::Offline
            };
            show(&device, phase, message);
            (end, stepped_back)
        };
        let Some(end) = end else {
            // Asked for.
            continue;
        };
        let wait = if stepped_back {
            STEPPED_BACK_MS + random_ms(STEPPED_BACK_MS)
        } else {
            wait_ms(tries).max(end.after_ms.unwrap_or(0))
        };
        tries += 1;
        tokio::select! {
            () = sleep(Duration::from_millis(wait)) => {}
            () = renewed.notified() => {}
        }
    }
}

/// Ends in a row of which the server said that another session of this device has begun.
#[derive(Default)]
struct Takeovers(u32);

impl Takeovers {
    /// A connection has ended after some time; whether it was taken over.
    fn ended(&mut self, end: Option<&End>, lasted: Duration) -> bool {
        let is_takeover = end.is_some_and(|end| end.code == SyncErrorCode::TakenOver);
        self.0 = match is_takeover {
            true if lasted < LASTING => self.0 + 1,
            true => 1,
            false => 0,
        };
        is_takeover
    }

    fn are_enough(&self) -> bool {
        self.0 >= MOST_TAKEOVERS
    }
}

fn may_reconnect(end: &End, has_tokens: bool) -> bool {
    let wants_token = matches!(
        end.code,
        SyncErrorCode::TokenExpired | SyncErrorCode::Unauthenticated
    );
    end.code.may_reconnect() || wants_token && has_tokens
}

/// A random time of up to 1, 2, 4, … 60 s.
fn wait_ms(tries: u32) -> u64 {
    random_ms(LONGEST_WAIT_MS.min(1000 << tries.min(6)))
}

fn random_ms(most: u64) -> u64 {
    u64::try_from(local::random() % u128::from(most)).unwrap_or(most)
}

fn show(device: &Device, phase: Phase, error: Option<String>) {
    device.inner.status.send_if_modified(|status| {
        let changed = status.phase != phase || error.is_some() && status.error != error;
        status.phase = phase;
        if error.is_some() || phase == Phase::Live {
            status.error = error;
        }
        changed
    });
}

/// One connection, to its end; `None` if it is to be made anew at once.
async fn connect(
    device: &Device,
    target: &Target,
    token: Option<&TokenSource>,
    renewed: &Notify,
    was_live: &mut bool,
) -> Option<End> {
    let offline = |error: &dyn std::fmt::Display| End {
        code: SyncErrorCode::GoingAway,
        message: error.to_string(),
        after_ms: None,
    };
    let tcp = match timeout(CONNECT, TcpStream::connect((&*target.host, target.port))).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Some(offline(&error)),
        Err(late) => return Some(offline(&late)),
    };
    let _ = tcp.set_nodelay(true);
    let result = if target.secure {
        match secured(tcp, &target.host).await {
            Ok(stream) => talk(device, stream, target, token, renewed, was_live).await,
            Err(end) => Err(end),
        }
    } else {
        talk(device, tcp, target, token, renewed, was_live).await
    };
    result.err()
}

async fn secured(
    tcp: TcpStream,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, End> {
    let failed =
        |error: &dyn std::fmt::Display| End::new(SyncErrorCode::GoingAway, format!("TLS: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|error| failed(&error))
}

/// `Ok` if the connection is to be made anew at once.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    device: &Device,
    stream: S,
    target: &Target,
    token: Option<&TokenSource>,
    renewed: &Notify,
    was_live: &mut bool,
) -> Result<(), End> {
    let lost =
        |error: &dyn std::fmt::Display| End::new(SyncErrorCode::GoingAway, error.to_string());
    let request = (&*target.url)
        .into_client_request()
        .map_err(|error| lost(&error))?;
    let (socket, _) = timeout(CONNECT, tokio_tungstenite::client_async(request, stream))
        .await
        .map_err(|late| lost(&late))?
        .map_err(|error| lost(&error))?;
    let mut talk = Talk {
        device,
        socket,
        conversation: Conversation::new(device.clone()),
        token,
        heard: Instant::now(),
        said: Instant::now(),
    };
    let hello = talk
        .conversation
        .hello(token.and_then(|token| token()))
        .await?;
    talk.say(&[hello]).await?;
    show(device, Phase::CatchingUp, None);
    talk.run(renewed, was_live).await
}

/// One connection that is open.
struct Talk<'d, S> {
    device: &'d Device,
    socket: WebSocketStream<S>,
    conversation: Conversation,
    token: Option<&'d TokenSource>,
    heard: Instant,
    said: Instant,
}

fn now_ms() -> u64 {
    SystemClock.monotonic_ms()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<'_, S> {
    async fn run(&mut self, renewed: &Notify, was_live: &mut bool) -> Result<(), End> {
        // Whatever is queued from now on wakes it.
        let device = self.device;
        let tenant = &device.inner.tenant;
        let visible: Lsn = tenant.visible();
        let mut queue = tenant.tail(visible, vec![CollectionId::DEVICE_PENDING]);
        let presence = &device.inner.presence;
        let mut shown = Instant::now();
        loop {
            let limits = *self.conversation.limits();
            let silent = self.said + Duration::from_millis(limits.ping_interval_ms.into());
            let dead = self.heard + Duration::from_millis(limits.idle_timeout_ms.into());
            let paused = self.conversation.not_before_ms().saturating_sub(now_ms());
            tokio::select! {
                message = self.socket.next() => self.receive(message).await?,
                step = queue.next() => {
                    step.map_err(|error| End::new(SyncErrorCode::Internal, error.to_string()))?;
                    self.device.refresh_status().await?;
                }
                () = renewed.notified() => return Ok(()),
                () = sleep(Duration::from_millis(paused)), if paused > 0 => {}
                () = presence.changed() => {}
                () = sleep_until(shown + PRESENCE) => {
                    shown = Instant::now();
                    presence.renew();
                }
                () = sleep_until(silent) => {
                    let ping = Ping { nonce: now_ms(), reply: false };
                    self.say(&[DeviceToServer::Ping(ping)]).await?;
                }
                () = sleep_until(dead) => {
                    return Err(End::new(SyncErrorCode::Timeout, "the server is silent"));
                }
            }
            let replies = self.conversation.settle().await?;
            springhead_log::failpoint::hit("device.before_acknowledge");
            self.say(&replies).await?;
            if std::mem::take(&mut self.conversation.wants_token)
                && let Some(token) = self.token.and_then(|token| token())
            {
                let refresh = DeviceToServer::TokenRefresh(TokenRefresh { token });
                self.say(&[refresh]).await?;
            }
            while let Some(push) = self.conversation.push(now_ms()).await? {
                springhead_log::failpoint::hit("device.before_push");
                self.say(&[push]).await?;
                springhead_log::failpoint::hit("device.after_push");
            }
            *was_live |= self.device.inner.status.borrow().phase == Phase::Live;
        }
    }

    /// Takes what has come, a message and those behind it.
    async fn receive(
        &mut self,
        first: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), End> {
        let mut next = first;
        let mut taken = 0;
        loop {
            self.heard = Instant::now();
            match next {
                None => return Err(End::new(SyncErrorCode::GoingAway, "the server has closed")),
                Some(Err(error)) => {
                    return Err(End::new(SyncErrorCode::GoingAway, error.to_string()));
                }
                Some(Ok(Message::Binary(bytes))) => {
                    let frame =
                        ServerToDevice::from_bytes(&bytes, springhead_proto::sync::MAX_FRAME_BYTES)
                            .map_err(|error| End::new(error.code(), error.to_string()))?;
                    self.conversation.take(frame, now_ms()).await?;
                }
                Some(Ok(Message::Close(close))) => {
                    let why = close.map(|close| close.reason.to_string());
                    return Err(End::new(
                        SyncErrorCode::GoingAway,
                        why.unwrap_or_else(|| "the server has closed".to_owned()),
                    ));
                }
                Some(Ok(_)) => {}
            }
            taken += 1;
            // The next is only taken out if it is gone through.
            if taken == FRAMES_AT_ONCE {
                break;
            }
            next = match futures_util::FutureExt::now_or_never(self.socket.next()) {
                Some(message) => message,
                None => break,
            };
        }
        Ok(())
    }

    async fn say(&mut self, frames: &[DeviceToServer]) -> Result<(), End> {
        if frames.is_empty() {
            return Ok(());
        }
        self.said = Instant::now();
        let failed =
            |error: &dyn std::fmt::Display| End::new(SyncErrorCode::GoingAway, error.to_string());
        for frame in frames {
            let message = Message::Binary(frame.to_bytes().into());
            self.socket
                .feed(message)
                .await
                .map_err(|error| failed(&error))?;
        }
        self.socket.flush().await.map_err(|error| failed(&error))
    }
}
