//! Constraints as they are added to a table: CREATE TABLE's and ALTER TABLE … ADD's.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{
    CheckConstraint, ColumnDef, ColumnOption, ConstraintCharacteristics,
    ConstraintReferenceMatchKind, DeferrableInitial, ForeignKeyConstraint, Ident, IndexColumn,
    NullsDistinctOption, ObjectName, PrimaryKeyConstraint, ReferentialAction as Written,
    TableConstraint, UniqueConstraint,
};

use super::change::Change;
use super::expression;
use super::names::{check_owner, choose, fold, join_columns, qualified};
use super::storage::needs_key_function;
use super::table::{parent_of, remove_hidden_key};
use crate::catalog::{
    Check, Column, CrdtKind, ForeignKey, QualifiedName, ReferentialAction, Relation, Table, Unique,
};
use crate::types::PgType;

/// The constraints that a column's definition carries.
pub(super) fn add_of_column(
    change: &mut Change<'_>,
    table: &mut Table,
    definition: &ColumnDef,
) -> Result<(), SqlError> {
    let column = std::slice::from_ref(&definition.name);
    for option in &definition.options {
        let name = option.name.as_ref();
        match &option.option {
            ColumnOption::PrimaryKey(key) => {
                add_primary_key(
                    change,
                    table,
                    name,
                    &named(column),
                    key.characteristics.as_ref(),
                )?;
            }
            ColumnOption::Unique(unique) => {
                let nulls = unique.nulls_distinct;
                add_unique(
                    change,
                    table,
                    name,
                    &named(column),
                    nulls,
                    unique.characteristics.as_ref(),
                )?;
            }
            ColumnOption::ForeignKey(key) => add_foreign_key(change, table, name, column, key)?,
            ColumnOption::Check(check) => add_check(change, table, name, check)?,
            _ => {}
        }
    }
    if super::crdt::kind_of(&definition.data_type) == Some(CrdtKind::List) {
        add_list_check(change, table, &definition.name)?;
    }
    Ok(())
}

/// A list that merges is an array, whoever writes it.
fn add_list_check(
    change: &mut Change<'_>,
    table: &mut Table,
    column: &Ident,
) -> Result<(), SqlError> {
    let name = fold(column);
    let expression = format!("jsonb_typeof(\"{}\") = 'array'", name.replace('"', "\"\""));
    let name = choose(&table.name.name, &name, "check", |name| {
        constraint_is_taken(change, table, name)
    });
    table.checks.push(Check {
        id: change.next_id()?,
        name,
        expression,
    });
    Ok(())
}

/// One constraint of a table.
pub(super) fn add(
    change: &mut Change<'_>,
    table: &mut Table,
    constraint: &TableConstraint,
) -> Result<(), SqlError> {
    match constraint {
        TableConstraint::PrimaryKey(PrimaryKeyConstraint {
            name,
            columns,
            characteristics,
            ..
        }) => {
            let columns = plain_columns(columns)?;
            add_primary_key(
                change,
                table,
                name.as_ref(),
                &columns,
                characteristics.as_ref(),
            )
        }
        TableConstraint::Unique(UniqueConstraint {
            name,
            columns,
            nulls_distinct,
            characteristics,
            ..
        }) => {
            let columns = plain_columns(columns)?;
            add_unique(
                change,
                table,
                name.as_ref(),
                &columns,
                *nulls_distinct,
                characteristics.as_ref(),
            )
        }
        TableConstraint::ForeignKey(key) => {
            add_foreign_key(change, table, key.name.as_ref(), &key.columns, key)
        }
        TableConstraint::Check(check) => add_check(change, table, check.name.as_ref(), check),
        TableConstraint::PrimaryKeyUsingIndex(_) | TableConstraint::UniqueUsingIndex(_) => {
            Err(SqlError::unsupported("ADD CONSTRAINT … USING INDEX"))
        }
        TableConstraint::Exclude(_) => Err(SqlError::unsupported("EXCLUDE")),
        TableConstraint::Index(_) | TableConstraint::FulltextOrSpatial(_) => Err(SqlError::new(
            ErrorCode::SyntaxError,
            "syntax error: INDEX is no constraint",
        )),
    }
}

