//! What a change feed gives its reader: the events of pages, of frames, of a snapshot.

use std::sync::Arc;

use serde_json::Value;
use springhead_engine::Tenant;
use springhead_engine::cdc::{Cdc, CdcError, Feed, FeedOptions, Filled, Poll, PollOptions, Start};

/// All events that pages have, one after the other.
pub async fn pages(
    cdc: &Arc<Cdc>,
    tenant: &Arc<Tenant>,
    mut options: PollOptions,
) -> Result<Vec<Value>, CdcError> {
    let mut found = Vec::new();
    loop {
        let mut page = Poll::open(cdc, Arc::clone(tenant), options.clone()).await?;
        found.extend(elements(&mut page).await?);
        if page.is_caught_up() {
            return Ok(found);
        }
        options.start = Some(Start::After(page.cursor()));
    }
}

/// What one page has: events, or transactions.
pub async fn elements(page: &mut Poll) -> Result<Vec<Value>, CdcError> {
    let mut text = b"[".to_vec();
    while let Filled::Chunk(chunk) = page.fill().await? {
        text.extend_from_slice(&chunk);
    }
    text.push(b']');
    Ok(serde_json::from_slice(&text).unwrap())
}

/// The data of the frames, by event type, until `enough` says so.
pub async fn frames(
    feed: &mut Feed,
    mut enough: impl FnMut(&[(String, Value)]) -> bool,
) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    while !enough(&all) {
        let bytes = feed.next().await.unwrap();
        for frame in std::str::from_utf8(&bytes).unwrap().split("\n\n") {
            let field = |name: &str| {
                frame
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::to_owned)
            };
            if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                all.push((event, serde_json::from_str(&data).unwrap()));
            }
        }
    }
    all
}

/// The events of a feed's snapshot.
pub async fn snapshot_events(
    cdc: &Arc<Cdc>,
    tenant: &Arc<Tenant>,
    options: FeedOptions,
) -> Vec<Value> {
    let mut feed = Feed::open(cdc, Arc::clone(tenant), options).await.unwrap();
    let found = frames(&mut feed, |all| {
        all.iter().any(|(event, _)| event == "ready")
    })
    .await;
    found
        .iter()
        .filter(|(event, _)| event == "snapshot")
        .map(|(_, event)| event.clone())
        .collect()
}
