//! Definitions as text: what `pg_get_constraintdef`, `pg_get_indexdef` and their kin print, and
//! names as they are shown.

use springhead_proto::CollectionId;

use super::oids::{self, Part};
use super::{View, qualified};
use crate::catalog::{Check, Column, ForeignKey, QualifiedName, ReferentialAction, Table, Unique};
use crate::functions::quote_ident;
use crate::types::PgType;

/// An index, whatever made it.
pub(super) struct IndexView<'a> {
    pub(super) oid: u32,
    pub(super) name: &'a str,
    pub(super) unique: bool,
    pub(super) primary: bool,
    pub(super) nulls_not_distinct: bool,
    pub(super) method: &'a str,
    pub(super) keys: Vec<Key<'a>>,
    pub(super) predicate: Option<&'a str>,
}

/// One key of an index.
pub(super) struct Key<'a> {
    pub(super) column: Option<&'a Column>,
    /// As it is printed, without its order.
    pub(super) text: String,
    pub(super) descending: bool,
    pub(super) nulls_first: bool,
}

impl Key<'_> {
    /// `pg_index.indoption`.
    pub(super) fn options(&self) -> i64 {
        i64::from(self.descending) | i64::from(self.nulls_first) << 1
    }

    /// Its order, as far as it is not the default.
    fn order(&self) -> &'static str {
        match (self.descending, self.nulls_first) {
            (false, false) => "",
            (false, true) => " NULLS FIRST",
            (true, true) => " DESC",
            (true, false) => " DESC NULLS LAST",
        }
    }
}

/// A table's constraint.
pub(super) enum ConstraintView<'a> {
    Primary { name: &'a str },
    Unique(&'a Unique),
    Check(&'a Check),
    Foreign(&'a ForeignKey),
}

/// The indexes of a table: its key's, its unique constraints', the others.
pub(super) fn indexes(table: &Table) -> Vec<IndexView<'_>> {
    let columns = |ids: &[u32]| -> Vec<Key<'_>> {
        ids.iter()
            .filter_map(|&id| table.column_by_id(id))
            .map(|(_, column)| Key {
                column: Some(column),
                text: quote_ident(&column.name),
                descending: false,
                nulls_first: false,
            })
            .collect()
    };
    let mut all = Vec::new();
    if let Some(name) = &table.key_name {
        all.push(IndexView {
            oid: oids::of(table.id, Part::PrimaryKey),
            name,
            unique: true,
            primary: true,
            nulls_not_distinct: false,
            method: "btree",
            keys: columns(&table.key_ids()),
            predicate: None,
        });
    }
    for unique in &table.uniques {
        all.push(IndexView {
            oid: oids::of(unique.index_id, Part::Itself),
            name: &unique.name,
            unique: true,
            primary: false,
            nulls_not_distinct: unique.nulls_not_distinct,
            method: "btree",
            keys: columns(&unique.columns),
            predicate: None,
        });
    }
    for index in &table.indexes {
        all.push(IndexView {
            oid: oids::of(index.id, Part::Itself),
            name: &index.name,
            unique: index.unique,
            primary: false,
            nulls_not_distinct: false,
            method: &index.method,
            keys: index.keys.iter().map(|key| key_of(table, key)).collect(),
            predicate: index.predicate.as_deref(),
        });
    }
    all
}

/// A key from its text, `"Name" DESC NULLS LAST`.
fn key_of<'a>(table: &'a Table, text: &str) -> Key<'a> {
    let mut rest = text.trim();
    let mut nulls = None;
    for (words, first) in [(" NULLS FIRST", true), (" NULLS LAST", false)] {
        if let Some(before) = rest.strip_suffix(words) {
            rest = before;
            nulls = Some(first);
        }
    }
    let descending = match rest.strip_suffix(" DESC") {
        Some(before) => {
            rest = before;
            true
        }
        None => {
            rest = rest.strip_suffix(" ASC").unwrap_or(rest);
            false
        }
    };
    let column = match split_name(rest).as_deref() {
        Some([name]) => table.column_named(name).map(|(_, column)| column),
        _ => None,
    };
    let text = match column {
        Some(column) => quote_ident(&column.name),
        None if is_call(rest) => rest.to_owned(),
        None => parenthesized(rest),
    };
    Key {
        column,
        text,
        descending,
        nulls_first: nulls.unwrap_or(descending),
    }
}

/// Whether a text is one function call and nothing more.
fn is_call(text: &str) -> bool {
    let Some(open) = text.find('(') else {
        return false;
    };
    let is_name = text[..open]
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    open > 0 && is_name && encloses(&text[open..])
}

/// Whether the first parenthesis is closed by the last character.
fn encloses(text: &str) -> bool {
    let (mut depth, mut quote) = (0usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1 == text.len();
                }
            }
            _ => {}
        }
    }
    false
}

