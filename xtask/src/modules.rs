//! `cargo xtask modules`: the wasm modules, built as they are shipped, with their sizes and imports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};

use crate::run::{cargo, find, program, root, say_done, say_heading, step, target};
use crate::wasm;

/// The package of each module, and the name of its file.
pub(crate) const MODULES: [(&str, &str); 2] =
    [("aiquota-ai-quota", "ai-quota"), ("aiquota-ai-token-ratelimit", "ai-token-ratelimit")];
pub(crate) const TARGET: &str = "wasm32-wasip1";

/// A module is pulled by every gateway and compiled in every worker: it stays small.
const MAX_BYTES: usize = 500_000;

pub(crate) fn modules() -> Result<()> {
    ensure_target()?;
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_width(100);
    table.set_header(["module", "bytes", "imports"]);
    let mut too_big = Vec::new();
    for (package, name) in MODULES {
        step(&format!("module {name}"), &mut build(package))?;
        let bytes = keep(name)?;
        table.add_row([name.to_owned(), bytes.len().to_string(), summary(&wasm::imports(&bytes)?)]);
        if bytes.len() > MAX_BYTES {
            too_big.push(format!("{name} has {} bytes, {MAX_BYTES} are allowed", bytes.len()));
        }
    }
    println!("{table}");
    if !too_big.is_empty() {
        bail!("{}", too_big.join("; "));
    }
    let folder = folder();
    let shown = folder.strip_prefix(root()).unwrap_or(&folder);
    say_done(&format!("modules in {}, none above {MAX_BYTES} bytes", shown.display()));
    Ok(())
}

/// What builds a module.
pub(crate) fn build(package: &str) -> Command {
    cargo(["build", "--package", package, "--target", TARGET, "--profile", "modules"])
}

/// Puts a built module where it is looked for, and returns it.
pub(crate) fn keep(name: &str) -> Result<Vec<u8>> {
    let built = target().join(TARGET).join("modules").join(name.replace('-', "_")).with_extension("wasm");
    let bytes = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    std::fs::create_dir_all(folder())?;
    // Whoever reads it meanwhile has the old module or the new one, whole.
    let (kept, new) = (folder().join(name).with_extension("wasm"), folder().join(name).with_extension("wasm.new"));
    std::fs::write(&new, &bytes)?;
    std::fs::rename(&new, &kept)?;
    Ok(bytes)
}

/// Installs the wasm target for the pinned toolchain, where there is a rustup to do so.
pub(crate) fn ensure_target() -> Result<()> {
    let printed = crate::run::output(&mut program("rustc", ["--print", "target-libdir", "--target", TARGET]))?;
    if Path::new(String::from_utf8_lossy(&printed).trim()).is_dir() {
        return Ok(());
    }
    say_heading(&format!("the target {TARGET} is missing"));
    if find("rustup").is_none() {
        bail!("install the standard library of {TARGET} for {}", toolchain());
    }
    step("installing it", &mut program("rustup", ["target", "add", TARGET]))
}

fn folder() -> PathBuf {
    target().join("modules")
}

fn toolchain() -> String {
    let printed = crate::run::output(&mut program("rustc", ["--version"])).unwrap_or_default();
    String::from_utf8_lossy(&printed).trim().to_owned()
}

/// Imports by their module: `env: 12 (proxy_log, ...)`.
fn summary(imports: &[(String, String)]) -> String {
    let mut by_module: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (module, name) in imports {
        by_module.entry(module).or_default().push(name.strip_prefix("proxy_").unwrap_or(name));
    }
    let lines = by_module.iter().map(|(module, names)| format!("{module}: {} ({})", names.len(), names.join(", ")));
    lines.collect::<Vec<_>>().join("\n")
}
