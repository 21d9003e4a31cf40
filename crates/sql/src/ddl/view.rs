//! CREATE VIEW and CREATE TABLE AS: definitions made of a query.

use std::ops::ControlFlow;
use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    CreateTable, CreateTableOptions, CreateView, Ident, ObjectName, Query, SelectItem, SetExpr,
    Statement, TableAlias, TableFactor, VisitMut, VisitorMut, visit_relations,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::change::Change;
use super::names::{check_schema, duplicate_relation, fold, qualified};
use super::table;
use crate::catalog::{Access, QualifiedName, Relation, View};
use crate::plan::{OutputColumn, PlanKind};
use crate::planner::PlanContext;
use crate::query::Analyzer;
use crate::types::PgType;

/// Plans CREATE [OR REPLACE] VIEW.
pub(super) fn create(
    mut change: Change<'_>,
    statement: &CreateView,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    refuse_options(statement)?;
    let name = qualified(&statement.name)?;
    check_schema(&name)?;
    let replaced = match change.catalog.relation(&name) {
        None => None,
        Some(Relation::View(id)) if statement.or_replace => change.catalog.view(id).cloned(),
        Some(_) if statement.if_not_exists => {
            change.notices.push(format!(
                "relation \"{}\" already exists, skipping",
                name.name
            ));
            return Ok(change.finish());
        }
        Some(_) if statement.or_replace => {
            return Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!("\"{}\" is not a view", name.name),
            ));
        }
        Some(_) => return Err(duplicate_relation(&name)),
    };
    let (_, output) = analyze(&change, &statement.query, context, false)?;
    let names: Vec<String> = statement
        .columns
        .iter()
        .map(|column| fold(&column.name))
        .collect();
    let columns = columns(
        &output,
        &names,
        "CREATE VIEW specifies more column names than columns",
    )?;
    let id = match &replaced {
        Some(old) => old.id,
        None => change.next_id()?,
    };
    let depends_on = depends_on(&change, &statement.query)?;
    if depends_on.contains(&id) {
        return Err(SqlError::new(
            ErrorCode::InvalidObjectDefinition,
            format!(
                "infinite recursion detected in rules for relation \"{}\"",
                name.name
            ),
        ));
    }
    if let Some(old) = &replaced {
        check_replacement(old, &columns)?;
    }
    let query = frozen(&statement.query, &output)?;
    change.put_view(View {
        id,
        name,
        columns,
        query,
        depends_on,
        security_invoker: option(&statement.options, "security_invoker"),
        security_barrier: option(&statement.options, "security_barrier"),
        access: replaced.map_or_else(Access::default, |old| old.access.clone()),
    });
    Ok(change.finish())
}

fn refuse_options(statement: &CreateView) -> Result<(), SqlError> {
    let refused = [
        (statement.materialized, "CREATE MATERIALIZED VIEW"),
        (statement.temporary, "CREATE TEMPORARY VIEW"),
        (
            statement.to.is_some() || statement.params.is_some() || statement.or_alter,
            "this form of CREATE VIEW",
        ),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(is_there, _)| *is_there) {
        return Err(SqlError::unsupported(what));
    }
    match &statement.options {
        CreateTableOptions::None => Ok(()),
        CreateTableOptions::With(options)
            if options
                .iter()
                .all(|option| option.to_string().to_lowercase().contains("security_")) =>
        {
            Ok(())
        }
        other => Err(SqlError::unsupported(format_args!(
            "CREATE VIEW with {other}"
        ))),
    }
}

/// Whether a view's option is on.
fn option(options: &CreateTableOptions, name: &str) -> bool {
    let CreateTableOptions::With(options) = options else {
        return false;
    };
    options.iter().any(|option| {
        let text = option.to_string().to_lowercase().replace([' ', '\''], "");
        let (key, value) = text.split_once('=').unwrap_or((&text, "true"));
        key == name && matches!(value, "true" | "on" | "1" | "yes")
    })
}

/// The query's SQLite text and columns; `reads` if it is run now.
fn analyze(
    change: &Change<'_>,
    query: &Query,
    context: &PlanContext,
    reads: bool,
) -> Result<(String, Arc<[OutputColumn]>), SqlError> {
    let mut analyzer = Analyzer::new(&change.catalog, change.source(), context, &[], usize::MAX);
    analyzer.rules.no_parameters = true;
    let (sql, output) = analyzer.query(query)?.into_top_level(&mut analyzer)?;
    if reads {
        analyzer.check_references()?;
    }
    if analyzer.has_effects || analyzer.sets || !analyzer.sequences.is_empty() {
        return Err(SqlError::unsupported(
            "a function called for its effect in a definition's query",
        ));
    }
    Ok((sql, output))
}

