//! Who owns an object, what has been granted on it, and which rows of a table its policies show.
//! Part of the object's own definition, so that it is logged, replayed, renamed and dropped with it.
//! [`crate::access`] decides by it.

use serde::{Deserialize, Serialize};

use super::{Catalog, QualifiedName, Schema};
use crate::plan::display_name;

/// The role that owns whatever nobody else is said to own: the first superuser.
pub const BOOTSTRAP_ROLE: &str = "postgres";

/// The id of the schema's definition, among those of Springhead's own objects.
const SCHEMA_ID: u32 = 60;

/// A privilege, as GRANT names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Privilege {
    Select = 1,
    Insert = 2,
    Update = 4,
    Delete = 8,
    Truncate = 16,
    References = 32,
    Trigger = 64,
    /// Of sequences and schemas.
    Usage = 128,
    /// Of functions.
    Execute = 256,
    /// Of schemas.
    Create = 512,
}

/// A set of privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Privileges(u16);

/// The access part of a definition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Access {
    /// `None`: [`BOOTSTRAP_ROLE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// What the owner has taken away from itself.
    #[serde(default, skip_serializing_if = "Privileges::is_empty")]
    pub owner_lacks: Privileges,
    /// ENABLE ROW LEVEL SECURITY.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub row_security: bool,
    /// FORCE ROW LEVEL SECURITY: for the owner too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_row_security: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
}

/// What one role has granted to one other, on an object or on one of its columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `None` for PUBLIC.
    pub grantee: Option<String>,
    pub grantor: String,
    /// A column's id; a view's columns are numbered from 1. `None` for the whole object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    pub privileges: Privileges,
    /// Those of them that the grantee may grant to others.
    #[serde(default, skip_serializing_if = "Privileges::is_empty")]
    pub grantable: Privileges,
}

/// A row policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    /// Permissive policies are joined by OR, restrictive ones by AND.
    pub permissive: bool,
    pub command: PolicyCommand,
    /// Empty for PUBLIC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// What the conditions call the table: its name when the policy was made.
    pub known_as: String,
    /// PostgreSQL text of the condition on rows that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<String>,
    /// PostgreSQL text of the condition on new rows; `None` where `using` stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// What a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyCommand {
    All,
    Select,
    Insert,
    Update,
    Delete,
}

impl Privilege {
    /// All, in PostgreSQL's order.
    pub const ALL: [Privilege; 10] = [
        Privilege::Insert,
        Privilege::Select,
        Privilege::Update,
        Privilege::Delete,
        Privilege::Truncate,
        Privilege::References,
        Privilege::Trigger,
        Privilege::Usage,
        Privilege::Execute,
        Privilege::Create,
    ];

    /// Its word in GRANT.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Privilege::Select => "SELECT",
            Privilege::Insert => "INSERT",
            Privilege::Update => "UPDATE",
            Privilege::Delete => "DELETE",
            Privilege::Truncate => "TRUNCATE",
            Privilege::References => "REFERENCES",
            Privilege::Trigger => "TRIGGER",
            Privilege::Usage => "USAGE",
            Privilege::Execute => "EXECUTE",
            Privilege::Create => "CREATE",
        }
    }

    /// Its letter in PostgreSQL's `aclitem`.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Privilege::Select => 'r',
            Privilege::Insert => 'a',
            Privilege::Update => 'w',
            Privilege::Delete => 'd',
            Privilege::Truncate => 'D',
            Privilege::References => 'x',
            Privilege::Trigger => 't',
            Privilege::Usage => 'U',
            Privilege::Execute => 'X',
            Privilege::Create => 'C',
        }
    }
}

impl Privileges {
    pub const NONE: Privileges = Privileges(0);
    /// Every privilege that there is.
    pub const ALL: Privileges = Privileges(1023);
    /// What ALL means for a table or a view.
    pub const TABLE: Privileges = Privileges(127);
    /// What ALL means for a column.
    pub const COLUMN: Privileges = Privileges(1 | 2 | 4 | 32);
    /// What ALL means for a sequence.
    pub const SEQUENCE: Privileges = Privileges(1 | 4 | 128);
    /// What ALL means for a function.
    pub const FUNCTION: Privileges = Privileges(256);
    /// What ALL means for a schema.
    pub const SCHEMA: Privileges = Privileges(128 | 512);

