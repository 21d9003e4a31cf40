//! The fuzz targets in the suite: each is compiled as it is, with [`fuzz_target`] in libFuzzer's place, and
//! run over its seeds and what comes of them by a few mutations that are the same each time. So a target
//! does not rot between two fuzzings, and what its seeds show is shown by every run of the tests.
//!
//! Taken as a file by `tests/fuzz_targets.rs` of each crate with targets.

use std::path::Path;

/// libFuzzer's macro, for the suite: the target's body as a function of any bytes.
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:expr) => {
        pub fn fuzz_one($input: &[u8]) {
            $body
        }
    };
    (|$input:ident: &str| $body:expr) => {
        pub fn fuzz_one(bytes: &[u8]) {
            if let Ok($input) = std::str::from_utf8(bytes) {
                $body
            }
        }
    };
}
pub(crate) use fuzz_target;

/// Mutations of each seed; `SPRINGHEAD_FUZZ_MUTATIONS` in the environment for more.
const MUTATIONS: u64 = 12;

/// Runs `target` over `seeds` and their mutations. One that fails panics; what it was given is printed
/// before. `SPRINGHEAD_FUZZ_CORPUS` in the environment (`cargo xtask fuzz` sets it) is where the seeds are
/// to be written for libFuzzer instead.
pub fn over(target: &str, seeds: &[Vec<u8>], run: fn(&[u8])) {
    assert!(!seeds.is_empty(), "a target without seeds shows nothing");
    if let Some(corpus) = std::env::var_os("SPRINGHEAD_FUZZ_CORPUS") {
        let corpus = Path::new(&corpus).join(target);
        std::fs::create_dir_all(&corpus).expect("a directory for the corpus");
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{number}")), seed).expect("a seed");
        }
        return;
    }
    let count = std::env::var("SPRINGHEAD_FUZZ_MUTATIONS").ok();
    let count = count.and_then(|count| count.parse().ok());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        shown(seed, run);
        for _ in 0..count.unwrap_or(MUTATIONS) {
            let other = &seeds[random.below(seeds.len())];
            shown(&mutated(seed, other, &mut random), run);
        }
    }
}

/// The seeds that lie in a file, one a line.
#[allow(dead_code, reason = "not every crate's seeds are lines")]
pub fn lines(path: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).expect("seeds of the repository");
    text.lines().map(|line| line.as_bytes().to_vec()).collect()
}

fn shown(input: &[u8], run: fn(&[u8])) {
    let ran = std::panic::catch_unwind(|| run(input));
    if let Err(panic) = ran {
        eprintln!("the input was {:?}", String::from_utf8_lossy(input));
        eprintln!("in bytes {input:?}");
        std::panic::resume_unwind(panic);
    }
}

fn mutated(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, u8::try_from(random.below(256)).expect("below 256")),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            // The beginning of one and the end of another.
            _ => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}

/// xorshift64: the same mutations each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }
}
