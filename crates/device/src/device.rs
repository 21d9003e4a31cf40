//! A device, as an application holds it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value as Json;
use springhead_engine::access::Principal;
use springhead_engine::device::{DeviceWork, Edit, News};
use springhead_engine::live::{Live, LiveLimits, Subscriber};
use springhead_engine::session::ParamValue;
use springhead_engine::sync::Author;
use springhead_engine::{Engine, Session, Tenant};
use springhead_proto::sync::{
    DeviceId, Fix, MutationId, Operation, ProducerId, Shape, ShapeId, SyncValue, Verb,
};
use springhead_proto::{SqlError, TenantId};
use tokio::sync::watch;

use crate::link::{Link, TokenSource};
use crate::presence::Presence;
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
    /// Who counts for the status: one after the other, so that the last count is the one that is shown.
    pub(crate) counting: tokio::sync::Mutex<()>,
    pub(crate) presence: Presence,
    link: Mutex<Option<Link>>,
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.shutdown();
    }
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
            counting: tokio::sync::Mutex::default(),
            presence: Presence::default(),
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

    /// Edits a `TEXT CRDT` or `LIST CRDT` column, online or off, step by step and as one mutation: it
    /// merges with what others do to the same column meanwhile.
    ///
    /// # Errors
    /// No such document, a column that does not merge, a place beyond its end.
    pub async fn edit(
        &self,
        collection: &str,
        id: SyncValue,
        column: &str,
        edits: Vec<Edit>,
    ) -> Result<(), DeviceError> {
        let work = DeviceWork::Edit {
            collection: collection.to_owned(),
            id: vec![id],
            column: column.to_owned(),
            edits,
        };
        self.inner.tenant.device(&self.inner.author, work).await?;
        Ok(self.refresh_status().await?)
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
        self.subscribe_to(Shape {
            id: ShapeId(id),
            collection: collection.to_owned(),
            condition: condition.map(str::to_owned),
            params: params.to_vec(),
            columns: Vec::new(),
        })
        .await
    }

    /// As [`Device::subscribe`], for a shape that may have a list of columns: of its documents these
    /// and the key's are here. The others are NULL on the device, whatever the server has, and are not
    /// touched there by what the device does to these; those of another shape are there as well.
    ///
    /// # Errors
    /// What the disk says. A column that there is none of ends the shape with the server's answer.
    pub async fn subscribe_to(&self, shape: Shape) -> Result<(), DeviceError> {
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

    /// Tries to connect at once, if it waits for the next try: the application knows that the network is
    /// back, or that somebody waits. Takes the connection from another session of the same device, if it
    /// has stepped back from one ([`crate::Phase::Elsewhere`]).
    pub fn retry_now(&self) {
        let phase = self.inner.status.borrow().phase;
        if matches!(phase, crate::Phase::Offline | crate::Phase::Elsewhere) {
            self.renew_link();
        }
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
}
