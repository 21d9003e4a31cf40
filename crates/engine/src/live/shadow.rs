//! A private SQLite database beside the state: it evaluates live queries.
//!
//! For a filter of one table it needs no rows: the row image is put in the table's place
//! (`WITH t5(c1, …) AS (SELECT ?, …)`; a common table expression hides a table of its name). For all
//! else it holds a copy of the tables that are read, fed by the log commit by commit, so that a
//! query is evaluated at exactly each commit's LSN, however far the state has gone on. The copy
//! lives in a temporary file behind a bounded cache.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef as SqliteRef};
use rustc_hash::FxHashMap;
use springhead_log::Clock;
use springhead_proto::{
    ChangeKind, ChangeRef, Changes, CollectionId, ErrorCode, Lsn, Row, RowRef, SqlError, Value,
};
use springhead_sql::catalog::{Column, Table};
use springhead_sql::live::LivePlan;

use super::delta::ResultSet;
use crate::apply::{RowStatements, set_foreign_keys};
use crate::functions::{self, CancelFlag, Context, SessionContext, to_sqlite};
use crate::readers::{Snapshot, translate_plain};
use crate::{Block, Entropy};

/// See the module's text.
pub(crate) struct Shadow {
    conn: Connection,
    context: Arc<Context>,
    cancel: Arc<CancelFlag>,
    tables: FxHashMap<CollectionId, ShadowTable>,
}

struct ShadowTable {
    table: Arc<Table>,
    statements: RowStatements,
    /// Commits up to it are in the copy already.
    loaded_at: Lsn,
    /// Indexes that windows are refilled by, beside those of the table.
    order_indexes: Vec<Vec<(u32, bool)>>,
}

/// Memory that the copies' cache takes, in KiB.
const CACHE_KIB: u32 = 64 << 10;

/// Indexes for windows on one copy; each costs every change of a row.
const ORDER_INDEXES: usize = 8;

/// Statements kept prepared.
const STATEMENTS: usize = 512;

