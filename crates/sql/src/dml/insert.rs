//! INSERT.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    Expr, Insert, OnConflict, OnConflictAction, OnInsert, Query, SetExpr, TableObject, Values,
};

use crate::catalog::{Catalog, Column, Event, Privilege, Table};
use crate::functions::CastContext;
use crate::grammar::Overriding;
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::expression::table_relation;
use crate::query::names;
use crate::query::reference::Tracked;
use crate::query::scope::Scope;
use crate::query::typed::{Node, Typed};

use super::conflict::{arbiter_columns, on_conflict};
use super::{
    check_assignable, default_text, guarded, is_default, stored, target, target_column, triggers,
    update, views,
};

/// The plan of an INSERT.
pub(crate) fn plan(analyzer: &mut Analyzer<'_>, insert: &Insert) -> Result<PlanKind, SqlError> {
    refuse_foreign_clauses(insert)?;
    let TableObject::TableName(name) = &insert.table else {
        return Err(SqlError::unsupported("INSERT into anything but a table"));
    };
    if let Some(view) = views::view_of(analyzer, name, Event::Insert)? {
        if insert.on.is_some() || insert.returning.is_some() {
            return Err(SqlError::unsupported(
                "ON CONFLICT or RETURNING with INSTEAD OF triggers",
            ));
        }
        let table = views::as_table(&view);
        let rows = Rows {
            given: given_columns(analyzer, &table, insert)?,
            table: &table,
            explicit: !insert.columns.is_empty(),
        };
        let (columns, source) = match &insert.source {
            None => rows.defaults(analyzer)?,
            Some(query) => rows.source(analyzer, query)?,
        };
        return Ok(views::insert(analyzer, &table, &columns, &source));
    }
    let table = target(analyzer, name)?;
    let alias = insert.table_alias.as_ref().map_or_else(
        || table.name.name.clone(),
        |alias| names::fold(&alias.alias),
    );
    let given = given_columns(analyzer, &table, insert)?;
    let id = analyzer.fresh('r');
    let mut existing = table_relation(&table, &alias, Some(&id));
    let tracked = analyzer.track(&table, &mut existing);
    let rows = Rows {
        table: &table,
        given,
        explicit: !insert.columns.is_empty(),
    };
    let before = triggers::has_before(analyzer, &table, Event::Insert, &[]);
    analyzer.late_checks = before;
    let (columns, source) = match &insert.source {
        None => rows.defaults(analyzer)?,
        Some(query) => rows.source(analyzer, query)?,
    };
    let (returning_sql, returning) = super::returning::plan(
        analyzer,
        &table,
        &alias,
        insert.returning.as_deref(),
        &tracked,
    )?;
    let mut checks = Vec::new();
    let source = proposed(
        analyzer,
        &table,
        &columns,
        source,
        insert.on.as_ref(),
        &tracked,
    )?;
    let (columns, source) = if before {
        triggers::insert_source(analyzer, &table, &columns, &source)
    } else {
        (columns, source)
    };
    let (conflict, updated) = match &insert.on {
        None => (String::new(), Vec::new()),
        Some(OnInsert::OnConflict(conflict)) => {
            on_conflict(analyzer, &table, existing, &tracked, conflict)?
        }
        Some(_) => return Err(SqlError::unsupported("ON DUPLICATE KEY UPDATE")),
    };
    analyzer.reads_of_target(&table, &tracked);
    let mut commands = vec![(Privilege::Insert, true)];
    if tracked.any() {
        commands.push((Privilege::Select, false));
    }
    checks.extend(analyzer.row_check(&table, true, &commands)?);
    let updates = updates(insert);
    if updates {
        checks.extend(analyzer.row_check(&table, false, &update::checked(tracked.any()))?);
    }
    let storage = table.storage_name();
    let target = if columns.is_empty() {
        format!("INSERT INTO {storage} AS {id} DEFAULT VALUES")
    } else {
        format!(
            "INSERT INTO {storage} AS {id} ({}) {source}",
            columns.join(",")
        )
    };
    Ok(PlanKind::Write(Write {
        verb: WriteVerb::Insert,
        sql: format!("{target}{conflict}{returning_sql}"),
        returning,
        table: table.collection(),
        touches_foreign_keys: analyzer.runs_programs || analyzer.catalog.needs_savepoint(&table),
        sequences: analyzer.sequences.iter().copied().collect(),
        upserts: !updated.is_empty(),
        once: updates && !is_one_row(insert) && changes_alone(analyzer, &table),
        updated,
        instead: false,
        before: Vec::new(),
        checks,
        viewer: None,
    }))
}

