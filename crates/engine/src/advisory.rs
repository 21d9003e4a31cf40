//! Advisory locks of a tenant: who holds which, who waits for which. In memory alone: a lock is its
//! session's, and ends with it. Called by sessions; no lock of the database itself is known here, and
//! nothing is ever waited for while the table is locked.
//! Source: PostgreSQL 15, section 13.3.5 "Advisory Locks".

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Locks that one session may hold at a time.
pub(crate) const MAX_PER_SESSION: usize = 10_000;

/// A session, by its process id.
pub(crate) type Owner = i32;

/// What is locked. The two kinds never meet, as in PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    One(i64),
    Two(i32, i32),
}

/// A lock as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub key: Key,
    pub shared: bool,
    pub transaction: bool,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// Another session holds it.
    No,
    /// [`MAX_PER_SESSION`].
    TooMany,
    /// Whoever holds it waits for us.
    Deadlock,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct AdvisoryLocks {
    state: Mutex<State>,
    /// Told whenever something is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    holds: FxHashMap<Key, Vec<Hold>>,
    /// How many entries of `holds` are whose.
    held: FxHashMap<Owner, usize>,
    waiting: FxHashMap<Owner, Wanted>,
}

/// One session's hold of one key in one way; never with a count of 0.
#[derive(Debug)]
struct Hold {
    owner: Owner,
    shared: bool,
    transaction: bool,
    count: u64,
}

impl AdvisoryLocks {
    /// Takes a lock if nobody else's stands against it.
    pub fn take(&self, owner: Owner, wanted: Wanted) -> Taken {
        self.state.lock().take(owner, wanted)
    }

    /// To be called before each [`AdvisoryLocks::take_or_wait`], and waited for after it: what is given
    /// back in between is not missed.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// As [`AdvisoryLocks::take`], and notes who waits for what if it cannot be had.
    pub fn take_or_wait(&self, owner: Owner, wanted: Wanted) -> Taken {
        let mut state = self.state.lock();
        let taken = state.take(owner, wanted);
        if taken != Taken::No {
            state.waiting.remove(&owner);
            return taken;
        }
        state.waiting.insert(owner, wanted);
        if state.waits_for_itself(owner) {
            state.waiting.remove(&owner);
            return Taken::Deadlock;
        }
        Taken::No
    }

    /// It waits no longer.
    pub fn give_up(&self, owner: Owner) {
        self.state.lock().waiting.remove(&owner);
    }

    /// Gives back a session's lock, once; whether there was one.
    pub fn unlock(&self, owner: Owner, key: Key, shared: bool) -> bool {
        let freed = self.state.lock().release(owner, key, |hold| {
            !hold.transaction && hold.shared == shared
        });
        self.freed.notify_waiters();
        freed
    }

    /// Gives back all that a session holds: with `transaction` what ends with the transaction, without
    /// it what does not.
    pub fn unlock_all(&self, owner: Owner, transaction: bool) {
        let mut state = self.state.lock();
        if !state.held.contains_key(&owner) {
            return;
        }
        let mut left = 0;
        state.holds.retain(|_, holds| {
            holds.retain(|hold| hold.owner != owner || hold.transaction != transaction);
            left += holds.iter().filter(|hold| hold.owner == owner).count();
            !holds.is_empty()
        });
        if left == 0 {
            state.held.remove(&owner);
        } else {
            state.held.insert(owner, left);
        }
        drop(state);
        self.freed.notify_waiters();
    }
}

impl State {
    fn take(&mut self, owner: Owner, wanted: Wanted) -> Taken {
        if self.against(owner, wanted).next().is_some() {
            return Taken::No;
        }
        let holds = self.holds.entry(wanted.key).or_default();
        let same = holds.iter_mut().find(|hold| {
            hold.owner == owner
                && hold.shared == wanted.shared
                && hold.transaction == wanted.transaction
        });
        if let Some(hold) = same {
            hold.count += 1;
            return Taken::Yes;
        }
        let held = self.held.entry(owner).or_default();
        if *held >= MAX_PER_SESSION {
            if holds.is_empty() {
                self.holds.remove(&wanted.key);
            }
            return Taken::TooMany;
        }
        *held += 1;
        holds.push(Hold {
            owner,
            shared: wanted.shared,
            transaction: wanted.transaction,
            count: 1,
        });
        Taken::Yes
    }

    /// Whose locks stand against it.
    fn against(&self, owner: Owner, wanted: Wanted) -> impl Iterator<Item = Owner> {
        let holds = self.holds.get(&wanted.key).map_or(&[][..], Vec::as_slice);
        holds
            .iter()
            .filter(move |hold| hold.owner != owner && !(hold.shared && wanted.shared))
            .map(|hold| hold.owner)
    }

