//! Plans that a tenant's sessions share, by statement text or template. A plan is good for one
//! catalog version; the cache forgets the others as it meets them.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::SqlError;
use springhead_sql::catalog::Catalog;
use springhead_sql::lift::Lifted;
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::{PgType, Plan};

/// What a key stands for.
#[derive(Clone)]
enum Entry {
    Plan(Arc<Plan>),
    /// A template that cannot stand for its statements: each is planned as it is written.
    NotLiftable {
        catalog_version: u64,
    },
}

/// A bounded cache.
pub struct PlanCache {
    entries: Mutex<FxHashMap<String, Entry>>,
    capacity: usize,
}

/// What a lookup of a template gave.
pub enum Template {
    Plan(Arc<Plan>),
    /// Plan the statement as it is written.
    Unliftable,
}

impl PlanCache {
    #[must_use]
    pub fn new(capacity: usize) -> PlanCache {
        PlanCache {
            entries: Mutex::default(),
            capacity: capacity.max(1),
        }
    }

    /// The plan of a lifted statement without parameters of its own.
    pub fn template(
        &self,
        catalog: &Arc<Catalog>,
        lifted: &Lifted,
        context: &PlanContext,
    ) -> Template {
        if let Some(entry) = self.entries.lock().get(&lifted.template) {
            match entry {
                Entry::Plan(plan) if plan.catalog_version == catalog.version => {
                    return Template::Plan(Arc::clone(plan));
                }
                Entry::NotLiftable { catalog_version } if *catalog_version == catalog.version => {
                    return Template::Unliftable;
                }
                _ => {}
            }
        }
        let planned = planner::plan_template(catalog, lifted, &[], context).map(Arc::new);
        let entry = match &planned {
            Some(plan) => Entry::Plan(Arc::clone(plan)),
            None => Entry::NotLiftable {
                catalog_version: catalog.version,
            },
        };
        self.put(lifted.template.clone(), entry);
        planned.map_or(Template::Unliftable, Template::Plan)
    }

    /// The plan of a statement as it is written.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub fn text(
        &self,
        catalog: &Arc<Catalog>,
        sql: &str,
        types: &[Option<PgType>],
        context: &PlanContext,
    ) -> Result<Arc<Plan>, SqlError> {
        if let Some(Entry::Plan(plan)) = self.entries.lock().get(sql)
            && plan.catalog_version == catalog.version
            && types.is_empty()
        {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(planner::plan(catalog, sql, types, context)?);
        // Statements without parameters seldom come again; those with declared types would need
        // them in the key.
        if types.is_empty() && !plan.parameters.is_empty() {
            self.put(sql.to_owned(), Entry::Plan(Arc::clone(&plan)));
        }
        Ok(plan)
    }

    fn put(&self, key: String, entry: Entry) {
        let mut entries = self.entries.lock();
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            // Plans are cheap to make again; forgetting half at once keeps a hit free of
            // bookkeeping.
            let mut keep = false;
            entries.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        entries.insert(key, entry);
    }
}
