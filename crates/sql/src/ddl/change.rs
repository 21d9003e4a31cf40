//! What one DDL statement has changed so far: the working catalog, the definitions put and dropped,
//! and the SQLite statements. Every part of `ddl` writes into this, and nothing else.

use std::sync::Arc;

use springhead_proto::{CollectionId, SqlError};

use crate::access::Identity;
use crate::catalog::{BOOTSTRAP_ROLE, Catalog, Comment, Definition, Sequence, Table, View};
use crate::plan::{Ddl, DefinitionAction, DefinitionChange, PlanKind, Validation};

/// A DDL statement being planned.
pub(crate) struct Change<'a> {
    /// The catalog with everything that this statement has done so far.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) statements: Vec<String>,
    pub(crate) rebuilds: bool,
    /// See [`Ddl::converts`].
    pub(crate) converts: Vec<CollectionId>,
    pub(crate) check_foreign_keys: Vec<CollectionId>,
    pub(crate) preconditions: Vec<Validation>,
    pub(crate) validations: Vec<Validation>,
    pub(crate) updates: Vec<String>,
    pub(crate) sequence_restarts: Vec<(u32, i64)>,
    pub(crate) notices: Vec<String>,
    tag: &'static str,
    source: &'a str,
    version: u64,
    /// Whoever makes something owns it.
    pub(crate) identity: Arc<Identity>,
    first_new_id: u32,
    changes: Vec<DefinitionChange>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(catalog: &Catalog, tag: &'static str, source: &'a str) -> Change<'a> {
        Change {
            catalog: Arc::new(catalog.clone()),
            statements: Vec::new(),
            rebuilds: false,
            converts: Vec::new(),
            check_foreign_keys: Vec::new(),
            preconditions: Vec::new(),
            validations: Vec::new(),
            updates: Vec::new(),
            sequence_restarts: Vec::new(),
            notices: Vec::new(),
            tag,
            source,
            version: catalog.version,
            identity: Arc::new(Identity::unrestricted(BOOTSTRAP_ROLE)),
            first_new_id: catalog.next_id,
            changes: Vec::new(),
        }
    }

    /// For whom it is.
    pub(crate) fn by(mut self, identity: &Arc<Identity>) -> Change<'a> {
        self.identity = Arc::clone(identity);
        self
    }

    /// The statement's text.
    pub(crate) fn source(&self) -> &'a str {
        self.source
    }

    /// The catalog's version once the statement has committed.
    pub(crate) fn next_version(&self) -> u64 {
        self.version + 1
    }

    /// An id that nothing has had.
    ///
    /// # Errors
    /// 54000 once all ids are used up.
    pub(crate) fn next_id(&mut self) -> Result<u32, SqlError> {
        let id = self.catalog.next_id;
        Arc::make_mut(&mut self.catalog).next_id = id.checked_add(1).ok_or_else(|| {
            SqlError::new(
                springhead_proto::ErrorCode::StatementTooLarge,
                "all object ids are used up",
            )
        })?;
        Ok(id)
    }

    pub(crate) fn put_table(&mut self, table: Table) {
        self.record(DefinitionAction::Put, Definition::Table(table));
    }

    pub(crate) fn put_sequence(&mut self, sequence: Sequence) {
        self.record(DefinitionAction::Put, Definition::Sequence(sequence));
    }

    pub(crate) fn put_view(&mut self, view: View) {
        self.record(DefinitionAction::Put, Definition::View(view));
    }

    pub(crate) fn put(&mut self, definition: Definition) {
        self.record(DefinitionAction::Put, definition);
    }

    pub(crate) fn drop(&mut self, definition: Definition) {
        self.record(DefinitionAction::Drop, definition);
    }

    /// The table with this id as it is now.
    pub(crate) fn table(&self, id: CollectionId) -> Option<Arc<Table>> {
        self.catalog.table(id).cloned()
    }

    /// Several changes of one object become its last, at the place of the first: a reader of the
    /// log sees each object once per statement.
    fn record(&mut self, action: DefinitionAction, definition: Definition) {
        let change = DefinitionChange {
            action,
            collection: definition.collection(),
            definition,
        };
        Arc::make_mut(&mut self.catalog).apply(&change);
        if action == DefinitionAction::Drop {
            self.drop_comments(&change.definition);
        }
        let id = change.definition.id();
        match self
            .changes
            .iter_mut()
            .find(|earlier| earlier.definition.id() == id)
        {
            Some(earlier) => *earlier = change,
            None => self.changes.push(change),
        }
    }

    /// Comments go with what they are about.
    fn drop_comments(&mut self, dropped: &Definition) {
        if matches!(dropped, Definition::Comment(_)) {
            return;
        }
        let about: Vec<Comment> = self
            .catalog
            .comments_by_id()
            .into_iter()
            .filter(|comment| comment.is_about(dropped.id()))
            .map(|comment| Comment::clone(comment))
            .collect();
        for comment in about {
            self.drop(Definition::Comment(comment));
        }
    }

    /// What is new belongs to whoever made it.
    fn give_to_maker(&mut self) {
        let maker = &*self.identity.role;
        if maker == BOOTSTRAP_ROLE {
            return;
        }
        for change in &mut self.changes {
            let is_new = change.action == DefinitionAction::Put
                && change.definition.id() >= self.first_new_id;
            if let Some(access) = change.definition.access_mut()
                && is_new
                && access.owner.is_none()
            {
                access.owner = Some(maker.to_owned());
                for grant in &mut access.grants {
                    maker.clone_into(&mut grant.grantor);
                }
                Arc::make_mut(&mut self.catalog).apply(change);
            }
        }
    }

    /// The plan. Without any change the statement had nothing to do (IF EXISTS, IF NOT EXISTS).
    pub(crate) fn finish(mut self) -> PlanKind {
        self.give_to_maker();
        if !self.changes.is_empty() {
            Arc::make_mut(&mut self.catalog).version = self.version + 1;
        }
        PlanKind::Ddl(Box::new(Ddl {
            tag: self.tag,
            source: self.source.to_owned(),
            changes: self.changes,
            statements: self.statements,
            rebuilds: self.rebuilds,
            converts: self.converts,
            check_foreign_keys: self.check_foreign_keys,
            preconditions: self.preconditions,
            validations: self.validations,
            updates: self.updates,
            sequence_restarts: self.sequence_restarts,
            catalog: self.catalog,
            notices: self.notices,
        }))
    }
}
