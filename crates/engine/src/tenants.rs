//! Which tenants there are, as the system's tenant lists them, and what the default tenant says of who
//! may do what.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, RowRef, SqlError, TenantId, ValueRef};

use crate::access::Roles;
use crate::access::audit::AuditBook;
use crate::session::ParamValue;
use crate::{Session, Tenant, state};

/// Id, name and whether it is active (as opposed to dropped) of every tenant there has been.
pub(crate) fn list_tenants(
    system: &Arc<Tenant>,
) -> Result<Vec<(TenantId, String, bool)>, SqlError> {
    let snapshot = system.snapshots().snapshot()?;
    let sql = format!(
        "SELECT c1, c2, c3 FROM {} ORDER BY c1",
        state::storage_name(CollectionId::TENANTS)
    );
    let mut rows = snapshot.query(&sql, &[], &Arc::default(), &Arc::default())?;
    let mut tenants = Vec::new();
    while let Some(chunk) = rows.next_chunk()? {
        for row in chunk.rows() {
            tenants.push(tenant_of(row).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::Corrupted,
                    "a row of springhead.tenants has other values",
                )
            })?);
        }
    }
    Ok(tenants)
}

/// The roles in force at the start, and the audit to go on with. Blocks.
pub(crate) fn read_access(default: &Arc<Tenant>) -> Result<(Roles, AuditBook), SqlError> {
    let snapshot = default.snapshots().snapshot()?;
    let roles = Roles::read(&snapshot, 1)?;
    let sql = format!(
        "SELECT coalesce(max(c1), 0) FROM {}",
        state::storage_name(CollectionId::AUDIT)
    );
    let mut rows = snapshot.query(&sql, &[], &Arc::default(), &Arc::default())?;
    let mut last = 0;
    while let Some(chunk) = rows.next_chunk()? {
        if let Some(ValueRef::Integer(id)) = chunk.rows().next().and_then(|row| row.get(0)) {
            last = id;
        }
    }
    Ok((roles, AuditBook::starting_after(last)))
}

/// Closes a tenant that is no more, and removes its files. Blocks.
pub(crate) fn remove_tenant(tenant: Option<Arc<Tenant>>, dir: &std::path::Path) {
    if let Some(tenant) = tenant {
        tenant.close(true);
    }
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(path = %dir.display(), "the dropped tenant's files: {error}");
    }
}

pub(crate) async fn execute(
    session: &mut Session,
    sql: &str,
    params: &[ParamValue<'_>],
) -> Result<crate::Outcome, SqlError> {
    let statement = session.prepare(sql, &[])?;
    session.execute(&statement, params).await
}

pub(crate) async fn insert_tenant(
    system: &mut Session,
    id: TenantId,
    name: &str,
) -> Result<(), SqlError> {
    let id = id.to_string();
    let sql = "INSERT INTO springhead.tenants (id, name, state, created_at) VALUES ($1, $2, 'active', now())";
    execute(
        system,
        sql,
        &[ParamValue::Text(&id), ParamValue::Text(name)],
    )
    .await
    .map(|_| ())
}

fn tenant_of(row: RowRef<'_>) -> Option<(TenantId, String, bool)> {
    let mut values = row.values();
    match (values.next()?, values.next()?, values.next()?) {
        (ValueRef::Integer(id), ValueRef::Text(name), ValueRef::Text(state)) => Some((
            TenantId(u32::try_from(id).ok()?),
            name.to_owned(),
            state == "active",
        )),
        _ => None,
    }
}
