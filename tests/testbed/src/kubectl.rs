//! kubectl, run as users run it.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::api_server::ApiServer;
use crate::components::Component;

/// Runs kubectl against the API server and returns what it printed.
///
/// # Errors
/// When kubectl cannot be run or fails; its own words are in the error.
pub async fn kubectl<S: AsRef<OsStr> + Send + Sync>(api: &ApiServer, arguments: &[S]) -> Result<String> {
    run(api.kubeconfig(), arguments, None).await
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
    run(api.kubeconfig(), arguments, Some(input)).await
}

async fn run<S: AsRef<OsStr> + Send + Sync>(kubeconfig: &Path, arguments: &[S], input: Option<&str>) -> Result<String> {
    use std::process::Stdio;
    use tokio::io::AsyncWriteExt as _;

    let program = tokio::task::spawn_blocking(|| Component::Kubectl.locate()).await??;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).await.context("kubectl closed its input")?;
    }
    let output = child.wait_with_output().await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "kubectl: {}\n{}{printed}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}
