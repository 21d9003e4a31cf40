//! What a session tells its device: commits as they come, snapshots chunk by chunk, definitions, and
//! how far all of it goes.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use springhead_proto::sync::{
    Delta as DeltaFrame, DeltaChange, MutationId, ResyncOrder, ResyncReason, ServerToDevice,
    ShapeEnded, ShapeId, Subscription, SyncErrorCode,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, SqlError};

use super::session::{Closing, SyncSession, there};
use super::shape::{OpenShape, Sending, ShapeQuery};
use crate::live::{LiveEnd, LiveError, LiveEvent, Subscriber};

impl SyncSession {
    pub(super) async fn on_event(&mut self, event: LiveEvent) -> Result<(), Closing> {
        match event {
            LiveEvent::Change { id, delta } => self.commit.push((id, delta)),
            LiveEvent::Tick(lsn) => self.end_commit(lsn),
            // Only for those who ask for it, which shapes do not.
            LiveEvent::Refetched { .. } => {}
            LiveEvent::Ended { id, end } => {
                let Some(place) = self.shapes.iter().position(|open| open.live == id) else {
                    return Ok(());
                };
                let open = self.shapes.remove(place);
                if self
                    .sending
                    .as_ref()
                    .is_some_and(|(sent, _)| *sent == open.shape.id)
                {
                    self.sending = None;
                }
                let message = match &end {
                    LiveEnd::MustRefetch { message } => message.clone(),
                    LiveEnd::Failed(error) if is_ours(error) => {
                        self.end_shape(open.shape.id, error);
                        return Ok(());
                    }
                    LiveEnd::Failed(error) => error.message.clone(),
                };
                self.open_again(open, message);
            }
        }
        Ok(())
    }

    /// A shape whose query cannot go on begins again, if it still can.
    fn open_again(&mut self, open: OpenShape, message: String) {
        let moved = self.tenant.catalog().version != self.definitions.version.0;
        if moved {
            self.definitions_due = Some(self.at);
        }
        self.out.push_back(ServerToDevice::Resync(ResyncOrder {
            reason: if moved {
                ResyncReason::RightsChanged
            } else {
                ResyncReason::Other
            },
            shapes: vec![open.shape.id],
            message,
        }));
        self.wanted.push_back(Subscription {
            shape: open.shape,
            complete: false,
            resume: None,
        });
    }

    pub(super) fn end_shape(&mut self, id: ShapeId, error: &SqlError) {
        let code = match error.code {
            ErrorCode::InsufficientPrivilege | ErrorCode::InvalidAuthorization => {
                SyncErrorCode::Forbidden
            }
            _ if is_ours(error) => SyncErrorCode::Internal,
            _ => SyncErrorCode::BadShape,
        };
        self.out.push_back(ServerToDevice::ShapeEnded(ShapeEnded {
            shape: id,
            code,
            message: error.message.clone(),
        }));
    }

    /// Everything of a commit has come: it goes out as one.
    fn end_commit(&mut self, lsn: Lsn) {
        let mut changes = Vec::new();
        for (id, delta) in std::mem::take(&mut self.commit) {
            if let Some(open) = self.shapes.iter().find(|open| open.live == id) {
                changes.extend(
                    delta
                        .entries
                        .iter()
                        .filter_map(|entry| open.change(delta.lsn, entry)),
                );
            }
        }
        if let Some(collected) = &mut self.collected {
            // If it is the device's own, it is told so once the cursor is there.
            collected.extend(changes);
            return;
        }
        let own = self.own(lsn);
        if let Some(id) = own {
            self.owed.told(id);
        }
        if changes.is_empty() && own.is_none() || lsn <= self.at && changes.is_empty() {
            return;
        }
        self.at = self.at.max(lsn);
        self.sync.counts().deltas.fetch_add(1, Relaxed);
        let cursor = self.cursor(self.at);
        self.put_delta(cursor, own, changes);
    }

    /// The device's own mutation that a commit is.
    fn own(&self, lsn: Lsn) -> Option<MutationId> {
        let id = self.tenant.published().mutation_at(lsn)?;
        (id.producer == self.producer).then_some(id)
    }

    /// A delta as frames of the size that a device takes.
    fn put_delta(&mut self, cursor: Cursor, own: Option<MutationId>, changes: Vec<DeltaChange>) {
        let max_bytes = self.sync.limits.chunk_bytes;
        let mut part = Vec::new();
        let mut bytes = 0;
        for change in changes {
            bytes += super::value::size_of_change(&change);
            part.push(change);
            if bytes >= max_bytes {
                let changes = std::mem::take(&mut part);
                bytes = 0;
                self.out.push_back(ServerToDevice::Delta(DeltaFrame {
                    cursor,
                    timestamp_ms: None,
                    own,
                    changes,
                    more: true,
                }));
            }
        }
        self.out.push_back(ServerToDevice::Delta(DeltaFrame {
            cursor,
            timestamp_ms: None,
            own,
            changes: part,
            more: false,
        }));
    }

