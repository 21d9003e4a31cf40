//! What the client says, as a closed enum, decoded in place: texts and values borrow the input.
//!
//! ```text
//! message := type:u8 length:i32 BE (itself included) body
//! ```
//!
//! Two kinds of mistakes: a broken frame or an unknown type ends the connection ([`Mistake::Fatal`]),
//! since nobody knows where the next message begins; a bad text in a sound frame is the statement's
//! error ([`Mistake::Error`]).
//! Source: PostgreSQL 15, chapter 55.7 "Message Formats".

use springhead_proto::{ErrorCode, SqlError};

use super::backend::{Format, Formats};

/// The type and length of a message.
const HEAD_BYTES: usize = 5;

/// A whole message of the client.
#[derive(Debug, PartialEq)]
pub enum FrontendMessage<'a> {
    Query(&'a str),
    Parse {
        name: &'a str,
        sql: &'a str,
        type_oids: Vec<u32>,
    },
    Bind(Bind<'a>),
    Describe(Target<'a>),
    Execute {
        portal: &'a str,
        max_rows: usize,
    },
    Close(Target<'a>),
    Sync,
    Flush,
    Terminate,
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail(&'a str),
    FunctionCall,
    /// An answer to an authentication request.
    Password(&'a [u8]),
}

/// A prepared statement or a portal, by name; the empty name is one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Statement(&'a str),
    Portal(&'a str),
}

/// Values for a prepared statement.
#[derive(Debug, PartialEq)]
pub struct Bind<'a> {
    pub portal: &'a str,
    pub statement: &'a str,
    pub parameter_formats: Formats,
    /// `None` is NULL.
    pub parameters: Vec<Option<&'a [u8]>>,
    pub result_formats: Formats,
}

/// What is wrong with a message.
#[derive(Debug, PartialEq)]
pub enum Mistake {
    /// The connection cannot go on.
    Fatal(SqlError),
    /// This message is refused.
    Error(SqlError),
}

fn fatal(message: impl Into<String>) -> Mistake {
    Mistake::Fatal(SqlError::new(ErrorCode::ProtocolViolation, message))
}

/// A message's place at the front of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    /// How many bytes the whole message has.
    pub length: usize,
}

impl Frame {
    /// The frame at the front of `input`; `None` while it is not all there.
    ///
    /// # Errors
    /// [`Mistake::Fatal`] for an unknown type or an impossible length.
    pub fn find(input: &[u8], max_bytes: usize) -> Result<Option<Frame>, Mistake> {
        let Some((&kind, rest)) = input.split_first() else {
            return Ok(None);
        };
        if !is_known(kind) {
            return Err(fatal(format!("invalid frontend message type {kind}")));
        }
        let Some(length) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length >= 4)
            .ok_or_else(|| fatal(format!("invalid message length {length}")))?;
        if length > max_bytes {
            return Err(Mistake::Fatal(
                SqlError::new(
                    ErrorCode::ProtocolViolation,
                    format!("a message of {length} bytes is over the limit of {max_bytes} bytes"),
                )
                .with_hint("send less at a time, or raise pg_max_message_bytes"),
            ));
        }
        Ok((input.len() > length).then_some(Frame {
            kind,
            length: length + 1,
        }))
    }

    /// Decodes the message, which `input` begins with.
    ///
    /// # Errors
    /// [`Mistake`].
    pub fn decode<'a>(&self, input: &'a [u8]) -> Result<FrontendMessage<'a>, Mistake> {
        let mut body = Body {
            rest: &input[HEAD_BYTES..self.length],
        };
        let message = body.message(self.kind)?;
        if body.rest.is_empty() {
            Ok(message)
        } else {
            Err(fatal("invalid message format: bytes are left over"))
        }
    }
}

const fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        b'Q' | b'P'
            | b'B'
            | b'D'
            | b'E'
            | b'C'
            | b'S'
            | b'H'
            | b'X'
            | b'd'
            | b'c'
            | b'f'
            | b'F'
            | b'p'
    )
}

struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn message(&mut self, kind: u8) -> Result<FrontendMessage<'a>, Mistake> {
        Ok(match kind {
            b'Q' => FrontendMessage::Query(self.text()?),
            b'P' => self.parse()?,
            b'B' => FrontendMessage::Bind(self.bind()?),
            b'D' => FrontendMessage::Describe(self.target()?),
            b'E' => {
                let portal = self.text()?;
                // Zero or less is no limit.
                FrontendMessage::Execute {
                    portal,
                    max_rows: usize::try_from(self.i32()?).unwrap_or(0),
                }
            }
            b'C' => FrontendMessage::Close(self.target()?),
            b'S' => FrontendMessage::Sync,
            b'H' => FrontendMessage::Flush,
            b'X' => FrontendMessage::Terminate,
            b'd' => FrontendMessage::CopyData(self.all()),
            b'c' => FrontendMessage::CopyDone,
            b'f' => FrontendMessage::CopyFail(self.text()?),
            b'F' => {
                self.all();
                FrontendMessage::FunctionCall
            }
            b'p' => FrontendMessage::Password(self.all()),
            _ => return Err(fatal(format!("invalid frontend message type {kind}"))),
        })
    }

    fn parse(&mut self) -> Result<FrontendMessage<'a>, Mistake> {
        // The whole message is read before a bad text is reported, so that the frame is known sound.
        let name = self.text_bytes()?;
        let sql = self.text_bytes()?;
        let count = self.count()?;
        let mut type_oids = Vec::with_capacity(count.min(self.rest.len() / 4));
        for _ in 0..count {
            type_oids.push(self.i32()?.cast_unsigned());
        }
        Ok(FrontendMessage::Parse {
            name: utf8(name)?,
            sql: utf8(sql)?,
            type_oids,
        })
    }

    fn bind(&mut self) -> Result<Bind<'a>, Mistake> {
        let portal = self.text_bytes()?;
        let statement = self.text_bytes()?;
        let parameter_formats = self.formats()?;
        let count = self.count()?;
        let mut parameters = Vec::with_capacity(count.min(self.rest.len() / 4));
        for _ in 0..count {
            parameters.push(self.value()?);
        }
        if let Formats::Each(formats) = &parameter_formats
            && formats.len() != count
        {
            return Err(fatal(format!(
                "bind message has {} parameter formats but {count} parameters",
                formats.len()
            )));
        }
        let result_formats = self.formats()?;
        Ok(Bind {
            portal: utf8(portal)?,
            statement: utf8(statement)?,
            parameter_formats,
            parameters,
            result_formats,
        })
    }

    fn value(&mut self) -> Result<Option<&'a [u8]>, Mistake> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length)
            .map_err(|_| fatal(format!("invalid parameter length {length}")))?;
        self.bytes(length).map(Some)
    }

    fn formats(&mut self) -> Result<Formats, Mistake> {
        let count = self.count()?;
        let mut formats = Vec::with_capacity(count.min(self.rest.len() / 2));
        for _ in 0..count {
            formats.push(match self.u16()? {
                0 => Format::Text,
                1 => Format::Binary,
                other => return Err(fatal(format!("unsupported format code: {other}"))),
            });
        }
        Ok(match formats[..] {
            [] | [Format::Text] => Formats::AllText,
            [Format::Binary] => Formats::AllBinary,
            _ => Formats::Each(formats),
        })
    }

    fn target(&mut self) -> Result<Target<'a>, Mistake> {
        let kind = self.bytes(1)?[0];
        let name = self.text()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            other => Err(fatal(format!("invalid statement or portal kind {other}"))),
        }
    }

    fn text(&mut self) -> Result<&'a str, Mistake> {
        utf8(self.text_bytes()?)
    }

    fn text_bytes(&mut self) -> Result<&'a [u8], Mistake> {
        let end = memchr::memchr(0, self.rest)
            .ok_or_else(|| fatal("invalid string in message: no end"))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(text)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Mistake> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| fatal("insufficient data left in message"))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn count(&mut self) -> Result<usize, Mistake> {
        self.u16().map(usize::from)
    }

    fn u16(&mut self) -> Result<u16, Mistake> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn i32(&mut self) -> Result<i32, Mistake> {
        let bytes = self.bytes(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// The text in `bytes`, or 22021 as PostgreSQL words it.
fn utf8(bytes: &[u8]) -> Result<&str, Mistake> {
    std::str::from_utf8(bytes)
        .map_err(|error| Mistake::Error(invalid_utf8(&bytes[error.valid_up_to()..])))
}

/// 22021 for bytes that are no UTF-8.
#[must_use]
pub fn invalid_utf8(bytes: &[u8]) -> SqlError {
    let shown: Vec<_> = bytes
        .iter()
        .take(4)
        .map(|byte| format!("0x{byte:02x}"))
        .collect();
    SqlError::new(
        ErrorCode::InvalidByteSequence,
        format!(
            "invalid byte sequence for encoding \"UTF8\": {}",
            shown.join(" ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn decode(input: &[u8]) -> Result<FrontendMessage<'_>, Mistake> {
        Frame::find(input, 1 << 20)?.expect("whole").decode(input)
    }

    #[test]
    fn messages_are_decoded_in_place() {
        assert_eq!(
            decode(&framed(b'Q', b"select 1\0")),
            Ok(FrontendMessage::Query("select 1"))
        );
        assert_eq!(
            decode(&framed(b'P', b"s\0select $1\0\0\x01\0\0\0\x17")),
            Ok(FrontendMessage::Parse {
                name: "s",
                sql: "select $1",
                type_oids: vec![23]
            })
        );
        assert_eq!(
            decode(&framed(
                b'B',
                b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\0"
            )),
            Ok(FrontendMessage::Bind(Bind {
                portal: "p",
                statement: "s",
                parameter_formats: Formats::AllBinary,
                parameters: vec![None, Some(b"x")],
                result_formats: Formats::AllText,
            }))
        );
        assert_eq!(
            decode(&framed(b'D', b"Sx\0")),
            Ok(FrontendMessage::Describe(Target::Statement("x")))
        );
        assert_eq!(
            decode(&framed(b'C', b"P\0")),
            Ok(FrontendMessage::Close(Target::Portal("")))
        );
        assert_eq!(
            decode(&framed(b'E', b"\0\0\0\0\x05")),
            Ok(FrontendMessage::Execute {
                portal: "",
                max_rows: 5
            })
        );
        assert_eq!(decode(&framed(b'S', b"")), Ok(FrontendMessage::Sync));
        assert_eq!(decode(&framed(b'X', b"")), Ok(FrontendMessage::Terminate));
    }

    #[test]
    fn a_message_in_parts_is_waited_for() {
        let whole = framed(b'Q', b"select 1\0");
        for end in 0..whole.len() {
            assert_eq!(Frame::find(&whole[..end], 100), Ok(None), "{end}");
        }
        let mut two = whole.clone();
        two.extend_from_slice(&whole);
        assert_eq!(
            Frame::find(&two, 100),
            Ok(Some(Frame {
                kind: b'Q',
                length: whole.len()
            }))
        );
    }

    #[test]
    fn broken_frames_are_fatal() {
        let broken: [&[u8]; 9] = [
            b"z\0\0\0\x04",
            b"Q\0\0\0\x03",
            b"Q\xff\xff\xff\xff",
            b"Q\x7f\xff\xff\xff",
            b"Q\0\0\0\x05x",
            b"S\0\0\0\x05x",
            b"P\0\0\0\x08a\0b\0",
            b"D\0\0\0\x06Xa",
            b"B\0\0\0\x10\0\0\0\0\0\x01\0\0\xff\0\0\0",
        ];
        for input in broken {
            assert!(matches!(decode(input), Err(Mistake::Fatal(_))), "{input:?}");
        }
    }

    #[test]
    fn a_bad_text_is_the_statements_error_alone() {
        let input = framed(b'Q', b"select '\xff'\0");
        let Err(Mistake::Error(error)) = decode(&input) else {
            panic!("expected an error")
        };
        assert_eq!(error.code, ErrorCode::InvalidByteSequence);
        assert!(error.message.contains("0xff"), "{}", error.message);
        assert!(matches!(
            decode(&framed(b'P', b"\0\xff\0\0\0")),
            Err(Mistake::Error(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind: u8, body in proptest::collection::vec(any::<u8>(), 0..64), raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Frame::find(&raw, 1024).map(|frame| frame.map(|frame| frame.decode(&raw).is_ok()));
            let input = framed(kind, &body);
            if let Ok(Some(frame)) = Frame::find(&input, 1024) {
                let _ = frame.decode(&input);
            }
        }
    }
}
