//! Judges a [`History`]: acknowledged ⊆ log, nothing twice, transactions whole, per-client order,
//! nothing shown and then lost, readers gap-free, state == replay of the log.
//!
//! Called at the end of every scenario. Knows nothing of how the run was made, and is itself held
//! to account by `tests/checker.rs`, which gives it histories that are wrong in every way it names.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;

use crate::history::{After, Attempt, Change, Effect, History, Operation, Outcome, Reading};

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    /// What exactly, for people.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// The promises, by how they are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Acknowledged and not in the log (G1).
    Lost,
    /// In the log although it was refused, or nobody sent it (G1).
    Ghost,
    /// In the log twice (G2).
    Repeated,
    /// LSNs that do not rise, or times that fall (G2).
    Disordered,
    /// An LSN of the feed is missing where none may be (G2).
    Hole,
    /// Part of a transaction (G3).
    Torn,
    /// A client's transactions in another order than it sent them, or a commit ahead of one that
    /// was acknowledged before it was sent (G2).
    Overtaken,
    /// Acknowledged at an LSN where the log has something else (G1).
    WrongLsn,
    /// A change whose old row is not the row there was (state).
    BadBefore,
    /// The state is not the replay of the log.
    StateDiffers,
    /// A reader was shown what the log does not hold (G1).
    ShownThenLost,
    /// A reader was not shown what the log holds (G2).
    Missed,
    /// A reader was shown a change twice or out of order (G2).
    ShownAgain,
}

/// Everything that is wrong with `history`; empty when it keeps every promise.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    check_sequence(history, &mut found);
    let transactions = transactions(&history.log, &mut found);
    check_attempts(history, &transactions, &mut found);
    check_state(history, &mut found);
    for reading in &history.readings {
        check_reading(&history.log, reading, &mut found);
    }
    found
}

/// How many attempts were acknowledged: what the check was worth.
#[must_use]
pub fn acknowledged(history: &History) -> u64 {
    let all = history.clients.iter().flatten();
    all.filter(|attempt| matches!(attempt.outcome, Outcome::Acknowledged { .. }))
        .count() as u64
}

fn report(found: &mut Vec<Violation>, kind: Kind, what: String) {
    found.push(Violation { kind, what });
}

fn check_sequence(history: &History, found: &mut Vec<Violation>) {
    for pair in history.log.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.lsn == before.lsn {
            report(
                found,
                Kind::Repeated,
                format!("LSN {} is in the log twice", after.lsn),
            );
        } else if after.lsn < before.lsn {
            report(
                found,
                Kind::Disordered,
                format!("LSN {} follows {}", after.lsn, before.lsn),
            );
        } else if history.dense.is_some() && after.lsn != before.lsn + 1 {
            report(
                found,
                Kind::Hole,
                format!("nothing between {} and {}", before.lsn, after.lsn),
            );
        }
        if after.timestamp_ms < before.timestamp_ms {
            let (earlier, later) = (before.timestamp_ms, after.timestamp_ms);
            let what = format!("LSN {} has time {later} after {earlier}", after.lsn);
            report(found, Kind::Disordered, what);
        }
    }
    if let Some((first, last)) = history.dense {
        let ends = (
            history.log.first().map(|c| c.lsn),
            history.log.last().map(|c| c.lsn),
        );
        if ends != (Some(first), Some(last)) {
            report(
                found,
                Kind::Hole,
                format!("the log should span {first} to {last}, is {ends:?}"),
            );
        }
    }
}

/// The log cut into its transactions, each checked to be whole.
fn transactions<'a>(log: &'a [Change], found: &mut Vec<Violation>) -> Vec<&'a [Change]> {
    let transactions: Vec<_> = log.chunk_by(|a, b| a.tx_lsn == b.tx_lsn).collect();
    for changes in &transactions {
        let tx_lsn = changes[0].tx_lsn;
        let whole = changes[0].count == changes.len() as u64
            && (0u64..).zip(*changes).all(|(index, change)| {
                change.index == index
                    && change.count == changes[0].count
                    && change.lsn == tx_lsn + index
            });
        if !whole {
            let places: Vec<_> = changes.iter().map(|c| (c.lsn, c.index, c.count)).collect();
            report(
                found,
                Kind::Torn,
                format!("transaction {tx_lsn} is {places:?}"),
            );
        }
    }
    transactions
}

