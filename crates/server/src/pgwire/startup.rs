//! The start of a connection: what kind of conversation it wants, and as whom.
//!
//! ```text
//! packet := length:i32 BE (itself included) code:i32 BE rest
//! code   := 80877103 SSLRequest | 80877104 GSSENCRequest | 80877102 CancelRequest pid key
//!         | 3 << 16 | minor, then (name\0 value\0)* \0
//! ```
//!
//! Pure: bytes in, [`Startup`] out.

use springhead_proto::{ErrorCode, SqlError};

/// PostgreSQL's own limit.
const MAX_PACKET_BYTES: usize = 10_000;
const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

/// What a new connection wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Startup {
    /// TLS; what it wants then follows.
    Tls,
    /// Encryption by GSSAPI.
    Gss,
    /// To end the statement of another connection.
    Cancel { process_id: i32, secret: i32 },
    /// To talk.
    Session(StartupParameters),
}

/// What a client says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StartupParameters {
    pub user: String,
    pub database: Option<String>,
    /// Settings in the order given: from parameters, and from `options`.
    pub settings: Vec<(String, String)>,
    /// The minor version it asked for.
    pub minor_version: u16,
    /// Protocol options (`_pq_.…`) that it asked for; none is known here.
    pub protocol_options: Vec<String>,
}

/// The packet at the front of `input` and its length; `None` while it is not all there.
///
/// # Errors
/// Why the connection cannot go on.
pub fn read_packet(input: &[u8]) -> Result<Option<(Startup, usize)>, SqlError> {
    let Some(length) = input.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*length))
        .ok()
        .filter(|length| (8..=MAX_PACKET_BYTES).contains(length))
        .ok_or_else(|| violation("invalid length of startup packet"))?;
    let Some(packet) = input.get(4..length) else {
        return Ok(None);
    };
    let (code, body) = packet
        .split_first_chunk::<4>()
        .expect("the length is at least 8");
    let startup = match i32::from_be_bytes(*code) {
        SSL_REQUEST => Startup::Tls,
        GSSENC_REQUEST => Startup::Gss,
        CANCEL_REQUEST => cancel(body)?,
        version if version >> 16 == 3 => {
            let minor = u16::try_from(version & 0xffff).expect("sixteen bits");
            Startup::Session(parameters(body, minor)?)
        }
        version => {
            return Err(SqlError::unsupported(format_args!(
                "unsupported frontend protocol {}.{}: server supports 3.0; it",
                version >> 16,
                version & 0xffff
            )));
        }
    };
    Ok(Some((startup, length)))
}

fn violation(message: &str) -> SqlError {
    SqlError::new(ErrorCode::ProtocolViolation, message)
}

fn cancel(body: &[u8]) -> Result<Startup, SqlError> {
    let &[a, b, c, d, e, f, g, h] = body else {
        return Err(violation("invalid length of cancel request"));
    };
    Ok(Startup::Cancel {
        process_id: i32::from_be_bytes([a, b, c, d]),
        secret: i32::from_be_bytes([e, f, g, h]),
    })
}

