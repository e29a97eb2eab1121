//! The kernel's limits for this process.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Enough open files for the connections of callers, to the store and to the API server.
const FILES: u64 = 4_096;

/// Prepares the process before it sees a secret.
///
/// # Errors
/// If core dumps cannot be switched off: they would hold secrets.
pub fn prepare() -> io::Result<()> {
    // The limit stops core files only. The kernel pipes no core of a process that is not dumpable to a program (core(5)), and
    // other processes of the same user cannot read its memory (prctl(2)).
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|files| files < FILES) {
        let current = Some(files.maximum.map_or(FILES, |most| most.min(FILES)));
        // With fewer files the process still works, with fewer connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..files });
    }
    Ok(())
}
