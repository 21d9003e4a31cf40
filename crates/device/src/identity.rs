//! Notices that a device's files are a copy. A copy has other inodes made at another time; two files
//! with the same of both are one. What the copy had pending keeps its names, so that whoever pushes it
//! first, the server applies it once; what it writes from then on is a new producer's.
//!
//! A copy that this does not see (a whole disk's snapshot) is seen by the server: it has another
//! mutation under the seq that the copy pushes, and fences it (docs/sync-protocol.md).

use std::path::Path;

/// What tells a directory from its copies.
///
/// # Errors
/// What the file system says.
pub(crate) fn of(dir: &Path) -> std::io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let marker = dir.join("IDENTITY");
    if !marker.exists() {
        std::fs::write(
            &marker,
            "Tells this device's files from a copy of them. Leave it.\n",
        )?;
    }
    let metadata = std::fs::metadata(&marker)?;
    let born = metadata
        .created()
        .ok()
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    Ok(format!("{:x}-{born:x}", metadata.ino()))
}
