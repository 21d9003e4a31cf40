//! EXPLAIN: SQLite's plan of a statement and its text, and with ANALYZE what running it came to; as
//! lines or as JSON in the shape of PostgreSQL's.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use springhead_proto::{SqlError, Value, ValueRef};
use springhead_sql::explain::{Explain, ExplainFormat, ExplainOptions, Explained};
use springhead_sql::plan::{OutputColumn, WriteVerb};
use springhead_sql::{Plan, PlanKind};

use super::Session;
use super::execute::Answer;
use super::outcome::text_rows;
use super::prepared::expect_none_null;

impl Session {
    /// `sql` is the whole statement, which has the arguments of an EXECUTE.
    pub(super) async fn explain(
        &mut self,
        sql: &str,
        explain: &Explain,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        let (plan, params) = match &explain.of {
            Explained::Plan(plan) => (Arc::clone(plan), params),
            Explained::Prepared(name) => {
                let plan = self.prepared(name)?.current_plan(self)?;
                match self.arguments(sql, &plan.parameters).await? {
                    Some(values) => (plan, values),
                    None => return Ok(Answer::Stale),
                }
            }
        };
        let Some(text) = sqlite_text(&plan) else {
            return Self::told(explain.options, utility(explain.options.format));
        };
        let steps = self.steps(text, plan.parameters.len()).await?;
        let mut report = Report {
            text,
            steps,
            ran: None,
        };
        if explain.options.runs {
            expect_none_null(&plan.parameters, &params)?;
            let clock = Arc::clone(&self.tenant.shared.clock);
            let started_ms = clock.monotonic_ms();
            let ran = Box::pin(self.run_data(&plan, params, None)).await?;
            let Answer::Outcome(outcome) = ran else {
                return Ok(Answer::Stale);
            };
            let took_ms = clock.monotonic_ms().saturating_sub(started_ms);
            report.ran = Some((outcome.tag.to_string(), took_ms));
        }
        let lines = match explain.options.format {
            ExplainFormat::Text => report.lines(),
            ExplainFormat::Json => {
                let outputs = if explain.options.verbose {
                    Outputs::of(self, &plan)
                } else {
                    Outputs::default()
                };
                vec![report.json(&plan, outputs)]
            }
        };
        Self::told(explain.options, lines)
    }

    fn told(options: ExplainOptions, lines: Vec<String>) -> Result<Answer, SqlError> {
        let rows = lines.into_iter().map(|line| vec![line]);
        let mut outcome = text_rows("EXPLAIN", &["QUERY PLAN"], rows)?;
        let pg_type = options.format.pg_type();
        outcome.columns = [OutputColumn::computed("QUERY PLAN", pg_type)].into();
        Ok(Answer::Outcome(outcome))
    }

    /// SQLite's steps.
    async fn steps(&mut self, sql: &str, parameters: usize) -> Result<Vec<Step>, SqlError> {
        let explained = format!("EXPLAIN QUERY PLAN {sql}");
        let mut rows = if self.holds_writer() {
            // What the block has defined, nobody else sees.
            self.read_storage(&explained).await?
        } else {
            let params = vec![Value::Null; parameters];
            self.tenant.read_snapshot(&explained, params).await?.0
        };
        let mut steps = Vec::new();
        while let Some(chunk) = rows.next_chunk()? {
            for row in chunk.rows() {
                if let (
                    Some(ValueRef::Integer(id)),
                    Some(ValueRef::Integer(parent)),
                    Some(ValueRef::Text(detail)),
                ) = (row.get(0), row.get(1), row.get(3))
                {
                    steps.push(Step {
                        id,
                        parent,
                        detail: detail.to_owned(),
                    });
                }
            }
        }
        Ok(steps)
    }
}

/// One row of SQLite's EXPLAIN QUERY PLAN.
struct Step {
    id: i64,
    /// 0 at the top.
    parent: i64,
    detail: String,
}

/// What there is to say of a statement.
struct Report<'p> {
    /// What SQLite runs.
    text: &'p str,
    steps: Vec<Step>,
    /// What running it came to, and the milliseconds that it took.
    ran: Option<(String, u64)>,
}

