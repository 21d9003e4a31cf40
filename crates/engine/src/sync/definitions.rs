//! The definitions that a device's user is shown, as a set with a hash, and the way from one set to
//! a later one.
//!
//! A set is a value of the catalog and of who asks: what a user has nothing to do with is not in it,
//! and whoever does not own a table is not told its grants and policies. Whatever a session has
//! missed, the difference between the set it has told of and the one in force brings its device to
//! that one's hash; there is no queue that could be full.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::sync::{CatalogHash, CatalogVersion, Definition as Frame, DefinitionAction};
use springhead_proto::{CollectionId, Cursor, SqlError, TenantId, ValueRef};
use springhead_sql::access::{Identity, Object, Use, decide};
use springhead_sql::catalog::{Access, Catalog, Definition, Privilege, QualifiedName};

use crate::Tenant;

/// One definition as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub sql: String,
    pub payload: String,
}

/// All that an identity is shown of a catalog.
#[derive(Debug)]
pub(crate) struct DefinitionSet {
    pub version: CatalogVersion,
    pub hash: CatalogHash,
    /// By type and name. Types come in an order in which each rests on earlier ones alone.
    pub shown: BTreeMap<(Kind, String), Arc<Shown>>,
}

/// What a definition is, in the order in which a device makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Type,
    Sequence,
    Table,
    View,
    Function,
    Procedure,
    Trigger,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Kind::Type => "type",
            Kind::Sequence => "sequence",
            Kind::Table => "table",
            Kind::View => "view",
            Kind::Function => "function",
            Kind::Procedure => "procedure",
            Kind::Trigger => "trigger",
        }
    }
}

/// The sets of all tenants' present catalogs, by who asks.
#[derive(Default)]
pub(crate) struct DefinitionSets {
    sets: Mutex<FxHashMap<TenantId, Vec<Kept>>>,
}

/// A set, and whose it is.
type Kept = (Arc<Identity>, Arc<DefinitionSet>);

/// Identities of one tenant whose sets are kept.
const MAX_SETS: usize = 64;

impl DefinitionSets {
    /// What `identity` is shown of the tenant's catalog.
    ///
    /// # Errors
    /// What reading the statements says.
    pub(crate) async fn of(
        &self,
        tenant: &Tenant,
        identity: &Arc<Identity>,
    ) -> Result<Arc<DefinitionSet>, SqlError> {
        let catalog = tenant.catalog();
        {
            let sets = self.sets.lock();
            let known = sets.get(&tenant.id()).and_then(|sets| {
                sets.iter().find(|(whose, set)| {
                    set.version.0 == catalog.version
                        && (Arc::ptr_eq(whose, identity) || whose == identity)
                })
            });
            if let Some((_, set)) = known {
                return Ok(Arc::clone(set));
            }
        }
        let statements = statements(tenant).await?;
        let made = Arc::new(DefinitionSet::of(&catalog, identity, &statements));
        let mut sets = self.sets.lock();
        let sets = sets.entry(tenant.id()).or_default();
        sets.retain(|(whose, set)| set.version.0 >= catalog.version && whose != identity);
        sets.truncate(MAX_SETS - 1);
        sets.insert(0, (Arc::clone(identity), Arc::clone(&made)));
        Ok(made)
    }
}

/// The statements that last changed each definition, by type and name.
type Statements = FxHashMap<(String, String), String>;

async fn statements(tenant: &Tenant) -> Result<Statements, SqlError> {
    let sql = "SELECT c2, c3, c5 FROM t1 WHERE c7 = 'put'";
    let (mut rows, _) = tenant.read_snapshot(sql, Vec::new()).await?;
    let mut statements = Statements::default();
    while let Some(chunk) = rows.next_chunk()? {
        for row in chunk.rows() {
            let text = |place| match row.get(place) {
                Some(ValueRef::Text(text)) => text.to_owned(),
                _ => String::new(),
            };
            statements.insert((text(0), text(1)), text(2));
        }
    }
    Ok(statements)
}

impl DefinitionSet {
    fn of(catalog: &Catalog, identity: &Identity, statements: &Statements) -> DefinitionSet {
        let mut set = DefinitionSet {
            version: CatalogVersion(catalog.version),
            hash: CatalogHash::default(),
            shown: BTreeMap::new(),
        };
        for definition in catalog.definitions() {
            let Some(seen) = seen(catalog, identity, definition) else {
                continue;
            };
            let payload = serde_json::to_string(&seen.definition).expect("a definition is JSON");
            set.hash = set.hash.with(seen.kind.word(), &seen.name, &payload);
            let definition = &seen.definition;
            let key = (
                definition.kind().to_owned(),
                springhead_sql::plan::display_name(definition.name()),
            );
            let sql = statements.get(&key).filter(|_| seen.is_own);
            let shown = Shown {
                sql: sql.cloned().unwrap_or_default(),
                payload,
            };
            set.shown.insert((seen.kind, seen.name), Arc::new(shown));
        }
        set
    }

    /// The whole set as frames.
    pub(crate) fn frames(&self, cursor: Cursor) -> Vec<Frame> {
        let count = u32::try_from(self.shown.len()).unwrap_or(u32::MAX);
        let mut hash = CatalogHash::default();
        (self.shown.iter().zip(0..))
            .map(|(((kind, name), shown), place)| {
                hash = hash.with(kind.word(), name, &shown.payload);
                let mut frame = self.frame(cursor, *kind, name, shown, DefinitionAction::Put);
                frame.hash = hash;
                frame.set = Some([place, count]);
                frame
            })
            .collect()
    }

