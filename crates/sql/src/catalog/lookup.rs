//! Making catalogs out of definitions, and finding things in them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, ErrorCode, SqlError};

use super::{
    Catalog, Check, Column, Comment, Definition, ForeignKey, Index, QualifiedName, Relation,
    Routine, Schema, Sequence, Table, Trigger, Unique, UserType, View, user_type,
};
use crate::plan::{DefinitionAction, DefinitionChange, display_name};

impl Catalog {
    /// The catalog that the definitions add up to. Springhead's own tables are always in it.
    ///
    /// `version` and `next_id` are those of the last definition put or dropped
    /// ([`super::DefinitionRecord`], [`super::DefinitionPayload`]).
    pub fn from_definitions(
        definitions: impl IntoIterator<Item = Definition>,
        version: u64,
        next_id: u32,
    ) -> Catalog {
        let mut catalog = Catalog::bootstrap();
        for definition in definitions {
            catalog.insert(definition);
        }
        // A table may be older than the types that it has come to use.
        if !catalog.types.is_empty() {
            catalog.bind_users();
        }
        catalog.version = catalog.version.max(version);
        catalog.next_id = catalog.next_id.max(next_id);
        catalog.index_children();
        catalog
    }

    /// This catalog after one DDL statement.
    #[must_use]
    pub fn with_changes(
        &self,
        changes: &[DefinitionChange],
        version: u64,
        next_id: u32,
    ) -> Catalog {
        let mut catalog = self.clone();
        for change in changes {
            catalog.apply(change);
        }
        catalog.version = version;
        catalog.next_id = catalog.next_id.max(next_id);
        catalog
    }

    /// Puts or drops one definition, in place.
    pub(crate) fn apply(&mut self, change: &DefinitionChange) {
        self.remove(&change.definition);
        if change.action == DefinitionAction::Put {
            self.insert(change.definition.clone());
            if matches!(change.definition, Definition::Type(_)) {
                self.bind_users();
            }
        }
        if change.collection != CollectionId::NONE {
            self.index_children();
        }
    }

    /// A catalog without anything in it, for [`Catalog::bootstrap`].
    pub(super) fn empty(version: u64, next_id: u32) -> Catalog {
        Catalog {
            version,
            next_id,
            tables: FxHashMap::default(),
            sequences: FxHashMap::default(),
            views: FxHashMap::default(),
            routines: FxHashMap::default(),
            triggers: FxHashMap::default(),
            types: FxHashMap::default(),
            comments: FxHashMap::default(),
            schema: Arc::new(Schema::initial()),
            relations: FxHashMap::default(),
            children: FxHashMap::default(),
            system: crate::system::Cache::default(),
        }
    }

    /// Adds a definition whose id is not there yet.
    pub(super) fn insert(&mut self, definition: Definition) {
        match definition {
            Definition::Table(mut table) => {
                if user_type::uses_user_types(&table) {
                    user_type::bind_table(self, &mut table);
                }
                self.relations
                    .insert(table.name.clone(), Relation::Table(table.collection()));
                for name in table.index_names() {
                    let name = QualifiedName {
                        schema: table.name.schema.clone(),
                        name: name.to_owned(),
                    };
                    self.relations
                        .insert(name, Relation::Index(table.collection()));
                }
                self.tables.insert(table.collection(), Arc::new(table));
            }
            Definition::Sequence(sequence) => {
                self.relations
                    .insert(sequence.name.clone(), Relation::Sequence(sequence.id));
                self.sequences.insert(sequence.id, Arc::new(sequence));
            }
            Definition::View(mut view) => {
                for (_, ty) in &mut view.columns {
                    self.bind(ty);
                }
                self.relations
                    .insert(view.name.clone(), Relation::View(view.id));
                self.views.insert(view.id, Arc::new(view));
            }
            Definition::Routine(mut routine) => {
                for ty in routine.types_mut() {
                    self.bind(ty);
                }
                self.routines.insert(routine.id, Arc::new(routine));
            }
            Definition::Trigger(trigger) => {
                self.triggers.insert(trigger.id, Arc::new(trigger));
            }
            Definition::Schema(schema) => self.schema = Arc::new(schema),
            Definition::Type(user) => {
                self.types.insert(user.id, Arc::new(user));
            }
            Definition::Comment(comment) => {
                self.comments.insert(comment.id, Arc::new(comment));
            }
        }
    }

