//! What names mean inside one query: its FROM items, its columns, its grouping.

use std::cell::Cell;
use std::rc::Rc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{self, Ident};
use sqlparser::tokenizer::Location;

use crate::catalog::Column;
use crate::types::PgType;

use super::Analyzer;
use super::names::fold;
use super::typed::{Node, Typed};

/// A query's names. Inner queries see those of outer ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// FROM items by their aliases.
    pub(crate) relations: Vec<Relation>,
    /// The columns that can be named alone, in the order of `*`; a column merged by USING is there
    /// once.
    pub(crate) columns: Vec<ScopeColumn>,
    /// Common table expressions.
    pub(crate) ctes: Vec<Cte>,
    /// Set while a grouped query's outputs are analyzed.
    pub(crate) grouping: Option<Grouping>,
    /// Whether an aggregate has been found in this query.
    pub(crate) has_aggregates: bool,
    pub(crate) has_windows: bool,
    /// Inside an aggregate's arguments.
    pub(crate) in_aggregate: bool,
    /// Inside a window function's call.
    pub(crate) in_window: bool,
    /// Where aggregates and window functions may not be; the place's name for errors.
    pub(crate) aggregates_refused: Option<&'static str>,
    pub(crate) windows_refused: Option<&'static str>,
    pub(crate) windows: Vec<sqlparser::ast::NamedWindowDefinition>,
    /// Set-returning calls of the select list, and what they became.
    pub(crate) sets: Vec<(sqlparser::ast::Function, ScopeColumn)>,
    /// The scope of a program's variables or a function's arguments.
    pub(crate) is_frame: bool,
    /// Names inside are not to be looked for in the queries around it.
    pub(crate) closed: bool,
}

/// The variables that a program's statement sees, or the arguments of a function being written out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    pub(crate) scope: Scope,
    /// `$1`, …
    pub(crate) parameters: Vec<ScopeColumn>,
    /// A name that is a variable's and a column's is an error, as in PL/pgSQL.
    pub(crate) strict_names: bool,
}

/// A FROM item.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    /// The name that columns are qualified by.
    pub(crate) alias: String,
    /// Its schema, where it is a table under its own name.
    pub(crate) schema: Option<String>,
    /// Its alias in the SQLite statement.
    pub(crate) id: String,
    pub(crate) columns: Vec<ScopeColumn>,
    /// SQLite texts of the primary key's columns; empty if there is none.
    pub(crate) key: Vec<String>,
    /// A function of one column: its name alone is that column.
    pub(crate) is_scalar: bool,
    /// What its `tableoid` is, if it is a table.
    pub(crate) table_oid: Option<u32>,
}

/// A column that can be named.
#[derive(Debug, Clone)]
pub(crate) struct ScopeColumn {
    pub(crate) name: String,
    pub(crate) sql: String,
    pub(crate) ty: PgType,
    pub(crate) nullable: bool,
    pub(crate) origin: Option<(CollectionId, u32)>,
    /// Of a relation that permission is needed for: set once the column is used.
    pub(crate) used: Option<Used>,
}

/// Whether a column has been used.
pub(crate) type Used = Rc<Cell<bool>>;

/// A common table expression.
#[derive(Debug, Clone)]
pub(crate) struct Cte {
    pub(crate) name: String,
    /// Its name in the SQLite statement.
    pub(crate) id: String,
    pub(crate) columns: Vec<ScopeColumn>,
}

/// A grouped query's keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grouping {
    /// SQLite texts of the expressions grouped by, before key functions.
    pub(crate) keys: Vec<String>,
    /// SQLite aliases of relations whose whole primary key is grouped by.
    pub(crate) determined: Vec<String>,
    /// Columns used that are neither, with what is to be said about them.
    pub(crate) ungrouped: Vec<(String, Location)>,
}

impl ScopeColumn {
    /// The column in use.
    pub(crate) fn typed(&self) -> Typed {
        if let Some(used) = &self.used {
            used.set(true);
        }
        Typed {
            node: Node::Sql(self.sql.clone()),
            ty: self.ty.clone(),
            nullable: self.nullable,
            origin: self.origin,
            place: Location::empty(),
        }
    }
}

/// `tableoid`, which `*` does not show.
fn table_oid_column(oid: u32) -> ScopeColumn {
    ScopeColumn {
        name: "tableoid".to_owned(),
        sql: oid.to_string(),
        ty: PgType::Oid,
        nullable: false,
        origin: None,
        used: None,
    }
}

/// What was found, in which scope, and how the user would name it in full.
struct Found {
    scope: usize,
    column: ScopeColumn,
    relation: Option<String>,
    full_name: String,
}

