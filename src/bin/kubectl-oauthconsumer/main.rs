//! `kubectl oauthconsumer`: a command for each thing that people do with consumers.

mod check;
mod cli;
mod prompt;
mod run;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
