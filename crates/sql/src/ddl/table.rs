//! CREATE TABLE, and a table's columns and constraints wherever they are added.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableLikeDefaults, CreateTableLikeKind, Expr,
    GeneratedAs, HiveDistributionStyle, SequenceOptions,
};

use super::change::Change;
use super::constraint;
use super::expression::{self, Purpose};
use super::names::{check_schema, choose, duplicate_relation, fold, join_columns, qualified};
use super::{sequence, storage, types};
use crate::catalog::{Access, Check, Column, Conflict, QualifiedName, Table};
use crate::plan::PlanKind;
use crate::types::PgType;

/// The id and storage name `c0` of the key of a table without one.
const HIDDEN_ID: u32 = 0;

/// The most columns of a table, as in PostgreSQL.
const MAX_COLUMNS: usize = 1600;

/// Plans CREATE TABLE … (…).
pub(super) fn create(
    mut change: Change<'_>,
    statement: &CreateTable,
) -> Result<PlanKind, SqlError> {
    refuse_options(statement)?;
    let name = qualified(&statement.name)?;
    check_schema(&name)?;
    if change.catalog.relation(&name).is_some() {
        if statement.if_not_exists {
            change.notices.push(format!(
                "relation \"{}\" already exists, skipping",
                name.name
            ));
            return Ok(change.finish());
        }
        return Err(duplicate_relation(&name));
    }
    let mut table = empty(change.next_id()?, name);
    if let Some(CreateTableLikeKind::Parenthesized(like) | CreateTableLikeKind::Plain(like)) =
        &statement.like
    {
        let defaults = matches!(like.defaults, Some(CreateTableLikeDefaults::Including));
        copy(
            &mut change,
            &mut table,
            &qualified(&like.name)?,
            Like {
                defaults,
                ..Like::default()
            },
        )?;
    }
    add_columns(&mut change, &mut table, &statement.columns)?;
    for column in &statement.columns {
        constraint::add_of_column(&mut change, &mut table, column)?;
    }
    for constraint in &statement.constraints {
        constraint::add(&mut change, &mut table, constraint)?;
    }
    put_new(&mut change, table)?;
    Ok(change.finish())
}

/// Completes a new table and records it with its statements.
pub(super) fn put_new(change: &mut Change<'_>, mut table: Table) -> Result<(), SqlError> {
    if table.columns.len() > MAX_COLUMNS {
        return Err(SqlError::new(
            ErrorCode::StatementTooLarge,
            format!("tables can have at most {MAX_COLUMNS} columns"),
        ));
    }
    super::crdt::check_constraints(&table)?;
    add_hidden_key(&mut table);
    table.since_catalog = change.next_version();
    change.put_table(table.clone());
    check_expressions(change, &table)?;
    let statements = storage::create(&change.catalog, &table)?;
    change.statements.extend(statements);
    Ok(())
}

/// A table that has no column yet.
pub(crate) fn empty(id: u32, name: QualifiedName) -> Table {
    Table {
        id,
        name,
        schema_version: 1,
        since_catalog: 0,
        columns: Vec::new(),
        next_column_id: 1,
        key: Vec::new(),
        key_name: None,
        uniques: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        indexes: Vec::new(),
        conflict: Conflict::default(),
        access: Access::default(),
    }
}

/// A table that declares no key gets the hidden column as its first.
pub(super) fn add_hidden_key(table: &mut Table) {
    if table.key.is_empty() {
        let mut hidden = plain_column(HIDDEN_ID, String::new(), PgType::Int8);
        hidden.not_null = true;
        hidden.hidden = true;
        table.columns.insert(0, hidden);
        table.key = vec![0];
    }
}

/// Takes the hidden column away again, for a key that is declared now.
pub(super) fn remove_hidden_key(table: &mut Table) {
    if table.columns.first().is_some_and(|column| column.hidden) {
        table.columns.remove(0);
        table.key.clear();
    }
}

