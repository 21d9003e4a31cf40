//! What is no relation: schemas, functions, operators, access methods, and what has no rows here.

use springhead_proto::SqlError;

use super::cell::{NULL, numbers, row};
use super::oids;
use super::shape::{Relation, nothing, relation};
use super::{Row, View};
use crate::functions::{self, Class, Signature, Volatility};
use crate::types::PgType;

pub(super) const RELATIONS: &[Relation] = &[
    relation!("pg_catalog", "pg_namespace", 2615, pg_namespace, {
        "oid": Oid, "nspname": Name, "nspowner": Oid, "nspacl": TextArray,
    }),
    relation!("pg_catalog", "pg_proc", 1255, pg_proc, {
        "oid": Oid, "proname": Name, "pronamespace": Oid, "proowner": Oid, "prolang": Oid,
        "procost": Float4, "prorows": Float4, "provariadic": Oid, "prosupport": Proc,
        "prokind": Char, "prosecdef": Bool, "proleakproof": Bool, "proisstrict": Bool,
        "proretset": Bool, "provolatile": Char, "proparallel": Char, "pronargs": Int2,
        "pronargdefaults": Int2, "prorettype": Oid, "proargtypes": OidVector,
        "proallargtypes": OidArray, "proargmodes": CharArray, "proargnames": TextArray,
        "proargdefaults": Text, "protrftypes": OidArray, "prosrc": Text, "probin": Text,
        "prosqlbody": Text, "proconfig": TextArray, "proacl": TextArray,
    }),
    relation!("pg_catalog", "pg_aggregate", 2600, nothing, {
        "aggfnoid": Proc, "aggkind": Char, "aggnumdirectargs": Int2, "aggtransfn": Proc,
        "aggfinalfn": Proc, "aggtranstype": Oid,
    }),
    relation!("pg_catalog", "pg_operator", 2617, pg_operator, {
        "oid": Oid, "oprname": Name, "oprnamespace": Oid, "oprowner": Oid, "oprkind": Char,
        "oprcanmerge": Bool, "oprcanhash": Bool, "oprleft": Oid, "oprright": Oid,
        "oprresult": Oid, "oprcom": Oid, "oprnegate": Oid, "oprcode": Proc, "oprrest": Proc,
        "oprjoin": Proc,
    }),
    relation!("pg_catalog", "pg_am", 2601, pg_am, {
        "oid": Oid, "amname": Name, "amhandler": Proc, "amtype": Char,
    }),
    relation!("pg_catalog", "pg_opclass", 2616, pg_opclass, {
        "oid": Oid, "opcmethod": Oid, "opcname": Name, "opcnamespace": Oid, "opcowner": Oid,
        "opcfamily": Oid, "opcintype": Oid, "opcdefault": Bool, "opckeytype": Oid,
    }),
    relation!("pg_catalog", "pg_opfamily", 2753, nothing, {
        "oid": Oid, "opfmethod": Oid, "opfname": Name, "opfnamespace": Oid, "opfowner": Oid,
    }),
    relation!("pg_catalog", "pg_amop", 2602, nothing, {
        "oid": Oid, "amopfamily": Oid, "amoplefttype": Oid, "amoprighttype": Oid,
        "amopstrategy": Int2, "amoppurpose": Char, "amopopr": Oid, "amopmethod": Oid,
        "amopsortfamily": Oid,
    }),
    relation!("pg_catalog", "pg_amproc", 2603, nothing, {
        "oid": Oid, "amprocfamily": Oid, "amproclefttype": Oid, "amprocrighttype": Oid,
        "amprocnum": Int2, "amproc": Proc,
    }),
    relation!("pg_catalog", "pg_language", 2612, pg_language, {
        "oid": Oid, "lanname": Name, "lanowner": Oid, "lanispl": Bool, "lanpltrusted": Bool,
        "lanplcallfoid": Oid, "laninline": Oid, "lanvalidator": Oid, "lanacl": TextArray,
    }),
    relation!("pg_catalog", "pg_trigger", 2620, super::programs::pg_trigger, {
        "oid": Oid, "tgrelid": Oid, "tgparentid": Oid, "tgname": Name, "tgfoid": Oid,
        "tgtype": Int2, "tgenabled": Char, "tgisinternal": Bool, "tgconstrrelid": Oid,
        "tgconstrindid": Oid, "tgconstraint": Oid, "tgdeferrable": Bool,
        "tginitdeferred": Bool, "tgnargs": Int2, "tgattr": Int2Vector, "tgargs": Text,
        "tgqual": Text, "tgoldtable": Name, "tgnewtable": Name,
    }),
    relation!("pg_catalog", "pg_policy", 3256, super::programs::pg_policy, {
        "oid": Oid, "polname": Name, "polrelid": Oid, "polcmd": Char, "polpermissive": Bool,
        "polroles": OidArray, "polqual": Text, "polwithcheck": Text,
    }),
    relation!("pg_catalog", "pg_policies", 0, super::programs::pg_policies, {
        "schemaname": Name, "tablename": Name, "policyname": Name, "permissive": Text,
        "roles": NameArray, "cmd": Text, "qual": Text, "with_check": Text,
    }),
    relation!("pg_catalog", "pg_description", 2609, pg_description, {
        "objoid": Oid, "classoid": Oid, "objsubid": Int4, "description": Text,
    }),
    relation!("pg_catalog", "pg_shdescription", 2396, nothing, {
        "objoid": Oid, "classoid": Oid, "description": Text,
    }),
    relation!("pg_catalog", "pg_shdepend", 1214, nothing, {
        "dbid": Oid, "classid": Oid, "objid": Oid, "objsubid": Int4, "refclassid": Oid,
        "refobjid": Oid, "deptype": Char,
    }),
    relation!("pg_catalog", "pg_seclabel", 3596, nothing, {
        "objoid": Oid, "classoid": Oid, "objsubid": Int4, "provider": Text, "label": Text,
    }),
    relation!("pg_catalog", "pg_parameter_acl", 6243, nothing, {
        "oid": Oid, "parname": Text, "paracl": TextArray,
    }),
    relation!("pg_catalog", "pg_shseclabel", 3592, nothing, {
        "objoid": Oid, "classoid": Oid, "provider": Text, "label": Text,
    }),
    relation!("pg_catalog", "pg_seclabels", 0, nothing, {
        "objoid": Oid, "classoid": Oid, "objsubid": Int4, "objtype": Text, "objnamespace": Oid,
        "objname": Text, "provider": Text, "label": Text,
    }),
    relation!("pg_catalog", "pg_init_privs", 3394, nothing, {
        "objoid": Oid, "classoid": Oid, "objsubid": Int4, "privtype": Char,
        "initprivs": TextArray,
    }),
    relation!("pg_catalog", "pg_default_acl", 826, nothing, {
        "oid": Oid, "defaclrole": Oid, "defaclnamespace": Oid, "defaclobjtype": Char,
        "defaclacl": TextArray,
    }),
    relation!("pg_catalog", "pg_event_trigger", 3466, nothing, {
        "oid": Oid, "evtname": Name, "evtevent": Name, "evtowner": Oid, "evtfoid": Oid,
        "evtenabled": Char, "evttags": TextArray,
    }),
    relation!("pg_catalog", "pg_publication", 6104, nothing, {
        "oid": Oid, "pubname": Name, "pubowner": Oid, "puballtables": Bool, "pubinsert": Bool,
        "pubupdate": Bool, "pubdelete": Bool, "pubtruncate": Bool, "pubviaroot": Bool,
    }),
    relation!("pg_catalog", "pg_publication_rel", 6106, nothing, {
        "oid": Oid, "prpubid": Oid, "prrelid": Oid, "prqual": Text, "prattrs": Int2Vector,
    }),
    relation!("pg_catalog", "pg_publication_namespace", 6237, nothing, {
        "oid": Oid, "pnpubid": Oid, "pnnspid": Oid,
    }),
    relation!("pg_catalog", "pg_publication_tables", 0, nothing, {
        "pubname": Name, "schemaname": Name, "tablename": Name, "attnames": NameArray,
        "rowfilter": Text,
    }),
    relation!("pg_catalog", "pg_subscription", 6100, nothing, {
        "oid": Oid, "subdbid": Oid, "subname": Name, "subowner": Oid, "subenabled": Bool,
        "subbinary": Bool, "substream": Bool, "subtwophasestate": Char,
        "subdisableonerr": Bool, "subconninfo": Text, "subslotname": Name,
        "subsynccommit": Text, "subpublications": TextArray,
    }),
    relation!("pg_catalog", "pg_foreign_table", 3118, nothing, {
        "ftrelid": Oid, "ftserver": Oid, "ftoptions": TextArray,
    }),
    relation!("pg_catalog", "pg_foreign_server", 1417, nothing, {
        "oid": Oid, "srvname": Name, "srvowner": Oid, "srvfdw": Oid, "srvtype": Text,
        "srvversion": Text, "srvacl": TextArray, "srvoptions": TextArray,
    }),
    relation!("pg_catalog", "pg_foreign_data_wrapper", 2328, nothing, {
        "oid": Oid, "fdwname": Name, "fdwowner": Oid, "fdwhandler": Oid, "fdwvalidator": Oid,
        "fdwacl": TextArray, "fdwoptions": TextArray,
    }),
    relation!("pg_catalog", "pg_user_mapping", 1418, nothing, {
        "oid": Oid, "umuser": Oid, "umserver": Oid, "umoptions": TextArray,
    }),
    relation!("pg_catalog", "pg_user_mappings", 0, nothing, {
        "umid": Oid, "srvid": Oid, "srvname": Name, "umuser": Oid, "usename": Name,
        "umoptions": TextArray,
    }),
    relation!("pg_catalog", "pg_statistic_ext", 3381, nothing, {
        "oid": Oid, "stxrelid": Oid, "stxname": Name, "stxnamespace": Oid, "stxowner": Oid,
        "stxstattarget": Int4, "stxkeys": Int2Vector, "stxkind": CharArray, "stxexprs": Text,
    }),
    relation!("pg_catalog", "pg_partitioned_table", 3350, nothing, {
        "partrelid": Oid, "partstrat": Char, "partnatts": Int2, "partdefid": Oid,
        "partattrs": Int2Vector, "partclass": OidVector, "partcollation": OidVector,
        "partexprs": Text,
    }),
    relation!("pg_catalog", "pg_conversion", 2607, nothing, {
        "oid": Oid, "conname": Name, "connamespace": Oid, "conowner": Oid,
        "conforencoding": Int4, "contoencoding": Int4, "conproc": Proc, "condefault": Bool,
    }),
    relation!("pg_catalog", "pg_transform", 3576, nothing, {
        "oid": Oid, "trftype": Oid, "trflang": Oid, "trffromsql": Proc, "trftosql": Proc,
    }),
    relation!("pg_catalog", "pg_ts_config", 3602, nothing, {
        "oid": Oid, "cfgname": Name, "cfgnamespace": Oid, "cfgowner": Oid, "cfgparser": Oid,
    }),
    relation!("pg_catalog", "pg_ts_dict", 3600, nothing, {
        "oid": Oid, "dictname": Name, "dictnamespace": Oid, "dictowner": Oid,
        "dicttemplate": Oid, "dictinitoption": Text,
    }),
    relation!("pg_catalog", "pg_ts_parser", 3601, nothing, {
        "oid": Oid, "prsname": Name, "prsnamespace": Oid, "prsstart": Proc, "prstoken": Proc,
        "prsend": Proc, "prsheadline": Proc, "prslextype": Proc,
    }),
    relation!("pg_catalog", "pg_ts_template", 3764, nothing, {
        "oid": Oid, "tmplname": Name, "tmplnamespace": Oid, "tmplinit": Proc,
        "tmpllexize": Proc,
    }),
    relation!("pg_catalog", "pg_largeobject_metadata", 2995, nothing, {
        "oid": Oid, "lomowner": Oid, "lomacl": TextArray,
    }),
    relation!("pg_catalog", "pg_rules", 0, nothing, {
        "schemaname": Name, "tablename": Name, "rulename": Name, "definition": Text,
    }),
];

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
const PG_NAMESPACE: u32 = 2615;

