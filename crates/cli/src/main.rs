//! The binary `aiquota`: arguments and environment in, a running controller or what was asked for out. Exits with 0 when
//! done, 1 when something failed or was found, 2 when it was called wrongly.

mod check;
mod completion;
mod crds;
mod files;
mod import;
mod log;
mod module_url;
mod permissions;
mod problem;
mod reference;
mod render;
mod run;
mod settings;
mod tell;
mod usage;
mod world;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

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
    Render(Box<render::Render>),
    Check(Box<check::Check>),
    Import(import::Import),
    Usage(usage::Usage),
    Crds(crds::Crds),
    Completion(completion::Completion),
    /// Print what the controller must be allowed, as rules of RBAC
    #[command(hide = true)]
    Permissions,
    /// Print docs/reference.md: every field of every kind
    #[command(hide = true)]
    Reference,
}

fn main() -> ExitCode {
    let command = without_empty_variables(Aiquota::command());
    let called = Aiquota::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let done = match called.command {
        Command::Run(run) => control(*run).map(|()| ExitCode::SUCCESS),
        Command::Render(render) => render.run(),
        Command::Check(check) => check.run(),
        Command::Import(import) => import.run(),
        Command::Usage(usage) => usage.run(),
        Command::Crds(crds) => crds.run().map(|()| ExitCode::SUCCESS),
        Command::Completion(completion) => completion.run(Aiquota::command()).map(|()| ExitCode::SUCCESS),
        Command::Permissions => permissions::print().map(|()| ExitCode::SUCCESS),
        Command::Reference => reference::print().map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.is::<settings::CalledWrongly>() => {
            Aiquota::command().error(ErrorKind::ValueValidation, error).exit()
        }
        Err(error) => {
            // Without the usage that wrong calls are answered with: this one was right.
            let _ = writeln!(std::io::stderr(), "error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// Deployments write a variable for everything that may be set: one that is empty sets nothing.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let arguments = |argument: clap::Arg| match argument.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => argument.env(None::<&str>),
        _ => argument,
    };
    command.mut_args(arguments).mut_subcommands(without_empty_variables)
}

/// The error and its causes, each once: libraries repeat the cause in their own words.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        told if told.contains(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

fn control(run: run::Run) -> anyhow::Result<()> {
    run.log.start();
    let (election, operations) = (run.election(), run.operations());
    let settings = match run.settings() {
        Ok(settings) => settings,
        Err(error) => Aiquota::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let ended = runtime.block_on(controller::run(settings, election, operations));
    // It writes nothing any more: what it still reckons is not waited for.
    runtime.shutdown_background();
    Ok(ended?)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_that_the_error_tells_already_is_not_told_again() {
        let error = anyhow!("refused").context("no connection: refused").context("the cluster is away");
        assert_eq!(told(&error), "the cluster is away: no connection: refused");
    }
}
