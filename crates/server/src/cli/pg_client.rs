//! A small client of the PostgreSQL protocol (simple query flow) for the commands that run SQL.

use std::io::{self, IsTerminal};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use springhead_engine::access::scram::client_proof;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::CliError;
use super::tls::{Mode, Stream, Tls, TlsArgs};
use crate::auth::tls::end_point;

/// A message of the server longer than this is not believed.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Where to connect, from `postgres://[user@]host:port[/tenant][?sslmode=mode]`.
#[derive(Debug, Clone)]
pub struct Target {
    pub host_port: String,
    pub user: String,
    pub tenant: String,
    mode: Mode,
    tls: Option<Tls>,
    /// Other hosts of the same cluster, each with all it takes to connect: with any, the one that
    /// takes writes is looked for.
    others: Vec<Target>,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(url: &str, tls: &TlsArgs) -> Result<Target, CliError> {
        let bad = || {
            CliError::Usage(format!(
                "--url {url}: expected postgres://[user@]host:port[,host:port…][/tenant][?sslmode=mode]"
            ))
        };
        let (url, query) = url.split_once('?').unwrap_or((url, ""));
        let mode = match query.strip_prefix("sslmode=") {
            Some(mode) => Some(mode.to_owned()),
            None if query.is_empty() => std::env::var("PGSSLMODE").ok(),
            None => return Err(bad()),
        };
        let mode = Mode::read(mode.as_deref(), tls)?;
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .or_else(|| url.strip_prefix("springhead://"))
            .ok_or_else(bad)?;
        let (place, tenant) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host_port) = place.rsplit_once('@').unwrap_or(("", place));
        let mut hosts = host_port.split(',');
        if hosts.clone().any(str::is_empty) || tenant.contains('/') || user.contains(':') {
            return Err(bad());
        }
        let first = hosts.next().ok_or_else(bad)?;
        let mut first = Target::of_host(first, mode, tls, user, tenant)?;
        let hosts = hosts.map(|host| Target::of_host(host, mode, tls, user, tenant));
        first.others = hosts.collect::<Result<_, _>>()?;
        Ok(first)
    }

    /// One of the hosts.
    fn of_host(
        host_port: &str,
        mode: Mode,
        tls: &TlsArgs,
        user: &str,
        tenant: &str,
    ) -> Result<Target, CliError> {
        let host_port = if host_port
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        {
            host_port.to_owned()
        } else {
            format!("{host_port}:6432")
        };
        let or = |text: &str, default: &str| {
            if text.is_empty() {
                default.to_owned()
            } else {
                text.to_owned()
            }
        };
        let tls = Tls::of(&host_port, mode, tls, b"postgresql")?;
        Ok(Target {
            host_port,
            mode,
            tls,
            user: or(
                user,
                &std::env::var("PGUSER").unwrap_or_else(|_| "springhead".to_owned()),
            ),
            tenant: or(tenant, "default"),
            others: Vec::new(),
        })
    }
}

/// A connection.
pub struct PgClient {
    stream: BufReader<Stream>,
    target: Target,
    key: [u8; 8],
    /// What the server says of itself (`in_hot_standby`).
    is_standby: bool,
}

/// A result's column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
}

/// What the server says in answer to a query, in order.
#[derive(Debug)]
pub enum Answer {
    Columns(Vec<Column>),
    Row(Vec<Option<String>>),
    /// A statement is done; its command tag.
    Done(String),
    Notice(String),
    /// The statement failed; nothing after it was run.
    Failed(String),
    /// Nothing more will come.
    Ready,
}

impl PgClient {
    /// Connects and waits until a query can be sent.
    ///
    /// # Errors
    /// Unreachable, or what the server refuses.
    pub async fn connect(target: &Target) -> Result<PgClient, CliError> {
        if target.others.is_empty() {
            return PgClient::connect_to(target).await;
        }
        let mut problems = Vec::new();
        for host in std::iter::once(target).chain(&target.others) {
            match PgClient::connect_to(host).await {
                Ok(client) if client.is_standby => {
                    problems.push(format!("{} is a standby", host.host_port));
                }
                Ok(client) => return Ok(client),
                Err(error) => problems.push(error.to_string()),
            }
        }
        Err(CliError::Unreachable(format!(
            "no host takes writes: {}",
            problems.join("; ")
        )))
    }