/// Whether it has ON CONFLICT DO UPDATE.
fn updates(insert: &Insert) -> bool {
    matches!(
        &insert.on,
        Some(OnInsert::OnConflict(OnConflict {
            action: OnConflictAction::DoUpdate(_),
            ..
        }))
    )
}

fn is_one_row(insert: &Insert) -> bool {
    match insert.source.as_deref().map(|query| &*query.body) {
        None => true,
        Some(SetExpr::Values(values)) => values.rows.len() == 1,
        Some(_) => false,
    }
}

/// Whether nothing but the statement itself changes rows of its table while it runs.
fn changes_alone(analyzer: &Analyzer<'_>, table: &Table) -> bool {
    let is_own_parent = |key: &crate::catalog::ForeignKey| key.parent == table.id;
    analyzer.catalog.triggers_of(table.id).next().is_none()
        && !table.foreign_keys.iter().any(is_own_parent)
}

fn given_columns(
    analyzer: &Analyzer<'_>,
    table: &Table,
    insert: &Insert,
) -> Result<Vec<usize>, SqlError> {
    if insert.columns.is_empty() {
        return Ok(table.visible_columns().map(|(place, _)| place).collect());
    }
    let mut given = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let ident = super::column_ident(analyzer, table, name)?;
        let place = target_column(analyzer, table, ident)?;
        if given.contains(&place) {
            let error = SqlError::new(
                ErrorCode::DuplicateColumn,
                format!("column \"{}\" specified more than once", names::fold(ident)),
            );
            return Err(analyzer.at(error, ident.span.start));
        }
        given.push(place);
    }
    Ok(given)
}

/// What an INSERT brings: which columns it names, and where the rest comes from.
struct Rows<'t> {
    table: &'t Arc<Table>,
    /// Places of the columns that values are given for, in their order.
    given: Vec<usize>,
    /// Whether the statement listed them.
    explicit: bool,
}

