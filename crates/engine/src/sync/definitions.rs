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
    let kind = kind_of(&definition)?;
    let is_springheads = definition.name().schema == QualifiedName::SPRINGHEAD;
    if is_springheads || !is_shown(catalog, identity, &definition) {
        return None;
    }
    let is_own = definition.access_mut().is_none_or(|access| {
        let owns = identity.is_member_of(access.owner());
        if !owns {
            // Who else may do what, and by which policies, is for owners to know.
            *access = Access::default();
        }
        owns
    });
    Some(Seen {
        kind,
        name: shown_name(&definition),
        definition,
        is_own,
    })
}

fn kind_of(definition: &Definition) -> Option<Kind> {
    Some(match definition {
        Definition::Type(_) => Kind::Type,
        Definition::Sequence(_) => Kind::Sequence,
        Definition::Table(_) => Kind::Table,
        Definition::View(_) => Kind::View,
        Definition::Routine(routine) if routine.procedure => Kind::Procedure,
        Definition::Routine(_) => Kind::Function,
        Definition::Trigger(_) => Kind::Trigger,
        // Who may look into a schema is decided where it is looked into; comments do nothing.
        Definition::Schema(_) | Definition::Comment(_) => return None,
    })
}

fn is_shown(catalog: &Catalog, identity: &Identity, definition: &Definition) -> bool {
    let table = |id: u32| {
        (catalog.table(CollectionId(id)))
            .is_some_and(|table| may_read(identity, Object::Table(table)))
    };
    match definition {
        Definition::Table(table) => may_read(identity, Object::Table(table)),
        Definition::View(view) => may_read(identity, Object::View(view)),
        Definition::Sequence(sequence) => {
            sequence.owned_by.is_some_and(|(owner, _)| table(owner))
                || may_read(identity, Object::Sequence(sequence))
        }
        Definition::Trigger(trigger) => {
            let view = catalog.view(trigger.relation);
            table(trigger.relation)
                || view.is_some_and(|view| may_read(identity, Object::View(view)))
        }
        _ => true,
    }
}

/// With what tells it apart: two tables' triggers may have one name, two functions differ by their
/// arguments.
fn shown_name(definition: &Definition) -> String {
    let name = crate::cdc::collection_name(definition.name());
    match definition {
        Definition::Trigger(trigger) => format!("{name}#{}", trigger.relation),
        Definition::Routine(routine) => {
            let types: Vec<_> = (routine.arguments.iter())
                .map(|argument| argument.pg_type.sql_name())
                .collect();
            format!("{name}({})", types.join(","))
        }
        _ => name,
    }
}

fn may_read(identity: &Identity, object: Object<'_>) -> bool {
    let used = Use {
        privilege: Privilege::Select,
        columns: &[],
    };
    decide(identity, object, used).is_ok()
}
