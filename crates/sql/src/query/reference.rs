//! What a statement uses of which object: noted where the object is named, decided once the whole
//! statement is known ([`crate::access::decide`]). A superuser's statements note nothing.
//!
//! A table whose rows policies hide from whoever asks is read through a barrier: a subquery with the
//! policies as its condition and a LIMIT, which SQLite neither flattens nor pushes conditions into.
//! So no expression of the statement is evaluated on a row before the policies have shown it.
//! Comparisons of stored columns with parameters, which can neither fail nor do anything, are
//! written into the barrier by [`push_down`], so that keys are still looked up.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use crate::access::{Identity, Object, Rows, Use, decide};
use crate::catalog::{Privilege, Table, View};

use super::Analyzer;
use super::scope::{Relation, ScopeColumn, Used};

/// An object in use.
#[derive(Debug)]
pub(super) struct Reference {
    object: Named,
    /// Whose rights count.
    identity: Arc<Identity>,
    privilege: Privilege,
    /// Columns by id, and whether they are used.
    columns: Vec<(u32, Used)>,
    /// It counts even if none of its columns is used.
    always: bool,
    /// The statement writes it: decided first, as PostgreSQL does.
    is_target: bool,
}

/// An object's part in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Read,
    Target,
    /// What is read of the target, if anything is.
    TargetIfRead,
}

#[derive(Debug, Clone)]
enum Named {
    Table(Arc<Table>),
    View(Arc<View>),
    Sequence(u32),
    Schema,
}

/// Columns of a written table, and whether they are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracked {
    columns: Vec<(u32, Used)>,
}

impl Tracked {
    /// A column is read.
    pub(crate) fn mark(&self, id: u32) {
        for (_, used) in self.columns.iter().filter(|(column, _)| *column == id) {
            used.set(true);
        }
    }

    /// Whether any column has been read.
    pub(crate) fn any(&self) -> bool {
        self.columns.iter().any(|(_, used)| used.get())
    }
}

