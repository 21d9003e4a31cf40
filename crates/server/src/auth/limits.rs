//! How often a client may ask: requests and statements of a user, of an address, and of a tenant,
//! each within a second. Off unless configured.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError, TenantId};

use super::throttle::network;
use crate::config::Config;

/// Past this many, those that have not been seen for a second are forgotten.
const MAX_ENTRIES: usize = 50_000;

/// All limits of a node.
pub struct Limits {
    per_user: Rate<Arc<str>>,
    per_address: Rate<IpAddr>,
    per_tenant: Rate<TenantId>,
}

impl Limits {
    #[must_use]
    pub fn new(config: &Config) -> Limits {
        Limits {
            per_user: Rate::new("rate_limit_per_user", config.rate_limit_per_user),
            per_address: Rate::new("rate_limit_per_address", config.rate_limit_per_address),
            per_tenant: Rate::new("rate_limit_per_tenant", config.rate_limit_per_tenant),
        }
    }

    /// Before the credentials of a request are looked at.
    ///
    /// # Errors
    /// 53400.
    pub fn address(&self, address: IpAddr) -> Result<(), SqlError> {
        self.per_address.take(|| network(address))
    }

    /// A request or a statement of a user or token.
    ///
    /// # Errors
    /// 53400.
    pub fn user(&self, user: &Arc<str>) -> Result<(), SqlError> {
        self.per_user.take(|| Arc::clone(user))
    }

    /// A request or a statement in a tenant.
    ///
    /// # Errors
    /// 53400.
    pub fn tenant(&self, tenant: TenantId) -> Result<(), SqlError> {
        self.per_tenant.take(|| tenant)
    }
}

/// So many a second each, and as many at once (the generic cell rate algorithm).
struct Rate<K> {
    setting: &'static str,
    /// What one takes of the second; `None` for no limit.
    cost: Option<Duration>,
    /// When each is back to having all of its second.
    full_at: Mutex<FxHashMap<K, Instant>>,
}

impl<K: Eq + Hash> Rate<K> {
    fn new(setting: &'static str, per_second: u32) -> Rate<K> {
        Rate {
            setting,
            cost: (per_second > 0).then(|| Duration::from_secs(1) / per_second),
            full_at: Mutex::default(),
        }
    }

    fn take(&self, key: impl FnOnce() -> K) -> Result<(), SqlError> {
        match self.cost {
            None => Ok(()),
            Some(cost) => self.take_at(key(), cost, Instant::now()),
        }
    }

    fn take_at(&self, key: K, cost: Duration, now: Instant) -> Result<(), SqlError> {
        let mut full_at = self.full_at.lock();
        if full_at.len() >= MAX_ENTRIES && !full_at.contains_key(&key) {
            full_at.retain(|_, full| *full > now);
        }
        let full = full_at.entry(key).or_insert(now);
        let next = (*full).max(now) + cost;
        if next > now + Duration::from_secs(1) {
            return Err(
                SqlError::new(ErrorCode::TooManyRequests, "too many requests")
                    .with_detail(format!("the limit is {}", self.setting))
                    .with_hint("wait a second"),
            );
        }
        *full = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_no_more() {
        let rate: Rate<u32> = Rate::new("x", 10);
        let cost = rate.cost.unwrap();
        let start = Instant::now();
        let taken = |key, at| {
            (0..100)
                .filter(|_| rate.take_at(key, cost, at).is_ok())
                .count()
        };
        assert_eq!(taken(1, start), 10);
        assert_eq!(taken(2, start), 10);
        assert_eq!(taken(1, start + Duration::from_millis(500)), 5);
        assert_eq!(taken(1, start + Duration::from_secs(60)), 10);
        let off: Rate<u32> = Rate::new("x", 0);
        assert!((0..1000).all(|_| off.take(|| 1).is_ok()));
    }
}
