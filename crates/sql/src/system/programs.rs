//! Functions, triggers and policies as `pg_catalog` and `information_schema` show them, and the texts
//! that psql prints of them.

use std::fmt::Write as _;

use springhead_proto::SqlError;

use super::cell::{NULL, numbers, oid_array, row, texts};
use super::oids::{self, Part};
use super::{Row, View, acl, database, describe, types};
use crate::catalog::{
    Event, Language, Policy, PolicyCommand, Returns, Routine, Table, Timing, Trigger, Volatility,
};
use crate::functions::quote_ident;
use crate::types::PgType;

const RECORD: u32 = 2249;
const TRIGGER: u32 = 2279;

/// Routines by their ids.
pub(super) fn routines<'a>(view: &View<'a>) -> Vec<&'a Routine> {
    let mut all: Vec<_> = view.catalog.routines.values().map(|one| &**one).collect();
    all.sort_unstable_by_key(|routine| routine.id);
    all
}

/// Triggers by their ids.
pub(super) fn triggers<'a>(view: &View<'a>) -> Vec<&'a Trigger> {
    let mut all: Vec<_> = view.catalog.triggers.values().map(|one| &**one).collect();
    all.sort_unstable_by_key(|trigger| trigger.id);
    all
}

/// The routine with this object id.
pub(super) fn routine_by_oid<'a>(view: &View<'a>, oid: u32) -> Option<&'a Routine> {
    let (id, part) = oids::id_of(oid)?;
    (part == Part::Itself as u32)
        .then(|| view.catalog.routines.get(&id).map(|routine| &**routine))
        .flatten()
}

/// The trigger with this object id.
pub(super) fn trigger_by_oid<'a>(view: &View<'a>, oid: u32) -> Option<&'a Trigger> {
    let (id, part) = oids::id_of(oid)?;
    (part == Part::Itself as u32)
        .then(|| view.catalog.triggers.get(&id).map(|trigger| &**trigger))
        .flatten()
}

/// A policy's object id.
#[must_use]
pub fn policy_oid(table: &Table, policy: &Policy) -> u32 {
    oids::named("policy", &format!("{}.{}", table.id, policy.name))
}

fn kind(routine: &Routine) -> &'static str {
    if routine.procedure { "p" } else { "f" }
}

fn language_oid(language: Language) -> u32 {
    match language {
        Language::Sql => oids::LANGUAGE_SQL,
        Language::Plpgsql => oids::LANGUAGE_PLPGSQL,
    }
}

fn language(language: Language) -> &'static str {
    match language {
        Language::Sql => "sql",
        Language::Plpgsql => "plpgsql",
    }
}

fn returned(returns: &Returns) -> u32 {
    match returns {
        Returns::Void => PgType::Void.oid(),
        Returns::Trigger => TRIGGER,
        Returns::Scalar(ty) | Returns::Set(ty) => ty.oid(),
        Returns::Table(columns) => match columns.as_slice() {
            [(_, ty)] => ty.oid(),
            _ => RECORD,
        },
    }
}

/// The rows of `pg_proc` that users have made.
pub(super) fn procedures(view: &View<'_>, rows: &mut Vec<Row>) {
    for routine in routines(view) {
        let is_set = matches!(routine.returns, Returns::Set(_) | Returns::Table(_));
        let defaults = routine.arguments.iter().filter(|a| a.default.is_some());
        let defaults: Vec<&str> = defaults.filter_map(|a| a.default.as_deref()).collect();
        let own: Vec<i64> = routine
            .arguments
            .iter()
            .map(|argument| i64::from(argument.pg_type.oid()))
            .collect();
        let columns: &[(String, PgType)] = match &routine.returns {
            Returns::Table(columns) => columns,
            _ => &[],
        };
        let mut names: Vec<&str> = routine
            .arguments
            .iter()
            .map(|argument| argument.name.as_deref().unwrap_or_default())
            .collect();
        names.extend(columns.iter().map(|(name, _)| name.as_str()));
        let all = oid_array(
            own.iter()
                .copied()
                .chain(columns.iter().map(|(_, ty)| i64::from(ty.oid()))),
        );
        let modes = texts(own.iter().map(|_| "i").chain(columns.iter().map(|_| "t")));
        let is_table = !columns.is_empty();
        rows.push(row![
            oids::of(routine.id, Part::Itself),
            routine.name.name.as_str(),
            oids::namespace(&routine.name.schema),
            acl::owner_oid(view, &routine.access),
            language_oid(routine.language),
            100.0,
            if is_set { 1000.0 } else { 0.0 },
            0,
            0,
            kind(routine),
            routine.definer,
            false,
            routine.strict,
            is_set,
            match routine.volatility {
                Volatility::Immutable => "i",
                Volatility::Stable => "s",
                Volatility::Volatile => "v",
            },
            "u",
            i64::try_from(own.len()).unwrap_or(i64::MAX),
            i64::try_from(defaults.len()).unwrap_or(i64::MAX),
            returned(&routine.returns),
            numbers(own),
            is_table.then_some(all),
            is_table.then_some(modes),
            names
                .iter()
                .any(|name| !name.is_empty())
                .then(|| texts(&names)),
            (!defaults.is_empty()).then(|| defaults.join(", ")),
            NULL,
            routine.body.as_str(),
            NULL,
            NULL,
            NULL,
            acl::of_routine(routine),
        ]);
    }
}

