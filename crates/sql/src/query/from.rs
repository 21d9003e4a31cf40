//! FROM: tables, views, subqueries, common table expressions, functions and joins.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, JoinConstraint, JoinOperator, ObjectName, TableAlias,
    TableFactor, TableWithJoins,
};
use sqlparser::tokenizer::Location;

use crate::catalog;
use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::body::renamed_columns;
use super::expression::{name_place, table_relation};
use super::names::{self, fold};
use super::scope::{Relation, Scope, ScopeColumn};
use super::typed::Typed;

/// A FROM item and what it brings into scope.
#[derive(Debug, Clone, Default)]
pub(crate) struct FromItem {
    pub(crate) sql: String,
    pub(crate) relations: Vec<Relation>,
    /// In the order of `*`.
    pub(crate) columns: Vec<ScopeColumn>,
    /// Holds a join that must keep its place among commas.
    outer: bool,
    is_join: bool,
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

    fn make_nullable(&mut self) {
        let relations = self
            .relations
            .iter_mut()
            .flat_map(|relation| &mut relation.columns);
        for column in self.columns.iter_mut().chain(relations) {
            column.nullable = true;
        }
    }

    fn scope(&self) -> Scope {
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

    /// Adds a set-returning function of the select list to FROM; what it becomes.
    pub(crate) fn set_in_outputs(
        &mut self,
        function: &ast::Function,
    ) -> Result<(String, ScopeColumn), SqlError> {
        let (_, name) = names::schema_and_name(&function.name)?;
        let place = name_place(&function.name);
        let ast::FunctionArguments::List(list) = &function.args else {
            return Err(self.at(
                SqlError::unsupported(format_args!("this call of {name}")),
                place,
            ));
        };
        let item = TableFactor::Function {
            lateral: true,
            name: function.name.clone(),
            args: list.args.clone(),
            with_ordinality: false,
            alias: None,
        };
        let item = self.factor(&item)?;
        let column = item
            .columns
            .first()
            .cloned()
            .ok_or_else(|| SqlError::unsupported(name))?;
        Ok((item.sql, column))
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

    /// A table and what is joined to it.
    pub(crate) fn joined(&mut self, from: &TableWithJoins) -> Result<FromItem, SqlError> {
        let mut left = self.nested(|analyzer| analyzer.factor(&from.relation))?;
        for join in &from.joins {
            let right = self.right_side(&left, join)?;
            left = self.join(left, right, &join.join_operator)?;
        }
        Ok(left)
    }

    /// What is joined: a LATERAL subquery or a function sees what it is joined to.
    fn right_side(&mut self, left: &FromItem, join: &ast::Join) -> Result<FromItem, SqlError> {
        let sees_left = matches!(
            &join.relation,
            TableFactor::Derived { lateral: true, .. }
                | TableFactor::Function { .. }
                | TableFactor::UNNEST { .. }
                | TableFactor::Table { args: Some(_), .. }
        );
        if !sees_left {
            return self.nested(|analyzer| analyzer.factor(&join.relation));
        }
        let scope = self.scope();
        let (relations, columns) = (scope.relations.len(), scope.columns.len());
        scope.relations.extend(left.relations.iter().cloned());
        scope.columns.extend(left.columns.iter().cloned());
        let right = self.nested(|analyzer| analyzer.factor(&join.relation));
        let scope = self.scope();
        scope.relations.truncate(relations);
        scope.columns.truncate(columns);
        let right = right?;
        let is_outer = !matches!(
            join.join_operator,
            JoinOperator::Join(_)
                | JoinOperator::Inner(_)
                | JoinOperator::CrossJoin(_)
                | JoinOperator::Left(_)
                | JoinOperator::LeftOuter(_)
        );
        let refers = left
            .relations
            .iter()
            .any(|relation| right.sql.contains(&format!("{}.", relation.id)));
        if is_outer && refers {
            return Err(SqlError::new(
                ErrorCode::InvalidColumnReference,
                "invalid reference to FROM-clause entry: the combining JOIN type must be INNER or LEFT for a LATERAL reference",
            ));
        }
        Ok(right)
    }

    fn join(
        &mut self,
        mut left: FromItem,
        mut right: FromItem,
        operator: &JoinOperator,
    ) -> Result<FromItem, SqlError> {
        let (word, constraint) = match operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::CrossJoin(constraint) => ("JOIN", constraint),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                ("LEFT JOIN", constraint)
            }
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
                ("RIGHT JOIN", constraint)
            }
            JoinOperator::FullOuter(constraint) => ("FULL JOIN", constraint),
            _ => return Err(SqlError::unsupported("this kind of join")),
        };
        for relation in &right.relations {
            if left
                .relations
                .iter()
                .any(|other| other.alias == relation.alias && other.schema == relation.schema)
            {
                return Err(SqlError::new(
                    ErrorCode::DuplicateAlias,
                    format!("table name \"{}\" specified more than once", relation.alias),
                ));
            }
        }
        let using = match constraint {
            JoinConstraint::Using(names) => names
                .iter()
                .map(|name| Ok(names::parts(name)?.pop().unwrap_or_default()))
                .collect::<Result<Vec<_>, SqlError>>()?,
            JoinConstraint::Natural => {
                let shared =
                    |name: &String| right.columns.iter().any(|column| column.name == *name);
                left.columns
                    .iter()
                    .map(|column| column.name.clone())
                    .filter(shared)
                    .collect()
            }
            JoinConstraint::On(_) | JoinConstraint::None => Vec::new(),
        };
        if matches!(word, "RIGHT JOIN" | "FULL JOIN") {
            left.make_nullable();
        }
        if matches!(word, "LEFT JOIN" | "FULL JOIN") {
            right.make_nullable();
        }
        let (merged, mut conditions) = self.merge_using(&mut left, &mut right, &using, word)?;
        let mut columns = merged;
        columns.append(&mut left.columns);
        columns.append(&mut right.columns);
        let mut relations = left.relations;
        relations.append(&mut right.relations);
        let right_sql = if right.is_join {
            format!("({})", right.sql)
        } else {
            right.sql
        };
        let mut item = FromItem {
            sql: String::new(),
            relations,
            columns,
            outer: left.outer || right.outer || matches!(word, "RIGHT JOIN" | "FULL JOIN"),
            is_join: true,
        };
        if let JoinConstraint::On(condition) = constraint {
            let scope = Scope {
                aggregates_refused: Some("JOIN conditions"),
                windows_refused: Some("JOIN conditions"),
                ..item.scope()
            };
            conditions
                .push(self.in_scope(scope, |analyzer| analyzer.condition(condition, "JOIN/ON"))?);
        }
        item.sql = format!("{} {word} {right_sql}", left.sql);
        if !conditions.is_empty() {
            item.sql
                .push_str(&format!(" ON {}", conditions.join(" AND ")));
        } else if word != "JOIN" {
            item.sql.push_str(" ON 1");
        }
        Ok(item)
    }

    /// Takes the columns of USING out of both sides: what they become, and the conditions.
    fn merge_using(
        &mut self,
        left: &mut FromItem,
        right: &mut FromItem,
        using: &[String],
        word: &str,
    ) -> Result<(Vec<ScopeColumn>, Vec<String>), SqlError> {
        let mut merged = Vec::with_capacity(using.len());
        let mut conditions = Vec::with_capacity(using.len());
        for name in using {
            let a = take_column(&mut left.columns, name, "left")?;
            let b = take_column(&mut right.columns, name, "right")?;
            let (a_value, b_value) = (a.typed(), b.typed());
            let test = self.compare(&ast::BinaryOperator::Eq, &a_value, &b_value)?;
            conditions.push(self.text(&test)?);
            let ty = self.common_type_of("JOIN/USING", &[&a_value, &b_value])?;
            let a_text = self.coerce(&a_value, &ty, CastContext::Implicit)?;
            let b_text = self.coerce(&b_value, &ty, CastContext::Implicit)?;
            let (sql, origin) = match word {
                "FULL JOIN" => (format!("coalesce({a_text},{b_text})"), None),
                "RIGHT JOIN" => (b_text, b.origin),
                _ => (a_text, a.origin),
            };
            let nullable = match word {
                "FULL JOIN" => true,
                "RIGHT JOIN" => b.nullable,
                _ => a.nullable,
            };
            merged.push(ScopeColumn {
                name: name.clone(),
                sql,
                ty,
                nullable,
                origin,
                used: None,
            });
        }
        Ok((merged, conditions))
    }

    fn factor(&mut self, factor: &TableFactor) -> Result<FromItem, SqlError> {
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
            catalog::Relation::Sequence(_) | catalog::Relation::Index(_) => {
                let error = SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("cannot open relation \"{}\"", qualified.name),
                );
                Err(self.at(error, name_place(name)))
            }
        }
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
        self.expanding.pop();
        self.acting = before;
        let analyzed = analyzed?;
        let alias_id = self.fresh('r');
        let mut columns = analyzed.columns(&alias_id);
        for (column, (name, _)) in columns.iter_mut().zip(&view.columns) {
            column.name.clone_from(name);
        }
        self.track_view(&view, &mut columns);
        let mut sql = analyzed.into_sql(self)?;
        if view.security_barrier && !self.acting.superuser {
            sql = format!("SELECT * FROM ({sql}) LIMIT -1 OFFSET 0");
        }
        aliased(
            format!("({sql}) AS {alias_id}"),
            alias_id,
            name,
            columns,
            alias,
        )
    }

    fn derived(
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
        let analyzed = self.subquery(subquery);
        self.show_siblings(hidden);
        let mut analyzed = analyzed?;
        analyzed.settle(self)?;
        let id = self.fresh('r');
        let columns = analyzed.columns(&id);
        let sql = format!("({}) AS {id}", analyzed.into_sql(self)?);
        aliased(sql, id, fold(&alias.name), columns, Some(alias))
    }

    /// LATERAL: its rows pass through one value for each row of what stands before it.
    fn lateral(
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
    fn members(
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

    fn table_function(
        &mut self,
        name: &ObjectName,
        args: &[FunctionArg],
        ordinality: bool,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let (_, function) = names::schema_and_name(name)?;
        let place = name_place(name);
        if crate::functions::signatures(&function).is_empty() && self.is_routine(name, false) {
            return self.routine_in_from(name, args, ordinality, alias);
        }
        let mut exprs = Vec::with_capacity(args.len());
        for arg in args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => exprs.push(expr),
                other => {
                    return Err(SqlError::unsupported(format_args!(
                        "the argument {other} of {function}"
                    )));
                }
            }
        }
        let values = exprs
            .iter()
            .map(|expr| self.expression(expr))
            .collect::<Result<Vec<_>, _>>()?;
        if function == "unnest" && values.len() > 1 {
            return self.unnest_several(&values, ordinality, alias);
        }
        self.set_function(&function, &values, ordinality, alias, place)
    }

    /// Several arrays side by side, the shorter ones filled up with NULL.
    fn unnest_several(
        &mut self,
        arrays: &[Typed],
        ordinality: bool,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let id = self.fresh('r');
        let mut lengths = Vec::with_capacity(arrays.len());
        let mut columns = Vec::with_capacity(arrays.len() + 1);
        for array in arrays {
            let Some(element) = array.ty.element().cloned() else {
                return Err(self.no_function("unnest", arrays, array.place));
            };
            let text = self.text(array)?;
            lengths.push(format!("coalesce(json_array_length({text}),0)"));
            columns.push(ScopeColumn {
                name: "unnest".to_owned(),
                sql: format!(
                    "sh_array_get({text},{id}.value,{},{})",
                    element.at_run_time().0,
                    element.at_run_time().1
                ),
                ty: element,
                nullable: true,
                origin: None,
                used: None,
            });
        }
        if ordinality {
            columns.push(ScopeColumn {
                name: "ordinality".to_owned(),
                sql: format!("{id}.value"),
                ty: PgType::Int8,
                nullable: false,
                origin: None,
                used: None,
            });
        }
        // Of one alone SQLite's max() would be the aggregate.
        let sql = format!(
            "json_each(sh_series(1,max({},0),1)) AS {id}",
            lengths.join(",")
        );
        aliased(sql, id, "unnest".to_owned(), columns, alias)
    }

    /// A set-returning function, its arguments analyzed; these may name items before it.
    pub(crate) fn set_function(
        &mut self,
        function: &str,
        values: &[Typed],
        ordinality: bool,
        alias: Option<&TableAlias>,
        place: Location,
    ) -> Result<FromItem, SqlError> {
        if function == "generate_series" && matches!(values.len(), 2 | 3) {
            let fixed = values.iter().all(|value| self.is_free_of_siblings(value));
            if fixed && !ordinality {
                return self.generate_series(values, alias, place);
            }
            return self.integer_series(values, ordinality, alias, place);
        }
        if function == "_pg_expandarray"
            && let [array] = values
        {
            let array = self.text(array)?;
            let id = self.fresh('r');
            let column = ScopeColumn {
                name: function.to_owned(),
                sql: format!("json_array({id}.value,{id}.key+1)"),
                ty: super::arrays::expanded(),
                nullable: false,
                origin: None,
                used: None,
            };
            return rows_of(&array, id, column, ordinality, alias);
        }
        if function == "generate_subscripts" && values.len() == 2 {
            return self.subscripts(values, alias, place);
        }
        if matches!(
            function,
            "json_each" | "jsonb_each" | "json_each_text" | "jsonb_each_text"
        ) {
            return self.members(function, values, ordinality, alias, place);
        }
        let types: Vec<PgType> = values.iter().map(|value| value.ty.clone()).collect();
        let overloads = crate::functions::signatures(function);
        if !overloads
            .iter()
            .any(|signature| signature.class == crate::functions::Class::SetReturning)
        {
            if overloads.is_empty() {
                return Err(self.no_function(function, values, place));
            }
            return Err(self.at(
                SqlError::unsupported(format_args!("function {function} in FROM")),
                place,
            ));
        }
        let Some(choice) = super::operators::choose(overloads, &types) else {
            return Err(self.no_function(function, values, place));
        };
        let set = self.apply(&choice, values, place)?;
        let array = self.text(&set)?;
        let id = self.fresh('r');
        let column = ScopeColumn {
            name: function.to_owned(),
            // The other functions emit an array of storage forms.
            sql: if function == "unnest" {
                self.element_of(&set.ty, &id, &array)
            } else {
                format!("{id}.value")
            },
            ty: set.ty,
            nullable: true,
            origin: None,
            used: None,
        };
        rows_of(&array, id, column, ordinality, alias)
    }

    /// generate_subscripts(array, 1): the places of an array's elements.
    fn subscripts(
        &mut self,
        values: &[Typed],
        alias: Option<&TableAlias>,
        place: Location,
    ) -> Result<FromItem, SqlError> {
        let (array, dimension) = (&values[0], self.text(&values[1])?);
        if array.ty.element().is_none() {
            return Err(self.no_function("generate_subscripts", values, place));
        }
        let is_vector = matches!(array.ty, PgType::Int2Vector | PgType::OidVector);
        let array = self.text(array)?;
        let id = self.fresh('r');
        let column = ScopeColumn {
            name: "generate_subscripts".to_owned(),
            sql: if is_vector {
                format!("iif({dimension}=1,{id}.key,NULL)")
            } else {
                format!("iif({dimension}=1,{id}.key+1,NULL)")
            },
            ty: PgType::Int4,
            nullable: true,
            origin: None,
            used: None,
        };
        // Arrays are told by one dimension here; of another they have no places.
        let array = format!("iif({dimension}=1,{array},NULL)");
        rows_of(&array, id, column, false, alias)
    }

    /// Whether an expression names nothing of this FROM, so that it can stand in a query of its own.
    fn is_free_of_siblings(&self, value: &Typed) -> bool {
        let super::typed::Node::Sql(sql) = &value.node else {
            return true;
        };
        let scope = self.scopes.last();
        !scope.is_some_and(|scope| {
            scope
                .relations
                .iter()
                .any(|relation| sql.contains(&format!("{}.", relation.id)))
        })
    }

    /// A series between integers that other items give: as the elements of one array.
    fn integer_series(
        &mut self,
        values: &[Typed],
        ordinality: bool,
        alias: Option<&TableAlias>,
        place: Location,
    ) -> Result<FromItem, SqlError> {
        let types: Vec<&PgType> = values.iter().map(|value| &value.ty).collect();
        let ty = match super::operators::common_type(&types) {
            Some(PgType::Int2 | PgType::Int4) => PgType::Int4,
            Some(PgType::Int8) => PgType::Int8,
            _ => {
                let error = SqlError::unsupported(
                    "generate_series of anything but integers that depends on other items",
                );
                return Err(self.at(error, place));
            }
        };
        let mut texts = Vec::with_capacity(3);
        for value in values {
            texts.push(self.coerce(value, &ty, CastContext::Implicit)?);
        }
        if texts.len() == 2 {
            texts.push("1".to_owned());
        }
        let id = self.fresh('r');
        let column = ScopeColumn {
            name: "generate_series".to_owned(),
            sql: format!("{id}.value"),
            ty,
            nullable: false,
            origin: None,
            used: None,
        };
        rows_of(
            &format!("sh_series({})", texts.join(",")),
            id,
            column,
            ordinality,
            alias,
        )
    }

    /// A series as a recursive query: integers, numerics, timestamps.
    pub(crate) fn generate_series(
        &mut self,
        values: &[Typed],
        alias: Option<&TableAlias>,
        place: Location,
    ) -> Result<FromItem, SqlError> {
        let known: Vec<&PgType> = values[..2].iter().map(|value| &value.ty).collect();
        let no_function = |analyzer: &Self| analyzer.no_function("generate_series", values, place);
        let Some(mut ty) = super::operators::common_type(&known) else {
            return Err(no_function(self));
        };
        if ty == PgType::Date {
            ty = PgType::Timestamptz;
        }
        if ty == PgType::Int2 {
            ty = PgType::Int4;
        }
        let moments = matches!(ty, PgType::Timestamp | PgType::Timestamptz);
        if let Some(step) = values.get(2)
            && step.ty.is_numeric()
        {
            ty =
                super::operators::common_type(&[&ty, &step.ty]).ok_or_else(|| no_function(self))?;
        }
        if matches!(ty, PgType::Numeric(_)) {
            ty = PgType::Numeric(None);
        }
        if !moments && !matches!(ty, PgType::Int4 | PgType::Int8 | PgType::Numeric(_))
            || moments && values.len() < 3
        {
            return Err(no_function(self));
        }
        let step_type = if moments {
            PgType::Interval
        } else {
            ty.clone()
        };
        let start = self.coerce(&values[0], &ty, CastContext::Implicit)?;
        let stop = self.coerce(&values[1], &ty, CastContext::Implicit)?;
        let step = match values.get(2) {
            Some(step) => self.coerce(step, &step_type, CastContext::Implicit)?,
            None => self.coerce(
                &Typed::number("1".to_owned()),
                &step_type,
                CastContext::Implicit,
            )?,
        };
        // The bounds are computed once, in a row beside each value.
        let (series, id) = (self.fresh('w'), self.fresh('r'));
        let column = |name: &str, ty: &PgType| Typed::new(format!("{series}.{name}"), ty.clone());
        let (value, last, by) = (column("v", &ty), column("b", &ty), column("s", &step_type));
        let zero = self.converted(
            &Typed::literal("0".to_owned()),
            &step_type,
            CastContext::Explicit,
        )?;
        let next = self.operator("+", &[value.clone(), by.clone()], place)?;
        let next_text = self.text(&next)?;
        let mut tests = Vec::with_capacity(3);
        for (op, left, right) in [
            (ast::BinaryOperator::Gt, &by, &zero),
            (ast::BinaryOperator::LtEq, &next, &last),
            (ast::BinaryOperator::GtEq, &next, &last),
        ] {
            let test = self.compare(&op, left, right)?;
            tests.push(self.text(&test)?);
        }
        // An integer series ends before its next value could overflow.
        let room = if ty.is_integer() {
            format!(
                "(CASE WHEN {series}.s>0 THEN {series}.v<={series}.b-{series}.s ELSE {series}.v>={series}.b-{series}.s END) AND "
            )
        } else {
            String::new()
        };
        let first = |op: ast::BinaryOperator, analyzer: &mut Self| -> Result<String, SqlError> {
            let (a, b) = (
                Typed::new("x.v".to_owned(), ty.clone()),
                Typed::new("x.b".to_owned(), ty.clone()),
            );
            let test = analyzer.compare(&op, &a, &b)?;
            analyzer.text(&test)
        };
        let up = first(ast::BinaryOperator::LtEq, self)?;
        let down = first(ast::BinaryOperator::GtEq, self)?;
        let forward = {
            let by = Typed::new("x.s".to_owned(), step_type.clone());
            let test = self.compare(&ast::BinaryOperator::Gt, &by, &zero)?;
            self.text(&test)?
        };
        let zero_step = {
            let by = Typed::new("x.s".to_owned(), step_type.clone());
            let test = self.compare(&ast::BinaryOperator::Eq, &by, &zero)?;
            self.text(&test)?
        };
        let sql = format!(
            "(WITH RECURSIVE {series}(v,b,s) AS (SELECT x.v,x.b,x.s \
             FROM (SELECT {start} AS v,{stop} AS b,{step} AS s) AS x WHERE CASE WHEN {zero_step} THEN sh_zero_step() WHEN {forward} THEN {up} ELSE {down} END \
             UNION ALL SELECT {next_text},{series}.b,{series}.s FROM {series} WHERE {room}CASE WHEN {} THEN {} ELSE {} END) \
             SELECT v FROM {series}) AS {id}",
            tests[0], tests[1], tests[2]
        );
        let column = ScopeColumn {
            name: "generate_series".to_owned(),
            sql: format!("{id}.v"),
            ty,
            nullable: false,
            origin: None,
            used: None,
        };
        aliased_function(sql, id, "generate_series", vec![column], alias)
    }
}