/// Without the parentheses around all of it.
pub(super) fn unwrapped(text: &str) -> &str {
    if text.starts_with('(') && encloses(text) {
        &text[1..text.len() - 1]
    } else {
        text
    }
}

/// A domain's condition, its value written as PostgreSQL does.
pub(super) fn value_condition(text: &str) -> String {
    parenthesized(&parenthesized(text))
}

pub(super) fn parenthesized(text: &str) -> String {
    if text.starts_with('(') && encloses(text) {
        text.to_owned()
    } else {
        format!("({text})")
    }
}

/// `pg_get_indexdef(index)`.
pub(super) fn index_definition(table: &Table, index: &IndexView<'_>, pretty: bool) -> String {
    let keys: Vec<String> = index
        .keys
        .iter()
        .map(|key| format!("{}{}", key.text, key.order()))
        .collect();
    let mut text = format!(
        "CREATE {}INDEX {} ON {}.{} USING {} ({})",
        if index.unique { "UNIQUE " } else { "" },
        quote_ident(index.name),
        quote_ident(&table.name.schema),
        quote_ident(&table.name.name),
        index.method,
        keys.join(", ")
    );
    if index.nulls_not_distinct {
        text.push_str(" NULLS NOT DISTINCT");
    }
    if let Some(predicate) = index.predicate {
        let predicate = if pretty {
            unwrapped(predicate).to_owned()
        } else {
            parenthesized(predicate)
        };
        text.push_str(&format!(" WHERE {predicate}"));
    }
    text
}

/// The constraints of a table.
pub(super) fn constraints(table: &Table) -> Vec<ConstraintView<'_>> {
    let mut all = Vec::new();
    all.extend(
        table
            .key_name
            .as_deref()
            .map(|name| ConstraintView::Primary { name }),
    );
    all.extend(table.uniques.iter().map(ConstraintView::Unique));
    all.extend(table.checks.iter().map(ConstraintView::Check));
    all.extend(table.foreign_keys.iter().map(ConstraintView::Foreign));
    all
}

impl ConstraintView<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            ConstraintView::Primary { name } => name,
            ConstraintView::Unique(unique) => &unique.name,
            ConstraintView::Check(check) => &check.name,
            ConstraintView::Foreign(key) => &key.name,
        }
    }

    pub(super) fn oid(&self, table: &Table) -> u32 {
        match self {
            ConstraintView::Primary { .. } => oids::of(table.id, Part::PrimaryKey),
            ConstraintView::Unique(unique) => oids::of(unique.index_id, Part::Itself),
            ConstraintView::Check(check) => oids::of(check.id, Part::Itself),
            ConstraintView::Foreign(key) => oids::foreign_key(table, &key.name),
        }
    }

    /// `pg_constraint.contype`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            ConstraintView::Primary { .. } => "p",
            ConstraintView::Unique(_) => "u",
            ConstraintView::Check(_) => "c",
            ConstraintView::Foreign(_) => "f",
        }
    }

    /// The columns of its own table that it is on, by id.
    pub(super) fn columns(&self, table: &Table) -> Vec<u32> {
        match self {
            ConstraintView::Primary { .. } => table.key_ids(),
            ConstraintView::Unique(unique) => unique.columns.clone(),
            ConstraintView::Foreign(key) => key.columns.clone(),
            ConstraintView::Check(check) => table
                .visible_columns()
                .filter(|(_, column)| crate::ddl::mentions(&check.expression, &column.name))
                .map(|(_, column)| column.id)
                .collect(),
        }
    }

    /// `pg_get_constraintdef(constraint)`.
    pub(super) fn definition(&self, view: &View<'_>, table: &Table, pretty: bool) -> String {
        match self {
            ConstraintView::Primary { .. } => {
                format!("PRIMARY KEY ({})", column_list(table, &table.key_ids()))
            }
            ConstraintView::Unique(unique) => format!(
                "UNIQUE {}({})",
                if unique.nulls_not_distinct {
                    "NULLS NOT DISTINCT "
                } else {
                    ""
                },
                column_list(table, &unique.columns)
            ),
            ConstraintView::Check(check) if pretty || is_call(&check.expression) => {
                format!("CHECK ({})", unwrapped(&check.expression))
            }
            ConstraintView::Check(check) => {
                let condition = qualified::expression(view, &check.expression);
                format!("CHECK ({})", parenthesized(&condition))
            }
            ConstraintView::Foreign(key) => foreign_key_definition(view, table, key),
        }
    }
}

fn foreign_key_definition(view: &View<'_>, table: &Table, key: &ForeignKey) -> String {
    let Some(parent) = view.catalog.table(CollectionId(key.parent)) else {
        return String::new();
    };
    let mut text = format!(
        "FOREIGN KEY ({}) REFERENCES {}({})",
        column_list(table, &key.columns),
        relation_name(view, &parent.name),
        column_list(parent, &key.parent_columns)
    );
    for (event, action) in [("UPDATE", key.on_update), ("DELETE", key.on_delete)] {
        if action != ReferentialAction::NoAction {
            text.push_str(&format!(" ON {event} {}", action_words(action)));
        }
    }
    if key.deferrable {
        text.push_str(" DEFERRABLE");
    }
    if key.initially_deferred {
        text.push_str(" INITIALLY DEFERRED");
    }
    text
}

