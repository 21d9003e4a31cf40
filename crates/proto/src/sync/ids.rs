//! Who made a mutation and which of theirs it is.
//!
//! ```text
//! producer (128 random bits) ── generation (from 1) ── seq 1, 2, 3, … dense
//! ```
//!
//! The three together name one mutation for ever. A device that finds itself copied takes a new
//! producer id for what it writes from then on; a server that sees a lower generation than the
//! highest it knows of a producer fences it.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Cursor, Lsn};

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 16 bytes on the wire, 32 lower-case hexadecimal digits as text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// The bytes on the wire, most significant first.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`Self::to_bytes`].
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.to_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(IdVisitor).map(Self)
                } else {
                    deserializer.deserialize_bytes(IdVisitor).map(Self)
                }
            }
        }
    };
}

random_id! {
    /// Who numbers mutations: in the words of older systems, the peer id. Belongs to one device file.
    ProducerId
}
random_id! {
    /// A device, as people and presence know it. Unlike the producer it stays when a file is copied.
    DeviceId
}

/// Text that is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed id: expected 32 hexadecimal digits")]
pub struct BadId;

fn parse_hex(text: &str) -> Result<u128, BadId> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BadId);
    }
    u128::from_str_radix(text, 16).map_err(|_| BadId)
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        u64::deserialize(deserializer).map(Lsn)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id of 16 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<u128, E> {
        let bytes = bytes
            .try_into()
            .map_err(|_| E::invalid_length(bytes.len(), &self))?;
        Ok(u128::from_be_bytes(bytes))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u128, E> {
        parse_hex(text).map_err(E::custom)
    }
}

/// Which life of a producer: from 1. Lower than the highest that the server knows means fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    /// The first life.
    pub const FIRST: Generation = Generation(1);
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a mutation: dense within a producer's generation, from 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first mutation.
    pub const ZERO: Seq = Seq(0);
    /// The first mutation.
    pub const FIRST: Seq = Seq(1);

    /// The number right after this one.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One mutation's name. As text `<producer>/<generation>/<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MutationId {
    pub producer: ProducerId,
    pub generation: Generation,
    pub seq: Seq,
}

impl fmt::Display for MutationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.producer, self.generation, self.seq)
    }
}

impl FromStr for MutationId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<MutationId, BadId> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(BadId);
        let id = MutationId {
            producer: next()?.parse()?,
            generation: Generation(next()?.parse().map_err(|_| BadId)?),
            seq: Seq(next()?.parse().map_err(|_| BadId)?),
        };
        if parts.next().is_some() {
            return Err(BadId);
        }
        Ok(id)
    }
}

/// A hybrid logical clock's reading (Kulkarni et al. 2014): milliseconds since 1970 in the upper 48
/// bits, a counter in the lower 16. Later readings are greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first reading of a millisecond.
    #[must_use]
    pub const fn at_ms(ms: u64) -> Hlc {
        Hlc(ms << 16)
    }

    /// Its milliseconds since 1970.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The reading after `last` at the wall clock's `now_ms`: never lower than either.
    #[must_use]
    pub fn tick(last: Hlc, now_ms: u64) -> Hlc {
        Hlc::at_ms(now_ms).max(Hlc(last.0.saturating_add(1)))
    }
}

/// How often a tenant's definitions have changed: the `version` of its catalog.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CatalogVersion(pub u64);

impl fmt::Display for CatalogVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a set of definitions adds up to: equal sets have equal hashes, in whatever order they came.
///
/// The wrapping sum of one number for each definition in force: [`fnv1a`] over its type, name and
/// payload as a definition frame carries them, each followed by a zero byte. It finds divergence, it does not withstand an attacker: a
/// device that lies about it only misleads itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CatalogHash(pub u64);

impl CatalogHash {
    /// The hash with one more definition.
    #[must_use]
    pub fn with(self, kind: &str, name: &str, payload: &str) -> CatalogHash {
        CatalogHash(self.0.wrapping_add(definition_number(kind, name, payload)))
    }

    /// The hash without one that was in it.
    #[must_use]
    pub fn without(self, kind: &str, name: &str, payload: &str) -> CatalogHash {
        CatalogHash(self.0.wrapping_sub(definition_number(kind, name, payload)))
    }
}

impl fmt::Display for CatalogHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for CatalogHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CatalogHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CatalogHash, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl FromStr for CatalogHash {
    type Err = BadId;

    fn from_str(text: &str) -> Result<CatalogHash, BadId> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadId);
        }
        u64::from_str_radix(text, 16)
            .map(CatalogHash)
            .map_err(|_| BadId)
    }
}

fn definition_number(kind: &str, name: &str, payload: &str) -> u64 {
    let mut hash = FNV_OFFSET;
    for part in [kind, name, payload] {
        hash = fnv1a_on(hash, part.as_bytes());
        hash = fnv1a_on(hash, &[0]);
    }
    hash
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a with 64 bits (Fowler, Noll, Vo).
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(FNV_OFFSET, bytes)
}

fn fnv1a_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}
