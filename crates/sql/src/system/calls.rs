//! What `sh_sys(name, …)` answers: the functions of [`super::functions`], and the conversions of
//! `regclass` and its kin.

use springhead_proto::{CollectionId, ErrorCode, SqlError, Value, ValueRef};

use super::oids::{self, Part};
use super::{
    View, acl, cell, database, describe, objects, programs, qualified, relations, sequences, types,
};
use crate::catalog::{QualifiedName, Relation};
use crate::types::Reg;

/// Arguments, with the conversions that the calls need.
pub(super) struct Args<'a, 'v>(pub(super) &'a [ValueRef<'v>]);

impl<'v> Args<'_, 'v> {
    pub(super) fn oid(&self, at: usize) -> u32 {
        match self.0.get(at) {
            Some(ValueRef::Integer(value)) => u32::try_from(*value).unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn int(&self, at: usize) -> Option<i32> {
        match self.0.get(at) {
            Some(ValueRef::Integer(value)) => i32::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, at: usize) -> &'v str {
        match self.0.get(at) {
            Some(ValueRef::Text(text)) => text,
            _ => "",
        }
    }
}

fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

fn optional<T: Into<String>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, text)
}

pub(super) fn bool(value: bool) -> Value {
    Value::Integer(i64::from(value))
}

fn oid(value: Option<u32>) -> Value {
    value.map_or(Value::Null, |oid| Value::Integer(oid.into()))
}

/// `sh_sys(name, …)`.
///
/// # Errors
/// For a name that stands for nothing, as PostgreSQL says it; 42883 for an unknown function.
pub fn call(view: &View<'_>, args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let [ValueRef::Text(name), args @ ..] = args else {
        return Err(unknown("sh_sys"));
    };
    // All are strict but for format_type's modifier.
    let strict = if *name == "format_type" {
        &args[..1]
    } else {
        args
    };
    if strict.iter().any(|value| value.is_null()) {
        return Ok(Value::Null);
    }
    let args = Args(args);
    if let Some(value) = names(view, name, &args)? {
        return Ok(value);
    }
    if let Some(value) = definitions(view, name, &args) {
        return Ok(value);
    }
    if let Some(value) = super::privileges::privileges(view, name, &args)? {
        return Ok(value);
    }
    let found = sequence(view, name, &args).or_else(|| facts(view, name, &args));
    found.ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedFunction,
        format!("function {name} does not exist"),
    )
}

/// Names to object ids, and back.
fn names(view: &View<'_>, name: &str, args: &Args<'_, '_>) -> Result<Option<Value>, SqlError> {
    let reg = |name: &str| {
        Reg::from_name(name).ok_or_else(|| SqlError::new(ErrorCode::Internal, "no such alias type"))
    };
    Ok(Some(match name {
        "reg_in" => {
            let reg = reg(args.text(0))?;
            Value::Integer(read_reg(view, reg, args.text(1))?.into())
        }
        "reg_out" => text(show_reg(view, reg(args.text(0))?, args.oid(1))),
        "reg_show" => {
            let shown = show_reg(view, reg(args.text(0))?, args.oid(1));
            text(format!("{}:{shown}", args.oid(1)))
        }
        "to_regclass" => oid(find_reg(view, Reg::Class, args.text(0))),
        "to_regtype" => oid(find_reg(view, Reg::Type, args.text(0))),
        "to_regproc" => oid(find_reg(view, Reg::Proc, args.text(0))),
        "to_regnamespace" => oid(find_reg(view, Reg::Namespace, args.text(0))),
        "to_regrole" => oid(find_reg(view, Reg::Role, args.text(0))),
        "format_type" => text(types::format_type(view, args.oid(0), args.int(1))),
        "pg_get_serial_sequence" => serial_sequence(view, args.text(0), args.text(1))?,
        _ => return Ok(None),
    }))
}

