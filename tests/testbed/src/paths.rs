//! Where the things under test lie: the workspace, the built modules, the built `aiquota` binary.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR"));
    testbed.ancestors().nth(2).unwrap_or(testbed)
}

/// The built module `target/modules/<name>.wasm`.
///
/// # Errors
/// When it has not been built.
pub fn module(name: &str) -> Result<PathBuf> {
    let path = target().join("modules").join(name).with_extension("wasm");
    ensure!(path.is_file(), "there is no {}: run `cargo xtask modules`", path.display());
    Ok(path)
}

/// The built controller: `$AIQUOTA_BIN`, else `aiquota` beside the running test or program's own profile folder.
///
/// # Errors
/// When it has not been built.
pub fn controller_binary() -> Result<PathBuf> {
    let path = match std::env::var_os("AIQUOTA_BIN") {
        Some(path) => PathBuf::from(path),
        None => target().join("debug/aiquota"),
    };
    ensure!(path.is_file(), "there is no {}: run `cargo build -p aiquota`, or set AIQUOTA_BIN", path.display());
    Ok(path)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |path| workspace().join(path))
}