fn named(columns: &[Ident]) -> Vec<String> {
    columns.iter().map(fold).collect()
}

fn plain_columns(columns: &[IndexColumn]) -> Result<Vec<String>, SqlError> {
    columns
        .iter()
        .map(|column| match &column.column.expr {
            sqlparser::ast::Expr::Identifier(ident) => Ok(fold(ident)),
            other => Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("syntax error at or near \"{other}\": a constraint is over columns"),
            )),
        })
        .collect()
}

/// The places of a key's columns.
fn key_places(table: &Table, columns: &[String], constraint: &str) -> Result<Vec<usize>, SqlError> {
    let mut places = Vec::with_capacity(columns.len());
    for name in columns {
        let (place, _) = table.column_named(name).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedColumn,
                format!("column \"{name}\" named in key does not exist"),
            )
        })?;
        if places.contains(&place) {
            return Err(SqlError::new(
                ErrorCode::DuplicateColumn,
                format!("column \"{name}\" appears twice in {constraint} constraint"),
            ));
        }
        places.push(place);
    }
    Ok(places)
}

fn add_primary_key(
    change: &mut Change<'_>,
    table: &mut Table,
    name: Option<&Ident>,
    columns: &[String],
    characteristics: Option<&ConstraintCharacteristics>,
) -> Result<(), SqlError> {
    refuse_deferrable(characteristics, "PRIMARY KEY")?;
    if table.has_declared_key() {
        return Err(SqlError::new(
            ErrorCode::InvalidTableDefinition,
            format!(
                "multiple primary keys for table \"{}\" are not allowed",
                table.name.name
            ),
        ));
    }
    // Checked before the hidden key goes, whose going moves every place.
    key_places(table, columns, "primary key")?;
    remove_hidden_key(table);
    let places = key_places(table, columns, "primary key")?;
    let name = index_name(change, table, name, "", "pkey")?;
    for &place in &places {
        table.columns[place].not_null = true;
    }
    table.key = places;
    table.key_name = Some(name);
    Ok(())
}

fn add_unique(
    change: &mut Change<'_>,
    table: &mut Table,
    name: Option<&Ident>,
    columns: &[String],
    nulls: NullsDistinctOption,
    characteristics: Option<&ConstraintCharacteristics>,
) -> Result<(), SqlError> {
    refuse_deferrable(characteristics, "UNIQUE")?;
    let places = key_places(table, columns, "unique")?;
    let ids: Vec<u32> = places
        .iter()
        .map(|&place| table.columns[place].id)
        .collect();
    let nulls_not_distinct = matches!(nulls, NullsDistinctOption::NotDistinct);
    // CREATE TABLE takes a constraint that is said twice as one.
    let is_new = change.catalog.table(table.collection()).is_none();
    let is_there = (table.has_declared_key() && table.key_ids() == ids)
        || table
            .uniques
            .iter()
            .any(|other| other.columns == ids && other.nulls_not_distinct == nulls_not_distinct);
    if is_new && is_there && name.is_none() {
        return Ok(());
    }
    let joined = join_columns(columns.iter().map(String::as_str));
    let name = index_name(change, table, name, &joined, "key")?;
    table.uniques.push(Unique {
        name,
        columns: ids,
        nulls_not_distinct,
        index_id: change.next_id()?,
    });
    Ok(())
}

fn add_check(
    change: &mut Change<'_>,
    table: &mut Table,
    name: Option<&Ident>,
    check: &CheckConstraint,
) -> Result<(), SqlError> {
    if check.enforced == Some(false) {
        return Err(SqlError::unsupported("NOT ENFORCED"));
    }
    let expression = expression::text_of(table, &check.expr, "check constraint")?;
    let name = match name {
        Some(name) => constraint_name(table, name)?,
        None => {
            // A check of one column is called after it, wherever it was written.
            let columns = expression::columns_in(table, &expression)?;
            let column = match columns.as_slice() {
                &[id] => table
                    .column_by_id(id)
                    .map_or("", |(_, column)| &column.name),
                _ => "",
            };
            choose(&table.name.name, column, "check", |name| {
                constraint_is_taken(change, table, name)
            })
        }
    };
    table.checks.push(Check {
        id: change.next_id()?,
        name,
        expression,
    });
    Ok(())
}

