//! `pg_type`, and what else describes types.

use springhead_proto::SqlError;

use super::cell::{NULL, row};
use super::oids::{self, Part};
use super::shape::{Relation, nothing, relation};
use super::user_types::{self, pg_enum};
use super::{Row, View};
use crate::types::{PgType, Reg};

pub(super) const RELATIONS: &[Relation] = &[
    relation!("pg_catalog", "pg_type", 1247, pg_type, {
        "oid": Oid, "typname": Name, "typnamespace": Oid, "typowner": Oid, "typlen": Int2,
        "typbyval": Bool, "typtype": Char, "typcategory": Char, "typispreferred": Bool,
        "typisdefined": Bool, "typdelim": Char, "typrelid": Oid, "typsubscript": Proc,
        "typelem": Oid, "typarray": Oid, "typinput": Proc, "typoutput": Proc, "typreceive": Proc,
        "typsend": Proc, "typmodin": Proc, "typmodout": Proc, "typanalyze": Proc, "typalign": Char,
        "typstorage": Char, "typnotnull": Bool, "typbasetype": Oid, "typtypmod": Int4,
        "typndims": Int4, "typcollation": Oid, "typdefaultbin": Text, "typdefault": Text,
        "typacl": TextArray,
    }),
    relation!("pg_catalog", "pg_enum", 3501, pg_enum, {
        "oid": Oid, "enumtypid": Oid, "enumsortorder": Float4, "enumlabel": Name,
    }),
    relation!("pg_catalog", "pg_range", 3541, nothing, {
        "rngtypid": Oid, "rngsubtype": Oid, "rngmultitypid": Oid, "rngcollation": Oid,
        "rngsubopc": Oid, "rngcanonical": Proc, "rngsubdiff": Proc,
    }),
    relation!("pg_catalog", "pg_cast", 2605, pg_cast, {
        "oid": Oid, "castsource": Oid, "casttarget": Oid, "castfunc": Oid, "castcontext": Char,
        "castmethod": Char,
    }),
    relation!("pg_catalog", "pg_collation", 3456, pg_collation, {
        "oid": Oid, "collname": Name, "collnamespace": Oid, "collowner": Oid, "collprovider": Char,
        "collisdeterministic": Bool, "collencoding": Int4, "collcollate": Text, "collctype": Text,
        "colliculocale": Text, "collversion": Text,
    }),
];

/// One of PostgreSQL's own types.
pub(super) struct Base {
    pub(super) oid: u32,
    pub(super) array: u32,
    pub(super) name: &'static str,
    len: i16,
    /// Category, whether preferred (`t`), alignment, storage.
    traits: &'static str,
    /// What its input function's name starts with: `in`, `out`, `recv` and `send` follow.
    pub(super) io: &'static str,
    elem: u32,
}

const fn base(
    oid: u32,
    array: u32,
    name: &'static str,
    len: i16,
    traits: &'static str,
    io: &'static str,
) -> Base {
    Base {
        oid,
        array,
        name,
        len,
        traits,
        io,
        elem: 0,
    }
}

const fn reg(reg: Reg, io: &'static str) -> Base {
    base(reg.oid(), reg.array_oid(), reg.name(), 4, "Nfip", io)
}

pub(super) const BASE: &[Base] = &[
    base(16, 1000, "bool", 1, "Btcp", "bool"),
    base(17, 1001, "bytea", -1, "Ufix", "bytea"),
    base(18, 1002, "char", 1, "Zfcp", "char"),
    base(19, 1003, "name", 64, "Sfcp", "name"),
    base(20, 1016, "int8", 8, "Nfdp", "int8"),
    base(21, 1005, "int2", 2, "Nfsp", "int2"),
    Base {
        elem: 21,
        ..base(22, 1006, "int2vector", -1, "Afip", "int2vector")
    },
    base(23, 1007, "int4", 4, "Nfip", "int4"),
    reg(Reg::Proc, "regproc"),
    base(25, 1009, "text", -1, "Stix", "text"),
    base(26, 1028, "oid", 4, "Ntip", "oid"),
    Base {
        elem: 26,
        ..base(30, 1013, "oidvector", -1, "Afip", "oidvector")
    },
    base(114, 199, "json", -1, "Ufix", "json_"),
    base(700, 1021, "float4", 4, "Nfip", "float4"),
    base(701, 1022, "float8", 8, "Ntdp", "float8"),
    base(1042, 1014, "bpchar", -1, "Sfix", "bpchar"),
    base(1043, 1015, "varchar", -1, "Sfix", "varchar"),
    base(1082, 1182, "date", 4, "Dfip", "date_"),
    base(1083, 1183, "time", 8, "Dfdp", "time_"),
    base(1114, 1115, "timestamp", 8, "Dfdp", "timestamp_"),
    base(1184, 1185, "timestamptz", 8, "Dtdp", "timestamptz_"),
    base(1186, 1187, "interval", 16, "Ttdp", "interval_"),
    base(1700, 1231, "numeric", -1, "Nfim", "numeric_"),
    base(2950, 2951, "uuid", 16, "Ufcp", "uuid_"),
    base(3802, 3807, "jsonb", -1, "Ufix", "jsonb_"),
    reg(Reg::Procedure, "regprocedure"),
    reg(Reg::Oper, "regoper"),
    reg(Reg::Operator, "regoperator"),
    reg(Reg::Class, "regclass"),
    reg(Reg::Type, "regtype"),
    reg(Reg::Namespace, "regnamespace"),
    reg(Reg::Role, "regrole"),
    reg(Reg::Collation, "regcollation"),
];

