//! Numbers of queries that stand under one key. There may be a hundred thousand keys with one each.

/// See the module's text.
#[derive(Default)]
#[expect(
    clippy::box_collection,
    reason = "few have many, and all pay for its size"
)]
pub(super) enum Ids {
    #[default]
    None,
    One(u64),
    Many(Box<Vec<u64>>),
}

impl Ids {
    pub(super) fn push(&mut self, id: u64) {
        match self {
            Ids::None => *self = Ids::One(id),
            Ids::One(one) => *self = Ids::Many(Box::new(vec![*one, id])),
            Ids::Many(ids) => ids.push(id),
        }
    }

    /// Whether none is left.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        match self {
            Ids::One(one) if *one == id => *self = Ids::None,
            Ids::Many(ids) => {
                // In any order: those that are found are sorted by whoever looks.
                if let Some(at) = ids.iter().position(|other| *other == id) {
                    ids.swap_remove(at);
                }
                if ids.is_empty() {
                    *self = Ids::None;
                }
            }
            _ => {}
        }
        matches!(self, Ids::None)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let (one, many) = match self {
            Ids::None => (None, &[][..]),
            Ids::One(id) => (Some(*id), &[][..]),
            Ids::Many(ids) => (None, &ids[..]),
        };
        one.into_iter().chain(many.iter().copied())
    }
}
