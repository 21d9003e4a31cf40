//! Consumer groups: named cursors, kept as rows of `springhead.consumers`, that hold back retention
//! up to a limit of their own. At least once: what was read and not committed comes again.

use std::sync::Arc;

use springhead_log::{Log, Pin};
use springhead_proto::{
    CollectionId, Cursor, ErrorCode, Lsn, RowRef, SqlError, TenantId, ValueRef,
};
use springhead_sql::types::{PgType, output_text};

use super::plan::FeedPlan;
use super::readers::ReaderSeat;
use super::sight::Reader;
use super::start::{self, LogView, Start, parse_cursor};
use super::{Cdc, CdcError, find_collection};
use crate::{Outcome, ParamValue, Session, Tenant};

/// A consumer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    pub name: String,
    /// The collection it reads; `None` for whichever its readers name.
    pub collection: Option<String>,
    /// Everything up to it has been dealt with.
    pub cursor: Cursor,
    /// How much log it holds back, at most; 0 for none.
    pub pin_bytes: u64,
    /// Retention has passed it: it can only be deleted.
    pub expired: bool,
    /// UTC, as PostgreSQL prints it.
    pub created_at: String,
    pub updated_at: String,
    /// The role that made it, which alone may use it; `None` for superusers' use.
    pub owner: Option<String>,
    /// The number of its collection, which a new name leaves as it is.
    table: Option<CollectionId>,
}

/// A consumer to be made.
#[derive(Debug, Clone, Default)]
pub struct NewConsumer {
    pub name: String,
    pub collection: Option<String>,
    /// `None` for now.
    pub start: Option<Start>,
    /// `None` for as much as the configuration allows, which is also the most.
    pub pin_bytes: Option<u64>,
    /// The role that it belongs to.
    pub owner: Option<String>,
}

/// Longest name of a consumer.
const MAX_NAME_BYTES: usize = 200;

const COLUMNS: &str = "name, collection, cursor, pin_bytes, state, created_at, updated_at, options";

/// The name of a consumer's hold on retention.
#[must_use]
pub fn pin_name(tenant: TenantId, consumer: &str) -> String {
    format!("consumer {tenant}/{consumer}")
}

/// The consumer that a pin's name stands for.
fn parse_pin_name(name: &str) -> Option<(TenantId, &str)> {
    let (tenant, consumer) = name.strip_prefix("consumer ")?.split_once('/')?;
    Some((TenantId(tenant.parse().ok()?), consumer))
}

