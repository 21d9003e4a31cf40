//! Change data capture: from the tail's blocks to events, filters, pages, snapshots and consumers,
//! without sockets. `server` streams what comes from here.
//!
//! [`Cdc`] belongs to one engine. A subscriber opens a [`Feed`] (frames of an event stream, for as
//! long as it wants) or a [`Poll`] (one page). Both read through a [`crate::TailReader`], are pulled
//! by whoever writes the socket, and hold at most one step of the tail and one chunk of output, so
//! a reader that does not read costs that and nothing else.

mod consumers;
mod event;
mod feed;
mod filter;
mod json;
mod judged;
mod plan;
mod poll;
mod readers;
mod render;
mod sight;
mod snapshot;
mod spec;
mod start;
mod version;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod model;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_log::LogError;
use springhead_proto::{CollectionId, ErrorCode, SqlError, TenantId};
use springhead_sql::Catalog;
use springhead_sql::access::Identity;

use crate::{Engine, TailError, Tenant};

pub use consumers::{Consumer, NewConsumer, pin_name};
pub use event::{RowForm, collection_name};
pub use feed::{Feed, FeedOptions};
pub use filter::FilterLimits;
pub use plan::{FeedPlan, Tables, find_collection};
pub use poll::{Filled, Poll, PollOptions};
pub use render::RenderCache;
pub use sight::Reader;
pub use spec::{Envelope, FeedSpec, Grouping, Operation, Operations};
pub use start::{
    RefusedCursor, RefusedReason, Start, StartError, parse_cursor, resolve as resolve_start,
};

use filter::Filters;
use readers::Readers;
use sight::{Answers, Sight};

/// Limits of feeds and pages.
#[derive(Debug, Clone, Copy)]
pub struct CdcLimits {
    pub filter: FilterLimits,
    /// Rendered bytes handed out at a time.
    pub chunk_bytes: usize,
    /// Steps of the tail that one page scans, at most.
    pub page_steps: usize,
    /// Milliseconds that one page scans, at most.
    pub page_scan_ms: u64,
}

impl Default for CdcLimits {
    fn default() -> CdcLimits {
        CdcLimits {
            filter: FilterLimits::default(),
            chunk_bytes: 64 << 10,
            page_steps: 64,
            page_scan_ms: 2000,
        }
    }
}

/// The change feeds of one engine.
pub struct Cdc {
    engine: Engine,
    limits: CdcLimits,
    filters: Filters,
    plans: Mutex<Plans>,
    sights: Mutex<FxHashMap<TenantId, Sights>>,
    readers: Readers,
}

/// Plans in use, by what was asked for and of which version of which collection.
#[derive(Default)]
struct Plans {
    known: FxHashMap<PlanKey, Weak<FeedPlan>>,
    /// Dead entries are swept when there are this many.
    sweep_at: usize,
}

/// Whose sight it is; `None` for who may do everything.
type SightKey = Option<((u64, u64), Arc<Identity>, Answers)>;

type PlanKey = (TenantId, FeedSpec, Option<(u32, u32)>, SightKey);

/// The compiled sights of one catalog version, by tenant.
#[derive(Default)]
struct Sights {
    catalog_version: u64,
    roles_version: u64,
    known: FxHashMap<Arc<Identity>, Arc<Sight>>,
}

/// Why a feed or a page ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CdcError {
    /// The position cannot be resumed from. `code` is `cursor_expired`, or `consumer_expired`.
    #[error("{refused}")]
    Refused {
        code: ErrorCode,
        refused: RefusedCursor,
    },
    #[error(transparent)]
    Sql(#[from] SqlError),
}

impl CdcError {
    /// The code that goes with it.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            CdcError::Refused { code, .. } => *code,
            CdcError::Sql(error) => error.code,
        }
    }
}

impl From<RefusedCursor> for CdcError {
    fn from(refused: RefusedCursor) -> CdcError {
        CdcError::Refused {
            code: ErrorCode::CursorExpired,
            refused,
        }
    }
}

impl From<StartError> for CdcError {
    fn from(error: StartError) -> CdcError {
        match error {
            StartError::Refused(refused) => refused.into(),
            StartError::Sql(error) => error.into(),
            StartError::Log(error) => log_error(&error),
        }
    }
}

impl From<TailError> for CdcError {
    fn from(error: TailError) -> CdcError {
        match error {
            TailError::Log(error) => log_error(&error),
            TailError::TenantDropped => {
                SqlError::new(ErrorCode::TenantDropped, error.to_string()).into()
            }
            TailError::ShuttingDown => {
                SqlError::new(ErrorCode::AdminShutdown, error.to_string()).into()
            }
        }
    }
}

