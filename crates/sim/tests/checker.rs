//! The checker, given histories that are wrong: it must say so, and what.

use std::collections::BTreeMap;

use serde_json::json;
use springhead_sim::checker::{Kind, check};
use springhead_sim::history::{
    After, Attempt, Change, Effect, History, Operation, Outcome, Reading,
};

fn insert(id: &str, n: i64) -> Effect {
    let row = json!({"id": id, "n": n});
    effect(id, Operation::Insert, After::Row(row))
}

fn effect(id: &str, operation: Operation, after: After) -> Effect {
    Effect {
        collection: "t".to_owned(),
        operation,
        document_id: id.to_owned(),
        after,
    }
}

/// A history that keeps every promise: two clients, five transactions, two readers.
///
/// ```text
/// LSN  1      2 3        4            5         6 7
///      a=1    b=1 c=1    a=2 update   d=1       delete b, a.n+1
/// ```
fn right() -> History {
    let ack = |effects: Vec<Effect>, lsn: u64, started: u64| Attempt {
        effects,
        outcome: Outcome::Acknowledged { lsn: Some(lsn) },
        started,
        ended: started + 1,
    };
    let refused = Attempt {
        effects: vec![insert("a", 9)],
        outcome: Outcome::Refused,
        started: 90,
        ended: 91,
    };
    let update = effect(
        "a",
        Operation::Update,
        After::Row(json!({"n": 2, "id": "a"})),
    );
    let first = vec![
        ack(vec![insert("a", 1)], 1, 0),
        ack(vec![update], 4, 20),
        refused,
    ];
    let unknown = Attempt {
        effects: vec![insert("d", 1)],
        outcome: Outcome::Unknown,
        started: 30,
        ended: 31,
    };
    let last = vec![
        effect("b", Operation::Delete, After::Nothing),
        effect("a", Operation::Update, After::Incremented("n")),
    ];
    let second = vec![
        ack(vec![insert("b", 1), insert("c", 1)], 3, 10),
        unknown,
        ack(last, 7, 40),
    ];
    let row = |id: &str, n: i64| Some(json!({"id": id, "n": n}));
    let change = |lsn, tx_lsn, count, id: &str, operation, before, after| Change {
        lsn,
        tx_lsn,
        index: lsn - tx_lsn,
        count,
        timestamp_ms: 1000 + tx_lsn,
        collection: Some("t".to_owned()),
        operation,
        document_id: Some(id.to_owned()),
        before,
        after,
    };
    let log = vec![
        change(1, 1, 1, "a", Operation::Insert, None, row("a", 1)),
        change(2, 2, 2, "b", Operation::Insert, None, row("b", 1)),
        change(3, 2, 2, "c", Operation::Insert, None, row("c", 1)),
        change(4, 4, 1, "a", Operation::Update, row("a", 1), row("a", 2)),
        change(5, 5, 1, "d", Operation::Insert, None, row("d", 1)),
        change(6, 6, 2, "b", Operation::Delete, row("b", 1), None),
        change(7, 6, 2, "a", Operation::Update, row("a", 2), row("a", 3)),
    ];
    let state: BTreeMap<_, _> = [("a", 3), ("c", 1), ("d", 1)]
        .into_iter()
        .map(|(id, n)| (("t".to_owned(), id.to_owned()), json!({"id": id, "n": n})))
        .collect();
    let reading = |after: u64, up_to: u64| Reading {
        name: "reader".to_owned(),
        after,
        up_to,
        collection: None,
        changes: log
            .iter()
            .filter(|c| c.lsn > after && c.lsn <= up_to)
            .cloned()
            .collect(),
    };
    let readings = vec![reading(0, 7), reading(3, 6)];
    History {
        clients: vec![first, second],
        log,
        readings,
        state,
        dense: Some((1, 7)),
    }
}

/// Breaks the right history and expects the checker to name `kind`, among others or alone.
#[track_caller]
fn expect(kind: Kind, breaking: impl FnOnce(&mut History)) {
    let mut history = right();
    breaking(&mut history);
    let found = check(&history);
    assert!(
        found.iter().any(|violation| violation.kind == kind),
        "not {kind:?}: {found:#?}"
    );
}

#[test]
fn a_right_history_is_right() {
    assert_eq!(check(&right()), []);
}

#[test]
fn g1_an_acknowledged_commit_that_is_gone_is_found() {
    expect(Kind::Lost, |h| h.log.retain(|c| c.lsn != 1));
    expect(Kind::Lost, |h| h.log.truncate(5));
}

