//! A device as the tests have it: it pushes, and keeps an image by what it is told alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use springhead_engine::access::Principal;
use springhead_engine::live::{Live, LiveLimits};
use springhead_engine::sync::{Closing, Door, Peer, Sync, SyncLimits, SyncSession};
use springhead_proto::sync::{
    Acknowledge, CatalogHash, CatalogVersion, ColumnValues, Definition, DeltaChange, DeltaVerb,
    DeviceId, DeviceToServer, Generation, Handshake, HandshakeAck, Mutation, MutationId, Operation,
    ProducerId, Push, Refused, Seq, ServerToDevice, Shape, ShapeId, Subscription, SyncErrorCode,
    SyncValue, Unsubscribe, Verb, Verdict,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, SqlError};

use crate::support::Node;

/// How long anything may take, with many devices on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node that devices can connect to.
pub struct Rig {
    pub node: Node,
    pub sync: Arc<Sync>,
}

/// Takes the name of a role for a token of it.
pub struct Names;

impl Door for Names {
    fn principal(&self, token: &str) -> Result<Arc<Principal>, SqlError> {
        if token == "none" {
            return Err(SqlError::new(
                ErrorCode::InvalidAuthorization,
                "no such token",
            ));
        }
        Ok(user(token))
    }
}

pub fn user(role: &str) -> Arc<Principal> {
    Arc::new(Principal::of(
        role,
        springhead_engine::access::Credential::Password,
    ))
}

impl Rig {
    pub async fn start(sql: &str) -> Rig {
        Rig::over(Node::start(), SyncLimits::default(), sql).await
    }

    pub async fn over(node: Node, limits: SyncLimits, sql: &str) -> Rig {
        let live = Live::new(node.engine.clone(), LiveLimits::default());
        let sync = Sync::new(node.engine.clone(), &live, limits);
        let rig = Rig { node, sync };
        rig.sql(sql).await;
        rig
    }

    /// Runs statements one by one; the last one's rows.
    pub async fn sql(&self, sql: &str) -> Vec<String> {
        let mut client = self.node.client().await;
        let mut lines = Vec::new();
        for statement in springhead_sql::split::statements(sql) {
            lines = client.lines(statement.unwrap()).await;
        }
        lines
    }

    /// A device of the superuser's.
    pub async fn device(&self, number: u128, shapes: &[Shape]) -> Device {
        self.device_of(number, "tester", shapes).await
    }

    pub async fn device_of(&self, number: u128, role: &str, shapes: &[Shape]) -> Device {
        let mut device = Device::new(number, role, shapes);
        device.connect(self).await.unwrap();
        device
    }
}

/// A shape of all columns.
pub fn shape(id: u32, collection: &str, condition: Option<&str>) -> Shape {
    Shape {
        id: ShapeId(id),
        collection: collection.to_owned(),
        condition: condition.map(str::to_owned),
        params: Vec::new(),
        columns: Vec::new(),
    }
}

pub fn op(collection: &str, id: impl Into<SyncValue>, verb: Verb) -> Operation {
    Operation {
        collection: collection.to_owned(),
        id: vec![id.into()],
        verb,
    }
}

pub fn columns<const N: usize>(columns: [(&str, SyncValue); N]) -> ColumnValues {
    columns.into_iter().collect()
}

/// See the module's text.
pub struct Device {
    pub role: String,
    pub id: DeviceId,
    pub producer: ProducerId,
    pub generation: Generation,
    pub next: Seq,
    pub settled: Seq,
    pub shapes: Vec<Subscription>,
    /// By shape and document, its columns.
    pub image: BTreeMap<u32, BTreeMap<String, BTreeMap<String, SyncValue>>>,
    pub cursor: Option<Cursor>,
    pub verdicts: BTreeMap<Seq, Verdict>,
    pub own: Vec<MutationId>,
    pub definitions: BTreeMap<(String, String), Definition>,
    pub catalog: (CatalogVersion, CatalogHash),
    pub told: Vec<ServerToDevice>,
    pub ended: BTreeMap<u32, SyncErrorCode>,
    pub session: Option<Box<SyncSession>>,
    /// Rows of a snapshot that has not ended.
    coming: BTreeMap<u32, BTreeMap<String, BTreeMap<String, SyncValue>>>,
    parts: Vec<DeltaChange>,
}