fn add_foreign_key(
    change: &mut Change<'_>,
    table: &mut Table,
    name: Option<&Ident>,
    columns: &[Ident],
    written: &ForeignKeyConstraint,
) -> Result<(), SqlError> {
    let names = named(columns);
    let ids = referencing_columns(table, &names)?;
    let parent = referenced_table(change, table, &written.foreign_table)?;
    let referenced = named(&written.referred_columns);
    let name = match name {
        Some(name) => constraint_name(table, name)?,
        None => {
            let joined = join_columns(names.iter().map(String::as_str));
            choose(&table.name.name, &joined, "fkey", |name| {
                constraint_is_taken(change, table, name)
            })
        }
    };
    if written.match_kind == Some(ConstraintReferenceMatchKind::Partial)
        || (written.match_kind == Some(ConstraintReferenceMatchKind::Full) && ids.len() > 1)
    {
        return Err(SqlError::unsupported(
            "a foreign key with MATCH FULL over several columns, or MATCH PARTIAL,",
        ));
    }
    let (deferrable, initially_deferred) = deferral(written.characteristics.as_ref())?;
    let key = ForeignKey {
        parent_columns: parent_columns(&parent, &referenced, ids.len())?,
        name,
        columns: ids,
        parent: parent.id,
        on_delete: action(written.on_delete),
        on_update: action(written.on_update),
        deferrable,
        initially_deferred,
    };
    check_types(table, &parent, &key)?;
    if [key.on_delete, key.on_update].iter().any(|action| {
        matches!(
            action,
            ReferentialAction::SetNull | ReferentialAction::SetDefault
        )
    }) && let Some(generated) = key
        .columns
        .iter()
        .filter_map(|&id| table.column_by_id(id))
        .find(|(_, column)| column.generated.is_some())
    {
        return Err(SqlError::new(
            ErrorCode::InvalidTableDefinition,
            format!(
                "invalid ON DELETE or ON UPDATE action for foreign key over generated column \"{}\"",
                generated.1.name
            ),
        ));
    }
    table.foreign_keys.push(key);
    Ok(())
}

fn referencing_columns(table: &Table, names: &[String]) -> Result<Vec<u32>, SqlError> {
    names
        .iter()
        .map(|name| {
            table
                .column_named(name)
                .map(|(_, column)| column.id)
                .ok_or_else(|| {
                    SqlError::new(
                        ErrorCode::UndefinedColumn,
                        format!(
                            "column \"{name}\" referenced in foreign key constraint does not exist"
                        ),
                    )
                })
        })
        .collect()
}

fn referenced_table(
    change: &Change<'_>,
    table: &Table,
    name: &ObjectName,
) -> Result<Arc<Table>, SqlError> {
    let name = qualified(name)?;
    if name == table.name {
        return Ok(Arc::new(table.clone()));
    }
    let parent = change.catalog.expect_table(&name).map_err(|error| {
        if error.code == ErrorCode::WrongObjectType {
            SqlError::new(
                ErrorCode::WrongObjectType,
                format!("referenced relation \"{}\" is not a table", name.name),
            )
        } else {
            error
        }
    })?;
    check_owner(parent)?;
    Ok(Arc::clone(parent))
}

/// The columns that a foreign key refers to: those named, or the primary key.
fn parent_columns(parent: &Table, names: &[String], count: usize) -> Result<Vec<u32>, SqlError> {
    let ids = if names.is_empty() {
        if !parent.has_declared_key() {
            return Err(SqlError::new(
                ErrorCode::UndefinedObject,
                format!(
                    "there is no primary key for referenced table \"{}\"",
                    parent.name.name
                ),
            ));
        }
        parent.key_ids()
    } else {
        referencing_columns(parent, names)?
    };
    if ids.len() != count {
        return Err(SqlError::new(
            ErrorCode::InvalidForeignKey,
            "number of referencing and referenced columns for foreign key disagree",
        ));
    }
    match unique_over(parent, &ids) {
        Some(Guard::Key | Guard::Unique(_) | Guard::Index(_)) => Ok(ids),
        Some(Guard::NotPlain(name)) => Err(SqlError::unsupported(format_args!(
            "a foreign key to \"{name}\", whose values can be equal without being identical or whose NULLs are equal,"
        ))),
        None => Err(SqlError::new(
            ErrorCode::InvalidForeignKey,
            format!(
                "there is no unique constraint matching given keys for referenced table \"{}\"",
                parent.name.name
            ),
        )),
    }
}