/// What PostgreSQL says of the schema until somebody says something else.
pub(super) const COMMENT_OF_PUBLIC: &str = "standard public schema";

fn pg_description(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let of_public = (oids::NAMESPACE_PUBLIC, PG_NAMESPACE);
    let mut comments = view.catalog.comments.values();
    if !comments.any(|comment| (comment.object, comment.class) == of_public) {
        rows.push(row![of_public.0, of_public.1, 0, COMMENT_OF_PUBLIC]);
    }
    for comment in view.catalog.comments_by_id() {
        rows.push(row![
            comment.object,
            comment.class,
            comment.sub,
            comment.text.as_str()
        ]);
    }
    Ok(())
}

fn pg_namespace(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for name in oids::NAMESPACES {
        let owner = if name == "public" {
            oids::ROLE_DATABASE_OWNER
        } else {
            oids::ROLE_OWNER
        };
        let acl = (name == "public").then(|| super::acl::of_schema(&view.catalog.schema));
        rows.push(row![oids::namespace(name), name, owner, acl]);
    }
    Ok(())
}

/// A type's own functions (`int4in`): their object id.
pub(super) fn io_function(name: &str) -> u32 {
    oids::named("function", name)
}

/// A function of the signature table: its object id.
fn function_oid(signature: &Signature) -> u32 {
    let types: Vec<String> = argument_oids(signature)
        .into_iter()
        .map(|oid| oid.to_string())
        .collect();
    oids::named(
        "function",
        &format!("{}({})", signature.name, types.join(",")),
    )
}

