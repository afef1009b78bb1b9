//! `cargo xtask test`: what the tests run on is built first, then all tests run, then what their controllers asked of API
//! servers is compared with what the chart grants.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::modules;
use crate::run::{cargo, program, say_done, say_heading, step, target, time};

pub(crate) fn test(arguments: &[String]) -> Result<()> {
    let begun = Instant::now();
    build()?;
    let asked = target().join("asked");
    clear(&asked)?;
    let mut tests = cargo(["test", "--workspace"]);
    step("tests", quiet_errors(tests.args(arguments)).env("AIQUOTA_ASKED", &asked))?;
    let mut permissions = program(built("permissions"), [&asked]);
    if arguments.is_empty() {
        // Some tests alone need not ask for all that is granted.
        permissions.arg("--whole");
    }
    step("permissions", &mut permissions)?;
    say_heading("everything passed");
    say_done(&time(begun.elapsed()));
    Ok(())
}

/// An empty folder, whatever was there.
fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context(format!("{}", folder.display()));
        }
        _ => {}
    }
    Ok(fs::create_dir_all(folder)?)
}

/// What tests and demo start: modules, controller, API server, etcd, kubectl.
fn build() -> Result<()> {
    modules::modules()?;
    step("programs", &mut programs())?;
    step("components", &mut program(built("components"), [] as [&str; 0]))
}

/// Builds every program. The whole workspace at once, also where one program is wanted: Cargo compiles a library anew
/// for each set of features that its users ask for, and this is the set that the tests have.
pub(crate) fn programs() -> Command {
    cargo(["build", "--workspace", "--exclude", "xtask", "--bins"])
}

/// A program that [`programs`] has built.
pub(crate) fn built(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// A failing test says what went wrong; sixty frames of the runtime below it say nothing more.
fn quiet_errors(command: &mut Command) -> &mut Command {
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        command.env("RUST_LIB_BACKTRACE", "0");
    }
    command
}
