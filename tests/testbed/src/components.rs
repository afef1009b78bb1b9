//! The Kubernetes API server, etcd and kubectl as files to run: prebuilt ones, else built once by the Go toolchain from
//! `tests/testbed/components` and kept by version in the cache folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::paths::workspace;
use crate::process::find;

/// Their versions stand there, and nowhere else.
const GO_MOD: &str = include_str!("../components/go.mod");

/// The folder for what is built once and kept: `$AIQUOTA_CACHE`, else `aiquota` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("AIQUOTA_CACHE") {
        return folder.into();
    }
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    caches.unwrap_or_else(std::env::temp_dir).join("aiquota")
}

/// A program of a Go module that `tests/testbed/components` requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    KubeApiserver,
    Etcd,
    Kubectl,
}

impl Component {
    /// The program's file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::Etcd => "etcd",
            Self::Kubectl => "kubectl",
        }
    }

    /// The version that is built, without `v`.
    pub fn version(self) -> &'static str {
        let module = match self {
            Self::KubeApiserver | Self::Kubectl => "k8s.io/kubernetes v",
            Self::Etcd => "go.etcd.io/etcd/server/v3 v",
        };
        GO_MOD.lines().find_map(|line| line.trim().strip_prefix(module)).unwrap_or("unknown")
    }

    /// The program: from `$KUBEBUILDER_ASSETS`, or (kubectl) the `PATH`, or the cache; else built now, which takes
    /// minutes. Blocks; two processes that need the same one build it once.
    ///
    /// # Errors
    /// When it must be built and cannot be.
    pub fn locate(self) -> Result<PathBuf> {
        if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
            let file = PathBuf::from(folder).join(self.name());
            if file.is_file() {
                return Ok(file);
            }
        }
        if self == Self::Kubectl
            && let Some(file) = find(self.name())
        {
            return Ok(file);
        }
        let cache = cache_dir();
        let built = cache.join(format!("{}-{}", self.name(), self.version()));
        if built.is_file() {
            return Ok(built);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
        let lock = File::create(cache.join(format!("{}.lock", self.name())))?;
        lock.lock()?;
        if !built.is_file() {
            self.build(&cache, &built)?;
        }
        Ok(built)
    }

    /// Builds into a file beside `to` and renames it: `to` is whole or absent.
    fn build(self, cache: &Path, to: &Path) -> Result<()> {
        let go = find("go").with_context(|| {
            format!(
                "{} must be built, but there is no Go toolchain on the PATH: install Go 1.24 or newer \
                 (https://go.dev/dl), or set KUBEBUILDER_ASSETS to a folder with prebuilt kube-apiserver and etcd",
                self.name()
            )
        })?;
        // Straight to the terminal: the test harness would keep a println back while somebody waits for minutes.
        writeln!(std::io::stderr(), "building {} {} once, some minutes ...", self.name(), self.version())?;
        let version = self.version();
        let minor = version.split('.').nth(1).unwrap_or_default();
        let package = "k8s.io/component-base/version";
        let stamps =
            format!("-s -w -X {package}.gitVersion=v{version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor}");
        let fresh = tempfile::Builder::new().prefix(&format!(".{}-", self.name())).tempdir_in(cache)?;
        let file = fresh.path().join(self.name());
        let status = Command::new(go)
            .args(["build", "-trimpath", "-ldflags", &stamps, "-o"])
            .arg(&file)
            .arg(format!("./{}", self.name()))
            .current_dir(workspace().join("tests/testbed/components"))
            .env("CGO_ENABLED", "0")
            .status()?;
        ensure!(status.success(), "building {} failed ({status}); Go's own words are above", self.name());
        fs::rename(&file, to).with_context(|| format!("cannot put {} into the cache", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_go_mod() {
        for component in [Component::KubeApiserver, Component::Etcd, Component::Kubectl] {
            assert!(component.version().starts_with(|first: char| first.is_ascii_digit()), "{component:?}");
        }
    }
}