    /// Takes away what is there under the definition's id, whatever its name was.
    fn remove(&mut self, definition: &Definition) {
        match definition {
            Definition::Table(table) => {
                if let Some(old) = self.tables.remove(&table.collection()) {
                    self.forget(&old.name, Relation::Table(old.collection()));
                    for name in old.index_names() {
                        let name = QualifiedName {
                            schema: old.name.schema.clone(),
                            name: name.to_owned(),
                        };
                        self.forget(&name, Relation::Index(old.collection()));
                    }
                }
            }
            Definition::Sequence(sequence) => {
                if let Some(old) = self.sequences.remove(&sequence.id) {
                    self.forget(&old.name, Relation::Sequence(old.id));
                }
            }
            Definition::View(view) => {
                if let Some(old) = self.views.remove(&view.id) {
                    self.forget(&old.name, Relation::View(old.id));
                }
            }
            Definition::Routine(routine) => {
                self.routines.remove(&routine.id);
            }
            Definition::Trigger(trigger) => {
                self.triggers.remove(&trigger.id);
            }
            Definition::Schema(_) => self.schema = Arc::new(Schema::initial()),
            Definition::Type(user) => {
                self.types.remove(&user.id);
            }
            Definition::Comment(comment) => {
                self.comments.remove(&comment.id);
            }
        }
    }

    /// Two objects may swap names within one statement, so a name goes only with its own object.
    fn forget(&mut self, name: &QualifiedName, relation: Relation) {
        if self.relations.get(name) == Some(&relation) {
            self.relations.remove(name);
        }
    }

    pub(super) fn index_children(&mut self) {
        let mut children: FxHashMap<CollectionId, Vec<CollectionId>> = FxHashMap::default();
        for table in self.tables.values() {
            for key in &table.foreign_keys {
                children
                    .entry(CollectionId(key.parent))
                    .or_default()
                    .push(table.collection());
            }
        }
        for list in children.values_mut() {
            list.sort_unstable();
            list.dedup();
        }
        self.children = children;
    }

    /// The table with this id.
    #[must_use]
    pub fn table(&self, id: CollectionId) -> Option<&Arc<Table>> {
        self.tables.get(&id)
    }

    /// The sequence with this id.
    #[must_use]
    pub fn sequence(&self, id: u32) -> Option<&Arc<Sequence>> {
        self.sequences.get(&id)
    }

    /// The view with this id.
    #[must_use]
    pub fn view(&self, id: u32) -> Option<&Arc<View>> {
        self.views.get(&id)
    }

    /// What goes by this name.
    #[must_use]
    pub fn relation(&self, name: &QualifiedName) -> Option<Relation> {
        self.relations.get(name).copied()
    }

    /// The table of this name; `None` too if the name is another kind of relation's.
    #[must_use]
    pub fn table_named(&self, name: &QualifiedName) -> Option<&Arc<Table>> {
        match self.relation(name)? {
            Relation::Table(id) => self.table(id),
            Relation::Index(_) | Relation::Sequence(_) | Relation::View(_) => None,
        }
    }

    /// The sequence of this name.
    #[must_use]
    pub fn sequence_named(&self, name: &QualifiedName) -> Option<&Arc<Sequence>> {
        match self.relation(name)? {
            Relation::Sequence(id) => self.sequence(id),
            Relation::Table(_) | Relation::Index(_) | Relation::View(_) => None,
        }
    }

    /// The view of this name.
    #[must_use]
    pub fn view_named(&self, name: &QualifiedName) -> Option<&Arc<View>> {
        match self.relation(name)? {
            Relation::View(id) => self.view(id),
            Relation::Table(_) | Relation::Index(_) | Relation::Sequence(_) => None,
        }
    }

    /// A relation as a query names it. Without a schema it is one of `public`: Springhead's own
    /// tables are found only by `springhead.`.
    #[must_use]
    pub fn resolve(&self, schema: Option<&str>, name: &str) -> Option<(QualifiedName, Relation)> {
        let name = QualifiedName::new(schema.unwrap_or(QualifiedName::PUBLIC), name);
        self.relation(&name).map(|relation| (name, relation))
    }

