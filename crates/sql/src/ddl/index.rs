//! CREATE INDEX.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{CreateIndex, Expr, OrderByExpr};

use super::alter;
use super::change::Change;
use super::draft::cannot_create;
use super::expression::{self, Purpose};
use super::names::{choose, duplicate_relation, fold, join_columns, own_table, qualified};
use crate::catalog::{Index, QualifiedName, Table};
use crate::plan::{PlanKind, Validation};

/// PostgreSQL's access methods.
const METHODS: [&str; 6] = ["btree", "hash", "gin", "gist", "spgist", "brin"];

/// Plans CREATE INDEX. CONCURRENTLY is taken: an index is always made within its transaction.
pub(super) fn create(
    mut change: Change<'_>,
    statement: &CreateIndex,
) -> Result<PlanKind, SqlError> {
    let table = Arc::clone(own_table(
        &change.catalog,
        &qualified(&statement.table_name)?,
    )?);
    let name = match &statement.name {
        Some(name) => {
            let name = qualified(name)?;
            if name.schema != table.name.schema {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "an index is always in the schema of its table",
                ));
            }
            name.name
        }
        None => default_name(&change, &table, statement),
    };
    let name = QualifiedName::new(table.name.schema.clone(), name);
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
    let method = match &statement.using {
        None => "btree".to_owned(),
        Some(method) => method.to_string().to_lowercase(),
    };
    if !METHODS.contains(&method.as_str()) {
        return Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("access method \"{method}\" does not exist"),
        ));
    }
    if statement.unique && method != "btree" {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("access method \"{method}\" does not support unique indexes"),
        ));
    }
    if statement.nulls_distinct == Some(false) {
        return Err(SqlError::unsupported("NULLS NOT DISTINCT in CREATE INDEX")
            .with_hint("ALTER TABLE … ADD UNIQUE NULLS NOT DISTINCT (…) is supported."));
    }
    let index = Index {
        id: change.next_id()?,
        name: name.name,
        unique: statement.unique,
        method,
        keys: statement
            .columns
            .iter()
            .map(|key| key_text(&table, &key.column))
            .collect::<Result<_, _>>()?,
        predicate: statement
            .predicate
            .as_ref()
            .map(|predicate| expression::text_of(&table, predicate, "index predicate"))
            .transpose()?,
    };
    if index.unique {
        require_unique(&mut change, &table, &index)?;
    }
    alter::add_index(&mut change, &table, index)?;
    Ok(change.finish())
}

fn key_text(table: &Table, key: &OrderByExpr) -> Result<String, SqlError> {
    if let Expr::Identifier(ident) = &key.expr {
        let name = fold(ident);
        if table.column_named(&name).is_none() {
            return Err(SqlError::new(
                ErrorCode::UndefinedColumn,
                format!("column \"{name}\" does not exist"),
            ));
        }
    }
    expression::key_text(table, key)
}

/// `table_column_idx`.
fn default_name(change: &Change<'_>, table: &Table, statement: &CreateIndex) -> String {
    let mut names: Vec<String> = Vec::new();
    for key in &statement.columns {
        let base = column_name(&key.column.expr);
        let mut name = base.clone();
        let mut number = 0;
        while names.contains(&name) {
            number += 1;
            name = format!("{base}{number}");
        }
        names.push(name);
    }
    names.extend(statement.include.iter().map(fold));
    let joined = join_columns(names.iter().map(String::as_str));
    choose(&table.name.name, &joined, "idx", |name| {
        change
            .catalog
            .relation(&QualifiedName::new(table.name.schema.clone(), name))
            .is_some()
    })
}

/// What PostgreSQL calls an index's column: its own name, a function's, or `expr`.
fn column_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => fold(ident),
        Expr::Nested(inner) => column_name(inner),
        Expr::Function(function) => function
            .name
            .0
            .last()
            .and_then(|part| part.as_ident())
            .map_or_else(|| "expr".to_owned(), fold),
        Expr::Cast { expr, .. } => column_name(expr),
        _ => "expr".to_owned(),
    }
}

/// Existing rows must differ.
fn require_unique(
    change: &mut Change<'_>,
    table: &Arc<Table>,
    index: &Index,
) -> Result<(), SqlError> {
    let mut keys = Vec::with_capacity(index.keys.len());
    for key in &index.keys {
        keys.push(expression::index_key(&change.catalog, table, key)?.0);
    }
    let mut conditions: Vec<String> = keys
        .iter()
        .map(|key| format!("{key} IS NOT NULL"))
        .collect();
    if let Some(predicate) = &index.predicate {
        conditions.push(format!(
            "({})",
            expression::storage(&change.catalog, table, predicate, Purpose::Predicate)?
        ));
    }
    let columns = index.column_ids(table);
    let selected = match &columns {
        Some(columns) => super::storage::columns(columns),
        None => "1".to_owned(),
    };
    let sql = format!(
        "SELECT {selected} FROM {} WHERE {} GROUP BY {} HAVING count(*) > 1 LIMIT 1",
        table.storage_name(),
        conditions.join(" AND "),
        keys.join(", ")
    );
    let validation = Validation::new(sql, cannot_create(table, &index.name));
    change.preconditions.push(match columns {
        Some(columns) => validation.with_key(table, &columns, "is duplicated.".to_owned()),
        None => validation,
    });
    Ok(())
}
