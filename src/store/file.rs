//! Whether an open file is still the one that its path names.

use std::io;
use std::os::unix::fs::MetadataExt;

use super::OpenError;

/// The file that a path named when it was opened. A file stays open when it is removed or replaced: then reads return old data,
/// and writes are lost.
pub(super) struct FileIdentity {
    path: String,
    device_and_inode: (u64, u64),
}

// === impl FileIdentity ===

impl FileIdentity {
    pub(super) fn of(path: &str) -> Result<Self, OpenError> {
        let metadata = std::fs::metadata(path).map_err(|error| OpenError::File(path.to_owned(), error))?;
        Ok(Self { path: path.to_owned(), device_and_inode: (metadata.dev(), metadata.ino()) })
    }

    /// Whether the path still names that file.
    pub(super) fn check(&self) -> io::Result<()> {
        let now = std::fs::metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        if now.is_ok_and(|now| now == self.device_and_inode) {
            return Ok(());
        }
        let path = &self.path;
        Err(io::Error::other(format!("{path} was removed or replaced after this process opened it; restart this process")))
    }
}
