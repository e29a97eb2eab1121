//! What is asked of a person at a terminal.

use std::io::{IsTerminal, Read};
use std::path::Path;

use dialoguer::{Confirm, Password};

/// Asks for a secret twice. It is not shown.
pub fn secret() -> Result<String, String> {
    if !std::io::stderr().is_terminal() {
        return Err("there is no terminal to ask for the secret: give --secret-file or --new-secret".into());
    }
    let asked = Password::new()
        .with_prompt("Consumer secret")
        .with_confirmation("Re-type consumer secret", "The two are not the same.")
        .interact();
    asked.map_err(|error| format!("the secret could not be read: {error}"))
}

/// The file's content, without the line break that editors and `echo` leave at its end.
pub fn secret_from(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text),
        _ => std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| format!("the secret could not be read from {}: {error}", file.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Whether the person says yes. Without a terminal that cannot be known.
pub fn confirmed(question: &str) -> Result<bool, String> {
    if !std::io::stderr().is_terminal() {
        return Err("there is no terminal to confirm this at: give --yes".into());
    }
    Confirm::new().with_prompt(question).default(false).interact().map_err(|error| error.to_string())
}
