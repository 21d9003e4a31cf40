//! One subscriber's feed: a snapshot if it wants one, then changes for as long as it reads.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use springhead_proto::{Epoch, ErrorCode, Lsn, SqlError, TimestampMs};

use super::judged::Judged;
use super::plan::FeedPlan;
use super::readers::ReaderSeat;
use super::render::{Framer, Framing, Renderer, SlicePosition, Stop, is_shareable, is_shared};
use super::sight::Reader;
use super::snapshot::{Snapshot, write_position};
use super::spec::Grouping;
use super::start::Start;
use super::{Cdc, CdcError, FeedSpec};
use crate::tail::Block;
use crate::{Step, TailReader, Tenant};

/// How a feed is opened.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// Whose rights decide what is delivered.
    pub reader: Reader,
    pub spec: FeedSpec,
    /// `None`: the consumer's committed cursor if there is one, else now.
    pub start: Option<Start>,
    /// Current rows first. `start` is not looked at then.
    pub snapshot: bool,
    /// Reads for this consumer group, ending its present reader.
    pub consumer: Option<String>,
}

/// Frames of an event stream. Holds one step of the tail; renders as it is asked to.
pub struct Feed {
    cdc: Arc<Cdc>,
    tenant: Arc<Tenant>,
    plan: Arc<FeedPlan>,
    reader: Reader,
    /// Boxed while there is one, so that an idle feed stays small.
    snapshot: Option<Box<Snapshot>>,
    tail: TailReader,
    blocks: VecDeque<Arc<Block>>,
    at: SlicePosition,
    judged: Judged,
    /// Changes up to here are not wanted: they come before the start.
    after: Lsn,
    /// The last position that the client has as an id.
    sent: Lsn,
    framer: Framer,
    seat: Option<ReaderSeat>,
}

impl Feed {
    /// Opens a feed. The first frames come from [`Feed::next`].
    ///
    /// # Errors
    /// What is wrong with what is asked for; [`CdcError::Refused`] for a start that cannot be
    /// resumed from.
    pub async fn open(
        cdc: &Arc<Cdc>,
        tenant: Arc<Tenant>,
        options: FeedOptions,
    ) -> Result<Feed, CdcError> {
        let log = Arc::clone(cdc.engine.log());
        let mut plan = cdc.plan(&tenant, options.spec.clone(), &options.reader)?;
        let (consumer_start, seat) = cdc
            .take_seat(&tenant, options.consumer.as_deref(), &plan, &options.reader)
            .await?;
        let mut snapshot = None;
        let position = if options.snapshot {
            let now = TimestampMs(cdc.engine.clock().now_ms());
            let mut attempts = 0;
            let read = loop {
                let version = tenant.catalog().version;
                let session = plan.session_of(&options.reader);
                let read = Snapshot::read(&tenant, &*log, &plan, session, now).await;
                attempts += 1;
                if tenant.catalog().version == version {
                    break read?;
                }
                if attempts == SNAPSHOT_ATTEMPTS {
                    return Err(SqlError::new(
                        ErrorCode::ObjectNotInState,
                        "definitions kept changing while the snapshot was read",
                    )
                    .with_hint("try again once they rest")
                    .into());
                }
                // By the new definitions, then.
                plan = cdc.plan(&tenant, options.spec.clone(), &options.reader)?;
            };
            let lsn = read.lsn();
            snapshot = Some(Box::new(read));
            lsn
        } else {
            let start = options.start.or(consumer_start).unwrap_or(Start::Now);
            cdc.resolve(
                &tenant,
                start,
                options.start.is_none() && consumer_start.is_some(),
            )
            .await?
        };
        let tail = tenant.tail(position, plan.collections());
        Ok(Feed {
            framer: Framer::new(Framing::EventStream, &plan),
            cdc: Arc::clone(cdc),
            tenant,
            plan,
            reader: options.reader,
            snapshot,
            tail,
            blocks: VecDeque::new(),
            at: SlicePosition::default(),
            judged: Judged::default(),
            after: position,
            sent: position,
            seat,
        })
    }

