//! TRUNCATE.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{CascadeOption, Truncate, TruncateIdentityOption};

use crate::catalog::Privilege;
use crate::plan::PlanKind;
use crate::query::Analyzer;

use super::target;

/// The plan of a TRUNCATE: the tables, with CASCADE those that refer to them too.
pub(crate) fn plan(analyzer: &mut Analyzer<'_>, truncate: &Truncate) -> Result<PlanKind, SqlError> {
    if truncate.partitions.is_some() || truncate.on_cluster.is_some() || truncate.if_exists {
        return Err(SqlError::unsupported("a clause of this TRUNCATE"));
    }
    let mut tables: Vec<CollectionId> = Vec::new();
    for name in &truncate.table_names {
        let table = target(analyzer, &name.name)?.collection();
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    let cascade = truncate.cascade == Some(CascadeOption::Cascade);
    let mut next = 0;
    while next < tables.len() {
        let parent = tables[next];
        next += 1;
        for &child in analyzer.catalog.children(parent) {
            if tables.contains(&child) {
                continue;
            }
            if !cascade {
                return Err(referenced(analyzer, parent, child));
            }
            tables.push(child);
        }
    }
    for &table in &tables {
        if let Some(table) = analyzer.catalog.table(table).cloned() {
            analyzer.writes(&table, Privilege::Truncate, &[]);
        }
    }
    let restart_identity = if truncate.identity == Some(TruncateIdentityOption::Restart) {
        let mut sequences: Vec<u32> = analyzer
            .catalog
            .sequences
            .values()
            .filter(|sequence| {
                sequence
                    .owned_by
                    .is_some_and(|(table, _)| tables.contains(&CollectionId(table)))
            })
            .map(|sequence| sequence.id)
            .collect();
        sequences.sort_unstable();
        sequences
    } else {
        Vec::new()
    };
    Ok(PlanKind::Truncate {
        tables,
        restart_identity,
    })
}

fn referenced(analyzer: &Analyzer<'_>, parent: CollectionId, child: CollectionId) -> SqlError {
    let name = |id| {
        analyzer
            .catalog
            .table(id)
            .map(|table| table.name.name.clone())
            .unwrap_or_default()
    };
    SqlError::new(
        ErrorCode::FeatureNotSupported,
        "cannot truncate a table referenced in a foreign key constraint",
    )
    .with_detail(format!(
        "Table \"{}\" references \"{}\".",
        name(child),
        name(parent)
    ))
    .with_hint(format!(
        "Truncate table \"{}\" at the same time, or use TRUNCATE ... CASCADE.",
        name(child)
    ))
}