/// Types that no column has: object id, name, length, input function's prefix.
const PSEUDO: &[(u32, &str, i16, &str)] = &[
    (705, "unknown", -2, "unknown"),
    (2249, "record", -1, "record_"),
    (2275, "cstring", -2, "cstring_"),
    (2276, "any", 4, "any_"),
    (2277, "anyarray", -1, "anyarray_"),
    (2278, "void", 4, "void_"),
    (2279, "trigger", 4, "trigger_"),
    (2281, "internal", 8, "internal_"),
    (2283, "anyelement", 4, "anyelement_"),
];

/// A row of `pg_type`, as far as types differ in it.
pub(super) struct Entry<'a> {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) namespace: u32,
    pub(super) len: i16,
    pub(super) kind: &'a str,
    pub(super) category: &'a str,
    pub(super) preferred: bool,
    pub(super) relation: u32,
    pub(super) elem: u32,
    pub(super) array: u32,
    pub(super) io: &'a str,
    pub(super) align: &'a str,
    pub(super) storage: &'a str,
    pub(super) collation: u32,
    pub(super) subscript: &'a str,
    pub(super) not_null: bool,
    pub(super) base_type: u32,
    pub(super) typmod: i32,
    pub(super) default: Option<String>,
}

impl Entry<'_> {
    pub(super) fn row(self) -> Row {
        let function = |end: &str| super::objects::io_function(&format!("{}{end}", self.io));
        let by_value = matches!(self.len, 1 | 2 | 4 | 8) && self.kind != "p" || self.kind == "e";
        let (typmod_in, typmod_out) = match self.oid {
            1042 | 1043 | 1083 | 1114 | 1184 | 1186 | 1700 => {
                let stem = self.io.trim_end_matches('_');
                (
                    super::objects::io_function(&format!("{stem}typmodin")),
                    super::objects::io_function(&format!("{stem}typmodout")),
                )
            }
            _ => (0, 0),
        };
        row![
            self.oid,
            self.name,
            self.namespace,
            oids::ROLE_OWNER,
            self.len,
            by_value,
            self.kind,
            self.category,
            self.preferred,
            true,
            ",",
            self.relation,
            if self.subscript.is_empty() {
                0
            } else {
                super::objects::io_function(self.subscript)
            },
            self.elem,
            self.array,
            function("in"),
            function("out"),
            function("recv"),
            function("send"),
            typmod_in,
            typmod_out,
            0u32,
            self.align,
            self.storage,
            self.not_null,
            self.base_type,
            self.typmod,
            0,
            self.collation,
            NULL,
            self.default,
            NULL,
        ]
    }
}

pub(super) const PLAIN: Entry<'static> = Entry {
    oid: 0,
    name: String::new(),
    namespace: oids::NAMESPACE_PG_CATALOG,
    len: -1,
    kind: "b",
    category: "U",
    preferred: false,
    relation: 0,
    elem: 0,
    array: 0,
    io: "",
    align: "i",
    storage: "x",
    collation: 0,
    subscript: "",
    not_null: false,
    base_type: 0,
    typmod: -1,
    default: None,
};

pub(super) fn array_of(oid: u32, element: u32, name: &str, namespace: u32, collation: u32) -> Row {
    Entry {
        oid,
        name: array_name(name),
        namespace,
        category: "A",
        elem: element,
        io: "array_",
        subscript: "array_subscript_handler",
        align: if matches!(element, 20 | 701 | 1083 | 1114 | 1184 | 1186) {
            "d"
        } else {
            "i"
        },
        collation,
        ..PLAIN
    }
    .row()
}

/// An underscore before, within 63 bytes.
fn array_name(name: &str) -> String {
    crate::types::text::cut_name(&format!("_{name}")).to_owned()
}

const fn collation_of(oid: u32) -> u32 {
    match oid {
        25 | 1042 | 1043 => oids::COLLATION_DEFAULT,
        19 => oids::COLLATION_C,
        _ => 0,
    }
}