fn log_error(error: &LogError) -> CdcError {
    let code = match error {
        LogError::Trimmed { asked, earliest } => {
            return RefusedCursor {
                reason: RefusedReason::Trimmed {
                    wanted: *asked,
                    trimmed: earliest.previous(),
                },
                earliest_lsn: *earliest,
            }
            .into();
        }
        LogError::Corrupt { .. } => ErrorCode::Corrupted,
        LogError::Future { .. }
        | LogError::WithinCommit { .. }
        | LogError::NewerFormat { .. }
        | LogError::Io { .. } => ErrorCode::Internal,
    };
    SqlError::new(code, error.to_string()).into()
}

impl Cdc {
    /// For one engine.
    #[must_use]
    pub fn new(engine: Engine, limits: CdcLimits) -> Arc<Cdc> {
        let filters = Filters::new(Arc::clone(engine.clock()), limits.filter);
        let cdc = Arc::new(Cdc {
            engine,
            limits,
            filters,
            plans: Mutex::default(),
            sights: Mutex::default(),
            readers: Readers::default(),
        });
        cdc.engine.set_cdc(&cdc);
        cdc
    }

    /// The engine that it reads.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The plan for `spec` as `reader` may see it now, shared with all who ask for the same and see
    /// the same.
    ///
    /// # Errors
    /// As [`FeedPlan::new`]; 42501 for a collection that the reader may not read.
    pub fn plan(
        &self,
        tenant: &Tenant,
        spec: FeedSpec,
        reader: &Reader,
    ) -> Result<Arc<FeedPlan>, SqlError> {
        let catalog = tenant.catalog();
        let identity = reader.identify(&self.engine)?;
        let sight = (!identity.superuser).then(|| self.sight(tenant.id(), &identity, &catalog));
        let named = match &spec.collection {
            Some(name) => {
                let table = find_collection(&catalog, name)?;
                Some((table.id, table.schema_version))
            }
            None => None,
        };
        let answers = sight.as_ref().map_or_else(Vec::new, |sight| {
            let named = named.and_then(|(id, _)| catalog.table(CollectionId(id)));
            reader.answers(sight.asked(named.map(|table| &**table)))
        });
        let versions = (catalog.version, self.engine.roles().version);
        let seen_by = (!identity.superuser).then_some((versions, identity, answers));
        let key = (tenant.id(), spec, named, seen_by);
        if let Some(plan) = self.plans.lock().known.get(&key).and_then(Weak::upgrade) {
            return Ok(plan);
        }
        let plan = Arc::new(FeedPlan::new(
            key.0,
            &catalog,
            key.1.clone(),
            self.limits.filter.max_bytes,
            sight.map(|sight| {
                let session = sight.session(reader);
                (sight, session)
            }),
        )?);
        let mut plans = self.plans.lock();
        // Another may have been as quick; all who follow share the later one.
        plans.known.insert(key, Arc::downgrade(&plan));
        if plans.known.len() >= plans.sweep_at {
            plans.known.retain(|_, plan| plan.strong_count() > 0);
            plans.sweep_at = 64.max(plans.known.len() * 2);
        }
        Ok(plan)
    }

    /// The same feed as `reader` may see it now: of the same collection, whatever that is called by now.
    ///
    /// # Errors
    /// As [`Cdc::plan`].
    pub(crate) fn plan_again(
        &self,
        tenant: &Tenant,
        plan: &FeedPlan,
        reader: &Reader,
    ) -> Result<Arc<FeedPlan>, SqlError> {
        let mut spec = plan.spec.clone();
        if let Some(named) = plan.table()
            && let Some(table) = tenant.catalog().table(named.collection())
            && table.name != named.name
        {
            spec.collection = Some(collection_name(&table.name));
        }
        self.plan(tenant, spec, reader)
    }

    /// What an identity sees, compiled once for each version of the definitions.
    fn sight(
        &self,
        tenant: TenantId,
        identity: &Arc<Identity>,
        catalog: &Arc<Catalog>,
    ) -> Arc<Sight> {
        let roles = springhead_sql::access::Roles::new(self.engine.roles());
        let mut sights = self.sights.lock();
        let sights = sights.entry(tenant).or_default();
        let is_stale = sights.catalog_version != catalog.version
            || sights.roles_version != roles.version()
            || sights.known.len() > MAX_SIGHTS;
        if is_stale {
            sights.known.clear();
            sights.catalog_version = catalog.version;
            sights.roles_version = roles.version();
        }
        let sight = sights.known.entry(Arc::clone(identity)).or_insert_with(|| {
            Arc::new(Sight::new(Arc::clone(identity), Arc::clone(catalog), roles))
        });
        Arc::clone(sight)
    }
}

/// Identities whose sights are kept for one tenant.
const MAX_SIGHTS: usize = 1024;
