//! LOCK TABLE: whoever locks a table has the tenant's one writer until its transaction ends, so that
//! nobody else changes it meanwhile. Readers are not kept out: they read what is committed.

use std::sync::Arc;

use springhead_proto::{CollectionId, SqlError};
use sqlparser::ast::{Lock, LockTableMode};

use crate::access::{Object, Use, decide, refusal};
use crate::catalog::Privilege;
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;

/// Plans LOCK TABLE.
///
/// # Errors
/// 42P01, 42809, 42501; 0A000 for NOWAIT.
pub(crate) fn plan(analyzer: &Analyzer<'_>, lock: &Lock) -> Result<PlanKind, SqlError> {
    if lock.nowait {
        return Err(SqlError::unsupported("LOCK TABLE … NOWAIT"));
    }
    for target in &lock.tables {
        let table = super::target(analyzer, &target.name)?;
        let object = Object::Table(&table);
        let may = [Privilege::Update, Privilege::Delete, Privilege::Truncate]
            .into_iter()
            .any(|privilege| {
                let used = Use {
                    privilege,
                    columns: &[],
                };
                decide(&analyzer.context.identity, object, used).is_ok()
            });
        if !may {
            return Err(refusal(object));
        }
    }
    if matches!(lock.lock_mode, Some(LockTableMode::AccessShare)) {
        // What every reader has.
        return Ok(PlanKind::NoEffect("LOCK TABLE"));
    }
    Ok(PlanKind::Write(Write {
        verb: WriteVerb::Lock,
        sql: "SELECT 1 WHERE 0".to_owned(),
        returning: Arc::from([]),
        table: CollectionId::NONE,
        touches_foreign_keys: false,
        sequences: Vec::new(),
        updated: Vec::new(),
        upserts: false,
        once: false,
        instead: false,
        checks: Vec::new(),
        viewer: None,
        before: Vec::new(),
    }))
}
