//! Databases, roles, settings, and what the server does now.

use std::collections::BTreeSet;

use springhead_proto::SqlError;

use super::cell::{NULL, row, texts};
use super::oids;
use super::shape::{Relation, nothing, relation};
use super::{Role, Row, View};
use crate::catalog::Access;

/// PostgreSQL's role that owns the schema `public`.
pub(super) const OWNER_OF_PUBLIC: &str = "pg_database_owner";

pub(super) const RELATIONS: &[Relation] = &[
    relation!(live "pg_catalog", "pg_database", 1262, pg_database, {
        "oid": Oid, "datname": Name, "datdba": Oid, "encoding": Int4, "datlocprovider": Char,
        "datistemplate": Bool, "datallowconn": Bool, "datconnlimit": Int4,
        "datfrozenxid": Oid, "datminmxid": Oid, "dattablespace": Oid, "datcollate": Text,
        "datctype": Text, "daticulocale": Text, "datcollversion": Text, "datacl": TextArray,
    }),
    relation!(live "pg_catalog", "pg_roles", 0, pg_roles, {
        "rolname": Name, "rolsuper": Bool, "rolinherit": Bool, "rolcreaterole": Bool,
        "rolcreatedb": Bool, "rolcanlogin": Bool, "rolreplication": Bool,
        "rolconnlimit": Int4, "rolpassword": Text, "rolvaliduntil": Timestamptz,
        "rolbypassrls": Bool, "rolconfig": TextArray, "oid": Oid,
    }),
    relation!(live "pg_catalog", "pg_authid", 1260, pg_authid, {
        "oid": Oid, "rolname": Name, "rolsuper": Bool, "rolinherit": Bool,
        "rolcreaterole": Bool, "rolcreatedb": Bool, "rolcanlogin": Bool,
        "rolreplication": Bool, "rolbypassrls": Bool, "rolconnlimit": Int4,
        "rolpassword": Text, "rolvaliduntil": Timestamptz,
    }),
    relation!(live "pg_catalog", "pg_user", 0, pg_user, {
        "usename": Name, "usesysid": Oid, "usecreatedb": Bool, "usesuper": Bool,
        "userepl": Bool, "usebypassrls": Bool, "passwd": Text, "valuntil": Timestamptz,
        "useconfig": TextArray,
    }),
    relation!(live "pg_catalog", "pg_group", 0, nothing, {
        "groname": Name, "grosysid": Oid, "grolist": OidArray,
    }),
    relation!(live "pg_catalog", "pg_auth_members", 1261, pg_auth_members, {
        "roleid": Oid, "member": Oid, "grantor": Oid, "admin_option": Bool,
    }),
    relation!("pg_catalog", "pg_db_role_setting", 2964, nothing, {
        "setdatabase": Oid, "setrole": Oid, "setconfig": TextArray,
    }),
    relation!("pg_catalog", "pg_tablespace", 1213, pg_tablespace, {
        "oid": Oid, "spcname": Name, "spcowner": Oid, "spcacl": TextArray,
        "spcoptions": TextArray,
    }),
    relation!(live "pg_catalog", "pg_settings", 0, pg_settings, {
        "name": Text, "setting": Text, "unit": Text, "category": Text, "short_desc": Text,
        "extra_desc": Text, "context": Text, "vartype": Text, "source": Text,
        "min_val": Text, "max_val": Text, "enumvals": TextArray, "boot_val": Text,
        "reset_val": Text, "sourcefile": Text, "sourceline": Int4, "pending_restart": Bool,
    }),
    relation!(live "pg_catalog", "pg_stat_activity", 0, pg_stat_activity, {
        "datid": Oid, "datname": Name, "pid": Int4, "leader_pid": Int4, "usesysid": Oid,
        "usename": Name, "application_name": Text, "client_addr": Text,
        "client_hostname": Text, "client_port": Int4, "backend_start": Timestamptz,
        "xact_start": Timestamptz, "query_start": Timestamptz, "state_change": Timestamptz,
        "wait_event_type": Text, "wait_event": Text, "state": Text, "backend_xid": Oid,
        "backend_xmin": Oid, "query_id": Int8, "query": Text, "backend_type": Text,
    }),
    relation!("pg_catalog", "pg_stat_all_tables", 0, pg_stat_all_tables, {
        "relid": Oid, "schemaname": Name, "relname": Name, "seq_scan": Int8,
        "seq_tup_read": Int8, "idx_scan": Int8, "idx_tup_fetch": Int8, "n_tup_ins": Int8,
        "n_tup_upd": Int8, "n_tup_del": Int8, "n_tup_hot_upd": Int8, "n_live_tup": Int8,
        "n_dead_tup": Int8, "n_mod_since_analyze": Int8, "n_ins_since_vacuum": Int8,
        "last_vacuum": Timestamptz, "last_autovacuum": Timestamptz,
        "last_analyze": Timestamptz, "last_autoanalyze": Timestamptz, "vacuum_count": Int8,
        "autovacuum_count": Int8, "analyze_count": Int8, "autoanalyze_count": Int8,
    }),
    relation!("pg_catalog", "pg_stat_user_tables", 0, pg_stat_user_tables, {
        "relid": Oid, "schemaname": Name, "relname": Name, "seq_scan": Int8,
        "seq_tup_read": Int8, "idx_scan": Int8, "idx_tup_fetch": Int8, "n_tup_ins": Int8,
        "n_tup_upd": Int8, "n_tup_del": Int8, "n_tup_hot_upd": Int8, "n_live_tup": Int8,
        "n_dead_tup": Int8, "n_mod_since_analyze": Int8, "n_ins_since_vacuum": Int8,
        "last_vacuum": Timestamptz, "last_autovacuum": Timestamptz,
        "last_analyze": Timestamptz, "last_autoanalyze": Timestamptz, "vacuum_count": Int8,
        "autovacuum_count": Int8, "analyze_count": Int8, "autoanalyze_count": Int8,
    }),
    relation!("pg_catalog", "pg_statio_all_tables", 0, pg_statio_all_tables, {
        "relid": Oid, "schemaname": Name, "relname": Name, "heap_blks_read": Int8,
        "heap_blks_hit": Int8, "idx_blks_read": Int8, "idx_blks_hit": Int8,
        "toast_blks_read": Int8, "toast_blks_hit": Int8, "tidx_blks_read": Int8,
        "tidx_blks_hit": Int8,
    }),
    relation!("pg_catalog", "pg_statio_user_tables", 0, pg_statio_user_tables, {
        "relid": Oid, "schemaname": Name, "relname": Name, "heap_blks_read": Int8,
        "heap_blks_hit": Int8, "idx_blks_read": Int8, "idx_blks_hit": Int8,
        "toast_blks_read": Int8, "toast_blks_hit": Int8, "tidx_blks_read": Int8,
        "tidx_blks_hit": Int8,
    }),
    relation!("pg_catalog", "pg_locks", 0, nothing, {
        "locktype": Text, "database": Oid, "relation": Oid, "page": Int4, "tuple": Int2,
        "virtualxid": Text, "transactionid": Oid, "classid": Oid, "objid": Oid,
        "objsubid": Int2, "virtualtransaction": Text, "pid": Int4, "mode": Text,
        "granted": Bool, "fastpath": Bool, "waitstart": Timestamptz,
    }),
    relation!("pg_catalog", "pg_prepared_xacts", 0, nothing, {
        "transaction": Oid, "gid": Text, "prepared": Timestamptz, "owner": Name,
        "database": Name,
    }),
    relation!(live "pg_catalog", "pg_prepared_statements", 0, pg_prepared_statements, {
        "name": Text, "statement": Text, "prepare_time": Timestamptz,
        "parameter_types": TextArray, "from_sql": Bool, "generic_plans": Int8,
        "custom_plans": Int8,
    }),
    relation!("pg_catalog", "pg_timezone_names", 0, pg_timezone_names, {
        "name": Text, "abbrev": Text, "utc_offset": Text, "is_dst": Bool,
    }),
    // Springhead's own: the nodes that follow this one.
    relation!(live "springhead", "standbys", 0, standbys, {
        "name": Text, "address": Text, "state": Text, "sent_lsn": Int8, "written_lsn": Int8,
        "flushed_lsn": Int8, "applied_lsn": Int8, "lag_changes": Int8, "lag_bytes": Int8,
        "lag_ms": Int8, "mode": Text, "priority": Int4, "in_sync": Bool,
    }),
];