fn argument_oids(signature: &Signature) -> Vec<i64> {
    signature
        .args
        .iter()
        .map(|arg| i64::from(argument_oid(*arg)))
        .collect()
}

fn argument_oid(arg: functions::ArgType) -> u32 {
    use functions::ArgType as A;
    arg.pg_type().map_or_else(
        || match arg {
            A::AnyArray => 2277,
            A::AnyElement => 2283,
            A::AnyNumeric => 1700,
            _ => 2276,
        },
        |ty| ty.oid(),
    )
}

fn result_oid(signature: &Signature) -> u32 {
    use functions::ResultType as R;
    match signature.result {
        R::Of(arg) => argument_oid(arg),
        R::Argument(place) => signature
            .args
            .get(place)
            .map_or(2283, |arg| argument_oid(*arg)),
        R::ArrayOf(_) => 2277,
        R::ElementOf(_) => 2283,
        R::Void => 2278,
    }
}

/// What [`find_function`] and `regproc` know: every built-in function's name and object id.
fn built_in() -> impl Iterator<Item = (String, u32)> {
    let io = super::types::io_names()
        .into_iter()
        .map(|name| (name.clone(), io_function(&name)));
    io.chain(
        functions::all_signatures()
            .map(|signature| (signature.name.to_owned(), function_oid(signature))),
    )
}

