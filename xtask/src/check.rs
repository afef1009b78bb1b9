//! `cargo xtask check`: everything a change must satisfy besides its tests.

use std::path::PathBuf;

use anyhow::Result;

use crate::modules::{MODULES, TARGET, ensure_target};
use crate::run::{cache, cargo, find, output, program, say_warning, step};
use crate::{generate, purity};

const CARGO_DENY: &str = "0.20.2";

/// What is compiled into the modules besides themselves.
const BELOW_MODULES: [&str; 3] = ["aiquota-enforcement", "aiquota-guest-abi", "aiquota-module"];

pub(crate) fn check() -> Result<()> {
    step("format", &mut cargo(["fmt", "--all", "--check"]))?;
    ensure_target()?;
    step("lints", &mut cargo(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    let mut wasm = cargo(["clippy", "--target", TARGET]);
    for package in MODULES.iter().map(|(package, _)| *package).chain(BELOW_MODULES) {
        wasm.args(["--package", package]);
    }
    step("lints of the modules", wasm.args(["--", "--deny", "warnings"]))?;
    generate::generate(true)?;
    purity::check()?;
    deny()
}

/// Bans, licences, sources and, where the advisory database can be had, advisories.
fn deny() -> Result<()> {
    let cargo_deny = cargo_deny()?;
    let mut checks = vec!["advisories", "bans", "licenses", "sources"];
    let fetched = program(&cargo_deny, ["--log-level", "off", "fetch", "db"]).output();
    if !fetched.is_ok_and(|output| output.status.success()) {
        say_warning("the advisory database cannot be fetched from here: advisories are not checked");
        checks.remove(0);
    }
    step("dependencies", program(&cargo_deny, ["check", "--hide-inclusion-graph"]).args(checks))
}

/// The pinned cargo-deny: the installed one, else built into the cache, which takes minutes once.
fn cargo_deny() -> Result<PathBuf> {
    let folder = cache().join(format!("cargo-deny-{CARGO_DENY}"));
    let kept = folder.join("bin/cargo-deny");
    for candidate in find("cargo-deny").into_iter().chain([kept.clone()]).filter(|file| file.is_file()) {
        let version = output(&mut program(&candidate, ["--version"]))?;
        if String::from_utf8_lossy(&version).trim().ends_with(CARGO_DENY) {
            return Ok(candidate);
        }
    }
    let package = format!("cargo-deny@{CARGO_DENY}");
    let mut install = cargo(["install", "--locked", "--root"]);
    step("building cargo-deny once, some minutes", install.arg(&folder).arg(package))?;
    Ok(kept)
}
