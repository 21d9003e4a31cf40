//! The server's definitions on a device. They keep their ids, so that a renamed column is the same
//! column; of tables, what only the server can decide is left out: foreign keys, since the other table
//! may not be here, NOT NULL, since the column may not be in the shape, and who may do what.

use rusqlite::params;
use springhead_proto::sync::{CatalogHash, Definition as Frame, DefinitionAction, ShapeId};
use springhead_proto::{CollectionId, ErrorCode, SqlError};
use springhead_sql::catalog::{Access, Definition};
use springhead_sql::ddl::adopt::{ADOPT, adopt};
use springhead_sql::plan::Ddl;

use super::rows::Fault;
use super::store::{self, fact};
use crate::readers::Failure;
use crate::writer::Writer;

impl Writer {
    /// Takes definitions, in order; those of a whole set replace what is here.
    pub(super) fn take_definitions(&mut self, frames: &[Frame]) -> Result<(), Fault> {
        let mut puts = Vec::new();
        let mut drops = Vec::new();
        let Some(last) = frames.last() else {
            return Ok(());
        };
        if last.set.is_some() {
            for (kind, name, payload) in self.held_definitions()? {
                let comes = |frame: &Frame| frame.kind == kind && frame.name == name;
                if !frames.iter().any(comes) {
                    drops.push(read(&payload)?);
                    self.forget_definition(&kind, &name)?;
                }
            }
        }
        for frame in frames {
            match frame.action {
                DefinitionAction::Put => {
                    let definition = read(&frame.payload)?;
                    // Two of one id: the later one counts.
                    puts.retain(|put: &Definition| put.id() != definition.id());
                    drops.retain(|drop: &Definition| drop.id() != definition.id());
                    puts.push(definition);
                    self.hold_definition(frame)?;
                }
                DefinitionAction::Drop => {
                    let definition = read(&frame.payload)?;
                    puts.retain(|put: &Definition| put.id() != definition.id());
                    drops.push(definition);
                    self.forget_definition(&frame.kind, &frame.name)?;
                }
            }
        }
        self.adopt_definitions(&drops, &puts)?;
        let version = frames.iter().map(|frame| frame.catalog_version.0).max();
        if let Some(version) = version {
            store::put_fact(
                &self.conn,
                fact::CATALOG_VERSION,
                Some(&version.to_string()),
            )?;
        }
        let hash = self.sum_definitions()?;
        store::put_fact(&self.conn, fact::CATALOG_HASH, Some(&hash.to_string()))?;
        Ok(())
    }

    fn adopt_definitions(
        &mut self,
        drops: &[Definition],
        puts: &[Definition],
    ) -> Result<(), Fault> {
        let Some(ddl) = adopt(&self.catalog, drops, puts)? else {
            return Ok(());
        };
        // Rows of a table that has got columns come anew: only the server knows what is in them.
        let grown: Vec<CollectionId> = puts
            .iter()
            .filter_map(|put| match put {
                Definition::Table(table) => Some(table),
                _ => None,
            })
            .filter(|table| {
                self.catalog.table(table.collection()).is_some_and(|old| {
                    table.columns.iter().any(|column| {
                        old.column_by_id(column.id)
                            .is_none_or(|(_, old)| old.pg_type != column.pg_type)
                    })
                })
            })
            .map(springhead_sql::catalog::Table::collection)
            .collect();
        for drop in drops {
            if let Definition::Table(table) = drop {
                self.conn
                    .prepare_cached("DELETE FROM t44 WHERE c1 = ?1")?
                    .execute([table.id])?;
            }
        }
        self.execute_ddl(&ddl).map_err(|failure| match failure {
            Failure::Sql(error) => Fault::Sql(error),
            Failure::Sqlite(error) => Fault::Sqlite(error),
        })?;
        let shapes: Vec<ShapeId> = super::news::shapes_of(&self.conn, &grown, &self.catalog)?;
        if shapes.is_empty() {
            return Ok(());
        }
        self.mark_incomplete(&shapes)
    }

    /// Type, name and payload of each of the server's definitions.
    fn held_definitions(&self) -> rusqlite::Result<Vec<(String, String, String)>> {
        let mut statement = self.conn.prepare_cached("SELECT c1, c2, c5 FROM t46")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    }

    fn hold_definition(&self, frame: &Frame) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO t46 VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![
                frame.kind,
                frame.name,
                frame.catalog_version.0.cast_signed(),
                frame.sql,
                frame.payload,
            ])?;
        Ok(())
    }

    fn forget_definition(&self, kind: &str, name: &str) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("DELETE FROM t46 WHERE c1 = ?1 AND c2 = ?2")?
            .execute([kind, name])?;
        Ok(())
    }

    fn sum_definitions(&self) -> rusqlite::Result<CatalogHash> {
        let held = self.held_definitions()?;
        Ok(held
            .iter()
            .fold(CatalogHash::default(), |hash, (kind, name, payload)| {
                hash.with(kind, name, payload)
            }))
    }
}

/// Local statements define what is local: the rest is the server's.
///
/// # Errors
/// 0A000 for anything else.
pub(crate) fn expect_own(ddl: &Ddl) -> Result<(), SqlError> {
    if ddl.tag == ADOPT {
        return Ok(());
    }
    let foreign = ddl.changes.iter().find(|change| {
        let id = change.definition.id();
        (CollectionId::FIRST_USER.0..crate::device::FIRST_LOCAL_ID).contains(&id)
    });
    match foreign {
        None => Ok(()),
        Some(change) => Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!(
                "\"{}\" is defined by the server, and {} on a device does not change it",
                change.definition.name().name,
                ddl.tag
            ),
        )
        .with_hint("run the statement on the server; its devices follow")),
    }
}

fn read(payload: &str) -> Result<Definition, SqlError> {
    let mut definition: Definition = serde_json::from_str(payload).map_err(|error| {
        SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("a definition of the server's cannot be read here: {error}"),
        )
        .with_hint("upgrade the device")
    })?;
    if let Some(access) = definition.access_mut() {
        *access = Access::default();
    }
    if let Definition::Table(table) = &mut definition {
        table.foreign_keys.clear();
        let key: Vec<usize> = table.key.clone();
        for (place, column) in table.columns.iter_mut().enumerate() {
            column.not_null &= key.contains(&place);
        }
    }
    Ok(definition)
}
