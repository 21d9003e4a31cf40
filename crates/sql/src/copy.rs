//! COPY: which rows go where, and in which form. The rows themselves are an INSERT's or a query's
//! business, planned like any other, so that everything that holds for those holds here.
//!
//! Source: PostgreSQL 15, "COPY"; the option's checks and their words are PostgreSQL's.

mod options;

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use crate::catalog::{Catalog, Relation, Table};
use crate::plan::{Copy, CopyDirection, CopyFormat, PlanKind};
use crate::planner::{self, PlanContext};
use crate::types::PgType;
use crate::words::{self, Words};

use options::Given;

/// The plan of a COPY; `None` if the statement is another.
///
/// # Errors
/// 42601 where it is not of its form, 42501 for files and programs, what PostgreSQL says of the
/// options, and what planning its INSERT or query says.
pub(crate) fn plan_text(
    catalog: &Arc<Catalog>,
    sql: &str,
    context: &PlanContext,
) -> Result<Option<PlanKind>, SqlError> {
    if !words::begins_with(sql, "copy") {
        return Ok(None);
    }
    let mut words = Words::new(sql)?;
    words.expect_word("copy")?;
    if words.symbol(b'(') {
        let start = words.place();
        let end = words.skip_parentheses()?;
        let query = sql[start..end].trim();
        words.expect_word("to")?;
        destination(&mut words, false)?;
        let given = Given::read(&mut words, Given::default())?;
        return copy_query(catalog, query, given, context).map(Some);
    }
    let mut given = Given::default();
    if words.word("binary") {
        given.format = Some(CopyFormat::Binary);
    }
    let (schema, name) = words.qualified_name()?;
    let mut columns = None;
    if words.symbol(b'(') {
        let mut names = vec![words.name()?];
        while words.symbol(b',') {
            names.push(words.name()?);
        }
        words.expect_symbol(b')')?;
        columns = Some(names);
    }
    let is_from = words.word("from");
    if !is_from {
        words.expect_word("to")?;
    }
    destination(&mut words, is_from)?;
    let given = Given::read(&mut words, given)?;
    let target = Target::find(catalog, schema.as_deref(), &name, is_from, context)?;
    let columns = target.columns(columns.as_deref())?;
    target
        .copy(catalog, &columns, is_from, given, context)
        .map(Some)
}

/// STDIN or STDOUT: the client. A file or a program of the server's machine is nobody's.
fn destination(words: &mut Words<'_>, is_from: bool) -> Result<(), SqlError> {
    if words.word("stdin") || words.word("stdout") {
        return Ok(());
    }
    let refused = |message: &str| {
        Err(SqlError::new(ErrorCode::InsufficientPrivilege, message).with_hint(
            "Anyone can COPY to stdout or from stdin. psql's \\copy command also works for anyone.",
        ))
    };
    if words.word("program") {
        words.string()?;
        return refused(
            "must be superuser or have privileges of the pg_execute_server_program role to COPY to or from an external program",
        );
    }
    words.string()?;
    refused(if is_from {
        "must be superuser or have privileges of the pg_read_server_files role to COPY from a file"
    } else {
        "must be superuser or have privileges of the pg_write_server_files role to COPY to a file"
    })
}

fn copy_query(
    catalog: &Arc<Catalog>,
    query: &str,
    given: Given,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    if words::begins_with(query, "live") {
        return copy_live(catalog, query, given, context);
    }
    let plan = planner::plan(catalog, query, &[], context)?;
    let names: Vec<String> = match &plan.kind {
        PlanKind::Query(query) => query.columns.iter().map(|c| c.name.clone()).collect(),
        PlanKind::Write(write) if write.returning.is_empty() => {
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "COPY query must have a RETURNING clause",
            ));
        }
        PlanKind::Write(write) => write.returning.iter().map(|c| c.name.clone()).collect(),
        _ => return Err(SqlError::unsupported("this statement inside COPY")),
    };
    if !plan.parameters.is_empty() {
        return Err(SqlError::new(
            ErrorCode::UndefinedParameter,
            "there is no parameter $1",
        ));
    }
    Ok(PlanKind::Copy(Box::new(Copy {
        relation: "query".to_owned(),
        direction: CopyDirection::Out {
            query: Arc::new(plan),
        },
        options: given.check(false, &names, None)?,
    })))
}

/// The columns that come before a live query's own: what the row is, where it is, how it is known.
pub const LIVE_COLUMNS: [(&str, PgType); 4] = [
    ("event", PgType::Text),
    ("cursor", PgType::Text),
    ("key", PgType::Text),
    ("position", PgType::Int8),
];

