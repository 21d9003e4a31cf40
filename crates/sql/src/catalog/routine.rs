//! Functions, procedures and triggers, as the catalog keeps them.

use serde::{Deserialize, Serialize};

use super::{Access, BOOTSTRAP_ROLE, Catalog, Grant, Privilege, Privileges, QualifiedName, Table};
use crate::types::PgType;

/// A function or a procedure. Its body is text; [`crate::program`] compiles it where it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routine {
    pub id: u32,
    pub name: QualifiedName,
    pub procedure: bool,
    pub arguments: Vec<Argument>,
    pub returns: Returns,
    pub language: Language,
    pub volatility: Volatility,
    /// NULL for any NULL argument, without being run.
    pub strict: bool,
    /// SECURITY DEFINER: its body has its owner's rights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub definer: bool,
    pub body: String,
    /// Who may execute it: everyone, until something is said.
    #[serde(
        default = "Routine::default_access",
        skip_serializing_if = "Routine::is_default_access"
    )]
    pub access: Access,
}

/// An argument of a routine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    pub name: Option<String>,
    pub pg_type: PgType,
    /// PostgreSQL text of its default.
    pub default: Option<String>,
}

/// What a routine gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Returns {
    Void,
    /// To be named by triggers only.
    Trigger,
    Scalar(PgType),
    /// SETOF a type.
    Set(PgType),
    /// TABLE (…), SETOF a table.
    Table(Vec<(String, PgType)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    Sql,
    Plpgsql,
}

/// IMMUTABLE, STABLE, VOLATILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// A trigger of a table or a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub id: u32,
    /// Unique within its relation; in the relation's schema.
    pub name: QualifiedName,
    /// The table's or view's id.
    pub relation: u32,
    pub timing: Timing,
    pub events: Vec<Event>,
    /// UPDATE OF these columns (ids); empty for any.
    pub update_of: Vec<u32>,
    pub each_row: bool,
    /// PostgreSQL text of WHEN.
    pub condition: Option<String>,
    /// The trigger function's id.
    pub function: u32,
    pub arguments: Vec<String>,
    pub disabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    Before,
    After,
    InsteadOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Insert,
    Update,
    Delete,
}

impl Event {
    /// As `TG_OP` says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Event::Insert => "INSERT",
            Event::Update => "UPDATE",
            Event::Delete => "DELETE",
        }
    }

    /// Its number in planned statements.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Event::Insert => 0,
            Event::Update => 1,
            Event::Delete => 2,
        }
    }

    /// The event with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Event> {
        [Event::Insert, Event::Update, Event::Delete]
            .into_iter()
            .find(|event| i64::from(event.number()) == number)
    }
}

impl Timing {
    /// As `TG_WHEN` says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Timing::Before => "BEFORE",
            Timing::After => "AFTER",
            Timing::InsteadOf => "INSTEAD OF",
        }
    }
}

impl Routine {
    /// What a routine's access is when it is made: PUBLIC may execute it.
    #[must_use]
    pub fn initial_access(owner: &str) -> Access {
        Access {
            owner: (owner != BOOTSTRAP_ROLE).then(|| owner.to_owned()),
            grants: vec![Grant {
                grantee: None,
                grantor: owner.to_owned(),
                column: None,
                privileges: Privileges::NONE.with(Privilege::Execute),
                grantable: Privileges::NONE,
            }],
            ..Access::default()
        }
    }

    /// That of a routine of the bootstrap role.
    #[must_use]
    pub fn default_access() -> Access {
        Routine::initial_access(BOOTSTRAP_ROLE)
    }

    fn is_default_access(access: &Access) -> bool {
        *access == Routine::default_access()
    }

