//! A feed that has been checked against the catalog, and what it makes of each change: who may see
//! it under which name, whether the filter lets it pass and as what. Shared by all subscribers that
//! ask for the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use springhead_proto::{
    ChangeKind, ChangeRef, CollectionId, ErrorCode, RowRef, SchemaVersion, SqlError, TenantId,
    ValueRef,
};
use springhead_sql::Catalog;
use springhead_sql::access::{Columns, Identity};
use springhead_sql::catalog::{QualifiedName, Table};
use springhead_sql::filter::PolicyFilter;
use springhead_sql::plan::Filter;

use super::event::{Event, Image, RowForm, definition};
use super::filter::{BoundFilter, Lease};
use super::sight::{Reader, Sight};
use super::spec::{FeedSpec, Operation};
use super::version::Version;
use crate::Tenant;
use crate::functions::SessionContext;

/// The columns that collections have had.
pub trait Tables {
    /// Those of `collection` at `version`.
    fn table(&self, collection: CollectionId, version: SchemaVersion) -> Option<Arc<Table>>;
}

impl Tables for Tenant {
    fn table(&self, collection: CollectionId, version: SchemaVersion) -> Option<Arc<Table>> {
        self.schema(collection, version)
    }
}

/// See the module's text.
pub struct FeedPlan {
    /// Unique in the process: the key of shared encodings.
    pub id: u64,
    pub spec: FeedSpec,
    pub tenant: TenantId,
    base: Option<Base>,
    /// What the reader may see, and the session that policies are evaluated for; `None` for who
    /// may see everything.
    sight: Option<(Arc<Sight>, Arc<SessionContext>)>,
    /// Policies look at other tables: images are judged before they are rendered.
    pub looks: bool,
    versions: RwLock<FxHashMap<(CollectionId, SchemaVersion), Arc<Version>>>,
}

/// The collection that was named, as it was then.
pub(crate) struct Base {
    pub table: Arc<Table>,
    filter: Option<Arc<Filter>>,
    /// The same condition over the table's stored columns, for snapshots.
    stored_condition: Option<String>,
    /// Ids and names of the columns asked for; empty for all.
    columns: Vec<(u32, String)>,
}

/// A change as this feed shows it.
pub(crate) struct Verdict<'a> {
    pub version: Option<Arc<Version>>,
    pub operation: Operation,
    pub collection: Option<&'a str>,
    pub before: Image<'a>,
    pub after: Image<'a>,
    pub schema_version: SchemaVersion,
}

impl Verdict<'_> {
    pub(crate) fn event(&self) -> Event<'_> {
        let form = self.version.as_ref().map(|version| &version.form);
        Event {
            operation: self.operation,
            form,
            collection: self.collection.or(form.map(|form| form.name.as_str())),
            before: self.before,
            after: self.after,
            schema_version: self.schema_version,
        }
    }
}

/// Finds the collection that a URL names: `orders`, `public.orders`, `springhead.consumers`.
/// Without a schema, exactly that name or else its lower-case form, as PostgreSQL folds it.
///
/// # Errors
/// 42P01 if there is none.
pub fn find_collection<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c Arc<Table>, SqlError> {
    let lower = name.to_lowercase();
    for name in [name, lower.as_str()] {
        if let Some(table) = catalog.table_named(&QualifiedName::public(name)) {
            return Ok(table);
        }
        if let Some((schema, name)) = name.split_once('.')
            && let Some(table) = catalog.table_named(&QualifiedName::new(schema, name))
        {
            return Ok(table);
        }
    }
    Err(SqlError::new(
        ErrorCode::UndefinedTable,
        format!("collection \"{name}\" does not exist"),
    ))
}

