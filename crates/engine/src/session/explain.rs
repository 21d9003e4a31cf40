//! EXPLAIN: SQLite's plan of a statement and its text, and with ANALYZE what running it came to.

use springhead_proto::{SqlError, Value, ValueRef};
use springhead_sql::plan::Explained;
use springhead_sql::{Plan, PlanKind};

use super::Session;
use super::execute::Answer;
use super::outcome::text_rows;

impl Session {
    pub(super) async fn explain(
        &mut self,
        explained: &Explained,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        let mut lines = self.steps(&explained.plan).await?;
        if explained.runs {
            let clock = std::sync::Arc::clone(&self.tenant.shared.clock);
            let started_ms = clock.monotonic_ms();
            let ran = Box::pin(self.run_data(&explained.plan, params, None)).await?;
            let Answer::Outcome(outcome) = ran else {
                return Ok(Answer::Stale);
            };
            let took_ms = clock.monotonic_ms().saturating_sub(started_ms);
            lines.push(format!("Result: {}", outcome.tag));
            lines.push(format!("Execution Time: {took_ms} ms"));
        }
        let lines = lines.into_iter().map(|line| vec![line]);
        text_rows("EXPLAIN", &["QUERY PLAN"], lines).map(Answer::Outcome)
    }

    /// SQLite's steps, and the text that it runs.
    async fn steps(&mut self, plan: &Plan) -> Result<Vec<String>, SqlError> {
        let sql = match &plan.kind {
            PlanKind::Query(query) => &query.sql,
            PlanKind::Write(write) => &write.sql,
            _ => return Err(SqlError::unsupported("EXPLAIN of this statement")),
        };
        let explained = format!("EXPLAIN QUERY PLAN {sql}");
        let mut rows = if self.holds_writer() {
            // What the block has defined, nobody else sees.
            self.read_storage(&explained).await?
        } else {
            let params = vec![Value::Null; plan.parameters.len()];
            self.tenant.read_snapshot(&explained, params).await?.0
        };
        let mut lines = Vec::new();
        while let Some(chunk) = rows.next_chunk()? {
            for row in chunk.rows() {
                if let Some(ValueRef::Text(detail)) = row.get(3) {
                    lines.push(detail.to_owned());
                }
            }
        }
        lines.push(format!("SQLite: {sql}"));
        Ok(lines)
    }
}