impl Shadow {
    pub(crate) fn open(
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Shadow, SqlError> {
        let open = || {
            // Without a name: a temporary file that goes with the connection.
            let mut conn = Connection::open("")?;
            let context = Context::new(clock, entropy, None);
            functions::register(&mut conn, &context)?;
            conn.set_prepared_statement_cache_capacity(STATEMENTS);
            set_foreign_keys(&conn, false)?;
            conn.execute_batch(&format!(
                "PRAGMA cache_size=-{CACHE_KIB}; PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF;
                 PRAGMA ignore_check_constraints=ON; PRAGMA temp_store=MEMORY;"
            ))?;
            Ok::<_, rusqlite::Error>((conn, context))
        };
        let (conn, context) = open().map_err(|error| internal(&error))?;
        Ok(Shadow {
            conn,
            context,
            cancel: Arc::default(),
            tables: FxHashMap::default(),
        })
    }

    pub(crate) fn has(&self, collection: CollectionId) -> bool {
        self.tables.contains_key(&collection)
    }

    /// The LSN that a copy was made at.
    pub(crate) fn loaded_at(&self, collection: CollectionId) -> Option<Lsn> {
        self.tables.get(&collection).map(|held| held.loaded_at)
    }

    /// Copies a table, indexes and rowids included, so that what is not ordered by a query comes in
    /// the order that the state would give it in.
    pub(crate) fn load(&mut self, table: &Arc<Table>, from: &Snapshot) -> Result<(), SqlError> {
        let statements = RowStatements::of(table);
        let name = table.storage_name();
        self.conn
            .execute_batch("SAVEPOINT load")
            .and_then(|()| copy(&self.conn, table, &statements, from))
            .and_then(|()| self.conn.execute_batch("RELEASE load"))
            .map_err(|error| {
                // Closing the connection is what is left if even this fails.
                let _ = self.conn.execute_batch("ROLLBACK TO load; RELEASE load");
                tracing::warn!(table = name, %error, "a table could not be copied for live queries");
                internal(&error)
            })?;
        let held = ShadowTable {
            table: Arc::clone(table),
            statements,
            loaded_at: from.lsn,
            order_indexes: Vec::new(),
        };
        self.tables.insert(table.collection(), held);
        Ok(())
    }

    /// Makes the index that a window's rows are found by in their order, if it is worth one.
    pub(crate) fn want_index(&mut self, plan: &LivePlan) -> Result<(), SqlError> {
        let (Some(table), false) = (plan.table, plan.order_index.is_empty()) else {
            return Ok(());
        };
        let Some(held) = self.tables.get_mut(&table) else {
            return Ok(());
        };
        let known = &mut held.order_indexes;
        if known.contains(&plan.order_index) || known.len() >= ORDER_INDEXES {
            return Ok(());
        }
        let columns: Option<Vec<String>> = (plan.order_index.iter())
            .map(|(id, is_descending)| {
                let (_, column) = held.table.column_by_id(*id)?;
                let direction = if *is_descending { " DESC" } else { "" };
                Some(format!("\"{}\"{direction}", column.storage_name()))
            })
            .collect();
        let Some(columns) = columns else {
            return Ok(());
        };
        let name = held.table.storage_name();
        let sql = format!(
            "CREATE INDEX live_{name}_{} ON {name} ({})",
            known.len(),
            columns.join(",")
        );
        self.conn.execute_batch(&sql).map_err(|e| internal(&e))?;
        known.push(plan.order_index.clone());
        Ok(())
    }

    /// Whether rows of `table` as it is now fit the copy.
    pub(crate) fn fits(&self, table: &Table) -> bool {
        let form = |table: &Table| -> Vec<(u32, bool)> {
            (table.columns.iter())
                .map(|column| (column.id, column.generated.is_some()))
                .collect()
        };
        self.tables.get(&table.collection()).is_some_and(|held| {
            form(&held.table) == form(table)
                && held.table.key == table.key
                && held.statements == RowStatements::of(table)
                && !refuses_rows_of(&held.table, table)
        })
    }

    pub(crate) fn drop_table(&mut self, collection: CollectionId) {
        if let Some(held) = self.tables.remove(&collection) {
            let dropped = self
                .conn
                .execute_batch(&format!("DROP TABLE {}", held.table.storage_name()));
            if let Err(error) = dropped {
                tracing::warn!(%error, "a copy for live queries could not be dropped");
            }
        }
    }

    /// Brings the copies from one commit to the next, which ends at `lsn`, or leaves them as they are.
    pub(crate) fn step(&self, blocks: &[Arc<Block>], lsn: Lsn) -> Result<(), SqlError> {
        let run = |sql| self.conn.execute_batch(sql).map_err(|e| internal(&e));
        run("BEGIN")?;
        let stepped = blocks.iter().try_for_each(|block| {
            Changes::new(&block.slice.changes).try_for_each(|change| {
                let change =
                    change.map_err(|e| SqlError::new(ErrorCode::Corrupted, e.to_string()))?;
                self.apply(&change, lsn)
            })
        });
        run(if stepped.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        })?;
        stepped
    }

    /// Applies one change of the commit that ends at `lsn`, if its table is copied.
    fn apply(&self, change: &ChangeRef<'_>, lsn: Lsn) -> Result<(), SqlError> {
        let Some(held) = self.tables.get(&change.collection) else {
            return Ok(());
        };
        if lsn <= held.loaded_at {
            return Ok(());
        }
        self.put(held, change.kind, change.before, change.after)
    }

    /// Takes one change back.
    fn unapply(&self, change: &ChangeRef<'_>) -> Result<(), SqlError> {
        let Some(held) = self.tables.get(&change.collection) else {
            return Ok(());
        };
        let kind = match change.kind {
            ChangeKind::Insert => ChangeKind::Delete,
            ChangeKind::Delete => ChangeKind::Insert,
            other => other,
        };
        self.put(held, kind, change.after, change.before)
    }

