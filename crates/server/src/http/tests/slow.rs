//! Clients that vanish or do not read (G7).

use super::*;

#[test]
fn g7_subscribers_that_vanish_are_counted_no_more() {
    let node = Node::with_orders();
    let line = "springhead_subscribers{exit=\"sse\"}";
    let streams: Vec<SseStream> = (0..10).map(|_| node.stream("/cdc/orders", None)).collect();
    node.wait_for_metric(line, 10);
    drop(streams);
    node.wait_for_metric(line, 0);
    node.wait_for_metric("springhead_tails", 0);
}

#[test]
fn g7_a_client_that_does_not_read_holds_nobody_up_and_then_gets_everything() {
    let node = Node::with_orders();
    let filler = "x".repeat(4000);
    let mut stalled = node.stream("/cdc/orders?since_lsn=3", None);
    let mut reading = node.stream("/cdc/orders?since_lsn=3", None);
    // Far more than sockets hold.
    for index in 0..4000 {
        node.sql(&format!(
            "INSERT INTO orders VALUES ('{index}', '{filler}', {index})"
        ));
        if index % 100 == 99 {
            let seen = take(&mut reading, 100);
            assert_eq!(seen[99]["after"]["qty"], index);
        }
    }
    let seen = take(&mut stalled, 4000);
    let order: Vec<u64> = seen
        .iter()
        .map(|change| change["after"]["qty"].as_u64().unwrap())
        .collect();
    assert!(order.into_iter().eq(0..4000), "each once, in order");
}
