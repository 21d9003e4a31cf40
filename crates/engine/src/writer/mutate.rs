//! How one mutation of a device is decided: exactly once, alone, in the transaction that the group
//! shares.
//!
//! ```text
//!   place ── duplicate, gap, fenced: said, nothing written
//!     │ due
//!   SAVEPOINT mutation ── operations ── RELEASE ────────────┐
//!     └ objection: ROLLBACK TO, hint, dead letter ──────────┤
//!                                     producer, verdict ────┴ one commit of the log
//! ```
//!
//! What a group's flush makes durable is therefore always both: the rows and that they are decided.

use std::sync::Arc;

use rusqlite::params;
use springhead_log::failpoint;
use springhead_proto::sync::{
    ColumnValues, Fix, Hint, Hlc, Mutation, Operation, Rejection, Seq, Verb, Violation,
};
use springhead_proto::{CollectionId, ErrorCode, SqlError, Value};
use springhead_sql::catalog::{Conflict, Table};
use springhead_sql::plan::Parameter;
use tokio::sync::oneshot;

use super::run::NotDone;
use super::{Request, Writer};
use crate::capture::Mark;
use crate::dead_letters::{self, Desk, Entry, Recorded, Rejected};
use crate::functions::CancelFlag;
use crate::readers::Failure;
use crate::session::{ParamValue, convert_one};
use crate::sync::clocks;
use crate::sync::hint::{self, candidates};
use crate::sync::statement::{self, Form, Param, Statement};
use crate::sync::violation::{Objection, by, violation_of};
use crate::sync::{self, Author, Decided, MutationRequest, Place, Producer};

/// Why a mutation was not applied; nothing of it is left.
pub(crate) enum Unapplied {
    /// The database has something against it.
    Objected(Objection),
    /// Not its fault, or worse.
    NotDone(NotDone),
}

impl From<NotDone> for Unapplied {
    fn from(not_done: NotDone) -> Unapplied {
        Unapplied::NotDone(not_done)
    }
}

impl From<rusqlite::Error> for Unapplied {
    fn from(error: rusqlite::Error) -> Unapplied {
        Unapplied::NotDone(not_done(&error))
    }
}

fn not_done(error: &rusqlite::Error) -> NotDone {
    let told = crate::readers::translate_plain(error);
    if crate::checksum::is_damage(error) {
        NotDone::Damaged(told)
    } else {
        NotDone::TransactionLost(told)
    }
}

impl Writer {
    /// Decides a mutation in the open transaction. What it wrote, its verdict included, is the open
    /// commit of the capture.
    pub(super) fn mutate(&mut self, request: &MutationRequest) -> Result<Decided, NotDone> {
        let (mutation, author) = (&*request.mutation, &request.author);
        let known = match Place::of(&self.conn, mutation, author).map_err(|e| not_done(&e))? {
            Place::Decided(decided) => return Ok(decided),
            Place::Forgotten => return self.bury_forgotten(request),
            Place::Due(known) => known,
        };
        failpoint::hit("sync.before_apply");
        let chain =
            sync::rejected_before(&self.conn, mutation).map_err(|error| not_done(&error))?;
        let applied = match (chain, &request.precluded) {
            (Some(_), _) => Err(Unapplied::Objected(objection(Violation::Constraint {
                detail: Violation::DEPENDS_ON_REJECTED.to_owned(),
            }))),
            (None, Some(violation)) => Err(Unapplied::Objected(objection(violation.clone()))),
            (None, None) => self.apply_mutation(mutation, author),
        };
        failpoint::hit("sync.after_apply");
        let decided = match applied {
            Ok(()) => Decided::Applied,
            Err(Unapplied::NotDone(not_done)) => return Err(not_done),
            Err(Unapplied::Objected(objection)) => {
                match self.bury(request, &objection, chain)? {
                    Ok(rejection) => Decided::Rejected(Box::new(rejection)),
                    // Nothing is kept of it, so that it comes again.
                    Err(retry) => return Ok(retry),
                }
            }
        };
        self.settle(request, known.as_ref(), &decided)
            .map_err(|error| not_done(&error))?;
        failpoint::hit("sync.after_verdict");
        Ok(decided)
    }