fn type_name(view: &View<'_>, ty: &PgType) -> String {
    types::format_type(view, ty.oid(), None)
}

/// `pg_get_function_arguments`, or with `identity` the part that tells overloads apart.
pub(super) fn arguments(view: &View<'_>, routine: &Routine, identity: bool) -> String {
    let mut parts = Vec::with_capacity(routine.arguments.len());
    for argument in &routine.arguments {
        let mut part = String::new();
        // A procedure's arguments are shown with their mode.
        if routine.procedure {
            part.push_str("IN ");
        }
        if let Some(name) = &argument.name {
            let _ = write!(part, "{} ", quote_ident(name));
        }
        part.push_str(&type_name(view, &argument.pg_type));
        if let (Some(default), false) = (&argument.default, identity) {
            let _ = write!(
                part,
                " DEFAULT {}",
                describe::decorated(default, &argument.pg_type)
            );
        }
        parts.push(part);
    }
    parts.join(", ")
}

/// `pg_get_function_result`; nothing for a procedure.
pub(super) fn result(view: &View<'_>, routine: &Routine) -> Option<String> {
    if routine.procedure {
        return None;
    }
    Some(match &routine.returns {
        Returns::Void => "void".to_owned(),
        Returns::Trigger => "trigger".to_owned(),
        Returns::Scalar(ty) => type_name(view, ty),
        Returns::Set(ty) => format!("SETOF {}", type_name(view, ty)),
        Returns::Table(columns) => {
            let columns: Vec<String> = columns
                .iter()
                .map(|(name, ty)| format!("{} {}", quote_ident(name), type_name(view, ty)))
                .collect();
            format!("TABLE({})", columns.join(", "))
        }
    })
}

/// `pg_get_functiondef`.
pub(super) fn definition(view: &View<'_>, routine: &Routine) -> String {
    let mut out = format!(
        "CREATE OR REPLACE {} {}.{}({})\n",
        routine.kind().to_uppercase(),
        quote_ident(&routine.name.schema),
        quote_ident(&routine.name.name),
        arguments(view, routine, false)
    );
    if let Some(result) = result(view, routine) {
        let _ = writeln!(out, " RETURNS {result}");
    }
    let _ = writeln!(out, " LANGUAGE {}", language(routine.language));
    let mut traits = Vec::new();
    match routine.volatility {
        Volatility::Immutable => traits.push("IMMUTABLE"),
        Volatility::Stable => traits.push("STABLE"),
        Volatility::Volatile => {}
    }
    if routine.strict {
        traits.push("STRICT");
    }
    if routine.definer {
        traits.push("SECURITY DEFINER");
    }
    if !traits.is_empty() {
        let _ = writeln!(out, " {}", traits.join(" "));
    }
    let mut mark = routine.kind().to_owned();
    while routine.body.contains(&format!("${mark}$")) {
        mark.push('x');
    }
    let _ = writeln!(out, "AS ${mark}${}${mark}$", routine.body);
    out
}