/// `CASCADE`, as it is written.
pub(super) const fn action_words(action: ReferentialAction) -> &'static str {
    match action {
        ReferentialAction::NoAction => "NO ACTION",
        ReferentialAction::Restrict => "RESTRICT",
        ReferentialAction::Cascade => "CASCADE",
        ReferentialAction::SetNull => "SET NULL",
        ReferentialAction::SetDefault => "SET DEFAULT",
    }
}

fn column_list(table: &Table, ids: &[u32]) -> String {
    let names: Vec<String> = table
        .column_names(ids)
        .into_iter()
        .map(quote_ident)
        .collect();
    names.join(", ")
}

/// A column's default as `pg_get_expr` prints it; of a generated column its expression.
pub(super) fn default_text(view: &View<'_>, column: &Column) -> Option<String> {
    if let Some(generated) = &column.generated {
        return Some(if is_call(generated) {
            generated.clone()
        } else {
            parenthesized(generated)
        });
    }
    if let Some(id) = column.sequence {
        if column.identity {
            return None;
        }
        let sequence = view.catalog.sequence(id)?;
        let name = relation_name(view, &sequence.name);
        return Some(format!("nextval('{}'::regclass)", name.replace('\'', "''")));
    }
    let text = column.default.as_deref()?;
    Some(decorated(text, &column.pg_type))
}

/// PostgreSQL shows a string constant with the type that it was read as.
pub(super) fn decorated(text: &str, ty: &PgType) -> String {
    let is_string = |text: &str| {
        text.len() >= 2
            && text.starts_with('\'')
            && text.ends_with('\'')
            && !text[1..text.len() - 1].replace("''", "").contains('\'')
    };
    if is_string(text) {
        return format!("{text}::{}", ty.base_name());
    }
    // Types are kept as they are printed here, in capitals; a user's own type is kept as it was written.
    if let Some((constant, named)) = text.rsplit_once("::")
        && is_string(constant)
        && named.bytes().all(|b| b.is_ascii_uppercase() || b == b' ')
    {
        return format!("{constant}::{}", named.to_ascii_lowercase());
    }
    let is_negative = text
        .strip_prefix('-')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    if is_negative {
        let number = if *ty == PgType::Int8 {
            "bigint"
        } else {
            "integer"
        };
        return format!("'{text}'::{number}");
    }
    text.to_owned()
}

/// A relation's name as it must be written to be found: with its schema if that is not in the
/// search path.
pub(super) fn relation_name(view: &View<'_>, name: &QualifiedName) -> String {
    if is_visible(view, &name.schema) {
        quote_ident(&name.name)
    } else {
        format!("{}.{}", quote_ident(&name.schema), quote_ident(&name.name))
    }
}

/// Whether a schema is in the search path.
pub(super) fn is_visible(view: &View<'_>, schema: &str) -> bool {
    schema == "pg_catalog" || search_path(view).iter().any(|part| part == schema)
}

/// The schemas of the search path that exist, without the implicit one.
pub(super) fn search_path(view: &View<'_>) -> Vec<String> {
    let path = view
        .session
        .setting("search_path")
        .unwrap_or_else(|| "public".to_owned());
    path.split(',')
        .map(|part| part.trim().trim_matches('"').to_owned())
        .filter(|part| oids::namespace(part) != 0)
        .collect()
}

/// A dotted name as it is written; `None` if it is no name.
pub(super) fn split_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next()? {
                    (_, '"') if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                        name.push('"');
                        chars.next();
                    }
                    (at, '"') => break at,
                    (_, c) => name.push(c),
                }
            };
            parts.push(name);
            rest = &quoted[end + 1..];
        } else {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$')))
                .unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            parts.push(rest[..end].to_ascii_lowercase());
            rest = &rest[end..];
        }
        rest = rest.trim_start();
        match rest.strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// An index by its object id, with its table.
pub(super) fn index_by_oid<'a>(view: &View<'a>, oid: u32) -> Option<(&'a Table, IndexView<'a>)> {
    view.catalog.tables.values().find_map(|table| {
        indexes(table)
            .into_iter()
            .find(|index| index.oid == oid)
            .map(|index| (&**table, index))
    })
}

/// An access method's object id.
pub(super) fn method_oid(method: &str) -> u32 {
    match method {
        "hash" => 405,
        "gist" => 783,
        "gin" => 2742,
        "brin" => 3580,
        "spgist" => 4000,
        _ => oids::AM_BTREE,
    }
}
