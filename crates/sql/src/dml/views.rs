//! INSERT, UPDATE and DELETE of a view that has INSTEAD OF triggers: the rows that they would write are
//! computed, and handed to the triggers.

use std::sync::Arc;

use springhead_proto::{CollectionId, SqlError};
use sqlparser::ast::{ObjectName, TableAlias};

use super::triggers::fire;
use super::update::Given;
use crate::catalog::{Column, Event, Relation, Table, Timing, View};
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::from::FromItem;

/// The view of that name, if it has INSTEAD OF triggers for this event.
pub(crate) fn view_of(
    analyzer: &Analyzer<'_>,
    name: &ObjectName,
    event: Event,
) -> Result<Option<Arc<View>>, SqlError> {
    let (_, Relation::View(id)) = analyzer.relation(name)? else {
        return Ok(None);
    };
    let all: Vec<u32> = (1..=u32::from(u16::MAX)).collect();
    let fires = analyzer
        .catalog
        .has_trigger(id, Timing::InsteadOf, true, event, &all);
    Ok(analyzer.catalog.view(id).filter(|_| fires).cloned())
}

/// A table with the view's columns, for what analyzes the columns that a statement writes.
pub(crate) fn as_table(view: &View) -> Arc<Table> {
    let columns = view
        .columns
        .iter()
        .zip(1_u32..)
        .map(|((name, pg_type), id)| Column {
            id,
            name: name.clone(),
            pg_type: pg_type.clone(),
            not_null: false,
            default: None,
            sequence: None,
            identity: false,
            identity_always: false,
            generated: None,
            hidden: false,
            crdt: None,
        })
        .collect();
    Arc::new(Table {
        columns,
        ..crate::ddl::empty_table(view.id, view.name.clone())
    })
}

/// The view as the FROM item that the statement's expressions see.
pub(crate) fn rows_of(
    analyzer: &mut Analyzer<'_>,
    name: &ObjectName,
    alias: Option<&TableAlias>,
) -> Result<FromItem, SqlError> {
    analyzer.named_relation(name, alias)
}

/// INSERT: `columns` are the quoted storage names that `source` gives values for.
pub(crate) fn insert(
    analyzer: &mut Analyzer<'_>,
    table: &Table,
    columns: &[String],
    source: &str,
) -> PlanKind {
    let given = analyzer.fresh('w');
    let new: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let name = format!("\"{}\"", column.storage_name());
            match columns.iter().position(|given| *given == name) {
                Some(place) => format!("{given}.k{place}"),
                None => "NULL".to_owned(),
            }
        })
        .collect();
    let names: Vec<String> = (0..columns.len())
        .map(|place| format!("k{place}"))
        .collect();
    let fire = fire(
        table.id,
        Timing::InsteadOf,
        Event::Insert,
        &[],
        None,
        Some(&new),
    );
    let sql = format!(
        "WITH {given}({}) AS ({source}) SELECT {fire} FROM {given}",
        names.join(",")
    );
    plan(analyzer, WriteVerb::Insert, sql)
}

/// UPDATE (with `set`) and DELETE of the rows that `from` has where `condition` holds.
pub(crate) fn change(
    analyzer: &mut Analyzer<'_>,
    table: &Table,
    item: &FromItem,
    set: Option<Vec<Given>>,
    from: Option<&str>,
    condition: Option<&str>,
) -> Result<PlanKind, SqlError> {
    let old: Vec<String> = item
        .columns
        .iter()
        .map(|column| column.sql.clone())
        .collect();
    let (verb, event, updated, new) = match set {
        None => (WriteVerb::Delete, Event::Delete, Vec::new(), None),
        Some(set) => {
            let updated = super::update::updated(table, &set);
            let mut new = old.clone();
            for (place, text) in super::update::single(set)? {
                new[place] = text;
            }
            (WriteVerb::Update, Event::Update, updated, Some(new))
        }
    };
    let fire = fire(
        table.id,
        Timing::InsteadOf,
        event,
        &updated,
        Some(&old),
        new.as_deref(),
    );
    let mut sql = format!("SELECT {fire} FROM {}", item.sql);
    if let Some(from) = from {
        sql.push_str(&format!(",{from}"));
    }
    if let Some(condition) = condition {
        sql.push_str(&format!(" WHERE {condition}"));
    }
    Ok(plan(analyzer, verb, sql))
}

fn plan(analyzer: &Analyzer<'_>, verb: WriteVerb, sql: String) -> PlanKind {
    PlanKind::Write(Write {
        verb,
        sql,
        returning: Arc::from([]),
        table: CollectionId::NONE,
        touches_foreign_keys: true,
        sequences: analyzer.sequences.iter().copied().collect(),
        updated: Vec::new(),
        upserts: false,
        once: false,
        instead: true,
        before: Vec::new(),
        checks: Vec::new(),
        viewer: None,
    })
}
