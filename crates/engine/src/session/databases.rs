//! CREATE and DROP DATABASE: tenants, as PostgreSQL's clients know them; and VACUUM and its kin.

use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::plan::{Database, Maintenance};

use super::{Outcome, Session};

impl Session {
    /// VACUUM and its kin, which the planner has checked.
    pub(super) fn maintain(&self, done: Maintenance) -> Result<Outcome, SqlError> {
        if let Some(what) = done.alone {
            self.expect_no_block(what)?;
        }
        Ok(Outcome::command(done.tag))
    }

    pub(super) fn expect_no_block(&self, what: &str) -> Result<(), SqlError> {
        if self.block.as_ref().is_some_and(|block| !block.is_lone()) {
            return Err(SqlError::new(
                ErrorCode::ActiveTransaction,
                format!("{what} cannot run inside a transaction block"),
            ));
        }
        Ok(())
    }

    /// CREATE and DROP DATABASE.
    pub(super) async fn run_database(&mut self, database: &Database) -> Result<Outcome, SqlError> {
        let what = match database {
            Database::Create { .. } => "CREATE DATABASE",
            Database::Drop { .. } => "DROP DATABASE",
        };
        if self.block.is_some() {
            return Err(SqlError::new(
                ErrorCode::ActiveTransaction,
                format!("{what} cannot run inside a transaction block"),
            ));
        }
        self.expect_writable(what)?;
        let engine = self.engine.clone().ok_or_else(|| {
            SqlError::new(
                ErrorCode::FeatureNotSupported,
                format!("{what} is not possible here"),
            )
        })?;
        let identity = &self.plan_context.identity;
        let own = engine.roles().get(&identity.role).cloned();
        // Nobody owns a database here, so that it takes a superuser to drop one.
        let is_allowed = identity.superuser
            || (matches!(database, Database::Create { .. }) && own.is_some_and(|own| own.createdb));
        if !is_allowed {
            return Err(SqlError::new(
                ErrorCode::InsufficientPrivilege,
                match database {
                    Database::Create { .. } => "permission denied to create database".to_owned(),
                    Database::Drop { name, .. } => format!("must be owner of database {name}"),
                },
            ));
        }
        let mut outcome = Outcome::command(what);
        match database {
            Database::Create {
                name,
                if_not_exists,
            } => match Box::pin(engine.create_tenant(name)).await {
                Ok(_) => {}
                Err(error) if *if_not_exists && error.code == ErrorCode::DuplicateDatabase => {
                    outcome.notices.push(error);
                }
                Err(error) => return Err(error),
            },
            Database::Drop { name, if_exists } => match Box::pin(engine.drop_tenant(name)).await {
                Ok(()) => {}
                Err(error) if *if_exists && error.code == ErrorCode::UnknownDatabase => {
                    outcome.notices.push(SqlError::new(
                        ErrorCode::UnknownDatabase,
                        format!("database \"{name}\" does not exist, skipping"),
                    ));
                }
                Err(error) => return Err(error),
            },
        }
        let name = match database {
            Database::Create { name, .. } | Database::Drop { name, .. } => name,
        };
        let action = match database {
            Database::Create { .. } => "create database",
            Database::Drop { .. } => "drop database",
        };
        self.audit(action, name).await;
        outcome.lsn = self.tenant.visible();
        Ok(outcome)
    }
}
