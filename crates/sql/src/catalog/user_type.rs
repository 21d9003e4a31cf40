//! Types that users define: enums and domains, as the catalog keeps them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Access, Catalog, Check, QualifiedName, Table};
use crate::types::{DomainRef, EnumRef, Labels, PgType};

/// An enum or a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserType {
    pub id: u32,
    pub name: QualifiedName,
    pub kind: UserTypeKind,
    /// Who owns it.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserTypeKind {
    /// Its labels in their order.
    Enum(Vec<String>),
    Domain(Domain),
}

/// A type with conditions on its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub base: PgType,
    /// The id in the SQLite constraint `k<id>` that refuses NULL; `None` if NULL is fine.
    pub not_null: Option<u32>,
    /// PostgreSQL text of the default of columns that have none of their own.
    pub default: Option<String>,
    /// Conditions on `value`.
    pub checks: Vec<Check>,
}

impl UserType {
    /// The type that columns and expressions have.
    #[must_use]
    pub fn pg_type(&self) -> PgType {
        match &self.kind {
            UserTypeKind::Enum(labels) => PgType::Enum(EnumRef::new(
                self.id,
                Arc::new(Labels {
                    name: self.name.name.clone(),
                    labels: labels.clone(),
                }),
            )),
            UserTypeKind::Domain(domain) => PgType::Domain(DomainRef::new(
                self.id,
                domain.base.clone(),
                self.name.name.as_str(),
            )),
        }
    }

    /// The domain that it is.
    #[must_use]
    pub const fn domain(&self) -> Option<&Domain> {
        match &self.kind {
            UserTypeKind::Domain(domain) => Some(domain),
            UserTypeKind::Enum(_) => None,
        }
    }
}

impl Catalog {
    /// The type of this name that a user has made.
    #[must_use]
    pub fn type_named(&self, name: &QualifiedName) -> Option<&Arc<UserType>> {
        self.types.values().find(|of| of.name == *name)
    }

    /// The domain with this id, and those that it is over; the outermost first.
    #[must_use]
    pub fn domains_of(&self, ty: &PgType) -> Vec<&Arc<UserType>> {
        let mut found = Vec::new();
        let mut ty = ty;
        while let PgType::Domain(user) = ty {
            found.extend(self.types.get(&user.id()));
            ty = user.base();
        }
        found
    }

    /// The DEFAULT that a column has: its own, or its domain's.
    #[must_use]
    pub fn default_of<'a>(&'a self, column: &'a super::Column) -> Option<&'a str> {
        column.default.as_deref().or_else(|| {
            self.domains_of(&column.pg_type)
                .into_iter()
                .find_map(|of| of.domain()?.default.as_deref())
        })
    }

    /// The domain whose SQLite constraint is `k<id>`, and its check's name; no name for NOT NULL.
    #[must_use]
    pub fn domain_check(&self, id: u32) -> Option<(&Arc<UserType>, Option<&str>)> {
        self.types.values().find_map(|of| {
            let domain = of.domain()?;
            if domain.not_null == Some(id) {
                return Some((of, None));
            }
            domain
                .checks
                .iter()
                .find(|check| check.id == id)
                .map(|check| (of, Some(check.name.as_str())))
        })
    }

    /// Fills in what a type's id stands for.
    pub(super) fn bind(&self, ty: &mut PgType) {
        match ty {
            PgType::Enum(user) => {
                if let Some(of) = self.types.get(&user.id()) {
                    *ty = of.pg_type();
                }
            }
            PgType::Domain(user) => {
                self.bind(user.base_mut());
                if let Some(of) = self.types.get(&user.id()) {
                    let (id, base) = (user.id(), user.base().clone());
                    *user = DomainRef::new(id, base, of.name.name.as_str());
                }
            }
            PgType::Array(element) => self.bind(element),
            _ => {}
        }
    }

    /// Fills in the types of everything that uses a type, after the type has changed.
    pub(super) fn bind_users(&mut self) {
        let catalog = self.clone_types();
        for table in self.tables.values_mut() {
            if uses_user_types(table) {
                bind_table(&catalog, Arc::make_mut(table));
            }
        }
        for view in self.views.values_mut() {
            if view.columns.iter().any(|(_, ty)| ty.is_user_defined()) {
                for (_, ty) in &mut Arc::make_mut(view).columns {
                    catalog.bind(ty);
                }
            }
        }
        for routine in self.routines.values_mut() {
            if routine.types().any(PgType::is_user_defined) {
                for ty in Arc::make_mut(routine).types_mut() {
                    catalog.bind(ty);
                }
            }
        }
        let domains: Vec<u32> = catalog
            .types
            .values()
            .filter(|of| of.domain().is_some_and(|d| d.base.is_user_defined()))
            .map(|of| of.id)
            .collect();
        for id in domains {
            if let Some(of) = self.types.get_mut(&id)
                && let UserTypeKind::Domain(domain) = &mut Arc::make_mut(of).kind
            {
                catalog.bind(&mut domain.base);
            }
        }
    }

    /// A catalog of the types alone.
    fn clone_types(&self) -> Catalog {
        let mut catalog = Catalog::empty(self.version, self.next_id);
        catalog.types = self.types.clone();
        catalog
    }
}

/// Whether a column's type is a user's.
pub(super) fn uses_user_types(table: &Table) -> bool {
    table
        .columns
        .iter()
        .any(|column| column.pg_type.is_user_defined())
}

pub(super) fn bind_table(catalog: &Catalog, table: &mut Table) {
    for column in &mut table.columns {
        catalog.bind(&mut column.pg_type);
    }
}