/// The object id of the function that `regproc` reads; 0 for `-`.
pub(super) fn find_function(view: &View<'_>, name: &str) -> Option<u32> {
    if name == "-" {
        return Some(0);
    }
    let parts = super::describe::split_name(name.split('(').next().unwrap_or(name))?;
    let bare = parts.last()?;
    let schema = match parts.as_slice() {
        [schema, _] => schema.as_str(),
        _ => "public",
    };
    // With its arguments' types it is one of several.
    let types = name
        .split_once('(')
        .and_then(|(_, types)| types.strip_suffix(')'));
    let own = view
        .catalog
        .routines_named(schema, bare)
        .into_iter()
        .find(|routine| {
            types.is_none_or(|types| {
                let own: Vec<_> = routine
                    .arguments
                    .iter()
                    .map(|argument| Some(argument.pg_type.oid()))
                    .collect();
                let given: Vec<_> = types
                    .split(',')
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                    .map(|text| super::types::find(view, text))
                    .collect();
                own == given
            })
        });
    if let Some(routine) = own {
        return Some(oids::of(routine.id, oids::Part::Itself));
    }
    built_in()
        .find(|(known, _)| known == bare)
        .map(|(_, oid)| oid)
}

/// A function's name by its object id.
pub(super) fn function_name(view: &View<'_>, oid: u32) -> Option<String> {
    if let Some(routine) = super::programs::routine_by_oid(view, oid) {
        return Some(super::describe::relation_name(view, &routine.name));
    }
    built_in()
        .find(|(_, known)| *known == oid)
        .map(|(name, _)| name)
}

fn pg_proc(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for name in super::types::io_names() {
        let result = if name.ends_with("out") { 2275 } else { 2281 };
        rows.push(proc_row(&Proc {
            oid: io_function(&name),
            name: &name,
            kind: "f",
            strict: true,
            set: false,
            volatility: "i",
            result,
            args: vec![2281],
            variadic: 0,
        }));
    }
    super::programs::procedures(view, rows);
    let mut seen = rustc_hash::FxHashSet::default();
    for signature in functions::all_signatures() {
        let oid = function_oid(signature);
        if !seen.insert(oid) {
            continue;
        }
        rows.push(proc_row(&Proc {
            oid,
            name: signature.name,
            kind: match signature.class {
                Class::Scalar | Class::SetReturning => "f",
                Class::Aggregate => "a",
                Class::Window => "w",
            },
            strict: signature.strict,
            set: signature.class == Class::SetReturning,
            volatility: match signature.volatility {
                Volatility::Immutable => "i",
                Volatility::Stable => "s",
                Volatility::Volatile => "v",
            },
            result: result_oid(signature),
            args: argument_oids(signature),
            variadic: if signature.variadic { 2276 } else { 0 },
        }));
    }
    Ok(())
}

