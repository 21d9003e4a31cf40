//! Which functions an expression calls: aggregates, and functions that return sets.

use std::ops::ControlFlow;

use sqlparser::ast::{self, Expr};

use crate::functions::{Class, signatures};

use super::names;

/// Whether an aggregate is called, not counting subqueries.
pub(super) fn has_aggregate(expr: &Expr) -> bool {
    !calls(expr, &is_aggregate).is_empty()
}

/// Whether a set-returning function is called, not counting subqueries.
pub(super) fn has_set(expr: &Expr) -> bool {
    !set_returning(expr).is_empty()
}

/// The calls of set-returning functions, not counting subqueries.
pub(super) fn set_returning(expr: &Expr) -> Vec<ast::Function> {
    calls(expr, &is_set_returning)
}

fn calls(expr: &Expr, wanted: &dyn Fn(&ast::Function) -> bool) -> Vec<ast::Function> {
    let mut found = Vec::new();
    let mut finder = FunctionFinder {
        wanted,
        found: &mut found,
        inside: 0,
    };
    let _ = ast::Visit::visit(expr, &mut finder);
    found
}

pub(super) fn is_aggregate(function: &ast::Function) -> bool {
    function.over.is_none() && class_of(function) == Some(Class::Aggregate)
}

fn is_set_returning(function: &ast::Function) -> bool {
    class_of(function) == Some(Class::SetReturning)
}

fn class_of(function: &ast::Function) -> Option<Class> {
    let name = names::parts(&function.name).ok()?.pop()?;
    signatures(&name).first().map(|signature| signature.class)
}

/// Finds calls in an expression, not counting subqueries.
struct FunctionFinder<'f> {
    wanted: &'f dyn Fn(&ast::Function) -> bool,
    found: &'f mut Vec<ast::Function>,
    /// How many subqueries deep the walk is.
    inside: usize,
}

impl ast::Visitor for FunctionFinder<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && self.inside == 0
            && (self.wanted)(function)
        {
            self.found.push(function.clone());
        }
        ControlFlow::Continue(())
    }
}