    /// The table of this name.
    ///
    /// # Errors
    /// 42P01 if there is no such relation, 42809 if it is no table.
    pub fn expect_table(&self, name: &QualifiedName) -> Result<&Arc<Table>, SqlError> {
        match self.relation(name) {
            Some(Relation::Table(id)) => self.table(id).ok_or_else(|| undefined_table(name)),
            Some(_) => Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!("\"{}\" is not a table", name.name),
            )),
            None => Err(undefined_table(name)),
        }
    }

    /// The tables with a foreign key to this one, itself included; ascending.
    #[must_use]
    pub fn children(&self, parent: CollectionId) -> &[CollectionId] {
        self.children.get(&parent).map_or(&[], Vec::as_slice)
    }

    /// Whether a change of this table's rows can violate a foreign key: it has one, or is one's
    /// parent.
    #[must_use]
    pub fn touches_foreign_keys(&self, table: &Table) -> bool {
        !table.foreign_keys.is_empty() || !self.children(table.collection()).is_empty()
    }

    /// The table behind an SQLite table's name `t<id>`.
    #[must_use]
    pub fn table_by_storage_name(&self, name: &str) -> Option<&Arc<Table>> {
        self.table(CollectionId(storage_id(name, 't')?))
    }

    /// The unique constraint or index behind an SQLite index's name `i<id>`, by its PostgreSQL
    /// name. Looks through all tables: for error texts.
    #[must_use]
    pub fn unique_by_storage_name(&self, name: &str) -> Option<(&Arc<Table>, &str)> {
        let id = storage_id(name, 'i')?;
        self.tables.values().find_map(|table| {
            let unique = table
                .uniques
                .iter()
                .find(|unique| unique.index_id == id)
                .map(|unique| &unique.name);
            let index = || {
                table
                    .indexes
                    .iter()
                    .find(|index| index.id == id)
                    .map(|index| &index.name)
            };
            unique.or_else(index).map(|name| (table, name.as_str()))
        })
    }

    /// The check behind an SQLite constraint's name `k<id>`. Looks through all tables: for error
    /// texts.
    #[must_use]
    pub fn check_by_storage_name(&self, name: &str) -> Option<(&Arc<Table>, &Check)> {
        let id = storage_id(name, 'k')?;
        self.tables.values().find_map(|table| {
            table
                .checks
                .iter()
                .find(|check| check.id == id)
                .map(|check| (table, check))
        })
    }

    /// Tables in the order of their ids.
    #[must_use]
    pub fn tables_by_id(&self) -> Vec<&Arc<Table>> {
        let mut tables: Vec<_> = self.tables.values().collect();
        tables.sort_unstable_by_key(|table| table.id);
        tables
    }

    /// All definitions, by kind and then id: the same content always gives the same order.
    pub fn definitions(&self) -> impl Iterator<Item = Definition> {
        let mut sequences: Vec<_> = self.sequences.values().collect();
        sequences.sort_unstable_by_key(|sequence| sequence.id);
        let mut views: Vec<_> = self.views.values().collect();
        views.sort_unstable_by_key(|view| view.id);
        let mut routines: Vec<_> = self.routines.values().collect();
        routines.sort_unstable_by_key(|routine| routine.id);
        let mut triggers: Vec<_> = self.triggers.values().collect();
        triggers.sort_unstable_by_key(|trigger| trigger.id);
        let mut types: Vec<_> = self.types.values().collect();
        types.sort_unstable_by_key(|of| of.id);
        self.tables_by_id()
            .into_iter()
            .map(|table| Definition::Table(Table::clone(table)))
            .chain(
                sequences
                    .into_iter()
                    .map(|sequence| Definition::Sequence(Sequence::clone(sequence))),
            )
            .chain(
                views
                    .into_iter()
                    .map(|view| Definition::View(View::clone(view))),
            )
            .chain(
                routines
                    .into_iter()
                    .map(|routine| Definition::Routine(Routine::clone(routine))),
            )
            .chain(
                triggers
                    .into_iter()
                    .map(|trigger| Definition::Trigger(Trigger::clone(trigger))),
            )
            .chain(
                (*self.schema != Schema::initial())
                    .then(|| Definition::Schema(Schema::clone(&self.schema))),
            )
            .chain(
                types
                    .into_iter()
                    .map(|of| Definition::Type(UserType::clone(of))),
            )
            .chain(
                self.comments_by_id()
                    .into_iter()
                    .map(|comment| Definition::Comment(Comment::clone(comment))),
            )
    }

    /// A digest of all definitions, the same wherever the content is the same: 32 hexadecimal
    /// digits. It tells copies of a catalog apart; it is no protection against forgery.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut digest = super::record::Digest::new();
        for definition in self.definitions() {
            digest.add(&definition.json());
        }
        digest.text()
    }
}

fn storage_id(name: &str, prefix: char) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

fn undefined_table(name: &QualifiedName) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedTable,
        format!("relation \"{}\" does not exist", display_name(name)),
    )
}

impl QualifiedName {
    /// The schema of users' tables.
    pub const PUBLIC: &'static str = "public";
    /// The schema of Springhead's own tables.
    pub const SPRINGHEAD: &'static str = "springhead";
    /// Rejected mutations, in [`QualifiedName::SPRINGHEAD`].
    pub const DEAD_LETTERS: &'static str = "dead_letters";

