//! Operations as the statements that their author could have sent. What they may do is decided
//! where it is decided for every statement: by the planner.

use springhead_proto::sync::{ColumnValues, Operation, SyncValue, Verb};
use springhead_proto::{ErrorCode, SqlError, ValueRef};
use springhead_sql::catalog::Table;

/// A statement of an operation.
pub(crate) struct Statement<'o> {
    pub sql: String,
    /// `$1`…, each with the column that it is for.
    pub params: Vec<(&'o str, Param<'o>)>,
    /// It must have met a document.
    pub needs_document: bool,
}

/// A parameter's value.
pub(crate) enum Param<'o> {
    Given(&'o SyncValue),
    /// Made here of what is stored and what is given.
    Made(serde_json::Value),
    /// The column keeps what it has.
    Kept,
}

impl<'o> Statement<'o> {
    fn new(needs_document: bool) -> Statement<'o> {
        Statement {
            sql: String::new(),
            params: Vec::new(),
            needs_document,
        }
    }

    /// The next parameter, as it is written.
    pub(crate) fn param(&mut self, column: &'o str, value: Param<'o>) -> String {
        self.params.push((column, value));
        format!("${}", self.params.len())
    }

    /// `UPDATE … SET assignments`, each of the column's quoted name and its parameter's text.
    pub(crate) fn update(
        table: &'o Table,
        operation: &'o Operation,
        assignments: impl Iterator<Item = (&'o str, Param<'o>, Form)>,
    ) -> Statement<'o> {
        let mut statement = Statement::new(true);
        let mut set = Vec::new();
        for (column, value, form) in assignments {
            let name = quote(column);
            if matches!(value, Param::Kept) {
                set.push(format!("{name} = {name}"));
                continue;
            }
            let param = statement.param(column, value);
            set.push(match form {
                Form::Plain => format!("{name} = {param}"),
                Form::Add => format!("{name} = COALESCE({name}, 0) + {param}"),
                Form::Least => format!("{name} = LEAST({name}, {param})"),
                Form::Greatest => format!("{name} = GREATEST({name}, {param})"),
            });
        }
        let condition = statement.key_condition(table, operation);
        statement.sql = format!(
            "UPDATE {} SET {} WHERE {condition}",
            name_of(table),
            set.join(", ")
        );
        statement
    }

    fn key_condition(&mut self, table: &'o Table, operation: &'o Operation) -> String {
        let parts: Vec<String> = (table.key_columns().zip(&operation.id))
            .map(|(column, value)| {
                let param = self.param(&column.name, Param::Given(value));
                format!("{} = {param}", quote(&column.name))
            })
            .collect();
        parts.join(" AND ")
    }
}

/// How a column's new value comes of its parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    Plain,
    Add,
    Least,
    Greatest,
}

/// The statement of an operation whose columns need not be read first; `None` for one whose columns
/// do, or that does nothing.
pub(crate) fn simple<'o>(table: &'o Table, operation: &'o Operation) -> Option<Statement<'o>> {
    let update = |columns: &'o ColumnValues, form: Form| {
        let given = columns.0.iter();
        let assignments = given.map(move |(name, value)| (&**name, Param::Given(value), form));
        Statement::update(table, operation, assignments)
    };
    Some(match &operation.verb {
        Verb::Insert(columns) => insert(table, operation, columns),
        Verb::Set(columns) => update(columns, Form::Plain),
        Verb::Inc(columns) => update(columns, Form::Add),
        Verb::Min(columns) => update(columns, Form::Least),
        Verb::Max(columns) => update(columns, Form::Greatest),
        Verb::Delete => {
            // One that is gone already is as it was wanted.
            let mut statement = Statement::new(false);
            let condition = statement.key_condition(table, operation);
            statement.sql = format!("DELETE FROM {} WHERE {condition}", name_of(table));
            statement
        }
        Verb::SetAdd(_) | Verb::SetRemove(_) | Verb::Crdt(_) => return None,
    })
}

fn insert<'o>(
    table: &'o Table,
    operation: &'o Operation,
    columns: &'o ColumnValues,
) -> Statement<'o> {
    let mut statement = Statement::new(false);
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let key =
        (table.key_columns().zip(&operation.id)).map(|(column, value)| (&*column.name, value));
    let is_key = |name: &str| table.key_columns().any(|column| column.name == name);
    let others = (columns.0.iter())
        .map(|(name, value)| (&**name, value))
        .filter(|(name, _)| !is_key(name));
    for (name, value) in key.chain(others) {
        names.push(quote(name));
        let param = statement.param(name, Param::Given(value));
        values.push(param);
    }
    statement.sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        name_of(table),
        names.join(", "),
        values.join(", ")
    );
    statement
}

/// What is wrong with an operation before anything is tried.
///
/// # Errors
/// 22023 for an id that is no key of the table, a changed key, or columns that there are none of.
pub(crate) fn check(table: &Table, operation: &Operation) -> Result<(), SqlError> {
    let wrong = |what: String| Err(SqlError::new(ErrorCode::InvalidParameterValue, what));
    if operation.id.len() != table.key.len() || !table.has_declared_key() {
        return wrong(format!(
            "the key of \"{}\" has {} values",
            table.name.name,
            if table.has_declared_key() {
                table.key.len()
            } else {
                0
            }
        ));
    }
    if operation.id.iter().any(SyncValue::is_null) {
        return wrong("a key has no NULL".to_owned());
    }
    let columns = columns(operation);
    if let Verb::Insert(given) = &operation.verb {
        let contradicts = (table.key_columns().zip(&operation.id))
            .any(|(column, value)| given.get(&column.name).is_some_and(|other| other != value));
        if contradicts {
            return wrong("the key's columns contradict the id".to_owned());
        }
        return Ok(());
    }
    if columns.is_empty() && operation.verb != Verb::Delete {
        return wrong("there is nothing to change".to_owned());
    }
    if table
        .key_columns()
        .any(|column| columns.contains(&&*column.name))
    {
        return wrong("a key does not change: delete one document and insert the other".to_owned());
    }
    Ok(())
}

/// The id of an operation's document, as other exits show it where its table is known.
pub(crate) fn document_id(table: Option<&std::sync::Arc<Table>>, operation: &Operation) -> String {
    let stored = table.and_then(|table| {
        let mut values = vec![ValueRef::Null; table.columns.len()];
        let key = (table.key.iter().zip(&operation.id))
            .map(|(&place, value)| super::value::to_storage(&table.columns[place].pg_type, value))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        for (&place, value) in table.key.iter().zip(&key) {
            values[place] = value.as_ref();
        }
        Some(table.document_id_of(&values))
    });
    stored.unwrap_or_else(|| match operation.id.as_slice() {
        [only] => only.to_string(),
        several => serde_json::to_string(several).unwrap_or_default(),
    })
}

/// The columns that an operation names.
pub(crate) fn columns(operation: &Operation) -> Vec<&str> {
    match &operation.verb {
        Verb::Insert(columns)
        | Verb::Set(columns)
        | Verb::Inc(columns)
        | Verb::Min(columns)
        | Verb::Max(columns) => columns.0.iter().map(|(name, _)| &**name).collect(),
        Verb::SetAdd(columns) | Verb::SetRemove(columns) => {
            columns.iter().map(|(name, _)| &**name).collect()
        }
        Verb::Crdt(columns) => columns.iter().map(|(name, _)| &**name).collect(),
        Verb::Delete => Vec::new(),
    }
}

/// As SQL names a table.
pub(crate) fn name_of(table: &Table) -> String {
    format!("{}.{}", quote(&table.name.schema), quote(&table.name.name))
}

/// A name in quotes.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