fn document(id: &[SyncValue]) -> String {
    serde_json::to_string(id).unwrap()
}

impl Device {
    pub fn new(number: u128, role: &str, shapes: &[Shape]) -> Device {
        Device {
            role: role.to_owned(),
            id: DeviceId(number),
            producer: ProducerId(number),
            generation: Generation::FIRST,
            next: Seq::FIRST,
            settled: Seq::ZERO,
            shapes: shapes
                .iter()
                .map(|shape| Subscription {
                    shape: shape.clone(),
                    complete: false,
                    resume: None,
                })
                .collect(),
            image: BTreeMap::new(),
            cursor: None,
            verdicts: BTreeMap::new(),
            own: Vec::new(),
            definitions: BTreeMap::new(),
            catalog: (CatalogVersion(0), CatalogHash::default()),
            told: Vec::new(),
            ended: BTreeMap::new(),
            session: None,
            coming: BTreeMap::new(),
            parts: Vec::new(),
        }
    }

    pub fn hello(&self) -> Handshake {
        Handshake {
            protocol: 1,
            token: None,
            tenant: None,
            device: self.id,
            producer: self.producer,
            generation: self.generation,
            cursor: self.cursor,
            catalog_version: self.catalog.0,
            catalog_hash: self.catalog.1,
            settled: self.settled,
            shapes: self.shapes.clone(),
            client: "test 1".to_owned(),
        }
    }

    pub async fn connect(&mut self, rig: &Rig) -> Result<HandshakeAck, Refused> {
        self.session = None;
        self.parts.clear();
        let principal = match self.role.as_str() {
            "tester" => Principal::unrestricted("tester"),
            role => user(role),
        };
        let hello = self.hello();
        let peer = Peer::default();
        let opened = SyncSession::open(&rig.sync, hello, Some(principal), None, peer, &Names).await;
        let (session, ack) = opened?;
        self.session = Some(session);
        self.next = ack.next_seq.max(self.next);
        Ok(ack)
    }

    pub fn session(&mut self) -> &mut SyncSession {
        self.session.as_mut().unwrap()
    }

    /// The next frame, taken in.
    pub async fn frame(&mut self) -> ServerToDevice {
        let frame = self.try_frame().await.unwrap();
        self.take(&frame);
        frame
    }

    async fn try_frame(&mut self) -> Result<ServerToDevice, Closing> {
        let session = self.session.as_mut().unwrap();
        let work = async {
            loop {
                session.ready().await?;
                if let Some(frame) = session.step().await? {
                    return Ok(frame);
                }
            }
        };
        let told = &self.told;
        (tokio::time::timeout(PATIENCE, work).await)
            .unwrap_or_else(|_| panic!("nothing came after {:?}", told.last()))
    }

    /// Why the session ends.
    pub async fn closing(&mut self) -> Closing {
        loop {
            match self.try_frame().await {
                Ok(frame) => self.take(&frame),
                Err(closing) => return closing,
            }
        }
    }

    /// Takes frames in until something is so.
    pub async fn until(&mut self, mut is_so: impl FnMut(&Device) -> bool) {
        while !is_so(self) {
            self.frame().await;
        }
    }

    /// Everything up to a commit has come.
    pub async fn reach(&mut self, lsn: Lsn) {
        self.session().progress();
        self.until(|device| device.cursor.is_some_and(|cursor| cursor.lsn >= lsn))
            .await;
    }

