//! The last step of `cargo xtask test`: what all controllers of the tests asked, by the audit logs of their API servers,
//! against what the chart grants.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use e2e::permissions::{Grant, nothing_beyond, nothing_unused};
use serde_json::Value;

#[derive(Parser)]
#[command(about = "Compares what controllers asked of API servers with what the chart grants")]
struct Arguments {
    /// Where the tests have left what was asked.
    folder: PathBuf,
    /// All tests ran, so that what nobody asked is not needed.
    #[arg(long)]
    whole: bool,
}

fn main() -> Result<()> {
    let Arguments { folder, whole } = Arguments::parse();
    let file = testbed::workspace().join("charts/aiquota/permissions.yaml");
    let granted: Value = serde_yaml::from_str(&fs::read_to_string(&file)?)?;
    let context = || format!("{}: made of crates/controller/src/permissions.rs", file.display());
    let mut grants = Grant::of(&granted["cluster"], None).with_context(context)?;
    grants.extend(Grant::of(&granted["gateway"], Some(testbed::GATEWAY)).with_context(context)?);
    let asked = testbed::left(&folder)?;
    nothing_beyond(&asked, &grants).with_context(context)?;
    if whole {
        ensure!(asked.len() > 50, "hardly anything was asked: {asked:#?}");
        nothing_unused(&asked, &grants, testbed::GATEWAY).with_context(context)?;
    }
    println!("{} requests that differ, {} grants", asked.len(), grants.len());
    Ok(())
}
