//! A device, as an application holds it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value as Json;
use springhead_engine::access::Principal;
use springhead_engine::device::{DeviceWork, News, mutation_of};
use springhead_engine::live::{Live, LiveLimits, Subscriber};
use springhead_engine::session::ParamValue;
use springhead_engine::sync::Author;
use springhead_engine::{Engine, Session, Tenant};
use springhead_proto::sync::{
    CatalogHash, CatalogVersion, DeviceId, Fix, Generation, Hint, Mutation, MutationId, Operation,
    ProducerId, Seq, Shape, ShapeId, Subscription, SyncValue, Verb, Violation,
};
use springhead_proto::{Cursor, SqlError, TenantId, Value, ValueRef};
use tokio::sync::watch;

use crate::link::{Link, TokenSource};
use crate::{Answer, DeviceError, Status, identity, local};

/// A handle to an open device; clones share it. It closes with the last one.
#[derive(Clone)]
pub struct Device {
    pub(crate) inner: Arc<Inner>,
    /// `None` in the connection's own task, which must not keep the device open.
    _handle: Option<Arc<Handle>>,
}

/// What applications hold: with the last of it the connection ends.
struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.link.lock().take();
    }
}

pub(crate) struct Inner {
    engine: Engine,
    pub(crate) tenant: Arc<Tenant>,
    author: Arc<Author>,
    principal: Arc<Principal>,
    live: Arc<Live>,
    pub(crate) status: watch::Sender<Status>,
    link: Mutex<Option<Link>>,
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.shutdown();
    }
}

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

/// The user of the engine in this process.
const LOCAL_USER: &str = "device";

impl Device {
    /// Opens the device in a directory, and makes it if it is not there. Works with no server.
    ///
    /// # Errors
    /// [`DeviceError`]: another process has it, its files are damaged, the disk says no.
    pub async fn open(path: impl AsRef<Path>) -> Result<Device, DeviceError> {
        let dir: PathBuf = path.as_ref().to_owned();
        let opening = dir.clone();
        let opened = tokio::task::spawn_blocking(move || local::open(&opening))
            .await
            .map_err(|error| DeviceError::Refused(error.to_string()))??;
        let engine = opened.engine;
        let principal = Principal::unrestricted(LOCAL_USER);
        let author = Arc::new(Author::new(&engine, &principal)?);
        let tenant = engine.tenant(TenantId::DEFAULT).await?;
        let inner = Arc::new(Inner {
            live: Live::new(engine.clone(), LiveLimits::default()),
            tenant,
            author,
            principal,
            status: watch::Sender::new(Status::default()),
            link: Mutex::default(),
            engine,
            _lock: opened.lock,
        });
        let device = Device {
            _handle: Some(Arc::new(Handle {
                inner: Arc::clone(&inner),
            })),
            inner,
        };
        let found = identity::of(&dir).map_err(|error| DeviceError::Io {
            path: dir.display().to_string(),
            error,
        })?;
        device.expect_itself(&found).await?;
        device.refresh_status().await?;
        Ok(device)
    }

    /// For the connection's own task.
    pub(crate) fn of_link(inner: Arc<Inner>) -> Device {
        Device {
            inner,
            _handle: None,
        }
    }

    /// Ends the connection, and returns when nothing of it runs any more: with the last handle gone,
    /// the directory can be opened again.
    pub async fn close(self) {
        let link = self.inner.link.lock().take();
        if let Some(link) = link {
            link.stop().await;
        }
    }

    /// A new device gets its ids; a copy of one a producer id of its own.
    async fn expect_itself(&self, found: &str) -> Result<(), DeviceError> {
        let keep = |name: &str, value: String| News::Keep(name.to_owned(), Some(value));
        let known = self.fact("identity").await?;
        let mut news = Vec::new();
        if self.fact("producer_id").await?.is_none() {
            let id = DeviceId(local::random());
            news.push(keep("device_id", id.to_string()));
            news.push(News::Producer(ProducerId(local::random())));
        } else if known.as_deref() != Some(found) {
            // What is pending keeps its names: the original has it too, and it counts once.
            let inherited = [
                self.fact("inherited").await?,
                self.fact("producer_id").await?,
            ];
            let inherited: Vec<String> = inherited.into_iter().flatten().collect();
            news.push(keep("inherited", inherited.join(",")));
            news.push(News::Producer(ProducerId(local::random())));
            news.push(keep("device_id", DeviceId(local::random()).to_string()));
        }
        if !news.is_empty() {
            news.push(keep("identity", found.to_owned()));
            self.learn(news).await?;
        }
        Ok(())
    }

