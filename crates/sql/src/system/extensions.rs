//! Extensions: `pg_extension`, `pg_available_extensions`.

use springhead_proto::SqlError;

use super::cell::{NULL, row};
use super::oids;
use super::shape::{Relation, relation};
use super::{Row, View};

pub(super) const RELATIONS: &[Relation] = &[
    relation!("pg_catalog", "pg_extension", 3079, pg_extension, {
        "oid": Oid, "extname": Name, "extowner": Oid, "extnamespace": Oid,
        "extrelocatable": Bool, "extversion": Text, "extconfig": OidArray,
        "extcondition": TextArray,
    }),
    relation!("pg_catalog", "pg_available_extensions", 0, pg_available_extensions, {
        "name": Name, "default_version": Text, "installed_version": Text, "comment": Text,
    }),
];

/// Extensions whose functions are built in, with the version that PostgreSQL 15 has.
const EXTENSIONS: [(&str, &str, &str); 4] = [
    ("plpgsql", "1.0", "PL/pgSQL procedural language"),
    ("pgcrypto", "1.3", "cryptographic functions"),
    (
        "uuid-ossp",
        "1.1",
        "generate universally unique identifiers (UUIDs)",
    ),
    // What its schema's relations are part of, so that pg_dump leaves them to it.
    (
        "springhead",
        env!("CARGO_PKG_VERSION"),
        "what Springhead keeps of its own",
    ),
];

fn pg_extension(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (name, version, _) in EXTENSIONS {
        let schema = match name {
            "plpgsql" => oids::NAMESPACE_PG_CATALOG,
            "springhead" => oids::NAMESPACE_SPRINGHEAD,
            _ => oids::NAMESPACE_PUBLIC,
        };
        rows.push(row![
            oids::extension(name),
            name,
            oids::ROLE_OWNER,
            schema,
            false,
            version,
            NULL,
            NULL,
        ]);
    }
    Ok(())
}

fn pg_available_extensions(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (name, version, comment) in EXTENSIONS {
        rows.push(row![name, version, version, comment]);
    }
    Ok(())
}
