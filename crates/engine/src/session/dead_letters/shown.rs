//! Dead letters as they are shown: what the session may see of them, as JSON.

use springhead_proto::sync::{Push, body};
use springhead_proto::{Lsn, SqlError, ValueRef};
use springhead_sql::types::output_json;

use super::super::{Outcome, ParamValue, Session};
use crate::dead_letters::task::unknown;

/// Which dead letters are wanted.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    pub collection: Option<String>,
    pub resolved: Option<bool>,
    pub limit: u64,
    /// Those with higher numbers.
    pub after: Option<i64>,
}

/// Some of them, by number.
#[derive(Debug)]
pub struct DeadLetterPage {
    /// Each as a JSON object.
    pub entries: Vec<String>,
    /// The last one's number, if there are more.
    pub next: Option<i64>,
    pub lsn: Lsn,
}

/// What an entry is shown as: the table's columns, and the violation's display text.
const SHOWN: &str = "SELECT id, tenant_id, session_id, username, collection, document_id, \
     mutation_id, peer_id, delta, violation_type, attempts -> 0 ->> 'outcome' AS violation, \
     compensation, created_at, device_metadata, retry_count, resolved, resolved_by, resolved_at, \
     base_lsn, schema_version, policy_or_constraint, attempts, expires_at \
     FROM springhead.dead_letters";
/// A page ends with the entry that reaches this.
const PAGE_BYTES: usize = 8 << 20;

impl Session {
    /// Those that the session may see, by number.
    ///
    /// # Errors
    /// 42501, or what SQL says.
    pub async fn dead_letters(
        &mut self,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterPage, SqlError> {
        let mut conditions: Vec<String> = Vec::new();
        let mut params = Vec::new();
        let after = filter.after.map(|after| after.to_string());
        if let Some(collection) = &filter.collection {
            params.push(ParamValue::Text(collection));
            conditions.push(format!("collection = ${}", params.len()));
        }
        if let Some(resolved) = filter.resolved {
            let not = if resolved { "" } else { "NOT " };
            conditions.push(format!("{not}resolved"));
        }
        if let Some(after) = &after {
            params.push(ParamValue::Text(after));
            conditions.push(format!("id > ${}", params.len()));
        }
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        let sql = format!("{SHOWN}{condition} ORDER BY id LIMIT {}", filter.limit + 1);
        let statement = self.prepare(&sql, &[])?;
        let outcome = self.execute(&statement, &params).await?;
        page(outcome, filter.limit)
    }

    /// One that the session may see, as a JSON object.
    ///
    /// # Errors
    /// SH006 if there is none, or it is not for the session to see.
    pub async fn dead_letter(&mut self, id: i64) -> Result<(String, Lsn), SqlError> {
        let number = id.to_string();
        let statement = self.prepare(&format!("{SHOWN} WHERE id = $1"), &[])?;
        let outcome = self
            .execute(&statement, &[ParamValue::Text(&number)])
            .await?;
        let mut page = page(outcome, 1)?;
        page.entries
            .pop()
            .map(|entry| (entry, page.lsn))
            .ok_or_else(|| unknown(id))
    }
}

/// At most `limit` of the rows as JSON objects; one more says that there are more.
fn page(outcome: Outcome, limit: u64) -> Result<DeadLetterPage, SqlError> {
    let mut page = DeadLetterPage {
        entries: Vec::new(),
        next: None,
        lsn: outcome.lsn,
    };
    let (mut last, mut bytes) = (None, 0);
    let mut rows = outcome.rows.unwrap_or_default();
    while let Some(chunk) = rows.next_chunk()? {
        for row in chunk.rows() {
            if page.entries.len() as u64 >= limit || bytes >= PAGE_BYTES {
                page.next = last;
                return Ok(page);
            }
            let mut object = vec![b'{'];
            for (column, value) in outcome.columns.iter().zip(row.values()) {
                let name = serde_json::Value::from(column.name.as_str());
                object.extend_from_slice(name.to_string().as_bytes());
                object.push(b':');
                output_json(&column.pg_type, value, &mut object);
                object.push(b',');
                if let (ValueRef::Blob(delta), "delta") = (value, column.name.as_str()) {
                    let operations = operations_of(delta);
                    object.extend_from_slice(format!("\"operations\":{operations},").as_bytes());
                }
            }
            object.pop();
            object.push(b'}');
            bytes += object.len();
            page.entries
                .push(String::from_utf8(object).expect("JSON is UTF-8"));
            last = match row.get(0) {
                Some(ValueRef::Integer(id)) => Some(id),
                _ => None,
            };
        }
    }
    Ok(page)
}

/// What a mutation does, for people and for editing; null for a delta that is none.
fn operations_of(delta: &[u8]) -> serde_json::Value {
    body::from_bytes::<Push>(delta)
        .ok()
        .and_then(|push| serde_json::to_value(&push.mutations.first()?.operations).ok())
        .unwrap_or(serde_json::Value::Null)
}
