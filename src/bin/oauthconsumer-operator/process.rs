//! What the process is granted by the kernel.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Open files that suffice: all connections, the store's, the API server's and some of the process itself.
const FILES: u64 = 4_096;

/// Prepares the process before it sees a secret.
///
/// # Errors
/// When a core dump, which would hold secrets, cannot be ruled out.
pub fn prepare() -> io::Result<()> {
    // The limit holds for files alone. A program that the kernel hands cores to gets none of a process that is not dumpable,
    // and other processes of the same user cannot read its memory.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|files| files < FILES) {
        let current = Some(files.maximum.map_or(FILES, |most| most.min(FILES)));
        // With fewer it works, too, with fewer connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..files });
    }
    Ok(())
}