impl Analyzer<'_> {
    pub(crate) fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        self.scopes
            .last_mut()
            .expect("one has just been pushed if there was none")
    }

    /// Runs `analyze` with one more scope inside.
    pub(crate) fn in_scope<T>(
        &mut self,
        scope: Scope,
        analyze: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.scopes.push(scope);
        let result = self.nested(analyze);
        self.scopes.pop();
        result
    }

    /// The common table expression of that name, innermost first.
    pub(crate) fn cte(&self, name: &str) -> Option<&Cte> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.ctes.iter().rev().find(|cte| cte.name == name))
    }

    /// A column by its name alone.
    pub(crate) fn column(&mut self, ident: &Ident) -> Result<Typed, SqlError> {
        let name = fold(ident);
        let mut found = None;
        for (index, scope) in self.scopes.iter().enumerate().rev() {
            let mut matching = scope.columns.iter().filter(|column| column.name == name);
            if let Some(column) = matching.next() {
                if matching.next().is_some() {
                    let error = SqlError::new(
                        ErrorCode::AmbiguousColumn,
                        format!("column reference \"{name}\" is ambiguous"),
                    );
                    return Err(self.at(error, ident.span.start));
                }
                let owner = scope
                    .relations
                    .iter()
                    .find(|relation| relation.columns.iter().any(|c| c.sql == column.sql));
                found = Some(Found {
                    scope: index,
                    column: column.clone(),
                    relation: owner.map(|relation| relation.id.clone()),
                    full_name: match owner {
                        Some(relation) => format!("{}.{name}", relation.alias),
                        None => name.clone(),
                    },
                });
                break;
            }
            if scope.closed {
                break;
            }
        }
        if let (Some(found), Some(frame)) = (&found, &self.frame)
            && frame.strict_names
            && !self.scopes[found.scope].is_frame
            && self.expanding.is_empty()
            && frame.scope.columns.iter().any(|column| column.name == name)
        {
            let error = SqlError::new(
                ErrorCode::AmbiguousColumn,
                format!("column reference \"{name}\" is ambiguous"),
            )
            .with_detail("It could refer to either a PL/pgSQL variable or a table column.");
            return Err(self.at(error, ident.span.start));
        }
        match found {
            Some(found) => Ok(self.use_column(found, ident.span.start)),
            None => {
                let scalar = self.scopes.iter().rev().find_map(|scope| {
                    let relation = scope
                        .relations
                        .iter()
                        .find(|r| r.alias == name && r.is_scalar)?;
                    relation.columns.first()
                });
                if let Some(column) = scalar {
                    return Ok(column.typed().placed(ident.span.start));
                }
                if name == "tableoid"
                    && let Some(column) = self.lone_table_oid()
                {
                    return Ok(column.typed().placed(ident.span.start));
                }
                Err(self.at(self.no_column(&name), ident.span.start))
            }
        }
    }

    fn no_column(&self, name: &str) -> SqlError {
        let is_relation = self
            .scopes
            .iter()
            .any(|scope| scope.relations.iter().any(|r| r.alias == name));
        if is_relation {
            return SqlError::unsupported(format_args!("the whole row \"{name}\" as a value"));
        }
        if is_system_column(name) && self.scopes.iter().any(|s| !s.relations.is_empty()) {
            return SqlError::unsupported(format_args!("the system column \"{name}\""));
        }
        let error = SqlError::new(
            ErrorCode::UndefinedColumn,
            format!("column \"{name}\" does not exist"),
        );
        match self.similar_column(name) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// What `tableoid` is without its table: that of the innermost query's only one.
    fn lone_table_oid(&self) -> Option<ScopeColumn> {
        let scope = self.scopes.iter().rev().find(|s| !s.relations.is_empty())?;
        let mut oids = scope.relations.iter().filter_map(|r| r.table_oid);
        match (oids.next(), oids.next()) {
            (Some(oid), None) => Some(table_oid_column(oid)),
            _ => None,
        }
    }

    /// PostgreSQL's hint where the column exists, but cannot be named from here.
    fn similar_column(&self, name: &str) -> Option<String> {
        self.scopes.iter().rev().flat_map(|scope| &scope.relations).find_map(|relation| {
            relation.columns.iter().any(|column| column.name == name).then(|| {
                format!(
                    "There is a column named \"{name}\" in table \"{}\", but it cannot be referenced from this part of the query.",
                    relation.alias
                )
            })
        })
    }

    /// A column by its table and its name.
    pub(crate) fn qualified_column(&mut self, idents: &[Ident]) -> Result<Typed, SqlError> {
        let (schema, table, name_ident) = match idents {
            [table, name] => (None, table, name),
            [schema, table, name] | [_, schema, table, name] => (Some(fold(schema)), table, name),
            _ => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "improper qualified name (too many dotted names)",
                ));
            }
        };
        let (alias, name) = (fold(table), fold(name_ident));
        let place = idents
            .first()
            .map_or(Location::empty(), |ident| ident.span.start);
        let mut found = None;
        for (index, scope) in self.scopes.iter().enumerate().rev() {
            let relation = scope.relations.iter().find(|relation| {
                relation.alias == alias
                    && schema
                        .as_ref()
                        .is_none_or(|schema| relation.schema.as_ref() == Some(schema))
            });
            if let Some(relation) = relation {
                let hidden = relation
                    .table_oid
                    .filter(|_| name == "tableoid")
                    .map(table_oid_column)
                    .or_else(|| self.crdt_state(relation, &name));
                let Some(column) = relation
                    .columns
                    .iter()
                    .find(|column| column.name == name)
                    .or(hidden.as_ref())
                else {
                    let error = if is_system_column(&name) {
                        SqlError::unsupported(format_args!("the system column \"{name}\""))
                    } else {
                        SqlError::new(
                            ErrorCode::UndefinedColumn,
                            format!("column {alias}.{name} does not exist"),
                        )
                    };
                    return Err(self.at(error, place));
                };
                found = Some(Found {
                    scope: index,
                    column: column.clone(),
                    relation: Some(relation.id.clone()),
                    full_name: format!("{alias}.{name}"),
                });
                break;
            }
            if scope.closed {
                break;
            }
        }
        match found {
            Some(found) => Ok(self.use_column(found, place)),
            None => {
                let error = SqlError::new(
                    ErrorCode::UndefinedTable,
                    format!("missing FROM-clause entry for table \"{alias}\""),
                );
                Err(self.at(error, place))
            }
        }
    }

    /// The state of a table's CRDT column, which `*` does not show: `t."name$crdt"`, for whoever may
    /// read the column.
    fn crdt_state(&self, relation: &Relation, name: &str) -> Option<ScopeColumn> {
        let shown = name.strip_suffix(Column::CRDT_STATE)?;
        relation.table_oid?;
        let column = relation
            .columns
            .iter()
            .find(|column| column.name == shown)?;
        let (table, id) = column.origin?;
        let table = self.catalog.table(table)?;
        let (_, found) = table.column_by_id(id)?;
        let (_, state) = table.column_by_id(found.crdt?.state)?;
        let of_relation = column
            .sql
            .strip_suffix(&format!("\"{}\"", found.storage_name()))?;
        Some(ScopeColumn {
            name: name.to_owned(),
            sql: format!("{of_relation}\"{}\"", state.storage_name()),
            ty: PgType::Bytea,
            nullable: true,
            origin: None,
            used: column.used.clone(),
        })
    }

    /// Notes where a grouped query uses a column that it is not grouped by.
    fn use_column(&mut self, found: Found, place: Location) -> Typed {
        let Found {
            scope,
            column,
            relation,
            full_name,
        } = found;
        let scope = &mut self.scopes[scope];
        if let Some(grouping) = &mut scope.grouping
            && !scope.in_aggregate
            && !grouping.keys.contains(&column.sql)
            && !relation.is_some_and(|relation| grouping.determined.contains(&relation))
        {
            grouping.ungrouped.push((full_name, place));
        }
        column.typed().placed(place)
    }

    /// How many ungrouped columns each scope has noted.
    pub(crate) fn ungrouped_marks(&self) -> Vec<usize> {
        self.scopes
            .iter()
            .map(|scope| {
                scope
                    .grouping
                    .as_ref()
                    .map_or(0, |grouping| grouping.ungrouped.len())
            })
            .collect()
    }

    /// If `sql` is an expression that its query is grouped by, the columns inside are accounted for.
    pub(crate) fn settle_grouped(&mut self, sql: &str, marks: &[usize]) {
        for (scope, &mark) in self.scopes.iter_mut().zip(marks) {
            if let Some(grouping) = &mut scope.grouping
                && grouping.ungrouped.len() > mark
                && grouping.keys.iter().any(|key| key == sql)
            {
                grouping.ungrouped.truncate(mark);
            }
        }
    }

    /// 42803 for the first ungrouped column of the innermost query.
    pub(crate) fn check_grouping(&mut self) -> Result<(), SqlError> {
        let first = self
            .scope()
            .grouping
            .as_ref()
            .and_then(|grouping| grouping.ungrouped.first().cloned());
        match first {
            None => Ok(()),
            Some((name, place)) => {
                let error = SqlError::new(
                    ErrorCode::GroupingError,
                    format!(
                        "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
                    ),
                );
                Err(self.at(error, place))
            }
        }
    }
}

/// Column names from an alias's list, as far as it goes.
pub(crate) fn renamed_columns(
    mut columns: Vec<ScopeColumn>,
    alias: &ast::TableAlias,
    table: &str,
) -> Result<Vec<ScopeColumn>, SqlError> {
    if alias.columns.len() > columns.len() {
        return Err(SqlError::new(
            ErrorCode::InvalidColumnReference,
            format!(
                "table \"{table}\" has {} columns available but {} columns specified",
                columns.len(),
                alias.columns.len()
            ),
        ));
    }
    for (column, name) in columns.iter_mut().zip(&alias.columns) {
        column.name = fold(&name.name);
    }
    Ok(columns)
}

/// What every table of PostgreSQL's has beside its columns.
fn is_system_column(name: &str) -> bool {
    matches!(
        name,
        "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid"
    )
}
