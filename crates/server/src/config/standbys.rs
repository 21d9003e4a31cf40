//! What the settings of standbys have to be together.

use springhead_engine::confirm::SyncLevel;

use super::{Config, ConfigError};
use crate::standby::names::SynchronousStandbys;

impl Config {
    /// Whom commits wait for.
    #[must_use]
    pub fn synchronous(&self) -> SynchronousStandbys {
        self.synchronous_standbys.parse().unwrap_or_default()
    }

    pub(super) fn check_standbys(&self) -> Result<(), ConfigError> {
        let bad = |name, what: String| Err(ConfigError::Impossible { name, what });
        if SyncLevel::parse(&self.synchronous_commit).is_none() {
            return bad(
                "synchronous_commit",
                format!(
                    "is off, local, remote_write, on or remote_apply, and not \"{}\"",
                    self.synchronous_commit
                ),
            );
        }
        if let Err(error) = self.synchronous_standbys.parse::<SynchronousStandbys>() {
            return bad("synchronous_standbys", format!("is no list: {error}"));
        }
        for (name, address) in [
            ("standby_of", &self.standby_of),
            ("advertise", &self.advertise),
        ] {
            if !address.is_empty()
                && let Err(what) = address.parse::<crate::standby::dial::Address>()
            {
                return bad(name, what);
            }
        }
        if self.standby_heartbeat.is_zero() || self.standby_timeout <= self.standby_heartbeat {
            return bad(
                "standby_timeout",
                "must be longer than standby_heartbeat, which must not be 0".to_owned(),
            );
        }
        Ok(())
    }
}