    /// All shapes are there, as of now.
    pub async fn settle(&mut self, rig: &Rig) {
        self.until(|device| {
            let ended = &device.ended;
            (device.shapes.iter())
                .all(|shape| shape.complete || ended.contains_key(&shape.shape.id.0))
        })
        .await;
        let tenant = rig.node.tenant().await;
        let lsn = tenant.acknowledged();
        tenant.wait_visible(lsn).await.unwrap();
        while !self.shapes.is_empty() && self.cursor.is_none_or(|cursor| cursor.lsn < lsn) {
            match self.session().next_or_quiet().await.unwrap() {
                Some(frame) => self.take(&frame),
                // The cursor has to be moved over what is none of its shapes'.
                None => self.session().progress(),
            }
        }
    }

    /// Takes in all that there is for it now.
    pub async fn rest(&mut self) {
        while let Some(frame) = self.session().next_or_quiet().await.unwrap() {
            self.take(&frame);
        }
    }

    pub async fn say(&mut self, frame: DeviceToServer) -> Result<(), Closing> {
        let bytes = frame.to_bytes();
        let frame = DeviceToServer::from_bytes(&bytes, 16 << 20).unwrap();
        self.session().receive(frame, &Names).await
    }

    pub fn mutation(&mut self, operations: Vec<Operation>) -> Mutation {
        let seq = self.next;
        self.next = seq.next();
        Mutation {
            producer: self.producer,
            generation: self.generation,
            seq,
            base: self
                .cursor
                .unwrap_or(Cursor::new(Lsn::ZERO, springhead_proto::Epoch(0x51))),
            schema_version: self.catalog.0,
            after: Vec::new(),
            hlc: None,
            operations,
        }
    }

    pub fn id_of(&self, seq: u64) -> MutationId {
        MutationId {
            producer: self.producer,
            generation: self.generation,
            seq: Seq(seq),
        }
    }

    /// Pushes and waits for the verdicts.
    pub async fn push(&mut self, mutations: Vec<Mutation>) -> Vec<Verdict> {
        let seqs: Vec<Seq> = mutations.iter().map(|mutation| mutation.seq).collect();
        for seq in &seqs {
            self.verdicts.remove(seq);
        }
        let push = Push {
            producer: mutations[0].producer,
            generation: mutations[0].generation,
            mutations,
        };
        self.say(DeviceToServer::Push(push)).await.unwrap();
        self.until(|device| seqs.iter().all(|seq| device.verdicts.contains_key(seq)))
            .await;
        seqs.iter().map(|seq| self.verdicts[seq].clone()).collect()
    }

    /// Pushes one mutation.
    pub async fn write(&mut self, operations: Vec<Operation>) -> Verdict {
        let mutation = self.mutation(operations);
        self.push(vec![mutation]).await.remove(0)
    }

    /// Pushes one mutation that is applied.
    pub async fn applied(&mut self, operations: Vec<Operation>) -> Lsn {
        match self.write(operations).await {
            Verdict::Applied { lsn } => lsn,
            other => panic!("{other:?}"),
        }
    }

    pub async fn acknowledge(&mut self) {
        let last = self
            .verdicts
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default();
        self.settled = last;
        let id = self.id_of(last.0);
        self.say(DeviceToServer::Acknowledge(Acknowledge {
            cursor: self.cursor,
            settled: vec![id],
        }))
        .await
        .unwrap();
    }

    pub async fn subscribe(&mut self, shape: Shape) {
        let subscription = Subscription {
            shape,
            complete: false,
            resume: None,
        };
        self.shapes.push(subscription.clone());
        self.say(DeviceToServer::Subscribe(subscription))
            .await
            .unwrap();
    }

    pub async fn unsubscribe(&mut self, id: u32) {
        self.shapes.retain(|shape| shape.shape.id.0 != id);
        self.image.remove(&id);
        let shape = ShapeId(id);
        self.say(DeviceToServer::Unsubscribe(Unsubscribe { shape }))
            .await
            .unwrap();
    }

