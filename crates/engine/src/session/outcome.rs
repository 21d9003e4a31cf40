//! What clients are told of their statements: tags, columns, rows.

use std::sync::Arc;

use springhead_proto::{SqlError, ValueRef};
use springhead_sql::plan::{OutputColumn, WriteVerb};
use springhead_sql::{PgType, Plan, PlanKind};

use super::Outcome;
use crate::rows::RowsWriter;
use crate::writer::Done;

/// What a client is told of a statement that the writer has run.
pub(super) fn outcome(plan: &Plan, done: Done) -> Outcome {
    let (tag, columns) = match &plan.kind {
        PlanKind::Write(write) => {
            let count = done.affected;
            let tag = match write.verb {
                WriteVerb::Insert => format!("INSERT 0 {count}"),
                WriteVerb::Update => format!("UPDATE {count}"),
                WriteVerb::Delete => format!("DELETE {count}"),
                WriteVerb::Select => format!("SELECT {count}"),
                WriteVerb::Call => "CALL".to_owned(),
                WriteVerb::Merge => format!("MERGE {count}"),
                WriteVerb::Lock => "LOCK TABLE".to_owned(),
            };
            (tag, Arc::clone(&write.returning))
        }
        PlanKind::Query(query) => (
            format!("SELECT {}", done.affected),
            Arc::clone(&query.columns),
        ),
        PlanKind::Truncate { .. } => ("TRUNCATE TABLE".to_owned(), Arc::from([])),
        // With its rows, CREATE TABLE AS is told of as the SELECT that it runs.
        PlanKind::Ddl(ddl) if ddl.tag == "CREATE TABLE AS" && !ddl.updates.is_empty() => {
            (format!("SELECT {}", done.affected), Arc::from([]))
        }
        PlanKind::Ddl(ddl) => (ddl.tag.to_owned(), Arc::from([])),
        PlanKind::Notify(_) => ("NOTIFY".to_owned(), Arc::from([])),
        _ => (String::new(), Arc::from([])),
    };
    Outcome {
        tag,
        columns,
        rows: done.rows,
        notices: done.notices,
        parameter_status: Vec::new(),
        lsn: done.lsn,
        copy: None,
    }
}

/// A result of texts.
pub(super) fn text_rows(
    tag: &str,
    names: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<Outcome, SqlError> {
    let mut collected = RowsWriter::new(usize::MAX, u64::MAX);
    for row in rows {
        collected.push(row.iter().map(|text| ValueRef::Text(text)))?;
    }
    let columns: Vec<_> = names
        .iter()
        .map(|name| OutputColumn::computed(*name, PgType::Text))
        .collect();
    Ok(Outcome {
        columns: columns.into(),
        rows: Some(collected.finish()?),
        ..Outcome::command(tag)
    })
}

/// What a statement does, for messages.
pub(super) fn verb(plan: &Plan) -> &'static str {
    match &plan.kind {
        PlanKind::Write(write) => match write.verb {
            WriteVerb::Insert => "INSERT",
            WriteVerb::Update => "UPDATE",
            WriteVerb::Delete => "DELETE",
            WriteVerb::Select => "SELECT",
            WriteVerb::Call => "CALL",
            WriteVerb::Merge => "MERGE",
            WriteVerb::Lock => "LOCK TABLE",
        },
        PlanKind::Truncate { .. } => "TRUNCATE TABLE",
        PlanKind::Ddl(ddl) => ddl.tag,
        PlanKind::Notify(_) => "NOTIFY",
        _ => "SELECT FOR UPDATE",
    }
}