impl Analyzer<'_> {
    /// A table as a FROM item: its SQLite text without the alias, its columns tracked.
    ///
    /// # Errors
    /// What is wrong with a policy.
    pub(super) fn readable(
        &mut self,
        table: &Arc<Table>,
        relation: &mut Relation,
    ) -> Result<String, SqlError> {
        let storage = table.storage_name();
        if self.acting.superuser {
            return Ok(storage);
        }
        let tracked = self.track(table, relation);
        self.refer(
            Named::Table(Arc::clone(table)),
            Privilege::Select,
            tracked.columns,
            Part::Read,
        );
        if self.locks {
            self.refer(
                Named::Table(Arc::clone(table)),
                Privilege::Update,
                Vec::new(),
                Part::Read,
            );
        }
        let id = relation.id.clone();
        let inner = self.fresh('p');
        let mut conditions = Vec::new();
        let commands: &[Privilege] = if self.locks {
            &[Privilege::Select, Privilege::Update]
        } else {
            &[Privilege::Select]
        };
        for &command in commands {
            conditions.extend(self.visible(table, command, &inner)?);
        }
        if conditions.is_empty() {
            return Ok(storage);
        }
        Ok(format!(
            "(SELECT * FROM {storage} AS {inner} WHERE {}{} LIMIT -1 OFFSET 0)",
            Barrier::marker(&id, &inner),
            conditions.join(" AND ")
        ))
    }

    /// Has the use of a relation's columns noted.
    pub(crate) fn track(&self, table: &Table, relation: &mut Relation) -> Tracked {
        let mut tracked = Tracked::default();
        if self.acting.superuser {
            return tracked;
        }
        for ((_, column), named) in table.visible_columns().zip(&mut relation.columns) {
            let used: Used = Rc::new(Cell::new(false));
            named.used = Some(Rc::clone(&used));
            tracked.columns.push((column.id, used));
        }
        tracked
    }

    /// As [`Analyzer::track`], of columns that are tracked already.
    pub(crate) fn track_again(tracked: &Tracked, relation: &mut Relation) {
        for ((_, used), named) in tracked.columns.iter().zip(&mut relation.columns) {
            named.used = Some(Rc::clone(used));
        }
    }

    /// Columns of a written table that are read need SELECT.
    pub(crate) fn reads_of_target(&mut self, table: &Arc<Table>, tracked: &Tracked) {
        if !self.acting.superuser {
            self.refer(
                Named::Table(Arc::clone(table)),
                Privilege::Select,
                tracked.columns.clone(),
                Part::TargetIfRead,
            );
        }
    }

    /// A statement writes these columns (places) of a table; none for whole rows.
    pub(crate) fn writes(&mut self, table: &Arc<Table>, privilege: Privilege, places: &[usize]) {
        if self.acting.superuser {
            return;
        }
        let columns = places
            .iter()
            .filter_map(|&place| table.columns.get(place))
            .map(|column| (column.id, Rc::new(Cell::new(true))))
            .collect();
        self.refer(
            Named::Table(Arc::clone(table)),
            privilege,
            columns,
            Part::Target,
        );
    }

    /// A sequence is used; one privilege of several is enough.
    ///
    /// # Errors
    /// 42501 if none of them is there.
    pub(crate) fn use_sequence(&mut self, id: u32, any: &[Privilege]) -> Result<(), SqlError> {
        if self.acting.superuser {
            return Ok(());
        }
        let mut refused = None;
        for &privilege in any {
            let reference = Reference {
                object: Named::Sequence(id),
                identity: Arc::clone(&self.acting),
                privilege,
                columns: Vec::new(),
                always: true,
                is_target: false,
            };
            match self.check(&reference) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// The columns of a view, tracked.
    pub(super) fn track_view(&mut self, view: &Arc<View>, columns: &mut [ScopeColumn]) {
        if self.acting.superuser {
            return;
        }
        let mut tracked = Vec::with_capacity(columns.len());
        for (number, column) in (1..).zip(columns) {
            let used: Used = Rc::new(Cell::new(false));
            column.used = Some(Rc::clone(&used));
            tracked.push((number, used));
        }
        self.refer(
            Named::View(Arc::clone(view)),
            Privilege::Select,
            tracked,
            Part::Read,
        );
    }

    /// With whose rights a view's relations are read. An owner that is gone has none.
    pub(super) fn owner_of_view(&self, view: &View) -> Arc<Identity> {
        if view.security_invoker {
            return Arc::clone(&self.acting);
        }
        let owner = view.access.owner();
        if *self.context.identity.role == *owner {
            return Arc::clone(&self.context.identity);
        }
        self.context.roles.owner(owner).unwrap_or_else(|| {
            Arc::new(Identity {
                role: owner.into(),
                roles: Arc::from([]),
                superuser: false,
                bypass_rls: false,
            })
        })
    }

    /// Whether names are looked for in `public`. In a view's text and in a definition's they have
    /// been found before.
    pub(super) fn may_search(&self) -> bool {
        let used = Use {
            privilege: Privilege::Usage,
            columns: &[],
        };
        let schema = Object::Schema(&self.catalog.schema.access);
        !self.expanding.is_empty()
            || self.acting.superuser
            || decide(&self.acting, schema, used).is_ok()
    }

    fn refer(
        &mut self,
        object: Named,
        privilege: Privilege,
        columns: Vec<(u32, Used)>,
        part: Part,
    ) {
        // A view's text was let into the schema when the view was made.
        if self.expanding.is_empty() && !self.references.iter().any(Reference::is_schema) {
            self.references.push(Reference {
                object: Named::Schema,
                identity: Arc::clone(&self.acting),
                privilege: Privilege::Usage,
                columns: Vec::new(),
                always: true,
                is_target: true,
            });
        }
        self.references.push(Reference {
            object,
            identity: Arc::clone(&self.acting),
            privilege,
            columns,
            always: part != Part::TargetIfRead,
            is_target: part != Part::Read,
        });
    }

    /// Decides about everything that the statement uses.
    ///
    /// # Errors
    /// 42501 for the first use that is not allowed.
    pub(crate) fn check_references(&mut self) -> Result<(), SqlError> {
        let mut references = std::mem::take(&mut self.references);
        references.sort_by_key(|reference| !reference.is_target);
        for reference in references {
            self.check(&reference)?;
        }
        Ok(())
    }

    fn check(&self, reference: &Reference) -> Result<(), SqlError> {
        let columns: Vec<u32> = reference
            .columns
            .iter()
            .filter(|(_, used)| used.get())
            .map(|(id, _)| *id)
            .collect();
        if columns.is_empty() && !reference.always {
            return Ok(());
        }
        let gone = || SqlError::new(ErrorCode::Internal, "a sequence in use is not there");
        let object = match &reference.object {
            Named::Table(table) => Object::Table(table),
            Named::View(view) => Object::View(view),
            Named::Sequence(id) => Object::Sequence(self.catalog.sequence(*id).ok_or_else(gone)?),
            Named::Schema => Object::Schema(&self.catalog.schema.access),
        };
        let used = Use {
            privilege: reference.privilege,
            columns: &columns,
        };
        decide(&reference.identity, object, used).map(drop)
    }

    /// The policies' conditions on the rows of a table that `privilege` may be used on, as one
    /// condition over the alias `id`; `None` if all may.
    ///
    /// # Errors
    /// What is wrong with a policy.
    pub(crate) fn visible(
        &mut self,
        table: &Arc<Table>,
        privilege: Privilege,
        id: &str,
    ) -> Result<Option<String>, SqlError> {
        let acting = Arc::clone(&self.acting);
        match crate::access::rows(table, &acting, privilege) {
            Rows::All => Ok(None),
            Rows::By(rule) => self.row_condition(table, &rule, id).map(Some),
        }
    }
}

impl Reference {
    fn is_schema(&self) -> bool {
        matches!(self.object, Named::Schema)
    }
}

/// The place in a barrier for conditions that may go before its policies.
struct Barrier;

impl Barrier {
    const OPEN: &str = "/*+";

    fn marker(id: &str, inner: &str) -> String {
        format!("{}{id} {inner}*/", Barrier::OPEN)
    }
}

/// Writes the harmless conjuncts of a WHERE into the barriers of its FROM.
pub(crate) fn push_down(from: &mut String, condition: &str) {
    if !from.contains(Barrier::OPEN) {
        return;
    }
    for conjunct in conjuncts(condition) {
        let Some((relation, column, rest)) = harmless(conjunct) else {
            continue;
        };
        let start = format!("{}{relation} ", Barrier::OPEN);
        let Some(at) = from.find(&start) else {
            continue;
        };
        let after = at + start.len();
        let Some(end) = from[after..].find("*/") else {
            continue;
        };
        let inner = from[after..after + end].to_owned();
        from.insert_str(at, &format!("{inner}.{column}{rest} AND "));
    }
}

/// Conjuncts of a condition that are harmless, as they stand: comparisons that may be evaluated on
/// any row.
pub(crate) fn harmless_conjuncts(condition: &str, id: &str) -> Vec<String> {
    conjuncts(condition)
        .into_iter()
        .filter(|conjunct| harmless(conjunct).is_some_and(|(relation, ..)| relation == id))
        .map(str::to_owned)
        .collect()
}

/// The parts of a condition that are joined by AND.
fn conjuncts(condition: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = vec![condition];
    while let Some(text) = rest.pop() {
        let text = stripped(text.trim());
        match split_and(text) {
            Some((left, right)) => {
                rest.push(right);
                rest.push(left);
            }
            None => found.push(text),
        }
    }
    found
}

/// Without parentheses around the whole.
fn stripped(text: &str) -> &str {
    let Some(inner) = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
    else {
        return text;
    };
    let mut depth = 0i32;
    for (_, byte) in plain_bytes(inner) {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return text;
        }
    }
    stripped(inner)
}

