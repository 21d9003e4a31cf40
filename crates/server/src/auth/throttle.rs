//! Failed logins: after a few of one user from one address, and after more of any users from one
//! address, the next is refused until a delay has passed, which doubles with each failure.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError};

/// What counts for a whole address, in failures of one user.
const ADDRESS_FACTOR: u32 = 10;
/// Past this many remembered, the ones whose delay is long over are forgotten.
const MAX_ENTRIES: usize = 50_000;

/// Who failed: a user from an address, or anyone from it.
type Key = (IpAddr, Option<String>);

struct Entry {
    failures: u32,
    last: Instant,
}

/// See the module's text.
pub struct Throttle {
    /// Failures that cost nothing.
    free: u32,
    first_delay: Duration,
    max_delay: Duration,
    entries: Mutex<FxHashMap<Key, Entry>>,
}

impl Throttle {
    #[must_use]
    pub fn new(free: u32, first_delay: Duration, max_delay: Duration) -> Throttle {
        Throttle {
            free,
            first_delay,
            max_delay,
            entries: Mutex::default(),
        }
    }

    /// Before credentials are looked at.
    ///
    /// # Errors
    /// 53400 while the delay lasts, whether or not the user exists.
    pub fn check(&self, user: &str, address: IpAddr, now: Instant) -> Result<(), SqlError> {
        let entries = self.entries.lock();
        let wait = keys(user, address)
            .into_iter()
            .zip([self.free, self.free.saturating_mul(ADDRESS_FACTOR)])
            .filter_map(|(key, free)| {
                let entry = entries.get(&key)?;
                self.delay(entry.failures, free)
                    .checked_sub(now.saturating_duration_since(entry.last))
            })
            .max();
        match wait.filter(|wait| !wait.is_zero()) {
            None => Ok(()),
            Some(wait) => Err(
                SqlError::new(ErrorCode::TooManyRequests, "too many failed logins").with_hint(
                    format!(
                        "try again in {} s",
                        wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
                    ),
                ),
            ),
        }
    }

    pub fn failed(&self, user: &str, address: IpAddr, now: Instant) {
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_ENTRIES {
            let max = self.max_delay;
            entries.retain(|_, entry| now.saturating_duration_since(entry.last) < max);
            if entries.len() >= MAX_ENTRIES {
                // Everything is recent: somebody with many addresses, whom this cannot stop.
                entries.clear();
            }
        }
        for key in keys(user, address) {
            let entry = entries.entry(key).or_insert(Entry {
                failures: 0,
                last: now,
            });
            // Long ago is forgiven.
            if now.saturating_duration_since(entry.last) > self.max_delay.saturating_mul(2) {
                entry.failures = 0;
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.last = now;
        }
    }

    /// Forgives the user at this address; not the address, where others may still be guessed.
    pub fn succeeded(&self, user: &str, address: IpAddr) {
        let [key, _] = keys(user, address);
        self.entries.lock().remove(&key);
    }

    fn delay(&self, failures: u32, free: u32) -> Duration {
        let Some(beyond) = failures.checked_sub(free.saturating_add(1)) else {
            return Duration::ZERO;
        };
        self.first_delay
            .saturating_mul(2_u32.saturating_pow(beyond))
            .min(self.max_delay)
    }
}

fn keys(user: &str, address: IpAddr) -> [Key; 2] {
    let address = network(address);
    // No name is longer; a longer text would only fill memory.
    let user: String = user.chars().take(64).collect();
    [(address, Some(user)), (address, None)]
}

/// An IPv6 client has a whole /64 of addresses to try from.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(std::net::Ipv6Addr::from(u128::from(address) >> 64 << 64))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_and_is_forgiven() {
        let throttle = Throttle::new(2, Duration::from_secs(1), Duration::from_secs(60));
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let mut now = Instant::now();
        for _ in 0..2 {
            throttle.failed("ann", here, now);
            assert!(throttle.check("ann", here, now).is_ok());
        }
        let mut expected = 1;
        for _ in 0..8 {
            throttle.failed("ann", here, now);
            let refused = throttle.check("ann", here, now).unwrap_err();
            assert_eq!(refused.code, ErrorCode::TooManyRequests);
            now += Duration::from_secs(expected);
            assert!(throttle.check("ann", here, now).is_ok(), "{expected}");
            expected = (expected * 2).min(60);
        }
        throttle.failed("ann", here, now);
        assert!(throttle.check("bob", here, now).is_ok());
        let there: IpAddr = "192.0.2.2".parse().unwrap();
        assert!(throttle.check("ann", there, now).is_ok());
        throttle.succeeded("ann", here);
        assert!(throttle.check("ann", here, now).is_ok());
        for user in 0..20 {
            throttle.failed(&user.to_string(), here, now);
        }
        assert!(
            throttle.check("new", here, now).is_err(),
            "one address, many users"
        );
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let network = |text: &str| super::network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}
