//! Functions in FROM: set-returning ones, `unnest`, `generate_series`, and those of the select list.

use springhead_proto::SqlError;
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, ObjectName, TableAlias, TableFactor};
use sqlparser::tokenizer::Location;

use crate::functions::CastContext;
use crate::types::PgType;

use super::Analyzer;
use super::expression::name_place;
use super::from::{FromItem, aliased, rows_of};
use super::names::{self, fold};
use super::scope::ScopeColumn;
use super::typed::Typed;

impl Analyzer<'_> {
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

    pub(super) fn table_function(
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
    pub(super) fn unnest_several(
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
        if function == "pg_options_to_table" && !ordinality {
            return self.options(values, alias, place);
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

/// A function's single column takes the alias's name too.
pub(super) fn aliased_function(
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