    fn put(
        &self,
        held: &ShadowTable,
        kind: ChangeKind,
        before: Option<RowRef<'_>>,
        after: Option<RowRef<'_>>,
    ) -> Result<(), SqlError> {
        let statements = &held.statements;
        let image = |row: Option<RowRef<'_>>| -> Result<Vec<Value>, SqlError> {
            let values: Vec<Value> = (row.into_iter().flat_map(RowRef::values))
                .map(|v| v.to_owned())
                .collect();
            if values.len() == statements.columns {
                Ok(values)
            } else {
                Err(damaged(
                    "a row image has another number of values than its table",
                ))
            }
        };
        let (sql, values): (&str, Vec<Value>) = match kind {
            ChangeKind::Insert => {
                let after = image(after)?;
                let stored = statements.stored.iter().map(|&place| after[place].clone());
                (&statements.insert, stored.collect())
            }
            ChangeKind::Update => {
                let (before, after) = (image(before)?, image(after)?);
                let stored = statements.stored.iter().map(|&place| after[place].clone());
                let key = statements.key.iter().map(|&place| before[place].clone());
                (&statements.update, stored.chain(key).collect())
            }
            ChangeKind::Delete => {
                let before = image(before)?;
                let key = statements.key.iter().map(|&place| before[place].clone());
                (&statements.delete, key.collect())
            }
            ChangeKind::Truncate => {
                let sql = format!("DELETE FROM {}", held.table.storage_name());
                return self.conn.execute_batch(&sql).map_err(|e| internal(&e));
            }
            ChangeKind::Definition | ChangeKind::Message | ChangeKind::Sequence => return Ok(()),
        };
        let run = || {
            let mut statement = self.conn.prepare_cached(sql)?;
            crate::readers::bind(&mut statement, &values)?;
            statement.raw_execute()
        };
        match run().map_err(|error| internal(&error))? {
            1 => Ok(()),
            other => Err(damaged(&format!(
                "one change touched {other} rows of a copy"
            ))),
        }
    }

    /// Runs `look` in the state before `changes` (LSN order, all of them applied), then goes back
    /// to now.
    pub(crate) fn in_the_past<T>(
        &self,
        changes: &[ChangeRef<'_>],
        look: impl FnOnce(&Shadow) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.conn
            .execute_batch("SAVEPOINT past")
            .map_err(|e| internal(&e))?;
        let result = (changes.iter().rev())
            .try_for_each(|change| self.unapply(change))
            .and_then(|()| look(self));
        self.conn
            .execute_batch("ROLLBACK TO past; RELEASE past")
            .map_err(|e| internal(&e))?;
        result
    }

    /// Runs a query over what is copied; its rows.
    pub(crate) fn query(
        &self,
        sql: &str,
        params: &[Value],
        more: &[Value],
        session: &Arc<SessionContext>,
        mut each: impl FnMut(Row) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        self.context.enter(session, &self.cancel);
        let result = self.run(sql, params, more, &mut each);
        self.context.leave();
        result
    }

    fn run(
        &self,
        sql: &str,
        params: &[Value],
        more: &[Value],
        each: &mut impl FnMut(Row) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        let failed = |error: rusqlite::Error| {
            self.context
                .take_error()
                .unwrap_or_else(|| translate_plain(&error))
        };
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let places = statement.parameter_count();
        for (index, value) in params.iter().chain(more).enumerate().take(places) {
            let value = ToSqlOutput::Borrowed(to_sqlite(value.as_ref()));
            statement
                .raw_bind_parameter(index + 1, value)
                .map_err(failed)?;
        }
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            let mut values = Vec::with_capacity(columns);
            for index in 0..columns {
                let value: SqliteRef<'_> = row.get_ref(index).map_err(failed)?;
                values.push(functions::from_sqlite(value)?);
            }
            each(Row::from_values(values.into_iter()))?;
        }
        Ok(())
    }

    /// The whole result of a plan over what is copied, by `sql`: the plan's own text, or that of its
    /// rows in no order.
    pub(crate) fn result(
        &self,
        plan: &LivePlan,
        sql: &str,
        params: &[Value],
        session: &Arc<SessionContext>,
        max_bytes: usize,
    ) -> Result<ResultSet, SqlError> {
        let mut result = ResultSet::default();
        let mut seen = FxHashMap::default();
        self.query(sql, params, &[], session, |row| {
            result.push(plan, row, &mut seen);
            if result.bytes > max_bytes {
                return Err(too_large(max_bytes));
            }
            Ok(())
        })?;
        Ok(result)
    }

    /// What a filter of one table makes of one row image of it: a row of the result, or nothing.
    pub(crate) fn of_image(
        &self,
        sql: &str,
        params: &[Value],
        image: RowRef<'_>,
        session: &Arc<SessionContext>,
    ) -> Result<Option<Row>, SqlError> {
        let image: Vec<Value> = image.values().map(|value| value.to_owned()).collect();
        let mut found = None;
        self.query(sql, params, &image, session, |row| {
            found = Some(row);
            Ok(())
        })?;
        Ok(found)
    }
}

