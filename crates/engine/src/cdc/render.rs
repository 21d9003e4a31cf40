//! From slices of the log to frames: Server-Sent Events or the elements of a JSON array, one per
//! change or one per transaction, made once for all who want the same.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use springhead_log::CommitSlice;
use springhead_proto::{ChangeRef, ErrorCode, Lsn, SqlError};

use super::event::{Place, write_cursor};
use super::filter::{Filters, Lease};
use super::json;
use super::judged::Judged;
use super::plan::{FeedPlan, Tables, Verdict};
use super::spec::{Envelope, Grouping, Operation};

/// Encodings of one block's events, made once and shared by all subscribers of the same kind.
#[derive(Default)]
pub struct RenderCache {
    forms: Mutex<Vec<(u64, Rendered)>>,
}

/// A block's frames for one kind of subscriber.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub bytes: Bytes,
    /// The id of the last frame; [`Lsn::ZERO`] if there is none.
    pub last_id: Lsn,
}

/// Kinds whose encodings one block keeps; further ones are encoded by each subscriber.
const FORMS_PER_BLOCK: usize = 8;

impl RenderCache {
    /// The encoding for the plan `id`, made now if nobody has yet. Others who want one of this
    /// block wait meanwhile, rather than make it again.
    pub(crate) fn get_or_make(
        &self,
        id: u64,
        make: impl FnOnce() -> Result<Rendered, SqlError>,
    ) -> Result<Rendered, SqlError> {
        let mut forms = self.forms.lock();
        if let Some((_, rendered)) = forms.iter().find(|(known, _)| *known == id) {
            return Ok(rendered.clone());
        }
        let rendered = make()?;
        if forms.len() < FORMS_PER_BLOCK {
            forms.push((id, rendered.clone()));
        }
        Ok(rendered)
    }

    /// Bytes held.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.forms
            .lock()
            .iter()
            .map(|(_, rendered)| rendered.bytes.len())
            .sum()
    }
}

/// What surrounds the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-Sent Events.
    EventStream,
    /// Elements of a JSON array, commas between them.
    JsonArray,
}

/// Puts events into frames. Holds what must be known from one event to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framer {
    framing: Framing,
    envelope: Envelope,
    grouping: Grouping,
    /// A transaction's frame has been started and not ended.
    pub open: bool,
    /// Frames started.
    frames: u64,
    /// Changes written.
    pub changes: u64,
    /// The id of the last frame that was ended.
    pub last_id: Lsn,
}

impl Framer {
    pub(crate) fn new(framing: Framing, plan: &FeedPlan) -> Framer {
        Framer {
            framing,
            envelope: plan.spec.envelope,
            grouping: plan.spec.grouping,
            open: false,
            frames: 0,
            changes: 0,
            last_id: Lsn::ZERO,
        }
    }

    /// Appends one event.
    pub(crate) fn change(&mut self, out: &mut Vec<u8>, place: &Place, verdict: &Verdict<'_>) {
        match self.grouping {
            Grouping::Event => self.start_frame(out, place, place.lsn(), verdict.operation.lower()),
            Grouping::Group if self.open => out.push(b','),
            Grouping::Group => {
                self.open = true;
                let last = place.tx_lsn.plus(place.tx_count - 1);
                self.start_frame(out, place, last, "transaction");
                out.extend_from_slice(b"{\"tx\":{\"lsn\":");
                json::number(out, place.tx_lsn.0);
                out.extend_from_slice(b",\"count\":");
                json::number(out, place.tx_count);
                out.extend_from_slice(b"},\"changes\":[");
            }
        }
        verdict.event().write(out, self.envelope, place);
        self.changes += 1;
        if self.grouping == Grouping::Event {
            self.end_frame(out, place.lsn());
        }
    }

    /// The commit that ends at `last` is over.
    pub(crate) fn end_commit(&mut self, out: &mut Vec<u8>, last: Lsn) {
        if std::mem::take(&mut self.open) {
            out.extend_from_slice(b"]}");
            self.end_frame(out, last);
        }
    }

    fn start_frame(&mut self, out: &mut Vec<u8>, place: &Place, id: Lsn, event: &str) {
        match self.framing {
            Framing::EventStream => {
                out.extend_from_slice(b"id: ");
                write_cursor(out, id, place.epoch);
                out.extend_from_slice(b"\nevent: ");
                out.extend_from_slice(event.as_bytes());
                out.extend_from_slice(b"\ndata: ");
            }
            Framing::JsonArray if self.frames > 0 => out.push(b','),
            Framing::JsonArray => {}
        }
        self.frames += 1;
    }

    fn end_frame(&mut self, out: &mut Vec<u8>, id: Lsn) {
        if self.framing == Framing::EventStream {
            out.extend_from_slice(b"\n\n");
        }
        self.last_id = id;
    }
}

/// How far a slice has been rendered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SlicePosition {
    /// In the slice's bytes.
    offset: usize,
    /// Changes read.
    index: u64,
}

impl SlicePosition {
    /// Nothing has been rendered yet.
    pub(crate) const fn is_start(self) -> bool {
        self.offset == 0
    }

    /// How much of it has been rendered, in bytes.
    pub(crate) const fn offset(self) -> usize {
        self.offset
    }

