//! The body of a routine, a trigger or DO, as its statements: what [`super::parse`] reads and
//! [`super::compile`] and [`super::script`] plan. Expressions and SQL statements are text.

use springhead_proto::NoticeLevel;

/// A block: its declarations and statements.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub declarations: Vec<Declaration>,
    pub statements: Vec<Statement>,
    /// EXCEPTION.
    pub handlers: Vec<Handler>,
}

/// `WHEN condition OR condition THEN …`.
#[derive(Debug, Clone)]
pub struct Handler {
    /// Names, or SQLSTATEs.
    pub conditions: Vec<String>,
    pub statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
pub struct Declaration {
    pub name: String,
    pub data_type: String,
    pub not_null: bool,
    pub default: Option<String>,
}

/// A variable, or a field of one.
pub type Target = Vec<String>;

#[derive(Debug, Clone)]
pub enum Statement {
    Block(Block),
    Assign {
        target: Target,
        value: String,
    },
    If {
        arms: Vec<(String, Vec<Statement>)>,
        otherwise: Vec<Statement>,
    },
    /// `WHILE condition LOOP`; LOOP alone has none.
    While {
        condition: Option<String>,
        body: Vec<Statement>,
    },
    ForRange {
        variable: String,
        reverse: bool,
        from: String,
        to: String,
        by: Option<String>,
        body: Vec<Statement>,
    },
    ForQuery {
        targets: Vec<Target>,
        query: String,
        body: Vec<Statement>,
    },
    /// FOR … IN EXECUTE.
    ForExecute {
        targets: Vec<Target>,
        dynamic: Dynamic,
        body: Vec<Statement>,
    },
    /// EXIT or CONTINUE of the innermost loop.
    Leave {
        exit: bool,
        when: Option<String>,
    },
    Return(Option<String>),
    ReturnQuery(String),
    /// RETURN QUERY EXECUTE.
    ReturnExecute(Dynamic),
    /// `None`: what the variables of RETURNS TABLE have now.
    ReturnNext(Option<String>),
    Raise(Raise),
    Sql {
        text: String,
        into: Vec<Target>,
        strict: bool,
    },
    /// EXECUTE of a text that is computed.
    Execute {
        dynamic: Dynamic,
        into: Vec<Target>,
        strict: bool,
    },
    /// GET DIAGNOSTICS … = ROW_COUNT.
    RowCount(Target),
    /// GET STACKED DIAGNOSTICS.
    Stacked(Vec<(Target, Item)>),
    Nothing,
}

/// A statement whose text is computed, and the values of its parameters.
#[derive(Debug, Clone)]
pub struct Dynamic {
    pub text: String,
    pub using: Vec<String>,
}

/// RAISE.
#[derive(Debug, Clone, Default)]
pub struct Raise {
    /// `None`: an error.
    pub notice: Option<NoticeLevel>,
    /// RAISE alone: the error that is being handled.
    pub again: bool,
    /// The text around the `%`s.
    pub format: Vec<String>,
    pub values: Vec<String>,
    /// USING, by [`RAISE_OPTIONS`].
    pub options: [Option<String>; RAISE_OPTIONS.len()],
    /// An SQLSTATE or a condition's name.
    pub code: Option<Code>,
}

/// What RAISE sets beside the code, in the order of the computed columns.
pub const RAISE_OPTIONS: [&str; 7] = [
    "message",
    "detail",
    "hint",
    "column",
    "constraint",
    "table",
    "schema",
];

/// Which error RAISE makes.
#[derive(Debug, Clone)]
pub enum Code {
    /// As it is written: a condition's name or an SQLSTATE.
    Named(String),
    /// `USING ERRCODE = expression`.
    Computed(String),
}

/// What GET STACKED DIAGNOSTICS tells of the error that is being handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    State,
    Message,
    Detail,
    Hint,
    Column,
    Constraint,
    Table,
    Schema,
    DataType,
}

impl Item {
    /// Every item, in the order of a handler's slots.
    pub const ALL: [Item; 9] = [
        Item::State,
        Item::Message,
        Item::Detail,
        Item::Hint,
        Item::Column,
        Item::Constraint,
        Item::Table,
        Item::Schema,
        Item::DataType,
    ];

    /// Its name in GET STACKED DIAGNOSTICS.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Item::State => "returned_sqlstate",
            Item::Message => "message_text",
            Item::Detail => "pg_exception_detail",
            Item::Hint => "pg_exception_hint",
            Item::Column => "column_name",
            Item::Constraint => "constraint_name",
            Item::Table => "table_name",
            Item::Schema => "schema_name",
            Item::DataType => "pg_datatype_name",
        }
    }

    /// What it says of an error; empty where the error says nothing of the kind.
    #[must_use]
    pub fn of(self, error: &springhead_proto::SqlError) -> String {
        let told = |text: &Option<String>| text.clone().unwrap_or_default();
        match self {
            Item::State => error.sqlstate().to_owned(),
            Item::Message => error.message.clone(),
            Item::Detail => told(&error.detail),
            Item::Hint => told(&error.hint),
            Item::Column => told(&error.column),
            Item::Constraint => told(&error.constraint),
            Item::Table => told(&error.table),
            // Every table is in the one schema there is.
            Item::Schema if error.table.is_some() => "public".to_owned(),
            Item::Schema | Item::DataType => String::new(),
        }
    }
}