impl Rows<'_> {
    /// `INSERT … DEFAULT VALUES`.
    fn defaults(&self, analyzer: &mut Analyzer<'_>) -> Result<(Vec<String>, String), SqlError> {
        analyzer.writes(self.table, Privilege::Insert, &[]);
        let mut columns = Vec::new();
        let mut values = Vec::new();
        for (_, column) in self
            .table
            .visible_columns()
            .filter(|(_, column)| column.generated.is_none())
        {
            columns.push(quoted(column));
            values.push(default_text(analyzer, self.table, column)?);
        }
        Ok((columns, format!("VALUES ({})", values.join(","))))
    }

    fn source(
        &self,
        analyzer: &mut Analyzer<'_>,
        query: &Query,
    ) -> Result<(Vec<String>, String), SqlError> {
        let is_plain = query.with.is_none()
            && query.order_by.is_none()
            && query.limit_clause.is_none()
            && query.fetch.is_none();
        match &*query.body {
            SetExpr::Values(values) if is_plain => self.values(analyzer, values),
            _ => self.query(analyzer, query),
        }
    }

    /// The columns that the rows are of this width give, of those listed.
    fn columns_for(&self, width: usize) -> Result<&[usize], SqlError> {
        if width > self.given.len() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "INSERT has more expressions than target columns",
            ));
        }
        if width < self.given.len() && self.explicit {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "INSERT has more target columns than expressions",
            ));
        }
        Ok(&self.given[..width])
    }

    /// Columns that get their default in every row.
    fn omitted(&self, catalog: &Catalog, given: &[usize]) -> Vec<&Column> {
        self.table
            .visible_columns()
            .filter(|(place, column)| {
                // A column without a default is NULL anyway, but a rowid key must not be numbered.
                let needs = catalog.default_of(column).is_some() || column.sequence.is_some();
                let is_key = self.table.key_is_rowid() && self.table.key.first() == Some(place);
                !given.contains(place) && column.generated.is_none() && (needs || is_key)
            })
            .map(|(_, column)| column)
            .collect()
    }

    fn values(
        &self,
        analyzer: &mut Analyzer<'_>,
        values: &Values,
    ) -> Result<(Vec<String>, String), SqlError> {
        let width = values.rows.first().map_or(0, |row| row.content.len());
        let given = self.columns_for(width)?;
        analyzer.writes(self.table, Privilege::Insert, given);
        let columns: Vec<&Column> = given
            .iter()
            .map(|&place| &self.table.columns[place])
            .collect();
        let omitted = self.omitted(analyzer.catalog, given);
        let mut defaults = Vec::with_capacity(omitted.len());
        for column in &omitted {
            defaults.push(default_text(analyzer, self.table, column)?);
        }
        let mut rows = Vec::with_capacity(values.rows.len());
        let closed = Scope {
            aggregates_refused: Some("VALUES"),
            windows_refused: Some("VALUES"),
            ..Scope::default()
        };
        analyzer.in_scope(closed, |analyzer| {
            for row in &values.rows {
                if row.content.len() != width {
                    return Err(SqlError::new(
                        ErrorCode::SyntaxError,
                        "VALUES lists must all be the same length",
                    ));
                }
                let mut texts = Vec::with_capacity(width + defaults.len());
                for (value, column) in row.content.iter().zip(&columns) {
                    if let Some(text) = self.value(analyzer, column, value)? {
                        texts.push(text);
                    }
                }
                texts.extend(defaults.iter().cloned());
                rows.push(format!("({})", texts.join(",")));
            }
            Ok(())
        })?;
        let names = columns
            .iter()
            .filter(|column| column.generated.is_none())
            .chain(&omitted)
            .map(|c| quoted(c))
            .collect();
        Ok((names, format!("VALUES {}", rows.join(","))))
    }

    /// One value of a row; `None` for a generated column's DEFAULT.
    fn value(
        &self,
        analyzer: &mut Analyzer<'_>,
        column: &Column,
        value: &Expr,
    ) -> Result<Option<String>, SqlError> {
        if is_default(value) {
            if column.generated.is_some() {
                return Ok(None);
            }
            return default_text(analyzer, self.table, column).map(Some);
        }
        if analyzer.marks.overriding == Some(Overriding::User) && column.sequence.is_some() {
            return default_text(analyzer, self.table, column).map(Some);
        }
        let overriding = analyzer.marks.overriding == Some(Overriding::System);
        check_assignable(column, overriding, "insert")?;
        let value = analyzer.expression(value)?;
        stored(analyzer, self.table, column, &value).map(Some)
    }

    fn query(
        &self,
        analyzer: &mut Analyzer<'_>,
        query: &Query,
    ) -> Result<(Vec<String>, String), SqlError> {
        let mut analyzed = analyzer.query(query)?;
        let width = analyzed.names.len();
        let given = self.columns_for(width)?;
        analyzer.writes(self.table, Privilege::Insert, given);
        let columns: Vec<&Column> = given
            .iter()
            .map(|&place| &self.table.columns[place])
            .collect();
        if analyzer.marks.overriding == Some(Overriding::User) {
            return Err(SqlError::unsupported("OVERRIDING USER VALUE with a query"));
        }
        for column in &columns {
            check_assignable(
                column,
                analyzer.marks.overriding == Some(Overriding::System),
                "insert",
            )?;
        }
        // Constants still open take the columns' types; the rest is converted outside, row by row.
        let types: Vec<_> = analyzed.types();
        let targets: Vec<_> = types
            .iter()
            .zip(&columns)
            .map(|(ty, column)| {
                if *ty == crate::types::PgType::Unknown {
                    column.pg_type.clone()
                } else {
                    ty.clone()
                }
            })
            .collect();
        analyzed.convert(analyzer, &targets, CastContext::Assignment)?;
        let id = analyzer.fresh('r');
        let inner = analyzed.columns(&id);
        let mut values = Vec::with_capacity(width);
        for (source, column) in inner.iter().zip(&columns) {
            let value = Typed {
                node: Node::Sql(source.sql.clone()),
                ..source.typed()
            };
            let text = analyzer.assign(&value, column, &self.table.name.name)?;
            values.push(guarded(analyzer, self.table, column, &value, text));
        }
        let omitted = self.omitted(analyzer.catalog, given);
        for column in &omitted {
            values.push(default_text(analyzer, self.table, column)?);
        }
        let mut sql = analyzed.into_sql(analyzer)?;
        if omitted.iter().any(|column| column.sequence.is_some())
            && query.order_by.is_some()
            && query.limit_clause.is_none()
        {
            // Numbers are taken in the query's order: an OFFSET keeps SQLite from merging it.
            sql.push_str(" LIMIT -1 OFFSET 0");
        }
        let names = columns.iter().chain(&omitted).map(|c| quoted(c)).collect();
        // Without the WHERE, SQLite reads ON CONFLICT as a join's ON.
        Ok((
            names,
            format!("SELECT {} FROM ({sql}) AS {id} WHERE 1", values.join(",")),
        ))
    }
}

