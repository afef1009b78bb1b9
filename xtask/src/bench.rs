//! `cargo xtask bench`: builds the benchmark programs optimised and runs them.

use std::path::PathBuf;

use anyhow::Result;

use crate::modules;
use crate::run::{cargo, program, step, target};

/// Usage scanner, modules and Redis scripts.
pub(crate) fn bench() -> Result<()> {
    modules::modules()?;
    let mut scanner = cargo(["bench", "--package", "aiquota-enforcement", "--bench", "scanner"]);
    step("usage scanner", &mut scanner)?;
    build()?;
    step("rules, module and Redis", &mut program(optimised("bench"), [] as [&str; 0]))
}

/// What happens when the store fails under load.
pub(crate) fn faults() -> Result<()> {
    modules::modules()?;
    build()?;
    step("faults of the store", &mut program(optimised("bench"), ["--faults"]))
}

/// The control plane with so many objects, on a real API server and Redis.
pub(crate) fn scale(objects: usize, edits: usize) -> Result<()> {
    build()?;
    let (objects, edits) = (format!("--objects={objects}"), format!("--edits={edits}"));
    let mut bench = program(optimised("bench"), ["--scale", &objects, &edits]);
    step("the control plane at scale", bench.env("AIQUOTA_BIN", optimised("aiquota")))
}

/// The controller too, in the same build: both use the same libraries.
fn build() -> Result<()> {
    let packages = ["--package", "aiquota", "--package", "aiquota-e2e"];
    step("programs, optimised", cargo(["build", "--release", "--bins"]).args(packages))
}

fn optimised(name: &str) -> PathBuf {
    target().join("release").join(name)
}
