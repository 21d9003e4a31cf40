//! FROM: tables, views, subqueries, common table expressions, functions and joins.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, ObjectName, TableAlias, TableFactor, TableWithJoins};
use sqlparser::tokenizer::Location;

use crate::catalog::{self, Privilege};
use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::expression::{name_place, table_relation};
use super::names::{self, fold};
use super::scope::renamed_columns;
use super::scope::{Relation, Scope, ScopeColumn};
use super::table_function::{aliased_function, fields, ordinality_of};
use super::typed::Typed;

/// A FROM item and what it brings into scope.
#[derive(Debug, Clone, Default)]
pub(crate) struct FromItem {
    pub(crate) sql: String,
    pub(crate) relations: Vec<Relation>,
    /// In the order of `*`.
    pub(crate) columns: Vec<ScopeColumn>,
    /// Holds a join that must keep its place among commas.
    pub(super) outer: bool,
    pub(super) is_join: bool,
}

impl FromItem {
    pub(crate) fn of(sql: String, relation: Relation) -> FromItem {
        FromItem {
            sql,
            columns: relation.columns.clone(),
            relations: vec![relation],
            outer: false,
            is_join: false,
        }
    }

    pub(super) fn make_nullable(&mut self) {
        let relations = self
            .relations
            .iter_mut()
            .flat_map(|relation| &mut relation.columns);
        for column in self.columns.iter_mut().chain(relations) {
            column.nullable = true;
        }
    }

    pub(super) fn scope(&self) -> Scope {
        Scope {
            relations: self.relations.clone(),
            columns: self.columns.clone(),
            ..Scope::default()
        }
    }
}