/// What a text names, as `regclass` and its kin read it.
///
/// # Errors
/// 42P01, 42704 or 42883 if it names nothing.
pub fn read_reg(view: &View<'_>, reg: Reg, name: &str) -> Result<u32, SqlError> {
    if let Some(found) = find_reg(view, reg, name) {
        return Ok(found);
    }
    let shown = name.trim();
    Err(match reg {
        Reg::Class => SqlError::new(
            ErrorCode::UndefinedTable,
            format!("relation \"{}\" does not exist", shown.replace('"', "")),
        ),
        Reg::Type => SqlError::new(
            ErrorCode::UndefinedObject,
            format!("type \"{shown}\" does not exist"),
        ),
        Reg::Proc | Reg::Procedure => SqlError::new(
            ErrorCode::UndefinedFunction,
            format!("function \"{shown}\" does not exist"),
        ),
        Reg::Namespace => SqlError::new(
            ErrorCode::UnknownSchema,
            format!("schema \"{shown}\" does not exist"),
        ),
        Reg::Role => SqlError::new(
            ErrorCode::UndefinedObject,
            format!("role \"{shown}\" does not exist"),
        ),
        Reg::Oper | Reg::Operator => SqlError::new(
            ErrorCode::UndefinedFunction,
            format!("operator does not exist: {shown}"),
        ),
        Reg::Collation => SqlError::new(
            ErrorCode::UndefinedObject,
            format!("collation \"{shown}\" for encoding \"UTF8\" does not exist"),
        ),
    })
}

fn find_reg(view: &View<'_>, reg: Reg, name: &str) -> Option<u32> {
    let name = name.trim();
    if name == "-" {
        return Some(0);
    }
    if let Ok(oid) = name.parse::<u32>() {
        return Some(oid);
    }
    match reg {
        Reg::Class => find_relation(view, name),
        Reg::Type => types::find(view, name),
        Reg::Proc | Reg::Procedure => objects::find_function(view, name),
        Reg::Namespace => match describe::split_name(name)?.as_slice() {
            [schema] => Some(oids::namespace(schema)).filter(|oid| *oid != 0),
            _ => None,
        },
        Reg::Role => match describe::split_name(name)?.as_slice() {
            [role] => Some(database::role_oid(view, role)).filter(|oid| *oid != 0),
            _ => None,
        },
        Reg::Oper | Reg::Operator => None,
        Reg::Collation => match describe::split_name(name)?.last()?.as_str() {
            "default" => Some(oids::COLLATION_DEFAULT),
            "c" | "C" => Some(oids::COLLATION_C),
            _ => None,
        },
    }
}

/// A relation of the catalog or of PostgreSQL's own, by its name.
fn find_relation(view: &View<'_>, name: &str) -> Option<u32> {
    let parts = describe::split_name(name)?;
    let (schema, bare) = match parts.as_slice() {
        [name] => (None, name.as_str()),
        [schema, name] | [_, schema, name] => (Some(schema.as_str()), name.as_str()),
        _ => return None,
    };
    if let Some(relation) = super::resolve(schema, bare) {
        return Some(relation.oid());
    }
    let schemas = match schema {
        Some(schema) => vec![schema.to_owned()],
        None => describe::search_path(view),
    };
    schemas.iter().find_map(|schema| {
        let (name, relation) = view.catalog.resolve(Some(schema), bare)?;
        relation_oid(view, &name, relation)
    })
}

/// The object id of what a name stands for.
pub(crate) fn relation_oid(
    view: &View<'_>,
    name: &QualifiedName,
    relation: Relation,
) -> Option<u32> {
    match relation {
        Relation::Table(id) => Some(oids::of(id.0, Part::Itself)),
        Relation::Sequence(id) | Relation::View(id) => Some(oids::of(id, Part::Itself)),
        Relation::Index(table) => {
            let table = view.catalog.table(table)?;
            describe::indexes(table)
                .into_iter()
                .find(|index| index.name == name.name)
                .map(|index| index.oid)
        }
    }
}

/// A relation's schema and name by its object id.
pub(super) fn relation_by_oid(view: &View<'_>, oid: u32) -> Option<QualifiedName> {
    if let Some(relation) = super::by_oid(oid) {
        return Some(QualifiedName::new(relation.schema, relation.name));
    }
    let (id, part) = oids::id_of(oid)?;
    if part == Part::Itself as u32 {
        let found = view
            .catalog
            .table(CollectionId(id))
            .map(|table| &table.name)
            .or_else(|| view.catalog.sequence(id).map(|sequence| &sequence.name))
            .or_else(|| view.catalog.view(id).map(|view| &view.name));
        if let Some(name) = found {
            return Some(name.clone());
        }
    }
    let (table, index) = describe::index_by_oid(view, oid)?;
    Some(QualifiedName::new(table.name.schema.clone(), index.name))
}

