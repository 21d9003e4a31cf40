//! What a feed knows of one collection at one schema version: how its rows are shown, and which.

use std::sync::Arc;

use springhead_proto::{RowRef, SchemaVersion, SqlError};

use super::event::RowForm;
use super::filter::{BoundFilter, Lease};

/// What is known of one collection at one schema version.
pub(crate) struct Version {
    pub form: RowForm,
    pub filter: Option<BoundFilter>,
    /// Row policies, tried before the filter.
    pub policy: Option<Arc<BoundFilter>>,
    /// They look at other tables.
    pub looks: bool,
    /// Nothing of it may be seen.
    pub hidden: bool,
}

impl Version {
    /// Whether nothing of it may be seen.
    pub(crate) fn hidden(&self) -> bool {
        self.hidden
    }

    /// The policies, if they look at other tables.
    pub(crate) fn looking_policy(&self) -> Option<&Arc<BoundFilter>> {
        self.policy.as_ref().filter(|_| self.looks)
    }

    /// Whether the policies show a row and the filter wants it. The filter is not tried on others.
    ///
    /// # Errors
    /// What evaluating the filter says. A policy that fails says no more than that.
    pub(crate) fn shows(
        &self,
        row: RowRef<'_>,
        image_version: SchemaVersion,
        lease: Option<&Lease<'_>>,
    ) -> Result<bool, SqlError> {
        let Some(lease) = lease else {
            return Ok(self.policy.is_none() && self.filter.is_none());
        };
        if let Some(policy) = &self.policy {
            let table = &self.form.table;
            let is_shown = if self.looks {
                lease.judged(table.collection(), image_version, row)?
            } else {
                lease
                    .matches(policy, row)
                    .map_err(|error| policy_failed(&table.name.name, &error))?
            };
            if !is_shown {
                return Ok(false);
            }
        }
        match &self.filter {
            Some(filter) => lease.matches(filter, row),
            None => Ok(true),
        }
    }
}

/// What a reader learns of a policy that fails: its own words may hold values of a row that is hidden.
pub(crate) fn policy_failed(table: &str, error: &SqlError) -> SqlError {
    SqlError::new(
        error.code,
        format!("a row policy of \"{table}\" failed on a row"),
    )
}
