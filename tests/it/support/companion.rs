//! Servers that a test starts for itself with one of the scripts in `dev/`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A script that runs until the test ends.
pub struct Companion {
    /// The environment variable that was asked for.
    pub value: String,
    child: Child,
}

// === impl Companion ===

impl Companion {
    /// Starts `dev/SCRIPT`, and waits until it offers the value of this environment variable.
    pub fn start(script: &str, variable: &str) -> Self {
        let mut child = Command::new(format!("{}/dev/{script}", env!("CARGO_MANIFEST_DIR")))
            .args(["bash", "-c", &format!("echo \"${variable}\"; exec cat")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut value = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut value).unwrap();
        assert!(!value.trim().is_empty(), "{script} did not start");
        Self { value: value.trim().to_owned(), child }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // It reads to the end of its input, and then ends what it started.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