impl Report<'_> {
    fn lines(self) -> Vec<String> {
        let mut lines: Vec<String> = self.steps.into_iter().map(|step| step.detail).collect();
        lines.push(format!("SQLite: {}", self.text));
        if let Some((result, took_ms)) = self.ran {
            lines.push(format!("Result: {result}"));
            lines.push(format!("Execution Time: {took_ms} ms"));
        }
        lines
    }

    fn json(self, plan: &Plan, outputs: Outputs) -> String {
        let mut root = Map::new();
        root.insert("Node Type".to_owned(), node_type(&plan.kind).into());
        let mut plans = nodes(&self.steps, 0);
        if !outputs.nullable.is_empty() {
            root.insert("Join Type".to_owned(), "Left".into());
            plans.insert(
                0,
                json!({ "Node Type": "Nullable Side", "Parent Relationship": "Inner", "Output": outputs.nullable }),
            );
        }
        if !outputs.all.is_empty() {
            root.insert("Output".to_owned(), outputs.all.into());
        }
        if !plans.is_empty() {
            root.insert("Plans".to_owned(), plans.into());
        }
        let mut report = json!({ "Plan": root, "SQLite": self.text });
        if let Some((result, took_ms)) = self.ran {
            report["Result"] = result.into();
            report["Execution Time"] = took_ms.into();
        }
        Json::Array(vec![report]).to_string()
    }
}

/// The steps below `parent`. They come in order, each after its parent.
fn nodes(steps: &[Step], parent: i64) -> Vec<Json> {
    let below = steps.iter().filter(|step| step.parent == parent);
    below
        .map(|step| {
            let mut node = json!({ "Node Type": step.detail });
            let plans = nodes(steps, step.id);
            if !plans.is_empty() {
                node["Plans"] = plans.into();
            }
            node
        })
        .collect()
}

/// The columns of a result by unique names.
#[derive(Default)]
struct Outputs {
    all: Vec<String>,
    /// Those that are `NOT NULL` in their tables and can be NULL here, for an outer join may have
    /// nothing on their side.
    nullable: Vec<String>,
}

impl Outputs {
    fn of(session: &Session, plan: &Plan) -> Outputs {
        let columns = match &plan.kind {
            PlanKind::Query(query) => &query.columns,
            PlanKind::Write(write) => &write.returning,
            _ => return Outputs::default(),
        };
        let catalog = session.catalog();
        let mut outputs = Outputs::default();
        for column in columns.iter() {
            let of_table = column.origin.and_then(|(collection, id)| {
                let table = catalog.table(collection)?;
                let (_, stored) = table
                    .visible_columns()
                    .find(|(_, stored)| stored.id == id)?;
                Some((
                    format!("{}.{}", table.name.name, stored.name),
                    stored.not_null,
                ))
            });
            let (mut name, is_not_null) = of_table.unwrap_or_else(|| (column.name.clone(), false));
            if outputs.all.contains(&name) {
                name = format!("{name} ({})", outputs.all.len() + 1);
            }
            if is_not_null && column.nullable {
                outputs.nullable.push(name.clone());
            }
            outputs.all.push(name);
        }
        outputs
    }
}

/// What SQLite runs for a plan; `None` if it is no query and no change of rows.
fn sqlite_text(plan: &Plan) -> Option<&str> {
    match &plan.kind {
        PlanKind::Query(query) => Some(&query.sql),
        PlanKind::Write(write) => Some(&write.sql),
        _ => None,
    }
}

/// What is said of statements that have no plan.
fn utility(format: ExplainFormat) -> Vec<String> {
    vec![match format {
        ExplainFormat::Text => "Utility statements have no plan structure".to_owned(),
        ExplainFormat::Json => json!(["Utility Statement"]).to_string(),
    }]
}

fn node_type(kind: &PlanKind) -> &'static str {
    match kind {
        PlanKind::Write(write) if !matches!(write.verb, WriteVerb::Select | WriteVerb::Call) => {
            "ModifyTable"
        }
        _ => "Result",
    }
}