pub(super) fn plain_column(id: u32, name: String, pg_type: PgType) -> Column {
    Column {
        id,
        name,
        pg_type,
        not_null: false,
        default: None,
        sequence: None,
        identity: false,
        identity_always: false,
        generated: None,
        hidden: false,
        crdt: None,
    }
}

fn refuse_options(statement: &CreateTable) -> Result<(), SqlError> {
    let refused = [
        (statement.temporary, "CREATE TEMPORARY TABLE"),
        (statement.or_replace, "CREATE OR REPLACE TABLE"),
        (statement.external, "CREATE EXTERNAL TABLE"),
        (statement.inherits.is_some(), "INHERITS"),
        (statement.partition_by.is_some(), "PARTITION BY"),
        (statement.partition_of.is_some(), "PARTITION OF"),
        (statement.on_commit.is_some(), "ON COMMIT"),
        (statement.clone.is_some(), "CLONE"),
        (statement.without_rowid, "WITHOUT ROWID"),
        (
            statement.transient
                || statement.volatile
                || statement.dynamic
                || statement.iceberg
                || statement.snapshot,
            "this kind of table",
        ),
        (
            !matches!(statement.hive_distribution, HiveDistributionStyle::NONE),
            "PARTITIONED BY",
        ),
        (statement.query.is_some(), "CREATE TABLE AS"),
    ];
    match refused.into_iter().find(|(is_there, _)| *is_there) {
        Some((_, what)) => Err(SqlError::unsupported(what)),
        None => Ok(()),
    }
}

/// What LIKE copies besides columns and NOT NULL.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Like {
    defaults: bool,
    identity: bool,
    generated: bool,
    constraints: bool,
    indexes: bool,
}

impl Like {
    /// INCLUDING or EXCLUDING one kind; `Err` if there is no such kind.
    pub(super) fn set(&mut self, what: &str, include: bool) -> Result<(), ()> {
        match what {
            "ALL" => {
                *self = Like {
                    defaults: include,
                    identity: include,
                    generated: include,
                    constraints: include,
                    indexes: include,
                };
            }
            "DEFAULTS" => self.defaults = include,
            "IDENTITY" => self.identity = include,
            "GENERATED" => self.generated = include,
            "CONSTRAINTS" => self.constraints = include,
            "INDEXES" => self.indexes = include,
            "COMMENTS" | "STORAGE" | "STATISTICS" | "COMPRESSION" => {}
            _ => return Err(()),
        }
        Ok(())
    }
}

/// `CREATE TABLE name (LIKE from …)`.
pub(super) fn create_like(
    mut change: Change<'_>,
    name: QualifiedName,
    if_not_exists: bool,
    from: &QualifiedName,
    like: Like,
) -> Result<PlanKind, SqlError> {
    check_schema(&name)?;
    if change.catalog.relation(&name).is_some() {
        if if_not_exists {
            change.notices.push(format!(
                "relation \"{}\" already exists, skipping",
                name.name
            ));
            return Ok(change.finish());
        }
        return Err(duplicate_relation(&name));
    }
    let mut table = empty(change.next_id()?, name);
    copy(&mut change, &mut table, from, like)?;
    put_new(&mut change, table)?;
    Ok(change.finish())
}

/// LIKE: the columns with their types and NOT NULL, and what else is asked for. Foreign keys never
/// come along.
fn copy(
    change: &mut Change<'_>,
    table: &mut Table,
    from: &QualifiedName,
    like: Like,
) -> Result<(), SqlError> {
    let source = Arc::clone(change.catalog.expect_table(from)?);
    let mut ids = rustc_hash::FxHashMap::default();
    for (_, column) in source.visible_columns() {
        let mut copy = plain_column(
            table.next_column_id,
            column.name.clone(),
            column.pg_type.clone(),
        );
        copy.not_null = column.not_null;
        if like.defaults {
            copy.default.clone_from(&column.default);
            // A default that takes numbers shares the sequence.
            copy.sequence = column.sequence.filter(|_| !column.identity);
        }
        if like.generated {
            copy.generated.clone_from(&column.generated);
        }
        ids.insert(column.id, copy.id);
        table.next_column_id += 1;
        table.columns.push(copy);
        if like.identity && column.identity {
            let place = table.columns.len() - 1;
            make_identity(change, table, place, column.identity_always, &[])?;
        }
        if let Some(crdt) = column.crdt {
            let place = table.columns.len() - 1;
            super::crdt::add_state(table, place, crdt.kind, &column.name)?;
        }
    }
    if like.constraints {
        for check in &source.checks {
            let check = Check {
                id: change.next_id()?,
                ..check.clone()
            };
            table.checks.push(check);
        }
    }
    if like.indexes {
        copy_indexes(change, table, &source, &ids)?;
    }
    Ok(())
}