fn standbys(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    // They are of the node and of no tenant.
    if view.identity.superuser {
        rows.extend(view.session.standbys());
    }
    Ok(())
}

fn pg_database(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (id, name) in view.session.databases() {
        rows.push(row![
            oids::database(id),
            name,
            oids::ROLE_OWNER,
            6,
            "c",
            false,
            true,
            -1,
            0,
            0,
            oids::TABLESPACE_DEFAULT,
            "C",
            "C.UTF-8",
            NULL,
            NULL,
            NULL,
        ]);
    }
    Ok(())
}

/// The roles there are, and the one that owns the schema `public`.
pub(super) fn roles(view: &View<'_>) -> Vec<Role> {
    let mut all = view.session.roles();
    if !all.iter().any(|role| role.name == "postgres") {
        all.insert(0, own("postgres", true));
    }
    // In open mode everyone may come under any name.
    let user = view.session.setting("session_user").unwrap_or_default();
    for name in [&*view.identity.role, user.as_str()] {
        if !name.is_empty() && !all.iter().any(|role| role.name == name) {
            all.push(own(name, view.identity.superuser));
        }
    }
    all.push(own(OWNER_OF_PUBLIC, false));
    all
}

/// A role that is not among the roles.
fn own(name: &str, superuser: bool) -> Role {
    Role {
        oid: oids::role(name),
        name: name.to_owned(),
        superuser,
        inherit: true,
        createrole: superuser,
        createdb: superuser,
        login: superuser || name != OWNER_OF_PUBLIC,
        bypass_rls: superuser,
        connection_limit: -1,
        valid_until_us: None,
    }
}

