//! Small files of a data directory that are replaced as a whole: what a node is, and its slots.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Puts `bytes` in the place of the file, at once and durably.
///
/// # Errors
/// What the disk says; the file is then as it was.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the disk says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// 128 bits, as people and JSON can carry them.
pub mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{number:032x}"))
    }

    /// # Errors
    /// That it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(de::Error::custom)
    }
}

/// What a node is, across restarts: `role.json` in its data directory. Written whenever the node
/// changes its role, and then stronger than the configuration, which says only what a node begins as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFile {
    pub role: StoredRole,
    /// Where the primary is, for a standby.
    pub primary: Option<String>,
    /// The highest epoch that it has seen: it never follows or acknowledges a lower one.
    pub promised: u32,
    /// Why its log may lack what it has acknowledged. It is not promoted (but by force) until it has
    /// caught up with a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// See [`RoleFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredRole {
    Primary,
    Standby,
}

impl RoleFile {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("role.json")
    }

    /// What was written last; `None` for a node that has never changed its role.
    ///
    /// # Errors
    /// What the disk says, or that the file is none.
    pub fn read(data_dir: &Path) -> io::Result<Option<RoleFile>> {
        match std::fs::read(RoleFile::path(data_dir)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// What the disk says.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        write_durably(&RoleFile::path(data_dir), &serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RoleFile::read(dir.path()).unwrap(), None);
        let file = RoleFile {
            role: StoredRole::Standby,
            primary: Some("http://127.0.0.1:6480".to_owned()),
            promised: 2,
            doubt: Some("damaged".to_owned()),
        };
        file.write(dir.path()).unwrap();
        assert_eq!(RoleFile::read(dir.path()).unwrap(), Some(file));
    }
}