impl FeedPlan {
    /// Checks `spec` against the catalog.
    ///
    /// # Errors
    /// 42P01 for an unknown collection, 42703 for an unknown column, what the planner says of the
    /// filter, 22023 for a filter or columns without a collection.
    pub(crate) fn new(
        tenant: TenantId,
        catalog: &Catalog,
        spec: FeedSpec,
        max_filter_bytes: usize,
        sight: Option<(Arc<Sight>, Arc<SessionContext>)>,
    ) -> Result<FeedPlan, SqlError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let base = match &spec.collection {
            Some(name) => Some(Base::new(
                find_collection(catalog, name)?,
                &spec,
                max_filter_bytes,
            )?),
            None if spec.filter.is_some() => return Err(needs_collection("where")),
            None if !spec.columns.is_empty() => return Err(needs_collection("columns")),
            None => None,
        };
        if let Some((sight, _)) = &sight {
            check_sight(sight, base.as_ref())?;
        }
        let named = base.as_ref().map(|base| &*base.table);
        let looks = sight.as_ref().is_some_and(|(sight, _)| sight.looks(named));
        Ok(FeedPlan {
            looks,
            sight,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            spec,
            tenant,
            base,
            versions: RwLock::default(),
        })
    }

    /// The collection that was named, as it was then.
    #[must_use]
    pub fn table(&self) -> Option<&Arc<Table>> {
        self.base.as_ref().map(|base| &base.table)
    }

    /// The collections whose commits are to be read; empty for all.
    pub(crate) fn collections(&self) -> Vec<CollectionId> {
        self.table()
            .map(|table| table.collection())
            // A definition is a change of the table that it is about.
            .filter(|collection| *collection != CollectionId::DEFINITIONS)
            .into_iter()
            .collect()
    }

    pub(crate) fn is_filtered(&self) -> bool {
        self.sight.is_some() || self.base.as_ref().is_some_and(|base| base.filter.is_some())
    }

    /// A session of its own for one reader, for conditions that run where there is data.
    pub(crate) fn session_of(&self, reader: &Reader) -> Arc<SessionContext> {
        match &self.sight {
            Some((sight, _)) => sight.session(reader),
            None => Arc::default(),
        }
    }

    /// The session that conditions on images are evaluated for, shared by readers.
    pub(crate) fn session(&self) -> Option<&Arc<SessionContext>> {
        self.sight.as_ref().map(|(_, session)| session)
    }

    /// Whether it shows what `identity` may see by the definitions and the roles of these versions.
    pub(crate) fn is_of(
        &self,
        identity: &Arc<Identity>,
        catalog_version: u64,
        roles_version: u64,
    ) -> bool {
        match &self.sight {
            None => identity.superuser,
            Some((sight, _)) => {
                sight.catalog.version == catalog_version
                    && (!self.looks || sight.roles.version() == roles_version)
                    && (Arc::ptr_eq(&sight.identity, identity) || sight.identity == *identity)
            }
        }
    }

    /// What this feed makes of a change; `None` if it does not show it. `lease` must be there if
    /// the feed is filtered.
    ///
    /// # Errors
    /// XX001 for an image of an unknown schema version; what evaluating the filter says.
    pub(crate) fn decide<'a>(
        &self,
        tables: &dyn Tables,
        change: &ChangeRef<'a>,
        lease: Option<&Lease<'_>>,
    ) -> Result<Option<Verdict<'a>>, SqlError> {
        let Some(operation) = Operation::of(change.kind).filter(|_| self.covers(change)) else {
            return Ok(None);
        };
        let mut verdict = Verdict {
            version: None,
            operation,
            collection: None,
            before: Image::None,
            after: Image::None,
            schema_version: change.schema_version,
        };
        match operation {
            Operation::Definition => {
                let owns = match &self.sight {
                    None => true,
                    Some((sight, _)) => match sight.table(change.collection) {
                        Ok(table) => table.owns,
                        // What it may not read is not for it to know of.
                        Err(_) => return Ok(None),
                    },
                };
                if let Some(row) = change.after {
                    verdict.after = if owns {
                        Image::Definition(row)
                    } else {
                        Image::DefinitionOutline(row)
                    };
                    verdict.collection = match row.get(definition::COLLECTION) {
                        Some(ValueRef::Text(name)) => Some(name),
                        _ => None,
                    };
                }
            }
            Operation::Message => verdict.after = change.after.map_or(Image::None, Image::Message),
            _ => {
                let version = self.version(tables, change.collection, change.schema_version)?;
                if !self.pass(&mut verdict, &version, change, lease)? {
                    return Ok(None);
                }
                verdict.version = Some(version);
            }
        }
        Ok(self
            .spec
            .operations
            .contains(verdict.operation)
            .then_some(verdict))
    }

    /// What is known of a change's collection, if only a look at other tables can say who sees the
    /// change. What is wrong with it is told where it is rendered.
    pub(crate) fn looking(
        &self,
        tables: &dyn Tables,
        change: &ChangeRef<'_>,
    ) -> Option<Arc<Version>> {
        let is_row = change.before.is_some() || change.after.is_some();
        let is_told = matches!(
            change.kind,
            ChangeKind::Insert | ChangeKind::Update | ChangeKind::Delete
        );
        if !self.looks || !is_row || !is_told || !self.covers(change) {
            return None;
        }
        let version = self.version(tables, change.collection, change.schema_version);
        version.ok().filter(|version| version.looks)
    }

    /// The filter as a condition on the stored columns of the table that was named.
    pub(crate) fn stored_condition(&self) -> Option<&str> {
        self.base.as_ref()?.stored_condition.as_deref()
    }

    /// The policies on a table as a condition over its alias in a snapshot's query; `Err` if none of
    /// it may be seen.
    pub(crate) fn stored_policy(&self, table: &Table) -> Result<Option<String>, SqlError> {
        let Some((sight, _)) = &self.sight else {
            return Ok(None);
        };
        let seen = sight.table(table.collection())?;
        Ok(seen.policy.as_ref().map(|policy| policy.stored.clone()))
    }

    /// Whether the feed is about this change at all.
    fn covers(&self, change: &ChangeRef<'_>) -> bool {
        match &self.base {
            Some(base) if base.table.collection() == CollectionId::DEFINITIONS => {
                change.kind == ChangeKind::Definition
            }
            Some(base) => change.collection == base.table.collection(),
            None => change.collection == CollectionId::NONE || !change.collection.is_system(),
        }
    }

    /// The rule for rows that enter or leave the filter: what left is a DELETE without `after`,
    /// what entered an INSERT without `before`.
    fn pass<'a>(
        &self,
        verdict: &mut Verdict<'a>,
        version: &Version,
        change: &ChangeRef<'a>,
        lease: Option<&Lease<'_>>,
    ) -> Result<bool, SqlError> {
        if version.hidden {
            return Ok(false);
        }
        let visible = |row: Option<RowRef<'a>>| match row {
            Some(row) if version.shows(row, change.schema_version, lease)? => {
                Ok::<_, SqlError>(Image::Row(row))
            }
            _ => Ok(Image::None),
        };
        if verdict.operation == Operation::Truncate {
            return Ok(true);
        }
        verdict.before = visible(change.before)?;
        verdict.after = visible(change.after)?;
        verdict.operation = match (verdict.before, verdict.after) {
            (Image::None, Image::None) => return Ok(false),
            (Image::None, _) => Operation::Insert,
            (_, Image::None) => Operation::Delete,
            _ => Operation::Update,
        };
        Ok(true)
    }

    /// What is known of a collection at a version, remembered.
    ///
    /// # Errors
    /// XX001 if the version is unknown; 42703 if a column that the feed needs is gone or was of
    /// another type.
    pub(crate) fn version(
        &self,
        tables: &dyn Tables,
        collection: CollectionId,
        version: SchemaVersion,
    ) -> Result<Arc<Version>, SqlError> {
        if let Some(known) = self.versions.read().get(&(collection, version)) {
            return Ok(Arc::clone(known));
        }
        let table = tables.table(collection, version).ok_or_else(|| {
            SqlError::new(
                ErrorCode::Corrupted,
                format!("a change of collection {collection} follows its schema version {}, which is unknown", version.0),
            )
        })?;
        let made = Arc::new(self.make_version(table)?);
        self.versions
            .write()
            .insert((collection, version), Arc::clone(&made));
        Ok(made)
    }

    fn make_version(&self, table: Arc<Table>) -> Result<Version, SqlError> {
        let seen = match &self.sight {
            None => None,
            Some((sight, _)) => match sight.table(table.collection()) {
                Ok(seen) => Some(seen),
                // A feed of everything leaves out what may not be read; one that names a
                // collection was refused.
                Err(_) => {
                    return Ok(Version {
                        form: RowForm::new(table),
                        filter: None,
                        policy: None,
                        looks: false,
                        hidden: true,
                    });
                }
            },
        };
        let policy = seen
            .as_ref()
            .and_then(|seen| seen.policy.as_ref())
            .map(|policy| bind_policy(policy, &table).map(Arc::new))
            .transpose()?;
        let looks = (seen.as_ref())
            .and_then(|seen| seen.policy.as_ref())
            .is_some_and(|policy| policy.looks);
        let allowed = seen.as_ref().map(|seen| &seen.columns);
        let Some(base) = &self.base else {
            return Ok(Version {
                form: form(table, &[], allowed),
                filter: None,
                policy,
                looks,
                hidden: false,
            });
        };
        let filter = base
            .filter
            .as_ref()
            .map(|filter| bind(filter, &table))
            .transpose()?;
        let form = {
            if let Some((_, gone)) = (base.columns.iter()).find(|(id, _)| {
                table.schema_version > base.table.schema_version
                    && table.column_by_id(*id).is_none()
            }) {
                return Err(column_gone(gone));
            }
            form(table, &base.columns, allowed)
        };
        Ok(Version {
            form,
            filter,
            policy,
            looks,
            hidden: false,
        })
    }

    /// The collection has new definitions: names may have changed under the same version.
    pub(crate) fn forget_versions(&self) {
        self.versions.write().clear();
    }
}

