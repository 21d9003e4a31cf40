//! A standby's engine: takes what the log may show into the state of every open tenant, keeps roles
//! and the list of tenants as the log says, and changes the node's role.
//!
//! ```text
//!            log: announced durable
//!  ────────────────────────────┬───────────
//!        applied to all open   │ read next ─► by tenant ─► Writer::follow ─► horizon moves
//! ```
//!
//! A tenant that is not open is passed over: when it is opened, recovery brings it to the log's end,
//! which is at or past everything that has been passed over. The server calls [`Follower::step`]
//! from one thread whenever the log has moved; nothing here waits for a network.

use std::collections::BTreeMap;
use std::sync::Arc;

use springhead_log::{CommitSlice, LogReader, NoProgress, ReadFilter};
use springhead_proto::{Changes, CollectionId, Epoch, Lsn, SYSTEM_TENANT, TenantId};

use crate::EngineError;
use crate::access::Roles;
use crate::engine::{Engine, Slot, block_on};
use crate::role::NodeRole;
use crate::tenant::Tenant;
use crate::tenants::{list_tenants, read_access, remove_tenant};
use crate::writer::MoreSlices;

/// Log that one step takes in before it shows anything.
const STEP_BYTES: u64 = 1 << 20;

/// See the module's text. There is one while the node is a standby.
pub struct Follower {
    engine: Engine,
    reader: Box<dyn LogReader>,
    /// Read behind a large commit, and not applied yet.
    ahead: Vec<CommitSlice>,
    scanned: Lsn,
    /// The log's when it last looked.
    epoch: Epoch,
}

impl Engine {
    /// What the node is.
    #[must_use]
    pub fn role(&self) -> Arc<NodeRole> {
        self.shared().role.now()
    }

    /// Tells when [`Engine::role`] has changed.
    #[must_use]
    pub fn watch_role(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared().role.watch()
    }

    /// How far the log may be shown.
    #[must_use]
    pub fn horizon(&self) -> &Arc<crate::horizon::Horizon> {
        &self.shared().horizon
    }

    /// From now on commits that ask for standbys wait at `gate`.
    pub fn set_gate(&self, gate: Box<dyn crate::confirm::CommitGate>) {
        self.shared().gate.store(Some(Arc::new(gate)));
    }

    /// `springhead.standbys` has these rows from now on.
    pub fn set_standby_rows(&self, rows: crate::system::StandbyRows) {
        self.shared().standbys.store(Some(Arc::new(rows)));
    }

    /// What takes a standby's log into its state, from where [`Engine::open`] has left off.
    ///
    /// # Errors
    /// What the log says.
    pub fn follower(&self) -> Result<Follower, EngineError> {
        let scanned = self.horizon().applied();
        let reader = self.log().reader(scanned.next(), ReadFilter::default())?;
        Ok(Follower {
            engine: self.clone(),
            reader,
            ahead: Vec::new(),
            scanned,
            epoch: self.log().tail().epoch,
        })
    }

    /// Where a standby's primary is, as it is told to clients.
    pub fn set_primary_address(&self, primary: Option<Arc<str>>) {
        self.shared().role.set(NodeRole::Standby { primary });
    }

    /// Takes writes from now on. The log has begun an epoch of its own, and a last [`Follower::step`]
    /// has applied all of it. Blocks.
    ///
    /// # Errors
    /// What the state says; the node is then still a standby.
    pub fn lead(&self) -> Result<(), EngineError> {
        let named = |error: springhead_proto::SqlError| EngineError::Corrupt {
            tenant: 0,
            what: error.to_string(),
        };
        for tenant in self.every_open_tenant() {
            tenant
                .mailbox
                .with_writer(crate::writer::Writer::lead)
                .map_err(named)?;
        }
        let default = block_on(self.tenant(TenantId::DEFAULT)).map_err(named)?;
        let (_, audit) = read_access(&default).map_err(named)?;
        self.audit_book().go_on_after(&audit);
        self.horizon().set_applied(Lsn::MAX);
        self.shared().role.set(NodeRole::Primary);
        Ok(())
    }

    /// Takes no more writes: what runs is rolled back or finished, and when this returns nothing more
    /// is appended to the log. Blocks.
    pub fn retire(&self, primary: Option<Arc<str>>) {
        self.shared().role.set(NodeRole::Standby { primary });
        for tenant in self.every_open_tenant() {
            tenant.mailbox.with_writer(crate::writer::Writer::halt);
        }
    }

    fn every_open_tenant(&self) -> Vec<Arc<Tenant>> {
        let mut tenants: Vec<_> = self
            .slots()
            .iter()
            .filter_map(|slot| block_on(slot.tenant.lock()).clone())
            .collect();
        tenants.push(Arc::clone(self.system_tenant()));
        tenants
    }
}

