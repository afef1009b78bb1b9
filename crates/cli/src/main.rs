//! The binary `aiquota`: arguments and environment in, a running controller or printed definitions out. Exits with
//! 0 when done, 1 when something failed, 2 when it was called wrongly.

mod crds;
mod log;
mod module_url;
mod run;

use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Token budgets for LLM traffic through Higress, declared as Kubernetes objects
#[derive(Parser, Debug)]
#[command(name = "aiquota", version)]
struct Aiquota {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<run::Run>),
    Crds(crds::Crds),
}

fn main() -> ExitCode {
    let done = match Aiquota::parse().command {
        Command::Run(run) => control(*run),
        Command::Crds(crds) => crds.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In the form, and with the colours on a terminal, in which wrong calls are reported.
            let _ = Aiquota::command().error(ErrorKind::Io, format!("{error:#}")).print();
            ExitCode::FAILURE
        }
    }
}

fn control(run: run::Run) -> anyhow::Result<()> {
    run.log.start();
    let settings = match run.settings() {
        Ok(settings) => settings,
        Err(error) => Aiquota::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(controller::run(settings))?;
    Ok(())
}
