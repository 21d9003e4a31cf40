//! The extended query flow: prepared statements, portals, and what happens between two Syncs.
//!
//! Statements executed between two Syncs are one transaction, as in PostgreSQL; one alone is
//! committed by itself, so that it can join a group commit. After an error everything up to the next
//! Sync is skipped.

use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_engine::copy::{CopyIn, CopyOutcome};
use springhead_engine::session::{COPIES_COLUMNS, changes_columns, fetch_columns, live_columns};
use springhead_engine::settings;
use springhead_engine::{Outcome, ParamValue, Session, Statement, TransactionStatus};
use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::cursor::CursorStatement;
use springhead_sql::live::LiveStatement;
use springhead_sql::plan::{OutputColumn, RoleStatement, Setting};
use springhead_sql::prepared::PreparedStatement;
use springhead_sql::{PgType, PlanKind};

use super::backend::{self, Format, Formats};
use super::connection::{Ended, sync_follows};
use super::copying::{self, Source};
use super::frontend::{Bind, FrontendMessage, Target, invalid_utf8};
use super::results::{SendError, Unsent, Wire};

/// A connection's prepared statements and portals.
pub struct Extended {
    /// The prepared statement without a name; the session has the others.
    unnamed: Option<Arc<Statement>>,
    portals: FxHashMap<Box<str>, Portal>,
    /// How many portals there may be.
    max: usize,
    /// An error has been told; what comes before the next Sync is not done.
    skipping: bool,
    /// A transaction has been begun that the next Sync ends.
    block: bool,
}

/// A prepared statement with its values, and how far its result has been sent.
struct Portal {
    statement: Arc<Statement>,
    parameters: Vec<Parameter>,
    result_formats: Formats,
    run: Run,
}

enum Run {
    NotYet,
    /// Some rows are still to be sent.
    Suspended(Box<(Outcome, Unsent)>),
    /// A query whose rows have all been sent: there are no more, as often as it is asked.
    Read,
    Done,
}

enum Parameter {
    Null,
    Text(String),
    Binary(Vec<u8>),
}

impl Extended {
    /// None of either, and at most `max` portals.
    #[must_use]
    pub fn new(max: usize) -> Extended {
        Extended {
            unnamed: None,
            portals: FxHashMap::default(),
            max,
            skipping: false,
            block: false,
        }
    }

    /// Whether an error has been told since the last Sync.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// An error has been told: an open transaction has failed, and what follows is not done.
    pub fn skip_until_sync(&mut self, session: &mut Session) {
        session.fail();
        self.skipping = true;
    }

    /// Ends the transaction of what was executed since the last Sync; ReadyForQuery is to follow.
    ///
    /// # Errors
    /// The socket's.
    pub async fn sync(&mut self, wire: &mut Wire, session: &mut Session) -> io::Result<()> {
        self.skipping = false;
        self.end_block(wire, session).await;
        self.drop_portals_if_idle(session);
        Ok(())
    }

    /// A simple query ends what was executed before it, and forgets what has no name.
    ///
    /// # Errors
    /// The socket's.
    pub async fn before_query(&mut self, wire: &mut Wire, session: &mut Session) -> io::Result<()> {
        self.end_block(wire, session).await;
        self.unnamed = None;
        self.portals.remove("");
        Ok(())
    }

    /// Portals last as long as their transaction.
    pub fn after_query(&mut self, session: &Session) {
        self.drop_portals_if_idle(session);
    }