    /// The position that it was opened at, or has sent since.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.sent
    }

    /// The epoch of positions that it sends now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.cdc.engine.log().tail().epoch
    }

    /// The next frames, as soon as there are some: whole frames, except for a transaction that
    /// comes as one frame, which may be spread over several answers. Cancel-safe.
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn next(&mut self) -> Result<Bytes, CdcError> {
        loop {
            self.judge().await?;
            if let Some(frames) = self.render()? {
                return Ok(frames);
            }
            if !self.blocks.is_empty() || self.snapshot.is_some() {
                // Rendering or filtering went on for long without a frame.
                tokio::task::yield_now().await;
                continue;
            }
            if self.is_collection_gone() {
                match self.tail.try_next().await? {
                    Some(step) => {
                        self.take(step);
                        continue;
                    }
                    None => return Err(self.collection_gone().into()),
                }
            }
            let step = match &self.seat {
                None => self.tail.next().await?,
                Some(seat) => {
                    tokio::select! {
                        biased;
                        error = seat.lost() => return Err(error.into()),
                        step = self.tail.next() => step?,
                    }
                }
            };
            let idle = step.blocks.is_empty();
            self.take(step);
            if idle {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Called when nothing has been sent for a while: a `progress` frame if the position has moved
    /// past what the client knows; `None` if it has not, or if there are frames to send first.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub async fn progress(&mut self) -> Result<Option<Bytes>, CdcError> {
        if self.snapshot.is_some() || self.framer.open {
            return Ok(None);
        }
        // One that may see nothing any more ends, whether something comes or not.
        self.refresh()?;
        if self.blocks.is_empty()
            && let Some(step) = self.tail.try_next().await?
        {
            // Other tenants' changes move the position too, and wake nobody.
            self.take(step);
        }
        let position = self.tail.position();
        if !self.blocks.is_empty() || position <= self.sent {
            return Ok(None);
        }
        self.sent = position;
        let mut out = Vec::with_capacity(96);
        write_position(&mut out, "progress", position, self.epoch(), false);
        Ok(Some(out.into()))
    }

    /// Finds out who may see what comes next, where policies look at other tables. Cancel-safe.
    async fn judge(&mut self) -> Result<(), CdcError> {
        if !self.plan.looks || self.snapshot.is_some() || self.blocks.is_empty() {
            return Ok(());
        }
        self.refresh()?;
        if self.plan.looks {
            let session = self.plan.session_of(&self.reader);
            let (tenant, plan) = (&self.tenant, &self.plan);
            self.judged = Judged::ahead(tenant, plan, session, &self.blocks, self.at).await?;
        }
        Ok(())
    }

    /// Goes on by the rights and policies that are in force now.
    fn refresh(&mut self) -> Result<(), CdcError> {
        let identity = self.reader.identify(&self.cdc.engine)?;
        let version = self.tenant.catalog().version;
        let roles_version = self.cdc.engine.roles().version;
        if !self.plan.is_of(&identity, version, roles_version) && !self.is_collection_gone() {
            self.plan = (self.cdc).plan_again(&self.tenant, &self.plan, &self.reader)?;
        }
        Ok(())
    }

    /// The collection that was named has been dropped; a new one of its name is another.
    fn is_collection_gone(&self) -> bool {
        self.plan
            .table()
            .is_some_and(|table| self.tenant.catalog().table(table.collection()).is_none())
    }

    fn collection_gone(&self) -> SqlError {
        let name = self.plan.spec.collection.as_deref().unwrap_or_default();
        SqlError::new(
            ErrorCode::UndefinedTable,
            format!("collection \"{name}\" has been dropped"),
        )
    }

    fn take(&mut self, step: Step) {
        self.blocks = step.blocks.into();
        self.at = SlicePosition::default();
    }

    /// Some frames of what is at hand; `None` if there is nothing at hand, or nothing came of it.
    fn render(&mut self) -> Result<Option<Bytes>, CdcError> {
        if let Some(error) = self.seat.as_ref().and_then(ReaderSeat::is_lost) {
            return Err(error.into());
        }
        if self.blocks.is_empty() && self.snapshot.is_none() {
            // Rights are looked at when there is something to see.
            return Ok(None);
        }
        self.refresh()?;
        let renderer = Renderer {
            plan: &self.plan,
            tables: &*self.tenant,
            filters: &self.cdc.filters,
            judged: &self.judged,
        };
        if let Some(snapshot) = &mut self.snapshot {
            let mut out = Vec::new();
            if !snapshot.render(&renderer, &mut out)? {
                write_position(
                    &mut out,
                    "ready",
                    snapshot.lsn(),
                    self.cdc.engine.log().tail().epoch,
                    true,
                );
                self.snapshot = None;
            }
            return Ok((!out.is_empty()).then(|| out.into()));
        }
        let mut out = Vec::new();
        let mut evaluated = 0;
        while let Some(block) = self.blocks.front() {
            let slice = &block.slice;
            let whole = self.at.is_start() && slice.commit_lsn > self.after && is_shareable(slice);
            // Blocks of the tail's memory are shared by its followers; one read from disk is not.
            if whole && is_shared(&self.plan) && Arc::strong_count(block) > 1 {
                let rendered = block
                    .rendered
                    .get_or_make(self.plan.id, || renderer.whole(slice))?;
                self.sent = self.sent.max(rendered.last_id);
                self.blocks.pop_front();
                if self.blocks.is_empty() && out.is_empty() {
                    return Ok((!rendered.bytes.is_empty()).then_some(rendered.bytes));
                }
                out.extend_from_slice(&rendered.bytes);
            } else {
                let stop = Stop {
                    out_bytes: self.cdc.limits.chunk_bytes,
                    changes: None,
                };
                let done = renderer.slice(
                    slice,
                    &mut self.at,
                    self.after,
                    &mut self.framer,
                    stop,
                    &mut out,
                )?;
                self.sent = self.sent.max(self.framer.last_id);
                if done {
                    self.blocks.pop_front();
                    self.at = SlicePosition::default();
                } else {
                    break;
                }
            }
            evaluated += 1;
            if out.len() >= self.cdc.limits.chunk_bytes
                || (self.plan.is_filtered() && evaluated >= FILTERED_BLOCKS)
            {
                break;
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// Whether a comment or another frame may be sent now: not in the middle of a transaction's.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        !self.framer.open
    }

    /// The client does not know the position yet: the next [`Feed::progress`] tells it even if it
    /// has not moved.
    pub fn forget_sent(&mut self) {
        self.sent = Lsn::ZERO;
    }

    /// Whether transactions come as one frame each.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        self.plan.spec.grouping == Grouping::Group
    }
}

/// How often a snapshot is read again because definitions changed under it.
const SNAPSHOT_ATTEMPTS: usize = 5;

/// Blocks filtered before others get their turn.
const FILTERED_BLOCKS: usize = 64;
