//! What sessions need to know of a tenant's dead letters before they ask its writer for something.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use super::policy::Policy;
use super::retry::Member;
use super::task::{resolved_already, unknown};
use super::{Author, Entry};
use crate::engine::Engine;
use crate::{Tenant, sync};

/// A policy as it is in force, with what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyInForce {
    pub collection: String,
    pub violation: String,
    pub policy: Policy,
}

/// Entries that are tried as a unit, at most.
const MAX_CHAIN: usize = 1000;

impl Engine {
    /// The dead letters that are tried together with this one, the head of their chain first.
    ///
    /// # Errors
    /// SH006 for one that is not there, 55000 for one that is resolved, or for one that is to be
    /// edited and depends on another.
    pub(crate) async fn dead_letter_chain(
        &self,
        tenant: &Arc<Tenant>,
        id: i64,
        is_edited: bool,
    ) -> Result<Vec<Member>, SqlError> {
        let found = tenant.on_snapshot(move |conn| {
            let entry = Entry::find(conn, id)?.ok_or_else(|| unknown(id))?;
            if entry.resolved {
                return Err(resolved_already(id).into());
            }
            let mut head = entry;
            while let Some(before) = head.attempts.first().and_then(|push| push.chain) {
                match Entry::find(conn, before)? {
                    Some(found) if !found.resolved && found.id < head.id => head = found,
                    _ => break,
                }
            }
            if is_edited && head.id != id {
                return Err(SqlError::new(
                    ErrorCode::ObjectNotInState,
                    format!("dead letter {id} depends on dead letter {}", head.id),
                )
                .with_hint("edit and retry that one: both are tried together")
                .into());
            }
            let mut chain: Vec<(i64, Author, Vec<i64>)> = vec![member(&head)];
            let mut next = 0;
            while let Some((.., dependents)) = chain.get(next).cloned() {
                next += 1;
                for dependent in dependents {
                    let known = chain.iter().any(|(known, ..)| *known == dependent);
                    if known || chain.len() >= MAX_CHAIN {
                        continue;
                    }
                    let found = Entry::find(conn, dependent)?.filter(|entry| !entry.resolved);
                    chain.extend(found.as_ref().map(member));
                }
            }
            // In the order in which they were pushed; the head has the lowest number.
            chain.sort_by_key(|(id, ..)| *id);
            Ok(chain)
        });
        let chain = found.await?;
        let member = |(id, author, _): (i64, Author, Vec<i64>)| Member {
            id,
            author: sync::Author::of_letter(self, tenant.id(), &author).map(Arc::new),
        };
        Ok(chain.into_iter().map(member).collect())
    }
}

fn member(entry: &Entry) -> (i64, Author, Vec<i64>) {
    let dependents = entry.attempts.first().map(|push| push.dependents.clone());
    (entry.id, entry.author(), dependents.unwrap_or_default())
}

impl Tenant {
    /// What is in force for a violation of a collection.
    pub(crate) async fn dead_letter_policy(
        &self,
        collection: &str,
        violation: &str,
    ) -> Result<PolicyInForce, SqlError> {
        let config = Arc::clone(&self.shared.config);
        let (collection, violation) = (collection.to_owned(), violation.to_owned());
        self.on_snapshot(move |conn| {
            Ok(PolicyInForce {
                policy: Policy::of(conn, &config, &collection, &violation)?,
                collection,
                violation,
            })
        })
        .await
    }
}
