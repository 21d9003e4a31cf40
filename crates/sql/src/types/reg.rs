//! The object id aliases: `regclass` and its kin. Inside a statement such a value is an object id;
//! only where a result leaves the statement is it shown by the object's name.

use serde::{Deserialize, Serialize};

/// Which catalog the object id is looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reg {
    Class,
    Type,
    Proc,
    Procedure,
    Namespace,
    Role,
    Oper,
    Operator,
    Collation,
}

const ALL: [Reg; 9] = [
    Reg::Class,
    Reg::Type,
    Reg::Proc,
    Reg::Procedure,
    Reg::Namespace,
    Reg::Role,
    Reg::Oper,
    Reg::Operator,
    Reg::Collation,
];

impl Reg {
    /// `pg_type.typname`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reg::Class => "regclass",
            Reg::Type => "regtype",
            Reg::Proc => "regproc",
            Reg::Procedure => "regprocedure",
            Reg::Namespace => "regnamespace",
            Reg::Role => "regrole",
            Reg::Oper => "regoper",
            Reg::Operator => "regoperator",
            Reg::Collation => "regcollation",
        }
    }

    #[must_use]
    pub const fn oid(self) -> u32 {
        match self {
            Reg::Proc => 24,
            Reg::Procedure => 2202,
            Reg::Oper => 2203,
            Reg::Operator => 2204,
            Reg::Class => 2205,
            Reg::Type => 2206,
            Reg::Namespace => 4089,
            Reg::Role => 4096,
            Reg::Collation => 4191,
        }
    }

    #[must_use]
    pub const fn array_oid(self) -> u32 {
        match self {
            Reg::Proc => 1008,
            Reg::Procedure => 2207,
            Reg::Oper => 2208,
            Reg::Operator => 2209,
            Reg::Class => 2210,
            Reg::Type => 2211,
            Reg::Namespace => 4090,
            Reg::Role => 4097,
            Reg::Collation => 4192,
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Reg> {
        ALL.into_iter().find(|reg| reg.name() == name)
    }

    #[must_use]
    pub fn from_oid(oid: u32) -> Option<Reg> {
        ALL.into_iter().find(|reg| reg.oid() == oid)
    }

    #[must_use]
    pub fn from_array_oid(oid: u32) -> Option<Reg> {
        ALL.into_iter().find(|reg| reg.array_oid() == oid)
    }
}

/// A result's value: the object id, a colon and the object's name, so that the protocol can send
/// either.
pub(super) fn name_of(shown: &str) -> &str {
    shown.split_once(':').map_or(shown, |(_, name)| name)
}

/// As [`name_of`], the object id.
pub(super) fn oid_of(shown: &str) -> u32 {
    shown
        .split_once(':')
        .and_then(|(oid, _)| oid.parse().ok())
        .unwrap_or(0)
}