/// Where an attempt is: client and place in its list.
type Place = (usize, usize);

fn check_attempts(history: &History, transactions: &[&[Change]], found: &mut Vec<Violation>) {
    let mut by_first_effect: HashMap<String, Place> = HashMap::new();
    for (client, attempts) in history.clients.iter().enumerate() {
        for (index, attempt) in attempts.iter().enumerate() {
            by_first_effect.insert(effect_key(&attempt.effects[0]), (client, index));
        }
    }
    let attempt_at = |(client, index): Place| &history.clients[client][index];
    // Where each attempt is in the log: the LSN of its last change.
    let mut landed: BTreeMap<Place, u64> = BTreeMap::new();
    let mut last_of_client: HashMap<usize, usize> = HashMap::new();
    let mut in_log_order = Vec::new();
    for changes in transactions {
        if changes
            .iter()
            .all(|change| change.operation == Operation::Definition)
        {
            continue;
        }
        let tx_lsn = changes[0].tx_lsn;
        let Some(&place) = by_first_effect.get(&change_key(&changes[0])) else {
            report(
                found,
                Kind::Ghost,
                format!("nobody sent transaction {tx_lsn}: {:?}", changes[0]),
            );
            continue;
        };
        let attempt = attempt_at(place);
        let last_lsn = changes[changes.len() - 1].lsn;
        if landed.insert(place, last_lsn).is_some() {
            report(
                found,
                Kind::Repeated,
                format!("{place:?} is there again at {tx_lsn}"),
            );
            continue;
        }
        in_log_order.push(place);
        if attempt.outcome == Outcome::Refused {
            report(
                found,
                Kind::Ghost,
                format!("{place:?} was refused and is at {tx_lsn}"),
            );
        }
        if let Outcome::Acknowledged { lsn: Some(lsn) } = attempt.outcome
            && lsn != last_lsn
        {
            let what = format!("{place:?} was acknowledged at {lsn}, ends at {last_lsn}");
            report(found, Kind::WrongLsn, what);
        }
        compare_effects(place, attempt, changes, found);
        let (client, index) = place;
        if last_of_client
            .get(&client)
            .is_some_and(|&last| last > index)
        {
            report(
                found,
                Kind::Overtaken,
                format!("{place:?} at {tx_lsn} is out of its order"),
            );
        }
        last_of_client.insert(client, index);
    }
    for (client, attempts) in history.clients.iter().enumerate() {
        for (index, attempt) in attempts.iter().enumerate() {
            let acknowledged = matches!(attempt.outcome, Outcome::Acknowledged { .. });
            if acknowledged && !landed.contains_key(&(client, index)) {
                report(
                    found,
                    Kind::Lost,
                    format!("({client}, {index}): {:?}", attempt.effects),
                );
            }
        }
    }
    check_real_time(&in_log_order, attempt_at, found);
}

/// What was acknowledged before another was sent must be before it in the log.
fn check_real_time<'a>(
    in_log_order: &[Place],
    attempt_at: impl Fn(Place) -> &'a Attempt,
    found: &mut Vec<Violation>,
) {
    let mut earliest_end_after = u64::MAX;
    for &place in in_log_order.iter().rev() {
        let attempt = attempt_at(place);
        if earliest_end_after < attempt.started {
            let what = format!("{place:?} is ahead of what was acknowledged before it was sent");
            report(found, Kind::Overtaken, what);
        }
        if matches!(attempt.outcome, Outcome::Acknowledged { .. }) {
            earliest_end_after = earliest_end_after.min(attempt.ended);
        }
    }
}

fn compare_effects(
    place: Place,
    attempt: &Attempt,
    changes: &[Change],
    found: &mut Vec<Violation>,
) {
    if attempt.effects.len() != changes.len() {
        let (should, are) = (attempt.effects.len(), changes.len());
        report(
            found,
            Kind::Torn,
            format!("{place:?} has {should} effects, {are} in the log"),
        );
        return;
    }
    for (effect, change) in attempt.effects.iter().zip(changes) {
        let same_row = change.collection.as_deref() == Some(&effect.collection)
            && change.document_id.as_deref() == Some(&effect.document_id)
            && change.operation == effect.operation;
        let same_image = match &effect.after {
            After::Nothing => change.after.is_none(),
            After::Row(row) => change.after.as_ref() == Some(row),
            After::Incremented(column) => is_incremented(change, column),
        };
        if !same_row || !same_image {
            let what = format!("{place:?} did {effect:?}, the log says {change:?}");
            report(found, Kind::Torn, what);
        }
    }
}

