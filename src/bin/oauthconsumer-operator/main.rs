//! `oauthconsumer-operator`: the controller and the sign-in check, together or apart.

#[allow(clippy::doc_markdown, reason = "its doc comments are help texts, not Markdown")]
mod cli;
mod error;
mod logs;
mod process;
mod run;

use std::error::Error;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use oauthconsumer_operator::api;

use cli::{Cli, Command};
use error::ProgramError;

fn main() -> ExitCode {
    let result = process::prepare().map_err(|error| ProgramError::CoreDumps(error).into()).and_then(|()| run_command());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oauthconsumer-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_command() -> Result<(), Box<dyn Error>> {
    match Cli::parse().command {
        Command::Run(options) => run::both(options),
        Command::Controller(options) => run::controller(options),
        Command::Signin(options) => run::signin(options),
        Command::Revoke(options) => run::revoke(&options),
        Command::Cleanup(options) => run::cleanup(&options),
        Command::Crd => print_crd(),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "oauthconsumer-operator", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn print_crd() -> Result<(), Box<dyn Error>> {
    print!("{}", serde_yaml::to_string(&api::crd())?);
    Ok(())
}