/// Makes sure that what is asked for may be seen.
fn check_sight(sight: &Sight, base: Option<&Base>) -> Result<(), SqlError> {
    let Some(base) = base else {
        for table in sight.catalog.tables_by_id() {
            match sight.table(table.collection()) {
                Err(error) if error.code != ErrorCode::InsufficientPrivilege => return Err(error),
                _ => {}
            }
        }
        return Ok(());
    };
    let table = &base.table;
    let seen = sight.table(table.collection())?;
    let filtered = base.filter.iter().flat_map(|filter| &filter.columns);
    let filtered = filtered.filter_map(|&place| table.columns.get(place));
    let asked = base.columns.iter().map(|(id, _)| *id);
    for id in asked.chain(filtered.map(|column| column.id)) {
        if !seen.columns.contains(id) {
            return Err(springhead_sql::access::refusal(
                springhead_sql::access::Object::Table(table),
            ));
        }
    }
    Ok(())
}

/// How rows are printed: the columns asked for (all if empty), of those that may be seen.
fn form(table: Arc<Table>, asked: &[(u32, String)], allowed: Option<&Columns>) -> RowForm {
    let all = matches!(allowed, None | Some(Columns::All));
    if all && asked.is_empty() {
        return RowForm::new(table);
    }
    let may = |id: u32| allowed.is_none_or(|allowed| allowed.contains(id));
    let columns: Vec<(u32, String)> = if asked.is_empty() {
        table
            .visible_columns()
            .map(|(_, column)| (column.id, column.name.clone()))
            .filter(|(id, _)| may(*id))
            .collect()
    } else {
        asked.to_vec()
    };
    let shows_id = all
        || table
            .key
            .iter()
            .all(|&place| table.columns[place].hidden || may(table.columns[place].id));
    let form = RowForm::with_columns(table, &columns);
    if shows_id { form } else { form.without_id() }
}

