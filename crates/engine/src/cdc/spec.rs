//! What a subscriber asks for, as it came in: which rows, which columns, which operations, and in
//! which form. Equal specifications share one plan, and with it every encoding.

use springhead_proto::{ChangeKind, ErrorCode, SqlError};

/// A feed as it is asked for. Hashable: equal feeds share their work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FeedSpec {
    /// A collection's name as in URLs; `None` for all but Springhead's own.
    pub collection: Option<String>,
    /// One SQL condition on the row.
    pub filter: Option<String>,
    /// Names of the columns that images are cut down to; empty for all.
    pub columns: Vec<String>,
    /// Operations to deliver.
    pub operations: Operations,
    pub envelope: Envelope,
    pub grouping: Grouping,
}

/// The form of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Envelope {
    /// Springhead's own.
    #[default]
    Plain,
    /// Debezium's, without its schema part.
    Debezium,
}

/// Whether a transaction is one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Grouping {
    /// A frame per change.
    #[default]
    Event,
    /// A frame per transaction.
    Group,
}

/// What an event says happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    Insert = 1,
    Update = 2,
    Delete = 4,
    Truncate = 8,
    Definition = 16,
    Message = 32,
    /// A row of a snapshot.
    Read = 64,
}

impl Operation {
    /// What changes can be; [`Operation::Read`] is no change.
    pub const CHANGES: [Operation; 6] = [
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Truncate,
        Operation::Definition,
        Operation::Message,
    ];

    /// The operation of a change; `None` for what no exit shows.
    #[must_use]
    pub const fn of(kind: ChangeKind) -> Option<Operation> {
        Some(match kind {
            ChangeKind::Insert => Operation::Insert,
            ChangeKind::Update => Operation::Update,
            ChangeKind::Delete => Operation::Delete,
            ChangeKind::Truncate => Operation::Truncate,
            ChangeKind::Definition => Operation::Definition,
            ChangeKind::Message => Operation::Message,
            ChangeKind::Sequence => return None,
        })
    }

    /// As in `"operation"`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Truncate => "TRUNCATE",
            Operation::Definition => "DEFINITION",
            Operation::Message => "MESSAGE",
            Operation::Read => "READ",
        }
    }

    /// As the event type of a stream and in `operations=`.
    #[must_use]
    pub const fn lower(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
            Operation::Definition => "definition",
            Operation::Message => "message",
            Operation::Read => "snapshot",
        }
    }

    /// Debezium's letter. It has none for a change of definitions, which travels as a message.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Operation::Insert => b'c',
            Operation::Update => b'u',
            Operation::Delete => b'd',
            Operation::Truncate => b't',
            Operation::Definition | Operation::Message => b'm',
            Operation::Read => b'r',
        }
    }
}

/// A set of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operations(u8);

impl Default for Operations {
    fn default() -> Operations {
        Operations::ALL
    }
}

impl Operations {
    /// Every operation that a change can be.
    pub const ALL: Operations = Operations(63);

    #[must_use]
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 & operation as u8 != 0
    }

    /// Reads `insert,delete`; case does not matter.
    ///
    /// # Errors
    /// 22023 naming the word that is no operation, or for an empty list.
    pub fn parse(text: &str) -> Result<Operations, SqlError> {
        let mut set = 0;
        for word in text.split(',').map(str::trim) {
            let operation = Operation::CHANGES
                .into_iter()
                .find(|operation| word.eq_ignore_ascii_case(operation.lower()));
            match operation {
                Some(operation) => set |= operation as u8,
                None => {
                    return Err(bad_choice(
                        "operations",
                        word,
                        "insert, update, delete, truncate, definition, message",
                    ));
                }
            }
        }
        Ok(Operations(set))
    }
}

impl Envelope {
    /// Reads `plain` or `debezium`.
    ///
    /// # Errors
    /// 22023 for anything else.
    pub fn parse(text: &str) -> Result<Envelope, SqlError> {
        match text {
            "plain" => Ok(Envelope::Plain),
            "debezium" => Ok(Envelope::Debezium),
            _ => Err(bad_choice("envelope", text, "plain, debezium")),
        }
    }
}

impl Grouping {
    /// Reads `event` or `group`.
    ///
    /// # Errors
    /// 22023 for anything else.
    pub fn parse(text: &str) -> Result<Grouping, SqlError> {
        match text {
            "event" => Ok(Grouping::Event),
            "group" => Ok(Grouping::Group),
            _ => Err(bad_choice("tx", text, "event, group")),
        }
    }
}

fn bad_choice(parameter: &str, word: &str, choices: &str) -> SqlError {
    SqlError::new(
        ErrorCode::InvalidParameterValue,
        format!("{parameter} does not take \"{word}\""),
    )
    .with_hint(format!("it takes: {choices}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_in_any_case_and_refused_by_name() {
        let set = Operations::parse("insert, DELETE").unwrap();
        assert!(set.contains(Operation::Insert) && set.contains(Operation::Delete));
        assert!(!set.contains(Operation::Update));
        let error = Operations::parse("insert,upsert").unwrap_err();
        assert!(error.message.contains("upsert"), "{error}");
        assert!(Operations::parse("").is_err());
        assert!(
            Operation::CHANGES
                .into_iter()
                .all(|operation| Operations::ALL.contains(operation))
        );
    }
}