impl Follower {
    /// Everything up to it has been taken in.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.scanned
    }

    /// Takes in what the log shows now, and moves the horizon with it. Blocks. The last LSN that has
    /// been taken in.
    ///
    /// # Errors
    /// Damage, or what the disk says: the node has to stop then.
    pub fn step(&mut self) -> Result<Lsn, EngineError> {
        loop {
            let mut slices = std::mem::take(&mut self.ahead);
            let before = self.scanned;
            if slices.is_empty() {
                self.scanned = self.reader.read(&mut slices, STEP_BYTES)?;
            }
            let is_all = slices.is_empty() && self.scanned == before;
            self.apply(slices)?;
            if self.ahead.is_empty() && self.scanned > before {
                let shared = self.engine.shared();
                shared.horizon.set_applied(self.scanned);
                shared.moved.send_replace(self.scanned);
            }
            if is_all {
                self.note_epoch();
                return Ok(self.scanned);
            }
        }
    }

    /// Wakes whoever waits for a cursor's epoch, which may come without any change.
    fn note_epoch(&mut self) {
        let epoch = self.engine.log().tail().epoch;
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.engine.shared().moved.send_replace(self.scanned);
        }
    }

    fn apply(&mut self, slices: Vec<CommitSlice>) -> Result<(), EngineError> {
        let mut by_tenant: BTreeMap<TenantId, Vec<CommitSlice>> = BTreeMap::new();
        // Only the last commit can go on beyond what has been read.
        let unfinished = slices.last().filter(|slice| !slice.last).map(|s| s.tenant);
        for slice in slices {
            by_tenant.entry(slice.tenant).or_default().push(slice);
        }
        // The system's tenant comes first, by its number: it says which others there are.
        for (id, slices) in by_tenant {
            let goes_on = unfinished == Some(id);
            let tenant = self.open_tenant(id);
            let changes_roles = id == TenantId::DEFAULT && slices.iter().any(touches_roles);
            let mut rest = Rest {
                reader: &mut self.reader,
                scanned: &mut self.scanned,
                ahead: &mut self.ahead,
            };
            match tenant {
                Some(tenant) => tenant
                    .mailbox
                    .with_writer(|writer| writer.follow(slices, &mut rest))?,
                // Recovery takes it in when the tenant is opened; a commit's rest has to be passed.
                None if goes_on => rest.pass()?,
                None => {}
            }
            if id == SYSTEM_TENANT {
                self.follow_tenants()?;
            } else if changes_roles || (id == TenantId::DEFAULT && goes_on) {
                self.follow_roles()?;
            }
        }
        Ok(())
    }

    fn open_tenant(&self, id: TenantId) -> Option<Arc<Tenant>> {
        if id == SYSTEM_TENANT {
            return Some(Arc::clone(self.engine.system_tenant()));
        }
        let slot = self.engine.slot(id)?;
        // One that is just being opened is waited for: it may have read the log before this.
        let tenant = block_on(slot.tenant.lock());
        tenant.clone()
    }

    /// Makes the tenants those that the system's tenant lists.
    fn follow_tenants(&self) -> Result<(), EngineError> {
        let engine = &self.engine;
        let listed =
            list_tenants(engine.system_tenant()).map_err(|error| EngineError::Corrupt {
                tenant: SYSTEM_TENANT.0,
                what: error.to_string(),
            })?;
        for (id, name, is_active) in listed {
            match (engine.slot(id), is_active) {
                (None, true) => {
                    // Made here as it was made there; later, when log has been trimmed, a missing
                    // file would be taken for a lost one.
                    let tenant = Tenant::open(engine.shared(), id, &name, true, &NoProgress)?;
                    engine.add_slot(id, &name, Some(tenant));
                    engine.make_room_blocking();
                }
                (Some(slot), false) => self.drop_tenant(&slot),
                (Some(_), true) | (None, false) => {}
            }
        }
        Ok(())
    }

    fn drop_tenant(&self, slot: &Slot) {
        let mut open = block_on(slot.tenant.lock());
        self.engine.remove_slot(slot);
        let dir = crate::state::tenant_dir(self.engine.config(), slot.id);
        remove_tenant(open.take(), &dir);
    }

    fn follow_roles(&self) -> Result<(), EngineError> {
        let named = |error: springhead_proto::SqlError| EngineError::Corrupt {
            tenant: TenantId::DEFAULT.0,
            what: error.to_string(),
        };
        let tenant = block_on(self.engine.tenant(TenantId::DEFAULT)).map_err(named)?;
        let snapshot = tenant.snapshots().snapshot().map_err(named)?;
        let version = self.engine.roles().version + 1;
        let roles = Roles::read(&snapshot, version).map_err(named)?;
        self.engine.put_roles(Arc::new(roles));
        Ok(())
    }
}

/// What of a large commit has not been read yet.
struct Rest<'a> {
    reader: &'a mut Box<dyn LogReader>,
    scanned: &'a mut Lsn,
    ahead: &'a mut Vec<CommitSlice>,
}

impl Rest<'_> {
    fn pass(&mut self) -> Result<(), EngineError> {
        let mut passed = Vec::new();
        loop {
            self.more(&mut passed)?;
            if passed.drain(..).any(|slice| slice.last) {
                return Ok(());
            }
        }
    }
}

impl MoreSlices for Rest<'_> {
    fn more(&mut self, out: &mut Vec<CommitSlice>) -> Result<(), EngineError> {
        let mut read = Vec::new();
        *self.scanned = self.reader.read(&mut read, STEP_BYTES)?;
        if read.is_empty() {
            // The log shows whole commits only.
            return Err(EngineError::Corrupt {
                tenant: 0,
                what: format!("a large commit after LSN {} has no end", self.scanned),
            });
        }
        let end = read.iter().position(|slice| slice.last);
        if let Some(end) = end {
            self.ahead.extend(read.drain(end + 1..));
        }
        out.append(&mut read);
        Ok(())
    }
}

/// Whether a commit of the default tenant changes who may do what.
fn touches_roles(slice: &CommitSlice) -> bool {
    Changes::new(&slice.changes).flatten().any(|change| {
        matches!(
            change.collection,
            CollectionId::ROLES | CollectionId::ROLE_MEMBERS | CollectionId::TOKENS
        )
    })
}
