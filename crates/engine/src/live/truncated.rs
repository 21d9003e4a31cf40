//! What a TRUNCATE takes from filters of one table, which keep nothing: each row that was there just
//! before is one that went.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, ErrorCode, Row, SqlError, Value};

use springhead_sql::live::LiveClass;

use super::commit::{Image, RowChange, TableChange};
use super::core::{Core, Told};
use super::delta::Identity;
use super::outbox::LiveEnd;
use super::shadow::too_large;
use crate::readers::Snapshot;

impl Core {
    /// Goes through all rows of `before`, the state of the commit before. Without one, or with more to
    /// tell than can be kept, the filters begin anew.
    pub(super) fn rows_of_truncated(
        &mut self,
        collection: CollectionId,
        change: &TableChange<'_>,
        before: Option<&Snapshot>,
        told: &mut Told,
    ) {
        let gone_through = match before {
            Some(before) => self.rows_before(collection, change, before, told),
            None => Err(SqlError::new(ErrorCode::Internal, "no state of before")),
        };
        if let Err(error) = gone_through {
            tracing::debug!(%error, collection = collection.0, "filters of a truncated table begin anew");
            for id in self.end_truncated(collection) {
                told.entries.remove(&id);
            }
        }
    }

    fn rows_before(
        &mut self,
        collection: CollectionId,
        change: &TableChange<'_>,
        before: &Snapshot,
        told: &mut Told,
    ) -> Result<(), SqlError> {
        let session = (self.instances.values())
            .find(|instance| instance.query.plan().table == Some(collection))
            .map(|instance| Arc::clone(&instance.query.asked.session));
        let (Some(table), Some(session)) = (&change.truncated_as, session) else {
            return Err(SqlError::new(ErrorCode::Internal, "its form is not known"));
        };
        // Rows that came after it, by their keys: of one that was there before it is a change.
        let mut come: FxHashMap<Identity, &RowChange<'_>> = (change.rows.iter())
            .filter(|row| row.after.is_some())
            .map(|row| (key(&row.key), row))
            .collect();
        let names: Vec<String> = (table.columns.iter())
            .map(|column| format!("\"{}\"", column.storage_name()))
            .collect();
        let sql = format!("SELECT {} FROM {}", names.join(","), table.storage_name());
        let mut rows = before.query(&sql, &[], &session, &Arc::default())?;
        while let Some(chunk) = rows.next_chunk()? {
            let gone: Vec<RowChange<'_>> = (chunk.rows())
                .map(|row| {
                    let image = Image {
                        row,
                        table: Arc::clone(table),
                    };
                    let values = image.key();
                    RowChange {
                        after: come.remove(&key(&values)).and_then(|row| row.after.clone()),
                        before: Some(image),
                        key: values,
                    }
                })
                .collect();
            self.found_rows(&gone, told);
            if told.bytes() > self.limits.result_bytes {
                return Err(too_large(self.limits.result_bytes));
            }
        }
        let come: Vec<RowChange<'_>> = (come.into_values())
            .map(|row| RowChange {
                key: row.key.clone(),
                before: None,
                after: row.after.clone(),
            })
            .collect();
        self.found_rows(&come, told);
        Ok(())
    }

    /// Ends the filters of a table; which they were.
    fn end_truncated(&mut self, collection: CollectionId) -> Vec<u64> {
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                let plan = instance.query.plan();
                plan.class == LiveClass::Rows && plan.reads.contains(&collection)
            })
            .map(|(id, _)| *id)
            .collect();
        let end = LiveEnd::MustRefetch {
            message: "the table has been truncated".to_owned(),
        };
        for id in &ids {
            self.end(*id, &end);
        }
        ids
    }
}

fn key(values: &[Value]) -> Identity {
    Row::from_values(values.iter().map(Value::as_ref)).bytes()[..].into()
}
