//! What a witness keeps on disk: which cluster it serves (`witness.json`), and what it has promised
//! (`vote`, as on every voter). Written durably before anyone is told.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use springhead_log::LogError;
use springhead_log::disk::RealDisk;
use springhead_log::segment::{load_vote, store_vote};
use springhead_log::vote::Durable;

use crate::lock::{DataDirError, WITNESS_FILE};
use crate::node::NodeError;
use crate::standby::files::{hex, write_durably};

/// Whom a witness serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Drawn when the directory was made: a witness that has forgotten everything is another one.
    #[serde(with = "hex")]
    pub witness_id: u128,
    /// The cluster's id; 0 before the first primary has come.
    #[serde(with = "hex")]
    pub cluster_id: u128,
    /// The nodes that may lead; their places are their ids.
    pub nodes: Vec<String>,
}

/// The directory of a witness.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens or makes it: whom the witness serves, and what it has promised, if it serves anyone.
    ///
    /// # Errors
    /// Damage of either file, or what the disk says: a voter that does not know what it has promised
    /// must not vote.
    pub fn open(dir: &Path) -> Result<(Store, Served, Option<Durable>), NodeError> {
        let store = Store {
            dir: dir.to_owned(),
        };
        let damaged = |what: String| DataDirError::Damaged {
            path: dir.join(WITNESS_FILE),
            what,
        };
        let served = match std::fs::read(dir.join(WITNESS_FILE)) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => store.make()?,
            Err(error) => return Err(system("read witness.json", error)),
        };
        if served.cluster_id == 0 {
            return Ok((store, served, None));
        }
        let durable = load_vote(&RealDisk, dir)?;
        let missing = || damaged("the file with its promises (vote) is missing".to_owned());
        let durable = durable.ok_or_else(missing)?;
        Ok((store, served, Some(durable)))
    }

    fn make(&self) -> Result<Served, NodeError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| system("draw an id", io::Error::other(error.to_string())))?;
        let served = Served {
            witness_id: u128::from_le_bytes(bytes),
            cluster_id: 0,
            nodes: Vec::new(),
        };
        self.store_served(&served)
            .map_err(|error| system("write witness.json", error))?;
        Ok(served)
    }

    /// Writes down whom the witness serves.
    ///
    /// # Errors
    /// What the disk says; what was there is still there.
    pub fn store_served(&self, served: &Served) -> io::Result<()> {
        write_durably(
            &self.dir.join(WITNESS_FILE),
            &serde_json::to_vec_pretty(served)?,
        )
    }

    /// Writes down what the witness promises.
    ///
    /// # Errors
    /// What the disk says.
    pub fn store_vote(&self, durable: &Durable) -> Result<(), LogError> {
        store_vote(&RealDisk, &self.dir, durable)
    }
}

fn system(what: &'static str, error: io::Error) -> NodeError {
    NodeError::System { what, error }
}

#[cfg(test)]
mod tests {
    use springhead_log::vote::Ballot;

    use super::*;

    #[test]
    fn g12_what_a_witness_has_promised_is_there_again_or_it_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let (store, served, durable) = Store::open(dir.path()).unwrap();
        assert_eq!((served.cluster_id, durable), (0, None));
        let served = Served {
            cluster_id: 1 << 90,
            nodes: vec!["a".to_owned(), "b".to_owned()],
            ..served
        };
        let durable = Durable::new(2, Ballot(7));
        store.store_vote(&durable).unwrap();
        store.store_served(&served).unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert_eq!((again.1, again.2), (served, Some(durable)));
        for name in ["vote", WITNESS_FILE] {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
            assert!(Store::open(dir.path()).is_err(), "{name} is cut");
            std::fs::write(&path, whole).unwrap();
        }
        std::fs::remove_file(dir.path().join("vote")).unwrap();
        assert!(Store::open(dir.path()).is_err(), "its promises are gone");
    }
}