/// `attcollation` and its kin of a type.
pub(super) fn collation(ty: &PgType) -> u32 {
    match ty {
        PgType::Array(element) => collation(element),
        other => collation_of(other.of_value().oid()),
    }
}

/// Alignment and storage of a type, as `pg_attribute` shows them.
pub(super) fn layout(ty: &PgType) -> (&'static str, &'static str) {
    if let PgType::Array(element) = ty {
        let (align, _) = layout(element);
        return (if align == "d" { "d" } else { "i" }, "x");
    }
    let ty = ty.of_value();
    if matches!(ty, PgType::Enum(_)) {
        return ("i", "p");
    }
    BASE.iter()
        .find(|base| base.oid == ty.oid())
        .map_or(("i", "x"), |base| (&base.traits[2..3], &base.traits[3..4]))
}

fn pg_type(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for base in BASE {
        let subscript = if base.elem == 0 {
            ""
        } else {
            "array_subscript_handler"
        };
        rows.push(
            Entry {
                oid: base.oid,
                name: base.name.to_owned(),
                len: base.len,
                category: &base.traits[0..1],
                preferred: base.traits.as_bytes()[1] == b't',
                elem: base.elem,
                array: base.array,
                io: base.io,
                align: &base.traits[2..3],
                storage: &base.traits[3..4],
                collation: collation_of(base.oid),
                subscript,
                ..PLAIN
            }
            .row(),
        );
        rows.push(array_of(
            base.array,
            base.oid,
            base.name,
            oids::NAMESPACE_PG_CATALOG,
            collation_of(base.oid),
        ));
    }
    for &(oid, name, len, io) in PSEUDO {
        rows.push(
            Entry {
                oid,
                name: name.to_owned(),
                len,
                kind: "p",
                category: if oid == 705 { "X" } else { "P" },
                io,
                align: "c",
                storage: "p",
                ..PLAIN
            }
            .row(),
        );
    }
    for table in view.catalog.tables_by_id() {
        row_type(table.id, &table.name.name, &table.name.schema, rows);
    }
    let mut views: Vec<_> = view.catalog.views.values().collect();
    views.sort_unstable_by_key(|view| view.id);
    for view in views {
        row_type(view.id, &view.name.name, &view.name.schema, rows);
    }
    let mut types: Vec<_> = view.catalog.types.values().collect();
    types.sort_unstable_by_key(|of| of.id);
    for of in types {
        user_types::user_type(of, rows);
    }
    Ok(())
}

/// The composite type of a relation's rows.
fn row_type(id: u32, name: &str, schema: &str, rows: &mut Vec<Row>) {
    let (oid, array) = (oids::of(id, Part::RowType), oids::of(id, Part::ArrayType));
    rows.push(
        Entry {
            oid,
            name: name.to_owned(),
            namespace: oids::namespace(schema),
            kind: "c",
            category: "C",
            relation: oids::of(id, Part::Itself),
            array,
            io: "record_",
            align: "d",
            ..PLAIN
        }
        .row(),
    );
    rows.push(array_of(array, oid, name, oids::namespace(schema), 0));
}

/// The object id of the first cast.
const FIRST_CAST: u32 = 10_000;