    #[must_use]
    pub const fn contains(self, privilege: Privilege) -> bool {
        self.0 & privilege as u16 != 0
    }

    #[must_use]
    pub const fn with(self, privilege: Privilege) -> Privileges {
        Privileges(self.0 | privilege as u16)
    }

    #[must_use]
    pub const fn union(self, other: Privileges) -> Privileges {
        Privileges(self.0 | other.0)
    }

    #[must_use]
    pub const fn both(self, other: Privileges) -> Privileges {
        Privileges(self.0 & other.0)
    }

    #[must_use]
    pub const fn without(self, other: Privileges) -> Privileges {
        Privileges(self.0 & !other.0)
    }

    // serde hands out references.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Those in it, in PostgreSQL's order.
    pub fn iter(self) -> impl Iterator<Item = Privilege> {
        Privilege::ALL
            .into_iter()
            .filter(move |privilege| self.contains(*privilege))
    }
}

impl Access {
    /// Whether nothing has been said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Access::default()
    }

    #[must_use]
    pub fn owner(&self) -> &str {
        self.owner.as_deref().unwrap_or(BOOTSTRAP_ROLE)
    }

    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// Whether the role is named here: as owner, grantor, grantee, or by a policy.
    #[must_use]
    pub fn mentions(&self, role: &str) -> bool {
        self.owner.as_deref() == Some(role)
            || self
                .grants
                .iter()
                .any(|grant| grant.grantor == role || grant.grantee.as_deref() == Some(role))
            || self
                .policies
                .iter()
                .any(|policy| policy.roles.iter().any(|named| named == role))
    }
}

impl Catalog {
    /// What names the role (as owner, grantor, grantee, or by a policy), as PostgreSQL calls it.
    #[must_use]
    pub fn objects_of_role(&self, role: &str) -> Vec<String> {
        let tables = (self.tables.values()).map(|table| ("table", &table.name, &table.access));
        let sequences = (self.sequences.values())
            .map(|sequence| ("sequence", &sequence.name, &sequence.access));
        let views = (self.views.values()).map(|view| ("view", &view.name, &view.access));
        let routines = (self.routines.values())
            .map(|routine| (routine.kind(), &routine.name, &routine.access));
        let types = (self.types.values()).map(|of| ("type", &of.name, &of.access));
        let schema = std::iter::once(("schema", &self.schema.name, &self.schema.access));
        let mut objects: Vec<String> = tables
            .chain(sequences)
            .chain(views)
            .chain(routines)
            .chain(types)
            .chain(schema)
            .filter(|(_, _, access)| access.mentions(role))
            .map(|(kind, name, _)| format!("{kind} {}", display_name(name)))
            .collect();
        objects.sort_unstable();
        objects
    }
}

impl Schema {
    /// Until something is granted or revoked: PUBLIC may use it, its owner alone make things in it.
    #[must_use]
    pub fn initial() -> Schema {
        Schema {
            id: SCHEMA_ID,
            name: QualifiedName::public(QualifiedName::PUBLIC),
            access: Access {
                grants: vec![Grant {
                    grantee: None,
                    grantor: BOOTSTRAP_ROLE.to_owned(),
                    column: None,
                    privileges: Privileges::NONE.with(Privilege::Usage),
                    grantable: Privileges::NONE,
                }],
                ..Access::default()
            },
        }
    }
}

impl PolicyCommand {
    /// Whether a policy for it applies to `command`.
    #[must_use]
    pub fn covers(self, command: PolicyCommand) -> bool {
        self == PolicyCommand::All || self == command
    }

    /// As `pg_policies.cmd` has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            PolicyCommand::All => "ALL",
            PolicyCommand::Select => "SELECT",
            PolicyCommand::Insert => "INSERT",
            PolicyCommand::Update => "UPDATE",
            PolicyCommand::Delete => "DELETE",
        }
    }
}
