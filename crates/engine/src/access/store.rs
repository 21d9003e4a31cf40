//! A role as the statement that stores it.

use super::change::Op;
use super::roles::Role;

pub(super) fn store(role: &Role) -> Op {
    let flag = |on: bool| Some(on.to_string());
    let values = vec![
        Some(role.name.to_string()),
        Some(role.id.to_string()),
        flag(role.login),
        flag(role.superuser),
        flag(role.createdb),
        flag(role.createrole),
        flag(role.inherit),
        flag(role.bypass_rls),
        Some(role.connection_limit.to_string()),
        role.valid_until_us.map(timestamp),
        role.verifier.as_ref().map(|verifier| verifier.text()),
        role.tenant.map(|tenant| tenant.to_string()),
    ];
    if role.is_stored {
        return Op::new(
            "UPDATE springhead.roles SET id = $2, login = $3, superuser = $4, createdb = $5, \
             createrole = $6, inherit = $7, bypassrls = $8, connection_limit = $9, \
             valid_until = $10, verifier = $11, tenant = $12 WHERE name = $1",
            values,
        );
    }
    Op::new(
        "INSERT INTO springhead.roles (name, id, login, superuser, createdb, createrole, inherit, \
         bypassrls, connection_limit, valid_until, verifier, tenant, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())",
        values,
    )
}

pub(super) fn timestamp(us: i64) -> String {
    let mut text = Vec::new();
    springhead_sql::types::text::output_text(
        &springhead_sql::PgType::Timestamptz,
        springhead_proto::ValueRef::Integer(us),
        &mut text,
    );
    String::from_utf8(text).expect("timestamps are digits and signs")
}