struct Proc<'a> {
    oid: u32,
    name: &'a str,
    kind: &'a str,
    strict: bool,
    set: bool,
    volatility: &'a str,
    result: u32,
    args: Vec<i64>,
    variadic: u32,
}

fn proc_row(proc: &Proc<'_>) -> Row {
    row![
        proc.oid,
        proc.name,
        oids::NAMESPACE_PG_CATALOG,
        oids::ROLE_OWNER,
        oids::LANGUAGE_INTERNAL,
        1.0,
        if proc.set { 1000.0 } else { 0.0 },
        proc.variadic,
        0,
        proc.kind,
        false,
        false,
        proc.strict,
        proc.set,
        proc.volatility,
        "s",
        i64::try_from(proc.args.len()).unwrap_or(i64::MAX),
        0,
        proc.result,
        numbers(proc.args.iter().copied()),
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        proc.name,
        NULL,
        NULL,
        NULL,
        NULL,
    ]
}

/// The object id of the `=` between two values of a type.
pub(super) fn equality(ty: &PgType) -> u32 {
    let name = ty.oid();
    oids::named("operator", &format!("= {name} {name}"))
}

fn pg_operator(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    // Comparisons are grammar here, and operators of every type in PostgreSQL.
    for base in super::types::BASE {
        for symbol in ["=", "<>", "<", "<=", ">", ">="] {
            let text = format!("{symbol} {0} {0}", base.oid);
            rows.push(operator_row(
                oids::named("operator", &text),
                symbol,
                "b",
                base.oid,
                base.oid,
                16,
            ));
        }
    }
    for signature in functions::all_operators() {
        let args = argument_oids(signature);
        let (kind, left, right) = match args.as_slice() {
            [operand] => ("l", 0, *operand),
            [left, right] => ("b", *left, *right),
            _ => continue,
        };
        let text = format!("{} {left} {right}", signature.name);
        rows.push(operator_row(
            oids::named("operator", &text),
            signature.name,
            kind,
            u32::try_from(left).unwrap_or(0),
            u32::try_from(right).unwrap_or(0),
            result_oid(signature),
        ));
    }
    Ok(())
}

fn operator_row(oid: u32, symbol: &str, kind: &str, left: u32, right: u32, result: u32) -> Row {
    row![
        oid,
        symbol,
        oids::NAMESPACE_PG_CATALOG,
        oids::ROLE_OWNER,
        kind,
        symbol == "=",
        symbol == "=",
        left,
        right,
        result,
        0,
        0,
        0,
        0,
        0,
    ]
}

fn pg_am(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    rows.push(row![
        oids::AM_HEAP,
        "heap",
        io_function("heap_tableam_handler"),
        "t"
    ]);
    for name in ["btree", "hash", "gist", "gin", "brin", "spgist"] {
        rows.push(row![
            super::describe::method_oid(name),
            name,
            io_function(&format!("{name}handler")),
            "i",
        ]);
    }
    Ok(())
}

/// The default operator class of a type, for btree.
pub(super) fn operator_class(ty: &PgType) -> u32 {
    let oid = match ty {
        PgType::Varchar(_) => PgType::Text.oid(),
        PgType::Array(_) => 2277,
        other => other.oid(),
    };
    oids::named("operator class", &oid.to_string())
}

fn pg_opclass(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let all = super::types::BASE
        .iter()
        .map(|base| (base.oid, base.name))
        .chain([(2277, "array")]);
    for (oid, name) in all {
        let class = oids::named("operator class", &oid.to_string());
        rows.push(row![
            class,
            oids::AM_BTREE,
            format!("{name}_ops"),
            oids::NAMESPACE_PG_CATALOG,
            oids::ROLE_OWNER,
            0,
            oid,
            true,
            0,
        ]);
    }
    Ok(())
}

fn pg_language(_: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for (oid, name, trusted) in [
        (oids::LANGUAGE_INTERNAL, "internal", false),
        (oids::LANGUAGE_SQL, "sql", true),
        (oids::LANGUAGE_PLPGSQL, "plpgsql", true),
    ] {
        rows.push(row![
            oid,
            name,
            oids::ROLE_OWNER,
            name == "plpgsql",
            trusted,
            0,
            0,
            0,
            NULL
        ]);
    }
    Ok(())
}
