//! Row policies that look at other tables. A condition on the image alone cannot answer them, so the
//! images that are about to be rendered are judged beforehand, off the runtime's threads, on one
//! snapshot of the newest state: the policies, and what they look at, are those in force at delivery.
//!
//! Belongs to one reader of a feed, which judges again before each piece that it hands out. What has
//! not been judged is not rendered ([`super::render`] stops before it).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::FxHashMap;
use springhead_proto::{ChangeRef, CollectionId, RowRef, SchemaVersion, SqlError, Value};

use super::filter::BoundFilter;
use super::plan::FeedPlan;
use super::render::SlicePosition;
use crate::Tenant;
use crate::functions::{CancelFlag, SessionContext, now_us};
use crate::readers::Snapshot;
use crate::tail::Block;

/// Images judged at a time, about.
const IMAGES: usize = 256;

/// How much of the log is looked through for them at a time. In bytes.
const SCANNED_BYTES: usize = 1 << 20;

/// What policies say of some images, for one plan.
#[derive(Default)]
pub(crate) struct Judged {
    plan_id: u64,
    verdicts: FxHashMap<Image, bool>,
}

/// An image of a row: its collection and version, and its values' bytes.
type Image = (CollectionId, SchemaVersion, Box<[u8]>);

/// One image that is still to be judged.
struct Question {
    image: Image,
    policy: Arc<BoundFilter>,
    /// The parameters of the policy's condition.
    params: Vec<Value>,
    /// The collection's name, for errors.
    name: String,
}

impl Judged {
    /// What the plan's policy says of a row; `None` if nobody has asked yet.
    pub(crate) fn verdict(
        &self,
        plan_id: u64,
        collection: CollectionId,
        version: SchemaVersion,
        row: RowRef<'_>,
    ) -> Option<bool> {
        if self.plan_id != plan_id {
            return None;
        }
        let image = (collection, version, Box::from(row.value_bytes()));
        self.verdicts.get(&image).copied()
    }

    /// Judges what comes next of `blocks`, from `at` in the first of them.
    ///
    /// # Errors
    /// What a policy's evaluation comes to, without the values that it is about.
    pub(crate) async fn ahead(
        tenant: &Arc<Tenant>,
        plan: &FeedPlan,
        session: Arc<SessionContext>,
        blocks: &VecDeque<Arc<Block>>,
        at: SlicePosition,
    ) -> Result<Judged, SqlError> {
        let mut judged = Judged {
            plan_id: plan.id,
            verdicts: FxHashMap::default(),
        };
        let questions = questions(tenant, plan, blocks, at);
        if questions.is_empty() {
            return Ok(judged);
        }
        let now_us = now_us(&*tenant.shared.clock);
        session.now_us.store(now_us, Ordering::Relaxed);
        let cancel = Arc::new(CancelFlag::default());
        judged.verdicts = tenant
            .read(session, cancel, move |snapshot, session, cancel| {
                questions
                    .into_iter()
                    .map(|question| {
                        let answer = question.answer(snapshot, session, cancel)?;
                        Ok((question.image, answer))
                    })
                    .collect()
            })
            .await?;
        Ok(judged)
    }
}

/// The images among the next changes that only a look at other tables can judge.
fn questions(
    tenant: &Tenant,
    plan: &FeedPlan,
    blocks: &VecDeque<Arc<Block>>,
    at: SlicePosition,
) -> Vec<Question> {
    let mut questions = Vec::new();
    let (mut from, mut scanned) = (at.offset(), 0);
    for block in blocks {
        if questions.len() >= IMAGES || scanned > SCANNED_BYTES {
            break;
        }
        let mut rest = block.slice.changes.get(from..).unwrap_or_default();
        (from, scanned) = (0, scanned + rest.len());
        while !rest.is_empty() && questions.len() < IMAGES {
            // Damage is told where the change is rendered.
            let Ok(change) = ChangeRef::read(&mut rest) else {
                return questions;
            };
            let Some(version) = plan.looking(tenant, &change) else {
                continue;
            };
            let Some(policy) = version.looking_policy() else {
                continue;
            };
            for row in [change.before, change.after].into_iter().flatten() {
                questions.push(Question {
                    image: (
                        change.collection,
                        change.schema_version,
                        Box::from(row.value_bytes()),
                    ),
                    policy: Arc::clone(policy),
                    params: params(policy, row),
                    name: version.form.table.name.name.clone(),
                });
            }
        }
    }
    questions
}

fn params(policy: &BoundFilter, row: RowRef<'_>) -> Vec<Value> {
    let count = policy.places.iter().map(|(number, _)| *number).max();
    let mut params = vec![Value::Null; count.unwrap_or(0)];
    for &(number, place) in &policy.places {
        let value = place.and_then(|place| row.get(place));
        params[number - 1] = value.map_or(Value::Null, |value| value.to_owned());
    }
    params
}

impl Question {
    fn answer(
        &self,
        snapshot: &Snapshot,
        session: &Arc<SessionContext>,
        cancel: &Arc<CancelFlag>,
    ) -> Result<bool, SqlError> {
        let sql = &self.policy.filter.sql;
        let mut rows = snapshot
            .query(sql, &self.params, session, cancel)
            .map_err(|error| super::version::policy_failed(&self.name, &error))?;
        let chunk = rows.next_chunk()?;
        let row = chunk.as_ref().and_then(|chunk| chunk.rows().next());
        let value = row.and_then(|row| row.get(0)).map(|value| value.to_owned());
        Ok(match value {
            Some(Value::Integer(value)) => value != 0,
            Some(Value::Real(value)) => value != 0.0,
            _ => false,
        })
    }
}
