//! One cell: its document, opened to be read, merged into or edited, and its state afterwards.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value as Json;
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, ArrayRef, ClientID, Doc, GetString, OffsetKind, Options, Out, ReadTxn, StateVector,
    Text, TextRef, Transact, TransactionMut, Update,
};

use crate::content::{to_any, to_json};
use crate::{Content, CrdtError, state};

/// What a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Characters.
    Text,
    /// JSON values.
    List,
}

/// Who edits: a number that nobody else edits the cell with, and that is never used again once what
/// was edited with it has been taken back. 53 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(u64);

/// How much a cell may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a state, at most.
    pub state_bytes: usize,
    /// After so many updates they are made one.
    pub merge_updates: usize,
}

/// One step of an edit. Positions and lengths count characters (Unicode scalar values) of a text,
/// elements of a list; each step is about what the ones before it have left.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    Insert { at: usize, text: String },
    InsertElements { at: usize, elements: Vec<Json> },
    Delete { at: usize, length: usize },
}

/// An opened cell.
pub struct Cell {
    kind: Kind,
    doc: Doc,
    root: Root,
    /// What `doc` holds, as it is stored.
    state: Vec<u8>,
}

enum Root {
    Text(TextRef),
    List(ArrayRef),
}

/// A Yjs update that says nothing: no structs, no deletions.
const NOTHING: [u8; 2] = [0, 0];

/// Whether an update says nothing.
#[must_use]
pub fn is_nothing(update: &[u8]) -> bool {
    update == NOTHING
}

/// What makes a cell's later state of an earlier one, as one update.
///
/// # Errors
/// [`CrdtError::Damaged`].
pub fn update_between(
    kind: Kind,
    before: (Option<&[u8]>, Option<&Content>),
    after: &[u8],
) -> Result<Vec<u8>, CrdtError> {
    let open = |state, shown| Cell::open(kind, state, shown, Client::new(0));
    let before = open(before.0, before.1)?;
    let after = open(Some(after), None)?;
    let known = before.doc.transact().state_vector();
    Ok(after.doc.transact().encode_state_as_update_v1(&known))
}

impl Kind {
    /// The name of the document's one shared type.
    #[must_use]
    pub const fn root(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::List => "list",
        }
    }
}

impl Client {
    /// Of 64 bits that nobody else is likely to come by.
    #[must_use]
    pub const fn new(random: u64) -> Client {
        Client(random & ((1 << 53) - 1))
    }

