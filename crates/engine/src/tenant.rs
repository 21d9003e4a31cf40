//! One open tenant: what all its sessions and tails share.

use std::sync::Arc;

use springhead_proto::{CollectionId, Lsn, SchemaVersion, SqlError, TenantId};
use springhead_sql::Catalog;
use springhead_sql::catalog::Table;

use crate::{Rows, Session, TailReader};

/// An open tenant.
pub struct Tenant {
    _todo: (),
}

impl Tenant {
    pub fn id(&self) -> TenantId { unimplemented!() }
    pub fn name(&self) -> String { unimplemented!() }

    /// The catalog as of the last visible commit.
    pub fn catalog(&self) -> Arc<Catalog> { unimplemented!() }

    /// The columns of `collection` as they were at `version`, for reading row images. Kept for ever.
    pub fn schema(&self, collection: CollectionId, version: SchemaVersion) -> Option<Arc<Table>> { unimplemented!() }

    /// Every commit of this tenant up to it is in its SQLite file. Passes other tenants' changes.
    pub fn visible(&self) -> Lsn { unimplemented!() }

    /// Waits until `lsn` is visible.
    ///
    /// # Errors
    /// After `min_lsn_wait`, [`springhead_proto::ErrorCode::CannotConnectNow`].
    pub async fn wait_visible(&self, lsn: Lsn) -> Result<(), SqlError> { unimplemented!() }

    /// A tail that delivers what comes after `position`, which must not be past [`Tenant::visible`].
    /// With `collections`, only commits that touch one of them (whole).
    pub fn tail(self: &Arc<Self>, position: Lsn, collections: Vec<CollectionId>) -> TailReader { unimplemented!() }

    /// Runs a storage query on a fresh snapshot; its rows, spooled, and the snapshot's LSN: exactly
    /// the commits up to it are in the rows, and a tail from it continues without gap or repeat.
    /// `params` are bound to `?1`….
    ///
    /// # Errors
    /// What SQLite says; 72000 past the snapshot's maximum age.
    pub async fn read_snapshot(&self, sql: &str, params: Vec<springhead_proto::Value>) -> Result<(Rows, Lsn), SqlError> { unimplemented!() }

    /// A session that may write `springhead.*`.
    pub fn system_session(self: &Arc<Self>) -> Session { unimplemented!() }
}
