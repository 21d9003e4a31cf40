//! What a feed's reader sees: the one decision ([`springhead_sql::access::decide`]) for every
//! collection that a feed is about, compiled to conditions on row images.
//!
//! Compiled once for each identity and catalog version ([`Sight`]), and shared by all readers of
//! that identity whose policies ask for nothing else, or whose credentials say the same about what
//! they ask for ([`Asked`]): the cost is per policy, role and claims, not per subscriber.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, SqlError};
use springhead_sql::Catalog;
use springhead_sql::access::{Columns, Identity, Object, Roles, Rows, Use, decide};
use springhead_sql::catalog::{Privilege, Table};
use springhead_sql::filter::{PolicyFilter, plan_policy};
use springhead_sql::planner::PlanContext;
use springhead_sql::program::Library;

use crate::Engine;
use crate::access::Principal;
use crate::functions::SessionContext;

/// Who reads a feed.
#[derive(Debug, Clone)]
pub struct Reader {
    principal: Arc<Principal>,
    /// A session's present role; `None` for whatever the principal may do at the time.
    fixed: Option<Arc<Identity>>,
}

impl Reader {
    /// Whoever authenticated, with the rights that it has when a change is delivered.
    #[must_use]
    pub fn new(principal: &Arc<Principal>) -> Reader {
        Reader {
            principal: Arc::clone(principal),
            fixed: None,
        }
    }

    /// A session that acts for a role, for the time of one statement.
    #[must_use]
    pub fn acting(principal: &Arc<Principal>, identity: &Arc<Identity>) -> Reader {
        Reader {
            principal: Arc::clone(principal),
            fixed: Some(Arc::clone(identity)),
        }
    }

    /// What it may do now.
    ///
    /// # Errors
    /// 28000 if nothing any more.
    pub fn identify(&self, engine: &Engine) -> Result<Arc<Identity>, SqlError> {
        match &self.fixed {
            Some(identity) => Ok(Arc::clone(identity)),
            None => engine.identify(&self.principal),
        }
    }

    /// What its credentials say about what policies ask for.
    pub(crate) fn answers(&self, asked: Asked) -> Answers {
        let mut answers = Vec::new();
        if asked.uid {
            answers.push(self.principal.uid());
        }
        if asked.claims {
            let claims = self.principal.claims.as_ref();
            answers.push(claims.map(|claims| claims.to_string()));
        }
        if asked.user {
            answers.push(Some(self.principal.user.to_string()));
        }
        answers
    }

    /// The session that policies are evaluated for.
    pub(crate) fn session(&self, identity: &Identity) -> Arc<SessionContext> {
        let session = SessionContext {
            principal: Mutex::new(Some(Arc::clone(&self.principal))),
            ..SessionContext::default()
        };
        {
            let mut settings = session.settings.lock();
            for name in ["current_user", "user"] {
                settings.insert(name.to_owned(), identity.role.to_string());
            }
            settings.insert("session_user".to_owned(), self.principal.user.to_string());
        }
        Arc::new(session)
    }
}

/// What policies ask about a reader besides its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    uid: bool,
    claims: bool,
    user: bool,
}

/// See [`Reader::answers`].
pub(crate) type Answers = Vec<Option<String>>;

impl Asked {
    fn of(sql: &str) -> Asked {
        Asked {
            uid: sql.contains("sh_auth_uid"),
            claims: sql.contains("sh_auth_claim"),
            user: sql.contains("'session_user'"),
        }
    }

    fn and(self, other: Asked) -> Asked {
        Asked {
            uid: self.uid || other.uid,
            claims: self.claims || other.claims,
            user: self.user || other.user,
        }
    }
}

/// What one identity sees of one collection.
#[derive(Debug)]
pub(crate) struct TableSight {
    pub columns: Columns,
    /// `None` for all rows.
    pub policy: Option<Arc<PolicyFilter>>,
    /// Whether it is told how the collection was defined.
    pub owns: bool,
    asked: Asked,
}

/// What one identity sees of a catalog.
pub(crate) struct Sight {
    pub identity: Arc<Identity>,
    pub catalog: Arc<Catalog>,
    /// The roles that it was decided by.
    pub roles: Roles,
    tables: Mutex<FxHashMap<CollectionId, Result<Arc<TableSight>, SqlError>>>,
}

impl Sight {
    pub(crate) fn new(identity: Arc<Identity>, catalog: Arc<Catalog>, roles: Roles) -> Sight {
        Sight {
            identity,
            catalog,
            roles,
            tables: Mutex::default(),
        }
    }

    /// What its policies are planned with.
    fn context(&self) -> PlanContext {
        PlanContext {
            identity: Arc::clone(&self.identity),
            roles: self.roles.clone(),
            ..PlanContext::default()
        }
    }

    /// The session that policies are evaluated for, for one reader of this identity.
    pub(crate) fn session(&self, reader: &Reader) -> Arc<SessionContext> {
        let session = reader.session(&self.identity);
        *session.library.lock() = Library::of(&self.catalog, &self.context());
        session
    }

    /// What is seen of a collection.
    ///
    /// # Errors
    /// 42501 if nothing; 0A000 for a policy that cannot be evaluated on a row image; 42P01 for a
    /// collection that is not there any more.
    pub(crate) fn table(&self, collection: CollectionId) -> Result<Arc<TableSight>, SqlError> {
        if let Some(known) = self.tables.lock().get(&collection) {
            return known.clone();
        }
        let made = self.decide(collection).map(Arc::new);
        self.tables.lock().insert(collection, made.clone());
        made
    }

    fn decide(&self, collection: CollectionId) -> Result<TableSight, SqlError> {
        let Some(table) = self.catalog.table(collection) else {
            return Err(SqlError::new(
                springhead_proto::ErrorCode::UndefinedTable,
                "the collection has been dropped",
            ));
        };
        let used = Use {
            privilege: Privilege::Select,
            columns: &[],
        };
        let sight = decide(&self.identity, Object::Table(table), used)?;
        let policy = match &sight.rows {
            Rows::All => None,
            Rows::By(rule) => {
                let policy = plan_policy(&self.catalog, table, rule, &self.context())?;
                Some(Arc::new(policy))
            }
        };
        Ok(TableSight {
            asked: policy
                .as_ref()
                .map_or_else(Asked::default, |policy| Asked::of(&policy.image.sql)),
            owns: self.identity.is_member_of(table.access.owner()),
            columns: sight.columns,
            policy,
        })
    }

    /// What the policies of a feed's collections ask about the reader: of the one named, or of all.
    pub(crate) fn asked(&self, named: Option<&Table>) -> Asked {
        self.each(named)
            .fold(Asked::default(), |all, table| all.and(table.asked))
    }

    /// Whether the policies of a feed's collections look at other tables: of the one named, or of any.
    pub(crate) fn looks(&self, named: Option<&Table>) -> bool {
        self.each(named)
            .any(|table| table.policy.as_ref().is_some_and(|policy| policy.looks))
    }

    /// What is seen of the collection named, or of all that may be read.
    fn each(&self, named: Option<&Table>) -> impl Iterator<Item = Arc<TableSight>> {
        let ids: Vec<CollectionId> = match named {
            Some(table) => vec![table.collection()],
            None => (self.catalog.tables_by_id().into_iter())
                .map(|table| table.collection())
                .filter(|id| !id.is_system())
                .collect(),
        };
        ids.into_iter().filter_map(|id| self.table(id).ok())
    }
}
