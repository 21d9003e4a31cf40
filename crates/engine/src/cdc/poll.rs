//! One page of changes: `fill` renders what is there, `wait` waits for more, `trailer` says where to
//! go on. A page is handed out in chunks, so that a large one is never held in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use springhead_log::ReadFilter;
use springhead_proto::{Cursor, Lsn, TimestampMs};

use super::event::write_cursor;
use super::json;
use super::judged::Judged;
use super::plan::FeedPlan;
use super::readers::ReaderSeat;
use super::render::{Framer, Framing, Renderer, SlicePosition, Stop};
use super::sight::Reader;
use super::spec::Grouping;
use super::start::Start;
use super::{Cdc, CdcError, FeedSpec};
use crate::tail::Block;
use crate::{Step, TailReader, Tenant};

/// How a page is asked for.
#[derive(Debug, Clone)]
pub struct PollOptions {
    /// Whose rights decide what is delivered.
    pub reader: Reader,
    pub spec: FeedSpec,
    /// `None`: the consumer's committed cursor if there is one, else the earliest change kept.
    pub start: Option<Start>,
    /// Changes at most; with groups the page ends after the transaction that reaches it.
    pub limit: u64,
    /// Reads for this consumer group, ending its present reader.
    pub consumer: Option<String>,
}

/// What a call of [`Poll::fill`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    /// Elements of the array, and there may be more.
    Chunk(Bytes),
    /// The page is full, or the end is reached, or enough has been scanned.
    Done,
}

/// A page in the making.
pub struct Poll {
    cdc: Arc<Cdc>,
    tenant: Arc<Tenant>,
    plan: Arc<FeedPlan>,
    reader: Reader,
    tail: TailReader,
    blocks: VecDeque<Arc<Block>>,
    at: SlicePosition,
    judged: Judged,
    after: Lsn,
    framer: Framer,
    limit: u64,
    /// Everything up to here has been scanned.
    position: Lsn,
    /// The time of the last commit scanned, or one that no later commit is before.
    timestamp_ms: Option<TimestampMs>,
    /// The position once all of the step at hand has been scanned.
    step_end: Lsn,
    steps_left: usize,
    started_ms: u64,
    /// The visible end was reached.
    caught_up: bool,
    /// Why it cannot go on, kept while what was rendered before is handed out.
    failed: Option<CdcError>,
    seat: Option<ReaderSeat>,
}

impl Poll {
    /// Opens a page.
    ///
    /// # Errors
    /// As [`super::Feed::open`].
    pub async fn open(
        cdc: &Arc<Cdc>,
        tenant: Arc<Tenant>,
        options: PollOptions,
    ) -> Result<Poll, CdcError> {
        let plan = cdc.plan(&tenant, options.spec, &options.reader)?;
        let (consumer_start, seat) = cdc
            .take_seat(&tenant, options.consumer.as_deref(), &plan, &options.reader)
            .await?;
        let start = options.start.or(consumer_start).unwrap_or(Start::Earliest);
        let by_consumer = options.start.is_none() && consumer_start.is_some();
        let position = cdc.resolve(&tenant, start, by_consumer).await?;
        let timestamp_ms = match start {
            Start::SinceMs(time) => Some(time.min(cdc.engine.log().tail().timestamp_ms)),
            _ => None,
        };
        Ok(Poll {
            tail: tenant.tail(position, plan.collections()),
            framer: Framer::new(Framing::JsonArray, &plan),
            cdc: Arc::clone(cdc),
            tenant,
            plan,
            reader: options.reader,
            blocks: VecDeque::new(),
            at: SlicePosition::default(),
            judged: Judged::default(),
            after: position,
            limit: options.limit,
            position,
            timestamp_ms,
            step_end: position,
            steps_left: cdc.limits.page_steps,
            started_ms: cdc.engine.clock().monotonic_ms(),
            caught_up: false,
            failed: None,
            seat,
        })
    }