/// What keeps the columns that a foreign key refers to unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guard {
    Key,
    /// A unique constraint, by name.
    Unique(String),
    /// A unique index, by name.
    Index(String),
    /// One that compares by more than the stored bytes, which SQLite cannot refer to.
    NotPlain(String),
}

/// What keeps these columns of `table`, in any order, unique.
pub(super) fn unique_over(table: &Table, ids: &[u32]) -> Option<Guard> {
    let same = |other: &[u32]| other.len() == ids.len() && other.iter().all(|id| ids.contains(id));
    if table.has_declared_key() && same(&table.key_ids()) {
        let plain = !table.key_columns().any(needs_key_function);
        let name = table.key_name.clone().unwrap_or_default();
        return Some(if plain {
            Guard::Key
        } else {
            Guard::NotPlain(name)
        });
    }
    let uniques = || table.uniques.iter().filter(|unique| same(&unique.columns));
    if let Some(unique) = uniques().find(|unique| unique.is_plain(table)) {
        return Some(Guard::Unique(unique.name.clone()));
    }
    let index = table.indexes.iter().find(|index| {
        index.unique
            && index.predicate.is_none()
            && index
                .column_ids(table)
                .is_some_and(|columns| same(&columns))
    });
    match index {
        Some(index) => Some(Guard::Index(index.name.clone())),
        None => uniques()
            .next()
            .map(|unique| Guard::NotPlain(unique.name.clone())),
    }
}

/// Checks that every foreign key of and to `table` still compares values of one storage form.
pub(super) fn check_foreign_key_types(change: &Change<'_>, table: &Table) -> Result<(), SqlError> {
    for key in &table.foreign_keys {
        if let Some(parent) = parent_of(change, table, CollectionId(key.parent)) {
            check_types(table, &parent, key)?;
        }
    }
    for &child in change.catalog.children(table.collection()) {
        if let Some(child) = change.catalog.table(child) {
            for key in child
                .foreign_keys
                .iter()
                .filter(|key| key.parent == table.id)
            {
                check_types(child, table, key)?;
            }
        }
    }
    Ok(())
}

fn check_types(table: &Table, parent: &Table, key: &ForeignKey) -> Result<(), SqlError> {
    for (&id, &parent_id) in key.columns.iter().zip(&key.parent_columns) {
        let (Some((_, column)), Some((_, parent_column))) =
            (table.column_by_id(id), parent.column_by_id(parent_id))
        else {
            continue;
        };
        if same_storage(&column.pg_type, &parent_column.pg_type) {
            continue;
        }
        let details = types_detail(column, parent_column);
        if comparable(&column.pg_type, &parent_column.pg_type) {
            return Err(SqlError::unsupported(format_args!(
                "foreign key constraint \"{}\" between columns of different types",
                key.name
            ))
            .with_detail(details));
        }
        return Err(SqlError::new(
            ErrorCode::DatatypeMismatch,
            format!(
                "foreign key constraint \"{}\" cannot be implemented",
                key.name
            ),
        )
        .with_detail(details));
    }
    Ok(())
}

fn types_detail(column: &Column, parent: &Column) -> String {
    format!(
        "Key columns \"{}\" and \"{}\" are of incompatible types: {} and {}.",
        column.name,
        parent.name,
        column.pg_type.base_name(),
        parent.pg_type.base_name()
    )
}