    /// What makes this set of `before`: what goes first, last made first, then what comes.
    pub(crate) fn since(&self, before: &DefinitionSet, cursor: Cursor) -> Vec<Frame> {
        let mut hash = before.hash;
        let mut frames = Vec::new();
        for ((kind, name), shown) in before.shown.iter().rev() {
            if !self.shown.contains_key(&(*kind, name.clone())) {
                hash = hash.without(kind.word(), name, &shown.payload);
                let mut frame = self.frame(cursor, *kind, name, shown, DefinitionAction::Drop);
                frame.hash = hash;
                frames.push(frame);
            }
        }
        for ((kind, name), shown) in &self.shown {
            let known = before.shown.get(&(*kind, name.clone()));
            if known.is_some_and(|known| known == shown) {
                continue;
            }
            if let Some(known) = known {
                hash = hash.without(kind.word(), name, &known.payload);
            }
            hash = hash.with(kind.word(), name, &shown.payload);
            let mut frame = self.frame(cursor, *kind, name, shown, DefinitionAction::Put);
            frame.hash = hash;
            frames.push(frame);
        }
        frames
    }

    fn frame(
        &self,
        cursor: Cursor,
        kind: Kind,
        name: &str,
        shown: &Shown,
        action: DefinitionAction,
    ) -> Frame {
        Frame {
            cursor,
            catalog_version: self.version,
            kind: kind.word().to_owned(),
            name: name.to_owned(),
            action,
            sql: shown.sql.clone(),
            payload: shown.payload.clone(),
            hash: self.hash,
            set: None,
        }
    }
}

/// A definition as an identity is shown it.
struct Seen {
    kind: Kind,
    name: String,
    definition: Definition,
    /// Its owner, who may also know the statement.
    is_own: bool,
}

/// `None` if it is not shown at all.
fn seen(catalog: &Catalog, identity: &Identity, mut definition: Definition) -> Option<Seen> {
    let owns = |access: &Access| identity.is_member_of(access.owner());
    let (kind, name, is_own) = match &mut definition {
        Definition::Table(table) => {
            if !may_read(identity, Object::Table(table)) {
                return None;
            }
            let is_own = owns(&table.access);
            if !is_own {
                table.access = Access::default();
            }
            (Kind::Table, table.name.clone(), is_own)
        }
        Definition::View(view) => {
            if !may_read(identity, Object::View(view)) {
                return None;
            }
            let is_own = owns(&view.access);
            if !is_own {
                view.access = Access::default();
            }
            (Kind::View, view.name.clone(), is_own)
        }
        Definition::Sequence(sequence) => {
            let of_shown = (sequence.owned_by)
                .and_then(|(table, _)| catalog.table(CollectionId(table)))
                .is_some_and(|table| may_read(identity, Object::Table(table)));
            if !of_shown && !may_read(identity, Object::Sequence(sequence)) {
                return None;
            }
            let is_own = owns(&sequence.access);
            if !is_own {
                sequence.access = Access::default();
            }
            (Kind::Sequence, sequence.name.clone(), is_own)
        }
        Definition::Routine(routine) => {
            let kind = if routine.procedure {
                Kind::Procedure
            } else {
                Kind::Function
            };
            (kind, routine.name.clone(), true)
        }
        Definition::Trigger(trigger) => {
            let id = CollectionId(trigger.relation);
            let is_shown = match (catalog.table(id), catalog.view(trigger.relation)) {
                (Some(table), _) => may_read(identity, Object::Table(table)),
                (_, Some(view)) => may_read(identity, Object::View(view)),
                _ => false,
            };
            if !is_shown {
                return None;
            }
            (Kind::Trigger, trigger.name.clone(), true)
        }
        Definition::Type(user_type) => {
            let is_own = owns(&user_type.access);
            if !is_own {
                user_type.access = Access::default();
            }
            (Kind::Type, user_type.name.clone(), is_own)
        }
        // Who may look into a schema is decided where it is looked into; comments do nothing.
        Definition::Schema(_) | Definition::Comment(_) => return None,
    };
    if name.schema == QualifiedName::SPRINGHEAD {
        return None;
    }
    let name = match &definition {
        // Two tables' triggers may have one name, two functions differ by their arguments.
        Definition::Trigger(trigger) => {
            format!(
                "{}#{}",
                crate::cdc::collection_name(&name),
                trigger.relation
            )
        }
        Definition::Routine(routine) => {
            let types: Vec<_> = (routine.arguments.iter())
                .map(|argument| argument.pg_type.sql_name())
                .collect();
            format!(
                "{}({})",
                crate::cdc::collection_name(&name),
                types.join(",")
            )
        }
        _ => crate::cdc::collection_name(&name),
    };
    Some(Seen {
        kind,
        name,
        definition,
        is_own,
    })
}

fn may_read(identity: &Identity, object: Object<'_>) -> bool {
    let used = Use {
        privilege: Privilege::Select,
        columns: &[],
    };
    decide(identity, object, used).is_ok()
}
