//! `cargo xtask test`: what the tests run on is built first, then all tests run.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::modules;
use crate::run::{cargo, say_done, say_heading, step, time};

pub(crate) fn test(arguments: &[String]) -> Result<()> {
    let begun = Instant::now();
    build()?;
    let mut tests = cargo(["test", "--workspace"]);
    step("tests", quiet_errors(tests.args(arguments)))?;
    say_heading("everything passed");
    say_done(&time(begun.elapsed()));
    Ok(())
}

/// The programs that tests and demo start: modules, controller, API server, etcd, kubectl.
pub(crate) fn build() -> Result<()> {
    modules::modules()?;
    step("controller", &mut cargo(["build", "--package", "aiquota"]))?;
    step("components", &mut cargo(["run", "--quiet", "--package", "aiquota-testbed", "--bin", "components"]))
}

/// A failing test says what went wrong; sixty frames of the runtime below it say nothing more.
fn quiet_errors(command: &mut Command) -> &mut Command {
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        command.env("RUST_LIB_BACKTRACE", "0");
    }
    command
}