fn split_and(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0i32;
    let mut at_and = None;
    for (at, byte) in plain_bytes(text) {
        let rest = &text.as_bytes()[at..];
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b' ' if depth == 0 && rest.starts_with(b" AND ") => {
                at_and = at_and.or(Some(at));
            }
            // Beside these an AND joins other things than the whole.
            b' ' | b'C'
                if depth == 0
                    && [&b" OR "[..], b" BETWEEN ", b"CASE "]
                        .iter()
                        .any(|word| rest.starts_with(word)) =>
            {
                return None;
            }
            _ => {}
        }
    }
    at_and.map(|at| (&text[..at], &text[at + 5..]))
}

/// Bytes outside of string literals and quoted names.
fn plain_bytes(text: &str) -> impl Iterator<Item = (usize, u8)> + '_ {
    let mut quote = None;
    text.bytes().enumerate().filter(move |(_, byte)| {
        match (quote, *byte) {
            (None, b'\'' | b'"') => {
                quote = Some(*byte);
                return false;
            }
            (Some(open), byte) if open == byte => {
                quote = None;
                return false;
            }
            _ => {}
        }
        quote.is_none()
    })
}

/// `r1."c2" = ?3`, or another comparison of a stored column with a parameter or a number: the
/// alias, the column, and what follows it.
fn harmless(conjunct: &str) -> Option<(&str, &str, &str)> {
    let (relation, rest) = conjunct.split_once('.')?;
    let is_alias = relation.strip_prefix('r').is_some_and(is_digits);
    let name = rest.strip_prefix("\"c")?;
    let end = name.find('"')?;
    let column = &rest[..end + 3];
    let tail = &rest[end + 3..];
    let value = ["=", "==", "<=", ">=", "<", ">", "IS "]
        .iter()
        .find_map(|operator| tail.trim_start().strip_prefix(operator))?
        .trim();
    let is_value = value.strip_prefix('?').is_some_and(is_digits)
        || is_digits(value.strip_prefix('-').unwrap_or(value));
    (is_alias && is_digits(&name[..end]) && is_value).then_some((relation, column, tail))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{conjuncts, harmless, push_down};

    #[test]
    fn only_plain_comparisons_are_harmless() {
        assert_eq!(harmless("r1.\"c2\" = ?3"), Some(("r1", "\"c2\"", " = ?3")));
        assert_eq!(
            harmless("r1.\"c2\" IS ?3"),
            Some(("r1", "\"c2\"", " IS ?3"))
        );
        for other in [
            "sh_div(r1.\"c2\",?1) = ?3",
            "r1.\"c2\" = sh_f(?3)",
            "r1.\"c2\" = r2.\"c1\"",
            "x1.\"c2\" = ?3",
            "r1.\"c2\" = ?3 OR 1",
            "r1.\"c2\" || ?3",
            "r1.\"c2\" IS NOT ?3",
        ] {
            assert_eq!(harmless(other), None, "{other}");
        }
    }

    #[test]
    fn conjuncts_are_split_outside_of_quotes_and_parentheses() {
        assert_eq!(conjuncts("((a) AND (b AND c))"), ["a", "b", "c"]);
        assert_eq!(conjuncts("(a OR b AND c)"), ["a OR b AND c"]);
        assert_eq!(conjuncts("x = ' AND ' AND y"), ["x = ' AND '", "y"]);
        assert_eq!(conjuncts("a BETWEEN 1 AND 2"), ["a BETWEEN 1 AND 2"]);
    }

    #[test]
    fn a_key_reaches_the_barrier() {
        let mut from =
            "(SELECT * FROM t1 AS p2 WHERE /*+r1 p2*/(p2.\"c2\" = 1) LIMIT -1 OFFSET 0) AS r1"
                .to_owned();
        push_down(&mut from, "((r1.\"c1\" = ?1) AND sh_f(r1.\"c2\"))");
        assert_eq!(
            from,
            "(SELECT * FROM t1 AS p2 WHERE p2.\"c1\" = ?1 AND /*+r1 p2*/(p2.\"c2\" = 1) LIMIT -1 OFFSET 0) AS r1"
        );
    }
}