fn show_reg(view: &View<'_>, reg: Reg, oid: u32) -> String {
    if oid == 0 {
        return "-".to_owned();
    }
    let name = match reg {
        Reg::Class => relation_by_oid(view, oid).map(|name| describe::relation_name(view, &name)),
        Reg::Type => Some(types::format_type(view, oid, None)).filter(|name| name != "???"),
        Reg::Procedure => programs::routine_by_oid(view, oid)
            .map(|routine| {
                let types: Vec<String> = routine
                    .arguments
                    .iter()
                    .map(|argument| types::format_type(view, argument.pg_type.oid(), None))
                    .collect();
                format!(
                    "{}({})",
                    describe::relation_name(view, &routine.name),
                    types.join(",")
                )
            })
            .or_else(|| objects::function_name(view, oid)),
        Reg::Proc => objects::function_name(view, oid),
        Reg::Namespace => oids::NAMESPACES
            .into_iter()
            .find(|name| oids::namespace(name) == oid)
            .map(str::to_owned),
        Reg::Role => {
            database::role_name(view, oid).map(|name| crate::functions::quote_ident(&name))
        }
        Reg::Oper | Reg::Operator | Reg::Collation => None,
    };
    name.unwrap_or_else(|| oid.to_string())
}

fn serial_sequence(view: &View<'_>, table: &str, column: &str) -> Result<Value, SqlError> {
    let oid = read_reg(view, Reg::Class, table)?;
    let table = oids::id_of(oid).and_then(|(id, _)| view.catalog.table(CollectionId(id)));
    let Some(table) = table else {
        return Ok(Value::Null);
    };
    let (_, column) = table.expect_column(column)?;
    let sequence = column.sequence.and_then(|id| view.catalog.sequence(id));
    Ok(optional(sequence.map(|sequence| {
        format!(
            "{}.{}",
            crate::functions::quote_ident(&sequence.name.schema),
            crate::functions::quote_ident(&sequence.name.name)
        )
    })))
}

/// The catalog keeps expressions as text.
fn expression(view: &View<'_>, kept: &str, pretty: bool) -> String {
    let expression = qualified::expression(view, kept);
    if pretty {
        describe::unwrapped(&expression).to_owned()
    } else {
        expression.into_owned()
    }
}

