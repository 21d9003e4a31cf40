//! Visiting every state that there is within bounds, and random ways through larger ones.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash as _, Hasher};

use springhead_log::vote::Omitted;

use super::model::{Bounds, Broken, Model, State};

/// What a search came to.
pub struct Searched {
    pub states: usize,
    /// Steps from one state to another, each tried.
    pub steps: u64,
    /// A way in which G11 is broken.
    pub broken: Option<Broken>,
}

/// Two multiplications a word (Lemire 2019, as wyhash does): 128 bits of a state, so that of a thousand
/// million states no two are taken for one by chance.
struct Mark(u64, u64);

impl Mark {
    fn of<const N: usize>(state: &State<N>) -> u128 {
        let mut mark = Mark(0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03);
        state.hash(&mut mark);
        let low = folded(mark.0 ^ 0xa076_1d64_78bd_642f, mark.1 | 1);
        let high = folded(mark.1 ^ 0xe703_7ed1_a0b4_28db, mark.0 | 1);
        u128::from(high) << 64 | u128::from(low)
    }
}

fn folded(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    let low = u64::try_from(product & u128::from(u64::MAX)).expect("64 bits");
    let high = u64::try_from(product >> 64).expect("64 bits");
    low ^ high
}

impl Hasher for Mark {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 60);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = folded(self.0 ^ word, 0x8ebc_6af0_9c88_c6e3);
        self.1 = folded(self.1.rotate_left(23) ^ word, 0x5899_65cc_7537_4cc3);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A mark is as even as a hash can be already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("marks are numbers");
    }

    fn write_u128(&mut self, mark: u128) {
        self.0 = u64::try_from(mark & u128::from(u64::MAX)).expect("64 bits");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Visits every state within the bounds, `max_states` at most, depth first: what is kept of a state that
/// was visited is its mark.
pub fn search<const N: usize>(bounds: Bounds, omitted: Omitted, max_states: usize) -> Searched {
    let model = Model::<N>::new(bounds, omitted);
    let first = model.first();
    let mut seen: HashSet<u128, BuildHasherDefault<AsIs>> = HashSet::default();
    seen.insert(Mark::of(&first));
    let mut open = vec![first];
    let mut steps = 0;
    while let Some(state) = open.pop() {
        for step in model.steps(&state) {
            match model.after(&state, step) {
                None => {}
                Some(Err(why)) => {
                    return Searched {
                        states: seen.len(),
                        steps,
                        broken: Some(format!("{why}, by {step:?} in {state:#?}")),
                    };
                }
                Some(Ok(next)) => {
                    steps += 1;
                    if seen.len() < max_states && seen.insert(Mark::of(&next)) {
                        open.push(next);
                    }
                }
            }
        }
    }
    Searched {
        states: seen.len(),
        steps,
        broken: None,
    }
}

/// A random way; a failure names its seed, and the same seed goes the same way.
pub fn walk<const N: usize>(
    seed: u64,
    bounds: Bounds,
    omitted: Omitted,
) -> Result<(State<N>, usize), Broken> {
    let model = Model::<N>::new(bounds, omitted);
    let mut state = model.first();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut taken = 0;
    for _ in 0..120 {
        let mut next: Vec<_> = model
            .steps(&state)
            .into_iter()
            .filter_map(|step| Some((step, model.after(&state, step)?)))
            .collect();
        if next.is_empty() {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let chosen = usize::try_from((random >> 11) % next.len() as u64).expect("small");
        let (step, chosen) = next.swap_remove(chosen);
        state = chosen.map_err(|why| format!("seed {seed}, step {taken} ({step:?}): {why}"))?;
        taken += 1;
    }
    Ok((state, taken))
}
