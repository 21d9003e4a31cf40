//! What of the device's own collections the application and the conversation read.

use springhead_engine::device::mutation_of;
use springhead_proto::sync::{
    CatalogHash, CatalogVersion, DeviceId, Generation, Hint, Mutation, ProducerId, Seq, Shape,
    Subscription, Violation,
};
use springhead_proto::{Cursor, SqlError, Value, ValueRef};

use crate::{Device, DeviceError};

/// A mutation that has no verdict yet, or whose effect the image does not have.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingMutation {
    /// In the order in which they were made.
    pub id: i64,
    pub mutation: Mutation,
    /// `queued`, `applied` or `included`.
    pub state: String,
    /// Why it has no effect on this device at present, if it has none.
    pub note: Option<String>,
}

/// A mutation that the server has rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedMutation {
    /// For [`Device::acknowledge`] and [`Device::apply_fix`].
    pub id: i64,
    /// What was written, with its original values.
    pub mutation: Mutation,
    pub violation: Violation,
    pub hint: Hint,
    /// In the server's `springhead.dead_letters`.
    pub dead_letter_id: u64,
    /// The dead letter that it was rejected with.
    pub chain: Option<u64>,
}

/// A shape that the application is subscribed to.
#[derive(Debug, Clone, PartialEq)]
pub struct ShapeState {
    pub shape: Shape,
    /// All of its rows are here.
    pub complete: bool,
    /// Where its snapshot goes on.
    pub resume: Option<String>,
    /// Why the server has ended it.
    pub ended: Option<String>,
}

