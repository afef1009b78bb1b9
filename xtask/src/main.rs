//! The project's own commands: `cargo xtask demo | test | check | modules | package | generate | bench`. They start other
//! programs and say what they do; they link nothing of ours.

mod bench;
mod check;
mod demo;
mod generate;
mod modules;
mod package;
mod purity;
mod run;
mod test;
mod wasm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Commands of the aiquota workspace", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine and play a day of token management as a story.
    Demo {
        /// Leave all of it running at the end, and print how to reach it.
        #[arg(long)]
        keep: bool,
    },
    /// Build what the tests need and run all of them, or those that the arguments name.
    Test {
        /// Passed to `cargo test --workspace`, for example: `cargo xtask test --test e2e quota -- --nocapture`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check formats, lints, generated files, purity, licences and sources.
    Check,
    /// Build the wasm modules into target/modules, and show their sizes and imports.
    Modules,
    /// Build the wasm modules and pack each into target/package, as an OCI image layout that Higress loads.
    Package {
        /// Also write their checksums into the chart, as a release does.
        #[arg(long)]
        record: bool,
        /// The digest of the controller's published image, sha256:..., to be written with them.
        #[arg(long, requires = "record", value_name = "DIGEST")]
        image: Option<String>,
    },
    /// Write the generated files: the custom resource definitions in crds/, what the charts have of the code, and
    /// docs/reference.md.
    Generate {
        /// Write nothing; fail if something would change.
        #[arg(long)]
        check: bool,
    },
    /// Run the benchmarks, optimised.
    Bench {
        /// Measure the control plane with many objects, on a real API server and Redis, instead of modules and scripts.
        #[arg(long)]
        scale: bool,
        /// Let the store fail in every way under load, instead, and print the tables of docs/reliability.md.
        #[arg(long, conflicts_with = "scale")]
        faults: bool,
        /// AIQuota objects, with 10 consumers each and ten on a route.
        #[arg(long, default_value_t = 10_000, requires = "scale")]
        objects: usize,
        /// Edits of each kind, one after the other.
        #[arg(long, default_value_t = 50, requires = "scale")]
        edits: usize,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo { keep } => demo::demo(keep),
        Command::Test { arguments } => test::test(&arguments),
        Command::Check => check::check(),
        Command::Modules => modules::modules(),
        Command::Package { record, image } => package::package(record, image.as_deref()),
        Command::Generate { check } => generate::generate(check),
        Command::Bench { scale: true, faults: _, objects, edits } => bench::scale(objects, edits),
        Command::Bench { scale: false, faults: true, objects: _, edits: _ } => bench::faults(),
        Command::Bench { scale: false, faults: false, objects: _, edits: _ } => bench::bench(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say_failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