    /// The LSN of the last change rendered.
    pub(crate) fn lsn(self, slice: &CommitSlice) -> Lsn {
        slice.first_lsn().plus(self.index).previous()
    }
}

/// Where to stop within a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// When `out` is at least this long.
    pub out_bytes: usize,
    /// When the framer has written this many changes; `None` for no such limit.
    pub changes: Option<u64>,
}

/// Milliseconds of filtering after which a task lets others run.
const FILTER_STRETCH_MS: u64 = 10;

/// What rendering needs to know besides the plan.
pub(crate) struct Renderer<'a> {
    pub plan: &'a FeedPlan,
    pub tables: &'a dyn Tables,
    pub filters: &'a Filters,
    /// For a plan whose policies look at other tables.
    pub judged: &'a Judged,
}

impl Renderer<'_> {
    /// Renders a slice from `at`, leaving out changes up to and including `after`, until its end,
    /// `stop`, or a change that has to be judged first. Returns whether its end was reached.
    ///
    /// # Errors
    /// Damage, or what evaluating the filter says.
    pub(crate) fn slice(
        &self,
        slice: &CommitSlice,
        at: &mut SlicePosition,
        after: Lsn,
        framer: &mut Framer,
        stop: Stop,
        out: &mut Vec<u8>,
    ) -> Result<bool, SqlError> {
        let lease = self.lease()?;
        let started_ms = lease.as_ref().map(|_| self.filters.clock().monotonic_ms());
        let mut rest = slice.changes.get(at.offset..).unwrap_or_default();
        while !rest.is_empty() {
            let change = ChangeRef::read(&mut rest).map_err(|error| {
                SqlError::new(
                    ErrorCode::Corrupted,
                    format!(
                        "a change of the commit at LSN {}: {error}",
                        slice.commit_lsn
                    ),
                )
            })?;
            let place = Place {
                epoch: slice.epoch,
                timestamp_ms: slice.timestamp_ms,
                tenant: slice.tenant,
                tx_lsn: slice.commit_lsn,
                tx_index: slice.index + at.index,
                tx_count: slice.commit_count,
            };
            if place.lsn() > after && self.waits_for_judgement(&change, lease.as_ref()) {
                return Ok(false);
            }
            if place.lsn() > after
                && let Some(verdict) = self.plan.decide(self.tables, &change, lease.as_ref())?
            {
                if verdict.operation == Operation::Definition {
                    self.plan.forget_versions();
                }
                framer.change(out, &place, &verdict);
            }
            at.index += 1;
            at.offset = slice.changes.len() - rest.len();
            let full = out.len() >= stop.out_bytes
                || stop
                    .changes
                    .is_some_and(|changes| framer.changes >= changes);
            let long = started_ms.is_some_and(|started| {
                self.filters.clock().monotonic_ms().saturating_sub(started) > FILTER_STRETCH_MS
            });
            if (full || long) && !rest.is_empty() {
                return Ok(false);
            }
        }
        if slice.last {
            framer.end_commit(out, slice.commit_last_lsn());
        }
        Ok(true)
    }

    /// Renders a whole small commit by itself, for sharing.
    ///
    /// # Errors
    /// As [`Renderer::slice`].
    pub(crate) fn whole(&self, slice: &CommitSlice) -> Result<Rendered, SqlError> {
        let mut out = Vec::new();
        let mut framer = Framer::new(Framing::EventStream, self.plan);
        let mut at = SlicePosition::default();
        let stop = Stop {
            out_bytes: usize::MAX,
            changes: None,
        };
        while !self.slice(slice, &mut at, Lsn::ZERO, &mut framer, stop, &mut out)? {}
        out.shrink_to_fit();
        Ok(Rendered {
            bytes: out.into(),
            last_id: framer.last_id,
        })
    }

    /// An evaluator, if the plan has something to evaluate.
    pub(crate) fn lease(&self) -> Result<Option<Lease<'_>>, SqlError> {
        self.plan
            .is_filtered()
            .then(|| {
                let judged = self.plan.looks.then_some((self.plan.id, self.judged));
                self.filters.lease(self.plan.session(), judged)
            })
            .transpose()
    }

    /// Whether nobody knows yet who may see a change.
    fn waits_for_judgement(&self, change: &ChangeRef<'_>, lease: Option<&Lease<'_>>) -> bool {
        let (Some(lease), Some(_)) = (lease, self.plan.looking(self.tables, change)) else {
            return false;
        };
        [change.before, change.after]
            .into_iter()
            .flatten()
            .any(|row| {
                lease
                    .verdict(change.collection, change.schema_version, row)
                    .is_none()
            })
    }
}

/// Whether a block is shared whole: a small commit in one piece. Others are rendered by each
/// subscriber as its socket drains, so that nobody holds a large rendering.
pub(crate) fn is_shareable(slice: &CommitSlice) -> bool {
    const SHARED_BYTES: usize = 64 << 10;
    slice.index == 0 && slice.last && slice.changes.len() <= SHARED_BYTES
}

/// Whether more than one feed follows this plan, so that sharing pays.
pub(crate) fn is_shared(plan: &Arc<FeedPlan>) -> bool {
    // What other tables say now is not to be kept for later.
    Arc::strong_count(plan) > 1 && !plan.looks
}
