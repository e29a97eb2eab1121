//! `oauthconsumer-operator`: the controller and the sign-in check, together or apart.

#[allow(clippy::doc_markdown, reason = "its doc comments are help texts, not Markdown")]
mod cli;
mod logs;
mod process;
mod run;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use oauthconsumer_operator::api;

use cli::{Cli, Command};

fn main() -> ExitCode {
    if let Err(error) = process::prepare() {
        eprintln!("oauthconsumer-operator: failed to switch core dumps off: {error}");
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().command {
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
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oauthconsumer-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_crd() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", serde_yaml::to_string(&api::crd())?);
    Ok(())
}
