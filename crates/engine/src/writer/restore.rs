//! A statement that SQLite ends by giving up the whole transaction (an interrupt, no memory, a full
//! disk) must take with it no more than itself: PostgreSQL's client goes on at a savepoint. What the
//! transaction had done is in the capture, so it is done again, as replay does it, and its savepoints
//! are set again where they were. Called by the writer after such a statement, and by nobody else.

use std::sync::Arc;

use springhead_proto::{ChangeRef, ErrorCode, SqlError};

use super::Writer;
use crate::apply::Applier;

/// How much of a large transaction is in memory at a time. In bytes.
const PIECE_BYTES: usize = 1 << 20;

impl Writer {
    /// Brings the interactive transaction back to where it was before the statement that has just
    /// failed, whose changes are no longer in the capture. False if that is not worth the while or not
    /// possible: it is then to be given up.
    pub(super) fn restore_owner(&mut self) -> bool {
        // Without a savepoint its client can do nothing but end it.
        let has_savepoints = self
            .owner
            .as_ref()
            .is_some_and(|owner| !owner.savepoints.is_empty());
        if !has_savepoints || self.dead.is_some() || self.capture.check().is_err() {
            return false;
        }
        // What ended the statement must not end this.
        self.context.forget_cancel();
        self.capture.enabled = false;
        let restored = self.run_again();
        self.capture.enabled = true;
        if let Err(error) = &restored {
            tracing::warn!(
                tenant = self.tenant.0,
                "a transaction is given up, for it could not be restored: {error}"
            );
        }
        restored.is_ok()
    }

    fn run_again(&mut self) -> Result<(), SqlError> {
        if !self.conn.is_autocommit() {
            self.batch("ROLLBACK")?;
        }
        let Some(owner) = &self.owner else {
            return Ok(());
        };
        let before = Arc::clone(&owner.before);
        let ends: Vec<u64> = (owner.savepoints.iter())
            .map(|savepoint| savepoint.mark.bytes())
            .collect();
        let mut applier =
            Applier::uncommitted(&self.conn, self.tenant, before).map_err(internal)?;
        let done = self.batch("BEGIN IMMEDIATE").and_then(|()| {
            let mut at = 0;
            for (depth, &end) in ends.iter().enumerate() {
                self.apply_captured(&mut applier, at, end)?;
                self.batch(&format!("SAVEPOINT s{depth}"))?;
                at = end;
            }
            self.apply_captured(&mut applier, at, self.capture.mark().bytes())
        });
        applier.leave_open().map_err(internal)?;
        done?;
        if let Some(owner) = &mut self.owner {
            // Nothing was counted while it was done again.
            owner.recounts_keys |= owner.had_violations;
        }
        Ok(())
    }

    /// Applies what the capture has from byte `from` to byte `to`, whole changes.
    fn apply_captured(
        &self,
        applier: &mut Applier<'_>,
        from: u64,
        to: u64,
    ) -> Result<(), SqlError> {
        let (mut at, mut piece) = (from, PIECE_BYTES);
        while at < to {
            let left = usize::try_from(to - at).unwrap_or(usize::MAX);
            let bytes = self
                .capture
                .read_open(at, left.min(piece))
                .map_err(internal)?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let mut next = rest;
                let change = match ChangeRef::read(&mut next) {
                    Ok(change) => change,
                    // It goes on in the next piece.
                    Err(_) if bytes.len() < left => break,
                    Err(error) => return Err(internal(error)),
                };
                applier.apply_change(&change).map_err(internal)?;
                rest = next;
            }
            let read = bytes.len() - rest.len();
            // A change longer than the piece is read in a longer one.
            piece = if read == 0 { piece * 2 } else { PIECE_BYTES };
            at += read as u64;
        }
        Ok(())
    }
}

/// For the server's log: the client is told of what ended its statement.
fn internal(error: impl std::fmt::Display) -> SqlError {
    SqlError::new(ErrorCode::Internal, error.to_string())
}