fn pg_cast(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    use crate::functions::{CastContext, cast};
    for from in BASE {
        for to in BASE {
            let (Some(source), Some(target)) =
                (PgType::from_oid(from.oid, -1), PgType::from_oid(to.oid, -1))
            else {
                continue;
            };
            // Casts between a type and its text are no rows of the catalog.
            let by_text = target.is_string() && !source.is_string()
                || source.is_string() && !target.is_string();
            if from.oid == to.oid || by_text {
                continue;
            }
            if let Some(found) = cast(&source, &target) {
                let context = match found.context {
                    CastContext::Implicit => "i",
                    CastContext::Assignment => "a",
                    CastContext::Explicit => "e",
                };
                let free = found.is_free();
                rows.push(row![
                    // Below the first user's: pg_dump leaves PostgreSQL's own casts out.
                    FIRST_CAST + u32::try_from(rows.len()).unwrap_or(0),
                    from.oid,
                    to.oid,
                    if free {
                        0
                    } else {
                        super::objects::io_function(to.name)
                    },
                    context,
                    if free { "b" } else { "f" },
                ]);
            }
        }
    }
    Ok(())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
fn pg_collation(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (oid, name, provider, locale) in [
        (oids::COLLATION_DEFAULT, "default", "d", None),
        (oids::COLLATION_C, "C", "c", Some("C")),
        (951, "POSIX", "c", Some("POSIX")),
        (962, "ucs_basic", "c", Some("C")),
    ] {
        rows.push(row![
            oid,
            name,
            oids::NAMESPACE_PG_CATALOG,
            oids::ROLE_OWNER,
            provider,
            true,
            if name == "ucs_basic" { 6 } else { -1 },
            locale,
            locale,
            NULL,
            NULL,
        ]);
    }
    Ok(())
}

/// `format_type(oid, typmod)`; `???` for an unknown type, as PostgreSQL says.
pub(super) fn format_type(view: &View<'_>, oid: u32, typmod: Option<i32>) -> String {
    if oid == 0 {
        return "-".to_owned();
    }
    // With a modifier given (even -1) bpchar is named by itself.
    if oid == 1042 {
        return match typmod {
            Some(modifier) if modifier >= 4 => format!("character({})", modifier - 4),
            Some(_) => "bpchar".to_owned(),
            None => "character".to_owned(),
        };
    }
    if let Some(ty) = PgType::from_oid(oid, typmod.unwrap_or(-1)) {
        return match ty {
            PgType::Array(element) if matches!(*element, PgType::Char(_)) => {
                format!("{}[]", format_type(view, 1042, typmod))
            }
            ty => ty.sql_name().into_owned(),
        };
    }
    if let Some((_, name, ..)) = PSEUDO.iter().find(|(pseudo, ..)| *pseudo == oid) {
        return if *name == "any" {
            "\"any\"".to_owned()
        } else {
            (*name).to_owned()
        };
    }
    if let Some(base) = BASE.iter().find(|base| base.array == oid) {
        return format!("{}[]", base.name);
    }
    let Some((id, part)) = oids::id_of(oid) else {
        return "???".to_owned();
    };
    let name = view
        .catalog
        .table(springhead_proto::CollectionId(id))
        .map(|table| &table.name)
        .or_else(|| view.catalog.view(id).map(|view| &view.name))
        .or_else(|| view.catalog.types.get(&id).map(|of| &of.name));
    match (name, part) {
        (Some(name), 1) => super::describe::relation_name(view, name),
        (Some(name), 2) => format!("{}[]", super::describe::relation_name(view, name)),
        _ => "???".to_owned(),
    }
}

/// The type of that name, as `regtype` reads it: its object id.
pub(super) fn find(view: &View<'_>, name: &str) -> Option<u32> {
    let text = name.trim();
    if let Some(element) = text.strip_suffix("[]") {
        let element = find(view, element)?;
        return BASE
            .iter()
            .find(|base| base.oid == element)
            .map(|base| base.array)
            .or_else(|| {
                let (id, part) = oids::id_of(element)?;
                (part == 1).then(|| oids::of(id, Part::ArrayType))
            });
    }
    let parts = super::describe::split_name(text)?;
    let (schema, bare) = match parts.as_slice() {
        [name] => (None, name.as_str()),
        [schema, name] => (Some(schema.as_str()), name.as_str()),
        _ => return None,
    };
    if schema.is_none_or(|schema| schema == "pg_catalog") {
        if let Some(base) = BASE.iter().find(|base| base.name == bare) {
            // `char` without quotes is character(1).
            return Some(if text == "char" { 1042 } else { base.oid });
        }
        if let Some((oid, ..)) = PSEUDO.iter().find(|(_, pseudo, ..)| *pseudo == bare) {
            return Some(*oid);
        }
        if let Some(base) = BASE
            .iter()
            .find(|base| bare.strip_prefix('_') == Some(base.name))
        {
            return Some(base.array);
        }
        if let Ok(ty) = crate::query::data_type::parse(view.catalog, text) {
            return Some(ty.oid());
        }
    }
    if let Some(of) = view.catalog.type_named(&crate::catalog::QualifiedName::new(
        schema.unwrap_or("public"),
        bare,
    )) {
        return Some(oids::of(of.id, Part::RowType));
    }
    let (_, relation) = view
        .catalog
        .resolve(Some(schema.unwrap_or("public")), bare)?;
    match relation {
        crate::catalog::Relation::Table(id) => Some(oids::of(id.0, Part::RowType)),
        crate::catalog::Relation::View(id) => Some(oids::of(id, Part::RowType)),
        _ => None,
    }
}

/// The names of the functions that read and print types, each once.
pub(super) fn io_names() -> Vec<String> {
    let stems = BASE
        .iter()
        .map(|base| base.io)
        .chain(PSEUDO.iter().map(|(.., io)| *io))
        .chain(["array_", "enum_", "domain_"]);
    let mut names: Vec<String> = stems
        .flat_map(|stem| ["in", "out", "recv", "send"].map(|end| format!("{stem}{end}")))
        .collect();
    names.push("array_subscript_handler".to_owned());
    for stem in [
        "bpchar",
        "varchar",
        "time",
        "timestamp",
        "timestamptz",
        "interval",
        "numeric",
    ] {
        names.push(format!("{stem}typmodin"));
        names.push(format!("{stem}typmodout"));
    }
    names
}