    #[must_use]
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> QualifiedName {
        QualifiedName {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// A name in `public`.
    #[must_use]
    pub fn public(name: impl Into<String>) -> QualifiedName {
        QualifiedName::new(QualifiedName::PUBLIC, name)
    }
}

impl Table {
    /// The column of this name and its place in a row image. Hidden columns are not found.
    #[must_use]
    pub fn column_named(&self, name: &str) -> Option<(usize, &Column)> {
        self.visible_columns()
            .find(|(_, column)| column.name == name)
    }

    /// The column with this id and its place in a row image.
    #[must_use]
    pub fn column_by_id(&self, id: u32) -> Option<(usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .find(|(_, column)| column.id == id)
    }

    /// The column behind an SQLite column's name `c<id>`.
    #[must_use]
    pub fn column_by_storage_name(&self, name: &str) -> Option<(usize, &Column)> {
        self.column_by_id(storage_id(name, 'c')?)
    }

    /// The column of this name.
    ///
    /// # Errors
    /// 42703 if there is none.
    pub fn expect_column(&self, name: &str) -> Result<(usize, &Column), SqlError> {
        self.column_named(name).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedColumn,
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    self.name.name
                ),
            )
        })
    }

    /// The columns of the key, first to last.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|&place| &self.columns[place])
    }

    /// Whether the key is a column of the user's own.
    #[must_use]
    pub fn has_declared_key(&self) -> bool {
        self.key_name.is_some()
    }

    /// Whether SQLite's rowid is the key: a single smallint, integer or bigint, or the hidden
    /// column. Such a column takes NULL as "the next number", so whoever writes must refuse NULL.
    #[must_use]
    pub fn key_is_rowid(&self) -> bool {
        matches!(self.key.as_slice(), [place] if self.columns[*place].is_integer())
    }

    /// Names of relations that this table's indexes take up: its key's, its unique constraints' and
    /// its other indexes'.
    pub fn index_names(&self) -> impl Iterator<Item = &str> {
        (self.key_name.iter())
            .chain(self.uniques.iter().map(|unique| &unique.name))
            .chain(self.indexes.iter().map(|index| &index.name))
            .map(String::as_str)
    }

    /// Names of its constraints, which are unique within the table.
    pub fn constraint_names(&self) -> impl Iterator<Item = &str> {
        (self.key_name.iter())
            .chain(self.uniques.iter().map(|unique| &unique.name))
            .chain(self.checks.iter().map(|check| &check.name))
            .chain(self.foreign_keys.iter().map(|key| &key.name))
            .map(String::as_str)
    }

    #[must_use]
    pub fn unique_named(&self, name: &str) -> Option<&Unique> {
        self.uniques.iter().find(|unique| unique.name == name)
    }

    #[must_use]
    pub fn check_named(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    #[must_use]
    pub fn foreign_key_named(&self, name: &str) -> Option<&ForeignKey> {
        self.foreign_keys.iter().find(|key| key.name == name)
    }

    #[must_use]
    pub fn index_named(&self, name: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// Ids of the key's columns.
    #[must_use]
    pub fn key_ids(&self) -> Vec<u32> {
        self.key_columns().map(|column| column.id).collect()
    }

    /// Names of the columns with these ids, for messages.
    #[must_use]
    pub fn column_names(&self, ids: &[u32]) -> Vec<&str> {
        ids.iter()
            .filter_map(|&id| self.column_by_id(id))
            .map(|(_, column)| column.name.as_str())
            .collect()
    }
}

impl Column {
    /// smallint, integer or bigint.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        use crate::types::PgType;
        matches!(self.pg_type, PgType::Int2 | PgType::Int4 | PgType::Int8)
    }
}

impl Index {
    /// The ids of its columns, if each of its keys is a column alone.
    #[must_use]
    pub fn column_ids(&self, table: &Table) -> Option<Vec<u32>> {
        self.keys.iter().map(|key| key_column(table, key)).collect()
    }
}

/// The column that an index's key (`name`, `"Name" DESC NULLS LAST`) is, if it is one alone.
fn key_column(table: &Table, key: &str) -> Option<u32> {
    let (name, rest) = match key.strip_prefix('"') {
        Some(quoted) => {
            let end = quoted.replace("\"\"", "\0\0").find('"')?;
            (quoted[..end].replace("\"\"", "\""), &quoted[end + 1..])
        }
        None => {
            let end = key
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
                .unwrap_or(key.len());
            (key[..end].to_ascii_lowercase(), &key[end..])
        }
    };
    let only_order = rest
        .split_whitespace()
        .all(|word| matches!(word, "ASC" | "DESC" | "NULLS" | "FIRST" | "LAST"));
    if !only_order {
        return None;
    }
    table.column_named(&name).map(|(_, column)| column.id)
}