fn copy_indexes(
    change: &mut Change<'_>,
    table: &mut Table,
    source: &Table,
    ids: &rustc_hash::FxHashMap<u32, u32>,
) -> Result<(), SqlError> {
    let columns =
        |old: &[u32]| -> Vec<u32> { old.iter().filter_map(|id| ids.get(id).copied()).collect() };
    let pick = |change: &Change<'_>, table: &Table, second: &str, label: &str| {
        choose(&table.name.name, second, label, |name| {
            constraint::relation_is_taken(change, table, name)
        })
    };
    if source.has_declared_key() {
        table.key = source
            .key_ids()
            .iter()
            .filter_map(|id| table.column_by_id(*ids.get(id)?))
            .map(|(place, _)| place)
            .collect();
        table.key_name = Some(pick(change, table, "", "pkey"));
    }
    for unique in &source.uniques {
        let name = join_columns(source.column_names(&unique.columns));
        let unique = crate::catalog::Unique {
            name: pick(change, table, &name, "key"),
            columns: columns(&unique.columns),
            nulls_not_distinct: unique.nulls_not_distinct,
            index_id: change.next_id()?,
        };
        table.uniques.push(unique);
    }
    for index in &source.indexes {
        let names: Vec<String> = index
            .keys
            .iter()
            .map(|key| {
                expression::index_key_column(source, key)
                    .and_then(|id| source.column_by_id(id))
                    .map_or_else(|| "expr".to_owned(), |(_, column)| column.name.clone())
            })
            .collect();
        let name = pick(
            change,
            table,
            &join_columns(names.iter().map(String::as_str)),
            "idx",
        );
        let index = crate::catalog::Index {
            id: change.next_id()?,
            name,
            ..index.clone()
        };
        table.indexes.push(index);
    }
    Ok(())
}

