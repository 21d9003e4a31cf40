//! EXECUTE in a program: the text is computed and planned when it is its turn.

use springhead_proto::{ErrorCode, SqlError, Value};
use springhead_sql::program::{Dynamic, Planned, Then};

use super::{Flow, Frame, Runner, Written};

impl Runner<'_> {
    pub(super) fn execute(
        &self,
        dynamic: &Dynamic,
        frame: &mut Frame<'_>,
    ) -> Result<Flow, SqlError> {
        let outer = (frame.slots.len(), frame.more.len());
        let flow = self.execute_inside(dynamic, frame);
        // What it has added is seen by nothing after it.
        frame.slots.truncate(outer.0);
        frame.more.truncate(outer.1);
        flow
    }

    fn execute_inside(&self, dynamic: &Dynamic, frame: &mut Frame<'_>) -> Result<Flow, SqlError> {
        let Value::Text(text) = self.value(&dynamic.text, frame)? else {
            return Err(SqlError::new(
                ErrorCode::NullNotAllowed,
                "query string argument of EXECUTE is null",
            ));
        };
        if let Some(using) = &dynamic.using {
            let row = self.run(using, frame)?.rows.into_iter().next();
            for (slot, value) in dynamic.parameters.iter().zip(row.unwrap_or_default()) {
                frame.slots[*slot] = value;
            }
        }
        let planned = self.planned(dynamic, &text, frame)?;
        let mut written = Written {
            rows: Vec::new(),
            affected: 0,
        };
        for run in &planned.runs {
            written = self.run(run, frame)?;
        }
        match &dynamic.then {
            Then::Into { strict, .. } => {
                let (into, convert) = (&planned.into, &planned.convert);
                self.take_row(written, into, *strict, convert, frame)?;
                self.steps(&planned.after, frame)
            }
            Then::For { .. } => {
                let any = !written.rows.is_empty();
                let (into, convert) = (&planned.into, &planned.convert);
                let flow = self.for_rows(written.rows, into, convert, &planned.after, frame);
                self.found(frame, dynamic.found(), any);
                flow
            }
            Then::Return => {
                frame.affected = i64::try_from(written.affected).unwrap_or(i64::MAX);
                self.found(frame, dynamic.found(), written.affected > 0);
                frame.rows.extend(written.rows);
                Ok(Flow::Next)
            }
        }
    }

    fn planned(
        &self,
        dynamic: &Dynamic,
        text: &str,
        frame: &mut Frame<'_>,
    ) -> Result<Planned, SqlError> {
        let own = frame.program.slots.len();
        let mut types = frame.program.slots.clone();
        types.extend_from_slice(&frame.more);
        let planned = (self.library).computed(dynamic, text, types, frame.program.volatile)?;
        frame.more = planned.slots[own..].to_vec();
        frame.slots.resize(planned.slots.len(), Value::Null);
        Ok(planned)
    }
}
