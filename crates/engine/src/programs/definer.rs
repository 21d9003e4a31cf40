//! SECURITY DEFINER: while such a function runs, its owner is who asks.

use std::sync::Arc;

use springhead_proto::SqlError;

use super::Runner;

/// The settings that say whose rights count.
const CURRENT_USER: [&str; 2] = ["current_user", "user"];

impl Runner<'_> {
    /// Runs `run` with the rights of the owner of the routine `id` if it is SECURITY DEFINER, and as it
    /// is otherwise.
    pub(super) fn as_definer<T>(
        &self,
        id: u32,
        run: impl FnOnce(&Runner<'_>) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let routine = self.library.catalog.routines.get(&id);
        let Some(routine) = routine.filter(|routine| routine.definer) else {
            return run(self);
        };
        let owner = routine.access.owner();
        let runner = Runner {
            conn: self.conn,
            context: self.context,
            library: self.library.acting(owner)?,
        };
        // What the body calls in turn finds its programs, and who asks, in the session.
        let session = self.context.session();
        let outer = session.library.lock().replace(Arc::clone(&runner.library));
        let users = CURRENT_USER.map(|name| {
            let mut settings = session.settings.lock();
            (name, settings.insert(name.to_owned(), owner.to_owned()))
        });
        let result = run(&runner);
        let mut settings = session.settings.lock();
        for (name, before) in users {
            match before {
                Some(before) => settings.insert(name.to_owned(), before),
                None => settings.remove(name),
            };
        }
        *session.library.lock() = outer;
        result
    }
}
