//! `cargo xtask bench`: builds the benchmark programs optimised and runs them.

use anyhow::Result;

use crate::modules;
use crate::run::{cargo, step};

pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    modules::modules()?;
    let mut scanner = cargo(["bench", "--package", "aiquota-enforcement", "--bench", "scanner"]);
    step("usage scanner", &mut scanner)?;
    let mut bench = cargo(["run", "--release", "--package", "aiquota-e2e", "--bin", "bench", "--"]);
    step("rules, module and Redis", bench.args(arguments))
}