    pub(super) fn send_chunk(&mut self, id: ShapeId, mut sending: Sending) -> Result<(), Closing> {
        let Some(open) = self.shapes.iter().find(|open| open.shape.id == id) else {
            return Ok(());
        };
        let cursor = self.cursor(sending.lsn);
        let (chunk, is_last) = open.chunk(&mut sending, cursor, self.sync.limits.chunk_bytes)?;
        self.sync
            .counts()
            .snapshot_rows
            .fetch_add(chunk.rows.len() as u64, Relaxed);
        if is_last {
            self.at = self.at.max(sending.lsn);
        } else {
            self.sending = Some((id, sending));
        }
        self.out.push_back(ServerToDevice::Snapshot(chunk));
        Ok(())
    }

    /// Opens the shapes that are due: those that the device has all at once, since its cursor is one;
    /// any other alone, once everything before its snapshot has been handed out.
    pub(super) async fn open_wanted(&mut self) -> Result<(), Closing> {
        // First, while the device's cursor is the one that they are complete at.
        if self.wanted.iter().any(|wanted| wanted.complete) {
            return self.open_complete().await;
        }
        let Some(wanted) = self.wanted.pop_front() else {
            return Ok(());
        };
        let id = wanted.shape.id;
        match self.open_shape(&wanted).await {
            Ok(sending) => {
                self.drain(sending.lsn).await?;
                self.sending = Some((id, sending));
                Ok(())
            }
            // Definitions have changed meanwhile, which is no fault of the shape's.
            Err(LiveError::Refetch(_) | LiveError::Refused(_)) => {
                self.wanted.push_back(wanted);
                Ok(())
            }
            Err(LiveError::Sql(error)) => {
                self.forget(id);
                self.end_shape(id, &error);
                Ok(())
            }
        }
    }

    /// Hands out every delta up to `lsn`; the first later event waits.
    pub(super) async fn drain(&mut self, lsn: Lsn) -> Result<(), Closing> {
        loop {
            // A commit of which changes have been taken ends with its tick, wherever its queries are.
            let is_within = !self.commit.is_empty();
            let is_there = match self.subscriber.progress() {
                Some(position) => position >= lsn,
                // Something has come, or there is nothing to come.
                None => self.subscriber.is_empty(),
            };
            if is_there && !is_within {
                return Ok(());
            }
            let reached = (!is_within).then(|| self.subscriber.reached(lsn));
            let event = tokio::select! {
                biased;
                event = self.subscriber.next() => event,
                () = there(reached) => continue,
            };
            let is_later = match &event {
                LiveEvent::Change { delta, .. } => delta.lsn > lsn,
                LiveEvent::Tick(tick) => *tick > lsn && self.commit.is_empty(),
                LiveEvent::Ended { .. } | LiveEvent::Refetched { .. } => false,
            };
            if is_later && self.commit.is_empty() {
                self.event = Some(event);
                return Ok(());
            }
            Box::pin(self.on_event(event)).await?;
        }
    }

    pub(super) fn subscriber(&mut self) -> &mut Subscriber {
        &mut self.subscriber
    }