    /// Applies a mutation's operations for `author` in a savepoint of their own: all of them, or
    /// none. For whoever decides about it: a push, the retry of a dead letter.
    ///
    /// # Errors
    /// [`Unapplied`]: then nothing of it is left.
    pub(crate) fn apply_mutation(
        &mut self,
        mutation: &Mutation,
        author: &Arc<Author>,
    ) -> Result<(), Unapplied> {
        let mark = self.enter_mutation()?;
        let applied = self.operations(mutation, author);
        self.leave_mutation(mark, applied.is_ok())?;
        applied?;
        let hlc = clocks::of_mutation(mutation, self.now_us(), self.config.sync_clock_drift_ms);
        Ok(self.note_clocks(hlc, &mutation.producer.to_string())?)
    }

    /// Notes when the open commit's columns were written, where that decides.
    pub(super) fn note_clocks(&mut self, hlc: Hlc, by: &str) -> Result<(), NotDone> {
        let by_clock = |table: &CollectionId| {
            (self.catalog.table(*table)).is_some_and(|table| table.conflict == Conflict::Hlc)
        };
        if !self.capture.collections().iter().any(by_clock) {
            return Ok(());
        }
        // What has outgrown memory is a load, not an edit.
        let Some(changes) = self.capture.open_changes().map(<[u8]>::to_vec) else {
            return Ok(());
        };
        clocks::note(&self.conn, &self.catalog, &changes, (hlc, by))
            .map_err(|error| not_done(&error))
    }

    /// As [`Writer::note_clocks`], for what statements have written.
    pub(super) fn note_statement_clocks(&mut self) -> Result<(), NotDone> {
        self.note_clocks(clocks::now(self.now_us()), clocks::STATEMENT)
    }

    fn enter_mutation(&mut self) -> rusqlite::Result<(Mark, usize)> {
        self.conn
            .prepare_cached("SAVEPOINT mutation")?
            .execute([])?;
        let restarts = (self.context.sequences.as_ref()).map_or(0, |book| book.lock().mark());
        Ok((self.capture.mark(), restarts))
    }

    fn leave_mutation(&mut self, mark: (Mark, usize), keep: bool) -> Result<(), NotDone> {
        if self.conn.is_autocommit() {
            return Err(NotDone::TransactionLost(SqlError::new(
                ErrorCode::Internal,
                "the transaction was given up",
            )));
        }
        let run = |sql: &str| {
            let mut statement = self.conn.prepare_cached(sql)?;
            statement.execute([]).map(|_| ())
        };
        let left = if keep {
            run("RELEASE mutation")
        } else {
            run("ROLLBACK TO mutation").and_then(|()| run("RELEASE mutation"))
        };
        left.map_err(|error| not_done(&error))?;
        if !keep {
            self.capture.cut(mark.0);
            self.undo_restarts(mark.1);
        }
        Ok(())
    }

    fn operations(&mut self, mutation: &Mutation, author: &Arc<Author>) -> Result<(), Unapplied> {
        for (place, operation) in mutation.operations.iter().enumerate() {
            self.in_mutation = true;
            let done = self.operate(operation, mutation, author);
            self.in_mutation = false;
            self.judge(done, place, operation)?;
        }
        let last = mutation.operations.len().saturating_sub(1);
        let checked = self.check_foreign_keys(true, None).map_err(NotDone::Failed);
        match mutation.operations.last() {
            Some(operation) => self.judge(checked, last, operation),
            None => Ok(checked?),
        }
    }

    /// What the outcome of an operation says about its mutation.
    fn judge(
        &self,
        done: Result<(), NotDone>,
        place: usize,
        operation: &Operation,
    ) -> Result<(), Unapplied> {
        let error = match done {
            Ok(()) => return Ok(()),
            Err(NotDone::Failed(error)) => error,
            // Found wrong after it had run: the savepoint takes it back as well.
            Err(NotDone::TransactionLost(error)) if !self.conn.is_autocommit() => error,
            Err(other) => return Err(other.into()),
        };
        let table = crate::cdc::find_collection(&self.catalog, &operation.collection)
            .ok()
            .map(AsRef::as_ref);
        match violation_of(&self.catalog, table, operation, &error) {
            Some(violation) => Err(Unapplied::Objected(Objection {
                by: by(&error),
                violation,
                operation: place,
                error,
            })),
            None => Err(Unapplied::NotDone(NotDone::Failed(error))),
        }
    }

