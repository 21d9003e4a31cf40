//! Definitions for whoever does not find `public`, as pg_dump does not: the names in them that stand
//! for something there are given their schema, as PostgreSQL prints them.

use std::borrow::Cow;
use std::ops::ControlFlow;

use sqlparser::ast::{self, Expr, Ident, ObjectName, ObjectNamePart, Query, VisitMut, VisitorMut};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::{View, describe};
use crate::catalog::Catalog;
use crate::query::names::fold;

const PUBLIC: &str = "public";

/// A query's text.
pub(super) fn query<'t>(view: &View<'_>, text: &'t str) -> Cow<'t, str> {
    rewritten(view, text, |parser| parser.parse_query())
}

/// An expression's text.
pub(super) fn expression<'t>(view: &View<'_>, text: &'t str) -> Cow<'t, str> {
    rewritten(view, text, |parser| parser.parse_expr())
}

/// The text as it is where `public` is found, or where it does not parse.
fn rewritten<'t, T: VisitMut + ToString>(
    view: &View<'_>,
    text: &'t str,
    parse: impl FnOnce(&mut Parser<'_>) -> Result<T, sqlparser::parser::ParserError>,
) -> Cow<'t, str> {
    if describe::search_path(view)
        .iter()
        .any(|schema| schema == PUBLIC)
    {
        return Cow::Borrowed(text);
    }
    let parsed = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parse(&mut parser));
    let Ok(mut parsed) = parsed else {
        return Cow::Borrowed(text);
    };
    let mut qualifier = Qualifier {
        catalog: view.catalog,
        with: Vec::new(),
        changed: false,
    };
    let _ = parsed.visit(&mut qualifier);
    if qualifier.changed {
        Cow::Owned(parsed.to_string())
    } else {
        Cow::Borrowed(text)
    }
}

struct Qualifier<'c> {
    catalog: &'c Catalog,
    /// Names of WITH, which hide tables.
    with: Vec<String>,
    changed: bool,
}

impl Qualifier<'_> {
    fn qualify(&mut self, name: &mut ObjectName, is_known: impl FnOnce(&Catalog, &str) -> bool) {
        if let [ObjectNamePart::Identifier(ident)] = name.0.as_slice()
            && is_known(self.catalog, &fold(ident))
        {
            name.0
                .insert(0, ObjectNamePart::Identifier(Ident::new(PUBLIC)));
            self.changed = true;
        }
    }

    fn qualify_routine(&mut self, name: &mut ObjectName) {
        self.qualify(name, |catalog, name| {
            let mut routines = catalog.routines.values();
            routines.any(|routine| routine.name.schema == PUBLIC && routine.name.name == name)
        });
    }
}

impl VisitorMut for Qualifier<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        self.with.extend(with.map(|table| fold(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        if let [ObjectNamePart::Identifier(ident)] = relation.0.as_slice()
            && self.with.contains(&fold(ident))
        {
            return ControlFlow::Continue(());
        }
        self.qualify(relation, |catalog, name| {
            catalog.resolve(Some(PUBLIC), name).is_some()
        });
        self.qualify_routine(relation);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Cast { data_type, .. } => {
                let mut of = data_type;
                while let ast::DataType::Array(
                    ast::ArrayElemTypeDef::SquareBracket(element, _)
                    | ast::ArrayElemTypeDef::AngleBracket(element),
                ) = of
                {
                    of = element;
                }
                if let ast::DataType::Custom(name, _) = of {
                    self.qualify(name, |catalog, name| {
                        let mut types = catalog.types.values();
                        types.any(|ty| ty.name.schema == PUBLIC && ty.name.name == name)
                    });
                }
            }
            Expr::Function(function) => self.qualify_routine(&mut function.name),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