/// The roles, and who else owns something: in open mode anybody may have come under any name.
fn roles_and_owners(view: &View<'_>) -> Vec<Role> {
    let mut all = roles(view);
    let catalog = view.catalog;
    let owners = (catalog.tables.values().map(|table| &table.access))
        .chain(catalog.views.values().map(|view| &view.access))
        .chain(catalog.sequences.values().map(|sequence| &sequence.access))
        .chain(catalog.routines.values().map(|routine| &routine.access))
        .chain(catalog.types.values().map(|ty| &ty.access))
        .map(Access::owner)
        .collect::<BTreeSet<_>>();
    for owner in owners {
        if !all.iter().any(|role| role.name == owner) {
            all.push(own(owner, false));
        }
    }
    all
}

/// A role's name by its object id.
pub(super) fn role_name(view: &View<'_>, oid: u32) -> Option<String> {
    let with = |all: Vec<Role>| all.into_iter().find(|role| role.oid == oid);
    let found = with(roles(view)).or_else(|| with(roles_and_owners(view)));
    found.map(|role| role.name)
}

/// A role's object id.
pub(super) fn role_oid(view: &View<'_>, name: &str) -> u32 {
    roles(view)
        .into_iter()
        .find(|role| role.name == name)
        .map_or(0, |role| role.oid)
}

fn pg_roles(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for role in roles_and_owners(view) {
        rows.push(row![
            &role.name,
            role.superuser,
            role.inherit,
            role.createrole,
            role.createdb,
            role.login,
            role.superuser,
            role.connection_limit,
            "********",
            role.valid_until_us,
            role.bypass_rls,
            NULL,
            role.oid,
        ]);
    }
    Ok(())
}