impl Analyzer<'_> {
    /// The items of a FROM clause; their names go into the innermost scope. `None` without any.
    pub(crate) fn add_from(&mut self, from: &[TableWithJoins]) -> Result<Option<String>, SqlError> {
        let mut texts = Vec::with_capacity(from.len());
        for (index, item) in from.iter().enumerate() {
            let item = self.joined(item)?;
            for relation in &item.relations {
                self.check_alias(relation)?;
            }
            texts.push(if item.outer && (index > 0 || from.len() > 1) {
                format!("({})", item.sql)
            } else {
                item.sql
            });
            let scope = self.scope();
            scope.relations.extend(item.relations);
            scope.columns.extend(item.columns);
        }
        Ok((!texts.is_empty()).then(|| texts.join(",")))
    }

    fn check_alias(&mut self, relation: &Relation) -> Result<(), SqlError> {
        let taken = self.scope().relations.iter().any(|other| {
            other.alias == relation.alias
                && (other.schema.is_none() || other.schema == relation.schema)
        });
        if taken {
            return Err(SqlError::new(
                ErrorCode::DuplicateAlias,
                format!("table name \"{}\" specified more than once", relation.alias),
            ));
        }
        Ok(())
    }

    pub(super) fn factor(&mut self, factor: &TableFactor) -> Result<FromItem, SqlError> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version: None,
                with_ordinality,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                match args {
                    Some(args) => {
                        self.table_function(name, &args.args, *with_ordinality, alias.as_ref())
                    }
                    None => self.named_relation(name, alias.as_ref()),
                }
            }
            TableFactor::Derived {
                lateral,
                subquery,
                alias,
                sample: None,
            } => {
                if *lateral {
                    return self.lateral(subquery, alias.as_ref());
                }
                self.derived(subquery, alias.as_ref())
            }
            TableFactor::Function {
                name,
                args,
                with_ordinality,
                alias,
                ..
            } => self.table_function(name, args, *with_ordinality, alias.as_ref()),
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_ordinality,
                ..
            } => match array_exprs.as_slice() {
                [array] => {
                    let value = self.expression(array)?;
                    let place = value.place;
                    self.set_function("unnest", &[value], *with_ordinality, alias.as_ref(), place)
                }
                arrays => {
                    let arrays = arrays
                        .iter()
                        .map(|array| self.expression(array))
                        .collect::<Result<Vec<_>, _>>()?;
                    self.unnest_several(&arrays, *with_ordinality, alias.as_ref())
                }
            },
            TableFactor::NestedJoin {
                table_with_joins,
                alias: None,
            } => {
                let mut item = self.joined(table_with_joins)?;
                item.is_join = item.is_join || !table_with_joins.joins.is_empty();
                Ok(item)
            }
            other => Err(SqlError::unsupported(format_args!("\"{other}\" in FROM"))),
        }
    }

    pub(crate) fn named_relation(
        &mut self,
        name: &ObjectName,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let (schema, bare) = names::schema_and_name(name)?;
        if schema.is_none()
            && let Some(cte) = self.cte(&bare).cloned()
        {
            let id = self.fresh('r');
            let sql = format!("{} AS {id}", cte.id);
            let columns = cte
                .columns
                .into_iter()
                .map(|column| ScopeColumn {
                    sql: format!("{id}.{}", column.sql),
                    ..column
                })
                .collect();
            return aliased(sql, id, bare, columns, alias);
        }
        if let Some(relation) = crate::system::resolve(schema.as_deref(), &bare) {
            let shown = alias.map_or(bare, |alias| fold(&alias.name));
            let (sql, mut relation) = self.system_relation(relation, &shown);
            if let Some(alias) = alias {
                relation.columns = renamed_columns(relation.columns, alias, &shown)?;
            }
            return Ok(FromItem::of(sql, relation));
        }
        let (qualified, relation) = self.relation(name)?;
        match relation {
            catalog::Relation::Table(collection) => {
                let table = self.catalog.table(collection).cloned().ok_or_else(|| {
                    SqlError::new(
                        ErrorCode::UndefinedTable,
                        format!("relation \"{bare}\" does not exist"),
                    )
                })?;
                self.reads.insert(collection);
                let id = self.fresh('r');
                self.named_tables.push((id.clone(), collection));
                let shown = alias.map_or(bare, |alias| fold(&alias.name));
                let mut relation = table_relation(&table, &shown, Some(&id));
                let sql = self.readable(&table, &mut relation)?;
                if alias.is_some() {
                    relation.schema = None;
                }
                if let Some(alias) = alias {
                    relation.columns = renamed_columns(relation.columns, alias, &shown)?;
                }
                Ok(FromItem::of(format!("{sql} AS {id}"), relation))
            }
            catalog::Relation::View(view) => self.view(view, bare, alias),
            catalog::Relation::Sequence(id) => self.sequence_state(id, bare, alias),
            catalog::Relation::Index(_) => {
                let error = SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("cannot open relation \"{}\"", qualified.name),
                );
                Err(self.at(error, name_place(name)))
            }
        }
    }

    /// A sequence as a table of one row: where it is. Without a writer, as on a standby, how far it
    /// is reserved.
    fn sequence_state(
        &mut self,
        id: u32,
        name: String,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        self.use_sequence(id, &[Privilege::Select])?;
        let start = self.catalog.sequence(id).map_or(1, |found| found.start);
        let row = self.fresh('r');
        let column = |name: &str, ty: PgType| ScopeColumn {
            name: name.to_owned(),
            sql: format!("{row}.{name}"),
            ty,
            nullable: false,
            origin: None,
            used: None,
        };
        let columns = vec![
            column("last_value", PgType::Int8),
            column("log_cnt", PgType::Int8),
            column("is_called", PgType::Bool),
        ];
        let sql = format!(
            "(SELECT coalesce(sh_sys('sequence_last',{id}),s.last,{start}) AS last_value,0 AS log_cnt,\
             coalesce(sh_sys('sequence_called',{id}),s.called,0) AS is_called \
             FROM (SELECT {id} AS id) LEFT JOIN s_sequences s USING (id)) AS {row}"
        );
        aliased(sql, row, name, columns, alias)
    }

    /// A view: its query in its place.
    fn view(
        &mut self,
        id: u32,
        name: String,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let Some(view) = self.catalog.view(id).cloned() else {
            return Err(SqlError::new(
                ErrorCode::UndefinedTable,
                format!("relation \"{name}\" does not exist"),
            ));
        };
        if self.expanding.contains(&id) {
            return Err(SqlError::new(
                ErrorCode::InvalidObjectDefinition,
                format!("infinite recursion detected in rules for relation \"{name}\""),
            ));
        }
        self.names_others = true;
        let statement = crate::planner::parse(&view.query, self.context)?;
        let ast::Statement::Query(query) = statement else {
            return Err(SqlError::new(
                ErrorCode::Internal,
                format!("view \"{name}\" is no query"),
            ));
        };
        let acting = self.owner_of_view(&view);
        let before = std::mem::replace(&mut self.acting, acting);
        self.expanding.push(id);
        let exposes = !view.security_barrier && self.begin_exposing(&query);
        // A view sees nothing of the query around it.
        let analyzed = self.in_scope(
            Scope {
                closed: true,
                ..Scope::default()
            },
            |analyzer| {
                let mut analyzed = analyzer.query(&query)?;
                analyzed.settle(analyzer)?;
                Ok(analyzed)
            },
        );
        let exposed = self.end_exposing(exposes);
        self.expanding.pop();
        self.acting = before;
        let analyzed = analyzed?;
        let alias_id = self.fresh('r');
        let mut columns = analyzed.columns(&alias_id);
        let keys = self.take_keys(&mut columns, exposed.as_ref());
        for (column, (name, _)) in columns.iter_mut().zip(&view.columns) {
            column.name.clone_from(name);
        }
        self.track_view(&view, &mut columns);
        let mut sql = analyzed.into_sql(self)?;
        if view.security_barrier && !self.acting.superuser {
            sql = format!("SELECT * FROM ({sql}) LIMIT -1 OFFSET 0");
        }
        let sql = format!("({sql}) AS {alias_id}");
        let item = aliased(sql, alias_id, name, columns, alias)?;
        Ok(self.with_keys(item, &keys, exposed, false))
    }

    pub(super) fn derived(
        &mut self,
        subquery: &ast::Query,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let Some(alias) = alias else {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "subquery in FROM must have an alias",
            )
            .with_hint("For example, FROM (SELECT ...) [AS] foo."));
        };
        // It sees the queries around this one, but not the other items of this FROM.
        let hidden = self.hide_siblings();
        let exposes = self.begin_exposing(subquery);
        let analyzed = self.subquery(subquery);
        let exposed = self.end_exposing(exposes);
        self.show_siblings(hidden);
        let mut analyzed = analyzed?;
        analyzed.settle(self)?;
        let id = self.fresh('r');
        let mut columns = analyzed.columns(&id);
        let keys = self.take_keys(&mut columns, exposed.as_ref());
        let sql = format!("({}) AS {id}", analyzed.into_sql(self)?);
        let item = aliased(sql, id, fold(&alias.name), columns, Some(alias))?;
        let is_in_text = self.expanding.is_empty();
        Ok(self.with_keys(item, &keys, exposed, is_in_text))
    }

    /// LATERAL: its rows pass through one value for each row of what stands before it.
    pub(super) fn lateral(
        &mut self,
        subquery: &ast::Query,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let Some(alias) = alias else {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "subquery in FROM must have an alias",
            )
            .with_hint("For example, FROM (SELECT ...) [AS] foo."));
        };
        let mut analyzed = self.subquery(subquery)?;
        analyzed.settle(self)?;
        let inner = self.fresh('r');
        let columns = analyzed.columns(&inner);
        let values: Vec<String> = columns.iter().map(|column| column.sql.clone()).collect();
        let rows = format!(
            "(SELECT sh_rows({}) FROM ({}) AS {inner})",
            values.join(","),
            analyzed.into_sql(self)?
        );
        let id = self.fresh('r');
        let columns = fields(columns, &id);
        let sql = format!("json_each({rows}) AS {id}");
        aliased(sql, id, fold(&alias.name), columns, Some(alias))
    }

    /// `jsonb_each(document)` and its kin: a row for each member.
    pub(super) fn members(
        &mut self,
        function: &str,
        values: &[Typed],
        ordinality: bool,
        alias: Option<&TableAlias>,
        place: Location,
    ) -> Result<FromItem, SqlError> {
        let wanted = if function.starts_with("jsonb") {
            PgType::Jsonb
        } else {
            PgType::Json
        };
        let [document] = values else {
            return Err(self.no_function(function, values, place));
        };
        if document.ty != wanted && !document.is_unknown() {
            return Err(self.no_function(function, values, place));
        }
        let document = self.coerce(document, &wanted, CastContext::Implicit)?;
        let as_text = function.ends_with("_text");
        let value = if as_text { PgType::Text } else { wanted };
        let id = self.fresh('r');
        let column = |name: &str, ty: PgType| ScopeColumn {
            name: name.to_owned(),
            sql: String::new(),
            ty,
            nullable: true,
            origin: None,
            used: None,
        };
        let mut columns = fields(
            vec![column("key", PgType::Text), column("value", value)],
            &id,
        );
        if ordinality {
            columns.push(ordinality_of(&id));
        }
        let sql = format!(
            "json_each(sh_json_members({document},{},{})) AS {id}",
            u8::from(as_text),
            u8::from(function.starts_with("jsonb"))
        );
        aliased(sql, id, function.to_owned(), columns, alias)
    }

    /// pg_options_to_table(text[]): `name=value` in two columns.
    pub(super) fn options(
        &mut self,
        values: &[Typed],
        alias: Option<&TableAlias>,
        place: Location,
    ) -> Result<FromItem, SqlError> {
        let name = "pg_options_to_table";
        let [options] = values else {
            return Err(self.no_function(name, values, place));
        };
        let options = self.coerce(options, &PgType::Text.array(), CastContext::Implicit)?;
        let id = self.fresh('r');
        let column = |name: &str, sql: String| ScopeColumn {
            name: name.to_owned(),
            sql,
            ty: PgType::Text,
            nullable: true,
            origin: None,
            used: None,
        };
        let at = format!("instr({id}.value,'=')");
        let columns = vec![
            column(
                "option_name",
                format!("iif({at},substr({id}.value,1,{at}-1),{id}.value)"),
            ),
            column(
                "option_value",
                format!("iif({at},substr({id}.value,{at}+1),NULL)"),
            ),
        ];
        aliased(
            format!("json_each({options}) AS {id}"),
            id,
            name.to_owned(),
            columns,
            alias,
        )
    }

    fn hide_siblings(&mut self) -> (Vec<Relation>, Vec<ScopeColumn>) {
        let scope = self.scope();
        (
            std::mem::take(&mut scope.relations),
            std::mem::take(&mut scope.columns),
        )
    }

    fn show_siblings(&mut self, (relations, columns): (Vec<Relation>, Vec<ScopeColumn>)) {
        let scope = self.scope();
        scope.relations = relations;
        scope.columns = columns;
    }
}

/// The elements of an array as rows.
pub(super) fn rows_of(
    array: &str,
    id: String,
    column: ScopeColumn,
    ordinality: bool,
    alias: Option<&TableAlias>,
) -> Result<FromItem, SqlError> {
    let function = column.name.clone();
    let mut columns = vec![column];
    if ordinality {
        columns.push(ordinality_of(&id));
    }
    aliased_function(
        format!("json_each({array}) AS {id}"),
        id,
        &function,
        columns,
        alias,
    )
}

pub(super) fn aliased(
    sql: String,
    id: String,
    name: String,
    columns: Vec<ScopeColumn>,
    alias: Option<&TableAlias>,
) -> Result<FromItem, SqlError> {
    let shown = alias.map_or(name, |alias| fold(&alias.name));
    let columns = match alias {
        Some(alias) => renamed_columns(columns, alias, &shown)?,
        None => columns,
    };
    Ok(FromItem::of(
        sql,
        Relation {
            alias: shown,
            schema: None,
            id,
            columns,
            key: Vec::new(),
            is_scalar: false,
            table_oid: None,
        },
    ))
}