/// Whether a copy with the constraints of `held` can refuse a row that `table` takes. Checks and foreign
/// keys are off in it.
fn refuses_rows_of(held: &Table, table: &Table) -> bool {
    let requires = |column: &Column| {
        let now = table.column_by_id(column.id);
        column.not_null && now.is_some_and(|(_, now)| !now.not_null)
    };
    let is_unique_here = |id| table.uniques.iter().any(|unique| unique.index_id == id);
    let is_unique_index_here =
        |id| (table.indexes.iter()).any(|index| index.id == id && index.unique);
    held.columns.iter().any(requires)
        || (held.uniques.iter()).any(|unique| !is_unique_here(unique.index_id))
        || (held.indexes.iter()).any(|index| index.unique && !is_unique_index_here(index.id))
}

/// Of a result that is over the limit.
pub(crate) fn too_large(max_bytes: usize) -> SqlError {
    let message = format!("the live query's result is over {max_bytes} bytes");
    SqlError::new(ErrorCode::StatementTooLarge, message)
        .with_hint("ask for less (LIMIT), or raise live_result_bytes")
}

/// The text of [`Shadow::of_image`] for images of `table`.
pub(crate) fn image_query(plan: &LivePlan, table: &Table) -> String {
    let names: Vec<String> = (table.columns.iter())
        .map(|column| format!("\"{}\"", column.storage_name()))
        .collect();
    let first = plan.parameters.len() + 1;
    let values: Vec<String> = (first..first + names.len())
        .map(|number| format!("?{number}"))
        .collect();
    format!(
        "WITH {}({}) AS (SELECT {}) {}",
        table.storage_name(),
        names.join(","),
        values.join(","),
        plan.sql
    )
}

fn copy(
    conn: &Connection,
    table: &Table,
    statements: &RowStatements,
    from: &Snapshot,
) -> rusqlite::Result<()> {
    let name = table.storage_name();
    let source = from.connection();
    let mut texts = source.prepare(
        "SELECT sql FROM sqlite_master
         WHERE tbl_name = ?1 AND sql IS NOT NULL AND type IN ('table', 'index')",
    )?;
    let texts: Vec<String> = texts
        .query_map([&name], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    // The table first, its indexes once its rows are there.
    let (tables, indexes): (Vec<_>, Vec<_>) =
        (texts.into_iter()).partition(|text| text.starts_with("CREATE TABLE"));
    for text in &tables {
        conn.execute_batch(text)?;
    }
    let mut names: Vec<String> = (statements.stored.iter())
        .map(|&place| table.columns[place].storage_name())
        .collect();
    if !table.key_is_rowid() {
        names.push("rowid".to_owned());
    }
    let numbers: Vec<String> = (1..=names.len())
        .map(|number| format!("?{number}"))
        .collect();
    let mut insert = conn.prepare(&format!(
        "INSERT INTO {name} ({}) VALUES ({})",
        names.join(","),
        numbers.join(",")
    ))?;
    let mut select = source.prepare(&format!("SELECT {} FROM {name}", names.join(",")))?;
    let mut rows = select.raw_query();
    while let Some(row) = rows.next()? {
        for index in 0..names.len() {
            insert.raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(row.get_ref(index)?))?;
        }
        insert.raw_execute()?;
    }
    for text in &indexes {
        conn.execute_batch(text)?;
    }
    Ok(())
}

fn internal(error: &rusqlite::Error) -> SqlError {
    SqlError::new(
        ErrorCode::Internal,
        format!("the copy of the tables that live queries read: {error}"),
    )
}

fn damaged(what: &str) -> SqlError {
    SqlError::new(ErrorCode::Internal, what)
}
