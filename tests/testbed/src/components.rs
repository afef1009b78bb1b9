//! The Kubernetes API server, etcd, kubectl and helm as files to run: prebuilt ones, else built once by the Go toolchain
//! from `tests/testbed/components` and kept by version in the cache folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::paths::workspace;
use crate::process::find;

/// Their versions stand there, and nowhere else.
const GO_MOD: &str = include_str!("../components/go.mod");
/// Helm needs other versions of the same libraries.
const HELM_GO_MOD: &str = include_str!("../components/helm/go.mod");

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
    Helm,
}

impl Component {
    pub const ALL: [Self; 4] = [Self::KubeApiserver, Self::Etcd, Self::Kubectl, Self::Helm];

    /// The program's file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::Etcd => "etcd",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
        }
    }

    /// The version that is built, without `v`.
    pub fn version(self) -> &'static str {
        let (file, module) = match self {
            Self::KubeApiserver | Self::Kubectl => (GO_MOD, "k8s.io/kubernetes v"),
            Self::Etcd => (GO_MOD, "go.etcd.io/etcd/server/v3 v"),
            Self::Helm => (HELM_GO_MOD, "helm.sh/helm/v3 v"),
        };
        let version = file.lines().find_map(|line| line.trim().strip_prefix(module)).unwrap_or("unknown");
        // What only a tool needs is marked as indirect.
        version.split(' ').next().unwrap_or(version)
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
                 (https://go.dev/dl), or set KUBEBUILDER_ASSETS to a folder with prebuilt kube-apiserver, etcd and helm",
                self.name()
            )
        })?;
        // Straight to the terminal: the test harness would keep a println back while somebody waits for minutes.
        writeln!(std::io::stderr(), "building {} {} once, some minutes ...", self.name(), self.version())?;
        let folder = workspace().join("tests/testbed/components");
        let (folder, package) = match self {
            Self::Helm => (folder.join("helm"), "helm.sh/helm/v3/cmd/helm".to_owned()),
            Self::KubeApiserver | Self::Etcd | Self::Kubectl => (folder, format!("./{}", self.name())),
        };
        let fresh = tempfile::Builder::new().prefix(&format!(".{}-", self.name())).tempdir_in(cache)?;
        let file = fresh.path().join(self.name());
        let status = Command::new(go)
            .args(["build", "-trimpath", "-ldflags", &self.stamps(), "-o"])
            .arg(&file)
            .arg(package)
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .status()?;
        ensure!(status.success(), "building {} failed ({status}); Go's own words are above", self.name());
        fs::rename(&file, to).with_context(|| format!("cannot put {} into the cache", self.name()))
    }

    /// What its own release build tells it about itself.
    fn stamps(self) -> String {
        let version = self.version();
        let mut stamps = "-s -w".to_owned();
        let mut stamp = |name: &str, value: &str| stamps.extend([" -X ", name, "=", value]);
        if self == Self::Helm {
            stamp("helm.sh/helm/v3/internal/version.version", &format!("v{version}"));
            let kubernetes = Self::KubeApiserver.version();
            for package in ["pkg/lint/rules", "pkg/chartutil"] {
                stamp(&format!("helm.sh/helm/v3/{package}.k8sVersionMajor"), "1");
                stamp(&format!("helm.sh/helm/v3/{package}.k8sVersionMinor"), minor(kubernetes));
            }
        } else {
            let package = "k8s.io/component-base/version";
            stamp(&format!("{package}.gitVersion"), &format!("v{version}"));
            stamp(&format!("{package}.gitMajor"), "1");
            stamp(&format!("{package}.gitMinor"), minor(version));
        }
        stamps
    }
}

fn minor(version: &str) -> &str {
    version.split('.').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_go_mod() {
        for component in Component::ALL {
            assert!(component.version().chars().all(|one| one.is_ascii_digit() || one == '.'), "{component:?}");
        }
    }
}
