//! A log that retention has trimmed: whoever comes too late is told so, and from where to start; the
//! state is whole all the same.

use springhead_sim::client::http::encode;
use springhead_sim::fixture::Fixture;
use springhead_sim::matrix::SHORT_RETENTION;
use std::time::Duration;

/// A server that keeps 16 MiB of log and has been given 48, and the earliest LSN that is left.
fn trimmed() -> (Fixture, u64) {
    let mut fixture = Fixture::new();
    for (name, value) in SHORT_RETENTION {
        fixture.setup = fixture.setup.clone().with_env(name, value);
    }
    fixture.start();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    let mut client = fixture.pg();
    let note = "n".repeat(64 << 10);
    for id in 0..768 {
        client
            .query(&format!("INSERT INTO t VALUES ({id}, '{note}')"))
            .expect("an insert");
    }
    for _ in 0..600 {
        let answer = fixture.get("/cdc/t/poll?since_lsn=1&limit=1");
        if answer.status == 410 {
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "cursor_expired", "{error}");
            assert!(
                error["message"]
                    .as_str()
                    .is_some_and(|message| !message.is_empty())
            );
            let earliest = error["earliest_lsn"].as_u64().expect("where to start");
            assert!(earliest > 1);
            return (fixture, earliest);
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        // Retention is looked after in the background; it says nothing when it has.
        fixture.server().wait_end(Duration::from_millis(50));
    }
    panic!("48 MiB written, 16 MiB kept, and nothing trimmed after 30 s");
}

#[test]
fn g5_a_cursor_older_than_retention_is_told_where_to_start() {
    let (mut fixture, _) = trimmed();
    let mut stream = fixture.stream("/cdc/t?since_lsn=1", None);
    let event = stream.next_event().expect("an event").expect("an event");
    assert_eq!(
        (event.event.as_str(), event.id.as_deref()),
        ("must-refetch", Some("must-refetch"))
    );
    let told = event.json();
    let earliest = [&told["earliest_lsn"], &told["error"]["earliest_lsn"]];
    let earliest = earliest
        .iter()
        .find_map(|lsn| lsn.as_u64())
        .expect("where to start");
    assert_eq!(stream.next_event().expect("a proper end"), None);
    // From there it goes on, without a hole to the end.
    let mut target = format!("/cdc/t/poll?since_lsn={earliest}&limit=100");
    let (mut last, mut count) = (0, 0);
    loop {
        let answer = fixture.get(&target);
        let page = answer.json();
        if answer.status == 410 {
            // Retention has gone on meanwhile, and says so.
            let earliest = page["error"]["earliest_lsn"]
                .as_u64()
                .expect("where to start");
            target = format!("/cdc/t/poll?since_lsn={earliest}&limit=100");
            count = 0;
            continue;
        }
        for change in page["changes"]
            .as_array()
            .unwrap_or_else(|| panic!("{page}"))
        {
            let id: u64 = change["document_id"]
                .as_str()
                .expect("an id")
                .parse()
                .expect("a number");
            assert!(count == 0 || id == last + 1, "{id} after {last}");
            (last, count) = (id, count + 1);
        }
        if page["has_more"] == false {
            break;
        }
        let cursor = page["next_cursor"]["cursor"].as_str().expect("a cursor");
        target = format!("/cdc/t/poll?cursor={}&limit=100", encode(cursor));
    }
    assert_eq!(last, 767);
    assert!(count > 50 && count < 768, "{count}");
    // The time before the log is where the log begins, not an error.
    let page = fixture.get("/cdc/t/poll?since_ms=1&limit=1");
    assert!(matches!(page.status, 200 | 410), "{}", page.text());
    // What was trimmed is in the state, over a crash too.
    fixture.kill();
    fixture.start();
    assert_eq!(
        fixture.sql("SELECT count(*) FROM t"),
        [[Some("768".to_owned())]]
    );
}