    /// `function` or `procedure`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.procedure {
            "procedure"
        } else {
            "function"
        }
    }

    /// `name(integer, text)`, as messages show it.
    #[must_use]
    pub fn signature(&self) -> String {
        let types: Vec<_> = self
            .arguments
            .iter()
            .map(|argument| argument.pg_type.base_name())
            .collect();
        format!("{}({})", self.name.name, types.join(","))
    }

    /// The types that it takes and gives.
    pub fn types(&self) -> impl Iterator<Item = &PgType> {
        let returned: Vec<&PgType> = match &self.returns {
            Returns::Void | Returns::Trigger => Vec::new(),
            Returns::Scalar(ty) | Returns::Set(ty) => vec![ty],
            Returns::Table(columns) => columns.iter().map(|(_, ty)| ty).collect(),
        };
        self.arguments
            .iter()
            .map(|argument| &argument.pg_type)
            .chain(returned)
    }

    pub(super) fn types_mut(&mut self) -> impl Iterator<Item = &mut PgType> {
        let returned: Vec<&mut PgType> = match &mut self.returns {
            Returns::Void | Returns::Trigger => Vec::new(),
            Returns::Scalar(ty) | Returns::Set(ty) => vec![ty],
            Returns::Table(columns) => columns.iter_mut().map(|(_, ty)| ty).collect(),
        };
        self.arguments
            .iter_mut()
            .map(|argument| &mut argument.pg_type)
            .chain(returned)
    }

    /// Whether its arguments' types are these.
    #[must_use]
    pub fn takes(&self, types: &[PgType]) -> bool {
        self.arguments.len() == types.len()
            && self
                .arguments
                .iter()
                .zip(types)
                .all(|(argument, ty)| argument.pg_type.same_base(ty))
    }
}

impl Trigger {
    /// Whether it fires for this event; `updated` are the columns that an UPDATE names.
    #[must_use]
    pub fn fires(&self, timing: Timing, each_row: bool, event: Event, updated: &[u32]) -> bool {
        self.timing == timing
            && self.each_row == each_row
            && !self.disabled
            && self.events.contains(&event)
            && (event != Event::Update
                || self.update_of.is_empty()
                || self.update_of.iter().any(|column| updated.contains(column)))
    }
}

impl Catalog {
    /// The routines of this name, by their ids.
    #[must_use]
    pub fn routines_named(&self, schema: &str, name: &str) -> Vec<&Routine> {
        let mut found: Vec<&Routine> = self
            .routines
            .values()
            .filter(|routine| routine.name.name == name && routine.name.schema == schema)
            .map(|routine| &**routine)
            .collect();
        found.sort_unstable_by_key(|routine| routine.id);
        found
    }

    /// The triggers of a table or view, in the order in which they fire: by their names.
    pub fn triggers_of(&self, relation: u32) -> impl Iterator<Item = &Trigger> {
        let mut found: Vec<&Trigger> = self
            .triggers
            .values()
            .filter(|trigger| trigger.relation == relation)
            .map(|trigger| &**trigger)
            .collect();
        found.sort_unstable_by(|a, b| a.name.name.cmp(&b.name.name));
        found.into_iter()
    }

    /// Whether a table or view has a trigger of this kind.
    #[must_use]
    pub fn has_trigger(
        &self,
        relation: u32,
        timing: Timing,
        each_row: bool,
        event: Event,
        updated: &[u32],
    ) -> bool {
        !self.triggers.is_empty()
            && self
                .triggers_of(relation)
                .any(|trigger| trigger.fires(timing, each_row, event, updated))
    }

    /// Whether rows of the table are to be kept for AFTER triggers when they change.
    #[must_use]
    pub fn has_after_row_triggers(&self, table: &Table) -> bool {
        !self.triggers.is_empty()
            && self.triggers_of(table.id).any(|trigger| {
                trigger.timing == Timing::After && trigger.each_row && !trigger.disabled
            })
    }

    /// Whether a statement that writes the table needs a savepoint of its own: it may violate a
    /// foreign key, or a trigger may do more than the statement.
    #[must_use]
    pub fn needs_savepoint(&self, table: &Table) -> bool {
        self.touches_foreign_keys(table) || self.triggers_of(table.id).next().is_some()
    }
}