    /// Who has written a content that nobody has edited yet: everyone comes to the same one. FNV-1a
    /// over `text`, 0x00, the text; or over `list` and, each after 0x00, its elements: a text after a
    /// `"`, of others their JSON type alone, since languages print numbers each in its own way.
    fn of_seed(content: &Content) -> Client {
        let mut bytes = content.kind().root().as_bytes().to_vec();
        match content {
            Content::Text(text) => {
                bytes.push(0);
                bytes.extend_from_slice(text.as_bytes());
            }
            Content::List(elements) => {
                for element in elements {
                    bytes.push(0);
                    bytes.extend_from_slice(match element {
                        Json::Null => b"null",
                        Json::Bool(true) => b"true",
                        Json::Bool(false) => b"false",
                        Json::Number(_) => b"number",
                        Json::String(_) => b"\"",
                        Json::Array(_) => b"array",
                        Json::Object(_) => b"object",
                    });
                    if let Json::String(text) = element {
                        bytes.extend_from_slice(text.as_bytes());
                    }
                }
            }
        }
        Client::new(fnv1a(&bytes))
    }

    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Cell {
    /// Opens a cell to be edited by `client`: of its state, or, where there is none, of what its row
    /// shows (`None` for NULL).
    ///
    /// # Errors
    /// [`CrdtError::Damaged`] for a state that cannot be read.
    pub fn open(
        kind: Kind,
        state: Option<&[u8]>,
        shown: Option<&Content>,
        client: Client,
    ) -> Result<Cell, CrdtError> {
        let mut cell = Cell::empty(kind, client);
        let damaged = |error: CrdtError| CrdtError::Damaged(error.to_string());
        match (state, shown) {
            (Some(state), _) => {
                for block in state::blocks(state)? {
                    cell.apply(block).map_err(damaged)?;
                }
                state.clone_into(&mut cell.state);
            }
            (None, Some(shown)) if !shown.is_empty() => {
                let mut seed = Cell::empty(kind, Client::of_seed(shown));
                let update = seed.put(shown)?;
                cell.apply(&update)?;
                state::push(&mut cell.state, &update);
            }
            (None, _) => {}
        }
        Ok(cell)
    }

    fn empty(kind: Kind, client: Client) -> Cell {
        let doc = Doc::with_options(Options {
            offset_kind: OffsetKind::Utf16,
            skip_gc: false,
            ..Options::with_client_id(ClientID::new(client.0))
        });
        let root = match kind {
            Kind::Text => Root::Text(doc.get_or_insert_text(kind.root())),
            Kind::List => Root::List(doc.get_or_insert_array(kind.root())),
        };
        Cell {
            kind,
            doc,
            root,
            state: Vec::new(),
        }
    }

    /// What it shows.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] for a list with something that is no JSON.
    pub fn content(&self) -> Result<Content, CrdtError> {
        let txn = self.doc.transact();
        Ok(match &self.root {
            Root::Text(text) => Content::Text(text.get_string(&txn)),
            Root::List(list) => {
                let element = |out: Out| match out {
                    Out::Any(any) => to_json(&any),
                    _ => Err(CrdtError::Malformed(
                        "an element of a list is JSON, not a shared type".to_owned(),
                    )),
                };
                Content::List(list.iter(&txn).map(element).collect::<Result<_, _>>()?)
            }
        })
    }

    /// Merges an update that somebody else has made. Whether it said anything new.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`], [`CrdtError::Missing`]; the cell is then good for nothing.
    pub fn merge(&mut self, update: &[u8]) -> Result<bool, CrdtError> {
        let made = self.apply(update)?;
        self.content()?;
        let txn = self.doc.transact();
        if let Some((name, _)) = txn.root_refs().find(|(name, _)| *name != self.kind.root()) {
            return Err(CrdtError::Malformed(format!(
                "it writes to \"{name}\", and a column has \"{}\" alone",
                self.kind.root()
            )));
        }
        drop(txn);
        let is_new = made != NOTHING;
        if is_new {
            state::push(&mut self.state, &made);
        }
        Ok(is_new)
    }

    /// Applies an update; what of it was new.
    fn apply(&mut self, update: &[u8]) -> Result<Vec<u8>, CrdtError> {
        let doc = &self.doc;
        // Bytes from outside: whatever they do to the library, it is they that are wrong.
        let applied = catch_unwind(AssertUnwindSafe(|| {
            let update = Update::decode_v1(update)
                .map_err(|error| CrdtError::Malformed(error.to_string()))?;
            let mut txn = doc.transact_mut();
            if has_gap(&update, &txn.state_vector()) {
                return Err(CrdtError::Missing);
            }
            txn.apply_update(update)
                .map_err(|error| CrdtError::Malformed(error.to_string()))?;
            if txn.has_missing_updates() {
                return Err(CrdtError::Missing);
            }
            Ok(txn.encode_update_v1())
        }));
        applied.unwrap_or_else(|_| Err(CrdtError::Malformed("it cannot be applied".to_owned())))
    }

    /// Edits it step by step; the update that says so to others.
    ///
    /// # Errors
    /// [`CrdtError::OutOfRange`], [`CrdtError::WrongKind`]; the cell is then good for nothing.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<Vec<u8>, CrdtError> {
        self.write(|root, txn| edits.iter().try_for_each(|edit| step(root, txn, edit)))
    }

    /// Makes it show `content`: the run that differs is replaced, so that edits of others outside of
    /// it stay. The update that says so to others.
    ///
    /// # Errors
    /// [`CrdtError::WrongKind`].
    pub fn replace(&mut self, content: &Content) -> Result<Vec<u8>, CrdtError> {
        let old = self.content()?;
        let edits = replacement(&old, content)?;
        self.edit(&edits)
    }

    /// The first content of an empty cell.
    fn put(&mut self, content: &Content) -> Result<Vec<u8>, CrdtError> {
        self.edit(&[match content {
            Content::Text(text) => Edit::Insert {
                at: 0,
                text: text.clone(),
            },
            Content::List(elements) => Edit::InsertElements {
                at: 0,
                elements: elements.clone(),
            },
        }])
    }

