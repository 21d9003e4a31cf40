//! Redrives, as a session begins them or goes on with them ([`crate::dead_letters::redrive`]).

use std::sync::Arc;
use std::time::Duration;

use springhead_proto::{ErrorCode, SqlError};
use tokio::time::Instant;

use super::super::Session;
use super::invalid;
use crate::Tenant;
use crate::dead_letters::redrive::{Redrive, Turn, in_use};
use crate::dead_letters::retry::How;
use crate::dead_letters::{self, Outcome, Redriven, Task};

/// Retries per second of a redrive that says nothing else, and the most.
pub const REDRIVE_RATE: i64 = 50;
const MAX_REDRIVE_RATE: i64 = 10_000;

impl Session {
    /// Tries all unresolved ones of a collection again, oldest first, at most so many per second.
    /// Those that come in meanwhile are not tried. If the node ends before it does, it goes on when
    /// there is a primary again.
    ///
    /// # Errors
    /// 42501, 55006 while another redrive of the collection runs, 57014 if it is cancelled: what has
    /// been tried by then stays so.
    pub async fn redrive_dead_letters(
        &mut self,
        collection: &str,
        rate_per_s: i64,
    ) -> Result<Redriven, SqlError> {
        if !(1..=MAX_REDRIVE_RATE).contains(&rate_per_s) {
            return Err(invalid(format!(
                "rate_per_s is {rate_per_s}, and must be from 1 to {MAX_REDRIVE_RATE}"
            )));
        }
        self.expect_writable("CALL")?;
        let ids = self.lock_dead_letters_of(collection).await?;
        let _running = Redriving::begin(&self.tenant, collection)?;
        let mut redrive = Redrive {
            collection: collection.to_owned(),
            rate_per_s,
            last_id: 0,
            up_to_id: ids.last().copied().unwrap_or(0),
            redriven: Redriven {
                found: ids.len() as u64,
                ..Redriven::default()
            },
            by: dead_letters::Author {
                username: self.principal.user.to_string(),
                uid: self.principal.uid().unwrap_or_default(),
                claims: self.principal.claims.as_deref().cloned(),
            },
        };
        if !ids.is_empty() {
            let begun = Task::BeginRedrive(Box::new(redrive.clone()));
            self.dead_letter_work(begun).await?;
        }
        let ends = self.statement_timeout().map(|most| Instant::now() + most);
        self.drive(&mut redrive, ids, ends).await?;
        Ok(redrive.redriven)
    }

    /// Goes on with one that nobody drives any more, for whoever began it; nothing if there is none.
    ///
    /// # Errors
    /// As [`Session::redrive_dead_letters`].
    pub(crate) async fn resume_redrive(&mut self, collection: &str) -> Result<(), SqlError> {
        let tenant = Arc::clone(&self.tenant);
        let Ok(_running) = Redriving::begin(&tenant, collection) else {
            return Ok(());
        };
        // Now that nobody else can move it.
        let Some(mut redrive) = tenant.redrive_of(collection).await? else {
            return Ok(());
        };
        let found = self.lock_dead_letters_of(&redrive.collection).await;
        let left = |id: &i64| (redrive.last_id + 1..=redrive.up_to_id).contains(id);
        match found {
            Ok(ids) => {
                let ids = ids.into_iter().filter(left).collect();
                self.drive(&mut redrive, ids, None).await
            }
            Err(error) => self.end_redrive(&redrive, Err(error)).await,
        }
    }

    async fn drive(
        &mut self,
        redrive: &mut Redrive,
        ids: Vec<i64>,
        ends: Option<Instant>,
    ) -> Result<(), SqlError> {
        let done = self.try_each(redrive, ids, ends).await;
        self.end_redrive(redrive, done).await
    }

    /// It has come to its end, unless somebody else goes on with it.
    async fn end_redrive(
        &mut self,
        redrive: &Redrive,
        done: Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        if done.as_ref().is_err_and(dead_letters::is_passing) {
            return done;
        }
        let collection = redrive.collection.clone();
        self.dead_letter_work(Task::EndRedrive { collection })
            .await?;
        let outcome = match &done {
            Ok(()) => "ok",
            Err(error) => error.code.sqlstate().0,
        };
        let Redriven {
            found,
            applied,
            rejected,
        } = redrive.redriven;
        self.audit_dead_letters(
            "redrive dead letters",
            redrive.collection.clone(),
            outcome,
            Some(format!(
                "{found} found, {applied} applied, {rejected} rejected"
            )),
        )
        .await;
        done
    }

    async fn try_each(
        &mut self,
        redrive: &mut Redrive,
        ids: Vec<i64>,
        ends: Option<Instant>,
    ) -> Result<(), SqlError> {
        let every = Duration::from_secs(1) / u32::try_from(redrive.rate_per_s).unwrap_or(1);
        let mut next = Instant::now();
        for id in ids {
            self.wait_to_redrive(next, ends).await?;
            next = Instant::now().max(next) + every;
            // Whoever may no longer does no more.
            self.refresh_identity()?;
            let turn = Turn {
                collection: redrive.collection.clone(),
                id,
            };
            match self.retry_as(id, How::Redrive, None, Some(turn)).await {
                Ok((retried, _)) => match retried.outcome {
                    Outcome::Applied => redrive.redriven.applied += 1,
                    Outcome::Rejected { .. } => redrive.redriven.rejected += 1,
                },
                // Somebody else was faster, or it went with its chain.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn wait_to_redrive(&self, next: Instant, ends: Option<Instant>) -> Result<(), SqlError> {
        let interrupt = self.interruptible();
        let timeout = async {
            match ends {
                Some(ends) => tokio::time::sleep_until(ends).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = interrupt.asked() => Err(error),
            () = timeout => Err(SqlError::new(
                ErrorCode::QueryCanceled,
                "canceling statement due to statement timeout",
            )),
            () = tokio::time::sleep_until(next) => Ok(()),
        }
    }
}

fn is_gone(error: &SqlError) -> bool {
    matches!(
        error.code,
        ErrorCode::NotFound | ErrorCode::ObjectNotInState
    )
}

/// A redrive that runs here; one per collection.
struct Redriving(Arc<Tenant>, String);

impl Redriving {
    fn begin(tenant: &Arc<Tenant>, collection: &str) -> Result<Redriving, SqlError> {
        if !tenant.redrives.lock().insert(collection.to_owned()) {
            return Err(in_use(collection));
        }
        Ok(Redriving(Arc::clone(tenant), collection.to_owned()))
    }
}

impl Drop for Redriving {
    fn drop(&mut self) {
        self.0.redrives.lock().remove(&self.1);
    }
}