    /// Whether the array's elements are transactions.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        self.plan.spec.grouping == Grouping::Group
    }

    /// Changes rendered so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.framer.changes
    }

    /// Whether everything visible has been scanned, so that waiting makes sense.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Whether the page may end where it is: it has changes, and none is half told. After a refusal
    /// (retention has overtaken the reader) what has been read is still good; whoever goes on from
    /// [`Poll::cursor`] is told where to start.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.framer.changes > 0 && !self.framer.open
    }

    /// Renders some more of the page.
    ///
    /// # Errors
    /// Why it cannot go on; everything rendered before has been handed out then.
    pub async fn fill(&mut self) -> Result<Filled, CdcError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut out = Vec::new();
        loop {
            if let Some(error) = self.seat.as_ref().and_then(ReaderSeat::is_lost) {
                return Err(error.into());
            }
            if self.is_full() {
                return Ok(done_or(out));
            }
            if self.blocks.is_empty() {
                // A transaction that has been started is ended, whatever it takes.
                if !self.framer.open && !self.may_scan() {
                    return Ok(done_or(out));
                }
                match self.tail.try_next().await {
                    Ok(Some(step)) => self.take(step),
                    Ok(None) => {
                        self.caught_up = true;
                        return Ok(done_or(out));
                    }
                    Err(error) if out.is_empty() => return Err(error.into()),
                    Err(error) => {
                        self.failed = Some(error.into());
                        return Ok(Filled::Chunk(out.into()));
                    }
                }
            }
            self.judge().await?;
            self.render(&mut out)?;
            if out.len() >= self.cdc.limits.chunk_bytes {
                return Ok(Filled::Chunk(out.into()));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until there is more to scan. Cancel-safe.
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn wait(&mut self) -> Result<(), CdcError> {
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
        self.caught_up = false;
        self.take(step);
        Ok(())
    }

    /// What follows the array: `,"next_cursor":{…},"has_more":…,"count":…`.
    ///
    /// # Errors
    /// What the log says.
    pub fn trailer(&self) -> Result<Vec<u8>, CdcError> {
        let tail = self.cdc.engine.log().tail();
        let has_more = self.tenant.visible() > self.position;
        let time = self.time_to_continue_from()?;
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(b",\"next_cursor\":{\"since_lsn\":");
        json::number(&mut out, self.position.next().0);
        out.extend_from_slice(b",\"since_ms\":");
        json::number(&mut out, time.0);
        out.extend_from_slice(b",\"cursor\":\"");
        write_cursor(&mut out, self.position, tail.epoch);
        out.extend_from_slice(b"\"},\"has_more\":");
        out.extend_from_slice(if has_more { b"true" } else { b"false" });
        out.extend_from_slice(b",\"count\":");
        json::number(&mut out, self.framer.changes);
        Ok(out)
    }

    /// Where to go on.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.position, self.cdc.engine.log().tail().epoch)
    }

    /// A time that nothing after the position is before: by it changes of the same millisecond may
    /// come again, and none is missed.
    fn time_to_continue_from(&self) -> Result<TimestampMs, CdcError> {
        if let Some(time) = self.timestamp_ms {
            return Ok(time);
        }
        let log = self.cdc.engine.log();
        let tail = log.tail();
        if self.position >= tail.durable {
            return Ok(tail.timestamp_ms);
        }
        // Nothing was scanned that says it: the first commit after the position does.
        let mut slices = Vec::new();
        let read = log
            .reader(self.position.next(), ReadFilter::default())
            .and_then(|mut reader| reader.read(&mut slices, 1));
        read.map_err(|error| super::log_error(&error))?;
        Ok(slices
            .first()
            .map_or(TimestampMs(0), |slice| slice.timestamp_ms))
    }

    fn is_full(&self) -> bool {
        self.framer.changes >= self.limit && !self.framer.open
    }

    fn may_scan(&self) -> bool {
        self.steps_left > 0
            && self
                .cdc
                .engine
                .clock()
                .monotonic_ms()
                .saturating_sub(self.started_ms)
                < self.cdc.limits.page_scan_ms
    }

    fn take(&mut self, step: Step) {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.blocks = step.blocks.into();
        self.at = SlicePosition::default();
        self.step_end = step.position;
        self.pass_step();
    }

    /// Once all of a step has been rendered, everything up to its end has been scanned. While a
    /// transaction's element is open the position stays before it. (Changes of a transaction that
    /// do not show do not hold it back: what is left of them is then all that shows.)
    fn pass_step(&mut self) {
        if self.blocks.is_empty() && !self.framer.open {
            self.position = self.position.max(self.step_end);
        }
    }

    /// Finds out who may see what comes next, where policies look at other tables. Cancel-safe.
    async fn judge(&mut self) -> Result<(), CdcError> {
        if !self.plan.looks || self.blocks.is_empty() {
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
        let catalog = self.tenant.catalog();
        let is_gone =
            (self.plan.table()).is_some_and(|table| catalog.table(table.collection()).is_none());
        let roles_version = self.cdc.engine.roles().version;
        if !self.plan.is_of(&identity, catalog.version, roles_version) && !is_gone {
            self.plan = (self.cdc).plan_again(&self.tenant, &self.plan, &self.reader)?;
        }
        Ok(())
    }

    fn render(&mut self, out: &mut Vec<u8>) -> Result<(), CdcError> {
        self.refresh()?;
        let renderer = Renderer {
            plan: &self.plan,
            tables: &*self.tenant,
            filters: &self.cdc.filters,
            judged: &self.judged,
        };
        let stop = Stop {
            out_bytes: self.cdc.limits.chunk_bytes,
            changes: (self.plan.spec.grouping == Grouping::Event).then_some(self.limit),
        };
        while let Some(block) = self.blocks.front() {
            let slice = &block.slice;
            let done =
                renderer.slice(slice, &mut self.at, self.after, &mut self.framer, stop, out)?;
            self.timestamp_ms = Some(slice.timestamp_ms);
            if !self.framer.open {
                self.position = self.position.max(self.at.lsn(slice));
            }
            if done {
                self.blocks.pop_front();
                self.at = SlicePosition::default();
            }
            if self.is_full() {
                // What follows the last change is left for the next page.
                return Ok(());
            }
            if out.len() >= stop.out_bytes || !done {
                break;
            }
        }
        self.pass_step();
        Ok(())
    }
}

fn done_or(out: Vec<u8>) -> Filled {
    if out.is_empty() {
        Filled::Done
    } else {
        Filled::Chunk(out.into())
    }
}