fn parameters(body: &[u8], minor_version: u16) -> Result<StartupParameters, SqlError> {
    let bad_layout =
        || violation("invalid startup packet layout: expected terminator as last byte");
    let body = body.strip_suffix(&[0]).ok_or_else(bad_layout)?;
    let mut parameters = StartupParameters {
        minor_version,
        ..StartupParameters::default()
    };
    let mut texts = body.split_inclusive(|&byte| byte == 0).map(|text| {
        let text = text.strip_suffix(&[0]).ok_or_else(bad_layout)?;
        std::str::from_utf8(text)
            .map_err(|error| super::frontend::invalid_utf8(&text[error.valid_up_to()..]))
    });
    while let Some(name) = texts.next() {
        let name = name?;
        let value = texts.next().ok_or_else(bad_layout)??;
        match name {
            "user" => value.clone_into(&mut parameters.user),
            "database" => {
                parameters.database = Some(value.to_owned()).filter(|name| !name.is_empty())
            }
            "options" => parameters.settings.extend(options(value)?),
            "replication" if !matches!(value, "false" | "off" | "no" | "0") => {
                return Err(SqlError::unsupported("the replication protocol")
                    .with_hint("changes are read over HTTP: GET /cdc"));
            }
            "replication" => {}
            option if option.starts_with("_pq_.") => {
                parameters.protocol_options.push(option.to_owned())
            }
            setting => parameters
                .settings
                .push((setting.to_owned(), value.to_owned())),
        }
    }
    if parameters.user.is_empty() {
        return Err(SqlError::new(
            ErrorCode::InvalidAuthorization,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    Ok(parameters)
}

/// Settings in command-line form: `-c name=value`, `-cname=value`, `--name=value`; a backslash
/// keeps the blank after it.
fn options(text: &str) -> Result<Vec<(String, String)>, SqlError> {
    let mut settings = Vec::new();
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("--")
                .or_else(|| word.strip_prefix("-c"))
                .map(str::to_owned)
        };
        let pair = setting
            .as_deref()
            .and_then(|setting| setting.split_once('='));
        let (name, value) = pair.ok_or_else(|| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("invalid command-line argument for server process: {word}"),
            )
            .with_hint("options are given as -c name=value")
        })?;
        settings.push((name.trim().replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            blank if blank.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: i32, body: &[u8]) -> Vec<u8> {
        let mut out = i32::try_from(body.len() + 8)
            .unwrap()
            .to_be_bytes()
            .to_vec();
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn session(body: &[u8]) -> Result<StartupParameters, SqlError> {
        match read_packet(&packet(196_608, body))? {
            Some((Startup::Session(parameters), _)) => Ok(parameters),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_and_options_are_read() {
        let found = session(
            b"user\0ann\0database\0shop\0application_name\0psql\0options\0-c a=b\\ c --x-y=1 -cz=\0_pq_.new\x001\0\0",
        )
        .unwrap();
        assert_eq!(found.user, "ann");
        assert_eq!(found.database.as_deref(), Some("shop"));
        let wanted = [
            ("application_name", "psql"),
            ("a", "b c"),
            ("x_y", "1"),
            ("z", ""),
        ];
        assert!(
            found
                .settings
                .iter()
                .map(|(a, b)| (a.as_str(), b.as_str()))
                .eq(wanted),
            "{found:?}"
        );
        assert_eq!(found.protocol_options, ["_pq_.new"]);
    }

    #[test]
    fn other_requests() {
        assert_eq!(
            read_packet(&packet(SSL_REQUEST, b"")).unwrap(),
            Some((Startup::Tls, 8))
        );
        assert_eq!(
            read_packet(&packet(GSSENC_REQUEST, b"")).unwrap(),
            Some((Startup::Gss, 8))
        );
        assert_eq!(
            read_packet(&packet(CANCEL_REQUEST, &[0, 0, 0, 7, 0, 0, 0, 9])).unwrap(),
            Some((
                Startup::Cancel {
                    process_id: 7,
                    secret: 9
                },
                16
            ))
        );
        let whole = packet(196_608, b"user\0a\0\0");
        for end in 0..whole.len() {
            assert_eq!(read_packet(&whole[..end]).unwrap(), None);
        }
    }

    #[test]
    fn refusals() {
        let code = |input: &[u8]| read_packet(input).unwrap_err().code;
        assert_eq!(code(&[0, 0, 0, 7]), ErrorCode::ProtocolViolation);
        assert_eq!(code(&[0x7f, 0, 0, 0]), ErrorCode::ProtocolViolation);
        assert_eq!(
            code(b"\x16\x03\x01\x02\x00\x01"),
            ErrorCode::ProtocolViolation
        );
        assert_eq!(
            code(&packet(131_072, b"\0")),
            ErrorCode::FeatureNotSupported
        );
        assert_eq!(
            code(&packet(CANCEL_REQUEST, &[1])),
            ErrorCode::ProtocolViolation
        );
        for (body, wanted) in [
            (&b"database\0x\0\0"[..], ErrorCode::InvalidAuthorization),
            (b"user\0a\0x\0", ErrorCode::ProtocolViolation),
            (b"user\0a", ErrorCode::ProtocolViolation),
            (b"user\0\xff\0\0", ErrorCode::InvalidByteSequence),
            (
                b"user\0a\0replication\0database\0\0",
                ErrorCode::FeatureNotSupported,
            ),
            (b"user\0a\0options\0-x\0\0", ErrorCode::SyntaxError),
        ] {
            assert_eq!(session(body).unwrap_err().code, wanted, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(code: i32, body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_packet(&body);
            let _ = read_packet(&packet(code, &body));
            let _ = read_packet(&packet(196_608, &body));
        }
    }
}