/// Whether equal values of the two types are stored alike.
fn same_storage(a: &PgType, b: &PgType) -> bool {
    let string =
        |pg_type: &PgType| matches!(pg_type, PgType::Text | PgType::Varchar(_) | PgType::Name);
    match (a, b) {
        (PgType::Numeric(_), PgType::Numeric(_)) => a.scaled() == b.scaled(),
        _ => {
            a.same_base(b) && a == b
                || (a.is_integer() && b.is_integer())
                || (string(a) && string(b))
        }
    }
}

/// Whether PostgreSQL could compare them.
fn comparable(a: &PgType, b: &PgType) -> bool {
    a.category() == b.category()
}

fn refuse_deferrable(
    characteristics: Option<&ConstraintCharacteristics>,
    what: &str,
) -> Result<(), SqlError> {
    match deferral(characteristics)? {
        (false, _) => Ok(()),
        (true, _) => Err(SqlError::unsupported(format_args!(
            "a DEFERRABLE {what} constraint"
        ))),
    }
}

/// Whether it is deferrable, and initially deferred.
fn deferral(characteristics: Option<&ConstraintCharacteristics>) -> Result<(bool, bool), SqlError> {
    let Some(characteristics) = characteristics else {
        return Ok((false, false));
    };
    if characteristics.enforced == Some(false) {
        return Err(SqlError::unsupported("NOT ENFORCED"));
    }
    let deferred = matches!(characteristics.initially, Some(DeferrableInitial::Deferred));
    match characteristics.deferrable {
        Some(false) if deferred => Err(SqlError::new(
            ErrorCode::SyntaxError,
            "constraint declared INITIALLY DEFERRED must be DEFERRABLE",
        )),
        Some(deferrable) => Ok((deferrable, deferred)),
        None => Ok((deferred, deferred)),
    }
}

fn action(written: Option<Written>) -> ReferentialAction {
    match written {
        None | Some(Written::NoAction) => ReferentialAction::NoAction,
        Some(Written::Restrict) => ReferentialAction::Restrict,
        Some(Written::Cascade) => ReferentialAction::Cascade,
        Some(Written::SetNull) => ReferentialAction::SetNull,
        Some(Written::SetDefault) => ReferentialAction::SetDefault,
    }
}

/// The name of a constraint that is an index, so that it is a relation's name too.
fn index_name(
    change: &Change<'_>,
    table: &Table,
    name: Option<&Ident>,
    columns: &str,
    label: &str,
) -> Result<String, SqlError> {
    match name {
        Some(name) => {
            if relation_is_taken(change, table, &fold(name)) {
                return Err(SqlError::new(
                    ErrorCode::DuplicateTable,
                    format!("relation \"{}\" already exists", fold(name)),
                ));
            }
            constraint_name(table, name)
        }
        None => Ok(choose(&table.name.name, columns, label, |name| {
            relation_is_taken(change, table, name) || constraint_is_taken(change, table, name)
        })),
    }
}

fn constraint_name(table: &Table, name: &Ident) -> Result<String, SqlError> {
    let name = fold(name);
    if table.constraint_names().any(|other| other == name) {
        return Err(duplicate_constraint(table, &name));
    }
    Ok(name)
}

pub(super) fn duplicate_constraint(table: &Table, name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::DuplicateObject,
        format!(
            "constraint \"{name}\" for relation \"{}\" already exists",
            table.name.name
        ),
    )
}

/// Whether a relation has this name, those of the table in the making included.
pub(super) fn relation_is_taken(change: &Change<'_>, table: &Table, name: &str) -> bool {
    let schema = &table.name.schema;
    table.name.name == name
        || table.index_names().any(|other| other == name)
        // What the catalog still has of this very table is in the draft, or has gone from it.
        || change.catalog.relation(&QualifiedName::new(schema.clone(), name)).is_some_and(|relation| {
            !matches!(relation, Relation::Table(id) | Relation::Index(id) if id == table.collection())
        })
}

/// Whether any constraint has this name: PostgreSQL gives no two of a schema the same by itself.
fn constraint_is_taken(change: &Change<'_>, table: &Table, name: &str) -> bool {
    table.constraint_names().any(|other| other == name)
        || change.catalog.tables.values().any(|other| {
            other.id != table.id && other.constraint_names().any(|other| other == name)
        })
}