fn type_bits(trigger: &Trigger) -> i32 {
    let mut bits = i32::from(trigger.each_row);
    bits |= match trigger.timing {
        Timing::Before => 2,
        Timing::After => 0,
        Timing::InsteadOf => 64,
    };
    for event in &trigger.events {
        bits |= match event {
            Event::Insert => 4,
            Event::Delete => 8,
            Event::Update => 16,
        };
    }
    bits
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn pg_trigger(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for trigger in triggers(view) {
        rows.push(row![
            oids::of(trigger.id, Part::Itself),
            oids::of(trigger.relation, Part::Itself),
            0,
            trigger.name.name.as_str(),
            oids::of(trigger.function, Part::Itself),
            type_bits(trigger),
            if trigger.disabled { "D" } else { "O" },
            false,
            0,
            0,
            0,
            false,
            false,
            i64::try_from(trigger.arguments.len()).unwrap_or(i64::MAX),
            numbers(trigger.update_of.iter().map(|&id| i64::from(id))),
            trigger.arguments.join(","),
            trigger.condition.as_deref(),
            NULL,
            NULL,
        ]);
    }
    Ok(())
}

/// Events in the order in which PostgreSQL prints them.
fn events(trigger: &Trigger) -> impl Iterator<Item = Event> {
    [Event::Insert, Event::Delete, Event::Update]
        .into_iter()
        .filter(|event| trigger.events.contains(event))
}

/// The relation's name, with its schema unless it is pretty.
fn relation_name(view: &View<'_>, id: u32, pretty: bool) -> Option<String> {
    let table = view.catalog.table(springhead_proto::CollectionId(id));
    let name = table
        .map(|table| &table.name)
        .or_else(|| view.catalog.view(id).map(|view| &view.name))?;
    Some(if pretty {
        describe::relation_name(view, name)
    } else {
        format!("{}.{}", quote_ident(&name.schema), quote_ident(&name.name))
    })
}

/// `pg_get_triggerdef`.
pub(super) fn trigger_definition(
    view: &View<'_>,
    trigger: &Trigger,
    pretty: bool,
) -> Option<String> {
    let table = view
        .catalog
        .table(springhead_proto::CollectionId(trigger.relation));
    let mut out = format!(
        "CREATE TRIGGER {} {}",
        quote_ident(&trigger.name.name),
        trigger.timing.word()
    );
    for (index, event) in events(trigger).enumerate() {
        let _ = write!(
            out,
            "{} {}",
            if index > 0 { " OR" } else { "" },
            event.word()
        );
        if event == Event::Update && !trigger.update_of.is_empty() {
            let columns: Vec<String> = trigger
                .update_of
                .iter()
                .filter_map(|&id| table?.column_by_id(id))
                .map(|(_, column)| quote_ident(&column.name))
                .collect();
            let _ = write!(out, " OF {}", columns.join(", "));
        }
    }
    let _ = write!(
        out,
        " ON {} FOR EACH {}",
        relation_name(view, trigger.relation, pretty)?,
        if trigger.each_row { "ROW" } else { "STATEMENT" }
    );
    if let Some(condition) = &trigger.condition {
        let condition = if pretty {
            describe::unwrapped(condition).to_owned()
        } else {
            describe::parenthesized(condition)
        };
        let _ = write!(out, " WHEN ({condition})");
    }
    let function = view.catalog.routines.get(&trigger.function)?;
    let arguments: Vec<String> = trigger
        .arguments
        .iter()
        .map(|text| crate::query::names::quote_text(text))
        .collect();
    let _ = write!(
        out,
        " EXECUTE FUNCTION {}({})",
        describe::relation_name(view, &function.name),
        arguments.join(", ")
    );
    Some(out)
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn pg_policy(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for policy in &table.access.policies {
            let roles = if policy.roles.is_empty() {
                oid_array([0])
            } else {
                oid_array(
                    policy
                        .roles
                        .iter()
                        .map(|role| i64::from(database::role_oid(view, role))),
                )
            };
            rows.push(row![
                policy_oid(table, policy),
                policy.name.as_str(),
                oids::table(table),
                match policy.command {
                    PolicyCommand::All => "*",
                    PolicyCommand::Select => "r",
                    PolicyCommand::Insert => "a",
                    PolicyCommand::Update => "w",
                    PolicyCommand::Delete => "d",
                },
                policy.permissive,
                roles,
                policy.using.as_deref().map(describe::parenthesized),
                policy.check.as_deref().map(describe::parenthesized),
            ]);
        }
    }
    Ok(())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn pg_policies(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for table in view.catalog.tables_by_id() {
        for policy in &table.access.policies {
            let roles = if policy.roles.is_empty() {
                texts(["public"])
            } else {
                texts(&policy.roles)
            };
            rows.push(row![
                table.name.schema.as_str(),
                table.name.name.as_str(),
                policy.name.as_str(),
                if policy.permissive {
                    "PERMISSIVE"
                } else {
                    "RESTRICTIVE"
                },
                roles,
                policy.command.word(),
                policy.using.as_deref().map(describe::parenthesized),
                policy.check.as_deref().map(describe::parenthesized),
            ]);
        }
    }
    Ok(())
}

fn current_database(view: &View<'_>) -> String {
    view.session.setting("current_database").unwrap_or_default()
}

/// `information_schema`'s name of a routine, which no other has.
fn specific_name(routine: &Routine) -> String {
    format!(
        "{}_{}",
        routine.name.name,
        oids::of(routine.id, Part::Itself)
    )
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn information_routines(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = current_database(view);
    for routine in routines(view) {
        let (data_type, udt) = match &routine.returns {
            _ if routine.procedure => (None, None),
            Returns::Void => (Some("void".to_owned()), Some("void".to_owned())),
            Returns::Trigger => (Some("trigger".to_owned()), Some("trigger".to_owned())),
            Returns::Scalar(ty) | Returns::Set(ty) => {
                let (data_type, _, udt) = super::user_types::type_names(ty);
                (Some(data_type.into_owned()), Some(udt))
            }
            Returns::Table(_) => (Some("record".to_owned()), Some("record".to_owned())),
        };
        rows.push(row![
            &database,
            routine.name.schema.as_str(),
            specific_name(routine),
            &database,
            routine.name.schema.as_str(),
            routine.name.name.as_str(),
            routine.kind().to_uppercase(),
            data_type,
            udt.as_ref().map(|_| database.clone()),
            udt.as_ref().map(|_| "pg_catalog"),
            udt,
            if routine.language == Language::Sql {
                "SQL"
            } else {
                "EXTERNAL"
            },
            routine.body.as_str(),
            language(routine.language).to_uppercase(),
            if routine.volatility == Volatility::Immutable {
                "YES"
            } else {
                "NO"
            },
            "MODIFIES",
            if routine.strict { "YES" } else { "NO" },
            "INVOKER",
        ]);
    }
    Ok(())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn information_parameters(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = current_database(view);
    for routine in routines(view) {
        for (position, argument) in (1..).zip(&routine.arguments) {
            let (data_type, schema, udt) = super::user_types::type_names(&argument.pg_type);
            rows.push(row![
                &database,
                routine.name.schema.as_str(),
                specific_name(routine),
                position,
                "IN",
                argument.name.as_deref(),
                data_type,
                &database,
                schema,
                udt,
                argument.default.as_deref(),
            ]);
        }
    }
    Ok(())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn information_triggers(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    let database = current_database(view);
    for trigger in triggers(view) {
        let Some(table) = relation_name(view, trigger.relation, true) else {
            continue;
        };
        let function = view.catalog.routines.get(&trigger.function);
        let action = format!(
            "EXECUTE FUNCTION {}({})",
            function.map_or_else(String::new, |of| describe::relation_name(view, &of.name)),
            trigger.arguments.join(", ")
        );
        for event in events(trigger) {
            let same = triggers(view).into_iter().filter(|other| {
                other.relation == trigger.relation
                    && other.timing == trigger.timing
                    && other.each_row == trigger.each_row
                    && other.events.contains(&event)
                    && other.name.name <= trigger.name.name
            });
            rows.push(row![
                &database,
                trigger.name.schema.as_str(),
                trigger.name.name.as_str(),
                event.word(),
                &database,
                "public",
                table.trim_matches('"'),
                i64::try_from(same.count()).unwrap_or(i64::MAX),
                trigger.condition.as_deref(),
                action.as_str(),
                if trigger.each_row { "ROW" } else { "STATEMENT" },
                trigger.timing.word(),
                NULL,
                NULL,
                NULL,
                NULL,
                NULL,
            ]);
        }
    }
    Ok(())
}
