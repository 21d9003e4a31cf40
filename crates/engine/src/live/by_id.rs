//! What a connection keeps of each of its live queries. It may have a thousand, and a server a hundred of
//! such connections: a hash table would be half empty.

use super::outbox::LiveId;

/// A map from ids, sorted by them. Ids are given in ascending order, so that what comes goes to the end.
#[derive(Debug)]
pub(crate) struct ById<T>(Vec<(LiveId, T)>);

impl<T> Default for ById<T> {
    fn default() -> ById<T> {
        ById(Vec::new())
    }
}

impl<T> ById<T> {
    fn place(&self, id: LiveId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has(&self, id: LiveId) -> bool {
        self.place(id).is_ok()
    }

    pub(crate) fn get(&self, id: LiveId) -> Option<&T> {
        let place = self.place(id).ok()?;
        Some(&self.0[place].1)
    }

    pub(crate) fn get_mut(&mut self, id: LiveId) -> Option<&mut T> {
        let place = self.place(id).ok()?;
        Some(&mut self.0[place].1)
    }

    /// In place of what was there.
    pub(crate) fn insert(&mut self, id: LiveId, value: T) {
        match self.place(id) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (id, value)),
        }
    }

    pub(crate) fn remove(&mut self, id: LiveId) -> Option<T> {
        let place = self.place(id).ok()?;
        Some(self.0.remove(place).1)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LiveId, &T)> {
        self.0.iter().map(|(id, value)| (*id, value))
    }

    /// Ascending.
    pub(crate) fn ids(&self) -> impl Iterator<Item = LiveId> + '_ {
        self.0.iter().map(|(id, _)| *id)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_by_id_is_found_whatever_the_order_it_came_in() {
        let mut map = ById::default();
        for id in [3, 7, 5, 9, 1] {
            map.insert(LiveId(id), id * 10);
        }
        map.insert(LiveId(5), 55);
        assert_eq!(
            map.ids().map(|id| id.0).collect::<Vec<_>>(),
            [1, 3, 5, 7, 9]
        );
        assert_eq!(map.get(LiveId(5)), Some(&55));
        assert_eq!(map.get(LiveId(4)), None);
        assert_eq!(map.remove(LiveId(3)), Some(30));
        assert_eq!(map.remove(LiveId(3)), None);
        assert_eq!(
            (map.len(), map.has(LiveId(3)), map.has(LiveId(1))),
            (4, false, true)
        );
    }
}