    pub(crate) async fn learn(&self, news: Vec<News>) -> Result<(), SqlError> {
        let work = DeviceWork::News(news);
        self.inner
            .tenant
            .device(&self.inner.author, work)
            .await
            .map(|_| ())
    }

    // ---- local data ----

    /// A conversation with the local database, as with a server: any SQL, transactions, COPY. What a
    /// transaction does to replicated tables is one mutation.
    ///
    /// # Errors
    /// That the device is closing.
    pub async fn session(&self) -> Result<Session, DeviceError> {
        let inner = &self.inner;
        Ok(inner
            .engine
            .session(TenantId::DEFAULT, &inner.principal)
            .await?)
    }

    /// Runs one statement with parameters `$1`…, as JSON.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is left then.
    pub async fn sql(&self, sql: &str, params: &[Json]) -> Result<Answer, DeviceError> {
        let mut session = self.session().await?;
        let statement = session.prepare(sql, &[])?;
        let params: Vec<ParamValue<'_>> = params
            .iter()
            .map(|value| match value {
                Json::Null => ParamValue::Null,
                value => ParamValue::Json(value),
            })
            .collect();
        let outcome = session.execute(&statement, &params).await?;
        let answer = Answer::of(outcome)?;
        self.refresh_status().await?;
        Ok(answer)
    }

    /// Live queries over the local data, pending writes included.
    #[must_use]
    pub fn live(&self) -> Subscriber {
        Subscriber::new(&self.inner.live, Arc::clone(&self.inner.tenant))
    }

