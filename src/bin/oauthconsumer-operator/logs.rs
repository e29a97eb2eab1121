//! Structured logs on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Starts logging.
///
/// # Errors
/// If the filter does not parse: `LEVEL` or `TARGET=LEVEL,...`, as in `info,oauthconsumer_operator=debug`.
pub fn init(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    // kube logs the whole answer when it cannot parse it, and an answer may hold a Secret.
    let filter = EnvFilter::builder().parse(format!("{filter},kube_client::client=error"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