    pub(super) fn take_complete(&mut self) -> Vec<Subscription> {
        let (complete, others): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.wanted)
            .into_iter()
            .partition(|wanted| wanted.complete);
        self.wanted = others;
        complete.into()
    }

    /// After the device's own shapes have been gone on with: one delta that brings all of them to
    /// `lsn`.
    pub(super) fn catch_up(&mut self, lsn: Lsn, changes: Vec<DeltaChange>) {
        let lsn = lsn.max(self.at);
        if lsn > self.at || !changes.is_empty() {
            self.at = lsn;
            let cursor = self.cursor(lsn);
            self.put_delta(cursor, None, changes);
        }
    }

    pub(super) fn resync(&mut self, reason: ResyncReason, shapes: Vec<ShapeId>, message: String) {
        self.out.push_back(ServerToDevice::Resync(ResyncOrder {
            reason,
            shapes,
            message,
        }));
    }

    pub(super) fn shape_failed(&mut self, id: ShapeId, error: &SqlError) {
        self.forget(id);
        self.end_shape(id, error);
    }

    /// What waits for a position to be reached.
    pub(super) async fn look_around(&mut self) -> Result<(), Closing> {
        let busy = !self.out.is_empty()
            || self.event.is_some()
            || !self.commit.is_empty()
            || !self.wanted.is_empty()
            || self.sending.is_some();
        if busy || self.due().is_none() {
            return Ok(());
        }
        let position = self.position();
        // Before definitions, whose cursor says that everything up to it has been told.
        self.tell_owed(position);
        if let Some(due) = self.definitions_due
            && position >= due
        {
            self.definitions_due = None;
            let set = self
                .sync
                .definitions
                .of(&self.tenant, &self.identity)
                .await?;
            let cursor = self.cursor(position);
            let frames = set.since(&self.definitions, cursor);
            self.definitions = set;
            self.tell_definitions(frames);
            self.follow_columns();
        }
        if self.owed.up_to > self.at && position >= self.owed.up_to {
            self.tell_progress(position);
        }
        Ok(())
    }

    /// Shapes of all columns begin again where there are others than they were opened with.
    fn follow_columns(&mut self) {
        let catalog = self.tenant.catalog();
        let (moved, kept): (Vec<OpenShape>, Vec<OpenShape>) = std::mem::take(&mut self.shapes)
            .into_iter()
            .partition(|open| {
                open.shape.columns.is_empty()
                    && ShapeQuery::of(&catalog, &open.shape)
                        .is_ok_and(|query| query.columns != open.columns)
            });
        self.shapes = kept;
        for open in moved {
            self.subscriber.close(open.live);
            self.open_again(open, "the collection has other columns".to_owned());
        }
    }

    /// The next LSN that the device is to hear of being passed, if there is one.
    pub(super) fn due(&self) -> Option<Lsn> {
        let owed = self.owed.due(self.at);
        self.definitions_due.into_iter().chain(owed).min()
    }

    /// Completes once everything up to `lsn` is there to be handed out. Holds nothing of the session.
    pub(super) fn reached(&self, lsn: Lsn) -> impl Future<Output = ()> + Send + use<> {
        let shapes = (!self.shapes.is_empty()).then(|| self.subscriber.reached(lsn));
        let tenant = Arc::clone(&self.tenant);
        async move {
            match shapes {
                Some(reached) => reached.await,
                None => tenant.when_visible(lsn).await,
            }
        }
    }

    /// Whether something is to be handed out, or waited for that [`SyncSession::ready`] tells of.
    fn is_busy(&self) -> bool {
        self.has_work()
            || !self.commit.is_empty()
            || self.pushes.len() > 0
            || self.due().is_some()
            || self.has_news()
    }

    /// The next frame; `None` once the device has been handed all that there is for it now, nothing
    /// that it has said waits for an answer, and all that is visible has got to its shapes. For whoever
    /// drives a session to its rest, without a socket. Not to be cancelled.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn next_or_quiet(&mut self) -> Result<Option<ServerToDevice>, Closing> {
        loop {
            // Both are looked at once: what moves afterwards is not waited for by either.
            let is_busy = self.is_busy();
            let visible = self.tenant.visible();
            let is_behind = self.position() < visible;
            if !is_busy && !is_behind {
                return Ok(None);
            }
            let reached = is_behind.then(|| self.reached(visible));
            tokio::select! {
                biased;
                ready = self.ready() => ready?,
                () = there(reached) => continue,
            }
            if let Some(frame) = self.step().await? {
                return Ok(Some(frame));
            }
        }
    }

    /// Everything up to it has been handed out.
    pub(super) fn position(&mut self) -> Lsn {
        if self.shapes.is_empty() {
            self.tenant.visible()
        } else {
            let position = self.subscriber.progress().unwrap_or(Lsn::ZERO);
            if position < self.tenant.visible() {
                self.subscriber.look();
            }
            position
        }
    }

    /// Moves the device's cursor over what does not concern it, if there is anything; for idle times.
    pub fn progress(&mut self) {
        let quiet = !self.has_work() && self.commit.is_empty();
        let position = self.position();
        if quiet {
            self.tell_owed(position);
        }
        if quiet && position > self.at {
            self.tell_progress(position);
        }
    }

    /// Tells of the device's own commits up to `position` that none of its shapes shows.
    fn tell_owed(&mut self, position: Lsn) {
        while let Some((lsn, id)) = self.owed.next(position) {
            self.at = self.at.max(lsn);
            let cursor = self.cursor(self.at);
            self.put_delta(cursor, Some(id), Vec::new());
        }
    }

    fn tell_progress(&mut self, position: Lsn) {
        self.at = position;
        let cursor = self.cursor(position);
        self.put_delta(cursor, None, Vec::new());
    }

    pub(super) fn tell_definitions(&mut self, frames: Vec<springhead_proto::sync::Definition>) {
        self.out
            .extend(frames.into_iter().map(ServerToDevice::Definition));
    }

    pub(super) fn now_ms(&self) -> u64 {
        let us = crate::functions::now_us(&**self.sync.engine.clock());
        u64::try_from(us / 1000).unwrap_or(0)
    }
}

/// Whether it says nothing about the shape.
fn is_ours(error: &SqlError) -> bool {
    matches!(
        error.code,
        ErrorCode::Internal | ErrorCode::OutOfMemory | ErrorCode::DiskFull | ErrorCode::Corrupted
    )
}