/// The columns without their constraints.
pub(super) fn add_columns(
    change: &mut Change<'_>,
    table: &mut Table,
    definitions: &[ColumnDef],
) -> Result<(), SqlError> {
    // Expressions may look at columns that come later, so these are all there first.
    let first = table.columns.len();
    let mut serial = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let name = fold(&definition.name);
        if table.columns.iter().any(|column| column.name == name) {
            return Err(SqlError::new(
                ErrorCode::DuplicateColumn,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        let (pg_type, is_serial) = match super::crdt::kind_of(&definition.data_type) {
            Some(kind) => (kind.pg_type(), false),
            None => types::column_type(&change.catalog, &name, &definition.data_type)?,
        };
        serial.push(is_serial);
        let column = plain_column(table.next_column_id, name, pg_type);
        table.next_column_id += 1;
        table.columns.push(column);
    }
    super::crdt::add_states(table, first, definitions)?;
    for ((index, definition), is_serial) in definitions.iter().enumerate().zip(serial) {
        set_options(change, table, first + index, definition, is_serial)?;
    }
    Ok(())
}

fn set_options(
    change: &mut Change<'_>,
    table: &mut Table,
    place: usize,
    definition: &ColumnDef,
    is_serial: bool,
) -> Result<(), SqlError> {
    let mut nullable = false;
    if is_serial {
        own_sequence(change, table, place, &[])?;
        table.columns[place].not_null = true;
    }
    for option in &definition.options {
        match &option.option {
            ColumnOption::Null => nullable = true,
            ColumnOption::NotNull => table.columns[place].not_null = true,
            ColumnOption::Default(value) => {
                if is_serial {
                    return Err(conflict(table, place, "multiple default values specified"));
                }
                set_default(change, table, place, value)?;
            }
            ColumnOption::Generated {
                generated_as: GeneratedAs::Always | GeneratedAs::ExpStored,
                generation_expr: Some(value),
                ..
            } => {
                set_generated(table, place, value)?;
            }
            ColumnOption::Generated {
                generated_as,
                sequence_options,
                generation_expr: None,
                ..
            } => {
                let always = matches!(generated_as, GeneratedAs::Always);
                make_identity(
                    change,
                    table,
                    place,
                    always,
                    sequence_options.as_deref().unwrap_or(&[]),
                )?;
            }
            // Constraints come once all columns are there.
            ColumnOption::PrimaryKey(_)
            | ColumnOption::Unique(_)
            | ColumnOption::ForeignKey(_)
            | ColumnOption::Check(_) => {}
            ColumnOption::Collation(name) => refuse_collation(name)?,
            other => {
                return Err(SqlError::unsupported(format_args!(
                    "the column option {other}"
                )));
            }
        }
    }
    if nullable && table.columns[place].not_null {
        return Err(conflict(
            table,
            place,
            "conflicting NULL/NOT NULL declarations",
        ));
    }
    Ok(())
}

/// Texts are compared byte by byte, which is what these say.
pub(super) fn refuse_collation(name: &sqlparser::ast::ObjectName) -> Result<(), SqlError> {
    let last = name
        .0
        .last()
        .and_then(|part| part.as_ident())
        .map(|ident| ident.value.clone());
    match last.as_deref() {
        Some("C" | "POSIX" | "default" | "ucs_basic") => Ok(()),
        _ => Err(SqlError::unsupported(format_args!("COLLATE {name}"))),
    }
}

fn conflict(table: &Table, place: usize, what: &str) -> SqlError {
    SqlError::new(
        ErrorCode::SyntaxError,
        format!(
            "{what} for column \"{}\" of table \"{}\"",
            table.columns[place].name, table.name.name
        ),
    )
}

/// DEFAULT value.
pub(super) fn set_default(
    change: &Change<'_>,
    table: &mut Table,
    place: usize,
    value: &Expr,
) -> Result<(), SqlError> {
    let column = &table.columns[place];
    if column.generated.is_some() {
        return Err(conflict(
            table,
            place,
            "both default and generation expression specified",
        ));
    }
    if column.identity {
        return Err(conflict(
            table,
            place,
            "both default and identity specified",
        ));
    }
    if expression::has_column(value) {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            "cannot use column reference in DEFAULT expression",
        ));
    }
    if let Some(sequence) = expression::nextval_of(&change.catalog, value) {
        table.columns[place].sequence = Some(sequence);
        table.columns[place].default = None;
        return Ok(());
    }
    let is_null = matches!(value, Expr::Value(value) if value.value == sqlparser::ast::Value::Null);
    let text = expression::text_of(table, value, "DEFAULT expression")?;
    let column = &mut table.columns[place];
    column.sequence = None;
    column.default = (!is_null).then_some(text);
    Ok(())
}

fn set_generated(table: &mut Table, place: usize, value: &Expr) -> Result<(), SqlError> {
    let column = &table.columns[place];
    if column.default.is_some() || column.sequence.is_some() {
        return Err(conflict(
            table,
            place,
            "both default and generation expression specified",
        ));
    }
    table.columns[place].generated = Some(expression::text_of(
        table,
        value,
        "column generation expression",
    )?);
    Ok(())
}