/// Without the verifiers: these never leave the server.
fn pg_authid(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for role in roles_and_owners(view) {
        rows.push(row![
            role.oid,
            &role.name,
            role.superuser,
            role.inherit,
            role.createrole,
            role.createdb,
            role.login,
            role.superuser,
            role.bypass_rls,
            role.connection_limit,
            NULL,
            role.valid_until_us,
        ]);
    }
    Ok(())
}

fn pg_auth_members(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (role, member, grantor, admin) in view.session.memberships() {
        rows.push(row![
            role_oid(view, &role),
            role_oid(view, &member),
            role_oid(view, &grantor),
            admin,
        ]);
    }
    Ok(())
}

fn pg_user(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for role in roles(view).iter().filter(|role| role.login) {
        rows.push(row![
            &role.name,
            role.oid,
            role.createdb,
            role.superuser,
            role.superuser,
            role.bypass_rls,
            "********",
            role.valid_until_us,
            NULL,
        ]);
    }
    Ok(())
}

fn pg_tablespace(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (oid, name) in [
        (oids::TABLESPACE_DEFAULT, "pg_default"),
        (1664, "pg_global"),
    ] {
        rows.push(row![oid, name, oids::ROLE_OWNER, NULL, NULL]);
    }
    Ok(())
}

fn pg_settings(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (name, value) in view.session.settings() {
        let kind = match value.as_str() {
            "on" | "off" => "bool",
            _ => "string",
        };
        rows.push(row![
            name,
            &value,
            NULL,
            "Springhead",
            "",
            NULL,
            "user",
            kind,
            "default",
            NULL,
            NULL,
            NULL,
            &value,
            &value,
            NULL,
            NULL,
            false,
        ]);
    }
    Ok(())
}

fn pg_stat_activity(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let setting = |name: &str| view.session.setting(name);
    let user = setting("session_user").unwrap_or_default();
    let pid: i64 = setting("backend_pid")
        .and_then(|pid| pid.parse().ok())
        .unwrap_or(0);
    rows.push(row![
        oids::database(view.session.database_id()),
        setting("current_database"),
        pid,
        NULL,
        role_oid(view, &user),
        user,
        setting("application_name"),
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        "active",
        NULL,
        NULL,
        NULL,
        NULL,
        "client backend",
    ]);
    Ok(())
}

fn pg_prepared_statements(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for prepared in view.session.prepared() {
        rows.push(row![
            prepared.name,
            prepared.statement,
            prepared.prepared_us,
            texts(prepared.parameter_types),
            prepared.from_sql,
            0,
            0,
        ]);
    }
    Ok(())
}

fn pg_stat_all_tables(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    table_statistics(view, rows, |_| true)
}

fn pg_stat_user_tables(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    table_statistics(view, rows, |schema| schema == "public")
}

/// Nothing is counted: the numbers are NULL rather than wrong.
fn table_statistics(
    view: &View<'_>,
    rows: &mut Vec<Row>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        if !wanted(&table.name.schema) {
            continue;
        }
        rows.push(row![
            oids::table(table),
            &table.name.schema,
            &table.name.name,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
        ]);
    }
    Ok(())
}

fn pg_statio_all_tables(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    table_blocks(view, rows, |_| true);
    Ok(())
}

fn pg_statio_user_tables(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    table_blocks(view, rows, |schema| schema == "public");
    Ok(())
}

/// Nothing is counted here either; that the tables are there is what clients look for.
fn table_blocks(view: &View<'_>, rows: &mut Vec<Row>, wanted: impl Fn(&str) -> bool) {
    for table in view.catalog.tables_by_id() {
        if wanted(&table.name.schema) {
            let (schema, name) = (&table.name.schema, &table.name.name);
            rows.push(row![
                oids::table(table),
                schema,
                name,
                NULL,
                NULL,
                NULL,
                NULL,
                NULL,
                NULL,
                NULL,
                NULL,
            ]);
        }
    }
}

fn pg_timezone_names(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    rows.push(row!["UTC", "UTC", "00:00:00", false]);
    Ok(())
}