    /// Whether whoever it waits for waits, in the end, for it.
    fn waits_for_itself(&self, owner: Owner) -> bool {
        let mut seen = FxHashSet::default();
        let mut next = vec![owner];
        while let Some(waiter) = next.pop() {
            let Some(&wanted) = self.waiting.get(&waiter) else {
                continue;
            };
            for holder in self.against(waiter, wanted) {
                if holder == owner {
                    return true;
                }
                if seen.insert(holder) {
                    next.push(holder);
                }
            }
        }
        false
    }

    fn release(&mut self, owner: Owner, key: Key, is_it: impl Fn(&Hold) -> bool) -> bool {
        let Some(holds) = self.holds.get_mut(&key) else {
            return false;
        };
        let place = holds
            .iter()
            .position(|hold| hold.owner == owner && is_it(hold));
        let Some(place) = place else {
            return false;
        };
        holds[place].count -= 1;
        if holds[place].count > 0 {
            return true;
        }
        holds.swap_remove(place);
        if holds.is_empty() {
            self.holds.remove(&key);
        }
        if let Some(held) = self.held.get_mut(&owner) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&owner);
            }
        }
        true
    }
}

/// Notes that a session waits no longer, however its wait ends.
pub(crate) struct Waiting {
    pub locks: Arc<AdvisoryLocks>,
    pub owner: Owner,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.locks.give_up(self.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn wanted(key: i64, shared: bool, transaction: bool) -> Wanted {
        Wanted {
            key: Key::One(key),
            shared,
            transaction,
        }
    }

    #[test]
    fn shared_locks_share_and_counts_count() {
        let locks = AdvisoryLocks::default();
        let (shared, alone) = (wanted(1, true, false), wanted(1, false, false));
        assert_eq!(locks.take(1, shared), Taken::Yes);
        assert_eq!(locks.take(2, shared), Taken::Yes);
        assert_eq!(locks.take(2, alone), Taken::No);
        assert!(locks.unlock(1, Key::One(1), true));
        assert!(!locks.unlock(1, Key::One(1), true));
        assert_eq!(locks.take(2, alone), Taken::Yes);
        assert_eq!(locks.take(2, alone), Taken::Yes);
        assert!(locks.unlock(2, Key::One(1), false));
        assert_eq!(locks.take(1, shared), Taken::No);
        assert_eq!(locks.take(1, wanted(2, false, false)), Taken::Yes);
        locks.unlock_all(2, false);
        assert_eq!(locks.take(1, shared), Taken::Yes);
        locks.unlock_all(1, false);
        assert!(locks.state.lock().holds.is_empty() && locks.state.lock().held.is_empty());
    }

    #[test]
    fn a_transaction_s_locks_are_not_the_session_s() {
        let locks = AdvisoryLocks::default();
        assert_eq!(locks.take(1, wanted(1, false, true)), Taken::Yes);
        assert!(!locks.unlock(1, Key::One(1), false));
        locks.unlock_all(1, false);
        assert_eq!(locks.take(2, wanted(1, false, false)), Taken::No);
        locks.unlock_all(1, true);
        assert_eq!(locks.take(2, wanted(1, false, false)), Taken::Yes);
    }

    #[test]
    fn whoever_closes_a_circle_is_told() {
        let locks = AdvisoryLocks::default();
        for owner in 1..=3 {
            let key = i64::from(owner);
            assert_eq!(locks.take(owner, wanted(key, false, false)), Taken::Yes);
        }
        assert_eq!(locks.take_or_wait(1, wanted(2, false, false)), Taken::No);
        assert_eq!(locks.take_or_wait(2, wanted(3, false, false)), Taken::No);
        let closing = wanted(1, true, false);
        assert_eq!(locks.take_or_wait(3, closing), Taken::Deadlock);
        locks.give_up(1);
        assert_eq!(locks.take_or_wait(3, closing), Taken::No);
    }

    #[test]
    fn nobody_holds_too_many() {
        let locks = AdvisoryLocks::default();
        for key in 0..i64::try_from(MAX_PER_SESSION).unwrap_or(0) {
            assert_eq!(locks.take(1, wanted(key, false, false)), Taken::Yes);
        }
        assert_eq!(locks.take(1, wanted(-1, false, false)), Taken::TooMany);
        assert_eq!(locks.take(2, wanted(-1, false, false)), Taken::Yes);
    }
}
