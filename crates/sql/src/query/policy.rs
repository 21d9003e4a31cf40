//! Row policies inside a statement: from their PostgreSQL texts to conditions over the table's
//! storage columns. A policy's subqueries are subject to the rights of whoever reads the table.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use crate::access::{RowRule, Rows};
use crate::catalog::{Policy, Privilege, Table};
use crate::plan::RowCheck;

use super::Analyzer;
use super::expression::table_relation;
use super::names::quote_text;
use super::scope::Scope;

impl Analyzer<'_> {
    /// The condition that a row rule comes to, over the table's alias `id`.
    ///
    /// # Errors
    /// What is wrong with a policy; 42P17 for one that needs itself.
    pub(crate) fn row_condition(
        &mut self,
        table: &Arc<Table>,
        rule: &RowRule<'_>,
        id: &str,
    ) -> Result<String, SqlError> {
        let permissive = self.any_of(table, &rule.permissive, id, false)?;
        let mut all = vec![permissive];
        for policy in &rule.restrictive {
            all.extend(self.policy_text(table, policy, id, false)?);
        }
        Ok(if all.len() == 1 {
            all.remove(0)
        } else {
            format!("({})", all.join(" AND "))
        })
    }

    /// What is checked of rows that a statement has written: `commands` with whether their CHECK
    /// counts (else USING), in the order in which PostgreSQL checks them.
    ///
    /// # Errors
    /// As [`Analyzer::row_condition`].
    pub(crate) fn row_check(
        &mut self,
        table: &Arc<Table>,
        inserted: bool,
        commands: &[(Privilege, bool)],
    ) -> Result<Option<RowCheck>, SqlError> {
        let acting = Arc::clone(&self.acting);
        let id = self.fresh('p');
        let mut cases = String::new();
        let mut violations = Vec::new();
        let mut add = |condition: &str, violation: String| {
            cases.push_str(&format!(
                " WHEN ({condition}) IS NOT TRUE THEN {}",
                violations.len()
            ));
            violations.push(violation);
        };
        let generic = violation(table, None, "");
        for &(privilege, by_check) in commands {
            let Rows::By(rule) = crate::access::rows(table, &acting, privilege) else {
                continue;
            };
            add(
                &self.any_of(table, &rule.permissive, &id, by_check)?,
                generic.clone(),
            );
            for policy in &rule.restrictive {
                if let Some(condition) = self.policy_text(table, policy, &id, by_check)? {
                    add(&condition, violation(table, Some(&policy.name), ""));
                }
            }
        }
        if violations.is_empty() {
            return Ok(None);
        }
        Ok(Some(RowCheck {
            inserted,
            sql: format!(
                "SELECT CASE{cases} END FROM {} AS {id} WHERE {id}.rowid=?1",
                table.storage_name()
            ),
            violations,
        }))
    }

    /// The condition on rows that an INSERT proposes, as `id`; it fails rather than
    /// being false. `None` if every row may be inserted.
    ///
    /// # Errors
    /// As [`Analyzer::row_condition`].
    pub(crate) fn proposal_check(
        &mut self,
        table: &Arc<Table>,
        id: &str,
        reads: bool,
    ) -> Result<Option<String>, SqlError> {
        let commands = [(Privilege::Insert, true), (Privilege::Select, false)];
        let commands = &commands[..if reads { 2 } else { 1 }];
        self.or_fail(table, id, commands, "")
    }

    /// The same for the row that is there, which ON CONFLICT DO UPDATE is about to change.
    ///
    /// # Errors
    /// As [`Analyzer::row_condition`].
    pub(crate) fn conflict_check(
        &mut self,
        table: &Arc<Table>,
        id: &str,
        reads: bool,
    ) -> Result<Option<String>, SqlError> {
        let commands = [(Privilege::Update, false), (Privilege::Select, false)];
        let commands = &commands[..if reads { 2 } else { 1 }];
        self.or_fail(table, id, commands, " (USING expression)")
    }

    fn or_fail(
        &mut self,
        table: &Arc<Table>,
        id: &str,
        commands: &[(Privilege, bool)],
        how: &str,
    ) -> Result<Option<String>, SqlError> {
        let acting = Arc::clone(&self.acting);
        let mut cases = String::new();
        let mut add = |condition: &str, policy: Option<&str>| {
            cases.push_str(&format!(
                " WHEN ({condition}) IS NOT TRUE THEN sh_refuse_row({})",
                quote_text(&violation(table, policy, how))
            ));
        };
        for &(privilege, by_check) in commands {
            let Rows::By(rule) = crate::access::rows(table, &acting, privilege) else {
                continue;
            };
            add(&self.any_of(table, &rule.permissive, id, by_check)?, None);
            for policy in &rule.restrictive {
                if let Some(condition) = self.policy_text(table, policy, id, by_check)? {
                    add(&condition, Some(&policy.name));
                }
            }
        }
        Ok((!cases.is_empty()).then(|| format!("CASE{cases} ELSE 1 END")))
    }

    /// One of the policies is true of the row; never without any.
    fn any_of(
        &mut self,
        table: &Arc<Table>,
        policies: &[&Policy],
        id: &str,
        by_check: bool,
    ) -> Result<String, SqlError> {
        let holds = |policy: &&Policy| {
            let text = condition_of(policy, by_check);
            text.is_some_and(|text| text.eq_ignore_ascii_case("true"))
        };
        if policies.iter().any(holds) {
            // What the others ask does not matter.
            return Ok("1".to_owned());
        }
        let mut texts = Vec::with_capacity(policies.len());
        for policy in policies {
            // A policy without a condition of this kind lets nothing through.
            texts.extend(self.policy_text(table, policy, id, by_check)?);
        }
        Ok(match texts.len() {
            0 => "0".to_owned(),
            1 => texts.remove(0),
            _ => format!("({})", texts.join(" OR ")),
        })
    }

    fn policy_text(
        &mut self,
        table: &Arc<Table>,
        policy: &Policy,
        id: &str,
        by_check: bool,
    ) -> Result<Option<String>, SqlError> {
        let Some(text) = condition_of(policy, by_check) else {
            return Ok(None);
        };
        if self.policing.contains(&table.collection()) {
            return Err(SqlError::new(
                ErrorCode::InvalidObjectDefinition,
                format!(
                    "infinite recursion detected in policy for relation \"{}\"",
                    table.name.name
                ),
            ));
        }
        let context = self.context;
        let expr =
            crate::planner::parse_expression(text, context.max_statement_bytes, context.max_depth)?;
        let relation = table_relation(table, &policy.known_as, Some(id));
        let scope = Scope {
            columns: relation.columns.clone(),
            relations: vec![relation],
            aggregates_refused: Some("policy expressions"),
            windows_refused: Some("policy expressions"),
            closed: true,
            ..Scope::default()
        };
        // Its text is not this statement's: errors in it have no place here.
        self.expanding.push(0);
        self.policing.push(table.collection());
        let locks = std::mem::take(&mut self.locks);
        let condition = self.in_scope(scope, |analyzer| analyzer.condition(&expr, "POLICY"));
        self.locks = locks;
        self.policing.pop();
        self.expanding.pop();
        condition.map(Some)
    }
}

/// The text of a policy's condition on rows that are there, or (`by_check`) on new ones.
fn condition_of(policy: &Policy, by_check: bool) -> Option<&str> {
    let text = match by_check {
        true => policy.check.as_ref().or(policy.using.as_ref()),
        false => policy.using.as_ref(),
    };
    text.map(String::as_str)
}

/// PostgreSQL's words for a row that may not be written.
fn violation(table: &Table, policy: Option<&str>, how: &str) -> String {
    let named = policy.map_or_else(String::new, |policy| format!(" \"{policy}\""));
    format!(
        "new row violates row-level security policy{named}{how} for table \"{}\"",
        table.name.name
    )
}