/// Definitions as text.
fn definitions(view: &View<'_>, name: &str, args: &Args<'_, '_>) -> Option<Value> {
    let of = args.oid(0);
    Some(match name {
        "pg_get_expr" => text(expression(view, args.text(0), args.oid(2) == 1)),
        "pg_get_constraintdef" => optional(
            view.catalog
                .tables
                .values()
                .find_map(|table| {
                    describe::constraints(table)
                        .into_iter()
                        .find(|constraint| constraint.oid(table) == of)
                        .map(|constraint| constraint.definition(view, table, args.oid(1) == 1))
                })
                .or_else(|| {
                    let (id, _) = oids::id_of(of)?;
                    let (domain, _) = view.catalog.domain_check(id)?;
                    let checks = &domain.domain()?.checks;
                    let check = checks.iter().find(|check| check.id == id)?;
                    let text = describe::value_condition(&check.expression);
                    Some(format!("CHECK {text}"))
                }),
        ),
        "pg_get_indexdef" => {
            let Some((table, index)) = describe::index_by_oid(view, of) else {
                return Some(Value::Null);
            };
            match args.int(1).map(usize::try_from) {
                None | Some(Ok(0)) => {
                    text(describe::index_definition(table, &index, args.oid(2) == 1))
                }
                Some(Ok(number)) => {
                    optional(index.keys.get(number - 1).map(|key| key.text.as_str()))
                }
                Some(Err(_)) => Value::Null,
            }
        }
        "pg_get_viewdef" => {
            let of = match args.0.first() {
                Some(ValueRef::Text(name)) => find_relation(view, name).unwrap_or(0),
                _ => of,
            };
            let found = oids::id_of(of)
                .filter(|(_, part)| *part == 0)
                .and_then(|(id, _)| view.catalog.view(id));
            optional(found.map(|found| relations::view_definition(view, found)))
        }
        "pg_get_triggerdef" => optional(
            programs::trigger_by_oid(view, of)
                .and_then(|trigger| programs::trigger_definition(view, trigger, args.oid(1) == 1)),
        ),
        "pg_get_functiondef" => optional(
            programs::routine_by_oid(view, of).map(|routine| programs::definition(view, routine)),
        ),
        "pg_get_function_arguments" => optional(
            programs::routine_by_oid(view, of)
                .map(|routine| programs::arguments(view, routine, false)),
        ),
        "pg_get_function_identity_arguments" => optional(
            programs::routine_by_oid(view, of)
                .map(|routine| programs::arguments(view, routine, true)),
        ),
        "pg_get_function_result" => optional(
            programs::routine_by_oid(view, of).and_then(|routine| programs::result(view, routine)),
        ),
        "col_description" => {
            let comment = view.catalog.comment_on(1259, of, args.oid(1));
            optional(comment.map(|comment| comment.text.as_str()))
        }
        "obj_description" => {
            let class = match args.0.get(1) {
                Some(ValueRef::Text(class)) => {
                    super::resolve(Some("pg_catalog"), class).map(super::Relation::oid)
                }
                _ => None,
            };
            let comment = view.catalog.comments.values().find(|comment| {
                comment.object == of
                    && comment.sub == 0
                    && class.is_none_or(|class| class == comment.class)
            });
            let initial = (of == oids::NAMESPACE_PUBLIC).then_some(objects::COMMENT_OF_PUBLIC);
            optional(comment.map(|comment| comment.text.as_str()).or(initial))
        }
        "pg_get_ruledef"
        | "pg_get_function_sqlbody"
        | "pg_get_function_arg_default"
        | "pg_get_partkeydef"
        | "pg_get_partition_constraintdef"
        | "pg_get_statisticsobjdef"
        | "pg_get_statisticsobjdef_columns"
        | "pg_get_replica_identity_index"
        | "shobj_description" => Value::Null,
        "pg_get_userbyid" => {
            text(database::role_name(view, of).unwrap_or_else(|| format!("unknown (OID={of})")))
        }
        _ => return None,
    })
}

/// Where sequences are, and `acldefault`.
fn sequence(view: &View<'_>, name: &str, args: &Args<'_, '_>) -> Option<Value> {
    Some(match name {
        "pg_sequence_last_value" => match oids::id_of(args.oid(0)) {
            Some((id, part)) if part == Part::Itself as u32 => sequences::last_value(view, id),
            _ => Value::Null,
        },
        "sequence_last" => {
            let at = view.session.sequence(args.oid(0));
            at.map_or(Value::Null, |(last, _)| Value::Integer(last))
        }
        "sequence_called" => {
            let at = view.session.sequence(args.oid(0));
            at.map_or(Value::Null, |(_, called)| bool(called))
        }
        "acldefault" => {
            let owner = args.oid(1);
            let name = database::role_name(view, owner).unwrap_or_else(|| owner.to_string());
            acl::default_of(args.text(0), &name)
        }
        _ => return None,
    })
}

