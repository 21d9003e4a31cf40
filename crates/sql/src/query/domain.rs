//! Values that become a domain's: its conditions are asked where the value is converted.

use springhead_proto::SqlError;
use sqlparser::tokenizer::Location;

use crate::catalog::UserType;
use crate::functions::CastContext;
use crate::types::{DomainRef, PgType};

use super::Analyzer;
use super::names::quote_text;
use super::scope::{Relation, Scope, ScopeColumn};
use super::typed::Typed;

impl Analyzer<'_> {
    /// As [`Analyzer::coerce`], to a domain: its conditions and those of the domains that it is over
    /// are asked, the innermost first.
    ///
    /// # Errors
    /// As there; 0A000 in what a table keeps, where there can be no query.
    pub(crate) fn coerce_to_domain(
        &mut self,
        value: &Typed,
        user: &DomainRef,
        context: CastContext,
    ) -> Result<String, SqlError> {
        let mut chain = vec![user];
        while let Some(PgType::Domain(inner)) = chain.last().map(|user| user.base()) {
            chain.push(inner);
        }
        let base = chain.last().map_or(user.base(), |user| user.base());
        let mut text = self.coerce(value, base, context)?;
        for inner in chain.iter().rev() {
            text = self.in_domain(inner, user.name(), text, value.place)?;
        }
        Ok(text)
    }

    /// The SQLite text of `text`, a value of the domain's base type, that fails where the domain
    /// does not take it. `shown` is the domain that the value is to become.
    fn in_domain(
        &mut self,
        user: &DomainRef,
        shown: &str,
        text: String,
        place: Location,
    ) -> Result<String, SqlError> {
        let Some(of) = self.catalog.types.get(&user.id()).cloned() else {
            return Ok(text);
        };
        let Some(domain) = of.domain() else {
            return Ok(text);
        };
        if domain.not_null.is_none() && domain.checks.is_empty() {
            return Ok(text);
        }
        // Of what a table keeps, only DEFAULT and USING are run as queries.
        if self.rules.no_volatile {
            let what = self.rules.place.unwrap_or("this place");
            return Err(self.at(
                SqlError::unsupported(format_args!("a cast to a domain in {what}")),
                place,
            ));
        }
        let id = self.fresh('d');
        let value = format!("{id}.v");
        let mut arms = String::new();
        if domain.not_null.is_some() {
            arms.push_str(&format!(
                " WHEN {value} IS NULL THEN sh_refuse_value({},NULL)",
                quote_text(shown)
            ));
        }
        for check in &domain.checks {
            let condition = self.domain_condition(&of, &check.expression, &value)?;
            arms.push_str(&format!(
                " WHEN ({condition}) IS FALSE THEN sh_refuse_value({},{})",
                quote_text(shown),
                quote_text(&check.name)
            ));
        }
        Ok(format!(
            "(SELECT CASE{arms} ELSE {value} END FROM (SELECT {text} AS v) AS {id})"
        ))
    }

    /// A check's condition over a value.
    fn domain_condition(
        &mut self,
        of: &UserType,
        expression: &str,
        value: &str,
    ) -> Result<String, SqlError> {
        let expr = crate::ddl::parse_expression(expression)?;
        let column = ScopeColumn {
            name: "value".to_owned(),
            sql: value.to_owned(),
            ty: of
                .domain()
                .map_or(PgType::Text, |domain| domain.base.of_value()),
            nullable: true,
            origin: None,
            used: None,
        };
        let scope = Scope {
            columns: vec![column.clone()],
            relations: vec![Relation {
                alias: "value".to_owned(),
                schema: None,
                id: String::new(),
                columns: vec![column],
                key: Vec::new(),
                is_scalar: false,
                table_oid: None,
            }],
            closed: true,
            ..Scope::default()
        };
        // What is said of it has no place in this statement.
        self.expanding.push(of.id);
        let condition = self.in_scope(scope, |analyzer| {
            let condition = analyzer.condition_value(&expr, "CHECK")?;
            analyzer.text(&condition)
        });
        self.expanding.pop();
        condition
    }
}