fn is_incremented(change: &Change, column: &str) -> bool {
    let number = |row: &Option<Value>| row.as_ref().and_then(|row| row[column].as_i64());
    match (number(&change.before), number(&change.after)) {
        (Some(before), Some(after)) => after == before + 1,
        _ => false,
    }
}

/// The same for an effect and for the change it becomes, and different for any two attempts: keys
/// are never reused, and an update's row says which attempt wrote it.
fn effect_key(effect: &Effect) -> String {
    let image = match &effect.after {
        After::Row(row) => canonical(Some(row)),
        After::Nothing | After::Incremented(_) => canonical(None),
    };
    format!(
        "{}/{}/{:?}/{image}",
        effect.collection, effect.document_id, effect.operation
    )
}

fn change_key(change: &Change) -> String {
    let collection = change.collection.as_deref().unwrap_or_default();
    let id = change.document_id.as_deref().unwrap_or_default();
    let image = canonical(change.after.as_ref());
    format!("{collection}/{id}/{:?}/{image}", change.operation)
}

/// A row as text that does not depend on the order of its columns.
fn canonical(row: Option<&Value>) -> String {
    match row {
        Some(Value::Object(columns)) => {
            let sorted: BTreeMap<_, _> = columns.iter().collect();
            format!("{sorted:?}")
        }
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn check_state(history: &History, found: &mut Vec<Violation>) {
    let mut replayed: BTreeMap<(String, String), Value> = BTreeMap::new();
    for change in &history.log {
        let (Some(collection), Some(id)) = (&change.collection, &change.document_id) else {
            if let (Some(collection), Operation::Truncate) = (&change.collection, change.operation)
            {
                replayed.retain(|(of, _), _| of != collection);
            }
            continue;
        };
        let key = (collection.clone(), id.clone());
        if replayed.get(&key) != change.before.as_ref() {
            let what = format!("{key:?} was {:?}, {change:?}", replayed.get(&key));
            report(found, Kind::BadBefore, what);
        }
        match &change.after {
            Some(row) => replayed.insert(key, row.clone()),
            None => replayed.remove(&key),
        };
    }
    for (key, row) in &replayed {
        if history.state.get(key) != Some(row) {
            let what = format!(
                "{key:?} is {:?}, replay gives {row}",
                history.state.get(key)
            );
            report(found, Kind::StateDiffers, what);
        }
    }
    for key in history
        .state
        .keys()
        .filter(|key| !replayed.contains_key(*key))
    {
        report(
            found,
            Kind::StateDiffers,
            format!("{key:?} is there, replay has none"),
        );
    }
}

fn check_reading(log: &[Change], reading: &Reading, found: &mut Vec<Violation>) {
    let name = &reading.name;
    let by_lsn: HashMap<u64, &Change> = log.iter().map(|change| (change.lsn, change)).collect();
    let mut last = reading.after;
    for change in &reading.changes {
        if change.lsn <= last {
            let what = format!("{name} was shown LSN {} after {last}", change.lsn);
            report(found, Kind::ShownAgain, what);
        }
        last = last.max(change.lsn);
        if by_lsn.get(&change.lsn) != Some(&change) {
            let held = by_lsn.get(&change.lsn);
            let what = format!("{name} was shown {change:?}, the log holds {held:?}");
            report(found, Kind::ShownThenLost, what);
        }
    }
    let shown: std::collections::HashSet<u64> = reading.changes.iter().map(|c| c.lsn).collect();
    let wanted = |change: &&Change| {
        change.lsn > reading.after
            && change.lsn <= reading.up_to
            && (reading.collection.is_none() || reading.collection == change.collection)
    };
    for change in log.iter().filter(wanted) {
        if !shown.contains(&change.lsn) {
            report(
                found,
                Kind::Missed,
                format!("{name} was never shown LSN {}", change.lsn),
            );
        }
    }
}
