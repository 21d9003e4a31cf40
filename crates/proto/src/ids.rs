//! Newtypes for positions and identities. A number that means something has a type of its own, so
//! that an LSN is never handed to something that wanted a byte offset.

use std::fmt;
use std::str::FromStr;

/// The number of one change in the log: dense, from 1, never reused, never reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first change: nothing has been seen.
    pub const ZERO: Lsn = Lsn(0);
    /// The first change of a log.
    pub const FIRST: Lsn = Lsn(1);
    /// Past every change: as the end of a range, "no end".
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The LSN right after this one.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// The LSN right before this one; [`Lsn::ZERO`] stays.
    #[must_use]
    pub const fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// This LSN moved on by `count` changes.
    #[must_use]
    pub const fn plus(self, count: u64) -> Lsn {
        Lsn(self.0 + count)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of one history of the log, eight hexadecimal digits as text. A promotion or a restore
/// starts a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// "Everything up to and including `lsn` has been seen", in the history `epoch`.
///
/// Text: `<lsn>@<epoch>`, as in `42@9c1e04d7`. A bare `<lsn>` has no epoch: it is read as being of
/// the current one, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The last LSN that has been seen; [`Lsn::ZERO`] for "nothing yet".
    pub lsn: Lsn,
    /// The history it was seen in; `None` where the text named none.
    pub epoch: Option<Epoch>,
}

impl Cursor {
    /// The cursor after `lsn` of `epoch`.
    #[must_use]
    pub const fn new(lsn: Lsn, epoch: Epoch) -> Cursor {
        Cursor {
            lsn,
            epoch: Some(epoch),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "{}@{epoch}", self.lsn),
            None => self.lsn.fmt(f),
        }
    }
}

/// A cursor's text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "malformed cursor: expected <lsn> or <lsn>@<epoch> with an epoch of eight hexadecimal digits, as in 42@9c1e04d7"
)]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Cursor, BadCursor> {
        let (lsn, epoch) = match text.split_once('@') {
            Some((lsn, epoch)) => (lsn, Some(epoch)),
            None => (text, None),
        };
        // `u64::from_str` also takes a leading plus, which a cursor never has.
        if lsn.is_empty() || !lsn.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadCursor);
        }
        let lsn = Lsn(lsn.parse().map_err(|_| BadCursor)?);
        let epoch = match epoch {
            None => None,
            Some(hex) if hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Some(Epoch(u32::from_str_radix(hex, 16).map_err(|_| BadCursor)?))
            }
            Some(_) => return Err(BadCursor),
        };
        Ok(Cursor { lsn, epoch })
    }
}

/// An isolated database. Numeric, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// Holds the list of tenants and other facts of the whole node; no client connects to it.
pub const SYSTEM_TENANT: TenantId = TenantId(0);

impl TenantId {
    /// The tenant called `default`, there from the first start.
    pub const DEFAULT: TenantId = TenantId(1);
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A collection (table) of one tenant. Never reused within it. [`CollectionId::NONE`] marks changes
/// that belong to no collection (messages, sequence advances).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(pub u32);

impl CollectionId {
    /// No collection.
    pub const NONE: CollectionId = CollectionId(0);
    /// `springhead.definitions`, whose rows are the catalog.
    pub const DEFINITIONS: CollectionId = CollectionId(1);
    /// `springhead.consumers`.
    pub const CONSUMERS: CollectionId = CollectionId(2);
    /// `springhead.tenants`, in the system tenant.
    pub const TENANTS: CollectionId = CollectionId(3);
    /// `springhead.roles`, in the default tenant, for all tenants.
    pub const ROLES: CollectionId = CollectionId(4);
    /// `springhead.role_members`, in the default tenant.
    pub const ROLE_MEMBERS: CollectionId = CollectionId(5);
    /// `springhead.tokens`, in the default tenant.
    pub const TOKENS: CollectionId = CollectionId(6);
    /// `springhead.audit`, in the default tenant.
    pub const AUDIT: CollectionId = CollectionId(7);
    /// `springhead.dead_letters`: rejected mutations.
    pub const DEAD_LETTERS: CollectionId = CollectionId(8);
    /// `springhead.dead_letter_policies`.
    pub const DEAD_LETTER_POLICIES: CollectionId = CollectionId(9);
    /// `springhead.escalations`: dead letters that have left for somebody to look at.
    pub const ESCALATIONS: CollectionId = CollectionId(10);
    /// `springhead.dead_letter_totals`: what came in and what became of it.
    pub const DEAD_LETTER_TOTALS: CollectionId = CollectionId(11);
    /// `springhead.dead_letter_redrives`: those that have begun and not ended.
    pub const DEAD_LETTER_REDRIVES: CollectionId = CollectionId(12);
    /// `springhead.sync_producers`: how far each device's mutations have come.
    pub const SYNC_PRODUCERS: CollectionId = CollectionId(20);
    /// `springhead.sync_verdicts`: those that their devices have not acknowledged, and the last before.
    pub const SYNC_VERDICTS: CollectionId = CollectionId(21);
    /// `springhead.sync_clocks`: when each column of a row was written, where that decides.
    pub const SYNC_CLOCKS: CollectionId = CollectionId(22);
    /// `springhead.device_state`: on a device, who it is and how far it has come.
    pub const DEVICE_STATE: CollectionId = CollectionId(40);
    /// `springhead.device_pending`: on a device, mutations that are not at their end.
    pub const DEVICE_PENDING: CollectionId = CollectionId(41);
    /// `springhead.device_rejections`: on a device, rejected mutations.
    pub const DEVICE_REJECTIONS: CollectionId = CollectionId(42);
    /// `springhead.device_image`: on a device, the server's rows under what is pending.
    pub const DEVICE_IMAGE: CollectionId = CollectionId(43);
    /// `springhead.device_members`: on a device, which shapes hold which document.
    pub const DEVICE_MEMBERS: CollectionId = CollectionId(44);
    /// `springhead.device_shapes`: on a device, what it is subscribed to.
    pub const DEVICE_SHAPES: CollectionId = CollectionId(45);
    /// `springhead.device_definitions`: on a device, the server's definitions.
    pub const DEVICE_DEFINITIONS: CollectionId = CollectionId(46);
    /// The first id that a user's table gets.
    pub const FIRST_USER: CollectionId = CollectionId(100);

    /// Whether this is one of Springhead's own collections (`springhead.*`).
    #[must_use]
    pub const fn is_system(self) -> bool {
        self.0 < Self::FIRST_USER.0
    }

    /// Whether this is one of Springhead's own that rights are granted on like on a user's: it is
    /// about users' data and for the tenant's own staff.
    #[must_use]
    pub const fn is_grantable(self) -> bool {
        !self.is_system()
            || matches!(
                self,
                Self::DEAD_LETTERS
                    | Self::DEAD_LETTER_POLICIES
                    | Self::ESCALATIONS
                    | Self::DEAD_LETTER_TOTALS
                    | Self::DEAD_LETTER_REDRIVES
            )
    }
}

impl fmt::Display for CollectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a collection's columns have been redefined; from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaVersion(pub u32);

/// Milliseconds since 1970-01-01T00:00:00Z. In the log never decreasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimestampMs(pub u64);
