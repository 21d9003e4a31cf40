//! A mutation's place among its producer's: whether it is due, was decided before, or is nobody's.
//!
//! ```text
//!   1 …       | acknowledged − kept … seq | seq+1 | seq+2 …
//!   forgotten | decided: digest           | due   | gap
//! ```
//!
//! The digest tells a repeated push, which gets its verdict again, from another mutation of the same
//! number, which is a copy's. What the device has acknowledged it never pushes again, so whoever does
//! is a copy of it, whose queue the original has settled: the last verdicts are kept for that
//! ([`EngineConfig::sync_settled_verdicts`](crate::EngineConfig)). Before them nobody can say whether
//! the mutation was applied: it is neither applied nor lost, but a dead letter.

use rusqlite::{Connection, OptionalExtension, params};
use springhead_proto::sync::{Generation, Hint, Mutation, ProducerId, Rejection, Seq};

use super::{Author, Decided};

/// A producer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    pub username: String,
    pub generation: Generation,
    /// Everything up to it has its verdict.
    pub seq: Seq,
    /// The device has its verdict up to it.
    pub acknowledged: Seq,
}

/// Where a mutation stands.
#[derive(Debug)]
pub(crate) enum Place {
    /// It is the one that is due.
    Due(Option<Producer>),
    /// Its number was settled too long ago to know what had it.
    Forgotten,
    Decided(Decided),
}

/// Verdicts of one producer that wait to be acknowledged; past it, it has to.
pub(crate) const MAX_UNACKNOWLEDGED: u64 = 10_000;

/// How long a device waits that has to acknowledge first.
const ACKNOWLEDGE_FIRST_MS: u64 = 1_000;

impl Place {
    /// Looks.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn of(
        conn: &Connection,
        mutation: &Mutation,
        author: &Author,
    ) -> rusqlite::Result<Place> {
        let producer = Producer::find(conn, mutation.producer)?;
        let Some(known) = producer else {
            return Ok(match mutation.seq {
                Seq::FIRST => Place::Due(None),
                _ => Place::Decided(Decided::Gap {
                    expected_seq: Seq::FIRST,
                }),
            });
        };
        if known.username != author.username() || mutation.generation < known.generation {
            return Ok(Place::Decided(Decided::Fenced));
        }
        if mutation.generation > known.generation {
            // A new life counts from 1 again.
            return Ok(match mutation.seq {
                Seq::FIRST => Place::Due(Some(known)),
                _ => Place::Decided(Decided::Gap {
                    expected_seq: Seq::FIRST,
                }),
            });
        }
        let decided = if mutation.seq <= known.seq {
            match decided(conn, mutation)? {
                Some(decided) => decided,
                None => return Ok(Place::Forgotten),
            }
        } else if mutation.seq > known.seq.next() {
            Decided::Gap {
                expected_seq: known.seq.next(),
            }
        } else if known.seq.0 - known.acknowledged.0 >= MAX_UNACKNOWLEDGED {
            Decided::Retry {
                after_ms: ACKNOWLEDGE_FIRST_MS,
                reason: springhead_proto::sync::RetryReason::RateLimit,
            }
        } else {
            return Ok(Place::Due(Some(known)));
        };
        Ok(Place::Decided(decided))
    }
}

impl Producer {
    /// The producer of this id, if it has pushed anything yet.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn find(conn: &Connection, id: ProducerId) -> rusqlite::Result<Option<Producer>> {
        conn.prepare_cached("SELECT c2, c4, c5, c6 FROM t20 WHERE c1 = ?1")?
            .query_row([id.to_string()], |row| {
                Ok(Producer {
                    username: row.get(0)?,
                    generation: Generation(row.get(1)?),
                    seq: Seq(row.get::<_, i64>(2)?.unsigned_abs()),
                    acknowledged: Seq(row.get::<_, i64>(3)?.unsigned_abs()),
                })
            })
            .optional()
    }
}

/// The verdict that a repeated push gets; `None` if nothing is known of its number any more.
fn decided(conn: &Connection, mutation: &Mutation) -> rusqlite::Result<Option<Decided>> {
    type Kept = (
        i64,
        Option<i64>,
        Option<String>,
        Option<String>,
        Option<i64>,
    );
    let kept: Option<Kept> = conn
        .prepare_cached("SELECT c3, c4, c5, c6, c7 FROM t21 WHERE c1 = ?1 AND c2 = ?2")?
        .query_row(
            params![mutation.producer.to_string(), mutation.seq.0.cast_signed()],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            },
        )
        .optional()?;
    let Some((digest, letter, violation, hint, chain)) = kept else {
        return Ok(None);
    };
    if digest != mutation.digest().cast_signed() {
        return Ok(Some(Decided::Fenced));
    }
    let (Some(letter), Some(violation)) = (letter, violation) else {
        return Ok(Some(Decided::Duplicate));
    };
    Ok(Some(Decided::Rejected(Box::new(Rejection {
        dead_letter_id: letter.unsigned_abs(),
        violation: violation
            .parse()
            .unwrap_or(springhead_proto::sync::Violation::Constraint { detail: violation }),
        hint: hint
            .and_then(|hint| serde_json::from_str(&hint).ok())
            .unwrap_or_else(Hint::default),
        chain: chain.map(i64::unsigned_abs),
    }))))
}

/// Whether a mutation that this one depends on was rejected, and has not been applied or dealt with
/// since: the chain's first dead letter.
///
/// # Errors
/// What SQLite says.
pub(crate) fn rejected_before(
    conn: &Connection,
    mutation: &Mutation,
) -> rusqlite::Result<Option<u64>> {
    for id in &mutation.after {
        let letter: Option<Option<i64>> = conn
            .prepare_cached(
                "SELECT coalesce(t21.c7, t21.c4) FROM t21 LEFT JOIN t8 ON t8.c1 = t21.c4 \
                 WHERE t21.c1 = ?1 AND t21.c2 = ?2 AND coalesce(t8.c15, 0) = 0",
            )?
            .query_row(
                params![id.producer.to_string(), id.seq.0.cast_signed()],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(Some(letter)) = letter {
            return Ok(Some(letter.unsigned_abs()));
        }
    }
    Ok(None)
}
