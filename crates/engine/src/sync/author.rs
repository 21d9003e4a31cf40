//! Whose a mutation is: what its statements are planned for and run in, and what its dead letter
//! says of where it came from.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{SqlError, TenantId};
use springhead_sql::access::Roles;
use springhead_sql::planner::PlanContext;

use crate::Engine;
use crate::access::{Credential, Principal};
use crate::cdc::Reader;
use crate::dead_letters;
use crate::dead_letters::record::DeviceFacts;
use crate::functions::{SessionContext, now_us};

/// See the module's text.
pub struct Author {
    pub(crate) session: Arc<SessionContext>,
    pub(crate) plan_context: PlanContext,
    pub(crate) principal: Arc<Principal>,
    /// As a dead letter keeps it.
    pub(crate) letter: dead_letters::Author,
    /// Of the sync session; `None` for what does not come from one.
    pub session_id: Option<String>,
    /// The device, as text.
    pub device_id: Option<String>,
    /// Name and version of the program on the device.
    pub client: Option<String>,
    /// As the server has seen it.
    pub remote_address: Option<String>,
    pub user_agent: Option<String>,
}

impl Author {
    /// Whoever `principal` is, with the rights that it has now.
    ///
    /// # Errors
    /// 28000 if it has none any more.
    pub fn new(engine: &Engine, principal: &Arc<Principal>) -> Result<Author, SqlError> {
        let identity = engine.identify(principal)?;
        let session = Reader::new(principal).session(&identity);
        session
            .now_us
            .store(now_us(&**engine.clock()), Ordering::Relaxed);
        let plan_context = PlanContext {
            max_statement_bytes: engine.config().max_statement_bytes,
            identity,
            roles: Roles::new(engine.roles()),
            ..PlanContext::default()
        };
        Ok(Author {
            session,
            plan_context,
            principal: Arc::clone(principal),
            letter: dead_letters::Author {
                username: principal.user.to_string(),
                uid: principal.uid().unwrap_or_default(),
                claims: principal.claims.as_deref().cloned(),
            },
            session_id: None,
            device_id: None,
            client: None,
            remote_address: None,
            user_agent: None,
        })
    }

    /// Whom a dead letter's mutation acts for, with the rights that its role has now. Without users,
    /// whoever is no role may do everything; a role that there is keeps to its rights.
    ///
    /// # Errors
    /// 28000 if it has none any more, 42501 if it may not use the tenant.
    pub fn of_letter(
        engine: &Engine,
        tenant: TenantId,
        letter: &dead_letters::Author,
    ) -> Result<Author, SqlError> {
        let principal = Author::principal_of_letter(engine, letter);
        engine.check_tenant(&principal, tenant)?;
        Author::new(engine, &principal)
    }

    /// As much of whoever it was as decides what it may do.
    pub(crate) fn principal_of_letter(
        engine: &Engine,
        letter: &dead_letters::Author,
    ) -> Arc<Principal> {
        let roles = engine.roles();
        let is_anyone = roles.is_open && roles.get(&letter.username).is_none();
        let credential = match &letter.claims {
            _ if is_anyone => Credential::Open(Arc::default()),
            Some(_) => Credential::Jwt,
            None => Credential::Password,
        };
        Arc::new(Principal {
            uid: Some(letter.uid.as_str().into()),
            claims: letter.claims.clone().map(Arc::new),
            unrestricted: is_anyone,
            ..Principal::of(&letter.username, credential)
        })
    }

    /// What a dead letter says of the device.
    pub(crate) fn facts(&self) -> DeviceFacts<'_> {
        DeviceFacts {
            client_version: self.client.as_deref(),
            remote_addr: self.remote_address.as_deref(),
            user_agent: self.user_agent.as_deref(),
        }
    }

    /// The role that it authenticated as.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.principal.user
    }
}
