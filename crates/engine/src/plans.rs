//! Plans that a tenant's sessions share, by who asks and by statement text or template. A plan is
//! good for one catalog version; the cache forgets the others as it meets them. A plan made for one
//! identity never serves another: what it may see is part of the plan.

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
    groups: Mutex<Vec<Group>>,
    capacity: usize,
}

/// The plans of those who may do the same.
struct Group {
    context: PlanContext,
    entries: FxHashMap<String, Entry>,
}

/// Contexts whose plans are kept; the one not used for longest goes.
const MAX_GROUPS: usize = 256;

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
            groups: Mutex::default(),
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
        if let Some(entry) = self.get(context, &lifted.template) {
            match &entry {
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
        self.put(context, lifted.template.clone(), entry);
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
        if let Some(Entry::Plan(plan)) = self.get(context, sql)
            && plan.catalog_version == catalog.version
            && types.is_empty()
        {
            return Ok(plan);
        }
        let plan = Arc::new(planner::plan(catalog, sql, types, context)?);
        // Statements without parameters seldom come again; those with declared types would need
        // them in the key.
        if types.is_empty() && !plan.parameters.is_empty() {
            self.put(context, sql.to_owned(), Entry::Plan(Arc::clone(&plan)));
        }
        Ok(plan)
    }

    fn get(&self, context: &PlanContext, key: &str) -> Option<Entry> {
        let mut groups = self.groups.lock();
        let at = groups
            .iter()
            .position(|group| same_plans(&group.context, context))?;
        let entry = groups[at].entries.get(key).cloned();
        if at > 0 {
            // Whoever asks much is found soon.
            groups.swap(at, at / 2);
        }
        entry
    }

    fn put(&self, context: &PlanContext, key: String, entry: Entry) {
        let mut groups = self.groups.lock();
        let at = match groups
            .iter()
            .position(|group| same_plans(&group.context, context))
        {
            Some(at) => at,
            None => {
                groups.truncate(MAX_GROUPS - 1);
                groups.push(Group {
                    context: context.clone(),
                    entries: FxHashMap::default(),
                });
                groups.len() - 1
            }
        };
        let entries = &mut groups[at].entries;
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

/// Whether the same plans serve both: all superusers may do the same, under whatever name.
fn same_plans(one: &PlanContext, other: &PlanContext) -> bool {
    let same_rights = Arc::ptr_eq(&one.identity, &other.identity)
        || one.identity.superuser && other.identity.superuser
        || one.identity == other.identity;
    same_rights
        && one.system == other.system
        && one.roles == other.roles
        && one.max_statement_bytes == other.max_statement_bytes
        && one.max_depth == other.max_depth
        && one.search_path == other.search_path
}