    fn operate(
        &mut self,
        operation: &Operation,
        mutation: &Mutation,
        author: &Arc<Author>,
    ) -> Result<(), NotDone> {
        if author.principal.read_only {
            return Err(NotDone::Failed(SqlError::new(
                ErrorCode::ReadOnlyTransaction,
                "the credentials allow reading only",
            )));
        }
        let catalog = Arc::clone(&self.catalog);
        let made_on = mutation.schema_version;
        let carried = sync::carry::carried(&catalog, &self.schemas, made_on, operation)?;
        let Some((table, operation)) = carried else {
            return Ok(());
        };
        let (table, operation) = (&table, &*operation);
        statement::check(table, operation)?;
        if matches!(operation.verb, Verb::Crdt(_)) {
            return match self.merge_updates(table, operation, author)? {
                0 => Err(no_document()),
                _ => Ok(()),
            };
        }
        let statement = match (&operation.verb, statement::simple(table, operation)) {
            (Verb::Set(columns), Some(_)) if table.conflict == Conflict::Hlc => {
                self.by_clock(table, operation, columns, mutation)?
            }
            (_, Some(statement)) => statement,
            (_, None) => self.made_of_stored(table, operation)?,
        };
        let affected = self.run_statement(&statement, author)?;
        if affected == 0 && statement.needs_document {
            return Err(no_document());
        }
        Ok(())
    }

    /// Runs a statement for its author, as any client's; how many rows it met.
    pub(super) fn run_statement(
        &mut self,
        statement: &Statement<'_>,
        author: &Arc<Author>,
    ) -> Result<u64, NotDone> {
        let plan = self
            .plans
            .text(&self.catalog, &statement.sql, &[], &author.plan_context)?;
        let mut params = Vec::with_capacity(statement.params.len());
        for (parameter, (column, value)) in plan.parameters.iter().zip(&statement.params) {
            let converted = convert(parameter, value).map_err(|error| match error.column {
                None => error.with_column(*column),
                Some(_) => error,
            })?;
            params.push(converted);
        }
        // Nobody waits for it: the mutation is what is answered.
        let (reply, _) = oneshot::channel();
        let request = Request {
            plan,
            params,
            rows: None,
            session: Arc::clone(&author.session),
            cancel: Arc::new(CancelFlag::default()),
            reply,
        };
        self.execute(&request).map(|executed| executed.affected)
    }

