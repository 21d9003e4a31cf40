//! Holds on retention: named positions that trimming must not pass, each up to its cap.

use std::collections::BTreeMap;

use springhead_proto::Lsn;

use crate::contract::Pin;

/// The pins of one log. In memory only: their owners (consumers, standbys) keep their positions
/// themselves and set their pins again after a start.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    by_name: BTreeMap<String, Pin>,
    /// Dropped for passing their cap and not yet told.
    expired: Vec<String>,
}

impl Pins {
    pub(crate) fn set(&mut self, name: &str, pin: Option<Pin>) {
        match pin {
            Some(pin) => self.by_name.insert(name.to_owned(), pin),
            None => self.by_name.remove(name),
        };
    }

    pub(crate) fn take_expired(&mut self) -> Vec<String> {
        std::mem::take(&mut self.expired)
    }

    /// How far trimming may go when retention alone would trim through `up_to`. A pin that would
    /// hold more than its cap beyond that (`bytes_between(its LSN, up_to)`) is dropped first.
    pub(crate) fn hold_back(&mut self, up_to: Lsn, bytes_between: impl Fn(Lsn, Lsn) -> u64) -> Lsn {
        let expired = &mut self.expired;
        self.by_name.retain(|name, pin| {
            let keep = pin.after >= up_to || bytes_between(pin.after, up_to) <= pin.cap_bytes;
            if !keep {
                expired.push(name.clone());
            }
            keep
        });
        self.by_name
            .values()
            .map(|pin| pin.after)
            .fold(up_to, Lsn::min)
    }
}
