//! Faults and what must hold in spite of them: crash scenarios on the real server process, and the
//! checker of their histories.
//!
//! A scenario ([`scenario`]) starts the real binary ([`process`]), lets seeded writers ([`load`])
//! and readers ([`followers`]) at it over its own protocols ([`client`]), kills or harms it, starts
//! it again, and hands everything that happened ([`history`]) to the [`checker`]. The tests and
//! `cargo xtask soak` call it; nothing else does. It uses none of Springhead's other crates for
//! that: what is checked is what a user could see. The simulated disk ([`disk`]) stands beside: the
//! log's own tests run on it.

pub mod book;
pub mod checker;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod fixture;
pub mod followers;
pub mod history;
pub mod load;
pub mod matrix;
pub mod postgres;
pub mod process;
pub mod rng;
pub mod scenario;
pub mod small_disk;
pub mod world;

/// Every failpoint of the server, each once: read from the sources, so that none is forgotten.
///
/// # Panics
/// If the sources are not where this was built.
#[must_use]
pub fn failpoints() -> Vec<String> {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("crates/");
    let mut found = std::collections::BTreeSet::new();
    let mut directories = vec![crates.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)
            .expect("a directory of sources")
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") && !path.ends_with("sim") {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let names = text.split("failpoint::hit(\"").skip(1);
                found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
    found.into_iter().collect()
}