/// The elements of an array as rows.
fn rows_of(
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

pub(super) fn ordinality_of(id: &str) -> ScopeColumn {
    ScopeColumn {
        name: "ordinality".to_owned(),
        sql: format!("({id}.key+1)"),
        ty: PgType::Int8,
        nullable: false,
        origin: None,
        used: None,
    }
}

/// The columns of rows that `json_each` takes apart under the alias `id`.
pub(super) fn fields(columns: Vec<ScopeColumn>, id: &str) -> Vec<ScopeColumn> {
    columns
        .into_iter()
        .enumerate()
        .map(|(place, column)| ScopeColumn {
            sql: format!("sh_field({id}.value,{place})"),
            ..column
        })
        .collect()
}

fn take_column(
    columns: &mut Vec<ScopeColumn>,
    name: &str,
    side: &str,
) -> Result<ScopeColumn, SqlError> {
    let places: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.name == name)
        .map(|(place, _)| place)
        .collect();
    match places.as_slice() {
        [place] => Ok(columns.remove(*place)),
        [] => Err(SqlError::new(
            ErrorCode::UndefinedColumn,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
        _ => Err(SqlError::new(
            ErrorCode::AmbiguousColumn,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
    }
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

/// A function's single column takes the alias's name too.
fn aliased_function(
    sql: String,
    id: String,
    function: &str,
    mut columns: Vec<ScopeColumn>,
    alias: Option<&TableAlias>,
) -> Result<FromItem, SqlError> {
    let is_scalar = columns.len() == 1;
    if function.ends_with("_array_elements") || function.ends_with("_array_elements_text") {
        // These name their column themselves.
        "value".clone_into(&mut columns[0].name);
    } else if let Some(alias) = alias {
        columns[0].name = fold(&alias.name);
    }
    let mut item = aliased(sql, id, function.to_owned(), columns, alias)?;
    for relation in &mut item.relations {
        relation.is_scalar = is_scalar;
    }
    Ok(item)
}