pub(super) fn quoted(column: &Column) -> String {
    format!("\"{}\"", column.storage_name())
}

/// The rows that an INSERT brings, checked before they meet what is there: whoever may not write a
/// row does not learn what it conflicts with.
fn proposed(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    columns: &[String],
    source: String,
    on: Option<&OnInsert>,
    tracked: &Tracked,
) -> Result<String, SqlError> {
    if let Some(OnInsert::OnConflict(OnConflict {
        conflict_target, ..
    })) = on
    {
        for place in arbiter_columns(analyzer, table, conflict_target.as_ref())? {
            tracked.mark(table.columns[place].id);
        }
    }
    if columns.is_empty() {
        return Ok(source);
    }
    let (rows, whole) = (analyzer.fresh('v'), analyzer.fresh('v'));
    let Some(check) = analyzer.proposal_check(table, &whole, tracked.any())? else {
        return Ok(source);
    };
    let mut all = columns.to_vec();
    for column in table.columns.iter().filter(|column| !column.hidden) {
        let name = quoted(column);
        if column.generated.is_some() && check.contains(&format!("{whole}.{name}")) {
            if on.is_none() {
                // Checked once the row is there.
                return Ok(source);
            }
            return Err(SqlError::unsupported(format_args!(
                "ON CONFLICT with a policy on the generated column \"{}\"",
                column.name
            )));
        }
        if !columns.contains(&name) {
            all.push(format!("NULL AS {name}"));
        }
    }
    let columns = columns.join(",");
    Ok(format!(
        "WITH {rows}({columns}) AS ({source}),{whole} AS (SELECT {} FROM {rows}) \
         SELECT {columns} FROM {whole} WHERE {check}",
        all.join(",")
    ))
}

fn refuse_foreign_clauses(insert: &Insert) -> Result<(), SqlError> {
    let foreign = insert.or.is_some()
        || insert.ignore
        || insert.overwrite
        || !insert.assignments.is_empty()
        || insert.partitioned.is_some()
        || !insert.after_columns.is_empty()
        || insert.replace_into
        || insert.priority.is_some()
        || insert.insert_alias.is_some()
        || insert.settings.is_some()
        || insert.format_clause.is_some()
        || insert.output.is_some()
        || insert.multi_table_insert_type.is_some();
    if foreign {
        Err(SqlError::unsupported("a clause of this INSERT"))
    } else {
        Ok(())
    }
}