    /// The statement that sets those columns that nobody has written later.
    fn by_clock<'o>(
        &self,
        table: &'o Arc<Table>,
        operation: &'o Operation,
        columns: &'o ColumnValues,
        mutation: &Mutation,
    ) -> Result<Statement<'o>, NotDone> {
        let hlc = clocks::of_mutation(mutation, self.now_us(), self.config.sync_clock_drift_ms);
        let producer = mutation.producer.to_string();
        let document_id = statement::document_id(Some(table), operation);
        let mut assignments = Vec::with_capacity(columns.0.len());
        for (name, value) in &columns.0 {
            let (_, column) = table.expect_column(name)?;
            let written = (hlc, producer.as_str());
            let is_older = clocks::is_older(&self.conn, table, &document_id, column.id, written)
                .map_err(|error| not_done(&error))?;
            let value = if is_older {
                Param::Kept
            } else {
                Param::Given(value)
            };
            assignments.push((name.as_str(), value, Form::Plain));
        }
        Ok(Statement::update(table, operation, assignments.into_iter()))
    }

    /// The statement of an operation whose result depends on what is stored in more than one way.
    /// What is read here goes nowhere but into the statement, which its author must be allowed.
    fn made_of_stored<'o>(
        &self,
        table: &'o Table,
        operation: &'o Operation,
    ) -> Result<Statement<'o>, NotDone> {
        let stored = self.stored_document(table, operation)?;
        let assignments = sync::sets::assignments(table, operation, stored.as_deref())?;
        Ok(Statement::update(table, operation, assignments.into_iter()))
    }

    /// The visible columns of an operation's document as they are stored.
    fn stored_document(
        &self,
        table: &Table,
        operation: &Operation,
    ) -> Result<Option<Vec<Value>>, NotDone> {
        let plan = springhead_sql::planner::get_document(&self.catalog, table);
        let springhead_sql::PlanKind::Query(query) = &plan.kind else {
            return Ok(None);
        };
        let key = (plan.parameters.iter().zip(&operation.id))
            .map(|(parameter, value)| sync::value::to_storage(&parameter.pg_type, value))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = self
            .context
            .as_engine(|| crate::readers::collect_rows(&self.conn, &query.sql, &key, &self.config))
            .map_err(|failure| NotDone::Failed(self.describe(failure)))?;
        let mut rows = rows;
        let Some(chunk) = rows.next_chunk()? else {
            return Ok(None);
        };
        Ok((chunk.rows().next()).map(|row| row.values().map(|value| value.to_owned()).collect()))
    }

    /// Keeps a rejected mutation whole, with what could be done about it. `Err` if there is no room
    /// for it and the device is to wait.
    fn bury(
        &mut self,
        request: &MutationRequest,
        objection: &Objection,
        chain: Option<u64>,
    ) -> Result<Result<Rejection, Decided>, NotDone> {
        let (mutation, author) = (&*request.mutation, &request.author);
        let suggested = candidates(
            &self.catalog,
            author,
            mutation,
            objection,
            self.random(),
            self.config.max_row_bytes,
        );
        let mut helped: Vec<Fix> = Vec::new();
        for fix in &suggested.fixes {
            // What the device has to do first cannot be tried here.
            if *fix == Fix::ResyncDefinitions || self.helps(mutation, fix, author)? {
                helped.push(fix.clone());
                // One value in place of one that is taken is enough.
                if matches!(objection.violation, Violation::Unique { .. }) {
                    break;
                }
            }
        }
        let hint = hint::hint(suggested, helped);
        let recorded = self.record_letter(request, objection, &hint, chain);
        let recorded = recorded.map_err(|failure| match failure {
            Failure::Sqlite(error) => not_done(&error),
            Failure::Sql(error) => NotDone::TransactionLost(error),
        })?;
        self.capture.take_messages();
        Ok(match recorded {
            Recorded::Kept { id } => Ok(Rejection {
                dead_letter_id: id.unsigned_abs(),
                violation: objection.violation.clone(),
                hint,
                chain,
            }),
            Recorded::Full { after_ms } => Err(Decided::Retry {
                after_ms,
                reason: springhead_proto::sync::RetryReason::DeadLettersFull,
            }),
        })
    }

    /// Nobody knows whether it was applied: it becomes a dead letter, once, however often it comes.
    fn bury_forgotten(&mut self, request: &MutationRequest) -> Result<Decided, NotDone> {
        let violation = Violation::Constraint {
            detail: Violation::SETTLED_BEFORE.to_owned(),
        };
        let mutation = &*request.mutation;
        let known = Entry::of_mutation(
            &self.conn,
            (&mutation.producer.to_string(), mutation.seq.0),
            &delta_of(mutation),
        );
        if let Some(id) = known.map_err(|error| not_done(&error))? {
            return Ok(Decided::Rejected(Box::new(Rejection {
                dead_letter_id: id.unsigned_abs(),
                violation,
                hint: Hint::default(),
                chain: None,
            })));
        }
        Ok(match self.bury(request, &objection(violation), None)? {
            Ok(rejection) => Decided::Rejected(Box::new(rejection)),
            Err(retry) => retry,
        })
    }

    fn record_letter(
        &self,
        request: &MutationRequest,
        objection: &Objection,
        hint: &Hint,
        chain: Option<u64>,
    ) -> Result<Recorded, Failure> {
        let (mutation, author) = (&*request.mutation, &request.author);
        let violation = objection.violation.to_string();
        let compensation = serde_json::to_string(hint).expect("a hint is plain JSON");
        let operation = mutation.operations.get(objection.operation);
        let table = operation.and_then(|operation| {
            crate::cdc::find_collection(&self.catalog, &operation.collection).ok()
        });
        let document_id = operation.map(|operation| statement::document_id(table, operation));
        let desk = Desk {
            tenant: self.tenant,
            config: &self.config,
            conn: &self.conn,
            context: &self.context,
            catalog: &self.catalog,
            now_us: self.now_us(),
        };
        dead_letters::record(
            &desk,
            &Rejected {
                session_id: author.session_id.as_deref(),
                author: &author.letter,
                collection: operation.map_or("", |operation| &operation.collection),
                document_id: document_id.as_deref(),
                mutation_id: mutation.seq.0,
                peer_id: &mutation.producer.to_string(),
                delta: &delta_of(mutation),
                violation: &violation,
                policy_or_constraint: objection.by.as_deref(),
                compensation: Some(&compensation),
                device: author.facts(),
                base_lsn: mutation.base.lsn,
                schema_version: mutation.schema_version.0,
                chain: chain.map(u64::cast_signed),
            },
        )
    }

    /// Whether a mutation commits with a fix, as things stand. Leaves nothing.
    fn helps(
        &mut self,
        mutation: &Mutation,
        fix: &Fix,
        author: &Arc<Author>,
    ) -> Result<bool, NotDone> {
        let Some(fixed) = hint::fixed(mutation, fix, &self.catalog) else {
            return Ok(false);
        };
        let mark = self.enter_mutation().map_err(|error| not_done(&error))?;
        let tried = self.operations(&fixed, author);
        self.leave_mutation(mark, false)?;
        match tried {
            Ok(()) => Ok(true),
            Err(Unapplied::Objected(_) | Unapplied::NotDone(NotDone::Failed(_))) => Ok(false),
            Err(Unapplied::NotDone(worse)) => Err(worse),
        }
    }

    /// Writes that the mutation is decided, and forgets what its device has known for long.
    fn settle(
        &self,
        request: &MutationRequest,
        known: Option<&Producer>,
        decided: &Decided,
    ) -> rusqlite::Result<()> {
        let mutation = &*request.mutation;
        let producer = mutation.producer.to_string();
        let seq = mutation.seq.0.cast_signed();
        let is_new_life = known.is_some_and(|known| known.generation < mutation.generation);
        let before = known.filter(|_| !is_new_life);
        let acknowledged = (request.acknowledged)
            .min(Seq(mutation.seq.0 - 1))
            .max(before.map_or(Seq::ZERO, |known| known.acknowledged));
        if is_new_life || before.is_some_and(|known| acknowledged > known.acknowledged) {
            let kept = self.config.sync_settled_verdicts;
            let up_to = if is_new_life {
                i64::MAX
            } else {
                acknowledged.0.saturating_sub(kept).cast_signed()
            };
            self.conn
                .prepare_cached("DELETE FROM t21 WHERE c1 = ?1 AND c2 <= ?2")?
                .execute(params![producer, up_to])?;
        }
        self.conn
            .prepare_cached(
                "INSERT INTO t20 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (c1) DO UPDATE \
                 SET c3 = excluded.c3, c4 = excluded.c4, c5 = excluded.c5, c6 = excluded.c6, \
                 c7 = excluded.c7",
            )?
            .execute(params![
                producer,
                request.author.username(),
                request.author.device_id,
                mutation.generation.0,
                seq,
                acknowledged.0.cast_signed(),
                self.now_us(),
            ])?;
        let rejection = match decided {
            Decided::Rejected(rejection) => Some(rejection),
            _ => None,
        };
        let hint = rejection
            .map(|rejection| serde_json::to_string(&rejection.hint).expect("a hint is plain JSON"));
        self.conn
            .prepare_cached("INSERT INTO t21 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                producer,
                seq,
                mutation.digest().cast_signed(),
                rejection.map(|rejection| rejection.dead_letter_id.cast_signed()),
                rejection.map(|rejection| rejection.violation.to_string()),
                hint,
                rejection.and_then(|rejection| rejection.chain.map(u64::cast_signed)),
            ])?;
        Ok(())
    }

    /// The wall clock, in microseconds since 1970.
    pub(crate) fn now_us(&self) -> i64 {
        self.context.now_us()
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        self.context.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// A mutation as a dead letter keeps it: the body of a push with it alone.
fn delta_of(mutation: &Mutation) -> Vec<u8> {
    springhead_proto::sync::body::to_bytes(&springhead_proto::sync::Push {
        producer: mutation.producer,
        generation: mutation.generation,
        mutations: vec![mutation.clone()],
    })
}

fn no_document() -> NotDone {
    NotDone::Failed(SqlError::new(ErrorCode::NotFound, Violation::NO_DOCUMENT))
}

/// To the mutation as a whole.
fn objection(violation: Violation) -> Objection {
    Objection {
        error: SqlError::new(ErrorCode::ObjectNotInState, violation.to_string()),
        violation,
        operation: 0,
        by: None,
    }
}

/// A value where its parameter goes.
fn convert(parameter: &Parameter, value: &Param<'_>) -> Result<Value, SqlError> {
    match value {
        Param::Given(value) => {
            if value.is_null() {
                return convert_one(parameter, ParamValue::Null);
            }
            sync::value::to_storage(&parameter.pg_type, value)
        }
        Param::Made(json) => convert_one(parameter, ParamValue::Json(json)),
        Param::Kept => Ok(Value::Null),
    }
}