impl Base {
    fn new(table: &Arc<Table>, spec: &FeedSpec, max_filter_bytes: usize) -> Result<Base, SqlError> {
        let mut columns: Vec<(u32, String)> = Vec::new();
        for name in &spec.columns {
            let (_, column) = table.expect_column(name)?;
            if !columns.iter().any(|(id, _)| *id == column.id) {
                columns.push((column.id, column.name.clone()));
            }
        }
        let (filter, stored_condition) = match &spec.filter {
            None => (None, None),
            Some(text) if text.len() > max_filter_bytes => {
                return Err(SqlError::new(
                    ErrorCode::StatementTooLarge,
                    format!(
                        "where is {} bytes long, over the limit of {max_filter_bytes}",
                        text.len()
                    ),
                ));
            }
            Some(text) => {
                let filter = springhead_sql::filter::plan_filter(table, text)?;
                let stored = springhead_sql::filter::plan_filter_on_table(table, text)?;
                (Some(Arc::new(filter)), Some(stored))
            }
        };
        Ok(Base {
            table: Arc::clone(table),
            filter,
            stored_condition,
            columns,
        })
    }
}

/// Finds the filter's columns in images of another version of its table, by their ids, so that a
/// rename does not matter. A column that an older version does not have yet counts as NULL.
fn bind(filter: &Arc<Filter>, table: &Table) -> Result<BoundFilter, SqlError> {
    let mut places = Vec::with_capacity(filter.columns.len());
    for &place in &filter.columns {
        let wanted = &filter.table.columns[place];
        let found = table.column_by_id(wanted.id);
        match found {
            Some((_, column))
                if !column.pg_type.same_base(&wanted.pg_type)
                    || column.pg_type.scaled() != wanted.pg_type.scaled() =>
            {
                return Err(SqlError::new(
                    ErrorCode::DatatypeMismatch,
                    format!("column \"{}\" in where is {} in some of the changes asked for and {} in others", wanted.name, column.pg_type.sql_name(), wanted.pg_type.sql_name()),
                )
                .with_hint("subscribe again after the change of its type, or filter at the reader"));
            }
            None if table.schema_version > filter.table.schema_version => {
                return Err(column_gone(&wanted.name));
            }
            _ => places.push((place + 1, found.map(|(place, _)| place))),
        }
    }
    Ok(BoundFilter {
        filter: Arc::clone(filter),
        places: places.into(),
    })
}

/// As [`bind`], of policies: what an older image does not have cannot be decided by NULLs, unless
/// the column came later.
fn bind_policy(policy: &PolicyFilter, table: &Table) -> Result<BoundFilter, SqlError> {
    let filter = Arc::new(Filter {
        sql: policy.image.sql.clone(),
        table: Arc::clone(&policy.image.table),
        columns: policy.image.columns.clone(),
    });
    bind(&filter, table)
}

fn column_gone(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedColumn,
        format!("column \"{name}\" has been dropped since this feed was opened"),
    )
    .with_column(name)
}

fn needs_collection(parameter: &str) -> SqlError {
    SqlError::new(
        ErrorCode::InvalidParameterValue,
        format!("{parameter} needs a collection"),
    )
    .with_hint("name one in the path: /cdc/{collection}")
}