/// What is left.
fn facts(view: &View<'_>, name: &str, args: &Args<'_, '_>) -> Option<Value> {
    Some(match name {
        "pg_table_is_visible" => {
            optional_bool(relation_by_oid(view, args.oid(0)).map(|name| is_found(view, &name)))
        }
        "pg_type_is_visible" => {
            let found = oids::id_of(args.oid(0)).and_then(|(id, _)| {
                let table = view
                    .catalog
                    .table(CollectionId(id))
                    .map(|table| &table.name);
                table.or_else(|| view.catalog.view(id).map(|view| &view.name))
            });
            bool(found.is_none_or(|name| is_found(view, name)))
        }
        "pg_function_is_visible"
        | "pg_operator_is_visible"
        | "pg_opclass_is_visible"
        | "pg_opfamily_is_visible"
        | "pg_collation_is_visible"
        | "pg_conversion_is_visible"
        | "pg_statistics_obj_is_visible"
        | "pg_ts_config_is_visible"
        | "pg_ts_dict_is_visible"
        | "pg_ts_parser_is_visible"
        | "pg_ts_template_is_visible" => bool(true),
        "current_schemas" => {
            let mut path = describe::search_path(view);
            if args.oid(0) == 1 {
                path.insert(0, "pg_catalog".to_owned());
            }
            cell::texts(path)
        }
        // SQLite does not count pages by table.
        "pg_table_size"
        | "pg_relation_size"
        | "pg_total_relation_size"
        | "pg_indexes_size"
        | "pg_tablespace_size" => Value::Null,
        "pg_database_size" => {
            let own = match args.0.first() {
                Some(ValueRef::Text(name)) => {
                    view.session.setting("current_database").as_deref() == Some(*name)
                }
                _ => args.oid(0) == oids::database(view.session.database_id()),
            };
            own.then(|| view.session.database_bytes())
                .flatten()
                .map_or(Value::Null, Value::Integer)
        }
        "pg_size_pretty" => match args.0.first() {
            Some(ValueRef::Integer(bytes)) => text(pretty_size(*bytes)),
            _ => Value::Null,
        },
        "pg_index_column_has_property" => {
            let key = describe::index_by_oid(view, args.oid(0)).and_then(|(_, index)| {
                let place = usize::try_from(args.int(1)?).ok()?.checked_sub(1)?;
                let key = index.keys.get(place)?;
                Some((key.descending, key.nulls_first))
            });
            let Some((descending, nulls_first)) = key else {
                return Some(Value::Null);
            };
            bool(match args.text(2) {
                "asc" => !descending,
                "desc" => descending,
                "nulls_first" => nulls_first,
                "nulls_last" => !nulls_first,
                "orderable" | "returnable" | "search_array" | "search_nulls" => true,
                "distance_orderable" => false,
                _ => return Some(Value::Null),
            })
        }
        "pg_tablespace_location" => text(""),
        "pg_relation_filenode" => Value::Integer(args.oid(0).into()),
        "pg_encoding_to_char" => text(match args.int(0) {
            Some(6) => "UTF8",
            Some(0) => "SQL_ASCII",
            _ => "",
        }),
        "pg_char_to_encoding" => {
            let utf8 = matches!(
                args.text(0).to_ascii_lowercase().as_str(),
                "utf8" | "utf-8" | "unicode"
            );
            Value::Integer(if utf8 { 6 } else { -1 })
        }
        "pg_client_encoding" | "getdatabaseencoding" => text("UTF8"),
        "pg_is_in_recovery" => {
            bool(view.session.setting("in_hot_standby").as_deref() == Some("on"))
        }
        "pg_is_other_temp_schema" | "pg_relation_is_publishable" => bool(false),
        "pg_my_temp_schema" => Value::Integer(0),
        "pg_postmaster_start_time" => Value::Null,
        _ => return None,
    })
}

/// As PostgreSQL: a unit is used up to 10240 of it, and halves are rounded up.
fn pretty_size(bytes: i64) -> String {
    const LIMIT: u64 = 10 * 1024;
    let sign = if bytes < 0 { "-" } else { "" };
    let mut size = bytes.unsigned_abs();
    if size < LIMIT {
        return format!("{sign}{size} bytes");
    }
    // Kept at twice the value, so that the last bit says how to round.
    size >>= 9;
    for unit in ["kB", "MB", "GB", "TB"] {
        if size < LIMIT * 2 - 1 {
            return format!("{sign}{} {unit}", size.div_ceil(2));
        }
        size >>= 10;
    }
    format!("{sign}{} PB", size.div_ceil(2))
}

fn optional_bool(value: Option<bool>) -> Value {
    value.map_or(Value::Null, bool)
}

/// Whether a relation is what its bare name finds.
fn is_found(view: &View<'_>, name: &QualifiedName) -> bool {
    if name.schema == "pg_catalog" {
        return true;
    }
    let path = describe::search_path(view);
    super::resolve(None, &name.name).is_none()
        && path
            .iter()
            .find(|schema| view.catalog.resolve(Some(schema), &name.name).is_some())
            .is_some_and(|schema| *schema == name.schema)
}