    /// Parse, Bind, Describe, Execute or Close. A failure is told, and what follows skipped.
    ///
    /// # Errors
    /// Why the connection ends.
    pub async fn handle(
        &mut self,
        wire: &mut Wire,
        session: &mut Session,
        source: &mut Source<'_>,
        message: FrontendMessage<'_>,
    ) -> Result<(), Ended> {
        let done = match message {
            FrontendMessage::Parse {
                name,
                sql,
                type_oids,
            } => self
                .parse(session, name, sql, &type_oids)
                .map(|()| backend::parse_complete(&mut wire.out)),
            FrontendMessage::Bind(bind) => self
                .bind(session, &bind)
                .map(|()| backend::bind_complete(&mut wire.out)),
            FrontendMessage::Describe(target) => self.describe(wire, session, target),
            FrontendMessage::Execute { portal, max_rows } => {
                // Alone, it is a transaction of its own, and may join others' flush.
                let ends_with_it = sync_follows(source.input.bytes());
                match self
                    .execute(wire, session, portal, max_rows, ends_with_it)
                    .await
                {
                    Ok(None) => Ok(()),
                    Ok(Some(CopyOutcome::In(copy))) => {
                        let copy = source.read(wire, session, *copy).await?;
                        self.finish_copy(wire, session, copy).await
                    }
                    Ok(Some(CopyOutcome::Live(copy))) => {
                        Err(source.stream(wire, session, *copy).await?)
                    }
                    Ok(Some(CopyOutcome::Out(_))) => unreachable!("it has been sent"),
                    Err(SendError::Statement(error)) => Err(error),
                    Err(SendError::Socket(error)) => return Err(error.into()),
                }
            }
            FrontendMessage::Close(target) => {
                match target {
                    Target::Statement("") => self.unnamed = None,
                    Target::Statement(name) => session.close_prepared(name),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                backend::close_complete(&mut wire.out);
                Ok(())
            }
            other => unreachable!("the connection handles {other:?} itself"),
        };
        if let Err(error) = done {
            wire.error(&error);
            self.skip_until_sync(session);
        }
        Ok(())
    }

    fn parse(
        &mut self,
        session: &mut Session,
        name: &str,
        sql: &str,
        oids: &[u32],
    ) -> Result<(), SqlError> {
        let types = oids
            .iter()
            .map(|&oid| parameter_type(session, oid))
            .collect::<Result<Vec<_>, _>>()?;
        if !name.is_empty() {
            return session.prepare_named(name, sql, &types);
        }
        // The one that was there is gone even if this one fails.
        self.unnamed = None;
        self.unnamed = Some(session.prepare(sql, &types)?);
        Ok(())
    }

    fn bind(&mut self, session: &Session, bind: &Bind<'_>) -> Result<(), SqlError> {
        let statement = self.statement(session, bind.statement)?;
        let wanted = statement.plan.parameters.len();
        if bind.parameters.len() != wanted {
            return Err(SqlError::new(
                ErrorCode::ProtocolViolation,
                format!(
                    "bind message supplies {} parameters, but prepared statement \"{}\" requires {wanted}",
                    bind.parameters.len(),
                    bind.statement
                ),
            ));
        }
        if session.transaction_status() == TransactionStatus::Failed
            && !ends_transaction(&statement.plan.kind)
        {
            return Err(SqlError::new(
                ErrorCode::FailedTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        if bind.portal.is_empty() {
            self.portals.remove("");
        } else if self.portals.contains_key(bind.portal) {
            return Err(SqlError::new(
                ErrorCode::ObjectNotInState,
                format!("cursor \"{}\" already exists", bind.portal),
            ));
        }
        self.check_room()?;
        let parameters = bind
            .parameters
            .iter()
            .enumerate()
            .map(|(index, value)| Parameter::read(*value, bind.parameter_formats.of(index)))
            .collect::<Result<Vec<_>, _>>()?;
        let columns = columns_of(&statement.plan.kind, session).map_or(0, |columns| columns.len());
        if let Formats::Each(formats) = &bind.result_formats
            && formats.len() != columns
        {
            return Err(SqlError::new(
                ErrorCode::ProtocolViolation,
                format!(
                    "bind message has {} result formats but query has {columns} columns",
                    formats.len()
                ),
            ));
        }
        let portal = Portal {
            statement,
            parameters,
            result_formats: bind.result_formats.clone(),
            run: Run::NotYet,
        };
        self.portals.insert(bind.portal.into(), portal);
        Ok(())
    }

    fn describe(
        &self,
        wire: &mut Wire,
        session: &Session,
        target: Target<'_>,
    ) -> Result<(), SqlError> {
        let (statement, formats) = match target {
            Target::Statement(name) => {
                let statement = self.statement(session, name)?;
                let types = statement
                    .plan
                    .parameters
                    .iter()
                    .map(|parameter| &parameter.pg_type);
                backend::parameter_description(&mut wire.out, types);
                (statement, &Formats::AllText)
            }
            Target::Portal(name) => {
                let Some(portal) = self.portals.get(name) else {
                    // A cursor that DECLARE has made is a portal too.
                    let columns = session
                        .cursor_columns(name)
                        .ok_or_else(|| no_portal(name))?;
                    backend::row_description(&mut wire.out, &columns, &Formats::AllText);
                    return Ok(());
                };
                (Arc::clone(&portal.statement), &portal.result_formats)
            }
        };
        match columns_of(&statement.plan.kind, session) {
            Some(columns) => backend::row_description(&mut wire.out, &columns, formats),
            None => backend::no_data(&mut wire.out),
        }
        Ok(())
    }

    async fn finish_copy(
        &self,
        wire: &mut Wire,
        session: &mut Session,
        copy: Result<CopyIn, SqlError>,
    ) -> Result<(), SqlError> {
        let outcome = session.finish_copy(copy?).await?;
        wire.notices(&outcome);
        wire.complete(&outcome);
        Ok(())
    }

    /// Runs a portal, or goes on with it. A COPY that has begun and needs the client is for the caller
    /// to go on with.
    async fn execute(
        &mut self,
        wire: &mut Wire,
        session: &mut Session,
        name: &str,
        max_rows: usize,
        ends_with_it: bool,
    ) -> Result<Option<CopyOutcome>, SendError> {
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let (outcome, mut unsent) = match std::mem::replace(&mut portal.run, Run::Done) {
            Run::Suspended(suspended) => *suspended,
            Run::Read => {
                portal.run = Run::Read;
                backend::command_complete(&mut wire.out, "SELECT 0");
                return Ok(None);
            }
            Run::Done => {
                return Err(SqlError::new(
                    ErrorCode::ObjectNotInState,
                    format!("portal \"{name}\" cannot be run"),
                )
                .into());
            }
            Run::NotYet => {
                if !self.block && !ends_with_it {
                    session.begin_block();
                    self.block = true;
                }
                let parameters: Vec<_> = portal.parameters.iter().map(Parameter::value).collect();
                let mut outcome = session.execute(&portal.statement, &parameters).await?;
                wire.notices(&outcome);
                match outcome.copy.take() {
                    None => {}
                    Some(copy @ (CopyOutcome::In(_) | CopyOutcome::Live(_))) => {
                        return Ok(Some(copy));
                    }
                    Some(CopyOutcome::Out(copy)) => {
                        wire.in_transaction = true;
                        let sent = copying::send(wire, &mut outcome, copy).await;
                        wire.in_transaction = false;
                        sent?;
                    }
                }
                match outcome.rows.take() {
                    Some(rows) => (outcome, Unsent::new(rows)),
                    None => {
                        wire.complete(&outcome);
                        return Ok(None);
                    }
                }
            }
        };
        let limit = if max_rows == 0 {
            u64::MAX
        } else {
            max_rows as u64
        };
        wire.in_transaction = true;
        let sent = wire
            .rows(&mut unsent, &outcome.columns, &portal.result_formats, limit)
            .await;
        wire.in_transaction = false;
        let sent = sent?;
        if unsent.sent(sent) {
            backend::portal_suspended(&mut wire.out);
            portal.run = Run::Suspended(Box::new((outcome, unsent)));
        } else if outcome.tag.starts_with("SELECT") {
            portal.run = Run::Read;
            if max_rows == 0 {
                wire.complete(&outcome);
            } else {
                // PostgreSQL counts the rows of this Execute.
                backend::command_complete(&mut wire.out, &format!("SELECT {sent}"));
            }
        } else {
            wire.complete(&outcome);
        }
        Ok(None)
    }

    /// A failed commit is told where ReadyForQuery is about to say that it is over.
    async fn end_block(&mut self, wire: &mut Wire, session: &mut Session) {
        if std::mem::take(&mut self.block)
            && let Err(error) = session.end_block().await
        {
            wire.error(&error);
        }
    }

    fn drop_portals_if_idle(&mut self, session: &Session) {
        if !self.portals.is_empty() && session.transaction_status() == TransactionStatus::Idle {
            self.portals.clear();
        }
    }

    fn statement(&self, session: &Session, name: &str) -> Result<Arc<Statement>, SqlError> {
        if !name.is_empty() {
            return session.prepared(name);
        }
        self.unnamed.clone().ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedStatement,
                "unnamed prepared statement does not exist",
            )
        })
    }

    fn check_room(&self) -> Result<(), SqlError> {
        if self.portals.len() < self.max {
            return Ok(());
        }
        Err(SqlError::new(
            ErrorCode::TooManyRequests,
            format!(
                "this connection has {} portals open, the limit pg_max_prepared is {}",
                self.portals.len(),
                self.max
            ),
        )
        .with_hint("close those that are no longer needed"))
    }
}

impl Parameter {
    fn read(value: Option<&[u8]>, format: Format) -> Result<Parameter, SqlError> {
        Ok(match (value, format) {
            (None, _) => Parameter::Null,
            (Some(bytes), Format::Binary) => Parameter::Binary(bytes.to_owned()),
            (Some(bytes), Format::Text) => match std::str::from_utf8(bytes) {
                Ok(text) => Parameter::Text(text.to_owned()),
                Err(error) => return Err(invalid_utf8(&bytes[error.valid_up_to()..])),
            },
        })
    }

