//! What has become of every mutation, by the server's own collections and the devices' queues.

use std::collections::BTreeMap;

use springhead_proto::TenantId;

use crate::support::lines;
use crate::world::{World, counted};

/// What the server has of the mutations, by the row that each inserts.
struct Decided {
    rows: BTreeMap<i64, usize>,
    /// Dead letters that nobody has dealt with.
    open: BTreeMap<i64, usize>,
    /// Those that were applied when their time was over.
    forced: BTreeMap<i64, usize>,
    escalated: BTreeMap<i64, usize>,
}

fn of(counts: &BTreeMap<i64, usize>, id: i64) -> usize {
    counts.get(&id).copied().unwrap_or(0)
}

impl World {
    async fn ids(&self, sql: &str) -> BTreeMap<i64, usize> {
        let lines = self.server().sql(sql).await;
        counted(lines.iter().map(|line| line.parse().expect("an id")))
    }

    async fn decided(&self) -> Decided {
        let letters = "SELECT document_id FROM springhead.dead_letters WHERE resolved =";
        Decided {
            rows: self.ids("SELECT id FROM items WHERE id > 0").await,
            open: self.ids(&format!("{letters} false")).await,
            forced: self.ids(&format!("{letters} true")).await,
            escalated: self
                .ids("SELECT document_id FROM springhead.escalations")
                .await,
        }
    }

    /// Each mutation is exactly one of applied, dead-lettered (or what the policy made of that) and
    /// pending. One whose device died while it was written is there whole or not at all.
    pub async fn check_each(&mut self, what: &str) {
        let decided = self.decided().await;
        let queues = self.queues().await;
        let mut written = std::mem::take(&mut self.written);
        written.retain_mut(|one| {
            let id = one.id;
            let (row, open) = (of(&decided.rows, id), of(&decided.open, id));
            let (forced, escalated) = (of(&decided.forced, id), of(&decided.escalated, id));
            let (pending, told) = (of(&queues[one.device].0, id), of(&queues[one.device].1, id));
            let state = format!(
                "{what}: mutation {id}: {row} rows, {open} dead letters, {forced} forced, \
                 {escalated} escalated, {pending} pending, {told} rejections"
            );
            assert!(row <= 1 && pending + told <= 1, "{state}");
            assert!(open + forced + escalated <= 1, "{state}");
            // Applied by a device or in force, and no dead letter at the same time.
            assert!(row == 0 || open + escalated == 0, "{state}");
            assert!(forced == 0 || row == 1, "{state}");
            assert!(row == 0 || told == forced || told == 0, "{state}");
            let somewhere = row + open + forced + escalated + pending + told;
            assert!(somewhere > 0 || !one.is_sure, "{state}");
            one.is_sure |= somewhere > 0;
            one.is_sure
        });
        self.written = written;
    }

    /// Nothing is pending, sums are exact, and every device shows what the server has.
    pub async fn check_end(&self, what: &str) {
        let decided = self.decided().await;
        let queues = self.queues().await;
        let mut rejected = 0;
        for one in &self.written {
            let (pending, told) = (
                of(&queues[one.device].0, one.id),
                of(&queues[one.device].1, one.id),
            );
            assert_eq!(pending, 0, "{what}: mutation {} is pending", one.id);
            let row = of(&decided.rows, one.id);
            assert_eq!(
                row + told,
                1 + of(&decided.forced, one.id),
                "{what}: mutation {}: applied, or rejected, or forced after that",
                one.id
            );
            rejected += told;
        }
        let applied = decided.rows.len();
        let counter = self.server().sql("SELECT n FROM counters").await;
        assert_eq!(counter, [applied.to_string()], "{what}: the counter");
        self.check_totals(&decided, rejected, what).await;
        for place in 0..self.phones.len() {
            self.check_device(place, what).await;
        }
    }

    async fn check_totals(&self, decided: &Decided, rejected: usize, what: &str) {
        let totals = "SELECT enqueued, resolved, expired, escalated, unresolved \
                      FROM springhead.dead_letter_totals WHERE collection = ''";
        let (open, escalated) = (decided.open.len(), decided.escalated.len());
        // Dropped, or applied.
        let expired = rejected - open - escalated;
        assert!(expired >= decided.forced.len(), "{what}: {expired} expired");
        let expected = format!("{rejected}|0|{expired}|{escalated}|{open}");
        let found = self.server().sql(totals).await;
        if rejected > 0 || !found.is_empty() {
            assert_eq!(found, [expected], "{what}: the totals");
        }
    }

    async fn check_device(&self, place: usize, what: &str) {
        let device = self.phones[place].device();
        for (here, there) in [
            (
                "SELECT id, title, n FROM items ORDER BY id",
                "SELECT id, title, n FROM items WHERE id > 0 ORDER BY id",
            ),
            ("SELECT n FROM counters", "SELECT n FROM counters"),
        ] {
            let (here, there) = (lines(device, here).await, self.server().sql(there).await);
            assert_eq!(here, there, "{what}: device {place}");
        }
        let engine = &self.server().engine;
        let tenant = engine.tenant(TenantId::DEFAULT).await.unwrap();
        let hash = self.server().sync.definitions_hash(&tenant, "tester").await;
        let held = "SELECT value FROM springhead.device_state WHERE name = 'catalog_hash'";
        assert_eq!(
            lines(device, held).await,
            [hash.unwrap().to_string()],
            "{what}: the definitions of device {place}"
        );
    }
}