#[test]
fn g1_an_unknown_commit_may_be_there_or_not() {
    let mut history = right();
    history.log.retain(|c| c.lsn != 5);
    history.readings.clear();
    history.state.remove(&("t".to_owned(), "d".to_owned()));
    history.dense = None;
    assert_eq!(check(&history), []);
}

#[test]
fn g1_what_was_refused_or_never_sent_is_found() {
    expect(Kind::Ghost, |h| h.clients[1][1].outcome = Outcome::Refused);
    expect(Kind::Ghost, |h| drop(h.clients[1].remove(1)));
}

#[test]
fn g1_an_answer_with_another_lsn_is_found() {
    expect(Kind::WrongLsn, |h| {
        h.clients[0][1].outcome = Outcome::Acknowledged { lsn: Some(5) };
    });
}

#[test]
fn g1_what_a_reader_saw_and_the_log_lacks_is_found() {
    expect(Kind::ShownThenLost, |h| h.log.retain(|c| c.lsn != 5));
    expect(Kind::ShownThenLost, |h| {
        h.readings[0].changes[4].after = Some(json!({"id": "d", "n": 2}));
    });
}

#[test]
fn g2_a_change_twice_is_found() {
    expect(Kind::Repeated, |h| h.log.insert(1, h.log[0].clone()));
    expect(Kind::Repeated, |h| {
        let again = Change {
            lsn: 8,
            tx_lsn: 8,
            ..h.log[0].clone()
        };
        h.log.push(again);
    });
}

#[test]
fn g2_lsns_or_times_that_fall_are_found() {
    expect(Kind::Disordered, |h| h.log.swap(0, 3));
    expect(Kind::Disordered, |h| h.log[4].timestamp_ms = 1);
}

#[test]
fn g2_a_hole_is_found() {
    expect(Kind::Hole, |h| h.log.retain(|c| c.lsn != 5));
    expect(Kind::Hole, |h| h.dense = Some((1, 8)));
    expect(Kind::Hole, |h| h.dense = Some((0, 7)));
}

#[test]
fn g2_a_client_out_of_its_order_is_found() {
    expect(Kind::Overtaken, |h| h.clients[1].swap(0, 2));
}

#[test]
fn g2_a_commit_ahead_of_what_was_acknowledged_before_it_is_found() {
    // The other client's row 'a' is first in the log, but was sent after b and c were acknowledged.
    expect(Kind::Overtaken, |h| h.clients[0][0].started = 15);
}

#[test]
fn g2_a_reader_that_missed_one_is_found() {
    expect(Kind::Missed, |h| drop(h.readings[0].changes.remove(2)));
    expect(Kind::Missed, |h| h.readings[1].up_to = 7);
    expect(Kind::Missed, |h| h.readings[1].after = 2);
}

#[test]
fn g2_a_reader_that_was_shown_one_again_is_found() {
    expect(Kind::ShownAgain, |h| {
        let again = h.readings[0].changes[2].clone();
        h.readings[0].changes.insert(3, again);
    });
    expect(Kind::ShownAgain, |h| h.readings[0].changes.swap(1, 2));
}

#[test]
fn g3_part_of_a_transaction_is_found() {
    expect(Kind::Torn, |h| h.log.retain(|c| c.lsn != 3));
    expect(Kind::Torn, |h| h.log[2].index = 0);
    expect(Kind::Torn, |h| h.clients[1][0].effects.push(insert("z", 1)));
    expect(Kind::Torn, |h| h.clients[1][0].effects[1] = insert("c", 2));
}

#[test]
fn a_lost_update_is_found() {
    expect(Kind::Torn, |h| {
        h.log[6].before = Some(json!({"id": "a", "n": 1}))
    });
    expect(Kind::BadBefore, |h| {
        h.log[6].before = Some(json!({"id": "a", "n": 1}))
    });
    expect(Kind::BadBefore, |h| h.log[5].before = None);
}

#[test]
fn a_state_that_is_not_the_replay_is_found() {
    expect(Kind::StateDiffers, |h| drop(h.state.pop_first()));
    expect(Kind::StateDiffers, |h| {
        h.state.insert(("t".to_owned(), "z".to_owned()), json!({}));
    });
    expect(Kind::StateDiffers, |h| {
        h.state
            .insert(("t".to_owned(), "a".to_owned()), json!({"id": "a", "n": 4}));
    });
}
