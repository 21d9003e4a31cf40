//! An author's rights as they are now, for statements that act for it again.
//!
//! A retry never has more rights than whoever made the mutation, whoever asks for the retry: an
//! operator may be shown a dead letter and may have it tried again, and cannot use it to write what
//! its author could not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{SqlError, TenantId};
use springhead_sql::access::Roles;
use springhead_sql::planner::PlanContext;

use super::Author;
use crate::access::{Credential, Principal};
use crate::cdc::Reader;
use crate::engine::Engine;
use crate::functions::{SessionContext, now_us};

/// What statements for an author are planned with and run in.
pub struct Rights {
    pub(crate) session: Arc<SessionContext>,
    pub(crate) plan_context: PlanContext,
}

impl Engine {
    /// What an author may do now.
    ///
    /// # Errors
    /// 28000 if its role is gone or may not log in any more, 42501 if it may not use the tenant.
    pub(crate) fn author_rights(
        &self,
        tenant: TenantId,
        author: &Author,
    ) -> Result<Arc<Rights>, SqlError> {
        let roles = self.roles();
        // Without users, whoever is none may do everything; a role that there is keeps to its rights.
        let is_anyone = roles.is_open && roles.get(&author.username).is_none();
        let credential = match &author.claims {
            _ if is_anyone => Credential::Open(Arc::default()),
            Some(_) => Credential::Jwt,
            None => Credential::Password,
        };
        let principal = Arc::new(Principal {
            uid: Some(author.uid.as_str().into()),
            claims: author.claims.clone().map(Arc::new),
            unrestricted: is_anyone,
            ..Principal::of(&author.username, credential)
        });
        self.check_tenant(&principal, tenant)?;
        let identity = self.identify(&principal)?;
        let session = Reader::new(&principal).session(&identity);
        let now = now_us(&**self.clock());
        session.now_us.store(now, Ordering::Relaxed);
        Ok(Arc::new(Rights {
            session,
            plan_context: PlanContext {
                max_statement_bytes: self.config().max_statement_bytes,
                identity,
                roles: Roles::new(roles),
                ..PlanContext::default()
            },
        }))
    }
}