impl Cdc {
    /// Makes a consumer; its first commit is where it starts. The LSN of the commit that made it.
    ///
    /// # Errors
    /// 42710 if there is one of that name, 22023 for a bad name, 42P01 for an unknown collection,
    /// 53400 when there are as many as the configuration allows.
    pub async fn create_consumer(
        &self,
        tenant: &Arc<Tenant>,
        new: NewConsumer,
    ) -> Result<(Consumer, Lsn), CdcError> {
        if new.name.is_empty()
            || new.name.len() > MAX_NAME_BYTES
            || new.name.chars().any(char::is_control)
        {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!(
                    "a consumer's name has 1 to {MAX_NAME_BYTES} bytes and no control characters"
                ),
            )
            .into());
        }
        let table = match &new.collection {
            Some(name) => Some(find_collection(&tenant.catalog(), name)?.collection()),
            None => None,
        };
        let most = self.engine.config().max_consumers;
        if self.consumers(tenant).await?.0.len() >= most {
            return Err(SqlError::new(
                ErrorCode::TooManyRequests,
                format!("there are {most} consumers already"),
            )
            .with_hint("delete one, or raise max_consumers")
            .into());
        }
        let log = self.engine.log();
        let position = start::resolve(tenant, &**log, new.start.unwrap_or(Start::Now)).await?;
        let cursor = Cursor::new(position, log.tail().epoch);
        let cap = self.engine.config().consumer_pin_cap_bytes;
        let pin_bytes = new.pin_bytes.unwrap_or(cap).min(cap);
        let (cursor_text, lsn_text, epoch_text) = texts(cursor);
        let pin_text = pin_bytes.to_string();
        let options_text =
            serde_json::json!({ "owner": new.owner, "table": table.map(|table| table.0) })
                .to_string();
        let params = [
            ParamValue::Text(&new.name),
            new.collection
                .as_deref()
                .map_or(ParamValue::Null, ParamValue::Text),
            ParamValue::Text(&cursor_text),
            ParamValue::Text(&lsn_text),
            ParamValue::Text(&epoch_text),
            ParamValue::Text(&pin_text),
            ParamValue::Text(&options_text),
        ];
        // Held before it is promised.
        pin(&**log, tenant.id(), &new.name, position, pin_bytes);
        let insert = format!(
            "INSERT INTO springhead.consumers \
             (name, collection, cursor, committed_lsn, epoch, pin_bytes, state, created_at, updated_at, options) \
             VALUES ($1, $2, $3, $4, $5, $6, 'active', now(), now(), $7) \
             ON CONFLICT (name) DO NOTHING RETURNING {COLUMNS}"
        );
        let outcome = run(&mut tenant.system_session(), &insert, &params).await?;
        let lsn = outcome.lsn;
        match read(tenant, outcome)?.pop() {
            Some(consumer) => Ok((consumer, lsn)),
            None => {
                self.pin_again(tenant, &new.name).await?;
                Err(SqlError::new(
                    ErrorCode::DuplicateObject,
                    format!("consumer \"{}\" already exists", new.name),
                )
                .into())
            }
        }
    }

    /// All consumers of a tenant by name, and the LSN at which they were so.
    ///
    /// # Errors
    /// What reading them says.
    pub async fn consumers(&self, tenant: &Arc<Tenant>) -> Result<(Vec<Consumer>, Lsn), SqlError> {
        let select = format!("SELECT {COLUMNS} FROM springhead.consumers ORDER BY name");
        let outcome = run(&mut tenant.system_session(), &select, &[]).await?;
        let lsn = outcome.lsn;
        Ok((read(tenant, outcome)?, lsn))
    }

    /// One consumer, and the LSN at which it was so.
    ///
    /// # Errors
    /// SH003 if there is none.
    pub async fn consumer(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
    ) -> Result<(Consumer, Lsn), SqlError> {
        let select = format!("SELECT {COLUMNS} FROM springhead.consumers WHERE name = $1");
        let outcome = run(
            &mut tenant.system_session(),
            &select,
            &[ParamValue::Text(name)],
        )
        .await?;
        let lsn = outcome.lsn;
        match read(tenant, outcome)?.pop() {
            Some(consumer) => Ok((consumer, lsn)),
            None => Err(unknown(name)),
        }
    }

    /// As [`Cdc::consumer`], for whoever may use it: the role that made it, and superusers. To others
    /// it is not there.
    ///
    /// # Errors
    /// SH003 if there is none.
    pub async fn consumer_of(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
        reader: &Reader,
    ) -> Result<(Consumer, Lsn), SqlError> {
        let (consumer, lsn) = self.consumer(tenant, name).await?;
        if self.may_use(&consumer, reader)? {
            Ok((consumer, lsn))
        } else {
            Err(unknown(name))
        }
    }

    /// Whether a reader may use a consumer.
    ///
    /// # Errors
    /// 28000 for a reader that may do nothing any more.
    pub fn may_use(&self, consumer: &Consumer, reader: &Reader) -> Result<bool, SqlError> {
        let identity = reader.identify(&self.engine)?;
        let owns = |owner: &String| identity.is_member_of(owner);
        Ok(identity.superuser || consumer.owner.as_ref().is_some_and(owns))
    }

    /// Deletes a consumer and its hold on retention; its reader is ended. The LSN of the commit.
    ///
    /// # Errors
    /// SH003 if there is none.
    pub async fn delete_consumer(&self, tenant: &Arc<Tenant>, name: &str) -> Result<Lsn, SqlError> {
        let delete =
            format!("DELETE FROM springhead.consumers WHERE name = $1 RETURNING {COLUMNS}");
        let outcome = run(
            &mut tenant.system_session(),
            &delete,
            &[ParamValue::Text(name)],
        )
        .await?;
        let lsn = outcome.lsn;
        if read(tenant, outcome)?.is_empty() {
            return Err(unknown(name));
        }
        self.engine
            .log()
            .set_pin(&pin_name(tenant.id(), name), None);
        self.readers.end(tenant.id(), name);
        Ok(lsn)
    }

    /// Moves a consumer's cursor: forward, or with `rewind` to anywhere inside retention. The
    /// consumer as it is now, and the LSN of the commit.
    ///
    /// # Errors
    /// SH003 if there is none, SH004 if it has expired, 55000 for a step back without `rewind`,
    /// [`CdcError::Refused`] for a cursor that cannot be resumed from.
    pub async fn commit_consumer(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
        cursor: Cursor,
        rewind: bool,
    ) -> Result<(Consumer, Lsn), CdcError> {
        let log = self.engine.log();
        let (before, read_lsn) = self.consumer(tenant, name).await?;
        if before.expired {
            return Err(expired(&**log, &before));
        }
        let position = start::resolve(tenant, &**log, Start::After(cursor)).await?;
        let cursor = Cursor::new(position, log.tail().epoch);
        if cursor == before.cursor {
            return Ok((before, read_lsn));
        }
        let (cursor_text, lsn_text, epoch_text) = texts(cursor);
        let params = [
            ParamValue::Text(name),
            ParamValue::Text(&cursor_text),
            ParamValue::Text(&lsn_text),
            ParamValue::Text(&epoch_text),
        ];
        let forward = if rewind {
            ""
        } else {
            " AND committed_lsn <= $3"
        };
        let update = format!(
            "UPDATE springhead.consumers SET cursor = $2, committed_lsn = $3, epoch = $4, updated_at = now() \
             WHERE name = $1 AND state = 'active'{forward} RETURNING {COLUMNS}"
        );
        if position < before.cursor.lsn {
            // Held before it is promised; forward, let go after it is durable.
            pin(&**log, tenant.id(), name, position, before.pin_bytes);
        }
        let outcome = run(&mut tenant.system_session(), &update, &params).await?;
        let lsn = outcome.lsn;
        if let Some(consumer) = read(tenant, outcome)?.pop() {
            pin(
                &**log,
                tenant.id(),
                name,
                consumer.cursor.lsn,
                consumer.pin_bytes,
            );
            return Ok((consumer, lsn));
        }
        let (now, _) = self.consumer(tenant, name).await?;
        pin(&**log, tenant.id(), name, now.cursor.lsn, now.pin_bytes);
        if now.expired {
            return Err(expired(&**log, &now));
        }
        Err(SqlError::new(
            ErrorCode::ObjectNotInState,
            format!(
                "consumer \"{name}\" has committed {}, which is past {cursor}",
                now.cursor
            ),
        )
        .with_hint("add \"rewind\": true to go back on purpose")
        .into())
    }

    /// Marks the consumers expired whose hold on retention was dropped for passing its limit.
    /// `pins` are the names that [`Log::take_expired_pins`] gave. Those that are no consumer's are
    /// given back.
    ///
    /// # Errors
    /// What writing says; the consumers not yet marked are found out when they next read.
    pub async fn expire_consumers(&self, pins: Vec<String>) -> Result<Vec<String>, SqlError> {
        let mut others = Vec::new();
        for name in pins {
            let Some((tenant, consumer)) = parse_pin_name(&name) else {
                others.push(name);
                continue;
            };
            tracing::warn!(
                tenant = tenant.0,
                consumer,
                "a consumer is expired: it held back more log than it may"
            );
            let tenant = self.engine.tenant(tenant).await?;
            mark_expired(&tenant, consumer).await?;
        }
        Ok(others)
    }

    /// Sets the holds of a tenant's consumers again, after a start.
    ///
    /// # Errors
    /// What reading them says.
    pub async fn restore_pins(&self, tenant: &Arc<Tenant>) -> Result<(), SqlError> {
        for consumer in self.consumers(tenant).await?.0 {
            if !consumer.expired {
                pin(
                    &**self.engine.log(),
                    tenant.id(),
                    &consumer.name,
                    consumer.cursor.lsn,
                    consumer.pin_bytes,
                );
            }
        }
        Ok(())
    }

    /// Takes the place of a consumer's reader; where it starts, if it has not said so itself.
    pub(crate) async fn take_seat(
        &self,
        tenant: &Arc<Tenant>,
        consumer: Option<&str>,
        plan: &FeedPlan,
        reader: &Reader,
    ) -> Result<(Option<Start>, Option<ReaderSeat>), CdcError> {
        let Some(name) = consumer else {
            return Ok((None, None));
        };
        let (consumer, _) = self.consumer_of(tenant, name, reader).await?;
        if consumer.expired {
            return Err(expired(&**self.engine.log(), &consumer));
        }
        if let Some(wanted) = &consumer.collection {
            let catalog = tenant.catalog();
            let known = consumer.table.and_then(|table| catalog.table(table));
            let wanted = match known {
                Some(table) => table,
                None => find_collection(&catalog, wanted)?,
            };
            if plan.table().is_none_or(|table| table.id != wanted.id) {
                return Err(SqlError::new(
                    ErrorCode::InvalidParameterValue,
                    format!(
                        "consumer \"{name}\" reads collection \"{}\"",
                        super::collection_name(&wanted.name)
                    ),
                )
                .with_hint("name that collection in the path")
                .into());
            }
        }
        let seat = self.readers.take(tenant.id(), name);
        Ok((Some(Start::After(consumer.cursor)), Some(seat)))
    }

    /// As [`start::resolve`]; a consumer's own cursor that retention has passed says that the
    /// consumer is expired.
    pub(crate) async fn resolve(
        &self,
        tenant: &Tenant,
        start: Start,
        by_consumer: bool,
    ) -> Result<Lsn, CdcError> {
        let resolved = start::resolve(tenant, &**self.engine.log(), start)
            .await
            .map_err(CdcError::from);
        match resolved {
            Err(CdcError::Refused { refused, .. }) if by_consumer => Err(CdcError::Refused {
                code: ErrorCode::ConsumerExpired,
                refused,
            }),
            resolved => resolved,
        }
    }

    async fn pin_again(&self, tenant: &Arc<Tenant>, name: &str) -> Result<(), SqlError> {
        let (consumer, _) = self.consumer(tenant, name).await?;
        let keep = if consumer.expired {
            0
        } else {
            consumer.pin_bytes
        };
        pin(
            &**self.engine.log(),
            tenant.id(),
            name,
            consumer.cursor.lsn,
            keep,
        );
        Ok(())
    }
}