/// GENERATED … AS IDENTITY.
pub(super) fn make_identity(
    change: &mut Change<'_>,
    table: &mut Table,
    place: usize,
    always: bool,
    options: &[SequenceOptions],
) -> Result<(), SqlError> {
    let column = &table.columns[place];
    if column.identity {
        return Err(conflict(table, place, "multiple identity specifications"));
    }
    if column.default.is_some() || column.sequence.is_some() {
        return Err(conflict(
            table,
            place,
            "both default and identity specified",
        ));
    }
    if !column.is_integer() {
        return Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            "identity column type must be smallint, integer, or bigint",
        ));
    }
    own_sequence(change, table, place, options)?;
    let column = &mut table.columns[place];
    column.identity = true;
    column.identity_always = always;
    column.not_null = true;
    Ok(())
}

/// Makes the sequence of a serial or identity column: `table_column_seq`, owned by it.
fn own_sequence(
    change: &mut Change<'_>,
    table: &mut Table,
    place: usize,
    options: &[SequenceOptions],
) -> Result<(), SqlError> {
    let column = &table.columns[place];
    let schema = &table.name.schema;
    let name = choose(&table.name.name, &column.name, "seq", |name| {
        change
            .catalog
            .relation(&QualifiedName::new(schema.clone(), name))
            .is_some()
    });
    let name = QualifiedName::new(schema.clone(), name);
    let mut made = sequence::new(change.next_id()?, name, column.pg_type.clone());
    sequence::set_options(&mut made, &sequence::options(options)?, true)?;
    made.owned_by = Some((table.id, column.id));
    table.columns[place].sequence = Some(made.id);
    change.put_sequence(made);
    Ok(())
}

/// Rewrites every expression of the table once, so that what is wrong is said now and not when it is
/// first used.
pub(super) fn check_expressions(change: &Change<'_>, table: &Table) -> Result<(), SqlError> {
    for column in &table.columns {
        if let Some(default) = &column.default {
            let purpose = Purpose::Default(&column.pg_type);
            expression::storage(&change.catalog, table, default, purpose)
                .map_err(|error| name_column(error, column, "default"))?;
        }
        if let Some(generated) = &column.generated {
            for id in expression::columns_in(table, generated)? {
                if let Some((_, used)) = table.column_by_id(id)
                    && used.generated.is_some()
                {
                    return Err(SqlError::new(
                        ErrorCode::InvalidObjectDefinition,
                        format!(
                            "cannot use generated column \"{}\" in column generation expression",
                            used.name
                        ),
                    )
                    .with_detail("A generated column cannot reference another generated column."));
                }
            }
            let purpose = Purpose::Generated(&column.pg_type);
            expression::storage(&change.catalog, table, generated, purpose)
                .map_err(|error| name_column(error, column, "generation"))?;
        }
    }
    for check in &table.checks {
        expression::storage(&change.catalog, table, &check.expression, Purpose::Check)?;
    }
    if let Some(generated) = table
        .key_columns()
        .find(|column| column.generated.is_some())
    {
        return Err(SqlError::unsupported(format_args!(
            "the generated column \"{}\" as a part of the primary key",
            generated.name
        )));
    }
    Ok(())
}

/// PostgreSQL's words for a DEFAULT or generation expression of a type that does not fit.
fn name_column(error: SqlError, column: &Column, what: &str) -> SqlError {
    match error
        .message
        .strip_prefix("expression is of type ")
        .and_then(|rest| rest.split_once(", which"))
    {
        Some((from, _)) if error.code == ErrorCode::DatatypeMismatch => SqlError::new(
            ErrorCode::DatatypeMismatch,
            format!(
                "column \"{}\" is of type {} but {what} expression is of type {from}",
                column.name,
                column.pg_type.base_name()
            ),
        )
        .with_hint("You will need to rewrite or cast the expression."),
        _ => error,
    }
}

/// The table as the foreign keys of `table` see it: itself while it is being made.
pub(super) fn parent_of(
    change: &Change<'_>,
    table: &Table,
    id: CollectionId,
) -> Option<Arc<Table>> {
    if id == table.collection() {
        Some(Arc::new(table.clone()))
    } else {
        change.table(id)
    }
}