    fn value(&self) -> ParamValue<'_> {
        match self {
            Parameter::Null => ParamValue::Null,
            Parameter::Text(text) => ParamValue::Text(text),
            Parameter::Binary(bytes) => ParamValue::Binary(bytes),
        }
    }
}

/// A type that a driver declares; 0 and `unknown` leave it to the statement.
fn parameter_type(session: &Session, oid: u32) -> Result<Option<PgType>, SqlError> {
    const UNKNOWN: u32 = 705;
    // A type that a user has defined is the one that the statement's context says.
    if oid == 0 || oid == UNKNOWN || session.is_user_type(oid) {
        return Ok(None);
    }
    PgType::from_oid(oid, -1).map(Some).ok_or_else(|| {
        SqlError::unsupported(format_args!("a parameter of the type with object id {oid}"))
    })
}

fn ends_transaction(kind: &PlanKind) -> bool {
    use springhead_sql::plan::TransactionControl::{Commit, Rollback, RollbackTo};
    matches!(
        kind,
        PlanKind::Transaction(Commit { .. } | Rollback { .. } | RollbackTo(_))
    )
}

/// The columns of a statement's result, known before it runs; `None` if it returns no rows.
fn columns_of(kind: &PlanKind, session: &Session) -> Option<Arc<[OutputColumn]>> {
    let text = |name: &str| OutputColumn::computed(name, PgType::Text);
    match kind {
        PlanKind::Query(query) => Some(Arc::clone(&query.columns)),
        PlanKind::Write(write) if !write.returning.is_empty() => Some(Arc::clone(&write.returning)),
        PlanKind::Explain(explain) => {
            let pg_type = explain.options.format.pg_type();
            Some([OutputColumn::computed("QUERY PLAN", pg_type)].into())
        }
        PlanKind::ExplainLive(_) => Some([text("QUERY PLAN")].into()),
        PlanKind::Role(statement) if matches!(**statement, RoleStatement::CreateToken { .. }) => {
            Some([text("id"), text("token")].into())
        }
        PlanKind::Changes(_) => Some(changes_columns()),
        PlanKind::Advisory(lock) => Some(Arc::clone(&lock.columns)),
        PlanKind::Pause(pause) => Some(Arc::clone(&pause.columns)),
        PlanKind::OwnCall(call) if !call.procedure.columns().is_empty() => {
            let columns = call.procedure.columns().iter();
            Some(columns.map(|name| text(name)).collect())
        }
        PlanKind::Cursor(CursorStatement::Fetch {
            name, moves: false, ..
        }) => session.cursor_columns(name),
        PlanKind::Prepared(PreparedStatement::Execute { name }) => {
            let prepared = session.prepared(name).ok()?;
            let is_execute = matches!(prepared.plan.kind, PlanKind::Prepared(_));
            if is_execute {
                return None;
            }
            columns_of(&prepared.plan.kind, session)
        }
        PlanKind::Live(_) => Some(live_columns()),
        PlanKind::LiveControl(LiveStatement::Fetch(_)) => Some(fetch_columns()),
        PlanKind::Setting(Setting::Show { name: Some(name) }) if name == "tenants" => {
            Some([text("id"), text("name")].into())
        }
        PlanKind::Setting(Setting::Show { name: Some(name) }) if name == "copies" => {
            Some(COPIES_COLUMNS.map(text).into())
        }
        PlanKind::Setting(Setting::Show { name: Some(name) }) => {
            Some([text(settings::reported_as(name).unwrap_or(name))].into())
        }
        PlanKind::Setting(Setting::Show { name: None }) => {
            Some([text("name"), text("setting")].into())
        }
        _ => None,
    }
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedCursor,
        format!("portal \"{name}\" does not exist"),
    )
}
