//! UNION ALL: its parts are kept each by itself, and their rows are the result's.

use springhead_proto::SqlError;
use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};

use super::planning::{Planning, declared};
use super::probe::Want;
use super::simple::is_bare;
use super::{LiveClass, LivePlan, Occurrence};

/// The parts of a query that is UNION ALL of others and nothing more.
fn parts(query: &ast::Query) -> Option<Vec<ast::Query>> {
    let mut found = Vec::new();
    (is_bare(query) && collect(&query.body, query, &mut found) && found.len() > 1).then_some(found)
}

fn collect(body: &SetExpr, query: &ast::Query, found: &mut Vec<ast::Query>) -> bool {
    match body {
        SetExpr::SetOperation {
            left,
            op: SetOperator::Union,
            set_quantifier: SetQuantifier::All,
            right,
        } => collect(left, query, found) && collect(right, query, found),
        SetExpr::Query(inner) => is_bare(inner) && collect(&inner.body, query, found),
        SetExpr::Select(_) => {
            found.push(ast::Query {
                body: Box::new(body.clone()),
                ..query.clone()
            });
            true
        }
        _ => false,
    }
}

impl Planning<'_> {
    /// Makes an evaluated query a union that is kept by its parts, if it is one of rows that have keys.
    pub(super) fn unite(&self, query: &ast::Query, plan: &mut LivePlan) -> Result<(), SqlError> {
        let Some(parts) = parts(query) else {
            return Ok(());
        };
        let types = declared(&plan.parameters);
        let planning = Planning {
            types: &types,
            marks: self.marks.clone(),
            ..*self
        };
        let mut occurrences = Vec::new();
        for (number, query) in parts.iter().enumerate() {
            let Ok(part) = planning.plan(query, false) else {
                return Ok(());
            };
            // Else its rows are converted to what the whole has.
            let is_alike = part.columns.len() == plan.columns.len()
                && (part.columns.iter().zip(plan.columns.iter()))
                    .all(|(part, whole)| part.pg_type == whole.pg_type);
            if !is_alike {
                return Ok(());
            }
            match (part.class, &part.reads[..]) {
                (LiveClass::Rows, [collection]) => {
                    let first = plan.parameters.len() + 1;
                    let want = Want::OfKey { index: 0, first };
                    occurrences.push(Occurrence {
                        collection: *collection,
                        part: number,
                        conditions: part.conditions,
                        of_key: planning.run(query, &types, want)?.1,
                    });
                }
                (LiveClass::Join, _) => {
                    occurrences.extend((part.occurrences.into_iter()).map(|occurrence| {
                        Occurrence {
                            part: number,
                            ..occurrence
                        }
                    }));
                }
                _ => return Ok(()),
            }
        }
        plan.occurrences = occurrences;
        plan.class = LiveClass::Union;
        plan.because = "UNION ALL of filters and joins";
        Ok(())
    }
}