fn copy_live(
    catalog: &Arc<Catalog>,
    query: &str,
    given: Given,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    let live = planner::plan_live_select(catalog, query, &[], context)?;
    if !live.plan.parameters.is_empty() {
        return Err(SqlError::new(
            ErrorCode::UndefinedParameter,
            "there is no parameter $1",
        ));
    }
    let names: Vec<String> = (LIVE_COLUMNS.iter())
        .map(|(name, _)| (*name).to_owned())
        .chain(live.plan.columns.iter().map(|column| column.name.clone()))
        .collect();
    Ok(PlanKind::Copy(Box::new(Copy {
        relation: "query".to_owned(),
        direction: CopyDirection::Live(live),
        options: given.check(false, &names, None)?,
    })))
}

/// The table that is copied.
struct Target<'c> {
    table: &'c Arc<Table>,
}

impl<'c> Target<'c> {
    fn find(
        catalog: &'c Catalog,
        schema: Option<&str>,
        name: &str,
        is_from: bool,
        context: &PlanContext,
    ) -> Result<Target<'c>, SqlError> {
        let found = match schema {
            Some(schema) => catalog.resolve(Some(schema), name),
            None => context
                .search_path
                .iter()
                .find_map(|schema| catalog.resolve(Some(schema), name)),
        };
        let shown = schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
        let wrong = |kind: &str| {
            let way = if is_from { "to" } else { "from" };
            let error = SqlError::new(
                ErrorCode::WrongObjectType,
                format!("cannot copy {way} {kind} \"{name}\""),
            );
            if is_from || kind != "view" {
                error
            } else {
                error.with_hint("Try the COPY (SELECT ...) TO variant.")
            }
        };
        match found {
            Some((_, Relation::Table(id))) => {
                let table = catalog.tables.get(&id).ok_or_else(|| wrong("table"))?;
                Ok(Target { table })
            }
            Some((_, Relation::View(_))) => Err(wrong("view")),
            Some((_, Relation::Sequence(_))) => Err(wrong("sequence")),
            Some((_, Relation::Index(_))) => Err(wrong("index")),
            None => Err(SqlError::new(
                ErrorCode::UndefinedTable,
                format!("relation \"{shown}\" does not exist"),
            )),
        }
    }

    /// The names of the columns that are copied.
    fn columns(&self, given: Option<&[String]>) -> Result<Vec<String>, SqlError> {
        let table = self.table;
        let Some(given) = given else {
            return Ok(table
                .visible_columns()
                .filter(|(_, column)| column.generated.is_none())
                .map(|(_, column)| column.name.clone())
                .collect());
        };
        let mut names: Vec<String> = Vec::with_capacity(given.len());
        for name in given {
            let Some((_, column)) = table.visible_columns().find(|(_, c)| c.name == *name) else {
                return Err(undefined_column(table, name));
            };
            if column.generated.is_some() {
                return Err(SqlError::new(
                    ErrorCode::InvalidColumnReference,
                    format!("column \"{name}\" is a generated column"),
                )
                .with_detail("Generated columns cannot be used in COPY."));
            }
            if names.contains(name) {
                return Err(SqlError::new(
                    ErrorCode::DuplicateColumn,
                    format!("column \"{name}\" specified more than once"),
                ));
            }
            names.push(name.clone());
        }
        Ok(names)
    }

    fn copy(
        &self,
        catalog: &Arc<Catalog>,
        names: &[String],
        is_from: bool,
        given: Given,
        context: &PlanContext,
    ) -> Result<PlanKind, SqlError> {
        let name = &self.table.name;
        let options = given.check(is_from, names, Some(self.table))?;
        if names.is_empty() {
            return Err(SqlError::unsupported("COPY of a table without columns"));
        }
        let columns: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        let (columns, table) = (
            columns.join(","),
            format!("{}.{}", quoted(&name.schema), quoted(&name.name)),
        );
        let plan = |sql: &str| planner::plan(catalog, sql, &[], context).map(Arc::new);
        let direction = if is_from {
            // As PostgreSQL has it: what COPY brings is stored, also in a column that makes its own.
            let values: Vec<String> = (1..=names.len()).map(|n| format!("${n}")).collect();
            CopyDirection::In {
                insert: plan(&format!(
                    "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({})",
                    values.join(",")
                ))?,
                names: names.to_vec(),
            }
        } else {
            CopyDirection::Out {
                query: plan(&format!("SELECT {columns} FROM {table}"))?,
            }
        };
        Ok(PlanKind::Copy(Box::new(Copy {
            relation: name.name.clone(),
            direction,
            options,
        })))
    }
}

fn undefined_column(table: &Table, name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedColumn,
        format!(
            "column \"{name}\" of relation \"{}\" does not exist",
            table.name.name
        ),
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