/// Names and types of the columns: those given, then the query's own.
fn columns(
    output: &[OutputColumn],
    names: &[String],
    too_many: &str,
) -> Result<Vec<(String, PgType)>, SqlError> {
    if names.len() > output.len() {
        return Err(SqlError::new(ErrorCode::SyntaxError, too_many));
    }
    let mut columns: Vec<(String, PgType)> = Vec::with_capacity(output.len());
    for (index, column) in output.iter().enumerate() {
        let name = names.get(index).unwrap_or(&column.name).clone();
        if columns.iter().any(|(other, _)| *other == name) {
            return Err(SqlError::new(
                ErrorCode::DuplicateColumn,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        let pg_type = match &column.pg_type {
            PgType::Unknown => PgType::Text,
            pg_type => pg_type.clone(),
        };
        if matches!(pg_type.element().unwrap_or(&pg_type), PgType::Record(_)) {
            return Err(super::types::pseudo_type(&name, &pg_type));
        }
        columns.push((name, pg_type));
    }
    Ok(columns)
}

fn check_replacement(old: &View, new: &[(String, PgType)]) -> Result<(), SqlError> {
    let refuse = |message: String| Err(SqlError::new(ErrorCode::InvalidTableDefinition, message));
    if new.len() < old.columns.len() {
        return refuse("cannot drop columns from view".to_owned());
    }
    for ((old_name, old_type), (new_name, new_type)) in old.columns.iter().zip(new) {
        if old_name != new_name {
            return refuse(format!(
                "cannot change name of view column \"{old_name}\" to \"{new_name}\""
            ));
        }
        if old_type != new_type {
            return refuse(format!(
                "cannot change data type of view column \"{old_name}\" from {} to {}",
                old_type.sql_name(),
                new_type.sql_name()
            ));
        }
    }
    Ok(())
}

/// The ids of the tables and views that a query names.
fn depends_on(change: &Change<'_>, query: &Query) -> Result<Vec<u32>, SqlError> {
    let mut ids = Vec::new();
    let walked = visit_relations(query, |name| {
        let name = match qualified(name) {
            Ok(name) => name,
            Err(error) => return ControlFlow::Break(error),
        };
        match change.catalog.relation(&name) {
            Some(Relation::Table(id)) => ids.push(id.0),
            Some(Relation::View(id)) => ids.push(id),
            // A name of WITH, a function, or PostgreSQL's catalog.
            Some(Relation::Index(_) | Relation::Sequence(_)) | None => {}
        }
        ControlFlow::Continue(())
    });
    if let ControlFlow::Break(error) = walked {
        return Err(error);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The query's text, with its columns named where it says `*`: a column that a table gets later is
/// not the view's.
fn frozen(query: &Query, output: &[OutputColumn]) -> Result<String, SqlError> {
    if !has_wildcard(&query.body) {
        return Ok(query.to_string());
    }
    let mut names: Vec<String> = output
        .iter()
        .map(|column| Ident::with_quote('"', &column.name).to_string())
        .collect();
    let list = names.join(", ");
    names.sort_unstable();
    names.dedup();
    if names.len() < output.len() {
        return Err(SqlError::unsupported(
            "a view over * with two columns of the same name",
        ));
    }
    Ok(format!("SELECT {list} FROM ({query}) AS \"all\""))
}

fn has_wildcard(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.projection.iter().any(|item| {
            matches!(
                item,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
            )
        }),
        SetExpr::Query(query) => has_wildcard(&query.body),
        SetExpr::SetOperation { left, right, .. } => has_wildcard(left) || has_wildcard(right),
        SetExpr::Table(_) => true,
        _ => false,
    }
}

/// Lets the views over a renamed relation name it by its new name, and its columns as before.
pub(super) fn rename_relation(
    change: &mut Change<'_>,
    id: u32,
    from: &QualifiedName,
    to: &QualifiedName,
) -> Result<(), SqlError> {
    let views: Vec<Arc<View>> = change
        .catalog
        .views
        .values()
        .filter(|view| view.depends_on.contains(&id))
        .cloned()
        .collect();
    for view in views {
        let mut query = parse(&view.query)?;
        let _: ControlFlow<()> = query.visit(&mut Rename { from, to });
        change.put_view(View {
            query: query.to_string(),
            ..View::clone(&view)
        });
    }
    Ok(())
}

fn parse(text: &str) -> Result<Box<Query>, SqlError> {
    let unreadable = || {
        SqlError::new(
            ErrorCode::Internal,
            format!("a view's query cannot be read back: {text}"),
        )
    };
    match Parser::parse_sql(&PostgreSqlDialect {}, text)
        .map_err(|_| unreadable())?
        .pop()
    {
        Some(Statement::Query(query)) => Ok(query),
        _ => Err(unreadable()),
    }
}

struct Rename<'a> {
    from: &'a QualifiedName,
    to: &'a QualifiedName,
}

impl VisitorMut for Rename<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = factor
            && qualified(name).is_ok_and(|name| name == *self.from)
        {
            if alias.is_none() {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', &self.from.name),
                    columns: Vec::new(),
                    at: None,
                });
            }
            *name = ObjectName::from(vec![
                Ident::with_quote('"', &self.to.schema),
                Ident::with_quote('"', &self.to.name),
            ]);
        }
        ControlFlow::Continue(())
    }
}

/// Plans CREATE TABLE … AS. The rows come as captured inserts after the table is there.
pub(super) fn create_table_as(
    mut change: Change<'_>,
    statement: &CreateTable,
    query: &Query,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
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
    let (sql, output) = analyze(&change, query, context, true)?;
    let names: Vec<String> = statement
        .columns
        .iter()
        .map(|column| fold(&column.name))
        .collect();
    let columns = columns(&output, &names, "too many column names were specified")?;
    let mut made = table::empty(change.next_id()?, name);
    for (name, pg_type) in columns {
        made.columns
            .push(table::plain_column(made.next_column_id, name, pg_type));
        made.next_column_id += 1;
    }
    let into: Vec<String> = made
        .columns
        .iter()
        .map(|column| column.storage_name())
        .collect();
    if !crate::grammar::ends_without_data(change.source()) {
        change.updates.push(format!(
            "INSERT INTO {} ({}) {sql}",
            made.storage_name(),
            into.join(", ")
        ));
    }
    table::put_new(&mut change, made)?;
    Ok(change.finish())
}
