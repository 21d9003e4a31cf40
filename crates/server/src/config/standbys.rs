//! What the settings of standbys have to be together.

use std::time::Duration;

use springhead_engine::confirm::SyncLevel;
use springhead_log::vote::MAX_DATA_NODES;

use super::{Config, ConfigError};
use crate::standby::names::SynchronousStandbys;

/// Below it every hiccup of a machine would be an election.
const MIN_FAILOVER_TIMEOUT: Duration = Duration::from_millis(200);

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
        self.check_failover()
    }

    fn check_failover(&self) -> Result<(), ConfigError> {
        let bad = |name, what: &str| {
            Err(ConfigError::Impossible {
                name,
                what: what.to_owned(),
            })
        };
        if self.failover_timeout < MIN_FAILOVER_TIMEOUT {
            return bad("failover_timeout", "must be 200ms at least");
        }
        if self.witness.is_empty() {
            return match self.failover_nodes.is_empty() {
                true => Ok(()),
                false => bad(
                    "failover_nodes",
                    "needs a witness: say where it is (witness)",
                ),
            };
        }
        if let Err(what) = self.witness.parse::<crate::standby::dial::Address>() {
            return bad("witness", &what);
        }
        let nodes = &self.failover_nodes;
        if !(2..=MAX_DATA_NODES).contains(&nodes.len()) {
            return bad(
                "failover_nodes",
                "must name the nodes that may lead, two to five, this one among them",
            );
        }
        if nodes
            .iter()
            .enumerate()
            .any(|(place, node)| nodes[..place].contains(node))
        {
            return bad("failover_nodes", "names a node twice");
        }
        if !nodes.contains(&self.node_name) {
            return bad(
                "failover_nodes",
                "does not name this node (node_name); leave `witness` out on a node that is never to lead",
            );
        }
        if self.failover_timeout < self.standby_heartbeat * 2 {
            return bad(
                "failover_timeout",
                "must be twice standby_heartbeat at least",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &[(&str, &str)], expected: Option<&str>) {
        let flags: Vec<_> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let found = Config::load(&flags, &[], None);
        match (found, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(what)) => {
                let text = error.to_string();
                assert!(text.contains(what), "{settings:?}: {text}");
            }
            (found, expected) => panic!("{settings:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn settings_of_automatic_promotion_fit_each_other() {
        let witness = ("witness", "http://w:6480");
        let (nodes, name) = (("failover_nodes", "a,b"), ("node_name", "a"));
        check(&[witness, nodes, name], None);
        check(&[], None);
        check(&[nodes, name], Some("needs a witness"));
        check(&[witness, name], Some("two to five"));
        check(&[witness, ("failover_nodes", "a,a"), name], Some("twice"));
        check(&[witness, nodes, ("node_name", "c")], Some("does not name"));
        check(&[("witness", "http://w:x"), nodes, name], Some("address"));
        let short = ("failover_timeout", "1s");
        check(&[witness, nodes, name, short], Some("twice"));
        check(&[("failover_timeout", "10ms")], Some("200ms"));
    }
}
