//! kubectl and helm, run as users run them.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt as _;

use crate::api_server::ApiServer;
use crate::components::Component;

/// Runs kubectl against the API server and returns what it printed.
///
/// # Errors
/// When kubectl cannot be run or fails; its own words are in the error.
pub async fn kubectl<S: AsRef<OsStr> + Send + Sync>(api: &ApiServer, arguments: &[S]) -> Result<String> {
    run(Component::Kubectl, api.kubeconfig(), arguments, None).await
}

/// [`kubectl`] with a text on its standard input, for `-f -`.
///
/// # Errors
/// As [`kubectl`].
pub async fn kubectl_with_input<S: AsRef<OsStr> + Send + Sync>(
    api: &ApiServer,
    arguments: &[S],
    input: &str,
) -> Result<String> {
    run(Component::Kubectl, api.kubeconfig(), arguments, Some(input)).await
}

/// Runs helm against the API server, or where there is none without one, and returns what it printed.
///
/// # Errors
/// When helm cannot be run or fails; its own words are in the error.
pub async fn helm<S: AsRef<OsStr> + Send + Sync>(api: Option<&ApiServer>, arguments: &[S]) -> Result<String> {
    run(Component::Helm, api.map_or(Path::new("/dev/null"), ApiServer::kubeconfig), arguments, None).await
}

async fn run<S: AsRef<OsStr> + Send + Sync>(
    component: Component,
    kubeconfig: &Path,
    arguments: &[S],
    input: Option<&str>,
) -> Result<String> {
    let program = tokio::task::spawn_blocking(move || component.locate()).await??;
    // Both keep what a server said that it serves, by its port, which may be another server's today.
    let cache = tempfile::Builder::new().prefix("aiquota-kube-cache-").tempdir()?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("KUBECACHEDIR", cache.path())
        .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|home| (home, cache.path())))
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).await.with_context(|| format!("{} closed its input", component.name()))?;
    }
    let output = child.wait_with_output().await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{}: {}\n{}{printed}",
        component.name(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}
