//! Which sessions have a process id that others know: pg_cancel_backend() and pg_terminate_backend().
//! A session is known to those of its tenant alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError, TenantId};

use crate::functions::{Context, SessionContext};
use crate::session::Canceller;

/// The sessions of all tenants, by process id.
#[derive(Default)]
pub struct Backends {
    /// How many there have been, known or not.
    begun: AtomicU64,
    sessions: Mutex<FxHashMap<i32, Backend>>,
}

struct Backend {
    tenant: TenantId,
    user: Arc<str>,
    canceller: Canceller,
}

impl Backends {
    /// A process id, unique in the process and positive.
    pub fn next_id(&self) -> i32 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        i32::try_from(number % 0x7fff_fffe).unwrap_or(0) + 1
    }

    /// A session is there.
    pub fn enter(&self, process_id: i32, tenant: TenantId, user: &Arc<str>, canceller: Canceller) {
        let backend = Backend {
            tenant,
            user: Arc::clone(user),
            canceller,
        };
        self.sessions.lock().insert(process_id, backend);
    }

    /// It is gone.
    pub fn leave(&self, process_id: i32) {
        self.sessions.lock().remove(&process_id);
    }

    /// Ends what a session of `tenant` runs now, with `ends` the session itself; whether there is such a
    /// session. `user`: whoever asks may do that to sessions of this user alone.
    ///
    /// # Errors
    /// 42501 for a session of somebody else's.
    pub fn signal(
        &self,
        process_id: i32,
        tenant: TenantId,
        user: Option<&str>,
        ends: bool,
    ) -> Result<bool, SqlError> {
        let canceller = {
            let sessions = self.sessions.lock();
            let Some(backend) = sessions.get(&process_id).filter(|b| b.tenant == tenant) else {
                return Ok(false);
            };
            if user.is_some_and(|user| *user != *backend.user) {
                let (what, query) = if ends {
                    ("terminate", "process")
                } else {
                    ("cancel", "query")
                };
                return Err(SqlError::new(
                    ErrorCode::InsufficientPrivilege,
                    format!(
                        "must be a member of the role whose {query} is being {what}ed or member of pg_signal_backend"
                    ),
                ));
            }
            backend.canceller.clone()
        };
        if ends {
            canceller.terminate();
        } else {
            canceller.cancel();
        }
        Ok(true)
    }
}

/// `sh_signal(process id, whether the session is to end)`, and what sessions say of their notifications.
pub fn register(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    let utf8 = FunctionFlags::SQLITE_UTF8;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_notification_queue_usage", 0, utf8, move |_| {
        let session = at.session();
        Ok(session.queue_usage.as_ref().map_or(0.0, |usage| usage()))
    })?;
    let at = Arc::clone(context);
    conn.create_scalar_function("sh_signal", 2, utf8, move |arguments| {
        let (process_id, ends): (i32, bool) = (arguments.get(0)?, arguments.get(1)?);
        let found = signal(&at.session(), process_id, ends);
        let found = found.map_err(|error| at.fail(error))?;
        if !found {
            at.notice(SqlError::new(
                ErrorCode::Warning,
                format!("PID {process_id} is not a PostgreSQL server process"),
            ));
        }
        Ok(found)
    })
}

fn signal(session: &SessionContext, process_id: i32, ends: bool) -> Result<bool, SqlError> {
    let Some((backends, tenant)) = &session.backends else {
        return Ok(false);
    };
    let user = session.setting("current_user").unwrap_or_default();
    let may_all = session.setting("is_superuser").as_deref() == Some("on");
    backends.signal(process_id, *tenant, (!may_all).then_some(&*user), ends)
}
