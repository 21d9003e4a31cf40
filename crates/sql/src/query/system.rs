//! `pg_catalog` and `information_schema` in statements: their relations in FROM, and names that
//! stand for object ids.

use springhead_proto::SqlError;

use crate::catalog::Catalog;
use crate::plan::OutputColumn;
use crate::planner::PlanContext;
use crate::system::{self, Surroundings, View};
use crate::types::{PgType, Reg};

use super::Analyzer;
use super::scope::{Relation, ScopeColumn};

/// What [`system`] asks about the session while a statement is planned.
struct Planning<'a>(&'a PlanContext);

impl Surroundings for Planning<'_> {
    fn setting(&self, name: &str) -> Option<String> {
        match name {
            "search_path" => Some(self.0.search_path.join(",")),
            "session_user" => Some(self.0.identity.role.to_string()),
            _ => None,
        }
    }

    fn settings(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn databases(&self) -> Vec<(u32, String)> {
        Vec::new()
    }

    fn roles(&self) -> Vec<system::Role> {
        Vec::new()
    }

    fn memberships(&self) -> Vec<(String, String, String, bool)> {
        Vec::new()
    }

    fn database_id(&self) -> u32 {
        0
    }

    fn database_bytes(&self) -> Option<i64> {
        None
    }
}

/// The object id that a constant names.
///
/// # Errors
/// 42P01, 42704 or 42883 if it names nothing.
pub(crate) fn reg_constant(
    catalog: &Catalog,
    context: &PlanContext,
    reg: Reg,
    name: &str,
) -> Result<u32, SqlError> {
    let view = View {
        catalog,
        identity: &context.identity,
        session: &Planning(context),
    };
    system::calls::read_reg(&view, reg, name)
}

impl Analyzer<'_> {
    /// A relation of the system's schemas as a FROM item: its SQLite text, and its columns.
    pub(crate) fn system_relation(
        &mut self,
        relation: &system::Relation,
        alias: &str,
    ) -> (String, Relation) {
        let id = self.fresh('r');
        let columns: Vec<ScopeColumn> = relation
            .columns
            .iter()
            .map(|(name, kind)| ScopeColumn {
                name: (*name).to_owned(),
                sql: format!("{id}.\"{name}\""),
                ty: kind.pg_type(),
                nullable: *name != "oid",
                origin: None,
                used: None,
            })
            .collect();
        let key = match columns.first() {
            Some(column) if column.name == "oid" => vec![column.sql.clone()],
            _ => Vec::new(),
        };
        let item = Relation {
            alias: alias.to_owned(),
            schema: (alias == relation.name).then(|| relation.schema.to_owned()),
            id: id.clone(),
            columns,
            key,
            is_scalar: false,
            table_oid: Some(relation.oid()),
        };
        (format!("{} AS {id}", relation.storage_name()), item)
    }
}

/// Object ids that leave the statement take their names with them.
pub(crate) fn show_names(sql: String, columns: &[OutputColumn]) -> String {
    if !columns.iter().any(|column| is_named(&column.pg_type)) {
        return sql;
    }
    let names: Vec<String> = (0..columns.len())
        .map(|place| format!("s{place}"))
        .collect();
    let outputs: Vec<String> = columns
        .iter()
        .zip(&names)
        .map(|(column, name)| match &column.pg_type {
            PgType::Reg(reg) => format!("sh_sys('reg_show','{}',{name})", reg.name()),
            _ => name.clone(),
        })
        .collect();
    format!(
        "WITH shown({}) AS ({sql}) SELECT {} FROM shown",
        names.join(","),
        outputs.join(",")
    )
}

fn is_named(ty: &PgType) -> bool {
    matches!(ty, PgType::Reg(_))
}