    async fn connect_to(target: &Target) -> Result<PgClient, CliError> {
        let stream = open(target).await?;
        let mut client = PgClient {
            stream: BufReader::new(stream),
            target: target.clone(),
            key: [0; 8],
            is_standby: false,
        };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for text in [
            "user",
            &target.user,
            "database",
            &target.tenant,
            "application_name",
            "springhead",
        ] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        client.send(&with_length(&body)).await?;
        loop {
            let (kind, body) = client.receive().await?;
            match kind {
                b'Z' => return Ok(client),
                b'E' => return Err(CliError::Failed(error_text(&body))),
                b'S' if body == b"in_hot_standby\0on\0" => client.is_standby = true,
                b'K' => {
                    if let Some(key) = body.first_chunk::<8>() {
                        client.key = *key;
                    }
                }
                b'R' => match body.split_first_chunk::<4>() {
                    Some(([0, 0, 0, 0 | 12], _)) => {}
                    Some(([0, 0, 0, 10], mechanisms)) => client.log_in(mechanisms).await?,
                    _ => {
                        return Err(CliError::Failed(
                            "the server wants to know who this is in a way that is not known here"
                                .to_owned(),
                        ));
                    }
                },
                _ => {}
            }
        }
    }

    /// SCRAM-SHA-256, bound to the TLS connection where there is one, with the password of
    /// `PGPASSWORD`, or asked for on the terminal.
    async fn log_in(&mut self, mechanisms: &[u8]) -> Result<(), CliError> {
        let (mechanism, header, bound) = self.mechanism(mechanisms)?;
        let password = self.password()?;
        let mut nonce = [0; 18];
        getrandom::fill(&mut nonce)
            .map_err(|error| CliError::Failed(format!("no random bytes: {error}")))?;
        let nonce = STANDARD.encode(nonce);
        let first = format!("n=,r={nonce}");
        let mut body = mechanism.as_bytes().to_vec();
        body.push(0);
        let message = format!("{header}{first}");
        body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(message.as_bytes());
        let server_first = self.exchange(&body, 11).await?;
        let (salt, iterations) = challenge(&server_first, &nonce).ok_or_else(|| self.nonsense())?;
        let server_nonce = server_first[2..].split(',').next().unwrap_or_default();
        let binding = STANDARD.encode([header.as_bytes(), &bound].concat());
        let last = format!("c={binding},r={server_nonce}");
        let covered = format!("{first},{server_first},{last}");
        let (proof, expected) = client_proof(&password, &salt, iterations, covered.as_bytes());
        let last = format!("{last},p={}", STANDARD.encode(proof));
        let server_last = self.exchange(last.as_bytes(), 12).await?;
        if server_last != format!("v={}", STANDARD.encode(expected)) {
            return Err(CliError::Failed(
                "the server does not know the password itself: it is another one".to_owned(),
            ));
        }
        Ok(())
    }

    /// The best of what the server offers: its name, what SCRAM says of the channel, and what that is
    /// bound to (RFC 5802, 5929).
    fn mechanism(&self, offered: &[u8]) -> Result<(&'static str, &'static str, Vec<u8>), CliError> {
        let offers = |name: &str| {
            offered
                .split(|&byte| byte == 0)
                .any(|one| one == name.as_bytes())
        };
        let certificate = self.stream.get_ref().certificate();
        match certificate.and_then(end_point) {
            Some(bound) if offers("SCRAM-SHA-256-PLUS") => {
                Ok(("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", bound))
            }
            // We could have: if somebody took the offer away, the server will know by this.
            Some(_) if offers("SCRAM-SHA-256") => Ok(("SCRAM-SHA-256", "y,,", Vec::new())),
            None if offers("SCRAM-SHA-256") => Ok(("SCRAM-SHA-256", "n,,", Vec::new())),
            _ => Err(self.nonsense()),
        }
    }

