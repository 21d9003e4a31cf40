//! The one right that nobody has to grant: whoever had a mutation rejected may read its dead letter.
//!
//! It is for those who hold no SELECT on `springhead.dead_letters` at all; with one, policies decide
//! as on any table. A role may stand for many users (JWT), so that the author is the role *and* the
//! user id, both as they were when the mutation came.

use std::sync::LazyLock;

use springhead_proto::CollectionId;

use super::Identity;
use super::decide::{RowRule, concerns, is_for};
use crate::catalog::{Access, Policy, PolicyCommand, Privilege, QualifiedName, Table};

/// The author's rows. The first of a dead letter's attempts is the push itself.
static OWN_ROWS: LazyLock<Policy> = LazyLock::new(|| Policy {
    name: "springhead_author".to_owned(),
    permissive: true,
    command: PolicyCommand::Select,
    roles: Vec::new(),
    known_as: QualifiedName::DEAD_LETTERS.to_owned(),
    using: Some("username = session_user AND attempts -> 0 ->> 'uid' = auth.uid()".to_owned()),
    check: None,
});

/// Whether `identity` reads `table` as an author and not by anything that it was granted.
pub(super) fn sees_own(table: &Table, identity: &Identity, privilege: Privilege) -> bool {
    if table.collection() != CollectionId::DEAD_LETTERS
        || privilege != Privilege::Select
        || identity.is_member_of(table.access.owner())
    {
        return false;
    }
    let granted = table.access.grants.iter().any(|grant| {
        grant.privileges.contains(Privilege::Select) && is_for(grant.grantee.as_deref(), identity)
    });
    !granted
}

/// The author's rows; where row security is on, restrictive policies hold for them too.
pub(super) fn rule<'a>(access: &'a Access, identity: &Identity) -> RowRule<'a> {
    let mut rule = RowRule {
        permissive: vec![&OWN_ROWS],
        restrictive: Vec::new(),
    };
    if access.row_security && !identity.bypass_rls {
        let restrictive = access.policies.iter().filter(|policy| {
            !policy.permissive && concerns(policy, PolicyCommand::Select, identity)
        });
        rule.restrictive.extend(restrictive);
        rule.restrictive.sort_by(|a, b| a.name.cmp(&b.name));
    }
    rule
}
