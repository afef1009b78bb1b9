//! `cargo xtask bench`: builds the benchmark program optimised and runs it.

use anyhow::Result;

use crate::modules;
use crate::run::{cargo, step};

pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    modules::modules()?;
    let mut bench = cargo(["run", "--release", "--package", "aiquota-e2e", "--bin", "bench", "--"]);
    step("benchmarks", bench.args(arguments))
}