    fn password(&self) -> Result<String, CliError> {
        match std::env::var("PGPASSWORD") {
            Ok(password) => Ok(password),
            Err(_) if std::io::stdin().is_terminal() => {
                super::user::ask(&format!("Password for {}: ", self.target.user))
            }
            Err(_) => Err(CliError::Failed(
                "the server asks for a password: set PGPASSWORD, and the user in --url or PGUSER"
                    .to_owned(),
            )),
        }
    }

    /// Sends a message of type `p`; the text of the authentication message `kind` in answer.
    async fn exchange(&mut self, body: &[u8], kind: u8) -> Result<String, CliError> {
        let mut message = vec![b'p'];
        message.extend_from_slice(&with_length(body));
        self.send(&message).await?;
        let (answer, body) = self.receive().await?;
        match (answer, body.split_first_chunk::<4>()) {
            (b'E', _) => Err(CliError::Failed(error_text(&body))),
            (b'R', Some(([0, 0, 0, found], text))) if *found == kind => {
                Ok(String::from_utf8_lossy(text).into_owned())
            }
            _ => Err(self.nonsense()),
        }
    }

    /// Sends a query; [`PgClient::answer`] has what comes of it.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn query(&mut self, sql: &str) -> Result<(), CliError> {
        if sql.contains('\0') {
            return Err(CliError::Usage(
                "a statement cannot have a zero character in it".to_owned(),
            ));
        }
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        let mut message = vec![b'Q'];
        message.extend_from_slice(&with_length(&body));
        self.send(&message).await
    }

    /// The next part of the answer.
    ///
    /// # Errors
    /// Unreachable, or bytes that are no answer.
    pub async fn answer(&mut self) -> Result<Answer, CliError> {
        loop {
            let (kind, body) = self.receive().await?;
            return Ok(match kind {
                b'T' => Answer::Columns(columns(&body).ok_or_else(|| self.nonsense())?),
                b'D' => Answer::Row(values(&body).ok_or_else(|| self.nonsense())?),
                b'C' => Answer::Done(
                    String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned(),
                ),
                b'I' => Answer::Done(String::new()),
                b'N' => Answer::Notice(error_text(&body)),
                b'E' => Answer::Failed(error_text(&body)),
                b'Z' => Answer::Ready,
                _ => continue,
            });
        }
    }

    /// Asks the server to end what it runs for us; the answer comes as usual.
    ///
    /// # Errors
    /// Unreachable.
    pub async fn cancel(&self) -> Result<(), CliError> {
        let mut stream = open(&self.target).await?;
        let mut body = 80_877_102_i32.to_be_bytes().to_vec();
        body.extend_from_slice(&self.key);
        let sent = async {
            stream.write_all(&with_length(&body)).await?;
            stream.flush().await
        };
        sent.await
            .map_err(|error| unreachable(&self.target, &error))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await
            .map_err(|error| unreachable(&self.target, &error))
    }

    async fn receive(&mut self) -> Result<(u8, Vec<u8>), CliError> {
        let lost = |error: io::Error| unreachable(&self.target, &error);
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).await.map_err(lost)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let length = length
            .checked_sub(4)
            .filter(|&length| length <= MAX_MESSAGE_BYTES);
        let Some(length) = length else {
            return Err(self.nonsense());
        };
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.map_err(lost)?;
        Ok((head[0], body))
    }

    fn nonsense(&self) -> CliError {
        CliError::Failed(format!(
            "{} does not speak the PostgreSQL protocol",
            self.target.host_port
        ))
    }
}