    /// For [`Subscriber::open`].
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.inner.principal
    }

    /// Writes operations that SQL cannot say (`inc`, `min`, `max`, elements of sets) as one mutation:
    /// they merge with what others do to the same columns meanwhile.
    ///
    /// # Errors
    /// What the local database has against them.
    pub async fn write(&self, operations: Vec<Operation>) -> Result<(), DeviceError> {
        self.write_after(operations, Vec::new()).await
    }

    /// As [`Device::write`]; rejected with any of `after` that is.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub async fn write_after(
        &self,
        operations: Vec<Operation>,
        after: Vec<MutationId>,
    ) -> Result<(), DeviceError> {
        let work = DeviceWork::Write {
            operations,
            after,
            instead_of: None,
        };
        self.inner.tenant.device(&self.inner.author, work).await?;
        Ok(self.refresh_status().await?)
    }

    /// Adds to a number, whatever it is elsewhere by now.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub async fn inc(
        &self,
        collection: &str,
        id: SyncValue,
        column: &str,
        by: i64,
    ) -> Result<(), DeviceError> {
        let columns = std::iter::once((column, by)).collect();
        self.write(vec![Operation {
            collection: collection.to_owned(),
            id: vec![id],
            verb: Verb::Inc(columns),
        }])
        .await
    }

    // ---- what the server is to hold, and what it said ----

    /// Wants a shape from now on, also after a restart. `id` is the application's own; the same id
    /// with another query replaces the shape.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn subscribe(
        &self,
        id: u32,
        collection: &str,
        condition: Option<&str>,
        params: &[SyncValue],
    ) -> Result<(), DeviceError> {
        let shape = Shape {
            id: ShapeId(id),
            collection: collection.to_owned(),
            condition: condition.map(str::to_owned),
            params: params.to_vec(),
            columns: Vec::new(),
        };
        self.learn(vec![News::Subscribe(shape)]).await?;
        self.renew_link();
        Ok(self.refresh_status().await?)
    }

    /// Wants a shape no more: its documents leave the device, but for those of other shapes.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn unsubscribe(&self, id: u32) -> Result<(), DeviceError> {
        self.learn(vec![News::Unsubscribe(ShapeId(id))]).await?;
        self.renew_link();
        Ok(self.refresh_status().await?)
    }

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

    /// The application has dealt with a rejection: it is forgotten here.
    ///
    /// # Errors
    /// If there is none of this id.
    pub async fn acknowledge(&self, rejection: i64) -> Result<(), DeviceError> {
        self.learn(vec![News::Dismiss(rejection)]).await?;
        Ok(self.refresh_status().await?)
    }

    /// Writes a rejected mutation again with one of its hint's fixes (by its place, from 0), and
    /// acknowledges the rejection with it.
    ///
    /// # Errors
    /// If there is no such rejection or fix, and as [`Device::write`].
    pub async fn apply_fix(&self, rejection: i64, fix: usize) -> Result<(), DeviceError> {
        let rejections = self.rejections().await?;
        let rejected = rejections
            .into_iter()
            .find(|rejected| rejected.id == rejection)
            .ok_or(DeviceError::NoSuchRejection(rejection))?;
        let fix = (rejected.hint.fixes.get(fix)).ok_or(DeviceError::NoSuchFix(fix))?;
        let operations = self.fixed(rejected.mutation.operations, fix)?;
        let work = DeviceWork::Write {
            operations,
            after: Vec::new(),
            instead_of: Some(rejection),
        };
        self.inner.tenant.device(&self.inner.author, work).await?;
        Ok(self.refresh_status().await?)
    }

    fn fixed(
        &self,
        mut operations: Vec<Operation>,
        fix: &Fix,
    ) -> Result<Vec<Operation>, DeviceError> {
        let unfit = || DeviceError::Refused("the fix has no place in its mutation".to_owned());
        let key_of = |collection: &str| -> Result<Vec<String>, DeviceError> {
            let catalog = self.inner.tenant.catalog();
            let table = springhead_engine::cdc::find_collection(&catalog, collection)?;
            Ok(table.key_columns().map(|key| key.name.clone()).collect())
        };
        match fix {
            Fix::SetColumn {
                operation,
                column,
                value,
            } => {
                let place = usize::try_from(*operation).map_err(|_| unfit())?;
                let operation = operations.get_mut(place).ok_or_else(unfit)?;
                let key = key_of(&operation.collection)?;
                if let Some(place) = key.iter().position(|key| key == column) {
                    *operation.id.get_mut(place).ok_or_else(unfit)? = value.clone();
                } else if let Verb::Insert(columns) | Verb::Set(columns) = &mut operation.verb {
                    columns.put(column, value.clone());
                } else {
                    return Err(unfit());
                }
            }
            Fix::DropColumn { operation, column } => {
                let place = usize::try_from(*operation).map_err(|_| unfit())?;
                match operations
                    .get_mut(place)
                    .map(|operation| &mut operation.verb)
                {
                    Some(Verb::Insert(columns) | Verb::Set(columns)) => {
                        columns.0.retain(|(name, _)| name != column);
                    }
                    _ => return Err(unfit()),
                }
            }
            Fix::CreateRow {
                collection,
                columns,
            } => {
                let id = key_of(collection)?
                    .iter()
                    .map(|key| columns.get(key).cloned())
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(unfit)?;
                let create = Operation {
                    collection: collection.clone(),
                    id,
                    verb: Verb::Insert(columns.clone()),
                };
                operations.insert(0, create);
            }
            Fix::ResyncDefinitions => {}
        }
        Ok(operations)
    }

    // ---- the server ----

    /// Connects to a server (`ws://host:port/sync` or `wss://…`) and stays connected: after a loss it
    /// tries again by itself, at once when `token` gives another one. Returns at once.
    ///
    /// # Errors
    /// An address that is none, or that it is connected already.
    pub fn connect(&self, url: &str, token: Option<TokenSource>) -> Result<(), DeviceError> {
        let mut link = self.inner.link.lock();
        if link.as_ref().is_some_and(|link| !link.is_over()) {
            return Err(DeviceError::Connected);
        }
        *link = Some(Link::start(Arc::downgrade(&self.inner), url, token)?);
        Ok(())
    }

    /// Ends the connection and stays offline. What has been received is durable.
    pub fn disconnect(&self) {
        self.inner.link.lock().take();
        self.inner
            .status
            .send_modify(|status| status.phase = crate::Phase::Local);
    }

    fn renew_link(&self) {
        if let Some(link) = &*self.inner.link.lock() {
            link.renew();
        }
    }

    /// The device's state, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    pub(crate) async fn refresh_status(&self) -> Result<(), SqlError> {
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
