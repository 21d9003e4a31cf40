//! Ends and beginnings: of histories, and of the log itself.

use super::{Made, Setup, assert_whole_and_ordered, commit_of, of_tenant, read_all};
use crate::contract::{AppendError, ReadFilter, RefusedReason};

pub fn g5_an_epoch_begins_at_the_durable_end(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    let append = |label: &str| {
        log.append(vec![commit_of(1, 100, 3, label, 100)])
            .expect("appended")
    };
    append("old");
    let first = log.epochs()[0];
    for number in 2..=4u32 {
        let begun = log.begin_epoch().expect("begun");
        let epochs = log.epochs();
        assert_eq!(epochs.last(), Some(&begun));
        assert_eq!(epochs.len(), number as usize);
        assert_eq!(begun.number, number);
        assert_eq!(begun.fork_lsn, log.tail().durable);
        assert_eq!(log.tail().epoch, begun.epoch);
        assert!(
            epochs[..epochs.len() - 1]
                .iter()
                .all(|old| old.epoch != begun.epoch && old.history_id != begun.history_id),
            "no history is like another"
        );
        // The third history has nothing of its own.
        if number != 3 {
            let appended = append("new");
            assert_eq!(appended.epoch, begun.epoch);
            assert_eq!(appended.first_lsn, begun.fork_lsn.next());
        }
    }
    let slices = read_all(log, 1, ReadFilter::default());
    assert_whole_and_ordered(&slices);
    let epochs = log.epochs();
    let seen: Vec<_> = slices.iter().map(|slice| slice.epoch).collect();
    assert_eq!(seen, [first.epoch, epochs[1].epoch, epochs[3].epoch]);
    assert_eq!(read_all(log, 4, of_tenant(1)).len(), 2);
}

pub fn g1_an_epoch_begins_between_two_appends(made: &Made, _: &Setup) {
    const APPENDERS: u32 = 4;
    let log = &made.log;
    let epochs = std::thread::scope(|scope| {
        for appender in 0..APPENDERS {
            scope.spawn(move || {
                for _ in 0..40 {
                    log.append(vec![commit_of(appender, 100, 2, "x", 20)])
                        .expect("appended");
                }
            });
        }
        let begin = scope.spawn(|| (0..5).map(|_| log.begin_epoch().expect("begun")).collect());
        let begun: Vec<_> = begin.join().expect("no panic");
        begun
    });
    let slices = read_all(log.as_ref(), 1, ReadFilter::default());
    assert_whole_and_ordered(&slices);
    assert_eq!(slices.len(), 160);
    for slice in &slices {
        let after = epochs
            .iter()
            .rev()
            .find(|epoch| slice.commit_lsn > epoch.fork_lsn);
        let expected = after.map_or(log.epochs()[0].epoch, |epoch| epoch.epoch);
        assert_eq!(slice.epoch, expected, "at {}", slice.commit_lsn);
    }
}

pub fn g12_a_closed_log_refuses(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    log.append(vec![commit_of(1, 100, 1, "a", 0)])
        .expect("appended");
    log.close();
    log.close();
    let refused = log.append(vec![commit_of(1, 100, 1, "b", 0)]);
    assert!(matches!(
        refused,
        Err(AppendError::Refused(RefusedReason::Closed))
    ));
    assert_eq!(
        read_all(log, 1, ReadFilter::default()).len(),
        1,
        "reading goes on"
    );
}