/// A connection, with as much TLS as the target wants.
async fn open(target: &Target) -> Result<Stream, CliError> {
    let lost = |error: io::Error| unreachable(target, &error);
    let mut stream = TcpStream::connect(&target.host_port).await.map_err(lost)?;
    let Some(tls) = &target.tls else {
        return Ok(Box::new(stream));
    };
    let ask = with_length(&80_877_103_i32.to_be_bytes());
    stream.write_all(&ask).await.map_err(lost)?;
    // Byte by byte: nothing that came before the handshake may be taken for a part of it.
    match stream.read_u8().await.map_err(lost)? {
        b'S' => tls.connect(stream).await.map_err(lost),
        b'N' if target.mode == Mode::Prefer => Ok(Box::new(stream)),
        b'N' => Err(CliError::Failed(format!(
            "{} does not speak TLS; with sslmode=disable it is not asked to",
            target.host_port
        ))),
        _ => Err(CliError::Failed(format!(
            "{} does not speak the PostgreSQL protocol",
            target.host_port
        ))),
    }
}

/// Salt and iterations of the server's first message, if it answers our nonce.
fn challenge(message: &str, nonce: &str) -> Option<(Vec<u8>, u32)> {
    let mut parts = message.split(',');
    let answered = parts.next()?.strip_prefix("r=")?;
    let salt = STANDARD.decode(parts.next()?.strip_prefix("s=")?).ok()?;
    let iterations = parts.next()?.strip_prefix("i=")?.parse().ok()?;
    let is_ours = answered.len() > nonce.len() && answered.starts_with(nonce);
    (is_ours && iterations <= 10_000_000).then_some((salt, iterations))
}

fn unreachable(target: &Target, error: &io::Error) -> CliError {
    CliError::Unreachable(format!("{}: {error}", target.host_port))
}

fn with_length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

/// An error's or a notice's fields, as psql shows them.
fn error_text(body: &[u8]) -> String {
    let field = |kind: u8| {
        body.split(|&byte| byte == 0)
            .find(|field| field.first() == Some(&kind))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    };
    let mut text = format!(
        "{}: {} ({})",
        field(b'S').unwrap_or_default(),
        field(b'M').unwrap_or_default(),
        field(b'C').unwrap_or_default()
    );
    for (kind, word) in [(b'D', "DETAIL"), (b'H', "HINT")] {
        if let Some(more) = field(kind) {
            text.push_str(&format!("\n{word}: {more}"));
        }
    }
    text
}

fn columns(mut body: &[u8]) -> Option<Vec<Column>> {
    let count = u16::from_be_bytes(*take(&mut body)?);
    (0..count)
        .map(|_| {
            let end = memchr::memchr(0, body)?;
            let name = String::from_utf8_lossy(&body[..end]).into_owned();
            body = &body[end + 1..];
            let rest: &[u8; 18] = take(&mut body)?;
            Some(Column {
                name,
                type_oid: u32::from_be_bytes([rest[6], rest[7], rest[8], rest[9]]),
            })
        })
        .collect()
}

fn values(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = u16::from_be_bytes(*take(&mut body)?);
    (0..count)
        .map(|_| {
            let length = i32::from_be_bytes(*take(&mut body)?);
            let Ok(length) = usize::try_from(length) else {
                return Some(None);
            };
            let (value, rest) = body.split_at_checked(length)?;
            body = rest;
            Some(Some(String::from_utf8_lossy(value).into_owned()))
        })
        .collect()
}

fn take<'a, const N: usize>(body: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target = |url| {
            let none = TlsArgs::default();
            Target::read(url, &none)
                .map(|t| (t.host_port, t.user, t.tenant))
                .ok()
        };
        let of = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(
            target("postgres://ann@db:1/shop"),
            of("db:1", "ann", "shop")
        );
        assert_eq!(
            target("postgresql://[::1]:5"),
            of("[::1]:5", "springhead", "default")
        );
        assert_eq!(
            target("postgres://db"),
            of("db:6432", "springhead", "default")
        );
        assert_eq!(
            target("postgres://db/shop?sslmode=verify-full"),
            of("db:6432", "springhead", "shop")
        );
        assert_eq!(
            target("springhead://a,b:7/shop"),
            of("a:6432", "springhead", "shop")
        );
        assert_eq!(target("springhead://a,,b"), None);
        assert_eq!(target("postgres://db?sslmode=strict"), None);
        assert_eq!(target("postgres://db?host=x"), None);
        assert_eq!(target("http://db"), None);
        assert_eq!(target("postgres:///x"), None);
    }
}