impl Device {
    /// The shapes, in the order of their ids.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn shapes(&self) -> Result<Vec<ShapeState>, DeviceError> {
        let sql = "SELECT c2, c3, c4, c6 FROM t45 ORDER BY c1";
        let mut shapes = Vec::new();
        self.read(sql, Vec::new(), |row| {
            if let Some(shape) = text(row, 0).and_then(|text| serde_json::from_str(&text).ok()) {
                shapes.push(ShapeState {
                    shape,
                    complete: number(row, 1) == Some(1),
                    resume: text(row, 2),
                    ended: text(row, 3),
                });
            }
        })
        .await?;
        Ok(shapes)
    }

    /// Mutations that are not at their end, in the order in which they were made.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn pending(&self) -> Result<Vec<PendingMutation>, DeviceError> {
        self.pending_up_to(i64::MAX).await
    }

    pub(crate) async fn pending_up_to(
        &self,
        limit: i64,
    ) -> Result<Vec<PendingMutation>, DeviceError> {
        let sql = "SELECT c1, c7, c5, c9 FROM t41 ORDER BY c1 LIMIT ?1";
        let mut pending = Vec::new();
        self.read(sql, vec![Value::Integer(limit)], |row| {
            if let (Some(id), Some(mutation)) = (
                number(row, 0),
                text(row, 1).and_then(|body| mutation_of(&body)),
            ) {
                pending.push(PendingMutation {
                    id,
                    mutation,
                    state: text(row, 2).unwrap_or_default(),
                    note: text(row, 3),
                });
            }
        })
        .await?;
        Ok(pending)
    }

    /// Rejected mutations that the application has not acknowledged, oldest first.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn rejections(&self) -> Result<Vec<RejectedMutation>, DeviceError> {
        let sql = "SELECT c1, c8, c6, c7, c5, c10 FROM t42 ORDER BY c1";
        let mut rejections = Vec::new();
        self.read(sql, Vec::new(), |row| {
            let mutation = text(row, 1).and_then(|body| mutation_of(&body));
            let violation = text(row, 2).and_then(|text| text.parse().ok());
            if let (Some(id), Some(mutation), Some(violation)) =
                (number(row, 0), mutation, violation)
            {
                rejections.push(RejectedMutation {
                    id,
                    mutation,
                    violation,
                    hint: text(row, 3)
                        .and_then(|hint| serde_json::from_str(&hint).ok())
                        .unwrap_or_default(),
                    dead_letter_id: number(row, 4).map_or(0, i64::cast_unsigned),
                    chain: number(row, 5).map(i64::cast_unsigned),
                });
            }
        })
        .await?;
        Ok(rejections)
    }

    pub(crate) async fn refresh_status(&self) -> Result<(), SqlError> {
        let _turn = self.inner.counting.lock().await;
        let mut counts = [0_u64; 4];
        self.read(
            "SELECT (SELECT count(*) FROM t41), (SELECT count(*) FROM t42), \
             (SELECT count(*) FROM t45 WHERE c3 = 0 AND c6 IS NULL), \
             (SELECT count(*) FROM t45 WHERE c6 IS NULL)",
            Vec::new(),
            |row| {
                for (place, count) in counts.iter_mut().enumerate() {
                    *count = number(row, place).map_or(0, i64::cast_unsigned);
                }
            },
        )
        .await?;
        let cursor = self
            .fact("cursor")
            .await?
            .and_then(|text| text.parse().ok());
        self.inner.status.send_if_modified(|status| {
            let before = status.clone();
            status.pending = counts[0];
            status.rejections = counts[1];
            status.complete = counts[2] == 0;
            status.shapes = counts[3];
            status.cursor = cursor;
            *status != before
        });
        Ok(())
    }

    /// A fact of `springhead.device_state`.
    pub(crate) async fn fact(&self, name: &str) -> Result<Option<String>, SqlError> {
        let mut value = None;
        let sql = "SELECT c2 FROM t40 WHERE c1 = ?1";
        self.read(sql, vec![Value::Text(name.to_owned())], |row| {
            value = text(row, 0);
        })
        .await?;
        Ok(value)
    }

    async fn read(
        &self,
        sql: &str,
        params: Vec<Value>,
        mut each: impl FnMut(springhead_proto::RowRef<'_>),
    ) -> Result<(), SqlError> {
        let (mut rows, _) = self.inner.tenant.read_snapshot(sql, params).await?;
        while let Some(chunk) = rows.next_chunk()? {
            chunk.rows().for_each(&mut each);
        }
        Ok(())
    }

    /// Who it is and what it has, for a handshake.
    pub(crate) async fn introduction(&self) -> Result<Introduction, DeviceError> {
        let parsed = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let missing = || DeviceError::Refused("the device has no ids".to_owned());
        let (producer, device) = (
            self.fact("producer_id").await?,
            self.fact("device_id").await?,
        );
        let producer: ProducerId = producer
            .and_then(|text| text.parse().ok())
            .ok_or_else(missing)?;
        let generation = parsed(self.fact("generation").await?)
            .and_then(|generation| u32::try_from(generation).ok())
            .map_or(Generation::FIRST, Generation);
        let next_seq = Seq(parsed(self.fact("next_seq").await?).unwrap_or(1));
        let mut oldest = None;
        let sql = "SELECT min(c4) FROM t41 WHERE c2 = ?1 AND c3 = ?2";
        let of = vec![
            Value::Text(producer.to_string()),
            Value::Integer(i64::from(generation.0)),
        ];
        self.read(sql, of, |row| oldest = number(row, 0)).await?;
        let oldest = oldest.map(|seq| Seq(seq.cast_unsigned()));
        Ok(Introduction {
            device: device
                .and_then(|text| text.parse().ok())
                .ok_or_else(missing)?,
            producer,
            generation,
            next_seq,
            settled: Seq(oldest.unwrap_or(next_seq).0.saturating_sub(1)),
            cursor: self
                .fact("cursor")
                .await?
                .and_then(|text| text.parse().ok()),
            catalog_version: CatalogVersion(
                parsed(self.fact("catalog_version").await?).unwrap_or(0),
            ),
            catalog_hash: self
                .fact("catalog_hash")
                .await?
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            shapes: self
                .shapes()
                .await?
                .into_iter()
                .filter(|state| state.ended.is_none())
                .map(|state| Subscription {
                    shape: state.shape,
                    complete: state.complete,
                    resume: state.resume,
                })
                .collect(),
        })
    }
}

/// See [`Device::introduction`].
pub(crate) struct Introduction {
    pub device: DeviceId,
    pub producer: ProducerId,
    pub generation: Generation,
    pub next_seq: Seq,
    pub settled: Seq,
    pub cursor: Option<Cursor>,
    pub catalog_version: CatalogVersion,
    pub catalog_hash: CatalogHash,
    pub shapes: Vec<Subscription>,
}

fn text(row: springhead_proto::RowRef<'_>, place: usize) -> Option<String> {
    match row.get(place) {
        Some(ValueRef::Text(text)) => Some(text.to_owned()),
        _ => None,
    }
}

fn number(row: springhead_proto::RowRef<'_>, place: usize) -> Option<i64> {
    match row.get(place) {
        Some(ValueRef::Integer(number)) => Some(number),
        _ => None,
    }
}
