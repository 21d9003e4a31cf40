//! What a live query is opened with. All queries of one text by one client share an [`Asked`]; what
//! is each query's own are its parameters, which are data.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, Row, RowRef, SchemaVersion, SqlError, Value, ValueRef};
use springhead_sql::PgType;
use springhead_sql::access::{Identity, Roles};
use springhead_sql::catalog::Table;
use springhead_sql::live::{LiveOptions, LivePlan};
use springhead_sql::plan::{LiveSelect, PlanKind};
use springhead_sql::planner::{PlanContext, plan_live_select};

use super::shadow::image_query;
use crate::access::Principal;
use crate::functions::SessionContext;
use crate::session::{ParamValue, convert_one};
use crate::{Engine, Tenant};

/// For whom a query is evaluated.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub principal: Arc<Principal>,
    /// SET SESSION AUTHORIZATION and SET ROLE, where a session has set them.
    pub acts_as: Option<(String, Option<String>)>,
}

/// See the module's text.
pub(crate) struct Asked {
    pub plan: Arc<LivePlan>,
    pub sql: Arc<str>,
    pub recompute: bool,
    pub who: Who,
    pub context: PlanContext,
    pub session: Arc<SessionContext>,
    /// See [`AskedKey::settings`].
    pub settings: String,
    /// The query over one row image, for the schema version that was seen last.
    image_sql: Mutex<Option<(SchemaVersion, Arc<str>)>>,
}

/// One query: what it shares with others, and its parameters.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub asked: Arc<Asked>,
    pub params: Params,
}

/// The values of `$1`, `$2`, … as one encoded row.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Params(Arc<[u8]>);

/// Queries that are asked alike.
#[derive(PartialEq, Eq, Hash)]
struct AskedKey {
    sql: Arc<str>,
    recompute: bool,
    context: PlanContext,
    /// Its claims and all else that policies may look at.
    who: String,
    /// Settings that a session has changed, which the query may look at.
    settings: String,
}

/// What is asked in one tenant now.
#[derive(Default)]
pub(crate) struct AskedBook {
    known: Mutex<FxHashMap<AskedKey, Weak<Asked>>>,
}

/// What a session or a request brings along.
pub(crate) struct Asker {
    pub who: Who,
    pub context: PlanContext,
    pub session: Arc<SessionContext>,
    /// See [`AskedKey::settings`].
    pub settings: String,
}

impl Params {
    pub(crate) fn new(values: &[Value]) -> Params {
        Params(Row::from_values(values.iter().map(Value::as_ref)).bytes()[..].into())
    }

    pub(crate) fn values(&self) -> Vec<Value> {
        (self.row().values()).map(ValueRef::to_owned).collect()
    }

    pub(crate) fn get(&self, index: usize) -> ValueRef<'_> {
        self.row().get(index).unwrap_or(ValueRef::Null)
    }

    fn row(&self) -> RowRef<'_> {
        RowRef::parse(&self.0).expect("it was made from values")
    }
}

impl Prepared {
    pub(crate) fn plan(&self) -> &Arc<LivePlan> {
        &self.asked.plan
    }
}

impl Who {
    pub(crate) fn identify(&self, engine: &Engine) -> Result<Arc<Identity>, SqlError> {
        match &self.acts_as {
            None => engine.identify(&self.principal),
            Some((user, role)) => {
                engine.identify_as(&engine.roles(), &self.principal, user, role.as_deref())
            }
        }
    }

    /// Whether rows look the same to both: they are the same user with the same claims.
    pub(crate) fn sees_as(&self, other: &Who) -> bool {
        let (a, b) = (&self.principal, &other.principal);
        self.acts_as == other.acts_as
            && a.user == b.user
            && a.uid == b.uid
            && a.claims == b.claims
            && a.unrestricted == b.unrestricted
            && a.tenant == b.tenant
    }

    fn text(&self) -> String {
        // Where a client is makes no difference to what it sees.
        let principal = Principal {
            address: None,
            ..(*self.principal).clone()
        };
        format!("{principal:?} {:?}", self.acts_as)
    }
}

impl Asked {
    /// The text that evaluates a filter over an image of `table`.
    pub(crate) fn image_sql(&self, table: &Table) -> Arc<str> {
        let mut known = self.image_sql.lock();
        match &*known {
            Some((version, sql)) if *version == table.version() => Arc::clone(sql),
            _ => {
                let sql: Arc<str> = image_query(&self.plan, table).into();
                *known = Some((table.version(), Arc::clone(&sql)));
                sql
            }
        }
    }

