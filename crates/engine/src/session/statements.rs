//! The statements of one simple query, one after the other.

use springhead_proto::SqlError;
use springhead_sql::split;

use super::{Outcome, Session};
use crate::copy::CopyIn;

/// See [`Session::script`].
pub struct Script<'a> {
    pub(super) session: &'a mut Session,
    pub(super) is_several: bool,
    /// Already split off, to know whether there is more than one.
    pub(super) next: [Option<Result<&'a str, SqlError>>; 2],
    pub(super) rest: split::Statements<'a>,
    pub(super) ended: bool,
    pub(super) ran: bool,
}

impl Script<'_> {
    /// Whose script it is.
    pub fn session(&mut self) -> &mut Session {
        self.session
    }

    /// Ends a COPY FROM of the script with all of its data, or with why there is none.
    ///
    /// # Errors
    /// As [`Session::finish_copy`], or the reason given; the script has then ended.
    pub async fn finish_copy(
        &mut self,
        copy: Result<CopyIn, SqlError>,
    ) -> Result<Outcome, SqlError> {
        let result = match copy {
            Ok(copy) => self.session.finish_copy(copy).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.ended = true;
            self.session.fail_block();
            self.session.abandon_implicit().await;
        }
        result
    }

    /// A statement that the protocol went on with has failed; the script has ended.
    pub async fn fail(&mut self) {
        self.ended = true;
        self.session.fail_block();
        self.session.abandon_implicit().await;
    }

    /// Runs the next statement; `None` when there is none left or one has failed. An empty script
    /// has one outcome with an empty tag.
    pub async fn next(&mut self) -> Option<Result<Outcome, SqlError>> {
        if self.ended {
            return None;
        }
        let text = self.next[0]
            .take()
            .or_else(|| self.next[1].take())
            .or_else(|| self.rest.next());
        let result = match text {
            Some(Ok(text)) => {
                self.ran = true;
                if self.is_several {
                    self.session.begin_block();
                }
                self.session.run_text(text).await
            }
            Some(Err(error)) => Err(error),
            None => {
                self.ended = true;
                if !self.ran {
                    return Some(Ok(Outcome::command("")));
                }
                return match self.session.end_block().await {
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                };
            }
        };
        if result.is_err() {
            self.ended = true;
            self.session.fail_block();
            // A block that only the script made ends with it.
            self.session.abandon_implicit().await;
        }
        Some(result)
    }
}