async fn mark_expired(tenant: &Arc<Tenant>, consumer: &str) -> Result<(), SqlError> {
    let update = "UPDATE springhead.consumers SET state = 'expired', updated_at = now() WHERE name = $1 AND state = 'active'";
    run(
        &mut tenant.system_session(),
        update,
        &[ParamValue::Text(consumer)],
    )
    .await?;
    Ok(())
}

fn pin(log: &dyn Log, tenant: TenantId, consumer: &str, after: Lsn, cap_bytes: u64) {
    let name = pin_name(tenant, consumer);
    let pin = (cap_bytes > 0).then(|| Pin {
        name: name.clone(),
        after,
        cap_bytes,
    });
    log.set_pin(&name, pin);
}

async fn run(
    session: &mut Session,
    sql: &str,
    params: &[ParamValue<'_>],
) -> Result<Outcome, SqlError> {
    let statement = session.prepare(sql, &[])?;
    session.execute(&statement, params).await
}

/// Consumers by their rows, with the names that their collections have now.
fn read(tenant: &Tenant, outcome: Outcome) -> Result<Vec<Consumer>, SqlError> {
    let mut consumers = Vec::new();
    let Some(mut rows) = outcome.rows else {
        return Ok(consumers);
    };
    while let Some(chunk) = rows.next_chunk()? {
        for row in chunk.rows() {
            let mut consumer = read_one(row)?;
            let catalog = tenant.catalog();
            if let Some(table) = consumer.table.and_then(|table| catalog.table(table)) {
                consumer.collection = Some(super::collection_name(&table.name));
            }
            consumers.push(consumer);
        }
    }
    Ok(consumers)
}

fn read_one(row: RowRef<'_>) -> Result<Consumer, SqlError> {
    let values: Vec<ValueRef<'_>> = row.values().collect();
    let &[
        ValueRef::Text(name),
        collection,
        ValueRef::Text(cursor),
        pin_bytes,
        ValueRef::Text(state),
        created_at,
        updated_at,
        options,
    ] = values.as_slice()
    else {
        return Err(SqlError::new(
            ErrorCode::Corrupted,
            "a row of springhead.consumers has other types",
        ));
    };
    let options: serde_json::Value = match options {
        ValueRef::Text(options) => serde_json::from_str(options).unwrap_or_default(),
        _ => serde_json::Value::Null,
    };
    Ok(Consumer {
        name: name.to_owned(),
        collection: match collection {
            ValueRef::Text(collection) => Some(collection.to_owned()),
            _ => None,
        },
        cursor: parse_cursor(cursor)?,
        pin_bytes: match pin_bytes {
            ValueRef::Integer(bytes) => u64::try_from(bytes).unwrap_or(0),
            _ => 0,
        },
        expired: state != "active",
        created_at: time(created_at),
        updated_at: time(updated_at),
        owner: options["owner"].as_str().map(str::to_owned),
        table: (options["table"].as_u64())
            .and_then(|id| u32::try_from(id).ok())
            .map(CollectionId),
    })
}

fn time(value: ValueRef<'_>) -> String {
    let mut out = Vec::new();
    output_text(&PgType::Timestamptz, value, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn texts(cursor: Cursor) -> (String, String, String) {
    let epoch = cursor
        .epoch
        .map(|epoch| epoch.to_string())
        .unwrap_or_default();
    (cursor.to_string(), cursor.lsn.to_string(), epoch)
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UnknownConsumer,
        format!("consumer \"{name}\" does not exist"),
    )
    .with_hint("make it with POST /v1/consumers")
}

/// What an expired consumer is told.
fn expired(log: &dyn Log, consumer: &Consumer) -> CdcError {
    let refused = LogView::of(log).trimmed(consumer.cursor.lsn.next());
    CdcError::Refused {
        code: ErrorCode::ConsumerExpired,
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_named_after_its_consumer_and_leads_back_to_it() {
        for name in ["mailer", "a/b", "consumer 1/x"] {
            assert_eq!(
                parse_pin_name(&pin_name(TenantId(7), name)),
                Some((TenantId(7), name))
            );
        }
        assert_eq!(parse_pin_name("standby a"), None);
    }
}
