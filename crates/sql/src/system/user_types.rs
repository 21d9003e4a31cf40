//! Enums and domains as `pg_catalog` and `information_schema` show them.

use std::borrow::Cow;

use springhead_proto::SqlError;

use super::cell::{NULL, row};
use super::oids::{self, Part};
use super::types::{BASE, Entry, PLAIN, array_of, collation, layout};
use super::{Row, View};
use crate::catalog::{Check, UserType, UserTypeKind};
use crate::query::output_name::internal_name;
use crate::types::PgType;

/// An enum's or a domain's own type, and the array over it.
pub(super) fn user_type(of: &UserType, rows: &mut Vec<Row>) {
    let (oid, array) = (
        oids::of(of.id, Part::RowType),
        oids::of(of.id, Part::ArrayType),
    );
    let namespace = oids::namespace(&of.name.schema);
    let own = Entry {
        oid,
        name: of.name.name.clone(),
        namespace,
        array,
        ..PLAIN
    };
    let collation = match &of.kind {
        UserTypeKind::Enum(_) => {
            rows.push(
                Entry {
                    len: 4,
                    kind: "e",
                    category: "E",
                    io: "enum_",
                    storage: "p",
                    ..own
                }
                .row(),
            );
            0
        }
        UserTypeKind::Domain(domain) => {
            let base = domain.base.of_value();
            let io = BASE
                .iter()
                .find(|entry| entry.oid == base.oid())
                .map_or("enum_", |entry| entry.io);
            let (align, storage) = layout(&base);
            let category = match base.category() {
                crate::types::Category::Array => "A",
                crate::types::Category::Boolean => "B",
                crate::types::Category::DateTime => "D",
                crate::types::Category::Enum => "E",
                crate::types::Category::Numeric => "N",
                crate::types::Category::String => "S",
                crate::types::Category::Timespan => "T",
                _ => "U",
            };
            rows.push(
                Entry {
                    len: base.size(),
                    kind: "d",
                    category,
                    io,
                    align,
                    storage,
                    not_null: domain.not_null.is_some(),
                    base_type: domain.base.oid(),
                    typmod: domain.base.typmod(),
                    collation: collation(&base),
                    default: domain.default.clone(),
                    ..own
                }
                .row(),
            );
            collation(&base)
        }
    };
    rows.push(array_of(array, oid, &of.name.name, namespace, collation));
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn pg_enum(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let mut types: Vec<_> = view.catalog.types.values().collect();
    types.sort_unstable_by_key(|of| of.id);
    for of in types {
        let UserTypeKind::Enum(labels) = &of.kind else {
            continue;
        };
        let mut order = 0.0;
        for label in labels {
            order += 1.0;
            rows.push(row![
                oids::named("enum label", &format!("{}.{label}", of.id)),
                oids::of(of.id, Part::RowType),
                order,
                label.as_str(),
            ]);
        }
    }
    Ok(())
}

/// The underlying type: a domain's base, with the modifiers that it has.
pub(super) fn underlying(ty: &PgType) -> PgType {
    match ty {
        PgType::Domain(user) => underlying(user.base()),
        other => other.clone(),
    }
}

/// `data_type`, `udt_schema` and `udt_name`.
pub(super) fn type_names(ty: &PgType) -> (Cow<'static, str>, &'static str, String) {
    match ty {
        PgType::Enum(user) => ("USER-DEFINED".into(), "public", user.name().to_owned()),
        PgType::Array(element) => {
            let (_, schema, name) = type_names(element);
            ("ARRAY".into(), schema, format!("_{name}"))
        }
        other => (
            other.base_name(),
            "pg_catalog",
            internal_name(other).to_owned(),
        ),
    }
}

fn sorted_types<'a>(view: &View<'a>) -> Vec<&'a UserType> {
    let mut types: Vec<_> = view.catalog.types.values().map(|of| &**of).collect();
    types.sort_unstable_by_key(|of| of.id);
    types
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn domains(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = view.session.setting("current_database").unwrap_or_default();
    for of in sorted_types(view) {
        let Some(domain) = of.domain() else { continue };
        let (data_type, schema, name) = type_names(&underlying(&domain.base));
        rows.push(row![
            &database,
            &of.name.schema,
            &of.name.name,
            data_type,
            domain.default.as_deref(),
            &database,
            schema,
            name,
        ]);
    }
    Ok(())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn domain_constraints(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = view.session.setting("current_database").unwrap_or_default();
    for of in sorted_types(view) {
        let Some(domain) = of.domain() else { continue };
        for check in &domain.checks {
            rows.push(row![
                &database,
                &of.name.schema,
                &check.name,
                &database,
                &of.name.schema,
                &of.name.name,
                "NO",
                "NO",
            ]);
        }
    }
    Ok(())
}

/// The rows of `pg_constraint` that are about domains.
pub(super) fn constraints(view: &View<'_>, rows: &mut Vec<Row>) {
    for of in sorted_types(view) {
        for check in of.domain().iter().flat_map(|domain| &domain.checks) {
            rows.push(domain_check_row(of, check));
        }
    }
}

fn domain_check_row(of: &UserType, check: &Check) -> Row {
    row![
        oids::of(check.id, Part::Itself),
        check.name.as_str(),
        oids::namespace(&of.name.schema),
        "c",
        false,
        false,
        true,
        0,
        oids::of(of.id, Part::RowType),
        0,
        0,
        0,
        " ",
        " ",
        " ",
        true,
        0,
        false,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        check.expression.as_str(),
    ]
}