    /// Plans it again against what is defined and allowed now.
    ///
    /// # Errors
    /// Why it is no longer to be answered.
    pub(crate) fn plan_again(
        &self,
        engine: &Engine,
        tenant: &Tenant,
    ) -> Result<(LiveSelect, PlanContext), SqlError> {
        let context = PlanContext {
            identity: self.who.identify(engine)?,
            roles: Roles::new(engine.roles()),
            ..self.context.clone()
        };
        let types: Vec<Option<PgType>> = (self.plan.parameters.iter())
            .map(|parameter| Some(parameter.pg_type.clone()))
            .collect();
        let text = match self.recompute {
            true => format!("{} WITH (recompute)", self.sql),
            false => self.sql.to_string(),
        };
        let select = plan_live_select(&tenant.catalog(), &text, &types, &context)?;
        Ok((select, context))
    }
}

impl AskedBook {
    /// Those who ask alike share one.
    pub(crate) fn share(&self, asker: Asker, select: &LiveSelect) -> Arc<Asked> {
        let key = AskedKey {
            sql: Arc::clone(&select.sql),
            recompute: select.options.recompute,
            context: asker.context.clone(),
            who: asker.who.text(),
            settings: asker.settings.clone(),
        };
        let mut known = self.known.lock();
        if let Some(asked) = known.get(&key).and_then(Weak::upgrade)
            && asked.plan.catalog_version == select.plan.catalog_version
        {
            return asked;
        }
        if known.len() >= 64 && known.len().is_power_of_two() {
            known.retain(|_, asked| asked.strong_count() > 0);
        }
        let asked = Arc::new(Asked {
            plan: Arc::clone(&select.plan),
            sql: Arc::clone(&select.sql),
            recompute: select.options.recompute,
            who: asker.who,
            context: asker.context,
            session: asker.session,
            settings: asker.settings,
            image_sql: Mutex::default(),
        });
        known.insert(key, Arc::downgrade(&asked));
        asked
    }
}

/// Who asks over a protocol that has no sessions.
///
/// # Errors
/// 28000 and 42501 for who may not.
pub(crate) async fn asker(
    engine: &Engine,
    tenant: &Tenant,
    principal: &Arc<Principal>,
) -> Result<Asker, SqlError> {
    let session = engine.session(tenant.id(), principal).await?;
    let (context, session) = session.contexts();
    let who = Who {
        principal: Arc::clone(principal),
        acts_as: None,
    };
    Ok(Asker {
        context: PlanContext {
            identity: who.identify(engine)?,
            roles: Roles::new(engine.roles()),
            ..context
        },
        session,
        who,
        settings: String::new(),
    })
}

/// Plans a query; plans of texts with parameters are kept.
///
/// # Errors
/// What is wrong with it, and why it cannot be kept true.
pub(crate) fn plan(
    tenant: &Tenant,
    sql: &str,
    recompute: bool,
    context: &PlanContext,
) -> Result<LiveSelect, SqlError> {
    let trimmed = sql.trim_start();
    let is_live = trimmed
        .split_whitespace()
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("live"));
    let mut text = match is_live {
        true => trimmed.to_owned(),
        false => format!("LIVE {trimmed}"),
    };
    if recompute {
        let (query, options) = springhead_sql::live::read_live(&text)?;
        if !options.recompute {
            text = format!("LIVE {query} WITH (recompute)");
        }
    }
    let plan = tenant.plans.text(&tenant.catalog(), &text, &[], context)?;
    match &plan.kind {
        PlanKind::Live(select) => Ok(select.clone()),
        _ => Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            "this query cannot be kept true as a live query: it is no SELECT",
        )),
    }
}

/// Converts a client's parameters.
///
/// # Errors
/// 08P01 if there are too few or too many; what is wrong with one.
pub(crate) fn convert(plan: &LivePlan, given: &[ParamValue<'_>]) -> Result<Params, SqlError> {
    if plan.parameters.len() != given.len() {
        return Err(SqlError::new(
            ErrorCode::ProtocolViolation,
            format!(
                "the query takes {} parameters, and {} were given",
                plan.parameters.len(),
                given.len()
            ),
        ));
    }
    let values: Vec<Value> = (plan.parameters.iter().zip(given))
        .map(|(parameter, value)| convert_one(parameter, *value))
        .collect::<Result<_, _>>()?;
    Ok(Params::new(&values))
}

/// Options of a request, those after its query included.
///
/// # Errors
/// 22023 for an option that is none.
pub(crate) fn options(given: &LiveOptions, in_text: LiveOptions) -> LiveOptions {
    LiveOptions {
        recompute: given.recompute || in_text.recompute,
        snapshot: given.snapshot.or(in_text.snapshot),
        before: given.before || in_text.before,
        upsert: given.upsert || in_text.upsert,
        squash_ms: given.squash_ms.max(in_text.squash_ms),
        refetch: given.refetch || in_text.refetch,
        cursor: given.cursor.clone().or(in_text.cursor),
    }
}