    fn write(
        &mut self,
        change: impl FnOnce(&Root, &mut TransactionMut<'_>) -> Result<(), CrdtError>,
    ) -> Result<Vec<u8>, CrdtError> {
        let mut txn = self.doc.transact_mut();
        change(&self.root, &mut txn)?;
        let update = txn.encode_update_v1();
        drop(txn);
        if update != NOTHING {
            state::push(&mut self.state, &update);
        }
        Ok(update)
    }

    /// The state to store; `None` for an empty cell that nobody has edited.
    ///
    /// # Errors
    /// [`CrdtError::TooLarge`].
    pub fn save(&self, limits: &Limits) -> Result<Option<Vec<u8>>, CrdtError> {
        let updates = state::blocks(&self.state)?.len();
        let mut state = self.state.clone();
        if updates > limits.merge_updates.max(1) || state.len() > limits.state_bytes {
            state = self.merged();
        }
        if state.len() > limits.state_bytes {
            return Err(CrdtError::TooLarge {
                limit_bytes: limits.state_bytes,
            });
        }
        Ok((!state.is_empty()).then_some(state))
    }

    /// The state as one update. What has been deleted is there by its length alone.
    fn merged(&self) -> Vec<u8> {
        let update = self
            .doc
            .transact()
            .encode_state_as_update_v1(&StateVector::default());
        let mut state = Vec::with_capacity(update.len() + 4);
        state::push(&mut state, &update);
        state
    }
}

/// Whether an update leaves out something of what a client has edited before. The library would take
/// it, where it rests on nothing that is left out, and Yjs in JavaScript would not.
fn has_gap(update: &Update, known: &StateVector) -> bool {
    update.insertions(true).iter().any(|(client, ranges)| {
        let mut next = known.get(client);
        ranges.iter().any(|range| {
            let is_ahead = range.start > next;
            next = next.max(range.end);
            is_ahead
        })
    })
}

fn step(root: &Root, txn: &mut TransactionMut<'_>, edit: &Edit) -> Result<(), CrdtError> {
    match (root, edit) {
        (Root::Text(shown), Edit::Insert { at, text }) => {
            let place = offset(&shown.get_string(txn), *at)?;
            if !text.is_empty() {
                shown.insert(txn, place, text);
            }
        }
        (Root::Text(shown), Edit::Delete { at, length }) => {
            let now = shown.get_string(txn);
            let from = offset(&now, *at)?;
            let to = offset(&now, at.saturating_add(*length))?;
            if to > from {
                shown.remove_range(txn, from, to - from);
            }
        }
        (Root::List(list), Edit::InsertElements { at, elements }) => {
            let place = within(*at, list.len(txn))?;
            if !elements.is_empty() {
                let values: Vec<Any> = elements.iter().map(to_any).collect();
                list.insert_range(txn, place, values);
            }
        }
        (Root::List(list), Edit::Delete { at, length }) => {
            let end = list.len(txn);
            let from = within(*at, end)?;
            let to = within(at.saturating_add(*length), end)?;
            if to > from {
                list.remove_range(txn, from, to - from);
            }
        }
        (Root::Text(_), Edit::InsertElements { .. }) | (Root::List(_), Edit::Insert { .. }) => {
            return Err(CrdtError::WrongKind);
        }
    }
    Ok(())
}

/// Where a character is in UTF-16, which Yjs counts in.
fn offset(text: &str, at: usize) -> Result<u32, CrdtError> {
    let mut units = 0;
    let mut characters = text.chars();
    for passed in 0..at {
        let character = characters
            .next()
            .ok_or(CrdtError::OutOfRange { at, length: passed })?;
        units += character.len_utf16();
    }
    u32::try_from(units).map_err(|_| CrdtError::OutOfRange { at, length: units })
}

fn within(at: usize, length: u32) -> Result<u32, CrdtError> {
    let length_elements = usize::try_from(length).unwrap_or(usize::MAX);
    u32::try_from(at)
        .ok()
        .filter(|at| *at <= length)
        .ok_or(CrdtError::OutOfRange {
            at,
            length: length_elements,
        })
}

/// The edits that make `new` of `old`: one run out, one in.
fn replacement(old: &Content, new: &Content) -> Result<Vec<Edit>, CrdtError> {
    match (old, new) {
        (Content::Text(old), Content::Text(new)) => {
            let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
            let (at, end) = same_ends(&old, &new);
            let inserted = new[at..new.len() - end].iter().collect();
            Ok(vec![
                Edit::Delete {
                    at,
                    length: old.len() - end - at,
                },
                Edit::Insert { at, text: inserted },
            ])
        }
        (Content::List(old), Content::List(new)) => {
            let plain = |element: &Json| to_json(&to_any(element));
            let new = new.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
            let (at, end) = same_ends(old, &new);
            let elements = new[at..new.len() - end].to_vec();
            Ok(vec![
                Edit::Delete {
                    at,
                    length: old.len() - end - at,
                },
                Edit::InsertElements { at, elements },
            ])
        }
        _ => Err(CrdtError::WrongKind),
    }
}

/// How much two sequences have in common at their beginning, and at their end beyond that.
fn same_ends<T: PartialEq>(one: &[T], other: &[T]) -> (usize, usize) {
    let same = |(a, b): &(&T, &T)| a == b;
    let first = one.iter().zip(other).take_while(same).count();
    let (one, other) = (&one[first..], &other[first..]);
    let last = one.iter().rev().zip(other.iter().rev()).take_while(same);
    (first, last.count())
}
