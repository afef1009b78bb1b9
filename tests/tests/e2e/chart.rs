//! The charts as their users have them: values that are refused, what is rendered, releases on a real API server, and
//! the controller as the service account of the chart.

mod life;
mod monitoring;
mod permissions;
mod pod;
mod release;
mod story;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kube::api::ListParams;
use serde_json::Value;
use tempfile::TempDir;
use testbed::{ApiServer, eventually, helm, workspace};

use crate::stage::NAMESPACE;

const OURS: &str = "quota.higress.io/v1alpha1";
const RELEASE: &str = "aiquota";
/// Where the controller is.
const HOME: &str = "aiquota-system";

/// Waits until the kinds of the charts are served: helm does not.
async fn served(api: &ApiServer) -> Result<()> {
    eventually("our kinds are served", async || {
        for kind in ["AIQuota", "AITokenRateLimit", "AIQuotaStore"] {
            api.objects(OURS, kind, NAMESPACE).await?.list(&ListParams::default()).await?;
        }
        Ok(())
    })
    .await
}

/// A copy of `charts/`, as in a clone, with the dependencies built.
struct Charts {
    folder: TempDir,
}

impl Charts {
    async fn copied() -> Result<Self> {
        let charts = Self { folder: tempfile::Builder::new().prefix("aiquota-charts-").tempdir()? };
        copy(&workspace().join("charts"), charts.folder.path())?;
        charts.build().await?;
        Ok(charts)
    }

    /// What anybody does who has changed the definitions.
    async fn build(&self) -> Result<()> {
        helm(None, &["dependency", "build", &self.main()]).await.map(drop)
    }

    fn main(&self) -> String {
        self.path("aiquota").display().to_string()
    }

    fn definitions(&self) -> String {
        self.path("aiquota-crds").display().to_string()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// What is rendered with these values, each `path=<JSON>`, without a cluster.
    async fn render(&self, values: &[&str]) -> Result<Vec<Value>> {
        self.render_for(values, &[]).await
    }

    /// [`Self::render`] with more arguments.
    async fn render_for(&self, values: &[&str], more: &[&str]) -> Result<Vec<Value>> {
        let main = self.main();
        let mut arguments = vec!["template", RELEASE, &main, "--namespace", HOME];
        arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
        arguments.extend(more);
        let documents: Vec<Value> = serde_yaml::from_multiple(&helm(None, &arguments).await?)?;
        Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
    }

    /// Installs or upgrades the release `aiquota`.
    async fn release(&self, api: &ApiServer, verb: &str, values: &[&str]) -> Result<String> {
        let main = self.main();
        let mut arguments = vec![verb, RELEASE, &main, "--namespace", HOME];
        if verb == "install" {
            arguments.push("--create-namespace");
        }
        arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
        helm(Some(api), &arguments).await
    }
}

/// Without what helm has built in a clone.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() && entry.file_name() != "charts" {
            fs::create_dir_all(&to)?;
            copy(&path, &to)?;
        } else if path.is_file() && entry.file_name() != "Chart.lock" {
            fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// The one rendered object of a kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.with_context(|| format!("no {kind} {name} is rendered"))
}

/// The arguments of the controller in its Deployment.
fn arguments(deployment: &Value) -> Result<Vec<String>> {
    let arguments = deployment.pointer("/spec/template/spec/containers/0/args").context("no arguments")?;
    Ok(serde_json::from_value(arguments.clone())?)
}
