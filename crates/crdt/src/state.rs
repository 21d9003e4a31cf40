//! The bytes of a cell's state, and of what is sent of it.
//!
//! ```text
//! state   block*
//! block   length u32 little endian, then so many bytes: a Yjs update, version 1
//!
//! sent    0x00 state       all of it: what the receiver had does not count any more
//!         0x01 block*      comes after what the receiver has
//! ```
//!
//! An edit is a block at the end; now and then all blocks are made one. So a receiver that holds the
//! state before needs the new blocks alone, and neither side has to understand them.

use crate::CrdtError;

const WHOLE: u8 = 0;
const MORE: u8 = 1;
const LENGTH_BYTES: usize = 4;

/// The updates in a state, in order.
///
/// # Errors
/// [`CrdtError::Damaged`] if the blocks do not fill it.
pub fn blocks(mut state: &[u8]) -> Result<Vec<&[u8]>, CrdtError> {
    let mut blocks = Vec::new();
    while !state.is_empty() {
        let (length, rest) = state
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or_else(|| cut("a block's length"))?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(cut("a block"));
        }
        let (block, rest) = rest.split_at(length);
        blocks.push(block);
        state = rest;
    }
    Ok(blocks)
}

fn cut(what: &str) -> CrdtError {
    CrdtError::Damaged(format!("{what} is cut off"))
}

/// Adds an update at the end.
pub(crate) fn push(state: &mut Vec<u8>, update: &[u8]) {
    let length = u32::try_from(update.len()).expect("updates are bounded far below 4 GiB");
    state.extend_from_slice(&length.to_le_bytes());
    state.extend_from_slice(update);
}

/// What is sent to whoever has nothing.
#[must_use]
pub fn whole(state: &[u8]) -> Vec<u8> {
    tagged(WHOLE, state)
}

/// What is sent to whoever has `before`.
#[must_use]
pub fn difference(before: Option<&[u8]>, after: &[u8]) -> Vec<u8> {
    match before.and_then(|before| after.strip_prefix(before)) {
        Some(more) => tagged(MORE, more),
        None => whole(after),
    }
}

fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(1 + bytes.len());
    sent.push(tag);
    sent.extend_from_slice(bytes);
    sent
}

/// The state of a receiver that has `before`, after `sent`. What it has at its end already, since
/// two shapes tell of one change, is not added again.
///
/// # Errors
/// [`CrdtError::Damaged`] for an unknown tag or blocks that are cut off.
pub fn received(before: Option<&[u8]>, sent: &[u8]) -> Result<Vec<u8>, CrdtError> {
    let (tag, bytes) = sent
        .split_first()
        .ok_or_else(|| CrdtError::Damaged("nothing was sent".to_owned()))?;
    blocks(bytes)?;
    match (*tag, before) {
        (WHOLE, _) | (MORE, None) => Ok(bytes.to_vec()),
        (MORE, Some(before)) if before.ends_with(bytes) => Ok(before.to_vec()),
        (MORE, Some(before)) => Ok([before, bytes].concat()),
        (other, _) => Err(CrdtError::Damaged(format!("tag {other} is not known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(updates: &[&[u8]]) -> Vec<u8> {
        let mut state = Vec::new();
        updates.iter().for_each(|update| push(&mut state, update));
        state
    }

    #[test]
    fn a_receiver_follows_by_what_is_new() {
        let (one, two, merged) = (state(&[b"a"]), state(&[b"a", b"bc"]), state(&[b"abc"]));
        let more = difference(Some(&one), &two);
        assert_eq!(more, [1, 2, 0, 0, 0, b'b', b'c']);
        assert_eq!(received(Some(&one), &more), Ok(two.clone()));
        assert_eq!(received(Some(&two), &more), Ok(two.clone()), "told twice");
        let whole = difference(Some(&two), &merged);
        assert_eq!(received(Some(&two), &whole), Ok(merged));
        assert_eq!(received(None, &difference(None, &two)), Ok(two));
    }

    #[test]
    fn what_is_cut_or_unknown_is_refused() {
        for sent in [&[][..], &[2], &[0, 1], &[1, 9, 0, 0, 0, 1]] {
            assert!(matches!(received(None, sent), Err(CrdtError::Damaged(_))));
        }
    }
}
