//! set_config(): SET and SET LOCAL as a function. What it sets counts at once, and its session takes it
//! into the transaction's account once the statement has ended ([`SessionContext::configured`]).

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::Context;
#[cfg(doc)]
use super::SessionContext;
use crate::settings;

/// A setting that set_config() has set.
pub struct Configured {
    pub name: String,
    pub value: String,
    /// What it was before, if it was set.
    pub before: Option<String>,
    /// Until the end of the transaction.
    pub local: bool,
}

pub(super) fn register(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    let at = Arc::clone(context);
    let volatile = FunctionFlags::SQLITE_UTF8;
    conn.create_scalar_function("sh_set_config", 3, volatile, move |arguments| {
        let (name, value): (String, Option<String>) = (arguments.get(0)?, arguments.get(1)?);
        let local: Option<bool> = arguments.get(2)?;
        let name = name.to_ascii_lowercase();
        // NULL is the default, which an application's own settings have not.
        let value = value
            .or_else(|| settings::default_of(&name).map(str::to_owned))
            .unwrap_or_default();
        let value = settings::check(&name, &value).map_err(|error| at.fail(error))?;
        let session = at.session();
        let before = session.settings.lock().insert(name.clone(), value.clone());
        session.configured.lock().push(Configured {
            name,
            value: value.clone(),
            before,
            local: local.unwrap_or(false),
        });
        Ok(value)
    })
}