    pub fn take(&mut self, frame: &ServerToDevice) {
        match frame {
            ServerToDevice::Ack(ack) => self.verdicts.extend(ack.verdicts.iter().cloned()),
            ServerToDevice::Reject(reject) => {
                let verdict = Verdict::Rejected(Box::new(reject.rejection.clone()));
                self.verdicts.insert(reject.seq, verdict);
            }
            ServerToDevice::Snapshot(chunk) => {
                let shape = chunk.shape.0;
                if chunk.first {
                    self.coming.insert(shape, BTreeMap::new());
                }
                let key = chunk.key as usize;
                let place = self.coming.entry(shape).or_default();
                for row in &chunk.rows {
                    let columns = chunk.columns.iter().cloned().zip(row.iter().cloned());
                    place.insert(document(&row[..key]), columns.skip(key).collect());
                }
                let known = self
                    .shapes
                    .iter_mut()
                    .find(|known| known.shape.id.0 == shape);
                let known = known.expect("a snapshot of a shape that was asked for");
                known.resume.clone_from(&chunk.resume);
                if let Some(done) = &chunk.done {
                    known.complete = true;
                    self.cursor = Some(done.cursor);
                    self.image
                        .insert(shape, self.coming.remove(&shape).unwrap());
                }
            }
            ServerToDevice::Delta(delta) => {
                self.parts.extend(delta.changes.iter().cloned());
                if delta.more {
                    return;
                }
                for change in std::mem::take(&mut self.parts) {
                    self.change(change);
                }
                let before = self.cursor.map_or(Lsn::ZERO, |cursor| cursor.lsn);
                assert!(
                    delta.cursor.lsn >= before,
                    "{before} then {}",
                    delta.cursor.lsn
                );
                self.cursor = Some(delta.cursor);
                self.own.extend(delta.own);
            }
            ServerToDevice::Resync(order) => {
                for shape in &mut self.shapes {
                    if order.shapes.is_empty() || order.shapes.contains(&shape.shape.id) {
                        shape.complete = false;
                        shape.resume = None;
                    }
                }
            }
            ServerToDevice::ShapeEnded(ended) => {
                self.image.remove(&ended.shape.0);
                self.ended.insert(ended.shape.0, ended.code);
            }
            ServerToDevice::Definition(definition) => self.define(definition),
            _ => {}
        }
        self.told.push(frame.clone());
    }

    fn change(&mut self, change: DeltaChange) {
        for shape in &change.shapes {
            let coming = self.coming.get_mut(&shape.0);
            let place = match coming {
                Some(coming) => coming,
                None => self.image.entry(shape.0).or_default(),
            };
            let id = document(&change.id);
            match &change.verb {
                DeltaVerb::Put(columns) => {
                    place.insert(id, columns.0.iter().cloned().collect());
                }
                DeltaVerb::Set(columns) => {
                    if let Some(row) = place.get_mut(&id) {
                        row.extend(columns.0.iter().cloned());
                    }
                }
                DeltaVerb::Delete | DeltaVerb::Leave => {
                    place.remove(&id);
                }
                DeltaVerb::Clear => place.clear(),
            }
        }
    }

    fn define(&mut self, definition: &Definition) {
        use springhead_proto::sync::DefinitionAction;
        let key = (definition.kind.clone(), definition.name.clone());
        if let Some([0, _]) = definition.set {
            self.definitions.clear();
        }
        match definition.action {
            DefinitionAction::Put => {
                self.definitions.insert(key, definition.clone());
            }
            DefinitionAction::Drop => {
                self.definitions.remove(&key);
            }
        }
        self.catalog = (definition.catalog_version, definition.hash);
    }

    /// The hash of the definitions that it has.
    pub fn catalog_hash(&self) -> CatalogHash {
        (self.definitions.values()).fold(CatalogHash::default(), |hash, definition| {
            hash.with(&definition.kind, &definition.name, &definition.payload)
        })
    }

    /// A shape's rows, as lines of `id|value|…`.
    pub fn lines(&self, shape: u32) -> Vec<String> {
        let rows = self.image.get(&shape);
        (rows.into_iter().flatten())
            .map(|(id, columns)| {
                let values: Vec<String> = columns.values().map(ToString::to_string).collect();
                let id = id.trim_matches(['[', ']', '"']);
                format!("{id}|{}", values.join("|"))
            })
            .collect()
    }
}
